"""What the commands of all kinds of runs share: results for programs and for people, and picture after picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .io.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

    from .types import Detections, Frame

DRAWN_FOV = 50.0  # horizontal field of view in degrees that pictures get whose camera is not known
Say = Callable[[str], None]
_Saved = TypeVar("_Saved")


@dataclass(frozen=True)
class Result:
    """What a command did.

    Args:
        data: for programs, in plain values; "stopped" in it says that somebody interrupted the command.
        words: the same for people, without what was said in between.
    """

    data: dict[str, Any]
    words: str

    def as_dict(self) -> dict[str, Any]:
        return self.data

    def text(self) -> str:
        return self.words


def silent(line: str) -> None:
    """Say nothing."""


def frames(
    source: str, camera: str | Path | None, fov_deg: float | None, resize_camera: bool
) -> Iterator[tuple[str, Frame]]:  # fmt: skip
    """`images.iterate_frames`, but a camera that is not known gets the usual field of view."""
    from .io.images import iterate_frames

    known = camera is not None or fov_deg is not None
    return iterate_frames(source, camera, fov_deg=fov_deg if known else DRAWN_FOV, resize_camera=resize_camera)


def each_picture(
    pictures: Iterable[tuple[str, Frame]], one: Callable[[str, Frame], tuple[dict[str, Any], Sequence[str]]],
    save: Callable[[list[dict[str, Any]]], _Saved], limit: int | None = None, say: Say = silent,
) -> tuple[_Saved, list[dict[str, Any]], bool]:  # fmt: skip
    """Look at picture after picture. What came before an interruption, or before a broken picture, is kept.

    Args:
        pictures: names and frames.
        one: looks at a picture; returns its record and what to say of it, line by line.
        save: writes the records of all.
        limit: stop after this many pictures.
        say: takes each line as soon as it is known.

    Returns:
        what `save` returned, the records, and whether somebody interrupted, which is the way to end a live camera.
    """
    records: list[dict[str, Any]] = []
    stopped = False
    try:
        for name, frame in pictures:
            record, lines = one(name, frame)
            records.append(record)
            for line in lines:
                say(line)
            if limit is not None and len(records) >= limit:
                break
    except KeyboardInterrupt:
        stopped = True
    except Exception:
        if records:
            save(records)
        raise
    return save(records), records, stopped


def boxes_of_anything(boxes: Sequence[str]) -> Callable[[str], Detections]:
    """`external_boxes.read_boxes` where any object is an object: its number means nothing."""
    from .io.boxes import read_boxes

    file = len(boxes) == 1 and Path(boxes[0]).suffix.lower() == ".json"
    return read_boxes(boxes, range(100_000) if file else (1,))


def check_mask(mask_size: Sequence[int], name: str, image_size: Sequence[int]) -> None:
    """ValueError if a mask is of another (height, width) than the picture of that name."""
    if tuple(mask_size) != tuple(image_size):
        (height, width), (h, w) = mask_size, image_size
        raise ValueError(
            f"the mask is {width} x {height} pixels (width x height), {name} is {w} x {h}; it must belong to the same picture"
        )


def save_picture(path: Path, picture: Image.Image) -> Path:
    """Write a PNG whole or not at all."""
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
    return path
