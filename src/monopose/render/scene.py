"""Several objects in front of one camera: image, depth, object coordinates, masks and visibility."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import se3
from ..types import ObjectModel
from . import maps
from .maps import Lights
from .raster import Fragments, rasterize

GREY = 0.7  # albedo of a surface without colours


@dataclass(frozen=True)
class SceneRender:
    """A rendered scene of N objects.

    Args:
        image: RGB in [0, 1], (3, H, W); black or the given background where no object is.
        depth: z of the front surface, (H, W), metres, 0 = nothing.
        index: which object is in front, (H, W), int64, -1 = none.
        coordinates: the front object's coordinates in its own frame, (H, W, 3), metres, 0 = nothing.
        masks_full: silhouettes as if alone, inside the image, (N, H, W), bool.
        masks_visible: what is left after occlusion, (N, H, W), bool.
        visibility: visible share of the silhouette inside the image, (N,); 0 for an empty silhouette.
    """

    image: Tensor
    depth: Tensor
    index: Tensor
    coordinates: Tensor
    masks_full: Tensor
    masks_visible: Tensor
    visibility: Tensor


@dataclass(frozen=True)
class SceneMasks:
    """Depth, index, masks_full, masks_visible and visibility of `SceneRender`, without appearance."""

    depth: Tensor
    index: Tensor
    masks_full: Tensor
    masks_visible: Tensor
    visibility: Tensor


class _Patch(NamedTuple):
    """One object rasterised in its own window of the image."""

    fragments: Fragments  # B = 1
    points_cam: Tensor  # (1, V, 3)
    rows: slice
    columns: slice


def _window(points_cam: Tensor, K: Tensor, size: tuple[int, int], near: float) -> tuple[slice, slice]:
    """Rows and columns of the image that hold the object; empty slices if it is out of sight."""
    height, width = size
    x, y, z = points_cam.unbind(-1)
    low, high = (v.item() for v in z.aminmax())
    if high < near:
        return slice(0, 0), slice(0, 0)
    if not low >= near:  # also NaN, here and below, which rasterize reports
        return slice(0, height), slice(0, width)
    (ax, bx, cx), (ay, by, cy), _ = K.tolist()
    left, right = (v.item() + cx for v in ((ax * x + bx * y) / z).aminmax())
    top, bottom = (v.item() + cy for v in ((ay * x + by * y) / z).aminmax())
    if not math.isfinite(left + right + top + bottom):
        return slice(0, height), slice(0, width)
    if right < 0 or bottom < 0 or left > width - 1 or top > height - 1:
        return slice(0, 0), slice(0, 0)
    x0, y0 = max(math.floor(left), 0), max(math.floor(top), 0)
    x1, y1 = math.ceil(min(right, width - 1)) + 1, math.ceil(min(bottom, height - 1)) + 1
    x1, y1 = min(x1, width), min(y1, height)
    return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else (slice(0, 0), slice(0, 0))


def _patches(
    models: Sequence[ObjectModel], cam_from_obj: Tensor, K: Tensor, size: tuple[int, int], near: float
) -> list[_Patch | None]:
    if cam_from_obj.shape != (len(models), 4, 4):
        raise ValueError(f"cam_from_obj must be ({len(models)}, 4, 4), one pose per model, got {tuple(cam_from_obj.shape)}")
    if K.shape != (3, 3):
        raise ValueError(f"K must be (3, 3), got {tuple(K.shape)}; render one camera at a time")
    patches: list[_Patch | None] = []
    for model, pose in zip(models, cam_from_obj, strict=True):
        points = model.vertices @ pose[:3, :3].to(model.vertices).mT + pose[:3, 3].to(model.vertices)
        if not len(points):
            patches.append(None)
            continue
        rows, columns = _window(points, K, size, near)
        if rows.stop <= rows.start or columns.stop <= columns.start:
            patches.append(None)
            continue
        moved = K.double() - torch.tensor(
            [[0.0, 0.0, columns.start], [0.0, 0.0, rows.start], [0.0, 0.0, 0.0]], dtype=torch.float64, device=K.device
        )
        window = (rows.stop - rows.start, columns.stop - columns.start)
        patches.append(_Patch(rasterize(points[None], model.faces, moved, window, near), points[None], rows, columns))
    return patches


def _merge(patches: list[_Patch | None], size: tuple[int, int], like: Tensor) -> SceneMasks:
    """The nearest object at every pixel; of equal depths the first object wins."""
    depth = torch.full(size, torch.inf, dtype=like.dtype, device=like.device)
    index = torch.full(size, -1, dtype=torch.int64, device=like.device)
    full = torch.zeros(len(patches), *size, dtype=torch.bool, device=like.device)
    for i, patch in enumerate(patches):
        if patch is None:
            continue
        hit = patch.fragments.face[0] >= 0
        full[i, patch.rows, patch.columns] = hit
        here = depth[patch.rows, patch.columns]
        front = hit & (patch.fragments.depth[0] < here)
        depth[patch.rows, patch.columns] = torch.where(front, patch.fragments.depth[0].to(depth), here)
        index[patch.rows, patch.columns] = index[patch.rows, patch.columns].masked_fill(front, i)
    visible = torch.zeros_like(full)
    share = torch.zeros(len(patches), dtype=like.dtype, device=like.device)
    for i, patch in enumerate(patches):
        if patch is not None:
            here = index[patch.rows, patch.columns] == i
            visible[i, patch.rows, patch.columns] = here
            share[i] = here.sum() / (patch.fragments.face >= 0).sum().clamp_min(1)
    return SceneMasks(depth.masked_fill_(index < 0, 0), index, full, visible, share)


def render_masks(
    models: Sequence[ObjectModel], cam_from_obj: Tensor, K: Tensor, size: tuple[int, int], near: float = 0.01
) -> SceneMasks:
    """Depth, masks and visibility of a scene without its appearance.

    Args:
        models: N objects, repeated where several copies are seen.
        cam_from_obj: (N, 4, 4), metres.
        K: (3, 3), pixels.
        size: (height, width), pixels.
        near: nothing closer is drawn, metres.
    """
    return _merge(_patches(models, cam_from_obj, K, size, near), size, cam_from_obj)


def surface_color(model: ObjectModel, corners: Tensor, weights: Tensor) -> Tensor:
    """Unlit RGB at surface points: texture, else vertex colours, else `GREY`. (n, 3), (n, 3) -> (n, 3)."""
    if model.texture is not None and model.uv is not None:
        return maps.sample_texture(model.texture, maps.blend(model.uv, corners, weights))
    if model.colors is not None:
        return maps.blend(model.colors, corners, weights)
    return weights.new_full((len(weights), 3), GREY)


def render_scene(
    models: Sequence[ObjectModel],
    cam_from_obj: Tensor,
    K: Tensor,
    size: tuple[int, int],
    lights: Lights | None = None,
    background: Tensor | None = None,
    specular: float | Sequence[float] = 0.0,
    shininess: float | Sequence[float] = 32.0,
    flat: bool = False,
    near: float = 0.01,
) -> SceneRender:
    """Draw objects that occlude each other.

    Args:
        models: N objects, repeated where several copies are seen; N = 0 gives the background.
        cam_from_obj: (N, 4, 4), metres.
        K: (3, 3), pixels.
        size: (height, width), pixels.
        lights: in the camera frame; None: a headlight.
        background: (3, H, W), RGB; None: black.
        specular: strength of the highlight, one number or one per object.
        shininess: its exponent, likewise.
        flat: normals of the faces instead of the interpolated vertex normals.
        near: nothing closer is drawn, metres.

    Returns:
        SceneRender on the device of the poses.

    Raises:
        ValueError: if poses, camera or background do not fit.
    """
    if background is not None and tuple(background.shape) != (3, *size):
        raise ValueError(f"background must be (3, {size[0]}, {size[1]}), got {tuple(background.shape)}; resize it first")
    patches = _patches(models, cam_from_obj, K, size, near)
    masks = _merge(patches, size, cam_from_obj)
    image = torch.zeros(*size, 3, dtype=cam_from_obj.dtype, device=cam_from_obj.device)
    if background is not None:
        image.copy_(background.permute(1, 2, 0))
    coordinates = torch.zeros_like(image)
    for i, (model, patch) in enumerate(zip(models, patches, strict=True)):
        if patch is None:
            continue
        front = masks.masks_visible[i, patch.rows, patch.columns]
        face = patch.fragments.face[0].masked_fill(~front, -1)
        pixels, corners, weights = maps.visible_corners(patch.fragments._replace(face=face[None]), model.faces, 0)
        points = maps.blend(patch.points_cam[0], corners, weights)
        if flat:
            normals_cam = maps.face_normals(patch.points_cam[0], corners)
        else:
            rotated = model.normals @ cam_from_obj[i, :3, :3].to(model.normals).mT
            normals_cam = maps.unit(maps.blend(rotated, corners, weights))
        color = maps.shade(
            surface_color(model, corners, weights),
            maps.towards_camera(normals_cam, points),
            points,
            lights,
            specular if isinstance(specular, (int, float)) else specular[i],
            shininess if isinstance(shininess, (int, float)) else shininess[i],
        )
        width = face.shape[1]
        at = (pixels // width + patch.rows.start) * size[1] + pixels % width + patch.columns.start
        image.view(-1, 3).index_copy_(0, at, color.clamp(0, 1).to(image))
        coordinates.view(-1, 3).index_copy_(0, at, maps.blend(model.vertices, corners, weights).to(image))
    return SceneRender(
        image.permute(2, 0, 1).contiguous(), masks.depth, masks.index, coordinates,
        masks.masks_full, masks.masks_visible, masks.visibility,
    )  # fmt: skip


class Meshes(NamedTuple):
    """Meshes of B objects: vertices and normals (B, V, 3), padded with zeros; faces (B, F, 3), padded with -1."""

    vertices: Tensor
    normals: Tensor
    faces: Tensor


class ObjectViews(NamedTuple):
    """B objects in B pictures.

    image (B, 3, H, W), RGB, the background's colour where nothing is; coordinates (B, H, W, 3), object frame, metres;
    normals_cam (B, H, W, 3); fragments, whose depth (B, H, W) is 0 where nothing is.
    """

    image: Tensor
    coordinates: Tensor
    normals_cam: Tensor
    fragments: Fragments


def padded(rows: Sequence[Tensor], fill: float = 0) -> Tensor:
    """Tensors (n_i, C) of different lengths as one (B, max n, C)."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)


def side_by_side(models: Sequence[ObjectModel]) -> Meshes:
    """The meshes of several objects in one batch."""
    return Meshes(
        padded([m.vertices for m in models]), padded([m.normals for m in models]), padded([m.faces for m in models], -1)
    )


def every(fragments: Fragments, step: int) -> Fragments:
    """Every step-th pixel of every step-th row, those in the middle of their cells: (B, H, W) -> (B, H / step, W / step)."""
    rows = slice(step // 2, None, step)
    return Fragments(*(value[:, rows, rows] for value in fragments))


def every_value(values: Tensor, step: int) -> Tensor:
    """The same pixels of a map. (B, H, W, C) -> (B, H / step, W / step, C)."""
    return values[:, step // 2 :: step, step // 2 :: step]


def draw(
    models: Sequence[ObjectModel],
    meshes: Meshes,
    cam_from_obj: Tensor,
    K: Tensor,
    size: tuple[int, int],
    lights: Lights | None = None,
    background: float = 0.5,
    near: float = 0.01,
) -> ObjectViews:
    """Render every object into a picture of its own, from one rasterisation.

    Args:
        models: B objects; their colours and textures.
        meshes: of `side_by_side`.
        cam_from_obj: (B, 4, 4), metres.
        K: (B, 3, 3), pixels.
        size: (height, width) of the pictures.
        lights: in the camera frame; None: a headlight.
        background: grey.
        near: nothing closer is drawn, metres.
    """
    points = se3.transform(cam_from_obj, meshes.vertices)
    fragments = rasterize(points, meshes.faces, K, size, near)
    count = points.shape[1]
    pixels, corners, weights = maps.visible_corners(fragments, meshes.faces, count)
    seen = maps.blend(points.flatten(0, 1), corners, weights)
    turned = meshes.normals @ cam_from_obj[:, :3, :3].mT
    normals = maps.towards_camera(maps.unit(maps.blend(turned.flatten(0, 1), corners, weights)), seen)
    paint = torch.empty_like(seen)
    whose = pixels // (size[0] * size[1])
    for i, model in enumerate(models):
        mine = whose == i
        paint[mine] = surface_color(model, corners[mine] - i * count, weights[mine]).to(paint)
    color = maps.shade(paint, normals, seen, lights).clamp(0, 1)
    shape = fragments.face.shape
    image = torch.full((*shape, 3), background, dtype=points.dtype, device=points.device)
    image.view(-1, 3).index_copy_(0, pixels, color)
    coordinates = maps.blend(meshes.vertices.flatten(0, 1), corners, weights)
    return ObjectViews(
        image.permute(0, 3, 1, 2), maps.scatter(pixels, coordinates, shape), maps.scatter(pixels, normals, shape), fragments
    )
