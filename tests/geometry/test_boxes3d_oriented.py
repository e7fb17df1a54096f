"""Intersections of oriented boxes: closed forms, axioms, counting random points."""

import math

import pytest
import torch

from monopose.geometry import boxes3d as boxes
from monopose.geometry import rotation, se3

EYE = torch.eye(3, dtype=torch.float64)


def _pose(R=EYE, t=(0.0, 0.0, 0.0)):
    return se3.from_rt(R, torch.tensor(t, dtype=torch.float64))


def _about(axis, degrees):
    return rotation.so3_exp(torch.tensor(axis, dtype=torch.float64) * math.radians(degrees))


def _size(*sides):
    return torch.tensor(sides, dtype=torch.float64)


def _random(n, generator, spread=0.6):
    R = rotation.random_rotations(n, generator, torch.float64)
    t = spread * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return se3.from_rt(R, t), 0.3 + torch.rand(n, 3, generator=generator, dtype=torch.float64)


def test_corners_belong_to_the_bits_of_their_index():
    found = boxes.obb_corners(_pose(t=(1.0, 2.0, 3.0)), _size(0.2, 0.4, 0.6))
    assert torch.allclose(found[0], _size(0.9, 1.8, 2.7))
    assert torch.allclose(found[5], _size(1.1, 1.8, 3.3))


@pytest.mark.parametrize(
    ("R", "t", "shared"),
    [
        (EYE, (0.0, 0.0, 0.0), 1.0),  # itself
        (EYE, (0.5, 0.0, 0.0), 0.5),  # shifted: four faces coincide
        (EYE, (0.5, 0.5, 0.5), 0.125),
        (EYE, (1.0, 0.0, 0.0), 0.0),  # touching: two faces coincide and look away from each other
        (EYE, (1.0, 1.0, 1.0), 0.0),  # touching in a corner
        (EYE, (3.0, 0.0, 0.0), 0.0),
        (_about((0, 0, 1.0), 90), (0.0, 0.0, 0.0), 1.0),
        (_about((0, 1.0, 0), 45), (0.0, 0.0, 0.0), 2 * math.sqrt(2) - 2),  # an octagon
        (_about((0.6, 0.0, 0.8), 1e-7), (0.0, 0.0, 0.0), 1.0),  # faces that nearly coincide
        (_about((0.6, 0.0, 0.8), 1e-10), (1e-12, 0.0, -1e-13), 1.0),
        (_about((1.0, 0, 0), 180), (0.0, 0.25, 0.0), 0.75),
    ],
)
def test_unit_cubes_share_what_geometry_says(R, t, shared):
    one = _size(1, 1, 1)
    assert float(boxes.intersection(_pose(), one, _pose(R, t), one)) == pytest.approx(shared, abs=1e-7)


def test_a_cube_on_its_corner_cut_by_a_half_space():
    """A large box that ends in the middle of a cube standing on its corner leaves half of it."""
    turn = rotation.so3_exp(torch.tensor([1.0, -1.0, 0], dtype=torch.float64) / math.sqrt(2) * math.acos(1 / math.sqrt(3)))
    large = _pose(t=(0.0, 0.0, 5.0))
    assert float(boxes.intersection(_pose(turn), _size(1, 1, 1), large, _size(10, 10, 10))) == pytest.approx(0.5, abs=1e-7)
    inside = boxes.intersection(_pose(turn, (0.3, -0.2, 5.0)), _size(1, 1, 1), large, _size(10, 10, 10))
    assert float(inside) == pytest.approx(1.0, abs=1e-7)  # wholly inside


def test_volumes_agree_with_counted_points():
    generator = torch.Generator().manual_seed(3)
    a, size_a = _random(12, generator, 0.3)
    b, size_b = _random(12, generator, 0.3)
    exact = boxes.intersection(a, size_a, b, size_b)
    n = 200_000
    cloud = (torch.rand(12, n, 3, generator=generator, dtype=torch.float64) - 0.5) * size_a[:, None]
    in_b = se3.transform(se3.inverse(b) @ a, cloud).abs() <= size_b[:, None] / 2
    share = in_b.all(-1).double().mean(-1)
    volume = size_a.prod(-1)
    error = (share * (1 - share) / n).sqrt() * volume  # of the counting, one standard deviation
    assert ((exact - share * volume).abs() < 4.5 * error + 1e-5).all()
    assert (exact > 0.01).sum() >= 6


def test_iou_is_symmetric_bounded_and_blind_to_the_camera():
    generator = torch.Generator().manual_seed(4)
    a, size_a = _random(300, generator)
    b, size_b = _random(300, generator)
    there = boxes.obb_iou(a, size_a, b, size_b)
    assert torch.allclose(there, boxes.obb_iou(b, size_b, a, size_a), atol=1e-7)
    assert there.min() >= 0
    assert there.max() <= 1
    assert 0.3 < float((there > 0).double().mean()) < 1
    assert torch.allclose(boxes.obb_iou(a, size_a, a, size_a), torch.ones(300, dtype=torch.float64), atol=1e-7)
    camera = se3.from_rt(rotation.random_rotations(1, generator, torch.float64)[0], _size(3.0, -2.0, 9.0))
    assert torch.allclose(there, boxes.obb_iou(camera @ a, size_a, camera @ b, size_b), atol=1e-7)
    millimetres = torch.ones(4, 4, dtype=torch.float64)
    millimetres[:3, 3] = 1000
    assert torch.allclose(there, boxes.obb_iou(a * millimetres, 1000 * size_a, b * millimetres, 1000 * size_b), atol=1e-7)


def test_small_changes_make_small_changes():
    """Where faces nearly coincide, no whole face may be lost or counted twice."""
    generator = torch.Generator().manual_seed(5)
    a, size = _random(200, generator)
    for tiny in (1e-4, 1e-6, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15):
        delta = tiny * torch.randn(200, 6, generator=generator, dtype=torch.float64)
        b = se3.retract(a, delta)
        loss = 1 - boxes.obb_iou(a, size, b, size)
        assert float(loss.max()) < 40 * tiny + 2e-7, tiny


def test_pairs_broadcast_and_flat_boxes_share_nothing():
    generator = torch.Generator().manual_seed(6)
    a, size_a = _random(3, generator)
    b, size_b = _random(4, generator)
    table = boxes.obb_iou(a[:, None], size_a[:, None], b[None], size_b[None])
    assert table.shape == (3, 4)
    assert torch.allclose(table[1, 2], boxes.obb_iou(a[1], size_a[1], b[2], size_b[2]))
    flat = boxes.obb_iou(a[0], _size(1.0, 0.0, 1.0), a[0], _size(1.0, 0.0, 1.0))
    assert float(flat) == 0.0
    assert boxes.obb_iou(a[:0], size_a[:0], b[:0], size_b[:0]).shape == (0,)
