"""Pictures of a pose distribution: from where the object is seen, how it is turned, where it is. Used through `viz`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..geometry import rotation, viewpoints
from . import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

Span = tuple[float, float]

SHARES = (0.9, 0.5)  # of the probability, in the tinted regions
CLUSTER = math.radians(7.0)  # directions nearer than this share one disc of the map
DISC = 17.0  # radius of a disc that holds all the probability, points
WEDGES = 72  # of the circle of in-plane angles
DISTINCT = math.radians(5.0)  # modes nearer than this are one
PINS = 9  # modes that get a number on the map


@figure.style()
def orientation_density(
    cam_from_obj: Tensor,
    log_weights: Tensor | None = None,
    modes: Tensor | None = None,
    truth: Tensor | None = None,
    covariance: Tensor | None = None,
) -> Image.Image:
    """The distribution of orientations: a map of the sphere around the object, and a close-up of the best mode.

    The map is an equal-area one (Mollweide) of the directions from which the camera may be looking, in the object's frame.
    Each disc holds the probability of the directions near it: its area is the probability, its colours are the in-plane
    angles, as a pie. Numbers are the modes and what share of the probability is nearest to them. The close-up shows rotation
    vectors from the first mode in the camera's frame, with the regions that hold 50 and 90 % of its share.

    Args:
        cam_from_obj: samples, (S, 4, 4) or rotations (S, 3, 3).
        log_weights: their log-weights, (S,); None: all count the same.
        modes: (M, 4, 4) or (M, 3, 3), the best first; those within 5 degrees of an earlier one are left out. None: the sample
            that has most probability around it.
        truth: (4, 4) or (3, 3), or several that look the same, (G, 4, 4).
        covariance: of the tangent (v, omega) at the first mode, (6, 6), as `pnp.solve` gives it; drawn dashed, 90 %.

    Returns:
        an RGB picture, 1000 x 470.

    Raises:
        ValueError: on wrong shapes, or if no sample has finite numbers and a weight.

    Source: the map after Murphy et al., Implicit-PDF, 2021, fig. 1, with in-plane pies in place of overlapping circles.
    """
    R, p = weighted_samples(cam_from_obj, log_weights)
    peaks = _distinct(_rotations(modes, "modes")) if modes is not None else R[_heaviest(R, p)][None]
    if not len(peaks):
        raise ValueError("modes has no finite rotation; leave it out to take the heaviest sample")
    sigma = None if covariance is None else _block(covariance, (3, 4)) * math.degrees(1) ** 2
    nearest = np.stack([_angles(R, peak) for peak in peaks], 1).argmin(1)
    shares = np.array([p[nearest == k].sum() for k in range(len(peaks))])
    true = _rotations(truth, "truth") if truth is not None else R[:0]

    fig = figure.new(1000, 470)
    world = fig.add_axes((0.035, 0.28, 0.565, 0.601), projection="mollweide")
    discs = _map(world, R, p)
    bar = fig.add_axes((0.035, 0.165, 0.565, 0.027))
    fig.colorbar(discs, bar, orientation="horizontal", ticks=range(-180, 181, 90), label="in-plane angle [deg]")
    longitude, latitude, roll = viewing_angles(true)
    for color, width in ((figure.INK, 5.0), ("white", 4.0), (discs.to_rgba(np.degrees(roll)), 2.4)):
        world.scatter(longitude, latitude, 160, "none", edgecolors=color, linewidths=width, zorder=3, clip_on=False)
    if len(true):
        world.scatter([], [], 90, "none", edgecolors=figure.INK, linewidths=1.5, label="truth")
    if modes is not None:
        _pins(world, peaks[:PINS])
        for k in np.argsort(-shares, kind="stable")[:4]:
            world.scatter([], [], 50, figure.INK, marker=f"${k + 1}$", linewidths=0.3, label=f"{100 * shares[k]:.0f} %")
    fig.legend(*world.get_legend_handles_labels(), loc="lower left", ncols=5)

    # the close-up
    mine = nearest == 0
    R, p = R[mine], p[mine]
    omega = np.degrees(_log(R, peaks[0])) if len(R) else np.zeros((0, 3))
    away = np.degrees(_log(true, peaks[0])) if len(true) else np.zeros((0, 3))
    reach = _quantile(np.abs(omega[:, :2]).max(1), p, 0.97) if len(R) else 1.0
    if len(away):
        shown = np.abs(away[:, :2]).max(1).min()
        reach = max(reach, shown) if shown < 2.5 * reach else reach
    limit = min(max(1.15 * reach, 1e-3), 180.0)
    depth = max(_quantile(np.abs(omega[:, 2]), p, 0.97), 1e-4) if len(R) else 1.0
    panel = fig.add_axes((0.715, 0.343, 0.255, 0.5426))
    panel.set(
        title=f"rotation from {'mode 1' if modes is not None else 'the heaviest sample'}",
        xlim=(-limit, limit), ylim=(limit, -limit), xlabel="about the camera's x [deg]", ylabel="about its y [deg]",
    )  # fmt: skip
    panel.locator_params(nbins=5)
    _regions(panel, omega[:, :2], p)
    dots = _dots(panel, omega[:, :2], p, c=omega[:, 2], cmap=figure.diverging(), vmin=-depth, vmax=depth)
    _gaussian(panel, np.zeros(2), sigma)
    _crosses(panel, away[:, :2])
    bar, ticks = fig.add_axes((0.715, 0.165, 0.255, 0.027)), [-depth, 0, depth]
    fig.colorbar(
        dots, bar, orientation="horizontal", ticks=ticks, format="%.2g", label="about its z, the viewing direction [deg]"
    )
    fig.legend(*panel.get_legend_handles_labels(), loc="lower right", ncols=4)
    return figure.to_image(fig)


@figure.style()
def translation_scatter(
    cam_from_obj: Tensor,
    log_weights: Tensor | None = None,
    truth: Tensor | None = None,
    mode: Tensor | None = None,
    covariance: Tensor | None = None,
) -> Image.Image:
    """Where the object's origin may be: from above (x right, z away from the camera) and as the camera sees it (x, y).

    The area of a dot is its weight; the tinted regions hold 50 and 90 % of the probability.

    Args:
        cam_from_obj: samples, (S, 4, 4), metres.
        log_weights: their log-weights, (S,); None: all count the same.
        truth: (4, 4), metres, drawn as a cross.
        mode: the centre of the Gaussian, (4, 4), metres; needed with `covariance`.
        covariance: of the tangent (v, omega), (6, 6), as `pnp.solve` gives it: the dashed ellipse holds 90 % of its Gaussian.

    Returns:
        an RGB picture, 1000 x 470. Axes are in mm if the samples spread less than 0.2 m, else in m. The two directions of a
        panel share a scale unless one spreads more than four times as far as the other; then the picture says so.

    Raises:
        ValueError: on wrong shapes, a covariance without a mode, or if no sample has finite numbers and a weight.
    """
    if cam_from_obj.shape[-2:] != (4, 4):
        raise ValueError(f"samples must be (S, 4, 4) metres, got {tuple(cam_from_obj.shape)}")
    if covariance is not None and mode is None:
        raise ValueError("covariance needs the mode that it belongs to: mode=solution.cam_from_obj")
    for name, value in (("truth", truth), ("mode", mode)):
        if value is not None and value.shape != (4, 4):
            raise ValueError(f"{name} must be one pose (4, 4), got {tuple(value.shape)}")
    T, p = weighted_samples(cam_from_obj, log_weights, keep=slice(3, 4))
    t = T[..., 0]
    extra = [to_array(v)[None, :3, 3] for v in (truth, mode) if v is not None]
    low, high = _extent(t, p, extra)
    scale, unit = (1000.0, "mm") if (high - low).max() < 0.2 else (1.0, "m")
    t, low, high = t * scale, low * scale, high * scale
    mean = p @ t
    sigma = np.sqrt(p @ (t - mean) ** 2)

    fig = figure.new(1000, 470)
    panels = [fig.add_axes((left, 0.185, 0.38, 0.68)) for left in (0.1, 0.59)]
    for panel, b, title, label in zip(panels, (2, 1), ("from above", "as the camera sees it"), ("z, away", "y, down")):
        pair = [0, b]
        across, along, same = _spans((low[0], high[0]), (low[b], high[b]), 0.68 * 470 / (0.38 * 1000))
        panel.set(xlim=across, ylim=along[::-1] if b == 1 else along, xlabel=f"x, right [{unit}]", ylabel=f"{label} [{unit}]")
        numbers = ", ".join(f"{'xyz'[k]} {_with_error(mean[k], sigma[k])}" for k in pair)
        figure.headline(panel, title, f"mean ± sigma: {numbers} {unit}")
        if not same:
            panel.text(0.98, 0.02, "the axes have different scales", {"fontsize": 8}, transform=panel.transAxes, ha="right")
        _regions(panel, t[:, pair], p)
        _dots(panel, t[:, pair], p, c=figure.BLUE)
        if covariance is not None and mode is not None:
            _gaussian(panel, to_array(mode)[pair, 3] * scale, _block(covariance, pair) * scale**2)
        if truth is not None:
            _crosses(panel, to_array(truth)[None, pair, 3] * scale)
    fig.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=4)
    return figure.to_image(fig)


# ---------------------------------------------------------------------------------------------------------- the numbers


def chosen(log_weights: Tensor | None, total: int, count: int) -> list[int]:
    """Which of `total` samples stand for all, in proportion to their weights: `count` indices, with repetitions.

    Systematic: the same weights give the same choice. Weights that are not finite count as zero.
    """
    p = np.full(total, 1 / max(total, 1)) if log_weights is None else _weights(log_weights)
    if not len(p) or not p.sum() > 0:
        raise ValueError(f"none of the {total} samples has a weight; is the posterior's converged False?")
    places = (np.arange(count) + 0.5) / count
    return np.searchsorted(np.cumsum(p) / p.sum(), places).clip(0, total - 1).tolist()  # type: ignore[no-any-return]


def to_array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().double().numpy()


def _weights(log_weights: Tensor) -> np.ndarray:
    """Normalised weights of log-weights, zero for NaN and -inf."""
    logs = to_array(log_weights)
    usable = np.isfinite(logs)
    if not usable.any():
        return np.zeros_like(logs)
    w = np.where(usable, np.exp(np.where(usable, logs, 0) - logs[usable].max()), 0.0)
    return w / w.sum()


def weighted_samples(poses: Tensor, log_weights: Tensor | None, keep: slice = slice(0, 3)) -> tuple[np.ndarray, np.ndarray]:
    """The columns `keep` of usable samples, (n, 3, k), and their weights, (n,), which sum to 1."""
    if poses.dim() != 3 or poses.shape[-2:] not in ((4, 4), (3, 3)):
        raise ValueError(f"samples must be (S, 4, 4), got {tuple(poses.shape)}; take one problem of the batch: samples[0]")
    if log_weights is not None and log_weights.shape != poses.shape[:1]:
        raise ValueError(f"log_weights must be ({len(poses)},) to match the samples, got {tuple(log_weights.shape)}")
    if not len(poses):
        raise ValueError("there is nothing to draw: no samples")
    values = to_array(poses)[:, :3, keep]
    p = np.full(len(values), 1 / len(values)) if log_weights is None else _weights(log_weights)
    usable = np.isfinite(values).all((1, 2)) & (p > 0)
    if not usable.any():
        raise ValueError(f"none of the {len(values)} samples has finite numbers and a weight; is converged False?")
    return values[usable], p[usable] / p[usable].sum()


def _rotations(poses: Tensor, name: str) -> np.ndarray:
    """(k, 3, 3) of one or several poses; those that are not finite are left out."""
    if poses.dim() not in (2, 3) or poses.shape[-2:] not in ((4, 4), (3, 3)):
        raise ValueError(f"{name} must be (4, 4) or (k, 4, 4), got {tuple(poses.shape)}")
    R = to_array(poses)[..., :3, :3].reshape(-1, 3, 3)
    return R[np.isfinite(R).all((1, 2))]  # type: ignore[no-any-return]


def _block(covariance: Tensor, entries: Sequence[int]) -> np.ndarray:
    """Two rows and columns of a covariance, (2, 2)."""
    if covariance.shape != (6, 6):
        raise ValueError(f"covariance must be (6, 6) of the tangent (v, omega), got {tuple(covariance.shape)}")
    return to_array(covariance)[np.ix_(entries, entries)]  # type: ignore[no-any-return]


def _angles(R: np.ndarray, other: np.ndarray) -> np.ndarray:
    return rotation.angle_between(torch.from_numpy(R), torch.from_numpy(other)).numpy()


def _log(R: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Rotation vectors on the camera side: R = exp(omega) base, (n, 3), radians."""
    return rotation.so3_log(torch.from_numpy(R @ base.T)).numpy()


def _distinct(R: np.ndarray) -> np.ndarray:
    kept: list[np.ndarray] = []
    for matrix in R:
        if all(float(_angles(matrix, other)) > DISTINCT for other in kept):
            kept.append(matrix)
    return np.array(kept).reshape(-1, 3, 3)


def _heaviest(R: np.ndarray, p: np.ndarray) -> int:
    """The sample with most probability around it."""
    tried = np.argsort(-p, kind="stable")[:512]
    flat = R.reshape(-1, 9)
    cosine = (flat[tried] @ flat.T - 1) / 2
    return int(tried[(np.exp((cosine - 1) / (1 - math.cos(2 * CLUSTER))) @ p).argmax()])


def _quantile(values: np.ndarray, p: np.ndarray, share: float) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(p[order])
    return float(values[order][min(np.searchsorted(total, share * total[-1]), len(order) - 1)])


def _extent(t: np.ndarray, p: np.ndarray, extra: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Corners (3,), (3,) around 98 % of the samples in each direction; marks are included unless they lie far outside."""
    low = np.array([_quantile(t[:, k], p, 0.01) for k in range(3)])
    high = np.array([_quantile(t[:, k], p, 0.99) for k in range(3)])
    size = np.maximum(high - low, 1e-3 * (high - low).max() + 1e-5 * np.abs(t).max() + 1e-12)
    for marks in extra:
        for mark in marks[np.isfinite(marks).all(1)]:
            near = (mark > low - 1.5 * size) & (mark < high + 1.5 * size)
            low, high = np.where(near, np.minimum(low, mark), low), np.where(near, np.maximum(high, mark), high)
    size = np.maximum(high - low, size)
    middle = (low + high) / 2
    return middle - 0.62 * size, middle + 0.62 * size


def _spans(a: Span, b: Span, aspect: float) -> tuple[Span, Span, bool]:
    """The two ranges of a panel `aspect` times as high as wide, widened to one scale unless one is four times the other."""
    scale = (a[1] - a[0], (b[1] - b[0]) / aspect)
    if max(scale) > 4 * min(scale):
        return a, b, False
    half, middle = max(scale) / 2, ((a[0] + a[1]) / 2, (b[0] + b[1]) / 2)
    return (middle[0] - half, middle[0] + half), (middle[1] - half * aspect, middle[1] + half * aspect), True


def _with_error(value: float, error: float) -> str:
    """A number and its error, with the digits that two of the error's need."""
    digits = min(max(0, 1 - math.floor(math.log10(max(error, 1e-9)))), 4)
    return f"{value:.{digits}f} ± {error:.{digits}f}".replace("-", "−")


class _Density:
    """A kernel estimate in the plane whose kernels widen where samples are few.

    They are ellipses of one shape: that of the neighbourhoods of the samples, so that several modes stay apart.

    Args:
        points: (S, 2), in a unit in which 1 is small.
        p: their weights, which sum to 1.

    Source: Abramson's square-root law; the widths are the radii that hold the same share of the probability.
    """

    def __init__(self, points: np.ndarray, p: np.ndarray) -> None:
        self.p, self.middle = p, points.mean(0)
        self.whiten = np.eye(2)
        for _ in range(4):  # towards the shape of neighbourhoods that hold a fifth of the probability
            self.points = (points - self.middle) @ self.whiten
            square, radius = self._neighbours(0.2)
            near = (square <= radius[:, None]) * p * (p / np.maximum((square <= radius[:, None]) @ p, 1e-300))[:, None]
            x = points - self.middle
            shape = (x * (near.sum(0) + near.sum(1))[:, None]).T @ x - x.T @ (near + near.T) @ x
            values, vectors = np.linalg.eigh(shape)
            self.whiten = vectors / np.sqrt(np.maximum(values, 1e-3 * max(values[1], 0) + 1e-6))
        self.points = (points - self.middle) @ self.whiten
        # of n equal samples n^-0.35: about Scott's width for a Gaussian, a bit more
        self.width = np.sqrt(self._neighbours(float((p**2).sum()) ** 0.35)[1])
        self.width = np.maximum(self.width, max(0.05 * float(np.median(self.width)), 1e-3))

    def _neighbours(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances between the samples, (S, S), and of the neighbours that complete the share of each, (S,)."""
        square = self._squares(self.points)
        order = np.argsort(square, 1)
        held = (np.cumsum(self.p[order], 1) < share).sum(1).clip(0, len(self.p) - 1)
        return square, np.take_along_axis(square, order, 1)[np.arange(len(held)), held]

    def _squares(self, x: np.ndarray) -> np.ndarray:
        """Squared distances to the samples, (n, S)."""
        return np.maximum((x**2).sum(1)[:, None] + (self.points**2).sum(1) - 2 * x @ self.points.T, 0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The density, up to a factor. (n, 2) -> (n,)."""
        values = np.empty(len(x))
        for i in range(0, len(x), 4096):  # bounded memory
            part = self._squares((x[i : i + 4096] - self.middle) @ self.whiten)
            values[i : i + 4096] = np.exp(-0.5 * part / self.width**2) @ (self.p / self.width**2)
        return values

    def level(self, share: float) -> float:
        """The density on the rim of the densest region that holds a share of the samples' weight."""
        kernels = np.exp(-0.5 * self._squares(self.points) / self.width**2) @ (self.p / self.width**2)
        return -_quantile(-kernels, self.p, share)


# --------------------------------------------------------------------------------------------------------------- drawing


def viewing_angles(R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From where a camera that looks straight at the object sees it: longitude (0 is +X) and latitude of its direction in the
    object's frame, and the in-plane angle, clockwise in the image. (n, 3, 3) -> (n,) each, radians."""
    towards = _to_camera(R)
    turn = R @ viewpoints.look_at(torch.from_numpy(towards)).numpy().swapaxes(-1, -2)
    roll = np.arctan2(turn[:, 1, 0] - turn[:, 0, 1], turn[:, 0, 0] + turn[:, 1, 1])
    return np.arctan2(towards[:, 1], towards[:, 0]), np.arcsin(towards[:, 2].clip(-1, 1)), roll


def _to_camera(R: np.ndarray) -> np.ndarray:
    """Unit vectors from the object towards a camera that looks straight at it, object frame. (n, 3, 3) -> (n, 3)."""
    return -R[:, 2, :] / np.linalg.norm(R[:, 2, :], axis=-1, keepdims=True)


def _map(world: Axes, R: np.ndarray, p: np.ndarray) -> PathCollection:
    """The sphere of directions, and on it the samples gathered into discs, heaviest first, with in-plane angles as wedges."""
    world.set_title("direction to the camera, object frame", pad=20)
    world.set_xticks(np.radians(np.arange(-135, 136, 45)), ["", "−Y", "", "+X", "", "+Y", ""], color=figure.GREY)
    world.set_yticks(np.radians(np.arange(-60, 61, 30)), [""] * 5)
    world.set_longitude_grid_ends(90)  # type: ignore[attr-defined]
    for name, spot, across, along in (
        ("+Z", (0.5, 1.01), "center", "bottom"), ("−Z", (0.5, -0.02), "center", "top"),
        ("−X", (-0.01, 0.5), "right", "center"), ("−X", (1.01, 0.5), "left", "center"),
    ):  # fmt: skip
        world.annotate(name, spot, xycoords="axes fraction", ha=across, va=along, color=figure.GREY, fontsize=9)
    towards, roll = _to_camera(R), viewing_angles(R)[2]
    heavy = np.exp((towards @ towards.T - 1) / (1 - math.cos(CLUSTER))) @ p
    free, centres = np.ones(len(p), bool), []
    for i in np.argsort(-heavy, kind="stable"):
        if free[i]:
            centres.append(i)
            free &= towards @ towards[i] < math.cos(CLUSTER)
    nearest = ((towards @ towards[centres].T - 1) / (1 - math.cos(CLUSTER)) + 2 * np.log(heavy[centres])).argmax(1)
    wedge = np.floor((roll / (2 * math.pi) + 0.5) * WEDGES).astype(int).clip(0, WEDGES - 1)
    wedges, middles = np.zeros((len(centres), WEDGES)), np.zeros((len(centres), 3))
    np.add.at(wedges, (nearest, wedge), p)
    np.add.at(middles, nearest, p[:, None] * towards)
    radii = DISC * np.sqrt(wedges.sum(1))
    shown = np.argsort(-radii, kind="stable")[: (radii > 0.3).sum()]  # smaller ones are not to be seen
    middles = middles[shown] / np.linalg.norm(middles[shown], axis=1, keepdims=True)
    longitude, latitude = np.arctan2(middles[:, 1], middles[:, 0]), np.arcsin(middles[:, 2].clip(-1, 1))
    return figure.pies(world, longitude, latitude, radii[shown].clip(0.9), wedges[shown])


def _pins(world: Axes, peaks: np.ndarray) -> None:
    """Numbers beside the modes, each joined to its place by a line, none over another."""
    angles = np.stack(viewing_angles(peaks)[:2], 1)
    spots = world.transProjection.transform(angles) * 76  # about points
    turn = np.arange(16) * math.pi / 8 + math.pi / 4
    around = np.concatenate([r * np.stack([np.cos(turn), np.sin(turn)], 1) for r in (25, 34, 44)])
    taken = np.zeros((0, 2))
    for k, spot in enumerate(spots):
        tried = spot + around
        crowd = np.maximum(0, 20 - np.linalg.norm(tried[:, None] - taken, axis=-1)).sum(1)
        crowd += 0.5 * np.maximum(0, 25 - np.linalg.norm(tried[:, None] - spots, axis=-1)).sum(1)
        rim = np.linalg.norm(tried / (2 * math.sqrt(2) * 76, math.sqrt(2) * 76), axis=1)
        best = (crowd + 300 * np.maximum(0, rim - 0.93) + 0.01 * np.arange(len(tried))).argmin()
        taken = np.concatenate([taken, tried[best : best + 1]])
        world.annotate(
            str(k + 1), angles[k], around[best], textcoords="offset points", ha="center", va="center", fontsize=9, zorder=4,
            bbox={"boxstyle": "circle", "facecolor": "white", "edgecolor": figure.INK, "pad": 0.25},
            arrowprops={"arrowstyle": "-", "color": figure.INK, "shrinkB": 0},
        )  # fmt: skip


def _regions(panel: Axes, points: np.ndarray, p: np.ndarray) -> None:
    """Tint the densest regions that hold 90 and 50 % of the probability, within the limits of the axes."""
    for share, tint in zip(SHARES, figure.TINTS):
        panel.fill_between([], [], color=tint, edgecolor=figure.BLUE, label=f"{100 * share:.0f} %")
    if len(points) < 3:
        return
    if len(points) > 1000:
        pick = chosen(torch.from_numpy(np.log(p)), len(p), 1000)
        points, p = points[pick], np.full(1000, 1 / 1000)
    limits = np.array([panel.get_xlim(), panel.get_ylim()])
    unit = np.abs(np.diff(limits)[:, 0]) / 300
    density = _Density(points / unit, p)
    x, y = (np.linspace(low, high, 128) for low, high in limits)
    values = density(np.stack(np.meshgrid(x / unit[0], y / unit[1]), -1).reshape(-1, 2)).reshape(128, 128)
    levels = [density.level(share) for share in SHARES]
    if values.min() < levels[0] < min(levels[1], values.max()):
        panel.contourf(x, y, values, levels, colors=figure.TINTS, extend="max")
        panel.contour(x, y, values, levels, colors=figure.BLUE, linewidths=0.9)


def _dots(panel: Axes, points: np.ndarray, p: np.ndarray, **colors: object) -> PathCollection:
    """Samples; areas are weights."""
    radii = np.sqrt(p * len(p)).clip(0.35, 3.0) * np.clip(1.1 * (600 / max(len(p), 1)) ** 0.25, 0.8, 1.8)
    return panel.scatter(*points.T, (2 * radii) ** 2, alpha=0.6, linewidths=0, zorder=2, **colors)  # type: ignore[arg-type]


def _gaussian(panel: Axes, mean: np.ndarray, covariance: np.ndarray | None) -> None:
    """The ellipse that holds 90 % of a Gaussian in the plane."""
    if covariance is None or not np.isfinite(covariance).all() or not np.isfinite(mean).all():
        return
    values, vectors = np.linalg.eigh(covariance)
    turn = np.linspace(0, 2 * math.pi, 181)
    axes = vectors * np.sqrt(np.maximum(values, 0) * -2 * math.log(1 - SHARES[0]))
    ellipse = mean + np.stack([np.cos(turn), np.sin(turn)], 1) @ axes.T
    panel.plot(*ellipse.T, "--", color=figure.INK, linewidth=1.3, label="Gaussian, 90 %")


def _crosses(panel: Axes, places: np.ndarray) -> None:
    """True values."""
    if len(places := places[np.isfinite(places).all(1)]):
        panel.scatter(*places.T, 80, figure.TRUTH, marker="X", edgecolors="white", linewidths=0.8, zorder=4, label="truth")
