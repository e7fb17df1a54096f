"""RANSAC: the pose that most correspondences agree with. On the CPU, in float64, without gradient."""

import importlib.util
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geometry.rotation import full_precision
from ..types import Camera
from . import kernels
from .problems import Prepared, Problems, _batch, intrinsics
from .solve import Solution, descend_and_judge, find_starts

NO_DELTA, NO_BOUNDS = np.array(np.inf), np.array([-np.inf, -np.inf, np.inf, np.inf])
LEAST = 20  # samples that are always drawn: the first pose that many agree with is not yet the best
NEAR = 1e-6  # times the object's size: the default of z_min
ROUNDS = 10  # most times that inliers and pose are computed from each other
AGAIN = 4  # most times that samples are added because the refined pose has fewer inliers than the best of the samples


class RobustSolution(NamedTuple):
    """What `ransac` found. For one problem as plain values; for a batch as tensors, and the reasons as a flat tuple.

    Args:
        cam_from_obj: (..., 4, 4), metres; the identity where no pose was found.
        inliers: which correspondences agree with `cam_from_obj`, (..., N), bool; all False where no pose was found.
        covariance: of the tangent (v, omega) applied on the camera side, (..., 6, 6), with the noise level of the inliers'
            residuals. Where no pose was found None, infinite in a batch.
        success: (...,), bool: a pose was found, and `confidence` is at least what was asked for.
        reason: why not, "" if so. A pose whose confidence is too low is there to be looked at.
        confidence: the probability that, with so many inliers, one of the samples drawn was of inliers alone, (...,).
        samples: how many were drawn, (...,); OpenCV does not say, and drew at least so many.
    """

    cam_from_obj: Tensor
    inliers: Tensor
    covariance: Tensor | None
    success: bool | Tensor
    reason: str | tuple[str, ...]
    confidence: float | Tensor
    samples: int | Tensor


@full_precision
def ransac(
    points3d: Tensor,
    points2d: Tensor,
    camera: Camera | Tensor,
    weights: Tensor | None = None,
    threshold_px: float | Tensor = 3.0,
    iterations: int = 20_000,
    confidence: float = 0.9999,
    seed: int = 0,
    min_inliers: int = 4,
    backend: str | None = None,
    init: Tensor | None = None,
    z_min: float | None = None,
) -> RobustSolution:
    """The pose that most correspondences agree with, refined on those.

    Args:
        points3d: (..., N, 3), metres, object frame.
        points2d: (..., N, 2), pixels.
        camera: Camera or intrinsics (..., 3, 3), pixels.
        weights: (..., N) or (..., N, 2), 1 / pixels, used in the refinement, or None. Points of weight 0 are absent.
        threshold_px: correspondences that project within this many pixels are inliers; a number, or (..., N) for one each.
        iterations: most samples of three points that are drawn. 20,000 find 10 % of inliers with the default confidence.
        confidence: stop as soon as a sample of inliers alone was drawn with this probability; between 0 and 1.
        seed: the same seed gives the same result, in a batch the one that each problem has alone.
        min_inliers: fewer different points are a failure; at least 4.
        backend: "poselib" or "opencv" to draw and solve the samples there; None does it here.
        init: a pose that competes with those of the samples, (..., 4, 4), metres, or None.
        z_min: points nearer than this are no inliers, metres; None is a millionth of the object's size.

    Returns:
        a RobustSolution. Too few, degenerate or non-finite correspondences never raise: rows with NaN are outliers, and without
        a pose `success` is False, `reason` says why and `cam_from_obj` is the identity.

    Raises:
        ValueError: on wrong shapes, options out of range or a camera with lens distortion.

    Source: Fischler and Bolles 1981; Torr and Zisserman, MLESAC, for the score; Chum et al., Locally optimized RANSAC, for
    the refinement inside the loop; final refinement by `solve`.
    """
    iterations = _whole("iterations", iterations, 1)
    seed, min_inliers = _whole("seed", seed, 0), _whole("min_inliers", min_inliers, 0)
    if not 0 < float(confidence) < 1:
        raise ValueError(f"confidence must be a probability above 0 and below 1, got {confidence}")
    given, first, has_first = _read(points3d, points2d, camera, weights, threshold_px, init, z_min)
    if backend not in (None, "poselib", "opencv"):
        raise ValueError(f'backend must be None, "poselib" or "opencv", got {backend!r}')
    if backend is None and kernels.backend(torch.device("cpu")) is None:  # no numba
        backend = "poselib" if importlib.util.find_spec("poselib") else "opencv"
    if backend is not None and (given.threshold != given.threshold[:, :1]).any():
        raise ValueError(f"thresholds of each point are for backend=None; {backend} knows one threshold_px for all points")
    search = {None: _own, "poselib": _one_by_one(_poselib), "opencv": _one_by_one(_opencv)}[backend]

    size, n = given.usable.shape
    need, of_sample = max(4, min_inliers), 4 if backend == "opencv" else 3
    reasons, total = [""] * size, given.different(given.usable)
    best = _Fit(
        np.tile(np.eye(4), (size, 1, 1)), np.zeros((size, n), bool), np.zeros(size, int), np.full((size, 6, 6), np.inf), reasons
    )
    samples, reached = np.zeros(size, np.int64), np.zeros(size)
    for b in np.flatnonzero(total < need):
        reasons[b] = f"{total[b]} different finite correspondences of {n}, at least {need} are needed"
    todo = np.flatnonzero(total >= need)
    for trial in range(AGAIN + 1):
        if not len(todo):
            break
        some, left = given.of(todo), iterations - int(samples[todo].max())
        pose, found, drawn = search(some, first[todo], has_first[todo], left, float(confidence), seed + trial)
        samples[todo] += drawn
        fit = _fit(some, pose, found, need)
        again = []
        for k, b in enumerate(todo):
            if fit.reasons[k] and trial == 0:
                reasons[b] = fit.reasons[k]
                continue
            if not fit.reasons[k] and fit.support[k] >= best.support[b]:
                for value, new in zip(best[:4], fit[:4]):
                    value[b] = new[k]
            reached[b] = _reached(
                int((best.inliers[b] & given.usable[b]).sum()), int(given.usable[b].sum()), int(samples[b]), of_sample
            )
            if reached[b] < confidence and samples[b] < iterations:
                again.append(b)
        # the refined pose may have fewer inliers than the one that the samples stopped for: then some more are due
        todo, first, has_first = np.array(again, int), best.pose, np.ones(size, bool)
    for b in range(size):
        if not reasons[b] and reached[b] < confidence:
            reasons[b] = (
                f"{samples[b]} samples reach a confidence of {reached[b]:.4g} with {best.support[b]} inliers of {total[b]}, "
                f"{confidence:.6g} was asked for; allow more iterations"
            )
    return _shaped(given, best, reached, samples, points3d)


def _shaped(given: "_Given", best: "_Fit", reached: np.ndarray, samples: np.ndarray, like: Tensor) -> RobustSolution:
    """In the caller's camera, dtype and batch."""
    size = len(reached)
    back = np.tile(np.eye(6), (size, 1, 1))
    back[:, :3, :3] = back[:, 3:, 3:] = given.turn.transpose(0, 2, 1)
    pose, none = best.pose.copy(), best.support == 0
    pose[:, :3] = np.where(none[:, None, None], pose[:, :3], back[:, :3, :3] @ pose[:, :3])
    with np.errstate(invalid="ignore"):
        turned = back @ best.covariance @ back.transpose(0, 2, 1)
    covariance = np.where(np.isfinite(best.covariance).all((1, 2))[:, None, None], turned, best.covariance)
    values = [torch.from_numpy(v) for v in (pose, best.inliers, covariance, np.array([not r for r in best.reasons], bool))]
    cam_from_obj, inliers, cov, success = (v.reshape(given.batch + v.shape[1:]).to(like.device) for v in values)
    cam_from_obj, cov = (v.to(torch.promote_types(like.dtype, torch.float32)) for v in (cam_from_obj, cov))
    if not given.batch:
        found = bool(np.isfinite(best.covariance).all())
        return RobustSolution(
            cam_from_obj, inliers, cov if found else None, bool(success), best.reasons[0], float(reached[0]), int(samples[0])
        )
    more = (torch.from_numpy(v).reshape(given.batch).to(like.device) for v in (reached, samples))
    return RobustSolution(cam_from_obj, inliers, cov, success, tuple(best.reasons), *more)


class _Given(NamedTuple):
    """Checked problems, flat and finite everywhere, float64.

    X (B, N, 3), x (B, N, 2), w (B, N, 2); K (B, 3, 3), upper triangular with a positive diagonal, of a camera that is turned by
    turn (B, 3, 3) from the caller's; threshold (B, N); present (B, N), bool: has weight, and is finite; usable (B, N), bool:
    those, each different row once; z_min (B,); area (B,), of the pixels' box; same (B, 2, N): equal numbers for equal 3D
    points, and for equal pixels, or (B, 0, N) where none are.
    """

    X: np.ndarray
    x: np.ndarray
    w: np.ndarray
    K: np.ndarray
    turn: np.ndarray
    threshold: np.ndarray
    present: np.ndarray
    usable: np.ndarray
    z_min: np.ndarray
    area: np.ndarray
    same: np.ndarray
    batch: torch.Size

    def of(self, rows: np.ndarray) -> "_Given":
        """Some of the problems."""
        if len(rows) == len(self.X):
            return self
        return _Given(*(v[rows] for v in self[:-1]), torch.Size([len(rows)]))

    def different(self, mask: np.ndarray) -> np.ndarray:
        """How many different 3D points, or pixels if those are fewer, are in a mask (B, N) of rows: (B,)."""
        if not self.same.shape[1]:
            return mask.sum(1)
        return np.array([min(len(np.unique(ids[m])) for ids in same) for same, m in zip(self.same, mask)], int)


def _read(
    points3d: Tensor, points2d: Tensor, camera: Camera | Tensor, weights: Tensor | None, threshold_px: float | Tensor,
    init: Tensor | None, z_min: float | None,
) -> tuple[_Given, np.ndarray, np.ndarray]:  # fmt: skip
    """The problems; poses to begin with, (B, 4, 4), in the camera of `_Given`; which of those there are, (B,)."""
    if points3d.dim() < 2 or points3d.shape[-1] != 3:
        raise ValueError(f"points3d must be (..., N, 3) metres, got {tuple(points3d.shape)}")
    n = points3d.shape[-2]
    if points2d.dim() < 2 or points2d.shape[-2:] != (n, 2):
        raise ValueError(f"points2d must be (..., {n}, 2) pixels to match points3d, got {tuple(points2d.shape)}")
    if weights is not None:
        if weights.dim() >= 1 and weights.shape[-1] == n and weights.shape[-2:] != (n, 2):
            weights = weights[..., None]
        elif weights.shape[-2:] != (n, 2):
            raise ValueError(f"weights must be (..., {n}) or (..., {n}, 2), got {tuple(weights.shape)}")
    px = torch.as_tensor(threshold_px, dtype=torch.float64)
    if px.dim() and px.shape[-1] != n:
        raise ValueError(f"threshold_px must be a number or (..., {n}), one for each point, got {tuple(px.shape)}")
    if not bool(((px > 0) & torch.isfinite(px)).all()):
        raise ValueError(f"threshold_px must be a positive number of pixels, got {threshold_px}")
    if init is not None and init.shape[-2:] != (4, 4):
        raise ValueError(f"init must be (..., 4, 4) metres, got {tuple(init.shape)}; geometry.se3.from_rt(R, t) builds it")
    if z_min is not None and not 0 <= float(z_min) < math.inf:
        raise ValueError(f"z_min must be a finite number of metres, at least 0, got {z_min}")
    K = intrinsics(camera, points3d.double())
    leading = [(points3d, 2), (points2d, 2), (weights, 2), (K, 2), (init, 2), (px, 1)]
    batch = _batch(*(v.shape[: max(v.dim() - k, 0)] for v, k in leading if v is not None))
    size = batch.numel()

    def flat(value: Tensor, *trailing: int) -> np.ndarray:
        value = value.detach().to("cpu", torch.float64)
        return np.ascontiguousarray(value.expand(*batch, *trailing).reshape(size, *trailing).numpy())

    X, x, k, threshold = flat(points3d, n, 3), flat(points2d, n, 2), flat(K, 3, 3), flat(px, n)
    w = np.ones((size, n, 2)) if weights is None else flat(weights, n, 2)
    present = np.isfinite(X.sum(-1) + x.sum(-1) + w.sum(-1)) & (np.abs(X).max(-1) < HUGE) if n else np.zeros((size, 0), bool)
    present &= (w != 0).any(-1)
    if not present.all():
        X, x, w = (np.where(present[..., None], v, 0.0) for v in (X, x, w))
    k, turn, sound = _plain_camera(k)
    present &= sound[:, None]
    usable, same = _different(X, x, present)
    first, has_first = np.tile(np.eye(4), (size, 1, 1)), np.zeros(size, bool)
    if init is not None:
        first = flat(init, 4, 4)
        has_first = np.isfinite(first).all((1, 2))
        first[~has_first] = np.eye(4)
        first[:, :3] = turn @ first[:, :3]
    area, extent = np.zeros(size), np.zeros(size)
    for b in range(size if n else 0):
        some, seen = X[b, present[b]], x[b, present[b]]
        if len(some):
            area[b] = np.ptp(seen[:, 0]) * np.ptp(seen[:, 1])
            extent[b] = np.ptp(some, 0).max()
    near = NEAR * extent if z_min is None else np.full(size, float(z_min))
    return _Given(X, x, w, k, turn, threshold, present, usable, near, area, same, batch), first, has_first


HUGE = 1e100  # coordinates whose squares would not be finite


def _different(X: np.ndarray, x: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`_Given.usable` and `_Given.same`."""
    size, n = present.shape
    usable = present.copy()
    keys = X[..., 0] + 0.7316 * X[..., 1] + 0.5281 * X[..., 2], x[..., 0] + 0.7316 * x[..., 1]  # equal where all are equal
    suspicious = False
    for key in keys:
        key = np.sort(np.where(present, key, np.arange(n) * 1e200), 1)
        suspicious = suspicious or bool((key[:, 1:] == key[:, :-1]).any())
    if not suspicious:
        return usable, np.zeros((size, 0, n), int)
    same = np.zeros((size, 2, n), int)
    for b in range(size):
        for which, value in enumerate((X[b], x[b])):
            same[b, which] = np.unique(value, axis=0, return_inverse=True)[1].reshape(-1)
        rows = np.flatnonzero(present[b])
        _, kept = np.unique(same[b, 0, rows] * n + same[b, 1, rows], return_index=True)
        usable[b] = False
        usable[b, rows[kept]] = True
    return usable, same


def _plain_camera(K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K = plain @ turn up to a factor: upper triangular, a rotation, (B, 3, 3), and whether there are such, (B,)."""
    plain, turn = K.copy(), np.tile(np.eye(3), (len(K), 1, 1))
    sound = np.isfinite(K).all((1, 2))
    for b in range(len(K)):
        k = K[b]
        if sound[b] and (k[1, 0] == 0 and k[2, 0] == 0 and k[2, 1] == 0 and k[2, 2] == 1 and k[0, 0] > 0 and k[1, 1] > 0):
            continue
        sound[b] = sound[b] and np.linalg.det(k) > 0 and np.linalg.cond(k) < 1e12
        if not sound[b]:
            plain[b] = np.eye(3)
            continue
        q, r = np.linalg.qr(k[::-1].T)
        r, q = r.T[::-1, ::-1], q.T[::-1]
        sign = np.where(np.diag(r) < 0, -1.0, 1.0)
        r, q = r * sign, sign[:, None] * q
        plain[b], turn[b] = r / r[2, 2], q
    return plain, turn, sound


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
    return int(value)


class _Fit(NamedTuple):
    """Refined poses of B problems: pose (B, 4, 4), inliers of it (B, N), support (B,), covariance (B, 6, 6), why not (B,)."""

    pose: np.ndarray
    inliers: np.ndarray
    support: np.ndarray
    covariance: np.ndarray
    reasons: list[str]


def _fit(given: _Given, pose: np.ndarray, found: np.ndarray, need: int) -> _Fit:
    """Least squares on the inliers, and inliers of the least squares, until they agree with each other."""
    size = len(given.usable)
    pose, reasons, covariance = pose.copy(), [""] * size, np.full((size, 6, 6), np.inf)
    inliers, support = _within(given, pose), np.zeros(size, np.int64)
    for b in np.flatnonzero(~found):
        reasons[b] = "no sample of three points gave a pose; are the points collinear or all the same?"
    total = given.different(given.usable)
    px = np.sqrt((given.threshold**2 * given.usable).sum(1) / np.maximum(given.usable.sum(1), 1))
    todo = np.flatnonzero(found)
    for trial in range(ROUNDS + 1):
        some = given.of(todo)
        support[todo] = some.different(some.usable & inliers[todo])
        for b in todo:
            beside = f"{support[b]} inliers of {total[b]} within {px[b]:.3g} px"
            if support[b] < need:
                reasons[b] = f"{beside}, at least {need} are needed"
            elif _may_be_chance(int(support[b]), int(total[b]), float(px[b]), float(given.area[b])):
                reasons[b] = f"{beside} may be chance; more or better matches are needed"
        todo = np.array([b for b in todo if not reasons[b]], int)
        if not len(todo) or trial == ROUNDS:
            break
        ends = _least_squares(given.of(todo), pose[todo], inliers[todo], trial == 0)
        for k, b in enumerate(todo):
            if not ends.converged[k]:
                reasons[b] = f"the {support[b]} inliers do not fix a pose; are they collinear, or the weights zero?"
        pose[todo], covariance[todo] = ends.cam_from_obj.numpy(), ends.covariance.numpy()
        now = _within(given.of(todo), pose[todo])
        changed = (now != inliers[todo]).any(1)
        inliers[todo] = now
        todo = np.array([b for k, b in enumerate(todo) if changed[k] and not reasons[b]], int)
        if not len(todo):
            break
    return _Fit(pose, inliers, support, covariance, reasons)


def _least_squares(given: _Given, pose: np.ndarray, inliers: np.ndarray, more_starts: bool) -> Solution:
    """`solve` on the different inliers, from `pose` (B, 4, 4), about their centre and at their size; all is finite here.

    With more_starts also from the points alone: a plane seen from afar has two poses that fit nearly as well.
    """
    use = inliers & given.usable
    size, most = len(use), int(use.sum(1).max())
    order = np.argsort(~use, axis=1, kind="stable")[:, :most]
    use = np.take_along_axis(use, order, 1)[..., None]
    X, x, w = (np.take_along_axis(v, order[..., None], 1) for v in (given.X, given.x, given.w))
    count = use.sum(1, keepdims=True)
    centre = (X * use).sum(1, keepdims=True) / count
    X = np.where(use, X - centre, 0.0)
    scale = np.sqrt((X * X).sum((1, 2), keepdims=True) / count)
    scale = np.where(scale > 0, scale, 1.0)
    X, x, w = X / scale, np.where(use, x, 0.0), np.where(use, w, 0.0)
    start = pose.copy()
    start[:, :3, 3:] = (pose[:, :3, 3:] + pose[:, :3, :3] @ centre.transpose(0, 2, 1)) / scale
    points3d, points2d, weights, k = (torch.from_numpy(v) for v in (X, x, w, given.K))
    delta, bounds = torch.from_numpy(NO_DELTA).expand(size), torch.from_numpy(NO_BOUNDS).expand(size, 4)
    problems = Problems(points3d, points2d, weights, k, delta, bounds, z_min=NEAR)
    prepared = Prepared(problems, (weights != 0).any(-1), torch.Size([size]), torch.float64)
    starts = torch.from_numpy(start)[:, None]
    if more_starts:
        starts = torch.cat([starts, find_starts(problems, 6, 2)], 1)
    ends = descend_and_judge(prepared, starts, 6, 30, True, False)
    # back to metres, and to the object's own origin: t = scale t' - R centre
    R = ends.cam_from_obj[:, :3, :3].numpy()
    arm = R @ centre.transpose(0, 2, 1)
    out = ends.cam_from_obj.clone()
    out[:, :3, 3:] = torch.from_numpy(ends.cam_from_obj[:, :3, 3:].numpy() * scale - arm)
    move = np.tile(np.eye(6), (size, 1, 1))
    move[:, :3, :3] *= scale
    a, b, c = arm[:, 0, 0], arm[:, 1, 0], arm[:, 2, 0]
    move[:, 0, 4], move[:, 0, 5], move[:, 1, 3], move[:, 1, 5], move[:, 2, 3], move[:, 2, 4] = -c, b, c, -a, -b, a
    # the variance of a weighted residual
    noise = 2 * ends.cost.numpy() / np.maximum(2 * count[:, 0, 0] - 6, 1)
    covariance = noise[:, None, None] * (move @ ends.covariance.numpy() @ move.transpose(0, 2, 1))
    return ends._replace(cam_from_obj=out, covariance=torch.from_numpy(covariance))


def _within(given: _Given, pose: np.ndarray) -> np.ndarray:
    """Which points lie in front of the camera and project within their threshold, (B, N)."""
    with np.errstate(all="ignore"):  # what overflows is not within
        p = given.X @ pose[:, :3, :3].transpose(0, 2, 1) + pose[:, None, :3, 3]
        h = p @ given.K.transpose(0, 2, 1)
        square = ((h[..., :2] / h[..., 2:] - given.x) ** 2).sum(-1)
        found: np.ndarray = given.present & (h[..., 2] > given.z_min[:, None]) & (square <= given.threshold**2)
    return found


def _may_be_chance(count: int, total: int, threshold_px: float, area: float) -> bool:
    """Whether so many of `total` pixels, spread at random over `area`, would be expected to agree with some sample of three.

    Source: a contrario RANSAC, Moisan and Stival 2004, eq. 4: the number of false alarms, at least 1.
    """
    chance = min(1.0, math.pi * threshold_px**2 / max(area, 1e-12))
    choose = math.lgamma(total + 1) - math.lgamma(total - count + 1) - math.lgamma(4) - math.lgamma(count - 2)
    return math.log(4 * (total - 3) or 1) + choose + (count - 3) * math.log(chance) >= 0


def _reached(inliers: int, total: int, samples: int, of: int) -> float:
    """The probability that one of `samples` samples of `of` points was of inliers alone."""
    share = math.comb(inliers, of) / max(math.comb(total, of), 1)
    return 1.0 if share >= 1 and samples else -math.expm1(samples * math.log1p(-share)) if share < 1 else 0.0


# ------------------------------------------------------------------------------------------------------------------ samples

# Each takes problems, poses to begin with (B, 4, 4) and which there are (B,), and returns poses, which were found, and samples
# drawn.
_Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def _own(given: _Given, first: np.ndarray, has_first: np.ndarray, tries: int, confidence: float, seed: int) -> _Found:
    from .kernels import cpu, numba_ransac

    size, n = given.usable.shape
    pose, found, drawn = np.empty((size, 4, 4)), np.empty(size, np.bool_), np.empty(size, np.int64)
    arrays = [given.X, given.x, given.threshold, given.usable, given.K, first, has_first, given.z_min, pose, found, drawn]
    cpu.spread(numba_ransac.search, 400 * size * n, arrays, tries, LEAST, confidence, seed)
    return pose, found, drawn


def _one_by_one(one: Callable[..., Any]) -> Callable[..., _Found]:
    """Of a function of X, x, K, pixels, most samples, confidence and seed that returns a pose or None, and samples drawn."""

    def search(given: _Given, first: np.ndarray, has_first: np.ndarray, tries: int, confidence: float, seed: int) -> _Found:
        def of(b: int) -> tuple[np.ndarray | None, int]:
            use = given.usable[b]
            centre = np.median(given.X[b, use], 0)  # an object far from its origin would lose digits
            pose, drawn = one(
                given.X[b, use] - centre, given.x[b, use], given.K[b], float(given.threshold[b, 0]), tries, confidence, seed
            )
            if pose is None or not np.isfinite(pose).all():
                return None, drawn
            pose[:3, 3] -= pose[:3, :3] @ centre
            return pose, drawn

        size = len(given.X)
        if size > 1:
            with ThreadPoolExecutor(min(size, torch.get_num_threads())) as pool:
                results = list(pool.map(of, range(size)))
        else:
            results = [of(b) for b in range(size)]
        found = np.array([pose is not None for pose, _ in results], bool)
        poses = np.stack([np.eye(4) if pose is None else pose for pose, _ in results])
        if has_first.any():  # neither library takes a pose to begin with
            better = has_first & (~found | (_score(given, first) < _score(given, poses)))
            poses, found = np.where(better[:, None, None], first, poses), found | has_first
        return poses, found, np.array([drawn for _, drawn in results], np.int64)

    return search


def _score(given: _Given, pose: np.ndarray) -> np.ndarray:
    """How many points are not within, (B,)."""
    return -(_within(given, pose) & given.usable).sum(1)


def _opencv(
    X: np.ndarray, x: np.ndarray, K: np.ndarray, px: float, tries: int, confidence: float, seed: int
) -> tuple[np.ndarray | None, int]:
    """AP3P samples, of four points. OpenCV always draws the same numbers, so the seed permutes the points."""
    import cv2

    order = np.random.default_rng(seed).permutation(len(X))
    ok, _, _, inliers = cv2.solvePnPRansac(
        X[order], x[order], K, None,
        iterationsCount=tries, reprojectionError=px, confidence=confidence, flags=cv2.SOLVEPNP_AP3P,
    )  # fmt: skip
    if not ok or inliers is None:
        return None, tries
    agreed = order[inliers[:, 0]]
    # it does not say how many it drew: no fewer than its rule asks for with the inliers that it ended with
    share = (len(agreed) / len(X)) ** 4
    drawn = tries if share < 1e-12 else 1 if share >= 1 else math.ceil(math.log1p(-confidence) / math.log1p(-share))
    ok, rvec, tvec = cv2.solvePnP(X[agreed], x[agreed], K, None, flags=cv2.SOLVEPNP_SQPNP)  # its own is EPnP's: not for planes
    return _pose(cv2.Rodrigues(rvec)[0], tvec) if ok else None, min(drawn, tries)


def _poselib(
    X: np.ndarray, x: np.ndarray, K: np.ndarray, px: float, tries: int, confidence: float, seed: int
) -> tuple[np.ndarray | None, int]:
    """P3P samples with local optimisation. PoseLib knows no skew: that and the principal point are taken out of the pixels.

    PoseLib would take three times the samples that the confidence asks for, and end with iterations of a robust loss. The
    refinement on the inliers that follows here makes up for both, faster and closer to the least squares.
    """
    import poselib

    pixels = x - K[:2, 2]
    pixels[:, 0] -= K[0, 1] / K[1, 1] * pixels[:, 1]
    camera = {"model": "PINHOLE", "width": 1, "height": 1, "params": [K[0, 0], K[1, 1], 0.0, 0.0]}
    options = {"max_reproj_error": px, "max_iterations": tries, "min_iterations": min(tries, LEAST), "dyn_num_trials_mult": 1.0,
               "success_prob": confidence, "seed": seed}  # fmt: skip
    pose, info = poselib.estimate_absolute_pose(pixels, X, camera, options, {"max_iterations": 0})
    return _pose(pose.R, pose.t) if info["num_inliers"] > 0 else None, int(info["iterations"])


def _pose(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, t.reshape(3)
    return pose
