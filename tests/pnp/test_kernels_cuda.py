"""The Triton kernels of PnP against the plain-torch reference: on a GPU, and without one in Triton's interpreter.

The first test runs this file once more under TRITON_INTERPRET=1, where kernels take CPU tensors; there everything is tiny.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from monopose import pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import AdaptiveHuber, Cauchy, Huber, kernels, residuals
from monopose.pnp.kernels import cuda
from monopose.pnp.prepare import prepare
from monopose.pnp.solve import descend_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
runs = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="the test above runs it, interpreted")
gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")

F64 = torch.float64
K = torch.tensor([[572.4, 0.7, 325.3], [0.1, 573.6, 242.0], [0.0, 0.0, 1.0]], dtype=F64)
ROBUST = [None, Huber(1.5), AdaptiveHuber(0.05), Cauchy(2.0)]


def scene(robust=None, n=9, samples=3, batch=3, bounded=False, dtype=F64, spread=0.03, seed=0):
    """Poses around the truth; every third object hugs the camera, with points behind z_min."""
    g = torch.Generator().manual_seed(seed)
    X = 0.3 * (torch.rand(batch, n, 3, generator=g, dtype=F64) - 0.5)
    t = torch.tensor([[0.1, 0.0, 0.6], [-0.1, 0.0, 1.4], [0.0, 0.1, 0.12]], dtype=F64)[torch.arange(batch) % 3]
    T = se3.from_rt(rotation.random_rotations(batch, g, F64), t)
    x = residuals.projections(prepare(X, torch.zeros(n, 2, dtype=F64), K, z_min=0.05).problems, T)[0]
    x = x.clamp(-1000, 2000) + 2 * torch.randn(batch, n, 2, generator=g, dtype=F64)
    w = torch.rand(batch, n, 2, generator=g, dtype=F64)
    w[:, ::4] = 0
    bounds = torch.tensor([200.0, 150.0, 420.0, 330.0], dtype=F64) if bounded else None
    poses = se3.retract(T[:, None], spread * torch.randn(batch, samples, 6, generator=g, dtype=F64))
    given = prepare(X.to(dtype), x.to(dtype), K.to(dtype), w.to(dtype), robust, bounds, z_min=0.05)
    return given.problems.map(lambda v: v.to(DEVICE)), poses.to(DEVICE, dtype)


def close(got, expected, digits):
    """Within `digits` of the largest entry."""
    scale = expected.abs().amax().clamp_min(1e-30)
    torch.testing.assert_close(got.to(expected) / scale, expected / scale, rtol=0, atol=digits)


def compare(problems, poses, digits):
    """costs and both gradients against autograd of the reference in float64."""
    exact = problems.map(lambda v: v.double().requires_grad_())
    exact_poses = poses.double().requires_grad_()
    expected = residuals.pose_costs(exact, exact_poses)
    got = cuda.costs(problems, poses)
    assert got.dtype == problems.K.dtype
    close(got, expected.detach(), digits)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=F64).to(got)
    inputs = (*exact[:5], exact_poses)
    X, x, w, k, delta, T = torch.autograd.grad(expected, inputs, upstream.double(), allow_unused=True)
    found = cuda.point_gradients(problems, poses, upstream)
    for a, b in zip(found, (X, x, w, torch.zeros_like(exact.delta) if delta is None else delta)):
        close(a, b, 10 * digits)
    by_projection = cuda.projection_gradients(problems, poses, upstream)
    close((by_projection @ poses[..., :3, :].mT).sum(1), k, 10 * digits)
    close(problems.K.mT[:, None] @ by_projection, T[..., :3, :], 10 * digits)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="is running")
def test_this_file_in_tritons_interpreter():
    root = Path(__file__).parents[2]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root / "src")}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-W", "ignore", __file__]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10


@runs
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("robust", ROBUST)
def test_costs_and_their_gradients(robust, dtype):
    if INTERPRETED and (ROBUST.index(robust) % 2 == 0) == (dtype == F64):
        pytest.skip("which kernel and which precision do not touch each other")
    digits = 3e-6 if dtype == torch.float32 else 1e-13
    for bounded, samples in ((True, 3),) if INTERPRETED else ((True, 3), (False, 40)):
        compare(*scene(robust, samples=samples, bounded=bounded, dtype=dtype), digits)


@runs
def test_blocks_that_are_not_full_and_loops_in_parts(monkeypatch):
    monkeypatch.setattr(cuda, "_block", lambda count, dtype: 8)
    for n, samples in ((11, 3), (3, 11)):
        compare(*scene(Huber(1.5), n=n, samples=samples, batch=2), 1e-13)
    monkeypatch.setattr(cuda, "SHORTEST", 3)
    compare(*scene(Huber(1.5), n=10, samples=9, batch=1), 1e-13)
    problems, poses = scene(Huber(1.5), n=67, samples=1, batch=1)
    in_parts = cuda.normal_equations(problems, poses[:, 0])
    monkeypatch.setattr(cuda, "ENOUGH", 1)
    for a, b in zip(in_parts, cuda.normal_equations(problems, poses[:, 0])):
        close(a, b, 1e-14)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_normal_equations(dtype):
    cases = [(robust, 9) for robust in ROBUST] + [(Huber(1.5), 37), (Huber(1.5), 140)]  # part of a block; several; four warps
    for robust, n in cases:
        problems, poses = scene(robust, n=n, bounded=n == 37, dtype=dtype)
        expected = residuals.normal_equations(problems.map(Tensor.double), poses[:, 0].double())
        for a, b in zip(cuda.normal_equations(problems, poses[:, 0]), expected):
            assert a.dtype == dtype
            for i in range(3):  # the object at the camera dwarfs the others
                close(a[i], b[i], 1e-12 if dtype == F64 else 1e-5)


@runs
@pytest.mark.parametrize(
    "robust, dof, trust_region",
    [(None, 6, True), (Huber(1.5), 6, True), (Cauchy(2.0), 4, True), (Huber(1.5), 4, False), (Cauchy(2.0), 6, False)],
)
def test_descent_goes_where_the_reference_goes(robust, dof, trust_region):
    problems, poses = scene(robust, n=12, samples=1, spread=0.05)
    start = poses[:, 0].clone()
    for iterations in (4,) if INTERPRETED else (1, 4):
        got, stopped = cuda.descend(problems, start, dof, iterations, trust_region)
        expected, stopped_reference = descend_reference(problems, start, dof, iterations, trust_region)
        sane = expected[:, 2, 3] > 0.3  # the third hugs the camera: chaotic
        assert sane.sum() >= 2
        torch.testing.assert_close(got[sane], expected[sane], rtol=0, atol=1e-9)
        assert stopped.tolist() == stopped_reference.tolist()
    assert torch.equal(start, poses[:, 0])
    if dof == 4:  # roll and pitch stay: rotations about the camera's Y only
        turned = got[:, :3, :3] @ start[:, :3, :3].mT
        torch.testing.assert_close(
            turned[:, 1], torch.tensor([0.0, 1, 0], dtype=F64).to(DEVICE).expand(3, 3), rtol=0, atol=1e-12
        )


@runs
@pytest.mark.parametrize("dtype, dof, n, digits", [(torch.float32, 6, 40, 1e-3), (F64, 4, 12, 1e-7)])
def test_descent_stops_at_the_minimum(dtype, dof, n, digits):
    problems, poses = scene(n=n, samples=1, batch=2, dtype=dtype)
    got, stopped = cuda.descend(problems, poses[:, 0], dof, 30)
    assert stopped.all()
    again, stopped = cuda.descend(problems, got, dof, 30)
    assert stopped.all()
    torch.testing.assert_close(again, got, rtol=0, atol=digits)
    expected, _ = descend_reference(problems.map(Tensor.double), poses[:, 0].double(), dof, 30)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=digits)


@runs
def test_several_starts_of_a_problem():
    problems, poses = scene(Huber(1.5), n=5, samples=2, batch=2)
    got, stopped, costs = cuda.descend_all(problems, poses, 6, 3)
    for i in range(2):
        pose, stopped_alone = cuda.descend(problems, poses[:, i], 6, 3)
        assert torch.equal(got[:, i], pose)
        assert torch.equal(stopped[:, i], stopped_alone)
    torch.testing.assert_close(costs, residuals.pose_costs(problems, got))
    assert cuda.descend_all(problems, poses[:, :0], 6, 3)[2].shape == (2, 0)


@runs
def test_hopeless_problems_are_left_where_they_are_and_touch_no_other():
    problems, poses = scene(n=6, samples=1, batch=5)
    start = poses[:, 0].clone()
    start[1, 0, 3] = torch.nan
    problems.weights[3] = 0
    got, stopped = cuda.descend(problems, start, 6, 4)
    expected, stopped_reference = descend_reference(problems, start, 6, 4)
    assert stopped.tolist() == stopped_reference.tolist()
    assert torch.equal(got[3], start[3])
    assert torch.equal(got[1].isnan(), start[1].isnan())
    alone = [0, 4]
    torch.testing.assert_close(got[alone], expected[alone], rtol=0, atol=1e-9)
    for i in alone:
        one = cuda.descend(problems.map(lambda v, i=i: v[i : i + 1]), start[i : i + 1], 6, 4)[0]
        assert torch.equal(one[0], got[i])


@runs
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_nan_stays_where_it_is(dtype):
    for robust in ROBUST:
        problems, poses = scene(robust, n=3, samples=2, batch=2, bounded=True, dtype=dtype)
        poses[0, 1, 2, 3] = torch.nan
        assert cuda.costs(problems, poses).isnan().tolist() == [[False, True], [False, False]]
        assert cuda.normal_equations(problems, poses[:, 1]).cost.isnan().tolist() == [True, False]


@runs
def test_views_do_no_harm():
    problems, poses = scene(Huber(1.5), n=5, samples=3, batch=1)
    wide = problems.map(lambda v: v.expand(2, *v.shape[1:]))
    wide = wide._replace(points3d=wide.points3d.mT.contiguous().mT, K=wide.K.mT.contiguous().mT)
    twice = poses.mT.contiguous().mT.expand(2, -1, -1, -1)
    upstream = torch.ones((), device=DEVICE, dtype=F64).expand(2, 3)
    assert torch.equal(cuda.costs(wide, twice), cuda.costs(problems, poses).expand(2, -1))
    for a, b in zip(cuda.point_gradients(wide, twice, upstream), cuda.point_gradients(problems, poses, upstream[:1])):
        assert torch.equal(a, b.expand_as(a))
    assert torch.equal(cuda.descend(wide, twice[:, 1], 6, 2)[0][1:], cuda.descend(problems, poses[:, 1], 6, 2)[0])


@runs
@pytest.mark.parametrize("size, n, samples", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_nothing_to_do(size, n, samples):
    problems = prepare(torch.ones(size, n, 3), torch.ones(size, n, 2), K.float()).problems.map(lambda v: v.to(DEVICE))
    poses = torch.eye(4, device=DEVICE).expand(size, samples, 4, 4)
    upstream = torch.ones(size, samples, device=DEVICE)
    assert torch.equal(cuda.costs(problems, poses), torch.zeros(size, samples, device=DEVICE))
    for a, b in zip(cuda.point_gradients(problems, poses, upstream), (*problems[:3], problems.delta)):
        assert torch.equal(a, torch.zeros_like(b))
    assert not cuda.projection_gradients(problems, poses, upstream).any()
    one = torch.eye(4, device=DEVICE).expand(size, 4, 4)
    normal = cuda.normal_equations(problems, one)
    assert [v.shape for v in normal] == [(size, 6, 6), (size, 6), (size,)]
    assert n or not any(v.any() for v in normal)
    for iterations in (0, 3):
        pose, stopped = cuda.descend(problems, one, 6, iterations)
        expected, stopped_reference = descend_reference(problems, one, 6, iterations)
        assert torch.equal(stopped, stopped_reference)
        torch.testing.assert_close(pose, expected)


def registers_and_stack(folder, kernel, dtype, warps, **constants):
    """Registers per thread, and bytes of stack, of a kernel compiled for sm_90. Needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {}
    for name in kernel.arg_names:
        pointer = "*i8" if name == "stopped_ptr" else "*fp32" if dtype == torch.float32 else "*fp64"
        signature[name] = "constexpr" if name in constants else pointer if name.endswith("_ptr") else "i32"
    options = {"num_warps": warps, "enable_fp_fusion": True}
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32), options=options)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    out = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    return tuple(int(v) for v in re.search(r"REG:(\d+) STACK:(\d+)", out).groups())


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_compiled_for_sm_90_all_stays_in_registers(dtype, tmp_path):
    from monopose.pnp.kernels import triton_costs, triton_solve

    fast = dtype == torch.float32
    common = {"Z_MIN": 0.01, "KERNEL": 1, "FAST": fast}
    kernels = {"costs": {"UNROLL": cuda.UNROLL}, "point_gradients": {}, "projection_gradients": {}}
    for kernel in kernels if fast else ["costs"]:
        more = {**common, **kernels[kernel], "BLOCK": cuda._block(10**6, dtype)}
        registers, stack = registers_and_stack(tmp_path, getattr(triton_costs, kernel), dtype, 1, **more)
        assert registers <= (160 if fast else 200)
        assert stack == 0
    block, warps = cuda._team(10**6, dtype)
    limits = torch.finfo(dtype)
    common |= {"EPS": limits.eps, "TINY": limits.tiny, "DOF": 6, "TRUST": True, "BLOCK": block}
    registers, stack = registers_and_stack(tmp_path, triton_solve.descend, dtype, warps, **common)
    assert registers * 32 * warps * 2 <= 65536  # two programs on a multiprocessor
    assert stack <= (40 if fast else 256)  # sin and cos of large angles; in float64 some scalars, outside the inner loops


@gpu
@pytest.mark.parametrize("robust", ROBUST)
def test_large_batches_on_a_gpu(robust):
    problems, poses = scene(robust, n=512, samples=512, batch=256, bounded=True, dtype=torch.float32)
    upstream = torch.randn(256, 512, device=DEVICE)
    costs, found = cuda.costs(problems, poses), cuda.point_gradients(problems, poses, upstream)
    assert torch.equal(costs, cuda.costs(problems, poses))
    assert all(torch.equal(a, b) for a, b in zip(found, cuda.point_gradients(problems, poses, upstream)))
    for i in (0, 1, 2, 255):
        one = problems.map(lambda v, i=i: v[i : i + 1].double().requires_grad_())
        expected = residuals.pose_costs(one, poses[i : i + 1].double())
        close(costs[i : i + 1], expected.detach(), 1e-5)
        gradients = torch.autograd.grad(expected, one[:3], upstream[i : i + 1].double())
        for a, b in zip(found, gradients):
            close(a[i : i + 1], b, 1e-4)


@gpu
def test_large_descents_on_a_gpu():
    problems, poses = scene(Huber(1.5), n=512, samples=1, batch=256)
    got, stopped = cuda.descend(problems, poses[:, 0], 6, 20)
    expected, stopped_reference = descend_reference(problems, poses[:, 0], 6, 20)
    sane = torch.arange(256, device=DEVICE) % 3 != 2
    torch.testing.assert_close(got[sane], expected[sane], rtol=0, atol=1e-7)
    assert (stopped == stopped_reference)[sane].float().mean() > 0.98


@gpu
@pytest.mark.parametrize("robust", ROBUST)
def test_public_door_gradients_on_a_gpu(robust):
    problems, poses = scene(robust, n=4, samples=2)

    def total(X, x, w, k, delta, T):
        return kernels.pose_costs(problems._replace(points3d=X, points2d=x, weights=w, K=k, delta=delta), T)

    inputs = [v.clone().requires_grad_() for v in (*problems[:5], poses)]
    if robust is None:
        inputs[4] = problems.delta
    assert torch.autograd.gradcheck(total, inputs, atol=1e-3, rtol=1e-4)


@gpu
@pytest.mark.parametrize("dof", [6, 4])
@pytest.mark.parametrize("robust", [None, Huber(3.0)])
def test_solve_on_a_gpu(robust, dof):
    g = torch.Generator().manual_seed(0)
    X = 0.3 * (torch.rand(64, 40, 3, generator=g, dtype=F64) - 0.5)
    omega = torch.randn(64, 3, generator=g, dtype=F64)
    R = rotation.so3_exp(omega if dof == 6 else omega * torch.tensor([0.0, 1.0, 0.0]))
    T = se3.from_rt(R, torch.tensor([0.1, -0.1, 0.9], dtype=F64).expand(64, 3))
    x = camera.project(se3.transform(T, X), K) + 0.5 * torch.randn(64, 40, 2, generator=g, dtype=F64)
    start = se3.retract(T, torch.tensor([0.05, 0, 0.1, 0, 0.2, 0], dtype=F64).expand(64, 6))
    for init in (start, None):
        cpu = pnp.solve(X, x, K, init=init, dof=dof, robust=robust)
        there = pnp.solve(X.cuda(), x.cuda(), K.cuda(), init=None if init is None else init.cuda(), dof=dof, robust=robust)
        assert all(v.is_cuda for v in there)
        assert there.converged.all()
        for name in ("cam_from_obj", "covariance", "cost"):
            torch.testing.assert_close(getattr(there, name).cpu(), getattr(cpu, name), rtol=1e-5, atol=1e-6)
