"""What the command line does with CAD models: synthetic BOP folders, training, poses in pictures and BOP splits, scores."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import Printer, Result, frames, predict_pictures, shard_result, shared_settings, silent
from ..io.files import or_warned
from .options import Calibrate, Evaluate, Predict, Refine, Report, Synth, Train, TrainAll

if TYPE_CHECKING:
    from ..types import Frame, ObjectModel, PoseEstimates
    from .bop_pipeline import Refinement
    from .calibrate import CalibrationReport
    from .pipeline import Pipeline


def synth(args: Synth) -> dict[str, str] | Result:
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
        models = _with_symmetries(models, args.models, args.out if not args.propose_symmetries else None)
        if args.scene.upright and any(path.suffix.lower() in METRIC_FORMATS for path in args.models):
            warnings.warn("glTF files have +Y up, --upright takes +Z as up: turn them, or leave --upright out", stacklevel=2)
    camera = scenes.default_camera() if args.camera is None else read_camera(args.camera)
    scene = scenes.scene_config(models, camera, **asdict(args.scene))
    shard = args.share(args.sharing)
    out = bop_folder.write_bop(
        models, args.out, images=args.images, camera=camera, backgrounds=args.backgrounds,
        scene=scene, split=args.split, seed=args.seed, shard=shard,
    )  # fmt: skip
    if shard is not None and not shard.last:
        return shard_result(shard, out)
    from .viz import save_samples

    return {"out": str(out), "sheet": str(save_samples(out, args.split))}


def _with_symmetries(models: list[ObjectModel], files: Sequence[Path], out: Path | None) -> list[ObjectModel]:
    """Mesh files do not know theirs: those that an earlier run or a person wrote down in OUT/models, or without it proposed
    ones."""
    from ..datasets.bop import models as bop_models

    if out is None:
        from ..mesh.loading import look_is_whole
        from ..mesh.symmetries import propose_symmetries

        whole = [look_is_whole(path) for path in files]
        return [replace(m, symmetries=propose_symmetries(m).symmetries) if w else m for m, w in zip(models, whole, strict=True)]
    file = out / "models" / "models_info.json"
    known = bop_models.read_models_info(file) if file.is_file() else {}
    return [replace(m, symmetries=known[m.obj_id].symmetries) if m.obj_id in known else m for m in models]


def train(args: Train | TrainAll, say: Printer = silent) -> dict[str, str] | Result:
    """Train a method on CAD models, or all that a run needs."""
    from ..training import progress
    from . import sources, training

    if isinstance(args, TrainAll):
        return _train_all(args)
    root = sources.models_root(sources.parse(args.data, args.split))
    own, config = None, training.TrainConfig(**args.budget())
    if args.set or args.preset is not None:
        ids = args.objects or tuple(training.read_infos(root))
        own = training.make_config(args.method, ids, args.preset, args.changes())
        config = training.make_training(args.method, ids, args.preset, **args.budget())
        started = args.init not in (None, "none", "base")
        for line in training.describe(args.method, ids, args.preset, own, config, started):
            say(line)
    scene = training.scene_config(root, args.objects, **asdict(args.scene))
    file = training.train(
        args.method, args.data, args.run_folder(root), obj_ids=args.objects, split=args.split, init=args.init,
        backgrounds=args.backgrounds, scene=scene, config=config, method_config=own,
        render=args.render, strict=args.strict, progress_bar=not args.json,
    )  # fmt: skip
    return progress.result(file)


def _train_all(args: TrainAll) -> Result:
    from . import training, whole_run

    data, own = args.data, args.folder / "data"
    if data.is_file():
        if not (own / "camera.json").is_file():  # what is there already stays
            _make_folder(args.data, own, args)
        data = own
    found = whole_run.run(
        data, args.folder, minutes=args.minutes, obj_ids=args.objects, backgrounds=args.backgrounds,
        scene=training.scene_config(data, args.objects, **asdict(args.scene)), workers=args.workers, seed=args.seed,
        progress_bar=not args.json,
    )  # fmt: skip
    return Result(found, whole_run.text(found))


def _make_folder(mesh: Path, folder: Path, args: TrainAll | Report) -> None:
    """A data folder for a mesh file: models/ and camera.json."""
    from ..datasets.bop import writing
    from ..io.cameras import read_camera
    from ..mesh.loading import load_mesh
    from ..synthesis import scene as scenes

    models = _with_symmetries([load_mesh(mesh, args.unit, obj_id=1)], [mesh], None if args.propose_symmetries else folder)
    writing.write_models(folder / "models", {m.obj_id: m for m in models})
    camera = scenes.default_camera() if args.camera is None else read_camera(args.camera)
    writing.write_camera(folder / "camera.json", camera)


def report(args: Report) -> Result:
    """Say how good a run is."""
    from ..mesh.readers import FORMATS
    from . import report as procedure

    run, out = args.run, args.out
    if run.suffix.lower() in FORMATS and not run.is_dir():
        out = out or procedure.page_of(run)
        run = out.parent / "data"
        _make_folder(args.run, run, args)
    found = procedure.run(
        run, args.data, images=args.images, backgrounds=args.backgrounds, seed=args.seed, device=args.device, out=out,
        progress_bar=not args.json,
    )  # fmt: skip
    return Result(found.as_dict(), found.text())


def predict(args: Predict, say: Printer) -> Result | dict[str, str]:
    """Poses in pictures, or in a whole BOP split."""
    from . import bop_pipeline, pipeline, probabilistic, search

    run = pipeline.load(args.model, args.output.device, args.models, args.runtime, args.unit)
    if args.posterior and not isinstance(run.estimator, probabilistic.Model):
        way = "search, which has" if isinstance(run.estimator, search.Model) else "coordinates, which have"
        raise ValueError(
            f"{run.path} estimates poses by {way} no distribution; train one that has: monopose train probabilistic --data DIR "
            f"--out {run.path if run.path.is_dir() else 'RUN'}"
        )
    how: dict[str, Any] = {"score_threshold": args.detector.score, "looks": args.detector.looks}
    how |= {"refine": args.refine} if args.refine or args.no_refine else {}
    if args.bop.bop is None:
        return _predict_pictures(args, run, how, say)
    assert args.output.out is not None
    shard = args.share(args.sharing)
    run.warm_up()
    path = bop_pipeline.predict_bop(
        run, args.bop.bop, args.bop.targets, args.output.out, limit=args.output.limit, true_boxes=args.bop.true_boxes,
        boxes=Path(args.detector.boxes[0]) if args.detector.boxes else None,
        debug=args.output.out.parent / "debug" if args.debug else None, min_probability=args.min_probability, shard=shard,
        strict=args.output.strict, **how,
    )  # fmt: skip
    return {"results": str(path)} if shard is None or shard.last else shard_result(shard, path)


def _predict_pictures(args: Predict, run: Pipeline, how: dict[str, Any], say: Printer) -> Result:
    from .. import weights
    from ..io.boxes import read_boxes
    from ..io.poses import UNITS, frame_record, pose_records, poses_of, save_poses
    from . import viz

    boxes = read_boxes(args.detector.boxes, sorted(run.names), run.names) if args.detector.boxes else None
    out = args.output.folder
    settings = {**how, **shared_settings(args.source, args.camera, args.detector.boxes), "weights": weights.digests(run.path)}
    settings |= {"models": {i: m.digest for i, m in run.models.items()}, "min_probability": args.min_probability}
    run.warn_without_models()

    def one(name: str, frame: Frame) -> tuple[dict[str, Any], list[str]]:
        given = None if boxes is None else boxes(frame.path or name)
        if args.posterior or args.debug:
            found, trace = run.predict_traced(frame, given, **how)
            if args.posterior:
                viz.save_posteriors(out / "posterior" / name, frame, trace.posteriors, run.models)
            if args.debug:
                viz.save_stages(out / "debug" / name, frame, trace, found, run)
        else:
            found = run.predict(frame, given, **how)
        poses = run.trusted(found, frame, args.min_probability)
        overlay = viz.save_overlay(out / f"{name}_overlay.png", frame, poses, run.models)
        kept = pose_records(found if args.min_probability is None else poses)  # for the BOP file
        lines = _lines(name, poses, overlay, given is not None)
        return {**frame_record(name, frame, poses), "overlay": str(overlay), "_found": kept}, lines

    def save(records: list[dict[str, Any]]) -> dict[str, Any]:
        viz.save_results(out, [poses_of(r["_found"], r["seconds"]) for r in records])
        shown = [{k: v for k, v in record.items() if k != "_found"} for record in records]
        return {"units": UNITS, "poses": str(save_poses(out, shown))}

    def summary(data: dict[str, Any]) -> str:
        count = len(data["images"])
        return f"{count} picture{'s' * (count != 1)}: {data['poses']}, and a BOP CSV beside it"

    pictures, shard = frames(args.source or "", args.camera), args.share(args.sharing)
    run.warm_up()
    return predict_pictures(pictures, one, save, summary, args.output, say, shard, settings)


def _lines(name: str, poses: PoseEstimates, overlay: Path, boxes: bool = False) -> list[str]:
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in poses.seconds.items())
    lines = [f"{name}: {len(poses)} object{'s' * (len(poses) != 1)}{' (' + seconds + ')' if seconds else ''} -> {overlay}"]
    refined = [""] * len(poses)
    if poses.refined is not None:
        refined = ["   refined" if done else "   not refined" for done in poses.refined.tolist()]
    kind = "probability" if poses.calibrated else "score"
    for label, score, pose, done in zip(poses.labels.tolist(), poses.scores.tolist(), poses.cam_from_obj.cpu(), refined):
        x, y, z = pose[:3, 3].tolist()
        lines.append(f"  {poses.name_of(label):20} {kind} {score:.2f}   x {x:+.3f}  y {y:+.3f}  z {z:.3f} m{done}")
    for d in poses.dropped:
        lines.append(f"  {d.name:20} {kind} {d.score:.2f}   left out: {d.reason}")
    if not len(poses):
        hint = "the boxes name no object here" if boxes else "look at the stages with --debug, or give --boxes"
        more = "--min-probability 0 shows more" if poses.dropped else hint
        lines.append(f"  nothing {'sure enough' if poses.dropped else 'found'}; {more}")
    return lines


def calibrate(args: Calibrate) -> CalibrationReport | Result:
    """Learn what a run's scores mean."""
    from . import calibrate as procedure

    shard = args.share(args.sharing)
    report = procedure.run(
        args.run, args.data, images=args.images, backgrounds=args.backgrounds, seed=args.seed, device=args.device,
        targets=args.targets, picture=args.out, progress_bar=not args.json, shard=shard,
    )  # fmt: skip
    return report or shard_result(shard, args.run)  # type: ignore[arg-type]


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
        shard = args.share(args.sharing)
        scores = bop_evaluation.evaluate(args.results, args.data, args.targets, vsd=args.vsd, shard=shard)
        if shard is not None and not shard.last:
            return shard_result(shard, args.results)
    words = tables.text(scores)
    if args.reliability is not None:
        from .calibrate import save_reliability

        found = calibration.reliability(*calibration.of_results(args.results, args.data, args.targets))
        scores["reliability"] = found.as_dict()
        words += f"\n\n{tables.reliability_text(found)}"
        with or_warned("the diagram"):
            save_reliability(args.reliability, {args.results.stem: found})
            words += f"\ndiagram: {args.reliability}"
    return Result(scores, words)
