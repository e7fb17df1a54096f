"""A box before a backdrop, for tests of what follows it."""

import math

import numpy as np
import torch

from monopose.contour import lines
from monopose.geometry import se3
from monopose.render.scene import render_scene
from monopose.types import Camera, Frame

SIZE = (240, 320)
K = torch.tensor([[400.0, 0.0, 159.5], [0.0, 400.0, 119.5], [0.0, 0.0, 1.0]])
VIEWS = 300  # directions of contours; fewer than the tracker's own, to be quick


def pose(x=0.0, y=0.0, z=0.5, turn=(0.4, 0.6, 0.2)):
    return se3.from_rt(se3.exp(torch.tensor([0.0, 0, 0, *turn]))[:3, :3], torch.tensor([x, y, z]))


def frame(models, poses, backdrop):
    image = render_scene(models, torch.stack(poses), K, SIZE, background=backdrop).image if models else backdrop
    return Frame(image, Camera(K, SIZE))


def apart(track, true):
    delta = lines.difference(track.cam_from_obj.double().numpy()[None], true.double().numpy()[None])[0]
    return np.linalg.norm(delta[:3]), math.degrees(np.linalg.norm(delta[3:]))


def wander(i):
    return pose(0.05 * math.sin(0.2 * i), 0.03 * math.sin(0.13 * i), 0.5 + 0.08 * math.sin(0.1 * i), (0.4 + 0.05 * i, 0.6, 0.2))
