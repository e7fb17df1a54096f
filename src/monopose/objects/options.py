"""What the commands take where objects are known by their CAD models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..command import (
    CameraOptions,
    Common,
    Device,
    Flag,
    MaybeFloat,
    MaybeInt,
    MaybeName,
    MaybePath,
    OutputOptions,
    RayOptions,
    ShardOptions,
    TrainCommand,
    Unit,
    check_share,
    check_shared,
    check_source,
    refuse,
)
from ..detection import LEAST_SCORE
from .sources import parse


@dataclass(kw_only=True)
class SceneOptions:
    """How rendered objects stand before the camera."""

    upright: Flag = False
    """The objects always stand with +Z up, on a table seen from around and above: much easier to learn."""
    elevation_deg: tuple[float, float] = (-10.0, 90.0)
    """Lowest and highest camera elevation above the table, degrees."""
    distance: Annotated[tuple[float, float] | None, arg(help_behavior_hint="")] = None
    """Nearest and farthest object, metres; fitted to objects and camera by default."""


@dataclass(kw_only=True)
class Synth(Common):
    """Make a complete BOP folder of rendered pictures from CAD models."""

    models: Positional[tuple[Path, ...]]
    """Mesh files, or one BOP models folder (which brings unit and symmetries)."""
    out: Path
    """Folder to make."""
    images: int = 2000
    """How many pictures."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    seed: int = 0
    """The same seed gives the same pictures."""
    unit: Unit = None
    """Unit of the numbers in the mesh files; needed for all but GLB and glTF."""
    camera: MaybePath = None
    """Camera file (BOP or MegaPose JSON, ROS YAML); otherwise 640x480 pixels with 60 degrees of view."""
    propose_symmetries: Flag = False
    """Take the symmetries that `monopose check` proposes for mesh files; look at them there first. Without it those already in
    OUT/models/models_info.json stay."""
    split: str = "train"
    """Name of the split, a folder in OUT. Further ones for the same models, such as test, take another seed."""
    scene: SceneOptions = field(default_factory=SceneOptions)
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        self.share(self.sharing)


@dataclass(kw_only=True)
class Train(TrainCommand):
    """Train a method on the CAD models of a BOP folder; goes on where an earlier run in the same folder stopped.

    A run that predicts needs coordinates or probabilistic (EPro-PnP, best started from coordinates with --init), and a detector
    unless boxes are given to it."""

    method: Positional[Literal["coordinates", "probabilistic", "refiner", "silhouettes", "detector"]]
    """What to train."""
    data: Annotated[tuple[str, ...], arg(metavar="DIR[:WEIGHT] ...")]
    """BOP folder with models/ (and camera.json), or a models folder: its objects are drawn on the fly; or a split of one, as
    lmo/train_pbr, whose pictures are read; or several of both, each as often as its weight says: lmo:1 lmo/train_pbr:3.
    SPLIT@LIST takes the pictures that a text file lists, one SCENE/IMAGE a line. Where masks are missing they are rendered."""
    init: Annotated[str | None, arg(metavar="base|none|PATH", help_behavior_hint="")] = None
    """What to start from: base, the weights of many objects that come with monopose; none, ImageNet alone; or the weights file
    of another run, of other objects perhaps. By default the base, if there is one that fits the method and its configuration.
    What belongs to single objects starts as the mean over those of the file."""
    objects: Annotated[tuple[int, ...], arg(help_behavior_hint="")] = ()
    """Object ids to learn; all by default."""
    split: MaybeName = None
    """Learn from the pictures of this split of the data (train, train_pbr), as --data DIR/SPLIT does."""
    preset: MaybeName = None
    """Ready configuration. coordinates: unet (default), pix2pose (as published). probabilistic: unet (default); as published
    basic, reg, coord-init, long (v1), v2, no-model (v2), coords (where three of them start); small, large. refiner: medium
    (default), small, published. silhouettes: unet. detector: small (default), maskrcnn. Published ones bring optimiser, rate,
    schedule, batch, crops and length; options come before that, and what differs from the paper is printed."""
    render: Annotated[Literal["workers", "device"] | None, arg(help_behavior_hint="")] = None
    """Where crops of known objects are drawn: by the workers, or by the GPU that learns from them, which is the default where
    there is one."""
    strict: Flag = False
    """Stop at a picture of a split that cannot be read. By default others come in its place, and it is listed in
    OUT/METHOD.unreadable.txt."""
    scene: SceneOptions = field(default_factory=SceneOptions)

    cluster: RayOptions = field(default_factory=RayOptions)

    def check(self) -> None:
        self.cluster.check()
        try:
            found = parse(self.data, self.split)
        except FileNotFoundError:
            return  # training says so
        if all(source.read for source in found):
            refuse(
                self.scene, f"belongs to objects that are drawn; {' '.join(self.data)} holds pictures, which stay as they are"
            )
            if self.render is not None:
                raise ValueError("--render belongs to objects that are drawn; the pictures of a split are read")


@dataclass(kw_only=True)
class TrainAll(Common):
    """Train all that a run needs in the right order under one budget (coordinates, detector, and a refiner where monopose comes
    with none), calibrate it, and say how good it is on renderings that it has not learned from. The same command goes on where
    it stopped, and on from a finished run if it is given more minutes."""

    method: Positional[Literal["all"]]
    """Everything."""
    data: Annotated[Path, arg(metavar="DIR|MESH")]
    """BOP folder with models/ (and camera.json), a models folder, or one mesh file."""
    out: MaybePath = None
    """Run folder; runs/NAME OF THE DATA by default."""
    minutes: float = 120.0
    """Wall-clock budget of all of it in minutes, pauses not counted."""
    objects: Annotated[tuple[int, ...], arg(help_behavior_hint="")] = ()
    """Object ids to learn; all by default."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    unit: Unit = None
    """Of a mesh file: unit of its numbers; needed for all but GLB and glTF."""
    camera: MaybePath = None
    """With a mesh file: camera file; otherwise 640x480 pixels with 60 degrees of view."""
    propose_symmetries: Flag = False
    """Of a mesh file: take the symmetries that `monopose check` proposes; look at them there first."""
    workers: MaybeInt = None
    """Processes that draw samples; one by default, on a GPU one per core."""
    seed: int = 0
    """Of all randomness."""
    scene: SceneOptions = field(default_factory=SceneOptions)

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / self.data.resolve().stem

    def check(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"--minutes must be above 0, got {self.minutes:g}")
        if self.data.is_dir() and (self.unit or self.camera or self.propose_symmetries):
            raise ValueError("--unit, --camera and --propose-symmetries belong to a mesh file; a folder says it all itself")


@dataclass(kw_only=True)
class Report(Common):
    """Is a run good enough? Renders scenes that it has not learned from, estimates the poses in them, and writes one HTML page:
    recall against error, what distance, size and occlusion do to it, what scores are worth, the worst poses as pictures, what
    more training would buy, what to try."""

    run: Annotated[Positional[Path], arg(metavar="RUN|MESH", help_behavior_hint="")]
    """Run folder. Or a mesh file, or a folder of CAD models: nothing is trained, poses are searched for in true boxes."""
    unit: Unit = None
    """Of a mesh file: unit of its numbers; needed for all but GLB and glTF."""
    camera: MaybePath = None
    """With a mesh file: camera file; otherwise 640x480 pixels with 60 degrees of view."""
    propose_symmetries: Flag = False
    """Of a mesh file: take the symmetries that `monopose check` proposes; look at them there first."""
    data: MaybePath = None
    """BOP folder with models/ (and camera.json), or a models folder; by default that of the training."""
    images: MaybeInt = None
    """How many scenes: 100 by default, 20 where poses are searched for. Where Blender can be imported (pip install
    'monopose[blender]') it draws them, 24 by default, as it takes ten to thirty seconds for each."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    seed: int = 55_055
    """Of the scenes; apart from all that training and calibration draw."""
    out: MaybePath = None
    """The page; report.html in the run folder by default, in out/report/NAME where nothing is trained."""
    device: Device = None
    """Where the networks run; by default on the GPU if there is one."""

    def check(self) -> None:
        if self.run.is_dir() and (self.unit or self.camera or self.propose_symmetries):
            raise ValueError("--unit, --camera and --propose-symmetries belong to a mesh file; a folder says it all itself")
        if self.run.is_file() and self.data is not None:
            raise ValueError("--data belongs to a run; a mesh file is all that is looked for")


@dataclass(kw_only=True)
class Calibrate(Common):
    """Learn on rendered scenes what a run's scores mean: afterwards they are probabilities that a pose is right (MSSD below 0.1
    of the diameter), and its covariances hold what they promise. Writes calibration.json into the run folder."""

    run: Positional[Path]
    """Run folder."""
    data: Path
    """BOP folder with models/ (and camera.json), or a models folder, as for training."""
    images: int = 200
    """How many scenes to render, made as those of the training."""
    backgrounds: MaybePath = None
    """Folder of photos to put behind the objects, as for training; procedural ones otherwise."""
    seed: int = 90_210
    """Of the scenes; apart from all that training draws."""
    targets: MaybePath = None
    """Targets file of photos of the data set, in its folder test, to report on as well. Nothing is fitted to them."""
    out: MaybePath = None
    """File for the reliability diagrams before and after (PNG)."""
    device: Device = None
    """Where the networks run; by default on the GPU if there is one."""
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        self.share(self.sharing)


@dataclass(kw_only=True)
class DetectorOptions:
    """How objects are found."""

    boxes: Annotated[tuple[str, ...], arg(help_behavior_hint="")] = ()
    """Boxes in place of the detector: x0,y0,x1,y1 or ID:x0,y0,x1,y1 in pixels, or one COCO, BOP or MegaPose JSON file."""
    score: float = LEAST_SCORE
    """Least score of the detector, from 0 to 1. Lower finds more and takes longer, which AP rewards."""
    looks: Literal[1, 2, 6] = 6
    """How often the detector looks: 1 at the picture, 2 in the mirror as well, 6 at four enlarged quarters as well. 6 finds
    more; 1 is faster."""


@dataclass(kw_only=True)
class BopOptions:
    """A whole BOP data set, in place of a SOURCE. --out is the result file, METHOD_DATASET-SPLIT.csv."""

    bop: MaybePath = None
    """BOP data set to run on."""
    targets: MaybePath = None
    """Its targets file; test_targets_bop19.json by default."""
    true_boxes: Flag = False
    """The true amodal boxes in place of the detector, an oracle for tables."""


@dataclass(kw_only=True)
class Predict(Common):
    """Poses of known objects in pictures, or in a whole BOP split; metres, OpenCV camera axes (x right, y down, z forward)."""

    source: Annotated[Positional[str | None], arg(metavar="SOURCE", help_behavior_hint="")] = None
    """Image, folder of images, video, or camera number; also tars (web data sets) or Parquet files with images. Not with
    --bop."""
    model: str
    """Run folder, or the name of bundled weights. A mesh file, or a folder of CAD models such as a data set's, needs no
    training: with --boxes their poses are searched for, some seconds each."""
    unit: Unit = None
    """Unit of the numbers in a mesh file."""
    refine: Flag = False
    """Refine the poses in the end, by the run's refiner or that of the base, or stop if that cannot be done. By default they
    are refined if the run has a refiner."""
    no_refine: Flag = False
    """Leave the poses unrefined."""
    min_probability: MaybeFloat = None
    """Least probability that a pose is right, from 0 to 1, of what is shown and written: 0.1 by default, for a calibrated run.
    The BOP CSV keeps all poses unless this is given; 0 leaves out only what cannot be."""
    models: MaybePath = None
    """Folder with the CAD models, for a run that comes without."""
    runtime: Annotated[Literal["torch", "onnx"] | None, arg(help_behavior_hint="")] = None
    """onnx: onnxruntime computes the networks on the CPU, from what monopose export MODEL has written, and that is done by
    default where these files are; torch: it does not."""
    posterior: Flag = False
    """Save the distribution of every object's pose as pictures in OUT/posterior/PICTURE; needs a probabilistic run and a
    SOURCE."""
    debug: Flag = False
    """Save every stage as a picture in OUT/debug, and show the traceback of an error."""
    output: OutputOptions = field(default_factory=OutputOptions)
    camera: CameraOptions = field(default_factory=CameraOptions)
    detector: DetectorOptions = field(default_factory=DetectorOptions)
    bop: BopOptions = field(default_factory=BopOptions)
    sharing: ShardOptions = field(default_factory=ShardOptions)

    def check(self) -> None:
        self.share(self.sharing)
        boxes, true_boxes = self.detector.boxes, self.bop.true_boxes
        check_source(self.source, self.bop.bop, "bop", self.detector.boxes)
        check_shared(self.sharing, self.source)
        check_share(self.detector.score, "score")
        check_share(self.min_probability, "min-probability")
        if self.bop.bop is None:
            refuse(self.bop, "belongs to --bop DIR")
        else:
            refuse(self.camera, "goes with a SOURCE, not with --bop: the data set knows its pictures and cameras")
            if self.posterior:
                raise ValueError("--posterior goes with a SOURCE, not with --bop")
            if len(boxes) > 1 or any("," in box for box in boxes):
                raise ValueError(f"with --bop, --boxes takes one BOP detections file, got {' '.join(boxes)}")
        if true_boxes and boxes:
            raise ValueError("--true-boxes and --boxes both replace the detector; give one of them")
        if true_boxes or boxes:
            found = DetectorOptions(score=self.detector.score, looks=self.detector.looks)
            refuse(found, "belongs to the detector, which --boxes and --true-boxes replace")
        if self.refine and self.no_refine:
            raise ValueError("--refine and --no-refine contradict each other; give one of them, or none")
        if self.bop.bop is not None and self.output.out is None:
            raise ValueError("--bop needs --out METHOD_DATASET-SPLIT.csv, e.g. --out monopose_lmo-test.csv")


@dataclass(kw_only=True)
class Refine(Common):
    """Refine the poses of a BOP result file by rendering and comparing; every row stays in its place, with its score. Rows that
    cannot be refined keep their pose and are counted. Goes on where a killed run stopped."""

    results: Positional[Path]
    """Result file with the initial poses, METHOD_DATASET-SPLIT.csv."""
    bop: Path
    """BOP data set with the pictures and models/."""
    model: str = "base"
    """Run folder with refiner.safetensors, trained on these objects; others are refined as far as it can. By default, and for
    a run without one, the refiner of the base, which is trained on many."""
    out: Path
    """Result file to write, METHOD_DATASET-SPLIT.csv of the same data set and split."""
    targets: MaybePath = None
    """Refine only in the pictures of this targets file; in all by default."""
    hypotheses: int = 0
    """So many further starts for every pose, drawn around it (20 degrees per axis, 5 percent of the diameter); the best of all
    results is taken. Takes as many times longer."""
    outer: MaybeInt = None
    """Renderings per pose; as trained by default."""
    inner: MaybeInt = None
    """Steps per rendering; as trained by default."""
    device: Device = None
    """Where the network runs; by default on the GPU if there is one."""
    debug: Flag = False
    """Save the iterations of every object as pictures in the folder debug beside OUT, and show the traceback of an error."""


@dataclass(kw_only=True)
class Evaluate(Common):
    """Score a BOP result file: AR (BOP'19), AP (BOP'24), ADD(-S) and its AUC, n degrees n cm; or as the LINEMOD papers do. A
    table in percent; fractions with --json."""

    results: Positional[Path]
    """Result file, METHOD_DATASET-SPLIT.csv."""
    data: Path
    """BOP folder with the models and the truth."""
    targets: MaybePath = None
    """Targets file; test_targets_bop19.json of the data set by default."""
    protocol: Literal["bop", "classic"] = "bop"
    """classic: the best estimate of each object that is known to be there; ADD(-S) by BOP's and by LINEMOD's diameters, n
    degrees n cm, 2D projection in pixels, AUC."""
    vsd: Flag = False
    """VSD too; needs depth pictures and takes minutes. Not with the classic protocol."""
    flip_eggbox: Flag = False
    """Classic protocol on LINEMOD: turn the eggbox by 180 degrees where its rotation is off by more than 90, as the code of
    CDPN and EPro-PnP does."""
    sharing: ShardOptions = field(default_factory=ShardOptions)
    reliability: MaybePath = None
    """Also compare scores with the share of poses that are right (MSSD below 0.1 of the diameter), and draw the diagram
    here (PNG)."""

    def check(self) -> None:
        if (self.share(self.sharing) is not None or self.sharing.ray is not None) and not self.vsd:
            raise ValueError("--shard and --ray go with --vsd, whose depth pictures take minutes; the rest takes seconds")
        if self.protocol == "classic" and self.vsd:
            raise ValueError("--vsd belongs to BOP's protocol, not to --protocol classic")
        if self.protocol == "bop" and self.flip_eggbox:
            raise ValueError("--flip-eggbox belongs to --protocol classic, not to BOP's protocol")
