"""COCO files and their average precision."""

import json

import numpy as np
import pytest

from monopose.datasets import coco
from monopose.datasets.bop.results import rle_from_mask


def square(x, y, side=20, size=(100, 100)):
    mask = np.zeros(size, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def truth(*objects):
    """(x, y, ignore, iscrowd) of 20 px squares of class 1 in image 1."""
    entries = []
    for n, (x, y, ignore, crowd) in enumerate(objects):
        entry = {"id": n, "image_id": 1, "category_id": 1, "bbox": [x, y, 20, 20], "area": 400, "iscrowd": crowd}
        entries.append(entry | {"ignore": ignore, "segmentation": rle_from_mask(square(x, y))})
    return {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": entries,
    }


def found(*objects):
    """(x, y, score) of 20 px squares."""
    return [
        {"image_id": 1, "category_id": 1, "score": s, "bbox": [x, y, 20, 20], "segmentation": rle_from_mask(square(x, y))}
        for x, y, s in objects
    ]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_perfect_and_missing(kind):
    gt = truth((10, 10, False, 0), (50, 50, False, 0))
    full = coco.average_precision(gt, found((10, 10, 0.9), (50, 50, 0.8)), kind)
    assert set(full) == set(coco.METRICS)
    assert full["ap"] == pytest.approx(1)
    assert full["ar1"] == 0.5
    assert full["ap_large"] == -1
    assert coco.average_precision(gt, found((10, 10, 0.9)), kind)["ap"] == pytest.approx(51 / 101)
    assert coco.average_precision(gt, [], kind)["ap"] == 0
    assert coco.average_precision(truth(), found((10, 10, 0.9)), kind)["ap"] == -1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ignored_objects_count_neither_as_missed_nor_as_wrong(kind):
    gt = truth((10, 10, False, 0), (50, 50, True, 0))
    assert coco.average_precision(gt, found((10, 10, 0.9)), kind)["ap"] == pytest.approx(1)
    assert coco.average_precision(gt, found((50, 50, 0.9), (10, 10, 0.8)), kind)["ap"] == pytest.approx(1)
    kept = truth((10, 10, False, 0), (50, 50, False, 0))
    assert coco.average_precision(kept, found((10, 10, 0.9)), kind)["ap"] == pytest.approx(51 / 101)
    wrong = coco.average_precision(gt, found((70, 10, 0.9), (10, 10, 0.8)), kind)["ap"]
    assert wrong == pytest.approx(0.5)


def test_ignoring_does_not_turn_an_object_into_a_crowd():
    """A small detection inside an ignored object overlaps it little; with a crowd it would be swallowed."""
    gt, crowd = truth((10, 10, False, 0), (50, 50, True, 0)), truth((10, 10, False, 0), (50, 50, True, 1))
    small = {"image_id": 1, "category_id": 1, "score": 0.95, "bbox": [55, 55, 4, 4]}
    detections = [small, *found((10, 10, 0.9))]
    assert coco.average_precision(gt, detections)["ap"] == pytest.approx(0.5)
    assert coco.average_precision(crowd, detections)["ap"] == pytest.approx(1)


def test_arguments_are_not_changed_and_nothing_is_printed(capsys):
    gt, detections = truth((10, 10, True, 0), (50, 50, False, 0)), found((10, 10, 0.9))
    before = json.dumps([gt, detections])
    coco.average_precision(gt, detections, "segm")
    assert json.dumps([gt, detections]) == before
    assert capsys.readouterr().out == ""


def test_boxes_are_edges():
    np.testing.assert_array_equal(coco.boxes_xyxy(truth((3, 4, False, 0))["annotations"]), [[3, 4, 23, 24]])
    assert coco.boxes_xyxy([]).shape == (0, 4)


def test_reading_and_messages(tmp_path):
    path = tmp_path / "scene_gt_coco.json"
    path.write_text(json.dumps(truth((1, 2, False, 0))))
    assert coco.read_coco(path)["annotations"][0]["bbox"] == [1, 2, 20, 20]
    for change, message in (
        (lambda c: c.pop("images"), r"scene_gt_coco\.json: key 'images' is missing"),
        (lambda c: c["images"][0].pop("width"), r"images entry 0: key 'width' is missing"),
        (lambda c: c["annotations"][0].update(bbox=[1]), r"annotations entry 0: 'bbox' must have 4 numbers, got 1"),
        (lambda c: c["annotations"][0].update(image_id=8), r"'image_id' 8 is not among the file's image entries"),
        (lambda c: c["annotations"][0].update(category_id=8), r"'category_id' 8 is not among the file's category entries"),
    ):
        content = truth((1, 2, False, 0))
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            coco.read_coco(path)
    with pytest.raises(ValueError, match='kind must be "bbox" or "segm"'):
        coco.average_precision(truth(), [], "boxes")
