import math

import numpy as np
import pytest
import torch

from monopose.evaluation import viewpoint
from monopose.geometry.viewpoints import CENTRED, PUBLISHED
from monopose.viewpoint import viz as viz_viewpoint
from monopose.viz import figure
from monopose.viz.canvas import AXES

DEGREES = math.pi / 180


def _near(picture, color, tolerance=60):
    """Where a picture has about this colour, (n, 2), (x, y)."""
    off = np.abs(np.asarray(picture).astype(int) - np.array(color)).sum(-1)
    rows, columns = np.nonzero(off < tolerance)
    return np.stack([columns, rows], 1)


def _rgb(color):
    return tuple(int(color[k : k + 2], 16) for k in (1, 3, 5))


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


def test_the_rose_shows_probabilities_as_areas_and_marks_estimate_and_truth(charts):
    probabilities = torch.tensor([0.1, 0.05, 0.6, 0.05, 0.05, 0.05, 0.05, 0.05])
    picture = viz_viewpoint.azimuth_rose(probabilities, CENTRED[0], angle=100 * DEGREES, true=260 * DEGREES)
    assert picture.size == (360, 400)
    bars = charts[0].axes[0].patches
    areas = [0.5 * bar.get_width() * bar.get_height() ** 2 for bar in bars]
    assert np.array(areas) / sum(areas) == pytest.approx(probabilities.numpy(), abs=1e-6)
    middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    assert middles == pytest.approx([float(CENTRED[0].centre(torch.tensor(i))) for i in range(8)])
    lines = {line.get_label(): line.get_xdata()[1] for line in charts[0].axes[0].lines}
    assert lines == {"estimate": pytest.approx(100 * DEGREES), "truth": pytest.approx(260 * DEGREES)}
    plain = viz_viewpoint.azimuth_rose(probabilities, CENTRED[0])
    assert not charts[1].axes[0].lines
    tip = np.array(_rgb(figure.BLUE))
    assert _near(picture, tip)[:, 0].min() < 60 < _near(plain, tip)[:, 0].min()  # 90 degrees is on the left
    assert _near(picture, _rgb(figure.TRUTH))[:, 0].max() > 300


@pytest.mark.parametrize("bins", [PUBLISHED, CENTRED])
def test_matrices_show_where_the_answers_went(bins, charts):
    true = torch.tensor([[10.0, 5, 1]] * 30 + [[100.0, 5, 1]] * 10) * DEGREES
    predicted = true.clone()
    predicted[:20, 0] += math.pi
    found = viewpoint.scores(predicted, true, bins)
    viz_viewpoint.confusion_matrices(found, bins, "title")
    for panel, key in zip(charts[0].axes, ("azimuth", "elevation", "inplane")):
        counts = np.array(found[key]["confusion"])
        written = {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text())
                   for t in panel.texts if t.get_text().isdigit()}  # fmt: skip
        assert written == {(i, j): counts[i, j] for i, j in np.argwhere(counts).tolist()}
        assert sum(written.values()) == 40
        shares = np.asarray(panel.images[0].get_array())
        assert shares == pytest.approx(counts / np.maximum(counts.sum(1, keepdims=True), 1))
        middle = panel.patches[0].get_xy()[:4, 0].mean()
        assert middle == pytest.approx(found[key]["majority_bin"])
        notes = " ".join(text.get_text() for text in panel.texts)
        assert f"right {100 * found[key]['accuracy']:.1f} %" in notes
    assert "title: 40 pictures" in charts[0].get_suptitle()


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
