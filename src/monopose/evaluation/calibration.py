"""Do scores and covariances mean what they say? Fits the map from score to probability, and measures how far to trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..datasets.bop import results as bop_results
from ..io import records
from . import errors
from .bop import Object, open_data, read_objects

Array = NDArray[Any]

BINS = 10  # of equal width in [0, 1]
LEVELS = (0.5, 0.9, 0.95)  # ellipsoids whose coverage is reported
FEWEST = 10  # estimates that a map can be fitted to
FOLDS = 5  # parts of the scenes that are held out in turn to choose the map


# ------------------------------------------------------------------------------------------------------------ measures


class Bin(NamedTuple):
    """The estimates whose scores lie in [low, high), the last bin with its upper end."""

    low: float
    high: float
    estimates: int
    score: float  # mean of the scores; the middle of the bin if it is empty
    right: float  # share that is right; nan if it is empty
    lower: float  # Wilson interval of that share, 95 %; 0 and 1 if it is empty
    upper: float


class Reliability(NamedTuple):
    """How far scores are probabilities."""

    estimates: int
    score: float  # mean of the scores
    right: float  # share that is right
    ece: float  # expected calibration error over bins of equal width, in [0, 1]
    ace: float  # the same over bins of equally many estimates, which also tells apart scores that lie close together
    brier: float
    log_loss: float
    bins: tuple[Bin, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by name, for JSON; None for what an empty bin does not know."""
        rows = [{k: None if v != v else v for k, v in b._asdict().items()} for b in self.bins]
        return self._asdict() | {"bins": rows}


def wilson(hits: ArrayLike, count: ArrayLike) -> tuple[Array, Array]:
    """Bounds (95 %) of a share of which `hits` of `count` were seen; 0 and 1 where nothing was.

    Args:
        hits, count: any shapes that broadcast.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    k, n = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(count, np.float64))
    seen = np.maximum(n, 1)
    p, z = k / seen, 1.959964
    middle = (p + z**2 / (2 * seen)) / (1 + z**2 / seen)
    half = z / (1 + z**2 / seen) * np.sqrt(p * (1 - p) / seen + z**2 / (4 * seen**2))
    return np.where(n > 0, np.clip(middle - half, 0, p), 0.0), np.where(n > 0, np.clip(middle + half, p, 1), 1.0)


def reliability(scores: ArrayLike, right: ArrayLike, bins: int = BINS) -> Reliability:
    """Scores against what came true.

    Args:
        scores: in [0, 1], (N,).
        right: (N,), bool.
        bins: of equal width.

    Returns:
        the table; `ece` is the mean over estimates of |share right - mean score| of their bin; all zero for N = 0.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, eq. 3; Nixon et al., Measuring calibration in deep
    learning, 2019 (bins of equal counts); Brier 1950.
    """
    s, y = np.asarray(scores, np.float64), np.asarray(right, bool)
    if s.shape != y.shape or s.ndim != 1:
        raise ValueError(f"scores and right must be (N,) both, got {s.shape} and {y.shape}")
    if len(s) and not ((s >= 0) & (s <= 1)).all():
        raise ValueError(f"scores must lie in [0, 1] to be probabilities, got {s.min():.4g} to {s.max():.4g}")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip((s * bins).astype(int), 0, bins - 1)
    count, hits = np.bincount(place, minlength=bins), np.bincount(place, y, bins)
    total = np.bincount(place, s, bins)
    low, high = wilson(hits, count)
    rows = tuple(
        Bin(
            float(edges[b]), float(edges[b + 1]), int(count[b]),
            float(total[b] / count[b]) if count[b] else float(edges[b] + edges[b + 1]) / 2,
            float(hits[b] / count[b]) if count[b] else float("nan"), float(low[b]), float(high[b]),
        )
        for b in range(bins)
    )  # fmt: skip
    if not len(s):
        return Reliability(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, rows)
    ece = float(np.abs(hits - total).sum() / len(s))
    parts = np.array_split(np.argsort(s, kind="stable"), bins)
    ace = float(sum(abs((y[part] - s[part]).sum()) for part in parts) / len(s))
    return Reliability(len(s), float(s.mean()), float(y.mean()), ece, ace, float(((s - y) ** 2).mean()), log_loss(s, y), rows)


def log_loss(probabilities: ArrayLike, right: ArrayLike) -> float:
    """Mean of -log of the probability given to what happened, nats; probabilities are kept 1e-6 away from 0 and 1."""
    return float(_negative_log(np.asarray(probabilities, np.float64), np.asarray(right, bool)).mean())


def _negative_log(p: Array, right: Array) -> Array:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return -np.log(np.where(right, p, 1 - p))  # type: ignore[no-any-return]


# ----------------------------------------------------------------------------------------------------------- the maps


def fit_logistic(scores: ArrayLike, right: ArrayLike) -> Logistic:
    """The logistic map of largest likelihood; targets are drawn in a little, so that it exists for any data.

    Source: Platt 1999, eq. 1-3, on the logit of the score.
    """
    from scipy.optimize import minimize

    s, y = _samples(scores, right)
    s = np.clip(s, 1e-6, 1 - 1e-6)
    x = np.log(s) - np.log1p(-s)
    hits = y.sum()
    target = np.where(y, (hits + 1) / (hits + 2), 1 / (len(y) - hits + 2))

    def cost(parameters: Array) -> tuple[float, Array]:
        slope = np.exp(parameters[0])
        z = slope * x + parameters[1]
        slack = 0.5 * (1 + np.tanh(0.5 * z)) - target
        value = (np.logaddexp(0, z) - target * z).mean()
        return float(value), np.array([(slack * x).mean() * slope, slack.mean()])

    best = minimize(cost, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-5.0, 5.0), (-20.0, 20.0)])
    return Logistic(float(np.exp(best.x[0])), float(best.x[1]))


def fit_isotonic(scores: ArrayLike, right: ArrayLike) -> Isotonic:
    """The rising step function of least squares, its steps joined at their middles.

    The share of each step is drawn towards one half by half a hit and half a miss (Jeffreys' prior), as a step of three right
    ones is no proof of certainty.

    Source: Zadrozny and Elkan 2002; pool adjacent violators.
    """
    from scipy.optimize import isotonic_regression

    s, y = _samples(scores, right)
    values, place, count = np.unique(s, return_inverse=True, return_counts=True)
    hits = np.bincount(place, y, len(values))
    blocks = isotonic_regression(hits / count, weights=count).blocks
    n, k, total = (np.add.reduceat(column, blocks[:-1]) for column in (count, hits, values * count))
    share = isotonic_regression((k + 0.5) / (n + 1), weights=n).x
    return Isotonic(tuple((total / n).tolist()), tuple(np.clip(share, 0, 1).tolist()))


class Fit(NamedTuple):
    """A chosen map and how it did on scenes that it was not fitted to."""

    map: Map
    before: Reliability  # of the raw scores
    after: Reliability  # of each estimate's probability by maps fitted without its scene
    log_loss: dict[str, float]  # held-out, by kind of map


def fit(scores: ArrayLike, right: ArrayLike, groups: ArrayLike) -> Fit:
    """The map, logistic or isotonic, that predicts scenes it has not seen better, by the mean log-loss.

    The log-loss decides as it is proper: no other probabilities than the true ones make it least. Isotonic bends wherever
    the data say so and wins where there are thousands of them; the two parameters of the logistic win before that, and where
    isotonic is not better by more than a standard error of the difference (scenes count as independent).

    Args:
        scores: raw, in [0, 1], (N,).
        right: (N,), bool.
        groups: scene of each estimate, (N,), int: errors within one scene go together, so scenes are held out whole.

    Raises:
        ValueError: fewer than ten estimates.
    """
    s, y = _samples(scores, right)
    if len(s) < FEWEST:
        raise ValueError(f"{len(s)} estimates are too few to calibrate on; render more scenes")
    _, scene = np.unique(np.asarray(groups), return_inverse=True)
    part = scene % FOLDS
    held = {}
    for name, function in (("logistic", fit_logistic), ("isotonic", fit_isotonic)):
        out = np.empty(len(s))
        for k in range(FOLDS):
            inside = part == k
            if inside.any():
                known = ~inside if (~inside).any() else inside
                out[inside] = function(s[known], y[known])(s[inside])
        held[name] = out
    losses = {name: log_loss(p, y) for name, p in held.items()}
    gain = np.bincount(scene, _negative_log(held["logistic"], y) - _negative_log(held["isotonic"], y))
    bends = gain.sum() > np.sqrt((gain**2).sum() - gain.sum() ** 2 / len(gain))
    best = "isotonic" if bends else "logistic"
    chosen: Map = fit_isotonic(s, y) if bends else fit_logistic(s, y)
    return Fit(chosen, reliability(s, y), reliability(held[best], y), losses)


def _samples(scores: ArrayLike, right: ArrayLike) -> tuple[Array, Array]:
    s, y = np.asarray(scores, np.float64), np.asarray(right, bool)
    if s.ndim != 1 or s.shape != y.shape or not len(s):
        raise ValueError(f"scores and right must be (N,) both with N >= 1, got {s.shape} and {y.shape}")
    if not np.isfinite(s).all():
        raise ValueError(f"{int((~np.isfinite(s)).sum())} of {len(s)} scores are NaN or infinite; leave those estimates out")
    return s, y


# ---------------------------------------------------------------------------------------------------------- covariances


def mahalanobis(cam_from_obj_est: ArrayLike, cam_from_obj_true: ArrayLike, covariance: ArrayLike, group: ArrayLike) -> float:
    """Squared distance of the nearest true pose in units of the covariance.

    Args:
        cam_from_obj_est, cam_from_obj_true: (4, 4), metres.
        covariance: of the tangent (v, omega) on the camera side, (6, 6), metres and radians.
        group: symmetries of the object with the identity, (S, 4, 4): each gives a true pose.

    Returns:
        chi-square distributed with 6 degrees of freedom if the covariance is right; nan if it is not a covariance.
    """
    from scipy.spatial.transform import Rotation

    est, cov = np.asarray(cam_from_obj_est, np.float64), np.asarray(covariance, np.float64)
    true = np.asarray(cam_from_obj_true, np.float64) @ np.asarray(group, np.float64).reshape(-1, 4, 4)
    if not np.isfinite(cov).all():
        return float("nan")
    size = np.sqrt(np.maximum(np.diagonal(cov), 1e-300))
    try:
        root = np.linalg.cholesky(cov / np.outer(size, size))
    except np.linalg.LinAlgError:
        return float("nan")
    turn = Rotation.from_matrix(true[:, :3, :3] @ est[:3, :3].T).as_rotvec()
    step = np.concatenate([true[:, :3, 3] - est[:3, 3], turn], -1) / size
    return float((np.linalg.solve(root, step.T) ** 2).sum(0).min())


def coverage(squared: ArrayLike, scale: float = 1.0) -> dict[str, float]:
    """Share of true poses inside the ellipsoids of the covariance times `scale`.

    Args:
        squared: of `mahalanobis`, (N,); nan is left out.
        scale: factor on the covariance.

    Returns:
        level in percent -> share, e.g. {"50": 0.48}; nan for N = 0.
    """
    from scipy.stats import chi2

    d = np.asarray(squared, np.float64)
    d = d[~np.isnan(d)] / scale
    return {f"{100 * p:g}": float((d < chi2.ppf(p, 6)).mean()) if len(d) else float("nan") for p in LEVELS}


def fit_covariance_scale(squared: ArrayLike, groups: ArrayLike) -> tuple[float, dict[str, float]]:
    """The factor on the covariances with which the ellipsoids of 50, 90 and 95 % come nearest to holding these shares.

    Least squares of the three shares. Errors have longer tails than a Gaussian, so no factor is right for all of them, and the
    likelihood would follow the few farthest ones.

    Args:
        squared: of `mahalanobis`, (N,); nan is left out. Leave out poses that are wrong altogether: the score is for them.
        groups: scene of each estimate, (N,), int.

    Returns:
        the factor, 1 if nothing is known; and the coverage by factors that were fitted without the scene.
    """
    from scipy.stats import chi2

    d, group = np.asarray(squared, np.float64), np.asarray(groups)
    known = ~np.isnan(d)
    d, group = d[known], group[known]
    if not len(d):
        return 1.0, coverage(d)
    levels = np.array(LEVELS)
    radii = chi2.ppf(levels, 6)

    def factor(some: Array) -> float:
        middle = max(float(np.median(some)) / chi2.ppf(0.5, 6), 1e-12)
        tried = middle * np.exp(np.linspace(-3, 3, 1201))
        inside = np.searchsorted(np.sort(some), radii[:, None] * tried) / len(some)
        misses = ((inside - levels[:, None]) ** 2).sum(0)
        best = tried[misses <= misses.min() + 1e-12]
        return float(np.exp(np.log(best).mean()))

    _, scene = np.unique(group, return_inverse=True)
    part, held = scene % FOLDS, d.copy()
    for k in range(FOLDS):
        inside = part == k
        if inside.any() and not inside.all():
            held[inside] = d[inside] / factor(d[~inside])
    return factor(d), coverage(held)


# --------------------------------------------------------------------------------------------------------------- judging


def judged(est: Array, true: Array, model: Object) -> tuple[float, int]:
    """MSSD of an estimate (4, 4) to the nearest of true poses (G, 4, 4), in diameters, and which that is; inf, -1 for none."""
    if not len(true):
        return float("inf"), -1
    values = errors.mssd(est[None], true, model.hull, model.group) / model.diameter
    best = int(values.argmin())
    return float(values[best]), best


def of_results(
    results: records.PathLike | bop_results.Results,
    data_dir: records.PathLike,
    targets: records.PathLike | bop_results.Targets | None = None,
) -> tuple[Array, Array]:
    """Scores of the estimates in the target images, (N,), and which are right: MSSD below 0.1 of the diameter, (N,), bool.

    The arguments are those of `bop.evaluate`. An estimate is right if any true object of its class is near enough;
    without one in the image it is wrong.
    """
    data = open_data(results, data_dir, targets)
    wanted = {*zip(data.wanted.scene_id.tolist(), data.wanted.im_id.tolist())}
    true: dict[tuple[int, int, int], list[int]] = {}
    for row, key in enumerate(zip(data.truth.scene_id.tolist(), data.truth.im_id.tolist(), data.truth.obj_id.tolist())):
        true.setdefault(key, []).append(row)
    objects = read_objects(data.models, data.rows.obj_id.tolist())
    poses, scores, right = data.poses, [], []
    for row, key in enumerate(zip(data.rows.scene_id.tolist(), data.rows.im_id.tolist(), data.rows.obj_id.tolist())):
        if key[:2] in wanted:
            error, _ = judged(poses[row], data.truth.pose[true.get(key, [])], objects[key[2]])
            scores.append(data.rows.score[row])
            right.append(error < LIMIT)
    return np.array(scores, np.float64), np.array(right, bool)


LIMIT = 0.1  # a pose is right if its MSSD is below this share of the diameter
EVENT = f"MSSD below {LIMIT:g} of the diameter"
_EDGE = 1e-6  # scores nearer to 0 or 1 than this are taken as this far away
_TIE = 1e-3  # share of the raw score in an isotonic map, which keeps the order of scores on its flat steps


@dataclass(frozen=True)
class Logistic:
    """sigmoid(slope * logit(score) + offset): slope 1 and offset 0 leave a score as it is.

    Args:
        slope: > 0, so that the order of scores stays.
        offset: below 0 for a network that says too much.

    Source: Platt, Probabilistic outputs for support vector machines, 1999, on the logit of the score.
    """

    slope: float
    offset: float

    def __post_init__(self) -> None:
        if not (self.slope > 0 and math.isfinite(self.slope) and math.isfinite(self.offset)):
            raise ValueError(f"a logistic map needs a slope > 0 and a finite offset, got {self.slope} and {self.offset}")

    def __call__(self, scores: ArrayLike) -> Array:
        """Raw scores -> probabilities, any shape."""
        s = np.clip(np.asarray(scores, np.float64), _EDGE, 1 - _EDGE)
        z = self.slope * (np.log(s) - np.log1p(-s)) + self.offset
        return 0.5 * (1 + np.tanh(0.5 * z))


@dataclass(frozen=True)
class Isotonic:
    """Straight lines between knots, constant beyond them; a thousandth of the raw score keeps the order on flat parts.

    Args:
        scores: of the knots, growing, at least one.
        probabilities: at the knots, not falling, in [0, 1].

    Source: Zadrozny and Elkan, Transforming classifier scores into accurate probability estimates, KDD 2002.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        s, p = np.asarray(self.scores, np.float64), np.asarray(self.probabilities, np.float64)
        if s.ndim != 1 or s.shape != p.shape or not len(s) or not np.isfinite(s).all():
            raise ValueError(f"an isotonic map needs as many scores as probabilities, at least one, got {len(s)} and {len(p)}")
        if (np.diff(s) <= 0).any() or (np.diff(p) < 0).any() or not ((p >= 0) & (p <= 1)).all():
            raise ValueError("an isotonic map needs growing scores and probabilities in [0, 1] that do not fall")

    def __call__(self, scores: ArrayLike) -> Array:
        """Raw scores -> probabilities, any shape."""
        s = np.clip(np.asarray(scores, np.float64), 0, 1)
        return (1 - _TIE) * np.interp(s, self.scores, self.probabilities) + _TIE * s


Map = Logistic | Isotonic
