"""Oriented 3D boxes in any pose: corners, exact intersection volume, intersection over union.

A box is `cam_from_box`, a rigid motion (..., 4, 4), metres, whose origin is the box's centre, and `size`, the lengths of its
sides along its own x, y and z, (..., 3), metres.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import se3

CHUNK = 4096  # pairs clipped at once: about 60 MB
TOUCHING = 1e-8  # share of the box's size within which a point counts as lying on a plane


def corners(cam_from_box: Tensor, size: Tensor) -> Tensor:
    """The eight corners. (..., 4, 4), (..., 3) -> (..., 8, 3), metres; bit k of the index picks the far end of axis k."""
    bits = torch.tensor([[i >> k & 1 for k in range(3)] for i in range(8)], dtype=size.dtype, device=size.device)
    return se3.transform(cam_from_box, (bits - 0.5) * size[..., None, :])


def intersection(a: Tensor, size_a: Tensor, b: Tensor, size_b: Tensor) -> Tensor:
    """Volume that pairs of boxes share.

    The faces of each box are clipped by the planes of the other. What is left of both bounds the intersection, whose volume
    is a third of the sum of face area times distance from the origin (divergence theorem). A face that lies in a face of the
    other box is counted once.

    Args:
        a, b: cam_from_box, (..., 4, 4), metres; leading dimensions broadcast.
        size_a, size_b: (..., 3), metres, >= 0.

    Returns:
        (...,), cubic metres, >= 0, float64. Exact up to rounding, about 1e-7 of the larger volume.

    Source: Sutherland and Hodgman, Reentrant polygon clipping (1974).
    """
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2], size_a.shape[:-1], size_b.shape[:-1])
    a, b = (x.double().expand(*batch, 4, 4).reshape(-1, 4, 4) for x in (a, b))
    size_a, size_b = (x.double().expand(*batch, 3).reshape(-1, 3) for x in (size_a, size_b))
    # whole numbers of order one, whatever the unit and however far the camera
    unit = torch.maximum(size_a.amax(-1), size_b.amax(-1)).clamp_min(1e-300)
    b_from_a = torch.cat([b[:, :3, :3].mT @ a[:, :3, :3], b[:, :3, :3].mT @ (a[:, :3, 3:] - b[:, :3, 3:])], -1)
    volumes = [
        _volume(m[:, :, :3], m[:, :, 3] / u[:, None], ha / u[:, None] / 2, hb / u[:, None] / 2) * u**3
        for m, ha, hb, u in zip(*(x.split(CHUNK) for x in (b_from_a, size_a, size_b, unit)), strict=True)
    ]
    return torch.cat(volumes).reshape(batch) if volumes else a.new_zeros(batch)


def iou(a: Tensor, size_a: Tensor, b: Tensor, size_b: Tensor) -> Tensor:
    """Intersection over union of pairs of boxes, in [0, 1], float64; 0 where a box is flat. Arguments as `intersection`."""
    inter = intersection(a, size_a, b, size_b)
    volume_a, volume_b = size_a.double().prod(-1), size_b.double().prod(-1)
    inter = torch.minimum(inter, torch.minimum(volume_a, volume_b))
    union = volume_a + volume_b - inter
    flat = torch.minimum(volume_a, volume_b) <= 0
    return torch.where(flat, torch.zeros_like(inter), inter / union.clamp_min(1e-300)).clamp(0, 1)


def _volume(R: Tensor, t: Tensor, half_a: Tensor, half_b: Tensor) -> Tensor:
    """Shared volume of box b, upright at the origin, and box a, moved by (R, t). (n, 3, 3), (n, 3) x 3 -> (n,)."""
    eye = torch.eye(3, dtype=R.dtype, device=R.device).expand_as(R)
    zero = torch.zeros_like(t)
    of_a = _clipped(_faces(R, t, half_a), _planes(eye, zero, half_b), _planes(R, t, half_a)[0], keep_touching=True)
    of_b = _clipped(_faces(eye, zero, half_b), _planes(R, t, half_a), _planes(eye, zero, half_b)[0], keep_touching=False)
    return ((of_a + of_b) / 3).clamp_min(0)


def _planes(R: Tensor, t: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Outward normals (n, 6, 3) and offsets (n, 6) of a box's planes: inside is normal . x <= offset."""
    normals = torch.stack([R.mT, -R.mT], -2).flatten(1, 2)  # +x -x +y -y +z -z
    middle = (normals * t[:, None]).sum(-1)
    return normals, middle + half.repeat_interleave(2, -1)


def _faces(R: Tensor, t: Tensor, half: Tensor) -> Tensor:
    """The six faces of a box, in the order of `_planes`, counter-clockwise from outside, (n, 6, 4, 3)."""
    faces = []
    for axis in range(3):
        for sign in (1.0, -1.0):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            signs = R.new_zeros(4, 3)
            signs[:, axis] = sign
            signs[:, u] = R.new_tensor([-1.0, 1, 1, -1])
            signs[:, v] = sign * R.new_tensor([-1.0, -1, 1, 1])
            faces.append(signs)
    local = torch.stack(faces) * half[:, None, None]
    return (local.flatten(1, 2) @ R.mT + t[:, None]).unflatten(1, (6, 4))


def _clipped(faces: Tensor, planes: tuple[Tensor, Tensor], normals: Tensor, keep_touching: bool) -> Tensor:
    """Sum over faces of (distance from the origin) x (area left after the cuts).

    Args:
        faces: (n, 6, 4, 3).
        planes: of the other box, normals (n, 6, 3) and offsets (n, 6).
        normals: outward normals of the faces, (n, 6, 3).
        keep_touching: whether a face in a plane that looks the same way stays. One of the two boxes must say yes and the
            other no. A face in a plane that looks the other way always stays: the two cancel.

    Returns:
        (n,).
    """
    n = len(faces)
    polygon = faces.reshape(n * 6, 4, 3)
    for k in range(6):
        normal = planes[0][:, None, k].expand(n, 6, 3).reshape(-1, 3)
        same_way = (normal * normals.reshape(-1, 3)).sum(-1) > 0
        slack = torch.where(same_way & (not keep_touching), -TOUCHING, TOUCHING)
        offset = planes[1][:, None, k].expand(n, 6).reshape(-1) + slack
        polygon = _cut(polygon, (polygon * normal[:, None]).sum(-1) - offset[:, None])
    first = polygon[:, :1]
    spokes = polygon[:, 1:] - first
    area = torch.linalg.cross(spokes[:, :-1], spokes[:, 1:], dim=-1).sum(1) / 2  # times the normal
    return (area * first[:, 0]).sum(-1).view(n, 6).sum(-1)


def _cut(polygon: Tensor, distance: Tensor) -> Tensor:
    """The part of convex polygons where the distance from a plane is <= 0.

    Args:
        polygon: corners in order, (m, p, 3); repeated corners are allowed and make an empty polygon a point.
        distance: of the corners, (m, p).

    Returns:
        (m, p + 1, 3), filled up with its first corner; only the origin, repeated, where nothing is left.
    """
    after, beyond = polygon.roll(-1, 1), distance.roll(-1, 1)
    inside = distance <= 0
    crosses = inside != (beyond <= 0)
    share = torch.where(crosses, distance / torch.where(crosses, distance - beyond, 1.0), 0.0)
    crossing = polygon + share[..., None] * (after - polygon)
    found = torch.stack([polygon, crossing], 2).flatten(1, 2)
    keep = torch.stack([inside, crosses], 2).flatten(1, 2)
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, : polygon.shape[1] + 1]
    kept = keep.gather(1, order)
    found = found.gather(1, order[..., None].expand(-1, -1, 3))
    first = found[:, :1] * kept[:, :1, None]
    return torch.where(kept[..., None], found, first)
