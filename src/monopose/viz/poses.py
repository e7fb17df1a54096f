"""Pictures of results: overlays of poses and detections, coordinate and value maps, contact sheets. Pillow images out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..geometry.camera import project
from ..geometry.se3 import transform
from ..io.files import atomic_write
from ..types import Detections, Frame, Instances, ObjectModel, PoseEstimates
from .canvas import (
    AXES,
    BOX,
    WHITE,
    Box,
    Canvas,
    Color,
    Models,
    Picture,
    axis_length,
    grid,
    mask_box,
    models_by_id,
    object_color,
    object_silhouettes,
    point_box,
    probability_color,
    rescaled,
    strips,
    to_picture,
    write_tags,
)
from .posterior import chosen


def draw(
    frame: Frame,
    poses: PoseEstimates | Instances,
    models: Models = None,
    truth: Instances | None = None,
    labels: bool = True,
) -> Image.Image:
    """The picture with the poses on it: CAD models as they would look there, translucent, with contours, edges and axes.

    Where the pose is right, the rendered edges and colours lie on those of the photo. Another distance shows as another size, a
    turned pose as edges, colours and axes that are not the photo's.

    Args:
        frame: the picture and its camera.
        poses: what to draw. Estimates are coloured by their probability if they are calibrated, from red (0) over yellow (0.5)
            to green (1), and by their object otherwise.
        models: meshes by object id, or a list of them. With them each object is rendered, and gets the contour of its whole
            silhouette, as if nothing stood before it; without, its 2D box. Ids that have no mesh are drawn as without.
        truth: true poses, drawn as thin white contours for comparison; needs `models`.
        labels: whether name, probability (raw scores without a percent sign) and distance stand beside each object.

    Returns:
        an RGB picture of the frame's size, but of at most `LARGEST` pixels; axes are x red, y green, z blue.
    """
    frame, poses = _reduced(frame, poses)
    by_id = models_by_id(models)
    canvas = Canvas(frame.camera.size)
    width = canvas.line_width
    if truth is not None:
        for silhouette in object_silhouettes(truth, by_id, frame.camera, canvas.scale):
            canvas.contour(silhouette, WHITE, 0.5 * width)
    poses = poses.to("cpu")
    colors = [_color(poses, i) for i in range(len(poses))]
    silhouettes = object_silhouettes(poses, by_id, frame.camera, canvas.scale)
    tags: list[tuple[str, Color, Box]] = []
    order = sorted(range(len(poses)), key=lambda i: -float(poses.cam_from_obj[i, 2, 3]))  # near objects last, on top
    for i in order:
        box = mask_box(silhouettes[i], canvas.scale)
        if box is not None:
            canvas.contour(silhouettes[i], colors[i], width)
        elif poses.boxes is not None:
            box = tuple(float(v) for v in poses.boxes[i])  # type: ignore[assignment]
            canvas.box(box, colors[i], width)  # type: ignore[arg-type]
        tags.append((_tag(poses, i, by_id), colors[i], box or point_box(poses.cam_from_obj[i], frame.camera)))
    for i in order:
        known = by_id.get(int(poses.labels[i]))
        size = axis_length(poses, i, frame.camera) if known is None else known.diameter / 2
        canvas.axes(poses.cam_from_obj[i], frame.camera.K, size, width)
    picture = canvas.over(_rendered_over(frame, poses, by_id, colors))
    if labels:
        write_tags(picture, tags)
    return picture


LARGEST = 16_000_000  # pixels of an overlay, which is to be looked at: a larger one would take gigabytes
OPACITY = 0.55  # of the rendered models; what lies under them still shows
TINT = 0.25  # share of the pose's colour in them
CREASE_DEG = 25.0  # edges are drawn where the surface turns by more from one pixel to the next


def _reduced(frame: Frame, poses: PoseEstimates | Instances) -> tuple[Frame, PoseEstimates | Instances]:
    """A frame of at most `LARGEST` pixels, and poses whose boxes are in it."""
    height, width = frame.camera.size
    if height * width <= LARGEST:
        return frame, poses
    scale = (LARGEST / (height * width)) ** 0.5
    size = (int(height * scale), int(width * scale))
    image = torch.cat([F.interpolate(c[None, None].cpu(), size, mode="area")[0].float() for c in frame.image])
    if poses.boxes is not None:
        poses = replace(poses, boxes=poses.boxes * poses.boxes.new_tensor([size[1] / width, size[0] / height] * 2))
    return Frame(image, frame.camera.resized(size), path=frame.path), poses


def _color(poses: PoseEstimates | Instances, i: int) -> Color:
    if isinstance(poses, PoseEstimates) and poses.calibrated:
        return probability_color(float(poses.scores[i]))
    return object_color(int(poses.labels[i]))


def _tag(poses: PoseEstimates | Instances, i: int, by_id: Mapping[int, ObjectModel]) -> str:
    """Name, probability in percent or raw score, distance."""
    label, distance = int(poses.labels[i]), float(poses.cam_from_obj[i, 2, 3])
    text = getattr(poses, "names", {}).get(label) or (by_id[label].name if label in by_id else "") or f"object {label}"
    if isinstance(poses, PoseEstimates):
        score = float(poses.scores[i])
        text += f" {100 * score:.0f} %" if poses.calibrated else f" {score:.2f}"
    return f"{text}, {distance:.2f} m"


def _rendered_over(
    frame: Frame, poses: PoseEstimates | Instances, by_id: Mapping[int, ObjectModel], colors: Sequence[Color]
) -> Tensor:
    """The photo under the rendered models, (3, H, W); of two models the nearer one is seen."""
    from ..render.scene import render_scene

    image = frame.image.detach().cpu().float()
    rows = [i for i in range(len(poses)) if int(poses.labels[i]) in by_id and bool(torch.isfinite(poses.cam_from_obj[i]).all())]
    if not rows:
        return image
    shown = [by_id[int(poses.labels[i])].to("cpu") for i in rows]
    K = frame.camera.K.cpu().float()
    scene = render_scene(shown, poses.cam_from_obj[rows].cpu().float(), K, frame.camera.size)
    tint = torch.tensor([colors[i] for i in rows]).float().T / 255
    whose = scene.index.clamp_min(0)
    creases, image = _creases(scene.depth, scene.index, K), image.clamp(0, 1)
    for part in strips(len(whose)):
        model = scene.image[:, part]
        look = (1 - TINT) * model + TINT * tint[:, whose[part]] * model.amax(0).clamp_min(0.3)
        look = torch.where(creases[part], look * 0.35, look)
        image[:, part] = torch.where(scene.index[part] >= 0, (1 - OPACITY) * image[:, part] + OPACITY * look, image[:, part])
    return image


def _creases(depth: Tensor, index: Tensor, K: Tensor) -> Tensor:
    """Where the surface turns sharply, or ends before another one, (H, W), bool; 1 / z is linear in the pixels of a plane."""
    inverse = 1 / depth.clamp_min(1e-6)
    found = torch.zeros_like(index, dtype=torch.bool)
    for dim, focal in ((0, float(K[1, 1])), (1, float(K[0, 0]))):
        n = depth.shape[dim]
        before, here, after = (inverse.narrow(dim, k, n - 2) for k in range(3))
        a, b, c = (index.narrow(dim, k, n - 2) for k in range(3))
        turn = (focal * (after - here) / here).atan() - (focal * (here - before) / here).atan()
        sharp = (turn.abs() > math.radians(CREASE_DEG)) & (a == b) & (b == c) & (b >= 0)
        found.narrow(dim, 1, n - 2).logical_or_(sharp)
    return found


def draw_detections(image: Tensor, detections: Detections, names: Mapping[int, str] | None = None) -> Image.Image:
    """Boxes, tinted masks, labels and scores of a detector. `image` (3, H, W), RGB in [0, 1]."""
    detections = detections.to("cpu")
    pixels = image.detach().cpu().float().clone()
    tags: list[tuple[str, Color, Box]] = []
    canvas = Canvas((image.shape[-2], image.shape[-1]))
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
    write_tags(picture, tags)
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
    canvas = Canvas(frame.camera.size)
    if model is not None:
        several = PoseEstimates(torch.full((len(poses),), model.obj_id), poses, torch.ones(len(poses)))
        for silhouette in object_silhouettes(several, {model.obj_id: model}, frame.camera, canvas.scale):
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
    scaled = [rescaled(to_picture(p), height=height) for p in pictures]
    return grid(scaled, captions, len(scaled))


def contact_sheet(
    pictures: Sequence[Picture], captions: Sequence[str] | None = None, columns: int | None = None, width: int = 320
) -> Image.Image:
    """Pictures in rows, each `width` pixels wide with its caption below; columns default to a roughly square sheet."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture, got none")
    scaled = [rescaled(to_picture(p), width=width) for p in pictures]
    return grid(scaled, captions, columns or math.ceil(math.sqrt(len(scaled))))


def save_sheet(path: Path, total: int, picture: Callable[[int], Picture], count: int = 12) -> Path:
    """Some of `total` pictures, evenly spread, as one JPEG of four columns; `picture(i)` draws the i-th."""
    chosen_ones = sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(count)})
    sheet = contact_sheet([picture(i) for i in chosen_ones], columns=4, width=400)
    with atomic_write(path) as temporary:
        sheet.save(temporary, quality=88)
    return path
