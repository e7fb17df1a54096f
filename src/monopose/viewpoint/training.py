"""Training the viewpoint classifier, and the network that predicts normals for it: on photos in Pix3D's layout, or on CAD
models alone, in the loop of `training.loop.fit`.

Beside what the loop writes, a run folder holds `crops_*.bin`, the decoded photos.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from .. import weights
from ..datasets import pix3d
from ..datasets.bop import models as bop_models
from ..synthesis import scene
from ..synthesis.shapes import furniture
from ..training import loop
from ..training.loop import Recipe, TrainConfig
from ..training.setup import Schedule, configure, describe_preset, train_config
from ..types import ObjectModel
from . import model as viewpoint
from . import normals as normals_method
from . import samples as viewpoint_crops

PRESETS = {"modern": viewpoint.modern, "combined": viewpoint.combined, "separate": viewpoint.separate}
FURNITURE = "furniture"  # in place of a data folder: the shapes of data/furniture.py
SHAPES = 40  # of them per category


def _is_synthetic(data: str | Path) -> bool:
    """Whether the word furniture was given, and no folder of that name."""
    return str(data) == FURNITURE and not Path(data).is_dir()


def read_models(data: str | Path) -> dict[str, list[ObjectModel]]:
    """CAD models by category, +Z up, front towards -Y: of a BOP folder, where every object is a category, or furniture."""
    if _is_synthetic(data):
        return {c: [furniture.shape(c, seed) for seed in range(SHAPES)] for c in furniture.CATEGORIES}
    if not Path(data).is_dir():
        raise FileNotFoundError(
            f"no folder {data}; expected photos in Pix3D's layout (pix3d.json), a BOP folder with models/, or the word "
            f"{FURNITURE}"
        )
    folder = Path(data) / "models" if (Path(data) / "models").is_dir() else Path(data)
    return {model.name: [model] for model in bop_models.read_models(folder, None).values()}


def make_config(
    data: str | Path, preset: str | None = None, categories: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> viewpoint.Config:
    """The configuration of a preset for the categories of a data set, with some fields replaced.

    Raises:
        ValueError: no such preset or field.
    """
    changes = dict(changes or {})
    first = {k: changes[k] for k in ("inputs", "input_size") if k in changes}  # others of the preset follow from these
    return configure("viewpoint", PRESETS, preset, changes, tuple(categories) or _categories(data), **first)


PUBLISHED = Schedule(
    "N. Nejatishahidin, viewpoints on Pix3D", 25, batch_size=10, fields={"optimizer": "adam", "clip": 1e9},
    differs=(
        "rates are the README's, 1e-5 (combined) and 1e-3 (separate), a tenth every 3 epochs; the notebook that made the "
        "numbers took 1e-4 for all and never stepped its schedule",
        "branches are joined sample by sample and logits have no ReLU, which the original's mistakes were",
    ),
)  # fmt: skip


def make_training(preset: str | None = None, **given: Any) -> TrainConfig:
    """How a preset is trained: as published if it is, with the fields of `TrainConfig` that are given in place of that."""
    return train_config(PUBLISHED if preset in ("combined", "separate") else None, given)


def describe(data: str | Path, preset: str | None, config: viewpoint.Config, training: TrainConfig) -> list[str]:
    """What a published preset does and where it differs from the original, line by line; [] for others."""
    if preset not in ("combined", "separate"):
        return []
    given = {"inputs": config.inputs}
    original = make_config(data, preset, config.categories, given)
    return describe_preset(preset, PUBLISHED, original, config, training, make_training(preset))


def make_normals_config(preset: str | None = None, changes: Mapping[str, Any] | None = None) -> normals_method.Config:
    """The configuration of the network that predicts normals; ValueError for an unknown preset or field."""
    return configure("normals", {"small": normals_method.Config, "large": normals_method.large}, preset, changes)


def train(
    data: str | Path,
    out: str | Path,
    *,
    by: str = "image",
    share: float = 0.1,
    normals: str = "oracle",
    augment: bool | None = None,
    epochs: float | None = None,
    backgrounds: str | Path | None = None,
    config: TrainConfig | None = None,
    method_config: viewpoint.Config | None = None,
    progress_bar: bool = True,
) -> Path:
    """Train a viewpoint classifier; goes on where an earlier, killed run in `out` stopped.

    Args:
        data: a folder in Pix3D's layout, of which `share` is left out; a BOP folder, whose CAD models are rendered on the fly
            and stand with +Z up and their front towards -Y; or "furniture".
        out: run folder; created.
        by: what is left out for validation, seeded by 0: photos ("image"), or CAD models with all their photos ("shape"); or a
            file that says it, see `pix3d.read_split`.
        share: of each category that is left out.
        normals: of photos: "oracle" renders them from the aligned CAD model, "files" takes them from the folder normals/,
            "none"; or a run folder with normals.safetensors, whose network predicts them and the boundaries.
        augment: flip, turn, zoom and recolour photos; None: for the modern network, as the published ones were trained without.
        epochs: passes over the photos; None: those of the configuration, if neither steps nor minutes say otherwise.
        backgrounds: folder of photos to put behind CAD models; None: patterns.
        config: budget and optimiser.
        method_config: see `make_config`; None: the modern network.
        progress_bar: show one.

    Returns:
        the weights file, out/viewpoint.safetensors.

    Raises:
        ValueError, FileNotFoundError: the data cannot be read, or `out` holds a run of another configuration.
    """
    data, out, config = Path(data), Path(out), config or TrainConfig()
    method_config = method_config or make_config(data)
    learned = {"split_by": by, "share": share, "normals": normals} if pix3d.is_here(data) else {"split_by": None}
    notes = {"data": json.dumps(learned)}
    recipe = Recipe(
        ("image",), viewpoint.loss, lr=viewpoint.published_lr,
        rate=viewpoint.rate if method_config.step_epochs else None,
        decay=lambda c: None if c.net == "modern" else 0.0,  # the published networks learn by Adam
    )  # fmt: skip
    side, scale = method_config.input_size, method_config.crop_scale
    _check_used(data, backgrounds, by != "image" and "--by", normals != "oracle" and "--normals", epochs and "--epochs")
    if pix3d.is_here(data):
        augmented = method_config.net == "modern" if augment is None else augment
        crops = _crops(data, out, method_config.categories, by, share, side, scale, normals, augmented)
        if epochs is not None or (config.steps == TrainConfig.steps and config.minutes is None):
            passes = epochs if epochs is not None else method_config.epochs
            config = replace(config, steps=math.ceil(passes * len(crops) / config.batch_size))
        samples = _endless(crops)
    else:
        samples = _rendered(data, method_config.categories, side, scale, backgrounds)
    return loop.fit(
        "viewpoint", recipe, method_config, lambda: viewpoint.Model(method_config), samples, out, config,
        data=Path(data), notes=notes, progress_bar=progress_bar,
    )  # fmt: skip


def train_normals(
    data: str | Path,
    out: str | Path,
    *,
    categories: Sequence[str] = (),
    backgrounds: str | Path | None = None,
    config: TrainConfig | None = None,
    method_config: normals_method.Config | None = None,
    progress_bar: bool = True,
) -> Path:
    """Train the network that predicts normals and boundaries of a crop; goes on where an earlier, killed run stopped.

    Args:
        data: see `viewpoint.training`; the truth of photos is rendered from their aligned CAD models.
        out: run folder; created.
        categories: which to learn from; () for all.
        backgrounds: folder of photos to put behind CAD models; None: patterns.
        config: budget and optimiser.
        method_config: None: the small network.
        progress_bar: show one.

    Returns:
        the weights file, out/normals.safetensors.
    """
    data, out, config = Path(data), Path(out), config or TrainConfig()
    method_config = method_config or normals_method.Config()
    chosen = tuple(categories) or _categories(data)
    _check_used(data, backgrounds)
    side, scale = method_config.input_size, method_config.crop_scale
    if pix3d.is_here(data):
        samples = _endless(_crops(data, out, chosen, "image", 0.1, side, scale, "oracle", augment=True))
    else:
        samples = _rendered(data, chosen, side, scale, backgrounds)
    return loop.fit(
        "normals", Recipe(("image",), normals_method.loss), method_config, lambda: normals_method.Model(method_config), samples,
        out, config, data=Path(data), progress_bar=progress_bar,
    )  # fmt: skip


def _check_used(data: Path, backgrounds: str | Path | None, *of_photos: Any) -> None:
    """ValueError for what these data cannot use: backgrounds of photos, and options of photos where CAD models are drawn."""
    if pix3d.is_here(data) and backgrounds is not None:
        raise ValueError(f"--backgrounds belongs to CAD models that are drawn; {data} holds photos, which stay as they are")
    if not pix3d.is_here(data) and any(of_photos):
        raise ValueError(f"{next(filter(None, of_photos))} belongs to photos in Pix3D's layout; the models of {data} are drawn")


def surface_maps(normals: str) -> tuple[Any, Literal["classical", "files", "predicted"], str]:
    """Where normals and boundaries of photos come from: what `PhotoCrops` takes as normals, edges, predictor_name."""
    if normals in ("oracle", "files", "none"):
        return normals, "files" if normals == "files" else "classical", ""
    file = weights.find_run(normals) / "normals.safetensors"
    network = weights.load_network(file, "normals", normals_method.Config, normals_method.Model)
    return normals_method.predictor(network), "predicted", str(file.resolve())


def _crops(
    data: str | Path, out: Path, categories: Sequence[str], by: str, share: float, side: int,
    scale: float, normals: str, augment: bool,
) -> viewpoint_crops.PhotoCrops:  # fmt: skip
    """The training part of a Pix3D folder."""
    kept, _ = pix3d.split(pix3d.read(data, categories), by, 0, share)
    given, edges, name = surface_maps(normals)
    return viewpoint_crops.PhotoCrops(
        kept, side, categories=categories, cache=out, normals=given, edges=edges, augment=augment, scale=scale,
        predictor_name=name,
    )  # fmt: skip


def _endless(crops: viewpoint_crops.PhotoCrops) -> Callable[[int, int], Dataset]:
    """Passes over the same crops in random order, as long as they are needed."""

    def samples(length: int, seed: int) -> Dataset:
        drawn = copy.copy(crops)  # of the same file
        drawn.length, drawn.seed, drawn.in_order = length, seed, False
        return drawn

    return samples


def _rendered(
    data: str | Path, categories: Sequence[str], side: int, scale: float, backgrounds: str | Path | None
) -> Callable[[int, int], Dataset]:
    """Crops of CAD models, drawn on the fly."""
    models = {c: m for c, m in read_models(data).items() if c in categories}
    photos = scene.read_backgrounds(backgrounds)

    def samples(length: int, seed: int) -> Dataset:
        return viewpoint_crops.RenderedCrops(
            models, side, categories=categories, photos=photos, scale=scale, length=length, seed=seed
        )

    return samples


def _categories(data: str | Path) -> tuple[str, ...]:
    if _is_synthetic(data):
        return tuple(furniture.CATEGORIES)
    if pix3d.is_here(data):
        return tuple(sorted({r.category for r in pix3d.read(data)}))
    return tuple(sorted(read_models(data)))
