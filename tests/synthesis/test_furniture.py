"""Parametric furniture: closed, metric, repeatable, with its front towards -Y."""

import math

import numpy as np
import pytest
import torch

from monopose.geometry import symmetry
from monopose.mesh.loading import merged
from monopose.synthesis.shapes import furniture
from monopose.types import ObjectModel

SEEDS = range(8)
SIZES = {  # smallest and largest width, depth, height, metres
    "bed": ((0.9, 1.9, 0.5), (2.1, 2.4, 1.5)), "bookcase": ((0.4, 0.2, 0.8), (1.6, 0.5, 2.2)),
    "chair": ((0.4, 0.4, 0.7), (0.9, 1.1, 1.2)), "desk": ((0.9, 0.45, 0.7), (1.7, 0.85, 1.3)),
    "sofa": ((1.2, 0.75, 0.7), (2.8, 1.8, 1.0)), "table": ((0.6, 0.3, 0.3), (2.1, 2.1, 0.8)),
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[ObjectModel]]:
    return {c: [furniture.shape(c, s) for s in SEEDS] for c in furniture.CATEGORIES}


def _all(shapes: dict[str, list[ObjectModel]]) -> list[ObjectModel]:
    return [m for models in shapes.values() for m in models]


def test_meshes_are_closed_and_face_outwards(shapes):
    for model in _all(shapes):
        place = torch.from_numpy(merged(model.vertices.double().numpy()))
        corners = place[model.faces]
        edges = torch.cat([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
        low, high = edges.amin(1), edges.amax(1)
        _, edge = torch.unique(low * len(place) + high, return_inverse=True)
        balance = torch.bincount(edge, torch.where(edges[:, 0] == low, 1.0, -1.0))
        assert (balance == 0).all(), f"{model.name} has an open edge"  # every edge is passed as often each way
        a, b, c = (model.vertices[model.faces[:, k]].double() for k in range(3))
        flat = torch.linalg.cross(b - a, c - a)
        assert float((a * flat).sum() / 6) > 0, f"{model.name} is inside out"  # its volume
        assert float(flat.norm(dim=-1).min()) > 0
        agree = (flat * model.normals[model.faces[:, 0]].double()).sum(-1) / flat.norm(dim=-1)
        assert float(agree.min()) > 0, f"{model.name} has a normal that points inwards"


def test_sizes_are_metric_and_triangles_few(shapes):
    for category, models in shapes.items():
        low, high = SIZES[category]
        for model in models:
            size = (model.bounds[1] - model.bounds[0]).numpy()
            assert ((size > low) & (size < high)).all(), f"{model.name} measures {size}"
            assert model.bounds.sum(0).abs().max() < 1e-5  # centred
            assert 50 < len(model.faces) < 8000
            assert model.colors is not None
            assert model.colors.min() >= 0
            assert model.colors.max() <= 1


def test_the_same_seed_gives_the_same_shape_and_others_differ(shapes):
    for category, models in shapes.items():
        again = furniture.shape(category, 3)
        for name in ("vertices", "faces", "normals", "colors"):
            assert torch.equal(getattr(again, name), getattr(models[3], name))
        sizes = np.array([(m.bounds[1] - m.bounds[0]).numpy() for m in models])
        gaps = np.linalg.norm(sizes[:, None] - sizes[None], axis=-1) + np.eye(len(sizes))
        assert gaps.min() > 0.005, f"two {category}s are nearly the same"


def test_the_front_looks_along_minus_y(shapes):
    for category in ("chair", "bed", "sofa"):  # the back, or the headboard, is the highest part
        for model in shapes[category]:
            top = model.vertices[model.vertices[:, 2] > model.bounds[1, 2] - 0.05]
            assert float(top[:, 1].mean()) > 0.2 * float(model.bounds[1, 1]), model.name
    for model in shapes["bookcase"]:  # closed behind, open in front
        behind = model.vertices[:, 1] > model.bounds[1, 1] - 1e-4
        width, height = (float(model.vertices[behind][:, k].max() - model.vertices[behind][:, k].min()) for k in (0, 2))
        assert width > 0.9 * float(model.bounds[1, 0] - model.bounds[0, 0])
        assert height > 0.8
        assert _depth_seen(model, front=True) > 3 * _depth_seen(model, front=False), model.name


def _depth_seen(model: ObjectModel, front: bool) -> float:
    """How far behind the front, or the back, of its box a far camera sees the surface, mean, metres."""
    from monopose.geometry import se3, viewpoints
    from monopose.render.scene import render_masks

    R = viewpoints.rotation_of(torch.tensor([0.0 if front else math.pi, 0, 0]))
    pose = se3.from_rt(R, torch.tensor([0, 0, 50.0]))  # so far that rays are parallel
    K = torch.tensor([[1200.0, 0, 31.5], [0, 1200.0, 31.5], [0, 0, 1]])
    depth = render_masks([model], pose[None], K, (64, 64)).depth
    inside = depth[depth > 0]
    return float((inside - (50 - float(model.bounds[1, 1]))).mean())


def test_only_tables_have_symmetries_and_those_are_true(shapes):
    from scipy.spatial import cKDTree

    from monopose.mesh.loading import surface_samples

    orders = set()
    for model in _all(shapes):
        table = model.name.startswith("table")
        assert model.symmetries.any == table
        if not table:
            continue
        orders.add(0 if len(model.symmetries.axes) else len(model.symmetries.discrete) + 1)
        points = torch.cat([model.vertices, surface_samples(model, 20_000, torch.Generator().manual_seed(0)).points])
        for motion in symmetry.transforms(model.symmetries, 12):
            moved = model.vertices @ motion[:3, :3].mT + motion[:3, 3]
            assert np.quantile(cKDTree(points.numpy()).query(moved.numpy())[0], 0.99) < 0.02 * model.diameter
        if len(model.symmetries.axes) == 0:  # and no other turn is one
            eighth = torch.tensor([[math.sqrt(0.5), -math.sqrt(0.5), 0], [math.sqrt(0.5), math.sqrt(0.5), 0], [0, 0, 1]])
            moved = model.vertices @ eighth.mT
            assert np.quantile(cKDTree(points.numpy()).query(moved.numpy())[0], 0.99) > 0.02 * model.diameter
    assert len(orders) > 1


def test_unknown_furniture_is_refused():
    with pytest.raises(ValueError, match="unknown furniture 'lamp'; known: bed"):
        furniture.shape("lamp", 0)
    with pytest.raises(ValueError, match="must be >= 0"):
        furniture.shape("bed", -1)
