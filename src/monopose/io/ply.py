"""PLY files, ascii and binary: elements and their properties as arrays. No torch, no mesh library."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import limits
from .records import Array, PathLike, found

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    **{f"int{8 * n}": f"i{n}" for n in (1, 2, 4, 8)},
    **{f"uint{8 * n}": f"u{n}" for n in (1, 2, 4, 8)},
    **{f"float{8 * n}": f"f{n}" for n in (2, 4, 8)},
}  # fmt: skip


class Lists(NamedTuple):
    """A list property of N rows: how many numbers each row has, (N,) int64, and all of them in a row."""

    counts: Array
    values: Array


class Ply(NamedTuple):
    """A PLY file.

    Args:
        elements: name -> property -> (N,) array, or `Lists`; float64 where the file is ascii.
        types: element -> property -> numpy's name of the type that the header declares.
        textures: those that `comment TextureFile` names.
    """

    elements: dict[str, dict[str, Array | Lists]]
    types: dict[str, dict[str, str]]
    textures: tuple[str, ...]


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[tuple[str, str, str]]  # name, type, type of the list's length or ""


def decoded(data: bytes) -> str:
    """Bytes of a text format whose numbers are ASCII: names and comments are UTF-8, else taken as Latin-1."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_ply(path: PathLike) -> Ply:
    """All elements of a PLY file.

    Raises:
        FileNotFoundError: says what lies in the folder.
        ValueError: no PLY; a header that is wrong, or asks for more than the limits; rows missing or of another length than
            the header promises, with the line.

    Source: Turk, The PLY Polygon File Format (1994).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no mesh {path} ({found(path.parent)})")
    limits.check_file(path, "MONOPOSE_MAX_MESH_MB")
    data = path.read_bytes()
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise ValueError(f"{path} is not a PLY file: it must start with 'ply' and have an 'end_header' line")
    start = data.find(b"\n", end) + 1 or len(data)
    kind, textures, layout = _header(decoded(data[:end]), str(path))
    for element in layout:
        if element.name == "face":
            limits.check("MONOPOSE_MAX_FACES", element.rows, str(path))
        if element.rows > max(len(data) - start, 0):  # a row takes at least a byte
            raise _cut(path, element, "")
    types = {element.name: {name: _TYPES[kind] for name, kind, _ in element.properties} for element in layout}
    if kind == "ascii":
        return Ply(_ascii(path, data, start, layout), types, textures)
    return Ply(_binary(path, data, start, layout, ">" if kind == "binary_big_endian" else "<"), types, textures)


def _header(text: str, where: str) -> tuple[str, tuple[str, ...], list[_Element]]:
    kind = ""
    textures: list[str] = []
    layout: list[_Element] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        place = f"{where}, line {number}"
        match words:
            case ["format", kind, *_]:
                pass
            case ["comment" | "obj_info", word, _, *_] if word.lower().rstrip(":") == "texturefile":
                textures.append(line.split(None, 2)[2].strip())
            case ["element", name, count]:
                if not count.isdecimal():
                    raise ValueError(f"{place}: the number of '{name}' must be a whole number from 0, got {count}")
                layout.append(_Element(name, int(count), []))
            case ["property", "list", length, number_type, name] if layout and length in _TYPES and number_type in _TYPES:
                layout[-1].properties.append((name, number_type, length))
            case ["property", number_type, name] if layout and number_type in _TYPES:
                layout[-1].properties.append((name, number_type, ""))
            case ["property", *_] if layout:
                raise ValueError(f"{place}: unknown property '{line.strip()[:60]}'; known types: {', '.join(_TYPES)}")
            case ["property" | "element", *_]:
                raise ValueError(f"{place} is no PLY header line: '{line.strip()[:60]}'")
    for element in layout:
        names = [name for name, _, _ in element.properties]
        if len(set(names)) < len(names):
            raise ValueError(f"{where}: element '{element.name}' names a property twice ({', '.join(names)})")
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ValueError(f"{where}: the format must be ascii, binary_little_endian or binary_big_endian, got '{kind}'")
    return kind, tuple(textures), layout


def _cut(path: Path, element: _Element, there: str) -> ValueError:
    name = {"vertex": "vertices", "face": "faces"}.get(element.name, f"rows of '{element.name}'")
    return ValueError(f"{path} is cut short: its header promises {element.rows} {name}{there}; export it again")


def _ascii(path: Path, data: bytes, start: int, layout: list[_Element]) -> dict[str, dict[str, Array | Lists]]:
    first = data.count(b"\n", 0, start) + 1  # number of the first line of the body
    numbered = [(n, row) for n, line in enumerate(data[start:].splitlines(), first) if (row := line.split())]
    elements, at = {}, 0
    for element in layout:
        rows = numbered[at : at + element.rows]
        at += len(rows)
        if len(rows) < element.rows:
            last = numbered[-1][0] if numbered else first - 1
            raise _cut(path, element, f", the file ends after {len(rows)} of them at line {last}")
        elements[element.name] = _ascii_rows(path, element, rows, numbered[-1][0] if numbered else 0)
    if at < len(numbered):
        raise ValueError(
            f"{path}, line {numbered[at][0]}: {len(numbered) - at} rows more than its header counts; export it again"
        )
    return elements


def _ascii_rows(path: Path, element: _Element, rows: list[tuple[int, list[bytes]]], last: int) -> dict[str, Array | Lists]:
    """The properties of one element; every row must have exactly the numbers that the header promises."""
    columns: dict[str, Array | Lists] = {}
    position = [0] * len(rows)
    try:
        for name, kind, length in element.properties:
            counts = [1] * len(rows)
            if length:
                counts = [int(row[p]) for (_, row), p in zip(rows, position)]
                position = [p + 1 for p in position]
            values = np.array([w for (_, row), p, n in zip(rows, position, counts) for w in row[p : p + n]], dtype=np.float64)
            _check_type(path, element.name, name, kind, values)
            columns[name] = Lists(np.array(counts, np.int64), values) if length else values
            position = [p + n for p, n in zip(position, counts)]
            if min(counts, default=0) < 0:
                raise IndexError
        if position != [len(row) for _, row in rows]:
            raise IndexError
    except (ValueError, IndexError) as error:
        at = next((n for n, (_, row) in enumerate(rows) if not _fits(row, element)), None)
        if at is None:  # of another type than declared
            raise error
        number, row = rows[at]
        shown = b" ".join(row)[:60].decode("latin-1")
        if number == last:
            raise _cut(path, element, f", the file ends within number {at + 1} at line {number}: '{shown}'") from None
        expected = " ".join(f"{length and 'list of '}{name}" for name, _, length in element.properties)
        raise ValueError(
            f"{path}, line {number}: expected the numbers of a '{element.name}' ({expected}), got '{shown}'"
        ) from None
    return columns


def _check_type(path: Path, element: str, name: str, kind: str, values: Array) -> None:
    """Raise where text holds a number that the declared type cannot, as 0.5 or 300 of a uchar: it would become another."""
    dtype = np.dtype(_TYPES[kind])
    if dtype.kind == "f":
        return
    limit = np.iinfo(dtype)
    wrong = (values != np.floor(values)) | ~((values >= limit.min) & (values <= limit.max))
    if wrong.any():
        raise ValueError(
            f"{path}: property '{name}' of element '{element}' is declared as {kind}, and has the value {values[wrong][0]:g}; "
            "export it again"
        )


def _fits(row: list[bytes], element: _Element) -> bool:
    try:
        _ = [float(word) for word in row]
        place = 0
        for _, _, length in element.properties:
            count = int(row[place]) if length else 1
            place += count + bool(length)
            if count < 0:
                return False
        return place == len(row)
    except (ValueError, IndexError):
        return False


def _binary(path: Path, data: bytes, start: int, layout: list[_Element], order: str) -> dict[str, dict[str, Array | Lists]]:
    elements = {}
    for element in layout:
        elements[element.name], start = _binary_rows(path, element, data, start, order)
    if rest := len(data[start:].strip(b"\0\r\n\x1a ")):
        raise ValueError(f"{path} has {rest} bytes more than its header counts; export it again")
    return elements


def _binary_rows(path: Path, element: _Element, data: bytes, start: int, order: str) -> tuple[dict[str, Array | Lists], int]:
    """The properties of one element, and where it ends."""
    if element.rows == 0 or not element.properties:
        empty: dict[str, Array | Lists] = {
            name: Lists(np.zeros(0, np.int64), np.zeros(0)) if length else np.zeros(0) for name, _, length in element.properties
        }
        return empty, start
    # all lists as long as those of the first row: then the rows have one layout
    fields: list[tuple[str, object] | tuple[str, object, tuple[int, ...]]] = []
    place = start
    for name, kind, length in element.properties:
        if length:
            if place + np.dtype(_TYPES[length]).itemsize > len(data):
                raise _cut(path, element, "")
            count = int(np.frombuffer(data, order + _TYPES[length], 1, place)[0])
            if count < 0 or place + count > len(data):
                raise ValueError(f"{path}: the first list '{name}' of element '{element.name}' promises {count} numbers")
            fields += [(f"{name} count", order + _TYPES[length]), (name, order + _TYPES[kind], (count,))]
        else:
            fields.append((name, order + _TYPES[kind]))
        place = start + np.dtype(fields).itemsize
    dtype = np.dtype(fields)
    columns: dict[str, Array | Lists] = {}
    end = start + element.rows * dtype.itemsize
    if end <= len(data):
        rows = np.frombuffer(data, dtype, element.rows, start)
        lists = [name for name, _, length in element.properties if length]
        if all((rows[f"{name} count"] == rows[f"{name} count"][0]).all() for name in lists):
            for name, _, length in element.properties:
                values = rows[name]
                full = np.full(len(rows), values.shape[1] if length else 0, np.int64)
                columns[name] = Lists(full, values.reshape(-1)) if length else values
            return columns, end
    elif not any(length for _, _, length in element.properties):
        raise _cut(path, element, f", the file ends after {(len(data) - start) // dtype.itemsize} of them")
    # rows of different lengths: find where each list starts, then gather
    sizes = [(np.dtype(_TYPES[k]).itemsize, np.dtype(order + _TYPES[c]) if c else None) for _, k, c in element.properties]
    starts: list[list[int]] = [[] for _ in sizes]
    counts: list[list[int]] = [[] for _ in sizes]
    place = start
    for row in range(element.rows):
        for k, (size, length_type) in enumerate(sizes):
            count = 1
            if length_type is not None:
                if place + length_type.itemsize > len(data):
                    raise _cut(path, element, f", the file ends after {row} of them")
                count = data[place] if length_type.itemsize == 1 else int(np.frombuffer(data, length_type, 1, place)[0])
                place += length_type.itemsize
            starts[k].append(place)
            counts[k].append(count)
            place += count * size
            if count < 0 or place > len(data):
                raise _cut(path, element, f", the file ends after {row} of them")
    raw = np.frombuffer(data, np.uint8)
    for k, (name, kind, length) in enumerate(element.properties):
        size, many = sizes[k][0], np.array(counts[k], np.int64)
        offset = np.repeat(np.array(starts[k]) - size * (np.cumsum(many) - many), many) + size * np.arange(many.sum())
        values = raw[offset[:, None] + np.arange(size)].reshape(-1).view(order + _TYPES[kind])
        columns[name] = Lists(many, values) if length else values
    return columns, place
