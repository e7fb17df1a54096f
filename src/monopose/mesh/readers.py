"""Readers of mesh files: PLY, OFF and STL here, OBJ and glTF in files of their own; each gives the triangles by material."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..io import limits
from ..io.ply import Lists, decoded, read_ply
from .appearance import Note, Part, texture
from .gltf import read_gltf
from .obj import read_obj
from .polygons import triangulated

FORMATS = (".ply", ".obj", ".stl", ".glb", ".gltf", ".off")
METRIC_FORMATS = (".glb", ".gltf")  # metres by specification
_CAD = "holds curved surfaces, not triangles: in the CAD program, or in FreeCAD (free), export it as STL, accurate to 0.1 mm"
_BLENDER = "is not read: import it in Blender (free) and export it as glTF (.glb), which keeps colours and textures"
_SLICER = "is not read: open it in MeshLab or a slicer (both free) and export it as STL, or as PLY to keep colours"
CONVERTED = {  # formats that people have, and how they become one that is read
    **dict.fromkeys((".step", ".stp", ".iges", ".igs", ".brep", ".x_t", ".x_b", ".sldprt", ".ipt", ".f3d", ".fcstd"), _CAD),
    **dict.fromkeys((".dae", ".fbx", ".blend", ".usd", ".usda", ".usdc", ".usdz", ".3ds", ".x3d", ".wrl"), _BLENDER),
    ".3dm": _CAD, ".3mf": _SLICER, ".amf": _SLICER,
}  # fmt: skip


def check_count(path: Path, faces: int) -> None:
    try:
        limits.check("MONOPOSE_MAX_FACES", faces, str(path))
    except ValueError as error:
        advice = "20,000 faces are enough: decimate it (MeshLab: Quadric Edge Collapse; Blender: Decimate)"
        raise ValueError(f"{error}. {advice}") from None


def read_parts(path: Path) -> tuple[list[Part], list[Note]]:
    """The parts of a mesh file by the reader of its format."""
    suffix = path.suffix.lower()
    if suffix == ".ply":
        return _read_ply(path)
    if suffix == ".obj":
        return read_obj(path)
    if suffix in METRIC_FORMATS:
        return read_gltf(path)
    data = path.read_bytes()
    if suffix == ".off":
        part, coloured = _read_off(path, data)
        return [part], [Note(f"{path.name}: the colours of an OFF file are not read; export it as PLY")] if coloured else []
    part, coloured = _read_stl(path, data)
    return [part], [Note(f"{path.name}: the colours of an STL file are not read; export it as PLY")] if coloured else []


def _read_stl(path: Path, data: bytes) -> tuple[Part, bool]:
    """STL, binary where its size is right for that, else text; and whether it has colours, which are not read."""
    binary, coloured = 84 + 50 * int.from_bytes(data[80:84], "little"), False
    if len(data) >= 84 and len(data) == binary:
        check_count(path, (binary - 84) // 50)
        layout = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        rows = np.frombuffer(data, layout, offset=84)
        corners = rows["corners"].reshape(-1, 3).astype(np.float64)
        own = rows["attribute"] >> 15  # of VisCAM and SolidView; Materialise's stand for the whole in the header
        coloured = b"COLOR=" in data[:80] or bool(own.all() and np.ptp(rows["attribute"].astype(np.int64)) > 0)
    else:  # text; or binary and cut short
        lines = decoded(data).splitlines()
        if not data.lstrip().lower().startswith(b"solid") or b"facet" not in data.lower():
            raise ValueError(
                f"{path} is cut short, or no STL: it has {len(data)} bytes, "
                f"a binary STL with its header has {binary}; is the file whole?"
            )
        found, facets = [], 0
        for n, line in enumerate(lines, 1):
            key = (words := line.split())[0].lower() if line.strip() else ""
            if key == "vertex":
                found.append((n, words[1:]))
            elif key in ("facet", "endfacet"):
                facets += key == "facet"
                if len(found) != 3 * (facets - (key == "facet")):
                    raise ValueError(
                        f"{path}, line {n}: a facet must have three corners, the one before has not; is the file whole?"
                    )
        check_count(path, len(found) // 3)
        begun, ended = (sum(bool(re.match(rf"\s*{w}\b", line, re.I)) for line in lines) for w in ("solid", "endsolid"))
        if ended < begun:
            raise ValueError(
                f"{path} is cut short: no 'endsolid' of its last solid, the file ends at line {len(lines)}; is it whole?"
            )
        if len(found) % 3:
            raise ValueError(f"{path} has {len(found)} corners, no multiple of three; is the file whole?")
        points = []
        for number, words in found:
            try:
                x, y, z = (float(word) for word in words)
            except ValueError:
                shown = " ".join(words)[:60]
                raise ValueError(f"{path}, line {number}: a 'vertex' must be three numbers, got '{shown}'") from None
            points.append((x, y, z))
        corners = np.array(points, np.float64).reshape(-1, 3)
    return Part(corners, np.arange(len(corners)).reshape(-1, 3), None, None, None, None), coloured


def _read_off(path: Path, data: bytes) -> tuple[Part, bool]:
    """OFF: counts, places, polygons; and whether it has colours, which are not read. Source: Geomview manual, sec. 4.2."""
    text = re.sub(r"^(\s*C?OFF)(?=\d)", r"\1 ", decoded(data))  # ModelNet's are written so
    rows = [(n, w) for n, line in enumerate(text.splitlines(), 1) if (w := line.split("#")[0].split())]
    if not rows or not rows[0][1][0].endswith("OFF"):
        raise ValueError(f"{path} is not an OFF file: it must start with 'OFF'; is the file whole?")
    kind, rows = rows[0][1][0], [(rows[0][0], rows[0][1][1:]), *rows[1:]] if rows[0][1][1:] else rows[1:]
    if kind not in ("OFF", "COFF") or not rows or not all(w.isdecimal() for w in rows[0][1][:2]) or len(rows[0][1]) < 2:
        raise ValueError(f"{path}: expected 'OFF' and the numbers of vertices and faces; is the file whole?")
    vertices, faces = (int(w) for w in rows[0][1][:2])
    check_count(path, faces)
    if len(rows) - 1 < vertices + faces:
        raise ValueError(
            f"{path} is cut short: its header promises {vertices} vertices and {faces} faces, the file ends after "
            f"{len(rows) - 1} rows at line {rows[-1][0]}; is the file whole?"
        )
    if len(rows) - 1 > vertices + faces:
        line = rows[1 + vertices + faces][0]
        raise ValueError(f"{path}, line {line}: {len(rows) - 1 - vertices - faces} rows more than its header counts")
    points, corners, counts = [], [], []
    for n, (line, words) in enumerate(rows[1 : 1 + vertices + faces]):
        try:
            if n < vertices:
                points.append([float(w) for w in words[:3]])
            else:
                counts.append(int(words[0]))
                corners += [int(w) for w in words[1 : 1 + counts[-1]]]
            own = words[1 : 1 + counts[-1]] if counts else words[:3]
            if len(own) != (counts[-1] if counts else 3) or (counts and not all(0 <= int(w) < vertices for w in own)):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path}, line {line}: expected {'a face' if n >= vertices else 'three numbers'} "
                f"(vertices are 0 to {vertices - 1}), got '{' '.join(words)[:60]}'; is the file whole?"
            ) from None
    place = np.array(points, np.float64).reshape(-1, 3)
    corner = np.array(corners, np.int64)
    coloured = any(
        len(words) > (int(words[0]) + 1 if n >= vertices else 3) for n, (_, words) in enumerate(rows[1 : 1 + vertices + faces])
    )
    return Part(place, corner[triangulated(place[corner], np.array(counts, np.int64))[0]], None, None, None, None), coloured


def _read_ply(path: Path) -> tuple[list[Part], list[Note]]:
    """A PLY file: colours of vertices or faces, texture coordinates of vertices or corners, one texture."""
    ply = read_ply(path)
    vertex, face = ply.elements.get("vertex", {}), ply.elements.get("face", {})

    def columns(element: dict[str, Any], of: str, *names: str) -> np.ndarray | None:
        """Scalar properties side by side, rounded to the type that the file declares."""
        if not all(isinstance(element.get(n), np.ndarray) for n in names):
            return None
        return np.stack([element[n].astype(ply.types[of][n]).astype(np.float64) for n in names], 1)  # type: ignore[no-any-return]

    def colors(element: dict[str, Any], of: str) -> np.ndarray | None:
        for names in (
            *([f"{of}{n}" for n in ("red", "green", "blue")] for of in ("", "diffuse_", "ambient_")),
            ["r", "g", "b"],
        ):
            values = columns(element, of, *names)
            if values is not None:
                kind, most = ply.types[of][names[0]], values.max(initial=0)
                return values / (1.0 if kind[0] == "f" and most <= 1 else 65535.0 if kind == "u2" and most > 255 else 255.0)
        return None

    vertices = columns(vertex, "vertex", "x", "y", "z")
    if vertices is None or not len(vertices):
        raise ValueError(f"{path} needs vertices with properties x, y, z; got {', '.join(vertex) or 'none'}")
    lists = {name: value for name, value in face.items() if isinstance(value, Lists)}
    index = next((lists[n] for n in ("vertex_indices", "vertex_index") if n in lists), None)
    if index is None and "texcoord" not in lists:
        index = next(iter(lists.values()), None)
    if index is None:
        if ply.elements.get("tristrips"):
            raise ValueError(f"{path} holds triangle strips, which are not read; export it with faces")
        return [Part(vertices, np.zeros((0, 3), np.int64), None, None, None, None)], []
    if len(broken := index.values[index.values != np.floor(index.values)]):
        raise ValueError(f"{path} has a face with vertex number {broken[0]:g}, which is no whole number; export it again")
    corner = index.values.astype(np.int64)
    if len(corner) and not 0 <= corner.min() <= corner.max() < len(vertices):
        bad = int(np.flatnonzero((corner < 0) | (corner >= len(vertices)))[0])
        raise ValueError(
            f"{path} has a face with vertex number {corner[bad]} but only {len(vertices)} vertices; "
            "is the file whole? Export it again"
        )
    triangle, owner = triangulated(vertices[corner], index.counts)
    faces = corner[triangle]
    normals, shades = columns(vertex, "vertex", "nx", "ny", "nz"), colors(vertex, "vertex")
    names = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"))
    uv = next((v for pair in names if (v := columns(vertex, "vertex", *pair)) is not None), None)
    notes: list[Note] = []
    named = ply.textures[-1] if ply.textures else ""
    image = texture(path, named, notes) if named else None
    if len(set(ply.textures)) > 1:
        notes.append(Note(f"{path.name} names {len(set(ply.textures))} textures; the last, '{named}', is taken for all faces"))
    rows = np.arange(len(vertices))
    of_faces = colors(face, "face") if shades is None and image is None else None
    wedges = lists.get("texcoord")
    if image is not None and wedges is not None and (wedges.counts == 2 * index.counts).all():
        pairs = np.unique(wedges.values.astype(np.float64).reshape(-1, 2), axis=0, return_inverse=True)
        key = corner * (len(pairs[0]) + 1) + pairs[1].reshape(-1)
        _, first, own = np.unique(key, return_index=True, return_inverse=True)
        rows, uv, faces = corner[first], pairs[0][pairs[1].reshape(-1)[first]], own.reshape(-1)[triangle]
    elif of_faces is not None:
        rows, faces, shades = faces.reshape(-1), np.arange(3 * len(faces)).reshape(-1, 3), np.repeat(of_faces[owner], 3, 0)
    if image is not None and uv is None:
        notes.append(Note(f"{path.name} names the texture '{named}' but has no coordinates for it; it is loaded without"))
        image = None
    if image is not None:
        shades = None
    elif shades is not None and of_faces is None:
        shades = shades[rows]
    normals = None if normals is None else normals[rows]
    return [Part(vertices[rows], faces, normals, shades, None if image is None else uv, image)], notes
