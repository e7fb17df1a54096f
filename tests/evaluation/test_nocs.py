"""NOCS's protocol against cases worked by hand."""

import math

import numpy as np
import pytest
import torch

from monopose.datasets.nocs import CLASSES, Results
from monopose.evaluation import nocs
from monopose.geometry import rotation, se3

BOTTLE, CAMERA, MUG = (CLASSES.index(n) + 1 for n in ("bottle", "camera", "mug"))
BOX = torch.tensor([0.1, 0.12, 0.08], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)


def _pose(x=0.0, y=0.0, z=0.8, R=EYE):
    return se3.from_rt(R, torch.tensor([x, y, z], dtype=torch.float64))


def _turn(axis, degrees):
    return rotation.so3_exp(math.radians(degrees) * torch.eye(3, dtype=torch.float64)[axis])


def _results(true, estimates, labels_true=None, labels=None, scores=None, handles=None, sizes=None):
    n, m = len(true), len(estimates)
    return Results(
        torch.tensor(labels_true or [CAMERA] * n), torch.stack(true), BOX.repeat(n, 1),
        torch.tensor(labels or [CAMERA] * m, dtype=torch.int64),
        torch.stack(estimates) if m else torch.zeros(0, 4, 4, dtype=torch.float64),
        BOX.repeat(m, 1) if sizes is None else sizes,
        torch.tensor(scores or [1.0 - 0.1 * k for k in range(m)], dtype=torch.float64),
        None if handles is None else torch.tensor(handles),
    )  # fmt: skip


def _iou(a, b, overlap, symmetric=False):
    table = nocs.overlaps(a[None], BOX[None], b[None], BOX[None], torch.tensor([symmetric]), overlap)
    return float(table)


# ----------------------------------------------------------------------------------------------------------------- overlaps


def test_three_overlaps_of_a_box_moved_sideways():
    """The published function says 0.86 of a box moved by half its width, and 0.74 of one that is beside it.

    Of each corner it takes z as the largest coordinate and the lesser of x and y as the smallest. Four of these differences
    at each of the two depths, multiplied, are its volume.
    """
    half, beside = _pose(0.05), _pose(0.2)
    for overlap in ("oriented", "aligned"):
        assert _iou(half, _pose(), overlap) == pytest.approx(1 / 3)
        assert _iou(beside, _pose(), overlap) == 0.0
    by_hand = math.prod((z - 0.06) * z / ((z - 0.05) * (z + 0.05)) for z in (0.76, 0.84))
    assert _iou(half, _pose(), "nocs2019") == pytest.approx(by_hand)
    by_hand = math.prod((z - 0.06) ** 2 / ((z - 0.05) * (z + 0.05)) for z in (0.76, 0.84))
    assert _iou(beside, _pose(), "nocs2019") == pytest.approx(by_hand)
    assert by_hand > 0.7  # far apart, and still a match at all published thresholds but 75 %


def test_the_defect_is_that_of_the_original_program():
    """Restated from its words: largest and smallest coordinate of each of the eight corners."""
    a, b = _pose(0.03, 0.01, 0.7, _turn(0, 20)), _pose(0.0, 0.0, 0.75, _turn(1, 30))
    corners = []
    for pose in (a, b):
        signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
        corners.append(pose[:3, :3].numpy() @ (signs * BOX.numpy() / 2).T + pose[:3, 3:].numpy())  # (3, 8)
    (low1, high1), (low2, high2) = ((np.amin(c, axis=0), np.amax(c, axis=0)) for c in corners)
    inter = np.prod(np.minimum(high1, high2) - np.maximum(low1, low2))
    expected = inter / (np.prod(high1 - low1) + np.prod(high2 - low2) - inter)
    assert _iou(a, b, "nocs2019") == pytest.approx(expected)


def test_turned_boxes_overlap_less_than_the_boxes_around_them():
    a, b = _pose(R=_turn(2, 45)), _pose(R=_turn(2, -45))
    hull = (0.1 + 0.12) / math.sqrt(2)
    assert _iou(a, b, "aligned") == pytest.approx(1.0)
    assert _iou(a, b, "oriented") == pytest.approx(0.1 * 0.1 / (2 * 0.1 * 0.12 - 0.1 * 0.1))  # a cross: sides swapped
    assert _iou(_pose(), a, "aligned") == pytest.approx(0.1 * 0.12 / hull**2)


def test_symmetric_objects_are_turned_for_the_largest_overlap():
    turned = _pose(R=_turn(1, 33.3))
    assert _iou(turned, _pose(), "oriented", symmetric=True) == pytest.approx(1.0, abs=1e-6)
    assert _iou(turned, _pose(), "oriented") < 0.85
    assert _iou(_pose(R=_turn(1, 36)), _pose(), "aligned", symmetric=True) == pytest.approx(1.0)  # two of the 20 turns
    assert _iou(_pose(R=_turn(0, 90)), _pose(), "oriented", symmetric=True) < 0.85  # not about another axis
    with pytest.raises(ValueError, match="unknown overlap 'exact'; known: oriented, aligned, nocs2019"):
        _iou(turned, _pose(), "exact")


# ------------------------------------------------------------------------------------------------------------------- errors


def test_rotation_errors_ignore_turns_of_symmetric_objects_only():
    spun, tilted = _turn(1, 120), _turn(0, 7) @ _turn(1, 50)
    error = nocs.rotation_errors(torch.stack([spun, spun, tilted]), EYE.expand(3, 3, 3), torch.tensor([True, False, True]))
    assert torch.rad2deg(error).tolist() == pytest.approx([0.0, 120.0, 7.0], abs=1e-9)


def test_mugs_are_symmetric_when_their_handle_is_hidden():
    labels = torch.tensor([BOTTLE, CAMERA, MUG, MUG])
    assert nocs.symmetric(labels, torch.tensor([True, True, True, False])).tolist() == [True, False, False, True]
    assert nocs.symmetric(labels, None).tolist() == [True, False, False, False]
    spun = _results([_pose()], [_pose(R=_turn(1, 90))], [MUG], [MUG], handles=[True])
    hidden = _results([_pose()], [_pose(R=_turn(1, 90))], [MUG], [MUG], handles=[False])
    assert nocs.evaluate([spun])["mean"]["pose"]["10deg10cm"] == 0
    assert nocs.evaluate([hidden])["mean"]["pose"]["10deg10cm"] == 1


# ------------------------------------------------------------------------------------------------------------------ protocol


@pytest.mark.parametrize("overlap", ["oriented", "aligned", "nocs2019"])
def test_truth_as_result_scores_one(overlap):
    generator = torch.Generator().manual_seed(2)
    images = []
    for _ in range(3):
        R = rotation.random_rotations(7, generator, torch.float64)
        t = torch.rand(7, 3, generator=generator, dtype=torch.float64) + torch.tensor([0.0, 0, 1], dtype=torch.float64)
        pose, size = se3.from_rt(R, t), 0.1 + 0.1 * torch.rand(7, 3, generator=generator, dtype=torch.float64)
        labels = torch.tensor([1, 2, 3, 4, 5, 6, 6])
        images.append(
            Results(labels, pose, size, labels, pose, size, torch.rand(7, generator=generator), torch.tensor([1] * 6 + [0]) > 0)
        )
    report = nocs.evaluate(images, overlap)
    assert report["overlap"] == overlap
    assert set(report["classes"]) == set(CLASSES)
    for group in report["mean"].values():
        assert group
        assert all(value == pytest.approx(1.0) for value in group.values())
    assert overlap in nocs.text(report).splitlines()[0]


def test_areas_by_hand():
    assert nocs.area([True, False, True], 2) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert nocs.area([False, True], 1) == pytest.approx(0.5)
    assert nocs.area([True, True], 4) == pytest.approx(0.5)  # recall ends at one half
    assert nocs.area([], 3) == 0
    assert nocs.area([False], 0) == 0


def test_better_scores_choose_first_and_duplicates_are_wrong():
    exact, off = _pose(), _pose(0.01)
    # the worse pose has the better score: it takes the object; the exact one is a false alarm after it
    report = nocs.evaluate([_results([exact], [off, exact], scores=[0.9, 0.8])])
    assert report["classes"]["camera"]["iou"]["iou50"] == pytest.approx(1.0)
    # a false alarm with a better score halves the precision
    report = nocs.evaluate([_results([exact], [_pose(0.5), exact], scores=[0.9, 0.8])])
    assert report["classes"]["camera"]["iou"]["iou50"] == pytest.approx(0.5)
    # two objects, one found: recall one half
    report = nocs.evaluate([_results([exact, _pose(0.4)], [exact])])
    assert report["classes"]["camera"]["iou"]["iou50"] == pytest.approx(0.5)


def test_poses_count_among_pairs_and_over_all():
    report = nocs.evaluate([_results([_pose(), _pose(0.4)], [_pose(), _pose(-0.5)])])["classes"]["camera"]
    assert report["pose"]["5deg5cm"] == 1.0  # the pair is right, the rest is not asked
    assert report["pose_all"]["5deg5cm"] == 0.5
    report = nocs.evaluate([_results([_pose(), _pose(0.4)], [_pose(), _pose(-0.5)])])
    assert report["paired"]["camera"] == 0.5
    assert (report["images"], report["true"], report["estimates"]) == (1, 2, 2)


def test_thresholds_of_degrees_and_centimetres():
    for degrees, metres, expected in ((4.0, 0.015, "11111"), (7.0, 0.015, "00111"), (4.0, 0.03, "01011"), (7.0, 0.04, "00011"),
                                      (12.0, 0.0, "00000")):  # fmt: skip
        got = nocs.evaluate([_results([_pose()], [_pose(metres, R=_turn(0, degrees))])])["mean"]["pose"]
        names = ("5deg2cm", "5deg5cm", "10deg2cm", "10deg5cm", "10deg10cm")
        assert "".join(str(int(got[n])) for n in names) == expected, (degrees, metres)


def test_overlap_thresholds_use_the_named_overlap():
    images = [_results([_pose()], [_pose(0.05)])]  # a third
    assert list(nocs.evaluate(images)["mean"]["iou"].values()) == [1.0, 0.0, 0.0]
    assert list(nocs.evaluate(images, "nocs2019")["mean"]["iou"].values()) == [1.0, 1.0, 1.0]


def test_scores_without_scale_forgive_size_and_distance_together():
    """Twice as large and twice as far is the same photo."""
    twice = _pose(0.2, 0.1, 1.6)
    images = [_results([_pose(0.1, 0.05)], [twice], sizes=2 * BOX[None])]
    mean = nocs.evaluate(images)["mean"]
    assert mean["iou"]["iou25"] == 0
    assert mean["pose_all"]["10deg10cm"] == 0
    assert all(value == pytest.approx(1.0) for value in mean["scale_free"].values())
    alone = nocs.evaluate([_results([_pose(0.1, 0.05)], [twice])])["mean"]["scale_free"]  # far, but no larger: half the size
    assert alone["iou25"] == 0
    assert alone["5deg0.1d"] == 1.0
    behind = nocs.evaluate([_results([_pose()], [_pose(z=-0.8)])])["mean"]["scale_free"]
    assert behind["iou25"] == 0
    assert behind["5deg"] == 1.0  # its rotation is right


def test_classes_do_not_mix_and_empty_ones_are_left_out():
    report = nocs.evaluate([_results([_pose()], [_pose(), _pose()], [CAMERA], [BOTTLE, CAMERA])])
    assert list(report["classes"]) == ["camera"]
    assert report["mean"]["iou"]["iou75"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no true object in the 1 images"):
        nocs.evaluate([_results([_pose()], [_pose()]).__class__(*(x[:0] for x in (
            torch.zeros(1), torch.zeros(1, 4, 4), torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 4, 4), torch.zeros(1, 3),
            torch.zeros(1))))])  # fmt: skip


def test_estimates_that_failed_are_wrong_and_images_may_be_empty():
    failed = torch.full((4, 4), torch.nan, dtype=torch.float64)
    report = nocs.evaluate([_results([_pose()], [failed, _pose()]), _results([_pose()], [])])["classes"]["camera"]
    assert report["iou"]["iou50"] == pytest.approx(0.25)  # precision one half up to recall one half
    assert report["pose_all"]["10deg"] == pytest.approx(0.25)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"1 labels need cam_from_obj \(1, 4, 4\) and sizes \(1, 3\)"):
        Results(*(torch.zeros(0), torch.zeros(0, 4, 4), torch.zeros(0, 3), torch.zeros(1), torch.zeros(2, 4, 4),
                  torch.zeros(1, 3), torch.zeros(1)))  # fmt: skip


def test_curves_rise_where_the_estimate_begins_to_count():
    """9.9 degrees and 3.95 cm off: wrong below, right from there on; the mean is over the classes."""
    off = _pose(0.0395, R=_turn(0, 9.9))
    found = nocs.curves([_results([_pose()], [off]), _results([_pose(0.3)], [_pose(0.3)], [BOTTLE], [BOTTLE])])
    assert [len(found[k]["thresholds"]) for k in ("iou", "degrees", "cm")] == [101, 61, 31]
    for measure, at in (("degrees", 9.9), ("cm", 3.95)):
        expected = [float(t >= at) for t in found[measure]["thresholds"]]
        assert found[measure]["camera"] == expected
        assert found[measure]["mean"] == pytest.approx([(v + 1) / 2 for v in expected])
    assert found["iou"]["bottle"][:100] == [1.0] * 100
    assert sorted(found["iou"]["camera"], reverse=True) == found["iou"]["camera"]
    assert 0 < sum(found["iou"]["camera"]) < 100
