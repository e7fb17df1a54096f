"""The ROS 2 node: its core without ROS; the node itself among stand-ins for the messages and for rclpy."""

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from monopose.geometry import rotation, se3
from monopose.tracking.tracker import Track
from monopose.types import PoseEstimates, Symmetries
from shapes import box, half_turn

FOLDER = Path(__file__).parents[1] / "ros2" / "monopose_ros"
INFO = {
    "width": 640, "height": 480, "distortion_model": "plumb_bob", "k": [600.0, 0, 320, 0, 600, 240, 0, 0, 1], "d": [0.0] * 5,
    "p": [500.0, 0, 310, 0, 0, 500, 230, 0, 0, 0, 1, 0], "binning_x": 0, "binning_y": 0,
    "roi": {"x_offset": 0, "y_offset": 0, "width": 0, "height": 0, "do_rectify": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def core():
    sys.path.insert(0, str(FOLDER))
    try:
        from monopose_ros import core

        yield core
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", [10, 20, 30]),
        ("bgr8", [30, 20, 10]),
        ("8UC3", [30, 20, 10]),
        ("rgba8", [10, 20, 30, 0]),
        ("bgra8", [30, 20, 10, 0]),
    ],
)
def test_pictures_of_every_encoding_become_rgb_and_padding_is_left_out(core, encoding, pixel):
    row = bytes(pixel * 2 + [99] * 3)
    image = core.picture(encoding, 2, 2, len(row), row * 2)
    np.testing.assert_array_equal(image, np.full((2, 2, 3), [10, 20, 30]))


def test_pictures_that_are_none(core):
    np.testing.assert_array_equal(core.picture("mono8", 1, 2, 2, bytes([7, 8]))[0, :, 2], [7, 8])
    with pytest.raises(ValueError, match=r"'yuv422' are not read; expected rgb8"):
        core.picture("yuv422", 2, 2, 4, bytes(8))
    with pytest.raises(ValueError, match="2x2 in rgb8 with step 6 has 11 bytes"):
        core.picture("rgb8", 2, 2, 6, bytes(11))


def test_the_region_and_the_binning_move_the_camera(core):
    roi = {"x_offset": 100, "y_offset": 40, "width": 320, "height": 240, "do_rectify": False}
    frame = core.frame_of(np.zeros((120, 160, 3), np.uint8), INFO | {"roi": roi, "binning_x": 2, "binning_y": 2})
    point = torch.tensor([0.02, 0.01, 0.5])
    whole = torch.tensor([320 + 600 * 0.04, 240 + 600 * 0.02])  # on the sensor, pixel centres at integers
    seen = frame.camera.K @ (point / point[2])
    torch.testing.assert_close(seen[:2], (whole - torch.tensor([100.0, 40.0]) + 0.5) / 2 - 0.5)
    assert frame.camera.size == (120, 160)
    with pytest.raises(ValueError, match="160x120 but"):
        core.frame_of(np.zeros((480, 640, 3), np.uint8), INFO | {"roi": roi, "binning_x": 2, "binning_y": 2})


def test_rectified_pictures_have_p_and_no_distortion_and_others_are_straightened(core):
    picture = np.zeros((480, 640, 3), np.uint8)
    bent = INFO | {"d": [0.3, 0.0, 0.0, 0.0, 0.0]}
    assert core.frame_of(picture, bent, rectified=True).camera.K[0].tolist() == [500.0, 0.0, 310.0]
    frame = core.frame_of(picture, bent)
    assert frame.camera.K[0].tolist() == [600.0, 0.0, 320.0]
    assert frame.camera.distortion is None
    with pytest.raises(ValueError, match=r"not calibrated: CameraInfo\.k"):
        core.frame_of(picture, INFO | {"k": [0.0] * 9})
    with pytest.raises(ValueError, match="distortion_model 'equidistant' is not supported"):
        core.frame_of(picture, INFO | {"distortion_model": "equidistant"})
    with pytest.raises(ValueError, match="do_rectify"):
        core.frame_of(picture, INFO | {"roi": INFO["roi"] | {"do_rectify": True}})


def poses_of(pose, covariance):
    pose = pose.repeat(2, 1, 1)
    known = torch.stack([covariance, torch.full((6, 6), torch.nan)])
    return PoseEstimates(torch.tensor([1, 1]), pose, torch.tensor([0.9, 0.8]), known, names={1: "brick"}, calibrated=True)


@pytest.fixture(scope="module")
def pose():
    turned = torch.from_numpy(Rotation.from_euler("xyz", [20, -50, 130], degrees=True).as_matrix())
    return se3.from_rt(turned, torch.tensor([0.1, -0.05, 0.6], dtype=torch.float64))


def test_poses_have_the_quaternion_and_the_box_of_ros(core, pose):
    model = box((0.1, 0.06, 0.04), centre=(0.01, 0.0, 0.02))
    first, second = core.detections(poses_of(pose, torch.eye(6)), {1: model})
    assert (first.name, first.frame, second.name, second.frame) == ("brick", "brick", "brick", "brick_2")
    np.testing.assert_allclose(Rotation.from_quat(first.orientation).as_matrix(), pose[:3, :3], atol=1e-9)  # SciPy: x, y, z, w
    np.testing.assert_allclose(first.position, [0.1, -0.05, 0.6])
    np.testing.assert_allclose(first.size, [0.1, 0.06, 0.04], atol=1e-7)
    np.testing.assert_allclose(first.center, se3.transform(pose, torch.tensor([[0.01, 0.0, 0.02]]).double())[0], atol=1e-7)
    assert first.score == pytest.approx(0.9)
    assert np.diag(np.reshape(second.covariance, (6, 6))).tolist() == [1e6] * 6  # unknown
    assert core.detections(poses_of(pose, torch.eye(6)), {})[0].size == [0.0, 0.0, 0.0]


def test_the_covariance_is_that_of_position_and_fixed_axes(core, pose):
    """By sampling: what moves and turns the pose as monopose's tangent says, measured as ROS reads it."""
    generator = torch.Generator().manual_seed(0)
    root = 0.01 * torch.randn(6, 6, dtype=torch.float64, generator=generator)
    deltas = torch.randn(20_000, 6, dtype=torch.float64, generator=generator) @ root.T
    moved = se3.retract(pose, deltas)
    x_y_z = moved[:, :3, 3] - pose[:3, 3]
    about_fixed = rotation.so3_log(moved[:, :3, :3] @ pose[:3, :3].T)
    measured = torch.cat([x_y_z, about_fixed], 1).T.cov()
    told = np.reshape(core.detections(poses_of(pose, root @ root.T), {})[0].covariance, (6, 6))
    np.testing.assert_allclose(told, measured, atol=0.05 * float(measured.abs().max()))
    assert told.shape == (6, 6)


def test_tracks_that_are_lost_are_not_published(core, pose):
    one = Track(1, "brick", pose, torch.eye(6), 0.1, False, ())
    found = core.detections([one, one._replace(lost=True)], {})
    assert [(d.name, round(d.score, 3)) for d in found] == [("brick", 0.9)]


def test_symmetries_are_told_as_bop_writes_them(core):
    model = replace(box(), symmetries=Symmetries(half_turn(2)[None]))
    told = json.loads(core.objects({1: model}))["box1"]
    assert told["id"] == 1
    assert told["size"] == pytest.approx([0.08, 0.06, 0.1])
    assert told["symmetries_discrete"] == [half_turn(2).flatten().tolist()]


# ------------------------------------------------------------------------------------------------------------ the node


VISION = ("Detection3D", "Detection3DArray", "ObjectHypothesisWithPose")


class Message:
    """A message whose fields come into being as they are used."""

    def __init__(self, *_, **fields):
        self.__dict__.update(fields)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        self.__dict__[name] = [] if name in ("results", "detections") else Message()
        return self.__dict__[name]


class Synchronizer:
    def __init__(self, subscribers, queue):
        pass

    def registerCallback(self, call):
        pass


class Node:
    def __init__(self, name):
        self.sent, self.said = {}, []

    def declare_parameter(self, name, default):
        return SimpleNamespace(value=self.given.get(name, default))

    def create_publisher(self, kind, topic, qos):
        return SimpleNamespace(publish=lambda message: self.sent.setdefault(topic, []).append(message))

    def get_logger(self):
        return SimpleNamespace(error=lambda text, **_: self.said.append(text))

    def destroy_node(self):
        pass


@pytest.fixture
def node(core, monkeypatch):
    Node.given = {"tf_prefix": "cell/"}
    sent = []
    fakes = {
        "rclpy": {}, "rclpy.node": {"Node": Node}, "message_filters": {"Subscriber": Message, "TimeSynchronizer": Synchronizer},
        "rclpy.qos": {"DurabilityPolicy": Message(), "QoSProfile": Message, "qos_profile_sensor_data": None},
        "geometry_msgs": {}, "geometry_msgs.msg": {"TransformStamped": Message},
        "sensor_msgs": {}, "sensor_msgs.msg": {"CameraInfo": Message, "Image": Message},
        "std_msgs": {}, "std_msgs.msg": {"String": Message},
        "tf2_ros": {"TransformBroadcaster": lambda node: SimpleNamespace(sendTransform=sent.extend)},
        "vision_msgs": {}, "vision_msgs.msg": dict.fromkeys(VISION, Message),
    }  # fmt: skip
    for name, content in fakes.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "monopose_ros.node", raising=False)
    from monopose_ros import node as module

    module.sent = sent
    return module


def test_the_node_publishes_what_its_core_says(node, pose, monkeypatch):
    found = SimpleNamespace(poses=poses_of(pose, torch.eye(6)))

    class Run:
        def __init__(self):
            self.models = {1: box((0.1, 0.06, 0.04))}

        def __call__(self, frame, min_probability):
            assert frame.camera.size == (48, 64)
            assert min_probability == 0.5
            return found

    monkeypatch.setattr(node.monopose, "load", lambda name, device, models: Run() if name == "demo" else None)
    made = node.MonoposeNode()
    latched = json.loads(made.sent["~/objects"][0].data)
    assert latched["box1"]["id"] == 1
    info = {**INFO, "width": 64, "height": 48, "k": [60.0, 0, 32, 0, 60, 24, 0, 0, 1]}
    info = Message(**{k: Message(**v) if isinstance(v, dict) else v for k, v in info.items()})
    image = Message(encoding="rgb8", height=48, width=64, step=192, data=bytes(192 * 48), header="stamp")
    made.look(image, info)
    (array,) = made.sent["~/detections"]
    assert array.header == "stamp"
    first, second = array.detections
    assert (first.id, second.id) == ("brick", "brick_2")
    assert first.results[0].hypothesis.class_id == "brick"
    assert first.results[0].pose.pose.position.z == pytest.approx(0.6)
    assert len(first.results[0].pose.covariance) == 36
    assert first.bbox.size.y == pytest.approx(0.06)
    assert [t.child_frame_id for t in node.sent] == ["cell/brick", "cell/brick_2"]
    quaternion = [getattr(node.sent[0].transform.rotation, name) for name in "xyzw"]
    np.testing.assert_allclose(Rotation.from_quat(quaternion).as_matrix(), pose[:3, :3], atol=1e-9)
    image.encoding = "yuv422"
    made.look(image, info)
    assert "are not read" in made.said[0]
    assert len(made.sent["~/detections"]) == 1


def test_the_launch_file_offers_every_parameter(node):
    text = (FOLDER / "launch" / "monopose.launch.py").read_text()
    assert all(f'"{name}": (' in text for name in node.PARAMETERS)
    assert "monopose = monopose_ros.node:main" in (FOLDER / "setup.py").read_text()
