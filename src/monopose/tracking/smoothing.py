"""Smoother tracks, for a delay: every pose from those of some frames before and after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..contour import lines

LEAST = 4  # frames that a smoothed pose is made from, at least
DEGREE = 2  # of the motion within the window: speeds and accelerations stay as they are


def smoothed(poses: Sequence[Tensor | None], middle: int) -> Tensor:
    """The pose in the middle of a window, from a polynomial through all of them (Savitzky and Golay).

    Args:
        poses: cam_from_obj (4, 4) of successive frames, None where the object is lost.
        middle: which of them is wanted; it must not be None.

    Returns:
        (4, 4); the pose as it is where there are fewer than `LEAST`.
    """
    pose = poses[middle]
    if pose is None:
        raise ValueError(f"the pose to be smoothed, {middle} of {len(poses)}, is None; a lost object has none")
    rows = [i for i, p in enumerate(poses) if p is not None]
    if len(rows) < LEAST:
        return pose
    reference = pose.double().numpy()[None]
    known = np.stack([p.double().numpy() for p in poses if p is not None])
    tangent = lines.difference(known, np.repeat(reference, len(known), 0))
    powers = (np.array(rows, float)[:, None] - middle) ** np.arange(DEGREE + 1)
    at_middle = np.linalg.lstsq(powers, tangent, rcond=None)[0][0]
    return torch.from_numpy(lines.moved(reference, at_middle[None])[0]).to(pose)
