"""A known lens photographs a board; the camera that comes out is that lens."""

import json
import math
import warnings
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image

from monopose.cli import main
from monopose.commands import camera
from monopose.io.cameras import read_camera

SIZE = (640, 480)
K = np.array([[520.0, 0, 331.0], [0, 515.0, 236.0], [0, 0, 1]])
LENS = np.array([-0.21, 0.06, 0.001, -0.0008, 0.0])
COLUMNS, ROWS, SIDE = 8, 6, 60  # squares of both boards, pixels of a square in the drawing


def checkerboard():
    odd = np.indices((ROWS, COLUMNS)).sum(0) % 2
    return np.pad(np.kron(255 * odd, np.ones((SIDE, SIDE))).astype(np.uint8), SIDE, constant_values=255)


def charuco():
    kind = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100)
    board = cv2.aruco.CharucoBoard((COLUMNS, ROWS), 1.0, 0.75, kind)
    return np.pad(board.generateImage((COLUMNS * SIDE, ROWS * SIDE)), SIDE, constant_values=255)


@cache
def rays():
    """Directions of the pixels, twice as fine, without the lens, (2 h, 2 w, 2)."""
    u, v = np.meshgrid((np.arange(2 * SIZE[0]) + 0.5) / 2 - 0.5, (np.arange(2 * SIZE[1]) + 0.5) / 2 - 0.5)
    seen = np.stack([u - K[0, 2], v - K[1, 2]], -1) / K[[0, 1], [0, 1]]
    k1, k2, p1, p2, _ = LENS
    at = seen
    for _ in range(12):
        x, y, r2 = at[..., 0], at[..., 1], (at**2).sum(-1)
        aside = np.stack([2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1)
        at = (seen - aside) / (1 + k1 * r2 + k2 * r2**2)[..., None]
    return at


def photo(drawing, turn, place):
    """The board, squares of 3 cm, seen through the lens."""
    R = cv2.Rodrigues(np.array(turn, float))[0]
    H = np.stack([R[:, 0], R[:, 1], np.array(place, float)], 1)  # board plane -> directions
    on = np.concatenate([rays(), np.ones_like(rays()[..., :1])], -1) @ np.linalg.inv(H).T
    x, y = (on[..., k] / on[..., 2] / 0.03 * SIDE for k in (0, 1))  # from the middle of the board
    middle = np.array(drawing.shape[::-1]) / 2 - 0.5
    at = ((x + middle[0]).astype(np.float32), (y + middle[1]).astype(np.float32))
    return cv2.resize(cv2.remap(drawing, *at, cv2.INTER_LINEAR, borderValue=130), SIZE, interpolation=cv2.INTER_AREA)


def places(n=12):
    """Here and there in the picture, turned this way and that."""
    for i in range(n):
        angle, z = 2 * math.pi * i / n, 0.45 + 0.05 * (i % 3)
        turn = (0.5 * math.sin(2.4 * i), 0.5 * math.cos(1.7 * i), 0.3 * math.sin(i))
        yield turn, (0.28 * z * math.cos(angle), 0.2 * z * math.sin(angle), z)


def write(folder, drawing, poses):
    folder.mkdir()
    for i, pose in enumerate(poses):
        Image.fromarray(photo(drawing, *pose)).convert("RGB").save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("boards")
    return {
        "checkerboard": write(root / "checkerboard", checkerboard(), places()),
        "charuco": write(root / "charuco", charuco(), places()),
    }


@pytest.mark.parametrize("kind", ["checkerboard", "charuco"])
def test_a_known_camera_is_found(kind, photos, tmp_path, capsys):
    counts = (COLUMNS - 1, ROWS - 1) if kind == "checkerboard" else (COLUMNS, ROWS)
    out = tmp_path / "camera.json"
    assert main(["camera", str(photos[kind]), f"--{kind}", *map(str, counts), "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing in the file is left unread
        found = read_camera(out)
    assert found.size == SIZE[::-1]
    assert np.diag(found.K.numpy())[:2] == pytest.approx(np.diag(K)[:2], rel=0.005)
    assert found.K[:2, 2].numpy() == pytest.approx(K[:2, 2], abs=2)
    # what the lens does far from the middle of the picture, pixels
    corners = np.array([[80, 60], [560, 60], [80, 420], [320, 20], [20, 240]], float)[:, None]
    true, got = (
        cv2.undistortPoints(corners, k, d).reshape(-1, 2)
        for k, d in ((K, LENS), (found.K.double().numpy(), found.distortion.double().numpy()))
    )
    assert np.abs(true - got).max() * 520 < 3
    assert report["rms_px"] < 0.1
    assert len(report["photos"]) == 12
    assert report["warnings"] == []
    for picture in report["pictures"]:
        assert Image.open(picture).size[0] == 640


def test_poor_photos_are_told(photos, tmp_path):
    """Five photos, all in one corner and facing the camera, one of them blurred: each is said."""
    folder = write(tmp_path / "poor", checkerboard(), [((0.02 * i, 0, 0), (-0.09 + 0.002 * i, -0.05, 0.5)) for i in range(5)])
    sharp = cv2.imread(str(folder / "02.png"))
    cv2.imwrite(str(folder / "02.png"), cv2.GaussianBlur(sharp, None, 2.6))
    board = camera.Board(COLUMNS - 1, ROWS - 1)
    report = camera.calibrate([str(folder)], board, tmp_path / "camera.json")
    said = "\n".join(report.warnings)
    for words in (
        "only 5 photos",
        "in 19% of the picture, hardly any at the edges",
        "no board is turned away",
        "blurred: 02.png",
    ):
        assert words in said


def test_photos_without_the_board_and_of_other_sizes(photos, tmp_path):
    board = camera.Board(COLUMNS - 1, ROWS - 1)
    out = tmp_path / "camera.json"
    with pytest.raises(ValueError, match=r"found in 0 of 1 pictures.* Does it have 9 x 6 inner corners"):
        camera.calibrate([str(photos["checkerboard"] / "01.png")], camera.Board(9, 6), out)
    Image.open(photos["checkerboard"] / "00.png").rotate(90, expand=True).save(tmp_path / "turned.png")
    with pytest.raises(ValueError, match=r"turned\.png has 480 x 640 pixels, 00\.png has 640 x 480"):
        camera.calibrate([str(photos["checkerboard"] / "00.png"), str(tmp_path / "turned.png")], board, out)
    with pytest.raises(FileNotFoundError, match=r"no file fits the pattern .*nothing\*\.png"):
        camera.calibrate([str(tmp_path / "nothing*.png")], board, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("cameras.txt", "# id model\n1 OPENCV 640 480 520 515 331.5 236.5 -0.21 0.06 0.001 -0.0008\n", []),
        (
            "cameras.txt",
            "1 PINHOLE 9 9 5 5 4 4\n7 OPENCV 640 480 520 515 331.5 236.5 -0.21 0.06 0.001 -0.0008\n",
            ["--number", "7"],
        ),
        (
            "camchain.yaml",
            "cam0:\n  camera_model: pinhole\n  intrinsics: [520, 515, 331, 236]\n  distortion_model: radtan\n"
            "  distortion_coeffs: [-0.21, 0.06, 0.001, -0.0008]\n  resolution: [640, 480]\n  rostopic: /cam0\n",
            [],
        ),
        ("cam_K.txt", "520 0 331 0 515 236 0 0 1", ["--size", "640", "480"]),
    ],
)  # fmt: skip
def test_files_of_other_programs_become_camera_json(name, content, options, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    out = tmp_path / "camera.json"
    assert main(["camera", "--from", str(tmp_path / name), *options, "--out", str(out)]) == 0
    found = read_camera(out)
    assert found.K.numpy() == pytest.approx(K, abs=1e-3)
    assert found.size == (480, 640)
    if name == "cam_K.txt":
        assert found.distortion is None
    else:
        assert found.distortion.numpy() == pytest.approx(LENS[:4], abs=1e-6)


def test_what_a_command_line_lacks_is_said(tmp_path, capsys):
    for words, told in [
        (["camera"], "give either photos of a board or --from FILE"),
        (["camera", "photos"], "say what the photos show: --checkerboard"),
        (["camera", "photos", "--checkerboard", "1", "9"], "at least 3 columns"),
    ]:
        assert main(words) == 2
        assert told in capsys.readouterr().err
