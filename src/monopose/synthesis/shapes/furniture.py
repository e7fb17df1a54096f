"""Parametric furniture from boxes, cylinders and cushions: stand-ins for CAD models where none are at hand.

Every shape stands with +Z up and its front towards -Y, in metres, centred at its box's centre. (category, seed) decides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.random import Generator

from ...types import ObjectModel, Symmetries
from .solids import Array, Solids, as_model, check, pick_paint

CATEGORIES = ("bed", "bookcase", "chair", "desk", "sofa", "table")

_WOODS = (
    (0.72, 0.52, 0.32), (0.45, 0.28, 0.16), (0.84, 0.70, 0.50), (0.30, 0.19, 0.12), (0.58, 0.33, 0.19), (0.93, 0.92, 0.88),
    (0.16, 0.15, 0.15),
)  # fmt: skip
_FABRICS = (
    (0.55, 0.55, 0.57), (0.25, 0.29, 0.38), (0.72, 0.66, 0.56), (0.50, 0.16, 0.15), (0.24, 0.37, 0.30), (0.33, 0.24, 0.18),
    (0.85, 0.83, 0.78), (0.75, 0.55, 0.22), (0.13, 0.13, 0.14), (0.30, 0.45, 0.58),
)  # fmt: skip
_METALS = ((0.62, 0.63, 0.65), (0.10, 0.10, 0.11), (0.80, 0.80, 0.80), (0.35, 0.33, 0.31))
_LINEN = ((0.93, 0.93, 0.91), (0.86, 0.88, 0.92), (0.90, 0.85, 0.76))


def shape(category: str, seed: int) -> ObjectModel:
    """One piece of furniture.

    Args:
        category: one of `CATEGORIES`.
        seed: another shape for every number >= 0, always the same for the same number.

    Returns:
        the model, at most a few thousand triangles, with vertex colours and closed parts. Only tables have symmetries: the
        turns about +Z under which the shape is the same; its grain, a few per cent of its colour, is not.

    Raises:
        ValueError: no such category.
    """
    check(category, seed, CATEGORIES, "furniture")
    rng = np.random.default_rng((CATEGORIES.index(category), seed, 11))
    parts = Solids(rng)
    turns = _MAKERS[category](parts, rng)
    vertices, faces, normals, colors = parts.joined()
    vertices -= (vertices.min(0) + vertices.max(0)) / 2
    return as_model(seed, f"{category}_{seed:02d}", vertices, faces, normals, colors, symmetries=_about_z(turns))


def _about_z(turns: int) -> Symmetries:
    """Symmetries of a shape that looks the same after a turn by 1/turns of a circle about +Z; 0: after any turn."""
    if turns == 0:
        return Symmetries(axes=torch.tensor([[0.0, 0.0, 1.0]]), offsets=torch.zeros(1, 3))
    motions = torch.eye(4).repeat(turns - 1, 1, 1)
    for k in range(1, turns):
        c, s = math.cos(2 * math.pi * k / turns), math.sin(2 * math.pi * k / turns)
        motions[k - 1, :2, :2] = torch.tensor([[c, -s], [s, c]])
    return Symmetries(motions)


def _legs(parts: Solids, x: float, y: float, top: float, thick: float, paint: Array, round_: bool, splay: float = 0.0) -> None:
    """Four legs below the corners (+-x, +-y), metres, from the floor at z = 0 to `top`."""
    for sx in (-1, 1):
        for sy in (-1, 1):
            if round_:
                foot = (sx * (x + splay), sy * (y + splay), 0)
                parts.rod(foot, (sx * x, sy * y, top), 0.35 * thick, paint, 0.55 * thick)
            else:
                h = thick / 2
                parts.box((sx * x - h, sy * y - h, 0), (sx * x + h, sy * y + h, top), paint)


# ------------------------------------------------------------------------------------------------------------ categories
# Each builds on the floor z = 0 and returns the order of its rotation symmetry about +Z: 1 for none, 0 for any angle.


def _bed(parts: Solids, rng: Generator) -> int:
    width, long = rng.choice([0.95, 1.25, 1.45, 1.65, 1.85]) + rng.uniform(-0.05, 0.05), rng.uniform(1.95, 2.15)
    frame, linen, duvet = pick_paint(_WOODS, rng), pick_paint(_LINEN, rng), pick_paint(_FABRICS, rng)
    w, y = width / 2, long / 2
    low = rng.uniform(0.08, 0.25)  # the frame's lower edge
    rim = low + rng.uniform(0.12, 0.2)
    parts.box((-w, -y, low), (w, y, rim), frame)
    if low < 0.12:
        parts.box((-w + 0.04, -y + 0.04, 0), (w - 0.04, y - 0.04, low), frame * 0.6)
    else:
        _legs(parts, w - 0.05, y - 0.05, low, 0.08, frame, bool(rng.random() < 0.4))
    top = rim + rng.uniform(0.14, 0.22)
    parts.cushion((-w + 0.03, -y + 0.04, rim - 0.02), (w - 0.03, y - 0.04, top), linen, 0.05)
    head, kind = top + rng.uniform(0.25, 0.65), rng.integers(0, 3)
    if kind == 0:  # a panel
        parts.box((-w - 0.02, y, 0), (w + 0.02, y + 0.05, head), frame, lean=rng.uniform(0, 0.06))
    elif kind == 1:  # padded
        fabric = pick_paint(_FABRICS, rng)
        parts.cushion((-w - 0.03, y - 0.02, 0.05), (w + 0.03, y + 0.1, head), fabric, 0.05, 0.01)
    else:  # bars between posts
        metal = pick_paint(_METALS, rng) if rng.random() < 0.6 else frame
        for s in (-1, 1):
            parts.rod((s * w, y + 0.02, 0), (s * w, y + 0.02, head + 0.04), 0.028, metal)
        for z in (rim, head):
            parts.rod((-w, y + 0.02, z), (w, y + 0.02, z), 0.02, metal)
        for x in np.linspace(-w, w, 2 * int(rng.integers(3, 6)) + 1)[1:-1]:
            parts.rod((x, y + 0.02, rim), (x, y + 0.02, head), 0.012, metal, sides=8)
    if rng.random() < 0.35:
        parts.box((-w, -y - 0.04, 0), (w, -y, rim + rng.uniform(0.1, 0.3)), frame)
    deep = rng.uniform(0.35, 0.45)
    for x in (0.0,) if width < 1.15 else (-w / 2, w / 2):
        reach = 0.4 * width if width < 1.15 else 0.44 * w
        parts.cushion((x - reach, y - deep - 0.04, top - 0.02), (x + reach, y - 0.04, top + 0.1), linen * 1.02, 0.06, 0.05,
                      lean=0.08)  # fmt: skip
    if rng.random() < 0.85:
        end = y - deep - rng.uniform(0.1, 0.4)
        parts.cushion((-w + 0.005, -y + 0.02, rim + 0.02), (w - 0.005, end, top + 0.03), duvet, 0.05, 0.01)
        if rng.random() < 0.5:  # folded back
            parts.cushion((-w, end - 0.22, rim + 0.06), (w, end + 0.02, top + 0.05), linen, 0.04)
    return 1


def _bookcase(parts: Solids, rng: Generator) -> int:
    width, high, deep = rng.uniform(0.45, 1.5), rng.uniform(0.9, 2.1), rng.uniform(0.26, 0.4)
    board, wood = rng.uniform(0.018, 0.035), pick_paint(_WOODS, rng)
    w, y = width / 2, deep / 2
    foot = rng.uniform(0.0, 0.1)
    back = wood * rng.uniform(0.55, 0.85)
    parts.box((-w, y - 0.012, foot), (w, y, high), back)
    for s in (-1, 1):
        parts.box((s * w, -y, 0), (s * (w - board), y - 0.012, high), wood)
    parts.box((-w + board, -y, high - board), (w - board, y - 0.012, high), wood)
    columns = 1 if width < 0.75 else int(rng.integers(1, 3)) if width < 1.1 else int(rng.integers(2, 4))
    edges = np.linspace(-w + board, w - board, columns + 1)
    for x in edges[1:-1]:
        parts.box((x - board / 2, -y + 0.005, foot), (x + board / 2, y - 0.012, high - board), wood * 0.95)
    levels = np.linspace(foot, high - board, round((high - foot) / rng.uniform(0.28, 0.42)) + 1)
    for z in levels[:-1]:
        parts.box((-w + board, -y + 0.005, z), (w - board, y - 0.012, z + board), wood * 0.95)
    doors = bool(rng.random() < 0.35) and len(levels) > 3
    closed = (len(levels) - 1) // 2 if doors else 0
    if doors:
        panels = max(2, columns)
        for a, b in pairwise(np.linspace(-w, w, panels + 1)):
            parts.box((a + 0.004, -y - 0.018, foot + 0.01), (b - 0.004, -y, levels[closed] + 0.01), wood * 1.04)
            knob = b - 0.05 if (a + b) / 2 < 0 else a + 0.05
            knob = (a + b) / 2 if abs(a + b) < 1e-6 else knob
            parts.rod(
                (knob, -y - 0.018, levels[closed] - 0.1), (knob, -y - 0.045, levels[closed] - 0.1), 0.014, _METALS[0], sides=8
            )
    if rng.random() < 0.5:
        _books(parts, rng, edges, levels[closed:], deep, board)
    return 1


def _books(parts: Solids, rng: Generator, edges: Array, levels: Array, deep: float, board: float) -> None:
    """Rows of books on some of the shelves, from one side."""
    for a, b in pairwise(edges):
        for z, above in pairwise(levels):
            if rng.random() < 0.45:
                continue
            x, end = a + board / 2 + 0.005, a + (b - a) * rng.uniform(0.35, 0.95)
            while x < end - 0.06:
                thick = rng.uniform(0.025, 0.06)
                tall = min(rng.uniform(0.17, 0.27), above - z - board - 0.02)
                paint = rng.uniform(0.08, 0.9, 3)
                parts.box(
                    (x, deep / 2 - 0.02 - rng.uniform(0.14, 0.2), z + board),
                    (x + thick, deep / 2 - 0.02, z + board + tall),
                    paint,
                )
                x += thick + 0.002


def _chair(parts: Solids, rng: Generator) -> int:
    width, deep, seat = rng.uniform(0.42, 0.54), rng.uniform(0.42, 0.52), rng.uniform(0.42, 0.48)
    kind = rng.choice(["wood", "wood", "padded", "office", "easy"])
    wood, fabric, metal = pick_paint(_WOODS, rng), pick_paint(_FABRICS, rng), pick_paint(_METALS, rng)
    w, y = width / 2, deep / 2
    high, lean = seat + rng.uniform(0.38, 0.55), rng.uniform(0.03, 0.12)
    if kind == "easy":  # an armchair
        w, y, seat = rng.uniform(0.32, 0.42), rng.uniform(0.34, 0.42), rng.uniform(0.38, 0.44)
        high = seat + rng.uniform(0.4, 0.65)
        arm = rng.uniform(0.08, 0.14)
        _legs(parts, w - 0.06, y - 0.06, 0.14, 0.05, wood, True, 0.01)
        parts.cushion((-w, -y, 0.12), (w, y, seat - 0.1), fabric, 0.03)
        parts.cushion((-w + arm, -y - 0.01, seat - 0.12), (w - arm, y - 0.12, seat + 0.03), fabric * 1.05, 0.05, 0.02)
        parts.cushion((-w + 0.01, y - 0.16, 0.13), (w - 0.01, y, high), fabric, 0.07, 0.01, lean)
        for s in (-1, 1):
            a, b = sorted((s * w, s * (w - arm)))
            parts.cushion((a, -y, 0.13), (b, y - 0.04, seat + rng.uniform(0.16, 0.17)), fabric, 0.04)
        return 1
    if kind == "office":
        n = int(rng.choice([4, 5]))
        for k in range(n):
            turn = 2 * math.pi * k / n - math.pi / 2
            end = (0.29 * math.cos(turn), 0.29 * math.sin(turn))
            parts.rod((0, 0, 0.13), (*end, 0.085), 0.028, metal, 0.016)
            parts.rod((end[0], end[1], 0.0), (end[0], end[1], 0.08), 0.028, (0.08, 0.08, 0.08), sides=8)
        parts.rod((0, 0, 0.09), (0, 0, seat - 0.06), 0.03, metal)
        parts.cushion((-w, -y, seat - 0.07), (w, y, seat + 0.02), fabric, 0.04, 0.01)
        parts.box((-0.04, y - 0.08, seat - 0.075), (0.04, y + 0.03, seat - 0.055), metal)
        parts.box((-0.035, y + 0.02, seat - 0.075), (0.035, y + 0.04, seat + 0.25), metal, lean=lean * 0.5)
        parts.cushion(
            (-w * 0.92, y - 0.03, seat + rng.uniform(0.1, 0.18)), (w * 0.92, y + 0.04, high), fabric, 0.03, 0.01, lean
        )
    else:
        round_ = bool(rng.random() < 0.4) or kind == "padded"
        leg = metal if kind == "padded" and rng.random() < 0.6 else wood
        thick = 0.04 if round_ else 0.038
        _legs(parts, w - 0.03, y - 0.03, seat - 0.03, thick, leg, round_, rng.uniform(0, 0.05) if round_ else 0.0)
        if kind == "wood":
            parts.box((-w, -y, seat - 0.035), (w, y, seat), wood)
            if rng.random() < 0.4:
                parts.cushion((-w + 0.02, -y + 0.02, seat), (w - 0.02, y - 0.05, seat + 0.045), fabric, 0.02, 0.01)
        else:
            parts.cushion((-w, -y, seat - 0.06), (w, y, seat + 0.02), fabric, 0.035, 0.012)
        _chair_back(parts, rng, kind, w, y, seat, high, lean, fabric, wood)
    if rng.random() < 0.35:
        rest = seat + rng.uniform(0.18, 0.24)
        paint = metal if kind == "office" else wood
        for s in (-1, 1):
            a, b = sorted((s * (w + 0.035), s * (w - 0.015)))
            parts.box((a, -y + 0.06, rest - 0.03), (b, y - 0.01, rest), paint)
            parts.box((s * w + 0.012, -y + 0.08, seat - 0.03), (s * w - 0.012, -y + 0.12, rest - 0.03), paint)
            if kind == "office":
                parts.box((s * w + 0.012, y - 0.1, seat - 0.03), (s * w - 0.012, y - 0.06, rest - 0.03), paint)
    return 1


def _chair_back(
    parts: Solids, rng: Generator, kind: str, w: float, y: float, seat: float, high: float, lean: float, fabric: Array,
    wood: Array,
) -> None:  # fmt: skip
    """The back of a chair with four legs: padded, a panel, or rails and bars between two posts."""
    if kind == "padded":
        parts.cushion((-w, y - 0.055, seat - 0.04), (w, y + 0.02, high), fabric, 0.035, 0.008, lean)
        return
    style = rng.integers(0, 3)
    tall = high - seat

    def at(z: float) -> float:
        return lean * (z - seat) / tall

    for s in (-1, 1):
        parts.box((s * w, y - 0.04, seat - 0.035), (s * (w - 0.04), y, high), wood, lean=lean)
    if style == 0:
        low = seat + rng.uniform(0.05, 0.2)
        parts.box(
            (-w + 0.04, y - 0.03 + at(low), low), (w - 0.04, y - 0.012 + at(low), high - 0.01), wood * 0.95, at(high) - at(low)
        )
        return
    rails = [high - 0.08] if style == 1 else list(np.linspace(seat + 0.12, high - 0.07, int(rng.integers(3, 5))))
    for z in rails:
        parts.box((-w + 0.04, y - 0.032 + at(z), z), (w - 0.04, y - 0.01 + at(z), z + 0.06), wood * 1.03, at(z + 0.06) - at(z))
    if style == 1:
        for x in np.linspace(-w + 0.04, w - 0.04, int(rng.integers(4, 7)) + 1)[1:-1]:
            parts.rod((x, y - 0.02, seat), (x, y - 0.02 + at(high - 0.06), high - 0.06), 0.01, wood, sides=8)


def _desk(parts: Solids, rng: Generator) -> int:
    width, deep, high = rng.uniform(1.0, 1.6), rng.uniform(0.5, 0.75), rng.uniform(0.71, 0.77)
    wood, metal = pick_paint(_WOODS, rng), pick_paint(_METALS, rng)
    w, y, board = width / 2, deep / 2, rng.uniform(0.022, 0.045)
    parts.box((-w, -y, high - board), (w, y, high), wood)
    s = -1 if rng.random() < 0.5 else 1  # the side of the drawers
    chest = rng.uniform(0.32, 0.45)
    front = wood * rng.uniform(1.02, 1.12) if rng.random() < 0.6 else pick_paint(_WOODS, rng)
    both = bool(rng.random() < 0.2)
    under = high - board
    lifted = rng.uniform(0.08, 0.3) if rng.random() < 0.3 else 0.02
    for side in (-1, 1) if both else (s,):
        a, b = sorted((side * (w - 0.02), side * (w - 0.02 - chest)))
        parts.box((a, -y + 0.04, lifted), (b, y - 0.04, under), wood * 0.95)
        count = int(rng.integers(2, 5)) if lifted < 0.1 else 2
        edges = np.linspace(lifted + 0.01, under - 0.005, count + 1)
        for low, top in pairwise(edges):
            parts.box((a + 0.008, -y + 0.022, low + 0.006), (b - 0.008, -y + 0.04, top - 0.006), front)
            z = top - 0.35 * (top - low)
            parts.box(((a + b) / 2 - 0.06, -y, z - 0.008), ((a + b) / 2 + 0.06, -y + 0.022, z + 0.008), metal)
        if lifted > 0.07:
            for x in (a + 0.03, b - 0.03):
                for yy in (-y + 0.07, y - 0.05):
                    parts.rod((x, yy, 0), (x, yy, lifted), 0.015, metal)
        else:
            parts.box((a + 0.02, -y + 0.06, 0), (b - 0.02, y - 0.04, lifted), wood * 0.5)
    if not both:
        if rng.random() < 0.55:
            parts.box((-s * w, -y + 0.01, 0), (-s * (w - 0.03), y - 0.01, under), wood)
        else:
            for yy in (-y + 0.04, y - 0.04):
                parts.box((-s * (w - 0.06), yy - 0.022, 0), (-s * (w - 0.016), yy + 0.022, under), metal)
    drop = rng.uniform(0.12, 0.45)
    parts.box((-w + 0.05, y - 0.035, drop), (w - 0.05, y - 0.02, under), wood * 0.85)
    if rng.random() < 0.3:  # a shelf on top, at the back
        up = high + rng.uniform(0.18, 0.45)
        for x in (-w, w - 0.02):
            parts.box((x, y - 0.24, high), (x + 0.02, y, up), wood)
        parts.box((-w, y - 0.24, up), (w, y, up + 0.02), wood)
        parts.box((-w + 0.02, y - 0.015, high), (w - 0.02, y, up), wood * 0.8)
    return 1


def _sofa(parts: Solids, rng: Generator) -> int:
    seats = int(rng.integers(2, 4))
    one = rng.uniform(0.55, 0.72)
    arm, deep = rng.uniform(0.1, 0.26), rng.uniform(0.8, 0.98)
    w, y = seats * one / 2, deep / 2
    fabric, wood = pick_paint(_FABRICS, rng), pick_paint(_WOODS, rng)
    soft = fabric * rng.uniform(1.0, 1.12)
    seat, high = rng.uniform(0.38, 0.46), rng.uniform(0.74, 0.92)
    foot = rng.uniform(0.03, 0.16)
    back, rest = rng.uniform(0.14, 0.22), seat + rng.uniform(0.08, 0.22)
    _legs(parts, w + arm - 0.08, y - 0.07, foot + 0.02, 0.06, wood, bool(rng.random() < 0.5))
    parts.box((-w - 0.01, -y + 0.01, foot), (w + 0.01, y - 0.02, seat - 0.13), fabric * 0.92)
    parts.cushion((-w - arm, y - back, foot), (w + arm, y, high - 0.06), fabric, 0.05, 0, 0.03)
    for s in (-1, 1):
        a, b = sorted((s * w, s * (w + arm)))
        parts.cushion((a, -y, foot), (b, y - 0.05, rest), fabric, min(0.06, 0.4 * arm))
    chaise = rng.choice([-1, 1]) if rng.random() < 0.3 else 0
    for k in range(seats):
        a, b = -w + k * one, -w + (k + 1) * one
        out = rng.uniform(0.5, 0.7) if (chaise == -1 and k == 0) or (chaise == 1 and k == seats - 1) else 0.0
        parts.cushion((a + 0.004, -y - out, seat - 0.15), (b - 0.004, y - back, seat), soft, 0.045, 0.02)
        parts.cushion((a + 0.01, y - back - 0.17, seat - 0.02), (b - 0.01, y - back + 0.02, high), soft, 0.06, 0.02, 0.06)
        if out:
            parts.box((a + 0.01, -y - out + 0.02, foot), (b - 0.01, -y + 0.02, seat - 0.13), fabric * 0.92)
            for x in (a + 0.06, b - 0.06):
                parts.rod((x, -y - out + 0.07, 0), (x, -y - out + 0.07, foot + 0.02), 0.025, wood)
    if rng.random() < 0.4:  # small cushions in the corners
        paint = pick_paint(_FABRICS, rng)
        for s in (-1, 1):
            x = s * (w - 0.2)
            parts.cushion((x - 0.19, y - back - 0.3, seat), (x + 0.19, y - back - 0.2, seat + 0.36), paint, 0.045, 0.03, 0.08)
    return 1


def _table(parts: Solids, rng: Generator) -> int:
    coffee = bool(rng.random() < 0.35)
    high = rng.uniform(0.36, 0.48) if coffee else rng.uniform(0.71, 0.77)
    wood = pick_paint(_WOODS, rng)
    leg = pick_paint(_METALS, rng) if rng.random() < 0.3 else wood * rng.uniform(0.8, 1.0)
    board = rng.uniform(0.02, 0.05)
    if rng.random() < 0.25:
        r = rng.uniform(0.35, 0.5) if coffee else rng.uniform(0.4, 0.7)
        parts.rod((0, 0, high - board), (0, 0, high), r, wood, sides=48)
        if rng.random() < 0.5:  # on one foot
            parts.rod((0, 0, 0.02), (0, 0, high - board), 0.06, leg, 0.045, sides=48)
            parts.rod((0, 0, 0), (0, 0, 0.03), 0.6 * r, leg, 0.5 * r, sides=48)
            return 0
        _legs(parts, 0.55 * r, 0.55 * r, high - board, 0.06, leg, True, 0.1 * r)
        return 4
    square = bool(rng.random() < 0.15)
    w = rng.uniform(0.4, 0.65) if coffee else rng.uniform(0.55, 1.0)
    y = w if square else w * rng.uniform(0.45, 0.7)
    parts.box((-w, -y, high - board), (w, y, high), wood)
    thick = rng.uniform(0.04, 0.09)
    inset = thick / 2 + rng.uniform(0.0, 0.06)
    trestle = bool(rng.random() < 0.3) and not square
    if trestle:
        x = w * rng.uniform(0.65, 0.9)
        for s in (-1, 1):
            parts.box((s * x - 0.035, -y * 0.8, 0), (s * x + 0.035, y * 0.8, 0.06), leg)
            parts.box((s * x - 0.03, -0.08, 0.06), (s * x + 0.03, 0.08, high - board), leg)
        parts.box((-x + 0.03, -0.02, 0.25 * high), (x - 0.03, 0.02, 0.25 * high + 0.08), leg)
        return 2
    _legs(parts, w - inset, y - inset, high - board, thick, leg, bool(rng.random() < 0.3), 0.0)
    if rng.random() < 0.6:  # an apron below the top
        h = rng.uniform(0.05, 0.1)
        x, d, low, top = w - inset, y - inset, high - board - h, high - board
        for s in (-1, 1):
            parts.box((-x, s * d - 0.01, low), (x, s * d + 0.01, top), leg)
            parts.box((s * x - 0.01, -d, low), (s * x + 0.01, d, top), leg)
    if coffee and rng.random() < 0.5:
        parts.box((-w + inset, -y + inset, 0.12), (w - inset, y - inset, 0.14), wood * 0.9)
    return 4 if square else 2


_MAKERS: dict[str, Callable[[Solids, Generator], int]] = {
    "bed": _bed, "bookcase": _bookcase, "chair": _chair, "desk": _desk, "sofa": _sofa, "table": _table,
}  # fmt: skip
