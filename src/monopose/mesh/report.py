"""What is wrong with a mesh: topology, size, origin; a sheet of views."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ..geometry.camera import project
from ..geometry.viewpoints import look_at
from ..types import ObjectModel, Symmetries
from .loading import length, merged


def find_topology(vertices: np.ndarray, faces: np.ndarray) -> dict[str, Any]:
    """Holes, edges that do not fit and winding of a mesh whose vertices are first merged by place."""
    import trimesh

    place = merged(vertices)
    points = np.zeros((int(place.max()) + 1, 3))
    points[place] = vertices
    at = place[faces]
    at = at[(at[:, 0] != at[:, 1]) & (at[:, 1] != at[:, 2]) & (at[:, 2] != at[:, 0])]
    mesh = trimesh.Trimesh(points, at, process=False)
    edge = mesh.edges_unique_inverse
    uses = np.bincount(edge)
    forward = np.bincount(edge, mesh.edges[:, 0] < mesh.edges[:, 1])  # how often an edge is walked from low to high
    inconsistent = int(((uses == 2) & (forward != 1)).sum())
    border = mesh.edges_unique[uses == 1]
    return {
        "watertight": bool(mesh.is_watertight),
        "holes": len(trimesh.graph.connected_components(border)) if len(border) else 0,
        "border_edges": len(border),
        "crowded_edges": int((uses > 2).sum()),
        "inconsistent_edges": inconsistent,
        "inside_out": bool(not len(border) and not inconsistent and mesh.volume < 0),
        "parts": len(trimesh.graph.connected_components(mesh.edges_unique)),  # that share no place
    }


def mesh_warnings(model: ObjectModel, topology: dict[str, Any], flat: int, origin: torch.Tensor) -> list[str]:
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

    from ..render import Lights, render_scene

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
    text = f"{model.name}: {sizes_text(rounded_triple(high - low))} (x, y, z), diameter {length(model.diameter)}"
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


def rounded_triple(values: torch.Tensor) -> tuple[float, float, float]:
    """Three numbers to seven digits."""
    x, y, z = (float(f"{v:.7g}") for v in values.tolist())
    return x, y, z


def sizes_text(values: Iterable[float]) -> str:
    """Lengths (metres) in one unit, m or mm by the largest: "120 x 80 x 35 mm"."""
    values = tuple(values)
    largest = max(abs(v) for v in values)
    factor, unit = (1.0, "m") if largest >= 1 else (1000.0, "mm")
    return " x ".join(f"{v * factor + 0.0:.4g}" if abs(v) > 1e-6 * max(largest, 0.01) else "0" for v in values) + f" {unit}"
