"""Parametric things on roads: cars, trucks, trailers, buses, diggers, two-wheelers, people, cones and barriers.

Low-poly stand-ins in real sizes. A shape fills its box exactly, in the object frame of `geometry.boxes3d`: metres, origin in
the middle of the box, x forwards, y down, z to the object's left. (category, seed) decides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.random import Generator

from ...datasets.road import CLASSES as CATEGORIES
from ...datasets.road import SIZES
from ...mesh.loading import diameter
from ...types import ObjectModel, Symmetries
from .solids import Array, Solids, Three, as_model, ball, block, body, check, hull, pick_paint

VARIANTS: dict[str, dict[str, tuple[float, float, float]]] = {
    "car": {
        "saloon": (1.03, 0.90, 0.98), "hatchback": (0.92, 0.93, 0.97), "suv": (1.0, 1.05, 1.02), "estate": (1.03, 0.92, 0.98),
        "van": (1.05, 1.18, 1.03), "pickup": (1.08, 1.02, 1.02),
    },
    "truck": {
        "box": (1.08, 1.15, 1.06), "flatbed": (1.08, 0.96, 1.02), "pickup": (0.84, 0.72, 0.88), "tipper": (1.0, 1.1, 1.04),
    },
    "trailer": {"box": (1.05, 1.04, 1.0), "tank": (1.0, 0.97, 1.0), "flat": (0.95, 0.9, 1.0)},
    "bus": {"city": (1.0, 0.96, 1.0), "coach": (1.0, 1.03, 1.0)},
    "construction_vehicle": {"excavator": (1.0, 1.0, 1.0), "loader": (1.0, 1.0, 1.0)},
    "bicycle": {"parked": (1.0, 0.82, 0.97), "ridden": (1.0, 1.27, 1.03)},
    "motorcycle": {"parked": (1.0, 0.88, 1.0), "ridden": (1.0, 1.13, 1.0)},
    "pedestrian": {"walking": (1.22, 1.0, 0.99), "standing": (0.78, 1.0, 1.01)},
    "traffic_cone": {"cone": (1.04, 0.85, 1.04), "pillar": (0.92, 1.15, 0.92)},
    "barrier": {"concrete": (1.05, 0.95, 1.0), "plastic": (1.0, 1.0, 1.0), "board": (0.95, 1.05, 1.0)},
}  # fmt: skip
"""The kinds of each category, by which the mean size of the category is multiplied; seeds take turns through them."""

_CARS = (
    (0.90, 0.90, 0.89), (0.90, 0.90, 0.89), (0.70, 0.71, 0.72), (0.42, 0.43, 0.45), (0.08, 0.08, 0.09), (0.12, 0.12, 0.13),
    (0.55, 0.07, 0.07), (0.10, 0.18, 0.42), (0.30, 0.40, 0.52), (0.14, 0.28, 0.19), (0.50, 0.42, 0.32), (0.72, 0.58, 0.12),
)  # fmt: skip
_CARGO = (
    (0.88, 0.88, 0.86),
    (0.78, 0.79, 0.80),
    (0.20, 0.32, 0.55),
    (0.62, 0.14, 0.12),
    (0.16, 0.38, 0.26),
    (0.85, 0.62, 0.16),
)
_MACHINES = ((0.90, 0.66, 0.06), (0.86, 0.48, 0.08), (0.80, 0.74, 0.18))
_CLOTHES = (
    (0.10, 0.10, 0.12), (0.18, 0.22, 0.34), (0.35, 0.36, 0.38), (0.82, 0.81, 0.78), (0.58, 0.15, 0.15), (0.20, 0.34, 0.26),
    (0.55, 0.48, 0.36), (0.85, 0.55, 0.12), (0.26, 0.40, 0.60), (0.70, 0.72, 0.20),
)  # fmt: skip
_SKINS = ((0.87, 0.68, 0.55), (0.70, 0.50, 0.37), (0.48, 0.32, 0.22), (0.32, 0.21, 0.15))
_ORANGE, _WHITE, _RED = (0.93, 0.35, 0.07), (0.92, 0.92, 0.90), (0.72, 0.10, 0.08)
_GLASS, _RUBBER, _DARK, _STEEL = (0.07, 0.09, 0.11), (0.05, 0.05, 0.055), (0.11, 0.11, 0.12), (0.55, 0.56, 0.58)
_LAMP, _TAIL = (0.98, 0.96, 0.86), (0.70, 0.05, 0.05)


def variant(category: str, seed: int) -> str:
    """Which kind of its category a shape is: one of `VARIANTS[category]`."""
    check(category, seed, CATEGORIES, "category")
    kinds = list(VARIANTS[category])
    return kinds[seed % len(kinds)]


def random_size(category: str, kind: str, rng: Generator) -> Array:
    """Length, height, width of one thing, (3,), metres: log-normal around its class and kind, within two deviations."""
    mean, sigma = (np.array(v) for v in SIZES[category])
    factors = np.array(list(VARIANTS[category].values()))
    inner = np.sqrt(np.clip((sigma / mean) ** 2 - np.log(factors).var(0), 0.0009, 0.25))  # what the kinds leave unexplained
    common, own = rng.standard_normal(), rng.standard_normal(3)
    z = np.clip(0.6 * common + 0.8 * own, -2, 2)
    size = mean * VARIANTS[category][kind] * np.exp(inner * z - inner**2 / 2)
    if category == "traffic_cone":  # round
        size[2] = size[0]
    return np.asarray(size)


def shape(category: str, seed: int) -> ObjectModel:
    """One thing on a road.

    Args:
        category: one of `CATEGORIES`.
        seed: another shape for every number >= 0, always the same for the same number.

    Returns:
        the model, in the frame of `geometry.boxes3d`, at most a few thousand triangles, with vertex colours and closed parts.
        Its bounds are its box: +-(length, height, width) / 2. Cones turn about y, concrete and plastic barriers by half a turn.

    Raises:
        ValueError: no such category.
    """
    kind = variant(category, seed)
    rng = np.random.default_rng((CATEGORIES.index(category), seed, 13))
    size = random_size(category, kind, rng)
    parts = Solids(rng)
    _MAKERS[category](parts, rng, kind, *(float(v) for v in size))
    v, faces, n, c = parts.joined()
    vertices, normals = _turned(v), _turned(n)
    low, high = vertices.min(0), vertices.max(0)
    stretch = size / (high - low)
    vertices = (vertices - (low + high) / 2) * stretch
    normals = normals / stretch
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    name, about = f"{category}_{kind}_{seed:03d}", _symmetries(category, kind)
    return as_model(CATEGORIES.index(category), name, vertices, faces, normals, c, symmetries=about)


def roadside(seed: int) -> ObjectModel:
    """What stands beside roads and hides things: a tree, a lamp post, a sign or a box; obj_id -1, in the frame of `shape`."""
    rng = np.random.default_rng((seed, 17))
    parts = Solids(rng)
    kind = ("tree", "lamp", "sign", "box")[seed % 4]
    high = rng.uniform(*{"tree": (3.5, 9.0), "lamp": (5.0, 9.0), "sign": (2.2, 3.2), "box": (0.8, 1.6)}[kind])
    if kind == "tree":
        bark, leaves = (
            np.array((0.28, 0.22, 0.16)) * rng.uniform(0.7, 1.3),
            np.array((0.20, 0.34, 0.14)) * rng.uniform(0.6, 1.4),
        )
        parts.rod((0, 0, 0), (0, 0, 0.6 * high), 0.03 * high, bark, 0.02 * high, sides=8)
        for _ in range(int(rng.integers(3, 6))):
            spot = np.array([*rng.normal(0, 0.1, 2), rng.uniform(0.5, 0.85)]) * high
            ball(parts, spot, rng.uniform(0.14, 0.24, 3) * high, leaves * rng.uniform(0.8, 1.2))
    elif kind == "lamp":
        parts.rod((0, 0, 0), (0, 0, high), 0.1, _STEEL, 0.06, sides=8)
        parts.rod((0, 0, high - 0.05), (0, -0.2 * high, high), 0.05, _STEEL, sides=8)
        block(parts, (-0.15, -0.2 * high - 0.5, high - 0.1), (0.15, -0.2 * high, high + 0.08), _DARK)
    elif kind == "sign":
        parts.rod((0, 0, 0), (0, 0, high), 0.035, _STEEL, sides=8)
        colour = pick_paint((_RED, (0.1, 0.25, 0.6), _WHITE, (0.9, 0.7, 0.1)), rng)
        parts.rod((0, -0.05, high - 0.35), (0, -0.08, high - 0.35), 0.35, colour, sides=(4, 8, 16)[int(rng.integers(3))])
    else:
        block(parts, (-0.3, -0.25, 0), (0.3, 0.25, high), pick_paint(_CARGO, rng) * 0.7)
    v, faces, n, c = parts.joined()
    vertices = _turned(v).astype(np.float32)
    vertices -= (vertices.min(0) + vertices.max(0)) / 2
    return as_model(-1, kind, vertices, faces, _turned(n), c, diameter(v))


def _turned(rows: Array) -> Array:
    """From the frame in which things are built, +Z up and the front towards -Y, to that of boxes. (n, 3) -> (n, 3)."""
    return np.stack([-rows[:, 1], -rows[:, 2], rows[:, 0]], -1)


def _symmetries(category: str, kind: str) -> Symmetries:
    if category == "traffic_cone":
        return Symmetries(axes=torch.tensor([[0.0, 1.0, 0.0]]), offsets=torch.zeros(1, 3))
    if kind in ("concrete", "plastic"):
        return Symmetries(torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))[None])
    return Symmetries()


def _wheel(parts: Solids, x: float, y: float, radius: float, wide: float, hub: Three = _STEEL) -> None:
    """A wheel whose outer side is at x; the axle is along X."""
    inside = x - math.copysign(wide, x)
    parts.rod((inside, y, radius), (x - math.copysign(0.012, x), y, radius), radius, _RUBBER, sides=16)
    parts.rod((inside, y, radius), (x, y, radius), 0.6 * radius, hub, sides=12)


def _axles(parts: Solids, half: float, at: Sequence[float], radius: float, wide: float, hub: Three = _STEEL) -> None:
    for y in at:
        for s in (-1, 1):
            _wheel(parts, s * half, y, radius, wide, hub)


def _pair(parts: Solids, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], paint: Three) -> None:
    """Two blocks, one the mirror image of the other."""
    for s in (-1, 1):
        block(parts, (s * x[0], y[0], z[0]), (s * x[1], y[1], z[1]), paint)


def _ring(parts: Solids, y: float, radius: float, thick: float, wide: float, paint: Three) -> None:
    """A bicycle's tyre, standing on z = 0, its axle along X."""
    angle = np.arange(17) * 2 * math.pi / 16
    for a, b in pairwise(angle):
        section = []
        for t in (a, b):
            r = np.array([radius, radius, radius - thick, radius - thick])
            x = np.array([-wide, wide, wide, -wide]) / 2
            section.append(np.stack([x, y + r * math.sin(t), radius + r * math.cos(t)], -1))
        hull(parts, section, paint)


def _off(place: Array, x: float, y: float, z: float) -> Array:
    """A place some metres away."""
    return place + np.array([x, y, z])


def _limb(parts: Solids, points: Sequence[Three], radius: float, end: float, paint: Three) -> None:
    """Rods from point to point that taper."""
    widths = np.linspace(radius, end, len(points))
    for a, b, r, q in zip(points[:-1], points[1:], widths[:-1], widths[1:]):
        parts.rod(a, b, float(r), paint, float(q), sides=8)


# ------------------------------------------------------------------------------------------------------------ categories
# Each fills about (long, high, wide), metres; `shape` stretches the rest.

# along the car from its front, shares of the length: windscreen's foot, roof's ends, rear window's foot; waist over height
_CABINS = {
    "saloon": (0.27, 0.43, 0.70, 0.86, 0.60), "hatchback": (0.25, 0.40, 0.85, 0.97, 0.60),
    "suv": (0.26, 0.38, 0.90, 0.985, 0.60), "estate": (0.26, 0.41, 0.91, 0.985, 0.60),
    "van": (0.14, 0.28, 0.97, 0.99, 0.52), "pickup": (0.27, 0.39, 0.57, 0.61, 0.60),
}  # fmt: skip


def _car(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    paint = pick_paint(_CARS, rng)
    foot, front, rear, end, waist = _CABINS[kind]
    waist *= rng.uniform(0.96, 1.04)
    radius = min(0.2 * high, 0.38) * rng.uniform(0.95, 1.08)
    w, belt, low = wide / 2 - 0.025, waist * high, 0.14 * high
    nose = belt * rng.uniform(0.72, 0.86)

    def at(share: float) -> float:
        return (share - 0.5) * long

    back = belt if kind in ("hatchback", "suv", "estate", "van", "pickup") else 0.96 * belt
    body(parts, [
        (at(0.0), 1.7 * low, 0.85 * nose, 0.78 * w, 0.86 * w, 0.76 * w),
        (at(0.03), 1.1 * low, nose, 0.88 * w, 0.95 * w, 0.84 * w),
        (at(0.12), low, 0.4 * belt + 0.6 * nose, 0.92 * w, w, 0.9 * w), (at(foot), low, belt, 0.92 * w, w, 0.93 * w),
        (at(0.88), low, back, 0.92 * w, w, 0.93 * w), (at(0.98), 1.3 * low, back * 0.97, 0.9 * w, 0.96 * w, 0.86 * w),
        (at(1.0), 2.2 * low, back * 0.88, 0.82 * w, 0.9 * w, 0.8 * w),
    ], paint)  # fmt: skip
    roof, top = high - 0.05, 0.74 * w
    cabin = [
        (at(foot), belt - 0.02, belt + 0.01, 0.9 * w, 0.9 * w, 0.88 * w),
        (at(front), belt - 0.02, roof, 0.9 * w, 0.86 * w, top),
        (at(rear), belt - 0.02, roof, 0.9 * w, 0.86 * w, top),
        (at(end), belt - 0.02, belt + 0.02, 0.88 * w, 0.86 * w, 0.84 * w),
    ]  # fmt: skip
    body(parts, cabin, _GLASS)
    if kind == "van":  # no windows behind the doors
        mid = at(0.46)
        body(parts, [(mid, belt - 0.03, roof + 0.01, 0.92 * w, 0.885 * w, 1.03 * top),
                      (at(rear), belt - 0.03, roof + 0.01, 0.92 * w, 0.885 * w, 1.03 * top),
                      (at(end), belt - 0.03, 0.93 * roof, 0.9 * w, 0.88 * w, 1.0 * top)], paint)  # fmt: skip
    inset = 0.012 * long
    body(parts, [(at(front) - inset, roof - 0.03, roof, top, 1.02 * top, 0.96 * top),
                  (at(0.5 * (front + rear)), roof - 0.02, high, top, 1.03 * top, 0.85 * top),
                  (at(rear) + inset, roof - 0.03, roof, top, 1.02 * top, 0.96 * top)], paint)  # fmt: skip
    for s in (-1, 1):
        parts.rod((s * 0.89 * w, at(foot), belt), (s * top, at(front), roof), 0.035, paint, sides=4)
        parts.rod((s * 0.87 * w, at(end), belt), (s * top, at(rear), roof), 0.05, paint, sides=4)
        middle = at(0.5 * (front + rear) if kind != "van" else 0.45)
        parts.rod((s * 0.89 * w, middle, belt), (s * top, middle, roof), 0.035, paint * 0.6, sides=4)
        block(parts, (s * 0.9 * w, at(foot + 0.05), belt), (s * wide / 2, at(foot + 0.05) + 0.09, belt + 0.11), paint)  # mirror
    if kind == "pickup":
        block(parts, (-0.8 * w, at(0.63), belt - 0.1), (0.8 * w, at(0.97), belt + 0.012), _DARK)
        _pair(parts, (0.8 * w, 0.93 * w), (at(0.62), at(0.97)), (belt - 0.1, belt + 0.05), paint)
    axle = (at(0.19), at(0.81 if kind != "van" else 0.79))
    for y in axle:
        for s in (-1, 1):
            _wheel(parts, s * wide / 2, y, radius, 0.24)
            parts.rod((s * (w - 0.2), y, 1.02 * radius), (s * (w + 0.006), y, 1.02 * radius), 1.16 * radius, _DARK, sides=16)
    y = at(0.0)
    _pair(parts, (0.50 * w, 0.86 * w), (y + 0.01, y + 0.22), (0.72 * nose, 0.90 * nose), _LAMP)
    block(parts, (-0.45 * w, y - 0.012, 0.55 * nose), (0.45 * w, y + 0.1, 0.82 * nose), _DARK)
    block(parts, (-0.26, y - 0.025, 0.48 * nose), (0.26, y + 0.1, 0.48 * nose + 0.11), _WHITE)
    y = at(1.0)
    z = (0.70 * back, 0.88 * back)
    _pair(parts, (0.52 * w, 0.9 * w), (y - 0.14, y + 0.012), z, _TAIL)
    block(parts, (-0.26, y - 0.1, 0.56 * back), (0.26, y + 0.02, 0.56 * back + 0.11), _WHITE)
    block(parts, (-0.8 * w, y - 0.1, 1.7 * low), (0.8 * w, y + 0.015, 2.6 * low), _DARK)


def _cab(parts: Solids, y: float, deep: float, low: float, high: float, w: float, paint: Array) -> None:
    """A lorry's cab from its front y on, with windows, lamps and bumper."""
    belt = low + 0.48 * (high - low)
    body(parts, [(y + 0.02, low, belt, 0.95 * w, 0.98 * w, 0.97 * w), (y + 0.06, low, belt + 0.02, w, w, w),
                  (y + 0.22, low, high - 0.08, w, w, 0.92 * w), (y + deep, low, high, w, w, 0.92 * w)], paint)  # fmt: skip
    body(parts, [(y, belt + 0.02, belt + 0.05, 0.88 * w, 0.88 * w, 0.86 * w),
                  (y + 0.18, belt + 0.02, high - 0.14, 0.88 * w, 0.88 * w, 0.84 * w),
                  (y + 0.4, belt + 0.02, high - 0.14, 0.88 * w, 0.88 * w, 0.84 * w)], _GLASS)  # fmt: skip
    block(parts, (-1.01 * w, y + 0.32 * deep, belt + 0.05), (1.01 * w, y + 0.75 * deep, high - 0.25), _GLASS)
    _pair(parts, (0.6 * w, 0.92 * w), (y - 0.01, y + 0.1), (low + 0.12, low + 0.32), _LAMP)
    block(parts, (-0.5 * w, y - 0.01, low + 0.1), (0.5 * w, y + 0.1, belt - 0.15), _DARK)
    block(parts, (-0.98 * w, y - 0.04, low - 0.12), (0.98 * w, y + 0.3, low + 0.08), _DARK)
    _pair(parts, (0.98 * w, 1.08 * w), (y + 0.1, y + 0.2), (belt, belt + 0.5), _DARK)


def _truck(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    if kind == "pickup":
        _car(parts, rng, "pickup", long, high, wide)
        return
    paint, cargo = pick_paint(_CARS, rng), pick_paint(_CARGO, rng)
    w, y, end = 0.47 * wide, -long / 2 + 0.04, long / 2
    radius = min(0.5, 0.17 * high)
    deep = min(0.34 * long, 2.2)
    cab = high * (rng.uniform(0.8, 0.95) if kind == "box" else 0.97)
    low = 1.1 * radius
    _cab(parts, y, deep, low, cab, w, paint)
    load = y + deep + 0.12
    block(parts, (-0.4 * w, y + 0.3, 0.75 * radius), (0.4 * w, end - 0.05, 1.9 * radius), _DARK)
    deck = 2.0 * radius
    if kind == "box":
        body(
            parts,
            [
                (load, deck, high, 0.98 * wide / 2, wide / 2, wide / 2),
                (end - 0.03, deck, high, 0.98 * wide / 2, wide / 2, wide / 2),
            ],
            cargo,
        )
        if rng.random() < 0.6:
            band = pick_paint(_CARGO, rng)
            block(parts, (-wide / 2 - 0.005, load + 0.12 * long, deck + 0.3 * (high - deck)),
                   (wide / 2 + 0.005, end - 0.12 * long, deck + 0.55 * (high - deck)), band)  # fmt: skip
        block(parts, (-0.02, end - 0.1, deck + 0.05), (0.02, end - 0.02, high - 0.05), _DARK)
    elif kind == "flatbed":
        block(parts, (-wide / 2, load, deck), (wide / 2, end, deck + 0.15), cargo * 0.6)
        block(parts, (-wide / 2, load, deck), (wide / 2, load + 0.06, deck + 0.9), cargo * 0.8)
        for _ in range(int(rng.integers(1, 5))):
            at, size = rng.uniform(load + 0.5, end - 0.6), rng.uniform(0.3, 0.55)
            tall = rng.uniform(0.3, 0.7) * (high - deck)
            block(
                parts, (-0.8 * w, at - size, deck + 0.15), (0.8 * w, at + size, deck + 0.15 + tall), pick_paint(_CLOTHES, rng)
            )
    else:  # a tipper's bucket
        body(parts, [(load, deck + 0.35, 0.92 * high, 0.7 * w, w, wide / 2),
                      (end - 0.4, deck + 0.1, 0.92 * high, 0.7 * w, w, wide / 2),
                      (end, deck + 0.5, 0.92 * high, 0.7 * w, w, wide / 2)], cargo)  # fmt: skip
        block(parts, (-0.85 * w, y + 0.2, cab - 0.02), (0.85 * w, load + 0.3, high), cargo)
    rears = [end - 0.22 * long] if long < 8 else [end - 0.2 * long, end - 0.2 * long - 2.3 * radius]
    _axles(parts, wide / 2 - 0.01, [y + 0.62 * deep, *rears], radius, 0.32)
    _pair(parts, (0.7 * w, 0.95 * w), (end - 0.08, end + 0.01), (1.4 * radius, 1.75 * radius), _TAIL)
    block(parts, (-0.9 * w, end - 0.1, 0.8 * radius), (0.9 * w, end, 1.1 * radius), _STEEL)


def _trailer(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    paint = pick_paint(_CARGO, rng)
    w, y, end = wide / 2, -long / 2, long / 2
    radius, deck = 0.5, min(1.2, 0.33 * high)
    block(parts, (-0.35 * w, y, deck - 0.3), (0.35 * w, end - 0.1, deck), _DARK)
    if kind == "box":
        parts.box((-w, y, deck), (w, end - 0.02, high), paint)
        if rng.random() < 0.5:
            band = pick_paint(_CARGO, rng)
            block(
                parts,
                (-w - 0.006, y + 0.2 * long, deck + 0.35 * (high - deck)),
                (w + 0.006, y + 0.7 * long, deck + 0.7 * (high - deck)),
                band,
            )
        block(parts, (-0.03, end - 0.1, deck + 0.05), (0.03, end, high - 0.05), _DARK)
        for x in (-0.6 * w, 0.6 * w):
            parts.rod((x, end - 0.03, deck), (x, end - 0.03, high), 0.03, _STEEL, sides=4)
    elif kind == "tank":
        r = (high - deck) / 2
        angle = np.arange(16) * 2 * math.pi / 16 + math.pi / 16
        rings = []
        for at, share in ((y, 0.75), (y + 0.25, 1.0), (end - 0.3, 1.0), (end - 0.05, 0.75)):
            rings.append(np.stack([share * w * np.cos(angle), np.full(16, at), deck + r + share * r * np.sin(angle)], -1))
        hull(parts, rings, pick_paint(((0.85, 0.85, 0.86), (0.72, 0.73, 0.75), (0.82, 0.80, 0.70)), rng))
        block(parts, (-0.25 * w, y + 0.2 * long, high - 0.05), (0.25 * w, end - 0.2 * long, high), _DARK)
    else:
        block(parts, (-w, y, deck), (w, end, deck + 0.12), paint * 0.6)
        block(parts, (-w, y, deck), (w, y + 0.1, high), paint)
        for k in range(int(rng.integers(2, 4))):
            at = y + (0.2 + 0.27 * k) * long
            block(
                parts,
                (-0.85 * w, at, deck + 0.12),
                (0.85 * w, at + 0.2 * long, deck + rng.uniform(0.4, 0.95) * (high - deck)),
                pick_paint(_CLOTHES, rng),
            )
    _axles(parts, w - 0.02, [end - 0.08 * long - 2.2 * radius * k for k in range(2 + (long > 10))], radius, 0.5)
    for x in (-0.5 * w, 0.5 * w):
        block(parts, (x - 0.07, y + 0.2 * long, 0.05), (x + 0.07, y + 0.2 * long + 0.15, deck), _STEEL)
    _pair(parts, (0.7 * w, 0.95 * w), (end - 0.1, end + 0.01), (deck - 0.3, deck - 0.12), _TAIL)
    block(parts, (-0.95 * w, end - 0.12, 0.45), (0.95 * w, end - 0.04, 0.6), _RED)


def _bus(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    paint = pick_paint(_CARGO if rng.random() < 0.7 else _CARS, rng)
    w, y, end = wide / 2 - 0.03, -long / 2, long / 2
    low, sill = 0.1 * high, (0.42 if kind == "city" else 0.48) * high
    roof = high - (0.15 if kind == "city" else 0.04)
    body(parts, [(y, 1.3 * low, 0.93 * roof, 0.94 * w, 0.97 * w, 0.9 * w),
                  (y + 0.3, low, roof, w, w, 0.95 * w),
                  (end - 0.2, low, roof, w, w, 0.95 * w),
                  (end, 1.5 * low, 0.96 * roof, 0.97 * w, 0.98 * w, 0.92 * w)], paint)  # fmt: skip
    band = pick_paint(_CARGO, rng)
    block(parts, (-w - 0.01, y + 0.5, 2.0 * low), (w + 0.01, end - 0.3, 2.9 * low), band)
    count = max(4, round(long / 1.5))
    edges = np.linspace(y + 0.7, end - 0.5, count + 1)
    for a, b in pairwise(edges):
        block(parts, (-w - 0.012, a + 0.06, sill), (w + 0.012, b - 0.06, 0.86 * roof), _GLASS)
    for at in (y + 0.35, *((y + 0.5 * long,) if kind == "city" else ())):  # doors, on the kerb's side
        block(parts, (-w - 0.02, at, 1.3 * low), (-w + 0.2, at + 1.1, 0.82 * roof), _GLASS)
        block(parts, (-w - 0.024, at + 0.53, 1.3 * low), (-w + 0.2, at + 0.57, 0.82 * roof), paint)
    block(parts, (-0.88 * w, y - 0.02, 0.38 * high), (0.88 * w, y + 0.3, 0.8 * roof), _GLASS)
    block(parts, (-0.7 * w, y - 0.015, 0.83 * roof), (0.7 * w, y + 0.3, 0.91 * roof), _DARK)
    block(parts, (-0.4 * w, y - 0.022, 0.85 * roof), (0.4 * w, y + 0.3, 0.895 * roof), (0.95, 0.6, 0.1))
    _pair(parts, (0.6 * w, 0.92 * w), (y - 0.02, y + 0.3), (0.19 * high, 0.25 * high), _LAMP)
    block(parts, (-0.95 * w, y - 0.03, 1.2 * low), (0.95 * w, y + 0.3, 1.7 * low), _DARK)
    block(parts, (-0.75 * w, end - 0.3, 0.6 * high), (0.75 * w, end + 0.012, 0.85 * roof), _GLASS)
    _pair(parts, (0.78 * w, 0.94 * w), (end - 0.2, end + 0.015), (0.25 * high, 0.4 * high), _TAIL)
    block(parts, (-0.7 * w, end - 0.2, 0.2 * high), (0.7 * w, end + 0.01, 0.4 * high), _DARK)
    if kind == "city":
        for share in (0.25, 0.65):
            block(parts, (-0.6 * w, y + share * long, roof - 0.02), (0.6 * w, y + (share + 0.15) * long, high), paint * 0.9)
    _pair(parts, (w, 1.02 * wide / 2 + 0.02), (y - 0.1, y + 0.05), (0.55 * high, 0.75 * high), _DARK)
    radius = 0.15 * high
    _axles(parts, wide / 2, [y + 0.22 * long, end - 0.27 * long], radius, 0.35)


def _machine(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    paint = pick_paint(_MACHINES, rng)
    w, front, back = wide / 2, -long / 2, long / 2
    if kind == "excavator":
        house, deck = 0.52 * long, 0.28 * high  # the house is behind, the arm in front
        for s in (-1, 1):
            a, b = sorted((s * w, s * 0.62 * w))
            parts.cushion((a, back - house - 0.08 * long, 0), (b, back - 0.06 * long, 0.8 * deck), _RUBBER, 0.35 * deck)
        block(parts, (-0.6 * w, back - 0.4 * long, 0.3 * deck), (0.6 * w, back - 0.15 * long, deck), _DARK)
        body(parts, [(back - house, deck, 1.9 * deck, 0.8 * w, 0.85 * w, 0.8 * w),
                      (back - 0.2 * house, deck, 1.95 * deck, 0.85 * w, 0.9 * w, 0.85 * w),
                      (back, deck, 1.8 * deck, 0.7 * w, 0.8 * w, 0.7 * w)], paint)  # fmt: skip
        x, y = 0.45 * w, back - 0.95 * house  # the driver sits on the left
        block(parts, (0.1 * w, y, 1.8 * deck), (0.85 * w, y + 0.45 * house, 0.86 * high), _GLASS)
        block(parts, (0.08 * w, y - 0.03, 0.86 * high), (0.87 * w, y + 0.47 * house, 0.9 * high), paint)
        for at in (y, y + 0.45 * house):
            for side in (0.1 * w, 0.85 * w):
                parts.rod((side, at, 1.8 * deck), (side, at, 0.88 * high), 0.05, paint, sides=4)
        x = -0.2 * w
        elbow = (x, front + 0.3 * long, high - 0.12)
        tip = (x, front + rng.uniform(0.06, 0.12) * long, rng.uniform(0.25, 0.4) * high)
        parts.rod((x, back - 0.8 * house, 1.6 * deck), elbow, 0.11 * high, paint, 0.06 * high, sides=4)
        parts.rod(elbow, tip, 0.06 * high, paint, 0.045 * high, sides=4)
        parts.rod((x, back - 0.9 * house, 1.5 * deck), (x, front + 0.38 * long, 0.72 * high), 0.03 * high, _STEEL, sides=8)
        z = tip[2]
        bucket = np.array([[0, front, z - 0.2 * high], [0, front + 0.15 * long, z - 0.24 * high],
                           [0, front + 0.16 * long, z + 0.02 * high], [0, front + 0.06 * long, z + 0.06 * high]])  # fmt: skip
        hull(parts, [_off(bucket, x + side * 0.45 * w, 0, 0) for side in (-1, 1)], _DARK)
    else:  # a wheel loader
        radius = 0.24 * high
        body(parts, [(front + 0.28 * long, 0.9 * radius, 2.1 * radius, 0.4 * w, 0.45 * w, 0.4 * w),
                      (back - 0.4 * long, 0.8 * radius, 2.4 * radius, 0.55 * w, 0.6 * w, 0.55 * w),
                      (back - 0.04 * long, 0.8 * radius, 2.5 * radius, 0.6 * w, 0.65 * w, 0.6 * w),
                      (back, radius, 2.2 * radius, 0.55 * w, 0.6 * w, 0.5 * w)], paint)  # fmt: skip
        y = back - 0.52 * long
        block(parts, (-0.5 * w, y, 2.2 * radius), (0.5 * w, y + 0.25 * long, 0.94 * high), _GLASS)
        block(parts, (-0.54 * w, y - 0.04, 0.94 * high), (0.54 * w, y + 0.27 * long, high), paint)
        for at in (y, y + 0.25 * long):
            for side in (-0.5 * w, 0.5 * w):
                parts.rod((side, at, 2.2 * radius), (side, at, 0.96 * high), 0.05, paint, sides=4)
        _axles(parts, 0.92 * w, [front + 0.36 * long, back - 0.2 * long], radius, 0.5 * radius + 0.2, paint)
        z = rng.uniform(0.05, 0.3) * high
        for s in (-1, 1):
            parts.rod(
                (s * 0.3 * w, front + 0.4 * long, 2.1 * radius),
                (s * 0.3 * w, front + 0.14 * long, z + 0.15 * high),
                0.06 * high,
                paint,
                sides=4,
            )
        hull(parts, [np.array([[s, front, z], [s, front + 0.16 * long, z], [s, front + 0.19 * long, z + 0.2 * high],
                                [s, front + 0.13 * long, z + 0.3 * high]]) for s in (-w, w)], paint * 0.75)  # fmt: skip


def _human(
    parts: Solids, rng: Generator, tall: float, hip: Array, legs: Sequence[Sequence[Array]], hands: Sequence[Array],
    lean: float, helmet: bool = False,
) -> None:  # fmt: skip
    """A person `tall` metres, whose hips are at a place. `legs`: knee and foot of each; the chest is `lean` metres forward."""
    coat, trousers, skin = pick_paint(_CLOTHES, rng), pick_paint(_CLOTHES, rng), pick_paint(_SKINS, rng)
    chest = hip + np.array([0, -lean, 0.31 * tall])
    wide, deep = 0.115 * tall, 0.075 * tall
    outline = np.array([[-1, -0.7], [-0.7, -1], [0.7, -1], [1, -0.7], [1, 0.7], [0.7, 1], [-0.7, 1], [-1, 0.7]])
    rings = []
    for share, x, y in ((0.0, 0.82, 1.0), (0.45, 0.8, 0.95), (0.85, 1.05, 1.0), (1.0, 0.6, 0.6)):
        middle = hip + share * (chest - hip)
        rings.append(np.concatenate([middle[:2] + outline * (x * wide, y * deep), np.full((8, 1), middle[2])], 1))
    hull(parts, rings, coat)
    head = chest + np.array([0, -0.25 * lean - 0.01 * tall, 0.095 * tall])
    parts.rod(_off(chest, 0, 0, -0.02 * tall), head, 0.032 * tall, skin, sides=8)
    ball(parts, head, (0.045 * tall, 0.058 * tall, 0.068 * tall), skin)
    hair = pick_paint(_CARS if helmet else ((0.10, 0.07, 0.05), (0.28, 0.18, 0.10), (0.55, 0.42, 0.22), (0.4, 0.4, 0.4)), rng)
    ball(
        parts,
        head + np.array([0, 0.014, 0.028]) * tall,
        np.array([0.052, 0.058, 0.058]) * tall * (1.12 if helmet else 1.0),
        hair,
    )
    for s, (knee, foot) in zip((-1, 1), legs):
        start = hip + np.array([s * 0.05 * tall, 0, 0.02 * tall])
        _limb(parts, [start, knee, _off(foot, 0, 0, 0.03 * tall)], 0.052 * tall, 0.03 * tall, trousers)
        block(parts, _off(foot, -0.027 * tall, -0.105 * tall, 0), _off(foot, 0.027 * tall, 0.04 * tall, 0.045 * tall), _RUBBER)
    for s, hand in zip((-1, 1), hands):
        shoulder = chest + np.array([s * 1.05 * wide, 0, -0.03 * tall])
        elbow = (shoulder + hand) / 2 + np.array([s * 0.03, 0.035, -0.01]) * tall
        _limb(parts, [shoulder, elbow, hand], 0.034 * tall, 0.024 * tall, coat)
        ball(parts, hand, np.full(3, 0.026 * tall), skin)


def _pedestrian(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    hip = np.array([0, 0, 0.5 * high])
    step = 0.5 * long - 0.1 * high if kind == "walking" else 0.03 * high
    first = rng.choice([-1, 1])
    legs, hands = [], []
    for s in (-1, 1):
        ahead = first * s * step  # to the front is -Y
        x = s * 0.055 * high
        bent = 0.05 * high if ahead > 0 else 0.0
        lift = 0.03 * high if kind == "walking" and ahead < 0 else 0.0
        legs.append([np.array([x, -0.55 * ahead - 0.02 * high - bent, 0.27 * high]), np.array([x, -ahead, lift])])
        swing = -0.7 * ahead if kind == "walking" else rng.uniform(0.0, 0.08) * high
        hands.append(np.array([s * (0.5 * wide - 0.03 * high), -swing, 0.45 * high + 0.1 * abs(swing)]))
    if kind == "standing" and rng.random() < 0.4:  # looks at a telephone
        hands[1] = np.array([0.1 * high, -0.17 * high, 0.66 * high])
    _human(parts, rng, high, hip, legs, hands, 0.02 * high if kind == "walking" else 0.0)
    if rng.random() < 0.35:
        bag = pick_paint(_CLOTHES, rng)
        ball(parts, (0, 0.12 * high, 0.68 * high), (0.085 * high, 0.05 * high, 0.12 * high), bag)


def _bicycle(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    ridden = kind == "ridden"
    top = 0.6 * high if ridden else high  # of the handlebar
    radius = min(0.2 * long, 0.38 * top)
    front, back = -long / 2 + radius, long / 2 - radius
    paint = pick_paint(_CARS, rng)
    for y in (front, back):
        _ring(parts, y, radius, 0.13 * radius, 0.045, _RUBBER)
        parts.rod((-0.05, y, radius), (0.05, y, radius), 0.04, _STEEL, sides=8)
        for k in range(4):  # spokes
            a = (k + 0.5) * math.pi / 4
            d = 0.9 * radius * np.array([0, math.cos(a), math.sin(a)])
            parts.rod(np.array([0, y, radius]) - d, np.array([0, y, radius]) + d, 0.006, _STEEL, sides=4)
    saddle, head = np.array([0, 0.35 * back, 0.92 * top]), np.array([0, 0.72 * front, 0.86 * top])
    crank = np.array([0, 0.12 * back, 0.9 * radius])
    hubs = np.array([[0, front, radius], [0, back, radius]])
    tubes = [(crank, saddle), (crank, _off(head, 0, 0, -0.08)), (_off(saddle, 0, 0, -0.12), head)]
    tubes += [(hubs[1], crank), (hubs[1], _off(saddle, 0, 0, -0.14)), (hubs[0], head)]
    for p, q in tubes:
        parts.rod(p, q, 0.022, paint, sides=8)
    bar = _off(head, 0, -0.02, 0.1 * top)
    parts.rod(head, bar, 0.02, _STEEL, sides=8)
    parts.rod(_off(bar, -wide / 2, 0, 0), _off(bar, wide / 2, 0, 0), 0.018, _DARK, sides=8)
    ball(parts, _off(saddle, 0, 0.02, 0.0), (0.08, 0.13, 0.035), _DARK)
    parts.rod(_off(crank, -0.1, 0, 0), _off(crank, 0.1, 0, 0), 0.06, _STEEL, sides=8)
    if rng.random() < 0.4:  # a basket
        low = 0.78 * top
        block(parts, (-0.15, front - 0.12, low), (0.15, front + 0.15, low + 0.2), pick_paint(_CLOTHES, rng))
    if ridden:
        hip = _off(saddle, 0, 0, 0.05)
        knee = np.array([0, hip[1] - min(0.38, 0.22 * high), 0.5 * (hip[2] + crank[2])])
        legs = [[_off(knee, 0.1 * s, 0, 0.05 * s), _off(crank, 0.11 * s, 0.14 * s, 0.1 * s - 0.04)] for s in (-1, 1)]
        hands = [_off(bar, s * (wide / 2 - 0.04), 0, 0.02) for s in (-1, 1)]
        helmet = bool(rng.random() < 0.6)
        _human(parts, rng, 2 * (high - hip[2]), hip, legs, hands, min(0.28, 0.16 * high), helmet)


def _motorcycle(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    ridden = kind == "ridden"
    top = 0.68 * high if ridden else high
    radius = min(0.165 * long, 0.32 * top)
    front, back = -long / 2 + radius, long / 2 - radius
    paint = pick_paint(_CARS, rng)
    for y in (front, back):
        _ring(parts, y, radius, 0.32 * radius, 0.13, _RUBBER)
        parts.rod((-0.04, y, radius), (0.04, y, radius), 0.72 * radius, _STEEL, sides=12)
    seat = 0.72 * top
    parts.cushion((-0.14, -0.2 * long, 0.75 * radius), (0.14, 0.2 * long, 0.52 * top), _DARK, 0.05)  # the engine
    parts.cushion((-0.17, -0.2 * long, 0.5 * top), (0.17, 0.06 * long, 0.8 * top), paint, 0.09)
    parts.cushion((-0.15, 0.02 * long, 0.6 * top), (0.15, 0.42 * long, seat), _RUBBER, 0.05)
    block(parts, (-0.12, 0.2 * long, 0.52 * top), (0.12, 0.46 * long, 0.64 * top), paint)
    _pair(parts, (0.0, 0.09), (0.44 * long, 0.47 * long), (0.54 * top, 0.62 * top), _TAIL)
    for s in (-1, 1):
        parts.rod((s * 0.09, front, radius), (s * 0.09, 0.55 * front, 0.88 * top), 0.03, _STEEL, sides=8)
        parts.rod((s * 0.16, 0.1 * long, 0.8 * radius), (s * 0.18, 0.42 * long, 1.0 * radius), 0.05, _STEEL, sides=8)
    parts.cushion((-0.14, 0.75 * front - 0.1, 0.72 * top), (0.14, 0.75 * front + 0.12, 0.93 * top), paint, 0.05)
    block(parts, (-0.09, 0.75 * front - 0.12, 0.76 * top), (0.09, 0.75 * front, 0.88 * top), _LAMP)
    bar = np.array([0, 0.5 * front, 0.93 * top])
    parts.rod(_off(bar, -wide / 2, 0, 0), _off(bar, wide / 2, 0, 0), 0.022, _DARK, sides=8)
    if rng.random() < 0.5 or not ridden:
        for s in (-1, 1):
            parts.rod(_off(bar, s * 0.4 * wide, 0, 0), _off(bar, s * 0.42 * wide, 0, 0.07 * top), 0.05, _DARK, sides=8)
    if ridden:
        hip = np.array([0, 0.12 * long, seat + 0.04])
        tall = 0.93 * (high - hip[2]) / 0.475
        legs = [
            [np.array([s * 0.2, -0.08 * long, 0.62 * top]), np.array([s * 0.2, 0.04 * long, 0.9 * radius])] for s in (-1, 1)
        ]
        _human(parts, rng, tall, hip, legs, [_off(bar, s * (wide / 2 - 0.05), 0, 0.02) for s in (-1, 1)], 0.2 * tall, True)


def _cone(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    colour = np.array(_ORANGE) * rng.uniform(0.85, 1.05)
    base = 0.05 * high
    if kind == "cone":
        block(parts, (-wide / 2, -long / 2, 0), (wide / 2, long / 2, base), colour * 0.8 if rng.random() < 0.5 else _RUBBER)
        r0, r1 = 0.38 * wide, 0.06 * wide
        edges = [base, 0.4 * high, 0.58 * high, *((0.68 * high, 0.84 * high) if rng.random() < 0.6 else ()), high]
    else:
        parts.rod((0, 0, 0), (0, 0, base), wide / 2, _RUBBER, sides=16)
        r0, r1 = 0.33 * wide, 0.28 * wide
        edges = list(np.linspace(base, high, 2 * int(rng.integers(2, 4)) + 2))
    for k, (a, b) in enumerate(pairwise(edges)):
        ra, rb = (r0 + (r1 - r0) * (z - base) / (high - base) for z in (a, b))
        parts.rod((0, 0, a), (0, 0, b), ra, _WHITE if k % 2 else colour, rb, sides=16)


def _barrier(parts: Solids, rng: Generator, kind: str, long: float, high: float, wide: float) -> None:
    x, y = wide / 2, long / 2

    def ring(z: float, reach: float, a: float = -x, b: float = x) -> Array:
        return np.array([[a, -reach, z], [b, -reach, z], [b, reach, z], [a, reach, z]])

    profile = ((0.0, y), (0.12 * high, y), (0.42 * high, 0.55 * y), (high, 0.35 * y))
    if kind == "concrete":
        hull(parts, [ring(z, r) for z, r in profile], np.array((0.62, 0.61, 0.58)) * rng.uniform(0.8, 1.1))
        if rng.random() < 0.5:
            for s in np.linspace(-0.7, 0.7, 3):
                block(parts, (s * x - 0.12, -0.42 * y, 0.7 * high), (s * x + 0.12, 0.42 * y, 0.86 * high), (0.9, 0.65, 0.1))
    elif kind == "plastic":
        edges = np.linspace(-x, x, 2 * int(rng.integers(1, 3)) + 2)  # an odd number of pieces looks the same from both sides
        for k, (a, b) in enumerate(pairwise(edges)):
            hull(parts, [ring(z, r, a + 0.01, b - 0.01) for z, r in profile], _WHITE if k % 2 else _ORANGE)
    else:
        for s in (-0.8, 0.8):
            for side in (-1, 1):
                parts.rod((s * x, side * y, 0), (s * x, 0, high), 0.035, _STEEL, sides=4)
        for z in (0.45, 0.82) if rng.random() < 0.5 else (0.82,):
            count = 2 * round(3 + 1.5 * wide)
            edges = np.linspace(-x, x, count + 1)
            tall = 0.16 * high
            for k, (a, b) in enumerate(pairwise(edges)):
                block(parts, (a, -0.32 * y, z * high - tall), (b, 0.2 * y, z * high + tall), _RED if k % 2 else _WHITE)
        if rng.random() < 0.5:
            ball(parts, (0.8 * x, 0, high + 0.02), (0.09, 0.07, 0.09), (0.95, 0.7, 0.1))


_MAKERS: dict[str, Callable[[Solids, Generator, str, float, float, float], None]] = {
    "car": _car, "truck": _truck, "trailer": _trailer, "bus": _bus, "construction_vehicle": _machine, "bicycle": _bicycle,
    "motorcycle": _motorcycle, "pedestrian": _pedestrian, "traffic_cone": _cone, "barrier": _barrier,
}  # fmt: skip
