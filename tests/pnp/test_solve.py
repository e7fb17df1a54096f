"""pnp.solve: exact recovery, the optimum of other libraries, covariance, and what it does with hopeless input."""

import math

import cv2
import numpy as np
import pytest
import torch

from monopose import Camera, pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import initialise, kernels, residuals
from monopose.pnp.prepare import prepare
from monopose.pnp.solve import initial_poses

F64 = torch.float64
K = torch.tensor([[572.4, 0.0, 325.3], [0.0, 573.6, 242.0], [0.0, 0.0, 1.0]], dtype=F64)
EYE = torch.eye(4, dtype=F64)


def problems(batch, n, noise=0.0, seed=0, planar=False):
    """Objects of 0.1 to 0.3 m at 0.5 to 1.5 m, pixels with Gaussian noise."""
    g = torch.Generator().manual_seed(seed)
    X = (torch.rand(batch, n, 3, generator=g, dtype=F64) - 0.5) * (0.1 + 0.2 * torch.rand(batch, 1, 1, generator=g, dtype=F64))
    if planar:
        X[..., 2] = 0
    z = 0.5 + torch.rand(batch, 1, generator=g, dtype=F64)
    t = torch.cat([(torch.rand(batch, 2, generator=g, dtype=F64) - 0.5) * 0.4 * z, z], -1)
    T = se3.from_rt(rotation.random_rotations(batch, g, F64), t)
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(batch, n, 2, generator=g, dtype=F64)
    return X, x, T


def nudged(T, degrees, metres, seed=1):
    g = torch.Generator().manual_seed(seed)
    axis = torch.nn.functional.normalize(torch.randn(*T.shape[:-2], 3, generator=g, dtype=F64), dim=-1)
    move = metres * (torch.rand(*T.shape[:-2], 3, generator=g, dtype=F64) - 0.5)
    return se3.retract(T, torch.cat([move, axis * np.deg2rad(degrees)], -1))


def opencv(X, x, flag=cv2.SOLVEPNP_SQPNP):
    """OpenCV's SQPnP, then its Levenberg-Marquardt."""
    out = []
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 100, 1e-12)
    for p, q in zip(X.numpy(), x.numpy()):
        _, r, t = cv2.solvePnP(p, q, K.numpy(), None, flags=flag)
        r, t = cv2.solvePnPRefineLM(p, q, K.numpy(), None, r, t, criteria)
        out.append(se3.from_rt(torch.from_numpy(cv2.Rodrigues(r)[0]), torch.from_numpy(t[:, 0])))
    return torch.stack(out)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("n", [6, 40])
def test_without_noise_and_start_the_pose_is_exact(n, planar):
    X, x, T = problems(40, n, planar=planar)
    s = pnp.solve(X, x, K)
    assert s.converged.all()
    torch.testing.assert_close(s.cam_from_obj, T, rtol=0, atol=1e-8)
    assert (s.cost < 1e-12).all()


def test_from_a_random_start_nearby_the_pose_is_exact():
    X, x, T = problems(40, 12)
    s = pnp.solve(X, x, K, init=nudged(T, 20, 0.1))
    assert s.converged.all()
    torch.testing.assert_close(s.cam_from_obj, T, rtol=0, atol=1e-8)


def test_float32_comes_close_and_stays_float32():
    X, x, T = problems(40, 32)
    s = pnp.solve(X.float(), x.float(), K.float())
    assert all(v.dtype == torch.float32 for v in s[:3])
    assert s.converged.all()
    torch.testing.assert_close(s.cam_from_obj, T.float(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("planar", [False, True])
def test_the_optimum_is_that_of_opencv(planar):
    X, x, _ = problems(30, 24, noise=1.0, planar=planar)
    reference = opencv(X, x)
    ours = pnp.solve(X, x, K)
    theirs = residuals.cost(prepare(X, x, K).problems, reference)
    assert (ours.cost <= theirs * (1 + 1e-6)).all()
    torch.testing.assert_close(pnp.solve(X, x, K, init=reference).cam_from_obj, reference, rtol=0, atol=1e-5)
    if not planar:  # a plane may have two poses of nearly equal cost
        torch.testing.assert_close(ours.cam_from_obj, reference, rtol=0, atol=1e-5)


def test_the_optimum_under_weights_is_that_of_scipy():
    from scipy.optimize import least_squares

    X, x, T = problems(3, 15, noise=3.0)
    w = torch.rand(3, 15, 2, generator=torch.Generator().manual_seed(5), dtype=F64)
    s = pnp.solve(X, x, K, weights=w)

    def best(start, i):
        def f(d):
            moved = se3.retract(start, torch.from_numpy(d))[None]
            return residuals.weighted_residuals(prepare(X[i], x[i], K, w[i]).problems, moved).flatten().numpy()

        return least_squares(f, np.zeros(6), xtol=1e-15, ftol=1e-15, gtol=1e-15)

    for i in range(3):
        found = best(T[i], i)
        torch.testing.assert_close(s.cam_from_obj[i], se3.retract(T[i], torch.from_numpy(found.x)), rtol=0, atol=1e-6)
        assert float(s.cost[i]) == pytest.approx(found.cost, rel=1e-8)
        jac = best(s.cam_from_obj[i], i).jac  # by finite differences, in the tangent of the optimum
        information = torch.from_numpy(jac.T @ jac)
        torch.testing.assert_close(s.covariance[i] @ information, torch.eye(6, dtype=F64), rtol=0, atol=1e-4)


def test_gradient_vanishes_at_the_huber_optimum():
    X, x, T = problems(10, 30, noise=1.0)
    x[:, :3] += 60
    s = pnp.solve(X, x, K, init=T, robust=pnp.Huber(1.5), iterations=100)
    assert s.converged.all()
    normal = residuals.normal_equations(prepare(X, x, K, robust=pnp.Huber(1.5)).problems, s.cam_from_obj)
    step = torch.linalg.solve(normal.hessian, normal.gradient)
    assert (step.abs() < 1e-5).all()
    plain = pnp.solve(X, x, K, init=T)
    assert (rotation.angle_between(s.cam_from_obj[:, :3, :3], T[:, :3, :3]).median()
            < 0.3 * rotation.angle_between(plain.cam_from_obj[:, :3, :3], T[:, :3, :3]).median())  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kernel", [pnp.Huber, pnp.Cauchy])
@pytest.mark.parametrize("delta", [1e7, 1e30, 1e200, math.inf])
def test_a_threshold_far_above_all_residuals_is_none(delta, kernel, dtype):
    if dtype == torch.float32 and delta == 1e200:
        pytest.skip("is infinite there")
    X, x, T = (v.to(dtype) for v in problems(4, 12, noise=1.0))
    expected, robust = pnp.solve(X, x, K, init=T), kernel(delta)
    found = pnp.solve(X, x, K, init=T, robust=robust)
    assert found.converged.all()
    digits = 1e-5 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(found.cost, expected.cost, rtol=digits, atol=0)
    torch.testing.assert_close(found.cam_from_obj, expected.cam_from_obj, rtol=0, atol=1e-6)
    at_truth, squares = (kernels.pose_costs(prepare(X, x, K, robust=r).problems, T[:, None]) for r in (robust, None))
    torch.testing.assert_close(at_truth, squares, rtol=10 * digits, atol=0)


def test_huber_without_start_survives_some_outliers():
    X, x, T = problems(20, 40, noise=0.5)
    x[:, :8] = torch.rand(20, 8, 2, generator=torch.Generator().manual_seed(2), dtype=F64) * 400
    s = pnp.solve(X, x, K, robust=pnp.Huber(2.0))
    assert (torch.rad2deg(rotation.angle_between(s.cam_from_obj[:, :3, :3], T[:, :3, :3])) < 5).all()


def test_covariance_is_the_scatter_of_repeated_measurements():
    X, _, T = problems(1, 20)
    sigma, repeats = 0.7, 3000
    g = torch.Generator().manual_seed(11)
    clean = camera.project(se3.transform(T, X), K)
    x = clean + sigma * torch.randn(repeats, 20, 2, generator=g, dtype=F64)
    s = pnp.solve(X, x, K, weights=torch.full((20,), 1 / sigma, dtype=F64), init=T)
    assert s.converged.all()
    delta = torch.cat(
        [s.cam_from_obj[:, :3, 3] - T[:, :3, 3], rotation.so3_log(s.cam_from_obj[:, :3, :3] @ T[:, :3, :3].mT)], -1
    )
    empirical = torch.cov(delta.T)
    predicted = pnp.solve(X, clean, K, weights=torch.full((20,), 1 / sigma, dtype=F64), init=T).covariance[0]
    # in units of the predicted standard deviations the scatter is the identity
    L = torch.linalg.cholesky(predicted)
    whitened = torch.linalg.solve_triangular(L, torch.linalg.solve_triangular(L, empirical, upper=False).mT, upper=False)
    torch.testing.assert_close(whitened, torch.eye(6, dtype=F64), rtol=0, atol=0.12)


def test_weights_make_outliers_vanish():
    X, x, T = problems(20, 16)
    w = torch.ones(20, 16, dtype=F64)
    x[:, :6] += 100
    w[:, :6] = 0
    X[:, 5] = torch.nan  # under weight 0 not even NaN counts
    for weights in (w, w[..., None].expand(-1, -1, 2)):
        s = pnp.solve(X, x, K, weights=weights)
        assert s.converged.all()
        torch.testing.assert_close(s.cam_from_obj, T, rtol=0, atol=1e-8)
    few = pnp.solve(X[:, 6:], x[:, 6:], K)
    torch.testing.assert_close(s.covariance, few.covariance)


@pytest.mark.parametrize("given", [False, True])
def test_a_batch_equals_its_problems_one_by_one(given):
    X, x, T = problems(6, 20, noise=1.0)
    init = nudged(T, 15, 0.1) if given else None
    starts = None if init is None else init.reshape(2, 3, 4, 4)
    together = pnp.solve(X.reshape(2, 3, 20, 3), x.reshape(2, 3, 20, 2), K, init=starts)
    assert together.cam_from_obj.shape == (2, 3, 4, 4)
    assert together.covariance.shape == (2, 3, 6, 6)
    assert together.cost.shape == together.converged.shape == (2, 3)
    for i in range(6):
        alone = pnp.solve(X[i], x[i], K, init=None if init is None else init[i])
        assert alone.cost.shape == ()
        torch.testing.assert_close(alone.cam_from_obj, together.cam_from_obj[i // 3, i % 3], rtol=0, atol=1e-9)


def test_leading_dimensions_broadcast():
    X, x, T = problems(1, 20, noise=1.0)
    many = x + torch.arange(5.0, dtype=F64)[:, None, None]
    s = pnp.solve(X[0], many, Camera(K, (480, 640)), weights=torch.ones(20, 2, dtype=F64), init=T[0])
    assert s.cam_from_obj.shape == (5, 4, 4)
    cameras = K.expand(4, 1, 3, 3)
    assert pnp.solve(X[0], many, cameras).cam_from_obj.shape == (4, 5, 4, 4)


@pytest.mark.parametrize("given", [False, True])
def test_four_degrees_of_freedom(given):
    X, _, T = problems(20, 10)
    g = torch.Generator().manual_seed(4)
    yaw = torch.zeros(20, 3, dtype=F64)
    yaw[:, 1] = 6.28 * torch.rand(20, generator=g, dtype=F64)
    T = se3.from_rt(rotation.so3_exp(yaw), T[:, :3, 3])
    x = camera.project(se3.transform(T, X), K)
    init = None
    if given:
        init = se3.retract(T, torch.tensor([0.02, 0.02, 0.05, 0.0, 0.3, 0.0], dtype=F64).expand(20, 6))
    s = pnp.solve(X, x, K, init=init, dof=4)
    assert s.converged.all()
    torch.testing.assert_close(s.cam_from_obj, T, rtol=0, atol=1e-8)
    assert (s.covariance[:, [3, 5]] == 0).all()
    assert (s.covariance[:, :, [3, 5]] == 0).all()
    assert (s.covariance.diagonal(dim1=1, dim2=2)[:, [0, 1, 2, 4]] > 0).all()
    noisy = pnp.solve(X, x + 2 * torch.randn(x.shape, generator=g, dtype=F64), K, init=init, dof=4)
    torch.testing.assert_close(noisy.cam_from_obj[:, 1, :3], EYE[1, :3].expand(20, 3), rtol=0, atol=1e-12)  # Y stays Y


def spoiled(kind):
    """Eight good problems of 12 points whose fourth is hopeless."""
    X, x, T = problems(8, 12, noise=0.5)
    w = torch.ones(8, 12, 2, dtype=F64)
    if kind == "nan point":
        X[3, 2, 1] = torch.nan
    elif kind == "inf pixel":
        x[3, 2, 1] = torch.inf
    elif kind == "nan weight":
        w[3, 2, 1] = torch.nan
    elif kind == "all nan":
        X[3] = torch.nan
    elif kind == "zero weights":
        w[3] = 0
    elif kind == "two points":
        w[3, 2:] = 0
    elif kind == "same point":
        X[3] = X[3, :1]
        x[3] = x[3, :1]
    elif kind == "collinear":
        X[3, :, 1:] = 0
        x[3] = camera.project(se3.transform(T[3], X[3]), K)
    elif kind == "all at zero":
        X[3] = 0
    elif kind == "huge":
        X[3] = 1e200
    elif kind == "same pixel":
        x[3] = 100.0
    return X, x, w, T


KINDS = ["nan point", "inf pixel", "nan weight", "all nan", "zero weights", "two points", "same point", "collinear",
         "all at zero", "huge"]  # fmt: skip


@pytest.mark.parametrize("robust", [None, pnp.Huber(3.0), pnp.AdaptiveHuber(), pnp.Cauchy(3.0)])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_problem_fails_alone(kind, given, robust):
    X, x, w, T = spoiled(kind)
    init = nudged(T, 10, 0.05) if given else None
    s = pnp.solve(X, x, K, weights=w, init=init, robust=robust)
    assert s.converged.tolist() == [i != 3 for i in range(8)]
    assert all(torch.isfinite(v).all() for v in s[:3])
    R = s.cam_from_obj[..., :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=F64).expand(8, 3, 3), rtol=0, atol=1e-9)
    good = [i for i in range(8) if i != 3]
    clean = pnp.solve(X[good], x[good], K, weights=w[good], init=None if init is None else init[good], robust=robust)
    # re-weighting converges linearly: from other random starts Cauchy's optimum is met to fewer digits
    digits = 1e-6 if isinstance(robust, pnp.Cauchy) else 1e-9
    torch.testing.assert_close(s.cam_from_obj[good], clean.cam_from_obj, rtol=0, atol=digits)
    torch.testing.assert_close(s.covariance[good], clean.covariance, rtol=1e-4 if digits > 1e-9 else 1e-7, atol=1e-12)


@pytest.mark.parametrize("robust", [None, pnp.Huber(3.0)])
@pytest.mark.parametrize("dof", [6, 4])
def test_plain_torch_gives_the_same_solution(robust, dof, monkeypatch):
    X, x, w, T = spoiled("collinear")
    w[1, 1:] = 0  # one point
    w[2, ::3] = 0
    T[:, :3, :3] = EYE[:3, :3] if dof == 4 else T[:, :3, :3]
    x = x if dof == 6 else camera.project(se3.transform(T, X), K)
    arguments = (
        X,
        x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=F64),
        K,
        w,
        nudged(T, 5, 0.05),
    )
    fused = pnp.solve(*arguments, dof=dof, robust=robust)
    monkeypatch.setattr(kernels, "backend", lambda device: None)
    plain = pnp.solve(*arguments, dof=dof, robust=robust)
    assert fused.converged.tolist() == plain.converged.tolist()
    assert not fused.converged.all()
    good = fused.converged
    for a, b in zip(fused[:3], plain[:3]):
        assert torch.isfinite(b).all()
        torch.testing.assert_close(a[good], b[good], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_autocast_changes_nothing(given, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(kernels, "backend", lambda device: None)
    X, x, T = (v.float() for v in problems(4, 12, noise=1.0))
    init = nudged(T.double(), 10, 0.05).float() if given else None
    before = pnp.solve(X, x, K.float(), init=init)
    residual = residuals.normal_equations(prepare(X, x, K).problems, T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (X @ T[:, :3, :3]).dtype == torch.bfloat16
        inside = pnp.solve(X, x, K.float(), init=init)
        residual_inside = residuals.normal_equations(prepare(X, x, K).problems, T)
        moved = se3.transform(T, X.bfloat16())
    assert all(torch.equal(a, b) for a, b in zip((*before, *residual), (*inside, *residual_inside)))
    assert before.converged.all()
    assert torch.equal(moved, se3.transform(T, X.bfloat16().float()))


def test_points_are_drawn_by_weight_and_never_twice():
    weights = torch.tensor([[1.0, 0.0, 2.0, 3.0, 2.0]], dtype=F64)
    uniforms = torch.rand(1, 20_000, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    drawn = initialise.draw(weights, uniforms)[0]
    assert torch.equal(drawn.sort(-1).values, torch.tensor([0, 2, 3, 4]).expand(20_000, 4))
    torch.testing.assert_close(drawn[:, 0].bincount(minlength=5) / 20_000, (weights[0] / 8).float(), rtol=0, atol=0.015)
    after = drawn[drawn[:, 0] == 3, 1].bincount(minlength=5)  # 1, 2 and 2 are left
    torch.testing.assert_close(after / after.sum(), torch.tensor([0.2, 0, 0.4, 0, 0.4]), rtol=0, atol=0.015)


def test_starts_in_plain_torch_are_good_starts():
    X, x, _ = problems(6, 30, noise=1.0)
    x[:, :6] += 60.0
    given = prepare(X, x, K, robust=pnp.Huber(3.0))
    plain = initialise.starts_reference(given.problems, 6, 32, 2)
    fused = initial_poses(given.problems, 6, 2, 32)
    costs = [kernels.pose_costs(given.problems, v).amin(1) for v in (plain, fused)]
    assert (costs[0] < 1.5 * costs[1]).all()


def test_what_no_point_fixes_is_very_uncertain():
    X, x, w, T = spoiled("zero weights")
    s = pnp.solve(X, x, K, weights=w, init=T)
    torch.testing.assert_close(s.cam_from_obj[3], T[3])
    assert (s.covariance[3].diagonal() > 1e4).all()


def test_an_image_squeezed_into_one_pixel_stays_finite():
    X, x, w, _ = spoiled("same pixel")
    s = pnp.solve(X, x, K, weights=w)
    assert all(torch.isfinite(v).all() for v in s[:3])


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_points_do_not_converge(n):
    X, x, T = problems(3, n)
    s = pnp.solve(X, x, K)
    assert not s.converged.any()
    assert all(torch.isfinite(v).all() for v in s[:3])
    near = pnp.solve(X, x, K, init=nudged(T, 3, 0.02))
    assert near.converged.tolist() == [n == 3] * 3  # three points fix a pose once a start says which of the four


def test_an_object_behind_the_camera_does_not_converge():
    X, x, T = problems(4, 10)
    behind = T.clone()
    behind[:, 2, 3] *= -1
    s = pnp.solve(X, x, K, init=behind)
    assert torch.isfinite(s.cam_from_obj).all()
    front = se3.transform(s.cam_from_obj, X)[..., 2].amin(-1) > 0
    assert not (s.converged & ~front).any()


def test_a_start_that_is_not_finite_fails_alone():
    X, x, T = problems(3, 10)
    init = T.clone()
    init[1, 0, 0] = torch.nan
    s = pnp.solve(X, x, K, init=init)
    assert s.converged.tolist() == [True, False, True]
    torch.testing.assert_close(s.cam_from_obj[1], EYE)


def test_iterations_that_run_out_are_not_convergence():
    X, x, T = problems(4, 10, noise=1.0)
    assert not pnp.solve(X, x, K, init=nudged(T, 20, 0.1), iterations=1).converged.any()
    nothing = pnp.solve(X, x, K, init=T, iterations=0)
    torch.testing.assert_close(nothing.cam_from_obj, T)


def test_an_empty_batch_is_empty():
    s = pnp.solve(torch.zeros(0, 5, 3), torch.zeros(0, 5, 2), K)
    assert s.cam_from_obj.shape == (0, 4, 4)
    assert s.converged.shape == (0,)
    assert pnp.solve(torch.zeros(0, 5, 3), torch.zeros(0, 5, 2), K, init=EYE, robust=pnp.Huber(1.0)).covariance.shape == (
        0,
        6,
        6,
    )


def test_arguments_are_left_alone_and_results_repeat():
    X, x, T = problems(4, 20, noise=1.0)
    w = torch.ones_like(x)
    w[:, 3] = 0
    before = [v.clone() for v in (X, x, w, T)]
    a = pnp.solve(X, x, K, weights=w, robust=pnp.Huber(2.0))
    b = pnp.solve(X, x, K, weights=w, robust=pnp.Huber(2.0))
    pnp.solve(X, x, K, weights=w, init=T)
    assert torch.equal(a.cam_from_obj, b.cam_from_obj)
    assert all(torch.equal(v, u) for v, u in zip((X, x, w, T), before))


def test_random_samples_follow_the_generator():
    X, x, _ = problems(4, 20, noise=1.0)
    given = prepare(X, x, K).problems

    def starts(seed):
        return initial_poses(given, 6, proposals=8, count=6, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(starts(1), starts(1))
    assert not torch.equal(starts(1), starts(2))


def test_the_quadratic_form_vanishes_at_the_truth_and_gives_its_translation():
    X, x, T = problems(5, 9)
    w = torch.rand(5, 9, 2, generator=torch.Generator().manual_seed(0), dtype=F64) + 0.1
    omega, linear = initialise.quadratic_form(X, x, w, K.expand(5, 3, 3))
    r = T[:, :3, :3].flatten(1)
    error = torch.einsum("bi,bij,bj->b", r, omega, r) / omega.diagonal(dim1=1, dim2=2).sum(1)
    assert (error.abs() < 1e-12).all()
    torch.testing.assert_close((linear @ r[..., None]).squeeze(-1), T[:, :3, 3], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"points3d": torch.zeros(3, 100)}, r"points3d must be \(\.\.\., N, 3\) metres, got \(3, 100\); transpose"),
        ({"points2d": torch.zeros(9, 2)}, r"points2d must be \(\.\.\., 10, 2\) pixels to match points3d, got \(9, 2\)"),
        ({"weights": torch.zeros(9)}, r"weights must be \(\.\.\., 10, 2\) or \(\.\.\., 10\), got \(9,\)"),
        ({"dof": 5}, "dof must be 6 .* or 4 .*, got 5"),
        ({"init": torch.zeros(3, 4)}, r"init must be \(\.\.\., 4, 4\) metres, got \(3, 4\)"),
        ({"camera": torch.zeros(4)}, r"K of shape \(\.\.\., 3, 3\), got \(4,\)"),
        ({"init": torch.zeros(7, 4, 4), "points3d": torch.zeros(6, 10, 3)}, "batch dimensions"),
    ],
)
def test_errors_say_what_was_expected(change, message):
    arguments = {"points3d": torch.zeros(10, 3), "points2d": torch.zeros(10, 2), "camera": K.float()} | change
    with pytest.raises(ValueError, match=message):
        pnp.solve(**arguments)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e6])
def test_what_the_points_fix_is_as_sure_as_they_make_it(factor, fused, monkeypatch):
    """A line of points leaves the turn about itself open: there the covariance is huge, else the inverse of the information."""
    if not fused:
        monkeypatch.setattr(kernels, "backend", lambda device: None)
    X, x, w, T = spoiled("collinear")
    s = pnp.solve(X, x, K, weights=factor * w, init=T)
    assert s.reason[3] == pnp.Reason.DEGENERATE
    H = residuals.normal_equations(prepare(X, x, K, factor * w).problems, s.cam_from_obj).hessian
    scale = H.diagonal(dim1=1, dim2=2).sqrt()
    for i, digits in ((2, 1e-7), (3, 1e-6)):
        again = H[i] @ s.covariance[i] @ H[i] / (scale[i][:, None] * scale[i])
        torch.testing.assert_close(again, H[i] / (scale[i][:, None] * scale[i]), rtol=0, atol=digits)
    most = torch.linalg.eigvalsh(s.covariance)[:, -1]
    assert 1e5 * most[2] < most[3] < 1e12 * most[2]
