import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monopose.evaluation import viewpoint
from monopose.geometry import rotation, viewpoints
from monopose.geometry.viewpoints import CENTRED, PUBLISHED
from monopose.types import Symmetries

DEGREES = math.pi / 180


def _angles(*degrees):
    return torch.tensor(degrees, dtype=torch.float64) * DEGREES


def _many(count, seed=0):
    """Viewpoints as furniture is photographed."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([60.0, 8.0, 4.0], dtype=torch.float64) * DEGREES
    middle = torch.tensor([0.0, 15.0, 0.0], dtype=torch.float64) * DEGREES
    return viewpoints.wrapped(middle + spread * torch.randn(count, 3, generator=generator, dtype=torch.float64))


def _table(turn_deg):
    """A discrete symmetry about +Z."""
    R = viewpoints.rotation_of(_angles([turn_deg, 0, 0])) @ viewpoints.rotation_of(_angles([0, 0, 0])).mT
    z = viewpoints.rotation_of(_angles([0, 0, 0])).mT @ R @ viewpoints.rotation_of(_angles([0, 0, 0]))
    motion = torch.eye(4, dtype=torch.float64)[None].clone()
    motion[0, :3, :3] = z
    return Symmetries(discrete=motion.float())


ROUND = Symmetries(axes=torch.tensor([[0.0, 0.0, 1.0]]), offsets=torch.zeros(1, 3))


@pytest.mark.parametrize("bins", [PUBLISHED, CENTRED])
@pytest.mark.parametrize("symmetries", [None, [_table(180)] * 60, [ROUND] * 60])
def test_the_truth_scores_one(bins, symmetries):
    true = _many(60)
    found = viewpoint.scores(true, true, bins, symmetries=symmetries)
    for name in viewpoint.ANGLES:
        assert found[name]["accuracy"] == found[name]["within_one"] == 1
        assert sum(found[name]["confusion"][k][k] for k in range(8)) == 60
    assert found["acc_pi_6"] == 1
    assert found["median_deg"] < 1e-6


def test_bin_scores_by_hand():
    true = _angles([0, 5, 0], [10, 5, 0], [350, 15, 0], [90, 25, 0])  # centred bins 0, 0, 0, 2 | 1, 1, 2, 3 | 0
    predicted = _angles([20, 5, 0], [50, 5, 0], [310, 35, 0], [270, 25, 0])  # 0, 1, 7, 6 | 1, 1, 4, 3
    found = viewpoint.scores(predicted, true, CENTRED)
    azimuth, elevation = found["azimuth"], found["elevation"]
    assert (azimuth["accuracy"], azimuth["within_one"]) == (1 / 4, 3 / 4)  # 7 lies beside 0
    assert (azimuth["majority"], azimuth["majority_within_one"]) == (3 / 4, 1.0)  # bin 0; bin 1, beside both 0 and 2
    assert (azimuth["chance"], azimuth["chance_within_one"]) == (1 / 8, 3 / 8)
    assert (elevation["accuracy"], elevation["within_one"]) == (3 / 4, 3 / 4)
    assert (elevation["majority"], elevation["majority_within_one"]) == (2 / 4, 1.0)
    assert azimuth["confusion"][0] == [1, 1, 0, 0, 0, 0, 0, 1]
    assert azimuth["confusion"][2] == [0, 0, 0, 0, 0, 0, 1, 0]
    assert found["inplane"]["accuracy"] == 1


def test_elevation_has_ends_and_a_circle_has_none():
    assert not viewpoint.neighbours(CENTRED[1])[0, 7]
    assert viewpoint.neighbours(CENTRED[0])[0, 7]
    assert viewpoint.neighbours(PUBLISHED[0])[0, 7]  # all round, although they do not wrap
    assert int(viewpoint.neighbours(CENTRED[1]).sum()) == 22
    assert int(viewpoint.neighbours(CENTRED[0]).sum()) == 24
    found = viewpoint.scores(_angles([0, 65, 0]), _angles([0, -5, 0]), CENTRED)
    assert found["elevation"]["within_one"] == 0
    assert found["elevation"]["chance_within_one"] == 2 / 8


@given(st.floats(0, 359), st.floats(-60, 60), st.floats(-179, 179), st.floats(-179, 179))
def test_turning_by_an_angle_is_off_by_that_angle(azimuth, elevation, inplane, turn):
    true = _angles([azimuth, elevation, inplane])
    by_inplane = viewpoint.errors(viewpoints.turned(true, turn * DEGREES), true)
    by_azimuth = viewpoint.errors(true + _angles([turn, 0, 0]), true)
    wanted = torch.full((1,), abs(turn) * DEGREES, dtype=torch.float64)
    torch.testing.assert_close(by_inplane, wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(by_azimuth, wanted, atol=1e-9, rtol=0)


def test_acc_pi_6_and_median_by_hand():
    true = _angles(*[[0, 0, 0]] * 5)
    predicted = _angles([0, 0, 0], [10, 0, 0], [29.9, 0, 0], [30.1, 0, 0], [180, 0, 0])
    found = viewpoint.scores(predicted, true, CENTRED)
    assert found["acc_pi_6"] == 3 / 5
    assert found["median_deg"] == pytest.approx(29.9)
    assert found["acc_pi_6_constant"] == 1  # everything looks the same way


def test_random_answers_are_what_they_are_said_to_be():
    generator = torch.Generator().manual_seed(0)
    R = rotation.random_rotations(40_000, generator, torch.float64)
    predicted = viewpoints.angles_of(R)
    true = _many(40_000)
    found = viewpoint.scores(predicted, true, CENTRED)
    assert found["acc_pi_6"] == pytest.approx(found["acc_pi_6_chance"], abs=0.002)
    assert found["median_deg"] == pytest.approx(found["median_deg_chance"], abs=0.5)
    index = torch.randint(8, (40_000, 3), generator=generator)
    found = viewpoint.scores(predicted, true, CENTRED, predicted_bins=index)
    for name in viewpoint.ANGLES:
        assert found[name]["accuracy"] == pytest.approx(found[name]["chance"], abs=0.01)
        assert found[name]["within_one"] == pytest.approx(found[name]["chance_within_one"], abs=0.01)


def test_the_best_constant_answer_scores_its_share():
    true = _many(500)
    bins = viewpoint.bins_of(true, CENTRED)
    most = bins.mode(0).values
    found = viewpoint.scores(true, true, CENTRED, predicted_bins=most.expand(500, 3))
    for name in viewpoint.ANGLES:
        assert found[name]["accuracy"] == found[name]["majority"]
    assert found["azimuth"]["majority"] < found["elevation"]["majority"] < 1
    best = max(viewpoint.scores(c.expand_as(true), true, CENTRED)["acc_pi_6"] for c in true[::50])
    assert best <= found["acc_pi_6_constant"] < 1


def test_a_symmetric_table_may_be_seen_from_either_side():
    true = _angles([10, 20, 3], [100, 10, 0])
    other = viewpoints.wrapped(true + _angles([180, 0, 0]))
    plain = viewpoint.scores(other, true, CENTRED)
    assert plain["azimuth"]["accuracy"] == 0
    assert plain["median_deg"] == pytest.approx(180)
    found = viewpoint.scores(other, true, CENTRED, symmetries=[_table(180)] * 2)
    assert found["azimuth"]["accuracy"] == 1
    assert found["azimuth"]["chance"] == 2 / 8  # two bins are right, and random answers gain as much
    assert found["median_deg"] < 1e-3
    assert sum(found["azimuth"]["confusion"][k][k] for k in range(8)) == 2
    quarter = viewpoint.scores(viewpoints.wrapped(true + _angles([90, 0, 0])), true, CENTRED, symmetries=[_table(180)] * 2)
    assert quarter["azimuth"]["accuracy"] == 0
    assert quarter["median_deg"] == pytest.approx(90, abs=1e-3)


def test_the_azimuth_of_a_round_table_means_nothing():
    true, predicted = _angles([10, 20, 3]), _angles([123, 20, 3])
    found = viewpoint.scores(predicted, true, CENTRED, symmetries=[ROUND])
    assert found["azimuth"]["accuracy"] == found["azimuth"]["majority"] == found["azimuth"]["chance"] == 1
    assert found["median_deg"] < 0.6  # of 315 turns the nearest
    assert found["elevation"]["chance"] == 1 / 8


def test_objects_with_and_without_symmetry_are_judged_each_by_its_own():
    true = _angles([10, 20, 0], [10, 20, 0], [10, 20, 0])
    other = true + _angles([180, 0, 0])
    found = viewpoint.scores(other, true, CENTRED, symmetries=[None, _table(180), Symmetries()])
    assert found["azimuth"]["accuracy"] == pytest.approx(1 / 3)


def test_categories_are_reported_apart():
    true = _many(40)
    names = ["chair", "bed"] * 20
    predicted = true.clone()
    predicted[1::2, 0] += math.pi
    report = viewpoint.by_category(predicted, true, names, CENTRED)
    assert report["per_category"]["chair"]["azimuth"]["accuracy"] == 1
    assert report["per_category"]["bed"]["azimuth"]["accuracy"] == 0
    assert report["overall"]["azimuth"]["accuracy"] == 0.5
    table = viewpoint.text(report)
    assert [line.split()[0] for line in table.splitlines()[1:4]] == ["bed", "chair", "all"]
    assert "in brackets" in table


def test_published_numbers_of_chance_follow_from_the_published_histogram():
    counts = [279, 124, 46, 46, 34, 29, 77, 367]
    azimuth = torch.cat([torch.full((n,), 45.0 * k + 20) for k, n in enumerate(counts)])
    true = torch.stack([azimuth, torch.full_like(azimuth, 10.0), torch.zeros_like(azimuth)], -1) * DEGREES
    found = viewpoint.scores(true, true, PUBLISHED)
    assert found["azimuth"]["majority"] == pytest.approx(0.366, abs=5e-4)
    assert found["azimuth"]["chance"] == 0.125


def test_bad_input_is_refused():
    true = _many(3)
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        viewpoint.scores(true[:0], true[:0], CENTRED)
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        viewpoint.scores(true[:2], true, CENTRED)
    with pytest.raises(ValueError, match="finite"):
        viewpoint.scores(true * math.nan, true, CENTRED)
    with pytest.raises(ValueError, match="from 0 to 7"):
        viewpoint.scores(true, true, CENTRED, predicted_bins=torch.full((3, 3), 8))
    with pytest.raises(ValueError, match="all 3 objects"):
        viewpoint.scores(true, true, CENTRED, symmetries=[None])


# ------------------------------------------------------------------------------------------------------------- files


def _row(name="img/chair/0001.png", **changes):
    row = {"image": name, "category": "chair", "azimuth_deg": 30.0, "elevation_deg": 10.0, "inplane_deg": -1.0}
    return row | {"bins": [1, 2, 0]} | changes


def _file(tmp_path, content):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(content))
    return path


def test_predictions_are_read_as_they_are(tmp_path):
    file = _file(tmp_path, {"bins": "published", "by": "shape", "images": [_row(), _row("img/chair/0002.png", bins=[0, 0, 7])]})
    found = viewpoint.read_predictions(file)
    assert found.images == ["img/chair/0001.png", "img/chair/0002.png"]
    assert found.bins == "published"
    assert found.about == {"by": "shape"}
    assert found.index.tolist() == [[1, 2, 0], [0, 0, 7]]
    assert found.probabilities is None
    torch.testing.assert_close(found.angles[0], _angles(30, 10, -1))


@pytest.mark.parametrize(
    "content, message",
    [
        ([], "no predictions of viewpoints"),
        ({"bins": "other", "images": []}, "bins 'other' are unknown"),
        ({"images": [{"image": "a.png"}]}, "entry 0: .*'azimuth_deg'"),
        ({"images": [_row(), _row()]}, "is there twice"),
        ({"images": [_row(bins=[0, 8, 0])]}, "from 0 to 7"),
        ({"images": [_row(azimuth_deg=float("nan"))]}, "'azimuth_deg' holds NaN"),
    ],
)
def test_broken_predictions_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        viewpoint.read_predictions(_file(tmp_path, content))
