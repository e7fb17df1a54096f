"""The exact Hessian of the cost, and how its gradient changes with everything that is given: plain torch, the reference."""

import torch
from torch import Tensor

from . import residuals
from .problems import Kernel, Problems


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
