"""The dense part of a one-stage detector: encoder, feature pyramid, a head that says at every cell what stands there.

Source: Tian et al., FCOS (cells, ranges, centerness); Lin et al., Feature Pyramid Networks; Zhu et al., Deformable ConvNets v2;
Chen et al., EPro-PnP-Det (centre points and object embeddings in place of boxes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from ..geometry.camera import pixel_grid
from ..nets.backbones import Backbone, backbone

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class ModulatedConv(nn.Module):
    """A convolution that looks where it wants to: every tap has an offset and a weight of its own, predicted from its input.

    Args:
        conv: the ordinary convolution it stands for, whose weights it takes over; at the start it gives the same.

    Source: Zhu et al., Deformable ConvNets v2, sec. 3.1.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.weight, self.bias = conv.weight, conv.bias
        self.taps = conv.kernel_size[0] * conv.kernel_size[1]
        kernel = (conv.kernel_size[0], conv.kernel_size[1])
        shape = (conv.stride, conv.padding, conv.dilation)
        self.offset = nn.Conv2d(conv.in_channels, 3 * self.taps, kernel, *shape)  # type: ignore[arg-type]
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        offset, mask = self.offset(x).split([2 * self.taps, self.taps], 1)
        # twice the published mask, so that trained weights keep their meaning
        return deform_conv2d(
            x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, 2 * mask.sigmoid()  # type: ignore[arg-type]
        )  # fmt: skip


def deform(net: Backbone) -> None:
    """Replace the 3 x 3 convolutions of a ResNet's blocks by `ModulatedConv`, at strides 16 and 32."""
    for level in (3, 4):
        for part in net.levels()[level]:
            for block in list(part.modules()):
                conv = getattr(block, "conv2", None)
                if isinstance(conv, nn.Conv2d):
                    block.conv2 = ModulatedConv(conv)


class Encoder(nn.Module):
    """A backbone, with deformable convolutions and fixed batch statistics if asked for.

    Args:
        name: of `nets.backbones`.
        pretrained: start from ImageNet weights; warns where they cannot be had.
        frozen_levels: levels (strides 2, 4, ...) that keep those weights.
        deformable: `deform` strides 16 and 32; ResNets only.
        fixed_norms: batch normalisation keeps the statistics and factors of the ImageNet weights; ignored without them.
    """

    def __init__(
        self, name: str, pretrained: bool, frozen_levels: int = 0, deformable: bool = False, fixed_norms: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone(name, pretrained, frozen_levels)
        if deformable:
            if not name.startswith("resnet"):
                raise ValueError(f"only ResNets can have deformable convolutions, not {name}; set deformable=False")
            deform(self.backbone)
        self.fixed_norms = fixed_norms and self.backbone.frozen > 0
        if self.fixed_norms:
            for module in self.backbone.modules():
                if isinstance(module, NORMS):
                    module.requires_grad_(False)
        self.train(self.training)

    @property
    def channels(self) -> tuple[int, ...]:
        return self.backbone.channels

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        if getattr(self, "fixed_norms", False):
            for module in self.backbone.modules():
                if isinstance(module, NORMS):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), RGB in [0, 1] -> maps of strides 2 to 32."""
        return self.backbone(images)  # type: ignore[no-any-return]


def _level(stride: int) -> int:
    return int(math.log2(stride)) - 1  # entry of a backbone's maps


class Pyramid(nn.Module):
    """Maps of equal width at strides that double, each of which knows what the coarser ones see.

    Args:
        inputs: channels of the backbone's maps of strides 2 to 32.
        width: channels of all levels.
        strides: of the levels; those above 32 are convolved from the last.

    Source: Lin et al., Feature Pyramid Networks; extra levels as in EPro-PnP-Det, the first without a ReLU before it.
    """

    def __init__(self, inputs: Sequence[int], width: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.used = [_level(s) for s in strides if s <= 32]
        self.lateral = nn.ModuleList(nn.Conv2d(inputs[i], width, 1) for i in self.used)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.used)
        self.further = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for s in strides if s > 32)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of strides 2 to 32 -> maps (B, width, H / stride, W / stride)."""
        sides = [conv(maps[i]) for conv, i in zip(self.lateral, self.used, strict=True)]
        for i in range(len(sides) - 2, -1, -1):
            sides[i] = sides[i] + F.interpolate(sides[i + 1], sides[i].shape[-2:], mode="nearest")
        levels = [conv(side) for conv, side in zip(self.smooth, sides, strict=True)]
        for i, conv in enumerate(self.further):
            levels.append(conv(levels[-1].relu() if i else levels[-1]))
        return levels


class Cells(NamedTuple):
    """What the head says at every cell of every level: L cells, K classes.

    logits (B, L, K) of "an object of this class has its centre here"; centerness (B, L), logits; offsets from the cell's centre
    to the object's reference point, in strides, (B, L, K or 1, 2); embedding (B, L, C) of the object; edges, distances from the
    cell's centre to left, top, right, bottom of the 2D box, in strides, (B, L, 4), or None.
    """

    logits: Tensor
    centerness: Tensor
    offsets: Tensor
    embedding: Tensor
    edges: Tensor | None


class Lattice(NamedTuple):
    """Where the cells are: centres (L, 2), pixels; strides (L,), pixels; lows and highs of the level's range, (L,), pixels."""

    centres: Tensor
    strides: Tensor
    lows: Tensor
    highs: Tensor


def lattice(shapes: Sequence[tuple[int, int]], strides: Sequence[int], ranges: Sequence[float], like: Tensor) -> Lattice:
    """The cells of levels of these shapes (h, w), level by level, row by row.

    Args:
        shapes: of the levels.
        strides: of the levels, pixels.
        ranges: largest distance from centre to edge of box that a level is for, pixels; of all levels but the last.
        like: tensor of the device and dtype to use.
    """
    limits = [-1.0, *ranges, math.inf]
    parts = []
    for (h, w), stride, low, high in zip(shapes, strides, limits[:-1], limits[1:], strict=True):
        centres = (pixel_grid((h, w), like.device, like.dtype).flatten(0, 1) + 0.5) * stride - 0.5
        parts.append((centres, *(torch.full_like(centres[:, 0], v) for v in (float(stride), low, high))))
    return Lattice(*(torch.cat(v) for v in zip(*parts, strict=True)))


def _tower(width: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(groups, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class CentreHead(nn.Module):
    """Classes, reference points and embeddings, with weights that all levels share.

    Args:
        classes: K.
        width: channels of the pyramid and of the embedding.
        levels: how many it is applied to; each has a factor of its own on its offsets.
        class_offsets: one reference point per class instead of one for all.
        boxes: predict 2D boxes too.
    """

    def __init__(self, classes: int, width: int, levels: int, class_offsets: bool, boxes: bool) -> None:
        super().__init__()
        groups = min(32, width // 4)
        self.of_class, self.of_place = _tower(width, groups), _tower(width, groups)
        self.logits = nn.Conv2d(width, classes, 3, padding=1)
        self.centerness = nn.Conv2d(width, 1, 3, padding=1)
        self.offsets = nn.Conv2d(width, 2 * (classes if class_offsets else 1), 3, padding=1)
        self.embedding = nn.Conv2d(width, width, 3, padding=1)
        self.edges = nn.Conv2d(width, 4, 3, padding=1) if boxes else None
        self.factors = nn.Parameter(torch.ones(levels))
        for conv in (self.logits, self.centerness, self.offsets):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        assert self.logits.bias is not None
        nn.init.constant_(self.logits.bias, -math.log(99))  # 1 % to start with, as in the focal loss paper

    def forward(self, levels: Sequence[Tensor]) -> Cells:
        """Maps of the pyramid -> `Cells`, level by level, row by row."""
        parts = []
        for level, factor in zip(levels, self.factors, strict=True):
            seen, place = self.of_class(level), self.of_place(level)
            edges = None if self.edges is None else F.softplus(self.edges(place) * factor)
            maps = (self.logits(seen), self.centerness(place), self.offsets(place) * factor, self.embedding(place), edges)
            parts.append([None if m is None else m.flatten(2).mT for m in maps])
        logits, centerness, offsets, embedding = (torch.cat([p[i] for p in parts], 1) for i in range(4))  # type: ignore[misc]
        edges = None if self.edges is None else torch.cat([p[4] for p in parts], 1)  # type: ignore[misc]
        return Cells(logits, centerness[..., 0], offsets.unflatten(-1, (-1, 2)), embedding, edges)


def centerness_target(away: Tensor, strides: Tensor) -> Tensor:
    """exp(-2.5 d), d the distance from the reference point in diagonals of a cell. (..., 2) pixels, (...,) pixels -> (...,)."""
    return torch.exp(-2.5 * away.norm(dim=-1) / (math.sqrt(2) * strides))


class Assignment(NamedTuple):
    """Which object a cell is to find: row of the object (L,), int64, -1 for none."""

    owner: Tensor


def assign(cells: Lattice, boxes: Tensor, centres: Tensor) -> Assignment:
    """Give cells their objects: those within 1.5 strides of the reference point, in the box, on the level of the box's range.

    Args:
        cells: L of them.
        boxes: 2D boxes, (N, 4), xyxy pixel edges.
        centres: reference points, (N, 2), pixels.

    Returns:
        of several objects a cell takes the one whose reference point is nearest.

    Source: FCOS, sec. 3.2, with centre sampling; nearest centre first as in FCOS3D.
    """
    if len(boxes) == 0:
        return Assignment(torch.full_like(cells.strides, -1, dtype=torch.long))
    here = cells.centres[:, None]  # (L, 1, 2)
    edges = torch.cat([here + 0.5 - boxes[None, :, :2], boxes[None, :, 2:] - here - 0.5], -1)
    away = here - centres[None]
    reach = edges.amax(-1)
    good = edges.amin(-1) > 0
    good &= away.abs().amax(-1) <= 1.5 * cells.strides[:, None]
    good &= (reach > cells.lows[:, None]) & (reach <= cells.highs[:, None])
    distance = torch.where(good, away.norm(dim=-1), math.inf)
    nearest, owner = distance.min(1)
    return Assignment(torch.where(torch.isfinite(nearest), owner, -1))
