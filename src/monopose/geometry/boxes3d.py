"""Boxes in 3D: a pose and a size. The one convention of the project, and the ways in and out of it.

The object frame has its origin in the middle of the box, x forwards, y down, z to the object's left. The size is `lhw`:
length, height, width, which are the extents along x, y and z, in metres. A box that stands level before a level camera has
`cam_from_obj = from_yaw(centre, yaw)`: KITTI's `ry`, the angle that `pnp.solve(dof=4)` looks for. In a frame whose z points
up (an ego vehicle, a map) the same box has the same object frame; only the pose differs.

Seen from above (`bev`), a box is (a, b, length, width, angle): its centre in the two level axes of the frame, and the angle
of its front from the first of them towards the second. Overlaps are of level boxes: any turn around the vertical is exact,
a tilt is left out, as in the protocols of KITTI and nuScenes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import boxes, camera, se3
from .rotation import full_precision

CAMERA_GROUND = (0, 2)  # the level axes of a camera frame, y down
EGO_GROUND = (0, 1)  # the level axes of a frame with z up

EDGES = tuple((i, i | 1 << k) for k in range(3) for i in range(8) if not i >> k & 1)
"""The twelve edges of a box as pairs of `corners`."""


# ------------------------------------------------------------------------------------------------- poses, angles, sizes


def from_yaw(centre: Tensor, yaw: Tensor) -> Tensor:
    """The pose of a level box in a frame with y down.

    Args:
        centre: middle of the box, (..., 3), metres.
        yaw: turn around y, (...,), radians; 0 faces along x, pi / 2 along -z.

    Returns:
        frame_from_obj, (..., 4, 4).
    """
    c, s, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    R = torch.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).unflatten(-1, (3, 3))
    return se3.from_rt(R, centre)


def yaw_of(frame_from_obj: Tensor) -> Tensor:
    """The turn around y of a pose in a frame with y down, where its front points. (..., 4, 4) -> (...,), in (-pi, pi]."""
    return torch.atan2(-frame_from_obj[..., 2, 0], frame_from_obj[..., 0, 0])


def wrapped(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi). (...,), radians."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def alpha_from_yaw(yaw: Tensor, centre: Tensor) -> Tensor:
    """The observation angle: the yaw relative to the ray to the object. Equal looks have equal alphas.

    Args:
        yaw: (...,), radians.
        centre: of the box, camera frame, (..., 3), metres; only x and z count.

    Returns:
        (...,), radians, in [-pi, pi).

    Source: KITTI's object development kit: alpha = ry - atan2(x, z).
    """
    return wrapped(yaw - torch.atan2(centre[..., 0], centre[..., 2]))


def yaw_from_alpha(alpha: Tensor, centre: Tensor) -> Tensor:
    """Inverse of `alpha_from_yaw`. (...,), (..., 3) -> (...,), radians, in [-pi, pi)."""
    return wrapped(alpha + torch.atan2(centre[..., 0], centre[..., 2]))


def centre_from_bottom(bottom: Tensor, lhw: Tensor) -> Tensor:
    """The middle of a level box from the middle of its bottom face, in a frame with y down. (..., 3), (..., 3) -> (..., 3)."""
    return torch.stack([bottom[..., 0], bottom[..., 1] - lhw[..., 1] / 2, bottom[..., 2]], -1)


def bottom_from_centre(centre: Tensor, lhw: Tensor) -> Tensor:
    """Inverse of `centre_from_bottom`. (..., 3), (..., 3) -> (..., 3), metres."""
    return torch.stack([centre[..., 0], centre[..., 1] + lhw[..., 1] / 2, centre[..., 2]], -1)


def lhw_from_hwl(hwl: Tensor) -> Tensor:
    """Sizes in KITTI's order to ours. (..., 3) -> (..., 3)."""
    return hwl[..., [2, 0, 1]]


def hwl_from_lhw(lhw: Tensor) -> Tensor:
    """Our sizes in KITTI's order. (..., 3) -> (..., 3)."""
    return lhw[..., [1, 2, 0]]


def lhw_from_wlh(wlh: Tensor) -> Tensor:
    """Sizes in the order of nuScenes' tables and results to ours. (..., 3) -> (..., 3)."""
    return wlh[..., [1, 2, 0]]


def wlh_from_lhw(lhw: Tensor) -> Tensor:
    """Our sizes in the order of nuScenes' tables and results. (..., 3) -> (..., 3)."""
    return lhw[..., [2, 0, 1]]


def lhw_from_lwh(lwh: Tensor) -> Tensor:
    """Sizes in the order of boxes in a LiDAR frame to ours, and back: it is its own inverse. (..., 3) -> (..., 3)."""
    return lwh[..., [0, 2, 1]]


def corners(frame_from_obj: Tensor, lhw: Tensor) -> Tensor:
    """The eight corners of a box.

    Args:
        frame_from_obj: (..., 4, 4), metres.
        lhw: (..., 3), metres.

    Returns:
        (..., 8, 3), metres, in the frame; bit k of the index picks the positive side of the object's axis k, so that
        1 is at the front, 2 at the bottom, 4 on the left.
    """
    signs = [[(i >> k & 1) * 2.0 - 1 for k in range(3)] for i in range(8)]
    return se3.transform(frame_from_obj, lhw[..., None, :] / 2 * lhw.new_tensor(signs))


# ------------------------------------------------------------------------------------------------------------- overlaps


def bev(frame_from_obj: Tensor, lhw: Tensor, ground: tuple[int, int] = CAMERA_GROUND) -> Tensor:
    """Boxes seen from above.

    Args:
        frame_from_obj: (..., 4, 4), metres.
        lhw: (..., 3), metres.
        ground: the level axes of the frame, `CAMERA_GROUND` or `EGO_GROUND`.

    Returns:
        (..., 5): centre along the first and second level axis, length, width, all metres; angle of the front from the first
        level axis towards the second, radians, in (-pi, pi]. In a camera frame it is minus the yaw.
    """
    first, second = ground
    angle = torch.atan2(frame_from_obj[..., second, 0], frame_from_obj[..., first, 0])
    centre = frame_from_obj[..., ground, 3]
    return torch.cat([centre, lhw[..., 0::2], angle[..., None]], -1)


def bev_intersection(a: Tensor, b: Tensor) -> Tensor:
    """The area that two rectangles share, exact for every pair of angles.

    Rectangle a is moved into the frame of b, where b is upright. The outline of a is cut where it meets the four lines of
    b, and every point of it is clamped into b: what lies outside becomes a path on b's edges that encloses nothing, so the
    outline's area is that of the intersection. Nothing is sorted by angle, and nothing special happens where edges coincide.

    Args:
        a, b: (..., 5) from `bev`, broadcast against each other.

    Returns:
        (...,), square metres; 0 for rectangles that only touch.

    Source: the clamp keeps every point inside b and moves the others out of b's inside, so winding numbers inside stay.
    """
    a, b = torch.broadcast_tensors(a, b)
    shift, turn = a[..., :2] - b[..., :2], a[..., 4] - b[..., 4]
    c, s = b[..., 4].cos(), b[..., 4].sin()
    middle = torch.stack([c * shift[..., 0] + s * shift[..., 1], c * shift[..., 1] - s * shift[..., 0]], -1)
    c, s = turn.cos(), turn.sin()
    ahead = torch.stack([c, s], -1) * a[..., 2:3] / 2
    aside = torch.stack([-s, c], -1) * a[..., 3:4] / 2
    outline = middle[..., None, :] + torch.stack([ahead + aside, aside - ahead, -ahead - aside, ahead - aside], -2)
    along = outline.roll(-1, -2) - outline  # (..., 4, 2)

    half = b[..., None, 2:4] / 2
    still = along == 0
    step = torch.where(still, torch.ones_like(along), along)
    meets = torch.cat([(half - outline) / step, (-half - outline) / step], -1)  # (..., 4 edges, 4 lines)
    meets = torch.where(torch.cat([still, still], -1), torch.zeros_like(meets), meets.clamp(0, 1)).sort(-1).values
    points = torch.cat([outline[..., None, :], outline[..., None, :] + meets[..., None] * along[..., None, :]], -2)
    x, y = torch.maximum(torch.minimum(points, half[..., None, :]), -half[..., None, :]).flatten(-3, -2).unbind(-1)
    area = (x * y.roll(-1, -1) - x.roll(-1, -1) * y).sum(-1) / 2
    return torch.minimum(area.clamp_min(0), torch.minimum(_area(a), _area(b)))


def _area(bev: Tensor) -> Tensor:
    return bev[..., 2] * bev[..., 3]


def _ratio(shared: Tensor, a: Tensor, b: Tensor) -> Tensor:
    union = a + b - shared
    return torch.where(union > 0, shared / torch.where(union > 0, union, torch.ones_like(union)), torch.zeros_like(shared))


def bev_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of rectangles seen from above.

    (..., 5), (..., 5) from `bev`, broadcast -> (...,); 0 where both are empty. Of all pairs: `bev_iou(a[:, None], b[None])`.
    """
    return _ratio(bev_intersection(a, b), _area(a), _area(b))


def iou(
    frame_from_a: Tensor, lhw_a: Tensor, frame_from_b: Tensor, lhw_b: Tensor, ground: tuple[int, int] = CAMERA_GROUND
) -> Tensor:
    """Intersection over union of level boxes in 3D.

    Args:
        frame_from_a, frame_from_b: (..., 4, 4), metres, broadcast against each other.
        lhw_a, lhw_b: (..., 3), metres.
        ground: the level axes of the frame.

    Returns:
        (...,), in [0, 1]; 0 where both are empty. Of all pairs: give a with a dimension more, `a[:, None]`.
    """
    up = 3 - sum(ground)
    shift = frame_from_b[..., up, 3] - frame_from_a[..., up, 3]
    half_a, half_b = lhw_a[..., 1] / 2, lhw_b[..., 1] / 2
    common = torch.minimum(half_a, shift + half_b) - torch.maximum(-half_a, shift - half_b)
    shared = bev_intersection(bev(frame_from_a, lhw_a, ground), bev(frame_from_b, lhw_b, ground)) * common.clamp_min(0)
    return _ratio(shared, *(lhw[..., 0] * lhw[..., 2] * lhw[..., 1] for lhw in (lhw_a, lhw_b)))


def bev_nms(bev: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression from above: of boxes that overlap more than `threshold`, the best stays.

    Args:
        bev: (N, 5).
        scores: (N,).
        threshold: IoU in [0, 1] above which the lower score goes.

    Returns:
        indices of the boxes that stay, (M,), int64, best first; of equal scores the earlier box goes first.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = bev[order]
    reach = ranked[:, 2:4].norm(dim=-1) / 2
    close = torch.cdist(ranked[:, :2], ranked[:, :2]) < reach[:, None] + reach
    i, j = close.triu(1).nonzero().unbind(-1)  # no other pair can overlap
    overlaps = torch.zeros(len(order), len(order), dtype=torch.bool)
    overlaps[i.cpu(), j.cpu()] = (bev_iou(ranked[i], ranked[j]) > threshold).cpu()
    alive = torch.ones(len(order), dtype=torch.bool)
    for k in range(len(order)):
        if alive[k]:
            alive[k + 1 :] &= ~overlaps[k, k + 1 :]
    return order[alive.to(order.device)]


# ---------------------------------------------------------------------------------------------------------- in the image


@full_precision
def project(cam_from_obj: Tensor, lhw: Tensor, K: Tensor, size: tuple[int, int] | None = None, near: float = 0.1) -> Tensor:
    """The tight 2D box around what a camera sees of a 3D box.

    Args:
        cam_from_obj: (..., 4, 4), metres.
        lhw: (..., 3), metres.
        K: (..., 3, 3), pixels; its last row is (0, 0, 1).
        size: (height, width) of the image: only what lies in it counts, exactly, which is less than the clipped box of a
            tilted outline. None: everything in front of the camera counts, and the box may reach far beyond any image.
        near: what is nearer than this plane is cut off, metres.

    Returns:
        (..., 4), xyxy on pixel edges; zeros where nothing is seen.
    """
    points = corners(cam_from_obj, lhw)
    image = points @ K.mT  # (..., 8, 3): u z, v z, z
    z = image[..., 2]
    inside = [z - near]  # each is linear in the point and >= 0 on the side that is seen
    if size is not None:
        for k, extent in enumerate((size[1], size[0])):
            inside += [image[..., k] + 0.5 * z, (extent - 0.5) * z - image[..., k]]
    planes = torch.stack(inside, -1)  # (..., 8, P)
    start, end = torch.tensor(EDGES, device=points.device).unbind(-1)
    at, to = planes[..., start, :], planes[..., end, :]  # (..., 12, P)
    crossing = at / torch.where(at == to, torch.ones_like(at), at - to)
    enter = torch.where(at < 0, crossing, torch.zeros_like(at)).amax(-1).clamp_min(0)
    leave = torch.where(to < 0, crossing, torch.ones_like(at)).amin(-1).clamp_max(1)
    seen = (enter <= leave) & ~((at < 0) & (to < 0)).any(-1)
    ends = torch.stack([enter, leave], -1)[..., None]  # (..., 12, 2, 1)
    cut = image[..., start, None, :] + ends * (image[..., end, :] - image[..., start, :])[..., None, :]
    pixels = (cut[..., :2] / cut[..., 2:].clamp_min(near / 2)).flatten(-3, -2)
    valid = seen.repeat_interleave(2, -1)
    if size is not None:
        h, w = size
        around = K.new_tensor([[0, 0], [w, 0], [w, h], [0, h]]) - 0.5  # the image's corners
        rays = torch.cat([around, torch.ones_like(around[:, :1])], -1) @ torch.linalg.inv(K).mT  # z = 1
        enter, leave = _within(cam_from_obj, lhw, torch.zeros_like(rays), rays)
        looks = enter.clamp_min(near) <= leave
        rim = around.roll(-1, 0) - around  # the rim of the image on the near plane
        enter, leave = _within(cam_from_obj, lhw, near * rays, near * (rays.roll(-1, -2) - rays))
        enter, leave = enter.clamp_min(0), leave.clamp_max(1)
        added = [around.expand(*pixels.shape[:-2], 4, 2), *(around + t[..., None] * rim for t in (enter, leave))]
        pixels, valid = torch.cat([pixels, *added], -2), torch.cat([valid, looks, *[enter <= leave] * 2], -1)
    some = valid.any(-1, keepdim=True)
    low = torch.where(valid[..., None], pixels, torch.inf).amin(-2)
    high = torch.where(valid[..., None], pixels, -torch.inf).amax(-2)
    found = torch.where(some, torch.cat([low, high], -1) + 0.5, torch.zeros_like(low[..., :1]))
    return found if size is None else boxes.clipped(found, size)


def _within(cam_from_obj: Tensor, lhw: Tensor, start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """The span of t in which start + t step lies in a box; the first is larger where there is none.

    (..., 4, 4), (..., 3), (..., P, 3), (..., P, 3), camera frame -> (..., P), (..., P).
    """
    R = cam_from_obj[..., :3, :3]
    origin, direction = (start - cam_from_obj[..., None, :3, 3]) @ R, step @ R
    direction = torch.where(direction == 0, torch.full_like(direction, 1e-30), direction)
    half = lhw[..., None, :] / 2
    one, other = (-half - origin) / direction, (half - origin) / direction
    return torch.minimum(one, other).amax(-1), torch.maximum(one, other).amin(-1)


def thickness(cam_from_obj: Tensor, lhw: Tensor, K: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays through pixels enter and leave boxes.

    Args:
        cam_from_obj: (N, 4, 4), metres.
        lhw: (N, 3), metres.
        K: (3, 3) or (N, 3, 3), pixels.
        pixels: (N, P, 2).

    Returns:
        depth z of entry and exit, (N, P), metres, at least 0.1; exit <= entry where a ray misses.
    """
    rays = camera.unproject(pixels, torch.ones_like(pixels[..., 0]), K)
    R = cam_from_obj[:, :3, :3]
    origin, direction = -(R.mT @ cam_from_obj[:, :3, 3:]).mT, rays @ R
    direction = torch.where(direction.abs() < 1e-9, torch.full_like(direction, 1e-9), direction)
    half = lhw[:, None] / 2
    one, other = (-half - origin) / direction, (half - origin) / direction
    return torch.minimum(one, other).amax(-1).clamp_min(0.1), torch.maximum(one, other).amin(-1).clamp_min(0.1)


def grid_in(boxes: Tensor, side: int) -> Tensor:
    """Pixels in the middles of side x side equal parts of boxes. (N, 4), xyxy pixel edges -> (N, side^2, 2)."""
    steps = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([u, v], -1).flatten(0, 1)
    return boxes[:, None, :2] + grid * (boxes[:, None, 2:] - boxes[:, None, :2]) - 0.5


def volume_centres(cam_from_obj: Tensor, lhw: Tensor, K: Tensor, boxes: Tensor) -> Tensor:
    """The middle of what a picture shows of boxes: the mean of pixels, weighted by how much of the box lies behind each.

    Args:
        cam_from_obj: (N, 4, 4), metres.
        lhw: (N, 3), metres.
        K: (3, 3), pixels.
        boxes: what the picture shows of each, (N, 4), xyxy pixel edges, of `project` with the picture's size.

    Returns:
        (N, 2), pixels, centres at integers; the middle of a 2D box that no ray hits.

    Source: EPro-PnP-Det's reference points, which are rastered; here the rays follow the box, however small.
    """
    pixels = grid_in(boxes, 32)  # rays in each row and column
    enter, leave = thickness(cam_from_obj, lhw, K, pixels)
    weight = (leave - enter).clamp_min(0)[..., None]
    total = weight.sum(1)
    mean = (weight * pixels).sum(1) / total.clamp_min(1e-9)
    return torch.where(total > 1e-6, mean, (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5)


CHUNK = 4096  # pairs clipped at once: about 60 MB
TOUCHING = 1e-8  # share of the box's size within which a point counts as lying on a plane


def obb_corners(cam_from_box: Tensor, size: Tensor) -> Tensor:
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


def obb_iou(a: Tensor, size_a: Tensor, b: Tensor, size_b: Tensor) -> Tensor:
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
