"""What a score means: maps from a network's raw score to the probability that its pose is right, kept beside the weights.

A run folder may hold `calibration.json`, written by `monopose calibrate`. It knows which weights it was fitted for and is
ignored, with a warning, beside others. Works on numpy; `evaluation.calibration` fits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from ..evaluation.calibration import EVENT, Isotonic, Logistic, Map
from ..io import records
from ..io.files import digest_of, write_json

if TYPE_CHECKING:
    from ..types import PoseEstimates

Array = NDArray[Any]

FILE = "calibration.json"
_KINDS: dict[str, type[Any]] = {"logistic": Logistic, "isotonic": Isotonic}


@dataclass(frozen=True)
class Calibration:
    """What a run learned about its own scores and covariances on synthetic validation scenes.

    Args:
        detector: for poses in boxes of the run's detector; None leaves their scores raw.
        looks: of the detector, for which that map holds; `detector.predict` tells what they do to its scores.
        boxes: for poses in boxes from elsewhere; None leaves their scores raw.
        covariance_scale: factor on the covariances, > 0.
        weights: method -> digest of the weights file it was fitted for.
        notes: how it was measured, plain JSON values.
        refined: the same for poses that a refiner has refined; None: their scores are taken for those of unrefined ones, and
            their covariances stay raw.
    """

    detector: Map | None = None
    boxes: Map | None = None
    covariance_scale: float = 1.0
    weights: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    looks: int = 1
    refined: Calibration | None = None

    def __post_init__(self) -> None:
        if not (self.covariance_scale > 0 and math.isfinite(self.covariance_scale)):
            raise ValueError(f"covariance_scale must be a finite number > 0, got {self.covariance_scale}")

    def applied(self, poses: PoseEstimates, looks: int | None) -> PoseEstimates:
        """The same poses, in the same order, with scores that are probabilities and covariances that mean what they say.

        Args:
            poses: raw.
            looks: of the run's detector, from which the boxes came; None: they came from elsewhere. After other looks than this
                was made with, scores stay raw, with a warning.
        """
        done = poses.refined
        if done is not None and bool(done.any()):
            of_refined = self.refined or replace(self, covariance_scale=1.0)
            plain, better = (c.applied(replace(poses, refined=None), looks) for c in (self, of_refined))
            scores, covariance = plain.scores, plain.covariance
            if better.calibrated == plain.calibrated:
                scores = torch.where(done, better.scores, scores)
            if covariance is not None and better.covariance is not None:
                covariance = torch.where(done[:, None, None], better.covariance, covariance)
            return replace(plain, scores=scores, covariance=covariance, refined=done)
        found = self.boxes if looks is None else self.detector
        if found is not None and looks not in (None, self.looks):
            warnings.warn(
                f"the scores of this run were calibrated with {self.looks} look(s) of its detector, so with {looks} they stay "
                "raw; make the calibration again: monopose calibrate RUN --data DIR",
                stacklevel=2,
            )
            found = None
        scores, covariance = poses.scores, poses.covariance
        if found is not None:
            scores = scores.new_tensor(found(scores.detach().cpu().numpy()))
        if covariance is not None:
            covariance = covariance * self.covariance_scale
        return replace(poses, scores=scores, covariance=covariance, calibrated=found is not None)


def write(folder: str | Path, calibration: Calibration) -> Path:
    """Write `calibration.json` into a run folder, whole or not at all."""
    names = {kind: name for name, kind in _KINDS.items()}

    def plain(found: Map | None) -> Any:
        return None if found is None else {names[type(found)]: asdict(found)}

    path = Path(folder) / FILE

    def fields(found: Calibration) -> dict[str, Any]:
        return {
            "detector": plain(found.detector), "boxes": plain(found.boxes), "covariance_scale": found.covariance_scale,
            "looks": found.looks, "weights": dict(found.weights),
        }  # fmt: skip

    value = {"event": EVENT, **fields(calibration)}
    if calibration.refined is not None:
        value["refined"] = fields(calibration.refined)
    write_json(path, {**value, **calibration.notes})
    return path


def read(folder: str | Path, files: Mapping[str, Path]) -> Calibration | None:
    """The calibration of a run.

    Args:
        folder: the run folder.
        files: method -> weights file of the networks in use; with a refiner, if poses are refined by default.

    Returns:
        None if the run has none, or one of other weights: then a warning says so. Of another refiner, it is not for refined
        poses, with a warning.

    Raises:
        ValueError: a file that `write` did not write.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        value = records.read_json(path)
        event, better = value.pop("event"), value.pop("refined", None)
        refined = None if better is None else _fields(better, f"{path}: refined")
        calibration = replace(_fields(value, str(path)), refined=refined)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a calibration ({error!r}); make it again: monopose calibrate {folder} --data DIR"
        ) from error
    now, weights = {name: digest_of(file) for name, file in files.items()}, calibration.weights
    refiner = now.pop("refiner", None)
    other = sorted(name for name in now.keys() | weights.keys() if now.get(name) != weights.get(name))
    if other or event != EVENT:
        what = f"other weights ({', '.join(other)})" if other else f"another event, {event}"
        warnings.warn(
            f"{path} was made for {what}, so scores stay raw; make it again: monopose calibrate {folder} --data DIR",
            stacklevel=2,
        )
        return None
    if refiner is not None and (refined is None or refined.weights.get("refiner") != refiner):
        how = "without" if refined is None else "with another"
        warnings.warn(
            f"{path} was made {how} refiner, so refined poses have the scores that "
            f"unrefined ones would have, and raw covariances; make it again: monopose calibrate {folder} --data DIR",
            stacklevel=2,
        )
        calibration = replace(calibration, refined=None)
    return calibration


def _fields(value: dict[str, Any], where: str) -> Calibration:
    """What `write` puts there; what is left of `value` are notes."""
    detector, boxes, weights = _map(value.pop("detector")), _map(value.pop("boxes")), dict(value.pop("weights"))
    scale = float(records.numbers(value, "covariance_scale", (), where))
    looks = records.whole(value.pop("looks", 1), f"{where}: looks", 1)  # older files looked once
    del value["covariance_scale"]
    return Calibration(detector, boxes, scale, weights, value, looks)


def _map(value: Mapping[str, Any] | None) -> Map | None:
    if value is None:
        return None
    ((name, fields),) = value.items()
    return _KINDS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})  # type: ignore[no-any-return]
