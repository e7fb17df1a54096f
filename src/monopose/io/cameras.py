"""Camera files of several formats to a `Camera`."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..types import Camera
from .files import IMAGE_SUFFIXES, existing_file


class ImageWarning(UserWarning):
    """Something was done to a picture, or looks odd about it or its camera, that the user should know."""


# ----------------------------------------------------------------------------------------------------------- cameras


def read_camera(path: str | Path, *, im_id: int | None = None, size: tuple[int, int] | None = None) -> Camera:
    """A camera from a file.

    Args:
        path: BOP `camera.json` (fx, fy, cx, cy, width, height), MegaPose `camera_data.json` (K, resolution = [h, w]),
            ROS camera_info YAML (calibration file or echoed message; plumb_bob or rational_polynomial), or BOP
            `scene_camera.json` (one cam_K per image).
        im_id: which image of a `scene_camera.json`; not needed if all its images share one camera.
        size: (height, width) of the image, pixels; only for `scene_camera.json`, which does not tell it.

    Raises:
        FileNotFoundError: nothing there; names similar files.
        ValueError: unreadable, or a key is missing; names file and key.
    """
    return camera_of(parse_camera(path), im_id, size)


class CameraFile(NamedTuple):
    """A camera file, parsed."""

    path: Path
    content: dict[str, Any]


def camera_of(file: CameraFile, im_id: int | None, size: tuple[int, int] | None) -> Camera:
    path, content = file
    if all(key in content for key in ("fx", "fy")) or "cx" in content:
        fx, fy, cx, cy = (_number(content, key, path) for key in ("fx", "fy", "cx", "cy"))
        height, width = (_number(content, key, path) for key in ("height", "width"))
        return _camera([fx, 0, cx, 0, fy, cy, 0, 0, 1], (height, width), None, path)
    if "resolution" in content or set(content) == {"K"}:
        height, width = camera_numbers(content, "resolution", 2, path)
        return _camera(camera_numbers(content, "K", 9, path), (height, width), None, path)
    lower = {key.lower(): value for key, value in content.items()}
    if "camera_matrix" in lower or "distortion_model" in lower:
        return _ros_camera(lower, path)
    if content and all(re.fullmatch(r"\d+", key) for key in content):
        return _scene_camera(content, im_id, size, path)
    raise ValueError(
        f"{path} is no camera file: it has the keys {', '.join(list(content)[:8]) or '(none)'}; expected fx, fy, cx, cy, "
        "width, height (BOP), K and resolution (MegaPose), camera_matrix, image_width, image_height (ROS), or image numbers "
        "with cam_K (BOP scene_camera)"
    )


def parse_camera(path: str | Path) -> CameraFile:
    import yaml

    path = existing_file(path, "camera file")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{path} is an image, expected a camera file (.json or .yaml); swapped with the picture?")
    try:
        text = path.read_text(encoding="utf-8-sig")
        documents = [json.loads(text)] if text.lstrip().startswith(("{", "[")) else list(yaml.safe_load_all(text))
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} is neither valid JSON nor valid YAML ({' '.join(str(error).split())}); expected a camera file"
        ) from error
    if not documents or not isinstance(documents[0], dict):
        got = type(documents[0]).__name__ if documents else "nothing"
        raise ValueError(f"{path} should hold one table of camera values, got {got}")
    return CameraFile(path, {str(key): value for key, value in documents[0].items()})


def camera_numbers(table: Mapping[str, Any], key: str, count: int | None, path: Path) -> list[float]:
    if key not in table:
        raise ValueError(f"{path} has no {key!r}; it has {', '.join(map(str, table))}")
    value = table[key]
    if isinstance(value, Mapping):  # ROS writes matrices as {rows, cols, data}
        return camera_numbers(value, "data", count, path)
    try:
        flat = [float(v) for v in np.asarray(value, dtype=float).reshape(-1)]
    except (TypeError, ValueError):
        flat = []
    if not flat or (count is not None and len(flat) != count) or not all(map(math.isfinite, flat)):
        raise ValueError(f"{path}: {key!r} should be {count or 'some'} number{'s' * (count != 1)}, got {value!r}")
    return flat


def _number(table: Mapping[str, Any], key: str, path: Path) -> float:
    return camera_numbers(table, key, 1, path)[0]


def _camera(K: list[float], size: tuple[float, float], distortion: list[float] | None, path: Path) -> Camera:
    matrix = torch.tensor(K).reshape(3, 3)
    if matrix[2].tolist() != [0.0, 0.0, 1.0] or float(matrix[1, 0]) != 0:
        hint = (
            "it is transposed: write it row by row"
            if matrix[:2, 2].tolist() == [0.0, 0.0]
            else "expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
        )
        raise ValueError(f"{path}: K is {matrix.tolist()}; {hint}")
    height, width = round(size[0]), round(size[1])
    try:
        camera = Camera(matrix, (height, width), None if not distortion or not any(distortion) else torch.tensor(distortion))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    cx, cy = float(matrix[0, 2]), float(matrix[1, 2])
    if not (0 < cx < width and 0 < cy < height):
        warnings.warn(
            f"{path.name}: the principal point ({cx:.1f}, {cy:.1f}) lies outside the {width}x{height} image (width x height); "
            "are height and width swapped, or was the image cropped?",
            ImageWarning,
            stacklevel=3,
        )
    return camera


def _ros_camera(lower: Mapping[str, Any], path: Path) -> Camera:
    prefix = "image_" if "camera_matrix" in lower else ""
    size = (_number(lower, prefix + "height", path), _number(lower, prefix + "width", path))
    K = camera_numbers(lower, "camera_matrix" if "camera_matrix" in lower else "k", 9, path)
    model = lower.get("distortion_model", "plumb_bob")
    key = "distortion_coefficients" if "distortion_coefficients" in lower else "d"
    if model not in ("plumb_bob", "rational_polynomial", "", None):
        raise ValueError(
            f"{path}: distortion_model {model!r} is not supported, only plumb_bob and "
            "rational_polynomial; rectify the images first"
        )
    given = lower.get(key)
    empty = given is None or (isinstance(given, Mapping) and not given.get("data")) or (isinstance(given, list) and not given)
    distortion = None if empty else camera_numbers(lower, key, None, path)
    if distortion and len(distortion) not in (4, 5, 8):
        raise ValueError(
            f"{path}: {key!r} should hold 4, 5 or 8 coefficients (k1, k2, p1, p2[, k3[, k4, k5, k6]]), got {len(distortion)}"
        )
    return _camera(K, size, distortion, path)


def _scene_camera(content: Mapping[str, Any], im_id: int | None, size: tuple[int, int] | None, path: Path) -> Camera:
    if im_id is None or (str(im_id) not in content):
        different = {json.dumps(entry.get("cam_K", entry)) for entry in content.values()}
        if len(different) > 1:
            given = "no image number was given" if im_id is None else f"not for image {im_id}"
            raise ValueError(f"{path} holds cameras for the images {_some(content)}, {given}; give im_id=")
        im_id = int(next(iter(content)))
    entry = content[str(im_id)]
    if "cam_K" not in entry:
        raise ValueError(
            f"{path}, image {im_id}: no 'cam_K' but {', '.join(entry)}; only pinhole cameras are "
            "supported, rectify the images first"
        )
    if size is None:
        raise ValueError(f"{path} does not say how large its images are; give size=(height, width)")
    return _camera(camera_numbers(entry, "cam_K", 9, path), size, None, path)


def _some(names: Mapping[str, Any]) -> str:
    keys = list(names)
    return ", ".join(keys[:5]) + (f" … {keys[-1]} ({len(keys)} in all)" if len(keys) > 5 else "")


def width_by_height(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
