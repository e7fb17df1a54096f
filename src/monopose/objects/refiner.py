"""A pose that is roughly right becomes right: render the object there, find where its pixels went in the photo, solve, repeat.

Each outer round renders the object at its present pose and cuts the photo around it. A recurrent network then corrects, step by
step, the field of displacements between the two pictures, and says per pixel whether the photo shows that pixel and how sure it
is; descriptors learned on the surface of the model and in the photo say whether both show the same point. After every step one
Levenberg-Marquardt step moves the pose, and the field starts the next step as what the pose implies: geometry never lets go.

Source: Xu et al., RNNPose (CVPR 2022). Different here: any number of objects in one batch, one network for all of them
(conditioned on the object, if it was trained on it), relative damping, symmetric truths, predicted visibility and two-axis
confidence in the weights, and a result that is compared with its start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import pnp
from ..geometry import camera, rotation, se3, symmetry
from ..geometry import camera as camera_ops
from ..mesh.loading import albedo, surface_samples
from ..pnp import residuals
from ..pnp.problems import Kernel, Problems
from ..render import maps, scene
from ..types import ObjectModel
from . import refiner_networks
from .refiner_networks import Surface, SurfaceNet, circle_loss, joined, nearest, softmax_loss, surface

STRIDE = 4  # crop pixels per cell of the feature maps
Z_MIN = 0.01  # metres: least depth of a projected point
FARTHER = 2.0  # a step may not change the distance of an object by more than this factor
SAMPLES = 8192  # points of a surface from which the evenly spread ones are chosen


@dataclass(frozen=True)
class Config:
    obj_ids: tuple[int, ...] = ()  # objects it was trained on, BOP numbers; of others it takes what is common to these
    backbone: str = "efficientnet_lite0"  # see nets.backbones
    pretrained: bool = True  # start the backbone from ImageNet weights where they can be had
    frozen_levels: int = 2  # backbone levels (strides 2, 4, ...) that keep their ImageNet weights, 0 to 5
    window_size: int = 192  # side of the training pictures, pixels, from which crops are cut
    window_scale: float = 2.4  # side of those pictures / longer side of the object's box
    crop_size: int = 128  # side of the square crops, pixels
    crop_scale: float = 1.4  # side of the crop / longer side of the box of the rendered object
    widths: tuple[int, int, int] = (128, 96, 64)  # decoder channels at strides 16, 8, 4, as in `objects.coordinates`
    features: int = 64  # channels of the features that are compared
    hidden: int = 64  # channels of the recurrent state
    motion: int = 48  # channels of the evidence of one step
    context: int = 48  # channels that the model's surface gives to the recurrence
    descriptor: int = 32  # length of the descriptors of surface and photo
    surface_points: int = 512  # of a model, which carry descriptors and context
    surface_width: int = 64  # channels of the surface network at its finest level
    levels: int = 3  # of the correlation pyramid
    radius: int = 3  # of its look-up, cells of each level
    finer: int = 2  # pixels of the solved field per feature cell, along each axis: 1, 2 or 4
    outer: int = 3  # renderings
    inner: int = 4  # steps per rendering
    train_outer: int = 1  # renderings in training
    train_inner: int = 3  # steps per rendering in training
    damping: float = 1e-3  # of a Levenberg-Marquardt step, share of the Hessian's diagonal
    noise_deg: float = 20.0  # largest standard deviation of the training noise about each axis, degrees
    noise_shift: float = 0.1  # largest deviation across the line of sight, diameters; three times that along it
    symmetry_steps: int = 36  # rotations per continuous symmetry axis in the loss
    point_weight: float = 1.0  # weight of the point distance, relative to that of the start
    point_floor: float = 0.05  # diameters that are added to the start's distance
    flow_weight: float = 0.2  # weight of the field's error, per cell
    visible_weight: float = 0.2  # weight of the visibility loss
    descriptor_weight: float = 0.2  # weight of the descriptors' metric loss
    outline_weight: float = 0.3  # weight of the loss of the two silhouettes in the photo
    score_weight: float = 0.1  # weight of the loss of the predicted pose error
    circle: bool = False  # the published circle loss between descriptors; else a softmax over the pairs, which learns faster
    pair_reach: float = 0.06  # radii below which two points of a surface are the same for the descriptors
    pair_far: float = 0.15  # radii beyond which they are different


def published(obj_ids: tuple[int, ...]) -> Config:
    """Sizes, iterations and noise of RNNPose, for GPUs."""
    return Config(
        obj_ids, backbone="resnet34", frozen_levels=0, window_size=480, crop_size=240, features=256, hidden=128, motion=128,
        context=128, surface_points=2048, surface_width=128, levels=4, radius=4, finer=4, train_outer=3, train_inner=4,
        noise_deg=15.0, noise_shift=0.1, circle=True,
    )  # fmt: skip


def small(obj_ids: tuple[int, ...]) -> Config:
    """For CPUs: about half the pixels and channels."""
    return Config(
        obj_ids, window_size=144, crop_size=96, features=48, hidden=48, motion=32, context=32, surface_points=256,
        surface_width=32,
    )  # fmt: skip


class RefinerObject(NamedTuple):
    """An object as the refiner needs it, with its origin in the middle of its box, wherever the CAD file has it."""

    model: ObjectModel
    centre: Tensor  # (3,), metres: that middle in the frame of the CAD file
    surface: Surface
    rows: Tensor  # (V, 3), the points of the surface nearest to each vertex
    shares: Tensor  # (V, 3), what each of them counts
    points: Tensor  # (P, 3), metres, spread over the surface
    group: Tensor  # (S, 4, 4), symmetries, the identity first


def prepare_object(model: ObjectModel, config: Config) -> RefinerObject:
    """Centre an object and sample its surface; deterministic."""
    centre = model.bounds.mean(0).cpu()
    model = centred(model.to("cpu"), centre)
    drawn = surface_samples(model, SAMPLES, torch.Generator().manual_seed(0))
    radius = model.diameter / 2
    counts = [config.surface_points // 4**level for level in range(3)]
    graph = surface(drawn.points / radius, drawn.normals, albedo(model, drawn), counts)
    distance, rows = nearest(model.vertices / radius, graph.points[0], 3)
    shares = 1 / distance.clamp_min(1e-4)
    group = symmetry.transforms(model.symmetries, config.symmetry_steps)
    return RefinerObject(
        model, centre, graph, rows, shares / shares.sum(1, keepdim=True), graph.points[0][:256] * radius, group
    )


def centred(model: ObjectModel, centre: Tensor) -> ObjectModel:
    """The same object in a frame whose origin is `centre` (3,), metres."""
    symmetries = model.symmetries
    discrete = symmetries.discrete.clone()
    discrete[:, :3, 3] += discrete[:, :3, :3] @ centre - centre
    moved = replace(symmetries, discrete=discrete, offsets=symmetries.offsets - centre)
    return replace(model, vertices=model.vertices - centre, symmetries=moved)


def to_centres(cam_from_obj: Tensor, objects: Sequence[RefinerObject]) -> Tensor:
    """Poses of CAD files -> of the centred objects. (B, 4, 4) -> (B, 4, 4)."""
    return _shifted(cam_from_obj, torch.stack([o.centre for o in objects]) if objects else cam_from_obj.new_zeros(0, 3))


def from_centres(cam_from_obj: Tensor, objects: Sequence[RefinerObject]) -> Tensor:
    """Inverse of `to_centres`."""
    return _shifted(cam_from_obj, -torch.stack([o.centre for o in objects]) if objects else cam_from_obj.new_zeros(0, 3))


def _shifted(poses: Tensor, offsets: Tensor) -> Tensor:
    moved = poses.clone()
    moved[:, :3, 3] += (poses[:, :3, :3] @ offsets.to(poses)[..., None]).squeeze(-1)
    return moved


class Batch(NamedTuple):
    """B objects of a picture or of many, with what the surface network says about them."""

    objects: list[RefinerObject]
    meshes: scene.Meshes
    attributes: Tensor  # (B, V, descriptor + context), per vertex
    which: Tensor  # (B,), positions of the objects in `Config.obj_ids`, -1 for others


class Step(NamedTuple):
    """The outputs of one recurrent step, and the pose it led to. h x w fine pixels, `finer` per feature cell."""

    before: Tensor  # (B, 4, 4), the pose whose projection the field corrects
    after: Tensor  # (B, 4, 4)
    change: Tensor  # (B, 2, h, w), crop pixels: from where `before` puts a rendered point to where the photo shows it
    target: Tensor  # (B, h, w, 2), crop pixels: that place
    visible: Tensor  # (B, h, w), logit of the photo showing the rendered point
    similarity: Tensor  # (B, h, w), of the descriptors of the rendered point and of that place, -1 to 1
    weights: Tensor  # (B, h, w, 2), of the residuals of u and v; 0 where nothing is rendered
    error: Tensor  # (B,), logarithm of the mean point distance of `before` in diameters, as the network guesses it


class Iteration(NamedTuple):
    """One rendering, the crop beside it and the steps that followed. Poses are those of the centred objects, `Known.model`."""

    start: Tensor  # (B, 4, 4), the pose that was rendered
    boxes: Tensor  # (B, 4), of the crops, in the picture
    K: Tensor  # (B, 3, 3), of the crops
    rendered: Tensor  # (B, 3, s, s)
    observed: Tensor  # (B, 3, s, s)
    pixels: Tensor  # (h, w, 2), crop pixels of the fine points
    coordinates: Tensor  # (B, h, w, 3), metres: the surface point at each
    mask: Tensor  # (B, h, w), bool: where the object is rendered
    surface: Tensor  # (B, descriptor, h, w), of those points
    photo: Tensor  # (B, descriptor, s / 4, s / 4), descriptors of the photo
    outline: Tensor  # (B, 2, s / 4, s / 4), logits: the photo shows the object there; it would if nothing hid it
    steps: list[Step]


class Cells(NamedTuple):
    """What stays the same during a round, per feature cell."""

    points: Tensor  # (B, h, w, 3), metres, object frame: the surface, and a plane through the object beside it
    covered: Tensor  # (B, 1, h, w), 1 where the object is rendered
    surface: Tensor  # (B, descriptor, h, w)
    context: Tensor  # (B, context, h, w)
    pyramid: list[Tensor]  # of the correlation
    rendered: Tensor  # (B, features, h, w)
    observed: Tensor  # (B, features, h, w)


class Model(nn.Module):
    """Config + objects -> network. It takes any object, see `Config.obj_ids`; `models` are those that `forward` takes."""

    def __init__(self, config: Config, models: Mapping[int, ObjectModel] | None = None) -> None:
        super().__init__()
        if config.crop_size % 16:
            raise ValueError(f"crop_size must be a multiple of 16, got {config.crop_size}")
        if config.finer not in (1, 2, 4):
            raise ValueError(f"finer must be 1, 2 or 4, got {config.finer}")
        self.config = config
        self.features = refiner_networks.FeatureNet(
            config.backbone,
            max(len(config.obj_ids), 1),
            config.widths,
            config.features,
            config.pretrained,
            config.frozen_levels,
        )
        self.surface = SurfaceNet(config.descriptor, config.context, config.surface_width)
        self.photo = nn.Sequential(
            nn.Conv2d(config.features, config.features, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(config.features, config.descriptor, 1), nn.BatchNorm2d(config.descriptor, affine=False),
        )  # fmt: skip
        state = config.hidden + config.context
        seen = config.features + config.context + 7  # features of the rendering, what the surface tells, position, normal, mask
        self.context = nn.Sequential(nn.Conv2d(seen, state, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(state, state, 1))
        looked = config.levels * (2 * config.radius + 1) ** 2 + 2 * config.features
        self.outline = nn.Conv2d(config.features, 2, 3, padding=1)
        self.update = refiner_networks.UpdateBlock(
            looked, 4 + 2 * config.levels, config.hidden, config.context, config.motion, 4 + config.levels, config.finer
        )
        self.log_sharpness = nn.Parameter(torch.tensor(1.0))  # of what the look-up alone says of the field
        self.judge = nn.Sequential(nn.Linear(config.hidden, config.hidden), nn.ReLU(inplace=True), nn.Linear(config.hidden, 1))
        self.log_sigma = nn.Parameter(torch.zeros(()))  # of the similarity weight
        self.objects = {i: prepare_object(m, config) for i, m in (models or {}).items()}
        self._met: dict[int, tuple[ObjectModel, RefinerObject]] = {}  # objects of `predict`, by the id of the Python object
        self._kept: dict[int, tuple[ObjectModel, Tensor]] = {}  # outputs of the surface network for them
        self._kept_for: tuple[object, ...] = ()  # with which weights

    def forward(self, images: Tensor, labels: Tensor, K: Tensor, start: Tensor) -> list[Iteration]:
        """Refine one object in each of B training pictures.

        Args:
            images: (B, 3, S, S), RGB in [0, 1].
            labels: object ids, (B,).
            K: (B, 3, 3), pixels.
            start: initial poses, (B, 4, 4), metres.
        """
        objects = [self.objects[int(label)] for label in labels]
        batch = self.gather(objects, images.device)
        pose, rounds = to_centres(start, objects), []
        for _ in range(self.config.train_outer):
            rounds.append(self.round(batch, images, K, pose, self.config.train_inner))
            pose = rounds[-1].steps[-1].after.detach()
        return rounds

    def gather(self, objects: Sequence[RefinerObject], device: torch.device | str) -> Batch:
        """Descriptors and contexts of the objects, each computed once however often it appears."""
        distinct = {id(o.model): o for o in objects}
        features = self._surface_features(distinct, device)
        near = {i: (features[i][o.rows.to(device)] * o.shares.to(device)[..., None]).sum(1) for i, o in distinct.items()}
        there = {i: o._replace(model=o.model.to(device)) for i, o in distinct.items()}  # colours and textures are drawn there
        mine = [there[id(o.model)] for o in objects]
        ids = self.config.obj_ids
        index = torch.tensor([ids.index(o.model.obj_id) if o.model.obj_id in ids else -1 for o in mine], device=device)
        return Batch(
            mine, scene.side_by_side([o.model for o in mine]), scene.padded([near[id(o.model)] for o in objects]), index
        )

    def cached_object(self, model: ObjectModel) -> RefinerObject:
        """`prepare_object` of an object, sampled once for as long as the network lives."""
        if id(model) not in self._met:
            self._met[id(model)] = model, prepare_object(model, self.config)  # the model is kept, so that its id stays its own
        return self._met[id(model)][1]

    def _surface_features(self, objects: dict[int, RefinerObject], device: torch.device | str) -> dict[int, Tensor]:
        """What the surface network says, by the keys of `objects`; outside training remembered while its weights stay."""
        if self.training or torch.is_grad_enabled():
            return dict(zip(objects, self._describe(list(objects.values()), device), strict=True))
        stamp = (str(device), *((v.data_ptr(), v._version) for v in self.surface.state_dict().values()))
        if stamp != self._kept_for:
            self._kept, self._kept_for = {}, stamp
        new = {i: o for i, o in objects.items() if i not in self._kept}
        if new:
            raw = self._describe(list(new.values()), device)
            self._kept |= {i: (o.model, v) for (i, o), v in zip(new.items(), raw, strict=True)}
        return {i: self._kept[i][1] for i in objects}

    def _describe(self, objects: list[RefinerObject], device: torch.device | str) -> list[Tensor]:
        graph = joined([o.surface for o in objects]).to(device)
        descriptors, context = self.surface(graph)
        return list(torch.cat([descriptors, context], 1).float().split([len(o.surface.points[0]) for o in objects]))

    def round(self, batch: Batch, images: Tensor, K: Tensor, pose: Tensor, inner: int) -> Iteration:
        """Render at a pose, compare with the picture, and take `inner` steps.

        Args:
            batch: B objects.
            images: one picture of all, (3, H, W), or (B, 3, H, W).
            K: of the pictures, (B, 3, 3).
            pose: (B, 4, 4), metres; in front of the camera.
        """
        config, side = self.config, self.config.crop_size
        pose = pose.detach()
        with torch.no_grad(), torch.autocast(pose.device.type, enabled=False):
            points = batch.meshes.vertices.to(pose)
            limits = (10 / config.crop_scale, 1e4)  # at least 10 pixels of the photo in a crop
            boxes = camera_ops.crop_around(points, pose, K, config.crop_scale, Z_MIN, limits)
            K = camera_ops.crop_resize_K(K, boxes, (side, side))
            drawn = scene.draw([o.model for o in batch.objects], batch.meshes, pose, K, (side, side))
            observed = camera.cut(images, boxes, side) if images.dim() == 3 else _cut_each(images, boxes, side)
        both = self.features(
            torch.cat([drawn.image, observed]).contiguous(memory_format=torch.channels_last), batch.which.repeat(2)
        )
        rendered_features, observed_features = both.float().chunk(2)
        photo = F.normalize(self.photo(observed_features).float(), dim=1)
        outline = self.outline(observed_features).float()
        coarse, fine = scene.every(drawn.fragments, STRIDE), scene.every(drawn.fragments, STRIDE // config.finer)
        surface = maps.interpolate(coarse, batch.meshes.faces, batch.attributes).movedim(-1, 1)
        surface_map = maps.interpolate(fine, batch.meshes.faces, batch.attributes[..., : config.descriptor]).movedim(-1, 1)
        points, normals = (scene.every_value(v, STRIDE) for v in (drawn.coordinates, drawn.normals_cam))
        covered = (coarse.depth > 0)[:, None].to(pose)
        size = pose.new_tensor([o.model.diameter / 2 for o in batch.objects])[:, None, None, None]
        shape = torch.cat([surface[:, config.descriptor :], (points / size).movedim(-1, 1), normals.movedim(-1, 1), covered], 1)
        hidden, context = self.context(torch.cat([rendered_features, shape], 1)).split([config.hidden, config.context], 1)
        pyramid = refiner_networks.correlation(rendered_features, observed_features, config.levels)
        step = STRIDE // config.finer
        here = _cells(side, step, pose)
        result = Iteration(
            pose, boxes, K, drawn.image, observed, here, scene.every_value(drawn.coordinates, step),
            fine.depth > 0, F.normalize(surface_map, dim=1), photo, outline, [],
        )  # fmt: skip
        with torch.autocast(pose.device.type, enabled=False):
            points = torch.where(covered[:, 0, ..., None] > 0, points, _billboard(pose, K, side))
        cells = Cells(
            points, covered,
            F.normalize(surface[:, : config.descriptor], dim=1), F.relu(context), pyramid, rendered_features, observed_features,
        )  # fmt: skip
        hidden = torch.tanh(hidden)
        for _ in range(inner):
            hidden = self._step(result, cells, hidden, result.steps[-1].after.detach() if result.steps else pose)
        return result

    def _step(self, now: Iteration, cells: Cells, hidden: Tensor, pose: Tensor) -> Tensor:
        """One recurrent step and one step of the pose, appended to `now.steps`; returns the new hidden state."""
        config = self.config
        here = _cells(config.crop_size, STRIDE, pose)
        with torch.autocast(pose.device.type, enabled=False):  # half precision would round places to half a pixel
            flow = ((_project(cells.points, pose, now.K) - here) / STRIDE).clamp(-config.crop_size, config.crop_size)
        centres = camera_ops.pixel_grid(here.shape[:2], pose.device, pose.dtype) + flow  # type: ignore[arg-type]
        places = (here + flow * STRIDE + 0.5) / STRIDE - 0.5
        similar = (refiner_networks.sample(now.photo, places) * cells.surface).sum(1, keepdim=True)
        outline = refiner_networks.sample(now.outline.sigmoid(), places)
        looked = refiner_networks.look_up(cells.pyramid, centres, config.radius)
        guesses = refiner_networks.expected(looked, config.levels, config.radius, self.log_sharpness.exp())
        looked = torch.cat([looked, cells.rendered, refiner_networks.sample(cells.observed, centres)], 1)
        evidence = torch.cat([similar, outline, cells.covered, guesses.flatten(1, 2)], 1)
        hidden, raw, mask = self.update(hidden, cells.context, looked, flow.movedim(-1, 1), evidence)
        shares = raw[:, 5:].float().softmax(1)[:, 1:]  # of each level's guess; the first belongs to none
        change = raw[:, :2].float() + (shares[:, :, None] * guesses).sum(1)
        raw = refiner_networks.upsampled(torch.cat([change, raw[:, 2:5].float()], 1), mask.float(), config.finer)
        with torch.autocast(pose.device.type, enabled=False):
            change = raw[:, :2] * STRIDE
            target = _project(now.coordinates, pose, now.K) + change.movedim(1, -1)
            there = refiner_networks.sample(now.photo, (target + 0.5) / STRIDE - 0.5)
            similarity = (there * now.surface).sum(1)
            like = torch.exp(-(1 - similarity).clamp_min(0) / self.log_sigma.exp())
            sure = (raw[:, 3:].sigmoid() * raw[:, 2:3].sigmoid()).movedim(1, -1)
            weights = like[..., None] * sure * now.mask[..., None]
            after = _solve(now, target, weights, pose, config.damping)
            pooled = (hidden.float() * cells.covered).sum((2, 3)) / cells.covered.sum((2, 3)).clamp_min(1)
            error = self.judge(pooled)[:, 0]
        now.steps.append(Step(pose, after, change, target, raw[:, 2], similarity, weights, error))
        return hidden


def _cut_each(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """One crop from each picture, as `crops.cut` makes them. (B, 3, H, W), (B, 4) -> (B, 3, side, side)."""
    return torch.cat([camera.cut(image, box[None], side) for image, box in zip(images, boxes, strict=True)])


def _cells(side: int, step: int, like: Tensor) -> Tensor:
    """The pixels that stand for cells of `step` x `step`, (side / step, side / step, 2); as `render.scene.every` takes them."""
    n = side // step
    return camera_ops.pixel_grid((n, n), like.device, like.dtype) * step + step // 2


def _billboard(pose: Tensor, K: Tensor, side: int) -> Tensor:
    """Object-frame points of all cells on the plane through the object's origin that faces the camera, (B, h, w, 3)."""
    pixels = _cells(side, STRIDE, pose).flatten(0, 1).expand(len(pose), -1, -1)
    depth = pose[:, 2, 3, None].expand(pixels.shape[:2])
    n = side // STRIDE
    return se3.transform(se3.inverse(pose), camera_ops.unproject(pixels, depth, K)).unflatten(1, (n, n))


def _project(points3d: Tensor, pose: Tensor, K: Tensor) -> Tensor:
    """(B, h, w, 3), object frame -> pixels (B, h, w, 2)."""
    flat = camera_ops.project(se3.transform(pose, points3d.flatten(1, 2)), K, Z_MIN)
    return flat.unflatten(1, points3d.shape[1:3])


def _solve(now: Iteration, target: Tensor, weights: Tensor, pose: Tensor, damping: float) -> Tensor:
    """The pose one Levenberg-Marquardt step closer to the targets, shortened if the distance would change too much; as it was
    where there is no such step."""
    problems = _problems(now, target, weights)
    moved = pnp.one_step(problems, pose, damping=damping)
    good = torch.isfinite(moved).flatten(1).all(1)
    step = (moved - pose)[:, :3, 3]
    room = torch.where(step[:, 2] > 0, FARTHER - 1, 1 - 1 / FARTHER) * pose[:, 2, 3]
    share = (room / step[:, 2].detach().abs().clamp_min(1e-9)).clamp_max(1.0)
    shortened = se3.from_rt(moved[:, :3, :3], pose[:, :3, 3] + share[:, None] * step)
    return torch.where(good[:, None, None], shortened, pose)


def _problems(now: Iteration, target: Tensor, weights: Tensor) -> Problems:
    nothing = target.new_full((len(target), 4), math.inf)
    bounds = torch.cat([-nothing[:, :2], nothing[:, 2:]], 1)
    return Problems(
        now.coordinates.flatten(1, 2), target.flatten(1, 2), weights.flatten(1, 2), now.K, nothing[:, 0], bounds,
        Kernel.SQUARES, Z_MIN,
    )  # fmt: skip


@torch.no_grad()
def covariance(now: Iteration, objects: Sequence[RefinerObject]) -> Tensor:
    """How far the rendered poses may be from the truth.

    The normal equations of the first step say in which directions a pose is sure, but not how sure: the pixels of a field err
    together. So the covariance has their shape, and the size with which the mean point distance is expected to be what the
    network guesses.

    Args:
        now: a round, as `Model.round` returns it, of B objects.
        objects: those.

    Returns:
        of the tangent (v, omega) on the camera side at the poses of the CAD files, (B, 6, 6), float64, metres and radians;
        infinite where the normal equations fix no pose.
    """
    step, pose = now.steps[0], now.start.double()
    J = residuals.jacobian(_problems(now, step.target, step.weights), now.start).flatten(1, 2).double()
    H = J.mT @ J
    size = H.diagonal(dim1=-2, dim2=-1).sqrt()
    known = torch.isfinite(H).flatten(1).all(1) & (size > 0).all(1) & torch.isfinite(step.error)
    size = torch.where(known[:, None], size, torch.ones_like(size))
    eye = torch.eye(6).to(H)
    factor, failed = torch.linalg.cholesky_ex(
        torch.where(known[:, None, None], H, eye) / (size[:, :, None] * size[:, None]) + 1e-6 * eye
    )
    known &= failed == 0
    shape = torch.cholesky_inverse(torch.where(known[:, None, None], factor, eye)) / (size[:, :, None] * size[:, None])
    R = pose[:, :3, :3]
    arms = torch.stack([o.points for o in objects]).to(pose) @ R.mT  # (B, P, 3), from the centre, camera axes
    moves = torch.cat([torch.eye(3).to(pose).expand(*arms.shape, 3), -rotation.skew(arms)], -1)  # of points, by the tangent
    variance = torch.einsum("bpai,bij,bpaj->bpa", moves, shape, moves)
    expected = math.sqrt(2 / math.pi) * variance.sqrt().sum(-1).mean(-1)  # mean absolute values of a normal distribution
    diameter = pose.new_tensor([o.model.diameter for o in objects])
    shape = shape * (step.error.double().exp() * diameter / expected)[:, None, None].square()
    A = eye.repeat(len(pose), 1, 1)
    A[:, :3, 3:] = rotation.skew((R @ torch.stack([o.centre for o in objects]).to(pose)[..., None])[..., 0])
    return torch.where(known[:, None, None], A @ shape @ A.mT, torch.inf)


def loss(model: Model, rounds: list[Iteration], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Point distance, field, visibility and pose error over all steps, descriptors over all rounds.

    Of the poses that look like the truth, each round learns the one nearest to its start.

    Args:
        model: the network.
        rounds: its answer.
        batch: "image" (B, 3, S, S), "label" (B,), "K" (B, 3, 3) at that size, "cam_from_obj" (B, 4, 4) metres, "coordinates"
            (B, 3, h, h) metres, "mask_visible" and "mask_full" (B, h, h): the truth in the training picture, at any resolution.

    Returns:
        scalar tensors by name; their sum is the loss. Source: RNNPose, sec. 3.5.
    """
    config = model.config
    objects = [model.objects[int(label)] for label in batch["label"]]
    diameter = batch["K"].new_tensor([o.model.diameter for o in objects])
    parts: dict[str, list[Tensor]] = {"points": [], "flow": [], "visible": [], "descriptors": [], "outline": [], "score": []}
    with torch.autocast(batch["K"].device.type, enabled=False):
        true_depth = _depth(batch)
        for now in rounds:
            truth = torch.stack([
                symmetry.nearest(t, start, o.group.to(t), o.points.to(t))
                for t, start, o in zip(to_centres(batch["cam_from_obj"], objects), now.start, objects, strict=True)
            ])  # fmt: skip
            goal = _project(now.coordinates, truth, now.K)
            seen = _seen(now, truth, goal, true_depth, batch, diameter)
            known_places = now.mask & ((goal - now.pixels).abs().amax(-1) < config.crop_size)
            weight = torch.where(known_places, 0.25 + 0.75 * seen.to(goal), torch.zeros_like(goal[..., 0]))
            points = torch.stack([o.points for o in objects]).to(truth)
            first = _distance(now.start, truth, points) / diameter + config.point_floor
            parts["outline"].append(_outline_loss(now, batch))
            for step in now.steps:
                far = _distance(step.after, truth, points) / diameter
                parts["points"].append((far / first).clamp_max(4.0).mean())
                miss = ((step.target - goal).abs().sum(-1) / STRIDE).clamp_max(config.crop_size / STRIDE)
                parts["flow"].append((weight * miss).sum() / weight.sum().clamp_min(1))
                both = F.binary_cross_entropy_with_logits(step.visible, seen.to(goal), reduction="none")
                parts["visible"].append((both * now.mask).sum() / now.mask.sum().clamp_min(1))
                before = _distance(step.before, truth, points) / diameter
                parts["score"].append(F.smooth_l1_loss(step.error, (before + 1e-3).log()))
            parts["descriptors"].append(_descriptor_loss(model, now, goal, seen, objects))
    weights = (
        config.point_weight, config.flow_weight, config.visible_weight, config.descriptor_weight, config.outline_weight,
        config.score_weight,
    )  # fmt: skip
    return {name: w * torch.stack(part).mean() for (name, part), w in zip(parts.items(), weights, strict=True)}


def _outline_loss(now: Iteration, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of the silhouettes, visible and whole, as predicted from the photo."""
    masks = torch.stack([batch["mask_visible"], batch["mask_full"]], 1).to(now.outline)
    boxes = now.boxes * (masks.shape[-1] / batch["image"].shape[-1])
    true = camera_ops.crop_resize(masks, boxes, (now.outline.shape[-2], now.outline.shape[-1]))
    return F.binary_cross_entropy_with_logits(now.outline, true)


def _distance(pose: Tensor, truth: Tensor, points: Tensor) -> Tensor:
    """Mean absolute difference of the points' coordinates under both poses, summed over the axes, metres, (B,)."""
    return (se3.transform(pose, points) - se3.transform(truth, points)).abs().sum(-1).mean(-1)


def _depth(batch: Mapping[str, Tensor]) -> Tensor:
    """Depth of the visible true object in the training picture, 0 elsewhere, (B, 1, h, h), metres."""
    points = se3.transform(batch["cam_from_obj"], batch["coordinates"].flatten(2).mT)
    return (points[..., 2].unflatten(1, batch["mask_visible"].shape[1:]) * batch["mask_visible"])[:, None]


def _seen(
    now: Iteration, truth: Tensor, goal: Tensor, true_depth: Tensor, batch: Mapping[str, Tensor], diameter: Tensor
) -> Tensor:
    """Which rendered points the photo shows: those whose true depth is that of the true object there, (B, h, w), bool."""
    z = se3.transform(truth, now.coordinates.flatten(1, 2))[..., 2].unflatten(1, now.mask.shape[1:])
    scale = (now.boxes[:, 2:] - now.boxes[:, :2])[:, None, None] / now.rendered.shape[-1]
    place = now.boxes[:, None, None, :2] + (goal + 0.5) * scale  # edges of the training picture
    grid = place / batch["image"].shape[-1] * 2 - 1
    there = F.grid_sample(true_depth, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0]
    return now.mask & (there > 0) & ((there - z).abs() < 0.04 * diameter[:, None, None])


def _descriptor_loss(
    model: Model, now: Iteration, goal: Tensor, seen: Tensor, objects: list[RefinerObject], n: int = 96
) -> Tensor:
    """Metric loss between points of the surface and the places of the photo that show them, and places beside the object."""
    config, losses = model.config, []
    total = now.photo.sum() * 0
    for b, o in enumerate(objects):
        places = seen[b].flatten().nonzero()[:, 0]
        if len(places) < 16:
            continue
        places = places[torch.randperm(len(places), device=places.device)[:n]]
        surface = now.surface[b].flatten(1)[:, places].T
        at = goal[b].flatten(0, 1)[places]
        beside = torch.rand(n // 4, 2, device=at.device) * config.crop_size  # those that are on the object are left out
        away = (beside[:, None] - goal[b][now.mask[b]][None, ::7]).square().sum(-1).amin(1) > (0.06 * config.crop_size) ** 2
        at = torch.cat([at, beside[away]])
        photo = refiner_networks.sample(now.photo[b : b + 1], (at[None, None] + 0.5) / STRIDE - 0.5)[0, :, 0].T
        points = now.coordinates[b].flatten(0, 1)[places]
        twins = se3.transform(o.group.to(points), points)  # (S, n, 3)
        apart = torch.cdist(points.expand(len(twins), -1, -1), twins).amin(0) / (o.model.diameter / 2)
        apart = torch.cat([apart, apart.new_full((len(apart), int(away.sum())), torch.inf)], 1)
        metric = circle_loss if config.circle else softmax_loss
        losses.append(metric(surface @ F.normalize(photo, dim=1).T, apart < config.pair_reach, apart > config.pair_far))
    return torch.stack(losses).mean() if losses else total
