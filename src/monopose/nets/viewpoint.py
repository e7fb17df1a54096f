"""Networks that turn a crop into a few numbers: the two of the Pix3D viewpoint system, and a pretrained backbone with heads.

Input (B, C, S, S), centred on zero but for `ModernNet`; output (B, outputs), raw: no activation follows the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .backbones import backbone as make_backbone


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution without padding, batch norm, ReLU, maximum of every 2 x 2: side s -> (s - kernel + 1) // 2."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


def _trunk(channels: int, widths: Sequence[int], kernels: Sequence[int], size: int) -> tuple[nn.Sequential, int]:
    """Blocks one after the other, and how many numbers they make of a crop of `size` pixels a side.

    Raises:
        ValueError: the crop is too small to go through; says how large it has to be.
    """
    if len(widths) != len(kernels):
        raise ValueError(f"expected {len(kernels)} widths, one for each convolution, got {len(widths)}: {tuple(widths)}")
    least, side = 1, size
    for kernel in reversed(kernels):
        least = 2 * least + kernel - 1
    if size < least:
        raise ValueError(
            f"this network needs crops of at least {least} pixels a side, got {size}; set input_size={least} or more"
        )
    for kernel in kernels:
        side = (side - kernel + 1) // 2
    ins = [channels, *widths[:-1]]
    return nn.Sequential(*(_block(*layer) for layer in zip(ins, widths, kernels, strict=True))), widths[-1] * side * side


class CombinedNet(nn.Module):
    """All channels stacked, one trunk. At 224 pixels: 8 x 11 x 11 = 968 features, as published.

    Args:
        channels: of the input.
        outputs: numbers to predict; the published heads, three times 128 -> 8, are one layer of 24 here.
        widths: channels after each convolution.
        hidden: features after the fully connected layer.
        size: side of the crops, pixels, at least 58.

    Source: the combined network of the Pix3D viewpoint system, without its ReLU on the logits, under which a head whose
    logits are all negative learns nothing.
    """

    KERNELS = (7, 7, 3, 3)

    def __init__(
        self, channels: int, outputs: int, widths: Sequence[int] = (64, 256, 256, 8), hidden: int = 128, size: int = 224
    ) -> None:
        super().__init__()
        self.trunk, features = _trunk(channels, widths, self.KERNELS, size)
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), nn.ReLU())
        self.heads = nn.Linear(hidden, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, size, size) -> (B, outputs)."""
        return self.heads(self.fc(self.trunk(images)))


class SeparateNet(nn.Module):
    """One trunk for each modality, joined along the features. At 224 pixels: 8 x 24 x 24 = 4608 features per branch.

    Args:
        groups: channels of each modality, in the order of the input's channels: (3, 1, 1, 3).
        outputs: numbers to predict.
        widths: channels after each convolution of a branch.
        hidden: features of each branch after its fully connected layer, which a ReLU follows as in the combined network.
        size: side of the crops, pixels, at least 34.

    Source: the separate network of the Pix3D viewpoint system. Its branches were flattened, concatenated and reshaped, which
    mixes the samples of a batch; here every sample keeps its own features.
    """

    KERNELS = (7, 7, 3)

    def __init__(
        self, groups: Sequence[int], outputs: int, widths: Sequence[int] = (32, 64, 8), hidden: int = 128, size: int = 224
    ) -> None:
        super().__init__()
        self.groups = tuple(groups)
        branches = []
        for channels in groups:
            trunk, features = _trunk(channels, widths, self.KERNELS, size)
            branches.append(nn.Sequential(trunk, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU()))
        self.branches = nn.ModuleList(branches)
        self.heads = nn.Linear(hidden * len(branches), outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(B, sum of groups, size, size) -> (B, outputs)."""
        parts = images.split(self.groups, 1)
        return self.heads(torch.cat([branch(part) for branch, part in zip(self.branches, parts, strict=True)], 1))


class ModernNet(nn.Module):
    """A backbone that sees all channels, its two deepest levels averaged over the crop, and one hidden layer.

    Args:
        channels: of the input, at least 3; the first three are RGB.
        outputs: numbers to predict.
        backbone: see `nets.backbones`.
        pretrained: start from ImageNet weights, as far as they go: those of the further channels start small.
        hidden: features between backbone and outputs.
        dropout: share of the averaged features that are left out in training.
        zoom: enlarge the crop this many times first; small crops keep more of a deep network busy that way.

    Input in [0, 1]: the backbone scales it as it is used to.
    """

    def __init__(
        self, channels: int, outputs: int, backbone: str = "efficientnet_lite0", pretrained: bool = True, hidden: int = 256,
        dropout: float = 0.2, zoom: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = make_backbone(backbone, pretrained)
        widen(self.backbone, channels)
        self.zoom = zoom
        features = sum(self.backbone.channels[-2:])
        self.fc = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, hidden), nn.ReLU())
        self.heads = nn.Linear(hidden, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, S, S) in [0, 1] -> (B, outputs)."""
        if self.zoom > 1:
            images = nn.functional.interpolate(images, scale_factor=self.zoom, mode="bilinear", align_corners=False)
        levels = self.backbone(images)
        return self.heads(self.fc(torch.cat([level.mean((2, 3)) for level in levels[-2:]], 1)))


def widen(net: nn.Module, channels: int, share: float = 0.1) -> None:
    """Let a backbone for RGB take more channels, in place: the kernels of the first convolution grow, those for RGB stay.

    Args:
        net: of `nets.backbones`.
        channels: that it shall take, at least 3; the first three are RGB.
        share: spread of the new weights relative to that of the old ones.

    Raises:
        ValueError: fewer than three channels.
    """
    if channels < 3:
        raise ValueError(f"a backbone for RGB takes at least 3 channels, got {channels}")
    extra = channels - 3
    if not extra:
        return
    stem = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    old = stem.weight.detach()
    new = torch.randn(len(old), extra, *old.shape[2:]) * old.std() * share
    stem.weight = nn.Parameter(torch.cat([old, new.to(old)], 1))
    stem.in_channels = channels
    for name, value in (("mean", 0.5), ("std", 0.25)):  # what a backbone scales its input by, where it does
        scale = getattr(net, name, None)
        if isinstance(scale, Tensor):
            setattr(net, name, torch.cat([scale, scale.new_full((extra, 1, 1), value)]))
