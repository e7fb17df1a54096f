"""Path-trace the demo photos of monopose with Blender's Cycles: a small BOP split with true poses.

Blender lives in an environment of its own (its wheel fits Python 3.11 and needs libX11, libXrender, libXxf86vm, libXfixes,
libXi, libxkbcommon, libSM, libGL):

    python3.11 -m venv bpyenv && bpyenv/bin/pip install bpy numpy scipy pillow
    bpyenv/bin/python tools/render_demo_photos.py --out src/monopose/assets/demo/photos

About 30 CPU-seconds a picture at 24 samples. The scenes depend on `--seed` alone; pixels may differ a little between Blender
versions. Objects rest on the table (or on the lying box) on a stable side of their convex hull; masks and visibility come
from one ray per pixel through Blender's own BVH, independent of monopose's renderer.

Written: camera.json, test/000001/{rgb/*.jpg, scene_camera.json, scene_gt.json, scene_gt_info.json}, test_targets_bop19.json.
Poses are BOP's: OpenCV camera, millimetres, pixel centres at integers. Boxes are x, y, width, height as bop_toolkit writes
them here: width = last - first column.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix, Vector
from mathutils.bvhtree import BVHTree
from PIL import Image
from scipy.spatial import ConvexHull

WIDTH, HEIGHT = 640, 480
FOCAL, CX, CY = 600.0, 316.5, 243.0  # pixels
SUN, SKY, LAMP = (1.0, 0.95, 0.88), (0.85, 0.92, 1.0), (1.0, 0.82, 0.62)

# One line per picture: surface, environment, view transform, the axis of each object 1-5 that points up (about: the nearest
# stable side is taken), the number of the object that stands on the lying box
SCENES = [
    ("wood", "sky", "Standard", ("z", "z", "z", "z", "z"), None),
    ("cloth", "studio", "AgX", ("z", "z", "z", "z", "z"), None),
    ("checker", "room", "Standard", ("z", "z", "z", "z", "z"), None),
    ("concrete", "sky", "AgX", ("z", "z", "z", "z", "z"), None),
    ("tiles", "room", "Standard", ("z", "z", "z", "z", "z"), None),
    ("wood", "studio", "AgX", ("z", "z", "z", "z", "z"), None),
]


class Model(NamedTuple):
    """A mesh of the demo objects.

    Args:
        vertices: (V, 3), metres.  normals: (V, 3).  faces: (F, 3).
        colors: (V, 3), sRGB in [0, 1], or None.  uv: (V, 2) or None.  texture: path or None.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None
    uv: np.ndarray | None
    texture: Path | None


def read_ply(path: Path) -> Model:
    """Read the binary PLY that make_demo_objects.py writes."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    kinds = {"float": "<f4", "uchar": "u1"}
    columns = [
        (line.split()[2], kinds[line.split()[1]]) for line in lines if line.startswith("property") and "list" not in line
    ]
    table = np.frombuffer(body, columns, counts["vertex"])
    triangles = np.frombuffer(body, [("n", "u1"), ("v", "<i4", 3)], counts["face"], table.nbytes)

    def pick(*names: str) -> np.ndarray | None:
        return np.stack([table[n] for n in names], -1).astype(np.float64) if names[0] in (table.dtype.names or ()) else None

    colors = pick("red", "green", "blue")
    picture = [line.split()[-1] for line in lines if "TextureFile" in line]
    return Model(
        pick("x", "y", "z") / 1000,  # type: ignore[operator]
        pick("nx", "ny", "nz"),  # type: ignore[arg-type]
        triangles["v"].astype(np.int64),
        colors / 255 if colors is not None else None,
        pick("texture_u", "texture_v"),
        path.parent / picture[0] if picture else None,
    )


# ---------------------------------------------------------------- arrangement


def stable_rotation(points: np.ndarray, up: str) -> np.ndarray:
    """world_from_obj rotation (3, 3) that rests points (N, 3) on a side of their convex hull, axis `up` about upwards.

    A side is stable if the centroid of the hull lies over it.
    """
    hull = ConvexHull(points)
    triangles = points[hull.simplices]
    centre = points[hull.vertices].mean(0)
    volumes = np.abs(np.linalg.det(triangles - centre)) / 6
    centroid = ((triangles.sum(1) + centre) / 4 * volumes[:, None]).sum(0) / volumes.sum()
    wanted = np.eye(3)["xyz".index(up[-1])] * (-1 if up[0] == "-" else 1)
    for k in np.argsort(hull.equations[:, :3] @ wanted):  # from the normal that points down most
        normal = hull.equations[k, :3]
        right = np.cross(normal, [1.0, 0, 0] if abs(normal[0]) < 0.9 else [0, 1.0, 0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(-normal, right), -normal])  # the side's normal goes to -Z
        side = hull.simplices[hull.equations[:, :3] @ normal > math.cos(math.radians(0.5))]
        outline = ConvexHull(points[np.unique(side)] @ rotation[:2].T)
        if (outline.equations @ np.append(rotation[:2] @ centroid, 1.0) < -0.0002).all():
            return rotation
    raise ValueError("no side of this object is stable; is the mesh empty or flat?")


def lying(points: np.ndarray, rotation: np.ndarray, yaw: float) -> np.ndarray:
    """world_from_obj of points (N, 3) turned by rotation, then by yaw about the vertical, lowest point at height 0."""
    c, s = math.cos(yaw), math.sin(yaw)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ rotation
    pose[2, 3] = -(points @ pose[2, :3]).min()
    return pose


def footprint(points: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (N, 2) and outward side normals (M, 2) of what posed points cover on the table."""
    flat = (points @ pose[:3, :3].T + pose[:3, 3])[:, :2]
    outline = ConvexHull(flat)
    return flat[outline.vertices], outline.equations[:, :2]


def apart(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], gap: float) -> bool:
    """Whether a side of one of two footprints separates them by gap, metres."""
    for (points, normals), (others, _) in ((a, b), (b, a)):
        if ((others @ normals.T).min(0) - (points @ normals.T).max(0)).max() > gap:
            return True
    return False


def arrange(
    hulls: list[np.ndarray], rotations: list[np.ndarray], on_box: int | None, generator: np.random.Generator
) -> list[np.ndarray]:
    """Random world_from_obj poses of hull points on the table z = 0, apart from each other; object on_box on the box."""
    poses: list[np.ndarray] = []
    prints: list[tuple[np.ndarray, np.ndarray]] = []
    for number, (points, rotation) in enumerate(zip(hulls, rotations, strict=True), 1):
        for attempt in range(2000):
            pose = lying(points, rotation, generator.uniform(0, 2 * math.pi))
            spread = 0.06 + 0.10 * min(1.0, attempt / 60)
            pose[:2, 3] = generator.uniform(-spread, spread, 2)
            if number == on_box:
                pose[:2, 3] = poses[0][:2, 3] + generator.uniform(-0.012, 0.012, 2)
                pose[2, 3] += (hulls[0] @ poses[0][2, :3] + poses[0][2, 3]).max()
            covers = footprint(points, pose)
            if all(apart(covers, other, 0.004) for other in (prints[1:] if number == on_box else prints)):
                poses.append(pose)
                prints.append(covers)
                break
        else:
            raise RuntimeError(f"found no free place for object {number}; try another --seed")
    return poses


def look_at(generator: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """A random world_from_cam (OpenCV axes) that looks about at centre from 0.5-0.72 m."""
    distance, height = generator.uniform(0.5, 0.72), math.radians(generator.uniform(24, 58))
    azimuth, roll = generator.uniform(0, 2 * math.pi), math.radians(generator.uniform(-6, 6))
    away = np.array([math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height)])
    forward = -away
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = math.cos(roll), math.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], 1)
    pose[:3, 3] = centre + away * distance + generator.uniform(-0.02, 0.02, 3)
    return pose


# ---------------------------------------------------------------- truth by rays


def masks(models: list[Model], poses: list[np.ndarray], world_from_cam: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Full and visible masks, both (N, HEIGHT / step, WIDTH / step) bool, from one ray through each pixel centre."""
    origin = Vector(world_from_cam[:3, 3])
    v, u = np.mgrid[0:HEIGHT:step, 0:WIDTH:step]
    rays = np.stack([(u - CX) / FOCAL, (v - CY) / FOCAL, np.ones(u.shape)], -1)
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    directions = (rays @ world_from_cam[:3, :3].T).reshape(-1, 3)
    depth = np.full((len(models), len(directions)), np.inf)
    cam_from_world = np.linalg.inv(world_from_cam)
    for k, (model, pose) in enumerate(zip(models, poses, strict=True)):
        points = model.vertices @ pose[:3, :3].T + pose[:3, 3]
        tree = BVHTree.FromPolygons(points.tolist(), model.faces.tolist(), all_triangles=True)
        pixels = project(points, cam_from_world) / step
        low, high = np.floor(pixels.min(0)) - 1, np.ceil(pixels.max(0)) + 1
        near = ((u / step >= low[0]) & (u / step <= high[0]) & (v / step >= low[1]) & (v / step <= high[1])).reshape(-1)
        for i in np.flatnonzero(near):
            hit = tree.ray_cast(origin, Vector(directions[i]))
            if hit[3] is not None:
                depth[k, i] = hit[3]
    full = np.isfinite(depth)
    visible = full & (np.arange(len(models))[:, None] == depth.argmin(0))
    return full.reshape(-1, *u.shape), visible.reshape(-1, *u.shape)


def project(points: np.ndarray, cam_from_world: np.ndarray) -> np.ndarray:
    """Pixels (N, 2) of world points (N, 3)."""
    p = points @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    return p[:, :2] / p[:, 2:] * FOCAL + [CX, CY]


def box(mask: np.ndarray) -> list[int]:
    """x, y, width, height of the true pixels, -1 where there are none; like BOP's, width is last minus first column."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [-1, -1, -1, -1]
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]), int(rows[-1] - rows[0])]


# ---------------------------------------------------------------- Blender


def material(name: str) -> tuple[bpy.types.Material, bpy.types.Node]:
    """A new material and its Principled shader node."""
    result = bpy.data.materials.new(name)
    result.use_nodes = True
    return result, result.node_tree.nodes["Principled BSDF"]


def add_object(model: Model, pose: np.ndarray, roughness: float, metallic: float) -> None:
    """Put a model into the scene with its colours or texture."""
    mesh = bpy.data.meshes.new("model")
    mesh.from_pydata(model.vertices.tolist(), [], model.faces.tolist())
    mesh.shade_smooth()
    mesh.normals_split_custom_set_from_vertices(model.normals.tolist())
    surface, shader = material("model")
    links, nodes = surface.node_tree.links, surface.node_tree.nodes
    if model.uv is not None and model.texture is not None:
        layer = mesh.uv_layers.new(name="uv")
        layer.data.foreach_set("uv", model.uv[model.faces.reshape(-1)].reshape(-1).astype(np.float32))
        source = nodes.new("ShaderNodeTexImage")
        source.image = bpy.data.images.load(str(model.texture.resolve()))
    else:
        attribute = mesh.color_attributes.new("colour", "BYTE_COLOR", "POINT")
        rgba = np.concatenate([model.colors, np.ones((len(model.vertices), 1))], 1)  # type: ignore[list-item]
        attribute.data.foreach_set("color_srgb", rgba.reshape(-1).astype(np.float32))
        source = nodes.new("ShaderNodeVertexColor")
        source.layer_name = "colour"
    links.new(source.outputs["Color"], shader.inputs["Base Color"])
    shader.inputs["Roughness"].default_value = roughness
    shader.inputs["Metallic"].default_value = metallic
    mesh.materials.append(surface)
    item = bpy.data.objects.new("model", mesh)
    item.matrix_world = Matrix(pose.tolist())
    bpy.context.collection.objects.link(item)


def add_table(kind: str, generator: np.random.Generator) -> None:
    """A large table top at z = 0 with a procedural material."""
    bpy.ops.mesh.primitive_plane_add(size=3.0, location=(0, 0, 0), rotation=(0, 0, generator.uniform(0, math.pi)))
    surface, shader = material(kind)
    bpy.context.object.data.materials.append(surface)
    tree = surface.node_tree
    nodes, links = tree.nodes, tree.links
    place = nodes.new("ShaderNodeTexCoord").outputs["Object"]
    ramp = nodes.new("ShaderNodeValToRGB")
    bump = nodes.new("ShaderNodeBump")

    def colours(*stops: tuple[float, tuple[float, float, float]]) -> None:
        while len(ramp.color_ramp.elements) < len(stops):
            ramp.color_ramp.elements.new(0.5)
        for element, (at, rgb) in zip(ramp.color_ramp.elements, stops, strict=True):
            element.position, element.color = at, (*rgb, 1)

    def texture(node: str, **values: float) -> bpy.types.Node:
        result = nodes.new(node)
        links.new(place, result.inputs["Vector"])
        for key, value in values.items():
            result.inputs[key.replace("_", " ")].default_value = value
        return result

    height = None
    if kind == "wood":
        stretch = nodes.new("ShaderNodeMapping")
        stretch.inputs["Scale"].default_value = (1.0, 0.12, 1.0)
        links.new(place, stretch.inputs["Vector"])
        place = stretch.outputs["Vector"]
        grain = texture("ShaderNodeTexNoise", Scale=55.0, Detail=6.0, Distortion=1.6)
        height = grain.outputs[0]
        dark = generator.uniform(0.5, 1.0)
        colours((0.3, (0.17 * dark, 0.075 * dark, 0.03 * dark)), (0.7, (0.48 * dark, 0.27 * dark, 0.12 * dark)))
        links.new(grain.outputs[0], ramp.inputs["Fac"])
        shader.inputs["Roughness"].default_value = 0.35
        bump.inputs["Strength"].default_value = 0.05
    elif kind == "cloth":
        weave = texture("ShaderNodeTexChecker", Scale=700.0)
        spots = texture("ShaderNodeTexNoise", Scale=14.0, Detail=3.0)
        height = weave.outputs["Fac"]
        colours((0.35, (0.10, 0.16, 0.24)), (0.65, (0.19, 0.27, 0.36)))
        links.new(spots.outputs[0], ramp.inputs["Fac"])
        shader.inputs["Roughness"].default_value = 0.95
        bump.inputs["Strength"].default_value = 0.4
    elif kind == "checker":
        checker = texture("ShaderNodeTexChecker", Scale=22.0)
        height = checker.outputs["Fac"]
        colours((0.2, (0.62, 0.58, 0.50)), (0.8, (0.32, 0.06, 0.06)))
        links.new(checker.outputs["Fac"], ramp.inputs["Fac"])
        shader.inputs["Roughness"].default_value = 0.6
        bump.inputs["Strength"].default_value = 0.0
    elif kind == "concrete":
        noise = texture("ShaderNodeTexNoise", Scale=30.0, Detail=12.0, Roughness=0.7)
        height = noise.outputs[0]
        colours((0.3, (0.20, 0.20, 0.19)), (0.7, (0.46, 0.45, 0.43)))
        links.new(noise.outputs[0], ramp.inputs["Fac"])
        shader.inputs["Roughness"].default_value = 0.85
        bump.inputs["Strength"].default_value = 0.3
    elif kind == "tiles":
        bricks = texture("ShaderNodeTexBrick", Scale=9.0, Mortar_Size=0.012)
        height = bricks.outputs["Fac"]
        bricks.inputs["Color1"].default_value = (0.50, 0.56, 0.50, 1)
        bricks.inputs["Color2"].default_value = (0.30, 0.44, 0.46, 1)
        bricks.inputs["Mortar"].default_value = (0.12, 0.12, 0.12, 1)
        links.new(bricks.outputs["Color"], shader.inputs["Base Color"])
        shader.inputs["Roughness"].default_value = 0.22
        bump.inputs["Strength"].default_value = 0.2
    else:
        raise ValueError(f"unknown surface {kind!r}")
    if kind != "tiles":
        links.new(ramp.outputs["Color"], shader.inputs["Base Color"])
    bump.inputs["Distance"].default_value = 0.001
    links.new(height, bump.inputs["Height"])
    links.new(bump.outputs["Normal"], shader.inputs["Normal"])


def add_light(kind: str, generator: np.random.Generator) -> None:
    """Environment and area lamps."""
    world = bpy.context.scene.world = bpy.data.worlds.new("world")
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    background = nodes["Background"]
    coordinates = nodes.new("ShaderNodeTexCoord").outputs["Generated"]
    if kind == "room":
        noise = nodes.new("ShaderNodeTexVoronoi")  # blotches of colour as of furniture and windows
        noise.inputs["Scale"].default_value = 3.0
        bright = nodes.new("ShaderNodeHueSaturation")
        bright.inputs["Saturation"].default_value = 0.45
        links.new(coordinates, noise.inputs["Vector"])
        links.new(noise.outputs["Color"], bright.inputs["Color"])
        links.new(bright.outputs["Color"], background.inputs["Color"])
        background.inputs["Strength"].default_value = 0.7
    else:
        split = nodes.new("ShaderNodeSeparateXYZ")
        ramp = nodes.new("ShaderNodeValToRGB")
        low, high = ((0.30, 0.28, 0.25), (0.62, 0.76, 1.0)) if kind == "sky" else ((0.16, 0.15, 0.15), (0.75, 0.72, 0.70))
        ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[0].color = 0.0, (*low, 1)
        ramp.color_ramp.elements[1].position, ramp.color_ramp.elements[1].color = 0.6, (*high, 1)
        links.new(coordinates, split.inputs[0])
        links.new(split.outputs["Z"], ramp.inputs["Fac"])
        links.new(ramp.outputs["Color"], background.inputs["Color"])
        background.inputs["Strength"].default_value = 0.6
    tint = {"sky": SUN, "studio": SKY, "room": LAMP}[kind]
    count = {"sky": 1, "studio": 3, "room": 2}[kind]
    for _ in range(count):
        azimuth, height = generator.uniform(0, 2 * math.pi), math.radians(generator.uniform(35, 75))
        where = np.array([math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height)]) * 1.6
        lamp = bpy.data.lights.new("lamp", "AREA")
        lamp.size = float(generator.uniform(0.15, 0.4) if kind == "sky" else generator.uniform(0.4, 0.9))
        lamp.energy, lamp.color = 42.0 / count, tint
        item = bpy.data.objects.new("lamp", lamp)
        item.location = where.tolist()
        item.rotation_euler = Vector(where).to_track_quat("Z", "Y").to_euler()
        bpy.context.collection.objects.link(item)


def add_clutter(poses: list[np.ndarray], world_from_cam: np.ndarray, generator: np.random.Generator) -> None:
    """Up to three things that are none of the objects, behind them as seen from the camera."""
    behind = world_from_cam[:2, 2] / np.linalg.norm(world_from_cam[:2, 2])
    side = np.array([-behind[1], behind[0]])
    reach = max(float(pose[:2, 3] @ behind) for pose in poses) + 0.20
    for k in range(int(generator.integers(1, 4))):
        x, y = behind * (reach + 0.10 * k) + side * generator.uniform(-0.3, 0.3)
        size = float(generator.uniform(0.03, 0.055))
        choice = int(generator.integers(3))
        if choice == 0:
            bpy.ops.mesh.primitive_uv_sphere_add(radius=size, segments=48, ring_count=24, location=(x, y, size))
        elif choice == 1:
            bpy.ops.mesh.primitive_cylinder_add(radius=size, depth=2.4 * size, vertices=64, location=(x, y, 1.2 * size))
        else:
            bpy.ops.mesh.primitive_torus_add(major_radius=size, minor_radius=size * 0.4, location=(x, y, size * 0.4))
        bpy.ops.object.shade_auto_smooth()
        surface, shader = material("clutter")
        shader.inputs["Base Color"].default_value = (*generator.uniform(0.05, 0.6, 3).tolist(), 1)
        shader.inputs["Roughness"].default_value = float(generator.uniform(0.2, 0.8))
        bpy.context.object.data.materials.append(surface)


def add_camera(world_from_cam: np.ndarray, focus: float, f_stop: float) -> None:
    """The pinhole of the constants above with a slight depth of field."""
    camera = bpy.data.cameras.new("camera")
    camera.sensor_fit, camera.sensor_width = "HORIZONTAL", 36.0
    camera.lens = FOCAL * camera.sensor_width / WIDTH
    camera.shift_x = ((WIDTH - 1) / 2 - CX) / WIDTH
    camera.shift_y = (CY - (HEIGHT - 1) / 2) / WIDTH
    camera.clip_start, camera.clip_end = 0.01, 20.0
    camera.dof.use_dof, camera.dof.focus_distance, camera.dof.aperture_fstop = True, focus, f_stop
    item = bpy.data.objects.new("camera", camera)
    item.matrix_world = Matrix((world_from_cam @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist())  # Blender looks along -Z, Y up
    bpy.context.collection.objects.link(item)
    bpy.context.scene.camera = item


def render(samples: int, threads: int, view: str, seed: int) -> np.ndarray:
    """Path-trace the scene; returns (HEIGHT, WIDTH, 3) uint8 sRGB."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.seed = "CPU", samples, seed
    scene.cycles.use_denoising = True
    scene.cycles.max_bounces = 5
    scene.render.threads_mode, scene.render.threads = "FIXED", threads
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = WIDTH, HEIGHT, 100
    scene.view_settings.view_transform = view
    if view == "AgX":
        scene.view_settings.look = "AgX - Medium High Contrast"
    scene.render.image_settings.file_format = "PNG"
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "picture.png")
        bpy.ops.render.render(write_still=True)
        with Image.open(scene.render.filepath) as picture:
            return np.asarray(picture.convert("RGB"))


def compose(models: list[Model], scene: int, seed: int) -> tuple[list[np.ndarray], np.ndarray, np.random.Generator]:
    """Draw arrangements and cameras until all objects are in the picture and none is hidden by more than 45 %.

    Returns:
        world_from_obj per object, world_from_cam, the generator for everything else in the picture.
    """
    _, _, _, ups, on_box = SCENES[scene]
    generator = np.random.default_rng([seed, scene])
    hulls = [model.vertices[ConvexHull(model.vertices).vertices] for model in models]
    rotations = [stable_rotation(points, up) for points, up in zip(hulls, ups, strict=True)]
    for _ in range(200):
        poses = arrange(hulls, rotations, on_box, generator)
        points = [hull @ p[:3, :3].T + p[:3, 3] for hull, p in zip(hulls, poses, strict=True)]
        for _ in range(10):
            world_from_cam = look_at(generator, np.concatenate(points).mean(0))
            pixels = np.concatenate([project(p, np.linalg.inv(world_from_cam)) for p in points])
            if pixels.min() < 6 or (pixels > [WIDTH - 7, HEIGHT - 7]).any():
                continue
            full, visible = masks(models, poses, world_from_cam, 8)
            share = visible.sum((1, 2)) / full.sum((1, 2))
            if share.min() > 0.55 and (share.min() < 0.92 or scene % 3 == 0):
                return poses, world_from_cam, generator
    raise RuntimeError(f"no arrangement for picture {scene} shows all objects; try another --seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    assets = Path(__file__).parents[1] / "src/monopose/assets/demo"
    parser.add_argument("--models", type=Path, default=assets / "objects", help="folder of obj_00000N.ply")
    parser.add_argument("--out", type=Path, default=assets / "photos")
    parser.add_argument("--samples", type=int, default=24, help="paths per pixel before denoising")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the pictures to render; the truth is written for all")
    args = parser.parse_args(sys.argv[1:])

    models = [read_ply(path) for path in sorted(args.models.glob("obj_*.ply"))]
    folder = args.out / "test" / "000001"
    (folder / "rgb").mkdir(parents=True, exist_ok=True)
    cameras, truths, infos, targets = {}, {}, {}, []
    for k, (surface, environment, view, _, _) in enumerate(SCENES):
        poses, world_from_cam, generator = compose(models, k, args.seed)
        cam_from_world = np.linalg.inv(world_from_cam)
        if args.only is None or k in args.only:
            bpy.ops.wm.read_factory_settings(use_empty=True)
            for number, (model, pose) in enumerate(zip(models, poses, strict=True), 1):
                add_object(model, pose, float(generator.uniform(0.28, 0.6)), 0.25 if number == 5 else 0.0)
            add_table(surface, generator)
            add_light(environment, generator)
            add_clutter(poses, world_from_cam, generator)
            depth = np.mean([(cam_from_world @ pose)[2, 3] for pose in poses])
            add_camera(world_from_cam, float(depth), float(generator.uniform(8, 14)))
            picture = render(args.samples, args.threads, view, k)
            noisy = picture + generator.normal(0, 1.6, picture.shape)  # a little sensor noise
            image = Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
            image.save(folder / "rgb" / f"{k:06d}.jpg", quality=90)
        full, visible = masks(models, poses, world_from_cam, 1)
        cameras[str(k)] = {"cam_K": [FOCAL, 0.0, CX, 0.0, FOCAL, CY, 0.0, 0.0, 1.0], "depth_scale": 1.0}
        truths[str(k)], infos[str(k)] = [], []
        for number, pose in enumerate(poses, 1):
            m = cam_from_world @ pose
            entry = {"cam_R_m2c": m[:3, :3].reshape(-1).tolist(), "cam_t_m2c": (m[:3, 3] * 1000).tolist(), "obj_id": number}
            truths[str(k)].append(entry)
            everything, seen = int(full[number - 1].sum()), int(visible[number - 1].sum())
            infos[str(k)].append(
                {
                    "bbox_obj": box(full[number - 1]),
                    "bbox_visib": box(visible[number - 1]),
                    "px_count_all": everything,
                    "px_count_valid": everything,
                    "px_count_visib": seen,
                    "visib_fract": round(seen / everything, 6),
                }
            )
            targets.append({"im_id": k, "inst_count": 1, "obj_id": number, "scene_id": 1})
        print(f"picture {k}: {surface}, {environment}, visible {[i['visib_fract'] for i in infos[str(k)]]}", flush=True)
    camera = {"cx": CX, "cy": CY, "depth_scale": 1.0, "fx": FOCAL, "fy": FOCAL, "height": HEIGHT, "width": WIDTH}
    for path, content in (
        (args.out / "camera.json", camera),
        (args.out / "test_targets_bop19.json", targets),
        (folder / "scene_camera.json", cameras),
        (folder / "scene_gt.json", truths),
        (folder / "scene_gt_info.json", infos),
    ):
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
