"""Residuals, Jacobian and cost of pnp against autograd, at nice points and at ugly ones."""

import pytest
import torch

from monopose import Camera
from monopose.geometry import rotation, se3
from monopose.pnp import residuals

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
        return residuals.weighted_residuals(X, x, w, K, se3.retract(T, delta))

    # sum over the batch: problems do not touch each other
    expected = torch.autograd.functional.jacobian(lambda d: at(d).sum(0), torch.zeros(2, 6, dtype=torch.float64))
    expected = expected.permute(2, 0, 1, 3)
    got = residuals.jacobian(X, w, K, T)
    assert got.shape == (2, X.shape[1], 2, 6)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_no_points_have_no_cost():
    X, x, w, T = problem("nice")
    normal = residuals.normal_equations(X[:, :0], x[:, :0], w[:, :0], K, T, torch.ones(2, dtype=torch.float64))
    assert normal.hessian.shape == (2, 6, 6)
    assert all((v == 0).all() for v in normal)


@pytest.mark.parametrize("huber", [None, 1.0, 15.0])
@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_of_the_cost(case, huber):
    X, x, w, T = problem(case)
    d = None if huber is None else torch.full((2,), huber, dtype=torch.float64)
    normal = residuals.normal_equations(X, x, w, K, T, d)
    delta = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    total = residuals.cost(residuals.weighted_residuals(X, x, w, K, se3.retract(T, delta)), d)
    torch.testing.assert_close(normal.cost, total.detach())
    (expected,) = torch.autograd.grad(total.sum(), delta)
    torch.testing.assert_close(normal.gradient, expected, rtol=1e-8, atol=1e-8)
    assert (torch.linalg.eigvalsh(normal.hessian) > -1e-6 * (1 + normal.hessian.abs().amax())).all()


def test_hessian_is_the_second_derivative_where_the_fit_is_perfect():
    X, _, w, T = problem("nice")
    x = residuals.weighted_residuals(X, torch.zeros_like(X[..., :2]), torch.ones_like(w), K, T)  # the projections
    normal = residuals.normal_equations(X, x, w, K, T)

    def total(delta):
        return residuals.cost(residuals.weighted_residuals(X[0], x[0], w[0], K, se3.retract(T[0], delta)))

    exact = torch.autograd.functional.hessian(total, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(normal.hessian[0], exact, rtol=1e-9, atol=1e-6)


def test_huber_in_closed_form():
    r = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]])  # lengths 5, 1, 0
    assert residuals.cost(r).item() == pytest.approx(13.0)
    assert residuals.cost(r, torch.tensor(2.0)).item() == pytest.approx(0.5 * (2 * 2 * 5 - 4 + 1))
    assert residuals.cost(r, torch.tensor(5.0)).item() == pytest.approx(13.0)


def test_huber_has_a_gradient_at_zero_residual():
    r = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    residuals.cost(r, torch.tensor(1.0, dtype=torch.float64)).backward()
    assert (r.grad == 0).all()


def test_intrinsics_takes_a_camera_or_a_matrix():
    like = torch.zeros(1, dtype=torch.float32)
    for camera in (Camera(K, (480, 640)), K):
        got = residuals.intrinsics(camera, like)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, K.float())


def test_intrinsics_says_what_is_wrong():
    like = torch.zeros(1)
    with pytest.raises(ValueError, match=r"K of shape \(\.\.\., 3, 3\), got \(3,\)"):
        residuals.intrinsics(torch.ones(3), like)
    bent = Camera(K, (480, 640), torch.tensor([0.1, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="undistort"):
        residuals.intrinsics(bent, like)
    straight = Camera(K, (480, 640), torch.zeros(5))
    residuals.intrinsics(straight, like)
