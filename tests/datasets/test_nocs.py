"""NOCS's layout, written as its makers wrote it and read back: coordinates rendered here, poses found again."""

import math
import pickle

import cv2
import numpy as np
import pytest
import torch

from monopose.datasets import nocs
from monopose.geometry import rotation, se3, viewpoints
from monopose.geometry.camera import K_from_fov
from monopose.render.scene import render_scene
from monopose.synthesis.shapes import tableware
from monopose.types import Camera

SIZE = (150, 200)
CAMERA = Camera(K_from_fov(math.radians(45), SIZE), SIZE)
KINDS = ("mug", "bowl", "bottle")


def _scene():
    """A mug, a bowl and a bottle side by side, and a can that NOCS does not label."""
    models = [tableware.shape(kind, 3) for kind in (*KINDS, "can")]
    angles = torch.tensor([[0.9, 0.5, 0.1], [2.0, 0.5, 0.1], [4.0, 0.5, 0.1], [0.0, 0.5, 0.1]])
    place = torch.tensor([[-0.2, 0.0, 0.85], [0.02, 0.02, 0.9], [0.2, -0.05, 0.95], [0.0, -0.2, 1.1]])
    poses = se3.from_rt(viewpoints.rotation_of(angles), place)
    return models, poses, render_scene(models, poses, CAMERA.K, SIZE)


def _write(folder, models, poses, scene, camera_style=False, mirrored=True):
    """One photo in the layout of REAL275, or of CAMERA25. -> path without "_color.png"."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / "0000"
    index = scene.index.numpy()
    coordinates, lines = np.zeros((*SIZE, 3)), []
    objects = folder.parents[1] / "obj_models"
    for k, model in enumerate(models):
        low, high = model.bounds.double()
        axes = nocs.NOCS_FROM_CATEGORY
        local = (scene.coordinates.double() - (low + high) / 2) @ axes.T / (high - low).norm() + 0.5
        coordinates[index == k] = local.numpy()[index == k]
        label = 1 + nocs.CLASSES.index(KINDS[k]) if k < 3 else 0
        name = f"0380{k} abc{k}" if camera_style else f"{model.name}_norm"
        lines.append(f"{k + 1} {label} {name}")
        extents = ((high - low) @ axes.T).abs().numpy()
        if camera_style:
            path = objects / "val" / name.replace(" ", "/") / "bbox.txt"
            path.parent.mkdir(parents=True)
            np.savetxt(path, np.stack([extents / 2, -extents / 2]))
        else:
            path = objects / "real_test" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(path, 7 * extents)  # in any unit
    if mirrored:
        coordinates[..., 2] = np.where(index >= 0, 1 - coordinates[..., 2], 0)
    coded = np.round(coordinates * 255).clip(0, 255).astype(np.uint8)
    numbers = np.where(index >= 0, index + 1, 255).astype(np.uint8)
    depth = np.round(scene.depth.numpy() * 1000).astype(np.uint16)
    if camera_style:
        depth = np.stack([np.zeros_like(depth), depth // 256, depth % 256], -1).astype(np.uint8)
    for name, picture in (
        ("color", (scene.image.permute(1, 2, 0).numpy()[..., ::-1] * 255).astype(np.uint8)),
        ("mask", np.stack([np.zeros_like(numbers), np.zeros_like(numbers), numbers], -1)), ("coord", coded[..., ::-1]),
        ("depth", depth),
    ):  # fmt: skip
        cv2.imwrite(f"{stem}_{name}.png", picture)
    (folder / "0000_meta.txt").write_text("\n".join(lines) + "\n")
    return stem


@pytest.fixture(scope="module")
def scene():
    return _scene()


@pytest.fixture
def real(scene, tmp_path):
    return _write(tmp_path / "real_test" / "scene_1", *scene)


@pytest.mark.parametrize("camera_style", [False, True])
@pytest.mark.parametrize("with_models", [False, True])
def test_poses_come_back_from_a_true_layout(scene, tmp_path, camera_style, with_models):
    models, poses, _ = scene
    stem = _write(tmp_path / "split" / "scene_1", *scene, camera_style=camera_style)
    assert nocs.find(tmp_path) == [stem]
    frame = nocs.read(stem, CAMERA, tmp_path / "obj_models" if with_models else None)
    assert [nocs.CLASSES[k - 1] for k in frame.labels.tolist()] == list(KINDS)  # the can is background
    assert frame.from_models == with_models
    found, sizes = nocs.poses(frame)
    bounds = torch.stack([m.bounds for m in models[:3]])
    true, true_sizes = nocs.from_category(poses[:3].double(), bounds.double())
    assert float(rotation.angle_between(found[:, :3, :3], true[:, :3, :3]).max()) < math.radians(0.6)
    assert float((found[:, :3, 3] - true[:, :3, 3]).norm(dim=-1).max()) < 0.002
    # half of an object shows where its other half ends, but for the side of the mug that has no handle
    error = (sizes / true_sizes - 1).abs()
    assert float(error.max()) < (0.015 if with_models else 0.12)


def test_what_is_read_is_in_our_units(real, scene):
    models, _, rendered = scene
    frame = nocs.read(real, CAMERA)
    assert frame.models == [f"{kind}_003_norm" for kind in KINDS]
    assert torch.allclose(frame.depth, rendered.depth, atol=6e-4)
    assert torch.equal(frame.masks, rendered.masks_visible[:3])
    assert torch.allclose(frame.image, rendered.image, atol=1 / 250)
    points = frame.coordinates[frame.masks[0]]
    assert float(points[:, nocs.UP].amax()) == pytest.approx(
        float(models[0].bounds[1, 2] / torch.diff(models[0].bounds, dim=0).norm()), abs=0.01
    )
    assert float(frame.coordinates[~frame.masks.any(0)].abs().max()) == 0


def test_handles_keep_their_direction():
    """The mug's handle is at +X in NOCS's frame too, and up is +Y."""
    mug = tableware.shape("mug", 1)
    pose, size = nocs.from_category(torch.eye(4, dtype=torch.float64), mug.bounds.double())
    moved = se3.transform(se3.inverse(pose), mug.vertices.double())
    assert torch.allclose(moved.amax(0), size / 2, atol=1e-6)
    assert torch.allclose(moved.amin(0), -size / 2, atol=1e-6)
    far = moved[moved[:, 0].argmax()]
    assert abs(float(far[2])) < 0.02
    lip = moved[mug.vertices[:, 2].argmax()]
    assert float(lip[1]) == pytest.approx(float(size[1]) / 2, abs=1e-6)


def test_similarity_is_exact_and_robust():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(400, 3, generator=generator, dtype=torch.float64) - 0.5
    R, t = rotation.random_rotations(1, generator, torch.float64)[0], torch.tensor([0.1, -0.2, 0.9], dtype=torch.float64)
    y = 0.3 * x @ R.T + t
    found = nocs.umeyama(x, y)
    assert float(found.scale) == pytest.approx(0.3)
    assert torch.allclose(found.R, R)
    assert torch.allclose(found.t, t)
    assert float(found.residual) < 1e-12
    y[:120] += torch.rand(120, 3, generator=generator, dtype=torch.float64)  # depth of what stands behind
    plain, robust = nocs.umeyama(x, y), nocs.robust_similarity(x, y)
    assert float(rotation.angle_between(plain.R, R)) > 0.02
    assert float(rotation.angle_between(robust.R, R)) < 1e-6
    assert float(robust.scale) == pytest.approx(0.3)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    assert float(torch.linalg.det(nocs.umeyama(x, x @ mirror).R)) == pytest.approx(1.0)


def test_unmirrored_coordinates_are_refused(scene, tmp_path):
    stem = _write(tmp_path / "real_test" / "scene_1", *scene, mirrored=False)
    with pytest.raises(ValueError, match=r"mug.*only when mirrored.*red, green, blue = x, y, 1 - z"):
        nocs.poses(nocs.read(stem, CAMERA))


def test_swapped_colours_are_refused(real):
    picture = cv2.imread(f"{real}_coord.png")
    cv2.imwrite(f"{real}_coord.png", picture[..., ::-1])
    with pytest.raises(ValueError, match=r"only when mirrored.*were red and blue swapped"):
        nocs.poses(nocs.read(real, CAMERA))


def test_broken_files_are_named(real, tmp_path):
    depth = cv2.imread(f"{real}_depth.png", cv2.IMREAD_UNCHANGED)
    cv2.imwrite(f"{real}_depth.png", np.minimum(depth // 1000, 3))
    with pytest.raises(ValueError, match=r"0000_depth\.png says that things are 1 mm away.*metres or centimetres"):
        nocs.read(real, CAMERA)
    cv2.imwrite(f"{real}_depth.png", (depth // 8).astype(np.uint8))
    with pytest.raises(ValueError, match=r"depth.png must be 16 bit grey"):
        nocs.read(real, CAMERA)
    cv2.imwrite(f"{real}_depth.png", depth)
    with pytest.raises(ValueError, match="200x150, the camera is for 640x480"):
        nocs.read(real)
    with pytest.raises(FileNotFoundError, match="names the model mug_003_norm"):
        nocs.read(real, CAMERA, tmp_path / "nowhere")
    meta = real.with_name("0000_meta.txt")
    meta.write_text("1 7 plane_norm\n")
    with pytest.raises(ValueError, match=r"0000_meta.txt:1: class 7; NOCS has 1 \(bottle\) to 6 \(mug\)"):
        nocs.read(real, CAMERA)
    meta.write_text("one mug\n")
    with pytest.raises(ValueError, match='expected "instance class model"'):
        nocs.read(real, CAMERA)
    meta.unlink()
    with pytest.raises(FileNotFoundError, match=r"0000_meta.txt"):
        nocs.read(real, CAMERA)
    with pytest.raises(FileNotFoundError, match=r"no 0000_color.png or the like"):
        nocs.find(tmp_path / "obj_models")


def test_objects_without_depth_have_no_pose(real):
    depth = cv2.imread(f"{real}_depth.png", cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(f"{real}_mask.png")[..., 2] == 2
    depth[mask] = 0
    cv2.imwrite(f"{real}_depth.png", depth)
    poses, sizes = nocs.poses(nocs.read(real, CAMERA))
    assert torch.isfinite(poses).flatten(1).all(1).tolist() == [True, False, True]
    assert torch.isfinite(sizes).all(1).tolist() == [True, False, True]


# ----------------------------------------------------------------------------------------------------------------- results


def _fields():
    R = rotation.so3_exp(torch.tensor([0.1, 2.0, 0.3], dtype=torch.float64)).numpy()
    scaled = np.eye(4)
    scaled[:3, :3], scaled[:3, 3] = 0.2 * R, (0.1, 0.0, 0.7)
    extents = np.array([[0.6, 0.64, 0.48]])
    return {
        "gt_class_ids": np.array([6], np.int32), "gt_RTs": scaled[None], "gt_scales": extents,
        "gt_handle_visibility": np.array([0]), "pred_class_ids": np.array([6, 1], np.int32),
        "pred_RTs": np.stack([scaled, np.zeros((4, 4))]), "pred_scales": np.repeat(extents, 2, 0),
        "pred_scores": np.array([0.9, 0.4], np.float32), "image_path": "data/real/test/scene_1/0000",
    }, R  # fmt: skip


def _dump(path, fields):
    path.write_bytes(pickle.dumps(fields, protocol=2))
    return path


def test_results_are_rigid_and_metric(tmp_path):
    fields, R = _fields()
    path = _dump(tmp_path / "results_real_test_scene_1_0000.pkl", fields)
    results = nocs.results_folder(tmp_path)
    assert len(results) == 1
    found = results[0]
    assert torch.allclose(found.cam_from_obj_true[0, :3, :3], torch.from_numpy(R))
    assert torch.allclose(found.sizes_true, torch.tensor([[0.12, 0.128, 0.096]], dtype=torch.float64))
    assert found.labels.tolist() == [6, 1]
    assert bool(torch.isnan(found.cam_from_obj[1]).all())  # the original writes zeros where it found no pose
    assert found.handle_visible is not None
    assert found.handle_visible.tolist() == [False]
    assert found.scores.tolist() == pytest.approx([0.9, 0.4])
    truth_only = {k: v for k, v in fields.items() if k.startswith("gt_")}
    assert len(nocs.read_results(_dump(path, truth_only)).labels) == 0


def test_broken_results_are_named(tmp_path):
    fields, _ = _fields()
    path = tmp_path / "results_0.pkl"
    for change, message in (
        ({"gt_RTs": fields["gt_RTs"] * np.array([1000, 1000, 1000, 1])[:, None]}, "are they in millimetres"),
        ({"gt_RTs": fields["gt_RTs"] * np.array([1, 1, -1, 1])}, "are the axes mirrored"),
        ({"gt_RTs": fields["gt_RTs"].transpose(0, 2, 1)}, "transposed"),
        ({"pred_RTs": fields["pred_RTs"].transpose(0, 2, 1)}, "last row of pred_RTs .* transposed"),
        ({"gt_RTs": fields["gt_RTs"] * np.array([9, 1, 1, 1])}, "'gt_RTs without their scale' must be a rotation matrix"),
        ({"pred_RTs": fields["pred_RTs"] * np.array([9, 1, 1, 1])}, "'pred_RTs without their scale' must be a rotation"),
        ({"pred_scales": fields["pred_scales"][:1]}, "2 pred_class_ids, but 2 pred_RTs and 1 pred_scales"),
        ({"pred_scores": fields["pred_scores"][:1]}, "2 estimates need as many scores"),
    ):
        with pytest.raises(ValueError, match=message):
            nocs.read_results(_dump(path, {**fields, **change}))
    with pytest.raises(ValueError, match="expected a dict with gt_class_ids"):
        nocs.read_results(_dump(path, {"RTs": 1}))
    with pytest.raises(FileNotFoundError, match="no results_"):
        nocs.results_folder(tmp_path / "empty")


def test_results_are_judged_by_the_published_truth(tmp_path):
    fields, _ = _fields()
    moved = {**fields, "gt_RTs": fields["gt_RTs"] + np.array([[0, 0, 0, 0.1], [0] * 4, [0] * 4, [0] * 4])}
    for name, content in (("gts", moved), ("mine", fields)):
        (tmp_path / name).mkdir()
        kind = "real_test" if name == "gts" else "test"
        _dump(tmp_path / name / f"results_{kind}_scene_1_0007.pkl", content)
    (found,) = nocs.results_folder(tmp_path / "mine", tmp_path / "gts")
    torch.testing.assert_close(found.cam_from_obj_true[0, :3, 3], torch.tensor([0.2, 0.0, 0.7], dtype=torch.float64))
    assert found.cam_from_obj[0, 0, 3] == 0.1
    (tmp_path / "gts/results_real_test_scene_1_0007.pkl").rename(tmp_path / "gts/results_real_test_scene_2_0007.pkl")
    with pytest.raises(FileNotFoundError, match=r"gts has no results_\*.pkl of results_test_scene_1_0007"):
        nocs.results_folder(tmp_path / "mine", tmp_path / "gts")


def test_detections_in_both_forms(tmp_path):
    masks = np.zeros((*SIZE, 2), bool)
    masks[3:9, 4:8, 1] = True
    for ids, scores, name in (("pred_class_ids", "pred_scores", "pred_mask"), ("class_ids", "scores", "masks")):
        fields = {ids: np.array([6, 1], np.int32), scores: np.array([0.9, 0.4], np.float32), name: masks}
        labels, certain, found = nocs.read_detections(_dump(tmp_path / "results_0.pkl", fields), SIZE)
        assert (labels.tolist(), certain.tolist()) == ([6, 1], pytest.approx([0.9, 0.4]))
        assert found.sum((1, 2)).tolist() == [0, 24]
        assert bool(found[1, 3:9, 4:8].all())
        with pytest.raises(ValueError, match=rf"{name} must be 9 x 9 x 2"):
            nocs.read_detections(tmp_path / "results_0.pkl", (9, 9))
        with pytest.raises(ValueError, match=rf"{ids} must be 1 to 6"):
            nocs.read_detections(_dump(tmp_path / "results_0.pkl", fields | {ids: np.array([6, 0])}), SIZE)
    with pytest.raises(ValueError, match="expected pred_class_ids, pred_scores and pred_masks, got RTs"):
        nocs.read_detections(_dump(tmp_path / "results_0.pkl", {"RTs": 1}), SIZE)
    nothing = {"class_ids": np.zeros(0, np.int32), "scores": np.zeros(0), "masks": np.zeros((*SIZE, 0), bool)}
    assert nocs.read_detections(_dump(tmp_path / "results_0.pkl", nothing), SIZE)[2].shape == (0, *SIZE)


class _Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_pickles_run_no_code(tmp_path, capsys):
    fields, _ = _fields()
    with pytest.raises(ValueError, match=r"it wants to call (builtins|__builtin__)\.print"):
        nocs.read_results(_dump(tmp_path / "results_0.pkl", {**fields, "gt_RTs": _Evil()}))
    assert capsys.readouterr().out == ""
