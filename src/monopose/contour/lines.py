"""Correspondence lines: how far the contour is from where a pose puts it, as a distribution on every line, and the pose step.

Arrays are numpy. The tangent of a pose is that of `geometry.se3.retract`: (v, omega) on the camera side, metres and radians, so
that information matrices from elsewhere (the inverse of PnP's covariance) can be added.

Sources: Stoiber et al., SRT3D (IJCV 2022) and M3T (CVPR Workshops 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .points import Array, Points, PointsAt

CLIP = 0.03  # a map's probabilities stay this far from 0 and 1, or one line with a saturated map would decide alone
FLOOR = 1e-6  # of a distribution, before its logarithm


@dataclass(frozen=True)
class Settings:
    """What the step needs to know; the defaults are M3T's."""

    amplitude: float = 0.43  # a_h: half the height of the step from object to background; 0.5 would be sure of every colour
    slope: float = 0.5  # s_h: width of the step, segments
    step: int = 8  # N_h, segments that the step spans
    offsets: int = 12  # N_d, distances that are tried
    least: float = 3.0  # segments without another edge on either side, or a line does not count
    rate: float = 1.3  # of the local step
    damping: tuple[float, float] = (30000.0, 1000.0)  # of translation, 1/m^2, and rotation: nothing moves without a reason

    @property
    def foreground(self) -> Array:
        """h_f at the segments of the step, (N_h,)."""
        x = np.arange(self.step) - (self.step - 1) / 2
        return 0.5 - self.amplitude * (np.tanh(x / (2 * self.slope)) if self.slope > 0 else np.sign(x))

    @property
    def distances(self) -> Array:
        """d_i, (N_d,), segments."""
        return np.arange(self.offsets) - (self.offsets - 1) / 2

    @property
    def least_variance(self) -> float:
        """Of an ideal step, segments squared."""
        return max(1 / (2 * math.atanh(2 * self.amplitude) ** 2), self.slope)

    @property
    def uniform_variance(self) -> float:
        """Of a line that says nothing, segments squared."""
        return (self.offsets**2 - 1) / 12

    @property
    def most_variance(self) -> float:
        """Beyond this a line has seen no edge and does not count: where the map says nothing, nothing moves."""
        return 0.99 * self.uniform_variance


DEFAULT = Settings()


class Maps(NamedTuple):
    """Foreground probabilities of M pictures, (M, h, w), float32 in [CLIP, 1 - CLIP], and what stands in front.

    front: depth from which on a contour is hidden by something known, (M, h, w), metres, infinite where nothing is.
    """

    probability: Array
    front: Array


def maps_of(probability: Array, front: Array | None = None) -> Maps:
    """`Maps` of any probabilities (M, h, w)."""
    p = np.ascontiguousarray(probability, np.float32).clip(CLIP, 1 - CLIP)
    return Maps(p, np.full(p.shape, np.inf, np.float32) if front is None else np.ascontiguousarray(front, np.float32))


class Lines(NamedTuple):
    """What was found on the lines of B instances at one pose, N lines each.

    geometry (B, N, 6): pixel (u, v) of the contour point and unit normal at the pose of the search, segments per pixel, offset
    of the sampled line's centre along the normal, pixels; distribution (B, N, N_d) over the distances; mean and variance
    (B, N), segments; valid (B, N).
    """

    geometry: Array
    distribution: Array
    mean: Array
    variance: Array
    valid: Array


class Step(NamedTuple):
    """Normal equations of B instances: g (B, 6), A (B, 6, 6), the cost (B,) and the lines that count (B,)."""

    g: Array
    A: Array
    cost: Array
    used: Array


def search(
    points: Points, poses: Array, K: Array, maps: Maps, map_of: Array, scale: int, settings: Settings = DEFAULT
) -> Lines:
    """Look along the lines of a contour for the edge of the object.

    Args:
        points: of B instances.
        poses: cam_from_obj, (B, 4, 4).
        K: of each instance's map, (B, 3, 3), pixels.
        maps: foreground probabilities.
        map_of: which of the maps an instance is in, (B,).
        scale: pixels of a segment.
        settings: see there.
    """
    batch, n = points.inner.shape
    out = Lines(
        np.zeros((batch, n, 6)), np.zeros((batch, n, settings.offsets)), np.zeros((batch, n)), np.ones((batch, n)),
        np.zeros((batch, n), np.bool_),
    )  # fmt: skip
    kernels.search(
        *points[:5], poses, K, maps.probability, map_of, maps.front, scale, settings.foreground, settings.distances,
        settings.least, settings.least_variance, settings.most_variance, *out,
    )  # fmt: skip
    return out


def search_reference(
    points: Points, poses: Array, K: Array, maps: Maps, map_of: Array, scale: int, settings: Settings = DEFAULT
) -> Lines:
    """`search` in plain numpy, one line at a time."""
    batch, n = points.inner.shape
    segments = settings.step + settings.offsets - 1
    length = segments * scale
    out = Lines(
        np.zeros((batch, n, 6)), np.zeros((batch, n, settings.offsets)), np.zeros((batch, n)), np.ones((batch, n)),
        np.zeros((batch, n), np.bool_),
    )  # fmt: skip
    h_f, d = settings.foreground, settings.distances
    for b in range(batch):
        R, t, k = poses[b, :3, :3], poses[b, :3, 3], K[b]
        p_map, front = maps.probability[map_of[b]].astype(np.float64), maps.front[map_of[b]]
        size = np.array(p_map.shape[::-1])
        for i in range(points.number[b]):
            x = R @ points.centre[b, i] + t
            direction = (R @ points.normal[b, i])[:2]
            norm = np.linalg.norm(direction)
            if not (x[2] > 1e-6 and norm > 1e-6):
                continue
            room = min(points.inner[b, i], points.outer[b, i]) * min(k[0, 0], k[1, 1]) / (x[2] * scale)
            if room < settings.least:
                continue
            normal = direction / norm
            c = (k @ x)[:2] / x[2]
            a = 0 if abs(normal[0]) > abs(normal[1]) else 1  # the dominant axis
            first = math.floor(c[a] - (length - 1) / 2 + 0.5)
            steps = first + np.arange(length)
            others = c[1 - a] + (steps - c[a]) * normal[1 - a] / normal[a]
            outside = steps[0] < 0 or steps[-1] > size[a] - 1 or others.min() < 0 or others.max() > size[1 - a] - 1
            if outside or front[int(c[1] + 0.5), int(c[0] + 0.5)] < x[2]:
                continue
            rows = np.floor(others + 0.5).astype(int)
            p = p_map[rows, steps] if a == 0 else p_map[steps, rows]
            p = (p if normal[a] > 0 else p[::-1]).reshape(segments, scale)
            f, g = p.prod(1), (1 - p).prod(1)
            f = np.divide(f, f + g, out=np.full(segments, 0.5), where=f + g > 0)
            likelihood = np.array(
                [np.prod(f[j : j + settings.step] * h_f + (1 - f[j : j + settings.step]) * (1 - h_f)) for j in range(len(d))]
            )
            q = likelihood / likelihood.sum()
            mean = q @ d
            spread = q @ (d - mean) ** 2
            out.distribution[b, i] = q
            if spread > settings.most_variance:
                continue
            out.mean[b, i] = mean
            out.variance[b, i] = max(spread, settings.least_variance)
            offset = (first + (length - 1) / 2 - c[a]) / normal[a]
            out.geometry[b, i] = [*c, *normal, abs(normal[a]) / scale, offset]
            out.valid[b, i] = True
    return out


def normal_equations(
    lines: Lines, points: Points, poses: Array, K: Array, sigma: Array, local: bool, settings: Settings = DEFAULT
) -> Step:
    """Pull and information of the lines at poses near that of their search.

    Args:
        lines: of `search`.
        points, K: those it was called with.
        poses: (B, 4, 4).
        sigma: standard deviation of the sharpest line, (B,), pixels; larger trusts the map less.
        local: False: towards the mean of every line's distribution; True: up its slope at the current distance.
        settings: see there.

    Returns:
        Step with g = sum w J^T dlnp/dd, A = sum w / variance J^T J in the tangent (v, omega); the cost is that of the global
        step, sum w (mean - d)^2 / (2 variance).
    """
    batch = len(poses)
    step = Step(np.empty((batch, 6)), np.empty((batch, 6, 6)), np.empty(batch), np.empty(batch, np.int64))
    kernels.normal_equations(
        points.centre, points.normal, poses, K, *lines, local, settings.rate, FLOOR, settings.least_variance, sigma, *step
    )
    return step


def normal_equations_reference(
    lines: Lines, points: Points, poses: Array, K: Array, sigma: Array, local: bool, settings: Settings = DEFAULT
) -> Step:
    """`normal_equations` in plain numpy."""
    Y = points.centre @ np.swapaxes(poses[:, :3, :3], 1, 2)
    x, y, z = np.moveaxis(Y + poses[:, None, :3, 3], -1, 0)
    ax, bx, cx, _, ay, cy = (K[:, r, c, None] for r in (0, 1) for c in range(3))
    z = np.where(z > 1e-6, z, np.inf)
    u, v = (ax * x + bx * y) / z + cx, ay * y / z + cy
    u0, v0, nu, nv, per_pixel, shift = np.moveaxis(lines.geometry, -1, 0)
    d = per_pixel * (nu * (u - u0) + nv * (v - v0) - shift)
    used = lines.valid & np.isfinite(z)
    if local:
        n = settings.offsets
        upper = np.floor(d + (n + 1) / 2).astype(int)
        used = used & (upper > 0) & (upper < n)
        upper = np.where(used, upper, 1)[..., None]
        log = np.log(np.maximum(lines.distribution, FLOOR))
        pull = np.take_along_axis(log, upper, -1) - np.take_along_axis(log, upper - 1, -1)
        pull = settings.rate * pull[..., 0]
    else:
        pull = (lines.mean - d) / lines.variance
    scale = np.where(used, per_pixel, 1)
    w = np.where(used, settings.least_variance / (scale * sigma[:, None]) ** 2, 0)
    a, c = per_pixel * nu, per_pixel * nv
    J_x = np.stack([a * ax / z, (a * bx + c * ay) / z, -(a * (ax * x + bx * y) + c * ay * y) / z**2], -1)
    J = np.concatenate([J_x, np.cross(Y, J_x)], -1)
    g = ((w * pull)[..., None] * J).sum(1)
    A = np.swapaxes(J, 1, 2) @ (J * (w / lines.variance)[..., None])
    cost = (0.5 * w / lines.variance * (lines.mean - d) ** 2).sum(1)
    return Step(g, A, cost, used.sum(1))


class Prior(NamedTuple):
    """A Gaussian around poses: cam_from_obj (B, 4, 4) and the information (B, 6, 6) of the tangent (v, omega)."""

    cam_from_obj: Array
    information: Array


def moved(poses: Array, delta: Array) -> Array:
    """`geometry.se3.retract` for numpy: (B, 4, 4), (B, 6) -> (B, 4, 4)."""
    out = poses.copy()
    out[:, :3, :3] = _exp(delta[:, 3:]) @ poses[:, :3, :3]
    out[:, :3, 3] += delta[:, :3]
    return out


def difference(poses: Array, reference: Array) -> Array:
    """The tangent with `moved(reference, difference) == poses`, (B, 6)."""
    turn = poses[:, :3, :3] @ np.swapaxes(reference[:, :3, :3], 1, 2)
    axis = np.stack([turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], -1)
    sine, cosine = np.linalg.norm(axis, axis=1) / 2, (np.trace(turn, axis1=1, axis2=2) - 1) / 2
    angle = np.arctan2(sine, cosine)
    factor = np.where(sine > 1e-9, angle / np.maximum(2 * sine, 1e-18), 0.5)
    return np.concatenate([poses[:, :3, 3] - reference[:, :3, 3], axis * factor[:, None]], 1)


def still_of(axes: Tensor, offsets: Tensor) -> Array:
    """Axes of revolution as `fit` wants them, (A, 2, 3): directions and a point on each, object frame, metres."""
    return torch.stack([axes, offsets], 1).double().cpu().numpy()


def _without(delta: Array, metric: Array, still: Sequence[Array], poses: Array) -> Array:
    """Steps without their part along motions that change nothing."""
    out = delta.copy()
    for b, axes in enumerate(still):
        if not len(axes):
            continue
        turn, through = (axes @ poses[b, :3, :3].T).transpose(1, 0, 2)
        free = np.concatenate([np.cross(through, turn), turn], 1)  # twists about the axes, (A, 6)
        out[b] -= free.T @ np.linalg.lstsq(free @ metric @ free.T, free @ metric @ delta[b], rcond=None)[0]
    return out


def _exp(omega: Array) -> Array:
    angle = np.linalg.norm(omega, axis=1)[:, None, None]
    hat = np.zeros((len(omega), 3, 3))
    hat[:, 0, 1], hat[:, 0, 2], hat[:, 1, 2] = -omega[:, 2], omega[:, 1], -omega[:, 0]
    hat = hat - np.swapaxes(hat, 1, 2)
    safe = np.maximum(angle, 1e-12)
    return np.eye(3) + np.sinc(angle / np.pi) * hat + 2 * (np.sin(angle / 2) / safe) ** 2 * (hat @ hat)


class Fitted(NamedTuple):
    """Poses after `fit`.

    cam_from_obj (B, 4, 4); information (B, 6, 6) of the tangent (v, omega), prior and others included, the damping not; used:
    share of the lines that counted in the last step, (B,); agree: share with a sharp edge within a segment of it, (B,);
    variance: mean of those that counted, segments squared, (B,), as large as that of a uniform distribution where none did;
    distance: their mean |d - mean|, segments, (B,); likelihood: mean logarithm of N_d p(d) over all points, (B,): 0 is what a
    line says that has seen nothing.
    """

    cam_from_obj: Array
    information: Array
    used: Array
    agree: Array
    variance: Array
    distance: Array
    likelihood: Array


Others = Callable[[Array, float], tuple[Array, Array]]  # poses (B, 4, 4), sigma in pixels -> g (B, 6), A (B, 6, 6)
Schedule = Sequence[tuple[int, float]]  # of every search: pixels of a segment, and sigma in pixels
TRACK: Schedule = ((6, 15.0), (4, 5.0), (2, 3.5), (1, 1.5), (1, 1.5))  # M3T's
SHARP = 4.0  # times the variance of an ideal step, up to which an edge is a sharp one
UPDATES = 2  # steps after each search, the first one global


def fit(
    points_at: PointsAt,
    poses: Array,
    K: Array,
    maps: Maps,
    map_of: Array | None = None,
    schedule: Schedule = TRACK,
    trust: Array | None = None,
    prior: Prior | None = None,
    still: Sequence[Array] | None = None,
    settings: Settings = DEFAULT,
    others: Others | None = None,
) -> Fitted:
    """Move poses until their contours lie on the edges of foreground maps.

    Args:
        points_at: where contours come from, see `points.rendered` and `points.looked_up`.
        poses: cam_from_obj at the start, (B, 4, 4).
        K: of each one's map, (B, 3, 3), pixels.
        maps: foreground probabilities.
        map_of: which of them an instance is in, (B,); None: one each.
        schedule: searches, each with the pixels of a segment and sigma.
        trust: factor of sigma for every instance, (B,); None: 1.
        prior: added to the normal equations.
        still: of every instance the motions that leave it looking the same, which are not made, see `still_of`.
        settings: see there.
        others: what else pulls at the poses, added to the normal equations: features of a texture.

    Returns:
        Fitted. An instance without a line that counts, or behind the camera, stays where it is, up to the prior's pull.
    """
    poses, K = np.array(poses, np.float64), np.ascontiguousarray(K, np.float64)
    batch = len(poses)
    map_of = np.arange(batch) if map_of is None else np.asarray(map_of, np.int64)
    factor = np.ones(batch) if trust is None else np.asarray(trust, np.float64)
    damping = np.diag(np.repeat(settings.damping, 3))
    lines, points, step = None, None, None
    for scale, sigma in schedule:
        points = points_at(poses)
        lines = search(points, poses, K, maps, map_of, scale, settings)
        for update in range(UPDATES):
            step = normal_equations(lines, points, poses, K, sigma * factor, update > 0, settings)
            g, A = step.g, step.A + damping
            if others is not None:
                pull, known = others(poses, sigma)
                g, A = g + pull, A + known
            if prior is not None:
                away = difference(prior.cam_from_obj, poses)
                g, A = g + (prior.information @ away[..., None])[..., 0], A + prior.information
            delta = np.linalg.solve(A, g[..., None])[..., 0]
            if still is not None:
                delta = _without(delta, damping, still, poses)
            size = np.maximum(np.linalg.norm(delta[:, 3:], axis=1) / 0.5, 1e-9)  # a turn by more than half a radian is no step
            delta = delta / np.maximum(size, 1)[:, None]
            good = np.isfinite(delta).all(1)
            poses = moved(poses, np.where(good[:, None], delta, 0))
    if lines is None or points is None or step is None:
        raise ValueError("the schedule is empty; give at least one (pixels of a segment, sigma)")
    last = normal_equations(lines, points, poses, K, sigma * factor, False, settings)
    information = last.A if prior is None else last.A + prior.information
    if others is not None:
        information = information + others(poses, sigma)[1]
    count = np.maximum(lines.valid.sum(1), 1)
    none = ~lines.valid.any(1)
    variance = np.where(none, settings.uniform_variance, np.where(lines.valid, lines.variance, 0).sum(1) / count)
    gap = _distances(lines, points, poses, K)
    distance = np.where(none, settings.offsets / 2, np.where(lines.valid, np.abs(gap - lines.mean), 0).sum(1) / count)
    share = lines.valid.sum(1) / np.maximum(points.number, 1)
    close = lines.valid & (np.abs(gap - lines.mean) < 1) & (lines.variance < SHARP * settings.least_variance)
    agree = close.sum(1) / np.maximum(points.number, 1)
    likelihood = np.where(lines.valid, _log_ratio(lines.distribution, gap), 0).sum(1) / np.maximum(points.number, 1)
    return Fitted(poses, information, share, agree, variance, distance, likelihood)


def _log_ratio(distribution: Array, d: Array) -> Array:
    """ln(N_d p(d)), linear between the distances, (B, N, N_d), (B, N) -> (B, N)."""
    n = distribution.shape[-1]
    place = np.clip(d + (n - 1) / 2, 0, n - 1)
    low = np.minimum(place.astype(np.int64), n - 2)[..., None]
    part = place - low[..., 0]
    a, b = (np.take_along_axis(distribution, low + k, -1)[..., 0] for k in (0, 1))
    inside = np.abs(d) <= n / 2
    return np.log(n * np.maximum(np.where(inside, a + part * (b - a), 0), 1e-3))


def _distances(lines: Lines, points: Points, poses: Array, K: Array) -> Array:
    """d of every line, (B, N), segments."""
    x = points.centre @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3]
    z = np.maximum(x[..., 2], 1e-6)
    u = (K[:, 0, 0, None] * x[..., 0] + K[:, 0, 1, None] * x[..., 1]) / z + K[:, 0, 2, None]
    v = K[:, 1, 1, None] * x[..., 1] / z + K[:, 1, 2, None]
    u0, v0, nu, nv, per_pixel, shift = np.moveaxis(lines.geometry, -1, 0)
    return per_pixel * (nu * (u - u0) + nv * (v - v0) - shift)
