"""The gradient of an optimal pose by the implicit function theorem, with the exact Hessian of the robust reprojection cost.

At a minimum the gradient g(y, theta) of the cost C by the tangent y vanishes, whatever the inputs theta (points, pixels,
weights, intrinsics). Hence H dy = -(dg / dtheta) dtheta, with H the Hessian of C by y. A loss L with gradient dL/dy is
pulled back in three steps: v = -H^-1 dL/dy, one system of six equations; D = v . g, the slope of the cost in the direction v;
dL/dtheta = dD/dtheta at constant y and v.

Source: Chen et al., BPnP, CVPR 2020, eq. 8 to 11; here H is exact and the residual is that of the solver, not multiplied by
the depth.
"""

from typing import Any

import torch
from torch import Tensor

from ..geometry.rotation import full_precision
from ..types import Camera
from . import kernels, upright
from .curvature import hessian, slope
from .opaque import opaque
from .prepare import prepare
from .problems import UNDETERMINED, Kernel, Problems, Robust
from .solve import Solution, along_ray, free_entries, solve_prepared


@opaque
@full_precision
def solve_implicit(
    points3d: Tensor,
    points2d: Tensor,
    camera: Camera | Tensor,
    weights: Tensor | None = None,
    init: Tensor | None = None,
    dof: int = 6,
    iterations: int = 30,
    robust: Robust | None = None,
    proposals: int | None = None,
    generator: torch.Generator | None = None,
    z_min: float | None = None,
    bounds: Tensor | None = None,
    trust_region: bool = True,
    gravity: Tensor | None = None,
) -> Solution:
    """`solve`, whose poses and costs carry the gradient of the optimum: PnP as a layer.

    Args:
        points3d: (..., N, 3), metres, object frame.
        points2d: (..., N, 2), pixels.
        camera: Camera or intrinsics (..., 3, 3), pixels, without lens distortion.
        weights: (..., N, 2) or (..., N), >= 0, 1 / pixels; None is 1. The pose does not depend on their common scale.
        init, dof, iterations, robust, proposals, generator, z_min, bounds, trust_region, gravity: as in `solve`.

    Returns:
        The Solution of `solve`. cam_from_obj and cost are differentiable, also twice, in points3d, points2d, weights, the
        camera's K, gravity and the delta of `robust` (`AdaptiveHuber` follows the weights, and holds the spread of the pixels
        fixed).
        covariance has no gradient, and none flows to `init`. The gradient of a problem is exactly zero where converged is
        False and, that of the pose, where the Hessian is not positive definite; other problems are untouched. Points of
        weight 0 are absent: their gradient is zero.

    Raises:
        ValueError: on wrong shapes, options out of range or a camera with lens distortion; never for what the numbers are.

    Source: BPnP, eq. 8 to 11, with the exact Hessian; for the cost, the envelope theorem.
    """
    if gravity is not None:
        K, start, R = upright.turned(points3d, camera, init, dof, gravity)
        points3d, lean = upright.leant(points3d, init, R)
        found = solve_implicit(
            points3d, points2d, K, weights, start, dof, iterations, robust, proposals, generator, z_min, bounds, trust_region
        )
        known = found.converged[..., None, None]
        R, lean = torch.where(known, R, R.detach()), None if lean is None else torch.where(known, lean, 0.0)
        pose, covariance = upright.back(found.cam_from_obj, R, lean), upright.covariance_back(found.covariance, R)
        return found._replace(cam_from_obj=pose, covariance=covariance)
    given = prepare(points3d, points2d, camera, weights, robust, bounds, z_min, init)
    with torch.no_grad():
        found, own = solve_prepared(given, init, dof, iterations, proposals, generator, trust_region)
    if not (torch.is_grad_enabled() and any(v.requires_grad for v in given.problems[:5])):
        return found
    converged, problems = found.converged.reshape(-1), given.own()
    pose = attach(problems, own, converged, dof)
    problems, there = _harmless(problems, pose, ~converged)
    known = given.flat(found.cost)
    cost = torch.where(converged, kernels.pose_costs(problems, there[:, None], known[:, None])[:, 0], known)
    return found._replace(
        cam_from_obj=given.frame.outward(pose).to(given.dtype).reshape(found.cam_from_obj.shape),
        cost=cost.to(given.dtype).reshape(given.batch),
    )


@full_precision
def attach(problems: Problems, cam_from_obj: Tensor, converged: Tensor, dof: int = 6) -> Tensor:
    """Poses that minimise the cost, made differentiable in what the cost depends on.

    Args:
        problems: flat, (B, ...), as `prepare` returns them.
        cam_from_obj: their minima, (B, 4, 4), metres.
        converged: which of them are minima, (B,), bool.
        dof: 6, or 4 where only translation and yaw were free.

    Returns:
        The same poses, (B, 4, 4), with a gradient to points3d, points2d, weights, K and delta, once or, with create_graph,
        several times; none to cam_from_obj. It is exactly zero where `converged` is False and where the Hessian is not
        positive definite. The arithmetic is in float64.
    """
    return _Optimum.apply(*problems[:5], cam_from_obj.detach(), converged, *problems[5:], dof)  # type: ignore[no-any-return]


class _Optimum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, X: Tensor, x: Tensor, w: Tensor, K: Tensor, delta: Tensor, pose: Tensor, converged: Tensor,
        bounds: Tensor, kernel: Kernel, z_min: float, dof: int,
    ) -> Tensor:  # fmt: skip
        pose = pose.clone()
        ctx.save_for_backward(X, x, w, K, delta, bounds, converged, pose)  # as an output, the pose keeps its graph
        ctx.kernel, ctx.z_min, ctx.dof = kernel, z_min, dof
        return pose

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        X, x, w, K, delta, bounds, converged, pose = ctx.saved_tensors
        problems = Problems(X, x, w, K, delta, bounds, ctx.kernel, ctx.z_min)
        fused = pose.device.type == "cpu" and kernels.backend(pose.device) is not None and not torch.is_grad_enabled()
        found = (_pull_back_fused if fused else _pull_back)(problems, pose, converged, upstream, ctx.dof)
        gradients = (v if need else None for v, need in zip(found, ctx.needs_input_grad))
        return *gradients, *[None] * 6


def _pull_back_fused(problems: Problems, pose: Tensor, converged: Tensor, upstream: Tensor, dof: int) -> tuple[Tensor, ...]:
    """`_pull_back` by the kernels of the CPU, without a graph."""
    from .kernels import implicit_cpu

    upstream = torch.where(converged[:, None, None], upstream, torch.zeros_like(upstream))
    direction = _newton_step(implicit_cpu.hessian(problems, pose), _along_tangent(pose, upstream).double(), dof, pose)
    found = implicit_cpu.slope_gradients(problems, pose, direction)
    nothing = (direction == 0).all(1)
    return tuple(v.masked_fill_(_rows(nothing, v), 0.0) for v in found) if bool(nothing.any()) else found


def _pull_back(problems: Problems, pose: Tensor, converged: Tensor, upstream: Tensor, dof: int) -> tuple[Tensor, ...]:
    """The gradients by points3d, points2d, weights, K and delta of what has the gradient `upstream`, (B, 4, 4), by the poses.

    Plain torch, with a graph where gradients are enabled.
    """
    again, dtypes = torch.is_grad_enabled(), [v.dtype for v in problems[:5]]
    problems, pose = _harmless(problems.map(Tensor.double), pose.double(), ~converged)
    upstream = torch.where(converged[:, None, None], upstream, torch.zeros_like(upstream)).double()
    direction = _newton_step(hessian(problems, pose), _along_tangent(pose, upstream), dof, pose)
    with torch.enable_grad():
        # By copies, for the pose and the direction depend on the inputs too and are to be held fixed.
        copies = problems.map(lambda v: v.view_as(v) if again and v.requires_grad else v.detach().requires_grad_())
        found = torch.autograd.grad(
            slope(copies, pose, direction).sum(), copies[:5], create_graph=again, allow_unused=True, materialize_grads=True
        )
    return tuple(v.to(dtype) for v, dtype in zip(found, dtypes))


def _rows(mask: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...) as `like`."""
    return mask.view(-1, *[1] * (like.dim() - 1))


def _harmless(problems: Problems, pose: Tensor, failed: Tensor) -> tuple[Problems, Tensor]:
    """What failed is replaced by zeros, whose derivatives are finite: zero times NaN would not be zero."""
    if not bool(failed.any()):
        return problems, pose
    zeros = problems.map(lambda v: v.masked_fill(_rows(failed, v), 0.0))
    return zeros._replace(delta=problems.delta.masked_fill(failed, 1.0)), pose.masked_fill(_rows(failed, pose), 0.0)


def _along_tangent(pose: Tensor, upstream: Tensor) -> Tensor:
    """The gradient by the entries of a pose, (..., 4, 4), as one by the tangent (v, omega) of `se3.retract`, (..., 6)."""
    by_omega = torch.linalg.cross(pose[..., :3, :3], upstream[..., :3, :3], dim=-2).sum(-1)
    return torch.cat([upstream[..., :3, 3], by_omega], -1)


def _newton_step(H: Tensor, gradient: Tensor, dof: int, pose: Tensor) -> Tensor:
    """-H^-1 gradient over the free entries, (B, 6); zero where H is not positive definite."""
    step, determined = _scaled_step(H, gradient, dof)
    if H.device.type == "cpu" and bool(determined.all()):
        return step
    Q = along_ray(H, pose.detach())  # a point of huge weight would hide the depth
    other, _ = _scaled_step(Q.mT @ H @ Q, (Q.mT @ gradient[..., None]).squeeze(-1), dof)
    return torch.where(determined[:, None], step, (Q @ other[..., None]).squeeze(-1))


def _scaled_step(H: Tensor, gradient: Tensor, dof: int) -> tuple[Tensor, Tensor]:
    """-H^-1 gradient over the free entries, (B, 6), zero where H is not positive definite; and where it is, (B,)."""
    free = free_entries(dof, H.device)
    H, gradient = H[:, free[:, None], free], gradient[:, free]
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 1e-300, diagonal, torch.ones_like(diagonal)).rsqrt()
    H = H * scale[:, :, None] * scale[:, None, :]  # metres and radians become comparable
    eye = torch.eye(len(free)).to(H)
    finite = torch.isfinite(H).flatten(1).all(1)
    determined = (torch.linalg.cholesky_ex(H.detach() - UNDETERMINED * eye).info == 0) & finite
    H = torch.where(determined[:, None, None], H, eye)
    step = torch.linalg.solve_ex(H, -(gradient * scale)[..., None]).result.squeeze(-1) * scale
    step = torch.where(determined[:, None], step, torch.zeros_like(step))
    return step.new_zeros(len(step), 6).index_copy(1, free, step), determined
