"""Pictures of boxes on roads: in the photo, in 3D, from above, with their pose distributions and the points behind them.

`Seen` is what they draw: `RoadObjects`, true or estimated, and what `road.predict` returns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import viz
from ..geometry import boxes3d, se3
from ..viz import figure
from ..viz.canvas import WHITE, Box, Canvas, Color, write_tags
from ..viz.posterior import chosen, to_array, weighted_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray
NEAR = 0.1  # metres: what is nearer to the camera is cut off
FRONT = (1, 5, 7, 3)  # corners of the front face, around it
EGO = (2.0, 4.5)  # width and length of the camera's car, metres
IGNORED: Color = (120, 120, 128)  # regions without labels
REACH = (5.0, 60.0)  # the least and greatest distance that a picture from above shows by itself, metres


class Seen(Protocol):
    """Boxes of one picture, N rows: indices of classes (N,), poses (N, 4, 4), sizes (N, 3), metres, and what may be None."""

    @property
    def labels(self) -> Tensor: ...
    @property
    def cam_from_obj(self) -> Tensor: ...
    @property
    def sizes(self) -> Tensor: ...
    @property
    def boxes(self) -> Tensor | None: ...
    @property
    def scores(self) -> Tensor | None: ...
    @property
    def velocities(self) -> Tensor | None: ...


# ---------------------------------------------------------------------------------------------------------- on the photo


def boxes_2d(
    image: Tensor, objects: Seen, classes: Sequence[str], truth: Seen | None = None, ignored: Tensor | None = None
) -> Image.Image:  # fmt: skip
    """The photo with the 2D box of every object, its class, and its score if it has one.

    Args:
        image: (3, H, W), RGB in [0, 1].
        objects: with `boxes`.
        classes: names that the labels mean.
        truth: whose boxes are drawn thin and white.
        ignored: regions, (M, 4), xyxy on pixel edges, drawn thin and grey.

    Raises:
        ValueError: objects without boxes.
    """
    canvas = Canvas((image.shape[-2], image.shape[-1]))
    for regions, color in ((ignored, IGNORED), (None if truth is None else truth.boxes, WHITE)):
        for box in [] if regions is None else regions.tolist():
            canvas.box(tuple(box), color, 0.5 * canvas.line_width)
    if objects.boxes is None:
        raise ValueError("these objects have no 2D boxes; geometry.boxes3d.project makes them from their poses")
    order = _far_first(objects)
    for i in order:
        canvas.box(tuple(objects.boxes[i].tolist()), viz.object_color(int(objects.labels[i])), canvas.line_width)  # type: ignore[arg-type]
    picture = canvas.over(image)
    write_tags(picture, [_tag(objects, i, classes, tuple(objects.boxes[i].tolist())) for i in order])  # type: ignore[arg-type]
    return picture


def boxes_3d(
    image: Tensor, K: Tensor, objects: Seen, classes: Sequence[str], truth: Seen | None = None, tags: bool = True
) -> Image.Image:  # fmt: skip
    """The photo with the edges of the boxes; the front face has a cross, and a line on the ground shows the way that it moves.

    Args:
        image: (3, H, W), RGB in [0, 1].
        K: (3, 3), pixels.
        objects: boxes; parts behind the camera or far beyond the photo are cut off. Near ones are drawn over far ones.
        classes: names that the labels mean.
        truth: drawn thin and white.
        tags: write class and score, or without scores the distance.

    The line is where the object will be in half a second; of objects without velocities there is none.
    """
    size = (image.shape[-2], image.shape[-1])
    canvas = Canvas(size)
    if truth is not None:
        for i in _far_first(truth):
            _draw_box(canvas, K, truth, i, WHITE, 0.5 * canvas.line_width)
    order = _far_first(objects)
    for i in order:
        _draw_box(canvas, K, objects, i, viz.object_color(int(objects.labels[i])), canvas.line_width)
    picture = canvas.over(image)
    if tags:
        around = boxes3d.project(objects.cam_from_obj.double().cpu(), objects.sizes.double().cpu(), K.double().cpu(), size)
        write_tags(picture, [_tag(objects, i, classes, tuple(around[i].tolist())) for i in order])  # type: ignore[arg-type]
    return picture


def points(
    image: Tensor, pixels: Tensor, weights: Tensor, K: Tensor | None = None, cam_from_obj: Tensor | None = None,
    points3d: Tensor | None = None, labels: Tensor | None = None,
) -> Image.Image:  # fmt: skip
    """The photo with the points that objects look at: ellipses as wide and high as their weights in u and v.

    Of each object the largest weight has the same size. With poses and points3d a line leads from each point to where the
    pose puts it: the residuals.

    Args:
        image: (3, H, W), RGB in [0, 1].
        pixels: (R, N, 2), pixels, centres at integers.
        weights: of u and v, (R, N, 2), 1 / pixels.
        K: (3, 3), pixels.
        cam_from_obj: (R, 4, 4), metres.
        points3d: (R, N, 3), metres, object frame.
        labels: (R,), for the colours; None: one colour each.

    Raises:
        ValueError: shapes that do not fit.
    """
    import cv2

    if pixels.dim() != 3 or pixels.shape[-1] != 2 or pixels.shape != weights.shape:
        raise ValueError(f"pixels and weights must both be (R, N, 2), got {tuple(pixels.shape)} and {tuple(weights.shape)}")
    size = (image.shape[-2], image.shape[-1])
    canvas = Canvas(size)
    largest = min(size) / 40
    for r in range(len(pixels)):
        color = viz.object_color(r if labels is None else int(labels[r]))
        at, w = to_array(pixels[r]), to_array(weights[r])
        usable = np.isfinite(at).all(1) & np.isfinite(w).all(1)
        if K is not None and cam_from_obj is not None and points3d is not None:
            seen = se3.transform(cam_from_obj[r].double(), points3d[r].double())
            goal = to_array((seen @ K.double().mT)[:, :2] / seen[:, 2:].clamp_min(NEAR))
            usable &= to_array(seen)[:, 2] > NEAR
            for a, b in zip(at[usable], goal[usable]):
                canvas.lines(np.stack([a, b]), color, 0.35 * canvas.line_width)
        top = max(float(w[usable].max()) if usable.any() else 0.0, 1e-12)
        for (u, v), (wu, wv) in zip(at[usable], w[usable]):
            centre = (round(((u + 0.5) * canvas.scale - 0.5) * 16), round(((v + 0.5) * canvas.scale - 0.5) * 16))
            half = tuple(round((0.6 + largest * math.sqrt(max(q, 0) / top)) * canvas.scale * 16) for q in (wu, wv))
            if max(map(abs, centre)) < 2**26:
                for grow, value in ((16 * canvas.scale, (0, 0, 0, 150)), (0, (*color, 255))):
                    grown = (half[0] + grow, half[1] + grow)
                    cv2.ellipse(canvas.layer, centre, grown, 0, 0, 360, value, -1, cv2.LINE_AA, 4)
    return canvas.over(image)


def score_map(image: Tensor, scores: Tensor, highest: float = 1.0) -> Image.Image:
    """The photo, dark, with the scores that a network gives its places, from black (0) to bright yellow (`highest`).

    Args:
        image: (3, H, W), RGB in [0, 1].
        scores: a map of any resolution that covers the photo, (h, w), or of several classes, (C, h, w): the best one counts.
        highest: score of the brightest colour.

    Raises:
        ValueError: scores that are no map.
    """
    if scores.dim() not in (2, 3) or scores.numel() == 0:
        raise ValueError(f"scores must be (h, w) or (C, h, w), got {tuple(scores.shape)}")
    best = scores.detach().cpu().float()
    best = best.amax(0) if best.dim() == 3 else best
    large = torch.nn.functional.interpolate(best[None, None], size=tuple(image.shape[-2:]), mode="bilinear")[0, 0]
    heat = np.asarray(viz.value_image(large, 0.0, highest)).astype(np.float32)
    share = (large / highest).clamp(0, 1).sqrt().numpy()[..., None]
    below = np.asarray(viz.to_picture(image)).astype(np.float32).mean(-1, keepdims=True) * 0.6
    return Image.fromarray((below * (1 - share) + heat * share).round().clip(0, 255).astype(np.uint8))


def _far_first(objects: Seen) -> list[int]:
    poses = objects.cam_from_obj
    usable = torch.isfinite(poses).flatten(1).all(1) & torch.isfinite(objects.sizes).all(1)
    return [i for i in poses[:, 2, 3].argsort(descending=True).tolist() if usable[i]]


def _tag(objects: Seen, i: int, classes: Sequence[str], box: Box) -> tuple[str, Color, Box]:
    label = int(objects.labels[i])
    number = f"{float(objects.cam_from_obj[i, 2, 3]):.0f} m" if objects.scores is None else f"{float(objects.scores[i]):.2f}"
    return f"{classes[label]} {number}", viz.object_color(label), box


def _draw_box(canvas: Canvas, K: Tensor, objects: Seen, i: int, color: Color, width: float) -> None:
    pose, lhw = objects.cam_from_obj[i].detach().cpu().double(), objects.sizes[i].detach().cpu().double()
    corners = boxes3d.corners(pose, lhw)
    lines = [(corners[list(edge)], width) for edge in boxes3d.EDGES]
    lines += [(corners[[FRONT[k], FRONT[k + 2]]], 0.6 * width) for k in (0, 1)]
    if objects.velocities is not None and bool(torch.isfinite(objects.velocities[i]).all()):
        start = pose[:3, 3] + pose[:3, 1] * lhw[1] / 2
        step = 0.5 * objects.velocities[i].detach().cpu().double()
        if float(step.norm()) > 0.05:
            lines.append((torch.stack([start, start + step]), 1.5 * width))
    lines.sort(key=lambda line: -float(line[0][:, 2].mean()))
    for line, thick in lines:
        shown = _in_picture(line, K.detach().cpu().double(), canvas.size)
        if shown is not None:
            canvas.lines(shown, color, thick)


def _in_picture(ends: Tensor, K: Tensor, size: tuple[int, int]) -> Array | None:
    """The part of a line (2, 3) in the camera's frame that lies in front of it and near the picture: pixels (2, 2), or None."""
    height, width = size
    image = ends @ K.mT  # u z, v z, z
    z = image[:, 2]
    margin = float(max(size))
    planes = [z - NEAR]
    for k, extent in enumerate((width, height)):
        planes += [image[:, k] + margin * z, (extent + margin) * z - image[:, k]]
    start, end = 0.0, 1.0
    for a, b in (plane.tolist() for plane in planes):  # each is linear, and >= 0 on the side that is kept
        if a < 0 and b < 0:
            return None
        if a < 0:
            start = max(start, a / (a - b))
        elif b < 0:
            end = min(end, a / (a - b))
    if start >= end:
        return None
    cut = torch.stack([image[0] + q * (image[1] - image[0]) for q in (start, end)])
    return (cut[:, :2] / cut[:, 2:]).numpy()  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------------------ from above


@figure.style()
def bev(
    objects: Seen, classes: Sequence[str] = (), truth: Seen | None = None, samples: Tensor | None = None,
    log_weights: Tensor | None = None, K: Tensor | None = None, size: tuple[int, int] | None = None, reach: float | None = None,
    title: str = "from above",
) -> Image.Image:  # fmt: skip
    """The road from above: a grid in metres, the camera's car, boxes with their fronts, and where else they may be.

    Args:
        objects: filled rectangles in the colours of their classes; a thick line is the front, a thin one the velocity, as long
            as the way of a second.
        classes: names that the labels mean, for the legend; none: no legend.
        truth: outlines in orange.
        samples: of every object's pose, (N, S, 4, 4); dots where its centre may be, with a tick towards its front.
        log_weights: their log-weights, (N, S); None: all count the same.
        K, size: of the camera, for the two lines that bound what it sees.
        reach: distance at the upper edge, metres; None: a little beyond the furthest box.
        title: written above.

    Returns:
        an RGB picture, 640 x 880; x to the right, z away from the camera.

    Raises:
        ValueError: samples that do not fit the objects.
    """
    if samples is not None and (samples.dim() != 4 or len(samples) != len(objects.labels) or samples.shape[-2:] != (4, 4)):
        raise ValueError(f"samples must be ({len(objects.labels)}, S, 4, 4), one row per object, got {tuple(samples.shape)}")
    shown = [objects] if truth is None else [objects, truth]
    if reach is None:
        far = [float(o.cam_from_obj[i, 2, 3]) for o in shown for i in _far_first(o)[:1]]
        reach = float(np.clip(1.1 * max([*far, 0.0]) + 5, *REACH))
    below, aspect = 0.09 * reach, 0.84 * 880 / (0.87 * 640)
    half = (reach + below) / aspect / 2
    fig = figure.new(640, 880)
    ax = fig.add_axes((0.1, 0.12, 0.87, 0.84))
    ax.set(title=title, xlabel="x, right [m]", ylabel="z, away [m]", xlim=(-half, half), ylim=(-below, reach))
    turn = np.linspace(0, 2 * math.pi, 121)
    for radius in range(10, round(reach) + 1, 10):
        ax.plot(radius * np.cos(turn), radius * np.sin(turn), color=figure.FAINT, linewidth=0.8, zorder=0.6)
    if K is not None and size is not None:
        for u in (-0.5, size[1] - 0.5):
            slope = (u - float(K[0, 2])) / float(K[0, 0])
            ax.plot([0, slope * 2 * reach], [0, 2 * reach], "--", color=figure.GREY, linewidth=1, zorder=0.6)
    side, (back, front) = EGO[0] / 2, (1.3 - EGO[1], 1.3)
    ax.fill([-side, side, side, -side], [back, back, front, front], facecolor="#ececf0", edgecolor=figure.INK)
    ax.plot([-0.6, 0.0, 0.6], [-0.9, 0.6, -0.9], color=figure.INK, linewidth=1.4)

    named: set[int] = set()
    for i in _far_first(objects):
        label = int(objects.labels[i])
        name = classes[label] if label < len(classes) and label not in named else None
        named.add(label)
        _rectangle(ax, objects, i, _unit(viz.object_color(label)), name)
    for i in range(0 if samples is None else len(samples)):
        logs = None if log_weights is None else log_weights[i]
        _cloud(ax, samples[i], logs, _unit(viz.object_color(int(objects.labels[i])), 0.55))  # type: ignore[index]
    for n, i in enumerate([] if truth is None else _far_first(truth)):
        _rectangle(ax, truth, i, None, None if n else "truth")  # type: ignore[arg-type]
    fig.legend(*ax.get_legend_handles_labels(), loc="lower center", ncols=5)
    return figure.to_image(fig)


def _unit(color: Color, share: float = 1.0) -> tuple[float, float, float]:
    """A colour of the overlays as matplotlib takes it, darkened to a share."""
    return tuple(share * c / 255 for c in color)  # type: ignore[return-value]


def _rectangle(ax: Axes, objects: Seen, i: int, fill: tuple[float, ...] | None, name: str | None) -> None:
    """One box from above, its front, and where its velocity leads in a second; without a colour as an outline of the truth."""
    rectangle = boxes3d.bev(objects.cam_from_obj[i].detach().cpu().double(), objects.sizes[i].detach().cpu().double())
    x, z, long, wide, angle = rectangle.tolist()
    ahead, aside = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    centre = np.array([x, z])
    corners = centre + np.array([a * long / 2 * ahead + b * wide / 2 * aside for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))])
    ink = figure.TRUTH if fill is None else figure.INK
    face, width, order = ("none", 1.6, 4) if fill is None else ((*fill, 0.43), 1.0, 1)
    ax.fill(*corners.T, facecolor=face, edgecolor=ink, linewidth=width, label=name, zorder=order)
    ax.plot(*corners[:2].T, color=ink, linewidth=3, zorder=order)
    ax.plot(*np.stack([centre, centre + 0.5 * long * ahead]).T, color=ink, linewidth=1.2, zorder=order)
    if objects.velocities is not None and bool(torch.isfinite(objects.velocities[i]).all()):
        velocity = objects.velocities[i].detach().cpu().double()[[0, 2]].numpy()
        if np.hypot(*velocity) > 0.1:
            ax.plot(*np.stack([centre, centre + velocity]).T, "--", color=ink, linewidth=1, zorder=order)


def _cloud(ax: Axes, samples: Tensor, log_weights: Tensor | None, color: tuple[float, ...]) -> None:
    """Samples of one pose: dots with ticks, as many at a place as there is probability."""
    try:
        picked = chosen(log_weights, len(samples), min(200, 4 * len(samples)))
    except ValueError:  # no sample has a weight: nothing is known
        return
    values = to_array(samples[picked])
    values = values[np.isfinite(values).all((1, 2))]
    x, z = values[:, 0, 3], values[:, 2, 3]
    ticks = np.stack([[x, z], [x + 0.9 * values[:, 0, 0], z + 0.9 * values[:, 2, 0]], np.full((2, len(x)), np.nan)], 2)
    ax.plot(*ticks.reshape(2, -1), color=color, alpha=0.25, linewidth=0.6, zorder=2)
    ax.scatter(x, z, 5, [color], alpha=0.35, linewidths=0, zorder=2)


@figure.style()
def yaw_density(
    samples: Tensor, log_weights: Tensor | None = None, mode: Tensor | None = None, truth: Tensor | None = None,
    title: str = "",
) -> Image.Image:  # fmt: skip
    """The distribution of an object's heading, seen from above: the area within the curve is the probability.

    Args:
        samples: poses, (S, 4, 4), or yaws, (S,), radians.
        log_weights: their log-weights, (S,); None: all count the same.
        mode: the estimate, a pose (4, 4) or a yaw (), a blue line.
        truth: likewise, an orange line.
        title: written above.

    Returns:
        an RGB picture, 360 x 400; up is away from the camera, right is right. Above stands what share of the probability heads
        within 22.5 degrees of its peak, and within the same of the opposite direction: cars that may be looking backwards.

    Raises:
        ValueError: if no sample has finite numbers and a weight.
    """
    if samples.dim() == 1:
        samples = boxes3d.from_yaw(torch.zeros(len(samples), 3, dtype=samples.dtype), samples)
    poses, p = weighted_samples(samples, log_weights)
    yaws = boxes3d.yaw_of(torch.from_numpy(poses)).numpy()
    grid = np.linspace(-math.pi, math.pi, 721)
    # von Mises kernels, as narrow as the samples allow: a tenth of a circle for a few, 2 degrees for many
    effective = 1 / float((p**2).sum())
    spread = math.sqrt(max(-2 * math.log(max(abs(complex(np.exp(2j * yaws) @ p)), 1e-6)), 1e-6)) / 2
    width = float(np.clip(spread * effective**-0.2, math.radians(2), math.radians(36)))
    density = np.exp((np.cos(grid[:, None] - yaws) - 1) / width**2) @ p
    density /= density[:-1].mean() * 2 * math.pi
    peak = float(grid[density.argmax()])
    off = np.abs((yaws - peak + math.pi) % (2 * math.pi) - math.pi)
    near, behind = float(p[off < math.pi / 8].sum()), float(p[off > math.pi * 7 / 8].sum())

    fig = figure.new(360, 400)
    # yaw 0 heads to the right, pi / 2 towards the camera
    ax = fig.add_axes((0.15, 0.165, 0.7, 0.63), projection="polar", theta_direction=-1)
    ax.fill(grid, np.sqrt(density / density.max()), facecolor=figure.TINTS[1], edgecolor=figure.BLUE, linewidth=1.4)
    for name, pose, color in (("truth", truth, figure.TRUTH), ("estimate", mode, figure.BLUE)):
        if pose is not None:
            yaw = float(boxes3d.yaw_of(pose.double()) if pose.dim() == 2 else pose)
            ax.plot([yaw, yaw], [0, 1], color=color, linewidth=2.2, marker="o", markevery=[1], label=name, clip_on=False)
    ax.set_thetagrids(range(0, 360, 45), ["right", "", "towards the camera", "", "left", "", "away", ""])
    ax.set_rgrids([0.5, 1], ["", ""])
    ax.set_rmax(1)
    numbers = f"{100 * near:.0f} % near the peak, {100 * behind:.0f} % the other way round"
    figure.headline(ax, title or "heading, from above", numbers, gap=22)
    fig.legend(*ax.get_legend_handles_labels(), loc="lower center", ncols=2)
    return figure.to_image(fig)
