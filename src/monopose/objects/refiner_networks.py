"""What two pictures of the same thing have in common: their features, and how well each place in one fits each in the other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets.backbones import backbone
from ..nets.unet import conv_norm


class FeatureNet(nn.Module):
    """Features of stride 4, the same network for rendered and observed pictures: a U-Net without its last stage.

    Its parts are named as those of `nets.unet.UNet`, so that it can start from a network that learned object coordinates: such
    features fit each other across the two pictures before this one has learned anything.

    Args:
        name, pretrained, frozen: see `nets.backbones.backbone`.
        classes: objects that it is told apart; index -1 stands for any other.
        widths: decoder channels at strides 16, 8, 4.
        features: channels of the result.
    """

    def __init__(
        self, name: str, classes: int, widths: tuple[int, int, int], features: int, pretrained: bool, frozen: int
    ) -> None:
        super().__init__()
        self.backbone = backbone(name, pretrained, frozen)
        _, s4, s8, s16, s32 = self.backbone.channels
        self.lateral = conv_norm(s32, widths[0], 1)
        self.which = nn.Embedding(classes, widths[0])
        nn.init.normal_(self.which.weight, std=0.5)
        before = (widths[0], *widths[:2])
        self.stages = nn.ModuleList([conv_norm(a + skip, b) for a, skip, b in zip(before, (s16, s8, s4), widths, strict=True)])
        self.norm = nn.BatchNorm2d(widths[2], affine=False)  # without a common part all places would be alike
        self.out = nn.Conv2d(widths[2], features, 1, bias=False)
        nn.init.orthogonal_(self.out.weight.flatten(1))

    def forward(self, images: Tensor, index: Tensor) -> Tensor:
        """(B, 3, H, W), RGB in [0, 1], (B,) object indices -> (B, features, H/4, W/4), of mean square 1 at every place."""
        _, *skips, x = self.backbone(images)
        told = torch.where((index < 0)[:, None], self.which.weight.mean(0), self.which(index.clamp_min(0)))
        x = self.lateral(x) + told[..., None, None]
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = stage(torch.cat([x, skip], 1))
        x = self.out(self.norm(x)).float()
        return F.normalize(x, dim=1) * x.shape[1] ** 0.5


def correlation(a: Tensor, b: Tensor, levels: int) -> list[Tensor]:
    """How well every place of a fits every place of b, and averages of that over squares of b.

    Args:
        a: features (B, C, h, w).
        b: features (B, C, h, w).
        levels: of the pyramid.

    Returns:
        `levels` tensors (B h w, 1, h / 2^l, w / 2^l): scalar products divided by sqrt(C). Not in half precision, even under
        autocast: `sample` reads at places of the maps' own precision, and bfloat16 would round those to a sixteenth of a cell.

    Source: Teed and Deng, RAFT (ECCV 2020), sec. 3.2.
    """
    size, channels, h, w = a.shape
    pyramid = []
    with torch.autocast(a.device.type, enabled=False):
        rows = a.flatten(2).mT / channels**0.5
        for level in range(levels):  # averages of products are products with averages
            b = F.avg_pool2d(b, 2) if level else b
            pyramid.append((rows @ b.flatten(2)).reshape(size * h * w, 1, *b.shape[-2:]))
    return pyramid


def look_up(pyramid: list[Tensor], centres: Tensor, radius: int) -> Tensor:
    """The correlations around where each place is thought to be.

    Args:
        pyramid: of `correlation`.
        centres: (B, h, w, 2), columns and rows of b at its finest level; pixel centres at integers.
        radius: on every level, so coarse levels see far.

    Returns:
        (B, levels (2 radius + 1)^2, h, w); 0 outside b. Source: RAFT, sec. 3.2.
    """
    size, h, w, _ = centres.shape
    reach = torch.arange(-radius, radius + 1, device=centres.device, dtype=centres.dtype)
    window = torch.stack(torch.meshgrid(reach, reach, indexing="xy"), -1)
    found = []
    for level, volume in enumerate(pyramid):
        at = (centres.reshape(-1, 1, 1, 2) + 0.5) / 2**level - 0.5 + window
        found.append(sample(volume, at).reshape(size, h, w, -1))
    return torch.cat(found, -1).movedim(-1, 1)


def expected(looked: Tensor, levels: int, radius: int, sharpness: Tensor) -> Tensor:
    """Where the look-up of each level says that a place went: the mean of its window, weighted by a softmax.

    Args:
        looked: of `look_up`, (B, levels (2 radius + 1)^2, h, w).
        levels, radius: as there.
        sharpness: of the softmax, ().

    Returns:
        (B, levels, 2, h, w), finest cells, relative to the centre of the look-up.
    """
    reach = torch.arange(-radius, radius + 1, device=looked.device, dtype=looked.dtype)
    window = torch.stack(torch.meshgrid(reach, reach, indexing="xy"), 0).flatten(1)  # (2, windows)
    share = (looked.unflatten(1, (levels, -1)) * sharpness).softmax(2)
    size = 2.0 ** torch.arange(levels, device=looked.device, dtype=looked.dtype)
    mean = (share[:, :, None] * window[:, :, None, None]).sum(3)  # no matrix product, which autocast would round
    return mean * size[:, None, None, None]


def sample(maps: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values at pixels, centres at integers, 0 outside. (B, C, H, W), (B, h, w, 2) -> (B, C, h, w)."""
    height, width = maps.shape[-2:]
    grid = (pixels + 0.5) / pixels.new_tensor([width, height]) * 2 - 1
    return F.grid_sample(maps, grid.to(maps.dtype), padding_mode="zeros", align_corners=False)
