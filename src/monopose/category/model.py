"""Pose of an object of a known category without its CAD model: a generator of pictures that knows poses, fitted to the photo.

A variational autoencoder whose decoder is given the pose: two views of one object, the code of each has to explain the other.
Out of the plane the learned volume turns; in the plane, in scale and position its picture is moved. `fitting.fit` then looks
for the pose and the code whose picture looks like the photo; `fitting.predict` does so for the objects of a frame.

Angles are those of `geometry.viewpoints`; a view adds how its crop shows the object: numbers in the order of
`category.samples.View.stacked`. What the network draws is the object alone in an even light. Objects of a symmetric
category have no azimuth of their own: zero is where the encoded view was taken from, so that print is found again.

Source: Chen et al., Category Level Object Pose Estimation via Neural Analysis-by-Synthesis (ECCV 2020). Different here: the KL
divergence is part of the loss; an alpha channel in place of a white background; codes of shape and of appearance; a head that
proposes poses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry import viewpoints
from ..geometry.rotation import full_precision
from . import perceptual
from .networks import Encoder, Generator, warp

SYMMETRIC = ("bottle", "bowl", "can")  # about +Z
VIEW = 6  # azimuth, elevation, in-plane rotation, shift right, shift down, scale


@dataclass(frozen=True)
class Config:
    category: str = "mug"  # for reports
    symmetric: bool = False  # any rotation about +Z leaves its shape as it is
    size_mean: float = 0.0  # of its objects, diagonal of their boxes, metres; 0: unknown, then results are not metric
    size_spread: float = 0.0  # standard deviation of the logarithm of their sizes
    own_scale: float = 0.9  # share of the side of the generator's own picture that the object's diagonal spans
    input_size: int = 64  # side of crops and pictures, pixels
    crop_scale: float = 1.3  # side of the crop / longer side of the mask's box
    shape_code: int = 16  # length of the code that moulds the volume
    look_code: int = 16  # length of the code that colours its picture; 0: one code does both
    volume: tuple[int, int, int] = (256, 96, 48)  # channels at 4, 8 and 16 voxels a side
    kernel3d: int = 4  # voxels along the side of the kernels by which it grows: 4, or 2, which is much cheaper
    detail: bool = False  # it starts from a learned volume of 16 voxels a side besides
    projection: int = 384  # channels of the flattened volume
    decoder: tuple[int, ...] = (128, 48)  # channels at 32, 64, ... pixels
    encoder: tuple[int, ...] = (48, 96, 192, 256)  # channels of its convolutions
    hidden: int = 128  # features before the encoder's outputs
    pooled: bool = False  # those see the crop in 4 x 4 pixels besides: instance norms hide its colours
    start_deviation: float = 1.0  # of the codes before training; 1: nothing but noise, which the generator learns to ignore
    alpha: bool = True  # the picture has an alpha channel; else its background is white
    head: bool = True  # the encoder also proposes a pose
    azimuth_bins: int = 24  # of that proposal, around the circle
    hidden_share: float = 0.3  # training views of which a part is hidden from the encoder
    colour_weight: float = 5.0  # of the L1 difference of colours, which count where the object is
    alpha_weight: float = 1.0  # of the binary cross-entropy of the silhouette
    kl_weight: float = 0.01  # of the KL divergence from the standard normal distribution, per number of the code
    head_weight: float = 0.2  # of the proposal's loss
    perceptual_weight: float = 0.0  # of the features' difference in training
    perceptual_features: perceptual.Name = perceptual.DEFAULT  # which, see `category.perceptual`
    lr: float = 2e-3  # peak learning rate of the training

    @property
    def codes(self) -> int:
        """Length of both codes together."""
        return self.shape_code + self.look_code


def published(category: str = "mug") -> Config:
    """The size of the original, 64 pixels, white background. Not its defects: the KL divergence counts, AdaIN has no ReLU."""
    return Config(
        category, category in SYMMETRIC, shape_code=16, look_code=0, volume=(512, 128, 64), projection=1024,
        decoder=(256, 64), encoder=(64, 128, 256, 512), alpha=False, head=False, hidden_share=0.0, colour_weight=10.0, lr=3e-3,
    )  # fmt: skip


def standard(category: str = "mug") -> Config:
    """64 pixels, alpha, two codes, proposals; less than half the published arithmetic."""
    return Config(category, category in SYMMETRIC, detail=True, pooled=True, start_deviation=0.2)


def large(category: str = "mug") -> Config:
    """The same for 128 pixels, with the published channels; for GPUs."""
    return replace(
        standard(category), input_size=128, shape_code=24, look_code=24, volume=(512, 128, 64), projection=1024,
        decoder=(256, 96, 48), encoder=(48, 96, 192, 256, 384), hidden=256,
    )  # fmt: skip


def small(category: str = "mug") -> Config:
    """64 pixels and few channels: learns on a CPU in tens of minutes."""
    return replace(
        standard(category), shape_code=12, look_code=8, volume=(64, 48, 24), projection=160, decoder=(64, 32),
        encoder=(24, 48, 96, 128), hidden=96,
    )  # fmt: skip


def tiny(category: str = "mug") -> Config:
    """64 pixels, a third of the arithmetic of `small` again: learns in minutes on one core."""
    return replace(
        standard(category), shape_code=12, look_code=8, volume=(64, 64, 16), kernel3d=2, projection=96, decoder=(40, 20),
        encoder=(24, 48, 96, 128), hidden=128,
    )  # fmt: skip


PRESETS = {"standard": standard, "large": large, "small": small, "tiny": tiny, "published": published}


class Picture(NamedTuple):
    """Synthesised crops."""

    image: Tensor  # (B, 3, S, S), RGB in [0, 1]; without an alpha channel white where nothing is
    alpha: Tensor | None  # (B, S, S), in [0, 1]

    def over(self, ground: float = 0.5) -> Tensor:
        """Laid on a plain background, as it is if there is no alpha channel. (B, 3, S, S)."""
        if self.alpha is None:
            return self.image
        a = self.alpha[:, None]
        return self.image * a + ground * (1 - a)


class Proposal(NamedTuple):
    """What the encoder thinks of the pose, for B crops."""

    azimuth: Tensor  # (B, bins), log-probabilities; bin k is centred on k 2 pi / bins
    elevation: Tensor  # (B,), radians
    placing: Tensor  # (B, 4), in-plane rotation, shift right, shift down, scale


class CodePosterior(NamedTuple):
    """Normal distribution of the codes of B crops."""

    mean: Tensor  # (B, codes)
    log_variance: Tensor  # (B, codes)

    def sample(self) -> Tensor:
        """(B, codes), differentiable in both; for training: draws from torch's own random state, as dropout does."""
        return self.mean + torch.randn_like(self.mean) * (self.log_variance / 2).exp()


class Output(NamedTuple):
    """What a batch of pairs gives: every view drawn from the other's code. Leading dimensions (B, 2) are joined to 2 B."""

    picture: Picture
    posterior: CodePosterior
    proposal: Proposal | None


class Model(nn.Module):
    """Config -> generator and encoder.

    Raises:
        ValueError: the decoder or encoder do not suit `input_size`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        if config.kernel3d not in (2, 4):
            raise ValueError(f"kernel3d must be 2 or 4, got {config.kernel3d}")
        if config.look_code < 0 or config.shape_code < 1:
            raise ValueError(f"shape_code must be 1 or more, look_code 0 or more, got {config.shape_code}, {config.look_code}")
        self.generator = Generator(
            config.shape_code, config.look_code or config.shape_code, config.volume, config.projection, config.decoder,
            4 if config.alpha else 3, config.kernel3d, config.detail,
        )  # fmt: skip
        if self.generator.side != config.input_size:
            raise ValueError(
                f"a decoder of {len(config.decoder)} levels makes pictures of {self.generator.side} pixels a side, and "
                f"input_size is {config.input_size}; set one so that 16 x 2^levels = input_size"
            )
        self.encoder = Encoder(
            4 if config.alpha else 3, config.input_size, config.encoder, config.hidden, 2 * config.codes,
            config.azimuth_bins + VIEW - 1 if config.head else 0, config.pooled,
        )  # fmt: skip
        last = self.encoder.codes[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias[config.codes :] = 2 * math.log(config.start_deviation)

    def encode(self, image: Tensor, alpha: Tensor) -> tuple[CodePosterior, Proposal | None]:
        """Codes and pose of crops.

        Args:
            image: (B, 3, S, S), RGB in [0, 1]; what is outside the mask is not looked at.
            alpha: the mask, (B, S, S), in [0, 1].
        """
        a = alpha[:, None]
        seen = torch.cat([(image - 0.5) * a, a - 0.5], 1) if self.config.alpha else image * a + 1 - a - 0.5
        codes, extra = self.encoder(2 * seen)
        mean, raw = codes.chunk(2, 1)
        return CodePosterior(mean, 6 * torch.tanh(raw / 6)), self._proposal(extra) if self.config.head else None

    def _proposal(self, raw: Tensor) -> Proposal:
        bins, elevation, rest = raw.split([self.config.azimuth_bins, 1, VIEW - 2], 1)
        scale = self.config.own_scale * rest[:, 3:].clamp(-3, 3).exp()
        return Proposal(bins.log_softmax(1), math.pi / 2 * elevation[:, 0].tanh(), torch.cat([rest[:, :3], scale], 1))

    def synthesise(self, codes: Tensor, view: Tensor) -> Picture:
        """The object of a code as a crop shows it.

        Args:
            codes: (B, codes), shape first.
            view: (B, 6), or azimuth and elevation alone, (B, 2): then upright, centred, in the generator's own scale.
        """
        shape, look = (codes, codes) if not self.config.look_code else codes.split(
            [self.config.shape_code, self.config.look_code], 1
        )  # fmt: skip
        turn = full_precision(viewpoints.rotation_of)(torch.cat([view[:, :2], torch.zeros_like(view[:, :1])], 1))
        raw = self.generator(shape, look, turn)
        motion = None
        if view.shape[1] == VIEW:
            motion = torch.cat([view[:, 2:3], view[:, 5:] / self.config.own_scale, view[:, 3:5]], 1)
        if not self.config.alpha:
            faint = raw.tanh() / 2 - 0.5  # less than white, which is 0 here and so beyond the edges
            return Picture(1 + (faint if motion is None else warp(faint, motion)), None)
        drawn = raw.sigmoid()
        if motion is not None:
            drawn = warp(drawn, motion)
        return Picture(drawn[:, :3], drawn[:, 3])

    def forward(self, image: Tensor, visible: Tensor, view: Tensor) -> Output:
        """Pairs of views, each drawn from the code of the other.

        Args:
            image: photos, (B, 2, 3, S, S), RGB in [0, 1].
            visible: masks of what is seen of the object, (B, 2, S, S), in [0, 1] or bool.
            view: (B, 2, 6).
        """
        side = self.config.input_size
        if image.dim() != 5 or image.shape[1:] != (2, 3, side, side):
            raise ValueError(f"expected two views each, (B, 2, 3, {side}, {side}), got {tuple(image.shape)}")
        photos, masks = image.flatten(0, 1), visible.flatten(0, 1).to(image.dtype)
        if self.training and self.config.hidden_share > 0:
            masks = masks * occluders(len(masks), side, self.config.hidden_share, masks)
        posterior, proposal = self.encode(photos, masks)
        codes = (posterior.sample() if self.training else posterior.mean).unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        if self.config.symmetric:
            view = torch.cat([view[..., :1] - view[..., :1].flip(1), view[..., 1:]], -1)
        return Output(self.synthesise(codes, view.flatten(0, 1)), posterior, proposal)


def occluders(count: int, side: int, share: float, like: Tensor) -> Tensor:
    """Masks, a `share` of which are 0 beyond a random line that leaves the middle free.

    Returns:
        (count, side, side), 1 where nothing is hidden.
    """
    angle = 2 * math.pi * torch.rand(count, 1, 1, device=like.device)
    beyond = 0.1 + 0.4 * torch.rand(count, 1, 1, device=like.device)  # half sides from the middle
    axis = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) * (2 / side) - 1
    outside = angle.cos() * axis + angle.sin() * axis[:, None] > beyond
    chosen = torch.rand(count, 1, 1, device=like.device) < share
    return 1 - (outside & chosen).to(like)


def kl(posterior: CodePosterior) -> Tensor:
    """KL divergence of the codes from the standard normal distribution, per number of the code, nats; a scalar."""
    mean, log_variance = posterior
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()


def loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two-view reconstruction, silhouettes, KL divergence, the proposal.

    Args:
        model, output: the network and what it made of the batch.
        batch: "rgba" (B, 2, 4, S, S), the objects alone: colour times alpha, and alpha; "view" (B, 2, 6).

    Returns:
        scalar tensors by name: colour, alpha, kl, azimuth, elevation, placing, perceptual; their sum is the loss.
    """
    config = model.config
    rgb, a = batch["rgba"].flatten(0, 1).float().split([3, 1], 1)  # colours times alpha
    made = Picture(output.picture.image.float(), None if output.picture.alpha is None else output.picture.alpha.float())
    losses = {"kl": config.kl_weight * kl(CodePosterior(*(v.float() for v in output.posterior)))}
    if made.alpha is None:
        wanted = rgb + 1 - a
        losses["colour"] = config.colour_weight * (made.image - wanted).abs().mean()
    else:
        wanted = rgb + 0.5 * (1 - a)
        count = (3 * a.sum((1, 2, 3))).clamp_min(1)
        losses["colour"] = config.colour_weight * ((made.image * a - rgb).abs().sum((1, 2, 3)) / count).mean()
        losses["alpha"] = config.alpha_weight * cross_entropy(made.alpha, a[:, 0]).mean()
    if config.perceptual_weight > 0:
        net = perceptual.network(config.perceptual_features, rgb.device)
        with torch.no_grad():
            features = net(wanted)
        losses["perceptual"] = config.perceptual_weight * net.distance(net(made.over()), features).mean()
    if output.proposal is not None:
        losses |= {k: config.head_weight * v for k, v in _proposal_losses(config, output.proposal, batch).items()}
    return losses


def cross_entropy(probability: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy per element, nats; bounded where the probability is 0 or 1, and safe under autocast."""
    p = probability.float().clamp(1e-4, 1 - 1e-4)
    return -(wanted * p.log() + (1 - wanted) * (1 - p).log())


def _proposal_losses(config: Config, proposal: Proposal, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    azimuth, elevation, inplane, right, down, scale = batch["view"].flatten(0, 1).float().unbind(1)
    losses = {}
    if not config.symmetric:  # else there is nothing to see
        bins = config.azimuth_bins
        centres = torch.arange(bins, device=azimuth.device) * (2 * math.pi / bins)
        sharp = (bins / (2 * math.pi)) ** 2  # a von Mises distribution as wide as a bin
        wanted = (sharp * (azimuth[:, None] - centres).cos()).softmax(1)
        losses["azimuth"] = -(wanted * proposal.azimuth.float()).sum(1).mean()
    away = F.smooth_l1_loss(proposal.elevation.float(), elevation, beta=0.1)
    turn, x, y, size = proposal.placing.float().unbind(1)
    predicted, true = torch.stack([x, y, size.log()], 1), torch.stack([right, down, scale.log()], 1)
    losses["elevation"] = 4 * away
    losses["placing"] = 4 * (F.smooth_l1_loss(predicted, true, beta=0.1) + (1 - (turn - inplane).cos()).mean())
    return losses
