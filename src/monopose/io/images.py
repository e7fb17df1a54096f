"""The door for pictures and cameras: files of many kinds in, RGB tensors and `Camera` out, undistorted once."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..geometry.camera import K_from_fov
from ..types import Camera, Frame
from . import limits
from .cameras import CameraFile, ImageWarning, camera_of, make_camera, parse_camera, warn_of_doubts, width_by_height
from .files import IMAGE_SUFFIXES, Unreadable, existing_file
from .packed import Packed, name_for_files, packed_files, packed_pictures

URL = re.compile(r"(rtsps?|rtmp|https?|udp|tcp)://", re.IGNORECASE)  # of a live video
OPENING, WAITING = 10_000, 5_000  # milliseconds that a live video may take to begin, and until its next picture
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
HUGE = 40_000_000  # pixels; from here on every byte per pixel is felt
NO_PICTURE_FOR_US = (  # in a folder of pictures
    *VIDEO_SUFFIXES, ".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf",
    ".raw", ".psd", ".exr", ".hdr", ".svg",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- pictures


def read_image(path: str | Path, content: bytes | None = None) -> Tensor:
    """A picture as a tensor.

    Args:
        path: a file that Pillow reads.
        content: what would be in the file, where it lies elsewhere; `path` then only names it.

    Returns:
        (3, H, W), float32 RGB in [0, 1]; float16, which holds 8 bit, from `HUGE` pixels on. Turned upright by its EXIF tag,
        transparency laid on middle grey, grey repeated to three channels, 12 and 16 bit scaled by their full range, the first
        picture of several; each of these, grey apart, with an `ImageWarning`.

    Raises:
        FileNotFoundError: nothing there; names similar files.
        Unreadable: a ValueError: not an image, cut off.
        ValueError: more pixels than `MONOPOSE_MAX_MEGAPIXELS`.
    """
    path = existing_file(path, "image") if content is None else Path(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(f"{path} is a video, expected one image; use images.iterate_source, or monopose predict {path.name}")
    return _from_planes(_decoded(path, content))


def _decoded(path: Path, content: bytes | None = None) -> list[np.ndarray]:
    """Three planes (H, W), uint8 or float32. Other copies are gone on return, which matters for large photos."""
    try:
        with limits.picture(path if content is None else BytesIO(content), str(path)) as file:
            image: Image.Image = file
            deep = image.mode.startswith("RGB") and re.search(";16|65535", str(getattr(image, "tile", ""))) is not None
            image = _upright(image, path)
            planes = _rgb(image, path)
            if deep and max(int(plane.max()) for plane in planes) < 16:
                text = (
                    f"{path.name} has 16 bit a channel and uses 12: it comes out dark; multiply its values by 16, save it again"
                )
                warnings.warn(text, ImageWarning, stacklevel=3)
            _warn_of_more(file, path)
            return planes
    except UnidentifiedImageError as error:
        head = (path.read_bytes() if content is None else content)[:12]
        raise Unreadable(f"{path} is not an image that can be read: it {_what_it_is(head)}") from error
    except Exception as error:  # Pillow's decoders raise anything on broken files
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise Unreadable(f"{path} is a broken or cut off image ({error}); copy it again or export it anew") from error


def from_array(array: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 in [0, 1]. OpenCV's pictures are BGR: give `array[..., ::-1]`."""
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"expected an RGB array (H, W, 3) of uint8, or of float32 in [0, 1], got {array.shape} of {array.dtype}"
        )
    return _from_planes(_planes(array))


def _planes(array: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(array[..., channel]) for channel in range(3)]


def _from_planes(planes: list[np.ndarray]) -> Tensor:
    """As a tensor in [0, 1]; the list is emptied on the way: of a large photo its copies are larger still."""
    whole = planes[0].dtype == np.uint8
    tensor = torch.empty(3, *planes[0].shape, dtype=torch.float16 if whole and planes[0].size >= HUGE else torch.float32)
    for channel in (2, 1, 0):
        tensor[channel] = torch.from_numpy(planes.pop())
    return tensor.div_(255) if whole else tensor


def _what_it_is(head: bytes) -> str:
    """What a file that is no picture of a known kind looks like by its first 12 bytes, as the end of a sentence."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC photo, as iPhones write them; export it as JPEG (on the phone: Camera, Formats, Most Compatible)"
    if head.startswith(b"version http"):
        return "is a pointer of Git LFS, not the picture; run git lfs pull where it came from"
    if head[:1] == b"<":
        return "is a web page, not a picture; the download failed"
    return f"{f'starts with {head[:8]!r}' if head else 'is empty'}; expected PNG, JPEG, TIFF, WebP, BMP, PPM or GIF"


def _warn_of_more(image: Image.Image, path: Path) -> None:
    """Say that a file holds several pictures; those that phones put into a JPEG are the same photo once more."""
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count > 1:
        text = f"{path.name} holds {count} pictures, the first is taken; save them one by one, or as a video"
        warnings.warn(text, ImageWarning, stacklevel=3)


def _upright(image: Image.Image, path: Path) -> Image.Image:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    image.load()  # turns a TIFF, which then has no orientation any more
    if orientation not in range(2, 9):
        if orientation not in (0, 1):  # 0: not known
            text = f"{path.name} has the EXIF orientation {orientation!r:.20}, which does not exist; it is taken as stored"
            warnings.warn(text, ImageWarning, stacklevel=4)
        return image
    turned = ImageOps.exif_transpose(image)
    before = turned.size[::-1] if orientation >= 5 else turned.size
    warnings.warn(
        f"{path.name} was turned by its EXIF orientation {orientation} from {before[0]}x{before[1]} to "
        f"{turned.width}x{turned.height}; the camera has to be the one of the turned picture",
        ImageWarning,
        stacklevel=3,
    )
    return turned


def _rgb(image: Image.Image, path: Path) -> list[np.ndarray]:
    """Any Pillow mode -> three planes (H, W), uint8 or float32."""
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
        return [values / scale] * 3
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
    image = image if image.mode == "RGB" else image.convert("RGB")
    return [np.array(image.getchannel(channel)) for channel in range(3)]


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


def as_frame(
    source: Any,
    camera: Any = None,
    *,
    fov_deg: float | None = None,
    resize_camera: bool = False,
    default_fov: float | None = None,
) -> Frame:
    """What people have as a frame, lens distortion removed.

    Args:
        source: an image file, a Pillow image, a numpy array (H, W, 3) of uint8 in RGB, or a `Frame`, which comes back as it is.
        camera: a camera file (see `read_camera`), a `Camera`, or K as three rows of three numbers, pixels.
        fov_deg, resize_camera: as in `read_frame`.
        default_fov: field of view in degrees where no camera is known; None: that is an error.

    Raises:
        FileNotFoundError, ValueError, TypeError: says what came, and the call that would be right.
    """
    if isinstance(source, Frame):
        if camera is not None or fov_deg is not None:
            raise ValueError("a Frame has its camera; leave out camera= and fov_deg=, or give the picture instead of the Frame")
        return source
    path = ""
    if isinstance(source, (str, Path)):
        path = str(source)
        if re.match(r"\w+://", path):
            raise ValueError(f"{path} is an address; download the picture first and give its file")
        if Path(path).is_dir():
            raise IsADirectoryError(
                f"{path} is a folder; for all its pictures: for name, frame in monopose.iterate_frames({path!r}, camera=...)"
            )
        image = read_image(path)
    elif isinstance(source, Image.Image):
        image = _from_planes(_rgb(_upright(source, Path("the image")), Path("the image")))
    elif isinstance(source, np.ndarray):
        image = from_array(_checked_array(source))
    else:
        raise TypeError(f"expected a picture, got {_kind(source)}")
    size = (int(image.shape[-2]), int(image.shape[-1]))
    if not (camera is None or isinstance(camera, (str, Path, Camera, CameraFile))):
        camera = _camera_of_K(camera, size)
    if camera is None and fov_deg is None:
        fov_deg = default_fov
    return _frame(image, camera, fov_deg, resize_camera, path)


_BGR = "Pictures of OpenCV are BGR: give image[..., ::-1]"


def _checked_array(array: np.ndarray) -> np.ndarray:
    """The array if it is (H, W, 3) of uint8; ValueError with the call that makes it so."""
    shape, what = array.shape, f"an array {array.shape} of {array.dtype}"
    wanted = f"expected an RGB array (H, W, 3) of uint8, got {what}"
    if array.ndim == 4:
        raise ValueError(f"{wanted}; one picture at a time: [model(image, ...) for image in images]")
    if array.ndim == 3 and shape[0] == 3 and shape[2] != 3:
        raise ValueError(f"{wanted}: channels come first; give image.transpose(1, 2, 0). {_BGR}")
    if array.ndim == 3 and shape[2] == 4:
        raise ValueError(f"{wanted}: give image[..., :3] if it is RGBA, image[..., 2::-1] if it is BGRA (OpenCV)")
    if array.ndim == 2 or (array.ndim == 3 and shape[2] == 1):
        raise ValueError(f"{wanted}: one channel; give np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2) if it is grey")
    if array.ndim != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"{wanted}. {_BGR}")
    if array.dtype != np.uint8:
        most = float(array.max()) if array.dtype.kind in "fiu" else 1.0
        call = "image.astype(np.uint8)" if most > 1 and most < 256 else "(image / 257).astype(np.uint8)"
        call = "(255 * image).round().astype(np.uint8)" if most <= 1 else call
        raise ValueError(f"{wanted}, values up to {most:g}; give {call}. {_BGR}")
    return array


def _camera_of_K(K: Any, size: tuple[int, int]) -> Camera:
    """A camera for a picture of `size` of three rows of three numbers; says what other numbers look like."""
    try:
        matrix = np.asarray(K.detach().cpu() if isinstance(K, Tensor) else K, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"camera= must be a camera file, a monopose.Camera or K (3, 3) in pixels, got {type(K).__name__}; without any, "
            "fov_deg= is the horizontal field of view in degrees"
        ) from None
    if matrix.shape != (3, 3):
        hint = {
            (3, 4): "a projection matrix P? Give P[:, :3] if the picture is rectified",
            (4,): "fx, fy, cx, cy? Give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]",
            (9,): "row by row? Give it as reshape(3, 3)",
            (): "a field of view? Give fov_deg=",
        }.get(matrix.shape, "give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
        raise ValueError(f"camera= as K must be (3, 3), in pixels, got {matrix.shape}: {hint}")
    camera = make_camera(matrix, size, None, "camera=")
    warn_of_doubts(camera, "camera=")
    return camera


def _kind(source: Any) -> str:
    """What something is that is no picture, and the right call."""
    if isinstance(source, Tensor):
        return (
            f"a tensor {tuple(source.shape)}; if it is (3, H, W) RGB in [0, 1], give "
            "monopose.Frame(image, monopose.Camera(K, (height, width)))"
        )
    if isinstance(source, (bytes, bytearray)) or hasattr(source, "read"):
        return f"{type(source).__name__}; give PIL.Image.open(file), or PIL.Image.open(io.BytesIO(data))"
    if isinstance(source, (list, tuple)):
        return f"a {type(source).__name__} of {len(source)}; one picture at a time: [model(p, ...) for p in pictures]"
    if isinstance(source, int):
        return f"the number {source}; for a live camera: for name, frame in monopose.iterate_frames({source}, camera=...)"
    return f"{type(source).__name__}; give a file name, a Pillow image, a numpy array (H, W, 3) of uint8 in RGB, or a Frame"


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

    K, distortion, flat = camera.K.double().cpu().numpy(), camera.distortion.double().cpu().numpy(), torch.empty_like(image)
    for seen, shown in zip(image, flat, strict=True):  # one by one: OpenCV's copies of a large picture are larger still
        shown.copy_(torch.from_numpy(cv2.undistort(seen.cpu().float().numpy(), K, distortion)))
    return flat


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
        height, width = limits.size_as_seen(image)
        wide = width >= height
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


def is_video(source: str | Path | int) -> bool:
    """Whether pictures of a source follow each other in time: a live one, a video file, or a folder."""
    path = Path(str(source))
    return is_live(source) or path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES


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
    return ((name, read()) for name, read in listed_frames(source, camera, fov_deg=fov_deg, resize_camera=resize_camera))


def listed_frames(
    source: str | Path | int,
    camera: Camera | str | Path | None = None,
    *,
    fov_deg: float | None = None,
    resize_camera: bool = False,
) -> Iterator[tuple[str, Callable[[], Frame]]]:
    """As `iterate_frames`, with functions that give the frames; pictures of a folder are read when theirs is called.

    A folder without pictures may hold tars (web data sets) or Parquet files with them, see `packed`.
    """
    alone = fov_deg is None and isinstance(camera, (str, Path))
    known = parse_camera(camera) if alone else camera  # type: ignore[arg-type]
    if not isinstance(source, int) and (files := packed_files(source)):
        return ((p.name, partial(_packed_frame, p, known, fov_deg, resize_camera)) for p in packed_pictures(files))
    paths = _images_in(Path(source)) if not isinstance(source, int) and Path(source).is_dir() else None
    stems = [p.stem.casefold() for p in paths or ()]
    whole = len(set(stems)) < len(stems)  # two pictures differ in their suffix alone
    pictures = iterate_source(source) if paths is None else ((str(p), None) for p in paths)

    def read(name: str, image: Tensor | None) -> Frame:
        try:
            image = read_image(name) if image is None else image
        except OSError as error:  # of a folder: a link to nothing, a folder with a picture's name, one that is gone by now
            raise Unreadable(str(error)) from error
        return _frame(image, known, fov_deg, resize_camera, name)

    names = ((Path(n).name if whole else Path(n).stem, n, image) for n, image in pictures)
    return ((name_for_files(name), partial(read, n, image)) for name, n, image in names)


def _packed_frame(
    packed: Packed, camera: Camera | CameraFile | str | Path | None, fov_deg: float | None, resize_camera: bool
) -> Frame:
    return _frame(read_image(packed.place, packed.read()), camera, fov_deg, resize_camera, packed.place)


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
    return sorted(paths, key=lambda p: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", p.name)])


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
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    turned = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
    if turned:
        text = f"{name} is turned by its rotation tag of {turned} degrees; the camera has to be the one of the turned pictures"
        warnings.warn(text, ImageWarning, stacklevel=2)
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
