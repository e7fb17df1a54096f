"""Road pictures from disk or drawn on the fly, as training samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets import kitti, nuscenes, nuscenes_index, nuscenes_splits
from ..datasets.road import SIZES, RoadFrame, RoadObjects
from ..geometry import camera as camera_ops
from ..geometry import se3
from ..io.files import existing_file
from ..io.records import found, read_text
from ..synthesis import augment, road_scene
from . import config as road_config
from . import inference

ROAD = "road"  # in place of a data folder: roads drawn on the fly
KITTI_BENCHMARK_CLASSES = ("Car", "Pedestrian", "Cyclist")  # that KITTI's benchmark is about
SEEN = {0: 1.0, 1: 0.7, 2: 0.3, 3: 0.3}  # KITTI's occlusion -> about which share of an object is seen


def is_synthetic(data: str | Path) -> bool:
    """Whether the word road was given, and no folder of that name."""
    return str(data) == ROAD and not Path(data).is_dir()


def read_frames(data: str | Path, names: Sequence[str] = ()) -> Sequence[RoadFrame]:
    """The pictures of a folder, whichever of the three layouts it has; those of nuScenes through an index beside its tables.

    Args:
        data: an `infos.json` or a folder with one; a KITTI folder; a nuScenes folder, or its v1.0-VERSION folder.
        names: only these: pictures of a KITTI folder, scenes of nuScenes ("scene-0061"); none means all.

    Raises:
        FileNotFoundError: no such folder, or none of the layouts.
        ValueError: a file is broken, or a name is not there.
    """
    data = Path(data)
    infos = data if data.suffix == ".json" else data / "infos.json"
    if infos.is_file():
        if names:
            raise ValueError(f"{infos} has no names to choose from; leave them out")
        return nuscenes.read_infos(infos)
    if (data / "image_2").is_dir():
        return kitti.read(data, names)
    version = _nuscenes_version(data)
    if version is not None:
        return nuscenes_index.open_frames(version.parent, version.name).of_scenes(names)
    if not data.exists():
        raise FileNotFoundError(f"no folder {data}; expected KITTI's or nuScenes' layout, an infos.json, or the word {ROAD}")
    raise FileNotFoundError(
        f"{data} is no data set of roads ({found(data)}); expected infos.json, or image_2 and calib (KITTI), or v1.0-mini or "
        "v1.0-trainval (nuScenes)"
    )


def read_names(path: str | Path, data: str | Path | None = None) -> list[str]:
    """The names in a text file, one per line: KITTI's ImageSets/train.txt, scenes of nuScenes.

    Args:
        path: of the file; or the name of an official part of nuScenes (train, val, trainval, test, mini_train, mini_val).
        data: the data set, for such a name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds none.
    """
    if data is not None and str(path) in nuscenes_splits.SPLITS and not Path(path).is_file():
        return nuscenes_splits.scenes(data, str(path))
    names = read_text(existing_file(path, "file of names"), "names, one per line").split()
    if not names:
        raise ValueError(f"{path} names no picture; expected one name per line")
    return names


def nuscenes_tables(data: Path, scenes: Sequence[str] = ()) -> nuscenes.Tables | None:
    """Those of nuScenes, if they are there; of scenes, or of all without any."""
    version = _nuscenes_version(data)
    return None if version is None else nuscenes.read_tables(version.parent, version.name, scenes)


def _nuscenes_version(data: Path) -> Path | None:
    """The folder with the tables."""
    versions = [data] if data.name.startswith("v1.0-") else sorted(data.glob("v1.0-*"))
    versions = [v for v in versions if (v / "sample.json").is_file()]
    if len(versions) > 1:
        raise ValueError(f"{data} holds {', '.join(v.name for v in versions)}; give one of these folders")
    return versions[0] if versions else None


def classes_of(frames: Sequence[RoadFrame]) -> tuple[str, ...]:
    """The classes that a data set is about: nuScenes' ten; of KITTI's those of its benchmark that occur."""
    known = frames[0].classes
    if known != kitti.CLASSES:
        return known
    there = {k for f in frames if f.objects is not None for k in f.objects.labels.tolist()}
    chosen = tuple(c for c in KITTI_BENCHMARK_CLASSES if kitti.CLASSES.index(c) in there)
    if not chosen:
        raise ValueError(
            f"none of {', '.join(KITTI_BENCHMARK_CLASSES)} is labelled in {len(frames)} pictures, perhaps all is "
            "DontCare: nothing to learn from"
        )
    return chosen


def sizes_of(
    frames: Sequence[RoadFrame], classes: Sequence[str]
) -> tuple[tuple[road_config.Size, ...], tuple[road_config.Size, ...]]:
    """Means and deviations of length, height, width of classes, metres: the known ones, others from the labels."""
    means, stds = [], []
    for name in classes:
        if name.lower() in SIZES:
            mean, std = SIZES[name.lower()]
        else:
            own = [f.objects.sizes[f.objects.labels == f.classes.index(name)] for f in frames if f.objects is not None]
            rows = torch.cat(own) if own else torch.zeros(0, 3)
            if not len(rows):
                raise ValueError(f"no label says how large a {name} is; give size_means and size_stds with --set")
            middle = rows.mean(0)
            spread = rows.std(0, correction=0).clamp_min(0.1 * middle)
            (mean, std) = ((float(v[0]), float(v[1]), float(v[2])) for v in (middle, spread))
        means.append(mean)
        stds.append(std)
    return tuple(means), tuple(stds)


# -------------------------------------------------------------------------------------------------------------- samples


class FrameSamples(Dataset):
    """Pictures in random order, as long as they are needed: fitted to the network's size, mirrored, other colours.

    Args:
        frames: with objects.
        classes: that are learned; others are passed over.
        size: (height, width) of the samples, pixels.
        length: how many samples.
        seed: of order and augmentation; sample i is the same whoever draws it.
        augmented: mirror half of the pictures, and change their colours.
        lidar: with the LiDAR points that each picture shows.
    """

    def __init__(
        self, frames: Sequence[RoadFrame], classes: Sequence[str], size: tuple[int, int], length: int, seed: int,
        augmented: bool = True, lidar: bool = False,
    ) -> None:  # fmt: skip
        self.lidar = lidar
        self.frames, self.classes, self.size = frames, tuple(classes), size
        self.length, self.seed, self.augmented = length, seed, augmented

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < self.length:
            raise IndexError(f"sample {i} of {self.length}")
        epoch, place = divmod(i, len(self.frames))
        order = np.random.default_rng((self.seed, epoch, 3)).permutation(len(self.frames))
        frame = self.frames[int(order[place])]
        sample = sample_of(frame, self.classes, self.size, self.lidar)
        return augment_sample(sample, np.random.default_rng((self.seed, i, 4))) if self.augmented else sample


def sample_of(frame: RoadFrame, classes: Sequence[str], size: tuple[int, int], lidar: bool = False) -> dict[str, Any]:
    """One picture with its boxes as `losses.loss` takes them; with `lidar` also the LiDAR points that it shows.

    Raises:
        ValueError: the picture has no truth.
    """
    if frame.objects is None:
        raise ValueError(f"{frame.path} has no truth to learn from; KITTI keeps it in label_2")
    shown = frame.read()
    fitted = inference.resize_to_network(shown.image, frame.camera.K.float(), size)
    index = torch.tensor([classes.index(c) if c in classes else -1 for c in frame.classes])
    objects = frame.objects
    labels = index[objects.labels]
    rows = labels >= 0
    objects, labels = objects[rows], labels[rows]
    n = len(labels)
    unknown = torch.full((n, 3), float("nan"))
    ignored = (frame.ignored.float() - torch.tensor([0.0, fitted.top, 0.0, fitted.top])) * fitted.scale.float().repeat(2)
    points = {"lidar": _lidar_points(frame, fitted.K, size)} if lidar else {}
    return {
        **points, "ignored": ignored,
        "image": fitted.image, "K": fitted.K, "labels": labels, "cam_from_obj": objects.cam_from_obj.float(),
        "sizes": objects.sizes.float(),
        "velocities": unknown if objects.velocities is None else objects.velocities.float(),
        "attributes": torch.full((n,), -1) if objects.attributes is None else objects.attributes,
        "visibility": visibility(objects), "name": frame.name,
    }  # fmt: skip


def _lidar_points(frame: RoadFrame, K: Tensor, size: tuple[int, int]) -> Tensor:
    """LiDAR points before the camera and in its picture, (m, 3), metres, camera frame."""
    if not frame.lidar or frame.cam_from_lidar is None:
        return torch.zeros(0, 3)
    points = se3.transform(frame.cam_from_lidar, nuscenes.read_lidar(frame.lidar).double()).float()
    points = points[points[:, 2] > road_config.Z_MIN]
    pixels = camera_ops.project(points, K, road_config.Z_MIN)
    inside = (pixels > -0.5).all(1) & (pixels < pixels.new_tensor([size[1] - 0.5, size[0] - 0.5])).all(1)
    return points[inside]


def visibility(objects: RoadObjects) -> Tensor:
    """About which share of each object a picture shows, from what its data set says; 0 where no sensor has seen it. (N,)."""
    share = torch.ones(len(objects))
    if objects.truncation is not None:
        share = share * (1 - objects.truncation.float().clamp(0, 1))
    if objects.occlusion is not None:
        known = torch.tensor([SEEN[k] for k in range(4)])
        share = share * known[objects.occlusion.clamp(0, 3)]
    if objects.points is not None:
        share = share * (objects.points != 0)
    if objects.visibility is not None:
        share = share * objects.visibility.float()
    return share


def augment_sample(sample: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The same sample in other colours, half of the time in a mirror."""
    flip, image = rng.random() < 0.5, sample["image"]
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    image = torch.from_numpy(augment.photometric(pixels, rng, 0.5)).permute(2, 0, 1).float() / 255
    changed = {**sample, "image": image}
    if flip:
        changed["image"] = image.flip(-1)
        changed["K"] = inference.mirrored_K(sample["K"], image.shape[-1])
        changed["cam_from_obj"] = inference.mirrored_pose(sample["cam_from_obj"])
        changed["velocities"] = sample["velocities"] * torch.tensor([-1.0, 1.0, 1.0])
        if "ignored" in sample:
            x0, y0, x1, y1 = sample["ignored"].unbind(-1)
            changed["ignored"] = torch.stack([image.shape[-1] - x1, y0, image.shape[-1] - x0, y1], -1)
        if "lidar" in sample:
            changed["lidar"] = sample["lidar"] * torch.tensor([-1.0, 1.0, 1.0])
    return changed


def _in_classes(sample: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """A sample of drawn roads with the labels of some classes, without the others."""
    index = torch.tensor([classes.index(c) if c in classes else -1 for c in road_scene.CLASSES])
    labels = index[sample["labels"]]
    keys = ("cam_from_obj", "sizes", "velocities", "attributes", "visibility")
    rows = {k: sample[k][labels >= 0] for k in keys}
    return {"image": sample["image"], "K": sample["K"], "name": sample["name"], "labels": labels[labels >= 0], **rows}


class DrawnSamples(Dataset):
    """Roads drawn on the fly as samples of some classes."""

    def __init__(self, roads: road_scene.RoadSamples, classes: Sequence[str]) -> None:
        self.roads, self.classes = roads, tuple(classes)

    def __len__(self) -> int:
        return len(self.roads)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return _in_classes(self.roads[i], self.classes)


def count_boxes(frames: Iterable[RoadFrame], classes: Sequence[str], where: str) -> int:
    """How many boxes there are to learn from.

    Raises:
        ValueError: pictures without truth, or no box of the classes in front of a camera.
    """
    count, pictures = 0, 0
    for frame in frames:
        if frame.objects is None:
            raise ValueError(f"{where}: {frame.path} has no truth to learn from; KITTI keeps it in the folder label_2")
        own = torch.tensor([c in classes for c in frame.classes])[frame.objects.labels]
        count += int((own & (frame.objects.cam_from_obj[:, 2, 3] > road_config.Z_MIN)).sum())
        pictures += 1
    if count == 0:
        raise ValueError(
            f"{where}: no box of {', '.join(classes)} stands in front of the camera in {pictures} pictures; all labels may be "
            "DontCare or other classes, or the boxes lie behind the camera"
        )
    return count
