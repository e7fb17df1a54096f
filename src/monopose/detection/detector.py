"""Finds the known objects in one image: label, amodal box, score and visible mask of each.

Two networks behind one `Config`: a one-stage net that trains on a CPU (`small`) and torchvision's Mask R-CNN (`maskrcnn`).
Boxes are what they are here, not enlarged: whoever crops an object enlarges its box, once. Boxes that come from elsewhere
need no detector: `datasets.bop.results` reads them as the same `Detections`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geometry import boxes as box2d
from ..geometry.camera import pixel_grid
from ..types import Detections, Frame
from . import LEAST_SCORE
from .networks import STRIDE, Maps, OneStageNet, Pyramid


@dataclass(frozen=True)
class Config:
    """Everything that fixes the network; see `small` and `maskrcnn` for presets."""

    obj_ids: tuple[int, ...] = ()  # BOP object ids this detector knows, in the order of its channels
    image_height: int = 240  # pixels, a multiple of 4; images of any size are letterboxed to it
    image_width: int = 320  # pixels, a multiple of 4
    two_stage: bool = False  # torchvision's Mask R-CNN (ResNet-50 FPN v2) in place of the one-stage net
    backbone: str = "efficientnet_lite0"  # name in nets.backbones; one-stage only
    pretrained: bool = True  # start from ImageNet weights where they can be had; pass False when loading a checkpoint
    frozen_levels: int = 2  # backbone levels (strides 2, 4, ...) that keep their ImageNet weights, 0-5; one-stage only
    channels: int = 64  # width of neck and heads; one-stage only
    min_visibility: float = 0.1  # share in [0, 1]; objects seen less are neither target nor background
    rois: int = 128  # regions per image that train the second stage; two-stage only

    def __post_init__(self) -> None:
        if len(set(self.obj_ids)) != len(self.obj_ids):
            raise ValueError(f"detector.Config.obj_ids names an object twice: {self.obj_ids}")
        if min(self.size) < 32 or any(length % STRIDE for length in self.size):
            raise ValueError(
                f"the detector's input must be at least 32x32 pixels and a multiple of {STRIDE} on both sides, "
                f"got {self.image_width}x{self.image_height} (width x height)"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input, pixels."""
        return self.image_height, self.image_width


def small(obj_ids: Sequence[int], **changes: Any) -> Config:
    """The preset for CPUs: one stage, 320x240 input. `changes` are fields of `Config`."""
    return Config(tuple(obj_ids), **changes)


def maskrcnn(obj_ids: Sequence[int], **changes: Any) -> Config:
    """The large preset for GPUs: Mask R-CNN, ResNet-50 FPN v2, 640x480 input. `changes` are fields of `Config`."""
    return Config(tuple(obj_ids), **{"image_height": 480, "image_width": 640, "two_stage": True, **changes})


# --------------------------------------------------------------------------------------------------------------- input


def letterbox(images: Tensor, size: tuple[int, int], fill: float = 0.5) -> tuple[Tensor, tuple[int, int]]:
    """Resize images to fit into `size` and pad them on the right and at the bottom.

    Args:
        images: (B, C, H, W).
        size: (height, width) of the result, pixels.
        fill: value of the padding.

    Returns:
        images, (B, C, *size), and the (height, width) of their content, which starts at (0, 0). A box moves by
        `box * content / original`, per axis.
    """
    content = _content(tuple(images.shape[-2:]), size)
    if content != tuple(images.shape[-2:]):
        images = _shrunk(images, content)
    if content != tuple(size):
        images = F.pad(images, (0, size[1] - content[1], 0, size[0] - content[0]), value=fill)
    return images, content


def _shrunk(images: Tensor, size: tuple[int, int], rows: int = 64) -> Tensor:
    """Another size, low-passed: first the width, so many rows at a time, as copies of a large picture are large. float16
    becomes float32."""
    how: Any = {"mode": "bilinear", "antialias": True, "align_corners": False}
    kind = torch.float32 if images.dtype == torch.float16 else images.dtype
    narrow = images.new_empty((*images.shape[:-1], size[1]), dtype=kind)
    for strip, place in zip(images.split(rows, -2), narrow.split(rows, -2), strict=True):
        place.copy_(F.interpolate(strip.to(kind), (strip.shape[-2], size[1]), **how))
    return F.interpolate(narrow, size, **how)


def _content(original: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) that an `original` (height, width) takes inside `size`."""
    factor = min(size[0] / original[0], size[1] / original[1])
    return max(1, min(size[0], round(original[0] * factor))), max(1, min(size[1], round(original[1] * factor)))


def _scale(original: tuple[int, ...], content: tuple[int, int], like: Tensor) -> Tensor:
    """Factor per box coordinate from the original image to the letterboxed one, (4,)."""
    x, y = content[1] / original[1], content[0] / original[0]
    return like.new_tensor([x, y, x, y])


class Model(nn.Module):
    """Config -> network."""

    ids: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not config.obj_ids:
            raise ValueError("detector.Config.obj_ids is empty; name the objects to learn")
        self.config = config
        classes = len(config.obj_ids)
        if config.two_stage:
            from .two_stage import TwoStageNet

            self.net: Any = TwoStageNet(classes, config.pretrained, config.rois)
        else:
            self.net = OneStageNet(classes, config.backbone, config.channels, config.pretrained, config.frozen_levels)
        self.register_buffer("ids", torch.tensor(config.obj_ids))

    def forward(self, images: Tensor) -> Maps | Pyramid:
        """(B, 3, h, w), RGB in [0, 1], any size -> the maps of the letterboxed images, for `loss`."""
        return self.net(letterbox(images, self.config.size)[0])

    def index_of(self, labels: Tensor) -> Tensor:
        """Positions of object ids in `config.obj_ids`. (N,) -> (N,). Raises ValueError for an id it was not made for."""
        return rows_of(labels, self.ids, "this detector; it was made for")


# ------------------------------------------------------------------------------------------------------------- targets


def encode(boxes: Tensor, cells: Tensor) -> Tensor:
    """Boxes as the logarithm of the distances from a cell's centre to their edges, in cells.

    Args:
        boxes: (..., 4), xyxy, input pixels.
        cells: (column, row) of the cell, (..., 2).

    Returns:
        (..., 4). An edge that lies on the wrong side of the centre or less than a tenth of a cell away counts as a tenth.
    """
    centre = cells + 0.5
    distances = torch.cat([centre - boxes[..., :2] / STRIDE, boxes[..., 2:] / STRIDE - centre], -1)
    return distances.clamp_min(0.1).log()


def decode(distances: Tensor, cells: Tensor) -> Tensor:
    """Inverse of `encode`: (..., 4), (..., 2) -> boxes (..., 4), xyxy, input pixels."""
    centre, distances = cells + 0.5, distances.clamp_max(7).exp()
    return torch.cat([centre - distances[..., :2], centre + distances[..., 2:]], -1) * STRIDE


class Targets(NamedTuple):
    """What the one-stage maps should show. N instances, P pairs of an instance and a cell; h x w cells.

    Attributes:
        heat: largest Gaussian of the class, 1 at the centre cells, (B, K, h, w).
        peaks: centre cells of the objects to find, (B, K, h, w), bool.
        boxes: xyxy, input pixels, (P, 4).
        box_cells: (image, class, row, column) of the cells that predict these boxes, (P, 4).
        box_weights: the Gaussian at the cell, (P,).
        semantic: 0 background, 1 + class, (B, h, w).
        votes: from the cell's centre to the box centre, cells, (Q, 2).
        vote_cells: (image, row, column) of the visible cells, (Q, 3).
    """

    heat: Tensor
    peaks: Tensor
    boxes: Tensor
    box_cells: Tensor
    box_weights: Tensor
    semantic: Tensor
    votes: Tensor
    vote_cells: Tensor


def build_targets(model: Model, batch: Mapping[str, Any]) -> Targets:
    """The targets of the one-stage maps.

    Args:
        model: knows the classes and the input size.
        batch: see `loss`.

    Source: Objects as Points, sec. 3 (heat); Liu et al., Training-Time-Friendly Network, sec. 4 (Gaussians as
    wide as the box, and boxes learned by every cell near the centre, not by one).
    """
    config, images = model.config, batch["image"]
    device, original = images.device, tuple(images.shape[-2:])
    count, classes = len(images), len(config.obj_ids)
    h, w = config.image_height // STRIDE, config.image_width // STRIDE
    content = _content(original, config.size)
    image = torch.repeat_interleave(
        torch.arange(count, device=device), torch.tensor([len(b) for b in batch["labels"]], device=device)
    )
    label = model.index_of(torch.cat(list(batch["labels"])))
    visibility = torch.cat(list(batch["visibility"])).float()
    boxes = torch.cat(list(batch["boxes"])).float()
    boxes = boxes * _scale(original, content, boxes)

    inside = box2d.area(box2d.clipped(boxes, content)) > 0
    found = inside & (visibility > config.min_visibility)
    limit = torch.tensor([-(-content[1] // STRIDE), -(-content[0] // STRIDE)], device=device)
    centres = (boxes[:, :2] + boxes[:, 2:]) / (2 * STRIDE)
    cells = torch.minimum(centres.floor().long().clamp_min(0), limit - 1)  # of the nearest cell of the image

    sigma = (0.54 * (boxes[:, 2:] - boxes[:, :2]) / STRIDE + 1).clamp_min(1) / 6
    columns, rows = torch.arange(w, device=device), torch.arange(h, device=device)
    across = torch.exp(-((columns - cells[:, :1]) ** 2) / (2 * sigma[:, :1] ** 2))
    down = torch.exp(-((rows - cells[:, 1:]) ** 2) / (2 * sigma[:, 1:] ** 2))
    gaussian = down[:, :, None] * across[:, None, :] * inside[:, None, None]
    plane = image * classes + label
    heat = _per_group(gaussian, plane, count * classes, "amax", 0.0)
    peaks = torch.zeros(count, classes, h, w, dtype=torch.bool, device=device)
    peaks[image[found], label[found], cells[found, 1], cells[found, 0]] = True
    n, row, column = ((gaussian > 0.3) & (gaussian >= heat[plane]) & found[:, None, None]).nonzero(as_tuple=True)

    masks = torch.cat([m.reshape(-1, *original) for m in batch["masks"]]).float()
    cover = F.avg_pool2d(letterbox(masks[:, None], config.size, fill=0.0)[0], STRIDE)[:, 0]
    total = cover.new_zeros(count, h, w).index_add_(0, image, cover)
    most = _per_group(cover, image, count, "amax", 0.0)
    q, y, x = ((cover >= most[image]) & (total[image] >= 0.5)).nonzero(as_tuple=True)
    semantic = torch.zeros(count, h, w, dtype=torch.int64, device=device)
    semantic[image[q], y, x] = label[q] + 1
    return Targets(
        heat.unflatten(0, (count, classes)), peaks,
        boxes[n], torch.stack([image[n], label[n], row, column], -1), gaussian[n, row, column],
        semantic, centres[q] - torch.stack([x, y], -1) - 0.5, torch.stack([image[q], y, x], -1),
    )  # fmt: skip


def _per_group(values: Tensor, group: Tensor, groups: int, reduce: str, start: float) -> Tensor:
    """Largest ("amax") or smallest ("amin") value of each group of maps. (N, h, w), (N,) -> (groups, h, w)."""
    result = values.new_full((groups, *values.shape[1:]), start)
    return result.scatter_reduce_(0, group[:, None, None].expand_as(values), values, reduce)


# ---------------------------------------------------------------------------------------------------------------- loss


def focal_loss(logits: Tensor, heat: Tensor, peaks: Tensor) -> Tensor:
    """Cross entropy of centre maps that gives little weight to what is easy and to the neighbours of centres.

    Args:
        logits, heat: (B, K, h, w).
        peaks: bool, (B, K, h, w).

    Returns:
        scalar, per object.

    Source: Objects as Points, eq. 1 with alpha = 2, beta = 4.
    """
    p = logits.sigmoid()
    positive = (1 - p).square() * F.logsigmoid(logits)
    negative = (1 - heat) ** 4 * p.square() * F.logsigmoid(-logits)
    return -torch.where(peaks, positive, negative).sum() / peaks.sum().clamp_min(1)


def loss(model: Model, output: Maps | Pyramid, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The losses of a batch of whole images.

    Args:
        model: the detector.
        output: its answer to batch["image"].
        batch: "image" (B, 3, H, W), and lists with one entry per image: "boxes" (n, 4) amodal, xyxy pixel edges, may leave the
            image; "labels" (n,) object ids; "masks" (n, H, W) visible, bool; "visibility" (n,). n may be 0.

    Returns:
        scalar tensors by name; their sum is the loss.

    Raises:
        ValueError: for an object id the detector was not made for.
    """
    if isinstance(output, Pyramid):
        return model.net.losses(output, _two_stage_targets(model, batch))
    from torchvision.ops import generalized_box_iou_loss

    targets = build_targets(model, batch)
    b, k, row, column = targets.box_cells.unbind(-1)
    boxes = decode(output.distances.float()[b, k, :, row, column], torch.stack([column, row], -1))
    overlap = generalized_box_iou_loss(boxes, targets.boxes)
    weight = targets.box_weights.sum().clamp_min(1)
    b, row, column = targets.vote_cells.unbind(-1)
    votes = F.smooth_l1_loss(output.votes.float()[b, :, row, column], targets.votes, reduction="sum")
    surface = F.cross_entropy(output.semantic.float(), targets.semantic, reduction="sum")
    return {
        "heat": focal_loss(output.heat.float(), targets.heat, targets.peaks),
        "boxes": 2 * (targets.box_weights * overlap).sum() / weight,
        "semantic": surface / (targets.semantic > 0).sum().clamp_min(targets.semantic.numel() / 20),
        "votes": 0.1 * votes / max(1, len(targets.votes)),
    }


def _two_stage_targets(model: Model, batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    original = tuple(batch["image"].shape[-2:])
    content = _content(original, model.config.size)
    targets = []
    for boxes, labels, masks, visibility in zip(
        batch["boxes"], batch["labels"], batch["masks"], batch["visibility"], strict=True
    ):  # fmt: skip
        boxes = boxes.float() * _scale(original, content, boxes.float())
        keep = (visibility > model.config.min_visibility) & (box2d.area(box2d.clipped(boxes, content)) > 0)
        masks = letterbox(masks[keep][:, None].float(), model.config.size, fill=0.0)[0][:, 0] >= 0.5
        targets.append({"boxes": boxes[keep], "labels": model.index_of(labels[keep]) + 1, "masks": masks.to(torch.uint8)})
    return targets


# ------------------------------------------------------------------------------------------------------------- predict


LOOKS = (1, 2, 6)  # how often `predict` can look at a picture
QUARTER = 2 / 3  # side of an enlarged quarter / side of the picture: they overlap
NMS_IOU = 0.6  # of two boxes of one class that overlap more, the better one stays
FAINT = 0.01  # boxes with smaller scores have no vote, unless even these are asked for
AGREE = 0.5  # overlap (IoU) from which boxes of one class in different looks are about the same object
WHOLE = 0.75  # share of a box in the picture that a look must show for its silence to count


def predict(
    model: Model,
    images: Frame | Tensor | Sequence[Frame | Tensor],
    score_threshold: float = LEAST_SCORE,
    max_detections: int = 100,
    looks: int = 1,
    masks: bool = True,
) -> list[Detections]:
    """Find the known objects.

    Args:
        model: the detector, on any device; its mode is the same afterwards.
        images: a frame, an image (3, H, W), RGB in [0, 1], or several of them, of any sizes.
        score_threshold: detections below it are left out.
        max_detections: per image, the best ones.
        looks: 1: at the picture; 2: at its mirror image as well; 6: and at four quarters of it, enlarged. Boxes that agree are
            averaged, and a score is the mean over the whole, the mirrored and, where a quarter shows most of the object, the
            enlarged picture.
        masks: False: without masks, each of which takes a byte per pixel of the picture.

    Returns:
        one Detections per image, best score first: object ids; boxes of the whole objects, hidden and cut-off parts included,
        in pixels of the original image; scores; visible masks (N, H, W), or None.

    Raises:
        ValueError: not an image; another number of looks.
    """
    several = [images] if isinstance(images, (Frame, Tensor)) else list(images)
    pictures = [p.image if isinstance(p, Frame) else p for p in several]
    for p in pictures:
        if p.dim() != 3 or p.shape[0] != 3 or not p.is_floating_point():
            raise ValueError(
                f"an image must be (3, H, W), float RGB in [0, 1], got {tuple(p.shape)} {p.dtype}; images.read_image makes one"
            )
    if looks not in LOOKS:
        raise ValueError(f"looks must be one of {', '.join(map(str, LOOKS))}, got {looks}")
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return [_predict_one(model, p, score_threshold, max_detections, looks, masks) for p in pictures]
    finally:
        model.train(training)


class _Look(NamedTuple):
    """What one look at a picture finds.

    Attributes:
        view: looks of one view together see the whole picture.
        window: (y, x, height, width) of what it sees, pixels of the picture.
        which: row of each box's object, (N,); best first.
        boxes: (N, 4), pixels of the picture.
        scores: (N,).
        masks: rows (n,) -> visible masks of these, (n, H, W), bool, zero outside the window.
    """

    view: int
    window: tuple[int, int, int, int]
    which: Tensor
    boxes: Tensor
    scores: Tensor
    masks: Callable[[Tensor], Tensor]


def _predict_one(model: Model, image: Tensor, score_threshold: float, most: int, looks: int, with_masks: bool) -> Detections:
    faint = min(FAINT, score_threshold) if looks > 1 else score_threshold
    height, width = image.shape[-2:]
    whole = (0, 0, height, width)
    seen = [_look(model, image, 0, whole, faint, most)]
    if looks > 1:
        seen.append(_look(model, image, 1, whole, faint, most, mirrored=True))
    if looks > 2:
        h, w = max(round(QUARTER * height), 1), max(round(QUARTER * width), 1)
        seen += [_look(model, image, 2, (y, x, h, w), faint, most) for y in (0, height - h) for x in (0, width - w)]
    found = _agreed(seen, (height, width))
    keep = box2d.nms(found.boxes, found.scores, found.which, NMS_IOU)[:most]
    which, boxes, scores, source, row = (v[keep[found.scores[keep] >= score_threshold]] for v in found)
    if not with_masks:
        return Detections(model.ids[which], boxes, scores)
    masks = torch.zeros(len(which), height, width, dtype=torch.bool, device=boxes.device)
    for k, look in enumerate(seen):
        mine = source == k
        if bool(mine.any()):  # all that this look is sure of, so that neighbours of one class share the pixels between them
            rows = torch.cat([row[mine], (look.scores >= score_threshold).nonzero()[:, 0]]).unique()
            masks[mine] = look.masks(rows)[torch.searchsorted(rows, row[mine])]
    return Detections(model.ids[which], boxes, scores, masks)


class _Agreed(NamedTuple):
    """Boxes that looks agree on: object rows (G,), boxes (G, 4), scores (G,); whose mask to take: look (G,), row of it (G,)."""

    which: Tensor
    boxes: Tensor
    scores: Tensor
    look: Tensor
    row: Tensor


def _agreed(seen: Sequence[_Look], size: tuple[int, int]) -> _Agreed:
    """Boxes of different looks that are about the same object become one.

    The best box leads; of every other look the best one of its class that overlaps it joins. The group lies on the average,
    weighted by squared scores. Its score is the mean over the views that show most of it, of the best in each; a view that says
    nothing counts as 0. Its mask is that of the first look at the whole picture that is among them, else the leader's.

    Args:
        seen: the looks.
        size: (height, width) of the picture.
    """
    which, boxes, scores = (torch.cat(column) for column in zip(*((k.which, k.boxes, k.scores) for k in seen), strict=True))
    look = torch.cat([torch.full_like(s.which, k) for k, s in enumerate(seen)])
    row = torch.cat([torch.arange(len(s.which), device=which.device) for s in seen])
    if len(seen) == 1 or len(which) == 0:
        return _Agreed(which, boxes, scores, look, row)
    near = (box2d.iou(boxes, boxes) > AGREE) & (which[:, None] == which) & (look[:, None] != look)
    able = _shown(boxes, [s.window for s in seen], size) >= WHOLE
    # box by box from here on, which tensors are slow at
    joins, shows, p, of = (v.cpu().numpy() for v in (near, able, scores.double().clamp_min(1e-9), look))
    view, whole = np.array([s.view for s in seen]), np.array([s.window[2:] == size for s in seen])
    free = np.ones(len(p), bool)
    leaders, averaged, drawn, shares = [], [], [], []
    for leader in np.argsort(-p, kind="stable"):
        if not free[leader]:
            continue
        rivals = np.flatnonzero(joins[leader] & free)
        rivals = rivals[np.argsort(-p[rivals], kind="stable")]
        members = np.append(leader, rivals[np.unique(of[rivals], return_index=True)[1]])  # the best one of every other look
        free[members] = False
        best = [p[members[view[of[members]] == v]].max(initial=0.0) for v in np.unique(view[shows[leader]])]
        at_whole = members[whole[of[members]]]
        leaders.append(leader)
        averaged.append(np.mean(best))
        drawn.append(at_whole[of[at_whole].argmin()] if len(at_whole) else leader)
        shares.append(np.zeros(len(p)))
        shares[-1][members] = p[members] ** 2 / (p[members] ** 2).sum()
    leader_rows, mask_rows = (torch.as_tensor(np.array(v), device=which.device) for v in (leaders, drawn))
    return _Agreed(
        which[leader_rows],
        boxes.new_tensor(np.array(shares)) @ boxes,
        scores.new_tensor(np.array(averaged)),
        look[mask_rows],
        row[mask_rows],
    )


def _shown(boxes: Tensor, windows: Sequence[tuple[int, int, int, int]], size: tuple[int, int]) -> Tensor:
    """The share of each box in the picture that each window shows. (N, 4), W windows -> (N, W); 1 for a box outside it."""
    inside = box2d.clipped(boxes, size)
    area = box2d.area(inside)
    shares = []
    for top, left, h, w in windows:
        cut = box2d.clipped(inside - inside.new_tensor([left, top, left, top]), (h, w))
        shares.append(torch.where(area > 0, box2d.area(cut) / area.clamp_min(1e-12), torch.ones_like(area)))
    return torch.stack(shares, -1)


def _look(
    model: Model, image: Tensor, view: int, window: tuple[int, int, int, int], faint: float, most: int,
    mirrored: bool = False,
) -> _Look:  # fmt: skip
    """One look at a window of the picture, or at its mirror image."""
    top, left, h, w = window
    shown = image[None, :, top : top + h, left : left + w]
    inputs, content = letterbox(shown.to(model.ids.device), model.config.size)
    if mirrored:
        inputs = torch.cat([inputs[..., : content[1]].flip(-1), inputs[..., content[1] :]], -1)
    if model.config.two_stage:
        from .two_stage import pasted

        found = model.net.detect(model.net(inputs), faint, most, NMS_IOU)[0]
        which, scores, seen = found["labels"] - 1, found["scores"], found["boxes"] / _scale((h, w), content, found["boxes"])

        def masks_as_seen(rows: Tensor) -> Tensor:
            return pasted(found["masks"][rows], seen[rows], (h, w))
    else:
        maps = Maps(*(m[0].float() for m in model.net(inputs)))
        which, raw, scores = _peaks(maps, content, faint, most)
        seen = raw / _scale((h, w), content, raw)

        def masks_as_seen(rows: Tensor) -> Tensor:
            masks = _instance_masks(maps, which[rows], raw[rows])[None]
            masks = F.interpolate(masks, model.config.size, mode="bilinear", align_corners=False)
            masks = masks[..., : content[0], : content[1]]
            sized = [F.interpolate(m, (h, w), mode="bilinear", align_corners=False)[0] > 0.5 for m in masks.split(1, 1)]
            return torch.cat(sized) if sized else torch.zeros(0, h, w, dtype=torch.bool, device=masks.device)

    def masks_in_picture(rows: Tensor) -> Tensor:
        masks = masks_as_seen(rows)
        right, below = image.shape[-1] - left - w, image.shape[-2] - top - h
        return F.pad(masks.flip(-1) if mirrored else masks, (left, right, top, below))

    placed = torch.stack([w - seen[:, 2], seen[:, 1], w - seen[:, 0], seen[:, 3]], -1) if mirrored else seen
    return _Look(view, window, which, placed + placed.new_tensor([left, top, left, top]), scores, masks_in_picture)


def _peaks(maps: Maps, content: tuple[int, int], score_threshold: float, max_detections: int) -> tuple[Tensor, Tensor, Tensor]:
    """Class indices (N,), boxes (N, 4) in input pixels and scores (N,), best first; `maps` of one image."""
    heat = maps.heat.sigmoid()
    _, h, w = heat.shape
    peak = heat == F.max_pool2d(heat[None], 3, stride=1, padding=1)[0]
    peak[:, -(-content[0] // STRIDE) :] = False
    peak[:, :, -(-content[1] // STRIDE) :] = False
    scores, flat = torch.where(peak, heat, -torch.ones_like(heat)).flatten().topk(min(4 * max_detections, heat.numel()))
    flat, scores = flat[scores >= max(score_threshold, 0.0)], scores[scores >= max(score_threshold, 0.0)]
    index, row, column = flat // (h * w), flat // w % h, flat % w
    boxes = decode(maps.distances[index, :, row, column], torch.stack([column, row], -1))
    keep = box2d.nms(boxes, scores, index, NMS_IOU)[:max_detections]
    return index[keep], boxes[keep], scores[keep]


def _instance_masks(maps: Maps, index: Tensor, boxes: Tensor) -> Tensor:
    """How surely each cell shows each detection: its class, inside its box (a little enlarged), nearest vote. -> (N, h, w)."""
    surface = maps.semantic.softmax(0)[index + 1]
    size = (surface.shape[-2], surface.shape[-1])
    cells = pixel_grid(size, boxes.device) + 0.5
    low, high = (box2d.enlarged(boxes, 1.1) / STRIDE)[:, None, None].split(2, -1)
    within = ((cells > low) & (cells < high)).all(-1)
    centres = (boxes[:, :2] + boxes[:, 2:]) / (2 * STRIDE)
    miss = (cells + maps.votes.permute(1, 2, 0) - centres[:, None, None]).norm(dim=-1)
    miss = torch.where(within, miss, torch.full_like(miss, torch.inf))
    nearest = _per_group(miss, index, len(maps.semantic), "amin", torch.inf)[index]
    return surface * (within & (miss <= nearest))


def rows_of(labels: Tensor, ids: Tensor, owner: str) -> Tensor:
    """Positions of object ids in the list `ids` that a network learned.

    Args:
        labels: object ids, (B,).
        ids: (K,).
        owner: how the error calls the network, e.g. "this detector; it was made for".

    Returns:
        (B,), on the device of `ids`.

    Raises:
        ValueError: for an id that is not in the list.
    """
    match = labels.to(ids.device)[:, None] == ids
    if not bool(match.any(1).all()):
        unknown = sorted(set(labels.tolist()) - set(ids.tolist()))
        raise ValueError(f"object id(s) {unknown} are unknown to {owner} {ids.tolist()}")
    return match.int().argmax(1)
