"""The measurements of the refiner: noise belongs to the instance, scores agree with the protocols, clocks miss nothing."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT
from monopose.commands import demo
from monopose.datasets.bop import results as bop_results
from monopose.evaluation import bop as bop_evaluation
from monopose.evaluation import linemod
from monopose.geometry import rotation
from monopose.io import records
from monopose.objects import refinement, refiner

sys.path.insert(0, str(ROOT))
from benchmarks import refiner as speed
from benchmarks import refiner_robustness as robustness

TINY = refiner.Config(
    backbone="resnet18", pretrained=False, crop_size=64, features=16, hidden=16, motion=16, context=16, descriptor=8,
    surface_points=64, surface_width=16, levels=2, radius=2, outer=1, inner=2,
)  # fmt: skip
CELLS = [(5.0, 1.0), (30.0, 3.0)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return refiner.Model(TINY).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory, network):
    """The bundled photos and objects as one BOP folder, opened; two photos of five objects."""
    folder = tmp_path_factory.mktemp("refiner") / "demo"
    folder.mkdir()
    (folder / "test").symlink_to(demo.folder() / "photos" / "test")
    (folder / "models").symlink_to(demo.folder() / "objects")
    return robustness.opened(folder, demo.folder() / "photos" / "test_targets_bop19.json", network, images=2, faces=500)


def truth(setting):
    """True poses by scene, image and object, float64."""
    t = setting.data.truth
    keys = zip(t.scene_id.tolist(), t.im_id.tolist(), t.obj_id.tolist(), strict=True)
    return dict(zip(keys, torch.from_numpy(t.pose), strict=True))


def answers(monkeypatch, poses=None, converged=True):
    """In place of the network: these poses one after the other, or the initial ones; the list of what it was asked."""
    asked = []
    given = iter(poses or ())

    def refine(model, images, K, objects, cam_from_obj, outer, inner):
        asked.append(cam_from_obj)
        out = cam_from_obj if poses is None else torch.stack([next(given) for _ in cam_from_obj]).to(cam_from_obj)
        said = torch.full((len(out),), converged)
        covariance = torch.eye(6).repeat(len(out), 1, 1)
        return refinement.Refined(out, said, torch.zeros(len(out)), covariance, [], torch.arange(len(out)))

    monkeypatch.setattr(refinement, "refine", refine)
    return asked


# -------------------------------------------------------------------------------------------------------------------- noise


def test_noise_belongs_to_instance_and_cell():
    true = torch.eye(4, dtype=torch.float64)
    true[2, 3] = 1.0
    one = robustness.initial(true, (1, 2, 0), (15.0, 3.0))
    assert torch.equal(one, robustness.initial(true, (1, 2, 0), (15.0, 3.0)))
    for key, cell in (((1, 2, 1), (15.0, 3.0)), ((1, 3, 0), (15.0, 3.0)), ((2, 2, 0), (15.0, 3.0)), ((1, 2, 0), (15.0, 6.0))):
        assert (one - robustness.initial(true, key, cell)).abs().max() > 1e-3


def test_noise_is_as_large_as_its_cell_says():
    true = torch.eye(4, dtype=torch.float64)
    true[2, 3] = 2.0
    poses = torch.stack([robustness.initial(true, (1, i, 0), (5.0, 3.0)) for i in range(400)])
    shift = poses[:, :3, 3] - true[:3, 3]
    assert shift[:, :2].std() == pytest.approx(0.03, rel=0.1)
    assert shift[:, 2].std() == pytest.approx(0.09, rel=0.1)
    angle = torch.rad2deg(rotation.angle_between(poses[:, :3, :3], true[:3, :3].expand(400, 3, 3)))
    assert angle.square().mean().sqrt() == pytest.approx(5 * math.sqrt(3), rel=0.1)


def test_a_subset_meets_the_same_noise(monkeypatch, photos):
    asked = answers(monkeypatch)
    robustness.grid(photos, CELLS)
    whole = list(asked)
    asked.clear()
    assert photos.targets.obj_id is not None
    few = bop_results.Targets(*(column[7:] for column in photos.targets))  # objects 3, 4, 5 of the second photo
    robustness.grid(photos._replace(targets=few), CELLS[1:])
    assert len(whole) == 4
    assert [len(poses) for poses in asked] == [3]
    assert torch.equal(asked[0], whole[3][2:])


# ------------------------------------------------------------------------------------------------------------------- scores


def test_recalls_are_those_of_the_classic_protocol(monkeypatch, photos):
    asked = answers(monkeypatch)
    rows = robustness.grid(photos, CELLS[:1])
    assert photos.targets.obj_id is not None
    poses = torch.cat(asked).double().numpy()
    none = np.zeros(len(poses))
    found = bop_results.Results(*photos.targets[:3], none, poses[:, :3, :3], poses[:, :3, 3], none)
    report = linemod.evaluate(found, photos.folder, photos.targets)
    assert 0 < report["add_s"]["0.1"] < 1  # otherwise this would show little
    assert robustness.recall(rows, 0) == robustness.recall(rows, 1) == pytest.approx(100 * report["add_s"]["0.1"])
    each = {i: [r for r in rows if r.obj_id == int(i)] for i in report["per_object"]}
    assert {i: robustness.recall(part, 0) for i, part in each.items()} == {
        i: pytest.approx(100 * part["add_s"]["0.1"]) for i, part in report["per_object"].items()
    }


def test_the_truth_is_right_after(monkeypatch, photos, tmp_path):
    true = list(truth(photos).values())
    answers(monkeypatch, [p for photo in (true[:5], true[5:10]) for _ in CELLS for p in photo])
    rows = robustness.grid(photos, CELLS, tmp_path / "rows.json")
    assert len(rows) == 20
    assert robustness.recall(rows, 1) == 100 > robustness.recall(rows, 0)
    assert max(r.degrees[1] for r in rows) < 0.1
    assert max(r.metres[1] for r in rows) < 1e-4
    turned = [r.degrees[0] for r in rows if r.cell == CELLS[1] and r.obj_id in (1, 2, 5)]  # without symmetries
    assert min(turned) > 1
    assert len(records.read_json(tmp_path / "rows.json")["grid"]) == 20


def test_tables_sum_and_mark_what_falls():
    def row(visibility, cell, before, after):
        return robustness.Row(1, 0, 1, visibility, cell, (before, after), (9.0, 3.0), (0.02, 0.01), True, 0.1, 0.5)

    rows = [row(0.9, (5.0, 1.0), 0.2, 0.05), row(0.6, (5.0, 1.0), 0.05, 0.05), row(0.4, (15.0, 1.0), 0.09, 0.11)]
    rows.append(row(1.0, (15.0, 3.0), 0.3, math.inf))
    text = robustness.grid_tables(rows)
    assert "| 5° | 50.0 → 100.0 |  |" in text
    assert "| 15° | 100.0 → 0.0 (!) | 0.0 → 0.0 |" in text
    assert "| > 80 % | 2 | 0.0 → 50.0 | 50.0 % | 0.0 % |" in text
    assert "| 50-80 % | 1 | 100.0 → 100.0 | 0.0 % | 0.0 % |" in text
    assert "| 10-50 % | 1 | 100.0 → 0.0 (!) | 0.0 % | 100.0 % |" in text
    assert "| all | 4 | 50.0 → 50.0 | 25.0 % | 25.0 % |" in text
    assert "| 5°, 1 cm | 50.0 → 100.0 | 9.0 → 3.0 | 20 → 10 | 100 | 0.50 |" in text


@pytest.mark.parametrize(
    ("visibility", "name"),
    [(1.0, "> 80 %"), (0.8, "> 80 %"), (0.79, "50-80 %"), (0.5, "50-80 %"), (0.1, "10-50 %"), (0.05, None)],
)
def test_visibility_has_one_class(visibility, name):
    classes = [n for n, (low, high) in robustness.VISIBILITY.items() if low <= visibility < high]
    assert classes == ([name] if name else [])


def results(setting, poses):
    none = np.ones(len(poses))
    keys = np.array(list(truth(setting)))[: len(poses)].T
    pose = torch.stack(poses).numpy()
    return bop_results.Results(*keys, none, pose[:, :3, :3], pose[:, :3, 3], none)


@pytest.mark.slow
def test_results_before_and_after(monkeypatch, photos):
    true = list(truth(photos).values())
    noisy = [robustness.initial(p, (1, n, 0), (15.0, 3.0)) for n, p in enumerate(true[:15])]  # the third photo is no target
    answers(monkeypatch, true)
    before, after, way = robustness.from_results(photos, results(photos, noisy))
    assert len(before.score) == len(after.score) == 10
    assert way["converged"] == 100
    scores = [robustness.scored(photos, r) for r in (before, after)]
    assert scores[1] == {"add_s": 100, "ar": 1.0, "mssd": 1.0, "mspd": 1.0}
    assert scores[0]["ar"] == bop_evaluation.evaluate(before, photos.folder, photos.targets)["ar"]["mean"] < 0.9
    table = robustness.initial_table({"noisy.csv": (*scores, way)})
    assert f"| noisy.csv | {scores[0]['add_s']:.1f} → 100.0 | {scores[0]['ar']:.3f} → 1.000 |" in table


def test_what_did_not_converge_stays(monkeypatch, photos):
    true = list(truth(photos).values())[:10]
    answers(monkeypatch, [p.flip(0) for p in true], converged=False)
    before, after, way = robustness.from_results(photos, results(photos, true))
    assert way["converged"] == 0
    assert np.array_equal(before.R, after.R)
    assert np.array_equal(before.t, after.t)


@pytest.mark.slow
def test_the_network_itself_runs_through(photos):
    rows = robustness.grid(photos, CELLS[:1])
    assert len(rows) == 10
    assert all(np.isfinite([*r.add_s, *r.degrees, *r.metres]).all() for r in rows)
    assert all(r.seconds > 0 for r in rows)


def test_cells():
    assert robustness.cells_of(["15x3", "2.5x1"]) == [(15.0, 3.0), (2.5, 1.0)]
    assert robustness.cells_of(["none"]) == []
    assert robustness.cells_of(None) == list(itertools.product((5, 15, 30, 45), (1, 3, 6)))
    with pytest.raises(ValueError, match="15x3"):
        robustness.cells_of(["15"])


# -------------------------------------------------------------------------------------------------------------------- speed


def test_clocks_hold_every_call_and_leave_no_trace(network):
    objects = [refiner.prepare_object(m, TINY) for m in speed.bumpy(300, 2)]
    picture, poses = torch.rand(3, *speed.SIZE), speed.starts(2)
    plain = refinement.refine(network, picture, speed.K, objects, poses, 2, 3)
    before = [getattr(owner, name) for functions in speed.parts(network).values() for owner, name in functions]
    ticks = itertools.count()
    with speed.watched(network, lambda: float(next(ticks))) as (seconds, calls):
        watched = refinement.refine(network, picture, speed.K, objects, poses, 2, 3)
    assert torch.equal(plain.cam_from_obj, watched.cam_from_obj)
    after = [getattr(owner, name) for functions in speed.parts(network).values() for owner, name in functions]
    assert after == before
    assert not any("forward" in vars(module) for module in network.modules())
    assert calls["LM"] == 2 * 3 + 1  # the last one judges
    assert all(calls.values())
    assert calls["rendering"] == calls["features"] == calls["correlation"] == 3
    assert calls["surface net"] == 1
    assert seconds == {part: float(n) for part, n in calls.items()}  # a tick each: nothing is counted inside another part


def test_parts_and_rest_are_the_total(network):
    objects = [refiner.prepare_object(m, TINY) for m in speed.bumpy(300, 2)]
    spent = speed.measured(network, objects, speed.starts(2), 1, 2, repeat=1)
    assert sum(spent.parts.values()) == pytest.approx(spent.total)
    assert min(spent.parts.values()) >= 0
    text = speed.table({2: spent}, 2)
    assert f"{1e3 * spent.total / 4:.2f}" in text
    assert all(part in text for part in spent.parts)


def test_bumpy_objects_look_outwards():
    first, second = speed.bumpy(1000, 2)
    outwards = (first.normals * (first.vertices - first.vertices.mean(0))).sum(-1)
    assert (outwards > 0).float().mean() > 0.99
    assert not torch.equal(first.vertices, second.vertices)


def test_rendering_counts_its_triangles(network):
    text = speed.rendering(network, (300, 1000), 2, 1)
    found = [line.split() for line in text.splitlines()[1:]]
    assert [row[0] for row in found] == [f"{len(speed.bumpy(n, 1)[0].faces):,d}" for n in (300, 1000)]
    assert all(float(row[2]) > 0 for row in found)
