"""Pictures of categories: what a generator draws from all around, between two objects, and how it is fitted to a photo."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import viz
from ..geometry import camera, se3
from ..types import Frame
from ..viz import figure
from ..viz.canvas import AXES, WHITE, Box, Canvas, Color, Picture, point_box, write_tags
from . import fitting
from .fitting import Fit, FitStep
from .model import Model

TILE = 256  # side of one picture of an animation, pixels
GROUND = 0.5  # grey that objects lie on
SWEEP = (-10.0, 90.0)  # elevations of a sweep, degrees
RING = 48  # points of the ring that stands for the axes which mean nothing


@torch.no_grad()
def azimuth_sweep(
    model: Model, codes: Tensor, count: int = 36, elevation_deg: float = 25.0, side: int = TILE
) -> list[Image.Image]:
    """Objects turning once, in `count` pictures.

    Args:
        model: in evaluation mode.
        codes: of the objects, (B, codes), side by side.
        count: of pictures.
        elevation_deg: of the camera.
        side: of one object's picture, pixels.
    """
    turn = torch.arange(count) * (2 * math.pi / count)
    return [_row(model, codes, float(a), math.radians(elevation_deg), side) for a in turn]


@torch.no_grad()
def elevation_sweep(
    model: Model, codes: Tensor, count: int = 24, azimuth_deg: float = 60.0, side: int = TILE
) -> list[Image.Image]:
    """Objects seen from below the table up to straight from above and back. Arguments as `azimuth_sweep`."""
    low, high = (math.radians(v) for v in SWEEP)
    up = low + (high - low) * (0.5 - 0.5 * torch.cos(torch.arange(count) * (2 * math.pi / count)))
    return [_row(model, codes, math.radians(azimuth_deg), float(e), side) for e in up]


@torch.no_grad()
def interpolation(
    model: Model, codes: Tensor, count: int = 16, azimuth_deg: float = 60.0, elevation_deg: float = 25.0, side: int = TILE
) -> list[Image.Image]:
    """One object becoming the next, and the last the first again: `count` pictures between every two.

    Args:
        codes: (B, codes), B >= 2.
        azimuth_deg, elevation_deg: where the camera stands.
    """
    if len(codes) < 2:
        raise ValueError(f"an interpolation needs two codes or more, got {len(codes)}")
    after = codes.roll(-1, 0)
    shares = torch.arange(count) / count
    between = torch.cat([a + (b - a) * shares[:, None].to(a) for a, b in zip(codes, after, strict=True)])
    angles = math.radians(azimuth_deg), math.radians(elevation_deg)
    return [_row(model, code[None], *angles, side) for code in between]


def _row(model: Model, codes: Tensor, azimuth: float, elevation: float, side: int) -> Image.Image:
    view = codes.new_tensor([azimuth, elevation]).expand(len(codes), 2)
    made = model.synthesise(codes, view).over(GROUND)
    return viz.to_picture(_enlarged(torch.cat(list(made), -1), side))


def _enlarged(picture: Tensor, side: int) -> Tensor:
    """(C, S, W) to `side` pixels high."""
    scale = side / picture.shape[-2]
    return torch.nn.functional.interpolate(picture[None], scale_factor=scale, mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def reconstructions(model: Model, samples: Sequence[dict[str, Tensor]], side: int = 112) -> Image.Image:
    """What the network makes of pairs of views, one row each: the photo a code comes from, that object as it truly looks in the
    other view, and as it is drawn from the code and the other pose; then both silhouettes: red is too much, blue is missing.

    Args:
        samples: of `category.samples.CategoryViews` or `CachedViews`.
    """
    tiles, names = [], []
    for sample in samples:
        given = (sample[k][None].float() for k in ("image", "visible", "view"))
        made = model(*given).picture
        wanted = sample["rgba"][1]
        tiles += [sample["image"][0], wanted[:3] + GROUND * (1 - wanted[3:]), made.over(GROUND)[1]]
        names += ["photo of it", "another view", "drawn from it"]
        if made.alpha is not None:
            tiles.append(_difference(made.alpha[1], wanted[3]))
            names.append("silhouettes")
    columns = 4 if model.config.alpha else 3
    captions = names[:columns] + [""] * (len(names) - columns)
    return viz.contact_sheet([_enlarged(t, side) for t in tiles], captions, columns, side)


def _difference(made: Tensor, wanted: Tensor) -> Tensor:
    """Two silhouettes (S, S): both grey, the first alone red, the second alone blue."""
    both = 0.4 * torch.minimum(made, wanted)
    missing, more = (wanted - made).clamp_min(0), (made - wanted).clamp_min(0)
    return 1 - torch.stack([both + missing, both + missing + more, both + more])


# -------------------------------------------------------------------------------------------------------------- the fitting


@torch.no_grad()
def fitting_animation(model: Model, found: Fit, every: int = 1) -> list[Image.Image]:
    """How a fit went, a picture for every step: the crop, what the best start looks like now, the losses of all starts.

    Args:
        model: that was fitted.
        found: with its history and what was seen.
        every: show every so many steps, and the last.
    """
    image, mask = _seen(found)
    shown = [*range(0, len(found.history) - 1, every), len(found.history) - 1]
    seen = viz.to_picture(_enlarged(image, TILE))
    cut = viz.to_picture(_enlarged(image * mask + GROUND * (1 - mask), TILE))
    best, pictures = _best_so_far(found.history), []
    for step in shown:
        fit_step, row = best[step]
        now = viz.to_picture(_enlarged(fitting.picture(model, fit_step, row).over(GROUND)[0], TILE))
        sheet = Image.new("RGB", (3 * TILE + 392, TILE), "white")
        for k, part in enumerate((seen, cut, now)):
            sheet.paste(part, (k * TILE, 0))
        sheet.paste(losses(found.history, step), (3 * TILE, 0))
        pictures.append(sheet)
    return pictures


def _seen(found: Fit) -> tuple[Tensor, Tensor]:
    assert found.seen is not None
    return found.seen[:3], found.seen[3]


def _best_so_far(history: Sequence[FitStep]) -> list[tuple[FitStep, int]]:
    """At every step, the step and the start at which the loss was least until then."""
    kept: list[tuple[FitStep, int]] = []
    least = math.inf
    for fit_step in history:
        row = int(fit_step.losses.argmin())
        if float(fit_step.losses[row]) < least or not kept:
            least = float(fit_step.losses[row])
            kept.append((fit_step, row))
        else:
            kept.append(kept[-1])
    return kept


@figure.style()
def losses(history: Sequence[FitStep], until: int) -> Image.Image:
    """Losses of all starts up to a step, the least in blue; axes for the whole fit."""
    everything = torch.cat([m.losses for m in history]).cpu().numpy()
    low, high = float(everything.min()), float(np.quantile(everything, 0.9))
    pad, last = 0.05 * max(high - low, 1e-9), max(len(history) - 1, 1)
    curves: dict[int, list[tuple[int, float]]] = {}
    for step, fit_step in enumerate(history[: until + 1]):
        for start, loss in zip(fit_step.starts.tolist(), fit_step.losses.clamp(max=high).tolist(), strict=True):
            curves.setdefault(start, []).append((step, loss))
    best = [min(float(m.losses.min()), high) for m in history[: until + 1]]

    fig = figure.new(392, TILE)
    ax = fig.add_axes((0.17, 0.19, 0.8, 0.7))
    for curve in curves.values():
        ax.plot(*zip(*curve), color=figure.GREY, linewidth=0.7)
    ax.plot(best, color=figure.BLUE, linewidth=2.2, marker="o", markevery=[until])
    ax.set(xlim=(0, 1.03 * last), ylim=(low - pad, high + pad), xlabel="step", ylabel="loss")
    ax.set_title(f"{len(curves)} starts, step {until} of {last}")
    return figure.to_image(fig)


@torch.no_grad()
def stages(
    model: Model, found: Fit, overlay: Image.Image | None = None, after: int = 10, height: int = 240
) -> Image.Image:  # fmt: skip
    """One row: the crop, the synthesis at the start, after some steps, at the end, and the photo with the pose on it.

    Args: as `fitting_animation`.
        overlay: see `crop_of`; None: without.
        after: steps of the middle picture.
    """
    history, (image, mask) = found.history, _seen(found)
    end = found.views.rows(torch.tensor([found.chosen], device=found.losses.device))
    last = model.synthesise(end.codes, end.values).over(GROUND)[0]
    first, middle = (
        fitting.picture(model, *_best_so_far(history[: k + 1])[-1]).over(GROUND)[0] for k in (0, min(after, len(history) - 1))
    )
    parts = [_enlarged(p, height) for p in (image, image * mask + GROUND * (1 - mask), first, middle, last)]
    names = ["photo", "inside its mask", "synthesis, best start", f"after {min(after, len(history) - 1)} steps", "at the end"]
    pictures: list[Picture] = [*parts]
    if overlay is not None:
        pictures.append(overlay)
        names.append("its pose")
    return viz.side_by_side(pictures, names, height)


def crop_of(picture: Image.Image, square: Tensor) -> Image.Image:
    """Part of a drawn overlay, 240 pixels wide and high. square: (4,), xyxy on pixel edges."""
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
    return viz.to_picture(camera.cut(pixels, square[None].float(), 240)[0])


def draw_overlay(
    frame: Frame, poses: Tensor, texts: Sequence[str], sizes: Sequence[float], truth: Tensor | None = None,
    symmetric: bool = False,
) -> Image.Image:  # fmt: skip
    """The photo with the axes of every object: x red, y green, z blue, up; true axes white, where they are known.

    Args:
        poses: cam_from_obj, (N, 4, 4).
        texts: what to write at each.
        sizes: how long the axes are, in the unit of the poses' translations.
        truth: (N, 4, 4).
        symmetric: x and y mean nothing: a ring around the middle is drawn in place of them, in the plane they span.
    """
    canvas = Canvas(frame.camera.size)
    width = canvas.line_width
    tags: list[tuple[str, Color, Box]] = []
    for i, (pose, text, size) in enumerate(zip(poses.cpu(), texts, sizes, strict=True)):
        K, length = frame.camera.K.cpu(), 0.5 * size
        if truth is not None:
            _axes(canvas, truth[i].cpu(), K, length, width, [WHITE, None, WHITE], symmetric)
        if symmetric:
            _axes(canvas, pose, K, length, 1.2 * width, [None, None, AXES[2]], True)
        else:
            canvas.axes(pose, K, length, width)
        tags.append((text, viz.object_color(i + 1), point_box(pose, frame.camera)))
    picture = canvas.over(frame.image)
    write_tags(picture, tags)
    return picture


def _axes(
    canvas: Canvas, cam_from_obj: Tensor, K: Tensor, length: float, width: float, colors: Sequence[Color | None],
    symmetric: bool,
) -> None:  # fmt: skip
    """Those axes that have a colour; of symmetric objects the last, and a ring of its colour half as wide as it is long."""
    turn = torch.arange(RING) * (2 * math.pi / RING)
    around = 0.5 * torch.stack([turn.cos(), turn.sin(), torch.zeros(RING)], 1)
    points = length * torch.cat([torch.zeros(1, 3), torch.eye(3), around]).double()
    seen = se3.transform(cam_from_obj.double(), points) @ K.double().mT
    if not bool((seen[:, 2] > 1e-3).all()):  # behind the camera, or not a number
        return
    pixels = (seen[:, :2] / seen[:, 2:]).numpy()
    if symmetric:
        colors = [None, None, colors[2]]
        canvas.lines(pixels[4:], colors[2] or WHITE, 0.6 * width, closed=True)
    for axis, color in enumerate(colors):
        if color is not None:
            canvas.lines(pixels[[0, axis + 1]], color, width)
