"""KITTI's files: calibration, labels to the byte, the way to our frames and back, real boxes, errors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from monopose.datasets import kitti
from monopose.datasets.road import no_objects
from monopose.geometry import boxes, boxes3d

CALIB = """P0: 700 0 600 0 0 700 180 0 0 0 1 0
P2: 700 0 600 44 0 700 180 0.25 0 0 1 0.004
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0.1 0 0 -1 -0.2 1 0 0 -0.3

"""
CAR = "Car 0.00 1 -1.33 597.59 176.18 720.90 261.14 1.47 1.60 3.66 1.07 1.55 14.44 -1.25"
NOTHING = "DontCare -1 -1 -10 800.38 163.67 825.45 184.07 -1 -1 -1 -1000 -1000 -1000 -10"


@pytest.fixture
def folder(tmp_path):
    for name in ("image_2", "calib", "label_2"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (1242, 375)).save(tmp_path / "image_2" / "000000.png")
    (tmp_path / "calib" / "000000.txt").write_text(CALIB)
    (tmp_path / "label_2" / "000000.txt").write_text(f"{CAR}\n{NOTHING}\n")
    return tmp_path


def write(tmp_path, text, name="label.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_calibration_separates_K_and_the_place_of_camera_2(tmp_path):
    K, cam_from_rect, rect_from_velo = kitti.read_calibration(write(tmp_path, CALIB))
    assert K.tolist() == [[700, 0, 600], [0, 700, 180], [0, 0, 1]]
    point = torch.tensor([3.0, 1.0, 20.0, 1.0], dtype=torch.float64)
    P2 = torch.tensor([[700, 0, 600, 44], [0, 700, 180, 0.25], [0, 0, 1, 0.004]], dtype=torch.float64)
    assert torch.allclose(K @ (cam_from_rect @ point)[:3], P2 @ point, atol=1e-9)  # all twelve numbers of P2 count
    assert cam_from_rect[2, 3] == 0.004
    ahead = rect_from_velo @ torch.tensor([10.0, 0, 0, 1], dtype=torch.float64)
    assert torch.allclose(ahead[:3], torch.tensor([0.1, -0.2, 9.7], dtype=torch.float64))


def test_a_label_is_moved_into_the_camera_that_took_the_picture(folder):
    (frame,) = kitti.read(folder)
    assert frame.camera.size == (375, 1242)
    assert [frame.classes[k] for k in frame.objects.labels] == ["Car"]
    beside = torch.tensor([(44 - 600 * 0.004) / 700, (0.25 - 180 * 0.004) / 700, 0.004], dtype=torch.float64)
    centre = torch.tensor([1.07, 1.55 - 1.47 / 2, 14.44], dtype=torch.float64)
    assert torch.allclose(frame.objects.cam_from_obj[0, :3, 3], centre + beside, atol=1e-12)
    assert boxes3d.yaw_of(frame.objects.cam_from_obj).tolist() == pytest.approx([-1.25])
    assert frame.objects.sizes.tolist() == [[3.66, 1.47, 1.60]]
    assert frame.objects.boxes.tolist() == [pytest.approx([598.09, 176.68, 721.40, 261.64])]
    assert frame.ignored.tolist() == [pytest.approx([800.88, 164.17, 825.95, 184.57])]
    assert (frame.objects.truncation.tolist(), frame.objects.occlusion.tolist()) == ([0.0], [1])
    assert frame.read().image.shape == (3, 375, 1242)


def test_there_and_back(folder):
    labels = kitti.read_labels(folder / "label_2" / "000000.txt")
    calibration = kitti.read_calibration(folder / "calib" / "000000.txt")
    objects, _ = kitti.objects_from(labels, calibration)
    again = kitti.labels_from(objects, calibration, (375, 1242))
    given = labels.values[:1].copy()
    given[0, 2] = -1.25 - math.atan2(1.07, 14.44)  # the annotated alpha is rounded; ours follows from ry
    assert np.allclose(again.values, given, atol=1e-9)
    assert abs(given[0, 2] - labels.alpha[0]) < 0.02


def test_files_round_trip(tmp_path):
    text = f"{CAR}\n{NOTHING}\n"
    path = write(tmp_path, text)
    kitti.write_labels(tmp_path / "again.txt", kitti.read_labels(path), decimals=2)
    assert (tmp_path / "again.txt").read_text() == text
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, kitti.COLUMNS)) * 10
    values[:, :3] = [[0.3, 2, 1.5], [-1, -1, -10], [0.1 + 0.2, 0, -3.0]]
    values[:, 5:7] = values[:, 3:5] + 7
    values[:, 13] /= 20
    results = kitti.Labels(("Car", "Van", "Cyclist"), values, generator.random(3))
    kitti.write_results(tmp_path / "out", {"000007": results, "000008": kitti.Labels((), np.zeros((0, 14)), np.zeros(0))})
    again = kitti.read_labels(tmp_path / "out" / "000007.txt")
    assert again.types == results.types
    assert np.array_equal(again.values, values)  # every bit
    assert np.array_equal(again.scores, results.scores)
    assert (tmp_path / "out" / "000008.txt").read_text() == ""


def test_pictures_without_objects(folder):
    path = folder / "label_2" / "000000.txt"
    path.write_text("")
    (frame,) = kitti.read(folder)
    assert (len(frame.objects), tuple(frame.ignored.shape)) == (0, (0, 4))
    path.write_text(f"{NOTHING}\n{NOTHING}\n")
    (frame,) = kitti.read(folder, ["000000"])
    assert (len(frame.objects), tuple(frame.ignored.shape)) == (0, (2, 4))
    calibration = kitti.read_calibration(folder / "calib" / "000000.txt")
    nothing = kitti.labels_from(no_objects(), calibration, (375, 1242))
    assert len(nothing) == 0
    path.unlink()
    with pytest.raises(FileNotFoundError, match="label file"):
        kitti.read(folder)
    (folder / "label_2").rmdir()
    assert kitti.read(folder)[0].objects is None


def test_estimates_get_their_boxes_by_projection_and_the_unseen_stay_out(folder):
    (frame,) = kitti.read(folder)
    calibration = kitti.read_calibration(folder / "calib" / "000000.txt")
    pose = frame.objects.cam_from_obj.repeat(2, 1, 1)
    pose[1, 2, 3] = -5  # behind the camera
    scores = torch.tensor([0.9, 0.8])
    objects = replace(frame.objects[torch.tensor([0, 0])], cam_from_obj=pose, boxes=None, scores=scores, truncation=None)
    labels = kitti.labels_from(replace(objects, occlusion=None), calibration, frame.camera.size)
    assert len(labels) == 1
    assert labels.scores.tolist() == pytest.approx([0.9])
    assert (labels.truncated[0], labels.occluded[0]) == (-1, -1)
    c, s = math.cos(-1.25), math.sin(-1.25)  # the corners as KITTI's development kit describes them, through all of P2
    side = np.array([[x, y, z, 1] for x in (-1.83, 1.83) for y in (-1.47, 0) for z in (-0.8, 0.8)]).T
    turn = np.array([[c, 0, s, 1.07], [0, 1, 0, 1.55], [-s, 0, c, 14.44], [0, 0, 0, 1]])
    u, v, w = np.array([[700, 0, 600, 44], [0, 700, 180, 0.25], [0, 0, 1, 0.004]]) @ turn @ side
    assert np.allclose(labels.boxes[0], [(u / w).min(), (v / w).min(), (u / w).max(), (v / w).max()], atol=1e-9)


@pytest.mark.parametrize(
    "text, message",
    [
        ("Car 0 0 1 2 3", r"label\.txt:1: expected 15 columns .* got 6"),
        (f"{CAR}\n\n{CAR} 0.5 7", r"label\.txt:3: expected 15 columns"),
        (CAR.replace("14.44", "far"), r"label\.txt:1: expected a number, got 'far'"),
        (CAR.replace("14.44", "nan"), r"label\.txt:1: nan is no finite number"),
        (CAR.replace("Car", "Tank"), r"label\.txt:1: unknown type 'Tank'; expected one of Car, Van"),
        (f"{CAR}\n{CAR} 0.5", r"label\.txt:2: has 16 columns, the line before 15; a score for all or none"),
        (CAR.replace("720.90", "20.90"), r"label\.txt:1: x1 y1 x2 y2 must grow"),
    ],
)
def test_broken_labels(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        kitti.read_labels(write(tmp_path, text))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("P2", "P9", r"no P2, the projection of camera 2 \(has: P0, P9"),
        (" 0.004\n", "\n", r"P2 must have 12 numbers, got 11"),
        ("0 0 1 0.004", "0 0 0 0.004", r"P2, which is K \[1 \| b\]"),
        ("P0:", "P0", r":1: expected 'NAME: numbers'"),
        ("R0_rect: 1", "R0_rect: 2", r"'R0_rect' must be a rotation matrix"),
        ("44", "4x4", r":2: expected a number, got '4x4'"),
    ],
)
def test_broken_calibration(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        kitti.read_calibration(write(tmp_path, CALIB.replace(old, new, 1)))


def test_errors_that_name_the_fix(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no pictures in"):
        kitti.read(folder / "calib")
    (folder / "calib" / "000000.txt").rename(folder / "calib" / "000001.txt")
    with pytest.raises(FileNotFoundError, match="no calibration file at"):
        kitti.read(folder)
    (folder / "calib" / "000001.txt").rename(folder / "calib" / "000000.txt")
    (frame,) = kitti.read(folder)
    calibration = kitti.read_calibration(folder / "calib" / "000000.txt")
    broken = replace(frame.objects, cam_from_obj=frame.objects.cam_from_obj * math.nan)
    with pytest.raises(ValueError, match="cam_from_obj holds NaN"):
        kitti.labels_from(broken, calibration, frame.camera.size)
    with pytest.raises(ValueError, match="KITTI has no class 'bus'"):
        kitti.labels_from(frame.objects, calibration, frame.camera.size, ("bus",))
    with pytest.raises(ValueError, match="results for 1 have no scores"):
        kitti.write_results(tmp_path / "r", {"1": kitti.read_labels(folder / "label_2" / "000000.txt")})
    (folder / "label_2" / "000000.txt").write_text(CAR.replace("1.47 1.60 3.66", "-1 -1 -1"))
    with pytest.raises(ValueError, match=r"000000\.txt: object 0 has the size h w l"):
        kitti.read(folder)


# ------------------------------------------------------------------------------------------------------------ real data


def test_real_boxes_project_onto_their_labels(shared_data):
    """35 objects of 10 photos: the annotators drew pedestrians by their limbs, so those agree less."""
    frames = kitti.read(shared_data / "kitti_mini")
    assert len(frames) == 10
    agreement, offset, people = [], [], []
    for frame in frames:
        found = boxes3d.project(frame.objects.cam_from_obj, frame.objects.sizes, frame.camera.K, frame.camera.size)
        iou = boxes.iou(found, frame.objects.boxes).diagonal()
        person = frame.objects.labels == kitti.CLASSES.index("Pedestrian")
        agreement += iou[~person].tolist()
        people += iou[person].tolist()
        whole = ~person & (frame.objects.truncation == 0)
        offset.append((found - frame.objects.boxes)[whole])
    assert (len(agreement), len(people)) == (32, 3)
    assert min(agreement) > 0.85
    assert np.median(agreement) > 0.95
    assert min(people) > 0.65
    assert float(torch.cat(offset).mean(0).abs().max()) < 0.75  # pixels: camera 2's own place and the half pixels count


def test_without_the_place_of_camera_2_boxes_are_off(shared_data):
    shifts = []
    for frame in kitti.read(shared_data / "kitti_mini"):
        calibration = kitti.read_calibration(shared_data / "kitti_mini" / "calib" / f"{frame.name}.txt")
        whole = frame.objects[frame.objects.truncation == 0]
        wrong = torch.linalg.inv(calibration.cam_from_rect) @ whole.cam_from_obj
        shifts.append((boxes3d.project(wrong, whole.sizes, calibration.K, frame.camera.size) - whole.boxes)[:, 0::2])
    assert float(torch.cat(shifts).mean()) < -1  # all too far to the left


def test_real_files_round_trip_to_the_byte_and_to_frames(shared_data, tmp_path):
    folder = shared_data / "kitti_mini"
    for frame in kitti.read(folder):
        path = folder / "label_2" / f"{frame.name}.txt"
        labels = kitti.read_labels(path)
        kitti.write_labels(tmp_path / path.name, labels, decimals=2)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
        calibration = kitti.read_calibration(folder / "calib" / f"{frame.name}.txt")
        again = kitti.labels_from(frame.objects, calibration, frame.camera.size)
        known = [t != kitti.DONT_CARE for t in labels.types]
        assert again.types == tuple(t for t in labels.types if t != kitti.DONT_CARE)
        assert np.allclose(np.delete(again.values, 2, 1), np.delete(labels.values[known], 2, 1), atol=1e-9)
        assert np.abs(again.alpha - labels.alpha[known]).max() < 0.04  # alpha = ry - atan2(x, z), annotated by hand


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (1, 5, "truncated must be a share"), (2, 1.7, "occluded must be 0, 1, 2, 3"), (2, 1e300, "no finite number"),
        (3, 90, "alpha must be radians"), (8, 1500, "metres.*millimetres"), (13, 25000, "metres.*millimetres"),
        (14, 90, "ry must be radians.*degrees"), (13, "2_5", "2_5 is no finite number"),
    ],
)  # fmt: skip
def test_what_an_object_on_a_road_cannot_be(tmp_path, column, value, message):
    words = CAR.split()
    words[column] = str(value)
    with pytest.raises(ValueError, match=rf"label\.txt:2: .*{message}"):
        kitti.read_labels(write(tmp_path, f"{CAR}\n{' '.join(words)}\n"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("P2: 700 0 600 44 0 700 180", "P2: 700 0 600 0 0 6 180", "belong to no camera"),
        ("P2: 700 0 600 44 0 700 180", "P2: 0.6 0 0.5 0 0 1.9 0.5", "normalised by the size"),
        ("P2: 700 0 600 44 0", "P2: 700 0 600 44 9", "expected"),
        ("600 44 0", "600 45000 0", "place of camera 2 .* millimetres"),
        ("R0_rect: 1 0 0 0 1 0 0 0 1", "R0_rect: 1 0 0 0 1 0 0 0 -1", "'R0_rect' must be a rotation matrix"),
        ("-0.3", "-300", "translation in Tr_velo_to_cam .* millimetres"),
        ("P0:", "P2:", "P2 is there twice"),
    ],
)
def test_what_a_calibration_of_a_road_cannot_be(tmp_path, old, new, message):
    assert CALIB.count(old) == 1
    with pytest.raises(ValueError, match=rf"calib\.txt.*{message}"):
        kitti.read_calibration(write(tmp_path, CALIB.replace(old, new), "calib.txt"))
