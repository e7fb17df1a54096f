"""The last step of a photo's pose: the contour goes to the edges of a network's mask, sharpened by the colours it holds.

Dense coordinates know the rotation well and the distance badly; the outline knows where the object ends to a part of a pixel.
Both are informations about the same six numbers and are added, so that a pose moves where the mask knows more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import camera as camera_ops
from ..geometry import se3
from ..render.raster import rasterize
from ..types import ObjectModel
from . import colours, lines, points

Array = np.ndarray
SIDE = 160  # pixels of the maps
SCHEDULE: lines.Schedule = ((2, 1.5), (1, 1.0), (1, 1.0))
SETTINGS = lines.Settings(amplitude=0.36, slope=0.0)
DOUBT = 10.0  # pixels of one object err together: the information of PnP is divided by this
JUDGED = 64  # pixels of the silhouettes that decide whether a pose fits better


class Aligned(NamedTuple):
    """What `align` found for B objects.

    cam_from_obj (B, 4, 4); information (B, 6, 6) of the tangent (v, omega), contour and prior together; error (B,): by how
    much the silhouette differs from the mask, as a share of its area; moved (B,): False where the pose is the one that came.
    """

    cam_from_obj: Tensor
    information: Tensor
    error: Tensor
    moved: Tensor


@torch.no_grad()
def align(
    cam_from_obj: Tensor,
    amodal: Tensor,
    visible: Tensor,
    image: Tensor,
    boxes: Tensor,
    K: Tensor,
    models: Sequence[ObjectModel],
    information: Tensor | None = None,
    residual: Tensor | None = None,
) -> Aligned:
    """Move and turn objects until their contours lie on the edges of masks.

    Args:
        cam_from_obj: poses, (B, 4, 4), metres; or H hypotheses of each, (B, H, 4, 4), the first one being the one to beat.
        amodal: probability of being a pixel of the object, seen or hidden, (B, h, h), in camera_ops.
        visible: probability of being a visible pixel of it, (B, h, h).
        image: (3, H, W), RGB in [0, 1].
        boxes: of the crops in the image, square, (B, 4), xyxy pixel edges.
        K: of the image, (3, 3), pixels.
        models: the CAD models, B of them.
        information: inverse covariance of the first poses in the tangent (v, omega), (B, 6, 6), such as PnP's; None: none.
        residual: what else speaks against each hypothesis, (B, H), in the unit of `Aligned.error`; None: nothing.

    Returns:
        Aligned. A pose is returned as it came where its silhouette would fit the mask no better, or where there is no edge.

    Source: Stoiber et al., SRT3D (IJCV 2022), with a network's mask in place of the colours of earlier frames.
    """
    device, dtype = cam_from_obj.device, cam_from_obj.dtype
    given = cam_from_obj.detach().double().cpu().numpy()
    given = given if given.ndim == 4 else given[:, None]
    batch, hypotheses = given.shape[:2]
    if not batch:
        none = cam_from_obj.new_zeros(0)
        return Aligned(cam_from_obj.reshape(0, 4, 4), none.reshape(0, 6, 6), none, none.bool())
    start = given.copy()
    start[..., :3, :3] = _rotations(start[..., :3, :3])
    whole, seen = amodal.detach().double().cpu(), visible.detach().double().cpu()
    Ks = camera_ops.crop_resize_K(K.detach().double().cpu(), boxes.detach().double().cpu(), (SIDE, SIDE)).numpy()
    maps = lines.maps_of(_foreground(whole, seen, camera_ops.cut(image.cpu(), boxes.cpu(), SIDE)))
    row = np.repeat(np.arange(batch), hypotheses)
    every = [models[i] for i in row.tolist()]
    prior = None
    if information is not None:
        known = information.detach().double().cpu().numpy() / DOUBT
        known = np.where(np.isfinite(known).all((1, 2), keepdims=True), known, 0)
        prior = lines.Prior(start[row, 0], known[row])
    still = [lines.still_of(m.symmetries.axes, m.symmetries.offsets) for m in every]
    starts = start.reshape(-1, 4, 4)
    found = lines.fit(points.rendered(every), starts, Ks[row], maps, row, SCHEDULE, None, prior, still, SETTINGS)
    trust = (1 - (whole - seen).clamp_min(0)) ** 2  # hidden parts are guessed
    edge = torch.from_numpy(Ks)[row]
    ends = _misfit(found.cam_from_obj, edge, every, whole[row], trust[row]).reshape(batch, hypotheses)
    first = _misfit(start[:, 0], torch.from_numpy(Ks), models, whole, trust)
    judged = ends if residual is None else ends + residual.detach().double().cpu().numpy()
    best = judged.argmin(1)
    chosen = found.cam_from_obj.reshape(batch, hypotheses, 4, 4)[np.arange(batch), best]
    error = ends[np.arange(batch), best]
    used = found.used.reshape(batch, hypotheses)[np.arange(batch), best] > 0
    better: Array = np.asarray((error < first) & used & np.isfinite(chosen).all((1, 2)))
    pose = np.where(better[:, None, None], chosen, given[:, 0])
    knowledge = found.information.reshape(batch, hypotheses, 6, 6)[np.arange(batch), best]
    return Aligned(
        torch.from_numpy(pose).to(device, dtype), torch.from_numpy(knowledge).to(device, dtype),
        torch.from_numpy(np.where(better, error, first)).to(device, dtype), torch.from_numpy(better).to(device),
    )  # fmt: skip


def _foreground(amodal: Tensor, visible: Tensor, pictures: Tensor) -> Array:
    """Mask times colours learnt from it, (B, SIDE, SIDE). Hidden pixels count for no side, and their colours say nothing."""
    amodal, visible = (_resized(m, SIDE) for m in (amodal, visible))
    index = colours.bins((pictures.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    mask, seen = amodal.numpy(), visible.numpy()
    known = colours.posterior(index, *colours.histograms_of_mask(index, seen, 1 - np.maximum(mask, seen)))
    hidden = (mask - seen).clip(0, 1)
    return colours.product(0.5 + (known - 0.5) * (1 - hidden), mask)


def _misfit(poses: Array, K: Tensor, models: Sequence[ObjectModel], masks: Tensor, trust: Tensor) -> Array:
    """How much silhouettes differ from masks, as a share of the masks' area, (B,)."""
    edge = torch.tensor([0.0, 0.0, SIDE, SIDE], dtype=torch.float64)
    fine = camera_ops.crop_resize_K(K, edge, (2 * JUDGED, 2 * JUDGED))
    drawn = []
    for pose, k, model in zip(torch.from_numpy(poses), fine, models, strict=True):
        seen = se3.transform(pose, model.vertices.double().cpu())[None].float()
        drawn.append(rasterize(seen, model.faces.cpu(), k, (2 * JUDGED, 2 * JUDGED)).face[0] >= 0)
    silhouettes = F.avg_pool2d(torch.stack(drawn)[:, None].double(), 2)[:, 0]
    wanted, weight = (_resized(m, JUDGED) for m in (masks, trust))
    area = (weight * wanted).sum((1, 2)).clamp_min(1e-6)
    return ((weight * (silhouettes - wanted).abs()).sum((1, 2)) / area).numpy()


def _resized(masks: Tensor, side: int) -> Tensor:
    """(B, h, h) -> (B, side, side)."""
    return F.interpolate(masks[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]


def _rotations(matrices: Array) -> Array:
    """The nearest rotations, (..., 3, 3)."""
    U, _, Vt = np.linalg.svd(matrices)
    U[..., 2] *= np.linalg.det(U @ Vt)[..., None]
    return U @ Vt
