"""Poses from 2D-3D correspondences: `ransac` for matches with outliers, `solve` for weighted batches."""

from .problems import AdaptiveHuber, Cauchy, Huber
from .robust import RobustSolution, ransac
from .solve import Solution, solve

__all__ = ["AdaptiveHuber", "Cauchy", "Huber", "RobustSolution", "Solution", "ransac", "solve"]
