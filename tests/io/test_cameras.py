"""What camera files declare is used, or named, or refused."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

from monopose.io import images, limits, records
from monopose.io.cameras import ImageWarning, read_camera

K = [[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]
BASE = {"fx": 600.0, "fy": 600.0, "cx": 320.0, "cy": 240.0, "width": 640, "height": 480}
BROWN = [-0.3, 0.1, 0.0, 0.0, 0.0]
INFO = """height: {height}
width: {width}
distortion_model: "plumb_bob"
D: [0.0, 0.0, 0.0, 0.0, 0.0]
K: [600.0, 0.0, {cx}, 0.0, 600.0, {cy}, 0.0, 0.0, 1.0]
binning_x: {bx}
binning_y: {bx}
roi:
  x_offset: {x}
  y_offset: {y}
  height: {h}
  width: {w}
"""


def write(tmp_path, content, name="camera.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        {**BASE, "distortion": BROWN},
        {**BASE, "dist_coeffs": [BROWN]},
        {**BASE, "D": BROWN, "distortion_model": "plumb_bob"},
        {**BASE, "k1": -0.3, "k2": 0.1, "p1": 0, "p2": 0, "k3": 0},
        {**BASE, "distortion": {"k1": -0.3, "k2": 0.1, "k3": 0}},
        {**BASE, "distortion_coefficients": {"rows": 1, "cols": 5, "data": BROWN}},
        {"K": K, "resolution": [480, 640], "distortion": BROWN},
        {"camera_matrix": K, "dist_coeffs": BROWN, "image_width": 640, "image_height": 480},
    ],
)
def test_distortion_is_read_wherever_it_stands(tmp_path, content):
    camera = read_camera(write(tmp_path, content))
    assert camera.distortion.tolist() == pytest.approx(BROWN)
    assert camera.size == (480, 640)
    torch.testing.assert_close(camera.K, torch.tensor(K))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**BASE, "K": [[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]}, "intrinsics more than once, and 'k' differs"),
        ({**BASE, "camera_matrix": {"data": [500.0, 0, 320, 0, 600, 240, 0, 0, 1]}}, "'camera_matrix' differs"),
        ({**BASE, "k": BROWN}, "'k' should be 9 numbers"),
        ({**BASE, "fisheye": True, "D": BROWN[:4]}, "fisheye says that the lens is a fisheye"),
        ({**BASE, "fisheye_model": 1, "D": BROWN[:4]}, "fisheye_model says that the lens is a fisheye"),
        ({**BASE, "xi": 1.2}, "xi says that the lens is a fisheye"),
        (json.dumps(BASE)[:-1] + ', "fx": 300}', "the key 'fx' is there twice"),
        ("".join(f"{k}: {v}\n" for k, v in BASE.items()) + "cy: 200\n", "the key 'cy' is there twice"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"camera.json.*{message}"):
        read_camera(write(tmp_path, content))
    again = {**BASE, "K": K, "fisheye": False}
    torch.testing.assert_close(read_camera(write(tmp_path, again)).K, torch.tensor(K))


def test_distortion_given_twice_or_with_odd_counts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"more than once: distortion, k1"):
        read_camera(write(tmp_path, {**BASE, "distortion": BROWN, "k1": 0.1}))
    with pytest.raises(ValueError, match=r"'dist' should hold 4, 5 or 8 coefficients .*, got 3"):
        read_camera(write(tmp_path, {**BASE, "dist": [0.1, 0.2, 0.3]}))


def test_keys_that_are_not_read_are_named(tmp_path):
    with pytest.warns(ImageWarning, match=r"camera\.json: the key\(s\) unit are not read"):
        read_camera(write(tmp_path, {**BASE, "unit": "mm"}))


@pytest.mark.parametrize("key", ["dist_coef", "radial_distortion", "Distortion_Params", "lens_dist"])
def test_distortion_under_a_name_that_is_not_read_is_refused(tmp_path, key):
    with pytest.raises(
        ValueError, match=rf"camera\.json has the key '{key.lower()}', which is not read; write .* 'distortion'"
    ):
        read_camera(write(tmp_path, {**BASE, key: {"a": [[0.0, -0.3]]}}))
    with pytest.warns(ImageWarning, match="are not read"):  # a lens that does not distort
        read_camera(write(tmp_path, {**BASE, key: [0, 0.0], "distance": 3}))


@pytest.mark.parametrize("lens", [{"dist_coeffs": BROWN}, {"k1": 0.1}, {"distortion": {"k1": 0.1}}])
def test_the_distortion_of_a_scenes_camera_is_not_lost(tmp_path, lens):
    entry = {"cam_K": K, "depth_scale": 1.0}
    with pytest.raises(ValueError, match=r"image 7: '.*' says that the lens distorts; .*: undistort the images"):
        read_camera(write(tmp_path, {"7": {**entry, **lens}}), size=(480, 640))
    read_camera(write(tmp_path, {"7": {**entry, "k1": 0, "cam_model": None}}), size=(480, 640))


@pytest.mark.parametrize("head", ["", "%YAML:1.0\n---\n"])
def test_opencv_yaml(tmp_path, head):
    text = f"""{head}image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 600., 0., 320., 0., 600., 240., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -0.3, 0.1, 0., 0., 0. ]
"""
    camera = read_camera(write(tmp_path, text, "camera.yml"))
    torch.testing.assert_close(camera.K, torch.tensor(K))
    assert camera.distortion.tolist() == pytest.approx(BROWN)


def test_nine_numbers_in_a_text_file_are_a_camera_once_the_size_is_known(tmp_path):
    path = write(tmp_path, "600 0 320\n0 600 240\n0 0 1\n", "cam_K.txt")
    torch.testing.assert_close(read_camera(path, size=(480, 640)).K, torch.tensor(K))
    with pytest.raises(ValueError, match=r"does not say how large its images are"):
        read_camera(path)


@pytest.mark.parametrize(
    "info, expected, size",
    [
        ([960, 1280, 640, 480, 0, 320, 240, 480, 640], (600, 320, 240), (480, 640)),
        ([480, 640, 631, 375, 0, 311, 135, 480, 640], (600, 320, 240), (480, 640)),
        ([960, 1280, 639.5, 479.5, 2, 0, 0, 0, 0], (300, 319.5, 239.5), (480, 640)),
        ([480, 640, 320, 240, 1, 0, 0, 0, 0], (600, 320, 240), (480, 640)),
    ],
    ids=["region of the sensor", "region, size of the region", "binned", "whole"],
)
def test_ros_regions_and_binning(tmp_path, info, expected, size):
    camera = read_camera(
        write(tmp_path, INFO.format(**dict(zip(("height", "width", "cx", "cy", "bx", "x", "y", "h", "w"), info))), "info.yaml")
    )
    got = camera.K[0, 0], camera.K[0, 2], camera.K[1, 2]
    assert [float(v) for v in got] == pytest.approx(expected)
    assert camera.size == size


@pytest.mark.parametrize(
    "matrix, message",
    [
        (np.zeros((3, 3)), "is all zero: the camera is not calibrated"),
        (np.transpose(K), "it is transposed; write it row by row"),
        (np.array(K) * 2, r"its last number must be 1; was all of it multiplied by 2\?"),
        ([[0.94, 0, 0.5], [0, 1.25, 0.5], [0, 0, 1]], "looks normalised by the size of the picture; expected pixels"),
        ([[6.0, 0, 3.2], [0, 6.0, 2.4], [0, 0, 1]], "looks divided by something; expected pixels"),
        ([[4.4, 0, 320], [0, 4.4, 240], [0, 0, 1]], r"would see 178 degrees .*is it in millimetres\?"),
        ([[-600.0, 0, 320], [0, 600, 240], [0, 0, 1]], "needs positive focal lengths in pixels, got fx -600"),
        ([[math.nan, 0, 320], [0, 600, 240], [0, 0, 1]], "holds NaN or infinity"),
        ([[600, 0, 320], [0, 600, 240]], "must have 9 numbers"),
        ([["600", 0, 320], [0, 600, 240], [0, 0, 1]], "must be numbers"),
    ],
)
def test_what_is_no_camera_matrix_is_refused_by_what_it_looks_like(matrix, message):
    with pytest.raises(ValueError, match=message):
        records.intrinsics(matrix, "file.json: 'cam_K'", (480, 640))


def test_camera_matrices_of_small_pictures_are_taken():
    small = [[57.0, 0, 32], [0, 57, 24], [0, 0, 1]]
    np.testing.assert_array_equal(records.intrinsics(small, "here"), small)
    np.testing.assert_array_equal(records.intrinsics([v for row in small for v in row], "here", (48, 64)), small)


@pytest.mark.parametrize("raw", [1.7, True, None, "1.7", "x", 2**63, -1, [1], float("nan")])
def test_ids_are_whole_numbers(raw):
    with pytest.raises(ValueError, match=r"here must be a whole number from 0 to 2147483647, got"):
        records.whole(raw, "here")


def test_whole_numbers_in_other_clothes_are_taken():
    assert [records.whole(v, "here") for v in (7, 7.0, "7", np.int64(7))] == [7] * 4


def test_rigid_motions_by_columns_are_told_apart():
    motion = np.eye(4)
    motion[:3, 3] = 1, 2, 3
    np.testing.assert_array_equal(records.rigid_motions([motion.ravel().tolist()], "f", "k"), motion[None])
    with pytest.raises(ValueError, match=r"f: 'k'\[0\]: the last row must be 0 0 0 1, got .* column by column: transpose it"):
        records.rigid_motions([motion.T.ravel().tolist()], "f", "k")
    with pytest.raises(ValueError, match=r"'k' must be a list of 4 x 4 matrices, got None"):
        records.rigid_motions(None, "f", "k")
    with pytest.raises(ValueError, match=r"must be a rotation matrix"):
        records.rigid_motions([np.diag([1.0, 1, -1, 1]).ravel().tolist()], "f", "k")


@pytest.mark.slow
def test_yaml_aliases_and_deep_nesting_are_refused(tmp_path):
    with pytest.raises(ValueError, match="aliases"):
        records.parse_yaml("a: &a [1, 1]\nb: [*a, *a]\n", "file")
    with pytest.raises(ValueError, match="nested too deeply"):
        records.read_json(write(tmp_path, "[" * 100_000 + "]" * 100_000))
    with pytest.raises(ValueError, match=r"nested too deeply|not valid YAML"):
        records.parse_yaml("[" * 5000 + "]" * 5000, "file")


def test_limits_are_raised_by_the_variable_that_the_message_names(tmp_path, monkeypatch):
    path = write(tmp_path, {"a": "b" * 2000})
    monkeypatch.setenv("MONOPOSE_MAX_TEXT_MB", "0.001")
    with pytest.raises(ValueError, match=r"more than the limit of 0\.001; .*MONOPOSE_MAX_TEXT_MB"):
        records.read_json(path)
    monkeypatch.setenv("MONOPOSE_MAX_TEXT_MB", "1")
    assert records.read_json(path)["a"][0] == "b"
    monkeypatch.setenv("MONOPOSE_MAX_TEXT_MB", "much")
    with pytest.raises(ValueError, match="must be a positive number, got 'much'"):
        limits.most("MONOPOSE_MAX_TEXT_MB")


@pytest.mark.parametrize(
    "lens",
    [
        {"radial": [-0.3, 0.1], "tangential": [0, 0]}, {"kc": BROWN}, {"k_1": -0.3}, {"rad_params": [-0.3]},
        {"fisheye_params": [0.1]}, {"lens": {"k1": -0.3}}, {"intrinsics": {"distortion": BROWN}},
    ],
)  # fmt: skip
def test_a_lens_is_not_lost_under_unusual_names_or_deeper_in_the_file(tmp_path, lens):
    with pytest.raises(ValueError, match=r"camera\.json has the key .* which is not read; write OpenCV's coefficients"):
        read_camera(write(tmp_path, {**BASE, **lens}))


@pytest.mark.parametrize("factor", [0.1, 0.01, 1e-4, 1e4])
def test_intrinsics_divided_or_multiplied_are_refused(tmp_path, factor):
    scaled = {key: factor * BASE[key] for key in ("fx", "fy", "cx", "cy")}
    with pytest.raises(ValueError, match=r"divided by|normalised by|so large"):
        read_camera(write(tmp_path, {**BASE, **scaled}))
    with pytest.raises(ValueError, match="the skew 400 belongs to no camera"):
        read_camera(write(tmp_path, {**BASE, "skew": 400.0}))


def test_a_wide_lens_is_none_of_these(tmp_path):
    with pytest.warns(ImageWarning, match=r"camera\.json: a horizontal field of view of 139 degrees is unusual"):
        assert float(read_camera(write(tmp_path, {**BASE, "fx": 120.0, "fy": 120.0})).K[0, 0]) == 120


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"fx": 85.0, "fy": 85.0}, "field of view of 150 degrees is unusual; is K in pixels"),  # an 85 mm lens
        ({"cx": 240.0, "cy": 320.0}, r"\(240, 320\) is far from the middle of the 640x480 image; .*swapped"),
        ({"fx": 300.0, "fy": 300.0, "cx": 160.0, "cy": 120.0}, "a picture of another size"),
        ({"fy": 500.0}, "differ by more than 5 %"),
    ],
)
def test_what_can_be_a_camera_and_is_odd_is_said(tmp_path, change, warning):
    file = write(tmp_path, {**BASE, **change})
    with pytest.warns(ImageWarning, match=warning):
        read_camera(file)
    with pytest.warns(ImageWarning, match=warning):  # of every command that takes a picture
        images.make_frame(torch.zeros(3, 480, 640), file)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", json.dumps({"K": K, "k": K, "width": 640, "height": 480}), "keys K and k differ in nothing but capitals"),
        ("c.json", json.dumps({"K": K, "D": BROWN, "d": [], "width": 640, "height": 480}), "keys D and d differ"),
        ("c.yaml", f"K: {K}\nheight: 480\nwidth: 640\n---\nK: {K}\nheight: 480\nwidth: 320\n---\n", "cameras differ; keep one"),
        ("cameras.txt", "1 PINHOLE 640 480 600 600 320 240\n01 PINHOLE 640 480 500 500 320 240\n", "the same number"),
        ("c.yaml", "cam0:\n  intrinsics: [600, 600, 320, 240]\n  resolution: [640, 480]\n  distortion_model: none\n"
         "  distortion_coeffs: [-0.3, 0.1, 0, 0]\n", "distortion_model is 'none', but distortion_coeffs are given"),
        ("c.yaml", "cam0:\n  intrinsics: [600, 600, 320, 240]\n  resolution: [640, 480]\n  radial: [-0.3, 0.1]\n", "'radial'"),
        ("c.yaml", "fx: 6_00\nfy: 600\ncx: 320\ncy: 240\nwidth: 640\nheight: 480\n", "6_00 is none that all programs read"),
    ],
)  # fmt: skip
def test_of_two_values_none_is_taken_in_silence(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        read_camera(write(tmp_path, text, name))


def test_what_says_nothing_else_may_be_there_again(tmp_path):
    message = f"K: {K}\nheight: 480\nwidth: 640\nheader: {{seq: %d}}\n"
    torch.testing.assert_close(
        read_camera(write(tmp_path, f"{message % 1}---\n{message % 2}---\n", "c.yaml")).K, torch.tensor(K)
    )
    camera = "cam0:\n  intrinsics: [600, 600, 320, 240]\n  resolution: [640, 480]\n  distortion_coeffs: [-0.3, 0.1, 0, 0]\n"
    assert read_camera(write(tmp_path, camera, "c.yaml")).distortion.tolist() == pytest.approx([-0.3, 0.1, 0, 0])


@pytest.mark.parametrize(
    ("number", "message"), [("0600", "0600 is none that all programs read alike"), ("10:00", "10:00 is none"), ("6e2", None)]
)
def test_numbers_of_base_8_and_60_are_none_in_yaml(tmp_path, number, message):
    text = "".join(f"{k}: {number if k == 'fx' else v}\n" for k, v in BASE.items())
    if message is None:
        torch.testing.assert_close(read_camera(write(tmp_path, text, "c.yaml")).K, torch.tensor(K))
        return
    with pytest.raises(ValueError, match=rf"c\.yaml: the number {message}"):
        read_camera(write(tmp_path, text, "c.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "# saved by numpy\n600 0 320\n0 600 240\n0 0 1\n",
        "[[600, 0, 320], [0, 600, 240], [0, 0, 1]]",
        "600;0;320;0;600;240;0;0;1",
    ],
)
def test_K_as_text_in_the_forms_that_people_have(tmp_path, text):
    torch.testing.assert_close(read_camera(write(tmp_path, text, "cam_K.txt"), size=(480, 640)).K, torch.tensor(K))
    with pytest.raises(ValueError, match=r"K\.txt should hold 9 or 12 numbers, .* got 4"):
        read_camera(write(tmp_path, "600 600 320 240", "K.txt"), size=(480, 640))


def test_a_rectified_ros_camera_is_named(tmp_path):
    info = {"K": K, "width": 640, "height": 480, "D": [0.0] * 5}
    with pytest.warns(ImageWarning, match="P differs from K"):
        read_camera(write(tmp_path, {**info, "P": [500.0, 0, 320, 0, 0, 500, 240, 0, 0, 0, 1, 0]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_camera(write(tmp_path, {**info, "P": [600.0, 0, 320, -30, 0, 600, 240, 0, 0, 0, 1, 0]}))
