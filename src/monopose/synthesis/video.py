"""Videos of known objects with true poses: both the camera and the objects move, a hand comes in front, lamps change.

`plan` decides everything from a seed, `draw` makes any frame of it, so that every k-th frame of a video costs no more.
`write_bop` writes each video as a scene folder of a BOP data set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..datasets.bop import scenes, writing
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import rotation, se3
from ..io import shards
from ..io.bars import Bar
from ..io.files import sole_writer, write_json
from ..render.maps import Lights
from ..render.scene import render_masks, render_scene
from ..types import Camera, Frame, Instances, ObjectModel
from . import scene as synth
from .bop_folder import add_pictures, share_pictures
from .settings import photo_folder

EXPOSURES = 3  # pictures that a blurred one is the mean of
NEAR = 0.28  # share of the picture's shorter side that an object takes
CHUNK = 25  # frames between two writes


@dataclass(frozen=True)
class VideoConfig:
    """What happens in a video.

    Args:
        fps: pictures per second.
        speed: times about 5 degrees and 10 mm a frame (of an object of 15 cm).
        occlusion: most of the silhouette that a hand hides, as a share; 0: no hand.
        shutter: share of the time between two frames that the shutter is open; 0: no blur.
        light: how much the lamp moves and brightness changes; 0: not at all.
        noise: standard deviation of a pixel, of 1.
        away: seconds in the middle that the objects are out of the picture.
    """

    fps: float = 30.0
    speed: float = 1.0
    occlusion: float = 0.4
    shutter: float = 0.4
    light: float = 1.0
    noise: float = 0.012
    away: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("fps", 1, 1000), ("speed", 0, 100), ("occlusion", 0, 0.9), ("shutter", 0, 1), ("light", 0, 3), ("noise", 0, 0.5),
            ("away", 0, 1e4),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"a video's {name} must be from {low} to {high}, got {getattr(self, name)}")


class Plan(NamedTuple):
    """A video before it is drawn: see `plan`. Waves are (N + 1, 6): the objects', then the camera's."""

    models: list[ObjectModel]
    camera: Camera
    config: VideoConfig
    frames: int
    photo: np.ndarray
    seed: int
    places: np.ndarray  # (N, 3), metres, world frame, which is the camera's at rest
    first: Tensor  # (N, 3, 3), rotations at the beginning
    rates: np.ndarray  # radians per frame
    phases: np.ndarray
    hand: ObjectModel
    side: float  # direction that the hand comes from, radians
    lamp: float  # where the lamp begins, radians


def plan(
    models: Sequence[ObjectModel],
    camera: Camera,
    frames: int,
    config: VideoConfig | None = None,
    photos: Sequence[np.ndarray] = (),
    seed: int = 0,
) -> Plan:
    """Decide about a video.

    Args:
        models: objects that are in it, side by side.
        camera: of every frame.
        frames: how many.
        config: what happens.
        photos: one of them stands behind; none: a procedural picture.
        seed: of everything random.
    """
    config = config or VideoConfig()
    rng = np.random.default_rng((seed, 3))
    focal = float(camera.K[0, 0])
    count = len(models)
    largest = max(m.diameter for m in models)
    distance = focal * largest / (NEAR * min(camera.size)) * (1 + 0.35 * (count - 1))
    across = (np.arange(count) - (count - 1) / 2) * 1.3 * largest
    places = np.stack([across, np.zeros(count), np.full(count, distance)], 1)
    first = rotation.random_rotations(count, generator=torch.Generator().manual_seed(int(rng.integers(1 << 30)))).double()
    height, width = camera.size
    photo = synth.background(photos, (2 * height, 2 * width), rng)  # twice as large: the camera looks around
    return Plan(
        list(models), camera, config, frames, photo, seed, places, first, rng.uniform(0.05, 0.11, (count + 1, 6)),
        rng.uniform(0, 2 * np.pi, (count + 1, 6)), _hand(1.1 * largest), float(rng.uniform(0.1, 0.9) * np.pi),
        float(rng.uniform(0, 2 * np.pi)),
    )  # fmt: skip


def cam_from_world(film: Plan, time: float) -> np.ndarray:
    """The camera at a time in frames, (4, 4), metres."""
    t = time * film.config.speed
    wave = np.sin(film.rates[-1] * t + film.phases[-1]) - np.sin(film.phases[-1])
    size = max(m.diameter for m in film.models)
    move = torch.from_numpy(np.concatenate([0.25 * size * wave[:3], 0.05 * wave[3:]]))
    return se3.exp(move).numpy()


def poses_at(film: Plan, time: float) -> Tensor:
    """cam_from_obj of the objects at a time in frames, (N, 4, 4), metres, float64."""
    config = film.config
    t = time * config.speed
    wave = np.sin(film.rates[:-1] * t + film.phases[:-1])
    size = np.array([m.diameter for m in film.models])[:, None]
    room = 0.25 if len(film.models) > 1 else 0.7  # side by side they keep out of each other's way
    place = film.places + wave[:, :3] * np.array([room, 0.5, 0.8]) * size
    if config.away > 0:  # out of the picture to the side, and back
        half = config.away * config.fps / 2
        gone = np.clip((half + 6 - abs(time - film.frames / 2)) / 6, 0, 1)
        out = (film.camera.size[1] / float(film.camera.K[0, 0]) + 0.5) * film.places[:, 2]
        place[:, 0] += out * gone * gone * (3 - 2 * gone)
    spin = np.array([0.02, 0.03, 0.02]) * t
    turn = torch.from_numpy(wave[:, 3:] * 0.85 + spin)
    R = film.first
    for axis in range(3):
        R = rotation.so3_exp(turn[:, axis : axis + 1] * torch.eye(3, dtype=torch.float64)[axis]) @ R
    middles = torch.stack([m.bounds.double().mean(0) for m in film.models])
    t_world = torch.from_numpy(place) - (R @ middles[..., None])[..., 0]
    return torch.from_numpy(cam_from_world(film, time)) @ se3.from_rt(R, t_world)


def draw(film: Plan, i: int) -> tuple[Frame, Tensor]:
    """Frame i with its truth, that of the middle of the exposure; and the silhouettes without the hand, (N, H, W).

    Visibility counts the whole silhouette, also what lies outside of the picture.
    """
    config, camera = film.config, film.camera
    rng = np.random.default_rng((film.seed, i, 4))
    hand = _hand_pose(film, i)
    shots = EXPOSURES if config.shutter > 0 else 1
    image = torch.zeros(3, *camera.size)
    for k in range(shots):
        time = i + config.shutter * ((k + 0.5) / shots - 0.5)
        image += _picture(film, time, hand) / shots
    grain = torch.from_numpy(rng.standard_normal(tuple(image.shape), np.float32)) * config.noise
    image = ((image + grain).clamp(0, 1) * 255).round() / 255
    poses = poses_at(film, i).float()
    blocking = [] if hand is None else [film.hand]
    drawn = render_masks(
        [*film.models, *blocking],
        torch.cat([poses, *(h[None] for h in ([] if hand is None else [hand]))]),
        camera.K,
        camera.size,
    )
    count = len(film.models)
    visible, whole = drawn.masks_visible[:count], drawn.masks_full[:count]
    boxes, share = [], []
    for n, model in enumerate(film.models):
        points = se3.transform(poses[n], model.vertices)
        boxes.append(box_ops.from_points(camera_ops.project(points, camera.K)))
        inside = _inside_share(boxes[n], camera.size)
        share.append(float(visible[n].sum()) / max(float(whole[n].sum()), 1.0) * inside)
    instances = Instances(
        torch.tensor([m.obj_id for m in film.models]), poses, torch.stack(boxes), box_ops.from_masks(visible), visible,
        torch.tensor(share),
    )  # fmt: skip
    return Frame(image, camera, drawn.depth, instances, im_id=i), whole


def _inside_share(box: Tensor, size: tuple[int, int]) -> float:
    """The share of a box that lies in the picture."""
    x0, y0, x1, y1 = box.tolist()
    inside = max(min(x1, size[1]) - max(x0, 0), 0) * max(min(y1, size[0]) - max(y0, 0), 0)
    return inside / max((x1 - x0) * (y1 - y0), 1e-9)


def _picture(film: Plan, time: float, hand: Tensor | None) -> Tensor:
    """What a shutter that is open for an instant sees, (3, H, W)."""
    import cv2

    config, camera = film.config, film.camera
    height, width = camera.size
    world = cam_from_world(film, time)
    K = camera.K.double().numpy()
    away = 2.0 * film.places[0, 2]  # of the photo, a plane
    plane = K @ (world[:3, :3] + np.outer(world[:3, 3], [0, 0, 1 / away])) @ np.linalg.inv(K)
    from_photo = plane @ np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    photo = cv2.warpPerspective(film.photo, from_photo, (width, height), borderMode=cv2.BORDER_REFLECT)
    angle = film.lamp + 0.05 * config.light * time
    way = torch.tensor([[math.sin(angle), -0.5, -math.cos(0.7 * angle) - 0.3]])
    gain = 1 + 0.25 * config.light * math.sin(0.09 * time + film.lamp)
    lights = Lights(torch.full((3,), 0.45) * gain, way / way.norm(), torch.full((1, 3), 0.6) * gain)
    behind = torch.from_numpy(photo).permute(2, 0, 1).float() / 255 * gain
    models, poses = list(film.models), poses_at(film, time).float()
    if hand is not None:
        models, poses = [*models, film.hand], torch.cat([poses, hand[None]])
    return render_scene(models, poses, camera.K, camera.size, lights, behind.clamp(0, 1), specular=0.2).image


def _hand_pose(film: Plan, i: int) -> Tensor | None:
    """Where the hand is in frame i, so that it hides no more than it may of any object; None: away."""
    config, camera = film.config, film.camera
    wanted = config.occlusion * math.sin(0.06 * i * max(config.speed, 0.2))
    if wanted <= 0.02:
        return None
    poses = poses_at(film, i).float()
    target = i // 60 % len(film.models)
    model = film.models[target]
    centre = se3.transform(poses[target], model.bounds.mean(0)[None])[0]
    if centre[2] <= model.diameter:
        return None
    size = (camera.size[0] // 4, camera.size[1] // 4)
    small = camera.resized(size).K
    front = centre * (1 - 0.7 * model.diameter / centre[2])
    c, s = math.cos(film.side), math.sin(film.side)
    turn = torch.tensor([[-c, s, 0.0], [-s, -c, 0.0], [0.0, 0.0, 1.0]])  # the fingers point at the object
    low, high = 0.0, 2.5 * film.hand.diameter
    pose = torch.eye(4)
    pose[:3, :3] = turn
    for _ in range(7):
        middle = (low + high) / 2
        pose[:3, 3] = front + middle * torch.tensor([c, s, 0.0])
        seen = render_masks([*film.models, film.hand], torch.cat([poses, pose[None]]), small, size)
        hidden = 1 - seen.visibility[: len(film.models)][seen.masks_full[: len(film.models)].any(-1).any(-1)]
        low, high = (middle, high) if len(hidden) and float(hidden.max()) > wanted else (low, middle)
    pose[:3, 3] = front + high * torch.tensor([c, s, 0.0])
    return pose


def _hand(length: float) -> ObjectModel:
    """A hand and a forearm of the colour of skin; the origin is the tips of the fingers, which point along +x. Metres."""
    parts = [((-1.0, 0.0, 0.0), (-0.62, 0.0, 0.0), 0.24)]  # palm
    parts += [((-0.6, y, 0.0), (-0.05 - 0.25 * abs(y - 0.06), y, 0.03), 0.065) for y in (-0.2, -0.07, 0.06, 0.19)]
    parts += [((-0.8, 0.2, 0.0), (-0.42, 0.4, 0.0), 0.075), ((-4.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 0.2)]  # thumb, forearm
    pieces = [_capsule(np.array(a), np.array(b), r) for a, b, r in parts]
    vertices = np.concatenate([v for v, _, _ in pieces]) * np.array([1, 1, 0.6])
    normals = np.concatenate([n for _, n, _ in pieces])
    starts = np.cumsum([0, *(len(v) for v, _, _ in pieces)])
    faces = np.concatenate([f + s for (_, _, f), s in zip(pieces, starts)])
    colours = np.tile([0.80, 0.58, 0.46], (len(vertices), 1)) * (0.92 + 0.08 * np.sin(23 * vertices[:, :1]))
    scaled = torch.from_numpy(vertices * length).float()
    return ObjectModel(
        -1, "hand", scaled, torch.from_numpy(faces), torch.from_numpy(normals).float(), 1.6 * length,
        colors=torch.from_numpy(colours).float(),
    )  # fmt: skip


def _capsule(a: np.ndarray, b: np.ndarray, radius: float) -> tuple[np.ndarray, ...]:
    """A cylinder with round ends from a to b: vertices, normals, faces."""
    n, rows = 14, 10
    axis = (b - a) / np.linalg.norm(b - a)
    side = np.cross(axis, [0, 0, 1.0])
    side /= np.linalg.norm(side)
    up = np.cross(axis, side)
    polar, round_ = np.meshgrid(np.linspace(0, np.pi, rows), np.arange(n) * 2 * np.pi / n, indexing="ij")
    normals = (
        np.cos(polar)[..., None] * -axis
        + np.sin(polar)[..., None] * (np.cos(round_)[..., None] * side + np.sin(round_)[..., None] * up)
    ).reshape(-1, 3)  # fmt: skip
    ends = np.where((polar < np.pi / 2).reshape(-1, 1), a, b)
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(n), indexing="ij")
    quad = np.stack([i * n + j, i * n + (j + 1) % n, (i + 1) * n + (j + 1) % n, (i + 1) * n + j], -1).reshape(-1, 4)
    return ends + radius * normals, normals, np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])


def write_bop(
    models: Sequence[ObjectModel],
    out: str | Path,
    *,
    videos: int = 5,
    frames: int = 120,
    together: int = 1,
    camera: Camera | None = None,
    config: VideoConfig | None = None,
    backgrounds: str | Path | None = None,
    split: str = "test",
    seed: int = 0,
    shard: shards.Shard | None = None,
) -> Path:
    """Write videos as scenes of a new BOP data set: OUT/SPLIT/000000 is the first one, its pictures in the order of time.

    Args:
        models: CAD models with distinct obj_id >= 1, taken in turn.
        out: the data set folder.
        videos: how many.
        frames: of each.
        together: objects in each.
        camera: None: 640x480 with 60 degrees of horizontal view.
        config: what happens in them.
        backgrounds: folder of photos; None: procedural pictures.
        split: name of the split folder.
        seed: same seed, same videos.
        shard: only the pictures of this one, CHUNK in a row; the JSON files are written by `shards.MERGE`, when all have been
            there. The folder is the same for any number of shards.

    Returns:
        `out`. OUT/SPLIT/video.json holds the config.

    Raises:
        ValueError: no model, or two with one id; more objects together than there are; videos that are already there.
    """
    out, camera, config = Path(out), camera or synth.default_camera(), config or VideoConfig()
    known: Mapping[int, ObjectModel] = {m.obj_id: m for m in models}
    if not models or len(known) < len(models) or min(known) < 1:
        raise ValueError(f"videos need models with distinct obj_id >= 1, got {[m.obj_id for m in models]}")
    if not 1 <= together <= len(models):
        raise ValueError(f"objects together in a video must be from 1 to the {len(models)} there are, got {together}")
    if videos < 1 or frames < 1:
        raise ValueError(f"videos and their frames must be at least 1, got {videos} and {frames}")
    made, job = {**asdict(config), "frames": frames, "together": together, "seed": seed}, None
    folder = out / shards.FOLDER / split
    if (out / split).exists() and (shard is None or not folder.is_dir()):
        begun = f"; monopose merge {out} finishes its shards" if folder.is_dir() else ""
        raise ValueError(f"{out / split} is already there; choose another --out or --split{begun}")
    photos = synth.read_backgrounds(backgrounds)
    if shard is not None:
        about = {**made, "backgrounds": photo_folder(backgrounds), "objects": {m.obj_id: m.digest for m in models}}
        about |= {"K": camera.K.tolist(), "size": camera.size}
        job = shards.Job(folder, about, videos * frames, CHUNK, shard)

    @lru_cache(maxsize=1)
    def film(v: int) -> Plan:
        shown = [models[(v * together + k) % len(models)] for k in range(together)]
        return plan(shown, camera, frames, config, photos, seed + v)

    def drawn(numbers: Iterable[int]) -> Iterator[tuple[Frame, Tensor]]:
        return (draw(film(i // frames), i % frames) for i in numbers)

    share = shard is not None and not shard.last
    with nullcontext() if share else sole_writer(out, "synth"):
        writing.write_models(out / "models", known)
        writing.write_models(out / "models_eval", known)
        writing.write_camera(out / "camera.json", camera)
        names = {m.obj_id: m.name for m in models}
        if job is not None:
            share_pictures(job, out / split, frames, drawn)
            if share:
                return out
            add_pictures(job, out / split, frames, names)
        else:
            with Bar("frames", videos * frames) as bar:
                for start in (v * frames + i for v in range(videos) for i in range(0, frames, CHUNK)):
                    v, i = divmod(start, frames)
                    some = list(drawn(range(start, start + min(CHUNK, frames - i))))
                    pictures, silhouettes = zip(*some, strict=True)
                    writing.append_frames(out / split / f"{v:06d}", pictures, silhouettes, categories=names)
                    bar.advance(len(some))
        write_json(out / split / "video.json", made)
        writing.write_targets(out / f"{split}_targets_bop19.json", scenes.targets_of(scenes.scenes(out / split)))
        if job is not None:
            job.remove()
        return out
