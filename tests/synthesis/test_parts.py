"""Random parts: closed, of the size and fineness they promise, the same for the same seed, and no two alike."""

import numpy as np
import pytest
import torch

from monopose.mesh.loading import merged
from monopose.synthesis.shapes import parts

pytest.importorskip("manifold3d")

SEEDS = range(45)  # every kind three times


@pytest.fixture(scope="module")
def some():
    return [parts.random_part(seed) for seed in SEEDS]


def volume(model):
    a, b, c = (model.vertices.double()[model.faces[:, k]] for k in range(3))
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.slow
def test_every_edge_has_two_sides_and_the_inside_is_inside(some):
    for model in some:
        place = merged(model.vertices.double().numpy())
        corners = place[model.faces.numpy()]
        edges = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
        there, counts = np.unique(edges[:, 0] * len(place) + edges[:, 1], return_counts=True)
        back = np.unique(edges[:, 1] * len(place) + edges[:, 0])
        assert counts.max() == 1, model.name
        assert np.array_equal(there, back), model.name
        assert volume(model) > 0, model.name


def test_size_faces_and_normals_are_as_promised(some):
    for model in some:
        low, high = model.bounds
        assert parts.SIZES[0] - 1e-6 <= float((high - low).max()) <= parts.SIZES[1] + 1e-6
        assert float((low + high).abs().max()) < 1e-6
        assert parts.FACES[0] <= len(model.faces) <= parts.FACES[1]
        assert float((model.normals.norm(dim=1) - 1).abs().max()) < 1e-5
        assert model.colors is None or (float(model.colors.min()) >= 0 and float(model.colors.max()) <= 1)
    assert 5 < sum(m.colors is None for m in some) < 30


def test_a_seed_always_makes_the_same_part(some):
    for seed in (0, 7, 22):
        again = parts.random_part(seed)
        assert torch.equal(again.vertices, some[seed].vertices)
        assert torch.equal(again.faces, some[seed].faces)
        assert again.name == some[seed].name


def test_no_two_parts_are_alike(some):
    """Moments of the surface, which do not depend on size or orientation, differ."""
    rows = []
    for model in some:
        corners = model.vertices.double()[model.faces]
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1) / 2
        middle = corners.mean(1)
        middle = middle - (area[:, None] * middle).sum(0) / area.sum()
        spread = torch.linalg.eigvalsh((area[:, None, None] * middle[:, :, None] * middle[:, None, :]).sum(0) / area.sum())
        rows.append(
            torch.cat([spread.sqrt(), area.sum().sqrt()[None], torch.tensor([volume(model) ** (1 / 3)])]) / model.diameter
        )
    apart = torch.cdist(torch.stack(rows), torch.stack(rows)) + 10 * torch.eye(len(rows))
    assert float(apart.min()) > 1e-3


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed"):
        parts.random_part(-1)
