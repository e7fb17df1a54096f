"""Directions on the view sphere, the poses that look from them, and their angles: azimuth, elevation, in-plane rotation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def fibonacci_sphere(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Nearly uniform unit directions, (n, 3). Source: the golden-angle spiral."""
    i = torch.arange(n, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / n
    phi = i * (math.pi * (3 - math.sqrt(5)))
    r = (1 - z * z).clamp_min(0).sqrt()
    return torch.stack([r * phi.cos(), r * phi.sin(), z], -1).to(dtype)


def look_at(directions: Tensor, inplane: Tensor | float = 0.0) -> Tensor:
    """cam_from_obj rotations of a camera that stands in `directions` and looks at the object's origin, +Z up.

    Args:
        directions: unit vectors from the object to the camera, (..., 3), object frame.
        inplane: rotation about the optical axis, (...,) or number, radians, positive clockwise in the image.

    Returns:
        (..., 3, 3). Straight above and below, +Y takes the place of up.
    """
    forward = -directions
    up = torch.zeros_like(directions)
    pole = directions[..., 2].abs() > 1 - 1e-6
    up[..., 2] = torch.where(pole, 0.0, 1.0)
    up[..., 1] = torch.where(pole, 1.0, 0.0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    R = torch.stack([right, down, forward], -2)
    angle = torch.as_tensor(inplane, dtype=directions.dtype, device=directions.device)
    c, s = angle.cos().expand(directions.shape[:-1]), angle.sin().expand(directions.shape[:-1])
    o, one = torch.zeros_like(c), torch.ones_like(c)
    turn = torch.stack([c, -s, o, s, c, o, o, o, one], -1).unflatten(-1, (3, 3))
    return turn @ R


def direction_of(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Where the camera stands, seen from the object. (...,), (...,) radians -> unit vectors (..., 3), object frame.

    The object stands with +Z up and its front towards -Y. Azimuth 0 is in front of it and grows clockwise as seen from above,
    so at 90 degrees the camera has gone to the side that is on its left when it faces the front; elevation grows upwards.
    """
    flat = elevation.cos()
    return torch.stack([-azimuth.sin() * flat, -azimuth.cos() * flat, elevation.sin()], -1)


def rotation_of(angles: Tensor) -> Tensor:
    """cam_from_obj rotations of a camera that looks at the object. (..., 3), azimuth, elevation, in-plane -> (..., 3, 3).

    Args:
        angles: radians, see `direction_of`; in-plane positive where the object is turned clockwise in the image.
    """
    azimuth, elevation, inplane = angles.unbind(-1)
    front = angles.new_tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return _turn(inplane, 2) @ _turn(elevation, 0) @ front @ _turn(azimuth, 2)


def _turn(angle: Tensor, axis: int) -> Tensor:
    """Rotations about one axis. (...) radians -> (..., 3, 3)."""
    c, s, o, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [one, o, o, o, c, -s, o, s, c] if axis == 0 else [c, -s, o, s, c, o, o, o, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def angles_of(R: Tensor) -> Tensor:
    """Inverse of `rotation_of`. (..., 3, 3) -> (..., 3), radians: azimuth in [0, 2 pi), elevation, in-plane in [-pi, pi].

    Straight above and below, where azimuth and in-plane rotation are the same motion, the azimuth is 0.
    """
    x, y, z = (-R[..., 2, :]).unbind(-1)  # the camera looks along the third row
    flat = (x * x + y * y).sqrt()
    elevation = torch.atan2(z, flat)
    azimuth = torch.remainder(torch.where(flat > 0, torch.atan2(-x, -y), 0.0), 2 * math.pi)
    azimuth = torch.where(azimuth >= 2 * math.pi, 0.0, azimuth)  # a tiny negative angle rounds up
    upright = rotation_of(torch.stack([azimuth, elevation, torch.zeros_like(azimuth)], -1))
    left = R @ upright.mT  # the turn about the optical axis
    return torch.stack([azimuth, elevation, torch.atan2(left[..., 1, 0], left[..., 0, 0])], -1)


def mirrored(angles: Tensor) -> Tensor:
    """Angles in the picture flipped left to right, of an object that is its own mirror image in X. (..., 3) -> (..., 3)."""
    return wrapped(angles * angles.new_tensor([-1.0, 1.0, -1.0]))


def turned(angles: Tensor, clockwise: Tensor | float) -> Tensor:
    """Angles in the picture turned clockwise about the object's centre by `clockwise` radians. (..., 3) -> (..., 3)."""
    return wrapped(torch.cat([angles[..., :2], (angles[..., 2] + clockwise)[..., None]], -1))


def wrapped(angles: Tensor) -> Tensor:
    """Azimuth to [0, 2 pi), in-plane rotation to [-pi, pi). (..., 3) -> (..., 3)."""
    azimuth = torch.remainder(angles[..., 0], 2 * math.pi)
    azimuth = torch.where(azimuth >= 2 * math.pi, 0.0, azimuth)
    inplane = torch.remainder(angles[..., 2] + math.pi, 2 * math.pi) - math.pi
    return torch.stack([azimuth, angles[..., 1], inplane], -1)


@dataclass(frozen=True)
class Bins:
    """Equal bins along one angle.

    A circle's bins wrap around; others end: angles beyond them fall into the outermost.
    """

    start: float  # lower edge of bin 0, radians
    width: float  # radians
    count: int = 8
    circle: bool = True
    right: bool = False  # an angle on an edge belongs to the bin below it, as numpy.digitize(right=True) has it

    def index(self, angle: Tensor) -> Tensor:
        """The bin of each angle. (...) radians -> (...) int64."""
        place = (angle - self.start) / self.width
        below = place.ceil() - 1 if self.right else place.floor()
        return (below.remainder(self.count) if self.circle else below.clamp(0, self.count - 1)).long()

    def centre(self, index: Tensor) -> Tensor:
        """Middle of each bin. (...) -> (...), radians."""
        return self.start + (index + 0.5) * self.width

    def offset(self, angle: Tensor, index: Tensor) -> Tensor:
        """How far an angle lies from the middle of a bin, the short way round, in bin widths. (...), (...) -> (...)."""
        turns = (angle - self.centre(index)) / self.width
        if not self.circle:
            return turns
        return torch.remainder(turns + self.count / 2, self.count) - self.count / 2

    def angle(self, index: Tensor, offset: Tensor) -> Tensor:
        """Inverse of `offset`. (...), (...) -> (...), radians, not wrapped."""
        return self.centre(index) + offset * self.width


PUBLISHED = (
    Bins(0.0, math.pi / 4, circle=False, right=True),
    Bins(0.0, math.pi / 4, circle=False, right=True),
    Bins(-math.pi, math.pi / 4, circle=False, right=True),
)
"""Azimuth, elevation and in-plane rotation as the original system bins them: an edge lies at azimuth 0, the most frequent
direction, and all but a few elevations share a bin."""

CENTRED = (
    Bins(-math.pi / 8, math.pi / 4),
    Bins(math.radians(-10), math.radians(10), circle=False),
    Bins(-math.pi / 8, math.pi / 4),
)
"""Bins around azimuth 0, 45, ... degrees and in-plane rotation 0, 45, ...; elevation from -10 to 70 degrees."""
