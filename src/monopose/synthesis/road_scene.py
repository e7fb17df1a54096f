"""Synthetic pictures of roads: parametric things on a painted street, seen from a car; with boxes in 3D, speeds, visibility.

The ground, the walls beside it and the shadows are painted by formula (`road_paint.py`). What stands on the ground
(`road_layout.py`) is rendered by `synth.render`.

Boxes are level in the camera's frame, as those of KITTI and nuScenes are; the ground is not quite, by `RoadConfig.slope_deg`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..datasets import kitti
from ..datasets.road import ATTRIBUTES, CLASSES, RoadFrame, RoadObjects
from ..geometry import boxes3d, se3
from ..geometry.camera import crop_resize_K
from ..io import shards
from ..io.bars import Bar
from ..io.files import atomic_write, sole_writer, write_json
from ..io.records import read_json
from ..render.scene import render_masks
from ..types import Camera, ObjectModel
from . import scene as synth
from .pix3d_folder import save_png
from .road_layout import RoadConfig, Street, bystanders, check_config, poses_of, random_camera, random_street, random_things
from .road_paint import paint_street, random_sky
from .samples import one_thread
from .settings import note, photo_folder
from .shapes.solids import Array

KITTI_NAMES: dict[str, str] = {"car": "Car", "truck": "Truck", "pedestrian": "Pedestrian"}
"""What a KITTI folder calls things; vans are Van, ridden bicycles Cyclist, all else Misc."""

_USUAL = RoadConfig()
_LARGEST = 3.0  # truncation is measured on a canvas so many times as wide and high as the picture


@dataclass(frozen=True, eq=False)
class RoadPicture:
    """A picture with its truth, and regions of things too hidden to be truth.

    image (H, W, 3), uint8; visibility (N,), the share of each silhouette that is seen, of what a picture without edges
    would show; variants: the kinds of `vehicles.VARIANTS`. `frame.objects` has boxes, velocities, attributes, truncation.
    """

    image: np.ndarray
    frame: RoadFrame
    visibility: Tensor
    variants: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------- the picture


def draw(config: RoadConfig, photos: Sequence[np.ndarray], rng: Generator, name: str = "") -> RoadPicture:
    """One picture of a road with its truth.

    Args:
        config: what is seen.
        photos: for backgrounds, (H, W, 3) uint8, or none.
        rng: source of randomness; the same state gives the same picture.
        name: of the frame.
    """
    camera = random_camera(config, rng)
    street = random_street(config, camera, rng)
    things, poses = random_things(config, street, rng)
    lhw = (
        torch.stack([m.bounds[1] - m.bounds[0] for m in (t.model for t in things)]).double()
        if things
        else torch.zeros(0, 3).double()
    )
    others = bystanders(config, street, rng)
    beside, their_lhw = poses_of(others, street)
    sky = random_sky(config.size, float(camera.K[1, 2]), photos, rng)
    everything, sizes = torch.cat([poses, beside]), torch.cat([lhw, their_lhw])
    background = paint_street(street, config.size, sky, boxes3d.bev(everything, sizes), sizes[:, 1], rng)
    layout = synth.Layout([t.model for t in (*things, *others)], everything.float())
    look = synth.random_appearance(max(len(layout.models), 1), rng)  # an empty road has none to look at
    image, scene = synth.render(layout, look, camera.K.float(), config.size, background, float(config.size[1]), rng)
    image = synth.camera_effects(image, 1.0, rng)

    n = len(things)
    boxes = boxes3d.project(poses, lhw, camera.K, config.size)
    truncation = torch.tensor([truncated(t.model, p, camera) for t, p in zip(things, poses)], dtype=torch.float64)
    visibility = scene.visibility[:n].double() * (1 - truncation)
    pixels = scene.masks_visible[:n].flatten(1).sum(1)
    shown = (pixels >= config.least_pixels) & (visibility >= config.least_visible)
    hidden = boxes[~shown & (pixels > 0)]
    # the occlusion of KITTI: what edges cut is not meant
    occlusion = (scene.visibility[:n] < 0.9).long() + (scene.visibility[:n] < 0.5).long()
    forward = poses[:, :3, 0]
    speeds = torch.tensor([t.speed for t in things], dtype=torch.float64)
    attributes = torch.tensor([ATTRIBUTES.index(t.attribute) if t.attribute else -1 for t in things], dtype=torch.int64)
    objects = RoadObjects(
        torch.tensor([CLASSES.index(t.category) for t in things], dtype=torch.int64), poses, lhw, boxes, None,
        speeds[:, None] * forward, attributes, truncation, occlusion,
    )[shown]  # fmt: skip
    frame = RoadFrame("", camera, CLASSES, objects, hidden, name, ego_from_cam=_ego_from_cam(street), global_from_ego=_eye4())
    variants = tuple(t.variant for t, s in zip(things, shown.tolist()) if s)
    return RoadPicture(image, frame, visibility[shown], variants)


def _eye4() -> Tensor:
    return torch.eye(4, dtype=torch.float64)


def _ego_from_cam(street: Street) -> Tensor:
    """A camera that looks forwards, above the origin of a vehicle on the ground, z up. (4, 4), float64."""
    R = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    return se3.from_rt(R, torch.tensor([0.0, 0.0, street.height], dtype=torch.float64))


def truncated(model: ObjectModel, cam_from_obj: Tensor, camera: Camera) -> float:
    """Which share of an object's silhouette lies beyond the edges of the picture, measured on a rendering of it alone.

    Args:
        model: the object.
        cam_from_obj: (4, 4), metres.
        camera: of the picture.

    Returns:
        in [0, 1], to about a hundredth; 1 where nothing is in the picture. What lies further out than three pictures around it
        does not count.
    """
    height, width = camera.size
    lhw = model.bounds[1] - model.bounds[0]
    K = camera.K.to(cam_from_obj)
    box = boxes3d.project(cam_from_obj, lhw.to(cam_from_obj), K)
    x0, y0, x1, y1 = box.tolist()
    if x1 <= x0 or y1 <= y0:
        return 1.0  # all of it is behind the camera
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        return 0.0
    wide, high = (_LARGEST - 1) / 2 * width, (_LARGEST - 1) / 2 * height
    x0, y0 = float(np.clip(x0, -wide, width + wide)), float(np.clip(y0, -high, height + high))
    x1, y1 = float(np.clip(x1, -wide, width + wide)), float(np.clip(y1, -high, height + high))
    if x1 - x0 < 1e-6 or y1 - y0 < 1e-6:
        return 1.0
    scale = min(1.0, 96 / max(x1 - x0, y1 - y0))
    size = (max(1, math.ceil((y1 - y0) * scale)), max(1, math.ceil((x1 - x0) * scale)))
    moved = crop_resize_K(K, K.new_tensor([x0, y0, x1, y1]), size)
    mask = render_masks([model], cam_from_obj[None].float(), moved.float(), size, near=0.1).masks_full[0]
    u = x0 + (torch.arange(size[1]) + 0.5) * (x1 - x0) / size[1]
    v = y0 + (torch.arange(size[0]) + 0.5) * (y1 - y0) / size[0]
    inside = ((v > 0) & (v < height))[:, None] & ((u > 0) & (u < width))
    total = int(mask.sum())
    return 1.0 if not total else 1 - int((mask & inside).sum()) / total


# ------------------------------------------------------------------------------------------------------------- data sets


class RoadPictures(Dataset):
    """Picture i of an endless set, drawn from (seed, i)."""

    def __init__(
        self, config: RoadConfig = _USUAL, photos: Sequence[np.ndarray] = (), seed: int = 0, first: int = 0,
        last: int = 2**31,
    ) -> None:  # fmt: skip
        check_config(config)
        self.config, self.photos, self.seed, self.first, self.last = config, photos, seed, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, n: int) -> RoadPicture:
        if not 0 <= n < len(self):
            raise IndexError(f"picture {n} of {len(self)}")
        i = self.first + n
        return draw(self.config, self.photos, np.random.default_rng((self.seed, i, 8)), f"{i:06d}")


class RoadSamples(RoadPictures):
    """The same pictures as training samples: see `sample`."""

    def __getitem__(self, n: int) -> Any:
        return sample(super().__getitem__(n))


def sample(picture: RoadPicture) -> dict[str, Any]:
    """What `road.py` learns from, float32.

    Returns:
        image (3, H, W), RGB in [0, 1]; K (3, 3), pixels; of N objects labels (N,), index into `CLASSES`; cam_from_obj
        (N, 4, 4) and sizes (N, 3), metres, as `geometry.boxes3d` has them; velocities (N, 3), metres per second, camera axes;
        attributes (N,), index into `ATTRIBUTES`, -1 for none; visibility (N,), truncation (N,), shares; boxes (N, 4), xyxy on
        pixel edges; ignored (M, 4), regions of things too hidden to be truth; name.
    """
    frame, objects = picture.frame.to(torch.float32), picture.frame.to(torch.float32).objects
    assert objects is not None
    return {
        "image": torch.from_numpy(picture.image).permute(2, 0, 1).float() / 255, "K": frame.camera.K, "labels": objects.labels,
        "cam_from_obj": objects.cam_from_obj, "sizes": objects.sizes, "velocities": objects.velocities,
        "attributes": objects.attributes, "visibility": picture.visibility.float(), "truncation": objects.truncation,
        "boxes": objects.boxes, "ignored": frame.ignored, "name": frame.name,
    }  # fmt: skip


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples as a batch: image (B, 3, H, W) and K (B, 3, 3) stacked, all else as lists of B."""
    batch: dict[str, Any] = {key: [s[key] for s in samples] for key in samples[0]}
    return {**batch, "image": torch.stack(batch["image"]), "K": torch.stack(batch["K"])}


def write_road(
    out: str | Path,
    *,
    images: int = 1000,
    config: RoadConfig = _USUAL,
    backgrounds: str | Path | None = None,
    seed: int = 0,
    workers: int = 2,
    shard: shards.Shard | None = None,
) -> Path:
    """Write a folder in KITTI's object format, which `kitti.read` reads, and beside it an `infos.json` in nuScenes' axes with
    speeds and attributes, which KITTI has no place for; a killed run goes on where it stopped.

    Things too hidden to be truth become DontCare regions. Every picture is a sample of one camera, CAM_FRONT, of a vehicle in
    the origin of a map of its own.

    Args:
        out: the folder: image_2, calib, label_2; infos.json; and synth.json, which says how the pictures were made.
        images: how many pictures, at least 1.
        config: what is seen.
        backgrounds: folder of photos; None: skies and procedural backgrounds.
        seed: same seed, same pictures, whatever the number of workers.
        workers: processes that render; 0: this one.
        shard: only the pictures of this one; infos.json is written by `shards.MERGE`, when all have been there.

    Returns:
        `out`.

    Raises:
        ValueError: settings that cannot be; pictures that are already there were made otherwise.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    check_config(config)
    out = Path(out)
    photos = synth.read_backgrounds(backgrounds)
    settings = {"seed": seed, "backgrounds": photo_folder(backgrounds), **asdict(config)}
    job = None if shard is None else shards.Job(out / shards.FOLDER / "road", settings, images, _BLOCK, shard)
    share = shard is not None and not shard.last
    with nullcontext() if share else sole_writer(out, "synth"):
        note(out, settings, made=(out / "synth.json").is_file() or any(out.glob("[!.]*/*")))
        done = {p.stem for p in out.glob("infos/*.json")}  # written last
        blocks = [(0, range(images))] if job is None else list(job.todo())
        todo = [i for _, pieces in blocks for i in pieces if f"{i:06d}" not in done]
        pictures = RoadPictures(config, photos, seed, 0, images)
        loader = DataLoader(
            pictures, batch_size=None, sampler=todo, num_workers=workers, worker_init_fn=one_thread,  # type: ignore[arg-type]
        )  # fmt: skip
        total, drawn = sum(len(pieces) for _, pieces in blocks), iter(loader) if todo else iter(())
        with Bar("pictures", total, total - len(todo)) as bar:
            for block, pieces in blocks:
                for i in pieces:
                    if f"{i:06d}" not in done:
                        _write(out, next(drawn))
                        bar.advance()
                if job is not None:
                    job.save(block, list(pieces))
        if share:
            return out
        if job is not None:
            job.require(range(images))
        meta = {"categories": {c: k for k, c in enumerate(CLASSES)}, "dataset": "synthetic roads"}
        write_json(out / "infos.json", {
            "metainfo": meta, "data_list": [read_json(out / "infos" / f"{i:06d}.json") for i in range(images)],
        })  # fmt: skip
        if job is not None:
            job.remove()
        return out


_BLOCK = 25  # pictures of a shard in a row


def _write(out: Path, picture: RoadPicture) -> None:
    """One picture: image, calibration, and last its labels."""
    frame, objects = picture.frame, picture.frame.objects
    assert objects is not None
    K = frame.camera.K
    save_png(out / "image_2" / f"{frame.name}.png", picture.image)
    P = torch.cat([K, torch.zeros(3, 1, dtype=K.dtype)], 1)
    rows = {"P2": P, "R0_rect": torch.eye(3), "Tr_velo_to_cam": torch.eye(4)[:3]}
    with atomic_write(out / "calib" / f"{frame.name}.txt") as temporary:
        lines = [f"{k}: " + " ".join(repr(float(v)) for v in m.flatten()) + "\n" for k, m in rows.items()]
        temporary.write_text("".join(lines), encoding="utf-8")
    names = [_kitti_class(CLASSES[k], v) for k, v in zip(objects.labels.tolist(), picture.variants)]
    known = replace(objects, labels=torch.tensor([kitti.CLASSES.index(n) for n in names], dtype=torch.int64))
    labels = kitti.labels_from(known, kitti.Calibration(K, _eye4(), None), frame.camera.size)
    regions = frame.ignored.double().numpy()
    unknown: Array = np.tile([-1.0, -1, -10, 0, 0, 0, 0, -1, -1, -1, -1000, -1000, -1000, -10], (len(regions), 1))
    height, width = frame.camera.size
    unknown[:, 3:7] = np.clip(regions - 0.5, 0, [width - 1, height - 1, width - 1, height - 1])
    types = (*labels.types, *(kitti.DONT_CARE,) * len(regions))
    kitti.write_labels(out / "label_2" / f"{frame.name}.txt", kitti.Labels(types, np.concatenate([labels.values, unknown])))
    write_json(out / "infos" / f"{frame.name}.json", _info(picture))


def _info(picture: RoadPicture) -> dict[str, Any]:
    """One entry of `infos.json`, as `nuscenes.read_infos` reads it; its LiDAR stands in the vehicle's origin."""
    frame, objects = picture.frame, picture.frame.objects
    assert objects is not None
    assert objects.velocities is not None
    assert objects.attributes is not None
    assert frame.ego_from_cam is not None
    ego_from_cam, name = frame.ego_from_cam, frame.name
    pose, lhw = ego_from_cam @ objects.cam_from_obj, objects.sizes
    over_ground = objects.velocities @ ego_from_cam[:3, :3].mT
    yaw = boxes3d.yaw_of(objects.cam_from_obj)
    turn = torch.atan2(pose[:, 1, 0], pose[:, 0, 0])
    seen, instances = [], []
    for k in range(len(objects)):
        shared = {"bbox_label_3d": int(objects.labels[k]), "bbox_3d_isvalid": True}
        shared["attr_label"] = int(objects.attributes[k]) if objects.attributes[k] >= 0 else len(ATTRIBUTES)
        lying = {
            "bbox_3d": [*objects.cam_from_obj[k, :3, 3].tolist(), *lhw[k].tolist(), float(yaw[k])],
            "velocity": objects.velocities[k, (0, 2)].tolist(), "visibility": float(picture.visibility[k]),
        }  # fmt: skip
        standing = {
            "bbox_3d": [*pose[k, :3, 3].tolist(), *boxes3d.lhw_from_lwh(lhw[k]).tolist(), float(turn[k])],
            "velocity": over_ground[k, :2].tolist(), "num_lidar_pts": 1, "num_radar_pts": 0,  # seen: it counts
        }  # fmt: skip
        seen.append({**shared, **lying})
        instances.append({**shared, **standing})
    moment = 0.5 * int(name)
    image = {
        "img_path": f"image_2/{name}.png", "cam2img": frame.camera.K.tolist(), "cam2ego": ego_from_cam.tolist(),
        "sample_data_token": f"road {name} CAM_FRONT", "timestamp": moment, "lidar2cam": se3.inverse(ego_from_cam).tolist(),
    }  # fmt: skip
    return {
        "sample_idx": int(name), "token": f"road {name}", "timestamp": moment, "ego2global": _eye4().tolist(),
        "images": {"CAM_FRONT": image}, "instances": instances, "cam_instances": {"CAM_FRONT": seen},
    }  # fmt: skip


def _kitti_class(category: str, variant: str) -> str:
    if category == "bicycle" and variant == "ridden":
        return "Cyclist"
    return "Van" if (category, variant) == ("car", "van") else KITTI_NAMES.get(category, "Misc")
