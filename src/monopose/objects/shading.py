"""How well light on a CAD model explains what a photo shows inside of its outline, and the pose where it does so best.

An outline says little about which way a surface is turned; its shading does. Where the photo shows the object, it is taken for
the colours of the CAD model under unknown distant light: nine spherical harmonics of the surface normal for each channel, which
a linear least-squares problem gives for any pose. Nothing is trained.

Sources: Ramamoorthi and Hanrahan (SIGGRAPH 2001), light on a matt surface as nine harmonics; Golub and Pereyra (1973), variable
projection: the light is solved for within each step of the pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..geometry import camera as camera_ops
from ..synthesis import fused
from ..types import ObjectModel

Array = NDArray[np.float64]

SIDE = 96  # pixels of a crop
FEWEST = 60  # pixels without which nothing is said
HARMONICS = 9
RIDGE = 1e-3  # of the harmonics but the constant one, relative to the mean diagonal
OUTLIER = 1.5  # deviations from which a pixel counts linearly: shadows, highlights
NOISE = 0.01  # grey values from 0 to 1: least deviation
FLAT = 3e-4  # variance of a photo that has nothing to explain
CORRELATED = 20.0  # pixels that err together
DEVIATIONS = np.array([0.03, 0.03, 0.1, 0.3, 0.3, 0.3])  # of the given pose: diameters and radians
STEPS = np.array([0.004, 0.004, 0.02, 0.012, 0.012, 0.012])  # of the numeric derivatives
LEAST = 0.3  # share explained with which a new pose is believed
FURTHEST = 0.15  # radians in one step
ROUNDS = 4
TRIES = 3  # of shorter and shorter steps in a round


class _Crop(NamedTuple):
    """A square of the photo, and how sure it is that a pixel shows the object."""

    K: Array  # (3, 3)
    photo: Array  # (3, s, s)
    visible: Array  # (s, s)


class _Lit(NamedTuple):
    """The object at a pose under the light that suits the photo best."""

    rows: NDArray[np.bool_]  # (s, s), pixels that count
    weights: Array  # (N,), of them
    light: Array  # (3, 9)
    residuals: Array  # (3, N)
    variance: Array  # (3,)
    explained: float  # share of the photo's variance


def refine(
    image: Tensor, K: Tensor, poses: Tensor, models: Sequence[ObjectModel], boxes: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor]:
    """Poses that explain the shading in a photo better, and how much of it they explain.

    Args:
        image: (3, H, W), RGB in [0, 1].
        K: of the image, (3, 3), pixels.
        poses: roughly right, (B, 4, 4), metres; an object that covers too few pixels stays where it is, and one whose shading
            no light explains.
        models: the CAD models, B of them.
        boxes: crops around the objects, (B, 4), xyxy pixel edges.
        visible: probability that a pixel of such a crop shows the object, (B, h, w).

    Returns:
        (B, 4, 4); share of the variance within the visible object that light on it explains, (B,), 0 to 1.
    """
    found = [
        _refined(_crop(image, K, box, seen), model, pose.double().cpu().numpy())
        for pose, model, box, seen in zip(poses, models, boxes, visible, strict=True)
    ]
    moved = torch.from_numpy(np.stack([pose for pose, _ in found])) if found else poses
    return moved.to(poses), poses.new_tensor([share for _, share in found])


def explained(image: Tensor, K: Tensor, poses: Tensor, models: Sequence[ObjectModel], boxes: Tensor, visible: Tensor) -> Tensor:
    """How much of the shading poses explain, (B,); the arguments are those of `refine`."""
    found = [
        _lit(_crop(image, K, box, seen), model, pose.double().cpu().numpy())
        for pose, model, box, seen in zip(poses, models, boxes, visible, strict=True)
    ]
    return poses.new_tensor([0.0 if lit is None else lit.explained for lit in found])


def _crop(image: Tensor, K: Tensor, box: Tensor, visible: Tensor) -> _Crop:
    intrinsics = camera_ops.crop_resize_K(K.double().cpu(), box.double().cpu(), (SIDE, SIDE)).numpy()
    photo = camera_ops.cut(image, box[None], SIDE)[0].double().cpu().numpy()
    sure = F.interpolate(visible[None, None].double(), (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]
    return _Crop(intrinsics, photo, sure.cpu().numpy())


def _harmonics(normal: Array) -> Array:
    """Of unit vectors (3, N), up to the second degree and unscaled: (9, N)."""
    x, y, z = normal
    return np.stack([np.ones_like(x), x, y, z, x * y, y * z, x * z, z * z, x * x - y * y])


def _lit(crop: _Crop, model: ObjectModel, pose: Array) -> _Lit | None:
    """None where too little of the object is seen."""
    normal, albedo, shown = fused.surface(model, pose, crop.K, SIDE)
    inner = shown.copy()  # without the outermost pixels, which the photo shares with what is behind
    inner[1:] &= shown[:-1]
    inner[:-1] &= shown[1:]
    inner[:, 1:] &= shown[:, :-1]
    inner[:, :-1] &= shown[:, 1:]
    rows = inner & (crop.visible > 0.05)
    if rows.sum() < FEWEST:
        return None
    weights, harmonics = crop.visible[rows], _harmonics(normal[:, rows].astype(np.float64))
    lights, residuals, variances = [], [], []
    left = there = 0.0
    for colour, seen in zip(albedo[:, rows].astype(np.float64), crop.photo[:, rows]):
        A, now = colour * harmonics, weights
        for _ in range(3):
            H = (A * now) @ A.T
            H += np.diag([1e-6, *[1e-6 + RIDGE * np.trace(H) / HARMONICS] * (HARMONICS - 1)])
            light = np.linalg.solve(H, (A * now) @ seen)
            r = seen - light @ A
            now = weights / np.maximum(1, np.abs(r) / (OUTLIER * (1.4826 * np.median(np.abs(r)) + NOISE)))
        left += float(now @ r**2)
        there += float(now @ (seen - np.average(seen, weights=now)) ** 2)
        lights.append(light)
        residuals.append(r)
        variances.append(float(now @ r**2) / weights.sum())
    nothing = FLAT * len(weights)
    share = 1 - (left + nothing) / (there + nothing)
    return _Lit(rows, weights, np.stack(lights), np.stack(residuals), np.array(variances), share)


def _refined(crop: _Crop, model: ObjectModel, start: Array) -> tuple[Array, float]:
    """Levenberg-Marquardt on the pose; steps are (diameters, radians) about the object's middle."""
    middle, pose, total = model.bounds.mean(0).double().numpy(), start, np.zeros(6)
    lit = _lit(crop, model, pose)
    if lit is None:
        return start, 0.0
    before = lit.explained
    prior, damping, best = np.diag(DEVIATIONS**-2.0), 1e-2, _cost(lit, total)
    for _ in range(ROUNDS):
        J = np.stack([_slope(crop, lit, model, pose, middle, k) for k in range(6)])  # (6, 3, N)
        deviation = np.sqrt(lit.variance)[:, None] + NOISE
        weights = lit.weights / np.maximum(1, np.abs(lit.residuals) / (OUTLIER * deviation)) / deviation**2 / CORRELATED
        H, g = np.einsum("ick,ck,jck->ij", J, weights, J) + prior, np.einsum("ick,ck->i", J, weights * lit.residuals)
        for _ in range(TRIES):
            step = np.linalg.solve(H + damping * np.diag(np.diag(H)), g - prior @ total)
            step *= min(1, FURTHEST / max(np.abs(step[3:]).max(), 1e-9))
            moved = _moved(pose, step, middle, model.diameter)
            new = _lit(crop, model, moved)
            if new is not None and _cost(new, total + step) < best - 1e-3:
                break
            damping *= 10
        else:
            break
        pose, total, lit, best, damping = moved, total + step, new, _cost(new, total + step), 0.3 * damping
    return (pose, lit.explained) if lit.explained >= LEAST else (start, before)


def _cost(lit: _Lit, total: Array) -> float:
    """Minus the logarithm of the posterior: noise of unknown size, and a given pose `total` away."""
    pixels = 3 * lit.weights.sum() / CORRELATED
    return 0.5 * pixels * float(np.log(max(1 - lit.explained, 1e-9))) + 0.5 * float(((total / DEVIATIONS) ** 2).sum())


def _slope(crop: _Crop, lit: _Lit, model: ObjectModel, pose: Array, middle: Array, k: int) -> Array:
    """Derivative of the object's colours in that light, (3, N), by coordinate k of a step."""
    step = np.zeros(6)
    step[k] = STEPS[k]
    there = []
    for sign in (1, -1):
        normal, albedo, _ = fused.surface(model, _moved(pose, sign * step, middle, model.diameter), crop.K, SIDE)
        there.append(lit.light @ _harmonics(normal[:, lit.rows].astype(np.float64)) * albedo[:, lit.rows])
    return np.asarray((there[0] - there[1]) / (2 * STEPS[k]))


def _moved(pose: Array, step: Array, middle: Array, diameter: float) -> Array:
    """A pose turned about the object's middle, which moves by so many diameters, camera frame."""
    import cv2

    out = pose.copy()
    out[:3, :3] = cv2.Rodrigues(step[3:])[0] @ pose[:3, :3]
    out[:3, 3] = pose[:3, :3] @ middle + pose[:3, 3] + diameter * step[:3] - out[:3, :3] @ middle
    return out
