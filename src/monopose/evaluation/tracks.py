"""Scores of tracks through videos: how near, how long, whether the word "lost" is right, how soon an object is found again.

Arrays are numpy. Protocol of "right": Tjaden et al. (PAMI 2018), within 5 cm and 5 degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..datasets.bop import scenes
from ..io import records
from . import bop, errors, scores

Array = np.ndarray
METRES, DEGREES = 0.05, 5.0
SEEN = 0.1  # visible share of the silhouette from which an object is there, as BOP counts
WITHIN = 5  # frames by which a flag may differ from what it tells
ABSENT = 5  # frames after which a return counts as one
AUC_LIMIT = 0.1  # metres, end of the accuracy curve of ADD(-S)


class Judged(NamedTuple):
    """One object in F frames: metres, degrees and ADD(-S) in metres; whether it is there, is right, is called lost; (F,)."""

    metres: Array
    degrees: Array
    add: Array
    there: Array
    right: Array
    flagged: Array


def judged(est: Array, flagged: Array, true: Array, visibility: Array, model: bop.Object) -> Judged:
    """Compare a track with the truth.

    Args:
        est: cam_from_obj of F frames, (F, 4, 4), metres.
        flagged: where the object is called lost, (F,).
        true: as est.
        visibility: share of the silhouette that is seen, (F,), 0 where the object is out of the picture.
        model: points and symmetries; errors are those to the nearest of the poses that look the same.
    """
    same = true[:, None] @ model.group  # (F, S, 4, 4)
    given = np.broadcast_to(est[:, None], same.shape)
    turns, moves = np.degrees(errors.rotation(given, same)), errors.translation(given, same)
    best = np.maximum(turns / DEGREES, moves / METRES).argmin(1)
    rows = np.arange(len(est))
    metres, degrees = moves[rows, best], turns[rows, best]
    add = errors.add_s(est, true, model.points, limit=AUC_LIMIT) if model.symmetric else errors.add(est, true, model.points)
    there = np.asarray(visibility >= SEEN)
    return Judged(metres, degrees, add, there, there & (metres <= METRES) & (degrees <= DEGREES), np.asarray(flagged, bool))


def summary(tracks: Sequence[Judged], fps: float) -> dict[str, Any]:
    """Scores of several tracks together.

    Returns:
        {"frames": with the object in them, "right": share of them within 5 cm and 5 degrees, "auc_add_s": up to 0.1 m,
        "tracked": share that is not called lost, "flag_precision": of the frames that are called lost, those with an error at
        most five frames away; "flag_recall": of the frames with an error (wrong, or no object), those with the flag at
        most five frames away; "returns": how often an object comes back after five frames or more, "recovered": share of
        these where it is right and not called lost within a second, "recovery_frames": median and 95th percentile of the frames
        that takes}.
        None where there is nothing to score.
    """
    there, right, flagged = (np.concatenate([getattr(t, name) for t in tracks]) for name in ("there", "right", "flagged"))
    near, meant = [], []
    waits: list[float] = []
    for t in tracks:
        near.append(_near(~t.right)[t.flagged])
        meant.append(_near(t.flagged)[~t.right])
        waits += _waits(t)
    hits, found = np.concatenate(near), np.concatenate(meant)
    share = lambda values: float(np.mean(values)) if len(values) else None  # noqa: E731
    add = np.concatenate([t.add[t.there] for t in tracks])
    late = np.array(waits)
    return {
        "frames": int(there.sum()), "right": share(right[there]),
        "auc_add_s": scores.auc_voc(add, AUC_LIMIT) if len(add) else None, "tracked": share(~flagged[there]),
        "flag_precision": share(hits), "flag_recall": share(found), "returns": len(waits),
        "recovered": share(late <= fps), "recovery_frames": _quantiles(late),
    }  # fmt: skip


def read_tracks(path: str | Path) -> dict[int, list[tuple[str, Array, bool]]]:
    """Object id -> (name of the picture, cam_from_obj, lost) of every frame, of a tracks.jsonl of `monopose track`.

    Raises:
        ValueError: a line that is no JSON object, or lacks a pose; names file, line and key.
    """
    out: dict[int, list[tuple[str, Array, bool]]] = {}
    for n, line in enumerate(records.read_text(path).splitlines(), 1):
        where = f"{path}, line {n}"
        row = records.mapping(records.parse_json(line, where), where)
        name = records.text(row, "image", where)
        for track in records.rows(records.value(row, "tracks", where), where):
            pose = records.numbers(track, "cam_from_obj", (4, 4), where)
            label = records.whole(records.value(track, "label", where), where)
            out.setdefault(label, []).append((name, pose, bool(records.value(track, "lost", where))))
    if not out:
        raise ValueError(f"{path} holds no frame; it should be a tracks.jsonl of monopose track")
    return out


def evaluate(tracks: str | Path, scene: str | Path, fps: float | None = None) -> dict[str, Any]:
    """Score a file of tracks by the truth of a BOP scene folder whose pictures are the frames of the video.

    Args:
        tracks: tracks.jsonl; its pictures are named by number, as those in SCENE/rgb.
        scene: such as DATA/test/000000; the models are those of DATA.
        fps: pictures per second; None: as video.json beside the scene says, else 30.

    Raises:
        FileNotFoundError, ValueError: no truth or no models; a picture or an object that the truth does not know.
    """
    opened = scenes.open_scene(scene)
    if opened.truth is None:
        raise FileNotFoundError(f"no scene_gt.json in {opened.folder}; tracks are scored by the true poses")
    found, truth = read_tracks(tracks), opened.truth
    data = opened.folder.parent.parent
    models = bop.read_objects(next((d for d in (data / "models_eval", data / "models") if d.is_dir()), data / "models"), found)
    settings = opened.folder.parent / "video.json"
    if fps is None:
        fps = float(records.read_json(settings)["fps"]) if settings.is_file() else 30.0
    every: dict[int, Judged] = {}
    for label, rows in found.items():
        place = {int(im): k for k, im in enumerate(truth.im_id.tolist()) if truth.obj_id[k] == label}
        known = set(opened.im_ids.tolist())
        true, visibility = [], []
        for name, _, _ in rows:
            if not name.isdecimal() or int(name) not in known:
                raise ValueError(f"{tracks} has the picture {name}, which {opened.folder}/scene_camera.json does not know")
            k = place.get(int(name))
            pose = np.eye(4)
            if k is not None:
                pose[:3, :3], pose[:3, 3] = truth.R[k], truth.t[k]
            true.append(pose)
            visibility.append(0.0 if k is None else 1.0 if truth.visibility is None else float(truth.visibility[k]))
        est, lost = np.stack([pose for _, pose, _ in rows]), np.array([flag for _, _, flag in rows])
        every[label] = judged(est, lost, np.stack(true), np.array(visibility), models[label])
    total = summary(list(every.values()), fps)
    return total | {"fps": fps, "per_object": {str(i): summary([t], fps) for i, t in every.items()}}


COLUMNS = ("frames", "right", "auc_add_s", "tracked", "flag_precision", "flag_recall", "returns", "recovered")


def text(result: dict[str, Any]) -> str:
    """A table of `evaluate` or `summary`, shares in percent."""
    rows = {"all": result} | {f"object {i}": row for i, row in result.get("per_object", {}).items()}
    heads = ("frames", "5cm5deg", "AUC ADD(-S)", "tracked", "flag prec.", "flag recall", "returns", "in 1 s")
    lines = ["".join([f"{'':12}", *(f"{h:>13}" for h in heads)])]
    for name, row in rows.items():
        cells = [row[c] for c in COLUMNS]
        shown = ["-" if v is None else str(v) if isinstance(v, int) else f"{100 * v:.1f}" for v in cells]
        lines.append("".join([f"{name:12}", *(f"{s:>13}" for s in shown)]))
    return "\n".join(lines)


def _near(marks: Array) -> Array:
    """Frames with a mark at most `WITHIN` frames before or after."""
    return np.convolve(marks.astype(float), np.ones(2 * WITHIN + 1))[WITHIN : WITHIN + len(marks)] > 0.5


def _waits(t: Judged) -> list[float]:
    """Frames from every return of the object until it is right and not called lost; infinite where that never comes."""
    out, absent = [], 0
    good = t.right & ~t.flagged
    for i, there in enumerate(t.there.tolist()):
        if there and absent >= ABSENT:
            later = np.flatnonzero(good[i:])
            out.append(float(later[0]) if len(later) else np.inf)
        absent = 0 if there else absent + 1
    return out


def _quantiles(values: Array) -> list[float] | None:
    if not len(values):
        return None
    return [float(np.quantile(values, q, method="higher")) for q in (0.5, 0.95)]
