"""Triangles to face index, barycentric weights and depth: one signature for every device.

`rasterize` runs a numba kernel on the CPU and a Triton kernel on CUDA; `rasterize_reference` is the same in plain torch,
slow and clear. Pixel centres lie at integers; both sides of a face are drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .raster_numba import homogeneous, validate


class Fragments(NamedTuple):
    """What each pixel sees.

    Args:
        face: row of `faces` in front, -1 = nothing, (B, H, W), int32.
        bary: perspective-correct weights of the face's three corners, (B, H, W, 3); they sum to 1, 0 at background.
        depth: z of the surface in the camera frame, (B, H, W), metres, 0 = nothing.
    """

    face: Tensor
    bary: Tensor
    depth: Tensor


def _prepare(
    points_cam: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int], near: float
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """The checked arguments with a batch dimension everywhere; faces keep batch 1 if they are shared."""
    if points_cam.dim() != 3 or points_cam.shape[-1] != 3:
        raise ValueError(f"points_cam must be (B, V, 3), got {tuple(points_cam.shape)}; add the batch dimension with [None]")
    batch = len(points_cam)
    if (
        faces.dim() not in (2, 3)
        or faces.shape[-1] != 3
        or faces.is_floating_point()
        or (faces.dim() == 3 and len(faces) not in (1, batch))
    ):
        raise ValueError(f"faces must be integers, (F, 3) or ({batch}, F, 3), got {tuple(faces.shape)} of {faces.dtype}")
    faces = faces if faces.dim() == 3 else faces[None]
    if K.shape[-2:] != (3, 3) or K.dim() > 3 or (K.dim() == 3 and len(K) not in (1, batch)):
        raise ValueError(f"K must be (3, 3) or ({batch}, 3, 3), got {tuple(K.shape)}")
    height, width = int(size[0]), int(size[1])
    if height < 1 or width < 1:
        raise ValueError(f"size must be (height, width) in pixels, both >= 1, got {size}")
    if not near > 0:
        raise ValueError(f"near must be positive, in metres, got {near}")
    points = points_cam if points_cam.dtype in (torch.float32, torch.float64) else points_cam.float()
    return points, faces, K.expand(batch, 3, 3), (height, width)


def rasterize(points_cam: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int], near: float = 0.01) -> Fragments:
    """The nearest face at every pixel centre, with weights and depth.

    Args:
        points_cam: corners, (B, V, 3), metres, camera frame.
        faces: indices into the points, (F, 3) or (B, F, 3); rows with -1 are padding.
        K: intrinsics, (3, 3) or (B, 3, 3), pixels.
        size: (height, width) of the result, pixels.
        near: nothing closer than this is drawn, metres; faces are cut exactly there, their weights still refer to
            the three corners of the whole face.

    Returns:
        Fragments in the dtype of the points (half precision becomes float32), without gradient. Pixels on an edge
        shared by two faces belong to exactly one of them; of faces at equal depth (1 / z to float32) the first one wins.

    Raises:
        ValueError: if a shape does not fit, a point is not finite or a face has no such point.
    """
    points, faces, K, size = _prepare(points_cam, faces, K, size, near)
    if points.is_cuda:
        from . import raster_triton

        return Fragments(*raster_triton.rasterize(points, faces, K, size, near))
    from . import raster_numba

    return Fragments(*raster_numba.rasterize(points, faces, K, size, near))


@torch.no_grad()
def rasterize_reference(
    points_cam: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int], near: float = 0.01, chunk: int | None = None
) -> Fragments:
    """`rasterize` in plain torch on any device, every face against every pixel, `chunk` faces at a time
    (None: about four million pairs).

    Equal to the kernels up to rounding: the face may differ only where two faces are equally deep to one unit in the
    last place of a float32 1 / z, or at the rim of a mesh where a pixel centre lies on an edge to the last bits of float64.

    Source: Olano and Greer, Triangle Scan Conversion using 2D Homogeneous Coordinates (1997).
    """
    points, faces, K, (height, width) = _prepare(points_cam, faces, K, size, near)
    validate(points, faces)
    batch, device = len(points), points.device
    chunk = chunk or max(1, 2**22 // (height * width))
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None]
    x = torch.arange(width, dtype=torch.float64, device=device)
    face = torch.full((batch, height, width), -1, dtype=torch.int32, device=device)
    inverse_depth = torch.zeros(batch, height, width, device=device)
    depth = torch.zeros(batch, height, width, dtype=points.dtype, device=device)
    bary = torch.zeros(batch, height, width, 3, dtype=points.dtype, device=device)
    for b in range(batch):
        q = homogeneous(points[b : b + 1], K[b : b + 1])[0]
        triangles = faces[b if len(faces) > 1 else 0].long()
        for start in range(0, len(triangles), chunk):
            rows = triangles[start : start + chunk]
            corners = q[rows.clamp_min(0)]  # (f, 3 corners, 3)
            after, last = corners[:, [1, 2, 0]], corners[:, [2, 0, 1]]
            # the cross product, written out: a fused multiply-add would break the antisymmetry that closes shared edges
            edges = after[..., [1, 2, 0]] * last[..., [2, 0, 1]] - after[..., [2, 0, 1]] * last[..., [1, 2, 0]]
            det = (edges[:, 0] * corners[:, 0]).sum(-1)
            edges = (edges * det.sign()[:, None, None])[..., None, None]
            value = edges[:, :, 0] * x + (edges[:, :, 1] * y + edges[:, :, 2])  # weights up to a factor, (f, 3, H, W)
            owns = (edges[:, :, 0] > 0) | ((edges[:, :, 0] == 0) & (edges[:, :, 1] > 0))
            inside = ((value > 0) | ((value == 0) & owns)).all(1)
            total = value.sum(1)
            w = total / det.abs()[:, None, None]
            drawn = inside & (w <= 1 / near) & (rows >= 0).all(-1)[:, None, None] & (det != 0)[:, None, None]
            w = torch.where(drawn, w, torch.zeros_like(w)).float()
            best, which = w.max(0)
            front = best > inverse_depth[b]
            inverse_depth[b] = torch.where(front, best, inverse_depth[b])
            face[b] = torch.where(front, (which + start).int(), face[b])
            weights = value.gather(0, which[None, None].expand(1, 3, -1, -1))[0] / total.gather(0, which[None])
            bary[b] = torch.where(front[..., None], weights.movedim(0, -1).to(points.dtype), bary[b])
            z = (weights * corners[which, :, 2].movedim(-1, 0)).sum(0)
            depth[b] = torch.where(front, z.to(points.dtype), depth[b])
    return Fragments(face, bary, depth)
