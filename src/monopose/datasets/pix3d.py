"""Pix3D: photos of furniture with masks, aligned CAD models and viewpoints, read into our frames.

    FOLDER/
      pix3d.json                             one entry per photo
      img/chair/0001.png                     endings differ: .png, .jpg, .jpeg, .tiff
      mask/chair/0001.png
      model/chair/IKEA_JULES_2/model.obj     no real size; a pose is in the unit of its own model

Pix3D's model frame: +x to the left of a viewer in front of the object, +y up, +z away from him. Its camera stands at the
origin, x left, y up, z forward. Ours: model +X right, +Y away, +Z up (front towards -Y); camera x right, y down, z forward.
The focal length is in millimetres of a sensor 32 mm wide.

Crops of it, as the published viewpoint experiment keeps them, are read in its place where there is no pix3d.json:

    FOLDER/
      Pix3D.txt                              or chair_annotation.txt …: tables of commas, a line for each crop
      crop/chair/0001.png                    what `image_path` of a line names; .png whatever ending it has there
      crop_mask/chair/0001.png               where it is there; likewise normal/ and boundries/, of any network

Source: Sun et al., "Pix3D: Dataset and Methods for Single-Image 3D Shape Modeling", CVPR 2018, and its README.
"""

from __future__ import annotations

import csv
import math
import os
import random
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geometry import se3, viewpoints
from ..io import limits
from ..io.files import existing_file, write_json
from ..io.images import from_array, read_image
from ..io.pickles import read_pickle
from ..io.records import check_rotations, found, mapping, numbers, read_json, read_text, symmetries, value
from ..mesh.loading import load_mesh
from ..types import ObjectModel, Symmetries

SENSOR_WIDTH = 32.0  # millimetres
MOST_BROKEN = 0.1  # share of entries that may be left out before the file counts as broken
LARGEST_DISAGREEMENT = 5.0  # degrees, median, between the two viewpoints that an entry states

CROP_MASKS = ("crop_mask", "mask")  # folders beside that of the crops
CROP_MARGIN = 1.1  # what `viewpoint.samples` adds around a box, and a crop has already

_STATED: dict[str, tuple[int, ...]] = {"cam_position": (3,), "inplane_rotation": ()}

CAMERA = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
"""our camera from Pix3D's camera; its own inverse."""
MODEL = torch.tensor([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)
"""our model frame from Pix3D's; its own inverse."""


class Pix3DWarning(UserWarning):
    """Entries of a data set that were left out, or that contradict themselves."""


@dataclass(frozen=True, eq=False)
class Record:
    """One photo of one object.

    Args:
        folder: the data set.
        image, mask, model: paths in it; `mask` is None where there is none.
        category: "chair".
        size: height and width of the photo, pixels.
        box: of the object, (4,), xyxy on pixel edges, float32.
        cam_from_obj: (4, 4), float64, our frames; lengths in the model's own unit.
        f: focal length, pixels; the principal point is the middle of the photo.
        truncated: the photo's edge cuts the object.
        occluded, slightly_occluded: something stands before it; never both.
        source: where the photo is from: "ikea", "internet", "self-taken".
    """

    folder: Path
    image: str
    mask: str | None
    model: str
    category: str
    size: tuple[int, int]
    box: Tensor
    cam_from_obj: Tensor
    f: float
    truncated: bool = False
    occluded: bool = False
    slightly_occluded: bool = False
    source: str = ""

    @property
    def name(self) -> str:
        """Category and number of the photo: "chair/0001"."""
        return _without_root(self.image)

    @property
    def shape(self) -> str:
        """Category and CAD model: "chair/IKEA_JULES_2/model"."""
        return _without_root(self.model)

    @property
    def product(self) -> str:
        """Category and what was bought: "chair/IKEA_JULES_2".

        Swivel chairs have a model of their own for most photos, with seat and base turned as they stand there.
        """
        return "/".join(self.shape.split("/")[:2])

    @property
    def K(self) -> Tensor:
        """Intrinsics, (3, 3), float32, pixel centres at integers."""
        height, width = self.size
        return torch.tensor([[self.f, 0.0, (width - 1) / 2], [0.0, self.f, (height - 1) / 2], [0.0, 0.0, 1.0]])

    @property
    def angles(self) -> Tensor:
        """Azimuth, elevation, in-plane rotation as if the camera looked at the object, (3,), float64, radians."""
        return angles_of(self.cam_from_obj)


def _without_root(path: str) -> str:
    """ "img/chair/0001.png" -> "chair/0001"."""
    pure = PurePosixPath(path)
    stem = pure.with_suffix("") if pure.suffix else pure
    return "/".join(stem.parts[1:] if len(stem.parts) > 1 else stem.parts)


def angles_of(cam_from_obj: Tensor) -> Tensor:
    """Viewpoints of objects anywhere in a photo, as if the camera looked at them. (..., 4, 4) -> (..., 3), radians."""
    return viewpoints.angles_of(se3.allocentric_from_egocentric(cam_from_obj)[..., :3, :3])


def pose_from_pix3d(rot_mat: Tensor | Any, trans_mat: Tensor | Any) -> Tensor:
    """cam_from_obj in our frames. (..., 3, 3), (..., 3) -> (..., 4, 4), float64, lengths as they come."""
    R = torch.as_tensor(rot_mat, dtype=torch.float64)
    t = torch.as_tensor(trans_mat, dtype=torch.float64)
    return se3.from_rt(CAMERA @ R @ MODEL, t @ CAMERA)


def pose_to_pix3d(cam_from_obj: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `pose_from_pix3d`: rot_mat (..., 3, 3) and trans_mat (..., 3), float64."""
    pose = cam_from_obj.double().cpu()
    return CAMERA @ pose[..., :3, :3] @ MODEL, pose[..., :3, 3] @ CAMERA


# ------------------------------------------------------------------------------------------------------- the data set


def read(folder: str | Path, categories: Sequence[str] = (), whole_only: bool = False) -> list[Record]:
    """The photos of a Pix3D folder, in the order of its pix3d.json; or crops with their tables, see above.

    Entries that cannot be used (NaN, no rotation, object behind the camera, a box without area, a mask whose proportions are
    not those of the photo, of which the real data set has two) are left out with one `Pix3DWarning`, another says so when the
    viewpoints that entries state do not follow from their poses.

    Args:
        folder: holds pix3d.json.
        categories: which to keep; all by default.
        whole_only: only objects that are neither truncated nor occluded; slightly occluded ones stay.

    Raises:
        FileNotFoundError: no pix3d.json; or files it names are missing: says how many and which first.
        ValueError: the file is broken, a category is unknown, more than a tenth of the entries are unusable, none is left.
    """
    folder = Path(folder)
    path = folder / "pix3d.json"
    if not path.is_file() and (tables := _tables(folder)):
        return _read_crops(folder, tables, categories, whole_only)
    if not path.is_file():
        inner = [p.parent for p in sorted(folder.glob("*/pix3d.json"))] if folder.is_dir() else []
        hint = f"it lies in {inner[0]}: name that folder" if inner else "get the data set: monopose download pix3d --out DIR"
        raise FileNotFoundError(f"no pix3d.json in {folder} ({found(folder)}); {hint}")
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        got = f"{type(entries).__name__} of {len(entries)}" if isinstance(entries, (list, dict)) else type(entries).__name__
        raise ValueError(f"{path} must hold a list of photos, got {got}")
    where = [f"{path}, entry {n}" for n in range(len(entries))]
    kinds = [str(value(entry, "category", place)) for entry, place in zip(entries, where, strict=True)]
    unknown = sorted(set(categories) - set(kinds))
    if unknown:
        raise ValueError(f"{path} has no category {', '.join(unknown)}; it has {', '.join(sorted(set(kinds)))}")
    chosen = [n for n, kind in enumerate(kinds) if not categories or kind in categories]
    records, broken = [], []
    for n in chosen:
        try:
            records.append(_record(entries[n], folder, where[n]))
        except _Unusable as error:
            broken.append(str(error))
    _check_count(path, broken, len(chosen))
    if whole_only:
        records = [r for r in records if not (r.truncated or r.occluded)]
    _check_files(folder, records)
    foreign = {r.image: why for r in records if (why := _foreign_mask(r))}
    broken += foreign.values()
    _check_count(path, broken, len(chosen))
    if broken:
        warnings.warn(
            f"{path}: left out {len(broken)} of {len(chosen)} entries; the first: {broken[0]}", Pix3DWarning, stacklevel=2
        )
    records = [r for r in records if r.image not in foreign]
    if not records:
        raise ValueError(f"{path}: no photo is left of {len(entries)}; whole_only={whole_only}, categories {list(categories)}")
    _check_viewpoints(path, records, {entries[n]["img"]: entries[n] for n in chosen})
    return records


def is_here(folder: str | Path) -> bool:
    """Whether a folder holds photos or crops that `read` takes."""
    return (Path(folder) / "pix3d.json").is_file() or bool(_tables(Path(folder)))


def _tables(folder: Path) -> list[Path]:
    whole = folder / "Pix3D.txt"
    return [whole] if whole.is_file() else sorted(folder.glob("*_annotation.txt"))


def _read_crops(folder: Path, tables: Sequence[Path], categories: Sequence[str], whole_only: bool) -> list[Record]:
    """Crops as records whose camera looks at the object's middle from any distance: only their viewpoints mean something."""
    lines = [line for table in tables for line in read_annotations(table)]
    known = sorted({line.category for line in lines})
    if unknown := sorted(set(categories) - set(known)):
        raise ValueError(f"{tables[0]} has no category {', '.join(unknown)}; it has {', '.join(known)}")
    lines = [a for a in lines if not categories or a.category in categories]
    lines = [a for a in lines if not (whole_only and (a.truncated or a.occluded))]
    if not lines:
        raise ValueError(f"{tables[0]}: no crop is left; whole_only={whole_only}, categories {list(categories)}")
    return [_crop_record(folder, line) for line in lines]


def _crop_record(folder: Path, line: Annotation) -> Record:
    stored = PurePosixPath(_path({"image_path": line.image}, "image_path", str(folder))).with_suffix(".png")
    image = next((p for p in (str(stored), line.image) if (folder / p).is_file()), None)
    if image is None:
        raise FileNotFoundError(f"{folder} has no crop {stored}, which a table of annotations names; cut the photos first")
    with limits.picture(folder / image, str(folder / image)) as picture:
        width, height = picture.size
    inner = PurePosixPath(*stored.parts[1:])
    mask = next((p for name in CROP_MASKS if (folder / (p := f"{name}/{inner}")).is_file()), None)
    side = max(width, height) / CROP_MARGIN  # so that the whole crop is taken
    middle = torch.tensor([width, height, width, height]) / 2
    pose = se3.from_rt(viewpoints.rotation_of(line.angles), torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64))
    return Record(
        folder, image, mask, f"model/{line.shape}.obj", line.category, (height, width),
        (middle + torch.tensor([-side, -side, side, side]) / 2).float(), pose, 2.0 * max(width, height), line.truncated,
        line.occluded, line.slightly_occluded, line.source,
    )  # fmt: skip


def _check_count(path: Path, broken: Sequence[str], total: int) -> None:
    if len(broken) > MOST_BROKEN * total:
        raise ValueError(f"{len(broken)} of {total} entries of {path} are unusable; the first: {broken[0]}")


class _Unusable(ValueError):
    """An entry that has all its keys, and values that make no sense."""


def _record(entry: dict[str, Any], folder: Path, where: str) -> Record:
    width, height = (float(x) for x in numbers(entry, "img_size", (2,), where))
    where = f"{where} ({value(entry, 'img', where)})"
    try:
        rot_mat, trans_mat = numbers(entry, "rot_mat", (3, 3), where), numbers(entry, "trans_mat", (3,), where)
        millimetres, box = float(numbers(entry, "focal_length", (), where)), numbers(entry, "bbox", (4,), where)
        check_rotations(rot_mat[None], where, "rot_mat", tolerance=0.02)
    except ValueError as error:
        if "is missing" in str(error):
            raise
        raise _Unusable(str(error)) from None
    if width < 1 or height < 1:
        raise _Unusable(f"{where}: 'img_size' must be [width, height] in pixels, got {entry['img_size']}")
    if millimetres <= 0:
        raise _Unusable(f"{where}: 'focal_length' must be millimetres above 0, got {millimetres:g}")
    if trans_mat[2] <= 0:
        raise _Unusable(f"{where}: 'trans_mat' {trans_mat.tolist()} puts the object behind the camera")
    limits = np.array([width, height, width, height])
    inside = np.clip(box, 0, limits)
    if (inside[2:] - inside[:2]).min() < 1:
        raise _Unusable(f"{where}: 'bbox' must be [x0, y0, x1, y1] in a photo of {width:g} x {height:g}, got {box.tolist()}")
    left, _, right = np.linalg.svd(rot_mat)
    return Record(
        folder=folder,
        image=_path(entry, "img", where),
        mask=_path(entry, "mask", where) if entry.get("mask") else None,
        model=_path(entry, "model", where),
        category=str(entry["category"]),
        size=(round(height), round(width)),
        box=torch.tensor(inside, dtype=torch.float32),
        cam_from_obj=pose_from_pix3d(left @ right, trans_mat),
        f=millimetres * width / SENSOR_WIDTH,
        truncated=_flag(entry, "truncated", where),
        occluded=_flag(entry, "occluded", where),
        slightly_occluded=_flag(entry, "slightly_occluded", where),
        source=str(entry.get("img_source", "")),
    )


def _path(entry: dict[str, Any], key: str, where: str) -> str:
    text = value(entry, key, where)
    if not isinstance(text, str) or not text or PurePosixPath(text).is_absolute() or ".." in PurePosixPath(text).parts:
        raise ValueError(f"{where}: '{key}' must be a path inside the data set, got {text!r}")
    return str(PurePosixPath(text))


def _flag(entry: dict[str, Any], key: str, where: str) -> bool:
    """A truth value, as JSON has it or as text; False where there is none."""
    raw = entry.get(key, False)
    words = {"true": True, "false": False}
    if isinstance(raw, bool):
        return raw
    if str(raw).strip().lower() not in words:
        raise ValueError(f"{where}: '{key}' must be true or false, got {raw!r}")
    return words[str(raw).strip().lower()]


def _check_files(folder: Path, records: Sequence[Record]) -> None:
    """Raise when photos, masks or models are missing. Each folder is listed once."""
    wanted = dict.fromkeys(path for r in records for path in (r.image, r.mask, r.model) if path)
    listed: dict[str, set[str]] = {}
    missing = []
    for path in wanted:
        parent, _, name = path.rpartition("/")
        if parent not in listed:
            listed[parent] = set(os.listdir(folder / parent)) if (folder / parent).is_dir() else set()
        if name not in listed[parent]:
            missing.append(path)
    if not missing:
        return
    alike = sorted(n for n in listed[missing[0].rpartition("/")[0]] if Path(n).stem == Path(missing[0]).stem)
    hint = f" ({alike[0]} is there)" if alike else ""
    raise FileNotFoundError(
        f"{folder}: {len(missing)} of {len(wanted)} files that pix3d.json names are missing; the first: {missing[0]}{hint}. "
        "Was the archive unpacked whole? To read a part of it, name the categories that are there"
    )


def _foreign_mask(record: Record) -> str:
    """Why the mask cannot be that of the photo, by its file's header alone; "" where it can, or is unreadable."""
    if record.mask is None:
        return ""
    path = record.folder / record.mask
    try:
        with limits.picture(path, str(path)) as image:
            width, height = image.size
    except (OSError, SyntaxError):
        return ""  # `read_picture` says what is wrong with it
    return _of_another(path, (height, width), record.size)


def _of_another(path: Path, mask: tuple[int, ...], photo: tuple[int, int]) -> str:
    """What to say of a mask whose height and width have other proportions than the photo's; "" where they have the same."""
    if 0.98 < mask[1] / photo[1] / (mask[0] / photo[0]) < 1.02:
        return ""
    return (
        f"{path} is {mask[1]} x {mask[0]} pixels (width x height), the photo {photo[1]} x {photo[0]}; "
        "proportions differ: is it the mask of another photo?"
    )


def _check_viewpoints(path: Path, records: Sequence[Record], entries: dict[str, dict[str, Any]]) -> None:
    """Warn when the cam_position and inplane_rotation of entries are not those of their poses, as a rule."""
    stated = []
    for record in records:
        try:
            numbers_of = [numbers(entries[record.image], key, size, "") for key, size in _STATED.items()]
        except ValueError:  # not there, or no numbers: nothing hangs on them
            continue
        stated.append((record.cam_from_obj, *(torch.from_numpy(x) for x in numbers_of)))
    if not stated:
        return
    poses, positions, turns = (torch.stack(column) for column in zip(*stated, strict=True))
    direction, turn = disagreement(poses, positions, turns).rad2deg().median(0).values.tolist()
    _, opposite = disagreement(poses, positions, -turns).rad2deg().median(0).values.tolist()
    if max(direction, turn) > LARGEST_DISAGREEMENT or turn > max(1.0, 2 * opposite):
        sign = f" ({opposite:.1f} with the opposite sign)" if opposite < turn else ""
        warnings.warn(
            f"{path}: the viewpoints that entries state (cam_position, inplane_rotation) are not those of their poses "
            f"(rot_mat, trans_mat): half of the directions are off by {direction:.1f} degrees or more, half of the in-plane "
            f"rotations by {turn:.1f}{sign}. The poses are used",
            Pix3DWarning,
            stacklevel=3,
        )


def disagreement(cam_from_obj: Tensor, cam_position: Tensor, inplane_rotation: Tensor) -> Tensor:
    """How far stated viewpoints are from those of the poses.

    Args:
        cam_from_obj: (N, 4, 4), our frames.
        cam_position: where the camera stands, (N, 3), Pix3D's model frame.
        inplane_rotation: (N,), radians.

    Returns:
        (N, 2), radians: between the directions to the camera, and between the in-plane rotations.

    Pix3D's README calls `inplane_rotation` a clockwise turn of the camera; users of the data take it as the object's, and so
    does this file. Read `read`'s warning on the real data: it says when the opposite sign fits the poses better.
    """
    angles = angles_of(cam_from_obj)
    ours = viewpoints.direction_of(angles[:, 0], angles[:, 1])
    theirs = torch.nn.functional.normalize(cam_position @ MODEL.T, dim=-1)
    direction = torch.atan2(torch.linalg.cross(ours, theirs).norm(dim=-1), (ours * theirs).sum(-1))
    turn = torch.remainder(angles[:, 2] - inplane_rotation + math.pi, 2 * math.pi) - math.pi
    return torch.stack([direction, turn.abs()], -1)


# --------------------------------------------------------------------------------------------------- what records name


def read_model(record: Record) -> ObjectModel:
    """The CAD model in our frame, named as `record.shape`; a metre stands for the model's own unit. No known symmetries.

    Raises:
        FileNotFoundError: it is not there, as with crops.
    """
    if not (record.folder / record.model).is_file():
        raise FileNotFoundError(
            f"no CAD model {record.model} in {record.folder}, whose normals were to be rendered; give --normals files or none"
        )
    model = load_mesh(record.folder / record.model, unit="m", name=record.shape)
    turn = MODEL.T.float()
    return replace(model, vertices=model.vertices @ turn, normals=model.normals @ turn)


def read_picture(record: Record) -> tuple[Tensor, Tensor | None]:
    """The photo, (3, H, W), float32 RGB in [0, 1], and the object's mask, (H, W), bool, or None where there is none.

    Masks count from half of their brightest value on. One of another size is resized when it has the photo's proportions.

    Raises:
        FileNotFoundError: a file is gone.
        ValueError: the photo is not as large as pix3d.json says; the mask is empty or belongs to another photo.
    """
    path = record.folder / record.image
    height, width = record.size
    stored = _as_stored(path)
    image = read_image(path) if stored is None or tuple(stored.shape[-2:]) != record.size else stored
    if tuple(image.shape[-2:]) != record.size:
        got = f"{image.shape[-1]} x {image.shape[-2]}"
        raise ValueError(
            f"{path} is {got} pixels (width x height), pix3d.json says {width} x {height}; were the photos resized? "
            "Resize img_size, bbox and the masks with them"
        )
    return image, None if record.mask is None else _read_mask(record.folder / record.mask, record.size)


def _as_stored(path: Path) -> Tensor | None:
    """A photo without the turn that its EXIF tag asks for: annotations lie on what is stored. None: it asks for none."""
    from PIL import ExifTags

    try:
        with limits.picture(path, str(path)) as image:
            if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
                return None
            return from_array(np.array(image.convert("RGB")))
    except (OSError, SyntaxError):
        return None  # `read_image` says what is wrong with it


def _read_mask(path: Path, size: tuple[int, int]) -> Tensor:
    try:
        with limits.picture(existing_file(path, "mask"), str(path)) as image:
            values = np.asarray(image if image.mode in ("L", "1", "F") or image.mode[0] == "I" else image.convert("L"))
    except (OSError, SyntaxError) as error:
        if isinstance(error, (FileNotFoundError, IsADirectoryError)):
            raise
        raise ValueError(f"{path} is a broken or cut off mask ({error}); unpack it again") from error
    values = values.astype(np.float32)
    if not values.max(initial=0) > 0:
        raise ValueError(f"{path} is an empty mask; expected white where the object is")
    mask = torch.from_numpy(values > values.max() / 2)
    if tuple(mask.shape) == size:
        return mask
    if why := _of_another(path, tuple(mask.shape), size):
        raise ValueError(why)
    return torch.nn.functional.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].bool()


# -------------------------------------------------------------------------------------------------------------- splits


def read_symmetries(data: str | Path) -> dict[str, Symmetries]:
    """The turns under which shapes ("table/table_03/model") look the same, of a data set's symmetries.json; {} without one.

    As in BOP's models_info.json: {SHAPE: {"symmetries_discrete": [16 numbers row by row, …], "symmetries_continuous":
    [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}}, in our model frame and the model's unit.

    Raises:
        ValueError: no such file, a motion that is no rotation and translation, an axis of length 0; names shape and key.
    """
    path = Path(data) / "symmetries.json"
    if not path.is_file():
        return {}
    found = {}
    for shape, entry in mapping(read_json(path), str(path)).items():
        discrete, axes, offsets = symmetries(entry, f"{path}, {shape}")
        found[shape] = Symmetries(*(torch.as_tensor(part, dtype=torch.float32) for part in (discrete, axes, offsets)))
    return found


def write_symmetries(folder: str | Path, models: Mapping[str, ObjectModel]) -> None:
    """Write the symmetries.json that `read_symmetries` reads, of models by shape; nothing where none has any."""
    kept = {shape: _symmetries_entry(m.symmetries) for shape, m in models.items() if m.symmetries.any}
    if kept:
        write_json(Path(folder) / "symmetries.json", kept)


def _symmetries_entry(symmetries: Symmetries) -> dict[str, Any]:
    """One entry of symmetries.json."""
    lines = [{"axis": a, "offset": o} for a, o in zip(symmetries.axes.tolist(), symmetries.offsets.tolist(), strict=True)]
    return {"symmetries_discrete": symmetries.discrete.flatten(1).tolist(), "symmetries_continuous": lines}


def split(records: Sequence[Record], by: str = "image", seed: int = 0, share: float = 0.1) -> tuple[list[Record], list[Record]]:
    """Training and validation photos, drawn for each category on its own.

    Args:
        records: of any categories; their order and the other categories do not change a category's draw.
        by: "image" draws photos, as the published experiment does: the same chair is then seen in training and validation.
            "shape" draws products (see `Record.product`), so that none is in both. Otherwise a file that says it, see
            `read_split`; photos that it does not name are in neither part.
        seed: the same seed gives the same parts.
        share: of the photos or products that go to validation, rounded down; of two products or more, at least one.

    Returns:
        training, validation, each in the order of `records`.
    """
    if by not in ("image", "shape"):
        if not by.endswith((".pickle", ".pkl")):
            raise ValueError(f'by must be "image", "shape" or a .pickle file with the split, got {by!r}')
        chosen = read_split(by)
        stated = tuple([r for r in records if r.name in part] for part in chosen)
        if not all(stated):
            raise ValueError(f"{by} names no photo of the {len(records)} here in one of its parts")
        return stated[0], stated[1]
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    unit = [r.name if by == "image" else r.product for r in records]
    validation: set[str] = set()
    for category in sorted({r.category for r in records}):
        names = sorted({u for u, r in zip(unit, records, strict=True) if r.category == category})
        count = int(share * len(names) + 1e-9)
        if by == "shape" and len(names) > 1:
            count = max(count, 1)
        validation |= set(random.Random(f"{seed} {category}").sample(names, count))
    parts: tuple[list[Record], list[Record]] = ([], [])
    for record, name in zip(records, unit, strict=True):
        parts[name in validation].append(record)
    return parts


_SPLIT_CLASSES = (
    "torch.utils.data.dataset.ConcatDataset", "torch.utils.data.dataset.Subset",
)  # fmt: skip


def read_split(path: str | Path) -> tuple[set[str], set[str]]:
    """Names of the training and the validation photos ("chair/0001") of a train_test_sp.pickle, the published experiment's.

    It holds torch data sets: {"train_set": …, "val_set": …}, joined ones of subsets of tables, whose sixth column is the cut
    picture. None of its code is run.

    Raises:
        FileNotFoundError, ValueError: no such file, another content, a photo in both parts.
    """
    content = read_pickle(existing_file(path, "split"), "a split of Pix3D", _SPLIT_CLASSES)
    if not isinstance(content, dict) or not {"train_set", "val_set"} <= content.keys():
        raise ValueError(f"{path} is no split of Pix3D: expected train_set and val_set, got {_kind(content)}")
    parts = [set(_split_names(content[key], f"{path}: {key}")) for key in ("train_set", "val_set")]
    if both := parts[0] & parts[1]:
        raise ValueError(f"{path} has {len(both)} photos in both parts; the first: {min(both)}")
    if not all(parts):
        raise ValueError(f"{path}: one of the parts is empty")
    return parts[0], parts[1]


def _split_names(part: Any, where: str) -> list[str]:
    """Names of the photos of one torch data set, read as dictionaries."""
    if isinstance(part, dict) and isinstance(part.get("datasets"), list):
        return [name for inner in part["datasets"] for name in _split_names(inner, where)]
    if isinstance(part, dict) and "dataset" in part and "indices" in part:
        names = _split_names(part["dataset"], where)
        wanted = [int(i) for i in part["indices"]]
        if wanted and not 0 <= min(wanted) <= max(wanted) < len(names):
            raise ValueError(f"{where} picks photo {max(wanted)} of {len(names)}")
        return [names[i] for i in wanted]
    if isinstance(part, list):
        if not all(isinstance(row, list) and len(row) > 5 and isinstance(row[5], str) for row in part):
            raise ValueError(f"{where}: the sixth column of its rows is no picture")
        return [_without_root(row[5]) for row in part]
    raise ValueError(f"{where} is no list of photos: {_kind(part)}")


def _kind(content: Any) -> str:
    return f"a dict of {', '.join(map(str, list(content)[:4]))}" if isinstance(content, dict) else f"{content!r:.60}"


# ----------------------------------------------------------------------------------------------------- annotation files


@dataclass(frozen=True, eq=False)
class Annotation:
    """One line of a category's text file.

    Args:
        image: path as the file has it, of a picture already cut to the object.
        category: "chair".
        shape: category and CAD model: "chair/IKEA_JULES_2/model".
        angles: azimuth, elevation, in-plane rotation, (3,), float64, radians.
        truncated, occluded, slightly_occluded: as in `Record`.
        source: where the photo is from.
    """

    image: str
    category: str
    shape: str
    angles: Tensor
    truncated: bool
    occluded: bool
    slightly_occluded: bool
    source: str


_COLUMNS = ("image_path", "cat_id", "example_id", "model_name", "azimuth", "elevation", "inplane_rotation")


def read_annotations(path: str | Path) -> list[Annotation]:
    """The viewpoints of a category's text file: azimuth and elevation in degrees, in-plane rotation in radians.

    They are Pix3D's own `cam_position` and `inplane_rotation`; see `disagreement` about the sign of the latter.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, a value is no number or out of its range; says in which line.
    """
    path = existing_file(path, "annotation file")
    table = csv.DictReader(read_text(path, "a table of commas").splitlines())
    try:
        missing = [c for c in _COLUMNS if c not in (table.fieldnames or [])]
        if missing:
            raise ValueError(f"{path}: the first line lacks {', '.join(missing)}; it has {', '.join(table.fieldnames or [])}")
        rows = [(f"{path}, line {table.line_num}", row) for row in table]
    except csv.Error as error:
        raise ValueError(f"{path}, line {table.line_num + 1} is no line of a table ({error})") from None
    twice = [name for name, count in Counter(row["image_path"] for _, row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has {len(twice)} photos more than once; the first: {twice[0]}")
    return [_annotation(row, where) for where, row in rows]


def _annotation(row: dict[str, Any], where: str) -> Annotation:
    azimuth, elevation, inplane = (float(numbers(row, key, (), where, written=True)) for key in _COLUMNS[4:])
    limits = {"azimuth": (azimuth, 0, 360), "elevation": (elevation, -90, 90), "inplane_rotation": (inplane, -math.pi, math.pi)}
    for key, (number, low, high) in limits.items():
        if not low <= number <= high:
            raise ValueError(f"{where}: '{key}' must lie between {low:.4g} and {high:.4g}, got {number:g}")
    return Annotation(
        image=row["image_path"],
        category=row["cat_id"],
        shape="/".join((row["cat_id"], row["example_id"], row["model_name"])),
        angles=torch.tensor([math.radians(azimuth), math.radians(elevation), inplane], dtype=torch.float64),
        truncated=_flag(row, "truncated", where),
        occluded=_flag(row, "occluded", where),
        slightly_occluded=_flag(row, "slightly_occluded", where),
        source=row.get("resized_crop_source") or "",
    )
