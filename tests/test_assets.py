"""The demo assets say true things: closed meshes, real symmetries, poses that fit their photos, small files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

import monopose
from monopose.datasets.bop import models as bop_models
from monopose.datasets.bop import scenes
from monopose.geometry import symmetry
from monopose.mesh.loading import albedo, diameter, surface_samples
from monopose.render.scene import render_masks, render_scene

ASSETS = Path(monopose.__file__).parent / "assets" / "demo"
OBJECTS, PHOTOS = ASSETS / "objects", ASSETS / "photos"
SCENE = PHOTOS / "test" / "000001"
NAMES = {1: "biscuit_box", 2: "toy_train", 3: "cross_knob", 4: "ring_bottle", 5: "bracket"}
IMAGES = range(6)


@pytest.fixture(scope="module")
def models():
    return bop_models.read_models(OBJECTS)


@pytest.fixture(scope="module")
def scene():
    return scenes.open_scene(SCENE)


@pytest.fixture(scope="module")
def frames(scene):
    return {k: scenes.read_frame(scene, k, masks=False) for k in IMAGES}


def turn(axis, degrees):
    """obj_from_obj rotation about a coordinate axis."""
    a, (i, j) = np.deg2rad(degrees), {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    pose = torch.eye(4)
    pose[i, i] = pose[j, j] = float(np.cos(a))
    pose[j, i], pose[i, j] = float(np.sin(a)), -float(np.sin(a))
    return pose


def painted(model, n, seed):
    """Surface points (n, 3) in metres and their colours (n, 3)."""
    samples = surface_samples(model, n, torch.Generator().manual_seed(seed))
    return samples.points, albedo(model, samples)


PAINTED: dict[int, tuple] = {}  # by object: a few points of its surface and their colours, many in a tree and theirs


def differs(model, obj_from_obj):
    """How a motion changes an object: the largest distance to its own surface over the diameter; share of recoloured points."""
    if model.obj_id not in PAINTED:
        surface, surface_colors = painted(model, 300_000, 1)
        PAINTED[model.obj_id] = (*painted(model, 4000, 0), cKDTree(surface.numpy()), surface_colors)
    points, colors, tree, surface_colors = PAINTED[model.obj_id]
    moved = points @ obj_from_obj[:3, :3].T + obj_from_obj[:3, 3]
    distance, index = tree.query(moved.numpy())
    recoloured = (surface_colors[index] - colors).abs().amax(1) > 0.1
    return float(distance.max()) / model.diameter, float(recoloured.float().mean())


# ------------------------------------------------------------------------------------------------ files


def test_assets_stay_small():
    sizes = {p: p.stat().st_size for p in [*OBJECTS.rglob("*"), *PHOTOS.rglob("*")] if p.is_file()}
    assert sum(size for path, size in sizes.items() if OBJECTS in path.parents) < 1.5e6
    assert sum(sizes.values()) < 2.5e6
    pictures = {p: size for p, size in sizes.items() if p.suffix == ".jpg"}
    assert len(pictures) == len(IMAGES)
    assert max(pictures.values()) < 120_000


def test_names_belong_to_the_objects(models):
    assert {int(k): v for k, v in json.loads((OBJECTS / "names.json").read_text()).items()} == NAMES
    assert set(models) == set(NAMES)


# ------------------------------------------------------------------------------------------------ meshes


@pytest.mark.parametrize("obj_id", NAMES, ids=NAMES.get)
def test_mesh_is_a_closed_surface_that_faces_outwards(models, obj_id):
    model = models[obj_id]
    assert 2000 <= len(model.faces) <= 12_000
    _, place = np.unique(model.vertices.numpy(), axis=0, return_inverse=True)
    half_edges = place.reshape(-1)[model.faces.numpy()][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    _, times = np.unique(half_edges, axis=0, return_counts=True)
    assert (times == 1).all()  # every directed edge once ...
    assert {tuple(e) for e in half_edges} == {tuple(e[::-1]) for e in half_edges}  # ... and once the other way
    corners = model.vertices[model.faces].double()
    assert torch.linalg.det(corners).sum() / 6 > 5e-5  # volume in cubic metres, positive if the faces look outwards
    face_normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    big = face_normals.norm(dim=1) > 1e-8
    agree = (face_normals[:, None] * model.normals[model.faces]).sum(-1) > 0
    assert agree[big].all()
    torch.testing.assert_close(model.normals.norm(dim=1), torch.ones(len(model.normals)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("obj_id", NAMES, ids=NAMES.get)
def test_models_info_holds_for_the_mesh(models, obj_id):
    model, info = models[obj_id], bop_models.read_models_info(OBJECTS)[obj_id]
    assert 0.06 < model.diameter < 0.20
    assert info.diameter == pytest.approx(diameter(model.vertices), rel=1e-5)
    low, high = model.bounds.numpy()
    np.testing.assert_allclose(low, -high, atol=2e-7)  # the origin is the centre of the box
    record = json.loads((OBJECTS / "models_info.json").read_text())[str(obj_id)]
    np.testing.assert_allclose([record[f"min_{a}"] for a in "xyz"], low * 1000, atol=1e-3)
    np.testing.assert_allclose([record[f"size_{a}"] for a in "xyz"], (high - low) * 1000, atol=1e-3)


def test_declared_symmetries():
    info = bop_models.read_models_info(OBJECTS)
    assert [len(info[k].symmetries.discrete) for k in NAMES] == [0, 0, 3, 0, 0]
    assert [len(info[k].symmetries.axes) for k in NAMES] == [0, 0, 0, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("obj_id", "steps"), [(3, 1), (4, 7)], ids=["cross_knob", "ring_bottle"])
def test_declared_symmetries_are_true_of_surface_and_colour(models, obj_id, steps):
    group = symmetry.transforms(models[obj_id].symmetries, steps)
    assert len(group) == {3: 4, 4: 7}[obj_id]
    for motion in group.float():
        distance, recoloured = differs(models[obj_id], motion)
        assert distance < 0.01
        assert recoloured < 0.02  # points within a fraction of a millimetre of an edge between colours


@pytest.mark.slow
@pytest.mark.parametrize(
    ("obj_id", "axis", "degrees"),
    [(k, axis, 180) for k in (1, 2, 5) for axis in "xyz"] + [(3, "z", 45), (3, "x", 180), (4, "x", 180)],
)
def test_other_turns_show(models, obj_id, axis, degrees):
    distance, recoloured = differs(models[obj_id], turn(axis, degrees))
    assert distance > 0.05 or recoloured > 0.2


# ------------------------------------------------------------------------------------------------ photos


def test_photos_are_a_bop_split(scene, frames):
    camera = scenes.read_camera(PHOTOS / "camera.json")
    assert camera.size == (480, 640)
    assert list(scene.im_ids) == list(IMAGES)
    targets = scenes.read_targets(PHOTOS / "test_targets_bop19.json")
    assert len(targets.im_id) == len(IMAGES) * len(NAMES)
    for frame in frames.values():
        torch.testing.assert_close(frame.camera.K, camera.K.to(frame.camera.K))
        assert frame.instances.labels.tolist() == list(NAMES)


def test_truth_poses_are_rigid_and_about_one_metre_away(scene):
    eye = np.broadcast_to(np.eye(3), scene.truth.R.shape)
    np.testing.assert_allclose(scene.truth.R @ scene.truth.R.transpose(0, 2, 1), eye, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(scene.truth.R), 1, atol=1e-9)
    assert scene.truth.t[:, 2].min() > 0.35
    assert scene.truth.t[:, 2].max() < 1.1


def test_every_object_is_seen_on_different_sides(scene):
    for obj_id in NAMES:
        rows = scene.truth.obj_id == obj_id
        directions = -np.einsum("nij,ni->nj", scene.truth.R[rows], scene.truth.t[rows])  # of the camera, object frame
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        assert (directions @ directions.T).min() < 0.3  # over 70 degrees apart


@pytest.mark.parametrize("im_id", IMAGES)
def test_masks_of_our_renderer_equal_those_of_the_path_tracer(models, frames, scene, im_id):
    """scene_gt_info.json comes from one ray per pixel in another program."""
    frame, info = frames[im_id], json.loads((SCENE / "scene_gt_info.json").read_text())[str(im_id)]
    poses = frame.instances.cam_from_obj.float()
    ours = render_masks([models[k] for k in NAMES], poses, frame.camera.K.float(), frame.camera.size)
    for full, seen, visibility, theirs in zip(ours.masks_full, ours.masks_visible, ours.visibility, info, strict=True):
        assert int(full.sum()) == pytest.approx(theirs["px_count_all"], abs=3 + 0.002 * theirs["px_count_all"])
        assert int(seen.sum()) == pytest.approx(theirs["px_count_visib"], abs=3 + 0.002 * theirs["px_count_all"])
        assert float(visibility) == pytest.approx(theirs["visib_fract"], abs=0.005)
        assert theirs["visib_fract"] > 0.5
        rows, columns = full.any(1).nonzero(), full.any(0).nonzero()
        box = [columns[0], rows[0], columns[-1] - columns[0], rows[-1] - rows[0]]
        np.testing.assert_allclose([int(v) for v in box], theirs["bbox_obj"], atol=1)
        x, y, w, h = theirs["bbox_obj"]
        assert x > 0
        assert y > 0
        assert x + w < 639
        assert y + h < 479


@pytest.mark.parametrize("im_id", IMAGES)
def test_photo_fits_its_truth_to_the_pixel(models, frames, im_id):
    """Our rendering of the true poses correlates best with the photo where it is, not a few pixels beside."""
    frame = frames[im_id]
    poses = frame.instances.cam_from_obj.float()
    ours = render_scene([models[k] for k in NAMES], poses, frame.camera.K.float(), frame.camera.size)
    inside = ours.index >= 0
    chroma = [p - p.mean(0) for p in (frame.image.float(), ours.image)]  # without brightness, which depends on the lamps

    def correlation(dx, dy):
        a, b = torch.roll(chroma[0], (-dy, -dx), (1, 2))[:, inside].reshape(-1), chroma[1][:, inside].reshape(-1)
        return float(torch.corrcoef(torch.stack([a, b]))[0, 1])

    shifts = [(dx, dy) for dx in range(-3, 4) for dy in range(-3, 4)]
    best = max(shifts, key=lambda shift: correlation(*shift))
    assert max(map(abs, best)) <= 1
    assert correlation(0, 0) > 0.8
