"""Tableware from a seed: closed, metric, repeatable, in the frame of its category."""

import numpy as np
import pytest
import torch

from monopose.geometry import symmetry
from monopose.mesh.loading import merged
from monopose.synthesis.shapes import solids, tableware
from monopose.types import ObjectModel

SEEDS = range(8)
SIZES = {  # smallest and largest width (across the handle's plane) and height, metres
    "bottle": ((0.04, 0.07), (0.1, 0.36)), "bowl": ((0.1, 0.02), (0.25, 0.13)),
    "can": ((0.05, 0.025), (0.15, 0.21)), "mug": ((0.06, 0.07), (0.12, 0.13)),
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[ObjectModel]]:
    return {c: [tableware.shape(c, s) for s in SEEDS] for c in tableware.CATEGORIES}


def _all(shapes: dict[str, list[ObjectModel]]) -> list[ObjectModel]:
    return [m for models in shapes.values() for m in models]


@pytest.mark.slow
def test_meshes_are_closed_and_face_outwards(shapes):
    for model in _all(shapes):
        place = torch.from_numpy(merged(model.vertices.double().numpy()))
        corners = place[model.faces]
        edges = torch.cat([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
        there, back = (edges @ torch.tensor(one) for one in ((1 << 32, 1), (1, 1 << 32)))
        assert torch.equal(there.sort().values, back.sort().values), f"{model.name} has an open edge"  # as often as its reverse
        a, b, c = (model.vertices[model.faces[:, k]].double() for k in range(3))
        flat = torch.linalg.cross(b - a, c - a)
        assert float(flat.norm(dim=-1).min()) > 0, model.name
        assert float((a * flat).sum() / 6) > 0, f"{model.name} is inside out"  # its volume
        agree = (flat / flat.norm(dim=-1, keepdim=True) * model.normals[model.faces].double().sum(1)).sum(-1)
        assert float(agree.min()) > 0, f"{model.name} has a normal that points inwards"
        assert torch.allclose(model.normals.norm(dim=-1), torch.ones(len(model.normals)), atol=1e-4)


def test_vessels_are_hollow_and_the_others_are_not(shapes):
    """The volume of the material against that of the cylinder around it."""
    for category, models in shapes.items():
        for model in models:
            a, b, c = (model.vertices[model.faces[:, k]].double() for k in range(3))
            volume = float((a * torch.linalg.cross(b, c)).sum() / 6)
            size = (model.bounds[1] - model.bounds[0]).double()
            share = volume / float(size[1] ** 2 * size[2] * np.pi / 4)
            assert (share < 0.4) if category in ("mug", "bowl") else (share > 0.4), (model.name, share)


def test_sizes_are_metric_and_triangles_few(shapes):
    for category, models in shapes.items():
        low, high = SIZES[category]
        for model in models:
            size = (model.bounds[1] - model.bounds[0]).numpy()[1:]
            assert ((size > low) & (size < high)).all(), f"{model.name} measures {size}"
            assert abs(float(model.bounds[:, 2].sum())) < 1e-6  # the origin at half the height
            assert 1000 < len(model.faces) < 6000
            assert model.texture is not None
            assert model.texture.min() >= 0
            assert model.texture.max() <= 1
            assert float(model.texture.flatten(1).std(1).max()) > 0 or category in ("mug", "bowl")


def test_the_same_seed_gives_the_same_shape_and_others_differ(shapes):
    for category, models in shapes.items():
        again = tableware.shape(category, 3)
        for name in ("vertices", "faces", "normals", "uv", "texture"):
            assert torch.equal(getattr(again, name), getattr(models[3], name))
        sizes = np.array([(m.bounds[1] - m.bounds[0]).numpy() for m in models])
        gaps = np.linalg.norm(sizes[:, None] - sizes[None], axis=-1) + np.eye(len(sizes))
        assert gaps.min() > 0.0005, f"two {category}s are nearly the same"
        pictures = torch.stack([m.texture for m in models]).flatten(1)
        assert float(torch.cdist(pictures, pictures).add(torch.eye(len(models)) * 99).min()) > 5


def test_handles_point_along_x(shapes):
    for model in shapes["mug"]:
        low, high = model.bounds
        radius = float(high[1])
        assert float(low[1]) == pytest.approx(-radius, abs=1e-4)  # round, with its axis in the origin
        assert float(low[0]) == pytest.approx(-radius, abs=1e-4)
        assert 0.015 < float(high[0]) - radius < 0.07
        handle = model.vertices[model.vertices[:, 0] > 1.02 * radius]
        assert float(handle[:, 1].abs().max()) < 0.02
        assert float(handle[:, 2].amax() - handle[:, 2].amin()) > 0.3 * float(high[2] - low[2])


def test_the_ends_of_handles_are_hidden_in_the_wall(shapes):
    """No vertex of the tube may come out inside the mug: seen from above along the axis there is only the turned part."""
    for model in shapes["mug"]:
        tube = model.uv[:, 1] < 0.5 * solids.SPARE / solids.ROWS
        tube &= (model.uv[:, 0] - 0.5).abs() < 1e-6
        ends, wall = model.vertices[tube], model.vertices[~tube]
        radius = wall[:, :2].norm(dim=-1)
        for point in ends[ends[:, 0] < 0.9 * float(model.bounds[1, 1])]:
            near = (wall[:, 2] - point[2]).abs() < 0.006
            inner = radius[near].min() if bool(near.any()) else radius.min()
            assert float(point[:2].norm()) > float(inner) - 0.002, model.name


def test_only_mugs_have_no_symmetry_and_the_others_are_round(shapes):
    for model in _all(shapes):
        assert model.symmetries.any == (not model.name.startswith("mug"))
        if not model.symmetries.any:
            continue
        turn = symmetry.transforms(model.symmetries, solids.SIDES)[1]  # by one side
        moved = model.vertices @ turn[:3, :3].mT + turn[:3, 3]
        assert float(torch.cdist(moved.double(), model.vertices.double()).amin(1).max()) < 1e-6


def test_unknown_tableware_is_refused():
    with pytest.raises(ValueError, match="unknown tableware 'jug'; known: bottle"):
        tableware.shape("jug", 0)
    with pytest.raises(ValueError, match="must be >= 0"):
        tableware.shape("mug", -1)
