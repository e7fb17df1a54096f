"""`monopose calibrate`: rendered validation scenes, predictions on them, and what scores and covariances turn out to mean."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import confidence, outputs, pipeline, train, weights
from .data import dataset, synth, synth_bop
from .evaluation import calibration, errors
from .evaluation.truth import Object
from .mesh import simplified
from .types import Detections, Instances, ObjectModel, PoseEstimates

Array = NDArray[Any]

SEED = 90_210  # of the validation scenes; `monopose synth` draws the same ones for the same seed
VISIBLE = 0.1  # objects that are less visible get no box; a detection of one may still be right


@dataclass(frozen=True)
class Samples:
    """Estimates on validation scenes, one row each.

    Args:
        scene: number of the picture, (N,).
        label: object id, (N,).
        score: raw, (N,).
        error: MSSD in diameters, (N,), inf for an object that is not there.
        squared: of `calibration.mahalanobis`, (N,), nan where there is no truth or no covariance.
    """

    scene: Array
    label: Array
    score: Array
    error: Array
    squared: Array

    @property
    def right(self) -> Array:
        return self.error < confidence.LIMIT


@dataclass(frozen=True)
class Report:
    """What the validation scenes said.

    Args:
        fits: "detector" and "boxes" -> the chosen map and how it did on scenes held out.
        scale: factor on the covariances.
        before, after: level in percent -> share of the true poses inside the ellipsoid, after by factors of other scenes.
        file: the calibration.json.
        picture: diagrams before and after, or "".
    """

    fits: dict[str, calibration.Fit]
    scale: float
    before: dict[str, float]
    after: dict[str, float]
    file: str
    picture: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by name, for JSON."""
        fits = {
            name: {
                "kind": type(f.map).__name__.lower(), "map": asdict(f.map), "before": f.before.as_dict(),
                "after": f.after.as_dict(), "held_out_log_loss": f.log_loss,
            }
            for name, f in self.fits.items()
        }  # fmt: skip
        coverage = {"before": self.before, "after": self.after}
        return {"fits": fits, "covariance_scale": self.scale, "coverage": coverage, "file": self.file, "picture": self.picture}

    def text(self) -> str:
        lines = [f"{'boxes from':10}  {'estimates':>9}  {'right':>5}  {'ECE before':>10}  {'after':>5}  {'Brier':>13}  map"]
        for name, f in self.fits.items():
            b, a = f.before, f.after
            brier = f"{b.brier:.3f} -> {a.brier:.3f}"
            losses = ", ".join(f"{kind} {loss:.4f}" for kind, loss in f.log_loss.items())
            kind = type(f.map).__name__.lower()
            where = "detector" if name == "detector" else "elsewhere"
            numbers = f"{b.estimates:9d}  {b.right:5.2f}  {b.ece:10.3f}  {a.ece:5.3f}  {brier:>13}"
            lines.append(f"{where:10}  {numbers}  {kind} (log-loss {losses})")
        inside = [f"{level} %: {self.before[level]:.2f} -> {self.after[level]:.2f}" for level in self.before]
        lines.append(f"truth inside the covariance's ellipsoid of {', '.join(inside)} (covariance times {self.scale:.4g})")
        lines.append('"after" is measured on scenes that were not fitted to; a pose is right if its ' + confidence.EVENT)
        return "\n".join([*lines, f"written: {self.file}", *([f"diagram: {self.picture}"] if self.picture else [])])


def run(
    name: str | Path,
    data: str | Path,
    *,
    images: int = 200,
    backgrounds: str | Path | None = None,
    seed: int = SEED,
    device: torch.device | str | None = None,
    picture: str | Path | None = None,
    faces: int = 12_000,
    progress_bar: bool = True,
) -> Report:
    """Learn on rendered scenes what a run's scores and covariances mean, and write calibration.json into its folder.

    The scenes are made as those of its training, from other random numbers; no photo with known poses is looked at.

    Args:
        name: a run folder.
        data: a BOP folder with models/ (and camera.json), or a models folder, as for training.
        images: how many scenes, each with several objects.
        backgrounds: folder of photos to put behind the objects, as for training; None: procedural ones.
        seed: of the scenes.
        device: where the networks run; None: CUDA if there is one.
        picture: file for the reliability diagrams before and after, or None.
        faces: meshes with more triangles are thinned to this for rendering; errors are measured on the original.
        progress_bar: show one.

    Raises:
        FileNotFoundError, ValueError: no such run; no CAD model of an object that it knows; too few scenes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*so scores stay raw")  # the old file is about to be replaced
        model = pipeline.load(name, device)
    data, ids = Path(data), tuple(int(i) for i in model.names)
    everything = train.read_objects(data)
    if missing := sorted(set(ids) - set(everything)):
        raise ValueError(
            f"no CAD model for object(s) {missing} in {data}, which {model.path} knows; it holds {sorted(everything)}"
        )
    models = {i: everything[i] for i in ids}
    thin = {i: simplified(m, faces) if len(m.faces) > faces else m for i, m in models.items()}
    files = weights.weights_in(model.path)
    scene, photos = _scene(files, data, ids), synth.read_backgrounds(backgrounds)
    source = dataset.Source(thin, train.read_data_camera(data), photos, scene)
    samples = collect(model, source, models, images, seed, progress_bar)
    fits = {kind: calibration.fit(s.score, s.right, s.scene) for kind, s in samples.items()}
    squared = np.concatenate([s.squared for s in samples.values()])
    scenes = np.concatenate([s.scene for s in samples.values()])
    scale, after = calibration.fit_covariance_scale(squared, scenes)
    before = calibration.coverage(squared)
    notes = {
        "measured": {
            kind: {
                "estimates": f.before.estimates, "right": f.before.right, "held_out_log_loss": f.log_loss,
                "ece": [f.before.ece, f.after.ece], "brier": [f.before.brier, f.after.brier],
            }
            for kind, f in fits.items()
        },
        "coverage": {"before": before, "after": after},
        "scenes": {"images": images, "seed": seed, "backgrounds": len(photos), **asdict(scene)},
    }  # fmt: skip
    digests = {kind: confidence.digest_of(path) for kind, path in files.items()}
    maps = {kind: f.map for kind, f in fits.items()}
    found = confidence.Calibration(maps.get("detector"), maps["boxes"], scale, digests, notes)
    file = confidence.write(model.path, found)
    if picture is not None:
        tables = {f"{kind}, {when}": getattr(f, when) for kind, f in fits.items() for when in ("before", "after")}
        outputs.save_reliability(picture, tables)
    return Report(fits, scale, before, after, str(file), str(picture or ""))


def _scene(files: Mapping[str, Path], data: Path, ids: tuple[int, ...]) -> synth.SceneConfig:
    """Where objects may be, as it was in training; the default for weights that do not say."""
    for path in files.values():
        if "scene" in (notes := weights.read(path).notes):
            return weights.build_config(synth.SceneConfig, json.loads(notes["scene"]), f"the scene noted in {path}")
    return train.scene_config(data, ids)


def collect(
    model: pipeline.Pipeline, source: dataset.Source, models: Mapping[int, ObjectModel], images: int, seed: int, progress: bool
) -> dict[str, Samples]:
    """Predict on rendered scenes, in boxes of the run's detector if it has one and in jittered true boxes.

    Args:
        model: a run; its calibration is not used.
        source: what the scenes are made of.
        models: the meshes by which errors are measured.
        images: how many scenes.
        seed: of all randomness.
        progress: show a bar.

    Returns:
        "detector" (if there is one) and "boxes" -> their estimates.
    """
    from rich.progress import track

    model = replace(model, calibration=None)
    objects = {i: _object(m) for i, m in models.items()}
    frames = synth_bop.Frames(source, 0, images, seed)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in _sources(model)}
    for n in track(range(images), description="scenes", transient=True, disable=not progress):
        frame = frames[n][0]
        assert frame.instances is not None
        truth, plain = frame.instances, replace(frame, instances=None)
        given = _jittered(truth, np.random.default_rng((seed, n, 6)))
        for name in rows:
            poses = model.predict(plain, given if name == "boxes" else None)
            rows[name] += [(n, *row) for row in _judge(poses.to("cpu"), truth, objects)]
    return {name: Samples(*np.array(some, np.float64).reshape(-1, 5).T) for name, some in rows.items()}


def _sources(model: pipeline.Pipeline) -> list[str]:
    return ["boxes"] if model.finder is None else ["detector", "boxes"]


def _jittered(truth: Instances, rng: np.random.Generator) -> Detections:
    """Boxes of the visible objects as an imperfect detector would place them, square as training crops are, score 1."""
    assert truth.boxes is not None
    assert truth.visibility is not None
    seen = truth[truth.visibility >= VISIBLE]
    assert seen.boxes is not None
    boxes = [dataset.jittered_square(box, 1.0, rng) for box in seen.boxes]
    return Detections(seen.labels, torch.stack(boxes) if boxes else torch.zeros(0, 4), torch.ones(len(seen)))


def _object(model: ObjectModel) -> Object:
    points, s = model.vertices.double().numpy(), model.symmetries
    group = errors.symmetry_group(s.discrete.numpy(), s.axes.numpy(), s.offsets.numpy())
    return Object(points, errors.hull(points), group, len(group) > 1, model.diameter)


def _judge(poses: PoseEstimates, truth: Instances, objects: Mapping[int, Object]) -> list[tuple[float, ...]]:
    """Label, score, error in diameters and squared Mahalanobis distance of each estimate."""
    out: list[tuple[float, ...]] = []
    for i in range(len(poses)):
        label = int(poses.labels[i])
        est, true = poses.cam_from_obj[i].double().numpy(), truth.cam_from_obj[truth.labels == label].double().numpy()
        error, which = calibration.judged(est, true, objects[label])
        squared = float("nan")
        if which >= 0 and poses.covariance is not None:
            squared = calibration.mahalanobis(est, true[which], poses.covariance[i].double().numpy(), objects[label].group)
        out.append((label, float(poses.scores[i]), error, squared))
    return out
