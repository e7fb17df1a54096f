"""The category table: errors, baselines, rows that are not computed twice."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import category as bench
from monopose import weights
from monopose.category import model as category
from monopose.category import pipeline as cc
from monopose.category.fitting import FitConfig, Phase
from monopose.datasets.bop import models
from monopose.geometry import se3

DATA = Path(__file__).parents[3] / "shared" / "data" / "ycbv_mini"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    config = replace(category.tiny("mug"), volume=(6, 5, 4), projection=8, decoder=(6, 4), size_mean=0.15, size_spread=0.1)
    config = replace(config, encoder=(4, 4, 6, 6), hidden=6, shape_code=3, look_code=2)
    weights.save(folder / cc.FILE, category.Model(config).state_dict(), method="category", config=config)
    return bench.Run.read(str(folder))


def item(azimuth=0.0, elevation=0.0, inplane=0.0):
    view = torch.tensor([azimuth, elevation, inplane, 0.0, 0.0, 0.9])
    return bench.Item(torch.rand(3, 64, 64), torch.ones(64, 64), view, 0.0)


def test_errors_are_angles_of_rotations_or_of_the_axis():
    assert bench.error_deg(torch.tensor([math.pi, 0.0, 0.0]), item(), False) == pytest.approx(180, abs=0.1)
    assert bench.error_deg(torch.tensor([math.pi, 0.0, 0.0]), item(), True) == pytest.approx(0, abs=1e-4)
    assert bench.error_deg(torch.tensor([2.0, 0.3, 0.0]), item(0.5), True) == pytest.approx(math.degrees(0.3), abs=1e-3)
    assert bench.error_deg(torch.tensor([0.2, 0.0, 0.0]), item(0.1), False) == pytest.approx(math.degrees(0.1), abs=1e-3)


@pytest.mark.slow
def test_a_template_finds_itself(monkeypatch):
    """A training view cut as a photo is, is most like its own template, turned in the plane or not."""
    monkeypatch.setattr(bench, "TEMPLATES", 12)
    monkeypatch.setattr(bench, "TEMPLATE_SHAPES", 3)
    templates = bench.Templates("mug", 64, 1.3)
    assert templates.images.shape == (12, 3, 64, 64)
    for row in (0, 5, 11):
        seen = bench.Item(templates.images[row], (templates.alphas[row] > 0.5).float(), torch.zeros(6), 0.0)
        assert torch.equal(templates.nearest(seen), templates.angles[row])


def test_rows_are_written_as_they_come_and_not_computed_twice(run, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TEMPLATES", 4)
    monkeypatch.setattr(bench, "TEMPLATE_SHAPES", 2)
    monkeypatch.setattr(bench, "SEARCHES", {"fit, default": FitConfig((Phase(2, 1),), features="pyramid", select="vote")})
    rows = bench.measured([run], tmp_path, 2, 0, ["default"])
    assert [(r["method"], r["item"]) for r in rows] == [
        (name, i) for name in ("pose head alone", "nearest of 4 templates", "fit, default") for i in (0, 1)
    ]
    assert all(0 <= r["error_deg"] <= 180 for r in rows)
    monkeypatch.setattr(bench, "_fitted", lambda *_: pytest.fail("computed again"))
    again = bench.measured([run], tmp_path, 2, 0, ["default"])
    assert again == rows == [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    text = bench.table(rows, [run], 2)
    assert "**mug, the handle in sight**" in text
    assert "| the same, chosen by vote | 2 |" in text


def test_the_table_says_what_the_rows_say(run):
    rows = [
        {"run": run.version, "item": i, "method": "m", "handle": 0.1 * (i > 0), "error_deg": e, "cpu_seconds": 1.5}
        for i, e in enumerate((150.0, 5.0, 20.0))
    ]
    text = bench.table([*rows, {**rows[0], "run": "other"}], [run], 3)
    assert "| m | 3 | 20.0° (5.0–150.0) | 33 % | 67 % | 1.50 |" in text
    assert "| m | 2 | 12.5° (5.0–20.0) | 50 % | 100 % | 1.50 |" in text


def test_the_interval_of_a_median_shrinks_with_the_objects():
    many = [float(v) for v in range(100)]
    low, high = bench.interval(many)
    assert 35 < low < 49.5 < high < 64  # the binomial interval of the median is 40 to 60
    few = bench.interval(many[::10])
    assert few[1] - few[0] > 1.5 * (high - low)
    assert bench.interval([3.0] * 5) == (3.0, 3.0)


def test_the_slow_search_stands_beside_the_default_on_the_same_photos(run):
    def row(method, i, error):
        same = {"run": run.version, "handle": 0.1, "cpu_seconds": 1.0}
        return {**same, "method": method, "item": i, "error_deg": error}

    rows = [row("fit, default", i, float(i)) for i in range(9)] + [row(bench.PUBLISHED, i, 20.0) for i in (1, 2, 3)]
    text = bench.table(rows, [run], 9)
    assert f"| {bench.PUBLISHED} | 3 | 20.0° (20.0–20.0) |" in text
    assert "| fit, default, on the same photos | 3 | 2.0° (1.0–3.0) |" in text


def test_the_profile_tells_how_the_loss_rises_beside_the_true_elevation(run, monkeypatch):
    photos = (item(elevation=0.3), item(elevation=0.6))
    monkeypatch.setattr(bench, "items", lambda *_: photos)
    heads = []

    def fit(model, image, mask, config, start):
        heads.append((config.head_weight, config.lr_elevation))
        off = abs(float(start[1]) - float(photos[(len(heads) - 1) // 7].view[1]))
        return bench.fitting.Fit(None, torch.tensor([1.0 + off]), 0, 0, 1, 0, "", [])

    monkeypatch.setattr(bench.fitting, "fit", fit)
    text = bench.profile(run, 2)
    assert "| 34.9 % | 20.9 % | 10.5 % | 0.0 % | 10.5 % | 20.9 % | 34.9 % |" in text
    assert "| photos in which it is less | 0 | 0 | 0 | 0 | 0 | 0 | 0 |" in text
    assert set(heads) == {(0.0, 0.0)}


@pytest.mark.skipif(not DATA.is_dir(), reason="no YCB-V photos in ../shared/data")
def test_meshes_of_ycbv_stand_in_the_category_frame():
    """The origin on the axis at half the height; the mug's handle is what sticks out, along +X."""
    mug = models.read_models(DATA / "models", {14})[14]
    points = se3.transform(bench.category_frame(mug, "mug"), mug.vertices)
    assert abs(float(points[:, 2].amax() + points[:, 2].amin())) < 1e-5
    far = points[points[:, :2].norm(dim=1) > 0.055]
    turn = torch.atan2(far[:, 1].mean(), far[:, 0].mean())
    assert abs(math.degrees(float(turn))) < 5


def test_without_a_pose_head_it_is_not_a_baseline(run):
    blind = category.Model(replace(run.model.config, head=False)).eval()
    with pytest.raises(ValueError, match="no pose head"):
        bench.pose_head(blind, item())
    names = [name for name, _ in bench.methods(bench.Run("mug", blind, "x"), ["nothing"])]
    assert names == [f"nearest of {bench.TEMPLATES} templates"]
