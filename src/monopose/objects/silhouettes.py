"""A rendering of the object where its pose has it, and the photo around it: a network says where the outline truly is.

Dense coordinates have to know the shape of an object by heart to guess the outline of what is hidden. Here the CAD model is
drawn at the pose that was found and goes into the network beside the photo, so that the network only has to see by how much
it is off, which is the same task for every object: one network, trained on many meshes, serves objects that it never saw.
`contour.align` then moves the pose to that outline.
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

from ..contour.align import align
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import rotation, se3
from ..nets.backbones import backbone
from ..nets.unet import conv_norm, enlarged
from ..synthesis import fused
from ..types import Frame, ObjectModel, PoseEstimates
from .coordinates import information

CHANNELS = 5  # of a drawn prior: silhouette, relative depth, colours under a headlight
MOVES = (0.1, 0.1, 0.1, 0.2, 0.2, 0.2)  # what counts as one unit of `Output.change` in the loss
EDGE = 4.0  # pixels near the outline, drawn or true, weigh this much more
ROUNDS = 2  # drawn, looked at and moved
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
    change_weight: float = 0.1  # weight of the loss of the pose's change


class Output(NamedTuple):
    """What the network says about B crops, h x w pixels each."""

    amodal: Tensor  # (B, h, w), logit of being a pixel of the object, seen or hidden
    visible: Tensor  # (B, h, w), logit of being a visible pixel of it
    change: Tensor  # (B, 6), see `change`, in units of `MOVES`


class Model(nn.Module):
    """Config -> network."""

    def __init__(self, config: Config, models: Mapping[int, ObjectModel] | None = None) -> None:
        super().__init__()
        if config.input_size % 32:
            raise ValueError(f"input_size must be a multiple of 32, got {config.input_size}")
        self.config = config
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
        cells = (config.input_size // 32) ** 2
        self.change = nn.Sequential(
            nn.Conv2d(skips[-1], 48, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48 * cells, 128), nn.ReLU(inplace=True),
            nn.Linear(128, 6),
        )  # fmt: skip

    def forward(self, images: Tensor, drawn: Tensor) -> Output:
        """(B, 3, s, s) RGB in [0, 1] and the priors (B, 5, s, s), see `synthesis.fused.prior` -> `Output`."""
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
        return Output(amodal, visible, self.change(deepest))


def change(start: Tensor, true: Tensor, centre: Tensor, diameter: float | Tensor) -> Tensor:
    """What leads from one pose to another: places across the line of sight, distance, rotation.

    Args:
        start, true: (..., 4, 4), metres.
        centre: middle of the object, (..., 3), metres, object frame.
        diameter: metres.

    Returns:
        (..., 6): x / z and y / z of the middle by which it moves, in apparent diameters; logarithm of the distances' ratio;
        rotation vector in the camera frame, radians. Source: Labbe et al., CosyPose (ECCV 2020), eq. 2.
    """
    a, b = (se3.transform(pose, centre[..., None, :])[..., 0, :] for pose in (start, true))
    across = (b[..., :2] / b[..., 2:] - a[..., :2] / a[..., 2:]) * a[..., 2:] / diameter
    turn = rotation.so3_log(true[..., :3, :3] @ start[..., :3, :3].mT)
    return torch.cat([across, (b[..., 2:] / a[..., 2:]).log(), turn], -1)


def changed(start: Tensor, by: Tensor, centre: Tensor, diameter: float | Tensor) -> Tensor:
    """Inverse of `change`: the pose that it leads to. (..., 4, 4), (..., 6) -> (..., 4, 4)."""
    a = se3.transform(start, centre[..., None, :])[..., 0, :]
    z = a[..., 2:] * by[..., 2:3].exp()
    middle = torch.cat([(a[..., :2] / a[..., 2:] + by[..., :2] * diameter / a[..., 2:]) * z, z], -1)
    R = rotation.so3_exp(by[..., 3:]) @ start[..., :3, :3]
    return se3.from_rt(R, middle - (R @ centre[..., None])[..., 0])


def loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How wrong the outlines are, most of all near the edge, and how wrong the pose's change.

    Args:
        model: the network.
        output: its answer to batch["image"] and batch["drawn"].
        batch: "mask_full" and "mask_visible" (B, s, s), "drawn" (B, 5, s, s), "change" (B, 6), see `change`.

    Returns:
        scalar tensors by name; their sum is the loss. Masks are shares of the pixels' area, so that edges are exact to less
        than a pixel.
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
    wrong = (output.change - batch["change"] / output.change.new_tensor(MOVES)).abs()
    return {"amodal": amodal, "visible": 0.5 * seen, "change": model.config.change_weight * wrong.mean()}


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
    """Poses whose contours lie on the outlines that the network sees.

    Args:
        model: in eval mode.
        frame: one picture, undistorted.
        poses: roughly right ones of objects in it.
        models: CAD models by object id; a pose without one stays.
        rounds: how often it is drawn, looked at and moved.

    Returns:
        the same estimates, moved where an outline fits better than before.
    """
    return predict_traced(model, frame, poses, models, rounds)[0]


@torch.no_grad()
def predict_traced(
    model: Model, frame: Frame, poses: PoseEstimates, models: Mapping[int, ObjectModel], rounds: int = ROUNDS
) -> tuple[PoseEstimates, list[OutlineTrace]]:
    """`predict`, and how every pose with a CAD model came to its outline."""
    started = time.perf_counter()
    rows = [i for i, label in enumerate(poses.labels.tolist()) if label in models and _drawable(poses.cam_from_obj[i])]
    current, traces = poses.cam_from_obj.clone(), []
    for first in range(0, len(rows), TOGETHER):
        some = rows[first : first + TOGETHER]
        chosen = [models[int(poses.labels[i])].to("cpu") for i in some]
        known = None if poses.covariance is None else information(poses.covariance[some])
        for _ in range(rounds):
            before = current[some]
            seen = look(model, frame.image, frame.camera.K, before, chosen)
            masks = seen.output.amodal.sigmoid(), seen.output.visible.sigmoid()
            starts = torch.stack([before, proposed(seen.output, before, chosen)], 1)
            moved = align(starts, *masks, frame.image, seen.boxes, frame.camera.K, chosen, known)
            current[some] = moved.cam_from_obj
        shown = before, current[some], seen.boxes, seen.crops, seen.drawn, *masks
        traces += [OutlineTrace(row, m, *values) for row, m, *values in zip(some, chosen, *shown, strict=True)]
    seconds = poses.seconds | {"silhouettes": time.perf_counter() - started}
    return replace(poses, cam_from_obj=current, seconds=seconds), traces


def _drawable(pose: Tensor) -> bool:
    return bool(torch.isfinite(pose).all() & (pose[2, 3] > 1e-3))


class Look(NamedTuple):
    """What the network saw of B drawn objects, and its answer."""

    output: Output
    boxes: Tensor  # (B, 4), of the crops, xyxy pixel edges of the picture
    crops: Tensor  # (B, 3, s, s)
    drawn: Tensor  # (B, 5, s, s)


def look(model: Model, image: Tensor, K: Tensor, poses: Tensor, models: Sequence[ObjectModel]) -> Look:
    """Run the network on crops of a picture around B objects where their poses have them.

    Args:
        model: in eval mode.
        image: (3, H, W), RGB in [0, 1].
        K: of the image, (3, 3), pixels.
        poses: (B, 4, 4), metres.
        models: the CAD models, B of them.
    """
    side, device = model.config.input_size, next(model.parameters()).device
    intrinsics = K.double().cpu()
    seen = [fused.bounds(m, p, intrinsics.numpy()) for m, p in zip(models, poses.double().cpu().numpy(), strict=True)]
    boxes = box_ops.square(torch.from_numpy(np.stack(seen)).float(), model.config.crop_scale).to(image.device)
    crops = camera_ops.cut(image, boxes, side).to(device)
    prior = drawn(models, poses, camera_ops.crop_resize_K(intrinsics, boxes.double().cpu(), (side, side)), side).to(device)
    return Look(model(crops.contiguous(memory_format=torch.channels_last), prior), boxes, crops, prior)


def proposed(output: Output, poses: Tensor, models: Sequence[ObjectModel]) -> Tensor:
    """The poses that the network's own guess of the change leads to, (B, 4, 4)."""
    centre = torch.stack([m.bounds.mean(0) for m in models]).to(poses)
    diameter = poses.new_tensor([[m.diameter] for m in models])
    return changed(poses, output.change.to(poses) * poses.new_tensor(MOVES), centre, diameter)
