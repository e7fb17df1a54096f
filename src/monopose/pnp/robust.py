"""RANSAC: the pose that most correspondences agree with. One problem at a time, on the CPU, in float64, without gradient."""

import importlib.util
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geometry.rotation import full_precision
from ..types import Camera
from .problems import NEAREST, Z_MIN, Kernel, Prepared, Problems, frame_and_factor, intrinsics
from .solve import Solution, descend_and_judge

NO_DELTA, NO_BOUNDS = np.array(np.inf), np.array([-np.inf, -np.inf, np.inf, np.inf])


class RobustSolution(NamedTuple):
    """What `ransac` found.

    Args:
        cam_from_obj: (4, 4), metres; the identity where `success` is False.
        inliers: which correspondences agree with the pose, (N,), bool; all False where `success` is False.
        covariance: of the tangent (v, omega) applied on the camera side, (6, 6), or None where `success` is False.
            The noise level is taken from the inliers' residuals.
        success: whether a pose was found.
        reason: why not, "" if it was.
    """

    cam_from_obj: Tensor
    inliers: Tensor
    covariance: Tensor | None
    success: bool
    reason: str


@full_precision
def ransac(
    points3d: Tensor,
    points2d: Tensor,
    camera: Camera | Tensor,
    weights: Tensor | None = None,
    threshold_px: float = 3.0,
    iterations: int = 1000,
    confidence: float = 0.9999,
    seed: int = 0,
    min_inliers: int = 4,
    backend: str | None = None,
) -> RobustSolution:
    """The pose that most correspondences agree with, refined on those.

    Args:
        points3d: (N, 3), metres, object frame.
        points2d: (N, 2), pixels.
        camera: Camera or intrinsics (3, 3), pixels.
        weights: (N,) or (N, 2), used in the final refinement only, or None.
        threshold_px: correspondences that project within this many pixels are inliers.
        iterations: most samples of three points that are tried.
        confidence: stop earlier once a better pose is this improbable.
        seed: the same seed gives the same result.
        min_inliers: fewer are a failure; at least 4.
        backend: "poselib" or "opencv"; None takes PoseLib where it is installed.

    Returns:
        a RobustSolution. Too few, degenerate or non-finite correspondences never raise: rows with NaN are outliers, and without
        a pose `success` is False, `reason` says why and `cam_from_obj` is the identity.

    Raises:
        ValueError: on wrong shapes, a camera with lens distortion or an unknown backend.

    Source: Fischler and Bolles 1981; samples solved by P3P; final refinement by `solve`.
    """
    if points3d.dim() != 2 or points3d.shape[-1] != 3:
        raise ValueError(f"points3d must be (N, 3) metres, got {tuple(points3d.shape)}; for a batch call ransac per object")
    n = len(points3d)
    if points2d.shape != (n, 2):
        raise ValueError(f"points2d must be ({n}, 2) pixels to match points3d, got {tuple(points2d.shape)}")
    if weights is not None and weights.shape not in ((n,), (n, 2)):
        raise ValueError(f"weights must be ({n},) or ({n}, 2), got {tuple(weights.shape)}")
    if not threshold_px > 0:
        raise ValueError(f"threshold_px must be a positive number of pixels, got {threshold_px}")
    if backend not in (None, "poselib", "opencv"):
        raise ValueError(f'backend must be None, "poselib" or "opencv", got {backend!r}')
    K = intrinsics(camera, points3d).detach().double().cpu().numpy()
    if K.shape != (3, 3):
        raise ValueError(f"ransac solves one problem with one K (3, 3), got {K.shape}")
    X, x = points3d.detach().double().cpu().numpy(), points2d.detach().double().cpu().numpy()
    w = np.ones((n, 2)) if weights is None else weights.detach().double().cpu().reshape(n, -1).expand(n, 2).numpy()
    finite = np.isfinite(np.concatenate([X, x, w], 1)).all(1)
    X, x, w, total, need = X[finite], x[finite], w[finite], int(finite.sum()), max(4, min_inliers)

    def failure(reason: str) -> RobustSolution:
        nothing = torch.zeros(n, dtype=torch.bool, device=points3d.device)
        eye = torch.eye(4, dtype=points3d.dtype, device=points3d.device)
        return RobustSolution(eye, nothing, None, False, reason)

    if total < need:
        return failure(f"{total} finite correspondences of {n}, at least {need} are needed")
    if backend is None:
        backend = "poselib" if importlib.util.find_spec("poselib") else "opencv"
    find = _poselib if backend == "poselib" else _opencv
    pose = find(X, x, K, threshold_px, iterations, confidence, seed)
    if pose is None or not np.isfinite(pose).all():
        return failure("no sample of three points gave a pose; are the points collinear or all the same?")

    area = float(np.ptp(x[:, 0]) * np.ptp(x[:, 1]))
    before = None
    for _ in range(2):  # refine on the inliers, then once more if the refined pose has others
        inliers = _within(pose, X, x, K, threshold_px)
        count = int(inliers.sum())
        if before is not None and count and np.array_equal(inliers, before):
            break
        if count < need:
            return failure(f"{count} inliers of {n} within {threshold_px} px, at least {need} are needed")
        if _may_be_chance(count, total, threshold_px, area):
            return failure(f"{count} inliers of {n} within {threshold_px} px may be chance; more or better matches are needed")
        agreed3d, agreed2d, starts = X[inliers], x[inliers], [pose]
        if before is None:  # a second start, as a plane seen from afar has two poses that fit nearly as well
            whole = _sqpnp(agreed3d, agreed2d, K)
            starts += [whole] if whole is not None and np.isfinite(whole).all() else []
        ends = _refine(agreed3d, agreed2d, w[inliers], K, np.stack(starts))
        costs = np.where(ends.converged.numpy(), ends.cost.numpy(), np.inf)
        best = int(costs.argmin())
        if costs[best] == np.inf:
            return failure(f"the {count} inliers do not fix a pose; are they collinear, or the weights zero?")
        pose, before = ends.cam_from_obj[best].numpy(), inliers
    agreed = finite.copy()
    agreed[finite] = inliers
    noise = 2 * float(costs[best]) / (2 * count - 6)  # variance of a weighted residual
    return RobustSolution(
        torch.from_numpy(pose).to(points3d),
        torch.from_numpy(agreed).to(points3d.device),
        (ends.covariance[best] * noise).to(points3d),
        True,
        "",
    )


def _may_be_chance(count: int, total: int, threshold_px: float, area: float) -> bool:
    """Whether so many of `total` pixels, spread at random over `area`, would be expected to agree with some sample of three.

    Source: a contrario RANSAC, Moisan and Stival 2004, eq. 4: the number of false alarms, at least 1.
    """
    chance = min(1.0, math.pi * threshold_px**2 / max(area, 1e-12))
    choose = math.lgamma(total + 1) - math.lgamma(total - count + 1) - math.lgamma(4) - math.lgamma(count - 2)
    return math.log(4 * (total - 3) or 1) + choose + (count - 3) * math.log(chance) >= 0


def _refine(X: np.ndarray, x: np.ndarray, w: np.ndarray, K: np.ndarray, starts: np.ndarray) -> Solution:
    """`solve` from each of `starts` (M, 4, 4) without its checks, which take longer than the solving: all is finite here."""
    m = len(starts)
    points3d, points2d, weights, k = (torch.from_numpy(v).expand(m, *v.shape) for v in (X, x, w, K))
    delta, bounds = torch.from_numpy(NO_DELTA).expand(m), torch.from_numpy(NO_BOUNDS).expand(m, 4)
    frame, factor, _ = frame_and_factor(points3d, weights, k, True)
    problems = Problems(points3d, points2d, weights, k * factor[:, None, None], delta, bounds, Kernel.SQUARES, NEAREST)
    given = Prepared(problems, (weights != 0).any(-1), torch.Size([m]), torch.float64, frame)
    return descend_and_judge(given, torch.from_numpy(starts)[:, None], 6, 30, True, False)[0]


def _within(cam_from_obj: np.ndarray, X: np.ndarray, x: np.ndarray, K: np.ndarray, threshold_px: float) -> np.ndarray:
    """Which points lie in front of the camera and project within the threshold, (N,)."""
    P = K @ cam_from_obj[:3]
    with np.errstate(all="ignore"):  # what overflows is not within
        u, v, depth = P[:, :3] @ X.T + P[:, 3:]
        inverse = 1 / np.maximum(depth, Z_MIN)
        square = (u * inverse - x[:, 0]) ** 2 + (v * inverse - x[:, 1]) ** 2
        within: np.ndarray = (depth > Z_MIN) & (square <= threshold_px**2)
    return within


def _opencv(X: np.ndarray, x: np.ndarray, K: np.ndarray, px: float, tries: int, confidence: float, seed: int) -> Any:
    """AP3P samples. OpenCV always draws the same numbers, so the seed permutes the points."""
    import cv2

    order = np.random.default_rng(seed).permutation(len(X))
    try:
        ok, _, _, inliers = cv2.solvePnPRansac(
            X[order], x[order], K, None,
            iterationsCount=tries, reprojectionError=px, confidence=confidence, flags=cv2.SOLVEPNP_AP3P,
        )  # fmt: skip
    except cv2.error:  # OpenCV raises on some degenerate point sets
        return None
    if not ok:
        return None
    agreed = order[inliers[:, 0]]  # the pose that comes with them is EPnP's, which fails on planes
    return _sqpnp(X[agreed], x[agreed], K)


def _poselib(X: np.ndarray, x: np.ndarray, K: np.ndarray, px: float, tries: int, confidence: float, seed: int) -> Any:
    """P3P samples with local optimisation. PoseLib knows no skew: that and the principal point are taken out of the pixels.

    PoseLib would take three times the samples that the confidence asks for, and end with iterations of a robust loss. The
    refinement on the inliers that follows here makes up for both, faster and closer to the least squares.
    """
    import poselib

    pixels = x - K[:2, 2]
    pixels[:, 0] -= K[0, 1] / K[1, 1] * pixels[:, 1]
    camera = {"model": "PINHOLE", "width": 1, "height": 1, "params": [K[0, 0], K[1, 1], 0.0, 0.0]}
    options = {"max_reproj_error": px, "max_iterations": tries, "min_iterations": min(tries, 20), "dyn_num_trials_mult": 1.0,
               "success_prob": confidence, "seed": seed}  # fmt: skip
    pose, info = poselib.estimate_absolute_pose(pixels, X, camera, options, {"max_iterations": 0})
    return _pose(pose.R, pose.t) if info["num_inliers"] > 0 else None


def _sqpnp(X: np.ndarray, x: np.ndarray, K: np.ndarray) -> Any:
    import cv2

    try:
        ok, rvec, tvec = cv2.solvePnP(X, x, K, None, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error:
        return None
    return _pose(cv2.Rodrigues(rvec)[0], tvec) if ok else None


def _pose(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, t.reshape(3)
    return pose
