"""2D boxes against torchvision and by hand."""

import pytest
import torch
from torchvision import ops

from monopose.geometry import boxes


def random_boxes(n, seed):
    corners = 100 * torch.rand(n, 2, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([corners.amin(1), corners.amax(1)], -1)


def test_iou_and_area_are_torchvisions():
    a, b = random_boxes(30, 0), random_boxes(20, 1)
    torch.testing.assert_close(boxes.iou(a, b), ops.box_iou(a, b))
    torch.testing.assert_close(boxes.area(a), ops.box_area(a))
    torch.testing.assert_close(boxes.clipped(a - 50, (30, 40)), ops.clip_boxes_to_image(a - 50, (30, 40)))


def test_iou_of_empty_boxes_is_zero():
    empty = torch.tensor([[5.0, 5.0, 5.0, 5.0], [9.0, 9.0, 3.0, 3.0]])
    assert (boxes.iou(empty, empty) == 0).all()
    assert (boxes.area(empty) == 0).all()
    assert boxes.iou(empty[:0], empty).shape == (0, 2)
    whole = torch.tensor([[0.0, 0, 10, 10]])
    assert boxes.iou(whole, whole).item() == pytest.approx(1)


def test_square_and_enlarged():
    b = torch.tensor([[10.0, 20.0, 30.0, 30.0]])
    assert boxes.square(b).tolist() == [[10.0, 15.0, 30.0, 35.0]]
    assert boxes.square(b, 1.5).tolist() == [[5.0, 10.0, 35.0, 40.0]]
    assert boxes.enlarged(b, 2.0).tolist() == [[0.0, 15.0, 40.0, 35.0]]
    assert boxes.square(b.expand(2, 3, 4)).shape == (2, 3, 4)


def test_boxes_of_masks_are_torchvisions_with_the_far_edge():
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(20, 13, 17, generator=g) > 0.97
    masks[0] = False
    masks[1] = True
    some = masks.flatten(1).any(1)
    got = boxes.from_masks(masks)
    expected = ops.masks_to_boxes(masks[some])
    expected[:, 2:] += 1  # torchvision gives the last pixel, edges lie one further
    torch.testing.assert_close(got[some], expected)
    assert (got[~some] == 0).all()
    assert got[1].tolist() == [0, 0, 17, 13]
    assert boxes.from_masks(masks[:0]).shape == (0, 4)


def test_the_box_of_points_agrees_with_that_of_their_mask():
    points = torch.tensor([[2.0, 3.0], [6.0, 3.0], [4.0, 8.0]])
    assert boxes.from_points(points).tolist() == [2.5, 3.5, 6.5, 8.5]
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[0, points[:, 1].long(), points[:, 0].long()] = True
    # a mask holds whole pixels: half a pixel more on every side
    assert boxes.from_masks(mask)[0].tolist() == [2.0, 3.0, 7.0, 9.0]
    assert boxes.from_points(points.expand(2, 5, 3, 2)).shape == (2, 5, 4)


def test_of_overlapping_boxes_of_one_label_the_best_stays():
    g = torch.Generator().manual_seed(0)
    corner, size = 40 * torch.rand(60, 2, generator=g), 5 + 20 * torch.rand(60, 2, generator=g)
    found, scores = torch.cat([corner, corner + size], 1), torch.rand(60, generator=g)
    labels = torch.randint(0, 3, (60,), generator=g)
    kept = boxes.nms(found, scores, labels, 0.3)
    assert kept.tolist() == ops.batched_nms(found, scores, labels, 0.3).tolist()
    assert 3 < len(kept) < 60
    assert boxes.nms(found[:0], scores[:0], labels[:0], 0.3).tolist() == []
