"""Small objects made in code, for tests that need a CAD model but no file."""

import math

import torch

from monopose.types import ObjectModel, Symmetries


def box(size=(0.08, 0.06, 0.1), centre=(0.0, 0.0, 0.0), obj_id=1, symmetries=None, cells=1) -> ObjectModel:
    """An axis-aligned box, metres, whose sides are `cells` x `cells` squares and whose colour tells the place.

    Every side has vertices of its own, so that normals are those of the sides.
    """
    steps = torch.linspace(-1, 1, cells + 1)
    a, b = (x.flatten() for x in torch.meshgrid(steps, steps, indexing="ij"))
    i = (torch.arange(cells)[:, None] * (cells + 1) + torch.arange(cells)).flatten()
    quads = torch.stack([i, i + cells + 1, i + cells + 2, i + 1], -1)
    triangles = torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    vertices, faces, normals = [], [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            side = torch.empty(len(a), 3)
            side[:, axis], side[:, (axis + 1) % 3], side[:, (axis + 2) % 3] = sign, a * sign, b
            faces.append(triangles + len(vertices) * len(a))
            vertices.append(side)
            normals.append(torch.zeros_like(side).index_fill(1, torch.tensor([axis]), sign))
    unit = torch.cat(vertices)
    points = unit * torch.tensor(size) / 2 + torch.tensor(centre)
    return ObjectModel(
        obj_id, f"box{obj_id}", points, torch.cat(faces), torch.cat(normals), math.dist((0, 0, 0), size),
        colors=(unit + 1) / 2, symmetries=symmetries or Symmetries(),
    )  # fmt: skip


def half_turn(axis: int, through=(0.0, 0.0, 0.0)) -> torch.Tensor:
    """obj_from_obj of a turn by 180 degrees about a coordinate axis through a point, (4, 4)."""
    turn = torch.eye(4)
    for k in range(3):
        if k != axis:
            turn[k, k] = -1.0
            turn[k, 3] = 2 * through[k]
    return turn


def seen_on_box(pixels, cam_from_obj, K, size, centre=(0.0, 0.0, 0.0)):
    """Which point of a box a pixel sees, in closed form (slabs), float64.

    Args:
        pixels: (..., 2), pixel centres at integers.
        cam_from_obj: (4, 4).
        K: (3, 3).
        size, centre: of the box, metres.

    Returns:
        points in the object frame, (..., 3), metres; hit, (...,), bool.
    """
    pose, K = cam_from_obj.double(), K.double()
    rays = torch.cat([pixels.double(), torch.ones_like(pixels[..., :1]).double()], -1) @ torch.linalg.inv(K).T
    R, t = pose[:3, :3], pose[:3, 3]
    origin, direction = -R.T @ t, rays @ R  # of the rays, object frame
    low = torch.tensor(centre).double() - torch.tensor(size).double() / 2
    high = torch.tensor(centre).double() + torch.tensor(size).double() / 2
    first, second = (low - origin) / direction, (high - origin) / direction
    near, far = torch.minimum(first, second).amax(-1), torch.maximum(first, second).amin(-1)
    return origin + near[..., None] * direction, (near < far) & (near > 0)
