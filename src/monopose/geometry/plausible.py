"""Poses that cannot be: behind the camera, around it, of another size or place in the picture than the box they came from."""

from __future__ import annotations

import torch
from torch import Tensor

from . import boxes as box_ops
from . import camera as camera_ops
from . import se3

NEAREST = 0.1  # diagonals of the object's box; nearer than this the camera would touch it, or be inside of it
FACTOR = 2.5  # between the size that a pose has in the picture and that of the box it came from
REASONS = (
    "",
    "not a number",
    "behind the camera",
    f"nearer to the camera than {NEAREST:g} of its size",
    f"more than {FACTOR:g} times as large in the picture as its box",
    f"more than {FACTOR:g} times smaller in the picture than its box",
    "beside its box in the picture",
)


def why_not(cam_from_obj: Tensor, corners: Tensor, K: Tensor, size: tuple[int, int], boxes: Tensor | None = None) -> Tensor:
    """Why poses cannot be, as indices of `REASONS`; 0 where they can.

    Sizes are square roots of areas. What leaves the picture may have a box of the whole object or of what is seen of it.

    Args:
        cam_from_obj: (N, 4, 4), metres.
        corners: of each object's box, (N, 8, 3), metres, object frame.
        K: (3, 3), pixels.
        size: (height, width) of the picture, pixels.
        boxes: from which the poses came, (N, 4), xyxy on pixel edges; None: only the pose itself is looked at.

    Returns:
        (N,), int64.
    """
    corners = corners.double()
    pose, K = cam_from_obj.to(corners), K.to(corners)
    points = se3.transform(pose, corners)
    diagonal = (corners.amax(-2) - corners.amin(-2)).norm(dim=-1)
    reason = torch.zeros(len(pose), dtype=torch.int64, device=pose.device)
    near = NEAREST * diagonal
    if boxes is not None:
        shown = box_ops.from_points(camera_ops.project(points, K, 1e-6))
        own = boxes.to(corners)
        ratios = [(box_ops.area(a) / box_ops.area(own).clamp_min(1e-9)).sqrt() for a in (shown, box_ops.clipped(shown, size))]
        large, small = torch.minimum(*ratios) > FACTOR, torch.maximum(*ratios) < 1 / FACTOR
        shared = torch.minimum(shown[:, 2:], own[:, 2:]) - torch.maximum(shown[:, :2], own[:, :2])
        for code, wrong in ((6, (shared <= 0).any(-1)), (5, small), (4, large)):
            reason[wrong] = code
    reason[points[..., 2].amin(-1) < near] = 3
    reason[points[..., 2].mean(-1) <= 0] = 2
    reason[~torch.isfinite(pose).flatten(1).all(1)] = 1
    return reason
