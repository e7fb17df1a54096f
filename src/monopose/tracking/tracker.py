"""Known objects from frame to frame: predict, fit the contour, ask whether it is still the object, learn its colours anew.

All objects of a frame are fitted in one batch, each in a square crop of its own, so that a fit takes the same time whatever the
size of the picture. Nothing is trained; the start is a pose from elsewhere.

Sources: Stoiber et al., SRT3D (IJCV 2022) for the step; Tian et al. (ECCV 2022) for the search after a large motion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..contour import colours, lines, points, scanlines
from ..geometry import camera as camera_ops
from ..geometry import se3
from ..mesh.loading import simplified
from ..render.raster import rasterize
from ..types import Frame, ObjectModel, PoseEstimates

Array = np.ndarray
SIDE = 256  # pixels of a crop
ROOM = 2.2  # side of a crop / size of the object in it
SMALL = 10.0  # pixels; a smaller object is not followed
SCHEDULE: lines.Schedule = ((5, 20.0), (3, 7.0), (2, 3.0), (1, 1.5), (1, 1.5))
SETTINGS = lines.Settings(amplitude=0.36, slope=0.0)  # SRT3D's for RBOT
COARSE = 2000  # triangles of what stands in front of another object
TOLERANCE = 0.01  # metres by which something must be in front of a contour to hide it
PATIENCE = 3  # frames of doubt after which an object is lost
DOUBT = 0.5  # probability of being lost from which a frame is one of doubt
FAR_DOUBT = 0.15  # the same for a pose that is a jump away from the last one: by more than REACH or half a diameter
REACH = math.radians(25)  # of the search after a doubtful frame
KEEP = 4  # of the poses searched, how many are fitted
REDETECT = 10  # frames between detections while something is lost
CORRELATED = 6.0  # lines are not independent: the covariance is that of the fit times this

# Logistic regression of "further than 5 cm or 5 degrees" on what a fit says, from `benchmarks/track.py --calibrate`
OFFSET, DOUBTS = 6.39, {"likelihood": -5.05, "used": -0.32, "distance": 0.21, "colours": -3.35}


class Track(NamedTuple):
    """One object in one frame.

    Args:
        label: object id.
        name: of the object.
        cam_from_obj: (4, 4), metres; the last good one while lost.
        covariance: of the tangent (v, omega) on the camera side, (6, 6), metres and radians.
        probability_lost: that the pose is further than 5 cm or 5 degrees from the truth.
        lost: whether the object counts as lost.
        reasons: what speaks against the pose, in words; () if nothing does.
    """

    label: int
    name: str
    cam_from_obj: Tensor
    covariance: Tensor
    probability_lost: float
    lost: bool
    reasons: tuple[str, ...]


@dataclass
class _State:
    """What is remembered of an object."""

    model: ObjectModel
    views: points.Views
    coarse: ObjectModel
    still: Array
    started: bool = False
    pose: Array = field(default_factory=lambda: np.eye(4))  # the last one believed
    velocity: Array = field(default_factory=lambda: np.zeros(6))  # tangent per frame
    foreground: Array = field(default_factory=lambda: np.zeros(0))  # histograms of now, and of the start
    background: Array = field(default_factory=lambda: np.zeros(0))
    reference: Array = field(default_factory=lambda: np.zeros(0))
    covariance: Array = field(default_factory=lambda: np.eye(6))
    doubts: int = 0
    lost: bool = True
    since: int = 0  # frames since it was lost
    probability: float = 1.0
    reasons: tuple[str, ...] = ("not started",)
    evidence: Evidence | None = None


class Evidence(NamedTuple):
    """What speaks for the poses of B objects after a fit, each (B,): see `lines.Fitted`; colours: similarity to those known."""

    likelihood: Array
    used: Array
    distance: Array
    colours: Array


class Crop(NamedTuple):
    """A square of the picture, (SIDE, SIDE): bin of every colour, which pixels lie inside the picture, and its camera."""

    bins: Array
    inside: Array
    K: Array


class Tracker:
    """Follow objects through a video.

    Args:
        models: the objects, one track each; the same model twice gives two tracks.
        detect: picture -> poses, called while something is lost, such as `Pipeline.predict`; None: a lost object is only
            looked for around where it was last seen.
        cache: folder for the contours of the models, which take some seconds each to make; None: they are made anew.
        views: directions that contours are made from.

    A frame that comes to `step` before `start` is looked at with `detect`.
    """

    def __init__(
        self,
        models: Sequence[ObjectModel],
        detect: Callable[[Frame], PoseEstimates] | None = None,
        cache: str | Path | None = None,
        views: int = points.VIEWS,
    ) -> None:
        if not models:
            raise ValueError("no models; a tracker needs at least one object to follow")
        self.detect = detect
        self.states = [
            _State(
                m, points.views_of(m, cache, views), simplified(m, COARSE),
                lines.still_of(m.symmetries.axes, m.symmetries.offsets),
            )
            for m in models
        ]  # fmt: skip
        self.frames = 0
        self.seconds = 0.0

    def start(self, frame: Frame, cam_from_obj: Mapping[int, Tensor] | Sequence[Tensor | None]) -> None:
        """Tell where objects are in a frame; their colours are learnt there.

        Args:
            frame: the picture and its camera, undistorted.
            cam_from_obj: poses (4, 4), metres, by the row of the model; None or absent: not told.

        Raises:
            ValueError: a pose is not finite, or behind the camera.
        """
        told = cam_from_obj if isinstance(cam_from_obj, Mapping) else dict(enumerate(cam_from_obj))
        for i, pose in told.items():
            if pose is None:
                continue
            given = torch.as_tensor(pose).double().cpu().numpy()
            if given.shape != (4, 4) or not np.isfinite(given).all() or given[2, 3] <= 0:
                raise ValueError(
                    f"the start of {self.states[i].model.name} must be a finite (4, 4) cam_from_obj in metres before the "
                    f"camera (z > 0), got {given.tolist()}"
                )
            _begin(self.states[i], frame, _orthonormal(given))

    def step(self, frame: Frame) -> list[Track]:
        """Where the objects are in the next frame.

        Args:
            frame: the picture and its camera, undistorted; the size may change.

        Returns:
            a Track for every model, in their order.
        """
        began = time.perf_counter()
        follow = [s for s in self.states if s.started]
        if follow:
            advance(follow, frame, leap=self.detect is None)
        missing = [s for s in self.states if s.lost]
        if missing and self.detect is not None and any(s.since % REDETECT == 0 for s in missing):
            _recover(missing, frame, self.detect(frame), self.states)
        for s in missing:
            s.since += 1
        self.frames += 1
        self.seconds = time.perf_counter() - began
        return [_track(s) for s in self.states]


def advance(states: Sequence[_State], frame: Frame, leap: bool = True) -> None:
    """One frame further, in place: states that have a pose. `leap`: lost ones may be found again far from where they were."""
    last = np.stack([s.pose for s in states])
    ahead = lines.moved(last, np.stack([s.velocity for s in states]))
    usable = [i for i, s in enumerate(states) if _sees(s, ahead[i], frame)]
    for i, s in enumerate(states):
        if i not in usable:
            _doubt(s, 1.0, _why_unseen(s, ahead[i], frame))
    if not usable:
        return
    states, last, ahead = [states[i] for i in usable], last[usable], ahead[usable]
    crops = [_crop(frame, s, pose) for s, pose in zip(states, ahead)]
    K = np.stack([c.K for c in crops])
    index = np.stack([c.bins for c in crops])
    maps = _maps(states, crops, index, _in_front(states, ahead, K))
    count = len(states)
    # the object goes on as it did, or stops: both are fitted, the better one is taken
    found = _fit(states, np.concatenate([ahead, last]), K, maps, np.tile(np.arange(count), 2))
    first = found.likelihood[:count] >= found.likelihood[count:]
    fitted = _chosen(found, np.where(first, np.arange(count), np.arange(count) + count))
    evidence, hist = _evidence(states, fitted, K, index, maps)
    doubt = probability_lost(evidence)
    for b in np.flatnonzero(doubt > DOUBT).tolist():
        better = _searched(states[b], ahead[b], K[b], maps, b)
        e, h = _evidence([states[b]], better, K[b : b + 1], index[b : b + 1], _only(maps, b))
        p = probability_lost(e)
        if p[0] < doubt[b]:
            doubt[b] = p[0]
            fitted = lines.Fitted(*(_put(a, b, v[0]) for a, v in zip(fitted, better)))
            evidence = Evidence(*(_put(a, b, v[0]) for a, v in zip(evidence, e)))
            hist = (_put(hist[0], b, h[0][0]), _put(hist[1], b, h[1][0]))
    jump = lines.difference(fitted.cam_from_obj, last)
    far = np.linalg.norm(jump[:, 3:], axis=1) > REACH
    far |= np.linalg.norm(jump[:, :3], axis=1) > 0.5 * np.array([s.model.diameter for s in states])
    for b, s in enumerate(states):
        s.evidence = Evidence(*(v[b] for v in evidence))
        if doubt[b] > (FAR_DOUBT if far[b] else DOUBT) or (far[b] and s.lost and not leap):
            _doubt(s, float(doubt[b]), reasons(s.evidence))
            continue
        pose = fitted.cam_from_obj[b]
        moved = lines.difference(pose[None], last[b][None])[0]
        s.velocity = moved if s.doubts == 0 and not s.lost else np.zeros(6)
        s.pose, s.doubts, s.lost, s.since, s.probability, s.reasons = pose, 0, False, 0, float(doubt[b]), ()
        s.covariance = np.linalg.inv(fitted.information[b] + np.diag([1e-3] * 6)) * CORRELATED
        s.foreground = (1 - colours.RATE) * s.foreground + colours.RATE * hist[0][b]
        s.background = (1 - colours.RATE) * s.background + colours.RATE * hist[1][b]


def probability_lost(evidence: Evidence) -> Array:
    """That poses are further than 5 cm or 5 degrees from the truth, (B,)."""
    z = OFFSET + sum(DOUBTS[name] * getattr(evidence, name) for name in Evidence._fields)
    return 1 / (1 + np.exp(-np.clip(z, -50, 50)))


def reasons(evidence: Evidence) -> tuple[str, ...]:
    """In words, what is unusual about one object's evidence."""
    out = []
    if evidence.used < 0.5:
        out.append(f"an edge on only {evidence.used:.0%} of its contour")
    if evidence.colours < 0.6:
        out.append(f"its colours are not those it had (similarity {evidence.colours:.2f})")
    if evidence.distance > 2.0:
        out.append(f"edges {evidence.distance:.1f} pixels beside its contour")
    return tuple(out) or ("its edges are weak",)


def _begin(state: _State, frame: Frame, pose: Array) -> None:
    state.started, state.pose, state.velocity, state.doubts, state.lost, state.since = True, pose, np.zeros(6), 0, False, 0
    state.probability, state.reasons = 0.0, ()
    state.foreground, state.background = _colours_at(state, frame, pose)
    state.reference = state.foreground


def _colours_at(state: _State, frame: Frame, pose: Array) -> tuple[Array, Array]:
    crop = _crop(frame, state, pose)
    contour = points.looked_up([state.views], [0])(pose[None])
    front = np.full((1, SIDE, SIDE), np.inf, np.float32)
    f, b = colours.histograms_of_contour(crop.bins[None], contour, pose[None], crop.K[None], np.zeros(1, np.int64), front)
    return f[0], b[0]


def _track(s: _State) -> Track:
    return Track(
        s.model.obj_id, s.model.name, torch.from_numpy(s.pose.copy()).float(), torch.from_numpy(s.covariance.copy()).float(),
        s.probability, s.lost, s.reasons,
    )  # fmt: skip


def _doubt(s: _State, probability: float, why: tuple[str, ...]) -> None:
    s.doubts += 1
    s.probability, s.reasons = max(probability, DOUBT), why
    s.velocity = np.zeros(6)
    s.lost = s.lost or s.doubts >= PATIENCE


def _fit(states: Sequence[_State], poses: Array, K: Array, maps: lines.Maps, map_of: Array) -> lines.Fitted:
    at = points.looked_up([s.views for s in states], map_of.tolist())
    still = [states[m].still for m in map_of]
    return lines.fit(at, poses, K[map_of], maps, map_of, SCHEDULE, still=still, settings=SETTINGS)


def _searched(state: _State, pose: Array, K: Array, maps: lines.Maps, which: int) -> lines.Fitted:
    """The best pose around one that is in doubt."""
    own = _only(maps, which)
    edges = scanlines.table(own.probability)
    starts = scanlines.tilted(pose[None], REACH, REACH)[0]
    zero = np.zeros(len(starts), np.int64)
    at = points.looked_up([state.views], zero.tolist())
    ends, energy = scanlines.descend(edges, at, starts, np.repeat(K[None], len(starts), 0), zero, 15, scanlines.WIDE)
    best = np.argsort(energy)[:KEEP]
    found = _fit([state], ends[best], K[None], own, np.zeros(len(best), np.int64))
    return _chosen(found, np.array([found.likelihood.argmax()]))


def _evidence(
    states: Sequence[_State], fitted: lines.Fitted, K: Array, index: Array, maps: lines.Maps
) -> tuple[Evidence, tuple[Array, Array]]:
    each = np.arange(len(states))
    contour = points.looked_up([s.views for s in states], each.tolist())(fitted.cam_from_obj)
    now = colours.histograms_of_contour(index, contour, fitted.cam_from_obj, K, each, maps.front)
    known = np.stack([s.foreground for s in states])
    first = np.stack([s.reference for s in states])
    same = np.maximum(np.sqrt(now[0] * known).sum(1), np.sqrt(now[0] * first).sum(1))
    return Evidence(fitted.likelihood, fitted.used, fitted.distance, same), now


def _maps(states: Sequence[_State], crops: Sequence[Crop], index: Array, front: Array) -> lines.Maps:
    p = colours.posterior(index, np.stack([s.foreground for s in states]), np.stack([s.background for s in states]))
    inside = np.stack([c.inside for c in crops])
    return lines.maps_of(np.where(inside, p, 0.5), front)


def _in_front(states: Sequence[_State], poses: Array, K: Array) -> Array:
    """Depth of the other objects in each one's crop, `TOLERANCE` further, (B, SIDE, SIDE); infinite where none is."""
    front = np.full((len(states), SIDE, SIDE), np.inf, np.float32)
    spheres = [(pose[:3, :3] @ s.views.centre + pose[:3, 3], s.model.diameter / 2) for s, pose in zip(states, poses)]
    for b in range(len(states)):
        for o in range(len(states)):
            (mine, r), (other, q) = spheres[b], spheres[o]
            if o == b or other[2] - q > mine[2] + r or other[2] <= q:
                continue
            apart = np.linalg.norm(mine[:2] / mine[2] - other[:2] / other[2])
            if apart > 1.2 * (r / mine[2] + q / other[2]):
                continue
            vertices = se3.transform(torch.from_numpy(poses[o]).float(), states[o].coarse.vertices)[None]
            half = K[b].copy()
            half[:2] /= 2
            depth = rasterize(vertices, states[o].coarse.faces, torch.from_numpy(half), (SIDE // 2, SIDE // 2)).depth[0].numpy()
            further = np.where(depth > 0, depth + TOLERANCE, np.inf).repeat(2, 0).repeat(2, 1)
            front[b] = np.minimum(front[b], further)
    return front


def _crop(frame: Frame, state: _State, pose: Array) -> Crop:
    """The square around an object at a pose, shrunk to SIDE where it is larger."""
    import cv2

    K = frame.camera.K.double().cpu().numpy()
    centre = pose[:3, :3] @ state.views.centre + pose[:3, 3]
    u, v = (K @ centre)[:2] / centre[2]
    size = K[0, 0] * state.model.diameter / centre[2]
    side = max(SIDE, math.ceil(ROOM * float(size)))
    x0, y0 = round(float(u) - side / 2), round(float(v) - side / 2)
    height, width = frame.camera.size
    left, right = (min(max(x, 0), width) for x in (x0, x0 + side))
    top, bottom = (min(max(y, 0), height) for y in (y0, y0 + side))
    piece = (frame.image[:, top:bottom, left:right].clamp(0, 1) * 255).to(torch.uint8)
    canvas = np.zeros((side, side, 3), np.uint8)
    inside = np.zeros((side, side), np.uint8)
    if piece.numel():
        canvas[top - y0 : bottom - y0, left - x0 : right - x0] = piece.permute(1, 2, 0).cpu().numpy()
        inside[top - y0 : bottom - y0, left - x0 : right - x0] = 1
    if side > SIDE:
        canvas = np.asarray(cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
        inside = np.asarray(cv2.resize(inside, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)
    box = torch.tensor([x0, y0, x0 + side, y0 + side], dtype=torch.float64)
    own = camera_ops.crop_resize_K(torch.from_numpy(K), box, (SIDE, SIDE)).numpy()
    return Crop(colours.bins(canvas), inside > 0, own)


def _sees(state: _State, pose: Array, frame: Frame) -> bool:
    return not _why_unseen(state, pose, frame)


def _why_unseen(state: _State, pose: Array, frame: Frame) -> tuple[str, ...]:
    """Why an object at a pose cannot be followed, () if it can."""
    if not np.isfinite(pose).all():
        return ("its pose is not finite",)
    K = frame.camera.K.double().cpu().numpy()
    centre = pose[:3, :3] @ state.views.centre + pose[:3, 3]
    if centre[2] < 0.6 * state.model.diameter:
        return ("it is at the camera or behind it",)
    u, v = (K @ centre)[:2] / centre[2]
    height, width = frame.camera.size
    if not (0 <= u < width and 0 <= v < height):
        return ("its centre has left the picture",)
    if K[0, 0] * state.model.diameter / centre[2] < SMALL:
        return (f"it is smaller than {SMALL:.0f} pixels",)
    return ()


def _recover(missing: Sequence[_State], frame: Frame, poses: PoseEstimates, everyone: Sequence[_State]) -> None:
    """Start lost objects where a detector has found them, unless another track is there or there are no such edges."""
    taken = [s.pose for s in everyone if not s.lost]
    for s in missing:
        for i in range(len(poses)):
            pose = _orthonormal(poses.cam_from_obj[i].double().cpu().numpy())
            if int(poses.labels[i]) != s.model.obj_id or _why_unseen(s, pose, frame):
                continue
            if any(np.linalg.norm(pose[:3, 3] - t[:3, 3]) < 0.3 * s.model.diameter for t in taken):
                continue
            new = replace(s)
            _begin(new, frame, pose)
            if not _confirmed(new, frame):
                continue
            s.__dict__.update(new.__dict__)
            taken.append(s.pose)
            break


def _confirmed(new: _State, frame: Frame) -> bool:
    """Whether the picture has an object's edges where a start says, judged by the colours that it has there; moves it there."""
    crop = _crop(frame, new, new.pose)
    free = np.full((1, SIDE, SIDE), np.inf, np.float32)
    maps = _maps([new], [crop], crop.bins[None], free)
    fitted = _fit([new], new.pose[None], crop.K[None], maps, np.zeros(1, np.int64))
    evidence, _ = _evidence([new], fitted, crop.K[None], crop.bins[None], maps)
    if probability_lost(evidence)[0] > DOUBT:
        return False
    _begin(new, frame, fitted.cam_from_obj[0])
    return True


def _orthonormal(pose: Array) -> Array:
    U, _, Vt = np.linalg.svd(pose[:3, :3])
    out = np.eye(4)
    out[:3, :3] = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
    out[:3, 3] = pose[:3, 3]
    return out


def _chosen(found: lines.Fitted, rows: Array) -> lines.Fitted:
    return lines.Fitted(*(value[rows] for value in found))


def _only(maps: lines.Maps, which: int) -> lines.Maps:
    return lines.Maps(*(np.ascontiguousarray(value[which : which + 1]) for value in maps))


def _put(values: Array, row: int, value: Array) -> Array:
    out = values.copy()
    out[row] = value
    return out
