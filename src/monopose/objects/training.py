"""Training on the CAD models of known objects: what each method learns from, in the loop of `training.loop.fit`.

Beside what the loop writes, a run folder holds `objects/`, the meshes.
"""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from .. import weights
from ..datasets.bop import models as bop_models
from ..detection import detector
from ..detection import samples as detection_samples
from ..io.files import atomic_write
from ..io.ply import read_ply
from ..synthesis import samples as crop_samples
from ..synthesis import scene as synth
from ..training import loop
from ..training.loop import Recipe, TrainConfig
from ..training.setup import Schedule, configure, describe_preset, train_config
from ..training.warm_start import OtherNetwork, start_from
from ..types import Camera, ObjectModel
from . import coordinates, heldout, probabilistic, refiner, silhouettes
from . import samples as object_samples
from .gpu_samples import CropSpecs, GpuSampler
from .sources import DataSource, models_root, parse


class Method(NamedTuple):
    """What a method that knows its objects learns from, and how."""

    presets: dict[str, Callable[[tuple[int, ...]], Any]]  # name -> Config of these object ids; the first is the default
    model: Callable[[Any, Mapping[int, ObjectModel]], nn.Module]
    samples: Callable[[Any, crop_samples.Source, int, int], Dataset]  # config, source, length, seed -> drawn on the fly
    pictures: Callable[[Any, crop_samples.Source, DataSource, int, int], Dataset]  # config, source, which, length, seed -> read
    recipe: Recipe
    plans: Plans | None = None  # the same samples, to be drawn on the device that learns
    schedules: Mapping[str, Schedule] = {}  # of the presets that are called as published


class Plans(NamedTuple):
    """Samples that are drawn on the device."""

    samples: Callable[[Any, crop_samples.Source, int, int], Dataset]  # config, source, length, seed
    output_size: Callable[[Any], int]  # side of the targets, pixels


def _crops(c: Any, source: crop_samples.Source, length: int, seed: int) -> object_samples.CropSamples:
    how = c.input_size, c.output_size, c.crop_scale, c.greyed_share, length, seed
    return object_samples.CropSamples(source, *how, shift=c.shift, zoom=c.zoom, even=c.even)


def _bop_crops(c: Any, source: crop_samples.Source, data: DataSource, length: int, seed: int) -> Dataset:
    how = c.input_size, c.output_size, c.crop_scale, c.greyed_share, length, seed
    wrong = {"shift": c.shift, "zoom": c.zoom, "even": c.even}
    return object_samples.BopCropSamples(
        source.models, data.folder, *how, photos=source.photos, listed=data.listed, **wrong
    )  # fmt: skip


def _windows(c: Any, source: crop_samples.Source, length: int, seed: int) -> object_samples.CropSamples:
    return object_samples.CropSamples(source, c.window_size, c.window_size // 2, c.window_scale, 0.0, length, seed)


def _started(c: Any, windows: Dataset, source: crop_samples.Source, seed: int) -> Dataset:
    return object_samples.PerturbedPoseSamples(windows, source.models, c.noise_deg, c.noise_shift, seed)


def _bop_windows(c: Any, source: crop_samples.Source, data: DataSource, length: int, seed: int) -> Dataset:
    side = c.window_size
    windows = object_samples.BopCropSamples(
        source.models, data.folder, side, side // 2, c.window_scale, 0.0, length, seed, photos=source.photos,
        listed=data.listed,
    )  # fmt: skip
    return _started(c, windows, source, seed)


def _no_pictures(c: Any, source: crop_samples.Source, data: DataSource, length: int, seed: int) -> Dataset:
    raise ValueError(
        f"silhouettes are learned from renderings only; {data.folder} holds pictures: give CAD models (--data DIR)"
    )


_PLANNED_CROPS = Plans(lambda c, source, n, seed: CropSpecs(_crops(c, source, n, seed)), lambda c: c.output_size)
_PLANNED_STARTS = Plans(
    lambda c, source, n, seed: _started(c, CropSpecs(_windows(c, source, n, seed)), source, seed),
    lambda c: c.window_size // 2,
)

_NO_FILES = "crops are drawn from the CAD models unless --data names pictures"
_OURS = "one network for all objects, conditioned on the object"


def _cdpn(epochs: float, *differs: str) -> Schedule:
    """EPro-PnP-6DoF's, which is CDPN's: its configuration files and `lib/model.py`."""
    return Schedule(
        "EPro-PnP (Chen et al. 2022), 6DoF", epochs, 1180, True, 32, 500, tuple(epochs * k / 16 for k in (5, 10, 15)),
        {"optimizer": "rmsprop", "lr": 1e-4, "backbone_rate": 1.0, "weight_decay": 0.0, "clip": 1e9},
        (*differs, _OURS, "an epoch is 180 photos and 1000 renderings of an object, " + _NO_FILES),
    )  # fmt: skip


_FROM_COORDINATES = "the original starts from CDPN's first stage: --init FILE of a run with --preset coords"
CDPN_SCHEDULES = {
    "basic": _cdpn(160), "reg": _cdpn(160), "coords": _cdpn(160), "no-model": _cdpn(160),
    "coord-init": _cdpn(160, _FROM_COORDINATES), "long": _cdpn(320, _FROM_COORDINATES), "v2": _cdpn(160, _FROM_COORDINATES),
}  # fmt: skip
PIX2POSE_SCHEDULE = Schedule(
    "Pix2Pose (Park et al. 2019)", 20, 150_000, batch_size=50, drops=(9, 19),
    fields={"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, "clip": 1e9},
    differs=(_OURS + ", where the original trains one network for each", "an epoch is 3000 batches, " + _NO_FILES),
)  # fmt: skip
RNNPOSE_SCHEDULE = Schedule(
    "RNNPose (Xu et al. 2022)", 1, 200_000, batch_size=1,
    fields={"lr": 1e-4, "weight_decay": 1e-4, "warmup": 0.01},
    differs=(
        "sizes, iterations, noise and rate are the paper's, the networks are not: ResNet-34 and our own surface network in "
        "place of RAFT's encoder, SuperPoint and KPConv; " + _OURS,
        "descriptors are pairs within 0.06 radii and apart beyond 0.15 (published: about 0.022 and 0.04, of 20000 points)",
        "damping is relative, the momentum of the optimiser stays at 0.9, " + _NO_FILES,
    ),
)  # fmt: skip

METHODS: dict[str, Method] = {
    "coordinates": Method(
        presets={"unet": lambda ids: coordinates.Config(obj_ids=ids), "pix2pose": coordinates.pix2pose},
        model=lambda config, models: coordinates.Model(config, models),
        samples=_crops,
        pictures=_bop_crops,
        recipe=Recipe(("image", "label"), coordinates.loss, discriminator=coordinates.discriminator_loss, half_on_cpu=True),
        plans=_PLANNED_CROPS,
        schedules={"pix2pose": PIX2POSE_SCHEDULE},
    ),
    "probabilistic": Method(
        presets={
            "unet": lambda ids: probabilistic.Config(obj_ids=ids),
            "basic": probabilistic.basic,
            "reg": probabilistic.reg,
            "coord-init": probabilistic.coord_init,
            "long": probabilistic.coord_init,
            "v2": probabilistic.v2,
            "no-model": probabilistic.no_model,
            "coords": probabilistic.coords,
            "small": probabilistic.small,
            "large": probabilistic.large,
        },
        model=lambda config, models: probabilistic.Model(config, models),
        samples=_crops,
        pictures=_bop_crops,
        recipe=Recipe(("image", "label"), probabilistic.loss),
        plans=_PLANNED_CROPS,
        schedules=CDPN_SCHEDULES,
    ),
    "refiner": Method(
        presets={"medium": lambda ids: refiner.Config(obj_ids=ids), "small": refiner.small, "published": refiner.published},
        model=lambda config, models: refiner.Model(config, models),
        samples=lambda c, source, n, seed: _started(c, _windows(c, source, n, seed), source, seed),
        pictures=_bop_windows,
        recipe=Recipe(("image", "label", "K", "start"), refiner.loss, lr=lambda c: 5e-4, half_on_cpu=True),
        plans=_PLANNED_STARTS,
        schedules={"published": RNNPOSE_SCHEDULE},
    ),
    "silhouettes": Method(
        presets={"unet": lambda ids: silhouettes.Config(obj_ids=ids)},
        model=lambda config, models: silhouettes.Model(config),
        samples=lambda c, source, n, seed: object_samples.PriorCropSamples(source, c, n, seed),
        pictures=_no_pictures,
        recipe=Recipe(("image", "drawn"), silhouettes.loss, half_on_cpu=True),
    ),
    "detector": Method(
        presets={"small": detector.small, "maskrcnn": detector.maskrcnn},
        model=lambda config, models: detector.Model(config),
        samples=lambda c, source, length, seed: detection_samples.SceneSamples(source, c.size, length, seed),
        pictures=lambda c, source, data, length, seed: detection_samples.BopSceneSamples(
            source.models, data.folder, c.size, length, seed, source.photos, data.listed
        ),
        recipe=Recipe(
            ("image",),
            detector.loss,
            lr=lambda c: 1e-4 if c.two_stage else 1e-3,
            collate=detection_samples.collate_scenes,
            half_on_cpu=True,
        ),
    ),
}


def _models_folder(data: Path) -> Path:
    return data / "models" if (data / "models").is_dir() else data


def read_infos(data: Path, obj_ids: tuple[int, ...] = ()) -> dict[int, bop_models.ModelInfo]:
    """What models_info.json says of the objects of a BOP folder (or of its models folder); reads no mesh. Sorted by id.

    Raises:
        FileNotFoundError, ValueError: no such folder or file, or no CAD model of an object.
    """
    folder = _models_folder(data)
    paths, infos = bop_models.model_paths(folder), bop_models.read_models_info(folder)
    unknown = sorted(set(obj_ids or paths) - (set(paths) & set(infos)))
    if unknown:
        known = sorted(set(paths) & set(infos))
        raise ValueError(f"no CAD model for object(s) {unknown} in {folder}; meshes and models_info.json know {known}")
    return {i: infos[i] for i in sorted(obj_ids or paths)}


def read_objects(data: Path, obj_ids: tuple[int, ...] = (), faces: int | None = None) -> dict[int, ObjectModel]:
    """The CAD models of a BOP folder (or of its models folder), thinned to at most `faces` triangles each."""
    from ..mesh.loading import simplified

    models = bop_models.read_models(_models_folder(data), obj_ids or None)
    return {i: simplified(m, faces) if faces and len(m.faces) > faces else m for i, m in models.items()}


def read_data_camera(data: Path) -> Camera:
    """The camera of a BOP folder: camera.json, else 640x480 with 60 degrees of view."""
    from ..io.cameras import read_camera

    for path in (data / "camera.json", data.parent / "camera.json"):
        if path.is_file():
            return read_camera(path)
    return synth.default_camera()


def make_config(
    method: str, obj_ids: tuple[int, ...], preset: str | None = None, changes: Mapping[str, Any] | None = None
) -> Any:
    """The configuration of a method for these objects: a preset with some fields replaced.

    Raises:
        ValueError: no such method, preset or field.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    return configure(method, METHODS[method].presets, preset, changes, obj_ids)


def make_training(method: str, obj_ids: tuple[int, ...], preset: str | None = None, **given: Any) -> TrainConfig:
    """How a preset is trained: as published if it is, with the fields of `TrainConfig` that are given in place of that."""
    schedule = METHODS[method].schedules.get(preset or "")
    return train_config(schedule, given, objects=len(obj_ids))


def describe(
    method: str, obj_ids: tuple[int, ...], preset: str | None, config: Any, training: TrainConfig, started: bool = False
) -> list[str]:
    """What a published preset does and where it differs from its paper, line by line; () for others.

    Args:
        method, obj_ids, preset: as in `make_config`.
        config, training: what is trained, and how.
        started: from the weights of another run.
    """
    schedule = METHODS[method].schedules.get(preset or "")
    if schedule is None or preset is None:
        return []
    schedule = replace(schedule, differs=tuple(d for d in schedule.differs if not (started and d == _FROM_COORDINATES)))
    plan, original = make_training(method, obj_ids, preset), make_config(method, obj_ids, preset)
    return describe_preset(preset, schedule, original, config, training, plan)


def scene_config(
    data: str | Path,
    obj_ids: tuple[int, ...] = (),
    *,
    upright: bool = False,
    elevation_deg: tuple[float, float] = (-10.0, 90.0),
    distance: tuple[float, float] | None = None,
) -> synth.SceneConfig:
    """Where objects may be; the distances, in metres, are fitted to objects and camera unless given."""
    data = Path(data)
    infos = list(read_infos(data, obj_ids).values()) if distance is None else []
    camera = read_data_camera(data)
    return synth.scene_config(infos, camera, upright=upright, elevation_deg=elevation_deg, distance=distance)


def train(
    method: str,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    obj_ids: tuple[int, ...] = (),
    split: str | None = None,
    init: str | Path | None = None,
    backgrounds: str | Path | None = None,
    scene: synth.SceneConfig | None = None,
    config: TrainConfig | None = None,
    method_config: Any = None,
    faces: int = 12_000,
    render: Literal["workers", "device"] | None = None,
    strict: bool = False,
    progress_bar: bool = True,
) -> Path:
    """Train a method on CAD models; goes on where an earlier, killed run in `out` stopped.

    Args:
        method: "coordinates", "probabilistic" or "detector".
        data: a BOP folder with models/ (and camera.json), or a models folder, which are drawn; a split of one, whose pictures
            are read; or several of both with weights, see `sources.parse`. The CAD models are those of the first.
        out: run folder; created.
        obj_ids: objects to learn; () for all. The others of the folder stand among the distractors.
        split: learn from the pictures of this split of a single `data`, e.g. "train_pbr"; None: see `data`.
        init: what to start from: the weights file of another run, of other objects perhaps; "base", the weights that come with
            monopose; "none", ImageNet alone; None: the base, if there is one that fits the configuration.
        backgrounds: folder of photos to put behind the objects, drawn or read; None: procedural ones behind what is drawn.
        scene: where drawn objects may be; None: default with distances that fit the objects and the camera.
        config: budget and optimiser.
        method_config: the method's Config; None: its default for these objects.
        faces: meshes with more triangles are thinned to this for training; poses refer to the original.
        render: where crops are drawn: by the worker processes, or on the device that learns; None: there if it is a GPU.
        strict: stop at a picture of a split that cannot be read. Otherwise others come in its place, and it is listed in
            out/METHOD.unreadable.txt.
        progress_bar: show one.

    Returns:
        the weights file, out/METHOD.safetensors.

    Raises:
        ValueError: unknown method, a method whose pictures only workers draw, or `out` holds a run of another method
            configuration.
        FileNotFoundError: no such weights file, or no base.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    start = _start(method, init)
    from_what = parse([data] if isinstance(data, str | Path) else data, split)
    entry, data, out, config = METHODS[method], models_root(from_what), Path(out), config or TrainConfig()
    everything = read_objects(data, (), faces)
    unknown = sorted(set(obj_ids) - set(everything))
    if unknown:
        raise ValueError(f"no CAD model for object(s) {unknown} in {data}; it holds {sorted(everything)}")
    models = {i: m for i, m in everything.items() if not obj_ids or i in obj_ids}
    others = [replace(m, obj_id=-1) for i, m in everything.items() if i not in models]
    ids = tuple(sorted(models))
    method_config = method_config or make_config(method, ids)
    camera = read_data_camera(data)
    scene = scene or scene_config(data, obj_ids)
    source = crop_samples.Source(models, camera, synth.read_backgrounds(backgrounds), scene, others)
    read = any(s.read for s in from_what)
    listing = out / f"{method}.unreadable.txt"
    mixed = functools.partial(_mixed, entry, from_what, None if strict else listing)
    make_samples = mixed if read or len(from_what) > 1 else entry.samples
    shown = heldout.plain(method_config)
    measure = heldout.measure(method, method_config, models, lambda length, seed: entry.samples(shown, source, length, seed))
    plans = entry.plans if make_samples is entry.samples else None
    if render == "device" and plans is None:
        raise ValueError(f"{'pictures from the disk' if read else method} cannot be drawn on the device; use workers")
    if plans is not None and (torch.cuda.is_available() if render is None else render == "device"):
        make_samples = plans.samples
        batch_transform = lambda device: GpuSampler(source, plans.output_size(method_config), device, config.seed).draw  # noqa: E731
    else:
        batch_transform = None
    notes = {
        "scene": json.dumps(asdict(scene)),
        "data": json.dumps([(str(s.folder), s.weight) for s in from_what]),
        "init": _noted_start(out / f"{method}.safetensors"),
    }

    def init_weights(model: nn.Module) -> None:
        notes["init"] = "none" if start is None else "base" if start.parent == weights.BASE else str(start)
        try:
            if start is not None:
                start_from(model, start)
        except OtherNetwork:
            if init is not None:
                raise
            notes["init"] = "none"  # the base is of another configuration

    def on_start() -> None:
        listing.unlink(missing_ok=True)
        keep_objects(data, out, ids)

    file = loop.fit(
        method, entry.recipe, method_config, lambda: entry.model(method_config, models),
        lambda length, seed: make_samples(method_config, source, length, seed), out, config,
        data=data, labels=ids, notes=notes, init_weights=init_weights,
        on_start=on_start, batch_transform=batch_transform, measure=measure,
        progress_bar=progress_bar,
    )  # fmt: skip
    if listing.is_file():
        count = len(set(listing.read_text(encoding="utf-8").splitlines()))
        warnings.warn(f"{count} pictures cannot be read and were left out; listed in {listing}", stacklevel=2)
    return file


def _start(method: str, init: str | Path | None) -> Path | None:
    """The weights file that a training starts from.

    Raises:
        FileNotFoundError: the base was asked for, and none comes with this monopose.
    """
    if str(init) == "none":
        return None
    if init is not None and str(init) != "base":
        return Path(init)
    file = weights.base("coordinates" if method == "probabilistic" else method)
    if file is None and init is not None:
        raise FileNotFoundError(
            f"no base weights of {method} come with this monopose ({weights.BASE} holds "
            f"{', '.join(weights.weights_in(weights.BASE)) or 'none'}); start from ImageNet alone (--init none) or from the "
            "weights file of another run"
        )
    return file


def _noted_start(file: Path) -> str:
    """What the weights of an earlier part of a training say that it started from."""
    return weights.read(file).notes.get("init", "none") if file.is_file() else "none"


def _mixed(
    entry: Method, from_what: Sequence[DataSource], listing: Path | None, config: Any, source: crop_samples.Source, length: int,
    seed: int,
) -> Dataset:  # fmt: skip
    """Samples of all sources; those whose picture cannot be read are passed over and listed, if there is a `listing`."""
    parts: list[Dataset] = []
    for data in from_what:
        if data.read:
            read = entry.pictures(config, source, data, length, seed)
            parts.append(read if listing is None else object_samples.ReadableSamples(read, listing))
        else:
            parts.append(entry.samples(config, source, length, seed))
    return object_samples.MixedSamples(parts, [data.weight for data in from_what], seed) if len(parts) > 1 else parts[0]


def keep_objects(data: Path, out: Path, ids: tuple[int, ...]) -> None:
    """Keep the meshes beside the weights, so that a run folder is all that prediction needs.

    Raises:
        ValueError: the run was started with other meshes or symmetries; a file is a link to elsewhere.
    """
    source, target = _models_folder(data).resolve(), out / "objects"
    for path in _needed(source, ids):
        if not path.resolve().is_relative_to(source):
            raise ValueError(f"{path} is a link that leads out of {source}; put the file itself there")
        kept = target / path.relative_to(source)
        if kept.exists() and kept.read_bytes() != path.read_bytes():
            raise ValueError(f"{kept} differs from {path}: {out} was started with other objects; choose another --out")
        if not kept.exists():
            with atomic_write(kept) as temporary:
                shutil.copyfile(path, temporary)


def _needed(source: Path, ids: tuple[int, ...]) -> Iterator[Path]:
    """The files of a models folder that these objects need: their metadata, meshes, and textures that lie in it."""
    from ..mesh.appearance import beside

    yield from (path for name in ("models_info.json", "names.json") if (path := source / name).is_file())
    for number, path in bop_models.model_paths(source).items():
        if number in ids:
            yield path
            for name in dict.fromkeys(read_ply(path).textures):
                texture = beside(path, name)[0]
                if texture is not None and texture.is_relative_to(source):
                    yield texture
