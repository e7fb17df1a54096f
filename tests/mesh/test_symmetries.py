"""Symmetries of bodies whose groups are known."""

import numpy as np
import pytest
import torch
import trimesh

from monopose.geometry.symmetry import transforms
from monopose.mesh.loading import load_mesh, surface_samples
from monopose.mesh.symmetries import propose_symmetries

CREATE = trimesh.creation
MOVED = trimesh.transformations.random_rotation_matrix(np.array([0.1, 0.5, 0.9]))
MOVED[:3, 3] = (0.03, -0.02, 0.07)


def model_of(mesh, folder, transform=None):
    mesh = mesh.copy()
    if transform is not None:
        mesh.apply_transform(transform)
    mesh.export(folder / "part.ply")
    return load_mesh(folder / "part.ply", "m")


def proposed(model):
    return propose_symmetries(model, samples=12_000)


def assert_moves_onto_itself(model, symmetries, tolerance=0.015):
    """Independent check: every proposed motion keeps the surface, by trimesh's own closest points."""
    mesh = trimesh.Trimesh(model.vertices.numpy(), model.faces.numpy(), process=False)
    points = torch.cat([surface_samples(model, 150, torch.Generator().manual_seed(5)).points, model.vertices[:50]]).numpy()
    from scipy.spatial import cKDTree

    dense = cKDTree(trimesh.sample.sample_surface(mesh, 60_000, seed=1)[0])
    for T in transforms(symmetries, steps=7).numpy():
        distance = dense.query(points @ T[:3, :3].T + T[:3, 3])[0].max()
        assert distance < (tolerance + 0.012) * model.diameter  # 0.012: between samples


def nut():
    outer = CREATE.cylinder(0.01, 0.008, sections=6)
    bore = CREATE.annulus(0.004, 0.0041, 0.0081, sections=48)  # the wall of the hole, without a boolean operation
    return trimesh.util.concatenate([outer, bore])


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh, elements, transform",
    [
        (CREATE.box((0.1, 0.06, 0.04)), 3, None),
        (CREATE.box((0.1, 0.06, 0.04)), 3, MOVED),
        (CREATE.box((0.1, 0.06, 0.06)), 7, MOVED),
        (nut(), 11, MOVED),
    ],
    ids=["upright box", "box", "square bar", "hexagonal nut"],
)
def test_finite_groups(tmp_path, mesh, elements, transform):
    model = model_of(mesh, tmp_path, transform)
    symmetries, findings = proposed(model)
    assert len(symmetries.discrete) == elements
    assert len(symmetries.axes) == 0
    assert all(f.accepted for f in findings if f.verdict != "nearly")
    assert_moves_onto_itself(model, symmetries)


@pytest.mark.slow
def test_a_cube_has_23_rotations_and_one_red_face_leaves_3(tmp_path):
    cube = CREATE.box((1, 1, 1)).subdivide().subdivide().subdivide()
    cube.apply_scale(0.08)
    assert len(proposed(model_of(cube, tmp_path)).symmetries.discrete) == 23
    red = cube.vertices[:, 2:] > 0.0399
    cube.visual.vertex_colors = np.where(red, [[255, 0, 0, 255]], [[200, 200, 200, 255]]).astype(np.uint8)
    symmetries, findings = proposed(model_of(cube, tmp_path))
    assert len(symmetries.discrete) == 3  # quarter turns about the red face
    torch.testing.assert_close(symmetries.discrete[:, 2, 2], torch.ones(3))
    refused = [f for f in findings if f.verdict == "geometry only"]
    assert refused
    assert all(f.color_difference > 0.2 and "not proposed" in str(f) for f in refused)


@pytest.mark.slow
def test_cylinder_is_continuous_with_a_flip_and_a_cone_without(tmp_path):
    model = model_of(CREATE.cylinder(0.03, 0.1, sections=64), tmp_path)
    symmetries = proposed(model).symmetries
    torch.testing.assert_close(symmetries.axes, torch.tensor([[0.0, 0, 1]]))
    torch.testing.assert_close(symmetries.offsets[:, :2], torch.zeros(1, 2))
    assert len(symmetries.discrete) == 1
    assert symmetries.discrete[0, 2, 2] == pytest.approx(-1)
    assert_moves_onto_itself(model, symmetries)

    cone = model_of(CREATE.cone(0.03, 0.1, sections=64), tmp_path, MOVED)
    symmetries = proposed(cone).symmetries
    assert (len(symmetries.axes), len(symmetries.discrete)) == (1, 0)
    axis = torch.from_numpy(MOVED[:3, 2]).float()
    assert abs(float(symmetries.axes[0] @ axis)) > 1 - 1e-4
    lateral = torch.linalg.cross(symmetries.offsets[0] - torch.from_numpy(MOVED[:3, 3]).float(), axis)
    assert lateral.norm() < 1e-3


@pytest.mark.slow
def test_a_ball_has_two_axes(tmp_path):
    symmetries = proposed(model_of(CREATE.icosphere(4, 0.05), tmp_path)).symmetries
    assert len(symmetries.axes) == 2
    assert abs(float(symmetries.axes[0] @ symmetries.axes[1])) < 1e-6
    assert len(symmetries.discrete) == 0


@pytest.mark.slow
def test_a_gear_counts_its_teeth(tmp_path):
    teeth = 41  # more than the folds that are always tried
    n = teeth * 8
    angles = np.arange(n) * 2 * np.pi / n
    radius = np.where(np.arange(n) % 8 < 4, 0.05, 0.04)
    ring = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)
    vertices = np.concatenate([np.c_[ring, np.zeros(n)], np.c_[ring * 0.9, np.full(n, 0.02)], [[0, 0, 0], [0, 0, 0.02]]])
    i, j = np.arange(n), np.roll(np.arange(n), -1)
    walls = np.concatenate([np.stack([i, j, j + n], 1), np.stack([i, j + n, i + n], 1)])
    caps = np.concatenate([np.stack([j, i, 0 * i + 2 * n], 1), np.stack([i + n, j + n, 0 * i + 2 * n + 1], 1)])
    gear = trimesh.Trimesh(vertices, np.concatenate([walls, caps]), process=False)
    symmetries, findings = proposed(model_of(gear, tmp_path))
    assert [f.fold for f in findings if f.accepted] == [teeth]
    angle = 2 * np.pi * np.arange(1, teeth) / teeth
    torch.testing.assert_close(
        symmetries.discrete[:, 0, 0].sort().values, torch.from_numpy(np.sort(np.cos(angle))).float(), atol=1e-4, rtol=0
    )


@pytest.mark.slow
def test_what_no_camera_sees_does_not_count(tmp_path):
    inside = CREATE.box((0.02, 0.01, 0.015), transform=trimesh.transformations.translation_matrix((0.01, 0.012, -0.01)))
    cube = trimesh.util.concatenate([CREATE.box((0.08, 0.08, 0.08)), inside])
    assert len(proposed(model_of(cube, tmp_path)).symmetries.discrete) == 23

    # an L of equal legs as two bodies that touch: the faces between them are hidden
    foot = CREATE.box((0.04, 0.02, 0.005), transform=trimesh.transformations.translation_matrix((0.02, 0, 0.0025)))
    leg = CREATE.box((0.005, 0.02, 0.035), transform=trimesh.transformations.translation_matrix((0.0025, 0, 0.0225)))
    model = model_of(trimesh.util.concatenate([foot, leg]), tmp_path)
    symmetries = proposed(model).symmetries
    swap = torch.tensor([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])  # half a turn about (1, 0, 1)
    torch.testing.assert_close(symmetries.discrete[:, :3, :3], swap[None], atol=1e-2, rtol=0)
    torch.testing.assert_close(symmetries.discrete[:, :3, 3], torch.zeros(1, 3), atol=5e-4, rtol=0)


@pytest.mark.slow
def test_an_l_shape_has_none(tmp_path):
    foot = CREATE.box((0.02, 0.02, 0.07), transform=trimesh.transformations.translation_matrix((0.04, 0, 0.045)))
    ell = trimesh.util.concatenate([CREATE.box((0.1, 0.02, 0.02)), foot])
    symmetries, _ = proposed(model_of(ell, tmp_path))
    assert not symmetries.any


@pytest.mark.slow
def test_the_same_model_gives_the_same_proposal(tmp_path):
    model = model_of(CREATE.box((0.1, 0.06, 0.04)), tmp_path)
    one, two = (propose_symmetries(model, samples=3000) for _ in range(2))
    assert torch.equal(one.symmetries.discrete, two.symmetries.discrete)
    assert one.findings == two.findings


@pytest.mark.slow
def test_industrial_parts_agree_with_their_published_symmetries(shared_data):
    folder = shared_data / "meshes" / "ipd_industrial"
    symmetries = propose_symmetries(load_mesh(folder / "obj_000020.ply", "mm")).symmetries
    torch.testing.assert_close(symmetries.discrete[:, :3, :3], torch.diag(torch.tensor([-1.0, -1, 1]))[None])
    assert len(symmetries.axes) == 0
