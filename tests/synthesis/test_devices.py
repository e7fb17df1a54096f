"""Laptops and cameras from a seed: closed, metric, repeatable, their fronts towards +X, the frame of NOCS's categories."""

import pytest
import torch

from monopose.category import training
from monopose.datasets import nocs
from monopose.mesh.loading import merged
from monopose.synthesis.shapes import devices, tableware

SIZES = {  # smallest and largest: along the front's direction, across, up, metres
    "camera": ((0.02, 0.08, 0.05), (0.17, 0.18, 0.15)), "laptop": ((0.2, 0.25, 0.12), (0.5, 0.42, 0.33)),
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes():
    return {c: [devices.shape(c, s) for s in range(4)] for c in devices.CATEGORIES}


def test_they_are_closed_metric_and_in_the_middle_of_their_box(shapes):
    for category, models in shapes.items():
        for model in models:
            corners = torch.from_numpy(merged(model.vertices.double().numpy()))[model.faces]
            edges = torch.cat([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
            there, ways = torch.unique(edges, dim=0, return_counts=True)
            back = {(int(a), int(b)): int(n) for (a, b), n in zip(there, ways, strict=True)}
            assert all(back.get((b, a)) == n for (a, b), n in back.items()), f"{model.name} has an open edge"
            a, b, c = (model.vertices[model.faces[:, k]].double() for k in range(3))
            assert float((a * torch.linalg.cross(b, c)).sum() / 6) > 0, f"{model.name} is inside out"
            low, high = (torch.tensor(v) for v in SIZES[category])
            size = model.bounds[1] - model.bounds[0]
            assert bool(((size > low) & (size < high)).all()), f"{model.name} measures {size.tolist()}"
            assert float(model.bounds.sum(0).abs().max()) < 1e-6
            assert 1000 < len(model.faces) < 6000
            assert float(model.colors.std(0).max()) > 0.02


def test_seeds_repeat_and_differ(shapes):
    for category, models in shapes.items():
        again = devices.shape(category, 2)
        assert torch.equal(again.vertices, models[2].vertices)
        assert torch.equal(again.colors, models[2].colors)
        sizes = torch.stack([m.bounds[1] for m in models])
        assert float((torch.cdist(sizes, sizes) + torch.eye(4)).min()) > 5e-4
    with pytest.raises(ValueError, match="unknown device 'phone'; known: camera, laptop"):
        devices.shape("phone", 0)


def test_fronts_point_along_x_here_and_in_nocs(shapes):
    for model in shapes["laptop"]:  # its upper edge, the lid's, lies at the back
        top = model.vertices[model.vertices[:, 2] > 0.95 * model.bounds[1, 2]]
        assert float(top[:, 0].max()) < 0
    for model in shapes["camera"]:  # what lies foremost is round and about its middle: the lens
        front = model.vertices[model.vertices[:, 0] > 0.97 * model.bounds[1, 0]]
        assert float((front[:, 1].abs() / model.bounds[1, 1]).max()) < 0.9
    assert (nocs.NOCS_FROM_CATEGORY @ torch.tensor([1.0, 0, 0], dtype=torch.float64)).tolist() == [1, 0, 0]


def test_all_six_categories_of_nocs_can_be_made():
    assert set(nocs.CLASSES) == {*tableware.CATEGORIES, *devices.CATEGORIES}
    for name in nocs.CLASSES:
        bounds = training.proportions(training.made_shapes(name, 2), 2)
        assert bounds.shape == (2, 3)
    assert not training.make_config(training.made_shapes("laptop", 2), "small").symmetric
