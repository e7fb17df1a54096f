"""What fixes the network and its losses, and how sizes and qualities are coded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..datasets.road import ATTRIBUTES, CLASSES, SIZES

Z_MIN = 0.1  # metres: least depth of a projected point, and the plane that boxes are cut at
MARGIN = 0.125  # projections stay within this share of the image's width from it
MOMENTUM = 0.01  # of the running mean of the weight scale
SIGMA_MOMENTUM = 0.1  # of those of the mixtures' precisions
SMALLEST = 4.0  # pixels of the network's input: boxes whose longer side is less are not learned from

Size = tuple[float, float, float]


@dataclass(frozen=True)
class Config:
    """Everything that fixes the network and its losses; `small` for CPUs, the others of `PRESETS` as published."""

    classes: tuple[str, ...] = CLASSES  # in the order of the labels
    size_means: tuple[Size, ...] = ()  # length, height, width per class, metres; (): of `SIZES`
    size_stds: tuple[Size, ...] = ()  # their deviations, metres
    attributes: tuple[str, ...] = ATTRIBUTES  # in the order of the attribute labels
    layer: Literal["distribution", "reprojection", "direct"] = "distribution"  # what the pose comes from
    poses: bool = True  # False: only finding objects is learned, and their sizes, for networks of any layer to start from
    height: int = 672  # of the network's input, pixels, a multiple of 32
    width: int = 1600  # pixels, a multiple of 32
    backbone: str = "resnet101"  # of nets.backbones
    pretrained: bool = True  # start the backbone from ImageNet weights where they can be had
    frozen_levels: int = 2  # backbone levels (strides 2, 4, ...) that keep those weights
    fixed_norms: bool = True  # batch normalisation keeps the statistics of those weights
    deformable: bool = True  # deformable convolutions at strides 16 and 32; ResNets only
    channels: int = 256  # of pyramid, head, embedding, key and value
    dense_stride: int = 4  # pixels per cell of the map that objects sample: 4 or 8
    last_stride: int = 128  # of the pyramid's coarsest level, pixels
    dense_widths: tuple[int, ...] = (256, 128, 128)  # convolutions of every level before they are joined
    ranges: tuple[float, ...] = (
        48.0,
        96.0,
        192.0,
        384.0,
    )  # pixels from centre to edge of box, at most, per level from 8
    class_offsets: bool = False  # one reference point per class, and the class is added to the embedding
    stretch: bool = False  # the object says how far its points reach on it, one factor for all; not in the original
    heads: int = 8  # of the sampler
    points: int = 32  # of each head
    spread: float = 3.0  # how far the outermost points start from the reference point, strides of the object's level
    hidden: int = 1024  # channels of the sampler's feed-forward layer
    point_hidden: int = 256  # of the point head's
    object_hidden: int = 256  # of the object head's
    dropout: float = 0.1  # in the sampler's feed-forward layer
    initial_scale: float = 0.0  # log of the sum of all weights, 1 / pixels, before training
    samples: int = 512  # poses drawn per object
    huber: float = 0.5  # threshold of the robust kernel relative to weights and spread of the points
    far: float = 10.0  # poses so many times as far away as the furthest minimum have no density
    objects: int = 48  # drawn per image in training
    min_visibility: float = 0.1  # share in [0, 1]; objects seen less are not learned from, where the batch knows it
    even_objects: bool = False  # drawn by centreness, and every one counts alike however many cells see it; as published
    size_gradient: bool = False  # the Monte Carlo loss teaches sizes too, its regularisation no scales; as published
    auxiliary: Literal["sigma", "v1", "v2"] = "sigma"  # deviations of the reprojection: one for all, in metres; or as published
    roi: int = 28  # side of the grid on which the auxiliary losses look at an object, points
    lidar_points: int = 64  # surface points of an object that the coordinate loss looks at, at most
    depth_modes: int = 0  # of the auxiliary distribution of depth at LiDAR points; 0: none
    focal: float = 1260.0  # pixels; depths are predicted for a camera of this focal length
    reference_scale: float = 0.2  # 1 / pixels, before the smooth L1 of reference points
    box_weight: float = 0.0  # of the generalised IoU of 2D boxes
    pose_weight: float = 0.15  # of the pose loss of the layer
    translation_weight: float = 0.05  # of the derivative regularisation, 1 / metres
    rotation_weight: float = 0.05  # of the derivative regularisation
    size_weight: float = 1.0
    score_weight: float = 1.0
    velocity_weight: float = 0.05  # seconds / metre
    attribute_weight: float = 0.5
    projection_weight: float = 0.5  # of the auxiliary reprojection mixture
    coordinate_weight: float = 0.0  # of the coordinates of surface points, where the batch has some
    coordinate_mixture: bool = False  # as a mixture over heads; False: of their mean
    depth_weight: float = 0.0  # of the depth mixture
    lr: float = 1e-4  # peak learning rate
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"box3d.Config.classes must name every class once, got {self.classes}")
        if self.height % 32 or self.width % 32 or min(self.size) < 32:
            raise ValueError(f"height and width must be multiples of 32 pixels, got {self.height} and {self.width}")
        if self.layer not in ("distribution", "reprojection", "direct"):
            raise ValueError(f"layer must be 'distribution', 'reprojection' or 'direct', got {self.layer!r}")
        if self.auxiliary not in ("sigma", "v1", "v2"):
            raise ValueError(f"auxiliary must be 'sigma', 'v1' or 'v2', got {self.auxiliary!r}")
        if len(self.ranges) + 1 != len(self.head_strides):
            raise ValueError(
                f"{len(self.head_strides)} levels, strides {self.head_strides}, need {len(self.head_strides) - 1} ranges, "
                f"got {self.ranges}"
            )
        unknown = [c for c in self.classes if c.lower() not in SIZES]
        for name, given in (("size_means", self.size_means), ("size_stds", self.size_stds)):
            if (given or unknown) and len(given) != len(self.classes):
                raise ValueError(
                    f"{name} needs length, height and width in metres of each of {', '.join(self.classes)}, got {given}; "
                    f"sizes are known of {', '.join(SIZES)}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input, pixels."""
        return self.height, self.width

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the pyramid's levels, pixels."""
        return tuple(2**k for k in range(int(math.log2(self.dense_stride)), int(math.log2(self.last_stride)) + 1))

    @property
    def head_strides(self) -> tuple[int, ...]:
        """Of the levels on which objects are found, pixels."""
        return tuple(s for s in self.strides if s >= 8)


def basic(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """As published (v1): ResNet-101, 1600 x 672, 8 heads of 32 points, Monte Carlo loss and auxiliary reprojection."""
    own: dict[str, Any] = {
        "far": 1000.0, "min_visibility": 0.4, "even_objects": True, "size_gradient": True, "auxiliary": "v1",
    }  # fmt: skip
    return Config(tuple(classes), **(own | changes))


def no_reproj(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """As published (v1): without the auxiliary reprojection."""
    return basic(classes, **{"projection_weight": 0.0, **changes})


def coord_regr(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """As published (v1): and coordinates are regressed where the LiDAR sees the object."""
    return basic(classes, **{"coordinate_weight": 0.25, **changes})


def v1b_220312(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """As published (v1b, first): `coord_regr` with 8 heads of 16 points at stride 8."""
    return coord_regr(classes, **{"dense_stride": 8, "points": 16, "roi": 14, **changes})


def v1b(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """As published (v1b, second, 220411): and reference points per class, 128 samples, a pose loss of 0.5."""
    return v1b_220312(classes, **{"class_offsets": True, "samples": 128, "pose_weight": 0.5, **changes})


def v2(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """As published (v2): mixtures of coordinates and depths in place of regression, a loss of 2D boxes."""
    own: dict[str, Any] = {
        "box_weight": 0.5, "coordinate_weight": 2.5, "coordinate_mixture": True, "depth_weight": 1.5, "depth_modes": 4,
        "auxiliary": "v2",
    }  # fmt: skip
    return v1b(classes, **(own | changes))


def small(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """For CPUs: EfficientNet-Lite0, 512 x 160, 64 channels, 4 heads of 16 points."""
    own: dict[str, Any] = {
        "height": 160, "width": 512, "backbone": "efficientnet_lite0", "frozen_levels": 3, "deformable": False,
        "channels": 64, "dense_stride": 8, "last_stride": 32, "dense_widths": (64, 32), "ranges": (32.0, 64.0),
        "class_offsets": True, "heads": 4, "points": 16, "hidden": 128, "point_hidden": 64, "object_hidden": 128,
        "dropout": 0.0, "initial_scale": 1.0, "samples": 128, "objects": 12, "roi": 7, "lidar_points": 32, "focal": 403.2,
        "pose_weight": 0.5, "lr": 1e-3,
    }  # fmt: skip
    return Config(tuple(classes), **(own | changes))


PRESETS: dict[str, Callable[..., Config]] = {
    "small": small, "basic": basic, "no_reproj": no_reproj, "coord_regr": coord_regr, "coord_regr_trainval": coord_regr,
    "v1b_220312": v1b_220312, "v1b": v1b, "v2": v2, "v2_trainval": v2,
}  # fmt: skip


def encode_sizes(lhw: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Length, height, width in metres -> code of about unit spread: (log x - log mean) / (std / mean). All (..., 3)."""
    return (lhw / means).log() * means / stds


def decode_sizes(code: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Inverse of `encode_sizes`; codes beyond 5 deviations are clamped. (..., 3) -> (..., 3), metres."""
    return (code.clamp(-5, 5) * stds / means).exp() * means


def score_target(error: Tensor) -> Tensor:
    """How good a box is whose centre is off by so many metres, seen from above: 1 up to 0.35 m, 0 from 5.7 m. (...,) -> (...,).

    Source: EPro-PnP-Det: clamp((2.5 - log2 error) / 4, 0, 1).
    """
    return ((2.5 - error.clamp_min(1e-6).log2()) / 4).clamp(0, 1)
