"""Which rotations leave a CAD model looking the same: found on its surface, to be accepted or edited by a person."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..geometry.symmetry import transforms
from ..geometry.viewpoints import fibonacci_sphere, look_at
from ..render import rasterize
from ..types import ObjectModel, Symmetries
from .loading import SurfaceSamples, albedo, surface_samples

FOLDS = tuple(range(36, 1, -1))  # all are tried; of more, up to MOST_FOLDS, those that the angles of the surface suggest
MOST_FOLDS = 120  # teeth of a gear
HIDDEN_SHARE = 0.005  # of the surface; below it every face counts, so that closed meshes are taken as they are
NEAR = 0.08  # deviations up to this share of the diameter are worth telling
COLOR_DIFFERENCE = 0.15  # mean absolute RGB difference that an eye sees at once
COLOR_SHARE = 0.02  # share of the surface that may differ that much


@dataclass(frozen=True)
class SymmetryFinding:
    """One axis about which the surface repeats itself, or nearly so.

    Args:
        fold: 0 = any angle (continuous), 2 = half turn, 3 = third of a turn, ...
        axis: direction, unit length, object frame.
        offset: a point on the axis, metres, object frame.
        deviation: worst distance between the turned surface and the surface, metres.
        share: `deviation` divided by the diameter.
        color_difference: share of the surface whose colour changes visibly, or None for a model without colours.
        verdict: "geometry and colour", "geometry" (no colours to compare), "geometry only" (colours differ) or
            "nearly" (the surface differs more than the tolerance).
    """

    fold: int
    axis: tuple[float, float, float]
    offset: tuple[float, float, float]
    deviation: float
    share: float
    color_difference: float | None
    verdict: str

    @property
    def accepted(self) -> bool:
        """Whether it is proposed by default."""
        return self.verdict in ("geometry and colour", "geometry")

    def __str__(self) -> str:
        kind = "continuous" if self.fold == 0 else f"{self.fold}-fold"
        axis, point = (", ".join(f"{v * s:.4g}" for v in x) for x, s in ((self.axis, 1), (self.offset, 1000)))
        color = "" if self.color_difference is None else f", colour differs on {self.color_difference:.0%} of the surface"
        return (
            f"{kind} about axis ({axis}) through ({point}) mm: worst deviation {self.deviation * 1000:.2g} mm "
            f"= {self.share:.2%} of the diameter{color} [{self.verdict}{'' if self.accepted else ', not proposed'}]"
        )


class SymmetryProposal(NamedTuple):
    symmetries: Symmetries  # the accepted ones, as a whole group
    findings: list[SymmetryFinding]  # everything that was found, accepted or not


def propose_symmetries(model: ObjectModel, tolerance: float = 0.015, samples: int = 20_000, seed: int = 0) -> SymmetryProposal:
    """Rotations that move the surface of a model onto itself.

    Every symmetry axis of a body passes through the centroid of its surface and is a principal axis of inertia, so the
    candidates are the principal axes, the axes of the object frame, and, where two or three moments of inertia agree,
    a scan over all directions that they leave open. Each candidate is fitted to the surface (point-to-plane) and tried
    with any angle, with up to 120 parts of a turn that the Fourier coefficients of the surface's angles suggest, and with 36 to
    2 parts, by the exact distance of the turned surface to the surface. Where the model has colours they must agree too;
    rotations that only the shape allows are reported but not proposed. Only the surface that a camera outside can see counts:
    parts inside of others and faces between touching bodies do not.

    Args:
        model: with or without colours.
        tolerance: largest distance between the turned surface and the surface, as a share of the diameter. About an
            axis near which the whole body lies (a pencil) it is reduced to 5 % of the body's radius there.
        samples: points on the surface, for colours and fitting; distances are to its triangles.
        seed: of the samples.

    Returns:
        the proposed symmetries (two axes = a sphere), float32, and all findings.

    Source: the definition of BOP's models_info: Hodan et al., "BOP Challenge 2020", sec. 2.2 (there up to 10 % of the
    diameter, then judged by eye).
    """
    surface = _Surface(model, samples, seed)
    candidates = _candidates(surface)
    found: list[_Found] = []
    for n, (axis, folds) in enumerate(candidates):
        if _follows(axis, found):
            continue
        new = surface.best_fold(axis, folds, tolerance, near=n < 7)
        if new is None:
            continue
        found = _kept(found, new)
        if sum(f.fold == 0 and f.verdict != "nearly" for f in found) == 2:
            break  # a sphere: nothing more to learn
    found = _consistent(found, surface)
    findings = [f.public(model.diameter) for f in found]
    return SymmetryProposal(_group([f for f in found if f.public(1).accepted], surface, tolerance), findings)


class _Found(NamedTuple):
    fold: int
    axis: np.ndarray
    point: np.ndarray
    deviation: float
    color: float | None
    verdict: str

    def public(self, diameter: float) -> SymmetryFinding:
        axis, point = (np.round(v, 9) + 0.0 for v in (self.axis, self.point))
        return SymmetryFinding(
            self.fold,
            (float(axis[0]), float(axis[1]), float(axis[2])),
            (float(point[0]), float(point[1]), float(point[2])),
            self.deviation,
            self.deviation / diameter,
            self.color,
            self.verdict,
        )


def _visible(model: ObjectModel, samples: SurfaceSamples) -> Tensor:
    """Which samples of a surface a camera outside can see, (n,): those that are in front in a view from around it.

    A sample counts as seen where the rasterised surface at its pixel lies in its own tangent plane, within 0.3 % of the
    diameter, and no farther off than two pixels.
    """
    size = 320
    low, high = model.bounds
    middle, radius = (low + high) / 2, float((high - low).norm()) / 2
    unit = 1 / (2 * radius)  # in diameters of the box, so that the near plane suits every object
    vertices, points = (model.vertices - middle) * unit, (samples.points - middle) * unit
    distance, focal = 4.0, 3.7 * size
    K = torch.tensor([[focal, 0, (size - 1) / 2], [0, focal, (size - 1) / 2], [0, 0, 1.0]])
    views = fibonacci_sphere(120 if len(model.faces) <= 200_000 else 40)
    seen = torch.zeros(len(points), dtype=torch.bool)
    turns = torch.stack([look_at(direction) for direction in torch.cat([views, torch.eye(3), -torch.eye(3)])])
    for R in turns.split(1):
        left = torch.where(~seen)[0]
        if not len(left):
            break
        shift = torch.tensor([0.0, 0.0, distance])
        depth = rasterize(vertices @ R.transpose(1, 2) + shift, model.faces, K, (size, size)).depth[0]
        p = points[left] @ R[0].T + shift
        pixel = p[:, :2] / p[:, 2:] * focal + (size - 1) / 2
        column, row = pixel.round().long().clamp(0, size - 1).unbind(1)
        z = depth[row, column]
        ray = torch.stack([(column - K[0, 2]) / focal, (row - K[1, 2]) / focal, torch.ones(len(left))], 1)
        apart = ray * z[:, None] - p
        plane = (apart * (samples.normals[left] @ R[0].T)).sum(1).abs()
        seen[left] = (z > 0) & (plane < 0.003) & (apart.norm(dim=1) < 0.008)
    return seen


class _Surface:
    """Dense samples of a surface, and distances to it."""

    def __init__(self, model: ObjectModel, samples: int, seed: int) -> None:
        model = model.to("cpu")
        generator = torch.Generator().manual_seed(seed)
        drawn = surface_samples(model, samples, generator)
        seen = _visible(model, drawn)
        hidden = float((~seen).double().mean()) > HIDDEN_SHARE
        if hidden:
            more = surface_samples(model, 4 * samples, generator)
            seen = _visible(model, more)
            faces = torch.zeros(len(model.faces), dtype=torch.bool)
            faces[more.faces[seen]] = True
            drawn = SurfaceSamples(*(v[seen][:samples] for v in more))
            seen_points = more.points[seen].double().numpy()
            place = torch.cumsum(faces, 0) - 1
            drawn = drawn._replace(faces=place[drawn.faces])
            model = replace(model, faces=model.faces[faces])
        self.points = drawn.points.double().numpy()
        self.normals = drawn.normals.double().numpy()
        self.triangles = model.vertices.double().numpy()[model.faces.numpy()]
        self.tree = cKDTree(self.points)
        self.diameter = model.diameter
        area = np.linalg.norm(np.cross(*(self.triangles[:, k] - self.triangles[:, 0] for k in (1, 2))), axis=1)
        # distances look among the samples and the middles of faces, lest a small face have no point
        largest = np.argsort(-area)[:60_000]
        self.face = np.concatenate([drawn.faces.numpy(), largest])
        self.near = cKDTree(np.concatenate([self.points, self.triangles[largest].mean(1)]))
        area = area / area.sum()
        self.center = area @ self.triangles.mean(1)
        # second moments of the triangles, exactly: A/12 (sum of corners c c^T + 9 m m^T)
        corners = self.triangles - self.center
        mean = corners.mean(1)
        self.moments = (
            np.einsum("f,fki,fkj->ij", area, corners, corners) + 9 * np.einsum("f,fi,fj->ij", area, mean, mean)
        ) / 12
        if hidden:  # only parts of faces may be seen: by samples
            self.center = seen_points.mean(0)
            self.moments = (seen_points - self.center).T @ (seen_points - self.center) / len(seen_points)
        low, high = model.bounds.double().numpy()
        self.box_center = (low + high) / 2
        colors = albedo(model, drawn)
        self.colors = None
        if colors is not None:
            around = self.tree.query(self.points, k=12)[1]
            self.colors = colors.double().numpy()[around].mean(1)  # blurred: small misalignments must not count
            if np.ptp(self.colors, axis=0).max() < 1e-3:
                self.colors = None
        # vertices are where a shape ends: with them the tests see the tips that samples miss
        corner = np.unique(self.triangles.reshape(-1, 3), axis=0)
        if hidden:  # a corner may be hidden although its face is seen
            corner = corner[self.tree.query(corner)[0] < 0.02 * self.diameter]
        step = max(1, len(corner) // 1000)
        self.tests = np.concatenate([self.points[:1500], corner[::step]])
        self.few = self.tests[:: max(1, len(self.tests) // 120)]

    def distances(self, points: np.ndarray, k: int) -> np.ndarray:
        """Distance to the triangles that belong to the k nearest points of `near`, (N,), metres; never too small."""
        _, near = self.near.query(points, k=k)
        return _point_triangle(points[:, None], self.triangles[self.face[near]]).min(1)

    def worst(self, points: np.ndarray, at_most: float) -> float:
        """The largest distance to the surface, metres; any number above `at_most` if it is above.

        Looks closely only at the points that may decide it.
        """
        bound = self.distances(points, 3)
        order = np.argsort(-bound)
        largest = 0.0
        for some in np.array_split(order, max(1, len(order) // 48)):
            if bound[some[0]] <= largest or largest > at_most:
                break
            largest = max(largest, float(np.minimum(bound[some], self.distances(points[some], 40)).max()))
        return largest

    def deviation(self, R: np.ndarray, point: np.ndarray, at_most: float) -> float:
        """Worst distance of the surface turned by R and by its inverse, metres; any number above `at_most` if above."""
        there = self.worst((self.tests - point) @ R.T + point, at_most)
        return there if there > at_most else max(there, self.worst((self.tests - point) @ R + point, at_most))

    def rough_deviation(self, R: np.ndarray, point: np.ndarray) -> float:
        """A quick lower bound of `deviation`, from a few points that are spread widely."""
        moved = (self.few - point) @ R.T + point
        distance, near = self.near.query(moved, k=2)
        exact = _point_triangle(moved[:, None], self.triangles[self.face[near]]).min(1)
        return float(max(0.0, min(exact.max(), distance[:, 0].max()) - 0.01 * self.diameter))

    def color_difference(self, R: np.ndarray, point: np.ndarray) -> float | None:
        """Share of the surface whose colour changes visibly when it is turned."""
        if self.colors is None:
            return None
        some = slice(0, 6000)
        _, near = self.tree.query((self.points[some] - point) @ R.T + point)
        return float((np.abs(self.colors[near] - self.colors[some]).mean(1) > COLOR_DIFFERENCE).mean())

    def fitted(self, axis: np.ndarray, point: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """The axis nearby about which a turn by `angle` fits the surface best: point-to-plane steps on the whole motion."""
        R, t = _rotation(axis, angle), point - _rotation(axis, angle) @ point
        source = self.points[:1500]
        for step in range(8):
            moved = source @ R.T + t
            distance, near = self.tree.query(moved)
            keep = distance <= np.quantile(distance, 0.9 if step > 2 else 0.8)
            m, n = moved[keep] - point, self.normals[near[keep]]
            residual = ((moved[keep] - self.points[near[keep]]) * n).sum(1)
            J = np.concatenate([n * self.diameter, np.cross(m, n)], 1)
            H = J.T @ J
            delta = -np.linalg.solve(H + 1e-4 * np.trace(H) / 6 * np.eye(6), J.T @ residual)
            v, omega = delta[:3] * self.diameter, delta[3:]
            turn = _rotation(omega / max(np.linalg.norm(omega), 1e-300), float(np.linalg.norm(omega)))
            R, t = turn @ R, turn @ (t - point) + point + v
        values, vectors = np.linalg.eig(R)
        direction = np.real(vectors[:, np.argmin(np.abs(values - 1))])
        direction = direction / np.linalg.norm(direction)
        direction = direction if direction @ axis >= 0 else -direction
        exact = _rotation(direction, angle)
        # the point on the axis nearest to `point`: (I - R) p = t without the part along the axis
        shift = t - (point - exact @ point)
        shift = shift - (shift @ direction) * direction
        offset = np.linalg.lstsq(np.eye(3) - exact, shift, rcond=1e-9)[0]
        return direction, point + offset - (offset @ direction) * direction

    def tolerance_about(self, axis: np.ndarray, point: np.ndarray, tolerance: float) -> float:
        radius = float(np.linalg.norm(np.cross(self.tests - point, axis), axis=1).max())
        return float(np.clip(0.05 * radius, 0.2 * tolerance * self.diameter, tolerance * self.diameter))

    def best_fold(self, axis: np.ndarray, folds: tuple[int, ...], tolerance: float, near: bool) -> _Found | None:
        """What this axis, or one beside it, offers: continuous, else the highest fold, else (`near`) the nearest miss."""
        miss: _Found | None = None
        rough = math.inf
        if FOLDS[0] in folds:
            folds = (0, *self.many_folds(axis), *FOLDS)
        for fold in folds:
            for fit in (False, True):
                point = self.center
                if fit:
                    if fold not in (0, 2, 3, 5) or rough > NEAR * self.diameter:
                        continue
                    here, point = self.fitted(axis, point, 2 * math.pi / (fold or 7.3))
                else:
                    here = axis
                limit = self.tolerance_about(here, point, tolerance)
                reach = NEAR * self.diameter if near and fold in (0, 2) else limit
                deviation = self._turned(here, point, fold, reach)
                rough = deviation
                if deviation <= limit:
                    here, point, deviation = self._snapped(here, point, fold, deviation)
                    return self._judged(fold, here, point, deviation)
                if near and deviation <= reach and fold in (0, 2) and (miss is None or deviation < miss.deviation):
                    miss = _Found(fold, here, point, deviation, self._color(fold, here, point), "nearly")
        return miss

    def many_folds(self, axis: np.ndarray) -> list[int]:
        """Folds above 36 that the surface may have about an axis through its centre, highest first.

        n equal teeth make the angles of the surface periodic: their Fourier coefficient n stands out of the noise of the
        samples in some ring about the axis.
        """
        across = np.eye(3)[int(np.abs(axis).argmin())]
        first = np.cross(axis, across) / np.linalg.norm(np.cross(axis, across))
        off = self.points - self.center
        x, y = off @ first, off @ np.cross(axis, first)
        radius, angle = np.hypot(x, y), np.arctan2(y, x)
        orders = np.arange(FOLDS[0] + 1, MOST_FOLDS + 1)
        strength = np.zeros(len(orders))
        rings = np.array_split(np.argsort(radius), 10)
        turn = np.exp(1j * angle)
        wave = turn ** FOLDS[0]
        for i in range(len(orders)):  # powers by multiplication: exp would take ten times as long
            wave = wave * turn
            strength[i] = max(abs(wave[ring].sum()) / math.sqrt(max(len(ring), 1)) for ring in rings)
        best = np.argsort(-strength)[:8]
        return sorted((int(orders[i]) for i in best if strength[i] > 4), reverse=True)  # noise: 4 once in 10^7

    def _turns(self, fold: int) -> list[float]:
        """All powers up to half a turn (the inverses are the rest); a spread of angles for a continuous axis."""
        if fold:
            return [2 * math.pi * j / fold for j in range(1, fold // 2 + 1)]
        return [2 * math.pi * s for s in (1 / 2, 1 / 3, 0.0371, 0.0871, 0.1371, 0.2171)]

    def _turned(self, axis: np.ndarray, point: np.ndarray, fold: int, at_most: float) -> float:
        """Worst deviation over the turns of an axis; any number above `at_most` if it is above."""
        turns = [_rotation(axis, angle) for angle in self._turns(fold)]
        for R in turns:
            if (rough := self.rough_deviation(R, point)) > at_most:
                return rough
        worst = 0.0
        for R in turns:
            worst = max(worst, self.deviation(R, point, at_most))
            if worst > at_most:
                break
        return worst

    def _color(self, fold: int, axis: np.ndarray, point: np.ndarray) -> float | None:
        if self.colors is None:
            return None
        return max(self.color_difference(_rotation(axis, a), point) or 0.0 for a in self._turns(fold))

    def _judged(self, fold: int, axis: np.ndarray, point: np.ndarray, deviation: float) -> _Found:
        color = self._color(fold, axis, point)
        if color is None:
            return _Found(fold, axis, point, deviation, None, "geometry")
        if color <= COLOR_SHARE:
            return _Found(fold, axis, point, deviation, color, "geometry and colour")
        for lower in FOLDS if fold == 0 else [f for f in range(fold // 2, 1, -1) if fold % f == 0]:
            less = self._color(lower, axis, point)
            if less is not None and less <= COLOR_SHARE:
                return _Found(lower, axis, point, deviation, less, "geometry and colour")
        return _Found(fold, axis, point, deviation, color, "geometry only")

    def _snapped(
        self, axis: np.ndarray, point: np.ndarray, fold: int, deviation: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Prefer an axis of the frame, the box centre or the origin where they fit as well: a person will read it."""
        allowed = deviation + 5e-4 * self.diameter
        k = int(np.abs(axis).argmax())
        straight = np.eye(3)[k]
        directions = [straight] if abs(axis[k]) > math.cos(0.02) else []
        for direction in (*directions, axis if axis[k] > 0 else -axis):
            for origin in (np.zeros(3), self.box_center, point):
                lateral = origin - point - ((origin - point) @ direction) * direction
                if np.linalg.norm(lateral) > 0.02 * self.diameter:
                    continue
                worst = self._turned(direction, origin, fold, allowed)
                if worst <= allowed:
                    return direction, origin, worst
        return axis, point, deviation


def _candidates(surface: _Surface) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Directions to try and the folds that can occur there, promising ones first."""
    values, vectors = np.linalg.eigh(surface.moments)
    axes = [(axis, (0, *FOLDS)) for axis in (*np.eye(3), *vectors.T)]
    gaps = np.diff(values) / values[-1] < 0.1  # a tenth: scans and coarse meshes are not exact
    if gaps.all():  # a ball, a cube, ...: any direction; finite groups have folds 2 to 5 here
        hemisphere = fibonacci_sphere(1600, torch.float64).numpy()
        found = _scanned(surface, hemisphere[hemisphere[:, 2] >= -0.02], (2, 3, 5), most=40)
        axes += [(axis, (0, 5, 4, 3, 2)) for axis in found]
    elif gaps.any():  # a top: its own axis, and half turns across it
        main = vectors[:, 2 if gaps[0] else 0]
        first, second = vectors[:, 0 if gaps[0] else 1], vectors[:, 1 if gaps[0] else 2]
        angles = np.arange(180) * math.pi / 180
        circle = np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
        axes = [(main, (0, *FOLDS)), *axes]
        axes += [(axis, (2,)) for axis in _scanned(surface, circle, (2,), most=40)]
    return axes


def _scanned(surface: _Surface, directions: np.ndarray, folds: tuple[int, ...], most: int) -> list[np.ndarray]:
    """The directions at which a turn about the centroid fits better than at their neighbours, fitted to the surface."""
    some = surface.points[:160] - surface.center
    best = []
    near = np.abs(directions @ directions.T) > math.cos(0.12)
    for fold in folds:
        turns = np.stack([_rotation(d, 2 * math.pi / fold) for d in directions])
        moved = some @ turns.transpose(0, 2, 1) + surface.center
        cost = surface.tree.query(moved.reshape(-1, 3))[0].reshape(len(directions), -1).mean(1)
        lowest = np.where(near, cost[None], np.inf).min(1)
        best += [(cost[i], fold, i) for i in np.flatnonzero((cost <= lowest) & (cost < 0.05 * surface.diameter))]
    axes = []
    for _, fold, i in sorted(best)[:most]:
        axes.append(surface.fitted(directions[i], surface.center, 2 * math.pi / fold)[0])
    return axes


def _kept(found: list[_Found], new: _Found) -> list[_Found]:
    """Add a finding unless its axis is known; of two at the same axis the better one stays."""
    for i, old in enumerate(found):
        if abs(old.axis @ new.axis) > math.cos(0.07):

            def rank(f: _Found) -> tuple[bool, float, float]:
                return (f.verdict == "nearly", -math.inf if f.fold == 0 else -f.fold, f.deviation)

            return [*found[:i], min(old, new, key=rank), *found[i + 1 :]]
    return [*found, new]


def _follows(axis: np.ndarray, found: list[_Found]) -> bool:
    """Whether this half turn follows from a continuous axis and another half turn across it, both accepted."""
    good = [f for f in found if f.verdict in ("geometry", "geometry and colour")]
    return any(r.fold == 0 and f.fold and abs(r.axis @ f.axis) < 0.1 and abs(r.axis @ axis) < 0.1 for r in good for f in good)


def _consistent(found: list[_Found], surface: _Surface) -> list[_Found]:
    """Drop what a continuous axis already says: of all half turns across it one is enough."""
    rounds = [f for f in found if f.fold == 0 and f.verdict != "nearly"]
    if len(rounds) >= 2:
        return _orthogonal(rounds)
    if len(rounds) == 1:
        axis = rounds[0].axis
        across = [f for f in found if f.fold and abs(f.axis @ axis) < 0.1]
        order = ("geometry and colour", "geometry", "geometry only", "nearly")
        if rounds[0].verdict == "geometry only":
            return [rounds[0], *across]
        return [*rounds, *sorted(across, key=lambda f: order.index(f.verdict))[:1]]
    return found


def _orthogonal(rounds: list[_Found]) -> list[_Found]:
    """Two perpendicular axes through one centre: a sphere."""
    first, second = rounds[0], rounds[1]
    direction = second.axis - (second.axis @ first.axis) * first.axis
    return [first, second._replace(axis=direction / np.linalg.norm(direction), point=first.point)]


def group_of(findings: Sequence[SymmetryFinding], model: ObjectModel) -> Symmetries:
    """The symmetries that follow from findings which somebody has accepted: powers and products, not tried on the surface."""
    accepted = [_Found(f.fold, np.array(f.axis), np.array(f.offset), 0.0, None, f.verdict) for f in findings]
    center = model.bounds.double().mean(0).cpu().numpy()
    return _made_of(accepted, center, center, lambda R, point: True)


def _group(accepted: list[_Found], surface: _Surface, tolerance: float) -> Symmetries:
    """All motions that follow from the accepted axes: powers and products that the surface allows."""
    limit = 1.5 * tolerance * surface.diameter
    fits = lambda R, center: surface.deviation(R, center, limit) <= limit  # noqa: E731
    return _made_of(accepted, surface.center, surface.box_center, fits)


def _made_of(
    accepted: list[_Found], middle: np.ndarray, box_center: np.ndarray, fits: Callable[[np.ndarray, np.ndarray], bool]
) -> Symmetries:
    """All motions that follow from the accepted axes, without the identity; the strongest axis alone where products do not fit.

    Args:
        accepted: axes.
        middle: where axes meet if there is none, (3,), metres.
        box_center: which of the points of a single axis to take: the one nearest to it.
        fits: whether a rotation about a point moves the surface onto itself.
    """
    rounds = [f for f in accepted if f.fold == 0]
    finite = [f for f in accepted if f.fold]
    axes = torch.tensor(np.array([f.axis for f in rounds]).reshape(-1, 3), dtype=torch.float32)
    offsets = torch.tensor(np.array([f.point for f in rounds]).reshape(-1, 3), dtype=torch.float32)
    if len(rounds) >= 2:
        return Symmetries(axes=axes, offsets=offsets)
    center = _common_point(accepted, box_center) if accepted else middle
    generators = [_rotation(f.axis, 2 * math.pi / f.fold) for f in finite]
    elements = _closure(generators)
    if rounds and elements:
        elements = elements[:1]
    if len(finite) > 1 and not all(fits(R, center) for R in elements):
        best = max(finite, key=lambda f: f.fold)
        elements, center = _closure([_rotation(best.axis, 2 * math.pi / best.fold)]), best.point
    discrete = np.zeros((len(elements), 4, 4))
    for i, R in enumerate(elements):
        discrete[i, :3, :3], discrete[i, :3, 3], discrete[i, 3, 3] = R, center - R @ center, 1
    discrete[np.abs(discrete) < 1e-9] = 0
    return Symmetries(torch.from_numpy(discrete).float(), axes, offsets)


def _common_point(findings: list[_Found], box_center: np.ndarray) -> np.ndarray:
    """The point nearest to all axes, and to the box centre where they leave it open."""
    P = sum(np.eye(3) - np.outer(f.axis, f.axis) for f in findings) + 1e-9 * np.eye(3)
    q = sum((np.eye(3) - np.outer(f.axis, f.axis)) @ f.point for f in findings) + 1e-9 * box_center
    return np.linalg.solve(P, q)


def _closure(generators: list[np.ndarray]) -> list[np.ndarray]:
    """The finite group of rotations made by the generators, without the identity; the cyclic parts if it is no group."""
    elements = [np.eye(3)]
    smallest = min((math.acos(float(np.clip((np.trace(G) - 1) / 2, -1, 1))) for G in generators), default=math.pi)
    apart = min(0.1, smallest / 2)  # two elements are the same if nearer than this, radians
    most = 2 * MOST_FOLDS
    for R in elements:  # grows while it is walked
        for G in generators:
            new = G @ R
            if all(np.trace(new.T @ E) < 1 + 2 * math.cos(apart) for E in elements):
                elements.append(new)
        if len(elements) > most:
            return _closure(generators[:1]) if len(generators) > 1 else elements[1:most]
    return elements[1:]


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew


def _point_triangle(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Distances (...,) from points (..., 3) to triangles (..., 3, 3).

    Source: Ericson, "Real-Time Collision Detection", 2005, sec. 5.1.5.
    """
    a, b, c = (triangles[..., k, :] for k in range(3))
    square = np.full(np.broadcast_shapes(points.shape, a.shape)[:-1], np.inf)
    for p, q in ((a, b), (b, c), (c, a)):
        edge = q - p
        along = ((points - p) * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-300)
        off = points - p - along.clip(0, 1)[..., None] * edge
        square = np.minimum(square, (off * off).sum(-1))
    normal = np.cross(b - a, c - a)
    size = np.maximum((normal * normal).sum(-1), 1e-300)
    v = (np.cross(points - a, c - a) * normal).sum(-1) / size
    w = (np.cross(b - a, points - a) * normal).sum(-1) / size
    height = ((points - a) * normal).sum(-1) ** 2 / size
    return np.sqrt(np.where((v >= 0) & (w >= 0) & (v + w <= 1), np.minimum(height, square), square))


def group_size(symmetries: Symmetries) -> str:
    """A short text: 'none', '5 discrete', 'continuous about 1 axis, 1 discrete', 'sphere'."""
    axes, count = len(symmetries.axes), len(transforms(Symmetries(symmetries.discrete))) - 1
    if axes >= 2:
        return "sphere"
    words = ([f"continuous about {axes} axis"] if axes else []) + ([f"{count} discrete"] if count else [])
    return ", ".join(words) or "none"
