"""nuScenes' detection protocol: average precision by the distance of centres, five errors of true positives, NDS.

Source: Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020, sec. 3.1, with the settings of the
devkit's `detection_cvpr_2019`; numbers checked against nuscenes-devkit 1.2.0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets.nuscenes import CLASSES, SampleBoxes, SampleTruth

Array = NDArray[Any]

RANGES = dict(zip(CLASSES, (50.0, 50, 50, 50, 50, 40, 40, 40, 30, 30)))  # metres from the vehicle, seen from above
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # metres between centres below which a box can be right
ERROR_DISTANCE = 2.0  # the one of them at which errors are measured
LEAST = 0.1  # recall and precision below this do not count
RECALLS = np.linspace(0, 1, 101)
FIRST = round(100 * LEAST) + 1  # index of the first recall that counts
ERRORS = ("translation", "scale", "orientation", "velocity", "attribute")
"""ATE, metres; ASE, 1 - IoU of aligned boxes; AOE, radians; AVE, metres per second; AAE, 1 - accuracy."""
WITHOUT = {"traffic_cone": ("orientation", "velocity", "attribute"), "barrier": ("velocity", "attribute")}


class Matches(NamedTuple):
    """The estimates of one class, best first, and what they found.

    Args:
        score: (N,).
        truth: row of the true box, (D, N), int64; -1 for a false positive. One line for each of `DISTANCES`.
        estimate: row of the estimate, (N,), int64.
        there: how many true boxes there are.
    """

    score: Array
    truth: Array
    estimate: Array
    there: int


def yaw(boxes: SampleBoxes) -> Array:
    """Where the fronts of boxes point, seen from above. -> (N,), radians."""
    w, x, y, z = boxes.quat_wxyz.T
    return np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)


def filtered(boxes: SampleBoxes, truth: SampleTruth) -> SampleBoxes:
    """The boxes that count: within the range of their class, not known to be empty, no cycle parked in a rack.

    Args:
        boxes: true or estimated, of the samples of `truth`.
        truth: says where the vehicle stood and where the racks are.
    """
    away = np.linalg.norm(boxes.centre[:, :2] - truth.ego[boxes.sample, :2], axis=1)
    keep = (away < np.array([RANGES[c] for c in CLASSES])[boxes.label]) & (boxes.points != 0)
    cycle = np.isin(boxes.label, [CLASSES.index("bicycle"), CLASSES.index("motorcycle")])
    racks = truth.racks
    for k in range(len(racks.sample)):
        near = np.flatnonzero(keep & cycle & (boxes.sample == racks.sample[k]))
        width, length, height = racks.wlh[k]
        local = (boxes.centre[near] - racks.centre[k]) @ _matrix(racks.quat_wxyz[k])
        keep[near[(np.abs(local) <= np.array([length, width, height]) / 2).all(1)]] = False
    return boxes.where(keep)


def _matrix(quat_wxyz: Array) -> Array:
    """The rotation matrix of a quaternion, (3, 3)."""
    w, x, y, z = quat_wxyz / np.linalg.norm(quat_wxyz)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def match(estimates: SampleBoxes, truth: SampleBoxes, label: int) -> Matches:
    """Match the estimates of one class with the true boxes, best first: each takes the nearest that is still free.

    The k-th best estimates of all samples are matched at once, at all distances.

    Args:
        estimates, truth: boxes of the same samples.
        label: index of the class.
    """
    own, real = np.flatnonzero(estimates.label == label), np.flatnonzero(truth.label == label)
    best_first = own[np.lexsort((own, estimates.score[own]))[::-1]]
    found = np.full((len(DISTANCES), len(own)), -1)
    if not len(own) or not len(real):
        return Matches(estimates.score[best_first], found, best_first, len(real))
    samples = len(estimates.tokens)
    real = real[np.argsort(truth.sample[real], kind="stable")]
    count = np.bincount(truth.sample[real], minlength=samples)
    slot = np.arange(len(real)) - (np.cumsum(count) - count)[truth.sample[real]]
    centres = np.full((samples, count.max(), 2), np.inf)
    centres[truth.sample[real], slot] = truth.centre[real, :2]
    rows = np.full((samples, count.max()), -1)
    rows[truth.sample[real], slot] = real

    of = estimates.sample[best_first]
    by_sample = np.argsort(of, kind="stable")
    many = np.bincount(of, minlength=samples)
    rank = np.empty(len(of), np.int64)
    rank[by_sample] = np.arange(len(of)) - (np.cumsum(many) - many)[of[by_sample]]
    by_rank = np.argsort(rank, kind="stable")
    limits = np.array(DISTANCES)[:, None]
    free = np.ones((len(DISTANCES), samples, count.max()), bool)
    each = np.arange(len(DISTANCES))[:, None]
    for turn in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]):
        turn = turn[count[of[turn]] > 0]
        where = of[turn]
        far = np.linalg.norm(centres[where] - estimates.centre[best_first[turn], None, :2], axis=-1)
        open_far = np.where(free[:, where], far, np.inf)  # (D, M, G)
        nearest = open_far.argmin(-1)
        hit = np.take_along_axis(open_far, nearest[..., None], -1)[..., 0] < limits
        found[:, turn] = np.where(hit, rows[where, nearest], -1)
        free[each, where, nearest] &= ~hit
    return Matches(estimates.score[best_first], found, best_first, len(real))


def _errors(estimates: SampleBoxes, truth: SampleBoxes, e: Array, t: Array, name: str) -> dict[str, Array]:
    """The five errors of pairs of rows; NaN where the truth does not say."""
    half = np.pi if name == "barrier" else 2 * np.pi  # a barrier has no front
    turn = (yaw(truth)[t] - yaw(estimates)[e] + half / 2) % half - half / 2
    smaller, a, b = np.minimum(truth.wlh[t], estimates.wlh[e]).prod(1), truth.wlh[t].prod(1), estimates.wlh[e].prod(1)
    wrong = (truth.attribute[t] != estimates.attribute[e]).astype(float)
    return {
        "translation": np.linalg.norm(truth.centre[t, :2] - estimates.centre[e, :2], axis=1),
        "scale": 1 - smaller / (a + b - smaller),
        "orientation": np.abs(turn),
        "velocity": np.linalg.norm(truth.velocity[t] - estimates.velocity[e], axis=1),
        "attribute": np.where(truth.attribute[t] < 0, np.nan, wrong),
    }


def _running_mean(x: Array) -> Array:
    """The mean of everything so far, NaN left out; 1 throughout where there is nothing else, 0 before the first number."""
    known = ~np.isnan(x)
    if not known.any():
        return np.ones(len(x))
    return np.nancumsum(x) / np.maximum(known.cumsum(), 1)


def _curve(matches: Matches, level: int) -> tuple[Array, Array]:
    """Precision and score at each of `RECALLS`, 0 beyond the highest recall reached."""
    right = (matches.truth[level] >= 0).cumsum().astype(float)
    if not len(right) or right[-1] == 0 or matches.there == 0:
        return np.zeros(len(RECALLS)), np.zeros(len(RECALLS))
    precision, recall = right / np.arange(1, len(right) + 1), right / matches.there
    return np.interp(RECALLS, recall, precision, right=0), np.interp(RECALLS, recall, matches.score, right=0)


def average_precision(precision: Array) -> float:
    """Area above 10 % precision and recall, as a share of what is possible. (101,) -> in [0, 1]."""
    return float(np.clip(precision[FIRST:] - LEAST, 0, None).mean() / (1 - LEAST))


def true_positive_errors(estimates: SampleBoxes, truth: SampleBoxes, matches: Matches, name: str) -> dict[str, float]:
    """The errors of one class at 2 m, averaged over the recalls from 10 % to the highest reached; 1 where it is not reached."""
    level = DISTANCES.index(ERROR_DISTANCE)
    _, score = _curve(matches, level)
    hit = matches.truth[level] >= 0
    last = np.flatnonzero(score)[-1] if score.any() else 0
    if not hit.any() or last < FIRST:
        return dict.fromkeys(ERRORS, 1.0)
    errors = _errors(estimates, truth, matches.estimate[hit], matches.truth[level][hit], name)
    at = matches.score[hit][::-1]
    curves = {k: np.interp(score[::-1], at, _running_mean(v)[::-1])[::-1] for k, v in errors.items()}
    return {k: float(v[FIRST : last + 1].mean()) for k, v in curves.items()}


def evaluate(results: SampleBoxes, truth: SampleTruth) -> dict[str, Any]:
    """The scores of results.

    Args:
        results: from `datasets.nuscenes.read_results`, of the samples of `truth` in the same order.
        truth: from `datasets.nuscenes.truth`.

    Returns:
        {"nds", "map": in [0, 1], "errors": {"translation": ...}, "classes": {"car": {"ap", "ap_at": {"0.5": ...}, "errors",
        "truth": number of boxes}}, "samples"}. Errors are means over classes; a class's error that has no meaning (the
        direction of a cone) is None. A class without truth has AP 0 and errors 1, as with the devkit.

    Raises:
        ValueError: results are of other samples than the truth.
    """
    if results.tokens != truth.boxes.tokens:
        raise ValueError(
            f"results are of {len(results.tokens)} samples, the truth of {len(truth.boxes.tokens)}; they must be the same "
            "in the same order: read results with tokens=truth.boxes.tokens"
        )
    estimates, real = filtered(results, truth), filtered(truth.boxes, truth)
    classes: dict[str, Any] = {}
    for label, name in enumerate(CLASSES):
        matches = match(estimates, real, label)
        ap_at = {str(d): average_precision(_curve(matches, k)[0]) for k, d in enumerate(DISTANCES)}
        errors: dict[str, float | None] = dict(true_positive_errors(estimates, real, matches, name))
        errors.update(dict.fromkeys(WITHOUT.get(name, ())))
        ap = float(np.mean(list(ap_at.values())))
        classes[name] = {"ap": ap, "ap_at": ap_at, "errors": errors, "truth": matches.there}
    means = {e: float(np.mean([c["errors"][e] for c in classes.values() if c["errors"][e] is not None])) for e in ERRORS}
    mean_ap = float(np.mean([c["ap"] for c in classes.values()]))
    nds = (5 * mean_ap + sum(max(0.0, 1 - e) for e in means.values())) / 10
    return {"nds": nds, "map": mean_ap, "errors": means, "classes": classes, "samples": len(results.tokens)}
