"""The configuration of a method: a preset with some fields replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from ..weights import build_config

Config = TypeVar("Config")


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
