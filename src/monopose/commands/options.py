"""The options of the commands that belong to no family."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..command import CameraOptions, Common, Device, Flag, MaybeInt, MaybeName, MaybePath, Unit, check_share


@dataclass(kw_only=True)
class Demo(Common):
    """Estimate poses on bundled pictures with bundled weights, offline; prints the errors and saves the overlay."""

    out: Path = Path("out/demo")
    """Folder for the pictures."""


@dataclass(kw_only=True)
class Check(Common):
    """Look at a mesh (size, origin, holes, symmetry proposals, a picture), a BOP folder, or a photo and its camera."""

    paths: Positional[tuple[Path, ...]]
    """Mesh files (PLY, OBJ, STL, OFF, GLB), BOP folders, photos (with --camera)."""
    unit: Unit = None
    """Unit of the numbers in the mesh files; needed for all but GLB and glTF."""
    camera: MaybePath = None
    """Camera file to check photos against."""
    out: Path = Path("out/check")
    """Folder for the pictures."""


@dataclass(kw_only=True)
class MakeCamera(Common):
    """Make a camera file from photos of a checkerboard or ChArUco board, with pictures of how well the photos cover it; or from
    the camera file of another program (--from)."""

    photos: Positional[tuple[str, ...]] = ()
    """Photos of the board, folders of them, a video, or the number of a live camera (Ctrl-C ends)."""
    checkerboard: Annotated[tuple[int, int] | None, arg(metavar="COLUMNS ROWS", help_behavior_hint="")] = None
    """It is a checkerboard with so many inner corners."""
    charuco: Annotated[tuple[int, int] | None, arg(metavar="COLUMNS ROWS", help_behavior_hint="")] = None
    """It is a ChArUco board with so many squares; which markers it has is seen."""
    marker: float = 0.75
    """Side of a marker / side of a square, of a ChArUco board."""
    source: Annotated[Path | None, arg(name="from", metavar="FILE", help_behavior_hint="")] = None
    """Instead of photos, a camera file: BOP, MegaPose, ROS, OpenCV, COLMAP cameras.txt, Kalibr camchain, cam_K.txt."""
    size: Annotated[tuple[int, int] | None, arg(metavar="WIDTH HEIGHT", help_behavior_hint="")] = None
    """Of the pictures, pixels, where the file of --from does not tell it."""
    number: MaybeInt = None
    """Which camera or picture, where the file of --from holds several."""
    out: Path = Path("camera.json")
    """File to write."""

    def check(self) -> None:
        if (self.source is None) == (not self.photos):
            raise ValueError("give either photos of a board or --from FILE, a camera file of another program")
        if self.source is None and (self.checkerboard is None) == (self.charuco is None):
            raise ValueError(
                "say what the photos show: --checkerboard COLUMNS ROWS (inner corners) or --charuco COLUMNS ROWS (squares)"
            )
        least = 3 if self.checkerboard else 2
        if min(self.checkerboard or self.charuco or (least,)) < least:
            raise ValueError(f"a board has at least {least} columns and {least} rows, got {self.checkerboard or self.charuco}")
        if not 0.1 <= self.marker < 1:
            raise ValueError(f"--marker is the side of a marker / the side of a square, below 1, got {self.marker:g}")


@dataclass(kw_only=True)
class Download(Common):
    """Fetch a public data set: resumed, checked, unpacked whole or not at all."""

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """Its name: pix3d, lm, lmo, ycbv, tless, real275, camera25. Or org/name of a run on the Hugging Face hub, anew."""
    parts: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Which parts of a BOP set: models, test, test_all, train_pbr (a wrong name lists them all). By default models and test."""
    out: Path = Path("data")
    """Folder to make the data set's folder in."""
    url: MaybeName = None
    """Fetch from elsewhere: address of the ZIP file, or of the folder with the ZIP files."""


@dataclass(kw_only=True)
class Push(Common):
    """Copy a run to the Hugging Face hub, with a card made from it; monopose.load("org/name") opens it anywhere. Log in first:
    hf auth login."""

    run: Positional[Path]
    """Run folder: weights, objects/, calibration; nothing else of it is copied."""
    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """Repository, org/name; made if it is not there."""
    license: str
    """Of weights and CAD models, as the hub calls it: apache-2.0, cc-by-nc-4.0, other."""
    private: Flag = False
    """Make the repository private."""


@dataclass(kw_only=True)
class View(Common):
    """A page on this machine: a run's poses of a photo in 3D, with other hypotheses and every stage; its tracks of a video or
    a live camera; or the symmetry axes of a mesh, to be accepted or refused (pip install 'monopose[view]')."""

    source: Positional[Annotated[str, arg(metavar="RUN|MESH")]]
    """A run of known objects, or a mesh file."""
    photo: Positional[Annotated[str | None, arg(metavar="PHOTO|VIDEO", help_behavior_hint="")]] = None
    """The first photo, others are uploaded in the page; or a video, folder of pictures, camera number or address of a live
    video, which is tracked, to be played and scrubbed while it comes."""
    tracks: MaybePath = None
    """tracks.jsonl of `monopose track`, to be shown with its video in place of new tracks."""
    camera: CameraOptions = field(default_factory=CameraOptions)
    models: MaybePath = None
    """Folder with the CAD models, for a run that comes without."""
    unit: Unit = None
    """Unit of the numbers in the mesh file."""
    out: MaybePath = None
    """For a mesh: models_info.json to write to; beside the mesh by default."""
    device: Device = None
    """Where the networks run; by default on the GPU if there is one."""
    host: str = "127.0.0.1"
    """Address to listen at; others than this machine's let everybody in who reaches it."""
    port: int = 8080
    """Port; the next free one if it is taken."""

    def check(self) -> None:
        if self.port > 65535:
            raise ValueError(f"--port is a number from 0 to 65535, got {self.port}")


@dataclass(kw_only=True)
class Merge(Common):
    """Put the shards of synth, predict, calibrate or evaluate together, or say which are missing. Computes nothing anew."""

    out: Positional[Path]
    """What the shards were given: --out of synth and predict, the run of calibrate, the results of evaluate."""


@dataclass(kw_only=True)
class FitIdentity(Common):
    """The EPro-PnP demonstration: a network learns correspondences from poses alone, through the pose distribution; prints the
    errors and draws posteriors. Goes on where an earlier run in the same folder stopped."""

    out: Path = Path("out/fit_identity")
    """Folder for checkpoint, report and pictures."""
    steps: MaybeInt = None
    """Stop after this many steps; 2560 by default, ten epochs. A later call goes on from there."""
    seed: int = 0
    """Of all randomness."""
    pictures: int = 4
    """Of how many test poses the posterior is drawn."""
    device: Device = None
    """Where to compute; by default on the CPU, which suffices."""


@dataclass(kw_only=True)
class Convert(Common):
    """Make a BOP folder of LINEMOD in another layout, or a BOP result file of initial poses. Pictures are copied as they are;
    boxes of the original's detector become a file that predict --boxes takes."""

    layout: Positional[Literal["cdpn", "deepim", "poses"]]
    """cdpn: real_train, real_test, imgn, as CDPN and EPro-PnP-6DoF have it; deepim: RNNPose's EXPDATA, with DeepIM's
    LM6d_refine, LM6d_refine_syn and PVNet's fuse_formatted; poses: a file of PVNet's or PoseCNN's poses."""
    folder: Positional[Path]
    """The folder, or the file of poses (.npy, .pkl)."""
    models: MaybePath = None
    """BOP's CAD models of LINEMOD, lm/models; for folders."""
    pictures: MaybePath = None
    """Of which pictures the poses are: the original's .info file, or LM6d_refine."""
    frames: MaybePath = None
    """blender2bop_RT.npy, for PVNet's poses."""
    noise: Annotated[tuple[float, float] | None, arg(metavar="DEG M", help_behavior_hint="")] = None
    """Make the poses worse: standard deviations in degrees and metres, five times as many metres along the line of sight."""
    out: Path
    """BOP folder to make; of poses the result file METHOD_DATASET-test.csv."""

    def check(self) -> None:
        if self.layout == "poses" and (self.pictures is None or self.models is not None):
            raise ValueError("convert poses needs --pictures, and no --models")
        if self.layout != "poses" and (self.models is None or any((self.pictures, self.frames, self.noise))):
            raise ValueError(f"convert {self.layout} needs --models, and neither --pictures nor --frames nor --noise")


@dataclass(kw_only=True)
class ConvertWeights(Common):
    """Make weights of the original systems into those of this package. Every name in the file is used, or listed as of no use
    here; nothing in it is run."""

    kind: Positional[Literal["epropnp-6dof", "epropnp-det", "pix2pose", "rnnpose"]]
    """epropnp-6dof: EPro-PnP-6DoF (v1, v1b, v2) and CDPN's first stage, whole; epropnp-det: encoder and pyramid, for train
    box3d --init; pix2pose: the network of one object, whole (pip install 'monopose[keras]'); rnnpose: says why not."""
    file: Positional[Path]
    """The original's file: .pth, .hdf5, .tckpt."""
    out: Path
    """Run folder to make; of epropnp-det the .safetensors file to write."""
    models: MaybePath = None
    """For epropnp-6dof: BOP's CAD models of LINEMOD, lm/models; for pix2pose those of its data set."""
    object: MaybeInt = None
    """For pix2pose: number of the object, as that of its folder in pix2pose_weights."""


@dataclass(kw_only=True)
class MakeTargets(Common):
    """Write the targets file of a BOP split: which objects are to be found in which picture, and how many of each."""

    split: Positional[Path]
    """Split folder with scene_gt.json in its scenes, e.g. lm/test."""
    out: Path
    """Targets file to write, e.g. lm/test_targets_bop19.json."""
    min_visibility: float = 0.1
    """Least visible share of an instance, from 0 to 1, where scene_gt_info.json tells it."""

    def check(self) -> None:
        check_share(self.min_visibility, "min-visibility")


@dataclass(kw_only=True)
class Export(Common):
    """Write the networks of a run as ONNX, with what goes in and comes out of them, and a program that needs neither torch nor
    monopose (pip install 'monopose[onnx]')."""

    run: Positional[Annotated[str, arg(metavar="RUN")]]
    """Run folder, or the name of bundled weights."""
    out: MaybePath = None
    """Folder for the files; RUN/onnx by default."""


@dataclass(kw_only=True)
class Reproduce(Common):
    """A table of one of the five systems' papers: what to download, and how long it takes; with --data all of its steps, and
    its numbers beside the published ones. Goes on where it stopped."""

    name: Positional[Literal["linemod", "lmo", "nuscenes", "pix3d", "real275"]]
    """linemod: EPro-PnP-6DoF; lmo: RNNPose from PVNet's poses; nuscenes: EPro-PnP-Det; pix3d: viewpoints; real275:
    categories."""
    data: MaybePath = None
    """The data set's folder, as downloaded. None: say what is needed."""
    out: MaybePath = None
    """Folder for all that is made; out/reproduce/NAME by default."""
    models: MaybePath = None
    """For linemod: BOP's CAD models, lm/models."""
    poses: MaybePath = None
    """For lmo: PVNet's poses as a result file, of monopose convert poses."""
    weights: MaybePath = None
    """For linemod: the original's weights (.pth), in place of training."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind objects in training."""
    quick: Flag = False
    """Small networks and two steps each: does the whole way work with these data?"""


@dataclass(kw_only=True)
class Doctor(Common):
    """Versions, accelerators, cores, memory and disk, and what is wrong with them."""

    warm_up: Flag = False
    """Compile the kernels now, so that nothing waits for them later; for images of containers."""
