"""`scene.render`, and the targets of crops, in one pass over the pixels, for training pictures drawn by the thousand on a CPU.

What they draw is what the readable code draws, from the same random numbers, up to rounding; a picture of 96 pixels is small
enough for tensor overhead to cost more than the arithmetic. Everything here is numpy and numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numba
import numpy as np
from numpy.random import Generator

from .. import compiled
from ..render.raster_numba import floor, plane
from ..render.scene import GREY
from ..types import ObjectModel
from . import augment
from . import scene as synth

NEAR = 0.01  # nothing closer is drawn, metres
_PLAIN, _COLOURS, _TEXTURE = 0, 1, 2
_NONE2, _NONE3 = np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32)
_NO_TEXTURE = np.zeros((3, 0, 0), np.float32)
_HEADLIGHT = (np.full(3, 0.35, np.float32), np.array([[0.0, 0.0, -1.0]], np.float32), np.full((1, 3), 0.65, np.float32))


class Drawn(NamedTuple):
    """What is seen where, of N objects."""

    owner: np.ndarray  # (H, W), int32, which object is in front, -1 = none
    visibility: np.ndarray  # (N,), visible share of the silhouette inside the picture; 0 for an empty silhouette


@compiled.kernel(boundscheck=False)
def _rasterise(points, pose, faces, K, which, owner, face, inverse_depth, stamp):
    """Put one object into a z-buffer that all share; returns the pixels of its silhouette, -1 if a point is not finite.

    points (V, 3), pose (4, 4), faces (F, 3), K (3, 3); `owner` and `face` (H, W) int32, `inverse_depth` (H, W) float32 and
    `stamp` (H, W) int32, -1 where no silhouette was, are changed in place. See `raster_numba.draw` for the method.
    """
    height, width = owner.shape
    right, bottom = width - 1.0, height - 1.0
    count = points.shape[0]
    q = np.empty((count, 3), np.float64)
    uv = np.empty((count, 2), np.float64)
    M = np.empty((3, 4), np.float64)  # K [R t]
    for r in range(3):
        for c in range(4):
            M[r, c] = K[r, 0] * pose[0, c] + K[r, 1] * pose[1, c] + K[r, 2] * pose[2, c]
    check = 0.0
    low_u, high_u, low_v, high_v, low_z, high_z = np.inf, -np.inf, np.inf, -np.inf, np.inf, -np.inf
    for i in range(count):
        px, py, pz = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        a = M[0, 0] * px + M[0, 1] * py + M[0, 2] * pz + M[0, 3]
        b = M[1, 0] * px + M[1, 1] * py + M[1, 2] * pz + M[1, 3]
        d = M[2, 0] * px + M[2, 1] * py + M[2, 2] * pz + M[2, 3]
        inv = 1.0 / d
        u, v = a * inv, b * inv
        q[i, 0], q[i, 1], q[i, 2], uv[i, 0], uv[i, 1] = a, b, d, u, v
        low_u, high_u, low_v, high_v = min(low_u, u), max(high_u, u), min(low_v, v), max(high_v, v)
        low_z, high_z = min(low_z, d), max(high_z, d)
        check += (a + b + d) * 0.0
    if check != 0.0:
        return -1
    if high_z < NEAR or (low_z >= NEAR and (high_u < 0.0 or high_v < 0.0 or low_u > right or low_v > bottom)):
        return 0
    inv_near, covered = 1.0 / NEAR, 0
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        seen, x0, x1, y0, y1, a0, b0, c0, a1, b1, c1, a2, b2, c2, inv = plane(q, uv, i, j, k, NEAR, right, bottom)
        if not seen:
            continue
        az, bz, cz = (a0 + a1 + a2) * inv, (b0 + b1 + b2) * inv, (c0 + c1 + c2) * inv
        floor0, floor1, floor2 = floor(a0, b0), floor(a1, b1), floor(a2, b2)
        for y in range(y0, y1 + 1):
            r0, r1, r2, rz = b0 * y + c0, b1 * y + c1, b2 * y + c2, bz * y + cz
            entered = False
            for x in range(x0, x1 + 1):
                if a0 * x + r0 > floor0 and a1 * x + r1 > floor1 and a2 * x + r2 > floor2:
                    entered = True
                    w = az * x + rz
                    if w <= inv_near:
                        if stamp[y, x] != which:
                            stamp[y, x] = which
                            covered += 1
                        single = np.float32(w)
                        if single > inverse_depth[y, x]:
                            inverse_depth[y, x] = single
                            owner[y, x] = which
                            face[y, x] = f
                elif entered:
                    break
    return covered


@numba.njit(inline="always")
def _corner(points, i, pose):
    """A vertex in the camera frame."""
    x, y, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
    return (
        pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3],
        pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3],
        pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3],
    )


@numba.njit(inline="always")
def _weights(p, q, r, K, x, y):
    """Barycentric weights of the pixel (x, y) in the triangle of three points of the camera frame, perspective-correct."""
    ix, iy = K[0, 0] * p[0] + K[0, 1] * p[1] + (K[0, 2] - x) * p[2], K[1, 0] * p[0] + K[1, 1] * p[1] + (K[1, 2] - y) * p[2]
    jx, jy = K[0, 0] * q[0] + K[0, 1] * q[1] + (K[0, 2] - x) * q[2], K[1, 0] * q[0] + K[1, 1] * q[1] + (K[1, 2] - y) * q[2]
    kx, ky = K[0, 0] * r[0] + K[0, 1] * r[1] + (K[0, 2] - x) * r[2], K[1, 0] * r[0] + K[1, 1] * r[1] + (K[1, 2] - y) * r[2]
    e0, e1, e2 = jx * ky - jy * kx, kx * iy - ky * ix, ix * jy - iy * jx
    inv = 1.0 / (e0 + e1 + e2)
    return e0 * inv, e1 * inv, e2 * inv


@numba.njit(inline="always")
def _texel(texture, channel, u, v):
    """Bilinear colour of a repeating texture, as `maps.sample_texture` has it."""
    height, width = texture.shape[1], texture.shape[2]
    x, y = u * width - 0.5, (1.0 - v) * height - 0.5
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    left, top = int(x0) % width, int(y0) % height
    right, bottom = (left + 1) % width, (top + 1) % height
    upper = texture[channel, top, left] * (1 - fx) + texture[channel, top, right] * fx
    lower = texture[channel, bottom, left] * (1 - fx) + texture[channel, bottom, right] * fx
    return upper * (1 - fy) + lower * fy


@compiled.kernel(boundscheck=False)
def _shade(
    points, normals, colours, uv, texture, surface, faces, pose, K, which, flat, owner, face, ambient, directions,
    direction_colours, specular, shininess, image, coordinates,
):  # fmt: skip
    """Light one object where it is seen: RGB in [0, 1] into `image`, object coordinates into `coordinates` (if not empty)."""
    height, width = owner.shape
    lights = directions.shape[0]
    albedo = np.empty(3, np.float64)
    for y in range(height):
        for x in range(width):
            if owner[y, x] != which:
                continue
            f = face[y, x]
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            p, q, r = _corner(points, i, pose), _corner(points, j, pose), _corner(points, k, pose)
            w0, w1, w2 = _weights(p, q, r, K, x, y)
            px, py, pz = w0 * p[0] + w1 * q[0] + w2 * r[0], w0 * p[1] + w1 * q[1] + w2 * r[1], w0 * p[2] + w1 * q[2] + w2 * r[2]
            if flat:
                ax, ay, az, bx, by, bz = q[0] - p[0], q[1] - p[1], q[2] - p[2], r[0] - p[0], r[1] - p[1], r[2] - p[2]
                nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
            else:
                ox = w0 * normals[i, 0] + w1 * normals[j, 0] + w2 * normals[k, 0]
                oy = w0 * normals[i, 1] + w1 * normals[j, 1] + w2 * normals[k, 1]
                oz = w0 * normals[i, 2] + w1 * normals[j, 2] + w2 * normals[k, 2]
                nx = pose[0, 0] * ox + pose[0, 1] * oy + pose[0, 2] * oz
                ny = pose[1, 0] * ox + pose[1, 1] * oy + pose[1, 2] * oz
                nz = pose[2, 0] * ox + pose[2, 1] * oy + pose[2, 2] * oz
            scale = 1.0 / np.sqrt(max(nx * nx + ny * ny + nz * nz, 1e-30))
            if nx * px + ny * py + nz * pz > 0:
                scale = -scale
            nx, ny, nz = nx * scale, ny * scale, nz * scale
            if surface == _COLOURS:
                for c in range(3):
                    albedo[c] = w0 * colours[i, c] + w1 * colours[j, c] + w2 * colours[k, c]
            elif surface == _TEXTURE:
                s = w0 * uv[i, 0] + w1 * uv[j, 0] + w2 * uv[k, 0]
                t = w0 * uv[i, 1] + w1 * uv[j, 1] + w2 * uv[k, 1]
                for c in range(3):
                    albedo[c] = _texel(texture, c, s, t)
            else:
                albedo[0] = albedo[1] = albedo[2] = GREY
            back = -1.0 / np.sqrt(max(px * px + py * py + pz * pz, 1e-30))
            d0, d1, d2 = np.float64(ambient[0]), np.float64(ambient[1]), np.float64(ambient[2])
            h0, h1, h2 = 0.0, 0.0, 0.0
            for n in range(lights):
                lx, ly, lz = np.float64(directions[n, 0]), np.float64(directions[n, 1]), np.float64(directions[n, 2])
                cosine = nx * lx + ny * ly + nz * lz
                if cosine <= 0:
                    continue
                d0 += cosine * direction_colours[n, 0]
                d1 += cosine * direction_colours[n, 1]
                d2 += cosine * direction_colours[n, 2]
                if specular > 0:
                    hx, hy, hz = lx + back * px, ly + back * py, lz + back * pz
                    along = (nx * hx + ny * hy + nz * hz) / np.sqrt(max(hx * hx + hy * hy + hz * hz, 1e-30))
                    if along > 0:
                        shine = along**shininess
                        h0 += shine * direction_colours[n, 0]
                        h1 += shine * direction_colours[n, 1]
                        h2 += shine * direction_colours[n, 2]
            image[y, x, 0] = min(max(albedo[0] * d0 + specular * h0, 0.0), 1.0)
            image[y, x, 1] = min(max(albedo[1] * d1 + specular * h1, 0.0), 1.0)
            image[y, x, 2] = min(max(albedo[2] * d2 + specular * h2, 0.0), 1.0)
            if coordinates.shape[0]:
                for c in range(3):
                    coordinates[y, x, c] = w0 * points[i, c] + w1 * points[j, c] + w2 * points[k, c]


@compiled.kernel(boundscheck=False)
def _compose(image, owner, gains, light, edge, background_light, background_edge, background, picture):
    """Objects in their paint and uneven light before a background in another: uint8, not rounded.

    `edge` and `background_edge` are (cos, sin, offset, factor): what lies beyond a line of the square [-1, 1] is darker by it.
    """
    height, width = owner.shape
    for y in range(height):
        v = -1.0 + 2.0 * y / (height - 1) if height > 1 else -1.0
        for x in range(width):
            u = -1.0 + 2.0 * x / (width - 1) if width > 1 else -1.0
            which = owner[y, x]
            if which >= 0:
                value = light[y, x] if edge[0] * u + edge[1] * v > edge[2] else light[y, x] * edge[3]
                for c in range(3):
                    picture[y, x, c] = np.uint8(min(max(image[y, x, c] * gains[which, c] * value, 0.0), 1.0) * 255)
            else:
                value = background_light[y, x]
                if not background_edge[0] * u + background_edge[1] * v > background_edge[2]:
                    value *= background_edge[3]
                value = 0.5 + 0.5 * value
                for c in range(3):
                    picture[y, x, c] = np.uint8(min(max(background[y, x, c] / 255 * value, 0.0), 1.0) * 255)


@compiled.kernel(boundscheck=False)
def _coordinates(points, faces, pose, K, owner, face, out):
    """Object coordinates of the one object drawn, (3, H, W), 0 elsewhere."""
    for y in range(owner.shape[0]):
        for x in range(owner.shape[1]):
            if owner[y, x] < 0:
                continue
            f = face[y, x]
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            w0, w1, w2 = _weights(_corner(points, i, pose), _corner(points, j, pose), _corner(points, k, pose), K, x, y)
            for c in range(3):
                out[c, y, x] = w0 * points[i, c] + w1 * points[j, c] + w2 * points[k, c]


@compiled.kernel(boundscheck=False)
def _pixel_bounds(points, pose, K, z_min):
    """Smallest and largest pixel of projected points: left, top, right, bottom, as `camera.project` has them."""
    low_u, high_u, low_v, high_v = np.inf, -np.inf, np.inf, -np.inf
    for i in range(points.shape[0]):
        x, y, z = _corner(points, i, pose)
        inv = 1.0 / max(z, z_min)
        u, v = (K[0, 0] * x + K[0, 1] * y + K[0, 2] * z) * inv, (K[1, 0] * x + K[1, 1] * y + K[1, 2] * z) * inv
        low_u, high_u, low_v, high_v = min(low_u, u), max(high_u, u), min(low_v, v), max(high_v, v)
    return low_u, low_v, high_u, high_v


def _array(values, empty: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    return empty if values is None else np.ascontiguousarray(values.numpy())


def _surface(model: ObjectModel) -> tuple[np.ndarray | int, ...]:
    """The first arguments of `_shade`: points, normals, colours, uv, texture, which of them colours the surface, faces."""
    textured = model.texture is not None and model.uv is not None
    return (
        _array(model.vertices, _NONE3), _array(model.normals, _NONE3), _array(model.colors, _NONE3),
        _array(model.uv if textured else None, _NONE2), _array(model.texture if textured else None, _NO_TEXTURE),
        _TEXTURE if textured else _PLAIN if model.colors is None else _COLOURS, _array(model.faces, _NONE3),
    )  # fmt: skip


def _buffers(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    owner, face, stamp = np.full((3, *size), -1, np.int32)
    return owner, face, np.zeros(size, np.float32), stamp


def _put(model: ObjectModel, pose: np.ndarray, K: np.ndarray, which: int, buffers: tuple[np.ndarray, ...]) -> int:
    covered = _rasterise(_array(model.vertices, _NONE3), pose, _array(model.faces, _NONE3), K, which, *buffers)
    if covered < 0:
        raise ValueError(f"points of object {model.obj_id} must be finite, got NaN or infinity; check the mesh and the pose")
    return int(covered)


@compiled.kernel(boundscheck=False)
def _shape_and_colour(points, normals, colours, uv, texture, surface, faces, pose, K, owner, face, normal, albedo):
    """Normals towards the camera, camera frame, and unlit colours, where an object is seen: into (3, H, W) each."""
    height, width = owner.shape
    for y in range(height):
        for x in range(width):
            if owner[y, x] < 0:
                continue
            f = face[y, x]
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            p, q, r = _corner(points, i, pose), _corner(points, j, pose), _corner(points, k, pose)
            w0, w1, w2 = _weights(p, q, r, K, x, y)
            towards, length = 0.0, 0.0
            for c in range(3):
                n = 0.0
                for o in range(3):
                    n += pose[c, o] * (w0 * normals[i, o] + w1 * normals[j, o] + w2 * normals[k, o])
                normal[c, y, x] = n
                towards += n * (w0 * p[c] + w1 * q[c] + w2 * r[c])
                length += n * n
            scale = (-1.0 if towards > 0 else 1.0) / np.sqrt(max(length, 1e-30))
            for c in range(3):
                normal[c, y, x] *= scale
                if surface == _COLOURS:
                    albedo[c, y, x] = w0 * colours[i, c] + w1 * colours[j, c] + w2 * colours[k, c]
                elif surface == _TEXTURE:
                    s = w0 * uv[i, 0] + w1 * uv[j, 0] + w2 * uv[k, 0]
                    t = w0 * uv[i, 1] + w1 * uv[j, 1] + w2 * uv[k, 1]
                    albedo[c, y, x] = _texel(texture, c, s, t)
                else:
                    albedo[c, y, x] = GREY


def bounds(model: ObjectModel, pose: np.ndarray, K: np.ndarray) -> np.ndarray:
    """`samples.amodal_box` in numpy: the box around the whole silhouette, (4,), xyxy pixel edges."""
    return np.array(_pixel_bounds(_array(model.vertices, _NONE3), pose, K, 1e-6)) + 0.5


def target(model: ObjectModel, pose: np.ndarray, K: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """True object coordinates of a square crop as if nothing hid the object: (3, side, side) float32, metres, 0 outside, and
    the silhouette, (side, side), bool."""
    buffers = _buffers((side, side))
    _put(model, pose, K, 0, buffers)
    out = np.zeros((3, side, side), np.float32)
    _coordinates(_array(model.vertices, _NONE3), _array(model.faces, _NONE3), pose, K, *buffers[:2], out)
    return out, buffers[0] >= 0


def prior(model: ObjectModel, pose: np.ndarray, K: np.ndarray, side: int) -> np.ndarray:
    """What a pose promises, for networks that compare it with a photo: (5, side, side) float32, 0 beside the object.

    Channels: silhouette (1); depth behind the object's middle, in radii; RGB under a headlight.
    """
    buffers = _buffers((side, side))
    _put(model, pose, K, 0, buffers)
    owner, face, inverse_depth, _ = buffers
    image = np.zeros((side, side, 3), np.float32)
    _shade(*_surface(model), pose, K, 0, False, owner, face, *_HEADLIGHT, 0.0, 1.0, image, np.empty((0, 0, 3), np.float32))
    seen = owner >= 0
    middle = float(pose[2, :3] @ model.bounds.mean(0).double().numpy() + pose[2, 3])
    depth = np.where(seen, 1 / np.maximum(inverse_depth, 1e-6) - middle, 0) / (model.diameter / 2)
    return np.concatenate([seen[None], depth.clip(-2, 2)[None], image.transpose(2, 0, 1)]).astype(np.float32)


def surface(model: ObjectModel, pose: np.ndarray, K: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What light falls on, in a square crop as if nothing hid the object: normals towards the camera, camera frame, and colours
    without light, (3, side, side) float32 each, 0 beside the object; the silhouette, (side, side), bool."""
    buffers = _buffers((side, side))
    _put(model, pose, K, 0, buffers)
    normal, albedo = np.zeros((3, side, side), np.float32), np.zeros((3, side, side), np.float32)
    _shape_and_colour(*_surface(model), pose, K, *buffers[:2], normal, albedo)
    return normal, albedo, buffers[0] >= 0


def owners(models: Sequence[ObjectModel], poses: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which of N objects is in front at every pixel, (H, W) int32, -1 where none; poses (N, 4, 4) float64, metres."""
    buffers = _buffers(size)
    for n, (model, pose) in enumerate(zip(models, poses, strict=True)):
        _put(model, pose, K, n, buffers)
    return buffers[0]


def _light_field(size: tuple[int, int], rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """`augment.light_field` before its shadow edge, (H, W), and that edge as in `_compose`; the same random numbers."""
    coarse = rng.uniform(0.45, 1.35, (int(rng.integers(2, 6)), int(rng.integers(2, 6)))).astype(np.float32)
    field = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.3:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
        return field, np.array([np.cos(angle), np.sin(angle), offset, rng.uniform(0.4, 0.8)])
    return field, np.array([0.0, 0.0, -1.0, 1.0])


def render(
    layout: synth.Layout, look: synth.Appearance, K: np.ndarray, size: tuple[int, int], background: np.ndarray, native: float,
    rng: Generator,
) -> tuple[np.ndarray, Drawn]:  # fmt: skip
    """`synth.render`, K in numpy, float64: the same picture from the same random numbers up to rounding; and what is seen.

    Raises:
        ValueError: a mesh or pose that is not finite.
    """
    poses = layout.cam_from_obj.numpy().astype(np.float64)
    buffers = _buffers(size)
    owner, face = buffers[:2]
    covered = [_put(model, poses[i], K, i, buffers) for i, model in enumerate(layout.models)]
    seen = np.bincount(owner.ravel() + 1, minlength=len(layout.models) + 1)[1:]
    image = np.empty((*size, 3), np.float32)
    lights = look.lights
    directions = lights.directions.numpy()
    directions = np.ascontiguousarray(directions / np.linalg.norm(directions, axis=1, keepdims=True).clip(1e-15))
    for i, model in enumerate(layout.models):
        if not seen[i]:
            continue
        surface = _surface(model)
        unpainted = surface[5] == _PLAIN
        coordinates = np.empty((*size, 3), np.float32) if unpainted else np.empty((0, 0, 3), np.float32)
        _shade(
            *surface, poses[i], K, i, look.flat, owner, face, lights.ambient.numpy(), directions,
            lights.direction_colors.numpy(), float(look.specular[i]), float(look.shininess[i]), image, coordinates,
        )  # fmt: skip
        if unpainted:
            here = owner == i
            image[here] *= augment.paint(coordinates[here], model.diameter, rng) / GREY
    light, edge = _light_field(size, rng)
    background_light, background_edge = _light_field(size, rng)
    picture = np.empty((*size, 3), np.uint8)
    gains = look.gains if len(look.gains) else np.ones((1, 3), np.float32)
    _compose(image, owner, gains, light, edge, background_light, background_edge, np.ascontiguousarray(background), picture)
    picture = augment.resolution(picture, native)
    picture = augment.blur(picture, rng, max(size[1] / native, 0.5))
    return picture, Drawn(owner, seen / np.maximum(covered, 1))
