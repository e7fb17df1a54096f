"""The last step of a photo's pose: masks as a network gives them, blurred and cut, and what must not make a pose worse."""

import numpy as np
import pytest
import torch

from contour.test_lines import revolved, silhouette
from monopose.contour import align as last_step
from monopose.contour import lines
from monopose.geometry import camera as camera_ops
from monopose.geometry import rotation, se3
from shapes import box

K = torch.tensor([[600.0, 0.0, 159.5], [0.0, 600.0, 119.5], [0.0, 0.0, 1.0]])
CROP = torch.tensor([[80.0, 40.0, 240.0, 200.0]])
SIDE = 48


def posed(seed, distance=0.6):
    g = torch.Generator().manual_seed(seed)
    return se3.from_rt(rotation.random_rotations(1, g), torch.tensor([[-0.005, 0.0, distance]]))


def mask_of(pose, model):
    """(1, SIDE, SIDE), as soft as a pixel of the crop."""
    k = camera_ops.crop_resize_K(K.double(), CROP.double(), (SIDE, SIDE))[0].numpy()
    return torch.from_numpy(silhouette(model, pose[0].double().numpy(), k, SIDE))[None]


def picture(pose, model):
    """A reddish object before a bluish background, (3, 240, 320)."""
    on = torch.from_numpy(silhouette(model, pose[0].double().numpy(), K.double().numpy(), 320))[:240]
    noise = 0.1 * torch.rand(3, 240, 320, generator=torch.Generator().manual_seed(0))
    return on * torch.tensor([0.8, 0.2, 0.2])[:, None, None] + (1 - on) * torch.tensor([0.2, 0.3, 0.7])[:, None, None] + noise


def shifted(pose, delta):
    return torch.from_numpy(lines.moved(pose.double().numpy(), np.array([delta]))).float()


def errors(found, true):
    delta = lines.difference(found.double().numpy(), true.double().numpy())[0]
    return np.linalg.norm(delta[:3]), np.degrees(np.linalg.norm(delta[3:]))


def align(start, pose, model, **more):
    mask = mask_of(pose, model)
    return last_step.align(start, mask, mask, picture(pose, model), CROP, K, [model], **more)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_distance_place_and_turn_are_mended(seed):
    model, true = box(), posed(seed)
    start = shifted(true, [0.004, -0.003, 0.03, 0.05, -0.05, 0.05])
    found = align(start, true, model)
    assert found.moved.all()
    (before, turned), (after, turn) = errors(start, true), errors(found.cam_from_obj, true)
    assert after < 0.25 * before
    assert turn < turned
    assert found.error[0] < 0.1


def test_a_pose_that_is_sure_stays_where_it_is():
    model, true = box(), posed(1)
    start = shifted(true, [0.004, 0, 0, 0, 0, 0])
    firm = torch.eye(6)[None] * 1e12
    assert errors(align(start, true, model, information=firm).cam_from_obj, start)[0] < 1e-5
    free = align(start, true, model, information=torch.zeros(1, 6, 6)).cam_from_obj
    assert errors(free, true)[0] < errors(start, true)[0]


def test_the_best_hypothesis_is_taken_and_a_residual_can_forbid_it():
    model, true = box(), posed(2)
    far = shifted(true, [0, 0, 0, 0.9, 0.5, 0.0])
    two = torch.stack([far[0], true[0]])[None]
    found = align(two, true, model)
    assert errors(found.cam_from_obj, true)[1] < 3
    forbidden = align(two, true, model, residual=torch.tensor([[0.0, 10.0]]))
    assert errors(forbidden.cam_from_obj, true)[1] > 10


@pytest.mark.parametrize("what", ["empty", "full", "elsewhere"])
def test_a_pose_is_never_moved_to_fit_worse(what):
    model, true = box(), posed(3)
    mask = mask_of(true, model)
    wrong = {"empty": torch.zeros_like(mask), "full": torch.ones_like(mask), "elsewhere": mask.roll(30, 2)}[what]
    found = last_step.align(true, wrong, wrong, picture(true, model), CROP, K, [model])
    assert torch.isfinite(found.cam_from_obj).all()
    k = camera_ops.crop_resize_K(K.double(), CROP.double(), (last_step.SIDE,) * 2)
    masks = wrong.double(), torch.ones_like(wrong).double()
    misfit = [last_step._misfit(p.double().numpy(), k, [model], *masks)[0] for p in (true, found.cam_from_obj)]
    assert misfit[1] <= misfit[0]
    if not found.moved[0]:
        assert torch.equal(found.cam_from_obj, true)


def test_hidden_parts_do_not_pull():
    """Half of the object is hidden, and the mask is wrong there: what is seen decides."""
    model, true = box(), posed(0)
    mask = mask_of(true, model)
    seen = mask.clone()
    seen[:, :, SIDE // 2 :] = 0
    start = shifted(true, [0.003, 0.002, 0.02, 0, 0, 0])
    found = last_step.align(start, mask, seen, picture(true, model), CROP, K, [model])
    assert errors(found.cam_from_obj, true)[0] < 0.5 * errors(start, true)[0]


def test_what_a_mask_only_guesses_is_not_held_against_a_pose():
    model, true = box(), posed(0)
    seen = mask_of(true, model)
    whole = torch.maximum(seen, torch.ones_like(seen).triu(SIDE // 4))  # guessed far beyond the object
    found = last_step.align(true, whole, seen, picture(true, model), CROP, K, [model])
    assert found.error[0] < 0.1
    assert last_step.align(true, whole, whole, picture(true, model), CROP, K, [model]).error[0] > 0.3
    right = torch.arange(SIDE) >= SIDE // 2
    whole, seen = (torch.where(right, v, 0.3).expand(1, SIDE, SIDE).double() for v in (0.9, 0.4))
    found = last_step.align(true, whole, seen, picture(true, model), CROP, K, [model])
    trust = torch.where(right, 0.25, 1.0).expand(1, SIDE, SIDE).double()  # the square of what is not guessed
    k = camera_ops.crop_resize_K(K.double(), CROP.double(), (last_step.SIDE,) * 2)
    expected = last_step._misfit(found.cam_from_obj.double().numpy(), k, [model], whole, trust)
    np.testing.assert_allclose(found.error.numpy(), expected, rtol=1e-5)


def test_colours_sharpen_what_is_seen_and_say_nothing_of_what_is_hidden():
    side = last_step.SIDE
    whole, seen = torch.full((1, side, side), 0.05).double(), torch.full((1, side, side), 0.05).double()
    whole[:, 40:120, 40:120], seen[:, 40:120, 40:80] = 0.8, 0.8
    red, blue = torch.tensor([0.8, 0.2, 0.2])[:, None, None], torch.tensor([0.2, 0.3, 0.7])[:, None, None]
    shown = torch.where(seen > 0.5, red, blue)[None]  # something blue, as the background, hides the right half
    found = last_step._foreground(whole, seen, shown)[0]
    assert found[60:100, 50:70].min() > 0.9
    np.testing.assert_allclose(found[60:100, 90:110], 0.8, atol=0.1)


def test_an_object_of_revolution_is_not_turned_about_its_axis():
    from dataclasses import replace

    from monopose.types import Symmetries

    model = replace(revolved(), symmetries=Symmetries(axes=torch.tensor([[0.0, 0.0, 1.0]]), offsets=torch.zeros(1, 3)))
    true = posed(5)
    start = shifted(true, [0.003, 0.0, 0.02, 0, 0, 0])
    found = align(start, true, model).cam_from_obj[0]
    turned = start[0, :3, :3].T @ found[:3, :3]
    assert abs(float(torch.rad2deg(torch.atan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])))) < 0.05


def test_nothing_in_nothing_out():
    none = torch.zeros(0, SIDE, SIDE)
    found = last_step.align(torch.zeros(0, 4, 4), none, none, torch.zeros(3, 240, 320), torch.zeros(0, 4), K, [])
    assert found.cam_from_obj.shape == (0, 4, 4)
    assert found.moved.shape == (0,)
