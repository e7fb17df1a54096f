"""Losses that train correspondences through PnP: of the whole pose distribution, and of one pose that carries a gradient."""

import torch
from torch import Tensor

from ..geometry import se3
from ..geometry.rotation import full_precision
from . import checks, kernels, residuals
from .opaque import opaque
from .posterior import Posterior
from .prepare import flat_batch
from .problems import UNDETERMINED, Problems
from .solve import free_entries


@opaque
@full_precision
def monte_carlo_loss(posterior: Posterior, cam_from_obj_true: Tensor, symmetries: Tensor | None = None) -> Tensor:
    """Minus the log-density that the posterior gives to the true pose: cost(truth) + log evidence.

    It pulls the reprojection error at the truth down and pushes that of all other plausible poses up. It is the log of a
    density per m^3 rad^3, so negative values are good, not wrong.

    Args:
        posterior: of `sample_posterior`.
        cam_from_obj_true: (..., 4, 4), metres.
        symmetries: obj_from_obj motions including the identity, (G, 4, 4) or (B, G, 4, 4): the equivalent true pose of least
            cost counts.

    Returns:
        (...,), differentiable in points3d, points2d, weights and K; 0, with a gradient of zero, where the posterior did not
        converge or the truth is not finite or no rigid motion. What is off by half precision is made rigid.

    Raises:
        ValueError: for no Posterior, if the truth is not (..., 4, 4), or a symmetry no rigid motion.

    Source: Chen et al., EPro-PnP, eq. 7: the Kullback-Leibler divergence up to a constant.
    """
    if not isinstance(posterior, Posterior):
        raise ValueError(f"posterior must be what sample_posterior returns, got a {type(posterior).__name__}")
    given = posterior.prepared
    truth = given.flat(checks.poses("cam_from_obj_true", cam_from_obj_true), 4, 4)[:, None]
    truth, rigid = checks.rigid(truth)
    finite = rigid.all(1)
    if symmetries is not None:
        truth = truth @ _group(symmetries, truth, truth.shape[:-3])
    cost = kernels.pose_costs(given.problems, truth).amin(1)
    good = posterior.converged & (finite & torch.isfinite(cost)).reshape(given.batch)
    loss = cost.to(given.dtype).reshape(given.batch) + posterior.log_evidence
    return torch.where(good, loss, torch.zeros_like(loss))


@full_precision
def derivative_loss(
    cam_from_obj: Tensor, cam_from_obj_true: Tensor, beta: float = 1.0, symmetries: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The distance of one pose from the true one, split in translation and rotation.

    Args:
        cam_from_obj: a pose that carries a gradient, such as that of `solve_implicit`, (..., 4, 4), metres.
        cam_from_obj_true: (..., 4, 4), metres.
        beta: metres below which the translation counts squared: smooth-L1 of the distance.
        symmetries: obj_from_obj motions including the identity, (G, 4, 4) or (B, G, 4, 4): the equivalent true pose of least
            sum counts.

    Returns:
        translation (...,), metres, and rotation (...,), 2 (1 - <q, q_true>^2) = 1 - cos(angle): 0 to 2. What is off by half
        precision is made rigid; 0, with a gradient of zero, where a pose is not finite or no rigid motion.

    Raises:
        ValueError: if a pose is not (..., 4, 4), a symmetry no rigid motion, beta not positive.

    Source: Chen et al., EPro-PnP, sec. 3.4, derivative regularization.
    """
    beta = checks.number("beta", beta, above=0)
    pose, good = checks.rigid(checks.poses("cam_from_obj", cam_from_obj))
    truth, true = checks.rigid(checks.poses("cam_from_obj_true", cam_from_obj_true))
    batch = flat_batch(good.shape, true.shape)
    pose, truth, good = pose[..., None, :, :], truth[..., None, :, :], good & true
    if symmetries is not None:
        truth = truth @ _group(symmetries, truth, batch)
    square = (pose[..., :3, 3] - truth[..., :3, 3]).square().sum(-1)
    far = square > beta * beta
    length = torch.where(far, square, torch.ones_like(square)).sqrt()
    translation = torch.where(far, length - 0.5 * beta, 0.5 * square / beta)
    # <q, q_true>^2 = (1 + trace) / 4
    turn = (3 - (pose[..., :3, :3] * truth[..., :3, :3]).sum((-2, -1))) / 2
    best = (translation + turn).detach().argmin(-1, keepdim=True)
    translation, turn = torch.broadcast_tensors(translation, turn)
    found = (torch.where(good, v.gather(-1, best).squeeze(-1), 0.0) for v in (translation, turn))
    return next(found), next(found)


def _group(symmetries: Tensor, like: Tensor, batch: torch.Size) -> Tensor:
    """`checks.group`, for problems of this batch."""
    made = checks.group(symmetries, like)
    if made.dim() == 4 and flat_batch(batch, made.shape[:1]) != batch:
        raise ValueError(
            f"symmetries of each problem must be (B, G, 4, 4) for the batch {tuple(batch)}, got {tuple(made.shape)}"
        )
    return made


@opaque
@full_precision
def one_step(problems: Problems, cam_from_obj: Tensor, dof: int = 6, damping: float = 0.0) -> Tensor:
    """Poses one Gauss-Newton step further, differentiable through the step: what EPro-PnP puts `derivative_loss` on.

    At a minimum the step is zero and its gradient nearly that of the optimum (`solve_implicit`, with the Gauss-Newton Hessian).
    Elsewhere, at a wrong minimum of a network that knows nothing yet, or where the solver did not arrive, it still says how
    the residuals should change for the pose to move to the truth, where the exact gradient of the optimum is zero or wild.

    Args:
        problems: flat, (B, ...), as `Posterior.prepared.problems`.
        cam_from_obj: (B, 4, 4), metres; held fixed.
        dof: 6, or 4 where only translation and yaw are free.
        damping: share of the Hessian's diagonal that is added to it, as in Levenberg-Marquardt; the units do not matter to it.

    Returns:
        (B, 4, 4), differentiable in points3d, points2d, weights, K and delta. Poses are made rigid where half precision rounded
        them. One whose step cannot be computed, or that is no rigid motion, is returned as it came, with a gradient of zero.

    Raises:
        ValueError: on wrong shapes, or options out of range.

    Source: Chen et al., EPro-PnP, eq. 13 and 14.
    """
    if not isinstance(problems, Problems):
        raise ValueError(f"problems must be Problems, as `Posterior.prepared.problems`, got a {type(problems).__name__}")
    damping, dof = checks.number("damping", damping, least=0), checks.degrees_of_freedom(dof)
    came = checks.poses("cam_from_obj", cam_from_obj).detach().to(problems.K)
    if came.dim() != 3 or len(came) != len(problems.points3d):
        raise ValueError(
            f"cam_from_obj must be ({len(problems.points3d)}, 4, 4), one for each problem, got {tuple(came.shape)}"
        )
    (pose, sound), free = checks.rigid(came), free_entries(dof, came.device)
    r, J = residuals.weighted_residuals(problems, pose), residuals.jacobian(problems, pose)[..., free]
    trust = residuals.robust_weight(r.square().sum(-1), problems.delta[..., None], problems.kernel)
    rows = (trust[..., None, None] * J).flatten(-3, -2).mT
    H, g = (rows @ J.flatten(-3, -2)).double(), (rows @ r.flatten(-2)[..., None]).squeeze(-1).double()
    H = H + torch.diag_embed((damping + UNDETERMINED) * H.diagonal(dim1=-2, dim2=-1))
    good = sound & torch.isfinite(H).flatten(1).all(1) & torch.isfinite(g).all(1) & (H.diagonal(dim1=-2, dim2=-1) > 0).all(1)
    H = torch.where(good[:, None, None], H, torch.eye(len(free)).to(H))
    factor, failed = torch.linalg.cholesky_ex(H)
    good = good & (failed == 0)
    factor = torch.where(good[:, None, None], factor, torch.eye(len(free)).to(H))
    step = -torch.cholesky_solve(torch.where(good[:, None], g, torch.zeros_like(g))[..., None], factor).squeeze(-1)
    delta = step.new_zeros(len(step), 6).index_copy(1, free, step)
    moved = se3.retract(pose, torch.where(good[:, None], delta, torch.zeros_like(delta)).to(pose))
    return torch.where(sound[:, None, None], moved, came)
