"""One object per picture, many pictures at once: what render-and-compare looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import se3
from ..types import ObjectModel
from . import maps
from .maps import Lights
from .raster import Fragments, rasterize
from .scene import surface_color


class Meshes(NamedTuple):
    """Meshes of B objects: vertices and normals (B, V, 3), padded with zeros; faces (B, F, 3), padded with -1."""

    vertices: Tensor
    normals: Tensor
    faces: Tensor


class Views(NamedTuple):
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
) -> Views:
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
    return Views(
        image.permute(0, 3, 1, 2), maps.scatter(pixels, coordinates, shape), maps.scatter(pixels, normals, shape), fragments
    )
