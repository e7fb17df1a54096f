"""A view of an object as the networks see it: in-plane rotation, shift and scale apart from the direction of sight."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import camera as camera_ops
from ..geometry import se3, viewpoints
from ..types import ObjectModel


class View(NamedTuple):
    """How a square crop shows an object, see above."""

    azimuth: Tensor  # (...,), radians, [0, 2 pi)
    elevation: Tensor  # (...,), radians
    inplane: Tensor  # (...,), radians
    shift: Tensor  # (..., 2), half sides
    scale: Tensor  # (...,), > 0

    def stacked(self) -> Tensor:
        """Azimuth, elevation, inplane, shift right, shift down, scale, (..., 6)."""
        return torch.cat([torch.stack(self[:3], -1), self.shift, self.scale[..., None]], -1)


def view_of(values: Tensor) -> View:
    """Inverse of `View.stacked`. (..., 6)."""
    return View(values[..., 0], values[..., 1], values[..., 2], values[..., 3:5], values[..., 5])


def size_of(model: ObjectModel) -> float:
    """The size that makes views metric: the diagonal of the model's box, metres."""
    return float((model.bounds[1] - model.bounds[0]).norm())


def view_parameters(cam_from_obj: Tensor, K: Tensor, box: Tensor, size: Tensor | float) -> View:
    """How a crop shows an object at a pose.

    Args:
        cam_from_obj: (..., 4, 4), metres, in front of the camera.
        K: intrinsics of the photo, (..., 3, 3), pixels; with those of the crop, `box` is (0, 0, side, side).
        box: the square crop, (..., 4), xyxy pixel edges of the photo.
        size: of the object, (...,) or number, metres; see `size_of`.
    """
    _check_box(box)
    allocentric = se3.allocentric_from_egocentric(cam_from_obj)
    azimuth, elevation, inplane = viewpoints.angles_of(allocentric[..., :3, :3]).unbind(-1)
    pixel = camera_ops.project(cam_from_obj[..., None, :3, 3], K)[..., 0, :]
    side = box[..., 2] - box[..., 0]
    shift = (pixel + 0.5 - (box[..., :2] + box[..., 2:]) / 2) / (side[..., None] / 2)
    return View(azimuth, elevation, inplane, shift, _focal(K) * size / (cam_from_obj[..., 2, 3] * side))


def pose_from_view(view: View, K: Tensor, box: Tensor, size: Tensor | float) -> Tensor:
    """Inverse of `view_parameters`: the distance comes from the object's size. -> cam_from_obj (..., 4, 4), metres."""
    _check_box(box)
    side = box[..., 2] - box[..., 0]
    pixel = (box[..., :2] + box[..., 2:]) / 2 + view.shift * (side[..., None] / 2) - 0.5
    depth = _focal(K) * size / (view.scale * side)
    t = camera_ops.unproject(pixel[..., None, :], depth[..., None], K)[..., 0, :]
    R = viewpoints.rotation_of(torch.stack([view.azimuth, view.elevation, view.inplane], -1))
    return se3.egocentric_from_allocentric(se3.from_rt(R, t))


def _focal(K: Tensor) -> Tensor:
    return (K[..., 0, 0] * K[..., 1, 1]).sqrt()


def _check_box(box: Tensor) -> None:
    width, height = box[..., 2] - box[..., 0], box[..., 3] - box[..., 1]
    if not bool(((width > 0) & ((width - height).abs() <= 1e-3 * width)).all()):
        raise ValueError(f"a view needs square crops (..., 4), xyxy, got {box.tolist()}; use geometry.boxes.square")
