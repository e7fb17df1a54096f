"""Pictures of a pose distribution: from where the object is seen, how it is turned, where it is. Used through `viz`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..geometry import rotation, viewpoints

Color = tuple[int, ...]  # red, green, blue, and alpha where it matters; 0 to 255
Span = tuple[float, float]

INK, GREY, FAINT, WHITE = (30, 30, 35), (120, 120, 128), (216, 216, 222), (255, 255, 255)
BLUE, TINTS = (40, 96, 168), ((224, 235, 248), (190, 213, 240))  # samples; regions of 90 and 50 %
GAUSSIAN, TRUTH = (200, 92, 20), (190, 20, 60)
SHARES = (0.9, 0.5)
CLUSTER = math.radians(7.0)  # directions nearer than this share one disc of the map
DISC = 24.0  # radius of a disc that holds all the probability, points
DISTINCT = math.radians(5.0)  # modes nearer than this are one


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
    nearest = np.stack([_angles(R, peak) for peak in peaks], 1).argmin(1)
    shares = np.array([p[nearest == k].sum() for k in range(len(peaks))])
    true = _rotations(truth, "truth") if truth is not None else R[:0]

    figure = Figure(1000, 470)
    figure.text((315, 20), "direction to the camera, object frame", 17, "mm")
    world = Map(figure, (315, 200), 285)
    _pies(world, R, p)
    radius = 9.0
    for matrix in true:
        spot, roll = world.place(matrix[None])
        for r, color, width in ((radius, WHITE, 6.0), (radius, INK, 5.0), (radius, _cyclic(roll)[0], 2.4)):
            figure.disc(spot[0], r, None, color, width)
    if modes is not None:
        _pins(world, peaks)
    _bar(figure, (30, 405, 300, 417), lambda u: _cyclic((2 * u - 1) * math.pi), ("-180°", "-90°", "0°", "90°", "180°"),
         "in-plane angle")  # fmt: skip
    x, y = 335.0, 411.0
    if len(true):
        figure.disc((x + 8, y), 7.5, None, INK, 5.0)
        figure.disc((x + 8, y), 7.5, None, _cyclic(np.zeros(1))[0], 2.4)
        x = figure.text((x + 23, y), "truth", 14, "lm") + 20
    if modes is not None:
        for k in np.argsort(-shares, kind="stable")[:4]:
            figure.disc((x + 8, y), 8, WHITE, INK, 1.2)
            figure.text((x + 8, y), str(k + 1), 12, "mm")
            x = figure.text((x + 21, y), f"{100 * shares[k]:.0f} %", 14, "lm") + 12

    # the close-up
    mine = nearest == 0
    R, p = R[mine], p[mine]
    omega = np.degrees(_log(R, peaks[0])) if len(R) else np.zeros((0, 3))
    away = np.degrees(_log(true, peaks[0])) if len(true) else np.zeros((0, 3))
    sigma = None if covariance is None else _block(covariance, (3, 4)) * math.degrees(1) ** 2
    reach = _quantile(np.abs(omega[:, :2]).max(1), p, 0.97) if len(R) else 1.0
    if len(away):
        shown = np.abs(away[:, :2]).max(1).min()
        reach = max(reach, shown) if shown < 2.5 * reach else reach
    limit = min(max(1.15 * reach, 1e-3), 180.0)
    depth = max(_quantile(np.abs(omega[:, 2]), p, 0.97), 1e-4) if len(R) else 1.0
    name = "mode 1" if modes is not None else "the heaviest sample"
    figure.text((828, 20), f"rotation relative to {name}", 17, "mm")
    panel = Panel(
        figure, (695, 48, 960, 313), (-limit, limit), (limit, -limit), "about the camera's x [deg]", "about its y [deg]"
    )
    panel.regions(omega[:, :2], p)
    panel.dots(omega[:, :2], p, _diverging(omega[:, 2] / depth))
    panel.gaussian(np.zeros(2), sigma)
    panel.cross(away[:, :2], TRUTH)
    panel.done()
    ends = _label(depth, 10 ** math.floor(math.log10(depth)) / 10)
    _bar(
        figure,
        (695, 405, 960, 417),
        lambda u: _diverging(2 * u - 1),
        (f"-{ends}", "0", ends),
        "about its z, the viewing direction [deg]",
    )
    if sigma is not None:
        figure.line([(868, 372), (892, 372)], GAUSSIAN, 1.6, dash=5)
        figure.text((898, 372), "Gaussian, 90 %", 13, "lm")
    if len(away):
        figure.cross((702, 372), TRUTH)
        figure.text((714, 372), "truth", 13, "lm")
    for k, share in enumerate(SHARES):
        figure.box((760 + 54 * k, 366, 774 + 54 * k, 378), TINTS[k], BLUE)
        figure.text((778 + 54 * k, 372), f"{100 * share:.0f} %", 13, "lm")
    return figure.done()


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

    figure = Figure(1000, 470)
    panels = (
        ((85, 48, 470, 373), (0, 2), "from above", ("x, right", "z, away"), False),
        ((595, 48, 980, 373), (0, 1), "as the camera sees it", ("x, right", "y, down"), True),
    )
    for frame, axes, title, labels, down in panels:
        a, b = axes
        spans, same = _spans((low[a], high[a]), (low[b], high[b]), frame)
        across, along = spans
        figure.text(((frame[0] + frame[2]) / 2, 20), title, 17, "mm")
        if not same:
            figure.text(((frame[0] + frame[2]) / 2, 38), "the axes have different scales", 12, "mm", GREY)
        panel = Panel(figure, frame, across, along[::-1] if down else along, f"{labels[0]} [{unit}]", f"{labels[1]} [{unit}]")
        points = t[:, axes]
        panel.regions(points, p)
        panel.dots(points, p, np.broadcast_to(np.array(BLUE), (len(p), 3)))
        if covariance is not None and mode is not None:
            panel.gaussian(to_array(mode)[list(axes), 3] * scale, _block(covariance, axes) * scale**2)
        if truth is not None:
            panel.cross(to_array(truth)[None, list(axes), 3] * scale, TRUTH)
        panel.done()

    mean = p @ t
    sigma = np.sqrt(p @ (t - mean) ** 2)
    spread = "   ".join(f"{n} {_with_error(m, s)}" for n, m, s in zip("xyz", mean, sigma))
    x, y = 85.0, 448.0
    for k, share in enumerate(SHARES):
        figure.box((x, y - 6, x + 14, y + 6), TINTS[k], BLUE)
        x = figure.text((x + 19, y), f"{100 * share:.0f} %", 14, "lm") + 16
    if covariance is not None:
        figure.line([(x, y), (x + 24, y)], GAUSSIAN, 1.6, dash=5)
        x = figure.text((x + 30, y), "Gaussian, 90 %", 14, "lm") + 16
    if truth is not None:
        figure.cross((x + 6, y), TRUTH)
        x = figure.text((x + 17, y), "truth", 14, "lm") + 16
    figure.text((980, y), f"mean ± sigma   {spread} {unit}", 14, "rm", GREY)
    return figure.done()


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


def _heaviest(R: np.ndarray, p: np.ndarray, most: int = 512) -> int:
    """The sample with most probability around it."""
    tried = np.argsort(-p, kind="stable")[:most]
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


def _spans(a: Span, b: Span, frame: tuple[float, float, float, float], most: float = 4.0) -> tuple[tuple[Span, Span], bool]:
    """The two ranges of a panel, widened to the same scale if neither is `most` times the other."""
    width, height = frame[2] - frame[0], frame[3] - frame[1]
    scale = ((a[1] - a[0]) / width, (b[1] - b[0]) / height)
    if max(scale) > most * min(scale):
        return (a, b), False
    half = (max(scale) * width / 2, max(scale) * height / 2)
    middle = ((a[0] + a[1]) / 2, (b[0] + b[1]) / 2)
    return ((middle[0] - half[0], middle[0] + half[0]), (middle[1] - half[1], middle[1] + half[1])), True


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


# --------------------------------------------------------------------------------------------------------------- colours


def _from_oklch(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Colours of equal looks to 8-bit RGB, (..., 3). Source: Ottosson, A perceptual color space for image processing, 2020."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        -1,
    ).clip(0, 1)
    return (255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).round().astype(int)


def _cyclic(angle: np.ndarray) -> np.ndarray:
    """A colour for every angle, radians, all equally bright. (...,) -> (..., 3)."""
    angle = np.asarray(angle, float)
    return _from_oklch(np.full_like(angle, 0.7), np.full_like(angle, 0.14), angle + math.radians(255))


def _diverging(value: np.ndarray) -> np.ndarray:
    """Blue for -1, grey for 0, orange for 1. (...,) -> (..., 3)."""
    value = np.clip(np.asarray(value, float), -1, 1)
    hue = np.where(value < 0, math.radians(255), math.radians(50))
    return _from_oklch(0.66 - 0.1 * np.abs(value), 0.16 * np.abs(value), hue)


# --------------------------------------------------------------------------------------------------------------- drawing


def _with_error(value: float, error: float) -> str:
    """A number and its error, with the digits that two of the error's need."""
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 1e-9 else 3
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _label(value: float, step: float) -> str:
    """A number with the digits that a step needs."""
    text = f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _ticks(low: float, high: float, most: int = 5) -> tuple[list[float], float]:
    """Round numbers within a range, and their step."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)], step


class Figure:
    """A white sheet, drawn three times as large and shrunk at the end. Places are (x, y) in final pixels."""

    def __init__(self, width: float, height: float, scale: int = 3) -> None:
        self.size, self.scale = (round(width), round(height)), scale
        self.picture = Image.new("RGB", (self.size[0] * scale, self.size[1] * scale), WHITE)
        self.pen = ImageDraw.Draw(self.picture, "RGBA")

    def _at(self, points: np.ndarray | Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        return [(float(x) * self.scale, float(y) * self.scale) for x, y in points]

    def line(
        self, points: np.ndarray | Sequence[Sequence[float]], color: Color, width: float = 1.0, dash: float | None = None
    ) -> None:
        chain = np.asarray(points, float)
        thick = max(1, round(width * self.scale))
        if dash is None:
            self.pen.line(self._at(chain), tuple(color), thick, joint="curve")
            return
        length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(chain, axis=0).T))])
        for start in np.arange(0, length[-1], 1.7 * dash):
            along = np.linspace(start, min(start + dash, length[-1]), 6)
            piece = np.stack([np.interp(along, length, chain[:, k]) for k in (0, 1)], 1)
            self.pen.line(self._at(piece), tuple(color), thick, joint="curve")

    def polygon(self, points: np.ndarray, fill: Color | None, outline: Color | None = None, width: float = 1.0) -> None:
        if fill is not None:
            self.pen.polygon(self._at(points), fill=tuple(fill))
        if outline is not None:
            self.line(np.concatenate([points, points[:1]]), outline, width)

    def box(self, box: Sequence[float], fill: Color | None, outline: Color | None, width: float = 1.0) -> None:
        x0, y0, x1, y1 = box
        self.polygon(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), fill, outline, width)

    def disc(
        self, centre: Sequence[float], radius: float, fill: Color | None, outline: Color | None = None, width: float = 1.0
    ) -> None:
        """A disc; its outline is centred on the rim."""
        (x, y), s = centre, self.scale
        if fill is not None:
            self.pen.ellipse([(x - radius) * s, (y - radius) * s, (x + radius) * s, (y + radius) * s], fill=tuple(fill))
        if outline is not None:
            outer, thick = (radius + width / 2) * s, max(1, round(width * s))
            self.pen.ellipse([x * s - outer, y * s - outer, x * s + outer, y * s + outer], None, tuple(outline), thick)

    def pie(self, centre: Sequence[float], radius: float, shares: np.ndarray, colors: np.ndarray) -> None:
        """Wedges clockwise from the top."""
        (x, y), s = centre, self.scale
        ends = np.concatenate([[0], np.cumsum(shares / shares.sum())]) * 360 - 90
        frame = [(x - radius) * s, (y - radius) * s, (x + radius) * s, (y + radius) * s]
        self.pen.ellipse(frame, fill=tuple(colors[int(shares.argmax())]))  # no cracks between thin wedges
        for start, end, color in zip(ends[:-1], ends[1:], colors):
            self.pen.pieslice(frame, start, end, fill=tuple(int(c) for c in color))

    def cross(self, centre: Sequence[float], color: Color, size: float = 6.0) -> None:
        x, y = centre
        for ink, width in ((WHITE, 4.6), (color, 2.2)):
            longer = size + (1.0 if ink == WHITE else 0.0)
            self.line([(x - longer, y - longer), (x + longer, y + longer)], ink, width)
            self.line([(x - longer, y + longer), (x + longer, y - longer)], ink, width)

    def text(self, at: Sequence[float], text: str, size: float, anchor: str, color: Color = INK, halo: float = 0.0) -> float:
        """Write; returns where the text ends on the right."""
        font = ImageFont.load_default(size * self.scale)
        place = (at[0] * self.scale, at[1] * self.scale)
        self.pen.text(place, text, tuple(color), font, anchor, stroke_width=round(halo * self.scale), stroke_fill=WHITE)
        return float(self.pen.textbbox(place, text, font, anchor)[2]) / self.scale

    def text_up(self, at: Sequence[float], text: str, size: float) -> None:
        """Write upwards, centred."""
        font = ImageFont.load_default(size * self.scale)
        right, bottom = font.getbbox(text)[2:]
        plate = Image.new("L", (round(right) + 2, round(bottom) + 2))
        ImageDraw.Draw(plate).text((0, 0), text, 255, font)
        plate = plate.rotate(90, expand=True)
        x, y = round(at[0] * self.scale - plate.width / 2), round(at[1] * self.scale - plate.height / 2)
        self.picture.paste(Image.new("RGB", plate.size, INK), (x, y), plate)

    def done(self) -> Image.Image:
        return self.picture.resize(self.size, Image.Resampling.LANCZOS)


def _bar(figure: Figure, box: Sequence[float], colors, labels: Sequence[str], title: str) -> None:  # type: ignore[no-untyped-def]
    """A scale of colours with its numbers below and its name below them."""
    x0, y0, x1, y1 = box
    steps = round((x1 - x0) * 2)
    shades = colors((np.arange(steps) + 0.5) / steps)
    for i, shade in enumerate(shades):
        left = x0 + (x1 - x0) * i / steps
        figure.pen.rectangle(
            [left * figure.scale, y0 * figure.scale, (left + 0.6) * figure.scale, y1 * figure.scale],
            fill=tuple(int(c) for c in shade),
        )
    for k, label in enumerate(labels):
        x = x0 + (x1 - x0) * k / (len(labels) - 1)
        figure.line([(x, y1), (x, y1 + 4)], INK)
        figure.text((x, y1 + 7), label, 13, "mt")
    figure.text(((x0 + x1) / 2, y1 + 36), title, 14, "mm")


class Map:
    """The sphere of directions in Mollweide's equal-area projection: longitude 0 is +X, the north pole +Z."""

    def __init__(self, figure: Figure, centre: Span, half: float) -> None:
        self.figure, self.centre, self.half = figure, centre, half
        turn = np.linspace(0, 2 * math.pi, 361)
        rim = np.array(centre) + half * np.stack([np.cos(turn), 0.5 * np.sin(turn)], 1)
        figure.polygon(rim, (250, 250, 252))
        latitudes, longitudes = np.radians(np.arange(-90, 91, 2.0)), np.radians(np.arange(-180, 181, 2.0))
        for degrees in range(-60, 61, 30):
            shade = FAINT if degrees else (186, 186, 194)
            figure.line(self.project(longitudes, np.full_like(longitudes, math.radians(degrees))), shade, 0.8)
        for degrees in range(-135, 136, 45):
            shade = FAINT if degrees % 90 else (186, 186, 194)
            figure.line(self.project(np.full_like(latitudes, math.radians(degrees)), latitudes), shade, 0.8)
        figure.polygon(rim, None, INK, 1.4)
        for name, degrees in (("-Y", -90), ("+X", 0), ("+Y", 90)):
            x, y = self.project(np.radians([degrees]), np.zeros(1))[0]
            figure.text((x + 5, y + 11), name, 14, "lm", GREY, halo=2)
        x, y = centre
        figure.text((x, y - half / 2 - 6), "+Z", 14, "mb", GREY)
        figure.text((x, y + half / 2 + 6), "-Z", 14, "mt", GREY)
        figure.text((x - half - 5, y), "-X", 14, "rm", GREY)
        figure.text((x + half + 5, y), "-X", 14, "lm", GREY)

    def project(self, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
        """Angles, radians, to places, (n, 2). Source: Snyder, Map projections, eq. 31-1 to 31-4."""
        theta = np.array(latitude, float)
        for _ in range(30):  # Newton's method; slow only close to the poles
            slope = np.maximum(2 + 2 * np.cos(2 * theta), 1e-9)
            theta = theta - (2 * theta + np.sin(2 * theta) - math.pi * np.sin(latitude)) / slope
            theta = np.clip(theta, -math.pi / 2, math.pi / 2)
        x = longitude / math.pi * np.cos(theta)
        return np.array(self.centre) + self.half * np.stack([x, -0.5 * np.sin(theta)], 1)

    def place(self, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rotations (n, 3, 3) lie, (n, 2), and their in-plane angles, (n,), radians, clockwise in the image."""
        directions = _to_camera(R)
        upright = viewpoints.look_at(torch.from_numpy(directions)).numpy()
        turn = R @ upright.swapaxes(-1, -2)
        angle = np.arctan2(turn[:, 1, 0] - turn[:, 0, 1], turn[:, 0, 0] + turn[:, 1, 1])
        longitude, latitude = np.arctan2(directions[:, 1], directions[:, 0]), np.arcsin(directions[:, 2].clip(-1, 1))
        return self.project(longitude, latitude), angle


def _to_camera(R: np.ndarray) -> np.ndarray:
    """Unit vectors from the object towards a camera that looks straight at it, object frame. (n, 3, 3) -> (n, 3)."""
    return -R[:, 2, :] / np.linalg.norm(R[:, 2, :], axis=-1, keepdims=True)


def _pies(world: Map, R: np.ndarray, p: np.ndarray) -> None:
    """Directions gathered into discs, heaviest first; in each the in-plane angles as wedges."""
    directions = _to_camera(R)
    _, angle = world.place(R)
    heavy = np.exp((directions @ directions.T - 1) / (1 - math.cos(CLUSTER))) @ p
    free, centres = np.ones(len(p), bool), []
    for i in np.argsort(-heavy, kind="stable"):
        if free[i]:
            centres.append(i)
            free &= directions @ directions[i] < math.cos(CLUSTER)
    nearest = ((directions @ directions[centres].T - 1) / (1 - math.cos(CLUSTER)) + 2 * np.log(heavy[centres])).argmax(1)
    discs = []
    for k in range(len(centres)):
        mine = nearest == k
        share = p[mine].sum()
        if DISC * math.sqrt(share) < 0.4:  # not to be seen
            continue
        middle = p[mine] @ directions[mine]
        middle = middle / np.linalg.norm(middle)
        spot = world.project(np.arctan2(middle[1:2], middle[0:1]), np.arcsin(middle[2:3].clip(-1, 1)))[0]
        discs.append((share, spot, angle[mine], p[mine]))
    for share, spot, angles, weights in sorted(discs, key=lambda disc: -disc[0]):
        radius = DISC * math.sqrt(share)
        around = np.argsort(angles, kind="stable")
        world.figure.pie(spot, max(radius, 1.2), weights[around], _cyclic(angles[around]))
        if radius > 3:
            world.figure.disc(spot, radius, None, (*INK, 110), 0.7)


def _pins(world: Map, peaks: np.ndarray, most: int = 9) -> None:
    """Numbers beside the modes, each joined to its place by a line, none over another."""
    spots, _ = world.place(peaks[:most])
    taken: list[np.ndarray] = []
    for k, spot in enumerate(spots):
        best, cost = spot, math.inf
        for reach in (34.0, 46.0, 60.0):
            for step in range(16):
                direction = np.array([math.cos(step * math.pi / 8 - math.pi / 4), math.sin(step * math.pi / 8 - math.pi / 4)])
                pin = spot + reach * direction
                crowd = sum(max(0.0, 26 - float(np.hypot(*(pin - other)))) for other in taken)
                crowd += sum(0.5 * max(0.0, 34 - float(np.hypot(*(pin - other)))) for other in spots)
                offset = (pin - np.array(world.centre)) / (world.half, world.half / 2)
                outside = max(0.0, float(np.hypot(*offset)) - 0.93)
                total = crowd + 400 * outside + 0.1 * reach + 0.3 * step
                if total < cost:
                    best, cost = pin, total
        taken.append(best)
        world.figure.line([spot, best], INK, 1.0)
        world.figure.disc(spot, 1.6, INK)
        world.figure.disc(best, 9, WHITE, INK, 1.2)
        world.figure.text(best, str(k + 1), 13, "mm")


class Panel:
    """Axes with ticks; what is drawn inside is cut at the frame."""

    def __init__(
        self, figure: Figure, frame: tuple[float, float, float, float], across: Span, upwards: Span, x_label: str, y_label: str
    ) -> None:
        self.figure, self.frame, self.across, self.upwards = figure, frame, across, upwards
        self.inner = Figure(frame[2] - frame[0], frame[3] - frame[1], figure.scale)
        x0, y0, x1, y1 = frame
        for value in (ticks := _ticks(*across))[0]:
            x = x0 + self.place(np.array([[value, upwards[0]]]))[0, 0]
            figure.line([(x, y1), (x, y1 + 4)], INK)
            figure.text((x, y1 + 8), _label(value, ticks[1]), 13, "mt")
            self.inner.line([(x - x0, 0), (x - x0, y1 - y0)], (236, 236, 240), 0.8)
        widest = 0.0
        for value in (ticks := _ticks(min(upwards), max(upwards)))[0]:
            y = y0 + self.place(np.array([[across[0], value]]))[0, 1]
            figure.line([(x0 - 4, y), (x0, y)], INK)
            label = _label(value, ticks[1])
            figure.text((x0 - 8, y), label, 13, "rm")
            widest = max(widest, ImageFont.load_default(13).getlength(label))
            self.inner.line([(0, y - y0), (x1 - x0, y - y0)], (236, 236, 240), 0.8)
        figure.text(((x0 + x1) / 2, y1 + 38), x_label, 14, "mm")
        figure.text_up((x0 - 24 - widest, (y0 + y1) / 2), y_label, 14)

    def place(self, points: np.ndarray) -> np.ndarray:
        """Values (n, 2) to pixels inside the frame, (n, 2)."""
        (left, right), (bottom, top) = self.across, self.upwards
        width, height = self.frame[2] - self.frame[0], self.frame[3] - self.frame[1]
        u = (points[:, 0] - left) / (right - left) * width
        v = (top - points[:, 1]) / (top - bottom) * height
        return np.stack([u, v], 1)

    def regions(self, points: np.ndarray, p: np.ndarray) -> None:
        """Tint the densest regions that hold 90 and 50 % of the probability."""
        import cv2

        if len(points) < 3:
            return
        if len(points) > 1000:
            pick = chosen(torch.from_numpy(np.log(p)), len(p), 1000)
            points, p = points[pick], np.full(1000, 1 / 1000)
        density = _Density(self.place(points), p)
        width, height = self.inner.size
        step = 3
        u, v = np.meshgrid(np.arange(0, width + step, step), np.arange(0, height + step, step))
        values = density(np.stack([u, v], -1).reshape(-1, 2).astype(float)).reshape(u.shape)
        fine = step * self.inner.scale
        large = cv2.resize(values, (u.shape[1] * fine, u.shape[0] * fine), interpolation=cv2.INTER_LINEAR)
        for share, tint in zip(SHARES, TINTS):
            mask = (large >= density.level(share)).astype(np.uint8)
            for contour in cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]:
                chain = (contour.reshape(-1, 2) + 0.5) / self.inner.scale - step / 2  # resize takes pixels as areas
                if len(chain) < 12:
                    continue
                hole = cv2.contourArea(contour, oriented=True) > 0  # OpenCV runs around holes the other way
                chain = np.mean([np.roll(chain, k, 0) for k in range(-4, 5)], 0)
                self.inner.polygon(chain, (TINTS[0] if share == SHARES[1] else WHITE) if hole else tint, BLUE, 0.9)

    def dots(self, points: np.ndarray, p: np.ndarray, colors: np.ndarray) -> None:
        """Samples; areas are weights."""
        radii = np.sqrt(p * len(p)).clip(0.35, 3.0) * np.clip(1.5 * (600 / len(p)) ** 0.25, 1.0, 2.5)
        for (x, y), radius, color in sorted(zip(self.place(points), radii, colors), key=lambda dot: -dot[1]):
            self.inner.disc((x, y), radius, (*(int(c) for c in color), 150))

    def gaussian(self, mean: np.ndarray, covariance: np.ndarray | None) -> None:
        """The ellipse that holds 90 % of a Gaussian in the plane."""
        if covariance is None or not np.isfinite(covariance).all() or not np.isfinite(mean).all():
            return
        values, vectors = np.linalg.eigh(covariance)
        turn = np.linspace(0, 2 * math.pi, 181)
        axes = vectors * np.sqrt(np.maximum(values, 0) * -2 * math.log(1 - SHARES[0]))
        ellipse = self.place(mean + np.stack([np.cos(turn), np.sin(turn)], 1) @ axes.T)
        if np.abs(ellipse).max() < 1e4:  # larger ones are no ellipse within the frame
            self.inner.line(ellipse, GAUSSIAN, 1.6, dash=5)

    def cross(self, points: np.ndarray, color: Color) -> None:
        for at in self.place(points):
            if np.isfinite(at).all() and np.abs(at).max() < 1e4:
                self.inner.cross(at, color)

    def done(self) -> None:
        x, y = round(self.frame[0] * self.figure.scale), round(self.frame[1] * self.figure.scale)
        self.figure.picture.paste(self.inner.picture, (x, y))
        self.figure.box(self.frame, None, INK, 1.2)
