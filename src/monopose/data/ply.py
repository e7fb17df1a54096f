"""Vertices of PLY files with numpy alone, for scores that should not wait for a mesh library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.records import found

_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    **{f"int{8 * n}": f"i{n}" for n in (1, 2, 4)},
    **{f"uint{8 * n}": f"u{n}" for n in (1, 2, 4)},
    **{f"float{8 * n}": f"f{n}" for n in (4, 8)},
}


def read_ply_vertices(path: str | Path) -> NDArray[Any]:
    """Vertex positions of a PLY file (ascii or binary), (V, 3), float64, in the unit of the file.

    Raises:
        FileNotFoundError, ValueError: no such file, no PLY, no positions, cut short.

    Source: Turk, The PLY Polygon File Format (1994).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no mesh {path} ({found(path.parent)})") from None
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise ValueError(f"{path} is not a PLY file: it must start with 'ply' and have an 'end_header' line")
    start = data.find(b"\n", end) + 1 or len(data)
    kind, count, columns, element = "", 0, [], ""
    for words in (line.split() for line in data[:end].decode("ascii", "replace").splitlines()):
        match words:
            case ["format", kind, *_]:
                pass
            case ["element", name, n]:
                if not element and name != "vertex":
                    raise ValueError(f"{path}: the first element must be 'vertex', got '{name}'")
                element, count = name, int(n) if name == "vertex" else count
            case ["property", number, name] if element == "vertex":
                columns.append((name, _TYPES[number]))
    names = [name for name, _ in columns]
    if not {"x", "y", "z"} <= set(names) or count < 1:
        raise ValueError(f"{path}: needs at least one vertex with properties x, y, z; got {count} with {', '.join(names)}")
    if kind == "ascii":
        body = data[start:].split(None, count * len(columns))[: count * len(columns)]
        if len(body) == count * len(columns):
            return np.stack([np.array(body[names.index(a) :: len(columns)], np.float64) for a in "xyz"], -1)
    else:
        order = ">" if kind == "binary_big_endian" else "<"
        dtype = np.dtype([(name, order + t) for name, t in columns])
        if len(data) - start >= count * dtype.itemsize:
            rows = np.frombuffer(data, dtype, count, start)
            return np.stack([rows[a] for a in "xyz"], -1).astype(np.float64)
    raise ValueError(f"{path} is cut short: its header promises {count} vertices")
