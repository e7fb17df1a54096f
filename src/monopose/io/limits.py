"""How much a file may ask for before work is done on it. An environment variable named in the message raises it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .files import Unreadable

if TYPE_CHECKING:
    from PIL import Image

LIMITS: dict[str, tuple[float, str]] = {  # variable -> most, and of what
    "MONOPOSE_MAX_TEXT_MB": (512, "MB of text (JSON, YAML, CSV)"),
    "MONOPOSE_MAX_MESH_MB": (1024, "MB of a mesh file"),
    "MONOPOSE_MAX_MEGAPIXELS": (120, "megapixels of a picture or mask"),
    "MONOPOSE_MAX_FACES": (1_000_000, "faces of a mesh"),
    "MONOPOSE_MAX_PARAMETERS": (1e9, "parameters of a network"),
    "MONOPOSE_MAX_DOWNLOAD_MB": (4096, "MB of a run to fetch"),
}


class TooMuch(ValueError):
    """A file asks for more than a limit."""


def most(variable: str) -> float:
    """The limit in force: the environment variable if it is set to a positive number, else the default."""
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else LIMITS[variable][0]
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(f"the environment variable {variable} must be a positive number, got {text!r}")
    return value


def check(variable: str, wanted: float, where: str) -> None:
    """Raise ValueError where a file asks for more than its limit."""
    limit = most(variable)
    if not wanted <= limit:
        raise TooMuch(
            f"{where} asks for {wanted:.6g} {LIMITS[variable][1]}, more than the limit of {limit:.6g}; if that is right, set "
            f"the environment variable {variable}"
        )


def check_file(path: Path, variable: str) -> None:
    """Raise ValueError where a file is larger than its limit, in MB."""
    check(variable, path.stat().st_size / 1e6, str(path))


KINDS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM", "GIF", "TGA")  # no others: each decoder is a door of its own


@contextmanager
def picture(source: str | Path | IO[bytes], where: str) -> Iterator[Image.Image]:
    """A picture opened by Pillow, its pixels not yet decoded, in place of `Image.open`, whose own limit nobody can raise.

    Args:
        source: a file, or an open one.
        where: what to call it in errors.

    Raises:
        ValueError: more pixels than `MONOPOSE_MAX_MEGAPIXELS`.
        OSError: no picture of these kinds (Pillow's `UnidentifiedImageError`), or broken; names it.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS, before = None, Image.MAX_IMAGE_PIXELS
    try:
        image = Image.open(source, formats=KINDS)
    finally:
        Image.MAX_IMAGE_PIXELS = before
    with image:
        check("MONOPOSE_MAX_MEGAPIXELS", image.width * image.height / 1e6, where)
        try:
            yield image
        except OSError as error:  # Pillow's own have no file name
            if error.filename or where in str(error):
                raise
            raise OSError(f"{where} is broken or cut off: {error}") from error


def size_as_seen(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened picture, turned as its EXIF says; of a TIFF some versions of Pillow turn it at once."""
    sideways = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    width, height = image.size
    if image.format == "TIFF":
        width, height = (int(image.tag_v2[tag]) for tag in (256, 257))  # type: ignore[attr-defined]
    return (width, height) if sideways else (height, width)


def imdecode(content: bytes, where: str, flags: int) -> Any:
    """`cv2.imdecode` within the limits: a picture as OpenCV gives it, None where it is none.

    Args:
        content: of a file.
        where: what to call it in errors.
        flags: OpenCV's, `cv2.IMREAD_...`.

    Raises:
        ValueError: more pixels than `MONOPOSE_MAX_MEGAPIXELS`; as Unreadable, a PNG whose parts are longer than the file, for
            which OpenCV would take memory.
    """
    import cv2
    import numpy as np

    if not content:
        return None
    with suppress(OSError, SyntaxError), picture(BytesIO(content), where):
        pass
    at, png = 8, content[:8] == b"\x89PNG\r\n\x1a\n"
    while png and len(head := content[at : at + 8]) == 8:
        length, left = int.from_bytes(head[:4], "big") + 4, len(content) - at - 8
        if length > left:
            raise Unreadable(f"{where} is broken or cut off: a part of it says {length} bytes, {left} are left")
        at, png = at + 8 + length, head[4:] != b"IEND"
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def imread(path: str | Path, flags: int) -> Any:
    """The same of a file; None where there is none, too."""
    return imdecode(Path(path).read_bytes(), str(path), flags) if Path(path).is_file() else None
