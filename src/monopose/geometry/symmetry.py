"""Symmetric objects: the finite group of a `Symmetries`, and the equivalent pose that is nearest to another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .rotation import so3_exp
from .se3 import from_rt

if TYPE_CHECKING:
    from ..types import Symmetries


def transforms(symmetries: Symmetries, steps: int = 315) -> Tensor:
    """The obj_from_obj motions under which the object looks the same, the identity first.

    Args:
        symmetries: discrete motions and continuous axes.
        steps: rotations per continuous axis. 315 = ceil(pi / 0.01) is what BOP's scores use; training needs 8 to 64.

    Returns:
        (S, 4, 4), metres: every continuous rotation after every discrete motion. Two axes are listed one after the other.

    Source: bop_toolkit `get_symmetry_transformations` with max_sym_disc_step = 0.01.
    """
    like = symmetries.discrete
    discrete = torch.cat([torch.eye(4, dtype=like.dtype, device=like.device)[None], like])
    if len(symmetries.axes) == 0:
        return discrete
    angles = torch.arange(steps, dtype=torch.float64) * (2 * math.pi / steps)
    turns = []
    for axis, offset in zip(symmetries.axes, symmetries.offsets, strict=True):
        unit = (axis / axis.norm()).double().cpu()
        R = so3_exp(angles[:, None] * unit).to(like)
        turns.append(from_rt(R, offset - R @ offset))  # about the axis through the offset
    continuous = torch.cat(turns)
    group = (continuous[:, None] @ discrete[None]).flatten(0, 1)
    # angle 0 of the first axis is the identity and stands first; the further axes repeat it, which changes no minimum
    return group


def nearest(cam_from_obj: Tensor, reference: Tensor, group: Tensor, points: Tensor) -> Tensor:
    """Of all poses equivalent to `cam_from_obj`, the one whose points lie nearest to those of `reference`.

    Args:
        cam_from_obj: (..., 4, 4).
        reference: (..., 4, 4).
        group: obj_from_obj motions with the identity, (S, 4, 4).
        points: a few points of the object, (N, 3), metres, e.g. the corners of its box.

    Returns:
        cam_from_obj @ group[s] with the least mean squared point distance, (..., 4, 4).
    """
    candidates = cam_from_obj[..., None, :, :] @ group
    moved = points @ candidates[..., :3, :3].mT + candidates[..., None, :3, 3]
    target = (points @ reference[..., :3, :3].mT + reference[..., None, :3, 3])[..., None, :, :]
    best = (moved - target).square().sum(-1).mean(-1).argmin(-1)
    return candidates.gather(-3, best[..., None, None, None].expand(*best.shape, 1, 4, 4)).squeeze(-3)
