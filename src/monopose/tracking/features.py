"""Features of a texture: points of an object that look the same from frame to frame, added to the pull of its contour.

A keyframe holds ORB features with their places on the object. A textureless object has no keyframes, and costs nothing.
Arrays are numpy. Source: Stoiber et al., ICG+ and M3T (texture modality).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ..contour.points import Array
from ..geometry import se3
from ..render.raster import rasterize
from ..types import ObjectModel

COUNT, FACTOR, LEVELS = 300, 1.2, 3  # ORB
LEAST = 20  # features that make a keyframe; an object with fewer has no texture
RIM = 4  # pixels of a silhouette's edge where features belong to what is behind as well
RATIO = 0.7  # to the second best, that a match has to beat
CUT = 20.0  # pixels beyond which a match pulls no more (Tukey)
INLIER = 4.0  # pixels
TURN = math.radians(15)  # of the viewing direction, after which there is a new keyframe
FAR = math.radians(40)  # to the nearest keyframe, beyond which nothing is matched
MOST = 24  # keyframes
SIGMA = 2.0  # pixels, of a feature at best


class Keyframe(NamedTuple):
    """Features of one view: points (N, 3), metres, object frame; descriptors (N, 32); direction to the camera (3,)."""

    points: Array
    descriptors: Array
    direction: Array


class Matches(NamedTuple):
    """Points of an object (M, 3), metres, and where they are seen (M, 2), pixels of the crop."""

    points: Array
    pixels: Array


NONE = Matches(np.zeros((0, 3)), np.zeros((0, 2)))


@lru_cache(1)
def _tools() -> tuple[Any, Any]:
    import cv2

    return cv2.ORB.create(COUNT, FACTOR, LEVELS), cv2.BFMatcher(cv2.NORM_HAMMING)


def direction_of(pose: Array) -> Array:
    """From an object's origin to the camera, unit, object frame, (3,)."""
    away = -pose[:3, :3].T @ pose[:3, 3]
    return away / max(float(np.linalg.norm(away)), 1e-9)


def nearest(keyframes: Sequence[Keyframe], pose: Array) -> tuple[int, float]:
    """The keyframe seen from nearest to where the camera is, and the angle between both, radians; -1 if there is none."""
    if not keyframes:
        return -1, math.inf
    cosines = np.stack([k.direction for k in keyframes]) @ direction_of(pose)
    best = int(cosines.argmax())
    return best, math.acos(float(np.clip(cosines[best], -1, 1)))


def keyframe(model: ObjectModel, grey: Array, free: Array, K: Array, pose: Array) -> Keyframe | None:
    """Features on the object in a crop.

    Args:
        model: the CAD model.
        grey: the crop, (h, h), uint8.
        free: which pixels nothing known hides, (h, h), bool.
        K: of the crop, (3, 3).
        pose: cam_from_obj, (4, 4), metres.

    Returns:
        None where there are fewer than `LEAST`.
    """
    import cv2

    height, width = grey.shape
    vertices = se3.transform(torch.from_numpy(pose).float(), model.vertices.float())[None]
    half = K.copy()
    half[:2] /= 2
    depth = rasterize(vertices, model.faces, torch.from_numpy(half), (height // 2, width // 2)).depth[0].numpy()
    mask = cv2.resize((depth > 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) * free.astype(np.uint8)
    mask = cv2.erode(mask, np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8))
    found, descriptors = _tools()[0].detectAndCompute(grey, mask * 255)
    if descriptors is None or len(found) < LEAST:
        return None
    pixels = np.array([f.pt for f in found])
    z = depth[(pixels[:, 1] / 2).astype(int).clip(0, height // 2 - 1), (pixels[:, 0] / 2).astype(int).clip(0, width // 2 - 1)]
    ray = np.linalg.inv(K) @ np.concatenate([pixels, np.ones((len(pixels), 1))], 1).T
    points = (ray.T * z[:, None] - pose[:3, 3]) @ pose[:3, :3]
    on = z > 0
    return Keyframe(points[on], descriptors[on], direction_of(pose)) if on.sum() >= LEAST else None


def matched(keyframes: Sequence[Keyframe], grey: Array, pose: Array, K: Array, radius: float) -> Matches:
    """Features of the nearest keyframe that are found in a crop.

    Args:
        keyframes: of the object.
        grey: the crop, (h, h), uint8.
        pose: about where the object is, (4, 4).
        K: of the crop.
        radius: pixels around the object's origin to look in.
    """
    import cv2

    which, angle = nearest(keyframes, pose)
    if angle > FAR or pose[2, 3] <= 0:
        return NONE
    known = keyframes[which]
    mask = np.zeros_like(grey)
    u, v = (K @ pose[:3, 3])[:2] / pose[2, 3]
    cv2.circle(mask, (round(float(u)), round(float(v))), max(round(radius), 1), 255, -1)
    orb, matcher = _tools()
    found, descriptors = orb.detectAndCompute(grey, mask)
    if descriptors is None or len(found) < 2:
        return NONE
    pairs = [m[0] for m in matcher.knnMatch(known.descriptors, descriptors, k=2) if m[0].distance < RATIO * m[1].distance]
    pixels = np.array([found[m.trainIdx].pt for m in pairs]).reshape(-1, 2)
    return Matches(known.points[[m.queryIdx for m in pairs]], pixels)


def normal_equations(matches: Matches, pose: Array, K: Array, sigma: float) -> tuple[Array, Array]:
    """Pull and information of matches at a pose in the tangent (v, omega): g (6,), A (6, 6).

    The cost is that of Tukey, (c^2 / 6) (1 - (1 - (e / c)^2)^3) / sigma^2 of the distance e in pixels, c = `CUT`.
    """
    residual, J = _residuals(matches, pose, K)
    far = np.minimum((residual**2).sum(1) / CUT**2, 1)
    w = (1 - far) ** 2 / max(sigma, SIGMA) ** 2
    g = -np.einsum("m,mi,mij->j", w, residual, J)
    return g, np.einsum("m,mij,mik->jk", w, J, J)


def inliers(matches: Matches, pose: Array, K: Array) -> int:
    """Matches within `INLIER` pixels of where a pose puts them."""
    return int((np.linalg.norm(_residuals(matches, pose, K)[0], axis=1) < INLIER).sum()) if len(matches.points) else 0


def _residuals(matches: Matches, pose: Array, K: Array) -> tuple[Array, Array]:
    """Pixels (M, 2) from the matches to the projections, and their Jacobian (M, 2, 6)."""
    Y = matches.points @ pose[:3, :3].T
    x, y, z = (Y + pose[:3, 3]).T
    z = np.where(z > 1e-6, z, np.inf)
    a, b, c = K[0, 0], K[0, 1], K[1, 1]
    u, v = (a * x + b * y) / z + K[0, 2], c * y / z + K[1, 2]
    zero = np.zeros_like(z)
    J_x = np.stack([
        np.stack([a / z, b / z, -(a * x + b * y) / z**2], 1),
        np.stack([zero, c / z, -c * y / z**2], 1),
    ], 1)  # fmt: skip
    return np.stack([u, v], 1) - matches.pixels, np.concatenate([J_x, np.cross(Y[:, None], J_x)], 2)
