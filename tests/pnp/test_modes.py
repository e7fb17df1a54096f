"""Both poses of a plane with their odds, gravity as the axis of yaw, pixels of distorted cameras."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monopose import Camera, pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import Reason

F64 = torch.float64
K = torch.tensor([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]], dtype=F64)
BROWN = [0.12, -0.2, 0.002, -0.001, 0.05]
RATIONAL = [0.3, -0.1, 0.001, 0.002, 0.02, 0.25, -0.05, 0.01]
FISHEYE = [-0.02, 0.01, -0.004, 0.001]


def scene(batch, n, depth, noise, flat=1.0, dof=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = 0.2 * (torch.rand(batch, n, 3, generator=g, dtype=F64) - 0.5) * torch.tensor([1.0, 1.0, flat], dtype=F64)
    z = depth * (1 + 0.2 * torch.rand(batch, 1, generator=g, dtype=F64))
    R = rotation.random_rotations(batch, g, F64)
    if dof == 4:
        R = rotation.so3_exp(torch.nn.functional.pad(6 * torch.rand(batch, 1, generator=g, dtype=F64), (1, 1)))
    T = se3.from_rt(R, torch.cat([0.1 * z, -0.05 * z, z], 1))
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(batch, n, 2, generator=g, dtype=F64)
    return X, x, T


# ------------------------------------------------------------------------------------------------------------------ modes


def test_both_poses_of_a_plane_are_minima_with_the_odds_of_the_posterior():
    X, x, _ = scene(8, 12, 3.5, 1.0, flat=0.0)
    found = pnp.solve(X, x, K, modes=2)
    assert found.converged.all()
    assert found.cam_from_obj.shape == (8, 2, 4, 4)
    assert found.covariance.shape == (8, 2, 6, 6)
    best = pnp.solve(X, x, K)
    torch.testing.assert_close(found.cam_from_obj[:, 0], best.cam_from_obj, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.covariance[:, 0], best.covariance)
    assert (found.cost[:, 1] >= found.cost[:, 0]).all()
    assert (rotation.angle_between(found.cam_from_obj[:, 0, :3, :3], found.cam_from_obj[:, 1, :3, :3]) > 0.1).all()
    again = pnp.solve(X[:, None], x[:, None], K, init=found.cam_from_obj)  # a minimum stays where it is
    torch.testing.assert_close(again.cam_from_obj, found.cam_from_obj, rtol=0, atol=1e-6)
    posterior = pnp.sample_posterior(X, x, K, samples=8192, generator=torch.Generator().manual_seed(0))
    R = found.cam_from_obj[:, None, :, :3, :3]
    nearest = rotation.angle_between(posterior.samples[:, :, None, :3, :3], R).argmin(-1)
    share = (posterior.probabilities() * (nearest == 1)).sum(1)
    torch.testing.assert_close(found.odds[:, 1], share, rtol=0, atol=0.05)
    torch.testing.assert_close(found.odds.sum(1), torch.ones(8, dtype=F64))


def test_ippe_finds_the_same_two_poses():
    X, x, _ = scene(20, 8, 2.0, 0.0, flat=0.0)
    found = pnp.solve(X, x, K, modes=2)
    for i in range(20):
        count, turns, moves, _ = cv2.solvePnPGeneric(X[i].numpy(), x[i].numpy(), K.numpy(), None, flags=cv2.SOLVEPNP_IPPE)
        assert count == 2
        for turn, move in zip(turns, moves):  # exact for the true pose, near the minimum for the other
            R = torch.from_numpy(cv2.Rodrigues(turn)[0])
            assert rotation.angle_between(R, found.cam_from_obj[i, :, :3, :3]).amin() < math.radians(5)
            assert (found.cam_from_obj[i, :, :3, 3] - torch.from_numpy(move[:, 0])).norm(dim=-1).amin() < 0.05 * 2


def test_where_there_is_one_pose_it_is_repeated_and_said():
    X, x, _ = scene(3, 30, 0.8, 0.5)
    X, x = X.float(), x.float()
    found, one = pnp.solve(X, x, K, modes=3), pnp.solve(X, x, K)
    assert len(one) == 5
    assert found.reason.tolist() == 3 * [[0, Reason.NO_OTHER_MODE, Reason.NO_OTHER_MODE]]
    assert torch.equal(found.odds, torch.tensor([[1.0, 0, 0]]).expand(3, 3))
    assert found.cost[:, 1:].isinf().all()
    torch.testing.assert_close(found.cam_from_obj, one.cam_from_obj[:, None].expand(3, 3, 4, 4), rtol=0, atol=1e-5)
    yaw = pnp.solve(*scene(3, 8, 0.8, 0.5, dof=4)[:2], K, dof=4, modes=2)
    assert yaw.converged[:, 0].all()


def test_modes_are_no_answers_where_there_is_none():
    X, x, _ = scene(4, 3, 1.0, 0.5)
    few = pnp.solve(X.repeat(1, 5, 1), x.repeat(1, 5, 1), K, modes=2)
    assert not few.converged.any()
    assert (few.odds == 0).all()
    assert torch.isfinite(few.cam_from_obj).all()
    X, x, _ = scene(4, 12, 2.0, 0.5, flat=0.0)
    x[1, 0, 0] = math.nan
    some = pnp.solve(X, x, K, modes=2)
    assert some.converged.all(1).tolist() == [True, False, True, True]
    for value in (0, -1, 1.5, None):
        with pytest.raises(ValueError, match="modes must be an integer >= 1"):
            pnp.solve(X, x, K, modes=value)


# ---------------------------------------------------------------------------------------------------------------- gravity


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.sampled_from([torch.float32, F64]))
def test_gravity_turns_the_problem_of_an_upright_camera(seed, length, dtype):
    X, x, _ = scene(3, 8, 0.8, 0.3, dof=4, seed=seed)
    tip = rotation.random_rotations(1, torch.Generator().manual_seed(seed), F64)[0]  # the camera stands like this
    down = tip.mT @ torch.tensor([0.0, length, 0.0], dtype=F64)
    turn = se3.from_rt(tip.mT, torch.zeros(3, dtype=F64))
    upright = pnp.solve(X.to(dtype), x.to(dtype), K.to(dtype), dof=4)
    found = pnp.solve(X.to(dtype), x.to(dtype), (K @ tip).to(dtype), dof=4, gravity=down)
    assert torch.equal(found.converged, upright.converged)
    ok, within = upright.converged, 1e-3 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(found.cam_from_obj[ok], (turn.to(dtype) @ upright.cam_from_obj)[ok], rtol=0, atol=within)
    both = torch.block_diag(tip.mT, tip.mT).to(dtype)
    torch.testing.assert_close(found.covariance[ok], (both @ upright.covariance @ both.mT)[ok], rtol=0.02, atol=1e-7)


def test_a_camera_that_hangs_upside_down():
    """No rotation is the shortest from -Y to Y."""
    X, x, _ = scene(3, 8, 0.8, 0.3, dof=4)
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=F64))
    expected, found = pnp.solve(X, x, K, dof=4), pnp.solve(X, x, K @ half, dof=4, gravity=[0.0, -1.0, 0.0])
    assert torch.equal(found.converged, expected.converged)
    assert found.converged.any()
    turn = se3.from_rt(half, torch.zeros(3, dtype=F64))
    ok = found.converged
    torch.testing.assert_close(found.cam_from_obj[ok], (turn @ expected.cam_from_obj)[ok], rtol=0, atol=1e-7)


def test_gravity_has_a_gradient_and_serves_every_layer():
    X, x, _ = scene(2, 8, 0.8, 0.3, dof=4)
    tip = rotation.so3_exp(torch.tensor([0.4, 0.1, -0.3], dtype=F64))
    down = tip.mT @ torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    k = K @ tip

    def layer(g, x):
        return pnp.solve_implicit(X, x, k, dof=4, gravity=g).cam_from_obj[:, :3]

    inputs = (down.clone().requires_grad_(), x.clone().requires_grad_())
    assert torch.autograd.gradcheck(layer, inputs, eps=1e-5, atol=1e-3, rtol=1e-3, fast_mode=True)
    found = pnp.sample_posterior(X, x, k, dof=4, gravity=down, generator=torch.Generator().manual_seed(0))
    mode = pnp.solve(X, x, k, dof=4, gravity=down, modes=2)
    torch.testing.assert_close(found.mode, mode.cam_from_obj[:, 0], rtol=0, atol=1e-5)
    axis = found.samples[..., :3, :3] @ mode.cam_from_obj[:, :1, :3, :3].mT @ down  # yaw leaves the vertical as it is
    torch.testing.assert_close(axis, down.expand_as(axis), rtol=0, atol=1e-6)
    plain = pnp.sample_posterior(X, x, K, dof=4, generator=torch.Generator().manual_seed(0))
    truth = se3.from_rt(tip.mT, torch.zeros(3, dtype=F64)) @ plain.mode
    torch.testing.assert_close(pnp.monte_carlo_loss(found, truth), pnp.monte_carlo_loss(plain, plain.mode), rtol=0, atol=0.05)


@pytest.mark.parametrize("iterations", [60, 0])
def test_roll_and_pitch_of_a_start_move_with_gravity(iterations):
    """They are measured from it: a gradient that takes the start for fixed is wrong by a hundred times."""
    X, x, T = scene(2, 8, 0.8, 0.3)
    down = torch.tensor([[0.3, 0.8, -0.4], [0.1, -0.9, 0.2]], dtype=F64, requires_grad=True)

    def layer(g, x):
        return pnp.solve_implicit(X, x, K, dof=4, gravity=g, init=T, iterations=iterations).cam_from_obj[:, :3]

    if iterations:
        inputs = (down, x.clone().requires_grad_())
        assert torch.autograd.gradcheck(layer, inputs, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True)
    else:  # not converged: exactly zero, by gravity too
        layer(down, x).sum().backward()
        assert not down.grad.any()


def test_gravity_is_checked():
    X, x, _ = scene(2, 8, 0.8, 0.3, dof=4)
    with pytest.raises(ValueError, match="gravity is for dof=4"):
        pnp.solve(X, x, K, gravity=torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"gravity must be \(\.\.\., 3\)"):
        pnp.solve(X, x, K, dof=4, gravity=torch.ones(2))
    downs = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = pnp.solve(X, x, K, dof=4, gravity=downs)
    assert found.reason.tolist() == [Reason.NOT_FINITE, Reason.CONVERGED]
    assert all(torch.isfinite(v).all() for v in found[:3])
    downs = torch.tensor([[torch.nan, 1, 0], [0, 1, 0]], dtype=F64, requires_grad=True)
    x = x.clone().requires_grad_()
    pnp.solve_implicit(X, x, K, dof=4, gravity=downs).cam_from_obj.sum().backward()
    for gradient in (downs.grad, x.grad):
        assert not gradient[0].any()
        assert torch.isfinite(gradient).all()
        assert gradient[1].any()
    assert torch.isfinite(pnp.solve_implicit(X, x, K, dof=4, gravity=downs * torch.nan).cam_from_obj).all()
    for length in (1e200, 1e-300):  # whose squares no number holds
        long = pnp.solve(X[1], x[1], K, dof=4, gravity=length * downs[1].double())
        torch.testing.assert_close(long.cam_from_obj, found.cam_from_obj[1])


# ------------------------------------------------------------------------------------------------------------- distortion


def bent(X_cam, distortion, model):
    """OpenCV's pixels of points (N, 3) in the camera frame."""
    X, k, d, no = X_cam.numpy(), K.numpy(), np.array(distortion), np.zeros(3)
    if model == "fisheye":
        return torch.from_numpy(cv2.fisheye.projectPoints(X[:, None], no, no, k, d)[0][:, 0])
    return torch.from_numpy(cv2.projectPoints(X, no, no, k, d)[0][:, 0])


LENSES = [(BROWN[:4], "brown"), (BROWN, "brown"), (RATIONAL, "brown"), (FISHEYE, "fisheye")]


@pytest.mark.parametrize("distortion, model", LENSES)
def test_undistorted_pixels_are_those_of_the_pinhole(distortion, model):
    g = torch.Generator().manual_seed(0)
    X = torch.rand(200, 3, generator=g, dtype=F64) * torch.tensor([0.9, 0.7, 0.5]) + torch.tensor([-0.45, -0.35, 1.0])
    pixels, weights = pnp.undistort(bent(X, distortion, model), K, distortion=distortion, model=model)
    torch.testing.assert_close(pixels, camera.project(X, K), rtol=0, atol=1e-6)
    # a step of the undistorted pixel is as long, weighted, as that of the photo's: along each axis
    for axis in range(2):
        step = torch.zeros(2, dtype=F64)
        step[axis] = 1e-4
        rays = torch.nn.functional.pad(pixels + step, (0, 1), value=1.0) @ torch.linalg.inv(K).mT
        there = bent(rays, distortion, model)
        back = torch.nn.functional.pad(pixels, (0, 1), value=1.0) @ torch.linalg.inv(K).mT
        length = (there - bent(back, distortion, model)).norm(dim=-1) / 1e-4
        torch.testing.assert_close(weights[:, axis], length, rtol=1e-3, atol=0)


@pytest.mark.parametrize("distortion, model", LENSES)
def test_a_pose_through_a_lens(distortion, model):
    X, _, T = scene(1, 20, 0.6, 0.0)
    x = bent(se3.transform(T, X)[0], distortion, model)
    if model == "brown":
        lens = Camera(K, (480, 640), torch.tensor(distortion))
        with pytest.raises(ValueError, match=r"pnp\.undistort"):
            pnp.solve(X[0], x, lens)
        pixels, weights = pnp.undistort(x, lens)
    else:
        pixels, weights = pnp.undistort(x, K, distortion=distortion, model=model)
    found = pnp.solve(X[0], pixels, K, weights)
    torch.testing.assert_close(found.cam_from_obj, T[0], rtol=0, atol=1e-6 if model == "fisheye" else 1e-5)


@pytest.mark.slow
def test_undistorted_pixels_have_a_gradient():
    x = torch.tensor([[100.0, 80.0], [320.0, 240.0], [500.0, 300.0]], dtype=F64)
    for distortion, model in LENSES:
        d = torch.tensor(distortion, dtype=F64)
        inputs = (x.clone().requires_grad_(), d.clone().requires_grad_())
        assert torch.autograd.gradcheck(
            lambda x, d, model=model: pnp.undistort(x, K, distortion=d, model=model)[0], inputs, rtol=1e-4, fast_mode=True
        )


def test_pixels_that_no_ray_makes_have_no_weight():
    x = torch.tensor([[320.0, 240.0], [5000.0, 240.0], [math.nan, 0.0]])
    pixels, weights = pnp.undistort(x, K, torch.tensor([2.0, 2.0, 2.0]), torch.tensor([-0.4, 0.0, 0.0, 0.0]))
    assert pixels.dtype == torch.float32
    assert (weights[1:] == 0).all()
    torch.testing.assert_close(weights[0], torch.tensor([2.0, 2.0]))
    for arguments, message in (
        ((x, K), "needs OpenCV's coefficients"),
        ((x, K, None, torch.ones(3)), r"distortion must be \(\.\.\., 4 or 5 or 8\)"),
        ((x, K, None, torch.ones(4), "tangential"), 'model must be "brown" or "fisheye"'),
        ((x[0], K, None, torch.ones(4)), r"points2d must be \(\.\.\., N, 2\)"),
        ((x, K, torch.ones(7), torch.ones(4)), r"weights must be \(\.\.\., 3, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            pnp.undistort(*arguments)
