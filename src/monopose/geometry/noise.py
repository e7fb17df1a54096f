"""Poses that are roughly right: what refiners are trained on and tested with."""

import torch
from torch import Tensor

from . import rotation, se3


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
        generator: CPU random numbers; the same seed gives the same noise.

    Returns:
        (..., 4, 4). An object never comes nearer than a third of its distance, nor goes farther than three times that, and
        keeps at least a third of its depth, whatever the deviation: none ends behind the camera.
    """
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
