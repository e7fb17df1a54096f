"""Distributions of poses: Student-t for translations, angular central Gaussian and von Mises for rotations.

Every sampler draws one value for each set of parameters; expand the parameters to draw more. Densities of rotations are those
of unit quaternions on the sphere S^3, of area 2 pi^2. A rotation is two quaternions, and rotating by a small angle moves its
quaternion by half of it: the density per rad^3, for which all rotations together measure 8 pi^2, is that on S^3 divided by 4.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import distributions

FREEDOM = 3  # degrees of freedom of every Student-t here
LOG_SPHERE = math.log(2 * math.pi**2)  # area of S^3
LOG_ROTATIONS = math.log(8 * math.pi**2)  # rad^3
_LOG_T = math.log(2) - math.lgamma(1.5) - 1.5 * math.log(3 * math.pi)


def normals(*shape: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers with the dtype and device of `like`, drawn where the generator lives."""
    device = generator.device if generator is not None else like.device
    return torch.randn(*shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def uniforms(*shape: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1) with the dtype and device of `like`, drawn where the generator lives."""
    device = generator.device if generator is not None else like.device
    return torch.rand(*shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def student_t_log_prob(x: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """Log-density of the 3-D Student-t with 3 degrees of freedom, 1 / unit^3.

    Args:
        x: (..., 3).
        loc: (..., 3).
        scale_tril: lower triangular factor of the scale matrix, (..., 3, 3); the covariance is 3 times that matrix.

    Returns:
        (...,). Source: Kotz and Nadarajah, Multivariate t Distributions, eq. 1.1.
    """
    y = torch.linalg.solve_triangular(scale_tril, (x - loc)[..., None], upper=False).squeeze(-1)
    return student_t_at(y.square().sum(-1), log_det(scale_tril))


def student_t_at(square: Tensor, log_det: Tensor) -> Tensor:
    """`student_t_log_prob` at squared Mahalanobis distances (...,), for the log-determinant of the factor."""
    return _LOG_T - log_det - 3 * torch.log1p(square / FREEDOM)


def log_det(tril: Tensor) -> Tensor:
    """Of a triangular matrix, (..., n, n) -> (...,)."""
    return tril.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


def student_t_sample(loc: Tensor, scale_tril: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One draw for each loc (..., 3) and scale_tril (..., 3, 3): a normal over the root of an independent mean of squares."""
    return student_t_from_normals(loc, scale_tril, normals(*loc.shape[:-1], 6, like=loc, generator=generator))


def student_t_from_normals(loc: Tensor, scale_tril: Tensor, z: Tensor) -> Tensor:
    """`student_t_sample` from six standard normal numbers z, (..., 6)."""
    y = z[..., :3] * z[..., 3:].square().mean(-1, keepdim=True).clamp_min(1e-30).rsqrt()
    return loc + (scale_tril @ y[..., None]).squeeze(-1)


def acg_log_prob(quat: Tensor, tril: Tensor) -> Tensor:
    """Log-density of the angular central Gaussian on S^3: (q' A q)^-2 sqrt|A| / (2 pi^2), equal for q and -q.

    Args:
        quat: unit quaternions, (..., 4).
        tril: lower triangular factor of the dispersion A^-1, (..., 4, 4); its scale does not matter.

    Returns:
        (...,), per unit of the area of S^3. Source: Tyler, Statistical analysis for the angular central Gaussian
        distribution on the sphere, eq. 1.
    """
    y = torch.linalg.solve_triangular(tril, quat[..., None], upper=False).squeeze(-1)
    return acg_at(y.square().sum(-1), log_det(tril))


def acg_at(square: Tensor, log_det: Tensor) -> Tensor:
    """`acg_log_prob` at q' A q (...,), for the log-determinant of the factor of A^-1."""
    return -log_det - 2 * square.log() - LOG_SPHERE


def acg_sample(tril: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One unit quaternion for each tril (..., 4, 4) of `acg_log_prob`: the direction of a normal with covariance A^-1."""
    return acg_from_normals(tril, normals(*tril.shape[:-1], like=tril, generator=generator))


def acg_from_normals(tril: Tensor, z: Tensor) -> Tensor:
    """`acg_sample` from four standard normal numbers z, (..., 4)."""
    q = (tril @ z[..., None]).squeeze(-1)
    return q / q.norm(dim=-1, keepdim=True).clamp_min(1e-30)


def acg_tril(dispersion: Tensor) -> Tensor:
    """The factor of `acg_log_prob` of a dispersion (..., 4, 4), slightly widened so that none of its axes vanishes.

    Source: EPro-PnP's code: 0.001 of the geometric mean of the eigenvalues is added to each.
    """
    eye = torch.eye(4, dtype=dispersion.dtype, device=dispersion.device)
    spread = dispersion / dispersion.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-30)[..., None, None]
    tril, failed = torch.linalg.cholesky_ex(spread + 1e-14 * eye)
    floor = 1e-3 * tril.diagonal(dim1=-2, dim2=-1).prod(-1).sqrt()  # |spread|^(1/4)
    wider, failed_too = torch.linalg.cholesky_ex(spread + (1e-14 + floor[..., None, None]) * eye)
    return torch.where(((failed == 0) & (failed_too == 0))[..., None, None], wider, eye)


def small_turns(quat: Tensor) -> Tensor:
    """The quaternions i q, j q and k q: twice the derivative of exp(omega) q by omega. (..., 4) -> (..., 3, 4)."""
    w, x, y, z = quat.unbind(-1)
    return torch.stack([-x, w, -z, y, -y, z, w, -x, -z, -y, x, w], -1).unflatten(-1, (3, 4))


def acg_fit(quats: Tensor, weights: Tensor, iterations: int = 3) -> Tensor:
    """Dispersion A^-1 of the angular central Gaussian that fits weighted quaternions best, of trace 1.

    Args:
        quats: (..., S, 4).
        weights: (..., S), >= 0.
        iterations: of the fixed point that starts from the uniform distribution.

    Returns:
        (..., 4, 4). Source: Tyler 1987, eq. 3, the fixed point of the likelihood equation.
    """
    eye = torch.eye(4, dtype=quats.dtype, device=quats.device)
    dispersion = eye.expand(*weights.shape[:-1], 4, 4)
    for _ in range(iterations):
        tril, failed = torch.linalg.cholesky_ex(dispersion + 1e-12 * eye)
        tril = torch.where((failed == 0)[..., None, None], tril, eye)
        distance = torch.linalg.solve_triangular(tril, quats.mT, upper=False).square().sum(-2)
        scaled = weights / distance.clamp_min(1e-30)
        scaled = scaled / scaled.sum(-1, keepdim=True).clamp_min(1e-30)
        dispersion = (quats * scaled[..., None]).mT @ quats
    return dispersion


def von_mises_log_prob(angle: Tensor, loc: Tensor, kappa: Tensor) -> Tensor:
    """Log-density of the von Mises distribution on the circle, 1 / rad; all arguments (...,), radians."""
    return -2 * kappa * torch.sin((angle - loc) / 2).square() - torch.log(2 * math.pi * torch.special.i0e(kappa))


def von_mises_quantiles(kappa: Tensor, cells: int = 128) -> tuple[Tensor, Tensor]:
    """A table of the inverse distribution function, fine where the distribution is narrow.

    The nodes are the quantiles of a wrapped Cauchy with heavier tails and nearly the same peak, between which the von Mises
    density changes little.

    Args:
        kappa: (...,).
        cells: between nodes.

    Returns:
        levels (..., cells + 1), from 0 to 1, and nodes: angles (..., cells + 1) from -pi to pi, both ascending.
    """
    width = (1 / (1 + kappa)).sqrt()
    steps = torch.linspace(-0.5, 0.5, cells + 1, dtype=kappa.dtype, device=kappa.device)
    steps = steps.clamp(-0.5 + 1e-7, 0.5 - 1e-7)
    tangent = width[..., None] * torch.tan(math.pi * steps)
    nodes = 2 * torch.atan(tangent)
    # the density by the level of the Cauchy, d angle / d level = 2 pi (width^2 + tangent^2) / width / (1 + tangent^2)
    slope = (width[..., None].square() + tangent.square()) / (1 + tangent.square())
    density = slope * torch.exp(-2 * kappa[..., None] * torch.sin(nodes / 2).square())
    levels = torch.nn.functional.pad(((density[..., 1:] + density[..., :-1]) / 2).cumsum(-1), (1, 0))
    return levels / levels[..., -1:], nodes


def von_mises_sample(kappa: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Angles around 0, radians, (...,) -> (..., count)."""
    levels, nodes = von_mises_quantiles(kappa)
    u = uniforms(*kappa.shape, count, like=kappa, generator=generator)
    return von_mises_from_uniforms(levels, nodes, u)


def von_mises_from_uniforms(levels: Tensor, nodes: Tensor, u: Tensor) -> Tensor:
    """The angles of `von_mises_quantiles`, (..., C) twice, at the levels u (..., n), linear between nodes: (..., n)."""
    cell = (torch.searchsorted(levels.contiguous(), u.contiguous(), right=True) - 1).clamp(0, levels.shape[-1] - 2)
    low, high = levels.gather(-1, cell), levels.gather(-1, cell + 1)
    part = ((u - low) / (high - low).clamp_min(1e-30)).clamp(0, 1)
    return torch.lerp(nodes.gather(-1, cell), nodes.gather(-1, cell + 1), part)


def von_mises_kappa(resultant: Tensor) -> Tensor:
    """Concentration for a mean resultant length r in [0, 1): r (2 - r^2) / (1 - r^2).

    Source: Banerjee et al., Clustering on the unit hypersphere using von Mises-Fisher distributions, eq. 4.4.
    """
    r = resultant.clamp(0, 1 - max(1e-12, torch.finfo(resultant.dtype).eps))
    return r * (2 - r * r) / (1 - r * r)


UNIFORM = {6: 0.1, 4: 0.25}  # share of rotations drawn from all directions, by dof
FLOOR = 0.05  # least share of the samples of every minimum that is kept
MEMORY = 20.0  # samples that the previous proposal is worth when a new one is fitted


class PoseFrame(NamedTuple):
    """What samples are relative to.

    centre (B, 3) of the points, metres; base (B, 3, 3), the first rotation; turns (B, M, 4 or 1), the minima's quaternions, or
    their yaws from the base; unit (B,), metres, the distance of the first minimum; furthest (B,), in such units, that a centre
    may be: without a limit the integral would be infinite; dof.
    """

    centre: Tensor
    base: Tensor
    turns: Tensor
    unit: Tensor
    furthest: Tensor
    dof: int


def log_volume(places: Tensor, around: PoseFrame) -> Tensor:
    """Log of the volume by place, of places (B, H, n, 3): (B, H, n)."""
    p = places.double()
    by_direction = math.log(4) - 2 * torch.log1p(p[..., :2].square().sum(-1))
    return 3 * (p[..., 2] + around.unit.log()[:, None, None]) + by_direction


def numbers_of_samples(share: Tensor, size: int, dof: int) -> Tensor:
    """`Proposal.counts` of these shares (..., M) of `size` samples: rounded, not drawn."""
    uniform = UNIFORM[dof]
    parts = torch.stack([share * (1 - uniform), share * uniform], -1).flatten(-2)
    ends = (parts.cumsum(-1) * size + 0.5).floor()
    ends[..., -1] = size
    return torch.diff(ends, dim=-1, prepend=torch.zeros_like(ends[..., :1])).unflatten(-1, (-1, 2))


def numbers(like: Tensor, size: int, halves: int, dof: int, generator: torch.Generator | None) -> Tensor:
    """The random numbers of a round, (B, H, n, 10 or 8): 3 + 3 normals for the place, then 4 normals or 2 uniforms."""
    z = distributions.normals(len(like), halves, 6 if dof == 4 else 10, size, like=like, generator=generator)
    if dof == 4:
        z = torch.cat([z, distributions.uniforms(len(like), halves, 2, size, like=like, generator=generator)], 2)
    return z.mT
