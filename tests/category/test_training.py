"""Training the generator of a category by the ordinary loop, and fitting with what it wrote."""

from dataclasses import replace

import pytest
import torch

from monopose import weights
from monopose.category import model, samples, training, view
from monopose.training.loop import TrainConfig

FEW = TrainConfig(steps=2, batch_size=2, workers=0, checkpoint_minutes=1e6)


def tiny(name="mug"):
    config = training.make_config(
        training.made_shapes(name, 9), "small", {"volume": [6, 5, 4], "projection": 8, "decoder": [6, 4]}
    )
    return replace(config, encoder=(4, 4, 6, 6), hidden=6, shape_code=3, look_code=2)


def run(out, config=FEW, **more):
    given = {"method_config": tiny(), **more}
    return training.train(training.made_shapes("mug", 2), out, config=config, progress_bar=False, **given)


def test_a_run_writes_a_network_that_loads_and_goes_on(tmp_path):
    file = run(tmp_path)
    network = weights.load_network(file, "category", model.Config, model.Model)
    assert network.config == tiny()
    assert weights.read(file).notes["features"] == "none"
    shown = network.synthesise(torch.zeros(1, 5), torch.zeros(1, 2))
    assert shown.image.shape == (1, 3, 64, 64)
    assert torch.isfinite(shown.image).all()
    assert weights.read(run(tmp_path, replace(FEW, steps=3))).notes["steps"] == "3"
    with pytest.raises(ValueError, match="another configuration"):
        run(tmp_path, method_config=replace(tiny(), hidden=4))


def test_sizes_are_measured():
    models = [samples.instance("can", i) for i in range(6)]
    mean, spread = training.sizes(models)
    measured = [view.size_of(m) for m in models]
    assert min(measured) < mean < max(measured)
    assert 0 < spread < 1
    cans = training.made_shapes("can")
    config = training.make_config(cans)
    assert config.symmetric
    assert 0.05 < config.size_mean < 0.4
    assert training.make_config(cans, None, {"size_mean": 0.0}).size_mean == 0


def test_what_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="choose one of bottle, bowl, can, mug"):
        training.made_shapes("sofa")
    with pytest.raises(ValueError, match="standard, large, small, tiny, published"):
        training.make_config(training.made_shapes("mug"), "huge")
    with pytest.raises(ValueError, match="is for mug, and the shapes are of can"):
        training.train(training.made_shapes("can"), tmp_path, method_config=tiny(), config=FEW)
    with pytest.raises(ValueError, match="at least one instance"):
        training.made_shapes("mug", 0)
