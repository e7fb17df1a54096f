"""What KITTI and nuScenes have in common: pictures of roads with boxes in 3D, all in the camera's frame.

The convention of a box stands in `geometry/boxes3d.py`: centre, x forwards, y down, z left, sizes `lhw`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..io.images import read_image
from ..types import Camera, Frame, Rows, check_shape, moved


@dataclass(frozen=True)
class RoadObjects(Rows):
    """The boxes of one picture, true or estimated.

    Args:
        labels: index into the classes of the frame, (N,), int64.
        cam_from_obj: (N, 4, 4), metres; the frame of `geometry.boxes3d`.
        sizes: length, height, width, (N, 3), metres.
        boxes: in the picture, (N, 4), xyxy on pixel edges, or None.
        scores: (N,), or None for the truth.
        velocities: in the camera's axes, over ground, (N, 3), metres per second; NaN where unknown. None: of none.
        attributes: index into the attributes of the data set, (N,), int64; -1 where unknown. None: of none.
        truncation: share of the object beyond the picture, (N,), in [0, 1], or None.
        occlusion: 0 visible, 1 partly, 2 largely hidden, 3 unknown, (N,), int64, or None.
        points: LiDAR and radar points inside, (N,), int64; -1 where unknown. None: of none.
        visibility: share that all cameras together see, (N,), in [0, 1], or None.
    """

    labels: Tensor
    cam_from_obj: Tensor
    sizes: Tensor
    boxes: Tensor | None = None
    scores: Tensor | None = None
    velocities: Tensor | None = None
    attributes: Tensor | None = None
    truncation: Tensor | None = None
    occlusion: Tensor | None = None
    points: Tensor | None = None
    visibility: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_rows(labels=(), cam_from_obj=(4, 4), sizes=(3,), boxes=(4,), scores=(), velocities=(3,))
        self._check_rows(attributes=(), truncation=(), occlusion=(), points=(), visibility=())


def no_objects(dtype: torch.dtype = torch.float32) -> RoadObjects:
    """An empty set of boxes: what a picture without objects has."""
    return RoadObjects(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4, dtype=dtype), torch.zeros(0, 3, dtype=dtype))


@dataclass(frozen=True)
class RoadFrame:
    """One picture of a road and what is known about it; the pixels stay on the disk until `read` fetches them.

    Args:
        path: of the picture, "" if from memory.
        camera: its camera, float64; the size is that of the picture.
        classes: the names that the labels of the objects mean.
        objects: the true boxes, or None where there is no truth.
        ignored: regions of which nobody knows what is in them, (M, 4), xyxy on pixel edges.
        name: what the data set calls the picture: "000008", or a sample_data token.
        sample: what the data set calls the moment that several cameras share; "" if there is one camera.
        channel: which camera: "CAM_FRONT"; "" if there is one.
        ego_from_cam: the camera on the vehicle, (4, 4), float64, z up, or None.
        global_from_ego: the vehicle in the map when the picture was taken, (4, 4), float64, z up, or None.
        timestamp: seconds, or None.
        lidar: file of the moment's LiDAR sweep, "" if there is none.
        cam_from_lidar: (4, 4), float64, or None.
    """

    path: str
    camera: Camera
    classes: tuple[str, ...]
    objects: RoadObjects | None
    ignored: Tensor
    name: str
    sample: str = ""
    channel: str = ""
    ego_from_cam: Tensor | None = None
    global_from_ego: Tensor | None = None
    timestamp: float | None = None
    lidar: str = ""
    cam_from_lidar: Tensor | None = None

    def __post_init__(self) -> None:
        check_shape(self.ignored, "RoadFrame.ignored", None, 4)
        check_shape(self.ego_from_cam, "RoadFrame.ego_from_cam", 4, 4)
        check_shape(self.global_from_ego, "RoadFrame.global_from_ego", 4, 4)

    @property
    def global_from_cam(self) -> Tensor:
        """The camera in the map, (4, 4), float64.

        Raises:
            ValueError: the data set does not say where the camera or the vehicle was.
        """
        if self.ego_from_cam is None or self.global_from_ego is None:
            raise ValueError(f"{self.name or self.path}: where the camera was is unknown; global boxes need nuScenes-like data")
        return self.global_from_ego @ self.ego_from_cam

    def read(self) -> Frame:
        """The picture with its camera, float32, without instances."""
        return Frame(read_image(self.path), self.camera.to(torch.float32), path=self.path)

    def to(self, *args: Any, **kwargs: Any) -> RoadFrame:
        return moved(self, *args, **kwargs)


CLASSES = (
    "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier",
)  # fmt: skip
SIZES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "car": ((4.62, 1.73, 1.96), (0.46, 0.24, 0.16)),
    "truck": ((6.94, 2.84, 2.52), (2.11, 0.84, 0.45)),
    "trailer": ((12.56, 3.89, 2.94), (4.50, 0.77, 0.54)),
    "bus": ((11.22, 3.50, 2.95), (2.06, 0.49, 0.33)),
    "construction_vehicle": ((6.68, 3.21, 2.85), (3.23, 0.93, 1.07)),
    "bicycle": ((1.70, 1.29, 0.61), (0.26, 0.35, 0.16)),
    "motorcycle": ((2.11, 1.46, 0.78), (0.33, 0.29, 0.17)),
    "pedestrian": ((0.73, 1.77, 0.67), (0.19, 0.19, 0.14)),
    "traffic_cone": ((0.41, 1.08, 0.41), (0.14, 0.27, 0.13)),
    "barrier": ((0.50, 0.99, 2.52), (0.17, 0.15, 0.62)),
}

ATTRIBUTES = (
    "cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down",
    "vehicle.moving", "vehicle.parked", "vehicle.stopped",
)  # fmt: skip
ATTRIBUTES_OF = {  # class -> the attributes it can have
    **dict.fromkeys(CLASSES[:5], (5, 6, 7)),
    "bicycle": (0, 1),
    "motorcycle": (0, 1),
    "pedestrian": (2, 3, 4),
    "traffic_cone": (),
    "barrier": (),
}
