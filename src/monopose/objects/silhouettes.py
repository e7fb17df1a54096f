"""Where an object is, from the mask of its whole silhouette: the part of a pose that dense coordinates know least.

A coordinate that is off by 5 % of the object moves the object by 5 % of its distance, which is ten times what a pose may be
off; the size of a silhouette 30 pixels wide is known to a pixel. So the rotation is left to PnP, and position and distance are
moved until the rendered silhouette lies on the predicted one.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import camera as camera_ops
from ..geometry import se3
from ..render.raster import rasterize
from ..types import ObjectModel

FINER = 3  # a silhouette is drawn this many times finer than the mask, then averaged: its edge is known to a part of a pixel
SIGMA = 1.0  # mask pixels; both silhouettes are blurred, so that they attract each other from further away
HUBER = 0.3  # differences of the blurred silhouettes beyond this count linearly: parts that are simply wrong
PRIOR = (3.0, 3.0, 0.15)  # standard deviation of PnP's position in mask pixels, and of the logarithm of its distance
NOISE = 0.3  # standard deviation of a mask pixel


def align(
    cam_from_obj: Tensor,
    masks: Tensor,
    weights: Tensor,
    boxes: Tensor,
    K: Tensor,
    models: Sequence[ObjectModel],
    rounds: int = 2,
) -> Tensor:
    """Move objects, without turning them, until their silhouettes lie on masks.

    Args:
        cam_from_obj: poses, (B, 4, 4), metres.
        masks: probability of being a pixel of the object, seen or hidden, (B, h, h), in crops.
        weights: of the masks' pixels, (B, h, h): how sure they are.
        boxes: of the crops in the image, square, (B, 4), xyxy pixel edges.
        K: of the image, (3, 3), pixels.
        models: the CAD models, B of them.
        rounds: renderings.

    Returns:
        (B, 4, 4). A pose is returned as it came where its silhouette would fit no better, or where it or its mask is empty.

    Source: Lucas and Kanade 1981, for shift and scale.
    """
    h = masks.shape[-1]
    crops = camera_ops.crop_resize_K(K.to(cam_from_obj), boxes, (h, h))
    wanted = _blurred(masks)
    best = _blurred(_silhouettes(cam_from_obj, crops, models, h))
    for _ in range(rounds):
        shift, log_scale = _shift_and_scale(best, wanted, weights, _centres(cam_from_obj, crops))
        moved = _moved(cam_from_obj, crops, shift, log_scale)
        drawn = _blurred(_silhouettes(moved, crops, models, h))
        better = (weights * ((drawn - wanted).abs() - (best - wanted).abs())).sum((1, 2)) < 0
        cam_from_obj = torch.where(better[:, None, None], moved, cam_from_obj)
        best = torch.where(better[:, None, None], drawn, best)
    return cam_from_obj


def _silhouettes(cam_from_obj: Tensor, K: Tensor, models: Sequence[ObjectModel], side: int) -> Tensor:
    """How much of every mask pixel the object covers, (B, side, side)."""
    fine = side * FINER
    edge = K.new_tensor([0.0, 0.0, side, side])
    drawn = []
    for pose, k, model in zip(cam_from_obj, camera_ops.crop_resize_K(K, edge, (fine, fine)), models, strict=True):
        points = se3.transform(pose, model.vertices.to(pose))[None]
        drawn.append(rasterize(points, model.faces.to(pose.device), k, (fine, fine)).face[0] >= 0)
    return F.avg_pool2d(torch.stack(drawn)[:, None].to(K), FINER)[:, 0]


def _blurred(images: Tensor) -> Tensor:
    """(B, h, w), Gaussian of `SIGMA`."""
    reach = math.ceil(3 * SIGMA)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).to(images) / SIGMA) ** 2)
    line = line / line.sum()
    across = F.conv2d(images[:, None], line[None, None, None], padding=(0, reach))
    return F.conv2d(across, line[None, None, :, None], padding=(reach, 0))[:, 0]


def _centres(cam_from_obj: Tensor, K: Tensor) -> Tensor:
    """Pixels of the objects' origins, (B, 2)."""
    return camera_ops.project(cam_from_obj[:, None, :3, 3], K)[:, 0]


def _moved(cam_from_obj: Tensor, K: Tensor, shift: Tensor, log_scale: Tensor) -> Tensor:
    """Poses whose origin projects `shift` (B, 2) pixels away and whose size grows by exp(log_scale), (B,)."""
    pixel = _centres(cam_from_obj, K) + shift
    depth = cam_from_obj[:, 2, 3] * torch.exp(-log_scale)
    out = cam_from_obj.clone()
    out[:, :3, 3] = camera_ops.unproject(pixel[:, None], depth[:, None], K)[:, 0]
    return out


def _shift_and_scale(
    drawn: Tensor, wanted: Tensor, weights: Tensor, centres: Tensor, iterations: int = 6
) -> tuple[Tensor, Tensor]:
    """What moves the images `drawn` onto `wanted`, (B, h, h): shift (B, 2), pixels, and logarithm of the scale, (B,)."""
    size, h, _ = drawn.shape
    grid = camera_ops.pixel_grid((h, h), drawn.device, drawn.dtype)
    certain = torch.diag(1 / drawn.new_tensor(PRIOR).square())
    p = drawn.new_zeros(size, 3)
    for _ in range(iterations):
        middle = (centres + p[:, :2])[:, None, None]
        away = grid - middle
        source = away * torch.exp(-p[:, 2])[:, None, None, None] + centres[:, None, None]
        warped = F.grid_sample(drawn[:, None], (source + 0.5) / h * 2 - 1, padding_mode="zeros", align_corners=False)[:, 0]
        down, right = torch.gradient(warped, dim=(1, 2))
        J = -torch.stack([right, down, right * away[..., 0] + down * away[..., 1]], -1).flatten(1, 2)  # (B, h h, 3)
        r = (warped - wanted).flatten(1)
        weight = (weights.flatten(1) * HUBER / r.abs().clamp_min(HUBER) / NOISE**2)[..., None]
        H = J.mT @ (J * weight) + certain
        g = (J.mT @ (r[..., None] * weight)).squeeze(-1) + p @ certain
        p = p - torch.linalg.solve(H, g)
        p = torch.cat([p[:, :2].clamp(-h / 4, h / 4), p[:, 2:].clamp(-0.3, 0.3)], 1)
    return p[:, :2], p[:, 2]
