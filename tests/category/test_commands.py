"""Categories on the command line: masks of many kinds, boxes, results that say whether they are metric, pictures."""

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import cli, command, weights
from monopose.category import commands, fitting, options, samples, training, viz
from monopose.category import model as category
from monopose.category import pipeline as cc
from monopose.category.fitting import FitConfig, Phase
from monopose.category.samples import CategoryViews
from monopose.datasets import nocs

QUICK = FitConfig((Phase(3, 2), Phase(2, 1)), features="pyramid")


def tiny(**more):
    config = replace(category.tiny("mug"), volume=(6, 5, 4), projection=8, decoder=(6, 4), size_mean=0.15, size_spread=0.1)
    return replace(config, encoder=(4, 4, 6, 6), hidden=6, shape_code=3, look_code=2, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    config = tiny()
    weights.save(folder / cc.FILE, category.Model(config).state_dict(), method="category", config=config)
    return cc.load(folder, "cpu")


@pytest.fixture
def quick(monkeypatch):
    """The quick search is quicker still."""
    monkeypatch.setitem(commands.SEARCHES, "quick", lambda: QUICK)


def predict(run, photo, out, say=command.silent, fov=None, debug=False, **objects):
    """The command, as Python calls it; `objects` are its options of these."""
    args = options.Predict(
        source=str(photo), model=str(run.path), search="quick", debug=debug, camera=command.CameraOptions(fov=fov),
        output=command.OutputOptions(out=out, device="cpu"), objects=options.ObjectOptions(**objects),
    )  # fmt: skip
    return commands.predict(args, say)


@pytest.fixture
def photo(tmp_path):
    """A bright disc on a dark ground, and its mask."""
    v, u = np.mgrid[:96, :128]
    disc = (u - 60) ** 2 + (v - 50) ** 2 < 20**2
    pixels = np.where(disc[..., None], [220, 60, 40], [20, 60, 90]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(disc).save(tmp_path / "mask.png")
    return tmp_path, disc


def test_masks_are_read_in_the_forms_people_have(tmp_path):
    def saved(values, mode="L"):
        Image.fromarray(np.asarray(values, np.uint8), mode).save(tmp_path / "m.png")
        return cc.read_masks(tmp_path / "m.png")

    square = np.zeros((8, 10), np.uint8)
    square[2:5, 3:7] = 1
    for values in (square, 255 * square, 255 - 254 * square):  # numbers, white on black, number on 255 as NOCS has it
        assert torch.equal(saved(values), torch.from_numpy(square > 0)[None])
    several = square.copy()
    several[6:, :3] = 7
    assert [int(m.sum()) for m in saved(several)] == [12, 6]
    assert [int(m.sum()) for m in saved(np.where(several == 0, 255, several))] == [12, 6]
    smooth = (np.arange(80).reshape(8, 10) * 3).astype(np.uint8)
    assert torch.equal(saved(smooth)[0], torch.from_numpy(smooth > 118))
    with pytest.raises(ValueError, match="empty mask"):
        saved(0 * square)
    with pytest.raises(FileNotFoundError):
        cc.read_masks(tmp_path / "none.png")


def test_an_object_is_cut_out_of_its_box_by_colour(photo):
    folder, disc = photo
    image = torch.from_numpy(np.asarray(Image.open(folder / "photo.png")).copy()).permute(2, 0, 1).float() / 255
    found = cc.cut_out(image, torch.tensor([35.0, 25, 85, 75])).numpy()
    assert (found & disc).sum() / (found | disc).sum() > 0.9
    plain = cc.cut_out(torch.full((3, 40, 40), 0.5), torch.tensor([10.0, 10, 30, 30]))
    assert int(plain.sum()) == 400  # no colours tell them apart
    with pytest.raises(ValueError, match="does not lie in the picture"):
        cc.cut_out(image, torch.tensor([200.0, 10, 300, 30]))


@pytest.mark.slow
def test_a_prediction_says_where_its_masks_and_its_scale_come_from(run, photo, quick):
    folder, _ = photo
    out, mask = folder / "out", folder / "mask.png"
    printed: list[str] = []
    result = predict(run, folder / "photo.png", out, printed.append, fov=60.0, debug=True, mask=mask)
    written = json.loads(Path(result.data["poses"]).read_text())["images"][0]
    assert written["masks"] == "file mask.png"
    row = written["poses"][0]
    assert row["metric"]
    assert row["size_m"] == pytest.approx(run.model.config.size_mean)
    far = math.hypot(*(line[3] for line in row["cam_from_obj"][:3]))
    assert row["distance_std_m"] == pytest.approx(far * run.model.config.size_spread, rel=1e-3)
    assert row["features"] == "pyramid"
    assert row["chosen_by"] in ("least loss", "vote", "pose head")
    assert "scale is metric: yes" in printed[-1]
    assert result.text() == f"poses: {out / 'poses.json'}"
    with Image.open(out / "photo_0_fitting.gif") as gif:
        assert gif.n_frames == 5  # 3 + 2 moments
    for name in ("photo_overlay.png", "debug/photo_0_stages.png", "debug/photo_0_azimuth.gif", "debug/photo_0_elevation.gif"):
        assert (out / name).is_file()

    blind = predict(run, folder / "photo.png", out, printed.append, mask=mask)
    assert not blind.data["images"][0]["poses"][0]["metric"]
    assert "scale is metric: no (the camera is not known)" in printed[-1]

    boxed = predict(run, folder / "photo.png", out, fov=60.0, boxes=("35,25,85,75",))
    assert boxed.data["images"][0]["masks"] == "GrabCut in the given boxes"
    assert len(boxed.data["images"][0]["poses"]) == 1


@pytest.mark.slow
def test_a_known_size_replaces_the_categorys(photo, run, quick):
    folder, _ = photo
    mask = folder / "mask.png"
    sized = predict(run, folder / "photo.png", folder / "out", fov=60.0, mask=mask, size_m=(0.3, 0.3, 0.4))
    usual = predict(run, folder / "photo.png", folder / "out", fov=60.0, mask=mask)
    a, b = (r.data["images"][0]["poses"][0]["cam_from_obj"][2][3] for r in (sized, usual))
    assert a / b == pytest.approx(math.hypot(0.3, 0.3, 0.4) / run.model.config.size_mean, rel=1e-3)
    before = run.model.config
    assert run.with_size((0.3, 0.3, 0.4)).model.config.size_mean == pytest.approx(math.hypot(0.3, 0.3, 0.4))
    assert run.model.config == before  # the run itself stays as it is


def test_errors_say_what_to_do(run, photo, tmp_path):
    folder, _ = photo
    with pytest.raises(ValueError, match=r"no detector.*--mask"):
        predict(run, folder / "photo.png", tmp_path)
    with pytest.raises(ValueError, match="three lengths"):
        predict(run, folder / "photo.png", tmp_path, mask=folder / "mask.png", size_m=(0.0, 1, 1))
    Image.fromarray(np.eye(5, dtype=np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"5 x 5 pixels.*128 x 96"):
        predict(run, folder / "photo.png", tmp_path, mask=tmp_path / "small.png")
    (tmp_path / "coordinates.safetensors").write_bytes((run.path / cc.FILE).read_bytes())
    with pytest.raises(ValueError, match="monopose train category"):
        cc.load(tmp_path, "cpu")


def test_sweeps_and_interpolations_go_round(run):
    codes = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    around = viz.azimuth_sweep(run.model, codes, count=4, side=32)
    assert [p.size for p in around] == [(64, 32)] * 4
    up = viz.elevation_sweep(run.model, codes, count=4, side=32)
    assert np.array_equal(np.asarray(up[1]), np.asarray(up[3]))  # up and down again
    between = viz.interpolation(run.model, codes, count=3, side=32)
    assert len(between) == 6
    view = torch.tensor([[math.radians(60), math.radians(25)]])
    second = run.model.synthesise(codes[1:], view).over()[0]
    shown = torch.from_numpy(np.asarray(between[3]).copy()).permute(2, 0, 1).float() / 255
    assert (shown - viz._enlarged(second, 32).clamp(0, 1)).abs().max() < 0.01
    with pytest.raises(ValueError, match="two codes"):
        viz.interpolation(run.model, codes[:1])


def test_the_animation_shows_the_best_so_far_and_reconstructions_have_their_rows(run):
    sample = CategoryViews("mug", [400], 64, 1)[0]
    found = fitting.fit(run.model, sample["image"][0], sample["visible"][0].float(), QUICK)
    least = [float(m.losses[row]) for m, row in viz._best_so_far(found.history)]
    assert least == sorted(least, reverse=True)
    assert least[-1] == pytest.approx(min(float(m.losses.min()) for m in found.history))
    assert len(viz.fitting_animation(run.model, found, every=2)) == 3
    one = viz.reconstructions(run.model, [sample])
    two = viz.reconstructions(run.model, [sample, sample])
    assert one.width == two.width
    assert two.height > 1.8 * one.height


@pytest.mark.slow
def test_nocs_photos_are_fitted_and_scored(run, tmp_path, monkeypatch, capsys):
    """Where the fit finds the truth, every rotation and IoU is right; estimates of an untrained network are not."""
    from datasets.test_nocs import CAMERA, _scene, _write
    from monopose.synthesis.shapes import tableware
    from monopose.types import PoseEstimates

    models, poses, scene = _scene()
    _write(tmp_path / "real_test" / "scene_1", models, poses, scene)
    shared = {"camera": CAMERA, "config": QUICK, "progress_bar": False}
    report = cc.predict_nocs(run, tmp_path, tmp_path / "nocs.json", **shared)
    written = json.loads((tmp_path / "nocs.json").read_text())
    assert written["overlap"] == "oriented"
    assert written["true"] == written["estimates"] == 1  # the mug alone
    assert "3D IoU: oriented" in report.text()

    def truth(model, frame, found, config, hidden):
        mask = found.masks[0]
        assert int(mask.sum()) == int((scene.index == 0).sum())
        assert not (hidden & mask).any()
        return PoseEstimates(found.labels, poses[:1], found.scores)

    monkeypatch.setattr(fitting, "predict", truth)
    mug = tableware.shape("mug", 3)
    monkeypatch.setattr(training, "proportions", lambda _: mug.bounds / run.model.config.size_mean)
    right = cc.predict_nocs(run, tmp_path, tmp_path / "nocs.json", **shared).data["scores"]["classes"]["mug"]
    assert right["iou"]["iou75"] == right["pose_all"]["5deg2cm"] == 1.0
    assert len(json.loads((tmp_path / "nocs_curves/scores.json").read_text())["curves"]["degrees"]["mug"]) == 61
    assert (tmp_path / "nocs_curves/curves.png").is_file()

    # masks and scores of NOCS's own detector, and the published truth
    mask = (scene.index == 0).numpy()
    others = np.stack([mask, (scene.index == 1).numpy(), (scene.index == 2).numpy()], -1)
    found = {"pred_class_ids": np.array([6, 2, 1]), "pred_scores": np.array([0.8, 0.9, 0.7]), "pred_masks": others}
    placed, lengths = nocs.from_category(poses[:1].double(), mug.bounds.double()[None])
    scale = float(lengths.norm())
    true = placed.numpy().copy()
    true[:, :3, :3] *= scale
    truth_fields = {"gt_class_ids": np.array([6]), "gt_RTs": true, "gt_scales": lengths.numpy() / scale,
                    "gt_handle_visibility": np.array([1])}  # fmt: skip
    for name, fields in (("det", found), ("gts", truth_fields)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"results_{name}_scene_1_0000.pkl").write_bytes(pickle.dumps(fields, protocol=2))
    folders = {"detections": tmp_path / "det", "gts": tmp_path / "gts"}
    again = cc.predict_nocs(run, tmp_path, tmp_path / "nocs.json", **shared, **folders).data["scores"]["classes"]["mug"]
    assert again["pose_all"]["5deg2cm"] == 1.0
    assert again["iou"]["iou75"] == 1.0
    assert "NOCS's detections" in json.loads((tmp_path / "nocs.json").read_text())["masks"]

    # and a folder of results is scored without a run
    mine = truth_fields | {"pred_class_ids": np.array([6]), "pred_RTs": true, "pred_scales": lengths.numpy() / scale,
                           "pred_scores": np.array([0.5])}  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/results_test_scene_1_0000.pkl").write_bytes(pickle.dumps(mine, protocol=2))
    words = ["evaluate", str(tmp_path / "mine"), "--gts", str(tmp_path / "gts"), "--out", str(tmp_path / "scored")]
    assert cli.main(words) == 0
    assert "NOCS protocol, 3D IoU: oriented; 1 images, 1 objects" in capsys.readouterr().out
    assert (tmp_path / "scored/curves.png").is_file()
    unsized = replace(run, model=category.Model(replace(run.model.config, size_mean=0.0)))
    with pytest.raises(ValueError, match="scores are in metres"):
        cc.predict_nocs(unsized, tmp_path, tmp_path / "nocs.json", **shared)


@pytest.mark.slow
def test_the_command_line_leads_here(run, photo, quick, capsys):
    folder, _ = photo
    given = [str(folder / "photo.png"), "--model", str(run.path), "--mask", str(folder / "mask.png"), "--device", "cpu"]
    assert cli.main(["predict", *given, "--fov", "60", "--search", "quick", "--out", str(folder / "out"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["images"][0]["poses"][0]
    assert row["category"] == "mug"
    assert (folder / "out" / "photo_0_fitting.gif").is_file()
    for arguments, message in (
        (["predict", *given, "--refine"], "--refine belongs to runs that know CAD models, not to"),
        (["predict", *given, "--nocs", "x"], "give either a SOURCE"),
        (["predict", "--model", str(run.path)], "or --nocs DIR"),
        (["predict", *given, "--overlap", "aligned"], "--overlap belongs to --nocs DIR"),
        (["predict", *given, "--boxes", "0,0,9,9"], "give one of them"),
        (["predict", *given, "--flip"], "--flip belongs to box3d runs"),
        (["predict", "--model", str(run.path), "--nocs", "x", "--fov", "60"], "--fov does not go with --nocs"),
    ):
        assert cli.main(arguments) == 2
        assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- own CAD models


@pytest.fixture
def vases(tmp_path):
    """Ten mesh files of a category of one's own, in millimetres."""
    import trimesh

    folder = tmp_path / "meshes" / "vase"
    folder.mkdir(parents=True)
    for i in range(10):
        trimesh.creation.cylinder(radius=30 + i, height=100 + 5 * i, sections=8).export(folder / f"vase_{i}.ply")
    return folder


@pytest.mark.slow
def test_a_category_of_ones_own_meshes_is_learned(vases, tmp_path, capsys):
    small = ["volume=[6,5,4]", "projection=8", "decoder=[6,4]", "encoder=[4,4,6,6]", "hidden=6", "shape_code=3", "look_code=2"]
    words = [
        "train",
        "category",
        "--data",
        vases,
        "--unit",
        "mm",
        "--symmetric",
        "--preset",
        "small",
        "--out",
        tmp_path / "run",
    ]
    words += ["--steps", 2, "--batch-size", 2, "--workers", 0, "--json", "--set", *small]
    assert cli.main([str(w) for w in words]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (Path(written["pictures"]) / "reconstructions.png").is_file()
    run = cc.load(tmp_path / "run", "cpu")
    config = run.model.config
    assert (config.category, config.symmetric) == ("vase", True)
    assert config.size_mean == pytest.approx(0.14, abs=0.03)
    assert run.trained["instances"] == 9  # every tenth is held out
    with pytest.raises(ValueError, match="none of NOCS's categories"):
        cc.predict_nocs(run, tmp_path, tmp_path / "nocs.json")


def test_where_the_meshes_of_a_category_are(vases, tmp_path):
    above = training.read_shapes(vases.parent, "vase", "mm")
    assert (above.category, len(above.models), list(above.held_out)) == ("vase", 10, [9])
    sample = samples.CategoryViews("vase", above.learned, 32, 1, models=above.models)[0]
    assert sample["rgba"][:, 3].amax() > 0.9
    assert float(sample["size"]) == pytest.approx(0.13, abs=0.03)
    with pytest.raises(ValueError, match="holds the folders vase: name one with --category"):
        training.read_shapes(vases.parent, None, "mm")
    with pytest.raises(FileNotFoundError, match="expected mesh files of one category"):
        training.read_shapes(tmp_path / "nothing")
    with pytest.raises(ValueError, match="unit"):
        training.read_shapes(vases)
