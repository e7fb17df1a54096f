"""Analysis by synthesis: the pose and the code whose synthesised picture looks like the photo.

`fit` starts in many places at once, lets Adam follow the gradient of the generator's picture, and keeps the best; `predict`
does so for the objects of a frame and says where they are in metres, as far as the category tells how large its objects are.

Source: Chen et al., Category Level Object Pose Estimation via Neural Analysis-by-Synthesis (ECCV 2020), sec. 3.3. Different
here: starts all around and where the encoder proposes them, first many for few steps and then few for many; a silhouette term;
pixels that something else hides do not count.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..geometry import boxes as box_ops
from ..geometry import camera, rotation, viewpoints
from ..types import Detections, Frame, PoseEstimates
from . import perceptual
from .model import CodePosterior, Model, Picture, Proposal, cross_entropy
from .view import View, pose_from_view, view_of

FEWEST = 16  # mask pixels that an object needs to be fitted
LEAST_SPREAD_DEG = 3.0  # of the rotation of a fit whose ends agree


@dataclass(frozen=True)
class Phase:
    """A number of steps with the best of the starts."""

    starts: int
    steps: int
    rate: float = 1.0  # of the learning rates


@dataclass(frozen=True)
class FitConfig:
    """How to search. Learning rates are Adam's, per step."""

    phases: tuple[Phase, ...] = (Phase(16, 8, 1.5), Phase(4, 20, 1.0))
    proposals: float = 0.5  # share of the starts that the encoder proposes, if it can
    elevation_deg: tuple[float, float] = (-10.0, 80.0)  # of the other starts
    sampled: bool = True  # starts sample their code from the encoder's posterior; else all take its mean
    align: bool = True  # scale and shift the starts so that their silhouettes lie on the mask
    lr_azimuth: float = 0.09  # radians
    lr_elevation: float = 0.05  # radians
    lr_inplane: float = 0.03  # radians
    lr_shift: float = 0.02  # half sides of the crop
    lr_scale: float = 0.02  # of the logarithm
    lr_code: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)  # of Adam
    prior_weight: float = 0.02  # of the mean square of the code
    alpha_weight: float = 0.5  # of the silhouette's cross-entropy, where the generator has an alpha channel
    colour_weight: float = 1.0  # of the mean absolute difference of colours
    head_weight: float = 0.02  # of the negative log-likelihood of the angles as the encoder's pose head sees them, nats
    head_elevation_deg: float = 8.0  # standard deviation of its elevation
    patience: int = 8  # a phase ends after so many steps that did not lower the least loss by `tolerance` of it
    tolerance: float = 0.005
    select: Literal["vote", "least"] = "least"
    vote_best: int = 5  # of the ends, sorted by loss, take part in the vote
    vote_deg: float = 10.0  # ends nearer than this agree
    gain: float = 0.01  # share by which an end must lower the loss of the pose head's start; else that start is the answer
    features: perceptual.Name = perceptual.DEFAULT  # in which pictures are compared, see `category.perceptual`


def published(features: perceptual.Name = "vgg19") -> FitConfig:
    """32 starts, 50 steps of Adam, the published rates, chosen by vote. The starts go all around: the original's, from -90 to
    90 degrees, left the back half to chance.

    The published weight of the prior, 1, belongs to VGG-19's features, whose squares are large; beside others, of unit length,
    it would weigh as much as the photo, and gets the weight that suits them.
    """
    prior = 1.0 if features == "vgg19" else FitConfig.prior_weight
    return FitConfig(
        (Phase(32, 50),), proposals=0.0, elevation_deg=(45.0, 45.0), align=False, lr_azimuth=0.03 * math.pi,
        lr_elevation=0.01 * math.pi, lr_inplane=0.01 * math.pi, lr_shift=0.03, lr_scale=0.03, lr_code=0.3, betas=(0.5, 0.999),
        prior_weight=prior, alpha_weight=0.0, colour_weight=0.0, head_weight=0.0, patience=1000, select="vote",
        features=features,
    )  # fmt: skip


def quick() -> FitConfig:
    """A few starts, mostly those the pose head proposes."""
    return FitConfig((Phase(8, 6, 1.5), Phase(2, 10)), proposals=0.75)


class CandidateViews(NamedTuple):
    """Where K starts are: all that the generator needs."""

    values: Tensor  # (K, 6), in the order of `category.samples.View.stacked`
    codes: Tensor  # (K, codes)

    def rows(self, index: Tensor) -> CandidateViews:
        return CandidateViews(self.values[index], self.codes[index])


class FitStep(NamedTuple):
    """One step of a fit, before the variables move."""

    starts: Tensor  # (K,), int64, which of the starts still run
    losses: Tensor  # (K,)
    views: CandidateViews


class Fit(NamedTuple):
    """What `fit` found."""

    views: CandidateViews  # of the K starts that were kept to the end, each where its loss was least
    losses: Tensor  # (K,)
    least: int  # of them, the one whose loss is least
    voted: int  # the one that the vote chose
    votes: int  # that it got, itself included
    chosen: int  # of the two, the one the configuration asks for; or the pose head's start, if that explains the photo as well
    features: str  # in which the pictures were compared
    history: list[FitStep]
    metric: bool = False  # whether the pose made from it is in metres; `predict` fills it in
    seconds: float = 0.0
    kept_head: bool = False  # nothing explained the photo clearly better than the pose head's start, which is then the last row
    head_loss: float = math.nan  # there; NaN if no start was proposed
    seen: Tensor | None = None  # what was looked at: image, mask, what is known; (5, S, S)
    square: Tensor | None = None  # where `predict` cut it out of the photo, (4,), xyxy on pixel edges
    distance_per_size: float | None = None  # of the object from the camera, in sizes of it; `predict` fills it in

    @property
    def view(self) -> View:
        """The chosen one, without batch dimension."""
        view = view_of(self.views.values[self.chosen])
        turned = viewpoints.wrapped(torch.stack(view[:3]))
        return View(turned[0], turned[1], turned[2], view.shift, view.scale)


def fit(
    model: Model, image: Tensor, mask: Tensor, config: FitConfig | None = None, generator: torch.Generator | None = None,
    known: Tensor | None = None, start: Tensor | None = None,
) -> Fit:  # fmt: skip
    """Fit the generator to one crop. The network is not changed.

    Args:
        model: in evaluation mode.
        image: the crop, (3, S, S), RGB in [0, 1].
        mask: what of it the object covers, (S, S), in [0, 1].
        config: the search.
        generator: source of randomness, on the CPU; None: seeded by 0.
        known: (S, S), in [0, 1]: 0 where the mask says nothing of the object, as something else hides it. None: 1 everywhere.
        start: (6,), where all starts begin, with codes of their own; None: see `FitConfig`.

    Returns:
        `Fit`. Objects of symmetric categories keep azimuth 0 throughout.

    Raises:
        ValueError: other shapes; the mask is empty.
    """
    began = time.perf_counter()
    config = config or FitConfig()
    side = model.config.input_size
    for name, value, wanted in (
        ("image", image, (3, side, side)),
        ("mask", mask, (side, side)),
        ("known", known, (side, side)),
    ):
        if value is not None and tuple(value.shape) != wanted:
            raise ValueError(f"{name} must be {wanted}, the network's input_size, got {tuple(value.shape)}")
    if not float(mask.sum()) > 0:
        raise ValueError("the mask is empty: there is nothing to fit to; check that it belongs to this crop")
    device = next(model.parameters()).device
    image, mask = image.to(device, torch.float32), mask.to(device, torch.float32)
    seen = torch.ones_like(mask) if known is None else known.to(device, torch.float32)
    generator = generator or torch.Generator().manual_seed(0)
    with torch.no_grad():
        posterior, proposal = model.encode(image[None], (mask * seen)[None])
    target = _PhotometricLoss(model, image, mask, seen, config, proposal)
    learns = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)
    try:
        starts = _starts(model, posterior, proposal, mask * seen, config, generator, seen)
        if start is not None:
            starts = starts._replace(values=start.to(starts.values).expand_as(starts.values).clone())
        found = _search(model, target, starts, config)
    finally:
        for parameter, learned in zip(model.parameters(), learns, strict=True):
            parameter.requires_grad_(learned)
    looked = torch.cat([image, mask[None], seen[None]])
    return found._replace(features=target.net.name, seconds=time.perf_counter() - began, seen=looked)


class _PhotometricLoss:
    """The photo as it is compared: features and masks, computed once.

    Args: see `fit`.
    """

    def __init__(
        self, model: Model, image: Tensor, mask: Tensor, known: Tensor, config: FitConfig, proposal: Proposal | None = None
    ) -> None:  # fmt: skip
        self.model, self.config = model, config
        self.proposal = proposal if config.head_weight > 0 else None
        self.ground = 0.5 if model.config.alpha else 1.0
        self.net = perceptual.network(config.features, image.device)
        self.mask, self.known = mask, known
        self.image = self._hidden(image * mask + self.ground * (1 - mask))[None]
        self.wanted = self.net(self.image)

    def _hidden(self, pictures: Tensor) -> Tensor:
        """Pictures in which all that is not known looks alike."""
        return pictures * self.known + self.ground * (1 - self.known)

    def losses(self, views: CandidateViews) -> Tensor:
        """How badly each of K views explains the photo, (K,)."""
        config = self.config
        made = self.model.synthesise(views.codes, views.values)
        picture = self._hidden(made.over(self.ground))
        total = self.net.distance(self.net(picture), self.wanted, self.known[None, None])
        total = total + config.prior_weight * views.codes.square().mean(1)
        count = self.known.sum()
        if config.colour_weight > 0:
            total = total + config.colour_weight * (picture - self.image).abs().mean(1).sum((1, 2)) / count
        if made.alpha is not None and config.alpha_weight > 0:
            outline = cross_entropy(made.alpha, self.mask.expand_as(made.alpha)) * self.known
            total = total + config.alpha_weight * outline.sum((1, 2)) / count
        if self.proposal is not None:
            total = total + config.head_weight * pose_head_nll(
                self.proposal, views.values, self.model.config.symmetric, math.radians(config.head_elevation_deg)
            )
        return total


def pose_head_nll(proposal: Proposal, values: Tensor, symmetric: bool, elevation_spread: float) -> Tensor:
    """How little the pose head expects some angles, nats, 0 where it expects them most.

    Args:
        proposal: of one crop.
        values: (K, 6), views.
        symmetric: then azimuths mean nothing.
        elevation_spread: standard deviation of the head's elevation, radians.

    Returns:
        (K,), differentiable: azimuths between the middles of two bins are interpolated; of elevations, Cauchy's tails.
    """
    total = torch.log1p(((values[:, 1] - proposal.elevation) / elevation_spread).square() / 2)
    if symmetric:
        return total
    logits = proposal.azimuth[0]
    bins = len(logits)
    place = values[:, 0] * (bins / (2 * math.pi))
    below = place.detach().floor()
    share, index = place - below, below.long()
    low, high = logits[index.remainder(bins)], logits[(index + 1).remainder(bins)]
    return total + logits.max() - low - share * (high - low)


@torch.no_grad()
def _starts(
    model: Model, posterior: CodePosterior, proposal: Proposal | None, mask: Tensor, config: FitConfig,
    generator: torch.Generator, known: Tensor,
) -> CandidateViews:  # fmt: skip
    """Where the search begins: codes from the posterior, angles around the circle and from the proposal."""
    count, device = config.phases[0].starts, mask.device
    draw = torch.randn(count, model.config.codes, generator=generator).to(device) if config.sampled else 0.0
    codes = posterior.mean + draw * (posterior.log_variance / 2).exp()
    codes = codes.expand(count, -1).clone()
    proposed = round(config.proposals * count) if proposal is not None else 0
    around = count - proposed
    turn = torch.arange(around) * (2 * math.pi / max(around, 1))
    low, high = (math.radians(v) for v in config.elevation_deg)
    golden = (torch.arange(around) * ((math.sqrt(5) - 1) / 2) + 0.5).remainder(1)  # spread whatever their number
    up = low + (high - low) * golden
    angles = torch.stack([turn, up], 1).to(device)
    placing = mask.new_tensor([0.0, 0.0, 0.0, model.config.own_scale]).expand(count, 4)
    if proposal is not None:
        placing = proposal.placing.expand(count, 4)
        if proposed:
            angles = torch.cat([_proposed(proposal.azimuth[0], proposal.elevation[0], proposed, generator), angles])
    if model.config.symmetric:
        angles[:, 0] = 0
    views = CandidateViews(torch.cat([angles, placing], 1), codes)
    if config.align and model.config.alpha and bool((known > 0.5).all()):
        views = aligned(model, views, mask)
    return views


def _proposed(logits: Tensor, elevation: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Starts where the encoder sees them. (bins,), log-probabilities; () radians -> (count, 2), the most likely first.

    Azimuths at equal steps of the cumulative distribution: an ambiguous view starts in all its places. Elevations spread.
    """
    bins = len(logits)
    p = logits.exp().cpu()
    order = (torch.arange(bins) + int(p.argmax()) - bins // 2).remainder(bins)  # the circle, cut open opposite to the best
    steps = (torch.arange(count) + 0.5) / count
    below = p[order].cumsum(0)
    index = torch.searchsorted(below / below[-1], steps).clamp_max(bins - 1)
    within = torch.rand(count, generator=generator) - 0.5
    azimuth = (order[index] + within) * (2 * math.pi / bins)
    up = elevation.cpu() + math.radians(8) * torch.randn(count, generator=generator)
    azimuth[0], up[0] = order[bins // 2] * (2 * math.pi / bins), elevation.cpu()  # the best guess as it is
    return torch.stack([azimuth, up], 1).to(logits)


def aligned(model: Model, views: CandidateViews, mask: Tensor) -> CandidateViews:
    """Views scaled and shifted so that area and centre of their silhouettes become those of the mask, (S, S)."""
    made = model.synthesise(views.codes, views.values).alpha
    assert made is not None
    area, centre = _moments(made)
    wanted_area, wanted_centre = _moments(mask[None])
    usable = area > 0.02 * mask.numel() / 4  # a generator that draws nothing here has no silhouette to move
    grow = torch.where(usable, (wanted_area / area.clamp_min(1e-6)).sqrt().clamp(0.5, 2.0), 1.0)
    turned, shift, scale = views.values.split([3, 2, 1], 1)
    moved = wanted_centre + grow[:, None] * (shift - centre)
    moved = torch.where(usable[:, None], moved, shift)
    return views._replace(values=torch.cat([turned, moved, scale * grow[:, None]], 1))


def _moments(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Area, pixels, and centre, half sides, of masks. (K, S, S) -> (K,), (K, 2)."""
    n = masks.shape[-1]
    axis = (torch.arange(n, device=masks.device, dtype=masks.dtype) + 0.5) * (2 / n) - 1
    area = masks.sum((1, 2))
    x, y = (masks.sum(1) * axis).sum(1), (masks.sum(2) * axis).sum(1)
    return area, torch.stack([x, y], 1) / area.clamp_min(1e-6)[:, None]


def _search(model: Model, target: _PhotometricLoss, views: CandidateViews, config: FitConfig) -> Fit:
    history: list[FitStep] = []
    alive = torch.arange(len(views.codes), device=views.codes.device)
    kept, least = views, torch.full((len(alive),), math.inf, device=alive.device)
    for phase in config.phases:
        keep = least.sort(stable=True).indices[: phase.starts] if history else alive
        alive, kept, least = alive[keep], kept.rows(keep), least[keep]
        kept, least = _descend(model, target, kept, least, alive, phase, config, history)
    symmetric = model.config.symmetric
    first, voted, votes = vote(kept.values[:, :3], least, config.vote_best, config.vote_deg, symmetric)
    chosen = voted if config.select == "vote" else first
    found = Fit(kept, least, first, voted, votes, chosen, "", history)
    if not model.config.head or round(config.proposals * len(views.codes)) == 0:
        return found
    at_head = history[0].losses[:1]
    if float(least[chosen]) < (1 - config.gain) * float(at_head):
        return found._replace(head_loss=float(at_head))
    both = CandidateViews(*(torch.cat([a, b[:1]]) for a, b in zip(kept, views, strict=True)))
    return found._replace(
        views=both, losses=torch.cat([least, at_head]), chosen=len(least), kept_head=True, head_loss=float(at_head)
    )


def _descend(
    model: Model, target: _PhotometricLoss, views: CandidateViews, least: Tensor, alive: Tensor, phase: Phase,
    config: FitConfig, history: list[FitStep],
) -> tuple[CandidateViews, Tensor]:  # fmt: skip
    """One phase. Returns where each start was best, and its loss there."""
    turned, shift, size = (part.clone() for part in views.values.split([3, 2, 1], 1))
    azimuth, elevation, inplane = (turned[:, i : i + 1].clone() for i in range(3))
    size, code = size.log(), views.codes.clone()
    moving = [
        (azimuth, 0.0 if model.config.symmetric else config.lr_azimuth), (elevation, config.lr_elevation),
        (inplane, config.lr_inplane), (size, config.lr_scale), (shift, config.lr_shift), (code, config.lr_code),
    ]  # fmt: skip
    groups = [{"params": [value.requires_grad_()], "lr": rate * phase.rate} for value, rate in moving]
    adam = torch.optim.Adam(groups, betas=config.betas)
    best, waited = math.inf, 0
    with torch.enable_grad():
        for step in range(phase.steps + 1):
            now = CandidateViews(torch.cat([azimuth, elevation, inplane, shift, size.exp()], 1), code)
            losses = target.losses(now)
            with torch.no_grad():
                here = CandidateViews(*(value.detach().clone() for value in now))
                better = losses < least
                least = torch.where(better, losses.detach(), least)
                views = CandidateViews(*(torch.where(better[:, None], a, b) for a, b in zip(here, views, strict=True)))
                history.append(FitStep(alive, losses.detach().clone(), here))
                waited = 0 if float(least.min()) < best * (1 - config.tolerance) else waited + 1
                best = min(best, float(least.min())) if waited == 0 else best
            if step == phase.steps or waited >= config.patience:
                break
            adam.zero_grad()
            losses.sum().backward()  # Adam does not care by what the gradient of each start is multiplied
            adam.step()
    return views, least


def vote(
    angles: Tensor, losses: Tensor, best: int = 5, within_deg: float = 10.0, symmetric: bool = False
) -> tuple[int, int, int]:
    """Choose among ends.

    Args:
        angles: (K, 3), radians.
        losses: (K,).
        best: so many with the least losses take part.
        within_deg: ends whose rotations differ by less agree; of symmetric objects, whose +Z axes do.
        symmetric: about +Z.

    Returns:
        the one with the least loss; of those that most agree with, the one with the least loss; how many agree with that one,
        itself included.
    """
    order = losses.sort(stable=True).indices[:best]
    R = viewpoints.rotation_of(angles[order])
    near = rotation_distance(R[:, None], R[None], symmetric) < math.radians(within_deg)
    count = near.sum(1)
    winner = int((count == count.max()).nonzero()[0, 0])
    return int(order[0]), int(order[winner]), int(count[winner])


def rotation_distance(R_a: Tensor, R_b: Tensor, symmetric: bool = False) -> Tensor:
    """Angle between rotations, of symmetric objects between their +Z axes. (..., 3, 3), (..., 3, 3) -> (...,), radians."""
    if not symmetric:
        return rotation.angle_between(R_a, R_b)
    a, b = torch.broadcast_tensors(R_a[..., 2], R_b[..., 2])
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1))


@torch.no_grad()
def picture(model: Model, step: FitStep, row: int | None = None) -> Picture:
    """What a step of a fit looked like, for animations.

    Args:
        step: of `Fit.history`.
        row: of the starts that ran then; None: the one with the least loss.
    """
    best = int(step.losses.argmin()) if row is None else row
    return model.synthesise(step.views.codes[best : best + 1], step.views.values[best : best + 1])


def predict(
    model: Model, frame: Frame, detections: Detections, config: FitConfig | None = None,
    generator: torch.Generator | None = None, hidden: Tensor | None = None,
) -> PoseEstimates:  # fmt: skip
    """Poses of the objects of a frame that belong to the model's category.

    Args:
        model: in evaluation mode.
        frame: the photo and its camera.
        detections: objects of that category, with masks of what is visible of them. Other objects in the list hide what
            their masks cover.
        config: the search.
        generator: source of randomness, on the CPU; None: seeded by 0.
        hidden: (H, W), bool, where something else stands before the objects, besides the other detections.

    Returns:
        poses in the order of the detections, without those of fewer than 16 mask pixels. If the model does not know how
        large its objects are, translations are in sizes of the object: see `Fit.metric`. Scores are those of the detections,
        times the share of the best ends that agree. Covariances say how sizes spread in the category and how far the best
        ends lie apart; they were not calibrated.

    Raises:
        ValueError: there are no masks.
    """
    return predict_traced(model, frame, detections, config, generator, hidden)[0]


def predict_traced(
    model: Model, frame: Frame, detections: Detections, config: FitConfig | None = None,
    generator: torch.Generator | None = None, hidden: Tensor | None = None,
) -> tuple[PoseEstimates, list[Fit]]:  # fmt: skip
    """`predict`, and the `Fit` of each pose."""
    began = time.perf_counter()
    if detections.masks is None:
        raise ValueError("fitting a category needs a mask of each object; give masks, or a detector that makes them")
    config, generator = config or FitConfig(), generator or torch.Generator().manual_seed(0)
    known = model.config.size_mean > 0
    size = model.config.size_mean if known else 1.0
    masks, K, photo = detections.masks.bool(), frame.camera.K.float(), frame.image.float()
    everything = masks.sum(0)
    rows, poses, spreads, scores, fits = [], [], [], [], []
    for row in range(len(detections)):
        mask = masks[row]
        if int(mask.sum()) < FEWEST:
            continue
        box = box_ops.from_masks(mask[None]).float()
        square = box_ops.square(box, model.config.crop_scale)
        others = (everything - mask.int() > 0) & ~mask
        others = others if hidden is None else others | (hidden & ~mask)
        image, cut_mask, seen = crop(photo, mask, ~others, square, model.config.input_size)
        found = fit(model, image, cut_mask, config, generator, seen)._replace(metric=known, square=square[0])
        values = found.view.stacked()
        pose = pose_from_view(view_of(values), K.to(values), square[0].to(values), size)
        found = found._replace(distance_per_size=float(pose[:3, 3].norm()) / size)
        share = found.votes if found.chosen == found.voted else agreeing(found, found.chosen, config, model.config.symmetric)
        rows.append(row)
        poses.append(pose)
        spreads.append(covariance(found, pose, model.config.size_spread if known else 0.0, config, model.config.symmetric))
        scores.append(float(detections.scores[row]) * share / min(config.vote_best, len(found.losses)))
        fits.append(found)
    labels = detections.labels[rows]
    device = detections.boxes.device
    estimates = PoseEstimates(
        labels,
        torch.stack(poses).to(device) if poses else torch.zeros(0, 4, 4, device=device),
        torch.tensor(scores, device=device),
        torch.stack(spreads).to(device) if spreads else torch.zeros(0, 6, 6, device=device),
        detections.boxes[rows],
        {int(label): model.config.category for label in labels},
        {"category": time.perf_counter() - began},
    )
    return estimates, fits


def distance(found: Fit, size: float) -> float:
    """Distance from the camera that a fit found by `predict` gives an object of this size, in the unit of the size."""
    assert found.distance_per_size is not None, "only `predict` knows the camera"
    return size * found.distance_per_size


def crop(image: Tensor, mask: Tensor, known: Tensor, square: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `fit` looks at, cut out of a photo.

    Args:
        image: (3, H, W), RGB in [0, 1].
        mask: (H, W), bool.
        known: (H, W), bool, where the mask says whether the object is there. Beyond the photo nothing is known.
        square: (1, 4), xyxy pixel edges.
        side: of the crop, pixels.

    Returns:
        image (3, side, side); mask and known (side, side), in [0, 1].
    """
    flat = torch.stack([mask, known]).to(image) + 0.5  # `cut` puts 0.5 where there is no photo
    cut = camera.cut(flat, square.to(image), side)[0] - 0.5
    return camera.cut(image, square.to(image), side)[0], cut[0].clamp(0, 1), cut[1].clamp(0, 1)


def agreeing(found: Fit, end: int, config: FitConfig, symmetric: bool = False) -> int:
    """How many of the best ends a vote would count for this one, itself included."""
    R = viewpoints.rotation_of(found.views.values[:, :3])
    order = found.losses.sort(stable=True).indices[: config.vote_best]
    return int((rotation_distance(R[order], R[end], symmetric) < math.radians(config.vote_deg)).sum())


def covariance(found: Fit, cam_from_obj: Tensor, size_spread: float, config: FitConfig, symmetric: bool = False) -> Tensor:
    """How far a pose may be off, as a covariance of the tangent of `se3.retract`, (6, 6).

    Along the ray as much as sizes spread in the category, and half a percent of the distance in every direction; rotations
    by the mean square angle of the best ends, at least 3 degrees. Not calibrated.
    """
    t = cam_from_obj[:3, 3]
    R = viewpoints.rotation_of(found.views.values[:, :3])
    order = found.losses.sort(stable=True).indices[: config.vote_best]
    apart = rotation_distance(R[order], R[found.chosen], symmetric).square().mean()
    about = apart.clamp_min(math.radians(LEAST_SPREAD_DEG) ** 2)
    eye = torch.eye(3, dtype=t.dtype, device=t.device)
    place = torch.outer(t, t) * size_spread**2 + eye * (0.005 * t.norm()) ** 2
    return torch.block_diag(place, eye * about)
