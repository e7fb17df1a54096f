"""A network that learns on surfaces: every sampled point of an object gets features that know the shape around it.

The points of one object form a pyramid of ever fewer points, each joined to its nearest ones. A layer asks the neighbours: a
linear map of what they know plus a linear map of where they lie, ReLU, largest answer. Down the pyramid and up again with
skips, as a U-Net does on images.

Source: the role and the levels are those of RNNPose's KPConv encoder (Xu et al., CVPR 2022); the layer is that of PointNet++
(Qi et al. 2017) with its first linear map taken apart, which makes an edge cost an addition.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def circle_loss(
    similarity: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.1, optimum: float = 1.4, scale: float = 16.0
) -> Tensor:
    """Metric loss over pairs of descriptors of unit length: positives near, negatives far, the worst pairs weigh most.

    Args:
        similarity: scalar products of the pairs, (..., n, m).
        positive: which pairs show the same point, (..., n, m), bool.
        negative: which show different points; pairs that are neither do not count.
        margin: distance below which a positive is good enough; descriptors of unit length are 0 to 2 apart.
        optimum: distance beyond which a negative is good enough.
        scale: of the logits.

    Returns:
        scalar, the mean over the rows that have a positive and a negative and that over the columns, averaged; 0 if none has.

    Source: Sun et al., Circle loss (CVPR 2020), in distances as in Predator (Huang et al., CVPR 2021), eq. 10.
    """
    distance = (2 - 2 * similarity).clamp_min(1e-6).sqrt()
    pull = ((distance - margin).clamp_min(0).detach() * (distance - margin)) * scale
    push = ((optimum - distance).clamp_min(0).detach() * (optimum - distance)) * scale
    losses = []
    for dim in (-1, -2):
        near = torch.where(positive, pull, torch.full_like(pull, -torch.inf))
        far = torch.where(negative, push, torch.full_like(push, -torch.inf))
        counts = positive.any(dim) & negative.any(dim)
        if not bool(counts.any()):
            continue
        near, far = (torch.logsumexp(v.movedim(dim, -1)[counts], -1) for v in (near, far))
        losses.append(F.softplus(near + far).mean() / scale)
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
