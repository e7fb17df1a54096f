"""What a run found, for people and their programs."""

import csv
import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from monopose.geometry import rotation
from monopose.prediction import COLUMNS, Prediction
from monopose.types import Camera, Dropped, Frame, PoseEstimates
from shapes import box

K = torch.tensor([[100.0, 0.0, 31.5], [0.0, 100.0, 23.5], [0.0, 0.0, 1.0]])


@pytest.fixture
def found():
    pose = torch.eye(4).repeat(2, 1, 1)
    pose[0, :3, :3] = rotation.so3_exp(torch.tensor([0.0, 0.0, torch.pi / 2]))
    pose[:, :3, 3] = torch.tensor([[0.1, -0.2, 0.5], [0.0, 0.0, 0.8]])
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0], [20.0, 10.0, 40.0, 40.0]])
    out = (Dropped(5, "can", 0.05, "probability below 0.2"),)
    poses = PoseEstimates(
        torch.tensor([5, 8]), pose, torch.tensor([0.9, 0.4]), boxes=boxes, names={5: "can"}, calibrated=True, dropped=out
    )
    frame = Frame(torch.full((3, 48, 64), 0.5), Camera(K, (48, 64)), path="photo.png")
    return Prediction(frame, poses, {5: box(obj_id=5)})


def test_names_quaternions_and_places(found):
    assert found.names == ["can", "object 8"]
    half = 0.5**0.5
    torch.testing.assert_close(found.quat_xyzw, torch.tensor([[0, 0, half, half], [0, 0, 0, 1.0]]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.translation[0], torch.tensor([0.1, -0.2, 0.5]))
    assert len(found) == 2
    assert [one.names for one in found] == [["can"], ["object 8"]]
    assert found[found.scores > 0.5].names == ["can"]


def test_short_reprs(found):
    assert repr(found) == "Prediction(can 0.90 at 0.50 m, object 8 0.40 at 0.80 m; 1 left out)"
    assert repr(found[:0]) == "Prediction(nothing; 1 left out)"
    assert repr(found.frame) == "Frame(photo.png, Camera(64x48 pixels, fx 100.0, fy 100.0, cx 31.5, cy 23.5))"
    assert repr(found.poses) == "PoseEstimates(2 rows, labels [5, 8]; labels, cam_from_obj, scores, boxes)"
    assert repr(found.models[5]) == "ObjectModel(5, 'box5', 80 x 60 x 100 mm, 12 faces)"


def test_saved_as_picture_json_and_table(found, tmp_path):
    with Image.open(found.save(tmp_path / "a.png")) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(found.picture()))
    assert found.save(tmp_path / "a.jpg").is_file()
    (image,) = json.loads(found.save(tmp_path / "a.json").read_text())["images"]
    assert image["poses"][0]["quat_xyzw"] == pytest.approx(found.quat_xyzw[0].tolist())
    assert image["poses"][0]["translation"] == pytest.approx([0.1, -0.2, 0.5])
    assert image["calibrated"] is True
    assert image["dropped"] == [{"label": 5, "name": "can", "score": 0.05, "reason": "probability below 0.2"}]
    with open(found.save(tmp_path / "a.csv"), newline="") as file:
        header, first, _ = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert first[:2] == ["5", "can"]
    assert [float(v) for v in first[3:6]] == pytest.approx([0.1, -0.2, 0.5])
    with pytest.raises(ValueError, match=r"save\(\) writes pictures \(\.png.*\.json and \.csv, got 'a\.txt'"):
        found.save(tmp_path / "a.txt")


def test_to_pandas(found):
    pytest.importorskip("pandas")
    table = found.to_pandas()
    assert list(table.columns) == list(COLUMNS)
    assert table["name"].tolist() == ["can", "object 8"]
    assert table["z"].tolist() == pytest.approx([0.5, 0.8])
    assert len(found[:0].to_pandas()) == 0


def test_to_supervision(found, monkeypatch):
    """What is handed over; the library itself is large."""
    fake = types.SimpleNamespace(Detections=lambda **columns: types.SimpleNamespace(**columns))
    monkeypatch.setitem(sys.modules, "supervision", fake)
    got = found.to_supervision()
    assert got.xyxy.shape == (2, 4)
    assert got.class_id.tolist() == [5, 8]
    assert got.confidence.tolist() == pytest.approx([0.9, 0.4])
    assert got.data["class_name"].tolist() == ["can", "object 8"]
    assert {len(value) for value in got.data.values()} == {2}


@pytest.mark.parametrize(("library", "call"), [("pandas", "to_pandas"), ("supervision", "to_supervision")])
def test_what_is_not_installed_says_how(found, monkeypatch, library, call):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}: pip install {library}"):
        getattr(found, call)()
