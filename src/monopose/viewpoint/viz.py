"""Pictures of viewpoints: axes of an object on its photo, probabilities around it, confusion matrices, the worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .. import viz
from ..geometry import boxes as box_ops
from ..geometry import viewpoints
from ..geometry.viewpoints import Bins
from ..types import Camera, ObjectModel, PoseEstimates
from ..viz.canvas import AXES, BLACK, BOX, WHITE, Canvas, Color, load_font, object_silhouettes, write_tags
from ..viz.posterior import BLUE, FAINT, GREY, INK, TINTS, TRUTH, Figure

NAMES = ("azimuth", "elevation", "in-plane rotation")
ARROWS: tuple[tuple[str, tuple[float, float, float], Color], ...] = (  # of the object's frame
    ("right", (1.0, 0.0, 0.0), AXES[0]),  # as seen by who stands in front of it
    ("front", (0.0, -1.0, 0.0), AXES[1]),
    ("up", (0.0, 0.0, 1.0), AXES[2]),
)
PANEL, CELL = 368.0, 34.0  # width of one confusion matrix with its names, and of a cell, pixels


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


def azimuth_rose(
    probabilities: Tensor, bins: Bins, angle: float | None = None, true: float | None = None, title: str = ""
) -> Image.Image:
    """Where the camera stands around the object, seen from above: a wedge per bin, its area the probability.

    Args:
        probabilities: of the azimuth's bins, (count,).
        bins: of the azimuth.
        angle: the estimate, radians, a blue line.
        true: the truth, radians, a red line.
        title: written above.

    Returns:
        an RGB picture, 360 x 400. The object's front is below; azimuth grows clockwise.
    """
    figure = Figure(360, 400)
    centre, radius = np.array([180.0, 222.0]), 128.0
    values = probabilities.detach().cpu().double().numpy()

    def place(azimuth: float | np.ndarray, r: float) -> np.ndarray:
        """Seen from above with the front below: the camera at azimuth 0 stands below, at 90 degrees on the left."""
        return centre + r * np.stack([-np.sin(azimuth), np.cos(azimuth)], -1)

    for share in (0.25, 0.5, 1.0):
        figure.polygon(place(np.linspace(0, 2 * math.pi, 97)[:-1], radius * math.sqrt(share)), None, FAINT, 0.8)
    best = int(values.argmax())
    for k, value in enumerate(values):
        edges = bins.start + bins.width * np.linspace(k, k + 1, 17)
        wedge = np.concatenate([centre[None], place(edges, radius * math.sqrt(max(float(value), 0.0)))])
        figure.polygon(wedge, TINTS[1] if k == best else TINTS[0], BLUE, 0.9)
    for k in range(bins.count):
        edge = bins.start + bins.width * k
        figure.line(np.stack([centre, place(edge, radius)]), FAINT, 0.6)
    for degrees in range(0, 360, 45):
        figure.text(place(math.radians(degrees), radius + 17).tolist(), f"{degrees}°", 12, "mm", GREY)
    for value, color in ((true, TRUTH), (angle, BLUE)):
        if value is not None:
            figure.line(np.stack([centre, place(value, radius + 5)]), color, 2.2)
            figure.disc(place(value, radius + 5).tolist(), 3.5, color, WHITE, 1.0)
    half = 9.0
    figure.box((centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half), WHITE, INK, 1.4)
    figure.line([(centre[0] - half, centre[1] + half), (centre[0] + half, centre[1] + half)], AXES[1], 3.5)
    figure.text((16, 18), title or "azimuth of the camera", 14, "lm")
    legend = "from above; green: the front"
    legend += "; blue: estimate" * (angle is not None) + "; red: truth" * (true is not None)
    figure.text((16, 388), legend, 11, "lm", GREY)
    figure.text((16, 38), f"{100 * values[best]:.0f} % in the best bin; rings at 25, 50, 100 %", 12, "lm", GREY)
    return figure.done()


def confusion_matrices(found: Mapping[str, Any], bins: Sequence[Bins], title: str = "") -> Image.Image:
    """Three matrices: a row per true bin, a column per answer, the number of pictures in every cell.

    Colours are shares of the row. The column in a red frame is the best constant answer, the majority class; what it would
    score is written below.

    Args:
        found: of `evaluation.viewpoint.scores`.
        bins: of the three angles.
        title: written above.
    """
    height = 108 + 8 * CELL + 92
    figure = Figure(3 * PANEL + 8, height)
    figure.text((16, 20), title or "true bin (row) and answer (column)", 16, "lm")
    figure.text((16, 42), f"{found['images']} pictures; bins are named by their middle, degrees", 13, "lm", GREY)
    for k, (key, b) in enumerate(zip(("azimuth", "elevation", "inplane"), bins, strict=True)):
        _matrix(figure, 16 + k * PANEL, found[key], b, NAMES[k])
    return figure.done()


def _matrix(figure: Figure, left: float, mine: Mapping[str, Any], bins: Bins, name: str) -> None:
    counts = np.array(mine["confusion"])
    x0, y0 = left + 62, 108.0
    side = CELL * bins.count
    labels = [f"{math.degrees(float(bins.centre(torch.tensor(i)))):.4g}" for i in range(bins.count)]
    figure.text((x0 + side / 2, 68), name, 15, "mm")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for i in range(bins.count):
        figure.text((x0 - 6, y0 + (i + 0.5) * CELL), labels[i], 11, "rm", GREY)
        figure.text((x0 + (i + 0.5) * CELL, y0 - 8), labels[i], 11, "mb", GREY)
        for j in range(bins.count):
            share = float(shares[i, j])
            tint = tuple(round(255 + share**0.7 * (c - 255)) for c in BLUE)
            cell = (x0 + j * CELL, y0 + i * CELL, x0 + (j + 1) * CELL, y0 + (i + 1) * CELL)
            figure.box(cell, tint, FAINT, 0.7)
            if counts[i, j]:
                ink = WHITE if share > 0.55 else INK
                figure.text((cell[0] + CELL / 2, cell[1] + CELL / 2), str(counts[i, j]), 12, "mm", ink)
    most = int(mine["majority_bin"])
    figure.box((x0 + most * CELL, y0, x0 + (most + 1) * CELL, y0 + side), None, TRUTH, 1.6)
    figure.box((x0, y0, x0 + side, y0 + side), None, INK, 1.2)
    figure.text_up((left + 6, y0 + side / 2), "truth", 13)
    figure.text((x0, y0 + side + 20), f"right {_percent(mine['accuracy'])}, ±1 bin {_percent(mine['within_one'])}", 14, "lm")
    constant = f"majority class {_percent(mine['majority'])}, ±1 bin {_percent(mine['majority_within_one'])}"
    figure.text((x0, y0 + side + 42), constant, 13, "lm", TRUTH)
    chance = f"random {_percent(mine['chance'])}, ±1 bin {_percent(mine['chance_within_one'])}"
    figure.text((x0, y0 + side + 62), chance, 13, "lm", GREY)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def worst(mistakes: Sequence[Mistake], most: int = 20, columns: int = 5) -> Image.Image:
    """The pictures whose rotation is off most, the worst first: thick arrows for the estimate, thin pale ones for the truth."""
    if not mistakes:
        raise ValueError("a sheet of mistakes needs at least one picture, got none")
    chosen = sorted(mistakes, key=lambda m: -m.error_deg)[:most]
    pictures = [crop(m.image, m.box, m.predicted, 256, m.true) for m in chosen]
    captions = [f"{m.error_deg:.0f}° off: {m.name}" for m in chosen]
    return viz.contact_sheet(pictures, captions, min(columns, len(pictures)), 256)
