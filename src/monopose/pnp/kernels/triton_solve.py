"""Normal equations, and the whole of Levenberg-Marquardt, as Triton kernels: one program per problem, its points over threads.

`descend` keeps a problem's state in scalars, which every thread computes alike. Only sums over points cross threads; they are
the same in all threads and in every run, so that all take the same turns.
"""

import triton
import triton.language as tl

from ..problems import INITIAL_RADIUS, RADIUS_GROWTH
from .triton_costs import SQUARES, four, pixel, points, reciprocal, rho, rho_flattening, rho_weight

START_RADIUS = tl.constexpr(INITIAL_RADIUS)
LEAST_SHRINKING = tl.constexpr(1.0 / RADIUS_GROWTH)


# Threads own points, and add them up. ----------------------------------------------------------------------------------------


@triton.jit
def evaluate(
    X_ptr, x_ptr, w_ptr, first, last, k00, k01, k02, k10, k11, k12, k20, k21, k22,
    r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2, u_min, v_min, u_max, v_max, delta, z_min,
    BENT: tl.constexpr, KERNEL: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
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
        X0, X1, X2, x0, x1, w0, w1 = points(X_ptr, x_ptr, w_ptr, n, n < last)
        q0 = r00 * X0 + (r01 * X1 + r02 * X2)
        q1 = r10 * X0 + (r11 * X1 + r12 * X2)
        q2 = r20 * X0 + (r21 * X1 + r22 * X2)
        c0, c1, c2 = q0 + t0, q1 + t1, q2 + t2
        hx = k00 * c0 + (k01 * c1 + k02 * c2)
        hy = k10 * c0 + (k11 * c1 + k12 * c2)
        hz = k20 * c0 + (k21 * c1 + k22 * c2)
        e0, e1, u, v, inverse, front, inside_u, inside_v = pixel(hx, hy, hz, x0, x1, u_min, v_min, u_max, v_max, z_min, FAST)
        e0, e1 = w0 * e0, w1 * e1
        square = e0 * e0 + e1 * e1
        cost += rho(square, delta, KERNEL, FAST)
        scale0, scale1 = tl.where(inside_u, w0 * inverse, 0.0), tl.where(inside_v, w1 * inverse, 0.0)
        u, v = tl.where(front, u, 0.0), tl.where(front, v, 0.0)
        a0, a1, a2 = scale0 * (k00 - u * k20), scale0 * (k01 - u * k21), scale0 * (k02 - u * k22)
        b0, b1, b2 = scale1 * (k10 - v * k20), scale1 * (k11 - v * k21), scale1 * (k12 - v * k22)
        if KERNEL != SQUARES:
            across = tl.sqrt(rho_weight(square, delta, KERNEL, FAST))
            ahead = across
            if BENT:
                along = tl.sqrt(1.0 - rho_flattening(square, delta, KERNEL, FAST))
                less = (1.0 - along) * reciprocal(tl.maximum(square, 1e-30), FAST)
                f0, f1, f2 = less * (e0 * a0 + e1 * b0), less * (e0 * a1 + e1 * b1), less * (e0 * a2 + e1 * b2)
                a0, a1, a2 = a0 - e0 * f0, a1 - e0 * f1, a2 - e0 * f2
                b0, b1, b2 = b0 - e1 * f0, b1 - e1 * f1, b2 - e1 * f2
                ahead = across * reciprocal(along, FAST)
            a0, a1, a2 = across * a0, across * a1, across * a2
            b0, b1, b2 = across * b0, across * b1, across * b2
            e0, e1 = ahead * e0, ahead * e1
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
def three(ptr):
    return tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2)


@triton.jit(do_not_specialize=["N", "parts", "step"])
def normal_equations(
    X_ptr, x_ptr, w_ptr, K_ptr, delta_ptr, bounds_ptr, pose_ptr, out_ptr, N, parts, step,
    Z_MIN: tl.constexpr, KERNEL: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of 36 + 6 + 1 numbers per problem and part of its points."""
    row = tl.program_id(0).to(tl.int64)
    b, first = row // parts, (tl.program_id(0) % parts) * step
    k00, k01, k02 = three(K_ptr + b * 9)
    k10, k11, k12 = three(K_ptr + b * 9 + 3)
    k20, k21, k22 = three(K_ptr + b * 9 + 6)
    r00, r01, r02, t0 = four(pose_ptr + b * 16, True)
    r10, r11, r12, t1 = four(pose_ptr + b * 16 + 4, True)
    r20, r21, r22, t2 = four(pose_ptr + b * 16 + 8, True)
    u_min, v_min, u_max, v_max = four(bounds_ptr + b * 4, True)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)
    (
        h00, h01, h02, h03, h04, h05, h11, h12, h13, h14, h15, h22, h23, h24, h25, h33, h34, h35, h44, h45, h55,
        g0, g1, g2, g3, g4, g5, cost,
    ) = evaluate(
        X_ptr + b * N * 3, x_ptr + b * N * 2, w_ptr + b * N * 2, first, tl.minimum(first + step, N),
        k00, k01, k02, k10, k11, k12, k20, k21, k22, r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2,
        u_min, v_min, u_max, v_max, tl.load(delta_ptr + b), z_min, True, KERNEL, FAST, BLOCK,
    )  # fmt: skip
    out = out_ptr + row * 43
    store_six(out, h00, h01, h02, h03, h04, h05)
    store_six(out + 6, h01, h11, h12, h13, h14, h15)
    store_six(out + 12, h02, h12, h22, h23, h24, h25)
    store_six(out + 18, h03, h13, h23, h33, h34, h35)
    store_six(out + 24, h04, h14, h24, h34, h44, h45)
    store_six(out + 30, h05, h15, h25, h35, h45, h55)
    store_six(out + 36, g0, g1, g2, g3, g4, g5)
    tl.store(out + 42, cost)


@triton.jit
def store_six(ptr, a, b, c, d, e, f):
    tl.store(ptr, a)
    tl.store(ptr + 1, b)
    tl.store(ptr + 2, c)
    tl.store(ptr + 3, d)
    tl.store(ptr + 4, e)
    tl.store(ptr + 5, f)


# Levenberg-Marquardt in one launch. -----------------------------------------------------------------------------------------


@triton.jit
def solve6(
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
def so3_exp(w0, w1, w2):
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
def finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def row_times(a, b, c, r00, r01, r02, r10, r11, r12, r20, r21, r22):
    return a * r00 + b * r10 + c * r20, a * r01 + b * r11 + c * r21, a * r02 + b * r12 + c * r22


@triton.jit
def store_four(ptr, a, b, c, d):
    tl.store(ptr, a)
    tl.store(ptr + 1, b)
    tl.store(ptr + 2, c)
    tl.store(ptr + 3, d)


@triton.jit(do_not_specialize=["N", "starts", "iterations"])
def descend(
    X_ptr, x_ptr, w_ptr, K_ptr, delta_ptr, bounds_ptr, pose_ptr, stopped_ptr, cost_ptr, N, starts, iterations,
    EPS: tl.constexpr, TINY: tl.constexpr, DOF: tl.constexpr, TRUST: tl.constexpr,
    Z_MIN: tl.constexpr, KERNEL: tl.constexpr, FAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`solve.descend_reference`, line by line, from one of the starts of a problem; pose_ptr holds it and receives the end."""
    row = tl.program_id(0).to(tl.int64)
    b = row // starts
    X_ptr += b * N * 3
    x_ptr += b * N * 2
    w_ptr += b * N * 2
    pose_ptr += row * 16
    k00, k01, k02 = three(K_ptr + b * 9)
    k10, k11, k12 = three(K_ptr + b * 9 + 3)
    k20, k21, k22 = three(K_ptr + b * 9 + 6)
    r00, r01, r02, t0 = four(pose_ptr, True)
    r10, r11, r12, t1 = four(pose_ptr + 4, True)
    r20, r21, r22, t2 = four(pose_ptr + 8, True)
    u_min, v_min, u_max, v_max = four(bounds_ptr + b * 4, True)
    delta = tl.load(delta_ptr + b)
    z_min = tl.full((), Z_MIN, X_ptr.dtype.element_ty)

    square = tl.zeros((BLOCK,), X_ptr.dtype.element_ty)
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)
        _, _, _, x0, x1, w0, w1 = points(X_ptr, x_ptr, w_ptr, n, n < N)
        square += (w0 * x0) * (w0 * x0) + (w1 * x1) * (w1 * x1)
    count = tl.maximum(N, 1).to(X_ptr.dtype.element_ty)
    grain = 4.0 * EPS * tl.sqrt(tl.sum(square, 0) / (2.0 * count))

    (
        h00, h01, h02, h03, h04, h05, h11, h12, h13, h14, h15, h22, h23, h24, h25, h33, h34, h35, h44, h45, h55,
        g0, g1, g2, g3, g4, g5, cost,
    ) = evaluate(
        X_ptr, x_ptr, w_ptr, 0, N, k00, k01, k02, k10, k11, k12, k20, k21, k22,
        r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, t2,
        u_min, v_min, u_max, v_max, delta, z_min, TRUST, KERNEL, FAST, BLOCK,
    )  # fmt: skip
    zero = tl.full((), 0.0, X_ptr.dtype.element_ty)
    radius, shrink = zero + START_RADIUS, zero + 2.0
    left, stopped = iterations, tl.full((), 0, tl.int32)
    while left > 0:
        if DOF == 4:  # what may not move: a row of the identity, no gradient
            h03, h13, h23, h33, h34, h35, g3 = zero, zero, zero, zero + 1.0, zero, zero, zero
            h05, h15, h25, h45, h55, g5 = zero, zero, zero, zero, zero + 1.0, zero
            top = tl.maximum(tl.maximum(h00, h11), tl.maximum(h22, h44))
        else:
            top = tl.maximum(tl.maximum(tl.maximum(h00, h11), tl.maximum(h22, h33)), tl.maximum(h44, h55))
        floor = 1e-6 * tl.maximum(top, 1e-20)
        damping = 1.0 / radius if TRUST else zero + 1e-6
        s0, s1, s2, s3, s4, s5, definite = solve6(
            h00 + damping * tl.maximum(h00, floor), h01, h02, h03, h04, h05,
            h11 + damping * tl.maximum(h11, floor), h12, h13, h14, h15,
            h22 + damping * tl.maximum(h22, floor), h23, h24, h25,
            h33 + damping * tl.maximum(h33, floor), h34, h35,
            h44 + damping * tl.maximum(h44, floor), h45,
            h55 + damping * tl.maximum(h55, floor), g0, g1, g2, g3, g4, g5,
        )  # fmt: skip
        solvable = definite & finite(s0) & finite(s1) & finite(s2) & finite(s3) & finite(s4) & finite(s5)
        s0, s1, s2 = tl.where(solvable, s0, 0.0), tl.where(solvable, s1, 0.0), tl.where(solvable, s2, 0.0)
        s3, s4, s5 = tl.where(solvable, s3, 0.0), tl.where(solvable, s4, 0.0), tl.where(solvable, s5, 0.0)

        e00, e01, e02, e10, e11, e12, e20, e21, e22 = so3_exp(s3, s4, s5)
        nr00, nr01, nr02 = row_times(e00, e01, e02, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        nr10, nr11, nr12 = row_times(e10, e11, e12, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        nr20, nr21, nr22 = row_times(e20, e21, e22, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        nt0, nt1, nt2 = t0 + s0, t1 + s1, t2 + s2
        (
            nh00, nh01, nh02, nh03, nh04, nh05, nh11, nh12, nh13, nh14, nh15, nh22, nh23, nh24, nh25, nh33, nh34, nh35,
            nh44, nh45, nh55, ng0, ng1, ng2, ng3, ng4, ng5, ncost,
        ) = evaluate(
            X_ptr, x_ptr, w_ptr, 0, N, k00, k01, k02, k10, k11, k12, k20, k21, k22,
            nr00, nr01, nr02, nr10, nr11, nr12, nr20, nr21, nr22, nt0, nt1, nt2,
            u_min, v_min, u_max, v_max, delta, z_min, TRUST, KERNEL, FAST, BLOCK,
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
        good = gain > 1e-3 if TRUST else finite(ncost)
        accept = solvable & good
        rounding = 8.0 * EPS * cost + grain * tl.sqrt(2.0 * cost) + count * grain * grain
        turn, move = tl.sqrt(s3 * s3 + s4 * s4 + s5 * s5), tl.sqrt(s0 * s0 + s1 * s1 + s2 * s2)
        length = turn + move / tl.maximum(tl.sqrt(t0 * t0 + t1 * t1 + t2 * t2), 1e-6)
        done = solvable & (radius > 1e-2) & ((promised <= rounding) | (length <= 16.0 * EPS))
        cube = 2.0 * gain - 1.0
        radius = tl.where(accept, radius / tl.maximum(1.0 - cube * cube * cube, LEAST_SHRINKING), radius / shrink)
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

    store_four(pose_ptr, r00, r01, r02, t0)
    store_four(pose_ptr + 4, r10, r11, r12, t1)
    store_four(pose_ptr + 8, r20, r21, r22, t2)
    tl.store(stopped_ptr + row, stopped.to(tl.int8))
    tl.store(cost_ptr + row, cost)
