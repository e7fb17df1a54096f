"""6DoF object pose from a single RGB image: metres, radians, OpenCV camera axes.

The names below are resolved on first use, so that `import monopose` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {  # public name -> module that owns it
    "Camera": "types",
    "ObjectModel": "types",
    "Instances": "types",
    "Frame": "types",
    "Detections": "types",
    "PoseEstimates": "types",
    "Prediction": "prediction",
    "load": "runs",
    "sample": "runs",
    "load_mesh": "mesh.loading",
    "read_frame": "io.images",
    "iterate_frames": "io.images",
    "read_camera": "io.cameras",
    "Tracker": "tracking.tracker",
}
_MODULES = ("pnp", "viz", "geometry", "render", "evaluation", "mesh", "datasets")

__all__ = ["__version__", *_NAMES, *_MODULES]

if TYPE_CHECKING:
    from . import datasets, evaluation, geometry, mesh, pnp, render, viz
    from .io.cameras import read_camera
    from .io.images import iterate_frames, read_frame
    from .mesh.loading import load_mesh
    from .prediction import Prediction
    from .runs import load, sample
    from .tracking.tracker import Tracker
    from .types import Camera, Detections, Frame, Instances, ObjectModel, PoseEstimates


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f".{_NAMES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'monopose' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
