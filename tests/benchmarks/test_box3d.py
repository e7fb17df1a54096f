"""The comparison of layers: a small one from pictures to table, that goes on; and what its summaries say in closed form."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import box3d as bench
from monopose.datasets import kitti
from monopose.road import config as road_config
from monopose.road import network
from monopose.synthesis import road_scene


def pair(**changes):
    own = {"label": 0, "visibility": 1.0, "distance": 10.0, "spread": (0.1, 1.0, 0.2), "error": 0.5, "yaw_error": 0.1}
    return bench.Pair(**{**own, **changes})


def placed(**changes):
    own = {"label": 0, "distance": 10.0, "error": 0.4, "yaw_error": 0.1, "surprise": 1.0, "level": 0.3}
    return bench.Placed(**{**own, **changes})


def scores(nds, ap):
    errors = dict.fromkeys(bench.scoring.ERRORS, 0.5)
    return {"nds": nds, "map": ap, "errors": errors, "classes": {c: {"ap": ap} for c in bench.CLASSES}}


def test_an_encoder_that_does_not_learn_looks_once(monkeypatch):
    """What is kept is its output; pictures it does not know are looked at."""
    torch.manual_seed(0)
    tiny = {"height": 64, "width": 160, "channels": 16, "pretrained": False, "dense_widths": (16, 8), "hidden": 16}
    model = network.Model(road_config.small(("car", "pedestrian"), **tiny)).eval()
    images, memory, looked = torch.rand(3, 3, 64, 160), {}, []
    expected, look = model(images), model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda x: (looked.append(len(x)), look(x))[1])
    model = bench.with_frozen_encoder(model, memory).train()
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.head.parameters())
    for rows in ([0, 1], [1, 0], [2, 1]):
        got = model(images[rows])
        torch.testing.assert_close(got.cells.logits, expected.cells.logits[rows], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(got.dense.value, expected.dense.value[rows], atol=2e-2, rtol=2e-2)
    assert looked == [2, 1]
    assert model.encoder.training
    assert len(memory) == 3


def test_the_table_has_means_and_ranges():
    lines = [
        {"layer": layer, "seed": seed, "scores": scores(0.1 * (seed + 1), 0.2), "cpu_seconds": 60.0 + seed}
        for layer in ("direct", "distribution")
        for seed in range(3 if layer == "distribution" else 1)
    ]
    rows = bench.table(lines).splitlines()
    assert rows[2].startswith("| distribution, 3 seeds | 20.0 (10.0–30.0) | 20.0 (20.0–20.0) | 0.50 (0.50–0.50) |")
    assert rows[3].startswith("| direct, 1 seed | 10.0 | 20.0 | 0.50 |")
    assert "60 to 62" in rows[-1]
    assert len(bench.table([]).splitlines()) == 2


def test_what_is_said_of_placing():
    rows = [placed(), placed(error=1.5, level=0.95), placed(label=8, error=3.0, distance=20.0, yaw_error=None, level=0.7)]
    said = bench.placing(rows)
    assert said["count"] == 3
    assert said["error"] == 1.5
    assert said["relative"] == pytest.approx(0.15)
    assert said["within"] == {"0.5": pytest.approx(1 / 3), "1.0": pytest.approx(1 / 3), "2.0": pytest.approx(2 / 3), "4.0": 1.0}
    assert said["inside"] == {"0.5": pytest.approx(1 / 3), "0.9": pytest.approx(2 / 3)}
    assert said["classes"]["traffic_cone"]["yaw"] is None
    assert said["classes"]["car"]["yaw"] == pytest.approx(0.1)
    none = bench.placing([placed(surprise=None, level=None, error=float("inf"))])
    assert none["surprise"] is none["inside"] is None
    lines = [{"layer": "direct", "placed": none}, {"layer": "reprojection", "placed": said}, {"layer": "reprojection"}]
    table = bench.placing_table(lines).splitlines()
    assert table[2] == "| reprojection, 1 seed | 15.0 | 1.50 | 33.3 | 33.3 | 66.7 | 6 | – | – | 1.00 | 33 | 67 |"
    assert table[3].startswith("| direct, 1 seed | inf | inf | 0.0 |")
    assert table[3].endswith("| – | – | – |")


def test_the_spread_by_visibility_and_distance():
    found = [pair(visibility=0.3, spread=(0.2, 3.0, 1.0)), pair(visibility=0.3, spread=(0.4, 5.0, 1.0)), pair(distance=50.0)]
    rows = bench.spread_table(found).splitlines()
    assert rows[2] == "| visible 0–40 % | 2 | 4.00 | 40.0 % | 0.30 | 57 | 0.50 |"
    assert rows[3] == "| visible 95–100 % | 1 | 1.00 | 2.0 % | 0.10 | 11 | 0.50 |"
    assert rows[-1].startswith("| 40–60 m | 1 | 1.00 |")


def test_scores_from_samples():
    """A box whose samples lie at 0, 0.7 and 3 m, of weights 1/2, 1/4, 1/4, and one that is sure, ten metres from its sample."""
    pose = torch.eye(4).repeat(2, 3, 1, 1)
    pose[0, 1, 0, 3], pose[0, 2, 2, 3], pose[1, :, 2, 3] = 0.7, 3.0, 10.0
    none = {k: torch.zeros(2) for k in bench.DetectedBoxes._fields}
    own = {
        "cam_from_obj": torch.eye(4).expand(2, 4, 4),
        "samples": pose,
        "log_weights": torch.tensor([[0.5, 0.25, 0.25]] * 2).log(),
    }
    own |= {"class_scores": torch.tensor([0.4, 0.5]), "scores": torch.tensor([0.1, 0.2]), "labels": torch.tensor([0, 1])}
    said = bench.rescored(bench.DetectedBoxes(**{**none, **own}))
    assert said["class"].labels.tolist() == said["class x predicted quality"].labels.tolist() == [1, 0]
    chance = said["class x chance to count"]
    assert chance.labels.tolist() == [0, 1]
    assert chance.scores.tolist() == pytest.approx([0.4 * (0.5 + 0.25 * 3 / 4 + 0.25 / 4), 0.0])
    assert said["class x root of it"].scores.tolist() == pytest.approx([0.1**0.5, 0.04**0.5])


def test_what_is_said_of_too_near_and_too_far():
    rows = [placed(height=20.0, farther=-0.1, middle=0.05, spread=0.2), placed(height=80.0, farther=0.3, error=float("inf"))]
    said = bench.bias_table({"a": rows, "b": [placed(farther=0.02)]}).splitlines()
    assert said[2:] == [
        "| a | 16–32 | 1 | -10.0 | 5.0 | 20.0 | 12.0 |", "| a | all | 1 | -10.0 | 5.0 | 20.0 | 12.0 |",
        "| b | 0–16 | 1 | 2.0 | – | – | – |", "| b | all | 1 | 2.0 | – | – | – |",
    ]  # fmt: skip


def test_rank_correlation():
    x = np.linspace(0, 3, 20)
    assert bench.correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert bench.correlation(x, -(x**3)) == pytest.approx(-1.0)


@pytest.mark.slow
def test_from_pictures_to_the_table_and_on(tmp_path, monkeypatch, capsys):
    size = ["--size", "64", "160", "--pictures", "3", "--held", "2", "--steps", "2", "--batch", "2", "--seeds", "1"]

    def called(*more):
        monkeypatch.setattr(sys, "argv", ["box3d", "--out", str(tmp_path), *size, *more])
        bench.main()
        return capsys.readouterr().out

    assert "| direct, 1 seed |" in called("--start", "0", "--layers", "direct")
    monkeypatch.setattr(bench, "MEMORY", {})
    assert "| reprojection, 1 seed |" in called("--start", "1", "--layers", "reprojection")
    assert 0 < len(bench.MEMORY) <= 3  # the encoder did not learn, and looked at every picture once
    file = tmp_path / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["layer"], line["seed"], line["settings"]["start"]) for line in lines] == [
        ("direct", 0, 0),
        ("reprojection", 0, 1),
    ]
    assert all(0 <= line["scores"]["nds"] <= 1 for line in lines)
    assert lines[0]["placed"]["surprise"] is None
    assert 0 <= lines[1]["placed"]["inside"]["0.9"] <= 1
    monkeypatch.setattr(bench, "train", lambda *_: pytest.fail("what is done is not done again"))
    assert called("--start", "0", "--layers", "direct").count("| direct, 1 seed |") == 2  # in both tables
    assert len(file.read_text().splitlines()) == 2
    older = {k: v for k, v in lines[0].items() if k != "placed"}
    del older["settings"]["start"]
    file.write_text(json.dumps(older) + "\n")
    assert called("--start", "0", "--table").count("| direct, 1 seed |") == 2
    assert json.loads(file.read_text())["placed"]["count"] == lines[0]["placed"]["count"]
    assert "| direct" not in called("--table", "--steps", "3")  # another table
    said = called("--start", "1", "--scores")
    assert [said.count(f"| reprojection | {place} | class") for place in ("mode", "middle")] == [5, 5]
    assert "| reprojection | all |" in called("--start", "1", "--bias")
    spread = bench.pairs(tmp_path / "direct_0_2", tmp_path / "held", samples=8)
    assert all(0 < p.visibility <= 1 and 0 <= p.error < bench.NEAR for p in spread)
    picture = tmp_path / "spread.png"
    bench.spread_picture([pair(distance=5.0 + k, visibility=k / 20) for k in range(20)], picture)
    assert picture.stat().st_size > 5000


def test_estimates_against_single_cars(tmp_path):
    """The truth, two metres too far: found, without overlap where cars are short."""
    config = road_scene.RoadConfig(size=(64, 160), shapes=2, objects=(3, 5), classes=(("car", 1.0),))
    folder = road_scene.write_road(tmp_path / "road", images=2, config=config, seed=0, workers=0)
    results = {}
    cars = 0
    for frame in kitti.read(folder):
        pose = frame.objects.cam_from_obj.clone()
        pose[:, 2, 3] += 2.0
        moved = replace(frame.objects, cam_from_obj=pose, boxes=None, scores=torch.ones(len(pose)))
        calibration = kitti.read_calibration(folder / "calib" / f"{frame.name}.txt")
        results[frame.name] = kitti.labels_from(moved, calibration, (64, 160))
        cars += int((frame.objects.labels == 0).sum())
    kitti.write_results(tmp_path / "kitti", results)
    said = bench.against(tmp_path / "kitti", folder)
    assert said.startswith(f"{cars} true boxes of class Car, {cars} found within 4 m")
    assert "centre 2.00 m, of the yaw 0.0 degrees" in said
    assert bench.against(tmp_path / "kitti", folder, "Tram") == "0 true boxes of class Tram, 0 found"
