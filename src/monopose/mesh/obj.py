"""Wavefront OBJ files with their MTL files, as triangles by material."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..io import limits
from ..io.ply import decoded
from .appearance import Note, Part, beside, texture
from .polygons import triangulated

# options of map_Kd and how many words follow them at most; of those with numbers, as many as there are numbers
_OPTIONS = {
    "-blendu": 1, "-blendv": 1, "-cc": 1, "-clamp": 1, "-texres": 1, "-bm": 1, "-imfchan": 1, "-boost": 1, "-type": 1,
    "-mm": 2, "-o": 3, "-s": 3, "-t": 3,
}  # fmt: skip


class _Material(NamedTuple):
    color: np.ndarray | None  # (3,) Kd
    picture: str  # file named by map_Kd, ""
    scale: np.ndarray  # (2,) of the texture coordinates
    offset: np.ndarray  # (2,)
    unread: str = ""  # the line that says its look in a way that is not read


class _Lines(NamedTuple):
    """What the lines of an OBJ file hold: rows of numbers, faces as words such as 3/1/2, and names."""

    rows: dict[str, list[list[str]]]  # of v, vt, vn
    words: list[str]  # corners of all faces
    counts: list[int]  # corners of each face
    numbers: list[int]  # line of each face
    material: list[int]  # of each face, number in `names`
    names: list[str]  # by usemtl; the first is "" for none
    libraries: list[str]  # by mtllib


def read_obj(path: Path) -> tuple[list[Part], list[Note]]:
    """The triangles of an OBJ file, one part for each material, and what of its look is missing.

    Raises:
        ValueError: broken lines (with their number), corners that do not exist, more faces than the limit.

    Source: Wavefront, Object Files (.obj) and Material Library File (.mtl), 1995.
    """
    data = path.read_bytes()
    faces = sum(data.count(before + b"f" + after) for before in (b"\n", b"\r", b" ", b"\t") for after in (b" ", b"\t"))
    limits.check("MONOPOSE_MAX_FACES", faces, str(path))
    lines = _lines(path, decoded(data))
    limits.check("MONOPOSE_MAX_FACES", len(lines.words) - 2 * len(lines.counts), str(path))  # triangles
    v, vt, vn = (_table(path, kind, lines.rows[kind]) for kind in ("v", "vt", "vn"))
    for kind, table in (("vt", vt), ("v", v[:, 3:6])):
        if not np.isfinite(table).all():
            row = int((~np.isfinite(table)).any(1).argmax()) + 1
            what = "texture coordinates" if kind == "vt" else "colours"
            raise ValueError(f"{path}: row {row} of '{kind}' has NaN or infinite {what}; export the file again")
    known: dict[str, int] = {}
    corner = np.array([known.setdefault(word, len(known)) for word in lines.words], np.int64)
    index = _indices(path, lines, list(known), (len(v), len(vt), len(vn)))
    triangle, owner = triangulated(v[index[corner, 0], :3], np.array(lines.counts, np.int64))
    faces, material = corner[triangle], np.array(lines.material, np.int64)[owner]
    notes = _doubts(path, data, index[corner, 0], triangle, len(v), v.shape[1] < 6 <= max(map(len, lines.rows["v"]), default=0))
    looks = _looks(path, lines, bool(len(vt)), notes)
    parts = []
    for number in np.unique(material).tolist():
        used, local = np.unique(faces[material == number], return_inverse=True)
        rows = index[used]
        normals = vn[rows[:, 2], :3] if len(vn) and (rows[:, 2] >= 0).all() else None
        colors = v[rows[:, 0], 3:6] if v.shape[1] >= 6 else None
        if colors is not None and colors.max(initial=0) > 1:
            colors = colors / 255
        look, image, uv = looks[number], None, None
        if look is not None and look.picture:
            image = texture(path, look.picture, notes)
        if look is not None and image is not None:
            has = rows[:, 1] >= 0
            uv = np.where(has[:, None], vt[rows[:, 1], :2], 0) * look.scale + look.offset if has.any() else None
            if not has.all():
                which = "some faces" if has.any() else "the faces"
                notes.append(Note(f"{path.name}: {which} with the texture '{look.picture}' have no texture coordinates"))
            image = image if uv is not None else None
        elif look is not None and look.color is not None and not look.picture and colors is None:
            colors = np.tile(look.color, (len(rows), 1))
        parts.append(Part(v[rows[:, 0], :3], local.reshape(-1, 3), normals, colors if image is None else None, uv, image))
    return parts, notes


def _doubts(path: Path, data: bytes, place: np.ndarray, triangle: np.ndarray, count: int, some: bool) -> list[Note]:
    """What looks cut short, which nothing in the format forbids, and colours that not all vertices have.

    Args:
        place: vertex of each corner, (C,); triangle: rows of corners, (T, 3); count: of vertices; some: have colours.
    """
    notes = []
    unused = 0 if b"\nl " in data or b"\np " in data else count - len(np.unique(place))
    if unused:
        text = f"{path.name}: {unused} of {count} vertices belong to no face; if the file was cut short, faces are missing"
        notes.append(Note(text, lost=False))
    edges = np.sort(place[triangle[:, [0, 1, 1, 2, 2, 0]]].reshape(-1, 2), axis=1)
    open_ = len(edges) and (np.unique(edges, axis=0, return_counts=True)[1] == 1).any()
    if not unused and open_ and not data.endswith((b"\n", b"\r")):
        text = f"{path.name} ends within a line, and its surface is open; if the file was cut short, faces are missing"
        notes.append(Note(text, lost=False))
    if some:
        notes.append(Note(f"{path.name}: some vertices have colours and others none; it is loaded without them"))
    if b"\nsurf " in data:
        text = f"{path.name}: its curved surfaces ('surf') are not read; export it as triangles"
        notes.append(Note(text, lost=False))
    if b"\n#MRGB " in data:
        notes.append(Note(f"{path.name}: the colours in #MRGB lines, ZBrush's own, are not read; export it as PLY"))
    return notes


def _lines(path: Path, text: str) -> _Lines:
    found = _Lines({"v": [], "vt": [], "vn": []}, [], [], [], [], [""], [])
    vertices, current = found.rows["v"], 0
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.endswith("\\"):
            before += line[:-1] + " "
            continue
        words = (before + line).split()
        before = ""
        if not words:
            continue
        key = words[0]
        if key in found.rows:
            found.rows[key].append(words[1:])
        elif key == "f":
            corners = words[1:] if "#" not in line else words[1 : next(n for n, w in enumerate(words) if "#" in w)]
            if len(corners) < 3:
                raise ValueError(f"{path}, line {number}: a face needs at least three corners, got '{line.strip()[:60]}'")
            if "-" in line:  # counted backwards from here
                ends = (len(vertices), len(found.rows["vt"]), len(found.rows["vn"]))
                corners = [_absolute(word, ends) for word in corners]
            found.words.extend(corners)
            found.counts.append(len(corners))
            found.numbers.append(number)
            found.material.append(current)
        elif key == "usemtl":
            name = " ".join(words[1:])
            if name not in found.names:
                found.names.append(name)
            current = found.names.index(name)
        elif key == "mtllib":
            found.libraries.append(line.strip()[6:].strip())
    return found


def _absolute(word: str, ends: tuple[int, int, int]) -> str:
    parts = word.split("/")
    return "/".join(str(end + 1 + int(p)) if p.startswith("-") and p[1:].isdecimal() else p for p, end in zip(parts, ends))


def _table(path: Path, kind: str, rows: list[list[str]]) -> np.ndarray:
    """Rows of numbers, (N, at least 2 for vt, 3 else)."""
    least = 2 if kind == "vt" else 3
    width = min((len(row) for row in rows), default=least)
    try:
        if kind == "vt" and width == 1:  # a texture along a line
            rows, width = [[*row[:1], *(row[1:2] or ["0"])] for row in rows], 2
        if width < least:
            raise ValueError
        return np.array([row[:width] for row in rows], dtype=np.float64).reshape(-1, width)
    except ValueError:
        for n, row in enumerate(rows, 1):
            try:
                if len([float(word) for word in row[:least]]) >= least:
                    continue
            except ValueError:
                pass
            shown = " ".join([kind, *row])[:60]
            raise ValueError(
                f"{path}: row {n} of '{kind}' must be {least} numbers, got '{shown}'; is the file whole? Export it again"
            ) from None
        return np.array([row[:least] for row in rows], dtype=np.float64)  # colours that are no numbers


def _indices(path: Path, lines: _Lines, words: list[str], ends: tuple[int, int, int]) -> np.ndarray:
    """Rows of v, vt, vn for each different corner, from 0, -1 for none, (C, 3)."""
    rows = np.full((len(words), 3), -1, np.int64)
    for n, word in enumerate(words):
        try:
            values = [int(part) - 1 if part else -1 for part in word.split("/")]
            if not 0 <= values[0] < ends[0] or len(values) > 3 or any(i >= end or i < -1 for i, end in zip(values, ends)):
                raise ValueError
            rows[n, : len(values)] = values
        except ValueError:
            first = lines.words.index(word)
            face = int(np.searchsorted(np.cumsum(lines.counts), first, side="right"))
            raise ValueError(
                f"{path}, line {lines.numbers[face]}: a face has the corner '{word[:40]}', but there are only {ends[0]} "
                f"vertices, {ends[1]} texture coordinates and {ends[2]} normals; is the file whole? Export it again"
            ) from None
    return rows


def _looks(path: Path, lines: _Lines, coordinates: bool, notes: list[Note]) -> list[_Material | None]:
    """The material of each name in `lines.names`."""
    materials: dict[str, _Material] = {}
    missing = False
    for line in lines.libraries:
        whole = beside(path, line)[0] is not None
        for name in [line] if whole or len(line.split()) < 2 else line.split():
            file, reason = beside(path, name)
            if reason:
                notes.append(Note(f"{path.name} names the material file '{name}', {reason}", lost=file is None))
            missing |= file is None
            if file is not None:
                limits.check_file(file, "MONOPOSE_MAX_TEXT_MB")
                materials |= _read_mtl(decoded(file.read_bytes()), str(file))
    used = sorted(set(lines.material))
    if used == [0] and coordinates and any(m.picture for m in materials.values()):
        only = next(iter(materials)) if len(materials) == 1 else ""
        rest = f"its only one, '{only}', is taken for all" if only else "the object is loaded without"
        notes.append(Note(f"{path.name} names materials but no face uses one ('usemtl' is missing); {rest}", lost=not only))
        return [materials.get(only)]
    unknown = [name for n in used if n and (name := lines.names[n]) not in materials]
    if unknown and not missing:
        some = ", ".join(f"'{name[:40]}'" for name in unknown[:5]) + (f" and {len(unknown) - 5} more" if unknown[5:] else "")
        which = "material" if len(unknown) == 1 else "materials"
        notes.append(Note(f"{path.name} uses the {which} {some}, which no material file has; the faces stay without"))
    for name in dict.fromkeys(lines.names[n] for n in used):
        if name in materials and materials[name].unread:
            notes.append(Note(f"{path.name}: '{materials[name].unread[:60]}' of the material '{name[:40]}' is not read"))
    return [materials.get(name) for name in lines.names]


def _read_mtl(text: str, where: str) -> dict[str, _Material]:
    """Materials by name."""
    materials: dict[str, _Material] = {}
    ambient: dict[str, str] = {}  # a texture for dark places: some writers give no other
    name = ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        key = words[0].lower() if words else ""
        if key == "newmtl":
            name = " ".join(words[1:])
            materials[name] = _Material(None, "", np.ones(2), np.zeros(2))
        elif name in materials and (words[1:2] in (["spectral"], ["xyz"]) if key == "kd" else line.split() == ["map_Kd"]):
            materials[name] = materials[name]._replace(unread=line.strip())
        elif key == "kd" and name in materials:
            try:
                values = [float(word) for word in words[1:4]]
            except ValueError:
                raise ValueError(f"{where}, line {number}: 'Kd' must be three numbers, got '{line.strip()[:60]}'") from None
            if values:
                color = np.array(values if len(values) == 3 else values[:1] * 3)
                if not ((color >= 0) & (color <= 2)).all():  # some are brighter than white, none is 255 times so
                    raise ValueError(f"{where}, line {number}: 'Kd' must be from 0 to 1, got '{line.strip()[:60]}'")
                materials[name] = materials[name]._replace(color=color.clip(0, 1))
        elif key == "map_kd" and name in materials:
            file, scale, offset = _map(line.strip()[6:].strip())
            materials[name] = materials[name]._replace(picture=file, scale=scale, offset=offset)
        elif key in ("map_ka", "map_ke") and words[1:]:
            ambient[name] = line.strip()
    return {n: m if m.picture or n not in ambient else m._replace(unread=ambient[n]) for n, m in materials.items()}


def _map(text: str) -> tuple[str, np.ndarray, np.ndarray]:
    """File name, scale and offset out of what follows map_Kd; the name may hold spaces."""
    change = {"-s": np.ones(2), "-o": np.zeros(2)}
    while text.startswith("-") and (words := text.split())[0].lower() in _OPTIONS:
        option = words[0].lower()
        text = text[len(words[0]) :].strip()
        values: list[float] = []
        for _ in range(_OPTIONS[option]):
            first = text.split(None, 1)[0] if text else ""
            if _OPTIONS[option] > 1:
                try:
                    values.append(float(first))
                except ValueError:
                    break
            text = text[len(first) :].strip()
        if option in change:
            change[option][: len(values[:2])] = values[:2]
    return text, change["-s"], change["-o"]
