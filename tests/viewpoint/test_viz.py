import math

import numpy as np
import pytest
import torch

from monopose.evaluation import viewpoint
from monopose.geometry.viewpoints import CENTRED, PUBLISHED
from monopose.viewpoint import viz as viz_viewpoint
from monopose.viz.canvas import AXES
from monopose.viz.posterior import BLUE, TRUTH

DEGREES = math.pi / 180


def _near(picture, color, tolerance=60):
    """Where a picture has about this colour, (n, 2), (x, y)."""
    off = np.abs(np.asarray(picture).astype(int) - np.array(color)).sum(-1)
    rows, columns = np.nonzero(off < tolerance)
    return np.stack([columns, rows], 1)


def _axes(degrees, box=(60.0, 40.0, 180.0, 160.0)):
    image = torch.full((3, 200, 240), 0.5)
    angles = torch.tensor([degrees], dtype=torch.float64) * DEGREES
    return viz_viewpoint.draw(image, torch.tensor([box]), angles)


def test_arrows_point_where_the_object_does():
    middle = np.array([120.0, 100.0])
    right, front, up = (_near(_axes((0, 20, 0)), color).mean(0) - middle for color in AXES)
    assert right[0] > 15 and abs(right[1]) < 8  # noqa: PT018
    assert front[1] > 3 and abs(front[0]) < 8  # noqa: PT018  # towards the camera, seen from above: down in the picture
    assert up[1] < -15 and abs(up[0]) < 8  # noqa: PT018


def test_seen_from_its_right_the_front_is_on_the_left():
    front = _near(_axes((270, 0, 0)), AXES[1]).mean(0) - np.array([120.0, 100.0])
    assert front[0] < -15
    back = _near(_axes((90, 0, 0)), AXES[1]).mean(0) - np.array([120.0, 100.0])
    assert back[0] > 15


def test_a_picture_turned_clockwise_turns_its_arrows():
    up = _near(_axes((0, 0, 90)), AXES[2]).mean(0) - np.array([120.0, 100.0])
    assert up[0] > 15 and abs(up[1]) < 8  # noqa: PT018


def test_the_photo_stays_as_it_is_where_nothing_is_drawn():
    picture = np.asarray(_axes((30, 10, 0)))
    assert picture.shape == (200, 240, 3)
    assert (picture[190:, :40] == 128).all()


def test_axes_may_leave_the_picture():
    viz_viewpoint.draw(torch.zeros(3, 50, 60), torch.tensor([[-200.0, -100.0, 300.0, 90.0]]), torch.zeros(1, 3), ["a chair"])
    viz_viewpoint.draw(torch.zeros(3, 50, 60), torch.zeros(0, 4), torch.zeros(0, 3), [])


def test_a_crop_is_square_and_centred_on_its_object():
    image = torch.zeros(3, 100, 200)
    image[:, 40:60, 120:140] = 1.0
    picture = viz_viewpoint.crop(image, torch.tensor([120.0, 40.0, 140.0, 60.0]), torch.zeros(3), 128)
    assert picture.size == (128, 128)
    bright = np.argwhere(np.asarray(picture).min(-1) > 240)
    np.testing.assert_allclose(bright.mean(0), [63.5, 63.5], atol=6)  # arrows hide a part


def test_the_rose_shows_estimate_truth_and_the_best_bin():
    probabilities = torch.tensor([0.1, 0.05, 0.6, 0.05, 0.05, 0.05, 0.05, 0.05])
    picture = viz_viewpoint.azimuth_rose(probabilities, CENTRED[0], angle=100 * DEGREES, true=260 * DEGREES)
    assert picture.size == (360, 400)
    assert _near(picture, BLUE)[:, 0].min() < 60  # 90 degrees is on the left
    assert _near(picture, TRUTH)[:, 0].max() > 300
    plain = viz_viewpoint.azimuth_rose(probabilities, CENTRED[0])
    assert not len(_near(plain, TRUTH, 20))


@pytest.mark.parametrize("bins", [PUBLISHED, CENTRED])
def test_matrices_show_where_the_answers_went(bins):
    true = torch.tensor([[10.0, 5, 1]] * 30 + [[100.0, 5, 1]] * 10) * DEGREES
    predicted = true.clone()
    predicted[:20, 0] += math.pi
    found = viewpoint.scores(predicted, true, bins)
    picture = viz_viewpoint.confusion_matrices(found, bins, "title")
    right = viz_viewpoint.confusion_matrices(viewpoint.scores(true, true, bins), bins, "title")
    assert picture.size == right.size == (1112, 472)
    first = np.abs(np.asarray(picture).astype(int) - np.asarray(right)).sum(-1)
    cell = viz_viewpoint.CELL
    x0, y0 = 16 + 62, 108
    changed = {(int((y - y0) // cell), int((x - x0) // cell)) for y, x in np.argwhere(first > 60) if y0 <= y < y0 + 8 * cell}
    row, column = found["azimuth"]["majority_bin"], int(bins[0].index(predicted[0, 0]))
    assert changed == {(row, row), (row, column)}


def test_the_worst_come_first():
    image, box = torch.zeros(3, 60, 80), torch.tensor([20.0, 10.0, 60.0, 50.0])

    def mistake(error, grey):
        return viz_viewpoint.Mistake(image + grey, box, torch.zeros(3), torch.ones(3), error, f"{error}")

    sheet = viz_viewpoint.worst([mistake(5, 0.2), mistake(90, 0.8), mistake(40, 0.5)], most=2)
    corners = [np.asarray(sheet)[20, x].mean() for x in (20, 20 + 262)]
    np.testing.assert_allclose(corners, [0.8 * 255, 0.5 * 255], atol=2)
    with pytest.raises(ValueError, match="at least one"):
        viz_viewpoint.worst([])


def test_captions_name_angles_and_probabilities():
    angles = torch.tensor([321.4, 11.8, -4.4]) * DEGREES
    assert viz_viewpoint.caption(angles) == "azimuth 321°, elevation 12°, in-plane -4°"
    text = viz_viewpoint.caption(angles, torch.tensor([[0.1, 0.9], [0.7, 0.3], [0.5, 0.5]]))
    assert text == "azimuth 321° (0.90), elevation 12° (0.70), in-plane -4° (0.50)"


def _frames_figure():
    """The figure of docs/viewpoint.md: what azimuth, elevation and in-plane rotation do to a chair, with its axes."""
    from monopose import viz
    from monopose.geometry import boxes, camera, se3, viewpoints
    from monopose.render.scene import render_scene
    from monopose.synthesis.shapes import furniture

    model, size = furniture.shape("chair", 1), (240, 240)
    K = camera.K_from_fov(40 * DEGREES, size)
    pictures, captions = [], []
    for name, degrees in (
        ("azimuth 0°, elevation 15°", (0, 15, 0)),
        ("azimuth 45°", (45, 15, 0)),
        ("azimuth 90°", (90, 15, 0)),
        ("azimuth 315°", (315, 15, 0)),
        ("azimuth 315°, elevation 45°", (315, 45, 0)),
        ("azimuth 315°, in-plane 20°", (315, 15, 20)),
    ):
        angles = torch.tensor(degrees, dtype=torch.float64) * DEGREES
        pose = se3.from_rt(viewpoints.rotation_of(angles), torch.tensor([0.0, 0.0, 2.0 * model.diameter]).double()).float()
        paper = torch.full((3, *size), 0.82)
        scene = render_scene([model], pose[None], K, size, background=paper)
        box = boxes.from_masks(scene.masks_visible)
        pictures.append(viz_viewpoint.draw(scene.image, box, angles[None]))
        captions.append(name)
    sheet = viz.contact_sheet(pictures, captions, columns=3, width=240)
    probabilities = torch.tensor([0.08, 0.02, 0.02, 0.02, 0.03, 0.03, 0.18, 0.62])
    rose = viz_viewpoint.azimuth_rose(
        probabilities, CENTRED[0], 321 * DEGREES, 330 * DEGREES, "azimuth: where the camera stands"
    )
    return viz.side_by_side([sheet, rose], height=sheet.height)


if __name__ == "__main__":
    import sys

    _frames_figure().quantize(128).save(sys.argv[1], optimize=True)
