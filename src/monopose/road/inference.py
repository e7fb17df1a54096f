"""Boxes of a photo: cells that are sure, their points, PnP in pixels of the photo, the best of those that overlap."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

from .. import pnp
from ..geometry import boxes as box_ops
from ..geometry import boxes3d
from ..geometry import camera as camera_ops
from ..types import Frame
from . import pyramid
from .config import Z_MIN, decode_sizes, score_target
from .losses import BoxTargets, box_targets
from .network import Model, Output, bounds_of, direct, direct_pose, from_ray

WIDEST = 0.4  # of the log of the distance: wider distributions hold no more than that something is there


class ResizedImage(NamedTuple):
    """A photo as the network takes it.

    image (3, height, width), with K (3, 3) for its pixels; photo pixel = (pixel + 0.5) / scale - 0.5 + (0, top), scale (2,).
    """

    image: Tensor
    K: Tensor
    scale: Tensor
    top: int


def resize_to_network(image: Tensor, K: Tensor, size: tuple[int, int]) -> ResizedImage:
    """Bring a photo to the network's size: as wide, what is too high cut off at the top, what is missing grey at the bottom.

    Args:
        image: (3, H, W), RGB in [0, 1].
        K: (3, 3), pixels.
        size: (height, width) of the result, pixels.

    Source: EPro-PnP-Det, which cuts 228 rows of sky off nuScenes' 900.
    """
    H, W = image.shape[-2:]
    top = max(0, H - round(size[0] * W / size[1]))
    content = (min(size[0], max(1, round((H - top) * size[1] / W))), size[1])
    shown = image[:, top:]
    if tuple(shown.shape[-2:]) != content:
        shown = F.interpolate(shown[None], content, mode="bilinear", antialias=True, align_corners=False)[0]
    box = K.new_tensor([0.0, top, W, H])
    scale = K.new_tensor([content[1] / W, content[0] / (H - top)])
    shown = F.pad(shown, (0, 0, 0, size[0] - content[0]), value=0.5)
    return ResizedImage(shown, camera_ops.crop_resize_K(K, box, content), scale, top)


class DetectedBoxes(NamedTuple):
    """What was found in one photo, best first: N boxes, S samples, P points.

    labels (N,), indices of `Config.classes`; scores (N,), in [0, 1]; class_scores (N,), that do not judge the box; cam_from_obj
    (N, 4, 4), metres, and sizes (N, 3), length, height, width, in the convention of `geometry.boxes3d`; boxes (N, 4), what the
    photo shows of them, xyxy pixel edges; velocities (N, 3), metres per second in the camera's axes; attributes (N,), indices
    of `Config.attributes`, -1 for none;
    samples (N, S, 4, 4) of the pose with log_weights (N, S), of the layer "direct", which knows no distribution, one, the pose;
    points3d (N, P, 3), metres, points2d (N, P, 2), pixels of the photo, weights (N, P, 2), 1 / pixels: the correspondences;
    converged (N,), bool: the samples are sound; seconds by stage.
    """

    labels: Tensor
    scores: Tensor
    class_scores: Tensor
    cam_from_obj: Tensor
    sizes: Tensor
    boxes: Tensor
    velocities: Tensor
    attributes: Tensor
    samples: Tensor
    log_weights: Tensor
    points3d: Tensor
    points2d: Tensor
    weights: Tensor
    converged: Tensor
    seconds: dict[str, float]

    def rows(self, index: Tensor) -> DetectedBoxes:
        """Those of an index or a mask."""
        return DetectedBoxes(*(v[index] if isinstance(v, Tensor) else v for v in self))  # type: ignore[arg-type]


class _Found(NamedTuple):
    """R objects of one photo before their poses, views of a flipped photo already merged; pixels are the photo's."""

    labels: Tensor
    of_class: Tensor
    quality: Tensor
    lhw: Tensor
    velocity: Tensor
    attributes: Tensor
    points3d: Tensor
    points2d: Tensor
    weights: Tensor
    pose: Tensor | None  # of the layer "direct"


@torch.no_grad()
def predict(
    model: Model,
    frame: Frame | Tensor,
    K: Tensor | None = None,
    *,
    flip: bool = False,
    samples: int | None = None,
    min_score: float = 0.04,
    max_candidates: int = 256,
    max_detections: int = 100,
    image_nms: float = 0.8,
    ground_nms: float = 0.25,
    posterior_scores: bool = False,
    central: bool = True,
) -> DetectedBoxes:
    """Find the objects of one photo.

    Args:
        model: on any device; its mode is the same afterwards.
        frame: a frame, or an image (3, H, W), RGB in [0, 1], of any size, without lens distortion.
        K: intrinsics of that image, (3, 3), pixels; of a frame they are known.
        flip: look at the mirrored photo too, and let the points of both decide together.
        samples: poses drawn per object; None: as in training.
        min_score: least class score x centerness of a cell that is looked at.
        max_candidates: cells that are looked at, at most, the best ones.
        max_detections: that are returned, at most.
        image_nms: of two boxes of a class whose projections overlap more, the better one stays.
        ground_nms: the same for rectangles seen from above.
        posterior_scores: put the expected quality of the pose, as its samples see it, in place of the predicted one.
        central: put the boxes where `at_median_distance` does; False: where the likelihood is greatest.

    Returns:
        Boxes, empty where nothing is found. The score is class score x quality of the box.

    Raises:
        ValueError: an image without K, or K or image of another shape.
    """
    image, K = _checked(frame, K)
    c, device = model.config, model.norm.device
    if not c.poses:
        raise ValueError("this network has learned to find objects but no poses; start a training from it (--init)")
    seconds = {"network": 0.0, "pnp": 0.0}
    training = model.training
    model.eval()
    try:
        started = time.perf_counter()
        shown = resize_to_network(image.to(device).float(), K.to(device).float(), c.size)
        found = _find(model, shown, flip, min_score, max_candidates)
        seconds["network"] = time.perf_counter() - started
    finally:
        model.train(training)
    started = time.perf_counter()
    K = K.to(device).float()
    boxes = _place(model, found, K, (image.shape[-2], image.shape[-1]), seconds)
    order = boxes.scores.argsort(descending=True, stable=True)
    boxes = boxes.rows(order[boxes.converged[order]])
    boxes = boxes.rows(batched_nms(boxes.boxes, boxes.scores, boxes.labels, image_nms))
    boxes = boxes.rows(_ground_nms(boxes, ground_nms)[:max_detections])
    boxes = _sampled(model, boxes, K, (image.shape[-2], image.shape[-1]), samples or c.samples)
    if central:
        boxes = at_median_distance(boxes, K, (image.shape[-2], image.shape[-1]))
    if posterior_scores and c.layer != "direct" and len(boxes.labels):
        off = (boxes.samples[..., (0, 2), 3] - boxes.cam_from_obj[:, None, (0, 2), 3]).norm(dim=-1)
        quality = (boxes.log_weights.softmax(-1) * score_target(off)).sum(-1)
        boxes = boxes._replace(scores=boxes.class_scores * quality)
        boxes = boxes.rows(boxes.scores.argsort(descending=True, stable=True))
    seconds["pnp"] = time.perf_counter() - started
    return boxes


@torch.no_grad()
def predict_at_truth(model: Model, sample: Mapping[str, Any], samples: int | None = None) -> tuple[DetectedBoxes, BoxTargets]:
    """What the network says about objects of known class where they truly are: how well it places them, without finding them.

    Args:
        model: on any device; its mode is the same afterwards.
        sample: an image of the network's size and its truth, as `losses.loss` learns from them, without a batch.
        samples: poses drawn per object; None: as in training.

    Returns:
        the boxes, and their truth, row by row. Objects that training leaves out are left out, and those to which another,
        nearer to every cell, leaves none. `converged` is False where no pose was found.
    """
    image, K = _checked(sample["image"], sample["K"])
    device, training = model.norm.device, model.training
    model.eval()
    try:
        shown = resize_to_network(image.to(device).float(), K.to(device).float(), model.config.size)
        output = model(shown.image[None])
        true = box_targets(model, {k: [v] for k, v in sample.items()})[0]
        owner = pyramid.assign(output.lattice, true.boxes, true.centres).owner
        away = (output.lattice.centres[:, None] - true.centres).norm(dim=-1)
        away = torch.where(owner[:, None] == torch.arange(len(true.labels), device=device), away, math.inf)
        seen = torch.isfinite(away).any(0)
        cell, true = away[:, seen].argmin(0), type(true)._make([*(v[seen] for v in true[:-1]), true.ignored])
        of_class = output.cells.logits[0, cell, true.labels].sigmoid()
        found = _described(model, shown, shown.K[None], output, cell[None], true.labels, of_class)
    finally:
        model.train(training)
    size = (image.shape[-2], image.shape[-1])
    boxes = _place(model, found, shown.K, size, {})
    return _sampled(model, boxes, shown.K, size, samples or model.config.samples), true


def _checked(frame: Frame | Tensor, K: Tensor | None) -> tuple[Tensor, Tensor]:
    if isinstance(frame, Frame):
        if frame.camera.distortion is not None:
            raise ValueError("this camera has lens distortion: undistort the picture with images.undistort first")
        return frame.image, frame.camera.K if K is None else K
    if frame.dim() != 3 or frame.shape[0] != 3 or not frame.is_floating_point():
        raise ValueError(f"an image must be (3, H, W), float RGB in [0, 1], got {tuple(frame.shape)} {frame.dtype}")
    if K is None:
        raise ValueError("distances need the camera: pass K, (3, 3) in pixels of this image, or a Frame, which has one")
    if tuple(K.shape) != (3, 3) or not bool(torch.isfinite(K).all()) or float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0:
        raise ValueError(f"K must be (3, 3) with positive focal lengths in pixels, got {K.tolist()}")
    return frame, K


def mirrored_K(K: Tensor, width: int) -> Tensor:
    """Intrinsics of the mirrored image. (..., 3, 3) -> (..., 3, 3), pixels."""
    K = K.clone()
    K[..., 0, 2] = width - 1 - K[..., 0, 2]
    return K


def mirrored_pose(cam_from_obj: Tensor) -> Tensor:
    """Level poses of the objects in the mirrored image: x and the side an object shows change sign. (..., 4, 4), metres."""
    centre = cam_from_obj[..., :3, 3] * cam_from_obj.new_tensor([-1.0, 1.0, 1.0])
    return boxes3d.from_yaw(centre, boxes3d.wrapped(math.pi - boxes3d.yaw_of(cam_from_obj)))


def _find(model: Model, shown: ResizedImage, flip: bool, min_score: float, most: int) -> _Found:
    """Class, size, velocity, attribute and points of what the network sees."""
    images, Ks = shown.image[None], shown.K[None]
    if flip:
        images = torch.cat([images, images.flip(-1)])
        Ks = torch.stack([shown.K, mirrored_K(shown.K, model.config.width)])
    output = model(images)
    of_class, sure = output.cells.logits.sigmoid(), output.cells.centerness.sigmoid()
    same = _mirror_cells(output.lattice) if flip else None
    if same is not None:
        of_class, sure = ((v[0] + v[1][same]) / 2 for v in (of_class, sure))
    else:
        of_class, sure = of_class[0], sure[0]
    rank = of_class * sure[:, None]
    best, flat = rank.flatten().topk(min(most, rank.numel()))
    flat = flat[best >= min_score]
    cell, labels = flat // len(model.config.classes), flat % len(model.config.classes)
    cells = cell[None] if same is None else torch.stack([cell, same[cell]])
    return _described(model, shown, Ks, output, cells, labels, of_class[cell, labels])


def _described(
    model: Model, shown: ResizedImage, Ks: Tensor, output: Output, cells: Tensor, labels: Tensor, of_class: Tensor
) -> _Found:
    """What the network says about objects in cells (1 or 2, R), of the photo and its mirror, of classes (R,)."""
    c = model.config
    look = model.look(output, cells, labels.expand(len(cells), -1))
    answers, views = look.answers, len(cells)
    mirror = look.noc.new_tensor([1.0, -1.0])[:views]  # of what changes its sign
    quality = answers.score.sigmoid().mean(0)
    velocity = answers.velocity * torch.stack([mirror, torch.ones_like(mirror)], -1)[:, None]
    velocity = from_ray(velocity.mean(0), look.reference[0], shown.K)
    lhw = decode_sizes(answers.size_code.mean(0), model.means[labels], model.stds[labels])
    kinds = answers.attributes.softmax(-1).mean(0).masked_fill(~model.allowed[labels], -1).argmax(-1)
    pose = None
    if c.layer == "direct":
        poses = direct_pose(*direct(c, look, Ks[:, None]), Ks[:, None])
        pose = poses[0] if views == 1 else _between(poses[0], mirrored_pose(poses[1]))
    # NOC z points to the object's left, which is its right in the mirror
    noc = look.noc * torch.stack([torch.ones_like(mirror), torch.ones_like(mirror), mirror], -1)[:, None, None]
    u = torch.where(mirror[:, None, None] > 0, look.pixels[..., 0], c.width - 1 - look.pixels[..., 0])
    pixels = (torch.stack([u, look.pixels[..., 1]], -1) + 0.5) / shown.scale - 0.5
    pixels = pixels + pixels.new_tensor([0.0, shown.top])
    # two looks at the same object are no independent witnesses: together they know as much as one
    weights = look.weights * shown.scale / math.sqrt(views)
    noc, pixels, weights = (v.transpose(0, 1).flatten(1, 2) for v in (noc, pixels, weights))
    kinds = torch.where(kinds == len(c.attributes), -1, kinds)
    return _Found(
        labels, of_class, quality, lhw, velocity, kinds, noc * lhw[:, None], pixels, weights, pose
    )  # fmt: skip


def _mirror_cells(where: pyramid.Lattice) -> Tensor:
    """The cell of the mirrored image that shows what a cell shows, (L,)."""
    index = torch.arange(len(where.strides), device=where.strides.device)
    parts = []
    for stride in where.strides.unique_consecutive():
        own = index[where.strides == stride]
        columns = len(where.centres[own, 0].unique())
        parts.append(own.unflatten(0, (-1, columns)).flip(1).flatten())
    return torch.cat(parts)


def _between(a: Tensor, b: Tensor) -> Tensor:
    """The pose in the middle of two level poses. (..., 4, 4)."""
    yaw = boxes3d.yaw_of(a)
    yaw = yaw + boxes3d.wrapped(boxes3d.yaw_of(b) - yaw) / 2
    return boxes3d.from_yaw((a[..., :3, 3] + b[..., :3, 3]) / 2, yaw)


def _place(model: Model, found: _Found, K: Tensor, size: tuple[int, int], seconds: dict[str, float]) -> DetectedBoxes:
    """The poses of what was found, by PnP in pixels of the photo."""
    n = len(found.labels)
    ones = torch.ones(n, dtype=torch.bool, device=K.device)
    if found.pose is not None:
        pose, converged = found.pose, ones
    elif n:
        solved = pnp.solve(
            found.points3d, found.points2d, K, found.weights, dof=4, robust=pnp.AdaptiveHuber(model.config.huber), z_min=Z_MIN,
            bounds=bounds_of(size, K),
        )  # fmt: skip
        # not `converged`: large residuals make the last digits slow, and where steps run out the pose is right to a millimetre
        pose, converged = (
            solved.cam_from_obj,
            torch.isfinite(solved.cost) & torch.isfinite(solved.cam_from_obj).flatten(1).all(1),
        )
    else:
        pose, converged = K.new_zeros(0, 4, 4), ones
    boxes = boxes3d.project(pose, found.lhw, K, size, Z_MIN) if n else K.new_zeros(0, 4)
    converged = converged & (pose[:, 2, 3] > Z_MIN) & (box_ops.area(boxes) > 0)
    velocity = torch.stack([found.velocity[:, 0], torch.zeros_like(found.velocity[:, 0]), found.velocity[:, 1]], -1)
    return DetectedBoxes(
        found.labels, found.of_class * found.quality, found.of_class, pose, found.lhw, boxes, velocity, found.attributes,
        pose[:, None], K.new_zeros(n, 1), found.points3d, found.points2d, found.weights, converged, seconds,
    )  # fmt: skip


def _ground_nms(boxes: DetectedBoxes, threshold: float) -> Tensor:
    """Rows that stay, best first."""
    above = boxes3d.bev(boxes.cam_from_obj, boxes.sizes)
    kept = [torch.zeros(0, dtype=torch.long, device=above.device)]
    for label in boxes.labels.unique():
        rows = (boxes.labels == label).nonzero()[:, 0]
        kept.append(rows[boxes3d.bev_nms(above[rows], boxes.scores[rows], threshold)])
    every = torch.cat(kept)
    return every[boxes.scores[every].argsort(descending=True, stable=True)]


def _sampled(model: Model, boxes: DetectedBoxes, K: Tensor, size: tuple[int, int], samples: int) -> DetectedBoxes:
    """The same with the distributions of their poses, whose best modes become the poses."""
    if model.config.layer == "direct":
        return boxes
    n = len(boxes.labels)
    if n == 0:
        return boxes._replace(samples=K.new_zeros(0, samples, 4, 4), log_weights=K.new_zeros(0, samples))
    posterior = pnp.sample_posterior(
        boxes.points3d, boxes.points2d, K, boxes.weights, init=boxes.cam_from_obj, dof=4, samples=samples,
        robust=pnp.AdaptiveHuber(model.config.huber), z_min=Z_MIN, bounds=bounds_of(size, K),
        generator=torch.Generator(K.device).manual_seed(0),
    )  # fmt: skip
    pose = torch.where(posterior.converged[:, None, None], posterior.mode, boxes.cam_from_obj)
    return boxes._replace(
        cam_from_obj=pose, boxes=boxes3d.project(pose, boxes.sizes, K, size, Z_MIN), samples=posterior.samples,
        log_weights=posterior.log_weights, converged=posterior.converged,
    )  # fmt: skip


def at_median_distance(found: DetectedBoxes, K: Tensor, size: tuple[int, int]) -> DetectedBoxes:
    """Boxes at the distances of least expected relative error, instead of those of greatest likelihood.

    The distribution is one of places in space, of which there are the more the farther away. Where the log of the distance has
    a deviation s, half of the distribution lies more than 3 s^2 beyond its mode; 2 s^2 beyond is where |estimate / truth - 1|
    is expected to be least. The boxes move that far along their lines of sight; of the layer "direct" they stay.

    Args:
        found: of `predict`.
        K: intrinsics of the photo, (3, 3), pixels.
        size: (height, width) of the photo, pixels.

    Source: the median of a log-normal distribution, weighted by one over the distance.
    """
    if found.samples.shape[1] < 2 or len(found.labels) == 0:
        return found
    p, log = found.log_weights.softmax(-1), found.samples[..., :3, 3].norm(dim=-1).clamp_min(Z_MIN).log()
    variance = (p * (log - (p * log).sum(-1, keepdim=True)).square()).sum(-1).clamp_max(WIDEST**2)
    pose = found.cam_from_obj.clone()
    pose[:, :3, 3] *= (2 * variance).exp()[:, None]
    return found._replace(cam_from_obj=pose, boxes=boxes3d.project(pose, found.sizes, K.to(pose), size, Z_MIN))


def pose_std(found: DetectedBoxes) -> Tensor:
    """How wide the distributions of the poses are, (N, 3): standard deviations across and along the line of sight, seen from
    above, metres, and of the yaw, radians (circular). NaN of the layer "direct", which knows no distribution.
    """
    if found.samples.shape[1] < 2:
        return found.cam_from_obj.new_full((len(found.labels), 3), math.nan)
    p = found.log_weights.softmax(-1)
    ground = found.samples[..., (0, 2), 3]
    ray = F.normalize(found.cam_from_obj[:, (0, 2), 3], dim=-1)
    side = torch.stack([ray[:, 1], -ray[:, 0]], -1)
    axes = torch.stack([side, ray], -1)  # (N, 2, 2)
    off = (ground - (p[..., None] * ground).sum(1, keepdim=True)) @ axes
    place = (p[..., None] * off.square()).sum(1).sqrt()
    yaw = boxes3d.yaw_of(found.samples)
    length = torch.hypot((p * yaw.cos()).sum(-1), (p * yaw.sin()).sum(-1)).clamp(1e-12, 1)
    return torch.cat([place, (-2 * length.log()).sqrt()[:, None]], -1)


@torch.no_grad()
def score_map(model: Model, frame: Frame | Tensor, K: Tensor | None = None) -> Tensor:
    """How sure the network is at every place of a photo that an object of a class has its centre there.

    Args:
        model: on any device; its mode is the same afterwards.
        frame, K: as `predict` takes them.

    Returns:
        (classes, h, w), in [0, 1], covering the photo in cells of the finest level: class score x centerness, the largest of
        all levels; 0 where the network does not look.
    """
    image, K = _checked(frame, K)
    c, training = model.config, model.training
    model.eval()
    try:
        shown = resize_to_network(image.to(model.norm.device).float(), K.to(model.norm.device).float(), c.size)
        cells, where = model(shown.image[None])[::2]
    finally:
        model.train(training)
    sure = (cells.logits.sigmoid() * cells.centerness.sigmoid()[..., None])[0]
    finest = int(where.strides.min())
    size = (c.height // finest, c.width // finest)
    best = sure.new_zeros(len(c.classes), *size)
    for stride in where.strides.unique().tolist():
        rows = (where.strides == stride).nonzero()[:, 0]
        columns = len(where.centres[rows, 0].unique())
        level = sure[rows].T.unflatten(1, (-1, columns))
        step = int(stride) // finest
        best = torch.maximum(best, level.repeat_interleave(step, 1).repeat_interleave(step, 2)[:, : size[0], : size[1]])
    # the photo's own grid: what was cut off above it has no score, what was added below is left out
    rows = round((image.shape[-2] - shown.top) * float(shown.scale[1]) / finest)
    above = round(shown.top * float(shown.scale[1]) / finest)
    return F.pad(best[:, :rows], (0, 0, above, 0))
