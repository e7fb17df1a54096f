"""Poses from 2D-3D correspondences: `ransac` for matches with outliers, `solve` for weighted batches."""

from .robust import RobustSolution, ransac
from .solve import Solution, solve

__all__ = ["RobustSolution", "Solution", "ransac", "solve"]
