"""Polygons of any number of corners to triangles: concave ones by ear clipping, never as fans over their notches."""

from __future__ import annotations

import numpy as np

MOST_WORK = 30_000_000  # squares of the corners of concave polygons, added up; takes about 5 s


def triangulated(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles that cover polygons.

    Triangles and convex polygons become fans, concave polygons are clipped ear by ear in the plane of their mean normal. That
    takes about the square of their corners; what would take minutes is refused.

    Args:
        points: places of the corners of all polygons, one polygon after the other, (C, 3).
        counts: corners of each polygon, (N,); polygons of fewer than three are left out.

    Returns:
        triangles as rows of `points`, (T, 3), in the order of the polygons; the polygon of each, (T,).

    Raises:
        ValueError: concave polygons of too many corners.

    Source: Meisters, "Polygons have ears", American Mathematical Monthly, 1975; Newell's normal.
    """
    counts = np.asarray(counts, np.int64)
    first = np.cumsum(counts) - counts
    work = 0
    triangles, owners = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for n in np.unique(counts[counts >= 3]).tolist():
        which = np.flatnonzero(counts == n)
        rows = first[which][:, None] + np.arange(n)
        fan = np.stack([np.zeros(n - 2, np.int64), np.arange(1, n - 1), np.arange(2, n)], 1)
        if n == 4:
            fan[1] = 2, 3, 0
        new = rows[:, fan]  # (polygons, n - 2, 3)
        if n > 3:
            concave = np.flatnonzero(_concave(points[rows]))
            work += len(concave) * n * max(n, 20)
            if work > MOST_WORK:
                raise ValueError(
                    f"there are concave faces of up to {n} corners, which take long to cut into triangles; export the file "
                    "again as triangles"
                )
            for i in concave:
                new[i] = rows[i][_ears(points[rows[i]])]
        triangles.append(new.reshape(-1, 3))
        owners.append(np.repeat(which, n - 2))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(triangles)[order], owner[order]


def _newell(polygons: np.ndarray) -> np.ndarray:
    """Twice the area vector of polygons (..., n, 3), about their first corner."""
    p = polygons - polygons[..., :1, :]
    return np.cross(p, np.roll(p, -1, axis=-2)).sum(-2)


def _concave(polygons: np.ndarray) -> np.ndarray:
    """Which polygons (N, n, 3) turn the wrong way at some corner."""
    normal = _newell(polygons)
    size = np.linalg.norm(normal, axis=1)
    to_next = np.roll(polygons, -1, axis=1) - polygons
    turn = np.cross(np.roll(to_next, 1, axis=1), to_next)
    return ((turn * normal[:, None]).sum(-1) < -1e-9 * size[:, None] ** 2).any(1)  # type: ignore[no-any-return]


def _ears(polygon: np.ndarray) -> np.ndarray:
    """Triangles (n - 2, 3) of one simple polygon (n, 3), also of one that touches itself where a hole was cut open."""
    n = len(polygon)
    normal = _newell(polygon)
    drop = int(np.abs(normal).argmax())
    axes = [(1, 2), (2, 0), (0, 1)][drop]
    flat = (polygon - polygon[0])[:, axes] * (1.0, np.sign(normal[drop]))  # counter-clockwise
    tiny = 1e-12 * float(np.abs(normal[drop]))

    def cross(o: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a[..., 0] - o[..., 0]) * (b[..., 1] - o[..., 1]) - (a[..., 1] - o[..., 1]) * (b[..., 0] - o[..., 0])  # type: ignore[no-any-return]

    left = list(range(n))
    out = []
    at = 0
    misses, tries = 0, 4 * n + 100  # corners that were no ears: since the last one, and that may still come
    while len(left) > 3:
        k = len(left)
        i, j, m = left[(at - 1) % k], left[at % k], left[(at + 1) % k]
        a, b, c = flat[i], flat[j], flat[m]
        area = float(cross(a, b, c))
        ear = area > tiny
        if ear and tries > 0:
            others = flat[left]
            inside = (cross(a, b, others) >= -tiny) & (cross(b, c, others) >= -tiny) & (cross(c, a, others) >= -tiny)
            corner = (others == a).all(1) | (others == b).all(1) | (others == c).all(1)
            ear = not (inside & ~corner).any()
        if ear or abs(area) <= tiny or misses >= k or tries <= 0:  # no ears: the polygon crosses itself; go on with any corner
            out.append((i, j, m))
            left.pop(at % k)
            misses, at = 0, at - 1  # the corner before may be an ear now
        else:
            misses, at, tries = misses + 1, at + 1, tries - 1
        at %= len(left)
    return np.array([*out, tuple(left)], np.int64)
