"""Known objects from frame to frame: predict, fit the contour, ask whether it is still the object, learn its colours anew.

All objects of a frame are fitted in one batch, each in a square crop of its own, so that a fit takes the same time whatever the
size of the picture. Nothing is trained on them; the start is a pose from elsewhere. Where a contour is in doubt, the network of
`objects.silhouettes`, if it is there, sees a drawing of the object beside the photo.

Sources: Stoiber et al., SRT3D (IJCV 2022) for the step; Tian et al. (ECCV 2022) for the search after a large motion.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..contour import colours, lines, points, scanlines
from ..geometry import camera as camera_ops
from ..geometry import se3, symmetry
from ..mesh.loading import simplified
from ..objects import silhouettes
from ..render.raster import rasterize
from ..types import Frame, ObjectModel, PoseEstimates
from . import background, features

if TYPE_CHECKING:
    from ..objects.pipeline import Pipeline

Array = np.ndarray
SIDE = 256  # pixels of a crop
ROOM = 2.2  # side of a crop / size of the object in it
SMALL = 10.0  # pixels; a smaller object is not followed
SCHEDULE: lines.Schedule = ((5, 20.0), (3, 7.0), (2, 3.0), (1, 1.5), (1, 1.5))
SETTINGS = lines.Settings(amplitude=0.36, slope=0.0)  # SRT3D's for RBOT
COARSE = 2000  # triangles of what stands in front of another object
COARSE_CELL = 4  # pixels of a crop that are one when a silhouette is looked for in it
TOLERANCE = 0.01  # metres by which something must be in front of a contour to hide it
PATIENCE = 3  # frames of doubt after which an object is lost
SURE = 0.1  # probability of being lost up to which no other start is tried
SEARCH = 0.3  # the same from which the poses around are searched
DOUBT = 0.5  # probability of being lost from which a frame is one of doubt
CONFIRMED = 0.25  # the same up to which a detection becomes a track
FAR_DOUBT = 0.15  # the same for a pose that is a jump away from the last one: by more than REACH or half a diameter
REACH = math.radians(25)  # of the search after a doubtful frame
KEEP = 4  # of the poses searched, how many are fitted
EVERY = 30  # frames between two looks of the detector
REDETECT = 10  # the same while something has been lost for less than LATELY frames
LATELY = 90
CATCH_UP = 8  # of the frames since the detector was asked, how many are tracked through to reach the present
HISTORY = 150  # frames after which an answer comes too late
AGREE = math.radians(25)  # between the detector's rotation and the track's
SEARCHED = 4  # an object that has been lost for EVERY frames is looked for around its last place in every so many
LIKE = math.log(0.5)  # how like the photo an object counts that the network has not looked at: neither for nor against it
MORE = math.log(1.5)  # a pose that is so much more like the photo than where the object was or should be is no jump
UNLIKE = math.log(0.02)  # the least
LOOK = 10  # frames between two looks of the network at a track that is sure
CORRELATED = 6.0  # lines are not independent: the covariance is that of the fit times this

# Logistic regression of "further than 5 cm or 5 degrees" on what a fit says, from `benchmarks/track.py --calibrate`
OFFSET = 2.76
DOUBTS = {
    "likelihood": -4.09, "used": 0.74, "agree": -0.39, "distance": 0.80, "colours": -3.71, "contrast": -2.12, "jump": 3.76,
    "like": -2.5,
}  # fmt: skip


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
    network: silhouettes.Model | None
    started: bool = False
    pose: Array = field(default_factory=lambda: np.eye(4))  # the last one believed
    velocity: Array = field(default_factory=lambda: np.zeros(6))  # tangent per frame
    foreground: Array = field(default_factory=lambda: np.zeros(0))  # histograms of now, and of the start
    background: Array = field(default_factory=lambda: np.zeros(0))
    reference: Array = field(default_factory=lambda: np.zeros(0))
    covariance: Array = field(default_factory=lambda: np.eye(6))
    like: float = LIKE  # see `Evidence`
    blind: int = 0  # frames since the network looked
    doubts: int = 0
    lost: bool = True
    since: int = 0  # frames since it was lost
    probability: float = 1.0
    reasons: tuple[str, ...] = ("not started",)
    evidence: Evidence | None = None
    keyframes: tuple[features.Keyframe, ...] = ()
    plain: int = 0  # frames until a keyframe is tried for again
    against: int = 0  # looks of the detector, one after the other, that saw it turned otherwise


class Evidence(NamedTuple):
    """What speaks for and against the poses of B objects after a fit, each (B,).

    likelihood, used, agree, distance: see `lines.Fitted`; colours: similarity to those known, 0 to 1; contrast: how much
    likelier the object is inside of the contour than outside, by its colours, -1 to 1; jump: from where the motion leads,
    radians and diameters added; like: logarithm of `silhouettes.likeness` to the photo, when the network last looked.
    """

    likelihood: Array
    used: Array
    agree: Array
    distance: Array
    colours: Array
    contrast: Array
    jump: Array
    like: Array


class Crop(NamedTuple):
    """A square of the picture, (SIDE, SIDE): bins of its colours, grey values, which pixels the picture has; its camera."""

    bins: Array
    grey: Array
    inside: Array
    K: Array


class Tracker:
    """Follow objects through a video.

    Args:
        models: the objects, one track each, the same model twice gives two tracks; or a run of known objects, whose
            detector then finds them.
        detect: picture -> poses, such as `detect_of`; or one of `tracking.background`, which says when it looks and
            when its answer comes. It looks at one frame in `EVERY`, and more often while something is lost: it finds what is
            new or lost, and checks what is tracked. None: a lost object is only looked for around where it was last seen.
        cache: folder for the contours of the models, which take some seconds each to make; None: they are made anew.
        views: directions that contours are made from.

    A frame that comes to `step` before `start` is looked at with `detect`.
    """

    def __init__(
        self,
        models: Sequence[ObjectModel] | Pipeline,
        detect: background.Detect | background.Detector | None = None,
        cache: str | Path | None = None,
        views: int = points.VIEWS,
    ) -> None:
        network = silhouettes.of_base() if isinstance(models, Sequence) else models.silhouettes
        if not isinstance(models, Sequence):
            detect = detect_of(models) if detect is None and models.detector is not None else detect
            models = list(models.models.values())
        if not models:
            raise ValueError("no models; a tracker needs at least one object to follow, with its CAD model")
        self.detector = background.Inline(detect) if callable(detect) else detect
        self.states = [
            _State(
                m, points.views_of(m, cache, views), simplified(m, COARSE),
                lines.still_of(m.symmetries.axes, m.symmetries.offsets), network,
            )
            for m in models
        ]  # fmt: skip
        self.frames = 0
        self.seconds = 0.0
        self.asked = -EVERY
        self.answers: list[background.Answer] = []
        self.since: list[tuple[int, Frame]] = []  # the frame that the detector was asked about, and those after it
        self.history: deque[tuple[int, list[Array | None]]] = deque(maxlen=HISTORY)

    def close(self) -> None:
        """End the detector."""
        if self.detector is not None:
            self.detector.close()

    def start(self, frame: Frame, cam_from_obj: Mapping[int, Tensor] | Sequence[Tensor | None]) -> None:
        """Tell where objects are in a frame; their colours are learnt there.

        Args:
            frame: the picture and its camera, undistorted.
            cam_from_obj: poses (4, 4), metres, by the row of the model; None or absent: not known.

        Raises:
            ValueError: a pose is not finite, or behind the camera.
        """
        poses = cam_from_obj if isinstance(cam_from_obj, Mapping) else dict(enumerate(cam_from_obj))
        for i, pose in poses.items():
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
        if self.detector is not None:
            self._listen(self.detector)
        follow = [s for s in self.states if s.started]
        if follow:
            advance(follow, frame, leap=self.detector is None)
        for s in self.states:
            s.since = s.since + 1 if s.lost else 0
        self.history.append((self.frames, [None if s.lost else s.pose for s in self.states]))
        if self.detector is not None:
            self._ask(self.detector, frame)
        self.frames += 1
        self.seconds = time.perf_counter() - began
        return [_track(s) for s in self.states]

    def _ask(self, detector: background.Detector, frame: Frame) -> None:
        """Let the detector look if it is time, and keep what comes until it answers."""
        lately = any(s.lost and s.started and s.since < LATELY for s in self.states)
        if not detector.busy() and self.frames - self.asked >= (REDETECT if lately else EVERY):
            self.asked, self.since = self.frames, []
            detector.ask(self.frames, frame)
        if detector.busy():
            self.since.append((self.frames, _small(frame)))
            if len(self.since) > 4 * CATCH_UP:
                self.since = self.since[::2]

    def _listen(self, detector: background.Detector) -> None:
        """What the detector has seen some frames ago: start what was missing, check the rest, bring both to the present."""
        answer = detector.answer(self.frames)
        if answer is None:
            return
        self.answers.append(answer)
        (_, frame), *later = self.since
        then = next((poses for index, poses in self.history if index == answer.asked), None)
        if then is None or len(answer.poses) == 0:
            return
        chosen: list[int] = np.unique(np.linspace(0, len(later) - 1, CATCH_UP).round().astype(int)).tolist() if later else []
        path = [later[i][1] for i in chosen]
        taken = [pose for pose in then if pose is not None]
        for s, pose in zip(self.states, then):
            if s.lost:
                _recover(s, frame, answer.poses, taken, path)
            elif pose is not None:
                _check(s, pose, frame, answer.poses, path)


def detect_of(run: Pipeline) -> background.Detect:
    """How a run looks at a frame of a video: once, without the refiner, which takes longer than a frame lasts."""
    return lambda frame: run.predict(frame, looks=1, refine=False)


def advance(states: Sequence[_State], frame: Frame, leap: bool = True) -> None:
    """One frame further, in place: states that have a pose. `leap`: lost ones may be found again far from where they were."""
    last = np.stack([s.pose for s in states])
    ahead = lines.moved(last, np.stack([s.velocity for s in states]))
    usable = [i for i, s in enumerate(states) if _sees(s, ahead[i], frame) and (s.since < EVERY or s.since % SEARCHED == 0)]
    for i, s in enumerate(states):
        if i not in usable:
            _doubt(s, 1.0, _why_unseen(s, ahead[i], frame) or s.reasons)
    if not usable:
        return
    states, last, ahead = [states[i] for i in usable], last[usable], ahead[usable]
    crops = [_crop(frame, s, pose) for s, pose in zip(states, ahead)]
    K = np.stack([c.K for c in crops])
    index = np.stack([c.bins for c in crops])
    maps = _maps(states, crops, index, _in_front(states, ahead, K))
    count = len(states)
    matches = [_matched(s, c, pose) for s, c, pose in zip(states, crops, ahead)]
    fitted = _fit(states, ahead, K, maps, np.arange(count), matches)
    evidence, hist = _evidence(states, fitted, np.array([s.like for s in states]), ahead, K, index, maps)
    doubt = probability_lost(evidence)

    def take(b: int, better: lines.Fitted, like: Array | None = None) -> None:
        """Put a fit of object b in place of the one so far if it is believed more."""
        nonlocal fitted, evidence, hist
        like = evidence.like[b : b + 1] if like is None else like
        one, h = _evidence([states[b]], better, like, ahead[b : b + 1], K[b : b + 1], index[b : b + 1], _only(maps, b))
        p = probability_lost(one)[0]
        if p < doubt[b]:
            doubt[b] = p
            fitted = lines.Fitted(*(_put(a, b, v[0]) for a, v in zip(fitted, better)))
            evidence = Evidence(*(_put(a, b, v[0]) for a, v in zip(evidence, one)))
            hist = (_put(hist[0], b, h[0][0]), _put(hist[1], b, h[1][0]))

    for b in np.flatnonzero(doubt > SURE).tolist():  # it stopped, or is where its colours are
        starts = np.stack([last[b], *_shifted(states[b], ahead[b], K[b], maps.probability[b])])
        zero = np.zeros(len(starts), np.int64)
        found = _fit([states[b]], starts, K[b : b + 1], _only(maps, b), zero, [matches[b]])
        take(b, _chosen(found, np.array([found.likelihood.argmax()])))
    for b in np.flatnonzero(doubt > SEARCH).tolist():
        take(b, _searched(states[b], fitted.cam_from_obj[b], K[b], maps, b, matches[b]))
    seen = np.zeros(count, bool)  # the network sees that it has moved
    for b in _unsure(states, doubt):
        starts = np.stack([fitted.cam_from_obj[b], ahead[b], last[b]])[: 3 if doubt[b] > SURE else 1]
        likes = _like(states[b], frame, starts)
        evidence = evidence._replace(like=_put(evidence.like, b, likes[0]))
        doubt[b] = probability_lost(evidence)[b]
        if doubt[b] > SURE:
            take(b, *_led(states[b], frame, starts[likes.argmax()], crops[b], maps.front[b], matches[b]))
        seen[b] = len(likes) > 1 and evidence.like[b] > likes[1:].max() + MORE
        states[b].like, states[b].blind = float(evidence.like[b]), 0
    jump = lines.difference(fitted.cam_from_obj, last)
    far = np.linalg.norm(jump[:, 3:], axis=1) > REACH
    far |= np.linalg.norm(jump[:, :3], axis=1) > 0.5 * np.array([s.model.diameter for s in states])
    far &= ~seen
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
        _remember(s, crops[b], maps.front[b])


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
    if evidence.like < math.log(0.2):
        out.append(f"the photo is unlike a drawing of it (likeness {math.exp(evidence.like):.2f})")
    return tuple(out) or ("its edges are weak",)


def _begin(state: _State, frame: Frame, pose: Array) -> None:
    state.keyframes, state.plain, state.against = (), 0, 0
    state.started, state.pose, state.velocity, state.doubts, state.lost, state.since = True, pose, np.zeros(6), 0, False, 0
    state.probability, state.reasons, state.like, state.blind = 0.0, (), LIKE, 0
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


def _shifted(state: _State, pose: Array, K: Array, probability: Array) -> list[Array]:
    """The pose moved in the picture to where a map agrees best with its silhouette, if that is somewhere else."""
    import cv2

    coarse = SIDE // COARSE_CELL
    small = K.copy()
    small[:2] /= COARSE_CELL
    vertices = se3.transform(torch.from_numpy(pose).float(), state.coarse.vertices)[None]
    inside = rasterize(vertices, state.coarse.faces, torch.from_numpy(small), (coarse, coarse)).face[0].numpy() >= 0
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return []
    edge = 2
    mask = np.pad(inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32), edge)
    around = np.asarray(cv2.dilate(mask, np.ones((2 * edge + 1, 2 * edge + 1)))) - mask
    template = (mask / mask.sum() - around / max(around.sum(), 1)).astype(np.float32)
    wanted = cv2.resize(probability, (coarse, coarse), interpolation=cv2.INTER_AREA)
    room = np.pad(wanted, coarse // 4, constant_values=0.5)
    score = np.asarray(cv2.matchTemplate(room, template, cv2.TM_CCORR))
    v, u = np.unravel_index(score.argmax(), score.shape)
    move = COARSE_CELL * (np.array([u, v]) - coarse // 4 + edge - [columns[0], rows[0]])
    if np.abs(move).max() <= COARSE_CELL:
        return []
    new = pose.copy()
    new[:2, 3] += move * pose[2, 3] / K[0, 0]
    return [new]


def _fit(
    states: Sequence[_State], poses: Array, K: Array, maps: lines.Maps, map_of: Array, matches: Sequence[features.Matches]
) -> lines.Fitted:
    at = points.looked_up([s.views for s in states], map_of.tolist())
    still = [states[m].still for m in map_of]

    def textures(poses: Array, sigma: float) -> tuple[Array, Array]:
        pulls = [features.normal_equations(matches[m], pose, K[m], sigma) for m, pose in zip(map_of, poses)]
        return np.stack([g for g, _ in pulls]), np.stack([A for _, A in pulls])

    others = textures if any(len(m.points) for m in matches) else None
    return lines.fit(at, poses, K[map_of], maps, map_of, SCHEDULE, still=still, settings=SETTINGS, others=others)


def _matched(state: _State, crop: Crop, pose: Array) -> features.Matches:
    """Features of an object's texture in its crop."""
    if not state.keyframes:
        return features.NONE
    radius = 0.65 * crop.K[0, 0] * state.model.diameter / pose[2, 3]
    return features.matched(state.keyframes, crop.grey, pose, crop.K, float(radius))


def _remember(state: _State, crop: Crop, front: Array) -> None:
    """Keep the features of a view that is new, of a pose that is believed."""
    state.plain -= 1
    if state.plain > 0 or state.probability > 0.1 or features.nearest(state.keyframes, state.pose)[1] < features.TURN:
        return
    new = features.keyframe(state.model, crop.grey, crop.inside & ~np.isfinite(front), crop.K, state.pose)
    if new is None:
        state.plain = EVERY
    else:
        state.keyframes = (*state.keyframes, new)[-features.MOST :]


def _searched(state: _State, pose: Array, K: Array, maps: lines.Maps, which: int, matches: features.Matches) -> lines.Fitted:
    """The best pose around one that is in doubt."""
    own = _only(maps, which)
    edges = scanlines.table(own.probability)
    starts = scanlines.tilted(pose[None], REACH, REACH)[0]
    zero = np.zeros(len(starts), np.int64)
    at = points.looked_up([state.views], zero.tolist())
    ends, energy = scanlines.descend(edges, at, starts, np.repeat(K[None], len(starts), 0), zero, 15, scanlines.WIDE)
    best = np.argsort(energy)[:KEEP]
    found = _fit([state], ends[best], K[None], own, np.zeros(len(best), np.int64), [matches])
    return _chosen(found, np.array([found.likelihood.argmax()]))


def _unsure(states: Sequence[_State], doubt: Array) -> list[int]:
    """Which objects the network looks at: those in doubt, and the one that it has not seen for the longest time."""
    for s in states:
        s.blind += 1
    longest = max(range(len(states)), key=lambda b: states[b].blind)
    due = [b == longest and s.blind >= LOOK for b, s in enumerate(states)]
    return [b for b, s in enumerate(states) if s.network is not None and (doubt[b] > SURE or due[b])]


def _look(state: _State, frame: Frame, poses: Array) -> silhouettes.Look:
    """What the network sees of an object drawn at poses (B, 4, 4)."""
    assert state.network is not None
    image = frame.image if frame.image.is_floating_point() else frame.image.float() / 255
    with torch.no_grad():
        return silhouettes.look(state.network, image, frame.camera.K, torch.from_numpy(poses), [state.coarse] * len(poses))


def _like(state: _State, frame: Frame, poses: Array) -> Array:
    """Logarithm of how like the photo an object at poses (B, 4, 4) is, (B,); `UNLIKE` where it cannot be drawn."""
    drawn: Array = np.array([silhouettes.drawable(p, state.coarse, frame.camera) for p in torch.from_numpy(poses)])
    out = np.full(len(poses), UNLIKE)
    if drawn.any():
        out[drawn] = silhouettes.likeness(_look(state, frame, poses[drawn])).double().log().clamp_min(UNLIKE).cpu().numpy()
    return out


def _led(
    state: _State, frame: Frame, pose: Array, crop: Crop, front: Array, matches: features.Matches
) -> tuple[lines.Fitted, Array]:
    """The fit of an object from where the network sees that a drawing of it has gone, and how like the photo it is, (1,)."""
    for _ in range(silhouettes.ROUNDS if silhouettes.drawable(torch.from_numpy(pose), state.coarse, frame.camera) else 0):
        seen = _look(state, frame, pose[None])
        moved, _ = silhouettes.solved(seen, frame.camera.K, torch.from_numpy(pose[None]), [state.coarse])
        if not silhouettes.drawable(moved[0], state.coarse, frame.camera):
            break
        pose = _orthonormal(moved[0].numpy())
    now = _colours_at(state, frame, pose)  # those of the side that it shows count as much as those known
    known = replace(state, foreground=(state.foreground + now[0]) / 2, background=(state.background + now[1]) / 2)
    own = _maps([known], [crop], crop.bins[None], front[None])
    found = _fit([state], pose[None], crop.K[None], own, np.zeros(1, np.int64), [matches])
    return found, _like(state, frame, found.cam_from_obj)


def _evidence(
    states: Sequence[_State], fitted: lines.Fitted, like: Array, ahead: Array, K: Array, index: Array, maps: lines.Maps
) -> tuple[Evidence, tuple[Array, Array]]:
    each = np.arange(len(states))
    contour = points.looked_up([s.views for s in states], each.tolist())(fitted.cam_from_obj)
    now = colours.histograms_of_contour(index, contour, fitted.cam_from_obj, K, each, maps.front)
    known = np.stack([s.foreground for s in states])
    first = np.stack([s.reference for s in states])
    same = np.maximum(np.sqrt(now[0] * known).sum(1), np.sqrt(now[0] * first).sum(1))
    table = colours.posterior(np.arange(known.shape[1])[None], known, np.stack([s.background for s in states]))
    contrast = ((now[0] - now[1]) * table).sum(1)
    away = lines.difference(fitted.cam_from_obj, ahead)
    size = np.array([s.model.diameter for s in states])
    jump = np.linalg.norm(away[:, 3:], axis=1) + np.linalg.norm(away[:, :3], axis=1) / size
    return Evidence(fitted.likelihood, fitted.used, fitted.agree, fitted.distance, same, contrast, jump, like), now


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
    piece = frame.image[:, top:bottom, left:right]
    if piece.dtype != torch.uint8:
        piece = (piece.clamp(0, 1) * 255).round().to(torch.uint8)
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
    grey = np.asarray(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), np.uint8)
    return Crop(colours.bins(canvas), grey, inside > 0, own)


def _small(frame: Frame) -> Frame:
    """The same picture with 8 bits a channel, which takes a quarter of the memory; `_crop` reads both."""
    return replace(frame, image=(frame.image.clamp(0, 1) * 255).round().to(torch.uint8), instances=None, depth=None)


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


def _recover(s: _State, frame: Frame, poses: PoseEstimates, taken: list[Array], path: Sequence[Frame]) -> None:
    """Start a lost object where a detector has found it, unless another track is there or there are no such edges."""
    for i in np.flatnonzero((poses.labels == s.model.obj_id).cpu().numpy()).tolist():
        pose = _nearest(s, poses.cam_from_obj[i])
        if _why_unseen(s, pose, frame) or any(np.linalg.norm(pose[:3, 3] - t[:3, 3]) < 0.3 * s.model.diameter for t in taken):
            continue
        new = replace(s)
        _begin(new, frame, pose)
        if not _confirmed(new, frame, (s.foreground, s.reference) if s.started else ()):
            continue
        _follow(new, path)
        if not new.lost:
            s.__dict__.update(new.__dict__)
            taken.append(pose)
            return


def _check(s: _State, then: Array, frame: Frame, poses: PoseEstimates, path: Sequence[Frame]) -> None:
    """Compare a track with what a detector saw at the same time. What sees it turned otherwise becomes the track if the contour
    likes that better, or if the detector says so twice and the contour does not mind."""
    near = [
        _nearest(replace(s, pose=then), pose)
        for pose in poses.cam_from_obj[poses.labels == s.model.obj_id]
        if np.linalg.norm(pose[:3, 3].double().cpu().numpy() - then[:3, 3]) < s.model.diameter
    ]
    if not near:
        return
    turns = [float(np.linalg.norm(lines.difference(pose[None], then[None])[0, 3:])) for pose in near]
    if min(turns) < AGREE:
        s.against = 0
        return
    rival = replace(s, pose=near[int(np.argmin(turns))], velocity=np.zeros(6), doubts=0, against=0, keyframes=())
    _follow(rival, [frame, *path])
    if not rival.lost and rival.doubts == 0 and (rival.probability < 0.5 * s.probability or s.against):
        s.__dict__.update(rival.__dict__)
    else:
        s.against += 1


def _follow(state: _State, path: Sequence[Frame]) -> None:
    """Track one object through frames that have passed."""
    for frame in path:
        advance([state], frame, leap=False)


def _nearest(state: _State, pose: Tensor) -> Array:
    """A detector's pose, or the one that looks the same and is nearest to where the object was."""
    given = torch.from_numpy(_orthonormal(pose.double().cpu().numpy()))
    if not state.started or not state.model.symmetries.any:
        return given.numpy()
    group = symmetry.transforms(state.model.symmetries, 72).double()
    return symmetry.nearest(given[None], torch.from_numpy(state.pose)[None], group, state.model.corners.double())[0].numpy()


def _confirmed(new: _State, frame: Frame, known: Sequence[Array]) -> bool:
    """Whether the picture has an object's edges where a start says, judged by the colours that it has there, and whether these
    are among those known of it, if any are; moves it there."""
    crop = _crop(frame, new, new.pose)
    free = np.full((1, SIDE, SIDE), np.inf, np.float32)
    maps = _maps([new], [crop], crop.bins[None], free)
    fitted = _fit([new], new.pose[None], crop.K[None], maps, np.zeros(1, np.int64), [features.NONE])
    like = np.array([new.like])
    if new.network is not None:
        starts = np.stack([new.pose, fitted.cam_from_obj[0]])
        best = starts[_like(new, frame, starts).argmax()]
        fitted, like = _led(new, frame, best, crop, free[0], features.NONE)
    evidence, (inside, _) = _evidence([new], fitted, like, fitted.cam_from_obj, crop.K[None], crop.bins[None], maps)
    if known:
        evidence = evidence._replace(colours=np.max([colours.similarity(inside, k[None]) for k in known], 0))
    if probability_lost(evidence)[0] > CONFIRMED:
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
