"""What every overlay is drawn with: a supersampled canvas over the photo, outlines, axes, name tags, grids of pictures."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..geometry.camera import project
from ..geometry.se3 import transform
from ..io.files import atomic_write
from ..types import Camera, Instances, ObjectModel, PoseEstimates

Models = Mapping[int, ObjectModel] | Iterable[ObjectModel] | None
Picture = Image.Image | Tensor | np.ndarray
Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

AXES: tuple[Color, Color, Color] = ((255, 55, 55), (50, 225, 70), (70, 130, 255))  # x red, y green, z blue
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
BOX: Color = (60, 240, 255)
PROBABILITY: tuple[Color, ...] = ((230, 50, 60), (255, 205, 60), (40, 215, 150))  # at 0, 0.5 and 1


def to_picture(image: Picture) -> Image.Image:
    """A tensor (3 | 1, H, W) or (H, W) in [0, 1], a bool mask, or a uint8 array (H, W, 3) as an RGB picture."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, Tensor):
        values = image.detach().cpu().float()
        values = values[None] if values.dim() == 2 else values
        values = values.expand(3, -1, -1) if len(values) == 1 else values
        if values.dim() != 3 or len(values) != 3:
            raise ValueError(f"expected an image tensor (3, H, W), (1, H, W) or (H, W), got {tuple(image.shape)}")
        image = np.empty((*values.shape[1:], 3), np.uint8)
        for rows in strips(len(image)):
            image[rows] = (values[:, rows].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(image).convert("RGB")


def strips(height: int) -> list[slice]:
    """Rows of a picture, 256 at a time: floating-point copies of a whole photo would take gigabytes."""
    return [slice(top, top + 256) for top in range(0, height, 256)]


def object_color(obj_id: int) -> Color:
    """The colour of an object id, the same in every picture; neighbouring ids differ clearly."""
    hue = (0.09 + 0.381966 * obj_id) % 1.0  # steps of the golden angle
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.75 if obj_id % 2 else 0.5, 1.0))  # type: ignore[return-value]


def probability_color(probability: float) -> Color:
    """Red for a pose that is surely wrong, yellow for one that is as likely wrong as right, blue-green for a sure one."""
    p = min(max(probability, 0.0), 1.0) * (len(PROBABILITY) - 1)
    i = min(int(p), len(PROBABILITY) - 2)
    return tuple(round(a + (p - i) * (b - a)) for a, b in zip(PROBABILITY[i], PROBABILITY[i + 1]))  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------------- drawing overlays


class Canvas:
    """A transparent layer, drawn at twice the size and shrunk, so that lines are smooth and the photo stays sharp."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.scale = 2 if size[0] * size[1] <= 4_000_000 else 1
        self.line_width = max(1.5, min(size) / 240)
        self.layer = np.zeros((size[0] * self.scale, size[1] * self.scale, 4), np.uint8)  # colours times alpha, alpha

    def lines(self, points: np.ndarray, color: Color, width: float, closed: bool = False) -> None:
        """A line through pixels (N, 2) of the frame, on a dark rim that keeps it readable on any background."""
        import cv2

        shifted = np.round(((points + 0.5) * self.scale - 0.5) * 16).astype(np.int32).reshape(1, -1, 1, 2)
        rim = (0, 0, 0, 150)
        for value, thick in ((rim, width + max(1.0, 0.8 * width)), ((*color, 255), width)):
            thickness = max(1, round(thick * self.scale))
            cv2.polylines(self.layer, list(shifted), closed, value, thickness, cv2.LINE_AA, 4)

    def stroke(self, counts: np.ndarray, points: np.ndarray, width: float) -> None:
        """Add 1 to a map of the frame's size where a line through pixels (N, 2) runs, less at its rim."""
        import cv2

        margin = int(2 + width)
        x0, y0 = np.clip(np.floor(points.min(0)).astype(int) - margin, 0, [counts.shape[1], counts.shape[0]])
        x1, y1 = np.clip(np.ceil(points.max(0)).astype(int) + margin, 0, [counts.shape[1], counts.shape[0]])
        if x1 <= x0 or y1 <= y0:
            return
        patch = np.zeros(((y1 - y0) * self.scale, (x1 - x0) * self.scale), np.uint8)
        shifted = np.round(((points - (x0, y0) + 0.5) * self.scale - 0.5) * 16).astype(np.int32).reshape(1, -1, 1, 2)
        cv2.polylines(patch, list(shifted), False, 255, max(1, round(width * self.scale)), cv2.LINE_AA, 4)  # type: ignore[call-overload]
        counts[y0:y1, x0:x1] += cv2.resize(patch, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA) / 255

    def contour(self, silhouette: np.ndarray, color: Color, width: float) -> None:
        """The rim of a mask given at the scale of the canvas, (scale h, scale w), holes included."""
        for points in self.rims(silhouette):
            self.lines(points, color, width, closed=True)

    def rims(self, silhouette: np.ndarray) -> list[np.ndarray]:
        """The closed lines around a mask given at the scale of the canvas and around its holes, pixels (N, 2) of the frame."""
        import cv2

        found = cv2.findContours(silhouette, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
        chains = [contour.reshape(-1, 2).astype(np.float64) for contour in found]
        return [(smoothed(pixels) + 0.5) / self.scale - 0.5 for pixels in chains if len(pixels) >= 3]

    def box(self, box: Box, color: Color, width: float) -> None:
        """A box on pixel edges, xyxy."""
        x0, y0, x1, y1 = (v - 0.5 for v in box)
        self.lines(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), color, width, closed=True)

    def axes(self, cam_from_obj: Tensor, K: Tensor, length: float, width: float) -> None:
        """The object's frame; nothing if a tip would lie behind the camera."""
        ends = transform(cam_from_obj.double(), torch.cat([torch.zeros(1, 3), length * torch.eye(3)]).double())
        if bool((ends[:, 2] < 1e-3).any()) or not bool(torch.isfinite(ends).all()):
            return
        pixels = project(ends, K.cpu().double()).numpy()
        if np.abs(pixels).max() > 4 * max(self.size) + 1000:
            return
        for axis in sorted(range(3), key=lambda k: -float(ends[k + 1, 2])):  # the far tip first
            self.lines(pixels[[0, axis + 1]], AXES[axis], 1.2 * width)
            self.letter("xyz"[axis], pixels[axis + 1] + 3.5 * width * _direction(pixels[axis + 1] - pixels[0]), AXES[axis])

    def letter(self, text: str, centre: np.ndarray, color: Color) -> None:
        """A letter on a dark rim around a pixel of the frame."""
        import cv2

        size, thick = 0.2 * self.line_width * self.scale, max(1, round(0.6 * self.line_width * self.scale))
        (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
        u, v = (centre + 0.5) * self.scale - 0.5
        for value, more in (((0, 0, 0, 150), 2 * self.scale), ((*color, 255), 0)):
            cv2.putText(
                self.layer, text, (round(u - w / 2), round(v + h / 2)), cv2.FONT_HERSHEY_SIMPLEX, size, value, thick + more,
                cv2.LINE_AA,
            )  # fmt: skip

    def over(self, image: Tensor) -> Image.Image:
        """The layer on a picture (3, H, W), RGB in [0, 1]."""
        import cv2

        layer: np.ndarray = self.layer
        if self.scale > 1:
            layer = cv2.resize(self.layer, self.size[::-1], interpolation=cv2.INTER_AREA)
        picture = np.array(to_picture(image))
        for rows in strips(len(picture)):
            above = layer[rows]
            mixed = picture[rows] * (1 - above[..., 3:].astype(np.float32) / 255) + above[..., :3]
            picture[rows] = np.clip(mixed, 0, 255).round()
        return Image.fromarray(picture)


def _direction(vector: np.ndarray) -> np.ndarray:
    """A vector of unit length; shorter where it has almost none."""
    return vector / max(float(np.linalg.norm(vector)), 1.0)  # type: ignore[no-any-return]


def smoothed(pixels: np.ndarray) -> np.ndarray:
    """A closed chain of pixels without its staircase: the mean of five neighbours."""
    if len(pixels) < 12:
        return pixels
    return np.mean([np.roll(pixels, k, axis=0) for k in range(-2, 3)], axis=0)


def models_by_id(models: Models) -> dict[int, ObjectModel]:
    if models is None:
        return {}
    return dict(models) if isinstance(models, Mapping) else {model.obj_id: model for model in models}


def object_silhouettes(
    poses: PoseEstimates | Instances, by_id: Mapping[int, ObjectModel], camera: Camera, scale: int
) -> list[np.ndarray]:
    """Masks of the whole objects at `scale` times the camera's size, uint8; all zero where there is no mesh or no sight."""
    size = (camera.size[0] * scale, camera.size[1] * scale)
    masks = [np.zeros(size, np.uint8) for _ in range(len(poses))]
    drawable = [
        i for i in range(len(poses)) if int(poses.labels[i]) in by_id and bool(torch.isfinite(poses.cam_from_obj[i]).all())
    ]
    if drawable:
        from ..render.scene import render_masks

        K = camera.resized(size).K.cpu().float()
        for i in drawable:  # one at a time: a large picture times many objects is much memory
            model = by_id[int(poses.labels[i])].to("cpu")
            rendered = render_masks([model], poses.cam_from_obj[i : i + 1].cpu().float(), K, size)
            masks[i] = rendered.masks_full[0].numpy().astype(np.uint8)
    return masks


def mask_box(silhouette: np.ndarray, scale: int) -> Box | None:
    """The box around a silhouette in pixels of the frame, xyxy on edges; None if it is empty."""
    rows, columns = np.flatnonzero(silhouette.any(1)), np.flatnonzero(silhouette.any(0))
    if not len(rows):
        return None
    return columns[0] / scale, rows[0] / scale, (columns[-1] + 1) / scale, (rows[-1] + 1) / scale


def point_box(cam_from_obj: Tensor, camera: Camera) -> Box:
    """An empty box at the projected origin."""
    u, v = project(cam_from_obj[:3, 3][None].double(), camera.K.cpu().double())[0].tolist()
    if not (math.isfinite(u) and math.isfinite(v)):
        u = v = 0.0
    return u, v, u, v


def axis_length(poses: PoseEstimates | Instances, i: int, camera: Camera) -> float:
    """A length in metres for axes of an object of unknown size: half its box, or a tenth of the picture."""
    pixels = min(camera.size) / 10
    if poses.boxes is not None:
        pixels = float((poses.boxes[i, 2:] - poses.boxes[i, :2]).clamp_min(8).mean()) / 2
    return pixels * max(float(poses.cam_from_obj[i, 2, 3]), 1e-3) / float(camera.K[0, 0])


# ------------------------------------------------------------------------------------------------------ text and grids


def load_font(size: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(10.0, size))


def write_tags(picture: Image.Image, tags: Sequence[tuple[str, Color, Box]]) -> None:
    """Write each text on a plate of its colour near its box, where it hides least, with a line to the box if it is away."""
    pen = ImageDraw.Draw(picture)
    font = load_font(min(picture.size) / 40)
    plates: list[Box] = []
    boxes = [box for _, _, box in tags]
    for text, color, box in reversed(tags):  # the nearest object chooses first
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        plate = _free_spot(box, (right - left + 6, bottom - top + 6), picture.size, plates, boxes)
        plates.append(plate)
        start, end = _link(plate, box)
        if math.dist(start, end) > 6:
            pen.line([start, end], fill=BLACK, width=3)
            pen.line([start, end], fill=color, width=1)
        pen.rectangle(plate, fill=color, outline=BLACK)
        text_color = BLACK if _luminance(color) > 110 else WHITE
        pen.text((plate[0] + 3 - left, plate[1] + 3 - top), text, font=font, fill=text_color)


def _free_spot(box: Box, plate: tuple[float, float], size: tuple[int, int], plates: Sequence[Box], boxes: Sequence[Box]) -> Box:
    """A place for a plate (w, h) around `box`, inside the picture `size` (w, h): off other plates, off boxes, near."""
    (x0, y0, x1, y1), (w, h) = box, plate
    best, best_cost = (0.0, 0.0, w, h), math.inf
    for gap in (3, 12, 30, 60, 100):
        for across in (-1.0, -0.5, 0.0, 0.5, 1.0):
            for down in (-1.0, -0.5, 0.0, 0.5, 1.0):
                if abs(across) < 1 and abs(down) < 1:
                    continue
                x = (x0 + x1 - w) / 2 + across * ((x1 - x0 + w) / 2 + gap * (abs(across) == 1))
                y = (y0 + y1 - h) / 2 + down * ((y1 - y0 + h) / 2 + gap * (abs(down) == 1))
                x, y = min(max(x, 0), size[0] - w - 1), min(max(y, 0), size[1] - h - 1)
                spot = (x, y, x + w, y + h)
                covered = [_overlap(spot, other) / (w * h) for other in plates]
                hidden = sum(_overlap(spot, other) for other in boxes) / (w * h)
                cost = sum(2 + 8 * c for c in covered if c > 0) + hidden + gap / 60
                cost += 0.2 * (down != -1) + 0.1 * abs(across)  # straight above is best
                if cost < best_cost:
                    best, best_cost = spot, cost
    return best


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes share, pixels squared."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _link(plate: Box, box: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """The shortest line from a plate to a box: (x, y) on each; a zero length if they touch."""
    ends = []
    for k in (0, 1):
        low, high = max(plate[k], box[k]), min(plate[k + 2], box[k + 2])
        if low <= high:
            ends.append(((low + high) / 2,) * 2)
        else:
            ends.append((plate[k], box[k + 2]) if plate[k] > box[k + 2] else (plate[k + 2], box[k]))
    return (ends[0][0], ends[1][0]), (ends[0][1], ends[1][1])


def _luminance(color: Color) -> float:
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def rescaled(picture: Image.Image, width: int = 0, height: int = 0) -> Image.Image:
    scale = width / picture.width if width else height / picture.height
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(
        size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST if scale > 3 else Image.Resampling.BICUBIC
    )


def grid(pictures: Sequence[Image.Image], captions: Sequence[str] | None, columns: int) -> Image.Image:
    """Pictures left to right, top to bottom on white; a column is as wide as its widest, a row as high as its highest."""
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures need as many captions, got {len(captions)}")
    font = load_font(14)
    gap, strip = 6, 0 if captions is None else 22
    rows = [range(i, min(i + columns, len(pictures))) for i in range(0, len(pictures), columns)]
    widths = [max(pictures[i].width for i in range(c, len(pictures), columns)) for c in range(min(columns, len(pictures)))]
    heights = [max(pictures[i].height for i in row) + strip for row in rows]
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(heights) + 1)), WHITE)
    pen = ImageDraw.Draw(sheet)
    y = gap
    for row, height in zip(rows, heights):
        x = gap
        for i, width in zip(row, widths):
            sheet.paste(pictures[i], (x, y))
            if captions is not None:
                pen.text((x, y + pictures[i].height + 3), _fitted(captions[i], width, font), font=font, fill=BLACK)
            x += width + gap
        y += height + gap
    return sheet


def save_gif(path: Path, pictures: Sequence[Image.Image], step_ms: int, rest: int = 1) -> Path:
    """Pictures one after the other, for ever; the last is shown `rest` times as long. Whole or not at all."""
    first, *others = pictures
    with atomic_write(path) as temporary:
        pause = [step_ms] * len(others) + [rest * step_ms]
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=pause, loop=0)
    return path


def _fitted(text: str, width: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """As much of the text as fits, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
