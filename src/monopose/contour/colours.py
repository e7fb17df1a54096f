"""Foreground maps: what colours say, what a network's mask says, and both together. Arrays are numpy."""

from __future__ import annotations

import numpy as np

from . import kernels
from .points import Array, Points

BITS = 4  # of every channel of RGB: 16 bins each
GAP, REACH = 1.0, 18  # pixels left out at a contour, and taken on each side of it
RATE = 0.2  # share of a new frame in the histograms
EPSILON = 1e-6  # a colour that was seen on neither side says nothing


def bins(image: Array) -> Array:
    """Index of every pixel's colour, (..., h, w, 3) uint8 RGB -> (..., h, w) uint16."""
    coarse = image >> (8 - BITS)
    index = coarse[..., 0].astype(np.uint16)
    index <<= BITS
    index |= coarse[..., 1]
    index <<= BITS
    index |= coarse[..., 2]
    return index


def histograms_of_mask(index: Array, foreground: Array, background: Array) -> tuple[Array, Array]:
    """Histograms of what a soft mask calls object, and of what it calls background.

    Args:
        index: of `bins`, (B, h, w).
        foreground, background: how much every pixel counts for each, (B, h, w); those in doubt count for neither.

    Returns:
        foreground, background, (B, bins), each of sum 1 (0 where nothing is).
    """
    size = 1 << 3 * BITS
    f, b = (np.stack([np.bincount(i.ravel(), w.ravel(), size) for i, w in zip(index, ws)]) for ws in (foreground, background))
    return _normalised(f), _normalised(b)


def histograms_of_contour(
    index: Array, points: Points, poses: Array, K: Array, map_of: Array, front: Array, reach: int = REACH
) -> tuple[Array, Array]:
    """Histograms of what lies on both sides of the contours of B instances, each (B, bins) of sum 1.

    Args:
        index: of `bins`, (M, h, w).
        points, poses, K, map_of: see `lines.search`.
        front: see `lines.Maps`.
        reach: pixels taken on each side of a contour.
    """
    size = 1 << 3 * BITS
    inside, outside = np.zeros((len(poses), size)), np.zeros((len(poses), size))
    kernels.collect(*points[:5], poses, K, index, map_of, front, GAP, reach, inside, outside)
    return _normalised(inside), _normalised(outside)


def posterior(index: Array, foreground: Array, background: Array) -> Array:
    """Probability of object from the colour alone, (B, h, w) float32, of B pictures with B pairs of histograms."""
    table = (foreground + EPSILON) / (foreground + background + 2 * EPSILON)
    return np.stack([t[i] for t, i in zip(table.astype(np.float32), index)])


def similarity(a: Array, b: Array) -> Array:
    """Of pairs of histograms (B, bins), 0 to 1 (Bhattacharyya); colours one bin apart are alike, as in another light. (B,)."""
    return np.sqrt(_softened(a) * _softened(b)).sum(-1)


def _softened(histograms: Array) -> Array:
    """Every colour shared with its neighbours, (B, bins)."""
    side = 1 << BITS
    cube = histograms.reshape(-1, side, side, side)
    for axis in (1, 2, 3):
        edges = np.pad(cube, [(int(k == axis), int(k == axis)) for k in range(4)], mode="edge")
        low, high = (np.take(edges, np.arange(start, start + side), axis) for start in (0, 2))
        cube = 0.5 * cube + 0.25 * (low + high)
    return _normalised(cube.reshape(histograms.shape))


def product(a: Array, b: Array) -> Array:
    """Two independent opinions as one probability; 0 against 1 is 0.5."""
    both, neither = a * b, (1 - a) * (1 - b)
    total = both + neither
    return np.divide(both, total, out=np.full_like(total, 0.5), where=total > 0)


def _normalised(counts: Array) -> Array:
    total = counts.sum(-1, keepdims=True)
    return counts / np.where(total > 0, total, 1)
