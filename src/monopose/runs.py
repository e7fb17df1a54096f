"""Opening trained runs, whatever they do: which family a run belongs to is seen from the weights files in its folder. And a
bundled picture to try them on."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .io.files import ASSETS
from .io.hub import located_run

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

    Looks at names of files alone, so it is instant; a run of the hub is fetched if it is not here.
    """
    path = located_run(name)
    found = {path.stem} if path.is_file() else {p.stem for p in path.glob("*.safetensors")}
    return next((family for family, files in FAMILIES.items() if found & set(files)), None)


def load(
    name: str | Path,
    device: torch.device | str | None = None,
    *,
    models: str | Path | None = None,
    revision: str | None = None,
    unit: str | None = None,
) -> Any:
    """Open a trained run, ready to look at pictures: `run("photo.jpg", camera="camera.json")`, `run.predict(frame)`.

    Args:
        name: a run folder, a weights file in one, the name of bundled weights ("demo"), or "org/name" of the Hugging Face hub:
            fetched once, then taken from the cache without asking. A folder that is here goes before the hub. Or a mesh file,
            or a folder of CAD models: nothing is trained then, and poses are searched for in boxes (`detections=`).
        device: where to run; None: CUDA if there is one, else the CPU.
        models: folder with the CAD models, as BOP data sets have, for a run of known objects that comes without.
        revision: branch, tag or commit of a run of the hub; "org/name@revision" says the same.
        unit: of the numbers in a mesh file, "m", "cm", "mm" or "inch".

    Returns:
        `objects.pipeline.Pipeline` (poses of known CAD objects), `viewpoint.pipeline.ViewpointRun` (viewpoints),
        `category.pipeline.CategoryRun` (poses of a category) or `road.pipeline.BoxRun` (boxes in 3D).

    Raises:
        FileNotFoundError, ValueError: no such run, no weights in it that predict, a truncated or foreign file; no such device.
        ConnectionError, PermissionError: the hub does not answer, or wants a login.
    """
    if revision is not None:
        name = located_run(name, revision)
    family = family_of(name) or "objects"
    module = import_module(f".{family}.pipeline", __package__)
    if family != "objects":
        if models is not None:
            raise ValueError(f"{name} is a {family} run, which uses no CAD models; leave out models=")
        return module.load(name, device)
    run = module.load(name, device, models, unit=unit)
    run.warn_without_models()
    return run


class Sample(NamedTuple):
    """A bundled picture of the demo and the file of its camera, in place of photo.jpg and camera.json."""

    photo: Path
    camera: Path


def sample(n: int = 1) -> Sample:
    """Picture `n` of the six that the demo looks at, with its camera: something to try a call on.

    Raises:
        ValueError: there is no such picture.
    """
    photos = sorted((ASSETS / "demo" / "photos" / "test" / "000001" / "rgb").glob("*.jpg"))
    if not 0 <= n < len(photos):
        raise ValueError(f"there are {len(photos)} sample pictures, 0 to {len(photos) - 1}, got {n}")
    return Sample(photos[n], ASSETS / "demo" / "camera.json")
