"""A network small enough to learn a few pictures by heart within seconds, in the place of a pretrained one."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from monopose.nets.backbones import Backbone


def groups_of_four(channels: int) -> nn.Module:
    return nn.GroupNorm(4, channels)


class TinyBackbone(Backbone):
    """Five convolutions of stride 2."""

    def __init__(self, channels: Sequence[int], norm: Callable[[int], nn.Module] = groups_of_four, bias: bool = False) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=bias), norm(b), nn.ReLU()) for a, b in pairwise((3, *channels))
        )

    def levels(self):
        return [[stage] for stage in self.stages]

    def forward(self, images, added=()):
        x, features = 2 * images - 1, []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            if level < len(added) and added[level] is not None:
                x = x + added[level]
            features.append(x)
        return features
