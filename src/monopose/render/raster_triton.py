"""The CUDA kernels of `raster.rasterize`: one small program per face, then one pass over the pixels.

The formulas are those of `raster_numba`. A face writes its inverse depth and its number as one 64-bit key with an atomic
maximum, so the result does not depend on the order in which faces run. Runs on CPU tensors under `TRITON_INTERPRET=1`,
which is how it is tested where there is no GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .raster_numba import homogeneous, validate

LAST = 2**31 - 1  # keys hold LAST - face: of equal depths the first face wins
TILE_ROWS, TILE_COLUMNS = 8, 16
PIXELS = 256


@triton.jit
def _include(u0, v0, u1, v1, u, v, use):
    """A bounding box grown by the point (u, v) if `use`."""
    far = float("inf")
    u0 = tl.minimum(u0, tl.where(use, u, far))
    v0 = tl.minimum(v0, tl.where(use, v, far))
    u1 = tl.maximum(u1, tl.where(use, u, -far))
    v1 = tl.maximum(v1, tl.where(use, v, -far))
    return u0, v0, u1, v1


@triton.jit
def _include_cut(u0, v0, u1, v1, ax, ay, az, bx, by, bz, near):
    """A bounding box grown by the point where the side from a to b crosses z = near, if it does."""
    cuts = (az >= near) != (bz >= near)
    s = (near - az) / tl.where(cuts, bz - az, 1.0)
    return _include(u0, v0, u1, v1, (ax + s * (bx - ax)) / near, (ay + s * (by - ay)) / near, cuts)


@triton.jit
def _first(low, limit):
    """The first pixel at or after `low`, from 0 to limit."""
    low = tl.minimum(tl.maximum(low, 0.0), limit.to(tl.float64))
    whole = low.to(tl.int32)
    return whole + (whole.to(tl.float64) < low).to(tl.int32)


@triton.jit
def _end(high, limit):
    """One past the last pixel at or before `high`, from 0 to limit."""
    return tl.minimum(tl.maximum(high + 1.0, 0.0), limit.to(tl.float64)).to(tl.int32)


@triton.jit
def floor(a, b):
    """`raster_numba.floor`."""
    return tl.where((a > 0.0) | ((a == 0.0) & (b > 0.0)), -1e-300, 0.0).to(tl.float64)


@triton.jit
def _draw(
    q_ptr, faces_ptr, near_ptr, key_ptr, points, face_stride, height, width, last,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    f = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    row = faces_ptr + image * face_stride + f.to(tl.int64) * 3
    i, j, k = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    real = (i >= 0) & (j >= 0) & (k >= 0)
    q = q_ptr + image * points * 3
    i, j, k = tl.maximum(i, 0) * 3, tl.maximum(j, 0) * 3, tl.maximum(k, 0) * 3
    ix, iy, iz = tl.load(q + i), tl.load(q + i + 1), tl.load(q + i + 2)
    jx, jy, jz = tl.load(q + j), tl.load(q + j + 1), tl.load(q + j + 2)
    kx, ky, kz = tl.load(q + k), tl.load(q + k + 1), tl.load(q + k + 2)
    near = tl.load(near_ptr)

    u0 = near * 0.0 + float("inf")
    u1 = near * 0.0 - float("inf")
    v0, v1 = u0, u1
    u0, v0, u1, v1 = _include(u0, v0, u1, v1, ix / iz, iy / iz, iz >= near)
    u0, v0, u1, v1 = _include(u0, v0, u1, v1, jx / jz, jy / jz, jz >= near)
    u0, v0, u1, v1 = _include(u0, v0, u1, v1, kx / kz, ky / kz, kz >= near)
    u0, v0, u1, v1 = _include_cut(u0, v0, u1, v1, ix, iy, iz, jx, jy, jz, near)
    u0, v0, u1, v1 = _include_cut(u0, v0, u1, v1, jx, jy, jz, kx, ky, kz, near)
    u0, v0, u1, v1 = _include_cut(u0, v0, u1, v1, kx, ky, kz, ix, iy, iz, near)
    slack = 1e-5 + 1e-6 * tl.maximum(tl.maximum(tl.abs(u0), tl.abs(u1)), tl.maximum(tl.abs(v0), tl.abs(v1)))
    x0, x1 = _first(u0 - slack, width), _end(u1 + slack, width)
    y0, y1 = _first(v0 - slack, height), _end(v1 + slack, height)

    a0, b0, c0 = jy * kz - jz * ky, jz * kx - jx * kz, jx * ky - jy * kx
    a1, b1, c1 = ky * iz - kz * iy, kz * ix - kx * iz, kx * iy - ky * ix
    a2, b2, c2 = iy * jz - iz * jy, iz * jx - ix * jz, ix * jy - iy * jx
    det = a0 * ix + b0 * iy + c0 * iz
    sign = tl.where(det < 0.0, -1.0, 1.0).to(tl.float64)
    a0, b0, c0, a1, b1, c1, a2, b2, c2 = (
        a0 * sign, b0 * sign, c0 * sign, a1 * sign, b1 * sign, c1 * sign, a2 * sign, b2 * sign, c2 * sign,
    )  # fmt: skip
    real = real & (det != 0.0) & (x0 < x1)
    y1 = tl.where(real, y1, 0)
    inv = 1.0 / tl.where(real, det * sign, 1.0)
    az, bz, cz = (a0 + a1 + a2) * inv, (b0 + b1 + b2) * inv, (c0 + c1 + c2) * inv
    floor0, floor1, floor2 = floor(a0, b0), floor(a1, b1), floor(a2, b2)
    inv_near = 1.0 / near
    low = (last - f).to(tl.int64)
    canvas = key_ptr + image * height * width

    for top in range(y0, y1, ROWS):
        for left in range(x0, x1, COLUMNS):
            rows = top + tl.arange(0, ROWS)[:, None]
            columns = left + tl.arange(0, COLUMNS)[None, :]
            y, x = rows.to(tl.float64), columns.to(tl.float64)
            e0, e1, e2 = a0 * x + (b0 * y + c0), a1 * x + (b1 * y + c1), a2 * x + (b2 * y + c2)
            w = az * x + (bz * y + cz)
            hit = (rows < y1) & (columns < x1) & (w <= inv_near) & (e0 > floor0) & (e1 > floor1) & (e2 > floor2)
            bits = w.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)  # positive floats sort like integers
            key = (bits << 32) | low
            where = canvas + rows * width + columns
            hit = hit & (key > tl.load(where, mask=hit, other=0))  # spares most atomics; stale values do no harm
            tl.atomic_max(where, key, mask=hit, sem="relaxed")


@triton.jit
def _resolve(
    key_ptr, q_ptr, faces_ptr, face_ptr, bary_ptr, depth_ptr, points, face_stride, width, area, last, PIXELS: tl.constexpr
):
    """Face, weights and depth of every pixel from its key."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < area
    at = image * area + pixel
    key = tl.load(key_ptr + at, mask=inside, other=0)
    seen = key > 0
    face = tl.where(seen, last - (key & 0x7FFFFFFF).to(tl.int32), -1)
    row = faces_ptr + image * face_stride + tl.maximum(face, 0).to(tl.int64) * 3
    q = q_ptr + image * points * 3
    i = q + tl.load(row, mask=seen, other=0) * 3
    j = q + tl.load(row + 1, mask=seen, other=0) * 3
    k = q + tl.load(row + 2, mask=seen, other=0) * 3
    iz, jz, kz = (
        tl.load(i + 2, mask=seen, other=0.0), tl.load(j + 2, mask=seen, other=0.0), tl.load(k + 2, mask=seen, other=0.0),
    )  # fmt: skip
    x, y = (pixel % width).to(tl.float64), (pixel // width).to(tl.float64)
    ix, iy = tl.load(i, mask=seen, other=0.0) - x * iz, tl.load(i + 1, mask=seen, other=0.0) - y * iz
    jx, jy = tl.load(j, mask=seen, other=0.0) - x * jz, tl.load(j + 1, mask=seen, other=0.0) - y * jz
    kx, ky = tl.load(k, mask=seen, other=0.0) - x * kz, tl.load(k + 1, mask=seen, other=0.0) - y * kz
    e0, e1, e2 = jx * ky - jy * kx, kx * iy - ky * ix, ix * jy - iy * jx
    inv = tl.where(seen, 1.0, 0.0) / tl.where(seen, e0 + e1 + e2, 1.0)
    w0, w1, w2 = e0 * inv, e1 * inv, e2 * inv
    tl.store(face_ptr + at, face, mask=inside)
    tl.store(bary_ptr + at * 3, w0, mask=inside)
    tl.store(bary_ptr + at * 3 + 1, w1, mask=inside)
    tl.store(bary_ptr + at * 3 + 2, w2, mask=inside)
    tl.store(depth_ptr + at, w0 * iz + w1 * jz + w2 * kz, mask=inside)


def rasterize(
    points_cam: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int], near: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(face, bary, depth) as in `raster.rasterize`; its arguments with a batch dimension everywhere, on CUDA."""
    validate(points_cam, faces)
    height, width = size
    batch, points = points_cam.shape[:2]
    device = points_cam.device
    face = torch.full((batch, height, width), -1, dtype=torch.int32, device=device)
    bary = torch.zeros(batch, height, width, 3, dtype=points_cam.dtype, device=device)
    depth = torch.zeros(batch, height, width, dtype=points_cam.dtype, device=device)
    if not batch or not points or not faces.shape[1]:
        return face, bary, depth
    q = homogeneous(points_cam.detach(), K).contiguous()
    triangles = faces.to(torch.int64).contiguous()
    limits = torch.tensor([near], dtype=torch.float64, device=device)  # a plain float argument would arrive as float32
    stride = triangles.shape[1] * 3 if len(triangles) > 1 else 0
    keys = torch.zeros(batch, height, width, dtype=torch.int64, device=device)
    options = {"num_warps": 1, "enable_fp_fusion": False}  # fused multiply-adds would open shared edges
    _draw[(triangles.shape[1], batch)](
        q, triangles, limits, keys, points, stride, height, width, LAST,
        ROWS=TILE_ROWS, COLUMNS=TILE_COLUMNS, **options,
    )  # fmt: skip
    _resolve[(triton.cdiv(height * width, PIXELS), batch)](
        keys, q, triangles, face, bary, depth, points, stride, width, height * width, LAST, PIXELS=PIXELS,
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return face, bary, depth
