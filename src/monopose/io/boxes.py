"""Boxes that come from the user or from another detector, in the forms people have."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from ..types import Detections
from . import records
from .cameras import ImageWarning
from .files import IMAGE_SUFFIXES, existing_file

_FORMS = (
    "expected [ID:]x0,y0,x1,y1 in pixels, or a JSON file: COCO (images, annotations), BOP detections "
    "(a list with image_id, category_id, bbox) or MegaPose (a list with label, bbox_modal)"
)


def read_boxes(given: Sequence[str], labels: Sequence[int], names: dict[int, str] | None = None) -> Callable[[str], Detections]:
    """Detections for pictures by name.

    Args:
        given: boxes "x0,y0,x1,y1" or "ID:x0,y0,x1,y1" (pixels, edges), used for every picture; or one JSON file.
        labels: object ids that the model knows; without ID a box means the only one.
        names: object id -> name, for files that name objects.

    Returns:
        a function from the name of a picture ("photo", "photo.jpg" or a path) to its `Detections`; an empty one for
        pictures that the file does not mention. BOP files are matched by the last number in the name.

    Raises:
        ValueError: unreadable, an object the model does not know, an empty box.
    """
    alone = len(given) == 1 and (given[0].count(",") != 3 or Path(given[0]).is_file())
    file = Path(given[0]) if alone and not re.match(r"^(\d+:)?[-\d.]+,", given[0]) else None
    rows = [(None, *_parse(text, labels)) for text in given] if file is None else _read_file(file, names or {})
    unknown = sorted({label for _, label, *_ in rows} - set(labels))
    numbered = [(n, row) for n, row in enumerate(rows) if row[1] in set(labels)]
    if unknown:
        known, what = ", ".join(str(v) for v in labels), ", ".join(map(str, unknown))
        if file is None or not numbered:
            place = "" if file is None else f"{file}: "
            raise ValueError(f"{place}boxes are given for object {what}, but the model knows only {known}")
        warnings.warn(f"{file}: boxes of object {what} are left out; the model knows only {known}", ImageWarning, stacklevel=2)
    for n, (_, label, box, score) in numbered:
        place = "" if file is None else f"{file}, entry {n}: "
        if not all(abs(v) < records.HUGE for v in box) or not (box[2] > box[0] and box[3] > box[1]):
            raise ValueError(f"{place}the box {box} of object {label} has no area; {_FORMS}")
        if max(box) <= 1.5 and any(v % 1 for v in box):
            raise ValueError(f"{place}the box {box} of object {label} looks divided by the size of the picture; {_FORMS}")
        if not 0 <= score <= 1:
            raise ValueError(
                f"{place}the score of a box must lie between 0 and 1, got {score:g} for object {label}; divide percent by 100"
            )
    rows = [row for _, row in numbered]
    ambiguous = {} if file is None else _called_alike(file)
    pictures = sorted({str(row[0]) for row in rows if row[0] is not None})

    def of_picture(name: str) -> Detections:
        stem = Path(name).stem
        number = re.search(r"(\d+)$", stem)
        if stem in ambiguous:
            raise ValueError(
                f"{file} has boxes for {' and '.join(ambiguous[stem][:3])}, which are both matched by {stem!r}; give those of "
                "one folder at a time"
            )
        mine = [r for r in rows if r[0] in (None, stem) or (isinstance(r[0], int) and number and r[0] == int(number[1]))]
        if pictures and not mine:
            some = ", ".join(pictures[:5]) + (", ..." if len(pictures) > 5 else "")
            warnings.warn(f"{file} has boxes for the pictures {some}, none for {stem}", ImageWarning, stacklevel=2)
        return Detections(
            torch.tensor([label for _, label, _, _ in mine], dtype=torch.int64),
            torch.tensor([box for _, _, box, _ in mine], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([score for *_, score in mine], dtype=torch.float32),
        )

    return of_picture


_Row = tuple[int | str | None, int, list[float], float]  # picture (number, stem, None = all), object id, box xyxy, score


def _parse(text: str, labels: Sequence[int]) -> tuple[int, list[float], float]:
    if Path(text).suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{text} is a picture, not a box; put the SOURCE before --boxes")
    head, _, tail = text.rpartition(":")
    try:
        box = [float(v) for v in tail.split(",")]
        label = int(head) if head else None
    except ValueError:
        box, label = [], None
    if len(box) != 4:
        raise ValueError(f"cannot read the box {text!r}; {_FORMS}")
    if label is None:
        if len(labels) != 1:
            raise ValueError(
                f"the box {text!r} needs an object id, as in {labels[0]}:{tail}; the model knows {', '.join(map(str, labels))}"
            )
        label = labels[0]
    return label, box, 1.0


def _read_file(path: Path, names: dict[int, str]) -> list[_Row]:
    path = existing_file(path, "file of boxes")
    try:
        content = records.read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {_FORMS}") from error
    ids = {name: obj_id for obj_id, name in names.items()}
    pictures: dict[Any, int | str] = {}
    if isinstance(content, dict):
        for n, image in enumerate(records.rows(content.get("images", []), f"{path}: 'images'")):
            where = f"{path}, images entry {n}"
            number = records.value(image, "id", where)
            if isinstance(number, bool) or not isinstance(number, (int, str)):
                raise ValueError(f"{where}: id must be a number or text, got {number!r:.80}")
            if number in pictures:
                raise ValueError(f"{where}: the id {number!r} is there twice; whose boxes are meant?")
            pictures[number] = _stem(records.text(image, "file_name", where))
        content = content.get("annotations")
    if not isinstance(content, list):
        raise ValueError(f"{path} holds no list of boxes; {_FORMS}")
    scenes = sorted({str(entry["scene_id"]) for entry in content if isinstance(entry, dict) and "scene_id" in entry})
    if len(scenes) > 1:
        raise ValueError(
            f"{path} holds boxes of the scenes {', '.join(scenes[:6])}, whose image numbers repeat; give those "
            "of one scene, or run on the whole data set: --bop DIR"
        )
    rows: list[_Row] = []
    for n, entry in enumerate(content):
        where = f"{path}, entry {n}"
        try:
            if "bbox_modal" in records.mapping(entry, where):
                box = records.numbers(entry, "bbox_modal", (4,), where).tolist()
                rows.append((None, _object_id(records.value(entry, "label", where), ids), box, 1.0))
            else:
                x, y, w, h = records.numbers(entry, "bbox", (4,), where).tolist()
                image = entry.get("image_id")
                if isinstance(image, bool) or not isinstance(image, (int, str, type(None))):
                    raise ValueError(f"{where}: image_id must be a number or text, got {image!r:.80}")
                score = float(records.numbers(entry, "score", (), where)) if "score" in entry else 1.0
                label = records.whole(records.value(entry, "category_id", where), f"{where}: category_id")
                if pictures:
                    if image not in pictures:
                        raise ValueError(f"{where}: image_id {image!r} is not the id of any of the file's 'images'")
                    image = pictures[image]
                elif image is None and "file_name" in entry:
                    image = _stem(records.text(entry, "file_name", where))
                elif isinstance(image, str):
                    image = int(image) if image.isascii() and image.isdecimal() else _stem(image)
                rows.append((image, label, [x, y, x + w, y + h], score))
        except ValueError as error:
            place = "" if str(path) in str(error) else f"{where}: "
            raise ValueError(f"{place}{error}; {_FORMS}") from error
    return rows


def _called_alike(path: Path) -> dict[str, list[str]]:
    """The pictures of a file whose names differ in folder or ending alone, by what boxes are matched by."""
    content = records.read_json(path)
    rows = content.get("images", []) if isinstance(content, dict) else content
    names: dict[str, set[str]] = {}
    for row in rows:
        for name in (row.get("file_name"), row.get("image_id")):
            if isinstance(name, str):
                names.setdefault(_stem(name), set()).add(name)
    return {stem: sorted(files) for stem, files in names.items() if len(files) > 1}


def _stem(name: str) -> str:
    """Of a path as any system writes it."""
    return PurePosixPath(name.replace("\\", "/")).stem


def _object_id(label: Any, ids: dict[str, int]) -> int:
    """The id of an object given by name or number."""
    if isinstance(label, str) and label in ids:
        return ids[label]
    if isinstance(label, bool) or not str(label).isdecimal() or len(str(label)) > 9:
        raise ValueError(f"no object is called {label!r}, known: {', '.join(ids) or 'numbers alone'}")
    return int(label)
