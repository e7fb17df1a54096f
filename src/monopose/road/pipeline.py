"""A box3d run at work: pictures of roads in, boxes in 3D out; several cameras of one vehicle put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import weights
from ..datasets import kitti
from ..datasets.road import RoadFrame, RoadObjects
from ..geometry import boxes3d
from ..io.images import as_frame
from ..types import Frame
from . import config as road_config
from . import inference, network
from .inference import DetectedBoxes

GROUND_NMS = 0.25  # of two boxes of a class that overlap more from above, the better one stays


class Options(NamedTuple):
    """How pictures are looked at, see `inference.predict`."""

    flip: bool = False
    samples: int | None = None
    min_score: float = 0.04
    max_detections: int = 100
    posterior_scores: bool = False
    central: bool = True


DEFAULT = Options()


@dataclass(frozen=True)
class BoxRun:
    """A trained network that finds boxes in 3D, ready to predict.

    Args:
        model: the network.
        path: the run folder.
        trained: what its training wrote down about its data.
    """

    model: network.Model
    path: Path
    trained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> road_config.Config:
        return self.model.config

    @property
    def classes(self) -> tuple[str, ...]:
        return self.config.classes

    def __call__(
        self, source: Any, camera: Any = None, *, fov_deg: float | None = None, options: Options = DEFAULT
    ) -> DetectedBoxes:
        """`predict` of a picture of whatever kind, see `io.images.as_frame`."""
        return self.predict(as_frame(source, camera, fov_deg=fov_deg), options)

    def predict(self, frame: Frame, options: Options = DEFAULT) -> DetectedBoxes:
        """The boxes of one picture, best first, on the CPU; see `inference.predict`."""
        found = inference.predict(self.model, frame, **options._asdict())
        return DetectedBoxes(*(v.cpu() if isinstance(v, Tensor) else v for v in found))  # type: ignore[arg-type]


def load(name: str | Path, device: torch.device | str | None = None) -> BoxRun:
    """Open a run folder, or the weights file in one.

    Raises:
        FileNotFoundError, ValueError: no such run, no box3d.safetensors in it, a truncated or foreign file; no such device.
    """
    where = weights.choose_device(device)
    folder, file = weights.find_file(name, "box3d")
    model = weights.load_network(file, "box3d", road_config.Config, network.Model)
    return BoxRun(model.to(where), folder, weights.noted(file))


def objects_of(found: DetectedBoxes, own: Sequence[str], classes: Sequence[str]) -> RoadObjects:
    """What was found as the objects of a picture.

    Args:
        found: labels index `own`.
        own: classes of the network.
        classes: those of the data set, which the labels of the result index. Names are the same but for the case of letters;
            what the data set has no name for is left out.
    """
    lower = [c.lower() for c in classes]
    index = torch.tensor([lower.index(c.lower()) if c.lower() in lower else -1 for c in own], dtype=torch.long)
    labels = index[found.labels]
    rows = labels >= 0
    return RoadObjects(
        labels[rows], found.cam_from_obj[rows], found.sizes[rows], found.boxes[rows], found.scores[rows],
        found.velocities[rows], found.attributes[rows],
    )  # fmt: skip


def predict_frames(
    run: BoxRun, frames: Sequence[RoadFrame], options: Options = DEFAULT,
    each: Callable[[RoadFrame, Frame, DetectedBoxes], None] | None = None,
) -> list[RoadObjects]:  # fmt: skip
    """The boxes of every picture of a data set; those that two cameras of a vehicle see are kept once.

    Args:
        run: a trained run.
        frames: the pictures.
        options: how they are looked at.
        each: called with every picture as soon as it is done: to draw it.

    Raises:
        ValueError: the run knows no class of the data set.
    """
    if frames and not {c.lower() for c in run.classes} & {c.lower() for c in frames[0].classes}:
        raise ValueError(
            f"{run.path} knows {', '.join(run.classes)}; the data set has {', '.join(frames[0].classes)}: no class in common"
        )
    found = []
    for frame in frames:
        picture = frame.read()
        boxes = run.predict(picture, options)
        if each is not None:
            each(frame, picture, boxes)
        found.append(objects_of(boxes, run.classes, frame.classes))
    return fused(frames, found)


def fused(frames: Sequence[RoadFrame], estimates: Sequence[RoadObjects]) -> list[RoadObjects]:
    """Non-maximum suppression across the cameras of each moment, from above in the vehicle's frame.

    Args:
        frames: pictures; those of the same `sample` belong together if their places are known. Others stay as they are.
        estimates: of each, with scores.

    Returns:
        the estimates of each picture that stay, in their order: of two boxes of a class that overlap more than `GROUND_NMS` the
        better one.
    """
    groups: dict[str, list[int]] = {}
    for k, frame in enumerate(frames):
        if frame.sample and frame.ego_from_cam is not None and frame.global_from_ego is not None:
            groups.setdefault(frame.sample, []).append(k)
    result = list(estimates)
    for members in groups.values():
        if len(members) < 2:
            continue
        kept = _kept([frames[k] for k in members], [estimates[k] for k in members])
        for k, rows in zip(members, kept, strict=True):
            result[k] = estimates[k][rows]
    return result


def _kept(frames: Sequence[RoadFrame], estimates: Sequence[RoadObjects]) -> list[Tensor]:
    """Masks of the estimates of each picture of one moment that stay."""
    above, labels, scores = [], [], []
    ego_from_global = torch.linalg.inv(frames[0].global_from_ego)  # type: ignore[arg-type]
    for frame, objects in zip(frames, estimates, strict=True):
        if objects.scores is None:
            raise ValueError(f"estimates for picture {frame.name} have no scores, so they cannot be ranked")
        pose = ego_from_global @ frame.global_from_cam @ objects.cam_from_obj.detach().double().cpu()
        above.append(boxes3d.bev(pose, objects.sizes.detach().double().cpu(), boxes3d.EGO_GROUND))
        labels.append(objects.labels.cpu())
        scores.append(objects.scores.detach().double().cpu())
    every, label, score = torch.cat(above), torch.cat(labels), torch.cat(scores)
    stays = torch.zeros(len(every), dtype=torch.bool)
    for k in label.unique():
        rows = (label == k).nonzero()[:, 0]
        stays[rows[boxes3d.bev_nms(every[rows], score[rows], GROUND_NMS)]] = True
    return list(stays.split([len(e) for e in estimates]))


def kitti_labels(frame: RoadFrame, found: RoadObjects, calibration: kitti.Calibration | None = None) -> kitti.Labels:
    """The lines of a KITTI result file for one picture.

    Args:
        frame: the picture.
        found: its estimates; labels index the classes of the frame. Classes that KITTI does not have are left out: of nuScenes'
            car, truck and pedestrian stay.
        calibration: of a KITTI picture; None: the camera is where boxes are counted from.
    """
    from ..synthesis.road_scene import KITTI_NAMES

    if calibration is None:
        calibration = kitti.Calibration(frame.camera.K, torch.eye(4, dtype=torch.float64), None)
    names = [c if c in kitti.CLASSES else KITTI_NAMES.get(c.lower(), c.capitalize()) for c in frame.classes]
    index = torch.tensor([kitti.CLASSES.index(n) if n in kitti.CLASSES else -1 for n in names], dtype=torch.long)
    labels = index[found.labels]
    rows = labels >= 0
    kept = replace(found[rows], labels=labels[rows])
    return kitti.labels_from(kept, calibration, frame.camera.size)
