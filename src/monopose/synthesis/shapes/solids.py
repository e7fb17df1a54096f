"""Surfaces of revolution with a texture whose rows go along the profile, and tubes; in metres, about +Z."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


def tube(path: Array, wide: Array, thick: Array, sides: int = 12, square: float = 1.0) -> Part:
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
    return Part(all_vertices, np.concatenate(faces + fan), np.concatenate([normals.reshape(-1, 3), end_normals]), uv)


def smooth(heights: Sequence[float], radii: Sequence[float], steps: int) -> Array:
    """A monotone curve through (radius, height) pairs. -> (steps, 2), the first pair left out."""
    from scipy.interpolate import PchipInterpolator

    z = np.linspace(heights[0], heights[-1], steps + 1)[1:]
    return np.stack([PchipInterpolator(heights, radii)(z), z], -1)
