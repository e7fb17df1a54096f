"""Normal equations, Levenberg-Marquardt and the verdict on its result, for one problem after the other, in float64.

The points of a problem are laid out coordinate by coordinate once; every pass over them is then one vectorised loop whose sums
stay in registers. `residuals.py` and `solve.py` hold the same in plain torch.
"""

import math

import numpy as np

from ...geometry.se3 import NEARLY_RIGID
from ..checks import BLUR, COUNTED, DISTINCT, Reason
from ..problems import FLAT, FLATTEST, INITIAL_RADIUS, PATIENCE, RADIUS_GROWTH, TOLERANCE, UNCERTAIN, UNDETERMINED
from .numba_costs import CAUCHY, HUBER, SQUARES, cauchy_at, in_pixels, inline, kernel_, slopes

CONVERGED, TOO_FEW_POINTS, DEGENERATE = int(Reason.CONVERGED), int(Reason.TOO_FEW_POINTS), int(Reason.DEGENERATE)
BEHIND_THE_CAMERA, NOT_FINITE, ITERATIONS = int(Reason.BEHIND_THE_CAMERA), int(Reason.NOT_FINITE), int(Reason.ITERATIONS)


def _accumulator(kernel):
    """`normal` for one kernel, a constant to the compiler."""

    @kernel_
    def accumulate(rows, T, K, delta, limits, z_min, flattest, H, g):
        """Fill the lower triangle of H (6, 6) and g (6,) at the pose T; returns the cost, without it for Cauchy."""
        X, Y, Z = rows[0], rows[1], rows[2]
        U, V = rows[3], rows[4]
        A, B = rows[5], rows[6]
        r00, r01, r02 = T[0, 0], T[0, 1], T[0, 2]
        r10, r11, r12 = T[1, 0], T[1, 1], T[1, 2]
        r20, r21, r22 = T[2, 0], T[2, 1], T[2, 2]
        t0, t1, t2 = T[0, 3], T[1, 3], T[2, 3]
        k00, k01, k02 = K[0, 0], K[0, 1], K[0, 2]
        k10, k11, k12 = K[1, 0], K[1, 1], K[1, 2]
        k20, k21, k22 = K[2, 0], K[2, 1], K[2, 2]
        u_min, v_min = limits[0], limits[1]
        u_max, v_max = limits[2], limits[3]
        square_delta, least = delta * delta, math.sqrt(1.0 - flattest)
        total = 0.0
        g0 = g1 = g2 = g3 = g4 = g5 = 0.0
        h00 = h10 = h11 = h20 = h21 = h22 = h30 = h31 = h32 = h33 = 0.0
        h40 = h41 = h42 = h43 = h44 = h50 = h51 = h52 = h53 = h54 = h55 = 0.0
        for i in range(X.shape[0]):
            px = r00 * X[i] + r01 * Y[i] + r02 * Z[i]
            py = r10 * X[i] + r11 * Y[i] + r12 * Z[i]
            pz = r20 * X[i] + r21 * Y[i] + r22 * Z[i]
            cx, cy, cz = px + t0, py + t1, pz + t2
            depth = k20 * cx + k21 * cy + k22 * cz
            front = 1.0 if depth > z_min else 0.0
            inverse = 1.0 / (depth if depth > z_min else z_min)
            u = (k00 * cx + k01 * cy + k02 * cz) * inverse
            v = (k10 * cx + k11 * cy + k12 * cz) * inverse
            uc = u_min if u < u_min else u
            uc = u_max if uc > u_max else uc
            vc = v_min if v < v_min else v
            vc = v_max if vc > v_max else vc
            ru = A[i] * (uc - U[i])
            rv = B[i] * (vc - V[i])
            su = (A[i] if uc == u else 0.0) * inverse
            sv = (B[i] if vc == v else 0.0) * inverse
            uf, vf = uc * front, vc * front
            a0, a1, a2 = su * (k00 - uf * k20), su * (k01 - uf * k21), su * (k02 - uf * k22)
            b0, b1, b2 = sv * (k10 - vf * k20), sv * (k11 - vf * k21), sv * (k12 - vf * k22)
            square = ru * ru + rv * rv
            if kernel == SQUARES:
                total += square
            else:
                if kernel == HUBER:
                    far = square > square_delta
                    length = math.sqrt(square if far else 1.0)
                    total += delta * (2.0 * length - delta) if far else square
                    across = math.sqrt(delta / length) if far else 1.0
                    along = least if far else 1.0
                else:
                    ratio = square / square_delta
                    across = math.sqrt(1.0 / (1.0 + ratio))  # the cost itself: see `cauchy_cost`
                    flat = 2.0 * ratio / (1.0 + ratio)
                    along = math.sqrt(1.0 - (flattest if flat > flattest else flat))
                less = (1.0 - along) / (square if square > 1e-30 else 1e-30)
                c0, c1, c2 = less * (ru * a0 + rv * b0), less * (ru * a1 + rv * b1), less * (ru * a2 + rv * b2)
                a0, a1, a2 = across * (a0 - ru * c0), across * (a1 - ru * c1), across * (a2 - ru * c2)
                b0, b1, b2 = across * (b0 - rv * c0), across * (b1 - rv * c1), across * (b2 - rv * c2)
                ru, rv = ru * across / along, rv * across / along
            a3, a4, a5 = py * a2 - pz * a1, pz * a0 - px * a2, px * a1 - py * a0
            b3, b4, b5 = py * b2 - pz * b1, pz * b0 - px * b2, px * b1 - py * b0
            g0 += a0 * ru + b0 * rv
            g1 += a1 * ru + b1 * rv
            g2 += a2 * ru + b2 * rv
            g3 += a3 * ru + b3 * rv
            g4 += a4 * ru + b4 * rv
            g5 += a5 * ru + b5 * rv
            h00 += a0 * a0 + b0 * b0
            h10 += a1 * a0 + b1 * b0
            h11 += a1 * a1 + b1 * b1
            h20 += a2 * a0 + b2 * b0
            h21 += a2 * a1 + b2 * b1
            h22 += a2 * a2 + b2 * b2
            h30 += a3 * a0 + b3 * b0
            h31 += a3 * a1 + b3 * b1
            h32 += a3 * a2 + b3 * b2
            h33 += a3 * a3 + b3 * b3
            h40 += a4 * a0 + b4 * b0
            h41 += a4 * a1 + b4 * b1
            h42 += a4 * a2 + b4 * b2
            h43 += a4 * a3 + b4 * b3
            h44 += a4 * a4 + b4 * b4
            h50 += a5 * a0 + b5 * b0
            h51 += a5 * a1 + b5 * b1
            h52 += a5 * a2 + b5 * b2
            h53 += a5 * a3 + b5 * b3
            h54 += a5 * a4 + b5 * b4
            h55 += a5 * a5 + b5 * b5
        g[0], g[1], g[2] = g0, g1, g2
        g[3], g[4], g[5] = g3, g4, g5
        H[0, 0] = h00
        H[1, 0], H[1, 1] = h10, h11
        H[2, 0], H[2, 1], H[2, 2] = h20, h21, h22
        H[3, 0], H[3, 1] = h30, h31
        H[3, 2], H[3, 3] = h32, h33
        H[4, 0], H[4, 1], H[4, 2] = h40, h41, h42
        H[4, 3], H[4, 4] = h43, h44
        H[5, 0], H[5, 1], H[5, 2] = h50, h51, h52
        H[5, 3], H[5, 4], H[5, 5] = h53, h54, h55
        return 0.5 * total

    return accumulate


@kernel_
def accumulate_pinhole(rows, T, limits, z_min, H, g):
    """`normal` for squares where K is the identity: a fifth of the entries are zero."""
    X, Y, Z = rows[0], rows[1], rows[2]
    U, V = rows[3], rows[4]
    A, B = rows[5], rows[6]
    r00, r01, r02 = T[0, 0], T[0, 1], T[0, 2]
    r10, r11, r12 = T[1, 0], T[1, 1], T[1, 2]
    r20, r21, r22 = T[2, 0], T[2, 1], T[2, 2]
    t0, t1, t2 = T[0, 3], T[1, 3], T[2, 3]
    u_min, v_min = limits[0], limits[1]
    u_max, v_max = limits[2], limits[3]
    total = 0.0
    g0 = g1 = g2 = g3 = g4 = g5 = 0.0
    h00 = h11 = h20 = h21 = h22 = h30 = h31 = h32 = h33 = 0.0
    h40 = h41 = h42 = h43 = h44 = h50 = h51 = h52 = h53 = h54 = h55 = 0.0
    for i in range(X.shape[0]):
        px = r00 * X[i] + r01 * Y[i] + r02 * Z[i]
        py = r10 * X[i] + r11 * Y[i] + r12 * Z[i]
        pz = r20 * X[i] + r21 * Y[i] + r22 * Z[i]
        depth = pz + t2
        inverse = 1.0 / (depth if depth > z_min else z_min)
        front = inverse if depth > z_min else 0.0
        u = (px + t0) * inverse
        v = (py + t1) * inverse
        uc = u_min if u < u_min else u
        uc = u_max if uc > u_max else uc
        vc = v_min if v < v_min else v
        vc = v_max if vc > v_max else vc
        ru = A[i] * (uc - U[i])
        rv = B[i] * (vc - V[i])
        wu = A[i] if uc == u else 0.0
        wv = B[i] if vc == v else 0.0
        total += ru * ru + rv * rv
        a0, a2 = wu * inverse, -wu * uc * front
        b1, b2 = wv * inverse, -wv * vc * front
        a3, a4, a5 = py * a2, pz * a0 - px * a2, -py * a0
        b3, b4, b5 = py * b2 - pz * b1, -px * b2, px * b1
        g0 += a0 * ru
        g1 += b1 * rv
        g2 += a2 * ru + b2 * rv
        g3 += a3 * ru + b3 * rv
        g4 += a4 * ru + b4 * rv
        g5 += a5 * ru + b5 * rv
        h00 += a0 * a0
        h11 += b1 * b1
        h20 += a2 * a0
        h21 += b2 * b1
        h22 += a2 * a2 + b2 * b2
        h30 += a3 * a0
        h31 += b3 * b1
        h32 += a3 * a2 + b3 * b2
        h33 += a3 * a3 + b3 * b3
        h40 += a4 * a0
        h41 += b4 * b1
        h42 += a4 * a2 + b4 * b2
        h43 += a4 * a3 + b4 * b3
        h44 += a4 * a4 + b4 * b4
        h50 += a5 * a0
        h51 += b5 * b1
        h52 += a5 * a2 + b5 * b2
        h53 += a5 * a3 + b5 * b3
        h54 += a5 * a4 + b5 * b4
        h55 += a5 * a5 + b5 * b5
    g[0], g[1], g[2] = g0, g1, g2
    g[3], g[4], g[5] = g3, g4, g5
    H[0, 0] = h00
    H[1, 0], H[1, 1] = 0.0, h11
    H[2, 0], H[2, 1], H[2, 2] = h20, h21, h22
    H[3, 0], H[3, 1] = h30, h31
    H[3, 2], H[3, 3] = h32, h33
    H[4, 0], H[4, 1], H[4, 2] = h40, h41, h42
    H[4, 3], H[4, 4] = h43, h44
    H[5, 0], H[5, 1], H[5, 2] = h50, h51, h52
    H[5, 3], H[5, 4], H[5, 5] = h53, h54, h55
    return 0.5 * total


_squares, _huber, _cauchy = _accumulator(SQUARES), _accumulator(HUBER), _accumulator(CAUCHY)


@inline
def normal(rows, T, K, delta, limits, z_min, kernel, pinhole, flattest, H, g):
    """Fill the lower triangle of H (6, 6) and g (6,) at the pose T of one problem, from `lay_out_scaled`; returns the cost.

    flattest: `FLATTEST`, or 0 for re-weighted least squares.
    """
    if kernel == SQUARES:
        if pinhole:
            return accumulate_pinhole(rows, T, limits, z_min, H, g)
        return _squares(rows, T, K, delta, limits, z_min, flattest, H, g)
    if kernel == HUBER:
        return _huber(rows, T, K, delta, limits, z_min, flattest, H, g)
    _cauchy(rows, T, K, delta, limits, z_min, flattest, H, g)
    return cauchy_at(rows, K, T, delta, limits, z_min)


def _differentiator(squares):
    """`exact` for squares, a constant to the compiler, or for the other kernels."""

    @kernel_
    def differentiate(rows, T, K, delta, bounds, z_min, robust, H, g):
        """Fill the lower triangle of the full Hessian H (6, 6), and g (6,); returns the cost, without it for Cauchy."""
        X, Y, Z = rows[0], rows[1], rows[2]
        U, V = rows[3], rows[4]
        A, B = rows[5], rows[6]
        r00, r01, r02 = T[0, 0], T[0, 1], T[0, 2]
        r10, r11, r12 = T[1, 0], T[1, 1], T[1, 2]
        r20, r21, r22 = T[2, 0], T[2, 1], T[2, 2]
        t0, t1, t2 = T[0, 3], T[1, 3], T[2, 3]
        k00, k01, k02 = K[0, 0], K[0, 1], K[0, 2]
        k10, k11, k12 = K[1, 0], K[1, 1], K[1, 2]
        k20, k21, k22 = K[2, 0], K[2, 1], K[2, 2]
        kernel = SQUARES if squares else robust
        square_delta, total = delta * delta, 0.0
        g0 = g1 = g2 = g3 = g4 = g5 = 0.0
        h00 = h10 = h11 = h20 = h21 = h22 = h30 = h31 = h32 = h33 = 0.0
        h40 = h41 = h42 = h43 = h44 = h50 = h51 = h52 = h53 = h54 = h55 = 0.0
        for i in range(X.shape[0]):
            px = r00 * X[i] + r01 * Y[i] + r02 * Z[i]
            py = r10 * X[i] + r11 * Y[i] + r12 * Z[i]
            pz = r20 * X[i] + r21 * Y[i] + r22 * Z[i]
            ru, rv, inverse, uc, vc, a, b, front = in_pixels(
                px + t0, py + t1, pz + t2, K, U[i], V[i], A[i], B[i], bounds, z_min
            )
            a, b = a * inverse, b * inverse
            square = ru * ru + rv * rv
            first, second, _ = slopes(square, delta, kernel)
            if kernel == HUBER:
                total += delta * (2.0 * math.sqrt(square) - delta) if square > square_delta else square
            else:
                total += square
            # force e and stiffness s: first and second derivative of the cost by (h0, h1, h2) = K p
            uf, vf = front * uc, front * vc
            e0, e1 = first * a * ru, first * b * rv
            e2 = -uf * e0 - vf * e1
            s00 = (first + 2.0 * second * ru * ru) * a * a
            s11 = (first + 2.0 * second * rv * rv) * b * b
            s10 = 2.0 * second * ru * rv * a * b
            s20 = -uf * s00 - vf * s10 - front * e0 * inverse
            s21 = -uf * s10 - vf * s11 - front * e1 * inverse
            s22 = uf * (uf * s00 + vf * s10) + vf * (uf * s10 + vf * s11) - 2.0 * e2 * inverse
            # the same by p: K' e, and m = K' s K
            f0, f1, f2 = k00 * e0 + k10 * e1 + k20 * e2, k01 * e0 + k11 * e1 + k21 * e2, k02 * e0 + k12 * e1 + k22 * e2
            g0 += f0
            g1 += f1
            g2 += f2
            g3 += py * f2 - pz * f1
            g4 += pz * f0 - px * f2
            g5 += px * f1 - py * f0
            q00, q01, q02 = (
                s00 * k00 + s10 * k10 + s20 * k20,
                s00 * k01 + s10 * k11 + s20 * k21,
                s00 * k02 + s10 * k12 + s20 * k22,
            )
            q10, q11, q12 = (
                s10 * k00 + s11 * k10 + s21 * k20,
                s10 * k01 + s11 * k11 + s21 * k21,
                s10 * k02 + s11 * k12 + s21 * k22,
            )
            q20, q21, q22 = (
                s20 * k00 + s21 * k10 + s22 * k20,
                s20 * k01 + s21 * k11 + s22 * k21,
                s20 * k02 + s21 * k12 + s22 * k22,
            )
            m00 = k00 * q00 + k10 * q10 + k20 * q20
            m10, m11 = k01 * q00 + k11 * q10 + k21 * q20, k01 * q01 + k11 * q11 + k21 * q21
            m20, m21 = k02 * q00 + k12 * q10 + k22 * q20, k02 * q01 + k12 * q11 + k22 * q21
            m22 = k02 * q02 + k12 * q12 + k22 * q22
            h00 += m00
            h10 += m10
            h11 += m11
            h20 += m20
            h21 += m21
            h22 += m22
            # rotating moves p by omega x turned: turned x (columns of m), and once more for both by the rotation
            b00, b01, b02 = py * m20 - pz * m10, py * m21 - pz * m11, py * m22 - pz * m21
            b10, b11, b12 = pz * m00 - px * m20, pz * m10 - px * m21, pz * m20 - px * m22
            b20, b21, b22 = px * m10 - py * m00, px * m11 - py * m10, px * m21 - py * m20
            h30 += b00
            h31 += b01
            h32 += b02
            h40 += b10
            h41 += b11
            h42 += b12
            h50 += b20
            h51 += b21
            h52 += b22
            # and, in second order, by omega x (omega x turned) / 2 along the force
            along0, along1, along2 = f0 * px, f1 * py, f2 * pz
            h33 += py * b02 - pz * b01 - along1 - along2
            h43 += py * b12 - pz * b11 + 0.5 * (f0 * py + f1 * px)
            h53 += py * b22 - pz * b21 + 0.5 * (f0 * pz + f2 * px)
            h44 += pz * b10 - px * b12 - along0 - along2
            h54 += pz * b20 - px * b22 + 0.5 * (f1 * pz + f2 * py)
            h55 += px * b21 - py * b20 - along0 - along1
        H[0, 0] = h00
        H[1, 0], H[1, 1] = h10, h11
        H[2, 0], H[2, 1], H[2, 2] = h20, h21, h22
        H[3, 0], H[3, 1] = h30, h31
        H[3, 2], H[3, 3] = h32, h33
        H[4, 0], H[4, 1], H[4, 2] = h40, h41, h42
        H[4, 3], H[4, 4] = h43, h44
        H[5, 0], H[5, 1], H[5, 2] = h50, h51, h52
        H[5, 3], H[5, 4], H[5, 5] = h53, h54, h55
        g[0], g[1], g[2] = g0, g1, g2
        g[3], g[4], g[5] = g3, g4, g5
        return 0.5 * total

    return differentiate


_exact_squares, _exact_robust = _differentiator(True), _differentiator(False)


@inline
def exact(rows, T, K, delta, bounds, z_min, kernel, H, g):
    """Fill the lower triangle of the full Hessian H (6, 6), `implicit.hessian`, and g (6,); returns the cost."""
    if kernel == SQUARES:
        return _exact_squares(rows, T, K, delta, bounds, z_min, kernel, H, g)
    total = _exact_robust(rows, T, K, delta, bounds, z_min, kernel, H, g)
    return total if kernel == HUBER else cauchy_at(rows, K, T, delta, bounds, z_min)


@kernel_
def lay_out_scaled(points3d, points2d, weights, K, bounds, centre, scale, z_min, rows, limits, camera):
    """`lay_out` in a `checks.frame`, with pixels, weights and bounds scaled to a camera of K = I where K has no skew.

    Returns (whether it had none, z_min for the K that then holds). camera (3, 3) is filled with that K.
    """
    k = 1.0 / np.float64(K[2, 2])
    fx, fy = K[0, 0] * k, K[1, 1] * k
    cx, cy = K[0, 2] * k, K[1, 2] * k
    plain = K[0, 1] == 0.0 and K[1, 0] == 0.0 and K[2, 0] == 0.0 and K[2, 1] == 0.0
    pinhole = plain and K[2, 2] > 0.0 and fx > 0.0 and fy > 0.0
    if pinhole:
        z_min *= k / scale
        camera[:] = 0.0
        camera[0, 0] = camera[1, 1] = camera[2, 2] = 1.0
    else:
        fx = fy = np.float64(1.0)
        cx = cy = np.float64(0.0)
        for i in range(3):
            for j in range(3):
                camera[i, j] = np.float64(K[i, j]) * scale
    x, y, unit = 1.0 / fx, 1.0 / fy, 1.0 / np.float64(scale)
    c0, c1, c2 = np.float64(centre[0]), np.float64(centre[1]), np.float64(centre[2])
    for i in range(rows.shape[1]):
        rows[0, i] = (points3d[i, 0] - c0) * unit
        rows[1, i] = (points3d[i, 1] - c1) * unit
        rows[2, i] = (points3d[i, 2] - c2) * unit
    for i in range(rows.shape[1]):
        rows[3, i] = (points2d[i, 0] - cx) * x
        rows[4, i] = (points2d[i, 1] - cy) * y
    for i in range(rows.shape[1]):
        rows[5, i] = weights[i, 0] * fx
        rows[6, i] = weights[i, 1] * fy
    limits[0], limits[2] = (bounds[0] - cx) * x, (bounds[2] - cx) * x
    limits[1], limits[3] = (bounds[1] - cy) * y, (bounds[3] - cy) * y
    return pinhole, z_min


@kernel_
def normal_batch(points3d, points2d, weights, K, delta, bounds, poses, H, g, cost, z_min, kernel):
    """Fill H (B, 6, 6), g (B, 6), cost (B,)."""
    rows, limits = np.empty((7, points3d.shape[1])), np.empty(4)
    camera, origin = np.empty((3, 3)), np.zeros(3)
    for b in range(points3d.shape[0]):
        pinhole, near = lay_out_scaled(
            points3d[b], points2d[b], weights[b], K[b], bounds[b], origin, 1.0, z_min, rows, limits, camera
        )
        cost[b] = normal(rows, poses[b], camera, delta[b], limits, near, kernel, pinhole, FLATTEST, H[b], g[b])
        for i in range(6):
            for j in range(i):
                H[b, j, i] = H[b, i, j]


@kernel_
def factor(A, n, L):
    """Cholesky factor of the lower triangle of A (n, n); False where A is not positive definite or not finite."""
    for i in range(n):
        for j in range(i):
            s = A[i, j]
            for k in range(j):
                s -= L[i, k] * L[j, k]
            L[i, j] = s * L[j, j]
        s = A[i, i]
        for k in range(i):
            s -= L[i, k] * L[i, k]
        if not (s > 0.0 and s < np.inf):
            return False
        L[i, i] = 1.0 / math.sqrt(s)  # the inverse of the diagonal: multiplied with, never divided by
    return True


@kernel_
def substitute(L, n, x):
    """Solve L L' x = x in place, with L of `factor`."""
    for i in range(n):
        s = x[i]
        for k in range(i):
            s -= L[i, k] * x[k]
        x[i] = s * L[i, i]
    for j in range(n):
        i = n - 1 - j
        s = x[i]
        for k in range(i + 1, n):
            s -= L[k, i] * x[k]
        x[i] = s * L[i, i]


@kernel_
def copy_pose(T, out):
    """out <- T, (4, 4), in any precision. To assign a slice takes seconds to compile, for the words of its error."""
    for i in range(3):
        for j in range(4):
            out[i, j] = T[i, j]
    out[3, 0] = out[3, 1] = out[3, 2] = 0.0
    out[3, 3] = 1.0


@kernel_
def retract(T, delta, out):
    """out <- `geometry.se3.retract(T, delta)`, (4, 4)."""
    a, b, c = delta[3], delta[4], delta[5]
    square = a * a + b * b + c * c
    if square < 0.02:  # four terms leave less than rounding
        s = 1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0 * (1.0 - square / 72.0)))
        h = 0.5 * (1.0 - square / 12.0 * (1.0 - square / 30.0 * (1.0 - square / 56.0 * (1.0 - square / 90.0))))
    else:
        angle = math.sqrt(square)
        s = math.sin(angle) / angle
        half = math.sin(0.5 * angle)
        h = 2.0 * half * half / square
    e00, e01, e02 = 1.0 - h * (b * b + c * c), h * a * b - s * c, h * a * c + s * b
    e10, e11, e12 = h * a * b + s * c, 1.0 - h * (a * a + c * c), h * b * c - s * a
    e20, e21, e22 = h * a * c - s * b, h * b * c + s * a, 1.0 - h * (a * a + b * b)
    for j in range(3):
        x, y, z = T[0, j], T[1, j], T[2, j]
        out[0, j] = e00 * x + e01 * y + e02 * z
        out[1, j] = e10 * x + e11 * y + e12 * z
        out[2, j] = e20 * x + e21 * y + e22 * z
    for i in range(3):
        out[i, 3] = T[i, 3] + delta[i]


@inline
def _rounding(eps, cost, grain, count):
    return 8.0 * eps * cost + grain * math.sqrt(2.0 * cost) + count * grain * grain


@inline
def _lower(H, yaw_only, fixed):
    """The lower triangle of H, row by row, as 21 numbers; with yaw_only the rotations about X and Z have `fixed` alone."""
    h00, h10, h11 = H[0, 0], H[1, 0], H[1, 1]
    h20, h21, h22 = H[2, 0], H[2, 1], H[2, 2]
    h30, h31 = H[3, 0], H[3, 1]
    h32, h33 = H[3, 2], H[3, 3]
    h40, h41, h42 = H[4, 0], H[4, 1], H[4, 2]
    h43, h44 = H[4, 3], H[4, 4]
    h50, h51, h52 = H[5, 0], H[5, 1], H[5, 2]
    h53, h54, h55 = H[5, 3], H[5, 4], H[5, 5]
    if yaw_only:
        h30 = h31 = h32 = h43 = h50 = h51 = h52 = h53 = h54 = 0.0
        h33 = h55 = fixed
    return (
        h00, h10, h11, h20, h21, h22, h30, h31, h32, h33, h40, h41, h42, h43, h44, h50, h51, h52, h53, h54, h55
    )  # fmt: skip


@inline
def _factor6(a):
    """A = L D L' of a lower triangle as `_lower` has it: the entries of L and of 1 / D; whether A is positive definite, finite.

    In scalars, and without roots: what a step waits for is one division after the other.
    """
    a00, a10, a11, a20, a21, a22, a30, a31, a32, a33, a40, a41, a42, a43, a44, a50, a51, a52, a53, a54, a55 = a
    i0 = 1.0 / a00
    l10, l20, l30 = a10 * i0, a20 * i0, a30 * i0
    l40, l50 = a40 * i0, a50 * i0
    d1 = a11 - l10 * a10
    u21, u31 = a21 - l20 * a10, a31 - l30 * a10
    u41, u51 = a41 - l40 * a10, a51 - l50 * a10
    i1 = 1.0 / d1
    l21, l31 = u21 * i1, u31 * i1
    l41, l51 = u41 * i1, u51 * i1
    d2 = a22 - l20 * a20 - l21 * u21
    u32, u42, u52 = a32 - l30 * a20 - l31 * u21, a42 - l40 * a20 - l41 * u21, a52 - l50 * a20 - l51 * u21
    i2 = 1.0 / d2
    l32, l42, l52 = u32 * i2, u42 * i2, u52 * i2
    d3 = a33 - l30 * a30 - l31 * u31 - l32 * u32
    u43, u53 = a43 - l40 * a30 - l41 * u31 - l42 * u32, a53 - l50 * a30 - l51 * u31 - l52 * u32
    i3 = 1.0 / d3
    l43, l53 = u43 * i3, u53 * i3
    d4 = a44 - l40 * a40 - l41 * u41 - l42 * u42 - l43 * u43
    u54 = a54 - l50 * a40 - l51 * u41 - l52 * u42 - l53 * u43
    i4 = 1.0 / d4
    l54 = u54 * i4
    d5 = a55 - l50 * a50 - l51 * u51 - l52 * u52 - l53 * u53 - l54 * u54
    definite = a00 > 0.0 and d1 > 0.0 and d2 > 0.0 and d3 > 0.0 and d4 > 0.0 and d5 > 0.0
    definite = definite and a00 + d1 + d2 + d3 + d4 + d5 < np.inf
    factors = (
        l10, l20, l21, l30, l31, l32, l40, l41, l42, l43, l50, l51, l52, l53, l54, i0, i1, i2, i3, i4, 1.0 / d5
    )  # fmt: skip
    return factors, definite


@inline
def _solve6(factors, b):
    """x with A x = b, six numbers, by the factors of `_factor6`."""
    l10, l20, l21, l30, l31, l32, l40, l41, l42, l43, l50, l51, l52, l53, l54, i0, i1, i2, i3, i4, i5 = factors
    b0, b1, b2, b3, b4, b5 = b
    y1 = b1 - l10 * b0
    y2 = b2 - l20 * b0 - l21 * y1
    y3 = b3 - l30 * b0 - l31 * y1 - l32 * y2
    y4 = b4 - l40 * b0 - l41 * y1 - l42 * y2 - l43 * y3
    y5 = b5 - l50 * b0 - l51 * y1 - l52 * y2 - l53 * y3 - l54 * y4
    x5 = y5 * i5
    x4 = y4 * i4 - l54 * x5
    x3 = y3 * i3 - l43 * x4 - l53 * x5
    x2 = y2 * i2 - l32 * x3 - l42 * x4 - l52 * x5
    x1 = y1 * i1 - l21 * x2 - l31 * x3 - l41 * x4 - l51 * x5
    x0 = b0 * i0 - l10 * x1 - l20 * x2 - l30 * x3 - l40 * x4 - l50 * x5
    return x0, x1, x2, x3, x4, x5


@kernel_
def damped_step(H, g, damping, yaw_only, step):
    """Fill step (6,) with -(H + D)^-1 g, D = damping times the size of the diagonal of H.

    Returns (by how much the quadratic model falls, whether there is such a step).
    """
    h00, h10, h11, h20, h21, h22, h30, h31, h32, h33, h40, h41, h42, h43, h44, h50, h51, h52, h53, h54, h55 = _lower(
        H, yaw_only, 0.0
    )
    g0, g1, g2 = g[0], g[1], g[2]
    g3, g4, g5 = g[3], g[4], g[5]
    if yaw_only:
        g3 = g5 = 0.0
    a0, a1, a2 = abs(h00), abs(h11), abs(h22)
    a3, a4, a5 = abs(h33), abs(h44), abs(h55)
    least = 1e-6 * max(1e-20, a0, a1, a2, a3, a4, a5)
    d0, d1, d2 = damping * max(a0, least), damping * max(a1, least), damping * max(a2, least)
    d3, d4, d5 = damping * max(a3, least), damping * max(a4, least), damping * max(a5, least)
    factors, definite = _factor6((
        h00 + d0, h10, h11 + d1, h20, h21, h22 + d2, h30, h31, h32, h33 + d3,
        h40, h41, h42, h43, h44 + d4, h50, h51, h52, h53, h54, h55 + d5,
    ))  # fmt: skip
    x0, x1, x2, x3, x4, x5 = _solve6(factors, (-g0, -g1, -g2, -g3, -g4, -g5))
    step[0], step[1], step[2] = x0, x1, x2
    step[3], step[4], step[5] = x3, x4, x5
    # with (H + D) x = -g the model falls by x . (D x - g) / 2
    falls = x0 * (d0 * x0 - g0) + x1 * (d1 * x1 - g1) + x2 * (d2 * x2 - g2)
    falls += x3 * (d3 * x3 - g3) + x4 * (d4 * x4 - g4) + x5 * (d5 * x5 - g5)
    return 0.5 * falls, definite and math.isfinite(x0 + x1 + x2 + x3 + x4 + x5)


@inline
def _keep(H, work):
    for i in range(6):
        for j in range(6):
            work[i, j] = H[i, j]


@kernel_
def descend(rows, T, K, delta, limits, z_min, kernel, pinhole, yaw_only, iterations, trust_region, eps, work, T_new):
    """Trust-region Levenberg-Marquardt from the pose T, in place.

    Returns (cost, whether a stationary point was reached, how much of the cost may be rounding, whether the steps shrank so
    fast that the curvature there is about that of the model, how many were taken). The rules are those of
    `solve.descend_reference`. eps is the rounding of the data; work (15, 6) and T_new (4, 4) are scratch: the first six rows
    are left with the Hessian at the end.
    """
    count = rows.shape[1]
    H, H_new, g = work[0:6], work[6:12], work[12]
    g_new, step = work[13], work[14]
    magnitude = 0.0
    for i in range(count):
        x, y = rows[5, i] * rows[3, i], rows[6, i] * rows[4, i]
        magnitude += x * x + y * y
    most = max(count, 1)
    grain = 4.0 * eps * math.sqrt(magnitude / (2.0 * most))  # rounding of a residual
    coarse = eps > 1e-12 and kernel == SQUARES
    radius, shrink, done = INITIAL_RADIUS, 2.0, False
    fast, before, taken = False, 0.0, 0
    flattest = FLATTEST if trust_region else 0.0
    cost = normal(rows, T, K, delta, limits, z_min, kernel, pinhole, flattest, H, g)
    for taken in range(iterations):
        promised, solvable = damped_step(H, g, 1.0 / radius if trust_region else 1e-6, yaw_only, step)
        if not solvable:
            if not trust_region:
                break
            radius, shrink = max(radius / shrink, 1e-10), min(2.0 * shrink, 1e6)
            continue
        retract(T, step, T_new)
        distance = math.sqrt(T[0, 3] ** 2 + T[1, 3] ** 2 + T[2, 3] ** 2)
        length = math.sqrt(step[3] ** 2 + step[4] ** 2 + step[5] ** 2)
        length += math.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2) / max(distance, 1e-6)
        small = _rounding(eps, cost, grain, most)
        done = radius > 1e-2 and (promised <= small or length <= 16.0 * eps)
        fast = promised <= 0.1 * before and (radius > 1e3 or not trust_region)
        if (
            coarse and fast and 10.0 * promised * promised <= small * before and length < 1e-3
        ):  # the next step is not worth a look
            copy_pose(T_new, T)
            _keep(H, work)
            return cost - promised, True, small, True, taken
        if done:  # what is left to gain cannot be measured: the last step is taken on trust, unless it is no small one
            if length < 1e-4:
                copy_pose(T_new, T)
            break
        cost_new = normal(rows, T_new, K, delta, limits, z_min, kernel, pinhole, flattest, H_new, g_new)
        gain = (cost - cost_new) / max(promised, 1e-300)
        accept = gain > 1e-3 if trust_region else math.isfinite(cost_new)
        if accept:
            before = promised
            copy_pose(T_new, T)
            H, H_new, g, g_new = H_new, H, g_new, g
            cost = cost_new
            radius = min(radius / max(1.0 / RADIUS_GROWTH, 1.0 - (2.0 * gain - 1.0) ** 3), 1e10)
            shrink = 2.0
        else:
            radius, shrink = max(radius / shrink, 1e-10), min(2.0 * shrink, 1e6)
    _keep(H, work)
    return cost, done, _rounding(eps, cost, grain, most), fast, taken


@kernel_
def finish(rows, T, K, delta, limits, z_min, kernel, yaw_only, iterations, rounding, work, T_new):
    """Newton's method with the full Hessian, from where Gauss-Newton stalled or stopped, in place: `solve.finish_reference`.

    Returns (cost, whether T is a minimum: the Hessian is positive definite there and a step would gain less than `TOLERANCE`).
    """
    H, H_new, g = work[0:6], work[6:12], work[12]
    g_new, step = work[13], work[14]
    used = 0.0
    for i in range(rows.shape[1]):
        used += 1.0 if rows[5, i] != 0.0 or rows[6, i] != 0.0 else 0.0
    radius, shrink = 1e6, 2.0
    cost = exact(rows, T, K, delta, limits, z_min, kernel, H, g)
    for k in range(iterations + 1):
        promised, definite = damped_step(H, g, 1e-14, yaw_only, step)
        enough = definite and promised <= TOLERANCE * cost / max(used, 1.0) + rounding
        if enough and promised <= rounding:
            if step[3] ** 2 + step[4] ** 2 + step[5] ** 2 < 1e-8:
                retract(T, step, T_new)
                copy_pose(T_new, T)
            return cost, True
        if k == iterations:
            return cost, enough
        if not (definite and radius >= 1e6):
            promised, solvable = damped_step(H, g, 1.0 / radius, yaw_only, step)
            if not solvable:
                radius, shrink = max(radius / shrink, 1e-10), min(2.0 * shrink, 1e6)
                continue
        retract(T, step, T_new)
        cost_new = exact(rows, T_new, K, delta, limits, z_min, kernel, H_new, g_new)
        gain = (cost - cost_new) / max(promised, 1e-300)
        if gain > 1e-3:
            copy_pose(T_new, T)
            H, H_new, g, g_new = H_new, H, g_new, g
            cost = cost_new
            radius = min(radius / max(1.0 / RADIUS_GROWTH, 1.0 - (2.0 * gain - 1.0) ** 3), 1e10)
            shrink = 2.0
        elif enough:
            return cost, True  # rounding hides what is left
        else:
            radius, shrink = max(min(radius, 1.0) / shrink, 1e-10), min(2.0 * shrink, 1e6)
    return cost, False


@kernel_
def descend_batch(
    points3d, points2d, weights, K, delta, bounds, poses, cost, stopped, z_min, kernel, yaw_only, iterations, trust_region, eps
):
    """Descend from all starts, poses (B, M, 4, 4) in place; fill cost and stopped (B, M)."""
    rows, limits, camera = np.empty((7, points3d.shape[1])), np.empty(4), np.empty((3, 3))
    work, trial, origin = np.empty((15, 6)), np.empty((4, 4)), np.zeros(3)  # a global array is of another type
    for b in range(points3d.shape[0]):
        pinhole, near = lay_out_scaled(
            points3d[b], points2d[b], weights[b], K[b], bounds[b], origin, 1.0, z_min, rows, limits, camera
        )
        for m in range(poses.shape[1]):
            cost[b, m], stopped[b, m], _, _, _ = descend(
                rows,
                poses[b, m],
                camera,
                delta[b],
                limits,
                near,
                kernel,
                pinhole,
                yaw_only,
                iterations,
                trust_region,
                eps,
                work,
                trial,
            )


@kernel_
def _in_view(rows, T, K, z_min):
    """How many points have weight, and whether all of those are farther than z_min."""
    X, Y, Z = rows[0], rows[1], rows[2]
    A, B = rows[5], rows[6]
    d0 = K[2, 0] * T[0, 0] + K[2, 1] * T[1, 0] + K[2, 2] * T[2, 0]
    d1 = K[2, 0] * T[0, 1] + K[2, 1] * T[1, 1] + K[2, 2] * T[2, 1]
    d2 = K[2, 0] * T[0, 2] + K[2, 1] * T[1, 2] + K[2, 2] * T[2, 2]
    d3 = K[2, 0] * T[0, 3] + K[2, 1] * T[1, 3] + K[2, 2] * T[2, 3]
    used, behind = 0.0, 0.0
    for i in range(rows.shape[1]):
        weight = abs(A[i]) + abs(B[i])
        one = 1.0 if weight > 0.0 else 0.0
        depth = d0 * X[i] + d1 * Y[i] + d2 * Z[i] + d3
        used += one
        behind += 0.0 if depth > z_min else one
    return used, behind == 0.0


@kernel_
def distinct(rows, most, blur):
    """`solve.distinct_points` of one problem: how many different points have weight, counted up to `most`."""
    top, first = 0.0, 0
    for i in range(rows.shape[1]):
        weight = abs(rows[5, i]) + abs(rows[6, i])
        if weight > top:
            top, first = weight, i
    if not top > 0.0:
        return 0
    away, least, found = np.empty(rows.shape[1]), blur, 1
    for i in range(rows.shape[1]):
        away[i] = np.inf if abs(rows[5, i]) + abs(rows[6, i]) > COUNTED * top else 0.0
    while found < most:
        far = 0
        for i in range(rows.shape[1]):
            d = max(abs(rows[0, i] - rows[0, first]), abs(rows[1, i] - rows[1, first]), abs(rows[2, i] - rows[2, first]))
            d *= 0.5 * (abs(rows[5, i]) + abs(rows[6, i])) if blur > 0.0 else 1.0
            away[i] = min(away[i], d)
            if away[i] > away[far]:
                far = i
        if found == 1 and blur == 0.0:
            least = DISTINCT * away[far]
        if not away[far] > least:
            break
        found += 1
        first = far
    return found


@kernel_
def _determined(H, yaw_only, top):
    """Whether the lower triangle of H (6, 6), scaled to a diagonal of ones, has no eigenvalue below `UNDETERMINED`."""
    h00, h10, h11, h20, h21, h22, h30, h31, h32, h33, h40, h41, h42, h43, h44, h50, h51, h52, h53, h54, h55 = _lower(
        H, yaw_only, top if top > 0.0 else 1.0
    )
    part = 1.0 - UNDETERMINED
    _, definite = _factor6((
        part * h00, h10, part * h11, h20, h21, part * h22, h30, h31, h32, part * h33,
        h40, h41, h42, h43, part * h44, h50, h51, h52, h53, h54, part * h55,
    ))  # fmt: skip
    return definite


@kernel_
def _along_ray(A, T, Q, back):
    """Turn the translations of A (6, 6) such that the third is along the object's centre, or back; Q (3, 3) keeps the turn.

    Without `back` only the lower triangle of A is read.
    """
    if not back:
        for i in range(6):
            for j in range(i):
                A[j, i] = A[i, j]
        x, y, z = T[0, 3], T[1, 3], T[2, 3]
        length = math.sqrt(x * x + y * y + z * z)
        if not (length > 0.0 and length < np.inf):
            x, y = 0.0, 0.0
            z, length = 1.0, 1.0
        x, y, z = x / length, y / length, z / length
        side = math.sqrt(1.0 - min(y * y, 1.0)) if abs(y) < 0.9 else math.sqrt(1.0 - min(x * x, 1.0))
        if abs(y) < 0.9:  # first column: Y x ray
            Q[0, 0], Q[1, 0], Q[2, 0] = z / side, 0.0, -x / side
        else:  # X x ray
            Q[0, 0], Q[1, 0], Q[2, 0] = 0.0, -z / side, y / side
        Q[0, 2], Q[1, 2], Q[2, 2] = x, y, z
        Q[0, 1] = y * Q[2, 0] - z * Q[1, 0]
        Q[1, 1] = z * Q[0, 0] - x * Q[2, 0]
        Q[2, 1] = x * Q[1, 0] - y * Q[0, 0]
    for side_ in range(2):  # rows, then columns
        for j in range(6):
            if side_ == 0:
                a, b, c = A[0, j], A[1, j], A[2, j]
            else:
                a, b, c = A[j, 0], A[j, 1], A[j, 2]
            for i in range(3):
                q0, q1, q2 = (Q[i, 0], Q[i, 1], Q[i, 2]) if back else (Q[0, i], Q[1, i], Q[2, i])
                v = q0 * a + q1 * b + q2 * c
                if side_ == 0:
                    A[i, j] = v
                else:
                    A[j, i] = v


@kernel_
def flip(rows, T, work, out):
    """Fill out (4, 4) with the other pose that explains flat points nearly as well as T; returns whether they are flat.

    It is T mirrored along the line of sight, and the points across their plane: the two poses of a plane seen from afar.
    """
    S, V = work[0:3, :3], work[3:6, :3]
    S[:] = 0.0
    total = 0.0
    for i in range(rows.shape[1]):
        w = abs(rows[5, i]) + abs(rows[6, i])
        w = 1.0 if w > 0.0 else 0.0
        total += w
        for j in range(3):
            for k in range(j + 1):
                S[j, k] += w * rows[j, i] * rows[k, i]
    m0 = m1 = m2 = 0.0
    for i in range(rows.shape[1]):
        w = 1.0 if abs(rows[5, i]) + abs(rows[6, i]) > 0.0 else 0.0
        m0 += w * rows[0, i]
        m1 += w * rows[1, i]
        m2 += w * rows[2, i]
    if not total > 0.0:
        return False
    S[0, 0] -= m0 * m0 / total
    S[1, 0] -= m1 * m0 / total
    S[1, 1] -= m1 * m1 / total
    S[2, 0] -= m2 * m0 / total
    S[2, 1] -= m2 * m1 / total
    S[2, 2] -= m2 * m2 / total
    S[0, 1], S[0, 2], S[1, 2] = S[1, 0], S[2, 0], S[2, 1]
    for i in range(3):
        for j in range(3):
            V[i, j] = 1.0 if i == j else 0.0
    for _ in range(8):  # Jacobi
        for k in range(3):
            p, q = k, (k + 1) % 3
            if abs(S[p, q]) <= 1e-14 * (S[0, 0] + S[1, 1] + S[2, 2]):
                continue
            theta = 0.5 * (S[q, q] - S[p, p]) / S[p, q]
            t = (1.0 if theta >= 0.0 else -1.0) / (abs(theta) + math.sqrt(theta * theta + 1.0))
            c = 1.0 / math.sqrt(t * t + 1.0)
            s = t * c
            for i in range(3):
                a, b = S[i, p], S[i, q]
                S[i, p], S[i, q] = c * a - s * b, s * a + c * b
            for i in range(3):
                a, b = S[p, i], S[q, i]
                S[p, i], S[q, i] = c * a - s * b, s * a + c * b
                a, b = V[i, p], V[i, q]
                V[i, p], V[i, q] = c * a - s * b, s * a + c * b
    small, large = 0, 0
    for i in range(3):
        if S[i, i] < S[small, small]:
            small = i
        if S[i, i] > S[large, large]:
            large = i
    length = math.sqrt(T[0, 3] ** 2 + T[1, 3] ** 2 + T[2, 3] ** 2)
    if not (S[small, small] <= FLAT * S[large, large] and length > 0.0 and length < np.inf):
        return False
    n0, n1, n2 = V[0, small], V[1, small], V[2, small]
    v0, v1, v2 = T[0, 3] / length, T[1, 3] / length, T[2, 3] / length
    copy_pose(T, out)
    for i in range(3):
        d = 2.0 * (T[i, 0] * n0 + T[i, 1] * n1 + T[i, 2] * n2)
        out[i, 0], out[i, 1], out[i, 2] = T[i, 0] - d * n0, T[i, 1] - d * n1, T[i, 2] - d * n2
    for j in range(3):
        d = 2.0 * (out[0, j] * v0 + out[1, j] * v1 + out[2, j] * v2)
        out[0, j] -= d * v0
        out[1, j] -= d * v1
        out[2, j] -= d * v2
    return True


@kernel_
def judge(rows, T, cost, K, z_min, yaw_only, needed, alone, minimum, H, covariance, basis):
    """Fill covariance (6, 6) from the Gauss-Newton Hessian H (6, 6); returns the Reason: `solve.judge` of one problem."""
    used, in_front = _in_view(rows, T, K, z_min)
    top = 0.0
    for i in range(6):
        for j in range(i + 1):
            H[i, j] = H[i, j] if abs(H[i, j]) < 1e250 else 0.0  # nor NaN
        top = max(top, H[i, i])
    h00, h10, h11, h20, h21, h22, h30, h31, h32, h33, h40, h41, h42, h43, h44, h50, h51, h52, h53, h54, h55 = _lower(
        H, yaw_only, top if top > 0.0 else 1.0
    )
    turned = not _determined(H, yaw_only, top)
    if turned:  # a point of huge weight hides the depth, unless depth is measured along its ray
        _along_ray(H, T, basis, not turned)  # False, and not a constant: for one it would be compiled again
        h00, h10, h11, h20, h21, h22, h30, h31, h32, h33, h40, h41, h42, h43, h44, h50, h51, h52, h53, h54, h55 = _lower(
            H, yaw_only, top if top > 0.0 else 1.0
        )
    part, extra = 1.0 - UNDETERMINED, 0.0  # scaled to a diagonal of ones, no eigenvalue below that
    definite, determined = False, False
    for trial in range(60):
        factors, definite = _factor6((
            part * h00 + extra, h10, part * h11 + extra, h20, h21, part * h22 + extra, h30, h31, h32, part * h33 + extra,
            h40, h41, h42, h43, part * h44 + extra, h50, h51, h52, h53, h54, part * h55 + extra,
        ))  # fmt: skip
        if trial == 0:
            determined = definite
            part, extra = 1.0, 0.0 if determined else (1e-10 * top if top > 0.0 else 1e-10)
        elif definite:
            break
        else:
            extra = max(2.0 * extra, 1e-15 * (h00 + h11 + h22 + h33 + h44 + h55))
    for j in range(6):
        x0, x1, x2, x3, x4, x5 = _solve6(
            factors,
            (
                1.0 if j == 0 else 0.0, 1.0 if j == 1 else 0.0, 1.0 if j == 2 else 0.0,
                1.0 if j == 3 else 0.0, 1.0 if j == 4 else 0.0, 1.0 if j == 5 else 0.0,
            ),
        )  # fmt: skip
        H[j, 0], H[j, 1], H[j, 2] = x0, x1, x2
        H[j, 3], H[j, 4], H[j, 5] = x3, x4, x5
    for i in range(6):
        for j in range(6):
            free = not yaw_only or (i != 3 and i != 5 and j != 3 and j != 5)
            covariance[i, j] = 0.5 * (H[i, j] + H[j, i]) if free else 0.0
    if turned:
        _along_ray(covariance, T, basis, turned)
    # variance of a residual, as the residuals show it, and what it makes of the pose
    noise = 2.0 * cost / max(2.0 * used - (4.0 if yaw_only else 6.0), 1.0)
    turn = max(covariance[3, 3], covariance[4, 4], covariance[5, 5])
    move = covariance[0, 0] + covariance[1, 1] + covariance[2, 2]
    away = T[0, 3] ** 2 + T[1, 3] ** 2 + T[2, 3] ** 2
    if not math.isfinite(cost):
        return NOT_FINITE
    if used < needed or (alone and distinct(rows, needed, 0.0) < needed):
        return TOO_FEW_POINTS
    if not in_front:
        return BEHIND_THE_CAMERA
    if not determined:
        return DEGENERATE if distinct(rows, needed, 0.0) >= needed else TOO_FEW_POINTS
    if not (noise * turn < UNCERTAIN and noise * move < UNCERTAIN * away):
        return DEGENERATE
    if not minimum:
        return ITERATIONS
    size = K[2, 0] ** 2 + K[2, 1] ** 2 + K[2, 2] ** 2
    volume = K[0, 0] * (K[1, 1] * K[2, 2] - K[1, 2] * K[2, 1]) - K[0, 1] * (K[1, 0] * K[2, 2] - K[1, 2] * K[2, 0])
    volume = abs(volume + K[0, 2] * (K[1, 0] * K[2, 1] - K[1, 1] * K[2, 0]))
    blur = BLUR * math.sqrt(noise * away / used * size * math.sqrt(size) / volume)  # volume / size^1.5 is fx fy
    return TOO_FEW_POINTS if alone and distinct(rows, needed, blur) < needed else CONVERGED


@inline
def finite(T):
    """Whether no entry of a pose (4, 4) is NaN or infinite."""
    total = 0.0
    for i in range(3):
        for j in range(4):
            total += T[i, j]
    return math.isfinite(total)


@kernel_
def take_in(pose, centre, scale, T):
    """Fill T (4, 4) with a caller's pose, made rigid as by `geometry.se3.project`, in the own frame; False where it is none."""
    off = 0.0
    for i in range(3):
        for j in range(3):
            T[i, j] = pose[i, j]
            s = 0.0
            for k in range(3):
                s += np.float64(pose[k, i]) * np.float64(pose[k, j])
            s = abs(s - (1.0 if i == j else 0.0))
            off = s if not s <= off else off
    last = max(abs(pose[3, 0]), abs(pose[3, 1]), abs(pose[3, 2]), abs(pose[3, 3] - 1.0))
    det = T[0, 0] * (T[1, 1] * T[2, 2] - T[1, 2] * T[2, 1]) - T[0, 1] * (T[1, 0] * T[2, 2] - T[1, 2] * T[2, 0])
    det += T[0, 2] * (T[1, 0] * T[2, 1] - T[1, 1] * T[2, 0])
    here = abs(pose[0, 3]) < np.inf and abs(pose[1, 3]) < np.inf and abs(pose[2, 3]) < np.inf  # no sum: sums may be reordered
    if not (off <= NEARLY_RIGID and last <= NEARLY_RIGID and det > 0.0 and here):
        return False
    for _ in range(5 if off > 1e-14 else 0):  # Newton-Schulz
        a00 = a01 = a02 = a11 = a12 = a22 = 0.0
        for k in range(3):
            a00 += T[k, 0] * T[k, 0]
            a01 += T[k, 0] * T[k, 1]
            a02 += T[k, 0] * T[k, 2]
            a11 += T[k, 1] * T[k, 1]
            a12 += T[k, 1] * T[k, 2]
            a22 += T[k, 2] * T[k, 2]
        for k in range(3):
            x, y, z = T[k, 0], T[k, 1], T[k, 2]
            T[k, 0] = 1.5 * x - 0.5 * (x * a00 + y * a01 + z * a02)
            T[k, 1] = 1.5 * y - 0.5 * (x * a01 + y * a11 + z * a12)
            T[k, 2] = 1.5 * z - 0.5 * (x * a02 + y * a12 + z * a22)
        if off < 1e-6:
            break
    for i in range(3):
        s = T[i, 0] * centre[0] + T[i, 1] * centre[1] + T[i, 2] * centre[2] + pose[i, 3]
        T[i, 3] = s / scale
    T[3, 0] = T[3, 1] = T[3, 2] = 0.0
    T[3, 3] = 1.0
    return True


@kernel_
def give_back(T, centre, scale, own, pose, covariance):
    """Fill pose (4, 4) with the own T (4, 4) in the caller's frame; turns covariance (6, 6), own -> the caller's, in place."""
    a0, a1, a2 = 0.0, 0.0, 0.0
    c0, c1 = np.float64(centre[0]), np.float64(centre[1])
    c2, unit = np.float64(centre[2]), np.float64(scale)
    a0 = T[0, 0] * c0 + T[0, 1] * c1 + T[0, 2] * c2
    a1 = T[1, 0] * c0 + T[1, 1] * c1 + T[1, 2] * c2
    a2 = T[2, 0] * c0 + T[2, 1] * c1 + T[2, 2] * c2
    copy_pose(T, own)
    copy_pose(T, pose)
    pose[0, 3], pose[1, 3], pose[2, 3] = unit * T[0, 3] - a0, unit * T[1, 3] - a1, unit * T[2, 3] - a2
    for side in range(2):  # A C, then (A C) A'
        for j in range(6):
            if side == 0:
                w0, w1, w2 = covariance[3, j], covariance[4, j], covariance[5, j]
            else:
                w0, w1, w2 = covariance[j, 3], covariance[j, 4], covariance[j, 5]
            x0, x1, x2 = a1 * w2 - a2 * w1, a2 * w0 - a0 * w2, a0 * w1 - a1 * w0
            if side == 0:
                covariance[0, j] = unit * covariance[0, j] + x0
                covariance[1, j] = unit * covariance[1, j] + x1
                covariance[2, j] = unit * covariance[2, j] + x2
            else:
                covariance[j, 0] = unit * covariance[j, 0] + x0
                covariance[j, 1] = unit * covariance[j, 1] + x1
                covariance[j, 2] = unit * covariance[j, 2] + x2


@kernel_
def solve_batch(
    points3d, points2d, weights, K, delta, bounds, centre, scale, starts, pose, own, covariance, cost, reason,
    z_min, kernel, yaw_only, iterations, trust_region, eps, needed, alone, most,
):  # fmt: skip
    """Descend from all starts (B, M, 4, 4); fill the outputs (B, ...) from the cheapest minimum.

    The starts are own ones if alone, else the caller's. most: what no number of the outputs is above. own (B, 4, 4), float64:
    the pose in the frame that it was solved in.
    """
    rows, limits, camera = np.empty((7, points3d.shape[1])), np.empty(4), np.empty((3, 3))
    given = starts.shape[1]
    count = given + 1 if alone and not yaw_only else given  # the last is the flipped best
    work, ends = np.empty((15, 6)), np.empty((count, 4, 4))
    spread, basis = np.empty((6, 6)), np.empty((3, 3))
    trial = np.empty((4, 4))
    costs, state = np.empty(count), np.empty(count, np.int64)
    left, roundings = np.empty(count, np.int64), np.empty(count)
    for b in range(points3d.shape[0]):
        pinhole, near = lay_out_scaled(
            points3d[b], points2d[b], weights[b], K[b], bounds[b], centre[b], scale[b], z_min, rows, limits, camera
        )
        threshold = np.float64(delta[b])
        least, last = np.inf, -1  # least: of minima
        for m in range(count):
            T = ends[m]
            if m == given:
                best = -1
                for k in range(given):
                    if state[k] != 0 and (best < 0 or costs[k] < costs[best]):
                        best = k
                sound = best >= 0 and flip(rows, ends[best], work[6:], T)
            elif alone:
                copy_pose(starts[b, m], T)
                sound = finite(T)
            else:
                sound = take_in(starts[b, m], centre[b], scale[b], T)
            costs[m], state[m] = np.inf, 0  # state: 0 no pose, 1 on its way, 2 stationary, 3 a minimum
            if not sound:
                continue
            last = m
            steps = min(iterations, PATIENCE) if trust_region else iterations
            total, done, roundings[m], fast, taken = descend(
                rows, T, camera, threshold, limits, near, kernel, pinhole, yaw_only, steps, trust_region, eps, work, trial
            )
            costs[m] = total if math.isfinite(total) else np.inf
            state[m], left[m] = (3 if fast else 2) if done else 1, max(iterations - (taken if done else steps), 0)
            if state[m] == 3:
                least = min(least, total)
        fresh = True  # whether work holds the Gauss-Newton Hessian of the last end
        for m in range(count):
            hope = (state[m] == 1 and costs[m] < 100.0 * least) or (state[m] == 2 and costs[m] < least - roundings[m])
            if hope:
                costs[m], minimum = finish(
                    rows, ends[m], camera, threshold, limits, near, kernel, yaw_only, left[m], roundings[m], work, trial
                )
                fresh = False
                state[m] = 3 if minimum else 1
                if minimum:
                    least = min(least, costs[m])
        best = -1
        for m in range(count):
            if state[m] == 3 and (best < 0 or costs[m] < costs[best]):
                best = m
        for m in range(count):  # one that is on its way wins only if it is truly below
            if state[m] == 3 or state[m] == 0:
                continue
            if best < 0 or costs[m] < (1.0 - 1e-3 if state[best] == 3 else 1.0) * costs[best] - roundings[m]:
                best = m
        if best < 0:
            best = 0
            for i in range(3):  # the caller's identity
                for j in range(3):
                    ends[0, i, j] = 1.0 if i == j else 0.0
                ends[0, i, 3] = centre[b, i] / scale[b]
            ends[0, 3, 0] = ends[0, 3, 1] = ends[0, 3, 2] = 0.0
            ends[0, 3, 3] = 1.0
        T = ends[best]
        total = costs[best]
        if not fresh or best != last or kernel != SQUARES or state[best] == 0:  # the covariance is that of the weights rho'
            total = normal(rows, T, camera, threshold, limits, near, kernel, pinhole, 0.0, work[:6], work[12])
        found = judge(rows, T, total, camera, near, yaw_only, needed, alone, state[best] == 3, work[:6], spread, basis)
        if state[best] == 0:
            found = NOT_FINITE
        give_back(T, centre[b], scale[b], own[b], pose[b], spread)
        for i in range(6):
            for j in range(6):
                v = spread[i, j]
                covariance[b, i, j] = v if abs(v) < most else most if v > 0.0 else -most if v < 0.0 else 0.0
        for i in range(3):
            v = pose[b, i, 3]
            pose[b, i, 3] = v if abs(v) < most else 0.0
        cost[b] = total if math.isfinite(total) else 0.0
        reason[b] = found
