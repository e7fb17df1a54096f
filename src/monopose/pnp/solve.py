"""The pose of least weighted reprojection error: Levenberg-Marquardt over a batch of problems, with covariance."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geometry import se3
from ..types import Camera
from . import initialise
from .residuals import Z_MIN, Normal, cost, intrinsics, normal_equations, weighted_residuals

PRIOR = 1e-5  # information added to the covariance's inverse, 1/m^2 and 1/rad^2, so that it always exists


class Solution(NamedTuple):
    """What `solve` found, for every problem of the batch.

    Args:
        cam_from_obj: (..., 4, 4), metres; always finite, the best pose met, or the start, where not converged.
        covariance: of the tangent (v, omega) applied on the camera side, (..., 6, 6), metres and radians, if weights
            are one over the standard deviation in pixels; very large, never infinite, in directions that the points
            do not fix; zero for the rotations that dof=4 keeps fixed.
        cost: half the sum of squared weighted residuals, robust if huber_px is set, (...,).
        converged: (...,), bool. Look at it before the rest. False: too few points, a degenerate configuration, NaN in
            a point that has weight, points behind the camera, or iterations that ran out.
    """

    cam_from_obj: Tensor
    covariance: Tensor
    cost: Tensor
    converged: Tensor


@torch.no_grad()
def solve(
    points3d: Tensor,
    points2d: Tensor,
    camera: Camera | Tensor,
    weights: Tensor | None = None,
    init: Tensor | None = None,
    dof: int = 6,
    iterations: int = 30,
    huber_px: float | Tensor | None = None,
    proposals: int | None = None,
    generator: torch.Generator | None = None,
    z_min: float = Z_MIN,
    dtype: torch.dtype | None = None,
) -> Solution:
    """The poses that minimise 1/2 sum |weight (projection - measurement)|^2.

    Args:
        points3d: (..., N, 3), metres, object frame.
        points2d: (..., N, 2), pixels.
        camera: Camera or intrinsics (..., 3, 3), pixels, without lens distortion.
        weights: (..., N, 2) or (..., N), >= 0, 1 / pixels; None is 1. Points of weight 0 are ignored, whatever they hold.
        init: start, (..., 4, 4), metres, or None for a closed-form start.
        dof: 6, or 4: translation and yaw about the camera's Y axis, roll and pitch stay those of `init` (0 without).
        iterations: most steps; a problem stops as soon as it converged.
        huber_px: weighted residuals longer than this count linearly, (...,) or number, or None for squares throughout.
        proposals: random samples of points tried for a start; None is 64 with huber_px and 0 without. With gross outliers use
            `ransac` instead.
        generator: of those samples; None starts one from seed 0, so that results repeat.
        z_min: depths are clamped from below to this, metres.
        dtype: of the arithmetic inside; None is that of the points. Results come back in the dtype of the points.

    Returns:
        a Solution; one bad problem leaves the others untouched. No gradient flows through it.

    Raises:
        ValueError: on wrong shapes, dof or a camera with lens distortion; never for what the numbers are.

    Source: trust region after Nielsen, Damping parameter in Marquardt's method, 1999, as in EPro-PnP.
    """
    if points3d.dim() < 2 or points3d.shape[-1] != 3:
        raise ValueError(
            f"points3d must be (..., N, 3) metres, got {tuple(points3d.shape)}; transpose the last two dimensions?"
        )
    n = points3d.shape[-2]
    if points2d.dim() < 2 or points2d.shape[-2:] != (n, 2):
        raise ValueError(f"points2d must be (..., {n}, 2) pixels to match points3d, got {tuple(points2d.shape)}")
    if dof not in (4, 6):
        raise ValueError(f"dof must be 6 (rotation and translation) or 4 (yaw and translation), got {dof}")
    if init is not None and init.shape[-2:] != (4, 4):
        raise ValueError(f"init must be (..., 4, 4) metres, got {tuple(init.shape)}; geometry.se3.from_rt(R, t) builds it")
    if weights is None:
        weights = torch.ones_like(points2d[..., :1])
    elif weights.dim() >= 2 and weights.shape[-2:] == (n, 2):
        pass
    elif weights.dim() >= 1 and weights.shape[-1] == n:
        weights = weights[..., None]
    else:
        raise ValueError(f"weights must be (..., {n}, 2) or (..., {n}), got {tuple(weights.shape)}")
    outside = torch.promote_types(points3d.dtype, torch.float32)
    inside = dtype or outside
    K = intrinsics(camera, points3d.to(inside))
    huber = None if huber_px is None else torch.as_tensor(huber_px, dtype=inside, device=points3d.device)

    shapes = [points3d.shape[:-2], points2d.shape[:-2], weights.shape[:-2], K.shape[:-2]]
    shapes += [] if init is None else [init.shape[:-2]]
    shapes += [] if huber is None else [huber.shape]
    try:
        batch = torch.Size(np.broadcast_shapes(*shapes))  # torch.broadcast_shapes imports sympy: seconds
    except ValueError:
        raise ValueError(f"the batch dimensions of the arguments do not fit together: {[tuple(s) for s in shapes]}") from None

    def flat(value: Tensor, *shape: int) -> Tensor:
        return value.to(K).expand(*batch, *shape).reshape(batch.numel(), *shape)

    given = _Problems(flat(points3d, n, 3), flat(points2d, n, 2), flat(weights, n, 2), flat(K, 3, 3))
    start = torch.eye(4, dtype=K.dtype, device=K.device)
    start = flat(start if init is None else init, 4, 4)
    delta = None if huber is None else flat(huber)
    problems, start, used = _cleaned(given, start)

    if init is None:
        if proposals is None:
            proposals = 0 if huber is None else 64
        several = initialise.starts(*problems, dof, delta, proposals, 2, generator, z_min)
        pose, stopped = _best_descent(problems, several, delta, dof, iterations, z_min)
    else:
        pose, stopped = _levenberg_marquardt(problems, start, delta, dof, iterations, z_min)

    # the verdict, in float64
    wide = problems.map(Tensor.double)
    normal = normal_equations(*wide, pose.double(), None if delta is None else delta.double(), z_min)
    free = _free(dof, K.device)
    H = normal.hessian.nan_to_num(0.0, 0.0, 0.0)[:, free[:, None], free]
    scale = H.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    determined = torch.linalg.eigvalsh(H * scale[:, :, None] * scale[:, None, :])[:, 0] > 1e-9
    in_front = ((se3.transform(pose.double(), wide.points3d)[..., 2] > z_min) | ~used).all(1)
    needed = {(6, False): 3, (6, True): 4, (4, False): 2, (4, True): 3}[dof, init is None]
    converged = stopped & determined & in_front & (used.sum(1) >= needed) & torch.isfinite(normal.cost)
    values, vectors = torch.linalg.eigh(H)
    covariance = torch.zeros_like(normal.hessian)
    covariance[:, free[:, None], free] = (vectors / (values.clamp_min(0) + PRIOR)[:, None]) @ vectors.mT
    return Solution(
        pose.to(outside).reshape(*batch, 4, 4),
        covariance.to(outside).reshape(*batch, 6, 6),
        normal.cost.nan_to_num().to(outside).reshape(batch),
        converged.reshape(batch),
    )


class _Problems(NamedTuple):
    """B problems of N points."""

    points3d: Tensor
    points2d: Tensor
    weights: Tensor
    K: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "_Problems":
        return _Problems(*(function(v) for v in self))


def _cleaned(given: _Problems, start: Tensor) -> tuple[_Problems, Tensor, Tensor]:
    """What cannot be used gets weight 0 and coordinates 0, so that no NaN spreads; also says which points are used, (B, N)."""
    X, x, w, K = given
    start_finite = torch.isfinite(start).flatten(1).all(1)
    ignored = (w == 0).all(-1)
    finite = torch.isfinite(X).all(-1) & torch.isfinite(x).all(-1) & torch.isfinite(w).all(-1)
    usable = torch.isfinite(K).flatten(1).all(1) & start_finite & (finite | ignored).all(-1)
    used = usable[:, None] & ~ignored
    X, x, w = (torch.where(used[..., None], v, torch.zeros_like(v)) for v in (X, x, w))
    eye = torch.eye(4, dtype=K.dtype, device=K.device)
    K = torch.where(usable[:, None, None], K, eye[:3, :3])
    return _Problems(X, x, w, K), torch.where(start_finite[:, None, None], start, eye), used


def _best_descent(
    problems: _Problems, starts: Tensor, huber: Tensor | None, dof: int, iterations: int, z_min: float
) -> tuple[Tensor, Tensor]:
    """Descend from several starts (B, S, 4, 4) and keep the cheapest end of each problem."""
    size, count = starts.shape[:2]
    many = problems.map(lambda v: v.repeat_interleave(count, 0))
    many_huber = None if huber is None else huber.repeat_interleave(count, 0)
    poses, stopped = _levenberg_marquardt(many, starts.flatten(0, 1), many_huber, dof, iterations, z_min)
    total = cost(weighted_residuals(*many, poses, z_min), many_huber).nan_to_num(torch.inf)
    best = total.unflatten(0, (size, count)).argmin(1)
    rows = torch.arange(size, device=poses.device) * count + best
    return poses[rows], stopped[rows]


def _free(dof: int, device: torch.device) -> Tensor:
    """The entries of the tangent that may move."""
    return torch.tensor([0, 1, 2, 3, 4, 5] if dof == 6 else [0, 1, 2, 4], device=device)


def _levenberg_marquardt(
    problems: _Problems, start: Tensor, huber: Tensor | None, dof: int, iterations: int, z_min: float
) -> tuple[Tensor, Tensor]:
    """Descend from `start` (B, 4, 4); returns the poses and which of them reached a stationary point, (B,), bool.

    Problems that are done leave the batch once they are the majority.
    """
    dtype, device = start.dtype, start.device
    eps, free = torch.finfo(dtype).eps, _free(dof, device)
    pose, stopped = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=device)
    rows = torch.arange(len(start), device=device)
    radius, shrink = start.new_full((len(start),), 30.0), start.new_full((len(start),), 2.0)
    here, done = start, stopped.clone()
    now = normal_equations(*problems, here, huber, z_min)
    n = max(problems.points2d.shape[1], 1)
    grain = 4 * eps * (problems.weights * problems.points2d).flatten(1).norm(dim=-1) / (2 * n) ** 0.5  # rounding of a residual
    for _ in range(iterations):
        H, g = now.hessian[:, free[:, None], free], now.gradient[:, free]
        diagonal = H.diagonal(dim1=-2, dim2=-1)
        floor = 1e-6 * diagonal.amax(-1, keepdim=True).clamp_min(1e-20)
        factor, failed = torch.linalg.cholesky_ex(H + torch.diag_embed(diagonal.clamp_min(floor) / radius[:, None]))
        step = -torch.cholesky_solve(g[..., None], factor).squeeze(-1)
        solvable = (failed == 0) & torch.isfinite(step).all(-1) & ~done
        step = torch.where(solvable[:, None], step, torch.zeros_like(step))
        delta = step.new_zeros(len(step), 6).index_copy(1, free, step)
        trial = se3.retract(here, delta)
        then = normal_equations(*problems, trial, huber, z_min)
        promised = -(step * (g + 0.5 * (H @ step[..., None]).squeeze(-1))).sum(-1)
        gain = (now.cost - then.cost) / promised.clamp_min(torch.finfo(dtype).tiny)
        accept = solvable & (gain > 1e-3)
        # stationary: the model promises no more than rounding would hide, or the step has no digits left
        rounding = 8 * eps * now.cost + grain * (2 * now.cost).sqrt() + n * grain * grain
        length = delta[:, 3:].norm(dim=-1) + delta[:, :3].norm(dim=-1) / here[:, :3, 3].norm(dim=-1).clamp_min(1e-6)
        done = done | (solvable & (radius > 1e-2) & ((promised <= rounding) | (length <= 16 * eps)))
        radius = torch.where(accept, radius / (1 - (2 * gain - 1) ** 3).clamp_min(1 / 3), radius / shrink).clamp(1e-10, 1e10)
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
            huber = None if huber is None else huber[left]
            now = Normal(now.hessian[left], now.gradient[left], now.cost[left])
            if len(rows) == 0:
                break
    pose[rows], stopped[rows] = here, done
    return pose, stopped
