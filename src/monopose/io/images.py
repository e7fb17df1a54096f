"""The door for pictures and cameras: files of many kinds in, RGB tensors and `Camera` out, undistorted once."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..geometry.camera import K_from_fov
from ..types import Camera, Frame
from .files import existing_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


class ImageWarning(UserWarning):
    """Something was done to a picture, or looks odd about it or its camera, that the user should know."""


# ---------------------------------------------------------------------------------------------------------- pictures


def read_image(path: str | Path) -> Tensor:
    """A picture as a tensor.

    Args:
        path: a file that Pillow reads.

    Returns:
        (3, H, W), float32 RGB in [0, 1]. Turned upright by its EXIF tag, transparency laid on middle grey, grey repeated
        to three channels, 16 bit scaled by its full range; each of these, grey apart, with an `ImageWarning`.

    Raises:
        FileNotFoundError: nothing there; names similar files.
        ValueError: not an image, cut off, or too large to be a photo.
    """
    path = existing_file(path, "image")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(f"{path} is a video, expected one image; use images.iterate_source, or monopose predict {path.name}")
    try:
        with Image.open(path) as image:
            image.load()
            upright = _upright(image, path)
    except UnidentifiedImageError as error:
        head = path.read_bytes()[:8] if path.stat().st_size else b""
        what = f"starts with {head!r}" if head else "is empty"
        raise ValueError(
            f"{path} is not an image that can be read: it {what}; expected PNG, JPEG, TIFF, WebP or BMP"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} is too large ({error}); shrink it, together with its camera (--resize-camera): poses need no more than a "
            "few million pixels"
        ) from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is a broken or cut off image ({error}); copy it again or export it anew") from error
    return from_array(_rgb(upright, path))


def from_array(array: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 in [0, 1]. OpenCV's pictures are BGR: give `array[..., ::-1]`."""
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"expected an RGB array (H, W, 3) of uint8, or of float32 in [0, 1], got {array.shape} of {array.dtype}"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
    return tensor.float() / 255 if array.dtype == np.uint8 else tensor


def _upright(image: Image.Image, path: Path) -> Image.Image:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation == 1:
        return image.copy()
    turned = ImageOps.exif_transpose(image)
    warnings.warn(
        f"{path.name} was turned by its EXIF orientation {orientation} from {image.width}x{image.height} to "
        f"{turned.width}x{turned.height}; the camera has to be the one of the turned picture",
        ImageWarning,
        stacklevel=3,
    )
    return turned


def _rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Any Pillow mode -> (H, W, 3), uint8 or float32."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if image.mode == "F":
            scale = 1.0
        else:
            scale = 65535.0
            warnings.warn(
                f"{path.name} has one channel of 16 bit, values {low:.0f} to {high:.0f}; they were divided by 65535. "
                "If it is a depth map, give the colour image instead",
                ImageWarning,
                stacklevel=3,
            )
        if not (low >= 0 and high <= scale):
            raise ValueError(f"{path} has values from {low:g} to {high:g}, expected 0 to {scale:g}; save it as 8 bit RGB")
        return np.repeat((values / scale)[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            warnings.warn(
                f"{path.name} has transparent pixels; they were laid on middle grey, which no camera sees: "
                "results are better on an opaque photo",
                ImageWarning,
                stacklevel=3,
            )
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, (128, 128, 128, 255)), rgba)
        image = rgba
    return np.array(image.convert("RGB"))


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
    return _camera_of(_parse(path), im_id, size)


class _CameraFile(NamedTuple):
    """A camera file, parsed."""

    path: Path
    content: dict[str, Any]


def _camera_of(file: _CameraFile, im_id: int | None, size: tuple[int, int] | None) -> Camera:
    path, content = file
    if all(key in content for key in ("fx", "fy")) or "cx" in content:
        fx, fy, cx, cy = (_number(content, key, path) for key in ("fx", "fy", "cx", "cy"))
        height, width = (_number(content, key, path) for key in ("height", "width"))
        return _camera([fx, 0, cx, 0, fy, cy, 0, 0, 1], (height, width), None, path)
    if "resolution" in content or set(content) == {"K"}:
        height, width = _numbers(content, "resolution", 2, path)
        return _camera(_numbers(content, "K", 9, path), (height, width), None, path)
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


def _parse(path: str | Path) -> _CameraFile:
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
    return _CameraFile(path, {str(key): value for key, value in documents[0].items()})


def _numbers(table: Mapping[str, Any], key: str, count: int | None, path: Path) -> list[float]:
    if key not in table:
        raise ValueError(f"{path} has no {key!r}; it has {', '.join(map(str, table))}")
    value = table[key]
    if isinstance(value, Mapping):  # ROS writes matrices as {rows, cols, data}
        return _numbers(value, "data", count, path)
    try:
        flat = [float(v) for v in np.asarray(value, dtype=float).reshape(-1)]
    except (TypeError, ValueError):
        flat = []
    if not flat or (count is not None and len(flat) != count) or not all(map(math.isfinite, flat)):
        raise ValueError(f"{path}: {key!r} should be {count or 'some'} number{'s' * (count != 1)}, got {value!r}")
    return flat


def _number(table: Mapping[str, Any], key: str, path: Path) -> float:
    return _numbers(table, key, 1, path)[0]


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
    K = _numbers(lower, "camera_matrix" if "camera_matrix" in lower else "k", 9, path)
    model = lower.get("distortion_model", "plumb_bob")
    key = "distortion_coefficients" if "distortion_coefficients" in lower else "d"
    if model not in ("plumb_bob", "rational_polynomial", "", None):
        raise ValueError(
            f"{path}: distortion_model {model!r} is not supported, only plumb_bob and "
            "rational_polynomial; rectify the images first"
        )
    given = lower.get(key)
    empty = given is None or (isinstance(given, Mapping) and not given.get("data")) or (isinstance(given, list) and not given)
    distortion = None if empty else _numbers(lower, key, None, path)
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
    return _camera(_numbers(entry, "cam_K", 9, path), size, None, path)


def _some(names: Mapping[str, Any]) -> str:
    keys = list(names)
    return ", ".join(keys[:5]) + (f" … {keys[-1]} ({len(keys)} in all)" if len(keys) > 5 else "")


# ------------------------------------------------------------------------------------------------------------ frames


def read_frame(
    path: str | Path,
    camera: Camera | str | Path | None = None,
    *,
    fov_deg: float | None = None,
    resize_camera: bool = False,
) -> Frame:
    """A picture with its camera, lens distortion removed.

    Args:
        path: an image file.
        camera: a `Camera`, or a camera file (see `read_camera`).
        fov_deg: instead of a camera, the horizontal field of view, degrees: square pixels, centred. Poses are then only as
            good as this number.
        resize_camera: the picture is a resized whole image of the camera: scale K to it.

    Raises:
        FileNotFoundError, ValueError: what is missing or does not fit, and what to do.
    """
    path = Path(path)
    return make_frame(read_image(path), camera, fov_deg=fov_deg, resize_camera=resize_camera, path=str(path))


def make_frame(
    image: Tensor,
    camera: Camera | str | Path | None,
    *,
    fov_deg: float | None = None,
    resize_camera: bool = False,
    path: str = "",
) -> Frame:
    """As `read_frame`, of a picture in memory, (3, H, W), RGB in [0, 1]; `path` is its name in messages."""
    return _frame(image, camera, fov_deg, resize_camera, path)


def _frame(
    image: Tensor, camera: Camera | _CameraFile | str | Path | None, fov_deg: float | None, resize_camera: bool, path: str
) -> Frame:
    size = (int(image.shape[-2]), int(image.shape[-1]))
    name = Path(path).name or "the image"
    if isinstance(camera, (str, Path)):
        source = Path(camera).name
    else:
        source = camera.path.name if isinstance(camera, _CameraFile) else "the camera"
    if camera is not None and fov_deg is not None:
        raise ValueError(f"both a camera ({source}) and a field of view ({fov_deg:g} degrees) were given; give one of them")
    if camera is None and fov_deg is None:
        raise ValueError(
            f"{name} needs a camera: give a camera file, or the horizontal field of view in degrees{_exif_hint(path)}"
        )
    if fov_deg is not None:
        return Frame(image, Camera(K_from_fov(math.radians(fov_deg), size), size), path=path)
    if not isinstance(camera, Camera):
        assert camera is not None
        digits = re.search(r"(\d+)$", Path(path).stem)
        file = camera if isinstance(camera, _CameraFile) else _parse(camera)
        camera = _camera_of(file, int(digits[1]) if digits else None, size)
    if camera.size != size:
        _check_resize(camera.size, size, resize_camera, source, name)
        camera = camera.resized(size)
    return Frame(undistort(image, camera), replace(camera, distortion=None), path=path)


def undistort(image: Tensor, camera: Camera) -> Tensor:
    """The picture a pinhole camera with the same K would have taken; black where the lens saw nothing. (3, H, W) -> same."""
    if camera.distortion is None or not bool(camera.distortion.any()):
        return image
    import cv2

    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    flat = cv2.undistort(pixels, camera.K.double().cpu().numpy(), camera.distortion.double().cpu().numpy())
    return torch.from_numpy(flat).permute(2, 0, 1).contiguous().to(image)


def _check_resize(camera: tuple[int, int], image: tuple[int, int], allowed: bool, source: str, name: str) -> None:
    sizes = f"{source} is for {_wxh(camera)} but {name} is {_wxh(image)}"
    scale = (image[0] / camera[0], image[1] / camera[1])
    same_shape = abs(scale[0] * camera[1] - image[1]) < 1.5 or abs(scale[1] * camera[0] - image[0]) < 1.5  # a pixel of rounding
    if camera == (image[1], image[0]):
        raise ValueError(
            f"{sizes}: height and width are swapped; was the picture turned? Calibrate for the turned picture, or turn it back"
        )
    if not same_shape:
        raise ValueError(
            f"{sizes}: another aspect ratio, so the picture was cropped and its K cannot be guessed; "
            "give the camera of the crop"
        )
    if not allowed:
        raise ValueError(f"{sizes}; pass --resize-camera to scale K")


def _wxh(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _exif_hint(path: str) -> str:
    """What the EXIF focal length suggests, as the end of a sentence."""
    if not path or not Path(path).is_file():
        return ""
    with Image.open(path) as image:
        focal = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # read_image lays it on its other side
        wide = (image.width >= image.height) != turned
    if not focal:
        return ""
    fov = math.degrees(2 * math.atan((36 if wide else 24) / 2 / float(focal)))
    tag = f"its EXIF tag of {float(focal):g} mm (35 mm equivalent)"
    return f"; {tag} suggests --fov {fov:.0f}, a guess that a zoom or crop makes wrong"


# ----------------------------------------------------------------------------------------------------------- sources


def iterate_source(source: str | Path | int) -> Iterator[tuple[str, Tensor]]:
    """The pictures of a file, a folder, a video or a live camera.

    Args:
        source: image file, folder of images (in the order of the numbers in their names), video file, or camera number.

    Yields:
        name and image (3, H, W), float32 RGB in [0, 1]. Names: path of the file, or VIDEO_000012 / camera0_000012 by frame.
    """
    if isinstance(source, int) or re.fullmatch(r"\d+", str(source)):
        return _captured(int(str(source)), f"camera{source}")
    path = Path(source)
    if path.is_dir():
        return ((str(p), read_image(p)) for p in _images_in(path))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _captured(str(existing_file(path, "video")), path.stem)
    return iter([(str(existing_file(path, "image")), read_image(path))])


def iterate_frames(
    source: str | Path | int,
    camera: Camera | str | Path | None = None,
    *,
    fov_deg: float | None = None,
    resize_camera: bool = False,
) -> Iterator[tuple[str, Frame]]:
    """As `iterate_source`, with the camera of `read_frame` for every picture; a camera file is read once.

    Yields:
        a name that no other picture of the source has, and the frame. Names: the stem; for the pictures of a folder in which
        a stem occurs twice (a.png, a.jpg), the whole file name.
    """
    alone = fov_deg is None and isinstance(camera, (str, Path))
    known = _parse(camera) if alone else camera  # type: ignore[arg-type]
    whole = _stems_repeat(source)
    for name, image in iterate_source(source):
        yield (Path(name).name if whole else Path(name).stem), _frame(image, known, fov_deg, resize_camera, name)


def _stems_repeat(source: str | Path | int) -> bool:
    """Whether two pictures of a folder differ in their suffix alone."""
    if isinstance(source, int) or not Path(source).is_dir():
        return False
    stems = [p.stem.casefold() for p in _images_in(Path(source))]
    return len(set(stems)) < len(stems)


def _images_in(folder: Path) -> list[Path]:
    paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not paths:
        kinds = sorted({p.suffix or p.name for p in folder.iterdir()})[:6]
        raise FileNotFoundError(
            f"no images in the folder {folder} (it holds {', '.join(kinds) or 'nothing'}); expected {', '.join(IMAGE_SUFFIXES)}"
        )
    return sorted(paths, key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)])


def _captured(source: str | int, name: str) -> Iterator[tuple[str, Tensor]]:
    import cv2

    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        hint = (
            "is it connected, and free of other programs?"
            if isinstance(source, int)
            else "is it whole, and its codec a common one?"
        )
        raise ValueError(f"cannot open {'camera ' * isinstance(source, int)}{source}; {hint}")
    try:
        index = 0
        while True:
            ok, bgr = capture.read()
            if not ok:
                break
            yield f"{name}_{index:06d}", from_array(bgr[..., ::-1])
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise ValueError(f"no picture came from {name}: the video is broken or empty")
