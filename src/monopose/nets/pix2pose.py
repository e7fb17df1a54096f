"""The Pix2Pose generator and discriminator, layer by layer. Source: Park et al., Pix2Pose, sec. 3.1 and its code."""

import torch
from torch import Tensor, nn


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(0.3))


class _ParallelDown(nn.Module):
    """Two parallel 5x5 convolutions of stride 2; both go deeper, only the second feeds the skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 5, 2, 2), _norm(outputs))
        self.second = nn.Sequential(nn.Conv2d(inputs, outputs, 5, 2, 2), _norm(outputs))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.second(x)
        return torch.cat([self.first(x), skip], 1), skip


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, output_padding=1)


class Pix2PoseGenerator(nn.Module):
    """Encoder of parallel convolutions, dense bottleneck, decoder with skips of half the channels.

    Args:
        classes: number of objects; the published network has one. More get their own output channels.
    """

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes
        self.down1 = _ParallelDown(3, 64)
        self.down2 = _ParallelDown(128, 128)
        self.down3 = _ParallelDown(256, 128)
        self.down4 = _ParallelDown(256, 256)
        self.dense = nn.Sequential(nn.Linear(8 * 8 * 512, 256), nn.Linear(256, 8 * 8 * 256))
        self.up1 = nn.Sequential(_up(256, 256), _norm(256))
        self.mix1 = nn.Sequential(nn.Conv2d(256 + 128, 256, 5, padding=2), _norm(256))
        self.up2 = nn.Sequential(_up(256, 128), _norm(128))
        self.mix2 = nn.Sequential(nn.Conv2d(128 + 128, 256, 5, padding=2), _norm(256))
        self.up3 = nn.Sequential(_up(256, 64), _norm(64))
        self.mix3 = nn.Sequential(nn.Conv2d(64 + 64, 128, 5, padding=2), _norm(128))
        self.head = _up(128, 4 * classes)

    def forward(self, images: Tensor, index: Tensor) -> Tensor:
        """(B, 3, 128, 128) RGB in [0, 1], (B,) -> (B, 4, 128, 128): coordinates before tanh, error before sigmoid."""
        x, skip1 = self.down1((images * 255 - 128) / 128)
        x, skip2 = self.down2(x)
        x, skip3 = self.down3(x)
        x, _ = self.down4(x)
        x = self.dense(x.flatten(1)).unflatten(1, (256, 8, 8))
        x = self.mix1(torch.cat([self.up1(x), skip3], 1))
        x = self.mix2(torch.cat([self.up2(x), skip2], 1))
        x = self.mix3(torch.cat([self.up3(x), skip1], 1))
        outputs = self.head(x).unflatten(1, (self.classes, 4))
        return outputs[torch.arange(len(index), device=index.device), index]


class Discriminator(nn.Module):
    """Is a coordinate image rendered (1) or predicted (0)? (B, 3, 128, 128) in [-1, 1] -> logits (B,)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for i in range(7):
            outputs = 64 * min(8, 2**i)
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(inputs, 1)

    def forward(self, coordinates: Tensor) -> Tensor:
        return self.dense(self.layers(coordinates).flatten(1)).squeeze(1)
