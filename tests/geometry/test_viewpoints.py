"""Directions on the sphere and cameras that look from them."""

import math

import numpy as np
import pytest
import torch

from monopose.geometry import rotation, se3, viewpoints

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


def random_angles(n, seed=0, elevation=1.5):
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 3, generator=g, dtype=F64)
    return torch.stack([u[:, 0] * 2 * math.pi, (u[:, 1] * 2 - 1) * elevation, (u[:, 2] * 2 - 1) * math.pi], -1)


def test_angles_and_rotations_are_inverse():
    angles = random_angles(500)
    torch.testing.assert_close(viewpoints.angles_of(viewpoints.rotation_of(angles)), angles, rtol=0, atol=1e-9)
    R = rotation.random_rotations(500, torch.Generator().manual_seed(1), dtype=F64)
    torch.testing.assert_close(viewpoints.rotation_of(viewpoints.angles_of(R)), R, rtol=0, atol=1e-9)


def test_in_front_the_right_hand_side_is_on_the_right():
    R = viewpoints.rotation_of(torch.zeros(3, dtype=F64))
    torch.testing.assert_close(R @ torch.tensor([1.0, 0, 0], dtype=F64), torch.tensor([1.0, 0, 0], dtype=F64))
    torch.testing.assert_close(R @ torch.tensor([0, 1.0, 0], dtype=F64), torch.tensor([0, 0, 1.0], dtype=F64))
    torch.testing.assert_close(R @ torch.tensor([0, 0, 1.0], dtype=F64), torch.tensor([0, -1.0, 0], dtype=F64))
    # a quarter clockwise, seen from above: from -Y to -X
    torch.testing.assert_close(
        viewpoints.direction_of(torch.tensor(math.pi / 2, dtype=F64), torch.tensor(0.0, dtype=F64)),
        torch.tensor([-1.0, 0, 0], dtype=F64), rtol=0, atol=1e-12,
    )  # fmt: skip


@pytest.mark.parametrize("z", [1.0, -1.0])
def test_angles_at_the_poles_give_the_rotation_back(z):
    R = viewpoints.look_at(torch.tensor([0.0, 0.0, z], dtype=F64), 0.3)
    torch.testing.assert_close(viewpoints.rotation_of(viewpoints.angles_of(R)), R, rtol=0, atol=1e-6)


def test_a_flipped_picture_of_a_mirror_symmetric_object_has_mirrored_angles():
    angles = random_angles(100, 2)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=F64))
    flipped = mirror @ viewpoints.rotation_of(angles) @ mirror  # flip the image, and the object, which looks the same
    torch.testing.assert_close(viewpoints.rotation_of(viewpoints.mirrored(angles)), flipped, rtol=0, atol=1e-9)
    torch.testing.assert_close(viewpoints.mirrored(viewpoints.mirrored(angles)), angles, rtol=0, atol=1e-9)


def test_a_turned_picture_has_another_inplane_rotation_only():
    angles = random_angles(100, 3)
    turn = rotation.so3_exp(torch.tensor([0.0, 0.0, 1.1], dtype=F64))  # from right to down: clockwise
    torch.testing.assert_close(
        viewpoints.rotation_of(viewpoints.turned(angles, 1.1)), turn @ viewpoints.rotation_of(angles), rtol=0, atol=1e-9
    )


def test_published_bins_are_those_of_numpy_digitize():
    degrees = np.concatenate([np.linspace(-50, 359.9, 997), np.arange(0, 361, 45.0)])
    expected = np.digitize(degrees, np.linspace(0, 360, 9), right=True) - 1
    expected[expected < 0] = 0
    for bins in viewpoints.PUBLISHED[:2]:
        assert bins.index(torch.from_numpy(np.radians(degrees)) - 1e-12).tolist() == expected.tolist()
    radians = np.concatenate([np.linspace(-3.1, 3.1, 1000), [np.pi, -np.pi / 2, np.pi / 4]])
    expected = (np.digitize(radians - 1e-12, np.linspace(-np.pi, np.pi, 9), right=True) - 1).clip(0)
    assert viewpoints.PUBLISHED[2].index(torch.from_numpy(radians) - 1e-12).tolist() == expected.tolist()


def test_centred_bins_wrap_around():
    azimuth = viewpoints.CENTRED[0]
    angles = torch.tensor([0.0, 22.4, 22.6, 337.4, 337.6, 360.0, -22.4, 180.0], dtype=F64).deg2rad()
    assert azimuth.index(angles).tolist() == [0, 0, 1, 7, 0, 0, 0, 4]
    elevation = viewpoints.CENTRED[1]
    assert elevation.index(torch.tensor([-40.0, -9, 1, 69, 90]).deg2rad()).tolist() == [0, 0, 1, 7, 7]
    assert [round(math.degrees(c)) for c in azimuth.centre(torch.arange(8)).tolist()] == [0, 45, 90, 135, 180, 225, 270, 315]


@pytest.mark.parametrize("bins", [*viewpoints.PUBLISHED, *viewpoints.CENTRED])
def test_bin_and_offset_give_the_angle_back(bins):
    angles = torch.linspace(-1.2, 6.2, 333, dtype=F64)
    index = bins.index(angles)
    assert ((index >= 0) & (index < bins.count)).all()
    offset = bins.offset(angles, index)
    if bins.circle:
        assert offset.abs().max() <= 0.5 + 1e-9
    again = bins.angle(index, offset)
    turns = (again - angles) / (2 * math.pi)
    torch.testing.assert_close(turns, turns.round() if bins.circle else torch.zeros_like(turns), rtol=0, atol=1e-9)
