"""Surfaces of revolution with a texture whose rows go along the profile, and tubes; in metres, about +Z."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ...mesh.loading import diameter
from ...types import ObjectModel, Symmetries

Array = np.ndarray

SIDES = 40  # of the turned shapes
ROWS, COLUMNS = 160, 256  # of the texture
SPARE = 12  # its lowest rows, in the one colour of what is not turned


class Part(NamedTuple):
    vertices: Array  # (V, 3)
    faces: Array  # (F, 3)
    normals: Array  # (V, 3), unit
    uv: Array  # (V, 2)


class Profile:
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

    def turned(self) -> Part:
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
        return Part(vertices, np.concatenate(faces), normals, uv)


def tube(path: Array, wide: Array, thick: Array, square: float) -> Part:
    """A tube around a path in the plane y = 0, with flat ends.

    Args:
        path: (P, 2), x and z.
        wide, thick: half widths along y and in the plane, (P,).
        square: 1 for an elliptic cross-section, less for a more rectangular one.
    """
    sides = 12
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
    return Part(all_vertices, np.concatenate(faces + fan), np.concatenate([normals.reshape(-1, 3), end_normals]), uv)


def smooth(heights: Sequence[float], radii: Sequence[float], steps: int) -> Array:
    """A monotone curve through (radius, height) pairs. -> (steps, 2), the first pair left out."""
    from scipy.interpolate import PchipInterpolator

    z = np.linspace(heights[0], heights[-1], steps + 1)[1:]
    return np.stack([PchipInterpolator(heights, radii)(z), z], -1)


# ----------------------------------------------------------------------------------------------------------------- parts
# All is built standing on z = 0 with +Z up and the front towards -Y, so that the object's left is +X, as furniture is.


def block(parts: Solids, low: Three, high: Three, paint: Three) -> None:
    """A cuboid of twelve triangles."""
    a, b = np.minimum(low, high), np.maximum(low, high)
    vertices, faces = shell([np.array([a[k], b[k]]) for k in range(3)])
    parts.add(vertices, faces, paint, 0.03)


def hull(parts: Solids, rings: Sequence[Array] | Array, paint: Three) -> None:
    """A solid between convex rings (n, 3) of equally many corners each, closed at both ends, with sharp edges."""
    corners = np.asarray(rings, float)  # (k, n, 3)
    n = corners.shape[1]
    after = np.roll(corners, -1, 1)
    quads = np.stack([corners[:-1], after[:-1], after[1:], corners[1:]], 2).reshape(-1, 3)  # each four corners its own
    start = np.arange(0, len(quads), 4)[:, None]
    faces = np.concatenate([start + np.array([0, 1, 2]), start + np.array([0, 2, 3])])
    fan = np.stack([np.zeros(n - 2, int), np.arange(1, n - 1), np.arange(2, n)], -1)
    count = len(quads)
    vertices = np.concatenate([quads, corners[0], corners[-1]])
    faces = np.concatenate([faces, fan[:, ::-1] + count, fan + count + n])
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    if (a * np.cross(b, c)).sum() < 0:  # the volume, six times
        faces = faces[:, ::-1]
    flat = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    parts.add(vertices, faces[flat > 1e-9], paint, 0.03)


def body(parts: Solids, stations: Sequence[Sequence[float]], paint: Three) -> None:
    """A hull along Y of sections with tapered flanks: (y, lowest z, highest z, half width below, at the waist, on top)."""
    rings = []
    for y, low, high, below, waist, top in stations:
        middle = 0.45 * low + 0.55 * high
        x = np.array([-below, below, waist, top, -top, -waist])
        rings.append(np.stack([x, np.full(6, y), np.array([low, low, middle, high, high, middle])], -1))
    hull(parts, rings, paint)


def ball(parts: Solids, centre: Three, half: Three, paint: Three) -> None:
    """An ellipsoid of few triangles."""
    angle = np.arange(10) * 2 * math.pi / 10
    rings = []
    for z in np.cos(np.linspace(math.pi, 0, 7).clip(0.12, math.pi - 0.12)):
        r = math.sqrt(1 - z * z)
        rings.append(np.stack([r * np.cos(angle), r * np.sin(angle), np.full(10, z)], -1))
    hull(parts, np.asarray(rings) * np.asarray(half) + np.asarray(centre), paint)


Three = Sequence[float] | Array  # a point, or a colour


# ----------------------------------------------------------------------------------------------------------------- parts


class Solids:
    """Closed solids with their colours, gathered until they become one mesh."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.pieces: list[tuple[Array, Array, Array, Array]] = []

    def add(self, vertices: Array, faces: Array, paint: Three, grain: float = 0.06) -> None:
        normals = vertex_normals(vertices, faces)
        place = np.unique(np.round(vertices, 6), axis=0, return_inverse=True)[1].reshape(
            -1
        )  # one shade per place, on all sides
        noise = 1 + grain * self.rng.standard_normal((int(place.max()) + 1, 1))[place]
        self.pieces.append((vertices, faces, normals, np.asarray(paint) * noise))

    def box(self, low: Three, high: Three, paint: Three, lean: float = 0.0) -> None:
        """A cuboid between two corners; `lean` is how far its top is pushed towards +Y, metres."""
        a, b = np.minimum(low, high).astype(float), np.maximum(low, high).astype(float)
        nodes = [np.linspace(a[k], b[k], int(np.clip(math.ceil((b[k] - a[k]) / 0.3), 1, 6)) + 1) for k in range(3)]
        vertices, faces = shell(nodes)
        vertices[:, 1] += lean * (vertices[:, 2] - a[2]) / (b[2] - a[2])
        self.add(vertices, faces, paint)

    def cushion(
        self, low: Three, high: Three, paint: Three, radius: float = 0.05, puff: float = 0.0,
        lean: float = 0.0,
    ) -> None:  # fmt: skip
        """A cuboid with rounded edges; `puff` is how far its two largest sides bulge, metres."""
        half = (np.asarray(high, float) - np.asarray(low, float)) / 2
        r = min(radius, 0.99 * float(half.min()))
        bend = r * (1 - math.tan(math.pi / 8))
        nodes = [np.array([-h, bend - h, r - h, 0, h - r, h - bend, h]) for h in half]
        vertices, faces = shell(nodes)
        inner = np.clip(vertices, r - half, half - r)
        out = vertices - inner
        vertices = inner + r * out / np.linalg.norm(out, axis=1, keepdims=True)
        thin = int(half.argmin())
        share = np.prod([1 - (vertices[:, k] / half[k]) ** 2 for k in range(3) if k != thin], axis=0)
        vertices[:, thin] += puff * share * vertices[:, thin] / half[thin]
        vertices[:, 1] += lean * (vertices[:, 2] / half[2] + 1) / 2
        vertices, index = np.unique(np.round(vertices, 9), axis=0, return_inverse=True)  # the six sides join smoothly
        faces = index.reshape(-1)[faces]
        self.add(vertices + (np.asarray(high, float) + np.asarray(low, float)) / 2, faces, paint, 0.04)

    def rod(
        self, start: Three, end: Three, radius: float, paint: Three,
        radius_end: float | None = None, sides: int = 12,
    ) -> None:  # fmt: skip
        """A round rod between two points, tapering to `radius_end`. `sides` is a multiple of 4, so that it mirrors."""
        p, q = np.asarray(start, float), np.asarray(end, float)
        axis = (q - p) / np.linalg.norm(q - p)
        aside = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.9 else [0, 1.0, 0])
        aside /= np.linalg.norm(aside)
        angle = np.arange(sides) * 2 * math.pi / sides
        ring = np.cos(angle)[:, None] * aside + np.sin(angle)[:, None] * np.cross(axis, aside)
        low, high = p + radius * ring, q + (radius if radius_end is None else radius_end) * ring
        i = np.arange(sides)
        j = (i + 1) % sides
        n = sides
        wall = np.concatenate([np.stack([i, j, j + n], -1), np.stack([i, j + n, i + n], -1)])
        bottom = np.stack([np.full(n, 4 * n), j + 2 * n, i + 2 * n], -1)
        top = np.stack([np.full(n, 4 * n + 1), i + 3 * n, j + 3 * n], -1)
        self.add(np.concatenate([low, high, low, high, [p], [q]]), np.concatenate([wall, bottom, top]), paint, 0.03)

    def joined(self) -> tuple[Array, Array, Array, Array]:
        """Vertices (V, 3), faces (F, 3) int64, normals (V, 3), colours (V, 3)."""
        return joined(self.pieces)


def joined(pieces: Sequence[tuple[Array, Array, Array, Array]]) -> tuple[Array, Array, Array, Array]:
    """One mesh of many: vertices, faces, normals, and colours or texture coordinates; see `Part`."""
    starts = np.cumsum([0, *(len(p[0]) for p in pieces)])
    faces = np.concatenate([p[1] + s for p, s in zip(pieces, starts)])
    vertices, normals, looks = (np.concatenate([p[k] for p in pieces]) for k in (0, 2, 3))
    return vertices, faces.astype(np.int64), normals, looks


def as_model(
    obj_id: int, name: str, vertices: Array, faces: Array, normals: Array, colors: Array | None = None,
    across: float | None = None, symmetries: Symmetries | None = None,
) -> ObjectModel:  # fmt: skip
    """An `ObjectModel` of arrays; `across` is its diameter where that is known, metres, and colours are cut to [0, 1]."""
    across = diameter(vertices) if across is None else across
    painted = None if colors is None else float32(np.clip(colors, 0, 1))
    return ObjectModel(
        obj_id, name, float32(vertices), torch.from_numpy(faces), float32(normals), across, colors=painted,
        symmetries=symmetries or Symmetries(),
    )  # fmt: skip


def float32(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def check(category: str, seed: int, known: Iterable[str], kind: str) -> None:
    """ValueError where there is no such category, or no such seed of a shape."""
    if category not in known:
        raise ValueError(f"unknown {kind} {category!r}; known: {', '.join(known)}")
    if seed < 0:
        raise ValueError(f"the seed of a shape must be >= 0, got {seed}")


def shell(nodes: Sequence[Array]) -> tuple[Array, Array]:
    """The six sides of a cuboid, each with its own vertices, cut at the nodes of each axis. -> (V, 3), (F, 3)."""
    vertices, faces = [], []
    count = 0
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for end in (0, -1):
            rows, columns = len(nodes[u]), len(nodes[v])
            side = np.empty((rows, columns, 3))
            side[..., axis], side[..., u], side[..., v] = nodes[axis][end], nodes[u][:, None], nodes[v]
            i = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel() + count
            quads = np.stack([i, i + columns, i + columns + 1, i + 1], -1)
            quads = quads if end else quads[:, ::-1]
            vertices.append(side.reshape(-1, 3))
            faces += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
            count += rows * columns
    return np.concatenate(vertices), np.concatenate(faces)


def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Unit vertex normals, the area-weighted means of the faces that share a vertex. (V, 3)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    flat = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    np.add.at(normals, faces.ravel(), np.repeat(flat, 3, 0))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def pick_paint(palette: Sequence[Sequence[float]], rng: Generator) -> Array:
    return np.clip(np.asarray(palette[int(rng.integers(len(palette)))]) * rng.uniform(0.85, 1.12), 0.03, 0.97)


@lru_cache(maxsize=1)
def distractors() -> list[ObjectModel]:
    """Boxes, cylinders, cones and spheres of random shape and colours; unknown to every network (obj_id -1)."""
    rng = np.random.default_rng(7)
    return [primitive(kind, rng) for kind in ("box", "cylinder", "cone", "sphere") * 6]


def primitive(kind: str, rng: Generator) -> ObjectModel:
    n, rows = 24, 9
    angle = np.linspace(0, 2 * np.pi, n + 1)
    height = np.linspace(-1, 1, rows)
    radius = {
        "box": np.ones(rows), "cylinder": np.ones(rows), "cone": np.linspace(1, rng.uniform(0.05, 0.6), rows),
        "sphere": np.sqrt(np.clip(1 - height**2, 0, 1)),
    }[kind]  # fmt: skip
    x, y = np.cos(angle), np.sin(angle)
    if kind == "box":  # push the circle onto the square
        reach = np.maximum(np.abs(x), np.abs(y))
        x, y = x / reach, y / reach
    side = np.stack([radius[:, None] * x, radius[:, None] * y, np.broadcast_to(height[:, None], (rows, n + 1))], -1)
    grid = side.reshape(-1, 3)
    i = (np.arange(rows - 1)[:, None] * (n + 1) + np.arange(n)).ravel()
    faces = np.concatenate([np.stack([i, i + 1, i + n + 2], -1), np.stack([i, i + n + 2, i + n + 1], -1)])
    caps: list[np.ndarray] = []
    cap_faces: list[np.ndarray] = []
    for row in (0, rows - 1):
        start = len(grid) + sum(len(c) for c in caps)
        caps.append(np.concatenate([side[row], [[0, 0, height[row]]]]))
        fan = np.stack([np.arange(n) + start, np.arange(n) + start + 1, np.full(n, start + n + 1)], -1)
        cap_faces.append(fan if row else fan[:, ::-1])
    vertices = np.concatenate([grid, *caps]) * rng.uniform(0.02, 0.1, 3)
    faces = np.concatenate([faces, *cap_faces]).astype(np.int64)
    colours = np.broadcast_to(rng.uniform(0, 1, 3), vertices.shape).copy()
    if rng.random() < 0.6:
        band = np.sin(vertices @ rng.normal(0, 150, 3)) > rng.uniform(-0.5, 0.5)
        colours[band] = rng.uniform(0, 1, 3)
    size = float(np.linalg.norm(np.ptp(vertices, axis=0)))
    return as_model(-1, kind, vertices, faces, vertex_normals(vertices, faces), colours, size)
