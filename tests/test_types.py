"""The frozen types: shapes are checked on creation, messages say what to do, rows are indexed together."""

import dataclasses

import pytest
import torch

from monopose import Camera, Detections, Frame, Instances, ObjectModel, PoseEstimates
from monopose.types import Symmetries

K = torch.tensor([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])


def estimates(n=4):
    return PoseEstimates(
        torch.arange(n), torch.eye(4).repeat(n, 1, 1), torch.linspace(1, 0, n), boxes=torch.arange(4.0 * n).reshape(n, 4),
        names={0: "cup", 1: "can"}, seconds={"detector": 0.1},
    )  # fmt: skip


def instances(n=3):
    return Instances(torch.arange(n), torch.eye(4).repeat(n, 1, 1), masks=torch.zeros(n, 4, 6, dtype=torch.bool))


def model(**changes):
    arguments = {
        "obj_id": 1, "name": "box", "vertices": torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]]),
        "faces": torch.tensor([[0, 2, 1], [0, 1, 3]]), "normals": torch.zeros(4, 3), "diameter": 3.6,
    }  # fmt: skip
    return ObjectModel(**(arguments | changes))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Camera(torch.eye(4), (4, 4)), ValueError, r"Camera.K must have a shape ending in \(3, 3\), got \(4, 4\)"),
        (lambda: Camera([[1.0]], (4, 4)), TypeError, r"Camera.K must be a torch.Tensor, got list; use torch.as_tensor"),
        (lambda: Camera(K, (0, 4)), ValueError, r"\(height, width\)"),
        (lambda: Camera(K, (4,)), ValueError, r"\(height, width\)"),
        (lambda: Camera(-K, (4, 4)), ValueError, "positive focal lengths"),
        (lambda: Camera(K * torch.nan, (4, 4)), ValueError, "finite"),
        (lambda: Camera(K, (4, 4), torch.zeros(3)), ValueError, r"4, 5 or 8 OpenCV coefficients, got \(3,\)"),
        (lambda: Symmetries(axes=torch.zeros(2, 3)), ValueError, r"Symmetries.offsets .* \(2, 3\), got \(0, 3\)"),
        (lambda: model(normals=torch.zeros(3, 3)), ValueError, r"ObjectModel.normals .* \(4, 3\), got \(3, 3\)"),
        (lambda: model(colors=torch.zeros(4, 4)), ValueError, r"ObjectModel.colors .* got \(4, 4\)"),
        (lambda: model(texture=torch.zeros(8, 8, 3)), ValueError, r"ObjectModel.texture .* \(3, \*, \*\)"),
        (lambda: Detections(torch.arange(2), torch.zeros(3, 4), torch.zeros(2)), ValueError, r"Detections.boxes .* \(2, 4\)"),
        (lambda: Instances(torch.arange(2), torch.zeros(2, 3, 4)), ValueError, r"Instances.cam_from_obj .* \(2, 4, 4\)"),
        (lambda: PoseEstimates(torch.arange(2), torch.zeros(1, 2, 4, 4), torch.zeros(2)), ValueError, "3 dimensions"),
        (lambda: Frame(torch.zeros(480, 640, 3), Camera(K, (480, 640))), ValueError, r"Frame.image .* \(3, \*, \*\)"),
        (lambda: Frame(torch.zeros(3, 240, 320), Camera(K, (480, 640)), path="a.jpg"), ValueError,
         r"the camera is for 640x480 but a.jpg is 320x240 .* camera.resized\(\(h, w\)\)"),
        (lambda: Frame(torch.zeros(3, 480, 640), Camera(K, (480, 640)), depth=torch.zeros(2, 2)), ValueError, "Frame.depth"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_types_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimates().scores = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        Camera(K, (4, 4)).K = K


def test_rows_are_indexed_together():
    e = estimates()
    assert len(e) == 4
    for index, rows in [
        (slice(1, 3), [1, 2]), (torch.tensor([3, 0]), [3, 0]), (torch.tensor([True, False, False, True]), [0, 3]),
        (2, [2]), (-1, [3]), ([1, 1], [1, 1]), (slice(0, 0), []), (slice(None, None, 2), [0, 2]),
    ]:  # fmt: skip
        part = e[index]
        assert isinstance(part, PoseEstimates)
        assert part.labels.tolist() == rows
        assert part.boxes.tolist() == e.boxes[rows].tolist()
        assert part.cam_from_obj.shape == (len(rows), 4, 4)
        assert part.covariance is None
        assert part.names == e.names
        assert part.seconds == e.seconds
    with pytest.raises(IndexError):
        e[4]
    with pytest.raises(IndexError):
        e[-5]
    assert [int(row.labels) for row in e] == [0, 1, 2, 3]  # iteration ends


def test_masks_follow_their_instances():
    i = instances()[torch.tensor([True, False, True])]
    assert i.masks.shape == (2, 4, 6)
    assert i.boxes is None


def test_moving_keeps_integers_and_booleans():
    d = estimates().to(torch.float64)
    assert d.cam_from_obj.dtype == d.scores.dtype == torch.float64
    assert d.labels.dtype == torch.int64
    i = instances().to(torch.float64)
    assert i.masks.dtype == torch.bool
    m = model(symmetries=Symmetries(torch.eye(4)[None])).to(torch.float64)
    assert m.vertices.dtype == m.symmetries.discrete.dtype == torch.float64
    assert m.faces.dtype == torch.int64
    f = Frame(torch.zeros(3, 4, 6), Camera(K, (4, 6)), instances=instances()).to(torch.float64)
    assert f.image.dtype == f.camera.K.dtype == f.instances.cam_from_obj.dtype == torch.float64
    assert f.instances.masks.dtype == torch.bool
    assert estimates().to("meta").labels.device.type == "meta"


def test_large_labels_survive_a_move():
    big = Detections(torch.tensor([2**24 + 1]), torch.zeros(1, 4), torch.zeros(1))
    assert big.to(torch.float32).labels.item() == 2**24 + 1


def test_corners_and_bounds_of_a_model():
    m = model()
    assert m.bounds.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert m.corners.shape == (8, 3)
    assert m.corners[0].tolist() == [0, 0, 0]
    assert m.corners[5].tolist() == [1, 0, 3]  # bits 0 and 2
    assert m.corners[7].tolist() == [1, 2, 3]


def test_importing_monopose_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, monopose; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(dir(monopose))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "PoseEstimates" in out


def test_unknown_names_are_named():
    import monopose

    with pytest.raises(AttributeError, match=r"no attribute 'Cammera'; public names: .*Camera"):
        monopose.Cammera  # noqa: B018


def test_a_row_by_argmax():
    found = Detections(torch.tensor([1, 2, 3]), torch.zeros(3, 4), torch.tensor([0.1, 0.9, 0.2]))
    assert found[found.scores.argmax()].labels.tolist() == [2]
