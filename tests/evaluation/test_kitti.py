"""KITTI's protocol: cases worked out by hand, truth as results, a slow twin that goes box by box."""

import math

import numpy as np
import pytest
import torch

from monopose.datasets.kitti import Labels, write_labels
from monopose.evaluation import kitti
from monopose.geometry import boxes3d


def line(k=0, kind="Car", score=None, height=50.0, occluded=0, truncated=0.0, along=0.0, alpha=0.0, size=(1.5, 1.8, 4.0)):
    """The k-th of a row of objects that touch neither in the picture nor from above; `along` moves it in both."""
    box = [100.0 * k + 20 * along, 100, 100 * k + 80 + 20 * along, 100 + height]
    return kind, [truncated, occluded, alpha, *box, *size, 10.0 * k + along, 1.6, 20, 0.0], score


def labels(*lines):
    scores = [score for _, _, score in lines]
    values = np.array([v for _, v, _ in lines], float).reshape(-1, 14)
    return Labels(tuple(kind for kind, _, _ in lines), values, np.array(scores) if lines and scores[0] is not None else None)


def dont_care(k):
    return "DontCare", [-1, -1, -10, 100.0 * k - 5, 90, 100 * k + 95, 160, -1, -1, -1, -1000, -1000, -1000, -10], None


def evaluate(results, truth):
    return kitti.evaluate({"0": labels(*results)}, {"0": labels(*truth)})


def test_truth_as_results_is_perfect():
    truth = {str(p): labels(*(line(k, ("Car", "Pedestrian", "Cyclist")[k % 3]) for k in range(60))) for p in range(3)}
    random = np.random.RandomState(0)
    results = {name: Labels(t.types, t.values, random.rand(60)) for name, t in truth.items()}
    for scores in kitti.evaluate(results, truth).values():
        assert set(scores["truth"].values()) == {60}
        for metric in (*kitti.METRICS, "aos"):
            assert scores[metric] == {"easy": 1, "moderate": 1, "hard": 1}


def test_few_boxes_give_few_points():
    truth = [line(k) for k in range(20)]
    found = evaluate([line(k, score=0.5 + k / 100) for k in range(20)], truth)["Car"]
    assert found["3d"]["easy"] == pytest.approx(19 / 40)  # 20 points, and the first does not count
    assert found["truth"]["easy"] == 20


def test_a_curve_worked_out():
    """Four cars, of which three are found; between them, by score, one mistake."""
    results = [line(0, score=0.9), line(9, score=0.8), line(1, score=0.7), line(2, score=0.5)]
    found = evaluate(results, [line(k) for k in range(4)])["Car"]
    for metric in kitti.METRICS:  # precision 1, 2/3, 3/4 at the three scores; made to fall: 1, 3/4, 3/4
        assert found[metric]["easy"] == pytest.approx((3 / 4 + 3 / 4) / 40)


@pytest.mark.parametrize("along, right", [(0.70, True), (0.71, False)])
def test_a_car_must_overlap_more_than_seven_tenths(along, right):
    """4 m long and moved by d along itself: IoU = (4 - d) / (4 + d), 0.702 and 0.698."""
    truth = [line(k) for k in range(3)]
    found = evaluate([line(k, score=0.9, along=along) for k in range(3)], truth)["Car"]
    for metric in ("bev", "3d"):
        assert found[metric]["easy"] == pytest.approx(2 / 40 if right else 0)


def test_height_counts_in_3d_alone():
    truth = [line(k) for k in range(3)]
    lower = [line(k, score=0.9, size=(0.9, 1.8, 4.0)) for k in range(3)]
    found = evaluate(lower, truth)["Car"]
    assert (found["bev"]["easy"], found["3d"]["easy"]) == (pytest.approx(2 / 40), 0)  # IoU 0.6 in 3D


def test_difficulties():
    truth = [
        line(0),
        line(1, height=30),
        line(2, occluded=1),
        line(3, truncated=0.25),
        line(4, occluded=2),
        line(5, truncated=0.4),
    ]
    truth += [line(6, occluded=3), line(7, height=24), line(8, truncated=0.6)]
    found = evaluate([], truth)["Car"]
    assert found["truth"] == {"easy": 1, "moderate": 4, "hard": 6}
    assert found["3d"] == {"easy": 0, "moderate": 0, "hard": 0}
    assert evaluate([], truth)["Cyclist"]["3d"] == {"easy": None, "moderate": None, "hard": None}


def test_what_has_no_consequence():
    """Found vans, cars that are too hard, small estimates, and in the picture what nobody knows: none of it is a mistake."""
    truth = [line(0), line(1), line(2, "Van"), line(3, occluded=3), dont_care(5)]
    results = [line(2, score=0.99), line(3, score=0.98), line(4, score=0.97, height=20), line(0, score=0.9), line(1, score=0.8)]
    assert evaluate(results, truth)["Car"]["3d"]["moderate"] == pytest.approx(1 / 40)
    results.insert(0, line(5, score=0.995))  # in the DontCare region
    found = evaluate(results, truth)["Car"]
    assert found["2d"]["moderate"] == pytest.approx(1 / 40)
    assert found["3d"]["moderate"] == pytest.approx(2 / 3 / 40)  # the region has no place in 3D: 2 of 3 right
    sitting = [line(0, "Pedestrian"), line(1, "Pedestrian"), line(2, "Person_sitting")]
    results = [line(2, "Pedestrian", 0.9), line(0, "Pedestrian", 0.8), line(1, "Pedestrian", 0.7)]
    assert evaluate(results, sitting)["Pedestrian"]["bev"]["easy"] == pytest.approx(1 / 40)
    results = [line(0, "Cyclist", 0.9), line(1, "Cyclist", 0.8)]
    assert evaluate(results, sitting)["Pedestrian"]["bev"]["easy"] == 0  # another class is no match


def test_twice_found_is_once_wrong():
    truth = [line(0), line(1)]
    results = [line(0, score=0.9), line(0, score=0.8, along=0.01), line(1, score=0.7)]
    assert evaluate(results, truth)["Car"]["3d"]["easy"] == pytest.approx(2 / 3 / 40)


def test_orientation_similarity():
    truth = [line(0, alpha=0.3), line(1, alpha=0.3)]
    for turn, expected in ((0, 1), (math.pi / 2, 0.5), (math.pi, 0)):
        found = evaluate([line(k, score=0.9, alpha=0.3 + turn) for k in range(2)], truth)["Car"]
        assert found["2d"]["easy"] == pytest.approx(1 / 40)
        assert found["aos"]["easy"] == pytest.approx(expected / 40)


def test_missing_results_and_scores(tmp_path):
    truth = {"0": labels(line(0)), "1": labels()}
    with pytest.raises(ValueError, match="results for 1 of 2 pictures are missing, the first is '1'"):
        kitti.evaluate({"0": labels(line(0, score=1.0))}, truth)
    with pytest.raises(ValueError, match="results for 0 have no scores"):
        kitti.evaluate(truth, truth)
    with pytest.raises(FileNotFoundError, match="no label files in"):
        kitti.read(tmp_path)
    write_labels(tmp_path / "0.txt", labels(line(0, score=0.5)))
    write_labels(tmp_path / "1.txt", labels())
    read = kitti.read(tmp_path)
    assert kitti.evaluate(read, truth)["Car"]["truth"]["easy"] == 1
    with pytest.raises(FileNotFoundError, match="no label file at"):
        kitti.read(tmp_path, ["0", "2"])
    assert kitti.evaluate({}, {})["Car"]["3d"]["easy"] is None


# ------------------------------------------------------------------------------------------------------------ slow twin


def random_pictures(seed, pictures=15):
    random = np.random.RandomState(seed)
    kinds = ("Car", "Car", "Car", "Van", "Pedestrian", "Pedestrian", "Person_sitting", "Cyclist", "Cyclist", "Truck")
    results, truth = {}, {}
    for p in range(pictures):
        own, found = [], []
        for k in range(random.randint(0, 12)):
            kind = kinds[random.randint(10)]
            more = {"height": random.choice([22.0, 30, 45, 60]), "occluded": random.randint(4)}
            more.update(truncated=random.choice([0, 0, 0.2, 0.4]), alpha=random.uniform(-3, 3))
            own.append(line(k, kind, **more) if random.rand() < 0.9 else dont_care(k))
            for _ in range(random.choice([0, 1, 1, 1, 2])):
                more = {"height": more["height"] + random.uniform(-6, 6), "alpha": more["alpha"] + random.normal() * 0.5}
                guess = kind if random.rand() < 0.85 else kinds[random.randint(10)]
                found.append(
                    line(k + 0.02 * random.normal(), guess, round(random.rand(), 2), along=random.normal() * 0.3, **more)
                )
        truth[str(p)], results[str(p)] = labels(*own), labels(*found)
    return results, truth


def slow(results, truth, kind, difficulty, metric):
    """The rules, one box after another; overlaps one pair at a time. -> AP, AOS."""
    _, least_height, most_hidden, most_cut = difficulty
    known = {}
    least = 0.7 if kind == "Car" else 0.5
    neighbour = {"Car": "Van", "Pedestrian": "Person_sitting"}.get(kind)

    def overlap(g, d, over_estimate=False):
        if metric == "2d":
            w = min(g[5], d[5]) - max(g[3], d[3])
            h = min(g[6], d[6]) - max(g[4], d[4])
            common = max(w, 0) * max(h, 0)
            areas = [(v[5] - v[3]) * (v[6] - v[4]) for v in (g, d)]
            return common / (areas[1] if over_estimate else sum(areas) - common)
        pair = (*g, *d)
        if pair not in known:
            known[pair] = solid_overlap(torch.tensor(g), torch.tensor(d)) if abs(g[10] - d[10]) < 5 else 0.0
        return known[pair]

    def solid_overlap(g, d):
        a, b = ((boxes3d.lhw_from_hwl(v[7:10]), v) for v in (g, d))
        a, b = (x for lhw, v in (a, b) for x in ((boxes3d.from_yaw(boxes3d.centre_from_bottom(v[10:13], lhw), v[13]), lhw),))
        return float(boxes3d.iou(*a, *b) if metric == "3d" else boxes3d.bev_iou(boxes3d.bev(*a), boxes3d.bev(*b)))

    def judge(picture, threshold):
        """Scores of right ones, number of wrong ones, similarity. Without a threshold the most confident match wins."""
        t, f = truth[picture], results[picture]
        taken, hits, similar = set(), [], 0.0
        for kind_t, g in zip(t.types, t.values):
            if kind_t not in (kind, neighbour):
                continue
            ignored = kind_t != kind or g[1] > most_hidden or g[0] > most_cut or g[6] - g[4] < least_height
            best, best_key = None, None
            for j, (kind_f, d) in enumerate(zip(f.types, f.values)):
                small = d[6] - d[4] < least_height
                if j in taken or not (small or kind_f == kind) or (threshold is not None and f.scores[j] < threshold):
                    continue
                shared = overlap(g, d)
                if shared <= least:
                    continue
                key = f.scores[j] if threshold is None else (0 if small else shared)
                if best is None or key > best_key:
                    best, best_key = j, key
            if best is not None:
                taken.add(best)
                small = f.values[best][6] - f.values[best][4] < least_height
                if not ignored and not small:
                    hits.append(f.scores[best])
                    similar += (1 + math.cos(g[2] - f.values[best][2])) / 2
        wrong = 0
        for j, (kind_f, d) in enumerate(zip(f.types, f.values)):
            if threshold is None or j in taken or kind_f != kind or d[6] - d[4] < least_height or f.scores[j] < threshold:
                continue
            unknown = [g for kind_t, g in zip(t.types, t.values) if kind_t == "DontCare"]
            wrong += not (metric == "2d" and any(overlap(g, d, True) > least for g in unknown))
        return hits, wrong, similar

    count = sum(
        k == kind and v[1] <= most_hidden and v[0] <= most_cut and v[6] - v[4] >= least_height
        for t in truth.values()
        for k, v in zip(t.types, t.values)
    )
    hits = sorted((s for p in truth for s in judge(p, None)[0]), reverse=True)
    points, step = [], 0.0
    for k, score in enumerate(hits):
        if k == len(hits) - 1 or abs((k + 2) / count - step) >= step - (k + 1) / count:
            points.append(score)
            step += 1 / 40
    precision, similarity = [], []
    for threshold in points:
        judged = [judge(p, threshold) for p in truth]
        right, wrong = sum(len(h) for h, _, _ in judged), sum(w for _, w, _ in judged)
        precision.append(right / (right + wrong))
        similarity.append(sum(s for _, _, s in judged) / (right + wrong))
    return tuple(sum(max(c[k:]) for k in range(1, len(c))) / 40 for c in (precision, similarity))


def test_the_slow_twin_agrees():
    results, truth = random_pictures(5)
    found = kitti.evaluate(results, truth)
    seen = set()
    for kind in kitti.OVERLAP:
        for difficulty in kitti.DIFFICULTIES:
            for metric in ("2d", "3d"):
                ap, aos = slow(results, truth, kind, difficulty, metric)
                assert found[kind][metric][difficulty.name] == pytest.approx(ap, abs=1e-12), (kind, difficulty, metric)
                if metric == "2d":
                    assert found[kind]["aos"][difficulty.name] == pytest.approx(aos, abs=1e-12)
                seen.add(round(ap, 3))
    assert len(seen) > 8
    assert max(seen) > 0.05
