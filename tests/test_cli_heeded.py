"""Options and what heeds them: the table in heeded.py says what the code behind each kind of work reads."""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import monopose
from monopose import cli, heeded
from monopose.command import Evaluate, Predict, Synth, Train
from test_readme import PAGES, _commands, _words

WORK = [
    *((family, Predict) for family in ("object", "viewpoint", "category", "box3d")),
    *((family, Train) for family in ("object", "viewpoint", "category", "box3d")),
    *((family, Synth) for family in ("object", "viewpoint", "box3d")),
    *((family, Evaluate) for family in ("object", "viewpoint", "box3d")),
]
HANDED = {"schedule": {"minutes", "steps", "batch_size", "lr", "workers", "seed"}, "run_folder": {"out"}}
ELSEWHERE = {  # read by cli.py and heeded.py, to choose the work and its errors
    Synth: {"json", "debug", "pix3d", "road", "models"},
    Train: {"json", "debug", "method", "data"},
    Predict: {"json"},
    Evaluate: {"json", "debug"},
}


def _heeded(family, command):
    """The options that the table gives to a family."""
    names = {f.name for f in fields(command)}
    for options, kinds in heeded._HEEDED[command]:
        assert set(options.split()) <= names
        if family not in {kind.split(".")[0] for kind in kinds.split()}:
            names -= set(options.split())
    return names


def _read(family, command):
    """The options that the family's file reads in functions that take the command's."""
    text = (
        Path(monopose.__file__).parent / {"object": "objects", "box3d": "road"}.get(family, family) / "commands.py"
    ).read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(text)):
        takes = isinstance(node, ast.FunctionDef) and any(
            a.annotation is not None and ast.unparse(a.annotation) == command.__name__ for a in node.args.args
        )
        for part in ast.walk(node) if takes else ():
            if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "args":
                found.add(part.attr)
            elif isinstance(part, ast.Call):
                found |= HANDED.get(ast.unparse(part.func), set())
    return found


@pytest.mark.parametrize(("family", "command"), WORK, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_the_table_says_what_is_read(family, command):
    heeds, reads = _heeded(family, command), _read(family, command)
    assert reads - heeds <= ELSEWHERE[command], "options that are refused and still read"
    assert heeds - reads <= ELSEWHERE[command], "options that are taken and not read"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synth", "--out", "x", "--road", "--pix3d"], "give one of them"),
        (["synth", "--out", "x", "--size", "64", "160"], "--size belongs to --road, not to BOP folders"),
        (["synth", "--out", "x", "--pix3d", "--upright"], "--upright belongs to BOP folders, not to --pix3d"),
        (["synth", "a.ply", "--out", "x", "--road"], "--road makes its own shapes; leave a.ply out"),
        (["train", "normals", "--data", "x", "--by", "shape"], "--by belongs to monopose train viewpoint, not to"),
        (["train", "viewpoint", "--data", "x", "--init", "y"], "--init belongs to methods that learn CAD models and"),
        (["train", "detector", "--data", "x", "--categories", "car"], "--categories belongs to"),
        (["evaluate", "a_b-c.csv", "--data", "x", "--split", "s"], "--split belongs to boxes on roads: a folder of KITTI"),
        (["evaluate", "a.json", "--data", "x", "--protocol", "classic"], "--protocol belongs to BOP result files, not to"),
        (["evaluate", "a_b-c.csv", "--data", "x", "--protocol", "classic", "--vsd"], "--vsd belongs to BOP's protocol, not to"),
        (["predict", "a.png", "--model", "x", "--nocs", "y"], "--nocs belongs to category runs; x has no category.safetensors"),
        (["predict", "a.png", "--model", "x", "--views", "2d"], "--views belongs to box3d runs"),
    ],
)
def test_what_nothing_heeds_is_refused(words, message, capsys):
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_defaults_are_not_taken_for_options():
    assert heeded.check(cli.parse(["train", "box3d", "--data", "road"])) == "box3d"
    assert heeded.check(cli.parse(["synth", "a.ply", "--out", "x", "--split", "train"])) == "object"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_of_the_docs_are_heeded(page):
    for command in _commands(page):
        words = _words(command)
        if "…" not in command and "--help" not in words and words and words[0] in ("train", "synth"):
            heeded.check(cli.parse(words))


def test_wrong_options_are_told_without_waiting_for_torch():
    code = (
        "import sys\nfrom monopose.cli import main\n"
        "assert main(['predict', 'a.png', '--model', 'x', '--fov', '60', '--true-boxes']) == 1\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--true-boxes belongs to --bop DIR" in done.stderr
