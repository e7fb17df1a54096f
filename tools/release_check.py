"""What has to be true of a release: it builds, is small, installs into an empty environment, and its demo runs there.

    python tools/release_check.py                      # the newest dependencies
    python tools/release_check.py --lowest             # the lowest that pyproject.toml names
    python tools/release_check.py --no-deps            # those of this environment, when there is no network
    python tools/release_check.py --index https://download.pytorch.org/whl/cpu     # torch without CUDA

Needs Python 3.11, and `pip install build`. Ends with code 1 at the first thing that is wrong.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
LARGEST_MB = 45.0
BOUNDS = {"lightning": (2, 6, 4), "torch": (2, 6)}  # 2.6.2 and 2.6.3 of lightning stole credentials (GHSA-w37p-236h-pfx3)
NEEDED = ("monopose/assets/demo/coordinates.safetensors", "monopose/assets/demo/objects/", "monopose/py.typed")
FORBIDDEN = re.compile(r"^(tests|runs|out|docs|ros2|tools)/|\.(ckpt|pkl|pickle|pt|pth|pyc)$")  # the folders only of wheels


def check_bounds(requirements: list[str]) -> None:
    """ValueError where a lower bound is missing, or below what is safe."""
    found = {}
    for line in requirements:
        match = re.match(r"([\w-]+)(?:\[[^]]*])?\s*>=\s*([\d.]+)", line)
        if match is None:
            raise ValueError(f"{line} has no lower bound")
        found[match[1]] = tuple(int(part) for part in match[2].split("."))
    for name, least in BOUNDS.items():
        if found.get(name, ()) < least:
            raise ValueError(f"{name}>={'.'.join(map(str, least))} is needed, pyproject.toml has {found.get(name)}")


def check_files(names: list[str], size: int, what: str) -> None:
    """ValueError where an archive is too large, lacks something or holds what does not belong in it."""
    if size > LARGEST_MB * 1e6:
        raise ValueError(f"{what} has {size / 1e6:.1f} MB, at most {LARGEST_MB:g} are allowed")
    has_base = any((ROOT / "src" / "monopose" / "assets" / "base").glob("*"))
    for needed in (*NEEDED, *["monopose/assets/base/"] * has_base):
        if not any(needed in name for name in names):
            raise ValueError(f"{what} holds no {needed}")
    if wrong := [name for name in names if FORBIDDEN.search(name)]:
        raise ValueError(f"{what} holds {', '.join(wrong[:5])}")


def lowest(requirements: list[str]) -> str:
    """Constraints that pin every requirement to its lower bound; markers stay."""
    return "".join(re.sub(r"\[[^]]*]", "", line).replace(">=", "==", 1) + "\n" for line in requirements)


def run(*words: str | Path, cwd: Path | None = None) -> None:
    print("+", *words, flush=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run([str(word) for word in words], cwd=cwd, check=True, env=clean)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lowest", action="store_true", help="install the lowest versions that are named")
    parser.add_argument("--no-deps", action="store_true", help="use the dependencies of this environment")
    parser.add_argument("--index", help="another index beside PyPI, for torch")
    parser.add_argument("--no-isolation", action="store_true", help="build with this environment's setuptools")
    args = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    check_bounds(project["dependencies"])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        built = place / "dist"
        run(sys.executable, "-m", "build", *["--no-isolation"] * args.no_isolation, "--outdir", built, ROOT)
        (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
        with zipfile.ZipFile(wheel) as archive:
            check_files(archive.namelist(), wheel.stat().st_size, wheel.name)
        with tarfile.open(source) as archive:
            check_files(archive.getnames(), source.stat().st_size, source.name)
        print(f"{wheel.name} {wheel.stat().st_size / 1e6:.1f} MB, {source.name} {source.stat().st_size / 1e6:.1f} MB")
        venv.create(place / "venv", with_pip=True)
        python = place / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        options: list[str | Path] = ["--extra-index-url", args.index] if args.index else []
        if args.no_deps:
            (packages,) = (place / "venv").glob("[Ll]ib/**/site-packages")
            own = [entry for entry in sys.path if entry.endswith("site-packages")]
            (packages / "borrowed.pth").write_text("\n".join(own) + "\n")
            options.append("--no-deps")
        if args.lowest:
            (place / "lowest.txt").write_text(lowest(project["dependencies"]))
            options += ["--constraint", place / "lowest.txt"]
        run(python, "-m", "pip", "install", "--quiet", *options, wheel)
        run(python, "-c", f"import monopose; assert {str(place)!r} in monopose.__file__, monopose.__file__", cwd=place)
        run(python, "-m", "monopose", "demo", "--out", place / "demo", cwd=place)
        if not (place / "demo" / "overlay.png").is_file():
            raise ValueError("the demo left no overlay.png")
        if not args.no_deps:
            found = subprocess.run([python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True)
            if tools := re.findall(r"^(pytest|hypothesis|ruff|mypy)==", found.stdout, re.MULTILINE):
                raise ValueError(f"the demo's environment holds {', '.join(tools)}, which only tests need")
            run(sys.executable, "-m", "pip", "install", "--quiet", "pip-audit")
            (packages,) = (place / "venv").glob("[Ll]ib/**/site-packages")
            run(sys.executable, "-m", "pip_audit", "--path", packages)
    print("the release is in order")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (ValueError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"release check: {error}") from None
