"""Which kinds of work heed which options, and what is said of one that is given in vain.

Work is of a family (objects, viewpoint, category, box3d), told from names of files alone, and some of it of a way, as in
viewpoint.pix3d. Nothing here imports anything heavy, so that a wrong command line is told at once.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from .command import NOT_GIVEN, Evaluate, Predict, Synth, Train

_FAMILIES = ("viewpoint", "box3d", "category")  # and objects
Work = Synth | Train | Predict | Evaluate

_HEEDED: dict[type[Work], tuple[tuple[str, str], ...]] = {  # options, and all that heeds them; others go with everything
    Synth: (
        ("camera propose_symmetries split upright elevation_deg distance", "object"),
        ("shapes workers", "viewpoint box3d"),
        ("category", "viewpoint"),
        ("size first_shape", "box3d"),
        ("unit", "object viewpoint"),
    ),
    Train: (
        ("objects upright elevation_deg distance render", "object"),
        ("split init", "object box3d"),
        ("categories", "viewpoint box3d"),
        ("epochs by inputs normals", "viewpoint.viewpoint"),
        ("category instances", "category"),
    ),
    Predict: (
        ("camera fov resize_camera", "object.source viewpoint.source category.source box3d.source"),
        ("boxes", "object viewpoint.source category.source"),
        ("score", "object category.source box3d"),
        ("debug", "object viewpoint category.source"),
        ("bop targets true_boxes", "object.bop"),
        ("posterior", "object.source"),
        ("looks", "object"),
        ("refine no_refine", "object"),
        ("mask size_m", "viewpoint.source category.source"),
        ("mesh unit", "viewpoint.source"),
        ("pix3d by corrupt normals", "viewpoint.pix3d"),
        ("search", "category"),
        ("nocs overlap", "category.nocs"),
        ("views flip", "box3d"),
        ("split", "box3d.data"),
    ),
    Evaluate: (
        ("targets protocol reliability", "object"),
        ("vsd", "object.bop"),
        ("flip_eggbox", "object.classic"),
        ("out bins", "viewpoint"),
        ("split", "box3d"),
    ),
}
_CALLED: dict[type[Work], dict[str, str]] = {
    Synth: {"object": "BOP folders", "viewpoint": "--pix3d", "box3d": "--road"},
    Train: {
        "object": "methods that learn CAD models",
        "viewpoint": "monopose train viewpoint and normals",
        "viewpoint.viewpoint": "monopose train viewpoint",
        "category": "monopose train category",
        "box3d": "monopose train box3d",
    },
    Predict: {family: f"{family} runs" for family in _FAMILIES},
    Evaluate: {
        "object": "BOP result files",
        "object.bop": "BOP's protocol",
        "object.classic": "--protocol classic",
        "viewpoint": "viewpoints, whose predictions are a .json file",
        "box3d": "boxes on roads: a folder of KITTI files or a results_nusc.json",
    },
}
_DATA = {"object": "bop", "viewpoint": "pix3d", "category": "nocs"}  # what Predict takes in place of a SOURCE
_REFUSALS: dict[str, str] = {  # of Predict, which can say more than "belongs to ..., not to ..."
    "object": "belongs to {owners}; {model} has no {file}, or knows CAD models",
    "object.source": "belongs to --bop DIR",
    "object.bop": "goes with a SOURCE, not with --bop: the data set knows its pictures and cameras",
    "viewpoint": "does not go with a viewpoint run",
    "viewpoint.source": "does not go with a SOURCE",
    "viewpoint.pix3d": "does not go with --pix3d",
    "category": "does not go with a category run",
    "category.source": "belongs to --nocs DIR",
    "category.nocs": "does not go with --nocs, whose masks and cameras are known",
    "box3d": "does not go with a box3d run; --views says which pictures to save",
    "box3d.source": "names pictures or scenes of a data set; {source} is none",
    "box3d.data": "goes with pictures; {source} is a data set that knows its cameras",
}


def refuse(args: Work, kind: str) -> None:
    """Raise ValueError where an option is given that nothing heeds in this kind of work, a family or FAMILY.WAY."""
    family = kind.split(".")[0]
    given = {f.name for f in fields(args) if getattr(args, f.name) != f.default}
    for options, heeding in _HEEDED[type(args)]:
        kinds = heeding.split()
        idle = [name for name in options.split() if name in given]
        if not idle or any(k in (kind, family) or k.startswith(f"{kind}.") for k in kinds):
            continue
        called = _CALLED[type(args)]
        owners = [called.get(k, called.get(k.split(".")[0], k)) for k in kinds]
        refusal = _REFUSALS[kind] if isinstance(args, Predict) else "belongs to {owners}, not to {here}"
        here, file = called.get(kind, called.get(family)), f"{kinds[0].split('.')[0]}.safetensors"
        reason = refusal.format_map({**vars(args), "owners": " and ".join(owners), "here": here, "file": file})
        raise ValueError(f"--{idle[0].replace('_', '-')} {reason}")


def check(args: Work) -> str:
    """The family that does this work, told from names alone; ValueError where options contradict it or each other."""
    family = _family(args)
    refuse(args, family)
    if isinstance(args, Train):
        refuse(args, f"{family}.{args.method}")
        _check_train(args)
    elif isinstance(args, Predict):
        _check_predict(args, family)
    elif isinstance(args, Evaluate) and family == "object":
        refuse(args, f"object.{args.protocol}")
    elif isinstance(args, Synth) and args.road and args.models:
        raise ValueError(f"--road makes its own shapes; leave {args.models[0]} out")
    return family


def _family(args: Work) -> str:
    if isinstance(args, Synth):
        if args.pix3d and args.road:
            raise ValueError("--pix3d and --road make different data sets; give one of them")
        return "viewpoint" if args.pix3d else "box3d" if args.road else "object"
    if isinstance(args, Train):
        family = "viewpoint" if args.method == "normals" else args.method
        return family if family in _FAMILIES else "object"
    if isinstance(args, Predict):
        return next((family for family in _FAMILIES if sees(args.model, family)), "object")
    if _holds_boxes(args.results):
        return "box3d"
    return "viewpoint" if args.results.suffix.lower() == ".json" else "object"


def sees(model: str, what: str) -> bool:
    """Whether a run folder, or the file in it, is a run of this method and of none that knows CAD models."""
    path = Path(model)
    if path.is_file():
        return path.name == f"{what}.safetensors"
    others = [path / "coordinates.safetensors", path / "probabilistic.safetensors"]
    return (path / f"{what}.safetensors").is_file() and not any(p.is_file() for p in others)


def is_road_data(source: str | Path) -> bool:
    """Whether a source is a data set of roads, not pictures: KITTI, nuScenes or an `infos.json`."""
    path = Path(source)
    if path.suffix == ".json":
        return True
    return path.is_dir() and (
        (path / "infos.json").is_file() or (path / "image_2").is_dir() or any(path.glob("v1.0-*")) or path.name[:5] == "v1.0-"
    )


def _holds_boxes(path: Path) -> bool:
    """Whether results are boxes on roads: a folder of KITTI files, or nuScenes' JSON."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return path.is_dir()
    from .io.records import read_json

    content = read_json(path)
    return isinstance(content, dict) and "results" in content


def _check_train(args: Train) -> None:
    if args.method == "category":
        if args.category is None:
            raise ValueError("say what to learn: --category mug, bottle, bowl or can")
        if args.data != NOT_GIVEN:
            raise ValueError("monopose train category makes its own shapes; leave out --data")
    elif args.data == NOT_GIVEN:
        raise ValueError(f"monopose train {args.method} learns from --data DIR; see monopose train --help for what it may be")


def _check_predict(args: Predict, family: str) -> None:
    if family == "box3d":
        if args.source is None:
            raise ValueError(
                "give a SOURCE: image, folder of images, video, camera number, KITTI or nuScenes folder, infos.json"
            )
        way = "data" if is_road_data(args.source) else "source"
    else:
        data = _DATA[family]
        if (args.source is None) == (getattr(args, data) is None):
            raise ValueError(f"give either a SOURCE (image, folder, video, camera number) or --{data} DIR")
        way = data if args.source is None else "source"
    refuse(args, f"{family}.{way}")
    if f"{family}.{way}" == "box3d.source" and args.camera is None and args.fov is None:
        raise ValueError("distances need the camera: give --camera K.json (fx, fy, cx, cy, width, height), or --fov DEGREES")
    if args.score is not None and not 0 <= args.score <= 1:
        raise ValueError(f"--score must be between 0 and 1, got {args.score:g}")
    if family != "object":
        return
    if args.true_boxes and args.boxes:
        raise ValueError("--true-boxes and --boxes both replace the detector; give one of them")
    for name in ("score", "looks"):
        if getattr(args, name) is not None and (args.true_boxes or args.boxes):
            raise ValueError(f"--{name} belongs to the detector, which --boxes and --true-boxes replace")
    if args.refine and args.no_refine:
        raise ValueError("--refine and --no-refine contradict each other; give one of them, or none")
    if args.bop is not None and (len(args.boxes) > 1 or any("," in box for box in args.boxes)):
        raise ValueError(f"with --bop, --boxes takes one BOP detections file, got {' '.join(args.boxes)}")
    if args.bop is not None and args.out is None:
        raise ValueError("--bop needs --out METHOD_DATASET-SPLIT.csv, e.g. --out monopose_lmo-test.csv")
