"""What a mesh file says about its look: the textures it names, found and read; what could not be had is noted, never dropped.

Every reader of mesh files hands its textures to `texture` and collects `Note`s; `load_mesh` turns them into warnings.
"""

from __future__ import annotations

import io
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from ..io import limits

MAX_TEXTURE = 2048  # pixels; larger textures are reduced


class Note(NamedTuple):
    """A difference between the look that a file declares and the one that was loaded; `lost` if something is missing."""

    text: str
    lost: bool = True


class Part(NamedTuple):
    """Triangles of one material, in the unit of the file."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64
    normals: np.ndarray | None  # (V, 3)
    colors: np.ndarray | None  # (V, 3) in [0, 1]
    uv: np.ndarray | None  # (V, 2), (0, 0) = lower left
    image: np.ndarray | None  # (H, W, 3) uint8


def beside(mesh: Path, name: str) -> tuple[Path | None, str]:
    """The file that a mesh file names, and what to say about it where it is not exactly that.

    Files are taken from the folder of the mesh and from the folders beside it (`../images/x.png`), links followed; from
    elsewhere (absolute paths, paths of another computer) only the file of the same name beside the mesh is.

    Returns:
        the file or None; "" or a reason.
    """
    folder = mesh.parent.resolve()
    windows = PureWindowsPath(name.strip().strip('"'))  # splits at both kinds of slash
    plain = Path(*(p for p in windows.parts if p != windows.anchor))
    try:
        if not windows.anchor:
            wanted = (folder / plain).resolve()
            if wanted.is_file() and wanted.is_relative_to(folder.parent):
                return wanted, ""
            if wanted.is_file():
                return None, "which lies outside of the folders beside it"
        near = (folder / plain.name).resolve()
        if near.is_file() and near.is_relative_to(folder.parent):
            return near, f"which is not there; {near.name} beside it is taken"
    except (OSError, ValueError):  # a name that no file can have
        pass
    return None, "which is not beside it"


def texture(mesh: Path, name: str, notes: list[Note]) -> np.ndarray | None:
    """The picture that a mesh file names, (H, W, 3) uint8; None, with a note, where it cannot be had."""
    path, reason = beside(mesh, name)
    if path is None:
        notes.append(Note(f"{mesh.name} names the texture '{name}', {reason}; the object is loaded without it"))
        return None
    if reason:
        notes.append(Note(f"{mesh.name} names the texture '{name}', {reason}", lost=False))
    return picture(path.read_bytes(), f"the texture '{name}'", mesh, notes)


def picture(data: bytes, what: str, mesh: Path, notes: list[Note]) -> np.ndarray | None:
    """An encoded picture as (H, W, 3) uint8, at most MAX_TEXTURE pixels wide and high; None, with a note, if it is broken.

    Raises:
        ValueError: more pixels than the limit.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with limits.picture(io.BytesIO(data), f"{what} of {mesh}") as opened:
            image: Any = opened.copy()
    except limits.TooMuch:
        raise
    except Exception as error:  # Pillow's decoders raise anything on broken files
        why = "no picture, or cut short" if isinstance(error, UnidentifiedImageError) else error
        notes.append(Note(f"{mesh.name}: {what} cannot be read ({why}); the object is loaded without it"))
        return None
    if image.mode.startswith("I") or image.mode == "F":  # 16 bit grey
        grey = np.asarray(image, np.float64)
        image = Image.fromarray((grey / (257 if grey.max() > 255 else 1)).clip(0, 255).astype(np.uint8))
    image = image.convert("RGB")
    if max(image.size) > MAX_TEXTURE:
        image.thumbnail((MAX_TEXTURE, MAX_TEXTURE), Image.Resampling.BOX)
    return np.asarray(image, np.uint8)
