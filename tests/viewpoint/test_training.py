"""Training viewpoint classifiers by the ordinary loop: photos in Pix3D's layout, CAD models, going on, schedules."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import weights
from monopose.datasets import pix3d
from monopose.synthesis import bop_folder, pix3d_folder
from monopose.synthesis.shapes import furniture
from monopose.training.loop import TrainConfig
from monopose.viewpoint import model, normals, samples, training

FEW = TrainConfig(steps=3, batch_size=4, workers=0, checkpoint_minutes=1e6)
SMALL = replace(model.combined(("chair", "sofa"), "mask", 58), widths=(4, 4, 4, 4), hidden=8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    models = {c: [furniture.shape(c, seed) for seed in range(2)] for c in ("chair", "sofa")}
    return pix3d_folder.write_pix3d(tmp_path_factory.mktemp("photos") / "set", models, images=5, size=(60, 80), workers=0)


def run(data, out, config=FEW, **more):
    return training.train(data, out, config=config, progress_bar=False, **{"method_config": SMALL, **more})


def rates(monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        seen.append((self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    return seen


def test_photos_in_the_layout_of_pix3d_train_a_network_that_loads(photos, tmp_path):
    file = run(photos, tmp_path)
    network = weights.load_network(file, "viewpoint", model.Config, model.Model)
    assert network.config == SMALL
    assert not network.training
    assert weights.read(file).notes["steps"] == "3"
    found = model.predict(network, torch.rand(2, 4, 58, 58))
    assert found.angles.shape == (2, 3)
    assert list(tmp_path.glob("crops_*.bin"))


def test_a_run_goes_on_and_refuses_another_configuration(photos, tmp_path):
    run(photos, tmp_path)
    assert weights.read(run(photos, tmp_path, replace(FEW, steps=5))).notes["steps"] == "5"
    with pytest.raises(ValueError, match="another configuration"):
        run(photos, tmp_path, method_config=replace(SMALL, hidden=4))


def test_epochs_are_passes_over_the_photos_that_are_kept(photos, tmp_path):
    kept, left = pix3d.split(pix3d.read(photos), "shape", 0, 0.1)
    assert len(kept) == 10
    assert not {r.shape for r in kept} & {r.shape for r in left}
    file = run(photos, tmp_path, by="shape", epochs=2)
    assert weights.read(file).notes["steps"] == "5"  # 20 samples in batches of 4


def test_the_published_schedule_steps_and_does_not_decay(photos, tmp_path, monkeypatch):
    seen = rates(monkeypatch)
    run(photos, tmp_path, replace(FEW, steps=10), method_config=replace(SMALL, epochs=5, step_epochs=2))
    assert [round(lr / 1e-5, 6) for lr, _ in seen] == [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert {decay for _, decay in seen} == {0.0}


def test_cad_models_alone_train_it(tmp_path):
    models = [replace(furniture.shape(c, 0), obj_id=i) for i, c in enumerate(("chair", "desk"), 1)]
    data = bop_folder.write_bop(models, tmp_path / "data", images=1, workers=0)
    config = training.make_config(data, "combined", changes={"input_size": 58, "widths": [4, 4, 4, 4], "inputs": "rgb"})
    assert len(config.categories) == 2
    assert weights.read(run(data, tmp_path / "run", method_config=config)).notes["steps"] == "3"


def test_data_that_is_not_there_says_what_would_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pix3d\.json.*models/.*furniture"):
        training.make_config(tmp_path / "nowhere")


def test_options_that_the_data_cannot_heed_are_refused(photos, tmp_path):
    for data, given, message in (
        (photos, {"backgrounds": tmp_path}, "--backgrounds belongs to CAD models that are drawn"),
        ("furniture", {"by": "shape"}, "--by belongs to photos"),
        ("furniture", {"normals": "files"}, "--normals belongs to photos"),
        ("furniture", {"epochs": 2.0}, "--epochs belongs to photos"),
    ):
        with pytest.raises(ValueError, match=message):
            training.train(data, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_presets_and_fields_are_named_in_errors(photos):
    assert training.make_config(photos, "modern", changes={"input_size": 64}).input_size == 64
    with pytest.raises(ValueError, match="modern, combined, separate"):
        training.make_config(photos, "nothing")
    with pytest.raises(ValueError, match="nothing"):
        training.make_config(photos, None, changes={"nothing": 1})


@pytest.mark.slow
@pytest.mark.parametrize("source", ["photos", "models"])
def test_normals_are_learned_and_then_predicted_for_photos(photos, tmp_path, source):
    small = replace(normals.Config(), pretrained=False, input_size=32, widths=(8, 8, 8, 8))
    data = photos
    if source == "models":
        models = [replace(furniture.shape(c, 0), obj_id=i) for i, c in enumerate(("chair", "desk"), 1)]
        data = bop_folder.write_bop(models, tmp_path / "data", images=1, workers=0)
    file = training.train_normals(data, tmp_path / "run", config=FEW, method_config=small, progress_bar=False)
    assert weights.read(file).method == "normals"
    found = run(photos, tmp_path / "viewpoints", normals=str(tmp_path / "run"), method_config=replace(SMALL, inputs="normals"))
    assert weights.read(found).notes["data"].count(str(tmp_path / "run")) == 1


def test_crops_with_their_tables_are_learned_from(tmp_path):
    """The layout of the published experiment: crops of 224 pixels, masks, and what its networks said of normals and edges."""
    head = (
        "resized_crop_source,model_source,truncated,occluded,slightly_occluded,image_path,cat_id,example_id,model_name,"
        "azimuth,elevation,inplane_rotation\n"
    )
    rng = np.random.default_rng(0)
    for category, count in (("chair", 12), ("sofa", 11)):
        lines = ""
        for n in range(count):
            ending = "jpeg" if n == 1 else "png"
            lines += f"ikea,ikea,False,{n == 2},False,crop/{category}/{n:04d}.{ending},{category},X,model,{30 * n},10,0.1\n"
            for folder in ("crop", "crop_mask", "normal", "boundries"):
                path = tmp_path / "data" / folder / category / f"{n:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                values = rng.integers(0, 255, (224, 224, 3), np.uint8) if folder != "crop_mask" else np.full((224, 224), 255)
                Image.fromarray(values.astype(np.uint8)).save(path)
        (tmp_path / "data" / f"{category}_annotation.txt").write_text(head + lines)
    records = pix3d.read(tmp_path / "data", ["chair"])
    assert [r.name for r in records[:2]] == ["chair/0000", "chair/0001"]
    torch.testing.assert_close(records[3].angles.rad2deg()[:2], torch.tensor([90.0, 10.0], dtype=torch.float64))
    assert len(pix3d.read(tmp_path / "data", ["chair"], whole_only=True)) == 11
    crops = samples.PhotoCrops(records, 224, normals="files", edges="files")
    for folder, channel in (("crop", samples.RGB), ("normal", samples.NORMALS), ("boundries", samples.BOUNDARIES)):
        stored = np.asarray(Image.open(tmp_path / "data" / folder / "chair/0003.png"), np.float32) / 255  # cut nowhere
        wanted = stored.mean(-1) if folder == "boundries" else stored.transpose(2, 0, 1)
        got = crops[3]["image"][channel].numpy()
        if folder != "normal":  # of unit length
            np.testing.assert_allclose(got, wanted, atol=0.02)
        else:
            assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.9
    assert bool((crops[3]["image"][samples.MASK] == 1).all())
    small = replace(model.combined(("chair", "sofa"), "normals", 58), widths=(4, 4, 4, 4), hidden=8)
    file = run(tmp_path / "data", tmp_path / "run", method_config=small, normals="files")
    assert weights.read(file).method == "viewpoint"
    with pytest.raises(FileNotFoundError, match="give --normals files or none"):
        run(tmp_path / "data", tmp_path / "other", method_config=small)
    (tmp_path / "data/crop/chair/0000.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no crop crop/chair/0000\.png"):
        pix3d.read(tmp_path / "data")
