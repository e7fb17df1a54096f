"""Laptops and cameras from a seed: with the tableware, NOCS's six categories can be learned without CAD models.

Boxes, rods and cushions with painted vertices. Metres. The category frame: the origin in the middle of the box, +Z up, the
front towards +X: a laptop's user sits there, a camera's lens points there. (category, seed) decides everything.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from ...types import ObjectModel
from .solids import Solids, as_model, check, pick_paint

CATEGORIES = ("camera", "laptop")
_CASES = (
    (0.12, 0.12, 0.13),
    (0.30, 0.30, 0.31),
    (0.62, 0.63, 0.65),
    (0.78, 0.78, 0.79),
    (0.22, 0.26, 0.34),
    (0.70, 0.62, 0.54),
)
_SCREENS = ((0.05, 0.05, 0.06), (0.10, 0.20, 0.42), (0.82, 0.86, 0.92), (0.18, 0.40, 0.36), (0.45, 0.22, 0.35))
_BRIGHT = ((0.92, 0.92, 0.92), (0.80, 0.30, 0.22), (0.25, 0.55, 0.80), (0.90, 0.75, 0.30), (0.35, 0.65, 0.40))
_BLACK = np.array([0.05, 0.05, 0.055])


def shape(category: str, seed: int) -> ObjectModel:
    """One laptop or camera.

    Args:
        category: one of `CATEGORIES`.
        seed: another shape for every number >= 0, always the same for the same number.

    Returns:
        the model, one to five thousand triangles, coloured vertices, its parts closed; without symmetries.

    Raises:
        ValueError: no such category.
    """
    check(category, seed, CATEGORIES, "device")
    rng = np.random.default_rng((CATEGORIES.index(category), seed, 37))
    parts = Solids(rng)
    {"camera": _camera, "laptop": _laptop}[category](parts, rng)
    vertices, faces, normals, colors = parts.joined()
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    return as_model(seed, f"{category}_{seed:03d}", vertices, faces, normals, colors)


def _laptop(parts: Solids, rng: Generator) -> None:
    wide = rng.uniform(0.28, 0.39)
    deep, thick, lid = wide * rng.uniform(0.62, 0.74), rng.uniform(0.012, 0.024), rng.uniform(0.005, 0.010)
    x, y = deep / 2, wide / 2
    case = pick_paint(_CASES, rng)
    keys = _BLACK * rng.uniform(1, 4) if rng.random() < 0.75 else np.array([0.85, 0.85, 0.85])
    parts.cushion((-x, -y, 0), (x, y, thick), case, 0.4 * thick)
    # keyboard and touchpad
    back, front, side = -x + 0.10 * deep, -x + rng.uniform(0.52, 0.60) * deep, y * rng.uniform(0.86, 0.95)
    parts.box((back - 0.003, -side - 0.003, thick - 0.002), (front + 0.003, side + 0.003, thick + 0.0003), case * 0.8)
    rows, columns = 6, int(rng.integers(12, 15))
    for row, start in enumerate(np.linspace(back, front, rows + 1)[:-1]):
        step, across = (front - back) / rows, 2 * side / columns
        column = 0
        while column < columns:  # the space bar and its neighbours are wider
            span = int(rng.integers(4, 6)) if row == rows - 1 and column == columns // 2 - 2 else 1
            low = -side + column * across
            parts.box((start + 0.1 * step, low + 0.08 * across, thick - 0.001),
                      (start + 0.9 * step, low + (span - 0.08) * across, thick + 0.0015), keys)  # fmt: skip
            column += span
    pad = rng.uniform(0.12, 0.2) * wide
    parts.box(
        (front + 0.07 * deep, -pad, thick - 0.002), (x - 0.05 * deep, pad, thick + 0.0004), case * rng.uniform(0.85, 0.95)
    )
    # the lid, drawn closed on the base, its screen down, then opened about the hinge
    cover = Solids(rng)
    cover.cushion((0, -y, 0), (deep, y, lid), case, 0.45 * lid)
    edge = rng.uniform(0.006, 0.018)
    frame = _BLACK if rng.random() < 0.7 else case * 0.9
    cover.box((0.004, -y + 0.004, -0.0006), (deep - 0.004, y - 0.004, 0.002), frame)
    near, far = np.array([edge + 0.008, -y + edge]), np.array([deep - edge, y - edge])
    cover.box((*near, -0.0012), (*far, 0.002), pick_paint(_SCREENS, rng))
    for k in range(int(rng.integers(0, 4))):  # windows on it, and lines in them
        at, size = rng.uniform(0.05, 0.55, 2), rng.uniform(0.2, 0.42, 2)
        a, b = near + at * (far - near), near + (at + size) * (far - near)
        over = -0.0018 - 0.0008 * k
        cover.box((*a, over), (*b, 0.001), pick_paint(_BRIGHT, rng))
        for line in np.linspace(0.15, 0.8, int(rng.integers(3, 7))):
            u = a[0] + line * (b[0] - a[0])
            end = a[1] + rng.uniform(0.4, 0.95) * (b[1] - a[1])
            cover.box((u, a[1] + 0.05 * (b[1] - a[1]), over - 0.0004), (u + 0.003, end, 0.0005), pick_paint(_SCREENS, rng))
    if rng.random() < 0.7:  # the maker's sign on its back
        r = rng.uniform(0.01, 0.02)
        cover.rod((deep / 2, 0, lid - 0.001), (deep / 2, 0, lid + 0.0006), r, pick_paint(_BRIGHT, rng), sides=20)
    parts.rod((-x + 0.004, -0.8 * y, thick), (-x + 0.004, 0.8 * y, thick), 0.005, _BLACK * 2)
    angle = math.radians(rng.uniform(92, 130))
    turn = np.array([[math.cos(angle), 0, -math.sin(angle)], [0, 1, 0], [math.sin(angle), 0, math.cos(angle)]])
    hinge = np.array([-x + 0.004, 0, thick + 0.003])
    parts.pieces += [(v @ turn.T + hinge, f, n @ turn.T, c) for v, f, n, c in cover.pieces]


def _camera(parts: Solids, rng: Generator) -> None:
    reflex = rng.random() < 0.6  # with a hump and a large lens; else a flat one
    wide, high = (
        (rng.uniform(0.115, 0.15), rng.uniform(0.07, 0.1)) if reflex else (rng.uniform(0.09, 0.12), rng.uniform(0.055, 0.07))
    )
    deep = rng.uniform(0.035, 0.055) if reflex else rng.uniform(0.02, 0.032)
    x, y = deep / 2, wide / 2
    body = _BLACK * rng.uniform(1.2, 3) if reflex or rng.random() < 0.4 else pick_paint(_CASES, rng)
    second = _BLACK * rng.uniform(1, 2.5)
    parts.cushion((-x, -y, 0), (x, y, high), body, 0.25 * deep)
    if rng.random() < 0.5:  # leather around the middle
        parts.cushion((-x - 0.0008, -y - 0.0008, 0.12 * high), (x + 0.0008, y + 0.0008, 0.72 * high), second, 0.25 * deep)
    # the lens: rings that grow narrower or wider, glass in the last
    middle = [0, rng.uniform(-0.1, 0.15) * wide, rng.uniform(0.44, 0.52) * high]
    radius = high * (rng.uniform(0.34, 0.44) if reflex else rng.uniform(0.26, 0.38))
    long = rng.uniform(0.03, 0.09) if reflex else rng.uniform(0.008, 0.03)
    start = x - 0.002
    rings = int(rng.integers(2, 5))
    for k, end in enumerate(np.linspace(x, x + long, rings + 1)[1:]):
        ring = pick_paint(_CASES, rng) if rng.random() < 0.3 else _BLACK * rng.uniform(1, 2.4)
        wider = radius * (rng.uniform(0.96, 1.06) if reflex else 1 - 0.14 * k)
        parts.rod((start, *middle[1:]), (end, *middle[1:]), wider, ring, wider * rng.uniform(0.94, 1.0), sides=32)
        start, last = end, wider
    parts.rod((start - 0.002, *middle[1:]), (start + 0.0008, *middle[1:]), 0.78 * last, _BLACK * 0.7, sides=32)
    parts.rod((start, *middle[1:]), (start + 0.0016, *middle[1:]), 0.6 * last, np.array([0.16, 0.14, 0.28]), sides=32)
    # the photographer's right hand is on the side of -Y
    if reflex or rng.random() < 0.4:
        parts.cushion(
            (-x, -y - 0.004, 0.01 * high), (x + rng.uniform(0.006, 0.018), -y + 0.2 * wide, 0.95 * high), second, 0.012
        )
    if reflex:
        top = rng.uniform(0.016, 0.03)
        parts.cushion(
            (-x * 0.9, middle[1] - 0.2 * wide, high - 0.01), (x * 0.9, middle[1] + 0.2 * wide, high + top), body, 0.007
        )
        parts.box((x * 0.8, middle[1] - 0.12 * wide, high + 0.2 * top), (x * 0.93, middle[1] + 0.12 * wide, high + 0.6 * top),
                  pick_paint(_BRIGHT, rng))  # fmt: skip
        parts.cushion(
            (-x - 0.006, middle[1] - 0.016, high - 0.004), (-x * 0.6, middle[1] + 0.016, high + 0.7 * top), second, 0.004
        )
    else:
        parts.box((x - 0.002, 0.45 * y, 0.72 * high), (x + 0.001, 0.8 * y, 0.9 * high), np.array([0.92, 0.92, 0.88]))
        parts.box((x - 0.002, -0.75 * y, 0.84 * high), (x + 0.0008, -0.2 * y, 0.92 * high), pick_paint(_BRIGHT, rng))
    parts.rod(
        (0, -0.72 * y, high - 0.002),
        (0, -0.72 * y, high + rng.uniform(0.003, 0.008)),
        0.006,
        np.array([0.7, 0.7, 0.72]),
        sides=16,
    )
    dial = rng.uniform(0.008, 0.012)
    parts.rod((0, 0.7 * y, high - 0.002), (0, 0.7 * y, high + 0.006), dial, second * 1.3, sides=24)
    # its back: a screen and buttons
    parts.box((-x - 0.0012, -0.35 * y, 0.15 * high), (-x + 0.004, 0.8 * y, 0.82 * high), pick_paint(_SCREENS, rng))
    for z in (0.25, 0.45, 0.65):
        parts.rod((-x + 0.002, -0.62 * y, z * high), (-x - 0.002, -0.62 * y, z * high), 0.005, second * 1.5, sides=12)
    for s in (-1, 1):  # eyes of the strap
        parts.rod(
            (0, s * (y - 0.002), 0.85 * high), (0, s * (y + 0.005), 0.85 * high), 0.003, np.array([0.6, 0.6, 0.6]), sides=8
        )
