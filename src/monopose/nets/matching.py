"""What two pictures of the same thing have in common: their features, and how well each place in one fits each in the other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import backbone
from .unet import conv_norm


class FeatureNet(nn.Module):
    """Backbone and a short decoder to stride 4, the same for rendered and observed pictures.

    Args:
        name, pretrained, frozen: see `nets.backbones.backbone`.
        width: channels of the features.
    """

    def __init__(self, name: str, width: int, pretrained: bool, frozen: int) -> None:
        super().__init__()
        self.backbone = backbone(name, pretrained, frozen)
        _, s4, s8, s16, _ = self.backbone.channels
        self.lateral = nn.ModuleList([nn.Conv2d(c, width, 1) for c in (s4, s8, s16)])
        self.smooth = nn.ModuleList([conv_norm(width, width) for _ in range(2)])
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), RGB in [0, 1] -> (B, width, H/4, W/4)."""
        _, s4, s8, s16, *_ = self.backbone(images)
        x = self.lateral[2](s16)
        for skip, lateral, smooth in ((s8, self.lateral[1], self.smooth[0]), (s4, self.lateral[0], self.smooth[1])):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = smooth(x + lateral(skip))
        return self.out(x)  # type: ignore[no-any-return]


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
    with torch.autocast(a.device.type, enabled=False):
        volume = torch.einsum("bcn,bcm->bnm", a.flatten(2), b.flatten(2)) / channels**0.5
    pyramid = [volume.reshape(size * h * w, 1, h, w)]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
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


def sample(maps: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values at pixels, centres at integers, 0 outside. (B, C, H, W), (B, h, w, 2) -> (B, C, h, w)."""
    height, width = maps.shape[-2:]
    grid = (pixels + 0.5) / pixels.new_tensor([width, height]) * 2 - 1
    return F.grid_sample(maps, grid.to(maps.dtype), padding_mode="zeros", align_corners=False)
