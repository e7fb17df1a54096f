"""nuScenes' protocol: numbers of the devkit on random results, cases worked out by hand, truth as results.

RECORDED was printed by `python tests/evaluation/test_nuscenes.py` where nuscenes-devkit 1.2.0 is installed beside monopose.
"""

import json
import math
import sys

import numpy as np
import pytest

from monopose.datasets import nuscenes as data
from monopose.datasets import road
from monopose.datasets.nuscenes import CLASSES, SampleBoxes, SampleTruth
from monopose.evaluation import nuscenes

RECORDED = {
    "nds": 0.3724711788791669,
    "map": 0.2884744493971846,
    "errors": [0.7886428179042001, 0.3669782047495627, 0.4104342075223105, 1.3589260768896203, 0.15160522801818063],
    "classes": {  # AP at 0.5, 1, 2, 4 m; the five errors
        "car": (
            [0.023443709127796697, 0.262600422242172, 0.43619230142618004, 0.46620596755582366],
            [0.8087031393543405, 0.3721968606954419, 0.4270308472315872, 1.4665281686441292, 0.0928775075977879],
        ),
        "truck": (
            [0.0, 0.18840418031135317, 0.3847282438311863, 0.4478577919522288],
            [0.9361717437058514, 0.41246583262559555, 0.47438484433716743, 1.0862414712595818, 0.15211636812757148],
        ),
        "trailer": (
            [0.010754243582499753, 0.33521841355500964, 0.45808498149383864, 0.5079307708904589],
            [0.7530917207336304, 0.33599792037815895, 0.5396101659389929, 1.5289679069417093, 0.09631166233934997],
        ),
        "bus": (
            [6.0681290284032594e-05, 0.21554735720364387, 0.3162723878153501, 0.3555078638747237],
            [0.6781794170139509, 0.37356440462523216, 0.37395326936118245, 1.6443113835684289, 0.06981352517956398],
        ),
        "construction_vehicle": (
            [0.014833945462189132, 0.18482732187001502, 0.3483216476797174, 0.44147928955533283],
            [0.7938238754327803, 0.3155262032335468, 0.3282824613910244, 1.0690763266261556, 0.1645528315802485],
        ),
        "bicycle": (
            [0.0018032261169634047, 0.11374841763187746, 0.42030626105488694, 0.4393642017439166],
            [0.8528196324195877, 0.3663119128469018, 0.34640894056999494, 1.353947119939138, 0.12253550663230728],
        ),
        "motorcycle": (
            [0.0016035507690097058, 0.13423229048622107, 0.29139725129781324, 0.387429001107234],
            [0.7952276359857179, 0.42149415717794964, 0.44803868938924063, 1.3777315444365772, 0.11720777951212595],
        ),
        "pedestrian": (
            [0.010699746624407414, 0.2589449618327871, 0.4626275778147585, 0.5448326663281446],
            [0.8490653216388534, 0.3535727482643988, 0.38335010843930045, 1.3446046937012426, 0.39742664317648996],
        ),
        "traffic_cone": (
            [0.007349966108667497, 0.4036038503476443, 0.4966481898066222, 0.5346782836913878],
            [0.7238614718592346, 0.3577855058665868, math.nan, math.nan, math.nan],
        ),
        "barrier": (
            [0.08905618237067789, 0.2728208087890565, 0.6233782300895752, 0.6461817911559292],
            [0.6954842208980541, 0.3608665017818149, 0.37284854104230397, math.nan, math.nan],
        ),
    },
}


def random_case(seed=7, samples=12):
    """Truth, and results that find most of it, with equal scores, unknown velocities, empty boxes and boxes out of range."""
    random = np.random.RandomState(seed)  # draws the same numbers for ever
    tokens = tuple(f"sample{k:04d}" for k in range(samples))
    n = samples * 60
    sample, label = random.randint(0, samples, n), random.randint(0, len(CLASSES), n)
    ego = random.uniform(-500, 500, (samples, 3))
    centre = ego[sample] + np.column_stack([random.uniform(-40, 40, (n, 2)), random.uniform(-1, 1, n)])
    wlh, angle = random.uniform(0.5, 5, (n, 3)), random.uniform(-4, 4, n)
    velocity = np.where(random.rand(n, 1) < 0.1, np.nan, random.normal(size=(n, 2)) * 3)
    own = [road.ATTRIBUTES_OF[CLASSES[k]] for k in label]
    attribute = np.array([a[random.randint(len(a))] if a and random.rand() < 0.9 else -1 for a in own])
    points = np.where(random.rand(n) < 0.1, 0, 5)
    truth = SampleBoxes(tokens, sample, label, centre, wlh, level(angle), velocity, attribute, np.full(n, -1.0), points)

    seen = np.flatnonzero(random.rand(n) < 0.8)
    extra = random.randint(0, n, n)  # false ones, and others twice
    rows = np.concatenate([seen, extra])
    m = len(rows)
    spread = np.concatenate([np.full(len(seen), 0.6), np.full(n, 6.0)])
    score = np.round(np.clip(random.rand(m) + (spread < 1) * 0.3, 0, 1), 2)  # many are equal
    results = SampleBoxes(
        tokens,
        sample[rows],
        np.where(random.rand(m) < 0.05, random.randint(0, len(CLASSES), m), label[rows]),
        centre[rows] + random.normal(size=(m, 3)) * spread[:, None],
        wlh[rows] * np.exp(random.normal(size=(m, 3)) * 0.2),
        level(angle[rows] + random.normal(size=m) * 0.5),
        np.nan_to_num(velocity[rows]) + random.normal(size=(m, 2)),
        np.where(random.rand(m) < 0.2, 7, attribute[rows]),
        score,
        np.full(m, -1),
    )
    return results.where(np.argsort(results.sample, kind="stable")), SampleTruth(truth, ego, data.no_boxes(tokens))


def level(angle):
    angle = np.asarray(angle, float)
    zero = np.zeros_like(angle)
    return np.stack([np.cos(angle / 2), zero, zero, np.sin(angle / 2)], -1)


def boxes(*rows, sample=None, tokens=("s",), attribute=-1, points=5):
    """Level boxes of one sample from rows (class, x, y, yaw, score[, vx])."""
    n = len(rows)
    return SampleBoxes(
        tokens,
        np.array(sample if sample is not None else [0] * n),
        np.array([CLASSES.index(r[0]) for r in rows]),
        np.array([[r[1], r[2], 0.0] for r in rows]),
        np.ones((n, 3)) * [2.0, 4.0, 1.5],
        level([r[3] for r in rows]),
        np.array([[r[5] if len(r) > 5 else 0.0, 0.0] for r in rows]),
        np.full(n, attribute),
        np.array([r[4] for r in rows], float),
        np.full(n, points),
    )


def scores(results, truth, racks=None):
    return nuscenes.evaluate(
        results, SampleTruth(truth, np.zeros((len(truth.tokens), 3)), racks or data.no_boxes(truth.tokens))
    )


# --------------------------------------------------------------------------------------------------------------- devkit


def test_numbers_of_the_devkit():
    found = nuscenes.evaluate(*random_case())
    assert found["nds"] == pytest.approx(RECORDED["nds"], abs=1e-12)
    assert found["map"] == pytest.approx(RECORDED["map"], abs=1e-12)
    assert list(found["errors"].values()) == pytest.approx(RECORDED["errors"], abs=1e-12)
    for name, (aps, errors) in RECORDED["classes"].items():
        assert list(found["classes"][name]["ap_at"].values()) == pytest.approx(aps, abs=1e-12)
        mine = [math.nan if e is None else e for e in found["classes"][name]["errors"].values()]
        assert mine == pytest.approx(errors, abs=1e-12, nan_ok=True)


# -------------------------------------------------------------------------------------------------------------- by hand


def test_truth_as_results_is_perfect():
    _, truth = random_case(3)
    known = truth.boxes.where((truth.boxes.points > 0) & ~np.isnan(truth.boxes.velocity).any(1))
    found = nuscenes.evaluate(known._replace(score=np.ones(len(known.sample))), truth._replace(boxes=known))
    assert found["nds"] == pytest.approx(1)
    assert found["map"] == pytest.approx(1)
    assert set(found["errors"].values()) == {0.0}
    assert found["classes"]["traffic_cone"]["errors"]["velocity"] is None
    assert found["classes"]["barrier"]["errors"]["orientation"] == 0


def test_one_class_worked_out():
    """Two cars; the better estimate is 0.7 m off, the other finds nothing."""
    truth = boxes(("car", 10, 0, 0.5, -1, 3), ("car", 30, 0, 0, -1, 0))
    found = scores(boxes(("car", 10.7, 0, 0.2, 0.9, 1.0), ("car", 20, 9, 0, 0.8)), truth)
    car = found["classes"]["car"]
    # recall 0.5 at precision 1, then precision falls to 0.5 at the same recall: np.interp takes the last at recall 0.5
    expected = (39 * 0.9 + 0.4) / 90 / 0.9  # recalls 0.11 to 0.49 above 10 %, and 0.50
    assert car["ap_at"]["0.5"] == 0  # 0.7 m is no match at 0.5 m
    for distance in ("1.0", "2.0", "4.0"):
        assert car["ap_at"][distance] == pytest.approx(expected)
    assert car["ap"] == pytest.approx(expected * 3 / 4)
    errors = {"translation": 0.7, "scale": 0, "orientation": 0.3, "velocity": 2, "attribute": 1}
    for name, error in errors.items():  # no attribute anywhere: the error is 1
        assert car["errors"][name] == pytest.approx(error)
    assert found["map"] == pytest.approx(expected * 3 / 40)
    means = [(0.7 + 9) / 10, 9 / 10, (0.3 + 8) / 9, (2 + 7) / 8, 1]  # of 10 classes, 9 with a direction, 8 with a velocity
    assert list(found["errors"].values()) == pytest.approx(means)
    assert found["nds"] == pytest.approx((5 * found["map"] + sum(max(0, 1 - e) for e in means)) / 10)


def test_each_estimate_takes_the_nearest_that_is_free():
    truth = boxes(("car", 0, 0, 0, -1), ("car", 3, 0, 0, -1))
    both_near_the_first = boxes(("car", 0.1, 0, 0, 0.5), ("car", 0.9, 0, 0, 0.9))
    matches = nuscenes.match(both_near_the_first, truth, 0)
    assert matches.estimate.tolist() == [1, 0]  # best first
    assert matches.truth.tolist() == [[-1, 0], [0, -1], [0, -1], [0, 1]]  # at 4 m the weaker one takes what is left


def test_a_match_is_nearer_than_the_limit():
    truth = boxes(("pedestrian", 0, 0, 0, -1))
    found = scores(boxes(("pedestrian", 2, 0, 0, 0.9)), truth)["classes"]["pedestrian"]["ap_at"]
    assert found == {"0.5": 0, "1.0": 0, "2.0": 0, "4.0": pytest.approx(1)}


def test_a_barrier_has_no_front():
    truth = boxes(("barrier", 5, 0, 0.2, -1), ("car", 5, 9, 0.2, -1))
    found = scores(boxes(("barrier", 5, 0, 0.2 + math.pi, 0.9), ("car", 5, 9, 0.2 + math.pi, 0.9)), truth)["classes"]
    assert found["barrier"]["errors"]["orientation"] == pytest.approx(0, abs=1e-12)
    assert found["car"]["errors"]["orientation"] == pytest.approx(math.pi)


def test_attributes_count_where_the_truth_has_them():
    moving, parked = data.ATTRIBUTES.index("vehicle.moving"), data.ATTRIBUTES.index("vehicle.parked")
    places = [("car", 5.0 * k, 0, 0, 0.9 - 0.1 * k) for k in range(4)]
    truth = boxes(*places)._replace(attribute=np.array([moving, moving, -1, parked]))
    found = scores(boxes(*places)._replace(attribute=np.array([moving, parked, moving, parked])), truth)
    # right, wrong, unknown, right: means 0, 1/2, 1/2, 1/3 at recalls 1/4, 1/2, 3/4, 1, and straight lines between
    expected = 0.5 * 13 + 0.5 * 25 + (0.5 * 25 - 13 / 6)  # sums over the recalls 0.26 to 0.5, to 0.75, to 1
    assert found["classes"]["car"]["errors"]["attribute"] == pytest.approx(expected / 90)


def test_what_does_not_count():
    far = boxes(("car", 49, 0, 0, 0.9), ("car", 51, 0, 0, 0.9), ("pedestrian", 39, 0, 0, 0.9), ("barrier", 31, 0, 0, 0.9))
    truth = SampleTruth(far, np.zeros((1, 3)), data.no_boxes(("s",)))
    assert nuscenes.filtered(far, truth).label.tolist() == [0, 7]
    empty = far._replace(points=np.array([0, 5, 0, 5]))
    assert nuscenes.filtered(empty, truth).label.tolist() == []
    rack = boxes(("car", 10, 10, math.pi / 2, 0))  # 2 wide along x, 4 long along y
    parked = boxes(("bicycle", 10, 11.9, 0, 0.5), ("bicycle", 11.9, 10, 0, 0.5), ("car", 10, 11.9, 0, 0.5))
    assert nuscenes.filtered(parked, truth._replace(racks=rack)).centre[:, 0].tolist() == [11.9, 10]


def test_nothing_found_and_nothing_there():
    truth = boxes(("car", 10, 0, 0, -1))
    found = scores(data.no_boxes(("s",)), truth)
    assert (found["nds"], found["map"]) == (0, 0)
    assert set(found["errors"].values()) == {1.0}
    assert scores(boxes(("car", 10, 0, 0, 0.5)), data.no_boxes(("s",)))["map"] == 0
    assert json.loads(json.dumps(found, allow_nan=False))["classes"]["car"]["truth"] == 1


def test_results_of_other_samples():
    with pytest.raises(ValueError, match="results are of 1 samples, the truth of 2"):
        scores(data.no_boxes(("s",)), data.no_boxes(("s", "t")))


def by_devkit(results, truth):
    """The same numbers by nuscenes-devkit; what `random_case` makes is filtered here as its loaders do."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.constants import TP_METRICS
    from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics

    config = config_factory("detection_cvpr_2019")

    def convert(given):
        found = EvalBoxes()
        for k, token in enumerate(given.tokens):
            own = []
            for i in np.flatnonzero(given.sample == k):
                one = DetectionBox(
                    token,
                    tuple(given.centre[i]),
                    tuple(given.wlh[i]),
                    tuple(given.quat_wxyz[i]),
                    tuple(given.velocity[i]),
                    tuple(given.centre[i] - truth.ego[k]),
                    int(given.points[i]),
                    CLASSES[given.label[i]],
                    float(given.score[i]),
                    data.ATTRIBUTES[given.attribute[i]] if given.attribute[i] >= 0 else "",
                )
                if one.ego_dist < config.class_range[one.detection_name] and one.num_pts != 0:
                    own.append(one)
            found.add_boxes(token, own)
        return found

    real, mine = convert(truth.boxes), convert(results)
    metrics, classes = DetectionMetrics(config), {}
    for name in CLASSES:
        curves = {d: accumulate(real, mine, name, config.dist_fcn_callable, d) for d in config.dist_ths}
        for d, curve in curves.items():
            metrics.add_label_ap(name, d, calc_ap(curve, config.min_recall, config.min_precision))
        for metric in TP_METRICS:
            short = metric.removesuffix("_err").replace("trans", "translation").replace("orient", "orientation")
            short = {"vel": "velocity", "attr": "attribute"}.get(short, short)
            silent = short in nuscenes.WITHOUT.get(name, ())
            value = math.nan if silent else calc_tp(curves[config.dist_th_tp], config.min_recall, metric)
            metrics.add_label_tp(name, metric, value)
        aps = [metrics.get_label_ap(name, d) for d in config.dist_ths]
        classes[name] = (aps, [metrics.get_label_tp(name, metric) for metric in TP_METRICS])
    errors = [float(metrics.tp_errors[m]) for m in TP_METRICS]
    return {"nds": float(metrics.nd_score), "map": float(metrics.mean_ap), "errors": errors, "classes": classes}


if __name__ == "__main__":
    sys.stdout.write(f"{by_devkit(*random_case())}\n")
