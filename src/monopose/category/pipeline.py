"""A category run on photos and NOCS folders: masks, fitting, metric poses."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import weights
from ..command import Result, save_picture
from ..datasets import nocs
from ..detection import LEAST_SCORE
from ..detection import detector as detection
from ..evaluation import nocs as scoring
from ..geometry import boxes as box_ops
from ..io import limits
from ..io.files import existing_file, write_json
from ..io.images import as_frame
from ..prediction import Prediction
from ..types import Camera, Detections, Frame, PoseEstimates
from ..viz import errors
from . import fitting, viz
from . import model as category
from .fitting import Fit, FitConfig
from .model import Model

FILE = "category.safetensors"
MOST_VALUES = 64  # of a mask file: with more it is a photo of a mask, smooth or compressed


@dataclass(frozen=True)
class CategoryRun:
    """A trained category, ready to fit.

    Args:
        model: generator and encoder.
        path: the run folder.
        detector: detector in the same folder, or None; all that it finds belongs to the category.
        trained: what its training wrote down about its shapes.
    """

    model: Model
    path: Path
    detector: detection.Model | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)

    def with_size(self, size: Sequence[float]) -> CategoryRun:
        """The same run for objects of this width, depth and height, metres."""
        if len(size) != 3 or not all(v > 0 for v in size):
            raise ValueError(f"a size is three lengths in metres above 0, got {tuple(size)}")
        model = copy.copy(self.model)  # of the same parameters
        model.config = replace(self.model.config, size_mean=math.hypot(*size), size_spread=0.02)
        return replace(self, model=model)

    def detect(self, frame: Frame, score_threshold: float = LEAST_SCORE) -> Detections:
        """The objects of the category, with masks. ValueError if the run has no detector."""
        if self.detector is None:
            raise ValueError(
                f"{self.path} has no detector, so it needs to know where the objects are: --mask FILE (white where the object "
                "is), or --boxes x0,y0,x1,y1"
            )
        device = next(self.detector.parameters()).device
        found = detection.predict(self.detector, frame.image.to(device), score_threshold)[0].to("cpu")
        return replace(found, labels=torch.ones_like(found.labels))

    def __call__(
        self, source: Any, camera: Any = None, *, fov_deg: float | None = None, detections: Detections | None = None
    ) -> Prediction:
        """`predict` of a picture of whatever kind, see `io.images.as_frame`."""
        frame = as_frame(source, camera, fov_deg=fov_deg)
        return Prediction(frame.to("cpu"), self.predict(frame, detections).to("cpu"))

    def predict(
        self, frame: Frame, detections: Detections | None = None, config: FitConfig | None = None,
        score_threshold: float = LEAST_SCORE,
    ) -> PoseEstimates:  # fmt: skip
        """Poses of the category's objects in one picture.

        Args:
            frame: the picture and its camera, undistorted.
            detections: objects with masks; None: from the run's detector.
            config: the search.
            score_threshold: least score of what the run's detector finds.

        Returns:
            PoseEstimates, see `fitting.predict`.

        Raises:
            ValueError: no masks, or no detector and no detections.
        """
        return self.predict_traced(frame, detections, config, score_threshold)[0]

    def predict_traced(
        self, frame: Frame, detections: Detections | None = None, config: FitConfig | None = None,
        score_threshold: float = LEAST_SCORE,
    ) -> tuple[PoseEstimates, list[Fit]]:  # fmt: skip
        """`predict`, and the fit of each pose."""
        found = self.detect(frame, score_threshold) if detections is None else detections
        return fitting.predict_traced(self.model, frame, found, config)


def load(name: str | Path, device: torch.device | str | None = None) -> CategoryRun:
    """Open a run folder, or the weights file in one.

    Raises:
        FileNotFoundError, ValueError: no such run, no category.safetensors in it, a truncated or foreign file; no such device.
    """
    where = weights.choose_device(device)
    folder, file = weights.find_file(name, "category", "--category mug")
    model, files = weights.load_network(file, "category", category.Config, Model).to(where), weights.weights_in(folder)
    detector = None
    if "detector" in files:
        detector = weights.load_network(files["detector"], "detector", detection.Config, detection.Model)
    trained = weights.noted(file)
    return CategoryRun(model, folder, None if detector is None else detector.to(where), trained)


def pose_record(model: Model, fit: Fit, camera_known: bool = True) -> dict[str, Any]:
    """What a result says beside the pose, in plain numbers."""
    config, view = model.config, fit.view
    metric = fit.metric and camera_known
    end = float(fit.losses[fit.chosen])
    row: dict[str, Any] = {
        "category": config.category,
        "symmetric": config.symmetric,
        "metric": metric,
        "view": {f"{k}_deg": math.degrees(float(v)) for k, v in zip(("azimuth", "elevation", "inplane"), view[:3])},
        "scale": float(view.scale),
        "loss": end,
        "loss_of_pose_head": None if math.isnan(fit.head_loss) else fit.head_loss,
        "ends": [
            {"loss": float(v), "angles_deg": [math.degrees(float(a)) for a in values[:3]]}
            for v, values in zip(fit.losses, fit.views.values, strict=True)
        ],
        "votes": fit.votes,
        "chosen_by": "pose head" if fit.kept_head else "least loss" if fit.chosen == fit.least else "vote",
        "features": fit.features,
        "seconds": fit.seconds,
    }
    if metric:
        spread = fitting.distance(fit, config.size_mean) * config.size_spread
        return row | {"size_m": config.size_mean, "size_spread": config.size_spread, "distance_std_m": spread}
    why = "the camera is not known" if fit.metric else "the run does not know how large its objects are"
    return row | {"why_not_metric": why}


def draw_overlay(
    model: Model, frame: Frame, poses: PoseEstimates, fits: Sequence[Fit], truth: Tensor | None = None
) -> Image.Image:
    """The photo with the axes of every object; true ones white."""
    size = model.config.size_mean or 1.0
    texts = [f"{model.config.category} {float(s):.2f}" for s in poses.scores]
    return viz.draw_overlay(frame, poses.cam_from_obj, texts, [size] * len(fits), truth, model.config.symmetric)


# ------------------------------------------------------------------------------------------------------ where objects are


def as_detections(masks: Tensor) -> Detections:
    """Objects of the category from their masks, (N, H, W), bool."""
    return Detections(torch.ones(len(masks)).long(), box_ops.from_masks(masks).float(), torch.ones(len(masks)), masks)


def read_masks(path: str | Path) -> Tensor:
    """Masks of the objects of a picture.

    Args:
        path: a picture, white where the only object is; or with a number for each object and 0 (or 255, if there is no 0)
            where there is none.

    Returns:
        (N, H, W), bool, N >= 1.

    Raises:
        ValueError: nothing in it.
    """
    with limits.picture(existing_file(path, "mask"), str(path)) as picture:
        values = np.asarray(picture if picture.mode in ("L", "P", "I", "I;16", "1") else picture.convert("L")).astype(np.int64)
    found = np.unique(values)
    if len(found) == 1:
        raise ValueError(f"{path} is an empty mask: all of it is {found[0]}; expected white where the object is")
    if len(found) > MOST_VALUES or len(found) == 2:
        top = values > (int(found[0]) + int(found[-1])) / 2
        return torch.from_numpy(top if 0 in found or len(found) > 2 else ~top)[None]
    ground = 0 if 0 in found else 255 if 255 in found else int(found[0])
    return torch.from_numpy(np.stack([values == v for v in found if v != ground]))


def cut_out(image: Tensor, box: Tensor, rounds: int = 5) -> Tensor:
    """The object in a box, by colour.

    Args:
        image: (3, H, W), RGB in [0, 1].
        box: (4,), xyxy on pixel edges.
        rounds: of the algorithm.

    Returns:
        (H, W), bool; all of the box where no colours tell the object from what is around it.

    Source: Rother et al., GrabCut (SIGGRAPH 2004), in OpenCV.
    """
    import cv2

    height, width = image.shape[1:]
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if x1 - x0 < 2 or y1 - y0 < 2:
        raise ValueError(f"the box {[round(float(v)) for v in box]} does not lie in the picture of {width} x {height} pixels")
    margin = max(x1 - x0, y1 - y0) // 2  # far pixels would only slow it down
    left, top = max(x0 - margin, 0), max(y0 - margin, 0)
    part = image[:, top : min(y1 + margin, height), left : min(x1 + margin, width)]
    pixels = np.ascontiguousarray((part.permute(1, 2, 0).cpu().numpy()[..., ::-1] * 255).round().astype(np.uint8))
    labels = np.zeros(pixels.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    inside = np.zeros((height, width), bool)
    inside[y0:y1, x0:x1] = True
    if (x1 - x0) * (y1 - y0) < pixels.shape[0] * pixels.shape[1]:
        area = (x0 - left, y0 - top, x1 - x0, y1 - y0)
        cv2.grabCut(pixels, labels, area, np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_RECT)
        kept = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
        if kept.sum() >= 0.05 * (x1 - x0) * (y1 - y0):
            found = np.zeros((height, width), bool)
            found[top : top + kept.shape[0], left : left + kept.shape[1]] = kept
            return torch.from_numpy(found)
    return torch.from_numpy(inside)


# ------------------------------------------------------------------------------------------------------------- NOCS's data


def predict_nocs(
    run: CategoryRun, data: str | Path, out: str | Path, *, camera: Camera | None = None, config: FitConfig | None = None,
    limit: int | None = None, overlap: scoring.Overlap = "oriented", progress_bar: bool = True,
    detections: str | Path | None = None, gts: str | Path | None = None,
) -> Result:  # fmt: skip
    """Fit the objects of a run's category in photos of REAL275's or CAMERA25's layout, and score them by NOCS's protocol.

    Boxes, which 3D IoU needs, have the mean proportions of the category's training shapes. Beside the report lie the
    protocol's curves, OUT without its suffix + _curves.

    Args:
        run: a trained run.
        data: folder with 0000_color.png and so on somewhere below; extents come from a folder obj_models in it or beside it,
            else from the coordinates seen.
        out: the report, a JSON file.
        camera: of the photos; None: that of the data set.
        config: the search.
        limit: stop after this many photos.
        overlap: which 3D IoU, see `evaluation.nocs`.
        progress_bar: show one.
        detections: folder of NOCS's detections, whose masks and scores are taken; None: the data set's own masks.
        gts: folder of the published ground truth; None: from coordinates and depth.

    Raises:
        FileNotFoundError: a photo has no file in one of these folders.
        ValueError: the run does not know how large its objects are, or no photo shows one.
    """
    from tqdm import tqdm

    from . import training

    model, name = run.model, run.model.config.category
    if name not in nocs.CLASSES:
        raise ValueError(f"{run.path} knows {name}, which is none of NOCS's categories: {', '.join(nocs.CLASSES)}")
    if not model.config.size_mean > 0:
        raise ValueError(f"{run.path} does not know how large its objects are (size_mean is 0); NOCS's scores are in metres")
    label = nocs.CLASSES.index(name) + 1
    bounds = run.trained.get("bounds") or training.proportions(training.made_shapes(name))
    bounds = model.config.size_mean * torch.as_tensor(bounds, dtype=torch.float64)
    models = next((p / "obj_models" for p in (Path(data), Path(data).parent) if (p / "obj_models").is_dir()), None)
    found_by, true_by = (None if folder is None else nocs.by_photo(folder) for folder in (detections, gts))
    results: list[nocs.Results] = []
    stems = nocs.find(data)[:limit]
    for stem in tqdm(stems, desc=name, disable=not progress_bar):
        photo = nocs.read(stem, camera, models)
        key = f"{stem.parent.name}/{stem.name}"
        labels, masks, certain = photo.labels, photo.masks, torch.ones(len(photo.masks))
        if found_by is not None:
            size = (photo.image.shape[-2], photo.image.shape[-1])
            labels, certain, masks = nocs.read_detections(nocs.of_photo(found_by, key, str(detections)), size)
        if true_by is not None:
            known = nocs.read_results(nocs.of_photo(true_by, key, str(gts)))
            true = known.labels_true, known.cam_from_obj_true, known.sizes_true
        else:
            known, true = None, (photo.labels, *nocs.poses(photo))
        mine, theirs = (labels == label) & masks.any(-1).any(-1), true[0] == label
        found = replace(as_detections(masks[mine]), scores=certain[mine])
        frame = Frame(photo.image, photo.camera)
        poses = fitting.predict(model, frame, found, config, hidden=masks[~mine].any(0))
        placed, lengths = nocs.from_category(poses.cam_from_obj.double().cpu(), bounds.expand(len(poses), 2, 3))
        handles = known.handle_visible if known is not None else None
        results.append(nocs.Results(
            true[0][theirs], true[1][theirs], true[2][theirs],
            torch.full((len(poses),), label), placed, lengths, poses.scores.cpu(),
            None if handles is None else handles[theirs], str(stem),
        ))  # fmt: skip
    scores = scoring.evaluate(results, overlap)
    of = "the data set's own" if detections is None else f"NOCS's detections, {detections}"
    write_json(Path(out), {"category": name, "masks": of, "run": str(run.path), **scores})
    drawn = save_curves(Path(out).with_name(f"{Path(out).stem}_curves"), results, overlap, scores)
    return Result({"report": str(out), "scores": scores} | drawn, f"{scoring.text(scores)}\nreport: {out}")


def save_curves(
    folder: Path, results: Sequence[nocs.Results], overlap: scoring.Overlap, scores: Mapping[str, Any]
) -> dict[str, str]:
    """Write scores.json, with the precision at every threshold of the protocol, and curves.png; returns their paths."""
    curves = scoring.curves(results, overlap)
    write_json(folder / "scores.json", {**scores, "curves": curves})
    picture = save_picture(folder / "curves.png", errors.precision_curves(curves))
    return {"curves": str(picture), "thresholds": str(folder / "scores.json")}
