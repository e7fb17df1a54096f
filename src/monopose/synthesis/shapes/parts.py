"""Random parts as a CAD system might hold them: plates, brackets, profiles, turned and moulded things, gears, fittings, tools.

Each is one closed solid made of unions and cuts. The seed decides everything: shape, size (2 to 40 cm) and colours. Needs the
library manifold3d, which `pip install monopose[parts]` brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator

from ...mesh.loading import from_triangles
from ...types import ObjectModel

Array = np.ndarray
Three = Sequence[float] | Array
Solid = Any  # manifold3d.Manifold
Flat = Any  # manifold3d.CrossSection

SIZES = (0.02, 0.4)  # longest side, metres
FACES = (500, 5000)
PLAIN = 0.35  # share of parts without colours, which the renderer paints anew in every picture

_METALS = (
    (0.62, 0.63, 0.65), (0.78, 0.78, 0.79), (0.45, 0.46, 0.48), (0.30, 0.30, 0.32), (0.72, 0.60, 0.32), (0.66, 0.42, 0.28),
    (0.14, 0.14, 0.15), (0.55, 0.52, 0.46),
)  # fmt: skip
_PAINTS = (
    (0.90, 0.90, 0.88), (0.09, 0.09, 0.10), (0.78, 0.10, 0.09), (0.08, 0.22, 0.55), (0.93, 0.70, 0.06), (0.10, 0.42, 0.22),
    (0.90, 0.42, 0.08), (0.35, 0.37, 0.40), (0.20, 0.55, 0.60), (0.55, 0.58, 0.28), (0.45, 0.20, 0.45), (0.80, 0.74, 0.60),
    (0.26, 0.16, 0.11), (0.60, 0.75, 0.88), (0.88, 0.55, 0.60), (0.15, 0.30, 0.28),
)  # fmt: skip


def random_part(seed: int) -> ObjectModel:
    """One part.

    Args:
        seed: another part for every number >= 0, always the same for the same number.

    Returns:
        the model: watertight where vertices at the same place are joined, `FACES` triangles, longest side within `SIZES`,
        centred at its box's centre. Some have no colours. Its symmetries are not known; `propose_symmetries` finds them.

    Raises:
        ValueError: a negative seed.
        ImportError: manifold3d is not installed.
    """
    if seed < 0:
        raise ValueError(f"the seed of a part must be >= 0, got {seed}")
    try:
        import manifold3d  # noqa: F401
    except ImportError as error:
        raise ImportError("random parts need the library manifold3d: pip install 'monopose[parts]'") from error
    for attempt in range(20):
        rng = np.random.default_rng((seed, attempt, 41))
        kind = list(_MAKERS)[seed % len(_MAKERS)]  # all kinds take turns
        kit = _Kit(rng)
        solid = _MAKERS[kind](kit)
        found = None if solid.is_empty() else _meshed(_finished(solid, kit), kit)
        if found is not None:
            corners, colors = found
            longest = math.exp(rng.uniform(math.log(SIZES[0]), math.log(SIZES[1])))
            low, high = corners.min((0, 1)), corners.max((0, 1))
            corners = (corners - (low + high) / 2) * (longest / (high - low).max())
            paint = None if rng.random() < PLAIN else _worn(corners, colors, rng)
            return from_triangles(corners, paint, name=f"{kind}_{seed:04d}")
    raise RuntimeError(f"no attempt at part {seed} led to a solid with {FACES[0]} to {FACES[1]} triangles")


# --------------------------------------------------------------------------------------------------- from solid to mesh


class _Kit:
    """Randomness, a few colours, and which solid has which of them. Solids that are not painted have the first colour."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        own = _METALS if rng.random() < 0.5 else _PAINTS
        self.base = self.colour(own)
        self.colours: dict[int, Array] = {}

    def colour(self, palette: Sequence[Sequence[float]]) -> Array:
        return np.clip(np.array(palette[int(self.rng.integers(len(palette)))]) * self.rng.uniform(0.85, 1.15), 0.02, 0.98)

    def painted(self, solid: Solid, colour: Array | None = None) -> Solid:
        """The solid with a colour of its own, which unions and cuts carry along."""
        whole = solid.as_original()
        either = _METALS if self.rng.random() < 0.3 else _PAINTS
        self.colours[whole.original_id()] = self.colour(either) if colour is None else colour
        return whole

    def maybe(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))


def _meshed(solid: Solid, kit: _Kit) -> tuple[Array, Array] | None:
    """Corners (F, 3, 3) and colour (F, 3) of each triangle, longest side 1; None if that is not one solid with fit faces."""
    largest = max(solid.decompose(), key=lambda s: s.volume(), default=None)
    if largest is None or largest.volume() <= 0:
        return None
    low, high = np.array(largest.bounding_box()[:3]), np.array(largest.bounding_box()[3:])
    span = float((high - low).max())
    if not 0 < span < 1e6 or (high - low).min() < 0.01 * span:
        return None
    solid = largest.scale([1 / span] * 3)
    solid = solid.simplify(0.0008)
    tolerance = 0.0015
    while solid.num_tri() > 0.9 * FACES[1] and tolerance < 0.02:
        solid, tolerance = solid.simplify(tolerance), tolerance * 1.5
    target = kit.between(800, 2200)
    edge = math.sqrt(4 * solid.surface_area() / target)
    for _ in range(12):  # finer faces carry colours, and silhouettes of thin triangles are no better
        finer = solid.refine_to_length(edge)
        if finer.num_tri() >= target or finer.num_tri() > 0.8 * FACES[1]:
            break
        edge *= 0.85
    solid = finer if finer.num_tri() <= FACES[1] else solid
    if not FACES[0] <= solid.num_tri() <= FACES[1]:
        return None
    mesh = solid.to_mesh()
    faces = np.asarray(mesh.tri_verts, np.int64)
    colors = np.tile(kit.base, (len(faces), 1))
    starts, ids = np.asarray(mesh.run_index) // 3, np.asarray(mesh.run_original_id)
    for run, number in enumerate(ids):
        if int(number) in kit.colours:
            colors[starts[run] : starts[run + 1]] = kit.colours[int(number)]
    return np.asarray(mesh.vert_properties, np.float64)[:, :3][faces], colors


def _worn(corners: Array, colors: Array, rng: Generator) -> Array:
    """Colours at the corners (F, 3, 3), a few per cent lighter and darker from place to place."""
    waves, phases = rng.normal(0, 4, (4, 3)) / np.ptp(corners.reshape(-1, 3), axis=0).max(), rng.uniform(0, 2 * math.pi, 4)
    tone = 1 + rng.uniform(0, 0.1) * np.sin(corners @ waves.T + phases).mean(-1)
    return colors[:, None] * tone[..., None]


# ------------------------------------------------------------------------------------------------------- flat outlines


def _circle(radius: float, sides: int | None = None) -> Flat:
    from manifold3d import CrossSection

    return CrossSection.circle(radius, sides or _sides(radius))


def _sides(radius: float) -> int:
    """How many sides a circle gets where the whole part is about 1 long."""
    return int(np.clip(8 * round(9 * math.sqrt(radius)), 12, 48))


def _rectangle(x: float, y: float) -> Flat:
    from manifold3d import CrossSection

    return CrossSection.square([x, y], True)


def _polygon(points: Any) -> Flat:
    from manifold3d import CrossSection, FillRule

    return CrossSection([np.asarray(points, float)], FillRule.NonZero)


def _regular(sides: int, radius: float, phase: float = 0.0) -> Flat:
    angle = phase + np.arange(sides) * 2 * math.pi / sides
    return _polygon(np.stack([np.cos(angle), np.sin(angle)], -1) * radius)


def _rounded(flat: Flat, radius: float, inner: float = 0.0) -> Flat:
    """Outer corners rounded, and inner ones."""
    from manifold3d import JoinType

    def grown(outline: Flat, by: float) -> Flat:
        return outline.offset(by, JoinType.Round, 2.0, 24)

    result = grown(grown(flat, -radius), radius) if radius > 0 else flat
    return grown(grown(result, inner), -inner) if inner > 0 else result


def _slot(length: float, width: float, angle: float = 0.0) -> Flat:
    n = 10
    a = np.linspace(-math.pi / 2, math.pi / 2, n)
    end = np.stack([np.cos(a) * width / 2 + max(length - width, 0) / 2, np.sin(a) * width / 2], -1)
    return _polygon(np.concatenate([end, -end])).rotate(angle)


def _blob(rng: Generator, radius: float, wild: float = 0.3) -> Flat:
    """A smooth closed curve."""
    angle = np.arange(40) * 2 * math.pi / 40
    r = np.ones(40)
    for k in range(2, 6):
        r += wild / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    return _polygon(np.stack([np.cos(angle), np.sin(angle)], -1) * np.clip(r, 0.35, 2)[:, None] * radius)


def _toothed(teeth: int, radius: float, depth: float, lean: float = 0.0, width: float = 0.5) -> Flat:
    """A wheel with trapezoidal teeth between radius - depth and radius; `lean` makes a ratchet of it."""
    step = 2 * math.pi / teeth
    shape = ((-width / 2, 0), (-width / 4 + lean, 1), (width / 4 + lean, 1), (width / 2, 0))
    points = []
    for k in range(teeth):
        for at, high in shape:
            r, a = radius - depth * (1 - high), (k + at) * step
            points.append((r * math.cos(a), r * math.sin(a)))
    return _polygon(points)


def _section(kit: _Kit) -> Flat:
    """The cross-section of a rolled or drawn profile, about 1 wide."""
    from manifold3d import CrossSection

    x, y = kit.between(0.6, 1.0), kit.between(0.4, 1.0)
    t = kit.between(0.06, 0.2) * min(x, y)
    kind = kit.count(0, 9)
    wall = _rectangle(t, y)
    if kind == 0:  # angle
        flat = wall.translate([-x / 2 + t / 2, 0]) + _rectangle(x, t).translate([0, -y / 2 + t / 2])
    elif kind == 1:  # channel
        flat = _rectangle(x, y) - _rectangle(x - 2 * t, y).translate([0, t])
    elif kind == 2:  # I
        flat = _rectangle(x, y) - _rectangle(x, y - 2 * t) + wall
    elif kind == 3:  # T
        flat = wall + _rectangle(x, t).translate([kit.between(-0.1, 0.1), y / 2 - t / 2])
    elif kind == 4:  # Z
        flat = (
            wall
            + _rectangle(x / 2, t).translate([x / 4, y / 2 - t / 2])
            + _rectangle(x / 2, t).translate([-x / 4, t / 2 - y / 2])
        )
    elif kind == 5:  # hat
        flat = _rectangle(x / 2, y) - _rectangle(x / 2 - 2 * t, y).translate([0, -t])
        flat += _rectangle(x * 1.2, t).translate([0, -y / 2 + t / 2]) - _rectangle(x / 2 - 2 * t, 2 * y)
    elif kind == 6:  # slotted frame profile
        flat = _rounded(_rectangle(1, 1), 0.06)
        wide, deep = kit.between(0.16, 0.3), kit.between(0.2, 0.32)
        groove = _rectangle(wide, deep).translate([0, 0.5 - deep / 2 + 0.01]) + _rectangle(wide * 1.8, deep * 0.45).translate(
            [0, 0.5 - deep * 0.7]
        )
        for k in range(4):
            flat -= groove.rotate(90 * k)
        flat -= _circle(0.08, 12)
    elif kind == 7:  # tube, of any outline
        outer = [
            _rounded(_rectangle(x, y), kit.between(0.02, 0.3) * min(x, y)),
            _circle(x / 2, 32),
            _regular(kit.count(3, 8), x / 2),
        ]
        flat = outer[kit.count(0, 2)]
        flat -= flat.offset(-t)
    elif kind == 8:  # heat sink
        fins = kit.count(4, 9)
        flat = _rectangle(1, 0.15)
        for k in range(fins):
            at = (k / (fins - 1) - 0.5) * (1 - 0.5 / fins)
            flat += _rectangle(0.4 / fins, y).translate([at, y / 2])
    else:  # of no name
        flat = CrossSection()
        for _ in range(kit.count(3, 6)):
            bar = _rectangle(kit.between(0.15, 0.9), kit.between(0.08, 0.25)).rotate(kit.count(0, 3) * 45)
            flat += bar.translate([kit.between(-0.25, 0.25), kit.between(-0.25, 0.25)])
    return _rounded(flat, 0.0, 0.3 * t) if kit.maybe(0.4) else flat


def _outline(kit: _Kit) -> Flat:
    """The outline of a plate, about 1 long."""
    x, y = 1.0, kit.between(0.35, 1.0)
    kind = kit.count(0, 8)
    if kind <= 1:
        flat = _rounded(_rectangle(x, y), kit.between(0.02, 0.3) * y)
    elif kind == 2:
        flat = _circle(0.5)
    elif kind == 3:
        flat = _rounded(_regular(kit.count(3, 8), 0.5, kit.between(0, 1)), kit.between(0.03, 0.12))
    elif kind == 4:
        flat = _slot(1, kit.between(0.25, 0.7))
    elif kind == 5:  # two or three bosses joined by their hull, as of a link
        discs = [
            _circle(kit.between(0.1, 0.25)).translate([kit.between(-0.5, 0.5), kit.between(-0.4, 0.4)])
            for _ in range(kit.count(2, 4))
        ]
        flat = discs[0].batch_hull(discs)
    elif kind == 6:
        flat = _blob(kit.rng, 0.4)
    elif kind == 7:  # a rectangle with corners and edges cut
        flat = _rectangle(x, y)
        for _ in range(kit.count(1, 4)):
            cut = _rectangle(kit.between(0.1, 0.45), kit.between(0.1, 0.45) * y).rotate(kit.count(0, 1) * 45)
            flat -= cut.translate([kit.count(-1, 1) * x / 2, kit.between(-0.5, 0.5) * y])
        flat = _rounded(flat, 0.02)
    else:  # a rectangle with ears
        flat = _rectangle(0.7, y)
        ear = _rounded(_rectangle(0.35, kit.between(0.15, 0.3)), 0.06)
        for side in (-1, 1):
            flat += ear.translate([side * 0.38, kit.between(-0.3, 0.3) * y])
    return flat


def _holes(kit: _Kit, flat: Flat) -> list[tuple[float, float]]:
    """Places for holes within an outline: a grid, a circle, a row, or anywhere."""
    low, high = np.array(flat.bounds()[:2]), np.array(flat.bounds()[2:])
    middle, half = (low + high) / 2, (high - low) / 2
    kind = kit.count(0, 3)
    if kind == 0:
        rows, columns, reach = kit.count(1, 3), kit.count(2, 4), kit.between(0.5, 0.8)
        spots = [
            ((2 * i / max(columns - 1, 1) - 1) * reach, (2 * j / (rows - 1) - 1) * reach if rows > 1 else 0.0)
            for i in range(columns)
            for j in range(rows)
        ]
    elif kind == 1:
        n, phase, reach = kit.count(3, 8), kit.between(0, 6), kit.between(0.45, 0.8)
        r = reach * half.min()
        return [
            (middle[0] + r * math.cos(phase + k * 2 * math.pi / n), middle[1] + r * math.sin(phase + k * 2 * math.pi / n))
            for k in range(n)
        ]
    elif kind == 2:
        n, y = kit.count(2, 6), kit.between(-0.4, 0.4)
        spots = [((2 * k / (n - 1) - 1) * 0.75, y) for k in range(n)]
    else:
        spots = [(kit.between(-0.8, 0.8), kit.between(-0.8, 0.8)) for _ in range(kit.count(1, 6))]
    return [(middle[0] + half[0] * x, middle[1] + half[1] * y) for x, y in spots]


# -------------------------------------------------------------------------------------------------------------- solids


def _box(size: Three, at: Three = (0, 0, 0)) -> Solid:
    from manifold3d import Manifold

    return Manifold.cube(list(size), True).translate(list(at))


def _rod(
    radius: float,
    length: float,
    axis: int = 2,
    at: Three = (0, 0, 0),
    top: float | None = None,
    sides: int | None = None,
) -> Solid:
    """A cylinder or cone around a point, along a coordinate axis."""
    from manifold3d import Manifold

    solid = Manifold.cylinder(length, radius, radius if top is None else top, sides or _sides(radius), True)
    return solid.rotate([[0, 90, 0], [-90, 0, 0], [0, 0, 0]][axis]).translate(list(at))


def _ball(radius: float, at: Three = (0, 0, 0), sides: int = 20) -> Solid:
    from manifold3d import Manifold

    return Manifold.sphere(radius, sides).translate(list(at))


def _up(flat: Flat, height: float, bottom: float = 0.0, **how: Any) -> Solid:
    """A flat outline pulled up from z = bottom."""
    return flat.extrude(height, **how).translate([0, 0, bottom])


def _turned(points: Any, sides: int = 40) -> Solid:
    """A profile of (radius, height) turned about z."""
    return _polygon(points).revolve(sides)


def _soft_box(size: Three, radius: float) -> Solid:
    from manifold3d import Manifold

    radius = min(radius, 0.45 * min(size))
    half = np.array(size) / 2 - radius
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    return Manifold.batch_hull([_ball(radius, half * s, 12) for s in signs])


def _swept(path: Array, radius: Array | float, sides: int = 12) -> Solid:
    """A round bar along a path (n, 3): the hulls of neighbouring balls."""
    from manifold3d import Manifold, OpType

    radii = np.broadcast_to(radius, len(path))
    balls = [_ball(float(r), p, sides) for p, r in zip(path, radii)]
    return Manifold.batch_boolean([Manifold.batch_hull([a, b]) for a, b in pairwise(balls)], OpType.Add)


def _total(solids: Sequence[Solid]) -> Solid:
    from manifold3d import Manifold, OpType

    return Manifold.batch_boolean(list(solids), OpType.Add)


def _around(solid: Solid, n: int) -> Solid:
    """n copies about z."""
    return _total([solid.rotate([0, 0, 360 * k / n]) for k in range(n)])


# --------------------------------------------------------------------------------------------- kinds, about 1 unit long


def _plate(kit: _Kit) -> Solid:
    flat, thick = _outline(kit), kit.between(0.04, 0.18)
    solid = _up(flat, thick)
    radius = kit.between(0.02, 0.06)
    for x, y in _holes(kit, flat):
        solid -= _up(_circle(radius), 3, -1).translate([x, y, 0])
        if kit.maybe(0.3):
            solid -= _up(_circle(radius * 1.7), 1, thick * 0.6).translate([x, y, 0])
    for _ in range(kit.count(0, 3)):
        cut = [
            _slot(kit.between(0.15, 0.4), kit.between(0.04, 0.1), kit.count(0, 3) * 45),
            _circle(kit.between(0.06, 0.16)),
            _rounded(_rectangle(kit.between(0.1, 0.3), kit.between(0.1, 0.3)), 0.02),
        ][kit.count(0, 2)]
        solid -= _up(cut, 3, -1).translate([kit.between(-0.3, 0.3), kit.between(-0.25, 0.25), 0])
    for _ in range(kit.count(0, 3)):
        foot = [
            _circle(kit.between(0.05, 0.15)),
            _rectangle(kit.between(0.08, 0.6), kit.between(0.03, 0.15)).rotate(kit.count(0, 7) * 22.5),
            _regular(6, kit.between(0.05, 0.12)),
        ][kit.count(0, 2)]
        boss = _up(foot, kit.between(0.05, 0.35) + thick).translate([kit.between(-0.25, 0.25), kit.between(-0.2, 0.2), 0])
        solid += kit.painted(boss) if kit.maybe(0.5) else boss
    return solid


def _bracket(kit: _Kit) -> Solid:
    wide, t = kit.between(0.3, 1.0), kit.between(0.05, 0.12)
    x, z = kit.between(0.5, 1.0), kit.between(0.4, 1.0)
    base, wall = _box((x, wide, t), (x / 2, 0, t / 2)), _box((t, wide, z), (t / 2, 0, z / 2))
    parts, both = [base, wall], kit.maybe(0.35)
    if both:  # a second wall, or a flange on top
        parts.append(
            wall.translate([x - t, 0, 0]) if kit.maybe(0.6) else _box((x * 0.6, wide, t), (-x * 0.3 + t, 0, z - t / 2))
        )
    for _ in range(kit.count(0, 2)):
        reach = kit.between(0.3, 0.9) * min(x, z)
        gusset = _up(_polygon([(0, 0), (reach, 0), (reach * 0.1, reach), (0, reach)]), kit.between(0.04, 0.1)).rotate(
            [90, 0, 0]
        )
        parts.append(gusset.translate([t * 0.5, kit.between(-0.45, 0.5) * wide, t * 0.5]))
    solid = _total(parts)
    r = kit.between(0.03, 0.09)
    for x0, y0 in _holes(kit, _rectangle(x * 0.7, wide * 0.8)):
        solid -= _rod(r, 1, 2, (x * 0.58 + x0 * 0.9, y0, 0))
    for y0, z0 in _holes(kit, _rectangle(wide * 0.8, z * 0.65)):
        solid -= _rod(r * kit.between(0.6, 1.4), 0.3, 0, (0, y0, z * 0.58 + z0 * 0.9))
    if kit.maybe(0.5):  # round the wall's top
        keep = _up(_rounded(_rectangle(wide, 2 * z), kit.between(0.1, 0.49) * wide), 6, -3).rotate([90, 0, 90])
        solid = solid ^ keep
    if kit.maybe(0.4):
        solid += kit.painted(_rod(r * 2.2, t * 2, 2, (x * 0.6, 0, t)) - _rod(r, 1, 2, (x * 0.6, 0, t)))
    return solid


def _profile(kit: _Kit) -> Solid:
    flat, length = _section(kit), kit.between(0.5, 3.5)
    twist = kit.between(-120, 120) if kit.maybe(0.12) else 0.0
    solid = _up(flat, length, -length / 2, n_divisions=12 if twist else 0, twist_degrees=twist)
    for _ in range(kit.count(0, 4)):
        axis, r = kit.count(0, 1), kit.between(0.06, 0.2)
        solid -= _rod(r, 4, axis, (0, 0, kit.between(-0.42, 0.42) * length))
    if kit.maybe(0.5):  # mitred or coped ends
        for side in (-1, 1):
            if kit.maybe(0.6):
                solid = solid.trim_by_plane([kit.between(-0.7, 0.7), kit.between(-0.7, 0.7), -side], -length * 0.4)
    if kit.maybe(0.35):
        cap = _up(_rounded(_rectangle(1.15, 1.15), 0.1), 0.1, length / 2 - 0.05)
        solid = solid.trim_by_plane([0, 0, -1], -length / 2 + 0.02) + kit.painted(cap)
    if kit.maybe(0.3):
        solid -= _box((1, 2, kit.between(0.1, 0.4) * length), (kit.between(0.3, 0.8), 0, kit.between(-0.3, 0.3) * length))
    return solid


def _shaft(kit: _Kit) -> Solid:
    steps = kit.count(3, 8)
    points, z = [(0.0, 0.0)], 0.0
    for k in range(steps):
        r = kit.between(0.12, 0.5) if k % 2 else kit.between(0.1, 0.3)
        h = kit.between(0.06, 0.6)
        taper = kit.between(0.6, 1.0) if kit.maybe(0.25) else 1.0
        points += [(r, z), (r * taper, z + h)]
        z += h
    points.append((0.0, z))
    solid = _turned(points, kit.count(4, 6) * 8)
    if kit.maybe(0.5):
        solid -= _rod(kit.between(0.04, 0.09), 2 * z, 2, (0, 0, z / 2))
    for _ in range(kit.count(1, 4)):  # keyways, flats, cross holes, a square or hexagonal end
        kind, at = kit.count(0, 3), kit.between(0.1, 0.9) * z
        if kind == 0:
            solid -= (
                _up(_slot(kit.between(0.2, 0.5), 0.08, 90), 1, kit.between(0.08, 0.2))
                .rotate([90, 0, kit.between(0, 360)])
                .translate([0, 0, at])
            )
        elif kind == 1:
            solid = solid - _box((1, 1, kit.between(0.15, 0.4)), (kit.between(0.6, 0.72), 0, at))
        elif kind == 2:
            solid -= _rod(kit.between(0.03, 0.08), 2, kit.count(0, 1), (0, 0, at))
        else:
            solid += _up(_regular((3, 4, 6)[kit.count(0, 2)], kit.between(0.15, 0.45)), kit.between(0.1, 0.3), z - 0.05)
    if kit.maybe(0.4):
        r = kit.between(0.3, 0.55)
        ring = _rod(r, kit.between(0.08, 0.25), 2, (0, 0, kit.between(0.2, 0.8) * z))
        solid += kit.painted(ring)
    return solid


def _flange(kit: _Kit) -> Solid:
    outer, t = 0.5, kit.between(0.05, 0.15)
    hub, high = kit.between(0.15, 0.32), kit.between(0.1, 0.7)
    bore = hub * kit.between(0.5, 0.85)
    flat = _circle(outer) if kit.maybe(0.6) else _rounded(_regular((3, 4, 6)[kit.count(0, 2)], 0.56), 0.15)
    top = hub * kit.between(0.75, 1.0)
    solid = _up(flat, t) + _turned([(0, 0), (hub * kit.between(1.0, 1.3), 0), (top, high), (0, high)])
    if kit.maybe(0.3):
        solid += _up(flat if kit.maybe(0.4) else _circle(top * 1.4), t, high - t)
    solid -= _rod(bore, 4)
    n = kit.count(3, 10)
    hole = _rod(kit.between(0.025, 0.055), 1, 2, (kit.between(0.36, 0.43), 0, 0))
    solid -= _around(hole, n)
    if kit.maybe(0.4):
        ribs = _up(_polygon([(hub * 0.9, 0), (0.42, 0), (hub * 0.9, high * 0.9)]), 0.05, -0.025).rotate([90, 0, 360 / n / 2])
        solid += _around(ribs, n if n < 7 else n // 2) - _rod(bore, 4)
    if kit.maybe(0.5):  # what breaks the circle: keyway, side port, flat
        kind = kit.count(0, 2)
        if kind == 0:
            solid -= _box((bore * 2.5, bore * 0.4, 4), (bore * 0.2, 0, 0))
        elif kind == 1:
            port = _rod(bore * 0.5, 0.55, 0, (0.3, 0, high * 0.6))
            solid += kit.painted(port + _rod(bore * 0.7, 0.08, 0, (0.55, 0, high * 0.6))) - _rod(bore, 4)
        else:
            solid -= _box((1, 2, 4), (kit.between(0.85, 0.92), 0, 0))
    return solid


def _wheel(kit: _Kit) -> Solid:
    wide = math.exp(kit.between(math.log(0.06), math.log(0.8)))
    rim, hub = kit.between(0.28, 0.43), kit.between(0.08, 0.2)
    heights, lowest = np.linspace(-wide / 2, wide / 2, kit.count(2, 7)), kit.between(rim + 0.02, 0.5)
    tread = [(rim - 0.03, -wide / 2), *((kit.between(lowest, 0.5), z) for z in heights), (rim - 0.03, wide / 2)]
    ring, n = _turned(tread, 48), kit.count(3, 9)
    ring = kit.painted(ring) if kit.maybe(0.5) else ring
    web = kit.between(0.25, 0.7) * wide
    kind = kit.count(0, 3)
    if kind == 0:  # spokes
        inner = _around(_box((rim, kit.between(0.05, 0.1), web), (rim / 2, 0, 0)), n)
    elif kind == 1:  # a disc with holes
        spot = (rim + hub) / 2
        inner = _rod(rim, web) - _around(_rod(kit.between(0.04, 0.4 * (rim - hub)), 2, 2, (spot, 0, 0)), n)
    elif kind == 2:  # blades
        blade = _box((rim, 0.03, wide * 0.9), (rim / 2, 0, 0)).rotate([kit.between(20, 60), 0, 0])
        inner = _around(blade, n) ^ _rod(rim, wide * 0.9)
    else:
        inner = _turned([(0, -web / 2), (rim, -web / 2), (rim, web / 2), (hub, wide * 0.6), (0, wide * 0.6)])
    core = _rod(hub, wide * kit.between(0.9, 1.8), 2, (0, 0, kit.between(-0.1, 0.2) * wide))
    solid = (inner + (kit.painted(core) if kit.maybe(0.3) else core) + ring) - _rod(hub * kit.between(0.3, 0.7), 2)
    if kit.maybe(0.4):
        solid += _rod(0.03, 0.25, 2, (kit.between(0.25, 0.4), 0, wide / 2))  # a crank's pin
    return solid


def _gear(kit: _Kit) -> Solid:
    teeth = kit.count(8, 28)
    depth, t = kit.between(0.03, 0.09), kit.between(0.06, 0.45)
    helical = kit.between(-20, 20) if kit.maybe(0.3) else 0.0
    lean = kit.between(0.2, 0.4) if kit.maybe(0.2) else 0.0
    tip = kit.between(0.6, 1.0) if kit.maybe(0.2) else 1.0  # a bevel gear
    wheel = _toothed(teeth, 0.5, depth, lean, kit.between(0.5, 0.75))
    solid = _up(wheel, t, n_divisions=4 if helical else 0, twist_degrees=helical, scale_top=(tip, tip))
    hub = kit.between(0.1, 0.22)
    solid += _up(_circle(hub), t + kit.between(0, 0.4), kit.between(-0.1, 0))
    if kit.maybe(0.5):
        n = kit.count(3, 6)
        window = _circle(kit.between(0.05, 0.09)) if kit.maybe(0.5) else _slot(0.2, 0.08, kit.count(0, 1) * 90)
        solid -= _around(_up(window, 3, -1).translate([0.3, 0, 0]), n)
    if kit.maybe(0.4):
        solid -= _up(_circle(0.5 - depth - 0.06) - _circle(hub + 0.03), 1, t * kit.between(0.5, 0.8))
    if kit.maybe(0.35):  # a second, smaller gear
        second = _up(_toothed(kit.count(8, 14), kit.between(0.22, 0.32), 0.05), t + kit.between(0.15, 0.4))
        solid += kit.painted(second) if kit.maybe(0.5) else second
    bore = hub * kit.between(0.35, 0.7)
    solid -= _up(_circle(bore) if kit.maybe(0.7) else _regular(kit.count(4, 6), bore), 4, -2)
    if kit.maybe(0.4):
        solid -= _box((bore * 2.6, bore * 0.5, 4), (bore * 0.2, 0, 0))
    return solid


def _housing(kit: _Kit) -> Solid:
    size = np.array([1.0, kit.between(0.4, 1.0), kit.between(0.2, 0.8)])
    outer = (
        _soft_box(size, kit.between(0.02, 0.15))
        if kit.maybe(0.6)
        else _up(_rounded(_rectangle(size[0], size[1]), kit.between(0.02, 0.2) * size[1]), size[2], -size[2] / 2)
    )
    solid, wall = outer, kit.between(0.04, 0.1)
    if kit.maybe(0.6):  # open on top
        inside = _up(_rounded(_rectangle(size[0] - 2 * wall, size[1] - 2 * wall), 0.03), size[2], -size[2] / 2 + wall)
        solid = solid - inside
        for _ in range(kit.count(0, 3)):
            solid += (
                _box(
                    (wall * 0.6, size[1] - wall, size[2] * kit.between(0.4, 0.9)), (kit.between(-0.4, 0.4), 0, -size[2] * 0.05)
                )
                ^ outer
            )
    else:
        lid = _up(
            _rounded(_rectangle(size[0] * kit.between(0.6, 0.95), size[1] * kit.between(0.5, 0.95)), 0.04),
            kit.between(0.03, 0.15),
            size[2] / 2 - 0.01,
        )
        solid += kit.painted(lid) if kit.maybe(0.6) else lid
    for _ in range(kit.count(0, 3)):  # sockets and cable glands
        axis, r = kit.count(0, 1), kit.between(0.05, 0.14)
        at = np.array([kit.between(-0.35, 0.35), kit.between(-0.35, 0.35), kit.between(-0.3, 0.3)]) * size
        at[axis] = size[axis] / 2 * (-1) ** kit.count(0, 1)
        gland = _rod(r, kit.between(0.1, 0.35), axis, at)
        solid += kit.painted(gland) if kit.maybe(0.5) else gland
        solid -= _rod(r * 0.6, 0.5, axis, at)
    for _ in range(kit.count(0, 2)):  # vents
        n, side = kit.count(3, 7), (-1) ** kit.count(0, 1)
        for k in range(n):
            solid -= _box(
                (0.03, wall * 2.5, size[2] * 0.5), (kit.between(0, 0.001) + (k - n / 2) * 0.07, side * size[1] / 2, 0)
            )
    if kit.maybe(0.5):  # ears with holes
        ear = _up(_slot(size[0] + kit.between(0.25, 0.5), kit.between(0.15, 0.3)), 0.07, -size[2] / 2)
        ear -= _rod(0.04, 3, 2, (size[0] / 2 + 0.09, 0, 0)) + _rod(0.04, 3, 2, (-size[0] / 2 - 0.09, 0, 0))
        solid += ear.translate([0, kit.between(-0.25, 0.25) * size[1], 0])
    return solid


def _lever(kit: _Kit) -> Solid:
    spots = [np.array([0.0, 0.0])]
    for _ in range(kit.count(1, 3)):
        spots.append(spots[-1] + kit.between(0.4, 1.0) * np.array([math.cos(a := kit.between(-1.2, 1.2)), math.sin(a)]))
    radii, t = [kit.between(0.08, 0.22) for _ in spots], kit.between(0.06, 0.16)
    from manifold3d import CrossSection

    arms = []
    for (p, q), r in zip(pairwise(spots), radii):
        ends = [_circle(r * kit.between(0.4, 0.9)).translate(list(p)), _circle(r * kit.between(0.4, 0.9)).translate(list(q))]
        arms.append(_up(CrossSection.batch_hull(ends), t, -t / 2))
    bosses = [_rod(r, t * kit.between(1.2, 3.5), 2, (*p, 0)) for p, r in zip(spots, radii)]
    coloured = kit.maybe(0.4)
    solid = _total(arms + [kit.painted(b) if coloured else b for b in bosses])
    for p, r in zip(spots, radii):
        bore = _circle(r * kit.between(0.4, 0.75)) if kit.maybe(0.75) else _regular(kit.count(4, 6), r * 0.6)
        solid -= _up(bore, 4, -2).translate([*p, 0])
        if kit.maybe(0.25):  # a fork or a clamp's slit
            solid -= _box((3 * r, 0.06, 3), (p[0] - 1.5 * r, p[1], 0))
    if kit.maybe(0.4):
        end = spots[-1]
        grip = _rod(kit.between(0.06, 0.11), kit.between(0.3, 0.7), 2, (*end, 0.25), sides=kit.count(5, 20))
        solid += kit.painted(grip)
    return solid


def _fitting(kit: _Kit) -> Solid:
    r = kit.between(0.14, 0.28)
    wall = r * kit.between(0.65, 0.85)
    directions = np.array([(1, 0, 0), (0, 0, 1), (-1, 0, 0), (0, 1, 0), (0, 0, -1), (0.7, 0, 0.7), (0, 0.7, 0.7)], float)
    arms = directions[kit.rng.permutation(len(directions))[: kit.count(2, 4)]]
    solids, holes = [_ball(r * kit.between(1.0, 1.35), sides=28)], [_ball(wall, sides=24)]
    from manifold3d import Manifold

    for d in arms:
        length = kit.between(0.4, 0.8)
        turn = [0, math.degrees(math.atan2(math.hypot(d[0], d[1]), d[2])), math.degrees(math.atan2(d[1], d[0]))]
        arm = Manifold.cylinder(length, r, r * kit.between(0.8, 1.0), 28)
        end = kit.count(0, 3)
        if end == 0:
            disc = Manifold.cylinder(0.09, r * 1.9, r * 1.9, 36) - _around(
                _rod(r * 0.17, 1, 2, (r * 1.5, 0, 0)), kit.count(4, 6)
            )
            arm += disc.translate([0, 0, length - 0.09])
        elif end == 1:
            arm += kit.painted(_up(_regular(6, r * 1.35), kit.between(0.12, 0.25), length * 0.65))
        elif end == 2:
            for k in range(3):
                arm += Manifold.cylinder(0.04, r * 1.12, r * 1.02, 28).translate([0, 0, length - 0.07 * (k + 1)])
        solids.append(arm.rotate(turn))
        holes.append(Manifold.cylinder(2, wall, wall, 24).rotate(turn))
    solid = _total(solids)
    if kit.maybe(0.75):
        solid -= _total(holes)
    if kit.maybe(0.35):  # a valve's handle
        stem = _rod(r * 0.3, 0.6, 1, (0, -0.35, 0)) + (
            _box((kit.between(0.5, 0.9), 0.06, 0.12), (0.15, -0.62, 0))
            if kit.maybe(0.5)
            else _rod(kit.between(0.2, 0.35), 0.08, 1, (0, -0.62, 0), sides=8)
        )
        solid += kit.painted(stem)
    return solid


def _blocks(kit: _Kit) -> Solid:
    """Anything added to and cut from anything."""

    def one(scale: float) -> Solid:
        kind, size = kit.count(0, 5), kit.rng.uniform(0.15, 0.6, 3) * scale
        solid = [
            lambda: _box(size), lambda: _rod(size[0] * 0.6, size[2] * 1.5), lambda: _ball(size[0] * 0.6),
            lambda: _rod(size[0] * 0.7, size[2], top=size[1] * 0.3),
            lambda: _up(_regular(kit.count(3, 7), size[0] * 0.6), size[2]), lambda: _soft_box(size, 0.1),
        ][kind]()  # fmt: skip
        turn = [kit.count(0, 3) * 90.0 for _ in range(3)] if kit.maybe(0.7) else list(kit.rng.uniform(0, 360, 3))
        return solid.rotate(turn)

    solid = one(1.4)
    for _ in range(kit.count(2, 6)):
        other = one(1.0).translate(list(kit.rng.uniform(-0.35, 0.35, 3)))
        solid += kit.painted(other) if kit.maybe(0.35) else other
    for _ in range(kit.count(1, 4)):
        solid -= one(0.7).translate(list(kit.rng.uniform(-0.45, 0.45, 3)))
    return solid


def _moulded(kit: _Kit) -> Solid:
    """Handles, knobs and grips: soft hulls, bent bars."""
    from manifold3d import Manifold

    kind = kit.count(0, 3)
    if kind == 0:  # a chain of balls as of a grip
        n = kit.count(5, 9)
        x = np.linspace(0, kit.between(0.8, 1.6), n)
        path = np.stack([x, kit.between(-0.3, 0.3) * np.sin(2 * x), kit.between(-0.4, 0.4) * np.cos(1.5 * x)], -1)
        solid = _swept(path, 0.09 + 0.08 * kit.rng.random(n), 16)
        solid += kit.painted(_ball(kit.between(0.12, 0.25), path[-1]))
        solid += _box((0.3, kit.between(0.2, 0.5), 0.12), path[0])
    elif kind == 1:  # a handle with two feet
        a = np.linspace(0, math.pi, 15)
        flat = kit.between(0.3, 1.0)
        path = np.stack([np.cos(a), 0 * a, flat * np.sin(a) ** kit.between(0.4, 1.0)], -1) * 0.6
        solid = _swept(path, kit.between(0.05, 0.1))
        for side in (-1, 1):
            foot = _up(_rounded(_rectangle(kit.between(0.2, 0.35), kit.between(0.2, 0.35)), 0.05), 0.06, -0.03).translate(
                [0.6 * side, 0, 0]
            )
            solid += kit.painted(foot) - _rod(0.04, 1, 2, (0.72 * side, 0, 0))
    elif kind == 2:  # a knob
        n = kit.count(3, 9)
        lobes = _around(_rod(kit.between(0.09, 0.2), kit.between(0.15, 0.4), 2, (0.4, 0, 0)), n) + _rod(0.4, 0.25)
        solid = lobes + kit.painted(_turned([(0, -0.6), (0.12, -0.6), (0.2, -0.1), (0, -0.1)], 24))
        solid += kit.painted(_turned([(0, 0.1), (0.22, 0.1), (0.1, 0.24), (0, 0.26)], 24))
        if kit.maybe(0.6):
            solid -= _box((0.3, 0.04, 0.1), (0.35, 0, 0.2))
    else:  # a soft body, hollowed
        balls = [_ball(kit.between(0.1, 0.25), kit.rng.uniform(-0.4, 0.4, 3)) for _ in range(kit.count(3, 7))]
        solid = Manifold.batch_hull(balls)
        for _ in range(kit.count(1, 3)):
            solid -= _rod(kit.between(0.05, 0.15), 2, kit.count(0, 2), kit.rng.uniform(-0.25, 0.25, 3))
        solid += kit.painted(_soft_box(kit.rng.uniform(0.15, 0.5, 3), 0.05).translate(list(kit.rng.uniform(-0.35, 0.35, 3))))
    return solid


def _board(kit: _Kit) -> Solid:
    """A plate with components on it."""
    x, y, t = 1.0, kit.between(0.35, 0.9), kit.between(0.03, 0.07)
    solid = _up(_rounded(_rectangle(x, y), 0.03), t)
    for _ in range(kit.count(4, 10)):
        at = [kit.between(-0.4, 0.4), kit.between(-0.38, 0.38) * y, 0]
        kind, high = kit.count(0, 3), kit.between(0.05, 0.4)
        foot = [
            _rectangle(kit.between(0.08, 0.35), kit.between(0.08, 0.3) * y),
            _circle(kit.between(0.03, 0.09)),
            _rectangle(kit.between(0.03, 0.06), kit.between(0.2, 0.6) * y),
            _regular(8, 0.07),
        ][kind]
        thing = _up(foot, high + t).translate(at)
        if kit.maybe(0.3):
            thing -= _up(foot.offset(-0.02), 1, high + t * 0.5).translate(at)
        solid += kit.painted(thing)
    for side in (-1, 1):
        for end in (-1, 1):
            if kit.maybe(0.7):
                solid -= _rod(0.03, 1, 2, (side * 0.45, end * y * 0.44, 0))
    return solid


def _fastener(kit: _Kit) -> Solid:
    """Bolts, nuts, pins, wrenches and what else holds things."""
    kind = kit.count(0, 3)
    head = kit.between(0.2, 0.4)
    if kind == 0:  # a bolt with a groove or a hole in its head
        length, r = kit.between(0.5, 1.6), head * kit.between(0.35, 0.65)
        top = [_regular(6, head), _circle(head), _toothed(kit.count(12, 24), head, 0.03), _rectangle(1.6 * head, 1.6 * head)][
            kit.count(0, 3)
        ]
        solid = _up(top, kit.between(0.12, 0.35)) + _rod(r, length, 2, (0, 0, -length / 2 + 0.02))
        for k in range(kit.count(3, 7)):
            solid -= (_circle(r * 1.2, 24) - _circle(r * 0.88, 24)).extrude(0.04).translate([0, 0, -length + 0.06 + 0.09 * k])
        recess = [
            _regular(6, head * 0.5),
            _rectangle(3, 0.09),
            _rectangle(head, 0.09) + _rectangle(0.09, head),
            _circle(head * 0.3),
        ][kit.count(0, 3)]
        solid -= _up(recess, 1, 0.08)
        if kit.maybe(0.5):
            solid += kit.painted(_rod(head * kit.between(1.1, 1.6), 0.05, 2, (0, 0, -0.02)))
    elif kind == 1:  # a nut with wings or slots
        solid = _up(_regular((4, 6, 6, 8)[kit.count(0, 3)], head), kit.between(0.15, 0.5))
        n = kit.count(2, 4)
        solid += _around(_soft_box((kit.between(0.2, 0.5), 0.1, kit.between(0.2, 0.5)), 0.04).translate([head, 0, 0.25]), n)
        solid -= _rod(head * 0.5, 3)
    elif kind == 2:  # an open or ring wrench
        length, t = kit.between(1.2, 2.2), kit.between(0.06, 0.12)
        solid = _up(_slot(length, kit.between(0.12, 0.2)), t) + _up(_circle(head), t * 1.5).translate([length / 2, 0, 0])
        solid -= _up(_regular(6, head * 0.65), 3, -1).translate([length / 2, 0, 0])
        if kit.maybe(0.6):
            solid -= _box((head, head * 1.1, 3), (length / 2 + head * 0.7, 0, 0))
        other = _circle(head * kit.between(0.6, 1.1))
        solid += _up(other, t * 1.2).translate([-length / 2, 0, 0])
        solid -= _up(_regular(6, head * 0.4), 3, -1).translate([-length / 2, 0, 0])
        grip = _up(_slot(length * 0.4, 0.22), t * 1.6, -t * 0.3)
        solid += kit.painted(grip) if kit.maybe(0.5) else grip
    else:  # a hammer, a cutter, a key
        length = kit.between(0.8, 1.6)
        handle = _rod(kit.between(0.06, 0.1), length, 0, sides=16)
        block = _soft_box((kit.between(0.2, 0.4), kit.between(0.5, 0.9), kit.between(0.2, 0.4)), 0.04).translate(
            [length / 2, kit.between(-0.15, 0.15), 0]
        )
        block -= _box((1, 1, 1)).rotate([kit.between(20, 40), 0, 0]).translate([length / 2, 0.65, 0.55])
        solid = kit.painted(handle) + block
        solid += kit.painted(_rod(kit.between(0.1, 0.14), length * 0.4, 0, (-length * 0.3, 0, 0), sides=kit.count(6, 16)))
    return solid


def _frame(kit: _Kit) -> Solid:
    """Bars in a frame or lattice, with plates and feet."""
    size, t = np.array([1.0, kit.between(0.3, 1.0), kit.between(0.2, 1.0)]), kit.between(0.05, 0.12)
    bars = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for a in (-1, 1):
            for b in (-1, 1):
                if kit.maybe(0.8):
                    at = np.zeros(3)
                    at[u], at[v] = a * size[u] / 2, b * size[v] / 2
                    bar = np.full(3, t)
                    bar[axis] = size[axis] + t
                    bars.append(_box(bar, at) if kit.maybe(0.7) else _rod(t * 0.6, size[axis] + t, axis, at, sides=12))
    solid = _total(bars)
    for _ in range(kit.count(1, 4)):
        axis = kit.count(0, 2)
        flat = size * kit.rng.uniform(0.6, 1.0, 3)
        flat[axis] = t * 0.6
        at = np.zeros(3)
        at[axis] = kit.between(-0.5, 0.5) * size[axis]
        panel = _box(flat, at) - _rod(kit.between(0.05, 0.2) * float(size.min()), 3, axis, kit.rng.uniform(-0.2, 0.2, 3))
        solid += (
            kit.painted(panel + _box(np.where(np.arange(3) == axis, t, size + t * 0.5), at) ^ panel)
            if kit.maybe(0.5)
            else panel
        )
    for _ in range(kit.count(0, 3)):
        foot = _rod(
            kit.between(0.06, 0.15),
            kit.between(0.1, 0.4),
            2,
            (size[0] / 2 * (-1) ** kit.count(0, 1), size[1] / 2 * (-1) ** kit.count(0, 1), -size[2] / 2),
        )
        solid += kit.painted(foot)
    return solid


_MAKERS: dict[str, Callable[[_Kit], Solid]] = {
    "plate": _plate, "bracket": _bracket, "profile": _profile, "shaft": _shaft, "flange": _flange, "wheel": _wheel,
    "gear": _gear, "housing": _housing, "lever": _lever, "fitting": _fitting, "blocks": _blocks, "moulded": _moulded,
    "board": _board, "fastener": _fastener, "frame": _frame,
}  # fmt: skip


def _finished(solid: Solid, kit: _Kit) -> Solid:
    """What may happen to any part: stretched, bent, cut, one more hole or boss, labels and painted bands."""
    low, high = np.array(solid.bounding_box()[:3]), np.array(solid.bounding_box()[3:])
    middle, span = (low + high) / 2, (high - low)
    solid = solid.translate(list(-middle)).scale([1 / float(span.max())] * 3)
    span = span / float(span.max())
    if kit.maybe(0.35):
        stretch = kit.rng.uniform(0.7, 1.3, 3)
        solid, span = solid.scale(list(stretch)), span * stretch
    if kit.maybe(0.3):  # a corner or side cut off
        normal = kit.rng.normal(size=3)
        normal /= np.linalg.norm(normal)
        solid = solid.trim_by_plane(list(-normal), -kit.between(0.55, 0.9) * float((np.abs(normal) * span / 2).sum()))
    if kit.maybe(0.35):
        axis = kit.count(0, 2)
        at = span * kit.rng.uniform(-0.35, 0.35, 3)
        solid -= _rod(kit.between(0.05, 0.25) * float(np.sort(span)[1]) / 2, 3, axis, at)
    if kit.maybe(0.2):  # bent
        long, other = int(span.argmax()), int(span.argmin())
        amount = kit.between(-0.5, 0.5)
        solid = solid.refine_to_length(0.12)

        def bend(points: Array) -> Array:
            moved = np.array(points)
            moved[:, other] += amount * moved[:, long] ** 2
            return moved

        solid = solid if kit.colours else solid.warp_batch(bend)  # warping forgets the colours
    for _ in range(kit.count(0, 2) if kit.maybe(0.5) else 0):  # labels: the skin within a prism gets a colour
        axis = kit.count(0, 2)
        solid = _labelled(solid, span, axis, kit)
    return solid


def _labelled(solid: Solid, span: Array, axis: int, kit: _Kit) -> Solid:
    """A coloured patch with bars in it as of writing, or a band around."""
    u, v = (axis + 1) % 3, (axis + 2) % 3
    side = (-1) ** kit.count(0, 1)
    size = np.array([kit.between(0.2, 0.7) * span[u], kit.between(0.2, 0.6) * span[v]])
    at = np.array([kit.between(-0.25, 0.25) * span[u], kit.between(-0.25, 0.25) * span[v]])

    def prism(flat: Flat, deep: float) -> Solid:
        whole = _up(flat, deep)  # along +z, then z becomes the axis
        whole = whole.rotate([[0, 90, 0], [-90, 0, 0], [0, 0, 0]][axis])
        # rotate about y by 90: x -> -z, y -> y, z -> x; about x by -90: x -> x, y -> -z, z -> y
        place = np.zeros(3)
        place[u], place[v] = at
        place[axis] = 0.0 if side > 0 else -deep
        return whole.translate(list(place))

    patch = prism(
        _rounded(_rectangle(*size), 0.1 * float(size.min())) if kit.maybe(0.7) else _circle(float(size.min()) / 2), 2.0
    )
    inner, outer = solid.split(patch)
    if inner.is_empty() or outer.is_empty():
        return solid
    ground = kit.painted(inner)
    bars = kit.count(0, 4)
    ink = kit.colour(_PAINTS)
    for k in range(bars):
        wide = kit.between(0.1, 0.45) * size[0]
        bar = prism(
            _rectangle(wide, 0.12 * size[1]).translate([kit.between(-0.2, 0.2) * size[0], (k / 4 - 0.35) * size[1]]), 2.0
        )
        marked, rest = ground.split(bar)
        if not marked.is_empty() and not rest.is_empty():
            ground = _total([rest, kit.painted(marked, ink)])
    return _total([outer, ground])
