"""A trained run on a whole BOP data set: every target image predicted, or the poses of a result file refined.

Both go on where a killed run stopped: what is done stands in `.partial` beside the result file, with what it was made from.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import weights
from ..datasets.bop import index as bop_index
from ..datasets.bop import models as bop_models
from ..datasets.bop import results as bop_results
from ..datasets.bop import scenes as bop_scenes
from ..detection import LEAST_SCORE
from ..geometry import rotation, se3
from ..io import shards
from ..io.bars import Bar
from ..io.files import Unreadable, digest_of, list_unreadable, sole_writer
from ..types import Detections, Instances, ObjectModel, PoseEstimates
from . import pipeline, refinement
from .viz import save_stages

FURTHER_DEG, FURTHER_SHIFT = 20.0, 0.05  # standard deviations of further starts: degrees per axis, diameters
SAVED_EVERY = 20  # images, after which a run over a data set can go on
Key = tuple[int, int]  # scene_id, im_id


def truth_as_detections(instances: Instances, wanted: Iterable[int]) -> Detections:
    """True amodal boxes of the wanted objects, score 1: the oracle detector of result tables."""
    if instances.boxes is None:
        raise ValueError("true boxes need scene_gt_info.json beside scene_gt.json")
    ids = torch.tensor(sorted(wanted))
    rows = (instances.labels[:, None] == ids).any(1)
    return Detections(instances.labels[rows], instances.boxes[rows], torch.ones(int(rows.sum())))


def predict_bop(
    run: pipeline.Pipeline,
    data: str | Path,
    targets: str | Path | None,
    out: str | Path,
    *,
    boxes: str | Path | None = None,
    true_boxes: bool = False,
    score_threshold: float = LEAST_SCORE,
    looks: int = pipeline.LOOKS,
    limit: int | None = None,
    debug: str | Path | None = None,
    refine: bool | None = None,
    min_probability: float | None = None,
    shard: shards.Shard | None = None,
    strict: bool = False,
) -> Path:
    """Run on every target image of a BOP data set and write the BOP result file; goes on where a killed run stopped.

    Args:
        run: a trained run.
        data: the data set folder.
        targets: targets file; None: test_targets_bop19.json of the data set.
        out: result file, METHOD_DATASET-SPLIT.csv; its name says which split is read.
        boxes: detections JSON (BOP form) in place of the detector.
        true_boxes: the ground truth's amodal boxes in place of the detector; an oracle, to be named where reported.
        score_threshold: least score of what the run's detector finds.
        looks: how often the run's detector looks at a picture, see `detector.predict`.
        limit: only the first so many images.
        debug: folder for pictures of every stage.
        refine: whether the run's refiner gets the poses in the end; None: if the run has one.
        min_probability: leave out poses as `Pipeline.trusted` does; None: keep all, which BOP's scores reward.
        shard: only the images of this one; `out` is written by `shards.MERGE`, when all have been there.
        strict: stop at a picture that cannot be read. Otherwise these are listed beside `out`, in NAME.unreadable.txt.

    Returns:
        `out`.

    Raises:
        FileNotFoundError, ValueError: naming file and key; shards with other settings, or that are missing in a merge.
    """
    data, out = Path(data), Path(out)
    split = _split(data, out)
    rows = bop_scenes.read_targets(Path(targets) if targets is not None else data / "test_targets_bop19.json")
    wanted: dict[Key, set[int]] = {}
    known = set(run.estimator.config.obj_ids)
    for i, key in enumerate(zip(rows.scene_id.tolist(), rows.im_id.tolist(), strict=True)):
        ids = known if rows.obj_id is None else {int(rows.obj_id[i])} & known
        wanted.setdefault(key, set()).update(ids)
    given = None if boxes is None else bop_results.read_detections(boxes)
    keys = list(wanted)[:limit]
    scenes = bop_index.open_scenes(split, sorted({k[0] for k in keys}))
    if not run.models and (data / "models").is_dir():
        run = replace(run, models=bop_models.read_models(data / "models", tuple(sorted(known))))
    refining = run.refines(refine)

    counts: bop_results.Counts = {}

    def predicted(key: Key) -> bop_results.Results:
        frame = bop_scenes.read_frame(scenes[key[0]], key[1], masks=False, depth=False)
        detections = None
        if true_boxes:
            if frame.instances is None:
                raise ValueError(f"{scenes[key[0]].folder} has no scene_gt.json, so there are no true boxes")
            detections = truth_as_detections(frame.instances, wanted[key])
        elif given is not None:
            detections = bop_results.detections_of([d for d in given.get(key, []) if int(d["category_id"]) in known])
        predict = run.predict_counted if debug is None else run.predict_traced
        poses, trace = predict(frame, detections, score_threshold, refining, looks)
        if debug is not None:
            save_stages(_picture_folder(debug, key), frame, trace, poses, run)  # type: ignore[arg-type]
        for label in sorted(wanted[key]):
            seen, solved = (int((labels == label).sum()) for labels in (trace.detections.labels, trace.solved))
            counts[key[0], key[1], label] = seen, solved
        if min_probability is not None:
            poses = run.trusted(poses, frame, min_probability)
        requested = torch.tensor(sorted(wanted[key]), device=poses.labels.device)
        poses = poses[(poses.labels[:, None] == requested).any(1)]
        return bop_results.results_of(poses, *key)

    short = hashlib.sha256(repr([(k, sorted(wanted[k])) for k in keys]).encode()).hexdigest()[:16]
    sources: dict[str, Any] = {"boxes": boxes and Path(boxes), "true_boxes": true_boxes, "weights": weights.digests(run.path)}
    sources |= {"models": {i: m.digest for i, m in run.models.items()}, "images": short}
    sources |= {"score": score_threshold, "looks": looks, "refine": refining}
    sources |= {"min_probability": min_probability, "limit": limit}
    job = shards.Job(shards.folder_of(out), sources, len(keys), SAVED_EVERY, shard)
    if shard is not None and not shard.last:
        _every_image(keys, job, predicted, counts, strict)
        return out
    with sole_writer(out.parent, out.name):
        _every_image(keys, job, predicted, counts, strict)
        rows_of = list(job.rows())
        _list_unreadable(out, [row for row in rows_of if isinstance(row, str)], len(keys))
        read = [row for row in rows_of if not isinstance(row, str)]
        bop_results.write_counts(out, {tuple(k): tuple(v) for row in read for k, v in row["counts"]})
        bop_results.write_results(out, [_read(row) for row in read])
        job.remove()
    return out


@dataclass(frozen=True)
class Refinement:
    """What `refine_bop` did: the result file, its rows, how many of them have a new pose, and why the others have not."""

    results: Path
    rows: int
    refined: int
    unchanged: dict[str, int] = field(default_factory=dict)  # reason -> rows


def refine_bop(
    folder: str | Path,
    data: str | Path,
    results: str | Path,
    out: str | Path,
    *,
    targets: str | Path | None = None,
    hypotheses: int = 0,
    outer: int | None = None,
    inner: int | None = None,
    debug: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Refinement:
    """Refine the poses of a BOP result file and write them as another one; goes on where a killed run stopped.

    Every row stays in its place with its score. The time of an image grows by that of refining; an unknown one, -1, stays. Rows
    that cannot be refined, or whose refined pose the network does not hold for better, keep their pose to the last digit.

    Args:
        folder: run folder with refiner.safetensors; without one, or for "base", the refiner of the base is taken.
        data: the data set folder, with models/.
        results: result file with the initial poses, METHOD_DATASET-SPLIT.csv; its name says which split is read.
        out: result file to write, of the same DATASET-SPLIT.
        targets: only images of this targets file are refined; None: all of `results`.
        hypotheses: so many further starts for every pose, drawn around it; the best of all results is taken.
        outer, inner: renderings, and steps per rendering; None: as configured.
        debug: folder for pictures of the iterations.
        device: where to run; None: CUDA if there is one.

    Raises:
        FileNotFoundError, ValueError: no refiner; results that cannot be read, of another split or of unknown images; no CAD
            model of any of their objects; a picture or camera that is missing.
    """
    network = pipeline.load_refiner(folder, device)
    results, data, out = Path(results), Path(data), Path(out)
    if hypotheses < 0:
        raise ValueError(f"hypotheses must be 0 or more, got {hypotheses}")
    if bop_results.parse_results_name(results)[1:4] != bop_results.parse_results_name(out)[1:4]:
        raise ValueError(f"{out.name} must name the data set and split of {results.name}: both stand between '_' and '.csv'")
    try:
        rows = bop_results.read_results(results)
    except ValueError as error:
        raise ValueError(f"{error}. Correct that row or take it out: an object without a pose has no row") from error
    split = _split(data, results)
    images = list(zip(rows.scene_id.tolist(), rows.im_id.tolist(), strict=True))
    keys = list(dict.fromkeys(images))
    if targets is not None:
        requested = bop_scenes.read_targets(Path(targets))
        chosen = set(zip(requested.scene_id.tolist(), requested.im_id.tolist(), strict=True))
        if keys and not chosen & set(keys):
            raise ValueError(f"no image of {results} is in {targets}; are they of different splits?")
        keys = [k for k in keys if k in chosen]
    scenes = _scenes_of(keys, split, results)
    models = _models_of(set(rows.obj_id.tolist()), data / "models", results) if keys else {}
    for shape in models.values():
        network.cached_object(shape)  # not part of the time of the first image
    places = {k: np.array([n for n, image in enumerate(images) if image == k]) for k in keys}
    sizes: dict[Key, tuple[int, int]] = {}

    def refined(key: Key) -> bop_results.Results:
        part = bop_results.Results(*(column[places[key]] for column in rows))
        frame = bop_scenes.read_frame(scenes[key[0]], key[1], masks=False, depth=False)
        sizes[key] = frame.camera.size
        known = np.isin(part.obj_id, list(models))
        poses = _estimates(part)[torch.from_numpy(known)]
        starts = _further(poses, models, hypotheses, key) if hypotheses else None
        better, traces = refinement.predict_traced(network, frame, poses, models, hypotheses=starts, outer=outer, inner=inner)
        moved = (better.cam_from_obj != poses.cam_from_obj).flatten(1).any(1).numpy()
        at, new = known.nonzero()[0][moved], better.cam_from_obj.double().numpy()[moved]
        R, t, time_s = part.R.copy(), part.t.copy(), part.time.max()
        R[at], t[at] = new[:, :3, :3], new[:, :3, 3]
        if debug is not None:
            from .viz import save_refinement

            save_refinement(_picture_folder(debug, key), frame, traces)  # type: ignore[arg-type]
        spent = time_s + better.seconds["refiner"] if time_s >= 0 else -1.0
        return part._replace(R=R, t=t, time=np.full(len(part.time), spent))

    sources = {"results": str(results), "written": results.stat().st_mtime_ns, "targets": str(targets)}
    sources |= {"weights": digest_of(pipeline.find_refiner(folder)), "steps": [hypotheses, outer, inner]}
    with sole_writer(out.parent, out.name):
        job = shards.Job(shards.folder_of(out), sources, len(keys), SAVED_EVERY)
        _every_image(keys, job, refined)
        whole = bop_results.Results(*(column.copy() for column in rows))
        for key, row in zip(keys, job.rows(), strict=True):
            for column, new in zip(whole, _read(row), strict=True):
                column[places[key]] = new
        moved = (whole.R != rows.R).any((1, 2)) | (whole.t != rows.t).any(1)
        unchanged: dict[str, int] = {}
        for row in (~moved).nonzero()[0].tolist():
            reason = _why_unchanged(rows, row, images[row] in places, scenes, sizes, models)
            unchanged[reason] = unchanged.get(reason, 0) + 1
        if counts := bop_results.read_counts(results):
            bop_results.write_counts(out, counts)
        bop_results.write_results(out, whole)
        job.remove()
        return Refinement(out, len(moved), int(moved.sum()), unchanged)


def _split(data: Path, results: Path) -> Path:
    """The folder of the split that a result file is named after."""
    name = bop_results.parse_results_name(results)
    return data / "_".join(filter(None, (name.split, name.split_type)))


def _picture_folder(debug: str | Path | None, key: Key) -> Path | None:
    return None if debug is None else Path(debug) / f"{key[0]:06d}_{key[1]:06d}"


def _scenes_of(keys: Sequence[Key], split: Path, results: Path) -> dict[int, bop_scenes.Scene]:
    """The scenes of images by their id, all of which have a camera."""
    scenes = {}
    for scene_id in dict.fromkeys(k[0] for k in keys):
        folder = split / f"{scene_id:06d}"
        if split.is_dir() and not folder.is_dir():
            raise ValueError(f"{results} has poses in scene {scene_id}, but there is no {folder}; are they of another split?")
        scenes[scene_id] = bop_scenes.open_scene(folder)
        cameras = set(scenes[scene_id].im_ids.tolist())
        if alien := [im_id for s, im_id in keys if s == scene_id and im_id not in cameras]:
            raise ValueError(
                f"{results} has poses in image {alien[0]} of scene {scene_id}, but {folder}/scene_camera.json has no camera "
                "for it; are they of another split, or is the file cut off?"
            )
    return scenes


def _models_of(wanted: set[int], folder: Path, results: Path) -> dict[int, ObjectModel]:
    """The CAD models of those objects that the folder has."""
    have = set(bop_models.read_models_info(folder))
    if not wanted & have:
        raise ValueError(f"{folder} has none of the objects {sorted(wanted)} of {results}; it has {sorted(have)}")
    return bop_models.read_models(folder, sorted(wanted & have))


def _estimates(rows: bop_results.Results) -> PoseEstimates:
    """Rows of a result file with proper rotations."""
    R, t = (torch.from_numpy(np.ascontiguousarray(v)) for v in (rows.R, rows.t))
    pose = se3.from_rt(rotation.nearest_rotation(R), t).float()
    return PoseEstimates(torch.from_numpy(rows.obj_id.copy()), pose, torch.from_numpy(rows.score.copy()))


def _further(poses: PoseEstimates, models: Mapping[int, ObjectModel], count: int, key: Key) -> Tensor:
    """Further starts around poses, (N, count, 4, 4); the same for the same image."""
    generator = torch.Generator().manual_seed(1_000_003 * key[0] + key[1])
    shift = torch.tensor([FURTHER_SHIFT * models[i].diameter for i in poses.labels.tolist()])[:, None].expand(-1, count)
    starts = poses.cam_from_obj[:, None].expand(-1, count, 4, 4)
    return se3.perturbed(starts, float(np.deg2rad(FURTHER_DEG)), shift, generator=generator)


def _why_unchanged(
    rows: bop_results.Results,
    row: int,
    target: bool,
    scenes: Mapping[int, bop_scenes.Scene],
    sizes: dict[Key, tuple[int, int]],
    models: Mapping[int, ObjectModel],
) -> str:
    if not target:
        return "not among the targets"
    key, label = (int(rows.scene_id[row]), int(rows.im_id[row])), int(rows.obj_id[row])
    if label not in models:
        return f"no CAD model of object {label}"
    if key not in sizes:  # refined before this run went on
        sizes[key] = bop_scenes.read_frame(scenes[key[0]], key[1], masks=False, depth=False).camera.size
    pose = _estimates(bop_results.Results(*(column[row : row + 1] for column in rows))).cam_from_obj
    K = bop_scenes.scene_camera(scenes[key[0]], key[1], sizes[key]).K[None]
    code = int(refinement.failure_reason(models[label].corners[None], pose, K, sizes[key]))
    return refinement.FAILURES[code] or "not held for better than it was"


def _every_image(
    keys: Sequence[Key],
    job: shards.Job,
    one: Callable[[Key], bop_results.Results],
    counts: bop_results.Counts | None = None,
    strict: bool = True,
) -> None:
    """Results of every image of this shard, and the `counts` that `one` adds to; what an earlier run of the same settings has
    done is there.

    Of pictures that cannot be read the reason is kept, unless `strict`.
    """
    counts = {} if counts is None else counts
    with Bar("pictures", sum(len(job.pieces(b)) for b in job.mine()), job.skipped()) as bar:
        for block, pieces in job.todo():
            rows: list[Any] = []
            for i in pieces:
                counts.clear()
                try:
                    found = [column.tolist() for column in one(keys[i])]
                    rows.append({"columns": found, "counts": [*counts.items()]})
                except Unreadable as error:
                    if strict:
                        raise
                    rows.append(str(error))
                bar.advance()
            job.save(block, rows)


def _list_unreadable(out: Path, reasons: Sequence[str], count: int) -> None:
    file = out.with_suffix(".unreadable.txt")
    if reasons and len(reasons) == count:
        raise Unreadable(f"none of the {count} pictures can be read; the first: {reasons[0]}")
    if list_unreadable(file, reasons):
        warnings.warn(f"{len(reasons)} of {count} pictures cannot be read; they are listed in {file}", stacklevel=3)


def _read(row: Any) -> bop_results.Results:
    """One image's rows as a block has them."""
    columns, empty = row["columns"], bop_results.concatenated([])
    shaped = (np.array(v, e.dtype).reshape(len(v), *e.shape[1:]) for v, e in zip(columns, empty, strict=True))
    return bop_results.Results(*shaped)
