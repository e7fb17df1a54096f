"""The back end of CUDA: Triton kernels on flat problems.

Block sizes follow from the number of points and poses alone, never from a trial. A program that needs no sums over threads is
one warp with 128 poses, or points, 4 per thread: enough independent work to hide the latency of arithmetic, loads that serve
4 evaluations each, and in float32 no more than 160 registers, so that 12 warps or more fit on a multiprocessor of sm_90.
float64 takes 64. Where that makes too few programs to fill a device, their loops are cut in parts, which torch adds up in a
fixed order.

Runs on CPU tensors under `TRITON_INTERPRET=1`, which is how it is tested where there is no GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..problems import Problems
from ..residuals import Normal
from . import triton_costs, triton_solve

WARP = 32
ENOUGH = 4096  # warps: 8 on every quarter of the 132 multiprocessors of sm_90. Loops are not cut further
SHORTEST = 64  # steps of a part of a loop
UNROLL = 4  # points per turn of the loop of `costs`: their loads are in flight together


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _block(count: int, dtype: torch.dtype) -> int:
    """How many poses, or points, a warp owns."""
    most = 4 if dtype == torch.float32 else 2
    return WARP * min(most, 1 if count <= WARP else 2 if count <= 2 * WARP else 4)


def _team(count: int, dtype: torch.dtype) -> tuple[int, int]:
    """How many points of a problem a program that adds them up takes at a time, and its warps.

    Up to 128 points one warp is enough, and adds up its 28 sums without a barrier; more points get 4, of which 2 programs fit
    on a multiprocessor. A thread takes 2 points, for work that is independent, but 1 in float64, whose sums fill the registers.
    """
    warps = 1 if count <= 4 * WARP else 4
    each = 2 if dtype == torch.float32 and count > WARP else 1
    return each * warps * WARP, warps


def _cut(length: int, warps: int, multiple: int) -> tuple[int, int]:
    """Into how many parts a loop is cut that many warps run already, and how many steps a part has."""
    parts = max(1, min(ENOUGH // warps, length // SHORTEST))
    step = _ceil_div(_ceil_div(length, parts), multiple) * multiple
    return _ceil_div(length, step), step


def _constants(problems: Problems) -> dict[str, Any]:
    """What a kernel is compiled for."""
    X = problems.points3d
    inline = X.is_cuda and X.dtype == torch.float32 and torch.version.hip is None  # PTX; not in the interpreter, not on AMD
    return {
        "Z_MIN": float(problems.z_min), "KERNEL": int(problems.kernel), "FAST": inline, "enable_fp_fusion": True,
    }  # fmt: skip


def _projections(K: Tensor, poses: Tensor) -> Tensor:
    """K [R | t], (B, S, 3, 4), contiguous. Not as a matrix product, which TF32 or autocast would round."""
    k, rows = K[:, None, :, :, None], poses[:, :, None, :3, :].to(K)
    return (k[..., 0, :] * rows[..., 0, :] + k[..., 1, :] * rows[..., 1, :] + k[..., 2, :] * rows[..., 2, :]).contiguous()


@torch.no_grad()
def costs(problems: Problems, poses: Tensor) -> Tensor:
    """`residuals.pose_costs`: (B, S, 4, 4) -> (B, S)."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    (size, n), samples = X.shape[:2], poses.shape[1]
    if not size * n * samples:
        return X.new_zeros(size, samples)
    block = _block(samples, X.dtype)
    blocks = _ceil_div(samples, block)
    parts, step = _cut(n, size * blocks, UNROLL)
    out = X.new_empty(parts, size, samples)
    with torch.cuda.device_of(X):
        triton_costs.costs[(parts * size * blocks,)](
            X, x, w, delta, bounds, _projections(K, poses), out, n, samples, size, blocks, step,
            **_constants(problems), UNROLL=UNROLL, BLOCK=block, num_warps=1,
        )  # fmt: skip
    return out.sum(0) if parts > 1 else out[0]


@torch.no_grad()
def projection_gradients(problems: Problems, poses: Tensor, upstream: Tensor) -> Tensor:
    """The gradient of sum(upstream * costs) by K [R | t], (B, S, 3, 4)."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    (size, n), samples = X.shape[:2], poses.shape[1]
    if not size * n * samples:
        return X.new_zeros(size, samples, 3, 4)
    block = _block(samples, X.dtype)
    blocks = _ceil_div(samples, block)
    parts, step = _cut(n, size * blocks, 1)
    out = X.new_empty(parts, size, samples, 3, 4)
    with torch.cuda.device_of(X):
        triton_costs.projection_gradients[(parts * size * blocks,)](
            X, x, w, delta, bounds, _projections(K, poses), upstream.to(X).contiguous(), out, n, samples, size, blocks, step,
            **_constants(problems), BLOCK=block, num_warps=1,
        )  # fmt: skip
    return out.sum(0) if parts > 1 else out[0]


@torch.no_grad()
def point_gradients(problems: Problems, poses: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of sum(upstream * costs) by points3d, points2d, weights and delta."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    (size, n), samples = X.shape[:2], poses.shape[1]
    if not size * n * samples:
        return torch.zeros_like(X), torch.zeros_like(x), torch.zeros_like(w), torch.zeros_like(delta)
    block = _block(n, X.dtype)
    blocks = _ceil_div(n, block)
    parts, step = _cut(samples, size * blocks, 1)
    d_points3d, d_points2d, d_weights = (X.new_empty(parts, *v.shape) for v in (X, x, w))
    d_delta = X.new_empty(parts, size, blocks)
    with torch.cuda.device_of(X):
        triton_costs.point_gradients[(parts * size * blocks,)](
            X, x, w, delta, bounds, _projections(K, poses), upstream.to(X).contiguous(),
            d_points3d, d_points2d, d_weights, d_delta, n, samples, size, blocks, step,
            **_constants(problems), BLOCK=block, num_warps=1,
        )  # fmt: skip
    if parts > 1:
        return d_points3d.sum(0), d_points2d.sum(0), d_weights.sum(0), d_delta.sum((0, 2))
    return d_points3d[0], d_points2d[0], d_weights[0], d_delta[0].sum(1)


@torch.no_grad()
def normal_equations(problems: Problems, poses: Tensor) -> Normal:
    """`residuals.normal_equations` at one pose each, (B, 4, 4)."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    size, n = X.shape[:2]
    if not size * n:
        return Normal(X.new_zeros(size, 6, 6), X.new_zeros(size, 6), X.new_zeros(size))
    block, warps = _team(n, X.dtype)
    parts, step = _cut(n, size * warps, block)
    out = X.new_empty(size, parts, 43)
    with torch.cuda.device_of(X):
        triton_solve.normal_equations[(size * parts,)](
            X, x, w, K, delta, bounds, poses.to(X).contiguous(), out, n, parts, step,
            **_constants(problems), BLOCK=block, num_warps=warps,
        )  # fmt: skip
    total = out.sum(1)
    return Normal(total[:, :36].unflatten(1, (6, 6)), total[:, 36:42], total[:, 42])


@torch.no_grad()
def descend_all(
    problems: Problems, starts: Tensor, dof: int, iterations: int, trust_region: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Descend from every start (B, M, 4, 4), in one launch: poses, which reached a stationary point, costs; (B, M, ...)."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    n, count = X.shape[1], starts.shape[1]
    poses = starts.to(X).clone(memory_format=torch.contiguous_format)
    cost = X.new_empty(poses.shape[:2])
    stopped = torch.zeros_like(cost, dtype=torch.int8)
    block, warps = _team(n, X.dtype)
    limits = torch.finfo(X.dtype)
    if cost.numel():
        with torch.cuda.device_of(X):
            triton_solve.descend[(cost.numel(),)](
                X, x, w, K, delta, bounds, poses, stopped, cost, n, count, iterations,
                EPS=limits.eps, TINY=limits.tiny, DOF=dof, TRUST=bool(trust_region),
                **_constants(problems), BLOCK=block, num_warps=warps,
            )  # fmt: skip
    return poses, stopped.view(torch.bool), cost


def descend(problems: Problems, start: Tensor, dof: int, iterations: int, trust_region: bool = True) -> tuple[Tensor, Tensor]:
    """`solve.descend_reference` from one start each, (B, 4, 4)."""
    poses, stopped, _ = descend_all(problems, start[:, None], dof, iterations, trust_region)
    return poses[:, 0], stopped[:, 0]
