"""What the command line does with boxes in 3D: pictures, whole data sets, scores and synthetic roads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import viz, weights
from ..command import Printer, Result, frames, predict_pictures, save_picture, shard_result, shared_settings, silent
from ..datasets import kitti, nuscenes
from ..datasets.road import CLASSES, RoadFrame
from ..evaluation import kitti as kitti_scores
from ..evaluation import nuscenes as nuscenes_scores
from ..geometry import boxes3d
from ..io.files import sole_writer, write_json
from ..types import Frame
from . import inference, pipeline
from . import viz as viz_box3d
from .inference import DetectedBoxes
from .options import Evaluate, Predict, Synth, Train, is_road_data
from .pipeline import BoxRun, Options

UNITS = (
    "metres, radians, pixels, metres per second; OpenCV camera: x right, y down, z forward; a box has x forwards, y down, z to "
    "its left, its origin in its middle; size is length, height, width; yaw is KITTI's ry; box is x0, y0, x1, y1 on pixel edges"
)
VIEWS = ("2d", "3d", "bev", "points", "orientation", "score")
SPREAD = ("across", "along", "yaw")  # the line of sight, metres; radians
DRAWN = 0.2  # least score of what is drawn
MAX_PRINTED = 50  # most pictures of which results are printed
MAX_HEADING_PLOTS = 12  # headings in one picture


# -------------------------------------------------------------------------------------------------------------- drawing


def draw(run: BoxRun, view: str, picture: Frame, found: DetectedBoxes, truth: Any = None) -> Any:
    """One view of a picture: "2d", "3d", "bev", "points", "orientation" or "score".

    Args:
        run: what found the boxes.
        view: which.
        picture: the photo.
        found: its boxes; only those that are to be drawn.
        truth: `RoadObjects` drawn with it in 2d, 3d and bev, or None.
    """
    K, image = picture.camera.K.double(), picture.image
    if view == "2d":
        return viz_box3d.boxes_2d(image, found, run.classes, truth)
    if view == "3d":
        return viz_box3d.boxes_3d(image, K, found, run.classes, truth)
    if view == "bev":
        return viz_box3d.bev(found, run.classes, truth, found.samples, found.log_weights, K, picture.camera.size)
    if view == "points":
        return viz_box3d.points(
            image, found.points2d, found.weights, K, found.cam_from_obj.double(), found.points3d, found.labels
        )  # fmt: skip
    if view == "score":
        return viz_box3d.score_map(image, inference.score_map(run.model, picture).cpu())
    if view != "orientation":
        raise ValueError(f"unknown view {view!r}; choose some of {', '.join(VIEWS)}")
    roses = []
    for i in range(min(len(found.labels), MAX_HEADING_PLOTS)):
        x, _, z = found.cam_from_obj[i, :3, 3].tolist()
        title = f"{i + 1}. {run.classes[int(found.labels[i])]}, x {x:+.1f}, z {z:.1f} m"
        roses.append(viz_box3d.yaw_density(found.samples[i], found.log_weights[i], found.cam_from_obj[i], title=title))
    return viz.contact_sheet(roses, columns=min(4, len(roses))) if roses else viz.to_picture(image)


def _save_views(
    run: BoxRun,
    views: Sequence[str],
    out: Path,
    name: str,
    picture: Frame,
    found: DetectedBoxes,
    least: float,
    truth: Any = None,
) -> dict[str, str]:
    """Draw the asked views of what scores at least so much; view -> file."""
    shown = found.rows(found.scores >= least)
    files = {}
    for view in views:
        files[view] = str(save_picture(out / f"{name}_{view}.png", draw(run, view, picture, shown, truth)))
    return files


def records(run: BoxRun, found: DetectedBoxes) -> list[dict[str, Any]]:
    """One dict of plain numbers per box, best first: the pose, and how wide its distribution is."""
    spread = inference.pose_std(found)
    rows = []
    attributes = run.config.attributes
    for i in range(len(found.labels)):
        kind = int(found.attributes[i])
        rows.append(
            {
                "label": int(found.labels[i]),
                "name": run.classes[int(found.labels[i])],
                "score": float(found.scores[i]),
                "centre": found.cam_from_obj[i, :3, 3].double().tolist(),
                "yaw": float(boxes3d.yaw_of(found.cam_from_obj[i])),
                "size": found.sizes[i].double().tolist(),
                "velocity": found.velocities[i].double().tolist(),
                "attribute": attributes[kind] if kind >= 0 else "",
                "box": found.boxes[i].double().tolist(),
                "spread": None if bool(spread[i].isnan().any()) else dict(zip(SPREAD, spread[i].double().tolist())),
            }
        )
    return rows


def _check_views(views: Sequence[str], run: BoxRun) -> None:
    if unknown := [v for v in views if v not in VIEWS]:
        raise ValueError(f"unknown view {unknown[0]!r}; choose some of {', '.join(VIEWS)}")
    if run.config.layer == "direct" and (useless := [v for v in views if v in ("points", "orientation")]):
        raise ValueError(f"{run.path} regresses depth and yaw directly; it has no {useless[0]} to draw")


# ------------------------------------------------------------------------------------------------------------- predicting


def predict(args: Predict, say: Printer) -> Result:
    """Boxes in pictures, or in a data set of roads."""
    run = pipeline.load(args.model, args.output.device)
    _check_views(args.views, run)
    if not is_road_data(args.source):
        return _predict_pictures(args, run, say)
    return predict_data(
        run, args.source, args.output.folder, names=_names(args.split, args.source), views=args.views, least=args.score,
        options=Options(flip=args.flip), limit=args.output.limit, say=say,
    )  # fmt: skip


def _names(file: str | Path | None, data: str | Path) -> Sequence[str]:
    """The names of pictures or scenes in a file or of an official part of the data, () for all."""
    from .samples import read_names

    return () if file is None else read_names(file, data)


def _predict_pictures(args: Predict, run: BoxRun, say: Printer) -> Result:
    """Views, boxes.json and kitti/NAME.txt in OUT."""
    out, number = args.output.folder, itertools.count(1)

    def one(name: str, picture: Frame) -> tuple[dict[str, Any], list[str]]:
        began = time.perf_counter()
        found = run.predict(picture, Options(flip=args.flip))
        seconds = {**found.seconds, "all": time.perf_counter() - began}
        frame = RoadFrame(picture.path, picture.camera.to(torch.float64), run.classes, None, torch.zeros(0, 4), name)
        labels = pipeline.kitti_labels(frame, pipeline.objects_of(found, run.classes, run.classes))
        files = _save_views(run, args.views, out, name, picture, found, args.score)
        row = {"image": picture.path or name, "views": files, "objects": records(run, found)}
        scores = None if labels.scores is None else labels.scores.tolist()
        kept = {"_name": name, "_kitti": [labels.types, labels.values.tolist(), scores], "_seconds": seconds}
        return row | kept, _lines(row, next(number))

    def save(rows: list[dict[str, Any]]) -> dict[str, Any]:
        lines = {row["_name"]: _labels(*row["_kitti"]) for row in rows}
        shown = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
        return {**_written(out, shown, lines, None), "seconds": _mean([row["_seconds"] for row in rows])}

    settings = {"weights": weights.digests(run.path), "flip": args.flip, "score": args.score, "views": args.views}
    settings |= shared_settings(args.source, args.camera)
    pictures, shard = frames(args.source, args.camera), args.share(args.sharing)
    return predict_pictures(pictures, one, save, _summary, args.output, say, shard, settings)


def _labels(types: Sequence[str], values: Sequence[Sequence[float]], scores: Sequence[float] | None) -> kitti.Labels:
    """KITTI's lines of plain values."""
    table = np.array(values, np.float64).reshape(len(types), kitti.COLUMNS)
    return kitti.Labels(tuple(types), table, None if scores is None else np.array(scores, np.float64))


def predict_data(
    run: BoxRun, data: str | Path, out: str | Path, *, names: Sequence[str] = (), views: Sequence[str] = ("3d", "bev"),
    least: float = DRAWN, options: Options = pipeline.DEFAULT, limit: int | None = None, say: Printer = silent,
) -> Result:  # fmt: skip
    """Boxes in all pictures of a data set; what cameras of one moment see twice is kept once.

    Args:
        run: a trained run.
        data: as `samples.read_frames` takes it.
        out: folder for pictures, boxes.json, kitti/NAME.txt, and results_nusc.json if the data says where cameras were.
        names: only these pictures or scenes.
        views: which pictures to save; the truth is drawn with them.
        least: least score of what is drawn.
        options: how the network looks.
        limit: only the first so many pictures; the results then lack samples that the data has.
        say: takes lines for people, picture by picture.
    """
    from .samples import read_frames

    _check_views(views, run)
    pictures = read_frames(data, names)[:limit]
    out = Path(out)
    rows: list[dict[str, Any]] = []
    seconds: list[dict[str, float]] = []

    def each(frame: RoadFrame, picture: Frame, found: DetectedBoxes) -> None:
        name = _name(frame)
        files = _save_views(run, views, out, name, picture, found, least, frame.objects)
        rows.append({"image": frame.path, "name": frame.name, "views": files, "objects": records(run, found)})
        seconds.append(dict(found.seconds))
        for line in _lines(rows[-1], len(rows)):
            say(line)

    with sole_writer(out, "predict"):
        estimates = pipeline.predict_frames(run, pictures, options, each)
        lines = {}
        for frame, found in zip(pictures, estimates, strict=True):
            calibration = None
            if frame.classes == kitti.CLASSES:
                calibration = kitti.read_calibration(Path(frame.path).parents[1] / "calib" / f"{frame.name}.txt")
            lines[_name(frame)] = pipeline.kitti_labels(frame, found, calibration)
        above = None
        if pictures and all(f.ego_from_cam is not None and f.sample for f in pictures):
            above = nuscenes.to_global(pictures, estimates)
        found_in_all = {**_written(out, rows, lines, above), "seconds": _mean(seconds), "images": rows, "stopped": False}
    return Result(found_in_all, _summary(found_in_all))


def _name(frame: RoadFrame) -> str:
    return Path(frame.path).stem if frame.path else frame.name


def _written(
    out: Path, rows: list[dict[str, Any]], lines: Mapping[str, kitti.Labels], above: nuscenes.SampleBoxes | None
) -> dict[str, str | None]:
    """Write results in all their forms; form -> file or folder."""
    files: dict[str, str | None] = {"boxes": str(out / "boxes.json"), "nuscenes": None, "kitti": str(out / "kitti")}
    write_json(out / "boxes.json", {"units": UNITS, "images": rows})
    scored = {n: replace(v, scores=torch.zeros(0).numpy()) if not len(v) else v for n, v in lines.items()}
    kitti.write_results(out / "kitti", scored)
    if above is not None:
        files["nuscenes"] = str(out / "results_nusc.json")
        nuscenes.write_results(out / "results_nusc.json", above)
    return files


def _mean(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds per picture by stage."""
    return {k: sum(s[k] for s in seconds) / len(seconds) for k in seconds[0]} if seconds else {}


def _summary(data: Mapping[str, Any]) -> str:
    rows = data["images"]
    lines = [f"and {len(rows) - MAX_PRINTED} pictures more"] if len(rows) > MAX_PRINTED else []
    stages = ", ".join(f"{stage} {value:.2f} s" for stage, value in data["seconds"].items())
    lines.append(f"{len(rows)} pictures, each {stages}" if rows else "no pictures")
    names = {"boxes": "boxes", "nuscenes": "nuScenes results", "kitti": "KITTI results"}
    lines += [f"{name}: {data[form]}" for form, name in names.items() if data[form]]
    return "\n".join(lines)


def _lines(row: Mapping[str, Any], number: int) -> list[str]:
    """What to say of the picture of this number, from 1; nothing of the later ones of many."""
    if number > MAX_PRINTED:
        return []
    lines = [f"{row['image']}: {len(row['objects'])} boxes" + "".join(f"  {path}" for path in row["views"].values())]
    for found in row["objects"][:5]:
        x, y, z = found["centre"]
        lines.append(f"  {found['name']:20} score {found['score']:.2f}   x {x:+.1f}  y {y:+.1f}  z {z:.1f} m")
    return lines if len(row["objects"]) <= 5 else [*lines, f"  and {len(row['objects']) - 5} more"]


# -------------------------------------------------------------------------------------------------------------- scoring


def evaluate(args: Evaluate) -> Result:
    """Score boxes on roads by KITTI's protocol or nuScenes'."""
    report = score(args.results, args.data, _names(args.split, args.data))
    return Result(report, text(report))


def score(results: str | Path, data: str | Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """Scores of results: of a folder by KITTI's protocol, of a JSON file by nuScenes'.

    Args:
        results: folder of NAME.txt; or results_nusc.json.
        data: a KITTI folder with label_2; or a nuScenes folder or an `infos.json`.
        names: pictures of KITTI, scenes of nuScenes; () for all.

    Returns:
        `evaluation.kitti.evaluate` or `evaluation.nuscenes.evaluate`, with "protocol".

    Raises:
        FileNotFoundError, ValueError: a file is missing or broken, or results and data do not belong together.
    """
    results, data = Path(results), Path(data)
    if results.is_dir():
        if not (data / "label_2").is_dir():
            raise FileNotFoundError(f"no label_2 in {data}; results in a folder are judged against KITTI's labels")
        truth = kitti_scores.read(data / "label_2", names)
        scores = kitti_scores.evaluate(kitti_scores.read(results, list(truth)), truth)
        return {"protocol": "kitti", "pictures": len(truth), "classes": scores}
    truth_boxes = _nuscenes_truth(data, names)
    found = nuscenes.read_results(results, truth_boxes.boxes.tokens)
    return {"protocol": "nuscenes", **nuscenes_scores.evaluate(found, truth_boxes)}


def _nuscenes_truth(data: Path, names: Sequence[str]) -> nuscenes.SampleTruth:
    from .samples import nuscenes_tables

    infos = data if data.suffix == ".json" else data / "infos.json"
    if infos.is_file():
        return nuscenes.infos_truth(infos)
    tables = nuscenes_tables(data, names)
    if tables is None:
        raise FileNotFoundError(f"{data} is no nuScenes folder: expected infos.json, v1.0-mini or v1.0-trainval in it")
    return nuscenes.truth(tables, nuscenes.samples(tables, names))


def text(report: Mapping[str, Any]) -> str:
    """The report of `score` as a table in percent, errors in their units."""
    if report["protocol"] == "kitti":
        return "\n".join(_kitti_lines(report))
    errors = report["errors"]
    lines = [
        f"NDS {100 * report['nds']:.1f}  mAP {100 * report['map']:.1f} %, {report['samples']} samples",
        f"mATE {errors['translation']:.3f} m  mASE {errors['scale']:.3f}  mAOE {errors['orientation']:.3f} rad  "
        f"mAVE {errors['velocity']:.3f} m/s  mAAE {errors['attribute']:.3f}",
        "",
        f"{'class':22}{'truth':>6}{'AP':>7}" + "".join(f"{f'AP {d} m':>10}" for d in nuscenes_scores.DISTANCES)
        + "".join(f"{name:>8}" for name in ("ATE", "ASE", "AOE", "AVE", "AAE")),
    ]  # fmt: skip
    for name in CLASSES:
        row = report["classes"][name]
        cells = "".join(f"{100 * v:10.1f}" for v in row["ap_at"].values())
        own = "".join("       -" if row["errors"][e] is None else f"{row['errors'][e]:8.2f}" for e in nuscenes_scores.ERRORS)
        lines.append(f"{name:22}{row['truth']:6d}{100 * row['ap']:7.1f}{cells}{own}")
    return "\n".join(lines)


def _kitti_lines(report: Mapping[str, Any]) -> Iterable[str]:
    yield f"KITTI, AP over 40 recalls in percent, {report['pictures']} pictures; easy / moderate / hard"
    for name, row in report["classes"].items():
        least = kitti_scores.OVERLAP[name]
        yield f"{name} (IoU {least}), {' / '.join(str(v) for v in row['truth'].values())} boxes"
        for metric in (*kitti_scores.METRICS, "aos"):
            cells = ("-" if v is None else f"{100 * v:.1f}" for v in row[metric].values())
            yield f"  {metric:4}" + " / ".join(cells)


# ------------------------------------------------------------------------------------------------- training and synthesis


def train(args: Train, say: Printer = silent) -> dict[str, str]:
    """Train a network for boxes on roads."""
    from ..training import progress
    from . import training

    own = training.make_config(args.data, args.preset, args.categories, args.changes())
    config = training.make_training(args.preset, **args.budget())
    for line in training.describe(args.data, args.preset, own, config):
        say(line)
    file = training.train(
        args.data, args.run_folder(args.data), names=_names(args.split, args.data), init=args.init,
        backgrounds=args.backgrounds, config=config, progress_bar=not args.json, method_config=own,
    )  # fmt: skip
    return progress.result(file)


def synth(args: Synth) -> dict[str, str] | Result:
    """Make pictures of roads from shapes made in code."""
    from ..synthesis import road_scene

    shard = args.share(args.sharing)
    out = road_scene.write_road(
        args.out, images=args.images, backgrounds=args.backgrounds, seed=args.seed,
        config=road_scene.RoadConfig(size=args.size, first_shape=args.first_shape, shapes=args.shapes), workers=args.workers,
        shard=shard,
    )  # fmt: skip
    if shard is not None and not shard.last:
        return shard_result(shard, out)
    return {"out": str(out), "sheet": str(_save_samples(out))}


def _save_samples(out: Path) -> Path:
    """Some of the pictures with the true boxes, as one sheet."""
    from ..datasets.nuscenes import read_infos
    from ..viz import save_sheet
    from .viz import boxes_3d

    frames = read_infos(out / "infos.json")

    def picture(i: int) -> Any:
        known = frames[i]
        return boxes_3d(known.read().image, known.camera.K, known.objects, known.classes, tags=False)  # type: ignore[arg-type]

    return save_sheet(out / "contact_sheet.jpg", len(frames), picture)
