"""What a run found in one picture, for people and their programs: names, quaternions, tables, pictures, files."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from . import viz
from .geometry import rotation
from .io.files import IMAGE_SUFFIXES, atomic_write, write_json
from .io.poses import UNITS, frame_record
from .types import Dropped, Frame, ObjectModel, PoseEstimates

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = ("label", "name", "score", "x", "y", "z", "qx", "qy", "qz", "qw")


def _library(name: str, call: str, otherwise: str = "") -> Any:
    """A library that monopose does not need for anything else."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is there, but not whole
            raise
        raise ImportError(f"{call} needs {name}: pip install {name}{otherwise}") from None


@dataclass(frozen=True, repr=False)
class Prediction:
    """The poses found in one picture, N of them, best first. Metres, OpenCV camera (x right, y down, z forward).

    Args:
        frame: the picture and its camera.
        poses: what was found, on the CPU.
        models: object id -> CAD model, for pictures; may be empty.
    """

    frame: Frame
    poses: PoseEstimates
    models: Mapping[int, ObjectModel] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: Any) -> Prediction:
        """Some of the poses: a number, a slice, a boolean mask."""
        return Prediction(self.frame, self.poses[index], self.models)

    def __repr__(self) -> str:
        found = [f"{name} {score:.2f} at {z:.2f} m" for name, score, z in zip(self.names, self.scores, self.translation[:, 2])]
        out = f"; {len(self.dropped)} left out" if self.dropped else ""
        return f"Prediction({', '.join(found[:8])}{', …' * (len(found) > 8)}{out})" if found else f"Prediction(nothing{out})"

    @property
    def names(self) -> list[str]:
        """What each object is called."""
        return [self.poses.name_of(label) for label in self.poses.labels.tolist()]

    @property
    def labels(self) -> Tensor:
        """The number of each object, (N,), int64."""
        return self.poses.labels

    @property
    def scores(self) -> Tensor:
        """The probability that each pose is right if `calibrated`, else a raw score, (N,), in [0, 1]."""
        return self.poses.scores

    @property
    def calibrated(self) -> bool:
        """Whether scores are probabilities."""
        return self.poses.calibrated

    @property
    def cam_from_obj(self) -> Tensor:
        """(N, 4, 4), metres: x_cam = cam_from_obj x_obj."""
        return self.poses.cam_from_obj

    @property
    def translation(self) -> Tensor:
        """Of each object's origin in the camera's frame, (N, 3), metres."""
        return self.poses.cam_from_obj[:, :3, 3]

    @property
    def quat_xyzw(self) -> Tensor:
        """Unit quaternions, w last and >= 0, (N, 4)."""
        return rotation.quat_xyzw_from_matrix(self.poses.cam_from_obj[:, :3, :3].double())

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """What was found and left out, and why."""
        return self.poses.dropped

    def picture(self) -> Image.Image:
        """The photo with the CAD models over it, see `viz.draw`."""
        return viz.draw(self.frame, self.poses, self.models)

    def show(self) -> None:
        """Open that picture in a window."""
        self.picture().show(self.frame.path or "monopose")

    def rows(self) -> list[tuple[Any, ...]]:
        """One row of plain values per pose, see `COLUMNS`."""
        columns = (self.labels.tolist(), self.names, self.scores.tolist(), self.translation.tolist(), self.quat_xyzw.tolist())
        return [(label, name, score, *t, *q) for label, name, score, t, q in zip(*columns)]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row per pose: label, name, score, x, y, z (metres), qx, qy, qz, qw.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = _library("pandas", "to_pandas()", "; without it, save('poses.csv') or rows()")
        return pandas.DataFrame(self.rows(), columns=list(COLUMNS))

    def to_supervision(self) -> Any:
        """`supervision.Detections`: the boxes that the poses came from, confidence, class_id, and in `data` class_name,
        cam_from_obj (N, 4, 4) and quat_xyzw (N, 4).

        Raises:
            ImportError: supervision is not installed.
            ValueError: the poses did not come from boxes.
        """
        supervision = _library("supervision", "to_supervision()")
        if self.poses.boxes is None:
            raise ValueError("these poses did not come from boxes, which supervision.Detections needs")
        data = {
            "class_name": np.array(self.names, dtype=str), "cam_from_obj": self.cam_from_obj.numpy(),
            "quat_xyzw": self.quat_xyzw.numpy(),
        }  # fmt: skip
        boxes, scores = self.poses.boxes.float().numpy(), self.scores.float().numpy()
        return supervision.Detections(xyxy=boxes, confidence=scores, class_id=self.labels.numpy(), data=data)

    def save(self, path: str | Path) -> Path:
        """Write the overlay (.png, .jpg and other pictures), all that is known (.json, as poses.json), or a table (.csv).

        Raises:
            ValueError: another suffix.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            write_json(path, {"units": UNITS, "images": [frame_record(path.stem, self.frame, self.poses)]})
        elif suffix == ".csv":
            with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([COLUMNS, *self.rows()])
        elif suffix in IMAGE_SUFFIXES:
            with atomic_write(path) as temporary:
                self.picture().save(temporary)
        else:
            raise ValueError(f"save() writes pictures ({', '.join(IMAGE_SUFFIXES[:4])}), .json and .csv, got {path.name!r}")
        return path
