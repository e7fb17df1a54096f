"""Pictures of viewpoints: axes of an object on its photo, probabilities around it, confusion matrices, the worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .. import viz
from ..geometry import boxes as box_ops
from ..geometry import viewpoints
from ..geometry.viewpoints import Bins
from ..types import Camera, ObjectModel, PoseEstimates
from ..viz import figure
from ..viz.canvas import AXES, BLACK, BOX, Canvas, Color, load_font, object_silhouettes, write_tags

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

NAMES = ("azimuth", "elevation", "in-plane rotation")
ARROWS: tuple[tuple[str, tuple[float, float, float], Color], ...] = (  # of the object's frame
    ("right", (1.0, 0.0, 0.0), AXES[0]),  # as seen by who stands in front of it
    ("front", (0.0, -1.0, 0.0), AXES[1]),
    ("up", (0.0, 0.0, 1.0), AXES[2]),
)


class Mistake(NamedTuple):
    """One picture for `worst`."""

    image: Tensor  # (3, H, W), RGB in [0, 1]
    box: Tensor  # (4,), xyxy on pixel edges
    predicted: Tensor  # (3,), radians
    true: Tensor  # (3,), radians
    error_deg: float
    name: str


# ---------------------------------------------------------------------------------------------------------- on the photo


def draw(
    image: Tensor, boxes: Tensor, angles: Tensor, texts: Sequence[str] | None = None, truth: Tensor | None = None,
    model: ObjectModel | None = None, poses: PoseEstimates | None = None, camera: Camera | None = None,
) -> Image.Image:  # fmt: skip
    """The photo with the axes that each object is believed to have: to its front green, to its right red, upwards blue.

    Right is the right-hand side of somebody who stands in front of the object. Nothing is known of position and size, so
    arrows start in the middle of the box, without perspective.

    Args:
        image: (3, H, W), RGB in [0, 1].
        boxes: (N, 4), xyxy on pixel edges.
        angles: azimuth, elevation, in-plane rotation, (N, 3), radians.
        texts: what to write at each box.
        truth: true angles, (N, 3), drawn as thin pale arrows.
        model, poses, camera: where its CAD model is believed to be, one pose per box; its silhouette takes the box's place.

    Returns:
        an RGB picture of the photo's size.
    """
    boxes, angles = boxes.detach().cpu().double().reshape(-1, 4), angles.detach().cpu().double().reshape(-1, 3)
    canvas = Canvas((image.shape[-2], image.shape[-1]))
    written: list[tuple[str, tuple[float, float], Color]] = []
    covered = boxes.clone()  # by the box and its arrows
    silhouettes: list[np.ndarray] = []
    if model is not None and poses is not None and camera is not None:
        silhouettes = object_silhouettes(poses, {model.obj_id: model}, camera, canvas.scale)
    for i, (box, angle) in enumerate(zip(boxes, angles, strict=True)):
        if silhouettes:
            canvas.contour(silhouettes[i], BOX, canvas.line_width)
        else:
            canvas.box(tuple(box.tolist()), BOX, 0.7 * canvas.line_width)  # type: ignore[arg-type]
        if truth is not None:
            _arrows(canvas, box, truth[i].detach().cpu().double(), 0.5 * canvas.line_width, pale=True)
        names = _arrows(canvas, box, angle, 1.3 * canvas.line_width)
        written += names
        places = torch.tensor([place for _, place, _ in names], dtype=torch.float64)
        rim = min(canvas.size) / 60
        covered[i, :2] = torch.minimum(box[:2], places.amin(0) - rim)
        covered[i, 2:] = torch.maximum(box[2:], places.amax(0) + rim)
    picture = canvas.over(image)
    if texts is not None:
        tags = [(text, BOX, tuple(box.tolist())) for text, box in zip(texts, covered, strict=True)]
        write_tags(picture, tags)  # type: ignore[arg-type]
    pen, font = ImageDraw.Draw(picture), load_font(min(picture.size) / 36)
    for text, place, color in written:
        pen.text(place, text, fill=color, font=font, anchor="mm", stroke_width=2, stroke_fill=BLACK)
    return picture


def crop(image: Tensor, box: Tensor, angles: Tensor, side: int = 320, truth: Tensor | None = None) -> Image.Image:
    """One object cut out of its photo, with its axes. (3, H, W), (4,), (3,) -> a square picture."""
    from ..geometry.camera import cut

    square = box_ops.square(box.detach().cpu().float(), 1.35)
    piece = cut(image.detach().cpu(), square[None], side)[0]
    scale = side / float(square[2] - square[0])
    moved = (box.detach().cpu().float() - square[:2].repeat(2)) * scale
    return draw(piece, moved[None], angles[None], truth=None if truth is None else truth[None])


def _arrows(
    canvas: Canvas, box: Tensor, angles: Tensor, width: float, pale: bool = False
) -> list[tuple[str, tuple[float, float], Color]]:
    """Draw the three arrows of one object; returns their names, where to write them, and their colours."""
    R = viewpoints.rotation_of(angles)
    middle = ((box[:2] + box[2:]) / 2 - 0.5).numpy()
    length = 0.5 * float((box[2:] - box[:2]).amax())
    ends = (R @ torch.tensor([axis for _, axis, _ in ARROWS], dtype=torch.float64).T).T.numpy()
    written = []
    for k in sorted(range(3), key=lambda k: -ends[k, 2]):  # what points away first
        name, _, own = ARROWS[k]
        color: Color = tuple((255 + c) // 2 for c in own) if pale else own  # type: ignore[assignment]
        along = ends[k, :2] * length
        tip = middle + along
        canvas.lines(np.stack([middle, tip]), color, width)
        reach = float(np.hypot(*along))
        if reach > 4 * width:
            unit = along / reach
            wing = min(5 * width, 0.4 * reach)
            for turn in (2.6, -2.6):  # radians from the direction of the arrow
                c, s = math.cos(turn), math.sin(turn)
                side = tip + wing * np.array([c * unit[0] - s * unit[1], s * unit[0] + c * unit[1]])
                canvas.lines(np.stack([tip, side]), color, width)
            place = tip + unit * min(canvas.size) / 36
        else:  # it points at the camera, or straight away from it
            place = tip + np.array([0.0, min(canvas.size) / 24])
        written.append((name, (float(place[0]), float(place[1])), own))
    return written


def caption(angles: Tensor, probabilities: Tensor | None = None) -> str:
    """ "azimuth 321° (0.82), elevation 12° (0.95), in-plane -4° (0.99)"; (3,), radians; (3, count) or None."""
    best = [""] * 3 if probabilities is None else [f" ({float(p.max()):.2f})" for p in probabilities]
    degrees = [math.degrees(float(a)) for a in angles]
    names = ("azimuth", "elevation", "in-plane")
    return ", ".join(f"{name} {d:.0f}°{p}" for name, d, p in zip(names, degrees, best))


# -------------------------------------------------------------------------------------------------------------- figures


@figure.style()
def azimuth_rose(
    probabilities: Tensor, bins: Bins, angle: float | None = None, true: float | None = None, title: str = ""
) -> Image.Image:
    """Where the camera stands around the object, seen from above: a wedge per bin, its area the probability.

    Args:
        probabilities: of the azimuth's bins, (count,).
        bins: of the azimuth.
        angle: the estimate, radians, a blue line.
        true: the truth, radians, an orange line.
        title: written above.

    Returns:
        an RGB picture, 360 x 400. The object's front is below; azimuth grows clockwise.
    """
    values = probabilities.detach().cpu().double().clamp_min(0).numpy()
    best = int(values.argmax())
    fig = figure.new(360, 400)
    ax = fig.add_axes((0.15, 0.165, 0.7, 0.63), projection="polar", theta_offset=-math.pi / 2, theta_direction=-1)
    middles = bins.start + bins.width * (np.arange(bins.count) + 0.5)
    bars = ax.bar(middles, np.sqrt(values), bins.width, facecolor=figure.TINTS[0], edgecolor=figure.BLUE)
    bars[best].set_facecolor(figure.TINTS[1])
    for name, value, color in (("truth", true, figure.TRUTH), ("estimate", angle, figure.BLUE)):
        if value is not None:
            ax.plot([value, value], [0, 1], color=color, linewidth=2.2, marker="o", markevery=[1], label=name, clip_on=False)
    names = {0: "front, 0°", 180: "back, 180°"}
    ax.set_thetagrids(range(0, 360, 45), [names.get(a, f"{a}°") for a in range(0, 360, 45)])
    ax.set_rgrids([0.5, math.sqrt(0.5), 1], ["25 %", "50 %", "100 %"], math.degrees(middles[values.argmin()]), fontsize=7)
    ax.set_rmax(1)
    figure.headline(ax, title or "azimuth of the camera", f"from above; {100 * values[best]:.0f} % in the best bin", gap=22)
    fig.legend(*ax.get_legend_handles_labels(), loc="lower center", ncols=2)
    return figure.to_image(fig)


@figure.style()
def confusion_matrices(found: Mapping[str, Any], bins: Sequence[Bins], title: str = "") -> Image.Image:
    """Three matrices: a row per true bin, a column per answer, the number of pictures in every cell.

    Colours are shares of the row. The column in an orange frame is the best constant answer, the majority class; what it would
    score is written above.

    Args:
        found: of `evaluation.viewpoint.scores`.
        bins: of the three angles.
        title: written above.
    """
    fig = figure.new(1112, 472)
    fig.suptitle(f"{title}: {found['images']} pictures" if title else f"{found['images']} pictures", fontsize=13)
    panels = [fig.add_axes((0.068 + 0.302 * k, 0.16, 0.25, 0.589)) for k in range(3)]
    for ax, key, b, name in zip(panels, ("azimuth", "elevation", "inplane"), bins, NAMES, strict=True):
        cells = _matrix(ax, found[key], b, name)
    panels[0].set_ylabel("true bin, its middle [deg]")
    fig.colorbar(cells, fig.add_axes((0.938, 0.16, 0.012, 0.589)), label="share of the true bin")
    return figure.to_image(fig)


def _matrix(ax: Axes, mine: Mapping[str, Any], bins: Bins, name: str) -> AxesImage:
    counts = np.array(mine["confusion"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.argwhere(counts):
        ink = "white" if shares[i, j] > 0.6 else figure.INK
        ax.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=ink)
    most, last = int(mine["majority_bin"]), bins.count - 0.5
    frame = np.array([(most - 0.5, -0.5), (most + 0.5, -0.5), (most + 0.5, last), (most - 0.5, last)])
    ax.fill(*frame.T, facecolor="none", edgecolor=figure.TRUTH, linewidth=1.6, clip_on=False, zorder=3)
    labels = [f"{math.degrees(float(bins.centre(torch.tensor(i)))):.4g}".replace("-", "−") for i in range(bins.count)]
    ax.set_xticks(range(bins.count), labels, rotation=45)
    ax.set_yticks(range(bins.count), labels)
    ax.set_xticks(np.arange(bins.count - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(bins.count - 1) + 0.5, minor=True)
    ax.grid(False, which="major")
    ax.grid(True, which="minor")
    ax.tick_params(which="minor", length=0)
    ax.set_xlabel("answer [deg]")
    rows = (("right", "accuracy", "within_one"), ("majority class", "majority", "majority_within_one"))
    notes = [
        f"{what} {100 * mine[exact]:.1f} %, ±1 bin {100 * mine[near]:.1f} %"
        for what, exact, near in (*rows, ("random", "chance", "chance_within_one"))
    ]
    figure.headline(ax, name, *notes, colors=(figure.INK, figure.TRUTH, figure.GREY))
    return cells


def worst(mistakes: Sequence[Mistake], most: int = 20, columns: int = 5) -> Image.Image:
    """The pictures whose rotation is off most, the worst first: thick arrows for the estimate, thin pale ones for the truth."""
    if not mistakes:
        raise ValueError("a sheet of mistakes needs at least one picture, got none")
    chosen = sorted(mistakes, key=lambda m: -m.error_deg)[:most]
    pictures = [crop(m.image, m.box, m.predicted, 256, m.true) for m in chosen]
    captions = [f"{m.error_deg:.0f}° off: {m.name}" for m in chosen]
    return viz.contact_sheet(pictures, captions, min(columns, len(pictures)), 256)
