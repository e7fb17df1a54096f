"""Viewpoint of an object of a known class: azimuth, elevation and in-plane rotation from a crop, each as one of eight bins.

A crop carries the photo and what else is known of the object: its mask, its boundaries, its surface normals. `combined(...)`
and `separate(...)` are the two published networks, `modern(...)` is ours: bins centred on the frequent directions, targets
smoothed around the circle, and how far the angle lies from the middle of its bin.

Source: the Pix3D viewpoint classification system; bins and offsets as in Mousavian et al., 3D Bounding Box Estimation
(CVPR 2017), sec. 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry import viewpoints
from ..nets.viewpoint import CombinedNet, ModernNet, SeparateNet

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
    backbone: str = "efficientnet_lite0"  # of the modern network, see nets.backbones
    pretrained: bool = True  # start the backbone from ImageNet weights where they can be had
    widths: tuple[int, ...] = ()  # channels after each convolution of the published networks; (): as published
    hidden: int = 256  # features before the outputs, per branch in the separate network
    dropout: float = 0.2  # share of the features that the modern network leaves out in training
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
    """Pretrained backbone, bins around the frequent directions, targets smoothed around the circle, offsets."""
    return replace(Config(tuple(categories)), inputs=inputs, input_size=input_size)


PUBLISHED_BATCH = 10  # samples per optimiser step in the published training


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
        outputs = len(self.bins) * self.count * (2 if config.offsets else 1)
        published = {"widths": config.widths} if config.widths else {}
        self.net: nn.Module
        if config.net == "combined":
            self.net = CombinedNet(self.channels, outputs, hidden=config.hidden, size=config.input_size, **published)
        elif config.net == "separate":
            self.net = SeparateNet(groups, outputs, hidden=config.hidden, size=config.input_size, **published)
        elif config.net == "modern":
            self.net = ModernNet(self.channels, outputs, config.backbone, config.pretrained, config.hidden, config.dropout)
        else:
            raise ValueError(f"net must be modern, combined or separate, got {config.net!r}")

    def forward(self, image: Tensor) -> Output:
        """(B, C, S, S), crops in [0, 1] as `data.viewpoint_crops` cuts them, of which the network sees its share -> `Output`.

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
        raw = self.net(seen).unflatten(1, (-1, len(self.bins), self.count))
        return Output(raw[:, 0], raw[:, 1] if self.config.offsets else None)


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
    """Three cross-entropies, and smooth-L1 of the offsets where there are any.

    Args:
        model, output: the network and what it said.
        batch: "angles" (B, 3), radians.

    Returns:
        scalar tensors by name: azimuth, elevation, inplane, offset; their sum is the loss. Offsets count as far as their bin
        is right: with hard labels that of the true bin alone.
    """
    angles = batch["angles"].to(output.logits.dtype)
    wanted = targets(model.config, angles)
    entropies = -(wanted * output.logits.log_softmax(-1)).sum(-1).mean(0)
    losses = dict(zip(ANGLES, entropies.unbind(), strict=True))
    if output.offsets is not None:
        every = torch.arange(model.count, device=angles.device)
        true = torch.stack([b.offset(a[:, None], every) for b, a in zip(model.bins, angles.unbind(-1), strict=True)], 1)
        distance = F.smooth_l1_loss(output.offsets, true, reduction="none", beta=0.1)
        losses["offset"] = model.config.offset_weight * (wanted * distance).sum((1, 2)).mean()
    return losses


def read(config: Config, output: Output) -> Viewpoints:
    """The viewpoints an output stands for.

    Angles are the middle of the most probable bin plus its offset. Without offsets, smoothed targets let neighbouring bins
    vote: the mean of the best bin and its neighbours, weighted by their probabilities. With hard labels the middle stands.
    """
    probabilities = output.logits.float().softmax(-1)
    best = probabilities.argmax(-1)
    angles = []
    for i, bins in enumerate(BINS[config.bins]):
        index = best[:, i]
        if output.offsets is not None:
            offset = output.offsets[:, i].float().gather(1, index[:, None])[:, 0]
        elif config.concentration > 0:
            offset = _vote(probabilities[:, i], index, bins.circle)
        else:
            offset = torch.zeros_like(probabilities[:, i, 0])
        angles.append(bins.angle(index, offset))
    return Viewpoints(best, probabilities, viewpoints.wrapped(torch.stack(angles, -1)))


def _vote(probabilities: Tensor, index: Tensor, circle: bool) -> Tensor:
    """Mean place of a bin and its neighbours relative to its middle, bin widths. (B, 8), (B,) -> (B,)."""
    count = probabilities.shape[1]
    steps = torch.tensor([-1, 0, 1], device=index.device)
    near = index[:, None] + steps
    weights = probabilities.gather(1, near.remainder(count))
    if not circle:
        weights = weights * ((near >= 0) & (near < count))
    return (weights * steps).sum(1) / weights.sum(1)


@torch.no_grad()
def predict(model: Model, image: Tensor, chunk: int = 64) -> Viewpoints:
    """Viewpoints of crops.

    Args:
        model: in eval mode.
        image: (B, 8, S, S), see `data.viewpoint_crops.channels`; channels the model does not look at may be missing.
        chunk: crops per forward pass.
    """
    parts = [read(model.config, model(part)) for part in image.split(chunk)]
    return Viewpoints(*(torch.cat(values) for values in zip(*parts, strict=True)))
