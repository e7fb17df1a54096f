"""Large BOP splits: what their JSON files say, kept once as arrays beside them, and the layouts that have no scene folders.

A split is read scene by scene, or tar by tar, into `.monopose-index` in its folder: one file per column, which every process
maps into its memory, so that a set of 100,000 pictures opens at once and all processes share it. It is made anew where a file
that it was made from has another time or size. Of a folder that cannot be written to, it lies in the user's cache.

Three layouts: scene folders (000001/scene_gt.json ...); images one by one (SCENE_IMAGE.rgb.jpg, .camera.json, .gt.json ...);
tars of those (shard-000000.tar ...), whose pictures are read where they lie.

Source: bop_toolkit's datasets v2 ("imagewise", "webdataset"), https://github.com/thodan/bop_toolkit
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...io import records
from ...io.files import INDEX, atomic_folder, index_place
from ...io.packed import read_member, tar_members
from ...io.records import Array, PathLike
from . import scenes as bop_scenes
from .scenes import Members, Scene, SceneTruth, scene_of

_VERSION = 1
_IMAGES: dict[str, tuple[str, tuple[int, ...]]] = {  # columns with a row per image: type and shape of one
    "scene": ("i8", ()), "im_id": ("i8", ()), "K": ("f8", (3, 3)), "depth_unit": ("f8", ()),
    "cam_from_world": ("f4", (4, 4)), "rows": ("i8", ()), "places": ("i8", (3, 3)),
}  # fmt: skip
_TRUTH: dict[str, tuple[str, tuple[int, ...]]] = {  # per object in an image
    "obj_id": ("i8", ()), "gt_id": ("i8", ()), "R": ("f8", (3, 3)), "t": ("f8", (3,)), "boxes": ("f8", (4,)),
    "boxes_visible": ("f8", (4,)), "visibility": ("f8", ()), "truth_im_id": ("i8", ()),
}  # fmt: skip
_MEMBER = re.compile(r"(\d+)_(\d+)\.(.+)")


class Split:
    """A split folder whose scenes are views of shared arrays; made by `open_split`. Pickled by its name.

    scenes: in the order of their numbers.
    """

    def __init__(self, folder: Path, sensor: str, about: Mapping[str, Any], columns: Mapping[str, Array]) -> None:
        self.folder, self.sensor = folder, sensor
        self.columns = columns
        tars = tuple(folder / name for name in about["tars"])
        self.scenes = [self._scene(row, tars, about["packed"]) for row in about["scenes"]]

    def _scene(self, row: Sequence[int], tars: tuple[Path, ...], packed: bool) -> Scene:
        number, first, last, start, end, truth, info = row
        c = self.columns
        im_ids, K, unit, world = (c[name][first:last] for name in ("im_id", "K", "depth_unit", "cam_from_world"))
        known = None
        if truth:
            part = {name: c[name][start:end] for name in _TRUTH}
            more = (part["boxes"], part["boxes_visible"], part["visibility"]) if info else (None, None, None)
            known = SceneTruth(part["truth_im_id"], part["obj_id"], part["gt_id"], part["R"], part["t"], *more)
        alone = packed or self.folder.name.isdecimal()
        folder = self.folder if alone else self.folder / f"{number:06d}"
        members = Members(tars, c["places"][first:last], self.folder) if packed else None
        return Scene(folder, number, self.sensor, im_ids, K, unit, world, known, members)

    def __len__(self) -> int:
        return len(self.columns["im_id"])

    def __reduce__(self) -> tuple[Any, ...]:
        return open_split, (self.folder, self.sensor)


def open_split(folder: PathLike, sensor: str = "") -> Split:
    """Open a split folder (lmo/train_pbr, one of tars, a scene folder) through its index, which is made if need be.

    Raises:
        FileNotFoundError, ValueError: no such folder, nothing in it; naming file, image and key of what is wrong.
    """
    folder = Path(folder)
    kind, sources = _layout(folder)
    stamp = _stamp(sources, sensor)
    place = index_place(folder, f"{INDEX}-{sensor}" if sensor else INDEX)
    about = _about(place)
    if about is None or about["stamp"] != stamp:
        with atomic_folder(place, replace=True) as temporary:  # of another process that was faster it is the same
            _write(temporary, folder, sensor, kind, sources, stamp)
        about = _about(place)
        if about is None:
            raise ValueError(f"{place} could not be written, or was taken away at the same time; try again")
    columns = {}
    for name, (kind_of, shape) in {**_IMAGES, **_TRUTH}.items():
        rows = about["images" if name in _IMAGES else "objects"]
        file = place / f"{name}.bin"
        columns[name] = np.memmap(file, kind_of, "r", shape=(rows, *shape)) if rows else np.zeros((0, *shape), kind_of)
    return Split(folder, sensor, about, columns)


def open_scenes(split: PathLike, wanted: Iterable[int], sensor: str = "") -> dict[int, Scene]:
    """Scenes of a split folder by number; of scene folders only theirs are read, other layouts are opened through the index.

    Raises:
        FileNotFoundError, ValueError: no such folder, scene; naming file, image and key of what is wrong.
    """
    split, numbers = Path(split), list(dict.fromkeys(wanted))
    if not split.is_dir() or split.name.isdecimal() or _layout(split)[0] == "scenes":
        return {n: bop_scenes.open_scene(split / f"{n:06d}", sensor) for n in numbers}
    there = {scene.scene_id: scene for scene in open_split(split, sensor).scenes}
    if missing := [n for n in numbers if n not in there]:
        raise FileNotFoundError(f"no scene {missing[0]} in {split} (it holds {', '.join(map(str, list(there)[:6]))})")
    return {n: there[n] for n in numbers}


def _about(place: Path) -> dict[str, Any] | None:
    file = place / "index.json"
    if not file.is_file():
        return None
    about = json.loads(file.read_text(encoding="utf-8"))
    return about if about.get("version") == _VERSION else None


def _layout(folder: Path) -> tuple[str, list[Path]]:
    """Which of the three layouts a folder has, and the scene folders, the tars, or the folder itself."""
    if folder.is_dir() and folder.name.isdecimal():
        return "scenes", [folder]
    if folder.is_dir():
        inside = sorted(folder.iterdir())
        if tars := [p for p in inside if p.suffix == ".tar" and p.name.startswith("shard-")]:
            return "tars", tars
        if scenes := [p for p in inside if p.name.isdecimal() and p.is_dir()]:
            return "scenes", sorted(scenes, key=lambda p: int(p.name))
        if any(_MEMBER.fullmatch(p.name) and p.name.endswith(".camera.json") for p in inside):
            return "images", [folder]
    bop_scenes.scenes(folder)  # raises, and says what is there
    raise FileNotFoundError(f"no scene in {folder}")


def _stamp(sources: list[Path], sensor: str) -> str:
    """What tells an index that its files have changed: times and sizes; of images one by one, how many files there are."""
    suffix = f"_{sensor}" if sensor else ""
    parts = [*(f"scene_{n}{suffix}.json" for n in ("camera", "gt", "gt_info")), f"rgb{suffix}", f"gray{suffix}"]
    state = hashlib.sha256(repr((_VERSION, sensor)).encode())
    for source in sources:
        for file in [source] if source.suffix == ".tar" else [source / part for part in parts]:
            with suppress(OSError):
                found = file.stat()
                state.update(repr((source.name, file.name, found.st_size * file.is_file(), found.st_mtime_ns)).encode())
    if len(sources) == 1 and not sources[0].name.isdecimal() and sources[0].is_dir():
        state.update(repr(sum(_MEMBER.fullmatch(p.name) is not None for p in sources[0].iterdir())).encode())
    return state.hexdigest()


# --------------------------------------------------------------------------------------------------------------- writing


def _write(place: Path, folder: Path, sensor: str, kind: str, sources: list[Path], stamp: str) -> None:
    """Read everything, scene by scene or tar by tar, and append it to the columns; scenes in several tars are put together."""
    table: list[tuple[int, int, int, int, int, bool, bool]] = []
    images = objects = 0
    files = {name: open(place / f"{name}.bin", "wb") for name in (*_IMAGES, *_TRUTH)}  # noqa: SIM115
    try:
        for scene, places in _pieces(folder, sensor, kind, sources):
            count, truth = len(scene.im_ids), scene.truth
            ids = np.zeros(0, np.int64) if truth is None else truth.im_id  # sorted
            rows = np.searchsorted(ids, scene.im_ids, "right") - np.searchsorted(ids, scene.im_ids)
            values = {"scene": np.full(count, scene.scene_id), "rows": rows, "places": places, "im_id": scene.im_ids}
            values |= {"K": scene.K, "depth_unit": scene.depth_unit, "cam_from_world": scene.cam_from_world}
            if truth is not None:
                values |= {"truth_im_id": truth.im_id, "obj_id": truth.obj_id, "gt_id": truth.gt_id, "R": truth.R, "t": truth.t}
                blank = np.full((len(truth.im_id), 4), np.nan)
                more = {"boxes": truth.boxes, "boxes_visible": truth.boxes_visible, "visibility": truth.visibility}
                values |= {k: (blank if k != "visibility" else blank[:, 0]) if v is None else v for k, v in more.items()}
            for name, value in values.items():
                files[name].write(np.ascontiguousarray(value, (_IMAGES | _TRUTH)[name][0]).tobytes())
            n = 0 if truth is None else len(truth.im_id)
            info = truth is not None and truth.visibility is not None
            table.append((scene.scene_id, images, images + count, objects, objects + n, truth is not None, info))
            images, objects = images + count, objects + n
    finally:
        for file in files.values():
            file.close()
    if len({row[0] for row in table}) < len(table) or table != sorted(table):
        table = _sorted(place, images, objects, table)
    about = {"version": _VERSION, "stamp": stamp, "images": images, "objects": objects, "scenes": table}
    about |= {"packed": kind != "scenes", "tars": [p.name for p in sources] if kind == "tars" else []}
    (place / "index.json").write_text(json.dumps(about), encoding="utf-8")


def _pieces(folder: Path, sensor: str, kind: str, sources: list[Path]) -> Iterator[tuple[Scene, Array]]:
    """Scenes, or parts of scenes, with the places of their members."""
    for n, source in enumerate(sources):
        if kind == "scenes":
            scene = bop_scenes.open_scene(source, sensor)
            there = bop_scenes.pictures_there(scene)
            yield _rows(scene, there), np.full((int(there.sum()), 3, 3), -1, np.int64)
            continue
        images = _tar_images(source, n) if kind == "tars" else _loose_images(folder)
        for scene_id, found in images.items():
            parts = {key: {i: m[key] for i, m in found.items() if key in m} for key in ("camera", "gt", "gt_info")}
            if lost := sorted(set(found) - set(parts["camera"])):
                raise ValueError(f"{source}: image {scene_id:06d}_{lost[0]:06d} has no camera.json")
            named = f"{source}, scene {scene_id}, {{}}"
            truth, infos = (parts[k] if len(parts[k]) == len(found) else None for k in ("gt", "gt_info"))
            scene = scene_of(folder, scene_id, sensor, parts["camera"], truth, infos, named)
            yield scene, np.stack([found[i]["places"] for i in scene.im_ids.tolist()])


def _rows(scene: Scene, keep: Array) -> Scene:
    """Only some images of a scene."""
    truth = scene.truth
    if truth is not None:
        mine = np.isin(truth.im_id, scene.im_ids[keep])
        truth = SceneTruth(*(None if c is None else c[mine] for c in truth))  # type: ignore[arg-type]
    im_ids, K, unit, world = (c[keep] for c in (scene.im_ids, scene.K, scene.depth_unit, scene.cam_from_world))
    return Scene(scene.folder, scene.scene_id, scene.sensor, im_ids, K, unit, world, truth, scene.members)


Images = dict[int, dict[int, dict[str, Any]]]  # scene -> image -> "camera", "gt", "gt_info" as read, "places" in a tar


def _image(images: Images, match: re.Match[str]) -> dict[str, Any]:
    return images.setdefault(int(match[1]), {}).setdefault(int(match[2]), {"places": np.full((3, 3), -1, np.int64)})


def _tar_images(path: Path, number: int) -> Images:
    images: Images = {}
    for name, offset, size in tar_members(path):
        if (match := _MEMBER.fullmatch(Path(name).name)) is None:
            continue
        image, end = _image(images, match), match[3]
        if end in ("camera.json", "gt.json", "gt_info.json"):
            content = read_member(path, name, offset, size).decode()
            image[end.removesuffix(".json")] = records.parse_json(content, f"{path}:{name}")
        for k, ends in enumerate(bop_scenes.KINDS.values()):
            if end in ends:
                image["places"][k] = number, offset, size
    return images


def _loose_images(folder: Path) -> Images:
    images: Images = {}
    for path in sorted(folder.iterdir()):
        match = _MEMBER.fullmatch(path.name)
        if match is not None and match[3] in ("camera.json", "gt.json", "gt_info.json"):
            image = _image(images, match)
            image[match[3].removesuffix(".json")] = records.read_json(path)
    return images


def _sorted(place: Path, images: int, objects: int, table: list[Any]) -> list[Any]:
    """Columns in the order of scenes and images, one column after the other; the table of whole scenes."""

    def column(name: str, count: int) -> Array:
        kind, shape = (_IMAGES | _TRUTH)[name]
        return np.fromfile(place / f"{name}.bin", kind).reshape(count, *shape)

    scene, rows = column("scene", images), column("rows", images)
    order = np.lexsort([column("im_id", images), scene])
    if ((np.diff(scene[order]) == 0) & (np.diff(column("im_id", images)[order]) == 0)).any():
        raise ValueError("the same image lies in two places (two tars, or twice in one); take one of them away")
    starts = np.cumsum(rows) - rows
    within = np.concatenate([np.arange(starts[i], starts[i] + rows[i]) for i in order]) if objects else np.zeros(0, np.int64)
    for name in (*_IMAGES, *_TRUTH):
        values = column(name, images if name in _IMAGES else objects)[order if name in _IMAGES else within]
        np.ascontiguousarray(values).tofile(place / f"{name}.bin")
    flags: dict[int, tuple[bool, bool]] = {}
    for number, *_, truth, info in table:
        before = flags.get(number, (True, True))
        flags[number] = before[0] and truth, before[1] and info
    whole, image, row = [], 0, 0
    for number, count in zip(*np.unique(scene, return_counts=True)):
        n = int(rows[order][image : image + count].sum())
        whole.append((int(number), image, image + int(count), row, row + n, *flags[int(number)]))
        image, row = image + int(count), row + n
    return whole
