"""Path-traced pictures of scenes by Blender's Cycles, where it is there (pip install 'monopose[blender]'): by a renderer that
training has no part in, with soft shadows, reflections and light from all around."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from ..types import Camera, Frame, ObjectModel
from . import augment, bop_folder
from . import scene as synth

SAMPLES = 16  # paths per pixel, before denoising
SENSOR = 36.0  # millimetres, wherever the focal length is counted in them


def is_there() -> bool:
    """Whether Blender can be imported."""
    return importlib.util.find_spec("bpy") is not None


class PathTraced(bop_folder.Frames):
    """`bop_folder.Frames` of the same seed with the same objects at the same places, in other light."""

    def __getitem__(self, n: int) -> tuple[Frame, Tensor]:
        frame, masks = super().__getitem__(n)
        number = self.numbers[n]
        layout = synth.random_layout(
            list(self.source.models.values()), frame.camera, self.source.scene, np.random.default_rng((self.seed, number, 2))
        )
        rng = np.random.default_rng((self.seed, number, 8))
        background = synth.background(self.source.photos, frame.camera.size, rng)
        picture = augment.noise(render(layout, frame.camera, background, rng), rng, 1.0)
        return replace(frame, image=torch.from_numpy(picture).permute(2, 0, 1).float() / 255), masks


def render(layout: synth.Layout, camera: Camera, background: np.ndarray, rng: Generator) -> np.ndarray:
    """A picture of a scene, (H, W, 3), uint8 sRGB.

    Args:
        layout: objects and poses, metres. Those without colours get one at random.
        camera: of the picture, undistorted.
        background: (H, W, 3), uint8: what is seen beside the objects.
        rng: source of randomness: light, materials.
    """
    import bpy

    with _silent():
        bpy.ops.wm.read_factory_settings(use_empty=True)
    for model, pose in zip(layout.models, layout.cam_from_obj.double().numpy(), strict=True):
        _add_object(model, pose, rng)
    _add_lights(float(layout.cam_from_obj[:, 2, 3].median()), rng)
    _add_camera(camera)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.seed = "CPU", SAMPLES, int(rng.integers(2**31))
    scene.cycles.use_denoising, scene.cycles.max_bounces = True, 4
    scene.render.threads_mode, scene.render.threads = "FIXED", torch.get_num_threads()
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard" if rng.random() < 0.5 else "AgX"
    scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
    height, width = camera.size
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    stretch = float(camera.K[1, 1] / camera.K[0, 0])
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = max(stretch, 1.0), max(1 / stretch, 1.0)  # neither below 1
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "picture.png")
        with _silent():
            bpy.ops.render.render(write_still=True)
        with Image.open(scene.render.filepath) as picture:
            drawn = np.asarray(picture.convert("RGBA")).astype(np.float32)
    alpha = drawn[..., 3:] / 255
    return np.rint(drawn[..., :3] * alpha + background * (1 - alpha)).astype(np.uint8)  # type: ignore[no-any-return]


def _add_object(model: ObjectModel, pose: np.ndarray, rng: Generator) -> None:
    import bpy
    from mathutils import Matrix

    mesh = bpy.data.meshes.new("object")
    mesh.from_pydata(model.vertices.tolist(), [], model.faces.tolist())
    mesh.shade_smooth()
    mesh.normals_split_custom_set_from_vertices(model.normals.tolist())
    surface = bpy.data.materials.new("surface")
    surface.use_nodes = True
    nodes, links = surface.node_tree.nodes, surface.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = float(rng.uniform(0.3, 0.8))
    if model.uv is not None and model.texture is not None:
        corners = model.uv[model.faces.reshape(-1)].reshape(-1).numpy().astype(np.float32)
        mesh.uv_layers.new(name="uv").data.foreach_set("uv", corners)
        texture = model.texture.flip(1).permute(1, 2, 0).numpy()  # from the lowest row up
        image = bpy.data.images.new("texture", texture.shape[1], texture.shape[0])
        image.pixels.foreach_set(np.concatenate([texture, np.ones_like(texture[..., :1])], -1).astype(np.float32).ravel())
        source = nodes.new("ShaderNodeTexImage")
        source.image = image
        links.new(source.outputs["Color"], shader.inputs["Base Color"])
    elif model.colors is not None:
        rgba = np.concatenate([model.colors.numpy(), np.ones((len(model.colors), 1))], 1).astype(np.float32)
        mesh.color_attributes.new("colour", "BYTE_COLOR", "POINT").data.foreach_set("color_srgb", rgba.ravel())
        source = nodes.new("ShaderNodeVertexColor")
        source.layer_name = "colour"
        links.new(source.outputs["Color"], shader.inputs["Base Color"])
    else:
        grey = rng.uniform(0.1, 0.7) * rng.uniform(0.8, 1.2, 3)
        shader.inputs["Base Color"].default_value = (*grey.clip(0, 1).tolist(), 1.0)
        shader.inputs["Metallic"].default_value = float(rng.uniform(0, 0.8)) if rng.random() < 0.3 else 0.0
    mesh.materials.append(surface)
    item = bpy.data.objects.new("object", mesh)
    item.matrix_world = Matrix(pose.tolist())
    bpy.context.collection.objects.link(item)


def _add_lights(distance: float, rng: Generator) -> None:
    """Light from all around, and lamps on the camera's side or above."""
    import bpy
    from mathutils import Vector

    world = bpy.context.scene.world = bpy.data.worlds.new("world")
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    background = nodes["Background"]
    split, ramp = nodes.new("ShaderNodeSeparateXYZ"), nodes.new("ShaderNodeValToRGB")  # bright above, dark below
    for element, low, high in zip(ramp.color_ramp.elements, (0.6, 0.05), (1.0, 0.3), strict=True):
        element.color = (*(rng.uniform(low, high) * rng.uniform(0.8, 1.0, 3)).tolist(), 1.0)
    links.new(nodes.new("ShaderNodeTexCoord").outputs["Generated"], split.inputs[0])
    links.new(split.outputs["Y"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], background.inputs["Color"])
    background.inputs["Strength"].default_value = float(rng.uniform(0.3, 0.9))
    for _ in range(int(rng.integers(1, 4))):
        away = rng.standard_normal(3)
        away[2] = -abs(away[2])  # OpenCV axes: -z is the camera's side, -y above
        away[1] -= 0.5
        away /= np.linalg.norm(away)
        lamp = bpy.data.lights.new("lamp", "AREA")
        lamp.size = distance * float(rng.uniform(0.1, 0.6))
        lamp.energy, lamp.color = distance**2 * float(rng.uniform(10, 40)), rng.uniform(0.8, 1.0, 3).tolist()
        item = bpy.data.objects.new("lamp", lamp)
        item.location = (np.array([0, 0, distance]) + away * distance).tolist()
        item.rotation_euler = Vector(away.tolist()).to_track_quat("Z", "Y").to_euler()
        bpy.context.collection.objects.link(item)


def _add_camera(camera: Camera) -> None:
    import bpy
    from mathutils import Matrix

    (height, width), K = camera.size, camera.K.double()
    found = bpy.data.cameras.new("camera")
    found.sensor_fit, found.sensor_width = "HORIZONTAL", SENSOR
    found.lens = float(K[0, 0]) * SENSOR / width
    found.shift_x = ((width - 1) / 2 - float(K[0, 2])) / width
    found.shift_y = (float(K[1, 2]) - (height - 1) / 2) / width * float(K[0, 0] / K[1, 1])
    found.clip_start, found.clip_end = 0.001, 1000.0
    item = bpy.data.objects.new("camera", found)
    item.matrix_world = Matrix(np.diag([1.0, -1.0, -1.0, 1.0]).tolist())  # Blender looks along -Z, Y up
    bpy.context.collection.objects.link(item)
    bpy.context.scene.camera = item


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Blender writes to the terminal past Python."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
