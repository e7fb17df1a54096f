"""Opening trained runs, whatever they do: which family a run belongs to is seen from the weights files in its folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FAMILIES: dict[str, tuple[str, ...]] = {  # package -> weights files that make a run one of its; the first that is there decides
    "objects": ("probabilistic", "coordinates"),
    "viewpoint": ("viewpoint",),
    "category": ("category",),
    "road": ("box3d",),
}


def family_of(name: str | Path) -> str | None:
    """The family of a run folder, of a weights file in one, or of bundled weights; None: there is no such run.

    Looks at names of files alone, so it is instant.
    """
    path = Path(name)
    if not path.exists():
        path = Path(__file__).parent / "assets" / path.name
    found = {path.stem} if path.is_file() else {p.stem for p in path.glob("*.safetensors")}
    return next((family for family, files in FAMILIES.items() if found & set(files)), None)


def load(name: str | Path, device: torch.device | str | None = None) -> Any:
    """Open a trained run, ready to predict: `run.predict(frame)`.

    Args:
        name: a run folder, a weights file in one, or the name of bundled weights.
        device: where to run; None: CUDA if there is one, else the CPU.

    Returns:
        `objects.pipeline.Pipeline` (poses of known CAD objects), `viewpoint.pipeline.ViewpointRun` (viewpoints),
        `category.pipeline.CategoryRun` (poses of a category) or `road.pipeline.BoxRun` (boxes in 3D).

    Raises:
        FileNotFoundError, ValueError: no such run, no weights in it that predict, a truncated or foreign file; no such device.
    """
    return import_module(f".{family_of(name) or 'objects'}.pipeline", __package__).load(name, device)
