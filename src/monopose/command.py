"""What the command line understands: a dataclass per command. Nothing here imports anything heavy, so that `--help` comes at
once; `heeded.py` knows which kinds of work heed which options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from tyro.conf import Positional, arg

from .io.files import atomic_write

if TYPE_CHECKING:
    from PIL import Image

    from .types import Detections, Frame

_Path = Annotated[Path | None, arg(metavar="PATH")]
_Float = Annotated[float | None, arg(metavar="FLOAT")]
_Int = Annotated[int | None, arg(metavar="INT")]
_Unit = Annotated[Literal["m", "cm", "mm", "inch"] | None, arg(metavar="{m,cm,mm,inch}")]
_Device = Annotated[str | None, arg(metavar="cpu|cuda|cuda:N")]


@dataclass(kw_only=True)
class Common:
    json: bool = False
    """Print the result as JSON, for programs."""
    debug: bool = False
    """Show the traceback of an error."""


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
    unit: _Unit = None
    """Unit of the numbers in the mesh files; needed for all but GLB and glTF."""
    camera: _Path = None
    """Camera file to check photos against."""
    out: Path = Path("out/check")
    """Folder for the pictures."""


@dataclass(kw_only=True)
class Synth(Common):
    """Make a complete BOP folder of rendered pictures from CAD models; or, with --pix3d, one in Pix3D's layout; or, with
    --road, roads with boxes in 3D, in KITTI's layout and with an infos.json in nuScenes' axes."""

    models: Positional[tuple[Path, ...]] = ()
    """Mesh files, or one BOP models folder (which brings unit and symmetries). With --pix3d: mesh files with +Z up and their
    front towards -Y, or folders of them named by category; none: furniture."""
    out: Path
    """Folder to make."""
    images: _Int = None
    """How many pictures, 2000 by default, 1000 with --road; with --pix3d of each shape, 40 by default."""
    backgrounds: _Path = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    seed: int = 0
    """The same seed gives the same pictures."""
    unit: _Unit = None
    """Unit of the numbers in the mesh files; needed for all but GLB and glTF."""

    # BOP folders

    camera: _Path = None
    """Camera file (BOP or MegaPose JSON, ROS YAML); otherwise 640x480 pixels with 60 degrees of view."""
    propose_symmetries: bool = False
    """Take the symmetries that `monopose check` proposes for mesh files; look at them there first. Without it those already in
    OUT/models/models_info.json stay."""
    split: str = "train"
    """Name of the split, a folder in OUT. Further ones for the same models, such as test, take another seed."""
    upright: bool = False
    """The objects always stand with +Z up, on a table seen from around and above."""
    elevation_deg: tuple[float, float] = (-10.0, 90.0)
    """Lowest and highest camera elevation above the table, degrees."""
    distance: tuple[float, float] | None = None
    """Nearest and farthest object, metres; fitted to objects and camera by default."""

    # Pix3D's layout and roads

    pix3d: bool = False
    """Make a data set in Pix3D's layout, for viewpoints: one object in each picture, with its mask and aligned model."""
    road: bool = False
    """Make pictures of roads from vehicles, people and street furniture made in code, with boxes in 3D."""
    shapes: _Int = None
    """With --pix3d: pieces of furniture per category, 10 by default. With --road: shapes of each class, 24 by default."""
    workers: int = 2
    """With --pix3d and --road: processes that render."""
    category: str = "object"
    """With --pix3d: category of single mesh files."""
    size: Annotated[tuple[int, int], arg(metavar="H W")] = (160, 512)
    """With --road: height and width of the pictures, pixels."""
    first_shape: int = 0
    """With --road: number of the first shape; other numbers are other shapes, for validation."""


NOT_GIVEN = Path("-")  # an option that some methods need was not given


@dataclass(kw_only=True)
class Train(Common):
    """Train a method on the CAD models of a BOP folder; goes on where an earlier run in the same folder stopped.

    viewpoint, and normals, which predicts an input of it, learn from photos in Pix3D's layout, or from CAD models. box3d learns
    from pictures of roads with boxes in 3D, category from tableware made in code."""

    method: Positional[
        Literal["coordinates", "probabilistic", "refiner", "detector", "viewpoint", "normals", "box3d", "category"]
    ]
    """What to train. A run that predicts needs coordinates or probabilistic (EPro-PnP, best started from coordinates with
    --init), and a detector unless boxes are given to it."""
    data: Annotated[Path, arg(metavar="DIR")] = NOT_GIVEN
    """BOP folder with models/ (and camera.json), or a models folder. Not with category. viewpoint: also a folder in Pix3D's
    layout, or the word furniture. box3d: a KITTI or nuScenes folder, an infos.json, or the word road: synthetic ones, drawn on
    the fly."""
    out: _Path = None
    """Run folder, shared by the methods of one run; runs/NAME OF THE DATA by default."""
    init: _Path = None
    """Weights file of an earlier run to start from, of other objects perhaps; object-specific outputs start anew."""
    backgrounds: _Path = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    minutes: _Float = None
    """Wall-clock budget in minutes, pauses not counted; none: until all steps are done."""
    steps: int = 40_000
    """Most optimiser steps."""
    batch_size: int = 16
    """Samples per step and process."""
    lr: _Float = None
    """Peak learning rate; by default what suits the method and preset."""
    workers: int = 1
    """Processes that draw samples."""
    seed: int = 0
    """Of all randomness."""
    preset: str | None = None
    """Ready configuration. coordinates: unet (default), pix2pose (as published). probabilistic: unet (default);
    as published basic, reg, coord-init, no-model; small, large. refiner: medium (default), small, published. detector: small
    (default), maskrcnn. viewpoint: modern (default); as published combined, separate. normals:
    small (default), large. category: standard (default), tiny, small, large, published.
    box3d: small (default); as published basic, coord_regr, v2."""
    set: tuple[str, ...] = ()
    """Fields of the method's configuration, as NAME=VALUE with a JSON value: --set input_size=96 'backbone="resnet18"'."""

    # methods that learn CAD models; box3d heeds the split too

    objects: tuple[int, ...] = ()
    """Object ids to learn; all by default."""
    split: str | None = None
    """Learn from the pictures of this split of the data (train, train_pbr); otherwise scenes are drawn on the fly. box3d: a
    file of names, one per line: pictures (KITTI's ImageSets/train.txt) or scenes of nuScenes; all by default."""
    upright: bool = False
    """The objects always stand with +Z up, on a table seen from around and above: much easier to learn."""
    elevation_deg: tuple[float, float] = (-10.0, 90.0)
    """Lowest and highest camera elevation above the table, degrees."""
    distance: tuple[float, float] | None = None
    """Nearest and farthest object, metres; fitted to objects and camera by default."""
    render: Literal["workers", "device"] | None = None
    """Where crops of known objects are drawn: by the workers, or by the GPU that learns from them, which is the default where
    there is one."""

    # viewpoint, normals; box3d heeds the categories too

    categories: tuple[str, ...] = ()
    """viewpoint: categories to learn; box3d: classes, e.g. car pedestrian; all by default."""
    epochs: _Float = None
    """viewpoint: passes over the photos, in place of --steps; by default as the preset says (25)."""
    by: Literal["image", "shape"] = "image"
    """viewpoint: what is left out for validation: a tenth of the photos, or of the CAD models with all their photos."""
    inputs: Annotated[Literal["rgb", "mask", "boundaries", "normals"] | None, arg(metavar="{rgb,mask,boundaries,normals}")] = (
        None
    )
    """viewpoint: the last input it sees, those before it come with it; normals by default."""
    normals: str = "oracle"
    """viewpoint: where normals of photos come from: oracle (rendered from the aligned CAD model), files, none, or a run folder
    with normals.safetensors."""

    # category

    category: Annotated[Literal["mug", "bottle", "bowl", "can"] | None, arg(metavar="{mug,bottle,bowl,can}")] = None
    """category: what to learn; the run folder is runs/category_NAME by default."""
    instances: _Int = None
    """category: shapes of it to learn from; 400 by default."""


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
    backgrounds: _Path = None
    """Folder of photos to put behind the objects, as for training; procedural ones otherwise."""
    seed: int = 90_210
    """Of the scenes; apart from all that training draws."""
    targets: _Path = None
    """Targets file of photos of the data set, in its folder test, to report on as well. Nothing is fitted to them."""
    out: _Path = None
    """File for the reliability diagrams before and after (PNG)."""
    device: _Device = None
    """Where the networks run; by default on the GPU if there is one."""


@dataclass(kw_only=True)
class Predict(Common):
    """Poses of the objects in pictures, or in a whole BOP split; metres, OpenCV camera axes (x right, y down, z forward).

    With a viewpoint run: azimuth, elevation and in-plane rotation in degrees, of objects in boxes or masks. With a box3d run:
    boxes in 3D of what is on a road. With a category run: poses of objects in masks, by fitting a generator of pictures."""

    source: Annotated[Positional[str | None], arg(metavar="SOURCE")] = None
    """Image, folder of images, video, or camera number. Not with --bop or --pix3d. With a box3d run also a KITTI folder, a
    nuScenes folder or an infos.json, which know their cameras."""
    model: str
    """Run folder, or the name of bundled weights."""
    camera: _Path = None
    """Camera file: BOP JSON, MegaPose JSON, ROS camera_info YAML, BOP scene_camera.json."""
    fov: _Float = None
    """Instead of a camera file: horizontal field of view, degrees."""
    resize_camera: bool = False
    """The pictures are resized whole pictures of the camera: scale its K to them."""
    boxes: tuple[str, ...] = ()
    """Boxes in place of the detector: x0,y0,x1,y1 or ID:x0,y0,x1,y1 in pixels, or one COCO, BOP or MegaPose JSON file."""
    score: _Float = None
    """Least score of the detector, from 0 to 1; 0.2 by default. Lower finds more and takes longer, which AP rewards. box3d
    runs: least score of what is drawn; files hold more."""
    looks: Annotated[Literal[1, 2, 6] | None, arg(metavar="{1,2,6}")] = None
    """How often the detector looks: 1 at the picture, 2 in the mirror as well, 6 at four enlarged quarters as well. 6 by
    default, which finds more; 1 is faster."""
    device: _Device = None
    """Where the networks run; by default on the GPU if there is one."""
    limit: _Int = None
    """Stop after this many pictures."""
    out: Annotated[Path | None, arg(aliases=("--save",), metavar="PATH")] = None
    """Folder for overlays, poses.json and a BOP CSV, out/predict by default. With --bop the CSV file,
    METHOD_DATASET-SPLIT.csv."""
    debug: bool = False
    """Save every stage as a picture in OUT/debug, and show the traceback of an error."""

    # runs that know CAD models

    bop: _Path = None
    """BOP data set to run on, in place of a source."""
    targets: _Path = None
    """Targets file of the BOP data set; test_targets_bop19.json by default."""
    true_boxes: bool = False
    """With --bop: the true amodal boxes in place of the detector, an oracle for tables."""
    posterior: bool = False
    """Save the distribution of every object's pose as pictures in OUT/posterior/PICTURE; needs a probabilistic run."""
    refine: bool = False
    """Refine the poses in the end, or stop if that cannot be done. By default they are refined if the run has a refiner."""
    no_refine: bool = False
    """Leave the poses unrefined."""

    # viewpoint and category runs

    mask: _Path = None
    """Viewpoint and category runs: picture of the object's mask, white where it is; its box is taken where none is given.
    Category runs: or a number for each object."""
    size_m: Annotated[tuple[float, float, float] | None, arg(metavar="W D H")] = None
    """Viewpoint and category runs: width, depth and height of the object in metres; with a camera they give poses. By default
    a category run takes what is usual in the category."""

    # viewpoint runs

    mesh: _Path = None
    """Viewpoint runs: CAD model in place of --size-m; +Z up, front towards -Y. Its silhouette is drawn."""
    unit: _Unit = None
    """Unit of --mesh."""
    pix3d: _Path = None
    """Viewpoint runs: data set in Pix3D's layout to run on, in place of a source; --out is a file, predictions.json."""
    by: Annotated[Literal["image", "shape", "all"] | None, arg(metavar="{image,shape,all}")] = None
    """With --pix3d: whose validation part to run on; by default that which the training left out. all: every picture."""
    corrupt: Annotated[str | None, arg(metavar="KIND:STRENGTH")] = None
    """With --pix3d: make the masks worse: dilate, erode, shift, holes or drop, and how much, e.g. dilate:0.1."""
    normals: Annotated[Literal["oracle", "files", "predicted"] | None, arg(metavar="{oracle,files,predicted}")] = None
    """With --pix3d: where normals come from; by default as in training."""

    # category runs

    search: Annotated[Literal["default", "published", "quick"] | None, arg(metavar="{default,published,quick}")] = None
    """Category runs: how to search for the pose; published: 32 starts, 50 steps each."""
    nocs: _Path = None
    """Category runs: folder in the layout of REAL275 or CAMERA25 to run on, in place of a source, with its masks; scored by
    NOCS's protocol. --out is a file, out/nocs.json by default."""
    overlap: Annotated[Literal["oriented", "aligned", "nocs2019"] | None, arg(metavar="{oriented,aligned,nocs2019}")] = None
    """With --nocs: which 3D IoU; oriented by default. nocs2019: the original's, which is wrong, for old tables."""

    # box3d runs

    views: tuple[Literal["2d", "3d", "bev", "points", "orientation", "score"], ...] = ("3d", "bev")
    """box3d runs: pictures to save: boxes in the photo, in 3D, from above with the pose distributions; the points that decide,
    with their weights; distributions of headings; where the network sees centres."""
    split: _Path = None
    """box3d runs on a data set: file of names, one per line: pictures of KITTI or scenes of nuScenes; all by default."""
    flip: bool = False
    """box3d runs: look at the mirrored picture too, and let both decide together. Takes twice as long."""


@dataclass(kw_only=True)
class Refine(Common):
    """Refine the poses of a BOP result file by rendering and comparing; every row stays in its place, with its score. Rows that
    cannot be refined keep their pose and are counted. Goes on where a killed run stopped."""

    results: Positional[Path]
    """Result file with the initial poses, METHOD_DATASET-SPLIT.csv."""
    bop: Path
    """BOP data set with the pictures and models/."""
    model: str
    """Run folder with refiner.safetensors, trained on these objects; others are refined as far as it can."""
    out: Path
    """Result file to write, METHOD_DATASET-SPLIT.csv of the same data set and split."""
    targets: _Path = None
    """Refine only in the pictures of this targets file; in all by default."""
    hypotheses: int = 0
    """So many further starts for every pose, drawn around it (20 degrees per axis, 5 percent of the diameter); the best of all
    results is taken. Takes as many times longer."""
    outer: _Int = None
    """Renderings per pose; as trained by default."""
    inner: _Int = None
    """Steps per rendering; as trained by default."""
    device: _Device = None
    """Where the network runs; by default on the GPU if there is one."""
    debug: bool = False
    """Save the iterations of every object as pictures in the folder debug beside OUT, and show the traceback of an error."""


@dataclass(kw_only=True)
class Evaluate(Common):
    """Score a BOP result file: AR (BOP'19), AP (BOP'24), ADD(-S) and its AUC, n degrees n cm; or as the LINEMOD papers do. A
    table in percent; fractions with --json. Viewpoints: a predictions.json against a data set in Pix3D's layout. Boxes on
    roads: a folder of KITTI files by KITTI's protocol, a results_nusc.json by nuScenes'."""

    results: Positional[Path]
    """Result file, METHOD_DATASET-SPLIT.csv; predictions.json with viewpoints; results_nusc.json, or a folder of KITTI files,
    with boxes on roads."""
    data: Path
    """BOP folder with the models and the truth; for viewpoints the folder with pix3d.json; for boxes on roads a KITTI or
    nuScenes folder, or an infos.json."""

    # BOP result files

    targets: _Path = None
    """Targets file; test_targets_bop19.json of the data set by default."""
    protocol: Literal["bop", "classic"] = "bop"
    """classic: the best estimate of each object that is known to be there; ADD(-S) by BOP's and by LINEMOD's diameters, n
    degrees n cm, 2D projection in pixels, AUC."""
    vsd: bool = False
    """VSD too; needs depth pictures and takes minutes. Not with the classic protocol."""
    flip_eggbox: bool = False
    """Classic protocol on LINEMOD: turn the eggbox by 180 degrees where its rotation is off by more than 90, as the code of
    CDPN and EPro-PnP does."""
    reliability: _Path = None
    """Also compare scores with the share of poses that are right (MSSD below 0.1 of the diameter), and draw the diagram
    here (PNG)."""

    # viewpoints

    out: _Path = None
    """Viewpoints: folder for pictures: confusion matrices, the worst mistakes."""
    bins: Annotated[Literal["published", "centred"] | None, arg(metavar="{published,centred}")] = None
    """Viewpoints: judge the angles in these bins; by default in those of the predictions."""

    # boxes on roads

    split: _Path = None
    """Boxes on roads: file with the names of pictures or scenes, one per line; all by default."""


@dataclass(kw_only=True)
class Download(Common):
    """Fetch a public data set: resumed, checked, unpacked whole or not at all."""

    name: Positional[str]
    """Its name: pix3d, lmo, ycbv, tless, real275, camera25."""
    out: Path = Path("data")
    """Folder to make the data set's folder in."""
    url: str | None = None
    """Fetch from elsewhere: address of the ZIP file, or of the folder with the ZIP files."""


@dataclass(kw_only=True)
class FitIdentity(Common):
    """The EPro-PnP demonstration: a network learns correspondences from poses alone, through the pose distribution; prints the
    errors and draws posteriors. Goes on where an earlier run in the same folder stopped."""

    out: Path = Path("out/fit_identity")
    """Folder for checkpoint, report and pictures."""
    steps: _Int = None
    """Stop after this many steps; 2560 by default, ten epochs. A later call goes on from there."""
    seed: int = 0
    """Of all randomness."""
    pictures: int = 4
    """Of how many test poses the posterior is drawn."""
    device: _Device = None
    """Where to compute; by default on the CPU, which suffices."""


@dataclass(kw_only=True)
class Doctor(Common):
    """Versions, accelerators, cores, memory and disk, and what is wrong with them."""


# ------------------------------------------------------------------------------- what several kinds of training ask


def schedule(args: Train) -> dict[str, Any]:
    """How long and how training goes, as `training.loop.TrainConfig` takes it."""
    return {name: getattr(args, name) for name in ("minutes", "steps", "batch_size", "lr", "workers", "seed")}


def run_folder(args: Train) -> Path:
    """Where a training leaves its run."""
    return args.out or Path("runs") / (f"category_{args.category}" if args.category else args.data.resolve().name)


def overrides(items: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE with a JSON value; bare words are text."""
    values: dict[str, Any] = {}
    for item in items:
        name, found, text = item.partition("=")
        if not found:
            raise ValueError(f"--set expects NAME=VALUE, got {item!r}")
        try:
            values[name.replace("-", "_")] = json.loads(text)
        except json.JSONDecodeError:
            values[name.replace("-", "_")] = text
    return values


DRAWN_FOV = 50.0  # horizontal field of view in degrees that pictures get whose camera is not known
Printer = Callable[[str], None]
_Saved = TypeVar("_Saved")


@dataclass(frozen=True)
class Result:
    """What a command did.

    Args:
        data: for programs, in plain values; "stopped" in it says that somebody interrupted the command.
        words: the same for people, without what was said in between.
    """

    data: dict[str, Any]
    words: str

    def as_dict(self) -> dict[str, Any]:
        return self.data

    def text(self) -> str:
        return self.words


def silent(line: str) -> None:
    """Say nothing."""


def frames(
    source: str, camera: str | Path | None, fov_deg: float | None, resize_camera: bool
) -> Iterator[tuple[str, Frame]]:  # fmt: skip
    """`images.iterate_frames`, but a camera that is not known gets the usual field of view."""
    from .io.images import iterate_frames

    known = camera is not None or fov_deg is not None
    return iterate_frames(source, camera, fov_deg=fov_deg if known else DRAWN_FOV, resize_camera=resize_camera)


def each_picture(
    pictures: Iterable[tuple[str, Frame]], one: Callable[[str, Frame], tuple[dict[str, Any], Sequence[str]]],
    save: Callable[[list[dict[str, Any]]], _Saved], limit: int | None = None, say: Printer = silent,
) -> tuple[_Saved, list[dict[str, Any]], bool]:  # fmt: skip
    """Look at picture after picture. What came before an interruption, or before a broken picture, is kept.

    Args:
        pictures: names and frames.
        one: looks at a picture; returns its record and what to say of it, line by line.
        save: writes the records of all.
        limit: stop after this many pictures.
        say: takes each line as soon as it is known.

    Returns:
        what `save` returned, the records, and whether somebody interrupted, which is the way to end a live camera.
    """
    records: list[dict[str, Any]] = []
    stopped = False
    try:
        for name, frame in pictures:
            record, lines = one(name, frame)
            records.append(record)
            for line in lines:
                say(line)
            if limit is not None and len(records) >= limit:
                break
    except KeyboardInterrupt:
        stopped = True
    except Exception:
        if records:
            save(records)
        raise
    return save(records), records, stopped


def boxes_of_anything(boxes: Sequence[str]) -> Callable[[str], Detections]:
    """`io.boxes.read_boxes` where any object is an object: its number means nothing."""
    from .io.boxes import read_boxes

    file = len(boxes) == 1 and Path(boxes[0]).suffix.lower() == ".json"
    return read_boxes(boxes, range(100_000) if file else (1,))


def check_mask(mask_size: Sequence[int], name: str, image_size: Sequence[int]) -> None:
    """ValueError if a mask is of another (height, width) than the picture of that name."""
    if tuple(mask_size) != tuple(image_size):
        (height, width), (h, w) = mask_size, image_size
        raise ValueError(
            f"the mask is {width} x {height} pixels (width x height), {name} is {w} x {h}; it must belong to the same picture"
        )


def save_picture(path: Path, picture: Image.Image) -> Path:
    """Write a PNG whole or not at all."""
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
    return path
