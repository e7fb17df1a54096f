"""Costs of many poses, and what they pull on, as Triton kernels: the formulas of `residuals`, in registers.

Where many poses of a problem are judged (`costs`, `projection_gradients`) every thread owns poses and walks over the points,
which all threads read together; in `point_gradients` every thread owns points and walks over the poses. Nothing is exchanged
between threads, nothing is added atomically, and results repeat bit for bit.

In float32 depths are inverted and roots taken approximately, to 1 or 2 units in the last place.
"""

import triton
import triton.language as tl

from ..problems import FLATTEST, Kernel

SQUARES = tl.constexpr(int(Kernel.SQUARES))
HUBER = tl.constexpr(int(Kernel.HUBER))
CAUCHY = tl.constexpr(int(Kernel.CAUCHY))
MOST_FLAT = tl.constexpr(FLATTEST)


# One point under one pose. All arguments are scalars or vectors over threads. ------------------------------------------------


@triton.jit
def reciprocal(x, FAST: tl.constexpr):
    """1 / x. FAST: one instruction, float32, x normal. Otherwise division, which guards against x out of range."""
    if FAST:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return 1.0 / x


@triton.jit
def log1p(x, FAST: tl.constexpr):
    """log(1 + x), x >= 0: the rounding of 1 + x is divided out. Source: Goldberg, What every computer scientist ..., thm. 4."""
    y = 1.0 + x
    kept = y - 1.0
    plain = (kept == 0.0) | (kept == float("inf"))
    return tl.where(plain, x, tl.log(y) * (x * reciprocal(tl.where(plain, 1.0, kept), FAST)))


@triton.jit
def rho(square, delta, KERNEL: tl.constexpr, FAST: tl.constexpr):
    """`residuals.robust_cost`."""
    if KERNEL == HUBER:
        return tl.where(square > delta * delta, delta * (2.0 * tl.sqrt(square) - delta), square)
    if KERNEL == CAUCHY:
        return delta * delta * log1p(square * (1.0 / (delta * delta)), FAST)
    return square


@triton.jit
def rho_weight(square, delta, KERNEL: tl.constexpr, FAST: tl.constexpr):
    """`residuals.robust_weight`."""
    if KERNEL == HUBER:
        return tl.where(square > delta * delta, delta * tl.rsqrt(square), 1.0)
    if KERNEL == CAUCHY:
        return reciprocal(1.0 + square * (1.0 / (delta * delta)), FAST)
    return tl.zeros_like(square) + 1.0


@triton.jit
def rho_flattening(square, delta, KERNEL: tl.constexpr, FAST: tl.constexpr):
    """`residuals.robust_flattening`."""
    nothing = tl.zeros_like(square)
    if KERNEL == HUBER:
        return tl.where(square > delta * delta, nothing + MOST_FLAT, nothing)
    if KERNEL == CAUCHY:
        q = square * (1.0 / (delta * delta))
        return tl.minimum(2.0 * q * reciprocal(1.0 + q, FAST), nothing + MOST_FLAT)
    return nothing


@triton.jit
def half_rho_by_delta(square, delta, KERNEL: tl.constexpr, FAST: tl.constexpr):
    """The derivative of rho / 2 by delta."""
    if KERNEL == HUBER:
        return tl.where(square > delta * delta, square * tl.rsqrt(square) - delta, 0.0)
    if KERNEL == CAUCHY:
        q = square * (1.0 / (delta * delta))
        return delta * (log1p(q, FAST) - q * reciprocal(1.0 + q, FAST))
    return tl.zeros_like(square)


@triton.jit
def pixel(hx, hy, hz, x0, x1, u_min, v_min, u_max, v_max, z_min, FAST: tl.constexpr):
    """From a homogeneous pixel: the clamped pixel minus the measurement, and what a derivative needs besides.

    NaN must stay NaN, hence `propagate_nan`.
    """
    front = hz > z_min
    inverse = reciprocal(tl.maximum(hz, z_min, propagate_nan=tl.PropagateNan.ALL), FAST)
    u, v = hx * inverse, hy * inverse
    kept_u = tl.minimum(tl.maximum(u, u_min, propagate_nan=tl.PropagateNan.ALL), u_max, propagate_nan=tl.PropagateNan.ALL)
    kept_v = tl.minimum(tl.maximum(v, v_min, propagate_nan=tl.PropagateNan.ALL), v_max, propagate_nan=tl.PropagateNan.ALL)
    return kept_u - x0, kept_v - x1, u, v, inverse, front, kept_u == u, kept_v == v


@triton.jit
def project(p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23, X0, X1, X2):
    hx = p00 * X0 + (p01 * X1 + (p02 * X2 + p03))
    hy = p10 * X0 + (p11 * X1 + (p12 * X2 + p13))
    hz = p20 * X0 + (p21 * X1 + (p22 * X2 + p23))
    return hx, hy, hz


@triton.jit
def pull(
    hx, hy, hz, x0, x1, w0, w1, upstream, u_min, v_min, u_max, v_max, delta, z_min,
    KERNEL: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The derivative of upstream * rho / 2 by the homogeneous pixel, by -weight * measurement, by the weights, by delta."""
    e0, e1, u, v, inverse, front, inside_u, inside_v = pixel(hx, hy, hz, x0, x1, u_min, v_min, u_max, v_max, z_min, FAST)
    r0, r1 = w0 * e0, w1 * e1
    square = r0 * r0 + r1 * r1
    scale = upstream * rho_weight(square, delta, KERNEL, FAST)
    r0, r1 = scale * r0, scale * r1
    du = tl.where(inside_u, w0 * r0, 0.0)
    dv = tl.where(inside_v, w1 * r1, 0.0)
    dx, dy = du * inverse, dv * inverse
    dz = tl.where(front, -(dx * u + dy * v), 0.0)
    delta_pull = upstream * half_rho_by_delta(square, delta, KERNEL, FAST)
    return dx, dy, dz, r0, r1, r0 * e0, r1 * e1, delta_pull


# Threads own poses. ---------------------------------------------------------------------------------------------------------


@triton.jit
def point(X_ptr, x_ptr, w_ptr, n):
    X, x, w = X_ptr + n * 3, x_ptr + n * 2, w_ptr + n * 2
    return tl.load(X), tl.load(X + 1), tl.load(X + 2), tl.load(x), tl.load(x + 1), tl.load(w), tl.load(w + 1)


@triton.jit
def four(ptr, real):
    return (
        tl.load(ptr, mask=real, other=0.0), tl.load(ptr + 1, mask=real, other=0.0),
        tl.load(ptr + 2, mask=real, other=0.0), tl.load(ptr + 3, mask=real, other=0.0),
    )  # fmt: skip


@triton.jit
def points(X_ptr, x_ptr, w_ptr, n, real):
    X, x, w = X_ptr + n * 3, x_ptr + n * 2, w_ptr + n * 2
    return (
        tl.load(X, mask=real, other=0.0), tl.load(X + 1, mask=real, other=0.0), tl.load(X + 2, mask=real, other=0.0),
        tl.load(x, mask=real, other=0.0), tl.load(x + 1, mask=real, other=0.0),
        tl.load(w, mask=real, other=0.0), tl.load(w + 1, mask=real, other=0.0),
    )  # fmt: skip


@triton.jit
def cost_of_point(
    X_ptr, x_ptr, w_ptr, n, p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23,
    u_min, v_min, u_max, v_max, delta, z_min, KERNEL: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    X0, X1, X2, x0, x1, w0, w1 = point(X_ptr, x_ptr, w_ptr, n)
    hx, hy, hz = project(p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23, X0, X1, X2)
    e0, e1, _, _, _, _, _, _ = pixel(hx, hy, hz, x0, x1, u_min, v_min, u_max, v_max, z_min, FAST)
    r0, r1 = w0 * e0, w1 * e1
    return rho(r0 * r0 + r1 * r1, delta, KERNEL, FAST)


@triton.jit(do_not_specialize=["N", "S", "B", "s_blocks", "step"])
def costs(
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
    real = s < S
    P = P_ptr + b * S * 12 + s * 12
    p00, p01, p02, p03 = four(P, real)
    p10, p11, p12, p13 = four(P + 4, real)
    p20, p21, p22, p23 = four(P + 8, real)
    delta = tl.load(delta_ptr + b)
    u_min, v_min, u_max, v_max = four(bounds_ptr + b * 4, True)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)

    first = part * step
    last = tl.minimum(first + step, N)
    whole = first + (last - first) // UNROLL * UNROLL
    total = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    for n in range(first, whole, UNROLL):
        few = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)  # summing in two levels keeps float32 sums accurate
        for j in tl.static_range(UNROLL):
            few += cost_of_point(
                X_ptr, x_ptr, w_ptr, n + j, p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23,
                u_min, v_min, u_max, v_max, delta, z_min, KERNEL, FAST,
            )  # fmt: skip
        total += few
    for n in range(whole, last):
        total += cost_of_point(
            X_ptr, x_ptr, w_ptr, n, p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23,
            u_min, v_min, u_max, v_max, delta, z_min, KERNEL, FAST,
        )  # fmt: skip
    tl.store(out_ptr + (part.to(tl.int64) * B + b) * S + s, 0.5 * total, mask=real)


@triton.jit(do_not_specialize=["N", "S", "B", "s_blocks", "step"])
def projection_gradients(
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
    p00, p01, p02, p03 = four(P, real)
    p10, p11, p12, p13 = four(P + 4, real)
    p20, p21, p22, p23 = four(P + 8, real)
    upstream = tl.load(upstream_ptr + b * S + s, mask=real, other=0.0)
    delta = tl.load(delta_ptr + b)
    u_min, v_min, u_max, v_max = four(bounds_ptr + b * 4, True)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)

    zero = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    d00, d01, d02, d03, d10, d11, d12, d13, d20, d21, d22, d23 = (
        zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero,
    )  # fmt: skip
    first = part * step
    for n in range(first, tl.minimum(first + step, N)):
        X0, X1, X2, x0, x1, w0, w1 = point(X_ptr, x_ptr, w_ptr, n)
        hx, hy, hz = project(p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23, X0, X1, X2)
        dx, dy, dz, _, _, _, _, _ = pull(
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
def point_gradients(
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
    X0, X1, X2, x0, x1, w0, w1 = points(X_ptr + b * N * 3, x_ptr + b * N * 2, w_ptr + b * N * 2, n, real)
    delta = tl.load(delta_ptr + b)
    u_min, v_min, u_max, v_max = four(bounds_ptr + b * 4, True)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)
    P_ptr += b * S * 12
    upstream_ptr += b * S

    zero = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    dX0, dX1, dX2, a0, a1, dw0, dw1, dd = zero, zero, zero, zero, zero, zero, zero, zero
    first = part * step
    for s in range(first, tl.minimum(first + step, S)):
        P = P_ptr + s * 12
        p00, p01, p02, p03 = four(P, True)
        p10, p11, p12, p13 = four(P + 4, True)
        p20, p21, p22, p23 = four(P + 8, True)
        hx, hy, hz = project(p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23, X0, X1, X2)
        dx, dy, dz, r0, r1, dw0_s, dw1_s, dd_s = pull(
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
