"""The pose of least weighted reprojection error: Levenberg-Marquardt over a batch of problems, with covariance."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import se3
from ..geometry.rotation import full_precision
from ..types import Camera
from . import initialise, kernels, residuals
from .problems import GROWTH, RADIUS, Z_MIN, Kernel, Prepared, Problems, Robust, constant, prepare
from .residuals import Normal

PRIOR = 1e-5  # information added to the covariance's inverse, 1/m^2 and 1/rad^2, so that it always exists

NEEDED = {(6, False): 3, (6, True): 4, (4, False): 2, (4, True): 3}  # fewest points, by dof and whether no start was given


class Solution(NamedTuple):
    """What `solve` found, for every problem of the batch.

    Args:
        cam_from_obj: (..., 4, 4), metres; always finite, the best pose met, or the start, where not converged.
        covariance: of the tangent (v, omega) applied on the camera side, (..., 6, 6), metres and radians, if weights
            are one over the standard deviation in pixels; very large, never infinite, in directions that the points
            do not fix; zero for the rotations that dof=4 keeps fixed.
        cost: half the sum of squared weighted residuals, robust if asked for, (...,).
        converged: (...,), bool. Look at it before the rest. False: too few points, a degenerate configuration, NaN in
            a point that has weight, points behind the camera, or iterations that ran out.
    """

    cam_from_obj: Tensor
    covariance: Tensor
    cost: Tensor
    converged: Tensor


@torch.no_grad()
@full_precision
def solve(
    points3d: Tensor,
    points2d: Tensor,
    camera: Camera | Tensor,
    weights: Tensor | None = None,
    init: Tensor | None = None,
    dof: int = 6,
    iterations: int = 30,
    robust: Robust | None = None,
    proposals: int | None = None,
    generator: torch.Generator | None = None,
    z_min: float = Z_MIN,
    bounds: Tensor | None = None,
    trust_region: bool = True,
) -> Solution:
    """The poses that minimise 1/2 sum rho(|weight (projection - measurement)|).

    Args:
        points3d: (..., N, 3), metres, object frame.
        points2d: (..., N, 2), pixels.
        camera: Camera or intrinsics (..., 3, 3), pixels, without lens distortion.
        weights: (..., N, 2) or (..., N), >= 0, 1 / pixels; None is 1. Points of weight 0 are ignored, whatever they hold.
        init: start, (..., 4, 4), metres, or None for a closed-form start.
        dof: 6, or 4: translation and yaw about the camera's Y axis, roll and pitch stay those of `init` (0 without).
        iterations: most steps; a problem stops as soon as it converged.
        robust: `Huber`, `AdaptiveHuber` or `Cauchy`, or None for squares throughout.
        proposals: random samples of points tried for a start; None is 64 with `robust` and 0 without. With gross outliers use
            `ransac` instead.
        generator: of those samples; None starts one from seed 0, so that results repeat.
        z_min: depths are clamped from below to this, metres.
        bounds: projections are clamped to these pixels, (..., 4): u_min, v_min, u_max, v_max; None does not clamp.
        trust_region: False takes plain Gauss-Newton steps, each of them accepted: a little faster from a good start.

    Returns:
        a Solution in the dtype of points3d, at least float32 (the CPU computes in float64 inside). One bad problem leaves the
        others untouched. No gradient flows through it: see `solve_implicit`.

    Raises:
        ValueError: on wrong shapes, dof or a camera with lens distortion; never for what the numbers are.

    Source: trust region after Nielsen, Damping parameter in Marquardt's method, 1999, as in EPro-PnP; it may grow faster.
    """
    given = prepare(points3d, points2d, camera, weights, robust, bounds, z_min, init)
    return solve_prepared(given, init, dof, iterations, proposals, generator, trust_region)


@full_precision
def solve_prepared(
    given: Prepared,
    init: Tensor | None = None,
    dof: int = 6,
    iterations: int = 30,
    proposals: int | None = None,
    generator: torch.Generator | None = None,
    trust_region: bool = True,
) -> Solution:
    """`solve` of what `prepare` returned."""
    if dof not in (4, 6):
        raise ValueError(f"dof must be 6 (rotation and translation) or 4 (yaw and translation), got {dof}")
    starts = find_starts(given.problems, dof, 2, proposals, generator) if init is None else given.flat(init, 4, 4)[:, None]
    return descend_and_judge(given, starts, dof, iterations, trust_region, init is None)


def descend_and_judge(
    given: Prepared, starts: Tensor, dof: int, iterations: int, trust_region: bool, started_alone: bool
) -> Solution:
    """The Solution of the cheapest descent from starts (B, M, 4, 4); those that are not finite end at the identity."""
    needed = NEEDED[dof, started_alone]
    fused = kernels.backend(starts.device)
    if fused is not None and hasattr(fused, "solve"):
        found = fused.solve(given.problems, starts, dof, iterations, trust_region, needed, PRIOR)
    else:
        finite = torch.isfinite(starts).flatten(2).all(2)
        eye = torch.eye(4, dtype=starts.dtype, device=starts.device)
        starts = torch.where(finite[..., None, None], starts, eye)
        poses, stopped, costs = descend_all(given.problems, starts, dof, iterations, trust_region)
        poses = torch.where(finite[..., None, None], poses, starts)
        stopped, costs = stopped & finite, costs.nan_to_num(torch.inf)
        best = torch.where(stopped, costs, costs * (1 + 1e-6)).argmin(1, keepdim=True)
        pose, done = poses.take_along_dim(best[..., None, None], 1)[:, 0], stopped.gather(1, best)[:, 0]
        covariance, cost, sound = judge(given, pose, dof, needed)
        found = pose, covariance, cost, done & sound
    pose, covariance, cost, converged = found
    return Solution(given.shaped(pose), given.shaped(covariance), given.shaped(cost), given.shaped(converged))


def judge(given: Prepared, pose: Tensor, dof: int, needed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance (B, 6, 6) and cost (B,) at poses (B, 4, 4), and which to believe if a descent stopped there. In float64."""
    problems, used = given.problems.map(Tensor.double), given.used
    normal = kernels.normal_equations(problems, pose.double())
    free = free_entries(dof, pose.device)
    H = normal.hessian.nan_to_num(0.0, 0.0, 0.0)[:, free[:, None], free]
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    # scaled to a diagonal of ones, no eigenvalue below 1e-9
    determined = torch.linalg.cholesky_ex(H - torch.diag_embed(1e-9 * diagonal)).info == 0
    in_front = ((se3.transform(pose.double(), problems.points3d)[..., 2] > problems.z_min) | ~used).all(1)
    sound = determined & in_front & (used.sum(1) >= needed) & torch.isfinite(normal.cost)
    # where a direction is not determined, rounding may swallow the prior
    prior = torch.where(determined, PRIOR, (1e-13 * diagonal.sum(-1)).clamp_min(PRIOR))
    factor = torch.linalg.cholesky_ex(H + torch.diag_embed(prior[:, None].expand_as(diagonal))).L
    covariance = torch.zeros_like(normal.hessian)
    covariance[:, free[:, None], free] = torch.cholesky_inverse(factor)
    return covariance, normal.cost.nan_to_num(0.0, 0.0, 0.0), sound


def find_starts(
    problems: Problems, dof: int, count: int, proposals: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """`initialise.starts_reference`, fused where possible: the `count` most promising starts, (B, count, 4, 4)."""
    if proposals is None:
        proposals = 0 if problems.kernel == Kernel.SQUARES else 64
    fused = kernels.backend(problems.K.device)
    if fused is not None and hasattr(fused, "starts"):
        return fused.starts(problems, dof, proposals, count, generator).to(problems.K.dtype)  # type: ignore[no-any-return]
    return initialise.starts_reference(problems, dof, proposals, count, generator)


@full_precision
def minima(
    problems: Problems,
    dof: int = 6,
    count: int = 2,
    iterations: int = 30,
    proposals: int | None = None,
    generator: torch.Generator | None = None,
    trust_region: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Descend from the `count` most promising starts of every problem.

    Args:
        problems: flat, (B, ...).
        dof, iterations, proposals, generator, trust_region: as in `solve`.

    Returns:
        poses (B, count, 4, 4), whether each reached a stationary point (B, count), and costs (B, count), inf for no cost.
        Several may be the same minimum.
    """
    starts = find_starts(problems, dof, count, proposals, generator)
    poses, stopped, costs = descend_all(problems, starts, dof, iterations, trust_region)
    return poses.to(starts.dtype), stopped, costs.nan_to_num(torch.inf).to(starts.dtype)


def descend_all(
    problems: Problems, starts: Tensor, dof: int, iterations: int, trust_region: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Descend from every start (B, M, 4, 4): poses, which reached a stationary point, and costs; (B, M, ...)."""
    fused = kernels.backend(starts.device)
    if fused is not None:
        return fused.descend_all(problems, starts, dof, iterations, trust_region)  # type: ignore[no-any-return]
    many = problems.map(lambda v: v.repeat_interleave(starts.shape[1], 0))
    poses, stopped = descend_reference(many, starts.flatten(0, 1), dof, iterations, trust_region)
    poses, stopped = poses.reshape(starts.shape), stopped.reshape(starts.shape[:2])
    return poses, stopped, kernels.pose_costs(problems, poses)


def free_entries(dof: int, device: torch.device) -> Tensor:
    """The entries of the tangent that may move."""
    return constant((0, 1, 2, 3, 4, 5) if dof == 6 else (0, 1, 2, 4), torch.long, device)


def descend(problems: Problems, start: Tensor, dof: int, iterations: int, trust_region: bool = True) -> tuple[Tensor, Tensor]:
    """`descend_reference`, fused where possible."""
    poses, stopped, _ = descend_all(problems, start[:, None], dof, iterations, trust_region)
    return poses[:, 0].to(start.dtype), stopped[:, 0]


def descend_reference(
    problems: Problems, start: Tensor, dof: int, iterations: int, trust_region: bool = True
) -> tuple[Tensor, Tensor]:
    """Descend from `start` (B, 4, 4) in plain torch: the poses (B, 4, 4), and which reached a stationary point, (B,), bool.

    Problems that are done leave the batch once they are the majority.
    """
    dtype, device = start.dtype, start.device
    eps, free = torch.finfo(dtype).eps, free_entries(dof, device)
    pose, stopped = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=device)
    rows = torch.arange(len(start), device=device)
    radius, shrink = start.new_full((len(start),), RADIUS), start.new_full((len(start),), 2.0)
    here, done = start, stopped.clone()
    now = residuals.normal_equations(problems, here, trust_region)
    n = max(problems.points2d.shape[1], 1)
    grain = 4 * eps * (problems.weights * problems.points2d).flatten(1).norm(dim=-1) / (2 * n) ** 0.5  # rounding of a residual
    for _ in range(iterations):
        H, g = now.hessian[:, free[:, None], free], now.gradient[:, free]
        diagonal = H.diagonal(dim1=-2, dim2=-1)
        floor = 1e-6 * diagonal.amax(-1, keepdim=True).clamp_min(1e-20)
        damping = diagonal.clamp_min(floor) / radius[:, None] if trust_region else 1e-6 * diagonal.clamp_min(floor)
        factor, failed = torch.linalg.cholesky_ex(H + torch.diag_embed(damping))
        step = -torch.cholesky_solve(g[..., None], factor).squeeze(-1)
        solvable = (failed == 0) & torch.isfinite(step).all(-1) & ~done
        step = torch.where(solvable[:, None], step, torch.zeros_like(step))
        delta = step.new_zeros(len(step), 6).index_copy(1, free, step)
        trial = se3.retract(here, delta)
        then = residuals.normal_equations(problems, trial, trust_region)
        promised = -(step * (g + 0.5 * (H @ step[..., None]).squeeze(-1))).sum(-1)
        gain = (now.cost - then.cost) / promised.clamp_min(torch.finfo(dtype).tiny)
        accept = solvable & (gain > 1e-3) if trust_region else solvable & torch.isfinite(then.cost)
        # stationary: the model promises no more than rounding would hide, or the step has no digits left
        rounding = 8 * eps * now.cost + grain * (2 * now.cost).sqrt() + n * grain * grain
        length = delta[:, 3:].norm(dim=-1) + delta[:, :3].norm(dim=-1) / here[:, :3, 3].norm(dim=-1).clamp_min(1e-6)
        done = done | (solvable & (radius > 1e-2) & ((promised <= rounding) | (length <= 16 * eps)))
        radius = torch.where(accept, radius / (1 - (2 * gain - 1) ** 3).clamp_min(1 / GROWTH), radius / shrink).clamp(
            1e-10, 1e10
        )
        shrink = torch.where(accept, torch.full_like(shrink, 2.0), (2 * shrink).clamp_max(1e6))
        here = torch.where(accept[:, None, None], trial, here)
        now = Normal(
            torch.where(accept[:, None, None], then.hessian, now.hessian),
            torch.where(accept[:, None], then.gradient, now.gradient),
            torch.where(accept, then.cost, now.cost),
        )
        left = ~done
        if 2 * int(left.sum()) <= len(left):
            pose[rows], stopped[rows] = here, done
            problems = problems.map(lambda v, left=left: v[left])  # type: ignore[misc]
            here, rows, grain, radius, shrink, done = (v[left] for v in (here, rows, grain, radius, shrink, done))
            now = Normal(now.hessian[left], now.gradient[left], now.cost[left])
            if len(rows) == 0:
                break
    pose[rows], stopped[rows] = here, done
    return pose, stopped
