"""The tutorials run as they stand, in an empty folder, with less: a line `NAME = VALUE  # tests: OTHER` says of what."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from monopose.category import commands
from monopose.category import model as category
from monopose.detection import detector
from monopose.objects import coordinates, heldout, training, whole_run
from monopose.tracking import tracker

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.py"))
SMALLER = re.compile(r"^(\w+(?:, \w+)*) = .*  # tests: (.*)$", re.MULTILINE)


def small(text):
    assert SMALLER.search(text), "a tutorial needs a line that makes it small"
    return SMALLER.sub(r"\1 = \2", text)


@pytest.fixture
def tiny(monkeypatch):
    """Small networks learn two steps, little is measured, and contours are made from few directions."""
    few = training.TrainConfig(steps=2, batch_size=2, workers=0, checkpoint_minutes=1e6)

    def plan(minutes, ids, workers, seed, patience):
        sizes = {"widths": (16, 16, 16, 16), "input_size": 64, "output_size": 32, "pretrained": False}
        networks = {
            "coordinates": coordinates.Config(ids, **sizes),
            "detector": detector.small(ids, image_height=64, image_width=64, pretrained=False, channels=16),
        }
        return [whole_run.Stage(method, 1.0, config, few) for method, config in networks.items()]

    monkeypatch.setattr(whole_run, "stages", plan)
    monkeypatch.setattr(whole_run, "FEWEST", 2)
    monkeypatch.setattr(heldout, "PICTURES", 2)
    monkeypatch.setattr(tracker.Tracker.__init__, "__defaults__", (None, None, 100))
    narrow = {"volume": (6, 5, 4), "projection": 8, "decoder": (6, 4), "encoder": (4, 4, 6, 6), "hidden": 6}
    monkeypatch.setitem(category.PRESETS, "tiny", lambda name, **more: replace(category.tiny(name), **(narrow | more)))
    monkeypatch.setattr(commands, "save_report", lambda model, folder, shapes: folder)


@pytest.mark.slow
@pytest.mark.parametrize("file", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_runs(file, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(small(file.read_text(encoding="utf-8")), str(file), "exec"), {"__name__": file.stem})
    said = capsys.readouterr().out
    assert len(said.splitlines()) >= 2
    assert "nan" not in said


@pytest.mark.parametrize("file", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_is_a_notebook(file):
    cells = file.read_text(encoding="utf-8").split("# %%")
    assert cells[0] == ""
    assert cells[1].startswith(" [markdown]\n# # ")  # a title first
    for cell in cells[1:]:
        if cell.startswith(" [markdown]\n"):
            assert all(line.startswith("#") or not line for line in cell.splitlines()[1:])
        else:
            compile(cell, str(file), "exec")
