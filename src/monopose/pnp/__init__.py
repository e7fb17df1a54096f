"""Poses from 2D-3D correspondences: `ransac` for matches with outliers, `solve` for weighted batches."""

from .checks import Reason
from .implicit import solve_implicit
from .lens import undistort
from .losses import derivative_loss, monte_carlo_loss, one_step
from .posterior import Posterior, sample_posterior
from .problems import AdaptiveHuber, Cauchy, Huber
from .robust import RobustSolution, ransac
from .solve import Modes, Solution, solve
from .warm import warm_up

__all__ = [
    "AdaptiveHuber",
    "Cauchy",
    "Huber",
    "Modes",
    "Posterior",
    "Reason",
    "RobustSolution",
    "Solution",
    "derivative_loss",
    "monte_carlo_loss",
    "one_step",
    "ransac",
    "sample_posterior",
    "solve",
    "solve_implicit",
    "undistort",
    "warm_up",
]
