"""Networks that onnxruntime runs: files that `monopose export` wrote, called as the torch network was."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

INDEX = "model.json"  # what an exported folder holds, and how it is used


def missing_library(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"this needs {name}, which is not installed: pip install 'monopose[onnx]'")


class OnnxNet(nn.Module):
    """A file as a network on the CPU. It has no parameters, so it cannot learn.

    Args:
        path: the file.
        threads: that onnxruntime uses; None: as many as torch.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: no file that it reads.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise missing_library("onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
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
