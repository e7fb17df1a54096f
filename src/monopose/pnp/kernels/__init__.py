"""The hot quantities of PnP, fused: numba on the CPU, Triton on CUDA, `residuals.py` where neither is at hand.

Each back end is a module with the same functions on flat problems (B, ...), none of which writes a residual to memory:

    costs(problems, poses (B, S, 4, 4)) -> (B, S)
    point_gradients(problems, poses, upstream (B, S)) -> d points3d, d points2d, d weights, d delta of sum(upstream * costs)
    projection_gradients(problems, poses, upstream) -> d (K [R | t]), (B, S, 3, 4), for K and poses
    normal_equations(problems, poses (B, 4, 4)) -> Normal
    descend(problems, start (B, 4, 4), dof, iterations, trust_region) -> poses (B, 4, 4), stopped (B,) bool

That of the CPU also finds starts, and solves with all of it in one call: for a small problem the calls are what takes the time.
"""

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import residuals
from ..problems import Kernel, Problems
from ..residuals import Normal


def backend(device: torch.device) -> ModuleType | None:
    """The module of fused kernels for a device, or None for plain torch."""
    return _backend(device.type)


@cache
def _backend(kind: str) -> ModuleType | None:
    if kind == "cpu" and importlib.util.find_spec("numba"):
        from . import cpu

        return cpu
    if kind == "cuda" and importlib.util.find_spec("triton"):
        from . import cuda

        return cuda
    return None


def pose_costs(problems: Problems, cam_from_obj: Tensor, known: Tensor | None = None) -> Tensor:
    """`residuals.cost` of many poses of each problem, differentiable in all tensors but the bounds, in bounded memory.

    Args:
        problems: flat, (B, ...).
        cam_from_obj: (B, S, 4, 4), metres.
        known: these costs, (B, S), if they were computed before and now need a gradient.

    Returns:
        (B, S). Differentiating twice falls back on the reference.
    """
    if backend(cam_from_obj.device) is None:
        return residuals.pose_costs(problems, cam_from_obj)
    return _PoseCosts.apply(*problems[:5], cam_from_obj, *problems[5:], known)  # type: ignore[no-any-return]


class _PoseCosts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, X: Tensor, x: Tensor, w: Tensor, K: Tensor, delta: Tensor, poses: Tensor,
        bounds: Tensor, kernel: Kernel, z_min: float, known: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(X, x, w, K, delta, poses, bounds)
        ctx.kernel, ctx.z_min = kernel, z_min
        if known is not None:
            return known.clone()
        fused = backend(poses.device)
        assert fused is not None
        return fused.costs(Problems(X, x, w, K, delta, bounds, kernel, z_min), poses)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        points3d, points2d, weights, intrinsics, threshold, poses, bounds = ctx.saved_tensors
        problems = Problems(points3d, points2d, weights, intrinsics, threshold, bounds, ctx.kernel, ctx.z_min)
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():  # a second derivative is asked for
            # by copies, for the poses may depend on the points, and that path is not to be counted twice
            problems, poses = problems.map(lambda v: v.view_as(v)), poses.view_as(poses)
            total = residuals.pose_costs(problems, poses)
            inputs = [v for v, need in zip((*problems[:5], poses), needed) if need]
            found = iter(torch.autograd.grad(total, inputs, upstream, create_graph=True, allow_unused=True))
            return *(next(found) if need else None for need in needed[:6]), None, None, None, None
        fused = backend(poses.device)
        assert fused is not None
        X = x = w = delta = K = d_poses = None
        if any(needed[:3]) or needed[4]:
            X, x, w, delta = fused.point_gradients(problems, poses, upstream)
        if needed[3] or needed[5]:
            d_projection = fused.projection_gradients(problems, poses, upstream)
            if needed[3]:
                K = (d_projection @ poses[..., :3, :].to(d_projection).mT).sum(1)
            if needed[5]:
                d_poses = torch.nn.functional.pad(problems.K.mT[:, None] @ d_projection, (0, 0, 0, 1))
        return X, x, w, K, delta, d_poses, None, None, None, None


def normal_equations(problems: Problems, cam_from_obj: Tensor) -> Normal:
    """`residuals.normal_equations` of flat problems at one pose each, (B, 4, 4). Without gradient."""
    fused = backend(cam_from_obj.device)
    return (fused or residuals).normal_equations(problems, cam_from_obj)  # type: ignore[no-any-return]
