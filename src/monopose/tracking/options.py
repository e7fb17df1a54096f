"""The options of `monopose track`, and of making and scoring videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..command import CameraOptions, Common, Device, Flag, MaybeFloat, MaybeInt, MaybeName, MaybePath, ShardOptions, Unit

RECORDING = "recording.jsonl"  # in a folder of --record
SAVE = Path("out/track")


@dataclass(kw_only=True)
class Track(Common):
    """Follow known objects through a video by their outlines: poses as JSON lines, trajectories, a video with outlines."""

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """Video, folder of pictures, camera number, address of a live video (rtsp://), or a folder that --record has made, which is
    then tracked again with the same result."""
    model: MaybeName = None
    """Run folder or bundled weights: finds the objects, and finds them again when they are lost."""
    mesh: Annotated[tuple[Path, ...], arg(help_behavior_hint="")] = ()
    """Mesh files, or one BOP models folder, in place of a run; then --start or --boxes is needed."""
    unit: Unit = None
    """Unit of the numbers in the mesh files."""
    start: MaybePath = None
    """JSON file with the poses of the first picture: cam_from_obj of every object, metres; or BOP's scene_gt.json."""
    boxes: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """In place of --start: a box around every object in the first picture, x0,y0,x1,y1 or ID:x0,y0,x1,y1 in pixels. The poses
    are searched for there, some seconds each; nothing is trained."""
    save: Path = SAVE
    """Folder for poses, trajectories and the video."""
    record: MaybePath = None
    """Folder to keep the pictures and the detector's answers in, so that the same tracks can be made again."""
    rrd: MaybePath = None
    """File for the rerun viewer (.rrd) with pictures, meshes and tracks, to play and scrub; needs the extra rerun."""
    smooth: int = 0
    """Smooth over so many pictures on either side; poses come as many pictures later. 0: as they are found."""
    window: Flag = False
    """Show the tracks as they come; needs a display, and an OpenCV with windows. Q ends it."""
    background: Flag = False
    """The detector looks in the background at files too, as it does at cameras: faster, but not the same every time."""
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
        if self.smooth < 0:
            raise ValueError(f"--smooth is a number of pictures, 0 or more, got {self.smooth}")
        recorded = (Path(self.source) / RECORDING).is_file()
        if self.start is not None and self.boxes:
            raise ValueError("--start and --boxes both say where the objects are in the first picture; give one of them")
        if self.boxes and recorded:
            raise ValueError(f"{self.source} is a recording, which has its start; leave out --boxes")
        if self.mesh and self.start is None and not self.boxes and not recorded:
            raise ValueError(
                "mesh files need a start: --boxes x0,y0,x1,y1 around every object in the first picture, or --start pose.json, "
                "its cam_from_obj there"
            )


@dataclass(kw_only=True)
class VideoOptions:
    """What happens in a video."""

    fps: float = 30.0
    """Pictures per second."""
    speed: float = 1.0
    """Of all motion; at 1 about 5 degrees and 10 mm a picture, for an object of 15 cm."""
    occlusion: float = 0.4
    """Most of an object that a hand hides, as a share; 0: no hand."""
    shutter: float = 0.4
    """Share of the time between two pictures that the shutter is open: motion blur."""
    light: float = 1.0
    """How much lamp and brightness change."""
    noise: float = 0.012
    """Standard deviation of a pixel, of 1."""
    away: float = 0.0
    """Seconds in the middle for which the objects leave the picture."""


@dataclass(kw_only=True)
class Synth(Common):
    """Make videos of CAD models with true poses: a BOP folder in which every video is a scene. The camera and the objects move,
    a hand comes in front, lamps change."""

    video: Flag = False
    """Chooses this kind of data set."""
    models: Positional[tuple[Path, ...]]
    """Mesh files, or one BOP models folder (which brings unit and symmetries)."""
    out: Path
    """Folder to make."""
    videos: int = 5
    """How many; the objects take turns."""
    frames: int = 120
    """Pictures of each."""
    together: int = 1
    """Objects in each."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    seed: int = 0
    """The same seed gives the same videos."""
    unit: Unit = None
    """Unit of the numbers in the mesh files; needed for all but GLB and glTF."""
    camera: MaybePath = None
    """Camera file; otherwise 640x480 pixels with 60 degrees of view."""
    split: str = "test"
    """Name of the split, a folder in OUT."""
    happens: VideoOptions = field(default_factory=VideoOptions)
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        self.share(self.sharing)


@dataclass(kw_only=True)
class Evaluate(Common):
    """Score the tracks of a video by its true poses: share within 5 cm and 5 degrees, AUC of ADD(-S), share tracked, precision
    and recall of the word "lost", how soon an object is found again. A table in percent; fractions with --json."""

    results: Positional[Path]
    """tracks.jsonl of `monopose track`."""
    data: Path
    """BOP scene folder whose pictures are the video, such as DATA/test/000000."""
    fps: MaybeFloat = None
    """Pictures per second; as video.json beside the scene says by default, else 30."""
