"""Starts for `solve` where none is given: a closed form on which many rotations are tried, and random samples of points.

The translation that is best for a rotation follows linearly from it, and what remains is a quadratic form of the nine entries
of the rotation, whatever the number of points. Trying a rotation therefore costs 9 x 9 products.
"""

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from ..geometry import rotation, se3
from ..geometry.rotation import full_precision
from . import kernels
from .problems import Problems

SUBSET = 6  # points in a random sample


def quadratic_form(points3d: Tensor, points2d: Tensor, weights: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """The algebraic reprojection error as a quadratic form of the rotation.

    Args:
        points3d: (..., N, 3), metres.
        points2d: (..., N, 2), pixels.
        weights: (..., N, 2).
        K: (..., 3, 3), pixels.

    Returns:
        omega, (..., 9, 9): the error of R with its best translation is r' omega r, r = R.flatten(), and
        linear, (..., 3, 9): that translation is linear @ r, metres.

    Source: Terzakis and Lourakis, SQPnP, eq. 4 to 9, with weights.
    """
    # the two rows that vanish along the ray of a pixel: K's first, second minus the pixel times its third, (..., N, 2, 3)
    axes = K[..., None, :2, :] - points2d[..., None] * K[..., None, 2:, :]
    axes = (axes * weights[..., None]).flatten(-3, -2)
    points = points3d.repeat_interleave(2, -2)
    on_rotation = (axes[..., :, None] * points[..., None, :]).flatten(-2)  # (..., 2N, 9)
    square = axes.mT @ axes
    ridge = 1e-14 * square.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-300
    inverse = torch.linalg.inv_ex(
        square + ridge[..., None, None] * torch.eye(3, dtype=square.dtype, device=square.device)
    ).inverse
    linear = -inverse @ (axes.mT @ on_rotation)
    rest = on_rotation + axes @ linear
    return (rest.mT @ rest).nan_to_num(0.0, 0.0, 0.0), linear.nan_to_num(0.0, 0.0, 0.0)


@lru_cache(maxsize=16)
def _grid(dof: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rotations spread evenly: the 24 of the cube, or 16 angles of yaw. (G, 3, 3). Not to be written to."""
    with torch.inference_mode(False):
        return _rotations_spread(dof).to(dtype=dtype, device=device)


def _rotations_spread(dof: int) -> Tensor:
    if dof == 4:
        omega = torch.zeros(16, 3, dtype=torch.float64)
        omega[:, 1] = torch.arange(16) * (2 * math.pi / 16)
        return rotation.so3_exp(omega)
    cube = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            R = torch.zeros(3, 3).index_put((torch.arange(3), torch.tensor(order)), torch.tensor(signs))
            if torch.linalg.det(R) > 0:
                cube.append(R)
    return torch.stack(cube)


def rotations(omega: Tensor, depth: Tensor, dof: int = 6, count: int = 8, iterations: int = 6) -> Tensor:
    """Local minima of r' omega r over the rotations: the best of a grid and of omega's eigenvectors, polished.

    Args:
        omega: (..., 9, 9), of `quadratic_form`.
        depth: (..., 9): depth @ r is the depth of the points' centre, metres; poses behind the camera are tried last.
        dof: 6, or 4 for rotations about the camera's Y only.
        count: how many.
        iterations: of damped Gauss-Newton.

    Returns:
        (..., count, 3, 3), with repetitions.
    """
    R = _grid(dof, omega.dtype, omega.device).expand(*omega.shape[:-2], -1, 3, 3)
    if dof == 6:
        _, vectors = torch.linalg.eigh(omega)
        vectors = vectors[..., :3].mT.unflatten(-1, (3, 3))
        R = torch.cat([R, rotation.nearest_rotation(torch.cat([vectors, -vectors], -3))], -3)

    def error(R: Tensor) -> Tensor:
        r = R.flatten(-2)
        return ((r @ omega) * r).sum(-1)

    def keep(R: Tensor, error: Tensor, count: int) -> Tensor:
        best = error.topk(count, dim=-1, largest=False).indices
        return R.gather(-3, best[..., None, None].expand(*best.shape, 3, 3))

    behind = (R.flatten(-2) @ depth[..., None]).squeeze(-1) <= 0
    R = keep(R, error(R) + behind * omega.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True), count)
    eye = torch.eye(3, dtype=omega.dtype, device=omega.device)
    free = eye if dof == 6 else eye[1:2]
    generators = rotation.skew(free)
    damping = omega.new_full(R.shape[:-2], 1e-3)
    now = error(R)
    for _ in range(iterations):
        J = (generators @ R[..., None, :, :]).flatten(-2)  # (..., count, free, 9)
        JO = J @ omega[..., None, :, :]
        H, g = JO @ J.mT, JO @ R.flatten(-2)[..., None]
        trace = H.diagonal(dim1=-2, dim2=-1).sum(-1)
        H = H + (damping * trace + 1e-300)[..., None, None] * eye[: len(free), : len(free)]
        step = -(torch.linalg.solve_ex(H, g).result.squeeze(-1) @ free)
        trial = rotation.so3_exp(step.nan_to_num(0.0, 0.0, 0.0))
        trial = trial @ R
        then = error(trial)
        better = then < now
        R = torch.where(better[..., None, None], trial, R)
        now = torch.where(better, then, now)
        damping = torch.where(better, damping / 10, damping * 10)
    return R


def _depth(points3d: Tensor, weights: Tensor, linear: Tensor, K: Tensor) -> Tensor:
    """What gives the depth of the weighted centre when multiplied with r, (..., 9)."""
    w = weights.mean(-1, keepdim=True)
    centre = (w * points3d).sum(-2) / w.sum(-2).clamp_min(1e-300)
    along = K[..., 2, :]
    return (along[..., None, :] @ linear).squeeze(-2) + (along[..., :, None] * centre[..., None, :]).flatten(-2)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Samples of different points, drawn one after the other in proportion to weight, by inverting the cumulated weights.

    Args:
        weights: (B, N), >= 0.
        uniforms: one number from [0, 1) for every point drawn, (B, P, K), K <= N.

    Returns:
        indices, (B, P, K); with repetitions, or points of weight 0, where fewer than K have weight.
    """
    ends = weights.cumsum(-1)
    begins, last = ends - weights, weights.shape[1] - 1
    drawn: list[Tensor] = []
    for k in range(uniforms.shape[-1]):
        at = uniforms[..., k] * ends[:, -1:]
        if drawn:  # as if those drawn were cut out: what lies behind them moves by their weight
            taken = torch.stack(drawn, -1).sort(-1).values.flatten(1)
            width, begin = (v.gather(1, taken).unflatten(1, (-1, k)) for v in (weights, begins))
            at = uniforms[..., k] * (ends[:, -1:] - width.sum(-1)).clamp_min(0)
            for j in range(k):
                at = torch.where(at >= begin[..., j], at + width[..., j], at)
        drawn.append(torch.searchsorted(ends, at.contiguous(), right=True).clamp_max(last))
    return torch.stack(drawn, -1)


@full_precision
def starts_reference(
    problems: Problems,
    dof: int = 6,
    proposals: int = 0,
    count: int = 2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The most promising distinct poses of every problem, in plain torch.

    Args:
        problems: flat, (B, ...).
        dof: 6, or 4 for yaw and translation.
        proposals: random samples of `SUBSET` points, drawn by weight, that are tried beside all points together.
        count: how many poses to return.
        generator: of the random samples; None starts one from seed 0.

    Returns:
        (B, count, 4, 4), metres: the best by cost over all points, then the best at least 10 degrees away from it, and so on.

    Source: SQPnP for the closed form; EPro-PnP sec. 3.3 for random samples, here solved in closed form.
    """
    dtype = problems.K.dtype
    problems = problems.map(Tensor.double)
    X, x, w, k = problems[:4]
    omega, linear = quadratic_form(X, x, w, k)
    R = rotations(omega, _depth(X, w, linear, k), dof)
    t = (linear[:, None] @ R.flatten(-2)[..., None]).squeeze(-1)
    if proposals and X.shape[1] > SUBSET:
        generator = generator or torch.Generator(X.device).manual_seed(0)
        shape = (X.shape[0], proposals, SUBSET)
        uniforms = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).to(X.device)
        drawn = draw(w.abs().sum(-1), uniforms).flatten(1)[..., None]
        some3d, some2d, some_weights = (
            v.gather(1, drawn.expand(-1, -1, v.shape[-1])).unflatten(1, (proposals, SUBSET)) for v in (X, x, w)
        )
        omega, linear = quadratic_form(some3d, some2d, some_weights, k[:, None])
        more = rotations(omega, _depth(some3d, some_weights, linear, k[:, None]), dof, count=4)
        R = torch.cat([R, more.flatten(1, 2)], 1)
        t = torch.cat([t, (linear[:, :, None] @ more.flatten(-2)[..., None]).squeeze(-1).flatten(1, 2)], 1)
    poses = se3.from_rt(R, t)
    total = kernels.pose_costs(problems, poses).nan_to_num(math.inf)
    chosen = []
    for _ in range(count):
        best = total.argmin(-1)
        chosen.append(poses[torch.arange(len(best), device=best.device), best])
        near = rotation.angle_between(chosen[-1][:, None, :3, :3], R) < math.radians(10)
        total = torch.where(near, math.inf, total)
    return torch.stack(chosen, 1).to(dtype)
