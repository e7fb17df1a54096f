"""Picture in, poses out: a detector, a pose estimator and the objects they know, put together from a run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from .. import weights
from ..datasets.bop import models as bop_models
from ..detection import LEAST_SCORE
from ..detection import detector as detection
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import se3
from ..pnp.problems import Z_MIN
from ..types import Detections, Frame, ObjectModel, PoseEstimates
from ..weights import choose_device
from . import calibration as calibration_file
from . import coordinates, probabilistic, refinement, refiner
from .viz import save_stages

# what can estimate poses, by its file in a run folder: Config and Model; the first that is there is taken
ESTIMATORS: dict[str, tuple[type, type[nn.Module]]] = {
    "probabilistic": (probabilistic.Config, probabilistic.Model),
    "coordinates": (coordinates.Config, coordinates.Model),
}
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
    """

    detections: Detections
    correspondences: list[tuple[coordinates.Correspondences, coordinates.Solved]]
    posteriors: list[probabilistic.ObjectPosterior]
    refinements: list[refinement.RefinementTrace]
    solved: Tensor


@dataclass(frozen=True)
class Pipeline:
    """A trained run, ready to predict.

    Args:
        estimator: finds the pose of a detected object.
        detector: finds objects, or None: then boxes must be given.
        models: object id -> CAD model, for pictures; may be empty, the networks carry what poses need.
        names: object id -> name.
        path: the run folder.
        calibration: what scores and covariances mean; None leaves them raw.
        refiner: makes poses better by rendering the CAD models and comparing, or None. One that is trained on many objects
            refines those of any run.
    """

    estimator: coordinates.Model | probabilistic.Model
    detector: detection.Model | None
    models: Mapping[int, ObjectModel]
    names: dict[int, str]
    path: Path
    calibration: calibration_file.Calibration | None = None
    refiner: refiner.Model | None = None

    def to(self, device: torch.device | str) -> Pipeline:
        """The same run on another device. Modules move in place."""
        detector = None if self.detector is None else self.detector.to(device)
        better = None if self.refiner is None else self.refiner.to(device)
        return replace(self, estimator=self.estimator.to(device), detector=detector, refiner=better)

    def refines(self, requested: bool | None = None) -> bool:
        """Whether poses will be refined: as requested, and if nothing is requested, if the run has a refiner.

        Raises:
            ValueError: they should be, but there is no refiner, or no CAD model to render.
        """
        if not (self.refiner is not None if requested is None else requested):
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

    def detect(self, frame: Frame, score_threshold: float = LEAST_SCORE, looks: int = LOOKS) -> Detections:
        """Find the known objects. Raises ValueError if the run has no detector."""
        if self.detector is None:
            raise ValueError(
                f"{self.path} has no detector.safetensors, so it cannot find objects; give boxes (--boxes x0,y0,x1,y1 or a "
                f"JSON file), or train one: monopose train detector --data DIR --out {self.path}"
            )
        (found,) = detection.predict(self.detector, [frame.image], score_threshold, looks=looks)
        return found[(found.labels[:, None] == self.estimator.ids).any(1)]  # it may know more objects than the estimator

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
            refine: whether the run's refiner gets the poses in the end; None: if the run has one.
            looks: how often the run's detector looks at the picture, see `detector.predict`.

        Returns:
            PoseEstimates, metres, OpenCV camera, best score first; empty if nothing is found, and one pose for each thing that
            the detector has found twice, see `distinct`. `seconds` tells the time of each stage. With a calibration, scores are
            probabilities that the pose is right, see `calibration`; before refining, which leaves them as they are. A refined
            pose has no covariance.

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
        found = (self.detect(frame, score_threshold, looks) if detections is None else detections).to(network.ids.device)
        seconds = {} if detections is not None else {"detector": time.perf_counter() - started}
        trace = Trace(found, [], [], [], found.labels[:0])
        if isinstance(network, probabilistic.Model):
            samples = None if traced else network.config.samples  # pictures need more
            poses, posteriors = probabilistic.predict_traced(network, frame, found, samples=samples)
            trace = trace._replace(posteriors=posteriors)
        else:
            poses, correspondences = coordinates.predict_traced(network, frame, found, models=self.models)
            trace = trace._replace(correspondences=correspondences)
        trace = trace._replace(solved=poses.labels)
        poses = replace(poses[poses.scores.argsort(descending=True)], names=self.names, seconds=seconds | poses.seconds)
        if detections is None:
            poses = distinct(poses, network.corners[network.index_of(poses.labels)], frame.camera.K)
        if self.calibration is not None:
            poses = self.calibration.applied(poses, looks if detections is None else None)
        if refining:
            assert self.refiner is not None
            poses, refinements = refinement.predict_traced(self.refiner, frame, poses, self.models)
            trace = trace._replace(refinements=refinements)
        return poses, trace


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
    return poses[batched_nms(boxes, poses.scores.to(boxes), poses.labels, SAME)]


def load(name: str | Path, device: torch.device | str | None = None) -> Pipeline:
    """Open a trained run.

    Args:
        name: a run folder, or the name of bundled weights. Where the folder holds both networks that estimate poses,
            probabilistic.safetensors is taken, which is made from the other one; a weights file in it is taken by its name.
            A detector and a refiner in the folder come along; without a refiner that of the base, if monopose comes with one
            and the folder has the CAD models.
        device: where to run; None: CUDA if there is one, else the CPU.

    Raises:
        FileNotFoundError, ValueError: no such run, neither coordinates.safetensors nor probabilistic.safetensors in it, a
            truncated or foreign file; no such device.
    """
    where = choose_device(device)
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
    detector = weights.load_network(files["detector"], detection.Config, detection.Model) if "detector" in files else None
    objects = folder / "objects"
    models = bop_models.read_models(objects) if objects.is_dir() else {}
    names = {i: f"object {i}" for i in estimator.config.obj_ids} | {i: m.name for i, m in models.items()}
    if (folder / "names.json").is_file():
        names |= bop_models.read_names(folder / "names.json")
    names = {i: names[i] for i in estimator.config.obj_ids}
    used = {k: files[k] for k in (kind, "detector") if k in files}
    file = files.get("refiner") or (weights.base("refiner") if models else None)
    better = None if file is None else weights.load_network(file, refiner.Config, refiner.Model)
    return Pipeline(estimator, detector, models, names, folder, calibration_file.read(folder, used), better).to(where)


def load_refiner(name: str | Path, device: torch.device | str | None = None) -> refiner.Model:
    """The refiner of a run folder, which need not hold anything else; see `find_refiner`.

    Raises:
        FileNotFoundError, ValueError: no refiner, a truncated or foreign file; no such device.
    """
    where = choose_device(device)
    network: refiner.Model = weights.load_network(find_refiner(name), refiner.Config, refiner.Model)
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
