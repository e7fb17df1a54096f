"""Make the five demo objects of monopose from code: meshes, texture, models_info.json, names.json.

    pip install numpy scipy pillow manifold3d
    python tools/make_demo_objects.py --out src/monopose/assets/demo/objects

The result is a BOP models folder: `obj_00000N.ply` in millimetres with vertex normals and either vertex colours or
texture coordinates, origin at the centre of the bounding box, Z up. The same versions of the libraries make the same
bytes. Nothing in it comes from elsewhere; the letters on the box are drawn with Pillow's built-in font.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from manifold3d import CrossSection, Manifold
from PIL import Image, ImageDraw, ImageFont
from scipy.interpolate import PchipInterpolator
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

CREASE_DEG = 32.0  # faces meeting at a larger angle keep a sharp edge

RED, GREEN, BLUE = (196, 44, 38), (38, 128, 74), (38, 84, 178)
YELLOW, ORANGE, DARK = (240, 190, 40), (232, 120, 34), (46, 48, 54)
CREAM, TEAL, NAVY, CORAL = (240, 230, 206), (24, 138, 140), (32, 44, 92), (226, 92, 76)
GREY = (142, 144, 146)


class Shape(NamedTuple):
    """Triangles with an appearance.

    Args:
        corners: (F, 3, 3), millimetres, counter-clockwise seen from outside.
        colors: (F, 3, 3), RGB 0-255 per corner, or None.
        uv: (F, 3, 2), (0, 0) = lower left corner of the texture, or None.
        texture: picture, or None.
    """

    corners: np.ndarray
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: Image.Image | None = None


# ---------------------------------------------------------------- solids with a colour


def coloured(solid: Manifold, rgb: tuple[int, int, int]) -> Manifold:
    """The solid with one colour on all of its surface; booleans carry it along."""
    return solid.set_properties(3, lambda position, old: list(rgb))


def cylinder(radius: float, length: float, axis: str, rgb: tuple[int, int, int], top: float | None = None) -> Manifold:
    """A cylinder or cone around the origin along an axis; the number of segments grows with the radius."""
    segments = 64 if radius > 18 else 40 if radius > 10 else 28
    solid = Manifold.cylinder(length, radius, radius if top is None else top, segments, True)
    turn = {"x": (0, 90, 0), "y": (-90, 0, 0), "z": (0, 0, 0)}[axis]
    return coloured(solid.rotate(turn), rgb)


def rounded_box(size: tuple[float, float, float], radius: float, rgb: tuple[int, int, int]) -> Manifold:
    """A box around the origin with rounded edges."""
    ball = Manifold.sphere(radius, 12)
    half = np.array(size) / 2 - radius
    balls = [ball.translate(tuple(half * s)) for s in np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T]
    return coloured(Manifold.batch_hull(balls), rgb)


def union(*solids: Manifold) -> Manifold:
    total = solids[0]
    for solid in solids[1:]:
        total = total + solid
    return total


def shape_of(solid: Manifold, edge: float) -> Shape:
    """The surface of a coloured solid, with edges no longer than about `edge` millimetres."""
    mesh = solid.refine_to_length(edge).to_mesh()
    corners = np.asarray(mesh.vert_properties, np.float64)[np.asarray(mesh.tri_verts)]
    return Shape(corners[..., :3], corners[..., 3:6])


# ---------------------------------------------------------------- the five objects


def biscuit_box() -> Shape:
    """A cardboard package with our own graphics: 95 x 45 x 140 mm, textured."""
    x, y, z = 95.0, 45.0, 140.0
    per_mm, pad = 3.6, 4
    pictures = box_graphics(per_mm)
    atlas = Image.new("RGB", (1056, 704), (255, 255, 255))
    # name of the side: (origin, direction of u, direction of v, length u, length v)
    sides = {
        "front": ((-1, -1, -1), (1, 0, 0), (0, 0, 1), x, z),
        "back": ((1, 1, -1), (-1, 0, 0), (0, 0, 1), x, z),
        "right": ((1, -1, -1), (0, 1, 0), (0, 0, 1), y, z),
        "left": ((-1, 1, -1), (0, -1, 0), (0, 0, 1), y, z),
        "top": ((-1, -1, 1), (1, 0, 0), (0, 1, 0), x, y),
        "bottom": ((-1, 1, -1), (1, 0, 0), (0, -1, 0), x, y),
    }
    places = {"front": (8, 8), "back": (366, 8), "right": (724, 8), "left": (890, 8), "top": (8, 528), "bottom": (366, 528)}
    corners, uvs = [], []
    for name, (origin, du, dv, lu, lv) in sides.items():
        picture, (left, upper) = pictures[name], places[name]
        wide, high = picture.size
        margin = picture.resize((wide + 2 * pad, high + 2 * pad))  # colours beyond the edge, against seams
        atlas.paste(margin, (left - pad, upper - pad))
        atlas.paste(picture, (left, upper))
        nu, nv = round(lu / 6), round(lv / 6)
        grid = np.stack(np.meshgrid(np.linspace(0, 1, nu + 1), np.linspace(0, 1, nv + 1), indexing="ij"), -1)
        start = np.array(origin) * [x / 2, y / 2, z / 2]
        points = start + grid[..., :1] * np.array(du) * lu + grid[..., 1:] * np.array(dv) * lv
        uv = np.stack([left + grid[..., 0] * wide, atlas.height - upper - high + grid[..., 1] * high], -1)
        uv = uv / [atlas.width, atlas.height]
        for values, out in ((points, corners), (uv, uvs)):
            a, b, c, d = values[:-1, :-1], values[1:, :-1], values[1:, 1:], values[:-1, 1:]
            quads = np.stack([a, b, c, a, c, d], 2).reshape(-1, 3, values.shape[-1])
            out.append(quads)
    return Shape(np.concatenate(corners), uv=np.concatenate(uvs), texture=atlas)


def box_graphics(per_mm: float) -> dict[str, Image.Image]:
    """The six printed sides of the biscuit box."""
    wide, deep, high = (round(v * per_mm) for v in (95.0, 45.0, 140.0))
    night, sky, sun, cream, brown = (34, 40, 98), (62, 96, 190), (250, 196, 48), (250, 240, 216), (176, 112, 52)

    def write(draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, fill: tuple[int, int, int]) -> None:
        draw.text(xy, text, fill=fill, font=ImageFont.load_default(size), anchor="mm")

    def biscuit(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=brown, outline=(120, 70, 28), width=4)
        draw.ellipse((x - r * 0.8, y - r * 0.8, x + r * 0.8, y + r * 0.8), fill=(214, 158, 88))
        for k in range(7):
            a, q = k * 2 * np.pi / 6, (0.0 if k == 6 else 0.48 * r)
            cx, cy, s = x + q * np.cos(a), y + q * np.sin(a), r * 0.09
            draw.ellipse((cx - s, cy - s, cx + s, cy + s), fill=(96, 54, 24))

    front = Image.new("RGB", (wide, high), night)
    draw = ImageDraw.Draw(front)
    stars = np.random.default_rng(7).uniform(0, 1, (60, 3))
    for sx, sy, size in stars:
        r = 1 + 2 * size
        draw.ellipse((sx * wide - r, sy * high - r, sx * wide + r, sy * high + r), fill=(220, 224, 255))
    draw.polygon([(0, high), (0, high * 0.72), (wide, high * 0.60), (wide, high)], fill=sun)
    draw.polygon([(0, high * 0.72), (0, high * 0.69), (wide, high * 0.57), (wide, high * 0.60)], fill=(226, 74, 52))
    draw.ellipse((wide * 0.28 - 78, high * 0.52 - 78, wide * 0.28 + 78, high * 0.52 + 78), fill=sky)
    draw.arc((-30, high * 0.44, wide * 0.72, high * 0.60), 150, 395, fill=cream, width=9)
    biscuit(draw, wide * 0.70, high * 0.40, 56)
    biscuit(draw, wide * 0.52, high * 0.80, 66)
    biscuit(draw, wide * 0.84, high * 0.72, 44)
    draw.rounded_rectangle((14, 26, wide - 14, 122), 16, fill=(226, 74, 52), outline=cream, width=6)
    write(draw, (wide / 2, 73), "ORBIT", 92, cream)
    write(draw, (wide / 2, 148), "oat biscuits", 40, sun)
    draw.ellipse((10, high - 96, 98, high - 8), fill=(38, 140, 84))
    write(draw, (54, high - 62), "12", 44, cream)
    write(draw, (54, high - 28), "pieces", 20, cream)

    back = Image.new("RGB", (wide, high), cream)
    draw = ImageDraw.Draw(back)
    draw.rectangle((0, 0, wide, 84), fill=night)
    write(draw, (wide / 2, 42), "ORBIT", 64, sun)
    write(draw, (wide / 2, 112), "once around the kitchen", 26, night)
    for row in range(8):
        y = 140 + 24 * row
        draw.rectangle((20, y, wide - 20, y + 22), fill=(232, 216, 180) if row % 2 else (246, 228, 190))
        draw.rectangle((28, y + 7, 28 + 60 + 11 * ((row * 5) % 7), y + 14), fill=(70, 62, 60))
        draw.rectangle((wide - 90, y + 7, wide - 30 - 6 * (row % 3), y + 14), fill=(70, 62, 60))
    for k, fill in enumerate([(226, 74, 52), sun, (38, 140, 84), sky]):
        draw.rectangle((20 + 76 * k, 350, 86 + 76 * k, 376), fill=fill)
    biscuit(draw, 92, high - 70, 52)
    barcode(draw, (wide - 160, high - 112, wide - 24, high - 24), 3)

    right = Image.new("RGB", (deep, high), (226, 74, 52))
    draw = ImageDraw.Draw(right)
    for k in range(-4, 12):
        draw.polygon([(0, 60 * k), (deep, 60 * k - 90), (deep, 60 * k - 62), (0, 60 * k + 28)], fill=(196, 48, 40))
    draw.rectangle((28, 0, deep - 28, high), fill=cream)
    word = Image.new("RGB", (high - 160, deep - 60), cream)
    write(ImageDraw.Draw(word), (word.width / 2, word.height / 2), "ORBIT", 92, night)
    right.paste(word.rotate(90, expand=True), (30, 40))
    biscuit(draw, deep / 2, high - 62, 44)

    left = Image.new("RGB", (deep, high), sky)
    draw = ImageDraw.Draw(left)
    for k in range(6):
        r = 150 - 24 * k
        fill = [night, sky, sun, sky, cream, (226, 74, 52)][k]
        draw.ellipse((deep / 2 - r, high * 0.36 - r, deep / 2 + r, high * 0.36 + r), fill=fill)
    draw.rectangle((0, high - 150, deep, high - 110), fill=sun)
    write(draw, (deep / 2, high - 130), "whole grain", 27, night)
    for k in range(5):
        draw.rectangle((22, high - 92 + 17 * k, deep - 22 - 16 * (k % 3), high - 84 + 17 * k), fill=cream)

    top = Image.new("RGB", (wide, deep), night)
    draw = ImageDraw.Draw(top)
    draw.rectangle((0, deep * 0.62, wide, deep), fill=sun)
    write(draw, (wide * 0.42, deep * 0.32), "ORBIT", 70, cream)
    write(draw, (wide * 0.42, deep * 0.80), "open here", 36, night)
    draw.polygon([(wide - 64, 20), (wide - 16, 20), (wide - 40, deep - 20)], fill=(226, 74, 52))

    bottom = Image.new("RGB", (wide, deep), cream)
    draw = ImageDraw.Draw(bottom)
    draw.rectangle((0, 0, wide, 26), fill=(38, 140, 84))
    barcode(draw, (24, 50, 180, 136), 5)
    write(draw, (wide - 82, 92), "1 kg", 60, night)
    return {"front": front, "back": back, "right": right, "left": left, "top": top, "bottom": bottom}


def barcode(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], seed: int) -> None:
    """Black bars of pseudo-random width on white; it encodes nothing."""
    draw.rectangle(box, fill=(255, 255, 255))
    generator, x = np.random.default_rng(seed), box[0] + 8
    while x < box[2] - 12:
        width, gap = generator.integers(2, 7, 2)
        draw.rectangle((x, box[1] + 8, x + int(width), box[3] - 8), fill=(20, 20, 20))
        x += int(width + gap)


def toy_train() -> Shape:
    """A toy locomotive about 135 mm long, vertex colours, no symmetry (the tank sits on one side only)."""
    body = union(
        rounded_box((128, 42, 12), 3, RED).translate((0, 0, 22)),
        cylinder(19, 74, "x", GREEN).translate((22, 0, 44)),
        cylinder(20.5, 9, "x", DARK).translate((58, 0, 44)),
        cylinder(13, 6, "x", YELLOW, 8).translate((65, 0, 44)),
        cylinder(19.8, 4, "x", YELLOW).translate((24, 0, 44)),
        rounded_box((44, 44, 52), 3, BLUE).translate((-38, 0, 50)),
        rounded_box((54, 54, 8), 3, RED).translate((-38, 0, 79)),
        cylinder(7, 24, "z", DARK, 10).translate((44, 0, 72)),
        cylinder(11.5, 5, "z", ORANGE).translate((44, 0, 84)),
        coloured(Manifold.sphere(11, 32), YELLOW).translate((8, 0, 62)),
        cylinder(8, 46, "x", ORANGE).translate((20, 22, 36)),  # the tank, left side only
        rounded_box((10, 30, 8), 2, DARK).translate((-66, 0, 21)),
        rounded_box((8, 38, 14), 2, DARK).translate((64, 0, 15)),
    )
    windows = rounded_box((24, 60, 18), 3, CREAM).translate((-38, 0, 60))
    body = body - windows + rounded_box((40, 34, 30), 2, CREAM).translate((-38, 0, 58))
    for x, radius in ((-44, 17), (-8, 13), (20, 13), (48, 13)):
        for side in (-1, 1):
            rim = cylinder(radius, 8, "y", DARK).translate((x, side * 22, radius))
            hub = cylinder(radius * 0.5, 11, "y", YELLOW).translate((x, side * 22, radius))
            body = union(body, rim, hub)
    return shape_of(body, 14)


def cross_knob() -> Shape:
    """A four-armed hand knob, 100 mm across, two colours; looks the same after every quarter turn about Z."""
    hub = union(
        cylinder(20, 24, "z", NAVY).translate((0, 0, 0)),
        cylinder(20, 6, "z", NAVY, 14).translate((0, 0, 15)),
        cylinder(12, 34, "z", NAVY).translate((0, 0, -27)),
        cylinder(16, 5, "z", YELLOW).translate((0, 0, -41)),
    )
    arm = Manifold.batch_hull([Manifold.sphere(8, 32).translate((8, 0, 0)), Manifold.sphere(6.5, 32).translate((34, 0, 2))])
    arm = union(coloured(arm, YELLOW), coloured(Manifold.sphere(10, 40), YELLOW).translate((40, 0, 2)))
    slot = coloured(Manifold.cube((22, 5, 8), True), YELLOW).translate((0, 0, 18))
    hole = coloured(Manifold.cube((11, 11, 16), True), DARK).translate((0, 0, -40))
    return shape_of(union(hub, *[arm.rotate((0, 0, 90 * k)) for k in range(4)]) - slot - slot.rotate((0, 0, 90)) - hole, 6)


def ring_bottle() -> Shape:
    """A lathed bottle, 168 mm tall, with rings of colour; looks the same from all sides around Z."""
    heights = [0, 3, 20, 48, 78, 100, 116, 130, 140, 147]
    radii = [29, 32, 34, 36, 34, 27.5, 19, 14, 12.5, 12.5]
    wall = PchipInterpolator(heights, radii)
    bands = [(26, NAVY), (40, CREAM), (46, CORAL), (74, CREAM), (92, TEAL), (97, YELLOW), (147, TEAL)]
    profile: list[tuple[float, float, tuple[int, int, int]]] = []  # (radius, height, colour of the strip below)
    lower = 0.0
    for r in (0.0, 10.0, 20.0, 29.0):
        profile.append((r, 0.0, NAVY))
    for upper, rgb in bands:
        for z in np.linspace(lower, upper, max(2, round((upper - lower) / 4)) + 1)[1:]:
            profile.append((float(wall(z)), float(z), rgb))
        lower = upper
    cap = [(15.5, 147), (16.5, 149), (16.5, 155), (16.5, 161), (15, 165), (12, 167.3), (6, 168), (0, 168)]
    profile += [(float(r), float(z), CORAL) for r, z in cap]

    angle = np.arange(73) / 72 * 2 * np.pi
    angle[-1] = 0.0
    around = np.stack([np.cos(angle), np.sin(angle)], -1)
    corners, colors = [], []
    for (r0, z0, _), (r1, z1, rgb) in pairwise(profile):
        low = np.concatenate([around * r0, np.full((73, 1), z0)], 1)
        high = np.concatenate([around * r1, np.full((73, 1), z1)], 1)
        if r0 > 0:
            corners.append(np.stack([low[:-1], low[1:], high[1:]], 1))
        if r1 > 0:
            corners.append(np.stack([low[:-1], high[1:], high[:-1]], 1))
        count = 72 * ((r0 > 0) + (r1 > 0))
        colors.append(np.broadcast_to(np.array(rgb, float), (count, 3, 3)))
    return Shape(np.concatenate(corners), np.concatenate(colors))


def bracket() -> Shape:
    """A grey machine part, 112 x 72 x 84 mm: base and wall with ribs, a boss, holes and a slot; no symmetry."""
    base = CrossSection([[(-56, -36), (56, -36), (56, 14), (34, 36), (-56, 36)]])
    base = base.offset(-5, circular_segments=32).offset(5, circular_segments=32)
    wall = CrossSection([[(-36, 0), (36, 0), (36, 62), (16, 84), (-36, 84)]])
    wall = wall.offset(-6, circular_segments=32).offset(6, circular_segments=32)
    rib = CrossSection([[(-54, 2), (6, 2), (-44, 62), (-54, 62)]])
    small = CrossSection([[(-54, 2), (-22, 2), (-46, 36), (-54, 36)]])
    upright = wall.extrude(10).rotate((90, 0, 90)).translate((-56, 0, 0))
    solid = union(
        base.extrude(10),
        upright,
        rib.extrude(8).rotate((90, 0, 0)).translate((0, -24, 0)),
        small.extrude(8).rotate((90, 0, 0)).translate((0, 34, 0)),
        Manifold.cylinder(32, 14, 13, 48).translate((8, 10, 0)),
        Manifold.cylinder(18, 20, 20, 64, True).rotate((0, 90, 0)).translate((-52, 4, 52)),
    )
    slot = Manifold.batch_hull([Manifold.cylinder(30, 5, 5, 32, True).translate((38, y, 5)) for y in (-24, 2)])
    cuts = union(
        Manifold.cylinder(80, 7, 7, 32, True).translate((8, 10, 10)),
        Manifold.cylinder(80, 12, 12, 48, True).rotate((0, 90, 0)).translate((-50, 4, 52)),
        Manifold.cylinder(30, 5.5, 5.5, 32, True).translate((-30, 10, 5)),
        Manifold.cylinder(10, 9, 9, 32).translate((-30, 10, 6.5)),
        Manifold.cylinder(30, 4, 4, 32, True).translate((20, -26, 5)),
        Manifold.cylinder(40, 4, 4, 32, True).rotate((0, 90, 0)).translate((-50, -26, 72)),
        Manifold.cylinder(40, 4, 4, 32, True).rotate((0, 90, 0)).translate((-50, 26, 22)),
        slot,
    )
    return shape_of(coloured(solid - cuts, GREY), 8)


# ---------------------------------------------------------------- vertices, normals, files


def indexed(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Shared vertices with smooth normals, split at creases and at seams of colour or texture.

    Returns:
        vertices, (V, 6 + A): position, unit normal, attributes; faces, (F, 3). Origin at the box centre.
    """
    corners = shape.corners - (shape.corners.min((0, 1)) + shape.corners.max((0, 1))) / 2
    corners = np.round(corners, 4) + 0.0
    _, index = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    index = index.reshape(-1, 3)
    keep = (index[:, 0] != index[:, 1]) & (index[:, 1] != index[:, 2]) & (index[:, 2] != index[:, 0])
    corners, index = corners[keep], index[keep]
    attributes = shape.uv[keep] if shape.uv is not None else np.round(shape.colors[keep])  # type: ignore[index]

    edges = np.roll(corners, -1, 1) - corners
    area_normal = np.cross(edges[:, 0], -edges[:, 2])
    unit = area_normal / np.maximum(np.linalg.norm(area_normal, axis=1, keepdims=True), 1e-12)
    along = edges / np.maximum(np.linalg.norm(edges, axis=2, keepdims=True), 1e-12)
    angle = np.arccos(np.clip(-(along * np.roll(along, 1, 1)).sum(-1), -1, 1))  # (F, 3), weights of the corners

    normals = np.empty_like(corners)
    flat_face, flat_angle = np.repeat(np.arange(len(index)), 3), angle.reshape(-1)
    order = np.argsort(index.reshape(-1), kind="stable")
    starts = np.flatnonzero(np.diff(index.reshape(-1)[order], prepend=-1))
    for group in np.split(order, starts[1:]):  # the corners that meet at one point
        faces = flat_face[group]
        near = unit[faces] @ unit[faces].T > np.cos(np.deg2rad(CREASE_DEG))
        mean = (near * flat_angle[group]) @ unit[faces]
        normals.reshape(-1, 3)[group] = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)

    rows = np.concatenate([corners, np.round(normals, 4) + 0.0, attributes], -1).reshape(len(index) * 3, -1)
    vertices, faces = np.unique(rows, axis=0, return_inverse=True)
    return vertices, faces.reshape(-1, 3)


def write_ply(path: Path, vertices: np.ndarray, faces: np.ndarray, texture: str | None) -> None:
    """Binary little-endian PLY with normals and colours, or texture coordinates and the name of the picture."""
    names = ["x", "y", "z", "nx", "ny", "nz"] + (["texture_u", "texture_v"] if texture else ["red", "green", "blue"])
    kinds = ["f4"] * 6 + (["f4"] * 2 if texture else ["u1"] * 3)
    table = np.empty(len(vertices), [(n, "<" + k) for n, k in zip(names, kinds, strict=True)])
    for k, name in enumerate(names):
        table[name] = vertices[:, k]
    triangles = np.empty(len(faces), [("n", "u1"), ("v", "<i4", 3)])
    triangles["n"], triangles["v"] = 3, faces
    words = {"f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", "comment millimetres, Z up, made by tools/make_demo_objects.py"]
    header += [f"comment TextureFile {texture}"] if texture else []
    header += [f"element vertex {len(vertices)}"] + [f"property {words[k]} {n}" for n, k in zip(names, kinds, strict=True)]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode() + table.tobytes() + triangles.tobytes())


def turn_z(degrees: float) -> list[float]:
    """A rotation about Z as the 16 numbers of a row-major 4x4 matrix."""
    c, s = round(np.cos(np.deg2rad(degrees))), round(np.sin(np.deg2rad(degrees)))
    return [float(v) for v in (c, -s, 0, 0, s, c, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1)]


OBJECTS: dict[str, tuple[Callable[[], Shape], dict]] = {
    "biscuit_box": (biscuit_box, {}),
    "toy_train": (toy_train, {}),
    "cross_knob": (cross_knob, {"symmetries_discrete": [turn_z(90 * k) for k in (1, 2, 3)]}),
    "ring_bottle": (ring_bottle, {"symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}),
    "bracket": (bracket, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src/monopose/assets/demo/objects")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    infos, names = {}, {}
    for number, (name, (make, symmetries)) in enumerate(OBJECTS.items(), 1):
        shape = make()
        vertices, faces = indexed(shape)
        texture = f"obj_{number:06d}.png" if shape.texture else None
        if shape.texture and texture:
            shape.texture.quantize(128, dither=Image.Dither.NONE).save(out / texture, optimize=True)
        path = out / f"obj_{number:06d}.ply"
        temporary = path.with_suffix(".tmp")
        write_ply(temporary, vertices, faces, texture)
        os.replace(temporary, path)
        points = vertices[:, :3]
        low, high = points.min(0), points.max(0)
        info = {"diameter": float(pdist(points[ConvexHull(points).vertices]).max())}
        info |= {f"min_{a}": float(v) for a, v in zip("xyz", low, strict=True)}
        info |= {f"size_{a}": float(v) for a, v in zip("xyz", high - low, strict=True)}
        infos[str(number)] = {k: round(v, 4) for k, v in info.items()} | symmetries
        names[str(number)] = name
        _, points_of = np.unique(points, axis=0, return_inverse=True)
        edges = np.sort(points_of.reshape(-1)[faces][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
        closed = bool((np.unique(edges, axis=0, return_counts=True)[1] == 2).all())
        size, kilobytes = " x ".join(f"{v:.0f}" for v in high - low), path.stat().st_size // 1000
        print(f"{number} {name}: {len(vertices)} vertices, {len(faces)} faces, {size} mm, closed {closed}, {kilobytes} kB")
    (out / "models_info.json").write_text(json.dumps(infos, indent=1) + "\n")
    (out / "names.json").write_text(json.dumps(names, indent=1) + "\n")


if __name__ == "__main__":
    main()
