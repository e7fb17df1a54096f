"""Noise on poses: as large as it says, along the axes it says, repeatable."""

import math

import pytest
import torch

from monopose.geometry import rotation, se3

N = 20_000
POSE = se3.exp(torch.tensor([0.2, -0.1, 0.9, 0.5, -0.3, 1.0], dtype=torch.float64))


def drawn(angle=0.0, shift=0.0, seed=0, pose=POSE, **more):
    generator = torch.Generator().manual_seed(seed)
    return se3.perturbed(pose.expand(N, 4, 4), angle, shift, generator=generator, **more)


def test_rotations_are_normal_about_each_axis_with_their_tails():
    """The original drew again beyond 45 degrees, with the wrong unit the second time; here nothing is drawn again."""
    angle = math.radians(20)
    found = drawn(angle)
    turns = rotation.so3_log(found[:, :3, :3] @ POSE[:3, :3].T)
    assert (turns.std(0) / angle).tolist() == pytest.approx([1, 1, 1], abs=0.03)
    assert (turns.mean(0) / angle).tolist() == pytest.approx([0, 0, 0], abs=0.03)
    assert float((turns.abs() > 2 * angle).double().mean()) == pytest.approx(0.0455, abs=0.004)
    # beyond 45 degrees: chi with three degrees of freedom beyond 2.25
    beyond = math.erfc(2.25 / math.sqrt(2)) + math.sqrt(2 / math.pi) * 2.25 * math.exp(-(2.25**2) / 2)
    assert float((turns.norm(dim=1) > math.radians(45)).double().mean()) == pytest.approx(beyond, rel=0.05)
    torch.testing.assert_close(found[:, :3, 3], POSE[:3, 3].expand(N, 3), rtol=0, atol=1e-12)  # about its own origin


@pytest.mark.parametrize("factor", [1.0, 3.0, 5.0])
def test_shifts_across_and_along_the_line_of_sight(factor):
    found = drawn(shift=0.01, depth_factor=factor)
    moved = found[:, :3, 3] - POSE[:3, 3]
    ray = POSE[:3, 3] / POSE[:3, 3].norm()
    along = moved @ ray
    across = moved - along[:, None] * ray
    assert float(along.std()) == pytest.approx(0.01 * factor, rel=0.03)
    assert float(across.square().sum(1).mean().sqrt()) == pytest.approx(0.01 * math.sqrt(2), rel=0.03)
    assert float(along.mean()) == pytest.approx(0, abs=0.0003 * factor)
    torch.testing.assert_close(found[:, :3, :3], POSE[:3, :3].expand(N, 3, 3))


def test_every_pose_can_have_its_own_deviation():
    turn, shift = torch.linspace(0, 1, N).double(), torch.zeros(N).double()
    found = drawn(turn, shift)
    angle = rotation.angle_between(found[:, :3, :3], POSE[:3, :3].expand(N, 3, 3))
    assert float(angle[0]) < 1e-6
    assert float(angle[: N // 10].mean()) < 0.2 < float(angle[-N // 10 :].mean())
    torch.testing.assert_close(found[:, :3, 3], POSE[:3, 3].expand(N, 3), rtol=0, atol=1e-12)


def test_seeds_repeat_and_differ():
    again = drawn(0.3, 0.02)
    assert torch.equal(again, drawn(0.3, 0.02))
    assert not torch.equal(again, drawn(0.3, 0.02, seed=1))


@pytest.mark.parametrize("shift", [0.05, 0.5, 5.0])
def test_no_object_comes_behind_the_camera(shift):
    """Also where the line of sight is far from the optical axis and the noise is absurd."""
    for pose in (POSE, se3.exp(torch.tensor([0.8, 0.3, 0.5, 0, 0, 0], dtype=torch.float64))):
        found = drawn(0.5, shift, pose=pose)
        ray = pose[:3, 3] / pose[:3, 3].norm()
        distance = found[:, :3, 3] @ ray / pose[:3, 3].norm()
        assert float(distance.min()) >= 1 / 3 - 1e-9
        assert float(found[:, 2, 3].min()) >= float(pose[2, 3]) / 3 - 1e-9
        assert float(distance[found[:, 2, 3] > pose[2, 3] / 3 + 1e-9].max()) <= 3 + 1e-9
        back = found[:, :3, :3] @ found[:, :3, :3].mT
        torch.testing.assert_close(back, torch.eye(3, dtype=torch.float64).expand(N, 3, 3))
