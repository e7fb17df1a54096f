"""The refiner at work: poses in, better poses out, and never a worse one on purpose.

`refine` runs the network of `objects/refiner.py` over a batch of poses; `predict` over the objects of a photo, with several
starts each if wanted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import se3
from ..types import Frame, ObjectModel, PoseEstimates
from . import refiner
from .refiner import Z_MIN, Iteration, Model, RefinerObject, Step, from_centres, to_centres

TOGETHER = 32  # poses that `predict` refines at once, which bounds the memory


class Refined(NamedTuple):
    """What `refine` returns, for B objects."""

    cam_from_obj: Tensor  # (B, 4, 4), metres
    converged: Tensor  # (B,), bool: the pose was refined, and the network holds the result for better than the start
    error: Tensor  # (B,), mean point distance of the result in diameters, as the network guesses it
    covariance: Tensor  # (B, 6, 6), of the result, metres and radians, see `refiner.covariance`; infinite if not rendered
    rounds: list[Iteration]  # of the objects that could be rendered
    rows: Tensor  # (n,), which objects those are


@torch.no_grad()
def refine(
    model: Model,
    images: Tensor,
    K: Tensor,
    objects: Sequence[RefinerObject],
    cam_from_obj: Tensor,
    outer: int | None = None,
    inner: int | None = None,
) -> Refined:
    """Refine the poses of B objects.

    Args:
        model: the network, in evaluation mode.
        images: the picture that shows all of them, (3, H, W), RGB in [0, 1], or a picture of each, (B, 3, H, W).
        K: (3, 3) or (B, 3, 3), pixels.
        objects: of `prepare_object`.
        cam_from_obj: initial poses, (B, 4, 4), metres.
        outer, inner: renderings, and steps per rendering; None: as configured.

    Returns:
        `Refined`. An object whose pose is not finite, behind the camera, outside the picture or less than 10 pixels wide, keeps
        it, not converged. Objects do not influence each other.
    """
    config, device = model.config, cam_from_obj.device
    outer, inner = outer or config.outer, inner or config.inner
    K = K.to(cam_from_obj).expand(len(cam_from_obj), 3, 3)
    centred_poses = to_centres(cam_from_obj, objects)
    rows = _usable(objects, centred_poses, K, (images.shape[-2], images.shape[-1])).nonzero()[:, 0]
    result = cam_from_obj.clone()
    converged = torch.zeros(len(result), dtype=torch.bool, device=device)
    error = torch.full((len(result),), torch.inf, dtype=result.dtype, device=device)
    covariance = torch.full((len(result), 6, 6), torch.inf, dtype=result.dtype, device=device)
    rounds: list[Iteration] = []
    if len(rows) == 0:
        return Refined(result, converged, error, covariance, rounds, rows)
    shown = images if images.dim() == 3 else images[rows]
    batch = model.gather([objects[i] for i in rows.tolist()], device)
    pose = centred_poses[rows].float()
    for _ in range(outer):
        rounds.append(model.round(batch, shown, K[rows].float(), pose, inner))
        after = rounds[-1].steps[-1].after
        pose = torch.where(_in_front(after)[:, None, None], after, pose)
    rounds.append(model.round(batch, shown, K[rows].float(), pose, 1))  # the judgement of the result
    before, now = rounds[0].steps[0].error, rounds[-1].steps[0].error
    better = (now <= before) & torch.isfinite(now)
    better &= _usable(batch.objects, pose, K[rows].float(), (images.shape[-2], images.shape[-1]))  # nothing else can be judged
    result[rows[better]] = from_centres(pose, batch.objects)[better].to(result)  # the others keep theirs to the last bit
    converged[rows] = better
    error[rows] = torch.where(better, now, before).exp().to(error)
    kept, moved = (refiner.covariance(r, batch.objects) for r in (rounds[0], rounds[-1]))
    covariance[rows] = torch.where(better[:, None, None], moved, kept).to(covariance)
    return Refined(result, converged, error, covariance, rounds, rows)


def _in_front(pose: Tensor) -> Tensor:
    return torch.isfinite(pose).flatten(1).all(1) & (pose[:, 2, 3] > Z_MIN)


FAILURES = ("", "not finite", "behind the camera", "outside the picture", "less than 10 pixels wide")


def failure_reason(corners: Tensor, cam_from_obj: Tensor, K: Tensor, size: tuple[int, int]) -> Tensor:
    """Why poses cannot be refined, as places in `FAILURES`: 0 where all of the object is in front of the camera, some of it in
    the picture, and its box at least 10 pixels wide or high.

    Args:
        corners: of the objects' boxes, (B, 8, 3), metres, object frame.
        cam_from_obj: (B, 4, 4), metres.
        K: (B, 3, 3), pixels.
        size: of the picture, (h, w).

    Returns:
        (B,), int64: the first that holds.
    """
    finite = torch.isfinite(cam_from_obj).flatten(1).all(1) & torch.isfinite(K).flatten(1).all(1)
    safe = torch.where(finite[:, None, None], cam_from_obj, torch.eye(4).to(cam_from_obj))
    points = se3.transform(safe, corners.to(cam_from_obj))
    box = box_ops.from_points(camera_ops.project(points, torch.where(finite[:, None, None], K, torch.eye(3).to(K)), Z_MIN))
    inside = (box[:, 0] < size[1]) & (box[:, 1] < size[0]) & (box[:, 2] > 0) & (box[:, 3] > 0)
    fine = [finite, (points[..., 2] > Z_MIN).all(1), inside, (box[:, 2:] - box[:, :2]).amax(1) >= 10]
    found = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for code in range(len(fine), 0, -1):
        found = torch.where(fine[code - 1], found, code)
    return found


def _usable(objects: Sequence[RefinerObject], cam_from_obj: Tensor, K: Tensor, size: tuple[int, int]) -> Tensor:
    corners = [o.model.corners for o in objects]
    return failure_reason(torch.stack(corners) if corners else torch.zeros(0, 8, 3), cam_from_obj, K, size) == 0


class RefinementTrace(NamedTuple):
    """How the pose of one object was refined, for pictures."""

    row: int  # of the poses that came in
    model: ObjectModel  # centred, as are all poses here: see `Known`
    start: Tensor  # (4, 4), metres: the pose that came in
    hypothesis: int  # 0: the result comes from that pose; k: from the k-th further start
    cam_from_obj: Tensor  # (4, 4), metres: the result
    converged: bool
    error: tuple[float, float]  # of the pose it began with, and of the result, as the network guesses it: see `Refined`
    rounds: list[Iteration]  # B = 1; the last one only judges the result


def predict(
    model: Model,
    frame: Frame,
    poses: PoseEstimates,
    models: Mapping[int, ObjectModel],
    *,
    hypotheses: Tensor | None = None,
    outer: int | None = None,
    inner: int | None = None,
) -> PoseEstimates:
    """Refine the poses of all objects in one frame, in one batch.

    Of several starts of an object the one wins whose result has the smallest error as the network guesses it (`Refined.error`);
    its own pose wins ties. Scores stay what they were: they rank objects, and the guessed error ranks poses of one object.

    Args:
        model: the network, in evaluation mode.
        frame: the picture, undistorted.
        poses: initial poses, N objects.
        models: CAD models by object id.
        hypotheses: further starts of each object, (N, H, 4, 4), metres; those that cannot be refined do not count.
        outer, inner: renderings, and steps per rendering; None: as configured.

    Returns:
        the poses in the same order. `refined` says which of them were refined, see `refine`; the others are as they came, or
        as the start that won. The covariance of what moved is `refiner.covariance`; what did not keeps its own, if it has one.

    Raises:
        ValueError: there are objects without a model; `hypotheses` does not fit.
    """
    return predict_traced(model, frame, poses, models, hypotheses=hypotheses, outer=outer, inner=inner)[0]


@torch.no_grad()
def predict_traced(
    model: Model,
    frame: Frame,
    poses: PoseEstimates,
    models: Mapping[int, ObjectModel],
    *,
    hypotheses: Tensor | None = None,
    outer: int | None = None,
    inner: int | None = None,
) -> tuple[PoseEstimates, list[RefinementTrace]]:
    """`predict`, and how every object that could be rendered was refined."""
    began = time.perf_counter()
    labels = poses.labels.tolist()
    if missing := sorted(set(labels) - set(models)):
        have = ", ".join(str(i) for i in sorted(models)) or "none"
        raise ValueError(
            f"no CAD model of object(s) {', '.join(map(str, missing))}, which the refiner has to render; models are there of: "
            f"{have}"
        )
    count, device = len(poses), model.log_sigma.device
    starts = poses.cam_from_obj[:, None]
    if hypotheses is not None:
        if hypotheses.dim() != 4 or len(hypotheses) != count or hypotheses.shape[2:] != (4, 4):
            raise ValueError(f"hypotheses must be ({count}, H, 4, 4), H starts for each pose, got {tuple(hypotheses.shape)}")
        starts = torch.cat([starts, hypotheses.to(starts)], 1)
    each = starts.shape[1]
    objects = [o for o in (model.cached_object(models[label]) for label in labels) for _ in range(each)]
    flat, K = (v.to(device, torch.float32) for v in (starts.flatten(0, 1), frame.camera.K))
    image = frame.image.to(device)
    image = image if image.dtype == torch.float16 else image.float()  # a large picture stays as small as it is
    parts = [
        refine(model, image, K, objects[i : i + TOGETHER], flat[i : i + TOGETHER], outer, inner)
        for i in range(0, len(flat), TOGETHER)
    ]
    if not parts:
        nothing = torch.zeros(0, dtype=torch.bool, device=starts.device)
        return replace(poses, refined=nothing, seconds=poses.seconds | {"refiner": time.perf_counter() - began}), []
    error = torch.cat([p.error for p in parts]).to(starts).nan_to_num(nan=math.inf).unflatten(0, (count, each))
    best = error.sort(dim=1, stable=True).indices[:, 0]
    rows = torch.arange(count, device=best.device)
    refined = torch.cat([p.cam_from_obj for p in parts]).to(starts).unflatten(0, (count, each))[rows, best]
    converged = torch.cat([p.converged for p in parts]).to(starts.device).unflatten(0, (count, each))[rows, best]
    result = torch.where(converged[:, None, None], refined, starts[rows, best])
    covariance = torch.cat([p.covariance for p in parts]).to(starts).unflatten(0, (count, each))[rows, best]
    if poses.covariance is not None:
        covariance = torch.where((converged | (best > 0))[:, None, None], covariance, poses.covariance.to(covariance))
    seconds = poses.seconds | {"refiner": time.perf_counter() - began}
    traces = []
    for row, hypothesis in enumerate(best.tolist()):
        part, place = divmod(row * each + hypothesis, TOGETHER)
        at = (parts[part].rows == place).nonzero()[:, 0].tolist()
        if not at or not parts[part].rounds:
            continue
        mine = [_of_one(r, at[0]) for r in parts[part].rounds]
        guessed = (float(mine[0].steps[0].error.exp()), float(error[row, hypothesis]))
        mine_alone = objects[row * each]
        ends = to_centres(torch.stack([poses.cam_from_obj[row], result[row]]), [mine_alone] * 2)
        shown = mine_alone.model, ends[0], hypothesis, ends[1]
        traces.append(RefinementTrace(row, *shown, bool(converged[row]), guessed, mine))
    return replace(poses, cam_from_obj=result, covariance=covariance, refined=converged, seconds=seconds), traces


def _of_one(now: Iteration, row: int) -> Iteration:
    """One object's part of a round, B = 1."""
    steps = [Step(*(value[row : row + 1] for value in step)) for step in now.steps]
    mine = {k: v[row : row + 1] for k, v in now._asdict().items() if isinstance(v, Tensor) and k != "pixels"}
    return now._replace(**mine, steps=steps)
