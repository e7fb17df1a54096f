"""What training's ingredients are worth: the design and its arithmetic in closed form, and both kinds of run, small."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import monopose
from benchmarks import ingredients as bench
from monopose import weights
from monopose.objects import coordinates

DEMO = Path(monopose.__file__).parent / "assets/demo/objects"


def test_the_design_is_orthogonal():
    signs = 2 * bench.design() - 1
    assert signs.shape == (12, len(bench.FACTORS)) == (12, 11)
    np.testing.assert_array_equal(signs.T @ signs, 12 * np.eye(11))
    assert (signs.sum(0) == 0).all()
    together = bench.design().T @ bench.design()
    assert (together[~np.eye(11, dtype=bool)] == 3).all()  # any two, in three runs
    assert (bench.design()[-1] == 0).all()


def test_effects_of_a_sum_are_its_parts():
    rng = np.random.default_rng(0)
    true = rng.normal(size=11)
    scores = 0.4 + bench.design() @ true
    np.testing.assert_allclose(bench.effects(bench.design(), scores), true, atol=1e-12)


def test_chance_is_not_moved_by_what_works():
    """Lenth: normal noise has its own deviation; two large effects among eleven hardly change it."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 2.0, (4000, 11))
    alone = np.array([bench.lenth(e) for e in noise])
    assert np.median(alone) == pytest.approx(2.0, rel=0.15)
    noise[:, :2] += 100
    among = np.array([bench.lenth(e) for e in noise])
    assert np.median(among) == pytest.approx(2.0, rel=0.1)
    assert bench.lenth(np.zeros(11)) == 0
    beyond = np.abs(rng.normal(0, 2.0, (4000, 11))) > np.array([[bench.margin(e)] for e in rng.normal(0, 2.0, (4000, 11))])
    assert beyond.mean() == pytest.approx(0.05, abs=0.02)


def _called(monkeypatch, capsys, out, *more):
    argv = ["--data", DEMO, "--targets", "t.json", "--backgrounds", out, "--out", out / "runs", *more]
    monkeypatch.setattr(sys, "argv", ["ingredients", *map(str, argv)])
    bench.main()
    return capsys.readouterr().out


def _fake_scores(monkeypatch):
    """Scores that say how often a run was scored, and a detector that finds nothing."""
    scored = []

    def score(run, options, targets, boxes):
        scored.append((run.name, boxes))
        return {"ar": len(scored) / 100, "add": 0.1, "near": 0.2, "px": 0.3}

    monkeypatch.setattr(bench, "scored", score)
    monkeypatch.setattr(bench, "detected", lambda options, targets: Path("boxes.json"))
    return scored


def test_twelve_runs_a_table_and_on(tmp_path, monkeypatch, capsys):
    """Every run starts from the given weights with what its row changes; what is done is not done again."""
    config = coordinates.Config((1, 2), input_size=32, output_size=16, widths=(8, 8, 8, 8), pretrained=False, frozen_levels=0)
    torch.manual_seed(0)
    model = coordinates.Model(config, bench.train.read_objects(DEMO, (1, 2)))
    start = tmp_path / "start"
    weights.save(start / "coordinates.safetensors", model.state_dict(), method="coordinates", config=config, labels=(1, 2))
    trained = []

    def train(method, data, out, **how):
        trained.append(how)
        return out / "coordinates.safetensors"

    monkeypatch.setattr(bench.train, "train", train)
    scored = _fake_scores(monkeypatch)
    said = _called(monkeypatch, capsys, tmp_path, "--init", start)
    assert len(trained) == 12
    assert len(scored) == 24
    assert said.count("\n| ") >= len(bench.FACTORS) + 2
    first = dict(zip([f.name for f in bench.FACTORS], bench.design()[0], strict=True))
    assert trained[0]["method_config"].crop_scale == (1.2 if first[bench.FACTORS[1].name] else 1.5)
    assert trained[-1]["method_config"] == config
    assert trained[-1]["scene"].upright
    assert {t["method_config"].shift for t in trained} == {0.12, 0.25}
    assert {t["scene"].colours for t in trained} == {1.0, 1.6}
    assert sum(t["backgrounds"] is None for t in trained) == 6
    file = tmp_path / "runs/results.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))  # killed in the last one
    assert "11 of 12 runs done" in _called(monkeypatch, capsys, tmp_path, "--init", start, "--table")
    _called(monkeypatch, capsys, tmp_path, "--init", start)
    assert len(trained) == 13
    for other in (("--steps", "7"), ("--lr", "0.1"), ("--batch", "3")):  # another table, other folders
        assert "0 of 12" in _called(monkeypatch, capsys, tmp_path, "--init", start, "--table", *other)
    weights.save(start / "coordinates.safetensors", model.state_dict(), method="coordinates", config=config, notes={"a": "b"})
    assert "0 of 12" in _called(monkeypatch, capsys, tmp_path, "--init", start, "--table")


def test_networks_from_nothing(tmp_path, monkeypatch, capsys):
    """One step of two networks on the same crops; the shared head is the same for all objects in the end."""
    scored = _fake_scores(monkeypatch)
    photo = np.full((40, 40, 3), 90, np.uint8)
    monkeypatch.setattr(bench.synth, "read_backgrounds", lambda folder: [photo])
    monkeypatch.setattr(bench, "targets_of", lambda source, ids, out: out)
    monkeypatch.setattr(bench, "OBJECTS", (1, 2))
    monkeypatch.setattr(bench, "SMALL", {"input_size": 32, "output_size": 16, "widths": (8, 8, 8, 8), "pretrained": False})
    shared = next(n for n in bench.NETWORKS if n.head is bench.SharedHead)
    monkeypatch.setattr(bench, "NETWORKS", (bench.NETWORKS[0], shared))
    how = ("--nothing", "--crops", 3, "--steps", 1, "--batch", 2)
    said = _called(monkeypatch, capsys, tmp_path, *how)
    assert "| default, seed 0 | 0.010 | 10.0 | 20.0 | 30.0 |" in said
    lines = [json.loads(line) for line in (tmp_path / "runs/results.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines] == ["default, seed 0", "one head for all objects, seed 0"]
    heads = [
        weights.read(next((tmp_path / "runs").glob(f"nothing_{k}_*")) / "coordinates.safetensors").state["net.head.weight"]
        for k in (0, 1)
    ]
    assert not torch.equal(heads[0][0], heads[0][1])
    assert torch.equal(heads[1][0], heads[1][1])
    _called(monkeypatch, capsys, tmp_path, *how)
    assert len(scored) == 2


def test_kept_samples_come_in_another_order_every_time():
    kept = bench.Kept([{"x": torch.tensor(i)} for i in range(5)], 15, seed=3)
    epochs = [[int(kept[i]["x"]) for i in range(5 * e, 5 * e + 5)] for e in range(3)]
    assert all(sorted(e) == list(range(5)) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1
    assert len(kept) == 15
