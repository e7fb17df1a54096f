"""KITTI's object data: calibration, labels, results, read into frames of roads and written back.

    FOLDER/
      image_2/000008.png
      calib/000008.txt           P2, R0_rect, Tr_velo_to_cam, row by row
      label_2/000008.txt         one object per line; a missing folder means that there is no truth

A line is `type truncated occluded alpha  x1 y1 x2 y2  h w l  x y z  ry [score]`. The place x y z is the middle of the bottom
face in the rectified frame of camera 0, whose axes are ours. Camera 2, which took the pictures, stands about 6 cm beside it:
`P2 = K [1 | b]`, and `read` moves every box by b, so that `cam_from_obj` and K are all that a picture needs. `labels_from`
moves them back. Edges x1 y1 x2 y2 lie where the corners of the box project to, pixel centres at integers, and within the
picture: 0 to width - 1. Ours are on pixel edges, which lie half a pixel further.

Source: the development kit of KITTI's object benchmark (readme.txt), Geiger et al., CVPR 2012.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry import boxes3d, se3
from ..io import limits, records
from ..io.files import atomic_write, existing_file
from ..io.records import found, read_text
from ..types import Camera
from .road import RoadFrame, RoadObjects

CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
DONT_CARE = "DontCare"
COLUMNS = 14  # numbers of a line after its type, without the score
ORTHONORMAL = 1e-3  # largest error of a matrix that should be a rotation

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Labels:
    """The lines of one file, as they stand there.

    Args:
        types: "Car", "DontCare", ..., N of them.
        values: truncated, occluded, alpha, x1 y1 x2 y2, h w l, x y z, ry, (N, 14), float64, KITTI's conventions.
        scores: (N,), or None: a file of the truth.
    """

    types: tuple[str, ...]
    values: Array
    scores: Array | None = None

    def __post_init__(self) -> None:
        n = len(self.types)
        if self.values.shape != (n, COLUMNS):
            raise ValueError(f"Labels.values must be ({n}, {COLUMNS}) for {n} types, got {self.values.shape}")
        if self.scores is not None and self.scores.shape != (n,):
            raise ValueError(f"Labels.scores must be ({n},), got {self.scores.shape}")

    def __len__(self) -> int:
        return len(self.types)

    @property
    def truncated(self) -> Array:
        return self.values[:, 0]

    @property
    def occluded(self) -> Array:
        return self.values[:, 1]

    @property
    def alpha(self) -> Array:
        return self.values[:, 2]

    @property
    def boxes(self) -> Array:
        """x1 y1 x2 y2, (N, 4), pixels, centres at integers."""
        return self.values[:, 3:7]

    @property
    def hwl(self) -> Array:
        return self.values[:, 7:10]

    @property
    def bottom(self) -> Array:
        """x y z of the middle of the bottom face, (N, 3), metres, rectified frame of camera 0."""
        return self.values[:, 10:13]

    @property
    def ry(self) -> Array:
        return self.values[:, 13]


class Calibration(NamedTuple):
    """What projects a place into a picture of camera 2.

    Args:
        K: (3, 3), pixels, float64.
        cam_from_rect: camera 2 from the rectified frame of camera 0, in which labels are, (4, 4): a translation.
        rect_from_velo: the same from the LiDAR, (4, 4), or None if the file does not say.
    """

    K: Tensor
    cam_from_rect: Tensor
    rect_from_velo: Tensor | None


# --------------------------------------------------------------------------------------------------------- single files


def read_calibration(path: str | Path) -> Calibration:
    """A calibration file.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: P2 is missing, has another number of entries, or is not K [1 | b].
    """
    path = existing_file(path, "calibration file")
    entries = {}
    for number, line in enumerate(read_text(path, "a calibration file").splitlines(), 1):
        if line.strip():
            key, colon, rest = line.partition(":")
            if not colon:
                raise ValueError(f"{path}:{number}: expected 'NAME: numbers', got {line[:60]!r}")
            if key.strip() in entries:
                raise ValueError(f"{path}:{number}: {key.strip()} is there twice; keep one")
            entries[key.strip()] = _numbers(rest.split(), f"{path}:{number}")
    P = _matrix(entries, "P2", (3, 4), path)
    if P is None:
        raise ValueError(f"{path} has no P2, the projection of camera 2 (has: {', '.join(entries) or 'nothing'})")
    K = records.intrinsics(P[:, :3], f"{path}: P2, which is K [1 | b],")
    rect_from_velo = None
    R0, Tr = _matrix(entries, "R0_rect", (3, 3), path), _matrix(entries, "Tr_velo_to_cam", (3, 4), path)
    if R0 is not None and Tr is not None:
        for name, R in (("R0_rect", R0), ("Tr_velo_to_cam", Tr[:, :3])):
            records.check_rotations(R[None], str(path), name, ORTHONORMAL)
        _in_reach(Tr[:, 3], 50.0, f"{path}: the translation in Tr_velo_to_cam")
        rect_from_velo = se3.from_rt(*(torch.from_numpy(m) for m in (R0 @ Tr[:, :3], R0 @ Tr[:, 3])))
    beside = np.linalg.solve(K, P[:, 3])
    _in_reach(beside, 5.0, f"{path}: the place of camera 2 beside camera 0 in P2")
    moved = se3.from_rt(torch.eye(3, dtype=torch.float64), torch.from_numpy(beside))
    return Calibration(torch.from_numpy(K.copy()), moved, rect_from_velo)


def _in_reach(metres: Array, most: float, what: str) -> None:
    if np.abs(metres).max() > most:
        raise ValueError(f"{what} is {metres.round(3).tolist()}; expected metres, at most {most:g}: are they millimetres?")


def _matrix(entries: Mapping[str, list[float]], key: str, shape: tuple[int, int], path: Path) -> Array | None:
    if key not in entries:
        return None
    if len(entries[key]) != shape[0] * shape[1]:
        raise ValueError(f"{path}: {key} must have {shape[0] * shape[1]} numbers, got {len(entries[key])}")
    return np.array(entries[key]).reshape(shape)


def _numbers(words: Sequence[str], where: str) -> list[float]:
    """Words as finite numbers, or an error that names the word."""
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            raise ValueError(f"{where}: expected a number, got {word!r}") from None
        if not abs(values[-1]) <= records.HUGE or "_" in word:  # Python reads 1_0 as 10
            raise ValueError(f"{where}: {word} is no finite number")
    return values


def read_labels(path: str | Path) -> Labels:
    """The lines of a label or result file; an empty file has none.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a line that is none; says file, line, what was expected. Or some lines have scores and others none.
    """
    path = existing_file(path, "label file")
    types: list[str] = []
    values: list[list[float]] = []
    for number, line in enumerate(read_text(path, "a label file").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}:{number}"
        if len(words) not in (COLUMNS + 1, COLUMNS + 2):
            raise ValueError(
                f"{where}: expected {COLUMNS + 1} columns (type truncated occluded alpha x1 y1 x2 y2 h w l x y z ry), "
                f"{COLUMNS + 2} with a score, got {len(words)}: {line[:60]!r}"
            )
        if words[0] not in CLASSES and words[0] != DONT_CARE:
            raise ValueError(f"{where}: unknown type {words[0]!r}; expected one of {', '.join((*CLASSES, DONT_CARE))}")
        if values and len(values[-1]) != len(words) - 1:
            raise ValueError(
                f"{where}: has {len(words)} columns, the line before {len(values[-1]) + 1}; a score for all or none"
            )
        row = _numbers(words[1:], where)
        if row[5] < row[3] or row[6] < row[4]:
            raise ValueError(f"{where}: x1 y1 x2 y2 must grow to the right and down, got {row[3:7]}")
        if words[0] != DONT_CARE:
            _check_row(row, where)
        types.append(words[0])
        values.append(row)
    table = np.array(values, np.float64).reshape(len(types), -1 if types else COLUMNS)
    return Labels(tuple(types), table[:, :COLUMNS], table[:, COLUMNS] if table.shape[1] > COLUMNS else None)


def _check_row(row: Sequence[float], where: str) -> None:
    """Raise where a line of an object says what cannot be; -1, -10 and -1000 stand for what is unknown."""
    truncated, occluded, alpha, *_ = row
    size, place, ry = row[7:10], row[10:13], row[13]
    if truncated != -1 and not 0 <= truncated <= 1:
        raise ValueError(f"{where}: truncated must be a share from 0 to 1, or -1, got {truncated:g}")
    if occluded not in (-1, 0, 1, 2, 3):
        raise ValueError(f"{where}: occluded must be 0, 1, 2, 3 or -1, got {occluded:g}")
    for name, angle in (("alpha", alpha), ("ry", ry)):
        if angle != -10 and abs(angle) > 6.3:
            raise ValueError(f"{where}: {name} must be radians, got {angle:g}; is it in degrees?")
    if max(size) > 100 or max(map(abs, place)) > 1000:
        raise ValueError(f"{where}: h w l x y z must be metres, got {[*size, *place]}; are they millimetres?")


def write_labels(path: str | Path, labels: Labels, decimals: int | None = None) -> None:
    """Write a label or result file, whole or not at all.

    Args:
        path: of the file.
        labels: its lines.
        decimals: so many for every number: 2 writes KITTI's own label files to the byte. None: as many as it takes to
            read back the same numbers.
    """

    def text(value: float, whole: bool) -> str:
        if whole and value == int(value):
            return str(int(value))
        return repr(float(value)) if decimals is None else f"{value:.{decimals}f}"

    lines = []
    for k, kind in enumerate(labels.types):
        unknown = kind == DONT_CARE
        words = [text(v, c == 1 or (c == 0 and v < 0) or (unknown and not 3 <= c < 7)) for c, v in enumerate(labels.values[k])]
        score = [] if labels.scores is None else [text(labels.scores[k], False)]
        lines.append(" ".join([kind, *words, *score]) + "\n")
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------- to frames and back


def objects_from(labels: Labels, calibration: Calibration) -> tuple[RoadObjects, Tensor]:
    """The objects of a file in the frame of camera 2, and its DontCare regions.

    Args:
        labels: of a picture.
        calibration: of the same picture.

    Returns:
        objects, float64, labels index `CLASSES`; ignored regions, (M, 4), xyxy on pixel edges.

    Raises:
        ValueError: an object has no size: a line of a detector in 2D is no box in 3D.
    """
    known = np.array([t != DONT_CARE for t in labels.types], bool)
    values = torch.from_numpy(labels.values)
    boxes = values[:, 3:7] + 0.5
    rows = torch.from_numpy(known)
    v = values[rows]
    lhw = boxes3d.lhw_from_hwl(v[:, 7:10])
    if bool((lhw <= 0).any()):
        bad = int((lhw <= 0).any(-1).nonzero()[0])
        raise ValueError(f"object {bad} has the size h w l = {v[bad, 7:10].tolist()}; expected metres > 0")
    pose = calibration.cam_from_rect @ boxes3d.from_yaw(boxes3d.centre_from_bottom(v[:, 10:13], lhw), v[:, 13])
    objects = RoadObjects(
        torch.tensor([CLASSES.index(t) for t in labels.types if t != DONT_CARE], dtype=torch.int64),
        pose,
        lhw,
        boxes[rows],
        None if labels.scores is None else torch.from_numpy(labels.scores)[rows],
        truncation=v[:, 0],
        occlusion=v[:, 1].long(),
    )
    return objects, boxes[~rows]


def labels_from(
    objects: RoadObjects, calibration: Calibration, size: tuple[int, int], classes: Sequence[str] = CLASSES
) -> Labels:
    """The lines of a picture's objects; inverse of `objects_from` but for DontCare.

    Args:
        objects: in the frame of camera 2. Without `boxes` they are projected, and what the picture does not show is left out.
        calibration: of the picture.
        size: (height, width) of the picture.
        classes: what the labels of the objects mean, KITTI's names.

    Returns:
        labels; truncated and occluded are -1 where the objects do not say.

    Raises:
        ValueError: a pose, size, score is NaN or infinite, or a class is none of KITTI's.
    """
    strangers = [c for c in classes if c not in CLASSES]
    if strangers:
        raise ValueError(f"KITTI has no class {strangers[0]!r}; expected {', '.join(CLASSES)}: translate the labels first")
    pose, lhw = objects.cam_from_obj.detach().double().cpu(), objects.sizes.detach().double().cpu()
    for name, value in (("cam_from_obj", pose), ("sizes", lhw), ("scores", objects.scores)):
        if value is not None and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} holds NaN or infinity; leave failed estimates out before writing results")
    if objects.boxes is None:
        boxes = boxes3d.project(pose, lhw, calibration.K, size)
        shown = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        rows = shown.nonzero().squeeze(-1)
        objects, pose, lhw, boxes = objects[rows.to(objects.labels.device)], pose[rows], lhw[rows], boxes[rows]
    else:
        boxes = objects.boxes.detach().double().cpu()
    in_rect = se3.inverse(calibration.cam_from_rect) @ pose
    ry, centre = boxes3d.yaw_of(in_rect), in_rect[:, :3, 3]
    height, width = size
    last = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    unknown = torch.full((len(objects),), -1.0, dtype=torch.float64)
    values = torch.cat(
        [
            (unknown if objects.truncation is None else objects.truncation.double().cpu())[:, None],
            (unknown if objects.occlusion is None else objects.occlusion.double().cpu())[:, None],
            boxes3d.alpha_from_yaw(ry, centre)[:, None],
            torch.minimum((boxes - 0.5).clamp_min(0), last),
            boxes3d.hwl_from_lhw(lhw),
            boxes3d.bottom_from_centre(centre, lhw),
            ry[:, None],
        ],
        -1,
    )
    scores = None if objects.scores is None else objects.scores.detach().double().cpu().numpy()
    return Labels(tuple(classes[k] for k in objects.labels.tolist()), values.numpy(), scores)


def read_frame(folder: str | Path, name: str) -> RoadFrame:
    """One picture of a KITTI folder; `objects` is None where the folder has no label_2.

    Raises:
        FileNotFoundError: the picture, its calibration or its labels are missing.
        ValueError: a file is broken.
    """
    folder = Path(folder)
    image = existing_file(folder / "image_2" / f"{name}.png", "picture")
    with limits.picture(image, str(image)) as header:
        size = (header.height, header.width)
    file = folder / "calib" / f"{name}.txt"
    calibration = read_calibration(file)
    records.intrinsics(calibration.K.numpy(), f"{file}: P2, which is K [1 | b],", size)
    objects, ignored = None, torch.zeros(0, 4, dtype=torch.float64)
    if (folder / "label_2").is_dir():
        path = folder / "label_2" / f"{name}.txt"
        try:
            objects, ignored = objects_from(read_labels(path), calibration)
        except ValueError as error:
            raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None
    return RoadFrame(str(image), Camera(calibration.K, size), CLASSES, objects, ignored, name)


def read(folder: str | Path, names: Sequence[str] = ()) -> list[RoadFrame]:
    """The pictures of a KITTI folder.

    Args:
        folder: holds image_2 and calib, and label_2 if there is truth.
        names: "000008", ...; none means all, in order.

    Raises:
        FileNotFoundError: no image_2 there, or nothing in it.
        ValueError: a file is broken.
    """
    folder = Path(folder)
    names = list(names) or sorted(p.stem for p in (folder / "image_2").glob("*.png"))
    if not names:
        raise FileNotFoundError(
            f"no pictures in {folder / 'image_2'} ({found(folder)}); expected image_2/000000.png, calib, label_2"
        )
    return [read_frame(folder, name) for name in names]


def write_results(folder: str | Path, results: Mapping[str, Labels]) -> None:
    """Write one file per picture, NAME.txt; one without objects is empty, as KITTI's server expects.

    Raises:
        ValueError: results without scores.
    """
    for name, labels in results.items():
        if labels.scores is None:
            raise ValueError(f"results for {name} have no scores; they would be taken for the truth")
    for name, labels in results.items():
        write_labels(Path(folder) / f"{name}.txt", labels)
