"""Correspondences learned from poses: a network's coordinates and weights define a distribution of poses, which is trained.

Every pixel of a crop says which point of the object it sees and how much that counts, per image axis; a factor per object says
how sure all of it is. PnP turns this into a density over poses (`pnp.sample_posterior`), and the loss asks that the true pose
be likely. No mask, no coordinate need be annotated.

Source: Chen et al., EPro-PnP (CVPR 2022), sec. 4.1: the 6DoF network, on CDPN. The default network is the modern
encoder-decoder of `objects.coordinates` and can start from its weights; `basic`, `reg`, `coord_init`, `v2` are theirs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import pnp
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import rotation, se3
from ..nets.unet import ClassAwareHead, DeconvNet, UNet
from ..pnp import kernels
from ..pnp.prepare import prepare
from ..types import Camera, Detections, Frame, ObjectModel, PoseEstimates
from .bins import cross_entropy, decode
from .networks import ObjectGeometry

Z_MIN = 0.01  # metres: least depth of a projected point
MARGIN = 30.0  # projections stay within so many grid pixels of the crop in training, so that no gradient comes from afar
CLOSER = 0.9  # the box around the corners of an object's box is wider than that of its silhouette
MOMENTUM = 0.01  # of the running mean of the weight scale


@dataclass(frozen=True)
class Config:
    obj_ids: tuple[int, ...] = ()  # objects the network knows, BOP numbers
    backbone: str = "efficientnet_lite0"  # see nets.backbones
    pretrained: bool = True  # start the backbone from ImageNet weights where they can be had
    frozen_levels: int = 2  # backbone levels (strides 2, 4, ...) that keep their ImageNet weights, 0 to 5
    input_size: int = 96  # side of the square crop, pixels
    output_size: int = 48  # side of the coordinate image, pixels: half the input, a quarter with `deconv_width`
    widths: tuple[int, int, int, int] = (128, 96, 64, 48)  # U-Net decoder channels at strides 16, 8, 4, 2
    deconv_width: int = 0  # channels of the published head of transposed convolutions; 0: the U-Net decoder
    bins: int = 32  # every coordinate is a distribution over this many bins of [-1, 1]; 0 regresses it directly
    crop_scale: float = 1.5  # side of the crop / longer side of the box
    shift: float = 0.12  # how far training crops lie beside the box: twice this at most, half of it usually, longer sides of it
    zoom: float = 0.2  # how much larger or smaller they are, natural logarithm
    even: bool = False  # shifted evenly up to `shift`, 1 - zoom to 1 + zoom times as large, as published
    greyed_share: float = 0.0  # share of training crops with the background greyed
    symmetry_steps: int = 36  # rotations per continuous symmetry axis in the loss
    legacy_weights: bool = False  # weights as in the first release: not a softmax, and per photo pixel, not per grid pixel
    plain_photos: bool = False  # photos are not normalised as ImageNet's are; as the original has it, for its weights
    corner_pixels: bool = False  # a grid pixel stands for its upper left corner in the photo; likewise
    initial_spread: float = 0.0  # deviation of the decoder's weights before training; 0: what suits their number
    initial_scale: float = 3.0  # log of the sum of all weights, 1 / grid pixels, before training
    points: int = 512  # pixels drawn per object in training; all count at test
    samples: int = 128  # poses drawn per object
    far: float = 10.0  # poses so many times as far away as the furthest minimum have no density
    huber: float = 0.1  # threshold of the robust kernel relative to weights and spread of the pixels
    coordinate_weight: float = 1.0  # weight of the coordinate loss; 0: learn from poses alone
    bins_weight: float = 0.3  # further factor of the bins' cross-entropy, which stands in for the distance
    visible_weight: float = 3.0  # weight of visible object pixels over hidden ones in the coordinate loss
    monte_carlo_weight: float = 0.2  # weight of the Monte Carlo pose loss
    translation_weight: float = 0.1  # weight of the derivative regularisation of the translation, 1 / metres
    rotation_weight: float = 0.1  # weight of the derivative regularisation of the rotation
    translation_beta: float = 0.05  # metres below which the translation counts squared


def _published(obj_ids: tuple[int, ...], **changes: Any) -> Config:
    """The published network: ResNet-34, 256 px, 64 x 64 regressed coordinates, crops as CDPN draws them."""
    own: dict[str, Any] = {
        "backbone": "resnet34", "frozen_levels": 0, "input_size": 256, "output_size": 64, "deconv_width": 256, "bins": 0,
        "visible_weight": 1.0, "samples": 512, "shift": 0.25, "zoom": 0.25, "even": True,
    }  # fmt: skip
    return Config(obj_ids, **(own | changes))


FROM_NOTHING = 1000.0  # `Config.far` of networks that do not know yet how far away objects are


def _first(obj_ids: tuple[int, ...], **changes: Any) -> Config:
    """The first release (v1)."""
    own: dict[str, Any] = {
        "legacy_weights": True, "initial_scale": 0.0, "initial_spread": 1e-3, "monte_carlo_weight": 0.02,
        "translation_weight": 0.1, "rotation_weight": 0.1,
    }  # fmt: skip
    return _published(obj_ids, **(own | changes))


def coords(obj_ids: tuple[int, ...]) -> Config:
    """CDPN's first stage, which `coord-init`, `long` and `v2` start from: coordinates alone."""
    return _first(obj_ids, monte_carlo_weight=0.0, translation_weight=0.0, rotation_weight=0.0)


def basic(obj_ids: tuple[int, ...]) -> Config:
    """As published (v1): coordinate loss and Monte Carlo loss, from ImageNet."""
    return _first(obj_ids, translation_weight=0.0, rotation_weight=0.0, far=FROM_NOTHING)


def reg(obj_ids: tuple[int, ...]) -> Config:
    """As published (v1): with derivative regularisation, from ImageNet."""
    return _first(obj_ids, far=FROM_NOTHING)


def coord_init(obj_ids: tuple[int, ...]) -> Config:
    """As published (v1): the losses of `reg`, from a network that knows coordinates; `long` is the same for longer."""
    return _first(obj_ids)


def v2(obj_ids: tuple[int, ...]) -> Config:
    """As published (v2): weights per pixel of the grid, ten times the pose losses, from a network that knows coordinates."""
    return _published(obj_ids, translation_weight=1.0, rotation_weight=1.0)


def no_model(obj_ids: tuple[int, ...]) -> Config:
    """As published (v2): poses are the only truth, of the CAD model no more than its box is used."""
    return _published(obj_ids, translation_weight=1.0, rotation_weight=1.0, coordinate_weight=0.0, far=FROM_NOTHING)


def small(obj_ids: tuple[int, ...]) -> Config:
    """The published network at a quarter of the pixels, on ResNet-18."""
    return Config(
        obj_ids, backbone="resnet18", frozen_levels=0, input_size=128, output_size=32, deconv_width=128, bins=0,
        visible_weight=1.0, translation_weight=1.0, rotation_weight=1.0,
    )  # fmt: skip


def large(obj_ids: tuple[int, ...]) -> Config:
    """The U-Net on ConvNeXt at 256 px, for GPUs."""
    return Config(
        obj_ids, backbone="convnext_tiny", frozen_levels=0, input_size=256, output_size=128, widths=(384, 256, 128, 96),
        bins=64, points=1024,
    )  # fmt: skip


class Output(NamedTuple):
    """What the network says about B crops, h x w pixels each."""

    coordinates: Tensor  # (B, 3, h, w), normalised: the object's box is [-1, 1] cubed
    logits: Tensor  # (B, 2, h, w), of the weights of a pixel's u and v
    scale: Tensor  # (B, 2), sum of the weights of u and v, 1 / grid pixels (1 / photo pixels with `legacy_weights`)
    bins: Tensor | None = None  # (B, 3, bins, h, w), logits of each coordinate's bin, or None if it is regressed


class Model(ObjectGeometry):
    """Config + objects -> network."""

    norm: Tensor  # (), running mean of the weight scale, which the Monte Carlo loss is divided by; 0 before the first step

    def __init__(self, config: Config, models: Mapping[int, ObjectModel] | None = None) -> None:
        super().__init__(config.obj_ids, models, config.symmetry_steps)
        self.config = config
        classes, stride = len(config.obj_ids), 4 if config.deconv_width else 2
        if config.output_size * stride != config.input_size:
            raise ValueError(
                f"this network divides its input by {stride}: output_size must be {config.input_size // stride}, "
                f"got {config.output_size}"
            )
        outputs = 3 * max(config.bins, 1)
        if config.deconv_width:
            width = config.deconv_width
            self.net: DeconvNet | UNet = DeconvNet(
                config.backbone, classes, outputs, width, config.pretrained, config.frozen_levels
            )
        else:  # with the two outputs more that the coordinate network has, so that this one can start from its weights
            width = config.widths[-1]
            self.net = UNet(config.backbone, classes, 2 + outputs, config.widths, config.pretrained, config.frozen_levels)
        if config.plain_photos:
            if not isinstance(getattr(self.net.backbone, "mean", None), Tensor):
                raise ValueError(f"plain_photos needs a backbone of torchvision, not {config.backbone}")
            self.net.backbone.mean.zero_()  # type: ignore[operator]
            self.net.backbone.std.fill_(1)  # type: ignore[operator]
        self.weight_head = ClassAwareHead(classes, width, 2)
        nn.init.zeros_(self.weight_head.weight)
        if config.initial_spread > 0:
            for name, parameter in self.net.named_parameters():
                if not name.startswith(("backbone.", "which.")) and parameter.dim() > 1:
                    nn.init.normal_(parameter, std=config.initial_spread)
            nn.init.normal_(self.weight_head.weight, std=config.initial_spread)
        self.weight_scale = nn.Linear(width, 2)
        nn.init.zeros_(self.weight_scale.weight)
        nn.init.constant_(self.weight_scale.bias, config.initial_scale)
        self.register_buffer("norm", torch.zeros(()))

    def forward(self, images: Tensor, labels: Tensor) -> Output:
        """(B, 3, s, s) RGB in [0, 1], (B,) object ids -> `Output`."""
        return self.at_index(images, self.index_of(labels))

    def at_index(self, images: Tensor, index: Tensor) -> Output:
        """`forward` for positions in `config.obj_ids`, (B,), in place of object ids."""
        if self.exported is not None:
            return Output(*self.exported(images, index))
        features = self.net.features(images, index)
        raw = self.net.head(features, index).float()
        logits = self.weight_head(features, index).float()
        scale = self.weight_scale(features.mean((2, 3))).float().clamp(-20, 20).exp()
        if not self.config.deconv_width:  # expected error and visible mask, where the weights come from coordinates
            error, visible, raw = raw[:, :1], raw[:, 1:2], raw[:, 2:]
            logits = logits + F.logsigmoid(visible) - (error.sigmoid() + 0.1).log()
        if not self.config.bins:
            return Output(raw, logits, scale)
        bins = raw.unflatten(1, (3, self.config.bins))
        return Output(decode(bins), logits, scale, bins)


class WeightedCorrespondences(NamedTuple):
    """The PnP problems of B crops. N pixels each, in the pixels of the output grid."""

    points3d: Tensor  # (B, N, 3), metres
    points2d: Tensor  # (B, N, 2), grid pixels
    weights: Tensor  # (B, N, 2), 1 / grid pixels


def correspond(
    model: Model, output: Output, index: Tensor, boxes: Tensor, chosen: Tensor | None = None
) -> WeightedCorrespondences:
    """The correspondences that an output stands for.

    Args:
        model: the network.
        output: its output.
        index: of the objects, (B,).
        boxes: the crops in the photo, (B, 4), xyxy pixel edges.
        chosen: pixels to take, (B, n), entries of the flattened image; None: all, with the weights that make as much
            information out of them as `Config.points` of them have in training, so that the covariance keeps its meaning.

    Source: EPro-PnP, sec. 4.1: weights are a softmax over the pixels times a global scale; the code's second version divides
    by the size of a grid pixel.
    """
    config = model.config
    h = config.output_size
    points3d = model.metres(output.coordinates, index).flatten(2).mT
    points2d = camera_ops.pixel_grid((h, h), points3d.device, points3d.dtype).flatten(0, 1).expand(len(points3d), -1, -1)
    if config.corner_pixels:
        points2d = points2d - 0.5 + 0.5 * (h / (boxes[:, 2] - boxes[:, 0]))[:, None, None]
    logits, scale = output.logits.flatten(2).mT, output.scale[:, None]
    if chosen is not None:
        points3d, points2d, logits = (v.take_along_dim(chosen[..., None], 1) for v in (points3d, points2d, logits))
    else:
        scale = scale * math.sqrt(max(h * h / config.points, 1.0))
    if config.legacy_weights:
        scale = scale * ((boxes[:, 2] - boxes[:, 0]) / h)[:, None, None]
        weights = (logits - logits.mean(1, keepdim=True) - math.log(logits.shape[1])).exp() * scale
    else:
        weights = logits.softmax(1) * scale
    return WeightedCorrespondences(points3d, points2d, weights)


def loss(model: Model, output: Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Monte Carlo pose loss, derivative regularisation and coordinate loss, as far as their weights are not 0.

    Of poses that look the same, each loss takes the one that costs least. Where PnP fails there is no loss and no gradient.

    Args:
        model: the network (it owns normalisation and symmetries).
        output: its answer to batch["image"].
        batch: "label" (B,), "cam_from_obj" (B, 4, 4) metres, "K" (B, 3, 3) of the crop at input size, "box" (B, 4) the crop in
            the photo; for the coordinate loss "coordinates" (B, 3, h, w) metres, "mask_full", "mask_visible" (B, h, w).

    Returns:
        scalar tensors by name; their sum is the loss.
    """
    config, index = model.config, model.index_of(batch["label"])
    with torch.autocast(output.scale.device.type, enabled=False):
        if config.monte_carlo_weight > 0 or config.translation_weight > 0 or config.rotation_weight > 0:
            losses = _pose_losses(model, output, batch, index)
        else:  # processes that learn together need every gradient
            losses = {"nothing": 0 * (output.logits.sum() + output.scale.sum())}
        if config.coordinate_weight > 0:
            losses["coordinates"] = config.coordinate_weight * _coordinate_loss(model, output, batch, index)
    return losses


def _pose_losses(model: Model, output: Output, batch: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    config, h = model.config, model.config.output_size
    device = output.scale.device
    with torch.no_grad():
        chosen = torch.rand(len(index), h * h, device=device).topk(min(config.points, h * h), 1, sorted=False).indices
        if model.training:
            scale = output.scale.mean()
            scale = torch.where(torch.isfinite(scale), scale, model.norm)
            model.norm.copy_(torch.where(model.norm > 0, torch.lerp(model.norm, scale, MOMENTUM), scale))
    points3d, points2d, weights = correspond(model, output, index, batch["box"], chosen)
    K = grid_K(batch["K"], config.input_size, h)
    robust = pnp.AdaptiveHuber(config.huber)
    bounds = K.new_tensor([-MARGIN - 0.5, -MARGIN - 0.5, h + MARGIN - 0.5, h + MARGIN - 0.5])
    truth = batch["cam_from_obj"][:, None] @ model.group[index]  # all that look the same, (B, G, 4, 4)
    with torch.no_grad():
        if truth.shape[1] > 1:
            problems = prepare(points3d, points2d, K, weights, robust, bounds, Z_MIN).problems
            cheapest = kernels.pose_costs(problems, truth.to(problems.K)).nan_to_num(math.inf).argmin(1)
        else:
            cheapest = torch.zeros_like(index)
        true = truth.take_along_dim(cheapest[:, None, None, None], 1)[:, 0]
    posterior = pnp.sample_posterior(
        points3d, points2d, K, weights, init=true, samples=config.samples, robust=robust, z_min=Z_MIN, bounds=bounds,
        far=config.far,
    )  # fmt: skip
    losses = {}
    if config.monte_carlo_weight > 0:
        norm = model.norm if float(model.norm) > 0 else output.scale.detach().mean()
        losses["monte_carlo"] = config.monte_carlo_weight * pnp.monte_carlo_loss(posterior, true).mean() / norm
    if config.translation_weight > 0 or config.rotation_weight > 0:
        mode = pnp.one_step(posterior.prepared.problems, posterior.mode.to(posterior.prepared.problems.K))
        t, r = pnp.derivative_loss(mode, true, config.translation_beta, model.group[index])
        nothing = torch.zeros_like(t)
        losses["translation"] = config.translation_weight * torch.where(posterior.converged, t, nothing).mean()
        losses["rotation"] = config.rotation_weight * torch.where(posterior.converged, r, nothing).mean()
    return losses


def _coordinate_loss(model: Model, output: Output, batch: Mapping[str, Tensor], index: Tensor) -> Tensor:
    """Masked distance, or the bins' cross-entropy, to the symmetric truth that suits best. Source: Pix2Pose, eq. 3."""
    config = model.config
    weight = batch["mask_full"].float() + (config.visible_weight - 1) * batch["mask_visible"].float()
    target = model.symmetric_targets(output.coordinates, batch["coordinates"], weight, index)
    if output.bins is None:
        each = (output.coordinates - target).abs().mean(1)
    else:
        each = config.bins_weight * cross_entropy(output.bins, target)
    return (weight * each).sum() / weight.sum().clamp_min(1)


def grid_K(K: Tensor, input_size: int, output_size: int) -> Tensor:
    """Intrinsics of crops at input size -> at output size. (B, 3, 3) -> (B, 3, 3)."""
    whole = K.new_tensor([0, 0, input_size, input_size])
    return camera_ops.crop_resize_K(K, whole, (output_size, output_size))


class ObjectPosterior(NamedTuple):
    """What one crop says about its object's pose."""

    label: int  # object id
    detection: int  # row of the detections it came from
    box: Tensor  # the crop, (4,), xyxy pixel edges of the whole image
    crop: Tensor  # the network's input, (3, s, s)
    coordinates: Tensor  # (h, w, 3), metres, object frame
    weights: Tensor  # (h, w, 2), 1 / grid pixels
    samples: Tensor  # (S, 4, 4), metres
    log_weights: Tensor  # (S,)
    modes: Tensor  # (M, 4, 4), metres, the best first; with repetitions
    covariance: Tensor  # (6, 6), metres and radians, around the first mode
    bounds: Tensor  # of the object's box, (2, 3), metres, object frame
    converged: bool


class _Look(NamedTuple):
    """What one look at all objects of a photo says, (B, ...)."""

    boxes: Tensor
    shown: Tensor
    coordinates: Tensor
    weights: Tensor
    samples: Tensor
    log_weights: Tensor
    modes: Tensor
    covariance: Tensor
    certain: Tensor
    converged: Tensor


TRACED_SAMPLES = 512  # poses drawn per object, at least, where they are looked at


def predict(model: Model, frame: Frame, detections: Detections, stages: int = 1, samples: int | None = None) -> PoseEstimates:
    """Poses of detected objects in one frame: the modes of their distributions.

    The second stage looks again at the square around the object as the first stage's pose shows it, and counts where it is at
    least as sure.

    Args:
        model: in eval mode.
        frame: one picture, undistorted.
        detections: labels, boxes and scores.
        stages: 1 or 2.
        samples: poses drawn per object; None: as in training.

    Returns:
        PoseEstimates in the order of `detections`, those without a pose left out. covariance: second moment of the samples
        around the mode. score: detection score x probability that no corner of the object's box is farther than a tenth of
        the box's diagonal from where this pose puts it.

    Raises:
        ValueError: for an object id the model does not know.
    """
    return predict_traced(model, frame, detections, stages, samples or model.config.samples)[0]


@torch.no_grad()
def predict_traced(
    model: Model, frame: Frame, detections: Detections, stages: int = 1, samples: int | None = None
) -> tuple[PoseEstimates, list[ObjectPosterior]]:
    """`predict`, and the distribution of the pose of every detection; samples=None draws enough for pictures, 512 or more."""
    labels = detections.labels
    if len(labels) == 0:
        nothing = detections.boxes.new_zeros
        return PoseEstimates(labels, nothing(0, 4, 4), detections.scores, nothing(0, 6, 6), detections.boxes), []
    index, seconds = model.index_of(labels), {"network": 0.0, "pnp": 0.0}
    samples = samples or max(model.config.samples, TRACED_SAMPLES)
    found = _look(model, frame, labels, index, box_ops.square(detections.boxes, model.config.crop_scale), samples, seconds)
    if stages == 2:
        again = _look(model, frame, labels, index, _around(model, found, frame.camera, index), samples, seconds)
        better = again.converged & ((again.certain >= found.certain) | ~found.converged)
        found = _Look(*(torch.where(better.view(-1, *[1] * (a.dim() - 1)), b, a) for a, b in zip(found, again, strict=True)))
    posteriors = []
    for i, label in enumerate(labels.tolist()):
        look = _Look(*(v[i] for v in found))
        bounds = model.corners[index[i]][[0, 7]]
        posteriors.append(ObjectPosterior(label, i, *look[:7], look.covariance, bounds, bool(look.converged)))
    rows = found.converged.nonzero().flatten()
    estimates = PoseEstimates(
        labels[rows], found.modes[rows, 0], (detections.scores * found.certain)[rows], found.covariance[rows],
        detections.boxes[rows], seconds=seconds,
    )  # fmt: skip
    return estimates, posteriors


def _look(
    model: Model, frame: Frame, labels: Tensor, index: Tensor, boxes: Tensor, samples: int, seconds: dict[str, float]
) -> _Look:
    """Cut the squares `boxes` out of a photo and estimate the poses in them; adds to `seconds`."""
    started, sides = time.perf_counter(), (model.config.output_size, model.config.output_size)
    shown = camera_ops.cut(frame.image, boxes, model.config.input_size)
    given = correspond(model, model(shown, labels), index, boxes)
    seconds["network"] += time.perf_counter() - started
    started = time.perf_counter()
    posterior = pose_posterior(model, given, frame.camera, boxes, samples)
    covariance, certain = pose_confidence(model, posterior, index)
    seconds["pnp"] += time.perf_counter() - started
    return _Look(
        boxes, shown, given.points3d.unflatten(1, sides), given.weights.unflatten(1, sides), posterior.samples,
        posterior.log_weights, posterior.modes, covariance, certain, posterior.converged,
    )  # fmt: skip


def _around(model: Model, found: _Look, camera: Camera, index: Tensor) -> Tensor:
    """The squares around the objects as their poses show them; the old ones where there is none or it is far off. (B, 4)."""
    corners, poses = model.corners[index], found.modes[:, 0]
    new = camera_ops.crop_around(corners, poses, camera.K, CLOSER * model.config.crop_scale)
    old_side, new_side = (v[:, 2] - v[:, 0] for v in (found.boxes, new))
    inside = (new[:, :2] + new[:, 2:] - found.boxes[:, :2] - found.boxes[:, 2:]).abs().amax(1) < old_side  # centres
    good = found.converged & inside & (new_side > 0.5 * old_side) & (new_side < 2 * old_side)
    good = good & torch.isfinite(new).all(1) & (se3.transform(poses, corners)[..., 2] > Z_MIN).all(1)
    return torch.where(good[:, None], new, found.boxes)


def pose_posterior(model: Model, given: WeightedCorrespondences, camera: Camera, boxes: Tensor, samples: int) -> pnp.Posterior:
    """The distributions of poses that correspondences leave open, all objects of a photo at once.

    Args:
        model: of the correspondences.
        given: of all pixels, (B, ...).
        camera: of the photo.
        boxes: the crops, (B, 4), xyxy pixel edges.
        samples: poses drawn per object.
    """
    h = model.config.output_size
    K = camera_ops.crop_resize_K(camera.K.to(boxes), boxes, (h, h))
    robust, generator = pnp.AdaptiveHuber(model.config.huber), torch.Generator(boxes.device).manual_seed(0)
    return pnp.sample_posterior(*given[:2], K, given.weights, samples=samples, robust=robust, z_min=Z_MIN, generator=generator)


def pose_confidence(model: Model, posterior: pnp.Posterior, index: Tensor) -> tuple[Tensor, Tensor]:
    """How sure the best modes are.

    Returns:
        covariance around the mode, (B, 6, 6), metres and radians; probability, (B,), that the pose is right within a tenth of
        the diagonal of the object's box, at the worst of its corners. Equivalent poses count as one.
    """
    mode = posterior.mode
    p = posterior.probabilities()
    corners = model.corners[index][:, None, None]  # (B, 1, 1, 8, 3)
    here = se3.transform(mode, model.corners[index])[:, None, None]
    variants = posterior.samples[:, :, None] @ model.group[index][:, None]  # (B, S, G, 4, 4)
    apart = (se3.transform(variants, corners) - here).norm(dim=-1).amax(-1)  # (B, S, G)
    nearest = apart.argmin(-1, keepdim=True)
    pose = variants.take_along_dim(nearest[..., None, None], 2)[:, :, 0]
    within = 0.1 * (model.corners[index][:, 7] - model.corners[index][:, 0]).norm(dim=-1)
    certain = (p * (apart.amin(-1) <= within[:, None])).sum(-1)
    v = pose[..., :3, 3] - mode[:, None, :3, 3]
    omega = rotation.so3_log(pose[..., :3, :3] @ mode[:, None, :3, :3].mT)
    tangent = torch.cat([v, omega], -1)
    return (tangent * p[..., None]).mT @ tangent, certain
