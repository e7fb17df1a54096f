"""Which estimate belongs to which true object: greedy, in the order of the scores, for many thresholds at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


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
