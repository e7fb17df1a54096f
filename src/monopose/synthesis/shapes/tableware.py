"""Mugs, bottles, bowls and cans from a seed: what category-level methods learn from where no CAD models are at hand.

Every shape is a turned profile about +Z with a painted wall; a mug has a handle besides. Metres. The category frame of all
four: the origin on the axis at half the height, +Z up, the handle of a mug towards +X. (category, seed) decides everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.random import Generator

from ...types import ObjectModel, Symmetries
from .paint import BOTTLES, GLAZES, METALS, PRINTS, Wall, apart, label, logo, pattern, pick, text
from .solids import COLUMNS, ROWS, SPARE, Array, Part, Profile, as_model, check, float32, joined, smooth, tube

CATEGORIES = ("bottle", "bowl", "can", "mug")


def shape(category: str, seed: int) -> ObjectModel:
    """One piece of tableware.

    Args:
        category: one of `CATEGORIES`.
        seed: another shape for every number >= 0, always the same for the same number.

    Returns:
        the model, two to four thousand triangles, textured, its parts closed; the ends of a mug's handle lie inside its wall.
        Bottles, bowls and cans are symmetric about +Z, as their category is, whatever is painted on them.

    Raises:
        ValueError: no such category.
    """
    check(category, seed, CATEGORIES, "tableware")
    rng = np.random.default_rng((CATEGORIES.index(category), seed, 29))
    parts, texture = _MAKERS[category](rng)
    vertices, faces, normals, uv = joined(parts)
    wall = parts[0].vertices[:, 2]
    vertices = vertices - [0, 0, (wall.min() + wall.max()) / 2]
    plain = as_model(seed, f"{category}_{seed:03d}", vertices, faces, normals, symmetries=symmetries(category))
    return replace(plain, uv=float32(uv), texture=float32(np.clip(texture, 0, 1).transpose(2, 0, 1)))


def symmetries(category: str) -> Symmetries:
    """What leaves the shapes of a category as they are: any turn about +Z for all but mugs, whose handle tells."""
    if category == "mug":
        return Symmetries()
    return Symmetries(axes=torch.tensor([[0.0, 0.0, 1.0]]), offsets=torch.zeros(1, 3))


# ------------------------------------------------------------------------------------------------------------- categories


def _mug(rng: Generator) -> tuple[list[Part], Array]:
    high = rng.uniform(0.078, 0.118)
    middle = rng.uniform(0.036, 0.047)
    wall = rng.uniform(0.003, 0.0055)
    flare, belly, taper = rng.normal(0, 0.06), rng.normal(0, 0.07), rng.uniform(-0.02, 0.18)
    foot, lift = middle * (1 - max(taper, 0) - 0.06), rng.uniform(0.0015, 0.004)

    def radius(share: float) -> float:  # of the outside at a share of the height
        grow = (1 - taper * (1 - share) ** 2) * (1 + belly * 4 * share * (1 - share)) + flare * share**3
        return float(middle * grow)

    edge = rng.uniform(0.004, 0.012)  # of the rounded bottom
    p = Profile()
    p.to(foot * 0.85, 0.001)
    p.to(foot * 0.9, 0.0)
    p.to(radius(edge / high) - edge, lift)
    p.round(radius(edge / high), lift + edge)
    p.mark("bottom")
    z = np.linspace(lift + edge, high - wall / 2, 13)[1:]
    p.along(np.stack([[radius(h / high) for h in z], z], -1))
    p.mark("rim")
    r = p.points[-1][0]
    for t in np.linspace(0, math.pi, 6)[1:]:  # the lip
        p.to(r - wall / 2 * (1 - math.cos(t)), high - wall / 2 + wall / 2 * math.sin(t))
    p.mark("inside")
    floor = lift + wall
    z = np.linspace(high - wall / 2, floor + edge, 9)[1:]
    p.along(np.stack([[radius(h / high) - wall for h in z], z], -1))
    r = p.points[-1][0]
    for t in np.linspace(0, math.pi / 2, 5)[1:]:
        p.to(r - edge * (1 - math.cos(t)), floor + edge * (1 - math.sin(t)))
    p.to(0, floor)

    glaze = pick(GLAZES, rng)
    inner = glaze if rng.random() < 0.55 else apart(GLAZES, glaze, rng)
    bare = bool(rng.random() < 0.2)  # an unglazed foot
    paint = Wall(glaze, inner if rng.random() < 0.3 else glaze)
    rim, bottom, inside = p.row("rim"), p.row("bottom"), p.row("inside")
    paint.band(inside, ROWS, inner)
    style, span = rng.random(), rim - bottom
    ink = apart(PRINTS if rng.random() < 0.6 else GLAZES, glaze, rng)
    if style < 0.22:  # a picture on both sides: the handle is at u = 0
        side = paint.region(bottom + span // 8, rim - span // 8)
        wide = int(COLUMNS * rng.uniform(0.22, 0.34))
        for centre in (0.25, 0.75) if rng.random() < 0.7 else (0.25,) if rng.random() < 0.5 else (0.75,):
            x = int(centre * COLUMNS) - wide // 2
            (text if rng.random() < 0.4 else lambda a, g, c: logo(a, g, c, pick(PRINTS, g)))(side[:, x : x + wide], rng, ink)
    elif style < 0.42:  # a pattern on part of the height
        low, top = sorted(rng.choice(5, 2, replace=False))
        pattern(paint.region(bottom + span * low // 4, bottom + span * top // 4), rng, ink, pick(GLAZES, rng))
    elif style < 0.57:  # two colours
        cut = bottom + int(span * rng.uniform(0.2, 0.8))
        if rng.random() < 0.5:
            paint.band(cut, rim + 2, ink)
        else:
            paint.band(SPARE, cut, ink)
    elif style < 0.7:
        for k in range(int(rng.integers(1, 4))):
            row = rim - 4 - int((k + rng.uniform(0.0, 0.6)) * span * rng.uniform(0.05, 0.3))
            paint.band(max(row - int(rng.integers(2, 9)), bottom), max(row, bottom + 1), ink)
    elif style < 0.78:  # printed all around
        label(paint, bottom + 3, rim - 3, rng, glaze, 0.5)
    if rng.random() < 0.2:
        paint.band(rim - 1, inside + 2, ink)
    if bare:
        paint.band(SPARE, max(bottom - 2, SPARE + 1), (0.75, 0.66, 0.54))
    if rng.random() < 0.1:
        paint.canvas[ROWS - SPARE :] = ink
    return [p.turned(), _handle(rng, high, wall, radius)], paint.canvas


def _handle(rng: Generator, high: float, wall: float, radius: Callable[[float], float]) -> Part:
    """A tube from the upper to the lower part of a mug's wall, both ends inside the wall."""
    top = high * rng.uniform(0.74, 0.9)
    low = high * rng.uniform(0.12, 0.32)
    reach = rng.uniform(0.02, 0.036)
    kind = int(rng.integers(0, 4))
    power = (1.0, 0.55, 0.8, 1.0)[kind] * rng.uniform(0.9, 1.1)  # round, square, between, ear
    skew = rng.uniform(0.2, 0.5) if kind == 3 else rng.normal(0, 0.08)
    t = np.linspace(math.pi / 2, -math.pi / 2, 25)
    c, s = np.abs(np.cos(t)) ** power, np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power
    z = (top + low) / 2 + (top - low) / 2 * s
    base = np.array([radius(h / high) for h in z]) - 0.55 * wall
    path = np.stack([base + reach * c * (1 + skew * s), z], -1)
    step = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    even = np.linspace(0, step[-1], 29)
    path = np.stack([np.interp(even, step, path[:, k]) for k in (0, 1)], -1)
    thick = rng.uniform(0.0033, 0.0055)
    wide = thick * rng.uniform(1.0, 2.2)
    ends = 1 + rng.uniform(0.0, 0.5) * (np.abs(np.linspace(-1, 1, len(path))) ** 4)  # thicker where it joins
    return tube(path, wide * ends, thick * ends, square=rng.uniform(0.6, 1.0))


def _bowl(rng: Generator) -> tuple[list[Part], Array]:
    wide = rng.uniform(0.055, 0.115)
    high = wide * rng.uniform(0.5, 1.0)
    wall = rng.uniform(0.0025, 0.005)
    foot = wide * rng.uniform(0.35, 0.62)
    stand = rng.uniform(0.0, 0.012) if rng.random() < 0.7 else 0.0
    power = rng.uniform(1.6, 3.4)  # 2: a ball's part; more: steeper walls
    lip = rng.uniform(0.0, 0.008) if rng.random() < 0.3 else 0.0

    def outside(share: float) -> float:  # radius at a share of the height above the stand
        return float(foot + (wide - foot) * (1 - (1 - share) ** power) ** (1 / max(power - 0.6, 1.0)))

    p = Profile()
    if stand:
        p.to(foot * 0.86, 0.003)
        p.to(foot * 0.88, 0.0)
        p.to(foot * 0.96, 0.0)
        p.to(foot * 0.98, stand)
    p.to(foot, stand)
    p.mark("bottom")
    shares = np.sin(np.linspace(0, math.pi / 2, 15))[1:] ** 1.3
    p.along(np.array([[outside(s) + lip * s**8, stand + s * (high - stand - wall / 2)] for s in shares]))
    p.mark("rim")
    r = p.points[-1][0]
    for t in np.linspace(0, math.pi, 6)[1:]:
        p.to(r - wall / 2 * (1 - math.cos(t)), high - wall / 2 + wall / 2 * math.sin(t))
    p.mark("inside")
    floor = stand + wall
    inner = [s for s in shares[::-1][1:] if outside(s) - wall > foot * 0.4]
    p.along(np.array([[outside(s) + lip * s**8 - wall, floor + s * (high - floor - wall / 2)] for s in inner]))
    p.mark("floor")
    p.to(foot * 0.5, floor)
    p.to(0, floor)

    glaze = pick(GLAZES, rng)
    inner_paint = glaze if rng.random() < 0.5 else apart(GLAZES, glaze, rng)
    paint = Wall(glaze)
    bottom, rim, inside, end = (p.row(name) for name in ("bottom", "rim", "inside", "floor"))
    paint.band(inside - 1, ROWS, inner_paint)
    ink = apart(PRINTS if rng.random() < 0.4 else GLAZES, glaze, rng)
    style, span = rng.random(), rim - bottom
    if style < 0.35:
        low = bottom + int(span * rng.uniform(0, 0.7))
        pattern(paint.region(low, min(rim, low + max(int(span * rng.uniform(0.2, 0.9)), 8))), rng, ink, pick(GLAZES, rng))
    elif style < 0.55:
        for k in range(int(rng.integers(1, 4))):
            row = rim - 2 - int((k + rng.uniform(0, 0.5)) * span * 0.2)
            paint.band(row - int(rng.integers(2, 7)), row, ink)
    elif style < 0.65:
        paint.band(SPARE, bottom + int(span * rng.uniform(0.2, 0.7)), ink)
    elif style < 0.72:
        label(paint, bottom + span // 8, rim - span // 8, rng, glaze, 0.2)
    if rng.random() < 0.35:
        low = inside + int((end - inside) * rng.uniform(0.0, 0.5))
        second = apart(GLAZES, inner_paint, rng)
        if rng.random() < 0.5:
            pattern(paint.region(low, min(low + max((end - inside) // 3, 6), ROWS)), rng, second, ink)
        else:
            paint.band(low, low + int(rng.integers(2, 8)), second)
    if rng.random() < 0.3:
        paint.band(rim - 1, inside + 1, ink)
    return [p.turned()], paint.canvas


def _can(rng: Generator) -> tuple[list[Part], Array]:
    kind = rng.random()
    p = Profile()
    metal = pick(METALS, rng)
    drink = kind < 0.4
    if drink:
        slim = rng.random() < 0.3
        r = (0.0265 if slim else 0.033) * rng.uniform(0.97, 1.04)
        high = (rng.uniform(0.128, 0.16) if slim else rng.choice([0.115, 0.122, 0.122, 0.168])) * rng.uniform(0.97, 1.03)
        neck, slope = r * rng.uniform(0.76, 0.85), rng.uniform(0.008, 0.014)
        p.to(r * 0.62, 0.006)
        p.to(r * 0.7, 0.0)
        p.to(r * 0.76, 0.0)
        p.along(smooth([0.0, 0.005, 0.011], [r * 0.76, r * 0.92, r], 4))
        p.mark("bottom")
        p.along(np.stack([np.full(6, r), np.linspace(0.011, high - slope - 0.003, 7)[1:]], -1))
        p.mark("top")
        p.along(smooth([high - slope - 0.003, high - 0.006, high - 0.0025], [r, neck * 1.02, neck], 5))
        p.to(neck + 0.0014, high - 0.0015)
        p.to(neck + 0.0012, high)
        p.to(neck - 0.0012, high)
        p.to(neck - 0.0035, high - 0.005)
        p.to(neck - 0.006, high - 0.0045)
    else:
        if kind < 0.75:  # food
            r = rng.uniform(0.032, 0.052)
            high = r * rng.uniform(1.9, 3.2)
        elif kind < 0.9:  # flat
            r = rng.uniform(0.038, 0.052)
            high = r * rng.uniform(0.75, 1.2)
        else:  # large
            r = rng.uniform(0.048, 0.07)
            high = r * rng.uniform(2.1, 2.8)
        bead = rng.uniform(0.001, 0.0022)
        ribs = int(rng.integers(3, 9)) if rng.random() < 0.35 else 0
        p.to(r - 0.005, 0.004)
        p.to(r - 0.003, 0.0)
        p.to(r + bead, 0.0)
        p.to(r + bead, 0.003)
        p.to(r, 0.0042)
        p.mark("bottom")
        z = np.linspace(0.0042, high - 0.0042, 6 * max(ribs, 1) + 7)[1:]
        depth = np.zeros_like(z)
        if ribs:
            share = (z - z[0]) / (z[-1] - z[0])
            depth = 0.0009 * np.where((share > 0.2) & (share < 0.8), 1 - np.cos((share - 0.2) / 0.6 * ribs * 2 * math.pi), 0.0)
        p.along(np.stack([r - depth, z], -1))
        p.mark("top")
        p.to(r + bead, high - 0.003)
        p.to(r + bead, high)
        p.to(r - 0.002, high)
        p.to(r - 0.0035, high - 0.0045)
        p.to(r * 0.8, high - 0.0042)
        p.to(r * 0.77, high - 0.0035)
        p.to(r * 0.72, high - 0.0042)
    p.mark("lid")
    p.to(0, p.points[-1][1])
    ground = pick(PRINTS, rng)
    paint = Wall(metal)
    low, high_row = p.row("bottom"), p.row("top")
    gap = 0 if drink or rng.random() < 0.5 else int((high_row - low) * rng.uniform(0.03, 0.1))
    if drink:  # the print goes on over the shoulder
        shoulder = int((high_row - low) * 0.06)
        paint.band(low - 2, high_row + shoulder, ground)
    label(paint, low + gap, high_row - gap, rng, ground)
    lid = p.row("lid")
    if drink:  # the ring and the opening, as the lid is seen from above: rows are circles, columns angles
        x = int(rng.integers(0, COLUMNS))
        for wide, start, end, dark in ((30, 0.05, 0.5, 0.45), (22, 0.15, 0.42, 1.1), (52, 0.55, 0.9, 0.6)):
            rows = paint.region(lid + int((ROWS - lid) * (1 - end)), lid + int((ROWS - lid) * (1 - start)))
            rows[:, np.arange(x - wide // 2, x + wide // 2) % COLUMNS] = np.clip(metal * dark, 0, 1)
            x = x if dark != 1.1 else x + COLUMNS // 2
    elif rng.random() < 0.3:
        paint.band(lid, ROWS, pick(PRINTS, rng) if rng.random() < 0.4 else metal * 0.85)
    return [p.turned()], paint.canvas


def _of_kind(kind: int, rng: Generator, *ranges: tuple[float, float]) -> float:
    """A number from the range of this kind; numbers are drawn for all kinds."""
    return [rng.uniform(*r) for r in ranges][kind]


def _bottle(rng: Generator) -> tuple[list[Part], Array]:
    kind = int(rng.integers(0, 5))  # water, wine, squeezed, medicine, sauce
    r = _of_kind(kind, rng, (0.029, 0.038), (0.034, 0.041), (0.028, 0.045), (0.022, 0.034), (0.024, 0.034))
    high = r * _of_kind(kind, rng, (5.6, 7.6), (7.2, 8.6), (4.2, 5.6), (3.0, 4.6), (5.2, 7.4))
    neck = r * _of_kind(kind, rng, (0.33, 0.42), (0.32, 0.38), (0.25, 0.5), (0.5, 0.78), (0.38, 0.48))
    body = _of_kind(kind, rng, (0.55, 0.68), (0.56, 0.66), (0.65, 0.78), (0.66, 0.76), (0.48, 0.62))
    shoulder = _of_kind(kind, rng, (0.16, 0.26), (0.08, 0.2), (0.06, 0.14), (0.05, 0.12), (0.14, 0.28))
    cap_high = high * _of_kind(kind, rng, (0.06, 0.09), (0.12, 0.22), (0.09, 0.2), (0.15, 0.24), (0.06, 0.1))
    cap = neck + rng.uniform(0.001, 0.0035)
    cap_z = high - cap_high
    shoulder_z = min((body + shoulder) * high, cap_z - 0.004)
    body_z = min(body, body / (body + shoulder) * shoulder_z / high) * high
    waist = rng.uniform(0.04, 0.14) if kind in (0, 2) and rng.random() < 0.5 else 0.0
    ribs = int(rng.integers(3, 8)) if kind == 0 and rng.random() < 0.6 else 0
    edge = min(rng.uniform(0.003, 0.009), 0.3 * r)
    p = Profile()
    p.to(r * 0.55, 0.003)
    p.to(r * 0.65, 0.0)
    p.to(r - edge, 0.0)
    p.round(r, edge)
    p.mark("bottom")
    z = np.linspace(edge, body_z, 28 if ribs else 14)[1:]
    share = z / body_z
    radii = r * (1 - waist * np.exp(-(((share - 0.62) / 0.16) ** 2)))
    if ribs:
        radii = radii - 0.0012 * np.where(share < 0.45, 1 - np.cos(share / 0.45 * ribs * 2 * math.pi), 0.0)
    p.along(np.stack([radii, z], -1))
    p.mark("body")
    r_end = float(radii[-1])
    bulge = rng.uniform(0.55, 0.9)
    middle = neck + (r_end - neck) * bulge
    half = body_z + (shoulder_z - body_z) * rng.uniform(0.4, 0.6)
    p.along(smooth([body_z, half, shoulder_z], [r_end, middle, neck], 10))
    p.mark("shoulder")
    p.to(neck, cap_z - 0.001)
    if kind != 1 and rng.random() < 0.6:  # the ring below a screw cap
        p.to(neck + 0.002, cap_z - 0.001)
        p.to(neck + 0.002, cap_z)
    p.mark("neck")
    p.to(cap, cap_z)
    nozzle = kind == 2 and rng.random() < 0.5
    if nozzle:
        p.to(cap * 1.05, cap_z + 0.3 * cap_high)
        p.along(smooth([cap_z + 0.3 * cap_high, cap_z + 0.5 * cap_high, high], [cap * 1.05, cap * 0.55, cap * 0.3], 6))
    else:
        tip = cap * (rng.uniform(0.92, 1.0) if kind != 2 else rng.uniform(0.75, 1.0))
        p.to(tip, high - 0.002)
        p.to(tip - 0.0015, high)
    p.mark("cap")
    p.to(0, high)

    glass = pick(BOTTLES, rng)
    lid = apart(PRINTS, glass, rng) if rng.random() < 0.7 else pick(GLAZES, rng)
    paint = Wall(glass)
    bottom, top, neck_row, cap_row = p.row("bottom"), p.row("body"), p.row("neck"), p.row("cap")
    paint.band(neck_row, ROWS, lid)
    if rng.random() < 0.5 and kind != 1:  # grooves of the cap
        paint.region(neck_row, cap_row)[:, :: int(rng.choice([4, 6, 8]))] *= 0.75
    if kind == 1 and rng.random() < 0.7:  # the foil goes down the neck
        paint.band(int(neck_row - (neck_row - p.row("shoulder")) * rng.uniform(0.2, 1.0)), ROWS, lid)
    if kind in (0, 4) and rng.random() < 0.4:  # filled with something darker up to the shoulder
        level = int(top + (p.row("shoulder") - top) * rng.uniform(0.0, 0.9))
        drink = pick(BOTTLES, rng) * 0.8
        paint.band(SPARE, level, drink)
    span = top - bottom
    if rng.random() < 0.92:
        low = bottom + int(span * (0.48 if ribs else rng.uniform(0.03, 0.3)))
        end = max(bottom + int(span * rng.uniform(0.75, 1.0)), low + 12)
        ground = apart(PRINTS, glass, rng) if rng.random() < 0.8 else glass
        if rng.random() < 0.7:
            label(paint, low, end, rng, ground)
        else:  # a label on the front only
            around = int(COLUMNS * rng.uniform(0.3, 0.55))
            small = Wall(ground)
            label(small, low, end, rng, ground, 0.4)
            at = (int(rng.integers(0, COLUMNS)) + np.arange(around)) % COLUMNS
            front = small.region(low, end)
            paint.region(low, end)[:, at] = front[:, np.arange(around)]
    if kind == 1 and rng.random() < 0.5:
        shoulder_row = p.row("shoulder")
        paint.band(shoulder_row - 8, shoulder_row - 2, pick(PRINTS, rng))
    return [p.turned()], paint.canvas


_MAKERS: dict[str, Callable[[Generator], tuple[list[Part], Array]]] = {
    "bottle": _bottle, "bowl": _bowl, "can": _can, "mug": _mug,
}  # fmt: skip
