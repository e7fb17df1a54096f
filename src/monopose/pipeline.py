"""Picture in, poses out: a detector, a pose estimator and the objects they know, put together from a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import confidence, refinement, weights
from .data import bop, bop_results
from .files import write_json
from .geometry import noise, rotation, se3
from .methods import coordinates, detector, probabilistic, refiner
from .types import Detections, Frame, Instances, ObjectModel, PoseEstimates

# what can estimate poses, by its file in a run folder: Config and Model; the first that is there is taken
ESTIMATORS: dict[str, tuple[type, type[nn.Module]]] = {
    "probabilistic": (probabilistic.Config, probabilistic.Model),
    "coordinates": (coordinates.Config, coordinates.Model),
}
SCORE = 0.2  # least score of the detector; average precision profits from lower ones, time from higher ones
LOOKS = 6  # of the detector at a picture, see `detector.predict`
FURTHER_DEG, FURTHER_SHIFT = 20.0, 0.05  # standard deviations of further starts: degrees per axis, diameters
SAVED_EVERY = 20  # images, after which a run over a data set can go on
Key = tuple[int, int]  # scene_id, im_id


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
        refiner: makes poses better by rendering the CAD models and comparing, or None.
    """

    estimator: coordinates.Model | probabilistic.Model
    finder: detector.Model | None
    models: Mapping[int, ObjectModel]
    names: dict[int, str]
    path: Path
    calibration: confidence.Calibration | None = None
    refiner: refiner.Model | None = None

    def to(self, device: torch.device | str) -> Pipeline:
        """The same run on another device. Modules move in place."""
        finder = None if self.finder is None else self.finder.to(device)
        better = None if self.refiner is None else self.refiner.to(device)
        return replace(self, estimator=self.estimator.to(device), finder=finder, refiner=better)

    def refines(self, asked: bool | None = None) -> bool:
        """Whether poses will be refined: as asked, and if nothing is asked, if the run has a refiner.

        Raises:
            ValueError: they should be, but there is no refiner, or no CAD model to render.
        """
        if not (self.refiner is not None if asked is None else asked):
            return False
        if self.refiner is None:
            raise ValueError(
                f"{self.path} has no refiner.safetensors, so it cannot refine poses; train one, or copy "
                f"one of the same objects there: monopose train refiner --data DIR --out {self.path}"
            )
        if not self.models:
            raise ValueError(
                f"{self.path} has no folder objects/ with the CAD models, which its refiner has to render; copy the models "
                "folder of the data set there under that name, or predict without refining (--no-refine)"
            )
        return True

    def detect(self, frame: Frame, score_threshold: float = SCORE, looks: int = LOOKS) -> Detections:
        """Find the known objects. Raises ValueError if the run has no detector."""
        if self.finder is None:
            raise ValueError(
                f"{self.path} has no detector.safetensors, so it cannot find objects; give boxes (--boxes x0,y0,x1,y1 or a "
                f"JSON file), or train one: monopose train detector --data DIR --out {self.path}"
            )
        (found,) = detector.predict(self.finder, [frame.image], score_threshold, looks=looks)
        return found[(found.labels[:, None] == self.estimator.ids).any(1)]  # it may know more objects than the estimator

    def predict(
        self,
        frame: Frame,
        detections: Detections | None = None,
        debug: str | Path | None = None,
        score_threshold: float = SCORE,
        looks: int = LOOKS,
        beliefs: list[probabilistic.Belief] | None = None,
        refine: bool | None = None,
    ) -> PoseEstimates:
        """Poses of the known objects in one picture.

        Args:
            frame: the picture and its camera, undistorted.
            detections: boxes from elsewhere; None: from the run's detector.
            debug: folder in which every stage is saved as a picture.
            score_threshold: least score of what the run's detector finds.
            looks: how often the run's detector looks at the picture, see `detector.predict`.
            beliefs: if a list, the distribution of every object's pose is appended to it.
            refine: whether the run's refiner gets the poses in the end; None: if the run has one.

        Returns:
            PoseEstimates, metres, OpenCV camera, best score first; empty if nothing is found. `seconds` tells the time of
            each stage. With a calibration, scores are probabilities that the pose is right, see `confidence`; before refining,
            which leaves them as they are. A refined pose has no covariance.

        Raises:
            ValueError: no detector and no boxes; boxes of unknown objects; beliefs of a run that has none; refining without a
                refiner, or without the CAD model of an object that is found.
        """
        network, refining = self.estimator, self.refines(refine)
        if beliefs is not None and not isinstance(network, probabilistic.Model):
            raise ValueError(
                f"{self.path} estimates poses by coordinates, which have no distribution; train one that has: "
                f"monopose train probabilistic --data DIR --out {self.path}"
            )
        device = self.estimator.ids.device
        frame = frame.to(device)
        started = time.perf_counter()
        found = (self.detect(frame, score_threshold, looks) if detections is None else detections).to(device)
        seconds = {} if detections is not None else {"detector": time.perf_counter() - started}
        stages: list[tuple[coordinates.Correspondences, coordinates.Solved]] = []
        believed: list[probabilistic.Belief] = []
        if isinstance(network, probabilistic.Model):
            asked = debug is not None or beliefs is not None
            poses = probabilistic.predict(network, frame, found, debug=believed if asked else None)
        else:
            taken = None if debug is None else stages
            poses = coordinates.predict(network, frame, found, debug=taken, models=self.models)
        poses = replace(poses[poses.scores.argsort(descending=True)], names=self.names, seconds=seconds | poses.seconds)
        if self.calibration is not None:
            poses = self.calibration.applied(poses, detected=detections is None)
        if beliefs is not None:
            beliefs.extend(believed)
        courses: list[refinement.Course] = []
        if refining:
            assert self.refiner is not None
            kept = None if debug is None else courses
            poses = refinement.predict(self.refiner, frame, poses, self.models, rounds=kept)
        if debug is not None:
            _save_stages(Path(debug), frame, found, stages, believed, courses, poses, self)
        return poses


def load(name: str | Path, device: torch.device | str | None = None) -> Pipeline:
    """Open a trained run.

    Args:
        name: a run folder, or the name of bundled weights. Where the folder holds both networks that estimate poses,
            probabilistic.safetensors is taken, which is made from the other one; a weights file in it is taken by its name.
            A detector and a refiner in the folder come along.
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
    estimator: Any = weights.load_network(files[kind], *ESTIMATORS[kind])
    finder = weights.load_network(files["detector"], detector.Config, detector.Model) if "detector" in files else None
    objects = folder / "objects"
    models = bop.read_models(objects) if objects.is_dir() else {}
    names = {i: f"object {i}" for i in estimator.config.obj_ids} | {i: m.name for i, m in models.items()}
    if (folder / "names.json").is_file():
        names |= {int(i): str(name) for i, name in bop.read_json(folder / "names.json").items()}
    names = {i: names[i] for i in estimator.config.obj_ids}
    used = {k: files[k] for k in (kind, "detector") if k in files}
    better = weights.load_network(files["refiner"], refiner.Config, refiner.Model) if "refiner" in files else None
    return Pipeline(estimator, finder, models, names, folder, confidence.read(folder, used), better).to(where)


def load_refiner(name: str | Path, device: torch.device | str | None = None) -> refiner.Model:
    """The refiner of a run folder, which need not hold anything else.

    Raises:
        FileNotFoundError, ValueError: no such run, no refiner.safetensors in it, a truncated or foreign file; no such device.
    """
    where = _device(device)
    folder = weights.find_run(name)
    files = weights.weights_in(folder)
    if "refiner" not in files:
        raise ValueError(
            f"{folder} has no refiner.safetensors; it holds {', '.join(files)}. Train one: monopose train refiner --data DIR "
            f"--out {folder}"
        )
    network: refiner.Model = weights.load_network(files["refiner"], refiner.Config, refiner.Model)
    return network.to(where)


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
    looks: int = LOOKS,
    limit: int | None = None,
    debug: str | Path | None = None,
    refine: bool | None = None,
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
        looks: how often the run's detector looks at a picture, see `detector.predict`.
        limit: only the first so many images.
        debug: folder for pictures of every stage.
        refine: whether the run's refiner gets the poses in the end; None: if the run has one.

    Returns:
        `out`.
    """
    data, out = Path(data), Path(out)
    split = _split(data, out)
    rows = bop.read_targets(Path(targets) if targets is not None else data / "test_targets_bop19.json")
    wanted: dict[Key, set[int]] = {}
    known = set(model.estimator.config.obj_ids)
    for i, key in enumerate(zip(rows.scene_id.tolist(), rows.im_id.tolist(), strict=True)):
        ids = known if rows.obj_id is None else {int(rows.obj_id[i])} & known
        wanted.setdefault(key, set()).update(ids)
    given = None if boxes is None else bop_results.read_detections(boxes)
    keys = list(wanted)[:limit]
    scenes = {s: bop.open_scene(split / f"{s:06d}") for s in {k[0] for k in keys}}
    if not model.models and (data / "models").is_dir():
        model = replace(model, models=bop.read_models(data / "models", tuple(sorted(known))))
    refining = model.refines(refine)

    def predicted(key: Key) -> bop_results.Results:
        frame = bop.read_frame(scenes[key[0]], key[1], masks=False, depth=False)
        detections = None
        if true_boxes:
            if frame.instances is None:
                raise ValueError(f"{scenes[key[0]].folder} has no scene_gt.json, so there are no true boxes")
            detections = truth_as_detections(frame.instances, wanted[key])
        elif given is not None:
            detections = bop_results.detections_of([d for d in given.get(key, []) if int(d["category_id"]) in known])
        where = _picture_folder(debug, key)
        poses = model.predict(frame, detections, where, score_threshold, looks, refine=refining)
        asked = torch.tensor(sorted(wanted[key]), device=poses.labels.device)
        poses = poses[(poses.labels[:, None] == asked).any(1)]
        return bop_results.results_of(poses, *key)

    sources = {"boxes": str(boxes), "true_boxes": true_boxes, "targets": str(targets), "weights": _stamps(model.path)}
    sources |= {"score": score_threshold, "looks": looks, "refine": refining}
    done = _every_image(keys, out, sources, predicted)
    return _write_whole(out, [done[k] for k in keys])


@dataclass(frozen=True)
class Refinement:
    """What `refine_bop` did: the result file, its rows, how many of them have a new pose, and why the others have not."""

    results: Path
    rows: int
    refined: int
    unchanged: dict[str, int] = field(default_factory=dict)  # reason -> rows


def refine_bop(
    run: str | Path,
    results: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    targets: str | Path | None = None,
    hypotheses: int = 0,
    outer: int | None = None,
    inner: int | None = None,
    debug: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Refinement:
    """Refine the poses of a BOP result file and write them as another one; goes on where a killed run stopped.

    Every row stays in its place with its score. The time of an image grows by that of refining; an unknown one, -1, stays. Rows
    that cannot be refined, or whose refined pose the network does not hold for better, keep their pose to the last digit.

    Args:
        run: folder with refiner.safetensors.
        results: result file with the initial poses, METHOD_DATASET-SPLIT.csv; its name says which split is read.
        data: the data set folder, with models/.
        out: result file to write, of the same DATASET-SPLIT.
        targets: only images of this targets file are refined; None: all of `results`.
        hypotheses: so many further starts for every pose, drawn around it; the best of all results is taken.
        outer, inner: renderings, and steps per rendering; None: as configured.
        debug: folder for pictures of the iterations.
        device: where to run; None: CUDA if there is one.

    Raises:
        FileNotFoundError, ValueError: no refiner; results that cannot be read, of another split or of unknown images; no CAD
            model of any of their objects; a picture or camera that is missing.
    """
    network = load_refiner(run, device)
    results, data, out = Path(results), Path(data), Path(out)
    if hypotheses < 0:
        raise ValueError(f"hypotheses must be 0 or more, got {hypotheses}")
    if bop_results.parse_results_name(results)[1:4] != bop_results.parse_results_name(out)[1:4]:
        raise ValueError(f"{out.name} must name the data set and split of {results.name}: both stand between '_' and '.csv'")
    try:
        rows = bop_results.read_results(results)
    except ValueError as error:
        raise ValueError(f"{error}. Correct that row or take it out: an object without a pose has no row") from error
    split = _split(data, results)
    images = list(zip(rows.scene_id.tolist(), rows.im_id.tolist(), strict=True))
    keys = list(dict.fromkeys(images))
    if targets is not None:
        asked = bop.read_targets(Path(targets))
        chosen = set(zip(asked.scene_id.tolist(), asked.im_id.tolist(), strict=True))
        if keys and not chosen & set(keys):
            raise ValueError(f"no image of {results} is in {targets}; are they of different splits?")
        keys = [k for k in keys if k in chosen]
    scenes = _scenes_of(keys, split, results)
    models = _models_of(set(rows.obj_id.tolist()), data / "models", results) if keys else {}
    for shape in models.values():
        network.meet(shape)  # not part of the time of the first image
    places = {k: np.array([n for n, image in enumerate(images) if image == k]) for k in keys}
    sizes: dict[Key, tuple[int, int]] = {}

    def refined(key: Key) -> bop_results.Results:
        part = bop_results.Results(*(column[places[key]] for column in rows))
        frame = bop.read_frame(scenes[key[0]], key[1], masks=False, depth=False)
        sizes[key] = frame.camera.size
        known = np.isin(part.obj_id, list(models))
        poses = _estimates(part)[torch.from_numpy(known)]
        starts = _further(poses, models, hypotheses, key) if hypotheses else None
        courses: list[refinement.Course] = []
        kept = None if debug is None else courses
        better = refinement.predict(network, frame, poses, models, hypotheses=starts, outer=outer, inner=inner, rounds=kept)
        moved = (better.cam_from_obj != poses.cam_from_obj).flatten(1).any(1).numpy()
        at, new = known.nonzero()[0][moved], better.cam_from_obj.double().numpy()[moved]
        R, t, time_s = part.R.copy(), part.t.copy(), part.time.max()
        R[at], t[at] = new[:, :3, :3], new[:, :3, 3]
        if debug is not None:
            from .outputs import save_refinement

            save_refinement(_picture_folder(debug, key), frame, courses)  # type: ignore[arg-type]
        spent = time_s + better.seconds["refiner"] if time_s >= 0 else -1.0
        return part._replace(R=R, t=t, time=np.full(len(part.time), spent))

    sources = {"results": str(results), "written": results.stat().st_mtime_ns, "targets": str(targets)}
    sources |= {"weights": _stamps(weights.find_run(run)).get("refiner"), "steps": [hypotheses, outer, inner]}
    done = _every_image(keys, out, sources, refined)
    whole = bop_results.Results(*(column.copy() for column in rows))
    for key in keys:
        for column, new in zip(whole, done[key], strict=True):
            column[places[key]] = new
    moved = (whole.R != rows.R).any((1, 2)) | (whole.t != rows.t).any(1)
    unchanged: dict[str, int] = {}
    for row in (~moved).nonzero()[0].tolist():
        reason = _why_unchanged(rows, row, images[row] in places, scenes, sizes, models)
        unchanged[reason] = unchanged.get(reason, 0) + 1
    return Refinement(_write_whole(out, [whole]), len(moved), int(moved.sum()), unchanged)


def _split(data: Path, results: Path) -> Path:
    """The folder of the split that a result file is named after."""
    name = bop_results.parse_results_name(results)
    return data / "_".join(filter(None, (name.split, name.split_type)))


def _picture_folder(debug: str | Path | None, key: Key) -> Path | None:
    return None if debug is None else Path(debug) / f"{key[0]:06d}_{key[1]:06d}"


def _scenes_of(keys: Sequence[Key], split: Path, results: Path) -> dict[int, bop.Scene]:
    """The scenes of images by their id, all of which have a camera."""
    scenes = {}
    for scene_id in dict.fromkeys(k[0] for k in keys):
        folder = split / f"{scene_id:06d}"
        if split.is_dir() and not folder.is_dir():
            raise ValueError(f"{results} has poses in scene {scene_id}, but there is no {folder}; are they of another split?")
        scenes[scene_id] = bop.open_scene(folder)
        cameras = set(scenes[scene_id].im_ids.tolist())
        if alien := [im_id for s, im_id in keys if s == scene_id and im_id not in cameras]:
            raise ValueError(
                f"{results} has poses in image {alien[0]} of scene {scene_id}, but {folder}/scene_camera.json has no camera "
                "for it; are they of another split, or is the file cut off?"
            )
    return scenes


def _models_of(wanted: set[int], folder: Path, results: Path) -> dict[int, ObjectModel]:
    """The CAD models of those objects that the folder has."""
    have = set(bop.read_models_info(folder))
    if not wanted & have:
        raise ValueError(f"{folder} has none of the objects {sorted(wanted)} of {results}; it has {sorted(have)}")
    return bop.read_models(folder, sorted(wanted & have))


def _estimates(rows: bop_results.Results) -> PoseEstimates:
    """Rows of a result file with proper rotations."""
    R, t = (torch.from_numpy(np.ascontiguousarray(v)) for v in (rows.R, rows.t))
    pose = se3.from_rt(rotation.nearest_rotation(R), t).float()
    return PoseEstimates(torch.from_numpy(rows.obj_id.copy()), pose, torch.from_numpy(rows.score.copy()))


def _further(poses: PoseEstimates, models: Mapping[int, ObjectModel], count: int, key: Key) -> Tensor:
    """Further starts around poses, (N, count, 4, 4); the same for the same image."""
    generator = torch.Generator().manual_seed(1_000_003 * key[0] + key[1])
    shift = torch.tensor([FURTHER_SHIFT * models[i].diameter for i in poses.labels.tolist()])[:, None].expand(-1, count)
    starts = poses.cam_from_obj[:, None].expand(-1, count, 4, 4)
    return noise.perturbed(starts, float(np.deg2rad(FURTHER_DEG)), shift, generator=generator)


def _why_unchanged(
    rows: bop_results.Results,
    row: int,
    target: bool,
    scenes: Mapping[int, bop.Scene],
    sizes: dict[Key, tuple[int, int]],
    models: Mapping[int, ObjectModel],
) -> str:
    if not target:
        return "not among the targets"
    key, label = (int(rows.scene_id[row]), int(rows.im_id[row])), int(rows.obj_id[row])
    if label not in models:
        return f"no CAD model of object {label}"
    if key not in sizes:  # refined before this run went on
        sizes[key] = bop.read_frame(scenes[key[0]], key[1], masks=False, depth=False).camera.size
    pose = _estimates(bop_results.Results(*(column[row : row + 1] for column in rows))).cam_from_obj
    K = bop.scene_camera(scenes[key[0]], key[1], sizes[key]).K[None]
    code = int(refinement.trouble(models[label].corners[None], pose, K, sizes[key]))
    return refinement.TROUBLES[code] or "not held for better than it was"


def _every_image(
    keys: Sequence[Key], out: Path, sources: dict[str, Any], one: Callable[[Key], bop_results.Results]
) -> dict[Key, bop_results.Results]:
    """Results of every image, those of a killed run from the same `sources` taken over; saved every few images beside `out`."""
    from rich.progress import track

    partial = _partial(out)
    done = _read_partial(partial, sources)
    for n, key in enumerate(track(keys, description="images", transient=True)):
        if key in done:
            continue
        done[key] = one(key)
        if n % SAVED_EVERY == SAVED_EVERY - 1:
            bop_results.write_results(partial, list(done.values()))
    return done


def _write_whole(out: Path, results: Sequence[bop_results.Results]) -> Path:
    """Write a result file and take away what `_every_image` kept."""
    bop_results.write_results(out, results)
    partial = _partial(out)
    partial.unlink(missing_ok=True)
    _sources_of(partial).unlink(missing_ok=True)
    if partial.parent.is_dir() and not any(partial.parent.iterdir()):
        partial.parent.rmdir()
    return out


def _partial(out: Path) -> Path:
    return out.parent / ".partial" / out.name


def _stamps(run: Path) -> dict[str, int]:
    """When each weights file of a run, and its calibration, was written, nanoseconds."""
    files = weights.weights_in(run) | {p.stem: p for p in [run / confidence.FILE] if p.is_file()}
    return {name: path.stat().st_mtime_ns for name, path in files.items()}


def _sources_of(partial: Path) -> Path:
    return partial.with_suffix(".json")


def _read_partial(path: Path, sources: dict[str, Any]) -> dict[Key, bop_results.Results]:
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
    courses: list[refinement.Course],
    poses: PoseEstimates,
    run: Pipeline,
) -> None:
    """Every stage as a picture: detections; per object crop, coordinates, mask, expected error and inliers, or crop,
    coordinates and weights; per object the course of its refinement; overlay."""
    from . import viz
    from .files import atomic_write
    from .outputs import save_refinement

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
    save_refinement(folder, frame, courses)
    save("3_poses.png", viz.draw(frame, poses, models))
