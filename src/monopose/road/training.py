"""Training the network that finds boxes in 3D: on KITTI, nuScenes, an `infos.json`, or roads drawn on the fly, in the loop of
`training.loop.fit`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .. import weights
from ..datasets.road import SIZES, RoadFrame
from ..synthesis import road_scene
from ..synthesis import scene as synth
from ..synthesis.road_scene import RoadConfig
from ..training import loop
from ..training.loop import Recipe, TrainConfig
from ..training.setup import Schedule, configure, describe_preset, train_config
from ..training.warm_start import Rows, copy_fitting
from . import config as road_config
from . import losses, network
from .samples import DrawnSamples, FrameSamples, classes_of, count_boxes, is_synthetic, read_frames, sizes_of

PER_CLASS = {"head.logits.": 1, "head.offsets.": 2, "class_embedding.": 1}  # parameters with rows for every class
OF_POSES = (  # parameters that learn from poses
    "sampler.offsets.", "stretch.", "point_head.", "object_head.scale.", "object_head.direct.", "projection_sigma",
    "pixel_head.", "coordinate_sigma",
)  # fmt: skip


def make_config(
    data: str | Path, preset: str | None = None, classes: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> road_config.Config:
    """The configuration of a preset for the classes of a data set, with some fields replaced.

    Args:
        data: see `train`.
        preset: of `config.PRESETS`; None: small.
        classes: to learn, in this order; () for those of the data.
        changes: fields of the configuration.

    Raises:
        ValueError: no such preset, class or field.
    """
    frames = [] if is_synthetic(data) else read_frames(data)
    known: tuple[str, ...] = frames[0].classes if frames else road_scene.CLASSES
    if strangers := [c for c in classes if c not in known]:
        raise ValueError(f"{data} has no class {strangers[0]!r}; it has {', '.join(known)}")
    chosen = tuple(classes) or (classes_of(frames) if frames else known)
    own: dict[str, Any] = {}
    if not all(c.lower() in SIZES for c in chosen):
        own["size_means"], own["size_stds"] = sizes_of(frames, chosen)
    return configure("box3d", road_config.PRESETS, preset, changes, chosen, **own)


# ------------------------------------------------------------------------------------------------------------- training


NUSCENES = {"train": 168_780, "trainval": 204_894}  # pictures: six cameras of 28130 and 34149 moments


def _published(v2: bool, trainval: bool) -> Schedule:
    """EPro-PnP-Det's: its configuration files."""
    other = ("the original learns from train and val: --split trainval",) if trainval else ()
    return Schedule(
        "EPro-PnP (Chen et al. 2022), Det", 12, NUSCENES["trainval" if trainval else "train"], batch_size=12,
        drops=(9, 11) if v2 else (10, 11), fields={"backbone_rate": 1.0, "warmup": 0.0},
        differs=(
            *other,
            "the heads have our layers: towers without deformable convolutions, one layer in place of each branch, a dense "
            "tower for each level, points placed from the reference point, one size for all classes, velocities along the ray",
            "the auxiliary losses look at points of a grid in each box, where the original averages cells and resamples them "
            "from box to box; objects are drawn from each picture, not from the batch",
        ),
    )  # fmt: skip


SCHEDULES = {
    name: _published(name.startswith("v2"), name.endswith("trainval")) for name in road_config.PRESETS if name != "small"
}


def make_training(preset: str | None = None, **given: Any) -> TrainConfig:
    """How a preset is trained: as published if it is, with the fields of `TrainConfig` that are given in place of that."""
    return train_config(SCHEDULES.get(preset or ""), given)


def describe(data: str | Path, preset: str | None, config: road_config.Config, training: TrainConfig) -> list[str]:
    """What a published preset does and where it differs from the original, line by line; [] for others."""
    if preset is None or preset not in SCHEDULES:
        return []
    own = {k: getattr(config, k) for k in ("size_means", "size_stds")}
    original = road_config.PRESETS[preset](config.classes, **own)
    return describe_preset(preset, SCHEDULES[preset], original, config, training, make_training(preset))


def check_lidar(config: road_config.Config, frames: Sequence[RoadFrame], where: str) -> None:
    """ValueError where coordinates or depths are to be learned from LiDAR points, and the data have none."""
    without = {"coordinate_weight": config.coordinate_weight, "depth_modes": config.depth_modes}
    weighted = [name for name, value in without.items() if value > 0]
    if weighted and not any(f.lidar for f in frames):
        values = " and ".join(f"{name} is {without[name]:g}" for name in weighted)
        raise ValueError(
            f"{values}, and {where} has no LiDAR points to learn from, as nuScenes' tables name (samples/LIDAR_TOP); "
            f"--set {' '.join(f'{name}=0' for name in weighted)} learns without"
        )


RECIPE = Recipe(
    ("image",), losses.loss, lr=lambda c: c.lr, decay=lambda c: c.weight_decay, collate=road_scene.collate
)  # fmt: skip


def train(
    data: str | Path,
    out: str | Path,
    *,
    names: Sequence[str] = (),
    init: str | Path | None = None,
    augmented: bool = True,
    road: RoadConfig | None = None,
    backgrounds: str | Path | None = None,
    config: TrainConfig | None = None,
    method_config: road_config.Config | None = None,
    adapt: Callable[[network.Model], network.Model] | None = None,
    progress_bar: bool = True,
) -> Path:
    """Train a network that finds boxes in 3D; goes on where an earlier, killed run in `out` stopped.

    Args:
        data: a folder or file as `read_frames` takes it; or "road": synthetic ones, drawn on the fly.
        out: run folder; created.
        names: pictures of a KITTI folder or scenes of nuScenes to learn from; () for all.
        init: weights file of an earlier run to start from, of other classes perhaps.
        augmented: mirror half of the pictures and change their colours; drawn roads are new every time.
        road: what drawn roads show; its size becomes the network's.
        backgrounds: folder of photos to put behind drawn roads; None: skies and patterns.
        config: budget and optimiser.
        method_config: see `make_config`; None: the small network.
        adapt: changes the network before it learns, e.g. so that its encoder stays as it is.
        progress_bar: show one.

    Returns:
        the weights file, out/box3d.safetensors.

    Raises:
        ValueError, FileNotFoundError: the data cannot be read or holds nothing to learn from, or `out` holds a run of another
            configuration.
    """
    out, config = Path(out), config or TrainConfig()
    method_config = method_config or make_config(data)
    notes: dict[str, Any] = {"augmented": augmented, "encoder_learns": adapt is None}
    lidar = method_config.coordinate_weight > 0 or method_config.depth_modes > 0
    samples: Callable[[int, int], Dataset]
    if is_synthetic(data):
        check_lidar(method_config, (), str(data))
        if names:
            raise ValueError("--split names pictures of a data set; drawn roads have none")
        scene = replace(road or RoadConfig(), size=method_config.size)
        photos = synth.read_backgrounds(backgrounds)
        notes["road"] = asdict(scene)

        def samples(length: int, seed: int) -> Dataset:
            return DrawnSamples(road_scene.RoadSamples(scene, photos, seed, 0, length), method_config.classes)
    else:
        if backgrounds is not None:
            raise ValueError(f"--backgrounds belongs to roads that are drawn (--data road); {data} holds pictures")
        frames = read_frames(data, names)
        count = count_boxes(frames, method_config.classes, str(data))
        notes |= {"pictures": len(frames), "boxes": count}
        check_lidar(method_config, frames, str(data))

        def samples(length: int, seed: int) -> Dataset:
            return FrameSamples(frames, method_config.classes, method_config.size, length, seed, augmented, lidar)

    def make() -> network.Model:
        model = network.Model(method_config)
        return model if adapt is None else adapt(model)

    return loop.fit(
        "box3d", RECIPE, method_config, make, samples, out, config, data=Path(data),
        notes={"data": json.dumps(notes)}, progress_bar=progress_bar,
        init_weights=None if init is None else lambda model: start_from(model, init),
    )  # fmt: skip


def start_from(model: Any, path: str | Path) -> None:
    """Copy the parameters of another run that have the same name and shape; of those with a row per class the rows of the
    classes that both know, "Car" and "car" being the same. A run that learned no poses (`Config.poses`) leaves what says where
    objects are as it is.

    Raises:
        ValueError: less than half of the parameters fit: it is another network.
    """
    checkpoint = weights.read(path)
    there = [str(c).lower() for c in checkpoint.config.get("classes", ())]
    here = [c.lower() for c in model.config.classes]
    anew = () if checkpoint.config.get("poses", True) else OF_POSES
    copy_fitting(model, checkpoint, Rows(PER_CLASS, here, there), anew)
