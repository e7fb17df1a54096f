"""The CPU kernel of `raster.rasterize`: a serial z-buffer per image, images spread over the cores by threads.

Everything follows from one fact. With q_i = K p_i for the three corners of a face and r = (x, y, 1) for a pixel, the
perspective-correct weights of the corners are proportional to E = adj([q_0 q_1 q_2]) r, which is affine in (x, y), and
the inverse depth is sum(E) / det. No corner is divided by its depth, so a face that crosses the near plane needs no
splitting: a pixel is hit if all weights are positive and the depth there is at least `near`.

Two corners give exactly the negated edge function in the opposite order (float64, no contraction to FMA: hence no
fastmath in `edge`), so neighbouring faces share an edge without holes and without double hits.

Source: Olano and Greer, Triangle Scan Conversion using 2D Homogeneous Coordinates (1997).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

from .. import compiled

OK, NOT_FINITE, BAD_INDEX = 0, 1, 2
SLACK = 1e-5  # pixels added to bounding boxes, more than the rounding of a projection


@numba.njit(inline="always")
def edge(ax, ay, az, bx, by, bz):
    """Coefficients (per x, per y, constant) of the edge function that vanishes on the line through a and b."""
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@numba.njit(inline="always")
def floor(a, b):
    """What an edge function must exceed: a pixel on the edge belongs to the side towards +x, or +y if the edge runs along x.

    -1e-300 stands for "0 included" in a single comparison.
    """
    return -1e-300 if a > 0.0 or (a == 0.0 and b > 0.0) else 0.0


@numba.njit(inline="always")
def near_bounds(q, corners, near):
    """Bounding box in pixels of the part of a face in front of z = near."""
    u0, v0, u1, v1 = np.inf, np.inf, -np.inf, -np.inf
    for i in range(3):
        a, b = corners[i], corners[(i + 1) % 3]
        za, zb = q[a, 2], q[b, 2]
        if za >= near:
            u, v = q[a, 0] / za, q[a, 1] / za
            u0, v0, u1, v1 = min(u0, u), min(v0, v), max(u1, u), max(v1, v)
        if (za >= near) != (zb >= near):
            s = (near - za) / (zb - za)
            u = (q[a, 0] + s * (q[b, 0] - q[a, 0])) / near
            v = (q[a, 1] + s * (q[b, 1] - q[a, 1])) / near
            u0, v0, u1, v1 = min(u0, u), min(v0, v), max(u1, u), max(v1, v)
    pad = 1e-6 * max(1.0, abs(u0), abs(u1), abs(v0), abs(v1))
    return u0 - pad, v0 - pad, u1 + pad, v1 + pad


@numba.njit(inline="always")
def plane(q, uv, i, j, k, near, right, bottom):
    """Where a face may be seen, and its edge functions.

    Args:
        q: K p of all corners, (V, 3); uv: their pixels, (V, 2); i, j, k: the corners of the face.
        near: nothing closer is seen; right, bottom: the last column and row.

    Returns:
        whether it may be seen; first and last column, first and last row; (a, b, c) of the three edge functions a x + b y + c,
        positive inside; the inverse of their determinant: (their sum) * inverse is 1 / depth.
    """
    x0, x1, y0, y1 = 0, 0, 0, 0
    a0, b0, c0, a1, b1, c1, a2, b2, c2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    inverse, seen = 0.0, True
    iz, jz, kz = q[i, 2], q[j, 2], q[k, 2]
    u0, v0, u1, v1 = 0.0, 0.0, 0.0, 0.0
    if iz >= near and jz >= near and kz >= near:
        u0 = min(uv[i, 0], uv[j, 0], uv[k, 0]) - SLACK
        u1 = max(uv[i, 0], uv[j, 0], uv[k, 0]) + SLACK
        v0 = min(uv[i, 1], uv[j, 1], uv[k, 1]) - SLACK
        v1 = max(uv[i, 1], uv[j, 1], uv[k, 1]) + SLACK
    elif iz < near and jz < near and kz < near:
        seen = False
    else:
        u0, v0, u1, v1 = near_bounds(q, (i, j, k), near)
    seen = seen and u1 >= 0.0 and v1 >= 0.0 and u0 <= right and v0 <= bottom
    if seen:
        x0, x1 = int(np.ceil(max(u0, 0.0))), int(np.floor(min(u1, right)))
        y0, y1 = int(np.ceil(max(v0, 0.0))), int(np.floor(min(v1, bottom)))
        seen = x0 <= x1 and y0 <= y1
    if seen:
        ix, iy, jx, jy, kx, ky = q[i, 0], q[i, 1], q[j, 0], q[j, 1], q[k, 0], q[k, 1]
        a0, b0, c0 = edge(jx, jy, jz, kx, ky, kz)
        a1, b1, c1 = edge(kx, ky, kz, ix, iy, iz)
        a2, b2, c2 = edge(ix, iy, iz, jx, jy, jz)
        det = a0 * ix + b0 * iy + c0 * iz
        if det < 0.0:
            det = -det
            a0, b0, c0, a1, b1, c1, a2, b2, c2 = -a0, -b0, -c0, -a1, -b1, -c1, -a2, -b2, -c2
        seen = det > 0.0
        if seen:
            inverse = 1.0 / det
    return seen, x0, x1, y0, y1, a0, b0, c0, a1, b1, c1, a2, b2, c2, inverse


@compiled.kernel(boundscheck=False)
def draw(points, faces, K, near, face, bary, depth):
    """Rasterise one image in place; `face` must hold -1, `bary` and `depth` 0. Returns OK or what is wrong."""
    height, width = face.shape
    count = points.shape[0]
    q = np.empty((count, 3), np.float64)  # K p
    uv = np.empty((count, 2), np.float64)
    check = 0.0
    for i in range(count):
        px, py, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        a = K[0, 0] * px + K[0, 1] * py + K[0, 2] * z
        b = K[1, 0] * px + K[1, 1] * py + K[1, 2] * z
        q[i, 0], q[i, 1], q[i, 2] = a, b, z
        inv = 1.0 / z
        uv[i, 0], uv[i, 1] = a * inv, b * inv
        check += (a + b + z) * 0.0
    if check != 0.0:
        return NOT_FINITE
    inv_near = 1.0 / near
    right, bottom = width - 1.0, height - 1.0
    top_row, bottom_row, left_column, right_column = height, -1, width, -1

    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        if i < 0 or j < 0 or k < 0:
            continue
        if i >= count or j >= count or k >= count:
            return BAD_INDEX
        seen, x0, x1, y0, y1, a0, b0, c0, a1, b1, c1, a2, b2, c2, inv = plane(q, uv, i, j, k, near, right, bottom)
        if not seen:
            continue
        az, bz, cz = (a0 + a1 + a2) * inv, (b0 + b1 + b2) * inv, (c0 + c1 + c2) * inv
        floor0, floor1, floor2 = floor(a0, b0), floor(a1, b1), floor(a2, b2)
        for y in range(y0, y1 + 1):
            r0, r1, r2, rz = b0 * y + c0, b1 * y + c1, b2 * y + c2, bz * y + cz
            entered = False
            for x in range(x0, x1 + 1):
                e0, e1, e2 = a0 * x + r0, a1 * x + r1, a2 * x + r2
                if e0 > floor0 and e1 > floor1 and e2 > floor2:
                    entered = True
                    w = az * x + rz
                    if w <= inv_near:
                        w = np.float32(w)  # the same ties for every dtype and device
                        if w > depth[y, x]:  # until the last pass `depth` holds 1 / z
                            depth[y, x] = w
                            face[y, x] = f
                elif entered:
                    break
        top_row, bottom_row = min(top_row, y0), max(bottom_row, y1)
        left_column, right_column = min(left_column, x0), max(right_column, x1)

    for y in range(top_row, bottom_row + 1):
        for x in range(left_column, right_column + 1):
            seen = face[y, x]
            if seen < 0:
                continue
            i, j, k = faces[seen, 0], faces[seen, 1], faces[seen, 2]
            iz, jz, kz = q[i, 2], q[j, 2], q[k, 2]
            ix, iy = q[i, 0] - x * iz, q[i, 1] - y * iz
            jx, jy = q[j, 0] - x * jz, q[j, 1] - y * jz
            kx, ky = q[k, 0] - x * kz, q[k, 1] - y * kz
            e0, e1, e2 = jx * ky - jy * kx, kx * iy - ky * ix, ix * jy - iy * jx
            inv = 1.0 / (e0 + e1 + e2)
            w0, w1, w2 = e0 * inv, e1 * inv, e2 * inv
            bary[y, x, 0], bary[y, x, 1], bary[y, x, 2] = w0, w1, w2
            depth[y, x] = w0 * iz + w1 * jz + w2 * kz
    return OK


def rasterize(
    points_cam: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int], near: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(face, bary, depth) as in `raster.rasterize`; its arguments with a batch dimension everywhere, on the CPU.

    As many threads as `torch.get_num_threads()`, which is 1 inside the workers of a DataLoader.
    """
    batch = len(points_cam)
    points = points_cam.detach().contiguous().numpy()
    triangles = faces.to(torch.int64).contiguous().numpy()
    cameras = K.detach().double().contiguous().numpy()
    face = np.full((batch, *size), -1, np.int32)
    bary = np.zeros((batch, *size, 3), points.dtype)  # calloc: pages of the background are never touched
    depth = np.zeros((batch, *size), points.dtype)

    def one(i: int) -> int:
        return draw(points[i], triangles[i if len(triangles) > 1 else 0], cameras[i], near, face[i], bary[i], depth[i])

    threads = min(batch, torch.get_num_threads())
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            codes = list(pool.map(one, range(batch)))
    else:
        codes = [one(i) for i in range(batch)]
    for i, code in enumerate(codes):
        if code == NOT_FINITE:
            raise ValueError(f"points_cam of image {i} must be finite, got NaN or infinity; check the mesh and the pose")
        if code == BAD_INDEX:
            raise ValueError(f"faces of image {i} must index the {points.shape[1]} points, got {triangles.max()}")
    return torch.from_numpy(face), torch.from_numpy(bary), torch.from_numpy(depth)


def validate(points_cam: Tensor, faces: Tensor) -> None:
    """Raise ValueError for points that are not finite and faces that name a point that is not there."""
    if not bool(torch.isfinite(points_cam).all()):
        raise ValueError("points_cam must be finite, got NaN or infinity; check the mesh and the pose")
    if faces.numel() and int(faces.max()) >= points_cam.shape[1]:
        raise ValueError(f"faces must index the {points_cam.shape[1]} points, got {int(faces.max())}")


def homogeneous(points_cam: Tensor, K: Tensor) -> Tensor:
    """K p in float64, (B, V, 3): pixel times depth, and depth. Equal points give equal bits, unlike a matrix product."""
    x, y, z = points_cam.double().unbind(-1)
    k = K.double()[..., None]
    return torch.stack([k[:, r, 0] * x + k[:, r, 1] * y + k[:, r, 2] * z for r in (0, 1)] + [z], -1)
