"""Weighted robust reprojection: residuals, their analytic Jacobian, cost and normal equations. Plain torch, the reference.

The fused kernels of `kernels/` compute the same and are tested against this file.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import se3
from ..geometry.rotation import full_precision
from .problems import FLATTEST, Kernel, Problems


class Normal(NamedTuple):
    """The Gauss-Newton model of the cost around a pose: cost + gradient . delta + delta . hessian . delta / 2.

    hessian is (..., 6, 6), gradient (..., 6), for the tangent (v, omega) of `geometry.se3.retract`; cost (...,).
    """

    hessian: Tensor
    gradient: Tensor
    cost: Tensor


@full_precision
def projections(problems: Problems, cam_from_obj: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (..., N, 2) clamped to the bounds, depths (..., N) not clamped, and which pixels are inside, (..., N, 2), bool."""
    homogeneous = se3.transform(cam_from_obj, problems.points3d) @ problems.K.mT
    depth = homogeneous[..., 2]
    free = homogeneous[..., :2] / depth.clamp_min(problems.z_min)[..., None]
    low, high = problems.bounds[..., None, :2], problems.bounds[..., None, 2:]
    return torch.minimum(torch.maximum(free, low), high), depth, (free >= low) & (free <= high)


def weighted_residuals(problems: Problems, cam_from_obj: Tensor) -> Tensor:
    """weight times (projection minus measurement), the two pixels of every point.

    Args:
        problems: shapes (..., N, 3) and so on; the leading dimensions broadcast against those of the pose.
        cam_from_obj: (..., 4, 4), metres.

    Returns:
        (..., N, 2). Source: Chen et al., EPro-PnP, eq. 1.
    """
    return problems.weights * (projections(problems, cam_from_obj)[0] - problems.points2d)


@full_precision
def jacobian(problems: Problems, cam_from_obj: Tensor) -> Tensor:
    """The derivative of `weighted_residuals` by the tangent (v, omega) of `geometry.se3.retract`.

    Returns:
        (..., N, 2, 6), per metre and per radian. It is the exact derivative of the clamped projection: zero for a pixel
        outside the bounds, that of a constant depth behind z_min.
    """
    return _jacobian(problems, cam_from_obj, *projections(problems, cam_from_obj))


def _jacobian(problems: Problems, cam_from_obj: Tensor, pixels: Tensor, depth: Tensor, inside: Tensor) -> Tensor:
    """`jacobian` where the `projections` are known."""
    R, K = cam_from_obj[..., :3, :3], problems.K
    turned = problems.points3d @ R.mT
    front = (depth > problems.z_min).to(depth)
    # d pixel / d point: (K's first two rows - pixel times its third) / depth
    rows = K[..., None, :2, :] - (pixels * front[..., None])[..., None] * K[..., None, 2:, :]
    scale = problems.weights * inside.to(depth) / depth.clamp_min(problems.z_min)[..., None]
    rows = rows * scale[..., None]
    # d point / d omega = -skew(turned), hence row . d point = turned x row
    turned, rows = torch.broadcast_tensors(turned[..., None, :], rows)
    return torch.cat([rows, torch.linalg.cross(turned, rows)], -1)


def robust_cost(square: Tensor, delta: Tensor, kernel: Kernel) -> Tensor:
    """rho of squared residual lengths, elementwise: s^2, Huber's or Cauchy's. Smooth at s = 0.

    Source: EPro-PnP, eq. 11 for Huber; Barron, A general and adaptive robust loss, for Cauchy (times 2).
    """
    if kernel == Kernel.HUBER:
        far = square > delta * delta
        length = torch.where(far, square, torch.ones_like(square)).sqrt()
        bounded = torch.where(torch.isinf(delta), torch.ones_like(delta), delta)
        return torch.where(far, bounded * (2 * length - bounded), square)
    if kernel == Kernel.CAUCHY:
        return delta * delta * torch.log1p(square / (delta * delta))
    return square


def robust_weight(square: Tensor, delta: Tensor, kernel: Kernel) -> Tensor:
    """The derivative of rho by s^2, elementwise: the factor of a residual in the gradient and in re-weighted squares."""
    if kernel == Kernel.HUBER:
        return torch.where(square > delta * delta, delta / square.clamp_min(1e-30).sqrt(), torch.ones_like(square))
    if kernel == Kernel.CAUCHY:
        return 1 / (1 + square / (delta * delta))
    return torch.ones_like(square)


def triggs_alpha(square: Tensor, delta: Tensor, kernel: Kernel) -> Tensor:
    """By how much rho bends less along a residual than across it, elementwise: -2 s^2 rho'' / rho', from 0 to `FLATTEST`.

    Huber is linear beyond its threshold, Cauchy even concave: re-weighted least squares, which knows only rho', takes a hundred
    small steps where this factor takes ten.
    """
    if kernel == Kernel.HUBER:
        return torch.where(square > delta * delta, torch.full_like(square, FLATTEST), torch.zeros_like(square))
    if kernel == Kernel.CAUCHY:
        ratio = square / (delta * delta)
        return (2 * ratio / (1 + ratio)).clamp_max(FLATTEST)
    return torch.zeros_like(square)


@full_precision
def cost(problems: Problems, cam_from_obj: Tensor) -> Tensor:
    """Half the sum of robust squared residual lengths, (...,). Source: EPro-PnP, eq. 2."""
    square = weighted_residuals(problems, cam_from_obj).square().sum(-1)
    return 0.5 * robust_cost(square, problems.delta[..., None], problems.kernel).sum(-1)


def pose_costs(problems: Problems, cam_from_obj: Tensor) -> Tensor:
    """`cost` of many poses of each problem. Flat problems (B, ...), poses (B, S, 4, 4) -> (B, S)."""
    return cost(problems.map(lambda v: v[:, None]), cam_from_obj)


@full_precision
def normal_equations(problems: Problems, cam_from_obj: Tensor, bent: bool = True) -> Normal:
    """Cost, gradient and Gauss-Newton Hessian of the weighted robust reprojection error at a pose (..., 4, 4).

    The gradient is exact. The Hessian is J' W J with the second derivative of the robust kernel in W, clamped to be positive:
    rows and residuals are changed so that their plain products are both. With bent=False W is rho' alone, as in iteratively
    re-weighted least squares: slower, but each step is one down without a trust region.

    Source: Triggs et al., Bundle adjustment, eq. 11.
    """
    pixels, depth, inside = projections(problems, cam_from_obj)
    r = problems.weights * (pixels - problems.points2d)
    J = _jacobian(problems, cam_from_obj, pixels, depth, inside)
    square, delta = r.square().sum(-1), problems.delta[..., None]
    total = 0.5 * robust_cost(square, delta, problems.kernel).sum(-1)
    if problems.kernel != Kernel.SQUARES:
        across = robust_weight(square, delta, problems.kernel).sqrt()[..., None]
        flat = triggs_alpha(square, delta, problems.kernel) if bent else torch.zeros_like(square)
        along = (1 - flat).sqrt()[..., None]
        less = (1 - along) / square.clamp_min(1e-30)[..., None]
        J = across[..., None] * (J - (less * r)[..., None] * (r[..., None] * J).sum(-2, keepdim=True))
        r = across * r / along
    flat = J.flatten(-3, -2)
    return Normal(flat.mT @ flat, (flat.mT @ r.flatten(-2)[..., None]).squeeze(-1), total)
