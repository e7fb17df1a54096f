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
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geometry import boxes3d, rotation, se3
from ..io.files import atomic_folder, index_place
from ..io.records import Array, image_size, intrinsics, numbers, quaternion, sane
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
        FileNotFoundError, ValueError: a table is missing or broken.
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


BLOCK = 200  # samples whose boxes are projected at once
ROWS = 20_000  # annotations that are turned into arrays at once


def _made(folder: Path, version: str) -> dict[str, Array]:
    """All columns, from the tables; the same as those of `nuscenes.frame`, many pictures at once."""
    tables = nuscenes.read_tables(folder, version, annotations=False)
    samples = list(tables.rows["sample"])
    shots = [  # pictures, sample by sample
        (k, channel, tables.row("sample_data", tables.data[sample][channel]))
        for k, sample in enumerate(samples)
        for channel in nuscenes.CAMERAS
        if channel in tables.data[sample]
    ]
    if not shots:
        raise ValueError(f"{folder / version} lists no picture of a camera")
    data, of_sample = [row for _, _, row in shots], np.array([k for k, _, _ in shots])
    mounts: dict[str, tuple[Tensor, Any]] = {}
    for row in data:
        token = row["calibrated_sensor_token"]
        if token not in mounts:
            mount = tables.row("calibrated_sensor", token)
            size = image_size(row["height"], row["width"], row.where)
            K = intrinsics(mount["camera_intrinsic"], f"{mount.where}: 'camera_intrinsic'", size)
            mounts[token] = _poses([mount])[0], K
    pictures: dict[str, Any] = {
        "K": np.array([mounts[row["calibrated_sensor_token"]][1] for row in data]),
        "size": np.array([image_size(row["height"], row["width"], row.where) for row in data]),
        "timestamp": np.array([row.seconds() for row in data]),
        "ego_from_cam": torch.stack([mounts[row["calibrated_sensor_token"]][0] for row in data]),
        "global_from_ego": _poses([tables.row("ego_pose", row["ego_pose_token"]) for row in data]),
    }
    cam_from_global = se3.inverse(pictures["global_from_ego"] @ pictures["ego_from_cam"])
    swept = [tables.data[sample].get("LIDAR_TOP") for sample in samples]
    sweeps = {token: tables.row("sample_data", token) for token in swept if token is not None}
    stood = torch.zeros(len(samples), 4, 4, dtype=torch.float64)
    if sweeps:
        at = torch.tensor([k for k, token in enumerate(swept) if token is not None])
        mount_poses = _poses([tables.row("calibrated_sensor", row["calibrated_sensor_token"]) for row in sweeps.values()])
        stood[at] = _poses([tables.row("ego_pose", row["ego_pose_token"]) for row in sweeps.values()]) @ mount_poses
    pictures["cam_from_lidar"] = cam_from_global @ stood[of_sample]
    files = [sweeps[token].word("filename") if token is not None else "" for token in swept]
    scenes = [tables.row("scene", tables.rows["sample"][sample]["scene_token"]).word("name") for sample in samples]
    words = {
        "path": [row.word("filename") for row in data], "name": [row.word("token") for row in data],
        "sample": [samples[k] for k in of_sample], "channel": [channel for _, channel, _ in shots],
        "lidar": [files[k] for k in of_sample], "scene": [scenes[k] for k in of_sample],
    }  # fmt: skip
    for name, column in words.items():
        paths = name in ("path", "lidar")
        pictures[name] = np.array([(os.path.normpath(w) if paths and w else w).encode() for w in column])
    del data, shots, sweeps, words
    for name in ("sample_data", "ego_pose"):  # most of what is in memory
        del tables.rows[name]  # type: ignore[attr-defined]
    annotated, first = _annotated(tables, folder, version, samples)
    boxes: list[dict[str, Array]] = []
    counts = np.zeros(len(of_sample), np.int64)
    for start in range(0, len(samples), BLOCK):
        low, high = np.searchsorted(of_sample, [start, start + BLOCK])
        held = first[of_sample[low:high] + 1] - first[of_sample[low:high]]  # boxes of each picture's sample
        picture = np.repeat(np.arange(low, high), held)
        box = np.arange(len(picture)) - np.repeat(np.cumsum(held) - held, held) + first[of_sample[picture]]
        shown = _shown(annotated, box, picture, cam_from_global, pictures)
        counts[low:high] = np.bincount(picture[shown.pop("row")] - low, minlength=high - low)
        boxes.append(shown)
    pictures["first"] = np.concatenate([[0], np.cumsum(counts)])
    columns = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in pictures.items()}
    for name in _BOXES:
        columns[name] = np.concatenate([block.pop(name) for block in boxes])
    return columns


def _shown(
    annotated: dict[str, Any], box: Array, picture: Array, cam_from_global: Tensor, pictures: dict[str, Any]
) -> dict[str, Array]:
    """What pictures show of boxes, pair by pair; "row": which of the pairs."""
    centre = annotated["pose"][box, :3, 3]
    motion = cam_from_global[picture]
    depth = (motion[:, 2, :3] * centre).sum(-1) + motion[:, 2, 3]
    near = np.flatnonzero((depth + annotated["sizes"][box].norm(dim=-1) / 2 > 0).numpy())  # the others lie behind the camera
    box, picture = box[near], picture[near]
    motion = cam_from_global[picture]
    pose = motion @ annotated["pose"][box]
    pose = se3.from_rt(pose[:, :3, :3] @ nuscenes.ZUP_FROM_OBJ, pose[:, :3, 3])
    edges = torch.zeros(len(box), 4, dtype=torch.float64)
    sizes = pictures["size"][picture]
    there = pictures["size"][picture[0] : picture[-1] + 1] if len(picture) else sizes
    for height, width in set(map(tuple, there.tolist())):
        own = np.flatnonzero((sizes == (height, width)).all(1))
        K = torch.from_numpy(pictures["K"][picture[own]])
        edges[own] = boxes3d.project(pose[own], annotated["sizes"][box[own]], K, (height, width))
    seen = np.flatnonzero(((edges[:, 2] > edges[:, 0]) & (edges[:, 3] > edges[:, 1])).numpy())
    v = (annotated["velocities"][box[seen], None] @ motion[seen, :3, :3].mT)[:, 0]
    found = {"cam_from_obj": pose[seen], "boxes": edges[seen], "velocities": v}
    found |= {name: annotated[name][box[seen]] for name in ("labels", "sizes", "attributes", "points", "visibility")}
    return {name: value.numpy() for name, value in found.items()} | {"row": near[seen]}


def _annotated(tables: nuscenes.Tables, folder: Path, version: str, samples: Sequence[str]) -> tuple[dict[str, Any], Array]:
    """The boxes of the ten classes in the map, sample by sample, and the first of each sample, (S + 1,)."""
    number: dict[str, int] = {}  # of every token that is named
    place = {sample: k for k, sample in enumerate(samples)}
    label: dict[str, int] = {}  # of an instance; -1: of none of the classes
    parts: dict[str, list[Array]] = {}
    listed = nuscenes.each_row(folder, version, "sample_annotation")
    while chunk := list(islice(listed, ROWS)):
        for row in chunk:
            if row["instance_token"] not in label:
                name = nuscenes.CLASS_OF.get(tables.category(row))
                label[row["instance_token"]] = -1 if name is None else CLASSES.index(name)
            if row["sample_token"] not in place:
                tables.row("sample", row["sample_token"])  # says so
        chunk = [row for row in chunk if label[row["instance_token"]] >= 0]
        column: dict[str, Any] = {
            "sample": [place[row["sample_token"]] for row in chunk],
            "labels": [label[row["instance_token"]] for row in chunk],
            "translation": _numbers(chunk, "translation", 3), "wlh": _numbers(chunk, "size", 3), "rotation": _rotations(chunk),
            "attributes": [nuscenes.attribute(tables, row) for row in chunk], "points": [row.points() for row in chunk],
            "visibility": np.array([nuscenes.VISIBLE.get(str(row.get("visibility_token")), 1.0) for row in chunk], np.float32),
        }  # fmt: skip
        if not (column["wlh"] > 0).all():
            _ = [row.size() for row in chunk]  # says which
        for name in ("token", "prev", "next"):
            column[name] = [number.setdefault(row[name], len(number)) if row[name] else -1 for row in chunk]
        for name, values in column.items():
            parts.setdefault(name, []).append(np.asarray(values))
    c = {name: np.concatenate(values) for name, values in parts.items()}
    if not c:
        none = torch.zeros(0, 4, 4, dtype=torch.float64)
        empty = {"pose": none, "sizes": none[:, 0, :3], "velocities": none[:, 0, :3]}
        words = dict.fromkeys(("labels", "attributes", "points"), torch.zeros(0, dtype=torch.int64))
        return empty | words | {"visibility": torch.zeros(0)}, np.zeros(len(samples) + 1, np.int64)
    row_of = np.full(len(number) + 1, -1)
    row_of[c["token"]] = np.arange(len(c["token"]))
    ends, here = [], np.arange(len(c["token"]))
    for name in ("prev", "next"):
        end = row_of[c[name]]
        if (lost := np.flatnonzero((c[name] >= 0) & (end < 0))).size:
            token = list(number)[c[name][lost[0]]]
            raise ValueError(f"{folder}: sample_annotation.json has no token {token!r}; are all tables of one version?")
        ends.append(np.where(c[name] >= 0, end, here))
    times = np.array([tables.rows["sample"][sample].seconds() for sample in samples])
    gap = times[c["sample"][ends[1]]] - times[c["sample"][ends[0]]]
    known = (gap > 0) & (gap <= nuscenes.LONGEST * np.where((c["prev"] >= 0) & (c["next"] >= 0), 2, 1))
    moved = c["translation"][ends[1]] - c["translation"][ends[0]]
    v = np.where(known[:, None], moved / np.where(known, gap, 1)[:, None], np.nan)
    order = np.argsort(c["sample"], kind="stable")
    pose = se3.from_rt(rotation.matrix_from_quat_wxyz(torch.from_numpy(c["rotation"])), torch.from_numpy(c["translation"]))
    whole = {name: torch.from_numpy(c[name][order].astype(np.int64)) for name in ("labels", "attributes", "points")}
    first = np.searchsorted(c["sample"][order], np.arange(len(samples) + 1))
    return whole | {
        "pose": pose[order], "sizes": boxes3d.lhw_from_wlh(torch.from_numpy(c["wlh"][order])),
        "velocities": torch.from_numpy(v[order]), "visibility": torch.from_numpy(c["visibility"][order]),
    }, first  # fmt: skip


def _numbers(rows: Sequence[Any], key: str, count: int) -> Array:
    """`row[key]` of all rows, (N, count), float64; what is none is said by row."""
    with suppress(ValueError):
        values = np.array([row[key] for row in rows])
        if values.dtype.kind in "iuf" and values.shape == (len(rows), count) and sane(values):
            return values.astype(np.float64)
    return np.array([numbers(row, key, (count,), row.where) for row in rows]).reshape(-1, count)


def _rotations(rows: Sequence[Any]) -> Array:
    """Unit quaternions wxyz, (N, 4)."""
    quat = _numbers(rows, "rotation", 4)
    norm = np.linalg.norm(quat, axis=1, keepdims=True)
    if (abs(norm - 1) > 0.01).any():
        _ = [quaternion(row, "rotation", row.where) for row in rows]  # says which
    return quat / norm


def _poses(rows: Sequence[Any]) -> Tensor:
    """The rigid motions of rotation (wxyz) and translation, (N, 4, 4), float64."""
    turned = rotation.matrix_from_quat_wxyz(torch.from_numpy(_rotations(rows)))
    return se3.from_rt(turned, torch.from_numpy(_numbers(rows, "translation", 3)))
