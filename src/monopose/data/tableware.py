"""Mugs, bottles, bowls and cans from a seed: what category-level methods learn from where no CAD models are at hand.

Every shape is a turned profile about +Z with a painted wall; a mug has a handle besides. Metres. The category frame of all
four: the origin on the axis at half the height, +Z up, the handle of a mug towards +X. (category, seed) decides everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator

from ..mesh import diameter
from ..types import ObjectModel, Symmetries

Array = np.ndarray
Three = Sequence[float] | Array  # a colour

CATEGORIES = ("bottle", "bowl", "can", "mug")
SIDES = 40  # of the turned shapes
ROWS, COLUMNS = 160, 256  # of the texture
SPARE = 12  # its lowest rows, in the one colour of the handle

_GLAZES = (
    (0.93, 0.92, 0.89), (0.95, 0.95, 0.95), (0.88, 0.83, 0.72), (0.13, 0.13, 0.14), (0.16, 0.25, 0.45), (0.60, 0.13, 0.12),
    (0.20, 0.42, 0.33), (0.55, 0.72, 0.78), (0.86, 0.55, 0.18), (0.90, 0.80, 0.30), (0.42, 0.30, 0.22), (0.78, 0.45, 0.50),
    (0.45, 0.47, 0.50), (0.35, 0.22, 0.42), (0.25, 0.55, 0.62), (0.70, 0.78, 0.55),
)  # fmt: skip
_PRINTS = (
    (0.85, 0.10, 0.12), (0.95, 0.80, 0.10), (0.08, 0.25, 0.60), (0.05, 0.45, 0.25), (0.95, 0.50, 0.08), (0.96, 0.96, 0.95),
    (0.08, 0.08, 0.09), (0.45, 0.12, 0.40), (0.10, 0.60, 0.75), (0.80, 0.82, 0.85), (0.95, 0.60, 0.70), (0.50, 0.75, 0.20),
    (0.65, 0.05, 0.10), (0.75, 0.65, 0.40),
)  # fmt: skip
_BOTTLES = (
    (0.85, 0.88, 0.88), (0.95, 0.95, 0.94), (0.10, 0.25, 0.14), (0.30, 0.17, 0.07), (0.55, 0.70, 0.78), (0.85, 0.75, 0.20),
    (0.75, 0.15, 0.10), (0.15, 0.30, 0.60), (0.40, 0.60, 0.25), (0.20, 0.10, 0.08), (0.80, 0.50, 0.65), (0.65, 0.82, 0.75),
)  # fmt: skip
_METALS = ((0.75, 0.76, 0.78), (0.62, 0.63, 0.65), (0.80, 0.74, 0.58))


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
    if category not in _MAKERS:
        raise ValueError(f"unknown tableware {category!r}; known: {', '.join(CATEGORIES)}")
    if seed < 0:
        raise ValueError(f"the seed of a shape must be >= 0, got {seed}")
    rng = np.random.default_rng((CATEGORIES.index(category), seed, 29))
    parts, texture = _MAKERS[category](rng)
    starts = np.cumsum([0, *(len(p.vertices) for p in parts)])
    faces = np.concatenate([p.faces + s for p, s in zip(parts, starts)]).astype(np.int64)
    vertices, normals, uv = (np.concatenate([getattr(p, name) for p in parts]) for name in ("vertices", "normals", "uv"))
    wall = parts[0].vertices[:, 2]
    vertices = vertices - [0, 0, (wall.min() + wall.max()) / 2]
    v, n, t = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in (vertices, normals, uv))
    picture = torch.from_numpy(np.ascontiguousarray(np.clip(texture, 0, 1).transpose(2, 0, 1), dtype=np.float32))
    return ObjectModel(
        seed, f"{category}_{seed:03d}", v, torch.from_numpy(faces), n, diameter(vertices), uv=t, texture=picture,
        symmetries=symmetries(category),
    )  # fmt: skip


def symmetries(category: str) -> Symmetries:
    """What leaves the shapes of a category as they are: any turn about +Z for all but mugs, whose handle tells."""
    if category == "mug":
        return Symmetries()
    return Symmetries(axes=torch.tensor([[0.0, 0.0, 1.0]]), offsets=torch.zeros(1, 3))


class _Part(NamedTuple):
    vertices: Array  # (V, 3)
    faces: Array  # (F, 3)
    normals: Array  # (V, 3), unit
    uv: Array  # (V, 2)


# --------------------------------------------------------------------------------------------------------------- geometry


class _Profile:
    """A polyline of (radius, height), from the axis at the bottom outwards and up, which is turned about the axis."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = [(0.0, 0.0)]
        self.marks: dict[str, int] = {}  # name -> index of the point that it ends at

    def to(self, radius: float, height: float) -> None:
        self.points.append((max(float(radius), 0.0), float(height)))

    def along(self, points: Array) -> None:
        for radius, height in points:
            self.to(radius, height)

    def round(self, radius: float, height: float, steps: int = 4) -> None:
        """An edge rounded by an ellipse that starts along the last direction and ends crosswise to it."""
        r, z = self.points[-1]
        r0, z0 = self.points[-2]
        outward = abs(r - r0) > abs(z - z0)
        for t in np.linspace(0, math.pi / 2, steps + 1)[1:]:
            near, far = math.sin(t), 1 - math.cos(t)
            self.to(*((r + near * (radius - r), z + far * (height - z)) if outward else
                      (r + far * (radius - r), z + near * (height - z))))  # fmt: skip

    def mark(self, name: str) -> None:
        self.marks[name] = len(self.points) - 1

    def lengths(self) -> Array:
        """Share of the whole length of the polyline up to every point, (P,)."""
        steps = np.linalg.norm(np.diff(np.asarray(self.points), axis=0), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        return along / along[-1]

    def row(self, name: str) -> int:
        """The row of the texture that a mark lies at, counted from below."""
        return SPARE + round(float(self.lengths()[self.marks[name]]) * (ROWS - SPARE))

    def turned(self) -> _Part:
        """The surface of revolution; edges sharper than 35 degrees stay sharp."""
        points = np.asarray(self.points)
        v = (SPARE + self.lengths() * (ROWS - SPARE)) / ROWS
        keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-6])
        points, v = points[keep], v[keep]
        step = np.diff(points, axis=0)
        out = np.stack([step[:, 1], -step[:, 0]], -1) / np.linalg.norm(step, axis=1, keepdims=True)  # normals of the segments
        rings: list[tuple[Array, Array, float]] = []  # point, normal, v
        segments: list[tuple[int, int]] = []
        for k in range(len(step)):
            sharp = k > 0 and float(out[k - 1] @ out[k]) < math.cos(math.radians(35))
            if k == 0 or sharp:
                rings.append((points[k], out[k], v[k]))
            mean = out[k] + out[k + 1] if k + 1 < len(step) else out[k]
            joins = k + 1 < len(step) and float(out[k] @ out[k + 1]) >= math.cos(math.radians(35))
            rings.append((points[k + 1], mean / np.linalg.norm(mean) if joins else out[k], v[k + 1]))
            segments.append((len(rings) - 2, len(rings) - 1))
        angle = np.linspace(0, 2 * math.pi, SIDES + 1)
        c, s = np.cos(angle), np.sin(angle)
        c[-1], s[-1] = c[0], s[0]  # closed to the last bit
        radius, height = (np.array([p[k] for p, _, _ in rings])[:, None] for k in (0, 1))
        nr, nz = (np.array([n[k] for _, n, _ in rings])[:, None] for k in (0, 1))
        ones = np.ones_like(angle)
        vertices = np.stack([radius * c, radius * s, height * ones], -1).reshape(-1, 3)
        normals = np.stack([nr * c, nr * s, nz * ones], -1).reshape(-1, 3)
        uv = np.stack(np.broadcast_arrays(angle / (2 * math.pi), np.array([t for _, _, t in rings])[:, None]), -1).reshape(
            -1, 2
        )
        i, w, faces = np.arange(SIDES), SIDES + 1, []
        for low, high in segments:
            a, b = low * w + i, high * w + i
            if float(radius[low, 0]) > 0:
                faces.append(np.stack([a, a + 1, b + 1], -1))
            if float(radius[high, 0]) > 0:
                faces.append(np.stack([a, b + 1, b], -1))
        return _Part(vertices, np.concatenate(faces), normals, uv)


def _tube(path: Array, wide: Array, thick: Array, sides: int = 12, square: float = 1.0) -> _Part:
    """A tube around a path in the plane y = 0, with flat ends.

    Args:
        path: (P, 2), x and z.
        wide, thick: half widths along y and in the plane, (P,).
        square: 1 for an elliptic cross-section, less for a more rectangular one.
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.stack([tangent[:, 1], -tangent[:, 0]], -1)  # in the plane, to the right of the path
    angle = np.arange(sides) * 2 * math.pi / sides
    c, s = np.cos(angle), np.sin(angle)
    a, b = np.sign(c) * np.abs(c) ** square, np.sign(s) * np.abs(s) ** square
    side = path[:, None] + (thick[:, None] * a)[..., None] * across[:, None]
    vertices = np.stack([side[..., 0], np.broadcast_to(wide[:, None] * b, side.shape[:2]), side[..., 1]], -1)
    na, nb = a / thick.mean(), b / wide.mean()
    flat = na[None, :, None] * across[:, None]
    normals = np.stack([flat[..., 0], np.broadcast_to(nb, flat.shape[:2]), flat[..., 1]], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    i, rows = np.arange(sides), len(path)
    j = (i + 1) % sides
    faces = [np.stack([k * sides + i, k * sides + j, (k + 1) * sides + j], -1) for k in range(rows - 1)]
    faces += [np.stack([k * sides + i, (k + 1) * sides + j, (k + 1) * sides + i], -1) for k in range(rows - 1)]
    n = rows * sides
    ends = np.concatenate([vertices[0], vertices[-1], vertices[:1].mean(1), vertices[-1:].mean(1)])
    fan = [np.stack([np.full(sides, n + 2 * sides), n + j, n + i], -1)]
    fan += [np.stack([np.full(sides, n + 2 * sides + 1), n + sides + i, n + sides + j], -1)]
    t0, t1 = (np.array([t[0], 0, t[1]]) for t in (-tangent[0], tangent[-1]))
    end_normals = np.concatenate([np.tile(t0, (sides, 1)), np.tile(t1, (sides, 1)), [t0], [t1]])
    all_vertices = np.concatenate([vertices.reshape(-1, 3), ends])
    uv = np.tile([0.5, 0.4 * SPARE / ROWS], (len(all_vertices), 1))
    return _Part(all_vertices, np.concatenate(faces + fan), np.concatenate([normals.reshape(-1, 3), end_normals]), uv)


def _smooth(heights: Sequence[float], radii: Sequence[float], steps: int) -> Array:
    """A monotone curve through (radius, height) pairs. -> (steps, 2), the first pair left out."""
    from scipy.interpolate import PchipInterpolator

    z = np.linspace(heights[0], heights[-1], steps + 1)[1:]
    return np.stack([PchipInterpolator(heights, radii)(z), z], -1)


# ------------------------------------------------------------------------------------------------------------------ paint


def _pick(palette: Sequence[Three], rng: Generator) -> Array:
    return np.clip(
        np.asarray(palette[int(rng.integers(len(palette)))]) * rng.uniform(0.8, 1.1) + rng.normal(0, 0.02, 3), 0.02, 0.98
    )


def _apart(palette: Sequence[Three], other: Array, rng: Generator) -> Array:
    """A colour that can be told from another one."""
    for _ in range(12):
        color = _pick(palette, rng)
        if np.abs(color - other).max() > 0.3:
            break
    return color


class _Wall:
    """The texture: row 0 of `canvas` is the top of the picture, rows of the profile count from below."""

    def __init__(self, ground: Three, spare: Three | None = None) -> None:
        self.canvas = np.empty((ROWS, COLUMNS, 3), np.float32)
        self.canvas[:] = ground
        self.canvas[ROWS - SPARE :] = ground if spare is None else spare

    def band(self, low: int, high: int, paint: Three) -> None:
        """Paint all around between two rows, counted from below."""
        self.canvas[ROWS - high : ROWS - low] = paint

    def region(self, low: int, high: int) -> Array:
        """A view of the rows between `low` and `high`."""
        return self.canvas[ROWS - high : ROWS - low]


def _text(area: Array, rng: Generator, paint: Array, lines: int | None = None) -> None:
    """Words of random letters that fill an area, (h, w, 3), or blocks where they would be too small to read."""
    import cv2

    height, width = area.shape[:2]
    count = int(rng.integers(1, 4)) if lines is None else lines
    tall = height / count
    canvas: Array = np.zeros((height, width), np.uint8)
    for k in range(count):
        y0, y1 = round((k + 0.15) * tall), round((k + 0.85) * tall)
        if y1 - y0 < 2:
            continue
        if tall >= 9:
            word = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVXYZaeimnorstu"), int(rng.integers(3, 8))))
            font, bold = (
                int(rng.choice([cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX])),
                2,
            )
            (w, h), _ = cv2.getTextSize(word, font, 1.0, bold)
            big = np.zeros((h + 12, w + 8), np.uint8)
            cv2.putText(big, word, (4, h + 4), font, 1.0, 255, bold, cv2.LINE_AA)
            fitted = max(2, min(width, round((y1 - y0) * w / h)))
            small = cv2.resize(big, (fitted, y1 - y0), interpolation=cv2.INTER_AREA)
            x = (width - fitted) // 2
            canvas[y0:y1, x : x + fitted] = np.maximum(canvas[y0:y1, x : x + fitted], small)
        else:
            x = int(rng.integers(0, max(width // 5, 1)))
            while x < width * 0.95:
                long = int(rng.integers(2, max(width // 5, 4)))
                canvas[y0:y1, x : min(x + long, width)] = 255
                x += long + int(rng.integers(1, 4))
    share = canvas[..., None].astype(np.float32) / 255
    area[:] = area * (1 - share) + np.asarray(paint, np.float32) * share


def _logo(area: Array, rng: Generator, paint: Array, second: Array) -> None:
    """A disc, diamond, star, shield, drop or ring in the middle of an area, (h, w, 3)."""
    import cv2

    height, width = area.shape[:2]
    half = np.array([min(width, height * 1.3), min(height, width * 1.3)]) * rng.uniform(0.3, 0.47)
    centre = np.array([width, height]) / 2
    kind = int(rng.integers(0, 6))
    n = int(rng.integers(5, 9))
    t = np.arange(48) * 2 * math.pi / 48
    if kind == 0:
        ring = np.stack([np.cos(t), np.sin(t)], -1)
    elif kind == 1:
        ring = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    elif kind == 2:
        t = np.arange(2 * n) * math.pi / n
        ring = np.stack([np.sin(t), -np.cos(t)], -1) * np.where(np.arange(2 * n) % 2, rng.uniform(0.4, 0.7), 1.0)[:, None]
    elif kind == 3:
        ring = np.array([[-0.9, -1], [0.9, -1], [0.9, 0.2], [0.0, 1.0], [-0.9, 0.2]])
    elif kind == 4:
        ring = np.stack([np.cos(t) * (1 + 0.4 * np.sin(t)), np.sin(t)], -1)
    else:
        ring = np.stack([np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.4, np.sign(np.sin(t)) * np.abs(np.sin(t)) ** 0.4], -1)
    for scale, color in ((1.0, paint), (rng.uniform(0.5, 0.85), second)):
        corners = np.round((centre + ring * half * scale) * 16).astype(np.int32)
        cv2.fillPoly(area, [corners], tuple(float(c) for c in color), cv2.LINE_AA, 4)
    if rng.random() < 0.6:
        x, y = int(centre[0] - 0.6 * half[0]), int(centre[1] - 0.35 * half[1])
        inner = area[y : y + max(int(half[1] * 0.7), 3), x : x + max(int(half[0] * 1.2), 4)]
        _text(inner, rng, paint, 1)


def _pattern(area: Array, rng: Generator, paint: Array, second: Array) -> None:
    """Cover an area all around, (h, COLUMNS, 3), with a pattern that closes behind."""
    height, width = area.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    around = x / width
    kind = int(rng.integers(0, 7))
    if kind == 0:  # rings
        on = (y / height * rng.integers(2, 7)) % 1 < rng.uniform(0.2, 0.6)
    elif kind == 1:  # upright stripes
        on = (around * rng.integers(4, 25)) % 1 < rng.uniform(0.2, 0.7)
    elif kind == 2:  # slanted stripes
        on = (around * rng.integers(2, 12) + y / height * rng.choice([-2, -1, 1, 2])) % 1 < rng.uniform(0.2, 0.6)
    elif kind == 3:  # dots
        n = int(rng.integers(6, 20))
        cell = width / n
        row = np.floor(y / cell)
        dx, dy = (x / cell + 0.5 * (row % 2)) % 1 - 0.5, (y / cell) % 1 - 0.5
        on = dx * dx + dy * dy < rng.uniform(0.03, 0.16)
    elif kind == 4:  # a wave between two colours
        wave = rng.uniform(0.3, 0.7) + rng.uniform(0.05, 0.25) * np.sin(
            2 * math.pi * rng.integers(1, 6) * around + rng.uniform(0, 6)
        )
        on = y / height > wave
    elif kind == 5:  # patches
        on = np.zeros((height, width), bool)
        for _ in range(int(rng.integers(3, 12))):
            cx, cy, rx, ry = rng.uniform(0, 1), rng.uniform(0, height), rng.uniform(0.02, 0.12), rng.uniform(0.05, 0.4) * height
            gap = (around - cx + 0.5) % 1 - 0.5
            on |= (gap / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
    else:  # checks
        n, rows = 2 * int(rng.integers(3, 10)), int(rng.integers(2, 6))
        on = (np.floor(around * n) + np.floor(y / height * rows)) % 2 < 1
    area[on] = paint
    if rng.random() < 0.3:
        edge = max(height // 14, 1)
        area[:edge] = area[-edge:] = second


def _label(wall: _Wall, low: int, high: int, rng: Generator, ground: Array, busy: float = 0.75) -> None:
    """A printed label between two rows: ground, pattern, one or two logos, words, a panel of small print, a bar code."""
    area = wall.region(low, high)
    height, width = area.shape[:2]
    if height < 6:
        area[:] = ground
        return
    ink, second = _apart(_PRINTS, ground, rng), _pick(_PRINTS, rng)
    area[:] = ground
    if rng.random() < busy * 0.6:
        _pattern(area, rng, second, ink)
    faces = int(rng.integers(1, 3))
    start = int(rng.integers(0, width))
    turned: Array = np.roll(area, -start, axis=1).copy()  # the seam of the texture may lie anywhere on the label
    wide = width // (faces * 2)
    for k in range(faces):
        x = k * width // faces + wide // 4
        front = turned[:, x : x + wide]
        upper = int(height * rng.uniform(0.45, 0.75))
        if rng.random() < 0.45:
            front[: max(upper, 3)] = np.where(rng.random() < 0.5, ground, _apart(_PRINTS, ink, rng))
        if rng.random() < 0.7:
            _logo(front[:upper], rng, ink, second)
        else:
            _text(front[int(0.1 * height) : upper], rng, ink, 1 + int(rng.random() < 0.4))
        _text(front[upper : int(height * 0.97)], rng, ink)
    if rng.random() < busy and faces == 1:  # the back
        x, panel = int(width * 0.68), int(width * 0.22)
        back = turned[int(0.1 * height) : int(0.9 * height), x : x + panel]
        paper = np.array([0.94, 0.94, 0.92]) if rng.random() < 0.7 else ground
        back[:] = paper
        _text(back[: int(len(back) * 0.6)], rng, np.array([0.1, 0.1, 0.1]), int(rng.integers(4, 9)))
        bars = back[int(len(back) * 0.68) : int(len(back) * 0.95), panel // 6 : -panel // 6]
        bars[:] = np.where(rng.random(bars.shape[1]) < 0.5, 0.95, 0.08)[None, :, None]
    area[:] = np.roll(turned, start, axis=1)


# ------------------------------------------------------------------------------------------------------------- categories


def _mug(rng: Generator) -> tuple[list[_Part], Array]:
    high = rng.uniform(0.078, 0.118)
    middle = rng.uniform(0.036, 0.047)
    wall = rng.uniform(0.003, 0.0055)
    flare, belly, taper = rng.normal(0, 0.06), rng.normal(0, 0.07), rng.uniform(-0.02, 0.18)
    foot, lift = middle * (1 - max(taper, 0) - 0.06), rng.uniform(0.0015, 0.004)

    def radius(share: float) -> float:  # of the outside at a share of the height
        grow = (1 - taper * (1 - share) ** 2) * (1 + belly * 4 * share * (1 - share)) + flare * share**3
        return float(middle * grow)

    edge = rng.uniform(0.004, 0.012)  # of the rounded bottom
    p = _Profile()
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

    glaze = _pick(_GLAZES, rng)
    inner = glaze if rng.random() < 0.55 else _apart(_GLAZES, glaze, rng)
    bare = bool(rng.random() < 0.2)  # an unglazed foot
    paint = _Wall(glaze, inner if rng.random() < 0.3 else glaze)
    rim, bottom, inside = p.row("rim"), p.row("bottom"), p.row("inside")
    paint.band(inside, ROWS, inner)
    style, span = rng.random(), rim - bottom
    ink = _apart(_PRINTS if rng.random() < 0.6 else _GLAZES, glaze, rng)
    if style < 0.22:  # a picture on both sides: the handle is at u = 0
        side = paint.region(bottom + span // 8, rim - span // 8)
        wide = int(COLUMNS * rng.uniform(0.22, 0.34))
        for centre in (0.25, 0.75) if rng.random() < 0.7 else (0.25,) if rng.random() < 0.5 else (0.75,):
            x = int(centre * COLUMNS) - wide // 2
            (_text if rng.random() < 0.4 else lambda a, g, c: _logo(a, g, c, _pick(_PRINTS, g)))(
                side[:, x : x + wide], rng, ink
            )
    elif style < 0.42:  # a pattern on part of the height
        low, top = sorted(rng.choice(5, 2, replace=False))
        _pattern(paint.region(bottom + span * low // 4, bottom + span * top // 4), rng, ink, _pick(_GLAZES, rng))
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
        _label(paint, bottom + 3, rim - 3, rng, glaze, 0.5)
    if rng.random() < 0.2:
        paint.band(rim - 1, inside + 2, ink)
    if bare:
        paint.band(SPARE, max(bottom - 2, SPARE + 1), (0.75, 0.66, 0.54))
    if rng.random() < 0.1:
        paint.canvas[ROWS - SPARE :] = ink
    return [p.turned(), _handle(rng, high, wall, radius)], paint.canvas


def _handle(rng: Generator, high: float, wall: float, radius: Callable[[float], float]) -> _Part:
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
    return _tube(path, wide * ends, thick * ends, square=rng.uniform(0.6, 1.0))


def _bowl(rng: Generator) -> tuple[list[_Part], Array]:
    wide = rng.uniform(0.055, 0.115)
    high = wide * rng.uniform(0.5, 1.0)
    wall = rng.uniform(0.0025, 0.005)
    foot = wide * rng.uniform(0.35, 0.62)
    stand = rng.uniform(0.0, 0.012) if rng.random() < 0.7 else 0.0
    power = rng.uniform(1.6, 3.4)  # 2: a ball's part; more: steeper walls
    lip = rng.uniform(0.0, 0.008) if rng.random() < 0.3 else 0.0

    def outside(share: float) -> float:  # radius at a share of the height above the stand
        return float(foot + (wide - foot) * (1 - (1 - share) ** power) ** (1 / max(power - 0.6, 1.0)))

    p = _Profile()
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

    glaze = _pick(_GLAZES, rng)
    inner_paint = glaze if rng.random() < 0.5 else _apart(_GLAZES, glaze, rng)
    paint = _Wall(glaze)
    bottom, rim, inside, end = (p.row(name) for name in ("bottom", "rim", "inside", "floor"))
    paint.band(inside - 1, ROWS, inner_paint)
    ink = _apart(_PRINTS if rng.random() < 0.4 else _GLAZES, glaze, rng)
    style, span = rng.random(), rim - bottom
    if style < 0.35:
        low = bottom + int(span * rng.uniform(0, 0.7))
        _pattern(paint.region(low, min(rim, low + max(int(span * rng.uniform(0.2, 0.9)), 8))), rng, ink, _pick(_GLAZES, rng))
    elif style < 0.55:
        for k in range(int(rng.integers(1, 4))):
            row = rim - 2 - int((k + rng.uniform(0, 0.5)) * span * 0.2)
            paint.band(row - int(rng.integers(2, 7)), row, ink)
    elif style < 0.65:
        paint.band(SPARE, bottom + int(span * rng.uniform(0.2, 0.7)), ink)
    elif style < 0.72:
        _label(paint, bottom + span // 8, rim - span // 8, rng, glaze, 0.2)
    if rng.random() < 0.35:
        low = inside + int((end - inside) * rng.uniform(0.0, 0.5))
        second = _apart(_GLAZES, inner_paint, rng)
        if rng.random() < 0.5:
            _pattern(paint.region(low, min(low + max((end - inside) // 3, 6), ROWS)), rng, second, ink)
        else:
            paint.band(low, low + int(rng.integers(2, 8)), second)
    if rng.random() < 0.3:
        paint.band(rim - 1, inside + 1, ink)
    return [p.turned()], paint.canvas


def _can(rng: Generator) -> tuple[list[_Part], Array]:
    kind = rng.random()
    p = _Profile()
    metal = _pick(_METALS, rng)
    drink = kind < 0.4
    if drink:
        slim = rng.random() < 0.3
        r = (0.0265 if slim else 0.033) * rng.uniform(0.97, 1.04)
        high = (rng.uniform(0.128, 0.16) if slim else rng.choice([0.115, 0.122, 0.122, 0.168])) * rng.uniform(0.97, 1.03)
        neck, slope = r * rng.uniform(0.76, 0.85), rng.uniform(0.008, 0.014)
        p.to(r * 0.62, 0.006)
        p.to(r * 0.7, 0.0)
        p.to(r * 0.76, 0.0)
        p.along(_smooth([0.0, 0.005, 0.011], [r * 0.76, r * 0.92, r], 4))
        p.mark("bottom")
        p.along(np.stack([np.full(6, r), np.linspace(0.011, high - slope - 0.003, 7)[1:]], -1))
        p.mark("top")
        p.along(_smooth([high - slope - 0.003, high - 0.006, high - 0.0025], [r, neck * 1.02, neck], 5))
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
    ground = _pick(_PRINTS, rng)
    paint = _Wall(metal)
    low, high_row = p.row("bottom"), p.row("top")
    gap = 0 if drink or rng.random() < 0.5 else int((high_row - low) * rng.uniform(0.03, 0.1))
    if drink:  # the print goes on over the shoulder
        shoulder = int((high_row - low) * 0.06)
        paint.band(low - 2, high_row + shoulder, ground)
    _label(paint, low + gap, high_row - gap, rng, ground)
    lid = p.row("lid")
    if drink:  # the ring and the opening, as the lid is seen from above: rows are circles, columns angles
        x = int(rng.integers(0, COLUMNS))
        for wide, start, end, dark in ((30, 0.05, 0.5, 0.45), (22, 0.15, 0.42, 1.1), (52, 0.55, 0.9, 0.6)):
            rows = paint.region(lid + int((ROWS - lid) * (1 - end)), lid + int((ROWS - lid) * (1 - start)))
            rows[:, np.arange(x - wide // 2, x + wide // 2) % COLUMNS] = np.clip(metal * dark, 0, 1)
            x = x if dark != 1.1 else x + COLUMNS // 2
    elif rng.random() < 0.3:
        paint.band(lid, ROWS, _pick(_PRINTS, rng) if rng.random() < 0.4 else metal * 0.85)
    return [p.turned()], paint.canvas


def _bottle(rng: Generator) -> tuple[list[_Part], Array]:
    kind = int(rng.integers(0, 5))  # water, wine, squeezed, medicine, sauce
    r = (rng.uniform(0.029, 0.038), rng.uniform(0.034, 0.041), rng.uniform(0.028, 0.045), rng.uniform(0.022, 0.034),
         rng.uniform(0.024, 0.034))[kind]  # fmt: skip
    high = (
        r
        * (rng.uniform(5.6, 7.6), rng.uniform(7.2, 8.6), rng.uniform(4.2, 5.6), rng.uniform(3.0, 4.6), rng.uniform(5.2, 7.4))[
            kind
        ]
    )
    neck = (
        r
        * (
            rng.uniform(0.33, 0.42),
            rng.uniform(0.32, 0.38),
            rng.uniform(0.25, 0.5),
            rng.uniform(0.5, 0.78),
            rng.uniform(0.38, 0.48),
        )[kind]
    )
    body = (
        rng.uniform(0.55, 0.68),
        rng.uniform(0.56, 0.66),
        rng.uniform(0.65, 0.78),
        rng.uniform(0.66, 0.76),
        rng.uniform(0.48, 0.62),
    )[kind]
    shoulder = (
        rng.uniform(0.16, 0.26),
        rng.uniform(0.08, 0.2),
        rng.uniform(0.06, 0.14),
        rng.uniform(0.05, 0.12),
        rng.uniform(0.14, 0.28),
    )[kind]
    cap_high = (
        high
        * (
            rng.uniform(0.06, 0.09),
            rng.uniform(0.12, 0.22),
            rng.uniform(0.09, 0.2),
            rng.uniform(0.15, 0.24),
            rng.uniform(0.06, 0.1),
        )[kind]
    )
    cap = neck + rng.uniform(0.001, 0.0035)
    cap_z = high - cap_high
    shoulder_z = min((body + shoulder) * high, cap_z - 0.004)
    body_z = min(body, body / (body + shoulder) * shoulder_z / high) * high
    waist = rng.uniform(0.04, 0.14) if kind in (0, 2) and rng.random() < 0.5 else 0.0
    ribs = int(rng.integers(3, 8)) if kind == 0 and rng.random() < 0.6 else 0
    edge = min(rng.uniform(0.003, 0.009), 0.3 * r)
    p = _Profile()
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
    p.along(_smooth([body_z, half, shoulder_z], [r_end, middle, neck], 10))
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
        p.along(_smooth([cap_z + 0.3 * cap_high, cap_z + 0.5 * cap_high, high], [cap * 1.05, cap * 0.55, cap * 0.3], 6))
    else:
        tip = cap * (rng.uniform(0.92, 1.0) if kind != 2 else rng.uniform(0.75, 1.0))
        p.to(tip, high - 0.002)
        p.to(tip - 0.0015, high)
    p.mark("cap")
    p.to(0, high)

    glass = _pick(_BOTTLES, rng)
    lid = _apart(_PRINTS, glass, rng) if rng.random() < 0.7 else _pick(_GLAZES, rng)
    paint = _Wall(glass)
    bottom, top, neck_row, cap_row = p.row("bottom"), p.row("body"), p.row("neck"), p.row("cap")
    paint.band(neck_row, ROWS, lid)
    if rng.random() < 0.5 and kind != 1:  # grooves of the cap
        paint.region(neck_row, cap_row)[:, :: int(rng.choice([4, 6, 8]))] *= 0.75
    if kind == 1 and rng.random() < 0.7:  # the foil goes down the neck
        paint.band(int(neck_row - (neck_row - p.row("shoulder")) * rng.uniform(0.2, 1.0)), ROWS, lid)
    if kind in (0, 4) and rng.random() < 0.4:  # filled with something darker up to the shoulder
        level = int(top + (p.row("shoulder") - top) * rng.uniform(0.0, 0.9))
        drink = _pick(_BOTTLES, rng) * 0.8
        paint.band(SPARE, level, drink)
    span = top - bottom
    if rng.random() < 0.92:
        low = bottom + int(span * (0.48 if ribs else rng.uniform(0.03, 0.3)))
        end = max(bottom + int(span * rng.uniform(0.75, 1.0)), low + 12)
        ground = _apart(_PRINTS, glass, rng) if rng.random() < 0.8 else glass
        if rng.random() < 0.7:
            _label(paint, low, end, rng, ground)
        else:  # a label on the front only
            around = int(COLUMNS * rng.uniform(0.3, 0.55))
            small = _Wall(ground)
            _label(small, low, end, rng, ground, 0.4)
            at = (int(rng.integers(0, COLUMNS)) + np.arange(around)) % COLUMNS
            front = small.region(low, end)
            paint.region(low, end)[:, at] = front[:, np.arange(around)]
    if kind == 1 and rng.random() < 0.5:
        shoulder_row = p.row("shoulder")
        paint.band(shoulder_row - 8, shoulder_row - 2, _pick(_PRINTS, rng))
    return [p.turned()], paint.canvas


_MAKERS: dict[str, Callable[[Generator], tuple[list[_Part], Array]]] = {
    "bottle": _bottle, "bowl": _bowl, "can": _can, "mug": _mug,
}  # fmt: skip
