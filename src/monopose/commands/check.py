"""What `monopose check` finds: is this mesh, this BOP folder, this photo with its camera fit for use?

Reports have `problems` (it will not work), `warnings` (it may not mean what you think), `as_dict()` and `text()`.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..datasets.bop.check import FolderReport, check_bop
from ..datasets.bop.models import models_info_entry
from ..io.files import IMAGE_SUFFIXES, atomic_write
from ..mesh.loading import METRIC_FORMATS, degenerate, length, load_mesh, read_raw
from ..mesh.report import contact_sheet, find_topology, mesh_warnings, rounded_triple, sizes_text
from ..mesh.symmetries import group_size, propose_symmetries
from ..types import Symmetries

__all__ = ["FailedReport", "FolderReport", "MeshReport", "PhotoReport"]
__all__ += ["check_bop", "check_mesh", "check_paths", "check_photo", "contact_sheet"]


@dataclass(frozen=True)
class FailedReport:
    """A file or folder that could not be looked at, and why."""

    path: str
    problems: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        return "\n".join([f"{self.path}:", *(f"  problem: {p}" for p in self.problems)])


def check_paths(
    paths: Sequence[Path], unit: str | None = None, camera: Path | None = None, out: Path | None = None
) -> list[FailedReport | FolderReport | MeshReport | PhotoReport]:
    """Look at mesh files, BOP folders and photos; what is wrong with one of several hides nothing of the others.

    Args:
        paths: what to look at.
        unit, out: of meshes, as in `check_mesh`.
        camera: file for photos.

    Raises:
        FileNotFoundError, ValueError: the only path cannot be looked at.
    """

    def look(path: Path) -> FolderReport | MeshReport | PhotoReport:
        if path.is_dir():
            return check_bop(path)
        if path.suffix.lower() in (*IMAGE_SUFFIXES, ".heic", ".heif"):
            if camera is None:
                raise ValueError(f"{path} is a photo; give its camera too: --camera camera.json")
            return check_photo(path, camera)
        return check_mesh(path, unit, out=out)

    if len(paths) == 1:
        return [look(paths[0])]
    reports: list[FailedReport | FolderReport | MeshReport | PhotoReport] = []
    for path in paths:
        try:
            reports.append(look(path))
        except (OSError, ValueError) as error:
            reports.append(FailedReport(str(path), [str(error)]))
    return reports


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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [
            f"{self.name}: {self.path}",
            f"  size        {sizes_text(self.size)}, diameter {length(self.diameter)} (file in {self.unit})",
            f"  origin      {sizes_text(self.origin_from_center)} from the middle of the box",
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
    topology = find_topology(raw.vertices, raw.faces[~flat])
    proposal = propose_symmetries(model)
    symmetries, kinds, findings = proposal.symmetries, group_size(proposal.symmetries), [str(f) for f in proposal.findings]
    if any(note.lost for note in raw.notes):  # a texture may forbid what the shape allows
        symmetries = Symmetries()
        kinds = "none proposed: the look of the file, which may forbid those of its shape, was not loaded whole"
    low, high = model.bounds.double()
    size, origin = high - low, -(low + high) / 2
    notes = [str(w.message) for w in caught if issubclass(w.category, UserWarning) and path.name in str(w.message)]
    if path.suffix.lower() in METRIC_FORMATS:
        notes.append(f"{path.suffix[1:]} files have +Y up, --upright takes +Z as up: turn the mesh before it is used so")
    notes += mesh_warnings(model, topology, int(flat.sum()), origin)
    picture = ""
    if out is not None:
        target = Path(out) / f"{path.stem}_check.png"
        sheet = contact_sheet(model, symmetries)
        try:
            with atomic_write(target) as temporary:
                sheet.save(temporary)
            picture = str(target)
        except OSError as error:  # what was found is printed all the same
            notes.append(f"no picture could be saved: {error}; name another folder with --out")
    if model.texture is not None:
        appearance = f"texture {model.texture.shape[2]}x{model.texture.shape[1]}"
    else:
        appearance = "vertex colours" if model.colors is not None else "none"
    return MeshReport(
        path=str(path),
        name=model.name,
        unit=unit or "m",
        size=rounded_triple(size),
        diameter=model.diameter,
        origin_from_center=rounded_triple(origin),
        vertices=len(model.vertices),
        faces=len(model.faces),
        degenerate_faces=int(flat.sum()),
        **topology,
        appearance=appearance,
        symmetries=kinds,
        findings=findings,
        models_info=models_info_entry(model, symmetries),
        warnings=notes,
        picture=picture,
    )


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

    def as_dict(self) -> dict[str, Any]:
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
    from ..io.cameras import read_camera
    from ..io.images import read_image

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
    if fov[0] < 10:
        notes.append(f"a horizontal field of view of {fov[0]:.1f} degrees is unusual; is K in pixels and for this size?")
    if float(picture.std()) < 0.01:
        notes.append("the image is almost uniform; is the lens covered or the file empty?")
    return PhotoReport(str(image), str(camera), size, (fov[0], fov[1]), notes, problems)
