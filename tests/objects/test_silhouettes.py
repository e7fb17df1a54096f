"""Distance and position from the mask of a whole silhouette."""

import pytest
import torch

from monopose.geometry import rotation, se3
from monopose.objects import silhouettes
from shapes import box

K = torch.tensor([[600.0, 0.0, 320.0], [0.0, 590.0, 240.0], [0.0, 0.0, 1.0]])
CROP = torch.tensor([[230.0, 160.0, 390.0, 320.0]])
SIDE = 48


def posed(seed, distance=0.6):
    g = torch.Generator().manual_seed(seed)
    return se3.from_rt(rotation.random_rotations(1, g), torch.tensor([[-0.01, 0.0, distance]]))


def mask_of(pose, models, boxes=CROP):
    K_crop = silhouettes.camera_ops.crop_resize_K(K, boxes, (SIDE, SIDE))
    return silhouettes._silhouettes(pose, K_crop, models, SIDE)


def aligned(pose, masks, boxes, models, weights=None):
    return silhouettes.align(pose, masks, torch.ones_like(masks) if weights is None else weights, boxes, K, models)


def error(a, b):
    return float((a[:, :3, 3] - b[:, :3, 3]).norm(dim=-1).max())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.9, 1.12])
def test_a_wrong_distance_and_place_are_mended(seed, scale):
    true, models = posed(seed), [box()]
    start = true.clone()
    start[:, :3, 3] = start[:, :3, 3] * scale + torch.tensor([0.006, -0.004, 0.0])
    found = aligned(start, mask_of(true, models), CROP, models)
    assert error(found, true) < 0.1 * error(start, true)  # 6 cm to millimetres; a mask pixel is 3.4 mm
    torch.testing.assert_close(found[:, :3, :3], start[:, :3, :3])


def test_the_right_pose_stays():
    true, models = posed(1), [box()]
    found = aligned(true, mask_of(true, models), CROP, models)
    torch.testing.assert_close(found, true, rtol=0, atol=1e-4)


def test_a_part_that_is_wrong_pulls_little():
    true, models = posed(2), [box()]
    mask = mask_of(true, models)
    mask[:, :, :6] = 1.0  # a stripe far from the object
    start = true.clone()
    start[:, :3, 3] *= 1.08
    assert error(aligned(start, mask, CROP, models), true) < 0.3 * error(start, true)


def test_a_hidden_part_without_weight_does_not_pull():
    true, models = posed(2), [box()]
    mask, weights = mask_of(true, models), torch.ones(1, SIDE, SIDE)
    mask[:, SIDE // 2 :] = 0  # the lower half is not seen, and not guessed either
    weights[:, SIDE // 2 :] = 0
    start = true.clone()
    start[:, :3, 3] *= 1.08
    assert error(aligned(start, mask, CROP, models, weights), true) < 0.15 * error(start, true)
    assert error(aligned(start, mask, CROP, models), true) > 0.15 * error(start, true)


def test_objects_of_a_batch_do_not_touch_each_other():
    models = [box(), box(size=(0.05, 0.05, 0.12)), box()]
    true = torch.cat([posed(i) for i in range(3)])
    boxes = torch.cat([CROP, CROP + 5, CROP - 3])
    masks = mask_of(true, models, boxes)
    start = true.clone()
    start[:, :3, 3] *= torch.tensor([0.92, 1.05, 1.0])[:, None]
    masks[2] = 0  # no mask at all
    together = aligned(start, masks, boxes, models)
    for i in range(3):
        alone = aligned(start[i : i + 1], masks[i : i + 1], boxes[i : i + 1], models[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)
    assert error(together[:2], true[:2]) < 0.005
    assert torch.isfinite(together).all()


def test_a_pose_far_beside_its_mask_stays_finite():
    models = [box()]
    start = posed(3)
    start[:, :3, 3] = torch.tensor([2.0, 0.0, 0.5])
    found = aligned(start, mask_of(posed(3), models), CROP, models)
    torch.testing.assert_close(found, start)
