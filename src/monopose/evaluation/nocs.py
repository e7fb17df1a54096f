"""NOCS's protocol: average precision at 3D IoU and at n degrees n cm, and the same without scale, which RGB cannot see.

Three overlaps of boxes, and every report says which it used:

    oriented   the boxes as they stand (default)
    aligned    the boxes around them along the camera's axes
    nocs2019   what the original program computes, and every table made with it. It takes the largest and the smallest of the
               three coordinates of each corner instead of the largest and smallest corner of each coordinate, so that two boxes
               far apart overlap a lot; for old tables only

Bottles, bowls, cans, and mugs whose handle is hidden may be turned about their axis.

Source: Wang et al., CVPR 2019, and its `compute_degree_cm_mAP`, restated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..datasets.nocs import CLASSES, UP, Results
from ..geometry import boxes3d, rotation, se3
from . import scores as matching

Overlap = Literal["oriented", "aligned", "nocs2019"]

ROUND = ("bottle", "bowl", "can")
IOUS = (0.25, 0.5, 0.75)
POSES = ((5.0, 0.02), (5.0, 0.05), (10.0, 0.02), (10.0, 0.05), (10.0, 0.1))  # degrees, metres
ROTATIONS = (5.0, 10.0, 15.0, 30.0)  # degrees
SHIFTS = ((5.0, 0.1), (10.0, 0.1), (10.0, 0.2))  # degrees, share of the true box's diagonal
PAIRED = 0.1  # IoU that makes a pair for the pose scores
TURNS = 20  # about the axis of a symmetric object, tried for the largest overlap


def symmetric(labels: Tensor, handle_visible: Tensor | None) -> Tensor:
    """Which true objects look the same from all sides: bottles, bowls, cans, mugs with a hidden handle. (G,) -> (G,), bool."""
    names = [CLASSES[int(k) - 1] for k in labels]
    hidden = [False] * len(names) if handle_visible is None else (~handle_visible.bool()).tolist()
    return torch.tensor([n in ROUND or (n == "mug" and h) for n, h in zip(names, hidden, strict=True)], dtype=torch.bool)


def rotation_errors(R: Tensor, R_true: Tensor, symmetric: Tensor, axis: int = UP) -> Tensor:
    """Angles between rotations; of symmetric objects between their axes.

    Args:
        R, R_true: (..., 3, 3).
        symmetric: (...), bool.
        axis: of the symmetry, 0 to 2.

    Returns:
        (...), radians, in [0, pi].
    """
    a, b = R[..., axis], R_true[..., axis]
    between = torch.atan2(torch.linalg.cross(a, b, dim=-1).norm(dim=-1), (a * b).sum(-1))
    return torch.where(symmetric, between, rotation.angle_between(R, R_true))


def overlaps(
    cam_from_obj: Tensor, sizes: Tensor, true: Tensor, sizes_true: Tensor, symmetric: Tensor, overlap: Overlap = "oriented",
    axis: int = UP,
) -> Tensor:  # fmt: skip
    """IoU of every estimate with every true object.

    Args:
        cam_from_obj, sizes: of the estimates, (E, 4, 4), (E, 3), metres.
        true, sizes_true: (G, 4, 4), (G, 3), metres.
        symmetric: true objects that may be turned about their axis for the largest overlap, (G,), bool.
        overlap: see above.
        axis: of the symmetry.

    Returns:
        (E, G), in [0, 1], float64; 0 for estimates that are not finite. The largest of 20 turns of symmetric objects:
        from the pose itself as in the original, and for "oriented" from the turn that is nearest to the truth.
    """
    function = _OVERLAPS.get(overlap)
    if function is None:
        raise ValueError(f"unknown overlap {overlap!r}; known: {', '.join(_OVERLAPS)}")
    table = torch.zeros(len(sizes), len(sizes_true), dtype=torch.float64)
    finite = torch.isfinite(cam_from_obj).flatten(1).all(1) & torch.isfinite(sizes).all(1)
    for round_ in (False, True):
        e, g = (finite[:, None] & (symmetric == round_)[None]).nonzero().unbind(-1)
        if not len(e):
            continue
        a, b = cam_from_obj[e].double(), true[g].double()
        sa, sb = sizes[e].double(), sizes_true[g].double()
        if round_:
            a = _turned(a, b, axis, nearest=overlap == "oriented")
            b, sa, sb = b[:, None], sa[:, None], sb[:, None]
        value = function(a, sa, b, sb)
        table[e, g] = value.amax(1) if round_ else value
    return table


def _turned(a: Tensor, b: Tensor, axis: int, nearest: bool) -> Tensor:
    """Estimates (n, 4, 4) turned about their axis -> (n, TURNS, 4, 4), the first one nearest to b if asked for."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    start = a.new_zeros(len(a))
    if nearest:  # maximises the trace of b^T a turned
        M = b[:, :3, :3].mT @ a[:, :3, :3]
        start = torch.atan2(M[:, i, j] - M[:, j, i], M[:, i, i] + M[:, j, j])
    angle = start[:, None] + torch.arange(TURNS, dtype=a.dtype) * (2 * math.pi / TURNS)
    turn = rotation.so3_exp(angle[..., None] * torch.eye(3, dtype=a.dtype)[axis])
    return se3.from_rt(a[:, None, :3, :3] @ turn, a[:, None, :3, 3])


def _oriented(a: Tensor, size_a: Tensor, b: Tensor, size_b: Tensor) -> Tensor:
    a, size_a, b, size_b = _broadcast(a, size_a, b, size_b)
    value = a.new_zeros(a.shape[:-2])
    near = (a[..., :3, 3] - b[..., :3, 3]).norm(dim=-1) < (size_a.norm(dim=-1) + size_b.norm(dim=-1)) / 2
    value[near] = boxes3d.obb_iou(a[near], size_a[near], b[near], size_b[near])
    return value


def _aligned(a: Tensor, size_a: Tensor, b: Tensor, size_b: Tensor) -> Tensor:
    return _hulls(boxes3d.obb_corners(a, size_a), boxes3d.obb_corners(b, size_b), over=-2)


def _nocs2019(a: Tensor, size_a: Tensor, b: Tensor, size_b: Tensor) -> Tensor:
    return _hulls(boxes3d.obb_corners(a, size_a), boxes3d.obb_corners(b, size_b), over=-1)


def _hulls(corners_a: Tensor, corners_b: Tensor, over: int) -> Tensor:
    """IoU of the intervals between smallest and largest value. (..., 8, 3) x 2 -> (...); over=-2 makes boxes of them."""
    low_a, high_a = corners_a.amin(over), corners_a.amax(over)
    low_b, high_b = corners_b.amin(over), corners_b.amax(over)
    side = torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)
    inter = torch.where(side.amin(-1) < 0, 0.0, side.prod(-1))
    union = (high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - inter
    return torch.where(union > 0, inter / torch.where(union > 0, union, 1.0), 0.0)


def _broadcast(a: Tensor, size_a: Tensor, b: Tensor, size_b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return a.expand(*batch, 4, 4), size_a.expand(*batch, 3), b.expand(*batch, 4, 4), size_b.expand(*batch, 3)


_OVERLAPS = {"oriented": _oriented, "aligned": _aligned, "nocs2019": _nocs2019}


def rescaled(cam_from_obj: Tensor, sizes: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates moved to the depth of a true object, and scaled as much: in the photo nothing changes.

    Args:
        cam_from_obj, sizes: (..., 4, 4), (..., 3), metres.
        true: (..., 4, 4), metres; dimensions broadcast.

    Returns:
        (..., 4, 4), (..., 3), metres; NaN for estimates that are not in front of the camera.
    """
    z = cam_from_obj[..., 2, 3]
    share = torch.where(z > 0, true[..., 2, 3] / torch.where(z > 0, z, 1.0), torch.nan)
    t = cam_from_obj[..., :3, 3] * share[..., None]
    return se3.from_rt(cam_from_obj[..., :3, :3], t), sizes * share[..., None]


def area(correct: Sequence[bool] | np.ndarray, n_true: int) -> float:
    """Area under the precision-recall curve, whose precision is made to fall steadily.

    Args:
        correct: whether each estimate is right, best score first.
        n_true: number of true objects; 0 gives 0.

    Source: the original's `compute_ap_from_matches_scores`: no fixed recalls, unlike COCO.
    """
    right = np.cumsum(np.asarray(correct, bool))
    if not len(right) or n_true < 1:
        return 0.0
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    recall = np.concatenate([[0.0], right / n_true])
    return float((np.diff(recall) * precision).sum())


class _Curve:
    """Matches of one class and one family of thresholds, gathered over the images."""

    def __init__(self, count: int) -> None:
        self.hits: list[np.ndarray] = [np.zeros((count, 0), bool)]
        self.scores: list[np.ndarray] = [np.zeros(0)]
        self.n_true = 0

    def add(self, errors: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """Match one image; errors (E, G) or (E, G, T). -> index of each estimate's true object or -1, (T, E)."""
        matched = matching.greedy(errors, scores, thresholds)
        self.hits.append(matched >= 0)
        self.scores.append(scores)
        self.n_true += errors.shape[1]
        return matched

    def precisions(self) -> list[float]:
        order = np.argsort(-np.concatenate(self.scores), kind="stable")
        return [area(row[order], self.n_true) for row in np.concatenate(self.hits, 1)]


def evaluate(
    images: Sequence[Results], overlap: Overlap = "oriented", ious: Sequence[float] = IOUS,
    poses: Sequence[tuple[float, float]] = POSES, rotations: Sequence[float] = ROTATIONS,
    shifts: Sequence[tuple[float, float]] = SHIFTS, axis: int = UP,
) -> dict[str, Any]:  # fmt: skip
    """All scores of some images.

    Args:
        images: truth and estimates.
        overlap: which IoU, see above.
        ious: thresholds.
        poses: degrees and metres that a pose may be off by.
        rotations: degrees, whatever the position.
        shifts: degrees, and share of the true box's diagonal, after `rescaled`.
        axis: of the symmetric objects, 1 in NOCS's frames, 2 in those of `synthesis.shapes.tableware`.

    Returns:
        overlap: its name, images, true, estimates: numbers of each,
        classes: for every class with true objects, and mean: over those classes, four groups of average precisions, [0, 1]:
            iou        "iou25" ...
            pose       "5deg5cm", "10deg" ...: as in the published tables among pairs whose IoU is above 0.1: objects
                       without such a pair count neither as missed nor as wrong
            pose_all   the same over all objects and estimates: what is missed counts
            scale_free "iou25", "5deg0.1d", "5deg": over all, after `rescaled`
        paired: share of true objects that pose counts, by class.

    Estimates are matched within their class, best score first: for IoU with the free object of largest overlap, for poses with
    that of least degrees + centimetres.

    Raises:
        ValueError: no true object at all.
    """
    names = [f"iou{round(100 * t)}" for t in ious]
    pose_limits = [*poses, *((d, math.inf) for d in rotations)]
    pose_names = [f"{d:g}deg{100 * m:g}cm" for d, m in poses] + [f"{d:g}deg" for d in rotations]
    shift_limits = [*shifts, *((d, math.inf) for d in rotations)]
    shift_names = [f"{d:g}deg{s:g}d" for d, s in shifts] + [f"{d:g}deg" for d in rotations]
    if not sum(len(r.labels_true) for r in images):
        raise ValueError(f"there is no true object in the {len(images)} images; nothing can be scored")
    present = sorted({int(k) for r in images for k in r.labels_true})
    classes: dict[str, dict[str, dict[str, float]]] = {}
    paired: dict[str, float] = {}
    for label in present:
        by_iou, pose, every = _Curve(len(ious)), _Curve(len(pose_limits)), _Curve(len(pose_limits))
        free_iou, free = _Curve(len(ious)), _Curve(len(shift_limits))
        for image in images:
            e, g = image.labels == label, image.labels_true == label
            scores = image.scores[e].double().numpy()
            a, sa = image.cam_from_obj[e].double(), image.sizes[e].double()
            b, sb = image.cam_from_obj_true[g].double(), image.sizes_true[g].double()
            handles = None if image.handle_visible is None else image.handle_visible[g]
            same = symmetric(image.labels_true[g], handles)
            table = overlaps(a, sa, b, sb, same, overlap, axis).numpy()
            by_iou.add(-table, scores, -np.asarray(ious))
            degrees = torch.rad2deg(rotation_errors(a[:, None, :3, :3], b[None, :, :3, :3], same[None], axis))
            metres = (a[:, None, :3, 3] - b[None, :, :3, 3]).norm(dim=-1)
            errors = _within(degrees, 100 * metres, [(d, 100 * m) for d, m in pose_limits])
            beyond = np.full(len(pose_limits), np.inf)
            every.add(errors, scores, beyond)
            pairs = matching.greedy(-table, scores, [-PAIRED])[0]
            kept, theirs = pairs >= 0, np.sort(pairs[pairs >= 0])
            pose.add(errors[kept][:, theirs], scores[kept], beyond)
            near, near_sizes = rescaled(a[:, None], sa[:, None], b[None])
            free_table = _rescaled_overlaps(near, near_sizes, b, sb, same, overlap, axis)
            free_iou.add(-free_table, scores, -np.asarray(ious))
            moved = (near[..., :3, 3] - b[None, :, :3, 3]).norm(dim=-1) / sb.norm(dim=-1)
            free.add(_within(degrees, moved, shift_limits), scores, np.full(len(shift_limits), np.inf))
        name = CLASSES[label - 1]
        classes[name] = {
            "iou": dict(zip(names, by_iou.precisions(), strict=True)),
            "pose": dict(zip(pose_names, pose.precisions(), strict=True)),
            "pose_all": dict(zip(pose_names, every.precisions(), strict=True)),
            "scale_free": dict(zip(names + shift_names, free_iou.precisions() + free.precisions(), strict=True)),
        }
        paired[name] = pose.n_true / every.n_true
    mean = {
        group: {key: float(np.mean([c[group][key] for c in classes.values()])) for key in values}
        for group, values in next(iter(classes.values())).items()
    }
    return {
        "overlap": overlap, "images": len(images), "true": sum(len(r.labels_true) for r in images),
        "estimates": sum(len(r.labels) for r in images), "classes": classes, "mean": mean, "paired": paired,
    }  # fmt: skip


def curves(images: Sequence[Results], overlap: Overlap = "oriented", axis: int = UP) -> dict[str, dict[str, Any]]:
    """Average precision over thresholds, as the protocol draws it: the overlap from 0 to 1, 0 to 60 degrees, 0 to 15 cm.

    Returns:
        "iou", "degrees", "cm" -> "thresholds", and the precision at each, in [0, 1], of every class and "mean".

    Degrees and centimetres are judged each alone, among pairs whose IoU is above 0.1. Source: `nocs/eval.py` of those who
    compare with NOCS: 101, 61 and 31 thresholds.
    """
    ious, degrees, metres = np.linspace(0, 1, 101), np.arange(61.0), np.linspace(0, 0.15, 31)
    found = evaluate(images, overlap, ious.tolist(), [(180.0, m) for m in metres.tolist()], degrees.tolist(), (), axis)
    groups = found["classes"] | {"mean": found["mean"]}
    drawn: dict[str, dict[str, Any]] = {
        "iou": {"thresholds": ious.tolist()}, "degrees": {"thresholds": degrees.tolist()},
        "cm": {"thresholds": (100 * metres).tolist()},
    }  # fmt: skip
    for name, group in groups.items():
        pose = list(group["pose"].values())
        drawn["iou"][name], drawn["cm"][name], drawn["degrees"][name] = list(group["iou"].values()), pose[:31], pose[31:]
    return drawn


def _within(degrees: Tensor, shift: Tensor, limits: Sequence[tuple[float, float]]) -> np.ndarray:
    """Degrees + shift where both are within their limits, infinite elsewhere. (E, G) x 2, T limits -> (E, G, T)."""
    rows = []
    for most_degrees, most_shift in limits:
        good = degrees <= most_degrees
        cost = degrees
        if math.isfinite(most_shift):
            good, cost = good & (shift <= most_shift), degrees + shift
        rows.append(torch.where(good, cost, torch.inf))
    return torch.stack(rows, -1).numpy()


def _rescaled_overlaps(
    near: Tensor, sizes: Tensor, b: Tensor, sb: Tensor, same: Tensor, overlap: Overlap, axis: int
) -> np.ndarray:
    """IoU of estimates that were moved to the depth of each true object. (E, G, 4, 4), (E, G, 3) -> (E, G)."""
    columns = [
        overlaps(near[:, k], sizes[:, k], b[k : k + 1], sb[k : k + 1], same[k : k + 1], overlap, axis) for k in range(len(b))
    ]
    return torch.cat(columns, 1).numpy() if columns else np.zeros((len(near), 0))


def text(report: dict[str, Any]) -> str:
    """A report as a table for people, with the name of the overlap in its head."""
    groups = {"iou": "IoU", "pose": "pose (pairs)", "pose_all": "pose (all)", "scale_free": "scale-free"}
    lines = [
        f"NOCS protocol, 3D IoU: {report['overlap']}; {report['images']} images, {report['true']} objects, "
        f"{report['estimates']} estimates; average precision, %"
    ]
    for group, title in groups.items():
        keys = list(report["mean"][group])
        lines.append(f"{title:<14}" + "".join(f"{k:>11}" for k in keys))
        for name, values in [*((n, c[group]) for n, c in report["classes"].items()), ("mean", report["mean"][group])]:
            lines.append(f"  {name:<12}" + "".join(f"{100 * values[k]:>11.1f}" for k in keys))
    return "\n".join(lines)
