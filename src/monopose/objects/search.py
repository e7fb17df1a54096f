"""Poses of objects that no network was trained on: the CAD model is drawn from all around where a box has it, and the network
of the silhouettes, which has never seen it either, says which drawing is like the photo and by how much it is off; shading
tells those apart whose outlines are alike.

Source: the idea of Labbe et al., MegaPose (CoRL 2022): classify many coarse hypotheses, refine the best; here both are one
network, see `objects.silhouettes`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import weights
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import se3
from ..geometry.viewpoints import fibonacci_sphere, look_at
from ..mesh.loading import simplified
from ..types import Detections, Frame, ObjectModel, PoseEstimates
from . import shading, silhouettes
from .networks import ObjectGeometry

FACES = 3000  # of the meshes that are drawn
TOGETHER = 48  # drawings that go through the network at once
DOUBT = 0.5  # of the mean logarithm of the displacements' deviation, beside overlaps, in how like the photo a drawing is
SHADED = 2.0  # of the share of the shading that is explained, beside overlaps
UNLIT = 0.25  # of the score is left where light explains nothing
CANDIDATES = 5  # boxes of a detector, for each object, where it is searched for
WORTH = 0.3  # of the best score of an object, the least of another of its boxes
FITS = 4  # times that an object is moved until its box is the given one
POINTS = 500  # of a mesh, whose box that is


@dataclass(frozen=True)
class Config:
    obj_ids: tuple[int, ...] = ()  # the objects, BOP numbers
    views: int = 72  # directions from which an object is looked at
    turns: int = 6  # about the line of sight, for each of them
    likely: int = 48  # drawings most like the photo in crops of half the side, which get a second look
    kept: int = 12  # drawings most like the photo, whose poses are made better
    rounds: int = 3  # times that they are, the better half each time
    last: int = 4  # of them go on to the end


class Model(ObjectGeometry):
    """Config + objects + the network of the silhouettes. Nothing of it is trained on the objects."""

    def __init__(self, config: Config, models: Mapping[int, ObjectModel], network: silhouettes.Model) -> None:
        super().__init__(config.obj_ids, models, 1)
        self.config, self.network = config, network
        self.meshes = {i: simplified(models[i], FACES) for i in config.obj_ids}


def engine(models: Mapping[int, ObjectModel], device: torch.device | str | None = None) -> Model:
    """What searches for these objects, with the network that comes with monopose.

    Raises:
        FileNotFoundError: none comes with this monopose.
    """
    network = silhouettes.of_base()
    if network is None:
        raise FileNotFoundError(
            f"no base weights of silhouettes come with this monopose, which the search needs ({weights.BASE})"
        )
    return Model(Config(tuple(sorted(models))), models, network).to(weights.choose_device(device))


def promising(found: Detections) -> Detections:
    """Of the boxes that a detector found those worth a search, which takes seconds, in their order: for each object its best
    few, but for those much less likely than the best."""
    rows: list[int] = []
    for label in found.labels.unique():
        mine = (found.labels == label).nonzero()[:, 0]
        best = mine[found.scores[mine].argsort(descending=True, stable=True)][:CANDIDATES]
        rows += best[found.scores[best] >= WORTH * found.scores[best[0]]].tolist()
    return found[torch.tensor(sorted(rows), dtype=torch.int64, device=found.labels.device)]


def predict_aligned(model: Model, frame: Frame, detections: Detections) -> PoseEstimates:
    """`predict`, and then the contours brought to the outlines: the poses as a run would give them."""
    poses = predict(model, frame.to(model.ids.device), detections.to(model.ids.device))
    return silhouettes.predict(model.network, frame, poses, model.meshes)


def rotations(views: int, turns: int) -> Tensor:
    """Evenly spread rotations of an object, (views * turns, 3, 3)."""
    angles = torch.arange(turns) * (2 * math.pi / turns)
    return look_at(fibonacci_sphere(views)[:, None].expand(-1, turns, -1), angles).flatten(0, 1)


def placed(R: Tensor, model: ObjectModel, box: Tensor, K: Tensor) -> Tensor:
    """The poses in which an object fills a box in the picture.

    Args:
        R: rotations as the object looks in the middle of the box (allocentric), (B, 3, 3).
        model: the object.
        box: (4,), xyxy pixel edges.
        K: (3, 3), pixels.

    Returns:
        (B, 4, 4), metres: the box around the drawn object has the middle and the area of the given one.
    """
    step = max(len(model.vertices) // POINTS, 1)
    points = model.vertices[::step].to(R)
    middle = model.bounds.mean(0).to(R)
    size = (box[2:] - box[:2]).clamp_min(1).to(R)
    aim = ((box[:2] + box[2:]) / 2 - 0.5).to(R).expand(len(R), 2)
    z = R.new_full((len(R), 1), float(K[0, 0] * model.diameter / size.amax()))
    inverse = torch.linalg.inv(K.to(R))
    wanted, poses = aim, R.new_zeros(len(R), 4, 4)
    for _ in range(FITS):
        ray = torch.cat([aim, torch.ones_like(aim[:, :1])], 1) @ inverse.mT
        poses = se3.egocentric_from_allocentric(se3.from_rt(R, ray * z))
        poses[:, :3, 3] -= (poses[:, :3, :3] @ middle[:, None])[..., 0]
        seen = box_ops.from_points(camera_ops.project(se3.transform(poses, points), K.to(R), 1e-3))
        aim = aim + wanted - ((seen[:, :2] + seen[:, 2:]) / 2 - 0.5)
        z = z * ((seen[:, 2:] - seen[:, :2]).prod(1, keepdim=True) / size.prod()).sqrt().clamp(0.2, 5)
    return poses


def predict(model: Model, frame: Frame, detections: Detections) -> PoseEstimates:
    """Poses of objects in boxes.

    Args:
        model: the objects.
        frame: one picture, undistorted.
        detections: boxes around whole objects, labels, scores.

    Returns:
        PoseEstimates in the order of `detections`; score = detection score x how like the photo it is. About five seconds
        of a core for each box.

    Raises:
        ValueError: for an object id the model does not know.
    """
    started = time.perf_counter()
    model.index_of(detections.labels)
    poses, covariances, scores = [], [], []
    for label, box in zip(detections.labels.tolist(), detections.boxes, strict=True):
        pose, known, score = best(model.config, model.network, frame, box.cpu(), model.meshes[label])
        poses.append(pose)
        covariances.append(torch.linalg.inv(known.double() + 1e-9 * torch.eye(6, dtype=torch.float64)).float())
        scores.append(score)
    device, none = detections.boxes.device, detections.boxes.new_zeros(0)
    return PoseEstimates(
        detections.labels,
        torch.stack(poses).to(device) if poses else none.reshape(0, 4, 4),
        detections.scores * (torch.stack(scores).to(detections.scores) if scores else none),
        torch.stack(covariances).to(device) if poses else none.reshape(0, 6, 6),
        detections.boxes, seconds={"search": time.perf_counter() - started},
    )  # fmt: skip


@torch.no_grad()
def best(
    config: Config, network: silhouettes.Model, frame: Frame, box: Tensor, model: ObjectModel
) -> tuple[Tensor, Tensor, Tensor]:
    """The pose of an object in a box: (4, 4), its information (6, 6) and a score (), in [0, 1]."""
    K = frame.camera.K.cpu().float()
    poses = placed(rotations(config.views, config.turns), model, box, K)
    known = torch.zeros(len(poses), 6, 6)
    kept = config.kept
    if network.exported is None:  # what is exported computes crops of one side only
        side = network.config.input_size // 2
        likeness = [_likeness(network, frame, K, some, model, side) for some in poses.split(TOGETHER)]
        poses = poses[torch.cat(likeness).argsort(descending=True, stable=True)[: config.likely]]
    for _ in range(config.rounds):
        likeness = [_likeness(network, frame, K, some, model) for some in poses.split(TOGETHER)]
        chosen = poses[torch.cat(likeness).argsort(descending=True, stable=True)[:kept]]
        same = [model] * len(chosen)
        seen = silhouettes.look(network, frame.image, K, chosen, same)
        poses, known = (v.cpu() for v in silhouettes.solved(seen, K, chosen, same))
        kept = max(kept // 2, config.last)
    same = [model] * len(poses)
    seen = silhouettes.look(network, frame.image, K, poses, same)
    poses, shaded = shading.refine(frame.image, K, poses, same, seen.boxes, seen.output.visible.sigmoid())
    seen = silhouettes.look(network, frame.image, K, poses, same)
    fits, doubt = (v.cpu() for v in silhouettes.agreement(seen))
    i = int((fits - DOUBT * doubt + SHADED * shaded).argmax())
    lit = UNLIT + (1 - UNLIT) * shaded[i].clamp(0, 1)
    return poses[i], known[i], silhouettes.likeness(seen).cpu()[i] * lit


def _likeness(
    network: silhouettes.Model, frame: Frame, K: Tensor, poses: Tensor, model: ObjectModel, side: int | None = None
) -> Tensor:
    """How like the photo an object is that is drawn at poses (B, 4, 4), in crops of `side` without its shading: (B,)."""
    same = [model] * len(poses)
    seen = silhouettes.look(network, frame.image, K, poses, same, side)
    fits, doubt = silhouettes.agreement(seen)
    like = (fits - DOUBT * doubt).cpu()
    if side is not None:
        return like
    return like + SHADED * shading.explained(frame.image, K, poses, same, seen.boxes, seen.output.visible.sigmoid())
