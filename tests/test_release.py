"""What leaves the house: the pages of the docs site, the rules of a release, the image for the CPU."""

import importlib
import re
import runpy
import subprocess
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def check():
    return runpy.run_path(str(ROOT / "tools" / "release_check.py"))


def test_every_page_is_in_the_site_and_every_name_of_the_reference_exists():
    named = re.findall(r"^[a-z0-9-]+$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(p.stem for p in (ROOT / "docs").glob("*.md") if p.stem != "index")
    for kind, name in re.findall(r"auto(\w+):: ([\w.]+)", (ROOT / "docs" / "api.md").read_text()):
        module, _, last = (name, "", "") if kind == "module" else name.rpartition(".")
        assert not last or hasattr(importlib.import_module(module), last), name


def test_lower_bounds_are_there_and_safe(check):
    check["check_bounds"](PROJECT["dependencies"])
    with pytest.raises(ValueError, match=r"lightning>=2\.6\.4 is needed"):
        check["check_bounds"](["torch>=2.6", "lightning>=2.6.2"])
    with pytest.raises(ValueError, match="numpy has no lower bound"):
        check["check_bounds"](["numpy"])
    pinned = check["lowest"](PROJECT["dependencies"])
    assert "torch==2.6\n" in pinned
    assert ">=" not in re.sub(";.*", "", pinned)


def test_what_does_not_belong_in_a_wheel(check):
    inside = ("assets/demo/coordinates.safetensors", "assets/demo/objects/a.ply", "assets/base/a.safetensors", "py.typed")
    good = [f"monopose/{name}" for name in inside]
    check["check_files"](good, 40_000_000, "a.whl")
    check["check_files"]([f"monopose-1/src/{name}" for name in good], 1, "a.tar.gz")
    with pytest.raises(ValueError, match=r"50\.0 MB, at most 45"):
        check["check_files"](good, 50_000_000, "a.whl")
    for wrong in ("monopose/last.ckpt", "tests/test_a.py"):
        with pytest.raises(ValueError, match=wrong):
            check["check_files"]([*good, wrong], 1, "a.whl")
    with pytest.raises(ValueError, match=r"holds no monopose/py\.typed"):
        check["check_files"](good[:3], 1, "a.whl")


def test_the_demo_installs_no_test_tools():
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "-B", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "pip install --disable-pip-version-check --editable .\n" in done
    assert "download.pytorch.org/whl/cpu" in done  # without a GPU
    assert "[dev]" not in done
    assert done.rstrip().endswith("monopose demo --out out/demo")


def test_the_image_takes_what_the_build_needs():
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    let_in = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert {name for line in copied for name in line.split()} == let_in == {"pyproject.toml", "README.md", "LICENSE", "src"}
    assert PROJECT["readme"] in let_in
    assert set(PROJECT["license-files"]) <= let_in
