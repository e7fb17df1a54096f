"""Training the viewpoint classifier: on photos in Pix3D's layout, or on CAD models alone, in the loop of `learning.fit`.

Beside what the loop writes, a run folder holds `crops_*.npy`, the decoded photos.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from . import learning
from .data import bop, furniture, pix3d, synth, viewpoint_crops
from .learning import Recipe, TrainConfig
from .methods import viewpoint
from .types import ObjectModel

PRESETS = {"modern": viewpoint.modern, "combined": viewpoint.combined, "separate": viewpoint.separate}
FURNITURE = "furniture"  # in place of a data folder: the shapes of data/furniture.py
SHAPES = 40  # of them per category


def is_photos(data: str | Path) -> bool:
    """Whether a folder is in Pix3D's layout."""
    return (Path(data) / "pix3d.json").is_file()


def read_models(data: str | Path) -> dict[str, list[ObjectModel]]:
    """CAD models by category, +Z up, front towards -Y: of a BOP folder, where every object is a category, or furniture."""
    if str(data) == FURNITURE:
        return {c: [furniture.shape(c, seed) for seed in range(SHAPES)] for c in furniture.CATEGORIES}
    folder = Path(data) / "models" if (Path(data) / "models").is_dir() else Path(data)
    return {model.name: [model] for model in bop.read_models(folder, None).values()}


def configured(
    data: str | Path, preset: str | None = None, categories: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> viewpoint.Config:
    """The configuration of a preset for the categories of a data set, with some fields replaced.

    Raises:
        ValueError: no such preset or field.
    """
    from .weights import build_config

    if preset is not None and preset not in PRESETS:
        raise ValueError(f"viewpoint has no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    changes = dict(changes or {})
    there = tuple(categories) or _categories(data)
    first = {k: changes[k] for k in ("inputs", "input_size") if k in changes}  # others of the preset follow from these
    config = PRESETS[preset or "modern"](there, **first)
    return build_config(type(config), {**asdict(config), **changes}, "--set")


def train_viewpoint(
    data: str | Path,
    out: str | Path,
    *,
    by: Literal["image", "shape"] = "image",
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
        by: what is left out for validation, seeded by 0: photos, or CAD models with all their photos.
        share: of each category that is left out.
        normals: of photos: "oracle" renders them from the aligned CAD model, "files" takes them from the folder normals/,
            "none"; or a run folder with normals.safetensors, whose network predicts them and the boundaries.
        augment: flip, turn, zoom and recolour photos; None: for the modern network, as the published ones were trained without.
        epochs: passes over the photos; None: those of the configuration, if neither steps nor minutes say otherwise.
        backgrounds: folder of photos to put behind CAD models; None: patterns.
        config: budget and optimiser.
        method_config: see `configured`; None: the modern network.
        progress_bar: show one.

    Returns:
        the weights file, out/viewpoint.safetensors.

    Raises:
        ValueError, FileNotFoundError: the data cannot be read, or `out` holds a run of another configuration.
    """
    data, out, config = data if str(data) == FURNITURE else Path(data), Path(out), config or TrainConfig()
    method_config = method_config or configured(data)
    notes = {"data": json.dumps({"split_by": by, "share": share, "normals": normals})}
    recipe = Recipe(
        ("image",), viewpoint.loss, lr=viewpoint.published_lr,
        rate=viewpoint.rate if method_config.step_epochs else None,
        decay=lambda c: None if c.net == "modern" else 0.0,  # the published networks learn by Adam
    )  # fmt: skip
    if is_photos(data):
        records = [r for r in pix3d.read(data) if r.category in method_config.categories]
        kept, _ = pix3d.split(records, by, 0, share)
        if epochs is not None or (config.steps == TrainConfig.steps and config.minutes is None):
            passes = epochs if epochs is not None else method_config.epochs
            config = replace(config, steps=math.ceil(passes * len(kept) / config.batch_size))
        given, edges, name = surface_maps(normals)
        crops = viewpoint_crops.RecordCrops(
            kept, method_config.input_size, categories=method_config.categories, cache=out, normals=given, edges=edges,
            augment=method_config.net == "modern" if augment is None else augment, scale=method_config.crop_scale,
            predictor_name=name,
        )  # fmt: skip

        def samples(length: int, seed: int) -> Dataset:
            drawn = copy.copy(crops)  # of the same file
            drawn.length, drawn.seed, drawn.in_order = length, seed, False
            return drawn

    else:
        models = {c: m for c, m in read_models(data).items() if c in method_config.categories}
        photos = synth.read_backgrounds(backgrounds)

        def samples(length: int, seed: int) -> Dataset:
            return viewpoint_crops.CadCrops(
                models, method_config.input_size, categories=method_config.categories, photos=photos,
                scale=method_config.crop_scale, length=length, seed=seed,
            )  # fmt: skip

    return learning.fit(
        "viewpoint", recipe, method_config, lambda: viewpoint.Model(method_config), samples, out, config,
        data=Path(data), notes=notes, progress_bar=progress_bar,
    )  # fmt: skip


def surface_maps(normals: str) -> tuple[Any, Literal["classical", "files", "predicted"], str]:
    """Where normals and boundaries of photos come from: what `RecordCrops` takes as normals, edges, predictor_name."""
    if normals in ("oracle", "files", "none"):
        return normals, "files" if normals == "files" else "classical", ""
    from .methods import normals as surfaces
    from .weights import load_network

    network = load_network(Path(normals) / "normals.safetensors", surfaces.Config, surfaces.Model)

    def predicted(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return surfaces.predict(network, images)

    return predicted, "predicted", f"{Path(normals).resolve()}"


def _categories(data: str | Path) -> tuple[str, ...]:
    if str(data) == FURNITURE:
        return tuple(furniture.CATEGORIES)
    if is_photos(data):
        return tuple(sorted({r.category for r in pix3d.read(data)}))
    return tuple(sorted(read_models(data)))
