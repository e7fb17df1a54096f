"""`monopose calibrate`: rendered validation scenes, predictions on them, and what scores and covariances turn out to mean."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import weights
from ..datasets.bop import scenes as bop_scenes
from ..evaluation import calibration
from ..evaluation import calibration as evaluation_calibration
from ..evaluation.bop import Object
from ..io import shards
from ..io.bars import Bar, watched
from ..io.files import atomic_write, digest_of
from ..mesh.loading import simplified
from ..synthesis import bop_folder
from ..synthesis import samples as crop_samples
from ..synthesis import scene as synth
from ..synthesis.settings import photo_folder
from ..types import Detections, Frame, Instances, PoseEstimates
from . import calibrate, pipeline, refinement, training
from . import calibration as calibration_file
from .judging import judged_by

if TYPE_CHECKING:
    from ..evaluation.calibration import Reliability

Array = NDArray[Any]

SEED = 90_210  # of the validation scenes; `monopose synth` draws the same ones for the same seed
GROSS = 0.5  # of the diameter; poses with a larger MSSD are wrong altogether, and no ellipsoid around them means anything
REFINED = "refined "  # before the name of where boxes came from: poses that the run's refiner has refined
VISIBLE = 0.1  # objects that are less visible get no box; a detection of one may still be right


class TooFew(ValueError):
    """A run that finds too little to be calibrated."""


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
        return self.error < evaluation_calibration.LIMIT


@dataclass(frozen=True)
class CalibrationReport:
    """What was measured on the validation scenes, and on photos if there were some.

    Args:
        fits: "detector" and "boxes", and "refined detector" and "refined boxes" of a run with a refiner -> the chosen map and
            how it did on scenes held out.
        scale: "" and "refined" -> factor on the covariances.
        coverage: the same -> "before" and "after", by factors of other scenes -> level in percent -> share of the true poses
            inside the ellipsoid, among the estimates whose MSSD is below half the diameter.
        file: the calibration.json.
        photos: as `fits` -> (before, after) on photos that nothing was fitted to; empty without photos.
        photo_coverage: as `coverage`.
        picture: diagrams before and after, or "".
    """

    fits: dict[str, calibration.Fit]
    scale: dict[str, float]
    coverage: dict[str, dict[str, dict[str, float]]]
    file: str
    photos: dict[str, tuple[calibration.Reliability, calibration.Reliability]]
    photo_coverage: dict[str, dict[str, dict[str, float]]]
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
        photos = {name: {"before": b.as_dict(), "after": a.as_dict()} for name, (b, a) in self.photos.items()}
        return {
            "fits": fits, "covariance_scale": self.scale, "coverage": self.coverage, "photos": photos,
            "photo_coverage": self.photo_coverage, "file": self.file, "picture": self.picture,
        }  # fmt: skip

    def text(self) -> str:
        lines = [
            f"{'':10}  {'boxes from':19}  {'estimates':>9}  {'right':>5}  {'mean score':>14}  {'ECE':>14}  "
            f"{'equal counts':>14}  {'Brier':>14}"
        ]
        rows = [("rendered", name, f.before, f.after) for name, f in self.fits.items()]
        rows += [("photos", name, before, after) for name, (before, after) in self.photos.items()]
        for kind, name, b, a in rows:
            where = _where(name)
            pairs = [(b.score, a.score), (b.ece, a.ece), (b.ace, a.ace), (b.brier, a.brier)]
            numbers = "  ".join(f"{x:.3f} -> {y:.3f}" for x, y in pairs)
            lines.append(f"{kind:10}  {where:19}  {b.estimates:9d}  {b.right:5.3f}  {numbers}")
        for name, f in self.fits.items():
            losses = ", ".join(f"{kind} {loss:.4f}" for kind, loss in f.log_loss.items())
            lines.append(f"map for {name}: {type(f.map).__name__.lower()} (log-loss on scenes held out: {losses})")
        for kind, shares in (("rendered", self.coverage), ("photos", self.photo_coverage)):
            for state, found in shares.items():
                inside = [
                    f"{level} %: {found['before'][level]:.2f} -> {found['after'][level]:.2f}" for level in found["before"]
                ]
                pose = "refined poses" if state else "poses"
                lines.append(f"true {pose} inside the ellipsoid of {', '.join(inside)} ({kind})")
        scales = " and that of refined poses ".join(f"times {scale:.4g}" for scale in self.scale.values())
        lines += [
            f"covariance {scales}, from estimates with an MSSD below {GROSS:g} of the diameter",
            '"after" is measured on scenes that were not fitted to; nothing is fitted to photos',
            f"right: {evaluation_calibration.EVENT}",
        ]
        return "\n".join([*lines, f"written: {self.file}", *([f"diagram: {self.picture}"] if self.picture else [])])


def _where(kind: str) -> str:
    """Where the boxes came from, for people."""
    return ("detector" if kind.endswith("detector") else "elsewhere") + (", refined" if kind.startswith(REFINED) else "")


def run(
    name: str | Path,
    data: str | Path,
    *,
    images: int = 200,
    backgrounds: str | Path | None = None,
    seed: int = SEED,
    device: torch.device | str | None = None,
    targets: str | Path | None = None,
    split: str = "test",
    picture: str | Path | None = None,
    faces: int = 12_000,
    progress_bar: bool = True,
    shard: shards.Shard | None = None,
) -> CalibrationReport | None:
    """Learn on rendered scenes what a run's scores and covariances mean, and write calibration.json into its folder.

    The scenes are made as those of its training, from other random numbers; no photo with known poses is looked at.

    Args:
        name: a run folder.
        data: a BOP folder with models/ (and camera.json), or a models folder, as for training.
        images: how many scenes, each with several objects.
        backgrounds: folder of photos to put behind the objects, as for training; None: procedural ones.
        seed: of the scenes.
        device: where the networks run; None: CUDA if there is one.
        targets: targets file that names photos of `data` to report on as well; they are used for nothing else.
        split: folder of these photos.
        picture: file for the reliability diagrams before and after, or None.
        faces: meshes with more triangles are thinned to this for rendering; errors are measured on the original.
        progress_bar: show one.
        shard: only the scenes of this one, and nothing is written but what they say; `shards.MERGE` does the rest. None for
            such a shard is returned.

    Raises:
        FileNotFoundError, ValueError: no such run; no CAD model of an object that it knows; too few scenes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*so scores stay raw")  # the old file is about to be replaced
        model = pipeline.load(name, device)
    data = Path(data)
    model, source, objects, files = with_scenes(model, data, backgrounds, faces)
    frames = bop_folder.Frames(source, range(images), seed)
    digests = {kind: digest_of(path) for kind, path in files.items()}
    about = {"weights": digests, "seed": seed, "backgrounds": photo_folder(backgrounds), **asdict(source.scene)}
    about |= {"objects": {i: m.digest for i, m in source.models.items()}, "K": source.camera.K.tolist()}
    tens = [range(n, min(n + 10, images)) for n in range(0, images, 10)]
    job = shards.Job(model.path / shards.FOLDER / "calibrate", about | {"images": images}, len(tens), 1, shard)
    total = sum(len(tens[n]) for n in job.mine())
    with Bar("pictures", total, min(10 * job.skipped(), total), progress_bar) as bar:
        for n, _ in job.todo():
            job.save(n, [_tables(collect(model, (frames[i][0] for i in tens[n]), objects, seed, tens[n][0]))])
            bar.advance(len(tens[n]))
    if shard is not None and not shard.last:
        return None
    samples = _samples(job.rows())
    for kind, s in list(samples.items()):
        if len(s.score) >= calibration.FEWEST:
            continue
        if not kind.startswith(REFINED):
            raise TooFew(f"{len(s.score)} estimates are too few to calibrate on; render more scenes, or train longer")
        del samples[kind]  # the refiner holds hardly any pose for better
    fits = {kind: calibration.fit(s.score, s.right, s.scene) for kind, s in samples.items()}
    maps: dict[str, calibration.Map] = {kind: f.map for kind, f in fits.items()}
    states = {state: [s for kind, s in samples.items() if kind.startswith(REFINED) == bool(state)] for state in ("", "refined")}
    states = {state: some for state, some in states.items() if some}
    scale, coverage = {}, {}
    for state, some in states.items():
        squared, scenes = (np.concatenate(column) for column in zip(*(_usable(s) for s in some)))
        scale[state], after = calibration.fit_covariance_scale(squared, scenes)
        coverage[state] = {"before": calibration.coverage(squared), "after": after}
    notes = {
        "measured": {
            kind: {
                "estimates": f.before.estimates, "right": f.before.right, "held_out_log_loss": f.log_loss,
                "ece": [f.before.ece, f.after.ece], "ace": [f.before.ace, f.after.ace],
                "brier": [f.before.brier, f.after.brier],
            }
            for kind, f in fits.items()
        },
        "coverage": coverage,
        "scenes": {"images": images, "seed": seed, "backgrounds": len(source.photos), **asdict(source.scene)},
    }  # fmt: skip
    refined = None
    if "refiner" in digests:
        maps_of = (maps.get(REFINED + "detector"), maps.get(REFINED + "boxes"))
        of_refiner = {"refiner": digests.pop("refiner")}
        refined = calibration_file.Calibration(*maps_of, scale.get("refined", 1.0), of_refiner, {}, pipeline.LOOKS)
    found = calibration_file.Calibration(
        maps.get("detector"), maps["boxes"], scale[""], digests, notes, pipeline.LOOKS, refined
    )
    file = calibration_file.write(model.path, found)
    job.remove()

    seen: dict[str, Samples] = {}
    photo_coverage = {}
    if targets is not None:
        keys = _photos(data, targets)
        shots = watched((_photo(data / split, key) for key in keys), "photos", len(keys), progress_bar)
        seen = {kind: s for kind, s in collect(model, shots, objects, seed).items() if kind in maps}
        for state in states:
            rows = [_usable(s)[0] for kind, s in seen.items() if kind.startswith(REFINED) == bool(state)]
            squared = np.concatenate([np.zeros(0), *rows])
            photo_coverage[state] = {
                "before": calibration.coverage(squared),
                "after": calibration.coverage(squared, scale[state]),
            }
    on_photos = {
        kind: (calibration.reliability(s.score, s.right), calibration.reliability(maps[kind](s.score), s.right))
        for kind, s in seen.items()
    }
    if picture is not None:
        tables = {f"rendered, {kind}, {when}": getattr(f, when) for kind, f in fits.items() for when in ("before", "after")}
        for kind, pair in on_photos.items():
            tables |= {f"photos, {kind}, {when}": table for when, table in zip(("before", "after"), pair)}
        calibrate.save_reliability(picture, tables)
    return CalibrationReport(fits, scale, coverage, str(file), on_photos, photo_coverage, str(picture or ""))


def with_scenes(
    model: pipeline.Pipeline, data: Path, backgrounds: str | Path | None, faces: int = 12_000
) -> tuple[pipeline.Pipeline, crop_samples.Source, dict[int, Object], dict[str, Path]]:
    """A run, and what renders scenes as those that it was trained on.

    Args:
        model: the run.
        data: BOP folder with models/ (and camera.json), or a models folder.
        backgrounds: folder of photos to put behind the objects; None: procedural ones.
        faces: meshes with more triangles are thinned to this for rendering.

    Returns:
        the run with CAD models, whether its folder has them or not; what scenes are drawn from; the objects as errors need
        them; the weights files that estimate and detect, by method.

    Raises:
        ValueError: no CAD model of an object that the run knows.
    """
    ids = tuple(int(i) for i in model.names)
    everything = training.read_objects(data)
    if missing := sorted(set(ids) - set(everything)):
        raise ValueError(
            f"no CAD model for object(s) {missing} in {data}, which {model.path} knows; it holds {sorted(everything)}"
        )
    models = {i: everything[i] for i in ids}
    thin = {i: simplified(m, faces) if len(m.faces) > faces else m for i, m in models.items()}
    estimator = type(model.estimator).__module__.rpartition(".")[2]  # a method's file is named after it
    files = {k: path for k, path in weights.weights_in(model.path).items() if k in (estimator, "detector")}
    scene = _scene(files, data, ids)
    for method, used in (("silhouettes", model.silhouettes is not None), ("refiner", model.refines())):
        file = weights.weights_in(model.path).get(method) or weights.base(method)
        if used and file is not None:
            files[method] = file
    photos, camera = synth.read_backgrounds(backgrounds), training.read_data_camera(data)
    source = crop_samples.Source(thin, camera, photos, scene)
    return replace(model, models=model.models or models), source, {i: judged_by(m) for i, m in models.items()}, files


def _usable(samples: Samples) -> tuple[Array, Array]:
    """Squared Mahalanobis distances of the estimates that are not wrong altogether, and their scenes."""
    rows = (samples.error < GROSS) & ~np.isnan(samples.squared)
    return samples.squared[rows], samples.scene[rows]


def _photos(data: Path, targets: str | Path) -> list[tuple[int, int]]:
    """Scene and image numbers that a targets file names."""
    path = Path(targets)
    rows = bop_scenes.read_targets(path if path.exists() or not (data / path).exists() else data / path)
    return list(dict.fromkeys(zip(rows.scene_id.tolist(), rows.im_id.tolist())))


def _photo(split: Path, key: tuple[int, int]) -> Frame:
    return bop_scenes.read_frame(bop_scenes.open_scene(split / f"{key[0]:06d}"), key[1], masks=False, depth=False)


def _scene(files: Mapping[str, Path], data: Path, ids: tuple[int, ...]) -> synth.SceneConfig:
    """Where objects may be, as it was in training; the default for weights that do not say."""
    for path in files.values():
        if noted := weights.noted(path, "scene"):
            return weights.build_config(synth.SceneConfig, noted, f"the scene noted in {path}")
    return training.scene_config(data, ids)


def collect(
    model: pipeline.Pipeline, frames: Iterable[Frame], objects: Mapping[int, Object], seed: int, first: int = 0
) -> dict[str, Samples]:
    """Predict on pictures with known poses, in boxes of the run's detector if it has one and in jittered true boxes.

    Args:
        model: a run; its calibration is not used.
        frames: the pictures.
        objects: by which errors are measured.
        seed: of the jitter.
        first: number of the first picture.

    Returns:
        "detector" (if there is one) and "boxes" -> their estimates; of a run with a refiner "refined detector" and "refined
        boxes" -> those of them that it refined.
    """
    refiner, model = model.refiner if model.refines() else None, replace(model, calibration=None, refiner=None)
    boxes = ["boxes"] if model.detector is None else ["detector", "boxes"]
    rows: dict[str, list[tuple[float, ...]]] = {
        kind + name: [] for kind in ([""] if refiner is None else ["", REFINED]) for name in boxes
    }
    for n, frame in enumerate(frames, first):
        assert frame.instances is not None
        truth, plain = frame.instances, replace(frame, instances=None)
        given = _jittered(truth, set(objects), np.random.default_rng((seed, n, 6)))
        for name in boxes:
            poses = model.predict(plain, given if name == "boxes" else None)
            rows[name] += [(n, *row) for row in _judge(poses.to("cpu"), truth, objects)]
            if refiner is not None:
                poses = refinement.predict(refiner, plain.to(poses.labels.device), poses, model.models).to("cpu")
                rows[REFINED + name] += [(n, *row) for row in _judge(poses[poses.refined], truth, objects)]
    return {name: Samples(*np.array(some, np.float64).reshape(-1, 5).T) for name, some in rows.items()}


def _tables(samples: Mapping[str, Samples]) -> dict[str, Any]:
    """Estimates as plain values, a row each."""
    return {k: np.stack([s.scene, s.label, s.score, s.error, s.squared], 1).tolist() for k, s in samples.items()}


def _samples(tables: Iterable[Mapping[str, Any]]) -> dict[str, Samples]:
    """The estimates of several `_tables`."""
    rows: dict[str, list[Any]] = {}
    for table in tables:
        for kind, found in table.items():
            rows.setdefault(kind, []).extend(found)
    return {kind: Samples(*np.array(some, np.float64).reshape(-1, 5).T) for kind, some in rows.items()}


def _jittered(truth: Instances, known: set[int], rng: np.random.Generator) -> Detections:
    """Boxes of the visible objects as an imperfect detector would place them, square as training crops are, score 1."""
    exact = true_boxes(truth, known)
    boxes = [crop_samples.jittered_square(box, 1.0, rng) for box in exact.boxes]
    return replace(exact, boxes=torch.stack(boxes) if boxes else exact.boxes)


def true_boxes(truth: Instances, known: set[int]) -> Detections:
    """The whole boxes of the visible objects, score 1."""
    assert truth.boxes is not None
    assert truth.visibility is not None
    rows = [i for i in range(len(truth)) if int(truth.labels[i]) in known and float(truth.visibility[i]) >= VISIBLE]
    return Detections(truth.labels[rows], truth.boxes[rows], torch.ones(len(rows)))


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


def save_reliability(path: str | Path, found: Mapping[str, Reliability]) -> Path:
    """Reliability diagrams under their titles, two in a row, as PNG or by the suffix of `path`."""
    from .. import viz

    path = Path(path)
    pictures = [viz.reliability_diagram(table, title) for title, table in found.items()]
    with atomic_write(path) as temporary:
        viz.contact_sheet(pictures, columns=min(len(pictures), 2), width=500).save(temporary)
    return path
