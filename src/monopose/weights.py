"""Trained weights: one safetensors file per network, with its configuration inside.

A run is a folder, made by training or copied from elsewhere:

    runs/part/
      detector.safetensors      one file per method, named after it
      coordinates.safetensors
      objects/                  models_info.json and one mesh per object, as in a BOP models folder

The header of each file carries `method`, `config` (JSON), `labels` (JSON list of object ids), `monopose_version` and notes,
so a network can be built and filled from its file alone.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from . import __version__
from .io import limits, records
from .io.files import ASSETS, atomic_write, digest_of, existing_file
from .io.hub import located_run

_T = TypeVar("_T")
_RESERVED = ("method", "config", "labels", "monopose_version", "format")
_LARGEST_HALF = 60000.0  # float16 ends at 65504
BASE = ASSETS / "base"  # METHOD.safetensors: what trainings start from
_SMALL = 20_000_000  # elements that a network may make while it is built beside four times its weights
_MAKERS = tuple(f"aten::{name}" for name in ("empty", "zeros", "ones", "full", "rand", "randn"))
_FEWEST_HALF = 4096  # values; smaller tensors save nothing, and may hold an object's size or place in metres


@dataclass(frozen=True)
class Checkpoint:
    """What one weights file holds.

    Args:
        method: name of the method, a key of its table: "coordinates".
        config: the fields of the method's `Config`.
        labels: object ids that the network knows, in the order of its outputs.
        state: parameter name -> tensor; floating point comes as float32.
        version: of the monopose that wrote it.
        notes: free text by key, e.g. {"minutes": "90", "data": "synthetic"}.
        path: where it came from.
    """

    method: str
    config: dict[str, Any]
    labels: tuple[int, ...]
    state: dict[str, Tensor]
    version: str = __version__
    notes: dict[str, str] = field(default_factory=dict)
    path: str = ""


def save(
    path: str | Path,
    state: Mapping[str, Tensor],
    *,
    method: str,
    config: Any,
    labels: Sequence[int] = (),
    notes: Mapping[str, str] | None = None,
    half: bool = False,
) -> Path:
    """Write a network's weights and all that is needed to build it again.

    Args:
        path: file name; `.safetensors` is what `find_run` and others look for.
        state: `model.state_dict()`.
        method: name of the method.
        config: the method's `Config` dataclass, or a dict of its fields.
        labels: object ids the network knows, in the order of its outputs.
        notes: free text to keep beside it.
        half: store large matrices and kernels as float16, about half the size. Vectors (biases, running statistics),
            tensors of fewer than 4096 values and those with values beyond 60000 stay float32.

    Raises:
        OSError: the disk is full; the old file is whole.
    """
    from safetensors.torch import save as as_bytes

    values = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)
    header = {
        "format": "pt",
        "method": method,
        "config": json.dumps(values),
        "labels": json.dumps([int(label) for label in labels]),
        "monopose_version": __version__,
    }
    for key, value in (notes or {}).items():
        if key in _RESERVED:
            raise ValueError(f"the note {key!r} would overwrite a header entry of that name; choose another key")
        header[key] = str(value)
    tensors = {name: _stored(value, half) for name, value in state.items()}
    path = Path(path)
    with atomic_write(path) as temporary:
        temporary.write_bytes(as_bytes(tensors, metadata=header))  # save_file would not ask the umask who may read it
    return path


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    large = value.is_floating_point() and value.dim() >= 2 and value.numel() >= _FEWEST_HALF
    return value.half() if half and large and value.abs().max() < _LARGEST_HALF else value


def read(path: str | Path, method: str | None = None) -> Checkpoint:
    """Read a weights file.

    Args:
        path: the file.
        method: whose weights they have to be; None takes any.

    Raises:
        FileNotFoundError: nothing there; names similar files.
        ValueError: not a safetensors file, cut off, or written by another program; of another method; more parameters than the
            limit; NaN.
    """
    from safetensors import SafetensorError, safe_open

    path = existing_file(path, "weights file")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            if method is not None and header.get("method", method) != method:
                raise ValueError(
                    f"{path} holds the weights of the method {header['method']!r:.60}, expected those of {method!r}; was the "
                    f"file renamed, or copied over another? monopose train {method} makes one"
                )
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            limits.check("MONOPOSE_MAX_PARAMETERS", sum(math.prod(shape) for shape in shapes), str(path))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} is not a whole safetensors file ({size} bytes; {error}). It was probably cut off while being copied "
            "or downloaded: copy it again. Files ending in .ckpt or .pt are training checkpoints, not weights"
        ) from error
    missing = [key for key in ("method", "config", "labels") if key not in header]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)} in its header, so monopose did not write it; expected a file of a run folder"
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{path}: the weights {name!r} hold NaN or infinity: the training diverged, or the file is damaged"
            )
    labels = records.rows(records.parse_json(header["labels"], f"{path}, labels"), f"{path}, labels")
    return Checkpoint(
        method=header["method"],
        config=records.mapping(records.parse_json(header["config"], f"{path}, config"), f"{path}, config"),
        labels=tuple(records.whole(label, f"{path}, labels") for label in labels),
        state={name: value.float() if value.dtype == torch.float16 else value for name, value in state.items()},
        version=header.get("monopose_version", "unknown"),
        notes={key: value for key, value in header.items() if key not in _RESERVED},
        path=str(path),
    )


def noted(path: str | Path, key: str = "data") -> dict[str, Any]:
    """What the training of a weights file wrote down under a name, in JSON; {} where it wrote nothing."""
    return records.mapping(records.parse_json(read(path).notes.get(key, "{}"), f"{path}, {key}"), f"{path}, {key}")


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Fill `model` with the weights; every name and shape has to match.

    Raises:
        ValueError: lists the missing, the unexpected and the differently shaped entries.
    """
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in checkpoint.state],
        "unexpected": [name for name in checkpoint.state if name not in own],
        "of another shape": [
            f"{name} (file {tuple(value.shape)}, model {tuple(own[name].shape)})"
            for name, value in checkpoint.state.items()
            if name in own and own[name].shape != value.shape
        ],
    }
    if any(problems.values()):
        lists = "; ".join(f"{len(names)} {what}: {_shortened(names)}" for what, names in problems.items() if names)
        owner = f"{type(model).__module__}.{type(model).__name__}"
        raise ValueError(
            f"the weights in {checkpoint.path or 'the checkpoint'} do not fit {owner}: {lists}. They were written by "
            f"monopose {checkpoint.version}, this is {__version__}; was the model built from the file's own config?"
        )
    model.load_state_dict(checkpoint.state, strict=True)


class _TooLarge(Exception):
    """A network under construction has grown beyond its bound."""


class _Bounded(TorchDispatchMode):
    """While it lasts, at most `most` elements may be made, asked before they are."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = args[0] if args and func.overloadpacket._qualified_op_name in _MAKERS else ()
        self.left -= math.prod(size) if isinstance(size, (list, tuple)) else 0
        if self.left < 0:
            raise _TooLarge
        return func(*args, **(kwargs or {}))


def load_network(path: str | Path, method: str, config_class: type, model_class: Callable[[Any], nn.Module]) -> Any:
    """The network of a method's weights file, ready to predict: built from the file's own configuration, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: see `read` and `load_into`; the file is of another method; the configuration asks for
            another network than the file holds, or for none that there is.
    """
    checkpoint = read(path, method)
    training = {"pretrained": False, "adversarial_weight": 0.0}  # what only served the start and the training of a network
    config: Any = build_config(config_class, checkpoint.config, str(path))
    config = replace(config, **{k: v for k, v in training.items() if hasattr(config, k)})
    held = sum(value.numel() for value in checkpoint.state.values())
    try:
        with _Bounded(4 * held + _SMALL):
            model = model_class(config)
    except _TooLarge:
        shown = ", ".join(f"{key}={value!r:.60}" for key, value in list(checkpoint.config.items())[:6])
        raise ValueError(
            f"{path}: its configuration asks for a far larger network than the {held:,} parameters that the file holds; "
            f"it was changed, or damaged ({shown})"
        ) from None
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError, ArithmeticError) as error:
        raise ValueError(f"{path}: its configuration builds no network ({type(error).__name__}: {error})") from error
    load_into(model, checkpoint)
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def build_config(config_class: type[_T], values: Mapping[str, Any], where: str = "the configuration") -> _T:
    """The dataclass whose fields JSON has carried: lists become tuples again, nested dicts nested dataclasses.

    Args:
        config_class: a dataclass.
        values: field name -> JSON value. Fields that are not named keep their defaults.
        where: what to call the values in errors.

    Raises:
        ValueError: a name is not a field of the class.
    """
    names = [f.name for f in fields(config_class)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    if unknown:
        owner = f"{config_class.__module__}.{config_class.__name__}"
        near = [n for name in unknown for n in difflib.get_close_matches(name, names, 1, 0.7)]
        meant = f"did you mean {' or '.join(near)}? " * bool(near)
        raise ValueError(f"{where} has unknown fields {', '.join(unknown)}; {meant}{owner} has {', '.join(names)}")
    hints = typing.get_type_hints(config_class)
    return config_class(**{name: _typed(hints[name], value, f"{where}, field {name}") for name, value in values.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build_config(hint, value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            if value is None or (option is not type(None) and _typed(option, value, where) != value):
                return None if value is None else _typed(option, value, where)
        return value
    if hint is tuple or origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} must be a list, got {value!r:.60}")
        inner = arguments[0] if arguments else Any
        same = len(arguments) == 2 and arguments[1] is Ellipsis
        kinds = [inner] * len(value) if same or not arguments else list(arguments)
        if len(kinds) != len(value):
            raise ValueError(f"{where} must have {len(kinds)} values, got {value!r:.60}")
        return tuple(_typed(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is dict and arguments and arguments[0] is int:  # JSON keys are text
        return {int(key): _typed(arguments[1], item, where) for key, item in records.mapping(value, where).items()}
    if hint in (int, float, bool, str) and not (isinstance(value, hint) or (hint is float and isinstance(value, int))):
        raise ValueError(f"{where} must be of type {hint.__name__}, got {value!r:.60}")
    return value


def bundled() -> dict[str, Path]:
    """Name -> folder of the runs that come with the package: every folder of its assets that holds weights, but the base."""
    return {p.parent.name: p.parent for p in sorted(ASSETS.glob("*/*.safetensors")) if p.parent != ASSETS / "base"}


def base(method: str) -> Path | None:
    """The weights of many objects that come with the package, from which trainings start; None if there are none."""
    file = BASE / f"{method}.safetensors"
    return file if file.is_file() else None


def find_run(name: str | Path) -> Path:
    """The folder of a trained run.

    Args:
        name: a run folder, a weights file in one, the name of bundled weights, or "org/name" of the Hugging Face hub, from
            which it is fetched once.

    Raises:
        FileNotFoundError: there is no such folder; says what was looked for and lists the bundled names.
        ValueError: the folder holds no weights.
    """
    path, names = located_run(name), bundled()
    if path.is_file() and path.suffix == ".safetensors":
        return path.parent
    if not path.is_dir():
        near = sorted(p.name for p in path.parent.iterdir() if p.is_dir() and p.name[0] != ".") if path.parent.is_dir() else []
        beside = f"{path.parent} holds the folders {_shortened(near)}" if near else f"{path.parent} holds no folders"
        raise FileNotFoundError(
            f"no trained run {str(name)!r}: it is neither a run folder ({beside}) nor bundled ({', '.join(names) or 'none'}). "
            "Train one: monopose train coordinates --data DIR --out RUN"
        )
    if not weights_in(path):
        inside = sorted(p.name for p in path.iterdir())
        unfinished = any(p.suffix == ".ckpt" for p in path.rglob("*.ckpt"))
        hint = "its training has not finished: run the same train command again" if unfinished else "did the training finish?"
        holds = f"only {_shortened(inside)}" if inside else "nothing at all"
        raise ValueError(f"{path} holds no weights (*.safetensors), {holds}; {hint}")
    return path


def weights_in(folder: str | Path) -> dict[str, Path]:
    """Method name -> weights file of a run folder, by file name: coordinates.safetensors is "coordinates"."""
    return {p.stem: p for p in sorted(Path(folder).glob("*.safetensors")) if not p.name.startswith(".")}


def digests(folder: str | Path) -> dict[str, str]:
    """Short names of what the weights files of a run, and its calibration, hold: copies on other machines have the same."""
    files = weights_in(folder) | {p.stem: p for p in [Path(folder) / "calibration.json"] if p.is_file()}
    return {name: digest_of(path) for name, path in files.items()}


def find_file(name: str | Path, method: str, data: str = "--data DIR") -> tuple[Path, Path]:
    """The run folder of a method that works alone, and its weights file.

    Args:
        name: a run folder, or the weights file in one.
        method: the file is METHOD.safetensors.
        data: the options that `monopose train METHOD` would need, for the error message.

    Raises:
        FileNotFoundError, ValueError: no such run, no such file in it.
    """
    folder = find_run(name)
    file = Path(name) if Path(name).is_file() else folder / f"{method}.safetensors"
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {method}.safetensors; it holds {', '.join(weights_in(folder))}. Train one: monopose train "
            f"{method} {data} --out {folder}"
        )
    return folder, file


def choose_device(name: torch.device | str | None) -> torch.device:
    """The device of this name, if it is there and works; None: CUDA if there is one, else the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        why = str(error).splitlines()[0].partition(". ")[0]
        why = "expected cpu, cuda or cuda:NUMBER" if why.startswith("Expected one of") else why
        raise ValueError(f"device {str(name)!r} cannot be used ({why}); this machine has {have}") from error
    return device
