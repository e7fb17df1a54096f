"""CAD models: a mesh file and its unit in, an `ObjectModel` in metres out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..io import limits
from ..types import ObjectModel, Symmetries
from .appearance import Note, Part
from .readers import CONVERTED, FORMATS, METRIC_FORMATS, check_count, read_parts

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254}  # metres per unit
LONGEST, SHORTEST = 10.0, 0.001  # metres; an object outside has the wrong unit
CREASE = 0.7  # radians; computed normals are smooth across flatter edges and split at sharper ones


class RawMesh(NamedTuple):
    """A mesh file as it is: own unit, nothing repaired. Corners of faces share a vertex as in the file."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64
    normals: np.ndarray | None  # (V, 3)
    colors: np.ndarray | None  # (V, 3) in [0, 1]
    uv: np.ndarray | None  # (V, 2), (0, 0) = lower left
    texture: np.ndarray | None  # (H, W, 3) uint8
    notes: tuple[Note, ...] = ()  # where the look that the file declares and the one here differ


def load_mesh(
    path: str | Path,
    unit: str | None = None,
    *,
    obj_id: int = 0,
    name: str | None = None,
    symmetries: Symmetries | None = None,
) -> ObjectModel:
    """A mesh file as an `ObjectModel` in metres.

    Faces without area are dropped. Normals of the file are kept; where it has none they are computed, smooth over flat
    edges and split at sharp ones. Several textures or materials become vertex colours, a single texture stays one.

    Args:
        path: a PLY, OBJ, STL, OFF, GLB or glTF file.
        unit: of the numbers in the file, "m", "cm", "mm" or "inch". GLB and glTF are in metres unless another unit is given.
        obj_id: number of the object in its data set.
        name: what to call it; the file's name by default.
        symmetries: none by default; `propose_symmetries` finds them.

    Returns:
        the model, float32, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a mesh, no faces, NaN or infinite vertices, too many faces, no or wrong unit.
    """
    path = Path(path)
    check_unit(unit)
    raw = read_raw(path)
    longest = float(np.ptp(raw.vertices, axis=0).max())
    scale = _scale(path, name or path.stem, unit, longest)
    for note in raw.notes:
        warnings.warn(note.text, stacklevel=2)
    raw = _without_degenerate(raw, path)
    raw = _with_normals(raw)
    assert raw.normals is not None
    vertices = raw.vertices * scale

    def tensor(value: np.ndarray | None) -> Tensor | None:
        return None if value is None else torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))

    return ObjectModel(
        obj_id=obj_id,
        name=name or path.stem,
        vertices=torch.from_numpy(vertices.astype(np.float32)),
        faces=torch.from_numpy(np.ascontiguousarray(raw.faces, dtype=np.int64)),
        normals=torch.from_numpy(raw.normals.astype(np.float32)),
        diameter=diameter(vertices),
        colors=tensor(raw.colors),
        uv=tensor(raw.uv),
        texture=tensor(None if raw.texture is None else raw.texture.transpose(2, 0, 1) / np.float32(255)),
        symmetries=symmetries or Symmetries(),
    )


def from_triangles(
    corners: np.ndarray, colors: np.ndarray | None = None, *, obj_id: int = 0, name: str = "part"
) -> ObjectModel:
    """A model of triangles made in code, with normals that are smooth over flat edges and split at sharp ones.

    Args:
        corners: of F triangles, (F, 3, 3), metres, counter-clockwise seen from outside. Those without area are dropped.
        colors: at the corners, (F, 3, 3), RGB in [0, 1], or None.
        obj_id, name: of the model.

    Raises:
        ValueError: no triangle has an area.
    """
    paint = None if colors is None else np.clip(colors, 0, 1).reshape(-1, 3)
    faces = np.arange(3 * len(corners)).reshape(-1, 3)
    raw = RawMesh(np.asarray(corners, np.float64).reshape(-1, 3), faces, None, paint, None, None)
    raw = _with_normals(_without_degenerate(raw, Path(name)))
    assert raw.normals is not None

    def tensor(value: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))

    return ObjectModel(
        obj_id, name, tensor(raw.vertices), torch.from_numpy(np.ascontiguousarray(raw.faces)), tensor(raw.normals),
        diameter(raw.vertices), colors=None if raw.colors is None else tensor(raw.colors),
    )  # fmt: skip


def check_unit(unit: str | None) -> None:
    """Raise unless `unit` is None or a known name."""
    if unit is not None and unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}; known: {', '.join(UNITS)} (--unit mm)")


def _scale(path: Path, name: str, unit: str | None, longest: float) -> float:
    """Metres per number in the file; raises where the size that follows is not that of an object."""
    used = unit or ("m" if path.suffix.lower() in METRIC_FORMATS else None)
    sizes = {u: longest * s for u, s in UNITS.items()}
    plausible = [u for u in ("mm", "m", "cm", "inch") if 0.01 <= sizes[u] <= 3] or [
        u for u in ("mm", "m", "cm", "inch") if SHORTEST <= sizes[u] <= LONGEST
    ]
    call = f"load_mesh('{path.name}', unit=\"{plausible[0] if plausible else 'mm'}\")"
    flag = f"(--unit {plausible[0] if plausible else 'mm'})"
    if used is None:
        readings = ", ".join(f"{length(s)} if in {u}" for u, s in sizes.items())
        raise ValueError(
            f"{path.name}: the format {path.suffix[1:].upper()} does not say its unit; the longest side is "
            f"{readings}. Say which, as in --unit {plausible[0] if plausible else 'mm'}; in Python {call}"
        )
    size = sizes[used]
    if SHORTEST <= size <= LONGEST:
        return UNITS[used]
    words = {"mm": "millimetres", "cm": "centimetres", "m": "metres", "inch": "inches"}
    hint = f"is the file in {words[plausible[0]]}? Use {call} {flag}" if plausible else "scale the file to a size in reach"
    bound = f"objects from {length(SHORTEST)} to {length(LONGEST)} are expected"
    raise ValueError(f"{path.name}: object '{name}' is {length(size)} long; {hint}" + ("" if plausible else f"; {bound}"))


def length(metres: float) -> str:
    """A length for people: '124 m', '124 mm', '0.31 mm'."""
    return f"{metres:.4g} m" if metres >= 1 else f"{metres * 1000:.3g} mm" if metres < 0.9995 else "1 m"


def read_raw(path: str | Path) -> RawMesh:
    """Read a mesh file without changing it: all parts of a scene joined, units untouched.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a mesh file, no faces, cut short, NaN or infinite vertices, more faces than the limit.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix.lower() in FORMATS) if path.parent.is_dir() else []
        raise FileNotFoundError(f"no mesh file {path} (mesh files there: {', '.join(near[:8]) or 'none'})")
    if path.suffix.lower() not in FORMATS:
        how = CONVERTED.get(path.suffix.lower(), "is not a known mesh format")
        raise ValueError(f"{path.name} {how}; known: {', '.join(FORMATS)}")
    limits.check_file(path, "MONOPOSE_MAX_MESH_MB")
    try:
        parts, notes = read_parts(path)
    except ValueError as error:
        if str(path) in str(error):  # one of ours
            raise
        raise _unreadable(path, error) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # readers of others raise anything on broken files
        raise _unreadable(path, error) from error
    if sum(len(p.faces) for p in parts) == 0:
        points = sum(len(p.vertices) for p in parts)
        raise ValueError(
            f"{path} has no faces ({points} points: a point cloud?); a surface is needed: reconstruct one "
            "(MeshLab: Screened Poisson) or export the CAD model as a mesh"
        )
    for part in parts:
        for what, values in (("colours", part.colors), ("texture coordinates", part.uv), ("normals", part.normals)):
            if values is not None and len(values) != len(part.vertices):
                raise ValueError(f"{path} has {len(values)} {what} for {len(part.vertices)} vertices; export the file again")
            if values is not None and what != "normals" and not np.isfinite(values).all():
                raise ValueError(f"{path} has NaN or infinite {what}; export the file again")
        if part.colors is not None and not (part.colors.min(initial=0) >= -1e-6 and part.colors.max(initial=0) <= 1 + 1e-6):
            worst = part.colors.flat[np.abs(part.colors - 0.5).argmax()]
            raise ValueError(f"{path} has colours outside of 0 to 255 ({255 * worst:.4g}); export the file again")
    raw = _joined([p for p in parts if len(p.faces)], notes, path)
    if raw.faces.min() < 0 or raw.faces.max() >= len(raw.vertices):
        raise ValueError(
            f"{path} has a face with vertex number {int(raw.faces.max())} but only {len(raw.vertices)} vertices; "
            "is the file whole? Export it again"
        )
    check_count(path, len(raw.faces))
    broken = ~np.isfinite(raw.vertices).all(1)
    if broken.any():
        raise ValueError(
            f"{path} has {int(broken.sum())} vertices with NaN or infinite coordinates (first: number {int(broken.argmax())}); "
            "export the file again"
        )
    return raw


def look_is_whole(path: Path) -> bool:
    """Whether all that a mesh file says of its look could be loaded; warns that no symmetries are proposed if not."""
    whole = not any(note.lost for note in read_raw(path).notes)
    if not whole:
        text = f"{path.name}: no symmetries are proposed, as its look, which may forbid them, was not loaded whole"
        warnings.warn(text, stacklevel=2)
    return whole


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} could not be read as {path.suffix[1:].upper()} ({type(error).__name__}: {error}); is the file whole? "
        "Open it in MeshLab or Blender and export it again"
    )


def _joined(parts: list[Part], notes: list[Note], path: Path) -> RawMesh:
    """All parts as one mesh. One texture stays one; several become the colours of their vertices."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts[:-1]])
    vertices = np.concatenate([p.vertices for p in parts])
    faces = np.concatenate([p.faces + o for p, o in zip(parts, offsets, strict=True)])
    normals = None
    if all(p.normals is not None for p in parts):
        normals = np.concatenate([p.normals for p in parts])  # type: ignore[misc]
        size = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = normals / size if np.isfinite(size).all() and (size > 1e-6).all() else None
    images = [p.image for p in parts]
    first = images[0]
    if first is not None and all(i is not None and i.shape == first.shape and (i == first).all() for i in images[1:]):
        uv = np.concatenate([p.uv for p in parts])  # type: ignore[misc]
        return RawMesh(vertices, faces, normals, None, uv, first, tuple(notes))
    if all(i is None and p.colors is None for i, p in zip(images, parts, strict=True)):
        return RawMesh(vertices, faces, normals, None, None, None, tuple(notes))
    if any(i is not None for i in images):
        text = f"{path.name} has several materials with textures; they become colours of vertices, detail between them is lost"
        notes = [*notes, Note(text, lost=False)]
    colors = []
    for part, image in zip(parts, images, strict=True):
        if image is not None and part.uv is not None:
            u, v = part.uv[:, 0] % 1.0, part.uv[:, 1] % 1.0
            h, w = image.shape[:2]
            colors.append(image[np.minimum(((1 - v) * h).astype(int), h - 1), np.minimum((u * w).astype(int), w - 1)] / 255.0)
        else:
            colors.append(part.colors if part.colors is not None else np.full((len(part.vertices), 3), 0.5))
    return RawMesh(vertices, faces, normals, np.concatenate(colors), None, None, tuple(notes))


def _face_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3), zero where there is no area, and areas (F,)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    size = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(size, 1e-300)[:, None], size / 2


def _without_degenerate(raw: RawMesh, path: Path) -> RawMesh:
    """Drop faces without area and vertices without a face."""
    keep = ~degenerate(raw)
    if not keep.any():
        raise ValueError(f"{path} has {len(raw.faces)} faces but none has an area; export the file again")
    used, faces = np.unique(raw.faces[keep], return_inverse=True)

    def rows(value: np.ndarray | None) -> np.ndarray | None:
        return None if value is None else value[used]

    return raw._replace(
        vertices=raw.vertices[used],
        faces=faces.reshape(-1, 3),
        normals=rows(raw.normals),
        colors=rows(raw.colors),
        uv=rows(raw.uv),
    )


def degenerate(raw: RawMesh) -> np.ndarray:
    """Which faces have no area (F,), relative to the size of the mesh."""
    span = float(np.ptp(raw.vertices, axis=0).max())
    return _face_normals(raw.vertices, raw.faces)[1] <= 1e-14 * span * span


def merged(vertices: np.ndarray) -> np.ndarray:
    """For every vertex the number of its place; vertices at the same place share it, (V,)."""
    span = float(np.ptp(vertices, axis=0).max())
    return np.unique(np.round((vertices - vertices.min(0)) / (1e-7 * span)), axis=0, return_inverse=True)[1].reshape(-1)


def _with_normals(raw: RawMesh) -> RawMesh:
    """Give vertices their normals: angle-weighted means over the faces joined by edges flatter than CREASE.

    Corners of faces are the nodes of a graph; two corners at the same place are linked where their faces share a flat
    edge. A connected set of corners becomes one normal, and one vertex per colour or texture coordinate in it.
    """
    if raw.normals is not None:
        return raw
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faces, place = raw.faces, merged(raw.vertices)
    count = len(faces)
    at = place[faces]  # (F, 3)
    flat, _ = _face_normals(raw.vertices, faces)
    # the three edges of each face, as sorted pairs of places, with the two corners at their ends
    start, end = np.arange(3 * count).reshape(-1, 3), np.arange(3 * count).reshape(-1, 3)[:, [1, 2, 0]]
    p, q = at, at[:, [1, 2, 0]]
    low, high = np.minimum(p, q).ravel(), np.maximum(p, q).ravel()
    first, second = np.where(p <= q, start, end).ravel(), np.where(p <= q, end, start).ravel()
    order = np.lexsort((high, low))
    same = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
    left, right = order[:-1][same], order[1:][same]
    smooth = (flat[left // 3] * flat[right // 3]).sum(1) > np.cos(CREASE)
    left, right = left[smooth], right[smooth]
    a, b = np.concatenate([first[left], second[left]]), np.concatenate([first[right], second[right]])
    graph = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(3 * count, 3 * count))
    groups, group = connected_components(graph, directed=False)
    # angle at each corner
    corners = raw.vertices[faces]
    to_next, to_last = corners[:, [1, 2, 0]] - corners, corners[:, [2, 0, 1]] - corners
    cosine = (to_next * to_last).sum(-1) / np.maximum(
        np.linalg.norm(to_next, axis=-1) * np.linalg.norm(to_last, axis=-1), 1e-300
    )
    weight = np.arccos(cosine.clip(-1, 1)).ravel()
    normals = np.stack([np.bincount(group, weight * np.repeat(flat[:, k], 3), groups) for k in range(3)], 1)
    size = np.linalg.norm(normals, axis=1, keepdims=True)
    lost = size[:, 0] < 1e-9
    if lost.any():  # a two-sided sheet: take any face of the group
        normals[group[::-1]] = np.where(lost[group[::-1], None], np.repeat(flat, 3, 0)[::-1], normals[group[::-1]])
        size = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.maximum(size, 1e-300)
    # one vertex per (group, appearance)
    look = np.zeros(len(raw.vertices), np.int64)
    attribute = raw.uv if raw.uv is not None else raw.colors
    if attribute is not None:
        look = np.unique(np.round(attribute * 1e6), axis=0, return_inverse=True)[1].reshape(-1)
    key = group.astype(np.int64) * (look.max() + 1) + look[faces.ravel()]
    _, chosen, index = np.unique(key, return_index=True, return_inverse=True)
    vertex = faces.ravel()[chosen]
    return raw._replace(
        vertices=raw.vertices[vertex],
        faces=index.reshape(-1, 3),
        normals=normals[group[chosen]],
        colors=None if raw.colors is None else raw.colors[vertex],
        uv=None if raw.uv is None else raw.uv[vertex],
    )


def diameter(vertices: np.ndarray | Tensor) -> float:
    """The largest distance between two of the points (V, 3), in their unit.

    Exact over the corners of the convex hull. Round hulls of more than 6000 corners are first reduced to the corners
    that are extreme in one of 4000 directions (a relative error below 1e-4).
    """
    from scipy.spatial import ConvexHull, QhullError

    points = np.unique(np.asarray(vertices, np.float64).reshape(-1, 3), axis=0)
    if len(points) > 4:
        try:
            points = points[ConvexHull(points).vertices]
        except QhullError:  # flat: shake the points for choosing, measure them unshaken
            points = points[ConvexHull(points, qhull_options="QJ Pp").vertices]
    if len(points) > 6000:
        from ..geometry.viewpoints import fibonacci_sphere

        directions = fibonacci_sphere(4000, torch.float64).numpy()
        ends = [(points @ d.T).argmax(0) for d in np.array_split(directions, 40)]
        points = points[np.unique(np.concatenate(ends))]
    best = 0.0
    for rows in np.array_split(points, max(1, len(points) // 500)):
        best = max(best, float(((rows[:, None] - points[None]) ** 2).sum(-1).max()))
    return best**0.5


class SurfaceSamples(NamedTuple):
    points: Tensor  # (n, 3) metres
    normals: Tensor  # (n, 3) unit, of the face
    faces: Tensor  # (n,) int64, which face
    bary: Tensor  # (n, 3) weights of its three corners


def surface_samples(model: ObjectModel, n: int, generator: torch.Generator | None = None) -> SurfaceSamples:
    """Points spread evenly over the surface.

    Args:
        model: with F faces.
        n: how many.
        generator: CPU random numbers; the same seed gives the same points. None: seed 0.

    Returns:
        points (n, 3) metres, face normals (n, 3), face numbers (n,), barycentric weights (n, 3).

    Source: Turk, "Generating random points in triangles", Graphics Gems, 1990.
    """
    a, b, c = (model.vertices[model.faces[:, k]] for k in range(3))
    cross = torch.linalg.cross(b - a, c - a)
    area = cross.double().norm(dim=-1)
    edges = area.cumsum(0).cpu()
    generator = generator or torch.Generator().manual_seed(0)
    draw = torch.rand(n, generator=generator, dtype=torch.float64) * edges[-1]
    index = torch.searchsorted(edges, draw, right=True).clamp(max=len(edges) - 1).to(a.device)
    u, v = torch.rand(2, n, generator=generator, dtype=torch.float64).to(a)
    root = u.sqrt()
    bary = torch.stack([1 - root, root * (1 - v), root * v], -1)
    points = bary[:, :1] * a[index] + bary[:, 1:2] * b[index] + bary[:, 2:] * c[index]
    return SurfaceSamples(points, torch.nn.functional.normalize(cross[index], dim=-1, eps=1e-30), index, bary)


def albedo(model: ObjectModel, samples: SurfaceSamples) -> Tensor | None:
    """Colours (n, 3) in [0, 1] at samples of the surface; None where the model has neither texture nor colours."""
    corners = model.faces[samples.faces]
    if model.texture is not None and model.uv is not None:
        uv = (samples.bary[..., None] * model.uv[corners]).sum(1) % 1.0
        height, width = model.texture.shape[-2:]
        row = ((1 - uv[:, 1]) * height).long().clamp(0, height - 1)
        column = (uv[:, 0] * width).long().clamp(0, width - 1)
        return model.texture[:, row, column].T
    if model.colors is not None:
        return (samples.bary[..., None] * model.colors[corners]).sum(1)
    return None


def vertex_colors(model: ObjectModel) -> Tensor | None:
    """Colours of the vertices, (V, 3), in [0, 1], those of the texture where there is one; None: the model has neither."""
    if model.texture is None or model.uv is None:
        return model.colors
    own = torch.eye(3)[0].expand(len(model.vertices), 3)  # all weight on the vertex itself
    corner = torch.arange(len(model.vertices))[:, None].expand(-1, 3)
    vertex = SurfaceSamples(model.vertices.cpu(), model.normals.cpu(), torch.arange(len(model.vertices)), own)
    return albedo(replace(model.to("cpu"), faces=corner), vertex)


def to_trimesh(model: ObjectModel) -> Any:
    """The model as a `trimesh.Trimesh`, metres, with the colours of its vertices if it has any."""
    import trimesh

    colors = vertex_colors(model)
    shown = None if colors is None else (255 * colors.cpu()).round().byte().numpy()
    mesh = trimesh.Trimesh(model.vertices.cpu().numpy(), model.faces.cpu().numpy(), vertex_colors=shown, process=False)
    mesh.vertex_normals = model.normals.cpu().numpy()  # type: ignore[method-assign]
    return mesh


def simplified(model: ObjectModel, faces: int) -> ObjectModel:
    """A coarser copy for fast rendering, by quadric edge collapse. Diameter and symmetries stay those of the original.

    Colours and normals come from the nearest original vertex; a texture is read into vertex colours first.

    Args:
        model: any model; one that is coarse enough is returned as it is.
        faces: how many triangles to aim at; a few more can remain.

    Source: Garland and Heckbert, "Surface simplification using quadric error metrics", SIGGRAPH 1997.
    """
    if len(model.faces) <= faces:
        return model
    import trimesh
    from scipy.spatial import cKDTree

    vertices = model.vertices.double().cpu().numpy()
    place = merged(vertices)
    _, first = np.unique(place, return_index=True)
    coarse = trimesh.Trimesh(vertices[first], place[model.faces.cpu().numpy()], process=False)
    coarse = coarse.simplify_quadric_decimation(face_count=faces)
    raw = RawMesh(np.asarray(coarse.vertices), np.asarray(coarse.faces, np.int64), None, None, None, None)
    raw = _with_normals(_without_degenerate(raw, Path(model.name)))
    colors = vertex_colors(model)
    nearest = torch.from_numpy(cKDTree(vertices).query(raw.vertices)[1])
    like = model.vertices
    return replace(
        model,
        vertices=torch.from_numpy(raw.vertices).to(like),
        faces=torch.from_numpy(raw.faces).to(like.device),
        normals=torch.from_numpy(raw.normals).to(like),
        colors=None if colors is None else colors.cpu()[nearest].to(like),
        uv=None,
        texture=None,
    )
