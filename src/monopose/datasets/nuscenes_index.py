"""nuScenes' pictures with their boxes in arrays on the disk: made once from the tables, then opened at once and shared by all.

The index lies in the folder of the tables (v1.0-trainval/.monopose-index), or in the user's cache where that cannot be written
to. It is made anew when a table has another time or size.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..io.files import atomic_folder, index_place
from ..io.records import Array
from ..types import Camera
from . import nuscenes
from .road import CLASSES, RoadFrame, RoadObjects

_VERSION = 1
_WORDS = ("path", "name", "sample", "channel", "lidar", "scene")  # of a picture
_PICTURES = ("K", "size", "ego_from_cam", "global_from_ego", "cam_from_lidar", "timestamp", "first", *_WORDS)
_BOXES = ("labels", "cam_from_obj", "sizes", "boxes", "velocities", "attributes", "points", "visibility")


class Frames(Sequence[RoadFrame]):
    """Pictures whose arrays stay on the disk until one is asked for; made by `open_frames`. Pickled by its name."""

    def __init__(self, folder: Path, version: str, columns: dict[str, Array], chosen: Array) -> None:
        self.folder, self.version, self._columns, self._chosen = folder, version, columns, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, i: Any) -> Any:
        """One picture, or of a slice those that it picks."""
        if isinstance(i, slice):
            return Frames(self.folder, self.version, self._columns, self._chosen[i])
        row, c = int(self._chosen[i]), self._columns
        word = {name: str(c[name][row], "utf-8") for name in _WORDS}
        first, last = int(c["first"][row]), int(c["first"][row + 1])
        objects = RoadObjects(**{name: _tensor(c[name][first:last]) for name in _BOXES})
        height, width = c["size"][row].tolist()
        return RoadFrame(
            str(self.folder / word["path"]), Camera(_tensor(c["K"][row]), (height, width)), CLASSES, objects,
            torch.zeros(0, 4, dtype=torch.float64), word["name"], word["sample"], word["channel"],
            _tensor(c["ego_from_cam"][row]), _tensor(c["global_from_ego"][row]), float(c["timestamp"][row]),
            str(self.folder / word["lidar"]) if word["lidar"] else "",
            _tensor(c["cam_from_lidar"][row]) if word["lidar"] else None,
        )  # fmt: skip

    def of_scenes(self, scenes: Iterable[str]) -> Frames:
        """The pictures of scenes ("scene-0103"); of all without any. ValueError for one that is not there."""
        wanted = sorted(set(scenes))
        there = self._columns["scene"][self._chosen]
        known = set(np.unique(there).tolist())
        if missing := [name for name in wanted if name.encode() not in known]:
            some = ", ".join(sorted(str(name, "utf-8") for name in known)[:6])
            raise ValueError(f"{self.folder} has no scene {missing[0]!r}; it has {some}, ...")
        rows = np.isin(there, [name.encode() for name in wanted]) if wanted else np.ones(len(there), bool)
        return Frames(self.folder, self.version, self._columns, self._chosen[rows])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self.version, self._chosen)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values))


def open_frames(folder: str | Path, version: str = "v1.0-mini") -> Frames:
    """All pictures of a nuScenes folder, through the index, which is made if need be.

    Raises:
        FileNotFoundError, ValueError: see `nuscenes.read_tables` and `nuscenes.frame`.
    """
    folder = Path(folder)
    columns = _columns(folder, version)
    return Frames(folder, version, columns, np.arange(len(columns["K"])))


def _reopened(folder: Path, version: str, chosen: Array) -> Frames:
    return Frames(folder, version, _columns(folder, version), chosen)


def _columns(folder: Path, version: str) -> dict[str, Array]:
    tables = folder / version
    place, stamp = index_place(tables), _stamp(tables)
    if not _is_of(place, stamp):
        made = _made(folder, version)
        with atomic_folder(place, replace=True) as temporary:  # of another process that was faster it is the same
            for name, values in made.items():
                np.save(temporary / f"{name}.npy", values)
            (temporary / "index.json").write_text(json.dumps({"version": _VERSION, "stamp": stamp}), encoding="utf-8")
        if not _is_of(place, stamp):
            raise ValueError(f"{place} could not be written, or was taken away at the same time; try again")
    return {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in (*_PICTURES, *_BOXES)}


def _is_of(place: Path, stamp: str) -> bool:
    with suppress(OSError, ValueError):
        return json.loads((place / "index.json").read_text(encoding="utf-8")) == {"version": _VERSION, "stamp": stamp}
    return False


def _stamp(tables: Path) -> str:
    state = hashlib.sha256()
    for name in nuscenes.TABLES:
        with suppress(OSError):  # reading them says what is missing
            found = (tables / f"{name}.json").stat()
            state.update(repr((name, found.st_size, found.st_mtime_ns)).encode())
    return state.hexdigest()


def _made(folder: Path, version: str) -> dict[str, Array]:
    """All columns, from the tables."""
    tables = nuscenes.read_tables(folder, version)
    scene_of = {t: tables.row("scene", row["scene_token"]).word("name") for t, row in tables.rows["sample"].items()}
    pictures: dict[str, list[Any]] = {name: [] for name in _PICTURES}
    boxes: dict[str, list[Array]] = {name: [] for name in _BOXES}
    count = 0
    nowhere = torch.zeros(4, 4, dtype=torch.float64)
    for frame in nuscenes.each_frame(tables, nuscenes.samples(tables)):
        assert frame.objects is not None
        sweep = frame.cam_from_lidar
        motions = frame.ego_from_cam, frame.global_from_ego, nowhere if sweep is None else sweep
        paths = [os.path.relpath(path, folder) if path else "" for path in (frame.path, frame.lidar)]
        words = paths[0], frame.name, frame.sample, frame.channel, paths[1], scene_of[frame.sample]
        values = (frame.camera.K, frame.camera.size, *motions, frame.timestamp, count, *(w.encode() for w in words))
        for name, value in zip(_PICTURES, values, strict=True):
            pictures[name].append(value.numpy() if isinstance(value, Tensor) else value)
        for name in _BOXES:
            boxes[name].append(getattr(frame.objects, name).numpy())
        count += len(frame.objects)
    pictures["first"].append(count)
    if not pictures["K"]:
        raise ValueError(f"{folder / version} lists no picture of a camera")
    return {k: np.array(v) for k, v in pictures.items()} | {k: np.concatenate(v) for k, v in boxes.items()}
