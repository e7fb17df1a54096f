"""Averages over many poses: recall, average precision, areas under curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def recall(errors: ArrayLike, threshold: ArrayLike) -> float:
    """Share of errors strictly below the threshold, in [0, 1]; missing estimates count as inf; 0 without any.

    Args:
        errors: one per instance, (N,).
        threshold: a number, or one per instance (N,), e.g. 0.1 times the diameters.
    """
    errors = np.asarray(errors, np.float64)
    return float((errors < threshold).mean()) if errors.size else 0.0


def recall_rotation_translation(rotation: ArrayLike, translation: ArrayLike, degrees: float, metres: float) -> float:
    """Share of poses with both errors below their thresholds: "5 degrees 5 cm" is `(..., 5, 0.05)`.

    Args:
        rotation: (N,), radians, plain (no symmetries).
        translation: (N,), metres.
    """
    good = (np.degrees(np.asarray(rotation, np.float64)) < degrees) & (np.asarray(translation, np.float64) < metres)
    return float(good.mean()) if good.size else 0.0


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


def auc_voc(errors: ArrayLike, limit: float = 0.1) -> float:
    """Area under accuracy over threshold, 0 to `limit`, as the YCB-Video tables have it: each step counts with its upper end.

    Args:
        errors: one per instance, inf for missing ones, (N,), metres.
        limit: largest threshold, metres.

    Returns:
        in [0, 1]; larger than `auc_step` by less than 1 / N.

    Source: Xiang et al., PoseCNN, RSS 2018, and its toolbox (VOCap on accuracies, scaled by 10 for a limit of 0.1 m).
    """
    errors = np.sort(np.asarray(errors, np.float64))
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
    errors = np.asarray(errors, np.float64)
    return float(np.clip(1 - errors / limit, 0, None).mean()) if errors.size else 0.0
