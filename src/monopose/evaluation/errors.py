"""Errors of single poses: ADD, ADD-S, MSSD, MSPD, VSD, projection, rotation, translation.

Numpy in, numpy out, float64; torch tensors on the CPU are taken as they are. Poses (..., 4, 4) broadcast against each other.
Rotations are used raw, as the official scores do, even where a data set's are not quite orthonormal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
_CHUNK = 1 << 16  # numbers per temporary: fits a core's cache
_FEW = 4  # symmetries that are simply all computed
_ORTHONORMAL = 4e-7  # largest entry of R^T R - 1 that counts as a rotation; float32 files reach 1e-7
_PROBES = 32  # points that give the lower bound for larger groups


# --------------------------------------------------------------------------------------------------- distances in space


def add(cam_from_obj_est: ArrayLike, cam_from_obj_true: ArrayLike, points: ArrayLike) -> Array:
    """Mean distance of model points between two poses (ADD).

    Args:
        cam_from_obj_est, cam_from_obj_true: (..., 4, 4), metres.
        points: model points, (N, 3), metres, object frame.

    Returns:
        (...,), metres.

    Source: Hinterstoisser et al., ACCV 2012; numbers checked against bop_toolkit's `add`.
    """
    est, true, shape = _pairs(cam_from_obj_est, cam_from_obj_true)
    homogeneous = _homogeneous(points)
    out = np.empty(len(est))
    for part in _chunks(len(est), 3 * homogeneous.shape[1]):
        moved = (est[part] - true[part])[:, :3] @ homogeneous
        out[part] = np.sqrt(np.einsum("mkn,mkn->mn", moved, moved)).mean(-1)
    return out.reshape(shape)


def add_s(cam_from_obj_est: ArrayLike, cam_from_obj_true: ArrayLike, points: ArrayLike, limit: float | None = None) -> Array:
    """Mean distance from each model point in the true pose to the nearest one in the estimated pose (ADD-S, ADI).

    Args:
        cam_from_obj_est, cam_from_obj_true: (..., 4, 4), metres.
        points: model points, (N, 3), metres, object frame.
        limit: distances that are proved to be above it may come back as inf, which saves most of the work.

    Returns:
        (...,), metres.

    Source: Hinterstoisser et al., ACCV 2012; numbers checked against bop_toolkit's `adi`.
    """
    from scipy.spatial import cKDTree

    est, true, shape = _pairs(cam_from_obj_est, cam_from_obj_true)
    points = np.asarray(points, np.float64)
    # The distance to the nearest point changes by at most the step: samples bound the mean of all from below.
    samples = points[:: max(len(points) // 256, 1)]
    if limit is not None and len(samples) < len(points):
        spread, owner = cKDTree(samples).query(points)
        weights = np.bincount(owner, minlength=len(samples)) / len(points)
    # Under a rotation distances are those in the object frame, and one tree serves all estimates. A rotation that is off by
    # `off` changes them by that share at most; larger deviations get a tree of their own.
    off = np.abs(np.swapaxes(est[:, :3, :3], -1, -2) @ est[:, :3, :3] - np.eye(3)).max((-1, -2), initial=0)
    shared = cKDTree(points)
    out = np.empty(len(est))
    for m, (P, Q) in enumerate(zip(est, true)):
        if off[m] < _ORTHONORMAL:
            tree, T = shared, np.linalg.solve(P, Q)
        else:
            tree, T = cKDTree(points @ P[:3, :3].T + P[:3, 3], balanced_tree=False, compact_nodes=False), Q
        if limit is not None and len(samples) < len(points):
            nearest = tree.query(samples @ T[:3, :3].T + T[:3, 3])[0]
            stretch = np.linalg.norm(T[:3, :3], 2)
            if weights @ nearest - stretch * spread.mean() > limit:
                out[m] = np.inf
                continue
        out[m] = tree.query(points @ T[:3, :3].T + T[:3, 3], workers=-1)[0].mean()  # -1: all cores
    return out.reshape(shape)


def mssd(
    cam_from_obj_est: ArrayLike, cam_from_obj_true: ArrayLike, points: ArrayLike, symmetries: ArrayLike | None = None
) -> Array:
    """Maximum symmetry-aware surface distance: the worst distance over the surface, the best over the symmetries.

    Args:
        cam_from_obj_est, cam_from_obj_true: (..., 4, 4), metres.
        points: model points, (N, 3), metres, object frame; `hull(points)` gives the same result faster.
        symmetries: obj_from_obj motions with the identity, (S, 4, 4); None for the identity alone.

    Returns:
        (...,), metres.

    Source: Hodan et al., BOP Challenge 2020, eq. 3; numbers checked against bop_toolkit's `mssd`.
    """
    est, true, shape = _pairs(cam_from_obj_est, cam_from_obj_true)
    points = np.asarray(points, np.float64)
    quadratic, probes = _quadratic(points), _quadratic(_spread_points(points))

    def worst(pose: Array, other: Array, some: bool) -> Array:
        # |D x|^2 as a linear function of the ten products of the coordinates of x: one matrix product for all points
        D = (pose - other)[:, :3]
        gram = np.swapaxes(D, -1, -2) @ D
        squares = gram[:, _TRIANGLE[0], _TRIANGLE[1]] @ (probes if some else quadratic)
        return np.sqrt(np.maximum(squares.max(-1), 0.0))

    return _best_symmetry(worst, est, true, symmetries, len(points)).reshape(shape)


def hull(points: ArrayLike) -> Array:
    """The points that span the convex hull, (H, 3). The distance between two affine images of x is convex in x, so its
    maximum over the model is reached there: `mssd(est, true, hull(points))` equals `mssd(est, true, points)`."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.asarray(points, np.float64)
    try:
        return points[np.sort(ConvexHull(points).vertices)]
    except (QhullError, ValueError):  # flat or too few
        return points


# --------------------------------------------------------------------------------------------------- distances in image


def mspd(
    cam_from_obj_est: ArrayLike,
    cam_from_obj_true: ArrayLike,
    points: ArrayLike,
    K: ArrayLike,
    symmetries: ArrayLike | None = None,
) -> Array:
    """Maximum symmetry-aware projection distance: the worst pixel error over the surface, the best over the symmetries.

    Args:
        cam_from_obj_est, cam_from_obj_true: (..., 4, 4), metres.
        points: model points, (N, 3), metres, object frame. All of them: the hull is not enough here.
        K: intrinsics, (..., 3, 3), pixels.
        symmetries: obj_from_obj motions with the identity, (S, 4, 4); None for the identity alone.

    Returns:
        (...,), pixels; inf where any point is behind the camera.

    Source: Hodan et al., BOP Challenge 2020, eq. 4; numbers checked against bop_toolkit's `mspd`.
    """
    est, true, shape = _pairs(cam_from_obj_est, cam_from_obj_true)
    P, Q = _projective(K, est, shape), _projective(K, true, shape)
    every = _homogeneous(points)
    probes = _homogeneous(_spread_points(np.asarray(points, np.float64)))

    def worst(pose: Array, other: Array, some: bool) -> Array:
        x = probes if some else every
        return np.sqrt(_pixel_distances(pose[:, :3], other[:, :3], x).max(-1))

    return _best_symmetry(worst, P, Q, symmetries, every.shape[1]).reshape(shape)


def projection(cam_from_obj_est: ArrayLike, cam_from_obj_true: ArrayLike, points: ArrayLike, K: ArrayLike) -> Array:
    """Mean pixel distance of projected model points (2D projection error).

    Args:
        cam_from_obj_est, cam_from_obj_true: (..., 4, 4), metres.
        points: model points, (N, 3), metres, object frame.
        K: intrinsics, (..., 3, 3), pixels.

    Returns:
        (...,), pixels; inf where any point is behind the camera.

    Source: Brachmann et al., CVPR 2016; numbers checked against bop_toolkit's `proj`.
    """
    est, true, shape = _pairs(cam_from_obj_est, cam_from_obj_true)
    P, Q = _projective(K, est, shape), _projective(K, true, shape)
    x = _homogeneous(points)
    out = np.empty(len(est))
    for part in _chunks(len(est), 6 * x.shape[1]):
        out[part] = np.sqrt(_pixel_distances(P[part, :3], Q[part, :3], x)).mean(-1)
    return out.reshape(shape)


def vsd(
    depth_est: ArrayLike,
    depth_true: ArrayLike,
    depth_test: ArrayLike,
    K: ArrayLike,
    diameter: float,
    delta: float = 0.015,
    taus: ArrayLike | None = None,
) -> Array:
    """Visible surface discrepancy of two rendered poses, given the depth that a sensor saw.

    Args:
        depth_est, depth_true: the object rendered alone in both poses, (H, W), metres, 0 = nothing.
        depth_test: the sensor's depth image, (H, W), metres, 0 = unknown, which counts as visible.
        K: intrinsics of the images, (3, 3), pixels.
        diameter: of the object, metres.
        delta: tolerance of the visibility test, metres; BOP uses 0.015, and 0.005 for ITODD.
        taus: misalignment tolerances as shares of the diameter, (T,); 0.05 ... 0.5 by default.

    Returns:
        one error per tau, (T,), in [0, 1]; 1 where neither pose is visible.

    Source: Hodan et al., BOP Challenge 2020, eq. 1-2: distances (not depths), step cost, visibility "bop19".
    """
    taus = np.arange(0.05, 0.51, 0.05) if taus is None else np.asarray(taus, np.float64)
    K = np.asarray(K, np.float64)
    test = np.asarray(depth_test, np.float64)
    rows, columns = np.ogrid[: test.shape[0], : test.shape[1]]
    ray = np.sqrt(((columns - K[0, 2]) / K[0, 0]) ** 2 + ((rows - K[1, 2]) / K[1, 1]) ** 2 + 1)
    seen, est, true = (np.asarray(d, np.float64) * ray for d in (test, depth_est, depth_true))
    visible_true = (true > 0) & ((true - seen <= delta) | (seen == 0))
    visible_est = (est > 0) & ((est - seen <= delta) | (seen == 0) | visible_true)
    both, union = visible_true & visible_est, int((visible_true | visible_est).sum())
    if union == 0:
        return np.ones(len(taus))
    distance = np.abs(true[both] - est[both]) / diameter
    wrong = (distance[:, None] >= taus).sum(0)
    return (wrong + union - len(distance)) / union


# ------------------------------------------------------------------------------------------------ rotation, translation


def rotation(cam_from_obj_est: ArrayLike, cam_from_obj_true: ArrayLike) -> Array:
    """Angle between two rotations, (...,), radians; symmetries are not considered.

    Source: acos((tr(R_est R_true^-1) - 1) / 2), clamped; numbers checked against bop_toolkit's `re`.
    """
    est, true, shape = _pairs(cam_from_obj_est, cam_from_obj_true)
    trace = np.einsum("mij,mji->m", est[:, :3, :3], np.linalg.inv(true[:, :3, :3]))
    return np.arccos(np.clip((trace - 1) / 2, -1, 1)).reshape(shape)


def translation(cam_from_obj_est: ArrayLike, cam_from_obj_true: ArrayLike) -> Array:
    """Distance between the origins of two poses, (...,), metres."""
    est, true, shape = _pairs(cam_from_obj_est, cam_from_obj_true)
    return np.linalg.norm(est[:, :3, 3] - true[:, :3, 3], axis=-1).reshape(shape)


# -------------------------------------------------------------------------------------------------------------- symmetry


def symmetry_group(discrete: ArrayLike, axes: ArrayLike, offsets: ArrayLike, steps: int = 315) -> Array:
    """The motions that the scores minimise over, the identity first: `geometry.symmetry.transforms` without torch.

    Args:
        discrete: obj_from_obj without the identity, (S, 4, 4), metres.
        axes, offsets: continuous axes, (A, 3), unit vectors and metres.
        steps: rotations per axis; 315 = ceil(pi / 0.01) is what BOP's scores use.

    Returns:
        (S', 4, 4), metres: every continuous rotation after every discrete motion.

    Source: bop_toolkit `get_symmetry_transformations` with max_sym_disc_step = 0.01.
    """
    group = np.concatenate([np.eye(4)[None], np.asarray(discrete, np.float64).reshape(-1, 4, 4)])
    axes, offsets = np.asarray(axes, np.float64).reshape(-1, 3), np.asarray(offsets, np.float64).reshape(-1, 3)
    if not len(axes):
        return group
    angle = np.arange(steps) * (2 * np.pi / steps)
    turns = []
    for axis, offset in zip(axes, offsets):
        x, y, z = axis / np.linalg.norm(axis)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.tile(np.eye(4), (steps, 1, 1))
        turn[:, :3, :3] += np.sin(angle)[:, None, None] * cross + (1 - np.cos(angle))[:, None, None] * (cross @ cross)
        turn[:, :3, 3] = offset - turn[:, :3, :3] @ offset
        turns.append(turn)
    return (np.concatenate(turns)[:, None] @ group).reshape(-1, 4, 4)


def _best_symmetry(worst: Any, est: Array, true: Array, symmetries: ArrayLike | None, n_points: int) -> Array:
    """Minimum over the symmetries of `worst(est, true @ symmetry)`.

    Large groups are pruned without changing the result: the maximum over a few points bounds the error of each symmetry
    from below, so only those below the error of the most promising one can hold the minimum.
    """
    group = np.eye(4)[None] if symmetries is None else np.asarray(symmetries, np.float64).reshape(-1, 4, 4)
    if not len(group):
        raise ValueError("symmetries must hold at least the identity, got none; pass None or symmetry_group(...)")
    out = np.empty(len(est))

    def errors(m: Array, s: Array, some: bool) -> Array:
        values = np.empty(len(m))
        for part in _chunks(len(m), 6 * (_PROBES if some else n_points)):
            values[part] = worst(est[m[part]], true[m[part]] @ group[s[part]], some)
        return values

    for part in _chunks(len(est), 16 * len(group)):
        rows = np.arange(len(est))[part]
        m, s = (a.ravel() for a in np.meshgrid(rows, np.arange(len(group)), indexing="ij"))
        if len(group) <= _FEW or n_points <= _PROBES:
            out[rows] = errors(m, s, False).reshape(len(rows), -1).min(-1)
            continue
        low = errors(m, s, True).reshape(len(rows), -1)
        first = low.argmin(-1)
        best = errors(rows, first, False)
        left = low < best[:, None]
        left[np.arange(len(rows)), first] = False
        local, s = np.nonzero(left)
        np.minimum.at(best, local, errors(rows[local], s, False))
        out[rows] = best
    return out


# --------------------------------------------------------------------------------------------------------------- helpers

_TRIANGLE = np.triu_indices(4)


def _pairs(est: ArrayLike, true: ArrayLike) -> tuple[Array, Array, tuple[int, ...]]:
    """Two stacks of poses broadcast and flattened to (M, 4, 4), and the shape in front."""
    stacks = [np.asarray(p, np.float64) for p in (est, true)]
    for name, stack in zip(("estimated", "true"), stacks):
        if stack.shape[-2:] != (4, 4):
            raise ValueError(f"{name} poses must be cam_from_obj matrices (..., 4, 4), got shape {stack.shape}")
    a, b = np.broadcast_arrays(*stacks)
    return a.reshape(-1, 4, 4), b.reshape(-1, 4, 4), a.shape[:-2]


def _homogeneous(points: ArrayLike) -> Array:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"points must be (N, 3) with N >= 1, got {points.shape}; transpose?")
    return np.concatenate([points.T, np.ones((1, len(points)))])


def _quadratic(points: Array) -> Array:
    """The ten products of homogeneous coordinates, (10, N), off-diagonal ones twice."""
    x = _homogeneous(points)
    i, j = _TRIANGLE
    return x[i] * x[j] * np.where(i == j, 1.0, 2.0)[:, None]


def _projective(K: ArrayLike, poses: Array, shape: tuple[int, ...]) -> Array:
    """K [R | t] as (M, 4, 4) with the last row kept."""
    K = np.broadcast_to(np.asarray(K, np.float64), (*shape, 3, 3)).reshape(-1, 3, 3)
    out = poses.copy()
    out[:, :3] = K @ poses[:, :3]
    return out


def _pixel_distances(P: Array, Q: Array, x: Array) -> Array:
    """Squared distances between the pixels of homogeneous points x (4, N) under P and Q (M, 3, 4), (M, N)."""
    p, q = P @ x, Q @ x
    front = (p[:, 2] > 0).all(-1) & (q[:, 2] > 0).all(-1)
    with np.errstate(all="ignore"):
        p[:, :2] /= p[:, 2:]
        q[:, :2] /= q[:, 2:]
        p[:, :2] -= q[:, :2]
        squares = p[:, 0] ** 2 + p[:, 1] ** 2
    squares[~front] = np.inf
    return squares


def _spread_points(points: Array) -> Array:
    """Points far from each other, by farthest-point sampling, (<= _PROBES, 3)."""
    chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmax())]
    distance = np.full(len(points), np.inf)
    while len(chosen) < min(_PROBES, len(points)):
        distance = np.minimum(distance, np.square(points - points[chosen[-1]]).sum(-1))
        chosen.append(int(distance.argmax()))
    return points[chosen]


def _chunks(n: int, numbers_each: int) -> list[slice]:
    step = max(1, _CHUNK // max(numbers_each, 1))
    return [slice(i, i + step) for i in range(0, n, step)]
