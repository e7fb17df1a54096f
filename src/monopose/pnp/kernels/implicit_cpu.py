"""The exact Hessian of the cost, and the gradients of its slope along a tangent, in one pass over the points each.

The formulas are those of `implicit.hessian`, and of `implicit.slope` differentiated by hand. The arithmetic is in float64,
the batch is spread over torch's threads, and nothing of six columns per point is ever written.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ..problems import Problems
from .cpu import _array, _cameras, _points, spread
from .numba_costs import CAUCHY, HUBER, SQUARES, inline, kernel_, lay_out


def hessian(problems: Problems, poses: Tensor) -> Tensor:
    """`implicit.hessian` of flat problems at one pose each, (B, 4, 4) -> (B, 6, 6), float64."""
    found = np.empty((len(poses), 6, 6))
    arrays = [*_points(problems), *_cameras(problems, torch.float64), _array(poses, torch.float64), found]
    evaluations = 4 * len(poses) * problems.points3d.shape[1]
    spread(_hessian_batch, evaluations, arrays, problems.z_min, int(problems.kernel))
    return torch.from_numpy(found)


def slope_gradients(problems: Problems, poses: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derivatives of `implicit.slope` at poses (B, 4, 4) along (B, 6) by points3d, points2d, weights, K and delta."""
    found = tuple(torch.empty_like(v, memory_format=torch.contiguous_format) for v in problems[:5])
    arrays = [*_points(problems), *_cameras(problems, torch.float64), _array(poses, torch.float64)]
    arrays += [_array(directions, torch.float64), *(v.numpy() for v in found)]
    evaluations = 4 * len(poses) * problems.points3d.shape[1]
    spread(_slope_gradients_batch, evaluations, arrays, problems.z_min, int(problems.kernel))
    return found  # type: ignore[return-value]


@inline
def _slopes(square, delta, kernel):
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
def _residuals(cx, cy, cz, K, U, V, A, B, bounds, z_min):
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
def _hessian(rows, T, K, delta, bounds, z_min, kernel, H):
    """Fill the lower triangle of H (6, 6)."""
    X, Y, Z, U, V, A, B = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6]
    r00, r01, r02, t0 = T[0, 0], T[0, 1], T[0, 2], T[0, 3]
    r10, r11, r12, t1 = T[1, 0], T[1, 1], T[1, 2], T[1, 3]
    r20, r21, r22, t2 = T[2, 0], T[2, 1], T[2, 2], T[2, 3]
    k00, k01, k02, k10, k11, k12, k20, k21, k22 = (
        K[0, 0],
        K[0, 1],
        K[0, 2],
        K[1, 0],
        K[1, 1],
        K[1, 2],
        K[2, 0],
        K[2, 1],
        K[2, 2],
    )
    h00 = h10 = h11 = h20 = h21 = h22 = h30 = h31 = h32 = h33 = 0.0
    h40 = h41 = h42 = h43 = h44 = h50 = h51 = h52 = h53 = h54 = h55 = 0.0
    for i in range(X.shape[0]):
        px = r00 * X[i] + r01 * Y[i] + r02 * Z[i]
        py = r10 * X[i] + r11 * Y[i] + r12 * Z[i]
        pz = r20 * X[i] + r21 * Y[i] + r22 * Z[i]
        ru, rv, inverse, uc, vc, a, b, front = _residuals(px + t0, py + t1, pz + t2, K, U[i], V[i], A[i], B[i], bounds, z_min)
        a, b = a * inverse, b * inverse
        first, second, _ = _slopes(ru * ru + rv * rv, delta, kernel)
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
        q00, q01, q02 = s00 * k00 + s10 * k10 + s20 * k20, s00 * k01 + s10 * k11 + s20 * k21, s00 * k02 + s10 * k12 + s20 * k22
        q10, q11, q12 = s10 * k00 + s11 * k10 + s21 * k20, s10 * k01 + s11 * k11 + s21 * k21, s10 * k02 + s11 * k12 + s21 * k22
        q20, q21, q22 = s20 * k00 + s21 * k10 + s22 * k20, s20 * k01 + s21 * k11 + s22 * k21, s20 * k02 + s21 * k12 + s22 * k22
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
    H[3, 0], H[3, 1], H[3, 2], H[3, 3] = h30, h31, h32, h33
    H[4, 0], H[4, 1], H[4, 2], H[4, 3], H[4, 4] = h40, h41, h42, h43, h44
    H[5, 0], H[5, 1], H[5, 2], H[5, 3], H[5, 4], H[5, 5] = h50, h51, h52, h53, h54, h55


@kernel_
def _hessian_squares(rows, T, K, delta, bounds, z_min, H):
    _hessian(rows, T, K, delta, bounds, z_min, SQUARES, H)


@kernel_
def _hessian_huber(rows, T, K, delta, bounds, z_min, H):
    _hessian(rows, T, K, delta, bounds, z_min, HUBER, H)


@kernel_
def _hessian_cauchy(rows, T, K, delta, bounds, z_min, H):
    _hessian(rows, T, K, delta, bounds, z_min, CAUCHY, H)


@kernel_
def _hessian_batch(points3d, points2d, weights, K, delta, bounds, poses, H, z_min, kernel):
    """Fill H (B, 6, 6)."""
    rows = np.empty((7, points3d.shape[1]))
    for b in range(points3d.shape[0]):
        lay_out(points3d[b], points2d[b], weights[b], rows)
        if kernel == SQUARES:
            _hessian_squares(rows, poses[b], K[b], delta[b], bounds[b], z_min, H[b])
        elif kernel == HUBER:
            _hessian_huber(rows, poses[b], K[b], delta[b], bounds[b], z_min, H[b])
        else:
            _hessian_cauchy(rows, poses[b], K[b], delta[b], bounds[b], z_min, H[b])
        for i in range(6):
            for j in range(i):
                H[b, j, i] = H[b, i, j]


@inline
def _slope_gradients(rows, T, K, delta, bounds, z_min, kernel, direction, out, dK):
    """Fill out (7, N) with the gradients by what the rows hold and dK (3, 3); returns the gradient by delta."""
    X, Y, Z, U, V, A, B = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6]
    r00, r01, r02, t0 = T[0, 0], T[0, 1], T[0, 2], T[0, 3]
    r10, r11, r12, t1 = T[1, 0], T[1, 1], T[1, 2], T[1, 3]
    r20, r21, r22, t2 = T[2, 0], T[2, 1], T[2, 2], T[2, 3]
    k00, k01, k02, k10, k11, k12, k20, k21, k22 = (
        K[0, 0],
        K[0, 1],
        K[0, 2],
        K[1, 0],
        K[1, 1],
        K[1, 2],
        K[2, 0],
        K[2, 1],
        K[2, 2],
    )
    v0, v1, v2, w0, w1, w2 = direction[0], direction[1], direction[2], direction[3], direction[4], direction[5]
    d_delta = 0.0
    d00 = d01 = d02 = d10 = d11 = d12 = d20 = d21 = d22 = 0.0
    for i in range(X.shape[0]):
        px = r00 * X[i] + r01 * Y[i] + r02 * Z[i]
        py = r10 * X[i] + r11 * Y[i] + r12 * Z[i]
        pz = r20 * X[i] + r21 * Y[i] + r22 * Z[i]
        cx, cy, cz = px + t0, py + t1, pz + t2
        ru, rv, inverse, uc, vc, a, b, front = _residuals(cx, cy, cz, K, U[i], V[i], A[i], B[i], bounds, z_min)
        first, second, by_delta = _slopes(ru * ru + rv * rv, delta, kernel)
        # velocities: of the point, of K p, of the pixel, of the residual
        mx, my, mz = v0 + w1 * pz - w2 * py, v1 + w2 * px - w0 * pz, v2 + w0 * py - w1 * px
        n2 = front * (k20 * mx + k21 * my + k22 * mz)
        flow_u = (k00 * mx + k01 * my + k02 * mz - n2 * uc) * inverse
        flow_v = (k10 * mx + k11 * my + k12 * mz - n2 * vc) * inverse
        su, sv = a * flow_u, b * flow_v
        # The slope is first * (r . s). Its derivatives by s, first * r, and by r:
        speed = ru * su + rv * sv
        gu, gv = first * ru, first * rv
        hu, hv = first * su + 2.0 * second * speed * ru, first * sv + 2.0 * second * speed * rv
        d_delta += by_delta * speed
        free_u = 1.0 if a == A[i] else 0.0  # where the weight itself is 0, all that follows is 0
        free_v = 1.0 if b == B[i] else 0.0
        out[5, i] = hu * (uc - U[i]) + gu * free_u * flow_u
        out[6, i] = hv * (vc - V[i]) + gv * free_v * flow_v
        out[3, i] = -hu * A[i]
        out[4, i] = -hv * B[i]
        # by the velocity of K p, (e0, e1, e2), and by K p, (l0, l1, l2)
        e0, e1 = gu * a * inverse, gv * b * inverse
        l0, l1 = hu * a * inverse - e0 * n2 * inverse, hv * b * inverse - e1 * n2 * inverse
        e2 = -front * (e0 * uc + e1 * vc)
        l2 = -front * (l0 * uc + l1 * vc + e0 * flow_u + e1 * flow_v)
        d00 += l0 * cx + e0 * mx
        d01 += l0 * cy + e0 * my
        d02 += l0 * cz + e0 * mz
        d10 += l1 * cx + e1 * mx
        d11 += l1 * cy + e1 * my
        d12 += l1 * cz + e1 * mz
        d20 += l2 * cx + e2 * mx
        d21 += l2 * cy + e2 * my
        d22 += l2 * cz + e2 * mz
        # by the turned point: K' l, and (K' e) x omega for the velocity
        f0, f1, f2 = k00 * e0 + k10 * e1 + k20 * e2, k01 * e0 + k11 * e1 + k21 * e2, k02 * e0 + k12 * e1 + k22 * e2
        q0 = k00 * l0 + k10 * l1 + k20 * l2 + f1 * w2 - f2 * w1
        q1 = k01 * l0 + k11 * l1 + k21 * l2 + f2 * w0 - f0 * w2
        q2 = k02 * l0 + k12 * l1 + k22 * l2 + f0 * w1 - f1 * w0
        out[0, i] = r00 * q0 + r10 * q1 + r20 * q2
        out[1, i] = r01 * q0 + r11 * q1 + r21 * q2
        out[2, i] = r02 * q0 + r12 * q1 + r22 * q2
    dK[0, 0], dK[0, 1], dK[0, 2] = d00, d01, d02
    dK[1, 0], dK[1, 1], dK[1, 2] = d10, d11, d12
    dK[2, 0], dK[2, 1], dK[2, 2] = d20, d21, d22
    return d_delta


@kernel_
def _slope_gradients_squares(rows, T, K, delta, bounds, z_min, direction, out, dK):
    return _slope_gradients(rows, T, K, delta, bounds, z_min, SQUARES, direction, out, dK)


@kernel_
def _slope_gradients_huber(rows, T, K, delta, bounds, z_min, direction, out, dK):
    return _slope_gradients(rows, T, K, delta, bounds, z_min, HUBER, direction, out, dK)


@kernel_
def _slope_gradients_cauchy(rows, T, K, delta, bounds, z_min, direction, out, dK):
    return _slope_gradients(rows, T, K, delta, bounds, z_min, CAUCHY, direction, out, dK)


@kernel_
def _slope_gradients_batch(
    points3d, points2d, weights, K, delta, bounds, poses, directions, d3, d2, dw, dK, d_delta, z_min, kernel
):
    """Fill d3 (B, N, 3), d2 (B, N, 2), dw (B, N, 2), dK (B, 3, 3), d_delta (B,)."""
    rows = np.empty((7, points3d.shape[1]))
    out = np.empty((7, points3d.shape[1]))
    for b in range(points3d.shape[0]):
        lay_out(points3d[b], points2d[b], weights[b], rows)
        if kernel == SQUARES:
            d_delta[b] = _slope_gradients_squares(rows, poses[b], K[b], delta[b], bounds[b], z_min, directions[b], out, dK[b])
        elif kernel == HUBER:
            d_delta[b] = _slope_gradients_huber(rows, poses[b], K[b], delta[b], bounds[b], z_min, directions[b], out, dK[b])
        else:
            d_delta[b] = _slope_gradients_cauchy(rows, poses[b], K[b], delta[b], bounds[b], z_min, directions[b], out, dK[b])
        for i in range(points3d.shape[1]):
            d3[b, i, 0], d3[b, i, 1], d3[b, i, 2] = out[0, i], out[1, i], out[2, i]
            d2[b, i, 0], d2[b, i, 1] = out[3, i], out[4, i]
            dw[b, i, 0], dw[b, i, 1] = out[5, i], out[6, i]
