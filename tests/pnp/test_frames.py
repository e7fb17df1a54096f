"""The PnP layers in any frame, unit, camera and precision: what does not change the problem does not change the answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monopose import pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import Reason, checks, kernels
from monopose.pnp.kernels import cpu

F64 = torch.float64
K = torch.tensor([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]], dtype=F64)
SEEDS = st.integers(0, 2**31)
QUICK = settings(max_examples=25, deadline=None)


def problems(seed, n=8, batch=6, noise=0.5, dof=6, flat=1.0):
    g = torch.Generator().manual_seed(seed)
    X = 0.2 * (torch.rand(batch, n, 3, generator=g, dtype=F64) - 0.5) * torch.tensor([1, 1, flat], dtype=F64)
    z = 0.5 + torch.rand(batch, 1, generator=g, dtype=F64)
    t = torch.cat([0.3 * z * (torch.rand(batch, 2, generator=g, dtype=F64) - 0.5), z], 1)
    R = rotation.random_rotations(batch, g, F64)
    if dof == 4:
        yaw = torch.zeros(batch, 3, dtype=F64)
        yaw[:, 1] = 6.28 * torch.rand(batch, generator=g, dtype=F64)
        R = rotation.so3_exp(yaw)
    T = se3.from_rt(R, t)
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(batch, n, 2, generator=g, dtype=F64)
    return X, x, T


def turn_of(seed):
    return rotation.random_rotations(1, torch.Generator().manual_seed(seed), F64)[0]


def moving(shift, R):
    """obj_from_new for X_new = R X + shift, (4, 4)."""
    return se3.inverse(se3.from_rt(R, shift))


@QUICK
@given(SEEDS, st.sampled_from([6, 4]), st.floats(-6.7, 6.7), st.sampled_from([None, pnp.Huber(1.0), pnp.Cauchy(2.0)]))
def test_a_shifted_origin_changes_nothing_but_the_frame(seed, dof, power, robust):
    X, x, _ = problems(seed, dof=dof)
    direction = torch.nn.functional.normalize(torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=F64), dim=0)
    shift = 10.0**power * direction
    here = pnp.solve(X, x, K, dof=dof, robust=robust)
    there = pnp.solve(X + shift, x, K, dof=dof, robust=robust)
    digits = 1e-7 + 1e-13 * 10.0**power  # what is left of the points' own digits
    assert torch.equal(there.converged, here.converged)
    back = there.cam_from_obj @ se3.from_rt(torch.eye(3, dtype=F64), shift)
    torch.testing.assert_close(back[:, :3, :3], here.cam_from_obj[:, :3, :3], rtol=0, atol=100 * digits)
    # the covariance of the same tangent, about another origin
    arm = rotation.skew(here.cam_from_obj[:, :3, :3] @ shift)
    A = torch.eye(6, dtype=F64).repeat(len(X), 1, 1)
    A[:, :3, 3:] = arm
    expected = A @ here.covariance @ A.mT
    scale = expected.diagonal(dim1=1, dim2=2).clamp_min(1e-30).sqrt()
    torch.testing.assert_close(
        there.covariance / scale[:, :, None] / scale[:, None, :], expected / scale[:, :, None] / scale[:, None, :],
        rtol=0, atol=1e-3,
    )  # fmt: skip


@QUICK
@given(SEEDS, st.floats(-9, 9))
def test_the_unit_of_length_does_not_matter(seed, power):
    X, x, T = problems(seed)
    unit = 10.0**power
    scaled = T.clone()
    scaled[:, :3, 3] *= unit
    start = se3.retract(T, 0.02 * torch.ones(6, dtype=F64).expand(len(T), 6))
    far = start.clone()
    far[:, :3, 3] *= unit
    for a, b in ((None, None), (start, far)):
        here, there = pnp.solve(X, x, K, init=a), pnp.solve(X * unit, x, K, init=b)
        assert here.converged.all()
        assert there.converged.all()
        torch.testing.assert_close(there.cam_from_obj[:, :3, :3], here.cam_from_obj[:, :3, :3], rtol=0, atol=1e-7)
        torch.testing.assert_close(there.cam_from_obj[:, :3, 3] / unit, here.cam_from_obj[:, :3, 3], rtol=0, atol=1e-7)
        units = torch.tensor([unit] * 3 + [1.0] * 3, dtype=F64)
        torch.testing.assert_close(there.covariance / units / units[:, None], here.covariance, rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(there.cost, here.cost, rtol=1e-6, atol=1e-9)


@QUICK
@given(SEEDS, st.sampled_from([6, 4]))
def test_a_turned_object_or_yawed_one_turns_the_pose(seed, dof):
    X, x, _ = problems(seed, dof=dof)
    R = turn_of(seed + 1)
    if dof == 4:
        R = rotation.so3_exp(torch.tensor([0, 1.0, 0], dtype=F64) * (seed % 7))
    here, there = pnp.solve(X, x, K, dof=dof), pnp.solve(X @ R.mT, x, K, dof=dof)
    assert torch.equal(here.converged, there.converged)
    torch.testing.assert_close(there.cam_from_obj[:, :3, :3] @ R, here.cam_from_obj[:, :3, :3], rtol=0, atol=1e-6)
    torch.testing.assert_close(there.covariance, here.covariance, rtol=1e-4, atol=1e-9)


@QUICK
@given(SEEDS, st.floats(0.01, 100), st.sampled_from([0.0, 1.0]))
def test_any_camera_that_is_one_gives_the_pose_in_its_frame(seed, scale, flat):
    X, x, _ = problems(seed, n=6, flat=flat)
    R = turn_of(seed + 1)
    plain, turned = pnp.solve(X, x, K), pnp.solve(X, x, scale * K @ R)
    assert plain.converged.all()
    assert turned.converged.all()
    torch.testing.assert_close(R @ turned.cam_from_obj[:, :3, :3], plain.cam_from_obj[:, :3, :3], rtol=0, atol=1e-6)
    torch.testing.assert_close(turned.cam_from_obj[:, :3, 3] @ R.mT, plain.cam_from_obj[:, :3, 3], rtol=0, atol=1e-6)
    torch.testing.assert_close(turned.cost, plain.cost, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("fused", [True, False])
def test_a_camera_is_known_up_to_its_sign(fused, monkeypatch):
    """An RQ decomposition may end in -K; OpenGL's K, whose [2, 2] is negative too, looks along -Z."""
    if not fused:
        monkeypatch.setattr(kernels, "backend", lambda device: None)
    X, x, _ = problems(3)
    expected = pnp.solve(X, x, K)
    torch.testing.assert_close(pnp.solve(X, x, -2 * K).cam_from_obj, expected.cam_from_obj, rtol=0, atol=1e-9)
    half = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=F64))
    turned = pnp.solve(X, x, K @ half[:3, :3])
    assert turned.converged.all()
    torch.testing.assert_close(half @ turned.cam_from_obj, expected.cam_from_obj, rtol=0, atol=1e-6)
    torch.testing.assert_close(pnp.ransac(X, x, -K).cam_from_obj, pnp.ransac(X, x, K).cam_from_obj, rtol=0, atol=1e-9)


@QUICK
@given(SEEDS, st.sampled_from([6, 4]), st.floats(0, 6.7), st.floats(-3, 3))
def test_mean_poses_do_not_depend_on_the_frame(seed, dof, power, unit):
    """About an origin 1,000 km away a rotation of a millidegree moves the object by metres."""
    X, x, _ = problems(seed, dof=dof, noise=1.0)
    unit = 10.0**unit
    shift = 10.0**power * torch.tensor([0.6, -0.48, 0.64], dtype=F64)
    other = unit * (X + shift)

    def mean(X, x, scale):
        posterior = pnp.sample_posterior(
            X, x, K, torch.ones_like(x), dof=dof, samples=32, generator=torch.Generator().manual_seed(0)
        )
        return se3.transform(posterior.mean(), X) / scale

    torch.testing.assert_close(mean(other, x, unit), mean(X, x, 1.0), rtol=0, atol=1e-6 + 1e-10 * 10.0**power)


@QUICK
@given(SEEDS)
def test_yaw_about_the_y_axis_of_a_turned_camera(seed):
    X, x, T = problems(seed, dof=4)
    quarter = rotation.so3_exp(torch.tensor([0, 0, torch.pi / 2], dtype=F64))
    turned = K @ quarter.mT  # the same camera, looking the same way, but its pixels are those of a turned photo
    x = camera.project(se3.transform(T, X), turned)
    found = pnp.solve(X, x, turned, dof=4)
    assert found.converged.all()
    torch.testing.assert_close(found.cam_from_obj, T, rtol=0, atol=1e-7)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dof", [6, 4])
@pytest.mark.parametrize("distance", [1e3, 1e5, 5e6])
def test_gradients_far_from_the_origin_are_those_at_the_origin(distance, dof, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(kernels, "backend", lambda device: None)
    X, x, _ = problems(3, n=10, dof=dof)
    shift = distance * torch.nn.functional.normalize(torch.tensor([1.0, -2, 0.5], dtype=F64), dim=0)
    gradients = []
    for offset in (torch.zeros(3, dtype=F64), shift):
        inputs = [v.clone().requires_grad_() for v in (X + offset, x, K)]
        found = pnp.solve_implicit(*inputs, dof=dof)
        assert found.converged.all()
        centred = found.cam_from_obj @ se3.from_rt(torch.eye(3, dtype=F64), offset)  # the pose of the same frame
        gradients.append(torch.autograd.grad((centred[:, :3] * torch.arange(12.0, dtype=F64).reshape(3, 4)).sum(), inputs))
    for a, b in zip(*gradients):
        assert (a != 0).any()
        torch.testing.assert_close(b / a.abs().max(), a / a.abs().max(), rtol=0, atol=1e-5)


def test_gradients_of_the_caller_s_pose_far_away_are_those_of_differences():
    X, x, _ = problems(5, n=6, batch=1)
    shift = torch.tensor([900.0, -300.0, 500.0], dtype=F64)

    def pose(X, x):
        return pnp.solve_implicit(X + shift, x, K).cam_from_obj[..., :3, :]

    inputs = [X.clone().requires_grad_(), x.clone().requires_grad_()]
    assert torch.autograd.gradcheck(pose, inputs, eps=1e-5, rtol=1e-3, atol=1e-2)


@QUICK
@given(SEEDS, st.integers(1, 3), st.integers(2, 6))
def test_repeated_points_are_no_more_points(seed, distinct, times):
    X, x, T = problems(seed, n=distinct)
    X, x = X.repeat(1, times, 1), x.repeat(1, times, 1)
    alone = pnp.solve(X, x, K)
    assert not alone.converged.any()
    assert (alone.reason == Reason.TOO_FEW_POINTS).all()
    started = pnp.solve(X, x, K, init=T)
    assert distinct == 3 or not started.converged.any()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("places", "reach", "told"), [(3, 1e-5, 0), (4, 1e-5, 1), (3, 5e-2, 1)])
def test_points_that_noise_does_not_tell_apart_are_no_more_points(places, reach, told, fused, monkeypatch):
    """Fifteen points in three places have the four poses of three points, however little they differ: which, noise says."""
    if not fused:
        monkeypatch.setattr(kernels, "backend", lambda device: None)
    X, _, T = problems(1, n=places, batch=6)
    g = torch.Generator().manual_seed(0)
    X = X.repeat(1, 5, 1) + reach * torch.randn(6, 5 * places, 3, generator=g, dtype=F64)
    exact = camera.project(se3.transform(T, X), K)
    x = exact + 0.5 * torch.randn(exact.shape, generator=g, dtype=F64)
    for scale in (1.0, 1e-3):  # weights known up to a factor
        found = pnp.solve(X, x, K, torch.full(X.shape[:2], scale, dtype=F64))
        assert (found.reason == (Reason.CONVERGED if told else Reason.TOO_FEW_POINTS)).all()
    assert pnp.ransac(X, x, K).success.all() == bool(told)
    assert pnp.solve(X, exact, K).converged.all()  # without noise they differ


def test_a_point_of_no_weight_to_speak_of_is_no_fourth_point():
    X, x, _ = problems(0, n=4)
    w = torch.ones(4, dtype=F64)
    assert pnp.solve(X, x, K, w).converged.all()
    w[3] = 1e-12
    assert (pnp.solve(X, x, K, w).reason == Reason.TOO_FEW_POINTS).all()


@QUICK
@given(SEEDS, st.floats(-12, 6))
def test_the_scale_of_the_weights_changes_neither_pose_nor_verdict(seed, power):
    X, x, _ = problems(seed, n=10)
    one = torch.ones(10, dtype=F64)
    here, there = pnp.solve(X, x, K, one), pnp.solve(X, x, K, 10.0**power * one)
    assert torch.equal(here.converged, there.converged)
    torch.testing.assert_close(there.cam_from_obj, here.cam_from_obj, rtol=0, atol=1e-7)
    torch.testing.assert_close(there.covariance * 100.0**power, here.covariance, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("fused", [True, False])
def test_one_weight_of_a_million_hides_no_other_point(fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(kernels, "backend", lambda device: None)
    X, x, T = problems(1, n=10, noise=0)
    w = torch.ones(10, dtype=F64)
    w[4] = 1e6
    found = pnp.solve(X, x, K, w)
    assert found.converged.all()
    torch.testing.assert_close(found.cam_from_obj, T, rtol=0, atol=1e-6)


def test_a_frame_gives_back_what_it_took():
    X, _, T = problems(2)
    w = torch.rand(*X.shape[:2], 2, dtype=F64)
    frame = checks.frame(X + 100, w)
    assert torch.equal(frame.scale.log2(), frame.scale.log2().round())
    torch.testing.assert_close(frame.outward(frame.inward(T)), T, rtol=0, atol=1e-10)
    own = frame.points(X + 100)
    torch.testing.assert_close(
        se3.transform(frame.inward(T), own) * frame.scale[:, None, None], se3.transform(T, X + 100), rtol=0, atol=1e-9
    )
    assert ((w.sum(-1, keepdim=True) ** 2 * own).sum(1).abs() < 1e-9).all()


def test_frames_are_those_of_the_kernel():
    X, x, _ = problems(2, n=9)
    w = torch.rand(*X.shape[:2], 2, dtype=F64)
    for dtype in (torch.float32, F64):
        points, weights, cameras = (X + 3).to(dtype), w.to(dtype), (2 * K).to(dtype).expand(len(X), 3, 3)
        for weighted in (True, False):
            plain = checks.frame(points, weights if weighted else None)
            fused, factor, used, out = cpu.frames(points, x.to(dtype), weights, weighted, cameras, True)
            torch.testing.assert_close(fused.centre, plain.centre)
            assert torch.equal(fused.scale, plain.scale)
            torch.testing.assert_close(factor * plain.scale, torch.full_like(factor, 0.5))
            assert out == 0
            assert bool(used.all())


@QUICK
@given(SEEDS, st.floats(0.01, 100))
def test_cameras_are_split_into_plain_ones_and_rotations(seed, scale):
    M = scale * K @ turn_of(seed)
    plain, R = checks.split_camera(M)
    assert plain[2].tolist() == [0, 0, 1]
    assert plain[1, 0] == 0
    torch.testing.assert_close(plain, K, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(plain @ R * scale, M, rtol=0, atol=1e-7 * scale)
    exact, eye = checks.split_camera(K)
    assert torch.equal(exact, K)
    assert torch.equal(eye, torch.eye(3, dtype=F64))


@pytest.mark.parametrize("bad", [torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 1, 0])), torch.ones(3, 3),
                                 torch.tensor([[600.0, 0, 0], [600, 0, 0], [0, 0, 1]]), K.T])  # fmt: skip
def test_what_is_no_camera_fails_alone(bad):
    X, x, T = problems(0)
    cameras = K.expand(len(X), 3, 3).clone()
    cameras[2] = bad
    assert not checks.is_camera(bad)
    assert pnp.ransac(X, x, cameras).success.tolist() == [i != 2 for i in range(len(X))]
    assert (pnp.undistort(x, bad, distortion=[0.1, 0, 0, 0])[1] == 0).all()
    for init in (None, T):
        found = pnp.solve(X, x, cameras, init=init)
        assert found.converged.tolist() == [i != 2 for i in range(len(X))]
        assert found.reason[2] == Reason.NOT_FINITE
        assert all(torch.isfinite(v).all() for v in found[:3])
