"""The fused CPU kernels against the plain-torch reference, forward and backward."""

import pytest
import torch

from monopose.geometry import rotation, se3
from monopose.pnp import AdaptiveHuber, Cauchy, Huber, kernels, residuals
from monopose.pnp.kernels import cpu
from monopose.pnp.prepare import prepare
from monopose.pnp.solve import descend_reference

K = torch.tensor([[572.4, 0.7, 325.3], [0.1, 573.6, 242.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
ROBUST = [None, Huber(1.5), AdaptiveHuber(0.05), Cauchy(2.0)]


def scene(robust=None, n=21, samples=5, bounded=False, dtype=torch.float64, spread=0.03, seed=0):
    """Three problems, poses around their truth, some points behind z_min and outside the bounds."""
    g = torch.Generator().manual_seed(seed)
    X = 0.3 * (torch.rand(3, n, 3, generator=g, dtype=torch.float64) - 0.5)
    T = se3.from_rt(
        rotation.random_rotations(3, g, torch.float64), torch.tensor([[0.1, 0, 0.6], [-0.1, 0, 1.4], [0, 0.1, 0.12]])
    )
    x = residuals.projections(prepare(X, torch.zeros(3, n, 2), K).problems, T)[0]
    x = x.clamp(-1000, 2000) + 2 * torch.randn(3, n, 2, generator=g, dtype=torch.float64)
    w = torch.rand(3, n, 2, generator=g, dtype=torch.float64)
    w[:, ::4] = 0
    bounds = torch.tensor([200.0, 150.0, 420.0, 330.0], dtype=dtype) if bounded else None
    poses = se3.retract(T[:, None], spread * torch.randn(3, samples, 6, generator=g, dtype=torch.float64))
    given = prepare(X.to(dtype), x.to(dtype), K.to(dtype), w.to(dtype), robust, bounds, z_min=0.05)
    return given.problems, poses.to(dtype)


def close(got, expected, digits):
    scale = expected.abs().amax().clamp_min(1e-30)
    torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=digits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("robust", ROBUST)
def test_costs_and_their_gradients(robust, bounded, dtype):
    problems, poses = scene(robust, bounded=bounded, dtype=dtype)
    exact = problems.map(lambda v: v.double().requires_grad_())
    exact_poses = poses.double().requires_grad_()
    expected = residuals.pose_costs(exact, exact_poses)
    digits = 1e-11 if dtype == torch.float64 else 2e-5
    got = kernels.pose_costs(problems, poses)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected.detach(), rtol=10 * digits, atol=digits)

    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    fused = [v.clone().requires_grad_() for v in (*problems[:5], poses)]
    total = kernels.pose_costs(problems._replace(**dict(zip(problems._fields, fused[:5]))), fused[5])
    got = torch.autograd.grad(total, fused, upstream)
    inputs = (*exact[:5], exact_poses)
    expected = torch.autograd.grad(expected, inputs, upstream.double(), allow_unused=True)
    for name, a, b in zip((*problems._fields[:5], "poses"), got, expected):
        if name == "delta" and robust is None:
            continue  # no threshold, no gradient
        assert a.dtype == dtype
        close(a.double(), b, 100 * digits)


def test_second_derivatives_are_those_of_the_reference():
    problems, poses = scene(Huber(1.5), n=4, samples=2)

    def total(X, w, T):
        return kernels.pose_costs(problems._replace(points3d=X, weights=w), T)

    inputs = [v.clone().requires_grad_() for v in (problems.points3d, problems.weights, poses)]
    assert torch.autograd.gradgradcheck(total, inputs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("robust", ROBUST)
def test_normal_equations(robust, bounded):
    problems, poses = scene(robust, bounded=bounded)
    got, expected = cpu.normal_equations(problems, poses[:, 0]), residuals.normal_equations(problems, poses[:, 0])
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("trust_region", [True, False])
@pytest.mark.parametrize("dof", [6, 4])
@pytest.mark.parametrize("robust", ROBUST)
def test_descent_goes_where_the_reference_goes(robust, dof, trust_region):
    problems, poses = scene(robust, samples=1, spread=0.01)
    got, stopped = cpu.descend(problems, poses[:, 0], dof, 8, trust_region)
    expected, stopped_reference = descend_reference(problems, poses[:, 0], dof, 8, trust_region)
    torch.testing.assert_close(got[:2], expected[:2], rtol=0, atol=1e-7)  # the third hugs the camera: chaotic
    assert stopped[:2].tolist() == stopped_reference[:2].tolist()
    fewer = cpu.descend(problems, poses[:, 0], dof, 1, trust_region)[0]
    torch.testing.assert_close(fewer, descend_reference(problems, poses[:, 0], dof, 1, trust_region)[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_nothing_to_do(shape):
    size, n, samples = shape
    problems = prepare(torch.ones(size, n, 3), torch.ones(size, n, 2), K.float()).problems
    poses = torch.eye(4).expand(size, samples, 4, 4).clone().requires_grad_()
    costs = kernels.pose_costs(problems, poses)
    assert costs.shape == (size, samples)
    assert (costs == 0).all() or n
    costs.sum().backward()
    assert torch.isfinite(poses.grad).all()
    assert cpu.normal_equations(problems, torch.eye(4).expand(size, 4, 4)).hessian.shape == (size, 6, 6)


def test_threads_change_nothing():
    problems, poses = scene(Huber(1.5), n=500, samples=40)
    many = problems.map(lambda v: v.repeat_interleave(40, 0))
    poses = poses.repeat_interleave(40, 0)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append((cpu.costs(many, poses), cpu.descend(many, poses[:, 0], 6, 5)[0]))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))
