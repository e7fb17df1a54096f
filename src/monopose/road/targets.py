"""What the images of a batch show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..geometry import boxes3d
from .config import SMALLEST, Z_MIN
from .network import Model


class Truth(NamedTuple):
    """The objects of one image that are learned from, N rows.

    labels (N,); pose (N, 4, 4), level, metres; lhw (N, 3), metres; velocity (N, 3), metres per second, NaN where unknown;
    attribute (N,), -1 where unknown; boxes (N, 4), what the image shows, xyxy pixel edges; centres (N, 2), pixels.
    """

    labels: Tensor
    pose: Tensor
    lhw: Tensor
    velocity: Tensor
    attribute: Tensor
    boxes: Tensor
    centres: Tensor


def truths(model: Model, batch: Mapping[str, Any]) -> list[Truth]:
    """What the images of a batch show; boxes behind the camera, beside the image or of less than a few pixels are left out.

    Raises:
        ValueError: a label outside the classes, or a size that is not positive.
    """
    config, found = model.config, []
    for i, K in enumerate(batch["K"]):
        K = K.float()
        labels, pose, lhw = batch["labels"][i], batch["cam_from_obj"][i], batch["sizes"][i]
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(config.classes)):
            raise ValueError(
                f"labels must be 0 to {len(config.classes) - 1}, of {', '.join(config.classes)}; got {labels.tolist()}"
            )
        if not bool((lhw > 0).all()):
            raise ValueError(f"sizes must be length, height, width in metres, all > 0, got {lhw.tolist()}")
        n = len(labels)
        pose = boxes3d.from_yaw(pose[:, :3, 3], boxes3d.yaw_of(pose)).to(K)
        boxes = boxes3d.project(pose, lhw.to(K), K, config.size, Z_MIN) if n else K.new_zeros(0, 4)
        shown = (boxes[:, 2:] - boxes[:, :2]).amax(-1) >= SMALLEST
        shown &= pose[:, 2, 3] > Z_MIN
        if "visibility" in batch:
            shown &= batch["visibility"][i] >= config.min_visibility
        velocity = batch["velocities"][i] if "velocities" in batch else K.new_full((n, 3), math.nan)
        attribute = batch["attributes"][i] if "attributes" in batch else torch.full_like(labels, -1)
        rows = [labels, pose, lhw.to(K), velocity.to(K), attribute, boxes]
        labels, pose, lhw, velocity, attribute, boxes = (v[shown] for v in rows)
        attribute = torch.where(model.allowed[labels].sum(-1) > 1, attribute, len(config.attributes))  # the class has none
        found.append(Truth(labels, pose, lhw, velocity, attribute, boxes, boxes3d.volume_centres(pose, lhw, K, boxes)))
    return found
