"""The network: cells that find objects, heads that look around in them, answers about points and objects."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..datasets.road import ATTRIBUTES, ATTRIBUTES_OF, SIZES
from ..geometry import boxes3d
from ..geometry import camera as camera_ops
from . import pyramid, sampler
from .config import MARGIN, Config, decode_sizes


class Output(NamedTuple):
    """What the network says about whole images: cells of all levels, what objects sample, and where the cells are."""

    cells: pyramid.Cells
    dense: sampler.Dense
    lattice: pyramid.Lattice


class ObjectLook(NamedTuple):
    """What R objects of each of B images look like to the network; N = heads x points.

    reference (B, R, 2), pixels; strides (B, R), pixels; seen, the samples; answers, of the object; tokens and places, of the
    points, for those who ask the point head about other pixels; noc (B, R, N, 3), in units of the size; pixels (B, R, N, 2);
    weights (B, R, N, 2), 1 / pixels, and share, what they are of their sum; lhw (B, R, 3), metres. The layer "direct" has no
    points: N = 0.
    """

    reference: Tensor
    strides: Tensor
    seen: sampler.Samples
    answers: sampler.ObjectAnswers
    tokens: Tensor
    places: Tensor
    noc: Tensor
    pixels: Tensor
    weights: Tensor
    lhw: Tensor
    share: Tensor


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
        self.encoder = pyramid.Encoder(c.backbone, c.pretrained, c.frozen_levels, c.deformable, c.fixed_norms)
        self.pyramid = pyramid.Pyramid(self.encoder.channels, c.channels, c.strides)
        self.head = pyramid.CentreHead(len(c.classes), c.channels, len(c.head_strides), c.class_offsets, c.box_weight > 0)
        self.dense = sampler.DenseFeatures(c.channels, c.dense_widths, c.channels, len(c.strides))
        self.class_embedding = nn.Embedding(len(c.classes), c.channels) if c.class_offsets else None
        self.sampler = sampler.DeformableSampler(c.channels, c.heads, c.points, c.hidden, c.dropout, c.spread)
        direct = c.layer == "direct"
        self.point_head = None if direct else sampler.PointHead(c.channels // c.heads, c.heads, c.point_hidden)
        self.stretch = None
        if c.stretch and not direct:
            self.stretch = nn.Linear(c.channels, 1)
            nn.init.zeros_(self.stretch.weight)
            nn.init.zeros_(self.stretch.bias)
        scale = None if direct else c.initial_scale
        self.object_head = sampler.ObjectHead(c.channels, c.object_hidden, len(c.attributes) + 1, scale)
        self.pixel_head = None
        if self.uses_projection and c.auxiliary != "sigma":
            self.pixel_head = sampler.PixelHead(c.channels // c.heads, c.heads)
        elif self.uses_projection:
            self.projection_sigma = nn.Parameter(torch.full((2,), math.log(0.2)))
        if c.coordinate_mixture and not direct:
            self.coordinate_sigma = nn.Parameter(torch.full((3,), math.log(0.2)))
        if c.depth_modes:
            self.depth_head = sampler.DepthHead(c.channels, c.depth_modes)
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
        """(B, 3, height, width), RGB in [0, 1], as `resize_to_network` makes them -> `Output`."""
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
        where = pyramid.lattice(shapes, c.head_strides, c.ranges, images)
        cells = pyramid.Cells(*(None if v is None else v.float() for v in cells))  # type: ignore[arg-type]
        return Output(cells, self.dense(levels, c.dense_stride), where)

    def look(self, output: Output, cell: Tensor, labels: Tensor) -> ObjectLook:
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
            return ObjectLook(reference, strides, seen, answers, none, none, lhw[:, :, None][:, :, :0], none, none, lhw, none)
        tokens = self.point_head.tokens(seen.features, seen.query)
        pixels = seen.pixels.flatten(2, 3)
        places = _places(pixels, reference, strides)
        raw = self.point_head(tokens, places).float().flatten(2, 3)
        inside = seen.inside.flatten(2)[..., None]
        share = raw[..., 3:].softmax(2) * inside
        weights = share * answers.log_scale.exp()[:, :, None]
        noc = raw[..., :3] * self._reach(seen)[:, :, None]
        return ObjectLook(reference, strides, seen, answers, tokens, places, noc, pixels, weights, lhw, share)

    def _reach(self, seen: sampler.Samples) -> Tensor:
        """What the coordinates of an object's points are multiplied by, (B, R, 1).

        Objects of one level differ in apparent size by a factor of four while their points lie equally far apart: without it
        every point would have to multiply its place by the size for itself.
        """
        if self.stretch is None:
            return seen.objects.new_ones(*seen.objects.shape[:2], 1)
        return self.stretch(seen.objects).float().clamp(-3, 3).exp()

    def at(self, output: Output, look: ObjectLook, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What each head says that other pixels (B, R, P, 2) are: noc (B, R, H, P, 3), attention logits (B, R, H, P)."""
        assert self.point_head is not None
        every = pixels[:, :, None].expand(-1, -1, self.config.heads, -1, -1)
        features, attention = self.sampler.at(look.seen.query, every, output.dense)
        tokens, pixels = self.point_head.tokens(features, look.seen.query), every.flatten(2, 3)
        places = _places(pixels, look.reference, look.strides)
        noc = self.point_head(tokens, places, look.tokens, look.places).float()[..., :3]
        return noc * self._reach(look.seen)[:, :, None, None], attention


def _places(pixels: Tensor, reference: Tensor, strides: Tensor) -> Tensor:
    """Pixels (B, R, N, 2) relative to the object's reference point, in strides of its level."""
    return (pixels - reference[:, :, None]) / strides[:, :, None, None]


def _offsets(cells: pyramid.Cells, cell: Tensor, labels: Tensor) -> Tensor:
    """From the cells (B, R) to the reference points of objects of these classes, (B, R, 2), strides."""
    offsets = cells.offsets.take_along_dim(cell[..., None, None], 1)  # (B, R, K or 1, 2)
    if offsets.shape[2] > 1:
        return offsets.take_along_dim(labels[..., None, None], 2)[:, :, 0]
    return offsets[:, :, 0]


def bounds_of(size: tuple[int, int], like: Tensor) -> Tensor:
    """Where projections are clamped to, (4,), pixels: an image of `size` (h, w) and a margin."""
    margin = MARGIN * size[1] + 0.5
    return like.new_tensor([-margin, -margin, size[1] - 1 + margin, size[0] - 1 + margin])


def direct(config: Config, look: ObjectLook, K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the layer "direct": the centre's pixel (B, R, 2), depth (B, R), metres, sin and cos of the observation angle."""
    raw = look.answers.direct
    pixel = look.reference + raw[..., :2] * look.strides[..., None]
    depth = 20 * raw[..., 2].clamp(-5, 3).exp() * K[..., 1, 1] / config.focal
    return pixel, depth, raw[..., 3:]


def direct_pose(pixel: Tensor, depth: Tensor, turn: Tensor, K: Tensor) -> Tensor:
    centre = camera_ops.unproject(pixel[..., None, :], depth[..., None], K)[..., 0, :]
    return boxes3d.from_yaw(centre, boxes3d.yaw_from_alpha(torch.atan2(turn[..., 0], turn[..., 1]), centre))


def to_ray(velocity: Tensor, pixel: Tensor, K: Tensor) -> Tensor:
    """Velocities (..., 2) along the camera's x and z -> across and along the ray through a pixel, which is what one sees."""
    angle = torch.atan2(pixel[..., 0] - K[..., 0, 2], K[..., 0, 0])
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * velocity[..., 0] - s * velocity[..., 1], s * velocity[..., 0] + c * velocity[..., 1]], -1)


def from_ray(velocity: Tensor, pixel: Tensor, K: Tensor) -> Tensor:
    """Inverse of `_to_ray`."""
    angle = torch.atan2(pixel[..., 0] - K[..., 0, 2], K[..., 0, 0])
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * velocity[..., 0] + s * velocity[..., 1], c * velocity[..., 1] - s * velocity[..., 0]], -1)
