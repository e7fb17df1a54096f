"""A damped step of `pnp.one_step`: its definition, its gradient, and that no unit matters to it."""

import itertools
import math

import pytest
import torch

from monopose import pnp
from monopose.geometry import se3
from monopose.pnp import residuals
from monopose.pnp.problems import Kernel, Problems
from monopose.pnp.solve import PRIOR

F64 = torch.float64


def case(n=20, flat=0.0, seed=0, noise=2.0):
    """Two problems of n points, `flat` metres thick, one step away from the truth."""
    g = torch.Generator().manual_seed(seed)
    X = 0.1 * torch.rand(2, n, 3, generator=g, dtype=F64) - 0.05
    X[..., 2] *= flat / 0.1
    K = torch.tensor([[500.0, 0.0, 64.0], [0.0, 510.0, 60.0], [0.0, 0.0, 1.0]], dtype=F64).expand(2, 3, 3)
    tangent = torch.tensor([[0.02, -0.01, 0.5, 0.4, 0.3, -0.2], [0.0, 0.03, 0.7, -0.5, 0.1, 0.9]], dtype=F64)
    truth = se3.exp(tangent)
    nothing = torch.full((2,), math.inf, dtype=F64)
    bounds = torch.tensor([-math.inf, -math.inf, math.inf, math.inf], dtype=F64).expand(2, 4)
    given = Problems(X, torch.zeros_like(X[..., :2]), torch.rand(2, n, 2, generator=g, dtype=F64), K, nothing, bounds)
    x = residuals.projections(given, truth)[0]
    given = given._replace(points2d=x + noise * torch.randn(x.shape, generator=g, dtype=F64), kernel=Kernel.SQUARES)
    step = 0.02 * torch.randn(2, 6, generator=g, dtype=F64)
    return given, se3.retract(truth, step)


def test_the_diagonal_grows_by_its_share():
    given, pose = case(flat=0.1)
    normal = residuals.normal_equations(given, pose, bent=False)
    for damping in (0.0, 1e-3, 0.5):
        H = normal.hessian + torch.diag_embed(damping * normal.hessian.diagonal(dim1=-2, dim2=-1) + PRIOR)
        expected = se3.retract(pose, -torch.linalg.solve(H, normal.gradient))
        torch.testing.assert_close(pnp.one_step(given, pose, damping=damping), expected)


def absolute(given, pose):
    """The original's step: 100 is added to the diagonal."""
    normal = residuals.normal_equations(given, pose, bent=False)
    return se3.retract(pose, -torch.linalg.solve(normal.hessian + 100 * torch.eye(6, dtype=F64), normal.gradient))


def test_metres_or_millimetres_crop_pixels_or_cells_make_no_difference():
    """The damping of the original, 100 in pixels per metre, is another step in another unit."""
    given, pose = case(flat=0.1)
    cells = given._replace(points2d=given.points2d / 4, K=torch.diag(torch.tensor([0.25, 0.25, 1.0], dtype=F64)) @ given.K)
    surer = given._replace(weights=100 * given.weights)
    scale = torch.tensor([[1.0, 1.0, 1.0, 1000.0]] * 3 + [[1.0] * 4], dtype=F64)

    def changes(step):
        still = step(given, pose)
        millimetres = step(given._replace(points3d=1000 * given.points3d), pose * scale) / scale
        return [float((other - still).abs().max()) for other in (millimetres, step(cells, pose), step(surer, pose))]

    for damping in (1e-3, 0.3):
        assert max(changes(lambda g, T, d=damping: pnp.one_step(g, T, damping=d))) < 5e-5
    assert min(changes(absolute)) > 1e-3


def test_damping_shortens_the_step_and_never_turns_it_uphill():
    given, pose = case(flat=0.1)
    normal = residuals.normal_equations(given, pose, bent=False)
    lengths = []
    for damping in (0.0, 0.1, 1.0, 10.0):
        stepped = pnp.one_step(given, pose, damping=damping)
        step = torch.cat([stepped[:, :3, 3] - pose[:, :3, 3], se3.log(stepped @ se3.inverse(pose))[:, 3:]], 1)
        assert bool(((step * normal.gradient).sum(1) < 0).all())
        lengths.append((step[:, None] @ normal.hessian @ step[..., None]).flatten())
    for longer, shorter in itertools.pairwise(lengths):
        assert bool((shorter < longer).all())


@pytest.mark.parametrize(("n", "flat"), [(8, 0.1), (4, 0.0), (3, 0.0)])
def test_gradient_by_targets_and_weights(n, flat):
    """A nice cloud; four points of a plane; and three, which no pose is overdetermined by."""
    given, pose = case(n, flat)

    def function(x, w):
        return pnp.one_step(given._replace(points2d=x, weights=w), pose, damping=1e-3)[:, :3]

    inputs = [given.points2d.clone().requires_grad_(), given.weights.clone().requires_grad_()]
    assert torch.autograd.gradcheck(function, inputs)


def test_without_any_weight_the_pose_stays_and_the_gradient_is_zero():
    given, pose = case(flat=0.1)
    weights = torch.zeros_like(given.weights).requires_grad_()
    targets = given.points2d.clone().requires_grad_()
    stepped = pnp.one_step(given._replace(weights=weights, points2d=targets), pose, damping=1e-3)
    torch.testing.assert_close(stepped, pose, rtol=0, atol=0)
    stepped.square().sum().backward()
    assert torch.equal(weights.grad, torch.zeros_like(weights))
    assert torch.equal(targets.grad, torch.zeros_like(targets))
