"""Networks that turn a crop into a few numbers: the two of the Pix3D viewpoint system, and a pretrained backbone with heads.

Input (B, C, S, S), centred on zero but for `ModernNet`; output (B, outputs), raw: no activation follows the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nets.backbones import backbone as make_backbone


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
    """A pretrained backbone looks at the colours, a small network of its own at everything else; both keep where things are.

    The network for RGB; with more than that, `ApartNet` learns more.

    Args:
        channels: of the input, at least 3; the first three are RGB. Where there are no others, the small network sees RGB too.
        outputs: numbers to predict.
        backbone: see `nets.backbones`.
        pretrained: start from ImageNet weights, where they can be had.
        hidden: features between the crop and the outputs.
        dropout: share of the features that are left out in training.

    Features of both are averaged over a grid of 4 x 4, not over the whole crop: a viewpoint is about what lies where.
    Input in [0, 1]: the backbone scales it as it is used to.
    """

    GRID = 4
    FROZEN = 2  # levels of a pretrained backbone that stay as ImageNet made them

    def __init__(
        self, channels: int, outputs: int, backbone: str = "efficientnet_lite0", pretrained: bool = True, hidden: int = 256,
        dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__()
        if channels < 3:
            raise ValueError(f"the modern network takes RGB and whatever follows, at least 3 channels, got {channels}")
        self.backbone = make_backbone(backbone, pretrained, self.FROZEN if pretrained else 0)
        deep = self.backbone.channels[2:]  # strides 8, 16, 32
        self.squeeze = nn.ModuleList([_conv(c, 48, 1) for c in deep])
        self.first = 3 if channels > 3 else 0
        self.shape = _small(channels - self.first)
        self.mix = _conv(128 + 48 * len(deep), 64, 1)
        self.fc = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(64 * self.GRID**2, hidden), nn.ReLU(), nn.Dropout(dropout)
        )
        self.heads = nn.Linear(hidden, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, S, S) in [0, 1] -> (B, outputs)."""
        levels = self.backbone(images[:, :3])[2:]
        parts = [self.shape((images[:, self.first :] - 0.5) / 0.25), *(f(x) for f, x in zip(self.squeeze, levels, strict=True))]
        return self.heads(self.fc(self.mix(torch.cat([_grid(x) for x in parts], 1))))


class ApartNet(nn.Module):
    """Two branches: a pretrained backbone that looks at the colours, and of a small network that looks at all channels.

    Nothing joins them but the mean of what they say, and each learns by its own loss. Joined before the outputs, as in
    `ModernNet`, the colours explain the training pictures first, and the network learns less of shapes from the mask or the
    normals than the small network learns alone.

    Args:
        channels: of the input, more than 3; the first three are RGB.
        outputs, backbone, pretrained, hidden, dropout: see `ModernNet`.

    Input in [0, 1].
    """

    COLOURS = 0.4  # weight of the backbone's answer in the mean

    def __init__(
        self, channels: int, outputs: int, backbone: str = "efficientnet_lite0", pretrained: bool = True, hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if channels <= 3:
            raise ValueError(f"two branches need RGB and something else, more than 3 channels, got {channels}")
        self.backbone = make_backbone(backbone, pretrained, ModernNet.FROZEN if pretrained else 0)
        deep = self.backbone.channels[2:]
        self.squeeze = nn.ModuleList([_conv(c, 48, 1) for c in deep])
        self.small = _small(channels)
        self.mix = nn.ModuleList([_conv(48 * len(deep), 64, 1), _conv(128, 64, 1)])
        self.heads = nn.ModuleList([_reader(64 * ModernNet.GRID**2, outputs, hidden, dropout) for _ in range(2)])

    def branch_outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, S, S) in [0, 1] -> what the backbone says and what the small network says, (B, outputs) each."""
        levels = self.backbone(images[:, :3])[2:]
        colours = torch.cat([_grid(f(x)) for f, x in zip(self.squeeze, levels, strict=True)], 1)
        seen = (colours, _grid(self.small((images - 0.5) / 0.25)))
        outputs = [head(mix(x)) for head, mix, x in zip(self.heads, self.mix, seen, strict=True)]
        return outputs[0], outputs[1]

    def mean(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        """One answer from two. (B, outputs) each -> (B, outputs)."""
        return torch.lerp(outputs[1], outputs[0], self.COLOURS)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, S, S) in [0, 1] -> (B, outputs)."""
        return self.mean(self.branch_outputs(images))


def _small(channels: int) -> nn.Sequential:
    """A small network: side s -> 128 features at s / 8."""
    return nn.Sequential(
        _conv(channels, 32, 5, 2), _conv(32, 64, 3, 2), _conv(64, 64, 3), _conv(64, 128, 3, 2), _conv(128, 128, 3)
    )  # fmt: skip


def _grid(x: Tensor) -> Tensor:
    """Means over a grid of 4 x 4."""
    return nn.functional.adaptive_avg_pool2d(x, ModernNet.GRID)


def _reader(inputs: int, outputs: int, hidden: int, dropout: float) -> nn.Sequential:
    """Features of a grid -> outputs."""
    return nn.Sequential(
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
