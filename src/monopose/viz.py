"""Pictures of results: overlays of poses and detections, coordinate and value maps, contact sheets. Pillow images out."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .geometry.camera import project
from .geometry.se3 import transform
from .types import Camera, Detections, Frame, Instances, ObjectModel, PoseEstimates
from .viz_posterior import chosen, orientation_density, translation_scatter
from .viz_reliability import reliability_diagram

__all__ = [
    "contact_sheet", "coordinate_image", "draw", "draw_detections", "draw_samples", "object_color", "orientation_density",
    "reliability_diagram", "side_by_side", "to_picture", "translation_scatter", "value_image",
]  # fmt: skip

Models = Mapping[int, ObjectModel] | Iterable[ObjectModel] | None
Picture = Image.Image | Tensor | np.ndarray
Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

AXES: tuple[Color, Color, Color] = ((255, 55, 55), (50, 225, 70), (70, 130, 255))  # x red, y green, z blue
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
BOX: Color = (60, 240, 255)


def draw(frame: Frame, poses: PoseEstimates | Instances, models: Models = None, truth: Instances | None = None) -> Image.Image:
    """The picture with the poses on it.

    Args:
        frame: the picture and its camera.
        poses: what to draw; label and score stand beside each object if they are estimates.
        models: meshes by object id, or a list of them. With them each object gets the contour of its whole silhouette,
            as if nothing stood before it; without, its 2D box. Ids that have no mesh are drawn as without.
        truth: true poses, drawn as thin white contours for comparison; needs `models`.

    Returns:
        an RGB picture of the frame's size; axes are x red, y green, z blue.
    """
    by_id = _by_id(models)
    canvas = _Canvas(frame.camera.size)
    width = canvas.line_width
    if truth is not None:
        for silhouette in _silhouettes(truth, by_id, frame.camera, canvas.scale):
            canvas.contour(silhouette, WHITE, 0.5 * width)
    names = getattr(poses, "names", {})
    scores = poses.scores if isinstance(poses, PoseEstimates) else None
    poses = poses.to("cpu")
    silhouettes = _silhouettes(poses, by_id, frame.camera, canvas.scale)
    tags: list[tuple[str, Color, Box]] = []
    order = sorted(range(len(poses)), key=lambda i: -float(poses.cam_from_obj[i, 2, 3]))  # near objects last, on top
    for i in order:
        label, color = int(poses.labels[i]), object_color(int(poses.labels[i]))
        box = _box_of(silhouettes[i], canvas.scale)
        if box is not None:
            canvas.contour(silhouettes[i], color, width)
        elif poses.boxes is not None:
            box = tuple(float(v) for v in poses.boxes[i])  # type: ignore[assignment]
            canvas.box(box, color, width)  # type: ignore[arg-type]
        name = names.get(label) or (by_id[label].name if label in by_id else "") or f"object {label}"
        text = name if scores is None else f"{name} {float(scores[i]):.2f}"
        tags.append((text, color, box or _point_box(poses.cam_from_obj[i], frame.camera)))
    for i in order:
        size = (
            by_id[int(poses.labels[i])].diameter / 2
            if int(poses.labels[i]) in by_id
            else _guessed_length(poses, i, frame.camera)
        )
        canvas.axes(poses.cam_from_obj[i], frame.camera.K, size, width)
    picture = canvas.over(frame.image)
    _write_tags(picture, tags)
    return picture


def draw_detections(image: Tensor, detections: Detections, names: Mapping[int, str] | None = None) -> Image.Image:
    """Boxes, tinted masks, labels and scores of a detector. `image` (3, H, W), RGB in [0, 1]."""
    detections = detections.to("cpu")
    pixels = image.detach().cpu().float().clone()
    tags: list[tuple[str, Color, Box]] = []
    canvas = _Canvas((image.shape[-2], image.shape[-1]))
    for i in reversed(range(len(detections))):
        label = int(detections.labels[i])
        color = object_color(label)
        if detections.masks is not None:
            tint = torch.tensor(color).float()[:, None] / 255
            pixels[:, detections.masks[i]] = 0.6 * pixels[:, detections.masks[i]] + 0.4 * tint
        box: Box = tuple(float(v) for v in detections.boxes[i])  # type: ignore[assignment]
        canvas.box(box, color, canvas.line_width)
        tags.append((f"{(names or {}).get(label, f'object {label}')} {float(detections.scores[i]):.2f}", color, box))
    picture = canvas.over(pixels)
    _write_tags(picture, tags)
    return picture


def draw_samples(
    frame: Frame, cam_from_obj: Tensor, log_weights: Tensor | None = None, bounds: Tensor | None = None,
    length: float | None = None, count: int = 30, model: ObjectModel | None = None,
) -> Image.Image:  # fmt: skip
    """The picture with `count` samples of a pose distribution on it: where they agree the lines are strong.

    Args:
        frame: the picture and its camera.
        cam_from_obj: samples, (S, 4, 4), metres.
        log_weights: their log-weights, (S,); None: all count the same.
        bounds: lower and upper corner of a box of the object, (2, 3), metres, e.g. `model.bounds`; its edges are drawn.
        length: of the axes, metres; by default half the box, or a twelfth of what the picture shows at the object's depth.
        count: how many samples to draw, the same ones every time.
        model: whose contours are drawn in place of the edges of a box.

    Raises:
        ValueError: on wrong shapes, or if no sample has a weight.
    """
    if cam_from_obj.dim() != 3 or cam_from_obj.shape[-2:] != (4, 4):
        raise ValueError(f"samples must be (S, 4, 4), got {tuple(cam_from_obj.shape)}; take one problem of the batch")
    if bounds is not None and bounds.shape != (2, 3):
        raise ValueError(f"bounds must be (2, 3), the lower and the upper corner, got {tuple(bounds.shape)}")
    poses = cam_from_obj.detach().cpu().double()[chosen(log_weights, len(cam_from_obj), count)]
    poses = poses[torch.isfinite(poses).flatten(1).all(1)]
    K = frame.camera.K.cpu().double()
    if length is None:
        depth = float(poses[:, 2, 3].median()) if len(poses) else 1.0
        size = min(frame.camera.size) / 6 * depth / float(K[0, 0])
        length = 0.5 * (size if bounds is None else float((bounds[1] - bounds[0]).max()))
    layers = {color: np.zeros(frame.camera.size, np.float32) for color in (BOX, *AXES)}
    corners = None if bounds is None else torch.cartesian_prod(*bounds.cpu().double().T)
    canvas = _Canvas(frame.camera.size)
    if model is not None:
        several = PoseEstimates(torch.full((len(poses),), model.obj_id), poses, torch.ones(len(poses)))
        for silhouette in _silhouettes(several, {model.obj_id: model}, frame.camera, canvas.scale):
            for points in canvas.rims(silhouette):
                canvas.stroke(layers[BOX], np.concatenate([points, points[:1]]), 0.6 * canvas.line_width)
    for pose in poses:
        chains: list[tuple[Color, Tensor]] = []
        if corners is not None and model is None:
            chains = [(BOX, corners[[a, a ^ bit]]) for a in range(8) for bit in (1, 2, 4) if not a & bit]
        ends = length * torch.eye(3).double()
        for color, chain in [*chains, *((AXES[k], torch.stack([0 * ends[k], ends[k]])) for k in range(3))]:
            seen = transform(pose, chain)
            if bool((seen[:, 2] < 1e-3).any()):
                continue
            pixels = project(seen, K).numpy()
            if np.abs(pixels).max() < 4 * max(frame.camera.size) + 1000:
                canvas.stroke(layers[color], pixels, 0.6 * canvas.line_width)
    picture = np.asarray(to_picture(frame.image)).astype(np.float32)
    strength = 1 - min(0.9, 6.0 / max(count, 1))  # what a fifth of the samples agree on is clearly seen
    for color, covered in layers.items():
        alpha = (1 - strength**covered)[..., None]
        picture = picture * (1 - alpha) + np.array(color, np.float32) * alpha
    return Image.fromarray(np.clip(picture, 0, 255).round().astype(np.uint8))


def coordinate_image(coordinates: Tensor, mask: Tensor, bounds: Tensor | None = None) -> Image.Image:
    """Object coordinates as colours: x red, y green, z blue, from the lower to the upper bound.

    Args:
        coordinates: (H, W, 3), metres, object frame.
        mask: where they mean something, (H, W), bool; grey elsewhere.
        bounds: lower and upper corner, (2, 3), e.g. `model.bounds`; None: of the masked values.
    """
    coordinates, mask = coordinates.detach().cpu().float(), mask.detach().cpu().bool()
    if bounds is None:
        inside = coordinates[mask] if bool(mask.any()) else torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
        bounds = torch.stack([inside.amin(0), inside.amax(0)])
    low, high = bounds.cpu().float()
    colors = ((coordinates - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    return to_picture(torch.where(mask[..., None], colors, torch.full_like(colors, 0.35)).permute(2, 0, 1))


def value_image(values: Tensor, low: float | None = None, high: float | None = None, mask: Tensor | None = None) -> Image.Image:
    """A map of numbers, (H, W), as colours from dark (low) to bright (high): depth, expected error, weights.

    `low` and `high` default to the range of the finite values in `mask`; outside the mask is grey.
    """
    import cv2

    array = values.detach().cpu().float().numpy()
    known = np.isfinite(array) & (np.ones_like(array, bool) if mask is None else mask.detach().cpu().numpy())
    low = float(array[known].min()) if low is None and known.any() else low or 0.0
    high = float(array[known].max()) if high is None and known.any() else high or 1.0
    scaled = np.clip((np.where(known, array, low) - low) / max(high - low, 1e-12), 0, 1)
    colors = cv2.applyColorMap((scaled * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    return Image.fromarray(np.where(known[..., None], colors, np.uint8(90)))


def side_by_side(pictures: Sequence[Picture], captions: Sequence[str] | None = None, height: int = 240) -> Image.Image:
    """Pictures in one row, all `height` pixels high."""
    scaled = [_scaled(to_picture(p), height=height) for p in pictures]
    return _grid(scaled, captions, len(scaled))


def contact_sheet(
    pictures: Sequence[Picture], captions: Sequence[str] | None = None, columns: int | None = None, width: int = 320
) -> Image.Image:
    """Pictures in rows, each `width` pixels wide with its caption below; columns default to a roughly square sheet."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture, got none")
    scaled = [_scaled(to_picture(p), width=width) for p in pictures]
    return _grid(scaled, captions, columns or math.ceil(math.sqrt(len(scaled))))


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
        image = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(image).convert("RGB")


def object_color(obj_id: int) -> Color:
    """The colour of an object id, the same in every picture; neighbouring ids differ clearly."""
    hue = (0.09 + 0.381966 * obj_id) % 1.0  # steps of the golden angle
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.75 if obj_id % 2 else 0.5, 1.0))  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------------- drawing overlays


class _Canvas:
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
        return [(_smoothed(pixels) + 0.5) / self.scale - 0.5 for pixels in chains if len(pixels) >= 3]

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

    def over(self, image: Tensor) -> Image.Image:
        """The layer on a picture (3, H, W), RGB in [0, 1]."""
        import cv2

        layer: np.ndarray = self.layer
        if self.scale > 1:
            layer = cv2.resize(self.layer, self.size[::-1], interpolation=cv2.INTER_AREA)
        below = np.asarray(to_picture(image)).astype(np.float32)
        mixed = below * (1 - layer[..., 3:].astype(np.float32) / 255) + layer[..., :3]
        return Image.fromarray(np.clip(mixed, 0, 255).round().astype(np.uint8))


def _smoothed(pixels: np.ndarray) -> np.ndarray:
    """A closed chain of pixels without its staircase: the mean of five neighbours."""
    if len(pixels) < 12:
        return pixels
    return np.mean([np.roll(pixels, k, axis=0) for k in range(-2, 3)], axis=0)


def _by_id(models: Models) -> dict[int, ObjectModel]:
    if models is None:
        return {}
    return dict(models) if isinstance(models, Mapping) else {model.obj_id: model for model in models}


def _silhouettes(
    poses: PoseEstimates | Instances, by_id: Mapping[int, ObjectModel], camera: Camera, scale: int
) -> list[np.ndarray]:
    """Masks of the whole objects at `scale` times the camera's size, uint8; all zero where there is no mesh or no sight."""
    size = (camera.size[0] * scale, camera.size[1] * scale)
    masks = [np.zeros(size, np.uint8) for _ in range(len(poses))]
    drawable = [
        i for i in range(len(poses)) if int(poses.labels[i]) in by_id and bool(torch.isfinite(poses.cam_from_obj[i]).all())
    ]
    if drawable:
        from .render.scene import render_masks

        K = camera.resized(size).K.cpu().float()
        for i in drawable:  # one at a time: a large picture times many objects is much memory
            model = by_id[int(poses.labels[i])].to("cpu")
            rendered = render_masks([model], poses.cam_from_obj[i : i + 1].cpu().float(), K, size)
            masks[i] = rendered.masks_full[0].numpy().astype(np.uint8)
    return masks


def _box_of(silhouette: np.ndarray, scale: int) -> Box | None:
    """The box around a silhouette in pixels of the frame, xyxy on edges; None if it is empty."""
    rows, columns = np.flatnonzero(silhouette.any(1)), np.flatnonzero(silhouette.any(0))
    if not len(rows):
        return None
    return columns[0] / scale, rows[0] / scale, (columns[-1] + 1) / scale, (rows[-1] + 1) / scale


def _point_box(cam_from_obj: Tensor, camera: Camera) -> Box:
    """An empty box at the projected origin."""
    u, v = project(cam_from_obj[:3, 3][None].double(), camera.K.cpu().double())[0].tolist()
    if not (math.isfinite(u) and math.isfinite(v)):
        u = v = 0.0
    return u, v, u, v


def _guessed_length(poses: PoseEstimates | Instances, i: int, camera: Camera) -> float:
    """A length in metres for axes of an object of unknown size: half its box, or a tenth of the picture."""
    pixels = min(camera.size) / 10
    if poses.boxes is not None:
        pixels = float((poses.boxes[i, 2:] - poses.boxes[i, :2]).clamp_min(8).mean()) / 2
    return pixels * max(float(poses.cam_from_obj[i, 2, 3]), 1e-3) / float(camera.K[0, 0])


# ------------------------------------------------------------------------------------------------------ text and grids


def _font(size: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(10.0, size))


def _write_tags(picture: Image.Image, tags: Sequence[tuple[str, Color, Box]]) -> None:
    """Write each text on a plate of its colour near its box, where it hides least, with a line to the box if it is away."""
    pen = ImageDraw.Draw(picture)
    font = _font(min(picture.size) / 40)
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


def _scaled(picture: Image.Image, width: int = 0, height: int = 0) -> Image.Image:
    scale = width / picture.width if width else height / picture.height
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(
        size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST if scale > 3 else Image.Resampling.BICUBIC
    )


def _grid(pictures: Sequence[Image.Image], captions: Sequence[str] | None, columns: int, gap: int = 6) -> Image.Image:
    """Pictures left to right, top to bottom on white; a column is as wide as its widest, a row as high as its highest."""
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures need as many captions, got {len(captions)}")
    font = _font(14)
    strip = 0 if captions is None else 22
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


def _fitted(text: str, width: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """As much of the text as fits, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
