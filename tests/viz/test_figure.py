"""Charts look the same everywhere, and leave matplotlib as they found it."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from monopose import viz
from monopose.geometry import boxes3d
from monopose.road import viz as road_viz
from monopose.viz import figure


def _chart():
    return np.asarray(road_viz.yaw_density(torch.linspace(0, 1, 20)))


def test_neither_style_nor_pyplot_of_the_reader_is_touched():
    matplotlib = pytest.importorskip("matplotlib")
    plain = _chart()
    with matplotlib.rc_context({"font.size": 25, "lines.linewidth": 9, "axes.facecolor": "red", "savefig.dpi": 7}):
        before = dict(matplotlib.rcParams)
        assert np.array_equal(_chart(), plain)
        assert dict(matplotlib.rcParams) == before
    assert np.array_equal(_chart(), plain)


def test_a_figure_has_the_pixels_that_were_asked_for():
    with figure.style():
        picture = figure.to_image(figure.new(320, 201))
    assert picture.mode == "RGB"
    assert picture.size == (320, 201)
    assert np.asarray(picture).min() == 255


@pytest.mark.slow
def test_matplotlib_is_imported_when_a_chart_is_drawn_and_pyplot_never():
    code = (
        "import sys, torch, monopose, monopose.cli\n"
        "from monopose import viz\n"
        "from monopose.road import viz as road\n"
        "assert 'matplotlib' not in sys.modules\n"
        "road.yaw_density(torch.zeros(3))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wedges_run_clockwise_from_the_top_and_are_as_large_as_their_shares():
    with figure.style():
        fig = figure.new(200, 200)
        ax = fig.add_axes((0, 0, 1, 1), xlim=(-1, 1), ylim=(-1, 1))
        ax.axis("off")
        shares = np.array([[1.0, 0, 0, 3]])  # of angles around -135 and 135 degrees
        drawn = figure.pies(ax, np.zeros(1), np.zeros(1), np.array([50.0]), shares)
        pixels = np.asarray(figure.to_image(fig)).astype(int)
    first, last = (np.round(255 * np.array(drawn.to_rgba(a)[:3])) for a in (-135, 135))
    assert np.abs(pixels[80, 120] - first).max() < 3  # the quarter after twelve o'clock
    for row, column in ((120, 120), (120, 80), (80, 80)):
        assert np.abs(pixels[row, column] - last).max() < 3
    inked = (pixels.min(-1) < 250).sum()
    assert inked == pytest.approx(np.pi * (50 / 72 * 100) ** 2, rel=0.03)


def test_colours_of_angles_close_the_circle_and_differ_across_it():
    colors = figure.cyclic()(np.linspace(0, 1, 257))[:, :3]
    assert colors[0] == pytest.approx(colors[-1])
    assert np.abs(colors - np.roll(colors[:-1], 128, 0)[np.arange(257) % 256]).max(1).min() > 0.3


def test_yaws_and_poses_give_the_same_chart():
    yaws = torch.linspace(-0.2, 0.4, 30)
    poses = boxes3d.from_yaw(torch.zeros(30, 3), yaws)
    assert viz.to_picture(road_viz.yaw_density(yaws)) == viz.to_picture(road_viz.yaw_density(poses))
