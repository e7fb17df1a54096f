"""Training the pose-aware generator of a category, on CAD models of it or on tableware from seeds, in the loop
of `training.loop.fit`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.bop import models as bop_models
from ..mesh.loading import load_mesh
from ..mesh.readers import FORMATS
from ..synthesis import scene
from ..synthesis.shapes import devices, tableware
from ..training import loop
from ..training.loop import Recipe, TrainConfig
from ..training.setup import Schedule, configure, describe_preset, train_config
from ..types import ObjectModel
from . import model, view
from . import samples as category_views

EMA = 0.995  # decay of the averaged weights: trainings are short
INSTANCES = 400  # that it learns from: seeds 0 to 399; those from 400 on are for tests
VIEWS = 24  # of each that are kept
MEASURED = 100  # of them, from which the sizes of the category are known
SHOWN = 5  # shapes that were not learned from, in pictures of what was


class Shapes(NamedTuple):
    """What a category is learned from."""

    category: str
    models: Sequence[ObjectModel]  # +Z up; none: tableware, from seeds
    learned: Sequence[int]  # places in the models, or seeds, to learn from
    held_out: Sequence[int]  # others, to see what was learned; of few models the first again


def made_shapes(category: str, instances: int = INSTANCES) -> Shapes:
    """Shapes of a category that are made in code. ValueError for another category, or fewer than one instance."""
    known = (*tableware.CATEGORIES, *devices.CATEGORIES)
    if category not in known:
        raise ValueError(f"no category {category!r}; choose one of {', '.join(known)}")
    if instances < 1:
        raise ValueError(f"training needs at least one instance of {category}, got {instances}")
    return Shapes(category, (), range(instances), range(max(instances, INSTANCES), max(instances, INSTANCES) + SHOWN))


def read_shapes(data: str | Path, category: str | None = None, unit: str | None = None) -> Shapes:
    """CAD models of one category; of ten or more every tenth is held out.

    Args:
        data: folder of mesh files (PLY, OBJ, STL, OFF, GLB), or a BOP folder or its models folder; or one that holds a folder
            named CATEGORY with them. All of them +Z up, with the same front.
        category: its name; None: that of the folder.
        unit: of the numbers in mesh files, as `load_mesh` takes it. BOP models are in millimetres.

    Raises:
        FileNotFoundError, ValueError: no such folder, no meshes in it, a mesh that cannot be read, no unit.
    """
    folder = Path(data)
    for inner in (category, "models"):
        folder = folder / inner if inner is not None and (folder / inner).is_dir() else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {data}; expected mesh files of one category, or folders of them named by category")
    if (folder / "models_info.json").is_file():
        models = list(bop_models.read_models(folder).values())
    else:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in FORMATS)
        models = [load_mesh(path, unit, obj_id=i, name=path.stem) for i, path in enumerate(files)]
    if not models:
        inside = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())[:8])
        hint = f"; it holds the folders {inside}: name one with --category" if inside else ""
        raise ValueError(f"{folder} holds no mesh files (PLY, OBJ, STL, OFF, GLB){hint}")
    held_out = range(9, len(models), 10)
    learned = [i for i in range(len(models)) if i not in held_out]
    name = category or Path(data).resolve().name
    return Shapes(name, models, learned, list(held_out)[:SHOWN] or learned[:SHOWN])


def make_config(
    shapes: Shapes, preset: str | None = None, changes: Mapping[str, Any] | None = None, symmetric: bool | None = None
) -> model.Config:
    """The configuration of a preset for a category, its sizes measured, with some fields replaced.

    Args:
        shapes: of the category.
        preset: of `model.PRESETS`; None: standard.
        changes: fields of the configuration.
        symmetric: whether any rotation about +Z leaves the objects as they are; None: as it is known of what is made in code.

    Raises:
        ValueError: no such preset or field.
    """
    mean, spread = sizes(_models(shapes, shapes.learned[:MEASURED]))
    known = {"size_mean": mean, "size_spread": spread} | ({} if symmetric is None else {"symmetric": symmetric})
    return configure("category", model.PRESETS, preset, {**known, **(changes or {})}, shapes.category)


PUBLISHED = Schedule(
    "Chen et al. 2020, neural analysis by synthesis", 200, batch_size=256,
    fields={"optimizer": "adam", "betas": (0.5, 0.999), "weight_decay": 0.0, "clip": 1e9, "hold": 0.5},
    differs=(
        "the KL divergence counts, AdaIN's parameters have no ReLU, log-variances no tanh (reported as defects of its code)",
        "shapes and views are ours: how the original's were rendered, and how many, is not published, so give --steps",
    ),
)  # fmt: skip


def make_training(preset: str | None = None, **given: Any) -> TrainConfig:
    """How a preset is trained: as published if it is, with the fields of `TrainConfig` that are given in place of that."""
    return train_config(PUBLISHED if preset == "published" else None, given, ema=EMA)


def describe(shapes: Shapes, preset: str | None, config: model.Config, training: TrainConfig) -> list[str]:
    """What the published preset does and where it differs from its paper, line by line; [] for others."""
    if preset != "published":
        return []
    original = model.published(shapes.category)
    known = {k: getattr(config, k) for k in ("size_mean", "size_spread", "symmetric")}
    return describe_preset(preset, PUBLISHED, replace(original, **known), config, training, make_training(preset))


def _models(shapes: Shapes, places: Sequence[int]) -> list[ObjectModel]:
    return [shapes.models[i] if shapes.models else category_views.instance(shapes.category, i) for i in places]


def sizes(models: Sequence[ObjectModel]) -> tuple[float, float]:
    """Geometric mean of the sizes of models, metres, and standard deviation of their logarithms."""
    logs = torch.tensor([math.log(view.size_of(m)) for m in models], dtype=torch.float64)
    return float(logs.mean().exp()), float(logs.std(unbiased=True)) if len(logs) > 1 else 0.0


def proportions(shapes: Shapes, count: int = 50) -> Tensor:
    """Mean smallest and largest corner of the boxes of the first instances, in the diagonal of the box, (2, 3)."""
    return torch.stack([m.bounds / view.size_of(m) for m in _models(shapes, shapes.learned[:count])]).mean(0)


def train(
    shapes: Shapes,
    out: str | Path,
    *,
    backgrounds: str | Path | None = None,
    views: int = VIEWS,
    config: TrainConfig | None = None,
    method_config: model.Config | None = None,
    progress_bar: bool = True,
) -> Path:
    """Train the generator and encoder of one category; goes on where an earlier, killed run in `out` stopped.

    Args:
        shapes: what to learn from: `made_shapes("mug")`, or your own, `read_shapes(FOLDER)`.
        out: run folder; created.
        backgrounds: folder of photos to put behind them; None: patterns.
        views: of each shape that are rendered once and kept in `out`, 33 kB each at 64 pixels; 0: render every one anew.
        config: budget and optimiser.
        method_config: see `make_config`; None: the standard network.
        progress_bar: show one.

    Returns:
        the weights file, out/category.safetensors. Its notes say which features compared pictures in training, if any did.

    Raises:
        ValueError: `out` holds a run of another configuration, or the configuration is that of another category.
        FileNotFoundError: no photos in `backgrounds`.
    """
    out, config, name = Path(out), config or TrainConfig(ema=EMA), shapes.category
    method_config = method_config or make_config(shapes)
    if method_config.category != name:
        raise ValueError(f"the configuration is for {method_config.category}, and the shapes are of {name}; use make_config")
    photos = scene.read_backgrounds(backgrounds)
    compared = method_config.perceptual_features if method_config.perceptual_weight > 0 else "none"
    recipe = Recipe(("image", "visible", "view"), model.loss, lr=lambda c: c.lr)
    count, side = len(shapes.learned), method_config.input_size
    kept = out / f"views_{name}_{count}x{views}_{side}{_digest(shapes.models)}.bin"
    notes: dict[str, Any] = {"category": name, "instances": count}
    if shapes.models:
        notes["bounds"] = proportions(shapes).tolist()

    def samples(length: int, seed: int) -> Dataset:
        drawn = category_views.CategoryViews(
            name, shapes.learned, side, length=length, seed=seed, photos=photos, models=shapes.models
        )
        return category_views.CachedViews(drawn, kept, views) if views else drawn

    return loop.fit(
        "category", recipe, method_config, lambda: model.Model(method_config), samples, out, config,
        data=Path(name if shapes.models else "tableware"), notes={"data": json.dumps(notes), "features": compared},
        progress_bar=progress_bar,
    )  # fmt: skip


def _digest(models: Sequence[ObjectModel]) -> str:
    """Other views are kept of other models: what their file is called, "" for tableware."""
    if not models:
        return ""
    content = b"".join(m.vertices.numpy().tobytes() for m in models)
    return "_" + hashlib.blake2b(content, digest_size=4).hexdigest()
