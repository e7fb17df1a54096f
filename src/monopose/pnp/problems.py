"""What every PnP layer takes: weighted correspondences, a camera, a robust kernel; checked once, flattened to one batch."""

import math
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from torch import Tensor

NEAREST = 1e-4  # of a problem's scale, see `checks.frame`: depths are clamped from below to this before dividing
Z_MIN = 0.01  # metres: the same as a number, for objects of some decimetres
PATIENCE = 12  # Gauss-Newton steps, after which the full Hessian takes over
TOLERANCE = 1e-6  # of the variance of a residual: a minimum is where no step would lower the cost by more
UNDETERMINED = 1e-9  # least eigenvalue of the normal equations, scaled to a diagonal of ones, of a pose that the points fix
FLAT = 0.01  # least to largest variance of the points of an object that is about flat, and has a second pose nearly as good
UNCERTAIN = 1.0  # square radian, or squared distance of the object: most variance of a pose that is called one
FLATTEST = 0.99  # most that a robust kernel takes off the curvature along a residual: a hundredth stays
INITIAL_RADIUS = 30.0  # trust region at the start of a descent: the diagonal is damped by one over this
UNBOUNDED = (-math.inf, -math.inf, math.inf, math.inf)
RADIUS_GROWTH = 10.0  # most by which it grows after a step that was as good as promised


class Huber(NamedTuple):
    """Squares up to a threshold, linear beyond: rho(s) = s^2 for s <= delta, 2 delta s - delta^2 above.

    Args:
        delta: threshold on the length s of a weighted residual, number or (...,): pixels where the weights are 1.
    """

    delta: float | Tensor


class AdaptiveHuber(NamedTuple):
    """Huber whose threshold follows the spread of the pixels and the size of the weights, problem by problem.

    Args:
        relative: delta = relative * mean(weights) * sqrt(var(u) + var(v)) over the points that have weight. The gradient goes
            through the weights only. EPro-PnP takes 0.5 in its demonstration and in 3D detection, 0.1 in its 6DoF network.
    """

    relative: float = 0.5


class Cauchy(NamedTuple):
    """Logarithmic, so that far outliers have almost no pull: rho(s) = delta^2 log(1 + s^2 / delta^2).

    Args:
        delta: scale of the length s of a weighted residual, number or (...,): pixels where the weights are 1.
    """

    delta: float | Tensor


Robust = Huber | AdaptiveHuber | Cauchy


class Kernel(IntEnum):
    """Which rho; numbers, as the fused kernels receive them."""

    SQUARES = 0
    HUBER = 1
    CAUCHY = 2


class Problems(NamedTuple):
    """A batch of problems of N points. What the layers pass to each other and to the kernels, where the batch is flat, (B,).

    points3d (..., N, 3), metres; points2d (..., N, 2), pixels; weights (..., N, 2), 1 / pixels; K (..., 3, 3), pixels;
    delta (...,), threshold of the kernel, inf where it is SQUARES; bounds (..., 4), projections are clamped to
    (u_min, v_min, u_max, v_max), -inf and inf for none. The depth of a point is the third entry of K p, clamped from below to
    z_min: `prepare` scales K, which changes no projection, such that this is metres, or the problem's own unit of length.
    """

    points3d: Tensor
    points2d: Tensor
    weights: Tensor
    K: Tensor
    delta: Tensor
    bounds: Tensor
    kernel: Kernel = Kernel.SQUARES
    z_min: float = Z_MIN

    def map(self, function: Callable[[Tensor], Tensor]) -> "Problems":
        """The same with every tensor replaced by function(tensor)."""
        X, x, w, K, delta, bounds = (function(v) for v in self[:6])
        return Problems(X, x, w, K, delta, bounds, self.kernel, self.z_min)
