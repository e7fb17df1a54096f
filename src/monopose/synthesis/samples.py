"""Crops of a scene as an imperfect detector cuts them, and their targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import se3
from ..types import Camera, ObjectModel
from . import scene as synth

HIDDEN = 0.15  # objects of which less is seen than this share are shown without their neighbours
OCCLUDED = 0.4  # share of crops in which another object is put before the one to learn


@dataclass(frozen=True)
class Source:
    """What synthetic samples are made from."""

    models: Mapping[int, ObjectModel]  # known objects by id
    camera: Camera  # of the photos to come
    photos: Sequence[np.ndarray] = ()  # backgrounds, (H, W, 3) uint8
    scene: synth.SceneConfig = field(default_factory=synth.SceneConfig)
    others: Sequence[ObjectModel] = ()  # models that are not learned but may stand in the way, obj_id -1


def amodal_box(model: ObjectModel, cam_from_obj: Tensor, K: Tensor) -> Tensor:
    """The box around the whole silhouette, beyond the image's border if need be, (4,), xyxy pixel edges."""
    return box_ops.from_points(camera_ops.project(se3.transform(cam_from_obj, model.vertices), K))


SHIFT, ZOOM = 0.12, 0.2  # how wrong the boxes of a detector are, see `jittered_square`


def check_jitter(shift: float, zoom: float, even: bool = False) -> tuple[float, float]:
    if shift < 0 or zoom < 0:
        raise ValueError(f"shift and zoom of training crops must be 0 or more, got {shift:g} and {zoom:g}")
    if even and zoom >= 1:
        raise ValueError(f"zoom of training crops that are drawn evenly must be below 1, got {zoom:g}")
    return shift, zoom


def jittered_square(
    box: Tensor, scale: float, rng: Generator, shift: float = SHIFT, zoom: float = ZOOM, even: bool = False
) -> Tensor:
    """The square crop around a box as an imperfect detector would place it.

    Args:
        box: (4,), xyxy.
        scale: side of the crop / longer side of the box.
        rng: source of randomness.
        shift: along each axis the crop lies beside the box, by half of this as a rule (one deviation), twice this at most, in
            longer sides of the box.
        zoom: the crop is at most exp(zoom) times larger or smaller.
        even: as CDPN does ("dynamic zoom-in"): shifted evenly up to `shift` widths and heights of the box, and 1 - zoom to
            1 + zoom times as large.

    Returns:
        (4,), xyxy.
    """
    if even:
        square = box_ops.square(box, scale * float(rng.uniform(1 - zoom, 1 + zoom)))
        move = (box[2:] - box[:2]) * torch.from_numpy(rng.uniform(-shift, shift, 2)).float()
        return square + torch.cat([move, move])
    square = box_ops.square(box, scale * float(np.exp(rng.uniform(-zoom, zoom))))
    move = (box[2:] - box[:2]).max() * torch.from_numpy(np.clip(rng.normal(0, shift / 2, 2), -2 * shift, 2 * shift)).float()
    return square + torch.cat([move, move])


def crop_K(K: Tensor, square: Tensor, side: int) -> np.ndarray:
    """`camera.crop_resize_K` for one square crop in numpy, (3, 3), float64."""
    out = K.numpy().astype(np.float64)
    left, top, right, bottom = square.tolist()
    scale = np.array([side / (right - left), side / (bottom - top)])
    out[:2, :2] *= scale[:, None]
    out[:2, 2] = (out[:2, 2] + 0.5 - (left, top)) * scale - 0.5
    return out  # type: ignore[no-any-return]


def near_crop(layout: synth.Layout, K: np.ndarray, side: int) -> synth.Layout:
    """Drop objects whose bounding sphere does not touch the crop; the first one stays."""
    t = layout.cam_from_obj[:, :3, 3].numpy()
    homogeneous = t @ K.T
    centre = homogeneous[:, :2] / homogeneous[:, 2:].clip(1e-6)
    reach = np.array([[m.diameter] for m in layout.models]) * K[0, 0] / t[:, 2:].clip(1e-3)
    touches = ((centre > -reach) & (centre < side + reach)).all(1)
    touches[0] = True
    rows = np.flatnonzero(touches).tolist()
    return synth.Layout([layout.models[r] for r in rows], layout.cam_from_obj[rows])


def occluded(layout: synth.Layout, rng: Generator) -> synth.Layout:
    """Put one of the other objects of a layout between the camera and its first, as a rule below its middle: on a table what is
    nearer is lower in the picture. In `OCCLUDED` of the layouts that have others."""
    if rng.random() >= OCCLUDED or len(layout.models) < 2:
        return layout
    i = int(rng.integers(1, len(layout.models)))
    poses, radii = layout.cam_from_obj.clone(), [m.diameter / 2 for m in layout.models]
    middles = [(pose[:3, :3] @ m.bounds.mean(0) + pose[:3, 3]).double() for m, pose in zip(layout.models, poses, strict=True)]
    share = float(rng.uniform(0.6, 0.95))  # of the way to the first object
    angle = rng.normal(math.pi / 2, 1.0) if rng.random() < 0.6 else rng.uniform(0, 2 * math.pi)
    reach = radii[0] * rng.uniform(0.2, 0.7) + radii[i] / share * rng.uniform(0.1, 0.7)
    spot = share * (middles[0] + reach * torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64))
    if float(spot[2]) > 2 * radii[i]:  # not at the lens
        poses[i, :3, 3] += (spot - middles[i]).to(poses)
    return synth.Layout(layout.models, poses)


def grey_strip(side: int, rng: Generator) -> np.ndarray:
    """A random strip at one side of a square picture, (side, side), bool."""
    cut = int(rng.uniform(0.03, 0.3) * side)
    strips: list[Any] = [np.s_[:cut], np.s_[side - cut :], np.s_[:, :cut], np.s_[:, side - cut :]]
    where: np.ndarray = np.zeros((side, side), bool)
    where[strips[int(rng.integers(4))]] = True
    return where


def grey_border(picture: np.ndarray, visible: np.ndarray, rng: Generator) -> None:
    """Grey a strip at one side, in place, as if the photo ended there; never more than half of the visible object."""
    where = grey_strip(len(picture), rng)
    if visible[where].sum() < 0.5 * visible.sum():
        picture[where] = 128
        visible[where] = False


def grey_spots(side: int, rng: Generator) -> tuple[int, np.ndarray]:
    """How wrong the mask is by which a crop is greyed: pixels that it grows, spots (side, side) of 1 and 0, -1 elsewhere."""
    reach = int(rng.integers(1, max(side // 16, 2)))
    spots: np.ndarray = np.full((side, side), -1, np.int8)
    for _ in range(rng.integers(0, 4)):
        spot = (int(rng.uniform(0, side)), int(rng.uniform(0, side)))
        axes = (int(rng.uniform(2, side / 8)), int(rng.uniform(2, side / 8)))
        turn, value = rng.uniform(0, 180), int(rng.integers(0, 2))
        drawn = cv2.ellipse(np.zeros((side, side), np.uint8), spot, axes, turn, 0, 360, 1, -1)
        spots[drawn > 0] = value
    return reach, spots


def grey_out(picture: np.ndarray, visible: np.ndarray, rng: Generator) -> np.ndarray:
    """What stage 2 sees: grey outside a wrong-ish mask of the object, with holes and kept background."""
    reach, spots = grey_spots(len(picture), rng)
    mask = cv2.dilate(visible.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    mask = np.where(spots >= 0, spots, mask)
    return np.where(mask[..., None] > 0, picture, np.uint8(128))


def one_thread(worker: int) -> None:
    """Keep a worker process to one core: they are many."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
