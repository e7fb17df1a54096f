"""The distribution of poses that correspondences leave open: weighted samples, evidence, covariance, several modes.

exp(-cost) is a likelihood when weights are one over the standard deviation in pixels. `sample_posterior` draws poses from a
mixture around the minima of the cost and corrects their weights, so that it also holds where no Gaussian does.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..geometry import rotation, se3
from ..geometry.rotation import full_precision
from ..types import Camera
from . import amis, checks, kernels, upright
from .opaque import opaque
from .prepare import Prepared, intrinsics, prepare
from .problems import Problems, Robust
from .solve import NEEDED, descend, distinct_points, local_minima

MAX_COST_GAP = 12.0  # minima whose cost is this much above the best get no samples of their own: exp(-12) of the mass
LOG_ZERO = -1e30  # log-weight of samples that are ruled out; finite, so that 0 * log(0) stays 0


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
            8 pi^2; with dof=4 rad, 2 pi), (...,), differentiable. The centre of the points is in front of the camera there, and
            at most `far` times (ten times) as far as the furthest of `modes`: objects at infinity explain all pixels about
            equally, so that the integral over all translations is infinite.
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

    @property
    def reliable(self) -> Tensor:
        """Whether the samples measure the distribution, (...,), bool: converged, and worth a tenth of their number or more.

        Where not, `log_evidence` is likely too small, by half a unit or more, and moments are those of a few samples.
        """
        return self.converged & (self.effective_sample_size >= amis.RELIABLE * self.samples.shape[-3])

    def probabilities(self) -> Tensor:
        """Weights that sum to one, (..., S), without gradient."""
        return self.log_weights.detach().softmax(-1)

    def mean(self) -> Tensor:
        """The weighted mean pose, (..., 4, 4): of rotations the nearest one to their mean, and of the places of the points'
        centre."""
        frame, count = self.prepared.frame, self.samples.shape[-3]
        w = self.probabilities().reshape(-1, count, 1)
        own = frame.inward(self.samples.reshape(-1, count, 4, 4))
        R = (w * own[..., :3, :3].flatten(-2)).sum(-2).unflatten(-1, (3, 3))
        mean = se3.from_rt(rotation.nearest_rotation(R), (w * own[..., :3, 3]).sum(-2))
        return frame.outward(mean).reshape(self.mode.shape)

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
            rotations: (R, 3, 3); with dof=4 they differ from the samples by a yaw. What half precision rounded is made one.

        Returns:
            (..., R), per rad^3; with dof=4 per rad.

        Raises:
            ValueError: if they are not (R, 3, 3), or one is no rotation.

        Source: Schaeben, A simple standard orientation density function (de la Vallee Poussin kernel); Silverman's width.
        """
        rotations = checks.tensor("rotations", rotations).to(self.samples)
        if rotations.dim() != 3 or rotations.shape[1:] != (3, 3):
            raise ValueError(f"rotations must be (R, 3, 3), got {tuple(rotations.shape)}")
        made, sound = checks.rigid(se3.from_rt(rotations, rotations.new_zeros(3)))
        if not bool(sound.all()):
            raise ValueError(f"rotations must be rotation matrices, {int((~sound).sum())} of {len(sound)} are not")
        w = self.probabilities()
        near = rotation.angle_between(self.samples[..., None, :3, :3], self.modes[..., None, :, :3, :3]).amin(-1)
        d = 3 if self.dof == 6 else 1
        spread = (w * near.square()).sum(-1) / d
        width = spread * (4 / (d + 2) / self.effective_sample_size) ** (2 / (d + 4))
        power = (2 / width.clamp(1e-6, 1.0)).double()[..., None]  # cos(angle / 2)^(2 power) is about a normal of this variance
        half = 0.5 * d
        beta = math.lgamma(half) + torch.lgamma(power + 0.5) - torch.lgamma(power + 0.5 + half)
        log_norm = beta + math.log(16 * math.pi if d == 3 else 2.0)
        grid = rotation.quat_wxyz_from_matrix(made[:, :3, :3])
        quats = rotation.quat_wxyz_from_matrix(self.samples[..., :3, :3])
        density = w.new_zeros(*w.shape[:-1], len(grid))
        for start in range(0, len(grid), 1024):
            cosine = (quats @ grid[start : start + 1024].T).abs().clamp(1e-30, 1).double()  # (..., S, R)
            kernel = torch.exp(2 * power[..., None] * cosine.log() - log_norm[..., None])
            density[..., start : start + 1024] = (w[..., None].double() * kernel).sum(-2).to(density)
        return density

    def resample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without weights, drawn by weight with replacement, (..., count, 4, 4).

        Raises:
            ValueError: if count is no integer of at least 1, or generator none.
        """
        count, generator = checks.whole("count", count, 1), checks.generator(generator)
        w = self.probabilities().reshape(-1, self.log_weights.shape[-1])
        device = generator.device if generator is not None else w.device
        drawn = torch.multinomial(w.to(device), count, replacement=True, generator=generator).to(w.device)
        drawn = drawn.reshape(*self.log_weights.shape[:-1], count)
        return self.samples.take_along_dim(drawn[..., None, None], -3)


@opaque
@full_precision
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
    z_min: float | None = None,
    bounds: Tensor | None = None,
    modes: int = 4,
    proposals: int | None = None,
    generator: torch.Generator | None = None,
    solver_iterations: int = 10,
    far: float = amis.FAR,
    gravity: Tensor | None = None,
) -> Posterior:
    """Weighted samples of the density exp(-cost) of the pose, by adaptive multiple importance sampling.

    Args:
        points3d: (..., N, 3), metres, object frame.
        points2d: (..., N, 2), pixels.
        camera: Camera or intrinsics (..., 3, 3), pixels, without lens distortion.
        weights: (..., N, 2) or (..., N), >= 0, 1 / pixels; None is 1. Points of weight 0 are ignored, whatever they hold.
        init: a pose that is tried beside those found from the points, (..., 4, 4), metres: the last one of a video, or the
            true one in training, whose mode is then never missed.
        dof: 6, or 4: translation and yaw about `gravity`, roll and pitch stay those of `init` (0 without).
        samples: in total.
        iterations: the samples are drawn in that many rounds; each round learns from those before.
        robust, bounds, z_min: as in `solve`.
        modes: distinct minima of the cost that samples are drawn around, at most.
        proposals: random samples of points tried for a start, as in `solve`.
        generator: of all random numbers; None is torch's own.
        solver_iterations: most steps to each minimum.
        far: poses more than so many times as far away as the furthest minimum have no density: without a limit the integral
            would be infinite. To train a network that knows nothing yet, give 1000: telling far poses apart teaches it
            how far away objects are. With infinity samples start from the minima alone and measure what they happen to reach.
        gravity: as in `solve`.

    Returns:
        a Posterior; one bad problem leaves the others untouched.

    Raises:
        ValueError: on wrong shapes, options out of range, or a camera with lens distortion; never for what the numbers are.

    Source: Chen et al., EPro-PnP, sec. 3.2, algorithm 1, with a mixture over minima as proposal (Cappe et al., Adaptive
    importance sampling in general mixture classes) and translations that follow the rotation.
    """
    dof, samples, iterations = (
        checks.degrees_of_freedom(dof),
        checks.whole("samples", samples),
        checks.whole("iterations", iterations),
    )
    modes, solver_iterations = checks.whole("modes", modes), checks.whole("solver_iterations", solver_iterations)
    proposals, generator = None if proposals is None else checks.whole("proposals", proposals), checks.generator(generator)
    if iterations < 1 or modes < 1 or samples < 2 * iterations or samples % 2:
        raise ValueError(
            "samples must be even and at least twice the iterations, and iterations and modes at least 1, "
            f"got samples={samples}, iterations={iterations}, modes={modes}"
        )
    if not (isinstance(far, (int, float, np.integer, np.floating)) and far > 1):
        raise ValueError(f"far must be a number above 1, times the distance of the furthest minimum, got {far!r}")
    far = float(far)
    if gravity is not None:
        K, start, R = upright.turned(points3d, camera, init, dof, gravity)
        found = sample_posterior(
            points3d, points2d, K, weights, start, dof, samples, iterations, robust, z_min, bounds, modes, proposals, generator,
            solver_iterations, far,
        )  # fmt: skip
        R = R.detach()
        return replace(
            found, mode=upright.back(found.mode, R), modes=upright.back(found.modes, R[..., None, :, :]),
            samples=upright.back(found.samples, R[..., None, :, :]),
            prepared=prepare(points3d, points2d, intrinsics(camera, K) + 0 * K, weights, robust, bounds, z_min, init),
        )  # fmt: skip
    given = prepare(points3d, points2d, camera, weights, robust, bounds, z_min, init)
    problems, frame, batch = given.own(), given.frame, given.batch
    with torch.no_grad():
        fixed = problems.map(Tensor.detach)
        known = None
        if init is not None:
            known, near = checks.rigid(given.flat(torch.as_tensor(init), 4, 4))
            known = frame.inward(torch.where(near[:, None, None], known, math.nan))
        optima, costs, usable = _distinct_minima(given, fixed, known, dof, modes, proposals, generator, solver_iterations)
        poses, log_q, nearest = amis.sample(fixed, optima, costs, dof, samples, iterations, generator, far)
        possible = torch.isfinite(nearest)
        usable = usable & torch.isfinite(log_q).all(1) & possible.any(1)
        good = usable[:, None] & possible
        if not bool(good.all()):
            torch.where(good[..., None, None], poses, optima[:, :1], out=poses)
        log_q = log_q - 3 * frame.scale.to(log_q).log()[:, None]  # per cubic metre
    cost = kernels.pose_costs(problems, poses, nearest)
    log_weights = torch.where(possible, -cost - log_q, LOG_ZERO)
    log_weights = torch.where(usable[:, None], log_weights, 0.0)
    log_evidence = log_weights.logsumexp(-1) - math.log(samples)
    with torch.no_grad():
        w = log_weights.softmax(-1)
        effective = 1 / w.square().sum(-1)
        optima, poses = (frame.outward(v.double() if v.dtype != given.dtype else v) for v in (optima, poses))
    outside = given.dtype

    def shaped(value: Tensor) -> Tensor:
        return value.to(outside).reshape(batch + value.shape[1:])

    return Posterior(
        shaped(optima[:, 0]), shaped(optima), shaped(costs), shaped(poses), shaped(log_weights), shaped(log_evidence),
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
    """Poses (B, M, 4, 4), cheapest first, costs (B, M), inf for repetitions of the first, and usable, (B,), bool.

    Problems and poses are in their own frames.
    """
    base = torch.eye(3).to(problems.K).expand(len(problems.K), 3, 3)
    if init is not None:
        finite = torch.isfinite(init).flatten(1).all(1)[:, None, None]
        init = torch.where(finite, init, torch.eye(4).to(init))
        if dof == 4:  # starts are yaws only: turn the points to the roll and pitch of the given pose beforehand
            base = init[:, :3, :3]
    turned = problems._replace(points3d=problems.points3d @ base.mT) if dof == 4 else problems
    poses, _, costs = local_minima(turned, dof, count, iterations, proposals, generator)
    if dof == 4:
        poses = se3.from_rt(poses[..., :3, :3] @ base[:, None], poses[..., :3, 3])
    if init is not None:
        more, _ = descend(problems, init, dof, iterations)
        poses = torch.cat([more[:, None], poses], 1)
        costs = torch.cat([kernels.pose_costs(problems, more[:, None]), costs], 1)
    costs = torch.where(torch.isfinite(poses).flatten(2).all(2), costs.nan_to_num(math.inf, math.inf), math.inf)
    poses = torch.where(torch.isfinite(costs)[..., None, None], poses, torch.eye(4).to(poses))
    order = costs.argsort(dim=1, stable=True)
    costs, poses = costs.gather(1, order), poses.take_along_dim(order[..., None, None], 1)
    R, t = poses[..., :3, :3], poses[..., :3, 3]
    apart = (rotation.angle_between(R[:, :, None], R[:, None]) > math.radians(5)) | (
        (t[:, :, None] - t[:, None]).norm(dim=-1) > 0.05 * t[:, :1].norm(dim=-1, keepdim=True)
    )
    kept = costs < costs[:, :1] + MAX_COST_GAP
    for i in range(1, kept.shape[1]):
        kept[:, i] &= (apart[:, i, :i] | ~kept[:, :i]).all(1)
    least = NEEDED[dof, False]
    usable = torch.isfinite(costs[:, 0]) & (distinct_points(given.problems.points3d, given.problems.weights, least) >= least)
    if given.usable is not None:
        usable = usable & given.usable
    kept[:, 0] = True
    order = torch.where(kept, costs, math.inf).argsort(dim=1, stable=True)[:, :count]
    costs = torch.where(kept, costs, math.inf).gather(1, order)
    poses = poses.take_along_dim(order[..., None, None], 1)
    fresh = torch.isfinite(costs)
    fresh[:, 0] = True
    poses = torch.where(fresh[..., None, None], poses, poses[:, :1])
    costs[:, 0] = costs[:, 0].nan_to_num(0.0, 0.0, 0.0)
    return poses, costs, usable
