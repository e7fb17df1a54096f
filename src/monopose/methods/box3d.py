"""Boxes in 3D from one picture of a road: where, how large, which way, how fast, and how sure.

A head finds objects by the middle of their volume. Each object then looks at points of its own choice and says, for every
one, which point of the object's box it is and how much that counts. PnP with four degrees of freedom turns this into a density
over positions and yaws (`pnp.sample_posterior`), and the loss asks that the true pose be likely.

`Config.layer` puts two simpler heads into the same network, to compare with: "reprojection" makes every point responsible for
itself, without a distribution of poses; "direct" regresses depth and yaw without PnP.

Source: Chen et al., EPro-PnP (CVPR 2022), sec. 4.2, EPro-PnP-Det, and its second version.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

from .. import pnp
from ..geometry import boxes as box_ops
from ..geometry import boxes3d, se3
from ..geometry import camera as camera_ops
from ..geometry.road_users import ATTRIBUTES, ATTRIBUTES_OF, CLASSES, SIZES
from ..nets import deformable, fcos
from ..types import Frame

Z_MIN = 0.1  # metres: least depth of a projected point, and the plane that boxes are cut at
MARGIN = 0.125  # projections stay within this share of the image's width from it
MOMENTUM = 0.01  # of the running mean of the weight scale
SIGMA_MOMENTUM = 0.1  # of those of the mixtures' precisions
SMALLEST = 4.0  # pixels of the network's input: boxes whose longer side is less are not learned from

Size = tuple[float, float, float]


@dataclass(frozen=True)
class Config:
    """Everything that fixes the network and its losses; `small` for CPUs, `basic`, `coord_regr` and `v2` as published."""

    classes: tuple[str, ...] = CLASSES  # in the order of the labels
    size_means: tuple[Size, ...] = ()  # length, height, width per class, metres; (): of `SIZES`
    size_stds: tuple[Size, ...] = ()  # their deviations, metres
    attributes: tuple[str, ...] = ATTRIBUTES  # in the order of the attribute labels
    layer: Literal["distribution", "reprojection", "direct"] = "distribution"  # what the pose comes from
    height: int = 672  # of the network's input, pixels, a multiple of 32
    width: int = 1600  # pixels, a multiple of 32
    backbone: str = "resnet101"  # of nets.backbones, or resnet101
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
    heads: int = 8  # of the sampler
    points: int = 32  # of each head
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
    roi: int = 28  # side of the grid on which the auxiliary losses look at an object, points
    lidar_points: int = 64  # surface points of an object that the coordinate loss looks at, at most
    depth_modes: int = 0  # of the auxiliary distribution of depth
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
    return Config(tuple(classes), **changes)


def coord_regr(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """As published (v1): and coordinates are regressed where the LiDAR sees the object."""
    return basic(classes, **{"coordinate_weight": 0.25, **changes})


def v2(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """As published (v2): 8 heads of 16 points at stride 8, mixtures of coordinates and depths, reference points per class."""
    own: dict[str, Any] = {
        "dense_stride": 8, "points": 16, "samples": 128, "class_offsets": True, "roi": 14, "box_weight": 0.5,
        "pose_weight": 0.5, "coordinate_weight": 2.5, "coordinate_mixture": True, "depth_weight": 1.5, "depth_modes": 4,
    }  # fmt: skip
    return Config(tuple(classes), **(own | changes))


def small(classes: Sequence[str] = CLASSES, **changes: Any) -> Config:
    """For CPUs: EfficientNet-Lite0, 512 x 160, 64 channels, 4 heads of 16 points."""
    own: dict[str, Any] = {
        "height": 160, "width": 512, "backbone": "efficientnet_lite0", "frozen_levels": 3, "deformable": False,
        "channels": 64, "dense_stride": 8, "last_stride": 32, "dense_widths": (64, 32), "ranges": (32.0, 64.0),
        "class_offsets": True, "heads": 4, "points": 16, "hidden": 128, "point_hidden": 64, "object_hidden": 128,
        "dropout": 0.0, "initial_scale": 1.0, "samples": 128, "objects": 12, "roi": 7, "lidar_points": 32, "focal": 403.2,
        "reference_scale": 0.5, "pose_weight": 0.5, "lr": 1e-3,
    }  # fmt: skip
    return Config(tuple(classes), **(own | changes))


PRESETS: dict[str, Callable[..., Config]] = {"small": small, "basic": basic, "coord_regr": coord_regr, "v2": v2}


# --------------------------------------------------------------------------------------------------------------- targets


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


def thickness(cam_from_obj: Tensor, lhw: Tensor, K: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays through pixels enter and leave boxes.

    Args:
        cam_from_obj: (N, 4, 4), metres.
        lhw: (N, 3), metres.
        K: (3, 3) or (N, 3, 3), pixels.
        pixels: (N, P, 2).

    Returns:
        depth z of entry and exit, (N, P), metres, at least `Z_MIN`; exit <= entry where a ray misses.
    """
    rays = camera_ops.unproject(pixels, torch.ones_like(pixels[..., 0]), K)
    R = cam_from_obj[:, :3, :3]
    origin, direction = -(R.mT @ cam_from_obj[:, :3, 3:]).mT, rays @ R
    direction = torch.where(direction.abs() < 1e-9, torch.full_like(direction, 1e-9), direction)
    half = lhw[:, None] / 2
    one, other = (-half - origin) / direction, (half - origin) / direction
    return torch.minimum(one, other).amax(-1).clamp_min(Z_MIN), torch.maximum(one, other).amin(-1).clamp_min(Z_MIN)


def grid_in(boxes: Tensor, side: int) -> Tensor:
    """Pixels in the middles of side x side equal parts of boxes. (N, 4), xyxy pixel edges -> (N, side^2, 2)."""
    steps = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([u, v], -1).flatten(0, 1)
    return boxes[:, None, :2] + grid * (boxes[:, None, 2:] - boxes[:, None, :2]) - 0.5


def volume_centres(cam_from_obj: Tensor, lhw: Tensor, K: Tensor, boxes: Tensor, side: int = 32) -> Tensor:
    """The middle of what a picture shows of boxes: the mean of pixels, weighted by how much of the box lies behind each.

    Args:
        cam_from_obj: (N, 4, 4), metres.
        lhw: (N, 3), metres.
        K: (3, 3), pixels.
        boxes: what the picture shows of each, (N, 4), xyxy pixel edges, of `boxes3d.project` with the picture's size.
        side: of the grid of rays in each box; the error is about a hundredth of a box of 4 rays, less of more.

    Returns:
        (N, 2), pixels, centres at integers; the middle of a 2D box that no ray hits.

    Source: EPro-PnP-Det's reference points, which are rastered; here the rays follow the box, however small.
    """
    pixels = grid_in(boxes, side)
    enter, leave = thickness(cam_from_obj, lhw, K, pixels)
    weight = (leave - enter).clamp_min(0)[..., None]
    total = weight.sum(1)
    mean = (weight * pixels).sum(1) / total.clamp_min(1e-9)
    return torch.where(total > 1e-6, mean, (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5)


class Truth(NamedTuple):
    """The objects of one image that are learned from, N rows.

    labels (N,); pose (N, 4, 4), level, metres; lhw (N, 3), metres; velocity (N, 3), metres per second, NaN where unknown;
    attribute (N,), -1 where unknown; boxes (N, 4), what the image shows, xyxy pixel edges; centres (N, 2), pixels.
    """

    labels: Tensor
    pose: Tensor
    lhw: Tensor
    velocity: Tensor
    attribute: Tensor
    boxes: Tensor
    centres: Tensor


def truths(model: Model, batch: Mapping[str, Any]) -> list[Truth]:
    """What the images of a batch show; boxes behind the camera, beside the image or of less than a few pixels are left out.

    Raises:
        ValueError: a label outside the classes, or a size that is not positive.
    """
    config, found = model.config, []
    for i, K in enumerate(batch["K"]):
        K = K.float()
        labels, pose, lhw = batch["labels"][i], batch["cam_from_obj"][i], batch["sizes"][i]
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(config.classes)):
            raise ValueError(
                f"labels must be 0 to {len(config.classes) - 1}, of {', '.join(config.classes)}; got {labels.tolist()}"
            )
        if not bool((lhw > 0).all()):
            raise ValueError(f"sizes must be length, height, width in metres, all > 0, got {lhw.tolist()}")
        n = len(labels)
        pose = boxes3d.from_yaw(pose[:, :3, 3], boxes3d.yaw_of(pose)).to(K)
        boxes = boxes3d.project(pose, lhw.to(K), K, config.size, Z_MIN) if n else K.new_zeros(0, 4)
        shown = (boxes[:, 2:] - boxes[:, :2]).amax(-1) >= SMALLEST
        shown &= pose[:, 2, 3] > Z_MIN
        if "visibility" in batch:
            shown &= batch["visibility"][i] >= config.min_visibility
        velocity = batch["velocities"][i] if "velocities" in batch else K.new_full((n, 3), math.nan)
        attribute = batch["attributes"][i] if "attributes" in batch else torch.full_like(labels, -1)
        rows = [labels, pose, lhw.to(K), velocity.to(K), attribute, boxes]
        labels, pose, lhw, velocity, attribute, boxes = (v[shown] for v in rows)
        attribute = torch.where(model.allowed[labels].sum(-1) > 1, attribute, len(config.attributes))  # the class has none
        found.append(Truth(labels, pose, lhw, velocity, attribute, boxes, volume_centres(pose, lhw, K, boxes)))
    return found


# --------------------------------------------------------------------------------------------------------------- network


class Output(NamedTuple):
    """What the network says about whole images: cells of all levels, what objects sample, and where the cells are."""

    cells: fcos.Cells
    dense: deformable.Dense
    lattice: fcos.Lattice


class Look(NamedTuple):
    """What R objects of each of B images look like to the network; N = heads x points.

    reference (B, R, 2), pixels; strides (B, R), pixels; seen, the samples; answers, of the object; tokens and places, of the
    points, for those who ask the point head about other pixels; noc (B, R, N, 3), in units of the size; pixels (B, R, N, 2);
    weights (B, R, N, 2), 1 / pixels; lhw (B, R, 3), metres. The layer "direct" has no points: N = 0.
    """

    reference: Tensor
    strides: Tensor
    seen: deformable.Samples
    answers: deformable.ObjectAnswers
    tokens: Tensor
    places: Tensor
    noc: Tensor
    pixels: Tensor
    weights: Tensor
    lhw: Tensor


class Model(nn.Module):
    """Config -> network."""

    means: Tensor
    stds: Tensor
    allowed: Tensor  # (classes, attributes + 1), bool: which a class may have; the last is none
    norm: Tensor  # (), running mean of the weight scale; 0 before the first step
    precisions: Tensor  # (3,), running means of 1 / sigma of the mixtures of projections, coordinates, depths

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.encoder = fcos.Encoder(c.backbone, c.pretrained, c.frozen_levels, c.deformable, c.fixed_norms)
        self.pyramid = fcos.Pyramid(self.encoder.channels, c.channels, c.strides)
        self.head = fcos.CentreHead(len(c.classes), c.channels, len(c.head_strides), c.class_offsets, c.box_weight > 0)
        self.dense = deformable.DenseFeatures(c.channels, c.dense_widths, c.channels, len(c.strides))
        self.class_embedding = nn.Embedding(len(c.classes), c.channels) if c.class_offsets else None
        self.sampler = deformable.DeformableSampler(c.channels, c.heads, c.points, c.hidden, c.dropout)
        direct = c.layer == "direct"
        self.point_head = None if direct else deformable.PointHead(c.channels // c.heads, c.heads, c.point_hidden)
        scale = None if direct else c.initial_scale
        self.object_head = deformable.ObjectHead(c.channels, c.object_hidden, len(c.attributes) + 1, scale, c.depth_modes)
        if self.uses_projection:
            self.projection_sigma = nn.Parameter(torch.full((2,), math.log(0.2)))
        if c.coordinate_mixture and not direct:
            self.coordinate_sigma = nn.Parameter(torch.full((3,), math.log(0.2)))
        if c.depth_modes:
            self.depth_sigma = nn.Parameter(torch.full((1,), math.log(0.3)))
        table = [SIZES.get(name.lower(), ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))) for name in c.classes]
        self.register_buffer("means", torch.tensor(c.size_means or [m for m, _ in table]), persistent=False)
        self.register_buffer("stds", torch.tensor(c.size_stds or [s for _, s in table]), persistent=False)
        allowed = torch.zeros(len(c.classes), len(c.attributes) + 1, dtype=torch.bool)
        allowed[:, -1] = True
        for k, name in enumerate(c.classes):
            own = ATTRIBUTES_OF.get(name.lower())  # other classes may have any
            for a, attribute in enumerate(c.attributes):
                allowed[k, a] = own is None or attribute in [ATTRIBUTES[i] for i in own]
        self.register_buffer("allowed", allowed, persistent=False)
        self.register_buffer("norm", torch.zeros(()))
        self.register_buffer("precisions", torch.zeros(3))

    @property
    def uses_projection(self) -> bool:
        return self.config.projection_weight > 0 and self.config.layer != "direct"

    def forward(self, images: Tensor) -> Output:
        """(B, 3, height, width), RGB in [0, 1], as `fit` makes them -> `Output`."""
        c = self.config
        if tuple(images.shape[-2:]) != c.size:
            raise ValueError(
                f"this network takes images of {c.width}x{c.height} (width x height), got "
                f"{images.shape[-1]}x{images.shape[-2]}; box3d.fit(image, K, config.size) makes one, with its K"
            )
        levels = self.pyramid(self.encoder(images))
        found = levels[len(c.strides) - len(c.head_strides) :]
        shapes = [(level.shape[-2], level.shape[-1]) for level in found]
        cells = self.head(found)
        where = fcos.lattice(shapes, c.head_strides, c.ranges, images)
        return Output(fcos.Cells(*(None if v is None else v.float() for v in cells)), self.dense(levels, c.dense_stride), where)  # type: ignore[arg-type]

    def look(self, output: Output, cell: Tensor, labels: Tensor) -> Look:
        """Look closer at the objects found at cells (B, R) of classes (B, R)."""
        cells = output.cells
        strides = output.lattice.strides[cell]
        reference = output.lattice.centres[cell] + _offsets(cells, cell, labels) * strides[..., None]
        reference = reference.detach()
        embedding = cells.embedding.take_along_dim(cell[..., None], 1)
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(labels)
        seen = self.sampler(embedding, reference, strides, output.dense)
        answers = self.object_head(seen.objects)
        lhw = decode_sizes(answers.size_code, self.means[labels], self.stds[labels])
        if self.point_head is None:
            none = reference[:, :, None][:, :, :0]
            return Look(reference, strides, seen, answers, none, none, lhw[:, :, None][:, :, :0], none, none, lhw)
        tokens = self.point_head.tokens(seen.features, seen.query)
        pixels = seen.pixels.flatten(2, 3)
        places = _places(pixels, reference, strides)
        said = self.point_head(tokens, places).float().flatten(2, 3)
        inside = seen.inside.flatten(2)[..., None]
        share = said[..., 3:].softmax(2) * inside
        weights = share * answers.log_scale.exp()[:, :, None]
        return Look(reference, strides, seen, answers, tokens, places, said[..., :3], pixels, weights, lhw)

    def at(self, output: Output, look: Look, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What each head says that other pixels (B, R, P, 2) are: noc (B, R, H, P, 3), attention logits (B, R, H, P)."""
        assert self.point_head is not None
        every = pixels[:, :, None].expand(-1, -1, self.config.heads, -1, -1)
        features, attention = self.sampler.at(look.seen.query, every, output.dense)
        tokens, asked = self.point_head.tokens(features, look.seen.query), every.flatten(2, 3)
        places = _places(asked, look.reference, look.strides)
        return self.point_head(tokens, places, look.tokens, look.places).float()[..., :3], attention


def _places(pixels: Tensor, reference: Tensor, strides: Tensor) -> Tensor:
    """Pixels (B, R, N, 2) relative to the object's reference point, in strides of its level."""
    return (pixels - reference[:, :, None]) / strides[:, :, None, None]


def _offsets(cells: fcos.Cells, cell: Tensor, labels: Tensor) -> Tensor:
    """From the cells (B, R) to the reference points of objects of these classes, (B, R, 2), strides."""
    offsets = cells.offsets.take_along_dim(cell[..., None, None], 1)  # (B, R, K or 1, 2)
    if offsets.shape[2] > 1:
        return offsets.take_along_dim(labels[..., None, None], 2)[:, :, 0]
    return offsets[:, :, 0]


# ---------------------------------------------------------------------------------------------------------------- losses


def loss(model: Model, output: Output, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The losses of a batch of whole images.

    Args:
        model: the network.
        output: its answer to batch["image"].
        batch: "image" (B, 3, height, width); and with one entry per image "K" (3, 3) pixels, "labels" (n,), "cam_from_obj"
            (n, 4, 4) metres and "sizes" (n, 3) metres in the convention of `geometry.boxes3d`. Where they are known also
            "velocities" (n, 3) metres per second in the camera's axes, NaN for unknown; "attributes" (n,), -1 for unknown;
            "visibility" (n,), share in [0, 1]; "lidar" (m, 3), surface points in the camera's frame, metres. n, m may be 0.

    Returns:
        scalar tensors by name; their sum is the loss. Those that an image without objects has nothing for are 0.

    Raises:
        ValueError: a label outside the classes, or a size that is not positive.
    """
    with torch.autocast(batch["image"].device.type, enabled=False):
        found = truths(model, batch)
        owners = torch.stack([fcos.assign(output.lattice, t.boxes, t.centres).owner for t in found])
        losses = _cell_losses(model, output, found, owners)
        return losses | _object_losses(model, output, batch, found, owners)


def _cell_losses(model: Model, output: Output, found: list[Truth], owners: Tensor) -> dict[str, Tensor]:
    config, cells, where = model.config, output.cells, output.lattice
    b, cell = (owners >= 0).nonzero().unbind(-1)
    row = owners[b, cell]
    first = torch.tensor([0, *(len(t.labels) for t in found)], device=row.device).cumsum(0)[:-1]
    labels, centres, boxes = (torch.cat([t[i] for t in found])[first[b] + row] for i in (0, 6, 5))
    target = torch.zeros_like(cells.logits)
    target[b, cell, labels] = 1
    count = max(len(b), 1)
    here, strides = where.centres[cell], where.strides[cell]
    away = centres - here
    offsets = cells.offsets[b, cell]
    offsets = offsets[torch.arange(len(b), device=b.device), labels] if offsets.shape[1] > 1 else offsets[:, 0]
    miss = (offsets * strides[:, None] - away) * config.reference_scale
    sure = F.binary_cross_entropy_with_logits(cells.centerness[b, cell], fcos.centerness_target(away, strides), reduction="sum")
    losses = {
        "class": sigmoid_focal_loss(cells.logits, target, alpha=0.25, gamma=2.0, reduction="sum") / count,
        "reference": F.smooth_l1_loss(miss, torch.zeros_like(miss), beta=1.0, reduction="sum") / count,
        "centerness": sure / count,
    }
    if cells.edges is not None:
        edges = cells.edges[b, cell] * strides[:, None]
        middle = here + 0.5
        predicted = torch.cat([middle - edges[:, :2], middle + edges[:, 2:]], -1)
        losses["boxes"] = config.box_weight * generalized_box_iou_loss(predicted, boxes, reduction="sum") / count
    return losses


class _Drawn(NamedTuple):
    """The objects that are looked at closer: cells and owners (B, R), and which count, (B, R), bool."""

    cell: Tensor
    owner: Tensor
    valid: Tensor


@torch.no_grad()
def _draw(model: Model, cells: fcos.Cells, owners: Tensor) -> _Drawn:
    """Cells with objects, half of them evenly and half by how sure the network is of them; at least one row per image."""
    sure = cells.logits.sigmoid().amax(-1) * cells.centerness.sigmoid()
    drawn = []
    for own, certain in zip(owners, sure, strict=True):
        there = (own >= 0).nonzero()[:, 0]
        certain = certain[there]
        p = 0.5 / max(len(there), 1) + 0.5 * certain / certain.sum().clamp_min(1e-9)
        n = min(len(there), model.config.objects)
        drawn.append(there[torch.multinomial(p, n)] if n else there)
    cell = nn.utils.rnn.pad_sequence(drawn, batch_first=True)
    if cell.shape[1] == 0:
        cell = cell.new_zeros(len(drawn), 1)
    count = torch.tensor([len(d) for d in drawn], device=cell.device)
    valid = torch.arange(cell.shape[1], device=cell.device) < count[:, None]
    return _Drawn(cell, owners.gather(1, cell), valid)


class _Objects(NamedTuple):
    """The truth about the objects drawn, (B, R, ...), as in `Truth`; K (B, R, 3, 3)."""

    labels: Tensor
    pose: Tensor
    lhw: Tensor
    velocity: Tensor
    attribute: Tensor
    boxes: Tensor
    K: Tensor


def _of_drawn(found: list[Truth], drawn: _Drawn, K: Tensor) -> _Objects:
    """Rows of the truth, with a box ten metres ahead where nothing was drawn."""
    nowhere = boxes3d.from_yaw(K.new_tensor([[0.0, 0.0, 10.0]]), K.new_zeros(1))
    nobody = torch.zeros(1, dtype=torch.long, device=K.device)
    unknown, one = K.new_full((1, 3), math.nan), K.new_ones(1, 3)
    empty = (nobody, nowhere, one, unknown, nobody - 1, K.new_tensor([[0.0, 0.0, 32.0, 32.0]]))
    index = torch.where(drawn.valid, drawn.owner + 1, 0)

    def of(i: int) -> Tensor:
        every = (torch.cat([empty[i], t[i].to(empty[i])]) for t in found)
        return torch.stack([rows[chosen] for rows, chosen in zip(every, index, strict=True)])

    return _Objects(of(0), of(1), of(2), of(3), of(4), of(5), K[:, None].expand(-1, drawn.cell.shape[1], -1, -1))


def _object_losses(
    model: Model, output: Output, batch: Mapping[str, Any], found: list[Truth], owners: Tensor
) -> dict[str, Tensor]:
    config = model.config
    drawn = _draw(model, output.cells, owners)
    K = torch.stack(list(batch["K"])).to(output.cells.logits)
    true = _of_drawn(found, drawn, K)
    look = model.look(output, drawn.cell, true.labels)
    share = drawn.valid / drawn.valid.sum().clamp_min(1)  # (B, R), what an object counts

    def mean(each: Tensor) -> Tensor:
        return (share * each).sum()

    losses, pose = _pose_losses(model, look, true, drawn.valid)
    answers = look.answers
    means, stds = model.means[true.labels], model.stds[true.labels]
    code = F.smooth_l1_loss(answers.size_code, encode_sizes(true.lhw, means, stds), reduction="none").mean(-1)
    off = (pose[..., (0, 2), 3] - true.pose[..., (0, 2), 3]).norm(dim=-1)
    sure = F.binary_cross_entropy_with_logits(answers.score, score_target(off), reduction="none")
    known = torch.isfinite(true.velocity).all(-1)
    velocity = _to_ray(true.velocity[..., (0, 2)].nan_to_num(0.0), look.reference, true.K)
    speed = F.smooth_l1_loss(answers.velocity, velocity, reduction="none").sum(-1)
    attributes = answers.attributes.masked_fill(~model.allowed[true.labels], -1e4)
    kind = F.cross_entropy(attributes.flatten(0, 1), true.attribute.flatten(), ignore_index=-1, reduction="none")
    losses |= {
        "size": config.size_weight * mean(code),
        "score": config.score_weight * mean(sure),
        "velocity": config.velocity_weight * mean(speed * known),
        "attribute": config.attribute_weight * mean(kind.view_as(share)),
    }
    if model.uses_projection:
        losses["projection"] = config.projection_weight * _projection_loss(model, output, look, true, share)
    if config.coordinate_weight > 0 and model.point_head is not None:
        lidar = batch.get("lidar")
        losses["coordinates"] = config.coordinate_weight * _coordinate_loss(model, output, look, true, drawn.valid, lidar)
    if config.depth_modes:
        depth = _decode_depth(answers.depth[..., 0], true.K[..., 1, 1][..., None], config.focal)
        miss = (depth - true.pose[..., 2, 3:])[..., None]
        nll = mixture_nll(miss, answers.depth[..., 1].log_softmax(-1), model.depth_sigma, 0.3)
        losses["depth"] = config.depth_weight * mean(nll) / _precision(model, 2, model.depth_sigma)
    return losses


def _pose_losses(model: Model, look: Look, true: _Objects, valid: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of the layer, and the poses that it finds, (B, R, 4, 4), without gradient."""
    config = model.config
    found = true.pose.clone()
    if config.layer == "direct":
        losses, poses = _direct_losses(config, look, true, valid)
        return losses, poses
    rows = valid.nonzero().unbind(-1)
    if len(rows[0]) == 0:
        nothing = 0 * (look.noc.sum() + look.weights.sum())
        return {"pose": nothing}, found
    with torch.no_grad():
        scale = look.answers.log_scale[rows].exp().mean()
        if model.training:
            model.norm.copy_(torch.where(model.norm > 0, torch.lerp(model.norm, scale, MOMENTUM), scale))
        norm = model.norm if float(model.norm) > 0 else scale
    points3d = (look.noc * look.lhw.detach()[:, :, None])[rows]
    points2d, weights, K, truth = look.pixels[rows], look.weights[rows], true.K[rows], true.pose[rows]
    bounds = _bounds(config.size, K)
    robust = pnp.AdaptiveHuber(config.huber)
    if config.layer == "reprojection":
        solved = pnp.solve(
            points3d.detach(), points2d.detach(), K, weights.detach(), dof=4, robust=robust, z_min=Z_MIN, bounds=bounds
        )
        found[rows] = solved.cam_from_obj
        nll = reprojection_nll(points3d, points2d, weights, K, truth, bounds)
        return {"pose": config.pose_weight * nll.mean()}, found
    posterior = pnp.sample_posterior(
        points3d, points2d, K, weights, init=truth, dof=4, samples=config.samples, robust=robust, z_min=Z_MIN, bounds=bounds,
        far=config.far,
    )  # fmt: skip
    found[rows] = posterior.mode.to(found)
    losses = {"pose": config.pose_weight * pnp.monte_carlo_loss(posterior, truth).mean() / norm}
    if config.translation_weight > 0 or config.rotation_weight > 0:
        problems = posterior.prepared.problems
        step = pnp.one_step(problems, posterior.mode.to(problems.K), dof=4)
        t, r = pnp.derivative_loss(step, truth.to(step), 1.0)
        nothing = torch.zeros_like(t)
        losses["translation"] = config.translation_weight * torch.where(posterior.converged, t, nothing).mean()
        losses["rotation"] = config.rotation_weight * torch.where(posterior.converged, r, nothing).mean()
    return losses, found


def _bounds(size: tuple[int, int], like: Tensor) -> Tensor:
    """Where projections are clamped to, (4,), pixels: an image of `size` (h, w) and a margin."""
    margin = MARGIN * size[1] + 0.5
    return like.new_tensor([-margin, -margin, size[1] - 1 + margin, size[0] - 1 + margin])


def reprojection_nll(points3d: Tensor, points2d: Tensor, weights: Tensor, K: Tensor, truth: Tensor, bounds: Tensor) -> Tensor:
    """Minus the log-likelihood that every point gives to its own projection under the true pose; no distribution of poses.

    A weight is one over a deviation in pixels: Gaussian with linear tails from three deviations. Where a point is sampled gets
    no gradient, or all points would meet where reprojecting is easiest.

    Args:
        points3d: (R, N, 3), metres.
        points2d: (R, N, 2), pixels.
        weights: (R, N, 2), 1 / pixels; 0 for points that do not count.
        K: (R, 3, 3), pixels.
        truth: (R, 4, 4), metres.
        bounds: (4,), of projections, pixels.

    Returns:
        (R,), mean over the points that count.
    """
    pixels = camera_ops.project(se3.transform(truth, points3d), K, Z_MIN)
    pixels = torch.minimum(torch.maximum(pixels, bounds[:2]), bounds[2:])
    used = (weights > 0).all(-1)
    error = (weights * (pixels - points2d.detach())).square().sum(-1)
    length = error.clamp_min(1e-12).sqrt()
    rho = torch.where(length > 3, 6 * length - 9, error)
    each = rho / 2 - torch.where(used[..., None], weights, 1.0).clamp_min(1e-9).log().sum(-1)
    return (each * used).sum(-1) / used.sum(-1).clamp_min(1)


def _direct(config: Config, look: Look, K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the layer "direct": the centre's pixel (B, R, 2), depth (B, R), metres, sin and cos of the observation angle."""
    said = look.answers.direct
    pixel = look.reference + said[..., :2] * look.strides[..., None]
    depth = 20 * said[..., 2].clamp(-5, 3).exp() * K[..., 1, 1] / config.focal
    return pixel, depth, said[..., 3:]


def _direct_pose(pixel: Tensor, depth: Tensor, turn: Tensor, K: Tensor) -> Tensor:
    centre = camera_ops.unproject(pixel[..., None, :], depth[..., None], K)[..., 0, :]
    return boxes3d.from_yaw(centre, boxes3d.yaw_from_alpha(torch.atan2(turn[..., 0], turn[..., 1]), centre))


def _direct_losses(config: Config, look: Look, true: _Objects, valid: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    pixel, depth, turn = _direct(config, look, true.K)
    centre = true.pose[..., :3, 3]
    share = valid / valid.sum().clamp_min(1)
    target = camera_ops.project(centre[..., None, :], true.K, Z_MIN)[..., 0, :]
    miss = (pixel - target) * config.reference_scale
    place = F.smooth_l1_loss(miss, torch.zeros_like(miss), beta=1.0, reduction="none").sum(-1)
    away = F.smooth_l1_loss(depth.log(), centre[..., 2].clamp_min(Z_MIN).log(), beta=0.1, reduction="none")
    alpha = boxes3d.alpha_from_yaw(boxes3d.yaw_of(true.pose), centre)
    angle = F.smooth_l1_loss(turn, torch.stack([alpha.sin(), alpha.cos()], -1), reduction="none").sum(-1)
    losses = {name: (share * v).sum() for name, v in (("centre", place), ("distance", away), ("yaw", angle))}
    return losses, _direct_pose(pixel, depth, turn, true.K).detach()


def mixture_nll(error: Tensor, log_share: Tensor, log_sigma: Tensor, delta: float) -> Tensor:
    """Minus the log-likelihood of a mixture of Gaussians with linear tails, one component per head.

    Args:
        error: of every component, (..., M, d).
        log_share: log of the components' weights, (..., M).
        log_sigma: log of the deviations, (d,).
        delta: length, in deviations, beyond which the tail is linear.

    Returns:
        (...,). Source: EPro-PnP-Det v2: -logsumexp(-H(|e / sigma|) - sum log sigma + log share).
    """
    square = (error * (-log_sigma).exp()).square().sum(-1)
    length = square.clamp_min(1e-12).sqrt()
    huber = torch.where(length > delta, delta * (length - delta / 2), square / 2)
    return -(log_share - huber - log_sigma.sum()).logsumexp(-1)


def _precision(model: Model, which: int, log_sigma: Tensor) -> Tensor:
    """The running mean of 1 / sigma that a mixture's loss is divided by."""
    with torch.no_grad():
        now = (-log_sigma).exp().mean()
        if model.training:
            old = model.precisions[which]
            model.precisions[which] = torch.where(old > 0, torch.lerp(old, now, SIGMA_MOMENTUM), now)
        return torch.where(model.precisions[which] > 0, model.precisions[which], now).clone()


def _projection_loss(model: Model, output: Output, look: Look, true: _Objects, share: Tensor) -> Tensor:
    """Every pixel of an object asks all heads what it is: one of them should put it where the pixel is. Metres at its depth."""
    side = model.config.roi
    pixels = grid_in(true.boxes.flatten(0, 1), side)
    enter, leave = thickness(true.pose.flatten(0, 1), true.lhw.flatten(0, 1), true.K.flatten(0, 1), pixels)
    hit = (leave > enter).unflatten(0, share.shape)
    pixels = pixels.unflatten(0, share.shape)
    noc, attention = model.at(output, look, pixels)
    points = noc * true.lhw[:, :, None, None]
    there = camera_ops.project(se3.transform(true.pose[:, :, None], points), true.K[:, :, None], Z_MIN)
    bounds = _bounds(model.config.size, there)
    there = torch.minimum(torch.maximum(there, bounds[:2]), bounds[2:])
    per_metre = true.K[..., 1, 1] / true.pose[..., 2, 3].clamp_min(Z_MIN)
    miss = (there - pixels[:, :, None]) / per_metre[:, :, None, None, None]  # (B, R, H, P, 2)
    nll = mixture_nll(miss.transpose(2, 3), attention.log_softmax(2).transpose(2, 3), model.projection_sigma, 2.0)
    each = (nll * hit).sum(-1) / hit.sum(-1).clamp_min(1)
    return (share * each).sum() / _precision(model, 0, model.projection_sigma)


def _coordinate_loss(
    model: Model, output: Output, look: Look, true: _Objects, valid: Tensor, lidar: Sequence[Tensor] | None
) -> Tensor:
    """Surface points say which point of the box their pixel shows."""
    config = model.config
    local, pixels, chosen = _points_inside(true, valid, lidar, config.lidar_points)
    noc, attention = model.at(output, look, pixels)
    count = chosen.sum().clamp_min(1)
    log_share = attention.log_softmax(2)
    if config.coordinate_mixture:
        miss = noc * true.lhw[:, :, None, None] - local[:, :, None]
        nll = mixture_nll(miss.transpose(2, 3), log_share.transpose(2, 3), model.coordinate_sigma, 2.0)
        return (nll * chosen).sum() / count / _precision(model, 1, model.coordinate_sigma)
    mean = (log_share.exp()[..., None] * noc).sum(2)
    each = F.smooth_l1_loss(mean, local / true.lhw[:, :, None], beta=0.05, reduction="none").sum(-1)
    return (each * chosen).sum() / count


@torch.no_grad()
def _points_inside(true: _Objects, valid: Tensor, lidar: Sequence[Tensor] | None, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Surface points in the boxes, at random: in the object's frame (B, R, P, 3), their pixels (B, R, P, 2), which count."""
    B, R = valid.shape
    local, chosen = true.lhw.new_zeros(B, R, most, 3), torch.zeros(B, R, most, dtype=torch.bool, device=valid.device)
    for i in range(B if lidar is not None else 0):
        assert lidar is not None
        points = lidar[i].to(local)
        if len(points) == 0:
            continue
        own = se3.transform(se3.inverse(true.pose[i]), points.expand(R, -1, -1))
        inside = (own.abs() <= true.lhw[i, :, None] / 2 + 0.05).all(-1) & valid[i, :, None]
        n = min(most, len(points))
        key, index = torch.where(inside, torch.rand_like(own[..., 0]), -1.0).topk(n, 1)
        local[i, :, :n], chosen[i, :, :n] = own.take_along_dim(index[..., None], 1), key >= 0
    pixels = camera_ops.project(se3.transform(true.pose, local), true.K, Z_MIN)
    return local, pixels, chosen


def _decode_depth(place: Tensor, f: Tensor, focal: float) -> Tensor:
    """Metres of the depth head's answers. Source: EPro-PnP-Det v2: (15 p + 15) f / 1260."""
    return (15 * place + 15) * f / focal


def _to_ray(velocity: Tensor, pixel: Tensor, K: Tensor) -> Tensor:
    """Velocities (..., 2) along the camera's x and z -> across and along the ray through a pixel, which is what one sees."""
    angle = torch.atan2(pixel[..., 0] - K[..., 0, 2], K[..., 0, 0])
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * velocity[..., 0] - s * velocity[..., 1], s * velocity[..., 0] + c * velocity[..., 1]], -1)


def _from_ray(velocity: Tensor, pixel: Tensor, K: Tensor) -> Tensor:
    """Inverse of `_to_ray`."""
    angle = torch.atan2(pixel[..., 0] - K[..., 0, 2], K[..., 0, 0])
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * velocity[..., 0] + s * velocity[..., 1], c * velocity[..., 1] - s * velocity[..., 0]], -1)


# --------------------------------------------------------------------------------------------------------------- predict


class Fitted(NamedTuple):
    """A photo as the network takes it.

    image (3, height, width), with K (3, 3) for its pixels; photo pixel = (pixel + 0.5) / scale - 0.5 + (0, top), scale (2,).
    """

    image: Tensor
    K: Tensor
    scale: Tensor
    top: int


def fit(image: Tensor, K: Tensor, size: tuple[int, int]) -> Fitted:
    """Bring a photo to the network's size: as wide, what is too high cut off at the top, what is missing grey at the bottom.

    Args:
        image: (3, H, W), RGB in [0, 1].
        K: (3, 3), pixels.
        size: (height, width) of the result, pixels.

    Source: EPro-PnP-Det, which cuts 228 rows of sky off nuScenes' 900.
    """
    H, W = image.shape[-2:]
    top = max(0, H - round(size[0] * W / size[1]))
    content = (min(size[0], max(1, round((H - top) * size[1] / W))), size[1])
    shown = image[:, top:]
    if tuple(shown.shape[-2:]) != content:
        shown = F.interpolate(shown[None], content, mode="bilinear", antialias=True, align_corners=False)[0]
    box = K.new_tensor([0.0, top, W, H])
    scale = K.new_tensor([content[1] / W, content[0] / (H - top)])
    shown = F.pad(shown, (0, 0, 0, size[0] - content[0]), value=0.5)
    return Fitted(shown, camera_ops.crop_resize_K(K, box, content), scale, top)


class Boxes(NamedTuple):
    """What was found in one photo, best first: N boxes, S samples, P points.

    labels (N,), indices of `Config.classes`; scores (N,), in [0, 1]; class_scores (N,), that do not judge the box; cam_from_obj
    (N, 4, 4), metres, and sizes (N, 3), length, height, width, in the convention of `geometry.boxes3d`; boxes (N, 4), what the
    photo shows of them, xyxy pixel edges; velocities (N, 3), metres per second in the camera's axes; attributes (N,), indices
    of `Config.attributes`, -1 for none;
    samples (N, S, 4, 4) of the pose with log_weights (N, S), of the layer "direct", which knows no distribution, one, the pose;
    points3d (N, P, 3), metres, points2d (N, P, 2), pixels of the photo, weights (N, P, 2), 1 / pixels: the correspondences;
    converged (N,), bool: the samples are sound; seconds by stage.
    """

    labels: Tensor
    scores: Tensor
    class_scores: Tensor
    cam_from_obj: Tensor
    sizes: Tensor
    boxes: Tensor
    velocities: Tensor
    attributes: Tensor
    samples: Tensor
    log_weights: Tensor
    points3d: Tensor
    points2d: Tensor
    weights: Tensor
    converged: Tensor
    seconds: dict[str, float]

    def rows(self, index: Tensor) -> Boxes:
        """Those of an index or a mask."""
        return Boxes(*(v[index] if isinstance(v, Tensor) else v for v in self))  # type: ignore[arg-type]


class _Found(NamedTuple):
    """R objects of one photo before their poses, views of a flipped photo already merged; pixels are the photo's."""

    labels: Tensor
    of_class: Tensor
    quality: Tensor
    lhw: Tensor
    velocity: Tensor
    attributes: Tensor
    points3d: Tensor
    points2d: Tensor
    weights: Tensor
    pose: Tensor | None  # of the layer "direct"


@torch.no_grad()
def predict(
    model: Model,
    frame: Frame | Tensor,
    K: Tensor | None = None,
    *,
    flip: bool = False,
    samples: int | None = None,
    min_score: float = 0.04,
    max_candidates: int = 256,
    max_detections: int = 100,
    image_nms: float = 0.8,
    ground_nms: float = 0.25,
    posterior_scores: bool = False,
) -> Boxes:
    """Find the objects of one photo.

    Args:
        model: on any device; its mode is the same afterwards.
        frame: a frame, or an image (3, H, W), RGB in [0, 1], of any size, without lens distortion.
        K: intrinsics of that image, (3, 3), pixels; of a frame they are known.
        flip: look at the mirrored photo too, and let the points of both decide together.
        samples: poses drawn per object; None: as in training.
        min_score: least class score x centerness of a cell that is looked at.
        max_candidates: cells that are looked at, at most, the best ones.
        max_detections: that are returned, at most.
        image_nms: of two boxes of a class whose projections overlap more, the better one stays.
        ground_nms: the same for rectangles seen from above.
        posterior_scores: put the expected quality of the pose, as its samples see it, in place of the predicted one.

    Returns:
        Boxes, empty where nothing is found. The score is class score x quality of the box.

    Raises:
        ValueError: an image without K, or K or image of another shape.
    """
    image, K = _checked(frame, K)
    c, device = model.config, model.norm.device
    seconds = {"network": 0.0, "pnp": 0.0}
    training = model.training
    model.eval()
    try:
        started = time.perf_counter()
        shown = fit(image.to(device).float(), K.to(device).float(), c.size)
        found = _find(model, shown, flip, min_score, max_candidates)
        seconds["network"] = time.perf_counter() - started
    finally:
        model.train(training)
    started = time.perf_counter()
    K = K.to(device).float()
    boxes = _place(model, found, K, (image.shape[-2], image.shape[-1]), seconds)
    order = boxes.scores.argsort(descending=True, stable=True)
    boxes = boxes.rows(order[boxes.converged[order]])
    boxes = boxes.rows(batched_nms(boxes.boxes, boxes.scores, boxes.labels, image_nms))
    boxes = boxes.rows(_ground_nms(boxes, ground_nms)[:max_detections])
    boxes = _sampled(model, boxes, K, (image.shape[-2], image.shape[-1]), samples or c.samples)
    if posterior_scores and c.layer != "direct" and len(boxes.labels):
        off = (boxes.samples[..., (0, 2), 3] - boxes.cam_from_obj[:, None, (0, 2), 3]).norm(dim=-1)
        quality = (boxes.log_weights.softmax(-1) * score_target(off)).sum(-1)
        boxes = boxes._replace(scores=boxes.class_scores * quality)
        boxes = boxes.rows(boxes.scores.argsort(descending=True, stable=True))
    seconds["pnp"] = time.perf_counter() - started
    return boxes


def _checked(frame: Frame | Tensor, K: Tensor | None) -> tuple[Tensor, Tensor]:
    if isinstance(frame, Frame):
        if frame.camera.distortion is not None:
            raise ValueError("this camera has lens distortion: undistort the picture with images.undistort first")
        return frame.image, frame.camera.K if K is None else K
    if frame.dim() != 3 or frame.shape[0] != 3 or not frame.is_floating_point():
        raise ValueError(f"an image must be (3, H, W), float RGB in [0, 1], got {tuple(frame.shape)} {frame.dtype}")
    if K is None:
        raise ValueError("distances need the camera: pass K, (3, 3) in pixels of this image, or a Frame, which has one")
    if tuple(K.shape) != (3, 3) or not bool(torch.isfinite(K).all()) or float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0:
        raise ValueError(f"K must be (3, 3) with positive focal lengths in pixels, got {K.tolist()}")
    return frame, K


def mirrored_K(K: Tensor, width: int) -> Tensor:
    """Intrinsics of the mirrored image. (..., 3, 3) -> (..., 3, 3), pixels."""
    K = K.clone()
    K[..., 0, 2] = width - 1 - K[..., 0, 2]
    return K


def mirrored_pose(cam_from_obj: Tensor) -> Tensor:
    """Level poses of the objects in the mirrored image: x and the side an object shows change sign. (..., 4, 4), metres."""
    centre = cam_from_obj[..., :3, 3] * cam_from_obj.new_tensor([-1.0, 1.0, 1.0])
    return boxes3d.from_yaw(centre, boxes3d.wrapped(math.pi - boxes3d.yaw_of(cam_from_obj)))


def _find(model: Model, shown: Fitted, flip: bool, min_score: float, most: int) -> _Found:
    """Class, size, velocity, attribute and points of what the network sees."""
    c = model.config
    images, Ks = shown.image[None], shown.K[None]
    if flip:
        images = torch.cat([images, images.flip(-1)])
        Ks = torch.stack([shown.K, mirrored_K(shown.K, c.width)])
    output = model(images)
    of_class, sure = output.cells.logits.sigmoid(), output.cells.centerness.sigmoid()
    same = _mirror_cells(output.lattice) if flip else None
    if same is not None:
        of_class, sure = ((v[0] + v[1][same]) / 2 for v in (of_class, sure))
    else:
        of_class, sure = of_class[0], sure[0]
    rank = of_class * sure[:, None]
    best, flat = rank.flatten().topk(min(most, rank.numel()))
    flat = flat[best >= min_score]
    cell, labels = flat // len(c.classes), flat % len(c.classes)
    cells = cell[None] if same is None else torch.stack([cell, same[cell]])
    look = model.look(output, cells, labels.expand(len(cells), -1))
    answers, views = look.answers, len(cells)
    mirror = look.noc.new_tensor([1.0, -1.0])[:views]  # of what changes its sign
    quality = answers.score.sigmoid().mean(0)
    velocity = answers.velocity * torch.stack([mirror, torch.ones_like(mirror)], -1)[:, None]
    velocity = _from_ray(velocity.mean(0), look.reference[0], shown.K)
    lhw = decode_sizes(answers.size_code.mean(0), model.means[labels], model.stds[labels])
    kinds = answers.attributes.softmax(-1).mean(0).masked_fill(~model.allowed[labels], -1).argmax(-1)
    pose = None
    if c.layer == "direct":
        poses = _direct_pose(*_direct(c, look, Ks[:, None]), Ks[:, None])
        pose = poses[0] if views == 1 else _between(poses[0], mirrored_pose(poses[1]))
    # NOC z points to the object's left, which is its right in the mirror
    noc = look.noc * torch.stack([torch.ones_like(mirror), torch.ones_like(mirror), mirror], -1)[:, None, None]
    u = torch.where(mirror[:, None, None] > 0, look.pixels[..., 0], c.width - 1 - look.pixels[..., 0])
    pixels = (torch.stack([u, look.pixels[..., 1]], -1) + 0.5) / shown.scale - 0.5
    pixels = pixels + pixels.new_tensor([0.0, shown.top])
    # two looks at the same object are no independent witnesses: together they know as much as one
    weights = look.weights * shown.scale / math.sqrt(views)
    noc, pixels, weights = (v.transpose(0, 1).flatten(1, 2) for v in (noc, pixels, weights))
    kinds = torch.where(kinds == len(c.attributes), -1, kinds)
    return _Found(
        labels, of_class[cell, labels], quality, lhw, velocity, kinds, noc * lhw[:, None], pixels, weights, pose
    )  # fmt: skip


def _mirror_cells(where: fcos.Lattice) -> Tensor:
    """The cell of the mirrored image that shows what a cell shows, (L,)."""
    index = torch.arange(len(where.strides), device=where.strides.device)
    parts = []
    for stride in where.strides.unique_consecutive():
        own = index[where.strides == stride]
        columns = len(where.centres[own, 0].unique())
        parts.append(own.unflatten(0, (-1, columns)).flip(1).flatten())
    return torch.cat(parts)


def _between(a: Tensor, b: Tensor) -> Tensor:
    """The pose in the middle of two level poses. (..., 4, 4)."""
    yaw = boxes3d.yaw_of(a)
    yaw = yaw + boxes3d.wrapped(boxes3d.yaw_of(b) - yaw) / 2
    return boxes3d.from_yaw((a[..., :3, 3] + b[..., :3, 3]) / 2, yaw)


def _place(model: Model, found: _Found, K: Tensor, size: tuple[int, int], seconds: dict[str, float]) -> Boxes:
    """The poses of what was found, by PnP in pixels of the photo."""
    n = len(found.labels)
    ones = torch.ones(n, dtype=torch.bool, device=K.device)
    if found.pose is not None:
        pose, converged = found.pose, ones
    elif n:
        solved = pnp.solve(
            found.points3d, found.points2d, K, found.weights, dof=4, robust=pnp.AdaptiveHuber(model.config.huber), z_min=Z_MIN,
            bounds=_bounds(size, K),
        )  # fmt: skip
        # not `converged`: at the kink of the robust kernel it often says no where the pose is as good as any
        pose, converged = (
            solved.cam_from_obj,
            torch.isfinite(solved.cost) & torch.isfinite(solved.cam_from_obj).flatten(1).all(1),
        )
    else:
        pose, converged = K.new_zeros(0, 4, 4), ones
    boxes = boxes3d.project(pose, found.lhw, K, size, Z_MIN) if n else K.new_zeros(0, 4)
    converged = converged & (pose[:, 2, 3] > Z_MIN) & (box_ops.area(boxes) > 0)
    velocity = torch.stack([found.velocity[:, 0], torch.zeros_like(found.velocity[:, 0]), found.velocity[:, 1]], -1)
    return Boxes(
        found.labels, found.of_class * found.quality, found.of_class, pose, found.lhw, boxes, velocity, found.attributes,
        pose[:, None], K.new_zeros(n, 1), found.points3d, found.points2d, found.weights, converged, seconds,
    )  # fmt: skip


def _ground_nms(boxes: Boxes, threshold: float) -> Tensor:
    """Rows that stay, best first."""
    above = boxes3d.bev(boxes.cam_from_obj, boxes.sizes)
    kept = [torch.zeros(0, dtype=torch.long, device=above.device)]
    for label in boxes.labels.unique():
        rows = (boxes.labels == label).nonzero()[:, 0]
        kept.append(rows[boxes3d.bev_nms(above[rows], boxes.scores[rows], threshold)])
    every = torch.cat(kept)
    return every[boxes.scores[every].argsort(descending=True, stable=True)]


def _sampled(model: Model, boxes: Boxes, K: Tensor, size: tuple[int, int], samples: int) -> Boxes:
    """The same with the distributions of their poses, whose best modes become the poses."""
    if model.config.layer == "direct":
        return boxes
    n = len(boxes.labels)
    if n == 0:
        return boxes._replace(samples=K.new_zeros(0, samples, 4, 4), log_weights=K.new_zeros(0, samples))
    posterior = pnp.sample_posterior(
        boxes.points3d, boxes.points2d, K, boxes.weights, init=boxes.cam_from_obj, dof=4, samples=samples,
        robust=pnp.AdaptiveHuber(model.config.huber), z_min=Z_MIN, bounds=_bounds(size, K),
        generator=torch.Generator(K.device).manual_seed(0),
    )  # fmt: skip
    pose = torch.where(posterior.converged[:, None, None], posterior.mode, boxes.cam_from_obj)
    return boxes._replace(
        cam_from_obj=pose, boxes=boxes3d.project(pose, boxes.sizes, K, size, Z_MIN), samples=posterior.samples,
        log_weights=posterior.log_weights, converged=posterior.converged,
    )  # fmt: skip


def spread(found: Boxes) -> Tensor:
    """How wide the distributions of the poses are, (N, 3): standard deviations across and along the line of sight, seen from
    above, metres, and of the yaw, radians (circular). NaN of the layer "direct", which knows no distribution.
    """
    if found.samples.shape[1] < 2:
        return found.cam_from_obj.new_full((len(found.labels), 3), math.nan)
    p = found.log_weights.softmax(-1)
    ground = found.samples[..., (0, 2), 3]
    ray = F.normalize(found.cam_from_obj[:, (0, 2), 3], dim=-1)
    side = torch.stack([ray[:, 1], -ray[:, 0]], -1)
    axes = torch.stack([side, ray], -1)  # (N, 2, 2)
    off = (ground - (p[..., None] * ground).sum(1, keepdim=True)) @ axes
    place = (p[..., None] * off.square()).sum(1).sqrt()
    yaw = boxes3d.yaw_of(found.samples)
    length = torch.hypot((p * yaw.cos()).sum(-1), (p * yaw.sin()).sum(-1)).clamp(1e-12, 1)
    return torch.cat([place, (-2 * length.log()).sqrt()[:, None]], -1)


@torch.no_grad()
def score_map(model: Model, frame: Frame | Tensor, K: Tensor | None = None) -> Tensor:
    """How sure the network is at every place of a photo that an object of a class has its centre there.

    Args:
        model: on any device; its mode is the same afterwards.
        frame, K: as `predict` takes them.

    Returns:
        (classes, h, w), in [0, 1], covering the photo in cells of the finest level: class score x centerness, the largest of
        all levels; 0 where the network does not look.
    """
    image, K = _checked(frame, K)
    c, training = model.config, model.training
    model.eval()
    try:
        shown = fit(image.to(model.norm.device).float(), K.to(model.norm.device).float(), c.size)
        cells, where = model(shown.image[None])[::2]
    finally:
        model.train(training)
    sure = (cells.logits.sigmoid() * cells.centerness.sigmoid()[..., None])[0]
    finest = int(where.strides.min())
    size = (c.height // finest, c.width // finest)
    best = sure.new_zeros(len(c.classes), *size)
    for stride in where.strides.unique().tolist():
        rows = (where.strides == stride).nonzero()[:, 0]
        columns = len(where.centres[rows, 0].unique())
        level = sure[rows].T.unflatten(1, (-1, columns))
        step = int(stride) // finest
        best = torch.maximum(best, level.repeat_interleave(step, 1).repeat_interleave(step, 2)[:, : size[0], : size[1]])
    # the photo's own grid: what was cut off above it has no score, what was added below is left out
    rows = round((image.shape[-2] - shown.top) * float(shown.scale[1]) / finest)
    above = round(shown.top * float(shown.scale[1]) / finest)
    return F.pad(best[:, :rows], (0, 0, above, 0))
