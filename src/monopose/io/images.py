"""The door for pictures and cameras: files of many kinds in, RGB tensors and `Camera` out, undistorted once."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..geometry.camera import K_from_fov
from ..types import Camera, Frame
from .cameras import CameraFile, ImageWarning, camera_of, parse_camera, width_by_height
from .files import IMAGE_SUFFIXES, existing_file

URL = re.compile(r"(rtsps?|rtmp|https?|udp|tcp)://", re.IGNORECASE)  # of a live video
OPENING, WAITING = 10_000, 5_000  # milliseconds that a live video may take to begin, and until its next picture
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


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
    image: Tensor, camera: Camera | CameraFile | str | Path | None, fov_deg: float | None, resize_camera: bool, path: str
) -> Frame:
    size = (int(image.shape[-2]), int(image.shape[-1]))
    name = Path(path).name or "the image"
    if isinstance(camera, (str, Path)):
        source = Path(camera).name
    else:
        source = camera.path.name if isinstance(camera, CameraFile) else "the camera"
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
        file = camera if isinstance(camera, CameraFile) else parse_camera(camera)
        camera = camera_of(file, int(digits[1]) if digits else None, size)
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
    sizes = f"{source} is for {width_by_height(camera)} but {name} is {width_by_height(image)}"
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
        source: image file, folder of images (in the order of the numbers in their names), video file, camera number, or the
            address of a live video (rtsp://, http://).

    Yields:
        name and image (3, H, W), float32 RGB in [0, 1]. Names: path of the file, or VIDEO_000012 / camera0_000012 /
        stream_000012 by frame. A camera that is dropped, a live video that gives nothing for 5 seconds, a file that breaks off:
        the pictures end, with an `ImageWarning`.
    """
    if is_url(source):
        return _captured(str(source), "stream")
    if isinstance(source, int) or re.fullmatch(r"\d+", str(source)):
        return _captured(int(str(source)), f"camera{source}")
    path = Path(source)
    if path.is_dir():
        return ((str(p), read_image(p)) for p in _images_in(path))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _captured(str(existing_file(path, "video")), path.stem)
    return iter([(str(existing_file(path, "image")), read_image(path))])


def is_url(source: str | Path | int) -> bool:
    """Whether a source is the address of a live video."""
    return isinstance(source, str) and URL.match(source) is not None


def is_live(source: str | Path | int) -> bool:
    """Whether a source is a camera or the address of a live video, whose pictures come as time passes."""
    return isinstance(source, int) or is_url(source) or re.fullmatch(r"\d+", str(source)) is not None


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
    known = parse_camera(camera) if alone else camera  # type: ignore[arg-type]
    whole = _stems_repeat(source)
    for name, image in iterate_source(source):
        yield (Path(name).name if whole else Path(name).stem), _frame(image, known, fov_deg, resize_camera, name)


def _stems_repeat(source: str | Path | int) -> bool:
    """Whether two pictures of a folder differ in their suffix alone."""
    if isinstance(source, int) or is_url(source) or not Path(source).is_dir():
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

    if is_url(source):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPENING, cv2.CAP_PROP_READ_TIMEOUT_MSEC, WAITING]
        capture, hint = (
            cv2.VideoCapture(str(source), cv2.CAP_FFMPEG, limits),
            "is it reachable, and are name and password right?",
        )
    elif isinstance(source, int):
        capture, hint = cv2.VideoCapture(source), "is it connected, and free of other programs?"
    else:
        capture, hint = cv2.VideoCapture(source), "is it whole, and its codec a common one?"
    if not capture.isOpened():
        shown = re.sub("//[^/@]*@", "//", str(source))  # without a password
        raise ValueError(f"cannot open {'camera ' * isinstance(source, int)}{shown}; {hint}")
    promised = 0 if is_live(source) else round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    try:
        index = 0
        while True:
            ok, bgr = capture.read()
            if not ok or bgr is None:
                break
            bgr = bgr if bgr.ndim == 3 else np.repeat(bgr[..., None], 3, axis=2)
            yield f"{name}_{index:06d}", from_array(bgr[..., ::-1])
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise ValueError(f"no picture came from {name}: the video is broken or empty")
    if is_live(source):
        warnings.warn(f"{name} gave no further picture after {index}: it ended or was dropped", ImageWarning, stacklevel=2)
    elif promised - index > 2:
        warnings.warn(f"{name} breaks off after {index} of {promised} pictures", ImageWarning, stacklevel=2)
