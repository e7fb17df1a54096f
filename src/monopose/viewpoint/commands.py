"""What the command line does with viewpoints: pictures, whole data sets, scores and synthetic data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import viz, weights
from ..command import (
    DRAWN_FOV,
    Printer,
    Result,
    boxes_of_anything,
    check_mask,
    frames,
    predict_pictures,
    save_picture,
    shard_result,
    shared_settings,
    silent,
)
from ..datasets import pix3d
from ..evaluation import viewpoint as scoring
from ..geometry import boxes as box_ops
from ..io.files import or_warned, write_json
from ..io.poses import frame_record, save_poses
from ..io.records import read_json, text
from ..types import Detections, Frame, ObjectModel, PoseEstimates
from . import pipeline
from . import viz as viz_viewpoint
from .options import Evaluate, Predict, Synth, Train, TrainNormals
from .pipeline import ViewpointRun

UNITS = "degrees, pixels; the object stands with +Z up and its front towards -Y; boxes x0, y0, x1, y1 on pixel edges"
_NAMES = (("azimuth", "azimuth"), ("elevation", "elevation"), ("in-plane", "inplane"))


def predict(args: Predict, say: Printer) -> Result | dict[str, str]:
    """Viewpoints of objects in pictures, or of a data set."""
    run = pipeline.load(args.model, args.output.device)
    if args.pix3d.pix3d is None:
        return _predict_pictures(args, run, say)
    path = predict_pix3d(
        run, args.pix3d.pix3d, args.output.out or Path("out/predictions.json"), by=args.pix3d.by, corrupt=args.pix3d.corrupt,
        normals=args.pix3d.normals, limit=args.output.limit,
    )  # fmt: skip
    return {"predictions": str(path)}


def _predict_pictures(args: Predict, run: ViewpointRun, say: Printer) -> Result:
    """Overlays and viewpoints.json in OUT; poses.json where camera and size are known."""
    from ..mesh.loading import load_mesh

    given, out = args.objects, args.output.folder
    model = None if given.mesh is None else load_mesh(given.mesh, given.unit)
    points = None if given.size_m is None else pipeline.box_corners(given.size_m)
    points = model.vertices if model is not None else points
    find = boxes_of_anything(given.boxes) if given.boxes else None
    outline = None if given.mask is None else _read_mask(given.mask)

    def one(name: str, frame: Frame) -> tuple[dict[str, Any], list[str]]:
        found = _objects(find, frame, name, outline)
        seen, crops = run.predict_traced(frame, found)
        pose, posed = None, None
        if points is not None:
            label, called = (model.obj_id, model.name) if model is not None else (1, "object")
            pose = pipeline.poses(seen, found.boxes, frame.camera, points, label, called)
            if args.camera.known:
                posed = frame_record(name, frame, pose)
        overlay = save_picture(out / f"{name}_overlay.png", _overlay(frame, found.boxes, seen, pose, model))
        if args.debug:
            _save_debug(out / "debug", name, run, crops, seen)
        record = {"image": frame.path or name, "overlay": str(overlay), "objects": run.records(seen, found.boxes)}
        return record | {"_posed": posed}, _lines(record)

    def save(records: list[dict[str, Any]]) -> dict[str, Any]:
        file = out / "viewpoints.json"
        shown = [{k: v for k, v in record.items() if k != "_posed"} for record in records]
        write_json(file, {"units": UNITS, "bins": run.config.bins, "images": shown})
        posed = [record["_posed"] for record in records if record["_posed"] is not None]
        return {"viewpoints": str(file), "poses": str(save_poses(out, posed)) if posed else None}

    def summary(data: dict[str, Any]) -> str:
        return ", ".join(f"{name}: {data[name]}" for name in ("viewpoints", "poses") if data[name])

    pictures, shard = frames(args.source or "", args.camera, DRAWN_FOV), args.share(args.sharing)
    settings = {"weights": weights.digests(run.path), "objects": asdict(given)}
    settings |= shared_settings(args.source, args.camera, given.boxes)
    return predict_pictures(pictures, one, save, summary, args.output, say, shard, settings)


def _lines(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['image']} -> {record['overlay']}"]
    for row in record["objects"]:
        angles = (f"{name} {row[f'{key}_deg']:6.1f}°" for name, key in _NAMES)
        best = (f"{max(p):.2f}" for p in row["probabilities"])
        lines.append("  " + "  ".join(f"{a} ({p})" for a, p in zip(angles, best)))
    return lines


def _objects(find: Any, frame: Frame, name: str, mask: Tensor | None) -> Detections:
    """The objects of a picture: in the boxes that `find` knows, else in the mask, else one that fills the picture."""
    name = frame.path or name
    if mask is not None:
        check_mask(mask.shape, name, frame.image.shape[-2:])
    if find is not None:
        given: Detections = find(name)
        if mask is not None and len(given) != 1:
            raise ValueError(f"--mask is that of one object, but {len(given)} boxes are given for {name}; give one box")
        return given if mask is None else replace(given, masks=mask[None])
    if mask is None:
        return pipeline.whole_picture(frame)
    return Detections(torch.ones(1).long(), box_ops.from_masks(mask[None]), torch.ones(1), mask[None])


def _read_mask(path: Path) -> Tensor:
    """(H, W), bool: brighter than half of the brightest value."""
    from ..io.images import read_image

    values = read_image(path).amax(0)
    if not float(values.max()) > 0:
        raise ValueError(f"{path} is an empty mask; expected white where the object is")
    return values > values.max() / 2


def _overlay(frame: Any, boxes: Tensor, seen: Any, pose: PoseEstimates | None, model: ObjectModel | None) -> Any:
    """The axes of each object, and its silhouette where the mesh is known."""
    texts = [viz_viewpoint.caption(a, p) for a, p in zip(seen.angles, seen.probabilities)]
    return viz_viewpoint.draw(frame.image, boxes, seen.angles, texts, model=model, poses=pose, camera=frame.camera)


def _save_debug(folder: Path, name: str, run: ViewpointRun, crops: Sequence[Tensor], seen: Any) -> None:
    bins = run.model.bins[0]
    for i, crop in enumerate(crops):
        rose = viz_viewpoint.azimuth_rose(seen.probabilities[i, 0], bins, float(seen.angles[i, 0]))
        shown: list[Any] = [crop[:3], crop[3], crop[4], crop[5:8], rose]
        names = ["photo", "mask", "boundaries", "normals", "azimuth"]
        save_picture(folder / f"{name}_{i}.png", viz.side_by_side(shown, names, 300))


# ------------------------------------------------------------------------------------------------------ whole data sets


def predict_pix3d(
    run: ViewpointRun, data: str | Path, out: str | Path, *, by: str | None = None, seed: int = 0,
    corrupt: str | None = None, normals: Literal["oracle", "files", "predicted"] | None = None, limit: int | None = None,
) -> Path:  # fmt: skip
    """Predict the validation pictures of a Pix3D data set and write predictions.json.

    Args:
        run: a trained run.
        data: the data set's folder.
        out: the file.
        by: the split whose validation part is taken, see `pix3d.split`; "all": every picture, for runs that have learned from
            none of them; None: the split that the run's training left out.
        seed: of the split.
        corrupt: KIND:STRENGTH, what is wrong with the masks, e.g. dilate:0.1, see `samples.corrupt`.
        normals: where they come from, see `pipeline.predict_records`.
        limit: only the first so many pictures.

    Raises:
        ValueError: the run was trained with another split, so its training pictures would be among these.
    """
    trained = run.trained.get("split_by") if _learned_from(run, Path(data)) else None
    chosen = by or trained or "image"
    if trained is not None and chosen != "all" and (chosen, seed) != (trained, 0):
        raise ValueError(
            f"{run.path} learned from {data}, split by {trained} with seed 0; validation pictures of the split by {chosen}, "
            f"seed {seed}, are partly those it learned from. Leave --by out, or train on that split"
        )
    corruption = None if corrupt is None else _corruption(corrupt)
    records = pix3d.read(data, categories=run.config.categories)
    share = float(run.trained.get("share", 0.1)) if trained is not None else 0.1
    if chosen != "all":
        records = pix3d.split(records, chosen, seed, share)[1]
    records = records[:limit]
    if not records:
        raise ValueError(f"{data} has no picture in the validation part of the split by {chosen}; try --by all")
    seen = pipeline.predict_records(run, records, corruption=corruption, normals=normals)
    about: dict[str, Any] = {"by": chosen, "seed": seed, "share": share, "corrupt": corrupt, "limit": limit}
    about["normals"] = pipeline.normals_of(run, normals)
    write_json(out, pipeline.predictions(run, records, seen, **about))
    return Path(out)


def _learned_from(run: ViewpointRun, data: Path) -> bool:
    """Whether the run's training read the photos of this folder."""
    note = run.path / "viewpoint.json"
    if not note.is_file():
        return bool(run.trained.get("split_by"))  # weights alone do not tell; take the careful answer
    return Path(text(read_json(note), "data", str(note))).resolve() == data.resolve()


def _corruption(text: str) -> Any:
    kind, _, strength = text.partition(":")
    kinds = ("dilate", "erode", "shift", "holes", "drop")
    try:
        value = float(strength)
    except ValueError:
        value = -1.0
    if kind not in kinds or not value >= 0:
        raise ValueError(f"--corrupt expects KIND:STRENGTH, one of {', '.join(kinds)} and a number from 0 on, got {text!r}")
    return kind, value


def evaluate(args: Evaluate) -> Result:
    """`evaluation.viewpoint.evaluate`, with pictures in --out: confusion.png (and one per category) and worst.png."""
    report = scoring.evaluate(args.results, args.data, args.bins)
    words = scoring.text(report)
    if args.out is not None:
        with or_warned("the pictures"):
            report["pictures"] = [str(p) for p in _save_pictures(args.out, args.results, args.data, report)]
            words += f"\npictures: {args.out}"
    return Result(report, words)


def _save_pictures(out: Path, predictions: str | Path, data: str | Path, report: dict[str, Any]) -> list[Path]:
    kind = report["about"]["bins"]
    sheets = {"confusion": viz_viewpoint.confusion_matrices(report["overall"], scoring.BINS[kind], f"all, {kind} bins")}
    if len(report["per_category"]) > 1:
        for name, found in report["per_category"].items():
            sheets[f"confusion_{name}"] = viz_viewpoint.confusion_matrices(found, scoring.BINS[kind], f"{name}, {kind} bins")
    sheets["worst"] = viz_viewpoint.worst(_mistakes(predictions, data))
    return [save_picture(out / f"{name}.png", picture) for name, picture in sheets.items()]


def _mistakes(predictions: str | Path, data: str | Path) -> list[viz_viewpoint.Mistake]:
    """The twenty pictures whose rotation is off most."""
    given, known = scoring.read_predictions(predictions), pix3d.read_symmetries(data)
    records = {r.image: r for r in pix3d.read(data, categories=sorted({c for c in given.categories if c}))}
    rows = []
    for name, angles in zip(given.images, given.angles, strict=True):
        record = records[name]
        off = scoring.errors(angles, record.angles, scoring.turns(known.get(record.shape)))
        rows.append((float(off.rad2deg()), record, angles))
    rows.sort(key=lambda row: -row[0])
    return [
        viz_viewpoint.Mistake(pix3d.read_picture(record)[0], record.box, angles, record.angles, off, record.name)
        for off, record, angles in rows[:20]
    ]


def synth(args: Synth) -> dict[str, str] | Result:
    """Make a data set in Pix3D's layout of furniture made in code, or of CAD models; a killed run goes on."""
    from ..synthesis import pix3d_folder

    models = _read_meshes(args.models, args.unit, args.category) if args.models else pix3d_folder.furniture_models(args.shapes)
    shard = args.share(args.sharing)
    out = pix3d_folder.write_pix3d(
        args.out, models, images=args.images, backgrounds=args.backgrounds, seed=args.seed,
        workers=args.workers, shard=shard,
    )  # fmt: skip
    if shard is not None and not shard.last:
        return shard_result(shard, out)
    return {"out": str(out), "sheet": str(_save_samples(out))}


def _save_samples(out: Path) -> Path:
    """Some of the photos with the directions that are true, as one sheet."""
    from ..datasets import pix3d
    from ..viz import save_sheet
    from .viz import draw

    known = pix3d.read(out)
    picture = lambda i: draw(pix3d.read_picture(known[i])[0], known[i].box[None], known[i].angles[None])  # noqa: E731
    return save_sheet(out / "contact_sheet.jpg", len(known), picture)


def _read_meshes(meshes: Sequence[Path], unit: str | None, category: str) -> dict[str, list[ObjectModel]]:
    from ..mesh.loading import load_mesh
    from ..mesh.readers import FORMATS

    files: dict[str, list[Path]] = {}
    for path in meshes:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in FORMATS) \
            if path.is_dir() else [path]  # fmt: skip
        if not inside:
            raise ValueError(f"{path} holds no mesh files (PLY, OBJ, STL, OFF, GLB)")
        files.setdefault(path.name if path.is_dir() else category, []).extend(inside)
    return {kind: [load_mesh(p, unit, name=p.stem) for p in found] for kind, found in files.items()}


def train(args: Train | TrainNormals, say: Printer = silent) -> dict[str, str]:
    """Train a viewpoint network, or one that predicts normals for it."""
    from ..training import progress
    from . import training

    config = training.make_training(args.preset, **args.budget())
    shared: dict[str, Any] = {"config": config, "backgrounds": args.backgrounds}
    shared["progress_bar"] = not args.json
    out, changes = args.run_folder(args.data), args.changes()
    if isinstance(args, TrainNormals):
        normals = training.make_normals_config(args.preset, changes)
        file = training.train_normals(args.data, out, categories=args.categories, method_config=normals, **shared)
        return progress.result(file)
    changes |= {"inputs": args.inputs} if args.inputs else {}
    own = training.make_config(args.data, args.preset, args.categories, changes)
    for line in training.describe(args.data, args.preset, own, config):
        say(line)
    file = training.train(
        args.data, out, by=args.by, normals=args.normals, epochs=args.epochs, method_config=own, **shared
    )  # fmt: skip
    return progress.result(file)
