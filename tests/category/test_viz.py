"""What is drawn over a photo of objects of a category."""

import numpy as np
import pytest
import torch

from monopose import viz
from monopose.category import viz as viz_category
from monopose.category.fitting import FitStep
from monopose.geometry import se3, viewpoints
from monopose.types import Camera, Frame

FRAME = Frame(
    torch.full((3, 120, 160), 0.5), Camera(torch.tensor([[200.0, 0, 79.5], [0, 200.0, 59.5], [0, 0, 1.0]]), (120, 160))
)


def pose(azimuth, elevation, depth=0.6):
    R = viewpoints.rotation_of(torch.tensor([azimuth, elevation, 0.0]))
    return se3.from_rt(R, torch.tensor([0.0, 0.0, depth]))[None]


def drawn(cam_from_obj, symmetric, truth=None):
    return np.asarray(viz_category.draw_overlay(FRAME, cam_from_obj, [""], [0.2], truth, symmetric)).astype(int)


def test_a_turn_about_the_axis_of_symmetry_is_not_drawn():
    assert np.abs(drawn(pose(0.3, 0.6), True) - drawn(pose(0.3 + np.pi / 2, 0.6), True)).max() < 60  # the ring's corners
    assert np.abs(drawn(pose(0.3, 0.6), False) - drawn(pose(0.3 + np.pi / 2, 0.6), False)).max() > 150
    assert np.abs(drawn(pose(0.3, 0.6), True) - drawn(pose(0.3, 0.2), True)).max() > 150


def test_the_axis_ends_where_the_pose_says_and_the_ring_lies_across_it():
    picture = drawn(pose(0.0, 0.0), True)
    tip = 59.5 - 200 * 0.1 / 0.6
    blue = (picture[..., 2] > picture[..., 0] + 60).nonzero()
    assert abs(blue[0].min() - tip) < 3
    assert abs(blue[1].min() - (79.5 - 200 * 0.05 / 0.6)) < 3  # seen from the side it is a line
    assert abs(blue[1].max() - (79.5 + 200 * 0.05 / 0.6)) < 3
    assert not (picture[..., 0] > picture[..., 2] + 60).any()  # no x axis
    assert not (picture[..., 1] > picture[..., 2] + 60).any()


def test_truth_is_white_and_what_lies_behind_the_camera_is_left_out():
    picture = drawn(pose(0.0, 0.0), True, pose(0.0, 1.0))
    assert (picture.min(-1) > 230).sum() > 20
    assert np.array_equal(drawn(pose(0.0, 0.0, -0.6), True)[40:], np.asarray(viz.to_picture(FRAME.image)).astype(int)[40:])


def test_losses_of_all_starts_and_the_least_stay_within_the_axes(charts):
    course = torch.tensor([[9.0, 5.0, 4.0], [3.0, 4.0, 4.0], [2.0, 1.0, 4.0], [0.5, 1.0, 4.0]])
    history = [FitStep(torch.arange(3), row, None) for row in course]
    assert viz_category.losses(history, 2).size == (392, viz_category.TILE)
    (panel,) = charts[0].axes
    *starts, best = [line.get_xydata() for line in panel.lines]
    assert len(starts) == 3
    low, high = panel.get_ylim()
    assert low < course.min()
    for k, start in enumerate(starts):
        assert start[:, 0].tolist() == [0, 1, 2]
        assert start[1:, 1] == pytest.approx(course[1:3, k].numpy())
        assert start[:, 1].max() < high  # the worst are drawn at the upper edge
    assert best[:, 1].tolist() == [4.0, 3.0, 1.0]
    assert "step 2 of 3" in panel.get_title()
