"""BOP's protocols on a result file: localisation (BOP'19, AR) and detection (BOP'24, AP), and the recalls of older tables:
ADD(-S), its area under the curve, n degrees n cm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets.bop import index as bop_index
from ..datasets.bop import models as bop_models
from ..datasets.bop import results as bop_results
from ..datasets.bop import scenes as bop_scenes
from ..io import records, shards
from ..io.files import digest_of
from . import errors, scores

Array = NDArray[Any]

MSSD_THRESHOLDS = np.arange(0.05, 0.51, 0.05)  # of the diameter
MSPD_THRESHOLDS = np.arange(5.0, 51.0, 5.0)  # pixels at an image width of 640
VSD_TAUS = np.arange(0.05, 0.51, 0.05)  # of the diameter
VSD_THRESHOLDS = np.arange(0.05, 0.51, 0.05)
ADD_THRESHOLDS = np.array([0.02, 0.05, 0.1])  # of the diameter
AUC_LIMIT = 0.1  # metres, end of the accuracy curve of ADD(-S)
DEG_CM = np.array([2.0, 5.0, 10.0])  # degrees and centimetres
MIN_VISIBILITY = 0.1  # BOP'24 ignores true objects that are less visible
_VSD_BLOCK = 50  # classes in images that one block of a shard measures
MAX_ESTIMATES = 100  # per image in BOP'24


class _Group(NamedTuple):
    """The estimates and true objects of one class in one image."""

    obj_id: int
    image: int  # place in the order of the target images
    est: Array  # rows of the results, file order
    true: Array  # rows of the truth, file order
    inst_count: int  # 0: not a localisation target
    kept: Array  # which estimates are among the best of the image, for detection


def evaluate(
    results: records.PathLike | bop_results.Results,
    data_dir: records.PathLike,
    targets: records.PathLike | bop_results.Targets | None = None,
    *,
    split: str | None = None,
    models: str = "models_eval",
    image_width: int | None = None,
    sensor: str = "",
    vsd: bool = False,
    vsd_delta: float = 0.015,
    max_estimates: int = MAX_ESTIMATES,
    shard: shards.Shard | None = None,
) -> dict[str, Any]:
    """Score a BOP result file against the truth of a data set.

    Args:
        results: the CSV file, or its rows.
        data_dir: the data set's folder, with `models`, a split folder and the targets file.
        targets: a targets file; test_targets_bop19.json of the data set by default.
            The BOP'24 form (images only) gives AP alone.
        split: folder of the scenes; by default what the file's name says ("test"), then "test".
        models: folder of the models whose vertices count, "models_eval" by default, "models" if there is no other.
        image_width: pixels, for the thresholds of MSPD; by default that of the pictures, then of camera.json.
        sensor: suffix of folders and JSON names in multi-sensor sets.
        vsd: compute VSD too; needs the sensor's depth images and takes minutes.
        vsd_delta: visibility tolerance, metres; 0.005 for ITODD.
        max_estimates: per image in BOP'24.
        shard: only VSD in the images of this one, noted beside the results until `shards.MERGE` scores; needs `vsd` and a file.

    Returns:
        {"ar": {"mssd", "mspd", "vsd", "mean"}, "ap": {"mssd", "mspd", "mean"}, "add_s": {"0.02", "0.05", "0.1"},
        "auc_add_s": {"voc", "step"}, "deg_cm": {"2", "5", "10"}, "per_object": {"1": the same and "targets"},
        "targets": number of instances to find, "about": ...}; `table.text` prints it.
        Fractions in [0, 1]. "vsd" is None unless targets for; the mean is then that of the other two, and "about" says so.
        "add_s" is the recall of ADD(-S): ADD-S for objects with symmetries, ADD for the others, shares of the diameter.
        "auc_add_s" is the area under its accuracy curve up to 0.1 m, by `scores.auc_voc` and `scores.auc_step`; "deg_cm" the
        share of instances whose rotation is off by less than n degrees and whose position by less than n cm. The rotation
        error is the plain one: a symmetric object turned onto itself counts as wrong.

    Raises:
        FileNotFoundError, ValueError: naming file and key; unknown objects, images or scenes.

    Source: BOP challenge 2019-2024 (Hodan et al.); numbers checked against published scores of bop_toolkit on LM-O.
    """
    data = open_data(results, data_dir, targets, split=split, models=models, image_width=image_width, sensor=sensor)
    rows, wanted, truth, pose = data.rows, data.wanted, data.truth, data.poses
    groups = _groups(rows, truth, wanted, max_estimates)
    objects = read_objects(data.models, {g.obj_id for g in groups})
    top = [g._replace(est=_top(g, rows.score)) for g in groups if g.inst_count]
    job = None
    if vsd and shard is not None and isinstance(results, (str, Path)):
        about = {"results": digest_of(results), "split": data.split, "models": data.models, "delta": vsd_delta}
        job = shards.Job(shards.folder_of(results), about | {"targets": data.targets_file}, len(top), _VSD_BLOCK, shard)
        for block, pieces in job.todo():
            some = [top[i] for i in pieces]
            job.save(block, [v.tolist() for v in _vsd(some, objects, pose, truth, data.split, sensor, data.models, vsd_delta)])
        if not shard.last:
            return {}

    found = {}  # kind -> object -> true positives per threshold
    precisions = {}  # kind -> object -> AP
    for kind, function, limits in (("mssd", _mssd, MSSD_THRESHOLDS), ("mspd", _mspd, MSPD_THRESHOLDS)):
        pairs = _pair_errors(groups, objects, function, pose, truth)
        found[kind] = _found(groups, pairs, rows.score, truth, limits)
        precisions[kind] = _precisions(groups, pairs, rows.score, truth, limits)
    curves: dict[int, Array] = {}  # object -> ADD(-S) of every instance to find, metres
    targets_of = {i: sum(min(g.inst_count, len(g.true)) for g in groups if g.obj_id == i) for i in objects}
    if sum(targets_of.values()):
        metres = _pair_errors(top, objects, _add_or_add_s, pose, truth)
        near = _pair_errors(top, objects, lambda model, est, t, true: _near(model, est, t.pose[true]), pose, truth)
        shares = [np.where(n, e / objects[g.obj_id].diameter, np.inf) for g, e, n in zip(top, metres, near)]
        found["add_s"] = _found(top, shares, rows.score, truth, ADD_THRESHOLDS)
        found["deg_cm"] = _found(top, _pair_errors(top, objects, _deg_cm, pose, truth), rows.score, truth, DEG_CM)
        curves = _matched(top, metres, rows.score, truth, AUC_LIMIT)
        if vsd:
            if job is None:
                values = _vsd(top, objects, pose, truth, data.split, sensor, data.models, vsd_delta)
            else:
                kept = (np.array(v, np.float64) for v in job.rows())
                values = [v.reshape(len(g.est), len(g.true), len(VSD_TAUS)) for g, v in zip(top, kept, strict=True)]
            pairs = [np.repeat(v, len(VSD_THRESHOLDS), axis=-1) for v in values]
            limits = np.tile(VSD_THRESHOLDS, len(VSD_TAUS))
            found["vsd"] = _found(top, pairs, rows.score, truth, limits)

    report = _scores(found, precisions, curves, targets_of, list(objects))
    report["per_object"] = {
        str(i): _scores(found, precisions, curves, targets_of, [i]) | {"targets": targets_of[i]} for i in sorted(objects)
    }
    if job is not None:
        job.remove()
    report["targets"] = sum(targets_of.values())
    seconds = {(s, i): t for s, i, t in zip(rows.scene_id.tolist(), rows.im_id.tolist(), rows.time.tolist())}
    known = bool(seconds) and min(seconds.values()) >= 0
    report["about"] = {
        "targets_file": str(data.targets_file) if data.targets_file else None,
        "models": str(data.models),
        "split": str(data.split),
        "images": len({*zip(wanted.scene_id.tolist(), wanted.im_id.tolist())}),
        "estimates": len(rows.score),
        "ar_mean": "of mssd, mspd and vsd" if "vsd" in found else "of mssd and mspd; vsd was not computed",
        "thresholds": {
            "mssd": "0.05 ... 0.5 of the diameter",
            "mspd": "5 ... 50 px at an image width of 640",
            "add_s": "of the diameter; ADD-S for "
            + (", ".join(str(i) for i in sorted(objects) if objects[i].symmetric) or "none"),
            "auc_add_s": f"0 to {AUC_LIMIT:g} m; voc as in the YCB-Video tables, step is the exact area",
            "deg_cm": "degrees and cm; plain rotation error, symmetries not considered",
        },
        "ap": f"true objects less visible than {MIN_VISIBILITY} ignored, {max_estimates} estimates per image",
        "seconds_per_image": float(np.mean([*seconds.values()])) if known else None,
        "missing": missing_targets(
            rows, wanted, {} if isinstance(results, bop_results.Results) else bop_results.read_counts(results)
        ),
        "doubts": _doubts(rows, wanted, truth),
    }
    return report


def missing_targets(
    rows: bop_results.Results, wanted: bop_results.Targets, counts: bop_results.Counts
) -> dict[str, int] | None:
    """How many instances to find have no estimate, and why; None for targets that name no objects.

    Args:
        rows: of the result file.
        wanted: what there is to find.
        counts: of `bop_results.read_counts`; a target that is not in it is without an estimate for an unknown reason.

    Returns:
        "instances" to find, how many of them are "without" an estimate, and of these "no box", "box but no pose", "filtered"
        (a pose that was not kept: the same thing found twice, or below a least score) and "unknown".
    """
    if wanted.obj_id is None or wanted.inst_count is None:
        return None
    estimated: dict[tuple[int, int, int], int] = {}
    for key in zip(*(c.tolist() for c in rows[:3])):
        estimated[key] = estimated.get(key, 0) + 1
    total = dict.fromkeys(("instances", "without", "no box", "box but no pose", "filtered", "unknown"), 0)
    for scene, image, label, count in zip(
        *(c.tolist() for c in (wanted.scene_id, wanted.im_id, wanted.obj_id, wanted.inst_count))
    ):
        key = scene, image, label
        missing = max(count - estimated.get(key, 0), 0)
        total["instances"] += count
        total["without"] += missing
        if key not in counts:
            total["unknown"] += missing
            continue
        boxes, poses = counts[key]
        no_box = min(missing, max(count - boxes, 0))
        no_pose = min(missing - no_box, max(boxes - poses, 0))
        for why, number in (("no box", no_box), ("box but no pose", no_pose), ("filtered", missing - no_box - no_pose)):
            total[why] += number
    return total


def _doubts(rows: bop_results.Results, wanted: bop_results.Targets, truth: TargetTruth) -> list[str]:
    """What is odd about a result file, in words: BOP's server would refuse it, or its author would want to know."""
    doubts = []
    estimated = [*zip(rows.scene_id.tolist(), rows.im_id.tolist())]
    images = dict.fromkeys(zip(wanted.scene_id.tolist(), wanted.im_id.tolist()))
    there = set(estimated)
    if empty := [image for image in images if image not in there]:
        doubts.append(
            f"{len(empty)} of {len(images)} images have no estimate, the first: scene {empty[0][0]}, image {empty[0][1]}"
        )
    elsewhere = sum(image not in images for image in estimated)
    if wanted.obj_id is not None:
        targets = {*zip(wanted.scene_id.tolist(), wanted.im_id.tolist(), wanted.obj_id.tolist())}
        found = [*zip(*(c.tolist() for c in rows[:3]))]
        missing = targets - set(found)
        if missing and not empty:
            doubts.append(f"{len(missing)} of {len(targets)} targets have no estimate")
        elsewhere = sum(row not in targets for row in found)
    if elsewhere:
        doubts.append(f"{elsewhere} of {len(estimated)} estimates are of no target and do not count for AR")
    numbers = np.column_stack([rows.scene_id, rows.im_id, rows.obj_id, rows.R.reshape(-1, 9), rows.t])
    if twice := len(numbers) - len(np.unique(numbers, axis=0)):
        doubts.append(f"{twice} rows repeat a pose of the same object and image")
    if behind := int((rows.t[:, 2] < 0).sum()):
        doubts.append(f"{behind} of {len(rows.t)} estimates lie behind the camera, which looks along +z")
    away, true = (np.median(np.linalg.norm(t, axis=1)) if len(t) else 0.0 for t in (rows.t, truth.pose[:, :3, 3]))
    if away > 0 and true > 0 and not 0.2 < away / true < 5:
        doubts.append(
            f"the estimates are {away * 1000:.3g} mm away and the true objects {true * 1000:.3g} mm (medians); is 't' in "
            "millimetres?"
        )
    if odd := int((np.abs(truth.K[:, 0, 2] / truth.width - 0.5) > 0.2).sum()):
        doubts.append(
            f"{odd} of {len(truth.width)} true objects are seen by a camera whose principal point is far from the middle of "
            "the picture; is cam_K for pictures of another size?"
        )
    times: dict[tuple[int, int], set[float]] = {}
    for image, time in zip(estimated, rows.time.tolist()):
        times.setdefault(image, set()).add(time)
    if differing := sum(len(t) > 1 for t in times.values()):
        doubts.append(f"in {differing} images the rows have different times; BOP's server refuses such a file")
    return doubts


def _groups(rows: bop_results.Results, truth: TargetTruth, wanted: bop_results.Targets, max_estimates: int) -> list[_Group]:
    """Estimates and true objects by image and class, images in the order of the targets."""
    order: dict[tuple[int, int], int] = {}
    for key in zip(wanted.scene_id.tolist(), wanted.im_id.tolist()):
        order.setdefault(key, len(order))
    counts: dict[tuple[int, int], int] = {}
    if wanted.obj_id is not None and wanted.inst_count is not None:
        for s, i, o, n in zip(*(c.tolist() for c in (wanted.scene_id, wanted.im_id, wanted.obj_id, wanted.inst_count))):
            counts[order[s, i], o] = n
    est: dict[tuple[int, int], list[int]] = {}
    true: dict[tuple[int, int], list[int]] = {}
    for table, holder in ((rows, est), (truth, true)):
        ids = zip(table.scene_id.tolist(), table.im_id.tolist(), table.obj_id.tolist())
        for n, (s, i, o) in enumerate(ids):
            if (s, i) in order:
                holder.setdefault((order[s, i], o), []).append(n)
    kept = _best_of_images(rows, order, max_estimates)
    groups = []
    for image, obj_id in sorted({*true, *counts} | {key for key in est if key in true}):
        key = (image, obj_id)
        mine = np.array(est.get(key, []), np.int64)
        groups.append(_Group(obj_id, image, mine, np.array(true.get(key, []), np.int64), counts.get(key, 0), kept[mine]))
    return groups


def _best_of_images(rows: bop_results.Results, order: dict[tuple[int, int], int], most: int) -> Array:
    """Which rows are among the `most` best of their image, (N,), bool."""
    kept = np.ones(len(rows.score), bool)
    image = np.array([order.get(key, -1) for key in zip(rows.scene_id.tolist(), rows.im_id.tolist())], np.int64)
    if len(image) and np.bincount(image + 1).max() > most:
        by_score = np.lexsort((-rows.score, image))
        starts = np.flatnonzero(np.diff(image[by_score], prepend=-2))
        rank = np.arange(len(image)) - np.repeat(starts, np.diff(np.append(starts, len(image))))
        kept[by_score[rank >= most]] = False
    return kept


# ---------------------------------------------------------------------------------------------------------------- errors


def _pair_errors(
    groups: list[_Group],
    objects: dict[int, Object],
    function: Callable[[Object, Array, TargetTruth, Array], Array],
    pose: Array,
    truth: TargetTruth,
) -> list[Array]:
    """Errors (E, G) of each group, computed for all pairs of an object at once."""
    out: list[Array] = [np.zeros((len(g.est), len(g.true))) for g in groups]
    for obj_id, model in objects.items():
        mine = [n for n, g in enumerate(groups) if g.obj_id == obj_id and len(g.est) and len(g.true)]
        if not mine:
            continue
        est = np.concatenate([np.repeat(groups[n].est, len(groups[n].true)) for n in mine])
        true = np.concatenate([np.tile(groups[n].true, len(groups[n].est)) for n in mine])
        values = function(model, pose[est], truth, true)
        ends = np.cumsum([out[n].size for n in mine])[:-1]
        for n, part in zip(mine, np.split(values, ends)):
            out[n] = part.reshape(out[n].shape)
    return out


def _near(model: Object, est: Array, true: Array) -> Array:
    """Pairs whose bounding spheres meet; the others are infinitely wrong in space, as in the official evaluation."""
    return np.linalg.norm(est[:, :3, 3] - true[:, :3, 3], axis=-1) < model.diameter


def _mssd(model: Object, est: Array, truth: TargetTruth, rows: Array) -> Array:
    out, near = np.full(len(est), np.inf), _near(model, est, truth.pose[rows])
    out[near] = errors.mssd(est[near], truth.pose[rows[near]], model.hull, model.group)
    return out / model.diameter


def _mspd(model: Object, est: Array, truth: TargetTruth, rows: Array) -> Array:
    return errors.mspd(est, truth.pose[rows], model.points, truth.K[rows], model.group) * (640.0 / truth.width[rows])


def _add_or_add_s(model: Object, est: Array, truth: TargetTruth, rows: Array) -> Array:
    """Metres; exact where a threshold or the curve can tell."""
    pairs = est, truth.pose[rows], model.points
    limit = max(float(ADD_THRESHOLDS.max()) * model.diameter, AUC_LIMIT)
    return errors.add_s(*pairs, limit=limit) if model.symmetric else errors.add(*pairs)


def _deg_cm(model: Object, est: Array, truth: TargetTruth, rows: Array) -> Array:
    """The larger of degrees and centimetres, so that it is below n where both are."""
    true = truth.pose[rows]
    return np.maximum(np.degrees(errors.rotation(est, true)), 100 * errors.translation(est, true))


def _vsd(
    groups: list[_Group],
    objects: dict[int, Object],
    pose: Array,
    truth: TargetTruth,
    split: Path,
    sensor: str,
    model_folder: Path,
    delta: float,
) -> list[Array]:
    """VSD of each pair for every tolerance, (E, G, taus)."""
    import torch

    from ..render.raster import rasterize

    models = bop_models.read_models(model_folder, objects)
    scenes = bop_index.open_scenes(
        split, {int(truth.scene_id[g.true[0]]) for g in groups if len(g.est) and len(g.true)}, sensor
    )
    out = []
    key, depth = None, None
    for g in groups:
        values = np.ones((len(g.est), len(g.true), len(VSD_TAUS)))
        if values.size:
            scene_id, im_id = int(truth.scene_id[g.true[0]]), int(truth.im_id[g.true[0]])
            if key != (scene_id, im_id):
                key, depth = (scene_id, im_id), bop_scenes.read_depth(scenes[scene_id], im_id)
            assert depth is not None
            K = truth.K[g.true[0]]
            model = models[g.obj_id]
            all_poses = np.concatenate([pose[g.est], truth.pose[g.true]])
            x = torch.from_numpy(all_poses).float()
            points = model.vertices @ x[:, :3, :3].mT + x[:, None, :3, 3]
            images = rasterize(points, model.faces, torch.from_numpy(K).float(), depth.shape).depth.numpy()
            for e in range(len(g.est)):
                for t in range(len(g.true)):
                    values[e, t] = errors.vsd(
                        images[e], images[len(g.est) + t], depth, K, objects[g.obj_id].diameter, delta, VSD_TAUS
                    )
        out.append(values)
    return out


# ---------------------------------------------------------------------------------------------------------------- scores


def _top(g: _Group, score: Array) -> Array:
    """The `inst_count` best estimates of a target, in file order."""
    return g.est[np.sort(np.argsort(-score[g.est], kind="stable")[: g.inst_count])]


def _found(groups: list[_Group], pairs: list[Array], score: Array, truth: TargetTruth, limits: Array) -> dict[int, Array]:
    """True positives of the localisation targets, object -> (T,)."""
    found: dict[int, Array] = {}
    for g, values in zip(groups, pairs):
        if g.inst_count:
            hits = scores.localise(values, score[g.est], truth.visibility[g.true], g.inst_count, limits)
            found[g.obj_id] = found.get(g.obj_id, 0) + hits
    return found


def _matched(groups: list[_Group], pairs: list[Array], score: Array, truth: TargetTruth, limit: float) -> dict[int, Array]:
    """The error of each instance to find, inf where no estimate comes below the limit, object -> (instances,)."""
    out: dict[int, list[Array]] = {}
    for g, values in zip(groups, pairs):
        wanted = np.argsort(-truth.visibility[g.true], kind="stable")[: g.inst_count]
        values = values[:, np.sort(wanted)]
        (owner,) = scores.greedy(values, score[g.est], [limit])
        each = np.full(values.shape[1], np.inf)
        each[owner[owner >= 0]] = values[owner >= 0, owner[owner >= 0]]
        out.setdefault(g.obj_id, []).append(each)
    return {i: np.concatenate(parts) for i, parts in out.items()}


def _precisions(groups: list[_Group], pairs: list[Array], score: Array, truth: TargetTruth, limits: Array) -> dict[int, float]:
    """Average precision of each object that has a visible instance, the mean over the thresholds."""
    by_object: dict[int, list[tuple[_Group, Array]]] = {}
    for g, values in zip(groups, pairs):
        by_object.setdefault(g.obj_id, []).append((g, values))
    out = {}
    for obj_id, members in by_object.items():
        n_true = sum(int((truth.visibility[g.true] >= MIN_VISIBILITY).sum()) for g, _ in members)
        if not n_true:
            continue
        states, image, confidence = [], [], []
        for g, values in members:
            s = score[g.est[g.kept]]
            matched = scores.greedy(values[g.kept], s, limits)
            seen = np.append(truth.visibility[g.true] >= MIN_VISIBILITY, False)
            states.append(np.where(matched < 0, 0, np.where(seen[matched], 1, -1)))  # wrong, right, ignored
            image.append(np.full(len(s), g.image))
            confidence.append(s)
        # equal scores keep the order of the images, and in an image that of the file, as in bop_toolkit
        order = np.lexsort((np.concatenate(image), -np.concatenate(confidence)))
        aps = []
        for row in np.concatenate(states, -1):
            ordered = row[order]
            aps.append(scores.average_precision(ordered[ordered >= 0] == 1, n_true))
        out[obj_id] = float(np.mean(aps))
    return out


def _scores(
    found: dict[str, dict[int, Array]],
    precisions: dict[str, dict[int, float]],
    curves: dict[int, Array],
    targets_of: dict[int, int],
    ids: list[int],
) -> dict[str, Any]:
    """AR, AP, ADD(-S), its area and n degrees n cm of some objects together; None where there is nothing to score."""
    n = sum(targets_of[i] for i in ids)
    hits = {k: sum(per[i] for i in ids if i in per) for k, per in found.items()}
    ar: dict[str, float | None] = {
        k: float(np.mean(hits[k]) / n) if n and k in found else None for k in ("mssd", "mspd", "vsd")
    }
    known = [v for v in ar.values() if v is not None]
    ar["mean"] = float(np.mean(known)) if known else None
    ap: dict[str, float | None] = {}
    for kind, per in precisions.items():
        values = [per[i] for i in ids if i in per]
        ap[kind] = float(np.mean(values)) if values else None
    both = [v for v in ap.values() if v is not None]
    ap["mean"] = float(np.mean(both)) if both else None

    def recalls(kind: str, limits: Array) -> dict[str, float | None]:
        counts = np.broadcast_to(hits.get(kind, 0), limits.shape)
        return {f"{t:g}": float(h / n) if n else None for t, h in zip(limits, counts)}

    each = np.concatenate([np.zeros(0), *(curves[i] for i in ids if i in curves)])
    auc = {name: f(each, AUC_LIMIT) if n else None for name, f in (("voc", scores.auc_voc), ("step", scores.auc_step))}
    return {
        "ar": ar, "ap": ap, "add_s": recalls("add_s", ADD_THRESHOLDS), "auc_add_s": auc, "deg_cm": recalls("deg_cm", DEG_CM),
    }  # fmt: skip


class TargetTruth(NamedTuple):
    """True objects of the target images, one row each, and their cameras."""

    scene_id: Array
    im_id: Array
    obj_id: Array
    pose: Array  # (G, 4, 4), metres, raw
    visibility: Array
    K: Array  # (G, 3, 3)
    width: Array  # of the image, pixels


class Object(NamedTuple):
    """A model as the scores need it."""

    points: Array
    hull: Array
    group: Array  # symmetries with the identity
    symmetric: bool
    diameter: float


class Data(NamedTuple):
    """Results and what they are judged by."""

    rows: bop_results.Results
    wanted: bop_results.Targets
    truth: TargetTruth
    split: Path  # folder of the scenes
    models: Path  # folder of the models
    targets_file: Path | None

    @property
    def poses(self) -> Array:
        """The estimates as cam_from_obj, (N, 4, 4), metres."""
        pose = np.tile(np.eye(4), (len(self.rows.t), 1, 1))
        pose[:, :3, :3], pose[:, :3, 3] = self.rows.R, self.rows.t
        return pose


def open_data(
    results: records.PathLike | bop_results.Results,
    data_dir: records.PathLike,
    targets: records.PathLike | bop_results.Targets | None = None,
    *,
    split: str | None = None,
    models: str = "models_eval",
    image_width: int | None = None,
    sensor: str = "",
) -> Data:
    """Read results, targets and truth; the arguments are those of `protocol.evaluate`, and so is what it raises."""
    data_dir = Path(data_dir)
    if image_width is not None:
        records.whole(image_width, "image_width", 1)
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"no data set folder {data_dir}; it should hold models_eval/, test/ and test_targets_bop19.json"
        )
    rows = results if isinstance(results, bop_results.Results) else bop_results.read_results(results)
    target_path = None if isinstance(targets, bop_results.Targets) else Path(targets or data_dir / "test_targets_bop19.json")
    if target_path is not None and not target_path.exists() and (data_dir / target_path).exists():
        target_path = data_dir / target_path
    wanted = targets if isinstance(targets, bop_results.Targets) else bop_scenes.read_targets(target_path or "")
    folder = _split_folder(data_dir, None if isinstance(results, bop_results.Results) else Path(results), split)
    truth = _read_truth(folder, wanted, sensor, image_width)
    model_folder = data_dir / models if (data_dir / models).is_dir() else data_dir / "models"
    return Data(rows, wanted, truth, folder, model_folder, target_path)


def _split_folder(data_dir: Path, results: Path | None, split: str | None) -> Path:
    """The folder of the scenes, from the argument, the name of the result file, or "test"."""
    names = [split] if split else []
    if not split and results is not None:
        try:
            parsed = bop_results.parse_results_name(results)
            names = [f"{parsed.split}_{parsed.split_type}", parsed.split] if parsed.split_type else [parsed.split]
        except ValueError:
            pass
    for name in names or ["test"]:
        if (data_dir / name).is_dir():
            return data_dir / name
    others = sorted(p.name for p in data_dir.iterdir() if p.is_dir() and any(q.name.isdecimal() for q in p.iterdir()))
    typed = [n for n in others if n.startswith(f"{(names or ['test'])[-1]}_")]
    if len(typed) == 1 and not split:
        return data_dir / typed[0]
    raise FileNotFoundError(
        f"no folder {' or '.join(names or ['test'])} with scenes in {data_dir} (has: {', '.join(others) or 'none'}); "
        "pass split=... (--split)"
    )


def _read_truth(folder: Path, wanted: bop_results.Targets, sensor: str, image_width: int | None) -> TargetTruth:
    """True objects of the images that the targets name."""
    parts = []
    for scene_id, scene in bop_index.open_scenes(folder, wanted.scene_id.tolist(), sensor).items():
        if scene.truth is None:
            raise FileNotFoundError(f"no scene_gt.json in {scene.folder}; the truth of this split is not public")
        im_ids = np.unique(wanted.im_id[wanted.scene_id == scene_id])
        if missing := sorted(set(im_ids.tolist()) - set(scene.im_ids.tolist())):
            raise ValueError(f"{scene.folder}/scene_camera.json: no image {missing[0]}, which the targets name")
        keep = np.isin(scene.truth.im_id, im_ids)
        t = scene.truth
        pose = np.tile(np.eye(4), (int(keep.sum()), 1, 1))
        pose[:, :3, :3], pose[:, :3, 3] = t.R[keep], t.t[keep]
        visibility = np.ones(len(pose)) if t.visibility is None else t.visibility[keep]
        K = scene.K[np.searchsorted(scene.im_ids, t.im_id[keep])]
        shown = t.im_id[keep]
        width = np.full(len(pose), image_width) if image_width else bop_scenes.image_widths(scene, shown.tolist())
        for n in np.unique(shown, return_index=True)[1]:
            records.intrinsics(K[n], f"{scene.folder}/scene_camera.json, image {shown[n]}: 'cam_K'", (0, int(width[n])))
        parts.append((np.full(len(pose), scene_id), shown, t.obj_id[keep], pose, visibility, K, width))
    return TargetTruth(*(np.concatenate(column) for column in zip(*parts)))


def read_objects(folder: Path, obj_ids: Iterable[int]) -> dict[int, Object]:
    """The models of the objects, checked against models_info.json."""
    infos = bop_models.read_models_info(folder)
    ids = sorted(set(obj_ids))
    if unknown := [i for i in ids if i not in infos]:
        raise ValueError(f"unknown object id {unknown[0]}: not in {folder}/models_info.json (has: {sorted(infos)})")
    objects = {}
    for i, points in bop_models.read_model_points(folder, ids).items():
        info = infos[i]
        sides = np.ptp(points, axis=0)  # between the longest and the diagonal lies every diameter
        if not 0.95 * sides.max() < info.diameter < 1.05 * np.linalg.norm(sides):
            raise ValueError(
                f"{folder}: the box of obj_{i:06d}.ply is {' x '.join(f'{s * 1000:.4g}' for s in sides)} mm, which does not "
                f"fit the diameter of {info.diameter * 1000:.4g} mm in models_info.json; both must be millimetres"
            )
        bop_models.check_symmetries(points, info, f"{folder}/models_info.json, object {i}")
        group = errors.symmetry_group(info.discrete, info.axes, info.offsets)
        objects[i] = Object(points, errors.hull(points), group, len(group) > 1, info.diameter)
    return objects
