"""What a training starts from: the base, another run, or nothing; and which rows a new object gets."""

import importlib.util
from dataclasses import replace

import pytest
import torch

from conftest import ROOT
from monopose import weights
from monopose.datasets.bop.writing import write_models
from monopose.detection import detector
from monopose.objects import coordinates, pipeline, probabilistic, refiner, training
from monopose.training import warm_start
from monopose.training.loop import TrainConfig
from shapes import box

SMALL = {"pretrained": False, "input_size": 64, "output_size": 32, "widths": (16, 16, 16, 16)}
OBJECTS = {i: box(obj_id=i) for i in (1, 2, 3)}
FEW = TrainConfig(steps=1, batch_size=2, workers=0, checkpoint_minutes=1e6)


def stored(path, model, labels, method="coordinates"):
    return weights.save(path, model.state_dict(), method=method, config=model.config, labels=labels)


def started(model, file):
    warm_start.start_from(model, file)
    return dict(model.named_parameters())


@pytest.fixture(scope="module")
def base_tool():
    path = ROOT / "tools/make_base_weights.py"
    spec = importlib.util.spec_from_file_location("make_base_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_known_objects_keep_their_rows_and_new_ones_start_as_the_mean(tmp_path):
    torch.manual_seed(0)
    source = coordinates.Model(coordinates.Config((1, 2), **SMALL), OBJECTS)
    file = stored(tmp_path / "a.safetensors", source, (1, 2))
    model = coordinates.Model(coordinates.Config((2, 3), **SMALL), OBJECTS)
    own = started(model, file)
    for name in ("net.which.weight", "net.head.weight", "net.head.bias"):
        there = dict(source.named_parameters())[name]
        torch.testing.assert_close(own[name][0], there[1])
        torch.testing.assert_close(own[name][1], there.mean(0))
    torch.testing.assert_close(model.net.stages[0][0].weight, source.net.stages[0][0].weight)
    torch.testing.assert_close(model.centre, torch.stack([OBJECTS[i].bounds.mean(0) for i in (2, 3)]))


def test_detector_maps_start_as_the_mean_over_objects(tmp_path):
    settings = {"image_height": 64, "image_width": 64, "pretrained": False, "channels": 16}
    torch.manual_seed(0)
    source = detector.Model(detector.small((1, 2), **settings))
    file = stored(tmp_path / "a.safetensors", source, (1, 2), "detector")
    there = dict(source.named_parameters())
    own = started(detector.Model(detector.small((3, 1), **settings)), file)  # 1 is known
    torch.testing.assert_close(own["net.heat.bias"], torch.stack([there["net.heat.bias"].mean(), there["net.heat.bias"][0]]))
    torch.testing.assert_close(own["net.distances.bias"][4:], there["net.distances.bias"][:4])
    torch.testing.assert_close(own["net.semantic.weight"][[0, 2]], there["net.semantic.weight"][[0, 1]])
    own = started(detector.Model(detector.small((3,), **settings)), file)
    torch.testing.assert_close(own["net.heat.weight"], there["net.heat.weight"].mean(0, keepdim=True))
    distances = there["net.distances.weight"]
    torch.testing.assert_close(own["net.distances.weight"], (distances[:4] + distances[4:]) / 2)
    semantic = there["net.semantic.bias"]
    torch.testing.assert_close(own["net.semantic.bias"], torch.stack([semantic[0], semantic[1:].mean()]))
    torch.testing.assert_close(own["net.votes.weight"], there["net.votes.weight"])


def test_outputs_that_two_networks_share_start_the_same(tmp_path):
    """Coordinates have outputs, after the common ones, that a probabilistic network lacks."""
    source = coordinates.Model(coordinates.Config((1, 2), **SMALL), OBJECTS)
    file = stored(tmp_path / "a.safetensors", source, (1, 2))
    model = probabilistic.Model(probabilistic.Config((3, 2), **SMALL), OBJECTS)
    own = started(model, file)["net.head.weight"]
    there = source.net.head.weight[:, : own.shape[1]]
    assert there.shape[1] < source.net.head.weight.shape[1]
    torch.testing.assert_close(own, torch.stack([there.mean(0), there[1]]))


def test_a_network_of_another_shape_is_refused_or_left_alone(tmp_path):
    source = coordinates.Model(coordinates.Config((1,), **SMALL), OBJECTS)
    file = stored(tmp_path / "a.safetensors", source, (1,))
    model = coordinates.Model(coordinates.Config((1,), **SMALL | {"backbone": "resnet18", "widths": (24, 24, 24, 24)}), OBJECTS)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(warm_start.OtherNetwork, match="is it the same network"):
        warm_start.start_from(model, file)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    features = replace(refiner.small((1,)), pretrained=False, backbone="resnet34", surface_points=64, surface_width=16)
    with pytest.raises(warm_start.OtherNetwork, match="backbone"):
        warm_start.start_from(refiner.Model(features), file)


@pytest.mark.slow
def test_training_starts_from_the_base_if_there_is_one(tmp_path, monkeypatch, base_tool):
    data, folder = tmp_path / "data", tmp_path / "base"
    write_models(data / "models", {3: OBJECTS[3]})
    monkeypatch.setattr(weights, "BASE", folder)
    settings = coordinates.Config((3,), **SMALL)

    def run(name, **how):
        how = {"config": FEW, "method_config": settings} | how
        return weights.read(training.train("coordinates", data, tmp_path / name, progress_bar=False, **how))

    assert run("without").notes["init"] == "none"
    with pytest.raises(FileNotFoundError, match="no base weights of coordinates come with this monopose"):
        run("asked", init="base")

    torch.manual_seed(5)
    source = coordinates.Model(coordinates.Config((1, 2), **SMALL), OBJECTS)
    stored(tmp_path / "many/coordinates.safetensors", source, (1, 2))
    monkeypatch.setattr("sys.argv", ["tool", str(tmp_path / "many"), str(folder)])
    base_tool.main()
    small = weights.read(folder / "coordinates.safetensors")
    assert small.labels == ()
    torch.testing.assert_close(small.state["net.head.bias"], source.net.head.bias.mean(0, keepdim=True))
    assert "base" not in weights.bundled()

    name = "net.stages.0.0.weight"
    near = {
        how: float((run(f"from_{how}", init=how).state[name] - small.state[name]).abs().max()) for how in (None, "base", "none")
    }
    assert near[None] == near["base"] < 0.01 < near["none"]  # a step of Adam is as large as its rate
    other = replace(settings, backbone="resnet18", widths=(24, 24, 24, 24))
    assert run("other", method_config=other).notes["init"] == "none"  # the base is of another configuration
    with pytest.raises(ValueError, match="is it the same network"):
        run("b", method_config=other, init="base")
    assert run("file", init=tmp_path / "many/coordinates.safetensors").notes["init"].endswith("coordinates.safetensors")
    again = run("file", config=replace(FEW, steps=2))  # goes on, whatever is there to start from now
    assert (again.notes["steps"], again.notes["init"]) == ("2", str(tmp_path / "many/coordinates.safetensors"))


def test_a_refiner_of_no_object_starts_those_of_some(tmp_path, base_tool):
    tiny = {"pretrained": False, "surface_points": 64, "surface_width": 16}
    torch.manual_seed(0)
    source = refiner.Model(replace(refiner.small(()), **tiny))
    file = stored(tmp_path / "a.safetensors", source, (1, 2), "refiner")
    own = started(refiner.Model(replace(refiner.small((3, 4)), **tiny)), file)
    row = source.features.which.weight
    torch.testing.assert_close(own["features.which.weight"], row.expand(2, -1))
    weights.load_into(source, weights.Checkpoint("refiner", {}, (), base_tool.stripped(weights.read(file))))


def test_a_run_without_a_refiner_takes_that_of_the_base(tmp_path, monkeypatch):
    run, folder = tmp_path / "run", tmp_path / "base"
    monkeypatch.setattr(weights, "BASE", folder)
    stored(run / "coordinates.safetensors", coordinates.Model(coordinates.Config((1,), **SMALL), OBJECTS), (1,))
    write_models(run / "objects", {1: OBJECTS[1]})
    assert pipeline.load(run, "cpu").refiner is None
    with pytest.raises(ValueError, match=r"has no refiner\.safetensors"):
        pipeline.load_refiner(run, "cpu")
    with pytest.raises(FileNotFoundError, match="no base weights of a refiner come with this monopose"):
        pipeline.load_refiner("base", "cpu")

    many = replace(refiner.small(()), pretrained=False, surface_points=64, surface_width=16)
    stored(folder / "refiner.safetensors", refiner.Model(many), (), "refiner")
    opened = pipeline.load(run, "cpu")
    assert not opened.refines()  # that of the base has to be asked for
    assert opened.refines(True)
    assert pipeline.load_refiner(run, "cpu").config == pipeline.load_refiner("base", "cpu").config == many
    (run / "objects/obj_000001.ply").unlink()
    (run / "objects/models_info.json").unlink()
    (run / "objects/names.json").unlink()
    (run / "objects").rmdir()
    with pytest.raises(ValueError, match=r"no folder objects/|has no refiner"):  # nothing to render
        pipeline.load(run, "cpu").refines(True)
    with pytest.raises(FileNotFoundError, match="no trained run 'base'"):  # it has no objects of its own to look for
        pipeline.load("base", "cpu")


def test_a_refiner_of_no_object_learns_from_all_and_starts_from_coordinates(tmp_path):
    """Nothing in it belongs to single objects: it may learn of hundreds and meet others."""
    data = tmp_path / "data"
    write_models(data / "models", OBJECTS)
    torch.manual_seed(0)
    source = coordinates.Model(coordinates.Config((1, 2), **SMALL), OBJECTS)
    file = stored(tmp_path / "coordinates.safetensors", source, (1, 2))
    sizes = {"window_size": 64, "crop_size": 32, "levels": 2, "surface_points": 64, "surface_width": 16, "widths": (16, 16, 16)}
    config = replace(refiner.small(()), pretrained=False, **sizes)
    model = refiner.Model(config, OBJECTS)
    warm_start.start_from(model, file)
    torch.testing.assert_close(model.features.which.weight, source.net.which.weight.mean(0, keepdim=True))
    out = training.train("refiner", data, tmp_path / "run", init=file, config=FEW, method_config=config, progress_bar=False)
    made = weights.read(out)
    assert made.config["obj_ids"] == []
    assert made.labels == (1, 2, 3)
    assert weights.load_network(out, "refiner", refiner.Config, refiner.Model).config == config
