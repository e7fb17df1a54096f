"""From a run folder to poses: what does not load, boxes from elsewhere, whole BOP splits, pictures of every stage."""

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import monopose
from monopose import weights
from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import scenes, writing
from monopose.detection import detector
from monopose.evaluation.bop import evaluate
from monopose.geometry import camera as camera_ops
from monopose.io import shards
from monopose.io.files import Unreadable
from monopose.objects import bop_pipeline, coordinates, pipeline
from monopose.synthesis import bop_folder
from monopose.synthesis import scene as synth
from monopose.types import Camera, Detections, Frame, PoseEstimates
from packed import images_of, pack
from shapes import box

pytestmark = pytest.mark.usefixtures("no_base")
IDS = (2, 5)
OBJECTS = {2: box(obj_id=2), 5: box((0.05, 0.07, 0.06), obj_id=5)}
CAMERA = Camera(camera_ops.K_from_fov(math.radians(60), (96, 128)), (96, 128))


def save(folder, method="coordinates", **changes):
    """An untrained network as a run would have left it."""
    torch.manual_seed(0)
    if method == "coordinates":
        small = {"pretrained": False, "input_size": 64, "output_size": 32, "widths": (16, 16, 16, 16)}
        config = coordinates.Config(IDS, **{**small, **changes})
        state = coordinates.Model(config, OBJECTS).state_dict()
        state = {k: v for k, v in state.items() if not k.startswith("discriminator")}
    else:
        config = detector.small(IDS, image_height=64, image_width=64, pretrained=False, channels=16, **changes)
        state = detector.Model(config).state_dict()
    return weights.save(folder / f"{method}.safetensors", state, method=method, config=config, labels=IDS, half=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with both networks and the objects."""
    folder = tmp_path_factory.mktemp("run")
    save(folder)
    save(folder, "detector")
    writing.write_models(folder / "objects", OBJECTS)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set with 23 pictures in its split `train`."""
    scene = synth.SceneConfig(objects=(1, 2), distractors=(0, 1), distance=(0.3, 0.7))
    return bop_folder.write_bop(
        list(OBJECTS.values()), tmp_path_factory.mktemp("data"), images=23, camera=CAMERA, scene=scene, workers=0, seed=1
    )


@pytest.fixture
def frame():
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))
    return Frame(image, CAMERA)


BOXES = Detections(
    torch.tensor([5, 2]), torch.tensor([[10.0, 12.0, 60.0, 70.0], [50.0, 20.0, 110.0, 90.0]]), torch.tensor([0.9, 0.4])
)


# ---------------------------------------------------------------------------------------------------------------- loading


def test_what_cannot_be_loaded_is_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained run"):
        pipeline.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no weights"):
        pipeline.load(tmp_path)
    save(tmp_path, "detector")
    with pytest.raises(ValueError, match=r"has no coordinates\.safetensors.*it holds detector.*monopose train coordinates"):
        pipeline.load(tmp_path)
    whole = (run / "coordinates.safetensors").read_bytes()
    (tmp_path / "coordinates.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        pipeline.load(tmp_path)
    (tmp_path / "coordinates.safetensors").write_bytes((run / "detector.safetensors").read_bytes())
    with pytest.raises(ValueError, match="coordinates"):
        pipeline.load(tmp_path)


def test_a_loaded_run_is_the_saved_one(run):
    model = pipeline.load(run, "cpu")
    assert model.estimator.config.obj_ids == IDS
    assert not model.estimator.training
    assert not model.detector.training
    stored = weights.read(run / "coordinates.safetensors").state
    for name, value in model.estimator.state_dict().items():
        assert torch.equal(value, stored[name]), name
    # the size of the objects keeps its precision, although kernels are stored in half of theirs
    torch.testing.assert_close(model.estimator.corners[0], OBJECTS[2].corners, rtol=1e-6, atol=0)
    assert sorted(model.models) == [2, 5]
    torch.testing.assert_close(model.models[5].vertices, OBJECTS[5].vertices, atol=1e-7, rtol=0)


def test_an_adversarially_trained_run_loads_without_its_discriminator(tmp_path):
    save(tmp_path, adversarial_weight=0.01)
    model = pipeline.load(tmp_path, "cpu")
    assert model.estimator.discriminator is None
    assert model.detector is None


# ------------------------------------------------------------------------------------------------------------- prediction


def test_external_boxes_need_no_detector(run, frame, tmp_path):
    save(tmp_path)
    model = pipeline.load(tmp_path, "cpu")
    poses = model.predict(frame, BOXES)
    assert torch.isfinite(poses.cam_from_obj).all()
    assert set(poses.seconds) == {"coordinates", "pnp", "contours"}
    with pytest.raises(ValueError, match=r"has no detector\.safetensors.*--boxes.*monopose train detector"):
        model.predict(frame)
    with pytest.raises(ValueError, match=r"object id\(s\) \[9\] are unknown"):
        model.predict(frame, dataclasses.replace(BOXES, labels=torch.tensor([5, 9])))


def test_nothing_found_is_no_error(run, frame):
    model = pipeline.load(run, "cpu")
    poses = model.predict(frame, BOXES[torch.zeros(2, dtype=torch.bool)])
    assert len(poses) == 0
    found = model.predict(frame)  # an untrained detector
    assert "detector" in found.seconds
    assert torch.isfinite(found.cam_from_obj).all()


def fake(calls=None, stop_at=None):
    """Stands in for the estimator: a pose from each box in closed form; may be interrupted."""
    calls = [] if calls is None else calls

    def predict(model, frame, detections, stages=2, models=None):
        if stop_at is not None and len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append((frame.scene_id, frame.im_id))
        pose = torch.eye(4).repeat(len(detections), 1, 1)
        pose[:, :2, 3] = detections.boxes[:, :2] / 1000
        pose[:, 2, 3] = 0.5
        return PoseEstimates(detections.labels, pose, detections.scores, seconds={"pnp": 0.25}), []

    return predict


def test_devices_that_are_not_there_are_named(run):
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=rf"device '{name}' cannot be used \(.*this machine has cpu"):
            pipeline.load(run, name)
    assert pipeline.load(run, "cpu").estimator.ids.device.type == "cpu"


def test_a_lower_score_finds_more(run, frame):
    model = pipeline.load(run, "cpu")
    found = model.detect(frame, 0.0)
    assert len(found) > 1  # an untrained detector sees something everywhere
    middle = float(found.scores.median())
    fewer = model.detect(frame, middle)
    assert 0 < len(fewer) < len(found)
    assert fewer.scores.min() >= middle
    assert len(model.detect(frame, 1.0)) == 0
    once = model.detect(frame, 0.0, looks=1)
    half = float(once.scores.median())
    assert len(model.detect(frame, half, looks=1)) == int((once.scores >= half).sum())

    class Asked(Exception):
        pass

    def detect(self, frame, score_threshold, looks, masks):
        raise Asked(score_threshold, looks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.Pipeline, "detect", detect)
        with pytest.raises(Asked, match=r"0\.05, 1"):
            model.predict(frame, score_threshold=0.05, looks=1)
        with pytest.raises(Asked, match=r"0\.2, 6"):
            model.predict(frame)


def test_best_first_with_names(run, frame, monkeypatch):
    monkeypatch.setattr(coordinates, "predict_traced", fake())
    model = pipeline.load(run, "cpu")
    poses = model.predict(frame, dataclasses.replace(BOXES, scores=torch.tensor([0.4, 0.9])))
    assert poses.labels.tolist() == [2, 5]
    assert poses.scores.tolist() == pytest.approx([0.9, 0.4])
    assert set(poses.names) == {2, 5}
    assert poses.seconds == {"pnp": 0.25}


def test_debug_saves_every_stage_as_a_picture(run, frame, tmp_path):
    model = pipeline.load(run, "cpu")
    h = 32

    def said(crops, labels):  # everything is object, at random places: no pose, but pictures
        noise = torch.rand(len(crops), 3, h, h, generator=torch.Generator().manual_seed(1)) * 2 - 1
        return coordinates.Output(noise, torch.zeros(len(crops), h, h), torch.full((len(crops), h, h), 3.0))

    model.estimator.forward = said
    model.predict(frame, BOXES, debug=tmp_path / "stages")
    names = sorted(p.name for p in (tmp_path / "stages").iterdir())
    assert names == ["1_detections.png", "2_object_2_1.png", "2_object_5_0.png", "3_poses.png"]
    for name in names:
        with Image.open(tmp_path / "stages" / name) as picture:
            assert picture.width >= 128
            assert np.asarray(picture.convert("RGB")).std() > 1


# ------------------------------------------------------------------------------------- what is shown, and whatever comes in


def judged(run, scores, calibrated=True, z=0.6):
    """Poses of object 5 with these scores, in the middle of their boxes."""
    pose = torch.eye(4).repeat(len(scores), 1, 1)
    pose[:, 2, 3] = z
    centre = torch.tensor([[64.0, 48.0, 64.0, 48.0]])
    boxes = centre + torch.tensor([-6.0, -7.0, 6.0, 7.0])
    return PoseEstimates(
        torch.full((len(scores),), 5), pose, torch.tensor(scores), boxes=boxes.repeat(len(scores), 1), names=run.names,
        calibrated=calibrated,
    )  # fmt: skip


def test_uncertain_and_impossible_poses_are_left_out_with_their_reason(run, frame):
    model = pipeline.load(run, "cpu")
    poses = judged(model, [0.9, 0.3, 0.05])
    kept = model.trusted(poses, frame)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.3])
    (out,) = kept.dropped
    assert (out.label, out.name, out.reason) == (5, model.names[5], "probability below 0.1")
    assert len(model.trusted(poses, frame, 0.5)) == 1
    assert len(model.trusted(poses, frame, 0)) == 3
    far = model.trusted(judged(model, [0.9], z=3.0), frame)
    assert (len(far), far.dropped[0].reason) == (0, "more than 2.5 times smaller in the picture than its box")
    behind = model.trusted(judged(model, [0.9], z=-0.6), frame, 0)
    assert behind.dropped[0].reason == "behind the camera"
    without = dataclasses.replace(model, models={})  # the networks know the sizes, too
    assert without.trusted(judged(model, [0.9], z=3.0), frame).dropped == far.dropped
    with pytest.raises(ValueError, match="min_probability must be between 0 and 1, got 2"):
        model.trusted(poses, frame, 2)
    assert len(model.trusted(poses[:0], frame)) == 0


def test_raw_scores_are_no_probabilities(run, frame):
    model = pipeline.load(run, "cpu")
    poses = judged(model, [0.9, 0.1], calibrated=False)
    with pytest.warns(UserWarning, match="not calibrated, so they are no probabilities, and nothing is left out by them"):
        assert len(model.trusted(poses, frame)) == 2
    with pytest.warns(UserWarning, match=r"0\.5 is compared with raw scores; make them probabilities: monopose calibrate"):
        kept = model.trusted(poses, frame, 0.5)
    assert (len(kept), kept.dropped[0].reason) == (1, "score below 0.5")


def test_a_run_takes_pictures_of_every_kind(run, frame, monkeypatch):
    model = pipeline.load(run, "cpu")
    seen = []

    def predict(self, frame, detections=None, **options):
        seen.append((frame, options))
        return judged(model, [0.9, 0.05])

    monkeypatch.setattr(pipeline.Pipeline, "predict", predict)
    array = (frame.image * 255).round().byte().permute(1, 2, 0).numpy()
    for source, how in ((frame, {}), (array, {"camera": CAMERA}), (Image.fromarray(array), {"camera": CAMERA.K.tolist()})):
        found = model(source, **how)
        assert found.names == [model.names[5]]
        assert len(found.dropped) == 1
        torch.testing.assert_close(seen[-1][0].camera.K, CAMERA.K)
    assert len(model(frame, min_probability=0)) == 2
    model(array, fov_deg=60, refine=False, looks=1)
    assert seen[-1][1] == {"refine": False, "looks": 1}
    with pytest.warns(UserWarning, match=r"is the array from OpenCV\? Its pictures are BGR"):
        model(array, CAMERA, min_probability=0.95)
    assert "coordinates, detector" in repr(model)


def test_models_may_lie_elsewhere(run, tmp_path):
    for path in run.glob("*.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.warns(UserWarning, match=r"comes without CAD models.*--models DIR, monopose\.load\(\.\.\., models=DIR\)"):
        assert not monopose.load(tmp_path, "cpu").models
    whole = monopose.load(tmp_path, "cpu", models=run / "objects")
    assert sorted(whole.models) == [2, 5]
    assert whole.names[5] == pipeline.load(run, "cpu").names[5]
    with pytest.raises(FileNotFoundError):
        monopose.load(tmp_path, "cpu", models=tmp_path / "nothing")


# ------------------------------------------------------------------------------------------------------------ BOP results


def bop_run(model, data, out, **more):
    return bop_pipeline.predict_bop(model, data, data / "train_targets_bop19.json", out, **more)


def test_true_boxes_of_a_whole_split(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(coordinates, "predict_traced", fake())
    out = bop_run(pipeline.load(run, "cpu"), data, tmp_path / "mine_tiny-train.csv", true_boxes=True)
    results, targets = bop_results.read_results(out), scenes.read_targets(data / "train_targets_bop19.json")
    asked = set(zip(targets.im_id.tolist(), targets.obj_id.tolist()))
    assert set(zip(results.im_id.tolist(), results.obj_id.tolist())) == asked
    scene = scenes.open_scene(data / "train/000000")
    for row in range(len(results.im_id)):
        truth = scenes.read_instances(scene, int(results.im_id[row]), masks=False)
        corner = truth.boxes[truth.labels == int(results.obj_id[row])][0, :2]
        np.testing.assert_allclose(results.t[row, :2] * 1000, corner.numpy(), atol=1e-3)
    assert not (tmp_path / ".partial").exists()


def test_a_split_in_tars_gives_what_its_folders_give(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(coordinates, "predict_traced", fake())
    model, packed = pipeline.load(run, "cpu"), tmp_path / "packed"
    pack(packed / "train", images_of(data / "train"))
    (packed / "models").symlink_to(data / "models")
    name = "train_targets_bop19.json"
    (packed / name).write_text((data / name).read_text())
    files = [bop_run(model, d, tmp_path / f"{n}_tiny-train.csv", true_boxes=True) for n, d in enumerate((data, packed))]
    assert files[0].read_text() == files[1].read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = [evaluate(f, d, d / name) for f, d in zip(files, (data, packed))]
    about = [s.pop("about") for s in scores]
    assert scores[0] == scores[1]
    assert about[0]["images"] == about[1]["images"] == 23


def test_an_interrupted_run_goes_on(run, data, tmp_path, monkeypatch):
    model = pipeline.load(run, "cpu")
    monkeypatch.setattr(coordinates, "predict_traced", fake())
    whole = bop_run(model, data, tmp_path / "whole_tiny-train.csv", true_boxes=True).read_text()
    out = tmp_path / "mine_tiny-train.csv"
    monkeypatch.setattr(coordinates, "predict_traced", fake(first := [], stop_at=21))
    with pytest.raises(KeyboardInterrupt):
        bop_run(model, data, out, true_boxes=True)
    assert len(first) == 21
    assert not out.exists()
    assert (tmp_path / ".partial" / out.name / "000000.json").is_file()
    monkeypatch.setattr(coordinates, "predict_traced", fake(second := []))
    assert bop_run(model, data, out, true_boxes=True).read_text() == whole
    assert len(second) == 23 - 20  # every twentieth image is a stop
    counts = bop_results.read_counts(out)
    assert counts == bop_results.read_counts(tmp_path / "whole_tiny-train.csv")
    targets = scenes.read_targets(data / "train_targets_bop19.json")
    asked = zip(targets.scene_id.tolist(), targets.im_id.tolist(), targets.obj_id.tolist())
    assert {key: boxes for key, (boxes, _) in counts.items()} == dict(zip(asked, targets.inst_count.tolist()))
    assert not (tmp_path / ".partial").exists()


def test_shards_of_a_split_and_pictures_that_cannot_be_read(run, data, tmp_path, monkeypatch):
    model = pipeline.load(run, "cpu")
    monkeypatch.setattr(coordinates, "predict_traced", fake(calls := []))
    monkeypatch.setattr(bop_pipeline, "SAVED_EVERY", 4)
    broken = data / "train/000000/rgb/000003.png"
    whole_picture = broken.read_bytes()
    try:
        broken.write_bytes(whole_picture[:100])
        with pytest.raises(Unreadable, match=r"000003\.png is"):
            bop_run(model, data, tmp_path / "strict_tiny-train.csv", true_boxes=True, strict=True)
        with pytest.warns(UserWarning, match=r"1 of 23 pictures cannot be read; .* whole_tiny-train\.unreadable\.txt|listed"):
            whole = bop_run(model, data, tmp_path / "whole_tiny-train.csv", true_boxes=True).read_text()
        out = tmp_path / "mine_tiny-train.csv"
        calls.clear()
        for index in (3, 1, 2):
            bop_run(model, data, out, true_boxes=True, shard=shards.Shard(index, 3))
            assert not out.exists()
        assert len(set(calls)) == len(calls) == 22
        calls.clear()
        bop_run(model, data, out, true_boxes=True, shard=shards.Shard(2, 3))
        with pytest.warns(UserWarning, match="1 of 23 pictures cannot be read"):
            assert bop_run(model, data, out, true_boxes=True, shard=shards.MERGE).read_text() == whole
    finally:
        broken.write_bytes(whole_picture)
    assert calls == []
    (line,) = out.with_suffix(".unreadable.txt").read_text().splitlines()
    assert "000003.png" in line
    bop_run(model, data, out, true_boxes=True, strict=True)
    assert not out.with_suffix(".unreadable.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["weights", "true boxes", "boxes", "score", "targets", "nothing"])
def test_results_of_other_weights_or_boxes_are_not_gone_on_with(run, data, tmp_path, monkeypatch, changed):
    """20 of 23 images are done by the run before; they count only if nothing else would come out now."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in run.glob("*.safetensors"):
        (folder / path.name).write_bytes(path.read_bytes())
    truth = scenes.open_scene(data / "train/000000").truth
    for name in ("a.json", "b.json"):
        found = [
            {"scene_id": 0, "image_id": int(im), "category_id": int(obj), "score": 0.5, "bbox": [9, 9, 20, 20], "time": -1}
            for im, obj in zip(truth.im_id, truth.obj_id)
        ]
        (tmp_path / name).write_text(json.dumps(found))
    rows = json.loads((data / "train_targets_bop19.json").read_text())
    images = [row["im_id"] for row in rows]
    del rows[next(n for n, im in enumerate(images) if images.count(im) > 1)]  # the same images, not the same objects
    (tmp_path / "targets.json").write_text(json.dumps(rows))
    out, options = tmp_path / "mine_tiny-train.csv", {"boxes": tmp_path / "a.json"}
    if changed == "score":
        options = {"score_threshold": 0.5}
    monkeypatch.setattr(pipeline.Pipeline, "detect", lambda *_: BOXES)
    monkeypatch.setattr(coordinates, "predict_traced", fake(stop_at=21))
    with pytest.raises(KeyboardInterrupt):
        bop_run(pipeline.load(folder, "cpu"), data, out, **options)
    targets = data / "train_targets_bop19.json"
    if changed == "weights":
        save(folder, crop_scale=1.7)  # as a training that went on writes them
    elif changed == "true boxes":
        options = {"true_boxes": True}
    elif changed == "boxes":
        options = {"boxes": tmp_path / "b.json"}
    elif changed == "score":
        options = {"score_threshold": 0.4}
    elif changed == "targets":
        targets = tmp_path / "targets.json"
    monkeypatch.setattr(coordinates, "predict_traced", fake(calls := []))
    bop_pipeline.predict_bop(pipeline.load(folder, "cpu"), data, targets, out, **options)
    assert len(calls) == (3 if changed == "nothing" else 23)
    assert not (tmp_path / ".partial").exists()


def test_limit_boxes_and_debug(run, data, tmp_path, monkeypatch):
    model = pipeline.load(run, "cpu")
    monkeypatch.setattr(coordinates, "predict_traced", fake(calls := []))
    targets = scenes.read_targets(data / "train_targets_bop19.json")
    obj_id = int(targets.obj_id[0])
    rows: list[dict] = []
    for (x0, y0, x1, y1), score in zip(BOXES.boxes.tolist(), BOXES.scores.tolist(), strict=True):
        row = {"scene_id": 0, "image_id": int(targets.im_id[0]), "category_id": obj_id, "score": score}
        rows.append({**row, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    rows.append({**rows[0], "category_id": 77})  # an object the run does not know
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    out = bop_run(
        model, data, tmp_path / "mine_tiny-train.csv", boxes=tmp_path / "boxes.json", limit=2, debug=tmp_path / "stages"
    )
    assert len(calls) == 2
    results = bop_results.read_results(out)
    assert results.obj_id.tolist() == [obj_id] * 2  # the second image has no boxes
    assert sorted(results.score.tolist()) == pytest.approx([0.4, 0.9])
    assert results.time.tolist() == [0.25, 0.25]
    assert sorted(p.name for p in (tmp_path / "stages").iterdir())[0] == f"000000_{int(targets.im_id[0]):06d}"


def test_bad_names_and_missing_truth(run, data, tmp_path):
    model = pipeline.load(run, "cpu")
    with pytest.raises(ValueError, match="a BOP result file is named"):
        bop_run(model, data, tmp_path / "results.csv")
    with pytest.raises(FileNotFoundError, match=r"test_targets_bop19\.json"):
        bop_pipeline.predict_bop(model, data, None, tmp_path / "mine_tiny-train.csv")
    with pytest.raises(FileNotFoundError, match="000000"):
        bop_run(model, data, tmp_path / "mine_tiny-test.csv")
    truth = scenes.read_instances(scenes.open_scene(data / "train/000000"), 0, masks=False)
    with pytest.raises(ValueError, match=r"true boxes need scene_gt_info\.json"):
        bop_pipeline.truth_as_detections(dataclasses.replace(truth, boxes=None), [2])
    chosen = bop_pipeline.truth_as_detections(truth, truth.labels[:1].tolist())
    assert chosen.labels.tolist() == truth.labels[:1].tolist()


def test_what_is_found_twice_counts_once(run, frame, monkeypatch):
    """Of equal poses of one object the best stays; another object there, and the same one elsewhere, are others."""
    pose = torch.eye(4).repeat(4, 1, 1)
    pose[:, 2, 3] = 0.5
    pose[1, 0, 3] = 0.002
    pose[3, 0, 3] = 0.15
    labels = torch.tensor([5, 5, 2, 5])

    def predict(network, frame, found, models=None):
        return PoseEstimates(labels, pose, torch.tensor([0.4, 0.9, 0.5, 0.3])), []

    monkeypatch.setattr(coordinates, "predict_traced", predict)
    model = pipeline.load(run, "cpu")
    poses = model.predict(frame)
    assert poses.labels.tolist() == [5, 2, 5]
    assert poses.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert poses.cam_from_obj[0, 0, 3] == pytest.approx(0.002)
    assert len(model.predict(frame, BOXES)) == 4  # who gives boxes wants a pose for each
    behind = pipeline.distinct(poses[:1], OBJECTS[5].corners[None] - torch.tensor([0.0, 0.0, 1.0]), frame.camera.K)
    assert len(behind) == 1
    assert len(pipeline.distinct(poses[:0], torch.zeros(0, 8, 3), frame.camera.K)) == 0
