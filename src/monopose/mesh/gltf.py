"""glTF 2.0 files, .glb and .gltf, as placed triangles by material. Metres, +Y up."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..io import limits, records
from .appearance import Note, Part, beside, picture

_TYPES = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MOST_NODES = 20_000  # in a scene; each takes a tenth of a millisecond, and no object has so many
_KNOWN = {"KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp"}


@dataclass(frozen=True)
class _File:
    path: Path
    json: dict[str, Any]
    binary: bytes
    buffers: dict[int, bytes]
    arrays: dict[int, np.ndarray]  # of accessors that were read
    notes: list[Note]

    def entry(self, kind: str, number: Any) -> dict[str, Any]:
        entries = self.json.get(kind, [])
        if not isinstance(entries, list) or not isinstance(number, int) or not 0 <= number < len(entries):
            have = len(entries) if isinstance(entries, list) else 0
            raise ValueError(f"{self.path}: number {number} of '{kind}' is asked for, but there are {have}; is the file whole?")
        if not isinstance(entries[number], dict):
            raise ValueError(f"{self.path}: number {number} of '{kind}' must be a JSON object")
        return entries[number]  # type: ignore[no-any-return]


def read_gltf(path: Path) -> tuple[list[Part], list[Note]]:
    """The triangles of a glTF file, one part for each primitive of each node, placed; and what of their look is missing.

    Raises:
        ValueError: no glTF 2, cut short, an extension that is required and not read, more faces than the limit.

    Source: Khronos, glTF 2.0 specification, sec. 3.6 (accessors) and 3.7 (geometry); KHR_mesh_quantization,
    KHR_texture_transform. Skins and morph targets are left at rest.
    """
    file = _opened(path)
    required = file.json.get("extensionsRequired", [])
    unread = [str(e) for e in required if e not in _KNOWN and not str(e).startswith("KHR_materials_")]
    if unread:
        raise ValueError(f"{path} needs the glTF extension {unread[0]}, which is not read; export it without (no compression)")
    scenes = file.json.get("scenes", [])
    if scenes:
        roots = file.entry("scenes", file.json.get("scene", 0)).get("nodes", [])
    else:
        children = {c for node in file.json.get("nodes", []) for c in node.get("children", [])}
        roots = [n for n in range(len(file.json.get("nodes", []))) if n not in children]
    parts: list[Part] = []
    count = 0
    waiting = [(node, np.eye(4)) for node in roots]
    reached: set[int] = set()
    while waiting:
        number, above = waiting.pop()
        node = file.entry("nodes", number)
        if number in reached:
            raise ValueError(
                f"{path}: node {number} hangs below two others, or in a circle; the nodes of a glTF file are a tree"
            )
        if len(reached) == MOST_NODES:
            raise ValueError(f"{path} has more than {MOST_NODES:,} nodes; join its parts and export it again")
        reached.add(number)
        placed = above @ _placement(node, f"{path}, node {number}")
        waiting += [(child, placed) for child in reversed(node.get("children", []))]
        if "mesh" not in node:
            continue
        if "skin" in node or any(node.get("weights", file.entry("meshes", node["mesh"]).get("weights")) or ()):
            text = f"{path.name}: node {number} is moved by bones or weights, which are not read; place and size may be wrong"
            file.notes.append(Note(text, lost=False))
        for primitive in file.entry("meshes", node["mesh"]).get("primitives", []):
            part = _part(file, primitive, placed)
            if part is not None:
                parts.append(part)
                count += len(part.faces)
                limits.check("MONOPOSE_MAX_FACES", count, str(path))
    beside = sum("mesh" in node for n, node in enumerate(file.json.get("nodes", [])) if n not in reached)
    if beside:
        text = f"{path.name}: {beside} node{'s' * (beside > 1)} with a mesh belong to no scene, or not to the one shown first"
        file.notes.append(Note(f"{text}; the object is loaded without them", lost=False))
    return parts, list(dict.fromkeys(file.notes))


def _opened(path: Path) -> _File:
    data = path.read_bytes()
    binary = b""
    if data[:4] == b"glTF":
        if len(data) < 20:
            raise ValueError(f"{path} is cut short: {len(data)} bytes")
        version, total, length = struct.unpack_from("<III", data, 4)
        if version != 2:
            raise ValueError(f"{path} is glTF {version}; expected version 2. Export it again")
        if total > len(data) or 20 + length > len(data):
            raise ValueError(f"{path} is cut short: its header promises {total} bytes, it has {len(data)}; export it again")
        text, rest = data[20 : 20 + length], data[20 + length : total]
        if len(rest) >= 8:
            size = struct.unpack_from("<I", rest)[0]
            binary = rest[8 : 8 + size]
    elif path.suffix.lower() == ".glb":
        raise ValueError(f"{path} could not be read as GLB: it does not start with 'glTF'; is the file whole?")
    else:
        text = data
    try:
        content = records.parse_json(text.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path} could not be read as {path.suffix[1:].upper()}: its JSON is not UTF-8") from None
    asset = content.get("asset") if isinstance(content, dict) else None
    if not isinstance(asset, dict) or not str(asset.get("version", "")).startswith("2"):
        raise ValueError(f"{path} is no glTF 2 file: 'asset' must have 'version' 2.0")
    _check_shape(content, path)
    return _File(path, content, binary, {}, {}, [])


_LISTS = ("scenes", "nodes", "meshes", "primitives", "children", "extensionsRequired", "materials", "textures", "images")
_OBJECTS = (
    "attributes", "extensions", "pbrMetallicRoughness", "KHR_materials_pbrSpecularGlossiness", "baseColorTexture", "sparse",
    "diffuseTexture", "KHR_texture_transform", "EXT_texture_webp", "values",
)  # fmt: skip


def _check_shape(content: Any, path: Path, within: Any = "", depth: int = 0) -> None:
    """Raise where a list or an object is none, wherever its key stands."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        wanted: Any = None
        if key in _LISTS:
            wanted = list
        elif key in _OBJECTS or (within, key) == ("sparse", "indices") or (within == "primitives" and isinstance(key, int)):
            wanted = dict
        if wanted is not None and not isinstance(value, wanted):
            kind = "list" if wanted is list else "object"
            raise ValueError(f"{path}: {key!r} in {within or 'the file'!r} must be a JSON {kind}, got {str(value)[:40]!r}")
        if isinstance(value, (dict, list)) and key != "extras" and depth < 12:
            _check_shape(value, path, within if isinstance(key, int) else key, depth + 1)


def _placement(node: dict[str, Any], where: str) -> np.ndarray:
    """parent_from_node, (4, 4)."""
    if "EXT_mesh_gpu_instancing" in node.get("extensions", {}):
        raise ValueError(f"{where} needs the glTF extension EXT_mesh_gpu_instancing, which is not read; export it without")
    if "matrix" in node:
        placed = records.numbers(node, "matrix", (4, 4), where).T
        if np.abs(placed[3] - [0, 0, 0, 1]).max() > 1e-6:
            raise ValueError(
                f"{where}: 'matrix' must be written column by column, with 0 0 0 1 as last row, got {placed[3].tolist()}"
            )
        return placed
    matrix = np.eye(4)
    if "rotation" in node:
        x, y, z, w = records.numbers(node, "rotation", (4,), where)
        size = float(np.sqrt(x * x + y * y + z * z + w * w))
        if abs(size - 1) > 0.05:
            raise ValueError(f"{where}: 'rotation' must be a quaternion xyzw of length 1, got one of length {size:.4g}")
        x, y, z, w = x / size, y / size, z / size, w / size
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    if "scale" in node:
        matrix[:3, :3] *= records.numbers(node, "scale", (3,), where)
    if "translation" in node:
        matrix[:3, 3] = records.numbers(node, "translation", (3,), where)
    return matrix


def _part(file: _File, primitive: dict[str, Any], placed: np.ndarray) -> Part | None:
    attributes = primitive.get("attributes", {})
    mode = primitive.get("mode", 4)
    if mode not in (4, 5, 6) or "POSITION" not in attributes:
        return None
    vertices = _accessor(file, attributes["POSITION"]).astype(np.float64)
    if vertices.shape[1] != 3:
        raise ValueError(f"{file.path}: 'POSITION' must have three numbers for each vertex, got {vertices.shape[1]}")
    if "indices" in primitive:
        index = _accessor(file, primitive["indices"]).reshape(-1).astype(np.int64)
    else:
        index = np.arange(len(vertices))
    if mode == 4:
        faces = index[: len(index) // 3 * 3].reshape(-1, 3)
    else:
        k = np.arange(max(len(index) - 2, 0))
        strip = np.stack([k, k + 1 + k % 2, k + 2 - k % 2], 1)
        faces = index[strip if mode == 5 else np.stack([0 * k, k + 1, k + 2], 1)]
    normals = _accessor(file, attributes["NORMAL"]).astype(np.float64) if "NORMAL" in attributes else None
    if mode == 4 and len(index) % 3:
        raise ValueError(f"{file.path}: {len(index)} corners of triangles are no multiple of three; is the file whole?")
    colors, uv, image = _look(file, primitive, attributes, len(vertices))
    linear = placed[:3, :3]
    vertices = vertices @ linear.T + placed[:3, 3]
    if normals is not None and abs(np.linalg.det(linear)) > 0:
        normals = normals @ np.linalg.inv(linear)
    if np.linalg.det(linear) < 0:
        faces = faces[:, ::-1]
    return Part(vertices, faces, normals, colors, uv, image)


def _look(
    file: _File, primitive: dict[str, Any], attributes: dict[str, Any], count: int
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Vertex colours, texture coordinates and texture: material factor x texture x vertex colours, as far as they go together.

    Vertex colours are taken as written (exporters write what a screen shows); factors are linear light, as specified.
    """
    colors = None
    if "COLOR_0" in attributes:
        shades = _accessor(file, attributes["COLOR_0"])[:, :3]
        whole = np.iinfo(shades.dtype).max if shades.dtype.kind in "iu" else 1  # some writers forget `normalized`
        colors = (shades.astype(np.float64) / whole).clip(0, 1)
    if "material" not in primitive:
        return colors, None, None
    material = file.entry("materials", primitive["material"])
    where = f"{file.path}, material {primitive['material']}"
    pbr = material.get("pbrMetallicRoughness", {})
    named, key = pbr.get("baseColorTexture"), "baseColorFactor"
    glossy = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
    if glossy is not None and named is None and key not in pbr:
        pbr, named, key = glossy, glossy.get("diffuseTexture"), "diffuseFactor"
    glowing = material.get("emissiveTexture") is not None and named is None
    if glowing or (colors is None and "COLOR_1" in attributes):
        what = "a texture that glows" if glowing else "a second set of vertex colours"
        file.notes.append(Note(f"{file.path.name}: a part has its look from {what}, which is not read"))
    factor = np.ones(3)
    grey = "trimesh" in str(file.json["asset"].get("generator", "")) and pbr.get(key) == [0.4, 0.4, 0.4, 1.0]
    given = key in pbr and not grey  # that grey is what trimesh writes where nothing was given
    if given:
        linear = records.numbers(pbr, key, (4,), where)[:3]
        if not ((linear >= 0) & (linear <= 2)).all():
            raise ValueError(f"{where}: {key!r} must be from 0 to 1, got {linear.tolist()}")
        linear = linear.clip(0, 1)
        factor = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    image = uv = None
    if named is not None:
        change = named.get("extensions", {}).get("KHR_texture_transform", {})
        slot = f"TEXCOORD_{change.get('texCoord', named.get('texCoord', 0))}"
        image = _image(file, named.get("index"))
        if image is not None and slot not in attributes:
            file.notes.append(Note(f"{file.path.name}: a part with a texture has no coordinates for it; it is loaded without"))
            image = None
        if image is not None:
            uv = _accessor(file, attributes[slot]).astype(np.float64)
            scale, offset = (
                records.numbers(change, k, (2,), where) if k in change else default
                for k, default in (("scale", np.ones(2)), ("offset", np.zeros(2)))
            )
            angle = float(records.numbers(change, "rotation", (), where)) if "rotation" in change else 0.0
            c, s = np.cos(angle), np.sin(angle)
            uv = (uv * scale) @ np.array([[c, -s], [s, c]]) + offset
            uv = np.stack([uv[:, 0], 1 - uv[:, 1]], 1)  # the origin of glTF is the upper left
    if image is not None:
        if colors is not None and np.ptp(colors, axis=0).max(initial=0) > 0.02:
            file.notes.append(
                Note(f"{file.path.name}: a part has a texture and vertex colours; it is loaded without the vertex colours")
            )
        elif colors is not None and len(colors):
            factor = factor * colors.mean(0)
        if (factor < 0.999).any():
            image = (image * factor).round().astype(np.uint8)
        return None, uv, image
    if colors is not None:
        return colors * factor, None, None
    return (np.tile(factor, (count, 1)) if given and named is None else None), None, None


def _image(file: _File, number: Any) -> np.ndarray | None:
    entry = file.entry("textures", number)
    source = entry.get("extensions", {}).get("EXT_texture_webp", {}).get("source", entry.get("source"))
    if source is None:
        kinds = ", ".join(entry.get("extensions", {})) or "none"
        file.notes.append(
            Note(f"{file.path.name}: a texture has no PNG, JPEG or WebP picture (extensions: {kinds}); it is loaded without it")
        )
        return None
    image = file.entry("images", source)
    name = str(image.get("name") or image.get("uri", "") or f"number {source}")[:80]
    if "bufferView" in image:
        data: bytes | None = _view(file, image["bufferView"])
    else:
        data = _resource(file, str(image.get("uri", "")), "texture")
    return None if data is None else picture(data, f"the texture '{name}'", file.path, file.notes)


def _resource(file: _File, uri: str, what: str) -> bytes | None:
    """What a URI holds: data in itself, or a file beside; None, with a note, where there is none."""
    if uri.startswith("data:"):
        try:
            return base64.b64decode(uri.partition(",")[2], validate=False)
        except ValueError:
            raise ValueError(f"{file.path}: a {what} is no base64 data") from None
    name = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), uri.encode()).decode("utf-8", "replace")
    found, reason = beside(file.path, name)
    if found is None:
        file.notes.append(Note(f"{file.path.name} names the {what} '{name}', {reason}; the object is loaded without it"))
        return None
    limits.check_file(found, "MONOPOSE_MAX_MESH_MB")
    return found.read_bytes()


def _view(file: _File, number: Any) -> bytes:
    view = file.entry("bufferViews", number)
    index = _whole(view, "buffer", file)
    if index not in file.buffers:
        buffer = file.entry("buffers", index)
        data = _resource(file, str(buffer["uri"]), "buffer") if "uri" in buffer else file.binary
        if data is None:
            raise ValueError(f"{file.path} names the buffer '{str(buffer['uri'])[:80]}', which is not beside it")
        file.buffers[index] = data
    start, length = _whole(view, "byteOffset", file, 0), _whole(view, "byteLength", file)
    if start + length > len(file.buffers[index]):
        raise ValueError(f"{file.path} is cut short: a buffer of {len(file.buffers[index])} bytes ends before view {number}")
    return file.buffers[index][start : start + length]


def _whole(record: dict[str, Any], key: str, file: _File, default: int | None = None) -> int:
    value = record.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{file.path}: '{key}' must be a whole number from 0, got {value}")
    return value


def _accessor(file: _File, number: Any) -> np.ndarray:
    """An accessor as (N, width), integers that are `normalized` as floats in [-1, 1] or [0, 1]."""
    entry = file.entry("accessors", number)
    if number in file.arrays:
        return file.arrays[number]
    count, kind, width = (
        _whole(entry, "count", file),
        _TYPES.get(entry.get("componentType", 0)),
        _WIDTHS.get(entry.get("type", "")),
    )
    if kind is None or width is None:
        raise ValueError(f"{file.path}: accessor {number} has an unknown componentType or type")
    limits.check("MONOPOSE_MAX_FACES", count / 6, f"{file.path} (corners)")
    sparse = entry.get("sparse")
    if sparse is None and "bufferView" not in entry:
        raise ValueError(f"{file.path}: accessor {number} has no data ('bufferView' is missing)")
    values = _values(file, entry, kind, width, count) if "bufferView" in entry else np.zeros((count, width), kind)
    if sparse is not None:
        some = _whole(sparse, "count", file)
        values = values.copy()
        where = records.value(sparse, "indices", f"{file.path}, accessor {number}")
        rows = _values(file, where, _TYPES.get(where.get("componentType", 0), "u4"), 1, some)[:, 0].astype(np.int64)
        if rows.max(initial=-1) >= count:
            raise ValueError(f"{file.path}: accessor {number} changes an entry that it has not")
        values[rows] = _values(file, records.value(sparse, "values", f"{file.path}, accessor {number}"), kind, width, some)
    if entry.get("normalized") and kind != "f4":
        values = np.maximum(values.astype(np.float64) / np.iinfo(kind).max, -1.0)
    file.arrays[number] = values
    return values


def _values(file: _File, entry: dict[str, Any], kind: str, width: int, count: int) -> np.ndarray:
    data = _view(file, entry.get("bufferView"))
    dtype = np.dtype("<" + kind)
    start = _whole(entry, "byteOffset", file, 0)
    stride = _whole(file.entry("bufferViews", entry["bufferView"]), "byteStride", file, 0) or width * dtype.itemsize
    if count and start + (count - 1) * stride + width * dtype.itemsize > len(data):
        raise ValueError(f"{file.path} is cut short: an accessor of {count} entries ends after its buffer")
    raw = np.frombuffer(data, np.uint8)
    at = start + np.arange(count)[:, None] * stride + np.arange(width * dtype.itemsize)
    return raw[at].reshape(-1).view(dtype).reshape(count, width)
