"""What the caller gives -> flat, checked batches of problems in frames of their own."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..types import Camera
from . import checks
from .problems import NEAREST, UNBOUNDED, AdaptiveHuber, Cauchy, Huber, Kernel, Problems, Robust

LARGEST = {
    torch.float32: 1e15,
    torch.float64: 1e100,
}  # thresholds of Cauchy's: far above any residual, and their squares are numbers
MANY = 1024  # rows of a constant from which it is one row to all: what is kept would be large


class Prepared(NamedTuple):
    """What `prepare` returns.

    Args:
        problems: flat, (B, ...), finite everywhere: points that are not used have weight 0 and coordinates 0.
        used: which points count, (B, N), bool: those with a weight, in problems whose numbers are all finite.
        batch: the shape that B was.
        dtype: of the results, that of points3d, at least float32.
        frame: in which a problem is to be solved, see `own`.
        usable: (B,), bool, whether a problem's numbers are finite, its K a camera, its bounds in order; None where all are.
    """

    problems: Problems
    used: Tensor
    batch: torch.Size
    dtype: torch.dtype
    frame: checks.Frame
    usable: Tensor | None = None

    def own(self) -> Problems:
        """The problems in their own frames: centred, of unit size, with depths in the same unit as before. Differentiable."""
        return in_frame(self.problems, self.frame)

    def flat(self, value: Tensor, *trailing: int) -> Tensor:
        """Expand (..., *trailing) to the batch and flatten it: (B, *trailing)."""
        return flattened(value, self.batch, *trailing, like=self.problems.K)

    def shaped(self, value: Tensor) -> Tensor:
        """Undo `flat` for a result: (B, ...) -> (*batch, ...), floating point in the dtype of the results."""
        if value.is_floating_point() and value.dtype != self.dtype:
            value = value.to(self.dtype)
        return value if len(self.batch) == 1 else value.reshape((*self.batch, *value.shape[1:]))


def in_frame(problems: Problems, frame: checks.Frame) -> Problems:
    """Flat problems with their points in a frame, and depths in the same unit as before. Differentiable."""
    K = problems.K * frame.scale.to(problems.K)[:, None, None]
    return problems._replace(points3d=frame.points(problems.points3d), K=K)


def flattened(value: Tensor, batch: torch.Size, *trailing: int, like: Tensor) -> Tensor:
    if value.dtype != like.dtype or value.device != like.device:
        value = value.to(like)
    if len(batch) == 1 and value.shape == (*batch, *trailing):
        return value  # what takes the time of a small batch is calls
    try:
        return value.expand((*batch, *trailing)).reshape(batch.numel(), *trailing)
    except RuntimeError:
        raise ValueError(
            f"expected a shape that broadcasts to {(*batch, *trailing)}, the problems', got {tuple(value.shape)}"
        ) from None


def flat_batch(*shapes: torch.Size) -> torch.Size:
    """To which the leading dimensions broadcast."""
    several = {shape for shape in shapes if len(shape)}
    if len(several) <= 1:
        return several.pop() if several else torch.Size()
    try:
        return torch.Size(np.broadcast_shapes(*several))  # torch.broadcast_shapes imports sympy: seconds
    except ValueError:
        raise ValueError(f"the batch dimensions of the arguments do not fit together: {[tuple(s) for s in shapes]}") from None


@lru_cache(maxsize=16)
def constant(values: tuple[float, ...] | float, dtype: torch.dtype, device: torch.device, size: int | None = None) -> Tensor:
    """A tensor, or one of `size` such rows, that is made once and not at every call. Not to be written to."""
    with torch.inference_mode(False):  # what autograd could not save otherwise
        row = torch.tensor(values, dtype=dtype, device=device)
        if size is None:
            return row
        return row.expand(size, *row.shape) if size > MANY else row.repeat(size, *[1] * row.dim())


def intrinsics(camera: Camera | Tensor, like: Tensor) -> Tensor:
    """The K of a Camera, or K itself, (..., 3, 3), with the dtype and device of `like`.

    Raises:
        ValueError: if the shape is not (..., 3, 3), or the camera has lens distortion.
    """
    if isinstance(camera, Camera):
        if camera.distortion is not None and bool((camera.distortion != 0).any()):
            raise ValueError(
                "PnP needs pixels of a camera without lens distortion; undistort the image, or the points by pnp.undistort, "
                "then pass Camera(K, size)"
            )
        camera = camera.K
    K = checks.tensor("camera", camera)
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
    z_min: float | None = None,
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
        z_min: metres, or None for `NEAREST` of each problem's scale.
        pose: the start, (..., 4, 4), metres, or None; its batch takes part in the broadcast.
        dtype: of the arithmetic; None is that of points3d, at least float32.

    Raises:
        ValueError: on shapes that do not fit, options out of range a camera with distortion; never for what the numbers are.
    """
    points3d, points2d = checks.tensor("points3d", points3d), checks.tensor("points2d", points2d)
    weights = None if weights is None else checks.tensor("weights", weights)
    bounds = None if bounds is None else checks.tensor("bounds", bounds)
    pose = None if pose is None else checks.tensor("init", pose)
    if points3d.dim() < 2 or points3d.shape[-1] != 3:
        raise ValueError(
            f"points3d must be (..., N, 3) metres, got {tuple(points3d.shape)}; transpose the last two dimensions?"
        )
    n = points3d.shape[-2]
    if points2d.dim() < 2 or points2d.shape[-2:] != (n, 2):
        raise ValueError(f"points2d must be (..., {n}, 2) pixels to match points3d, got {tuple(points2d.shape)}")
    if pose is not None and pose.shape[-2:] != (4, 4):
        raise ValueError(f"init must be (..., 4, 4) metres, got {tuple(pose.shape)}; geometry.se3.from_rt(R, t) builds it")
    if weights is None or (weights.dim() >= 2 and weights.shape[-2:] == (n, 2)):
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
    z_min = None if z_min is None else checks.number("z_min", z_min, above=0)
    fixed = None
    if isinstance(robust, (Huber, Cauchy)):
        delta = checks.positive(f"{type(robust).__name__}'s delta", robust.delta)
        fixed = torch.as_tensor(delta, dtype=inside, device=K.device)
    elif isinstance(robust, AdaptiveHuber):
        checks.number("AdaptiveHuber's relative", robust.relative, above=0)
    elif robust is not None and not isinstance(robust, AdaptiveHuber):
        raise ValueError(f"robust must be pnp.Huber, pnp.AdaptiveHuber, pnp.Cauchy or None, got {robust!r}")
    kernel = Kernel.SQUARES if robust is None else Kernel.CAUCHY if isinstance(robust, Cauchy) else Kernel.HUBER

    leading = [(points3d, 2), (points2d, 2), (weights, 2), (K, 2), (pose, 2), (bounds, 1), (fixed, 0)]
    batch = flat_batch(*(v.shape[: v.dim() - k] for v, k in leading if v is not None))
    size = batch.numel()
    X, x, k = (flattened(v, batch, *trailing, like=K) for v, trailing in ((points3d, (n, 3)), (points2d, (n, 2)), (K, (3, 3))))
    w = K.new_ones((size, n, 2)) if weights is None else flattened(weights, batch, n, 2, like=K)
    limits = constant(UNBOUNDED, K.dtype, K.device, size) if bounds is None else flattened(bounds, batch, 4, like=K)
    relative, weighted, usable = z_min is None, weights is not None, None
    frame, factor, used, out = frames(X, x, w, weighted, k, relative)
    if out == 2:
        finite = torch.isfinite(X).all(-1) & torch.isfinite(x).all(-1) & torch.isfinite(w).all(-1)
        usable = checks.is_camera(k) & (finite | ~used).all(-1)
        used = used & usable[:, None]
        k = torch.where(usable[:, None, None], k, torch.eye(3, dtype=k.dtype, device=k.device))
    if out:
        X, x, w = (torch.where(used[..., None], v, 0.0) for v in (X, x, w))
    if out == 2:
        frame, factor, _, _ = frames(X, x, w, True, k, relative)
    if robust is None:
        delta = constant(math.inf, K.dtype, K.device, size)
    elif fixed is not None:
        delta = flattened(fixed, batch, like=K)
        if kernel == Kernel.CAUCHY:
            delta = delta.clamp_max(LARGEST[inside])
        good = delta > 0
        if good.device.type != "cpu" or not bool(good.all()):
            usable = good if usable is None else usable & good
            used, delta = used & good[:, None], torch.where(good, delta, 1.0)
            w = torch.where(used[..., None], w, 0.0)
    else:
        assert isinstance(robust, AdaptiveHuber)
        delta = _adaptive(robust.relative, x.detach(), w, used)
        delta = torch.where(delta > 0, delta, 1.0)  # nothing has weight: any threshold will do
    if bounds is not None:
        good = (limits[:, :2] < limits[:, 2:]).all(-1)  # not of NaN
        usable = good if usable is None else usable & good
        limits = torch.where(good[:, None], limits, constant(UNBOUNDED, K.dtype, K.device))
    k = k * factor.view(size, 1, 1)
    return Prepared(
        Problems(X, x, w, k, delta, limits, kernel, NEAREST if z_min is None else z_min), used, batch, outside, frame, usable
    )


def frames(
    X: Tensor, x: Tensor, w: Tensor, weighted: bool, K: Tensor, relative: bool
) -> tuple[checks.Frame, Tensor, Tensor, int]:
    """The frames of flat problems; what K is multiplied with, (B,): then depths are metres, or own units if relative; which
    points have weight, (B, N), bool; and what is to be taken out: 0 nothing, 1 points without weight, 2 problems, perhaps."""
    from . import kernels  # which imports this module

    fused = kernels.backend(X.device)
    if fused is not None and hasattr(fused, "frames"):
        return fused.frames(X, x, w, weighted, K, relative)  # type: ignore[no-any-return]
    frame, depth = checks.frame(X, w if weighted else None), checks.scale_of(K.detach())
    used = (w != 0).any(-1)  # NaN is not 0: it counts
    return frame, 1 / (depth * frame.scale if relative else depth), used, 2  # a device would have to be waited for


def _adaptive(relative: float, points2d: Tensor, weights: Tensor, used: Tensor) -> Tensor:
    """(B,). Source: Chen et al., EPro-PnP, sec. 3.4 (adaptive Huber), over the points that are used."""
    count = used.sum(1).clamp_min(1).to(weights)
    mask = used[..., None].to(weights)
    mean = (points2d * mask).sum(1) / count[:, None]
    variance = ((points2d - mean[:, None]).square() * mask).sum((1, 2)) / (count - 1).clamp_min(1)
    return relative * weights.abs().sum((1, 2)) / (2 * count) * variance.sqrt()
