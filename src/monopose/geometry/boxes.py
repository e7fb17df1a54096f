"""2D boxes `xyxy` on pixel edges: the whole image is (0, 0, w, h)."""

import numpy as np
import torch
from torch import Tensor


def square(boxes: Tensor, scale: float = 1.0, limits: tuple[float, float] | None = None) -> Tensor:
    """The square around each box's centre with side `scale` times its longer side, which is cut to `limits` in pixels first.

    (..., 4) -> (..., 4).
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    longer = (boxes[..., 2:] - boxes[..., :2]).amax(-1, keepdim=True)
    half = (longer if limits is None else longer.clamp(*limits)) * (scale / 2)
    return torch.cat([centre - half, centre + half], -1)


def enlarged(boxes: Tensor, scale: float) -> Tensor:
    """Each box with both sides times `scale`, same centre. (..., 4) -> (..., 4)."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) * (scale / 2)
    return torch.cat([centre - half, centre + half], -1)


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut to an image of `size` (h, w). (..., 4) -> (..., 4)."""
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    return torch.minimum(boxes.clamp_min(0), limit)


def area(boxes: Tensor) -> Tensor:
    """Square pixels; 0 for inverted boxes. (..., 4) -> (...,)."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair. (N, 4), (M, 4) -> (N, M); 0 where both are empty."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp_min(0).prod(-1)
    union = area(a)[:, None] + area(b)[None] - inter
    return torch.where(union > 0, inter / union.clamp_min(1e-12), torch.zeros_like(inter))


def nms(boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float) -> Tensor:
    """Rows that stay, best score first: of two boxes of one label that overlap by more (IoU) than `overlap` the better one.

    (N, 4), (N,), (N,) -> (n,), int64.
    """
    order = scores.argsort(descending=True, stable=True)
    near = (iou(boxes[order], boxes[order]) > overlap) & (labels[order, None] == labels[order])
    rivals, stays = near.cpu().numpy(), np.ones(len(order), bool)
    for i in range(len(order)):
        if stays[i]:
            stays[i + 1 :] &= ~rivals[i, i + 1 :]
    return order[torch.from_numpy(stays).to(order.device)]


def from_masks(masks: Tensor) -> Tensor:
    """The tight box of each mask; zeros for an empty one. (N, H, W), bool -> (N, 4), float32."""
    n, height, width = masks.shape
    columns, rows = masks.any(1), masks.any(2)
    x = torch.arange(width, device=masks.device)
    y = torch.arange(height, device=masks.device)
    far = max(height, width)
    low = torch.stack([torch.where(columns, x, far).amin(1), torch.where(rows, y, far).amin(1)], -1)
    high = torch.stack([torch.where(columns, x, -1).amax(1), torch.where(rows, y, -1).amax(1)], -1) + 1
    boxes = torch.cat([low, high], -1).float()
    return torch.where(columns.any(1)[:, None], boxes, torch.zeros_like(boxes)) if n else boxes.reshape(0, 4)


def from_points(pixels: Tensor) -> Tensor:
    """The tight box around projected points.

    (..., N, 2), pixel centres at integers -> (..., 4), pixel edges: half a pixel is added, as edge 0 lies at -0.5.
    """
    return torch.cat([pixels.amin(-2), pixels.amax(-2)], -1) + 0.5
