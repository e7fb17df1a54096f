"""What the node does, without ROS: plain values of messages in, plain values for messages out.

Poses are in the optical frame of the camera that the picture names in its header (x right, y down, z forward, metres): ROS's
convention for optical frames is monopose's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from monopose.datasets.bop.models import symmetries_json
from monopose.geometry.rotation import quat_xyzw_from_matrix
from monopose.io.cameras import CameraFile, camera_of
from monopose.io.images import as_frame
from monopose.tracking.tracker import Track
from monopose.types import Camera, Frame, ObjectModel, PoseEstimates

Array = NDArray[Any]
CHANNELS = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1}  # encoding -> bytes a pixel
UNKNOWN = 1e6  # variance of what nothing is known about: filters that take it leave it out


class Detection(NamedTuple):
    """One object, as vision_msgs/Detection3D has it.

    Args:
        name: of the object; the class_id.
        frame: child frame of tf: the name, numbered from the second of its kind on.
        score: probability that the pose is right, if the run is calibrated.
        position: of the object's origin, (3,), metres.
        orientation: quaternion x, y, z, w, (4,).
        covariance: row by row, 36 numbers: x, y, z (m), then rotations about X, Y, Z (rad) of the camera's frame.
        center: of the object's box, (3,), metres; its axes are those of `orientation`.
        size: of that box, (3,), metres; zeros where the run has no CAD model.
    """

    name: str
    frame: str
    score: float
    position: list[float]
    orientation: list[float]
    covariance: list[float]
    center: list[float]
    size: list[float]


def picture(encoding: str, height: int, width: int, step: int, data: bytes | Array) -> Array:
    """The pixels of a sensor_msgs/Image, (H, W, 3), uint8, RGB.

    Args:
        encoding, height, width, step, data: the fields of the message.

    Raises:
        ValueError: another encoding; fewer bytes than the size needs.
    """
    if encoding not in CHANNELS:
        raise ValueError(f"pictures in {encoding!r} are not read; expected {', '.join(CHANNELS)}; convert with image_proc")
    count = CHANNELS[encoding]
    flat = np.frombuffer(bytes(data), np.uint8)
    if step < width * count or len(flat) < step * height or not width * height:
        raise ValueError(f"a picture of {width}x{height} in {encoding} with step {step} has {len(flat)} bytes")
    pixels = flat[: step * height].reshape(height, step)[:, : width * count].reshape(height, width, count)
    if count == 1:
        return np.repeat(pixels, 3, axis=2)
    rgb = pixels[..., :3]
    return np.ascontiguousarray(rgb[..., ::-1] if encoding.startswith("bgr") or encoding == "8UC3" else rgb)


def camera(info: Mapping[str, Any], rectified: bool) -> CameraFile:
    """The camera of a sensor_msgs/CameraInfo as monopose's readers take it, with its region of interest and binning.

    Args:
        info: the fields of the message by name (width, height, k, d, p, distortion_model, roi, binning_x, binning_y).
        rectified: the pictures are rectified (image_rect): P holds for them, and no distortion is left.

    Raises:
        ValueError: an uncalibrated camera, whose K (or P) is zero.
    """
    fields = {name: info[name] for name in ("width", "height", "roi", "binning_x", "binning_y") if name in info}
    if fields.get("roi", {}).get("do_rectify"):
        raise ValueError("the region of interest is to be rectified (do_rectify), which is not done here; give image_rect")
    matrix = [float(v) for v in (info["p"] if rectified else info["k"])]
    if not matrix[0] > 0:
        raise ValueError(f"the camera is not calibrated: CameraInfo.{'p' if rectified else 'k'} is {matrix}")
    if rectified:
        fields["k"] = [matrix[n] for n in (0, 1, 2, 4, 5, 6, 8, 9, 10)]
    else:
        fields |= {"k": matrix, "d": [float(v) for v in info["d"]], "distortion_model": info["distortion_model"]}
    return CameraFile(Path("CameraInfo"), fields)


def frame_of(image: Array, info: Mapping[str, Any], rectified: bool = False) -> Frame:
    """The picture and its camera, distortion removed. `image` as `picture` gives it, `info` as `camera` takes it.

    Raises:
        ValueError: they do not fit each other.
    """
    known: Camera = camera_of(camera(info, rectified), None, None)
    return as_frame(image, known)


def detections(poses: PoseEstimates | Sequence[Track], models: Mapping[int, ObjectModel]) -> list[Detection]:
    """Poses of one picture, or the tracks that are not lost, as messages have them.

    Args:
        poses: what `run(frame).poses` or `Tracker.step` gives.
        models: object id -> CAD model, for boxes.
    """
    if isinstance(poses, PoseEstimates):
        covariances = [None] * len(poses) if poses.covariance is None else list(poses.covariance)
        names = [poses.name_of(label) for label in poses.labels.tolist()]
        rows = list(zip(poses.labels.tolist(), names, poses.scores.tolist(), poses.cam_from_obj, covariances))
    else:
        rows = [(t.label, t.name, 1 - t.probability_lost, t.cam_from_obj, t.covariance) for t in poses if not t.lost]
    seen: Counter[str] = Counter()
    found = []
    for label, name, score, pose, covariance in rows:
        seen[name] += 1
        R, t = pose[:3, :3].double().cpu(), pose[:3, 3].double().cpu()
        bounds = models[label].bounds.double().cpu() if label in models else torch.zeros(2, 3, dtype=torch.float64)
        frame = name if seen[name] == 1 else f"{name}_{seen[name]}"
        turn = quat_xyzw_from_matrix(R).tolist()
        middle, size = (R @ bounds.mean(0) + t).tolist(), (bounds[1] - bounds[0]).tolist()
        found.append(Detection(name, frame, float(score), t.tolist(), turn, _covariance(covariance), middle, size))
    return found


def _covariance(covariance: torch.Tensor | None) -> list[float]:
    """Row by row. Both sides mean the same six numbers: monopose's tangent (v, omega) moves the object's origin by v and turns
    the object about its origin by omega, both along the axes of the camera's frame."""
    if covariance is None or not bool(torch.isfinite(covariance).all()):
        return (UNKNOWN * np.eye(6)).ravel().tolist()
    return covariance.double().cpu().reshape(-1).tolist()


def objects(models: Mapping[int, ObjectModel]) -> str:
    """What is latched for consumers: name -> id, size (m), diameter (m), symmetries as BOP writes them (mm), as JSON."""
    known = {}
    for label, model in models.items():
        size = (model.bounds[1] - model.bounds[0]).tolist()
        known[model.name] = {"id": label, "size": size, "diameter": model.diameter, **symmetries_json(model.symmetries)}
    return json.dumps(known)
