"""Checked reading for BOP's JSON files, and the millimetre: errors say file, place, key, what was expected and what came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PathLike = str | Path
Array = NDArray[Any]
MM = 1e-3  # metres in a millimetre
NEAREST = 0.02  # metres; a median distance to the camera below this means that somebody wrote metres as millimetres


def read_json(path: PathLike) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: says what lies in the folder.
        ValueError: says the line that is broken.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"no {path.name} in {path.parent} ({found(path.parent)})") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}); was it cut short while written?"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; expected JSON") from None


def found(folder: Path) -> str:
    """What a folder holds, in a few words, for error messages."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith("."))
    return "found: " + (", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing")


def value(record: Any, key: str, where: str) -> Any:
    """`record[key]`, or an error that says where and which keys there are."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be a JSON object with key '{key}', got {type(record).__name__}")
    if key not in record:
        raise ValueError(f"{where}: key '{key}' is missing (has: {', '.join(record) or 'nothing'})")
    return record[key]


def numbers(record: Any, key: str, shape: tuple[int, ...], where: str) -> Array:
    """`record[key]` as finite float64 of `shape`, whether the file nests or flattens it."""
    raw = value(record, key, where)
    try:
        array = np.asarray(raw, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: '{key}' must be numbers, got {raw!r}") from None
    wanted = int(np.prod(shape))
    if array.size != wanted:
        raise ValueError(f"{where}: '{key}' must have {wanted} number{'s' * (wanted != 1)}, got {array.size}")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: '{key}' holds NaN or infinity")
    return array.reshape(shape)


def table(records: list[Any], key: str, shape: tuple[int, ...], where: list[str]) -> Array:
    """`numbers` of many records at once, (N, *shape): one numpy call when all is well, the exact culprit when not."""
    try:
        array = np.array([record[key] for record in records], np.float64).reshape(len(records), *shape)
        if np.isfinite(array).all():
            return array
    except (KeyError, TypeError, ValueError):
        pass
    return np.array([numbers(r, key, shape, w) for r, w in zip(records, where, strict=True)]).reshape(len(records), *shape)


def check_translations(t: Array, where: str, key: str) -> None:
    """Raise when translations (N, 3), read as millimetres and given in metres, can only have been metres.

    Zero rows (failed estimates) do not count. The median decides, so that single bad poses pass.
    """
    distance = np.linalg.norm(t, axis=-1)
    distance = distance[distance > 0]
    if len(distance) and np.median(distance) < NEAREST:
        raise ValueError(
            f"{where}: '{key}' must be millimetres, but half of the objects would be nearer than "
            f"{np.median(distance) / MM:.3g} mm to the camera; were metres written? Multiply by 1000"
        )


def check_rotations(R: Array, where: list[str] | str, key: str, tolerance: float = 0.2) -> None:
    """Raise when a matrix of R (N, 3, 3) is nowhere near a rotation; small errors are left alone, as in LM-O."""
    off = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).reshape(len(R), 9).max(-1, initial=0)
    bad = np.flatnonzero((off > tolerance) | (np.linalg.det(R) <= 0))
    if len(bad):
        place = where if isinstance(where, str) else where[bad[0]]
        raise ValueError(f"{place}: '{key}' must be a rotation matrix row by row, got {R[bad[0]].ravel().round(4).tolist()}")
