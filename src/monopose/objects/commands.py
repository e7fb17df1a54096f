"""What the command line does with CAD models: synthetic BOP folders, training, poses in pictures and BOP splits, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import Evaluate, Predict, Printer, Result, Synth, Train, each_picture, overrides, run_folder, schedule

if TYPE_CHECKING:
    from ..types import Frame, ObjectModel, PoseEstimates
    from .pipeline import Pipeline
    from .probabilistic import ObjectPosterior


def do_synth(args: Synth) -> dict[str, str]:
    """Make a BOP folder of rendered pictures."""
    from ..datasets.bop import models as bop_models
    from ..io.cameras import read_camera
    from ..mesh.loading import load_mesh
    from ..synthesis import bop_folder
    from ..synthesis import scene as synth

    if not args.models:
        raise ValueError("no models; give mesh files or one models folder")
    if len(args.models) == 1 and args.models[0].is_dir():
        models = list(bop_models.read_models(args.models[0]).values())
    else:
        ids = bop_models.ids_of_names(args.models)
        models = [load_mesh(path, args.unit, obj_id=i) for i, path in zip(ids, args.models, strict=True)]
        models = _with_symmetries(models, args)
    camera = synth.default_camera() if args.camera is None else read_camera(args.camera)
    scene = synth.scene_config(models, camera, upright=args.upright, elevation_deg=args.elevation_deg, distance=args.distance)
    out = bop_folder.write_bop(
        models, args.out, images=2000 if args.images is None else args.images, camera=camera, backgrounds=args.backgrounds,
        scene=scene, split=args.split, seed=args.seed,
    )  # fmt: skip
    return {"out": str(out)}


def _with_symmetries(models: list[ObjectModel], args: Synth) -> list[ObjectModel]:
    """Mesh files do not know theirs: proposed ones where asked for, else those that an earlier run or a person wrote down."""
    from ..datasets.bop import models as bop_models

    if args.propose_symmetries:
        from ..mesh.symmetries import propose_symmetries

        return [replace(m, symmetries=propose_symmetries(m).symmetries) for m in models]
    file = args.out / "models" / "models_info.json"
    known = bop_models.read_models_info(file) if file.is_file() else {}
    return [replace(m, symmetries=known[m.obj_id].symmetries) if m.obj_id in known else m for m in models]


def do_train(args: Train) -> dict[str, str]:
    """Train a method on CAD models."""
    from . import training

    own = _method_config(args)
    scene = training.scene_config(
        args.data, args.objects, upright=args.upright, elevation_deg=args.elevation_deg, distance=args.distance
    )
    file = training.train(
        args.method, args.data, run_folder(args), obj_ids=args.objects, split=args.split, init=args.init,
        backgrounds=args.backgrounds, scene=scene, config=training.TrainConfig(**schedule(args)), method_config=own,
        render=args.render, progress_bar=not args.json,
    )  # fmt: skip
    return {"weights": str(file)}


def _method_config(args: Train) -> Any:
    """The preset's configuration with the fields of --set replaced; None for the default."""
    from ..weights import build_config
    from . import training

    if not args.set and args.preset is None:
        return None
    ids = args.objects or tuple(sorted(training.read_objects(args.data)))
    config = training.preset(args.method, args.preset)(ids)
    return build_config(type(config), {**asdict(config), **overrides(args.set)}, "--set")


def do_predict(args: Predict, say: Printer) -> Result | dict[str, str]:
    """Poses in pictures, or in a whole BOP split."""
    from . import bop_pipeline, pipeline

    model = pipeline.load(args.model, args.device)
    how: dict[str, Any] = {"score_threshold": pipeline.SCORE if args.score is None else args.score}
    how |= {} if args.looks is None else {"looks": args.looks}
    how |= {"refine": args.refine} if args.refine or args.no_refine else {}
    if args.bop is None:
        return _predict_pictures(args, model, how, say)
    assert args.out is not None
    path = bop_pipeline.predict_bop(
        model, args.bop, args.targets, args.out, boxes=Path(args.boxes[0]) if args.boxes else None, true_boxes=args.true_boxes,
        limit=args.limit, debug=args.out.parent / "debug" if args.debug else None, **how,
    )  # fmt: skip
    return {"results": str(path)}


def _predict_pictures(args: Predict, model: Pipeline, how: dict[str, Any], say: Printer) -> Result:
    from ..io import images
    from ..io.boxes import read_boxes
    from ..io.poses import UNITS, frame_record, save_poses
    from . import viz

    boxes = read_boxes(args.boxes, sorted(model.names), model.names) if args.boxes else None
    out = args.out or Path("out/predict")
    estimates: list[PoseEstimates] = []

    def save(records: list[dict[str, Any]]) -> Path:
        viz.save_results(out, estimates)
        return save_poses(out, records)

    def one(name: str, frame: Frame) -> tuple[dict[str, Any], Sequence[str]]:
        debug = out / "debug" / name if args.debug else None
        given = None if boxes is None else boxes(frame.path or name)
        beliefs: list[ObjectPosterior] = []
        options = how | ({"beliefs": beliefs} if args.posterior else {})
        poses = model.predict(frame, detections=given, debug=debug, **options)
        viz.save_posteriors(out / "posterior" / name, frame, beliefs, model.models)
        overlay = viz.save_overlay(out / f"{name}_overlay.png", frame, poses, model.models)
        estimates.append(poses)
        return {**frame_record(name, frame, poses), "overlay": str(overlay)}, _lines(name, poses, overlay)

    frames = images.iterate_frames(args.source or "", args.camera, fov_deg=args.fov, resize_camera=args.resize_camera)
    path, records, stopped = each_picture(frames, one, save, args.limit, say)
    count = f"{len(records)} picture{'s' * (len(records) != 1)}"
    return Result(
        {"units": UNITS, "images": records, "stopped": stopped}, f"{count}: {path}, and a BOP CSV beside it"
    )  # fmt: skip


def _lines(name: str, poses: PoseEstimates, overlay: Path) -> list[str]:
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in poses.seconds.items())
    lines = [f"{name}: {len(poses)} object{'s' * (len(poses) != 1)}{' (' + seconds + ')' if seconds else ''} -> {overlay}"]
    refined = [""] * len(poses)
    if poses.refined is not None:
        refined = ["   refined" if done else "   not refined" for done in poses.refined.tolist()]
    for label, score, pose, done in zip(poses.labels.tolist(), poses.scores.tolist(), poses.cam_from_obj.cpu(), refined):
        x, y, z = pose[:3, 3].tolist()
        called = poses.names.get(label, f"object {label}")
        lines.append(f"  {called:20} score {score:.2f}   x {x:+.3f}  y {y:+.3f}  z {z:.3f} m{done}")
    return lines if len(poses) else [*lines, "  nothing found; look at the stages with --debug, or give --boxes"]


def do_evaluate(args: Evaluate) -> Result:
    """Score a BOP result file by BOP's protocol or by LINEMOD's."""
    from ..evaluation import bop as bop_evaluation
    from ..evaluation import calibration, linemod, tables

    if args.protocol == "classic":
        scores = linemod.evaluate(args.results, args.data, args.targets, flip_eggbox=args.flip_eggbox)
    else:
        scores = bop_evaluation.evaluate(args.results, args.data, args.targets, vsd=args.vsd)
    words = tables.text(scores)
    if args.reliability is not None:
        from .calibrate import save_reliability

        found = calibration.reliability(*calibration.of_results(args.results, args.data, args.targets))
        scores["reliability"] = found.as_dict()
        save_reliability(args.reliability, {args.results.stem: found})
        words += f"\n\n{tables.reliability_text(found)}\ndiagram: {args.reliability}"
    return Result(scores, words)
