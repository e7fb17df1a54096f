"""Adaptive multiple importance sampling of poses: a mixture around the minima, refitted in rounds. Plain torch, the reference.

Samples are (place, rotation). The place is where the weighted centre of the points is, which depends little on the rotation:
its direction, two numbers by stereographic projection, within the unit disk where it is in front of the camera, and the log
of its distance in units of the first minimum's. Far away only the last is uncertain, a cone is a cylinder, and all of space
in front of the camera a cylinder of finite width. The rotation is a unit quaternion or, with dof=4, the yaw relative to the
first minimum. Samples have the precision of the problems; all else is float64 and has the problem, the half and the minimum in
front, (B, H, M). The fused `kernels/amis_cpu.py` is tested against this file.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import rotation, se3
from . import distributions, kernels
from .distributions import FLOOR, MEMORY, PoseFrame, log_volume, numbers, numbers_of_samples
from .problems import Problems
from .solve import free_entries

UNLIKELY = 8.0  # nats below the minimum at which the region next to the limit gets no samples of its own
RELIABLE = 0.1  # of the samples, least effective ones
RESTARTS = 3
FAR = 10.0  # see `far` of `sample_posterior`


class Proposal(NamedTuple):
    """A mixture of M components for each half of each problem, (B, H, M, ...); d is 3, or 1 with dof=4.

    Args:
        counts: samples drawn from each, (..., 2): rotations of the component, and from all directions.
        loc: the place where the rotation is that of the minimum, (..., 3).
        follow: how the place moves with `sines`, (..., 3, d). Without it a long object, or one whose weights are
            uneven, leaves a third of the effective samples.
        tril: factor of the place's scale for a given rotation, (..., 3, 3).
        mean, moments: what the next fit blends with: of place and sines, (..., 3 + d) and (..., 3 + d, 3 + d), and
        turn: dispersion of the ACG, (..., 4, 4), or mean (cos, sin) of the yaw, (..., 2).
    """

    counts: Tensor
    loc: Tensor
    follow: Tensor
    tril: Tensor
    mean: Tensor
    moments: Tensor
    turn: Tensor


def frame(problems: Problems, modes: Tensor, mode_costs: Tensor, dof: int, far: float = FAR) -> tuple[PoseFrame, Tensor]:
    """The frame of flat problems, and the places of their minima, (B, M, 3)."""
    weight = problems.weights.double().mean(-1, keepdim=True)
    centre = (weight * problems.points3d.double()).sum(1) / weight.sum(1).clamp_min(1e-300)
    loc = se3.transform(modes.double(), centre[:, None, None]).squeeze(-2)
    R = modes[..., :3, :3].double()
    if dof == 6:
        turns = rotation.quat_wxyz_from_matrix(R)
    else:
        D = R @ R[:, :1].mT
        turns = torch.atan2(D[..., 0, 2] - D[..., 2, 0], D[..., 0, 0] + D[..., 2, 2])[..., None]
    real = torch.isfinite(mode_costs)
    distance = torch.where(real, loc.norm(dim=-1), 0.0).amax(1)
    length = loc.norm(dim=-1).clamp_min(1e-300)
    behind = loc[..., 2] <= 1e-3 * length  # no pose at all: where the pixels are, then, at this distance
    if bool(behind.any()):
        pixel = (weight * problems.points2d.double()).sum(1) / weight.sum(1).clamp_min(1e-300)
        ray = torch.linalg.solve_ex(problems.K.double(), torch.nn.functional.pad(pixel, (0, 1), value=1.0)).result.nan_to_num(
            0.0
        )
        ray = torch.where(ray[:, 2:] > 0, ray, torch.tensor([0.0, 0.0, 1.0]).to(ray))
        seen = torch.nn.functional.normalize(ray, dim=-1)[:, None] * length[..., None]
        loc = torch.where(behind[..., None], seen, loc)
    unit = loc[:, 0].norm(dim=-1).clamp_min(1e-300)
    place = to_places(loc / unit[:, None, None])
    return PoseFrame(centre, R[:, 0], turns, unit, far * distance / unit, dof), place


def to_places(centres: Tensor) -> Tensor:
    """Places of centres (..., 3) in units of the frame, (..., 3), float64."""
    centres = centres.double()
    length = centres.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    direction = centres / length
    return torch.cat([direction[..., :2] / (1 + direction[..., 2:]).clamp_min(1e-12), length.log()], -1)


def to_centres(places: Tensor) -> Tensor:
    """`to_places` undone."""
    places = places.double()
    square = places[..., :2].square().sum(-1, keepdim=True)
    return torch.cat([2 * places[..., :2], 1 - square], -1) * (places[..., 2:].exp() / (1 + square))


def sines(turns: Tensor, around: PoseFrame) -> Tensor:
    """sin(angle) times the axis of rotations (B, H, n, 4 or 1) relative to every minimum, (B, H, M, n, d)."""
    minimum = around.turns[:, None, :, None, :]
    if around.dof == 4:
        return (turns[:, :, None] - minimum).sin()
    along = (turns[:, :, None] * minimum).sum(-1, keepdim=True)
    return 2 * along * (turns[:, :, None] @ distributions.small_turns(around.turns)[:, None].mT)


def with_limit(
    problems: Problems, modes: Tensor, mode_costs: Tensor, place: Tensor, around: PoseFrame, present: Tensor
) -> tuple[PoseFrame, Tensor, Tensor, Tensor, Tensor]:
    """The same with one more component where it matters: the first minimum moved away to a third of an e-fold before the limit.

    Where the likelihood is flat most of the mass is there, not at the minima. Whether it is follows from one more cost.
    """
    end = torch.cat([place[:, :1, :2], (around.furthest.log()[:, None] - 1 / 3)[..., None]], -1)
    pose = modes[:, :1].clone()
    centre = around.unit[:, None, None] * to_centres(end)
    pose[..., :3, 3] = (centre - (pose[..., :3, :3].double() @ around.centre[:, None, :, None]).squeeze(-1)).to(pose)
    cost = kernels.pose_costs(problems, pose)
    # of an e-fold of depth there, as if all else were equally certain as at the minimum; it never is
    gain = 3 * (end[..., 2] - place[:, :1, 2]) - cost.double() + mode_costs[:, :1].double()
    real = present[:, :1] & (gain > -UNLIKELY) & torch.isfinite(end).all(-1)
    if not bool(real.any()):
        return around, place, modes, mode_costs, present
    around = around._replace(turns=torch.cat([around.turns, around.turns[:, :1]], 1))
    place, modes = torch.cat([place, torch.where(real[..., None], end, place[:, :1])], 1), torch.cat([modes, pose], 1)
    cost = torch.where(real, cost, math.inf).to(mode_costs)
    return around, place, modes, torch.cat([mode_costs, cost], 1), torch.cat([present, real], 1)


def laplace(
    problems: Problems, modes: Tensor, mode_costs: Tensor, place: Tensor, around: PoseFrame, measured: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Gaussian around each minimum, at most half its distance and a radian wide, shared by evidence.

    Returns:
        share (B, M); mean, moments and turn as in `Proposal`, but for both halves, (B, M, ...).
    """
    B, M = mode_costs.shape
    R = modes[..., :3, :3].double()
    normal = [kernels.normal_equations(problems, modes[:, m]).hessian.double() for m in range(M)]
    free = free_entries(around.dof, place.device)
    # the tangent (v, omega) by a move of the place and omega: v = d centre + arm x omega
    shift = torch.eye(6).to(place).repeat(B, M, 1, 1)
    moved = around.unit[:, None, None] * to_centres(place)
    square = 1 + place[..., :2].square().sum(-1)
    reach = 2 * around.unit[:, None] * place[..., 2].exp() / square
    shift[..., :3, 2] = moved
    shift[..., :3, :2] = -2 * moved[..., None] * (place[..., :2] / square[..., None])[..., None, :]
    shift[..., 0, 0] += reach
    shift[..., 1, 1] += reach
    shift[..., 2, :2] -= reach[..., None] * place[..., :2]
    shift[..., :3, 3:] = rotation.skew((R @ around.centre[:, None, :, None]).squeeze(-1))
    H = (shift.mT @ torch.stack(normal, 1) @ shift)[..., free[:, None], free].nan_to_num(0.0, 0.0, 0.0)
    # Laplace: integral of exp(-cost) around each minimum
    widest = torch.ones_like(H[..., 0])
    widest[..., : 2 if measured else 3] = 4.0
    tril, _ = torch.linalg.cholesky_ex(H + torch.diag_embed(widest))
    log_share = -mode_costs.double() - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1).nan_to_num(0.0, 0.0, 0.0)
    log_share = log_share + 3 * place[..., 2]  # a place is the larger the further away
    share = _floored(log_share.softmax(-1), torch.isfinite(mode_costs))
    moments = _inverse(H + torch.diag_embed(widest))
    # the volume, exp(3 log r), moves a Gaussian by thrice its covariance with log r; no further than a third before the limit
    room = (around.furthest.log() - 1 / 3)[:, None] - place[..., 2]
    move = torch.minimum(torch.full_like(room, 3.0), room / moments[..., 2, 2]).clamp_min(0.0)
    mean = torch.nn.functional.pad(place, (0, len(free) - 3))
    if measured:
        mean = mean + move[..., None] * moments[..., 2]
    if around.dof == 6:
        # q' A q = <q, minimum>^2 + omega' (4 / covariance + 1) omega / 4 for rotations by a small omega
        small = distributions.small_turns(around.turns)
        across = _inverse(4 * _inverse(moments[..., 3:, 3:]) + torch.eye(3).to(H))
        turn = around.turns[..., None] @ around.turns[..., None, :] + small.mT @ across @ small
        turn = turn / turn.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    else:
        turn = torch.exp(-moments[..., 3, 3] / 2)[..., None] * torch.cat([around.turns.cos(), around.turns.sin()], -1)
    return share, mean, moments, turn


def proposal(share: Tensor, mean: Tensor, moments: Tensor, turn: Tensor, size: int, dof: int) -> Proposal:
    """The mixture of these shares (..., M) and moments, for `size` samples."""
    across = moments[..., :3, 3:]
    follow = across @ _inverse(_raised(moments[..., 3:, 3:]))
    rest = _raised(moments[..., :3, :3] - follow @ across.mT)
    tril, failed = torch.linalg.cholesky_ex(rest)
    scale = moments[..., :3, :3].diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp_min(1e-20)
    tril = torch.where((failed == 0)[..., None, None], tril, scale.sqrt() * torch.eye(3).to(moments))
    loc = mean[..., :3] - (follow @ mean[..., 3:, None]).squeeze(-1)
    return Proposal(numbers_of_samples(share, size, dof), loc, follow, tril, mean, moments, turn)


def _raised(A: Tensor) -> Tensor:
    """A symmetric matrix with a billionth of its mean diagonal added to the diagonal."""
    mean = A.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp_min(1e-20)
    return A + 1e-9 * mean * torch.eye(A.shape[-1]).to(A)


def draw(p: Proposal, random: Tensor, around: PoseFrame) -> tuple[Tensor, Tensor]:
    """Samples from `numbers` (B, H, n, ...): places (B, H, n, 3), and quaternions (..., 4) or yaws (..., 1).

    Those of a component stand together, first its own rotations, then those of all directions.
    """
    z = random.double()
    ends = p.counts.flatten(-2).cumsum(-1)
    place = torch.arange(z.shape[2]).to(ends) + 0.5
    part = torch.searchsorted(ends, place.expand(*ends.shape[:2], -1).contiguous()).clamp_max(ends.shape[-1] - 1)
    component, uniform = part // 2, (part % 2 == 1)[..., None]

    def of(value: Tensor) -> Tensor:
        return value.take_along_dim(component.reshape(*component.shape, *[1] * (value.dim() - 3)), 2)

    if around.dof == 6:
        tril = distributions.acg_tril(p.turn)
        turns = distributions.acg_from_normals(torch.where(uniform[..., None], torch.eye(4).to(tril), of(tril)), z[..., 6:])
    else:
        levels, nodes = distributions.von_mises_quantiles(_kappa(p.turn))
        u = z[..., None, :, 6].expand(*levels.shape[:-1], -1)
        off = distributions.von_mises_from_uniforms(levels, nodes, u).gather(2, component[..., None, :]).squeeze(2)
        mean = of(p.turn)
        turns = torch.where(uniform, 2 * math.pi * z[..., 7:], (off + torch.atan2(mean[..., 1], mean[..., 0]))[..., None])
    turns = turns.to(random)
    own = sines(turns.double(), around).take_along_dim(component[:, :, None, :, None], 2).squeeze(2)
    where = of(p.loc) + (of(p.follow) @ own[..., None]).squeeze(-1)
    return distributions.student_t_from_normals(where, of(p.tril), z[..., :6]).to(random), turns


def poses(places: Tensor, turns: Tensor, around: PoseFrame) -> Tensor:
    """cam_from_obj of samples (B, H, n, ...): (B, H n, 4, 4), in their precision."""
    centres = around.unit[:, None, None, None] * to_centres(places)
    centre = around.centre[:, None, None, :, None]
    if around.dof == 6:
        R = rotation.matrix_from_quat_wxyz(turns.double())
    else:
        R = rotation.so3_exp(torch.nn.functional.pad(turns.double(), (1, 1))) @ around.base[:, None, None]
    return se3.from_rt(R, centres - (R @ centre).squeeze(-1)).to(turns).flatten(1, 2)


def densities(p: Proposal, places: Tensor, turns: Tensor, around: PoseFrame) -> Tensor:
    """Of every component times the number of its samples, (B, H, M, n), by the place and rad^3, or rad with dof=4."""
    away = places.double()[..., None, :, :] - (p.loc[..., None, :] + sines(turns.double(), around) @ p.follow.mT)
    turns = turns.double()[..., None, :, :]
    log_t = distributions.student_t_at(_squares(p.tril, away), distributions.log_det(p.tril)[..., None])
    if around.dof == 6:
        tril = distributions.acg_tril(p.turn)
        square = _squares(tril, turns.expand(*away.shape[:-1], 4))
        log_turn = distributions.acg_at(square, distributions.log_det(tril)[..., None]) - math.log(4)
        everywhere = math.exp(-distributions.LOG_ROTATIONS)
    else:
        yaw = torch.atan2(p.turn[..., 1:], p.turn[..., :1])
        log_turn = distributions.von_mises_log_prob(turns.squeeze(-1), yaw, _kappa(p.turn)[..., None])
        everywhere = 0.5 / math.pi
    return log_t.exp() * (p.counts[..., :1] * log_turn.exp() + p.counts[..., 1:] * everywhere)


def _squares(tril: Tensor, rows: Tensor) -> Tensor:
    """The squared length of every row of (..., n, k) after dividing by a factor (..., k, k): (..., n)."""
    return torch.linalg.solve_triangular(tril, rows.mT, upper=False).square().sum(-2)


def _kappa(mean: Tensor) -> Tensor:
    """A third of the concentration that fits a mean (cos, sin): wider, for heavier tails. Source: EPro-PnP's code."""
    return distributions.von_mises_kappa(mean.norm(dim=-1)) / 3


def refit(
    p: Proposal, places: Tensor, turns: Tensor, weights: Tensor, present: Tensor, around: PoseFrame
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `proposal` makes the mixture from that fits weighted samples, the previous one counting as `MEMORY` samples.

    Args:
        p: (B, H, M, ...).
        places, turns: (B, H, n, ...).
        weights: of each sample for each component, (B, H, M, n): importance weights that sum to one times responsibilities.
        present: which minima there are, (B, M).
        around: of the problems.

    Source: Cappe et al., Adaptive importance sampling in general mixture classes, sec. 3; Tyler's fixed point for the ACG.
    """
    total = weights.sum(-1)
    own = weights / total.clamp_min(1e-300)[..., None]
    effective = 1 / own.square().sum(-1).clamp_min(1e-12)
    trust = torch.where(total > 1e-12, effective / (effective + MEMORY), 0.0)[..., None]
    beside = sines(turns.double(), around)
    both = torch.cat([places.double()[:, :, None].expand(*beside.shape[:-1], 3), beside], -1)
    mean = (own[..., None] * both).sum(-2)
    away = both - mean[..., None, :]
    apart = (mean - p.mean)[..., None]
    moments = (own[..., None] * away).mT @ away
    trusted = trust[..., None]
    moments = trusted * moments + (1 - trusted) * p.moments + trusted * (1 - trusted) * (apart @ apart.mT)
    if around.dof == 6:
        fitted = distributions.acg_fit(turns.double()[..., None, :, :].expand(*own.shape, 4), own)
        turn = trusted * fitted + (1 - trusted) * p.turn
    else:
        yaw = turns.double()[..., None, :, 0]
        turn = trust * torch.stack([(own * yaw.cos()).sum(-1), (own * yaw.sin()).sum(-1)], -1) + (1 - trust) * p.turn
    share = _floored(total, present[:, None].expand_as(total))
    return share, p.mean + trust * (mean - p.mean), moments, turn


def sample(
    problems: Problems,
    modes: Tensor,
    mode_costs: Tensor,
    dof: int,
    samples: int,
    rounds: int,
    generator: torch.Generator | None,
    far: float = FAR,
) -> tuple[Tensor, Tensor, Tensor]:
    """Poses around minima, with the density they were drawn from.

    The samples of a round are two halves, and each half's proposal is fitted to the other half. Were it fitted to all samples,
    they would have chosen the density that their own weights are divided by, and the evidence would come out 0.1 too small.
    For the same reason a problem whose samples are worth less than `RELIABLE` of their number is sampled anew, from the mixture
    that fits what was drawn so far, at most `RESTARTS` times and each time with twice as many samples to learn from.

    Args:
        problems: flat, (B, ...).
        modes: (B, M, 4, 4), metres.
        mode_costs: (B, M), ascending, inf for minima that do not exist, but not all of them.
        dof, samples, rounds, generator, far: as in `sample_posterior`.

    Returns:
        poses (B, S, 4, 4), metres; log-density (B, S), of the mixture of all rounds; cost (B, S), inf where ruled out.
    """
    present = torch.isfinite(mode_costs)
    most = max(int(present.sum(1).max()), 1) if len(modes) else 1
    modes, mode_costs, present = modes[:, :most], mode_costs[:, :most], present[:, :most]
    around, place = frame(problems, modes, mode_costs, dof, far)
    measured = math.isfinite(far)  # without a limit there is nothing to measure: samples start from the minima alone
    if measured:
        around, place, modes, mode_costs, present = with_limit(problems, modes, mode_costs, place, around, present)
    start = laplace(problems, modes, mode_costs, place, around, measured)
    found = _rounds(problems, start, around, present, samples, rounds, generator)
    for trial in range(RESTARTS if rounds > 1 and measured else 0):
        poor = (effective(*found[1:]) < RELIABLE * samples) & torch.isfinite(found[2]).any(1)
        if not bool(poor.any()):
            break
        rows = poor.nonzero()[:, 0]
        some, real = problems.map(lambda v, r=rows: v[r]), present[rows]  # type: ignore[misc]
        near = PoseFrame(*[v[rows] for v in around[:-1]], dof=dof)  # type: ignore[arg-type, misc]

        def improve(
            poses: Tensor, log_q: Tensor, costs: Tensor, r: Tensor = rows, near: PoseFrame = near, real: Tensor = real
        ) -> None:
            for v, new in zip(start, learn(tuple(v[r] for v in start), poses, log_q, costs, near, real)):
                v[r] = new

        poses, log_q, costs = (v[rows] for v in found)
        improve(poses, log_q, costs)
        improve(*_rounds(some, tuple(v[rows] for v in start), near, real, samples << (trial + 1), rounds, generator))
        for v, new in zip(found, _rounds(some, tuple(v[rows] for v in start), near, real, samples, rounds, generator)):
            v[rows] = new
    return found


def effective(log_q: Tensor, costs: Tensor) -> Tensor:
    """Effective sample size of samples (B, S): (B,)."""
    w = (-costs.double() - log_q.double()).nan_to_num(-math.inf, -math.inf, -math.inf).softmax(-1)
    return 1 / w.square().sum(-1).nan_to_num(1.0)


def learn(
    start: tuple[Tensor, ...], found: Tensor, log_q: Tensor, costs: Tensor, around: PoseFrame, present: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The start (share, mean, moments, turn) that fits weighted poses (B, S, 4, 4), from what `laplace` returned."""
    centres = se3.transform(found.double(), around.centre[:, None, None]).squeeze(-2)
    places = to_places(centres / around.unit[:, None, None])[:, None]
    R = found[:, None, :, :3, :3].double()
    if around.dof == 6:
        turns = rotation.quat_wxyz_from_matrix(R)
    else:
        D = R @ around.base[:, None, None].mT
        turns = torch.atan2(D[..., 0, 2] - D[..., 2, 0], D[..., 0, 0] + D[..., 2, 2])[..., None]
    share, mean, moments, turn = (v[:, None] for v in start)
    p = proposal(share, mean, moments, turn, found.shape[1], around.dof)
    each = densities(p, places, turns, around)
    w = (-costs.double() - log_q.double()).nan_to_num(-math.inf, -math.inf, -math.inf).softmax(-1)
    w = w[:, None, None] * (each / each.sum(2, keepdim=True).clamp_min(1e-300))
    return tuple(v[:, 0] for v in refit(p, places, turns, w, present, around))  # type: ignore[return-value]


def _rounds(
    problems: Problems, start: tuple[Tensor, ...], around: PoseFrame, present: Tensor, samples: int, rounds: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`sample` once, from what `laplace` returned."""
    halves = 1 if rounds == 1 else 2
    half = samples // halves
    sizes = [half * (i + 1) // rounds - half * i // rounds for i in range(rounds)]
    if present.device.type == "cpu" and kernels.backend(present.device) is not None:
        from .kernels import amis_cpu

        return amis_cpu.sample(problems, start, around, present, sizes, halves, generator)
    return sample_reference(problems, start, around, present, sizes, halves, generator)


def sample_reference(
    problems: Problems,
    start: tuple[Tensor, ...],
    around: PoseFrame,
    present: Tensor,
    sizes: list[int],
    halves: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`sample` from what `laplace` returned."""
    B = len(present)
    share, mean, moments, turn = (v[:, None].expand(B, halves, *v.shape[1:]) for v in start)
    p = proposal(share, mean, moments, turn, sizes[0], around.dof)
    earlier: list[Proposal] = []
    places = turns = costs = mixture = problems.K.new_zeros(B, halves, 0)
    all_poses = []
    for i, size in enumerate(sizes):
        new_places, new_turns = draw(p, numbers(problems.K, size, halves, around.dof, generator), around)
        new_poses = poses(new_places, new_turns, around)
        new_costs = kernels.pose_costs(problems, new_poses).double().unflatten(1, (halves, size))
        inside = new_places[..., 2].double() <= around.furthest.log()[:, None, None]
        inside &= new_places[..., :2].double().square().sum(-1) < 1
        new_costs = torch.where(inside, new_costs.nan_to_num(math.inf, math.inf), math.inf)
        new_mixture = sum((densities(q, new_places, new_turns, around).sum(2) for q in earlier), torch.zeros_like(new_costs))
        if i == 0:
            places, turns, costs, mixture = new_places, new_turns, new_costs, new_mixture
        else:
            places, turns = torch.cat([places, new_places], 2), torch.cat([turns, new_turns], 2)
            costs, mixture = torch.cat([costs, new_costs], 2), torch.cat([mixture, new_mixture], 2)
        all_poses.append(new_poses)
        each = densities(p, places, turns, around)
        latest = each.sum(2)
        mixture = mixture + latest
        earlier.append(p)
        if i + 1 < len(sizes):
            log_w = log_volume(places, around) - costs - mixture.clamp_min(1e-300).log()
            top = log_w.amax(-1, keepdim=True)
            w = (log_w - torch.where(torch.isfinite(top), top, 0.0)).exp()
            w = w / w.sum(-1, keepdim=True).clamp_min(1e-300)
            w = w[:, :, None] * (each / latest.clamp_min(1e-300)[:, :, None])
            fitted = refit(p, places.flip(1), turns.flip(1), w.flip(1), present, around)
            p = proposal(*fitted, sizes[i + 1], around.dof)
    log_q = (mixture.clamp_min(1e-300) / sum(sizes)).log() - log_volume(places, around)
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]

    def by_round(value: Tensor) -> Tensor:
        """(B, H, S / H) -> (B, S) in the order of the poses."""
        return torch.cat([value[:, :, i:j].flatten(1) for i, j in itertools.pairwise(edges)], 1).to(problems.K)

    return torch.cat(all_poses, 1), by_round(log_q), by_round(costs)


def _inverse(A: Tensor) -> Tensor:
    """Of a symmetric positive matrix, the identity where it is not."""
    factor, failed = torch.linalg.cholesky_ex(A)
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.cholesky_inverse(torch.where((failed == 0)[..., None, None], factor, eye))


def _floored(share: Tensor, present: Tensor) -> Tensor:
    """Shares (..., M) that sum to one, at least `FLOOR` before normalising where present, 0 where not."""
    share = torch.where(present, share.nan_to_num(0.0, 0.0, 0.0).clamp_min(FLOOR), 0.0)
    return share / share.sum(-1, keepdim=True).clamp_min(1e-300)
