"""A picture from a code and a rotation: a learned volume of features, turned, flattened along the line of sight, decoded.

Image coordinates here are normalised: x right, y down, the edges of the picture at -1 and 1. Volumes are (C, D, H, W) with x
along W, y along H, z along D, and their faces at -1 and 1.

Source: Chen et al., Category Level Object Pose Estimation via Neural Analysis-by-Synthesis (ECCV 2020), sec. 3; the volume
after Nguyen-Phuoc et al., HoloGAN (ICCV 2019). Different here: codes move means and deviations both ways (the original has a
ReLU between), shape and appearance may have codes of their own, an alpha channel, other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..geometry.rotation import full_precision

SIDE = 16  # voxels along each edge of the volume that is turned
CONST = 4  # voxels along each edge of the learned one it grows from
SLOPE = 0.2  # of the leaky ReLUs


class AdaIN(nn.Module):
    """Give every channel of every sample a mean and a deviation that a code says. (B, C, ...) and (B, code) -> (B, C, ...).

    A code of zeros leaves a channel about normalised, so that what was learned for one code is a start for all.
    Source: Huang & Belongie (ICCV 2017), eq. 8.
    """

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.style = nn.Linear(code, 2 * channels)
        nn.init.zeros_(self.style.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        mean, deviation = self.style(code)[(...,) + (None,) * (x.dim() - 2)].chunk(2, 1)
        return F.instance_norm(x, eps=1e-5) * (1 + deviation) + mean


class _Up3d(nn.Module):
    """Twice the side, by a transposed convolution of stride 2: of 4 x 4 x 4 as published, or of 2 x 2 x 2, where every voxel
    makes its own eight: one matrix product, an eighth of the arithmetic, and without the slow path of CPUs for the other. The
    kernel is kept flat: `training.loop.fit` asks every tensor of four or five dimensions to lie as pictures do, which those of
    volumes cannot."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(0.02 * torch.randn(inputs, outputs, kernel**3))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == 4:
            return F.conv_transpose3d(x, self.weight.unflatten(2, (4, 4, 4)), self.bias, stride=2, padding=1)
        d, h, w = x.shape[2:]
        made = self.weight.flatten(1).mT @ x.flatten(2)  # (B, outputs 8, voxels)
        made = made.unflatten(1, (-1, 2, 2, 2)).unflatten(5, (d, h, w)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return made.reshape(len(x), -1, 2 * d, 2 * h, 2 * w) + self.bias[:, None, None, None]


def _small(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    nn.init.normal_(layer.weight, 0, 0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Generator(nn.Module):
    """Codes and rotation -> picture, upright and centred.

    Args:
        shape_code: length of the code that moulds the volume.
        look_code: length of the code that colours its picture.
        volume: channels at 4, 8 and 16 voxels a side; published: 512, 128, 64.
        projection: channels of the flattened volume, 16 x 16; published: 1024.
        decoder: channels at 32, 64, ... pixels; its length says how large the picture is; published: 256, 64.
        outputs: channels of the picture: 3, or 4 with an alpha channel.
        kernel3d: side of the kernels that the volume grows by: 4 as published, or 2.
        detail: a second learned volume, 16 x 16 x 16, is added to the first: what all codes share need not grow from 4 voxels.
    """

    def __init__(
        self, shape_code: int, look_code: int, volume: tuple[int, int, int] = (512, 128, 64), projection: int = 1024,
        decoder: Sequence[int] = (256, 64), outputs: int = 3, kernel3d: int = 4,
        detail: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.const = nn.Parameter(0.02 * torch.randn(volume[0], CONST**3))
        self.up3d = nn.ModuleList([_Up3d(volume[0], volume[1], kernel3d), _Up3d(volume[1], volume[2], kernel3d)])
        self.detail = nn.Parameter(0.02 * torch.randn(volume[2], SIDE**3)) if detail else None
        self.norm3d = nn.ModuleList(AdaIN(channels, shape_code) for channels in volume)
        self.project = _small(nn.Conv2d(volume[2] * SIDE, projection, 1))
        ins = [projection, *decoder[:-1]]
        self.up2d = nn.ModuleList(_small(nn.ConvTranspose2d(*layer, 4, 2, 1)) for layer in zip(ins, decoder, strict=True))
        self.norm2d = nn.ModuleList(AdaIN(channels, look_code) for channels in decoder)
        self.last = _small(nn.Conv2d(decoder[-1], outputs, 3, 1, 1))
        self.side = SIDE * 2 ** len(decoder)

    def volume(self, shape: Tensor) -> Tensor:
        """Features around the object in its own frame. (B, shape_code) -> (B, C, 16, 16, 16)."""
        x = self.const.unflatten(1, (CONST,) * 3).expand(len(shape), -1, -1, -1, -1)
        x = F.leaky_relu(self.norm3d[0](x, shape), SLOPE)
        x = F.leaky_relu(self.norm3d[1](self.up3d[0](x), shape), SLOPE)
        x = self.up3d[1](x)
        if self.detail is not None:
            x = x + self.detail.unflatten(1, (SIDE,) * 3)
        return F.leaky_relu(self.norm3d[2](x, shape), SLOPE)

    def forward(self, shape: Tensor, look: Tensor, cam_from_obj: Tensor) -> Tensor:
        """Pictures before their last squashing.

        Args:
            shape, look: codes, (B, shape_code), (B, look_code).
            cam_from_obj: rotations, (B, 3, 3).

        Returns:
            (B, outputs, side, side); tanh or a sigmoid should follow.
        """
        x = rotate_volume(self.volume(shape), cam_from_obj).flatten(1, 2)
        x = F.leaky_relu(self.project(x), SLOPE)
        for up, norm in zip(self.up2d, self.norm2d, strict=True):
            x = F.leaky_relu(norm(up(x), look), SLOPE)
        return self.last(x)


@full_precision
def rotate_volume(volume: Tensor, b_from_a: Tensor) -> Tensor:
    """Turn volumes about their centre: what lay at p then lies at R p. Trilinear; beyond the faces their voxels go on.

    Args:
        volume: in frame a, (B, C, D, H, W), all sides equal.
        b_from_a: rotations R, (B, 3, 3).

    Returns:
        in frame b, (B, C, D, H, W). Differentiable in both.
    """
    n = volume.shape[-1]
    axis = (torch.arange(n, device=volume.device, dtype=b_from_a.dtype) + 0.5) * (2 / n) - 1  # middles of the voxels
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    places = torch.stack([x, y, z], -1).flatten(0, 2) @ b_from_a  # rows p: (R^T p)^T = p^T R
    grid = places.unflatten(1, (n, n, n)).to(volume.dtype)
    return F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=False)


@full_precision
def warp(images: Tensor, motion: Tensor) -> Tensor:
    """Turn, scale and shift pictures: what lay at q then lies at scale Rot(in-plane) q + (tx, ty). Outside is 0.

    Args:
        images: (B, C, S, S).
        motion: (B, 4): in-plane rotation, radians, positive clockwise; scale; tx, ty, half sides of the picture.

    Returns:
        (B, C, S, S), sampled bilinearly. Differentiable in both.
    """
    inplane, scale, tx, ty = motion.unbind(1)
    c, s = inplane.cos() / scale, inplane.sin() / scale
    theta = torch.stack([c, s, -(c * tx + s * ty), -s, c, s * tx - c * ty], -1).unflatten(1, (2, 3))
    grid = F.affine_grid(theta, [len(images), 1, *images.shape[2:]], align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)


class Encoder(nn.Module):
    """Picture -> raw numbers of the codes' distribution, and features for further heads.

    Args:
        inputs: channels of the picture.
        side: of the picture, pixels: 4 times 2 to the number of widths.
        widths: channels after each convolution of stride 2; published: 64, 128, 256, 512.
        hidden: features before the outputs; published: 128.
        outputs: numbers that describe the distribution of the codes.
        extra: further numbers, e.g. of a pose, from a layer of their own that no spectral norm holds back.
        pooled: the last layers also see the picture itself in 4 x 4 pixels: the instance norms hide how bright it is.

    Source: the encoder of the original; spectral norm on all that leads to the codes.
    """

    def __init__(
        self, inputs: int, side: int, widths: Sequence[int] = (64, 128, 256, 512), hidden: int = 128, outputs: int = 32,
        extra: int = 0, pooled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        least = 4 * 2 ** len(widths)
        if side != least:
            fitting = max(round(math.log2(side / 4)), 1)
            raise ValueError(
                f"{len(widths)} convolutions bring {least} pixels a side down to 4, got pictures of {side}; "
                f"give {fitting} widths" + (f" and pictures of {4 * 2**fitting}" if 4 * 2**fitting != side else "")
            )
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip([inputs, *widths[:-1]], widths, strict=True)):
            layers += [spectral_norm(nn.Conv2d(a, b, 3, 2, 1)), nn.LeakyReLU(SLOPE)]
            layers += [nn.InstanceNorm2d(b)] if i else []
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.pooled = pooled
        features = 16 * (widths[-1] + inputs * pooled)
        self.codes = nn.Sequential(
            spectral_norm(nn.Linear(features, hidden)), nn.LeakyReLU(SLOPE), spectral_norm(nn.Linear(hidden, outputs))
        )
        self.extra = (
            nn.Sequential(nn.Linear(features, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, extra)) if extra else None
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, side, side), about centred on zero -> (B, outputs), (B, extra)."""
        features = self.trunk(images)
        if self.pooled:
            features = torch.cat([features, F.adaptive_avg_pool2d(images, 4).flatten(1)], 1)
        return self.codes(features), features[:, :0] if self.extra is None else self.extra(features)
