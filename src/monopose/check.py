"""What `monopose check` finds: is this mesh, this BOP folder, this photo with its camera fit for use?

Reports have `problems` (it will not work), `warnings` (it may not mean what you think), `to_json()` and `text()`.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .datasets.bop.check import FolderReport, check_bop
from .geometry.camera import project
from .geometry.viewpoints import look_at
from .io.files import atomic_write
from .mesh.loading import degenerate, length, load_mesh, merged, read_raw
from .mesh.symmetries import group_size, propose_symmetries
from .types import ObjectModel, Symmetries

__all__ = ["FolderReport", "MeshReport", "PhotoReport", "check_bop", "check_mesh", "check_photo", "contact_sheet"]

# ---------------------------------------------------------------------------------------------------------------- mesh


@dataclass(frozen=True)
class MeshReport:
    """One mesh file, looked at.

    Args:
        path: the file.
        name: of the object.
        unit: of the file.
        size: of the box around it, metres.
        diameter: largest distance between two points, metres.
        origin_from_center: origin of the object frame seen from the middle of the box, metres.
        vertices, faces: counts after loading.
        degenerate_faces: without area, dropped on loading.
        watertight: every edge has exactly two faces.
        holes: closed loops of border edges; 0 = nothing is missing.
        border_edges: edges with one face.
        crowded_edges: edges with more than two faces.
        inconsistent_edges: edges whose two faces disagree about inside and outside.
        inside_out: the faces of a closed mesh point inwards.
        parts: connected pieces.
        appearance: "texture 1024x1024", "vertex colours" or "none".
        symmetries: what is proposed, in words.
        findings: every symmetry axis found, in words, accepted or not.
        models_info: the entry for BOP's models_info.json (mm) with the proposed symmetries.
        warnings, problems: in words.
        picture: where the contact sheet was saved, "" if not.
    """

    path: str
    name: str
    unit: str
    size: tuple[float, float, float]
    diameter: float
    origin_from_center: tuple[float, float, float]
    vertices: int
    faces: int
    degenerate_faces: int
    watertight: bool
    holes: int
    border_edges: int
    crowded_edges: int
    inconsistent_edges: int
    inside_out: bool
    parts: int
    appearance: str
    symmetries: str
    findings: list[str]
    models_info: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    picture: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [
            f"{self.name}: {self.path}",
            f"  size        {_lengths(self.size)}, diameter {length(self.diameter)} (file in {self.unit})",
            f"  origin      {_lengths(self.origin_from_center)} from the middle of the box",
            f"  surface     {self.faces} faces, {self.vertices} vertices, {self.parts} part{'s' * (self.parts != 1)}, "
            + ("watertight" if self.watertight else f"{self.holes} holes"),
            f"  appearance  {self.appearance}",
            f"  symmetries  {self.symmetries}",
            *(f"    {f}" for f in self.findings),
            *(f"  warning: {w}" for w in self.warnings),
            *(f"  problem: {p}" for p in self.problems),
            f"  models_info.json entry: {json.dumps(self.models_info)}",
        ]
        return "\n".join(lines + ([f"  picture     {self.picture}"] if self.picture else []))


def check_mesh(path: str | Path, unit: str | None = None, *, out: str | Path | None = None) -> MeshReport:
    """Look at a mesh file: size, origin, holes, appearance, symmetries.

    Args:
        path: PLY, OBJ, STL, OFF, GLB or glTF.
        unit: as in `load_mesh`.
        out: folder for the picture NAME_check.png; None: no picture.

    Raises:
        FileNotFoundError, ValueError: what `load_mesh` raises.
    """
    path = Path(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_mesh(path, unit)
    raw = read_raw(path)
    flat = degenerate(raw)
    topology = _topology(raw.vertices, raw.faces[~flat])
    proposal = propose_symmetries(model)
    low, high = model.bounds.double()
    size, origin = high - low, -(low + high) / 2
    notes = [str(w.message) for w in caught if issubclass(w.category, UserWarning) and path.name in str(w.message)]
    notes += _mesh_warnings(model, topology, int(flat.sum()), origin)
    picture = ""
    if out is not None:
        target = Path(out) / f"{path.stem}_check.png"
        sheet = contact_sheet(model, proposal.symmetries)
        with atomic_write(target) as temporary:
            sheet.save(temporary)
        picture = str(target)
    if model.texture is not None:
        appearance = f"texture {model.texture.shape[2]}x{model.texture.shape[1]}"
    else:
        appearance = "vertex colours" if model.colors is not None else "none"
    return MeshReport(
        path=str(path),
        name=model.name,
        unit=unit or "m",
        size=_triple(size),
        diameter=model.diameter,
        origin_from_center=_triple(origin),
        vertices=len(model.vertices),
        faces=len(model.faces),
        degenerate_faces=int(flat.sum()),
        **topology,
        appearance=appearance,
        symmetries=group_size(proposal.symmetries),
        findings=[str(f) for f in proposal.findings],
        models_info=models_info_entry(model, proposal.symmetries),
        warnings=notes,
        picture=picture,
    )


def models_info_entry(model: ObjectModel, symmetries: Symmetries) -> dict[str, Any]:
    """The entry of BOP's models_info.json for a model: diameter, box and the given symmetries, mm."""
    from .datasets.bop.writing import symmetries_json
    from .io.records import MM

    low, high = (model.bounds.double().cpu().numpy() / MM).round(6).tolist()
    entry: dict[str, Any] = {"diameter": round(model.diameter / MM, 6)}
    entry |= {f"min_{a}": v for a, v in zip("xyz", low, strict=True)}
    entry |= {f"size_{a}": round(h - v, 6) for a, v, h in zip("xyz", low, high, strict=True)}
    return entry | symmetries_json(symmetries)


def _topology(vertices: np.ndarray, faces: np.ndarray) -> dict[str, Any]:
    """Holes, edges that do not fit and winding of a mesh whose vertices are first merged by place."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    place = merged(vertices)
    at = place[faces]
    at = at[(at[:, 0] != at[:, 1]) & (at[:, 1] != at[:, 2]) & (at[:, 2] != at[:, 0])]
    count = int(place.max()) + 1
    start, end = at.ravel(), at[:, [1, 2, 0]].ravel()
    key = np.minimum(start, end) * count + np.maximum(start, end)
    edges, index, uses = np.unique(key, return_inverse=True, return_counts=True)
    forward = np.bincount(index.ravel(), start < end, len(edges))  # how often an edge is walked from low to high
    border = edges[uses == 1]
    holes = 0
    if len(border):
        ends, loop = np.unique(np.stack([border // count, border % count]), return_inverse=True)
        a, b = loop.reshape(2, -1)
        graph = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(len(ends), len(ends)))
        holes = int(connected_components(graph, directed=False)[0])
    used, local = np.unique(at, return_inverse=True)
    local = local.reshape(-1, 3)
    links = (np.concatenate([local[:, 0], local[:, 1]]), np.concatenate([local[:, 1], local[:, 2]]))
    graph = coo_matrix((np.ones(2 * len(at), bool), links), shape=(len(used), len(used)))
    corners = vertices[faces] - vertices.mean(0)
    volume = float(np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))) / 6
    inconsistent = int(((uses == 2) & (forward != 1)).sum())
    return {
        "watertight": not len(border) and not bool((uses > 2).any()),
        "holes": holes,
        "border_edges": len(border),
        "crowded_edges": int((uses > 2).sum()),
        "inconsistent_edges": inconsistent,
        "inside_out": bool(not len(border) and not inconsistent and volume < 0),
        "parts": int(connected_components(graph, directed=False)[0]),
    }


def _mesh_warnings(model: ObjectModel, topology: dict[str, Any], flat: int, origin: torch.Tensor) -> list[str]:
    notes = []
    if float(origin.norm()) > 0.5 * model.diameter:
        notes.append(
            f"the origin lies {length(float(origin.norm()))} from the middle of the box, outside or at the edge of the object; "
            "poses will be those of that far point. Centre the mesh unless other software relies on it"
        )
    if topology["border_edges"]:
        notes.append(f"the surface is open: {topology['holes']} hole(s), {topology['border_edges']} border edges; "
                     "views into a hole will show nothing or the back of a face")  # fmt: skip
    if topology["crowded_edges"]:
        notes.append(f"{topology['crowded_edges']} edges have more than two faces; harmless for rendering")
    if topology["inconsistent_edges"]:
        notes.append(
            f"{topology['inconsistent_edges']} edges join faces that disagree about inside and outside; shading will be wrong "
            "there. Recalculate normals (Blender: Mesh > Normals > Recalculate Outside)"
        )
    if topology["inside_out"]:
        notes.append("the faces point inwards; flip them (Blender: Mesh > Normals > Flip)")
    if flat:
        notes.append(f"{flat} faces without area were dropped")
    if len(model.faces) > 100_000:
        notes.append(f"{len(model.faces)} faces make rendering slow; 5,000 to 20,000 are enough")
    if model.texture is None and model.colors is None:
        notes.append("no texture and no colours: training will vary the material")
    if model.diameter > 2 or model.diameter < 0.01:
        notes.append(f"a diameter of {length(model.diameter)} is unusual; is the unit right?")
    return notes


def contact_sheet(model: ObjectModel, symmetries: Symmetries | None = None, side: int = 320) -> Any:
    """Six views of a model with its frame (x red, y green, z blue) and sizes.

    Args:
        model: the object.
        symmetries: their continuous axes are drawn too.
        side: of one view, pixels.

    Returns:
        a PIL image, (2 side + 36, 3 side).
    """
    from PIL import Image, ImageDraw, ImageFont

    from .render import Lights, render_scene

    views = {
        "front": (0.0, -1.0, 0.0), "right": (1.0, 0.0, 0.0), "top": (0.0, 0.0, 1.0),
        "back": (0.0, 1.0, 0.0), "left": (-1.0, 0.0, 0.0), "oblique": (0.55, -0.65, 0.52),
    }  # fmt: skip
    low, high = model.bounds
    center = (low + high) / 2
    radius = float((model.vertices - center).norm(dim=-1).max())
    focal = 3.2 * side
    distance = 1.18 * radius * math.hypot(1, 2 * focal / side)
    K = torch.tensor([[focal, 0, (side - 1) / 2], [0, focal, (side - 1) / 2], [0, 0, 1.0]])
    lamp = torch.nn.functional.normalize(torch.tensor([[-0.5, -0.6, -0.8]]), dim=-1)
    lights = Lights(torch.full((3,), 0.45), lamp, torch.full((1, 3), 0.8))
    sheet = Image.new("RGB", (3 * side, 2 * side + 36), (250, 250, 250))
    font = ImageFont.load_default(13)
    # everything is measured in object diameters, so that the near plane suits a screw and a car alike
    unit = 1 / (2 * radius)
    small = ObjectModel(
        model.obj_id, model.name, (model.vertices - center) * unit, model.faces, model.normals, model.diameter * unit,
        model.colors, model.uv, model.texture,
    )  # fmt: skip
    drawn = Symmetries() if symmetries is None else symmetries
    for i, (name, towards) in enumerate(views.items()):
        direction = torch.nn.functional.normalize(torch.tensor(towards), dim=0)
        pose = torch.eye(4)
        pose[:3, :3] = look_at(direction)
        pose[2, 3] = distance * unit
        background = torch.full((3, side, side), 0.93)
        picture = render_scene([small], pose[None], K, (side, side), lights, background)
        view = Image.fromarray((picture.image.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())
        pen = ImageDraw.Draw(view)

        def pixel(point: torch.Tensor, pose: torch.Tensor = pose) -> tuple[float, float]:
            u, v = project((((point - center) * unit) @ pose[:3, :3].T + pose[:3, 3])[None], K)[0].tolist()
            return u, v

        for axis, point in zip(drawn.axes, drawn.offsets, strict=True):
            pen.line([pixel(point - 1.1 * radius * axis), pixel(point + 1.1 * radius * axis)], (230, 120, 0), 1)
        tip = 0.5 * radius
        for k, color in sorted(enumerate(((215, 30, 30), (20, 150, 20), (40, 70, 230))), key=lambda e: float(direction[e[0]])):
            end = pixel(torch.eye(3)[k] * tip)
            pen.line([pixel(torch.zeros(3)), end], color, 2)
            pen.text((end[0] + 3, end[1] - 8), "xyz"[k], color, font=font)
        across, up = _box_on_screen(low, high, direction)
        pen.rectangle((0, 0, side - 1, side - 1), outline=(200, 200, 200))
        pen.text((6, 4), name, (60, 60, 60), font=font)
        if across:
            pen.text((6, side - 20), f"{across} wide, {up} high", (60, 60, 60), font=font)
        sheet.paste(view, ((i % 3) * side, (i // 3) * side))
    text = f"{model.name}: {_lengths(_triple(high - low))} (x, y, z), diameter {length(model.diameter)}"
    text += ", frame x red, y green, z blue"
    if len(drawn.axes):
        text += ", orange = axis of continuous symmetry"
    ImageDraw.Draw(sheet).text((8, 2 * side + 10), text, (30, 30, 30), font=font)
    return sheet


def _box_on_screen(low: torch.Tensor, high: torch.Tensor, direction: torch.Tensor) -> tuple[str, str]:
    """Width and height of the box in a view along an axis, with the name of the axis; empty for an oblique view."""
    if float(direction.abs().max()) < 0.999:
        return "", ""
    R = look_at(direction)
    named = []
    for row in R[:2]:
        k = int(row.abs().argmax())
        named.append(f"{'xyz'[k]} {length(float(high[k] - low[k]))}")
    return named[0], named[1]


def _triple(values: torch.Tensor) -> tuple[float, float, float]:
    x, y, z = (float(f"{v:.7g}") for v in values.tolist())
    return x, y, z


def _lengths(values: Iterable[float]) -> str:
    values = tuple(values)
    largest = max(abs(v) for v in values)
    factor, unit = (1.0, "m") if largest >= 1 else (1000.0, "mm")
    return " x ".join(f"{v * factor + 0.0:.4g}" if abs(v) > 1e-6 * max(largest, 0.01) else "0" for v in values) + f" {unit}"


# ------------------------------------------------------------------------------------------------------ photo and camera


@dataclass(frozen=True)
class PhotoReport:
    """A photo with its camera.

    Args:
        image, camera: the files.
        size: (height, width) of the image, pixels.
        fov_deg: horizontal and vertical field of view, degrees.
        warnings, problems: in words.
    """

    image: str
    camera: str
    size: tuple[int, int]
    fov_deg: tuple[float, float]
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [
            f"{self.image} with {self.camera}: {self.size[1]}x{self.size[0]}, "
            f"field of view {self.fov_deg[0]:.0f} x {self.fov_deg[1]:.0f} degrees",
            *(f"  warning: {w}" for w in self.warnings),
            *(f"  problem: {p}" for p in self.problems),
        ]
        return "\n".join(lines)


def check_photo(image: str | Path, camera: str | Path) -> PhotoReport:
    """Whether a photo and a camera file go together and look plausible.

    Raises:
        FileNotFoundError, ValueError: a file is missing or cannot be read.
    """
    from .io.images import read_camera, read_image

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = read_image(image)
        size = (int(picture.shape[1]), int(picture.shape[2]))
        view = read_camera(camera, size=size)
    K = view.K.double()
    fov = [2 * math.degrees(math.atan(n / (2 * float(f)))) for n, f in zip(view.size[::-1], (K[0, 0], K[1, 1]), strict=True)]
    notes, problems = [str(w.message) for w in caught], []
    if tuple(view.size) != size:
        (ch, cw), (h, w) = view.size, size
        even = abs(cw / ch - w / h) < 0.01
        fix = "if it was resized as a whole pass --resize-camera" if even else "it was cropped or turned: calibrate that size"
        problems.append(f"the camera is for {cw}x{ch} but the image is {w}x{h} (width x height); {fix}")
    if abs(float(K[0, 0] / K[1, 1]) - 1) > 0.05:
        notes.append(f"fx {float(K[0, 0]):.4g} and fy {float(K[1, 1]):.4g} differ by more than 5 %; pixels are usually square")
    off = [abs(float(K[i, 2]) / (n / 2) - 1) for i, n in enumerate(view.size[::-1])]
    if max(off) > 0.2:
        notes.append(
            f"the principal point ({float(K[0, 2]):.4g}, {float(K[1, 2]):.4g}) is far from the middle of the image; "
            "is the camera that of a crop?"
        )
    if not 10 < fov[0] < 130:
        notes.append(f"a horizontal field of view of {fov[0]:.0f} degrees is unusual; is K in pixels and for this size?")
    if float(picture.std()) < 0.01:
        notes.append("the image is almost uniform; is the lens covered or the file empty?")
    return PhotoReport(str(image), str(camera), size, (fov[0], fov[1]), notes, problems)
