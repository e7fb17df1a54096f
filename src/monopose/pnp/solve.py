"""The pose of least weighted reprojection error: Levenberg-Marquardt over a batch of problems, with covariance."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geometry import rotation, se3
from ..geometry.rotation import full_precision
from ..types import Camera
from . import checks, initialise, kernels, residuals, upright
from .checks import Reason
from .opaque import opaque
from .prepare import Prepared, constant, prepare
from .problems import (
    FLAT,
    INITIAL_RADIUS,
    PATIENCE,
    RADIUS_GROWTH,
    TOLERANCE,
    UNCERTAIN,
    UNDETERMINED,
    Kernel,
    Problems,
    Robust,
)
from .residuals import Normal

PRIOR = 1e-5  # information that the proposals of `amis` are given in every direction
HEAVY = 10.0  # times the median weight: where a point is heavier, poses for weights cut off at
EVENED = (1.0, 30.0, 1e3)  # times the median are starts, too
STARTS, MORE = 2, 4  # starts that every problem descends from where none is given; with few points
FEW = 8  # points
APART = 0.05  # radians, or parts of the distance, by which minima differ at least
NEEDED = {(6, False): 3, (6, True): 4, (4, False): 2, (4, True): 3}  # fewest points, by dof and whether no start was given


class Solution(NamedTuple):
    """What `solve` found, for every problem of the batch.

    Args:
        cam_from_obj: (..., 4, 4), metres; always finite, the best pose met, or the start, where not converged.
        covariance: of the tangent (v, omega) applied on the camera side, (..., 6, 6), metres and radians, if weights
            are one over the standard deviation in pixels; very large, never infinite, in directions that the points
            do not fix; zero for the rotations that dof=4 keeps fixed.
        cost: half the sum of squared weighted residuals, robust if asked for, (...,).
        converged: (...,), bool: the pose is a minimum of the cost, to within a thousandth of the standard deviation that the
            residuals show, and the points fix it. Look at it before the rest.
        reason: (...,), uint8, of `Reason`: why not, CONVERGED if so.
    """

    cam_from_obj: Tensor
    covariance: Tensor
    cost: Tensor
    converged: Tensor
    reason: Tensor


class Modes(NamedTuple):
    """What `solve` found with modes=M: a `Solution` for each of M poses, cheapest first, (..., M, ...), and their odds.

    Args:
        cam_from_obj, covariance, cost, converged, reason: as in `Solution`.
        odds: the share of each pose in the probability, (..., M), by Laplace's method: they sum to one; 0 for what did not
            converge, and where nothing did.
    """

    cam_from_obj: Tensor
    covariance: Tensor
    cost: Tensor
    converged: Tensor
    reason: Tensor
    odds: Tensor


@opaque
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
    z_min: float | None = None,
    bounds: Tensor | None = None,
    trust_region: bool = True,
    modes: int = 1,
    gravity: Tensor | None = None,
) -> Solution | Modes:
    """The poses that minimise 1/2 sum rho(e), e the length of weight (projection - measurement).

    Args:
        points3d: (..., N, 3), metres, object frame.
        points2d: (..., N, 2), pixels.
        camera: Camera or intrinsics (..., 3, 3), pixels, without lens distortion. Any invertible K, up to scale: skew, photos
            turned by 90 degrees, K times a rotation.
        weights: (..., N, 2) or (..., N), >= 0, 1 / pixels; None is 1. Points of weight 0 are ignored, whatever they hold.
        init: start, (..., 4, 4), metres, or None for a closed-form start. It is made exactly rigid; what is no rigid motion, by
            more than half precision is off, does not converge.
        dof: 6, or 4: translation and yaw about `gravity`, roll and pitch stay those of `init` (0 without).
        iterations: most steps; a problem stops as soon as it converged.
        robust: `Huber`, `AdaptiveHuber` or `Cauchy`, or None for squares throughout.
        proposals: random samples of points tried for a start; None is 64 with `robust` and 0 without. With gross outliers use
            `ransac` instead.
        generator: of those samples; None starts one from seed 0, so that results repeat.
        z_min: depths are clamped from below to this, metres; None takes a ten-thousandth of the size of the object.
        bounds: projections are clamped to these pixels, (..., 4): u_min, v_min, u_max, v_max; None does not clamp.
        trust_region: False takes plain Gauss-Newton steps, each of them accepted: a little faster from a good start.
        modes: how many different minima to return: 2 for both poses of a plane. Where there are fewer, the rest repeat the
            first with a cost of infinity, converged False and reason NO_OTHER_MODE.
        gravity: downwards, (..., 3), camera frame, any length: with dof=4 the axis of yaw; None is the camera's Y axis.

    Returns:
        a Solution, or Modes with modes > 1, in the dtype of points3d, at least float32 (the CPU computes in float64 inside).
        One bad problem leaves the others untouched. No gradient flows through it: see `solve_implicit`.

    Raises:
        ValueError: on wrong shapes, options out of range or a camera with lens distortion; never for what the numbers are.

    Source: trust region after Nielsen, Damping parameter in Marquardt's method, 1999, as in EPro-PnP; it may grow faster.
    """
    modes = checks.whole("modes", modes, 1)
    if gravity is not None:
        K, start, R = upright.turned(points3d, camera, init, dof, gravity)
        found = solve(
            points3d, points2d, K, weights, start, dof, iterations, robust, proposals, generator, z_min, bounds, trust_region,
            modes,
        )  # fmt: skip
        R = R[..., None, :, :] if modes > 1 else R
        pose, covariance = upright.back(found.cam_from_obj, R), upright.covariance_back(found.covariance, R)
        return found._replace(cam_from_obj=pose, covariance=covariance)
    given = prepare(points3d, points2d, camera, weights, robust, bounds, z_min, init)
    found, own = solve_prepared(given, init, dof, iterations, proposals, generator, trust_region)
    return found if modes == 1 else _several(given, found, own, modes, dof, iterations, trust_region)


def _several(given: Prepared, found: Solution, own: Tensor, modes: int, dof: int, iterations: int, trust_region: bool) -> Modes:
    """`modes` minima of each problem, from `found` and its poses in the own frames, (B, 4, 4)."""
    size, problems = len(own), given.own()
    own = own.double()
    if dof == 6:
        other, flat = flipped(problems, own)
        more = _own_starts(given, dof, MORE, None, None).double()
        starts = torch.cat([torch.where(flat[:, None, None], other, own)[:, None], more], 1)
    else:
        turn = torch.zeros(3, 3).to(own)
        turn[:, 1] = torch.arange(1, 4) * (math.pi / 2)
        R = rotation.so3_exp(turn) @ own[:, None, :3, :3]
        starts = se3.from_rt(R, own[:, None, :3, 3].expand(-1, 3, 3))
    count = starts.shape[1]
    outside = checks.Frame(*(v.double() for v in given.frame)).outward(starts)

    def each(value: Tensor) -> Tensor:
        return value.repeat_interleave(count, 0)

    many = given._replace(
        problems=given.problems.map(each), used=each(given.used), batch=torch.Size([size * count]),
        frame=checks.Frame(*map(each, given.frame)), usable=None if given.usable is None else each(given.usable),
    )  # fmt: skip
    ends, own_ends = solve_from(many, outside.reshape(size * count, 1, 4, 4), dof, iterations, trust_region, False)
    first = Solution(*(v.reshape(size, *v.shape[len(given.batch) :]) for v in found))
    every = [torch.cat([a[:, None], b.unflatten(0, (size, count))], 1) for a, b in zip(first, ends)]
    enough = first.reason != int(Reason.TOO_FEW_POINTS)  # a start is worth a point, but these are of the points
    every[3] = every[3].bool() & enough[:, None]
    poses, converged = torch.cat([own[:, None], own_ends.double().unflatten(0, (size, count))], 1), every[3]
    normal = [kernels.normal_equations(problems, poses[:, m]).hessian.double() for m in range(count + 1)]
    free = free_entries(dof, own.device)
    H = torch.stack(normal, 1)[..., free[:, None], free]
    log_odds = -every[2].double() - 0.5 * torch.linalg.slogdet(H).logabsdet.nan_to_num(math.inf)

    left = torch.where(converged, every[2], math.inf)
    chosen = []
    for m in range(modes):
        best = left.argmin(1)
        if m == 0:
            best = torch.where(found.converged.reshape(-1) | converged.any(1), best, 0)
        at = best[:, None, None, None]
        chosen.append(torch.where(torch.isfinite(left.gather(1, best[:, None])[:, 0]), best, -1))
        pose = poses.take_along_dim(at, 1)
        apart = (poses[..., :3, 3] - pose[..., :3, 3]).norm(dim=-1) > APART * pose[..., :3, 3].norm(dim=-1)
        apart = apart | (rotation.angle_between(poses[..., :3, :3], pose[..., :3, :3]) > APART)
        left = torch.where(apart, left, math.inf)
    index = torch.stack(chosen, 1)
    there = index >= 0
    index = torch.where(there, index, torch.where(there[:, :1], index[:, :1], 0))
    taken = [v.take_along_dim(index.reshape(*index.shape, *[1] * (v.dim() - 2)), 1) for v in every]
    absent = ~there
    absent[:, 0] = False  # it is what was found, at least
    taken[2] = torch.where(absent, math.inf, taken[2])
    taken[3], taken[4] = taken[3].bool() & ~absent, torch.where(absent, int(Reason.NO_OTHER_MODE), taken[4]).to(torch.uint8)
    odds = torch.where(taken[3], log_odds.gather(1, index), -math.inf).softmax(-1).nan_to_num(0.0).to(given.dtype)
    return Modes(*map(given.shaped, (*taken, odds)))


def solve_prepared(
    given: Prepared,
    init: Tensor | None = None,
    dof: int = 6,
    iterations: int = 30,
    proposals: int | None = None,
    generator: torch.Generator | None = None,
    trust_region: bool = True,
) -> tuple[Solution, Tensor]:
    """`solve` of what `prepare` returned; and the poses in their own frames, (B, 4, 4), float64 on the CPU."""
    dof, iterations = checks.degrees_of_freedom(dof), checks.whole("iterations", iterations)
    trust_region = checks.flag("trust_region", trust_region)
    proposals = None if proposals is None else checks.whole("proposals", proposals)
    generator = checks.generator(generator)
    if init is not None:
        starts = given.flat(torch.as_tensor(init), 4, 4)[:, None]
        return solve_from(given, starts, dof, iterations, trust_region, False)
    count = MORE if given.problems.points3d.shape[1] <= FEW else STARTS
    starts = _own_starts(given, dof, count, proposals, generator)
    for limit in EVENED if _uneven(given.problems.weights) else ():
        rows, evened = _evened(given, limit)
        if evened is not None:
            more = starts.new_full((len(starts), MORE, 4, 4), math.nan)  # no start
            some, _, _ = descend_all(evened.own(), _own_starts(evened, dof, MORE, proposals, generator), dof, iterations)
            more[rows] = some.to(more)
            starts = torch.cat([more, starts], 1)
    return solve_from(given, starts, dof, iterations, trust_region, True)


def _own_starts(given: Prepared, dof: int, count: int, proposals: int | None, generator: torch.Generator | None) -> Tensor:
    """The `count` most promising starts in the own frames, (B, count, 4, 4)."""
    fused = kernels.backend(given.problems.K.device)
    if fused is not None and hasattr(fused, "starts"):
        tried = _proposals(given.problems, proposals)
        return fused.starts(given.problems, dof, tried, count, generator, given.frame)  # type: ignore[no-any-return]
    return initial_poses(given.own(), dof, count, proposals, generator)


def _uneven(weights: Tensor) -> bool:
    """Whether any problem may have a weight far above its median. On a device the question would have to be waited for: no."""
    if weights.device.type != "cpu" or weights.numel() == 0:
        return False
    size = np.abs(weights.detach().numpy())  # of a few numbers NumPy makes less ado than torch
    return bool(size.max() > HEAVY * size.min())


def _evened(given: Prepared, limit: float) -> tuple[Tensor, Prepared | None]:
    """The problems with a weight above `HEAVY` and `limit` times their median, their weights cut off at `limit` times it.

    Points that weigh a million times the others are all that a closed form sees, their pixels walls along which a descent takes
    tiny steps; and if they are few several poses fit them, of which the others choose one. From a minimum for weights that are
    less uneven the last part of the way is short.

    Returns:
        which problems, (R,), and those; None where there are none.
    """
    w = given.problems.weights.detach()
    size = w.abs().flatten(1)
    middle = torch.where(size > 0, size, math.nan).nanmedian(1).values.nan_to_num(math.inf)
    rows = (size.amax(1) > max(limit, HEAVY) * middle).nonzero()[:, 0]
    if len(rows) == 0:
        return rows, None
    problems = given.problems.map(lambda v: v[rows])
    most = limit * middle[rows, None, None]
    problems = problems._replace(weights=w[rows].clamp(-most, most))
    frame = checks.Frame(*(v[rows] for v in given.frame))
    return rows, given._replace(problems=problems, used=given.used[rows], batch=torch.Size([len(rows)]), frame=frame)


def solve_from(
    given: Prepared, starts: Tensor, dof: int, iterations: int, trust_region: bool, alone: bool
) -> tuple[Solution, Tensor]:
    """The Solution of the cheapest minimum reached from starts (B, M, 4, 4), and its poses in the own frames.

    The starts are of the own frames if `alone`, else the caller's. What is no pose ends at the identity.
    """
    needed = NEEDED[dof, alone]
    fused = kernels.backend(starts.device)
    if fused is not None and hasattr(fused, "solve"):
        found = fused.solve(given.problems, given.frame, starts, alone, dof, iterations, bool(trust_region), needed)
        pose, own, covariance, cost, reason = found
    else:
        pose, own, covariance, cost, reason = _descend_and_judge(given, starts, dof, iterations, trust_region, alone, needed)
    if given.usable is not None:
        reason = torch.where(given.usable, reason, int(Reason.NOT_FINITE))
    return Solution(*map(given.shaped, (pose, covariance, cost, reason == 0, reason))), own


def _descend_and_judge(
    given: Prepared, starts: Tensor, dof: int, iterations: int, trust_region: bool, alone: bool, needed: int
) -> tuple[Tensor, ...]:
    """`numba_solve.solve_batch` in plain torch, for the devices that have no such kernel."""
    problems = given.own()
    eye = given.frame.inward(torch.eye(4, dtype=starts.dtype, device=starts.device).expand_as(starts))
    if alone:
        sound = torch.isfinite(starts).flatten(2).all(2)
    else:
        starts, sound = checks.rigid(starts)
        starts = given.frame.inward(starts)
    starts = torch.where(sound[..., None, None], starts, eye)
    steps = min(iterations, PATIENCE) if trust_region else iterations

    def descended(starts: Tensor, sound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        poses, _, _ = descend_all(problems, starts, dof, steps, trust_region)
        poses, shape = torch.where(sound[..., None, None], poses, starts).double(), starts.shape[:2]
        many = problems.map(lambda v: v.double().repeat_interleave(shape[1], 0))
        digits = torch.finfo(problems.points3d.dtype).eps
        ends, minimum, costs = finish_reference(many, poses.flatten(0, 1), dof, iterations - steps, digits)
        costs = torch.where(sound, costs.reshape(shape).nan_to_num(torch.inf), torch.inf)
        ends = torch.where(sound[..., None, None], ends.reshape(poses.shape), poses)
        return ends, minimum.reshape(shape) & sound, costs

    poses, minimum, costs = descended(starts, sound)
    if alone and dof == 6:
        best = poses.take_along_dim(costs.argmin(1)[:, None, None, None], 1)[:, 0]
        other, flat = flipped(problems, best)
        sound = torch.cat([sound, flat[:, None]], 1)
        found = descended(other[:, None].to(starts), flat[:, None])
        poses, minimum, costs = (torch.cat(pair, 1) for pair in zip((poses, minimum, costs), found))
    # one that is on its way wins only if it is truly below
    best = torch.where(minimum, costs * (1 - 1e-3), costs).argmin(1, keepdim=True)
    pose = poses.take_along_dim(best[..., None, None], 1)[:, 0]
    covariance, cost, reason = judge(problems, given.used, pose, minimum.gather(1, best)[:, 0], dof, needed, alone)
    reason = torch.where(sound.any(1), reason, int(Reason.NOT_FINITE))
    frame = checks.Frame(*(v.double() for v in given.frame))
    dtype = given.problems.K.dtype
    most = torch.finfo(dtype).max / 4
    outside = frame.outward(pose).nan_to_num(0.0, 0.0, 0.0)
    covariance = frame.covariance(covariance, pose).nan_to_num(0.0).clamp(-most, most)
    return outside.to(dtype), pose, covariance.to(dtype), cost.to(dtype), reason


def flipped(problems: Problems, pose: Tensor) -> tuple[Tensor, Tensor]:
    """The other pose that explains flat points nearly as well: mirrored along the line of sight, and across their plane.

    Args:
        problems: flat, (B, ...), in their own frames.
        pose: (B, 4, 4).

    Returns:
        (B, 4, 4), and whether the points are about flat, (B,), bool.
    """
    problems, pose = problems.map(Tensor.double), pose.double()
    used = (problems.weights != 0).any(-1, keepdim=True).double()
    count = used.sum(1).clamp_min(1)
    X = used * (problems.points3d - ((used * problems.points3d).sum(1) / count)[:, None])
    values, vectors = torch.linalg.eigh(X.mT @ X)
    normal, sight = vectors[..., 0], pose[:, :3, 3]
    sight = torch.nn.functional.normalize(sight, dim=-1)
    eye = torch.eye(3).to(pose)
    mirror, across = (eye - 2 * v[:, :, None] * v[:, None, :] for v in (sight, normal))
    flat = (values[:, 0] <= FLAT * values[:, 2]) & torch.isfinite(pose).flatten(1).all(1)
    return se3.from_rt(mirror @ pose[:, :3, :3] @ across, pose[:, :3, 3]), flat


def along_ray(A: Tensor, pose: Tensor) -> Tensor:
    """Q, (B, 6, 6), like A: tangents whose third translation is along the object's centre -> those of `se3.retract`."""
    ray = torch.nn.functional.normalize(pose[:, :3, 3].to(A), dim=-1)
    axis = torch.eye(3).to(A)[torch.where(ray[:, 1].abs() < 0.9, 1, 0)]
    first = torch.nn.functional.normalize(torch.linalg.cross(axis, ray, dim=-1), dim=-1)
    Q = torch.eye(6).to(A).repeat(len(A), 1, 1)
    Q[:, :3, :3] = torch.stack([first, torch.linalg.cross(ray, first, dim=-1), ray], -1)
    return Q


def distinct_points(points3d: Tensor, weights: Tensor, most: int, blur: Tensor | None = None) -> Tensor:
    """How many different points (B, N, 3) have weight (B, N, 2), counted up to `most`, far ones first: (B,).

    Different is what is further away than `DISTINCT` of the largest distance; where blur (B,) is positive, what is further
    away, times its weight, than that.
    """
    if points3d.shape[1] == 0:
        return torch.zeros(len(points3d), dtype=torch.long, device=points3d.device)
    weight = weights.abs().sum(-1)
    counted = weight > checks.COUNTED * weight.amax(1, keepdim=True)
    away = torch.where(counted, torch.inf, 0.0).to(points3d)
    last, least = weight.argmax(1, keepdim=True), torch.zeros_like(away[:, :1])
    blurred = torch.zeros_like(least, dtype=torch.bool) if blur is None else (blur > 0)[:, None]
    size = torch.where(blurred, 0.5 * weight, torch.ones_like(weight))
    found = counted.any(1).long()
    growing = found[:, None] > 0
    for k in range(1, most):
        away = torch.minimum(away, size * (points3d - points3d.take_along_dim(last[..., None], 1)).abs().amax(-1))
        far, last = away.max(1, keepdim=True)
        least = checks.DISTINCT * far if k == 1 else least
        least = least if blur is None else torch.where(blurred, blur[:, None], least)
        growing = growing & (far > least)
        found = found + growing[:, 0]
    return found


def judge(
    problems: Problems, used: Tensor, pose: Tensor, minimum: Tensor, dof: int, needed: int, alone: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance (B, 6, 6), cost (B,) and Reason (B,), uint8, of problems in their own frames at poses (B, 4, 4)."""
    problems, pose = problems.map(Tensor.double), pose.double()
    normal = kernels.normal_equations(problems, pose)
    free = free_entries(dof, pose.device)
    if problems.kernel != Kernel.SQUARES:  # weights times rho' instead of the curvature of rho
        square = residuals.weighted_residuals(problems, pose).square().sum(-1)
        trust = residuals.robust_weight(square, problems.delta[..., None], problems.kernel).sqrt()
        weighted = problems._replace(weights=problems.weights * trust[..., None], kernel=Kernel.SQUARES)
        normal = normal._replace(hessian=kernels.normal_equations(weighted, pose).hessian)
    Q = along_ray(normal.hessian, pose)  # a point of huge weight would hide the depth
    H = (Q.mT @ normal.hessian.nan_to_num(0.0, 0.0, 0.0) @ Q)[:, free[:, None], free]
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    top = diagonal.amax(-1)
    determined = torch.linalg.cholesky_ex(H - torch.diag_embed(UNDETERMINED * diagonal)).info == 0
    extra = torch.where(determined, 0.0, torch.where(top > 0, 1e-10 * top, 1e-10))
    factor = torch.linalg.cholesky_ex(H + torch.diag_embed(extra[:, None].expand_as(diagonal))).L
    covariance = torch.zeros_like(normal.hessian)
    covariance[:, free[:, None], free] = torch.cholesky_inverse(factor)
    covariance = Q @ covariance @ Q.mT
    spread = covariance.diagonal(dim1=-2, dim2=-1)
    count = used.sum(1)
    noise = 2 * normal.cost / (2 * count - len(free)).clamp_min(1)
    away = pose[:, :3, 3].square().sum(-1)
    certain = (noise * spread[:, 3:].amax(-1) < UNCERTAIN) & (noise * spread[:, :3].sum(-1) < UNCERTAIN * away)
    depth = (se3.transform(pose, problems.points3d) * problems.K[:, None, 2]).sum(-1)
    in_front = ((depth > problems.z_min) | ~used).all(1)
    enough = distinct_points(problems.points3d, problems.weights, needed) >= needed
    focal = torch.linalg.det(problems.K).abs() / checks.scale_of(problems.K).abs() ** 3  # squared
    blur = checks.BLUR * (noise * away / (count.clamp_min(1) * focal)).sqrt().nan_to_num(0.0)
    reason = torch.where(minimum, int(Reason.CONVERGED), int(Reason.ITERATIONS))
    if alone:
        separate = distinct_points(problems.points3d, problems.weights, needed, blur) >= needed
        reason = torch.where(minimum & ~separate, int(Reason.TOO_FEW_POINTS), reason)
    for good, why in (
        (determined & certain, Reason.DEGENERATE),
        (determined | enough, Reason.TOO_FEW_POINTS),
        (in_front, Reason.BEHIND_THE_CAMERA),
        (enough if alone else count >= needed, Reason.TOO_FEW_POINTS),
        (torch.isfinite(normal.cost), Reason.NOT_FINITE),
    ):
        reason = torch.where(good, reason, int(why))
    return covariance, normal.cost.nan_to_num(0.0, 0.0, 0.0), reason.to(torch.uint8)


def _proposals(problems: Problems, proposals: int | None) -> int:
    return (0 if problems.kernel == Kernel.SQUARES else 64) if proposals is None else proposals


def initial_poses(
    problems: Problems, dof: int, count: int, proposals: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """`initialise.starts_reference`, fused where possible: the `count` most promising starts, (B, count, 4, 4)."""
    proposals = _proposals(problems, proposals)
    fused = kernels.backend(problems.K.device)
    if fused is not None and hasattr(fused, "starts"):
        return fused.starts(problems, dof, proposals, count, generator).to(problems.K.dtype)  # type: ignore[no-any-return]
    return initialise.starts_reference(problems, dof, proposals, count, generator)


@full_precision
def local_minima(
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
    starts = initial_poses(problems, dof, count, proposals, generator)
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
    radius, shrink = start.new_full((len(start),), INITIAL_RADIUS), start.new_full((len(start),), 2.0)
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
        radius = torch.where(accept, radius / (1 - (2 * gain - 1) ** 3).clamp_min(1 / RADIUS_GROWTH), radius / shrink).clamp(
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


def finish_reference(
    problems: Problems, start: Tensor, dof: int, iterations: int, digits: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's method with the full Hessian, from where Gauss-Newton stalled or stopped, in plain torch.

    Args:
        problems: flat, (B, ...), in their own frames, float64.
        start: (B, 4, 4).
        dof: 6 or 4.
        iterations: most steps.
        digits: relative rounding of the numbers as they came.

    Returns:
        poses (B, 4, 4); whether each is a minimum, (B,), bool: the Hessian is positive definite there, and a step would gain
        less than `TOLERANCE` of the variance of a residual; costs (B,).
    """
    from .curvature import hessian  # which imports this module

    free = free_entries(dof, start.device)
    used = ((problems.weights != 0).any(-1)).sum(1).clamp_min(1)
    n = max(problems.points2d.shape[1], 1)
    grain = 4 * min(digits, 1e-11) * (problems.weights * problems.points2d).flatten(1).norm(dim=-1) / (2 * n) ** 0.5
    pose, radius, shrink = start.clone(), torch.full_like(used, 1e6, dtype=start.dtype), torch.full_like(used, 2.0).to(start)
    done = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    minimum = done.clone()
    cost = torch.full_like(radius, torch.inf)

    def model(pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normal = kernels.normal_equations(problems, pose)
        return hessian(problems, pose)[:, free[:, None], free].nan_to_num(0.0, 0.0, 0.0), normal.gradient[:, free], normal.cost

    def step_of(H: Tensor, g: Tensor, damping: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        diagonal = H.diagonal(dim1=-2, dim2=-1).abs()
        diagonal = torch.maximum(diagonal, 1e-6 * diagonal.amax(-1, keepdim=True).clamp_min(1e-20))
        factor, failed = torch.linalg.cholesky_ex(H + torch.diag_embed(damping[:, None] * diagonal))
        step = -torch.cholesky_solve(g[..., None], factor).squeeze(-1)
        good = (failed == 0) & torch.isfinite(step).all(-1)
        step = torch.where(good[:, None], step, torch.zeros_like(step))
        return step, -(step * (g + 0.5 * (H @ step[..., None]).squeeze(-1))).sum(-1), good

    H, g, cost = model(pose)
    for k in range(iterations + 1):
        step, promised, definite = step_of(H, g, torch.full_like(radius, 1e-14))
        rounding = 8 * min(digits, 1e-11) * cost + grain * (2 * cost).sqrt() + n * grain * grain
        enough = definite & (promised <= TOLERANCE * cost / used + rounding)
        arrived = enough & (promised <= rounding)
        minimum = torch.where(done, minimum, arrived if k < iterations else enough)
        done = done | arrived
        if k == iterations or bool(done.all()):
            break
        straight = definite & (radius >= 1e6)
        damped, less, solvable = step_of(H, g, 1 / radius)
        step, promised = torch.where(straight[:, None], step, damped), torch.where(straight, promised, less)
        solvable = solvable | straight
        delta = step.new_zeros(len(step), 6).index_copy(1, free, step)
        trial = se3.retract(pose, delta)
        H_new, g_new, cost_new = model(trial)
        gain = (cost - cost_new) / promised.clamp_min(1e-300)
        accept = solvable & (gain > 1e-3) & ~done
        hidden = solvable & ~accept & enough & ~done  # rounding hides what is left
        done, minimum = done | hidden, minimum | hidden
        grown = (radius / (1 - (2 * gain - 1) ** 3).clamp_min(1 / RADIUS_GROWTH)).clamp_max(1e10)
        less_radius = (torch.where(solvable, radius.clamp_max(1.0), radius) / shrink).clamp_min(1e-10)
        radius = torch.where(accept, grown, less_radius)
        shrink = torch.where(accept, torch.full_like(shrink, 2.0), (2 * shrink).clamp_max(1e6))
        pose = torch.where(accept[:, None, None], trial, pose)
        H = torch.where(accept[:, None, None], H_new, H)
        g, cost = torch.where(accept[:, None], g_new, g), torch.where(accept, cost_new, cost)
    return pose, minimum, cost
