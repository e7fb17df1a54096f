"""The options of `monopose track`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..command import CameraOptions, Common, Device, MaybeInt, MaybeName, MaybePath, Unit


@dataclass(kw_only=True)
class Track(Common):
    """Follow known objects through a video by their outlines: poses as JSON lines, trajectories, a video with outlines."""

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """Video, folder of pictures, or camera number."""
    model: MaybeName = None
    """Run folder or bundled weights: finds the objects, and finds them again when they are lost."""
    mesh: tuple[Path, ...] = ()
    """Mesh files in place of a run; then --start is needed."""
    unit: Unit = None
    """Unit of the numbers in the mesh files."""
    start: MaybePath = None
    """JSON file with the poses of the first picture: cam_from_obj of every object, metres."""
    save: Path = Path("out/track")
    """Folder for poses, trajectories and the video."""
    limit: MaybeInt = None
    """Stop after this many pictures."""
    device: Device = None
    """Where the run's networks run; by default on the GPU if there is one."""
    cache: MaybePath = None
    """Folder in which contours of the meshes are kept; that of --save by default."""
    camera: CameraOptions = field(default_factory=CameraOptions)

    def check(self) -> None:
        if (self.model is None) == (not self.mesh):
            raise ValueError("give either a run (--model) or mesh files (--mesh), to say what is to be followed")
        if self.mesh and self.start is None:
            raise ValueError("mesh files need a start: --start pose.json, cam_from_obj of every object in the first picture")
