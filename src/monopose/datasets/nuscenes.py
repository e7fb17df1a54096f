"""nuScenes: its tables, the `infos.json` made from them, and detection results, read and written without the devkit.

    FOLDER/
      v1.0-mini/                    or v1.0-trainval, v1.0-test: sample.json, sample_data.json, ego_pose.json, ...
      samples/CAM_FRONT/....jpg

Tables state boxes in the map: `translation` of the centre, `size` width length height, `rotation` wxyz of a box whose x points
forwards, y left, z up. A picture's camera stands at `global_from_ego @ ego_from_cam`, both at the time of the picture. Six
cameras make a sample. Frames hold the boxes that their picture shows, in the camera's frame (`geometry/boxes3d.py`).

Source: the schema and the detection task of the nuScenes devkit (docs/schema_nuscenes.md, eval/detection/README.md); Caesar et
al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry import boxes3d, rotation, se3
from ..io import limits, records
from ..io.files import atomic_write, existing_file
from ..io.records import (
    found,
    image_size,
    intrinsics,
    mapping,
    numbers,
    quaternion,
    read_json,
    rigid_motion,
    rows,
    table,
    text,
    value,
    whole,
    whole_numbers,
)  # fmt: skip
from ..types import Camera
from .road import ATTRIBUTES, CLASSES, RoadFrame, RoadObjects

Array = NDArray[Any]

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
CLASS_OF = {  # category -> detection class; the others are no targets
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.trailer": "trailer",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.construction": "construction_vehicle",
    "vehicle.bicycle": "bicycle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
BIKE_RACK = "static_object.bicycle_rack"
TABLES = (
    "category", "attribute", "sensor", "scene", "sample", "instance", "sample_annotation", "calibrated_sensor", "sample_data",
    "ego_pose",
)  # fmt: skip
MOST_BOXES = 500  # of a sample in a result file
LONGEST = 1.5  # seconds between two annotations from which a velocity may be computed

ZUP_FROM_OBJ = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
"""nuScenes' box axes (x forwards, y left, z up) from ours (x forwards, y down, z left)."""


class SampleBoxes(NamedTuple):
    """Boxes of many samples in the map, one row each, as nuScenes writes them.

    Args:
        tokens: of the samples, S of them; those without boxes too.
        sample: index into `tokens`, (N,), int64.
        label: index into `CLASSES`, (N,), int64.
        centre: (N, 3), metres.
        wlh: width, length, height, (N, 3), metres.
        quat_wxyz: (N, 4).
        velocity: over ground, (N, 2), metres per second; NaN where unknown.
        attribute: index into `ATTRIBUTES`, (N,), int64; -1 for none.
        score: (N,); -1 for the truth.
        points: LiDAR and radar points inside, (N,), int64; -1 where unknown.
    """

    tokens: tuple[str, ...]
    sample: Array
    label: Array
    centre: Array
    wlh: Array
    quat_wxyz: Array
    velocity: Array
    attribute: Array
    score: Array
    points: Array

    def where(self, rows: Array) -> SampleBoxes:
        """The boxes that a mask or an index (M,) picks; all samples stay."""
        return SampleBoxes(self.tokens, *(column[rows] for column in self[1:]))


class SampleTruth(NamedTuple):
    """What results of some samples are compared with.

    Args:
        boxes: of the ten classes.
        ego: where the vehicle stood when the LiDAR swept, (S, 3), metres, map.
        racks: bicycle racks, of which only sample, centre, wlh and quat_wxyz count: what is parked in them is not evaluated.
    """

    boxes: SampleBoxes
    ego: Array
    racks: SampleBoxes


def no_boxes(tokens: Sequence[str]) -> SampleBoxes:
    """Samples without boxes."""
    return _boxes(tuple(tokens), [], [], np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 2)), [], [], [])


def _boxes(tokens: Sequence[str], sample: Any, label: Any, *rest: Any) -> SampleBoxes:
    """Columns as arrays of the right kind."""
    *real, attribute, score, points = rest
    whole = [np.asarray(c, np.int64) for c in (sample, label)]
    real = [np.asarray(c, np.float64) for c in real]
    tail = [np.asarray(attribute, np.int64), np.asarray(score, np.float64), np.asarray(points, np.int64)]
    return SampleBoxes(tuple(tokens), *(whole + real + tail))


# ----------------------------------------------------------------------------------------------------------- the tables


class _Row(dict[str, Any]):
    """A row of a table that knows where it stands; what it does not have is an error that says so."""

    __slots__ = ("where",)

    def __init__(self, row: Mapping[str, Any], where: str) -> None:
        super().__init__(row)
        self.where = where

    def __missing__(self, key: str) -> NoReturn:
        value(dict(self), key, self.where)
        raise AssertionError

    def word(self, key: str) -> str:
        return text(self, key, self.where)

    def seconds(self) -> float:
        return float(numbers(self, "timestamp", (), self.where)) * 1e-6

    def points(self) -> int:
        """From LiDAR and radar."""
        return sum(whole(self[key], f"{self.where}: '{key}'") for key in ("num_lidar_pts", "num_radar_pts"))

    def size(self) -> Array:
        """Width, length, height, (3,), metres."""
        return _wlh(numbers(self, "size", (3,), self.where), self.where)


def _wlh(sizes: Array, where: str) -> Array:
    if not (sizes > 0).all():
        raise ValueError(f"{where}: width, length and height must be metres above 0, got {sizes.tolist()}")
    return sizes


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of one version, by token, and what they do not say forwards.

    Args:
        folder: holds `samples/`.
        rows: table -> token -> row; of sample_data and ego_pose only the key frames, and no radars.
        data: sample token -> channel -> sample_data token.
        annotations: sample token -> sample_annotation tokens, in the table's order.
    """

    folder: Path
    rows: Mapping[str, Mapping[str, _Row]]
    data: Mapping[str, Mapping[str, str]]
    annotations: Mapping[str, Sequence[str]]

    def row(self, name: str, token: str) -> _Row:
        """One row.

        Raises:
            ValueError: the table has no such token.
        """
        try:
            return self.rows[name][token]
        except (KeyError, TypeError):
            raise ValueError(f"{self.folder}: {name}.json has no token {token!r}; are all tables of one version?") from None

    def category(self, annotation: Mapping[str, Any]) -> str:
        """The category of a row of sample_annotation: "vehicle.car"."""
        instance = self.row("instance", annotation["instance_token"])
        return self.row("category", instance["category_token"]).word("name")


def each_row(
    folder: Path, version: str, name: str, keep: Callable[[Mapping[str, Any]], bool] = lambda row: True,
    drop: Sequence[str] = (),
) -> Iterator[_Row]:  # fmt: skip
    """The rows of a table that are to be kept, one after the other, without some of their columns."""
    path = folder / version / f"{name}.json"
    for row in records.each_row(path):
        if not isinstance(row.get("token"), str) or not row["token"]:
            raise ValueError(f"{path} must be a list of rows with a token each, which is text")
        if keep(row):
            row = {key: content for key, content in row.items() if key not in drop}
            yield _Row(row, f"{path}, token {row['token']}")


def read_tables(folder: str | Path, version: str = "v1.0-mini", scenes: Iterable[str] = (), annotations: bool = True) -> Tables:
    """The tables of a nuScenes folder.

    Args:
        folder: holds them in a folder `version`.
        version: v1.0-mini, v1.0-trainval or v1.0-test.
        scenes: of which samples are read, with what belongs to them; () for all.
        annotations: False: sample_annotation stays unread. Of v1.0-trainval it takes gigabytes.

    Raises:
        FileNotFoundError: no such folder, or a table is missing; says what is there.
        ValueError: a table is broken; a scene that it does not have.
    """
    folder = Path(folder)
    if not (folder / version).is_dir():
        raise FileNotFoundError(f"no tables in {folder / version} ({found(folder)}); expected {version}/sample.json and others")
    rows: dict[str, dict[str, _Row]] = {"sample_annotation": {}}
    wanted: set[str] = set()
    some = set(scenes)
    for name in TABLES if annotations else [name for name in TABLES if name != "sample_annotation"]:
        listed = each_row(folder, version, name)
        if name == "sample_data":  # those without the key are kept, and say so; radars are nobody's business here
            radar = {
                token
                for token, row in rows["calibrated_sensor"].items()
                if str(rows["sensor"].get(str(row["sensor_token"]), row).get("channel")).startswith("RADAR")
            }
            listed = each_row(
                folder, version, name,
                lambda row: row.get("is_key_frame") is not False and str(row.get("calibrated_sensor_token")) not in radar,  # noqa: B023
                ("prev", "next", "fileformat"),
            )  # fmt: skip
            listed = (row for row in listed if _is_key_frame(row, row.where))
        elif name == "sample" and some:
            wanted = {token for token, row in rows["scene"].items() if row.word("name") in some}
            listed = (row for row in listed if str(row["scene_token"]) in wanted)
        elif name == "ego_pose":
            wanted = {str(row["ego_pose_token"]) for row in rows["sample_data"].values()}
            listed = each_row(folder, version, name, lambda row: str(row["token"]) in wanted)  # noqa: B023 (used at once)
        if name in ("sample_data", "sample_annotation") and some:
            listed = (row for row in listed if str(row["sample_token"]) in rows["sample"])
        rows[name] = {}
        for row in listed:
            if rows[name].setdefault(row["token"], row) is not row:
                raise ValueError(f"{folder / version / name}.json: the token {row['token']!r} is there twice; keep one row")
    data: dict[str, dict[str, str]] = {token: {} for token in rows["sample"]}
    of_sample: dict[str, list[str]] = {token: [] for token in rows["sample"]}
    tables = Tables(folder, rows, data, of_sample)
    for token, row in rows["sample_data"].items():
        sensor = tables.row("calibrated_sensor", row["calibrated_sensor_token"])["sensor_token"]
        tables.row("sample", row["sample_token"])
        data[row["sample_token"]][tables.row("sensor", sensor).word("channel")] = token
    for token, row in rows["sample_annotation"].items():
        tables.row("sample", row["sample_token"])
        of_sample[row["sample_token"]].append(token)
    return tables


def _is_key_frame(row: Mapping[str, Any], where: str) -> bool:
    if not isinstance(key := value(row, "is_key_frame", where), bool):
        raise ValueError(f"{where}: 'is_key_frame' must be true or false, got {key!r:.60}")
    return key


def samples(tables: Tables, scenes: Iterable[str] = ()) -> list[str]:
    """The sample tokens of scenes ("scene-0103"), of all without any, in the table's order.

    Raises:
        ValueError: a scene that the tables do not have.
    """
    wanted = set(scenes)
    names = {row.word("name") for row in tables.rows["scene"].values()}
    if wanted - names:
        raise ValueError(f"{tables.folder} has no scene {min(wanted - names)!r}; it has {', '.join(sorted(names)[:6])}, ...")
    all_samples = tables.rows["sample"].items()
    return [t for t, row in all_samples if not wanted or tables.row("scene", row["scene_token"])["name"] in wanted]


def velocity(tables: Tables, annotation: str) -> Array:
    """The velocity of an annotated box over ground, from its neighbours in time.

    Returns:
        (3,), metres per second, map; NaN where there is no neighbour within 1.5 s (3 s between both).
    """
    row = tables.row("sample_annotation", annotation)
    ends = [tables.row("sample_annotation", row[key]) if row[key] else row for key in ("prev", "next")]
    times = [tables.row("sample", end["sample_token"]).seconds() for end in ends]
    gap = times[1] - times[0]
    if gap <= 0 or gap > LONGEST * (2 if row["prev"] and row["next"] else 1):
        return np.full(3, np.nan)
    first, last = (numbers(end, "translation", (3,), end.where) for end in ends)
    return (last - first) / gap


def _pose(row: _Row) -> Tensor:
    """The rigid motion of a row's rotation (wxyz) and translation, (4, 4), float64."""
    quat = torch.from_numpy(quaternion(row, "rotation", row.where))
    t = torch.from_numpy(numbers(row, "translation", (3,), row.where))
    return se3.from_rt(rotation.matrix_from_quat_wxyz(quat), t)


def attribute(tables: Tables, row: _Row) -> int:
    """What an annotation is said to do, an index into `ATTRIBUTES`; -1 for nothing."""
    tokens = rows(row["attribute_tokens"], f"{row.where}: attribute_tokens")
    names = [tables.row("attribute", token).word("name") for token in tokens]
    return ATTRIBUTES.index(names[0]) if names and names[0] in ATTRIBUTES else -1


VISIBLE = {"1": 0.2, "2": 0.5, "3": 0.7, "4": 0.9}  # token -> middle of its range: below 40 %, 60 %, 80 %, above


def read_lidar(path: str | Path) -> Tensor:
    """The points of a LiDAR sweep (.pcd.bin: x, y, z, intensity, ring as float32), (N, 3), float32, metres, sensor frame.

    Raises:
        FileNotFoundError, ValueError: no such file, or it is cut short.
    """
    raw = np.fromfile(existing_file(path, "LiDAR sweep"), np.float32)
    if raw.size == 0 or raw.size % 5:
        raise ValueError(f"{path} must hold five float32 for each point, got {raw.size} numbers; was it cut short?")
    return torch.from_numpy(raw.reshape(-1, 5)[:, :3].copy())


def _lidar(tables: Tables, sample: str, global_from_cam: Tensor) -> tuple[str, Tensor | None]:
    """File and place of a sample's LiDAR sweep, seen by a camera: "", None without one."""
    token = tables.data[sample].get("LIDAR_TOP")
    if token is None:
        return "", None
    data = tables.row("sample_data", token)
    mount = _pose(tables.row("calibrated_sensor", data["calibrated_sensor_token"]))
    global_from_lidar = _pose(tables.row("ego_pose", data["ego_pose_token"])) @ mount
    return str(tables.folder / data.word("filename")), se3.inverse(global_from_cam) @ global_from_lidar


def _targets(tables: Tables, sample: str) -> list[tuple[str, int]]:
    """Annotations of a sample that are of one of the ten classes, with the class."""
    rows = tables.rows["sample_annotation"]
    named = [(token, CLASS_OF.get(tables.category(rows[token]))) for token in tables.annotations[sample]]
    return [(token, CLASSES.index(name)) for token, name in named if name is not None]


class _Annotated(NamedTuple):
    """The boxes of a sample in the map, with nuScenes' axes; N of them."""

    pose: Tensor  # (N, 4, 4)
    wlh: Tensor  # (N, 3)
    v: Tensor  # (N, 3)
    label: Tensor
    attribute: Tensor
    points: Tensor
    visibility: Tensor


def _annotated(tables: Tables, sample: str) -> _Annotated:
    targets = _targets(tables, sample)
    shown = [tables.row("sample_annotation", token) for token, _ in targets]
    return _Annotated(
        torch.stack([_pose(row) for row in shown]) if shown else torch.zeros(0, 4, 4, dtype=torch.float64),
        torch.from_numpy(np.array([row.size() for row in shown], np.float64).reshape(-1, 3)),
        torch.from_numpy(np.array([velocity(tables, token) for token, _ in targets], np.float64).reshape(-1, 3)),
        torch.tensor([label for _, label in targets], dtype=torch.int64),
        torch.tensor([attribute(tables, row) for row in shown], dtype=torch.int64),
        torch.tensor([row.points() for row in shown], dtype=torch.int64),
        torch.tensor([VISIBLE.get(str(row.get("visibility_token")), 1.0) for row in shown]),
    )


def frame(tables: Tables, sample: str, channel: str, annotated: _Annotated | None = None) -> RoadFrame:
    """One picture with the boxes that it shows; those without a single LiDAR or radar point too (`points` says so).

    Raises:
        ValueError: the sample or the channel is not in the tables, or a row is broken.
    """
    if channel not in tables.data.get(sample, {}):
        has = ", ".join(tables.data[sample]) if sample in tables.data else "no such sample"
        raise ValueError(f"sample {sample!r} has no picture of {channel!r} (has: {has})")
    data = tables.row("sample_data", tables.data[sample][channel])
    mount = tables.row("calibrated_sensor", data["calibrated_sensor_token"])
    size = image_size(data["height"], data["width"], data.where)
    K = torch.from_numpy(intrinsics(mount["camera_intrinsic"], f"{mount.where}: 'camera_intrinsic'", size))
    camera = Camera(K, size)
    ego_from_cam, global_from_ego = _pose(mount), _pose(tables.row("ego_pose", data["ego_pose_token"]))
    global_from_cam = global_from_ego @ ego_from_cam
    objects = _seen_by(se3.inverse(global_from_cam), annotated or _annotated(tables, sample), camera)
    return RoadFrame(
        str(tables.folder / text(data, "filename", data.where)),
        camera,
        CLASSES,
        objects,
        torch.zeros(0, 4, dtype=torch.float64),
        data["token"],
        sample,
        channel,
        ego_from_cam,
        global_from_ego,
        data.seconds(),
        *_lidar(tables, sample, global_from_cam),
    )


def _seen_by(cam_from_global: Tensor, boxes: _Annotated, camera: Camera) -> RoadObjects:
    """The boxes in a camera's frame; those that it does not show are left out."""
    pose = cam_from_global @ boxes.pose
    pose = se3.from_rt(pose[:, :3, :3] @ ZUP_FROM_OBJ, pose[:, :3, 3])
    lhw = boxes3d.lhw_from_wlh(boxes.wlh)
    edges = boxes3d.project(pose, lhw, camera.K, camera.size)
    shown = (edges[:, 2] > edges[:, 0]) & (edges[:, 3] > edges[:, 1])
    v = boxes.v @ cam_from_global[:3, :3].mT
    more = {"attributes": boxes.attribute, "points": boxes.points, "visibility": boxes.visibility}
    return RoadObjects(boxes.label, pose, lhw, edges, velocities=v, **more)[shown]


def frames(tables: Tables, tokens: Iterable[str], channels: Sequence[str] = CAMERAS) -> list[RoadFrame]:
    """The pictures of samples, camera by camera; cameras that a sample does not have are passed over."""
    return list(each_frame(tables, tokens, channels))


def each_frame(tables: Tables, tokens: Iterable[str], channels: Sequence[str] = CAMERAS) -> Iterator[RoadFrame]:
    """`frames` one after the other; the boxes of a sample are read once for all its cameras."""
    for token in tokens:
        annotated = _annotated(tables, token)
        yield from (frame(tables, token, channel, annotated) for channel in channels if channel in tables.data[token])


def truth(tables: Tables, tokens: Sequence[str]) -> SampleTruth:
    """The true boxes of samples in the map, for `evaluation.nuscenes`."""
    columns: list[tuple[Any, ...]] = []
    racks: list[tuple[Any, ...]] = []
    ego = []
    for k, sample in enumerate(tokens):
        if not tables.data[sample]:
            raise ValueError(f"{tables.folder}: sample_data.json has no key frame of sample {sample!r}")
        lidar = tables.data[sample].get("LIDAR_TOP") or next(iter(tables.data[sample].values()))
        vehicle = tables.row("ego_pose", tables.row("sample_data", lidar)["ego_pose_token"])
        ego.append(numbers(vehicle, "translation", (3,), vehicle.where))
        for token in tables.annotations[sample]:
            row = tables.row("sample_annotation", token)
            place = (numbers(row, "translation", (3,), row.where), row.size(), quaternion(row, "rotation", row.where))
            name = tables.category(row)
            if name in CLASS_OF:
                label = CLASSES.index(CLASS_OF[name])
                columns.append((k, label, *place, velocity(tables, token)[:2], attribute(tables, row), -1.0, row.points()))
            elif name == BIKE_RACK:
                racks.append((k, -1, *place, (0.0, 0.0), -1, -1.0, -1))
    stacked = [_boxes(tokens, *zip(*rows)) if rows else no_boxes(tokens) for rows in (columns, racks)]
    return SampleTruth(stacked[0], np.array(ego, np.float64).reshape(-1, 3), stacked[1])


# ------------------------------------------------------------------------------------------------------------ infos.json


def _infos(path: str | Path) -> tuple[Path, tuple[str, ...], list[Any]]:
    path = Path(path)
    content = read_json(path)
    categories = mapping(value(value(content, "metainfo", str(path)), "categories", f"{path} metainfo"), f"{path} categories")
    order = {name: whole(number, f"{path} categories: {name}") for name, number in categories.items()}
    classes = tuple(sorted(order, key=order.__getitem__))
    if sorted(order.values()) != list(range(len(order))):
        raise ValueError(f"{path}: the categories must be numbered from 0 on, got {', '.join(map(str, order.values()))}")
    strangers = [c for c in classes if c not in CLASSES]
    if strangers:
        raise ValueError(f"{path}: unknown class {strangers[0]!r}; expected {', '.join(CLASSES)}")
    return path, classes, rows(value(content, "data_list", str(path)), f"{path} data_list")


def read_infos(path: str | Path) -> list[RoadFrame]:
    """The pictures of an `infos.json`, with the boxes that it lists for each camera.

    The file states the place of the vehicle at the LiDAR's sweep. Where it was when a camera looked, up to 50 ms before,
    follows from `lidar2cam`, which allows for that.

    Args:
        path: of the file; pictures lie beside it.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a key is missing (a camera without `cam2img` among them), has another size, or holds NaN.
    """
    path, classes, listed = _infos(path)
    to_ours = torch.tensor([CLASSES.index(c) for c in classes])
    read = []
    for k, info in enumerate(listed):
        place = f"{path} sample {k}"
        global_from_lidar = _global_from_lidar(info, place)
        sweep = mapping(info.get("lidar_points", {}), f"{place} lidar_points").get("lidar_path")
        for channel, image in mapping(value(info, "images", place), f"{place} images").items():
            where = f"{place} {channel}"
            ego_from_cam, cam_from_lidar = (
                torch.from_numpy(rigid_motion(image, key, where)) for key in ("cam2ego", "lidar2cam")
            )
            picture = path.parent / text(image, "img_path", where)
            size = _size(picture)
            K = torch.from_numpy(intrinsics(value(image, "cam2img", where), f"{where}: 'cam2img'", size))
            camera = Camera(K, size)
            seen = mapping(info.get("cam_instances", {}), f"{place} cam_instances").get(channel, [])
            listed_boxes = [mapping(row, f"{where} boxes") for row in rows(seen, f"{where} boxes")]
            labels = [_label(row, classes, f"{where} box {i}") for i, row in enumerate(listed_boxes)]
            kept = [i for i, row in enumerate(listed_boxes) if row.get("bbox_3d_isvalid", True) and labels[i] >= 0]
            boxes, wheres = [listed_boxes[i] for i in kept], [f"{where} box {i}" for i in kept]
            box = torch.from_numpy(table(boxes, "bbox_3d", (7,), wheres))
            _wlh(box[:, 3:6].numpy(), where)
            ground = torch.from_numpy(_velocities(boxes, wheres))
            v = torch.stack([ground[:, 0], torch.zeros_like(ground[:, 0]), ground[:, 1]], -1)
            pose, lhw = boxes3d.from_yaw(box[:, :3], box[:, 6]), box[:, 3:6]
            attribute = torch.from_numpy(whole_numbers(boxes, "attr_label", wheres, low=-1))
            objects = RoadObjects(
                to_ours[torch.tensor([labels[i] for i in kept], dtype=torch.int64)],
                pose,
                lhw,
                boxes3d.project(pose, lhw, K, camera.size),
                velocities=v,
                attributes=torch.where(attribute < len(ATTRIBUTES), attribute, -1),
            )
            read.append(
                RoadFrame(
                    str(picture),
                    camera,
                    CLASSES,
                    objects,
                    torch.zeros(0, 4, dtype=torch.float64),
                    text(image, "sample_data_token", where),
                    text(info, "token", place),
                    channel,
                    ego_from_cam,
                    global_from_lidar @ torch.linalg.inv(ego_from_cam @ cam_from_lidar),
                    float(numbers(image, "timestamp", (), where)),
                    "" if sweep is None else str(path.parent / (sweep if "/" in sweep else f"samples/LIDAR_TOP/{sweep}")),
                    cam_from_lidar,
                )
            )
    return read


def _label(row: Any, classes: Sequence[str], where: str) -> int:
    """Place among the classes; -1: of none of them."""
    return whole(value(row, "bbox_label_3d", where), f"{where}: 'bbox_label_3d'", -1, len(classes) - 1)


def _velocities(boxes: list[Any], wheres: list[str]) -> Array:
    """Of boxes, over ground, (N, 2), metres per second; NaN where unknown, which some files write."""
    raw = [value(row, "velocity", where) for row, where in zip(boxes, wheres)]
    try:
        known = np.array(raw, np.float64).reshape(-1, 2)
        if np.isinf(known).any():
            raise ValueError
        return known
    except (TypeError, ValueError):
        raise ValueError(f"{wheres[0]}: 'velocity' must be two numbers for each box, got {raw!r:.80}") from None


def _global_from_lidar(info: Any, place: str) -> Tensor:
    """The LiDAR in the map when it swept, by way of the camera that took its picture nearest to that moment. (4, 4)."""
    images, now = mapping(value(info, "images", place), f"{place} images"), float(numbers(info, "timestamp", (), place))
    if not images:
        raise ValueError(f"{place} has no images")
    channel = min(images, key=lambda c: abs(float(numbers(images[c], "timestamp", (), f"{place} {c}")) - now))
    ego_from_cam, cam_from_lidar = (
        torch.from_numpy(rigid_motion(images[channel], key, f"{place} {channel}")) for key in ("cam2ego", "lidar2cam")
    )
    return torch.from_numpy(rigid_motion(info, "ego2global", place)) @ ego_from_cam @ cam_from_lidar


def _size(picture: Path) -> tuple[int, int]:
    with limits.picture(existing_file(picture, "picture"), str(picture)) as header:
        return header.height, header.width


def infos_truth(path: str | Path) -> SampleTruth:
    """The true boxes of an `infos.json` in the map; attributes are -1 where boxes have no `attr_label`, as nuScenes' own.

    Boxes stand in the LiDAR's frame, which the vehicle carries along; velocities there are over ground.
    """
    path, classes, listed = _infos(path)
    tokens, columns, ego = [], [], []
    for k, info in enumerate(listed):
        place = f"{path} sample {k}"
        tokens.append(text(info, "token", place))
        global_from_ego = torch.from_numpy(rigid_motion(info, "ego2global", place))
        global_from_lidar = _global_from_lidar(info, place)
        ego.append(global_from_ego[:3, 3].numpy())
        for i, row in enumerate(rows(value(info, "instances", place), f"{place} instances")):
            where = f"{place} instance {i}"
            if (number := _label(row, classes, where)) < 0:
                continue
            box = torch.from_numpy(numbers(row, "bbox_3d", (7,), where))
            _wlh(box[3:6].numpy(), where)
            turn = rotation.so3_exp(torch.stack([box.new_zeros(()), box.new_zeros(()), box[6]]))
            pose = global_from_lidar @ se3.from_rt(turn, box[:3])
            quat = rotation.quat_wxyz_from_matrix(rotation.nearest_rotation(pose[:3, :3]))
            v = global_from_lidar[:3, :2] @ torch.from_numpy(_velocities([row], [where])[0])
            points = _Row(row, where).points()
            label = CLASSES.index(classes[number])
            wlh = (float(box[4]), float(box[3]), float(box[5]))
            attribute = whole(row.get("attr_label", len(ATTRIBUTES)), f"{where}: 'attr_label'", -1)
            attribute = attribute if 0 <= attribute < len(ATTRIBUTES) else -1
            columns.append((k, label, pose[:3, 3].numpy(), wlh, quat.numpy(), v[:2].numpy(), attribute, -1.0, points))
    boxes = _boxes(tokens, *zip(*columns)) if columns else no_boxes(tokens)
    return SampleTruth(boxes, np.array(ego).reshape(-1, 3), no_boxes(tokens))


# --------------------------------------------------------------------------------------------------------------- results


def to_global(seen: Sequence[RoadFrame], estimates: Sequence[RoadObjects], tokens: Sequence[str] | None = None) -> SampleBoxes:
    """Estimates of pictures as boxes in the map, the best 500 of each sample.

    Args:
        seen: the pictures.
        estimates: of each; scores are needed. Unknown velocities become 0, as results cannot leave them out.
        tokens: of all samples that the results are for; None: those of the pictures.

    Raises:
        ValueError: estimates without scores, a picture of another sample, or one whose place is unknown.
    """
    tokens = tuple(dict.fromkeys(f.sample for f in seen)) if tokens is None else tuple(tokens)
    place = {token: k for k, token in enumerate(tokens)}
    parts = []
    for one, objects in zip(seen, estimates, strict=True):
        if one.sample not in place:
            raise ValueError(f"picture {one.name} belongs to sample {one.sample!r}, which is none of the {len(tokens)} given")
        if objects.scores is None:
            raise ValueError(f"estimates for picture {one.name} have no scores; results need them")
        global_from_cam = one.global_from_cam
        pose = global_from_cam @ objects.cam_from_obj.detach().double().cpu()
        quat = rotation.quat_wxyz_from_matrix(pose[:, :3, :3] @ ZUP_FROM_OBJ.mT)
        n = len(objects)
        v = torch.zeros(n, 3) if objects.velocities is None else objects.velocities.detach().cpu()
        v = (v.double() @ global_from_cam[:3, :3].mT)[:, :2].nan_to_num(0.0)
        attribute = torch.full((n,), -1) if objects.attributes is None else objects.attributes.cpu()
        wlh = boxes3d.wlh_from_lhw(objects.sizes.detach().double().cpu())
        columns = (objects.labels.cpu(), pose[:, :3, 3], wlh, quat, v, attribute, objects.scores.detach().double().cpu())
        sample = np.full(n, place[one.sample])
        parts.append(_boxes(tokens, sample, *(c.numpy() for c in columns), np.full(n, -1)))
    if not parts:
        return no_boxes(tokens)
    boxes = SampleBoxes(tokens, *(np.concatenate(c) for c in zip(*(part[1:] for part in parts))))
    order = np.lexsort((-boxes.score, boxes.sample))
    boxes = boxes.where(order)
    first = np.searchsorted(boxes.sample, np.arange(len(tokens)))
    return boxes.where(np.arange(len(order)) - first[boxes.sample] < MOST_BOXES)


def write_results(path: str | Path, boxes: SampleBoxes, meta: Mapping[str, bool] | None = None) -> None:
    """Write a result file in nuScenes' submission format, whole or not at all. Samples without boxes get an empty list.

    Args:
        path: of the file.
        boxes: in the map.
        meta: what the method used; None: pictures only.

    Raises:
        ValueError: NaN or infinity, sizes that are not positive, or more than 500 boxes of a sample.
    """
    _check_boxes(boxes, str(path))
    results: list[list[dict[str, Any]]] = [[] for _ in boxes.tokens]
    columns = (c.tolist() for c in boxes[1:])
    for sample, label, centre, wlh, quat, v, attribute, score, _ in zip(*columns):
        results[sample].append(
            {
                "sample_token": boxes.tokens[sample],
                "translation": centre,
                "size": wlh,
                "rotation": quat,
                "velocity": v,
                "detection_name": CLASSES[label],
                "detection_score": score,
                "attribute_name": ATTRIBUTES[attribute] if attribute >= 0 else "",
            }
        )
    used = {f"use_{name}": name == "camera" for name in ("camera", "lidar", "radar", "map", "external")}
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"meta": {json.dumps(dict(meta or used))}, "results": {{')
        for k, (token, rows) in enumerate(zip(boxes.tokens, results)):  # a sample at a time: the file may be large
            file.write(f"{', ' * (k > 0)}\n{json.dumps(token)}: {json.dumps(rows)}")
        file.write("}}\n")


def read_results(path: str | Path, tokens: Sequence[str] | None = None) -> SampleBoxes:
    """A result file in nuScenes' submission format.

    Args:
        path: of the file.
        tokens: the samples that it must be about, neither more nor less; None: whatever it holds.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no such format, missing or foreign samples, an unknown class or attribute, NaN, more than 500 boxes of a
            sample; says which.
    """
    path = Path(path)
    results = value(read_json(path), "results", str(path))
    if not isinstance(results, dict):
        raise ValueError(f"{path}: 'results' must map sample tokens to lists, got {type(results).__name__}")
    if tokens is None:
        tokens = tuple(results)
    missing, foreign = [t for t in tokens if t not in results], set(results) - set(tokens)
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(tokens)} samples are missing, the first is {missing[0]!r}; "
            "a sample without detections needs an empty list"
        )
    if foreign:
        raise ValueError(f"{path}: {len(foreign)} samples do not belong to this split, such as {min(foreign)!r}")
    sample, rows, wheres = [], [], []
    for k, token in enumerate(tokens):
        if not isinstance(results[token], list):
            raise ValueError(f"{path}: sample {token!r} must hold a list of boxes, got {type(results[token]).__name__}")
        for i, row in enumerate(results[token]):
            sample.append(k)
            rows.append(row)
            wheres.append(f"{path} sample {token} box {i}")
    label = [_index(row, "detection_name", CLASSES, where, {}) for row, where in zip(rows, wheres)]
    attribute = [_index(row, "attribute_name", ATTRIBUTES, where, {"": -1, None: -1}) for row, where in zip(rows, wheres)]
    for row, token_index, where in zip(rows, sample, wheres):
        if row.get("sample_token", tokens[token_index]) != tokens[token_index]:
            raise ValueError(f"{where}: its sample_token is {row['sample_token']!r}; the list it stands in is another's")
    real = [
        table(rows, *spec, wheres) for spec in (("translation", (3,)), ("size", (3,)), ("rotation", (4,)), ("velocity", (2,)))
    ]
    score = table(rows, "detection_score", (), wheres)
    boxes = _boxes(tokens, sample, label, *real, attribute, score, np.full(len(rows), -1))
    _check_boxes(boxes, str(path))
    return boxes


def _index(row: Any, key: str, names: Sequence[str], where: str, also: Mapping[Any, int]) -> int:
    name = value(row, key, where)
    if not isinstance(name, (str, type(None))):
        raise ValueError(f"{where}: {key} must be text, got {name!r:.80}")
    if name in names:
        return names.index(name)
    if name in also:
        return also[name]
    raise ValueError(f"{where}: unknown {key} {name!r}; expected one of {', '.join(names)}")


def _check_boxes(boxes: SampleBoxes, where: str) -> None:
    """Raise unless a result file may hold the boxes."""

    def place(row: int) -> str:
        return f"{where} sample {boxes.tokens[boxes.sample[row]]}"

    for name in ("centre", "wlh", "quat_wxyz", "velocity", "score"):
        column = getattr(boxes, name)
        column = column[:, None] if column.ndim == 1 else column
        bad = np.flatnonzero(~np.isfinite(column).all(1))
        if len(bad):
            got = column[bad[0]].tolist()
            raise ValueError(f"{place(bad[0])}: {name} holds NaN or infinity: {got}; leave failed estimates out")
    bad = np.flatnonzero((boxes.wlh <= 0).any(1))
    if len(bad):
        raise ValueError(f"{place(bad[0])}: width, length, height must be metres > 0, got {boxes.wlh[bad[0]].tolist()}")
    bad = np.flatnonzero(np.abs(np.linalg.norm(boxes.quat_wxyz, axis=1) - 1) > 0.01)
    if len(bad):
        raise ValueError(
            f"{place(bad[0])}: the rotation must be a unit quaternion wxyz, got {boxes.quat_wxyz[bad[0]].tolist()}"
        )
    count = np.bincount(boxes.sample, minlength=len(boxes.tokens))
    if len(count) and count.max() > MOST_BOXES:
        token = boxes.tokens[int(count.argmax())]
        raise ValueError(f"{where} sample {token}: {count.max()} boxes, at most {MOST_BOXES} are allowed; keep the best")
