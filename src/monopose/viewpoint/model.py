"""Viewpoint of an object of a known class: azimuth, elevation and in-plane rotation from a crop, each as one of eight bins.

A crop carries the photo and what else is known of the object: its mask, its boundaries, its surface normals. `combined(...)`
and `separate(...)` are the two published networks, `modern(...)` is ours: bins centred on the frequent directions, targets
smoothed around the circle, and how far the angle lies from the middle of its bin. It learns the published bins, too: both are
sums of the same half bins, of which it says one distribution. Most of its mistakes in the published bins were angles that were
a few degrees off, across an edge; where the edges are has to be learnt.

Source: the Pix3D viewpoint classification system; bins and offsets as in Mousavian et al., 3D Bounding Box Estimation
(CVPR 2017), sec. 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry import viewpoints
from .networks import ApartNet, CombinedNet, ModernNet, SeparateNet

GROUPS = {"rgb": 3, "mask": 1, "boundaries": 1, "normals": 3}
"""Modalities in the order of a crop's channels, and how many channels each has. A level of inputs has those before it, too."""
ANGLES = ("azimuth", "elevation", "inplane")
BINS = {"published": viewpoints.PUBLISHED, "centred": viewpoints.CENTRED}
CHANNELS = sum(GROUPS.values())

Net = Literal["modern", "combined", "separate"]
Inputs = Literal["rgb", "mask", "boundaries", "normals"]


@dataclass(frozen=True)
class Config:
    categories: tuple[str, ...] = ()  # classes it is trained on, for reports; the network does not look at them
    net: Net = "modern"  # see nets.viewpoint
    inputs: Inputs = "normals"  # the last modality it sees, of rgb, mask, boundaries, normals; those before it come with it
    input_size: int = 224  # side of the square crop, pixels
    crop_scale: float = 1.1  # side of the crop / longer side of the box
    bins: Literal["centred", "published"] = "centred"  # see geometry.viewpoints
    concentration: float = 8.0  # kappa of the von Mises distribution around the true angle in the targets; 0: hard labels
    offsets: bool = True  # also say how far each angle lies from the middle of each bin
    offset_weight: float = 1.0  # weight of the loss of these offsets
    halves: bool = False  # one distribution over sixteen half bins, learnt in the centred and in the published bins alike
    backbone: str = "efficientnet_lite0"  # of the modern network, see nets.backbones
    pretrained: bool = True  # start the backbone from ImageNet weights where they can be had
    widths: tuple[int, ...] = ()  # channels after each convolution of the published networks; (): as published
    hidden: int = 256  # features before the outputs, per branch in the separate network
    dropout: float = 0.2  # share of the features that the modern network leaves out in training
    apart: bool = False  # where it sees more than RGB, its two parts answer and learn apart, see nets.viewpoint.ApartNet
    mirror: bool = False  # look at the mirrored crop, too, and answer with the mean of both: twice the time
    epochs: int = 25  # passes over the data in which a stepped schedule comes to its end
    step_epochs: int = 0  # the learning rate falls to a tenth after every so many of them; 0: half a cosine instead


def _published(net: Net, categories: tuple[str, ...], inputs: Inputs, input_size: int) -> Config:
    return Config(
        categories, net, inputs, input_size, crop_scale=1.0, bins="published", concentration=0.0, offsets=False,
        pretrained=False, hidden=128, step_epochs=3,
    )  # fmt: skip


def combined(categories: tuple[str, ...] = (), inputs: Inputs = "normals", input_size: int = 224) -> Config:
    """The published network that sees all channels stacked, its bins, labels and schedule."""
    return _published("combined", tuple(categories), inputs, input_size)


def separate(categories: tuple[str, ...] = (), inputs: Inputs = "normals", input_size: int = 224) -> Config:
    """The published network with a branch for each modality, its bins, labels and schedule."""
    return _published("separate", tuple(categories), inputs, input_size)


def modern(categories: tuple[str, ...] = (), inputs: Inputs = "normals", input_size: int = 224) -> Config:
    """Pretrained backbone, colours and the rest judged apart; bins around the frequent directions, targets smoothed around
    the circle, offsets, half bins; the answer is the mean of two looks, one of them in the mirror."""
    config = replace(Config(tuple(categories)), inputs=inputs, input_size=input_size)
    return replace(config, dropout=0.1, halves=True, apart=True, mirror=True)


NORMALS_X = 5  # channel of a crop that changes its sign in a mirror, see data.viewpoint_crops


def published_lr(config: Config) -> float:
    """Peak learning rate that suits a network: as published for the published ones (Adam, batches of 10)."""
    return {"combined": 1e-5, "separate": 1e-3, "modern": 1e-3}[config.net]


def rate(config: Config, progress: float) -> float:
    """The learning rate as a share of its peak, when the share `progress` of the training is done.

    A tenth after every `step_epochs` of `epochs`, where the configuration says so, else half a cosine.
    """
    if config.step_epochs > 0:
        epoch = min(progress, 1 - 1e-9) * config.epochs + 1e-9  # 3/25 of 25 is the third epoch's end, however it rounds
        return 0.1 ** (int(epoch) // config.step_epochs)
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * min(progress, 1.0), dtype=torch.float64)).item())


class Output(NamedTuple):
    """What the network says about B crops. The middle index is azimuth, elevation, in-plane rotation."""

    logits: Tensor  # (B, 3, 8), of each bin
    offsets: Tensor | None  # (B, 3, 8), of the angle from the middle of each bin, bin widths; or None
    halves: Tensor | None = None  # (B, 3, 16), logits of half bins, of which `logits` are the logarithms of sums; or None
    branch_outputs: tuple[Output, ...] = ()  # in training, of the parts of a network that learn apart; the rest is their mean


class Viewpoints(NamedTuple):
    """Estimated viewpoints of B crops."""

    bins: Tensor  # (B, 3), the most probable bin of azimuth, elevation, in-plane rotation
    probabilities: Tensor  # (B, 3, 8)
    angles: Tensor  # (B, 3), radians: azimuth in [0, 2 pi), elevation, in-plane rotation in [-pi, pi)


class Model(nn.Module):
    """Config -> network. It knows no objects: any class is any class."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        if config.inputs not in GROUPS:
            raise ValueError(f"inputs must be one of {', '.join(GROUPS)}, got {config.inputs!r}")
        if config.bins not in BINS:
            raise ValueError(f"bins must be one of {', '.join(BINS)}, got {config.bins!r}")
        if not config.concentration >= 0:
            raise ValueError(f"concentration must be 0 or more, 0 for hard labels, got {config.concentration}")
        self.bins = BINS[config.bins]
        groups = list(GROUPS.values())[: list(GROUPS).index(config.inputs) + 1]
        self.channels = sum(groups)
        self.count = self.bins[0].count
        outputs = len(self.bins) * self.count * (1 + config.offsets + config.halves)
        published = {"widths": config.widths} if config.widths else {}
        self.net: nn.Module
        if config.net == "combined":
            self.net = CombinedNet(self.channels, outputs, hidden=config.hidden, size=config.input_size, **published)
        elif config.net == "separate":
            self.net = SeparateNet(groups, outputs, hidden=config.hidden, size=config.input_size, **published)
        elif config.net == "modern":
            kind = ApartNet if config.apart and self.channels > 3 else ModernNet
            self.net = kind(self.channels, outputs, config.backbone, config.pretrained, config.hidden, config.dropout)
        else:
            raise ValueError(f"net must be modern, combined or separate, got {config.net!r}")

    def forward(self, image: Tensor) -> Output:
        """(B, C, S, S), crops in [0, 1] as `viewpoint.samples` cuts them, of which the network sees its share -> `Output`.

        Raises:
            ValueError: fewer channels than the network needs, or another side than its crops have.
        """
        side = self.config.input_size
        if image.dim() != 4 or image.shape[1] < self.channels or image.shape[2:] != (side, side):
            raise ValueError(
                f"expected crops (B, {self.channels} or more, {side}, {side}) for the inputs up to {self.config.inputs!r}, "
                f"got {tuple(image.shape)}"
            )
        seen = image[:, : self.channels]
        if self.config.net != "modern":
            seen = (seen - 0.5) / 0.25
        if self.training and isinstance(self.net, ApartNet):
            branch_outputs = self.net.branch_outputs(seen)
            return self._output(self.net.mean(branch_outputs))._replace(
                branch_outputs=tuple(self._output(raw) for raw in branch_outputs)
            )
        return self._output(self.net(seen))

    def _output(self, raw: Tensor) -> Output:
        """(B, outputs) -> logits and offsets."""
        places = len(self.bins) * self.count * (1 + self.config.halves)
        logits, rest = raw[:, :places].unflatten(1, (len(self.bins), -1)), raw[:, places:]
        offsets = rest.unflatten(1, (len(self.bins), -1)) if self.config.offsets else None
        if not self.config.halves:
            return Output(logits, offsets)
        return Output(bin_log_probabilities(logits, self.config.bins), offsets, logits)


HALVES = (
    viewpoints.Bins(-math.pi / 8, math.pi / 8, 16),
    viewpoints.Bins(math.radians(-10), math.radians(5), 16, circle=False),
    viewpoints.Bins(-math.pi / 8, math.pi / 8, 16),
)
"""Half of every centred bin. The edges of the published bins are among theirs."""


@lru_cache(maxsize=4)
def _parts(bins: str) -> Tensor:
    """Which half bins every bin is made of, (3, 8, 16), bool."""
    index = torch.arange(16)
    rows = []
    for k, half in enumerate(HALVES):
        angles = torch.zeros(16, 3, dtype=torch.float64)
        angles[:, k] = half.centre(index.double())
        inside = BINS[bins][k].index(viewpoints.wrapped(angles)[:, k])
        rows.append(inside == torch.arange(8)[:, None])
    return torch.stack(rows)


def bin_log_probabilities(halves: Tensor, bins: str) -> Tensor:
    """Logarithms of the probabilities of bins, from the logits of half bins.

    Args:
        halves: (B, 3, 16).
        bins: "published" or "centred".

    Returns:
        (B, 3, 8), -30 where a bin has no half bin: elevations from 90 degrees on.
    """
    parts = _parts(bins).to(halves.device)
    likely = halves.log_softmax(-1)[:, :, None].masked_fill(~parts, -1e4)  # (B, 3, 8, 16); finite, for its gradient's sake
    return likely.logsumexp(-1).clamp_min(-30.0)


def targets(config: Config, angles: Tensor) -> Tensor:
    """What the probabilities of the bins should be.

    Args:
        config: its bins and concentration.
        angles: (B, 3), radians.

    Returns:
        (B, 3, 8), each row summing to 1: one-hot where the concentration is 0, else a von Mises distribution around the
        true angle, read at the middles of the bins. Where bins end instead of wrapping, a normal distribution of the same
        width in bins.
    """
    rows = []
    for bins, angle in zip(BINS[config.bins], angles.unbind(-1), strict=True):
        index = bins.index(angle)
        if config.concentration == 0:
            rows.append(F.one_hot(index, bins.count).to(angle))
            continue
        every = torch.arange(bins.count, device=angle.device)
        away = bins.offset(angle[..., None], every) * (2 * torch.pi / bins.count)  # a circle's worth of bins
        if not bins.circle:  # an angle beyond the last bin belongs to it, and its neighbours do not come nearer
            low, high = bins.offset(angle, torch.zeros_like(index)), bins.offset(angle, torch.full_like(index, bins.count - 1))
            away = away - (low.clamp_max(0) + high.clamp_min(0))[..., None] * (2 * torch.pi / bins.count)
        rows.append((config.concentration * (away.cos() if bins.circle else -away.square() / 2)).softmax(-1))
    return torch.stack(rows, -2)


def loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Three cross-entropies, smooth-L1 of the offsets where there are any; with half bins, cross-entropies of published bins.

    Args:
        model, output: the network and its output.
        batch: "angles" (B, 3), radians.

    Returns:
        scalar tensors by name: azimuth, elevation, inplane, offset, published; their sum is the loss. Offsets count as far
        as their bin is right: with hard labels that of the true bin alone. The published bins have hard labels. Where parts
        of a network learn apart, these are sums over the parts.
    """
    if output.branch_outputs:
        each = [loss(model, branch, batch) for branch in output.branch_outputs]
        return {name: torch.stack([part[name] for part in each]).sum() for name in each[0]}
    angles = batch["angles"].to(output.logits.dtype)
    wanted = targets(model.config, angles)
    entropies = -(wanted * output.logits.log_softmax(-1)).sum(-1).mean(0)
    losses = dict(zip(ANGLES, entropies.unbind(), strict=True))
    if output.offsets is not None:
        every = torch.arange(model.count, device=angles.device)
        true = torch.stack([b.offset(a[:, None], every) for b, a in zip(model.bins, angles.unbind(-1), strict=True)], 1)
        distance = F.smooth_l1_loss(output.offsets, true, reduction="none", beta=0.1)
        losses["offset"] = model.config.offset_weight * (wanted * distance).sum((1, 2)).mean()
    if output.halves is not None:
        index = torch.stack([b.index(a) for b, a in zip(viewpoints.PUBLISHED, angles.unbind(-1), strict=True)], 1)
        likely = bin_log_probabilities(output.halves, "published").gather(-1, index[..., None])
        losses["published"] = -likely.sum((1, 2)).mean()
    return losses


def decode(config: Config, output: Output) -> Viewpoints:
    """The viewpoints an output stands for.

    Angles are the middle of the most probable bin plus its offset. Without offsets, smoothed targets let neighbouring bins
    vote: the mean of the best bin and its neighbours, weighted by their probabilities. With hard labels the middle stands.

    With half bins, azimuth and in-plane rotation lie in the most probable published bin: of the bins that overlap it, that of
    its better half is taken, and the angle does not leave it.
    """
    probabilities = output.logits.float().softmax(-1)
    best = probabilities.argmax(-1)
    angles = []
    for i, bins in enumerate(BINS[config.bins]):
        index, inside = best[:, i], None
        if output.halves is not None and HALVES[i].circle:
            index, inside = _within_published(output.halves, i, bins)
        if output.offsets is not None:
            offset = output.offsets[:, i].float().gather(1, index[:, None])[:, 0]
        elif config.concentration > 0:
            offset = _vote(probabilities[:, i], index, bins.circle)
        else:
            offset = torch.zeros_like(probabilities[:, i, 0])
        angle = bins.angle(index, offset)
        angles.append(angle if inside is None else _held(angle, viewpoints.PUBLISHED[i], inside))
    return Viewpoints(best, probabilities, viewpoints.wrapped(torch.stack(angles, -1)))


def _within_published(halves: Tensor, which: int, bins: viewpoints.Bins) -> tuple[Tensor, Tensor]:
    """The most probable published bin, and the one of `bins` that holds its better half. (B, 3, 16) -> (B,), (B,)."""
    published = bin_log_probabilities(halves.float(), "published")[:, which].argmax(-1)
    parts = _parts("published")[which].to(halves.device)[published]
    better = halves[:, which].float().masked_fill(~parts, -math.inf).argmax(-1)
    middle = torch.zeros(len(halves), 3, dtype=torch.float64, device=halves.device)
    middle[:, which] = HALVES[which].centre(better.double())
    return bins.index(viewpoints.wrapped(middle)[:, which]), published


def _held(angle: Tensor, bins: viewpoints.Bins, index: Tensor) -> Tensor:
    """Angles around a circle that have left a bin, at its nearer edge. (B,), (B,) -> (B,), radians, not wrapped."""
    turn = 2 * math.pi / bins.width
    offset = torch.remainder((angle - bins.centre(index)) / bins.width + turn / 2, turn) - turn / 2
    return bins.angle(index, offset.clamp(-0.499, 0.499))


def _vote(probabilities: Tensor, index: Tensor, circle: bool) -> Tensor:
    """Mean place of a bin and its neighbours relative to its middle, bin widths. (B, 8), (B,) -> (B,)."""
    count = probabilities.shape[1]
    steps = torch.tensor([-1, 0, 1], device=index.device)
    near = index[:, None] + steps
    weights = probabilities.gather(1, near.remainder(count))
    if not circle:
        weights = weights * ((near >= 0) & (near < count))
    return (weights * steps).sum(1) / weights.sum(1)


def forward_mirrored(model: Model, image: Tensor) -> Output:
    """What the network says of crops (B, C, S, S), or, with `Config.mirror`, the mean of that and of what it says of the
    mirrored crops, mirrored back. An object that is not its own mirror image looks like another one there."""
    output = model(image)
    if not model.config.mirror:
        return output
    crops = image.flip(-1)
    if crops.shape[1] > NORMALS_X:
        crops[:, NORMALS_X] = 1 - crops[:, NORMALS_X]
    other = _mirrored(model(crops), model.bins)
    mean = lambda a, b: (a + b) / 2  # noqa: E731
    if output.halves is not None and other.halves is not None:
        halves = mean(output.halves.log_softmax(-1), other.halves.log_softmax(-1))
        logits = bin_log_probabilities(halves, model.config.bins)
    else:
        halves, logits = None, mean(output.logits.log_softmax(-1), other.logits.log_softmax(-1))
    offsets = None if output.offsets is None or other.offsets is None else mean(output.offsets, other.offsets)
    return Output(logits, offsets, halves)


def _mirrored(output: Output, bins: Sequence[viewpoints.Bins]) -> Output:
    """The output for a picture turned into that for its mirror image: azimuth and in-plane rotation the other way."""

    def swapped(values: Tensor, of: Sequence[viewpoints.Bins], sign: float = 1.0) -> Tensor:
        values = values.clone()
        for k in (0, 2):
            angles = torch.zeros(of[k].count, 3, dtype=torch.float64)
            angles[:, k] = -of[k].centre(torch.arange(of[k].count, dtype=torch.float64))
            values[:, k] = sign * values[:, k, of[k].index(viewpoints.wrapped(angles)[:, k]).to(values.device)]
        return values

    offsets = None if output.offsets is None else swapped(output.offsets, bins, -1.0)
    halves = None if output.halves is None else swapped(output.halves, HALVES)
    return Output(swapped(output.logits, bins), offsets, halves)


@torch.no_grad()
def predict(model: Model, image: Tensor, chunk: int = 64) -> Viewpoints:
    """Viewpoints of crops.

    Args:
        model: in eval mode.
        image: (B, 8, S, S), see `viewpoint.samples.channels`; channels the model does not look at may be missing.
        chunk: crops per forward pass.
    """
    parts = [decode(model.config, forward_mirrored(model, part)) for part in image.split(chunk)]
    return Viewpoints(*(torch.cat(values) for values in zip(*parts, strict=True)))
