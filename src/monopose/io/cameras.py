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
from . import records
from .files import IMAGE_SUFFIXES, existing_file, write_json


class ImageWarning(UserWarning):
    """Something was done to a picture, or looks odd about it or its camera, that the user should know."""


# ----------------------------------------------------------------------------------------------------------- cameras


def read_camera(path: str | Path, *, im_id: int | None = None, size: tuple[int, int] | None = None) -> Camera:
    """A camera from a file.

    Args:
        path: BOP `camera.json` (fx, fy, cx, cy, width, height), MegaPose `camera_data.json` (K, resolution = [h, w]),
            ROS camera_info YAML (calibration file or echoed message; plumb_bob or rational_polynomial; its region of interest
            and binning are taken into account), OpenCV's YAML (camera_matrix, distortion_coefficients, with or without
            `!!opencv-matrix`), Kalibr's camchain YAML (pinhole, radtan or none), COLMAP's `cameras.txt`, BOP
            `scene_camera.json` (one cam_K per image), or a text file of nine numbers (`cam_K.txt`).
            Distortion is read from all of them: OpenCV's coefficients under `distortion`, `dist_coeffs`, `D` and other usual
            names, or one by one as k1, k2, p1, p2, k3 ….
        im_id: which image of a `scene_camera.json`, camera of a camchain (1: cam1) or CAMERA_ID of a `cameras.txt`; not needed
            if there is one, or all are alike.
        size: (height, width) of the image, pixels; only for files that do not tell it.

    Raises:
        FileNotFoundError: nothing there; names similar files.
        ValueError: unreadable; a key is missing, or holds what cannot be right; names file and key.
    """
    file = parse_camera(path)
    if im_id is not None and _is_chain(file.content):
        if f"cam{im_id}" not in file.content:
            raise ValueError(f"{file.path} has no camera {im_id}; it holds {_some(file.content)}")
        file = CameraFile(file.path, {f"cam{im_id}": file.content[f"cam{im_id}"]})
    return camera_of(file, im_id, size)


class CameraFile(NamedTuple):
    """A camera file, parsed."""

    path: Path
    content: dict[str, Any]


DISTORTION = ("distortion", "distortion_coefficients", "distortion_coeffs", "dist_coeffs", "distcoeffs", "dist", "d", "coeffs")
ORDER = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")  # OpenCV's
KNOWN = {  # keys that say nothing about how points are projected, or are read
    *DISTORTION, *ORDER, "fx", "fy", "cx", "cy", "width", "height", "k", "camera_matrix", "resolution", "image_width",
    "image_height", "image_size", "w", "h", "cam_k", "distortion_model", "model", "camera_model", "roi", "binning_x",
    "binning_y", "camera_name", "name", "header", "r", "p", "rectification_matrix", "projection_matrix", "depth_scale", "skew",
}  # fmt: skip
PINHOLE = ("plumb_bob", "rational_polynomial", "pinhole", "opencv", "brown", "brown_conrady", "radtan", "", "none", None)


def camera_of(file: CameraFile, im_id: int | None, size: tuple[int, int] | None) -> Camera:
    """The camera in a parsed file, see `read_camera`; warns where it looks like another picture's."""
    camera = _camera_of(file, im_id, size)
    warn_of_doubts(camera, file.path.name)
    return camera


def warn_of_doubts(camera: Camera, name: str) -> None:
    """Warn where a camera could be one, and looks as if K were in another unit, or for a picture of another size."""
    K, (height, width) = camera.K.double(), camera.size
    fov = 2 * math.degrees(math.atan(width / 2 / float(K[0, 0])))
    doubts = []
    if fov >= 130:
        doubts.append(f"a horizontal field of view of {fov:.0f} degrees is unusual; is K in pixels and for this size?")
    if abs(float(K[0, 0] / K[1, 1]) - 1) > 0.05:
        doubts.append(f"fx {float(K[0, 0]):.4g} and fy {float(K[1, 1]):.4g} differ by more than 5 %; pixels are usually square")
    off = max(abs(float(K[0, 2]) - (width - 1) / 2) / width, abs(float(K[1, 2]) - (height - 1) / 2) / height)
    if 0.1 < off < 0.5:  # beyond, it lies outside, which `make_camera` says
        doubts.append(
            f"the principal point ({float(K[0, 2]):.4g}, {float(K[1, 2]):.4g}) is far from the middle of the {width}x{height} "
            "image; is the camera that of a crop, of a picture of another size, or are cx and cy swapped?"
        )
    for doubt in doubts:
        warnings.warn(f"{name}: {doubt}", ImageWarning, stacklevel=5)


def _camera_of(file: CameraFile, im_id: int | None, size: tuple[int, int] | None) -> Camera:
    path, content = file
    if content and all(re.fullmatch(r"\d+", key) for key in content):
        return _scene_camera(content, im_id, size, path)
    if _is_chain(content):
        return _chain_camera(content, path)
    lower = _lowered(content, str(path))
    if all(key in lower for key in ("fx", "fy")) or "cx" in lower:
        fx, fy, cx, cy = (_number(lower, key, path) for key in ("fx", "fy", "cx", "cy"))
        K = [fx, _number(lower, "skew", path) if "skew" in lower else 0.0, cx, 0, fy, cy, 0, 0, 1]
    elif "resolution" in lower or "camera_matrix" in lower or "k" in lower:
        K = camera_numbers(lower, "camera_matrix" if "camera_matrix" in lower else "k", 9, path)
    elif "cam_k" in lower:
        K = camera_numbers(lower, "cam_k", 9, path)
    else:
        raise ValueError(
            f"{path} is no camera file: it has the keys {', '.join(list(content)[:8]) or '(none)'}; expected fx, fy, cx, cy, "
            "width, height (BOP), K and resolution (MegaPose), camera_matrix, image_width, image_height (ROS, OpenCV), cam0 "
            "(Kalibr), or image numbers with cam_K (BOP scene_camera)"
        )
    model = lower.get("distortion_model", lower.get("camera_model", lower.get("model")))
    if not (model is None or (isinstance(model, str) and model.lower() in PINHOLE)):
        raise ValueError(
            f"{path}: distortion_model {model!r} is not supported, only plumb_bob and rational_polynomial; rectify the images "
            "first"
        )
    for key in ("fisheye", "fisheye_model", "is_fisheye", "xi"):  # of OpenCV's calibration tools, of Mei's model
        if lower.get(key) not in (None, False, 0, "0", "", "false"):
            raise ValueError(f"{path}: {key} says that the lens is a fisheye, which is not supported; rectify the images first")
    for key in ("camera_matrix", "k", "cam_k"):
        if key in lower and not np.allclose(camera_numbers(lower, key, 9, path), K, rtol=1e-4, atol=1e-3):
            raise ValueError(f"{path} gives the intrinsics more than once, and {key!r} differs from the others; keep one")
    where = _size_of(lower, path) or size
    if where is None:
        raise ValueError(f"{path} does not say how large its images are (width and height); give size=(height, width)")
    ignored = sorted(set(lower) - KNOWN)
    if (unread := records.lens_key(lower, KNOWN)) is not None:
        raise ValueError(f"{path} has the key {unread!r}, which is not read; write OpenCV's coefficients as {DISTORTION[0]!r}")
    if ignored:
        warnings.warn(f"{path.name}: the key(s) {', '.join(ignored[:6])} are not read", ImageWarning, stacklevel=4)
    lens = _distortion(lower, path)
    if not any(lens or ()) and "p" in lower and not _is_empty(lower["p"]):
        P = np.array(camera_numbers(lower, "p", 12, path)).reshape(3, 4)[:, :3]
        if P.any() and not np.allclose(P, np.reshape(K, (3, 3)), rtol=0.01, atol=1):
            text = f"{path.name}: P differs from K, which is taken; for rectified pictures P is right: write it as K"
            warnings.warn(text, ImageWarning, stacklevel=4)
    return _region(lower, K, where, lens, path)


def _lowered(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table by its keys in small letters; K and k in one of them are two that mean the same."""
    lower = {str(key).lower(): value for key, value in table.items()}
    if len(lower) < len(table):
        names = [str(key).lower() for key in table]
        twice = [str(key) for key in table if names.count(str(key).lower()) > 1]
        raise ValueError(f"{where}: the keys {' and '.join(twice[:4])} differ in nothing but capitals; keep one")
    return lower


def _size_of(lower: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    """(height, width) as a file of any kind writes it, or None."""
    if "resolution" in lower:  # [h, w]
        height, width = camera_numbers(lower, "resolution", 2, path)
        return records.image_size(height, width, str(path))
    for h, w in (("image_height", "image_width"), ("height", "width"), ("h", "w")):
        if h in lower or w in lower:
            return records.image_size(_number(lower, h, path), _number(lower, w, path), str(path))
    if "image_size" in lower:  # OpenCV writes [w, h]
        width, height = camera_numbers(lower, "image_size", 2, path)
        return records.image_size(height, width, str(path))
    return None


def _distortion(lower: Mapping[str, Any], path: Path) -> list[float] | None:
    """OpenCV's coefficients as a file of any kind writes them; None where there are none."""
    given = [key for key in DISTORTION if key in lower and not _is_empty(lower[key])]
    single = [key for key in ORDER if key in lower]
    if len(given) > 1 or (given and single):
        raise ValueError(f"{path} gives the distortion more than once: {', '.join([*given, *single])}; keep one")
    if single:
        last = max(ORDER.index(key) for key in single)
        count = next(n for n in (4, 5, 8) if n > last)
        return [_number(lower, key, path) if key in lower else 0.0 for key in ORDER[:count]]
    if not given:
        return None
    value = lower[given[0]]
    if isinstance(value, Mapping) and "data" not in value:
        inside = _distortion(_lowered(value, f"{path}: {given[0]!r}"), path)
        if inside is None:
            raise ValueError(f"{path}: {given[0]!r} holds no coefficients under k1, k2, p1, …, got {dict(value)!r:.80}")
        return inside
    coefficients = camera_numbers(lower, given[0], None, path)
    if len(coefficients) not in (4, 5, 8):
        if len(coefficients) > 8 and not any(coefficients[8:]):
            return coefficients[:8]
        raise ValueError(
            f"{path}: {given[0]!r} should hold 4, 5 or 8 coefficients (k1, k2, p1, p2[, k3[, k4, k5, k6]]), got "
            f"{len(coefficients)}"
        )
    return coefficients


def _is_empty(value: Any) -> bool:
    return value is None or value in ([], "") or (isinstance(value, Mapping) and not value.get("data", value))


def _region(
    lower: Mapping[str, Any], K: list[float], size: tuple[int, int], distortion: list[float] | None, path: Path
) -> Camera:
    """The camera of the picture that is published: ROS gives K of the whole sensor, and with it the region and the binning.

    Source: sensor_msgs/CameraInfo: the region is given in pixels of the unbinned sensor; all zero is the whole of it.
    """
    roi = lower.get("roi") or {}
    if not isinstance(roi, Mapping):
        raise ValueError(f"{path}: 'roi' should be a table of x_offset, y_offset, width, height, got {roi!r}")
    x, y, width, height = (
        records.whole(roi.get(key, 0), f"{path}: roi {key}") for key in ("x_offset", "y_offset", "width", "height")
    )
    bx, by = (max(records.whole(lower.get(key) or 0, f"{path}: {key}"), 1) for key in ("binning_x", "binning_y"))
    sensor = (height, width) if width and height else size
    matrix = records.intrinsics(K, f"{path}: K", None)
    matrix[0, 2], matrix[1, 2] = matrix[0, 2] - x, matrix[1, 2] - y
    if (bx, by) != (1, 1):
        matrix[:2, 2] = (matrix[:2, 2] + 0.5) / (bx, by) - 0.5
        matrix[0, :2], matrix[1, 1] = matrix[0, :2] / bx, matrix[1, 1] / by
        sensor = (sensor[0] // by, sensor[1] // bx)
    return make_camera(matrix, sensor, distortion, str(path))


def make_camera(K: Any, size: tuple[int, int], distortion: list[float] | None, where: str) -> Camera:
    """A camera of checked numbers; warns where the principal point lies outside of the picture."""
    matrix = records.intrinsics(K, f"{where}: K", size)
    flat = None if not distortion or not any(distortion) else torch.tensor(distortion)
    try:
        camera = Camera(torch.tensor(matrix, dtype=torch.float32), size, flat)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    (height, width), cx, cy = size, float(matrix[0, 2]), float(matrix[1, 2])
    if flat is not None and not (shift := _bend(matrix, size, flat.double().tolist())) <= max(size) / 2:
        raise ValueError(
            f"{where}: the distortion {distortion} moves points half way to the corners by {shift:.3g} pixels, which no "
            "lens does; expected OpenCV's coefficients k1, k2, p1, p2[, k3[, k4, k5, k6]], which have no unit"
        )
    if not (0 < cx < width and 0 < cy < height):
        warnings.warn(
            f"{Path(where).name}: the principal point ({cx:.1f}, {cy:.1f}) lies outside the {width}x{height} image (width x "
            "height); are height and width swapped, or was the image cropped?",
            ImageWarning,
            stacklevel=5,
        )
    return camera


def _bend(K: np.ndarray, size: tuple[int, int], coefficients: list[float]) -> float:
    """By how many pixels a lens moves points half way from the principal point to the corners, at most."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (coefficients + [0.0] * 4)[:8]
    u, v = np.array([0, 0, size[1], size[1]]), np.array([0, size[0], 0, size[0]])
    x, y = (u - K[0, 2]) / K[0, 0] / 2, (v - K[1, 2]) / K[1, 1] / 2
    r2 = x * x + y * y
    with np.errstate(all="ignore"):
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6))) - 1
        dx = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    return float(np.hypot(K[0, 0] * dx, K[1, 1] * dy).max())


def write_camera(path: str | Path, camera: Camera) -> None:
    """Write a camera as JSON that `read_camera` reads: fx, fy, cx, cy, width, height, and distortion if there is any."""
    (fx, skew, cx), (_, fy, cy), _ = camera.K.detach().cpu().double().tolist()
    values = {"fx": fx, "fy": fy, "cx": cx, "cy": cy} | ({"skew": skew} if skew else {})
    lens = {} if camera.distortion is None else {"distortion": camera.distortion.detach().cpu().double().tolist()}
    write_json(path, values | {"width": camera.size[1], "height": camera.size[0]} | lens)


def parse_camera(path: str | Path) -> CameraFile:
    path = existing_file(path, "camera file")
    if path.suffix.lower() == ".bin":
        raise ValueError(
            f"{path} is binary; have COLMAP write text: colmap model_converter --input_path DIR --output_path DIR "
            "--output_type TXT"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{path} is an image, expected a camera file (.json or .yaml); swapped with the picture?")
    text = records.read_text(path, "a camera file in JSON or YAML")
    bare = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    plain = re.sub(r"[\[\](),;]", " ", bare).split()
    if plain and all(re.fullmatch(r"[-+]?(\.?\d[-+.\deE]*|nan|inf)", word) for word in plain):  # cam_K.txt
        try:
            values = [float(word) for word in plain]
            if len(values) not in (9, 12):
                raise ValueError(f"got {len(values)}")
        except ValueError as error:
            raise ValueError(f"{path} should hold 9 or 12 numbers, a matrix row by row: {error}") from None
        return CameraFile(path, {"cam_K": values if len(values) == 9 else [values[n] for n in (0, 1, 2, 4, 5, 6, 8, 9, 10)]})
    colmap = [words for line in text.splitlines() if (words := line.split()) and not words[0].startswith("#")]
    if colmap and all(len(words) > 4 and words[0].isdecimal() and re.fullmatch("[A-Z][A-Z_]+", words[1]) for words in colmap):
        cameras = {f"cam{int(words[0])}": {"colmap": words[1:]} for words in colmap}
        if len(cameras) < len(colmap):
            raise ValueError(f"{path} gives {len(colmap)} cameras, and some have the same number; keep one of each")
        return CameraFile(path, cameras)
    try:
        json_like = text.lstrip().startswith(("{", "["))
        documents = [records.parse_json(text, str(path))] if json_like else records.parse_yaml(text, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; expected a camera file in JSON or YAML") from error
    if not documents or not isinstance(documents[0], dict):
        got = type(documents[0]).__name__ if documents else "nothing"
        raise ValueError(f"{path} should hold one table of camera values, or K as nine numbers row by row, got {got}")
    if any(_without_time(other) != _without_time(documents[0]) for other in documents[1:] if other is not None):
        raise ValueError(f"{path} holds {len(documents)} messages, and their cameras differ; keep one")
    return CameraFile(path, {str(key): value for key, value in documents[0].items()})


def _without_time(message: Any) -> Any:
    return {k: v for k, v in message.items() if k != "header"} if isinstance(message, dict) else message


def camera_numbers(table: Mapping[str, Any], key: str, count: int | None, path: Path) -> list[float]:
    if key not in table:
        raise ValueError(f"{path} has no {key!r}; it has {', '.join(map(str, table))}")
    value = table[key]
    if isinstance(value, Mapping) and "data" in value:  # ROS and OpenCV write matrices as {rows, cols, data}
        return camera_numbers(value, "data", count, path)
    try:
        flat = [] if records.has_bools(value) else [float(v) for v in np.asarray(value, dtype=float).reshape(-1)]
    except (TypeError, ValueError, OverflowError, RecursionError):
        flat = []
    if not flat or (count is not None and len(flat) != count) or not records.sane(np.array(flat)):
        raise ValueError(f"{path}: {key!r} should be {count or 'some'} number{'s' * (count != 1)}, got {value!r:.80}")
    return flat


def _number(table: Mapping[str, Any], key: str, path: Path) -> float:
    return camera_numbers(table, key, 1, path)[0]


def _scene_camera(content: Mapping[str, Any], im_id: int | None, size: tuple[int, int] | None, path: Path) -> Camera:
    for key, entry in content.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"{path}, image {key}: expected a table with 'cam_K', got {entry!r:.80}")
    if im_id is None or (str(im_id) not in content):
        different = {json.dumps(entry.get("cam_K", dict(entry))) for entry in content.values()}
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
    records.refuse_lens(entry, f"{path}, image {im_id}")
    return make_camera(camera_numbers(entry, "cam_K", 9, path), size, None, f"{path}, image {im_id}")


COLMAP = {  # model -> its parameters
    "SIMPLE_PINHOLE": "f cx cy", "PINHOLE": "fx fy cx cy", "SIMPLE_RADIAL": "f cx cy k1", "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2", "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
}  # fmt: skip


def _is_chain(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(re.fullmatch(r"cam\d+", key) for key in content)


def _chain_camera(content: Mapping[str, Any], path: Path) -> Camera:
    """The camera of a file that could hold several: Kalibr's camchain, or COLMAP's cameras.txt."""
    if len({json.dumps(entry, default=str) for entry in content.values()}) > 1:
        raise ValueError(
            f"{path} holds the cameras {_some(content)}; write down the one that is meant: monopose camera --from {path.name} "
            "--number N"
        )
    key = next(iter(content))
    entry, where = content[key], f"{path}, {key}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected a table with intrinsics and resolution, got {entry!r:.80}")
    if "colmap" in entry:
        return _colmap_camera(entry["colmap"], path, where)
    lower = _lowered(entry, where)
    given = "none" if records.lens_key({"d": lower.get("distortion_coeffs")}) is None else "radtan"
    model, lens = str(lower.get("camera_model", "pinhole")).lower(), str(lower.get("distortion_model", given)).lower()
    if lens == "none" and given != lens:
        raise ValueError(f"{where}: distortion_model is 'none', but distortion_coeffs are given; keep one")
    if model != "pinhole" or lens not in ("radtan", "none"):
        raise ValueError(
            f"{where}: camera_model {model!r} with distortion_model {lens!r} is not supported, only pinhole with radtan or "
            "none; calibrate with --models pinhole-radtan, or rectify the images first"
        )
    fx, fy, cx, cy = camera_numbers(lower, "intrinsics", 4, path)
    width, height = camera_numbers(lower, "resolution", 2, path)  # unlike MegaPose's
    if (unread := records.lens_key(lower, ("distortion_coeffs", "distortion_model"))) is not None:
        raise ValueError(f"{where} has the key {unread!r}, which is not read; write the coefficients as 'distortion_coeffs'")
    distortion = None if lens == "none" else camera_numbers(lower, "distortion_coeffs", 4, path)
    return make_camera([fx, 0, cx, 0, fy, cy, 0, 0, 1], records.image_size(height, width, where), distortion, where)


def _colmap_camera(words: list[str], path: Path, where: str) -> Camera:
    """MODEL WIDTH HEIGHT PARAMETERS; COLMAP counts pixels from the corner of the picture, not from the centre of the first."""
    model, names = words[0], COLMAP.get(words[0], "").split()
    if not names:
        raise ValueError(
            f"{where}: the model {model} is not supported, only {', '.join(COLMAP)}; have COLMAP undistort the images"
        )
    try:
        width, height, *values = (float(word) for word in words[1:])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if len(values) != len(names):
        raise ValueError(f"{where}: {model} has {len(names)} parameters ({', '.join(names)}), got {len(values)}")
    own = dict(zip(names, values))
    fx, fy = own.get("fx", own.get("f", 0.0)), own.get("fy", own.get("f", 0.0))
    lens = [own.get(name, 0.0) for name in (ORDER if "k6" in own else ORDER[:4])]
    K = [fx, 0, own["cx"] - 0.5, 0, fy, own["cy"] - 0.5, 0, 0, 1]
    return make_camera(K, records.image_size(height, width, where), lens if "k1" in own else None, where)


def _some(names: Mapping[str, Any]) -> str:
    keys = list(names)
    return ", ".join(keys[:5]) + (f" … {keys[-1]} ({len(keys)} in all)" if len(keys) > 5 else "")


def width_by_height(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
