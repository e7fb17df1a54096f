"""BOP folders and files, in and out: models, scenes, targets, results. The only file that knows millimetres.

Everything leaves here in metres and arrives here in metres. The JSON, CSV and PLY parts work on numpy alone, so that
`monopose evaluate` starts without torch; functions that return `ObjectModel`, `Frame` or `Instances` import torch when called.
Layout and conventions: https://github.com/thodan/bop_toolkit/blob/master/docs/bop_datasets_format.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..types import ObjectModel, Symmetries

PathLike = str | Path
Array = NDArray[Any]
MM = 1e-3  # metres in a millimetre


# ---------------------------------------------------------------------------------------------------------------- JSON


def read_json(path: PathLike) -> Any:
    """The content of a JSON file; errors name the file, what lies beside it, or the line that is broken."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"no {path.name} in {path.parent} ({_found(path.parent)})") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}); was it cut short while written?"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; expected JSON") from None


def _found(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder"
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return "found: " + (", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing")


def _numbers(record: dict[str, Any], key: str, shape: tuple[int, ...], where: str) -> Array:
    """`record[key]` as finite float64 of `shape`; the error says file, place and key."""
    if not isinstance(record, dict) or key not in record:
        has = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{where}: key '{key}' is missing (has: {has})")
    try:
        value = np.asarray(record[key], np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: '{key}' must be numbers, got {record[key]!r}") from None
    if value.size != int(np.prod(shape)):
        raise ValueError(f"{where}: '{key}' must have {int(np.prod(shape))} numbers, got {value.size}")
    if not np.isfinite(value).all():
        raise ValueError(f"{where}: '{key}' holds NaN or infinity")
    return value.reshape(shape)


# -------------------------------------------------------------------------------------------------------------- models


class ModelInfo(NamedTuple):
    """What models_info.json says of one object, without torch.

    diameter: metres. low, size: corner and extent of the box, (3,), metres, or None.
    discrete: obj_from_obj, (S, 4, 4), metres, without the identity. axes, offsets: (A, 3), unit and metres.
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

        from ..types import Symmetries

        return Symmetries(*(torch.as_tensor(a, dtype=torch.float32) for a in (self.discrete, self.axes, self.offsets)))


def read_models_info(path: PathLike) -> dict[int, ModelInfo]:
    """Diameters, boxes and symmetries of all objects from a models_info.json (or the folder that holds it), in metres.

    Raises:
        FileNotFoundError, ValueError: naming file, object and key.

    Source: BOP format: symmetries_discrete lists 4x4 row by row, translation in mm, the identity not listed.
    """
    path = Path(path)
    path = path / "models_info.json" if path.is_dir() or path.suffix != ".json" else path
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must be an object keyed by object id, got a {type(raw).__name__}")
    infos = {}
    for key, record in raw.items():
        where = f"{path}, object {key}"
        if not key.lstrip("-").isdigit():
            raise ValueError(f'{path}: keys must be object ids such as "1", got {key!r}')
        diameter = float(_numbers(record, "diameter", (), where)) * MM
        if diameter <= 0:
            raise ValueError(f"{where}: 'diameter' must be positive millimetres, got {diameter / MM}")
        low = size = None
        if all(f"{k}_{a}" in record for k in ("min", "size") for a in "xyz"):
            low, size = (np.array([float(record[f"{k}_{a}"]) for a in "xyz"]) * MM for k in ("min", "size"))
        discrete = _numbers_list(record.get("symmetries_discrete", []), 16, f"{where}, symmetries_discrete").reshape(-1, 4, 4)
        discrete[:, :3, 3] *= MM
        continuous = record.get("symmetries_continuous", [])
        axes = np.array([_numbers(c, "axis", (3,), f"{where}, symmetries_continuous") for c in continuous]).reshape(-1, 3)
        offsets = np.array([_numbers(c, "offset", (3,), f"{where}, symmetries_continuous") for c in continuous]).reshape(-1, 3)
        norms = np.linalg.norm(axes, axis=1, keepdims=True)
        if (norms < 1e-9).any():
            raise ValueError(f"{where}, symmetries_continuous: 'axis' must not be zero")
        infos[int(key)] = ModelInfo(diameter, low, size, discrete, axes / norms if len(axes) else axes, offsets * MM)
    return infos


def _numbers_list(rows: Any, n: int, where: str) -> Array:
    for row in rows:
        if np.size(row) != n:
            raise ValueError(f"{where}: each entry must have {n} numbers, got {np.size(row)}")
    return np.array(rows, np.float64).reshape(len(rows), n)


def model_paths(folder: PathLike) -> dict[int, Path]:
    """The PLY file of each object of a models folder: obj_000001.ply -> 1."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no models folder {folder} ({_found(folder.parent)})")
    paths = {int(p.stem[4:]): p for p in sorted(folder.glob("obj_*.ply")) if p.stem[4:].isdigit()}
    if not paths:
        raise FileNotFoundError(f"no obj_000001.ply ... in {folder} ({_found(folder)}); BOP names meshes obj_ plus six digits")
    return paths


def read_models(
    folder: PathLike, obj_ids: Iterable[int] | None = None, names: dict[int, str] | None = None
) -> dict[int, ObjectModel]:
    """The CAD models of a BOP models folder in metres, with colours, normals, texture and symmetries where the files have them.

    Args:
        folder: holds obj_000001.ply ... (mm) and models_info.json (mm).
        obj_ids: which objects; all by default.
        names: what to call them; "obj_000001" by default.

    Returns:
        object id -> ObjectModel, sorted by id. Its diameter is the one of models_info.json.
    """
    from dataclasses import replace

    try:
        from ..mesh import load_mesh
    except ImportError:
        load_mesh = _interim_load_mesh

    folder, names = Path(folder), names or {}
    paths, infos = model_paths(folder), read_models_info(folder)
    models = {}
    for i in sorted(paths if obj_ids is None else set(obj_ids)):
        if i not in paths or i not in infos:
            missing = f"obj_{i:06d}.ply" if i not in paths else f"key '{i}' in models_info.json"
            raise ValueError(f"unknown object id {i}: no {missing} in {folder}; known ids: {sorted(set(paths) & set(infos))}")
        model = load_mesh(paths[i], "mm", obj_id=i, name=names.get(i, paths[i].stem), symmetries=infos[i].symmetries)
        models[i] = replace(model, diameter=infos[i].diameter)
    return models


_PLY_TYPES = {
    **dict(zip("char uchar short ushort int uint float double".split(), "i1 u1 i2 u2 i4 u4 f4 f8".split())),
    **dict(zip("int8 uint8 int16 uint16 int32 uint32 float32 float64".split(), "i1 u1 i2 u2 i4 u4 f4 f8".split())),
}


def read_ply_vertices(path: PathLike) -> Array:
    """Vertex positions of a PLY file (ascii or binary), (V, 3), float64, in the unit of the file, as fast as numpy reads."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no mesh {path} ({_found(path.parent)})") from None
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise ValueError(f"{path} is not a PLY file: it must start with 'ply' and have an 'end_header' line")
    header = data[:end].decode("ascii", "replace").splitlines()
    start = data.index(b"\n", end) + 1
    fmt, count, columns, element = "", 0, [], ""
    for words in (line.split() for line in header):
        if not words:
            continue
        if words[0] == "format":
            fmt = words[1]
        elif words[0] == "element":
            if not element and words[1] != "vertex":
                raise ValueError(f"{path}: the first element must be 'vertex', got '{words[1]}'")
            element = words[1]
            count = int(words[2]) if element == "vertex" else count
        elif words[0] == "property" and element == "vertex":
            columns.append((words[2], _PLY_TYPES[words[1]]))
    names = [c[0] for c in columns]
    if not {"x", "y", "z"} <= set(names) or count < 1:
        raise ValueError(f"{path}: needs at least one vertex with properties x, y, z, got {count} with {names}")
    if fmt == "ascii":
        table = np.array(data[start:].split(None, count * len(columns))[: count * len(columns)], np.float64)
        if table.size == count * len(columns):
            return np.ascontiguousarray(table.reshape(count, -1)[:, [names.index(a) for a in "xyz"]])
    else:
        order = ">" if fmt == "binary_big_endian" else "<"
        dtype = np.dtype([(n, order + t) for n, t in columns])
        if len(data) - start >= count * dtype.itemsize:
            rows = np.frombuffer(data, dtype, count, start)
            return np.stack([rows[a] for a in "xyz"], -1).astype(np.float64)
    raise ValueError(f"{path} is cut short: the header promises {count} vertices")


def read_model_points(folder: PathLike, obj_ids: Iterable[int] | None = None) -> dict[int, Array]:
    """Vertices of the models in a folder, object id -> (V, 3), float64, metres. No torch, no trimesh."""
    paths = model_paths(folder)
    ids = sorted(paths if obj_ids is None else set(obj_ids))
    for i in ids:
        if i not in paths:
            raise ValueError(f"unknown object id {i}: no obj_{i:06d}.ply in {folder}; known ids: {sorted(paths)}")
    return {i: read_ply_vertices(paths[i]) * MM for i in ids}


def _interim_load_mesh(path: Path, unit: str, *, obj_id: int, name: str, symmetries: Symmetries) -> ObjectModel:
    """Stands in until mesh.py exists."""
    import torch
    import trimesh

    from ..types import ObjectModel

    mesh: Any = trimesh.load(path, process=False, force="mesh")
    visual, texture, uv, colors = mesh.visual, None, None, None
    if visual.kind == "texture" and getattr(visual, "material", None) is not None:
        image = getattr(visual.material, "image", None) or getattr(visual.material, "baseColorTexture", None)
        if image is not None and visual.uv is not None:
            texture = torch.as_tensor(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
            uv = torch.as_tensor(np.array(visual.uv)).float()
    elif visual.kind == "vertex":
        colors = torch.as_tensor(np.array(visual.vertex_colors)[:, :3]).float() / 255
    return ObjectModel(
        obj_id=obj_id,
        name=name,
        vertices=torch.as_tensor(np.array(mesh.vertices)).float() * MM,
        faces=torch.as_tensor(np.array(mesh.faces)).long(),
        normals=torch.as_tensor(np.array(mesh.vertex_normals)).float(),
        diameter=1.0,
        colors=colors,
        uv=uv,
        texture=texture,
        symmetries=symmetries,
    )
