"""Rotations as matrices (..., 3, 3); every other form lives at borders and says its order in its name."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Compute outside of autocast, whose matrix products would round a pose to three digits; half precision becomes float32,
    in and out."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        kind = given[0].device.type if given else "cpu"
        if not torch.amp.is_autocast_available(kind):  # of a device like meta
            return function(*args, **kwargs)
        if not torch.is_autocast_enabled(kind) and not any(v.dtype in (torch.float16, torch.bfloat16) for v in given):
            return function(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return function(*map(_single, args), **{key: _single(v) for key, v in kwargs.items()})  # type: ignore[arg-type]

    return run


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value


def skew(v: Tensor) -> Tensor:
    """The matrix of the cross product: skew(v) @ x = v x x. (..., 3) -> (..., 3, 3)."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


@full_precision
def so3_exp(omega: Tensor) -> Tensor:
    """Rotation matrix of a rotation vector; smooth at zero, so that it can be optimised from identity.

    Args:
        omega: axis times angle, (..., 3), radians.

    Returns:
        (..., 3, 3). Source: Rodrigues' formula, with its Taylor series below 1e-2 rad.
    """
    square = (omega * omega).sum(-1)[..., None, None]
    near = square < 1e-4
    theta = torch.where(near, torch.ones_like(square), square).sqrt()
    a = torch.where(near, 1 - square / 6 + square**2 / 120 - square**3 / 5040, theta.sin() / theta)
    b = torch.where(near, 0.5 - square / 24 + square**2 / 720 - square**3 / 40320, 2 * (theta / 2).sin() ** 2 / theta**2)
    hat = skew(omega)
    return torch.eye(3, dtype=omega.dtype, device=omega.device) + a * hat + b * (hat @ hat)


@full_precision
def so3_log(R: Tensor) -> Tensor:
    """Rotation vector of a rotation matrix, angle in [0, pi]; goes through the quaternion, so it is exact near pi.

    Args:
        R: (..., 3, 3).

    Returns:
        (..., 3), radians. Differentiable; at exactly pi, where the axis may turn about, with the derivative of one side.
    """
    quat = quat_wxyz_from_matrix(R)
    w, v = quat[..., :1], quat[..., 1:]
    w, v = torch.where(w < 0, -w, w), torch.where(w < 0, -v, v)
    square = (v * v).sum(-1, keepdim=True)
    near = square < 1e-8
    s = torch.where(near, torch.ones_like(square), square).sqrt()
    # 2 atan2(s, w) / s, with its series for small s (w is then near 1)
    about_one = torch.where(near, w, torch.ones_like(w))
    factor = torch.where(near, 2 / about_one * (1 - square / (3 * about_one * about_one)), 2 * torch.atan2(s, w) / s)
    return factor * v


@full_precision
def quat_wxyz_from_matrix(R: Tensor) -> Tensor:
    """Unit quaternion (w, x, y, z), w >= 0 up to rounding, of a rotation matrix. (..., 3, 3) -> (..., 4).

    Source: Shepperd's method: of the four ways to divide, the one with the largest divisor.
    """
    m = R.flatten(-2)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    one = torch.ones_like(m00)
    rows = torch.stack(
        [
            torch.stack([one + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, one + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, one - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m20 + m02, m21 + m12, one - m00 - m11 + m22], -1),
        ],
        -2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quat = row / row.norm(dim=-1, keepdim=True)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def quat_xyzw_from_matrix(R: Tensor) -> Tensor:
    """The same with w last, as ROS, SciPy and most programs write quaternions. (..., 3, 3) -> (..., 4)."""
    return quat_wxyz_from_matrix(R).roll(-1, -1)


@full_precision
def matrix_from_quat_wxyz(quat_wxyz: Tensor) -> Tensor:
    """Rotation matrix of a quaternion (w, x, y, z) of any non-zero length. (..., 4) -> (..., 3, 3)."""
    w, x, y, z = (quat_wxyz / quat_wxyz.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        -1,
    ).unflatten(-1, (3, 3))  # fmt: skip


@full_precision
def matrix_from_6d(six: Tensor) -> Tensor:
    """Rotation matrix of two free 3-vectors by Gram-Schmidt: they become its first two columns.

    Args:
        six: (..., 6), first column then second column, not parallel.

    Returns:
        (..., 3, 3). Source: Zhou et al., On the Continuity of Rotation Representations, eq. 14.
    """
    a, b = six[..., :3], six[..., 3:]
    x = torch.nn.functional.normalize(a, dim=-1)
    y = torch.nn.functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def six_d_from_matrix(R: Tensor) -> Tensor:
    """The first two columns of a rotation matrix. (..., 3, 3) -> (..., 6)."""
    return torch.cat([R[..., 0], R[..., 1]], -1)


@full_precision
def nearest_rotation(M: Tensor) -> Tensor:
    """The rotation nearest to a 3x3 matrix in the Frobenius norm. (..., 3, 3) -> (..., 3, 3).

    Source: orthogonal Procrustes with det = +1 (Umeyama 1991).
    """
    u, _, vh = torch.linalg.svd(M)
    sign = torch.linalg.det(u @ vh)
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
    return (u * flip[..., None, :]) @ vh


@full_precision
def angle_between(R_a: Tensor, R_b: Tensor) -> Tensor:
    """Geodesic angle between two rotations, radians in [0, pi]. (..., 3, 3) x 2 -> (...,).

    By atan2 of the antisymmetric part and the trace: exact near 0 and pi, where acos is not.
    """
    D = R_a.mT @ R_b
    vee = torch.stack([D[..., 2, 1] - D[..., 1, 2], D[..., 0, 2] - D[..., 2, 0], D[..., 1, 0] - D[..., 0, 1]], -1)
    return torch.atan2(vee.norm(dim=-1), D.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)


def random_rotations(
    n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Uniformly distributed rotations, (n, 3, 3), from normalised Gaussian quaternions. generator=None: seed 0."""
    generator = generator or torch.Generator(device).manual_seed(0)
    return matrix_from_quat_wxyz(torch.randn(n, 4, generator=generator, dtype=dtype, device=device))
