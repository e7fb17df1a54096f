"""A folder in Pix3D's layout of rendered furniture, one object in each picture; a killed run goes on where it stopped.

OUT/
  pix3d.json, synth.json               one entry per picture, as Pix3D has it; how the pictures were made
  img/chair/0001.jpg                   the pictures
  mask/chair/0001.png                  the visible pixels of the object
  model/chair/chair_00/model.obj       its shape in Pix3D's model frame, with vertex colours
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..datasets import pix3d
from ..geometry import se3, viewpoints
from ..geometry.camera import project
from ..io import shards
from ..io.bars import Bar
from ..io.files import atomic_write, sole_writer
from ..io.records import read_json
from ..types import ObjectModel
from . import scene as synth
from .samples import one_thread
from .settings import note, photo_folder
from .shapes import furniture, solids

_CHUNK = 50  # pictures between two writes of pix3d.json
_SIDE = 256  # pixels of a floor's texture
SLIGHT, HEAVY = 0.995, 0.85  # visible shares below which an object is slightly occluded, and occluded


@dataclass(frozen=True)
class ViewRanges:
    """Where cameras stand. Close to the annotations of Pix3D's beds, chairs and desks: mostly in front, a little above."""

    front: float = 0.65  # share of azimuths around the front; the others are uniform
    spread_deg: float = 50.0  # of those around the front, standard deviation
    elevation_deg: tuple[float, float] = (18.0, 11.0)  # mean and standard deviation
    elevations_deg: tuple[float, float] = (-5.0, 50.0)  # least and greatest
    inplane_deg: float = 4.0  # standard deviation
    fov_deg: tuple[float, float] = (32.0, 68.0)  # horizontal field of view
    size: tuple[float, float] = (0.45, 0.92)  # of the object's box, share of the picture's width or height
    truncated: float = 0.12  # share of pictures whose edge cuts the object
    occluders: float = 0.25  # share of pictures with something before the object
    floor: float = 0.65  # share of pictures with a floor below it, where the camera is above it


def furniture_models(shapes: int, seed: int = 0) -> dict[str, list[ObjectModel]]:
    """The first `shapes` pieces of furniture of every category from number `seed` on; see `furniture.shape`."""
    if shapes < 1:
        raise ValueError(f"shapes must be at least 1 per category, got {shapes}")
    return {c: [furniture.shape(c, seed + k) for k in range(shapes)] for c in furniture.CATEGORIES}


def random_angles(views: ViewRanges, rng: Generator) -> Tensor:
    """Azimuth, elevation, in-plane rotation of one camera, (3,), float64, radians."""
    front = math.radians(rng.normal(0.0, views.spread_deg))
    azimuth = front if rng.random() < views.front else rng.uniform(0, 2 * math.pi)
    low, high = views.elevations_deg
    elevation = rng.normal(*views.elevation_deg)
    while not low <= elevation <= high:
        elevation = rng.normal(*views.elevation_deg)
    inplane = math.radians(rng.normal(0, views.inplane_deg))
    return torch.tensor([azimuth % (2 * math.pi), math.radians(elevation), inplane], dtype=torch.float64)


def place(model: ObjectModel, angles: Tensor, K: Tensor, size: tuple[int, int], views: ViewRanges, rng: Generator) -> Tensor:
    """Put an object into a picture so that its box has a random size and place there; now and then the edge cuts it.

    Args:
        model: the object.
        angles: as seen along the ray through its centre, (3,), radians.
        K, size: the camera, pixels.

    Returns:
        cam_from_obj, (4, 4), float64, metres.
    """
    height, width = size
    R = viewpoints.rotation_of(angles)
    cut = rng.random() < views.truncated
    share = rng.uniform(*views.size) * (1.15 if cut else 1.0)
    points, K = model.vertices.double(), K.double()
    pixel = torch.tensor([width / 2 - 0.5, height / 2 - 0.5], dtype=torch.float64)
    distance = model.diameter / share * float(K[0, 0]) / width
    where = torch.from_numpy(rng.uniform(0, 1, 2))
    beyond, side = rng.uniform(0.08, 0.3), int(rng.integers(0, 4))
    limits = torch.tensor([width, height], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    for _ in range(6):
        ray = torch.linalg.inv(K) @ torch.cat([pixel, torch.ones(1, dtype=torch.float64)])
        pose = se3.egocentric_from_allocentric(se3.from_rt(R, ray / ray.norm() * distance))
        seen = project(se3.transform(pose, points), K)
        low, high = seen.amin(0) + 0.5, seen.amax(0) + 0.5
        extent = high - low
        room = limits - share * extent / (extent / limits).max()
        goal = torch.minimum(0.02 * limits, room / 2) + where * (room - 2 * torch.minimum(0.02 * limits, room / 2))
        if cut:  # over the left, upper, right or lower edge
            over = beyond * extent[side % 2]
            goal[side % 2] = -over if side < 2 else limits[side % 2] - extent[side % 2] + over
        # towards the middle of the box that is wanted, at the distance that makes it as large as wanted
        pixel = pixel + (goal + share * extent / (extent / limits).max() / 2) - (low + high) / 2
        pixel = torch.minimum(torch.maximum(pixel, -0.2 * limits), 1.2 * limits)
        distance = max(distance * float((extent / limits).max()) / share, 0.75 * model.diameter)
    return pose


def _in_room(cam_from_obj: Tensor, spot: Tensor, turn: float) -> Tensor:
    """cam_from_obj of something that stands at `spot` of an object's frame, turned about +Z. (4, 4), (3,) -> (4, 4)."""
    c, s = math.cos(turn), math.sin(turn)
    R = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    return cam_from_obj @ se3.from_rt(R, spot.double())


def _occluders(model: ObjectModel, pose: Tensor, rng: Generator) -> tuple[list[ObjectModel], list[Tensor]]:
    """One or two things on the floor between the camera and the object, or beside and behind it."""
    models, poses = [], []
    eye = se3.inverse(pose)[:3, 3]
    direction = math.atan2(float(eye[1]), float(eye[0]))
    for _ in range(int(rng.integers(1, 3))):
        thing = solids.distractors()[int(rng.integers(0, len(solids.distractors())))]
        scale = rng.uniform(0.25, 0.65) * model.diameter / thing.diameter
        thing = replace(thing, vertices=scale * thing.vertices, diameter=scale * thing.diameter)
        before = rng.random() < 0.7
        angle = direction + rng.normal(0, 0.4) + (0 if before else math.pi)
        reach = model.diameter * rng.uniform(0.35, 0.6) + thing.diameter / 2
        z = float(model.bounds[0, 2] - thing.bounds[0, 2])
        spot = torch.tensor([reach * math.cos(angle), reach * math.sin(angle), z], dtype=torch.float64)
        placed = _in_room(pose, spot, rng.uniform(0, 2 * math.pi))
        if float(placed[2, 3]) > thing.diameter:  # not at the lens
            models.append(thing)
            poses.append(placed)
    return models, poses


def _floor(model: ObjectModel, photos: Sequence[np.ndarray], rng: Generator) -> ObjectModel:
    """A square of floor below an object, in the object's frame, from a photo, darker where the object shades it."""
    reach, n = 2.2 * model.diameter, 24
    line = torch.linspace(-reach, reach, n + 1)
    x, y = torch.meshgrid(line, line, indexing="ij")
    vertices = torch.stack([x, y, torch.full_like(x, float(model.bounds[0, 2]) - 0.002)], -1).reshape(-1, 3)
    i = (torch.arange(n)[:, None] * (n + 1) + torch.arange(n)).reshape(-1)
    faces = torch.cat([torch.stack([i, i + n + 1, i + n + 2], -1), torch.stack([i, i + n + 2, i + 1], -1)])
    patch = synth.background(photos, (_SIDE, _SIDE), rng).astype(np.float32) / 255
    plain = rng.uniform(0, 1)
    patch = patch * (1 - plain) + patch.mean((0, 1)) * plain
    along = np.linspace(-reach, reach, _SIDE)
    half = ((model.bounds[1] - model.bounds[0]) / 2).numpy()
    out = np.maximum(np.abs(along[None]) / half[0], np.abs(along[:, None]) / half[1])
    shade = 1 - rng.uniform(0.2, 0.6) * np.clip(1.6 - out, 0, 0.8) / 0.8
    texture = torch.from_numpy(np.ascontiguousarray((patch * shade[..., None]).transpose(2, 0, 1), dtype=np.float32))
    uv = (vertices[:, :2] / reach + 1) / 2
    up = torch.tensor([[0.0, 0.0, 1.0]]).expand(len(vertices), 3)
    return ObjectModel(-1, "floor", vertices, faces, up, 2 * math.sqrt(2) * reach, uv=uv, texture=texture)


@dataclass(frozen=True)
class Picture:
    """A picture, and its entry in pix3d.json but for the paths."""

    image: np.ndarray  # (H, W, 3), uint8
    mask: np.ndarray  # (H, W), bool, visible pixels
    entry: dict[str, Any]


def draw(
    model: ObjectModel, size: tuple[int, int], photos: Sequence[np.ndarray], views: ViewRanges, rng: Generator
) -> Picture:  # fmt: skip
    """One picture of one object; views in which less than half of its silhouette is seen are drawn again."""
    while True:
        picture = _attempt(model, size, photos, views, rng)
        if picture is not None:
            return picture


def _attempt(
    model: ObjectModel, size: tuple[int, int], photos: Sequence[np.ndarray], views: ViewRanges, rng: Generator
) -> Picture | None:  # fmt: skip
    height, width = size
    f = width / 2 / math.tan(math.radians(rng.uniform(*views.fov_deg)) / 2)
    K = torch.tensor([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    pose = place(model, random_angles(views, rng), K, size, views, rng)
    models, poses = [model], [pose]
    if rng.random() < views.occluders:
        more, at = _occluders(model, pose, rng)
        models, poses = models + more, poses + at
    above = float(se3.inverse(pose)[2, 3] - model.bounds[0, 2])
    if above > 0.1 * model.diameter and rng.random() < views.floor:
        floor = _floor(model, photos, rng)
        models, poses = [*models, floor], [*poses, pose]
    layout = synth.Layout(models, torch.stack(poses).float())
    look = synth.random_appearance(len(models), rng)
    background = synth.background(photos, size, rng)
    image, scene = synth.render(layout, look, K, size, background, float(width), rng)
    image = synth.camera_effects(image, 1.0, rng)
    visible = float(scene.visibility[0])
    mask = scene.masks_visible[0].numpy()
    if visible < 0.5 or mask.sum() < 0.01 * mask.size:
        return None
    seen = project(se3.transform(pose, model.vertices.double()), K.double()) + 0.5
    cut = bool((seen < 0).any() or (seen[:, 0] > width).any() or (seen[:, 1] > height).any())
    rot_mat, trans_mat = pix3d.pose_to_pix3d(pose)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    entry = {
        "img_size": [width, height],
        "img_source": "rendered",
        "model_source": "monopose",
        "rot_mat": rot_mat.tolist(),
        "trans_mat": trans_mat.tolist(),
        "focal_length": f * pix3d.SENSOR_WIDTH / width,
        "cam_position": (-rot_mat.mT @ trans_mat).tolist(),
        "inplane_rotation": float(pix3d.angles_of(pose)[2]),
        "truncated": cut,
        "occluded": visible < HEAVY,
        "slightly_occluded": HEAVY <= visible < SLIGHT,
        "bbox": [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1],
    }
    return Picture(image, mask, entry)


class Pictures(Dataset):
    """Picture i of the data set, drawn from (seed, i). Shapes take turns, so that any first part of a set is balanced."""

    def __init__(
        self, models: Sequence[ObjectModel], size: tuple[int, int], photos: Sequence[np.ndarray], views: ViewRanges, seed: int,
        first: int, last: int,
    ) -> None:  # fmt: skip
        self.models, self.size, self.photos, self.views = list(models), size, photos, views
        self.seed, self.first, self.last = seed, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, n: int) -> Picture:
        i = self.first + n
        rng = np.random.default_rng((self.seed, i, 6))
        return draw(self.models[i % len(self.models)], self.size, self.photos, self.views, rng)


def write_pix3d(
    out: str | Path,
    models: Mapping[str, Sequence[ObjectModel]],
    *,
    images: int = 40,
    size: tuple[int, int] = (240, 320),
    backgrounds: str | Path | None = None,
    views: ViewRanges = ViewRanges(),
    seed: int = 0,
    workers: int = 2,
    shard: shards.Shard | None = None,
) -> Path:
    """Write a data set in Pix3D's layout, which `pix3d.read` reads.

    Args:
        out: its folder. If it holds pictures of an earlier run, killed or of fewer images, only the missing ones are made.
        models: category -> shapes in metres, +Z up, front towards -Y, with names that differ within the category.
        images: pictures of each shape.
        size: height and width of the pictures, pixels.
        backgrounds: folder of photos; None: procedural backgrounds.
        views: where cameras stand.
        seed: same seed, same pictures, whatever the number of workers.
        workers: processes that render; 0: this one.
        shard: only the pictures of this one; pix3d.json is written by `shards.MERGE`, when all have been there.

    Returns:
        `out`.

    Raises:
        ValueError: no shape, no picture, two shapes with one name or a name that no folder can have; pictures that are
            already there were made otherwise.
    """
    pairs = _checked(models, images, size)
    out = Path(out)
    photos = synth.read_backgrounds(backgrounds)
    shapes = {f"{c}/{m.name}": _digest(m) for c, m in pairs}
    settings = {"seed": seed, "size": list(size), "backgrounds": photo_folder(backgrounds), "shapes": shapes}
    total, job = images * len(pairs), None
    if shard is not None:
        about = {**settings, **asdict(views)}
        job = shards.Job(out / shards.FOLDER / "pix3d", about, total, _CHUNK, shard)
    share = shard is not None and not shard.last
    with nullcontext() if share else sole_writer(out, "synth"):
        note(out, {**settings, **asdict(views)}, made=(out / "pix3d.json").is_file())
        for category, model in pairs:
            path = out / _model_path(category, model)
            if not path.is_file():
                write_obj(path, model)
        pix3d.write_symmetries(out, {f"{c}/{m.name}/model": m for c, m in pairs})
        file = out / "pix3d.json"
        entries: list[dict[str, Any]] = read_json(file) if file.is_file() else []
        if len(entries) > total:
            raise ValueError(f"{out} holds {len(entries)} pictures, more than the {total} asked for; choose another folder")
        numbers = _numbers([c for c, _ in pairs], images)
        chunks = [(0, range(n, min(n + _CHUNK, total))) for n in range(len(entries), total, _CHUNK)]
        chunks = chunks if job is None else list(job.todo())
        todo = [i for _, pieces in chunks for i in pieces]
        pictures = Pictures([m for _, m in pairs], size, photos, views, seed, 0, total)
        loader = DataLoader(
            pictures, batch_size=None, sampler=todo, num_workers=workers, worker_init_fn=one_thread,  # type: ignore[arg-type]
        )  # fmt: skip
        drawn: Iterator[Any] = iter(loader) if todo else iter(())
        with Bar("pictures", len(entries) + len(todo), len(entries)) as bar:
            for block, pieces in chunks:
                made: list[dict[str, Any]] = []
                for i in pieces:
                    (category, model), picture = pairs[i % len(pairs)], next(drawn)
                    paths = {"img": f"img/{category}/{numbers[i]:04d}.jpg", "mask": f"mask/{category}/{numbers[i]:04d}.png"}
                    save_png(out / paths["img"], picture.image)
                    save_png(out / paths["mask"], picture.mask)
                    made.append({**paths, "category": category, "model": _model_path(category, model), **picture.entry})
                    bar.advance()
                if job is None:
                    entries += made
                    _write_entries(file, entries)
                else:
                    job.save(block, made)
        if job is not None and not share:
            rows = list(job.rows())
            job.require_files({i: out / row["img"] for i, row in enumerate(rows)})
            _write_entries(file, rows)
            job.remove()
        return out


def _checked(models: Mapping[str, Sequence[ObjectModel]], images: int, size: tuple[int, int]) -> list[tuple[str, ObjectModel]]:
    pairs = [(category, model) for category, shapes in models.items() for model in shapes]
    if not pairs or images < 1 or min(size) < 32:
        raise ValueError(
            f"write_pix3d needs at least one shape, one image of each and 32 x 32 pixels, got {len(pairs)} shapes, "
            f"{images} images, {size[0]} x {size[1]} pixels"
        )
    names = [f"{c}/{m.name}" for c, m in pairs]
    for name in names:
        if (
            not all(part and part.replace("_", "").replace("-", "").isalnum() for part in name.split("/"))
            or name.count("/") > 1
        ):
            raise ValueError(f"categories and names of shapes need letters, digits, _ and -, got {name!r}; rename it")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"{twice[0]} is the name of {names.count(twice[0])} shapes; give each its own")
    return pairs


def _numbers(categories: Sequence[str], images: int) -> list[int]:
    """The number of every picture within its category, from 1; shapes take turns."""
    count: dict[str, int] = {}
    numbers = []
    for category in list(categories) * images:
        count[category] = count.get(category, 0) + 1
        numbers.append(count[category])
    return numbers


def _model_path(category: str, model: ObjectModel) -> str:
    return f"model/{category}/{model.name}/model.obj"


def _digest(model: ObjectModel) -> str:
    parts = [model.vertices, model.faces, model.colors if model.colors is not None else torch.zeros(0)]
    return hashlib.sha256(b"".join(p.cpu().contiguous().numpy().tobytes() for p in parts)).hexdigest()[:12]


def write_obj(path: str | Path, model: ObjectModel) -> None:
    """A shape as an OBJ file in Pix3D's model frame, in metres, with vertex colours if it has any."""
    turn = pix3d.MODEL.numpy()
    vertices, normals = (a.double().numpy() @ turn for a in (model.vertices, model.normals))
    colors = None if model.colors is None else model.colors.double().numpy()
    rows = vertices if colors is None else np.concatenate([vertices, colors], 1)
    lines = ["v " + " ".join(f"{x:.6f}" for x in row) for row in rows]
    lines += ["vn " + " ".join(f"{x:.5f}" for x in row) for row in normals]
    lines += ["f " + " ".join(f"{k}//{k}" for k in face) for face in (model.faces + 1).tolist()]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_entries(file: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    with atomic_write(file) as temporary:
        temporary.write_text("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]\n", encoding="utf-8")


def save_png(path: Path, values: np.ndarray) -> None:
    """A JPEG or PNG, whole or not at all; pix3d.json, which names it, is what waits for the disk."""
    from PIL import Image

    picture = Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == bool else values)
    with atomic_write(path, wait=False) as temporary:
        picture.save(temporary, quality=92)  # a PNG has none and does not mind
