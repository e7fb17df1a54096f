"""Boxes that come from the user or from another detector, in the forms people have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..types import Detections
from .files import existing_file

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
    if len(given) == 1 and not re.match(r"^(\d+:)?[-\d.]+,", given[0]):
        rows = _read_file(Path(given[0]), names or {})
    else:
        rows = [(None, *_parse(text, labels)) for text in given]
    unknown = sorted({label for _, label, *_ in rows} - set(labels))
    if unknown:
        known = ", ".join(str(v) for v in labels)
        raise ValueError(f"boxes are given for object {', '.join(map(str, unknown))}, but the model knows only {known}")
    for _, label, box, _ in rows:
        if not (box[2] > box[0] and box[3] > box[1]):
            raise ValueError(f"the box {box} of object {label} has no area; {_FORMS}")

    def of_picture(name: str) -> Detections:
        stem = Path(name).stem
        number = re.search(r"(\d+)$", stem)
        mine = [r for r in rows if r[0] in (None, stem) or (isinstance(r[0], int) and number and r[0] == int(number[1]))]
        return Detections(
            torch.tensor([label for _, label, _, _ in mine], dtype=torch.int64),
            torch.tensor([box for _, _, box, _ in mine], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([score for *_, score in mine], dtype=torch.float32),
        )

    return of_picture


_Row = tuple[int | str | None, int, list[float], float]  # picture (number, stem, None = all), object id, box xyxy, score


def _parse(text: str, labels: Sequence[int]) -> tuple[int, list[float], float]:
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {_FORMS}") from error
    ids = {name: obj_id for obj_id, name in names.items()}
    pictures: dict[Any, int | str] = {}
    if isinstance(content, dict):
        pictures = {image["id"]: Path(image["file_name"]).stem for image in content.get("images", [])}
        content = content.get("annotations")
    if not isinstance(content, list):
        raise ValueError(f"{path} holds no list of boxes; {_FORMS}")
    scenes = sorted({entry["scene_id"] for entry in content if isinstance(entry, dict) and "scene_id" in entry})
    if len(scenes) > 1:
        raise ValueError(
            f"{path} holds boxes of the scenes {', '.join(map(str, scenes[:6]))}, whose image numbers repeat; give those "
            "of one scene, or run on the whole data set: --bop DIR"
        )
    rows: list[_Row] = []
    for n, entry in enumerate(content):
        try:
            if "bbox_modal" in entry:
                rows.append((None, _object_id(entry["label"], ids), [float(v) for v in entry["bbox_modal"]], 1.0))
            else:
                x, y, w, h = (float(v) for v in entry["bbox"])
                image = entry.get("image_id")
                score = float(entry.get("score", 1.0))
                rows.append((pictures.get(image, image), int(entry["category_id"]), [x, y, x + w, y + h], score))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, entry {n}: {type(error).__name__} {error}; {_FORMS}") from error
    return rows


def _object_id(label: Any, ids: dict[str, int]) -> int:
    """The id of an object given by name or number."""
    if label in ids:
        return ids[label]
    if not str(label).isdigit():
        raise ValueError(f"no object is called {label!r}, known: {', '.join(ids) or 'numbers alone'}")
    return int(label)
