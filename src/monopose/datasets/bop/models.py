"""BOP's models folders: meshes, diameters, boxes and symmetries, in metres."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...io import records
from ...io.ply import read_ply
from ...io.records import MM, Array, PathLike, found, numbers, read_json

if TYPE_CHECKING:
    from ...types import ObjectModel, Symmetries


class ModelInfo(NamedTuple):
    """What models_info.json says of one object.

    diameter: metres. low, size: corner and extent of its box, (3,), metres, or None.
    discrete: obj_from_obj, (S, 4, 4), metres, without the identity. axes, offsets: (A, 3), unit vectors and metres.
    """

    diameter: float
    low: Array | None
    size: Array | None
    discrete: Array
    axes: Array
    offsets: Array

    @property
    def symmetries(self) -> Symmetries:
        import torch

        from ...types import Symmetries

        return Symmetries(*(torch.as_tensor(a, dtype=torch.float32) for a in (self.discrete, self.axes, self.offsets)))


def read_models_info(path: PathLike) -> dict[int, ModelInfo]:
    """Diameters, boxes and symmetries of all objects from a models_info.json (or the folder that holds it), in metres.

    Raises:
        FileNotFoundError, ValueError: naming file, object and key.

    Source: BOP format: symmetries_discrete lists 4x4 row by row, translation in mm, the identity not listed.
    """
    path = Path(path)
    path = path if path.suffix == ".json" else path / "models_info.json"
    raw = records.by_number(read_json(path), str(path), "object")
    return {key: _model_info(record, f"{path}, object {key}") for key, record in raw.items()}


def _model_info(record: dict[str, Any], where: str) -> ModelInfo:
    diameter = float(numbers(record, "diameter", (), where))
    if diameter < 1:
        raise ValueError(f"{where}: 'diameter' must be millimetres, got {diameter:g}; were metres written? Multiply by 1000")
    low = size = None
    if all(f"{k}_{a}" in record for k in ("min", "size") for a in "xyz"):
        low, size = (np.array([float(numbers(record, f"{k}_{a}", (), where)) for a in "xyz"]) * MM for k in ("min", "size"))
    discrete, axes, offsets = records.symmetries(record, where)
    discrete = discrete[~_is_identity(discrete, diameter)]
    discrete[:, :3, 3] *= MM
    return ModelInfo(diameter * MM, low, size, discrete, axes, offsets * MM)


def _is_identity(motions: Array, diameter: float) -> Array:
    """Which motions (N, 4, 4) are none: some files list the identity among the symmetries. The diameter is in their unit."""
    off = np.abs(motions[:, :3, :3] - np.eye(3)).reshape(-1, 9).max(1, initial=0)
    return (off < 1e-3) & (np.abs(motions[:, :3, 3]).max(1, initial=0) < 1e-3 * diameter)


SPACING = 0.1  # of the diameter: more is not allowed for, or every motion would be a symmetry of a mesh with few vertices


def check_symmetries(points: Array, info: ModelInfo, where: str, tolerance: float = 0.05) -> None:
    """Raise where a mesh does not look as declared: each declared symmetry is tried on its vertices.

    Args:
        points: vertices, (V, 3), metres.
        info: what models_info.json declares about the object.
        where: file and object, for errors.
        tolerance: mean distance of the turned vertices from the nearest one, share of the diameter, that is allowed beyond the
            distance of neighbouring vertices. Symmetries that are only nearly true (a groove, a label) stay within it.
    """
    from scipy.spatial import cKDTree

    turned = [(f"symmetries_discrete[{n}]", motion) for n, motion in enumerate(info.discrete)]
    for n, (axis, offset) in enumerate(zip(info.axes, info.offsets)):
        for angle in (1.0, 2.5):  # radians, of no finite group that a mesh could have by chance
            motion = np.eye(4)
            skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
            motion[:3, :3] += np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
            motion[:3, 3] = offset - motion[:3, :3] @ offset
            turned.append((f"symmetries_continuous[{n}]", motion))
    if not turned or len(points) < 4:
        return
    some = points[:: max(len(points) // 2000, 1)]
    tree = cKDTree(points)
    spacing = min(float(tree.query(some, k=2)[0][:, 1].mean()), SPACING * info.diameter)
    for name, motion in turned:
        away = float(tree.query(some @ motion[:3, :3].T + motion[:3, 3])[0].mean())
        if away > tolerance * info.diameter + spacing:
            raise ValueError(
                f"{where}: '{name}' is no symmetry of the mesh: turned by it, the mesh is {away / MM:.3g} mm away from itself "
                f"(diameter {info.diameter / MM:.4g} mm); are its translations in millimetres, its matrix row by row?"
            )


def _number(path: Path) -> int | None:
    """7 of obj_000007.ply; None if the file is not named so."""
    return int(path.stem[4:]) if re.fullmatch("obj_[0-9]{1,9}", path.stem) else None


def ids_of_names(paths: Iterable[PathLike]) -> list[int]:
    """Object ids of mesh files: those of their names if all are named as BOP's (obj_000007.ply is 7), else 1, 2, 3, ...

    Raises:
        ValueError: if two files have the same number.
    """
    files = [Path(p) for p in paths]
    numbers = [n for n in map(_number, files) if n is not None]
    if len(numbers) < len(files):
        return list(range(1, len(files) + 1))
    twice = [str(p) for p, n in zip(files, numbers, strict=True) if numbers.count(n) > 1]
    if twice:
        raise ValueError(f"{' and '.join(twice)} have the same object number; rename one of them")
    return numbers


def model_paths(folder: Path) -> dict[int, Path]:
    """Object id -> mesh file of a BOP models folder, sorted.

    Raises:
        FileNotFoundError: no such folder, or no mesh in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no models folder {folder} ({found(folder.parent)})")
    paths = {number: p for p in sorted(folder.glob("obj_*.ply")) if (number := _number(p)) is not None}
    if not paths:
        raise FileNotFoundError(f"no obj_000001.ply in {folder} ({found(folder)}); BOP names meshes obj_ plus six digits")
    return paths


def read_names(path: PathLike) -> dict[int, str]:
    """Object id -> name, of a names.json: {"1": "duck"}."""
    content = records.by_number(read_json(path), str(path), "object")
    return {i: records.text({"name": name}, "name", f"{path}, object {i}") for i, name in content.items()}


def read_models(
    folder: PathLike, obj_ids: Iterable[int] | None = None, names: dict[int, str] | None = None
) -> dict[int, ObjectModel]:
    """The CAD models of a BOP models folder in metres, with colours, normals, texture and symmetries where the files have them.

    Args:
        folder: holds obj_000001.ply ... (mm) and models_info.json (mm).
        obj_ids: which objects; all by default.
        names: what to call them; by default what names.json beside the meshes says ({"1": "duck"}), else "obj_000001".

    Returns:
        object id -> ObjectModel, sorted by id. Its diameter is the one of models_info.json.

    Raises:
        FileNotFoundError, ValueError: naming file, object and key; an unknown id lists the known ones.
    """

    folder = Path(folder)
    if names is None:
        file = folder / "names.json"
        names = read_names(file) if file.exists() else {}
    from ...mesh.loading import load_mesh

    paths, infos = model_paths(folder), read_models_info(folder)
    models = {}
    for i in sorted(paths if obj_ids is None else set(obj_ids)):
        if i not in paths or i not in infos:
            missing = f"obj_{i:06d}.ply" if i not in paths else f"key '{i}' in models_info.json"
            raise ValueError(f"unknown object id {i}: no {missing} in {folder}; known ids: {sorted(set(paths) & set(infos))}")
        model = load_mesh(paths[i], "mm", obj_id=i, name=names.get(i, paths[i].stem), symmetries=infos[i].symmetries)
        models[i] = replace(model, diameter=infos[i].diameter)
    return models


def read_model_points(folder: PathLike, obj_ids: Iterable[int] | None = None) -> dict[int, Array]:
    """Vertices of the models in a folder, object id -> (V, 3), float64, metres. No torch, no mesh library."""
    paths = model_paths(Path(folder))
    ids = sorted(paths if obj_ids is None else set(obj_ids))
    for i in ids:
        if i not in paths:
            raise ValueError(f"unknown object id {i}: no obj_{i:06d}.ply in {folder}; known ids: {sorted(paths)}")
    return {i: read_ply_vertices(paths[i]) * MM for i in ids}


def models_info_entry(model: ObjectModel, symmetries: Symmetries) -> dict[str, Any]:
    """The entry of BOP's models_info.json for a model: diameter, box and the given symmetries, mm."""
    low, high = (model.bounds.double().cpu().numpy() / MM).round(6).tolist()
    entry: dict[str, Any] = {"diameter": round(model.diameter / MM, 6)}
    entry |= {f"min_{a}": v for a, v in zip("xyz", low, strict=True)}
    entry |= {f"size_{a}": round(h - v, 6) for a, v, h in zip("xyz", low, high, strict=True)}
    return entry | symmetries_json(symmetries)


def symmetries_json(symmetries: Symmetries) -> dict[str, Any]:
    """The symmetry entries of models_info.json, translations and offsets in mm; keys only for what there is."""
    entries: dict[str, Any] = {}
    if len(symmetries.discrete):
        matrices = symmetries.discrete.cpu().numpy().copy()
        matrices[:, :3, 3] *= matrices.dtype.type(1 / MM)
        entries["symmetries_discrete"] = [decimals(m) for m in matrices]
    if len(symmetries.axes):
        pairs = zip(symmetries.axes.cpu().numpy(), symmetries.offsets.cpu().numpy())
        entries["symmetries_continuous"] = [{"axis": decimals(a), "offset": millimetres(o)} for a, o in pairs]
    return entries


# --------------------------------------------------------------------------------------------------------------- numbers


def decimals(values: Array) -> list[float]:
    """The shortest decimals that give the same numbers in their own precision."""
    return [float(str(v)) for v in np.asarray(values).ravel()]


def millimetres(metres: Array) -> list[float]:
    return [round(v / MM, 9) for v in decimals(metres)]  # a picometre: hides that v / 0.001 is not exact


def read_ply_vertices(path: str | Path) -> NDArray[Any]:
    """Vertex positions of a PLY file (ascii or binary), (V, 3), float64, in the unit of the file.

    Raises:
        FileNotFoundError, ValueError: no such file, no PLY, no positions, cut short.
    """
    vertex = read_ply(path).elements.get("vertex", {})
    columns = [c for a in "xyz" if isinstance(c := vertex.get(a), np.ndarray)]
    count = len(columns[0]) if columns else 0
    if len(columns) < 3 or not count:
        raise ValueError(
            f"{path}: needs at least one vertex with properties x, y, z; got {count} with {', '.join(vertex) or 'none'}"
        )
    points = np.stack(columns, -1).astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: vertex {int(np.argwhere(~np.isfinite(points))[0][0])} holds NaN or infinity")
    return points
