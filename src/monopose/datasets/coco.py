"""COCO detection files and their average precision, with objects that are to be ignored."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..io.records import PathLike, length, numbers, read_json, rows, text, value, whole
from .bop.results import mask_from_rle, rle_from_mask

METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")


def read_coco(path: PathLike) -> dict[str, Any]:
    """A COCO annotation file, checked: images, annotations and categories that fit each other.

    Returns:
        the file's content; boxes are [x, y, w, h] with w = xmax - xmin + 1 of the pixels, so xyxy on edges is x, y, x+w, y+h.

    Raises:
        FileNotFoundError, ValueError: naming file, entry and key.
    """
    path = Path(path)
    coco = read_json(path)
    for name in ("images", "annotations", "categories"):
        if not isinstance(value(coco, name, str(path)), list):
            raise ValueError(f"{path}: '{name}' must be a list, got {type(coco[name]).__name__}")
    for n, image in enumerate(coco["images"]):
        for key in ("id", "width", "height"):
            numbers(image, key, (), f"{path}, images entry {n}")
    known = tuple(
        {
            _id(value(row, "id", f"{path}, {name} entry {n}"), f"{path}, {name} entry {n}: 'id'")
            for n, row in enumerate(coco[name])
        }
        for name in ("images", "categories")
    )
    for name, key in (("images", "file_name"), ("categories", "name")):
        for n, row in enumerate(coco[name]):
            if key in row:
                text(row, key, f"{path}, {name} entry {n}")
    for n, entry in enumerate(coco["annotations"]):
        where = f"{path}, annotations entry {n}"
        numbers(entry, "bbox", (4,), where)
        for key in {"id", "iscrowd"} & set(entry):
            whole(entry[key], f"{where}: '{key}'")
        if not isinstance(entry.get("ignore", False), bool):
            whole(entry["ignore"], f"{where}: 'ignore'", 0, 1)
        if "area" in entry:
            length(entry, "area", where, zero=True)
        if isinstance(entry.get("segmentation", []), dict):
            mask_from_rle(entry["segmentation"], f"{where}: segmentation")
        else:
            for polygon in rows(entry.get("segmentation", []), f"{where}: segmentation"):
                xy = rows(polygon, f"{where}: segmentation")
                numbers({"polygon": xy}, "polygon", (len(xy),), where)
        for key, ids in zip(("image_id", "category_id"), known):
            if _id(value(entry, key, where), f"{where}: '{key}'") not in ids:
                raise ValueError(f"{where}: '{key}' {entry[key]} is not among the file's {key.split('_')[0]} entries")
    return coco


def _id(raw: Any, where: str) -> int | str:
    """An id: a whole number, or text."""
    return raw if isinstance(raw, str) else whole(raw, where)


def boxes_xyxy(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Boxes of annotations or detections as xyxy on pixel edges, (N, 4), float64."""
    boxes = np.array([e["bbox"] for e in entries], np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], -1)


def average_precision(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], kind: str = "bbox", max_detections: int = 100
) -> dict[str, float]:
    """COCO average precision of 2D detections or masks.

    Args:
        truth: content of a COCO file; annotations with `ignore` (BOP: visibility below 0.1) or `iscrowd` count neither as
            missed nor, when detected, as wrong. Only `iscrowd` changes how overlap is measured.
        detections: entries with image_id, category_id, score, bbox [x, y, w, h] and, for "segm", segmentation (run lengths
            in either spelling).
        kind: what overlaps, "bbox" or "segm".
        max_detections: per image and class.

    Returns:
        name -> fraction in [0, 1], see METRICS; -1 where there is nothing of that size.

    Source: COCO detection evaluation, in pycocotools; BOP challenge 2022, tasks 5 and 6.
    """
    if kind not in ("bbox", "segm"):
        raise ValueError(f'kind must be "bbox" or "segm", got {kind!r}')
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):  # pycocotools sets ignore = iscrowd and forgets what the file says
        def _prepare(self) -> None:
            super()._prepare()
            for entries in self._gts.values():
                for entry in entries:
                    entry["ignore"] = int(bool(entry.get("ignored", 0)) or bool(entry.get("iscrowd", 0)))

    annotations = []
    for n, entry in enumerate(truth["annotations"], 1):
        box = entry["bbox"]
        copy = {**entry, "id": n, "iscrowd": int(entry.get("iscrowd", 0)), "ignored": bool(entry.get("ignore", False))}
        copy.setdefault("area", box[2] * box[3])
        if isinstance(copy.get("segmentation"), dict):
            copy["segmentation"] = _compressed(copy["segmentation"])
        annotations.append(copy)
    found = []
    for entry in detections:
        row = {k: entry[k] for k in ("image_id", "category_id", "score", "bbox") if k in entry}
        if kind == "segm":
            row["segmentation"] = _compressed(value(entry, "segmentation", "detection"))
        found.append(row)
    if not annotations:
        return dict.fromkeys(METRICS, -1.0)
    if not found:
        return dict.fromkeys(METRICS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        gt = COCO()
        gt.dataset = {**truth, "annotations": annotations}
        gt.createIndex()
        evaluation = Evaluation(gt, gt.loadRes(found), kind)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return _summary(evaluation.eval)


def _summary(result: Mapping[str, Any]) -> dict[str, float]:
    """The usual nine numbers from pycocotools' tables: precision (T, R, K, area, dets), recall (T, K, area, dets)."""

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else -1.0

    precision, recall = result["precision"][..., -1], result["recall"][:, :, 0]
    ap = [mean(precision[..., 0]), mean(precision[0, ..., 0]), mean(precision[5, ..., 0])]
    ap += [mean(precision[..., area]) for area in (1, 2, 3)]
    return dict(zip(METRICS, ap + [mean(recall[..., k]) for k in range(3)]))


def _compressed(segmentation: Any) -> Any:
    """Run lengths as pycocotools wants them; polygons stay."""
    if not isinstance(segmentation, dict):
        return segmentation
    from pycocotools import mask as coco_mask

    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(rle_from_mask(mask_from_rle(segmentation)), *segmentation["size"])
    return segmentation
