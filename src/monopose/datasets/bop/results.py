"""BOP result files: pose estimates as CSV, 2D detections and masks as JSON. Metres and pixel-edge boxes on this side."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...io import records
from ...io.files import atomic_write
from ...io.records import Array, PathLike, check_rotations, check_translations, found, numbers, read_json, value, whole

if TYPE_CHECKING:
    from ...types import Detections, PoseEstimates

HEADER = "scene_id,im_id,obj_id,score,R,t,time"


class Results(NamedTuple):
    """The rows of a result file, in its order.

    scene_id, im_id, obj_id: (N,), int64. score: (N,). R: (N, 3, 3), as written. t: (N, 3), metres.
    time: seconds for the whole image, (N,), -1 = unknown.
    """

    scene_id: Array
    im_id: Array
    obj_id: Array
    score: Array
    R: Array
    t: Array
    time: Array


class ResultsName(NamedTuple):
    """The parts of METHOD_DATASET-SPLIT[-SPLITTYPE][_ID].csv."""

    method: str
    dataset: str
    split: str
    split_type: str = ""
    result_id: str = ""

    @property
    def file(self) -> str:
        return f"{self.method}_{'-'.join(filter(None, self[1:4]))}{'_' * bool(self.result_id)}{self.result_id}.csv"


_RULE = "METHOD_DATASET-SPLIT[-SPLITTYPE][_ID].csv, e.g. monopose_lmo-test.csv"


def results_name(method: str, dataset: str, split: str = "test", split_type: str = "", result_id: str = "") -> str:
    """The file name that BOP's tools and server accept.

    Raises:
        ValueError: a part holds a character that the format uses as separator.

    Source: BOP challenge, submission format; the tools split at "_" and take what stands before the first ".".
    """
    for label, part, forbidden in (
        ("METHOD", method, r"[_./\\\s]"),
        ("DATASET", dataset, r"[_.\-/\\\s]"),
        ("SPLIT", split, r"[_.\-/\\\s]"),
        ("SPLITTYPE", split_type, r"[_.\-/\\\s]"),
        ("ID", result_id, r"[_./\\\s]"),
    ):
        if bad := re.search(forbidden, part):
            hint = re.sub(forbidden, "-" if label in ("METHOD", "ID") else "", part)
            raise ValueError(f"{label} of a BOP result file must not contain {bad[0]!r}, got {part!r}; try {hint!r}")
        if not part and label in ("METHOD", "DATASET", "SPLIT"):
            raise ValueError(f"{label} of a BOP result file must not be empty; the name is {_RULE}")
    return ResultsName(method, dataset, split, split_type, result_id).file


def parse_results_name(path: PathLike) -> ResultsName:
    """The parts of a result file's name; a ValueError says how it should be named."""
    name = Path(path).name
    parts = name[: -len(".csv")].split("_") if name.endswith(".csv") else []
    middle = parts[1].split("-") if len(parts) in (2, 3) else []
    if len(middle) not in (2, 3) or "." in parts[0] or not all(parts) or not all(middle):
        why = (
            "METHOD must contain neither '_' nor '.'" if len(parts) > 3 or "." in "".join(parts[:1]) else "the parts do not fit"
        )
        raise ValueError(f"a BOP result file is named {_RULE}; got {name} ({why})")
    return ResultsName(parts[0], middle[0], middle[1], "".join(middle[2:]), "".join(parts[2:]))


def results_of(
    estimates: PoseEstimates, scene_id: int, im_id: int, seconds: float | None = None, min_score: float = -np.inf
) -> Results:
    """One image's `PoseEstimates` as result rows.

    Args:
        estimates: poses in metres.
        scene_id, im_id: BOP numbers of the image.
        seconds: for the whole image; by default the sum of `estimates.seconds`, or -1 when that is empty.
        min_score: leave out what is below.
    """
    if seconds is None:
        seconds = sum(estimates.seconds.values()) if estimates.seconds else -1.0
    pose = estimates.cam_from_obj.detach().cpu().double().numpy()
    score = estimates.scores.detach().cpu().double().numpy()
    keep = score >= min_score
    n = int(keep.sum())
    scene, image = (np.full(n, i, np.int64) for i in (scene_id, im_id))
    labels = estimates.labels.cpu().numpy().astype(np.int64)
    return Results(scene, image, labels[keep], score[keep], pose[keep, :3, :3], pose[keep, :3, 3], np.full(n, float(seconds)))


def concatenated(parts: Sequence[Results]) -> Results:
    """Several results one after the other."""
    if not parts:
        none = np.zeros(0, np.int64)
        return Results(none, none, none, np.zeros(0), np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros(0))
    return Results(*(np.concatenate(columns) for columns in zip(*parts)))


def write_results(path: PathLike, results: Results | Sequence[Results]) -> Path:
    """Write a BOP result file, whole or not at all; reading it back gives the same numbers to the last bit.

    Args:
        path: its name must follow the BOP rule; `results_name` makes one.
        results: one table, or one per image.

    Raises:
        ValueError: the name breaks the rule, a number is NaN or infinite, translations look like millimetres.
    """
    path = Path(path)
    parse_results_name(path)
    rows = results if isinstance(results, Results) else concatenated(results)
    for name, column in zip(rows._fields, rows):
        if not np.isfinite(column).all():
            raise ValueError(f"{path.name}: '{name}' of row {int(np.argwhere(~np.isfinite(column))[0][0])} is NaN or infinite")
    if len(rows.t) and np.median(np.linalg.norm(rows.t, axis=1)) > 200:
        raise ValueError(f"{path.name}: translations must be metres here (the writer makes millimetres); half are beyond 200 m")
    lines = [HEADER]
    for s, i, o, score, R, t, time in zip(*rows):
        rotation = " ".join(repr(float(x)) for x in R.ravel())
        lines.append(f"{s},{i},{o},{float(score)!r},{rotation},{' '.join(map(_mm, t))},{float(time)!r}")
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _mm(metres: float) -> str:
    """Metres as decimal millimetres by moving the point, so that nothing is rounded."""
    return f"{Decimal(repr(float(metres))).scaleb(3):f}"


def _metres(mm: str) -> float:
    try:
        return float(mm + "e-3")
    except ValueError:
        return float(Decimal(mm).scaleb(-3))


def read_results(path: PathLike) -> Results:
    """Read a BOP result file.

    Returns:
        its rows in file order, translations in metres, rotations as written (not projected to SO(3)).

    Raises:
        FileNotFoundError, ValueError: naming file, line and column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no result file {path} ({found(path.parent)})")
    lines = records.read_text(path, f"a BOP result file, {_RULE}").splitlines()
    if not lines or lines[0].replace(" ", "") != HEADER:
        raise ValueError(f"{path}: the first line must be '{HEADER}', got '{''.join(lines[:1])[:80]}'")
    numbered = [(n, line.split(",")) for n, line in enumerate(lines[1:], 2) if line.strip()]
    places = [f"{path}, line {n}" for n, _ in numbered]
    try:
        columns = list(zip(*(fields for _, fields in numbered), strict=True)) or [()] * 7
        scene, im, obj = (np.array([int(x) for x in c], np.int64) for c in columns[:3])
        if any("_" in x for c in columns for x in c):
            raise ValueError  # Python reads 1_0 as 10
        score, time = (np.array(columns[k], np.float64).reshape(-1) for k in (3, 6))
        R = np.array([c.split() for c in columns[4]], np.float64).reshape(-1, 3, 3)
        t = np.array([[_metres(x) for x in c.split()] for c in columns[5]], np.float64).reshape(-1, 3)
        sane = len(columns) == 7 and len(R) == len(t) == len(scene) and all(np.isfinite(a).all() for a in (score, time, R, t))
        sane = sane and all(((ids >= 0) & (ids < 2**31)).all() for ids in (scene, im, obj))
    except (ValueError, ArithmeticError, IndexError):
        sane = False
    if not sane:
        raise ValueError(_bad_row(path, numbered))
    check_rotations(R, places, "R")
    check_translations(t, str(path), "t")
    return Results(scene, im, obj, score, R, t, time)


def _bad_row(path: Path, numbered: list[tuple[int, list[str]]]) -> str:
    """The message for the first row that cannot be read."""
    for n, fields in numbered:
        where = f"{path}, line {n}"
        if len(fields) != 7:
            return f"{where}: expected 7 columns ({HEADER}), got {len(fields)}"
        for name, text, count in zip(HEADER.split(","), fields, (1, 1, 1, 1, 9, 3, 1)):
            words = text.split()
            if len(words) != count:
                return f"{where}: '{name}' must have {count} number{'s' * (count > 1)} separated by blanks, got {len(words)}"
            try:
                good = all(whole(w, where) >= 0 if name.endswith("_id") else np.isfinite(float(w)) for w in words)
            except ValueError:
                good = False
            if not good:
                kind = "a whole number from 0" if name.endswith("_id") else "finite numbers"
                return f"{where}: '{name}' must be {kind}, got '{text.strip()}'"
    return f"{path}: cannot be read; the rows must be {HEADER}"


# ------------------------------------------------------------------------------------------ what happened to the targets

Counts = dict[tuple[int, int, int], tuple[int, int]]  # scene_id, im_id, obj_id -> boxes of the object, poses found in them


def counts_file(results: PathLike) -> Path:
    """Where, beside a result file, `write_counts` keeps what the file itself cannot say."""
    return Path(results).with_suffix(".found.json")


def write_counts(results: PathLike, counts: Counts) -> Path:
    """Write beside a result file how many boxes and poses there were of each target, so that `evaluate` knows why one has no
    estimate."""
    path = counts_file(results)
    rows = ",\n".join(json.dumps([*key, *count]) for key, count in sorted(counts.items()))
    with atomic_write(path) as temporary:
        temporary.write_text(
            f'{{"columns": "scene_id, im_id, obj_id, boxes, poses", "rows": [\n{rows}\n]}}\n', encoding="utf-8"
        )
    return path


def read_counts(results: PathLike) -> Counts:
    """What `write_counts` wrote beside a result file; nothing if it did not."""
    path = counts_file(results)
    if not path.is_file():
        return {}
    counts: Counts = {}
    for n, row in enumerate(records.rows(value(read_json(path), "rows", str(path)), f"{path}: 'rows'")):
        five = records.rows(row, f"{path}, row {n}")
        if len(five) != 5:
            raise ValueError(f"{path}, row {n} must have 5 numbers, got {len(five)}")
        scene_id, im_id, obj_id, boxes, poses = (whole(number, f"{path}, row {n}") for number in five)
        counts[scene_id, im_id, obj_id] = boxes, poses
    return counts


# ------------------------------------------------------------------------------------------------- detections and masks


def rle_from_mask(mask: Any) -> dict[str, Any]:
    """Uncompressed run lengths of a mask (H, W), column by column, zeros first: {"counts": [...], "size": [h, w]}.

    Source: COCO; the form that BOP's own files use.
    """
    mask = np.asarray(mask, bool)
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"counts": np.diff(edges, prepend=0).tolist(), "size": list(mask.shape)}


def mask_from_rle(segmentation: dict[str, Any], where: str = "segmentation") -> Array:
    """The mask (H, W), bool, of run lengths in either spelling: a list of numbers or COCO's compressed string."""
    counts = value(segmentation, "counts", where)
    h, w = _mask_size(segmentation, where)
    if isinstance(counts, (list, str, bytes)):
        if isinstance(counts, list):
            runs = np.array([records.whole(n, f"{where}: 'counts'", 0, h * w) for n in counts], np.int64)
        else:
            runs = _unpacked(counts.encode() if isinstance(counts, str) else counts, where)
        if runs.sum() != h * w or (runs < 0).any():
            raise ValueError(f"{where}: 'counts' must sum to height x width = {h * w}, got {runs.sum()}; is 'size' [h, w]?")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(w, h).T
    raise ValueError(f"{where}: 'counts' must be run lengths or COCO's string of them, got {counts!r:.80}")


def _unpacked(packed: bytes, where: str) -> Array:
    """The run lengths in COCO's string: five bits a character, the sixth says that more follow; from the fourth run on as the
    difference from the run before the last. (pycocotools leaves what a short string does not reach as the memory was.)"""
    bits = np.frombuffer(packed, np.uint8).astype(np.int64) - 48
    last = (bits & 32) == 0
    if len(bits) and not (((bits >= 0) & (bits < 64)).all() and last[-1]):
        raise ValueError(f"{where}: 'counts' is not COCO's string of run lengths, or cut short")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    place = np.arange(len(bits)) - np.repeat(starts[: len(ends)], np.diff(ends, prepend=-1))
    if len(bits) and place.max() > 6:
        raise ValueError(f"{where}: 'counts' holds a run of more than 2^31 pixels")
    runs = np.add.reduceat((bits & 31) << (5 * place), starts) if len(bits) else np.zeros(0, np.int64)
    runs -= np.where(bits[ends] & 16, 1 << (5 * (place[ends] + 1)), 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def _mask_size(segmentation: dict[str, Any], where: str) -> tuple[int, int]:
    height, width = numbers(segmentation, "size", (2,), where).tolist()
    return records.image_size(height, width, where)


def read_detections(path: PathLike) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """2D detections of a BOP JSON file by (scene_id, image_id), each list best first; `detections_of` makes boxes and masks.

    Raises:
        ValueError: naming file, entry and key.
    """
    path = Path(path)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path} must be a list of detections, got {type(rows).__name__}")
    images: dict[tuple[int, int], list[dict[str, Any]]] = {}
    flat: list[str] = []
    for n, row in enumerate(rows):
        where = f"{path}, entry {n}"
        scene_id, im_id, _ = (whole(value(row, k, where), f"{where}: {k}") for k in ("scene_id", "image_id", "category_id"))
        row = {**row, "bbox": numbers(row, "bbox", (4,), where).tolist(), "score": float(numbers(row, "score", (), where))}
        if "time" in row:
            row["time"] = float(numbers(row, "time", (), where))
        if not 0 <= row["score"] <= 1:
            raise ValueError(f"{where}: 'score' must be a probability, 0 to 1, got {row['score']:g}; divide percent by 100")
        if row["bbox"][2] > 0 and row["bbox"][3] > 0:
            images.setdefault((scene_id, im_id), []).append(row)
        else:
            flat.append(f"{where}: {row['bbox']}")
    if flat:
        warnings.warn(f"{len(flat)} of {len(rows)} detections have no area and are left out (first: {flat[0]})", stacklevel=2)
    for found_here in images.values():
        found_here.sort(key=lambda row: -row["score"])
    return images


def detections_of(rows: Sequence[dict[str, Any]], masks: bool = False) -> Detections:
    """One image's entries of `read_detections` as `Detections`: boxes xyxy on pixel edges, masks decoded when asked for."""
    import torch

    from ...types import Detections

    boxes = torch.tensor([r["bbox"] for r in rows], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    decoded = None
    if masks and rows:
        where = f"scene {rows[0].get('scene_id')}, image {rows[0].get('image_id')}, segmentation"
        each = [mask_from_rle(value(r, "segmentation", where), where) for r in rows]
        if len(sizes := sorted({mask.shape for mask in each})) > 1:
            raise ValueError(f"{where}: the masks of one picture have the sizes {', '.join(map(str, sizes))}, (height, width)")
        decoded = torch.from_numpy(np.stack(each))
    labels = torch.tensor([int(r["category_id"]) for r in rows], dtype=torch.int64)
    return Detections(labels, boxes, torch.tensor([float(r["score"]) for r in rows]), decoded)


# ------------------------------------------------------------------------------------------------------------- targets


class Targets(NamedTuple):
    """What is to be estimated. scene_id, im_id: (N,), int64. obj_id, inst_count: (N,), or None in the BOP'24 detection form."""

    scene_id: Array
    im_id: Array
    obj_id: Array | None
    inst_count: Array | None
