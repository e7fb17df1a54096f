"""What two pictures of the same thing have in common: their features, and how well each place in one fits each in the other."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets.backbones import backbone
from ..nets.unet import conv_norm, enlarged


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
        which = torch.where((index < 0)[:, None], self.which.weight.mean(0), self.which(index.clamp_min(0)))
        x = self.lateral(x) + which[..., None, None]
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = enlarged(x, skip.shape[-2:])
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


INPUTS = 10  # position, normal, colour, and whether there is a colour


class Surface(NamedTuple):
    """Points of one or more objects on L levels, from many to few.

    The object's diameter is 2. Each entry but the first is a tuple over the levels l, or over the steps between them.
    """

    features: Tensor  # (M_0, 10), of the finest level
    points: tuple[Tensor, ...]  # (M_l, 3)
    near: tuple[Tensor, ...]  # (M_l, k), rows of the same level
    below: tuple[Tensor, ...]  # (M_(l+1), k), rows of level l around each point of level l + 1
    above: tuple[Tensor, ...]  # (M_l,), the row of level l + 1 nearest to each point of level l

    def to(self, device: torch.device | str) -> "Surface":
        """The same on another device."""
        return Surface(self.features.to(device), *(tuple(v.to(device) for v in part) for part in self[1:]))


def farthest_points(points: Tensor, n: int) -> Tensor:
    """Rows of n points that cover a set evenly: each is the one farthest from those before it. (N, 3) -> (n,).

    The first is the point farthest from the mean, so nothing is random. n beyond N repeats points.
    """
    distance = (points - points.mean(0)).square().sum(1)
    row = distance.argmax()
    distance = torch.full_like(distance, torch.inf)
    rows = []
    for _ in range(n):
        rows.append(row)
        distance = torch.minimum(distance, (points - points[row]).square().sum(1))
        row = distance.argmax()
    return torch.stack(rows)


def nearest(queries: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k points nearest to each query, (Q, 3), (N, 3) -> distances and rows, (Q, k); of fewer points, the last repeats."""
    found = torch.cdist(queries, points).topk(min(k, len(points)), largest=False)
    short = k - found.indices.shape[1]
    if short <= 0:
        return found.values, found.indices
    return tuple(torch.cat([v, v[:, -1:].expand(-1, short)], 1) for v in found)  # type: ignore[return-value]


def surface(
    points: Tensor, normals: Tensor, colors: Tensor | None, counts: Sequence[int] = (512, 128, 32), k: int = 12
) -> Surface:
    """The pyramid of one object.

    Args:
        points: many points of its surface, (N, 3), centred, in half diameters.
        normals: unit, (N, 3).
        colors: RGB in [0, 1], (N, 3), or None: an object without texture.
        counts: points of each level.
        k: neighbours.
    """
    known = torch.full_like(points[:, :1], float(colors is not None))
    paint = torch.full_like(points, 0.0) if colors is None else colors - 0.5
    everything = torch.cat([points, normals, paint, known], 1)
    rows = farthest_points(points, counts[0])
    levels = [points[rows]]
    for count in counts[1:]:
        levels.append(levels[-1][farthest_points(levels[-1], count)])
    return Surface(
        everything[rows],
        tuple(levels),
        tuple(nearest(p, p, k)[1] for p in levels),
        tuple(nearest(few, many, k)[1] for many, few in pairwise(levels)),
        tuple(nearest(many, few, 1)[1][:, 0] for many, few in pairwise(levels)),
    )


def joined(surfaces: Sequence[Surface]) -> Surface:
    """Several objects as one graph without edges between them: rows of the first come first, on every level."""
    counts = [[len(p) for p in s.points] for s in surfaces]
    starts = [[sum(c[level] for c in counts[:i]) for level in range(len(counts[0]))] for i in range(len(surfaces))]

    def rows(name: str, shift: int) -> tuple[Tensor, ...]:
        parts = [[v + starts[i][level + shift] for level, v in enumerate(getattr(s, name))] for i, s in enumerate(surfaces)]
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))

    points = tuple(torch.cat(level) for level in zip(*(s.points for s in surfaces), strict=True))
    return Surface(torch.cat([s.features for s in surfaces]), points, rows("near", 0), rows("below", 0), rows("above", 1))


class _Ask(nn.Module):
    """What the neighbours of a point know, and where they lie."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.what = nn.Linear(inputs, outputs)
        self.where = nn.Linear(3, outputs, bias=False)
        self.out = nn.Linear(outputs, outputs)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, features: Tensor, points: Tensor, rows: Tensor, queries: Tensor) -> Tensor:
        """(N, C), (N, 3), (Q, k), (Q, 3) -> (Q, outputs)."""
        offset = points[rows] - queries[:, None]
        offset = offset / offset.norm(dim=-1).amax(1).clamp_min(1e-6)[:, None, None]
        answers = F.relu(self.what(features)[rows] + self.where(offset))
        return self.norm(self.out(answers.amax(1)))


class SurfaceNet(nn.Module):
    """Surface -> a descriptor of unit length and a context for each of its finest points.

    Args:
        descriptor: length of the descriptors.
        context: channels of the context.
        width: channels of the finest level; they double at each.
        levels: of the pyramid.
    """

    def __init__(self, descriptor: int = 32, context: int = 64, width: int = 64, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.enter = nn.Linear(INPUTS, width)
        self.here = nn.ModuleList([_Ask(w, w) for w in widths])
        self.down = nn.ModuleList([_Ask(a, b) for a, b in pairwise(widths)])
        self.up = nn.ModuleList([nn.Linear(a + b, a) for a, b in pairwise(widths)])
        # centred and of unit spread, or they would all become equal, which the circle loss takes very long to leave
        self.descriptor = nn.Sequential(nn.Linear(width, descriptor), nn.BatchNorm1d(descriptor, affine=False))
        self.context = nn.Linear(width, context)

    def forward(self, surface: Surface) -> tuple[Tensor, Tensor]:
        """Descriptors (M, D), unit length, and contexts (M, C) of the M points of the finest level."""
        x = F.relu(self.enter(surface.features))
        skips = []
        for level, ask in enumerate(self.here):
            if level:
                x = F.relu(self.down[level - 1](x, surface.points[level - 1], surface.below[level - 1], surface.points[level]))
            x = F.relu(x + ask(x, surface.points[level], surface.near[level], surface.points[level]))
            skips.append(x)
        for level in range(len(self.up) - 1, -1, -1):
            x = F.relu(self.up[level](torch.cat([skips[level], x[surface.above[level]]], 1)))
        return F.normalize(self.descriptor(x), dim=-1), self.context(x)


MARGIN = 0.1  # distance below which a positive is good enough; descriptors of unit length are 0 to 2 apart
OPTIMUM = 1.4  # distance beyond which a negative is good enough
LOGITS = 16.0  # their scale


def circle_loss(similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Metric loss over pairs of descriptors of unit length: positives near, negatives far, the worst pairs weigh most.

    Args:
        similarity: scalar products of the pairs, (..., n, m).
        positive: which pairs show the same point, (..., n, m), bool.
        negative: which show different points.

    Returns:
        scalar, the mean over the rows that have a positive and a negative and that over the columns, averaged; 0 if none has.

    Source: Sun et al., Circle loss (CVPR 2020), in distances as in Predator (Huang et al., CVPR 2021), eq. 10, and as in its
    code and RNNPose's: a pair that is not a positive counts as exp(0) among them, likewise among the negatives. The equation
    leaves those out.
    """
    distance = (2 - 2 * similarity).clamp_min(1e-6).sqrt()
    pull = ((distance - MARGIN).clamp_min(0).detach() * (distance - MARGIN)) * LOGITS
    push = ((OPTIMUM - distance).clamp_min(0).detach() * (OPTIMUM - distance)) * LOGITS
    losses = []
    for dim in (-1, -2):
        near = torch.where(positive, pull, torch.zeros_like(pull))
        far = torch.where(negative, push, torch.zeros_like(push))
        counts = positive.any(dim) & negative.any(dim)
        if not bool(counts.any()):
            continue
        near, far = (torch.logsumexp(v.movedim(dim, -1)[counts], -1) for v in (near, far))
        losses.append(F.softplus(near + far).mean() / LOGITS)
    return torch.stack(losses).mean() if losses else similarity.sum() * 0


def softmax_loss(similarity: Tensor, positive: Tensor, negative: Tensor, temperature: float = 0.07) -> Tensor:
    """Metric loss over pairs of descriptors: each should be more like its positives than like the negatives.

    Args, Returns: as `circle_loss`, with the temperature of the softmax. From scratch it learns in a tenth of the steps: all
    negatives push, not the worst one alone.

    Source: van den Oord et al., Representation learning with contrastive predictive coding (2018), eq. 4, both ways.
    """
    logits, losses = similarity / temperature, []
    least = torch.full_like(logits, -torch.inf)
    for dim in (-1, -2):
        counts = positive.any(dim) & negative.any(dim)
        if not bool(counts.any()):
            continue
        near = torch.where(positive, logits, least).movedim(dim, -1)[counts].logsumexp(-1)
        both = torch.where(positive | negative, logits, least).movedim(dim, -1)[counts].logsumexp(-1)
        losses.append((both - near).mean())
    return torch.stack(losses).mean() if losses else similarity.sum() * 0


class SepConvGRU(nn.Module):
    """A gated recurrent unit on images, first along rows, then along columns: twice 5 weights instead of 25."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        both = hidden + inputs
        self.rows = nn.ModuleList([nn.Conv2d(both, hidden, (1, 5), padding=(0, 2)) for _ in range(3)])
        self.columns = nn.ModuleList([nn.Conv2d(both, hidden, (5, 1), padding=(2, 0)) for _ in range(3)])

    def forward(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """(B, hidden, h, w), (B, inputs, h, w) -> (B, hidden, h, w)."""
        for update, reset, new in (self.rows, self.columns):  # type: ignore[misc]
            both = torch.cat([hidden, inputs], 1)
            z = torch.sigmoid(update(both))
            q = torch.tanh(new(torch.cat([torch.sigmoid(reset(both)) * hidden, inputs], 1)))
            hidden = (1 - z) * hidden + z * q
        return hidden


class UpdateBlock(nn.Module):
    """One step: what correlates around the present flow -> new hidden state -> change of the flow, and whatever else is asked.

    Args:
        correlations: channels of the look-up.
        extra: channels of other evidence.
        hidden: channels of the state.
        context: channels that do not change between steps.
        motion: channels that the evidence is reduced to.
        outputs: channels asked for besides the two of the flow.
        factor: how many times finer the flow will be upsampled.
    """

    def __init__(
        self, correlations: int, extra: int, hidden: int, context: int, motion: int, outputs: int, factor: int
    ) -> None:
        super().__init__()
        self.factor = factor
        self.look = nn.Sequential(nn.Conv2d(correlations, 2 * motion, 1), nn.ReLU(inplace=True))
        self.flow = nn.Sequential(nn.Conv2d(2 + extra, motion, 7, padding=3), nn.ReLU(inplace=True))
        self.join = nn.Sequential(nn.Conv2d(3 * motion, motion, 3, padding=1), nn.ReLU(inplace=True))
        self.gru = SepConvGRU(hidden, context + motion + 2)
        self.head = nn.Sequential(nn.Conv2d(hidden, 2 * hidden, 3, padding=1), nn.ReLU(inplace=True))
        self.change = nn.Conv2d(2 * hidden, 2 + outputs, 3, padding=1)
        self.mask = nn.Conv2d(2 * hidden, 9 * factor**2, 1)
        for layer in (self.change, self.mask):  # before training: no motion, even weights, plain upsampling
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self, hidden: Tensor, context: Tensor, correlations: Tensor, flow: Tensor, extra: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden (B, hidden, h, w), context, correlations, flow (B, 2, h, w), extra evidence -> new hidden state;
        change of the flow and other outputs, (B, 2 + outputs, h, w); upsampling mask (B, 9 factor^2, h, w)."""
        motion = self.join(torch.cat([self.look(correlations), self.flow(torch.cat([flow, extra], 1))], 1))
        hidden = self.gru(hidden, torch.cat([context, motion, flow], 1))
        head = self.head(hidden)
        return hidden, self.change(head), self.mask(head)


def upsampled(values: Tensor, mask: Tensor, factor: int) -> Tensor:
    """Each fine pixel is a weighted mean of the 3 x 3 coarse ones around it, by learned weights that sum to 1.

    (B, C, h, w), (B, 9 factor^2, h, w) logits -> (B, C, factor h, factor w). Source: RAFT, sec. 3.3 (convex upsampling).
    """
    size, channels, h, w = values.shape
    weights = mask.reshape(size, 1, 9, factor, factor, h, w).softmax(2)
    around = F.unfold(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3).reshape(size, channels, 9, 1, 1, h, w)
    fine = (weights * around).sum(2)  # (B, C, factor, factor, h, w)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(size, channels, factor * h, factor * w)
