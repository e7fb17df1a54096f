"""The tables of the five systems' papers: which commands make them, with their published numbers beside ours.

Every step is a command line of this package, run as if it were typed; OUT/done.json says which are done, so that a killed
reproduction goes on. The published numbers are those of the originals' repositories and papers; docs/seeds.md says where they
come from, and what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..command import Printer, Result, silent
from ..io import records
from ..io.files import write_json


class Given(NamedTuple):
    """What a reproduction is made from.

    data: the data set's folder. out: folder for everything made. models: BOP's lm/models. poses: initial poses, a BOP result
    file. weights: of the original, in place of training. backgrounds: folder of photos. quick: a few steps of small networks.
    """

    data: Path
    out: Path
    models: Path | None = None
    poses: Path | None = None
    weights: Path | None = None
    backgrounds: Path | None = None
    quick: bool = False


Words = tuple[str, ...]  # a command line


@dataclass(frozen=True)
class Table:
    """One table.

    Args:
        title: what it is.
        fetch: what to download, line by line.
        cost: minutes and memory to expect, where nobody has measured them a guess from the number of steps.
        published: our name of a row -> the number in the paper, in its unit.
        steps: command lines, in order.
        ours: results of the steps that score -> the same rows.
        needs: names of `Given` that have to be there.
    """

    title: str
    fetch: tuple[str, ...]
    cost: str
    published: Mapping[str, float]
    steps: Callable[[Given], list[Words]]
    ours: Callable[[list[Any]], dict[str, float]]
    needs: tuple[str, ...] = ()


FEW = ("--steps", "2", "--batch-size", "2", "--workers", "0")  # of --quick


def _train(g: Given, method: str, out: str, quick: Sequence[str], whole: Sequence[str], data: Sequence[object]) -> Words:
    words = ["train", method, *(("--data", *map(str, data)) if data else ()), "--out", str(g.out / out)]
    words += [*quick, *FEW] if g.quick else whole
    if g.backgrounds is not None and method in ("probabilistic", "refiner", "category"):
        words += ["--backgrounds", str(g.backgrounds)]
    return tuple(words)


SMALL_CROPS = ("--preset", "small", "--init", "none")


def _linemod(g: Given) -> list[Words]:
    lm, targets, results = g.out / "lm", g.out / "targets.json", g.out / "epropnp_lm-test.csv"
    assert g.models is not None
    steps = [
        ("convert", "cdpn", str(g.data), "--models", str(g.models), "--out", str(lm)),
        ("targets", str(lm / "test"), "--out", str(targets)),
    ]
    if g.weights is not None:
        words = ("convert-weights", "epropnp-6dof", str(g.weights), "--models", str(g.models), "--out", str(g.out / "run"))
        steps.append(words)
    else:
        pictures = [f"{lm}/train:0.18", *([f"{lm}/train_imgn:1"] if (g.data / "imgn").is_dir() else [])]
        start = g.out / "coords/probabilistic.safetensors"
        steps.append(_train(g, "probabilistic", "coords", SMALL_CROPS, ("--preset", "coords"), pictures))
        whole = ("--preset", "coord-init", "--init", str(start))
        steps.append(_train(g, "probabilistic", "run", SMALL_CROPS, whole, pictures))
    boxes = lm / "fasterrcnn_test.json"
    predict = ["predict", "--bop", str(lm), "--targets", str(targets), "--boxes", str(boxes), "--model", str(g.out / "run")]
    steps.append((*predict, "--no-refine", "--out", str(results)))
    classic = ("--targets", str(targets), "--protocol", "classic", "--flip-eggbox")
    steps.append(("evaluate", str(results), "--data", str(lm), *classic))
    return steps


def _lmo(g: Given) -> list[Words]:
    results = g.out / "rnnpose_lmo-test.csv"
    targets = str(g.data / "test_targets_bop19.json")
    pictures = [f"{g.data}:1", *([f"{g.data}/train_pbr:3"] if (g.data / "train_pbr").is_dir() else [])]
    quick = ("--preset", "small", "--init", "none")
    refine = ("refine", str(g.poses), "--bop", str(g.data), "--targets", targets, "--model", str(g.out / "run"))
    return [
        _train(g, "refiner", "run", quick, ("--preset", "published"), pictures),
        (*refine, "--out", str(results)),
        ("evaluate", str(results), "--data", str(g.data), "--targets", targets, "--protocol", "classic"),
        ("evaluate", str(g.poses), "--data", str(g.data), "--targets", targets, "--protocol", "classic"),
    ]


def _nuscenes(g: Given) -> list[Words]:
    found = g.out / "val/results_nusc.json"
    mini = any(g.data.glob("v1.0-mini")) or g.data.name == "v1.0-mini"
    train, val = ("mini_train", "mini_val") if mini else ("train", "val")
    predict = ("predict", str(g.data), "--split", val, "--model", str(g.out / "run"), "--views", "3d")
    quick, whole = (("--preset", preset, "--split", train) for preset in ("small", "v1b"))
    return [
        _train(g, "box3d", "run", quick, whole, [g.data]),
        (*predict, "--out", str(g.out / "val")),
        ("evaluate", str(found), "--data", str(g.data), "--split", val),
    ]


INPUTS = ("rgb", "mask", "boundaries", "normals")


def _pix3d(g: Given) -> list[Words]:
    steps = []
    split = g.data / "train_test_sp.pickle"
    by = ("--by", str(split)) if split.is_file() else ()
    maps = ("--normals", "files") if (g.data / "normal").is_dir() or (g.data / "normals").is_dir() else ()
    for net in ("combined", "separate"):
        for inputs in INPUTS:
            name = f"{net}_{inputs}"
            own = ("--preset", net, "--inputs", inputs, *by, *maps)
            found = g.out / f"{name}.json"
            steps += [
                _train(g, "viewpoint", name, own, own, [g.data]),
                ("predict", "--model", str(g.out / name), "--pix3d", str(g.data), "--out", str(found)),
                ("evaluate", str(found), "--data", str(g.data)),
            ]
    return steps


CATEGORIES = ("bottle", "bowl", "camera", "can", "laptop", "mug")


def _real275(g: Given) -> list[Words]:
    steps = []
    folders = {"detections": g.data / "nocs_det", "gts": g.data / "gts/real_test"}
    theirs = tuple(word for name, path in folders.items() if path.is_dir() for word in (f"--{name}", str(path)))
    for name in CATEGORIES:
        run, found = g.out / name, g.out / f"{name}.json"
        quick = ("--category", name, "--preset", "tiny", "--instances", "2")
        whole = ("--category", name, "--preset", "published", "--steps", "100000")
        search = ("--search", "quick", "--features", "pyramid", "--limit", "2") if g.quick else ("--search", "published")
        steps += [
            _train(g, "category", name, quick, whole, []),
            ("predict", "--model", str(run), "--nocs", str(g.data), *theirs, *search, "--out", str(found)),
        ]
    return steps


def _percent(value: float | None) -> float:
    return float("nan") if value is None else 100 * value


def _nocs_mean(results: list[Any]) -> dict[str, float]:
    scores = [r["scores"]["classes"] for r in results if isinstance(r, dict) and "scores" in r]
    own = [next(iter(s.values())) for s in scores if s]  # each run scores its own category
    rows = {"10deg10cm": "10° 10 cm", "10deg": "10°"}
    return {
        f"mean of {len(own)} categories, {shown}": _percent(sum(c["pose"][key] for c in own) / len(own))
        if own
        else float("nan")
        for key, shown in rows.items()
    }


def _viewpoint_rows(results: list[Any]) -> dict[str, float]:
    names = [f"{net}, {inputs}" for net in ("combined", "separate") for inputs in INPUTS]
    return {name: _percent(r["overall"]["azimuth"]["accuracy"]) for name, r in zip(names, results, strict=True)}


TABLES = {
    "linemod": Table(
        "LINEMOD with EPro-PnP-6DoF, ADD(-S) below 0.1 diameters, percent",
        ("EPro-PnP-6DoF's dataset/lm (real_train, real_test, imgn), --data: its README has the link",
         "BOP's lm models (lm_models.zip, bop.felk.cvut.cz), --models lm/models",
         "optional: VOC2012/JPEGImages, --backgrounds; the original's weights, --weights, in place of training"),
        "two stages of 77,000 steps of 32 crops of 256 pixels: days on one GPU of 12 GB; with --weights minutes; 20 GB of disk",
        {"ADD(-S) 0.1 d (coord-init)": 95.76}, _linemod,
        lambda r: {"ADD(-S) 0.1 d (coord-init)": _percent(r[-1]["add_s"]["0.1"])}, ("models",),
    ),
    "lmo": Table(
        "LM-O with RNNPose from PVNet's poses, ADD(-S) below 0.1 diameters, percent; published: not yet checked in the paper",
        ("LM-O with train_pbr: monopose download lmo, --data data/lmo",
         "PVNet's poses, --poses pvnet_lmo-test.csv: init_poses, whose link is in RNNPose's doc/prepare_data.md, through "
         "monopose convert poses"),
        "200,000 steps of one crop of 240 pixels: about a day on one GPU of 12 GB; 30 GB of disk",
        {"refined": 60.65, "PVNet's poses": 40.8}, _lmo,
        lambda r: {
            name: _percent(scores["add_s_linemod"]["0.1"]) for name, scores in zip(("refined", "PVNet's poses"), r, strict=True)
        },
        ("poses",),
    ),
    "nuscenes": Table(
        "nuScenes val with EPro-PnP-Det v1b, percent",
        ("nuScenes v1.0-trainval with its pictures and LIDAR_TOP, nuscenes.org, --data nuscenes",),
        "12 passes over 168,780 pictures of 1600 x 672: days on two GPUs of 24 GB; 350 GB of disk; the index is made once",
        {"NDS": 44.4}, _nuscenes, lambda r: {"NDS": _percent(r[-1]["nds"])},
    ),
    "pix3d": Table(
        "Pix3D, azimuth in eight bins, percent",
        ("monopose download pix3d, --data data/pix3d; or the crops of the original with their tables",
         "its train_test_sp.pickle, from the original's repository, into that folder"),
        "eight networks of 25 passes over 9064 crops of 224 pixels: about an hour each on a GPU, a day on a CPU; 8 GB of disk",
        dict(zip((f"{net}, {i}" for net in ("combined", "separate") for i in INPUTS),
                 (56.89, 72.06, 64.37, 65.53, 50.80, 36.93, 38.12, 41.12), strict=True)),
        _pix3d, _viewpoint_rows,
    ),
    "real275": Table(
        "REAL275 with neural analysis by synthesis, mean of six categories, percent; published: as later papers quote it",
        ("monopose download real275, --data data/real275",
         "optional, into that folder: nocs_det, the masks of NOCS's detector (prepare_datasets.sh of the original has the "
         "link), and gts, NOCS's ground truth",
         "VGG-19's ImageNet weights, which torchvision fetches"),
        "six networks of 100,000 steps of 256 pairs: a day each on a GPU of 12 GB; the search takes about two days",
        {"mean of 6 categories, 10° 10 cm": 4.8, "mean of 6 categories, 10°": 14.2}, _real275, _nocs_mean,
    ),
}  # fmt: skip


def plan(name: str) -> Result:
    """What a reproduction needs, costs and is compared with."""
    table = TABLES[name]
    data = {"title": table.title, "download": list(table.fetch), "cost": table.cost, "published": dict(table.published)}
    lines = [table.title, *(f"  get: {line}" for line in table.fetch), f"  cost, estimated: {table.cost}"]
    lines += [f"  published: {row} {value:g}" for row, value in table.published.items()]
    return Result(
        data, "\n".join([*lines, f"then: monopose reproduce {name} --data DIR --out DIR; --quick tries the way first"])
    )


def run(name: str, given: Given, do: Callable[[Sequence[str]], Any], say: Printer = silent) -> Result:
    """Run all steps of a table, those that are not done; returns it with ours beside the published.

    Args:
        name: of `TABLES`.
        given: what it is made from.
        do: runs a command line and returns its result.
        say: takes each command before it runs.

    Raises:
        ValueError: something that the table needs is not given.
        Whatever a step raises.
    """
    table = TABLES[name]
    if missing := [n for n in table.needs if getattr(given, n) is None]:
        raise ValueError(f"{name} needs --{missing[0]}; monopose reproduce {name} without --data says where it comes from")
    file = given.out / "done.json"
    done: dict[str, Any] = records.mapping(records.read_json(file), str(file)) if file.is_file() else {}
    results = []
    for words in table.steps(given):
        line = " ".join(words)
        scores = words[0] == "evaluate" or "--nocs" in words
        say(f"{'done before: ' * (line in done)}monopose {line}")
        if line not in done:
            try:
                result = do(words)
            except ValueError as error:
                if not (given.quick and words[0] == "evaluate"):
                    raise  # of a network that has learned nothing, poses may be none that a protocol takes
                summary = {"table": name, "quick": True, "rows": {}, "not_scored": str(error)}
                return Result(summary, f"{table.title}: every step ran; what so small a network says cannot be scored: {error}")
            result = result.as_dict() if isinstance(result, Result) else result
            if isinstance(result, Mapping) and result.get("stopped"):
                return Result({"stopped": True}, f"interrupted; monopose reproduce {name} with the same options goes on")
            done[line] = result if scores else True
            write_json(file, done)
        if scores:
            results.append(done[line])
    ours = table.ours(results)
    rows = {row: {"published": table.published.get(row), "ours": value} for row, value in ours.items()}
    lines = [table.title + (" (tried with --quick: the numbers mean nothing)" if given.quick else "")]
    width = max(map(len, rows))
    for row, pair in rows.items():
        shown = "-" if pair["published"] is None else f"{pair['published']:.2f}"
        lines.append(f"  {row:{width}}  published {shown:>6}  ours {pair['ours']:.2f}")
    write_json(given.out / "table.json", {"table": name, "quick": given.quick, "rows": rows})
    return Result({"table": name, "quick": given.quick, "rows": rows}, "\n".join(lines))
