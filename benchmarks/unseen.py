"""What minutes of training buy for a CAD model that no network has seen, from the base and from nothing.

    python -m benchmarks.unseen --data unseen/part --out runs/unseen/part --minutes 5 15 30 60 [--backgrounds BACKGROUNDS]

DATA is a BOP folder of one object whose pictures monopose did not draw (tools/render_with_bpy.py). For every start and
every number of minutes the networks that `monopose train all` takes under that budget are trained on the CAD model alone, one
after the other, in a run of their own, as the learning rate follows the budget. Then the object is sought in the pictures of
the split `test`, in the true boxes and in those of the run's detector, and refined by a network that never saw it
(`--refiner`, else that of the base).

Printed for each: the median error in millimetres and degrees (nearest of the equal poses of a symmetric object; a picture
without a pose counts as infinitely wrong) and the share of pictures whose mean vertex distance is below a tenth of the
diameter. Minutes are wall clock on a machine that does nothing else; the steps taken stand beside them. Finished rows are
lines of OUT/results.jsonl, and a run that was stopped goes on. `--table` prints what is done. `--steps` counts steps instead
of minutes, of the coordinate network; the detector takes a third of them. `--untrained` trains nothing: the poses are searched
for in the true boxes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.viewpoint import markdown
from monopose import weights
from monopose.datasets.bop import models as bop_models
from monopose.datasets.bop import scenes as bop_scenes
from monopose.evaluation import errors
from monopose.objects import pipeline, refinement, refiner, training, whole_run
from monopose.objects.bop_pipeline import truth_as_detections
from monopose.types import ObjectModel, PoseEstimates

RIGHT = 0.1  # diameters: mean vertex distance below which a pose is right


def trained(data: Path, run: Path, start: str, budget: float, steps: bool, backgrounds: Path | None, workers: int) -> Path:
    """Train the networks of a run as `monopose train all` does, or go on with it."""
    ids = tuple(bop_models.read_models(data / "models"))
    for stage in whole_run.stages(math.inf if steps else budget, ids, workers):
        count = max(int(budget if stage.method == "coordinates" else budget / 3), 1)
        how = replace(stage.train, minutes=None, steps=count) if steps else stage.train
        if not (run / f"{stage.method}.done").is_file():
            training.train(
                stage.method, data, run, init=_file(start, stage.method), backgrounds=backgrounds, config=how,
                method_config=stage.config, progress_bar=False,
            )  # fmt: skip
            (run / f"{stage.method}.done").touch()
    return run


def _file(start: str, method: str) -> str | Path:
    """What a method starts from: a word that training knows, or its weights in the run folder `start`; "none" without any."""
    if start in ("base", "none"):
        return start
    file = weights.find_run(start) / f"{method}.safetensors"
    return file if file.is_file() else "none"


def judged(pose: np.ndarray | None, truth: np.ndarray, model: ObjectModel, group: np.ndarray) -> tuple[float, float, bool]:
    """Errors in millimetres and degrees, and whether the pose is right; of a symmetric object, to the nearest equal pose.

    Args:
        pose, truth: cam_from_obj, (4, 4), metres; None: nothing was found.
        model: the object.
        group: its symmetries, (S, 4, 4).
    """
    if pose is None:
        return float("inf"), float("inf"), False
    points = model.vertices.double().numpy()
    equal = truth @ group
    distance = errors.add(np.broadcast_to(pose, equal.shape), equal, points)
    best = equal[int(distance.argmin())]
    mm, degrees = 1000 * float(errors.translation(pose, best)), float(np.degrees(errors.rotation(pose, best)))
    return mm, degrees, bool(distance.min() < RIGHT * model.diameter)


def measured(run: pipeline.Pipeline, better: refiner.Model | None, data: Path, split: str) -> dict[str, dict[str, float]]:
    """Errors of a run on the pictures of a split, by boxes and refinement."""
    (number,) = run.models
    model = run.models[number]
    s = model.symmetries
    group = errors.symmetry_group(s.discrete.numpy(), s.axes.numpy(), s.offsets.numpy())
    rows: dict[str, list[tuple[float, float, bool]]] = {}
    for scene, im_id, _ in bop_scenes.images(data / split):
        frame = bop_scenes.read_frame(scene, im_id, masks=False, depth=False)
        assert frame.instances is not None
        truth = frame.instances.cam_from_obj[0].double().numpy()

        def keep(name: str, poses: PoseEstimates, truth: np.ndarray = truth) -> None:
            first = poses.cam_from_obj[0].double().numpy() if len(poses) else None
            rows.setdefault(name, []).append(judged(first, truth, model, group))

        boxes_from = {"true boxes": truth_as_detections(frame.instances, {number}), "own detector": None}
        if run.detector is None:
            del boxes_from["own detector"]
        for name, boxes in boxes_from.items():
            poses = run.predict(frame, boxes, refine=False)[:1]  # the best one: there is one object in a picture
            keep(name, poses)
            if better is not None:
                keep(f"{name}, refined", refinement.predict(better, frame, poses, run.models) if len(poses) else poses)
    return {name: summary(np.array(values, dtype=float)) for name, values in rows.items()}


def summary(rows: np.ndarray) -> dict[str, float]:
    """Medians of the errors and the share that is right, of rows (N, 3)."""
    return {
        "mm": float(np.median(rows[:, 0])), "degrees": float(np.median(rows[:, 1])), "right": float(rows[:, 2].mean()),
        "found": float(np.isfinite(rows[:, 0]).mean()), "pictures": len(rows),
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line for each run and kind of boxes."""
    head = ["start", "budget", "steps", "boxes", "median mm", "median °", "within 0.1 d, %", "found, %"]
    lines = []
    for row in rows:
        for name, score in row["scores"].items():
            lines.append([
                row["start"], f"{row['budget']:g} {row['unit']}", f"{row['steps']}", name, f"{score['mm']:.1f}",
                f"{score['degrees']:.1f}", f"{100 * score['right']:.0f}", f"{100 * score['found']:.0f}",
            ])  # fmt: skip
    return markdown(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 15, 30, 60])
    parser.add_argument("--steps", type=float, nargs="+", help="in place of minutes, for a repeatable comparison")
    parser.add_argument("--starts", nargs="+", default=["base", "none"], help="base, none, or weights folders of other runs")
    parser.add_argument("--refiner", help="run folder with a refiner; that of the base by default, if there is one")
    parser.add_argument("--backgrounds", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--untrained", action="store_true", help="search for the poses, without any training")
    parser.add_argument("--table", action="store_true", help="print what is done and stop")
    args = parser.parse_args()
    file, unit = args.out / "results.jsonl", "steps" if args.steps else "min"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    if not args.table:
        torch.set_num_threads(1)
        args.out.mkdir(parents=True, exist_ok=True)
        asked = args.refiner or ("base" if weights.base("refiner") is not None else None)
        better = None if asked is None else pipeline.load_refiner(asked, "cpu")
        if args.untrained and not any(r["start"] == "untrained" for r in done):
            scores = measured(pipeline.load(args.data, "cpu"), None, args.data, args.split)
            done.append({"start": "untrained", "budget": 0, "unit": unit, "steps": "0", "scores": scores})
            with file.open("a") as lines:
                lines.write(json.dumps(done[-1]) + "\n")
            print(table(done[-1:]), flush=True)
        for budget in () if args.untrained else args.steps or args.minutes:
            for start in args.starts:
                name = Path(start).name
                if any((r["start"], r["budget"], r["unit"]) == (name, budget, unit) for r in done):
                    continue
                run = args.out / f"{name}_{budget:g}{unit}"
                trained(args.data, run, start, budget, bool(args.steps), args.backgrounds, args.workers)
                scores = measured(pipeline.load(run, "cpu"), better, args.data, args.split)
                steps = "+".join(weights.read(file).notes["steps"] for file in weights.weights_in(run).values())
                done.append({"start": name, "budget": budget, "unit": unit, "steps": steps, "scores": scores})
                with file.open("a") as lines:
                    lines.write(json.dumps(done[-1]) + "\n")
                print(table(done[-1:]), flush=True)
    print(table(sorted(done, key=lambda r: (r["unit"], r["budget"]))))


if __name__ == "__main__":
    main()
