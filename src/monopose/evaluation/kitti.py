"""KITTI's object protocol: average precision over 40 recalls in the picture, from above and in 3D, and of orientations.

Estimates may be found or not without consequence where the truth is of a class that is easily confused, too small, too much
hidden or cut off for a difficulty; in the picture also in DontCare regions. A class with fewer than 41 true boxes cannot reach
1: its curve has as many points as boxes.

Source: the development kit of KITTI's object benchmark; 40 recalls since Simonelli et al., "Disentangling Monocular 3D Object
Detection", ICCV 2019, sec. 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.kitti import DONT_CARE, Labels, read_labels
from ..geometry import boxes3d

Array = NDArray[Any]

OVERLAP = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}  # IoU that a match must exceed
CONFUSED = {"Car": "Van", "Pedestrian": "Person_sitting"}  # such truth is neither right nor missed
METRICS = ("2d", "bev", "3d")
POINTS = 41  # of the curve; the one at recall 0 does not count


class Difficulty(NamedTuple):
    """What truth counts: at least `height` pixels, at most `occlusion` and `truncation`."""

    name: str
    height: float
    occlusion: int
    truncation: float


DIFFICULTIES = (Difficulty("easy", 40, 0, 0.15), Difficulty("moderate", 25, 1, 0.30), Difficulty("hard", 25, 2, 0.50))


@dataclass(frozen=True, eq=False)
class _Picture:
    """One picture's truth (without DontCare) against its estimates.

    Args:
        truth, found: the lines.
        overlaps: metric -> IoU, (G, D).
        nobody_knows: estimates' share in the DontCare region that covers them most, (D,).
    """

    truth: Labels
    found: Labels
    overlaps: Mapping[str, Array]
    nobody_knows: Array


def read(folder: str | Path, names: Sequence[str] = ()) -> dict[str, Labels]:
    """The label or result files of a folder, NAME.txt; none means all.

    Raises:
        FileNotFoundError: a file is missing, or all; a picture without detections has an empty file.
        ValueError: a file is broken.
    """
    folder = Path(folder)
    names = list(names) or sorted(p.stem for p in folder.glob("*.txt"))
    if not names:
        raise FileNotFoundError(f"no label files in {folder}; expected 000000.txt, ...")
    return {name: read_labels(folder / f"{name}.txt") for name in names}


def evaluate(
    results: Mapping[str, Labels], truth: Mapping[str, Labels], classes: Sequence[str] = tuple(OVERLAP)
) -> dict[str, Any]:
    """The scores of results.

    Args:
        results: name of the picture -> lines with scores.
        truth: name of the picture -> lines; decides which pictures count.
        classes: of `OVERLAP`.

    Returns:
        {"Car": {"2d": {"easy": AP, "moderate":, "hard":}, "bev":, "3d":, "aos":, "truth": number of boxes that count}}: AP in
        [0, 1], None where no box counts.

    Raises:
        ValueError: results of a picture are missing or have no scores.
    """
    missing = [name for name in truth if name not in results]
    if missing:
        raise ValueError(
            f"results for {len(missing)} of {len(truth)} pictures are missing, the first is {missing[0]!r}; "
            "a picture without detections needs an empty file"
        )
    for name in truth:
        if len(results[name]) and results[name].scores is None:
            raise ValueError(f"results for {name} have no scores; is this a file of the truth?")
    pictures = _pictures([results[name] for name in truth], list(truth.values()))
    scores: dict[str, Any] = {}
    for kind in classes:
        scores[kind] = {key: {} for key in (*METRICS, "aos", "truth")}
        for difficulty in DIFFICULTIES:
            for metric in METRICS:
                ap, aos, count = _average_precision(pictures, kind, difficulty, metric)
                scores[kind][metric][difficulty.name] = ap
                if metric == "2d":
                    scores[kind]["aos"][difficulty.name] = aos
                    scores[kind]["truth"][difficulty.name] = count
    return scores


# ------------------------------------------------------------------------------------------------------------- overlaps


def _some(labels: Labels, rows: Array) -> Labels:
    scores = None if labels.scores is None else labels.scores[rows]
    return Labels(tuple(labels.types[k] for k in np.flatnonzero(rows)), labels.values[rows], scores)


def _share(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Common area of all pairs of boxes, (N, M), and the areas, (N, 1) and (1, M)."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    area = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    return np.clip(sides, 0, None).prod(-1), area[0][:, None], area[1][None]


def _boxes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Poses in the rectified frame and sizes of lines, (N, 14)."""
    lhw = boxes3d.lhw_from_hwl(values[:, 7:10])
    return boxes3d.from_yaw(boxes3d.centre_from_bottom(values[:, 10:13], lhw), values[:, 13]), lhw


def _pictures(results: Sequence[Labels], truths: Sequence[Labels]) -> list[_Picture]:
    """All pictures; the boxes of all of them that may meet in 3D are compared at once."""
    pictures, pairs = [], []
    for found, labels in zip(results, truths):
        known = np.array([t != DONT_CARE for t in labels.types], bool)
        truth = _some(labels, known)
        common, a, b = _share(truth.boxes, found.boxes)
        overlaps = {"2d": common / np.maximum(a + b - common, 1e-12)}
        overlaps.update({metric: np.zeros(common.shape) for metric in METRICS[1:]})
        covered, area, _ = _share(found.boxes, labels.boxes[~known])
        nobody = (covered / np.maximum(area, 1e-12)).max(1, initial=0)
        away = np.linalg.norm(truth.bottom[:, None, [0, 2]] - found.bottom[None, :, [0, 2]], axis=-1)
        reach = [np.linalg.norm(x.hwl[:, 1:], axis=-1) / 2 for x in (truth, found)]
        solid = np.all(truth.hwl[:, None] > 0, axis=-1) & np.all(found.hwl[None] > 0, axis=-1)
        g, d = np.nonzero(solid & (away < reach[0][:, None] + reach[1]))
        pairs.append((g, d))
        pictures.append(_Picture(truth, found, overlaps, nobody))
    if not pictures:
        return []
    rows = [
        torch.from_numpy(np.concatenate([getattr(p, side).values[pair[k]] for p, pair in zip(pictures, pairs)]))
        for k, side in enumerate(("truth", "found"))
    ]
    if not len(rows[0]):
        return pictures
    (pose_t, lhw_t), (pose_f, lhw_f) = (_boxes(v) for v in rows)
    flat = {
        "bev": boxes3d.bev_iou(boxes3d.bev(pose_t, lhw_t), boxes3d.bev(pose_f, lhw_f)),
        "3d": boxes3d.iou(pose_t, lhw_t, pose_f, lhw_f),
    }
    ends = np.cumsum([len(g) for g, _ in pairs])[:-1]
    for metric, values in flat.items():
        for picture, (g, d), part in zip(pictures, pairs, np.split(values.numpy(), ends)):
            picture.overlaps[metric][g, d] = part
    return pictures


# ------------------------------------------------------------------------------------------------------------- matching


def _counting(picture: _Picture, kind: str, difficulty: Difficulty) -> tuple[Array, Array]:
    """What becomes of truth (G,) and estimates (D,): 0 counts, 1 is ignored but may match, -1 is not there."""
    t, f = picture.truth, picture.found
    own = np.array([name == kind for name in t.types], bool)
    near = np.array([name == CONFUSED.get(kind) for name in t.types], bool)
    height = t.boxes[:, 3] - t.boxes[:, 1]
    easy = (t.occluded <= difficulty.occlusion) & (t.truncated <= difficulty.truncation) & (height >= difficulty.height)
    truth = np.where(own & easy, 0, np.where(own | near, 1, -1))
    small = np.abs(f.boxes[:, 3] - f.boxes[:, 1]) < difficulty.height  # of any class, as in the development kit
    found = np.where(small, 1, np.where(np.array([name == kind for name in f.types], bool), 0, -1))
    return truth, found


def _hits(overlap: Array, scores: Array, truth: Array, found: Array, least: float) -> list[float]:
    """The scores of estimates that are right when each true box takes the most confident one."""
    taken, hits = found == -1, []
    for g in np.flatnonzero(truth >= 0):
        candidates = np.flatnonzero(~taken & (overlap[g] > least))
        if len(candidates):
            best = candidates[scores[candidates].argmax()]
            taken[best] = True
            if truth[g] == 0 and found[best] == 0:
                hits.append(float(scores[best]))
    return hits


def _thresholds(hits: Array, count: int) -> Array:
    """The scores at which recall comes nearest to each step of 1 / 40, best first."""
    ordered, chosen, recall = np.sort(hits)[::-1], [], 0.0
    for k, score in enumerate(ordered):
        left, right = (k + 1) / count, (k + 2) / count
        if k < len(ordered) - 1 and right - recall < recall - left:
            continue
        chosen.append(score)
        recall += 1 / (POINTS - 1)
    return np.array(chosen)


def _count(
    picture: _Picture, metric: str, truth: Array, found: Array, least: float, thresholds: Array
) -> tuple[Array, Array, Array]:
    """Right and wrong estimates above each threshold, and the summed similarity of orientations. -> (T,) each.

    Each true box takes the estimate that overlaps most; an ignored one only if there is no other.
    """
    overlap, n = picture.overlaps[metric], np.arange(len(thresholds))
    scores = picture.found.scores if picture.found.scores is not None else np.zeros(0)
    free = (scores >= thresholds[:, None]) & (found >= 0)
    right, similarity = np.zeros(len(n), np.int64), np.zeros(len(n))
    for g in np.flatnonzero(truth >= 0):
        near = overlap[g] > least
        if not near.any():
            continue
        value = np.where(near & free, np.where(found == 0, 1 + overlap[g], 1), 0)
        best = value.argmax(1)
        hit = value[n, best] > 0
        free[n[hit], best[hit]] = False
        good = hit & (found[best] == 0) & (truth[g] == 0)
        right += good
        similarity += good * (1 + np.cos(picture.truth.alpha[g] - picture.found.alpha[best])) / 2
    wrong = free & (found == 0)
    if metric == "2d":
        wrong &= ~(picture.nobody_knows > least)
    return right, wrong.sum(1), similarity


def _average_precision(
    pictures: Sequence[_Picture], kind: str, difficulty: Difficulty, metric: str
) -> tuple[float | None, float | None, int]:
    """AP, AOS (of "2d"), number of boxes that count."""
    least, hits, count, judged = OVERLAP[kind], [], 0, []
    for picture in pictures:
        truth, found = _counting(picture, kind, difficulty)
        if (truth == 0).any() or (found == 0).any():  # no other picture can change a number
            judged.append((picture, truth, found))
            count += int((truth == 0).sum())
            if (truth >= 0).any() and (found >= 0).any():
                scores = picture.found.scores
                assert scores is not None
                hits += _hits(picture.overlaps[metric], scores, truth, found, least)
    if not count:
        return None, None, 0
    thresholds = _thresholds(np.array(hits), count)
    total = np.zeros((3, len(thresholds)))
    for picture, truth, found in judged:
        if len(found):
            total += _count(picture, metric, truth, found, least, thresholds)
    right, wrong, similarity = total
    curves = np.zeros((2, POINTS))
    curves[:, : len(thresholds)] = np.stack([right, similarity])[:, :POINTS] / np.maximum(right + wrong, 1)
    curves = np.maximum.accumulate(curves[:, ::-1], axis=1)[:, ::-1]
    ap, aos = curves[:, 1:].mean(1).tolist()
    return ap, aos if metric == "2d" else None, count
