"""What a network achieves on renderings that it does not learn from, again and again while it learns; see `training.progress`.

They are drawn as those of the training, from other random numbers, once, and stay the same until the end and from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..detection import LEAST_SCORE, detector
from ..evaluation.bop import Object
from ..evaluation.calibration import LIMIT
from ..geometry import boxes as box_ops
from ..types import Camera, Detections, Frame, ObjectModel, PoseEstimates
from . import coordinates, judging, probabilistic, refinement, refiner, silhouettes

SEED = 77_077  # of the held-out samples; apart from those of training, calibration and report
CROPS, PICTURES = 64, 24
OVERLAP = 0.5  # box IoU from which an object is found
VISIBLE = 0.1  # objects of which less is seen need not be found
GROSS = 0.5  # diameters: how wrong a pose is beyond that does not matter


def measure(
    method: str, config: Any, models: Mapping[int, ObjectModel], samples: Callable[[int, int], Dataset]
) -> Callable[[Any], dict[str, float]]:
    """What `training.loop.fit` takes to measure the networks of a method.

    Args:
        method: a key of `training.METHODS`.
        config: of the method.
        models: the objects that it learns.
        samples: (length, seed) -> samples as those of the training.
    """
    count = PICTURES if method == "detector" else CROPS

    @cache
    def drawn() -> list[dict[str, Tensor]]:
        dataset = samples(count, SEED)
        return [dataset[i] for i in range(count)]

    @cache
    def objects() -> dict[int, Object]:
        return {i: judging.judged_by(models[i]) for i in {int(s["label"]) for s in drawn()}}

    if method == "detector":
        return lambda model: _detection(model, drawn())
    if method == "refiner":
        return lambda model: _refinement(model, drawn(), models, objects())
    if method == "silhouettes":
        return lambda model: _outlines(model, drawn(), models, objects())
    scale = config.crop_scale
    return lambda model: _poses([_pose(model, s, scale, models) for s in drawn()], drawn(), objects())


def _pose(model: Any, sample: Mapping[str, Tensor], scale: float, models: Mapping[int, ObjectModel]) -> Tensor | None:
    """The pose that a network finds in one crop, as in a photo whose detector has cut it."""
    image = sample["image"]
    side = image.shape[-1]
    box = box_ops.square(torch.tensor([[0.0, 0.0, side, side]]), 1 / scale)
    device = model.ids.device
    frame = Frame(image, Camera(sample["K"], (side, side))).to(device)
    found = Detections(sample["label"][None], box, torch.ones(1)).to(device)
    if isinstance(model, probabilistic.Model):
        poses = probabilistic.predict(model, frame, found)
    else:
        poses = coordinates.predict(model, frame, found, stages=1, models=models)
    return poses.cam_from_obj[0].cpu() if len(poses) else None


def _poses(
    poses: Sequence[Tensor | None], samples: Sequence[Mapping[str, Tensor]], objects: Mapping[int, Object]
) -> dict[str, float]:
    """Shares and medians of the poses in crops; one that is missing is wrong beyond measure."""
    found = []
    for pose, sample in zip(poses, samples, strict=True):
        if pose is None:
            found.append(judging.Error(np.inf, np.inf, np.inf))
        else:
            true = sample["cam_from_obj"].double().numpy()
            found.append(judging.judge(pose.double().numpy(), true, objects[int(sample["label"])]))
    share, mm, deg = (np.array(column) for column in zip(*found))
    figures = {"of": len(found), "right": float((share < LIMIT).mean()), "error": float(np.minimum(share / GROSS, 1).mean())}
    middle = {"mm": float(np.median(mm)), "deg": float(np.median(deg))}
    return figures | ({k: round(v, 3) for k, v in middle.items()} if np.isfinite(list(middle.values())).all() else {})


def _refinement(
    model: refiner.Model,
    samples: Sequence[Mapping[str, Tensor]],
    models: Mapping[int, ObjectModel],
    objects: Mapping[int, Object],
) -> dict[str, float]:
    device = model.log_sigma.device
    images, K, starts = (torch.stack([s[k] for s in samples]).to(device) for k in ("image", "K", "start"))
    known = [model.cached_object(models[int(s["label"])]) for s in samples]
    ends = [
        refinement.refine(model, images[i : i + 16], K[i : i + 16], known[i : i + 16], starts[i : i + 16]).cam_from_obj
        for i in range(0, len(samples), 16)
    ]
    before = _poses(list(starts.cpu()), samples, objects)["right"]
    return _poses(list(torch.cat(ends).cpu()), samples, objects) | {"before": before}


def _outlines(
    model: silhouettes.Model,
    samples: Sequence[Mapping[str, Tensor]],
    models: Mapping[int, ObjectModel],
    objects: Mapping[int, Object],
) -> dict[str, float]:
    device, ends, overlaps = next(model.parameters()).device, [], []
    for sample in samples:
        image, start = sample["image"].to(device), sample["start"][None]
        frame = Frame(image, Camera(sample["K"], (image.shape[-1],) * 2))
        label = sample["label"][None]
        poses = PoseEstimates(label, start, torch.ones(1), None, None)
        ends.append(silhouettes.predict(model, frame, poses, models).cam_from_obj[0].cpu())
        seen = model(image[None], sample["drawn"][None].to(device)).amodal[0].sigmoid().cpu()
        true = F.adaptive_avg_pool2d(sample["mask_full"][None].float(), seen.shape)[0]
        overlaps.append(float(torch.minimum(seen, true).sum() / torch.maximum(seen, true).sum().clamp_min(1e-6)))
    before = _poses([s["start"] for s in samples], samples, objects)["right"]
    return _poses(ends, samples, objects) | {"before": before, "iou": round(float(np.median(overlaps)), 4)}


def _detection(model: detector.Model, samples: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """How many objects get a box that overlaps theirs, and how many boxes are of nothing."""
    images = [s["image"].to(model.ids.device) for s in samples]
    best: list[float] = []
    wrong = 0
    for found, sample in zip(detector.predict(model, images, LEAST_SCORE), samples, strict=True):
        found = found.to("cpu")
        same = found.labels[:, None] == sample["labels"]
        overlap = box_ops.iou(found.boxes, sample["boxes"]) * same
        best += overlap.amax(0).tolist() if len(found) else [0.0] * len(sample["labels"])
        wrong += int((overlap < OVERLAP).all(1).sum())
    visible = np.concatenate([(s["visibility"] >= VISIBLE).numpy() for s in samples])
    seen = np.append(np.array(best)[visible], [] if visible.any() else [0.0])
    figures = {"found": float((seen > OVERLAP).mean()), "error": float(1 - seen.mean())}
    return {"of": int(visible.sum()), "false": wrong / len(samples), **figures}


def plain(config: Any) -> Any:
    """The configuration whose samples have no greyed crops: what a first look sees."""
    return replace(config, greyed_share=0.0) if hasattr(config, "greyed_share") else config
