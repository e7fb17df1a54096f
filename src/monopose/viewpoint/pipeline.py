"""A viewpoint run at work: pictures and boxes in, viewpoints out; poses where the camera and the object's size are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import weights
from ..command import DRAWN_FOV
from ..datasets import pix3d
from ..geometry import camera as camera_ops
from ..geometry import se3, viewpoints
from ..io.images import as_frame
from ..types import Camera, Detections, Frame, PoseEstimates
from . import model as viewpoint
from . import samples
from .model import Viewpoints

FILE = "viewpoint.safetensors"
NEED = {"mask": "the object's mask", "normals": "its surface normals"}  # what the photo alone does not hold
CHUNK, BATCH = 256, 32  # pictures cut before they are looked at, and looked at together


@dataclass(frozen=True)
class ViewpointRun:
    """A trained viewpoint network, ready to predict.

    Args:
        model: the network.
        path: the run folder.
        trained: what its training wrote down: "split_by" and "share" of the photos that it left out, and where "normals" came
            from: "oracle", "files", "none" or the run folder of a network.
        normals: makes surface normals of crops, see `viewpoint_crops.Predictor`, or None.
    """

    model: viewpoint.Model
    path: Path
    trained: Mapping[str, Any] = field(default_factory=dict)
    normals: samples.Predictor | None = None

    @property
    def config(self) -> viewpoint.Config:
        return self.model.config

    def to(self, device: torch.device | str) -> ViewpointRun:
        """The same run on another device. Modules move in place."""
        return replace(self, model=self.model.to(device))

    def sees(self, what: Literal["mask", "boundaries", "normals"]) -> bool:
        """Whether the network looks at this input."""
        levels = list(viewpoint.GROUPS)
        return levels.index(self.config.inputs) >= levels.index(what)

    @property
    def learned_from_network(self) -> bool:
        """Whether normals and boundaries were predicted in training."""
        return self.trained.get("normals", "none") not in ("oracle", "files", "none")

    def crops(self, image: Tensor, boxes: Tensor, masks: Tensor | None = None, normals: Tensor | None = None) -> Tensor:
        """What the network looks at.

        Args:
            image: (3, H, W), RGB in [0, 1].
            boxes: around each object, (N, 4), xyxy on pixel edges.
            masks: of each object, (N, H, W), bool; needed by networks that look at more than the photo.
            normals: as in `predict`.

        Returns:
            (N, 8, S, S).
        """
        has_normals = normals is not None or self.normals is not None or self.trained.get("normals") == "none"
        for what, given in (("mask", masks is not None), ("normals", has_normals)):
            if self.sees(what) and not given:  # type: ignore[arg-type]
                raise ValueError(
                    f"{self.path} was trained on {self.config.inputs}, so it needs {NEED[what]}: "
                    + (
                        "give masks (--mask FILE)"
                        if what == "mask"
                        else "give a map of them, or normals.safetensors in the run"
                    )
                    + ", or train a run that sees less (--inputs rgb)"
                )
        if masks is not None and len(masks) != len(boxes):
            raise ValueError(f"expected a mask for each of the {len(boxes)} boxes, got {len(masks)}")
        made = []
        for i, box in enumerate(boxes.detach().cpu().float()):
            mask = None if masks is None else masks[i].detach().cpu()
            crop = samples.channels(
                image.detach().cpu().float(), box, self.config.input_size, mask, normals, scale=self.config.crop_scale
            )
            if self.normals is not None and self.sees("boundaries"):
                found, edges = samples.predict_normals(self.normals, crop[samples.RGB])
                crop[samples.NORMALS] = (found + 1) / 2 if normals is None else crop[samples.NORMALS]
                if edges is not None and self.learned_from_network:
                    crop[samples.BOUNDARIES] = edges
            made.append(crop)
        side = self.config.input_size
        return torch.stack(made) if made else torch.zeros(0, samples.CHANNELS, side, side)

    def __call__(self, source: Any, detections: Detections | None = None) -> Viewpoints:
        """`predict` of a picture of whatever kind, see `io.images.as_frame`; its camera does not matter."""
        return self.predict(as_frame(source, default_fov=DRAWN_FOV), detections)

    def predict(self, frame: Frame, detections: Detections | None = None, normals: Tensor | None = None) -> Viewpoints:
        """Viewpoints of objects in one picture.

        Args:
            frame: the picture; its camera does not matter.
            detections: boxes around the objects, with masks for networks that look at more than the photo; None: one object
                fills the picture.
            normals: unit surface normals, camera frame, 0 where there is no object, (3, H, W); None: the run's own
                network's, where the viewpoint network looks at them.

        Returns:
            bins (N, 3), probabilities (N, 3, 8), angles (N, 3) in radians: azimuth, elevation, in-plane rotation of each
            object as if the camera looked at it.

        Raises:
            ValueError: masks or normals that the network needs are missing, a box is empty.
        """
        return self.predict_traced(frame, detections, normals)[0]

    def predict_traced(
        self, frame: Frame, detections: Detections | None = None, normals: Tensor | None = None
    ) -> tuple[Viewpoints, list[Tensor]]:
        """`predict`, and the crop of each object that the network looked at, (8, S, S)."""
        found = detections if detections is not None else whole_picture(frame)
        crops = self.crops(frame.image.float(), found.boxes, found.masks, normals)
        return _of_crops(self.model, crops), list(crops)

    def records(self, seen: Viewpoints, boxes: Tensor) -> list[dict[str, Any]]:
        """One dict of plain numbers per viewpoint, as files have them."""
        rows = []
        for angles, bins, probabilities, box in zip(*_plain(seen), boxes.detach().cpu().double().tolist(), strict=True):
            rows.append({**_degrees(angles), "bins": bins, "probabilities": probabilities, "box": box})
        return rows


def whole_picture(frame: Frame) -> Detections:
    """One object that fills the picture."""
    height, width = frame.image.shape[-2:]
    return Detections(torch.ones(1).long(), torch.tensor([[0.0, 0.0, width, height]]), torch.ones(1))


def load(name: str | Path, device: torch.device | str | None = None) -> ViewpointRun:
    """Open a run folder, or the weights file in one.

    Raises:
        FileNotFoundError, ValueError: no such run, no viewpoint.safetensors in it, a truncated or foreign file; no such device.
    """
    where = weights.choose_device(device)
    folder, file = weights.find_file(name, "viewpoint")
    model = weights.load_network(file, "viewpoint", viewpoint.Config, viewpoint.Model)
    trained = weights.noted(file)
    run = ViewpointRun(model, folder, trained)
    beside = folder if (folder / "normals.safetensors").is_file() or not run.learned_from_network else Path(trained["normals"])
    return replace(run, normals=_normals_of(beside)).to(where)


def _normals_of(folder: Path) -> samples.Predictor | None:
    """The normals network of a run folder, if it has one."""
    file = folder / "normals.safetensors"
    if not file.is_file():
        return None
    from . import normals as normals_method

    return normals_method.predictor(weights.load_network(file, "normals", normals_method.Config, normals_method.Model))


def _of_crops(model: viewpoint.Model, crops: Tensor) -> Viewpoints:
    """What the network says of crops (N, 8, S, S), which may be none; on the CPU."""
    device = next(model.parameters()).device
    if not len(crops):
        count = model.count
        return Viewpoints(torch.zeros(0, 3).long(), torch.zeros(0, 3, count), torch.zeros(0, 3))
    return Viewpoints(*(value.cpu() for value in viewpoint.predict(model, crops.to(device))))


def _plain(seen: Viewpoints) -> tuple[list[list[float]], list[list[int]], list[list[list[float]]]]:
    probabilities = [[[round(float(p), 5) for p in angle] for angle in row] for row in seen.probabilities]
    return seen.angles.double().tolist(), seen.bins.tolist(), probabilities


def _degrees(angles: Sequence[float]) -> dict[str, float]:
    return {f"{name}_deg": math.degrees(a) for name, a in zip(viewpoint.ANGLES, angles, strict=True)}


# ------------------------------------------------------------------------------------------------------ whole data sets


def predict_records(
    run: ViewpointRun,
    records: Sequence[pix3d.Record],
    *,
    corruption: tuple[samples.Corruption, float] | None = None,
    normals: Literal["oracle", "files", "predicted"] | None = None,
) -> Viewpoints:
    """Viewpoints of the objects of a Pix3D data set, from their own boxes and masks.

    Args:
        run: a trained run.
        records: of `pix3d.read`.
        corruption: what is wrong with the masks, and how much, see `viewpoint_crops.corrupt`.
        normals: where they come from, for a network that looks at them, see `normals_of`.
    """
    kind = normals_of(run, normals)
    source: Any = run.normals if kind == "predicted" else kind
    edges: Any = (
        "files" if kind == "files" else "predicted" if kind == "predicted" and run.learned_from_network else "classical"
    )
    order = sorted(range(len(records)), key=lambda i: records[i].shape)  # each CAD model is read once
    parts = []
    for first in range(0, len(order), CHUNK):
        rows = order[first : first + CHUNK]
        crops = samples.PhotoCrops(
            [records[i] for i in rows], run.config.input_size, normals=source, edges=edges, corruption=corruption,
            scale=run.config.crop_scale, seed=first, predictor_name=str(run.path),
        )  # fmt: skip
        for batch in torch.arange(len(rows)).split(BATCH):
            parts.append(_of_crops(run.model, torch.stack([crops[k]["image"] for k in batch.tolist()])))
    back = torch.tensor(order).argsort()
    return Viewpoints(*(torch.cat(values)[back] for values in zip(*parts, strict=True)))


def normals_of(run: ViewpointRun, source: str | None = None) -> Literal["oracle", "files", "predicted", "none"]:
    """Where the normals of a data set's photos come from: `source`, else as in the run's training, else from its own network,
    else from the oracle; "none" for a network that does not look at them.

    Raises:
        ValueError: they should be predicted, and there is no network for it.
    """
    if not run.sees("boundaries"):
        return "none"
    if not run.sees("normals") and not run.learned_from_network:  # boundaries may lie beside normals that were made by hand
        return "files" if run.trained.get("normals") == "files" else "none"
    found = source or ("predicted" if run.learned_from_network or run.normals is not None else None)
    kind: Any = found or run.trained.get("normals", "oracle")
    if kind == "predicted" and run.normals is None:
        raise ValueError(f"{run.path} has no normals.safetensors to predict normals with; put one there, or take the oracle")
    return kind


def predictions(
    run: ViewpointRun, records: Sequence[pix3d.Record], seen: Viewpoints, **about: Any
) -> dict[str, Any]:  # fmt: skip
    """The content of predictions.json, which `evaluation.viewpoint` reads; `about` says where it comes from."""
    rows = []
    for record, angles, bins, probabilities in zip(records, *_plain(seen), strict=True):
        row = {"image": record.image, "category": record.category, **_degrees(angles)}
        rows.append({**row, "bins": bins, "probabilities": probabilities})
    config = run.config
    return {
        "bins": config.bins, "net": config.net, "inputs": config.inputs, **about,
        "categories": sorted({r.category for r in records}), "images": rows,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- poses


def poses(
    seen: Viewpoints, boxes: Tensor, camera: Camera | Tensor, points: Tensor, label: int = 1, name: str = ""
) -> PoseEstimates:  # fmt: skip
    """Poses from viewpoints, boxes and the size of the object: a start for a refiner.

    Args:
        seen: viewpoints of N objects.
        boxes: around them, (N, 4), xyxy on pixel edges. They must hold the whole object, also what is hidden or cut off.
        camera: of the picture, or its K, (3, 3).
        points: of the object, (P, 3), metres, object frame: the vertices of its CAD model, or `box_corners(size)`.
        label: object id of all of them.
        name: of the object.

    Returns:
        PoseEstimates; the score is the product of the probabilities of the three bins. There is no covariance: a distribution
        over bins is none of a Gaussian.
    """
    K = camera.K if isinstance(camera, Camera) else camera
    found = fill_boxes(seen.angles, boxes, K, points)
    count = len(found)
    scores = seen.probabilities.amax(-1).prod(-1).float()
    return PoseEstimates(
        torch.full((count,), label), found.float(), scores, boxes=boxes.detach().cpu().float(),
        names={label: name} if name else {},
    )  # fmt: skip


def box_corners(size: Sequence[float]) -> Tensor:
    """Corners of a box around the origin, width (X), depth (Y) and height (Z) in metres -> (8, 3), float64."""
    if len(size) != 3 or not all(math.isfinite(s) and s > 0 for s in size):
        raise ValueError(f"a size is width, depth and height in metres, all above 0, got {tuple(size)}")
    half = torch.tensor(size, dtype=torch.float64) / 2
    return torch.cartesian_prod(*(torch.stack([-h, h]) for h in half))


def fill_boxes(angles: Tensor, boxes: Tensor, K: Tensor, points: Tensor) -> Tensor:
    """Where objects of known viewpoint and shape stand, if their projections fill given boxes.

    The projected points' box gets the centre of the given one, and its area. Position and distance are corrected in turn, from
    the pose that would fill the box without perspective on.

    Args:
        angles: azimuth, elevation, in-plane rotation as if the camera looked at the object's origin, (N, 3), radians.
        boxes: (N, 4), xyxy on pixel edges.
        K: (3, 3), pixels.
        points: (P, 3), object frame.

    Returns:
        cam_from_obj, (N, 4, 4), float64, in the unit of the points.

    Raises:
        ValueError: on wrong shapes, empty boxes, or points that have no extent.
    """
    angles, boxes, K, points = (v.detach().cpu().double() for v in (angles, boxes, K, points))
    if angles.shape[-1:] != (3,) or boxes.shape != (len(angles), 4) or K.shape != (3, 3) or points.shape[-1:] != (3,):
        raise ValueError(
            "expected angles (N, 3), boxes (N, 4), K (3, 3) and points (P, 3), got "
            + ", ".join(str(tuple(v.shape)) for v in (angles, boxes, K, points))
        )
    size = boxes[:, 2:] - boxes[:, :2]
    if bool((size <= 0).any()):
        raise ValueError(f"boxes must have x0 < x1 and y0 < y1, got {boxes.tolist()}")
    if not len(angles):
        return torch.zeros(0, 4, 4, dtype=torch.float64)
    R = viewpoints.rotation_of(angles)
    seen = points @ R.mT  # (N, P, 3), along the ray through the origin
    extent = seen.amax(1) - seen.amin(1)
    if not bool((extent[:, :2] > 0).all()):
        raise ValueError("the points have no extent as seen from there; give the corners or vertices of a solid object")
    focal = torch.stack([K[0, 0], K[1, 1]])
    front = -seen[..., 2].amin(1)  # of the object before its origin
    distance = (focal.prod() * extent[:, :2].prod(-1) / size.prod(-1)).sqrt() + extent[:, 2] / 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5
    ray = torch.cat([centre, torch.ones_like(centre[:, :1])], -1) @ torch.linalg.inv(K).T
    t = torch.nn.functional.normalize(ray, dim=-1) * torch.maximum(distance, 1.05 * front)[:, None]
    for _ in range(60):
        pose = se3.egocentric_from_allocentric(se3.from_rt(R, t))
        pixels = camera_ops.project(se3.transform(pose, points), K, z_min=1e-3 * float(extent.max()))
        low, high = pixels.amin(1), pixels.amax(1)
        ratio = ((high - low).prod(-1) / size.prod(-1)).sqrt().clamp(0.25, 4)
        away = t.norm(dim=-1)
        # what fills the box lies between front and origin; measured from the front, corrections do not overshoot
        reach = torch.maximum((away - front) * ratio + front, front + 0.02 * extent[:, 2])
        shift = (centre - (low + high) / 2) / focal * t[:, 2:]
        moved = t * (reach / away)[:, None] + torch.cat([shift, torch.zeros_like(shift[:, :1])], -1)
        step = (moved - t).norm(dim=-1) / away
        t = moved
        if bool((step < 1e-9).all()):
            break
    return se3.egocentric_from_allocentric(se3.from_rt(R, t))
