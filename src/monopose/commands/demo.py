"""`monopose demo`: bundled pictures, bundled weights, true poses beside estimated ones. Works offline."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from .. import viz
from ..command import save_picture
from ..datasets.bop import scenes
from ..geometry import rotation, symmetry
from ..io.bars import watched
from ..io.poses import frame_record, save_poses
from ..objects import pipeline
from ..types import Instances, ObjectModel, PoseEstimates


@dataclass(frozen=True)
class Row:
    """One object of one picture: how far the estimate is from the truth."""

    picture: int
    name: str
    found: bool
    score: float = float("nan")
    rotation_deg: float = float("nan")  # to the nearest symmetric pose
    translation_mm: float = float("nan")
    add_s_percent: float = float("nan")  # ADD(-S), percent of the diameter
    why: str = ""  # it was not found: nothing was there, or it was left out


@dataclass(frozen=True)
class DemoReport:
    """What the demo found."""

    rows: list[Row]
    seconds: dict[str, float]  # mean per picture and stage
    overlays: list[str]
    sheet: str  # all overlays in one picture
    json: str
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [f"{'picture':>7}  {'object':14} {'score':>5}  {'rotation':>9}  {'translation':>11}  {'ADD(-S)':>8}"]
        for r in self.rows:
            if r.found:
                numbers = f"{r.score:5.2f}  {r.rotation_deg:7.1f} °  {r.translation_mm:8.1f} mm  {r.add_s_percent:6.1f} %"
            else:
                numbers = f"    -  {r.why or 'not found'}"
            lines.append(f"{r.picture:7d}  {r.name:14} {numbers}")
        good, found = sum(r.add_s_percent < 10 for r in self.rows), sum(r.found for r in self.rows)
        lines += [
            "",
            f"{good} of {len(self.rows)} objects within 10 % of their diameter (ADD(-S) < 0.1 d)",
            f"{found} of the {len(self.rows)} have a pose that is sure enough to be shown",
        ]
        lines.append("seconds per picture: " + ", ".join(f"{k} {v:.2f}" for k, v in self.seconds.items()))
        lines += [*self.notes, f"poses:   {self.json}", f"overlay: {self.sheet}"]
        return "\n".join(lines)


def folder() -> Path:
    """The bundled demo: a run folder (weights, objects/) with photos/ beside, a small BOP split."""
    return Path(str(resources.files("monopose"))) / "assets" / "demo"


def compare(estimated: PoseEstimates, truth: Instances, models: dict[int, ObjectModel], picture: int) -> list[Row]:
    """Each true object against the best-scored estimate of its kind."""
    rows = []
    for n in range(len(truth)):
        label = int(truth.labels[n])
        model = models[label]
        mine = (estimated.labels == label).nonzero().flatten()
        if not len(mine):
            out = [f"left out at {100 * d.score:.0f} %: {d.reason}" for d in estimated.dropped if d.label == label]
            rows.append(Row(picture, model.name, False, why=out[0] if out else ""))
            continue
        best = int(mine[estimated.scores[mine].argmax()])
        true, pose = truth.cam_from_obj[n], estimated.cam_from_obj[best].cpu()
        group = symmetry.transforms(model.symmetries)
        nearest = symmetry.nearest(true, pose, group, model.corners)
        angle = torch.rad2deg(rotation.angle_between(nearest[:3, :3], pose[:3, :3]))
        shift = (nearest[:3, 3] - pose[:3, 3]).norm()
        rows.append(
            Row(
                picture, model.name, True, float(estimated.scores[best]), float(angle), 1000 * float(shift),
                100 * _add_or_add_s(pose, true, model) / model.diameter,
            )
        )  # fmt: skip
    return rows


def _add_or_add_s(pose: torch.Tensor, true: torch.Tensor, model: ObjectModel) -> float:
    from ..evaluation import errors

    points = model.vertices.double().numpy()
    measure = errors.add_s if model.symmetries.any else errors.add
    return float(measure(pose.double().numpy(), true.double().numpy(), points))


def run(out: str | Path = "out/demo") -> DemoReport:
    """Estimate every pose in the bundled pictures, compare with the truth, save overlays.

    Args:
        out: folder for `overlay.png` (all pictures), one overlay per picture, and `poses.json`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)  # an error now, not after the work
    model = pipeline.load(folder())
    model.warm_up()
    scene = scenes.open_scene(folder() / "photos" / "test" / "000001")
    rows: list[Row] = []
    records, pictures, overlays = [], [], []
    totals: dict[str, float] = {}
    for im_id in watched(scene.im_ids.tolist(), "pictures", len(scene.im_ids)):
        frame = scenes.read_frame(scene, im_id)
        assert frame.instances is not None
        found = model(frame)
        poses = found.poses
        rows += compare(poses, frame.instances, dict(model.models), im_id)
        for stage, seconds in poses.seconds.items():
            totals[stage] = totals.get(stage, 0.0) + seconds / len(scene.im_ids)
        records.append(frame_record(f"{im_id:06d}", frame, poses))
        pictures.append(found.picture())
        overlays.append(str(save_picture(out / f"{im_id:06d}_overlay.png", pictures[-1])))
    sheet = save_picture(out / "overlay.png", viz.contact_sheet(pictures, columns=3, width=480))
    return DemoReport(rows, totals, overlays, str(sheet), str(save_poses(out, records)))
