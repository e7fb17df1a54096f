"""Gravity that is not the camera's Y axis: problems of four degrees of freedom are solved in a camera that stands upright."""

import math
from typing import Any

import torch
from torch import Tensor

from ..geometry import rotation, se3
from ..types import Camera
from . import checks
from .prepare import intrinsics


def turned(
    points3d: Any, camera: Camera | Tensor, init: Tensor | None, dof: int, gravity: Any
) -> tuple[Tensor, Tensor | None, Tensor]:
    """K and start of a camera whose Y axis is along gravity, and the way back: (..., 3, 3), (..., 4, 4) or None, (..., 3, 3).

    Args:
        points3d: whose dtype and device count.
        camera, init, dof: of a layer.
        gravity: (..., 3), downwards, camera frame, any length; zero and NaN have a K of NaN, which no problem converges with,
            and the identity as the way back.

    Raises:
        ValueError: if it is not (..., 3), or dof not 4.
    """
    if dof != 4:
        raise ValueError(f"gravity is for dof=4, where it is the axis of yaw; got dof={dof}")
    g = checks.tensor("gravity", gravity)
    if g.shape[-1:] != (3,):
        raise ValueError(f"gravity must be (..., 3), a direction in the camera frame, got {tuple(g.shape)}")
    points3d = checks.tensor("points3d", points3d)
    like = points3d.to(torch.promote_types(points3d.dtype, torch.float32))
    g = g.to(like)
    known = (torch.isfinite(g).all(-1) & (g != 0).any(-1))[..., None]
    g = torch.where(known, g, g.new_tensor([0.0, 1.0, 0.0]))  # whose derivatives are finite
    g = g / g.detach().abs().amax(-1, keepdim=True)  # of any length: its square may be more than a number holds
    g = g / g.norm(dim=-1, keepdim=True)
    over = g[..., 1:2] < 0  # nearly against Y no rotation is the shortest: half a turn about X comes first
    half = torch.diag(g.new_tensor([1.0, -1.0, -1.0]))
    flip = torch.where(over[..., None], half, torch.eye(3).to(g))
    g = (flip @ g[..., None]).squeeze(-1)
    hat = rotation.skew(torch.linalg.cross(g, g.new_tensor([0.0, 1.0, 0.0]).expand_as(g), dim=-1))
    upright = (torch.eye(3).to(g) + hat + hat @ hat / (1 + g[..., 1])[..., None, None]) @ flip
    if init is not None:
        init = checks.poses("init", init)
        init = se3.from_rt(upright, torch.zeros_like(upright[..., 0])).to(init).detach() @ init
    K = intrinsics(camera, like) @ upright.mT
    return torch.where(known[..., None], K, math.nan), init, upright.mT


def leant(points3d: Any, init: Any, R: Tensor) -> tuple[Any, Tensor | None]:
    """The points, with the gradient that the roll and pitch of a start have by gravity; and how those move it, (..., 3, 3).

    In the upright camera roll and pitch are those of R' init, which move with gravity, though `init` does not: as if the points
    were turned. All that is added is zero. Without a start, or where gravity has no gradient, the points as they are and None.
    """
    if init is None or not (R.requires_grad and torch.is_grad_enabled()):
        return points3d, None
    start, _ = checks.rigid(checks.poses("init", init).detach().to(R))
    turn = R.mT @ start[..., :3, :3]
    lean = turn.detach().mT @ (turn - turn.detach())
    X = checks.tensor("points3d", points3d)
    X = X.to(torch.promote_types(X.dtype, torch.float32))
    return X + X @ lean.to(X).mT, lean


def back(poses: Tensor, R: Tensor, lean: Tensor | None = None) -> Tensor:
    """R (..., 3, 3) times poses (..., 4, 4), whose roll and pitch move as `leant` says."""
    R, turn = R.to(poses), poses[..., :3, :3]
    if lean is not None:
        turn = turn + turn @ lean.to(poses)
    return se3.from_rt(R @ turn, (R @ poses[..., :3, 3:]).squeeze(-1))


def covariance_back(covariance: Tensor, R: Tensor) -> Tensor:
    """Covariances (..., 6, 6) of poses that R (..., 3, 3) turns."""
    both = torch.zeros(*R.shape[:-2], 6, 6).to(covariance)
    both[..., :3, :3] = both[..., 3:, 3:] = R.to(covariance).detach()
    return both @ covariance @ both.mT
