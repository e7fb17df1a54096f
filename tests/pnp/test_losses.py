"""pnp.monte_carlo_loss and derivative_loss: gradients in closed form, what they prefer, symmetric objects, hopeless input."""

import math

import pytest
import torch

from monopose import pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import kernels, residuals
from monopose.pnp.prepare import prepare

F64 = torch.float64
K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]], dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problems(batch, n, noise, seed=0, yaw_only=False):
    g = generator(seed)
    X = (torch.rand(batch, n, 3, generator=g, dtype=F64) - 0.5) * 0.2
    t = torch.tensor([0.05, -0.1, 1.0], dtype=F64) + 0.2 * torch.rand(batch, 3, generator=g, dtype=F64)
    R = rotation.random_rotations(batch, g, F64)
    if yaw_only:
        R = rotation.so3_exp(torch.nn.functional.pad(6 * torch.rand(batch, 1, generator=g, dtype=F64), (1, 1)))
    T = se3.from_rt(R, t)
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(batch, n, 2, generator=g, dtype=F64)
    return X, x, torch.full_like(x, 1 / noise), T


def half_turn_z():
    return torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=F64))


@pytest.mark.parametrize("dof", [6, 4])
def test_the_gradient_by_weights_is_the_error_at_the_truth_minus_that_of_the_posterior(dof):
    X, x, w, T = problems(4, 12, 1.0, yaw_only=dof == 4)
    w = (w * (0.5 + torch.rand(w.shape, generator=generator(1), dtype=F64))).requires_grad_()
    p = pnp.sample_posterior(X, x, K, w, dof=dof, samples=128, generator=generator())
    (found,) = torch.autograd.grad(pnp.monte_carlo_loss(p, T).sum(), w)
    square = {}
    for name, poses in (("truth", T[:, None]), ("samples", p.samples)):
        pixels = camera.project(se3.transform(poses, X[:, None]), K)
        square[name] = (pixels - x[:, None]).square()
    expected = (p.probabilities()[..., None, None] * square["samples"]).sum(1)
    torch.testing.assert_close(found, w.detach() * (square["truth"][:, 0] - expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dof", [6, 4])
@pytest.mark.parametrize("robust", [None, pnp.Huber(1.5), pnp.AdaptiveHuber(0.3), pnp.Cauchy(2.0)])
@pytest.mark.parametrize("ugly", [False, True])
def test_gradients_by_everything_are_those_of_fixed_samples(dof, robust, ugly):
    """The loss written anew in plain torch for given samples and proposal density: checked by differences, then compared."""
    X, x, w, T = problems(2, 6, 1.0, yaw_only=dof == 4)
    k = K.clone()
    if ugly:  # a plane, points without weight, an outlier
        X[0, :, 2] = 0
        w[0, 4:, 0] = 0
        w[1, 5] = 0
        x[1, 0] += 40
    inputs = [v.clone().requires_grad_() for v in (X, x, w, k)]
    p = pnp.sample_posterior(*inputs[:2], inputs[3], inputs[2], dof=dof, samples=24, robust=robust, generator=generator())
    found = torch.autograd.grad(pnp.monte_carlo_loss(p, T).sum(), inputs)
    log_q = (-p.log_weights - residuals.pose_costs(p.prepared.problems, p.samples)).detach()

    def loss(X, x, w, k):
        given = prepare(X, x, k, w, robust).problems
        total = residuals.pose_costs(given, torch.cat([T[:, None], p.samples], 1))
        return (total[:, 0] + (-total[:, 1:] - log_q).logsumexp(1) - math.log(24)).sum()

    expected = torch.autograd.grad(loss(*inputs), inputs)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7 * float(b.abs().max()))
    if not isinstance(robust, pnp.AdaptiveHuber) and not ugly:  # adaptive Huber's threshold hides how it depends on pixels
        assert torch.autograd.gradcheck(loss, inputs, rtol=1e-4, atol=1e-4, nondet_tol=0)
    if ugly and robust is None:
        assert torch.autograd.gradcheck(lambda w: loss(*inputs[:2], w, inputs[3]), inputs[2], rtol=1e-4, atol=1e-4)


def test_differentiating_twice():
    X, x, w, T = problems(1, 5, 1.0)
    p = pnp.sample_posterior(X, x.requires_grad_(), K, w.requires_grad_(), samples=16, generator=generator())
    (first,) = torch.autograd.grad(pnp.monte_carlo_loss(p, T).sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert torch.isfinite(second).all()
    assert second.abs().sum() > 0


def test_an_outlier_loses_weight():
    X, x, w, T = problems(8, 20, 1.0)
    x[:, 3] += torch.tensor([25.0, -20.0], dtype=F64)
    w.requires_grad_()
    p = pnp.sample_posterior(X, x, K, w, T, generator=generator())
    pnp.monte_carlo_loss(p, T).sum().backward()
    others = [i for i in range(20) if i != 3]
    assert (w.grad[:, 3] > 0).all()
    assert (w.grad[:, 3].mean(-1) > w.grad[:, others].mean(-1).amax(-1)).all()


def test_descending_along_the_pixels_brings_the_truth_closer():
    X, x, w, T = problems(4, 15, 2.0)
    true = camera.project(se3.transform(T, X), K)
    x = (true + 4.0).requires_grad_()
    for _ in range(20):
        p = pnp.sample_posterior(X, x, K, w, samples=64, generator=generator())
        loss = pnp.monte_carlo_loss(p, T)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        x = (x - gradient).detach().requires_grad_()
    assert (pnp.solve(X, x.detach(), K).cam_from_obj - T).abs().max() < 0.01


def test_the_best_scale_of_the_weights_is_finite_and_that_of_laplace():
    """d / d log(scale) of scale^2 (C(truth) - C(mode)) - 6 log(scale) is zero at scale^2 = 3 / (C(truth) - C(mode))."""
    X, x, w, T = problems(6, 24, 1.0, seed=3)
    s = pnp.solve(X, x, K, w)
    above = residuals.pose_costs(prepare(X, x, K, w).problems, T[:, None])[:, 0] - s.cost
    best = (3 / above).sqrt()
    factors = torch.tensor([0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0], dtype=F64)
    losses, poses = [], []
    for factor in factors:
        p = pnp.sample_posterior(X, x, K, w * (factor * best)[:, None, None], samples=2048, generator=generator())
        losses.append(pnp.monte_carlo_loss(p, T))
        poses.append(p.mode)
    losses = torch.stack(losses)
    assert (losses.argmin(0) - 3).abs().max() <= 1
    assert (losses[0] > losses[3] + 1).all()
    assert (losses[-1] > losses[3] + 1).all()
    # the closest pose does not care: its loss cannot teach how sure to be
    torch.testing.assert_close(torch.stack(poses), poses[0].expand(7, 6, 4, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dof", [6, 4])
def test_symmetric_truth(dof):
    X, x, w, T = problems(5, 16, 1.0, yaw_only=dof == 4)
    other = half_turn_z() if dof == 6 else torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=F64))
    group = torch.stack([torch.eye(4, dtype=F64), other])
    p = pnp.sample_posterior(X, x, K, w.requires_grad_(), dof=dof, generator=generator())
    plain = pnp.monte_carlo_loss(p, T)
    for truth in (T, T @ other):
        found = pnp.monte_carlo_loss(p, truth, group)
        torch.testing.assert_close(found, plain)
    a, b = (torch.autograd.grad(v.sum(), w, retain_graph=True)[0] for v in (found, plain))
    torch.testing.assert_close(a, b)
    assert (pnp.monte_carlo_loss(p, T @ other) > plain + 100).all()


def test_the_loss_is_minus_the_log_density_at_the_truth():
    """Of a sharp posterior, that of a Gaussian, per m^3 rad^3."""
    X, x, w, T = problems(12, 30, 0.3)
    s = pnp.solve(X, x, K, w)
    v = T[:, :3, 3] - s.cam_from_obj[:, :3, 3]
    tangent = torch.cat([v, rotation.so3_log(T[:, :3, :3] @ s.cam_from_obj[:, :3, :3].mT)], -1)
    expected = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=F64), s.covariance).log_prob(tangent)
    p = pnp.sample_posterior(X, x, K, w, samples=4096, generator=generator())
    torch.testing.assert_close(pnp.monte_carlo_loss(p, T), -expected, atol=0.15, rtol=0)


@pytest.mark.parametrize("how", ["nan truth", "nan pixel", "no weight", "far truth"])
def test_hopeless_problems_have_a_finite_loss_and_no_gradient(how):
    X, x, w, T = problems(3, 8, 1.0)
    good = pnp.monte_carlo_loss(pnp.sample_posterior(X, x, K, w, generator=generator()), T)
    if how == "nan truth":
        T[1, 0, 3] = math.nan
    elif how == "nan pixel":
        x[1, 0, 0] = math.nan
    elif how == "no weight":
        w[1] = 0
    elif how == "far truth":
        T[1, :3, 3] = math.inf
    inputs = [v.requires_grad_() for v in (X, x, w)]
    loss = pnp.monte_carlo_loss(pnp.sample_posterior(X, x, K, w, generator=generator()), T)
    assert loss[1] == 0
    torch.testing.assert_close(loss[[0, 2]], good[[0, 2]])
    for gradient in torch.autograd.grad(loss.sum(), inputs):
        assert torch.isfinite(gradient).all()
        assert (gradient[1] == 0).all()
        assert gradient[0].abs().sum() > 0


def test_without_fused_kernels_the_loss_is_the_same(monkeypatch):
    X, x, w, T = problems(3, 8, 1.0)
    w.requires_grad_()
    found = []
    for _ in range(2):
        loss = pnp.monte_carlo_loss(pnp.sample_posterior(X, x, K, w, samples=64, init=T, generator=generator()), T)
        found.append((loss.detach(), torch.autograd.grad(loss.sum(), w)[0]))
        monkeypatch.setattr(kernels, "backend", lambda device: None)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_empty_batches_have_empty_losses():
    X, x, w, T = problems(1, 8, 1.0)
    p = pnp.sample_posterior(X[:0], x[:0], K, w[:0], samples=16)
    assert pnp.monte_carlo_loss(p, T[:0]).shape == (0,)
    assert pnp.derivative_loss(T[:0], T[:0])[0].shape == (0,)


def test_wrong_shapes_are_told():
    X, x, w, T = problems(2, 8, 1.0)
    p = pnp.sample_posterior(X, x, K, w, samples=16)
    with pytest.raises(ValueError, match="4, 4"):
        pnp.monte_carlo_loss(p, T[:, :3])
    with pytest.raises(ValueError, match="4, 4"):
        pnp.derivative_loss(T[:, :3], T)


def test_distance_of_one_pose():
    T = problems(3, 4, 1.0)[3]
    moved = se3.retract(T, torch.tensor([0.0, 0.03, -0.04, 0.3, 0.0, 0.0], dtype=F64))
    translation, turn = pnp.derivative_loss(moved, T)
    torch.testing.assert_close(translation, torch.full((3,), 0.5 * 0.05**2, dtype=F64))
    torch.testing.assert_close(turn, torch.full((3,), 1 - math.cos(0.3), dtype=F64))
    torch.testing.assert_close(pnp.derivative_loss(moved, T, beta=0.01)[0], torch.full((3,), 0.045, dtype=F64))
    quats = (rotation.quat_wxyz_from_matrix(v[:, :3, :3]) for v in (moved, T))
    torch.testing.assert_close(turn, 2 * (1 - torch.stack(list(quats)).prod(0).sum(-1).square()))
    for value in pnp.derivative_loss(T, T):
        assert value.abs().max() < 1e-12


@pytest.mark.parametrize("beta", [0.01, 1.0])
def test_distance_has_its_gradient_also_at_the_truth(beta):
    T = problems(2, 4, 1.0)[3]
    tangent = (0.1 * torch.randn(2, 6, generator=generator(), dtype=F64)).requires_grad_()
    for part in range(2):
        assert torch.autograd.gradcheck(lambda d, part=part: pnp.derivative_loss(se3.retract(T, d), T, beta)[part], tangent)
    still = torch.zeros(2, 6, dtype=F64, requires_grad=True)
    sum(v.sum() for v in pnp.derivative_loss(se3.retract(T, still), T, beta)).backward()
    assert still.grad.abs().max() < 1e-9


def test_distance_to_the_nearest_of_equivalent_poses():
    T = problems(3, 4, 1.0)[3]
    group = torch.stack([torch.eye(4, dtype=F64), half_turn_z()])
    moved = se3.retract(T, torch.tensor([0.01, 0.0, 0.0, 0.0, 0.2, 0.0], dtype=F64))
    expected = pnp.derivative_loss(moved, T)
    for truth in (T, T @ half_turn_z()):
        torch.testing.assert_close(pnp.derivative_loss(moved, truth, symmetries=group), expected)
    assert (pnp.derivative_loss(moved, T @ half_turn_z())[1] > 1.5).all()


def step_case(robust=None):
    X, x, w, T = problems(4, 12, 2.0)
    return prepare(X, x, K, w, robust), T


def test_one_step_is_the_gauss_newton_step_and_has_its_gradient():
    given, truth = step_case()
    pose = se3.retract(truth, 0.01 * torch.randn(truth.shape[0], 6, generator=torch.Generator().manual_seed(0), dtype=F64))
    stepped = pnp.one_step(given.problems, pose)
    normal = residuals.normal_equations(given.problems, pose, bent=False)
    expected = se3.retract(pose, -torch.linalg.solve(normal.hessian + 1e-5 * torch.eye(6, dtype=F64), normal.gradient))
    torch.testing.assert_close(stepped, expected)
    again = pnp.solve(given.problems.points3d, given.problems.points2d, K, given.problems.weights, init=pose).cam_from_obj
    torch.testing.assert_close(pnp.one_step(given.problems, again), again, rtol=0, atol=1e-7)  # a minimum stays

    def function(X, x, w):
        return pnp.one_step(given.problems._replace(points3d=X, points2d=x, weights=w), pose)[:, :3]

    inputs = [v.clone().requires_grad_() for v in given.problems[:3]]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    robust = step_case(pnp.Huber(0.3))[0]
    assert torch.autograd.gradcheck(
        lambda X: pnp.one_step(robust.problems._replace(points3d=X), pose), inputs[:1], fast_mode=True
    )


def test_one_step_that_cannot_be_taken_stays_and_has_no_gradient():
    given, truth = step_case()
    weights = given.problems.weights.clone()
    weights[0], weights[1] = 0, 1e200
    weights.requires_grad_()
    stepped = pnp.one_step(given.problems._replace(weights=weights), truth)
    torch.testing.assert_close(stepped[:2], truth[:2])
    stepped.sum().backward()
    assert torch.isfinite(weights.grad).all()
    assert (weights.grad[:2] == 0).all()
    yaw = pnp.one_step(given.problems, truth, dof=4)
    torch.testing.assert_close(yaw[:, 1, :3], truth[:, 1, :3])  # the camera's Y axis stays


@pytest.mark.parametrize("batch", [2, 1])
def test_symmetries_of_other_problems_are_refused(batch):
    X, x, w, T = problems(batch, 8, 1.0)
    posterior = pnp.sample_posterior(X, x, K, w, samples=64, generator=generator())
    of_each = torch.eye(4, dtype=F64).repeat(3, 2, 1, 1)
    message = "batch dimensions|symmetries of each problem must be"
    with pytest.raises(ValueError, match=message):
        pnp.monte_carlo_loss(posterior, T, of_each)
    with pytest.raises(ValueError, match=message):
        pnp.derivative_loss(T, T, symmetries=of_each)
    expected = pnp.monte_carlo_loss(posterior, T)
    for right in (of_each[0], of_each[:1], of_each[:batch]):
        torch.testing.assert_close(pnp.monte_carlo_loss(posterior, T, right), expected)
