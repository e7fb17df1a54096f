"""A one-stage detection network: backbone, top-down neck to stride 4, four small heads."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import backbone

STRIDE = 4  # pixels of the input per cell of every map


class Maps(NamedTuple):
    """What the network says about every cell; h = H / 4, w = W / 4, K classes.

    Attributes:
        heat: logits of "the centre of an object of class k lies here", (B, K, h, w).
        distances: logarithm of the distances from the cell's centre to the left, top, right and bottom edge, in cells, (B, K, 4, h, w).
        semantic: logits of the visible surface: background, then the classes, (B, K + 1, h, w).
        votes: from the cell's centre to the centre of the object it shows, in cells, (B, 2, h, w).
    """

    heat: Tensor
    distances: Tensor
    semantic: Tensor
    votes: Tensor


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


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
        self.backbone = backbone(backbone_name, pretrained)
        widths = list(self.backbone.channels)[1:]
        self.lateral = nn.ModuleList(_conv(c, channels, 1) for c in widths)
        self.smooth = nn.ModuleList(_conv(channels, channels, 3) for _ in widths[:-1])
        self.towers = nn.ModuleDict({name: _conv(channels, channels, 3) for name in ("heat", "distances", "surface")})
        self.heat = nn.Conv2d(channels, classes, 1)
        self.distances = nn.Conv2d(channels, 4 * classes, 1)
        self.semantic = nn.Conv2d(channels, classes + 1, 1)
        self.votes = nn.Conv2d(channels, 2, 1)
        for head in (self.heat, self.distances, self.semantic, self.votes):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        nn.init.constant_(self.heat.bias, -math.log(99))  # 1 % of the cells to start with, as in the focal loss paper
        nn.init.constant_(self.distances.bias, math.log(6))  # objects of 12 cells
        self._frozen_norms = self._freeze(frozen)
        self.to(memory_format=torch.channels_last)  # 1.3 to 1.9 times faster on CPUs

    def _freeze(self, levels: int) -> list[nn.Module]:
        """Stop learning in everything that level `levels` of the backbone depends on; returns its normalisation layers."""
        if levels < 1:
            return []
        parameters = list(self.backbone.parameters())
        self.backbone.eval()
        used = torch.autograd.grad(self.backbone(torch.zeros(1, 3, 64, 64))[levels - 1].sum(), parameters, allow_unused=True)
        self.backbone.train()
        kept = {id(p) for p, gradient in zip(parameters, used, strict=True) if gradient is not None}
        norms = [m for m in self.backbone.modules() if isinstance(m, nn.BatchNorm2d) and id(m.weight) in kept]
        if norms and not any(m.running_mean.any() for m in norms):
            return []
        for p in parameters:
            p.requires_grad_(id(p) not in kept)
        return norms

    def train(self, mode: bool = True) -> "OneStageNet":
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> Maps:
        """(B, 3, H, W), RGB in [0, 1], H and W multiples of 32 -> Maps."""
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))[1:]
        x = self.lateral[-1](features[-1])
        for i in range(len(features) - 2, -1, -1):
            side = self.lateral[i](features[i])
            x = self.smooth[i](side + F.interpolate(x, size=side.shape[-2:], mode="nearest"))
        surface = self.towers["surface"](x)
        distances = self.distances(self.towers["distances"](x)).unflatten(1, (self.classes, 4))
        return Maps(self.heat(self.towers["heat"](x)), distances, self.semantic(surface), 4 * self.votes(surface))
