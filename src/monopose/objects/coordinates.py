"""Dense object coordinates: every pixel of a crop says which point of the CAD model it sees; PnP does the rest.

Source: Park et al., Pix2Pose (ICCV 2019): coordinates + expected error, transformer loss, two-stage inference.
The default network is a modern encoder-decoder for several objects; `pix2pose(...)` is the published one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import pnp
from ..contour.align import align
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import se3
from ..nets.unet import UNet
from ..pnp import kernels
from ..pnp.prepare import prepare
from ..pnp.problems import Z_MIN
from ..types import Camera, Detections, Frame, ObjectModel, PoseEstimates
from .bins import cross_entropy, decode
from .networks import Discriminator, ObjectGeometry, Pix2PoseGenerator


@dataclass(frozen=True)
class Config:
    obj_ids: tuple[int, ...] = ()  # objects the network knows, BOP numbers
    backbone: str = "efficientnet_lite0"  # of nets.backbones; or the published generator: "pix2pose", "pix2pose_resnet50"
    pretrained: bool = True  # start the backbone from ImageNet weights where they can be had
    frozen_levels: int = 2  # backbone levels (strides 2, 4, ...) that keep their ImageNet weights, 0 to 5
    input_size: int = 128  # side of the square crop, pixels
    output_size: int = 64  # side of the coordinate image, pixels
    widths: tuple[int, int, int, int] = (128, 96, 64, 48)  # decoder channels at strides 16, 8, 4, 2
    bins: int = 32  # every coordinate is a distribution over this many bins of [-1, 1]; 0 regresses it directly
    crop_scale: float = 1.5  # side of the crop / longer side of the box
    shift: float = 0.12  # how far training crops lie beside the box: twice this at most, half of it usually, longer sides of it
    zoom: float = 0.2  # how much larger or smaller they are, natural logarithm
    even: bool = False  # shifted evenly up to `shift`, 1 - zoom to 1 + zoom times as large, as published
    visible_weight: float = 3.0  # weight of visible object pixels over hidden ones in the coordinate loss (beta)
    bins_weight: float = 0.3  # weight of the bins' cross-entropy, which stands in for the distance when there are bins
    error_weight: float = 0.5  # weight of the expected-error loss
    mask_weight: float = 0.3  # weight of the visible-mask loss; 0: object pixels are those far from grey
    amodal_weight: float = 0.3  # weight of the whole-silhouette loss, whose mask corrects the distance; 0: no such mask
    grey_background: bool = False  # teach coordinate 0 outside the object, and the error alike everywhere, as Pix2Pose does
    adversarial_weight: float = 0.0  # weight of the adversarial loss relative to the coordinate loss (published: 0.01)
    symmetry_steps: int = 36  # rotations per continuous symmetry axis in the loss
    greyed_share: float = 0.25  # share of training crops with the background greyed, as stage 2 sees them
    projection_weight: float = 0.0  # weight of the projection loss through PnP; 0: off
    projection_start: float = 0.5  # share of the training after which the projection loss sets in, and rises to full weight

    @property
    def published(self) -> bool:
        """Whether the network is Pix2Pose's own."""
        return self.backbone in ("pix2pose", "pix2pose_resnet50")


def pix2pose(obj_ids: tuple[int, ...]) -> Config:
    """The published network, losses and crops: shifted by 5 of 128 pixels, 0.7 to 1.3 times as large."""
    return Config(
        obj_ids, backbone="pix2pose", pretrained=False, output_size=128, bins=0, mask_weight=0.0, amodal_weight=0.0,
        grey_background=True, adversarial_weight=0.01, greyed_share=0.5, shift=1.5 * 5 / 128, zoom=0.3, even=True,
    )  # fmt: skip


PROJECTION_RAMP = 0.1  # share of the training in which the projection loss rises to its full weight
PROJECTION_POINTS = 256  # object pixels per crop that go through PnP
PROJECTION_LEAST = 16  # crops that show fewer object pixels tell too little of the pose
PROJECTION_HUBER = 0.1  # reprojection errors beyond this share of the pixels' spread count linearly
PROJECTION_DELTA = 0.05  # likewise the corners' distances, in sides of the crop
PROJECTION_DOUBT = 0.1  # added to the expected error, so that no pixel decides alone


class Output(NamedTuple):
    """What the network says about B crops, h x w pixels each."""

    coordinates: Tensor  # (B, 3, h, w), normalised: the object's box is [-1, 1] cubed
    error: Tensor  # (B, h, w), logit of the expected coordinate error, which lies in [0, 1]
    mask: Tensor  # (B, h, w), logit of being a visible pixel of the object
    bins: Tensor | None = None  # (B, 3, bins, h, w), logits of each coordinate's bin, or None if it is regressed
    amodal: Tensor | None = None  # (B, h, w), logit of being a pixel of the object, seen or hidden, or None if not learned


class Model(ObjectGeometry):
    """Config + objects -> network."""

    def __init__(self, config: Config, models: Mapping[int, ObjectModel] | None = None) -> None:
        super().__init__(config.obj_ids, models, config.symmetry_steps)
        self.config = config
        classes = len(config.obj_ids)
        if config.published:
            if (config.input_size, config.output_size) != (128, 128):
                raise ValueError(
                    f"the Pix2Pose generator maps 128 to 128 pixels, got {config.input_size} to {config.output_size}"
                )
            self.net: nn.Module = Pix2PoseGenerator(classes, config.backbone == "pix2pose_resnet50")
        else:
            if config.output_size * 2 != config.input_size:
                raise ValueError(
                    f"the U-Net halves its input: output_size must be {config.input_size // 2}, got {config.output_size}"
                )
            outputs = 2 + 3 * max(config.bins, 1) + (config.amodal_weight > 0)
            self.net = UNet(config.backbone, classes, outputs, config.widths, config.pretrained, config.frozen_levels)
        self.discriminator = Discriminator() if config.adversarial_weight > 0 else None

    def forward(self, images: Tensor, labels: Tensor) -> Output:
        """(B, 3, s, s) RGB in [0, 1], (B,) object ids -> `Output`."""
        return self.at_index(images, self.index_of(labels))

    def at_index(self, images: Tensor, index: Tensor) -> Output:
        """`forward` for positions in `config.obj_ids`, (B,), in place of object ids."""
        if self.exported is not None:
            coordinates, error, mask, *whole = self.exported(images, index)
            return Output(coordinates, error, mask, None, whole[0] if whole else None)
        raw = self.net(images, index)
        if self.config.published:
            coordinates = raw[:, :3].tanh()
            # the published rule: object pixels are farther than 0.3 from grey
            return Output(coordinates, raw[:, 3], (coordinates.norm(dim=1) - 0.3) * 20)
        amodal = self.config.amodal_weight > 0
        # one split: its gradient is one concatenation, where each slice would have filled a map of its own
        error, mask, read_out, *whole = raw.split([1, 1, 3 * max(self.config.bins, 1), *[1] * amodal], 1)
        bins = read_out.unflatten(1, (3, self.config.bins)) if self.config.bins else None
        coordinates = read_out if bins is None else decode(bins)
        return Output(coordinates, error.squeeze(1), mask.squeeze(1), bins, whole[0].squeeze(1) if amodal else None)


def symmetric_targets(model: Model, output: Output, batch: Mapping[str, Tensor]) -> Tensor:
    """The true coordinates under the symmetry that suits each prediction best: the choice in the transformer loss.

    Args:
        model, output: the network and its output.
        batch: "coordinates" (B, 3, h, w) metres, "mask_full", "mask_visible" (B, h, w), "label" (B,).

    Returns:
        normalised targets, (B, 3, h, w). Source: Pix2Pose, eq. 3.
    """
    weight = batch["mask_full"].float() + (model.config.visible_weight - 1) * batch["mask_visible"].float()
    return model.symmetric_targets(output.coordinates, batch["coordinates"], weight, model.index_of(batch["label"]))


def loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Coordinate, expected-error and visible-mask losses, and the adversarial and the projection loss where they are on.

    Args:
        model: the network (it owns normalisation and symmetries).
        output: its answer to batch["image"].
        batch: see `symmetric_targets`; for the projection loss also `projection_loss`, and "progress" (), the share of the
            training that is done (absent: all of it).

    Returns:
        scalar tensors by name; their sum is the loss.

    Source: Pix2Pose, eq. 1-5: per pixel l = mean |xyz - target|, beta l on visible pixels, e regresses min(l, 1).
    """
    config = model.config
    full, visible = batch["mask_full"].float(), batch["mask_visible"].float()
    target = symmetric_targets(model, output, batch)
    if config.grey_background:
        target = target * full[:, None]
    l_pixel = (output.coordinates - target).abs().mean(1)
    outside = torch.ones_like(full) if config.grey_background else full
    weight = outside + (config.visible_weight - 1) * visible
    # as published the mean over all pixels, of the expected error unweighted
    total = full.new_tensor(full.numel()) if config.grey_background else weight.sum().clamp_min(1)
    if output.bins is None:
        losses = {"coordinates": (weight * l_pixel).sum() / total}
    else:
        losses = {"coordinates": config.bins_weight * (weight * cross_entropy(output.bins, target, weight > 0)).sum() / total}
    expected = (output.error.sigmoid() - l_pixel.detach().clamp_max(1)).square()
    losses["error"] = config.error_weight * ((outside if config.grey_background else weight) * expected).sum() / total
    if config.mask_weight > 0:
        losses["mask"] = config.mask_weight * F.binary_cross_entropy_with_logits(output.mask, visible)
    if output.amodal is not None:
        losses["amodal"] = config.amodal_weight * F.binary_cross_entropy_with_logits(output.amodal, full)
    if model.discriminator is not None:
        model.discriminator.requires_grad_(False)  # this term teaches the generator; the trainer steps the discriminator
        fake = model.discriminator(output.coordinates)
        losses["adversarial"] = config.adversarial_weight * F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    if config.projection_weight > 0:
        done = float(batch["progress"]) if "progress" in batch else 1.0
        ramp = min(max((done - config.projection_start) / PROJECTION_RAMP, 0.0), 1.0)
        if ramp > 0:
            losses["projection"] = ramp * config.projection_weight * projection_loss(model, output, batch).mean()
    return losses


def projection_loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> Tensor:
    """How far PnP on the predicted coordinates moves the corners of the object's box in the crop: learning through the solver.

    Visible object pixels, a random `PROJECTION_POINTS` of them, are weighted by the mask over the expected error; the pose is
    sought from the true one under the symmetry that suits the coordinates best.

    Args:
        model, output: the network and its output.
        batch: "image" (B, 3, s, s), "label" (B,), "mask_visible" (B, h, w), "cam_from_obj" (B, 4, 4) metres, "K" (B, 3, 3)
            of the crop at the size of "image".

    Returns:
        (B,): mean Huber cost of the corners' distances in sides of the crop. Zero, with zero gradients, where PnP does not
        converge or sees fewer than `PROJECTION_LEAST` pixels. Differentiable in coordinates (through the bins where there are
        any), expected error and mask.

    Source: Chen et al., BPnP (CVPR 2020), for the gradient; the loss robust and in sides of the crop instead of pixels.
    """
    index = model.index_of(batch["label"])
    side, h = batch["image"].shape[-1], output.mask.shape[-1]
    visible = batch["mask_visible"].flatten(1)
    drawn = (torch.rand(visible.shape, device=visible.device) + visible).topk(min(PROJECTION_POINTS, h * h), 1).indices
    with torch.autocast(output.mask.device.type, enabled=False):
        metres = model.metres(output.coordinates.float(), index).flatten(2).mT
        points = metres.take_along_dim(drawn[..., None], 1)
        corner = torch.tensor([[0.0, 0.0, side, side]], device=drawn.device)
        pixels = camera_ops.pixels(corner, h)[0].flatten(0, 1)[drawn]
        weights = output.mask.float().sigmoid() / (output.error.float().sigmoid() + PROJECTION_DOUBT)
        weights = weights.flatten(1).gather(1, drawn) * visible.gather(1, drawn)
        weights = weights * (visible.sum(1, keepdim=True) >= PROJECTION_LEAST)
        K, robust = batch["K"].float(), pnp.AdaptiveHuber(PROJECTION_HUBER)
        true = batch["cam_from_obj"].float()[:, None] @ model.group[index]  # (B, S, 4, 4)
        with torch.no_grad():
            costs = kernels.pose_costs(prepare(points, pixels, K, weights, robust).problems, true)
            true = true.take_along_dim(costs.nan_to_num(torch.inf).argmin(1)[:, None, None, None], 1)[:, 0]
        found = pnp.solve_implicit(points, pixels, K, weights, init=true, robust=robust)
        corners = model.corners[index]
        there, here = (camera_ops.project(se3.transform(pose, corners), K, Z_MIN) for pose in (true, found.cam_from_obj))
        distance = (here - there) / side
        cost = F.huber_loss(distance, torch.zeros_like(distance), reduction="none", delta=PROJECTION_DELTA).sum(-1).mean(-1)
    return torch.where(found.converged, cost / PROJECTION_DELTA, torch.zeros_like(cost))


def discriminator_loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> Tensor:
    """What the discriminator learns: rendered coordinate images are real, predicted ones are not.

    Labels are smoothed to 0-0.1 and 0.9-1 and swapped with probability 0.2, by torch's own random state. Source: the code of
    Pix2Pose.
    """
    if model.discriminator is None:
        raise ValueError("this model has no discriminator; set Config.adversarial_weight > 0")
    model.discriminator.requires_grad_(True)
    real = symmetric_targets(model, output, batch) * batch["mask_full"].float()[:, None]
    logits = torch.cat([model.discriminator(real), model.discriminator(output.coordinates.detach())])
    n = len(real)
    smooth = torch.rand(2 * n).to(logits) * 0.1
    truth = torch.cat([1 - smooth[:n], smooth[n:]])
    swap = torch.rand(2 * n).to(logits) < 0.2
    return F.binary_cross_entropy_with_logits(logits, torch.where(swap, 1 - truth, truth))


class Correspondences(NamedTuple):
    """What a crop says about one object, in the pixels of the whole image."""

    label: int  # object id
    detection: int  # row of the detections it came from
    box: Tensor  # the crop, (4,), xyxy pixel edges of the whole image
    crop: Tensor  # the network's input, (3, s, s)
    coordinates: Tensor  # (h, w, 3), metres, object frame
    error: Tensor  # (h, w), expected error in [0, 1]
    mask: Tensor  # (h, w), probability of being a visible object pixel
    pixels: Tensor  # (h, w, 2), whole-image pixel of every entry
    amodal: Tensor | None  # (h, w), probability of being an object pixel, seen or hidden, or None if not learned


@torch.no_grad()
def correspond(
    model: Model, image: Tensor, labels: Tensor, boxes: Tensor, keep: Sequence[Tensor | None] | None = None, chunk: int = 32
) -> list[Correspondences]:
    """Run the network on square crops around boxes.

    Args:
        model: in eval mode.
        image: (3, H, W), RGB in [0, 1].
        labels: object ids, (N,).
        boxes: (N, 4), xyxy pixel edges of the whole image; the crops themselves, already square.
        keep: per crop, a mask (s, s) of pixels to keep, the rest becomes grey; or None.
        chunk: crops per forward pass.
    """
    config = model.config
    found: list[Correspondences] = []
    for start in range(0, len(labels), chunk):
        rows = slice(start, start + chunk)
        shown, pixels = (
            camera_ops.cut(image, boxes[rows], config.input_size),
            camera_ops.pixels(boxes[rows], config.output_size),
        )
        if keep is not None:
            for i, mask in enumerate(keep[rows]):
                if mask is not None:
                    shown[i] = torch.where(mask, shown[i], torch.full_like(shown[i], 0.5))
        output = model(shown, labels[rows])
        metres = model.metres(output.coordinates, model.index_of(labels[rows]))
        for i in range(len(shown)):
            found.append(
                Correspondences(
                    int(labels[start + i]), start + i, boxes[start + i], shown[i], metres[i].permute(1, 2, 0),
                    output.error[i].sigmoid(), output.mask[i].sigmoid(), pixels[i],
                    None if output.amodal is None else output.amodal[i].sigmoid(),
                )
            )  # fmt: skip
    return found


class Solved(NamedTuple):
    """A pose from one crop, or why there is none."""

    cam_from_obj: Tensor  # (4, 4), metres
    covariance: Tensor  # (6, 6)
    inliers: Tensor  # (h, w), bool
    score: float  # in [0, 1]; 0 if it failed
    success: bool


def solve(
    found: Correspondences, camera: Camera, mask_above: float = 0.5, seed: int = 0, earlier: Correspondences | None = None
) -> Solved:
    """The pose of one object: RANSAC over its visible pixels, then Levenberg-Marquardt on its inliers.

    Inliers weigh the same: weights from the expected error, or a robust cost over all pixels, were a little worse on photos.

    Args:
        found: the network's output for one crop.
        camera: of the whole image.
        mask_above: pixels less likely to be visible object are left out.
        seed: of RANSAC.
        earlier: its output for another crop of the same object; those correspondences count as well.

    Returns:
        a Solved; `inliers` are those of `found`, the score is over everything.
    """
    looks = [found] if earlier is None else [found, earlier]
    uses = [look.mask > mask_above for look in looks]
    nothing = Solved(torch.eye(4), torch.full((6, 6), float("inf")), torch.zeros_like(uses[0]), 0.0, False)
    points3d, points2d, error = (
        torch.cat([v[use] for v, use in zip(values, uses)])
        for values in zip(*((look.coordinates, look.pixels, look.error) for look in looks))
    )
    if len(error) < 6:
        return nothing
    # a crop pixel is the network's grain: the threshold follows it
    grain = sum(float(look.box[2] - look.box[0]) for look in looks) / len(looks) / found.mask.shape[-1]
    robust = pnp.ransac(points3d, points2d, camera, threshold_px=max(2.0, 3.0 * grain), seed=seed)
    if not robust.success:
        return nothing
    inliers = torch.zeros_like(uses[0])
    inliers[uses[0]] = robust.inliers[: int(uses[0].sum())].to(inliers.device)
    share = float(robust.inliers.float().mean())
    confident = 1 - float(error.mean().clamp_max(1))
    covariance = robust.covariance if robust.covariance is not None else nothing.covariance
    return Solved(robust.cam_from_obj.float(), covariance.float(), inliers, share * confident, True)


def predict(
    model: Model,
    frame: Frame,
    detections: Detections,
    stages: int = 2,
    models: Mapping[int, ObjectModel] | None = None,
) -> PoseEstimates:
    """Poses of detected objects in one frame, in two stages.

    Stage 1 looks at the square around each box and finds a pose. Stage 2 looks again at the square around the object
    as that pose shows it (or around the object pixels where PnP failed), with everything greyed that stage 1 says is not
    the object; the pose is the one that both looks agree on. Then the contour goes to the edges of the mask of the
    whole silhouette, see `contour.align`.

    Args:
        model: in eval mode.
        frame: one picture, undistorted.
        detections: labels, boxes and scores.
        stages: 1 or 2.
        models: CAD models by object id; without an object's the last step is left out for it.

    Returns:
        PoseEstimates in the order of `detections`, those without a pose left out; score = detection score x inlier share x
        (1 - mean expected error).

    Raises:
        ValueError: for an object id the model does not know.
    """
    return predict_traced(model, frame, detections, stages, models)[0]


def predict_traced(
    model: Model,
    frame: Frame,
    detections: Detections,
    stages: int = 2,
    models: Mapping[int, ObjectModel] | None = None,
) -> tuple[PoseEstimates, list[tuple[Correspondences, Solved]]]:
    """`predict`, and the final correspondences and solution of every detection."""
    started = time.perf_counter()
    squares = box_ops.square(detections.boxes, model.config.crop_scale)
    found = correspond(model, frame.image, detections.labels, squares)
    first_look = list(found)  # what hides the object, and so how far it goes on, is not to be seen on the greyed crops
    networked = time.perf_counter()
    solved = [solve(f, frame.camera) for f in found]
    seconds = {"coordinates": networked - started, "pnp": time.perf_counter() - networked}
    if stages == 2 and len(found):
        refined, keep = squares.clone(), []
        for i, (f, s) in enumerate(zip(found, solved, strict=True)):
            refined[i], mask = _second_look(model, f, s, frame.camera)
            keep.append(mask)
        started = time.perf_counter()
        again = correspond(model, frame.image, detections.labels, refined, keep)
        networked = time.perf_counter()
        solved_again = [solve(second, frame.camera, earlier=first) for first, second in zip(found, again, strict=True)]
        seconds["coordinates"] += networked - started
        seconds["pnp"] += time.perf_counter() - networked
        for i, (f, s) in enumerate(zip(again, solved_again, strict=True)):
            if s.success:
                found[i], solved[i] = f, s
    started = time.perf_counter()
    _align(first_look, solved, frame, models or {})
    seconds["contours"] = time.perf_counter() - started
    rows = [i for i, s in enumerate(solved) if s.success]
    boxes, confidence = detections.boxes[rows], detections.scores[rows]
    poses = torch.stack([solved[i].cam_from_obj for i in rows]) if rows else boxes.new_zeros(0, 4, 4)
    covariance = torch.stack([solved[i].covariance for i in rows]) if rows else boxes.new_zeros(0, 6, 6)
    scores = confidence * confidence.new_tensor([solved[i].score for i in rows])
    estimates = PoseEstimates(detections.labels[rows], poses, scores, covariance, boxes, seconds=seconds)
    return estimates, list(zip(found, solved, strict=True))


def _align(found: list[Correspondences], solved: list[Solved], frame: Frame, models: Mapping[int, ObjectModel]) -> None:
    """Move the solutions, in place, to where their contours lie on the edges of the predicted masks."""
    rows = [i for i, (f, s) in enumerate(zip(found, solved)) if s.success and f.amodal is not None and f.label in models]
    if not rows:
        return
    whole = torch.stack([found[i].amodal for i in rows])  # type: ignore[misc]
    visible, boxes = torch.stack([found[i].mask for i in rows]), torch.stack([found[i].box for i in rows])
    poses, covariance = (torch.stack([getattr(solved[i], name) for i in rows]) for name in ("cam_from_obj", "covariance"))
    chosen = [models[found[i].label] for i in rows]
    moved = align(poses, whole, visible, frame.image, boxes, frame.camera.K, chosen, information(covariance)).cam_from_obj
    for i, pose in zip(rows, moved):
        solved[i] = solved[i]._replace(cam_from_obj=pose)


def information(covariance: Tensor) -> Tensor:
    """Inverses, (B, 6, 6); 0 where a covariance is not finite."""
    known = torch.isfinite(covariance).all((1, 2), keepdim=True)
    eye = torch.eye(6, dtype=torch.float64, device=covariance.device)
    return torch.linalg.inv(torch.where(known, covariance.double(), eye) + 1e-12 * eye) * known


def _second_look(model: Model, found: Correspondences, solved: Solved, camera: Camera) -> tuple[Tensor, Tensor | None]:
    """The square crop and the pixels to keep for stage 2; sizes are measured in whole-image pixels throughout."""
    side = model.config.input_size
    likely = F.max_pool2d(found.mask[None, None], 5, 1, 2)  # a margin, so that the object's outline stays
    mask = F.interpolate(likely, (side, side), mode="nearest")[0, 0] > 0.3
    if not bool(mask.any()):
        return found.box, None
    old = found.box[2] - found.box[0]
    if solved.success:
        corners = model.corners[int(model.index_of(torch.tensor([found.label]))[0])]
        scale = 0.9 * model.config.crop_scale  # the box of the corners is wider than the silhouette's
        new = camera_ops.crop_around(corners, solved.cam_from_obj.to(corners), camera.K, scale)
        if not bool(torch.isfinite(new).all()) or not 0.5 * old < new[2] - new[0] < 2 * old:
            return found.box, mask
    else:
        pixels = found.pixels[found.mask > 0.5]
        if len(pixels) < 6:
            return found.box, mask
        new = box_ops.square(box_ops.from_points(pixels), model.config.crop_scale)
        new = new if new[2] - new[0] < old else found.box
    # the mask lives on the old crop: carry it over to the new one
    centres = new[:2] + (camera_ops.pixel_grid((side, side), new.device) + 0.5) * (new[2:] - new[:2]) / side
    grid = ((centres - found.box[:2]) / old * 2 - 1)[None]
    moved = F.grid_sample(mask[None, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return new, moved[0, 0] > 0.5
