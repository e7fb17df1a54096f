"""How far a pose is from the truth: in diameters, millimetres and degrees, symmetries counted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..evaluation import errors
from ..evaluation.bop import Object
from ..types import ObjectModel

Array = NDArray[Any]


class Error(NamedTuple):
    """Of one pose, to the nearest of the equivalent true poses."""

    share: float  # MSSD: the farthest that a point of the surface is from its true place, diameters
    mm: float  # distance of the origins
    deg: float  # between the orientations


def judged_by(model: ObjectModel) -> Object:
    """The object as errors need it."""
    points, s = model.vertices.double().numpy(), model.symmetries
    group = errors.symmetry_group(s.discrete.numpy(), s.axes.numpy(), s.offsets.numpy())
    return Object(points, errors.hull(points), group, len(group) > 1, model.diameter)


def judge(est: Array, true: Array, model: Object) -> Error:
    """The error of an estimate to one true pose; both (4, 4), metres."""
    twins = true @ model.group
    distance = errors.mssd(est[None], twins, model.hull)
    nearest = twins[int(distance.argmin())]
    mm, deg = 1000 * errors.translation(est, nearest), np.degrees(errors.rotation(est, nearest))
    return Error(float(distance.min()) / model.diameter, float(mm), float(deg))
