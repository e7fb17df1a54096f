"""Detection networks: a light one-stage net of our own; `two_stage` has torchvision's Mask R-CNN."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets.backbones import backbone

STRIDE = 4  # pixels of the input per cell of every map


class Maps(NamedTuple):
    """What the network says about every cell; h = H / 4, w = W / 4, K classes.

    Attributes:
        heat: logits of "the centre of an object of class k lies here", (B, K, h, w).
        distances: logarithm of the distances from the cell's centre to the left, top, right and bottom edge of the box, in
            cells, (B, K, 4, h, w).
        semantic: logits of the visible surface: background, then the classes, (B, K + 1, h, w).
        votes: from the cell's centre to the centre of the object it shows, in cells, (B, 2, h, w).
    """

    heat: Tensor
    distances: Tensor
    semantic: Tensor
    votes: Tensor


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers)


def _start(head: nn.Conv2d, bias: float, first: float | None = None) -> None:
    """Set the biases of a head, the first one to another value if given."""
    assert head.bias is not None
    nn.init.constant_(head.bias, bias)
    if first is not None:
        nn.init.constant_(head.bias[:1], first)


class OneStageNet(nn.Module):
    """Centres, boxes, visible surfaces and centre votes of all objects in one pass.

    Args:
        classes: number of object classes K.
        backbone_name: see `nets.backbones.backbone`.
        channels: width of the neck and the heads.
        pretrained: start the backbone from ImageNet weights.
        frozen: how many of the backbone's five levels stay as they are, batch statistics included; ignored when their
            weights are random, which are nothing to keep.

    Source: Zhou et al., Objects as Points (heat); Tian et al., FCOS (edge distances, log scale);
    Lin et al., Feature Pyramid Networks (neck).
    """

    def __init__(self, classes: int, backbone_name: str, channels: int, pretrained: bool, frozen: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = backbone(backbone_name, pretrained, frozen)
        widths = list(self.backbone.channels)[1:]
        self.lateral = nn.ModuleList(_conv(c, channels, 1) for c in widths)
        self.smooth = nn.ModuleList(_conv(channels, channels, 3) for _ in widths[:-1])
        self.towers = nn.ModuleDict({name: _conv(channels, channels, 3) for name in ("heat", "distances", "surface")})
        self.heat = nn.Conv2d(channels, classes, 1)
        self.distances = nn.Conv2d(channels, 4 * classes, 1)
        self.semantic = nn.Conv2d(channels, classes + 1, 1)
        self.votes = nn.Conv2d(channels, 2, 1)
        for head in (self.heat, self.distances):
            nn.init.normal_(head.weight, std=0.01)
        _start(self.heat, -math.log(99))  # 1 % of the cells to start with, as in the focal loss paper
        _start(self.semantic, 0.0, first=math.log(9 * classes))  # and 10 % of the surface
        _start(self.distances, math.log(6))  # objects of 12 cells
        self.to(memory_format=torch.channels_last)  # 1.3 to 1.9 times faster on CPUs

    def forward(self, images: Tensor) -> Maps:
        """(B, 3, H, W), RGB in [0, 1], H and W multiples of 4 -> Maps."""
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))[1:]
        x = self.lateral[-1](features[-1])
        for i in range(len(features) - 2, -1, -1):
            side = self.lateral[i](features[i])
            up = F.interpolate(x, scale_factor=2.0, mode="nearest")[..., : side.shape[-2], : side.shape[-1]]
            x = self.smooth[i](side + up)
        surface = self.towers["surface"](x)
        distances = self.distances(self.towers["distances"](x)).unflatten(1, (self.classes, 4))
        return Maps(self.heat(self.towers["heat"](x)), distances, self.semantic(surface), 4 * self.votes(surface))


class Pyramid(NamedTuple):
    """What the first stage of `TwoStageNet` hands to the second: normalised images and feature maps by level."""

    images: Tensor
    maps: dict[str, Tensor]
