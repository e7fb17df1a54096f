"""What others rely on stays: public names, and every option that the docs speak of."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

import monopose
from monopose import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").glob("*.py")]  # have options of their own


def _options(kind):
    """The names of all options of a dataclass and its groups."""
    hints = get_type_hints(kind)
    for f in fields(kind):
        if is_dataclass(hints[f.name]):
            yield from _options(hints[f.name])
        else:
            yield f"--{f.name.replace('_', '-')}"


def test_public_names():
    names = "Camera ObjectModel Instances Frame Detections PoseEstimates load load_mesh read_frame read_camera"
    for name in [*names.split(), "pnp", "viz", "geometry", "render", "evaluation", "mesh", "datasets"]:
        assert getattr(monopose, name) is not None
    for name in ["solve", "solve_implicit", "ransac", "sample_posterior", "monte_carlo_loss"]:
        assert callable(getattr(monopose.pnp, name))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_documented_options_exist(page):
    options = [
        *(c.options for c in cli.COMMANDS.values() if c.options is not None),
        *(task.options for tasks in cli.TASKS.values() for task in tasks),
    ]
    known = {name for each in options for name in _options(each)} | {"--save", "--help", "--from"}
    known |= {name for script in SCRIPTS for name in re.findall(r'"(--[a-z][\w-]*)"', script.read_text(encoding="utf-8"))}
    text = page.read_text(encoding="utf-8")
    inline = " ".join(re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    inline = re.sub(r"`[^`]*(?:python|make|pip|git|torchrun) [^`]*`", "", inline)
    for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", inline):
        assert name in known or name.replace("--no-", "--") in known, f"{page.name} speaks of {name}, which no command has"
