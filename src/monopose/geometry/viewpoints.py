"""Directions on the view sphere and the poses that look from them."""

import math

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
