"""The examples run as they stand, and reach what they promise."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def main_of(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_a_pose_from_correspondences(capsys):
    main_of("pose_from_correspondences")()
    assert "inliers        1" in capsys.readouterr().out  # about 180 of 300


def test_a_network_learns_the_corners_of_a_cube_from_its_pose():
    main = main_of("bpnp_pose")
    assert main(iterations=1) > 20  # pixels
    assert main(iterations=100) < 0.5


def test_structure_from_motion_finds_the_points():
    main = main_of("bpnp_structure_from_motion")
    assert main(count=100, iterations=1) > 5  # millimetres
    assert main(count=100) < 0.6  # half a pixel is 0.5 mm there, and six photos show each point


def test_calibration_finds_the_camera():
    main = main_of("bpnp_calibration")
    assert main(iterations=1) > 30  # pixels
    assert main() < 1.5


@pytest.mark.slow
def test_a_layer_in_your_network_learns_where_points_are_and_what_each_is_worth(capsys):
    example = EXAMPLES / "pnp_layer_in_your_network.py"
    lines = [line for line in example.read_text().partition('"""\n\n')[2].splitlines() if line]
    assert len(lines) <= 30
    runpy.run_path(str(example))
    before, _, after, expected = (float(v) for v in re.findall(r"(\d+\.\d) mm", capsys.readouterr().out))
    assert after < 0.6 * before
    assert 0.6 < after / expected < 1.6  # its covariance fits its errors


@pytest.mark.slow
def test_a_plane_has_two_poses_and_a_picture_of_both(capsys, monkeypatch, tmp_path):
    picture = tmp_path / "posterior.png"
    monkeypatch.setattr("sys.argv", ["two_poses_of_a_plane.py", str(picture)])
    runpy.run_path(str(EXAMPLES / "two_poses_of_a_plane.py"))
    said = capsys.readouterr().out
    assert said.startswith("2 poses")
    assert int(re.search(r"(\d+) of 1024 samples", said)[1]) > 200
    assert picture.stat().st_size > 50_000


def test_the_angles_of_a_viewpoint_are_drawn():
    picture = main_of("viewpoint_angles")()
    assert picture.width > 1000
    assert picture.height > 500
