"""Directions on the sphere and cameras that look from them."""

import math

import pytest
import torch

from monopose.geometry import se3, viewpoints

F64 = torch.float64


def test_fibonacci_sphere_is_even():
    d = viewpoints.fibonacci_sphere(1000, F64)
    torch.testing.assert_close(d.norm(dim=1), torch.ones(1000, dtype=F64))
    assert d.mean(0).abs().max() < 2e-3
    torch.testing.assert_close(d.T @ d / 1000, torch.eye(3, dtype=F64) / 3, rtol=0, atol=2e-3)
    gaps = torch.cdist(d, d).fill_diagonal_(9).amin(1)
    assert gaps.min() > 0.6 * gaps.max()
    assert viewpoints.fibonacci_sphere(1).shape == (1, 3)


def test_look_at_looks_at_the_origin_with_z_up():
    d = viewpoints.fibonacci_sphere(200, F64)
    R = viewpoints.look_at(d)
    torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=F64).expand(200, 3, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(200, dtype=F64))
    cam_from_obj = se3.from_rt(R, torch.tensor([0.0, 0.0, 2.0], dtype=F64))
    camera_at = se3.inverse(cam_from_obj)[:, :3, 3]  # where the camera stands in the object frame
    torch.testing.assert_close(camera_at, 2 * d, rtol=0, atol=1e-12)
    up = R @ torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    assert (up[:, 1] < 0).all()  # y points down in the image
    torch.testing.assert_close(up[:, 0], torch.zeros(200, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("z", [1.0, -1.0])
def test_the_poles_are_rotations(z):
    R = viewpoints.look_at(torch.tensor([0.0, 0.0, z], dtype=F64))
    torch.testing.assert_close(R @ R.T, torch.eye(3, dtype=F64), rtol=0, atol=1e-12)
    up = R @ torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    torch.testing.assert_close(up, torch.tensor([0.0, -1.0, 0.0], dtype=F64), rtol=0, atol=1e-12)


def test_inplane_turns_clockwise_in_the_image():
    d = viewpoints.fibonacci_sphere(10, F64)
    R = viewpoints.look_at(d, math.pi / 2)
    up = R @ torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    assert (up[:, 0] > 0).all()  # what was up points right
    torch.testing.assert_close(up[:, 1], torch.zeros(10, dtype=F64), rtol=0, atol=1e-12)
    each = viewpoints.look_at(d, torch.arange(10, dtype=F64))
    torch.testing.assert_close(each[3], viewpoints.look_at(d[3], 3.0))
