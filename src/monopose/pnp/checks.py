"""The doors of the PnP layers: options, cameras and poses as they come in, and the frame that a problem is solved in.

Options raise `ValueError` and name what was expected. Numbers never raise: what is no camera and no rigid motion is masked,
problem by problem. Every problem is solved about its own weighted centroid and at its own scale (`Frame`), so that neither
the origin nor the unit of the caller's coordinates changes a result.
"""

import math
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geometry import rotation, se3

DISTINCT = 1e-5  # of the largest distance: points nearer to each other count as one
BLUR = 2.0  # standard deviations of the mean of all residuals: so do those whose pixels are nearer
COUNTED = 1e-8  # of the largest weight: less does not count
SINGULAR = 1e-6  # a K whose volume, relative to its rows, is below this is no camera


class Reason(IntEnum):
    """Why a problem converged or did not. Numbers, as in `Solution.reason`."""

    CONVERGED = 0
    TOO_FEW_POINTS = 1  # distinct ones that have weight
    DEGENERATE = 2  # the points leave a direction of the pose open, or nearly so
    BEHIND_THE_CAMERA = 3  # a point ended there
    NOT_FINITE = 4  # NaN or infinity in the numbers, or a K that is no camera, or a start that is no rigid motion
    ITERATIONS = 5  # they ran out
    NO_OTHER_MODE = 6  # of `modes` that were asked for: there are fewer minima


# --------------------------------------------------------------------------------------------------------------- options


def number(name: str, value: Any, least: float = -math.inf, above: float = -math.inf, below: float = math.inf) -> float:
    """A finite real number with least <= value, above < value < below.

    Raises:
        ValueError: otherwise; a tensor is none, for an option that is read on the host would wait for the device.
    """
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_)):
        value = float(value)
        if math.isfinite(value) and value >= least and above < value < below:
            return value
    asked = [f">= {least:g}"] * (least > -math.inf) + [f"> {above:g}"] * (above > -math.inf)
    asked += [f"< {below:g}"] * (below < math.inf)
    raise ValueError(f"{name} must be a finite number {' and '.join(asked)}".rstrip() + f", got {value!r}")


def whole(name: str, value: Any, least: int = 0, most: int = 2**31 - 1) -> int:
    """An integer of at least `least` and at most `most`, what OpenCV's and the kernels' integers hold.

    Raises:
        ValueError: otherwise; 2.0 is none.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)) and least <= value <= most:
        return int(value)
    raise ValueError(f"{name} must be an integer >= {least} (and at most {most:g}), got {value!r}")


def flag(name: str, value: Any) -> bool:
    """True or False. Raises ValueError otherwise: "no" is none."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ValueError(f"{name} must be True or False, got {value!r}")


def positive(name: str, value: Any) -> Any:
    """A number above 0, inf allowed, or a tensor or array of them, which is returned as it came.

    A tensor of one element is checked; in a larger one what is not positive is for the caller to mask, problem by problem.

    Raises:
        ValueError: otherwise.
    """
    one = value
    if isinstance(value, (Tensor, np.ndarray)):
        if math.prod(value.shape) != 1 or (isinstance(value, Tensor) and value.device.type == "meta"):
            return value
        one = value.item()
    if isinstance(one, (int, float, np.integer, np.floating)) and not isinstance(one, (bool, np.bool_)) and one > 0:
        return value
    raise ValueError(f"{name} must be a positive number or a tensor of them, got {value!r}")


def tensor(name: str, value: Any) -> Tensor:
    """What `torch.as_tensor` accepts: tensors, nested lists of numbers, and NumPy arrays of any strides and byte order.

    Raises:
        ValueError: otherwise, or for what is no dense array of real numbers; a masked array is none.
    """
    if isinstance(value, Tensor):
        found = value
    else:
        try:
            if isinstance(value, np.ma.MaskedArray):
                raise ValueError("a mask would be lost: give masked points a weight of 0")
            if isinstance(value, np.ndarray) and (min(value.strides, default=0) < 0 or not value.flags.writeable
                                                  or not value.dtype.isnative):  # fmt: skip
                value = np.array(value, value.dtype.newbyteorder("="), order="C")  # what torch cannot point at
            found = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = f"{type(value).__name__} of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ValueError(f"{name} must be a torch tensor or what torch.as_tensor accepts, got {kind}: {error}") from error
    tiny = found.is_floating_point() and found.element_size() == 1  # float8 has no arithmetic
    if tiny or found.is_complex() or found.dtype == torch.bool or found.layout != torch.strided:
        raise ValueError(f"{name} must hold real numbers in a dense tensor, got {found.dtype}, {found.layout}")
    if found.device.type == "meta":
        raise ValueError(f"{name} is on the device meta, which holds no numbers")
    return found


def generator(value: Any) -> torch.Generator | None:
    """A torch.Generator or None. Raises ValueError otherwise."""
    if value is None or isinstance(value, torch.Generator):
        return value
    raise ValueError(f"generator must be a torch.Generator or None, got {value!r}; torch.Generator().manual_seed(0) makes one")


def degrees_of_freedom(value: Any) -> int:
    """6 or 4. Raises ValueError otherwise."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value in (4, 6):
        return int(value)
    raise ValueError(f"dof must be 6 (rotation and translation) or 4 (yaw and translation), got {value!r}")


# -------------------------------------------------------------------------------------------------------- cameras, poses


def scale_of(K: Tensor) -> Tensor:
    """What K (..., 3, 3) is divided by for a last row of length 1, (...,): negative for -K, which is K up to scale. (That a
    negative K[2, 2] with a positive determinant is a turn: cameras of OpenGL look along -Z.)"""
    depth = K[..., 2, :].norm(dim=-1)
    return torch.where((K[..., 2, 2] < 0) & (_volume(K) < 0), -depth, depth)


def _volume(K: Tensor) -> Tensor:
    return (torch.linalg.cross(K[..., 0, :], K[..., 1, :], dim=-1) * K[..., 2, :]).sum(-1)


def is_camera(K: Tensor) -> Tensor:
    """Which K are finite, invertible, look along a direction and are not transposed: (..., 3, 3) -> (...,), bool."""
    volume = _volume(K).abs()
    transposed = (K[..., 0, 1:] == 0).all(-1) & (K[..., 1, 2] == 0) & (K[..., 2, :2] != 0).any(-1)
    # relative to the rows without their principal point, which may be far outside the image
    depth = K[..., 2, :].norm(dim=-1)
    ray = K[..., 2, :] / depth[..., None].clamp_min(1e-300 if K.dtype == torch.float64 else 1e-30)
    side = K[..., :2, :] - (K[..., :2, :] * ray[..., None, :]).sum(-1, keepdim=True) * ray[..., None, :]
    focal = side.norm(dim=-1)
    return torch.isfinite(volume) & ~transposed & (depth > 0) & (volume > SINGULAR * depth * focal[..., 0] * focal[..., 1])


def split_camera(K: Tensor) -> tuple[Tensor, Tensor]:
    """K, up to scale, as plain intrinsics times a rotation: K ~ plain @ R, so that a pose T under K is (R T) under plain.

    Args:
        K: (..., 3, 3), where `is_camera`; a photo turned by 90 degrees, 2 K, K @ rotation, skew.

    Returns:
        plain (..., 3, 3): upper triangular, [2, 2] exactly 1, the lower entries exactly 0, fy > 0, and fx < 0 for a mirrored
        image; R (..., 3, 3), a rotation. A plain K comes back as it is, with R exactly the identity. plain has the gradient
        of K for a fixed R, which is all that the optimum of a reprojection error needs.

    Source: RQ decomposition by Gram-Schmidt from the last row up.
    """
    tiny = 1e-300 if K.dtype == torch.float64 else 1e-30
    fixed = K.detach()
    scale = fixed[..., 2, :].norm(dim=-1, keepdim=True).clamp_min(tiny)
    z = fixed[..., 2, :] / scale
    y = fixed[..., 1, :] - (fixed[..., 1, :] * z).sum(-1, keepdim=True) * z
    y = y / y.norm(dim=-1, keepdim=True).clamp_min(tiny)
    R = torch.stack([torch.linalg.cross(y, z, dim=-1), y, z], -2)
    plain = (K / scale[..., None]) @ R.mT
    lower = torch.tensor([[False, False, False], [True, False, False], [True, True, True]], device=K.device)
    exact = torch.where(lower, torch.eye(3, dtype=K.dtype, device=K.device), plain.detach())
    return exact + (plain - plain.detach()), R


def rigid(pose: Tensor) -> tuple[Tensor, Tensor]:
    """Poses as they come from a network or half precision, made rigid. See `geometry.se3.project`.

    Args:
        pose: (..., 4, 4).

    Returns:
        poses (..., 4, 4), exactly rigid, the identity where refused; and which were near enough to a rigid motion, (...,).
    """
    made, near = se3.project(pose)
    return made, near


def poses(name: str, value: Any) -> Tensor:
    """Poses (..., 4, 4) of any layer, as a tensor. Which of them are rigid `rigid` says. Raises ValueError on another shape."""
    found = tensor(name, value)
    if found.shape[-2:] != (4, 4):
        raise ValueError(f"{name} must be (..., 4, 4) metres, got {tuple(found.shape)}; geometry.se3.from_rt(R, t) builds it")
    return found


def group(value: Any, like: Tensor) -> Tensor:
    """Symmetries (G, 4, 4), or (B, G, 4, 4) of each problem, made rigid, in the dtype and on the device of `like`.

    Raises:
        ValueError: on another shape, no motion at all, or one that is not rigid.
    """
    made, near = rigid(poses("symmetries", value))
    if made.dim() not in (3, 4) or made.shape[-3] == 0 or not bool(near.all()):
        raise ValueError(
            f"symmetries must be rigid motions (G, 4, 4) or (B, G, 4, 4), the identity among them, got {tuple(made.shape)}, "
            f"{int((~near).sum())} of them not rigid"
        )
    return made.to(like)


# -------------------------------------------------------------------------------------------------------------- the frame


class Frame(NamedTuple):
    """A frame for each problem: its points' weighted centroid, and its own unit of length: X = scale * X_own + centre.

    Args:
        centre: (B, 3), in the caller's unit.
        scale: (B,), the caller's units in one of its own; a power of two, so that scaling rounds nothing.
    """

    centre: Tensor
    scale: Tensor

    def points(self, points3d: Tensor) -> Tensor:
        """(B, N, 3) of the caller -> own; differentiable."""
        return (points3d - self.centre[:, None]) * self.scale.reciprocal()[:, None, None]

    def inward(self, pose: Tensor) -> Tensor:
        """Poses (B, ..., 4, 4) of the caller -> own. Differentiable."""
        centre, scale = self._like(pose)
        R = pose[..., :3, :3]
        return se3.from_rt(R, ((R * centre[..., None, :]).sum(-1) + pose[..., :3, 3]) / scale)

    def outward(self, pose: Tensor) -> Tensor:
        """Poses (B, ..., 4, 4) of the own frame -> the caller's. Differentiable."""
        centre, scale = self._like(pose)
        R = pose[..., :3, :3]
        return se3.from_rt(R, pose[..., :3, 3] * scale - (R * centre[..., None, :]).sum(-1))

    def _like(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        between = [1] * (pose.dim() - 3)
        return self.centre.to(pose).view(-1, *between, 3), self.scale.to(pose).view(-1, *between, 1)

    def tangent(self, pose: Tensor) -> Tensor:
        """A, (B, 6, 6): tangents (v, omega) of `se3.retract` at own poses (B, 4, 4) -> those of the caller's poses."""
        arm = rotation.skew((pose[..., :3, :3] * self.centre.to(pose)[:, None, :]).sum(-1))
        A = torch.eye(6, dtype=pose.dtype, device=pose.device).repeat(len(pose), 1, 1)
        A[:, :3, :3] *= self.scale.to(pose)[:, None, None]
        A[:, :3, 3:] = arm
        return A

    def covariance(self, covariance: Tensor, pose: Tensor) -> Tensor:
        """Of the tangent at own poses (B, 4, 4), (B, 6, 6), as that of the caller's: metres and radians."""
        A = self.tangent(pose)
        return A @ covariance.to(pose) @ A.mT


def frame(points3d: Tensor, weights: Tensor | None) -> Frame:
    """The own frames of flat problems.

    Args:
        points3d: (B, N, 3), finite; what has no weight does not count.
        weights: (B, N, 2), or None for all the same.

    Returns:
        a Frame, detached: which frame a problem is solved in does not change its solution, so it has no gradient. The centre is
        that of the information, weights squared; the scale the mean distance from it (L1, rounded to a power of two), 1 where
        all points coincide.
    """
    X = points3d.detach()
    B, N = X.shape[:2]
    if N == 0 or B == 0:
        return Frame(X.new_zeros(B, 3), X.new_ones(B))
    if weights is None:
        centre = X.mean(1)
        spread = (X - centre[:, None]).abs().sum(-1).mean(1)
    else:
        w = weights.detach().abs().sum(-1)
        top = w.amax(1, keepdim=True)
        share = (w / torch.where(top > 0, top, torch.ones_like(top))).square()
        share = share / share.sum(1, keepdim=True).clamp_min(1e-30)
        centre = (share[..., None] * X).sum(1)
        spread = (share.sqrt() * (X - centre[:, None]).abs().sum(-1)).sum(1) / share.sqrt().sum(1).clamp_min(1e-30)
    exponent = torch.frexp(spread).exponent.clamp(-100, 100)
    scale = torch.ldexp(torch.ones_like(spread), exponent)
    return Frame(centre, torch.where(spread > 0, scale, torch.ones_like(scale)))
