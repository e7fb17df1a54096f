"""The configuration of a method: a preset with some fields replaced, and how a preset is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from ..weights import build_config
from .loop import TrainConfig

Config = TypeVar("Config")


@dataclass(frozen=True)
class Schedule:
    """How a preset that is called as published was trained, and what of that is not done here."""

    paper: str  # where it is published
    epochs: float  # passes over the samples
    epoch: int = 0  # samples of the original's pass, of one object where `per_object`; 0: not known, then steps are as usual
    per_object: bool = False
    batch_size: int = 16
    warmup_steps: int = 0
    drops: tuple[float, ...] = ()  # epochs after which the rate falls to a tenth
    fields: Mapping[str, Any] = field(default_factory=dict)  # of `TrainConfig`
    differs: tuple[str, ...] = ()  # from the original, whatever the options say


def configure(
    method: str, presets: Mapping[str, Callable[..., Config]], name: str | None, changes: Mapping[str, Any] | None, *args: Any,
    **fields: Any,
) -> Config:  # fmt: skip
    """The configuration of a preset, with some fields replaced.

    Args:
        method: whose presets these are, for errors.
        presets: name -> function that makes the configuration; the first is the default.
        name: of the preset; None: the default.
        changes: field -> value, as JSON has it.
        args, fields: what the preset is made for: object ids, categories, classes.

    Raises:
        ValueError: no such preset or field, or a value of another type.
    """
    if name is not None and name not in presets:
        raise ValueError(f"{method} has no preset {name!r}; choose one of {', '.join(presets)}")
    config = presets[name or next(iter(presets))](*args, **fields)
    return build_config(type(config), {**asdict(config), **(changes or {})}, "--set")  # type: ignore[call-overload]


def train_config(
    schedule: Schedule | None, given: Mapping[str, Any], *, objects: int = 1, samples: int | None = None, **default: Any
) -> TrainConfig:
    """How to train: what was given, else as the preset was published, else the default.

    Args:
        schedule: of the preset; None: it is not a published one.
        given: fields of `TrainConfig`.
        objects: number of them that are learned.
        samples: of a pass, where the data have so many; None: as many as the original's.
        default: fields of `TrainConfig` that are neither given nor published.

    A schedule is measured in epochs, so another batch size has another number of steps. With a budget of minutes it is the
    same schedule, compressed.
    """
    if schedule is None:
        return TrainConfig(**{**default, **given})
    batch = given.get("batch_size", schedule.batch_size)
    own: dict[str, Any] = {"batch_size": batch, **schedule.fields, "drops": tuple(d / schedule.epochs for d in schedule.drops)}
    size = samples or schedule.epoch * (objects if schedule.per_object else 1)
    if size:
        own["steps"] = math.ceil(schedule.epochs * size / batch)
    steps = given.get("steps", own.get("steps", TrainConfig.steps))
    if schedule.warmup_steps:
        own["warmup"] = min(schedule.warmup_steps / steps, 0.5)
    return TrainConfig(**{**default, **own, **given})


def describe_preset(
    preset: str, schedule: Schedule, original: Any, config: Any, training: TrainConfig, plan: TrainConfig
) -> list[str]:  # fmt: skip
    """What a published preset does, and where it is not the paper's, line by line.

    Args:
        preset: its name.
        schedule: as published.
        original, config: the preset's configuration, and the one that is trained.
        training: how it is trained.
        plan: how it would be without any options.
    """
    how = [f"{training.optimizer}, batches of {training.batch_size}, {training.steps} steps"]
    if training.lr is not None:
        how[0] += f", rate {training.lr:g}"
    if schedule.drops:
        how.append("a tenth after " + ", ".join(f"{d:g}" for d in schedule.drops) + f" of {schedule.epochs:g} epochs")
    changed = [
        f"{f.name} {getattr(new, f.name)!r} (published {getattr(old, f.name)!r})"
        for old, new in ((original, config), (plan, training))
        for f in fields(new)
        if getattr(old, f.name) != getattr(new, f.name) and f.name not in ("workers", "seed", "warmup", "drops")
    ]
    lines = [f"preset {preset}, {schedule.paper}: {'; '.join(how)}"]
    return lines + [f"  not as published: {what}" for what in (*changed, *schedule.differs)]
