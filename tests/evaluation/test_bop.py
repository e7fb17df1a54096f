"""BOP's protocols: published scores, axioms, and one test per edge rule, on small data sets made here."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import scenes
from monopose.evaluation import errors, evaluate, scores, tables
from monopose.io.shards import MERGE, Shard

CUBE = np.array([[x, y, z] for x in (-50.0, 50) for y in (-50.0, 50) for z in (-50.0, 50)])  # mm
DIAMETER = 100 * 3**0.5
K = [600.0, 0, 320, 0, 600, 240, 0, 0, 1]


def write_ply(path, points):
    rows = "\n".join(" ".join(map(repr, p)) for p in points.tolist())
    path.write_text(
        f"ply\nformat ascii 1.0\nelement vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face 1\nproperty list uchar int vertex_indices\nend_header\n{rows}\n3 0 1 2\n"
    )


def make_dataset(folder, images, visibility=None, width=640, obj_ids=(1, 2), symmetric=()):
    """A data set of cubes; images: im_id -> list of (obj_id, R, t_mm)."""
    (folder / "models_eval").mkdir(parents=True)
    scene = folder / "test/000004"
    scene.mkdir(parents=True)
    infos = {}
    for i in obj_ids:
        write_ply(folder / f"models_eval/obj_{i:06d}.ply", CUBE)
        infos[str(i)] = {"diameter": DIAMETER}
        if i in symmetric:
            infos[str(i)]["symmetries_discrete"] = [np.diag([-1.0, -1, 1, 1]).ravel().tolist()]
    (folder / "models_eval/models_info.json").write_text(json.dumps(infos))
    camera = {"cx": 320, "cy": 240, "depth_scale": 1, "fx": 600, "fy": 600, "height": 480, "width": width}
    (folder / "camera.json").write_text(json.dumps(camera))
    truth = {
        str(k): [{"obj_id": o, "cam_R_m2c": np.ravel(R).tolist(), "cam_t_m2c": list(map(float, t))} for o, R, t in v]
        for k, v in images.items()
    }
    shares = visibility or {k: [1.0] * len(v) for k, v in images.items()}
    info = {
        str(k): [{"bbox_obj": [0, 0, 9, 9], "bbox_visib": [0, 0, 9, 9], "visib_fract": s} for s in v] for k, v in shares.items()
    }
    (scene / "scene_gt.json").write_text(json.dumps(truth))
    (scene / "scene_gt_info.json").write_text(json.dumps(info))
    (scene / "scene_camera.json").write_text(json.dumps({str(k): {"cam_K": K, "depth_scale": 1.0} for k in images}))
    return folder


def targets(*rows):
    """(im_id, obj_id, inst_count) ..."""
    im, obj, count = np.array(rows, np.int64).T
    return bop_results.Targets(np.full(len(im), 4), im, obj, count)


def results(*rows):
    """(im_id, obj_id, score, R, t_mm) ..."""
    if not rows:
        return bop_results.concatenated([])
    im, obj, score, R, t = zip(*rows)
    scene = np.full(len(im), 4)
    columns = (np.array(im), np.array(obj), np.array(score, float), np.array(R, float), np.array(t, float) * 1e-3)
    return bop_results.Results(scene, *columns, np.full(len(im), -1.0))


EYE = np.eye(3)


def shifted(share):
    """A cube 1 m away moved sideways by a share of its diameter."""
    return (DIAMETER * share, 0, 1000)


@pytest.fixture
def one(tmp_path):
    """One cube in one image."""
    return make_dataset(tmp_path / "cubes", {7: [(1, EYE, (0, 0, 1000))]})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["cnos-fastsammegapose_lmo-test_16ab01bd-f020-4194-9750-d42fc7f875d2.csv", "gt-pbrreal-rgb-mmodel_lmo-test_lmo.csv"],
)
def test_published_results_on_lmo_get_their_published_scores(oracles, shared_data, name):
    expected = json.loads((oracles / "lmo_expected_scores.json").read_text())[name]
    report = evaluate(oracles / "lmo_published_results" / name, shared_data / "lmo")
    assert report["targets"] == 1445
    for kind in ("mssd", "mspd"):
        if f"bop19_average_recall_{kind}" in expected:
            assert report["ar"][kind] == pytest.approx(expected[f"bop19_average_recall_{kind}"], abs=1e-9)
        assert report["ap"][kind] == pytest.approx(expected[f"bop24_mAP_{kind}"], abs=1e-6)
    assert report["ap"]["mean"] == pytest.approx(expected["bop24_mAP"], abs=1e-6)
    assert report["ar"]["vsd"] is None
    assert report["ar"]["mean"] == pytest.approx((report["ar"]["mssd"] + report["ar"]["mspd"]) / 2)
    assert "vsd was not computed" in report["about"]["ar_mean"]
    assert set(report["per_object"]) == {"1", "5", "6", "8", "9", "10", "11", "12"}
    json.dumps(report)
    if name.startswith("gt-"):  # the truth as a result
        assert report["ar"]["mean"] == 1
        assert report["add_s"] == {"0.02": 1, "0.05": 1, "0.1": 1}
        assert report["deg_cm"] == {"2": 1, "5": 1, "10": 1}
        assert report["auc_add_s"] == pytest.approx({"voc": 1, "step": 1}, abs=1e-6)
    else:  # with one instance of a class per image the recalls follow from the errors of the best estimates
        rows = bop_results.read_results(oracles / "lmo_published_results" / name)
        est, true = _best_estimates(rows, scenes.open_scene(shared_data / "lmo/test/000002"), report)
        angle, distance = errors.rotation(est, true), errors.translation(est, true)
        for n in (2, 5, 10):
            hits = ((np.degrees(angle) < n) & (distance < n / 100)).sum()
            assert report["deg_cm"][str(n)] * 1445 == pytest.approx(hits)


def _best_estimates(rows, scene, report):
    """Poses (estimated, true) of the targets of LM-O that have an estimate."""
    wanted = scenes.read_targets(report["about"]["targets_file"])
    pairs = []
    for im_id, obj_id in zip(wanted.im_id, wanted.obj_id):
        mine = np.flatnonzero((rows.im_id == im_id) & (rows.obj_id == obj_id))
        (other,) = np.flatnonzero((scene.truth.im_id == im_id) & (scene.truth.obj_id == obj_id))
        if len(mine):
            best = mine[np.argmax(rows.score[mine])]
            pairs.append([_pose(rows.R[best], rows.t[best]), _pose(scene.truth.R[other], scene.truth.t[other])])
    return np.swapaxes(np.array(pairs), 0, 1)


def _pose(R, t):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, t
    return pose


def test_truth_as_result_is_perfect(tmp_path):
    rng = np.random.default_rng(0)
    images = {
        k: [(o, Rotation.random(rng=rng).as_matrix(), rng.normal(size=3) * 50 + [0, 0, 900]) for o in (1, 1, 2)] for k in (1, 5)
    }
    data = make_dataset(tmp_path / "cubes", images, symmetric=(2,))
    rows = [(k, o, 0.5, R, t) for k, v in images.items() for o, R, t in v]
    report = evaluate(results(*rows), data, targets((1, 1, 2), (1, 2, 1), (5, 1, 2), (5, 2, 1)))
    assert report["ar"] == {"mssd": 1, "mspd": 1, "vsd": None, "mean": 1}
    assert report["ap"] == {"mssd": 1, "mspd": 1, "mean": 1}
    assert report["add_s"] == {"0.02": 1, "0.05": 1, "0.1": 1}
    assert report["targets"] == 6
    assert report["per_object"]["1"]["targets"] == 4


def test_nothing_estimated_scores_zero(one):
    report = evaluate(results(), one, targets((7, 1, 1)))
    assert report["ar"]["mean"] == report["ap"]["mean"] == report["add_s"]["0.1"] == 0


@pytest.mark.parametrize(("share", "add", "mssd"), [(0.099, 1, 0.9), (0.101, 0, 0.8), (0.049, 1, 1.0), (0.51, 0, 0.0)])
def test_a_shift_passes_the_thresholds_above_it(one, share, add, mssd):
    report = evaluate(results((7, 1, 1.0, EYE, shifted(share))), one, targets((7, 1, 1)))
    assert report["add_s"]["0.1"] == add
    assert report["ar"]["mssd"] == pytest.approx(mssd)


def test_add_s_is_used_for_symmetric_objects(tmp_path):
    turned = Rotation.from_euler("z", 90, degrees=True).as_matrix()  # a cube looks the same, its corners do not coincide
    for symmetric, expected in (((), 0), ((1,), 1)):
        data = make_dataset(tmp_path / f"cubes{len(symmetric)}", {7: [(1, EYE, (0, 0, 1000))]}, symmetric=symmetric)
        report = evaluate(results((7, 1, 1.0, turned, (0, 0, 1000))), data, targets((7, 1, 1)))
        assert report["add_s"]["0.02"] == expected


@pytest.mark.parametrize(
    ("angle", "millimetres", "passed"),
    [(1.9, 19, "2 5 10"), (2.1, 0, "5 10"), (0, 21, "5 10"), (4.9, 51, "10"), (9.9, 99, "10"), (10.1, 0, ""), (0, 101, "")],
)
def test_degrees_and_centimetres_both_have_to_be_small(one, angle, millimetres, passed):
    R = Rotation.from_euler("x", angle, degrees=True).as_matrix()
    report = evaluate(results((7, 1, 1.0, R, (0, 0, 1000 + millimetres))), one, targets((7, 1, 1)))
    assert report["deg_cm"] == {n: float(n in passed.split()) for n in ("2", "5", "10")}
    assert report["per_object"]["1"]["deg_cm"] == report["deg_cm"]


def test_rotation_in_degrees_is_the_plain_one(tmp_path):
    """A symmetric object turned onto itself counts as wrong there, and the report says so."""
    data = make_dataset(tmp_path / "cubes", {7: [(1, EYE, (0, 0, 1000))]}, symmetric=(1,))
    report = evaluate(results((7, 1, 1.0, np.diag([-1.0, -1, 1]), (0, 0, 1000))), data, targets((7, 1, 1)))
    assert (report["ar"]["mssd"], report["add_s"]["0.02"], report["deg_cm"]["10"]) == (1, 1, 0)
    assert "symmetries not considered" in report["about"]["thresholds"]["deg_cm"]


def test_area_under_the_curve_of_shifts_is_closed_form(tmp_path):
    """Two cubes of three are found, 20 and 60 mm off; ADD is the shift. The third has no estimate, a far one, or none near."""
    places = {7: (-300, 0, 1000), 8: (0, 0, 1000), 9: (300, 0, 1000)}
    data = make_dataset(tmp_path / "cubes", {k: [(1, EYE, t)] for k, t in places.items()})
    ask = targets((7, 1, 1), (8, 1, 1), (9, 1, 1))
    two = [(7, 1, 1.0, EYE, (-280, 0, 1000)), (8, 1, 1.0, EYE, (0, 60, 1000))]
    for third in ([], [(9, 1, 1.0, EYE, (300, 0, 1101))], [(9, 1, 1.0, EYE, (300, 0, 3000))]):
        report = evaluate(results(*two, *third), data, ask)
        assert report["auc_add_s"]["step"] == pytest.approx((0.8 + 0.4 + 0) / 3)
        # each step counts with its upper end: (20 mm * 1/3 + 40 mm * 2/3 + 40 mm * 2/3) / 100 mm
        assert report["auc_add_s"]["voc"] == pytest.approx((20 / 3 + 80 / 3 + 80 / 3) / 100)


def test_the_curve_sees_errors_beyond_the_diameter(tmp_path):
    """The limit is 0.1 m for objects of every size."""
    data = make_dataset(tmp_path / "cubes", {7: [(1, EYE, (0, 0, 1000))], 8: [(2, EYE, (0, 0, 1000))]}, symmetric=(2,))
    small = np.array([[x, y, z] for x in (-5.0, 5) for y in (-5.0, 5) for z in (-5.0, 5)])
    for i in (1, 2):
        write_ply(data / f"models_eval/obj_{i:06d}.ply", small)
    info = json.loads((data / "models_eval/models_info.json").read_text())
    (data / "models_eval/models_info.json").write_text(
        json.dumps({k: v | {"diameter": DIAMETER / 10} for k, v in info.items()})
    )
    rows = results((7, 1, 1.0, EYE, (50, 0, 1000)), (8, 2, 1.0, EYE, (50, 0, 1000)))
    report = evaluate(rows, data, targets((7, 1, 1), (8, 2, 1)))
    assert report["per_object"]["1"]["auc_add_s"]["step"] == pytest.approx(0.5)  # ADD: every corner moves 50 mm
    assert report["per_object"]["2"]["auc_add_s"]["step"] == pytest.approx(0.55)  # ADD-S: half of them 40 to the nearest
    assert report["add_s"]["0.1"] == 0


def test_instances_share_their_estimates_one_each(tmp_path):
    """Two instances, two estimates on the same one: the second goes to the other one, which is out of reach."""
    data = make_dataset(tmp_path / "cubes", {7: [(1, EYE, (-200, 0, 1000)), (1, EYE, (200, 0, 1000))]})
    rows = results((7, 1, 0.9, EYE, (-190, 0, 1000)), (7, 1, 0.8, EYE, (-200, 0, 1000)))
    report = evaluate(rows, data, targets((7, 1, 2)))
    assert report["auc_add_s"]["step"] == pytest.approx(0.9 / 2)
    assert report["deg_cm"]["2"] == 0.5


def test_the_table_for_people(tmp_path):
    images = {7: [(1, EYE, (0, 0, 1000)), (2, EYE, (300, 0, 1000))], 8: [(1, EYE, (0, 0, 1000))]}
    data = make_dataset(tmp_path / "cubes", images)
    rows = results((7, 1, 1.0, EYE, (0, 0, 1000)), (7, 2, 1.0, EYE, (0, 200, 700)), (8, 1, 1.0, EYE, (0, 0, 1000)))
    lines = tables.text(evaluate(rows, data, targets((7, 1, 1), (7, 2, 1), (8, 1, 1)))).splitlines()
    words = {line.rsplit("  ", 1)[0][:15].strip(): line[15:].split() for line in lines[:6]}
    header = words["percent"]
    assert "VSD" not in header  # was not asked for
    for name, value in (("object 1", "100.0"), ("object 2", "0.0"), ("mean of objects", "50.0"), ("all targets", "66.7")):
        row = words[name][-(len(header) - 1) :]
        assert row[header.index("0.1d") - 1] == value
        assert row[header.index("5°5cm") - 1] == value
    assert len({len(line) for line in lines[:6]}) == 1  # aligned
    assert any("symmetries not considered" in line for line in lines)
    alone = evaluate(rows, data, bop_results.Targets(np.array([4]), np.array([7]), None, None))  # images only: AP alone
    assert "AP" in tables.text(alone)
    assert "0.1d" not in tables.text(alone).splitlines()[0]
    assert tables.text({"targets": 0}).startswith("percent")


def test_fewer_estimates_than_instances(tmp_path):
    data = make_dataset(tmp_path / "cubes", {7: [(1, EYE, (-200, 0, 1000)), (1, EYE, (200, 0, 1000))]})
    report = evaluate(results((7, 1, 1.0, EYE, (200, 0, 1000))), data, targets((7, 1, 2)))
    assert report["ar"]["mssd"] == 0.5
    assert report["targets"] == 2


def test_only_the_most_visible_instances_count_when_there_are_more_than_asked_for(tmp_path):
    images = {7: [(1, EYE, (-200, 0, 1000)), (1, EYE, (200, 0, 1000))]}
    data = make_dataset(tmp_path / "cubes", images, visibility={7: [0.3, 0.8]})
    ask = targets((7, 1, 1))
    assert evaluate(results((7, 1, 1.0, EYE, (-200, 0, 1000))), data, ask)["ar"]["mssd"] == 0
    assert evaluate(results((7, 1, 1.0, EYE, (200, 0, 1000))), data, ask)["ar"]["mssd"] == 1
    assert evaluate(results((7, 1, 1.0, EYE, (200, 0, 1000))), data, ask)["targets"] == 1


def test_only_the_best_estimates_count(one):
    good, bad = (EYE, (0, 0, 1000)), (EYE, (300, 0, 1000))
    ask = targets((7, 1, 1))
    assert evaluate(results((7, 1, 0.9, *bad), (7, 1, 0.8, *good)), one, ask)["ar"]["mssd"] == 0
    assert evaluate(results((7, 1, 0.8, *bad), (7, 1, 0.9, *good)), one, ask)["ar"]["mssd"] == 1


def test_equal_scores_keep_the_order_of_the_file(one):
    good, bad = (EYE, (0, 0, 1000)), (EYE, (300, 0, 1000))
    ask = targets((7, 1, 1))
    assert evaluate(results((7, 1, 0.5, *good), (7, 1, 0.5, *bad)), one, ask)["ar"]["mssd"] == 1
    assert evaluate(results((7, 1, 0.5, *bad), (7, 1, 0.5, *good)), one, ask)["ar"]["mssd"] == 0


def test_objects_and_images_that_are_not_targets_are_skipped(tmp_path):
    images = {7: [(1, EYE, (0, 0, 1000)), (2, EYE, (300, 0, 1000))], 8: [(1, EYE, (0, 0, 1000))]}
    data = make_dataset(tmp_path / "cubes", images)
    rows = [(7, 1, 1.0, EYE, (0, 0, 1000)), (7, 2, 1.0, EYE, (0, 200, 700)), (8, 1, 1.0, EYE, (0, 200, 700))]
    report = evaluate(results(*rows), data, targets((7, 1, 1)))
    assert report["ar"]["mssd"] == 1
    assert report["targets"] == 1


def test_pixel_thresholds_grow_with_the_width_of_the_image(tmp_path):
    """A cube 600 px of focal length and 1 m away, moved 12 mm: its nearest corners move 7.6 px, 3.8 px at width 640."""
    row = results((7, 1, 1.0, EYE, (12, 0, 1000)))
    for width, expected in ((640, 0.9), (1280, 1.0)):
        data = make_dataset(tmp_path / str(width), {7: [(1, EYE, (0, 0, 1000))]}, width=width)
        assert evaluate(row, data, targets((7, 1, 1)))["ar"]["mspd"] == pytest.approx(expected)
    assert evaluate(row, data, targets((7, 1, 1)), image_width=640)["ar"]["mspd"] == pytest.approx(0.9)


def test_detection_counts_wrong_estimates(one):
    good, bad = (EYE, (0, 0, 1000)), (EYE, (150, 0, 1000))
    ask = bop_results.Targets(np.array([4]), np.array([7]), None, None)  # the BOP'24 form
    report = evaluate(results((7, 1, 0.9, *bad), (7, 1, 0.8, *good)), one, ask)
    assert report["ap"]["mssd"] == 0.5  # the right one comes second at every threshold
    assert report["ar"]["mean"] is None
    assert report["add_s"]["0.1"] is None
    assert report["deg_cm"]["5"] is report["auc_add_s"]["voc"] is None
    assert evaluate(results((7, 1, 0.8, *bad), (7, 1, 0.9, *good)), one, ask)["ap"]["mssd"] == 1


def test_detection_ignores_barely_visible_objects(tmp_path):
    images = {7: [(1, EYE, (-200, 0, 1000)), (1, EYE, (200, 0, 1000))]}
    data = make_dataset(tmp_path / "cubes", images, visibility={7: [0.05, 0.8]})
    hidden, seen = (7, 1, 0.9, EYE, (-200, 0, 1000)), (7, 1, 0.5, EYE, (200, 0, 1000))
    ask = bop_results.Targets(np.array([4]), np.array([7]), None, None)
    assert evaluate(results(hidden, seen), data, ask)["ap"]["mean"] == 1  # finding the hidden one is no mistake
    assert evaluate(results(seen), data, ask)["ap"]["mean"] == 1  # missing it neither
    wrong = (7, 1, 0.9, EYE, (0, 200, 1000))
    assert evaluate(results(wrong, seen), data, ask)["ap"]["mean"] == 0.5


def test_detection_takes_at_most_so_many_estimates_of_an_image(one):
    good, bad = (EYE, (0, 0, 1000)), (EYE, (150, 0, 1000))
    rows = results((7, 1, 0.9, *bad), (7, 2, 0.85, *bad), (7, 1, 0.8, *good))
    assert evaluate(rows, one, targets((7, 1, 1)), max_estimates=3)["ap"]["mssd"] == 0.5
    assert evaluate(rows, one, targets((7, 1, 1)), max_estimates=2)["ap"]["mssd"] == 0


def test_greedy_gives_each_object_to_the_best_score_first():
    errors = np.array([[0.10, 0.30], [0.05, 0.20]])
    np.testing.assert_array_equal(scores.greedy(errors, [0.9, 0.8], [0.5, 0.25, 0.08]), [[0, 1], [0, 1], [-1, 0]])
    np.testing.assert_array_equal(scores.greedy(errors, [0.8, 0.9], [0.5]), [[1, 0]])
    np.testing.assert_array_equal(scores.greedy(errors[:, :1], [0.9, 0.8], [0.10, 0.11]), [[-1, 0], [0, -1]])  # strictly
    assert scores.greedy(np.zeros((0, 2)), [], [0.1]).shape == (1, 0)
    np.testing.assert_array_equal(scores.greedy([[0.25, 0.5]], [0.9], [0.25, 0.26]), [[-1], [0]])  # strictly among several, too


def test_vsd_with_depth(tmp_path):
    """A wall in front of the camera, seen by the sensor where the truth says: VSD is perfect, and zero for a far estimate."""
    pytest.importorskip("torch")
    from PIL import Image

    data = make_dataset(tmp_path / "cubes", {7: [(1, EYE, (0, 0, 1000))]}, obj_ids=(1,))
    faces = [
        (0, 1, 3),
        (0, 3, 2),
        (4, 6, 7),
        (4, 7, 5),
        (0, 4, 5),
        (0, 5, 1),
        (2, 3, 7),
        (2, 7, 6),
        (0, 2, 6),
        (0, 6, 4),
        (1, 5, 7),
    ]
    faces.append((1, 7, 3))
    text = (
        (data / "models_eval/obj_000001.ply").read_text().replace("element face 1", "element face 12").replace("3 0 1 2\n", "")
    )
    (data / "models_eval/obj_000001.ply").write_text(text + "".join(f"3 {a} {b} {c}\n" for a, b, c in faces))
    depth = np.full((480, 640), 2000, np.uint16)
    depth[209:272, 289:352] = 950  # the front face, 63 px wide
    (data / "test/000004/depth").mkdir()
    Image.fromarray(depth).save(data / "test/000004/depth/000007.png")
    ask = targets((7, 1, 1))
    right = evaluate(results((7, 1, 1.0, EYE, (0, 0, 1000))), data, ask, vsd=True)
    assert right["ar"] == {"mssd": 1, "mspd": 1, "vsd": 1, "mean": 1}
    assert "vsd" in right["about"]["ar_mean"]
    assert "not computed" not in right["about"]["ar_mean"]
    assert evaluate(results((7, 1, 1.0, EYE, (250, 0, 1000))), data, ask, vsd=True)["ar"]["vsd"] == 0
    file = bop_results.write_results(tmp_path / "mine_cubes-test.csv", results((7, 1, 1.0, EYE, (0, 0, 1000))))
    whole = evaluate(file, data, ask, vsd=True)
    assert evaluate(file, data, ask, vsd=True, shard=Shard(2, 2)) == {}  # nothing is left for it
    with pytest.raises(ValueError, match=r"1 of 1 are missing .* run --shard 1/2 again"):
        evaluate(file, data, ask, vsd=True, shard=MERGE)
    assert evaluate(file, data, ask, vsd=True, shard=Shard(1, 2)) == {}
    (data / "test/000004/depth/000007.png").unlink()
    assert evaluate(file, data, ask, vsd=True, shard=MERGE) == whole
    with pytest.raises(FileNotFoundError, match=r"no depth image 000007\.png"):
        evaluate(results((7, 1, 1.0, EYE, (0, 0, 1000))), data, ask, vsd=True)


def test_messages(one, tmp_path):
    row = results((7, 1, 1.0, EYE, (0, 0, 1000)))
    with pytest.raises(FileNotFoundError, match=r"no data set folder .*nowhere"):
        evaluate(row, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no test_targets_bop19\.json in .*cubes \(found: camera\.json"):
        evaluate(row, one)
    with pytest.raises(ValueError, match="no image 9, which the targets name"):
        evaluate(row, one, targets((9, 1, 1)))
    with pytest.raises(ValueError, match=r"unknown object id 3: not in .*models_info\.json \(has: \[1, 2\]\)"):
        evaluate(row, one, targets((7, 3, 1)))
    with pytest.raises(FileNotFoundError, match=r"no folder val with scenes in .*\(has: test\)"):
        evaluate(row, one, targets((7, 1, 1)), split="val")
    write_ply(one / "models_eval/obj_000001.ply", CUBE * 1e-3)
    with pytest.raises(
        ValueError,
        match=r"obj_000001\.ply is 0\.1 x 0\.1 x 0\.1 mm, which does not fit the diameter of 173\.2 mm in models_info",
    ):
        evaluate(row, one, targets((7, 1, 1)))
    write_ply(one / "models_eval/obj_000001.ply", CUBE * 0.6)  # the diameter of another version of the mesh
    with pytest.raises(ValueError, match="does not fit the diameter of 173"):
        evaluate(row, one, targets((7, 1, 1)))
    with pytest.raises(ValueError, match=r"image_width must be a whole number from 1 .*, got -5"):
        evaluate(row, one, targets((7, 1, 1)), image_width=-5)


def test_estimates_in_another_unit_or_frame_are_doubted(one):
    def doubts(t):
        return "; ".join(evaluate(results((7, 1, 1.0, EYE, t)), one, targets((7, 1, 1)))["about"]["doubts"])

    assert doubts((0, 0, 1000)) == doubts((0, 0, 700)) == ""
    assert "estimates are 100 mm away and the true objects 1e+03 mm (medians); is 't' in" in doubts((0, 0, 100))
    assert "1 of 1 estimates lie behind the camera" in doubts((0, 0, -1000))
    cameras = one / "test/000004/scene_camera.json"
    cameras.write_text(json.dumps({"7": {"cam_K": [300, 0, 160, 0, 300, 120, 0, 0, 1]}}))  # of half the size
    assert "principal point is far from the middle of the picture" in doubts((0, 0, 1000))


def test_evaluation_does_not_import_torch():
    code = (
        "import sys, monopose.evaluation.tables, monopose.datasets.bop.scenes\n"
        "sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def set_symmetries(folder, obj_id, discrete):
    path = folder / "models_eval/models_info.json"
    infos = json.loads(path.read_text())
    infos[str(obj_id)]["symmetries_discrete"] = discrete
    path.write_text(json.dumps(infos))


def test_a_listed_identity_makes_no_object_symmetric(one):
    turned = [[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]
    row = results((7, 1, 0.9, turned, (0, 0, 1000)))
    alone = evaluate(row, one, targets((7, 1, 1)))
    set_symmetries(one, 1, [np.eye(4).ravel().tolist()])
    listed = evaluate(row, one, targets((7, 1, 1)))
    assert listed["add_s"] == alone["add_s"] == {"0.02": 0.0, "0.05": 0.0, "0.1": 0.0}
    assert listed["ar"] == alone["ar"]


@pytest.mark.parametrize(
    "motion, message",
    [
        (
            [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 60], [0, 0, 0, 1]],
            r"is no symmetry of the mesh: turned by it, the mesh is .* mm away",
        ),
        ([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], "is no symmetry of the mesh"),
        ([[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0], [1, 2, 3, 1]], "column by column: transpose it"),
        ([[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "must be a rotation matrix"),
    ],
)
def test_declared_symmetries_are_tried_on_the_mesh(one, motion, message):
    side = np.linspace(-50, 50, 21)
    grid = np.stack(np.meshgrid(side, side, side[8:13]), -1).reshape(-1, 3)  # a plate
    write_ply(one / "models_eval/obj_000001.ply", grid)
    infos = json.loads((one / "models_eval/models_info.json").read_text())
    infos["1"]["diameter"] = float(np.linalg.norm([100, 100, 20]))
    (one / "models_eval/models_info.json").write_text(json.dumps(infos))
    row = results((7, 1, 0.9, EYE, (0, 0, 1000)))
    assert evaluate(row, one, targets((7, 1, 1)))["ar"]["mean"] == 1
    set_symmetries(one, 1, [[float(v) for line in motion for v in line]])
    with pytest.raises(ValueError, match=message):
        evaluate(row, one, targets((7, 1, 1)))


@pytest.mark.parametrize("first, expected", [("wrong", 0.5), ("right", 1.0)])
def test_average_precision_of_equal_scores_takes_them_in_the_order_of_the_file(tmp_path, first, expected):
    """With bop_toolkit's stable sort: a wrong estimate before each right one halves every precision."""
    data = make_dataset(tmp_path / "set", {i: [(1, EYE, (0, 0, 1000))] for i in range(5)}, obj_ids=(1,))
    rows = []
    for i in range(5):
        pair = [(i, 1, 1.0, EYE, (0, 0, 3000)), (i, 1, 1.0, EYE, (0, 0, 1000))]
        rows += pair if first == "wrong" else pair[::-1]
    scores_of = evaluate(results(*rows), data, targets(*((i, 1, 1) for i in range(5))))
    if first == "wrong":
        assert scores_of["ap"]["mssd"] == pytest.approx(expected, abs=1e-9)
    else:
        assert scores_of["ap"]["mssd"] > 0.6


def test_what_is_odd_about_a_result_file_is_said(tmp_path):
    data = make_dataset(tmp_path / "set", {i: [(1, EYE, (0, 0, 1000))] for i in range(4)}, obj_ids=(1, 2))
    wanted = targets(*((i, 1, 1) for i in range(4)))
    row = (0, 1, 0.5, EYE, (0, 0, 1000))
    odd = results(row, row, (1, 2, 0.5, EYE, (0, 0, 1000)), (9, 1, 0.5, EYE, (0, 0, 1000)))
    odd = odd._replace(time=np.array([0.1, 0.2, 0.1, 0.1]))
    report = evaluate(odd, data, wanted)
    assert report["about"]["doubts"] == [
        "2 of 4 images have no estimate, the first: scene 4, image 2",
        "2 of 4 estimates are of no target and do not count for AR",
        "1 rows repeat a pose of the same object and image",
        "in 1 images the rows have different times; BOP's server refuses such a file",
    ]
    assert "note         2 of 4 images have no estimate" in tables.text(report)
    fine = results(*((i, 1, 0.5, EYE, (0, 0, 1000)) for i in range(4)))
    assert evaluate(fine, data, wanted)["about"]["doubts"] == []


def test_scores_refuse_nan():
    with pytest.raises(ValueError, match="NaN"):
        scores.greedy([[np.nan]], [0.5], [1.0])
    for function in (scores.auc_voc, scores.auc_step):
        with pytest.raises(ValueError, match="must not be NaN"):
            function([0.01, np.nan])


def test_the_width_for_mspd_is_that_of_the_picture_as_seen(tmp_path):
    """A photo stored lying and marked as turned is as wide as it looks, and each picture counts with its own width."""
    from PIL import Image

    from monopose.datasets.bop import scenes

    data = make_dataset(tmp_path / "set", {0: [(1, EYE, (0, 0, 1000))], 1: [(1, EYE, (0, 0, 1000))]}, obj_ids=(1,))
    folder = data / "test/000004/rgb"
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 480)).save(folder / "000000.jpg", exif=exif)
    Image.new("RGB", (1280, 960)).save(folder / "000001.png")
    assert scenes.image_widths(scenes.open_scene(data / "test/000004"), [0, 1]).tolist() == [480, 1280]


def test_targets_without_an_estimate_are_counted_with_the_reason(tmp_path):
    """Five instances to find, one is estimated; the counts beside the file say what happened to three of the others."""
    data = make_dataset(tmp_path / "set", {i: [(1, EYE, (0, 0, 1000))] for i in range(4)}, obj_ids=(1,))
    wanted = targets((0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 2))
    found = results((0, 1, 0.5, EYE, (0, 0, 1000)))
    file = bop_results.write_results(tmp_path / "mine_set-test.csv", found)
    report = evaluate(file, data, wanted)
    unknown = {"instances": 5, "without": 4, "no box": 0, "box but no pose": 0, "filtered": 0, "unknown": 4}
    assert report["about"]["missing"] == unknown
    assert "no estimate  4 of 5 targets: the result file does not tell why" in tables.text(report)
    bop_results.write_counts(file, {(4, 0, 1): (1, 1), (4, 1, 1): (0, 0), (4, 2, 1): (2, 0), (4, 3, 1): (1, 1)})
    report = evaluate(file, data, wanted)
    assert report["about"]["missing"] == unknown | {"no box": 2, "box but no pose": 1, "filtered": 1, "unknown": 0}
    assert "no estimate  4 of 5 targets: 2 no box, 1 box but no pose, 1 filtered" in tables.text(report)
    (tmp_path / "mine_set-test.found.json").write_text('{"rows": [[1, 2, 3]]}')
    with pytest.raises(ValueError, match=r"found\.json, row 0 must have 5 numbers, got 3"):
        evaluate(file, data, wanted)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("camera.json", lambda c: c.update(width=0), "camera.json: width must be a whole number from 1"),
        ("test/000004/scene_gt_info.json", lambda c: c["7"][0].update(visib_fract=50.0), "image 7, object 0: .* in percent?"),
        ("test/000004/scene_gt.json", lambda c: c.update({"07": c["7"]}), "two keys are the same image id"),
        ("models_eval/models_info.json", lambda c: c.update({"01": c["1"]}), "two keys are the same object id"),
        (
            "models_eval/models_info.json",
            lambda c: c["1"].update(symmetries_discrete=[[1, 0, 0, 30, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]),
            "is no symmetry of the mesh",  # though its eight vertices lie 100 mm apart
        ),
        (
            "models_eval/models_info.json",
            lambda c: c["1"].update(symmetries_continuous=[{"axis": [0, 0, 1], "offset": [0, 0, 0]}]),
            "is no symmetry of the mesh",
        ),
    ],
)
def test_what_a_data_set_declares_is_checked(tmp_path, file, change, message):
    folder = make_dataset(tmp_path / "ds", {7: [(1, np.eye(3), [0, 0, 600.0])]})
    (folder / "test_targets_bop19.json").write_text(json.dumps([{"scene_id": 4, "im_id": 7, "obj_id": 1, "inst_count": 1}]))
    results = tmp_path / "m_ds-test.csv"
    results.write_text("scene_id,im_id,obj_id,score,R,t,time\n4,7,1,1.0,1 0 0 0 1 0 0 0 1,0 0 600,-1\n")
    assert evaluate(results, folder)["ar"]["mssd"] == 1
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        evaluate(results, folder)
