"""Parametric things on roads: closed, metric, repeatable, with their front along +X of the box's frame."""

import numpy as np
import pytest
import torch

from monopose.geometry import boxes3d, symmetry
from monopose.mesh.loading import merged
from monopose.synthesis.shapes import vehicles
from monopose.types import ObjectModel

SEEDS = range(6)  # as many as a category has kinds at most


@pytest.fixture(scope="module")
def shapes() -> dict[str, list[ObjectModel]]:
    return {c: [vehicles.shape(c, s) for s in SEEDS] for c in vehicles.CATEGORIES}


def _all(shapes: dict[str, list[ObjectModel]]) -> list[ObjectModel]:
    return [m for models in shapes.values() for m in models]


def _near(model: ObjectModel, axis: int, end: float, within: float = 0.1) -> torch.Tensor:
    """Which vertices lie at an end (-1 or 1) of an axis of the box."""
    half = float(model.bounds[1, axis])
    return model.vertices[:, axis] * end > half * (1 - within)


def test_meshes_are_closed_and_face_outwards(shapes):
    for model in _all(shapes):
        place = torch.from_numpy(merged(model.vertices.double().numpy()))
        corners = place[model.faces]
        edges = torch.cat([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
        low, high = edges.amin(1), edges.amax(1)
        _, edge = torch.unique(low * len(place) + high, return_inverse=True)
        balance = torch.bincount(edge, torch.where(edges[:, 0] == low, 1.0, -1.0))
        assert (balance == 0).all(), f"{model.name} has an open edge"
        a, b, c = (model.vertices[model.faces[:, k]].double() for k in range(3))
        flat = torch.linalg.cross(b - a, c - a)
        assert float((a * flat).sum() / 6) > 0, f"{model.name} is inside out"
        agree = (flat * model.normals[model.faces[:, 0]].double()).sum(-1) / flat.norm(dim=-1)
        assert float(agree.min()) > -1e-3, f"{model.name} has a normal that points inwards"


def test_shapes_fill_their_boxes_and_have_few_triangles(shapes):
    for model in _all(shapes):
        low, high = model.bounds
        assert (low + high).abs().max() < 1e-5
        corners = boxes3d.corners(torch.eye(4), high - low)
        torch.testing.assert_close(corners.amin(0), low)
        assert 20 < len(model.faces) < 4000
        assert model.colors is not None
        assert model.colors.min() >= 0
        assert model.colors.max() <= 1


@pytest.mark.parametrize("category", vehicles.CATEGORIES)
def test_sizes_have_the_statistics_of_the_class(category):
    rng = np.random.default_rng(0)
    kinds = list(vehicles.VARIANTS[category])
    sizes = np.array([vehicles.random_size(category, k, rng) for k in kinds * 400])
    mean, sigma = (np.array(v) for v in vehicles.SIZES[category])
    assert (np.abs(sizes.mean(0) / mean - 1) < 0.05).all(), sizes.mean(0)
    assert (np.abs(np.log(sizes.std(0) / sigma)) < 0.4).all(), sizes.std(0)  # within two thirds and one and a half
    assert sizes.min() > 0.1


def test_the_drawn_size_is_the_size_of_the_mesh(shapes):
    for category, models in shapes.items():
        for seed, model in enumerate(models):
            rng = np.random.default_rng((vehicles.CATEGORIES.index(category), seed, 13))
            size = vehicles.random_size(category, vehicles.variant(category, seed), rng)
            np.testing.assert_allclose((model.bounds[1] - model.bounds[0]).numpy(), size, rtol=1e-5)


def test_the_front_is_at_plus_x(shapes):
    """Lamps are at the front and red lamps at the back; a rider and the basket look the same way."""
    for category in ("car", "bus", "truck"):
        for model in shapes[category]:
            red = (model.colors - torch.tensor(vehicles._TAIL)).abs().amax(1) < 0.1
            lamp = (model.colors - torch.tensor(vehicles._LAMP)).abs().amax(1) < 0.1
            front, back = _near(model, 0, 1), _near(model, 0, -1)
            assert (lamp & front).any(), model.name
            assert (red & back).any(), model.name
            assert category != "car" or not (red & front).any(), model.name
    for model in shapes["pedestrian"]:  # toes before heels
        shoes = model.vertices[model.vertices[:, 1] > model.bounds[1, 1] - 0.01]
        skin = model.vertices[_near(model, 1, -1, 0.3)]  # head: the hair lies behind
        assert float(shoes[:, 0].max()) > float(skin[:, 0].mean()), model.name
    for model in shapes["trailer"]:  # wheels are behind the middle
        wheels = (model.colors - torch.tensor(vehicles._RUBBER)).abs().amax(1) < 0.02
        assert float(model.vertices[wheels][:, 0].mean()) < 0, model.name
    for model in shapes["motorcycle"]:
        lamp = (model.colors - torch.tensor(vehicles._LAMP)).abs().amax(1) < 0.1
        assert float(model.vertices[lamp][:, 0].mean()) > 0.2 * float(model.bounds[1, 0]), model.name


def test_down_is_plus_y_and_left_is_plus_z(shapes):
    for category in ("car", "truck", "trailer", "bicycle", "motorcycle"):
        for model in shapes[category]:
            rubber = (model.colors - torch.tensor(vehicles._RUBBER)).abs().amax(1) < 0.02
            assert float(model.vertices[rubber][:, 1].mean()) > 0, f"{model.name}: wheels are below"
    for seed, model in enumerate(shapes["construction_vehicle"]):  # the driver of an excavator sits on the left
        if vehicles.variant("construction_vehicle", seed) == "excavator":
            glass = (model.colors - torch.tensor(vehicles._GLASS)).abs().amax(1) < 0.02
            assert float(model.vertices[glass][:, 2].mean()) > 0.1, model.name


def test_the_same_seed_gives_the_same_shape_and_others_differ(shapes):
    for category, models in shapes.items():
        again = vehicles.shape(category, 3)
        for name in ("vertices", "faces", "normals", "colors"):
            assert torch.equal(getattr(again, name), getattr(models[3], name))
        sizes = np.array([(m.bounds[1] - m.bounds[0]).numpy() for m in models])
        gaps = np.linalg.norm(sizes[:, None] - sizes[None], axis=-1) + np.eye(len(sizes))
        assert gaps.min() > 0.005, f"two of {category} have nearly the same size"


def test_symmetries_map_barriers_and_cones_onto_themselves(shapes):
    from scipy.spatial import cKDTree

    for category in ("traffic_cone", "barrier"):
        for seed, model in enumerate(shapes[category]):
            kind = vehicles.variant(category, seed)
            assert model.symmetries.any == (kind != "board")
            if kind in ("concrete", "plastic", "pillar"):  # a cone's base is a square: only nearly round
                for motion in symmetry.transforms(model.symmetries, 16):
                    moved = model.vertices @ motion[:3, :3].mT + motion[:3, 3]
                    gaps, _ = cKDTree(model.vertices.numpy()).query(moved.numpy())
                    assert gaps.max() < 0.02, model.name


def test_every_kind_is_reached_and_bad_names_are_refused():
    for category, kinds in vehicles.VARIANTS.items():
        assert {vehicles.variant(category, s) for s in range(len(kinds))} == set(kinds)
    with pytest.raises(ValueError, match="unknown category 'tram'; known: car, truck"):
        vehicles.shape("tram", 0)
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        vehicles.shape("car", -1)
