"""The distribution of poses that correspondences leave open: weighted samples, evidence, covariance, several modes.

exp(-cost) is a likelihood when weights are one over the standard deviation in pixels. `sample_posterior` draws poses from a
mixture around the minima of the cost and corrects their weights, so that it also holds where no Gaussian does.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import rotation, se3
from ..types import Camera
from . import distributions, kernels
from .problems import Z_MIN, Prepared, Problems, Robust, prepare
from .solve import PRIOR, descend, free_entries, minima

UNIFORM = {6: 0.1, 4: 0.25}  # share of rotations drawn from all directions, by dof
HOPELESS = 12.0  # minima whose cost is this much above the best get no samples of their own: exp(-12) of the mass
FLOOR = 0.05  # least share of the samples of every minimum that is kept
MEMORY = 5.0  # samples that the previous proposal is worth when a new one is fitted


@dataclass(frozen=True)
class Posterior:
    """Weighted samples of the pose, for every problem of the batch.

    Args:
        mode: the cheapest minimum of the cost, (..., 4, 4), metres.
        modes: the distinct minima that the samples were drawn around, (..., M, 4, 4), cheapest first.
        mode_costs: their costs, (..., M); inf where there are fewer minima, whose pose then repeats the first.
        samples: (..., S, 4, 4), metres.
        log_weights: -cost(sample) - log q(sample), (..., S), differentiable in points3d, points2d, weights and K.
        log_evidence: log of the integral of exp(-cost) over translations (m^3) and rotations (rad^3, all of them measure
            8 pi^2; with dof=4 rad, 2 pi), (...,), differentiable.
        effective_sample_size: (sum w)^2 / sum w^2, between 1 and S, (...,).
        converged: (...,), bool. False: too few points, NaN in a point that has weight, or no pose of finite cost. Everything is
            finite then, all weights are equal, and gradients are zero.
        dof: 6 or 4.
        prepared: the problems, flat.
    """

    mode: Tensor
    modes: Tensor
    mode_costs: Tensor
    samples: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    effective_sample_size: Tensor
    converged: Tensor
    dof: int
    prepared: Prepared

    def probabilities(self) -> Tensor:
        """Weights that sum to one, (..., S), without gradient."""
        return self.log_weights.detach().softmax(-1)

    def mean(self) -> Tensor:
        """The weighted mean pose, (..., 4, 4): of translations, and of rotations by the nearest rotation to their mean."""
        w = self.probabilities()[..., None]
        R = (w * self.samples[..., :3, :3].flatten(-2)).sum(-2).unflatten(-1, (3, 3))
        return se3.from_rt(rotation.nearest_rotation(R), (w * self.samples[..., :3, 3]).sum(-2))

    def covariance(self) -> Tensor:
        """Second moment of the tangent (v, omega) around `mean`, (..., 6, 6), as `Solution.covariance`: metres, radians."""
        centre = self.mean()[..., None, :, :]
        v = self.samples[..., :3, 3] - centre[..., :3, 3]
        omega = rotation.so3_log(self.samples[..., :3, :3] @ centre[..., :3, :3].mT)
        tangent = torch.cat([v, omega], -1)
        return (tangent * self.probabilities()[..., None]).mT @ tangent

    def orientation_density(self, rotations: Tensor) -> Tensor:
        """Density of the orientation on a grid, smoothed over about the distance between the samples that matter.

        Args:
            rotations: (R, 3, 3); with dof=4 they differ from the samples by a yaw.

        Returns:
            (..., R), per rad^3; with dof=4 per rad.

        Source: Schaeben, A simple standard orientation density function (de la Vallee Poussin kernel); Silverman's width.
        """
        w = self.probabilities()
        near = rotation.angle_between(self.samples[..., None, :3, :3], self.modes[..., None, :, :3, :3]).amin(-1)
        d = 3 if self.dof == 6 else 1
        spread = (w * near.square()).sum(-1) / d
        width = spread * (4 / (d + 2) / self.effective_sample_size) ** (2 / (d + 4))
        power = (2 / width.clamp(1e-6, 1.0)).double()[..., None]  # cos(angle / 2)^(2 power) is about a normal of this variance
        half = 0.5 * d
        beta = torch.lgamma(torch.tensor(half)) + torch.lgamma(power + 0.5) - torch.lgamma(power + 0.5 + half)
        log_norm = beta + math.log(16 * math.pi if d == 3 else 2.0)
        grid = rotation.quat_wxyz_from_matrix(rotations).to(self.samples)
        quats = rotation.quat_wxyz_from_matrix(self.samples[..., :3, :3])
        density = w.new_zeros(*w.shape[:-1], len(grid))
        for start in range(0, len(grid), 1024):
            cosine = (quats @ grid[start : start + 1024].T).abs().clamp(1e-30, 1).double()  # (..., S, R)
            kernel = torch.exp(2 * power[..., None] * cosine.log() - log_norm[..., None])
            density[..., start : start + 1024] = (w[..., None].double() * kernel).sum(-2).to(density)
        return density

    def resample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without weights, drawn by weight with replacement, (..., count, 4, 4)."""
        w = self.probabilities().reshape(-1, self.log_weights.shape[-1])
        device = generator.device if generator is not None else w.device
        drawn = torch.multinomial(w.to(device), count, replacement=True, generator=generator).to(w.device)
        drawn = drawn.reshape(*self.log_weights.shape[:-1], count)
        return self.samples.take_along_dim(drawn[..., None, None], -3)


def sample_posterior(
    points3d: Tensor,
    points2d: Tensor,
    camera: Camera | Tensor,
    weights: Tensor | None = None,
    init: Tensor | None = None,
    dof: int = 6,
    samples: int = 512,
    iterations: int = 4,
    robust: Robust | None = None,
    z_min: float = Z_MIN,
    bounds: Tensor | None = None,
    modes: int = 4,
    proposals: int | None = None,
    generator: torch.Generator | None = None,
    solver_iterations: int = 10,
) -> Posterior:
    """Weighted samples of the density exp(-cost) of the pose, by adaptive multiple importance sampling.

    Args:
        points3d: (..., N, 3), metres, object frame.
        points2d: (..., N, 2), pixels.
        camera: Camera or intrinsics (..., 3, 3), pixels, without lens distortion.
        weights: (..., N, 2) or (..., N), >= 0, 1 / pixels; None is 1. Points of weight 0 are ignored, whatever they hold.
        init: a pose that is tried beside those found from the points, (..., 4, 4), metres: the last one of a video, or the
            true one in training, whose mode is then never missed.
        dof: 6, or 4: translation and yaw about the camera's Y axis, roll and pitch stay those of `init` (0 without).
        samples: in total.
        iterations: the samples are drawn in that many rounds; each round learns from those before.
        robust, bounds, z_min: as in `solve`.
        modes: distinct minima of the cost that samples are drawn around, at most.
        proposals: random samples of points tried for a start, as in `solve`.
        generator: of all random numbers; None is torch's own.
        solver_iterations: most steps to each minimum.

    Returns:
        a Posterior; one bad problem leaves the others untouched.

    Raises:
        ValueError: on wrong shapes, dof, samples, or a camera with lens distortion; never for what the numbers are.

    Source: Chen et al., EPro-PnP, sec. 3.2, algorithm 1, with a mixture over minima as proposal (Cappe et al., Adaptive
    importance sampling in general mixture classes) and translations that follow the rotation.
    """
    if dof not in (4, 6):
        raise ValueError(f"dof must be 6 (rotation and translation) or 4 (yaw and translation), got {dof}")
    if iterations < 1 or modes < 1 or samples < iterations:
        raise ValueError(
            f"samples must be at least iterations, which like modes must be at least 1, got {samples}, {iterations}, {modes}"
        )
    given = prepare(points3d, points2d, camera, weights, robust, bounds, z_min, init)
    problems, batch = given.problems, given.batch
    with torch.no_grad():
        fixed = problems.map(Tensor.detach)
        start = None if init is None else given.flat(init, 4, 4)
        minima_, costs, usable = _distinct_minima(given, fixed, start, dof, modes, proposals, generator, solver_iterations)
        poses, log_q, drawn_costs = _adapt(fixed, minima_, costs, dof, samples, iterations, generator)
        usable = usable & torch.isfinite(log_q).all(1) & ~torch.isnan(drawn_costs).any(1) & torch.isfinite(drawn_costs).any(1)
        poses = torch.where(usable[:, None, None, None], poses, minima_[:, :1])
    cost = kernels.pose_costs(problems, poses)
    log_weights = torch.where(usable[:, None], -cost - log_q, torch.zeros_like(cost))
    log_evidence = log_weights.logsumexp(-1) - math.log(samples)
    with torch.no_grad():
        w = log_weights.softmax(-1)
        effective = 1 / w.square().sum(-1)
    outside = given.dtype

    def shaped(value: Tensor) -> Tensor:
        return value.to(outside).reshape(batch + value.shape[1:])

    return Posterior(
        shaped(minima_[:, 0]), shaped(minima_), shaped(costs), shaped(poses), shaped(log_weights), shaped(log_evidence),
        shaped(effective), usable.reshape(batch), dof, given,
    )  # fmt: skip


def _distinct_minima(
    given: Prepared,
    problems: Problems,
    init: Tensor | None,
    dof: int,
    count: int,
    proposals: int | None,
    generator: torch.Generator | None,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Poses (B, M, 4, 4), cheapest first, costs (B, M), inf for repetitions of the first, and usable, (B,), bool."""
    base = torch.eye(3).to(problems.K).expand(len(problems.K), 3, 3)
    if init is not None:
        finite = torch.isfinite(init).flatten(1).all(1)[:, None, None]
        init = torch.where(finite, init, torch.eye(4).to(init))
        if dof == 4:  # starts are yaws only: turn the points to the roll and pitch of the given pose beforehand
            base = init[:, :3, :3]
    turned = problems._replace(points3d=problems.points3d @ base.mT) if dof == 4 else problems
    poses, _, costs = minima(turned, dof, count, iterations, proposals, generator)
    if dof == 4:
        poses = se3.from_rt(poses[..., :3, :3] @ base[:, None], poses[..., :3, 3])
    if init is not None:
        more, _ = descend(problems, init, dof, iterations)
        poses = torch.cat([more[:, None], poses], 1)
        costs = torch.cat([kernels.pose_costs(problems, more[:, None]), costs], 1)
    costs = torch.where(torch.isfinite(poses).flatten(2).all(2), costs.nan_to_num(math.inf), math.inf)
    poses = torch.where(torch.isfinite(costs)[..., None, None], poses, torch.eye(4).to(poses))
    order = costs.argsort(dim=1, stable=True)
    costs, poses = costs.gather(1, order), poses.take_along_dim(order[..., None, None], 1)
    R, t = poses[..., :3, :3], poses[..., :3, 3]
    apart = (rotation.angle_between(R[:, :, None], R[:, None]) > math.radians(5)) | (
        (t[:, :, None] - t[:, None]).norm(dim=-1) > 0.05 * t[:, :1].norm(dim=-1, keepdim=True)
    )
    kept = costs < costs[:, :1] + HOPELESS
    for i in range(1, kept.shape[1]):
        kept[:, i] &= (apart[:, i, :i] | ~kept[:, :i]).all(1)
    usable = torch.isfinite(costs[:, 0]) & (given.used.sum(1) >= (3 if dof == 6 else 2))
    kept[:, 0] = True
    order = torch.where(kept, costs, math.inf).argsort(dim=1, stable=True)[:, :count]
    costs = torch.where(kept, costs, math.inf).gather(1, order)
    poses = poses.take_along_dim(order[..., None, None], 1)
    fresh = torch.isfinite(costs)
    fresh[:, 0] = True
    poses = torch.where(fresh[..., None, None], poses, poses[:, :1])
    costs[:, 0] = costs[:, 0].nan_to_num(0.0, 0.0, 0.0)
    return poses, costs, usable


class _Proposal(NamedTuple):
    """A mixture of M components for each problem; d is 3 rotations or, with dof=4, 1.

    counts (B, M, 2): samples drawn from each, the second number with uniform rotations; loc (B, M, 3), metres: of the centre of
    the points where the rotation is that of the mode; follow (B, M, 3, d), metres per radian: how that centre moves with the
    rotation; tril (B, M, 3, 3), metres; rotation: factor of the ACG (B, M, 4, 4), or yaw and concentration (B, M, 2);
    joint (B, M, 3 + d, 3 + d): covariance of centre and rotation that this came from.
    """

    counts: Tensor
    loc: Tensor
    follow: Tensor
    tril: Tensor
    rotation: Tensor
    joint: Tensor


def _small_turns(quat: Tensor) -> Tensor:
    """The quaternions i q, j q and k q: twice the derivative of exp(omega) q by omega. (..., 4) -> (..., 3, 4)."""
    w, x, y, z = quat.unbind(-1)
    return torch.stack([-x, w, -z, y, -y, z, w, -x, -z, -y, x, w], -1).unflatten(-1, (3, 4))


def _adapt(
    problems: Problems,
    minima_: Tensor,
    mode_costs: Tensor,
    dof: int,
    samples: int,
    rounds: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw poses (B, S, 4, 4): those, the log-density they were drawn with (B, S), and their costs (B, S)."""
    B, M = mode_costs.shape
    d = 3 if dof == 6 else 1
    weight = problems.weights.double().mean(-1, keepdim=True)
    centre = (weight * problems.points3d.double()).sum(1) / weight.sum(1).clamp_min(1e-300)
    base = minima_.double()
    base_R, base_t = base[..., :3, :3], base[..., :3, 3]
    loc = base_t + (base_R @ centre[:, None, :, None]).squeeze(-1)
    quat = rotation.quat_wxyz_from_matrix(base_R)  # of the modes, (B, M, 4)
    left = _small_turns(quat)
    # yaw of the modes relative to the first, all that differs between them with dof=4
    turn = base_R @ base_R[:, :1].mT
    yaw = torch.atan2(turn[..., 0, 2] - turn[..., 2, 0], turn[..., 0, 0] + turn[..., 2, 2])

    def sines(rot: Tensor) -> Tensor:
        """sin(angle) times the axis of the rotations (B, n, 4 or 1) relative to every mode, (B, M, n, d)."""
        if dof == 4:
            return (rot[:, None] - yaw[..., None, None]).sin()
        return 2 * (rot[:, None] @ quat[..., None]) * (rot[:, None] @ left.mT)

    def poses_of(position: Tensor, rot: Tensor) -> Tensor:
        if dof == 6:
            R = rotation.matrix_from_quat_wxyz(rot)
        else:
            R = rotation.so3_exp(torch.nn.functional.pad(rot, (1, 1))) @ base_R[:, :1]
        return se3.from_rt(R, position - (R @ centre[:, None, :, None]).squeeze(-1)).to(problems.K)

    def log_density(p: _Proposal, position: Tensor, rot: Tensor) -> Tensor:
        """Of each component, with the number of its samples as factor, (B, M, n)."""
        where = p.loc[:, :, None] + (sines(rot) @ p.follow.mT)
        log_t = distributions.student_t_log_prob(position[:, None], where, p.tril[:, :, None])
        if dof == 6:
            log_r = distributions.acg_log_prob(rot[:, None], p.rotation[:, :, None])
            log_uniform, measure = -distributions.LOG_SPHERE, math.log(4)
        else:
            log_r = distributions.von_mises_log_prob(rot[:, None, :, 0], p.rotation[..., :1], p.rotation[..., 1:])
            log_uniform, measure = -math.log(2 * math.pi), 0.0
        log_counts = p.counts.log()
        both = torch.logaddexp(log_counts[..., :1] + log_r, log_counts[..., 1:] + log_uniform)
        return log_t + both - measure

    # the first proposal: the Gaussian around each minimum, no wider than half the distance and a radian
    many = problems.map(lambda v: v.double().repeat_interleave(M, 0))
    normal = kernels.normal_equations(many, base.flatten(0, 1))
    free = free_entries(dof, base.device)
    shift = torch.eye(6, dtype=base.dtype, device=base.device).repeat(B * M, 1, 1)
    arm = (base_R @ centre[:, None, :, None]).squeeze(-1).flatten(0, 1)
    shift[:, :3, 3:] = rotation.skew(arm)  # v = move of the centre + arm x omega: H for (centre, omega)
    H = (shift.mT @ normal.hessian @ shift)[:, free[:, None], free].nan_to_num(0.0, 0.0, 0.0)
    widest = torch.ones_like(H[:, 0])
    widest[:, :3] = 4 / loc.flatten(0, 1).square().sum(-1, keepdim=True).clamp_min(1e-12)
    laplace = _inverse(H + PRIOR * torch.eye(len(free)).to(H))
    joint = _inverse(H + torch.diag_embed(widest)).unflatten(0, (B, M))
    log_share = -mode_costs + 0.5 * torch.logdet(laplace).nan_to_num(0.0, 0.0, 0.0).unflatten(0, (B, M))
    share = _floored(log_share.softmax(-1), torch.isfinite(mode_costs))
    sizes = [samples * (i + 1) // rounds - samples * i // rounds for i in range(rounds)]
    if dof == 6:
        inverse = _inverse(joint[..., 3:, 3:])
        precision = 4 * left.mT @ inverse @ left + torch.eye(4).to(left)
        rot_params = distributions.acg_factor(_inverse(precision))
    else:
        rot_params = torch.stack([yaw, 1 / (3 * joint[..., 3, 3])], -1)
    proposal = _with_translation(loc, joint, torch.zeros_like(loc[..., :d]), share, sizes[0], dof, rot_params)

    position, rot = base.new_zeros(B, 0, 3), base.new_zeros(B, 0, 4 if dof == 6 else 1)
    poses, costs = problems.K.new_zeros(B, 0, 4, 4), base.new_zeros(B, 0)
    log_mixture = base.new_zeros(B, 0)  # of all samples, times the number of samples
    earlier: list[_Proposal] = []
    for i, size in enumerate(sizes):
        new_position, new_rot = _draw(proposal, size, dof, quat, left, yaw, generator)
        new_poses = poses_of(new_position, new_rot)
        costs = torch.cat([costs, kernels.pose_costs(problems, new_poses).double()], 1)
        here = [log_density(p, new_position, new_rot).logsumexp(1) for p in earlier]
        position, rot, poses = (torch.cat(v, 1) for v in ((position, new_position), (rot, new_rot), (poses, new_poses)))
        each = log_density(proposal, position, rot)
        latest = each.logsumexp(1)
        before = torch.stack(here).logsumexp(0) if here else latest.new_full((B, size), -math.inf)
        log_mixture = torch.logaddexp(torch.cat([log_mixture, before], 1), latest)
        earlier.append(proposal)
        if i + 1 < rounds:
            log_w = (-costs - log_mixture).nan_to_num(-math.inf, -math.inf, -math.inf)
            w = (log_w - log_w.amax(1, keepdim=True).nan_to_num(0.0, 0.0, 0.0)).exp()
            w = (w / w.sum(1, keepdim=True).clamp_min(1e-300))[:, None] * (each - latest[:, None]).exp().nan_to_num(0.0)
            proposal = _refit(proposal, position, rot, sines(rot), w, sizes[i + 1], dof, yaw, torch.isfinite(mode_costs))
    return poses, (log_mixture - math.log(samples)).to(problems.K), costs


def _inverse(A: Tensor) -> Tensor:
    """Of a symmetric positive matrix, the identity where it is not."""
    factor, failed = torch.linalg.cholesky_ex(A)
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.cholesky_inverse(torch.where((failed == 0)[..., None, None], factor, eye))


def _floored(share: Tensor, present: Tensor) -> Tensor:
    """Shares (B, M) that sum to one, at least `FLOOR` before normalising where present, 0 where not."""
    share = torch.where(present, share.nan_to_num(0.0, 0.0, 0.0).clamp_min(FLOOR), torch.zeros_like(share))
    share[:, 0] = torch.where(present.any(1), share[:, 0], torch.ones_like(share[:, 0]))
    return share / share.sum(1, keepdim=True)


def _with_translation(
    mean: Tensor, joint: Tensor, mean_sines: Tensor, share: Tensor, size: int, dof: int, rot_params: Tensor
) -> _Proposal:
    """The proposal for a joint covariance of centre and rotation: the centre given the rotation, and the numbers of samples."""
    uniform = UNIFORM[dof]
    parts = torch.stack([share * (1 - uniform), share * uniform], -1).flatten(1)
    ends = (parts.cumsum(-1) * size).round()
    ends[:, -1] = size
    counts = torch.diff(ends, dim=-1, prepend=torch.zeros_like(ends[:, :1])).unflatten(1, (-1, 2))
    across, turns = joint[..., :3, 3:], joint[..., 3:, 3:]
    follow = across @ _inverse(turns)
    rest = joint[..., :3, :3] - follow @ across.mT
    scale = rest.diagonal(dim1=-2, dim2=-1).mean(-1).abs().clamp_min(1e-20)
    eye = torch.eye(3, dtype=rest.dtype, device=rest.device)
    tril, failed = torch.linalg.cholesky_ex(rest + 1e-6 * scale[..., None, None] * eye)
    tril = torch.where((failed == 0)[..., None, None], tril, scale.sqrt()[..., None, None] * eye)
    loc = mean - (follow @ mean_sines[..., None]).squeeze(-1)
    return _Proposal(counts, loc, follow, tril, rot_params, joint)


def _draw(
    p: _Proposal, size: int, dof: int, quat: Tensor, left: Tensor, yaw: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Positions (B, size, 3) and rotations (B, size, 4 or 1), stratified: the samples of a component stand together."""
    B, M = p.counts.shape[:2]
    ends = p.counts.flatten(1).cumsum(-1)
    place = torch.arange(size, dtype=ends.dtype, device=ends.device) + 0.5
    part = torch.searchsorted(ends, place.expand(B, size).contiguous()).clamp_max(2 * M - 1)
    component, uniform = part // 2, (part % 2 == 1)[..., None]

    def of(value: Tensor) -> Tensor:
        index = component.reshape(B, size, *[1] * (value.dim() - 2))
        return value.take_along_dim(index, 1)

    if dof == 6:
        factor = torch.where(uniform[..., None], torch.eye(4).to(p.rotation), of(p.rotation))
        rot = distributions.acg_sample(factor, generator)
        sines = 2 * (rot * of(quat)).sum(-1, keepdim=True) * (of(left) @ rot[..., None]).squeeze(-1)
    else:
        levels, nodes = distributions.von_mises_quantiles(p.rotation[..., 1])
        around = distributions.von_mises_sample(levels, nodes, size, generator).gather(1, component[:, None]).squeeze(1)
        anywhere = 2 * math.pi * distributions.uniforms(B, size, like=around, generator=generator)
        rot = torch.where(uniform, anywhere[..., None], (of(p.rotation)[..., 0] + around)[..., None])
        sines = (rot - of(yaw[..., None])).sin()
    where = of(p.loc) + (of(p.follow) @ sines[..., None]).squeeze(-1)
    return distributions.student_t_sample(where, of(p.tril), generator), rot


def _refit(
    p: _Proposal, position: Tensor, rot: Tensor, sines: Tensor, w: Tensor, size: int, dof: int, yaw: Tensor, present: Tensor
) -> _Proposal:
    """The mixture that fits weighted samples; w (B, M, S) are importance weights times responsibilities."""
    total = w.sum(-1)
    own = w / total.clamp_min(1e-300)[..., None]
    effective = 1 / own.square().sum(-1).clamp_min(1e-12)
    trust = torch.where(total > 1e-12, effective / (effective + MEMORY), torch.zeros_like(total))[..., None, None]
    both = torch.cat([position[:, None].expand(-1, sines.shape[1], -1, -1), sines], -1)  # (B, M, S, 3 + d)
    mean = (own[..., None] * both).sum(-2)
    away = both - mean[..., None, :]
    moments = (own[..., None] * away).mT @ away
    joint = trust * moments + (1 - trust) * p.joint
    old = torch.cat([p.loc, torch.zeros_like(mean[..., 3:])], -1)
    mean = torch.where(trust.squeeze(-1) > 0, mean, old)
    if dof == 6:
        fitted = distributions.acg_fit(rot[:, None].expand(-1, w.shape[1], -1, -1), own)
        before = _inverse(p.rotation.mT @ p.rotation)
        before = before / before.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        rot_params = distributions.acg_factor(trust * fitted + (1 - trust) * before)
    else:
        angle = rot[:, None, :, 0]
        c, s = (own * angle.cos()).sum(-1), (own * angle.sin()).sum(-1)
        kappa = distributions.von_mises_kappa((c * c + s * s).sqrt()) / 3
        sure = trust[..., 0, 0]
        variance = sure / kappa.clamp_min(1e-3) + (1 - sure) / p.rotation[..., 1].clamp_min(1e-3)
        centre = torch.where(sure > 0, torch.atan2(s, c), p.rotation[..., 0])
        rot_params = torch.stack([centre, 1 / variance], -1)
    share = _floored(total, present)
    return _with_translation(mean[..., :3], joint, mean[..., 3:], share, size, dof, rot_params)
