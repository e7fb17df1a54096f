"""The CUDA kernels of PnP, in Triton. The formulas are those of `residuals`, a point and a pose at a time, in registers.

Where many poses of a problem are judged (`costs`, `projection_gradients`) every thread owns poses and walks over the points,
which all threads read together; in `point_gradients` every thread owns points and walks over the poses. Nothing is then
exchanged between threads, nothing is added atomically, and results repeat bit for bit. `normal_equations` and `descend` sum
over points that are spread over the threads of one program.

Block sizes follow from the number of points and poses alone. One warp with 128 poses, or points, is 4 per thread: enough
independent work to hide the latency of arithmetic, a load that serves 4 evaluations, and still about 100 registers (float32),
so that 16 warps and more fit on a multiprocessor of sm_90. float64 takes 64. Loops are cut in parts, summed in a fixed order
by torch, where there are too few programs to fill a device.

In float32 depths are inverted and roots taken approximately, to 1 or 2 units in the last place. Runs on CPU tensors under
`TRITON_INTERPRET=1`, which is how it is tested where there is no GPU.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..problems import Kernel, Problems
from ..residuals import Normal

HUBER = tl.constexpr(int(Kernel.HUBER))
CAUCHY = tl.constexpr(int(Kernel.CAUCHY))
WARP = 32
WARPS = 4096  # about what fills a large device; a loop is not cut beyond that
UNROLL = 4  # points or poses per turn of a loop: their loads are in flight together
SHORTEST = 64  # steps: no part of a loop is shorter
OPTIONS = {"enable_fp_fusion": True}


# One point under one pose. All arguments are scalars or vectors over threads. ------------------------------------------------


@triton.jit
def _reciprocal(x, FAST: tl.constexpr):
    """1 / x. FAST: one instruction, float32, x normal. Otherwise division, which guards against x out of range."""
    if FAST:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return 1.0 / x


@triton.jit
def _log1p(x, FAST: tl.constexpr):
    """log(1 + x), x >= 0: the rounding of 1 + x is divided out. Source: Goldberg, What every computer scientist ..., thm. 4."""
    y = 1.0 + x
    kept = y - 1.0
    plain = (kept == 0.0) | (kept == float("inf"))
    return tl.where(plain, x, tl.log(y) * (x * _reciprocal(tl.where(plain, 1.0, kept), FAST)))


@triton.jit
def _rho(square, delta, KERNEL: tl.constexpr, FAST: tl.constexpr):
    """`residuals.robust_cost`."""
    if KERNEL == HUBER:
        return tl.where(square > delta * delta, delta * (2.0 * tl.sqrt(square) - delta), square)
    if KERNEL == CAUCHY:
        return delta * delta * _log1p(square * (1.0 / (delta * delta)), FAST)
    return square


@triton.jit
def _rho_weight(square, delta, KERNEL: tl.constexpr, FAST: tl.constexpr):
    """`residuals.robust_weight`."""
    if KERNEL == HUBER:
        return tl.where(square > delta * delta, delta * tl.rsqrt(square), 1.0)
    if KERNEL == CAUCHY:
        return _reciprocal(1.0 + square * (1.0 / (delta * delta)), FAST)
    return tl.zeros_like(square) + 1.0


@triton.jit
def _half_rho_by_delta(square, delta, KERNEL: tl.constexpr, FAST: tl.constexpr):
    """The derivative of rho / 2 by delta."""
    if KERNEL == HUBER:
        return tl.where(square > delta * delta, square * tl.rsqrt(square) - delta, 0.0)
    if KERNEL == CAUCHY:
        q = square * (1.0 / (delta * delta))
        return delta * (_log1p(q, FAST) - q * _reciprocal(1.0 + q, FAST))
    return tl.zeros_like(square)


@triton.jit
def _pixel(hx, hy, hz, x0, x1, u_min, v_min, u_max, v_max, z_min, FAST: tl.constexpr):
    """From a homogeneous pixel: the clamped pixel minus the measurement, and what a derivative needs besides.

    NaN must stay NaN, hence `propagate_nan`.
    """
    front = hz > z_min
    inverse = _reciprocal(tl.maximum(hz, z_min, propagate_nan=tl.PropagateNan.ALL), FAST)
    u, v = hx * inverse, hy * inverse
    kept_u = tl.minimum(tl.maximum(u, u_min, propagate_nan=tl.PropagateNan.ALL), u_max, propagate_nan=tl.PropagateNan.ALL)
    kept_v = tl.minimum(tl.maximum(v, v_min, propagate_nan=tl.PropagateNan.ALL), v_max, propagate_nan=tl.PropagateNan.ALL)
    return kept_u - x0, kept_v - x1, u, v, inverse, front, kept_u == u, kept_v == v


@triton.jit
def _project(p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23, X0, X1, X2):
    hx = p00 * X0 + (p01 * X1 + (p02 * X2 + p03))
    hy = p10 * X0 + (p11 * X1 + (p12 * X2 + p13))
    hz = p20 * X0 + (p21 * X1 + (p22 * X2 + p23))
    return hx, hy, hz


@triton.jit
def _pull(
    hx, hy, hz, x0, x1, w0, w1, upstream, u_min, v_min, u_max, v_max, delta, z_min,
    KERNEL: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The derivative of upstream * rho / 2 by the homogeneous pixel, by -weight * measurement, by the weights, by delta."""
    e0, e1, u, v, inverse, front, inside_u, inside_v = _pixel(hx, hy, hz, x0, x1, u_min, v_min, u_max, v_max, z_min, FAST)
    r0, r1 = w0 * e0, w1 * e1
    square = r0 * r0 + r1 * r1
    scale = upstream * _rho_weight(square, delta, KERNEL, FAST)
    r0, r1 = scale * r0, scale * r1
    du = tl.where(inside_u, w0 * r0, 0.0)
    dv = tl.where(inside_v, w1 * r1, 0.0)
    dx, dy = du * inverse, dv * inverse
    dz = tl.where(front, -(dx * u + dy * v), 0.0)
    delta_pull = upstream * _half_rho_by_delta(square, delta, KERNEL, FAST)
    return dx, dy, dz, r0, r1, r0 * e0, r1 * e1, delta_pull


# Threads own poses. ---------------------------------------------------------------------------------------------------------


@triton.jit
def _point(X_ptr, x_ptr, w_ptr, n):
    X, x, w = X_ptr + n * 3, x_ptr + n * 2, w_ptr + n * 2
    return tl.load(X), tl.load(X + 1), tl.load(X + 2), tl.load(x), tl.load(x + 1), tl.load(w), tl.load(w + 1)


@triton.jit
def _four(ptr, real):
    return (
        tl.load(ptr, mask=real, other=0.0), tl.load(ptr + 1, mask=real, other=0.0),
        tl.load(ptr + 2, mask=real, other=0.0), tl.load(ptr + 3, mask=real, other=0.0),
    )  # fmt: skip


@triton.jit
def _points(X_ptr, x_ptr, w_ptr, n, real):
    X, x, w = X_ptr + n * 3, x_ptr + n * 2, w_ptr + n * 2
    return (
        tl.load(X, mask=real, other=0.0), tl.load(X + 1, mask=real, other=0.0), tl.load(X + 2, mask=real, other=0.0),
        tl.load(x, mask=real, other=0.0), tl.load(x + 1, mask=real, other=0.0),
        tl.load(w, mask=real, other=0.0), tl.load(w + 1, mask=real, other=0.0),
    )  # fmt: skip


@triton.jit
def _cost_of_point(
    X_ptr, x_ptr, w_ptr, n, p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23,
    u_min, v_min, u_max, v_max, delta, z_min, KERNEL: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    X0, X1, X2, x0, x1, w0, w1 = _point(X_ptr, x_ptr, w_ptr, n)
    hx, hy, hz = _project(p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23, X0, X1, X2)
    e0, e1, _, _, _, _, _, _ = _pixel(hx, hy, hz, x0, x1, u_min, v_min, u_max, v_max, z_min, FAST)
    r0, r1 = w0 * e0, w1 * e1
    return _rho(r0 * r0 + r1 * r1, delta, KERNEL, FAST)


@triton.jit(do_not_specialize=["N", "S", "B", "s_blocks", "step"])
def _costs(
    X_ptr, x_ptr, w_ptr, delta_ptr, bounds_ptr, P_ptr, out_ptr, N, S, B, s_blocks, step,
    Z_MIN: tl.constexpr, KERNEL: tl.constexpr, FAST: tl.constexpr, UNROLL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    s = (pid % s_blocks) * BLOCK + tl.arange(0, BLOCK)
    pid = pid // s_blocks
    part = pid // B
    b = (pid % B).to(tl.int64)
    X_ptr += b * N * 3
    x_ptr += b * N * 2
    w_ptr += b * N * 2
    P = P_ptr + b * S * 12 + s * 12
    real = s < S
    p00, p01 = tl.load(P, mask=real, other=0.0), tl.load(P + 1, mask=real, other=0.0)
    p02, p03 = tl.load(P + 2, mask=real, other=0.0), tl.load(P + 3, mask=real, other=0.0)
    p10, p11 = tl.load(P + 4, mask=real, other=0.0), tl.load(P + 5, mask=real, other=0.0)
    p12, p13 = tl.load(P + 6, mask=real, other=0.0), tl.load(P + 7, mask=real, other=0.0)
    p20, p21 = tl.load(P + 8, mask=real, other=0.0), tl.load(P + 9, mask=real, other=0.0)
    p22, p23 = tl.load(P + 10, mask=real, other=0.0), tl.load(P + 11, mask=real, other=0.0)
    delta, bounds = tl.load(delta_ptr + b), bounds_ptr + b * 4
    u_min, v_min, u_max, v_max = tl.load(bounds), tl.load(bounds + 1), tl.load(bounds + 2), tl.load(bounds + 3)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)

    first = part * step
    last = tl.minimum(first + step, N)
    whole = first + (last - first) // UNROLL * UNROLL
    total = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    for n in range(first, whole, UNROLL):
        few = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)  # summing in two levels keeps float32 sums accurate
        for j in tl.static_range(UNROLL):
            few += _cost_of_point(
                X_ptr, x_ptr, w_ptr, n + j, p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23,
                u_min, v_min, u_max, v_max, delta, z_min, KERNEL, FAST,
            )  # fmt: skip
        total += few
    for n in range(whole, last):
        total += _cost_of_point(
            X_ptr, x_ptr, w_ptr, n, p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23,
            u_min, v_min, u_max, v_max, delta, z_min, KERNEL, FAST,
        )  # fmt: skip
    tl.store(out_ptr + (part.to(tl.int64) * B + b) * S + s, 0.5 * total, mask=real)


@triton.jit(do_not_specialize=["N", "S", "B", "s_blocks", "step"])
def _projection_gradients(
    X_ptr, x_ptr, w_ptr, delta_ptr, bounds_ptr, P_ptr, upstream_ptr, out_ptr, N, S, B, s_blocks, step,
    Z_MIN: tl.constexpr, KERNEL: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    s = (pid % s_blocks) * BLOCK + tl.arange(0, BLOCK)
    pid = pid // s_blocks
    part = pid // B
    b = (pid % B).to(tl.int64)
    X_ptr += b * N * 3
    x_ptr += b * N * 2
    w_ptr += b * N * 2
    real = s < S
    P = P_ptr + b * S * 12 + s * 12
    p00, p01, p02, p03 = _four(P, real)
    p10, p11, p12, p13 = _four(P + 4, real)
    p20, p21, p22, p23 = _four(P + 8, real)
    upstream = tl.load(upstream_ptr + b * S + s, mask=real, other=0.0)
    delta = tl.load(delta_ptr + b)
    u_min, v_min, u_max, v_max = _four(bounds_ptr + b * 4, True)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)

    zero = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    d00, d01, d02, d03, d10, d11, d12, d13, d20, d21, d22, d23 = (
        zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero,
    )  # fmt: skip
    first = part * step
    for n in range(first, tl.minimum(first + step, N)):
        X0, X1, X2, x0, x1, w0, w1 = _point(X_ptr, x_ptr, w_ptr, n)
        hx, hy, hz = _project(p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23, X0, X1, X2)
        dx, dy, dz, _, _, _, _, _ = _pull(
            hx, hy, hz, x0, x1, w0, w1, upstream, u_min, v_min, u_max, v_max, delta, z_min, KERNEL, FAST
        )
        d00 += dx * X0
        d01 += dx * X1
        d02 += dx * X2
        d03 += dx
        d10 += dy * X0
        d11 += dy * X1
        d12 += dy * X2
        d13 += dy
        d20 += dz * X0
        d21 += dz * X1
        d22 += dz * X2
        d23 += dz
    out = out_ptr + (part.to(tl.int64) * B + b) * S * 12 + s * 12
    tl.store(out, d00, mask=real)
    tl.store(out + 1, d01, mask=real)
    tl.store(out + 2, d02, mask=real)
    tl.store(out + 3, d03, mask=real)
    tl.store(out + 4, d10, mask=real)
    tl.store(out + 5, d11, mask=real)
    tl.store(out + 6, d12, mask=real)
    tl.store(out + 7, d13, mask=real)
    tl.store(out + 8, d20, mask=real)
    tl.store(out + 9, d21, mask=real)
    tl.store(out + 10, d22, mask=real)
    tl.store(out + 11, d23, mask=real)


# Threads own points, and walk over poses. -----------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["N", "S", "B", "n_blocks", "step"])
def _point_gradients(
    X_ptr, x_ptr, w_ptr, delta_ptr, bounds_ptr, P_ptr, upstream_ptr, dX_ptr, dx_ptr, dw_ptr, ddelta_ptr,
    N, S, B, n_blocks, step, Z_MIN: tl.constexpr, KERNEL: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    block = pid % n_blocks
    n = block * BLOCK + tl.arange(0, BLOCK)
    pid = pid // n_blocks
    part = pid // B
    b = (pid % B).to(tl.int64)
    real = n < N
    X0, X1, X2, x0, x1, w0, w1 = _points(X_ptr + b * N * 3, x_ptr + b * N * 2, w_ptr + b * N * 2, n, real)
    delta = tl.load(delta_ptr + b)
    u_min, v_min, u_max, v_max = _four(bounds_ptr + b * 4, True)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)
    P_ptr += b * S * 12
    upstream_ptr += b * S

    zero = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    dX0, dX1, dX2, a0, a1, dw0, dw1, dd = zero, zero, zero, zero, zero, zero, zero, zero
    first = part * step
    for s in range(first, tl.minimum(first + step, S)):
        P = P_ptr + s * 12
        p00, p01, p02, p03 = _four(P, True)
        p10, p11, p12, p13 = _four(P + 4, True)
        p20, p21, p22, p23 = _four(P + 8, True)
        hx, hy, hz = _project(p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23, X0, X1, X2)
        dx, dy, dz, r0, r1, dw0_s, dw1_s, dd_s = _pull(
            hx, hy, hz, x0, x1, w0, w1, tl.load(upstream_ptr + s), u_min, v_min, u_max, v_max, delta, z_min, KERNEL, FAST
        )
        dX0 = p00 * dx + (p10 * dy + (p20 * dz + dX0))
        dX1 = p01 * dx + (p11 * dy + (p21 * dz + dX1))
        dX2 = p02 * dx + (p12 * dy + (p22 * dz + dX2))
        a0 += r0
        a1 += r1
        dw0 += dw0_s
        dw1 += dw1_s
        dd += dd_s
    row = part.to(tl.int64) * B + b
    dX, dx, dw = dX_ptr + row * N * 3 + n * 3, dx_ptr + row * N * 2 + n * 2, dw_ptr + row * N * 2 + n * 2
    tl.store(dX, dX0, mask=real)
    tl.store(dX + 1, dX1, mask=real)
    tl.store(dX + 2, dX2, mask=real)
    tl.store(dx, -w0 * a0, mask=real)
    tl.store(dx + 1, -w1 * a1, mask=real)
    tl.store(dw, dw0, mask=real)
    tl.store(dw + 1, dw1, mask=real)
    tl.store(ddelta_ptr + row * n_blocks + block, tl.sum(tl.where(real, dd, 0.0), 0))


# Threads own points, and add them up. ----------------------------------------------------------------------------------------


@triton.jit
def _evaluate(
    X_ptr, x_ptr, w_ptr, first, last, k00, k01, k02, k10, k11, k12, k20, k21, k22,
    r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2, u_min, v_min, u_max, v_max, delta, z_min,
    KERNEL: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`residuals.normal_equations` over some points: the upper triangle of the Hessian, the gradient, the cost."""
    zero = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    h00, h01, h02, h03, h04, h05, h11, h12, h13, h14, h15 = (
        zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero,
    )  # fmt: skip
    h22, h23, h24, h25, h33, h34, h35, h44, h45, h55 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    g0, g1, g2, g3, g4, g5, cost = zero, zero, zero, zero, zero, zero, zero
    for start in range(first, last, BLOCK):
        n = start + tl.arange(0, BLOCK)
        X0, X1, X2, x0, x1, w0, w1 = _points(X_ptr, x_ptr, w_ptr, n, n < last)
        q0 = r00 * X0 + (r01 * X1 + r02 * X2)
        q1 = r10 * X0 + (r11 * X1 + r12 * X2)
        q2 = r20 * X0 + (r21 * X1 + r22 * X2)
        c0, c1, c2 = q0 + t0, q1 + t1, q2 + t2
        hx = k00 * c0 + (k01 * c1 + k02 * c2)
        hy = k10 * c0 + (k11 * c1 + k12 * c2)
        hz = k20 * c0 + (k21 * c1 + k22 * c2)
        e0, e1, u, v, inverse, front, inside_u, inside_v = _pixel(hx, hy, hz, x0, x1, u_min, v_min, u_max, v_max, z_min, FAST)
        e0, e1 = w0 * e0, w1 * e1
        square = e0 * e0 + e1 * e1
        cost += _rho(square, delta, KERNEL, FAST)
        root = tl.sqrt(_rho_weight(square, delta, KERNEL, FAST))
        e0, e1 = e0 * root, e1 * root
        root = root * inverse
        scale0, scale1 = tl.where(inside_u, w0 * root, 0.0), tl.where(inside_v, w1 * root, 0.0)
        u, v = tl.where(front, u, 0.0), tl.where(front, v, 0.0)
        a0, a1, a2 = scale0 * (k00 - u * k20), scale0 * (k01 - u * k21), scale0 * (k02 - u * k22)
        b0, b1, b2 = scale1 * (k10 - v * k20), scale1 * (k11 - v * k21), scale1 * (k12 - v * k22)
        a3, a4, a5 = q1 * a2 - q2 * a1, q2 * a0 - q0 * a2, q0 * a1 - q1 * a0
        b3, b4, b5 = q1 * b2 - q2 * b1, q2 * b0 - q0 * b2, q0 * b1 - q1 * b0
        h00 = a0 * a0 + (b0 * b0 + h00)
        h01 = a0 * a1 + (b0 * b1 + h01)
        h02 = a0 * a2 + (b0 * b2 + h02)
        h03 = a0 * a3 + (b0 * b3 + h03)
        h04 = a0 * a4 + (b0 * b4 + h04)
        h05 = a0 * a5 + (b0 * b5 + h05)
        h11 = a1 * a1 + (b1 * b1 + h11)
        h12 = a1 * a2 + (b1 * b2 + h12)
        h13 = a1 * a3 + (b1 * b3 + h13)
        h14 = a1 * a4 + (b1 * b4 + h14)
        h15 = a1 * a5 + (b1 * b5 + h15)
        h22 = a2 * a2 + (b2 * b2 + h22)
        h23 = a2 * a3 + (b2 * b3 + h23)
        h24 = a2 * a4 + (b2 * b4 + h24)
        h25 = a2 * a5 + (b2 * b5 + h25)
        h33 = a3 * a3 + (b3 * b3 + h33)
        h34 = a3 * a4 + (b3 * b4 + h34)
        h35 = a3 * a5 + (b3 * b5 + h35)
        h44 = a4 * a4 + (b4 * b4 + h44)
        h45 = a4 * a5 + (b4 * b5 + h45)
        h55 = a5 * a5 + (b5 * b5 + h55)
        g0 = a0 * e0 + (b0 * e1 + g0)
        g1 = a1 * e0 + (b1 * e1 + g1)
        g2 = a2 * e0 + (b2 * e1 + g2)
        g3 = a3 * e0 + (b3 * e1 + g3)
        g4 = a4 * e0 + (b4 * e1 + g4)
        g5 = a5 * e0 + (b5 * e1 + g5)
    return (
        tl.sum(h00, 0), tl.sum(h01, 0), tl.sum(h02, 0), tl.sum(h03, 0), tl.sum(h04, 0), tl.sum(h05, 0), tl.sum(h11, 0),
        tl.sum(h12, 0), tl.sum(h13, 0), tl.sum(h14, 0), tl.sum(h15, 0), tl.sum(h22, 0), tl.sum(h23, 0), tl.sum(h24, 0),
        tl.sum(h25, 0), tl.sum(h33, 0), tl.sum(h34, 0), tl.sum(h35, 0), tl.sum(h44, 0), tl.sum(h45, 0), tl.sum(h55, 0),
        tl.sum(g0, 0), tl.sum(g1, 0), tl.sum(g2, 0), tl.sum(g3, 0), tl.sum(g4, 0), tl.sum(g5, 0), 0.5 * tl.sum(cost, 0),
    )  # fmt: skip


@triton.jit
def _three(ptr):
    return tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2)


@triton.jit(do_not_specialize=["N", "parts", "step"])
def _normal(
    X_ptr, x_ptr, w_ptr, K_ptr, delta_ptr, bounds_ptr, pose_ptr, out_ptr, N, parts, step,
    Z_MIN: tl.constexpr, KERNEL: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of 36 + 6 + 1 numbers per problem and part of its points."""
    row = tl.program_id(0).to(tl.int64)
    b, first = row // parts, (tl.program_id(0) % parts) * step
    k00, k01, k02 = _three(K_ptr + b * 9)
    k10, k11, k12 = _three(K_ptr + b * 9 + 3)
    k20, k21, k22 = _three(K_ptr + b * 9 + 6)
    r00, r01, r02, t0 = _four(pose_ptr + b * 16, True)
    r10, r11, r12, t1 = _four(pose_ptr + b * 16 + 4, True)
    r20, r21, r22, t2 = _four(pose_ptr + b * 16 + 8, True)
    u_min, v_min, u_max, v_max = _four(bounds_ptr + b * 4, True)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)
    (
        h00, h01, h02, h03, h04, h05, h11, h12, h13, h14, h15, h22, h23, h24, h25, h33, h34, h35, h44, h45, h55,
        g0, g1, g2, g3, g4, g5, cost,
    ) = _evaluate(
        X_ptr + b * N * 3, x_ptr + b * N * 2, w_ptr + b * N * 2, first, tl.minimum(first + step, N),
        k00, k01, k02, k10, k11, k12, k20, k21, k22, r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2,
        u_min, v_min, u_max, v_max, tl.load(delta_ptr + b), z_min, KERNEL, FAST, BLOCK,
    )  # fmt: skip
    out = out_ptr + row * 43
    _store_six(out, h00, h01, h02, h03, h04, h05)
    _store_six(out + 6, h01, h11, h12, h13, h14, h15)
    _store_six(out + 12, h02, h12, h22, h23, h24, h25)
    _store_six(out + 18, h03, h13, h23, h33, h34, h35)
    _store_six(out + 24, h04, h14, h24, h34, h44, h45)
    _store_six(out + 30, h05, h15, h25, h35, h45, h55)
    _store_six(out + 36, g0, g1, g2, g3, g4, g5)
    tl.store(out + 42, cost)


@triton.jit
def _store_six(ptr, a, b, c, d, e, f):
    tl.store(ptr, a)
    tl.store(ptr + 1, b)
    tl.store(ptr + 2, c)
    tl.store(ptr + 3, d)
    tl.store(ptr + 4, e)
    tl.store(ptr + 5, f)


# Levenberg-Marquardt in one launch: a program per problem, its state in scalars. ------------------------------------------------


@triton.jit
def _solve6(
    a00, a01, a02, a03, a04, a05, a11, a12, a13, a14, a15, a22, a23, a24, a25, a33, a34, a35, a44, a45, a55,
    g0, g1, g2, g3, g4, g5,
):  # fmt: skip
    """x with A x = -g by A = L D L', and whether A is positive definite. Entries of L D are u, of 1 / D are i."""
    i0 = 1.0 / a00
    l10, l20, l30, l40, l50 = a01 * i0, a02 * i0, a03 * i0, a04 * i0, a05 * i0
    d1 = a11 - l10 * a01
    u21, u31, u41, u51 = a12 - l20 * a01, a13 - l30 * a01, a14 - l40 * a01, a15 - l50 * a01
    i1 = 1.0 / d1
    l21, l31, l41, l51 = u21 * i1, u31 * i1, u41 * i1, u51 * i1
    d2 = a22 - l20 * a02 - l21 * u21
    u32, u42, u52 = a23 - l30 * a02 - l31 * u21, a24 - l40 * a02 - l41 * u21, a25 - l50 * a02 - l51 * u21
    i2 = 1.0 / d2
    l32, l42, l52 = u32 * i2, u42 * i2, u52 * i2
    d3 = a33 - l30 * a03 - l31 * u31 - l32 * u32
    u43, u53 = a34 - l40 * a03 - l41 * u31 - l42 * u32, a35 - l50 * a03 - l51 * u31 - l52 * u32
    i3 = 1.0 / d3
    l43, l53 = u43 * i3, u53 * i3
    d4 = a44 - l40 * a04 - l41 * u41 - l42 * u42 - l43 * u43
    u54 = a45 - l50 * a04 - l51 * u41 - l52 * u42 - l53 * u43
    i4 = 1.0 / d4
    l54 = u54 * i4
    d5 = a55 - l50 * a05 - l51 * u51 - l52 * u52 - l53 * u53 - l54 * u54
    definite = (a00 > 0.0) & (d1 > 0.0) & (d2 > 0.0) & (d3 > 0.0) & (d4 > 0.0) & (d5 > 0.0)

    y0 = -g0
    y1 = -g1 - l10 * y0
    y2 = -g2 - l20 * y0 - l21 * y1
    y3 = -g3 - l30 * y0 - l31 * y1 - l32 * y2
    y4 = -g4 - l40 * y0 - l41 * y1 - l42 * y2 - l43 * y3
    x5 = (-g5 - l50 * y0 - l51 * y1 - l52 * y2 - l53 * y3 - l54 * y4) / d5
    x4 = y4 * i4 - l54 * x5
    x3 = y3 * i3 - l43 * x4 - l53 * x5
    x2 = y2 * i2 - l32 * x3 - l42 * x4 - l52 * x5
    x1 = y1 * i1 - l21 * x2 - l31 * x3 - l41 * x4 - l51 * x5
    x0 = y0 * i0 - l10 * x1 - l20 * x2 - l30 * x3 - l40 * x4 - l50 * x5
    return x0, x1, x2, x3, x4, x5, definite


@triton.jit
def _exp(w0, w1, w2):
    """`rotation.so3_exp`."""
    square = w0 * w0 + w1 * w1 + w2 * w2
    near = square < 1e-4
    theta = tl.sqrt(tl.where(near, 1.0, square))
    half_sin, half_cos = tl.sin(0.5 * theta), tl.cos(0.5 * theta)
    a = tl.where(near, 1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0)), 2.0 * half_sin * half_cos / theta)
    b = 2.0 * (half_sin / theta) * (half_sin / theta)
    b = tl.where(near, 0.5 - square / 24.0 * (1.0 - square / 30.0 * (1.0 - square / 56.0)), b)
    return (
        1.0 - b * (w1 * w1 + w2 * w2), b * w0 * w1 - a * w2, b * w0 * w2 + a * w1,
        b * w0 * w1 + a * w2, 1.0 - b * (w0 * w0 + w2 * w2), b * w1 * w2 - a * w0,
        b * w0 * w2 - a * w1, b * w1 * w2 + a * w0, 1.0 - b * (w0 * w0 + w1 * w1),
    )  # fmt: skip


@triton.jit
def _finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def _row_times(a, b, c, r00, r01, r02, r10, r11, r12, r20, r21, r22):
    return a * r00 + b * r10 + c * r20, a * r01 + b * r11 + c * r21, a * r02 + b * r12 + c * r22


@triton.jit
def _store_four(ptr, a, b, c, d):
    tl.store(ptr, a)
    tl.store(ptr + 1, b)
    tl.store(ptr + 2, c)
    tl.store(ptr + 3, d)


@triton.jit(do_not_specialize=["N", "iterations"])
def _descend(
    X_ptr, x_ptr, w_ptr, K_ptr, delta_ptr, bounds_ptr, pose_ptr, stopped_ptr, N, iterations,
    EPS: tl.constexpr, TINY: tl.constexpr, DOF: tl.constexpr, TRUST: tl.constexpr,
    Z_MIN: tl.constexpr, KERNEL: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`solve.descend_reference`, line by line; pose_ptr holds the start and receives the result."""
    b = tl.program_id(0).to(tl.int64)
    X_ptr += b * N * 3
    x_ptr += b * N * 2
    w_ptr += b * N * 2
    pose_ptr += b * 16
    k00, k01, k02 = _three(K_ptr + b * 9)
    k10, k11, k12 = _three(K_ptr + b * 9 + 3)
    k20, k21, k22 = _three(K_ptr + b * 9 + 6)
    r00, r01, r02, t0 = _four(pose_ptr, True)
    r10, r11, r12, t1 = _four(pose_ptr + 4, True)
    r20, r21, r22, t2 = _four(pose_ptr + 8, True)
    u_min, v_min, u_max, v_max = _four(bounds_ptr + b * 4, True)
    delta = tl.load(delta_ptr + b)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)

    square = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)
        _, _, _, x0, x1, w0, w1 = _points(X_ptr, x_ptr, w_ptr, n, n < N)
        square += (w0 * x0) * (w0 * x0) + (w1 * x1) * (w1 * x1)
    count = tl.maximum(N, 1).to(X_ptr.dtype.element_ty)
    grain = 4.0 * EPS * tl.sqrt(tl.sum(square, 0) / (2.0 * count))

    (
        h00, h01, h02, h03, h04, h05, h11, h12, h13, h14, h15, h22, h23, h24, h25, h33, h34, h35, h44, h45, h55,
        g0, g1, g2, g3, g4, g5, cost,
    ) = _evaluate(
        X_ptr, x_ptr, w_ptr, 0, N, k00, k01, k02, k10, k11, k12, k20, k21, k22,
        r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2,
        u_min, v_min, u_max, v_max, delta, z_min, KERNEL, FAST, BLOCK,
    )  # fmt: skip
    zero = tl.full((), 0.0, X_ptr.dtype.element_ty)
    radius, shrink = zero + 30.0, zero + 2.0
    left, stopped = iterations, tl.full((), 0, tl.int32)
    while left > 0:
        if DOF == 4:  # what may not move: a row of the identity, no gradient
            h03, h13, h23, h33, h34, h35, g3 = zero, zero, zero, zero + 1.0, zero, zero, zero
            h05, h15, h25, h45, h55, g5 = zero, zero, zero, zero, zero + 1.0, zero
            top = tl.maximum(tl.maximum(h00, h11), tl.maximum(h22, h44))
        else:
            top = tl.maximum(tl.maximum(tl.maximum(h00, h11), tl.maximum(h22, h33)), tl.maximum(h44, h55))
        floor = 1e-6 * tl.maximum(top, 1e-20)
        if TRUST:
            damping = 1.0 / radius
        else:
            damping = zero + 1e-6
        s0, s1, s2, s3, s4, s5, definite = _solve6(
            h00 + damping * tl.maximum(h00, floor), h01, h02, h03, h04, h05,
            h11 + damping * tl.maximum(h11, floor), h12, h13, h14, h15,
            h22 + damping * tl.maximum(h22, floor), h23, h24, h25,
            h33 + damping * tl.maximum(h33, floor), h34, h35,
            h44 + damping * tl.maximum(h44, floor), h45,
            h55 + damping * tl.maximum(h55, floor), g0, g1, g2, g3, g4, g5,
        )  # fmt: skip
        solvable = definite & _finite(s0) & _finite(s1) & _finite(s2) & _finite(s3) & _finite(s4) & _finite(s5)
        s0, s1, s2 = tl.where(solvable, s0, 0.0), tl.where(solvable, s1, 0.0), tl.where(solvable, s2, 0.0)
        s3, s4, s5 = tl.where(solvable, s3, 0.0), tl.where(solvable, s4, 0.0), tl.where(solvable, s5, 0.0)

        e00, e01, e02, e10, e11, e12, e20, e21, e22 = _exp(s3, s4, s5)
        nr00, nr01, nr02 = _row_times(e00, e01, e02, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        nr10, nr11, nr12 = _row_times(e10, e11, e12, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        nr20, nr21, nr22 = _row_times(e20, e21, e22, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        nt0, nt1, nt2 = t0 + s0, t1 + s1, t2 + s2
        (
            nh00, nh01, nh02, nh03, nh04, nh05, nh11, nh12, nh13, nh14, nh15, nh22, nh23, nh24, nh25, nh33, nh34, nh35,
            nh44, nh45, nh55, ng0, ng1, ng2, ng3, ng4, ng5, ncost,
        ) = _evaluate(
            X_ptr, x_ptr, w_ptr, 0, N, k00, k01, k02, k10, k11, k12, k20, k21, k22,
            nr00, nr01, nr02, nr10, nr11, nr12, nr20, nr21, nr22, nt0, nt1, nt2,
            u_min, v_min, u_max, v_max, delta, z_min, KERNEL, FAST, BLOCK,
        )  # fmt: skip

        promised = -(
            s0 * (g0 + 0.5 * (h00 * s0 + h01 * s1 + h02 * s2 + h03 * s3 + h04 * s4 + h05 * s5))
            + s1 * (g1 + 0.5 * (h01 * s0 + h11 * s1 + h12 * s2 + h13 * s3 + h14 * s4 + h15 * s5))
            + s2 * (g2 + 0.5 * (h02 * s0 + h12 * s1 + h22 * s2 + h23 * s3 + h24 * s4 + h25 * s5))
            + s3 * (g3 + 0.5 * (h03 * s0 + h13 * s1 + h23 * s2 + h33 * s3 + h34 * s4 + h35 * s5))
            + s4 * (g4 + 0.5 * (h04 * s0 + h14 * s1 + h24 * s2 + h34 * s3 + h44 * s4 + h45 * s5))
            + s5 * (g5 + 0.5 * (h05 * s0 + h15 * s1 + h25 * s2 + h35 * s3 + h45 * s4 + h55 * s5))
        )
        gain = (cost - ncost) / tl.maximum(promised, zero + TINY)
        if TRUST:
            accept = solvable & (gain > 1e-3)
        else:
            accept = solvable & _finite(ncost)
        rounding = 8.0 * EPS * cost + grain * tl.sqrt(2.0 * cost) + count * grain * grain
        turn, move = tl.sqrt(s3 * s3 + s4 * s4 + s5 * s5), tl.sqrt(s0 * s0 + s1 * s1 + s2 * s2)
        length = turn + move / tl.maximum(tl.sqrt(t0 * t0 + t1 * t1 + t2 * t2), 1e-6)
        done = solvable & (radius > 1e-2) & ((promised <= rounding) | (length <= 16.0 * EPS))
        cube = 2.0 * gain - 1.0
        radius = tl.where(accept, radius / tl.maximum(1.0 - cube * cube * cube, 1.0 / 3.0), radius / shrink)
        radius = tl.minimum(tl.maximum(radius, 1e-10), 1e10)
        shrink = tl.where(accept, 2.0, tl.minimum(2.0 * shrink, 1e6))

        r00, r01, r02 = tl.where(accept, nr00, r00), tl.where(accept, nr01, r01), tl.where(accept, nr02, r02)
        r10, r11, r12 = tl.where(accept, nr10, r10), tl.where(accept, nr11, r11), tl.where(accept, nr12, r12)
        r20, r21, r22 = tl.where(accept, nr20, r20), tl.where(accept, nr21, r21), tl.where(accept, nr22, r22)
        t0, t1, t2 = tl.where(accept, nt0, t0), tl.where(accept, nt1, t1), tl.where(accept, nt2, t2)
        h00, h01, h02, h03, h04, h05, h11, h12, h13, h14, h15 = (
            tl.where(accept, nh00, h00), tl.where(accept, nh01, h01), tl.where(accept, nh02, h02), tl.where(accept, nh03, h03),
            tl.where(accept, nh04, h04), tl.where(accept, nh05, h05), tl.where(accept, nh11, h11), tl.where(accept, nh12, h12),
            tl.where(accept, nh13, h13), tl.where(accept, nh14, h14), tl.where(accept, nh15, h15),
        )  # fmt: skip
        h22, h23, h24, h25, h33, h34, h35, h44, h45, h55 = (
            tl.where(accept, nh22, h22), tl.where(accept, nh23, h23), tl.where(accept, nh24, h24), tl.where(accept, nh25, h25),
            tl.where(accept, nh33, h33), tl.where(accept, nh34, h34), tl.where(accept, nh35, h35), tl.where(accept, nh44, h44),
            tl.where(accept, nh45, h45), tl.where(accept, nh55, h55),
        )  # fmt: skip
        g0, g1, g2, g3, g4, g5, cost = (
            tl.where(accept, ng0, g0), tl.where(accept, ng1, g1), tl.where(accept, ng2, g2), tl.where(accept, ng3, g3),
            tl.where(accept, ng4, g4), tl.where(accept, ng5, g5), tl.where(accept, ncost, cost),
        )  # fmt: skip
        stopped = tl.where(done, 1, 0)
        left = tl.where(done, 0, left - 1)

    _store_four(pose_ptr, r00, r01, r02, t0)
    _store_four(pose_ptr + 4, r10, r11, r12, t1)
    _store_four(pose_ptr + 8, r20, r21, r22, t2)
    tl.store(stopped_ptr + b, stopped.to(tl.int8))


# The functions of the back end. ----------------------------------------------------------------------------------------------


def _fast(like: Tensor) -> bool:
    """Whether PTX can be written into a kernel: not in the interpreter, not on AMD."""
    return like.is_cuda and like.dtype == torch.float32 and torch.version.hip is None


def _block(count: int, dtype: torch.dtype) -> int:
    """Poses or points of a program of one warp: up to 4 per thread in float32, 2 in float64."""
    most = 4 * WARP if dtype == torch.float32 else 2 * WARP
    return min(max(triton.next_power_of_2(count), WARP), most)


def _cut(length: int, programs: int, multiple: int = 1) -> tuple[int, int]:
    """Into how many parts a loop is cut, and the steps of each."""
    parts = max(1, min(WARPS // max(programs, 1), length // SHORTEST))
    step = triton.cdiv(triton.cdiv(length, parts), multiple) * multiple
    return max(1, triton.cdiv(length, max(step, 1))), step


def _projections(K: Tensor, poses: Tensor) -> Tensor:
    """K [R | t], (B, S, 3, 4). Not as a matrix product: those may be rounded to TF32, or to half under autocast."""
    k, rows = K[:, None, :, :, None], poses[:, :, None, :3, :]
    return k[..., 0, :] * rows[..., 0, :] + k[..., 1, :] * rows[..., 1, :] + k[..., 2, :] * rows[..., 2, :]


@torch.no_grad()
def costs(problems: Problems, poses: Tensor) -> Tensor:
    """`residuals.pose_costs`. Flat problems (B, ...), poses (B, S, 4, 4), metres -> (B, S)."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    (B, N), S = X.shape[:2], poses.shape[1]
    if not B * S * N:
        return X.new_zeros(B, S)
    block = _block(S, X.dtype)
    blocks = triton.cdiv(S, block)
    parts, step = _cut(N, B * blocks, UNROLL)
    out = X.new_empty(parts, B, S)
    with torch.cuda.device_of(X):
        _costs[(blocks * B * parts,)](
            X, x, w, delta, bounds, _projections(K, poses).contiguous(), out, N, S, B, blocks, step,
            Z_MIN=problems.z_min, KERNEL=int(problems.kernel), FAST=_fast(X), UNROLL=UNROLL, BLOCK=block, num_warps=1, **OPTIONS,
        )  # fmt: skip
    return out.sum(0) if parts > 1 else out[0]


@torch.no_grad()
def projection_gradients(problems: Problems, poses: Tensor, upstream: Tensor) -> Tensor:
    """The derivative of sum(upstream * costs) by K [R | t] of every pose. (B, S, 4, 4), (B, S) -> (B, S, 3, 4)."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    (B, N), S = X.shape[:2], poses.shape[1]
    if not B * S * N:
        return X.new_zeros(B, S, 3, 4)
    block = _block(S, X.dtype)
    blocks = triton.cdiv(S, block)
    parts, step = _cut(N, B * blocks)
    out = X.new_empty(parts, B, S, 3, 4)
    with torch.cuda.device_of(X):
        _projection_gradients[(blocks * B * parts,)](
            X, x, w, delta, bounds, _projections(K, poses).contiguous(), upstream.contiguous(), out, N, S, B, blocks, step,
            Z_MIN=problems.z_min, KERNEL=int(problems.kernel), FAST=_fast(X), BLOCK=block, num_warps=1, **OPTIONS,
        )  # fmt: skip
    return out.sum(0) if parts > 1 else out[0]


@torch.no_grad()
def point_gradients(problems: Problems, poses: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The derivative of sum(upstream * costs) by points3d (B, N, 3), points2d (B, N, 2), weights (B, N, 2) and delta (B,)."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    (B, N), S = X.shape[:2], poses.shape[1]
    if not B * S * N:
        return torch.zeros_like(X), torch.zeros_like(x), torch.zeros_like(w), torch.zeros_like(delta)
    block = _block(N, X.dtype)
    blocks = triton.cdiv(N, block)
    parts, step = _cut(S, B * blocks)
    dX, dx, dw, ddelta = (X.new_empty(parts, B, *shape) for shape in ((N, 3), (N, 2), (N, 2), (blocks,)))
    with torch.cuda.device_of(X):
        _point_gradients[(blocks * B * parts,)](
            X, x, w, delta, bounds, _projections(K, poses).contiguous(), upstream.contiguous(), dX, dx, dw, ddelta,
            N, S, B, blocks, step,
            Z_MIN=problems.z_min, KERNEL=int(problems.kernel), FAST=_fast(X), BLOCK=block, num_warps=1, **OPTIONS,
        )  # fmt: skip
    if parts > 1:
        return dX.sum(0), dx.sum(0), dw.sum(0), ddelta.sum((0, 2))
    return dX[0], dx[0], dw[0], ddelta[0].sum(1)


def _team(N: int, dtype: torch.dtype) -> tuple[int, int]:
    """How many points of a problem a program takes at a time, and its warps.

    Up to 128 points one warp is enough, and needs no barrier to add up 28 sums; more points get 4, of which 2 programs fit on
    a multiprocessor. A thread takes 2 points, for work that is independent, but 1 in float64, whose sums fill the registers.
    """
    warps = 1 if N <= 4 * WARP else 4
    each = 2 if dtype == torch.float32 and N > WARP else 1
    return each * warps * WARP, warps


@torch.no_grad()
def normal_equations(problems: Problems, poses: Tensor) -> Normal:
    """`residuals.normal_equations`. Flat problems (B, ...), one pose each, (B, 4, 4), metres."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    B, N = X.shape[:2]
    block, warps = _team(N, X.dtype)
    parts, step = _cut(N, B * warps, block)
    out = X.new_zeros(B, parts, 43)
    if B:
        with torch.cuda.device_of(X):
            _normal[(B * parts,)](
                X, x, w, K, delta, bounds, poses.contiguous(), out, N, parts, step,
                Z_MIN=problems.z_min, KERNEL=int(problems.kernel), FAST=_fast(X), BLOCK=block, num_warps=warps, **OPTIONS,
            )  # fmt: skip
    total = out.sum(1)
    return Normal(total[:, :36].unflatten(1, (6, 6)), total[:, 36:42], total[:, 42])


@torch.no_grad()
def descend(problems: Problems, start: Tensor, dof: int, iterations: int, trust_region: bool = True) -> tuple[Tensor, Tensor]:
    """`solve.descend_reference`, in one launch. start (B, 4, 4) -> poses (B, 4, 4) and stopped (B,), bool."""
    X, x, w, K, delta, bounds = problems.map(Tensor.contiguous)[:6]
    B, N = X.shape[:2]
    pose, stopped = start.clone(memory_format=torch.contiguous_format), torch.zeros(B, dtype=torch.int8, device=X.device)
    block, warps = _team(N, X.dtype)
    if B:
        limits = torch.finfo(X.dtype)
        with torch.cuda.device_of(X):
            _descend[(B,)](
                X, x, w, K, delta, bounds, pose, stopped, N, iterations,
                EPS=limits.eps, TINY=limits.tiny, DOF=dof, TRUST=trust_region,
                Z_MIN=problems.z_min, KERNEL=int(problems.kernel), FAST=_fast(X), BLOCK=block, num_warps=warps, **OPTIONS,
            )  # fmt: skip
    return pose, stopped.view(torch.bool)
