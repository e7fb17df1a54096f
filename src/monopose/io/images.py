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
from . import limits
from .cameras import CameraFile, ImageWarning, camera_of, parse_camera, width_by_height
from .files import IMAGE_SUFFIXES, existing_file

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
NO_PICTURE_FOR_US = (  # in a folder of pictures
    *VIDEO_SUFFIXES, ".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf",
    ".raw", ".psd", ".exr", ".hdr", ".svg",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- pictures


def read_image(path: str | Path) -> Tensor:
    """A picture as a tensor.

    Args:
        path: a file that Pillow reads.

    Returns:
        (3, H, W), float32 RGB in [0, 1]. Turned upright by its EXIF tag, transparency laid on middle grey, grey repeated
        to three channels, 12 and 16 bit scaled by their full range, the first picture of several; each of these, grey apart,
        with an `ImageWarning`.

    Raises:
        FileNotFoundError: nothing there; names similar files.
        ValueError: not an image, cut off, or more pixels than `MONOPOSE_MAX_MEGAPIXELS`.
    """
    path = existing_file(path, "image")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(f"{path} is a video, expected one image; use images.iterate_source, or monopose predict {path.name}")
    return from_array(_decoded(path))


def _decoded(path: Path) -> np.ndarray:
    """(H, W, 3), uint8 or float32. Pillow's own copy is gone on return, which matters for large photos."""
    try:
        with limits.picture(path, str(path)) as image:
            image.load()
            array = _rgb(_upright(image, path), path)
            _warn_of_more(image, path)
            return array
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that can be read: it {_what_it_is(path)}") from error
    except Exception as error:  # Pillow's decoders raise anything on broken files
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is a broken or cut off image ({error}); copy it again or export it anew") from error


def from_array(array: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 in [0, 1]. OpenCV's pictures are BGR: give `array[..., ::-1]`."""
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"expected an RGB array (H, W, 3) of uint8, or of float32 in [0, 1], got {array.shape} of {array.dtype}"
        )
    tensor = torch.empty(3, *array.shape[:2])
    for channel in range(3):  # one after the other: copies of a large photo are larger still
        tensor[channel] = torch.from_numpy(np.ascontiguousarray(array[..., channel]))
    return tensor.div_(255) if array.dtype == np.uint8 else tensor


def _what_it_is(path: Path) -> str:
    """What a file that is no picture of a known kind looks like, as the end of a sentence."""
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC photo, as iPhones write them; export it as JPEG (on the phone: Camera, Formats, Most Compatible)"
    return f"{f'starts with {head[:8]!r}' if head else 'is empty'}; expected PNG, JPEG, TIFF, WebP, BMP, PPM or GIF"


def _warn_of_more(image: Image.Image, path: Path) -> None:
    """Say that a file holds several pictures; those that phones put into a JPEG are the same photo once more."""
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count > 1:
        text = f"{path.name} holds {count} pictures, the first is taken; save them one by one, or as a video"
        warnings.warn(text, ImageWarning, stacklevel=3)


def _upright(image: Image.Image, path: Path) -> Image.Image:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation not in range(2, 9):
        if orientation not in (0, 1):  # 0: not known
            text = f"{path.name} has the EXIF orientation {orientation!r:.20}, which does not exist; it is taken as stored"
            warnings.warn(text, ImageWarning, stacklevel=4)
        return image
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
            bits = 12 if 255 < high <= 4095 else 16  # cameras of 12 bit write their values as they are
            scale = 2.0**bits - 1
            warnings.warn(
                f"{path.name} has one channel of {bits} bit, values {low:.0f} to {high:.0f}; they were divided by {scale:.0f}. "
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
    with limits.picture(path, path) as image:
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
    known = parse_camera(camera) if alone else camera  # type: ignore[arg-type]
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
    others = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in NO_PICTURE_FOR_US)
    if others:
        names = ", ".join(others[:6]) + ", ..." * (len(others) > 6)
        text = f"{folder}: left out {names}; save photos as JPEG or PNG, and give videos one by one"
        warnings.warn(text, ImageWarning, stacklevel=4)
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
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    turned = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
    if turned:
        text = f"{name} is turned by its rotation tag of {turned} degrees; the camera has to be the one of the turned pictures"
        warnings.warn(text, ImageWarning, stacklevel=2)
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
