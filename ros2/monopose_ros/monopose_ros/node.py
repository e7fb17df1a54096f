"""The node `monopose`: see docs/ros.md for its topics and parameters."""

from __future__ import annotations

from typing import Any

import message_filters
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from tf2_ros import TransformBroadcaster
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

import monopose
from monopose.tracking import background
from monopose.tracking.tracker import Tracker
from monopose_ros import core

PARAMETERS: dict[str, Any] = {  # name -> default
    "model": "demo",  # run folder, bundled name, or org/name of the Hugging Face hub
    "models": "",  # folder with the CAD models, for a run that comes without
    "device": "",  # cpu, cuda; "": the GPU if there is one
    "min_probability": 0.5,  # of what is published
    "rectified": False,  # pictures are rectified: P of CameraInfo holds, no distortion
    "track": False,  # follow objects between looks of the detector
    "cache": "",  # folder for the tracker's contours
    "tf": True,  # publish a transform per object
    "tf_prefix": "",  # before the names of child frames
}


class MonoposeNode(Node):
    """Pictures and CameraInfo in, Detection3DArray and tf out; one picture at a time, those that come meanwhile are dropped."""

    def __init__(self) -> None:
        super().__init__("monopose")
        given = {name: self.declare_parameter(name, default).value for name, default in PARAMETERS.items()}
        self.given = given
        self.run = monopose.load(given["model"], given["device"] or None, models=given["models"] or None)
        self.tracker = None
        if given["track"]:
            look = lambda frame: self.run.trusted(self.run.predict(frame), frame, given["min_probability"])  # noqa: E731
            self.tracker = Tracker(list(self.run.models.values()), background.Background(look), given["cache"] or None)
        self.found = self.create_publisher(Detection3DArray, "~/detections", 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.objects = self.create_publisher(String, "~/objects", latched)
        self.objects.publish(String(data=core.objects(self.run.models)))
        self.transforms = TransformBroadcaster(self) if given["tf"] else None
        image = message_filters.Subscriber(self, Image, "image", qos_profile=qos_profile_sensor_data)
        info = message_filters.Subscriber(self, CameraInfo, "camera_info", qos_profile=qos_profile_sensor_data)
        self.both = message_filters.TimeSynchronizer([image, info], 1)
        self.both.registerCallback(self.look)

    def look(self, image: Image, info: CameraInfo) -> None:
        """Estimate and publish; what cannot be read is said at most once in five seconds, and the node goes on."""
        try:
            pixels = core.picture(image.encoding, image.height, image.width, image.step, image.data)
            frame = core.frame_of(pixels, fields_of(info), self.given["rectified"])
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        if self.tracker is not None:
            poses = self.tracker.step(frame)
        else:
            poses = self.run(frame, min_probability=self.given["min_probability"]).poses
        found = core.detections(poses, self.run.models)
        self.found.publish(message_of(found, image.header))
        if self.transforms is not None:
            self.transforms.sendTransform([transform_of(d, image.header, self.given["tf_prefix"]) for d in found])

    def destroy_node(self) -> None:
        if self.tracker is not None:
            self.tracker.close()
        super().destroy_node()


def fields_of(info: CameraInfo) -> dict[str, Any]:
    """The fields of a CameraInfo by name, as `core.camera` takes them."""
    roi = {name: getattr(info.roi, name) for name in ("x_offset", "y_offset", "width", "height", "do_rectify")}
    names = ("width", "height", "distortion_model", "k", "d", "p", "binning_x", "binning_y")
    return {name: getattr(info, name) for name in names} | {"roi": roi}


def message_of(found: list[core.Detection], header: Any) -> Detection3DArray:
    message = Detection3DArray(header=header)
    for one in found:
        detection, hypothesis = Detection3D(header=header, id=one.frame), ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = one.name, one.score
        hypothesis.pose.covariance = one.covariance
        detection.results.append(hypothesis)
        for pose, place in ((hypothesis.pose.pose, one.position), (detection.bbox.center, one.center)):
            _set(pose.position, "xyz", place)
            _set(pose.orientation, "xyzw", one.orientation)
        _set(detection.bbox.size, "xyz", one.size)
        message.detections.append(detection)
    return message


def transform_of(one: core.Detection, header: Any, prefix: str) -> TransformStamped:
    message = TransformStamped(header=header, child_frame_id=prefix + one.frame)
    _set(message.transform.translation, "xyz", one.position)
    _set(message.transform.rotation, "xyzw", one.orientation)
    return message


def _set(target: Any, names: str, values: list[float]) -> None:
    for name, value in zip(names, values):
        setattr(target, name, value)


def main() -> None:
    rclpy.init()
    node = MonoposeNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
