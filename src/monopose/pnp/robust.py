"""RANSAC: the pose that most correspondences agree with. On the CPU, in float64, without gradient."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geometry.rotation import full_precision
from ..types import Camera
from . import checks
from .opaque import opaque
from .prepare import Prepared, constant, flat_batch, intrinsics
from .problems import UNBOUNDED, Problems
from .solve import initial_poses, solve_from

LEAST = 20  # samples that are always drawn: the first pose that many agree with is not yet the best
NEAR = 1e-6  # times the object's size: the default of z_min
CROWD = 0.5  # thresholds: inliers that are nearer to each other in the image are one correspondence, often repeated
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


@opaque
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
    points3d = checks.tensor("points3d", points3d)
    iterations, seed = checks.whole("iterations", iterations, 1), checks.whole("seed", seed, 0, 2**62)
    min_inliers = checks.whole("min_inliers", min_inliers)
    confidence = checks.number("confidence", confidence, above=0, below=1)
    if backend not in (None, "poselib", "opencv"):
        raise ValueError(f'backend must be None, "poselib" or "opencv", got {backend!r}')
    given, first, has_first = _read(points3d, points2d, camera, weights, threshold_px, init, z_min)
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
    for b in np.flatnonzero(total < need).tolist():
        why = "" if total[b] else "; none counts if K is no camera: singular, transposed, of a mirror"
        reasons[b] = f"{total[b]} different finite correspondences of {n}, at least {need} are needed{why}"
    todo = np.flatnonzero(total >= need)
    for trial in range(AGAIN + 1):
        if not len(todo):
            break
        some, left = given.of(todo), iterations - samples[todo]
        pose, found, drawn = search(some, first[todo], has_first[todo], left, confidence, seed + trial)
        samples[todo] += drawn
        fit = _fit(some, pose, found, need)
        again: list[int] = []
        for k, b in enumerate(todo.tolist()):
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
    pose, covariance = best.pose, best.covariance
    if given.turn is not None:
        found, back = best.support > 0, given.turn.transpose(0, 2, 1)
        pose[found, :3] = back[found] @ pose[found, :3]
        both = np.zeros((len(pose), 6, 6))
        both[:, :3, :3] = both[:, 3:, 3:] = back
        covariance[found] = both[found] @ covariance[found] @ both[found].transpose(0, 2, 1)
    real, device = torch.promote_types(like.dtype, torch.float32), like.device
    cam_from_obj = torch.from_numpy(pose).to(device, real).reshape(*given.batch, 4, 4)
    inliers = torch.from_numpy(best.inliers).to(device).reshape(*given.batch, best.inliers.shape[1])
    cov = torch.from_numpy(covariance).to(device, real).reshape(*given.batch, 6, 6)
    if not given.batch:
        reason = best.reasons[0]
        return RobustSolution(
            cam_from_obj, inliers, cov if best.support[0] else None, not reason, reason, float(reached[0]), int(samples[0])
        )
    success = np.array([not reason for reason in best.reasons], bool)
    more = [torch.from_numpy(v).to(device).reshape(given.batch) for v in (success, reached, samples)]
    return RobustSolution(cam_from_obj, inliers, cov, more[0], tuple(best.reasons), more[1], more[2])


class _Given(NamedTuple):
    """Checked problems, flat and finite everywhere, float64.

    X (B, N, 3), x (B, N, 2), w (B, N, 2); K (B, 3, 3), upper triangular with a positive diagonal, of a camera that is turned by
    turn (B, 3, 3) from the caller's, or None for not at all; threshold (B, N); present (B, N), bool: has weight, and is finite;
    usable (B, N), bool: those, each different row once; z_min (B,); area (B,), of the pixels; same (B, 2, N): equal
    numbers for equal 3D points, and for equal pixels, or None where all differ.
    """

    X: np.ndarray
    x: np.ndarray
    w: np.ndarray
    K: np.ndarray
    turn: np.ndarray | None
    threshold: np.ndarray
    present: np.ndarray
    usable: np.ndarray
    z_min: np.ndarray
    area: np.ndarray
    same: np.ndarray | None
    batch: torch.Size

    def of(self, rows: np.ndarray) -> "_Given":
        """Some of the problems."""
        if len(rows) == len(self.X):
            return self
        some = [None if v is None else v[rows] for v in self[:-1]]
        return _Given(*some, batch=torch.Size([len(rows)]))  # type: ignore[arg-type, misc]

    def different(self, mask: np.ndarray) -> np.ndarray:
        """How many different 3D points, or pixels if those are fewer, are in a mask (B, N) of rows: (B,)."""
        if self.same is None:
            return mask.sum(1)
        return np.array([min(len(np.unique(ids[m])) for ids in same) for same, m in zip(self.same, mask)], int)


def _read(
    points3d: Tensor, points2d: Tensor, camera: Camera | Tensor, weights: Tensor | None, threshold_px: float | Tensor,
    init: Tensor | None, z_min: float | None,
) -> tuple[_Given, np.ndarray, np.ndarray]:  # fmt: skip
    """The problems; poses to begin with, (B, 4, 4), in the camera of `_Given`; which of those there are, (B,)."""
    from .kernels import numba_ransac

    points2d = checks.tensor("points2d", points2d)
    if points3d.dim() < 2 or points3d.shape[-1] != 3:
        raise ValueError(f"points3d must be (..., N, 3) metres, got {tuple(points3d.shape)}")
    n = points3d.shape[-2]
    if points2d.dim() < 2 or points2d.shape[-2:] != (n, 2):
        raise ValueError(f"points2d must be (..., {n}, 2) pixels to match points3d, got {tuple(points2d.shape)}")
    if weights is not None:
        weights = checks.tensor("weights", weights)
        if weights.dim() >= 1 and weights.shape[-1] == n and weights.shape[-2:] != (n, 2):
            weights = weights[..., None]
        elif weights.shape[-2:] != (n, 2):
            raise ValueError(f"weights must be (..., {n}) or (..., {n}, 2), got {tuple(weights.shape)}")
    px = checks.tensor("threshold_px", threshold_px).double().cpu()
    if px.dim() and px.shape[-1] != n:
        raise ValueError(f"threshold_px must be a number or (..., {n}), one for each point, got {tuple(px.shape)}")
    if not bool(((px > 0) & torch.isfinite(px)).all()):
        raise ValueError(f"threshold_px must be a positive number of pixels, got {threshold_px}")
    if init is not None:
        init = checks.tensor("init", init)
        if init.shape[-2:] != (4, 4):
            raise ValueError(f"init must be (..., 4, 4) metres, got {tuple(init.shape)}; geometry.se3.from_rt(R, t) builds it")
    if z_min is not None:
        z_min = checks.number("z_min", z_min, least=0)
    K = intrinsics(camera, points3d.double())
    leading = [(points3d, 2), (points2d, 2), (weights, 2), (K, 2), (init, 2), (px, min(px.dim(), 1))]
    batch = flat_batch(*(v.shape[: v.dim() - k] for v, k in leading if v is not None))
    size = batch.numel()

    def flat(value: Tensor, *trailing: int) -> Tensor:
        value = value.detach().to("cpu", torch.float64)
        return value.expand(*batch, *trailing).reshape(size, *trailing)

    def writable(value: Tensor, *trailing: int) -> np.ndarray:
        return flat(value, *trailing).clone(memory_format=torch.contiguous_format).numpy()

    X, x, threshold = writable(points3d, n, 3), writable(points2d, n, 2), writable(px, n)
    w = np.ones((size, n, 2)) if weights is None else writable(weights, n, 2)
    present, keys, extent, area = np.empty((size, n), bool), np.empty((2, size, n)), np.empty(size), np.empty(size)
    numba_ransac.read(X, x, w, threshold, present, keys, extent, area)
    k, turn = flat(K, 3, 3), None
    if not _plain(k):
        good, k = checks.is_camera(k), k / checks.scale_of(k)[:, None, None]
        k, turns = checks.split_camera(torch.where(good[:, None, None], k, torch.eye(3).to(k)))
        good = good & (k[:, 0, 0] > 0)  # a mirror is no camera
        present &= good.numpy()[:, None]
        turn = turns.numpy()
    usable, same = _different(X, x, present, keys)
    first, has_first = np.empty((size, 4, 4)), np.zeros(size, bool)
    if init is not None:
        made, near = checks.rigid(flat(init, 4, 4))
        first, has_first = made.numpy().copy(), near.numpy()
        if turn is not None:
            first[:, :3] = turn @ first[:, :3]
    z = NEAR * extent if z_min is None else np.full(size, z_min)
    kept = np.ascontiguousarray(k.numpy())
    return _Given(X, x, w, kept, turn, threshold, present, usable, z, area, same, batch), first, has_first


def _plain(K: Tensor) -> bool:
    """Whether all K (B, 3, 3) are finite, upper triangular with a positive diagonal that ends in 1."""
    k = K.numpy().reshape(-1, 9)
    return bool(((k[:, [3, 6, 7]] == 0) & (k[:, [0, 4, 8]] > 0) & (k[:, 8:] == 1) & np.isfinite(k).all(1, keepdims=True)).all())


def _different(X: np.ndarray, x: np.ndarray, present: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """`_Given.usable` and `_Given.same`."""
    keys = np.sort(keys, -1)
    if not (keys[..., 1:] == keys[..., :-1]).any():
        return present, None
    size, n = present.shape
    usable, same = np.zeros_like(present), np.zeros((size, 2, n), int)
    for b in range(size):
        for which, value in enumerate((X[b], x[b])):
            same[b, which] = np.unique(value, axis=0, return_inverse=True)[1].reshape(-1)
        rows = np.flatnonzero(present[b])
        _, kept = np.unique(same[b, 0, rows] * n + same[b, 1, rows], return_index=True)
        usable[b, rows[kept]] = True
    return usable, same


class _Fit(NamedTuple):
    """Refined poses of B problems: pose (B, 4, 4), inliers of it (B, N), support (B,), covariance (B, 6, 6), why not (B,)."""

    pose: np.ndarray
    inliers: np.ndarray
    support: np.ndarray
    covariance: np.ndarray
    reasons: list[str]


def _fit(given: _Given, pose: np.ndarray, found: np.ndarray, need: int) -> _Fit:
    """Least squares on the inliers, and inliers of the least squares, until they agree with each other."""
    from .kernels import numba_ransac

    size, n = given.usable.shape
    reasons, covariance = ["" if ok else NO_SAMPLE for ok in found], np.full((size, 6, 6), np.inf)
    inliers, support, total = np.zeros((size, n), bool), np.zeros(size, np.int64), given.different(given.usable)
    todo, every = np.flatnonzero(found), len(given.X)
    for trial in range(ROUNDS + 1):
        if not len(todo):
            break
        some, whole = given.of(todo), len(todo) == every
        masks, counts, changed = inliers if whole else inliers[todo], np.empty(len(todo), np.int64), np.empty(len(todo), bool)
        numba_ransac.within(
            some.X, some.x, some.threshold, some.present, some.usable, some.K, some.z_min, pose if whole else pose[todo],
            masks, counts, changed,
        )  # fmt: skip
        different = counts if given.same is None else some.different(masks & some.usable)
        going = []
        for k, b in enumerate(todo.tolist()):
            count, all_of = int(different[k]), int(total[b])
            inliers[b], support[b] = masks[k], count
            if count < need:
                reasons[b] = f"{_beside(given, b, count, all_of)}, at least {need} are needed"
            elif _may_be_chance(count, all_of, float(given.threshold[b].mean()), float(given.area[b])):
                reasons[b] = f"{_beside(given, b, count, all_of)} may be chance; more or better matches are needed"
            elif trial == 0 or changed[k]:
                going.append(k)
        if not going or trial == ROUNDS:
            break
        if len(going) < len(todo):
            todo, counts, masks = todo[going], counts[going], masks[going]
        whole = len(todo) == every
        new, cov, good = _least_squares(given.of(todo), pose if whole else pose[todo], masks, counts, trial == 0)
        pose[todo], covariance[todo] = new, cov
        if not good.all():
            for b in todo[~good]:
                reasons[b] = f"the {support[b]} inliers do not fix a pose; are they collinear, or the weights zero?"
            todo = todo[good]
    for b in np.flatnonzero(found).tolist():
        if not reasons[b] and (crowded := _crowded(given, b, inliers[b] & given.usable[b])) is not None:
            count, all_of = crowded
            if count < 4 or _may_be_chance(count, all_of, float(given.threshold[b].mean()), float(given.area[b])):
                reasons[b] = (
                    f"most of the {support[b]} inliers are in one place of the image, {count - 1} elsewhere may be chance"
                )
    return _Fit(pose, inliers, support, covariance, reasons)


def _crowded(given: _Given, b: int, inliers: np.ndarray) -> tuple[int, int] | None:
    """How many inliers, of how many points, there are if a crowd in one place counts as one; None where there is none.

    A crowd is more than half of the inliers, within `CROWD` thresholds of their median pixel: any pose that takes the place to
    the pixel agrees with all of it, wherever two or three more points are.
    """
    count, reach, inside = int(inliers.sum()), CROWD * float(given.threshold[b].mean()), np.ones(len(inliers), bool)
    for pixels in given.x[b].T:
        middle = np.partition(pixels[inliers], count // 2)[count // 2]  # np.median takes longer than all of the rest
        inside &= np.abs(pixels - middle) <= reach
        crowd = int((inside & inliers).sum())
        if 2 * crowd <= count:
            return None
    return count - crowd + 1, int((given.usable[b] & ~inside).sum()) + 1


NO_SAMPLE = "no sample of three points gave a pose; are the points collinear or all the same?"


def _beside(given: _Given, b: int, count: int, total: int) -> str:
    return f"{count} inliers of {total} within {given.threshold[b].mean():.3g} px"


def _least_squares(
    given: _Given, pose: np.ndarray, inliers: np.ndarray, counts: np.ndarray, more_starts: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`solve` on the different inliers, from `pose` (B, 4, 4), about their centre and at their size; all is finite here.

    With more_starts also from the points alone: a plane seen from afar has two poses that fit nearly as well.

    Returns:
        poses (B, 4, 4), covariances (B, 6, 6), which are solved (B,).
    """
    from .kernels import numba_ransac

    size, most = len(pose), int(counts.max())
    X, x, w = np.empty((size, most, 3)), np.empty((size, most, 2)), np.empty((size, most, 2))
    start, centre, scale = np.empty((size, 4, 4)), np.empty((size, 3)), np.empty(size)
    numba_ransac.gather(given.X, given.x, given.w, given.usable, inliers, pose, X, x, w, start, centre, scale)
    points3d, points2d, weights, k = (torch.from_numpy(v) for v in (X, x, w, given.K))
    delta, bounds = (constant(v, torch.float64, k.device, size) for v in (math.inf, UNBOUNDED))
    problems = Problems(points3d, points2d, weights, k, delta, bounds, z_min=NEAR)
    frame = checks.Frame(points3d.new_zeros(size, 3), points3d.new_ones(size))  # which they are in already
    prepared = Prepared(problems, (weights != 0).any(-1), torch.Size([size]), torch.float64, frame)
    starts = torch.from_numpy(start)[:, None]
    if more_starts:
        starts = torch.cat([starts, initial_poses(problems, 6, 2)], 1)
    ends, _ = solve_from(prepared, starts, 6, 30, True, True)
    poses, covariance = np.empty((size, 4, 4)), np.empty((size, 6, 6))
    own, own_covariance, cost = ends.cam_from_obj.numpy(), ends.covariance.numpy(), ends.cost.numpy()
    numba_ransac.outward(own, own_covariance, cost, counts, centre, scale, poses, covariance)
    return poses, covariance, ends.converged.numpy()


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


def _own(given: _Given, first: np.ndarray, has_first: np.ndarray, tries: np.ndarray, confidence: float, seed: int) -> _Found:
    from .kernels import cpu, numba_ransac

    size, n = given.usable.shape
    pose, found, drawn = np.empty((size, 4, 4)), np.empty(size, np.bool_), np.empty(size, np.int64)
    arrays = [
        given.X,
        given.x,
        given.threshold,
        given.usable,
        given.K,
        first,
        has_first,
        given.z_min,
        tries,
        pose,
        found,
        drawn,
    ]
    cpu.spread(numba_ransac.search, 400 * size * n, arrays, LEAST, confidence, seed)
    return pose, found, drawn


def _one_by_one(one: Callable[..., Any]) -> Callable[..., _Found]:
    """Of a function of X, x, K, pixels, most samples, confidence and seed that returns a pose or None, and samples drawn."""

    def search(
        given: _Given, first: np.ndarray, has_first: np.ndarray, tries: np.ndarray, confidence: float, seed: int
    ) -> _Found:
        def of(b: int) -> tuple[np.ndarray | None, int]:
            use = given.usable[b]
            X = given.X[b, use]
            centre = np.median(X, 0)  # about it and at unit size: both libraries have absolute constants
            X = X - centre
            scale = float(np.median(np.abs(X).max(1))) or 1.0
            px = float(given.threshold[b, 0])
            pose, drawn = one(X / scale, given.x[b, use], given.K[b], px, int(tries[b]), confidence, seed)
            if pose is None or not np.isfinite(pose).all():
                return None, drawn
            pose[:3, 3] = scale * pose[:3, 3] - pose[:3, :3] @ centre
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
            better = has_first & (~found | (_agreeing(given, first) > _agreeing(given, poses)))
            poses, found = np.where(better[:, None, None], first, poses), found | has_first
        return poses, found, np.array([drawn for _, drawn in results], np.int64)

    return search


def _agreeing(given: _Given, pose: np.ndarray) -> np.ndarray:
    """How many different points are within their threshold, (B,)."""
    from .kernels import numba_ransac

    inliers, counts, changed = np.zeros(given.usable.shape, bool), np.zeros(len(pose), np.int64), np.zeros(len(pose), bool)
    numba_ransac.within(
        given.X, given.x, given.threshold, given.present, given.usable, given.K, given.z_min, pose, inliers, counts, changed
    )
    return counts


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
    # its pose is EPnP's, which fails on planes
    points3d, points2d, k = (torch.from_numpy(v) for v in (X[agreed], x[agreed], K))
    delta, bounds = constant(math.inf, torch.float64, k.device), constant(UNBOUNDED, torch.float64, k.device)
    problems = Problems(points3d, points2d, torch.ones_like(points2d), k, delta, bounds, z_min=NEAR)
    return initial_poses(problems.map(lambda v: v[None]), 6, 1)[0, 0].numpy(), min(drawn, tries)


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
    found = np.vstack([pose.Rt, [[0, 0, 0, 1]]]) if info["num_inliers"] > 0 else None
    return found, int(info["iterations"])
