"""Edges of a foreground map along scan lines of sixteen directions, looked up for any contour: a wide basin and a score.

`lines` looks a few pixels to either side of a contour; here every contour point goes to the nearest of the strong edges on its
whole scan line, in a table that is made once for a map. So poses far off can be tried in numbers.

Arrays are numpy. Source: Tian et al., Large-Displacement 3D Object Tracking with Hybrid Non-local Optimization (ECCV 2022).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from . import kernels
from .lines import moved
from .points import Array, Points, PointsAt

DIRECTIONS = 16
CANDIDATES = 3  # edges kept of a line
NEAR = 3  # pixels on either side of an edge that its place is averaged over
LOST = 0.25  # of the map's side: distance that a point counts with whose line has no edge
SHARP, WIDE = 0.125, 0.75  # powers of the distance: to judge and to finish, and to come from far
DAMPING = 5000.0  # of rotation for 200 points; 100 times that of translation


class Table(NamedTuple):
    """Edges on the scan lines of M maps.

    position (M, 16, D, C): along the direction, pixels from the middle, nan where there are fewer; height (M, 16, D, C), the
    highest of a map 1; middle (2,): pixel; extent: distance of a point that finds no edge, pixels.
    """

    position: Array
    height: Array
    middle: Array
    extent: float


def table(probability: Array, candidates: int = CANDIDATES) -> Table:
    """Scan foreground maps (M, h, w) along sixteen directions.

    Direction k looks along (cos, sin) of 2 pi k / 16; the edges kept are those where the object ends, seen that way.
    """
    import cv2

    count, height, width = probability.shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    side = math.ceil(math.hypot(height, width)) + 2
    half = DIRECTIONS // 2
    position = np.full((count, DIRECTIONS, side, candidates), np.nan, np.float32)
    strength = np.zeros((count, DIRECTIONS, side, candidates), np.float32)
    for m in range(count):
        for k in range(half):
            c, s = math.cos(2 * math.pi * k / DIRECTIONS), math.sin(2 * math.pi * k / DIRECTIONS)
            turn = np.array([[c, s], [-s, c]])
            warp = np.concatenate([turn, (side / 2 - turn @ middle)[:, None]], 1)
            turned = cv2.warpAffine(probability[m], warp, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            slopes = cv2.Sobel(turned, cv2.CV_32F, 1, 0, ksize=7)
            for way, sign in ((k, -1.0), (k + half, 1.0)):
                kernels.peaks(slopes, sign, NEAR, position[m, way], strength[m, way])
                position[m, way] = (position[m, way] - side / 2) * -sign
        strength[m] /= max(float(strength[m].max()), 1e-9)
    return Table(position, strength, middle, LOST * max(height, width))


class Pull(NamedTuple):
    """Normal equations of B instances in the tangent (v, omega): g (B, 6), A (B, 6, 6); and the energy E (B,)."""

    g: Array
    A: Array
    energy: Array


def equations(edges: Table, points: Points, poses: Array, K: Array, map_of: Array, power: float) -> Pull:
    """How far contours are from the nearest edges, and which way they are drawn.

    Args:
        edges: of `table`.
        points: of B instances, at most a rough view away from the poses.
        poses: (B, 4, 4).
        K: (B, 3, 3), pixels of the maps.
        map_of: which map, (B,).
        power: of the distance in E = sum w^2 |r|^power / sum w^2.

    Returns:
        Pull. Points without an edge count with `LOST` in the energy and do not pull.
    """
    batch = len(poses)
    out = Pull(np.empty((batch, 6)), np.empty((batch, 6, 6)), np.empty(batch))
    kernels.nearest_edges(
        points.centre, points.normal, points.number, poses, K, edges.position, edges.height, map_of, edges.middle,
        edges.extent, power, *out,
    )  # fmt: skip
    return out


def equations_reference(edges: Table, points: Points, poses: Array, K: Array, map_of: Array, power: float) -> Pull:
    """`equations` in plain numpy."""
    batch = len(poses)
    out = Pull(np.zeros((batch, 6)), np.zeros((batch, 6, 6)), np.zeros(batch))
    rows = edges.position.shape[2]
    for b in range(batch):
        n, k = points.number[b], K[b]
        Y = points.centre[b, :n] @ poses[b, :3, :3].T
        x, y, z = (Y + poses[b, :3, 3]).T
        direction = (points.normal[b, :n] @ poses[b, :3, :3].T)[:, :2]
        ahead: Array = np.asarray(z > 1e-6) & np.asarray(np.linalg.norm(direction, axis=1) > 1e-6)
        z = np.where(ahead, z, 1.0)
        from_middle = np.stack([(k[0, 0] * x + k[0, 1] * y) / z + k[0, 2], k[1, 1] * y / z + k[1, 2]], 1) - edges.middle
        way = np.floor(np.arctan2(direction[:, 1], direction[:, 0]) / (2 * np.pi) * DIRECTIONS + 0.5).astype(int) % DIRECTIONS
        c, s = np.cos(2 * np.pi * way / DIRECTIONS), np.sin(2 * np.pi * way / DIRECTIONS)
        across = np.where(way >= DIRECTIONS // 2, -1, 1) * (c * from_middle[:, 1] - s * from_middle[:, 0])
        row = np.floor(across + rows / 2 + 0.5).astype(int)
        inside: Array = np.asarray(ahead & (row >= 0) & (row < rows))
        positions = edges.position[map_of[b], way, np.clip(row, 0, rows - 1)].astype(np.float64)
        found: Array = inside & ~np.isnan(positions[:, 0])
        r = (c * from_middle[:, 0] + s * from_middle[:, 1])[:, None] - positions
        which = np.where(np.isnan(r), np.inf, np.abs(r)).argmin(1)
        r = np.where(found, np.take_along_axis(r, which[:, None], 1)[:, 0], 0)
        height = np.take_along_axis(edges.height[map_of[b], way, np.clip(row, 0, rows - 1)], which[:, None], 1)[:, 0]
        w = np.where(found, height.astype(np.float64) ** 2, 0)
        focal = np.stack([c * k[0, 0] / z, (c * k[0, 1] + s * k[1, 1]) / z], 1)
        J_x = np.concatenate([focal, (-(c * (k[0, 0] * x + k[0, 1] * y) + s * k[1, 1] * y) / z**2)[:, None]], 1)
        J = np.concatenate([J_x, np.cross(Y, J_x)], 1)
        m = w * (1 / (np.abs(r) + 1)) ** (2 - power)
        out.g[b] = -(m * r) @ J
        out.A[b] = J.T @ (J * m[:, None])
        mean = w.sum() / found.sum() if found.any() else 1.0
        lost = (~found).sum() * mean
        total = (w * np.abs(r) ** power).sum() + lost * edges.extent**power
        out.energy[b] = total / (w.sum() + lost) if w.sum() + lost > 0 else edges.extent**power
    return out


def descend(
    edges: Table,
    points_at: PointsAt,
    poses: Array,
    K: Array,
    map_of: Array,
    updates: int = 30,
    power: float = SHARP,
    anew: int = 3,
) -> tuple[Array, Array]:
    """Move poses to where their contours lie on edges.

    Args:
        edges, K, map_of: see `equations`.
        points_at: where contours come from.
        poses: starts, (B, 4, 4).
        updates: steps.
        power: of the distance; `WIDE` comes from further away, `SHARP` ends more exactly.
        anew: steps after which the contour is taken anew.

    Returns:
        poses (B, 4, 4), and their energies at the power `SHARP`, (B,).
    """
    poses = np.array(poses, np.float64)
    points = points_at(poses)
    for update in range(updates):
        if update and update % anew == 0:
            points = points_at(poses)
        pull = equations(edges, points, poses, K, map_of, power)
        damping = DAMPING * np.maximum(points.number, 1) / 200
        A = pull.A + damping[:, None, None] * np.diag([100.0] * 3 + [1.0] * 3)
        delta = np.linalg.solve(A, pull.g[..., None])[..., 0]
        good = np.isfinite(delta).all(1, keepdims=True)
        poses = moved(poses, np.where(good, delta, 0))
    return poses, equations(edges, points_at(poses), poses, K, map_of, SHARP).energy


def tilted(poses: Array, angle: float, spacing: float = math.radians(15)) -> Array:
    """Poses turned out of the image plane in steps of about `spacing` up to `angle`: (B, 4, 4) -> (B, n, 4, 4), unturned first.

    Args:
        angle: the most, radians, about each of the camera's axes x and y.
    """
    steps = max(int(angle / spacing + 0.5) | 1, 1)
    i, j = np.meshgrid(*[np.arange(-steps, steps + 1)] * 2, indexing="ij")
    order = np.argsort(i.ravel() ** 2 + j.ravel() ** 2, kind="stable")
    turns = np.stack([i.ravel(), j.ravel(), np.zeros(i.size)], 1)[order] * (angle / steps)
    delta = np.concatenate([np.zeros_like(turns), turns], 1)
    return np.stack([moved(np.repeat(pose[None], len(delta), 0), delta) for pose in poses])
