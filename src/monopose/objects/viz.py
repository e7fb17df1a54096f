"""Pictures of a refinement: the contours of all iterations, what every rendering was compared with, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .. import viz
from ..command import save_picture
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import se3
from ..io.files import atomic_write
from ..types import Camera, Frame, ObjectModel, PoseEstimates
from ..viz import canvas as canvas_module

if TYPE_CHECKING:
    from .pipeline import Pipeline, Trace
    from .probabilistic import ObjectPosterior
    from .refinement import RefinementTrace
    from .refiner import Iteration
    from .silhouettes import OutlineTrace

START: canvas_module.Color = (255, 255, 255)
NOW: canvas_module.Color = (255, 150, 40)
GREY = 0.35
GIF_STEP_MS = 300  # every step is shown for so long, milliseconds; the last one four times
SHORTEST_PX = 1.0  # crop pixels: fields that are shorter everywhere do not get the full colour


def flow_image(flow: Tensor, mask: Tensor | None = None, longest: float | None = None) -> Image.Image:
    """A field of displacements as colours: the hue is the direction, as on the wheel, and white is no displacement.

    Args:
        flow: (2, H, W), pixels, u right and v down.
        mask: where it means something, (H, W), bool; grey elsewhere.
        longest: pixels with the full colour; None: the longest in the mask.

    Source: the convention of Baker et al., A database and evaluation methodology for optical flow (IJCV 2011); hues of HSV.
    """
    import cv2

    u, v = flow.detach().cpu().float().numpy()
    known = np.isfinite(u) & np.isfinite(v)
    known = known if mask is None else known & mask.detach().cpu().numpy()
    length = np.hypot(u, v)
    if longest is None:
        longest = float(length[known].max()) if known.any() else 1.0
    hue = np.nan_to_num(np.degrees(np.arctan2(v, u)) % 360)
    strength = np.nan_to_num(np.clip(length / max(longest, 1e-9), 0, 1))
    hsv = np.stack([hue, strength, np.ones_like(hue)], -1).astype(np.float32)
    colors = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return viz.to_picture((np.where(known[..., None], colors, GREY) * 255).round().astype(np.uint8))


def wheel(side: int) -> Image.Image:
    """The colours of all directions, (side, side): what `flow_image` draws a displacement from the centre to the pixel with."""
    grid = (camera_ops.pixel_grid((side, side)) + 0.5) / side * 2 - 1
    return flow_image(grid.movedim(-1, 0), grid.norm(dim=-1) < 1, 1.0)


def animation(frame: Frame, trace: RefinementTrace, side: int = 360) -> list[Image.Image]:
    """The contour of every pose over the same piece of the photo, one picture per step; the start stays as a thin white line.

    Args:
        frame: the photo.
        trace: of one object.
        side: of the pictures, pixels.
    """
    poses = _poses(trace)
    image, camera = _piece(frame, trace.model, poses, side)
    rims = _rims(trace.model, poses, camera)
    pictures = []
    for n, lines in enumerate(rims):
        canvas = canvas_module.Canvas(camera.size)
        for points in rims[0]:
            canvas.lines(points, START, 0.6 * canvas.line_width, closed=True)
        for points in lines:
            canvas.lines(points, NOW if n else START, canvas.line_width, closed=True)
        picture = canvas.over(image)
        text = "start" if n == 0 else f"step {n} of {len(rims) - 1}"
        last = n == len(rims) - 1 and n > 0
        _caption(picture, text + (", " + _verdict(trace)) * last)
        pictures.append(picture)
    return pictures


def strip(frame: Frame, trace: RefinementTrace, height: int = 150) -> Image.Image:
    """One object's refinement as a sheet: a row per rendering, and under them the photo with the pose before and after.

    A row shows the rendering, the photo beside it with the contours of that rendering's poses (white first, then darker to
    brighter), the field of displacements, the similarity of the descriptors, and the weights, all after its last step.

    Args:
        frame: the photo.
        trace: of one object.
        height: of a picture, pixels.
    """
    lengths = [_field(r)[0].norm(dim=0)[r.mask[0].cpu()] for r in trace.rounds]
    longest = max([SHORTEST_PX, *(float(v.max()) for v in lengths if len(v))])
    pictures: list[canvas_module.Picture] = []
    captions = []
    for n, now in enumerate(trace.rounds, 1):
        step, mask = now.steps[-1], now.mask[0]
        camera = Camera(now.K[0].cpu(), (now.rendered.shape[-2], now.rendered.shape[-1]))
        judged = n == len(trace.rounds)
        poses = [now.start[0], *([] if judged else [s.after[0] for s in now.steps])]
        field = canvas_module.rescaled(flow_image(_field(now)[0], mask, longest), height=height)
        weights = step.weights[0].norm(dim=-1) / math.sqrt(2)
        pictures += [
            now.rendered[0].clamp(0, 1), _contours(now.observed[0], trace.model, poses, camera, 2 * height),
            _with_wheel(field), viz.value_image(step.similarity[0], 0, 1, mask), viz.value_image(weights, 0, None, mask),
            viz.value_image(step.visible[0].sigmoid(), 0, 1, mask),
        ]  # fmt: skip
        name = "the result, judged" if judged else f"rendering {n}"
        most = f"{float(weights.max()):.2g}" if bool(mask.any()) else "0"
        captions += [
            name, f"photo, {len(poses) - 1} steps" if not judged else "photo",
            f"field, wheel: {longest:.1f} px", "similarity (0-1)", f"weights (0-{most})", "seen in the photo (0-1)",
        ]  # fmt: skip
    scaled = [canvas_module.rescaled(viz.to_picture(p), height=height) for p in pictures]
    rows = canvas_module.grid(scaled, captions, 6)
    return _stacked([rows, before_after(frame, trace, (rows.width - 18) // 2)])


def before_after(frame: Frame, trace: RefinementTrace, width: int) -> Image.Image:
    """The piece of the photo around the object, with the pose that came in and with the result."""
    image, camera = _piece(frame, trace.model, [trace.start, trace.cam_from_obj], width)
    shown, guessed = [], ["", ""]
    if trace.rounds:
        guessed = [f", error guessed {e:.3f} diameters" for e in trace.error]
    for pose in (trace.start, trace.cam_from_obj):
        one = PoseEstimates(torch.tensor([trace.model.obj_id]), pose[None].cpu().float(), torch.ones(1))
        shown.append(viz.draw(Frame(image, camera), one, [trace.model], labels=False))
    return canvas_module.grid(shown, [f"before{guessed[0]}", f"after: {_verdict(trace)}{guessed[1]}"], 2)


def _verdict(trace: RefinementTrace) -> str:
    if not trace.converged:
        return "pose unchanged" if trace.hypothesis == 0 else f"start {trace.hypothesis} taken"
    return "refined" if trace.hypothesis == 0 else f"refined from start {trace.hypothesis}"


def _field(now: Iteration) -> Tensor:
    """From where the rendering shows a point to where the photo shows it, crop pixels, (1, 2, h, w)."""
    return (now.steps[-1].target - now.pixels).movedim(-1, 1).detach().cpu()


def _poses(trace: RefinementTrace) -> list[Tensor]:
    """The pose that came in and those after every step; those that only judge the result move nothing."""
    return [trace.rounds[0].start[0], *(s.after[0] for r in trace.rounds[:-1] for s in r.steps)]


def _piece(frame: Frame, model: ObjectModel, poses: Sequence[Tensor], side: int) -> tuple[Tensor, Camera]:
    """The square piece of the photo in which the object stands in all poses, (3, side, side), and its camera."""
    K = frame.camera.K.cpu().float()
    corners = model.corners.cpu()
    points = torch.cat([se3.transform(pose.detach().cpu().float(), corners) for pose in poses])
    box = box_ops.from_points(camera_ops.project(points[points[:, 2] > 0.01], K)) if bool((points[:, 2] > 0.01).any()) else None
    height, width = frame.camera.size
    if box is None or not bool(torch.isfinite(box).all()):
        box = torch.tensor([0.0, 0.0, width, height])
    limit = 3.0 * max(height, width)
    box = box_ops.square(box.clamp(-limit, limit)[None], 1.25)
    cut = camera_ops.cut(frame.image.cpu().float(), box, side)[0].clamp(0, 1)
    return cut, Camera(K, frame.camera.size).crop_resize(box[0], (side, side))


def _rims(model: ObjectModel, poses: Sequence[Tensor], camera: Camera) -> list[list[np.ndarray]]:
    """The closed lines around the object in every pose, pixels of the camera."""
    canvas = canvas_module.Canvas(camera.size)
    stacked = torch.stack([p.detach().cpu().float() for p in poses])
    several = PoseEstimates(torch.full((len(poses),), model.obj_id), stacked, torch.ones(len(poses)))
    return [canvas.rims(s) for s in canvas_module.object_silhouettes(several, {model.obj_id: model}, camera, canvas.scale)]


def _contours(image: Tensor, model: ObjectModel, poses: Sequence[Tensor], camera: Camera, side: int) -> Image.Image:
    """A crop enlarged to `side`, with the contours of poses: white the first, the others from dark to bright."""
    whole = torch.tensor([0.0, 0.0, camera.size[1], camera.size[0]])
    large = camera.crop_resize(whole, (side, side))
    picture = viz.to_picture(image.clamp(0, 1)).resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    canvas = canvas_module.Canvas(large.size)
    for n, lines in enumerate(_rims(model, poses, large)):
        share = n / max(len(poses) - 1, 1)
        color: canvas_module.Color = START if n == 0 else tuple(round(c * (0.35 + 0.65 * share)) for c in NOW)  # type: ignore[assignment]
        for points in lines:
            canvas.lines(points, color, canvas.line_width, closed=True)
    return canvas.over(pixels)


def _with_wheel(field: Image.Image) -> Image.Image:
    side = field.height // 4
    disc = wheel(side)
    inside = np.hypot(*np.meshgrid(*[(np.arange(side) + 0.5) / side * 2 - 1] * 2)) < 1
    field = field.copy()
    field.paste(disc, (field.width - side - 3, field.height - side - 3), Image.fromarray((inside * 255).astype(np.uint8)))
    return field


def _caption(picture: Image.Image, text: str) -> None:
    pen, font = ImageDraw.Draw(picture), canvas_module.load_font(picture.height / 22)
    left, top, right, bottom = pen.textbbox((6, 4), text, font=font)
    pen.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill=canvas_module.BLACK)
    pen.text((6, 4), text, font=font, fill=canvas_module.WHITE)


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), canvas_module.WHITE)
    y = 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height
    return sheet


def save_stages(
    folder: Path,
    frame: Frame,
    trace: Trace,
    poses: PoseEstimates,
    run: Pipeline,
) -> None:
    """Every stage as a picture: detections; per object crop, coordinates, mask, expected error and inliers, or crop,
    coordinates and weights; per object its outline, and how it was refined; overlay."""
    models = run.models
    save_picture(folder / "1_detections.png", viz.draw_detections(frame.image, trace.detections, run.names))
    for found, solved in trace.correspondences:
        bounds = models[found.label].bounds if found.label in models else None
        mask = found.mask > 0.5
        pictures: list[Any] = [
            found.crop, viz.coordinate_image(found.coordinates, mask, bounds), viz.value_image(found.mask, 0, 1),
            viz.value_image(found.error, 0, 0.5), viz.coordinate_image(found.coordinates, solved.inliers, bounds),
        ]  # fmt: skip
        captions = ["crop", "coordinates", "visible mask", "expected error (0-0.5)", f"inliers, score {solved.score:.2f}"]
        save_picture(folder / f"2_object_{found.label}_{found.detection}.png", viz.side_by_side(pictures, captions))
    for posterior in trace.posteriors:
        bounds = models[posterior.label].bounds if posterior.label in models else None
        size = posterior.weights.norm(dim=-1)
        counts = size > 0.1 * size.amax()
        pictures = [
            posterior.crop, viz.coordinate_image(posterior.coordinates, torch.ones_like(counts), bounds),
            viz.coordinate_image(posterior.coordinates, counts, bounds),
            viz.value_image(posterior.weights[..., 0], 0), viz.value_image(posterior.weights[..., 1], 0),
        ]  # fmt: skip
        captions = ["crop", "coordinates", "those that count", "weights of u", "weights of v"]
        save_picture(folder / f"2_object_{posterior.label}_{posterior.detection}.png", viz.side_by_side(pictures, captions))
    for outline in trace.outlines:
        save_picture(folder / f"2_object_{outline.model.obj_id}_{outline.row}_outline.png", outline_strip(frame, outline))
    save_refinement(folder, frame, trace.refinements)
    save_picture(folder / "3_poses.png", viz.draw(frame, poses, models))


def outline_strip(frame: Frame, outline: OutlineTrace) -> Image.Image:
    """How one pose came to its outline: what the network saw, its masks, and the contours of the pose before and after."""
    side = outline.crop.shape[-1]
    K = camera_ops.crop_resize_K(frame.camera.K.cpu(), outline.box.cpu(), (side, side))
    ends = _contours(outline.crop, outline.model, [outline.before, outline.after], Camera(K, (side, side)), 2 * side)
    masks = (viz.value_image(mask, 0, 1) for mask in (outline.amodal, outline.visible))
    captions = ["crop", "drawn at the pose", "whole outline", "visible mask", "contour before (white), after"]
    return viz.side_by_side([outline.crop, outline.drawn[2:], *masks, ends], captions)


def save_overlay(path: str | Path, frame: Frame, poses: PoseEstimates, models: Mapping[int, ObjectModel]) -> Path:
    """The picture with the poses on it, as PNG or by the suffix of `path`."""
    path = Path(path)
    with atomic_write(path) as temporary:
        viz.draw(frame, poses, models).save(temporary)
    return path


def save_posteriors(
    folder: str | Path, frame: Frame, posteriors: Sequence[ObjectPosterior], models: Mapping[int, ObjectModel]
) -> list[Path]:
    """The distribution of every object's pose in a picture, one PNG each, object_ID_DETECTION.png: the distribution of its
    orientation, that of its translation, and samples of the pose over the picture, as contours where the mesh is known."""
    paths = []
    for posterior in posteriors:
        if not posterior.converged:
            continue
        model, covariance = models.get(posterior.label), posterior.covariance
        mode = posterior.modes[0]
        pictures = [
            viz.draw_samples(frame, posterior.samples, posterior.log_weights, posterior.bounds, model=model),
            viz.orientation_density(posterior.samples, posterior.log_weights, posterior.modes, covariance=covariance),
            viz.translation_scatter(posterior.samples, posterior.log_weights, mode=mode, covariance=covariance),
        ]
        path = Path(folder) / f"object_{posterior.label}_{posterior.detection}.png"
        paths.append(save_picture(path, viz.contact_sheet(pictures, columns=1, width=1000)))
    return paths


def save_refinement(folder: str | Path, frame: Frame, traces: Sequence[RefinementTrace]) -> list[Path]:
    """How every object of a picture was refined: the iterations with what they saw, 2_object_ID_ROW_refined.png, and their
    contours one after the other in a GIF beside it."""
    paths = []
    for trace in traces:
        path = Path(folder) / f"2_object_{trace.model.obj_id}_{trace.row}_refined.png"
        paths.append(save_picture(path, strip(frame, trace)))
        paths.append(canvas_module.save_gif(path.with_suffix(".gif"), animation(frame, trace), GIF_STEP_MS, rest=4))
    return paths


def save_samples(data: str | Path, split: str, count: int = 12) -> Path:
    """Some pictures of a split with the true poses, as one sheet: contact_sheet_SPLIT.jpg in the data set's folder."""
    from ..datasets.bop import models, scenes

    data = Path(data)
    objects = models.read_models(data / "models")
    keys = [(scene, im_id) for scene in scenes.scenes(data / split) for im_id in scene.im_ids.tolist()]

    def picture(k: int) -> Image.Image:
        frame = scenes.read_frame(*keys[k], masks=False, depth=False)
        assert frame.instances is not None
        return viz.draw(frame, frame.instances, objects, labels=False)

    return viz.save_sheet(data / f"contact_sheet_{split}.jpg", len(keys), picture, count)


def save_results(folder: str | Path, poses: Iterable[PoseEstimates], method: str = "monopose") -> Path:
    """Poses of several pictures as a BOP result file: scene 0, images 0, 1, … in their order."""
    from ..datasets.bop.results import results_name, results_of, write_results

    path = Path(folder) / results_name(method, "images")
    return write_results(path, [results_of(p, 0, i) for i, p in enumerate(poses)])
