"""What the command line does with CAD models: synthetic BOP folders, training, poses in pictures and BOP splits, scores."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import Printer, Result, frames, predict_pictures
from .options import Calibrate, Evaluate, Predict, Refine, Synth, Train

if TYPE_CHECKING:
    from ..types import Frame, ObjectModel, PoseEstimates
    from .bop_pipeline import Refinement
    from .calibrate import CalibrationReport
    from .pipeline import Pipeline


def synth(args: Synth) -> dict[str, str]:
    """Make a BOP folder of rendered pictures."""
    from ..datasets.bop import models as bop_models
    from ..io.cameras import read_camera
    from ..mesh.loading import METRIC_FORMATS, load_mesh
    from ..synthesis import bop_folder
    from ..synthesis import scene as scenes

    if len(args.models) == 1 and args.models[0].is_dir():
        models = list(bop_models.read_models(args.models[0]).values())
    else:
        ids = bop_models.ids_of_names(args.models)
        models = [load_mesh(path, args.unit, obj_id=i) for i, path in zip(ids, args.models, strict=True)]
        models = _with_symmetries(models, args)
        if args.scene.upright and any(path.suffix.lower() in METRIC_FORMATS for path in args.models):
            warnings.warn("glTF files have +Y up, --upright takes +Z as up: turn them, or leave --upright out", stacklevel=2)
    camera = scenes.default_camera() if args.camera is None else read_camera(args.camera)
    scene = scenes.scene_config(models, camera, **asdict(args.scene))
    out = bop_folder.write_bop(
        models, args.out, images=args.images, camera=camera, backgrounds=args.backgrounds,
        scene=scene, split=args.split, seed=args.seed,
    )  # fmt: skip
    return {"out": str(out)}


def _with_symmetries(models: list[ObjectModel], args: Synth) -> list[ObjectModel]:
    """Mesh files do not know theirs: proposed ones where asked for, else those that an earlier run or a person wrote down."""
    from ..datasets.bop import models as bop_models

    if args.propose_symmetries:
        from ..mesh.loading import look_is_whole
        from ..mesh.symmetries import propose_symmetries

        whole = [look_is_whole(path) for path in args.models]
        return [replace(m, symmetries=propose_symmetries(m).symmetries) if w else m for m, w in zip(models, whole, strict=True)]
    file = args.out / "models" / "models_info.json"
    known = bop_models.read_models_info(file) if file.is_file() else {}
    return [replace(m, symmetries=known[m.obj_id].symmetries) if m.obj_id in known else m for m in models]


def train(args: Train) -> dict[str, str]:
    """Train a method on CAD models."""
    from . import training

    own = None
    if args.set or args.preset is not None:
        ids = args.objects or tuple(training.read_infos(args.data))
        own = training.make_config(args.method, ids, args.preset, args.changes())
    scene = training.scene_config(args.data, args.objects, **asdict(args.scene))
    file = training.train(
        args.method, args.data, args.run_folder(args.data), obj_ids=args.objects, split=args.split, init=args.init,
        backgrounds=args.backgrounds, scene=scene, config=training.TrainConfig(**args.budget()), method_config=own,
        render=args.render, progress_bar=not args.json,
    )  # fmt: skip
    return {"weights": str(file)}


def predict(args: Predict, say: Printer) -> Result | dict[str, str]:
    """Poses in pictures, or in a whole BOP split."""
    from . import bop_pipeline, pipeline, probabilistic

    run = pipeline.load(args.model, args.output.device)
    if args.posterior and not isinstance(run.estimator, probabilistic.Model):
        raise ValueError(
            f"{run.path} estimates poses by coordinates, which have no distribution; train one that has: "
            f"monopose train probabilistic --data DIR --out {run.path}"
        )
    how: dict[str, Any] = {"score_threshold": args.detector.score, "looks": args.detector.looks}
    how |= {"refine": args.refine} if args.refine or args.no_refine else {}
    if args.bop.bop is None:
        return _predict_pictures(args, run, how, say)
    assert args.output.out is not None
    path = bop_pipeline.predict_bop(
        run, args.bop.bop, args.bop.targets, args.output.out, limit=args.output.limit, true_boxes=args.bop.true_boxes,
        boxes=Path(args.detector.boxes[0]) if args.detector.boxes else None,
        debug=args.output.out.parent / "debug" if args.debug else None, **how,
    )  # fmt: skip
    return {"results": str(path)}


def _predict_pictures(args: Predict, run: Pipeline, how: dict[str, Any], say: Printer) -> Result:
    from ..io.boxes import read_boxes
    from ..io.poses import UNITS, frame_record, save_poses
    from . import viz

    boxes = read_boxes(args.detector.boxes, sorted(run.names), run.names) if args.detector.boxes else None
    out = args.output.folder
    estimates: list[PoseEstimates] = []

    def one(name: str, frame: Frame) -> tuple[dict[str, Any], list[str]]:
        given = None if boxes is None else boxes(frame.path or name)
        if args.posterior or args.debug:
            poses, trace = run.predict_traced(frame, given, **how)
            if args.posterior:
                viz.save_posteriors(out / "posterior" / name, frame, trace.posteriors, run.models)
            if args.debug:
                viz.save_stages(out / "debug" / name, frame, trace, poses, run)
        else:
            poses = run.predict(frame, given, **how)
        overlay = viz.save_overlay(out / f"{name}_overlay.png", frame, poses, run.models)
        estimates.append(poses)
        return {**frame_record(name, frame, poses), "overlay": str(overlay)}, _lines(name, poses, overlay, given is not None)

    def save(records: list[dict[str, Any]]) -> dict[str, Any]:
        viz.save_results(out, estimates)
        return {"units": UNITS, "poses": str(save_poses(out, records))}

    def summary(data: dict[str, Any]) -> str:
        count = len(data["images"])
        return f"{count} picture{'s' * (count != 1)}: {data['poses']}, and a BOP CSV beside it"

    return predict_pictures(frames(args.source or "", args.camera), one, save, summary, args.output.limit, say)


def _lines(name: str, poses: PoseEstimates, overlay: Path, boxes: bool = False) -> list[str]:
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in poses.seconds.items())
    lines = [f"{name}: {len(poses)} object{'s' * (len(poses) != 1)}{' (' + seconds + ')' if seconds else ''} -> {overlay}"]
    refined = [""] * len(poses)
    if poses.refined is not None:
        refined = ["   refined" if done else "   not refined" for done in poses.refined.tolist()]
    for label, score, pose, done in zip(poses.labels.tolist(), poses.scores.tolist(), poses.cam_from_obj.cpu(), refined):
        x, y, z = pose[:3, 3].tolist()
        called = poses.names.get(label, f"object {label}")
        lines.append(f"  {called:20} score {score:.2f}   x {x:+.3f}  y {y:+.3f}  z {z:.3f} m{done}")
    hint = "the boxes name no object here" if boxes else "look at the stages with --debug, or give --boxes"
    return lines if len(poses) else [*lines, f"  nothing found; {hint}"]


def calibrate(args: Calibrate) -> CalibrationReport:
    """Learn what a run's scores mean."""
    from . import calibrate as procedure

    return procedure.run(
        args.run, args.data, images=args.images, backgrounds=args.backgrounds, seed=args.seed, device=args.device,
        targets=args.targets, picture=args.out, progress_bar=not args.json,
    )  # fmt: skip


def refine(args: Refine) -> Refinement:
    """Refine the poses of a BOP result file."""
    from . import bop_pipeline

    return bop_pipeline.refine_bop(
        args.model, args.bop, args.results, args.out, targets=args.targets, hypotheses=args.hypotheses, outer=args.outer,
        inner=args.inner, debug=args.out.parent / "debug" if args.debug else None, device=args.device,
    )  # fmt: skip


def evaluate(args: Evaluate) -> Result:
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
