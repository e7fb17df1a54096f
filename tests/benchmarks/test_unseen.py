"""The benchmark of unseen CAD models: errors against closed forms, and runs that go on."""

import json
import math
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT
from monopose.evaluation import errors
from monopose.types import Symmetries
from shapes import box, half_turn

sys.path.insert(0, str(ROOT))
from benchmarks import unseen

CUBE = box((0.1, 0.1, 0.1))
GROUP = np.eye(4)[None]


def moved(turn=0.0, shift=0.0):
    c, s = math.cos(turn), math.sin(turn)
    pose = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 1.0]])
    pose[0, 3] = shift
    return pose


def test_errors_are_those_of_the_motion():
    mm, degrees, right = unseen.judged(moved(0.2, 0.003), moved(), CUBE, GROUP)
    assert mm == pytest.approx(3)
    assert degrees == pytest.approx(math.degrees(0.2))
    assert right
    limit = unseen.RIGHT * CUBE.diameter  # a shift moves every vertex by as much
    assert unseen.judged(moved(shift=0.99 * limit), moved(), CUBE, GROUP)[2]
    assert not unseen.judged(moved(shift=1.01 * limit), moved(), CUBE, GROUP)[2]
    assert unseen.judged(None, moved(), CUBE, GROUP) == (math.inf, math.inf, False)


def test_a_pose_that_looks_the_same_is_right():
    s = Symmetries(half_turn(2)[None])
    group = errors.symmetry_group(s.discrete.numpy(), s.axes.numpy(), s.offsets.numpy())
    _, degrees, right = unseen.judged(moved(math.pi - 0.01), moved(), CUBE, group)
    assert degrees == pytest.approx(math.degrees(0.01), rel=1e-3)
    assert right
    assert not unseen.judged(moved(math.pi - 0.01), moved(), CUBE, GROUP)[2]


def test_medians_count_what_was_not_found():
    rows = np.array([[1, 2, 1], [3, 4, 0], [math.inf, math.inf, 0]])
    assert unseen.summary(rows) == {
        "mm": 3,
        "degrees": 4,
        "right": pytest.approx(1 / 3),
        "found": pytest.approx(2 / 3),
        "pictures": 3,
    }


def test_finished_rows_are_not_made_again(tmp_path, monkeypatch, capsys):
    score = {"mm": 2.5, "degrees": 4.0, "right": 0.5, "found": 1.0, "pictures": 2}
    row = {"start": "none", "budget": 5, "unit": "min", "steps": "10+4", "scores": {"true boxes": score}}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    arguments = ["unseen", "--data", "x", "--out", str(tmp_path), "--minutes", "5", "--starts", "none"]
    monkeypatch.setattr("sys.argv", arguments)
    before = torch.get_num_threads()
    unseen.main()
    torch.set_num_threads(before)
    assert "| none | 5 min | 10+4 | true boxes | 2.5 | 4.0 | 50 | 100 |" in capsys.readouterr().out
