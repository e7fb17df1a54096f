"""Decoders on any backbone, with outputs that know which object they draw: a U-Net, and the deconvolutions of CDPN."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import backbone


def conv_norm(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU; same size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def enlarged(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear interpolation to `size` (h, w), edges on edges. (B, C, H, W) -> (B, C, h, w)."""
    x = F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
    if x.requires_grad:
        # the gradient of a concatenation is a slice, for which that of the interpolation takes six times as long
        x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return x


class ClassAwareHead(nn.Module):
    """A 1x1 convolution with one set of weights per object: (B, C, H, W), (B,) -> (B, outputs, H, W)."""

    def __init__(self, classes: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(classes, outputs))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        rows = torch.baddbmm(self.bias[index][:, None], x.flatten(2).mT, self.weight[index].mT)  # channels last, as x
        return rows.mT.unflatten(-1, x.shape[-2:])


class UNet(nn.Module):
    """Backbone of strides 2 to 32, decoder up to stride 2, conditioned at the bottleneck on the object to look for.

    Args:
        name: backbone, see `nets.backbones`.
        classes: number of objects.
        outputs: channels per object.
        widths: decoder channels at strides 16, 8, 4, 2.
        pretrained: start the backbone from ImageNet weights.
        frozen: levels of the backbone that keep them.
    """

    def __init__(
        self, name: str, classes: int, outputs: int, widths: tuple[int, int, int, int], pretrained: bool, frozen: int
    ) -> None:
        super().__init__()
        self.backbone = backbone(name, pretrained, frozen)
        skips = list(self.backbone.channels)
        deepest = skips.pop()
        self.lateral = conv_norm(deepest, widths[0], 1)
        self.which = nn.Embedding(classes, widths[0])
        nn.init.normal_(self.which.weight, std=0.5)
        stages, inputs = [], widths[0]
        for width, skip in zip(widths, reversed(skips), strict=True):
            stages.append(conv_norm(inputs + skip, width))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.head = ClassAwareHead(classes, widths[-1], outputs)

    def features(self, images: Tensor, index: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], (B,) object indices -> (B, widths[-1], H/2, W/2)."""
        *skips, x = self.backbone(images)
        x = self.lateral(x) + self.which(index)[..., None, None]
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = enlarged(x, skip.shape[-2:])
            x = stage(torch.cat([x, skip], 1))
        return x

    def forward(self, images: Tensor, index: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], (B,) object indices -> (B, outputs, H/2, W/2)."""
        return self.head(self.features(images, index), index)


class DeconvNet(nn.Module):
    """Backbone of stride 32 and three transposed convolutions up to stride 4, conditioned on the object to look for.

    Args:
        name, classes, outputs, pretrained, frozen: as in `UNet`.
        width: channels of the head (published: 256).

    Source: Li et al., CDPN (ICCV 2019), with the head of Xiao et al., Simple Baselines; several objects share one network here.
    """

    def __init__(self, name: str, classes: int, outputs: int, width: int, pretrained: bool, frozen: int) -> None:
        super().__init__()
        self.backbone = backbone(name, pretrained, frozen)
        inputs = self.backbone.channels[-1]
        self.which = nn.Embedding(classes, inputs)
        nn.init.zeros_(self.which.weight)
        stages: list[nn.Module] = []
        for _ in range(3):
            up = nn.ConvTranspose2d(inputs, width, 3, 2, 1, 1, bias=False)
            stages += [up, nn.BatchNorm2d(width), nn.ReLU(inplace=True), conv_norm(width, width), conv_norm(width, width)]
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.head = ClassAwareHead(classes, width, outputs)
        nn.init.normal_(self.head.weight, std=1e-3)

    def features(self, images: Tensor, index: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], (B,) object indices -> (B, width, H/4, W/4)."""
        return self.stages(self.backbone(images)[-1] + self.which(index)[..., None, None])  # type: ignore[no-any-return]

    def forward(self, images: Tensor, index: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1], (B,) object indices -> (B, outputs, H/4, W/4)."""
        return self.head(self.features(images, index), index)  # type: ignore[no-any-return]
