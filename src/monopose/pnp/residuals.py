"""Weighted robust reprojection: residuals, their analytic Jacobian, cost and normal equations. Plain torch, the reference."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import camera as _camera
from ..geometry import se3
from ..types import Camera

Z_MIN = 0.01  # metres: depths are clamped from below to this before dividing


class Normal(NamedTuple):
    """The Gauss-Newton model of the cost around a pose: cost + gradient . delta + delta . hessian . delta / 2.

    hessian is (..., 6, 6), gradient (..., 6), for the tangent (v, omega) of `geometry.se3.retract`; cost (...,).
    """

    hessian: Tensor
    gradient: Tensor
    cost: Tensor


def intrinsics(camera: Camera | Tensor, like: Tensor) -> Tensor:
    """The K of a Camera, or K itself, (..., 3, 3), with the dtype and device of `like`.

    Raises:
        ValueError: if the shape is not (..., 3, 3), or the camera has lens distortion.
    """
    if isinstance(camera, Camera):
        if camera.distortion is not None and bool((camera.distortion != 0).any()):
            raise ValueError(
                "PnP needs pixels of a camera without lens distortion; undistort the image or the points first, "
                "then pass Camera(K, size)"
            )
        camera = camera.K
    K = torch.as_tensor(camera)
    if K.shape[-2:] != (3, 3):
        raise ValueError(f"camera must be a monopose.Camera or K of shape (..., 3, 3), got {tuple(K.shape)}")
    return K.to(like)


def weighted_residuals(
    points3d: Tensor, points2d: Tensor, weights: Tensor, K: Tensor, cam_from_obj: Tensor, z_min: float = Z_MIN
) -> Tensor:
    """weight times (projection minus measurement), the two pixels of every point.

    Args:
        points3d: (..., N, 3), metres, object frame.
        points2d: (..., N, 2), pixels.
        weights: (..., N, 2), 1 / pixels: one over the standard deviation of the measurement.
        K: (..., 3, 3), pixels.
        cam_from_obj: (..., 4, 4), metres.
        z_min: depths are clamped from below to this, metres.

    Returns:
        (..., N, 2). Source: Chen et al., EPro-PnP, eq. 1.
    """
    return weights * (_camera.project(se3.transform(cam_from_obj, points3d), K, z_min) - points2d)


def jacobian(points3d: Tensor, weights: Tensor, K: Tensor, cam_from_obj: Tensor, z_min: float = Z_MIN) -> Tensor:
    """The derivative of `weighted_residuals` by the tangent (v, omega) of `geometry.se3.retract`.

    Arguments as there.

    Returns:
        (..., N, 2, 6), per metre and per radian. Behind `z_min` it is that of the clamped projection, constant depth.
    """
    turned = points3d @ cam_from_obj[..., :3, :3].mT
    points_cam = turned + cam_from_obj[..., None, :3, 3]
    depth = points_cam[..., 2]
    pixels = _camera.project(points_cam, K, z_min)
    front = (depth > z_min).to(points_cam)
    # d pixel / d point: (K's first two rows - pixel times its third) / depth
    rows = K[..., None, :2, :] - (pixels * front[..., None])[..., None] * K[..., None, 2:, :]
    rows = rows * (weights / depth.clamp_min(z_min)[..., None])[..., None]
    # d point / d omega = -skew(turned), hence row . d point = turned x row
    turned, rows = torch.broadcast_tensors(turned[..., None, :], rows)
    return torch.cat([rows, torch.linalg.cross(turned, rows)], -1)


def cost(residuals: Tensor, huber: Tensor | None = None) -> Tensor:
    """Half the sum of squared residual lengths, with Huber's loss on the length if a threshold is given.

    Args:
        residuals: weighted, (..., N, 2).
        huber: threshold on the length of a weighted residual, (...,), or None.

    Returns:
        (...,): 1/2 sum rho(s), rho = s^2 up to the threshold d and 2 d s - d^2 above. Source: EPro-PnP, eq. 2 and 11.
    """
    square = residuals.square().sum(-1)
    if huber is not None:
        d = huber[..., None]
        far = square > d * d
        length = torch.where(far, square, torch.ones_like(square)).sqrt()
        square = torch.where(far, 2 * d * length - d * d, square)
    return 0.5 * square.sum(-1)


def normal_equations(
    points3d: Tensor,
    points2d: Tensor,
    weights: Tensor,
    K: Tensor,
    cam_from_obj: Tensor,
    huber: Tensor | None = None,
    z_min: float = Z_MIN,
) -> Normal:
    """Cost, gradient and Gauss-Newton Hessian of the weighted robust reprojection error at a pose.

    Arguments as in `weighted_residuals` and `cost`. Rows beyond the Huber threshold are scaled by sqrt(d / s), which makes the
    gradient exact and the Hessian that of iteratively re-weighted least squares.
    """
    r = weighted_residuals(points3d, points2d, weights, K, cam_from_obj, z_min)
    J = jacobian(points3d, weights, K, cam_from_obj, z_min)
    total = cost(r, huber)
    if huber is not None:
        length = r.norm(dim=-1, keepdim=True)
        scale = (huber[..., None, None] / length.clamp_min(1e-10)).clamp_max(1).sqrt()
        r, J = r * scale, J * scale[..., None]
    flat = J.flatten(-3, -2)
    return Normal(flat.mT @ flat, (flat.mT @ r.flatten(-2)[..., None]).squeeze(-1), total)
