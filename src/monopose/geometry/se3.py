"""Rigid motions as matrices (..., 4, 4) named `b_from_a`; tangents (v, omega), translation first."""

import numpy as np
import torch
from torch import Tensor

from . import rotation, se3
from .rotation import full_precision, skew, so3_exp, so3_log

NEARLY_RIGID = 0.05  # by which the columns of what `project` takes for a rotation may differ from orthonormal ones


def from_rt(R: Tensor, t: Tensor) -> Tensor:
    """The motion x -> R x + t. (..., 3, 3), (..., 3) -> (..., 4, 4)."""
    batch = np.broadcast_shapes(R.shape[:-2], t.shape[:-1])
    top = torch.cat([R.expand(*batch, 3, 3), t[..., None].expand(*batch, 3, 1)], -1)
    bottom = torch.eye(4, dtype=top.dtype, device=top.device)[3:].expand(*batch, 1, 4)  # not copied from the host
    return torch.cat([top, bottom], -2)


@full_precision
def transform(b_from_a: Tensor, points_a: Tensor) -> Tensor:
    """Move points from frame a to frame b. (..., 4, 4), (..., N, 3) -> (..., N, 3).

    The upper three rows do what they say: a scale in them scales the points. `project` makes poses from outside rigid.
    """
    return points_a @ b_from_a[..., :3, :3].mT + b_from_a[..., None, :3, 3]


@full_precision
def inverse(b_from_a: Tensor) -> Tensor:
    """a_from_b of a rigid motion, by the transpose. (..., 4, 4) -> (..., 4, 4).

    What is off by rounding is made rigid, NaN stays NaN.

    Raises:
        ValueError: if one is no rigid motion: scaled, mirrored, another last row.
    """
    b_from_a = _rigid(b_from_a)
    R = b_from_a[..., :3, :3].mT
    return from_rt(R, -(R @ b_from_a[..., :3, 3:]).squeeze(-1))


def _left_jacobian(omega: Tensor) -> Tensor:
    """V with translation(exp(v, omega)) = V v. (..., 3) -> (..., 3, 3)."""
    square = (omega * omega).sum(-1)[..., None, None]
    near = square < 1e-4
    theta = torch.where(near, torch.ones_like(square), square).sqrt()
    b = torch.where(near, 0.5 - square / 24 + square**2 / 720, 2 * (theta / 2).sin() ** 2 / theta**2)
    c = torch.where(near, 1 / 6 - square / 120 + square**2 / 5040, (theta - theta.sin()) / theta**3)
    hat = skew(omega)
    return torch.eye(3, dtype=omega.dtype, device=omega.device) + b * hat + c * (hat @ hat)


@full_precision
def project(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The rigid motion nearest to a matrix that should be one: of a network, of half precision, of many products.

    Args:
        matrix: (..., 4, 4).

    Returns:
        b_from_a, (..., 4, 4): rotation orthonormal to rounding, last row exactly (0, 0, 0, 1); the identity where the matrix
        is no rigid motion. And where it nearly was one, (...,), bool: finite, no mirror image, R'R and the last row within
        `NEARLY_RIGID` of what they should be, entry by entry. What is orthonormal already is left bit for bit. Differentiable.

    Source: polar decomposition by Newton-Schulz iterations (Higham, Functions of Matrices, eq. 8.20), which doubles the digits.
    """
    R, eye = matrix[..., :3, :3], torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    off = (R.mT @ R - eye[:3, :3]).abs().amax((-2, -1))
    last = (matrix[..., 3, :] - eye[3]).abs().amax(-1)
    cross = torch.linalg.cross(R[..., 0], R[..., 1], dim=-1)
    near = (off <= NEARLY_RIGID) & (last <= NEARLY_RIGID) & ((cross * R[..., 2]).sum(-1) > 0)
    near = near & torch.isfinite(matrix).flatten(-2).all(-1)
    R = torch.where(near[..., None, None], R, eye[:3, :3])
    made = R
    for _ in range(4):
        made = 1.5 * made - 0.5 * made @ (made.mT @ made)
    exact = off <= 8 * torch.finfo(matrix.dtype).eps
    R = torch.where(exact[..., None, None], R, made)
    return from_rt(R, torch.where(near[..., None], matrix[..., :3, 3], torch.zeros_like(matrix[..., :3, 3]))), near


def _rigid(matrix: Tensor) -> Tensor:
    """`project`; what is not finite stays. Raises ValueError where a finite one is no rigid motion."""
    if matrix.shape[-2:] != (4, 4):
        raise ValueError(f"expected motions (..., 4, 4), got {tuple(matrix.shape)}; se3.from_rt(R, t) builds them")
    made, near = project(matrix)
    if bool(near.all()):
        return made
    finite = torch.isfinite(matrix).flatten(-2).all(-1)
    if bool((finite & ~near).any()):
        first = (finite & ~near).nonzero()[0].tolist()
        raise ValueError(
            f"expected rigid motions, got{f' at {first}' if first else ''} {matrix[tuple(first)].tolist()}; a scale belongs to "
            "the points, a mirror image is none, and the last row must be 0 0 0 1"
        )
    return torch.where(near[..., None, None], made, matrix)


@full_precision
def exp(tangent: Tensor) -> Tensor:
    """The rigid motion of a twist (v, omega). (..., 6), metres and radians -> (..., 4, 4).

    Source: Barfoot, State Estimation for Robotics, eq. 7.86.
    """
    v, omega = tangent[..., :3], tangent[..., 3:]
    return from_rt(so3_exp(omega), (_left_jacobian(omega) @ v[..., None]).squeeze(-1))


@full_precision
def log(b_from_a: Tensor) -> Tensor:
    """The twist (v, omega) of a rigid motion; inverse of `exp` for angles below pi. (..., 4, 4) -> (..., 6).

    Raises:
        ValueError: as `inverse`.
    """
    b_from_a = _rigid(b_from_a)
    omega = so3_log(b_from_a[..., :3, :3])
    v = torch.linalg.solve(_left_jacobian(omega), b_from_a[..., :3, 3:]).squeeze(-1)
    return torch.cat([v, omega], -1)


@full_precision
def retract(cam_from_obj: Tensor, delta: Tensor) -> Tensor:
    """Add a small step on the camera side, translation and rotation decoupled: R <- exp(w) R, t <- t + v.

    Args:
        cam_from_obj: (..., 4, 4).
        delta: (v, omega), (..., 6), metres and radians, camera frame.

    This is the tangent of every covariance in monopose: rotating does not move the object's origin. What is no rotation in
    cam_from_obj stays none: `project` poses from outside before.
    """
    R = so3_exp(delta[..., 3:]) @ cam_from_obj[..., :3, :3]
    return from_rt(R, cam_from_obj[..., :3, 3] + delta[..., :3])


def _rotation_to_ray(t: Tensor) -> Tensor:
    """The shortest rotation that turns the optical axis (0, 0, 1) to the direction of t. (..., 3) -> (..., 3, 3)."""
    ray = torch.nn.functional.normalize(t, dim=-1)
    x, y, z = ray.unbind(-1)
    axis_angle_cross = torch.stack([-y, x, torch.zeros_like(x)], -1)  # (0, 0, 1) x ray
    hat = skew(axis_angle_cross)
    eye = torch.eye(3, dtype=t.dtype, device=t.device)
    return eye + hat + hat @ hat / (1 + z)[..., None, None].clamp_min(1e-12)


@full_precision
def allocentric_from_egocentric(cam_from_obj: Tensor) -> Tensor:
    """Replace the rotation by the one seen along the viewing ray: equal looks get equal rotations.

    (..., 4, 4) -> (..., 4, 4), the translation kept, z > 0. Source: Kundu et al., 3D-RCNN, sec. 4.1.
    """
    t = cam_from_obj[..., :3, 3]
    return from_rt(_rotation_to_ray(t).mT @ cam_from_obj[..., :3, :3], t)


@full_precision
def egocentric_from_allocentric(allocentric: Tensor) -> Tensor:
    """Inverse of `allocentric_from_egocentric`. (..., 4, 4) -> (..., 4, 4)."""
    t = allocentric[..., :3, 3]
    return from_rt(_rotation_to_ray(t) @ allocentric[..., :3, :3], t)


@full_precision
def perturbed(
    cam_from_obj: Tensor,
    rotation_sd: float | Tensor,
    translation_sd: float | Tensor,
    depth_factor: float = 3.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Poses with normal noise.

    Args:
        cam_from_obj: (..., 4, 4), metres.
        rotation_sd: standard deviation about each axis, radians, number or (...,). The object turns about its origin.
        translation_sd: standard deviation across the line of sight, metres, number or (...,).
        depth_factor: along the line of sight the deviation is so many times as large.
        generator: CPU random numbers; the same seed gives the same noise. None: seed 0.

    Returns:
        (..., 4, 4). An object never comes nearer than a third of its distance, nor goes farther than three times that, and
        keeps at least a third of its depth, whatever the deviation: none ends behind the camera.
    """
    generator = generator or torch.Generator().manual_seed(0)
    batch, like = cam_from_obj.shape[:-2], cam_from_obj
    draw = torch.randn(2, *batch, 3, generator=generator, dtype=torch.float64).to(like)
    turn = draw[0] * torch.as_tensor(rotation_sd).to(like)[..., None]
    shift = draw[1] * torch.as_tensor(translation_sd).to(like)[..., None]
    R, t = like[..., :3, :3], like[..., :3, 3]
    ray = torch.nn.functional.normalize(t, dim=-1)
    along = (shift * ray).sum(-1, keepdim=True) * ray
    moved = t + (shift - along) + depth_factor * along
    distance, new = t.norm(dim=-1, keepdim=True), (moved * ray).sum(-1, keepdim=True)
    moved = moved + (new.clamp(distance / 3, 3 * distance) - new) * ray
    moved = torch.cat([moved[..., :2], torch.maximum(moved[..., 2:], t[..., 2:] / 3)], -1)
    return se3.from_rt(rotation.so3_exp(turn) @ R, moved)
