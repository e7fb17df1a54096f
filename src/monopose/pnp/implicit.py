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

from . import residuals
from .problems import Kernel, Problems
from .solve import free_entries

DETERMINED = 1e-9  # least eigenvalue of the Hessian, scaled to a diagonal of ones, of a minimum that has a gradient


def attach(problems: Problems, cam_from_obj: Tensor, converged: Tensor, dof: int = 6) -> Tensor:
    """Poses that minimise the cost, made differentiable in what the cost depends on.

    Args:
        problems: flat, (B, ...), as `prepare` returns them.
        cam_from_obj: their minima, (B, 4, 4), metres.
        converged: which of them are minima, (B,), bool.
        dof: 6, or 4 where only translation and yaw were free.

    Returns:
        The same poses, (B, 4, 4), with a gradient to points3d, points2d, weights, K and delta, once or, with
        create_graph, several times. The gradient is exactly zero where `converged` is False and where the Hessian is not
        positive definite. The arithmetic is in float64.
    """
    return _Optimum.apply(*problems[:5], cam_from_obj, problems.bounds, converged, problems.kernel, problems.z_min, dof)  # type: ignore[no-any-return]


class _Optimum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, X: Tensor, x: Tensor, w: Tensor, K: Tensor, delta: Tensor, pose: Tensor,
        bounds: Tensor, converged: Tensor, kernel: Kernel, z_min: float, dof: int,
    ) -> Tensor:  # fmt: skip
        pose = pose.clone()
        ctx.save_for_backward(X, x, w, K, delta, bounds, converged, pose)  # as an output, the pose keeps its graph
        ctx.kernel, ctx.z_min, ctx.dof = kernel, z_min, dof
        return pose

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        X, x, w, K, delta, bounds, converged, pose = ctx.saved_tensors
        given = Problems(X, x, w, K, delta, bounds, ctx.kernel, ctx.z_min)
        needed = ctx.needs_input_grad[:5]
        # what has no gradient is replaced by something harmless, for 0 times NaN would not be 0
        failed = ~converged
        problems = given.map(lambda v: v.double().masked_fill(failed.view(-1, *[1] * (v.dim() - 1)), 0.0))
        problems = problems._replace(delta=problems.delta.masked_fill(failed, 1.0))
        pose = pose.double().masked_fill(failed[:, None, None], 0.0)
        upstream = upstream.double().masked_fill(failed[:, None, None], 0.0)
        direction = _newton_step(hessian(problems, pose), _along_tangent(pose, upstream), ctx.dof)
        found = iter(_slope_gradients(problems, pose, direction, needed))
        gradients = (next(found).to(v.dtype) if need else None for v, need in zip((X, x, w, K, delta), needed))
        return *gradients, *[None] * 6


def _along_tangent(pose: Tensor, upstream: Tensor) -> Tensor:
    """The gradient by the entries of a pose, (..., 4, 4), as one by the tangent (v, omega) of `se3.retract`, (..., 6)."""
    by_omega = torch.linalg.cross(pose[..., :3, :3], upstream[..., :3, :3], dim=-2).sum(-1)
    return torch.cat([upstream[..., :3, 3], by_omega], -1)


def _newton_step(H: Tensor, gradient: Tensor, dof: int) -> Tensor:
    """-H^-1 gradient over the free entries, (B, 6); zero where H is not positive definite."""
    free = free_entries(dof, H.device)
    H, gradient = H[:, free[:, None], free], gradient[:, free]
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 1e-300, diagonal, torch.ones_like(diagonal)).rsqrt()
    H = H * scale[:, :, None] * scale[:, None, :]  # metres and radians become comparable
    eye = torch.eye(len(free)).to(H)
    determined = torch.linalg.cholesky_ex(H.detach() - DETERMINED * eye).info == 0
    H = torch.where(determined[:, None, None], H, eye)
    step = torch.linalg.solve_ex(H, -(gradient * scale)[..., None]).result.squeeze(-1) * scale
    step = torch.where(determined[:, None], step, torch.zeros_like(step))
    return step.new_zeros(len(step), 6).index_copy(1, free, step)


def hessian(problems: Problems, cam_from_obj: Tensor) -> Tensor:
    """The second derivative of `residuals.cost` by the tangent (v, omega) of `geometry.se3.retract`.

    Args:
        problems: (..., N, 3) and so on; the leading dimensions broadcast against those of the pose.
        cam_from_obj: (..., 4, 4), metres.

    Returns:
        (..., 6, 6), per square metre and per square radian; with the curvature of the projection, of the rotation and of the
        robust kernel, and with the clamps of `residuals.projections`, which have no curvature. Symmetric also where the pose
        is no minimum, but possibly indefinite. Differentiable.
    """
    K = problems.K
    pixels, depth, inside = residuals.projections(problems, cam_from_obj)
    r = problems.weights * (pixels - problems.points2d)
    J = residuals.jacobian(problems, cam_from_obj)
    first, second = _robust_slopes(r.square().sum(-1), problems.delta[..., None], problems.kernel)
    rJ = (r[..., None] * J).sum(-2)  # (..., N, 6)
    flat = J.flatten(-3, -2)
    weighted = (first[..., None, None] * J).flatten(-3, -2)
    total = flat.mT @ weighted + 2 * rJ.mT @ (second[..., None] * rJ)

    # the residual times the curvature of the projection (h0, h1) / h2 by h = K p, p the point in the camera frame
    front = (depth > problems.z_min).to(depth)
    z = depth.clamp_min(problems.z_min)
    pull = first[..., None] * r * problems.weights * inside.to(r) / z[..., None]  # on h0, h1
    on_depth = -front * (pull * pixels).sum(-1)
    mixed = -front[..., None] * pull / z[..., None]
    twice = -2 * on_depth / z
    # C = K' [[0, 0, m0], [0, 0, m1], [m0, m1, c]] K is a b' + b a' with a = K' (0, 0, 1), b = K' (m0, m1, c / 2)
    a = K[..., None, 2, :]
    b = torch.cat([mixed, twice[..., None] / 2], -1) @ K
    turned = problems.points3d @ cam_from_obj[..., :3, :3].mT
    a, b, turned = torch.broadcast_tensors(a, b, turned)
    a = torch.cat([a, torch.linalg.cross(turned, a)], -1)  # a . dp = a . (v + omega x turned)
    b = torch.cat([b, torch.linalg.cross(turned, b)], -1)
    total = total + a.mT @ b + b.mT @ a

    # and the curvature of the rotation: p moves by omega x (omega x turned) / 2 in second order
    force = torch.cat([pull, on_depth[..., None]], -1) @ K
    outer = force.mT @ turned
    dot = outer.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    turning = (outer + outer.mT) / 2 - dot * torch.eye(3).to(outer)
    return total + torch.nn.functional.pad(turning, (3, 0, 3, 0))


def _robust_slopes(square: Tensor, delta: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """First and second derivative of `residuals.robust_cost` by the squared length, elementwise, differentiable."""
    if kernel == Kernel.HUBER:
        far = square > delta * delta
        safe = torch.where(far, square, torch.ones_like(square))
        bounded = torch.where(torch.isinf(delta), torch.ones_like(delta), delta)
        first = torch.where(far, bounded / safe.sqrt(), torch.ones_like(square))
        return first, torch.where(far, -first / (2 * safe), torch.zeros_like(square))
    if kernel == Kernel.CAUCHY:
        first = 1 / (1 + square / (delta * delta))
        return first, -((first / delta) ** 2)
    return torch.ones_like(square), torch.zeros_like(square)


def slope(problems: Problems, cam_from_obj: Tensor, direction: Tensor) -> Tensor:
    """The derivative of the cost along a tangent (..., 6) at a pose (..., 4, 4), (...,). Differentiable."""
    turned = problems.points3d @ cam_from_obj[..., :3, :3].mT
    v, omega = direction[..., None, :3], direction[..., None, 3:]
    motion = (v + torch.linalg.cross(*torch.broadcast_tensors(omega, turned))) @ problems.K.mT
    pixels, depth, inside = residuals.projections(problems, cam_from_obj)
    front = (depth > problems.z_min).to(depth)[..., None]
    flow = inside.to(depth) * (motion[..., :2] - front * pixels * motion[..., 2:])
    flow = flow / depth.clamp_min(problems.z_min)[..., None]
    r = problems.weights * (pixels - problems.points2d)
    first, _ = _robust_slopes(r.square().sum(-1), problems.delta[..., None], problems.kernel)
    return (first * (r * problems.weights * flow).sum(-1)).sum(-1)


def _slope_gradients(problems: Problems, pose: Tensor, direction: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor, ...]:
    """The derivatives of the sum of `slope` by those of points3d, points2d, weights, K, delta that are needed."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Copies, for the pose and the direction depend on the inputs too and are to be held fixed.
        copies = problems.map(lambda v: v.view_as(v) if again and v.requires_grad else v.detach().requires_grad_())
        total = slope(copies, pose, direction).sum()
        inputs = [v for v, need in zip(copies[:5], needed) if need]
        return torch.autograd.grad(total, inputs, create_graph=again, allow_unused=True, materialize_grads=True)
