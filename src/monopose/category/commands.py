"""What the command line does with categories: training with pictures of what was learned, poses of objects in photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from .. import weights
from ..command import (
    DRAWN_FOV,
    Printer,
    Result,
    boxes_of_anything,
    check_mask,
    frames,
    predict_pictures,
    save_picture,
    shared_settings,
    silent,
)
from ..datasets import nocs
from ..evaluation import nocs as scoring
from ..io.poses import frame_record, save_poses
from ..types import Detections, Frame, PoseEstimates
from ..viz.canvas import save_gif
from . import fitting, viz
from . import model as category
from .fitting import Fit, FitConfig
from .model import Model
from .options import Evaluate, Predict, Train
from .pipeline import (
    CategoryRun,
    as_detections,
    cut_out,
    draw_overlay,
    load,
    pose_record,
    predict_nocs,
    read_masks,
    save_curves,
)
from .samples import CategoryViews, ViewConfig
from .training import Shapes

GIF_STEP_MS = 120
SEARCHES: dict[str, Callable[[], FitConfig]] = {"default": FitConfig, "published": fitting.published, "quick": fitting.quick}

# --------------------------------------------------------------------------------------------------------------- training


def train(args: Train, say: Printer = silent) -> dict[str, str]:
    """Train a category, and draw what was learned."""
    from ..training import progress
    from . import training

    symmetric = None
    if args.data is None:
        assert args.category is not None
        count = training.INSTANCES if args.instances is None else args.instances
        shapes = training.made_shapes(args.category, count)
    else:
        shapes = training.read_shapes(args.data, args.category, args.unit)
        symmetric = args.symmetric or all(bool((m.symmetries.axes[:, 2].abs() > 0.99).any()) for m in shapes.models)
    own = training.make_config(shapes, args.preset, args.changes(), symmetric)
    config = training.make_training(args.preset, **args.budget())
    for line in training.describe(shapes, args.preset, own, config):
        say(line)
    file = training.train(
        shapes, args.run_folder(f"category_{shapes.category}"), backgrounds=args.backgrounds, config=config,
        progress_bar=not args.json, method_config=own,
    )  # fmt: skip
    model = weights.load_network(file, "category", category.Config, Model)
    return progress.result(file) | {"pictures": str(save_report(model, file.parent / "pictures", shapes))}


def save_report(model: Model, folder: Path, shapes: Shapes) -> Path:
    """Pictures of a network: reconstructions of shapes that were held out, sweeps around them, and what lies between.

    Args:
        folder: for reconstructions.png, azimuth.gif, elevation.gif, interpolation.gif; created.
        shapes: of its category.
    """
    model.eval()
    plain, side = ViewConfig(covered=0.0), model.config.input_size
    drawn = [
        CategoryViews(shapes.category, [i], side, 1, seed=i, config=plain, models=shapes.models)[0] for i in shapes.held_out
    ]
    save_picture(folder / "reconstructions.png", viz.reconstructions(model, drawn))
    with torch.no_grad():
        codes = model.encode(torch.stack([d["image"][0] for d in drawn]), torch.stack([d["visible"][0] for d in drawn]).float())
    means = codes[0].mean
    save_gif(folder / "azimuth.gif", viz.azimuth_sweep(model, means[:3]), GIF_STEP_MS)
    save_gif(folder / "elevation.gif", viz.elevation_sweep(model, means[:3]), GIF_STEP_MS)
    if len(means) > 1:
        save_gif(folder / "interpolation.gif", viz.interpolation(model, means), GIF_STEP_MS)
    return folder


# ------------------------------------------------------------------------------------------------------------- prediction

Finder = Callable[[str, Frame], tuple[Detections, str]]


def predict(args: Predict, say: Printer) -> Result:
    """Poses of a category's objects in pictures, or scores on a data set in NOCS's layout."""
    run, search = load(args.model, args.output.device), _search(args)
    if args.nocs.nocs is None:
        return _predict_pictures(args, run, search, say)
    return predict_nocs(
        run, args.nocs.nocs, args.output.out or Path("out/nocs.json"), config=search, overlap=args.nocs.overlap,
        limit=args.output.limit, progress_bar=not args.json, detections=args.nocs.detections, gts=args.nocs.gts,
    )  # fmt: skip


def evaluate(args: Evaluate) -> Result:
    """Scores and curves of a folder of NOCS's result files."""
    results = nocs.results_folder(args.results, args.gts)
    scores = scoring.evaluate(results, args.overlap)
    data: dict[str, Any] = {"results": str(args.results), "scores": scores}
    if args.out is not None:
        data |= save_curves(args.out, results, args.overlap, scores)
    return Result(data, scoring.text(scores) + (f"\ncurves: {data['curves']}" if args.out is not None else ""))


def _search(args: Predict) -> FitConfig:
    if args.features is None:
        return SEARCHES[args.search]()
    return fitting.published(args.features) if args.search == "published" else replace(
        SEARCHES[args.search](), features=args.features
    )  # fmt: skip


def _predict_pictures(args: Predict, run: CategoryRun, search: FitConfig, say: Printer) -> Result:
    """Overlays, GIFs of the fitting and poses.json in OUT; without a camera poses are not metric."""
    run = run if args.objects.size_m is None else run.with_size(args.objects.size_m)
    out, find = args.output.folder, _finder(args, run)

    def one(name: str, frame: Frame) -> tuple[dict[str, Any], list[str]]:
        found, made_from = find(frame.path or name, frame)
        poses, fits = run.predict_traced(frame, found, search)
        overlay = save_picture(out / f"{name}_overlay.png", draw_overlay(run.model, frame, poses, fits))
        record = frame_record(name, frame, poses) | {"overlay": str(overlay), "masks": made_from}
        for i, (row, fit) in enumerate(zip(record["poses"], fits, strict=True)):
            row |= pose_record(run.model, fit, args.camera.known)
            _save_fit(out, f"{name}_{i}", run.model, frame, poses, i, fit, args.debug)
        return record, _lines(record)

    def save(records: list[dict[str, Any]]) -> dict[str, Any]:
        return {"poses": str(save_poses(out, records))}

    pictures = frames(args.source or "", args.camera, DRAWN_FOV)
    settings = {"weights": weights.digests(run.path), "search": asdict(search), "objects": asdict(args.objects)}
    settings |= shared_settings(args.source, args.camera, args.objects.boxes)
    shard = args.share(args.sharing)
    return predict_pictures(pictures, one, save, lambda data: f"poses: {data['poses']}", args.output, say, shard, settings)


def _finder(args: Predict, run: CategoryRun) -> Finder:
    """A function from a picture to its objects with masks, and where the masks come from: a file; else boxes, inside which the
    object is cut out by colour; else the run's own detector."""
    mask, boxes = args.objects.mask, args.objects.boxes
    if mask is not None:
        given = read_masks(mask)

        def of_file(name: str, frame: Frame) -> tuple[Detections, str]:
            check_mask(given.shape[1:], name, frame.image.shape[1:])
            return as_detections(given), f"file {mask.name}"

        return of_file
    if boxes:
        boxes_of = boxes_of_anything(boxes)

        def of_boxes(name: str, frame: Frame) -> tuple[Detections, str]:
            found = boxes_of(name)
            cut = [cut_out(frame.image, box) for box in found.boxes]
            masks = torch.stack(cut) if cut else torch.zeros(0, *frame.image.shape[1:], dtype=torch.bool)
            return replace(found, labels=torch.ones_like(found.labels), masks=masks), "GrabCut in the given boxes"

        return of_boxes
    return lambda name, frame: (run.detect(frame, args.objects.score), "detector")


def _lines(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['image']} -> {record['overlay']}"]
    for row in record["poses"]:
        x, y, z = (line[3] for line in row["cam_from_obj"][:3])
        unit = "m" if row["metric"] else "sizes of the object"
        angles = ", ".join(f"{k} {row['view'][k + '_deg']:.0f}°" for k in ("azimuth", "elevation"))
        lines.append(f"  {row['name']} {row['score']:.2f}: {angles}, at ({x:.3f}, {y:.3f}, {z:.3f}) {unit}")
        lines.append(f"    scale is metric: {_metric_text(row)}; {row['seconds']:.1f} s, features: {row['features']}")
    return lines


def _metric_text(row: dict[str, Any]) -> str:
    if not row["metric"]:
        return f"no ({row['why_not_metric']})"
    return f"yes, distance ± {row['distance_std_m']:.3f} m as sizes go in the category"


def _save_fit(
    out: Path, name: str, model: Model, frame: Frame, poses: PoseEstimates, row: int, fit: Fit, debug: bool
) -> None:  # fmt: skip
    """The fitting as a GIF; with debug its stages, and the fitted object from all sides."""
    assert fit.seen is not None
    save_gif(out / f"{name}_fitting.gif", viz.fitting_animation(model, fit), GIF_STEP_MS, rest=12)
    if not debug:
        return
    folder = out / "debug"
    one = replace(poses, **{k: getattr(poses, k)[row : row + 1] for k in ("labels", "cam_from_obj", "scores")},
                  covariance=None, boxes=None)  # fmt: skip
    assert fit.square is not None
    shown = viz.crop_of(draw_overlay(model, frame, one, [fit]), fit.square)
    save_picture(folder / f"{name}_stages.png", viz.stages(model, fit, shown))
    code = fit.views.codes[fit.chosen][None]
    save_gif(folder / f"{name}_azimuth.gif", viz.azimuth_sweep(model, code), GIF_STEP_MS)
    save_gif(folder / f"{name}_elevation.gif", viz.elevation_sweep(model, code), GIF_STEP_MS)
