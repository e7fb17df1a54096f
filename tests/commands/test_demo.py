"""The demo's comparison with the truth, in closed form; and the demo itself, where the bundled weights are."""

import json
import math
from dataclasses import replace

import pytest
import torch

from monopose.commands import demo
from monopose.datasets.bop import models as bop_models
from monopose.datasets.bop import scenes
from monopose.geometry import rotation, se3
from monopose.types import Instances, PoseEstimates

WITHIN = "{} of {} objects within 10 % of their diameter"


@pytest.fixture(scope="module")
def models():
    return bop_models.read_models(demo.folder() / "objects")


@pytest.fixture(scope="module")
def truth(models):
    """Every demo object once, turned somehow, half a metre and more away."""
    torch.manual_seed(0)
    turns = rotation.so3_exp(torch.randn(len(models), 3))
    places = torch.tensor([[0.1 * i - 0.2, 0.05, 0.5 + 0.1 * i] for i in range(len(models))])
    return Instances(torch.tensor(sorted(models)), se3.from_rt(turns, places))


def estimates(truth, moved=None):
    """The truth as estimates, each pose moved in the object's own frame by `moved` of its label."""
    poses = truth.cam_from_obj.clone()
    for n, label in enumerate(truth.labels.tolist()):
        if moved and label in moved:
            poses[n] = poses[n] @ moved[label]
    return PoseEstimates(truth.labels, poses, torch.linspace(0.5, 0.9, len(poses)))


def report(rows, **more):
    return demo.DemoReport(rows, {"detector": 0.25, "pnp": 0.1}, [], "out/overlay.png", "out/poses.json", **more)


def about_z(degrees):
    return se3.from_rt(rotation.so3_exp(torch.tensor([0.0, 0.0, math.radians(degrees)])), torch.zeros(3))


def test_the_truth_has_no_error(models, truth):
    rows = demo.compare(estimates(truth), truth, models, 3)
    assert [r.name for r in rows] == [models[i].name for i in sorted(models)]
    for n, row in enumerate(rows):
        assert (row.picture, row.found) == (3, True)
        assert row.score == pytest.approx(float(torch.linspace(0.5, 0.9, 5)[n]))
        assert row.rotation_deg < 0.05
        assert row.translation_mm < 1e-3
        assert row.add_s_percent < 1e-3
    assert WITHIN.format(5, 5) in report(rows).text()


def test_turns_that_nobody_can_see_are_no_errors(models, truth):
    """The knob by quarters, the bottle by any angle; and what is no symmetry counts in full."""
    by_name = {m.name: i for i, m in models.items()}
    knob, bottle, box = by_name["cross_knob"], by_name["ring_bottle"], by_name["biscuit_box"]
    rows = demo.compare(estimates(truth, {knob: about_z(90), bottle: about_z(137.4), box: about_z(180)}), truth, models, 0)
    row = {r.name: r for r in rows}
    assert row["cross_knob"].rotation_deg < 0.05
    assert row["cross_knob"].add_s_percent < 0.2  # its vertices need not repeat at every quarter
    assert row["ring_bottle"].rotation_deg < 180 / 315 + 0.01  # the group has 315 turns about the axis
    assert row["ring_bottle"].add_s_percent < 1  # from vertex to vertex of the turned mesh
    assert row["biscuit_box"].rotation_deg == pytest.approx(180, abs=0.1)
    assert row["biscuit_box"].add_s_percent > 10
    assert WITHIN.format(4, 5) in report(rows).text()
    (row,) = demo.compare(estimates(truth, {knob: about_z(45)}), truth[truth.labels == knob], models, 0)
    assert row.rotation_deg == pytest.approx(45, abs=0.1)


def test_a_shift_is_told_in_millimetres_and_shares_of_the_diameter(models, truth):
    shift = torch.eye(4)
    shift[:3, 3] = torch.tensor([0.003, 0.004, 0.0])
    rows = demo.compare(estimates(truth, dict.fromkeys(models, shift)), truth, models, 0)
    for row, label in zip(rows, truth.labels.tolist()):
        assert row.translation_mm == pytest.approx(5, abs=0.01)
        assert row.rotation_deg < 0.05
        add = 100 * 0.005 / models[label].diameter
        if models[label].symmetries.any:
            assert 0 < row.add_s_percent <= add + 1e-3
        else:
            assert row.add_s_percent == pytest.approx(add, abs=1e-3)


def test_the_best_score_of_a_kind_counts_and_a_missing_one_is_not_found(models, truth):
    found = estimates(truth)
    away = found.cam_from_obj.clone()
    away[:, 2, 3] += 1
    both = PoseEstimates(
        torch.cat([found.labels, found.labels]),
        torch.cat([away, found.cam_from_obj]),
        torch.cat([found.scores - 0.1, found.scores]),
    )
    rows = demo.compare(both, truth, models, 0)
    assert max(r.translation_mm for r in rows) < 1e-3
    both = replace(both, scores=torch.cat([found.scores + 0.1, found.scores]))
    assert min(r.translation_mm for r in demo.compare(both, truth, models, 0)) == pytest.approx(1000, abs=0.1)

    rows = demo.compare(found[found.labels != 5], truth, models, 0)
    assert [r.found for r in rows] == [True] * 4 + [False]
    assert math.isnan(rows[4].add_s_percent)
    assert not any(r.found for r in demo.compare(found[found.labels > 99], truth, models, 0))


def test_the_report_in_words(models, truth):
    rows = demo.compare(estimates(truth)[:4], truth, models, 7)
    text = report(rows, notes=["a note"]).text()
    header, first, *_ = lines = text.splitlines()
    assert header.split() == ["picture", "object", "score", "rotation", "translation", "ADD(-S)"]
    assert first.split()[:3] == ["7", "biscuit_box", "0.50"]
    assert lines[5].split() == ["7", "bracket", "-", "not", "found"]
    assert WITHIN.format(4, 5) in text
    assert "seconds per picture: detector 0.25, pnp 0.10" in text
    assert lines[-3:] == ["a note", "poses:   out/poses.json", "overlay: out/overlay.png"]
    assert WITHIN.format(0, 0) in report([]).text()


@pytest.mark.slow
def test_the_demo_runs_and_finds_its_objects(tmp_path):
    if not {"coordinates", "detector"} <= {p.stem for p in demo.folder().glob("*.safetensors")}:
        pytest.skip(f"no bundled weights (coordinates and detector) in {demo.folder().name}/")
    result = demo.run(tmp_path)
    scene = scenes.open_scene(demo.folder() / "photos" / "test" / "000001")
    assert len(result.rows) == len(scene.truth.im_id)
    good = sum(r.add_s_percent < 10 for r in result.rows)
    assert good >= len(result.rows) / 3  # the weights are worth bundling
    names = {f"{i:06d}_overlay.png" for i in scene.im_ids} | {"overlay.png", "poses.json"}
    assert {p.name for p in tmp_path.iterdir()} == names
    records = json.loads((tmp_path / "poses.json").read_text())["images"]
    assert len(records) == len(scene.im_ids)
    assert {"detector", "coordinates", "pnp"} <= set(result.seconds)
    assert result.text().endswith(f"overlay: {tmp_path / 'overlay.png'}")
