"""docs/architecture.md is a map: every file, function and option that it names is there."""

import ast
import re
from pathlib import Path

import pytest

from test_layers import STOREYS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "monopose"
TEXT = (ROOT / "docs/architecture.md").read_text()


def defined(file: Path) -> set[str]:
    """Names of a module: functions, classes with their methods as Class.method, constants, fields."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {t.id for t in targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name for a in node.names}
    return names


def places() -> list[str]:
    """objects/pipeline.predict, training/loop, datasets/bop/scenes.py: whatever looks like a place in the code."""
    found = re.findall(r"\b(?:[a-z_0-9]+/)+[a-z_0-9]+(?:\.[A-Za-z_0-9]+)*", TEXT)
    return sorted({name for name in found if name.split("/")[0] not in ("checkpoints", "docs", "tests", "logs")})


def test_there_is_something_to_check() -> None:
    assert len(places()) > 40


@pytest.mark.parametrize("place", places())
def test_every_place_exists(place: str) -> None:
    place = place.removesuffix(".py")
    module, _, rest = place.partition(".")
    if (SOURCE / module).is_dir():
        assert not rest
        return
    file = SOURCE / f"{module}.py"
    assert file.is_file(), f"there is no {module}.py"
    known = defined(file)
    for name in filter(None, rest.split(".")):
        assert name in known, f"{module}.py has no {name}"


def test_every_folder_is_on_the_map() -> None:
    folders = {p.name for p in SOURCE.iterdir() if (p / "__init__.py").is_file()}
    assert folders <= set(re.findall(r"\b[a-z_]+\b", TEXT))


def test_the_storeys_are_those_that_are_held() -> None:
    drawn = re.search(r"```text\ndoors(.*?)```", TEXT, re.S)
    assert drawn is not None
    named = {word for storey in STOREYS for word in re.findall(r"\w+", storey)} - {"__main__"}
    assert named <= set(re.findall(r"\w+", drawn.group(1)))
