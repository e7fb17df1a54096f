"""Training the pose-aware generator of a category, on tableware from seeds, in the loop of `training.loop.fit`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..synthesis import scene
from ..synthesis.shapes import tableware
from ..training import loop
from ..training.loop import Recipe, TrainConfig
from . import model, perceptual, view
from . import samples as category_views

EMA = 0.995  # decay of the averaged weights: trainings are short
INSTANCES = 400  # that it learns from: seeds 0 to 399; those from 400 on are for tests
VIEWS = 24  # of each that are kept
MEASURED = 100  # of them, from which the sizes of the category are known


def make_config(name: str, preset: str | None = None, changes: Mapping[str, Any] | None = None) -> model.Config:
    """The configuration of a preset for a category, its sizes measured, with some fields replaced.

    Raises:
        ValueError: no such category, preset or field.
    """
    from ..weights import build_config

    if name not in tableware.CATEGORIES:
        raise ValueError(f"no category {name!r}; choose one of {', '.join(tableware.CATEGORIES)}")
    if preset is not None and preset not in model.PRESETS:
        raise ValueError(f"category has no preset {preset!r}; choose one of {', '.join(model.PRESETS)}")
    config = model.PRESETS[preset or "standard"](name)
    mean, spread = sizes(name, range(MEASURED))
    return build_config(type(config), {**asdict(config), "size_mean": mean, "size_spread": spread, **(changes or {})}, "--set")


def sizes(name: str, instances: Sequence[int]) -> tuple[float, float]:
    """Geometric mean of the sizes of instances, metres, and standard deviation of their logarithms."""
    found = [math.log(view.size_of(category_views.instance(name, i))) for i in instances]
    logs = torch.tensor(found, dtype=torch.float64)
    return float(logs.mean().exp()), float(logs.std(unbiased=len(found) > 1))


def proportions(name: str, count: int = 50) -> Tensor:
    """Mean smallest and largest corner of the boxes of the first instances, in the diagonal of the box, (2, 3)."""
    shapes = [category_views.instance(name, i) for i in range(count)]
    return torch.stack([s.bounds / view.size_of(s) for s in shapes]).mean(0)


def train_category(
    out: str | Path,
    name: str = "mug",
    *,
    instances: int = INSTANCES,
    backgrounds: str | Path | None = None,
    views: int = VIEWS,
    config: TrainConfig | None = None,
    method_config: model.Config | None = None,
    progress_bar: bool = True,
) -> Path:
    """Train the generator and encoder of one category; goes on where an earlier, killed run in `out` stopped.

    Args:
        out: run folder; created.
        name: of the category, see `synthesis.shapes.tableware`.
        instances: shapes of it to learn from.
        backgrounds: folder of photos to put behind them; None: patterns.
        views: of each shape that are rendered once and kept in `out`, 33 kB each at 64 pixels; 0: render every one anew.
        config: budget and optimiser.
        method_config: see `make_config`; None: the standard network.
        progress_bar: show one.

    Returns:
        the weights file, out/category.safetensors. Its notes say which features compared pictures in training, if any did.

    Raises:
        ValueError: no such category, fewer than one instance, or `out` holds a run of another configuration.
        FileNotFoundError: no photos in `backgrounds`.
    """
    out, config = Path(out), config or TrainConfig(ema=EMA)
    method_config = method_config or make_config(name)
    if method_config.category != name:
        raise ValueError(
            f"the configuration is for {method_config.category}, and {name} was asked for; use configured({name!r})"
        )
    if instances < 1:
        raise ValueError(f"training needs at least one instance of {name}, got {instances}")
    photos = scene.read_backgrounds(backgrounds)
    compared = perceptual.network().name if method_config.perceptual_weight > 0 else "none"
    recipe = Recipe(("image", "visible", "view"), model.loss, lr=lambda c: c.lr)

    def samples(length: int, seed: int) -> Dataset:
        side = method_config.input_size
        drawn = category_views.CategoryViews(name, range(instances), side, length=length, seed=seed, photos=photos)
        return (
            category_views.CachedViews(drawn, out / f"views_{name}_{instances}x{views}_{side}.bin", views) if views else drawn
        )

    return loop.fit(
        "category", recipe, method_config, lambda: model.Model(method_config), samples, out, config,
        data=Path("tableware"), notes={"data": json.dumps({"category": name, "instances": instances}), "features": compared},
        progress_bar=progress_bar,
    )  # fmt: skip
