"""What the command line does with viewpoints: pictures, whole data sets, scores and synthetic data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import viz
from ..command import (
    Evaluate,
    Predict,
    Printer,
    Result,
    Synth,
    Train,
    boxes_of_anything,
    check_mask,
    each_picture,
    frames,
    overrides,
    run_folder,
    save_picture,
    schedule,
    silent,
)
from ..datasets import pix3d
from ..evaluation import viewpoint as scoring
from ..geometry import boxes as box_ops
from ..io.files import write_json
from ..io.poses import frame_record, save_poses
from ..types import Detections, Frame, ObjectModel, PoseEstimates
from . import pipeline
from . import viz as viz_viewpoint
from .pipeline import ViewpointRun

UNITS = "degrees, pixels; the object stands with +Z up and its front towards -Y; boxes x0, y0, x1, y1 on pixel edges"
Split = Literal["image", "shape", "all"]
_NAMES = (("azimuth", "azimuth"), ("elevation", "elevation"), ("in-plane", "inplane"))


def predict_pictures(
    run: ViewpointRun, source: str, out: str | Path, *, boxes: Sequence[str] = (), mask: str | Path | None = None,
    camera: str | Path | None = None, fov_deg: float | None = None, resize_camera: bool = False,
    size: tuple[float, float, float] | None = None, model: ObjectModel | None = None, limit: int | None = None,
    debug: bool = False, say: Printer = silent,
) -> Result:  # fmt: skip
    """Viewpoints in an image, a folder, a video or from a live camera.

    Without boxes an object fills its mask, or the whole picture where there is none.

    Args:
        run: a trained run.
        source: as `images.iterate_frames` takes it.
        out: folder for overlays and viewpoints.json; poses.json where camera and size are known.
        boxes: see `io.boxes.read_boxes`.
        mask: picture of the only object's mask, white where it is.
        camera, fov_deg, resize_camera: of the pictures.
        size: width (X), depth (Y) and height (Z) of the objects, metres.
        model: their CAD model, instead; its silhouette is drawn.
        limit: stop after this many pictures.
        debug: save the crops the network saw, and the azimuth's probabilities, in OUT/debug.
        say: takes lines for people, picture by picture.
    """
    if size is not None and model is not None:
        raise ValueError("--size-m and --mesh both say how large the object is; give one of them")
    known = camera is not None or fov_deg is not None
    if size is not None and not known:
        raise ValueError("a size gives a pose only with a camera: --camera FILE, or --fov DEGREES")
    points = None if size is None else pipeline.box_corners(size)
    points = model.vertices if model is not None else points
    find = boxes_of_anything(boxes) if boxes else None
    outline = None if mask is None else _read_mask(Path(mask))
    posed: list[dict[str, Any]] = []
    out = Path(out)

    def save(records: list[dict[str, Any]]) -> dict[str, str | None]:
        file = out / "viewpoints.json"
        write_json(file, {"units": UNITS, "bins": run.config.bins, "images": records})
        return {"viewpoints": str(file), "poses": str(save_poses(out, posed)) if posed else None}

    def one(name: str, frame: Frame) -> tuple[dict[str, Any], list[str]]:
        given, masks = _objects(find, frame.path or name, frame.image, outline)
        seen = run.predict(frame.image, given.boxes, masks)
        pose = None
        if points is not None:
            label, called = (model.obj_id, model.name) if model is not None else (1, "object")
            pose = pipeline.poses(seen, given.boxes, frame.camera, points, label, called)
            if known:
                posed.append(frame_record(name, frame, pose))
        overlay = save_picture(out / f"{name}_overlay.png", _overlay(frame, given.boxes, seen, pose, model))
        if debug:
            _save_debug(out / "debug", name, run, frame.image, given.boxes, masks, seen)
        record = {"image": frame.path or name, "overlay": str(overlay), "objects": run.records(seen, given.boxes)}
        return record, _lines(record)

    pictures = frames(source, camera, fov_deg, resize_camera)
    files, records, stopped = each_picture(pictures, one, save, limit, say)
    words = ", ".join(f"{name}: {path}" for name, path in files.items() if path)
    return Result({**files, "images": records, "stopped": stopped}, words)


def _lines(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['image']} -> {record['overlay']}"]
    for row in record["objects"]:
        angles = (f"{name} {row[f'{key}_deg']:6.1f}°" for name, key in _NAMES)
        best = (f"{max(p):.2f}" for p in row["probabilities"])
        lines.append("  " + "  ".join(f"{a} ({p})" for a, p in zip(angles, best)))
    return lines


def _objects(find: Any, name: str, image: Tensor, mask: Tensor | None) -> tuple[Detections, Tensor | None]:
    height, width = image.shape[-2:]
    if mask is not None:
        check_mask(mask.shape, name, (height, width))
    if find is not None:
        given = find(name)
        if mask is not None and len(given) != 1:
            raise ValueError(f"--mask is that of one object, but {len(given)} boxes are given for {name}; give one box")
        return given, None if mask is None else mask[None]
    whole = torch.tensor([[0.0, 0.0, width, height]]) if mask is None else box_ops.from_masks(mask[None])
    return Detections(torch.ones(1).long(), whole, torch.ones(1)), None if mask is None else mask[None]


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


def _save_debug(folder: Path, name: str, run: ViewpointRun, image: Tensor, boxes: Tensor, masks: Any, seen: Any) -> None:
    crops = run.crops(image, boxes, masks)
    for i, crop in enumerate(crops):
        bins = run.model.bins[0]
        rose = viz_viewpoint.azimuth_rose(seen.probabilities[i, 0], bins, float(seen.angles[i, 0]))
        shown = [crop[:3], crop[3], crop[4], crop[5:8], rose]
        names = ["photo", "mask", "boundaries", "normals", "azimuth"]
        save_picture(folder / f"{name}_{i}.png", viz.side_by_side(shown, names, 300))


# ------------------------------------------------------------------------------------------------------ whole data sets


def predict_pix3d(
    run: ViewpointRun, data: str | Path, out: str | Path, *, by: Split | None = None, seed: int = 0,
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
        corrupt: KIND:STRENGTH, what is wrong with the masks, e.g. dilate:0.1, see `viewpoint_crops.corrupt`.
        normals: where they come from, see `viewpoint.pipeline.predict_records`.
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
        records = pix3d.split(records, chosen, seed, share)[1]  # type: ignore[arg-type]
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
    return Path(json.loads(note.read_text(encoding="utf-8"))["data"]).resolve() == data.resolve()


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


def do_evaluate(args: Evaluate) -> Result:
    """`evaluation.viewpoint.evaluate`, with pictures in --out: confusion.png (and one per category) and worst.png."""
    report = scoring.evaluate(args.results, args.data, args.bins)
    words = scoring.text(report)
    if args.out is not None:
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


def _mistakes(predictions: str | Path, data: str | Path, most: int = 20) -> list[viz_viewpoint.Mistake]:
    """The pictures whose rotation is off most."""
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
        for off, record, angles in rows[:most]
    ]


def do_synth(args: Synth) -> dict[str, str]:
    """Make a data set in Pix3D's layout of furniture made in code, or of CAD models; a killed run goes on."""
    from ..synthesis import pix3d_folder

    if args.models:
        models = _read_meshes(args.models, args.unit, args.category)
    else:
        models = pix3d_folder.furniture_models(10 if args.shapes is None else args.shapes)
    out = pix3d_folder.write_pix3d(
        args.out, models, images=40 if args.images is None else args.images, backgrounds=args.backgrounds, seed=args.seed,
        workers=args.workers,
    )  # fmt: skip
    return {"out": str(out)}


def _read_meshes(meshes: Sequence[Path], unit: str | None, category: str) -> dict[str, list[ObjectModel]]:
    from ..mesh.loading import load_mesh

    files: dict[str, list[Path]] = {}
    for path in meshes:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in (".ply", ".obj", ".stl", ".off", ".glb", ".gltf")) \
            if path.is_dir() else [path]  # fmt: skip
        if not inside:
            raise ValueError(f"{path} holds no mesh files (PLY, OBJ, STL, OFF, GLB)")
        files.setdefault(path.name if path.is_dir() else category, []).extend(inside)
    return {kind: [load_mesh(p, unit, name=p.stem) for p in found] for kind, found in files.items()}


# ----------------------------------------------------------------------------------------------------- the command line


def do_train(args: Train) -> dict[str, str]:
    """Train a viewpoint network, or one that predicts normals for it."""
    from ..training import loop
    from . import training

    shared: dict[str, Any] = {"config": loop.TrainConfig(**schedule(args)), "backgrounds": args.backgrounds}
    shared["progress_bar"] = not args.json
    out, changes = run_folder(args), overrides(args.set)
    if args.method == "normals":
        own = training.configured_normals(args.preset, changes)
        file = training.train_normals(args.data, out, categories=args.categories, method_config=own, **shared)
        return {"weights": str(file)}
    changes |= {"inputs": args.inputs} if args.inputs else {}
    file = training.train_viewpoint(
        args.data, out, by=args.by, normals=args.normals, epochs=args.epochs, **shared,
        method_config=training.make_config(args.data, args.preset, args.categories, changes),
    )  # fmt: skip
    return {"weights": str(file)}


def do_predict(args: Predict, say: Printer) -> Result | dict[str, str]:
    """Viewpoints of objects in pictures, or of a data set."""
    run = pipeline.load(args.model, args.device)
    if args.pix3d is not None:
        path = predict_pix3d(
            run, args.pix3d, args.out or Path("out/predictions.json"), by=args.by, corrupt=args.corrupt, normals=args.normals,
            limit=args.limit,
        )  # fmt: skip
        return {"predictions": str(path)}
    model = None
    if args.mesh is not None:
        from ..mesh.loading import load_mesh

        model = load_mesh(args.mesh, args.unit)
    return predict_pictures(
        run, args.source or "", args.out or Path("out/predict"), boxes=args.boxes, mask=args.mask, camera=args.camera,
        fov_deg=args.fov, resize_camera=args.resize_camera, size=args.size_m, model=model, limit=args.limit, debug=args.debug,
        say=say,
    )  # fmt: skip
