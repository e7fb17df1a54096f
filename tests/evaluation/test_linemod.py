"""LINEMOD's classic protocol: closed forms on cubes, the two diameters, and BOP's own numbers where they must agree."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from evaluation.test_bop import DIAMETER, EYE, make_dataset, results, shifted, targets
from monopose import cli
from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import scenes
from monopose.evaluation import evaluate, linemod, tables

HALF_TURN = np.diag([-1.0, -1, 1])
HERE = (0, 0, 1000)


@pytest.fixture
def lmo(tmp_path):
    """Cubes named as objects of LM-O: an ape, an eggbox and a holepuncher, one picture each."""
    images = {i: [(i, EYE, HERE)] for i in (1, 10, 12)}
    return make_dataset(tmp_path / "lmo", images, obj_ids=(1, 10, 12))


def score(data, *rows, ask=(1,), **options):
    """Of estimates (object, R, t): object i is the one of picture i."""
    found = results(*[(i, i, 1.0, R, t) for i, R, t in rows])
    return linemod.evaluate(found, data, targets(*[(i, i, 1) for i in ask]), **options)


def test_truth_is_perfect(lmo):
    report = score(lmo, (1, EYE, HERE), (10, EYE, HERE), (12, EYE, HERE), ask=(1, 10, 12))
    everything = [report, *report["per_object"].values()]
    assert len(everything) == 4
    for part in everything:
        assert set(part["add_s"].values()) == set(part["add_s_linemod"].values()) == {1.0}
        assert list(part["deg_cm"]) == [str(n) for n in range(1, 11)]
        assert set(part["deg_cm"].values()) == set(part["projection"].values()) == {1.0}
        assert part["auc_add_s"] == part["auc_adi"] == {"voc": 1.0, "step": 1.0}
    assert report["targets"] == 3
    assert report["about"]["missing"] == 0


@pytest.mark.parametrize(
    ("percent", "passed"),
    [(1.9, "0.02 0.05 0.1"), (2.1, "0.05 0.1"), (4.9, "0.05 0.1"), (5.1, "0.1"), (9.9, "0.1"), (10.1, "")],
)
def test_a_shift_in_shares_of_the_diameter(lmo, percent, passed):
    found = score(lmo, (1, EYE, shifted(percent / 100)))["add_s"]
    for name in ("0.02", "0.05", "0.1"):
        assert found[name] == (name in passed.split())
    assert found["mean"] == pytest.approx(len(passed.split()) / 3)


@pytest.mark.parametrize(("millimetres", "by_bop", "by_linemod"), [(9.7, 1, 1), (9.8, 1, 0), (17.3, 1, 0), (17.4, 0, 0)])
def test_the_two_diameters(lmo, millimetres, by_bop, by_linemod):
    """The cube's own is 173.2 mm; the ape's, as distributed with LINEMOD, 97.43 mm."""
    report = score(lmo, (1, EYE, (millimetres, 0, 1000)))
    assert (report["add_s"]["0.1"], report["add_s_linemod"]["0.1"]) == (by_bop, by_linemod)
    assert report["about"]["diameters"]["linemod"] == {"1": 0.09743}
    assert report["about"]["diameters"]["bop"]["1"] == pytest.approx(DIAMETER / 1000)


def test_linemods_diameters_belong_to_linemod(tmp_path):
    data = make_dataset(tmp_path / "cubes", {1: [(1, EYE, HERE)]})
    report = score(data, (1, EYE, HERE))
    assert report["add_s_linemod"] is None
    assert report["about"]["diameters"]["linemod"] is None
    assert "0.1L" not in tables.text(report)


@pytest.mark.parametrize(
    ("angle", "millimetres", "least"),
    [(4.9, 49, 5), (5.1, 0, 6), (0, 51, 6), (0.9, 9, 1), (1.9, 21, 3), (9.9, 0, 10), (10.1, 0, 11)],
)
def test_degrees_and_centimetres(lmo, angle, millimetres, least):
    R = Rotation.from_euler("y", angle, degrees=True).as_matrix()
    found = score(lmo, (1, R, (0, 0, 1000 + millimetres)))["deg_cm"]
    assert found == {str(n): float(n >= least) for n in range(1, 11)}


@pytest.mark.parametrize(
    ("pixels", "passed"), [(1.9, 4), (2.1, 3), (4.9, 3), (5.1, 2), (9.9, 2), (10.1, 1), (19.9, 1), (20.1, 0)]
)
def test_projection_of_a_sideways_shift(lmo, pixels, passed):
    """Half of the corners are 0.95 m away, half 1.05 m; the focal length is 600 pixels."""
    millimetres = pixels / (600 * (1 / 950 + 1 / 1050) / 2)
    found = score(lmo, (1, EYE, (0, millimetres, 1000)))["projection"]
    assert list(found) == ["2", "5", "10", "20"]
    assert sum(found.values()) == passed


def test_behind_the_camera_is_wrong(lmo):
    report = score(lmo, (1, EYE, (0, 0, -1000)))
    assert set(report["projection"].values()) == {0.0}


@pytest.mark.parametrize(("ids", "expected"), [(None, (0, 1)), ((1,), (1, 0)), ((), (0, 0))])
def test_eggbox_and_glue_get_add_s(lmo, ids, expected):
    """A quarter turn leaves the set of a cube's corners as it is. models_info.json names no symmetry here."""
    turned = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    report = score(lmo, (1, turned, HERE), (10, turned, HERE), ask=(1, 10), symmetric=ids)
    assert tuple(report["per_object"][i]["add_s"]["0.02"] for i in ("1", "10")) == expected
    for part in report["per_object"].values():
        assert part["auc_adi"]["step"] == pytest.approx(1)  # ADD-S for every object


def test_elsewhere_models_info_names_the_symmetric_ones(tmp_path):
    turned = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    data = make_dataset(tmp_path / "cubes", {i: [(i, EYE, HERE)] for i in (1, 2)}, symmetric=(2,))
    report = score(data, (1, turned, HERE), (2, turned, HERE), ask=(1, 2))
    assert [report["per_object"][i]["add_s"]["0.1"] for i in ("1", "2")] == [0, 1]
    assert report["about"]["thresholds"]["add_s"].endswith("ADD-S for 2")


def test_the_eggbox_may_be_flipped_by_name_only(lmo):
    turned = [(i, HALF_TURN, HERE) for i in (1, 10)]
    plain, flipped = (score(lmo, *turned, ask=(1, 10), flip_eggbox=flip) for flip in (False, True))
    assert [plain["per_object"][i]["deg_cm"]["1"] for i in ("1", "10")] == [0, 0]
    assert [flipped["per_object"][i]["deg_cm"]["1"] for i in ("1", "10")] == [0, 1]
    assert [flipped["per_object"][i]["projection"]["2"] for i in ("1", "10")] == [0, 1]
    assert "flipped" not in plain["about"]["thresholds"]["deg_cm"]
    assert "eggbox flipped" in flipped["about"]["thresholds"]["deg_cm"]
    right = score(lmo, (10, EYE, HERE), ask=(10,), flip_eggbox=True)  # what is right stays
    assert right["deg_cm"]["1"] == 1


def test_the_best_estimate_counts_and_no_other(lmo):
    two = results((1, 1, 0.9, EYE, shifted(0.3)), (1, 1, 0.5, EYE, HERE), (1, 10, 1.0, EYE, HERE))
    assert linemod.evaluate(two, lmo, targets((1, 1, 1)))["add_s"]["0.1"] == 0
    none = linemod.evaluate(results((10, 1, 1.0, EYE, HERE)), lmo, targets((1, 1, 1), (12, 12, 1)))
    assert none["targets"] == none["about"]["missing"] == 2
    for name in ("add_s", "deg_cm", "projection", "auc_add_s"):
        assert set(none[name].values()) == {0.0}


def test_agrees_with_bops_report_where_they_measure_the_same(tmp_path):
    rng = np.random.default_rng(0)
    images = {
        k: [(o, Rotation.random(rng=rng).as_matrix(), rng.normal(size=3) * 50 + [0, 0, 900]) for o in (1, 2)] for k in range(40)
    }
    data = make_dataset(tmp_path / "cubes", images, symmetric=(2,))
    rows = []
    for k, objects in images.items():
        for o, R, t in objects:
            near = Rotation.from_rotvec(rng.normal(size=3) * 0.06).as_matrix() @ R
            rows.append((k, o, rng.random(), near, t + rng.normal(size=3) * [5, 5, 15]))
    rows += [(k, 1, 2.0, EYE, (0, 0, 3000)) for k in range(5)]  # far off, and the best of their pictures
    found, ask = results(*rows), targets(*[(k, o, 1) for k in images for o in (1, 2)])
    ours, bops = linemod.evaluate(found, data, ask), evaluate(found, data, ask)
    for part, other in ((ours, bops), *((ours["per_object"][i], bops["per_object"][i]) for i in ("1", "2"))):
        assert 0.1 < part["add_s"]["0.1"] < 1
        assert part["add_s"] == other["add_s"] | {"mean": pytest.approx(np.mean([*other["add_s"].values()]))}
        assert {n: part["deg_cm"][n] for n in ("2", "5", "10")} == other["deg_cm"]
        assert part["auc_add_s"] == pytest.approx(other["auc_add_s"])
        assert part["auc_adi"]["step"] >= part["auc_add_s"]["step"]


@pytest.mark.slow
def test_agrees_with_bop_on_a_published_file(oracles, shared_data):
    (file,) = (oracles / "lmo_published_results").glob("gt-*.csv")
    every = scenes.read_targets(shared_data / "lmo/test_targets_bop19.json")
    some = bop_results.Targets(*(v[::8] for v in every[:4]))  # all are scored in test_bop.py
    report = linemod.evaluate(file, shared_data / "lmo", some)
    assert report["targets"] == 181
    assert set(report["add_s"].values()) == set(report["add_s_linemod"].values()) == {1.0}
    assert set(report["deg_cm"].values()) == set(report["projection"].values()) == {1.0}


def test_what_the_protocol_does_not_know_is_said(lmo, tmp_path):
    two = make_dataset(tmp_path / "two", {3: [(1, EYE, HERE), (1, EYE, (100, 0, 1000))]})
    with pytest.raises(ValueError, match=r"scene 4, image 3 shows object 1 more than once.*--protocol bop"):
        linemod.evaluate(results(), two, targets((3, 1, 2)))
    with pytest.raises(ValueError, match="images only"):
        linemod.evaluate(results(), lmo, bop_results.Targets(np.array([4]), np.array([1]), None, None))
    with pytest.raises(ValueError, match="this data set is 'two'"):
        linemod.evaluate(results(), two, targets((3, 1, 1)), flip_eggbox=True)


def test_on_the_command_line(lmo, tmp_path, capsys):
    file = bop_results.write_results(tmp_path / "mine_lmo-test.csv", results((1, 1, 1.0, EYE, (9.8, 0, 1000))))
    ask = tmp_path / "targets.json"
    ask.write_text(json.dumps([{"scene_id": 4, "im_id": 1, "obj_id": 1, "inst_count": 1}]))
    words = ["evaluate", str(file), "--data", str(lmo), "--targets", str(ask)]
    assert cli.main([*words, "--protocol", "classic"]) == 0
    (
        header,
        row,
        *_,
    ) = capsys.readouterr().out.splitlines()
    cells = dict(zip(header.split()[2:], row.split()[3:]))
    assert cells["0.1d"] == cells["5°5cm"] == "100.0"
    assert cells["0.1L"] == cells["5px"] == "0.0"
    assert cli.main([*words, "--protocol", "classic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["add_s"]["0.1"] == 1
    for extra in (["--flip-eggbox"], ["--protocol", "classic", "--vsd"]):
        assert cli.main([*words, *extra]) == 2
        assert "belongs to" in capsys.readouterr().err
