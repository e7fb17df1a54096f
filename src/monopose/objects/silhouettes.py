"""A rendering of the object where its pose has it, and the photo around it: a network says where the outline truly is.

Dense coordinates have to know the shape of an object by heart to guess the outline of what is hidden. Here the CAD model is
drawn at the pose that was found and goes into the network beside the photo, so that the network only has to see by how much
it is off, which is the same task for every object: one network, trained on many meshes, serves objects that it never saw.
`contour.align` then moves the pose to that outline, and `shading.refine` to where light explains what is inside of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import pnp, weights
from ..contour.align import align
from ..exported import OnnxNet
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import rotation, se3
from ..nets.backbones import backbone
from ..nets.unet import conv_norm, enlarged
from ..synthesis import fused
from ..types import Camera, Frame, ObjectModel, PoseEstimates
from . import shading
from .coordinates import information

CHANNELS = 5  # of a drawn prior: silhouette, relative depth, colours under a headlight
UNIT = 4.0  # outline pixels in a unit of `Output.field`
SHARPEST, BLUNTEST = -4.0, 3.0  # limits of its logarithm of the deviation
HUBER = 2.0  # deviations beyond which its pixels count linearly
USUAL = -2.0  # mean logarithm of the deviation at good poses
DOUBT = 100.0  # pixels of one object err together: the information of the field's pose is divided by this
EDGE = 4.0  # pixels near the outline, drawn or true, weigh this much more
ROUNDS = 2  # drawn, looked at and moved
NEAREST = 0.05  # diameters: an object of which a corner is nearer to the camera is not drawn
SMALLEST, LARGEST = 2.0, 50.0  # pixels, and sizes of the picture: other objects are not looked at
TOGETHER = 32  # poses that go through the network at once


@dataclass(frozen=True)
class Config:
    obj_ids: tuple[int, ...] = ()  # objects it was trained on, BOP numbers; it takes any
    backbone: str = "efficientnet_lite0"  # see nets.backbones
    pretrained: bool = True  # start the backbone from ImageNet weights where they can be had
    frozen_levels: int = 2  # backbone levels (strides 2, 4, ...) that keep their ImageNet weights, 0 to 5
    input_size: int = 128  # side of the square crop, pixels; the outline has half of that
    crop_scale: float = 1.4  # side of the crop / longer side of the box of the drawn object
    widths: tuple[int, int, int, int] = (128, 96, 48, 32)  # decoder channels at strides 16, 8, 4, 2
    drawn: tuple[int, int, int] = (16, 32, 48)  # channels of the drawn prior at strides 2, 4, 8
    noise_deg: float = 14.0  # largest standard deviation of the training poses about each axis, degrees
    noise_shift: float = 0.08  # largest deviation across the line of sight, diameters
    noise_depth: float = 0.12  # largest deviation of the distance, natural logarithm
    far_share: float = 0.25  # share of training poses that are turned by any angle up to `far_deg`
    far_deg: float = 45.0  # degrees
    any_share: float = 0.15  # share of training poses with any rotation, of which the network has to say that it is unsure
    field_weight: float = 0.1  # weight of the loss of the displacements


class Output(NamedTuple):
    """What the network says about B crops, h x w pixels each."""

    amodal: Tensor  # (B, h, w), logit of being a pixel of the object, seen or hidden
    visible: Tensor  # (B, h, w), logit of being a visible pixel of it
    field: Tensor  # (B, 3, h, w), where a drawn pixel has gone: x and y in `UNIT`, logarithm of the deviation of both


class Model(nn.Module):
    """Config -> network."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.input_size % 32:
            raise ValueError(f"input_size must be a multiple of 32, got {config.input_size}")
        self.config = config
        self.exported: OnnxNet | None = None  # computes in the place of the network, see `exported`
        self.backbone = backbone(config.backbone, config.pretrained, config.frozen_levels)
        skips, fine = list(self.backbone.channels), list(config.drawn)
        self.drawn = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))
            for i, o in zip([CHANNELS, *fine], fine)
        )
        # strides 4 and 8: what is drawn joins the photo where the backbone learns, at first with no weight
        into = [nn.Conv2d(o, skips[k + 1], 1) for k, o in enumerate(fine[1:])]
        for layer in into:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.into = nn.ModuleList(into)
        self.lateral = conv_norm(skips[-1], config.widths[0], 1)
        beside = [s + d for s, d in zip(skips[:4], [*fine, 0])]
        stages, inputs = [], config.widths[0]
        for width, skip in zip(config.widths, reversed(beside), strict=True):
            stages.append(conv_norm(inputs + skip, width))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(inputs, 2, 1)
        self.field = nn.Conv2d(inputs, 3, 1)

    def forward(self, images: Tensor, drawn: Tensor) -> Output:
        """(B, 3, s, s) RGB in [0, 1] and the priors (B, 5, s, s), see `synthesis.fused.prior` -> `Output`."""
        if self.exported is not None:
            return Output(*self.exported(images, drawn))
        fine, x = [], drawn.contiguous(memory_format=torch.channels_last)
        for layer in self.drawn:
            x = layer(x)
            fine.append(x)
        added = [None, *(layer(f) for layer, f in zip(self.into, fine[1:], strict=True))]
        *skips, deepest = self.backbone(images, added)
        beside = [torch.cat([s, f], 1) for s, f in zip(skips, fine)] + skips[len(fine) :]
        x = self.lateral(deepest)
        for stage, skip in zip(self.stages, reversed(beside), strict=True):
            x = stage(torch.cat([enlarged(x, skip.shape[-2:]), skip], 1))
        amodal, visible = self.head(x).unbind(1)
        return Output(amodal, visible, self.field(x))


def of_base() -> Model | None:
    """The network that comes with monopose, or None."""
    file = weights.base("silhouettes")
    return None if file is None else weights.load_network(file, "silhouettes", Config, Model)


def changed(start: Tensor, by: Tensor, centre: Tensor, diameter: float | Tensor) -> Tensor:
    """A pose moved and turned as it looks from the camera.

    Args:
        start: (..., 4, 4), metres.
        by: (..., 6): x / z and y / z of the middle by which it moves, in apparent diameters; logarithm of the distances' ratio;
            rotation vector in the camera frame, radians.
        centre: middle of the object, (..., 3), metres, object frame.
        diameter: metres.

    Source: Labbe et al., CosyPose (ECCV 2020), eq. 2.
    """
    a = se3.transform(start, centre[..., None, :])[..., 0, :]
    z = a[..., 2:] * by[..., 2:3].exp()
    middle = torch.cat([(a[..., :2] / a[..., 2:] + by[..., :2] * diameter / a[..., 2:]) * z, z], -1)
    R = rotation.so3_exp(by[..., 3:]) @ start[..., :3, :3]
    return se3.from_rt(R, middle - (R @ centre[..., None])[..., 0])


def field(model: ObjectModel, start: Tensor, true: Tensor, K: np.ndarray, side: int) -> tuple[Tensor, Tensor]:
    """Where the surface points that one pose draws lie under another one.

    Args:
        model: the object.
        start, true: (4, 4), metres.
        K: of the crop at `side` pixels, (3, 3).

    Returns:
        displacements (2, side, side), pixels, 0 beside the drawn object; where it is drawn, (side, side), bool.
    """
    points, shown = (torch.from_numpy(v) for v in fused.target(model, start.double().numpy(), K, side))
    seen = camera_ops.project(se3.transform(true, points.flatten(1).mT), torch.from_numpy(K).float())
    moved = seen.mT.unflatten(1, (side, side)) - camera_ops.pixel_grid((side, side)).permute(2, 0, 1)
    return torch.where(shown, moved, torch.zeros_like(moved)), shown


def loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How wrong the masks are, the outline most of all near its edge, and how wrong the displacements.

    Args:
        model: the network.
        output: its answer to batch["image"] and batch["drawn"].
        batch: "mask_full" and "mask_visible" (B, s, s), "drawn" (B, 5, s, s), "field" (B, 2, h, w) and "shown" (B, h, w), see
            `field`.

    Returns:
        scalar tensors by name; their sum is the loss. Masks are shares of the pixels' area, so that edges are exact to less
        than a pixel. Displacements have a Laplace distribution whose deviation the network says, too.
    """
    size = (output.amodal.shape[-2], output.amodal.shape[-1])
    full, visible, prior = (
        F.adaptive_avg_pool2d(m.float()[:, None], size)[:, 0]
        for m in (batch["mask_full"], batch["mask_visible"], batch["drawn"][:, 0])
    )
    weight = 1 + EDGE * torch.maximum(_edge(full), (full - prior).abs())
    weight = weight / weight.mean((1, 2), keepdim=True)
    amodal = F.binary_cross_entropy_with_logits(output.amodal, full, weight)
    seen = F.binary_cross_entropy_with_logits(output.visible, visible)
    wrong = (output.field[:, :2] - batch["field"] / UNIT).abs().sum(1)
    spread = output.field[:, 2].clamp(SHARPEST, BLUNTEST)
    shown = batch["shown"].float()
    unlikely = ((wrong * (-spread).exp() + 2 * spread) * shown).sum() / shown.sum().clamp_min(1)
    return {"amodal": amodal, "visible": 0.5 * seen, "field": model.config.field_weight * unlikely}


def _edge(masks: Tensor) -> Tensor:
    """1 within two pixels of the edges of masks, 0 elsewhere. (B, h, w) -> (B, h, w)."""
    inside, outside = (F.max_pool2d(m[:, None], 5, 1, 2)[:, 0] for m in (masks, 1 - masks))
    return (torch.minimum(inside, outside) > 0.5).to(masks)


def drawn(models: Sequence[ObjectModel], poses: Tensor, K: Tensor, side: int) -> Tensor:
    """The priors of objects at their poses, in crops with intrinsics K (B, 3, 3): (B, 5, side, side)."""
    Ks = K.double().cpu().numpy()
    parts = [fused.prior(m, p, k, side) for m, p, k in zip(models, poses.double().cpu().numpy(), Ks, strict=True)]
    return torch.from_numpy(np.stack(parts)).to(poses.device, torch.float32)


class OutlineTrace(NamedTuple):
    """How one pose came to its outline, in its last round."""

    row: int  # of the estimates
    model: ObjectModel
    before: Tensor  # (4, 4), the pose that was drawn
    after: Tensor  # (4, 4)
    box: Tensor  # the crop, (4,), xyxy pixel edges of the picture
    crop: Tensor  # (3, s, s), RGB
    drawn: Tensor  # (5, s, s), see `synthesis.fused.prior`
    amodal: Tensor  # (h, w), probability of being a pixel of the object, seen or hidden
    visible: Tensor  # (h, w), probability of being a visible pixel of it


def predict(
    model: Model, frame: Frame, poses: PoseEstimates, models: Mapping[int, ObjectModel], rounds: int = ROUNDS
) -> PoseEstimates:
    """Poses whose contours lie on the outlines that the network sees, and whose shading is that of the photo.

    Args:
        model: in eval mode.
        frame: one picture, undistorted.
        poses: roughly right ones of objects in it. What their covariance knows is kept, see `contour.align`; without one, what
            the displacements know.
        models: CAD models by object id; a pose without one stays, and one at or behind the camera.
        rounds: how often it is drawn, looked at and moved.

    Returns:
        the same estimates, moved where an outline and then the shading fits better than before, their scores times how like the
        photo they are, see `likeness`.
    """
    return predict_traced(model, frame, poses, models, rounds)[0]


@torch.no_grad()
def predict_traced(
    model: Model, frame: Frame, poses: PoseEstimates, models: Mapping[int, ObjectModel], rounds: int = ROUNDS
) -> tuple[PoseEstimates, list[OutlineTrace]]:
    """`predict`, and how every pose with a CAD model came to its outline."""
    started = time.perf_counter()
    labels = poses.labels.tolist()
    rows = [i for i, n in enumerate(labels) if n in models and drawable(poses.cam_from_obj[i], models[n], frame.camera)]
    current, scores, traces = poses.cam_from_obj.clone(), poses.scores.clone(), []
    for first in range(0, len(rows), TOGETHER):
        some = rows[first : first + TOGETHER]
        chosen = [models[labels[i]].to("cpu") for i in some]
        known = None if poses.covariance is None else information(poses.covariance[some])
        for _ in range(rounds):
            before = current[some]
            seen = look(model, frame.image, frame.camera.K, before, chosen)
            if known is None:
                known = solved(seen, frame.camera.K, before, chosen)[1]
            masks = seen.output.amodal.sigmoid(), seen.output.visible.sigmoid()
            moved = align(before, *masks, frame.image, seen.boxes, frame.camera.K, chosen, known)
            current[some] = moved.cam_from_obj
        current[some], _ = shading.refine(frame.image, frame.camera.K, current[some], chosen, seen.boxes, masks[1])
        scores[some] *= likeness(seen).to(scores)
        shown = before, current[some], seen.boxes, seen.crops, seen.drawn, *masks
        traces += [OutlineTrace(row, m, *values) for row, m, *values in zip(some, chosen, *shown, strict=True)]
    seconds = poses.seconds | {"silhouettes": time.perf_counter() - started}
    return replace(poses, cam_from_obj=current, scores=scores, seconds=seconds), traces


def drawable(pose: Tensor, model: ObjectModel, camera: Camera) -> bool:
    """Whether an object lies before the camera and has a size in the picture that a crop can show."""
    corners = se3.transform(pose.double().cpu(), model.corners.double().cpu())
    if not bool(torch.isfinite(pose).all()) or float(corners[:, 2].min()) < NEAREST * model.diameter:
        return False
    low, high = camera_ops.project(corners, camera.K.double().cpu()).aminmax(dim=0)
    return SMALLEST < float((high - low).max()) < LARGEST * max(camera.size)


class Look(NamedTuple):
    """What the network saw of B drawn objects, and its answer."""

    output: Output
    boxes: Tensor  # (B, 4), of the crops, xyxy pixel edges of the picture
    crops: Tensor  # (B, 3, s, s)
    drawn: Tensor  # (B, 5, s, s)


def look(model: Model, image: Tensor, K: Tensor, poses: Tensor, models: Sequence[ObjectModel], side: int | None = None) -> Look:
    """Run the network on crops of a picture around B objects where their poses have them.

    Args:
        model: in eval mode.
        image: (3, H, W), RGB in [0, 1].
        K: of the image, (3, 3), pixels.
        poses: (B, 4, 4), metres.
        models: the CAD models, B of them.
        side: of the crops, pixels; None: that of the training.
    """
    side, device = side or model.config.input_size, next(model.parameters()).device
    intrinsics = K.double().cpu()
    seen = [fused.bounds(m, p, intrinsics.numpy()) for m, p in zip(models, poses.double().cpu().numpy(), strict=True)]
    boxes = box_ops.square(torch.from_numpy(np.stack(seen)).float(), model.config.crop_scale).to(image.device)
    crops = camera_ops.cut(image, boxes, side).to(device, torch.float32)
    prior = drawn(models, poses, camera_ops.crop_resize_K(intrinsics, boxes.double().cpu(), (side, side)), side).to(device)
    return Look(model(crops.contiguous(memory_format=torch.channels_last), prior), boxes, crops, prior)


def solved(seen: Look, K: Tensor, poses: Tensor, models: Sequence[ObjectModel]) -> tuple[Tensor, Tensor]:
    """The poses that the displacements lead to: PnP over the drawn pixels where the photo shows them.

    Args:
        seen: what the network saw of the objects, and its answer.
        K: of the picture, (3, 3), pixels.
        poses: where they were drawn, (B, 4, 4), metres.
        models: the CAD models, B of them.

    Returns:
        (B, 4, 4), those that came where PnP does not converge; information of the tangent (v, omega), (B, 6, 6).
    """
    out = seen.output
    side = out.field.shape[-1]
    Ks = camera_ops.crop_resize_K(K.double().cpu(), seen.boxes.double().cpu(), (side, side))
    targets = [fused.target(m, p, k, side) for m, p, k in zip(models, poses.double().cpu().numpy(), Ks.numpy(), strict=True)]
    points, shown = (torch.from_numpy(np.stack(v)) for v in zip(*targets, strict=True))
    moves = out.field.double().cpu()
    places = camera_ops.pixel_grid((side, side)).double() + UNIT * moves[:, :2].permute(0, 2, 3, 1)
    weights = shown / (UNIT * moves[:, 2].clamp(SHARPEST, BLUNTEST).exp())
    starts = poses.double().cpu()
    found = pnp.solve(
        points.double().flatten(2).mT, places.flatten(1, 2), Ks, weights.flatten(1), init=starts, robust=pnp.Huber(HUBER)
    )
    good = found.converged[:, None, None]
    moved = torch.where(good, found.cam_from_obj, starts).to(poses)
    return moved, (information(found.covariance) * good / DOUBT).to(poses)


def likeness(seen: Look) -> Tensor:
    """How like the photo drawn objects are, (B,), in [0, 1]: the mean of overlap and visible share, squared, and less by what
    the deviation of the displacements is above that of good poses."""
    fits, doubt = agreement(seen)
    return (fits / 2).square() * (USUAL - doubt).clamp_max(0).exp()


def agreement(seen: Look) -> tuple[Tensor, Tensor]:
    """How well drawn objects agree with the photo.

    Returns:
        (B,): overlap of the drawn silhouette with the outline (IoU) + share of it that the photo shows, 0 to 2; (B,): mean
        logarithm of the deviation of the displacements, in `UNIT`.
    """
    out = seen.output
    prior = F.adaptive_avg_pool2d(seen.drawn[:, :1], (out.field.shape[-2], out.field.shape[-1]))[:, 0]
    area = prior.sum((1, 2)).clamp_min(1e-6)
    whole, visible = out.amodal.sigmoid(), out.visible.sigmoid()
    overlap = torch.minimum(whole, prior).sum((1, 2)) / torch.maximum(whole, prior).sum((1, 2)).clamp_min(1e-6)
    doubt = (out.field[:, 2].clamp(SHARPEST, BLUNTEST) * prior).sum((1, 2)) / area
    return overlap + (visible * prior).sum((1, 2)) / area, doubt
