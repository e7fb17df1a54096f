"""What the commands take for boxes in 3D on roads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..command import (
    CameraOptions,
    Common,
    Flag,
    MaybeName,
    MaybePath,
    OutputOptions,
    ShardOptions,
    TrainCommand,
    check_share,
    check_shared,
    refuse,
)


def is_road_data(source: str | Path) -> bool:
    """Whether a source is a data set of roads, not pictures: KITTI, nuScenes or an `infos.json`."""
    path = Path(source)
    if path.suffix == ".json":
        return True
    return path.is_dir() and (
        (path / "infos.json").is_file() or (path / "image_2").is_dir() or any(path.glob("v1.0-*")) or path.name[:5] == "v1.0-"
    )


@dataclass(kw_only=True)
class Synth(Common):
    """Make pictures of roads from vehicles, people and street furniture made in code, with boxes in 3D: in KITTI's layout and
    with an infos.json in nuScenes' axes."""

    road: Flag = False
    """Chooses this kind of data set."""
    out: Path
    """Folder to make."""
    images: int = 1000
    """How many pictures."""
    size: Annotated[tuple[int, int], arg(metavar="H W")] = (160, 512)
    """Height and width of the pictures, pixels."""
    shapes: int = 24
    """Shapes of each class."""
    first_shape: int = 0
    """Number of the first shape; other numbers are other shapes, for validation."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind the roads; skies and patterns otherwise."""
    seed: int = 0
    """The same seed gives the same pictures."""
    workers: int = 2
    """Processes that render."""
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        self.share(self.sharing)


@dataclass(kw_only=True)
class Train(TrainCommand):
    """Train a network that finds boxes in 3D in pictures of roads; goes on where an earlier run in the same folder stopped."""

    method: Positional[Literal["box3d"]]
    """What to train."""
    data: Annotated[Path, arg(metavar="DIR")]
    """A KITTI or nuScenes folder, an infos.json, or the word road: synthetic ones, drawn on the fly."""
    init: MaybePath = None
    """Weights file of an earlier run to start from, of other classes perhaps; what belongs to one class starts anew."""
    split: MaybePath = None
    """File of names, one per line: pictures (KITTI's ImageSets/train.txt) or scenes of nuScenes; or an official part of
    nuScenes: train, val, trainval, test, mini_train, mini_val. All by default."""
    categories: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Classes to learn, e.g. car pedestrian; all by default."""
    preset: MaybeName = None
    """Ready configuration: small (default); as published basic, no_reproj, coord_regr, v1b_220312, v1b, v2,
    coord_regr_trainval, v2_trainval, with their optimiser, schedule and batch; what differs from the paper is printed."""


@dataclass(kw_only=True)
class Predict(Common):
    """Boxes in 3D of what is on a road, with their distributions: metres, radians, OpenCV camera axes."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Image, folder of images, video, camera number; or a KITTI folder, a nuScenes folder or an infos.json, which know their
    cameras."""
    model: str
    """Run folder."""
    views: tuple[Literal["2d", "3d", "bev", "points", "orientation", "score"], ...] = ("3d", "bev")
    """Pictures to save: boxes in the photo, in 3D, from above with the pose distributions; the points that decide, with their
    weights; distributions of headings; where the network sees centres."""
    score: float = 0.2
    """Least score of what is drawn, from 0 to 1; files hold more."""
    flip: Flag = False
    """Look at the mirrored picture too, and let both decide together. Takes twice as long."""
    split: MaybePath = None
    """With a data set: file of names, one per line, or an official part of nuScenes, as for training; all by default."""
    output: OutputOptions = field(default_factory=OutputOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        check_share(self.score, "score")
        shared = self.share(self.sharing) is not None or self.sharing.ray is not None
        if is_road_data(self.source):
            if shared:
                raise ValueError(f"--shard and --ray go with pictures; {self.source} is a data set, whose cameras see together")
            refuse(self.camera, f"goes with pictures; {self.source} is a data set that knows its cameras")
            return
        check_shared(self.sharing, self.source)
        if self.split is not None:
            raise ValueError(f"--split names pictures or scenes of a data set; {self.source} is none")
        if not self.camera.known:
            raise ValueError(
                "distances need the camera: give --camera K.json (fx, fy, cx, cy, width, height), or --fov DEGREES"
            )


@dataclass(kw_only=True)
class Evaluate(Common):
    """Score boxes on roads: a folder of KITTI files by KITTI's protocol, a results_nusc.json by nuScenes'."""

    results: Positional[Path]
    """results_nusc.json, or a folder of KITTI files."""
    data: Path
    """A KITTI or nuScenes folder, or an infos.json."""
    split: MaybePath = None
    """File with the names of pictures or scenes, one per line, or an official part of nuScenes, as for training."""
