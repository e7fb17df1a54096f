"""The robust cost of many poses of each problem, and its gradients, in the precision of the arrays.

Forward: a pose at a time, the points in the lanes. Backward: a point at a time, the poses in the lanes, the sums in registers.
Nothing of size poses x points is ever written.
"""

import math

import numba
import numpy as np

from ... import compiled
from ..problems import Kernel

FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums may be reordered; NaN and inf keep their meaning
SQUARES, HUBER, CAUCHY = int(Kernel.SQUARES), int(Kernel.HUBER), int(Kernel.CAUCHY)
inline = numba.njit(inline="always")
# Expressions of whole arrays are not looked for: there are none here, and looking is an eighth of the time to compile.
kernel_ = compiled.kernel(fastmath=FAST, no_rewrites=True)


@kernel_
def lay_out(points3d, points2d, weights, rows):
    """Copy one problem to rows (7, N): X, Y, Z, u, v, weight of u, weight of v."""
    for i in range(points3d.shape[0]):
        rows[0, i] = points3d[i, 0]
        rows[1, i] = points3d[i, 1]
        rows[2, i] = points3d[i, 2]
        rows[3, i] = points2d[i, 0]
        rows[4, i] = points2d[i, 1]
        rows[5, i] = weights[i, 0]
        rows[6, i] = weights[i, 1]


@kernel_
def frames(points3d, points2d, weights, weighted, K, relative, singular, centre, scale, factor, used):
    """`checks.frame`: fill centre (B, 3), scale (B,), factor (B,): what makes the last row of K unit (`checks.scale_of`),
    divided by the scale if relative; and used (B, N): which points have weight. The weights are all 1 unless weighted.

    Returns 2 where a number is not finite or a K no camera (`checks.is_camera`), else 1 where a point has no weight, else 0.
    """
    count, finite, absent = points3d.shape[1], True, 0.0
    rows = np.empty((4, count))  # coordinate by coordinate: a pass over what is interleaved takes thrice the time
    X, Y = rows[0], rows[1]
    Z, W = rows[2], rows[3]
    for b in range(points3d.shape[0]):
        for i in range(count):
            X[i], Y[i], Z[i] = points3d[b, i, 0], points3d[b, i, 1], points3d[b, i, 2]
        total = x = y = z = spread = pixels = 0.0
        for i in range(count):
            pixels += np.float64(points2d[b, i, 0]) + np.float64(points2d[b, i, 1])
        if weighted:
            top = 0.0
            for i in range(count):
                W[i] = abs(np.float64(weights[b, i, 0])) + abs(np.float64(weights[b, i, 1]))
            for i in range(count):
                used[b, i] = W[i] != 0.0  # NaN is not 0: it counts
                absent += 1.0 if W[i] == 0.0 else 0.0
            for i in range(count):
                top = W[i] if W[i] > top else top
            inverse = 1.0 / top if top > 0.0 else 0.0
            for i in range(count):
                w = W[i] * inverse
                w *= w
                total += w
                x += w * X[i]
                y += w * Y[i]
                z += w * Z[i]
        else:
            total = float(count)
            for i in range(count):
                used[b, i] = True
            for i in range(count):
                x += X[i]
                y += Y[i]
                z += Z[i]
        share = 1.0 / total if total > 0.0 else 0.0
        centre[b, 0], centre[b, 1], centre[b, 2] = x * share, y * share, z * share
        x, y, z = np.float64(centre[b, 0]), np.float64(centre[b, 1]), np.float64(centre[b, 2])  # as it was rounded
        if weighted:
            total = 0.0
            for i in range(count):
                total += W[i]
                spread += W[i] * (abs(X[i] - x) + abs(Y[i] - y) + abs(Z[i] - z))
        else:
            for i in range(count):
                spread += abs(X[i] - x) + abs(Y[i] - y) + abs(Z[i] - z)
        unit = 1.0
        if spread > 0.0 and spread < np.inf:
            unit = math.ldexp(1.0, min(max(int(math.frexp(spread / total)[1]), -100), 100))
        scale[b] = unit
        k00, k01, k02 = np.float64(K[b, 0, 0]), np.float64(K[b, 0, 1]), np.float64(K[b, 0, 2])
        k10, k11, k12 = np.float64(K[b, 1, 0]), np.float64(K[b, 1, 1]), np.float64(K[b, 1, 2])
        k20, k21, k22 = np.float64(K[b, 2, 0]), np.float64(K[b, 2, 1]), np.float64(K[b, 2, 2])
        depth = math.sqrt(k20 * k20 + k21 * k21 + k22 * k22)
        inverse = 1.0 / depth if depth > 0.0 else 0.0
        factor[b] = inverse / (unit if relative else 1.0)
        finite = finite and not (k01 == 0.0 and k02 == 0.0 and k12 == 0.0 and (k20 != 0.0 or k21 != 0.0))  # transposed
        backwards = k22 < 0.0
        k20, k21, k22 = k20 * inverse, k21 * inverse, k22 * inverse
        d0, d1 = k00 * k20 + k01 * k21 + k02 * k22, k10 * k20 + k11 * k21 + k12 * k22
        k00, k01, k02 = k00 - d0 * k20, k01 - d0 * k21, k02 - d0 * k22
        k10, k11, k12 = k10 - d1 * k20, k11 - d1 * k21, k12 - d1 * k22
        volume = k20 * (k01 * k12 - k02 * k11) + k21 * (k02 * k10 - k00 * k12) + k22 * (k00 * k11 - k01 * k10)
        if backwards and volume < 0.0:
            factor[b] = -factor[b]
        volume = abs(volume)
        focal = math.sqrt((k00 * k00 + k01 * k01 + k02 * k02) * (k10 * k10 + k11 * k11 + k12 * k12))
        finite = finite and abs(pixels) < np.inf and spread < np.inf and total < np.inf  # no sum: sums may be reordered
        finite = finite and volume > singular * focal and volume < np.inf  # type: ignore[assignment]
    return 2 if not finite else 1 if absent > 0.0 else 0


@inline
def slopes(square, delta, kernel):
    """First and second derivative of rho by the squared length, and the derivative of the first by delta."""
    first, second, by_delta = 1.0, 0.0, 0.0
    if kernel == HUBER:
        far = square > delta * delta
        inverse = 1.0 / math.sqrt(square if far else 1.0)
        first = delta * inverse if far else 1.0
        second = -0.5 * first * inverse * inverse if far else 0.0
        by_delta = inverse if far else 0.0
    elif kernel == CAUCHY:
        part = 1.0 / (delta * delta)
        first = 1.0 / (1.0 + square * part)
        second = -part * first * first
        by_delta = 2.0 * square * part / delta * first * first
    return first, second, by_delta


@inline
def in_pixels(cx, cy, cz, K, U, V, A, B, bounds, z_min):
    """Of a point in the camera frame: residuals, inverse depth, clamped pixels, weights or 0 outside the bounds, 1 in front."""
    depth = K[2, 0] * cx + K[2, 1] * cy + K[2, 2] * cz
    front = 1.0 if depth > z_min else 0.0
    inverse = 1.0 / (depth if depth > z_min else z_min)
    u = (K[0, 0] * cx + K[0, 1] * cy + K[0, 2] * cz) * inverse
    v = (K[1, 0] * cx + K[1, 1] * cy + K[1, 2] * cz) * inverse
    uc = bounds[0] if u < bounds[0] else u
    uc = bounds[2] if uc > bounds[2] else uc
    vc = bounds[1] if v < bounds[1] else v
    vc = bounds[3] if vc > bounds[3] else vc
    return A * (uc - U), B * (vc - V), inverse, uc, vc, A if uc == u else 0.0, B if vc == v else 0.0, front


@inline
def _point(p, X, Y, Z, U, V, A, B, u_min, v_min, u_max, v_max, z_min, one):
    """Residuals of a point under P = K [R | t]; for their derivative inverse depth, clamped pixels, 0 where clamped, else 1."""
    p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23 = p
    depth = p20 * X + p21 * Y + p22 * Z + p23
    zero = one - one
    inverse = one / (depth if depth > z_min else z_min)
    u = (p00 * X + p01 * Y + p02 * Z + p03) * inverse
    v = (p10 * X + p11 * Y + p12 * Z + p13) * inverse
    uc = u_min if u < u_min else u
    uc = u_max if uc > u_max else uc
    vc = v_min if v < v_min else v
    vc = v_max if vc > v_max else vc
    inside_u = one if uc == u else zero
    inside_v = one if vc == v else zero
    front = one if depth > z_min else zero
    return A * (uc - U), B * (vc - V), inverse, uc, vc, inside_u, inside_v, front


@inline
def _cost(rows, p, delta, bounds, z_min, kernel):
    """The cost at one pose, p = K [R | t] as 12 numbers, for squares and Huber."""
    X, Y, Z = rows[0], rows[1], rows[2]
    U, V = rows[3], rows[4]
    A, B = rows[5], rows[6]
    u_min, v_min = bounds[0], bounds[1]
    u_max, v_max = bounds[2], bounds[3]
    real = rows.dtype.type
    one, two, total = real(1), real(2), real(0)
    square_delta = delta * delta
    for i in range(X.shape[0]):
        ru, rv, _, _, _, _, _, _ = _point(p, X[i], Y[i], Z[i], U[i], V[i], A[i], B[i], u_min, v_min, u_max, v_max, z_min, one)
        square = ru * ru + rv * rv
        if kernel == HUBER:
            far = square > square_delta
            total += delta * (two * math.sqrt(square if far else one) - delta) if far else square
        else:
            total += square
    return real(0.5) * total


@kernel_
def squares_cost(rows, p, delta, bounds, z_min):
    """1/2 sum s^2 at one pose, p = K [R | t] as 12 numbers."""
    return _cost(rows, p, delta, bounds, z_min, SQUARES)


@kernel_
def huber_cost(rows, p, delta, bounds, z_min):
    """1/2 sum of Huber's rho at one pose, p = K [R | t] as 12 numbers."""
    return _cost(rows, p, delta, bounds, z_min, HUBER)


@kernel_
def cauchy_cost(rows, p, delta, bounds, z_min):
    """1/2 delta^2 sum log(1 + s^2 / delta^2) at one pose, p = K [R | t] as 12 numbers.

    Logarithms do not vectorise: eight points are multiplied in float64 before one is taken. Ratios are capped at 1e37 for that.
    What is kept is the product less one: where delta is far above all residuals the one would swallow them.
    """
    X, Y, Z = rows[0], rows[1], rows[2]
    U, V = rows[3], rows[4]
    A, B = rows[5], rows[6]
    u_min, v_min = bounds[0], bounds[1]
    u_max, v_max = bounds[2], bounds[3]
    real = rows.dtype.type
    one, cap = real(1), real(1e37)
    scale = one / (delta * delta)
    count = X.shape[0]
    total = 0.0
    for start in range(0, count, 8):
        more = 0.0
        for i in range(start, min(start + 8, count)):
            ru, rv, _, _, _, _, _, _ = _point(
                p, X[i], Y[i], Z[i], U[i], V[i], A[i], B[i], u_min, v_min, u_max, v_max, z_min, one
            )
            ratio = (ru * ru + rv * rv) * scale
            factor = np.float64(cap if ratio > cap else ratio)
            more += factor + more * factor
        total += math.log1p(more)
    return 0.5 * np.float64(delta) * np.float64(delta) * total


@inline
def camera_matrix(K, T):
    """The 12 numbers of K [R | t]."""
    return (
        K[0, 0] * T[0, 0] + K[0, 1] * T[1, 0] + K[0, 2] * T[2, 0],
        K[0, 0] * T[0, 1] + K[0, 1] * T[1, 1] + K[0, 2] * T[2, 1],
        K[0, 0] * T[0, 2] + K[0, 1] * T[1, 2] + K[0, 2] * T[2, 2],
        K[0, 0] * T[0, 3] + K[0, 1] * T[1, 3] + K[0, 2] * T[2, 3],
        K[1, 0] * T[0, 0] + K[1, 1] * T[1, 0] + K[1, 2] * T[2, 0],
        K[1, 0] * T[0, 1] + K[1, 1] * T[1, 1] + K[1, 2] * T[2, 1],
        K[1, 0] * T[0, 2] + K[1, 1] * T[1, 2] + K[1, 2] * T[2, 2],
        K[1, 0] * T[0, 3] + K[1, 1] * T[1, 3] + K[1, 2] * T[2, 3],
        K[2, 0] * T[0, 0] + K[2, 1] * T[1, 0] + K[2, 2] * T[2, 0],
        K[2, 0] * T[0, 1] + K[2, 1] * T[1, 1] + K[2, 2] * T[2, 1],
        K[2, 0] * T[0, 2] + K[2, 1] * T[1, 2] + K[2, 2] * T[2, 2],
        K[2, 0] * T[0, 3] + K[2, 1] * T[1, 3] + K[2, 2] * T[2, 3],
    )


@kernel_
def cauchy_at(rows, K, T, delta, bounds, z_min):
    """`cauchy_cost` at the pose T, (4, 4)."""
    return cauchy_cost(rows, camera_matrix(K, T), delta, bounds, z_min)


@kernel_
def camera_matrices(K, poses, P):
    """Fill P (12, S) with the rows of K [R | t] of every pose (S, 4, 4)."""
    k00, k01, k02 = K[0, 0], K[0, 1], K[0, 2]
    k10, k11, k12 = K[1, 0], K[1, 1], K[1, 2]
    k20, k21, k22 = K[2, 0], K[2, 1], K[2, 2]
    for s in range(poses.shape[0]):
        for j in range(4):
            x, y, z = poses[s, 0, j], poses[s, 1, j], poses[s, 2, j]
            P[j, s] = k00 * x + k01 * y + k02 * z
            P[4 + j, s] = k10 * x + k11 * y + k12 * z
            P[8 + j, s] = k20 * x + k21 * y + k22 * z


@kernel_
def costs(points3d, points2d, weights, K, delta, bounds, poses, out, z_min, kernel):
    """Fill out (B, S): the cost of every pose (B, S, 4, 4)."""
    rows = np.empty((7, points3d.shape[1]), points3d.dtype)
    P = np.empty((12, poses.shape[1]), points3d.dtype)
    limit = points3d.dtype.type(z_min)
    for b in range(points3d.shape[0]):
        lay_out(points3d[b], points2d[b], weights[b], rows)
        camera_matrices(K[b], poses[b], P)
        for s in range(poses.shape[1]):
            p = (P[0, s], P[1, s], P[2, s], P[3, s], P[4, s], P[5, s], P[6, s], P[7, s], P[8, s], P[9, s], P[10, s], P[11, s])
            if kernel == SQUARES:
                out[b, s] = squares_cost(rows, p, delta[b], bounds[b], limit)
            elif kernel == HUBER:
                out[b, s] = huber_cost(rows, p, delta[b], bounds[b], limit)
            else:
                out[b, s] = cauchy_cost(rows, p, delta[b], bounds[b], limit)


def _differentiator(kernel):
    """The gradients of one problem for one kernel, a constant to the compiler."""

    @kernel_
    def differentiate(rows, P, g, delta, bounds, z_min, d3, d2, dw):
        """Fill d3 (N, 3), d2 (N, 2), dw (N, 2) with the gradients of sum(g * costs), g (S,); returns that by delta.

        For Cauchy that by delta lacks 2 / delta sum(g * costs).
        """
        u_min, v_min = bounds[0], bounds[1]
        u_max, v_max = bounds[2], bounds[3]
        real = rows.dtype.type
        zero, one = real(0), real(1)
        square_delta = delta * delta
        d_delta = zero
        p0, p1, p2 = P[0], P[1], P[2]
        p3, p4, p5 = P[3], P[4], P[5]
        p6, p7, p8 = P[6], P[7], P[8]
        p9, p10, p11 = P[9], P[10], P[11]
        for i in range(rows.shape[1]):
            X, Y, Z = rows[0, i], rows[1, i], rows[2, i]
            U, V = rows[3, i], rows[4, i]
            A, B = rows[5, i], rows[6, i]
            dx = dy = dz = du = dv = da = db = zero
            for s in range(P.shape[1]):
                p = (p0[s], p1[s], p2[s], p3[s], p4[s], p5[s], p6[s], p7[s], p8[s], p9[s], p10[s], p11[s])
                ru, rv, inverse, uc, vc, inside_u, inside_v, front = _point(
                    p, X, Y, Z, U, V, A, B, u_min, v_min, u_max, v_max, z_min, one
                )
                factor = g[s]
                if kernel == HUBER:
                    square = ru * ru + rv * rv
                    far = square > square_delta
                    length = math.sqrt(square if far else one)
                    d_delta += factor * (length - delta) if far else zero
                    factor *= delta / length if far else one
                elif kernel == CAUCHY:
                    ratio = (ru * ru + rv * rv) / square_delta
                    shrink = one / (one + ratio)
                    d_delta -= factor * delta * ratio * shrink
                    factor *= shrink
                fu, fv = factor * ru, factor * rv  # d cost / d residual
                da += fu * (uc - U)
                db += fv * (vc - V)
                fu, fv = fu * A, fv * B  # d cost / d pixel
                du -= fu
                dv -= fv
                fu, fv = fu * inside_u * inverse, fv * inside_v * inverse
                fz = -front * (fu * uc + fv * vc)  # d cost / d (P X)
                dx += fu * p0[s] + fv * p4[s] + fz * p8[s]
                dy += fu * p1[s] + fv * p5[s] + fz * p9[s]
                dz += fu * p2[s] + fv * p6[s] + fz * p10[s]
            d3[i, 0], d3[i, 1], d3[i, 2] = dx, dy, dz
            d2[i, 0], d2[i, 1] = du, dv
            dw[i, 0], dw[i, 1] = da, db
        return d_delta

    return differentiate


_squares_gradients, _huber_gradients, _cauchy_gradients = map(_differentiator, (SQUARES, HUBER, CAUCHY))


@kernel_
def point_gradients(points3d, points2d, weights, K, delta, bounds, poses, upstream, d3, d2, dw, d_delta, z_min, kernel):
    """Fill the gradients of sum(upstream * costs): d3 (B, N, 3), d2 (B, N, 2), dw (B, N, 2), d_delta (B,)."""
    rows = np.empty((7, points3d.shape[1]), points3d.dtype)
    P = np.empty((12, poses.shape[1]), points3d.dtype)
    limit = points3d.dtype.type(z_min)
    for b in range(points3d.shape[0]):
        lay_out(points3d[b], points2d[b], weights[b], rows)
        camera_matrices(K[b], poses[b], P)
        if kernel == SQUARES:
            d_delta[b] = _squares_gradients(rows, P, upstream[b], delta[b], bounds[b], limit, d3[b], d2[b], dw[b])
        elif kernel == HUBER:
            d_delta[b] = _huber_gradients(rows, P, upstream[b], delta[b], bounds[b], limit, d3[b], d2[b], dw[b])
        else:
            d_delta[b] = _cauchy_gradients(rows, P, upstream[b], delta[b], bounds[b], limit, d3[b], d2[b], dw[b])


@kernel_
def projection_gradients(points3d, points2d, weights, K, delta, bounds, poses, upstream, out, z_min, kernel):
    """Fill out (B, S, 3, 4): the gradient of sum(upstream * costs) by P = K [R | t]."""
    real = points3d.dtype.type
    zero, one, limit = real(0), real(1), real(z_min)
    rows = np.empty((7, points3d.shape[1]), points3d.dtype)
    P = np.empty((12, poses.shape[1]), points3d.dtype)
    for b in range(points3d.shape[0]):
        lay_out(points3d[b], points2d[b], weights[b], rows)
        camera_matrices(K[b], poses[b], P)
        u_min, v_min = bounds[b, 0], bounds[b, 1]
        u_max, v_max = bounds[b, 2], bounds[b, 3]
        square_delta = delta[b] * delta[b]
        for s in range(poses.shape[1]):
            p = (P[0, s], P[1, s], P[2, s], P[3, s], P[4, s], P[5, s], P[6, s], P[7, s], P[8, s], P[9, s], P[10, s], P[11, s])
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = zero
            for i in range(rows.shape[1]):
                X, Y, Z = rows[0, i], rows[1, i], rows[2, i]
                ru, rv, inverse, uc, vc, inside_u, inside_v, front = _point(
                    p, X, Y, Z, rows[3, i], rows[4, i], rows[5, i], rows[6, i], u_min, v_min, u_max, v_max, limit, one
                )
                square = ru * ru + rv * rv
                factor = one
                if kernel == HUBER:
                    far = square > square_delta
                    factor = delta[b] / math.sqrt(square if far else one) if far else one
                elif kernel == CAUCHY:
                    factor = one / (one + square / square_delta)
                fu = factor * ru * rows[5, i] * inside_u * inverse
                fv = factor * rv * rows[6, i] * inside_v * inverse
                fz = -front * (fu * uc + fv * vc)
                a0 += fu * X
                a1 += fu * Y
                a2 += fu * Z
                a3 += fu
                b0 += fv * X
                b1 += fv * Y
                b2 += fv * Z
                b3 += fv
                c0 += fz * X
                c1 += fz * Y
                c2 += fz * Z
                c3 += fz
            g = upstream[b, s]
            out[b, s, 0, 0], out[b, s, 0, 1] = g * a0, g * a1
            out[b, s, 0, 2], out[b, s, 0, 3] = g * a2, g * a3
            out[b, s, 1, 0], out[b, s, 1, 1] = g * b0, g * b1
            out[b, s, 1, 2], out[b, s, 1, 3] = g * b2, g * b3
            out[b, s, 2, 0], out[b, s, 2, 1] = g * c0, g * c1
            out[b, s, 2, 2], out[b, s, 2, 3] = g * c2, g * c3
