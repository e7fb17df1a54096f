"""Under autocast, where matrix products would keep three digits, every door of `pnp` gives what it gives without."""

import math

import pytest
import torch

from monopose import pnp
from monopose.geometry import camera, rotation, se3

K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]])


def problem():
    g = torch.Generator().manual_seed(0)
    points3d = 0.1 * torch.randn(3, 24, 3, generator=g)
    truth = se3.from_rt(rotation.so3_exp(torch.randn(3, 3, generator=g)), torch.tensor([0.05, -0.02, 0.7]))
    points2d = camera.project(se3.transform(truth, points3d), K) + torch.randn(3, 24, 2, generator=g)
    return points3d, points2d, truth


def implicit(points3d, points2d, truth):
    return pnp.solve_implicit(points3d, points2d, K, init=truth).cam_from_obj


def posterior(points3d, points2d, truth):
    return pnp.sample_posterior(points3d, points2d, K, init=truth, samples=64, generator=torch.Generator().manual_seed(1))


def monte_carlo(points3d, points2d, truth):
    return pnp.monte_carlo_loss(posterior(points3d, points2d, truth), truth)


def regularised(points3d, points2d, truth):
    found = posterior(points3d, points2d, truth)
    return sum(pnp.derivative_loss(pnp.one_step(found.prepared.problems, found.mode), truth))


def robust(points3d, points2d, truth):
    return torch.as_tensor(pnp.ransac(points3d[0], points2d[0], K, threshold_px=5.0).cam_from_obj)


@pytest.mark.parametrize("door", [implicit, monte_carlo, regularised, robust], ids=lambda f: f.__name__)
def test_autocast_changes_nothing(door):
    def run(enabled):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == (torch.bfloat16 if enabled else torch.float32)
            points3d, points2d, truth = problem()  # made by doors of `geometry`
            points2d.requires_grad_(door is not robust)
            value = door(points3d, points2d, truth)
        if door is robust:
            return value, torch.zeros(())
        (gradient,) = torch.autograd.grad(value.sum(), points2d)  # outside of autocast, as it is meant to be used
        return value.detach(), gradient

    for cast, plain in zip(run(True), run(False), strict=True):
        assert math.isfinite(float(cast.sum()))
        torch.testing.assert_close(cast, plain, rtol=0, atol=0)
