"""Scores of 6D poses: errors of single poses, matching, averages, and the BOP protocols. Works on numpy, without torch.

`evaluate` scores a result file; `errors`, `matching` and `scores` hold the pieces.
"""

from .bop import evaluate

__all__ = ["evaluate"]
