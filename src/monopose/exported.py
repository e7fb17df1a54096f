"""Networks that onnxruntime runs: files that `monopose export` wrote, called as the torch network was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .io.records import read_json

INDEX = "model.json"  # what an exported folder holds, and how it is used


def exported_nets(run: Path, weights: Mapping[str, str], command: str) -> dict[str, OnnxNet]:
    """The files that were exported from these weights of a run, by name, ready to compute.

    Args:
        run: the run folder; the files are in its onnx/.
        weights: name -> digest of each weights file that should have its part there.
        command: what writes them, for errors.

    Raises:
        FileNotFoundError, ValueError: nothing there; exported from other weights; a part that could not be exported.
    """
    folder = run / "onnx"
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"there is no {folder / INDEX}, which --runtime onnx needs; write it: {command}")
    index = read_json(folder / INDEX)
    nets = {}
    for name, digest in weights.items():
        if index.get("weights", {}).get(name) != digest:
            raise ValueError(f"{folder} was exported from other weights ({name}); write it again: {command}")
        if name in index["parts"]:
            nets[name] = OnnxNet(folder / index["parts"][name]["file"])
    if not nets:
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
