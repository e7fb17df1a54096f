"""Path-trace test pictures of one CAD model with Blender's Cycles: a BOP folder that monopose's renderer has no part in.

Blender lives in an environment of its own (its wheel fits Python 3.11, see render_demo_photos.py, on which this builds). It
reads BOP models folders, which monopose writes:

    python -c "from monopose.mesh.loading import load_mesh; from monopose.datasets.bop.writing import write_models; \\
               write_models('unseen/part/models', {1: load_mesh('part.stl', 'mm', obj_id=1)})"
    python tools/make_base_objects.py --others 30 --out others          # what stands around
    bpyenv/bin/python tools/render_with_bpy.py --out unseen/part --others others/models --pictures 24

Ten to thirty CPU-seconds a picture at 16 samples. In every picture the object lies in a random rotation on a floor (its lowest
point touches it), seen from 2.5 to 6 diameters, among three to six other things, which hide up to 40 % of it in every other
picture. The material of a model without colours is drawn once from `--seed`: it belongs to the object. Everything else is
drawn for each picture.

Written: camera.json, test/000001/{rgb/*.png, mask_visib/*.png, scene_camera.json, scene_gt.json, scene_gt_info.json},
test_targets_bop19.json. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import bpy
import numpy as np
import render_demo_photos as demo
from PIL import Image
from scipy.spatial.transform import Rotation

SURFACES = ("wood", "cloth", "checker", "concrete", "tiles")
LIGHTS = ("sky", "studio", "room")
VIEWS = ("Standard", "AgX")
HIDDEN = 0.4  # share of the object that others may hide


class Material(NamedTuple):
    """What an object without colours is made of."""

    rgb: tuple[float, float, float]
    roughness: float
    metallic: float


def random_material(generator: np.random.Generator) -> Material:
    grey = float(generator.uniform(0.25, 0.75))
    if generator.random() < 0.7:
        tint = generator.uniform(0.94, 1.06, 3)
        rgb = np.clip(grey * tint, 0, 1)
        return Material(
            (float(rgb[0]), float(rgb[1]), float(rgb[2])), float(generator.uniform(0.3, 0.6)), float(generator.uniform(0, 0.8))
        )
    rgb = generator.uniform(0.05, 0.9, 3)
    return Material((float(rgb[0]), float(rgb[1]), float(rgb[2])), float(generator.uniform(0.3, 0.7)), 0.0)


def coloured(model: demo.Model, material: Material) -> demo.Model:
    if model.colors is not None or model.texture is not None:
        return model
    return model._replace(colors=np.tile(np.array(material.rgb), (len(model.vertices), 1)))


def on_floor(model: demo.Model, generator: np.random.Generator, place: np.ndarray) -> np.ndarray:
    """A random rotation whose lowest point touches z = 0, world_from_obj (4, 4)."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=int(generator.integers(2**31))).as_matrix()
    turned = model.vertices @ pose[:3, :3].T
    pose[:2, 3] = place - (turned.min(0) + turned.max(0))[:2] / 2
    pose[2, 3] = -turned[:, 2].min()
    return pose


def camera_around(centre: np.ndarray, diameter: float, generator: np.random.Generator) -> np.ndarray:
    """world_from_cam (4, 4), OpenCV axes: looks past the centre from above, upright but for a roll of some degrees."""
    distance, height = diameter * generator.uniform(2.5, 6.0), math.radians(generator.uniform(15, 75))
    azimuth, roll = generator.uniform(0, 2 * math.pi), math.radians(generator.normal(0, 12))
    away = np.array([math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height)])
    right = np.cross(-away, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(-away, right)
    c, s = math.cos(roll), math.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([c * right + s * down, c * down - s * right, -away], 1)
    reach = 0.22 * distance  # the object is anywhere but at the border of the picture
    pose[:3, 3] = (
        centre + away * distance + pose[:3, :3] @ [generator.uniform(-reach, reach), generator.uniform(-reach, reach) * 0.7, 0]
    )
    return pose


def compose(
    model: demo.Model, diameter: float, others: list[demo.Model], generator: np.random.Generator
) -> tuple[list[demo.Model], list[np.ndarray], np.ndarray]:
    """Models (the object first), their world_from_obj poses, world_from_cam; drawn until enough is seen."""
    hidden = generator.random() < 0.5
    for attempt in range(400):
        chosen = [others[i] for i in generator.permutation(len(others))[: int(generator.integers(3, 7))]]
        scaled = []
        for other in chosen:
            size = diameter * generator.uniform(0.5, 1.2) / float(np.linalg.norm(np.ptp(other.vertices, axis=0)))
            scaled.append(other._replace(vertices=other.vertices * size))
        models, poses = [model, *scaled], [on_floor(model, generator, np.zeros(2))]
        reach, low = 1.3 * diameter, generator.uniform(0.35, 0.7) * diameter
        for other in scaled:
            a, r = generator.uniform(0, 2 * math.pi), generator.uniform(low, reach)
            poses.append(on_floor(other, generator, np.array([math.cos(a), math.sin(a)]) * r))
        centre = model.vertices.mean(0) @ poses[0][:3, :3].T + poses[0][:3, 3]
        world_from_cam = camera_around(centre, diameter, generator)
        pixels = demo.project(model.vertices @ poses[0][:3, :3].T + poses[0][:3, 3], np.linalg.inv(world_from_cam))
        if pixels.min() < 4 or (pixels > [demo.WIDTH - 5, demo.HEIGHT - 5]).any() or _overlap(models, poses):
            continue
        full, visible = demo.masks(models, poses, world_from_cam, 8)
        seen = visible[0].sum() / max(full[0].sum(), 1)
        if seen >= 1 - HIDDEN + 0.02 and (seen < 0.92 or not hidden or attempt > 300):
            return models, poses, world_from_cam
    raise RuntimeError("no arrangement shows enough of the object; try another --seed")


def _overlap(models: list[demo.Model], poses: list[np.ndarray]) -> bool:
    """Whether some other thing's box, half as large as it is, reaches into the object's; shallow contact is let pass."""
    boxes = []
    for model, pose in zip(models, poses, strict=True):
        points = model.vertices @ pose[:3, :3].T + pose[:3, 3]
        low, high = points.min(0), points.max(0)
        boxes.append(((low + high) / 2, (high - low) / 2))
    return any((np.abs(c - boxes[0][0]) < 0.75 * h + 0.75 * boxes[0][1]).all() for c, h in boxes[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder with models/obj_00000N.ply of one object")
    parser.add_argument("--others", type=Path, required=True, help="models folder of what stands around")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--samples", type=int, default=16, help="paths per pixel before denoising")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    (path,) = (args.out / "models").glob("obj_*.ply")
    number = int(path.stem.removeprefix("obj_"))
    own = np.random.default_rng([args.seed, 99])
    material = random_material(own)
    model = demo.read_ply(path)
    plain = model.colors is None and model.texture is None
    model = coloured(model, material)
    info = json.loads((args.out / "models/models_info.json").read_text())[str(number)]
    diameter = info["diameter"] / 1000
    others = [coloured(demo.read_ply(p), random_material(own)) for p in sorted(args.others.glob("obj_*.ply"))]
    folder = args.out / "test/000001"
    for name in ("rgb", "mask_visib"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cameras: dict[str, Any] = {}
    truths: dict[str, Any] = {}
    infos: dict[str, Any] = {}
    for k in range(args.pictures):
        generator = np.random.default_rng([args.seed, k])
        models, poses, world_from_cam = compose(model, diameter, others, generator)
        surface, light, view = (names[int(generator.integers(len(names)))] for names in (SURFACES, LIGHTS, VIEWS))
        cam_from_world = np.linalg.inv(world_from_cam)
        file = folder / "rgb" / f"{k:06d}.png"
        if not file.is_file():
            bpy.ops.wm.read_factory_settings(use_empty=True)
            demo.add_object(model, poses[0], material.roughness, material.metallic if plain else 0.0)
            for other, pose in zip(models[1:], poses[1:], strict=True):
                demo.add_object(other, pose, float(generator.uniform(0.25, 0.8)), 0.6 * float(generator.random() < 0.3))
            demo.add_table(surface, generator)
            demo.add_light(light, generator)
            depth = float((cam_from_world @ poses[0])[2, 3])
            demo.add_camera(world_from_cam, depth, float(generator.uniform(9, 16)))
            cycles = bpy.context.scene.cycles
            cycles.denoising_quality, cycles.denoising_prefilter = "FAST", "FAST"
            picture = demo.render(args.samples, args.threads, view, k)
            noisy = picture + generator.normal(0, 1.6, picture.shape)
            Image.fromarray(np.clip(np.round(noisy), 0, 255).astype(np.uint8)).save(file)
        full, visible = (m[0] for m in demo.masks(models, poses, world_from_cam, 1))
        Image.fromarray(visible.astype(np.uint8) * 255).save(folder / "mask_visib" / f"{k:06d}_000000.png")
        m = cam_from_world @ poses[0]
        cameras[str(k)] = {"cam_K": [demo.FOCAL, 0.0, demo.CX, 0.0, demo.FOCAL, demo.CY, 0.0, 0.0, 1.0], "depth_scale": 1.0}
        truths[str(k)] = [
            {"cam_R_m2c": m[:3, :3].reshape(-1).tolist(), "cam_t_m2c": (m[:3, 3] * 1000).tolist(), "obj_id": number}
        ]
        counts = int(full.sum()), int(visible.sum())
        infos[str(k)] = [
            {
                "bbox_obj": demo.box(full), "bbox_visib": demo.box(visible), "px_count_all": counts[0],
                "px_count_valid": counts[0], "px_count_visib": counts[1], "visib_fract": round(counts[1] / counts[0], 6),
            }
        ]  # fmt: skip
        print(f"picture {k}: {surface}, {light}, visible {infos[str(k)][0]['visib_fract']:.2f}", flush=True)
    camera = {
        "cx": demo.CX,
        "cy": demo.CY,
        "depth_scale": 1.0,
        "fx": demo.FOCAL,
        "fy": demo.FOCAL,
        "height": demo.HEIGHT,
        "width": demo.WIDTH,
    }
    targets = [{"im_id": k, "inst_count": 1, "obj_id": number, "scene_id": 1} for k in range(args.pictures)]
    for place, content in (
        (args.out / "camera.json", camera), (args.out / "test_targets_bop19.json", targets),
        (folder / "scene_camera.json", cameras), (folder / "scene_gt.json", truths), (folder / "scene_gt_info.json", infos),
    ):  # fmt: skip
        place.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
