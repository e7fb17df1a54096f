"""Residuals, Jacobian and cost of pnp against autograd, at nice points and at ugly ones."""

import math

import pytest
import torch

from monopose import Camera
from monopose.geometry import rotation, se3
from monopose.pnp import AdaptiveHuber, Cauchy, Huber, residuals, solve
from monopose.pnp.prepare import intrinsics, prepare
from monopose.pnp.problems import Kernel

K = torch.tensor([[572.4, 0.7, 325.3], [0.0, 573.6, 242.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def problem(case):
    g = torch.Generator().manual_seed(3)
    X = 0.2 * (torch.rand(2, 7, 3, generator=g, dtype=torch.float64) - 0.5)
    R = rotation.random_rotations(2, g, torch.float64)
    t = torch.tensor([[0.05, -0.1, 0.6], [-0.2, 0.1, 1.4]], dtype=torch.float64)
    x = torch.tensor([320.0, 240.0]) + 40 * torch.randn(2, 7, 2, generator=g, dtype=torch.float64)
    w = torch.rand(2, 7, 2, generator=g, dtype=torch.float64)
    if case == "planar":
        X[..., 2] = 0
    elif case == "collinear":
        X[..., 1:] = 0
    elif case == "no rotation":
        R = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    elif case == "half a turn":
        R = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)).expand(2, 3, 3)
    elif case == "one point":
        X, x, w = X[:, :1], x[:, :1], w[:, :1]
    elif case == "zero weights":
        w = w * 0
    elif case == "points at the origin":
        X = X * 0
    elif case == "behind":
        t = t * torch.tensor([1.0, 1.0, -1.0])
    elif case == "some behind":
        t = t * torch.tensor([1.0, 1.0, 0.02])
    return X, x, w, se3.from_rt(R, t)


CASES = [
    "nice", "planar", "collinear", "no rotation", "half a turn", "one point", "zero weights",
    "points at the origin", "behind", "some behind",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_jacobian_is_that_of_autograd(case):
    X, x, w, T = problem(case)

    def at(delta):
        return residuals.weighted_residuals(prepare(X, x, K, w).problems, se3.retract(T, delta))

    # sum over the batch: problems do not touch each other
    expected = torch.autograd.functional.jacobian(lambda d: at(d).sum(0), torch.zeros(2, 6, dtype=torch.float64))
    expected = expected.permute(2, 0, 1, 3)
    got = residuals.jacobian(prepare(X, x, K, w).problems, T)
    assert got.shape == (2, X.shape[1], 2, 6)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_no_points_have_no_cost():
    X, x, w, T = problem("nice")
    normal = residuals.normal_equations(prepare(X[:, :0], x[:, :0], K, w[:, :0], Huber(1.0)).problems, T)
    assert normal.hessian.shape == (2, 6, 6)
    assert all((v == 0).all() for v in normal)


@pytest.mark.parametrize("robust", [None, Huber(1.0), Huber(15.0), AdaptiveHuber(), Cauchy(4.0)])
@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_of_the_cost(case, robust):
    X, x, w, T = problem(case)
    problems = prepare(X, x, K, w, robust).problems
    normal = residuals.normal_equations(problems, T)
    delta = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    total = residuals.cost(problems, se3.retract(T, delta))
    torch.testing.assert_close(normal.cost, total.detach())
    (expected,) = torch.autograd.grad(total.sum(), delta)
    torch.testing.assert_close(normal.gradient, expected, rtol=1e-8, atol=1e-8)
    assert (torch.linalg.eigvalsh(normal.hessian) > -1e-6 * (1 + normal.hessian.abs().amax())).all()


def test_hessian_is_the_second_derivative_where_the_fit_is_perfect():
    X, x, w, T = problem("nice")
    x, _, _ = residuals.projections(prepare(X, x, K).problems, T)
    problems = prepare(X, x, K, w).problems
    normal = residuals.normal_equations(problems, T)
    first = problems.map(lambda v: v[0])

    def total(delta):
        return residuals.cost(first, se3.retract(T[0], delta))

    exact = torch.autograd.functional.hessian(total, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(normal.hessian[0], exact, rtol=1e-9, atol=1e-6)


def test_kernels_in_closed_form():
    square = torch.tensor([25.0, 1.0, 0.0])  # lengths 5, 1, 0

    def rho(kernel, delta):
        return residuals.robust_cost(square, torch.tensor(delta), kernel).tolist()

    assert rho(Kernel.SQUARES, torch.inf) == [25, 1, 0]
    assert rho(Kernel.HUBER, 2.0) == pytest.approx([2 * 2 * 5 - 4, 1, 0])
    assert rho(Kernel.HUBER, 5.0) == rho(Kernel.HUBER, torch.inf) == [25, 1, 0]
    assert rho(Kernel.CAUCHY, 2.0) == pytest.approx([4 * math.log(1 + 25 / 4), 4 * math.log(1.25), 0])


@pytest.mark.parametrize("kernel", list(Kernel))
def test_kernel_weight_is_the_derivative_even_at_zero(kernel):
    square = torch.tensor([0.0, 1e-30, 1.0, 3.9, 4.1, 1e9], dtype=torch.float64, requires_grad=True)
    delta = torch.tensor(2.0, dtype=torch.float64)
    (expected,) = torch.autograd.grad(residuals.robust_cost(square, delta, kernel).sum(), square)
    torch.testing.assert_close(residuals.robust_weight(square.detach(), delta, kernel), expected)


def test_adaptive_threshold_counts_only_points_with_weight():
    _, x, w, _ = problem("nice")
    X = torch.zeros(2, 7, 3, dtype=torch.float64)
    w[:, 4:] = 0
    got = prepare(X, x, K, w, AdaptiveHuber(0.3)).problems.delta
    spread = x[:, :4].var(1).sum(-1).sqrt()
    torch.testing.assert_close(got, 0.3 * w[:, :4].mean((1, 2)) * spread)


def test_bounds_clamp_projections_and_their_jacobian():
    X, x, w, T = problem("nice")
    free, _, _ = residuals.projections(prepare(X, x, K).problems, T)
    bounds = torch.tensor([300.0, 0.0, 400.0, 200.0], dtype=torch.float64)
    problems = prepare(X, x, K, w, bounds=bounds).problems
    got, _, inside = residuals.projections(problems, T)
    torch.testing.assert_close(got, torch.minimum(torch.maximum(free, bounds[:2]), bounds[2:]))
    assert inside.any()
    assert not inside.all()
    assert ((residuals.jacobian(problems, T) == 0).all(-1) == ~inside).all()


def test_intrinsics_takes_a_camera_or_a_matrix():
    like = torch.zeros(1, dtype=torch.float32)
    for camera in (Camera(K, (480, 640)), K):
        got = intrinsics(camera, like)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, K.float())


def test_intrinsics_says_what_is_wrong():
    like = torch.zeros(1)
    with pytest.raises(ValueError, match=r"K of shape \(\.\.\., 3, 3\), got \(3,\)"):
        intrinsics(torch.ones(3), like)
    bent = Camera(K, (480, 640), torch.tensor([0.1, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="undistort"):
        intrinsics(bent, like)
    straight = Camera(K, (480, 640), torch.zeros(5))
    intrinsics(straight, like)


@pytest.mark.parametrize("kernel", list(Kernel))
def test_flattening_is_the_second_derivative_of_the_kernel(kernel):
    square = torch.tensor([0.0, 0.01, 1.0, 3.9, 4.1, 30.0, 1e6], dtype=torch.float64, requires_grad=True)
    delta = torch.tensor(2.0, dtype=torch.float64)
    (first,) = torch.autograd.grad(residuals.robust_cost(square, delta, kernel).sum(), square, create_graph=True)
    second = torch.autograd.grad(first.sum(), square)[0] if first.requires_grad else torch.zeros(7, dtype=torch.float64)
    expected = (-2 * square * second / first).detach().clamp(0, 0.99)
    torch.testing.assert_close(residuals.triggs_alpha(square.detach(), delta, kernel), expected)


@pytest.mark.parametrize("robust", [Huber(3.0), AdaptiveHuber(0.1), Cauchy(3.0)])
def test_with_robust_kernels_a_descent_ends_in_time(robust):
    """Without the bent Hessian a third of these would still be on their way after 30 steps, and lose their gradient."""
    g = torch.Generator().manual_seed(0)
    X = 0.2 * (torch.rand(100, 24, 3, generator=g, dtype=torch.float64) - 0.5)
    T = se3.from_rt(rotation.random_rotations(100, g, torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    x, _, _ = residuals.projections(prepare(X, X[..., :2], K).problems, T)
    x = x + 8 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    share = solve(X, x, K, init=T, robust=robust).converged.double().mean()
    assert share > (0.6 if isinstance(robust, Cauchy) else 0.98)  # most points are where Cauchy is concave
