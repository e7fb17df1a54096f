"""The command line. Sub-commands are dataclasses, so that `--help` imports nothing heavy; the work lies elsewhere.

Results go to standard output, everything else to standard error. Exit code 0: done; 1: an error, said in one line, or a
check that failed; 2: a wrong command line; 130: interrupted.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from .methods.probabilistic import Belief
    from .pipeline import Pipeline
    from .types import ObjectModel, PoseEstimates

Unit = Literal["m", "cm", "mm", "inch"]
_Path = Annotated[Path | None, arg(metavar="PATH")]
_Float = Annotated[float | None, arg(metavar="FLOAT")]
_Int = Annotated[int | None, arg(metavar="INT")]


@dataclass(kw_only=True)
class _Common:
    json: bool = False
    """Print the result as JSON, for programs."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(kw_only=True)
class Demo(_Common):
    """Estimate poses on bundled pictures with bundled weights, offline; prints the errors and saves the overlay."""

    out: Path = Path("out/demo")
    """Folder for the pictures."""


@dataclass(kw_only=True)
class Check(_Common):
    """Look at a mesh (size, origin, holes, symmetry proposals, a picture), a BOP folder, or a photo and its camera."""

    paths: Positional[tuple[Path, ...]]
    """Mesh files (PLY, OBJ, STL, OFF, GLB), BOP folders, photos (with --camera)."""
    unit: Annotated[Unit | None, arg(metavar="{m,cm,mm,inch}")] = None
    """Unit of the numbers in the mesh files; needed for all but GLB and glTF."""
    camera: _Path = None
    """Camera file to check photos against."""
    out: Path = Path("out/check")
    """Folder for the pictures."""


@dataclass(kw_only=True)
class Synth(_Common):
    """Make a complete BOP folder of rendered pictures from CAD models; or, with --pix3d, one in Pix3D's layout; or, with
    --road, roads with boxes in 3D, in KITTI's layout and with an infos.json in nuScenes' axes."""

    models: Positional[tuple[Path, ...]] = ()
    """Mesh files, or one BOP models folder (which brings unit and symmetries). With --pix3d: mesh files with +Z up and their
    front towards -Y, or folders of them named by category; none: furniture."""
    out: Path
    """Folder to make."""
    pix3d: bool = False
    """Make a data set in Pix3D's layout, for viewpoints: one object in each picture, with its mask and aligned model."""
    road: bool = False
    """Make pictures of roads from vehicles, people and street furniture made in code, with boxes in 3D."""
    size: Annotated[tuple[int, int], arg(metavar="H W")] = (160, 512)
    """With --road: height and width of the pictures, pixels."""
    shapes: _Int = None
    """With --pix3d: pieces of furniture per category, 10 by default. With --road: shapes of each class, 24 by default."""
    first_shape: int = 0
    """With --road: number of the first shape; other numbers are other shapes, for validation."""
    category: str = "object"
    """With --pix3d: category of single mesh files."""
    workers: int = 2
    """With --pix3d and --road: processes that render."""
    unit: Annotated[Unit | None, arg(metavar="{m,cm,mm,inch}")] = None
    """Unit of the numbers in the mesh files; needed for all but GLB and glTF."""
    images: _Int = None
    """How many pictures, 2000 by default, 1000 with --road; with --pix3d of each shape, 40 by default."""
    backgrounds: _Path = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    camera: _Path = None
    """Camera file (BOP or MegaPose JSON, ROS YAML); otherwise 640x480 pixels with 60 degrees of view."""
    propose_symmetries: bool = False
    """Take the symmetries that `monopose check` proposes for mesh files; look at them there first. Without it those already in
    OUT/models/models_info.json stay."""
    seed: int = 0
    """The same seed gives the same pictures."""
    split: str = "train"
    """Name of the split, a folder in OUT. Further ones for the same models, such as test, take another seed."""
    upright: bool = False
    """The objects always stand with +Z up, on a table seen from around and above."""
    elevation_deg: tuple[float, float] = (-10.0, 90.0)
    """Lowest and highest camera elevation above the table, degrees."""
    distance: tuple[float, float] | None = None
    """Nearest and farthest object, metres; fitted to objects and camera by default."""


_UNSAID = Path("-")  # an option that some methods need was not given


@dataclass(kw_only=True)
class Train(_Common):
    """Train a method on the CAD models of a BOP folder; goes on where an earlier run in the same folder stopped.

    viewpoint, and normals, which predicts an input of it, learn from photos in Pix3D's layout, or from CAD models. box3d learns
    from pictures of roads with boxes in 3D, category from tableware made in code."""

    method: Positional[
        Literal["coordinates", "probabilistic", "refiner", "detector", "viewpoint", "normals", "box3d", "category"]
    ]
    """What to train. A run that predicts needs coordinates or probabilistic (EPro-PnP, best started from coordinates with
    --init), and a detector unless boxes are given to it."""
    data: Annotated[Path, arg(metavar="DIR")] = _UNSAID
    """BOP folder with models/ (and camera.json), or a models folder. Not with category. viewpoint: also a folder in Pix3D's
    layout, or the word furniture. box3d: a KITTI or nuScenes folder, an infos.json, or the word road: synthetic ones, drawn on
    the fly."""
    out: _Path = None
    """Run folder, shared by the methods of one run; runs/NAME OF THE DATA by default."""
    objects: tuple[int, ...] = ()
    """Object ids to learn; all by default."""
    backgrounds: _Path = None
    """Folder of photos to put behind the objects; procedural ones otherwise."""
    split: str | None = None
    """Learn from the pictures of this split of the data (train, train_pbr); otherwise scenes are drawn on the fly. box3d: a
    file of names, one per line: pictures (KITTI's ImageSets/train.txt) or scenes of nuScenes; all by default."""
    init: _Path = None
    """Weights file of an earlier run to start from, of other objects perhaps; object-specific outputs start anew."""
    upright: bool = False
    """The objects always stand with +Z up, on a table seen from around and above: much easier to learn."""
    elevation_deg: tuple[float, float] = (-10.0, 90.0)
    """Lowest and highest camera elevation above the table, degrees."""
    distance: tuple[float, float] | None = None
    """Nearest and farthest object, metres; fitted to objects and camera by default."""
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
    render: Literal["workers", "device"] | None = None
    """Where crops of known objects are drawn: by the workers, or by the GPU that learns from them, which is the default where
    there is one."""
    seed: int = 0
    """Of all randomness."""
    preset: str | None = None
    """Ready configuration. coordinates: unet (default), pix2pose (as published). probabilistic: unet (default);
    as published basic, reg, coord-init, no-model; small, large. refiner: medium (default), small, published. detector: small
    (default), maskrcnn. viewpoint: modern (default); as published combined, separate. normals:
    small (default), large. category: standard (default), tiny, small, large, published.
    box3d: small (default); as published basic, coord_regr, v2."""
    epochs: _Float = None
    """viewpoint: passes over the photos, in place of --steps; by default as the preset says (25)."""
    by: Literal["image", "shape"] = "image"
    """viewpoint: what is left out for validation: a tenth of the photos, or of the CAD models with all their photos."""
    category: Annotated[Literal["mug", "bottle", "bowl", "can"] | None, arg(metavar="{mug,bottle,bowl,can}")] = None
    """category: what to learn; the run folder is runs/category_NAME by default."""
    instances: _Int = None
    """category: shapes of it to learn from; 400 by default."""
    categories: tuple[str, ...] = ()
    """viewpoint: categories to learn; box3d: classes, e.g. car pedestrian; all by default."""
    inputs: Annotated[Literal["rgb", "mask", "boundaries", "normals"] | None, arg(metavar="{rgb,mask,boundaries,normals}")] = (
        None
    )
    """viewpoint: the last input it sees, those before it come with it; normals by default."""
    normals: str = "oracle"
    """viewpoint: where normals of photos come from: oracle (rendered from the aligned CAD model), files, none, or a run folder
    with normals.safetensors."""
    set: tuple[str, ...] = ()
    """Fields of the method's configuration, as NAME=VALUE with a JSON value: --set input_size=96 'backbone="resnet18"'."""


@dataclass(kw_only=True)
class Calibrate(_Common):
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
    device: Annotated[str | None, arg(metavar="cpu|cuda|cuda:N")] = None
    """Where the networks run; by default on the GPU if there is one."""


@dataclass(kw_only=True)
class Predict(_Common):
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
    device: Annotated[str | None, arg(metavar="cpu|cuda|cuda:N")] = None
    """Where the networks run; by default on the GPU if there is one."""
    limit: _Int = None
    """Stop after this many pictures."""
    bop: _Path = None
    """BOP data set to run on, in place of a source."""
    targets: _Path = None
    """Targets file of the BOP data set; test_targets_bop19.json by default."""
    true_boxes: bool = False
    """With --bop: the true amodal boxes in place of the detector, an oracle for tables."""
    out: Annotated[Path | None, arg(aliases=("--save",), metavar="PATH")] = None
    """Folder for overlays, poses.json and a BOP CSV, out/predict by default. With --bop the CSV file,
    METHOD_DATASET-SPLIT.csv."""
    mask: _Path = None
    """Viewpoint and category runs: picture of the object's mask, white where it is; its box is taken where none is given.
    Category runs: or a number for each object."""
    search: Annotated[Literal["default", "published", "quick"] | None, arg(metavar="{default,published,quick}")] = None
    """Category runs: how to search for the pose; published: 32 starts, 50 steps each."""
    nocs: _Path = None
    """Category runs: folder in the layout of REAL275 or CAMERA25 to run on, in place of a source, with its masks; scored by
    NOCS's protocol. --out is a file, out/nocs.json by default."""
    overlap: Annotated[Literal["oriented", "aligned", "nocs2019"] | None, arg(metavar="{oriented,aligned,nocs2019}")] = None
    """With --nocs: which 3D IoU; oriented by default. nocs2019: the original's, which is wrong, for old tables."""
    size_m: Annotated[tuple[float, float, float] | None, arg(metavar="W D H")] = None
    """Viewpoint and category runs: width, depth and height of the object in metres; with a camera they give poses. By default
    a category run takes what is usual in the category."""
    mesh: _Path = None
    """Viewpoint runs: CAD model in place of --size-m; +Z up, front towards -Y. Its silhouette is drawn."""
    unit: Annotated[Unit | None, arg(metavar="{m,cm,mm,inch}")] = None
    """Unit of --mesh."""
    pix3d: _Path = None
    """Viewpoint runs: data set in Pix3D's layout to run on, in place of a source; --out is a file, predictions.json."""
    by: Annotated[Literal["image", "shape", "all"] | None, arg(metavar="{image,shape,all}")] = None
    """With --pix3d: whose validation part to run on; by default that which the training left out. all: every picture."""
    corrupt: Annotated[str | None, arg(metavar="KIND:STRENGTH")] = None
    """With --pix3d: make the masks worse: dilate, erode, shift, holes or drop, and how much, e.g. dilate:0.1."""
    normals: Annotated[Literal["oracle", "files", "predicted"] | None, arg(metavar="{oracle,files,predicted}")] = None
    """With --pix3d: where normals come from; by default as in training."""
    views: tuple[Literal["2d", "3d", "bev", "points", "orientation", "score"], ...] = ("3d", "bev")
    """box3d runs: pictures to save: boxes in the photo, in 3D, from above with the pose distributions; the points that decide,
    with their weights; distributions of headings; where the network sees centres."""
    split: _Path = None
    """box3d runs on a data set: file of names, one per line: pictures of KITTI or scenes of nuScenes; all by default."""
    flip: bool = False
    """box3d runs: look at the mirrored picture too, and let both decide together. Takes twice as long."""
    posterior: bool = False
    """Save the distribution of every object's pose as pictures in OUT/posterior/PICTURE; needs a probabilistic run."""
    refine: bool = False
    """Refine the poses in the end, or stop if that cannot be done. By default they are refined if the run has a refiner."""
    no_refine: bool = False
    """Leave the poses unrefined."""
    debug: bool = False
    """Save every stage as a picture in OUT/debug, and show the traceback of an error."""


@dataclass(kw_only=True)
class Refine(_Common):
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
    device: Annotated[str | None, arg(metavar="cpu|cuda|cuda:N")] = None
    """Where the network runs; by default on the GPU if there is one."""
    debug: bool = False
    """Save the iterations of every object as pictures in the folder debug beside OUT, and show the traceback of an error."""


@dataclass(kw_only=True)
class Evaluate(_Common):
    """Score a BOP result file: AR (BOP'19), AP (BOP'24), ADD(-S) and its AUC, n degrees n cm; or as the LINEMOD papers do. A
    table in percent; fractions with --json. Viewpoints: a predictions.json against a data set in Pix3D's layout. Boxes on
    roads: a folder of KITTI files by KITTI's protocol, a results_nusc.json by nuScenes'."""

    results: Positional[Path]
    """Result file, METHOD_DATASET-SPLIT.csv; predictions.json with viewpoints; results_nusc.json, or a folder of KITTI files,
    with boxes on roads."""
    data: Path
    """BOP folder with the models and the truth; for viewpoints the folder with pix3d.json; for boxes on roads a KITTI or
    nuScenes folder, or an infos.json."""
    split: _Path = None
    """Boxes on roads: file with the names of pictures or scenes, one per line; all by default."""
    out: _Path = None
    """Viewpoints: folder for pictures: confusion matrices, the worst mistakes."""
    bins: Annotated[Literal["published", "centred"] | None, arg(metavar="{published,centred}")] = None
    """Viewpoints: judge the angles in these bins; by default in those of the predictions."""
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


@dataclass(kw_only=True)
class Download(_Common):
    """Fetch a public data set: resumed, checked, unpacked whole or not at all."""

    name: Positional[str]
    """Its name: pix3d, lmo, ycbv, tless."""
    out: Path = Path("data")
    """Folder to make the data set's folder in."""
    url: str | None = None
    """Fetch from elsewhere: address of the ZIP file, or of the folder with the ZIP files."""


@dataclass(kw_only=True)
class FitIdentity(_Common):
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
    device: Annotated[str | None, arg(metavar="cpu|cuda|cuda:N")] = None
    """Where to compute; by default on the CPU, which suffices."""


@dataclass(kw_only=True)
class Doctor(_Common):
    """Versions, accelerators, cores, memory and disk, and what is wrong with them."""


# ------------------------------------------------------------------------------------------------ what the commands do


def _demo(args: Demo) -> int:
    from . import demo

    result = demo.run(args.out)
    return _finish(args, result)


def _check(args: Check) -> int:
    from . import check

    if not args.paths:
        raise ValueError("nothing to check; give a mesh file, a BOP folder or a photo")

    def look(path: Path) -> Any:
        if path.is_dir():
            return check.check_bop(path)
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"):
            if args.camera is None:
                raise ValueError(f"{path} is a photo; give its camera too: --camera camera.json")
            return check.check_photo(path, args.camera)
        return check.check_mesh(path, args.unit, out=args.out)

    results = [look(path) for path in args.paths]
    code = _finish(args, results if len(results) > 1 else results[0])
    return code or int(any(getattr(r, "problems", None) for r in results))


def _synth(args: Synth) -> int:
    if args.pix3d:
        return _synth_pix3d(args)
    if args.road:
        return _synth_road(args)
    from .data import bop, synth, synth_bop
    from .images import read_camera
    from .mesh import load_mesh

    if not args.models:
        raise ValueError("no models; give mesh files or one models folder")
    if len(args.models) == 1 and args.models[0].is_dir():
        models = list(bop.read_models(args.models[0]).values())
    else:
        ids = bop.ids_of_names(args.models)
        models = [load_mesh(path, args.unit, obj_id=i) for i, path in zip(ids, args.models, strict=True)]
        models = _with_symmetries(models, args)
    camera = synth.default_camera() if args.camera is None else read_camera(args.camera)
    scene = synth.scene_config(models, camera, upright=args.upright, elevation_deg=args.elevation_deg, distance=args.distance)
    result = synth_bop.write_bop(
        models, args.out, images=2000 if args.images is None else args.images, camera=camera, backgrounds=args.backgrounds,
        scene=scene, split=args.split, seed=args.seed,
    )  # fmt: skip
    return _finish(args, {"out": str(result)})


def _synth_pix3d(args: Synth) -> int:
    from . import viewpoint_commands

    result = viewpoint_commands.synth(
        args.out, args.models, args.unit, shapes=10 if args.shapes is None else args.shapes,
        images=40 if args.images is None else args.images,
        category=args.category, backgrounds=args.backgrounds, seed=args.seed, workers=args.workers,
    )  # fmt: skip
    return _finish(args, {"out": str(result)})


def _synth_road(args: Synth) -> int:
    if args.models:
        raise ValueError(f"--road makes its own shapes; leave {args.models[0]} out")
    from .data import road_scenes

    config = road_scenes.RoadConfig(
        size=args.size, first_shape=args.first_shape,
        shapes=road_scenes.RoadConfig.shapes if args.shapes is None else args.shapes,
    )  # fmt: skip
    result = road_scenes.write_road(
        args.out, images=1000 if args.images is None else args.images, config=config, backgrounds=args.backgrounds,
        seed=args.seed, workers=args.workers,
    )  # fmt: skip
    return _finish(args, {"out": str(result)})


def _with_symmetries(models: list[ObjectModel], args: Synth) -> list[ObjectModel]:
    """Mesh files do not know theirs: proposed ones where asked for, else those that an earlier run or a person wrote down."""
    from dataclasses import replace

    from .data import bop

    if args.propose_symmetries:
        from .symmetry_proposals import propose_symmetries

        return [replace(m, symmetries=propose_symmetries(m).symmetries) for m in models]
    file = args.out / "models" / "models_info.json"
    known = bop.read_models_info(file) if file.is_file() else {}
    return [replace(m, symmetries=known[m.obj_id].symmetries) if m.obj_id in known else m for m in models]


def _train(args: Train) -> int:
    if args.render is not None and args.method in ("viewpoint", "normals", "box3d", "category"):
        raise ValueError(f"--render belongs to methods that learn CAD models, not to {args.method}, whose samples workers draw")
    if args.method == "category":
        return _train_category(args)
    if given := [name for name in ("category", "instances") if getattr(args, name) is not None]:
        raise ValueError(f"--{given[0]} belongs to monopose train category, not to {args.method}")
    if args.data == _UNSAID:
        raise ValueError(f"monopose train {args.method} learns from --data DIR; see monopose train --help for what it may be")
    if args.method in ("viewpoint", "normals"):
        return _train_on_categories(args)
    if args.method == "box3d":
        return _train_boxes(args)
    from . import train

    out = args.out or Path("runs") / args.data.resolve().name
    names = ("minutes", "steps", "batch_size", "lr", "workers", "seed")
    config = train.TrainConfig(**{name: getattr(args, name) for name in names})
    method_config = _method_config(args)
    scene = train.scene_config(
        args.data, args.objects, upright=args.upright, elevation_deg=args.elevation_deg, distance=args.distance
    )
    file = train.train(
        args.method,
        args.data,
        out,
        obj_ids=args.objects,
        split=args.split,
        init=args.init,
        backgrounds=args.backgrounds,
        scene=scene,
        config=config,
        method_config=method_config,
        render=args.render,
        progress_bar=not args.json,
    )
    return _finish(args, {"weights": str(file)})


def _train_on_categories(args: Train) -> int:
    from . import learning, train_viewpoint

    names = ("minutes", "steps", "batch_size", "lr", "workers", "seed")
    config = learning.TrainConfig(**{name: getattr(args, name) for name in names})
    out, changes = args.out or Path("runs") / args.data.resolve().name, _overrides(args.set)
    shared: dict[str, Any] = {"config": config, "backgrounds": args.backgrounds, "progress_bar": not args.json}
    if args.method == "normals":
        own = train_viewpoint.configured_normals(args.preset, changes)
        file = train_viewpoint.train_normals(args.data, out, categories=args.categories, method_config=own, **shared)
        return _finish(args, {"weights": str(file)})
    changes |= {"inputs": args.inputs} if args.inputs else {}
    file = train_viewpoint.train_viewpoint(
        args.data, out, by=args.by, normals=args.normals, epochs=args.epochs, **shared,
        method_config=train_viewpoint.configured(args.data, args.preset, args.categories, changes),
    )  # fmt: skip
    return _finish(args, {"weights": str(file)})


def _train_category(args: Train) -> int:
    from . import category_commands, learning, train_category

    if args.category is None:
        raise ValueError("say what to learn: --category mug, bottle, bowl or can")
    if args.data != _UNSAID:
        raise ValueError("monopose train category makes its own shapes; leave out --data")
    names = ("minutes", "steps", "batch_size", "lr", "workers", "seed")
    files = category_commands.train(
        args.out or Path("runs") / f"category_{args.category}", args.category,
        instances=train_category.INSTANCES if args.instances is None else args.instances, backgrounds=args.backgrounds,
        progress_bar=not args.json,
        config=learning.TrainConfig(**{name: getattr(args, name) for name in names}, ema=train_category.EMA),
        method_config=train_category.configured(args.category, args.preset, _overrides(args.set)),
    )  # fmt: skip
    return _finish(args, files)


def _train_boxes(args: Train) -> int:
    from . import learning, train_box3d

    names = ("minutes", "steps", "batch_size", "lr", "workers", "seed")
    out = args.out or Path("runs") / args.data.resolve().name
    file = train_box3d.train_box3d(
        args.data, out, names=() if args.split is None else train_box3d.read_names(args.split), init=args.init,
        backgrounds=args.backgrounds,
        config=learning.TrainConfig(**{name: getattr(args, name) for name in names}), progress_bar=not args.json,
        method_config=train_box3d.configured(args.data, args.preset, args.categories, _overrides(args.set)),
    )  # fmt: skip
    return _finish(args, {"weights": str(file)})


def _method_config(args: Train) -> Any:
    """The preset's configuration with the fields of --set replaced; None for the default."""
    from . import train
    from .weights import build_config

    if not args.set and args.preset is None:
        return None
    ids = args.objects or tuple(sorted(train.read_objects(args.data)))
    config = train.preset(args.method, args.preset)(ids)
    return build_config(type(config), {**asdict(config), **_overrides(args.set)}, "--set")


def _overrides(items: tuple[str, ...]) -> dict[str, Any]:
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


def _predict(args: Predict) -> int:
    if _sees(args.model, "viewpoint"):
        return _predict_viewpoints(args)
    if _sees(args.model, "box3d"):
        return _predict_boxes(args)
    if _sees(args.model, "category"):
        return _predict_category(args)
    if given := [name for name in ("search", "nocs", "overlap") if getattr(args, name) is not None]:
        raise ValueError(f"--{given[0]} belongs to category runs; {args.model} has no category.safetensors")
    of_boxes = {"--flip": args.flip, "--split": args.split, "--views": args.views != Predict.views}
    if given := [name for name, value in of_boxes.items() if value]:
        raise ValueError(f"{given[0]} belongs to box3d runs; {args.model} has no box3d.safetensors")
    only: dict[str, Any] = {"--mask": args.mask, "--size-m": args.size_m, "--mesh": args.mesh, "--pix3d": args.pix3d}
    only |= {"--unit": args.unit, "--by": args.by, "--corrupt": args.corrupt, "--normals": args.normals}
    if given := [name for name, value in only.items() if value is not None]:
        raise ValueError(f"{given[0]} belongs to viewpoint runs; {args.model} has no viewpoint.safetensors, or estimates poses")
    if (args.source is None) == (args.bop is None):
        raise ValueError("give either a SOURCE (image, folder, video, camera number) or --bop DIR")
    if args.bop is None:
        idle: dict[str, Any] = {"--targets": args.targets, "--true-boxes": args.true_boxes}
        reason = "belongs to --bop DIR"
    else:
        idle = {"--camera": args.camera, "--fov": args.fov, "--resize-camera": args.resize_camera}
        reason = "does not go with --bop: the data set knows its cameras"
    if given := [name for name, value in idle.items() if value]:
        raise ValueError(f"{given[0]} {reason}")
    if args.posterior and args.bop is not None:
        raise ValueError("--posterior goes with a SOURCE, not with --bop: give it one of the pictures and their camera")
    if args.true_boxes and args.boxes:
        raise ValueError("--true-boxes and --boxes both replace the detector; give one of them")
    if args.score is not None and (args.true_boxes or args.boxes):
        raise ValueError("--score belongs to the detector, which --boxes and --true-boxes replace")
    if args.score is not None and not 0 <= args.score <= 1:
        raise ValueError(f"--score must be between 0 and 1, got {args.score:g}")
    if args.bop is not None and (len(args.boxes) > 1 or any("," in box for box in args.boxes)):
        raise ValueError(f"with --bop, --boxes takes one BOP detections file, got {' '.join(args.boxes)}")
    if args.refine and args.no_refine:
        raise ValueError("--refine and --no-refine contradict each other; give one of them, or none")
    from . import pipeline

    model = pipeline.load(args.model, args.device)
    score = pipeline.SCORE if args.score is None else args.score
    if args.bop is None:
        return _predict_pictures(args, model, score)
    if args.out is None:
        raise ValueError("--bop needs --out METHOD_DATASET-SPLIT.csv, e.g. --out monopose_lmo-test.csv")
    boxes = Path(args.boxes[0]) if args.boxes else None
    debug = args.out.parent / "debug" if args.debug else None
    path = pipeline.predict_bop(
        model, args.bop, args.targets, args.out, boxes=boxes, true_boxes=args.true_boxes, score_threshold=score,
        limit=args.limit, debug=debug, **_asked_to_refine(args),
    )  # fmt: skip
    return _finish(args, {"results": str(path)})


def _sees(model: str, what: str) -> bool:
    """Whether a run folder, or the file in it, is a run of this method; told from names alone, so that nothing heavy is
    imported."""
    path = Path(model)
    if path.is_file():
        return path.name == f"{what}.safetensors"
    others = [path / "coordinates.safetensors", path / "probabilistic.safetensors"]
    return (path / f"{what}.safetensors").is_file() and not any(p.is_file() for p in others)


def _predict_boxes(args: Predict) -> int:
    if args.source is None:
        raise ValueError("give a SOURCE: image, folder of images, video, camera number, KITTI or nuScenes folder, infos.json")
    idle: dict[str, Any] = {"--bop": args.bop, "--targets": args.targets, "--true-boxes": args.true_boxes}
    idle |= {"--boxes": args.boxes, "--mask": args.mask, "--size-m": args.size_m, "--mesh": args.mesh, "--pix3d": args.pix3d}
    idle |= {"--posterior": args.posterior, "--refine": args.refine, "--no-refine": args.no_refine, "--debug": args.debug}
    if given := [name for name, value in idle.items() if value]:
        raise ValueError(f"{given[0]} does not go with a box3d run; --views says which pictures to save")
    if args.score is not None and not 0 <= args.score <= 1:
        raise ValueError(f"--score must be between 0 and 1, got {args.score:g}")
    from . import box3d_commands, box3d_pipeline

    data = box3d_commands.is_data(args.source)
    known = args.camera is not None or args.fov is not None or args.resize_camera
    if not data and args.split is not None:
        raise ValueError(f"--split names pictures or scenes of a data set; {args.source} is none")
    if data and known:
        raise ValueError(f"{args.source} is a data set that knows its cameras; leave --camera, --fov, --resize-camera out")
    if not data and args.camera is None and args.fov is None:
        raise ValueError("distances need the camera: give --camera K.json (fx, fy, cx, cy, width, height), or --fov DEGREES")
    run = box3d_pipeline.load(args.model, args.device)
    shared: dict[str, Any] = {"views": args.views, "options": box3d_pipeline.Options(flip=args.flip), "limit": args.limit}
    shared["least"] = box3d_commands.DRAWN if args.score is None else args.score
    out = args.out or Path("out/predict")
    if data:
        from .train_box3d import read_names

        names = () if args.split is None else read_names(args.split)
        return _finish(args, box3d_commands.predict_data(run, args.source, out, names=names, **shared))
    result = box3d_commands.predict_pictures(
        run, args.source, out, camera=args.camera, fov_deg=args.fov, resize_camera=args.resize_camera, **shared
    )
    return _finish(args, result) or 130 * result.stopped


def _predict_category(args: Predict) -> int:
    if args.source is None:
        if args.nocs is None:
            raise ValueError("a category run predicts from a SOURCE: image, folder, video or camera number; or from --nocs DIR")
    elif args.nocs is not None:
        raise ValueError("--nocs DIR takes the place of a SOURCE; give one of them")
    of_others = ("bop", "targets", "true_boxes", "mesh", "unit", "pix3d", "by", "corrupt", "normals", "posterior", "refine")
    if given := [name for name in (*of_others, "no_refine", "flip") if getattr(args, name)]:
        raise ValueError(f"--{given[0].replace('_', '-')} does not go with a category run")
    from . import category_commands

    search = category_commands.SEARCHES[args.search or "default"]()
    if args.nocs is not None:
        of_source = ("mask", "boxes", "camera", "fov", "resize_camera", "size_m", "score", "debug")
        if given := [name for name in of_source if getattr(args, name)]:
            raise ValueError(f"--{given[0].replace('_', '-')} does not go with --nocs, whose masks and cameras are known")
        report = category_commands.predict_nocs(
            category_commands.load(args.model, args.device), args.nocs, args.out or Path("out/nocs.json"), config=search,
            overlap=args.overlap or "oriented", limit=args.limit, progress_bar=not args.json,
        )  # fmt: skip
        return _finish(args, report)
    result = category_commands.predict_pictures(
        category_commands.load(args.model, args.device), args.source or "", args.out or Path("out/predict"), mask=args.mask,
        boxes=args.boxes, camera=args.camera, fov_deg=args.fov, resize_camera=args.resize_camera, size=args.size_m,
        score=0.2 if args.score is None else args.score, config=search, limit=args.limit, debug=args.debug,
    )  # fmt: skip
    return _finish(args, result) or 130 * result.stopped


def _predict_viewpoints(args: Predict) -> int:
    if (args.source is None) == (args.pix3d is None):
        raise ValueError("give either a SOURCE (image, folder, video, camera number) or --pix3d DIR")
    idle: dict[str, Any] = {
        "--bop": args.bop,
        "--targets": args.targets,
        "--true-boxes": args.true_boxes,
        "--score": args.score,
    }
    idle |= {"--posterior": args.posterior, "--refine": args.refine, "--no-refine": args.no_refine}
    of_data: dict[str, Any] = {"--by": args.by, "--corrupt": args.corrupt, "--normals": args.normals}
    of_source: dict[str, Any] = {"--mask": args.mask, "--size-m": args.size_m, "--mesh": args.mesh, "--camera": args.camera}
    of_source |= {"--fov": args.fov, "--boxes": args.boxes, "--resize-camera": args.resize_camera}
    for table, reason in ((idle, "does not go with a viewpoint run"), (of_data if args.pix3d is None else of_source, "")):
        if given := [name for name, value in table.items() if value]:
            raise ValueError(f"{given[0]} " + (reason or f"does not go with {'a SOURCE' if args.source else '--pix3d'}"))
    from . import viewpoint_commands, viewpoint_pipeline

    run = viewpoint_pipeline.load(args.model, args.device)
    if args.pix3d is not None:
        path = viewpoint_commands.predict_pix3d(
            run, args.pix3d, args.out or Path("out/predictions.json"), by=args.by, corrupt=args.corrupt, normals=args.normals,
            limit=args.limit,
        )  # fmt: skip
        return _finish(args, {"predictions": str(path)})
    model = None
    if args.mesh is not None:
        from .mesh import load_mesh

        model = load_mesh(args.mesh, args.unit)
    result = viewpoint_commands.predict_pictures(
        run, args.source or "", args.out or Path("out/predict"), boxes=args.boxes, mask=args.mask, camera=args.camera,
        fov_deg=args.fov, resize_camera=args.resize_camera, size=args.size_m, model=model, limit=args.limit, debug=args.debug,
    )  # fmt: skip
    return _finish(args, result) or 130 * result.stopped


def _asked_to_refine(args: Predict) -> dict[str, Any]:
    return {"refine": args.refine} if args.refine or args.no_refine else {}


def _predict_pictures(args: Predict, model: Pipeline, score: float) -> int:
    from . import images, outputs

    boxes = None
    if args.boxes:
        from .external_boxes import read_boxes

        boxes = read_boxes(args.boxes, sorted(model.names), model.names)
    out = args.out or Path("out/predict")
    records: list[dict[str, Any]] = []
    estimates: list[PoseEstimates] = []
    stopped = False

    def save() -> Path:
        outputs.save_results(out, estimates)
        return outputs.save_poses(out, records)

    frames = images.iterate_frames(args.source or "", args.camera, fov_deg=args.fov, resize_camera=args.resize_camera)
    try:
        for name, frame in frames:
            debug = out / "debug" / name if args.debug else None
            given = None if boxes is None else boxes(frame.path or name)
            beliefs: list[Belief] = []
            asked = _asked_to_refine(args) | ({"beliefs": beliefs} if args.posterior else {})
            poses = model.predict(frame, detections=given, debug=debug, score_threshold=score, **asked)
            outputs.save_posteriors(out / "posterior" / name, frame, beliefs, model.models)
            overlay = outputs.save_overlay(out / f"{name}_overlay.png", frame, poses, model.models)
            records.append({**outputs.frame_record(name, frame, poses), "overlay": str(overlay)})
            estimates.append(poses)
            if not args.json:
                _print_poses(name, poses, overlay)
            if args.limit is not None and len(records) >= args.limit:
                break
    except KeyboardInterrupt:  # the way to end a live camera: keep what is there
        stopped = True
    except Exception:  # a broken picture among many: keep what came before it
        if records:
            save()
        raise
    path = save()
    if args.json:
        print(json.dumps({"units": outputs.UNITS, "images": records}))
    else:
        print(f"{len(records)} picture{'s' * (len(records) != 1)}: {path}, and a BOP CSV beside it")
    return 130 if stopped else 0


def _print_poses(name: str, poses: Any, overlay: Path) -> None:
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in poses.seconds.items())
    print(f"{name}: {len(poses)} object{'s' * (len(poses) != 1)}{' (' + seconds + ')' if seconds else ''} -> {overlay}")
    refined = [""] * len(poses)
    if poses.converged is not None:
        refined = ["   refined" if done else "   not refined" for done in poses.converged.tolist()]
    for label, score, pose, done in zip(poses.labels.tolist(), poses.scores.tolist(), poses.cam_from_obj.cpu(), refined):
        x, y, z = pose[:3, 3].tolist()
        print(f"  {poses.names.get(label, f'object {label}'):20} score {score:.2f}   x {x:+.3f}  y {y:+.3f}  z {z:.3f} m{done}")
    if not len(poses):
        print("  nothing found; look at the stages with --debug, or give --boxes")


def _refine(args: Refine) -> int:
    from . import pipeline

    debug = args.out.parent / "debug" if args.debug else None
    report = pipeline.refine_bop(
        args.model, args.results, args.bop, args.out, targets=args.targets, hypotheses=args.hypotheses, outer=args.outer,
        inner=args.inner, debug=debug, device=args.device,
    )  # fmt: skip
    return _finish(args, report)


def _calibrate(args: Calibrate) -> int:
    from . import calibrate

    report = calibrate.run(
        args.run, args.data, images=args.images, backgrounds=args.backgrounds, seed=args.seed, device=args.device,
        targets=args.targets, picture=args.out, progress_bar=not args.json,
    )  # fmt: skip
    return _finish(args, report.as_dict() if args.json else report)


def _evaluate(args: Evaluate) -> int:
    if _holds_boxes(args.results):
        return _evaluate_boxes(args)
    if args.split is not None:
        raise ValueError("--split belongs to boxes on roads: a folder of KITTI files or a results_nusc.json")
    if args.results.suffix.lower() == ".json":
        return _evaluate_viewpoints(args)
    if args.out is not None or args.bins is not None:
        raise ValueError("--out and --bins belong to viewpoints, whose predictions are a .json file")
    from .evaluation import calibration, classic, protocol, table

    if args.protocol == "classic":
        if args.vsd:
            raise ValueError("--vsd belongs to BOP's protocol, the classic one has no VSD")
        scores = classic.evaluate(args.results, args.data, args.targets, flip_eggbox=args.flip_eggbox)
    else:
        if args.flip_eggbox:
            raise ValueError("--flip-eggbox belongs to --protocol classic")
        scores = protocol.evaluate(args.results, args.data, args.targets, vsd=args.vsd)
    if args.reliability is not None:
        from .outputs import save_reliability

        found = calibration.reliability(*calibration.of_results(args.results, args.data, args.targets))
        scores["reliability"] = found.as_dict()
        save_reliability(args.reliability, {args.results.stem: found})
    if args.json:
        return _finish(args, scores)
    print(table.text(scores))
    if args.reliability is not None:
        print(f"\n{table.reliability_text(found)}\ndiagram: {args.reliability}")
    return 0


def _holds_boxes(path: Path) -> bool:
    """Whether results are boxes on roads: a folder of KITTI files, or nuScenes' JSON."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return path.is_dir()
    from .data.bop_json import read_json

    content = read_json(path)
    return isinstance(content, dict) and "results" in content


def _evaluate_boxes(args: Evaluate) -> int:
    others: dict[str, Any] = {"--targets": args.targets, "--vsd": args.vsd, "--flip-eggbox": args.flip_eggbox}
    others |= {"--reliability": args.reliability, "--protocol classic": args.protocol == "classic"}
    if given := [name for name, value in {**others, "--out": args.out, "--bins": args.bins}.items() if value]:
        raise ValueError(f"{given[0]} does not go with boxes on roads")
    from . import box3d_commands, train_box3d

    names = () if args.split is None else train_box3d.read_names(args.split)
    report = box3d_commands.evaluate(args.results, args.data, names)
    if args.json:
        return _finish(args, report)
    print(box3d_commands.text(report))
    return 0


def _evaluate_viewpoints(args: Evaluate) -> int:
    others: dict[str, Any] = {"--targets": args.targets, "--vsd": args.vsd, "--flip-eggbox": args.flip_eggbox}
    others |= {"--reliability": args.reliability, "--protocol classic": args.protocol == "classic"}
    if given := [name for name, value in others.items() if value]:
        raise ValueError(f"{given[0]} belongs to BOP result files, not to viewpoints")
    from . import viewpoint_commands
    from .evaluation import viewpoint

    report = viewpoint_commands.evaluate(args.results, args.data, args.out, args.bins)
    if args.json:
        return _finish(args, report)
    print(viewpoint.text(report))
    if "pictures" in report:
        print(f"pictures: {args.out}")
    return 0


def _download(args: Download) -> int:
    from .data import download

    return _finish(args, {"folder": str(download.download(args.name, args.out, args.url))})


def _fit_identity(args: FitIdentity) -> int:
    from . import fit_identity

    config = fit_identity.Config(seed=args.seed)
    report = fit_identity.run(args.out, args.steps, config, args.device, args.pictures, progress_bar=not args.json)
    return _finish(args, report)


def _doctor(args: Doctor) -> int:
    from . import doctor

    report = doctor.examine()
    print(json.dumps(asdict(report)) if args.json else doctor.text(report))
    return 0 if report.ok else 1


_COMMANDS: dict[type[_Common], tuple[str, Callable[[Any], int]]] = {
    Demo: ("demo", _demo),
    Check: ("check", _check),
    Synth: ("synth", _synth),
    Train: ("train", _train),
    Calibrate: ("calibrate", _calibrate),
    Predict: ("predict", _predict),
    Refine: ("refine", _refine),
    Evaluate: ("evaluate", _evaluate),
    Download: ("download", _download),
    FitIdentity: ("fit-identity", _fit_identity),
    Doctor: ("doctor", _doctor),
}


# ----------------------------------------------------------------------------------------------------------- printing


def _finish(args: _Common, result: Any) -> int:
    """Print a result, as JSON or for people, and return 0."""
    if args.json:
        print(json.dumps(_plain(result)))
    elif result is not None:
        print("\n".join(_lines(result)))
    return 0


def _plain(value: Any) -> Any:
    """Dataclasses, tensors, arrays and paths as what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and value != value:
        return None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _lines(value: Any, indent: str = "") -> list[str]:
    """A result for people: what has a `text()` says it itself, tables become indented lines."""
    if callable(getattr(value, "text", None)):
        return value.text().splitlines()
    value = _plain(value)
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return [line for item in value for line in [*_lines(item, indent), ""]][:-1]
    if not isinstance(value, dict):
        return [f"{indent}{_number(value)}"]
    width = max((len(k) for k in value), default=0)
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and any(isinstance(v, dict) for v in item.values()):
            lines += [f"{indent}{key}", *_lines(item, indent + "  ")]
        elif isinstance(item, dict):
            lines.append(f"{indent}{key:{width}}  " + "  ".join(f"{k} {_number(v)}" for k, v in item.items()))
        else:
            lines.append(f"{indent}{key:{width}}  {_number(item)}")
    return lines


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_number(v) for v in value)
    return "-" if value is None else str(value)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
    """Our own warnings and the user's data in one line; the chatter of libraries is left out."""
    if Path(filename).is_relative_to(Path(__file__).parent) or category.__module__.startswith("monopose"):
        print(f"monopose: warning: {message}", file=sys.stderr)


# --------------------------------------------------------------------------------------------------------------- entry


def parse(argv: list[str]) -> _Common:
    """The sub-command of a command line, or SystemExit with tyro's explanation."""
    import functools
    import operator

    named = [Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for kind, (name, _) in _COMMANDS.items()]
    description = (
        "6DoF poses of known objects from one RGB picture.\n\n"
        "Units: metres and degrees on this command line; poses are in metres, in the OpenCV camera frame "
        "(x right, y down, z forward); meshes without a unit need --unit."
    )
    return tyro.cli(  # type: ignore[call-overload, no-any-return]
        functools.reduce(operator.or_, named),
        prog="monopose",
        description=description,
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv in (["--version"], ["-V"]):
        from . import __version__

        print(f"monopose {__version__}")
        return 0
    args = parse(argv or ["--help"])
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        return _COMMANDS[type(args)][1](args)
    except KeyboardInterrupt:
        print("monopose: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        sys.stderr.close()
        return 1
    except Exception as error:
        if args.debug:
            raise
        print(f"monopose: error: {_message(error)}", file=sys.stderr)
        return 1


def _message(error: Exception) -> str:
    """One line that says what happened; unexpected kinds of error ask for the traceback."""
    text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    text = " ".join(str(text).split())
    if isinstance(error, (ValueError, OSError, ImportError, FloatingPointError)):
        return text
    return f"{type(error).__name__}: {text} (unexpected; --debug shows where)"
