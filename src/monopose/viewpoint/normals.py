"""Surface normals and boundaries of the object in a crop, from its colours alone.

They are the mid-level inputs of the viewpoint networks. The original system took them from networks that had learned them on
photos of rooms; this one learns them on renderings of CAD models, whose normals are known. Where the truth of a normal comes
from the object's own CAD model and pose it is an oracle; what this network says is not.

The truth of boundaries is where the silhouette ends, the surface folds, or one part hides another.

Source: Chen et al., Robust Policies via Mid-Level Visual Representations (CoRL 2020), for the idea; cosine loss as in
Wang et al., Designing Deep Networks for Surface Normal Estimation (CVPR 2015); balanced boundary loss as in Xie & Tu,
Holistically-Nested Edge Detection (ICCV 2015), eq. 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets.unet import UNet

MASK, NORMALS = 3, slice(5, 8)
"""Where crops of `viewpoint.samples` carry the object's mask and its normals."""


@dataclass(frozen=True)
class Config:
    input_size: int = 64  # side of the square crops it learns from, pixels
    crop_scale: float = 1.1  # side of the crop / longer side of the box
    backbone: str = "efficientnet_lite0"  # see nets.backbones
    pretrained: bool = True  # start the backbone from ImageNet weights where they can be had
    frozen_levels: int = 1  # levels of a pretrained backbone that stay as ImageNet made them
    widths: tuple[int, int, int, int] = (96, 64, 48, 32)  # decoder channels at strides 16, 8, 4, 2
    zoom: int = 2  # the network enlarges its crop this many times; at 2 it answers for every pixel of the crop
    fold_deg: float = 30.0  # neighbouring pixels whose normals differ by more are a boundary, degrees
    jump: float = 0.03  # likewise where the inverse depth bends by more than this share of itself, if the depth is known
    normal_weight: float = 1.0  # weight of the normals' cosine loss
    boundary_weight: float = 0.5  # weight of the boundaries' loss
    mask_weight: float = 0.5  # weight of the loss of the object's mask, which says where its normals count


def large() -> Config:
    """For crops of 224 pixels, as the published viewpoint networks take them."""
    return Config(input_size=224, widths=(128, 96, 64, 48), zoom=1)


class Output(NamedTuple):
    """What the network says about B crops."""

    normals: Tensor  # (B, 3, S, S), unit, camera frame
    boundaries: Tensor  # (B, S, S), logit of being a boundary of the object
    mask: Tensor  # (B, S, S), logit of being a pixel of the object


class Maps(NamedTuple):
    """Predicted maps of B crops."""

    normals: Tensor  # (B, 3, S, S), unit, camera frame; 0 outside the object
    boundaries: Tensor  # (B, S, S), in [0, 1]
    mask: Tensor  # (B, S, S), probability of being a pixel of the object


class Model(nn.Module):
    """Config -> network. It knows no objects."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        if config.zoom < 1:
            raise ValueError(f"zoom must be 1 or more, got {config.zoom}")
        self.net = UNet(config.backbone, 1, 5, config.widths, config.pretrained, config.frozen_levels)

    def forward(self, image: Tensor) -> Output:
        """Crops in [0, 1], (B, 3 or more, S, S), of which it looks at the first three channels, RGB -> `Output`.

        Raises:
            ValueError: not a batch of crops with colours.
        """
        if image.dim() != 4 or image.shape[1] < 3:
            raise ValueError(f"expected crops (B, 3 or more, S, S), RGB first, got {tuple(image.shape)}")
        seen, size = image[:, :3], image.shape[-2:]
        if self.config.zoom > 1:
            seen = F.interpolate(seen, scale_factor=self.config.zoom, mode="bilinear", align_corners=False)
        raw = self.net(seen, torch.zeros(len(seen), dtype=torch.long, device=seen.device)).float()
        if raw.shape[-2:] != size:
            raw = F.interpolate(raw, size, mode="bilinear", align_corners=False)
        return Output(F.normalize(raw[:, :3], dim=1), raw[:, 3], raw[:, 4])


def boundaries(
    normals: Tensor, mask: Tensor, depth: Tensor | None = None, fold_deg: float = 30.0, jump: float = 0.03
) -> Tensor:
    """Boundaries of a rendered object: its outermost pixels, and those on both sides of a fold or a step in depth.

    The inverse depth of a plane is linear in the picture, so that it bends only where the surface does or ends.

    Args:
        normals: unit, camera frame, (B, 3, H, W); any scale, 0 where unknown.
        mask: (B, H, W), bool.
        depth: (B, H, W), any unit; without it a part in front of a parallel one shows no boundary.
        fold_deg: smallest angle between the normals of neighbouring pixels, degrees.
        jump: smallest bend of the inverse depth, as a share of itself.

    Returns:
        (B, H, W), bool; none outside the mask.
    """
    found = torch.zeros_like(mask)
    unit = F.normalize(normals, dim=1)
    limit = math.cos(math.radians(fold_deg))
    inverse = None if depth is None else torch.where(mask, 1 / depth.clamp_min(1e-9), 0.0)
    for axis in (1, 2):
        size = mask.shape[axis]
        first, second = mask.narrow(axis, 0, size - 1), mask.narrow(axis, 1, size - 1)
        dot = (unit.narrow(axis + 1, 0, size - 1) * unit.narrow(axis + 1, 1, size - 1)).sum(1)
        edge = (first & second & (dot < limit)) | (first ^ second)
        if inverse is not None and size > 2:
            a, b, c = (inverse.narrow(axis, k, size - 2) for k in range(3))
            inside = mask.narrow(axis, 0, size - 2) & mask.narrow(axis, 1, size - 2) & mask.narrow(axis, 2, size - 2)
            bent = inside & ((a - 2 * b + c).abs() > jump * b)
            found.narrow(axis, 1, size - 2).logical_or_(bent)
        found.narrow(axis, 0, size - 1).logical_or_(edge)
        found.narrow(axis, 1, size - 1).logical_or_(edge)
    return found & mask


def truth(config: Config, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What the network should say.

    Args:
        config: its thresholds for boundaries.
        batch: "image" (B, 8, S, S), crops as `viewpoint.samples` cuts them, with mask and true normals; and, if there is
            one, "depth" (B, S, S).

    Returns:
        normals (B, 3, S, S), unit, 0 where they are unknown; boundaries (B, S, S), bool; mask (B, S, S), bool.

    Raises:
        ValueError: the crops carry no normals.
    """
    image = batch["image"]
    if image.dim() != 4 or image.shape[1] < NORMALS.stop:
        raise ValueError(
            f"expected crops (B, {NORMALS.stop}, S, S) with colours, mask, boundaries and normals, got {tuple(image.shape)}"
        )
    mask = image[:, MASK] > 0.5
    raw = 2 * image[:, NORMALS].float() - 1
    known = mask & (raw.norm(dim=1) > 0.25)  # a blend with what lies outside is no normal
    normals = torch.where(known[:, None], F.normalize(raw, dim=1), 0.0)
    depth = batch.get("depth")
    return normals, boundaries(normals, mask, depth, config.fold_deg, config.jump), mask


def loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cosine of the normals inside the object, and cross-entropies of boundaries and mask.

    Args:
        model, output: the network and its output.
        batch: see `truth`.

    Returns:
        scalar tensors by name: normals (0 when all agree, 2 when all are opposite), boundaries, mask; their sum is the loss.
        Boundary pixels and the others count the same as a whole, however few there are.
    """
    config = model.config
    normals, edges, mask = truth(config, batch)
    known = (normals != 0).any(1)
    away = (1 - (output.normals * normals).sum(1)) * known
    entropy = F.binary_cross_entropy_with_logits(output.boundaries, edges.to(output.boundaries), reduction="none")
    balanced = (_mean(entropy, edges) + _mean(entropy, ~edges)) / 2
    return {
        "normals": config.normal_weight * away.sum() / known.sum().clamp_min(1),
        "boundaries": config.boundary_weight * balanced,
        "mask": config.mask_weight * F.binary_cross_entropy_with_logits(output.mask, mask.to(output.mask)),
    }


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the values at some places, 0 where there are none."""
    return (values * where).sum() / where.sum().clamp_min(1)


def errors_deg(normals: Tensor, true: Tensor) -> Tensor:
    """Angles between predicted and true normals where the true ones are known. (B, 3, H, W) twice -> (n,), degrees.

    A prediction of 0 is not a direction; it counts as 90 degrees.
    """
    known = (true != 0).any(1)
    a, b = F.normalize(normals, dim=1).movedim(1, -1)[known], F.normalize(true, dim=1).movedim(1, -1)[known]
    return torch.rad2deg(torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)) * 2)


@torch.no_grad()
def predict(model: Model, images: Tensor, mask: Tensor | None = None, chunk: int = 32) -> Maps:
    """Normals and boundaries of crops.

    Args:
        model: in eval mode.
        images: (B, 3 or more, S, S), RGB first, in [0, 1].
        mask: where the object is, (B, S, S), bool; None: where the network sees it.
        chunk: crops per forward pass.

    Returns:
        maps; normals and boundaries are 0 outside the mask.
    """
    parts = [model(part) for part in images.split(chunk)]
    normals, edges, inside = (torch.cat(values) for values in zip(*parts, strict=True))
    probability = inside.sigmoid()
    where = probability > 0.5 if mask is None else mask.bool()
    return Maps(normals * where[:, None], edges.sigmoid() * where, probability)


def predictor(model: Model) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function that tells normals and boundaries of crops, as `viewpoint.samples.PhotoCrops` asks for them.

    (B, 3, S, S), RGB in [0, 1] -> normals (B, 3, S, S), unit, 0 where the network sees no object; boundaries (B, S, S).
    """
    model.eval()

    def predict_maps(images: Tensor) -> tuple[Tensor, Tensor]:
        found = predict(model, images)
        return found.normals, found.boundaries

    return predict_maps
