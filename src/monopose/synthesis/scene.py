"""Synthetic scenes from CAD models: who stands where, under which light, before which background; then a picture.

`random_layout` places objects, `random_look` lights them, `render` draws any window of the scene with the imperfections
of a real camera. Training draws crops and whole images on the fly; `write_bop` writes a BOP folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ..geometry import se3
from ..geometry.camera import K_from_fov
from ..io import limits
from ..render.maps import Lights
from ..render.scene import GREY, SceneRender, render_scene
from ..types import Camera, ObjectModel
from . import augment
from .shapes.solids import distractors

if TYPE_CHECKING:
    from ..datasets.bop.models import ModelInfo


@dataclass(frozen=True)
class SceneConfig:
    """Where objects may be."""

    objects: tuple[int, int] = (3, 8)  # fewest and most known objects in a scene
    distractors: tuple[int, int] = (0, 3)  # unknown boxes, cylinders, spheres among them
    distance: tuple[float, float] = (0.4, 1.5)  # from the camera, metres
    upright: bool = False  # objects always stand with +Z up (on a table, seen from around and above)
    elevation_deg: tuple[float, float] = (-10.0, 90.0)  # of the camera above the table, degrees
    roll_deg: float = 30.0  # standard deviation of the camera's roll, degrees
    tabletop: float = 0.6  # share of scenes on a table; in the rest every object floats on its own
    colours: float = 1.0  # strength of what lamps and cameras do to colours: 0 nothing, 1 what is usual


class Layout(NamedTuple):
    """Objects and their poses; distractors carry obj_id -1."""

    models: list[ObjectModel]
    cam_from_obj: Tensor  # (N, 4, 4), metres


def fitting_distance(models: Sequence[ObjectModel | ModelInfo], camera: Camera) -> tuple[float, float]:
    """Distances at which the median object is between 60 % and 12 % of the image's shorter side, metres."""
    d = float(np.median([m.diameter for m in models]))
    f = float(camera.K[0, 0]) / min(camera.size)
    return f * d / 0.6, f * d / 0.12


def default_camera() -> Camera:
    """640x480 pixels with 60 degrees of horizontal view, where nothing is known about the camera to come."""
    return Camera(K_from_fov(math.radians(60), (480, 640)), (480, 640))


def scene_config(
    models: Sequence[ObjectModel | ModelInfo],
    camera: Camera,
    *,
    upright: bool = False,
    elevation_deg: tuple[float, float] = (-10.0, 90.0),
    distance: tuple[float, float] | None = None,
) -> SceneConfig:
    """Where objects may be, checked.

    Args:
        models, camera: what the distances are fitted to unless given.
        upright: objects always stand with +Z up.
        elevation_deg: lowest and highest elevation of the camera above the table, degrees.
        distance: nearest and farthest object, metres.

    Raises:
        ValueError: distances that are not positive and growing; elevations that are not growing or beyond straight down or up.
    """
    distance = fitting_distance(models, camera) if distance is None else distance
    if not 0 < distance[0] < distance[1]:
        raise ValueError(f"distances must be positive and growing, in metres, got {distance}")
    if not -90 <= elevation_deg[0] <= elevation_deg[1] <= 90:
        raise ValueError(f"elevations must be growing and between -90 and 90 degrees, got {elevation_deg}")
    return SceneConfig(distance=distance, upright=upright, elevation_deg=elevation_deg)


def _camera_over_table(config: SceneConfig, rng: Generator) -> np.ndarray:
    """cam_from_world rotation of a camera around a table, (3, 3)."""
    low, high = (math.sin(math.radians(e)) for e in config.elevation_deg)
    z = rng.uniform(low, high) if rng.random() < 0.5 else math.sin(math.radians(rng.uniform(*config.elevation_deg)))
    azimuth = rng.uniform(0, 2 * math.pi)
    r = math.sqrt(max(1 - z * z, 0))
    inplane = math.radians(float(np.clip(rng.normal(0, config.roll_deg), -90, 90)))
    return _looking_from(r * math.cos(azimuth), r * math.sin(azimuth), z, inplane)


def _looking_from(x: float, y: float, z: float, inplane: float) -> np.ndarray:
    """`viewpoints.look_at` for one direction in plain floats, (3, 3)."""
    right = (-y, x, 0.0) if abs(z) <= 1 - 1e-6 else (z, 0.0, -x)  # forward x up
    length = math.sqrt(right[0] ** 2 + right[1] ** 2 + right[2] ** 2)
    a, b, c = (v / length for v in right)
    down = (z * b - y * c, x * c - z * a, y * a - x * b)  # forward x right
    cos, sin = math.cos(inplane), math.sin(inplane)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return turn @ np.array([[a, b, c], down, [-x, -y, -z]])  # type: ignore[no-any-return]


def _about_z(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _random_rotation(rng: Generator) -> np.ndarray:
    quat = rng.standard_normal(4)
    w, x, y, z = (quat / math.sqrt(float(quat @ quat))).tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _pose(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(3, 3), (3,) -> (4, 4)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = R, t
    return out


def _point_at(pixel: np.ndarray, distance: float, K: np.ndarray) -> np.ndarray:
    """The point at a distance from the camera centre that is seen at a pixel, (3,)."""
    x, y = float((pixel[0] - K[0, 2]) / K[0, 0]), float((pixel[1] - K[1, 2]) / K[1, 1])
    return np.array([x, y, 1.0]) * (float(distance) / math.sqrt(x * x + y * y + 1))


def random_layout(
    models: Sequence[ObjectModel],
    camera: Camera,
    config: SceneConfig,
    rng: Generator,
    first: ObjectModel | None = None,
    others: Sequence[ObjectModel] = (),
) -> Layout:
    """Objects at plausible places in front of a camera: on a table or floating, some hiding others.

    Args:
        models: the known objects to choose from, without repetition.
        camera: its K and size bound where objects may be seen.
        config: numbers, distances and orientations.
        rng: source of randomness.
        first: an object that must be there; it comes first.
        others: models that may stand among the distractors, obj_id -1.
    """
    most = min(config.objects[1], len(models))
    n = int(rng.integers(min(config.objects[0], most), most + 1))
    chosen = [models[i] for i in rng.permutation(len(models))[:n]]
    if first is not None:
        chosen = [first, *[m for m in chosen if m.obj_id != first.obj_id][: max(n - 1, 0)]]
    extra = list(others) if others and rng.random() < 0.5 else distractors()
    chosen += [
        extra[i] for i in rng.integers(0, len(extra), int(rng.integers(config.distractors[0], config.distractors[1] + 1)))
    ]
    place = _on_table if rng.random() < config.tabletop else _floating
    return Layout(chosen, place(chosen, camera, config, rng))


def _middles(models: Sequence[ObjectModel]) -> np.ndarray:
    """What is placed: the origin of each object, or the middle of its box where the origin lies well outside it, (N, 3)."""
    middles = []
    for model in models:
        low, high = model.bounds.double().numpy()
        outside = np.maximum(low, -high).max() > 0.1 * model.diameter
        middles.append((low + high) / 2 if outside else np.zeros(3))
    return np.stack(middles)


def _placed(poses: Tensor, middles: np.ndarray, config: SceneConfig) -> Tensor:
    """cam_from_obj (N, 4, 4) out of poses that place `middles` (N, 3).

    What came too close, or behind the camera, is pushed to the depth of 0.6 times the least distance.
    """
    poses[:, 2, 3].clamp_min_(0.6 * config.distance[0])
    if middles.any():
        poses[:, :3, 3] -= (poses[:, :3, :3].double() @ torch.from_numpy(middles)[..., None])[..., 0].float()
    return poses


def _seen_pixel(camera: Camera, rng: Generator, margin: float = 0.1) -> np.ndarray:
    height, width = camera.size
    return rng.uniform([margin * width, margin * height], [(1 - margin) * width, (1 - margin) * height])


def _on_table(models: list[ObjectModel], camera: Camera, config: SceneConfig, rng: Generator) -> Tensor:
    R = _camera_over_table(config, rng)
    diameters = [float(m.diameter) for m in models]
    reach = 0.55 * (sum(diameters) / len(models)) * math.sqrt(len(models)) * rng.uniform(0.7, 1.5)
    packing = rng.uniform(0.3, 0.5)
    places: list[tuple[float, float]] = []
    for i in range(len(models)):
        x, y = rng.uniform(-reach, reach, 2).tolist()
        for _ in range(20):
            if all(math.hypot(x - p, y - q) > packing * (diameters[i] + diameters[j]) for j, (p, q) in enumerate(places)):
                break
            x, y = (rng.uniform(-reach, reach, 2) * 1.1).tolist()
        places.append((x, y))
    focus = int(rng.integers(0, len(models))) if rng.random() < 0.5 else 0
    target = _point_at(_seen_pixel(camera, rng), rng.uniform(*config.distance), camera.K.numpy())
    low, high = models[focus].bounds.numpy()
    middle = float(high[2] - low[2]) / 2
    poses = []
    middles = _middles(models)
    for model, (x, y), placed in zip(models, places, middles.astype(np.float32), strict=True):
        upright = config.upright and model.obj_id >= 0
        world_R = _about_z(rng.uniform(0, 2 * math.pi)) if upright else _random_rotation(rng)
        lowest = float(((model.corners.numpy() - placed) @ world_R[2]).min())
        position = np.array([x - places[focus][0], y - places[focus][1], -lowest - middle])
        poses.append(_pose(R @ world_R, R @ position + target))
    return _placed(torch.from_numpy(np.stack(poses)).float(), middles, config)


def _floating(models: list[ObjectModel], camera: Camera, config: SceneConfig, rng: Generator) -> Tensor:
    centre = _seen_pixel(camera, rng)
    distance = rng.uniform(*config.distance)
    K = camera.K.numpy()
    poses = []
    for i, model in enumerate(models):
        spread = 1.5 * model.diameter * float(K[0, 0]) / distance
        pixel = centre if i == 0 else centre + rng.normal(0, spread, 2)
        if rng.random() < 0.4 and i:
            pixel = _seen_pixel(camera, rng, -0.05)
        if config.upright and model.obj_id >= 0:
            R = _camera_over_table(config, rng) @ _about_z(rng.uniform(0, 2 * math.pi))
        else:
            R = _random_rotation(rng)
        d = rng.uniform(*config.distance) if i == 0 or rng.random() < 0.3 else distance * rng.uniform(0.75, 1.25)
        distance = d if i == 0 else distance
        poses.append(_pose(R, _point_at(pixel, float(d), K)))
    placed = torch.from_numpy(np.stack(poses)).float()
    if config.upright:  # the viewing ray tilts what the camera sees: keep "upright" as seen along the ray
        placed = se3.egocentric_from_allocentric(placed)
    return _placed(placed, _middles(models), config)


class Appearance(NamedTuple):
    """Everything random about the appearance of a scene but its objects."""

    lights: Lights
    specular: list[float]  # per object
    shininess: list[float]
    gains: np.ndarray  # (N, 3), colour of each object's paint
    flat: bool


def random_appearance(n: int, rng: Generator) -> Appearance:
    """Lights and materials for n objects."""
    ambient = rng.uniform(0.25, 0.9)
    tint = lambda: 1 + rng.uniform(-0.15, 0.15, 3)  # noqa: E731
    count = int(rng.integers(1, 4))
    directions = rng.standard_normal((count, 3)).astype(np.float32)
    directions[:, 2] = -np.abs(directions[:, 2])  # most light comes from the camera's side
    directions[:, 1] -= 0.5  # and from above
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colors = np.stack([tint() * rng.uniform(0.1, 1.1 / count) for _ in range(count)]).astype(np.float32)
    surrounding = (tint() * ambient).astype(np.float32)
    lights = Lights(torch.from_numpy(surrounding), torch.from_numpy(directions), torch.from_numpy(colors))
    shiny = [float(rng.uniform(0.05, 0.6)) if rng.random() < 0.35 else 0.0 for _ in range(n)]
    gains = np.exp(rng.uniform(-0.3, 0.45, (n, 1))) * rng.uniform(0.88, 1.12, (n, 3))
    return Appearance(
        lights, shiny, [float(rng.uniform(5, 60)) for _ in range(n)], gains.astype(np.float32), bool(rng.random() < 0.1)
    )


def render(
    layout: Layout, look: Appearance, K: Tensor, size: tuple[int, int], background: np.ndarray, native: float, rng: Generator
) -> tuple[np.ndarray, SceneRender]:
    """Draw a window of the scene as a camera would have taken it. Objects without colours are painted at random.

    Args:
        layout, look: the scene.
        K: intrinsics of the window, (3, 3), pixels.
        size: (height, width) of the window.
        background: (H, W, 3), uint8, of the window's size.
        native: width in pixels that the window has in the camera's own image; detail beyond it is removed.
        rng: source of randomness.

    Returns:
        the picture, (H, W, 3), uint8; and the clean rendering with depth, coordinates and masks.
    """
    canvas = torch.from_numpy(background).permute(2, 0, 1).float() / 255
    scene = render_scene(
        layout.models, layout.cam_from_obj, K, size, look.lights, canvas, look.specular, look.shininess, flat=look.flat
    )
    image = scene.image.permute(1, 2, 0).numpy().copy()
    index = scene.index.numpy()
    on_object = index >= 0
    for i, model in enumerate(layout.models):
        here = index == i
        if model.colors is None and (model.texture is None or model.uv is None) and here.any():
            image[here] *= augment.paint(scene.coordinates.numpy()[here], model.diameter, rng) / GREY
    gain = look.gains[np.maximum(index, 0)] * augment.light_field(size, rng)
    image = np.where(on_object[..., None], image * gain, image * (0.5 + 0.5 * augment.light_field(size, rng)))
    picture = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    pixel = max(size[1] / native, 0.5)
    picture = augment.resolution(picture, native)
    return augment.blur(picture, rng, pixel), scene


def camera_effects(picture: np.ndarray, pixel: float, rng: Generator, colours: float = 1.0) -> np.ndarray:
    """Colour, then noise and compression: the last things that happen to a photo. (H, W, 3), uint8, both ways."""
    return augment.noise(augment.photometric(picture, rng, colours), rng, pixel)


def background(photos: Sequence[np.ndarray], size: tuple[int, int], rng: Generator) -> np.ndarray:
    """Part of a photo, or a procedural background now and then, and always where there are no photos."""
    if not photos or rng.random() < 0.15:
        return augment.procedural_background(size, rng)
    return augment.background_patch(photos[int(rng.integers(len(photos)))], size, rng)


def small_backgrounds(photos: Sequence[np.ndarray], side: int) -> list[np.ndarray]:
    """Photos shrunk as far as square parts of `side` pixels allow, as `augment.background_patch` takes a quarter or more."""
    import cv2

    small = []
    for photo in photos:
        scale = 4 * side / min(photo.shape[:2])
        size = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
        small.append(cv2.resize(photo, size, interpolation=cv2.INTER_AREA) if scale < 0.9 else photo)
    return small


def background_files(folder: str | Path) -> list[Path]:
    """The pictures below a folder of photos, sorted; FileNotFoundError if there is none."""
    paths = sorted(p for p in Path(folder).glob("**/*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise FileNotFoundError(f"no .jpg or .png in {folder}; --backgrounds wants a folder of photos")
    return paths


def read_backgrounds(folder: str | Path | None, longest: int = 800) -> list[np.ndarray]:
    """All pictures of a folder, shrunk to `longest` pixels, (H, W, 3) uint8. None gives none.

    Raises:
        FileNotFoundError: if the folder is missing or holds no picture.
        ValueError: if it holds none that is whole and not tiny.
    """
    if folder is None:
        return []
    import cv2

    paths = background_files(folder)
    photos = []
    for path in paths:
        try:
            image = limits.imread(path, cv2.IMREAD_COLOR)
        except ValueError:  # broken, or far too large
            image = None
        if image is None:
            continue
        scale = longest / max(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if min(image.shape[:2]) >= 32:
            photos.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    if not photos:
        raise ValueError(f"none of the {len(paths)} pictures in {folder} can be read and is at least 32 pixels wide and high")
    return photos
