"""The refiner where users meet it: poses of one photo, the last stage of `predict`, a BOP result file in and a better one out.

The networks are untrained and tiny. Where a test has to see poses move, every step is replaced by one of 1 mm to the right.
"""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import cli, weights
from monopose.datasets.bop import models as bop_models
from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import scenes, writing
from monopose.geometry import camera as camera_ops
from monopose.geometry import se3
from monopose.objects import bop_pipeline, coordinates, pipeline, refinement, refiner
from monopose.synthesis import bop_folder
from monopose.synthesis import scene as synth
from monopose.types import Camera, Detections, Frame, PoseEstimates
from shapes import box

pytestmark = pytest.mark.usefixtures("no_base")
IDS = (2, 5)
OBJECTS = {2: box(obj_id=2), 5: box((0.05, 0.07, 0.06), obj_id=5)}
CAMERA = Camera(camera_ops.K_from_fov(1.0, (96, 128)), (96, 128))
CONFIG = refiner.Config(
    IDS, pretrained=False, crop_size=64, features=8, hidden=8, motion=8, context=8, descriptor=8, surface_points=48,
    surface_width=8, levels=2, radius=1, finer=1, outer=2, inner=2,
)  # fmt: skip


def save_refiner(folder, seed=0):
    torch.manual_seed(seed)
    state = refiner.Model(CONFIG).state_dict()
    return weights.save(folder / "refiner.safetensors", state, method="refiner", config=CONFIG, labels=IDS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with nothing but a refiner."""
    return save_refiner(tmp_path_factory.mktemp("refiner")).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set with 4 pictures in its split `train`."""
    scene = synth.SceneConfig(objects=(2, 2), distractors=(0, 0), distance=(0.3, 0.5))
    return bop_folder.write_bop(
        list(OBJECTS.values()), tmp_path_factory.mktemp("data"), images=4, camera=CAMERA, scene=scene, workers=0, seed=1
    )


@pytest.fixture(scope="module")
def initial(data, tmp_path_factory):
    """Poses in all pictures, roughly where objects are, the images mixed."""
    truth = scenes.open_scene(data / "train/000000").truth
    pose = torch.eye(4).repeat(len(truth.im_id), 1, 1).double()
    pose[:, :3, :3], pose[:, :3, 3] = torch.from_numpy(truth.R), torch.from_numpy(truth.t)
    pose[:, :2, 3] *= 0.6  # all of them in sight
    pose = se3.perturbed(pose, 0.2, 0.01, generator=torch.Generator().manual_seed(0)).numpy()
    order = np.random.default_rng(0).permutation(len(pose))
    time = 0.5 + truth.im_id[order]
    rows = bop_results.Results(
        np.zeros_like(order), truth.im_id[order], truth.obj_id[order], np.linspace(0.9, 0.1, len(order)),
        pose[order, :3, :3], pose[order, :3, 3], time,
    )  # fmt: skip
    assert (rows.im_id[1:] < rows.im_id[:-1]).any()  # mixed
    return bop_results.write_results(tmp_path_factory.mktemp("initial") / "other_tiny-train.csv", rows)


@pytest.fixture
def shifting(monkeypatch):
    """In place of the network: every usable pose moves by 1 mm to the right."""
    calls = []

    def refine(model, images, K, objects, cam_from_obj, outer=None, inner=None):
        corners = torch.stack([o.model.corners for o in objects])
        each = K.expand(len(cam_from_obj), 3, 3)
        good = refinement.failure_reason(corners, cam_from_obj, each, tuple(images.shape[-2:])) == 0
        calls.append(len(cam_from_obj))
        if refine.stop_at is not None and len(calls) > refine.stop_at:
            raise KeyboardInterrupt
        moved = cam_from_obj.clone()
        moved[good, 0, 3] += 0.001
        error = torch.where(good, 0.1, torch.inf)
        covariance = 0.01 * torch.eye(6).repeat(len(good), 1, 1)
        return refinement.Refined(moved, good, error, covariance, [], good.nonzero()[:, 0])

    refine.stop_at = None
    monkeypatch.setattr(refinement, "refine", refine)
    return SimpleNamespace(calls=calls, stop=lambda n: setattr(refine, "stop_at", n))


def frame_with(*places, size=(96, 128)):
    """A picture of noise and poses of object 5 at these positions, metres."""
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    pose = torch.eye(4).repeat(len(places), 1, 1)
    pose[:, :3, 3] = torch.tensor(places)
    return Frame(image, CAMERA), PoseEstimates(torch.full((len(places),), 5), pose, torch.linspace(0.9, 0.5, len(places)))


BAD = {"behind": (0.0, 0.0, -0.4), "through": (0.0, 0.0, 0.02), "outside": (1.0, 0.0, 0.4), "small": (0.0, 0.0, 3.0)}


# ------------------------------------------------------------------------------------------------------------- one photo


def test_bad_poses_stay_and_the_others_do_not_notice(run):
    network = pipeline.load_refiner(run, "cpu")
    frame, good = frame_with((0.0, 0.0, 0.4), (0.05, 0.02, 0.5))
    _, mixed = frame_with((0.0, 0.0, 0.4), *BAD.values(), (0.05, 0.02, 0.5), (float("nan"), 0.0, 1.0))
    alone = refinement.predict(network, frame, good, OBJECTS)
    together = refinement.predict(network, frame, mixed, OBJECTS)
    assert together.refined[[0, 5]].tolist() == alone.refined.tolist()
    torch.testing.assert_close(together.cam_from_obj[[0, 5]], alone.cam_from_obj, atol=1e-5, rtol=1e-5)
    assert not together.refined[[1, 2, 3, 4, 6]].any()
    kept = [1, 2, 3, 4]
    assert torch.equal(together.cam_from_obj[kept], mixed.cam_from_obj[kept])
    assert together.cam_from_obj[6].isnan().any()
    assert torch.equal(together.scores, mixed.scores)
    assert together.seconds["refiner"] > 0
    K, corners = CAMERA.K.expand(7, 3, 3), OBJECTS[5].corners.expand(7, 8, 3)
    codes = refinement.failure_reason(corners, mixed.cam_from_obj, K, CAMERA.size).tolist()
    assert [refinement.FAILURES[code] for code in codes] == [
        "", "behind the camera", "behind the camera", "outside the picture", "less than 10 pixels wide", "", "not finite"
    ]  # fmt: skip


def test_no_objects_and_unknown_objects(run):
    network = pipeline.load_refiner(run, "cpu")
    frame, poses = frame_with((0.0, 0.0, 0.4))
    none = refinement.predict(network, frame, poses[[]], OBJECTS)
    assert len(none) == 0
    assert none.refined.shape == (0,)
    assert "refiner" in none.seconds
    with pytest.raises(ValueError, match=r"no CAD model of object\(s\) 5, .*models are there of: 2"):
        refinement.predict(network, frame, poses, {2: OBJECTS[2]})
    with pytest.raises(ValueError, match=r"hypotheses must be \(1, H, 4, 4\).*got \(2, 1, 4, 4\)"):
        refinement.predict(network, frame, poses, OBJECTS, hypotheses=torch.zeros(2, 1, 4, 4))


def test_the_smallest_error_wins(run, monkeypatch):
    """Errors and convergence are told by the start's place; rows: 0 wins, a further start wins, none can be refined."""
    network = pipeline.load_refiner(run, "cpu")
    frame, poses = frame_with((0.0, 0.0, 0.4), (0.0, 0.0, 0.5), (0.0, 0.0, 0.6), (0.0, 0.0, 0.7))
    inf, nan = float("inf"), float("nan")
    errors = torch.tensor([[0.1, 0.1, 0.3], [0.4, nan, 0.2], [inf, inf, inf], [0.5, 0.1, 0.2]])
    done = torch.tensor([[True, True, True], [True, True, True], [False, False, False], [True, False, True]])

    def refine(model, images, K, objects, cam_from_obj, outer=None, inner=None):
        n = len(refine.seen)
        refine.seen += cam_from_obj[:, 0, 3].tolist()
        rows = slice(n, n + len(cam_from_obj))
        moved = cam_from_obj.clone()
        moved[:, 1, 3] += 1
        covariance = torch.eye(6) * (2 + torch.arange(n, n + len(moved)))[:, None, None]
        return refinement.Refined(moved, done.flatten()[rows], errors.flatten()[rows], covariance, [], torch.arange(0))

    refine.seen = []
    monkeypatch.setattr(refinement, "refine", refine)
    monkeypatch.setattr(refinement, "TOGETHER", 5)  # the batch is cut within an object
    further = poses.cam_from_obj[:, None].repeat(1, 2, 1, 1)
    further[:, :, 0, 3] = torch.tensor([0.1, 0.2])
    out = refinement.predict(
        network, frame, replace(poses, covariance=torch.eye(6).repeat(4, 1, 1)), OBJECTS, hypotheses=further
    )
    assert refine.seen == pytest.approx([0, 0.1, 0.2] * 4)
    assert out.cam_from_obj[:, 0, 3].tolist() == pytest.approx([0, 0.2, 0, 0.1])
    assert out.cam_from_obj[:, 1, 3].tolist() == [1, 1, 0, 0]  # the last start is good as it is
    assert out.refined.tolist() == [True, True, False, False]
    assert out.covariance[:, 0, 0].tolist() == [2, 2 + 5, 1, 2 + 10]  # the winner's; its own where nothing moved


def test_what_nobody_refined_keeps_its_covariance_and_its_digits(run):
    network = pipeline.load_refiner(run, "cpu")
    frame, poses = frame_with(*BAD.values())
    poses = replace(poses.to(torch.float64), covariance=torch.eye(6).double().repeat(4, 1, 1))
    poses.cam_from_obj[:, 0, 3] += 1e-12
    out = refinement.predict(network, frame, poses, OBJECTS)
    assert torch.equal(out.cam_from_obj, poses.cam_from_obj)
    assert torch.equal(out.covariance, poses.covariance)


@pytest.mark.slow
def test_surfaces_and_descriptors_are_computed_once(run, monkeypatch):
    network = pipeline.load_refiner(run, "cpu")
    frame, poses = frame_with((0.0, 0.0, 0.4), (0.05, 0.0, 0.5))
    sampled, asked = [], []
    known, told = refiner.prepare_object, network._describe
    monkeypatch.setattr(refiner, "prepare_object", lambda *a: sampled.append(a[0].obj_id) or known(*a))
    network._describe = lambda objects, device: asked.append([o.model.obj_id for o in objects]) or told(objects, device)
    first = refinement.predict(network, frame, poses, OBJECTS)
    again = refinement.predict(network, frame, poses, OBJECTS)
    assert (sampled, asked) == ([5], [[5]])
    assert torch.equal(first.cam_from_obj, again.cam_from_obj)
    refinement.predict(network, frame, replace(poses, labels=torch.tensor([2, 5])), OBJECTS)
    assert (sampled, asked[1:]) == ([5, 2], [[2]])
    with torch.no_grad():  # as a training step does
        network.surface.enter.weight.mul_(2)
    changed = refinement.predict(network, frame, poses, OBJECTS)
    assert asked[2:] == [[5]]
    fresh = pipeline.load_refiner(run, "cpu")
    with torch.no_grad():
        fresh.surface.enter.weight.mul_(2)
    torch.testing.assert_close(changed.cam_from_obj, refinement.predict(fresh, frame, poses, OBJECTS).cam_from_obj)
    network.load_state_dict(pipeline.load_refiner(run, "cpu").state_dict())
    restored = refinement.predict(network, frame, poses, OBJECTS)
    assert len(asked) == 4
    torch.testing.assert_close(restored.cam_from_obj, first.cam_from_obj)
    network.train()
    batch = network.gather([network.cached_object(OBJECTS[5])], "cpu")
    assert batch.attributes.requires_grad  # nothing remembered in training
    assert len(asked) == 5


def test_another_object_of_the_same_number_is_another_object(run):
    network = pipeline.load_refiner(run, "cpu")
    assert network.cached_object(OBJECTS[5]).model.diameter == OBJECTS[5].diameter
    larger = box((0.1, 0.1, 0.1), obj_id=5)
    assert network.cached_object(larger).model.diameter == larger.diameter


# ---------------------------------------------------------------------------------------------------------- the pipeline


@pytest.fixture(scope="module")
def whole_run(run, tmp_path_factory):
    """A run folder with estimator, refiner and objects."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = coordinates.Config(IDS, pretrained=False, input_size=64, output_size=32, widths=(16, 16, 16, 16))
    state = coordinates.Model(config, OBJECTS).state_dict()
    weights.save(folder / "coordinates.safetensors", state, method="coordinates", config=config, labels=IDS)
    shutil.copy(run / "refiner.safetensors", folder)
    writing.write_models(folder / "objects", OBJECTS)
    return folder


BOXES = Detections(torch.tensor([5, 2]), torch.tensor([[40.0, 30, 80, 70], [60.0, 20, 90, 60]]), torch.tensor([0.9, 0.4]))


def estimator(model, frame, detections, stages=2, models=None):
    """Stands in for the estimator: every object 40 cm away, the second one behind the camera."""
    pose = torch.eye(4).repeat(len(detections), 1, 1)
    pose[:, 2, 3] = torch.tensor([0.4, -0.4])[: len(detections)]
    covariance = torch.eye(6).repeat(len(detections), 1, 1)
    return PoseEstimates(detections.labels, pose, detections.scores, covariance, seconds={"pnp": 0.25}), []


def test_predict_refines_if_the_run_can(whole_run, shifting, monkeypatch, tmp_path):
    monkeypatch.setattr(coordinates, "predict_traced", estimator)
    frame, _ = frame_with((0.0, 0.0, 0.4))
    model = pipeline.load(whole_run, "cpu")
    refined, plain = model.predict(frame, BOXES), model.predict(frame, BOXES, refine=False)
    assert set(refined.seconds) == {"pnp", "refiner"}
    assert set(plain.seconds) == {"pnp"}
    assert refined.refined.tolist() == [True, False]
    assert plain.refined is None
    assert refined.covariance[:, 0, 0].tolist() == pytest.approx([0.01, 1])
    assert plain.covariance[:, 0, 0].tolist() == [1, 1]
    moved = refined.cam_from_obj[:, :3, 3] - plain.cam_from_obj[:, :3, 3]
    np.testing.assert_allclose(moved.numpy(), [[0.001, 0, 0], [0, 0, 0]], atol=1e-7)
    assert torch.equal(refined.scores, plain.scores)

    without = tmp_path / "run"
    shutil.copytree(whole_run, without)
    (without / "refiner.safetensors").unlink()
    poor = pipeline.load(without, "cpu")
    assert poor.refiner is None
    assert torch.equal(poor.predict(frame, BOXES).cam_from_obj, plain.cam_from_obj)
    with pytest.raises(ValueError, match=r"has no refiner\.safetensors.*monopose train refiner --data DIR --out .*run"):
        poor.predict(frame, BOXES, refine=True)
    shutil.rmtree(without / "objects")
    shutil.copy(whole_run / "refiner.safetensors", without)
    blind = pipeline.load(without, "cpu")
    with pytest.raises(ValueError, match=r"has no folder objects/ with the CAD models.*--no-refine"):
        blind.predict(frame, BOXES)
    assert len(blind.predict(frame, BOXES, refine=False)) == 2
    lacking = replace(model, models={5: OBJECTS[5]})
    with pytest.raises(ValueError, match=r"no CAD model of object\(s\) 2"):
        lacking.predict(frame, BOXES)


def test_a_loaded_refiner_is_the_saved_one(whole_run, run, tmp_path):
    model = pipeline.load(whole_run, "cpu")
    stored = weights.read(run / "refiner.safetensors").state
    for name, value in model.refiner.state_dict().items():
        assert torch.equal(value, stored[name]), name
    assert not model.refiner.training
    with pytest.raises(FileNotFoundError, match="no trained run"):
        pipeline.load_refiner(tmp_path / "nothing")
    shutil.copy(whole_run / "coordinates.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"has no refiner\.safetensors; it holds coordinates"):
        pipeline.load_refiner(tmp_path)


@pytest.mark.slow
def test_every_stage_as_a_picture(whole_run, monkeypatch, tmp_path):
    monkeypatch.setattr(coordinates, "predict_traced", estimator)
    frame, _ = frame_with((0.0, 0.0, 0.4))
    pipeline.load(whole_run, "cpu").predict(frame, BOXES, debug=tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    refined = ["2_object_5_0_refined.gif", "2_object_5_0_refined.png"]  # the other one cannot be rendered
    assert names == ["1_detections.png", *refined, "3_poses.png"]
    with Image.open(tmp_path / refined[0]) as picture:
        assert picture.n_frames > 1


def test_a_whole_split_with_and_without(whole_run, data, shifting, monkeypatch, tmp_path):
    monkeypatch.setattr(coordinates, "predict_traced", estimator)
    model, targets = pipeline.load(whole_run, "cpu"), data / "train_targets_bop19.json"
    results = [
        bop_results.read_results(
            bop_pipeline.predict_bop(model, data, targets, tmp_path / f"{name}_tiny-train.csv", true_boxes=True, refine=refine)
        )
        for name, refine in (("a", None), ("b", True), ("c", False))
    ]
    assert np.array_equal(results[0].t, results[1].t)
    assert (results[0].t != results[2].t).any()
    assert (results[0].time > results[2].time).all()


def test_a_partial_run_counts_only_if_it_refined_too(whole_run, data, shifting, monkeypatch, tmp_path):
    monkeypatch.setattr(bop_pipeline, "SAVED_EVERY", 1)
    model, targets, out = pipeline.load(whole_run, "cpu"), data / "train_targets_bop19.json", tmp_path / "a_tiny-train.csv"
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return estimator(*args, **kwargs)

    monkeypatch.setattr(coordinates, "predict_traced", counted)
    with pytest.raises(KeyboardInterrupt):
        bop_pipeline.predict_bop(model, data, targets, out, true_boxes=True)
    bop_pipeline.predict_bop(model, data, targets, out, true_boxes=True, refine=False)
    assert len(calls) == 3 + 4  # all four images anew


# ------------------------------------------------------------------------------------------------ result file in and out


def refine(run, initial, data, out, *more):
    return cli.main(["refine", *map(str, (initial, "--bop", data, "--model", run, "--out", out, "--device", "cpu", *more))])


def test_every_row_stays_in_its_place(run, initial, data, shifting, tmp_path, capsys):
    out = tmp_path / "mine_tiny-train.csv"
    assert refine(run, initial, data, out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    before, after = bop_results.read_results(initial), bop_results.read_results(out)
    n = len(before.im_id)
    assert report == {"results": str(out), "rows": n, "refined": n, "unchanged": {}}
    for name in ("scene_id", "im_id", "obj_id", "score"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    np.testing.assert_allclose(after.t - before.t, [[0.001, 0, 0]] * n, atol=1e-6)
    np.testing.assert_allclose(after.R, before.R, atol=1e-6)
    for im_id in set(before.im_id.tolist()):
        (time,) = set(after.time[after.im_id == im_id].tolist())
        assert im_id + 0.5 < time < im_id + 60
    assert not (tmp_path / ".partial").exists()


def test_unknown_times_stay_unknown(run, initial, data, shifting, tmp_path):
    rows = bop_results.read_results(initial)
    start = bop_results.write_results(tmp_path / "other_tiny-train.csv", rows._replace(time=np.full(len(rows.time), -1.0)))
    assert refine(run, start, data, tmp_path / "mine_tiny-train.csv") == 0
    assert set(bop_results.read_results(tmp_path / "mine_tiny-train.csv").time.tolist()) == {-1.0}


def test_rows_that_cannot_be_refined_are_written_as_they_came(run, initial, data, shifting, tmp_path, capsys):
    rows = bop_results.read_results(initial)
    first = int(rows.im_id[0])
    bad = [*BAD.values(), (0.0, 0.0, 0.4), (0.123456789012345, 0.0, 0.4)]
    extra = bop_results.Results(
        np.zeros(6, int), np.full(6, first), np.array([5, 5, 5, 5, 77, 78]), np.full(6, 0.5),
        np.eye(3)[None].repeat(6, 0), np.array(bad), np.full(6, rows.time[0]),
    )  # fmt: skip
    start = bop_results.write_results(tmp_path / "other_tiny-train.csv", [extra, rows])
    assert refine(run, start, data, tmp_path / "mine_tiny-train.csv", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == len(rows.t) + 6
    assert report["refined"] == len(rows.t)
    assert report["unchanged"] == {
        "behind the camera": 2, "outside the picture": 1, "less than 10 pixels wide": 1, "no CAD model of object 77": 1,
        "no CAD model of object 78": 1,
    }  # fmt: skip
    out = bop_results.read_results(tmp_path / "mine_tiny-train.csv")
    assert np.array_equal(out.t[:6], extra.t)
    assert np.array_equal(out.R[:6], extra.R)
    assert len(set(out.time[out.im_id == first].tolist())) == 1  # BOP: one time per image
    assert refine(run, start, data, tmp_path / "mine_tiny-train.csv") == 0
    text = capsys.readouterr().out
    assert "behind the camera 2" in text


def test_an_interrupted_refinement_goes_on(run, initial, data, shifting, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bop_pipeline, "SAVED_EVERY", 1)
    rows = bop_results.read_results(initial)
    start = bop_results.write_results(tmp_path / "other_tiny-train.csv", rows._replace(time=np.full(len(rows.time), -1.0)))
    out = tmp_path / "mine_tiny-train.csv"
    whole = tmp_path / "whole_tiny-train.csv"
    assert refine(run, start, data, whole) == 0
    assert len(shifting.calls) == 4
    shifting.stop(6)
    assert refine(run, start, data, out) == 130
    assert not out.exists()
    shifting.stop(None)
    shifting.calls.clear()
    capsys.readouterr()
    assert refine(run, start, data, out, "--json") == 0
    assert len(shifting.calls) == 2  # two of four images were done
    assert json.loads(capsys.readouterr().out)["refined"] == len(rows.t)
    assert out.read_text() == whole.read_text()

    shifting.calls.clear()
    shifting.stop(2)
    assert refine(run, start, data, out) == 130
    shifting.stop(None)
    shifting.calls.clear()
    assert refine(run, start, data, out, "--outer", 1) == 0  # not the same question
    assert len(shifting.calls) == 4


def test_only_the_targets(run, initial, data, shifting, tmp_path, capsys):
    rows = bop_results.read_results(initial)
    chosen = sorted(set(rows.im_id.tolist()))[1]
    entry = {"scene_id": 0, "im_id": chosen, "obj_id": 5, "inst_count": 1}
    (tmp_path / "targets.json").write_text(json.dumps([entry]))
    out = tmp_path / "mine_tiny-train.csv"
    assert refine(run, initial, data, out, "--targets", tmp_path / "targets.json", "--json") == 0
    report, after = json.loads(capsys.readouterr().out), bop_results.read_results(out)
    mine = rows.im_id == chosen
    assert report["refined"] == mine.sum()
    assert report["unchanged"] == {"not among the targets": int((~mine).sum())}
    assert np.array_equal(after.t[~mine], rows.t[~mine])
    assert np.array_equal(after.time[~mine], rows.time[~mine])
    (tmp_path / "targets.json").write_text(json.dumps([{**entry, "im_id": 999}]))
    assert refine(run, initial, data, out, "--targets", tmp_path / "targets.json") == 1
    assert "are they of different splits?" in capsys.readouterr().err


@pytest.mark.slow
def test_the_network_itself_with_further_starts_and_pictures(run, initial, data, tmp_path, capsys):
    rows = bop_results.read_results(initial)
    chosen = int(rows.im_id[0])
    mine = rows.im_id == chosen
    (tmp_path / "targets.json").write_text(json.dumps([{"scene_id": 0, "im_id": chosen, "obj_id": 5, "inst_count": 1}]))
    out, again = tmp_path / "mine_tiny-train.csv", tmp_path / "again_tiny-train.csv"
    more = ("--hypotheses", 1, "--outer", 1, "--inner", 1, "--targets", tmp_path / "targets.json")
    assert refine(run, initial, data, out, *more, "--debug", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["refined"] + sum(report["unchanged"].values()) == report["rows"] == len(rows.t)
    assert set(report["unchanged"]) <= {"not held for better than it was", "not among the targets"}
    assert [p.name for p in (tmp_path / "debug").iterdir()] == [f"000000_{chosen:06d}"]
    pictures = sorted(p.suffix for p in (tmp_path / "debug").rglob("*.*"))
    assert pictures == [".gif"] * mine.sum() + [".png"] * mine.sum()
    assert refine(run, initial, data, again, *more) == 0
    assert np.array_equal(bop_results.read_results(out).t, bop_results.read_results(again).t)  # the starts are not random


def test_further_starts_are_near():
    poses = frame_with((0.0, 0.0, 0.4), (0.1, 0.0, 0.5))[1]
    starts = bop_pipeline._further(poses, OBJECTS, 200, (3, 4))
    assert starts.shape == (2, 200, 4, 4)
    assert torch.equal(starts, bop_pipeline._further(poses, OBJECTS, 200, (3, 4)))
    assert not torch.equal(starts, bop_pipeline._further(poses, OBJECTS, 200, (3, 5)))
    sideways = (starts[..., :2, 3] - poses.cam_from_obj[:, None, :2, 3])[0].std()
    assert 0.03 < sideways / OBJECTS[5].diameter < 0.07


# ------------------------------------------------------------------------------------------------------------- bad input


def edited(initial, folder, change, name="other_tiny-train.csv"):
    lines = initial.read_text().splitlines()
    lines[2] = change(lines[2].split(","))
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_nan_in_the_results(run, initial, data, tmp_path, capsys):
    start = edited(initial, tmp_path, lambda f: ",".join([*f[:5], "nan 0 400", f[6]]))
    assert refine(run, start, data, tmp_path / "mine_tiny-train.csv") == 1
    said = capsys.readouterr().err
    assert "line 3: 't' must be finite numbers, got 'nan 0 400'" in said
    assert "Correct that row or take it out: an object without a pose has no row" in said
    assert not (tmp_path / "mine_tiny-train.csv").exists()


def test_results_of_another_split(run, initial, data, tmp_path, capsys):
    assert refine(run, initial, data, tmp_path / "mine_tiny-test.csv") == 1
    assert "mine_tiny-test.csv must name the data set and split of other_tiny-train.csv" in capsys.readouterr().err
    start = edited(initial, tmp_path, lambda f: ",".join(["7", *f[1:]]))
    assert refine(run, start, data, tmp_path / "mine_tiny-train.csv") == 1
    assert "has poses in scene 7, but there is no" in capsys.readouterr().err
    start = edited(initial, tmp_path, lambda f: ",".join([f[0], "9", *f[2:]]))
    assert refine(run, start, data, tmp_path / "mine_tiny-train.csv") == 1
    assert "has poses in image 9 of scene 0, but" in capsys.readouterr().err
    other = tmp_path / "other_tiny-val.csv"
    shutil.copy(initial, other)
    assert refine(run, other, data, tmp_path / "mine_tiny-val.csv") == 1
    assert "val/000000" in capsys.readouterr().err


def test_missing_camera_picture_and_models(run, initial, data, shifting, tmp_path, capsys):
    mine = tmp_path / "tiny"
    shutil.copytree(data, mine)
    file = mine / "train/000000/scene_camera.json"
    cameras = json.loads(file.read_text())
    rows = bop_results.read_results(initial)
    gone = int(rows.im_id[-1])
    out = tmp_path / "mine_tiny-train.csv"
    file.write_text(json.dumps({k: v for k, v in cameras.items() if int(k) != gone}))
    assert refine(run, initial, mine, out) == 1
    assert "scene_camera.json has no camera for it; are they of another split" in capsys.readouterr().err
    assert shifting.calls == []  # said before the work begins
    file.unlink()
    assert refine(run, initial, mine, out) == 1
    assert "scene_camera.json" in capsys.readouterr().err
    file.write_text(json.dumps(cameras))
    (picture,) = (mine / "train/000000/rgb").glob(f"{gone:06d}.*")
    picture.unlink()
    assert refine(run, initial, mine, out) == 1
    assert f"no picture {gone:06d}" in capsys.readouterr().err
    shutil.move(mine / "models", mine / "elsewhere")
    assert refine(run, initial, mine, out) == 1
    assert "models_info.json" in capsys.readouterr().err


def test_none_of_the_objects_is_known(run, initial, data, tmp_path, capsys):
    lines = initial.read_text().splitlines()
    changed = [",".join([*(f := line.split(","))[:2], "77", *f[3:]]) for line in lines[1:]]
    start = tmp_path / "other_tiny-train.csv"
    start.write_text("\n".join([lines[0], *changed]) + "\n")
    assert refine(run, start, data, tmp_path / "mine_tiny-train.csv") == 1
    assert "models has none of the objects [77] of" in capsys.readouterr().err


def test_no_rows_at_all(run, initial, data, tmp_path, capsys):
    start = tmp_path / "other_tiny-train.csv"
    start.write_text(bop_results.HEADER + "\n")
    assert refine(run, start, data, tmp_path / "mine_tiny-train.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 0
    assert (tmp_path / "mine_tiny-train.csv").read_text() == bop_results.HEADER + "\n"


def test_meshes_without_normals_colours_or_texture(run, initial, data, tmp_path, capsys):
    mine = tmp_path / "tiny"
    shutil.copytree(data, mine)
    for i, shape in OBJECTS.items():
        header = ["ply", "format ascii 1.0", f"element vertex {len(shape.vertices)}"]
        header += [f"property float {a}" for a in "xyz"]
        header += [f"element face {len(shape.faces)}", "property list uchar int vertex_indices", "end_header"]
        points = [" ".join(f"{1000 * x:.6f}" for x in p) for p in shape.vertices.tolist()]
        faces = ["3 " + " ".join(map(str, f)) for f in shape.faces.tolist()]
        (mine / f"models/obj_{i:06d}.ply").write_text("\n".join([*header, *points, *faces]) + "\n")
    bare = bop_models.read_models(mine / "models")
    assert bare[5].colors is None
    assert bare[5].texture is None
    assert refine(run, initial, mine, tmp_path / "mine_tiny-train.csv", "--outer", 1, "--inner", 1, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["unchanged"]) <= {"not held for better than it was"}
    assert np.isfinite(bop_results.read_results(tmp_path / "mine_tiny-train.csv").t).all()


def test_flags_that_contradict(capsys):
    assert cli.main(["predict", "photo.png", "--model", "x", "--refine", "--no-refine"]) == 2
    assert "--refine and --no-refine contradict each other" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "asked"), [([], {}), (["--refine"], {"refine": True}), (["--no-refine"], {"refine": False})])
def test_flags_reach_the_pipeline(monkeypatch, tmp_path, capsys, flags, asked):
    seen = []
    found = frame_with((0.0, 0.0, 0.4), (0.0, 0.0, 0.5))[1]
    found = replace(found, refined=torch.tensor([True, False]))

    def predict(self, frame, detections=None, **kwargs):
        seen.append({k: v for k, v in kwargs.items() if k == "refine"})
        return found

    monkeypatch.setattr(pipeline.Pipeline, "predict", predict)
    monkeypatch.setattr(pipeline.Pipeline, "trusted", lambda self, found, *_: found)
    monkeypatch.setattr(pipeline, "load", lambda *args: pipeline.Pipeline(None, None, {}, {5: "can"}, tmp_path))
    monkeypatch.setattr(bop_pipeline, "predict_bop", lambda *args, **kwargs: seen.append(
        {k: v for k, v in kwargs.items() if k == "refine"}
    ) or "x.csv")  # fmt: skip
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    picture = ["predict", tmp_path / "photo.png", "--fov", 60, "--model", "x", "--out", tmp_path / "out", *flags]
    assert cli.main([str(a) for a in picture]) == 0
    assert cli.main(["predict", "--bop", "d", "--model", "x", "--out", "a_b-test.csv", *flags]) == 0
    assert seen == [asked, asked]
    said = capsys.readouterr().out
    assert "z 0.400 m   refined\n" in said
    assert "z 0.500 m   not refined\n" in said
