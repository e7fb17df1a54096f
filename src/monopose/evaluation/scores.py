"""Averages over many poses: average precision, areas under curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def average_precision(correct: ArrayLike, n_true: int) -> float:
    """Area under the precision-recall curve, sampled at the 101 recalls 0, 0.01 ... 1.

    Args:
        correct: whether each estimate is right, best score first, ignored ones left out, (N,), bool.
        n_true: number of true objects that are not ignored, >= 1.

    Returns:
        in [0, 1]. Precision at a recall is the best one at this recall or beyond.

    Source: COCO detection evaluation; BOP challenge 2024, 6D detection.
    """
    right = np.cumsum(np.asarray(correct, bool))
    if n_true < 1:
        raise ValueError(f"average_precision needs at least one true object, got n_true = {n_true}")
    if not len(right):
        return 0.0
    precision = right / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(right / n_true, np.linspace(0, 1, 101), side="left")
    return float(np.append(envelope, 0.0)[index].mean())


def _without_nan(errors: ArrayLike) -> Array:
    array = np.asarray(errors, np.float64)
    if np.isnan(array).any():
        raise ValueError("errors must not be NaN; a missing estimate has an error of inf")
    return array


def auc_voc(errors: ArrayLike, limit: float = 0.1) -> float:
    """Area under accuracy over threshold, 0 to `limit`, as the YCB-Video tables have it: each step counts with its upper end.

    Args:
        errors: one per instance, inf for missing ones, (N,), metres.
        limit: largest threshold, metres.

    Returns:
        in [0, 1]; larger than `auc_step` by less than 1 / N.

    Source: Xiang et al., PoseCNN, RSS 2018, and its toolbox (VOCap on accuracies, scaled by 10 for a limit of 0.1 m).
    """
    errors = np.sort(_without_nan(errors))
    n = len(errors)
    if n == 0:
        return 0.0
    inside = errors[errors <= limit]
    if not len(inside):
        return 0.0
    accuracy = np.arange(1, len(inside) + 1) / n
    at = np.concatenate([[0.0], inside, [limit]])
    height = np.maximum.accumulate(np.concatenate([[0.0], accuracy, accuracy[-1:]]))
    # equal errors: the step to an error is as high as the first of its equals
    step = np.flatnonzero(np.diff(at)) + 1
    return float(((at[step] - at[step - 1]) * height[step]).sum() / limit)


def auc_step(errors: ArrayLike, limit: float = 0.1) -> float:
    """Exact area under accuracy over threshold, 0 to `limit`: the mean of max(0, 1 - error / limit).

    Args:
        errors: one per instance, inf for missing ones, (N,), metres.
        limit: largest threshold, metres.

    Returns:
        in [0, 1].
    """
    errors = _without_nan(errors)
    return float(np.clip(1 - errors / limit, 0, None).mean()) if errors.size else 0.0


def greedy(errors: ArrayLike, scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Give each estimate, best score first, the free true object with the smallest error strictly below the threshold.

    Args:
        errors: of each estimate to each true object of the same image and class, (E, G); with thresholds in a further
            dimension, (E, G, T), when each threshold has its own errors (VSD and its tolerances).
        scores: (E,); equal scores keep their order.
        thresholds: (T,).

    Returns:
        for each threshold and estimate the index of its true object, -1 for none, (T, E).

    Source: BOP challenge 2019, section 2; bop_toolkit `match_poses`.
    """
    errors, thresholds = np.asarray(errors, np.float64), np.asarray(thresholds, np.float64)
    if np.isnan(errors).any() or np.isnan(np.asarray(scores, np.float64)).any():
        raise ValueError("errors and scores must not be NaN; an estimate that has no error is inf away from everything")
    if errors.ndim == 2:
        errors = np.broadcast_to(errors[..., None], (*errors.shape, len(thresholds)))
    n_est, n_true, n_thr = errors.shape
    matched = np.full((n_thr, n_est), -1)
    if n_est == 0 or n_true == 0:
        return matched
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    every = np.arange(n_thr)
    if n_true == 1:  # the usual case: the first good one gets it
        good = errors[order, 0] < thresholds
        hit = good.any(0)
        matched[every[hit], order[good.argmax(0)[hit]]] = 0
        return matched
    free = np.ones((n_true, n_thr), bool)
    for e in order:
        candidates = np.where(free, errors[e], np.inf)
        best = candidates.argmin(0)
        hit = candidates[best, every] < thresholds
        matched[every[hit], e] = best[hit]
        free[best[hit], every[hit]] = False
    return matched


def localise(errors: ArrayLike, scores: ArrayLike, visibility: ArrayLike, inst_count: int, thresholds: ArrayLike) -> Array:
    """How many of the `inst_count` instances of one target are found, per threshold.

    Args:
        errors: (E, G) or (E, G, T), see `greedy`.
        scores: (E,). Only the `inst_count` best estimates count.
        visibility: visible shares of the true objects, (G,). Only the `inst_count` most visible ones count.
        inst_count: instances to find, from the targets file.
        thresholds: (T,).

    Returns:
        true positives, (T,). The number to find is `min(inst_count, G)`.

    Source: BOP challenge 2019, 6D localization of a varying number of instances.
    """
    errors = np.asarray(errors, np.float64)
    scores = np.asarray(scores, np.float64)
    estimates = np.argsort(-scores, kind="stable")[:inst_count]
    valid = np.sort(np.argsort(-np.asarray(visibility, np.float64), kind="stable")[:inst_count])
    return (greedy(errors[estimates][:, valid], scores[estimates], thresholds) >= 0).sum(-1)
