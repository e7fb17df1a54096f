"""The exact Hessian of the cost, and the gradients of its slope along a tangent, in one pass over the points each.

The formulas are those of `implicit.hessian`, and of `implicit.slope` differentiated by hand. The arithmetic is in float64,
the batch is spread over torch's threads, and nothing of six columns per point is ever written.
"""

import numpy as np
import torch
from torch import Tensor

from ..problems import Problems
from .cpu import arrays_of, spread, to_numpy
from .numba_costs import SQUARES, in_pixels, kernel_, lay_out, slopes
from .numba_solve import exact


def hessian(problems: Problems, poses: Tensor) -> Tensor:
    """`implicit.hessian` of flat problems at one pose each, (B, 4, 4) -> (B, 6, 6), float64."""
    found = np.empty((len(poses), 6, 6))
    arrays = [*arrays_of(problems), to_numpy(poses, torch.float64), found]
    evaluations = 4 * len(poses) * problems.points3d.shape[1]
    spread(_hessian_batch, evaluations, arrays, problems.z_min, int(problems.kernel))
    return torch.from_numpy(found)


def slope_gradients(problems: Problems, poses: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derivatives of `implicit.slope` at poses (B, 4, 4) along (B, 6) by points3d, points2d, weights, K and delta."""
    found = [np.empty(v.shape) for v in problems[:5]]
    arrays = [*arrays_of(problems), to_numpy(poses, torch.float64), to_numpy(directions, torch.float64), *found]
    evaluations = 4 * len(poses) * problems.points3d.shape[1]
    spread(_slope_gradients_batch, evaluations, arrays, problems.z_min, int(problems.kernel))
    return tuple(torch.from_numpy(v).to(problems.K.dtype) for v in found)  # type: ignore[return-value]


@kernel_
def _hessian_batch(points3d, points2d, weights, K, delta, bounds, poses, H, z_min, kernel):
    """Fill H (B, 6, 6)."""
    rows, g = np.empty((7, points3d.shape[1])), np.empty(6)
    for b in range(points3d.shape[0]):
        lay_out(points3d[b], points2d[b], weights[b], rows)
        exact(rows, poses[b], K[b], delta[b], bounds[b], z_min, kernel, H[b], g)
        for i in range(6):
            for j in range(i):
                H[b, j, i] = H[b, i, j]


def _differentiator(squares):
    """The gradients of one problem for squares, a constant to the compiler, or for the other kernels."""

    @kernel_
    def differentiate(rows, T, K, delta, bounds, z_min, robust, direction, out, dK):
        """Fill out (7, N) with the gradients by what the rows hold and dK (3, 3); returns the gradient by delta."""
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
        v0, v1, v2 = direction[0], direction[1], direction[2]
        w0, w1, w2 = direction[3], direction[4], direction[5]
        kernel, d_delta = SQUARES if squares else robust, 0.0
        d00 = d01 = d02 = d10 = d11 = d12 = d20 = d21 = d22 = 0.0
        for i in range(X.shape[0]):
            px = r00 * X[i] + r01 * Y[i] + r02 * Z[i]
            py = r10 * X[i] + r11 * Y[i] + r12 * Z[i]
            pz = r20 * X[i] + r21 * Y[i] + r22 * Z[i]
            cx, cy, cz = px + t0, py + t1, pz + t2
            ru, rv, inverse, uc, vc, a, b, front = in_pixels(cx, cy, cz, K, U[i], V[i], A[i], B[i], bounds, z_min)
            first, second, by_delta = slopes(ru * ru + rv * rv, delta, kernel)
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

    return differentiate


_squares_gradients, _robust_gradients = _differentiator(True), _differentiator(False)


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
            d_delta[b] = _squares_gradients(rows, poses[b], K[b], delta[b], bounds[b], z_min, kernel, directions[b], out, dK[b])
        else:
            d_delta[b] = _robust_gradients(rows, poses[b], K[b], delta[b], bounds[b], z_min, kernel, directions[b], out, dK[b])
        for i in range(points3d.shape[1]):
            d3[b, i, 0], d3[b, i, 1], d3[b, i, 2] = out[0, i], out[1, i], out[2, i]
            d2[b, i, 0], d2[b, i, 1] = out[3, i], out[4, i]
            dw[b, i, 0], dw[b, i, 1] = out[5, i], out[6, i]
