"""What KITTI and nuScenes have in common: pictures of roads with boxes in 3D, all in the camera's frame.

The convention of a box stands in `geometry/boxes3d.py`: centre, x forwards, y down, z left, sizes `lhw`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..io.images import read_image
from ..types import Camera, Frame, _check, _moved, _Rows


@dataclass(frozen=True)
class RoadObjects(_Rows):
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

    def __post_init__(self) -> None:
        self._check_rows(labels=(), cam_from_obj=(4, 4), sizes=(3,), boxes=(4,), scores=(), velocities=(3,))
        self._check_rows(attributes=(), truncation=(), occlusion=(), points=())


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

    def __post_init__(self) -> None:
        _check(self.ignored, "RoadFrame.ignored", None, 4)
        _check(self.ego_from_cam, "RoadFrame.ego_from_cam", 4, 4)
        _check(self.global_from_ego, "RoadFrame.global_from_ego", 4, 4)

    @property
    def global_from_cam(self) -> Tensor:
        """The camera in the map, (4, 4), float64.

        Raises:
            ValueError: the data set does not say where the camera or the vehicle was.
        """
        if self.ego_from_cam is None or self.global_from_ego is None:
            raise ValueError(
                f"{self.name or self.path}: nobody said where the camera was; global boxes need nuScenes-like data"
            )
        return self.global_from_ego @ self.ego_from_cam

    def read(self) -> Frame:
        """The picture with its camera, float32, without instances."""
        return Frame(read_image(self.path), self.camera.to(torch.float32), path=self.path)

    def to(self, *args: Any, **kwargs: Any) -> RoadFrame:
        return _moved(self, *args, **kwargs)
