"""Broken files in every reader: an error that names the file, or a result that is right; soon, and in little memory.

500 of them in `make test`, 5,000 by `make fuzz`; the number of a case, which the failure says, makes it again.
"""

import ast
import dataclasses
import os
import random
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fuzz.mutate import Mutation, mutated
from fuzz.readers import OTHERS, READERS

SOURCE = Path(__file__).parents[2] / "src" / "monopose"
CASES = int(os.environ.get("MONOPOSE_FUZZ", "500"))
SLOW, LARGE = 5.0, 1 << 20  # seconds of the processor; kilobytes
PLACES = ("io/", "datasets/", "mesh/", "weights.py")  # where readers are looked for
NAMES = ("read", "load", "open", "parse", "find", "existing", "iterate", "images", "scenes", "infos", "results_folder",
         "count_images", "image_widths", "look_is", "model_paths", "weights_in")  # fmt: skip


def _functions():
    """Public functions that take a path and are called like readers."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.parse(path.read_text(encoding="utf-8")).body if name.startswith(PLACES) else ():
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith(NAMES) or node.name == "load_into":
                continue
            kinds = " ".join(ast.unparse(a.annotation) for a in [*node.args.args, *node.args.kwonlyargs] if a.annotation)
            if any(kind in kinds for kind in ("Path", "Scene", "Record")) or node.name in ("read_boxes", "parse_json"):
                yield f"{name[:-3].replace('/', '.')}.{node.name}"


def test_every_reader_is_tried():
    listed = {function for reader in READERS.values() for function in reader.functions.split()}
    found = set(_functions())
    assert found - listed - set(OTHERS) == set(), "put these into READERS, or into OTHERS with the reason"
    assert set(OTHERS) <= found | {"io.records.parse_yaml"}
    for name in listed:
        module, _, function = name.rpartition(".")
        assert f"def {function}(" in (SOURCE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


class _Slow(BaseException):
    pass


def _stop(*_):
    raise _Slow


def _print(value):
    """A result as plain values that can be compared, and whether all its numbers are finite."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return (value.shape, value.tobytes()), value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if isinstance(value, float):
        return value, bool(np.isfinite(value))
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        value = [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple, np.ndarray)):
        parts = [_print(v) for v in value]
        return [p for p, _ in parts], all(f for _, f in parts)
    return repr(value), True


def _peak():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _problem(reader, folder: Path, file: Path, mutation: Mutation, right) -> str | None:
    """What is wrong with how a reader takes a broken file; None: nothing."""
    before, peak = time.process_time(), _peak()
    signal.setitimer(signal.ITIMER_PROF, SLOW)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = reader.call(folder)
            if hasattr(result, "__next__"):
                result = list(result)
        problem = None
    except _Slow:
        return "hangs"
    except (ValueError, OSError) as error:
        if isinstance(error, UnicodeError) or type(error).__module__.partition(".")[0] not in (
            "builtins",
            "json",
            "PIL",
            "monopose",
        ):
            return f"raw {type(error).__name__}: {error}"
        problem = (
            None if any(n in str(error) for n in (file.name, file.stem, reader.called)) else f"does not name the file: {error}"
        )
        result = None
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if time.process_time() - before > SLOW:
        return f"takes {time.process_time() - before:.0f} s"
    if _peak() - peak > LARGE:
        return f"takes {(_peak() - peak) / LARGE:.1f} GB"
    if result is not None:
        seen, finite = _print(result)
        if not finite and not reader.unknown:
            return "gives NaN or infinity"
        if mutation.same and reader.kinds and seen != right:
            return "takes it for something else"
    return problem


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Name of a reader -> its folder, its files, what is in them, and what it makes of them."""
    kept = {}

    def of(name):
        if name not in kept:
            reader, folder = READERS[name], tmp_path_factory.mktemp(name.replace(".", "_")) / "x"
            folder.mkdir()
            reader.write(folder)
            files = sorted({p for pattern in reader.files for p in folder.glob(pattern) if p.is_file()})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kept[name] = folder, {p: p.read_bytes() for p in files}, _print(reader.call(folder))
        return kept[name]

    return of


@pytest.fixture(autouse=True)
def _clock():
    before = signal.signal(signal.SIGPROF, _stop)
    yield
    signal.signal(signal.SIGPROF, before)


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="needs POSIX timers")
def test_brackets_within_brackets_are_followed_by_nobody(prepared):
    """JSON and YAML of 100,000 levels, which ended in RecursionError or took minutes, in every file of every reader."""
    problems = []
    for name, reader in READERS.items():
        folder, files, _ = prepared(name)
        for file, whole in files.items():
            if file.suffix in (".json", ".yaml", ".yml"):
                file.write_bytes(b"[" * 100_000 if len(problems) % 2 else b'{"a":' * 100_000)
                try:
                    problems.append((name, file.name, _problem(reader, folder, file, Mutation(b"", "deep"), None)))
                finally:
                    file.write_bytes(whole)
    assert len(problems) > 30
    assert [p for p in problems if p[2]] == []


@pytest.mark.skipif(not hasattr(signal, "SIGPROF"), reason="needs POSIX timers")
@pytest.mark.parametrize("name", READERS)
def test_broken_files(prepared, name):
    folder, files, (right, finite) = prepared(name)
    assert files
    assert finite or READERS[name].unknown
    problems = []
    tries = -(-CASES // len(READERS))
    for case in range(tries):
        rng = random.Random(f"{name} {case}")
        file = rng.choice(list(files))
        mutation = mutated(files[file], file.name, rng)
        if mutation.data == files[file]:
            continue
        file.write_bytes(mutation.data)
        try:
            problem = _problem(READERS[name], folder, file, mutation, right)
        finally:
            file.write_bytes(files[file])
        if problem:
            problems.append(f"case {case}, {file.name}, {mutation.what}: {problem[:300]}")
    assert not problems, f"{len(problems)} of {tries}:\n" + "\n".join(problems[:40])
