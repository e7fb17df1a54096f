"""What every PnP layer takes: weighted correspondences, a camera, a robust kernel; checked once, flattened to one batch."""

import math
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..types import Camera

Z_MIN = 0.01  # metres: depths are clamped from below to this before dividing
FLATTEST = 0.99  # most that a robust kernel takes off the curvature along a residual: a hundredth stays
RADIUS = 30.0  # trust region at the start of a descent: the diagonal is damped by one over this


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
    (u_min, v_min, u_max, v_max), -inf and inf for none; depths are clamped from below to z_min, metres.
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


class Prepared(NamedTuple):
    """What `prepare` returns.

    Args:
        problems: flat, (B, ...), finite everywhere: points that are not used have weight 0 and coordinates 0.
        used: which points count, (B, N), bool: those with a weight, in problems whose numbers are all finite.
        batch: the shape that B was.
        dtype: of the results, that of points3d, at least float32.
    """

    problems: Problems
    used: Tensor
    batch: torch.Size
    dtype: torch.dtype

    def flat(self, value: Tensor, *trailing: int) -> Tensor:
        """Expand (..., *trailing) to the batch and flatten it: (B, *trailing)."""
        value = value.to(self.problems.K)
        return value.expand((*self.batch, *trailing)).reshape(self.batch.numel(), *trailing)


def intrinsics(camera: Camera | Tensor, like: Tensor) -> Tensor:
    """The K of a Camera, or K itself, (..., 3, 3), with the dtype and device of `like`.

    Raises:
        ValueError: if the shape is not (..., 3, 3), or the camera has lens distortion.
    """
    if isinstance(camera, Camera):
        if camera.distortion is not None and bool((camera.distortion != 0).any()):
            raise ValueError(
                "PnP needs pixels of a camera without lens distortion; undistort the image or the points first, "
                "then pass Camera(K, size)"
            )
        camera = camera.K
    K = torch.as_tensor(camera)
    if K.shape[-2:] != (3, 3):
        raise ValueError(f"camera must be a monopose.Camera or K of shape (..., 3, 3), got {tuple(K.shape)}")
    return K.to(like)


def prepare(
    points3d: Tensor,
    points2d: Tensor,
    camera: Camera | Tensor,
    weights: Tensor | None = None,
    robust: Robust | None = None,
    bounds: Tensor | None = None,
    z_min: float = Z_MIN,
    pose: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Prepared:
    """Check the arguments that all layers share, broadcast them to one flat batch and take out what cannot be used.

    Everything is differentiable: what is taken out gets a gradient of zero.

    Args:
        points3d: (..., N, 3), metres.
        points2d: (..., N, 2), pixels.
        camera: Camera or K (..., 3, 3), pixels.
        weights: (..., N, 2) or (..., N), 1 / pixels; None is 1.
        robust: kernel, or None for squares.
        bounds: (..., 4), pixels, or None.
        z_min: metres.
        pose: the start, (..., 4, 4), metres, or None; its batch takes part in the broadcast.
        dtype: of the arithmetic; None is that of points3d, at least float32.

    Raises:
        ValueError: on shapes that do not fit and on a camera with lens distortion; never for what the numbers are.
    """
    if points3d.dim() < 2 or points3d.shape[-1] != 3:
        raise ValueError(
            f"points3d must be (..., N, 3) metres, got {tuple(points3d.shape)}; transpose the last two dimensions?"
        )
    n = points3d.shape[-2]
    if points2d.dim() < 2 or points2d.shape[-2:] != (n, 2):
        raise ValueError(f"points2d must be (..., {n}, 2) pixels to match points3d, got {tuple(points2d.shape)}")
    if pose is not None and pose.shape[-2:] != (4, 4):
        raise ValueError(f"init must be (..., 4, 4) metres, got {tuple(pose.shape)}; geometry.se3.from_rt(R, t) builds it")
    weighted = weights is not None
    if weights is None:
        weights = points2d.new_ones((n, 2))
    elif weights.dim() >= 2 and weights.shape[-2:] == (n, 2):
        pass
    elif weights.dim() >= 1 and weights.shape[-1] == n:
        weights = weights[..., None]
    else:
        raise ValueError(f"weights must be (..., {n}, 2) or (..., {n}), got {tuple(weights.shape)}")
    outside = torch.promote_types(points3d.dtype, torch.float32)
    inside = dtype or outside
    K = intrinsics(camera, points3d if points3d.dtype == inside else points3d.to(inside))
    if bounds is not None and bounds.shape[-1:] != (4,):
        raise ValueError(f"bounds must be (..., 4): u_min, v_min, u_max, v_max in pixels, got {tuple(bounds.shape)}")
    fixed = None
    if isinstance(robust, (Huber, Cauchy)):
        fixed = torch.as_tensor(robust.delta, dtype=inside, device=K.device)
    elif robust is not None and not isinstance(robust, AdaptiveHuber):
        raise ValueError(f"robust must be pnp.Huber, pnp.AdaptiveHuber, pnp.Cauchy or None, got {robust!r}")
    kernel = Kernel.SQUARES if robust is None else Kernel.CAUCHY if isinstance(robust, Cauchy) else Kernel.HUBER

    shapes = [points3d.shape[:-2], points2d.shape[:-2], weights.shape[:-2], K.shape[:-2]]
    shapes += [v.shape[:-k] if k else v.shape for v, k in ((pose, 2), (bounds, 1), (fixed, 0)) if v is not None]
    try:
        batch = torch.Size(np.broadcast_shapes(*shapes))  # torch.broadcast_shapes imports sympy: seconds
    except ValueError:
        raise ValueError(f"the batch dimensions of the arguments do not fit together: {[tuple(s) for s in shapes]}") from None

    def flat(value: Tensor, *trailing: int) -> Tensor:
        return value.to(K).expand((*batch, *trailing)).reshape(batch.numel(), *trailing)

    X, x, w, k = flat(points3d, n, 3), flat(points2d, n, 2), flat(weights, n, 2), flat(K, 3, 3)
    limits = k.new_full((len(k), 4), torch.inf) if bounds is None else flat(bounds, 4)
    if bounds is None:
        limits[:, :2] = -torch.inf
    used = (
        (w != 0).any(-1) if weighted else torch.ones(X.shape[:2], dtype=torch.bool, device=k.device)
    )  # NaN is not 0: it counts
    total = X.detach().sum() + x.detach().sum() + w.detach().sum() + k.detach().sum()
    everything = not weighted
    if not math.isfinite(total.item()):
        finite = torch.isfinite(X).all(-1) & torch.isfinite(x).all(-1) & torch.isfinite(w).all(-1)
        usable = torch.isfinite(k).flatten(1).all(1) & (finite | ~used).all(-1)
        used = used & usable[:, None]
        k = torch.where(usable[:, None, None], k, torch.eye(3).to(k))
        everything = False
    if not (everything or bool(used.all())):
        X, x, w = (torch.where(used[..., None], v, torch.zeros_like(v)) for v in (X, x, w))
    if fixed is not None:
        delta = flat(fixed)
    elif robust is None:
        delta = k.new_full((len(k),), torch.inf)
    else:
        assert isinstance(robust, AdaptiveHuber)
        delta = _adaptive(robust.relative, x.detach(), w, used)
    if robust is not None:
        delta = torch.where(delta > 0, delta, torch.ones_like(delta))  # nothing has weight: any threshold will do
    return Prepared(Problems(X, x, w, k, delta, limits, kernel, z_min), used, batch, outside)


def _adaptive(relative: float, points2d: Tensor, weights: Tensor, used: Tensor) -> Tensor:
    """(B,). Source: Chen et al., EPro-PnP, sec. 3.4 (adaptive Huber), over the points that are used."""
    count = used.sum(1).clamp_min(1).to(weights)
    mask = used[..., None].to(weights)
    mean = (points2d * mask).sum(1) / count[:, None]
    variance = ((points2d - mean[:, None]).square() * mask).sum((1, 2)) / (count - 1).clamp_min(1)
    return relative * weights.sum((1, 2)) / (2 * count) * variance.sqrt()
