"""The page of a report: charts, the worst poses as pictures, words. See `objects.report`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .. import viz
from ..evaluation import calibration
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..types import Frame, ObjectModel, PoseEstimates
from ..viz import errors as charts
from ..viz import page as html

if TYPE_CHECKING:
    from .report import Report, Target

WORST = 20
SIDE = 320  # of their pictures, pixels
AROUND = 1.8  # side of what they show / longer side of the object's box


def page(report: Report) -> str:
    """The HTML page of a report, everything inside."""
    from .report import advice, more_training

    right, total = sum(t.outcome == "right" for t in report.targets), len(report.targets)
    lower, upper = calibration.wilson(right, total)
    summary = [
        f"{right} of {total} objects in {report.looked} are right (95 % interval {float(lower):.0%} to {float(upper):.0%}): no "
        "point of the surface is farther than a tenth of the diameter from its true place.",
        "The pictures are renderings, with objects at places drawn as for training. Photos can be harder: other "
        "colours, blur, glare, an inexact CAD model or camera. Look at some (monopose predict) before you trust the numbers.",
    ]
    values = {name: np.array([getattr(t, name) for t in report.targets]) for name in ("mm", "deg", "share")}
    curves = {"error in mm": values["mm"], "error in degrees": values["deg"], "error in diameters (MSSD)": values["share"]}
    limits = {"error in mm": _nice(values["mm"]), "error in degrees": 30.0, "error in diameters (MSSD)": 0.3}
    objects = report.by_object()
    each = html.table(
        ("object", "seen", "right", "95 % interval"),
        ((name, str(s.total), f"{s.right:.0%}", f"{s.lower:.0%} to {s.upper:.0%}") for name, s in objects.items()),
    )
    thresholds = html.table(
        ("least score", "estimates", "of these right", "objects with a right one"),
        ((f"{r['least']:g}", str(r["estimates"]), f"{r['right']:.0%}", f"{r['found']:.0%}") for r in report.thresholds()),
    )
    meaning = (
        "Scores are probabilities." if report.calibrated else "Scores are raw, not probabilities: the run is not calibrated."
    )
    diagram = viz.reliability_diagram(calibration.reliability(report.scores, report.right))
    reliability = html.figure(diagram, "Of the estimates with a score, how many are right.")
    worst = html.grid(html.figure(picture, _caption(t, report.names), photo=True) for t, picture in report.worst)
    learning = html.text("Nothing is known: there is no progress.jsonl.")
    if report.curves:
        learning = html.figure(charts.learning_curves(report.curves), "On held-out samples, while it learned.")
    tips = advice(report)
    sections = [
        html.Section("verdict", "Is it good enough?", "".join([
            html.text(report.verdict(), "verdict"), *map(html.text, summary)
        ])),
        html.Section("errors", "Recall against error", html.figure(charts.recall_curves(curves, limits)) + each),
        html.Section("outcomes", "What became of the objects", html.figure(charts.outcomes_bar(report.outcomes()))),
        html.Section("where", "Distance, size and occlusion", html.figure(
            charts.shares_by(report.by()), "The share right, 95 % intervals; below, how many objects."
        )),
        html.Section("calibration", "What a score is worth", html.text(meaning) + reliability + thresholds),
        html.Section("worst", f"The worst {len(report.worst)}", (
            html.text("White: the truth. Coloured: the estimate.") + worst if report.worst else html.text("All are right.")
        )),
        html.Section("learning", "How it learned", learning),
        html.Section("more", "What more training would buy", html.items(more_training(report))),
        html.Section("try", "What to try", html.items(tips) if tips else html.text("Nothing stands out.")),
    ]  # fmt: skip
    return html.page(f"Report on {report.run}", sections)


def _nice(mm: np.ndarray) -> float:
    """Where the axis of millimetres ends: what nine of ten errors stay below, or three medians."""
    known = mm[np.isfinite(mm)]
    return max(float(min(np.quantile(known, 0.9), 3 * np.median(known))), 1.0) if len(known) else 10.0


def _caption(t: Target, names: Mapping[int, str]) -> str:
    where = f"picture {t.picture}, {names.get(t.label, t.label)}, {t.distance:.2f} m, {t.visibility:.0%} seen"
    if math.isfinite(t.share):
        return f"{where}: {t.mm:.0f} mm and {t.deg:.0f} degrees off, score {t.score:.2f}"
    return f"{where}: {t.outcome}"


def close_up(frame: Frame, poses: PoseEstimates, target: Target, models: Mapping[int, ObjectModel]) -> Image.Image:
    """The part of the picture around a target, with its true contour and the estimates of its kind."""
    truth = frame.instances
    assert truth is not None
    assert truth.boxes is not None
    rows = truth.labels == target.label
    distance = truth.cam_from_obj[:, :3, 3].norm(dim=-1)
    row = int(torch.where(rows, (distance - target.distance).abs(), torch.inf).argmin())
    square = box_ops.square(truth.boxes[row : row + 1], AROUND)
    piece = Frame(
        camera_ops.cut(frame.image, square, SIDE)[0].clamp(0, 1), frame.camera.crop_resize(square[0], (SIDE, SIDE))
    )  # fmt: skip
    mine = poses[poses.labels == target.label]
    shown = PoseEstimates(mine.labels, mine.cam_from_obj, mine.scores, names=poses.names, calibrated=poses.calibrated)
    return viz.draw(piece, shown, models, truth[row])
