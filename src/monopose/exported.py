"""Networks that onnxruntime runs: files that `monopose export` wrote, called as the torch network was."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .io.records import read_json

INDEX = "model.json"  # what an exported folder holds, and how it is used


def is_exported(run: Path) -> bool:
    """Whether a run folder holds exported files, and there is something to compute them."""
    return (run / "onnx" / INDEX).is_file() and importlib.util.find_spec("onnxruntime") is not None


def exported_nets(run: Path, weights: Mapping[str, str], command: str, asked: bool = True) -> dict[str, OnnxNet]:
    """The files that were exported from these weights of a run, by name, ready to compute.

    Args:
        run: the run folder; the files are in its onnx/.
        weights: name -> digest of each weights file that should have its part there.
        command: what writes them, for errors.
        asked: False: files of other weights are a warning, and none are returned.

    Raises:
        FileNotFoundError, ValueError: nothing there; exported from other weights; no part that could be exported.
    """
    folder = run / "onnx"
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"there is no {folder / INDEX}, which --runtime onnx needs; write it: {command}")
    index = read_json(folder / INDEX)
    other = [name for name, digest in weights.items() if index.get("weights", {}).get(name) != digest]
    if other and not asked:
        warnings.warn(f"{folder} was exported from other weights, so torch computes; write it again: {command}", stacklevel=3)
        return {}
    if other:
        raise ValueError(f"{folder} was exported from other weights ({', '.join(other)}); write it again: {command}")
    nets = {name: OnnxNet(folder / index["parts"][name]["file"]) for name in weights if name in index["parts"]}
    if not nets and asked:
        raise ValueError(f"nothing of {', '.join(weights)} is in {folder}: {index['left_out']}")
    return nets


def missing_library(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"this needs {name}, which is not installed: pip install 'monopose[onnx]'")


class OnnxNet(nn.Module):
    """A file as a network on the CPU. It has no parameters, so it cannot learn.

    Args:
        path: the file.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: no file that it reads.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise missing_library("onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the core to others
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its kinds are private to it
            raise ValueError(f"{path} is no ONNX file that onnxruntime reads ({str(error)[:200]})") from error
        self.names = [i.name for i in self.session.get_inputs()]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of the file -> its outputs, on the CPU."""
        arrays = {name: value.contiguous().numpy() for name, value in zip(self.names, given, strict=True)}
        return tuple(torch.from_numpy(v) for v in self.session.run(None, arrays))
