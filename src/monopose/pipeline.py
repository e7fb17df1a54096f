"""Picture in, poses out: a detector, a pose estimator and the objects they know, put together from a run folder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import confidence, weights
from .data import bop, bop_results
from .files import write_json
from .methods import coordinates, detector, probabilistic
from .types import Detections, Frame, Instances, ObjectModel, PoseEstimates

# what can estimate poses, by its file in a run folder: Config and Model; the first that is there is taken
ESTIMATORS: dict[str, tuple[type, type[nn.Module]]] = {
    "probabilistic": (probabilistic.Config, probabilistic.Model),
    "coordinates": (coordinates.Config, coordinates.Model),
}
SCORE = 0.2  # least score of the detector; average precision profits from lower ones, time from higher ones


@dataclass(frozen=True)
class Pipeline:
    """A trained run, ready to predict.

    Args:
        estimator: finds the pose of a detected object.
        finder: finds objects, or None: then boxes must be given.
        models: object id -> CAD model, for pictures; may be empty, the networks carry what poses need.
        names: object id -> name.
        path: the run folder.
        calibration: what scores and covariances mean; None leaves them raw.
    """

    estimator: coordinates.Model | probabilistic.Model
    finder: detector.Model | None
    models: Mapping[int, ObjectModel]
    names: dict[int, str]
    path: Path
    calibration: confidence.Calibration | None = None

    def to(self, device: torch.device | str) -> Pipeline:
        """The same run on another device. Modules move in place."""
        finder = None if self.finder is None else self.finder.to(device)
        return replace(self, estimator=self.estimator.to(device), finder=finder)

    def detect(self, frame: Frame, score_threshold: float = SCORE) -> Detections:
        """Find the known objects. Raises ValueError if the run has no detector."""
        if self.finder is None:
            raise ValueError(
                f"{self.path} has no detector.safetensors, so it cannot find objects; give boxes (--boxes x0,y0,x1,y1 or a "
                f"JSON file), or train one: monopose train detector --data DIR --out {self.path}"
            )
        (found,) = detector.predict(self.finder, [frame.image], score_threshold)
        return found[(found.labels[:, None] == self.estimator.ids).any(1)]  # it may know more objects than the estimator

    def predict(
        self,
        frame: Frame,
        detections: Detections | None = None,
        debug: str | Path | None = None,
        score_threshold: float = SCORE,
        beliefs: list[probabilistic.Belief] | None = None,
    ) -> PoseEstimates:
        """Poses of the known objects in one picture.

        Args:
            frame: the picture and its camera, undistorted.
            detections: boxes from elsewhere; None: from the run's detector.
            debug: folder in which every stage is saved as a picture.
            score_threshold: least score of what the run's detector finds.
            beliefs: if a list, the distribution of every object's pose is appended to it.

        Returns:
            PoseEstimates, metres, OpenCV camera, best score first; empty if nothing is found. `seconds` tells the time of
            each stage. With a calibration, scores are probabilities that the pose is right, see `confidence`.

        Raises:
            ValueError: no detector and no boxes; boxes of unknown objects; beliefs of a run that has none.
        """
        network = self.estimator
        if beliefs is not None and not isinstance(network, probabilistic.Model):
            raise ValueError(
                f"{self.path} estimates poses by coordinates, which have no distribution; train one that has: "
                f"monopose train probabilistic --data DIR --out {self.path}"
            )
        device = self.estimator.ids.device
        frame = frame.to(device)
        started = time.perf_counter()
        found = (self.detect(frame, score_threshold) if detections is None else detections).to(device)
        seconds = {} if detections is not None else {"detector": time.perf_counter() - started}
        stages: list[tuple[coordinates.Correspondences, coordinates.Solved]] = []
        believed: list[probabilistic.Belief] = []
        if isinstance(network, probabilistic.Model):
            asked = debug is not None or beliefs is not None
            poses = probabilistic.predict(network, frame, found, debug=believed if asked else None)
        else:
            kept = None if debug is None else stages
            poses = coordinates.predict(network, frame, found, debug=kept, models=self.models)
        poses = replace(poses[poses.scores.argsort(descending=True)], names=self.names, seconds=seconds | poses.seconds)
        if self.calibration is not None:
            poses = self.calibration.applied(poses, detected=detections is None)
        if beliefs is not None:
            beliefs.extend(believed)
        if debug is not None:
            _save_stages(Path(debug), frame, found, stages, believed, poses, self)
        return poses


def load(name: str | Path, device: torch.device | str | None = None) -> Pipeline:
    """Open a trained run.

    Args:
        name: a run folder, or the name of bundled weights. Where the folder holds both networks that estimate poses,
            probabilistic.safetensors is taken, which is made from the other one; a weights file in it is taken by its name.
        device: where to run; None: CUDA if there is one, else the CPU.

    Raises:
        FileNotFoundError, ValueError: no such run, neither coordinates.safetensors nor probabilistic.safetensors in it, a
            truncated or foreign file; no such device.
    """
    where = _device(device)
    folder = weights.find_run(name)
    files = weights.weights_in(folder)
    named = Path(name).stem if Path(name).is_file() else None
    kind = next((k for k in ([named] if named in ESTIMATORS else ESTIMATORS) if k in files), None)
    if kind is None:
        raise ValueError(
            f"{folder} has no coordinates.safetensors or probabilistic.safetensors, which estimates the poses; it holds "
            f"{', '.join(files)}. Train it: monopose train coordinates --data DIR --out {folder}"
        )
    estimator: Any = _network(files[kind], *ESTIMATORS[kind])
    finder = _network(files["detector"], detector.Config, detector.Model) if "detector" in files else None
    objects = folder / "objects"
    models = bop.read_models(objects) if objects.is_dir() else {}
    names = {i: f"object {i}" for i in estimator.config.obj_ids} | {i: m.name for i, m in models.items()}
    if (folder / "names.json").is_file():
        names |= {int(i): str(name) for i, name in bop.read_json(folder / "names.json").items()}
    names = {i: names[i] for i in estimator.config.obj_ids}
    used = {k: files[k] for k in (kind, "detector") if k in files}
    return Pipeline(estimator, finder, models, names, folder, confidence.read(folder, used)).to(where)


def _device(name: torch.device | str | None) -> torch.device:
    """The device of this name, if it is there and works; None: CUDA if there is one, else the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise ValueError(
            f"device {str(name)!r} cannot be used ({str(error).splitlines()[0]}); this machine has {have}"
        ) from error
    return device


def _network(path: Path, config_class: type, model_class: type[nn.Module]) -> Any:
    checkpoint = weights.read(path)
    config: Any = replace(weights.build_config(config_class, checkpoint.config, str(path)), pretrained=False)
    if getattr(config, "adversarial_weight", 0):
        config = replace(config, adversarial_weight=0.0)  # the discriminator served training only
    model = model_class(config)
    weights.load_into(model, checkpoint)
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def truth_as_detections(instances: Instances, wanted: Iterable[int]) -> Detections:
    """True amodal boxes of the wanted objects, score 1: the oracle detector of result tables."""
    if instances.boxes is None:
        raise ValueError("true boxes need scene_gt_info.json beside scene_gt.json")
    ids = torch.tensor(sorted(wanted))
    rows = (instances.labels[:, None] == ids).any(1)
    return Detections(instances.labels[rows], instances.boxes[rows], torch.ones(int(rows.sum())))


def predict_bop(
    model: Pipeline,
    data: str | Path,
    targets: str | Path | None,
    out: str | Path,
    *,
    boxes: str | Path | None = None,
    true_boxes: bool = False,
    score_threshold: float = SCORE,
    limit: int | None = None,
    debug: str | Path | None = None,
) -> Path:
    """Run on every target image of a BOP data set and write the BOP result file; goes on where a killed run stopped.

    Args:
        model: a trained run.
        data: the data set folder.
        targets: targets file; None: test_targets_bop19.json of the data set.
        out: result file, METHOD_DATASET-SPLIT.csv; its name says which split is read.
        boxes: detections JSON (BOP form) in place of the detector.
        true_boxes: the ground truth's amodal boxes in place of the detector; an oracle, to be named where reported.
        score_threshold: least score of what the run's detector finds.
        limit: only the first so many images.
        debug: folder for pictures of every stage.

    Returns:
        `out`.
    """
    from rich.progress import track

    data, out = Path(data), Path(out)
    name = bop_results.parse_results_name(out)
    split = data / "_".join(filter(None, (name.split, name.split_type)))
    rows = bop.read_targets(Path(targets) if targets is not None else data / "test_targets_bop19.json")
    wanted: dict[tuple[int, int], set[int]] = {}
    known = set(model.estimator.config.obj_ids)
    for i, key in enumerate(zip(rows.scene_id.tolist(), rows.im_id.tolist(), strict=True)):
        ids = known if rows.obj_id is None else {int(rows.obj_id[i])} & known
        wanted.setdefault(key, set()).update(ids)
    given = None if boxes is None else bop_results.read_detections(boxes)
    partial = out.parent / ".partial" / out.name
    sources = {"boxes": str(boxes), "true_boxes": true_boxes, "targets": str(targets), "weights": _stamps(model.path)}
    sources["score"] = score_threshold
    done = _read_partial(partial, sources)
    keys = list(wanted)[:limit]
    scenes = {s: bop.open_scene(split / f"{s:06d}") for s in {k[0] for k in keys}}
    if not model.models and (data / "models").is_dir():
        model = replace(model, models=bop.read_models(data / "models", tuple(sorted(known))))
    for n, key in enumerate(track(keys, description="images", transient=True)):
        if key in done:
            continue
        frame = bop.read_frame(scenes[key[0]], key[1], masks=False, depth=False)
        detections = None
        if true_boxes:
            if frame.instances is None:
                raise ValueError(f"{scenes[key[0]].folder} has no scene_gt.json, so there are no true boxes")
            detections = truth_as_detections(frame.instances, wanted[key])
        elif given is not None:
            detections = bop_results.detections_of([d for d in given.get(key, []) if int(d["category_id"]) in known])
        where = None if debug is None else Path(debug) / f"{key[0]:06d}_{key[1]:06d}"
        poses = model.predict(frame, detections, debug=where, score_threshold=score_threshold)
        asked = torch.tensor(sorted(wanted[key]), device=poses.labels.device)
        poses = poses[(poses.labels[:, None] == asked).any(1)]
        done[key] = bop_results.results_of(poses, *key)
        if n % 20 == 19:
            bop_results.write_results(partial, list(done.values()))
    bop_results.write_results(out, [done[k] for k in keys])
    partial.unlink(missing_ok=True)
    _sources_of(partial).unlink(missing_ok=True)
    if partial.parent.is_dir() and not any(partial.parent.iterdir()):
        partial.parent.rmdir()
    return out


def _stamps(run: Path) -> dict[str, int]:
    """When each weights file of a run, and its calibration, was written, nanoseconds."""
    files = weights.weights_in(run) | {p.stem: p for p in [run / confidence.FILE] if p.is_file()}
    return {name: path.stat().st_mtime_ns for name, path in files.items()}


def _sources_of(partial: Path) -> Path:
    return partial.with_suffix(".json")


def _read_partial(path: Path, sources: dict[str, Any]) -> dict[tuple[int, int], bop_results.Results]:
    """Results of an interrupted run by image, if they came from the same `sources`; notes these for the next time."""
    same = _sources_of(path).is_file() and bop.read_json(_sources_of(path)) == sources
    if not same:
        path.unlink(missing_ok=True)  # of other weights or boxes
        write_json(_sources_of(path), sources)
    if not path.is_file():
        return {}
    rows = bop_results.read_results(path)
    done = {}
    for key in dict.fromkeys(zip(rows.scene_id.tolist(), rows.im_id.tolist(), strict=True)):
        mine = (rows.scene_id == key[0]) & (rows.im_id == key[1])
        done[key] = bop_results.Results(*(column[mine] for column in rows))
    return done


def _save_stages(
    folder: Path,
    frame: Frame,
    detections: Detections,
    stages: list[tuple[coordinates.Correspondences, coordinates.Solved]],
    beliefs: list[probabilistic.Belief],
    poses: PoseEstimates,
    run: Pipeline,
) -> None:
    """Every stage as a picture: detections; per object crop, coordinates, mask, expected error and inliers, or crop,
    coordinates and weights; overlay."""
    from . import viz
    from .files import atomic_write

    folder.mkdir(parents=True, exist_ok=True)
    models = run.models

    def save(name: str, picture) -> None:  # type: ignore[no-untyped-def]
        with atomic_write(folder / name) as temporary:
            picture.save(temporary, format="PNG")

    save("1_detections.png", viz.draw_detections(frame.image, detections, run.names))
    for found, solved in stages:
        bounds = models[found.label].bounds if found.label in models else None
        mask = found.mask > 0.5
        pictures: list[Any] = [
            found.crop, viz.coordinate_image(found.coordinates, mask, bounds), viz.value_image(found.mask, 0, 1),
            viz.value_image(found.error, 0, 0.5), viz.coordinate_image(found.coordinates, solved.inliers, bounds),
        ]  # fmt: skip
        captions = ["crop", "coordinates", "visible mask", "expected error (0-0.5)", f"inliers, score {solved.score:.2f}"]
        save(f"2_object_{found.label}_{found.detection}.png", viz.side_by_side(pictures, captions))
    for belief in beliefs:
        bounds = models[belief.label].bounds if belief.label in models else None
        size = belief.weights.norm(dim=-1)
        counts = size > 0.1 * size.amax()
        pictures = [
            belief.crop, viz.coordinate_image(belief.coordinates, torch.ones_like(counts), bounds),
            viz.coordinate_image(belief.coordinates, counts, bounds),
            viz.value_image(belief.weights[..., 0], 0), viz.value_image(belief.weights[..., 1], 0),
        ]  # fmt: skip
        captions = ["crop", "coordinates", "those that count", "weights of u", "weights of v"]
        save(f"2_object_{belief.label}_{belief.detection}.png", viz.side_by_side(pictures, captions))
    save("3_poses.png", viz.draw(frame, poses, models))
