"""What the network learns by: cells, poses through the layer, and the outputs for objects and points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from .. import pnp
from ..geometry import boxes3d, se3
from ..geometry import camera as camera_ops
from ..pnp.prepare import prepare
from . import pyramid, sampler
from .config import MOMENTUM, SIGMA_MOMENTUM, SMALLEST, Z_MIN, Config, encode_sizes, score_target
from .network import Model, ObjectLook, Output, bounds_of, direct, direct_pose, to_ray


def loss(model: Model, output: Output, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The losses of a batch of whole images.

    Args:
        model: the network.
        output: its answer to batch["image"].
        batch: "image" (B, 3, height, width); and with one entry per image "K" (3, 3) pixels, "labels" (n,), "cam_from_obj"
            (n, 4, 4) metres and "sizes" (n, 3) metres in the convention of `geometry.boxes3d`. Where they are known also
            "velocities" (n, 3) metres per second in the camera's axes, NaN for unknown; "attributes" (n,), -1 for unknown;
            "visibility" (n,), share in [0, 1]; "lidar" (m, 3), surface points in the camera's frame, metres; "ignored" (k, 4),
            regions of which nobody knows what they show, xyxy pixel edges. n, m, k may be 0.

    Returns:
        scalar tensors by name; their sum is the loss. Those that an image without objects has nothing for are 0.

    Raises:
        ValueError: a label outside the classes, or a size that is not positive.
    """
    with torch.autocast(batch["image"].device.type, enabled=False):
        found = box_targets(model, batch)
        owners = torch.stack([pyramid.assign(output.lattice, t.boxes, t.centres).owner for t in found])
        losses = _cell_losses(model, output, found, owners)
        return losses | _object_losses(model, output, batch, found, owners)


def _cell_losses(model: Model, output: Output, found: list[BoxTargets], owners: Tensor) -> dict[str, Tensor]:
    config, cells, where = model.config, output.cells, output.lattice
    b, cell = (owners >= 0).nonzero().unbind(-1)
    row = owners[b, cell]
    first = torch.tensor([0, *(len(t.labels) for t in found)], device=row.device).cumsum(0)[:-1]
    labels, centres, boxes = (torch.cat([t[i] for t in found])[first[b] + row] for i in (0, 6, 5))
    target = torch.zeros_like(cells.logits)
    target[b, cell, labels] = 1
    count = max(len(b), 1)
    here, strides = where.centres[cell], where.strides[cell]
    away = centres - here
    offsets = cells.offsets[b, cell]
    offsets = offsets[torch.arange(len(b), device=b.device), labels] if offsets.shape[1] > 1 else offsets[:, 0]
    miss = (offsets * strides[:, None] - away) * config.reference_scale
    sure = F.binary_cross_entropy_with_logits(
        cells.centerness[b, cell], pyramid.centerness_target(away, strides), reduction="sum"
    )
    counts = torch.ones_like(target)
    middles = where.centres + 0.5  # pixel edges
    for i, t in enumerate(found):  # what nobody knows, or what is too hidden or small to be learned, is no background either
        inside = ((middles[:, None] >= t.ignored[:, :2]) & (middles[:, None] < t.ignored[:, 2:])).all(-1).any(-1)
        counts[i, inside & (owners[i] < 0)] = 0
    losses = {
        "class": (counts * sigmoid_focal_loss(cells.logits, target, alpha=0.25, gamma=2.0)).sum() / count,
        "reference": F.smooth_l1_loss(miss, torch.zeros_like(miss), beta=1.0, reduction="sum") / count,
        "centerness": sure / count,
    }
    if cells.edges is not None:
        edges = cells.edges[b, cell] * strides[:, None]
        middle = here + 0.5
        predicted = torch.cat([middle - edges[:, :2], middle + edges[:, 2:]], -1)
        losses["boxes"] = config.box_weight * generalized_box_iou_loss(predicted, boxes, reduction="sum") / count
    return losses


class _Drawn(NamedTuple):
    """The objects that are looked at closer, (B, R): cells, owners, which count (bool), and how much, which sums to 1; `even`
    likewise, whatever the odds by which they were drawn."""

    cell: Tensor
    owner: Tensor
    valid: Tensor
    share: Tensor
    even: Tensor


@torch.no_grad()
def _draw(model: Model, output: Output, owners: Tensor, found: list[BoxTargets]) -> _Drawn:
    """Cells with objects; at least one row per image. Half of them evenly and half by how sure the network is of them, each
    once and counting alike; or as published, see `draw_even`."""
    cells, where = output.cells, output.lattice
    sure = cells.logits.sigmoid().amax(-1) * cells.centerness.sigmoid()
    drawn, shares, evens = [], [], []
    for i, (own, certain) in enumerate(zip(owners, sure, strict=True)):
        there = (own >= 0).nonzero()[:, 0]
        if model.config.even_objects:
            away = found[i].centres[own[there]] - where.centres[there]
            central = pyramid.centerness_target(away, where.strides[there])
            rows, share, even = draw_even(own[there], central, model.config.objects)
            there = there[rows]
        else:
            certain = certain[there]
            p = 0.5 / max(len(there), 1) + 0.5 * certain / certain.sum().clamp_min(1e-9)
            n = min(len(there), model.config.objects)
            there = there[torch.multinomial(p, n)] if n else there
            share = even = torch.ones_like(sure[0, : len(there)])
        drawn.append(there)
        shares.append(share)
        evens.append(even)
    cell, share, even = (nn.utils.rnn.pad_sequence(v, batch_first=True) for v in (drawn, shares, evens))
    if cell.shape[1] == 0:
        cell, share, even = (v.new_zeros(len(drawn), 1) for v in (cell, share, even))
    count = torch.tensor([len(d) for d in drawn], device=cell.device)
    valid = torch.arange(cell.shape[1], device=cell.device) < count[:, None]
    share, even = (v / v.sum().clamp_min(1) for v in (share, even))
    return _Drawn(cell, owners.gather(1, cell), valid, share, even)


def draw_even(owner: Tensor, central: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of one picture, half of them evenly and each once, the rest by centreness with repetition; objects count alike.

    Args:
        owner: object of each cell, (N,), int64.
        central: centreness of each, (N,), above 0.
        count: how many to draw.

    Returns:
        rows (count,), none of no cells; what each counts, (count,), which sums to 1 over the cells of each object and stands
        for cells drawn by centreness alone; the same where the cells of an object count alike.

    Source: EPro-PnP-Det, `obj_sampler`; there of a whole batch.
    """
    if len(owner) == 0:
        return owner, central, central
    p = central / central.sum()
    even = min(count // 2, len(owner))
    first = torch.randperm(len(owner), device=owner.device)[:even]
    rows = torch.cat([first, torch.multinomial(p, count - even, replacement=True)])
    mixed = even / count / len(owner) + (1 - even / count) * p[rows]
    same = (owner[rows][:, None] == owner[rows]).to(p)
    ratio = p[rows] / mixed
    return rows, ratio / (same @ ratio), 1 / same.sum(1)


class _Objects(NamedTuple):
    """The truth about the objects drawn, (B, R, ...), as in `Truth`; K (B, R, 3, 3)."""

    labels: Tensor
    pose: Tensor
    lhw: Tensor
    velocity: Tensor
    attribute: Tensor
    boxes: Tensor
    K: Tensor


def _of_drawn(found: list[BoxTargets], drawn: _Drawn, K: Tensor) -> _Objects:
    """Rows of the truth, with a box ten metres ahead where nothing was drawn."""
    nowhere = boxes3d.from_yaw(K.new_tensor([[0.0, 0.0, 10.0]]), K.new_zeros(1))
    nobody = torch.zeros(1, dtype=torch.long, device=K.device)
    unknown, one = K.new_full((1, 3), math.nan), K.new_ones(1, 3)
    empty = (nobody, nowhere, one, unknown, nobody - 1, K.new_tensor([[0.0, 0.0, 32.0, 32.0]]))
    index = torch.where(drawn.valid, drawn.owner + 1, 0)

    def of(i: int) -> Tensor:
        every = (torch.cat([empty[i], t[i].to(empty[i])]) for t in found)
        return torch.stack([rows[chosen] for rows, chosen in zip(every, index, strict=True)])

    return _Objects(of(0), of(1), of(2), of(3), of(4), of(5), K[:, None].expand(-1, drawn.cell.shape[1], -1, -1))


def _object_losses(
    model: Model, output: Output, batch: Mapping[str, Any], found: list[BoxTargets], owners: Tensor
) -> dict[str, Tensor]:
    config = model.config
    drawn = _draw(model, output, owners, found)
    K = torch.stack(list(batch["K"])).to(output.cells.logits)
    true = _of_drawn(found, drawn, K)
    look = model.look(output, drawn.cell, true.labels)
    share = drawn.share

    def mean(each: Tensor) -> Tensor:
        return (share * each).sum()

    answers = look.answers
    means, stds = model.means[true.labels], model.stds[true.labels]
    code = F.smooth_l1_loss(answers.size_code, encode_sizes(true.lhw, means, stds), reduction="none").mean(-1)
    known = torch.isfinite(true.velocity).all(-1)
    velocity = to_ray(true.velocity[..., (0, 2)].nan_to_num(0.0), look.reference, true.K)
    speed = F.smooth_l1_loss(answers.velocity, velocity, reduction="none").sum(-1)
    attributes = answers.attributes.masked_fill(~model.allowed[true.labels], -1e4)
    kind = F.cross_entropy(attributes.flatten(0, 1), true.attribute.flatten(), ignore_index=-1, reduction="none")
    losses = {
        "size": config.size_weight * mean(code),
        "velocity": config.velocity_weight * mean(speed * known),
        "attribute": config.attribute_weight * mean(kind.view_as(share)),
    }
    if not config.poses:
        unused = (answers.score, answers.direct, look.noc, look.weights)  # several processes need every gradient
        return losses | {"nothing": 0 * torch.stack([v.sum() for v in unused]).sum()}
    of_pose, pose = _pose_losses(model, look, true, drawn.valid, share)
    off = (pose[..., (0, 2), 3] - true.pose[..., (0, 2), 3]).norm(dim=-1)
    sure = F.binary_cross_entropy_with_logits(answers.score, score_target(off), reduction="none")
    losses |= of_pose | {"score": config.score_weight * (drawn.even * sure).sum()}
    if model.pixel_head is not None:
        losses["projection"] = config.projection_weight * _published_projection_loss(model, output, look, true, drawn)
    elif model.uses_projection:
        losses["projection"] = config.projection_weight * _projection_loss(model, output, look, true, share)
    if config.coordinate_weight > 0 and model.point_head is not None:
        lidar = batch.get("lidar")
        losses["coordinates"] = config.coordinate_weight * _coordinate_loss(model, output, look, true, drawn.valid, lidar)
    if config.depth_modes:
        losses["depth"] = config.depth_weight * _depth_loss(model, output, batch) / _precision(model, 2, model.depth_sigma)
    return losses


def _pose_losses(
    model: Model, look: ObjectLook, true: _Objects, valid: Tensor, share: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of the layer, weighted by `share`, and the poses that it finds, (B, R, 4, 4), without gradient."""
    config = model.config
    found = true.pose.clone()
    if config.layer == "direct":
        losses, poses = _direct_losses(config, look, true, share)
        return losses, poses
    rows = valid.nonzero().unbind(-1)
    if len(rows[0]) == 0:
        nothing = 0 * (look.noc.sum() + look.weights.sum())
        return {"pose": nothing}, found
    with torch.no_grad():
        scale = (share[rows] * look.answers.log_scale[rows].exp().mean(-1)).sum()
        if model.training:
            model.norm.copy_(torch.where(model.norm > 0, torch.lerp(model.norm, scale, MOMENTUM), scale))
        norm = model.norm if float(model.norm) > 0 else scale
    count = share[rows]
    lhw = look.lhw if config.size_gradient else look.lhw.detach()
    points3d = (look.noc * lhw[:, :, None])[rows]
    points2d, weights, K, truth = look.pixels[rows], look.weights[rows], true.K[rows], true.pose[rows]
    bounds = bounds_of(config.size, K)
    robust = pnp.AdaptiveHuber(config.huber)
    if config.layer == "reprojection":
        solved = pnp.solve(
            points3d.detach(), points2d.detach(), K, weights.detach(), dof=4, robust=robust, z_min=Z_MIN, bounds=bounds
        )
        found[rows] = solved.cam_from_obj
        nll = reprojection_nll(points3d, points2d, weights, K, truth, bounds)
        return {"pose": config.pose_weight * (count * nll).sum()}, found
    posterior = pnp.sample_posterior(
        points3d, points2d, K, weights, init=truth, dof=4, samples=config.samples, robust=robust, z_min=Z_MIN, bounds=bounds,
        far=config.far,
    )  # fmt: skip
    found[rows] = posterior.mode.to(found)
    losses = {"pose": config.pose_weight * (count * pnp.monte_carlo_loss(posterior, truth)).sum() / norm}
    if config.translation_weight > 0 or config.rotation_weight > 0:
        problems = posterior.prepared.problems
        if config.size_gradient:  # the step teaches coordinates and attention, neither sizes nor the scale of the weights
            fixed = (look.noc * look.lhw.detach()[:, :, None])[rows]
            shared = (look.share * look.answers.log_scale.detach().exp()[:, :, None])[rows]
            problems = prepare(fixed, points2d, K, shared, robust, bounds, Z_MIN).problems
        step = pnp.one_step(problems, posterior.mode.to(problems.K), dof=4)
        t, r = pnp.derivative_loss(step, truth.to(step), 1.0)
        nothing = torch.zeros_like(t)
        losses["translation"] = config.translation_weight * (count * torch.where(posterior.converged, t, nothing)).sum()
        losses["rotation"] = config.rotation_weight * (count * torch.where(posterior.converged, r, nothing)).sum()
    return losses, found


def reprojection_nll(points3d: Tensor, points2d: Tensor, weights: Tensor, K: Tensor, truth: Tensor, bounds: Tensor) -> Tensor:
    """Minus the log-likelihood that every point gives to its own projection under the true pose; no distribution of poses.

    A weight is one over a deviation in pixels: Gaussian with linear tails from three deviations. Where a point is sampled gets
    no gradient, or all points would meet where reprojecting is easiest.

    Args:
        points3d: (R, N, 3), metres.
        points2d: (R, N, 2), pixels.
        weights: (R, N, 2), 1 / pixels; 0 for points that do not count.
        K: (R, 3, 3), pixels.
        truth: (R, 4, 4), metres.
        bounds: (4,), of projections, pixels.

    Returns:
        (R,), mean over the points that count.
    """
    pixels = camera_ops.project(se3.transform(truth, points3d), K, Z_MIN)
    pixels = torch.minimum(torch.maximum(pixels, bounds[:2]), bounds[2:])
    used = (weights > 0).all(-1)
    error = (weights * (pixels - points2d.detach())).square().sum(-1)
    length = error.clamp_min(1e-12).sqrt()
    rho = torch.where(length > 3, 6 * length - 9, error)
    each = rho / 2 - torch.where(used[..., None], weights, 1.0).clamp_min(1e-9).log().sum(-1)
    return (each * used).sum(-1) / used.sum(-1).clamp_min(1)


def _direct_losses(config: Config, look: ObjectLook, true: _Objects, share: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    pixel, depth, turn = direct(config, look, true.K)
    centre = true.pose[..., :3, 3]
    target = camera_ops.project(centre[..., None, :], true.K, Z_MIN)[..., 0, :]
    miss = (pixel - target) * config.reference_scale
    place = F.smooth_l1_loss(miss, torch.zeros_like(miss), beta=1.0, reduction="none").sum(-1)
    away = F.smooth_l1_loss(depth.log(), centre[..., 2].clamp_min(Z_MIN).log(), beta=0.1, reduction="none")
    alpha = boxes3d.alpha_from_yaw(boxes3d.yaw_of(true.pose), centre)
    angle = F.smooth_l1_loss(turn, torch.stack([alpha.sin(), alpha.cos()], -1), reduction="none").sum(-1)
    losses = {name: (share * v).sum() for name, v in (("centre", place), ("distance", away), ("yaw", angle))}
    return losses, direct_pose(pixel, depth, turn, true.K).detach()


def mixture_nll(error: Tensor, log_share: Tensor, log_sigma: Tensor, delta: float) -> Tensor:
    """Minus the log-likelihood of a mixture of Gaussians with linear tails, one component per head.

    Args:
        error: of every component, (..., M, d).
        log_share: log of the components' weights, (..., M).
        log_sigma: log of the deviations, (d,).
        delta: length, in deviations, beyond which the tail is linear.

    Returns:
        (...,). Source: EPro-PnP-Det v2: -logsumexp(-H(|e / sigma|) - sum log sigma + log share).
    """
    square = (error * (-log_sigma).exp()).square().sum(-1)
    length = square.clamp_min(1e-12).sqrt()
    huber = torch.where(length > delta, delta * (length - delta / 2), square / 2)
    return -(log_share - huber - log_sigma.sum()).logsumexp(-1)


def _precision(model: Model, which: int, log_sigma: Tensor, share: Tensor | None = None) -> Tensor:
    """The running mean of 1 / sigma that a mixture's loss is divided by; `share` is what each of them counts."""
    with torch.no_grad():
        now = (-log_sigma).exp()
        now = now.mean() if share is None else (share * now).sum() / share.expand_as(now).sum().clamp_min(1e-9)
        if model.training:
            old = model.precisions[which]
            model.precisions[which] = torch.where(old > 0, torch.lerp(old, now, SIGMA_MOMENTUM), now)
        return torch.where(model.precisions[which] > 0, model.precisions[which], now).clone()


def _projection_loss(model: Model, output: Output, look: ObjectLook, true: _Objects, share: Tensor) -> Tensor:
    """Every pixel of an object asks all heads what it is: one of them should put it where the pixel is. Metres at its depth."""
    side = model.config.roi
    pixels = boxes3d.grid_in(true.boxes.flatten(0, 1), side)
    enter, leave = boxes3d.thickness(true.pose.flatten(0, 1), true.lhw.flatten(0, 1), true.K.flatten(0, 1), pixels)
    hit = (leave > enter).unflatten(0, share.shape)
    pixels = pixels.unflatten(0, share.shape)
    noc, attention = model.at(output, look, pixels)
    points = noc * true.lhw[:, :, None, None]
    there = camera_ops.project(se3.transform(true.pose[:, :, None], points), true.K[:, :, None], Z_MIN)
    bounds = bounds_of(model.config.size, there)
    there = torch.minimum(torch.maximum(there, bounds[:2]), bounds[2:])
    per_metre = true.K[..., 1, 1] / true.pose[..., 2, 3].clamp_min(Z_MIN)
    miss = (there - pixels[:, :, None]) / per_metre[:, :, None, None, None]  # (B, R, H, P, 2)
    nll = mixture_nll(miss.transpose(2, 3), attention.log_softmax(2).transpose(2, 3), model.projection_sigma, 2.0)
    each = (nll * hit).sum(-1) / hit.sum(-1).clamp_min(1)
    return (share * each).sum() / _precision(model, 0, model.projection_sigma)


TYPICAL_MISS = 0.2  # deviation of the published auxiliary loss, of the mean side of a box


def _published_projection_loss(model: Model, output: Output, look: ObjectLook, true: _Objects, drawn: _Drawn) -> Tensor:
    """The auxiliary loss as published: a grid on every object's box asks the pixels themselves where on an object they lie, and
    how sure they are; errors are relative to the object's size. Pixels in several boxes share their attention among them.

    Source: EPro-PnP-Det, `forward_train` of its head and `mvd_gaussian_mixture_nll_loss`; v2 with linear tails. There grids are
    averaged over their cells and resampled from box to box, here they are points at which everything is computed.
    """
    assert model.pixel_head is not None
    config, dense = model.config, output.dense
    likelihoods, spread, shares = [], [], []
    for i, valid in enumerate(drawn.valid):
        owner, inverse = torch.unique(drawn.owner[i, valid], return_inverse=True)
        if len(owner) == 0:
            continue
        mix = (torch.arange(len(owner), device=inverse.device)[:, None] == inverse) * drawn.share[i, valid]
        mix = mix / mix.sum(1, keepdim=True).clamp_min(1e-12)
        first = (mix > 0).int().argmax(1)
        pose, boxes, size, K = (v[i, valid][first] for v in (true.pose, true.boxes, true.lhw, true.K))
        query = (mix @ look.seen.query[i, valid].flatten(1)).unflatten(1, (config.heads, -1))
        lhw = (mix @ look.lhw[i, valid]).detach()
        pixels = boxes3d.grid_in(boxes, config.roi)  # (G, P, 2)
        every = pixels[None, :, None].expand(-1, -1, config.heads, -1, -1)
        key, value = (sampler.sample(v[i : i + 1], every, dense.stride)[0] for v in (dense.key, dense.value))  # (G, H, P, D)
        logits = torch.einsum("jhd,ghpd->gjhp", query, key).float() / math.sqrt(key.shape[-1])
        noc, log_sigma = model.pixel_head(value)
        points = noc[:, None] * lhw[:, None, None]  # of every object j at every pixel of the grid of g: (G, G, H, P, 3)
        there = camera_ops.project(se3.transform(pose[:, None], points), K[:, None], Z_MIN)
        bounds = bounds_of(config.size, there)
        there = torch.minimum(torch.maximum(there, bounds[:2]), bounds[2:])
        per_size = K[:, 0, 0] * TYPICAL_MISS * size.mean(-1) / pose[:, 2, 3].clamp_min(Z_MIN)
        error = (there - pixels[:, None, None]) / per_size[:, None, None, None]
        inside = ((pixels[:, None] > boxes[:, None, :2]) & (pixels[:, None] < boxes[:, None, 2:])).all(-1)
        inside = inside | torch.eye(len(owner), dtype=torch.bool, device=inside.device)[..., None]
        nll, share = shared_mixture_nll(error, log_sigma, logits, inside, math.inf if config.auxiliary == "v1" else 2.0)
        likelihoods.append(nll.flatten())
        spread.append(log_sigma.flatten(0, 2))
        shares.append(share.diagonal().movedim(-1, 0).flatten())
    if not likelihoods:
        return 0 * sum(p.sum() for p in model.pixel_head.parameters())  # type: ignore[return-value]
    return torch.cat(likelihoods).mean() / _precision(model, 0, torch.cat(spread), torch.cat(shares)[:, None])


def shared_mixture_nll(error: Tensor, log_sigma: Tensor, logits: Tensor, inside: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Minus the log-likelihood of pixels whose mixture runs over heads, and over the objects in whose boxes they lie.

    Args:
        error: of P pixels of each of G grids as part of each of J objects, (G, J, H, P, 2).
        log_sigma: log of the pixels' deviations, (G, H, P, 2).
        logits: of the components' weights, (G, J, H, P).
        inside: whether a pixel lies in an object's box, (G, J, P), bool; at least one for each pixel.
        delta: length, in deviations, beyond which the tail is linear.

    Returns:
        (G, P), and the components' weights, (G, J, H, P), without gradient.
    """
    logits = logits.masked_fill(~inside[:, :, None], -math.inf)
    log_share = logits - logits.logsumexp((1, 2), keepdim=True)
    square = (error * (-log_sigma).exp().clamp(max=1e4)[:, None]).square().sum(-1)
    huber = square / 2
    if math.isfinite(delta):
        huber = torch.where(square > delta**2, delta * (square.clamp_min(1e-12).sqrt() - delta / 2), huber)
    each = log_share - huber - log_sigma.sum(-1)[:, None]
    return -each.logsumexp((1, 2)), log_share.detach().exp()


def _coordinate_loss(
    model: Model, output: Output, look: ObjectLook, true: _Objects, valid: Tensor, lidar: Sequence[Tensor] | None
) -> Tensor:
    """Surface points say which point of the box their pixel shows."""
    config = model.config
    local, pixels, chosen = _points_inside(true, valid, lidar, config.lidar_points)
    noc, attention = model.at(output, look, pixels)
    count = chosen.sum().clamp_min(1)
    log_share = attention.log_softmax(2)
    if config.coordinate_mixture:
        miss = noc * true.lhw[:, :, None, None] - local[:, :, None]
        nll = mixture_nll(miss.transpose(2, 3), log_share.transpose(2, 3), model.coordinate_sigma, 2.0)
        return (nll * chosen).sum() / count / _precision(model, 1, model.coordinate_sigma)
    mean = (log_share.exp()[..., None] * noc).sum(2)
    each = F.smooth_l1_loss(mean, local / true.lhw[:, :, None], beta=0.05, reduction="none").sum(-1)
    return (each * chosen).sum() / count


@torch.no_grad()
def _points_inside(true: _Objects, valid: Tensor, lidar: Sequence[Tensor] | None, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Surface points in the boxes, at random: in the object's frame (B, R, P, 3), their pixels (B, R, P, 2), which count."""
    B, R = valid.shape
    local, chosen = true.lhw.new_zeros(B, R, most, 3), torch.zeros(B, R, most, dtype=torch.bool, device=valid.device)
    for i in range(B if lidar is not None else 0):
        assert lidar is not None
        points = lidar[i].to(local)
        if len(points) == 0:
            continue
        own = se3.transform(se3.inverse(true.pose[i]), points.expand(R, -1, -1))
        inside = (own.abs() <= true.lhw[i, :, None] / 2 + 0.05).all(-1) & valid[i, :, None]
        n = min(most, len(points))
        key, index = torch.where(inside, torch.rand_like(own[..., 0]), -1.0).topk(n, 1)
        local[i, :, :n], chosen[i, :, :n] = own.take_along_dim(index[..., None], 1), key >= 0
    pixels = camera_ops.project(se3.transform(true.pose, local), true.K, Z_MIN)
    return local, pixels, chosen


def _depth_loss(model: Model, output: Output, batch: Mapping[str, Any]) -> Tensor:
    """Every LiDAR point of a picture says how far away what its pixel shows is. Source: EPro-PnP-Det v2."""
    value, K = output.dense.value, torch.stack(list(batch["K"])).to(output.dense.value.device).float()
    lidar = [points.to(K) for points in batch.get("lidar", [K.new_zeros(0, 3)] * len(K))]
    points = K.new_tensor([0.0, 0.0, 1.0]).repeat(len(K), max(1, *map(len, lidar)), 1)
    there = torch.zeros(points.shape[:2], dtype=torch.bool, device=value.device)
    for i, own in enumerate(lidar):
        points[i, : len(own)], there[i, : len(own)] = own, True
    answers = model.depth_head(output.dense, camera_ops.project(points, K, Z_MIN))
    focal = (K[:, 0, 0] + K[:, 1, 1])[:, None, None] / 2
    miss = _decode_depth(answers[..., 0], focal, model.config.focal) - points[..., 2:]
    nll = mixture_nll(miss[..., None], answers[..., 1].log_softmax(-1), model.depth_sigma, 0.3)
    return (nll * there).sum() / there.sum().clamp_min(1)


def _decode_depth(place: Tensor, f: Tensor, focal: float) -> Tensor:
    """Metres of the depth head's answers. Source: EPro-PnP-Det v2: (15 p + 15) f / 1260."""
    return (15 * place + 15) * f / focal


class BoxTargets(NamedTuple):
    """The objects of one image that are learned from, N rows.

    labels (N,); pose (N, 4, 4), level, metres; lhw (N, 3), metres; velocity (N, 3), metres per second, NaN where unknown;
    attribute (N,), -1 where unknown; boxes (N, 4), what the image shows, xyxy pixel edges; centres (N, 2), pixels; ignored
    (M, 4), where other objects or nobody knows what are, xyxy pixel edges.
    """

    labels: Tensor
    pose: Tensor
    lhw: Tensor
    velocity: Tensor
    attribute: Tensor
    boxes: Tensor
    centres: Tensor
    ignored: Tensor


def box_targets(model: Model, batch: Mapping[str, Any]) -> list[BoxTargets]:
    """What the images of a batch show; boxes behind the camera, beside the image or of less than a few pixels are left out.

    Raises:
        ValueError: a label outside the classes, or a size that is not positive.
    """
    config, found = model.config, []
    for i, K in enumerate(batch["K"]):
        K = K.float()
        labels, pose, lhw = batch["labels"][i], batch["cam_from_obj"][i], batch["sizes"][i]
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(config.classes)):
            raise ValueError(
                f"labels must be 0 to {len(config.classes) - 1}, of {', '.join(config.classes)}; got {labels.tolist()}"
            )
        if not bool((lhw > 0).all()):
            raise ValueError(f"sizes must be length, height, width in metres, all > 0, got {lhw.tolist()}")
        n = len(labels)
        pose = boxes3d.from_yaw(pose[:, :3, 3], boxes3d.yaw_of(pose)).to(K)
        boxes = boxes3d.project(pose, lhw.to(K), K, config.size, Z_MIN) if n else K.new_zeros(0, 4)
        shown = (boxes[:, 2:] - boxes[:, :2]).amax(-1) >= SMALLEST
        shown &= pose[:, 2, 3] > Z_MIN
        if "visibility" in batch:
            shown &= batch["visibility"][i] >= config.min_visibility
        velocity = batch["velocities"][i] if "velocities" in batch else K.new_full((n, 3), math.nan)
        attribute = batch["attributes"][i] if "attributes" in batch else torch.full_like(labels, -1)
        rows = [labels, pose, lhw.to(K), velocity.to(K), attribute, boxes]
        hidden = boxes[~shown & (pose[:, 2, 3] > Z_MIN)]
        labels, pose, lhw, velocity, attribute, boxes = (v[shown] for v in rows)
        attribute = torch.where(model.allowed[labels].sum(-1) > 1, attribute, len(config.attributes))  # the class has none
        unknown = batch["ignored"][i].to(K) if "ignored" in batch else K.new_zeros(0, 4)
        centres = boxes3d.volume_centres(pose, lhw, K, boxes)
        found.append(BoxTargets(labels, pose, lhw, velocity, attribute, boxes, centres, torch.cat([unknown, hidden])))
    return found
