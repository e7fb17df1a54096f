"""The command line: finds what a command line is about, lets tyro parse the options of exactly that, prints the result.

Train, predict, evaluate and synth do different things with different data. Which, is seen first, from the method, the files in
the run folder or the result file; then the dataclass in the `options.py` of that family says what else may be given.

Results go to standard output, everything else to standard error. Exit code 0: done; 1: an error, in one line, or a
check that failed; 2: a wrong command line; 130: interrupted.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import json
import math
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import Positional

from . import compiled, runs
from .category import options as category
from .command import Common, Result, silent
from .commands import options as own
from .io import hub, shards
from .io.files import is_disk_full
from .objects import options as objects
from .road import options as road
from .tracking import options as tracking
from .viewpoint import options as viewpoint


class Task(NamedTuple):
    """One thing that a command can do, with options of its own."""

    family: str
    options: type[Common]
    short: str  # what it is about
    title: str  # the same at length
    example: str  # the command line whose --help shows the options
    methods: tuple[str, ...] = ()  # of training


LEARN_CAD = ("coordinates", "probabilistic", "refiner", "silhouettes", "detector")
TASKS = {
    "synth": (
        Task("objects", objects.Synth, "BOP folders", "a BOP folder from CAD models", "synth part.stl"),
        Task("viewpoint", viewpoint.Synth, "--pix3d", "for viewpoints, in Pix3D's layout", "synth --pix3d"),
        Task("road", road.Synth, "--road", "roads with boxes in 3D", "synth --road"),
        Task("tracking", tracking.Synth, "--video", "videos of CAD models with true poses", "synth --video part.stl"),
    ),
    "train": (
        Task("objects", objects.Train, ", ".join(LEARN_CAD), "and the others that learn known CAD models: "
             + ", ".join(LEARN_CAD[1:]), "train coordinates", LEARN_CAD),
        Task("objects", objects.TrainAll, "all", "what a run for known CAD models needs, one after the other", "train all",
             ("all",)),
        Task("viewpoint", viewpoint.Train, "viewpoint", "azimuth, elevation and in-plane rotation", "train viewpoint",
             ("viewpoint",)),
        Task("viewpoint", viewpoint.TrainNormals, "normals", "an input of viewpoint networks", "train normals", ("normals",)),
        Task("category", category.Train, "category", "pose and shape without a CAD model", "train category", ("category",)),
        Task("road", road.Train, "box3d", "boxes in 3D of what is on a road", "train box3d", ("box3d",)),
    ),
    "predict": (
        Task("objects", objects.Predict, "runs that know CAD models", "poses of known objects: coordinates, probabilistic",
             "predict --model demo"),
        Task("viewpoint", viewpoint.Predict, "viewpoint runs", "viewpoints: viewpoint", "predict --model RUN"),
        Task("category", category.Predict, "category runs", "poses of a category: category", "predict --model RUN"),
        Task("road", road.Predict, "box3d runs", "boxes in 3D: box3d", "predict --model RUN"),
    ),
    "evaluate": (
        Task("objects", objects.Evaluate, "BOP result files", "METHOD_DATASET-SPLIT.csv", "evaluate results.csv"),
        Task("viewpoint", viewpoint.Evaluate, "viewpoints", "predictions.json", "evaluate predictions.json"),
        Task("road", road.Evaluate, "boxes on roads", "results_nusc.json, or a folder of KITTI files",
             "evaluate results_nusc.json"),
        Task("tracking", tracking.Evaluate, "tracks of a video", "tracks.jsonl", "evaluate tracks.jsonl"),
        Task("category", category.Evaluate, "NOCS result files", "a folder of results_*.pkl", "evaluate FOLDER"),
    ),
}  # fmt: skip
USAGE = {  # of commands that do several things, and what decides which
    "synth": ("synth [MODELS] --out DIR [OPTIONS]", "The options depend on what is made"),
    "train": ("train METHOD --data DIR [OPTIONS]", "The options depend on the METHOD"),
    "predict": ("predict SOURCE --model RUN [OPTIONS]", "The options depend on what the run in its folder has weights of"),
    "evaluate": ("evaluate RESULTS --data DIR [OPTIONS]", "The options depend on the RESULTS"),
}


class Command(NamedTuple):
    """A command: its group in `monopose --help`, what it does, its options; None: they depend on the task, see `TASKS`."""

    group: str
    title: str
    options: type[Common] | None = None


LOOK, LEARN, POSES, MORE = "look", "make pictures, learn", "poses", "more"
COMMANDS = {
    "demo": Command(LOOK, "poses in bundled pictures, offline, beside the true ones", own.Demo),
    "check": Command(LOOK, "look at a mesh, a BOP folder, or a photo and its camera", own.Check),
    "camera": Command(LOOK, "make a camera file from photos of a board, or of another program's", own.MakeCamera),
    "doctor": Command(LOOK, "versions, accelerators, memory, disk, and what is wrong with them", own.Doctor),
    "view": Command(
        LOOK, "a page with a run's poses in 3D, with its tracks of a video, or with a mesh's symmetry axes to accept", own.View
    ),
    "synth": Command(LEARN, "render training pictures from CAD models, or from shapes made in code"),
    "train": Command(LEARN, "train a method; goes on where it stopped"),
    "calibrate": Command(LEARN, "learn what a run's scores mean", objects.Calibrate),
    "report": Command(LEARN, "is a run good enough? One page with figures, pictures and what to try", objects.Report),
    "download": Command(LEARN, "fetch a public data set", own.Download),
    "predict": Command(POSES, "poses, viewpoints or boxes in pictures, or in a whole data set"),
    "merge": Command(POSES, "put together what shards (--shard I/N) have done", own.Merge),
    "track": Command(POSES, "follow known objects through a video by their outlines", tracking.Track),
    "refine": Command(POSES, "refine the poses of a BOP result file", objects.Refine),
    "evaluate": Command(POSES, "score results by the data set's protocol"),
    "export": Command(POSES, "write a run's networks as ONNX, and a program that needs neither torch nor monopose", own.Export),
    "push": Command(POSES, "put a run on the Hugging Face hub, with a model card", own.Push),
    "convert": Command(MORE, "make a BOP folder of another layout", own.Convert),
    "convert-weights": Command(MORE, "take over the weights of the original systems", own.ConvertWeights),
    "targets": Command(MORE, "write the targets file of a BOP split", own.MakeTargets),
    "fit-identity": Command(MORE, "the EPro-PnP demonstration", own.FitIdentity),
    "reproduce": Command(MORE, "a table of the papers: what it needs, its steps, its numbers beside ours", own.Reproduce),
}
FAMILIES = {  # what they are about, for the same help
    "objects": "known objects, by their CAD models",
    "viewpoint": "a class of furniture: directions",
    "category": "a class without CAD models: pose and shape",
    "road": "boxes in 3D on roads",
}

# ------------------------------------------------------------------------------------------------ what the commands do


def _check(args: own.Check) -> Any:
    from .commands import check

    if not args.paths:
        raise ValueError("nothing to check; give a mesh file, a BOP folder or a photo")

    results = check.check_paths(args.paths, args.unit, args.camera, args.out)
    return results if len(results) > 1 else results[0]


def _camera(args: own.MakeCamera) -> Any:
    from .commands import camera

    if args.source is not None:
        return camera.convert(args.source, args.out, args.size, args.number)
    columns, rows = args.charuco or args.checkerboard or (0, 0)
    board = camera.Board(columns, rows, args.charuco is not None, args.marker)
    return camera.calibrate(args.photos, board, args.out, silent if args.json else _say)


def _fit_identity(args: own.FitIdentity) -> Any:
    from .commands import fit_identity

    config = fit_identity.Config(seed=args.seed)
    return fit_identity.run(args.out, args.steps, config, args.device, args.pictures, progress_bar=not args.json)


SHARED = ("synth", "predict", "calibrate", "evaluate")  # commands with --shard


def _merge(args: own.Merge) -> Any:
    """Run the commands again that the shards ran, to compute nothing but put together."""
    results = []
    for job in shards.jobs(args.out):
        words = list(job["command"])
        if not words:
            raise ValueError(f"{job['folder']} was made from Python; call the same function with shard=shards.MERGE")
        if words[0] not in SHARED:  # the file may come from anybody
            raise ValueError(f"{job['folder']} names a command that has no shards: {words[0]!r}; expected {', '.join(SHARED)}")
        here = os.getcwd()
        if not Path(job["cwd"]).is_dir():
            text = f"the shards of {job['folder']} were started in {job['cwd']}, which is not there"
            raise FileNotFoundError(f"{text}; merge on a machine that has it, as relative paths are meant from there")
        try:
            os.chdir(job["cwd"])  # relative paths are meant from there
            results.append(do([*without(words, "--shard", 1), "--shard", "merge"]))
        finally:
            os.chdir(here)
    return results if len(results) > 1 else results[0]


def do(words: Sequence[str]) -> Any:
    """Run a command line and return its result; raises what goes wrong, prints nothing."""
    args = parse(words)
    args.words, args.json = tuple(words), True
    return _run(words[0], args)


def without(words: Sequence[str], option: str, count: int) -> list[str]:
    """A command line without an option and as many words after it, at most."""
    kept: list[str] = []
    skip = 0
    for word in words:
        if word.startswith("--"):
            skip = count * ("=" not in word) + 1 if _name_of(word) == option else 0
        if skip == 0:
            kept.append(word)
        skip = max(skip - 1, 0)
    return kept


def _targets(args: own.MakeTargets) -> dict[str, Any]:
    from .datasets.bop import scenes, writing

    found = scenes.targets_of(scenes.scenes(args.split), args.min_visibility)
    if not len(found.im_id):
        raise ValueError(f"{args.split} shows no object that is {args.min_visibility:.0%} visible")
    writing.write_targets(args.out, found)
    return {"targets": str(args.out), "rows": len(found.im_id)}


def _reproduce(args: own.Reproduce) -> Any:
    from .commands import reproduce

    if args.data is None:
        return reproduce.plan(args.name)
    out = args.out or Path("out/reproduce") / args.name
    given = reproduce.Given(args.data, out, args.models, args.poses, args.weights, args.backgrounds, args.quick)
    return reproduce.run(args.name, given, do, silent if args.json else _say)


def _run(command: str, args: Common) -> Any:
    """Do the work; returns its result."""
    cluster = getattr(args, "sharing", None) or getattr(args, "cluster", None)
    if cluster is not None and cluster.ray is not None:
        words = without(without(args.words, "--ray", len(cluster.ray)), "--ray-workers", 1)
        family = (runs.family_of(getattr(args, "model", "")) or "objects") if command == "predict" else "objects"
        run = import_module(".commands.cluster", __package__).run
        return run(words, do, cluster.ray[0] if cluster.ray else None, cluster.ray_workers, family)
    if isinstance(args, own.Merge):
        return _merge(args)
    if isinstance(args, own.Demo):
        return import_module(".commands.demo", __package__).run(args.out)
    if isinstance(args, own.Check):
        return _check(args)
    if isinstance(args, own.MakeCamera):
        return _camera(args)
    if isinstance(args, own.Download):
        if (name := hub.hub_name(args.name)) is not None:
            return {"folder": str(hub.fetch(name, renew=True))}
        download = import_module(".datasets.download", __package__)
        return {"folder": str(download.download(args.name, args.out, args.url, args.parts))}
    if isinstance(args, own.View):
        return import_module(".commands.viewer", __package__).view(args, _say)
    if isinstance(args, own.Push):
        publish = import_module(".commands.publish", __package__)
        return publish.push(args.run, args.name, licence=args.license, private=args.private)
    if isinstance(args, own.Convert):
        convert = import_module(".datasets.bop.convert", __package__)
        if args.layout == "poses":
            given = (args.folder, args.pictures, args.out, args.frames, args.noise or (0.0, 0.0))
            return {"results": str(args.out), **convert.convert_poses(*given)}
        work = convert.convert_cdpn if args.layout == "cdpn" else convert.convert_deepim
        return {"folder": str(args.out), **work(args.folder, args.out, args.models)}
    if isinstance(args, own.ConvertWeights):
        originals = import_module(".commands.original_weights", __package__)
        return originals.convert(args.kind, args.file, args.out, args.models, args.object)
    if isinstance(args, own.Reproduce):
        return _reproduce(args)
    if isinstance(args, own.MakeTargets):
        return _targets(args)
    if isinstance(args, own.FitIdentity):
        return _fit_identity(args)
    if isinstance(args, own.Export):
        return import_module(".commands.export", __package__).export(args.run, args.out)
    if isinstance(args, own.Doctor):
        doctor = import_module(".commands.doctor", __package__)
        report = doctor.examine()
        if args.warm_up and report.ok:
            doctor.warm_up()
        return report
    if isinstance(args, tracking.Track):
        done = import_module(".tracking.commands", __package__).track(args, silent if args.json else _say)
        return Result(done, "\n".join(f"{name}: lost in {n} of {done['frames']} pictures" for name, n in done["lost"].items()))
    family = next((task.family for task in TASKS.get(command, ()) if task.options is type(args)), "objects")
    work = getattr(import_module(f".{family}.commands", __package__), command)
    return work(args, silent if args.json else _say) if command in ("predict", "train") else work(args)


# ----------------------------------------------------------------------------------------------------------- printing


def _exit_code(result: Any) -> int:
    """0; 130 if somebody interrupted, 1 if something that was looked at is not right."""
    if isinstance(result, Result) and result.data.get("stopped"):
        return 130
    return int(any(getattr(r, "problems", None) for r in (result if isinstance(result, list) else [result])))


def _plain(value: Any) -> Any:
    """Dataclasses, tensors, arrays and paths as what JSON knows; what has an `as_dict()` says it itself."""
    if callable(getattr(value, "as_dict", None)):
        return _plain(value.as_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
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


def _say(*lines: str) -> None:
    """Print. Whoever reads may stop at any time, as `| head` does: the work goes on without a word."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
    """Our own warnings and the user's data in one line; the chatter of libraries is left out."""
    if Path(filename).is_relative_to(Path(__file__).parent) or category.__module__.startswith("monopose"):
        print(f"monopose: warning: {message}", file=sys.stderr)


# --------------------------------------------------------------------------------------------------------------- entry


class UsageError(ValueError):
    """A wrong command line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = ""
    try:
        code = _main(argv)
    except KeyboardInterrupt as stop:
        code, words = 130, f": {stop}" if str(stop) else ""  # what was saved
    if code == 130:
        print(f"monopose: interrupted{words}", file=sys.stderr)
    return code


def _main(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv in (["--version"], ["-V"]):
        from . import __version__

        _say(f"monopose {__version__}")
        return 0
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files may be any bytes
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # read when torch is imported: threads that wait leave the core to others
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # what it warns of, we say ourselves: no such camera, no whole video
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        args = parse(argv or ["--help"])
    except (ValueError, OSError) as error:  # OSError: a result file that cannot be read
        print(f"monopose: error: {_message(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    try:
        _limit_threads(args.threads)
        args.words = tuple(argv)
        if not args.json:
            compiled.tell(lambda line: print(f"monopose: {line}", file=sys.stderr, flush=True))
        result = _run(argv[0], args)
        if args.json:
            _say(json.dumps(_plain(result)))
        elif result is not None:
            _say("\n".join(_lines(result)))
        return _exit_code(result)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        sys.stderr.close()
        return 1
    except Exception as error:
        if args.debug:
            raise
        print(f"monopose: error: {_message(error)}", file=sys.stderr)
        return 1


def _limit_threads(count: int | None) -> None:
    """For all libraries that compute; they read this when they are imported, which is later."""
    if count is None:
        return
    if count < 1:
        raise ValueError(f"--threads must be 1 or more, got {count}")
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(count)
    os.environ["OPENCV_FOR_THREADS_NUM"] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def parse(argv: Sequence[str]) -> Any:
    """The options of a command line.

    Returns:
        an instance of the dataclass of options that fits it.

    Raises:
        UsageError: says in a line what was expected, what came, and what to try.
        SystemExit: code 0, after --help was printed.
    """
    command, words = argv[0], list(argv[1:])
    if command in ("--help", "-h"):
        _print_help(_overview())
    if command not in COMMANDS:
        raise UsageError(f"no command {command!r}; {_choices(command, COMMANDS)}; see monopose --help")
    own_options = COMMANDS[command].options
    if own_options is not None:
        _refuse_unknown(command, Task("", own_options, "", "", ""), words)
        return _parse(command, own_options, words)
    task = _task_of(command, words)
    if isinstance(task, str):
        if "--help" in words or "-h" in words:
            _print_help(_overview_of(command))
        raise UsageError(f"{task}; see monopose {command} --help")
    _refuse_unknown(command, task, words)
    return _parse(command, task.options, words)


def _parse(command: str, options: type[Common], words: list[str]) -> Common:
    """Let tyro read the words; its boxes of several lines become one line."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            args: Common = tyro.cli(
                options, prog=f"monopose {command}", args=words,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )  # fmt: skip
    except BrokenPipeError:  # whoever reads the help has stopped
        _say()
        raise SystemExit(0) from None
    except SystemExit as stop:
        if not stop.code:
            _say()  # the help that tyro has printed
            raise
        lines = [line.strip("│|╭╮╰╯─ ") for line in box.getvalue().splitlines()]
        lines = [line for line in lines if line.strip("-+")]  # without the rules of a box
        text = " ".join(line for line in lines[1:] if not line.startswith(("For full helptext", "monopose ")))
        message = re.split(" Got errors:| Argument helptext:", text)[0]
        of_another_kind = r"Error parsing (\S+): no type matching {None}\|{?(.*?)}? could be instantiated from"
        message = re.sub(of_another_kind, r"\1 takes \2, got", message)
        of_these = r"invalid choice '(.*?)' for argument '(\S+)'\. Expected one of \((.*?)\)\."
        message = re.sub(of_these, lambda m: f"{m[2]} takes {_one_of(m[3])}, got {m[1]!r}", message)
        raise UsageError(f"{message} (see monopose {command} --help)") from None
    try:
        _refuse_negative(args)
        args.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    return args


def _one_of(choices: str) -> str:
    """tyro's list of choices, in an order that does not change, without the word for none of them."""
    return " or ".join(sorted(set(re.findall(r"'(.*?)'", choices)) - {"None"}))


def _refuse_negative(options: Any) -> None:
    """ValueError where a whole number is below 0: all of them count something."""
    for f in fields(options):
        value = getattr(options, f.name)
        if is_dataclass(value):
            _refuse_negative(value)
        elif type(value) is int and value < 0:
            raise ValueError(f"--{f.name.replace('_', '-')} must be 0 or more, got {value}")


def _task_of(command: str, words: list[str]) -> Task | str:
    """What a command line is about, or what it lacks to say so."""
    tasks = TASKS[command]
    first = next(iter(_positionals(tasks, words)), None)
    if command == "synth":
        chosen = {"--pix3d": "viewpoint", "--road": "road", "--video": "tracking"}
        named = [word for word in chosen if word in words]
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)} make different data sets; give one of them")
        family = chosen[named[0]] if named else "objects"
        if family == "road" and first is not None:
            raise UsageError(f"--road makes its own shapes; leave {first} out")
        if family in ("objects", "tracking") and first is None:
            return "no models; give mesh files or one models folder, or --pix3d or --road for shapes made in code"
    elif command == "predict":
        model = _value_of("--model", words)
        if model is None:
            meant = difflib.get_close_matches("--model", words, 1, 0.8)
            hint = f", not {meant[0]}" if meant else ""
            return f"no run; give --model RUN, a run folder or the name of bundled weights{hint}"
        family = runs.family_of(model) or "objects"
    elif first is None:
        return "no METHOD; say what to train" if command == "train" else "no RESULTS; give the file or folder to score"
    elif command == "train":
        methods = {method: task for task in tasks for method in task.methods}
        if first not in methods:
            raise UsageError(f"no method {first!r} to train; {_choices(first, methods)}")
        return methods[first]
    else:
        family = _family_of_results(Path(first))
    return next(task for task in tasks if task.family == family)


def _family_of_results(path: Path) -> str:
    """Boxes on roads are a folder of KITTI files, or nuScenes' JSON; categories a folder of NOCS's pickles; tracks are JSON
    lines; viewpoints are another JSON; else it is BOP's CSV."""
    if path.is_dir():
        return "category" if next(path.glob("results_*.pkl"), None) is not None else "road"
    if path.suffix.lower() == ".jsonl":
        return "tracking"
    if path.suffix.lower() != ".json":
        return "objects"
    if not path.is_file():
        return "road" if "nusc" in path.name else "viewpoint"
    from .io.records import read_json

    content = read_json(path)
    return "road" if isinstance(content, dict) and "results" in content else "viewpoint"


def _options_of(options: type) -> Iterator[tuple[str, int | None]]:
    """The options of a dataclass, with how many words follow each: None, as many as there are."""
    hints = get_type_hints(options, include_extras=True)
    for f in fields(options):
        hint, notes = hints[f.name], list(getattr(hints[f.name], "__metadata__", ()))
        bare = get_args(hint)[0] if notes else hint
        if is_dataclass(bare):
            yield from _options_of(bare)  # type: ignore[arg-type]
            continue
        if Positional in notes:
            continue
        bare = next((a for a in get_args(bare) if get_origin(a) is tuple), bare)  # of tuple | None
        count: int | None = 0 if bare is bool else 1
        if get_origin(bare) is tuple:
            count = None if Ellipsis in get_args(bare) else len(get_args(bare))
        called = next((note.name for note in notes if getattr(note, "name", None)), f.name)
        names = [f"--{called.replace('_', '-')}", *(alias for note in notes for alias in getattr(note, "aliases", None) or ())]
        yield from ((name, count) for name in names)


def _name_of(word: str) -> str:
    """The option in a word as it is written in the table: --size_m=3 is --size-m."""
    return "--" + word.partition("=")[0][2:].replace("_", "-")


def _positionals(tasks: Sequence[Task], words: Sequence[str]) -> Iterator[str]:
    """The words that belong to no option."""
    counts = {name: count for task in tasks for name, count in _options_of(task.options)}
    skip: int | None = 0
    for word in words:
        if word.startswith("--"):
            skip = 0 if "=" in word else counts.get(_name_of(word), 1)
        elif skip == 0:
            yield word
        elif skip is not None:
            skip -= 1


def _value_of(option: str, words: Sequence[str]) -> str | None:
    for word, following in zip(words, [*words[1:], None]):
        if _name_of(word) == option and word.startswith("--"):
            return word.partition("=")[2] if "=" in word else following
    return None


def _refuse_unknown(command: str, task: Task, words: Sequence[str]) -> None:
    """UsageError where an option is given that this kind of work does not have; says which has it."""
    have = {name for name, _ in _options_of(task.options)} | {"--help"}
    for word in words:
        name = _name_of(word)
        if not word.startswith("--") or name in have:
            continue
        owners = [other.short for other in TASKS.get(command, ()) if name in {n for n, _ in _options_of(other.options)}]
        here = _value_of("--model", words) if command == "predict" else task.short
        if owners:
            raise UsageError(f"{name} belongs to {' and '.join(owners)}, not to {here}")
        near = difflib.get_close_matches(name, have, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; see monopose {command} --help"
        raise UsageError(f"{name} is no option of monopose {command}{' for ' * bool(task.short)}{task.short}{hint}")


def _choices(word: str, known: Iterable[str]) -> str:
    """The one that was meant, if a word is close to it, and all that there are."""
    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"did you mean {near[0]}? There are {', '.join(known)}" if near else f"choose one of {', '.join(known)}"


ON_DISK = {  # what to do where the operating system refuses
    errno.EACCES: "; name a place that you may write to, or read from",
    errno.EPERM: "; name a place that you may write to, or read from",
    errno.EROFS: "; name a place that can be written to",
    errno.EEXIST: "; name a folder, or a place where nothing is",
    errno.ENOTDIR: "; what is named as a folder is a file",
    errno.EISDIR: "; a file is wanted, not a folder",
    errno.ENOENT: "; nothing is there, and nothing can be made there",
}

# ---------------------------------------------------------------------------------------------------------------- help


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = []
    for group in (LOOK, LEARN, POSES, MORE):
        shown = [f"  {name:{width}}  {command.title}" for name, command in COMMANDS.items() if command.group == group]
        lines += [f"{group}:", *shown, ""]
    families = max(map(len, FAMILIES.values()))
    lines.append("what for:")
    for family, title in FAMILIES.items():
        examples = [
            f"train {' | '.join(task.methods)}" if task.methods else task.example.split(" --model")[0]
            for tasks in TASKS.values()
            for task in tasks
            if task.family == family
        ]
        words = ", ".join(dict.fromkeys(examples))
        lines += textwrap.wrap(f"  {title:{families}}  {words}", 120, subsequent_indent=" " * (families + 4))
    return "\n".join([
        "usage: monopose COMMAND [OPTIONS]", "", "6DoF poses of objects from one RGB picture.", "",
        *lines, "",
        "monopose COMMAND --help shows the options; those of synth, train, predict and evaluate depend on what for.",
        "Units: metres and degrees on this command line; poses are in metres, in the OpenCV camera frame (x right, y down,",
        "z forward); meshes without a unit need --unit.",
    ])  # fmt: skip


def _overview_of(command: str) -> str:
    (usage, choice), title = USAGE[command], COMMANDS[command].title
    width = max(len(task.example) for task in TASKS[command])
    lines = [f"  monopose {task.example:{width}} --help   {task.title}" for task in TASKS[command]]
    return "\n".join([
        f"usage: monopose {usage}", "", f"{title[0].upper()}{title[1:]}.", "", f"{choice}:", *lines, "",
        "--json prints the result for programs, --debug shows the traceback of an error.",
    ])  # fmt: skip


def _print_help(text: str) -> NoReturn:
    _say(text)
    raise SystemExit(0)


def _message(error: Exception) -> str:
    """One line that says what happened; unexpected kinds of error ask for the traceback."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}{ON_DISK.get(error.errno or 0, '')}" if error.filename else error.strerror
    text = " ".join(text.split())
    if is_disk_full(error) and "disk is full" not in text:
        return f"the disk is full, or a quota is ({text}); free some space or write elsewhere"
    if isinstance(error, (ValueError, OSError, ImportError, FloatingPointError)):
        return text
    return f"{type(error).__name__}: {text} (unexpected; --debug shows where)"
