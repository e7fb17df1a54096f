"""Maps from fragments: interpolated attributes, normals, object coordinates, textures and shading.

Plain torch. Every map costs time in proportion to the visible pixels, not to the pixels or vertices. Functions that take
no `Fragments` work on maps (B, H, W, C) and on lists of visible pixels (n, C) alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .raster import Fragments


def visible_corners(fragments: Fragments, faces: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The visible pixels as a list.

    Args:
        fragments: B images.
        faces: (F, 3) or (B, F, 3).
        count: points per image V.

    Returns:
        pixels: positions in the flattened (B, H, W), (n,).
        corners: rows of the face's corners in the flattened (B, V), (n, 3).
        weights: their barycentric weights, (n, 3).
    """
    pixels = (fragments.face.reshape(-1) >= 0).nonzero().squeeze(-1)
    face = fragments.face.reshape(-1).index_select(0, pixels).long()
    weights = fragments.bary.reshape(-1, 3).index_select(0, pixels)
    image = pixels // fragments.face[0].numel() if len(fragments.face) > 1 else torch.zeros_like(pixels)
    if faces.dim() == 3 and len(faces) > 1:
        face = face + image * faces.shape[1]
    corners = faces.reshape(-1, 3).index_select(0, face).long() + image[:, None] * count
    return pixels, corners, weights


def scatter(pixels: Tensor, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """A map of `shape` (B, H, W) that holds `values` (n, C) at `pixels` and 0 elsewhere, (B, H, W, C)."""
    flat = values.new_zeros(torch.Size(shape).numel(), values.shape[-1])
    return flat.index_copy_(0, pixels, values).reshape(*shape, values.shape[-1])


def blend(attributes: Tensor, corners: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of three rows each. (R, C), (n, 3), (n, 3) -> (n, C).

    An embedding bag is this very operation without the (n, 3, C) in between, and ten times faster on a CPU.
    """
    return embedding_bag(corners, attributes, mode="sum", per_sample_weights=weights.to(attributes.dtype))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products, (..., 3), (..., 3) -> (..., 1); much faster than a sum over three neighbours."""
    return (a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2])[..., None]


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1, 0 stays 0. (..., 3) -> (..., 3)."""
    return vectors * _dot(vectors, vectors).clamp_min(1e-30).rsqrt()


def interpolate(fragments: Fragments, faces: Tensor, attributes: Tensor) -> Tensor:
    """Vertex attributes at every pixel, perspective-correct.

    Args:
        fragments: B images.
        faces: the faces they were made from, (F, 3) or (B, F, 3).
        attributes: (V, C) or (B, V, C); gradients flow to them.

    Returns:
        (B, H, W, C), 0 at background.
    """
    shared = attributes.dim() == 2
    pixels, corners, weights = visible_corners(fragments, faces, 0 if shared else attributes.shape[1])
    values = blend(attributes.reshape(-1, attributes.shape[-1]), corners, weights)
    return scatter(pixels, values, fragments.face.shape)


def coordinates(fragments: Fragments, faces: Tensor, vertices: Tensor) -> Tensor:
    """Object coordinates: where each pixel lies on the object.

    Args:
        fragments: B images.
        faces: (F, 3) or (B, F, 3).
        vertices: object frame, (V, 3) or (B, V, 3), metres.

    Returns:
        (B, H, W, 3), metres, 0 at background.
    """
    return interpolate(fragments, faces, vertices)


def normals(fragments: Fragments, faces: Tensor, points_cam: Tensor, vertex_normals_cam: Tensor | None = None) -> Tensor:
    """Unit surface normals in the camera frame, turned towards the camera.

    Args:
        fragments: B images.
        faces: (F, 3) or (B, F, 3).
        points_cam: (B, V, 3), metres.
        vertex_normals_cam: (B, V, 3), rotated into the camera frame, for smooth shading; None: flat faces.

    Returns:
        (B, H, W, 3), 0 at background.
    """
    pixels, corners, weights = visible_corners(fragments, faces, points_cam.shape[1])
    points = points_cam.reshape(-1, 3)
    if vertex_normals_cam is None:
        values = face_normals(points, corners)
    else:
        values = unit(blend(vertex_normals_cam.reshape(-1, 3), corners, weights))
    return scatter(pixels, towards_camera(values, blend(points, corners, weights)), fragments.face.shape)


def face_normals(points: Tensor, corners: Tensor) -> Tensor:
    """Unit normals of triangles by the right-hand rule. (R, 3), (n, 3) -> (n, 3); 0 for degenerate ones."""
    a, b, c = (points[i] for i in corners.unbind(-1))
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-30)


def towards_camera(normals_cam: Tensor, points_cam: Tensor) -> Tensor:
    """Normals flipped where they look away from the camera. (..., 3), (..., 3) -> (..., 3)."""
    return normals_cam * (1 - 2 * (_dot(normals_cam, points_cam) > 0).to(normals_cam.dtype))


def positions(depth: Tensor, K: Tensor) -> Tensor:
    """Camera-frame points of a depth map.

    Args:
        depth: (B, H, W), metres.
        K: (3, 3) or (B, 3, 3), pixels; last row (0, 0, 1).

    Returns:
        (B, H, W, 3), metres; 0 where depth is 0.
    """
    height, width = depth.shape[-2:]
    y = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None].expand(height, width)
    x = torch.arange(width, dtype=depth.dtype, device=depth.device).expand(height, width)
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(K.to(depth)).mT[..., None, :, :]
    return rays * depth[..., None]


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear colour of a repeating texture.

    Args:
        texture: (3, H, W), any number of channels.
        uv: (..., 2); (0, 0) is the lower left corner of the picture, (1, 1) the upper right one.

    Returns:
        (..., 3).
    """
    channels, height, width = texture.shape
    x = uv[..., 0] * width - 0.5
    y = (1 - uv[..., 1]) * height - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = x - x0, y - y0
    left, top = x0.long() % width, y0.long() % height
    right, bottom = (left + 1) % width, (top + 1) % height
    texels = texture.reshape(channels, -1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return texels.index_select(1, (row * width + column).reshape(-1)).reshape(channels, *row.shape)

    upper = at(top, left) * (1 - fx) + at(top, right) * fx
    lower = at(bottom, left) * (1 - fx) + at(bottom, right) * fx
    return (upper * (1 - fy) + lower * fy).movedim(0, -1)


@dataclass(frozen=True)
class Lights:
    """Lights in the camera frame, for one image or, with a leading dimension B, for each of a batch.

    Args:
        ambient: light from everywhere, RGB, (3,) or (B, 3).
        directions: unit vectors from the surface to far lights, (L, 3) or (B, L, 3).
        direction_colors: their RGB, (L, 3) or (B, L, 3).
        positions: point lights, (P, 3) or (B, P, 3), metres.
        position_colors: their RGB as received at the distance of the object, without fall-off, (P, 3) or (B, P, 3).

    The default is a headlight: 0.4 ambient, 0.6 from the camera.
    """

    ambient: Tensor = field(default_factory=lambda: torch.full((3,), 0.4))
    directions: Tensor = field(default_factory=lambda: torch.tensor([[0.0, 0.0, -1.0]]))
    direction_colors: Tensor = field(default_factory=lambda: torch.full((1, 3), 0.6))
    positions: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    position_colors: Tensor = field(default_factory=lambda: torch.zeros(0, 3))


def _beside(value: Tensor, like: Tensor) -> Tensor:
    """(3,) or (B, 3) shaped to broadcast against a map (B, ..., 3)."""
    value = value.to(like)
    return value if value.dim() == 1 else value.reshape(len(value), *[1] * (like.dim() - 2), value.shape[-1])


def shade(
    albedo: Tensor,
    normals_cam: Tensor,
    points_cam: Tensor,
    lights: Lights | None = None,
    specular: float | Tensor = 0.0,
    shininess: float | Tensor = 32.0,
) -> Tensor:
    """Blinn-Phong colour of a surface: albedo * (ambient + diffuse) + specular.

    Args:
        albedo: RGB, (B, H, W, 3) or (n, 3).
        normals_cam: unit normals turned towards the camera, same shape.
        points_cam: points on the surface, same shape, metres.
        lights: None: a headlight.
        specular: strength of the highlight, number or a tensor that broadcasts to (B, H, W, 1).
        shininess: its exponent, likewise.

    Returns:
        RGB of the same shape, not clamped. Without shadows.

    Source: Blinn, Models of light reflection for computer synthesized pictures (1977), half-vector form.
    """
    lights = lights or Lights()
    to_camera = -unit(points_cam)
    glossy = isinstance(specular, Tensor) or specular > 0
    diffuse = _beside(lights.ambient, albedo).expand_as(albedo)
    highlight = torch.zeros_like(albedo)
    far, near = lights.directions.shape[-2], lights.positions.shape[-2]
    for i in range(far + near):
        if i < far:
            to_light = unit(_beside(lights.directions[..., i, :], albedo))
            color = _beside(lights.direction_colors[..., i, :], albedo)
        else:
            to_light = unit(_beside(lights.positions[..., i - far, :], albedo) - points_cam)
            color = _beside(lights.position_colors[..., i - far, :], albedo)
        cosine = _dot(normals_cam, to_light.expand_as(normals_cam)).clamp_min(0)
        diffuse = diffuse + cosine * color
        if glossy:
            half = unit(to_light + to_camera)
            shine = _dot(normals_cam, half).clamp_min(0) ** shininess
            highlight = highlight + torch.where(cosine > 0, shine, torch.zeros_like(shine)) * color
    return albedo * diffuse + specular * highlight if glossy else albedo * diffuse
