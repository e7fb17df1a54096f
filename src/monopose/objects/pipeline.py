"""Picture in, poses out: a detector, a pose estimator and the objects they know, put together from a run folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import pnp, weights
from ..datasets.bop import models as bop_models
from ..detection import LEAST_SCORE
from ..detection import detector as detection
from ..exported import exported_nets, is_exported
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import plausible, se3
from ..io.files import digest_of
from ..io.images import as_frame
from ..mesh.loading import load_mesh
from ..mesh.readers import FORMATS
from ..pnp.problems import Z_MIN
from ..prediction import Prediction
from ..types import Detections, Dropped, Frame, ObjectModel, PoseEstimates
from ..weights import choose_device
from . import calibration as calibration_file
from . import coordinates, probabilistic, refinement, refiner, search, silhouettes
from .viz import save_stages

# what can estimate poses, by its file in a run folder: Config and Model; the first that is there is taken
ESTIMATORS: dict[str, tuple[type, type[nn.Module]]] = {
    "probabilistic": (probabilistic.Config, probabilistic.Model),
    "coordinates": (coordinates.Config, coordinates.Model),
}
MIN_PROBABILITY = 0.1  # of poses that are shown and returned, unless another is asked for
SAME = 0.6  # overlap (IoU) of poses of one object from which they are about the same thing
LOOKS = 6  # of the detector at a picture unless another number is asked for, see `detection.predict`


class Trace(NamedTuple):
    """How the poses of one picture came about.

    Args:
        detections: what was looked at.
        correspondences: of each detection with their solution, of a run that estimates by coordinates; else [].
        posteriors: the distribution of each detection's pose, of a probabilistic run; else [].
        refinements: of each object that was refined.
        solved: object ids of all poses that were found, also of those that are not among the results, (n,).
        outlines: of each object whose contour was moved to an outline that `objects.silhouettes` sees.
    """

    detections: Detections
    correspondences: list[tuple[coordinates.Correspondences, coordinates.Solved]]
    posteriors: list[probabilistic.ObjectPosterior]
    refinements: list[refinement.RefinementTrace]
    solved: Tensor = torch.zeros(0, dtype=torch.int64)
    outlines: Sequence[silhouettes.OutlineTrace] = ()


@dataclass(frozen=True, repr=False)
class Pipeline:
    """A trained run, ready to predict.

    Args:
        estimator: finds the pose of a detected object; `search.Model` for objects that no network was trained on.
        detector: finds objects, or None: then boxes must be given.
        models: object id -> CAD model, for pictures; may be empty, the networks carry what poses need.
        names: object id -> name.
        path: the run folder.
        calibration: what scores and covariances mean; None leaves them raw.
        refiner: makes poses better by rendering the CAD models and comparing, or None. One that is trained on many objects
            refines those of any run.
        own_refiner: whether it belongs to the run, and so refines unless told not to; that of the base has to be asked for.
        silhouettes: sees where the outline of an object truly is, or None. One network serves the objects of any run that has
            CAD models.
    """

    estimator: coordinates.Model | probabilistic.Model | search.Model
    detector: detection.Model | None
    models: Mapping[int, ObjectModel]
    names: dict[int, str]
    path: Path
    calibration: calibration_file.Calibration | None = None
    refiner: refiner.Model | None = None
    own_refiner: bool = True
    silhouettes: silhouettes.Model | None = None

    def __repr__(self) -> str:
        parts = [k for k in ("detector", "calibration", "silhouettes", "refiner") if getattr(self, k) is not None]
        without = "" if self.models else ", no CAD models"
        known = ", ".join(self.names.values())
        method = type(self.estimator).__module__.rpartition(".")[2]
        return f"Pipeline({self.path}: {known}; {', '.join([method, *parts])}{without})"

    def to(self, device: torch.device | str) -> Pipeline:
        """The same run on another device. Modules move in place."""
        detector = None if self.detector is None else self.detector.to(device)
        better = None if self.refiner is None else self.refiner.to(device)
        outlines = None if self.silhouettes is None else self.silhouettes.to(device)
        moved = self.estimator.to(device)
        return replace(self, estimator=moved, detector=detector, refiner=better, silhouettes=outlines)

    def warm_up(self) -> None:
        """Compile what PnP of this run needs, or load it from disk, so that no picture has to wait for it."""
        if isinstance(self.estimator, probabilistic.Model):
            pnp.warm_up(device=self.estimator.ids.device, layers=("posterior",))
        elif isinstance(self.estimator, search.Model):
            pnp.warm_up()
        else:
            pnp.warm_up(layers=("ransac",))

    def refines(self, requested: bool | None = None) -> bool:
        """Whether poses will be refined: as requested, and if nothing is requested, if the run has a refiner of its own.

        Raises:
            ValueError: they should be, but there is no refiner, or no CAD model to render.
        """
        if not (self.refiner is not None and self.own_refiner if requested is None else requested):
            return False
        if self.refiner is None:
            raise ValueError(
                f"{self.path} has no refiner.safetensors, so it cannot refine poses; train one, or copy "
                f"one of the same objects there: monopose train refiner --data DIR --out {_run_of(self.path)}"
            )
        if not self.models:
            raise ValueError(
                f"{self.path} has no folder objects/ with the CAD models, which its refiner has to render; copy the models "
                "folder of the data set there under that name, name it (--models DIR), or do not refine (--no-refine)"
            )
        return True

    def detect(self, frame: Frame, score_threshold: float = LEAST_SCORE, looks: int = LOOKS, masks: bool = True) -> Detections:
        """Find the known objects. Raises ValueError if the run has no detector."""
        if self.detector is None:
            raise ValueError(
                f"{self.path} has no detector.safetensors, so it cannot find objects; give boxes (--boxes x0,y0,x1,y1 or a "
                f"JSON file), or train one: monopose train detector --data DIR --out {_run_of(self.path)}"
            )
        (found,) = detection.predict(self.detector, [frame.image], score_threshold, looks=looks, masks=masks)
        return found[(found.labels[:, None] == self.estimator.ids).any(1)]  # it may know more objects than the estimator

    def warn_without_models(self) -> None:
        """Say what a run without CAD models cannot do, and how it gets them."""
        if not self.models:
            warnings.warn(
                f"{self.path} comes without CAD models: pictures show boxes and axes, and poses cannot be refined. Copy "
                f"the models folder of its data set (for a public one: monopose download NAME) to {self.path / 'objects'}, or "
                "name it: --models DIR, monopose.load(..., models=DIR)",
                stacklevel=3,
            )

    def __call__(
        self,
        source: Any,
        camera: Any = None,
        *,
        fov_deg: float | None = None,
        resize_camera: bool = False,
        detections: Detections | None = None,
        min_probability: float | None = None,
        refine: bool | None = None,
        looks: int = LOOKS,
    ) -> Prediction:
        """Poses in a picture, of whatever kind: `predict` without what `trusted` leaves out.

        Args:
            source: an image file, a Pillow image, a numpy array (H, W, 3) of uint8 in RGB, or a `Frame`.
            camera: a camera file, a `Camera`, or K (3, 3), pixels; or `fov_deg`, its horizontal field of view.
            resize_camera: the picture is a resized whole picture of the camera.
            detections, refine, looks: as in `predict`.
            min_probability: as in `trusted`.

        Raises:
            FileNotFoundError, ValueError, TypeError: says what came, and the call that would be right.
        """
        frame = as_frame(source, camera, fov_deg=fov_deg, resize_camera=resize_camera)
        poses = self.trusted(self.predict(frame, detections, refine=refine, looks=looks), frame, min_probability)
        if not len(poses) and isinstance(source, np.ndarray):
            warnings.warn(
                "nothing found; is the array from OpenCV? Its pictures are BGR, monopose takes RGB: give image[..., ::-1]",
                stacklevel=2,
            )
        return Prediction(frame.to("cpu"), poses.to("cpu"), self.models)

    def trusted(self, poses: PoseEstimates, frame: Frame, min_probability: float | None = None) -> PoseEstimates:
        """Poses without those that cannot be, and without those that are too uncertain; the one filter for all that is shown.

        Args:
            poses: of this run.
            frame: the picture that they were found in.
            min_probability: least probability that a pose is right, in [0, 1]; None: `MIN_PROBABILITY`, and 0 for a run that is
                not calibrated, whose raw scores are no probabilities. Another number goes by raw scores there, with a warning.

        Returns:
            the poses that stay, in their order; `dropped` says which do not, and why.
        """
        if min_probability is not None and not 0 <= min_probability <= 1:
            raise ValueError(f"min_probability must be between 0 and 1, got {min_probability:g}")
        least = min_probability
        if least is None:
            least = MIN_PROBABILITY if poses.calibrated else 0.0
        if not poses.calibrated and len(poses) and min_probability != 0:
            done = "nothing is left out by them" if min_probability is None else f"{least:g} is compared with raw scores"
            untrained = isinstance(self.estimator, search.Model)  # for which nothing can be calibrated
            how = "" if untrained else f"; make them probabilities: monopose calibrate {self.path} --data DIR"
            warnings.warn(
                f"the scores of {self.path} are not calibrated, so they are no probabilities, and {done}{how}", stacklevel=3
            )
        why = [plausible.REASONS[i] for i in self._why_not(poses, frame).tolist()]
        kind = "probability" if poses.calibrated else "score"
        scores = poses.scores.tolist()
        why = [w or (f"{kind} below {least:g}" if score < least else "") for w, score in zip(why, scores)]
        out = [i for i, reason in enumerate(why) if reason]
        labels = poses.labels.tolist()
        dropped = tuple(Dropped(labels[i], poses.name_of(labels[i]), scores[i], why[i]) for i in out)
        kept = poses[torch.tensor([not reason for reason in why], dtype=torch.bool, device=poses.labels.device)]
        return replace(kept, dropped=poses.dropped + dropped)

    def _why_not(self, poses: PoseEstimates, frame: Frame) -> Tensor:
        if not len(poses):
            return torch.zeros(0, dtype=torch.int64)
        if all(int(label) in self.models for label in poses.labels):
            corners = torch.stack([self.models[int(label)].corners.cpu() for label in poses.labels])
        else:
            corners = self.estimator.corners[self.estimator.index_of(poses.labels)].cpu()  # type: ignore[operator]
        boxes = None if poses.boxes is None else poses.boxes.cpu()
        return plausible.why_not(poses.cam_from_obj.cpu(), corners, frame.camera.K.cpu(), frame.camera.size, boxes)

    def predict(
        self,
        frame: Frame,
        detections: Detections | None = None,
        debug: str | Path | None = None,
        score_threshold: float = LEAST_SCORE,
        refine: bool | None = None,
        looks: int = LOOKS,
    ) -> PoseEstimates:
        """Poses of the known objects in one picture.

        Args:
            frame: the picture and its camera, undistorted.
            detections: boxes from elsewhere; None: from the run's detector.
            debug: folder in which every stage is saved as a picture.
            score_threshold: least score of what the run's detector finds.
            refine: whether a refiner gets the poses in the end, the run's or that of the base; None: if the run has one.
            looks: how often the run's detector looks at the picture, see `detector.predict`.

        Returns:
            PoseEstimates, metres, OpenCV camera, best score first; empty if nothing is found, and one pose for each thing that
            the detector has found twice, see `distinct`. `seconds` tells the time of each stage. With a calibration, scores are
            probabilities that the pose is right, and covariances as large as errors are, see `calibration`.

        Raises:
            ValueError: no detector and no boxes; boxes of unknown objects; refining without a refiner, or without the CAD model
                of an object that is found.
        """
        if debug is None:
            return self._predict(frame, detections, score_threshold, refine, looks, traced=False)[0]
        poses, trace = self.predict_traced(frame, detections, score_threshold, refine, looks)
        save_stages(Path(debug), frame, trace, poses, self)
        return poses

    def predict_traced(
        self,
        frame: Frame,
        detections: Detections | None = None,
        score_threshold: float = LEAST_SCORE,
        refine: bool | None = None,
        looks: int = LOOKS,
    ) -> tuple[PoseEstimates, Trace]:
        """`predict`, and how its poses came about."""
        return self._predict(frame, detections, score_threshold, refine, looks, traced=True)

    def predict_counted(
        self,
        frame: Frame,
        detections: Detections | None = None,
        score_threshold: float = LEAST_SCORE,
        refine: bool | None = None,
        looks: int = LOOKS,
    ) -> tuple[PoseEstimates, Trace]:
        """`predict`, and of its trace what costs nothing: the boxes, and which of them led to a pose."""
        return self._predict(frame, detections, score_threshold, refine, looks, traced=False)

    def _predict(
        self, frame: Frame, detections: Detections | None, score_threshold: float, refine: bool | None, looks: int, traced: bool
    ) -> tuple[PoseEstimates, Trace]:
        network, refining = self.estimator, self.refines(refine)
        frame = frame.to(network.ids.device)
        started = time.perf_counter()
        found = (self.detect(frame, score_threshold, looks, traced) if detections is None else detections).to(
            network.ids.device
        )
        seconds = {} if detections is not None else {"detector": time.perf_counter() - started}
        trace = Trace(found, [], [], [])
        if isinstance(network, probabilistic.Model):
            samples = None if traced else network.config.samples  # pictures need more
            poses, posteriors = probabilistic.predict_traced(network, frame, found, samples=samples)
            trace = trace._replace(posteriors=posteriors)
        elif isinstance(network, search.Model):
            if detections is None:
                found = search.promising(found)
                trace = trace._replace(detections=found)
            poses = search.predict(network, frame, found)
        else:
            poses, correspondences = coordinates.predict_traced(network, frame, found, models=self.models)
            trace = trace._replace(correspondences=correspondences)
        trace = trace._replace(solved=poses.labels)
        poses = replace(poses[poses.scores.argsort(descending=True)], names=self.names, seconds=seconds | poses.seconds)
        if detections is None:
            poses = distinct(poses, network.corners[network.index_of(poses.labels)], frame.camera.K)
        if self.silhouettes is not None and self.models:
            poses, outlines = silhouettes.predict_traced(self.silhouettes, frame, poses, self.models)
            poses, place = _best_first(poses)
            trace = trace._replace(outlines=[o._replace(row=place[o.row]) for o in outlines])
        if refining:
            assert self.refiner is not None
            poses, refinements = refinement.predict_traced(self.refiner, frame, poses, self.models)
            trace = trace._replace(refinements=refinements)
        if self.calibration is not None:
            poses = self.calibration.applied(poses, looks if detections is None else None)
            poses, place = _best_first(poses)  # refined ones have a map of their own
            trace = trace._replace(
                refinements=[r._replace(row=place[r.row]) for r in trace.refinements],
                outlines=[o._replace(row=place[o.row]) for o in trace.outlines],
            )
        return poses, trace


def _best_first(poses: PoseEstimates) -> tuple[PoseEstimates, list[int]]:
    """Poses by their scores, and the new row of each."""
    order = poses.scores.argsort(descending=True, stable=True)
    return poses[order], order.argsort().tolist()


def _run_of(path: Path) -> str:
    return "RUN" if path.is_file() else str(path)


def distinct(poses: PoseEstimates, corners: Tensor, K: Tensor) -> PoseEstimates:
    """Poses without those of an object that look as a better one of it does: a detector sees one thing as two now and then.

    Args:
        poses: N, best score first.
        corners: of each one's box, (N, 8, 3), metres, object frame.
        K: (3, 3), pixels.

    Returns:
        of poses of one object whose boxes in the picture overlap by more than `SAME` (IoU) the best.
    """
    points = se3.transform(poses.cam_from_obj.to(corners), corners)
    boxes = box_ops.from_points(camera_ops.project(points, K.to(corners), Z_MIN))
    return poses[box_ops.nms(boxes, poses.scores.to(boxes), poses.labels, SAME)]


def load(
    name: str | Path,
    device: torch.device | str | None = None,
    models: str | Path | None = None,
    runtime: Literal["torch", "onnx"] | None = None,
    unit: str | None = None,
) -> Pipeline:
    """Open a trained run, or CAD models that need no training.

    Args:
        name: a run folder, or the name of bundled weights. Where the folder holds both networks that estimate poses,
            probabilistic.safetensors is taken, which is made from the other one; a weights file in it is taken by its name.
            Without any of them, for a folder of CAD models alone, or for a mesh file, the poses are searched for in boxes, see
            `objects.search`.
            A detector, silhouettes and a refiner in the folder come along; without one of the last two that of the base, if
            monopose comes with one and the folder has the CAD models.
        device: where to run; None: CUDA if there is one, else the CPU.
        models: folder with the CAD models (a BOP models folder); None: objects/ in the run folder.
        runtime: "onnx": onnxruntime computes detector, estimator and silhouettes, on the CPU, from what `monopose export` wrote
            to onnx/ in the run folder; the refiner stays torch's. None: so it is where such files are and fit.
        unit: of the numbers in a mesh file, "m", "cm", "mm" or "inch".

    Raises:
        FileNotFoundError, ValueError: no such run, neither coordinates.safetensors nor probabilistic.safetensors nor CAD models
            in it, a truncated or foreign file; no such device; its onnx/ is not there, or of other weights.
    """
    if Path(name).suffix.lower() in FORMATS and Path(name).is_file():
        return of_meshes({1: load_mesh(name, unit, obj_id=1)}, Path(name), device)
    if unit is not None:
        raise ValueError(f"a unit belongs to a mesh file; {name} is none, and the models of a folder are in millimetres")
    where = choose_device("cpu" if runtime == "onnx" and device is None else device)
    untrained = cad_folder(name)
    folder = Path(name) if untrained is not None else weights.find_run(name)
    files = weights.weights_in(folder)
    named = Path(name).stem if Path(name).is_file() else None
    kind = next((k for k in ([named] if named in ESTIMATORS else ESTIMATORS) if k in files), None)
    objects = Path(models) if models is not None else untrained or folder / "objects"
    outlines = files.get("silhouettes") or weights.base("silhouettes")
    if kind is None and (outlines is None or not objects.is_dir()):
        raise ValueError(
            f"{folder} has no coordinates.safetensors or probabilistic.safetensors, which estimates the poses; it holds "
            f"{', '.join(files) or 'no weights'}. Train it: monopose train coordinates --data DIR --out {folder}"
        )
    used = {k: files[k] for k in (kind, "detector") if k in files}
    nets = {}
    if runtime == "onnx" and where.type != "cpu":
        raise ValueError(f"--runtime onnx computes on the CPU, got the device {where}; give one of them")
    if runtime == "onnx" or (runtime is None and where.type == "cpu" and is_exported(folder)):
        computing = used if outlines is None else used | {"silhouettes": outlines}
        digests = {k: digest_of(file) for k, file in computing.items()}
        nets = exported_nets(folder, digests, f"monopose export {name}", asked=runtime is not None)
    estimator: Any = None if kind is None else weights.load_network(files[kind], kind, *ESTIMATORS[kind])
    detector = None
    if "detector" in files:
        detector = weights.load_network(files["detector"], "detector", detection.Config, detection.Model)
    ids = None if models is None or estimator is None else sorted(estimator.config.obj_ids)
    known = bop_models.read_models(objects, ids) if models is not None or objects.is_dir() else {}
    more: dict[str, Any] = {}
    for method, module in (("silhouettes", silhouettes), ("refiner", refiner)):
        of_base = weights.base(method) if known or method == "silhouettes" else None  # a data set may bring the CAD models
        file = files.get(method) or of_base
        more[method] = None if file is None else weights.load_network(file, method, module.Config, module.Model)
        if file is not None and (method == "silhouettes" or (known and method in files)):
            used[method] = file
    if kind is None:
        estimator = search.Model(search.Config(tuple(sorted(known))), known, more["silhouettes"])
    else:
        estimator.exported = nets.get(kind)
    if detector is not None and "detector" in nets:
        detector.net = nets["detector"]
    if "silhouettes" in nets:
        more["silhouettes"].exported = nets["silhouettes"]
    names = {i: f"object {i}" for i in estimator.config.obj_ids} | {i: m.name for i, m in known.items()}
    if (folder / "names.json").is_file():
        names |= bop_models.read_names(folder / "names.json")
    names = {i: names[i] for i in estimator.config.obj_ids}
    more["own_refiner"] = "refiner" in files
    return Pipeline(estimator, detector, known, names, folder, calibration_file.read(folder, used), **more).to(where)


def of_meshes(models: Mapping[int, ObjectModel], path: Path, device: torch.device | str | None = None) -> Pipeline:
    """CAD models as a run that needs no training: boxes come from elsewhere, poses are searched for there.

    Args:
        models: by object id.
        path: what to call the run.
        device: where to run; None: CUDA if there is one, else the CPU.

    Raises:
        FileNotFoundError: no network comes with this monopose.
    """
    estimator = search.engine(models)
    names = {i: m.name for i, m in models.items()}
    file = weights.base("refiner")
    better = None if file is None else weights.load_network(file, "refiner", refiner.Config, refiner.Model)
    run = Pipeline(estimator, None, models, names, path, None, better, False, estimator.network)
    return run.to(choose_device(device))


def cad_folder(name: str | Path) -> Path | None:
    """Where the CAD models (models_info.json and meshes) of a folder without weights are, such as a data set's; None if `name`
    is no such folder."""
    path = Path(name)
    if not path.is_dir() or weights.weights_in(path):
        return None
    places = (path, path / "models", path / "objects")
    return next((place for place in places if (place / "models_info.json").is_file()), None)


def load_refiner(name: str | Path, device: torch.device | str | None = None) -> refiner.Model:
    """The refiner of a run folder, which need not hold anything else; see `find_refiner`.

    Raises:
        FileNotFoundError, ValueError: no refiner, a truncated or foreign file; no such device.
    """
    where = choose_device(device)
    network: refiner.Model = weights.load_network(find_refiner(name), "refiner", refiner.Config, refiner.Model)
    return network.to(where)


def find_refiner(name: str | Path) -> Path:
    """The weights file of the refiner of a run folder; without one, or for the name "base", that of the base.

    Raises:
        FileNotFoundError, ValueError: no such run; no refiner.safetensors in it or in the base.
    """
    base = weights.base("refiner")
    if str(name) == "base" and not Path(name).is_dir():
        if base is None:
            raise FileNotFoundError(
                f"no base weights of a refiner come with this monopose ({weights.BASE} holds none); name a run that has a "
                "refiner: --model RUN"
            )
        return base
    folder = weights.find_run(name)
    files = weights.weights_in(folder)
    file = files.get("refiner", base)
    if file is None:
        raise ValueError(
            f"{folder} has no refiner.safetensors; it holds {', '.join(files)}. Train one: monopose train refiner --data DIR "
            f"--out {folder}"
        )
    return file
