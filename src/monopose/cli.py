"""The command line. Its options stand in options.py, so that `--help` imports nothing heavy; the work lies elsewhere.

Results go to standard output, everything else to standard error. Exit code 0: done; 1: an error, said in one line, or a
check that failed; 2: a wrong command line; 130: interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

from . import heeded
from .command import (
    Calibrate,
    Check,
    Common,
    Demo,
    Doctor,
    Download,
    Evaluate,
    FitIdentity,
    Predict,
    Refine,
    Result,
    Synth,
    Train,
    silent,
)

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


def _commands(args: heeded.Work) -> ModuleType:
    """What does this work: the commands of a family."""
    family = heeded.check(args)
    package = {"object": "objects", "box3d": "road"}.get(family, family)
    return import_module(f".{package}.commands", __package__)


def _synth(args: Synth) -> int:
    return _finish(args, _commands(args).do_synth(args))


def _train(args: Train) -> int:
    return _finish(args, _commands(args).do_train(args))


def _predict(args: Predict) -> int:
    return _finish(args, _commands(args).do_predict(args, silent if args.json else print))


def _evaluate(args: Evaluate) -> int:
    return _finish(args, _commands(args).do_evaluate(args))


def _calibrate(args: Calibrate) -> int:
    from .objects import calibrate

    report = calibrate.run(
        args.run, args.data, images=args.images, backgrounds=args.backgrounds, seed=args.seed, device=args.device,
        targets=args.targets, picture=args.out, progress_bar=not args.json,
    )  # fmt: skip
    return _finish(args, report)


def _refine(args: Refine) -> int:
    from .objects import bop_pipeline

    debug = args.out.parent / "debug" if args.debug else None
    report = bop_pipeline.refine_bop(
        args.model, args.results, args.bop, args.out, targets=args.targets, hypotheses=args.hypotheses, outer=args.outer,
        inner=args.inner, debug=debug, device=args.device,
    )  # fmt: skip
    return _finish(args, report)


def _download(args: Download) -> int:
    from .datasets import download

    return _finish(args, {"folder": str(download.download(args.name, args.out, args.url))})


def _fit_identity(args: FitIdentity) -> int:
    from . import fit_identity

    config = fit_identity.Config(seed=args.seed)
    report = fit_identity.run(args.out, args.steps, config, args.device, args.pictures, progress_bar=not args.json)
    return _finish(args, report)


def _doctor(args: Doctor) -> int:
    from . import doctor

    report = doctor.examine()
    _finish(args, Result(asdict(report), doctor.text(report)))
    return 0 if report.ok else 1


_COMMANDS: dict[type[Common], tuple[str, Callable[[Any], int]]] = {
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


def _finish(args: Common, result: Any) -> int:
    """Print a result, as JSON or for people; returns the exit code, 130 if somebody interrupted."""
    if args.json:
        print(json.dumps(_plain(result)))
    elif result is not None:
        print("\n".join(_lines(result)))
    return 130 if isinstance(result, Result) and result.data.get("stopped") else 0


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


def parse(argv: list[str]) -> Common:
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
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # read when torch is imported: threads that wait leave the core to others
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
