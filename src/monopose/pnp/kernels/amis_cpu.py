"""The rounds of `amis.sample_reference` fused: everything but the costs, one problem at a time, in float64.

Densities are added as they are, not as logarithms: Student-t and angular central Gaussian are powers, which float64 holds.
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from .. import distributions
from ..problems import Problems
from . import cpu
from .numba_costs import kernel_

T_NORM = math.exp(math.log(2) - math.lgamma(1.5) - 1.5 * math.log(3 * math.pi))
ACG_NORM = 1 / (8 * math.pi**2)  # 1 / (2 pi^2), per rad^3 instead of per area of S^3
CELLS = 128  # of the table of `distributions.von_mises_quantiles`
FLOOR, MEMORY, UNIFORM_6, UNIFORM_4 = (
    distributions.FLOOR,
    distributions.MEMORY,
    distributions.UNIFORM[6],
    distributions.UNIFORM[4],
)


@kernel_
def cholesky(A, L):
    """Lower factor of a symmetric matrix; False where it is not positive."""
    n = A.shape[0]
    L[:] = 0.0
    for i in range(n):
        for j in range(i + 1):
            total = A[i, j]
            for k in range(j):
                total -= L[i, k] * L[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                L[i, i] = math.sqrt(total)
            else:
                L[i, j] = total / L[j, j]
    return True


@kernel_
def acg_tril(dispersion, A, L):
    """`distributions.acg_tril` of one matrix into L; A is scratch, (4, 4)."""
    trace = max(dispersion[0, 0] + dispersion[1, 1] + dispersion[2, 2] + dispersion[3, 3], 1e-30)
    for i in range(4):
        for j in range(4):
            A[i, j] = dispersion[i, j] / trace
        A[i, i] += 1e-14
    good = cholesky(A, L)
    if good:
        widen = 1e-3 * math.sqrt(L[0, 0] * L[1, 1] * L[2, 2] * L[3, 3])
        for i in range(4):
            A[i, i] += widen
        good = cholesky(A, L)
    if not good:
        L[:] = 0.0
        for i in range(4):
            L[i, i] = 1.0


@kernel_
def von_mises_table(kappa, levels, nodes):
    """Fill the table of `distributions.von_mises_quantiles`; returns the integral of exp(kappa (cos - 1))."""
    width = math.sqrt(1 / (1 + kappa))
    levels[0] = 0.0
    before = 0.0
    for i in range(CELLS + 1):
        step = min(max(i / CELLS - 0.5, -0.5 + 1e-7), 0.5 - 1e-7)
        tangent = width * math.tan(math.pi * step)
        nodes[i] = 2 * math.atan(tangent)
        half = math.sin(nodes[i] / 2)
        density = (width * width + tangent * tangent) / (1 + tangent * tangent) * math.exp(-2 * kappa * half * half)
        if i > 0:
            levels[i] = levels[i - 1] + (density + before) / 2
        before = density
    total = levels[CELLS]
    for i in range(CELLS + 1):
        levels[i] /= total
    return total * 2 * math.pi / (CELLS * width)


@kernel_
def densities_6(rows, begin, end, counts, loc, tril, acg, quat, shift, out):
    """`amis.densities` of one component at the samples rows[:, begin:end], (7, n); shift (3, 4) is of `follow_quaternions`."""
    X, Y, Z = rows[0][begin:end], rows[1][begin:end], rows[2][begin:end]
    Q0, Q1, Q2, Q3 = rows[3][begin:end], rows[4][begin:end], rows[5][begin:end], rows[6][begin:end]
    x, y, z, t10, t20, t21 = loc[0], loc[1], loc[2], tril[1, 0], tril[2, 0], tril[2, 1]
    i00, i11, i22 = 1 / tril[0, 0], 1 / tril[1, 1], 1 / tril[2, 2]
    m0, m1, m2, m3 = quat[0], quat[1], quat[2], quat[3]
    s00, s01, s02, s03 = shift[0, 0], shift[0, 1], shift[0, 2], shift[0, 3]
    s10, s11, s12, s13 = shift[1, 0], shift[1, 1], shift[1, 2], shift[1, 3]
    s20, s21, s22, s23 = shift[2, 0], shift[2, 1], shift[2, 2], shift[2, 3]
    a10, a20, a21, a30, a31, a32 = acg[1, 0], acg[2, 0], acg[2, 1], acg[3, 0], acg[3, 1], acg[3, 2]
    j0, j1, j2, j3 = 1 / acg[0, 0], 1 / acg[1, 1], 1 / acg[2, 2], 1 / acg[3, 3]
    norm = T_NORM * ACG_NORM * i00 * i11 * i22
    own, everywhere = norm * counts[0] * j0 * j1 * j2 * j3, norm * counts[1]
    third = 1 / 3
    for s in range(out.shape[0]):
        q0, q1, q2, q3 = np.float64(Q0[s]), np.float64(Q1[s]), np.float64(Q2[s]), np.float64(Q3[s])
        along = q0 * m0 + q1 * m1 + q2 * m2 + q3 * m3
        dx = X[s] - x - along * (s00 * q0 + s01 * q1 + s02 * q2 + s03 * q3)
        dy = Y[s] - y - along * (s10 * q0 + s11 * q1 + s12 * q2 + s13 * q3)
        dz = Z[s] - z - along * (s20 * q0 + s21 * q1 + s22 * q2 + s23 * q3)
        y0 = dx * i00
        y1 = (dy - t10 * y0) * i11
        y2 = (dz - t20 * y0 - t21 * y1) * i22
        d = 1.0 + (y0 * y0 + y1 * y1 + y2 * y2) * third
        r0 = q0 * j0
        r1 = (q1 - a10 * r0) * j1
        r2 = (q2 - a20 * r0 - a21 * r1) * j2
        r3 = (q3 - a30 * r0 - a31 * r1 - a32 * r2) * j3
        e = r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3
        ee = e * e
        out[s] = (own + everywhere * ee) / (d * d * d * ee)


@kernel_
def densities_4(rows, begin, end, counts, loc, tril, turning, yaw, follow, out):
    """`amis.densities` of one component at the samples rows[:, begin:end], (4, n)."""
    X, Y, Z, A = rows[0][begin:end], rows[1][begin:end], rows[2][begin:end], rows[3][begin:end]
    mean, kappa, integral = turning[0, 0], turning[0, 1], turning[0, 2]
    x, y, z, t10, t20, t21 = loc[0], loc[1], loc[2], tril[1, 0], tril[2, 0], tril[2, 1]
    i00, i11, i22 = 1 / tril[0, 0], 1 / tril[1, 1], 1 / tril[2, 2]
    f0, f1, f2 = follow[0, 0], follow[1, 0], follow[2, 0]
    norm = T_NORM * i00 * i11 * i22
    own, everywhere = norm * counts[0] / integral, norm * counts[1] / (2 * math.pi)
    for s in range(out.shape[0]):
        sine = math.sin(A[s] - yaw)
        y0 = (X[s] - x - f0 * sine) * i00
        y1 = (Y[s] - y - f1 * sine - t10 * y0) * i11
        y2 = (Z[s] - z - f2 * sine - t20 * y0 - t21 * y1) * i22
        d = 1.0 + (y0 * y0 + y1 * y1 + y2 * y2) / 3
        half = math.sin((A[s] - mean) / 2)
        out[s] = (own * math.exp(-2 * kappa * half * half) + everywhere) / (d * d * d)


@kernel_
def follow_quaternions(quat, follow, shift):
    """Fill shift (3, 4): the centre moves by <q, quat> * shift @ q, which is follow @ `amis.sines`."""
    w, x, y, z = quat[0], quat[1], quat[2], quat[3]
    for i in range(3):
        a, b, c = 2 * follow[i, 0], 2 * follow[i, 1], 2 * follow[i, 2]
        shift[i, 0] = -a * x - b * y - c * z
        shift[i, 1] = a * w + b * z - c * y
        shift[i, 2] = -a * z + b * w + c * x
        shift[i, 3] = a * y - b * x + c * w


@kernel_
def add(values, total):
    for s in range(total.shape[0]):
        total[s] += values[s]


@kernel_
def draw_places(random, loc, tril, turn, shift, follow, dof, rows, begin, end, offset):
    """`distributions.student_t_from_normals` around the place that follows the rotation: random[:6] -> rows[:3]."""
    real = rows.dtype.type
    l00, l10, l11, l20, l21, l22 = tril[0, 0], tril[1, 0], tril[1, 1], tril[2, 0], tril[2, 1], tril[2, 2]
    for s in range(begin, end):
        a, b, c = np.float64(random[3, s]), np.float64(random[4, s]), np.float64(random[5, s])
        scale = 1 / math.sqrt(max((a * a + b * b + c * c) / 3, 1e-30))
        a, b, c = random[0, s] * scale, random[1, s] * scale, random[2, s] * scale
        k = offset + s
        if dof == 6:
            w, x, y, z = np.float64(rows[3, k]), np.float64(rows[4, k]), np.float64(rows[5, k]), np.float64(rows[6, k])
            along = w * turn[0] + x * turn[1] + y * turn[2] + z * turn[3]
            dx = along * (shift[0, 0] * w + shift[0, 1] * x + shift[0, 2] * y + shift[0, 3] * z)
            dy = along * (shift[1, 0] * w + shift[1, 1] * x + shift[1, 2] * y + shift[1, 3] * z)
            dz = along * (shift[2, 0] * w + shift[2, 1] * x + shift[2, 2] * y + shift[2, 3] * z)
        else:
            sine = math.sin(rows[3, k] - turn[0])
            dx, dy, dz = follow[0, 0] * sine, follow[1, 0] * sine, follow[2, 0] * sine
        rows[0, k] = real(loc[0] + dx + l00 * a)
        rows[1, k] = real(loc[1] + dy + l10 * a + l11 * b)
        rows[2, k] = real(loc[2] + dz + l20 * a + l21 * b + l22 * c)


@kernel_
def draw_quaternions(random, L, rows, begin, end, offset):
    """`distributions.acg_from_normals`: random[6:10] -> rows[3:7]."""
    real = rows.dtype.type
    l10, l20, l21, l30, l31, l32 = L[1, 0], L[2, 0], L[2, 1], L[3, 0], L[3, 1], L[3, 2]
    l00, l11, l22, l33 = L[0, 0], L[1, 1], L[2, 2], L[3, 3]
    for s in range(begin, end):
        a, b, c, d = np.float64(random[6, s]), np.float64(random[7, s]), np.float64(random[8, s]), np.float64(random[9, s])
        q0 = l00 * a
        q1 = l10 * a + l11 * b
        q2 = l20 * a + l21 * b + l22 * c
        q3 = l30 * a + l31 * b + l32 * c + l33 * d
        scale = 1 / max(math.sqrt(q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3), 1e-30)
        rows[3, offset + s] = real(q0 * scale)
        rows[4, offset + s] = real(q1 * scale)
        rows[5, offset + s] = real(q2 * scale)
        rows[6, offset + s] = real(q3 * scale)


@kernel_
def draw_yaws(random, yaw, levels, nodes, everywhere, rows, begin, end, offset):
    """`distributions.von_mises_from_uniforms` of random[6], or random[7] as an angle -> rows[3]."""
    real = rows.dtype.type
    for s in range(begin, end):
        if everywhere:
            rows[3, offset + s] = real(2 * math.pi * np.float64(random[7, s]))
            continue
        u = np.float64(random[6, s])
        low, high = 0, CELLS
        while high - low > 1:
            middle = (low + high) // 2
            if levels[middle] <= u:
                low = middle
            else:
                high = middle
        part = min(max((u - levels[low]) / max(levels[low + 1] - levels[low], 1e-30), 0.0), 1.0)
        rows[3, offset + s] = real(yaw + nodes[low] + part * (nodes[low + 1] - nodes[low]))


@kernel_
def write_poses(rows, begin, end, centre, base, unit, dof, poses):
    """`amis.poses`: rows[:, begin:end] -> poses (n, 4, 4)."""
    real = poses.dtype.type
    cx, cy, cz = centre[0], centre[1], centre[2]
    for s in range(begin, end):
        if dof == 6:
            w, x, y, z = np.float64(rows[3, s]), np.float64(rows[4, s]), np.float64(rows[5, s]), np.float64(rows[6, s])
            k = 2 / (w * w + x * x + y * y + z * z)
            r00, r01, r02 = 1 - k * (y * y + z * z), k * (x * y - w * z), k * (x * z + w * y)
            r10, r11, r12 = k * (x * y + w * z), 1 - k * (x * x + z * z), k * (y * z - w * x)
            r20, r21, r22 = k * (x * z - w * y), k * (y * z + w * x), 1 - k * (x * x + y * y)
        else:
            c, d = math.cos(np.float64(rows[3, s])), math.sin(np.float64(rows[3, s]))
            r00, r01, r02 = c * base[0, 0] + d * base[2, 0], c * base[0, 1] + d * base[2, 1], c * base[0, 2] + d * base[2, 2]
            r10, r11, r12 = base[1, 0], base[1, 1], base[1, 2]
            r20, r21, r22 = c * base[2, 0] - d * base[0, 0], c * base[2, 1] - d * base[0, 1], c * base[2, 2] - d * base[0, 2]
        pose = poses[s - begin]
        pose[0, 0], pose[0, 1], pose[0, 2] = real(r00), real(r01), real(r02)
        pose[1, 0], pose[1, 1], pose[1, 2] = real(r10), real(r11), real(r12)
        pose[2, 0], pose[2, 1], pose[2, 2] = real(r20), real(r21), real(r22)
        p, q = np.float64(rows[0, s]), np.float64(rows[1, s])
        square = p * p + q * q
        size = unit * math.exp(np.float64(rows[2, s])) / (1 + square)
        pose[0, 3] = real(2 * p * size - (r00 * cx + r01 * cy + r02 * cz))
        pose[1, 3] = real(2 * q * size - (r10 * cx + r11 * cy + r12 * cz))
        pose[2, 3] = real((1 - square) * size - (r20 * cx + r21 * cy + r22 * cz))
        pose[3, 0], pose[3, 1], pose[3, 2], pose[3, 3] = real(0), real(0), real(0), real(1)


@kernel_
def write_all(rows_all, centre, base, unit, poses, edges, dof):
    """`amis.poses` of the samples rows_all (B, H, 7 or 4, n) of all rounds, in the order of rounds and halves: (B, S, 4, 4)."""
    halves = rows_all.shape[1]
    for b in range(len(poses)):
        for i in range(len(edges) - 1):
            begin, end = edges[i], edges[i + 1]
            for h in range(halves):
                first = halves * begin + h * (end - begin)
                write_poses(rows_all[b, h], begin, end, centre[b], base[b], unit[b], dof, poses[b, first : first + end - begin])


@kernel_
def add_sines(rows, turn, dof, out):
    """`amis.sines` of the samples rows relative to one minimum: out (3 or 1, n)."""
    if dof == 4:
        A = rows[3]
        for s in range(out.shape[1]):
            out[0, s] = math.sin(A[s] - turn[0])
        return
    W, X, Y, Z, a, b, c = rows[3], rows[4], rows[5], rows[6], out[0], out[1], out[2]
    m0, m1, m2, m3 = turn[0], turn[1], turn[2], turn[3]
    for s in range(out.shape[1]):
        w, x, y, z = np.float64(W[s]), np.float64(X[s]), np.float64(Y[s]), np.float64(Z[s])
        along = 2 * (w * m0 + x * m1 + y * m2 + z * m3)
        a[s] = along * (-w * m1 + x * m0 - y * m3 + z * m2)
        b[s] = along * (-w * m2 + x * m3 + y * m0 - z * m1)
        c[s] = along * (-w * m3 - x * m2 + y * m1 + z * m0)


@kernel_
def product(own, a, b):
    """The sum of own * a * b."""
    total = 0.0
    for s in range(own.shape[0]):
        total += own[s] * a[s] * b[s]
    return total


@kernel_
def fit_moments(rows, factor, each, own, old, beside, mean, moments):
    """Pull one component's mean (3 + d,) and moments (3 + d, 3 + d) to samples of weight factor * each: total weight, trust.

    own (n,) becomes the weights, which sum to one; beside (3 + d, n) holds the sines in its last rows, and becomes all
    coordinates minus the old mean.
    """
    total, square = 0.0, 0.0
    for s in range(own.shape[0]):
        v = factor[s] * each[s]
        own[s] = v
        total += v
        square += v * v
    if not total > 1e-12:
        for i in range(len(old)):
            mean[i] = old[i]
        return max(total, 0.0), 0.0
    scale = 1 / total
    for s in range(own.shape[0]):
        own[s] *= scale
    effective = 1 / max(square * scale * scale, 1e-12)
    trust = effective / (effective + MEMORY)
    for i in range(len(old)):
        away, was = beside[i], old[i]
        gain = 0.0
        if i < 3:
            source = rows[i]
            for s in range(own.shape[0]):
                away[s] = source[s] - was
                gain += own[s] * away[s]
        else:
            for s in range(own.shape[0]):
                away[s] -= was
                gain += own[s] * away[s]
        mean[i] = gain
    # moments around the new mean plus trust (1 - trust) (mean - old)^2 are together E - trust mean^2 around the old one
    for i in range(len(old)):
        for j in range(i + 1):
            found = product(own, beside[i], beside[j]) - trust * mean[i] * mean[j]
            moments[i, j] = moments[j, i] = trust * found + (1 - trust) * moments[i, j]
    for i in range(len(old)):
        mean[i] = old[i] + trust * mean[i]
    return total, trust


@kernel_
def fit_acg(rows, own, trust, turn, A, L):
    """`distributions.acg_fit` by weights own (n,), blended into turn (4, 4)."""
    W, X, Y, Z = rows[3], rows[4], rows[5], rows[6]
    A[:] = 0.0
    for i in range(4):
        A[i, i] = 1.0
    for _ in range(3):
        for i in range(4):
            A[i, i] += 1e-12
        if not cholesky(A, L):
            L[:] = 0.0
            for i in range(4):
                L[i, i] = 1.0
        a10, a20, a21, a30, a31, a32 = L[1, 0], L[2, 0], L[2, 1], L[3, 0], L[3, 1], L[3, 2]
        j0, j1, j2, j3 = 1 / L[0, 0], 1 / L[1, 1], 1 / L[2, 2], 1 / L[3, 3]
        total, ww, wx, wy, wz, xx, xy, xz, yy, yz, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for s in range(own.shape[0]):
            w, x, y, z = np.float64(W[s]), np.float64(X[s]), np.float64(Y[s]), np.float64(Z[s])
            r0 = w * j0
            r1 = (x - a10 * r0) * j1
            r2 = (y - a20 * r0 - a21 * r1) * j2
            r3 = (z - a30 * r0 - a31 * r1 - a32 * r2) * j3
            v = own[s] / (r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3)
            total += v
            vw, vx, vy, vz = v * w, v * x, v * y, v * z
            ww += vw * w
            wx += vw * x
            wy += vw * y
            wz += vw * z
            xx += vx * x
            xy += vx * y
            xz += vx * z
            yy += vy * y
            yz += vy * z
            zz += vz * z
        scale = 1 / max(total, 1e-30)
        A[0, 0], A[1, 1], A[2, 2], A[3, 3] = ww * scale, xx * scale, yy * scale, zz * scale
        A[1, 0], A[2, 0], A[3, 0] = wx * scale, wy * scale, wz * scale
        A[2, 1], A[3, 1], A[3, 2] = xy * scale, xz * scale, yz * scale
        A[0, 1], A[0, 2], A[0, 3], A[1, 2], A[1, 3], A[2, 3] = A[1, 0], A[2, 0], A[3, 0], A[2, 1], A[3, 1], A[3, 2]
    for i in range(4):
        for j in range(4):
            turn[i, j] = trust * A[i, j] + (1 - trust) * turn[i, j]


@kernel_
def fit_yaw(rows, own, trust, turn):
    """Blend the mean (cos, sin) by weights own (n,) into turn (2,)."""
    c, d = 0.0, 0.0
    for s in range(own.shape[0]):
        c += own[s] * math.cos(np.float64(rows[3, s]))
        d += own[s] * math.sin(np.float64(rows[3, s]))
    turn[0] = trust * c + (1 - trust) * turn[0]
    turn[1] = trust * d + (1 - trust) * turn[1]


@kernel_
def count(share, present, size, uniform, counts):
    """Floor and normalise shares (M,), and divide `size` samples among counts (M, 2), as `amis.proposal` does."""
    total = 0.0
    for m in range(len(share)):
        share[m] = max(share[m], FLOOR) if present[m] else 0.0
        total += share[m]
    reached, end = 0.0, 0.0
    for m in range(len(share)):
        for part in range(2):
            end += share[m] / total * (uniform if part == 1 else 1 - uniform)
            last = m == len(share) - 1 and part == 1
            edge = float(size) if last else np.floor(end * size + 0.5)
            counts[m, part] = edge - reached
            reached = edge


@kernel_
def raise_(A):
    """Add a billionth of the mean diagonal, `amis._raised`."""
    mean = 0.0
    for i in range(len(A)):
        mean += A[i, i]
    mean = max(mean / len(A), 1e-20)
    for i in range(len(A)):
        A[i, i] += 1e-9 * mean


@kernel_
def centre_given_rotation(mean, moments, loc, follow, tril, A):
    """Fill loc (3,), follow (3, d) and tril (3, 3) as `amis.proposal` does; A is scratch, (3, 3)."""
    d = len(mean) - 3
    B, L = np.empty((d, d)), np.empty((d, d))
    for i in range(d):
        for j in range(d):
            B[i, j] = moments[3 + i, 3 + j]
    raise_(B)
    if not cholesky(B, L):
        L[:] = 0.0
        for i in range(d):
            L[i, i] = 1.0
    for row in range(3):
        for i in range(d):  # follow = across (L L')^-1, row by row
            total = moments[row, 3 + i]
            for k in range(i):
                total -= L[i, k] * follow[row, k]
            follow[row, i] = total / L[i, i]
        for i in range(d - 1, -1, -1):
            total = follow[row, i]
            for k in range(i + 1, d):
                total -= L[k, i] * follow[row, k]
            follow[row, i] = total / L[i, i]
    for i in range(3):
        loc[i] = mean[i]
        for k in range(d):
            loc[i] -= follow[i, k] * mean[3 + k]
        for j in range(3):
            A[i, j] = moments[i, j]
            for k in range(d):
                A[i, j] -= follow[i, k] * moments[j, 3 + k]
    raise_(A)
    if not cholesky(A, tril):
        scale = max((moments[0, 0] + moments[1, 1] + moments[2, 2]) / 3, 1e-20)
        tril[:] = 0.0
        for i in range(3):
            tril[i, i] = math.sqrt(scale)


@kernel_
def advance(
    present, furthest, unit, centre, base, turns, counts, loc, follow, tril, turning, shift, mean, moments, turn,
    rows_all, mixture_all, costs_all, random, poses, stage, start, end, nxt, dof,
):  # fmt: skip
    """One stage for every problem of the batch: weigh the samples of round stage - 1, fit, and draw those of round `stage`.

    Args (B problems, H halves, R rounds, M components, n samples of a half, d of `amis.Proposal`):
        present (B, M); furthest, unit, centre, base, turns: of `amis.Frame`.
        counts (B, H, R, M, 2), loc (..., 3), follow (..., 3, d), tril (..., 3, 3), turning (..., 4, 4): factor of the ACG, or
        for dof 4 in its first row yaw, kappa and the integral, shift (..., 3, 4) of `follow_quaternions`: of every round.
        mean (B, H, M, 3 + d), moments (B, H, M, 3 + d, 3 + d), turn (B, H, M, 4, 4 or 1, 2): what the next fit blends with.
        rows_all (B, H, 7 or 4, n), mixture_all (B, H, n), costs_all (B, H, n): all samples so far.
        random (B, H, numbers, size), poses (B, H, size, 4, 4): of the round to draw.
        stage, start, end, nxt: samples [start, end) are those of the previous round, [end, nxt) are drawn.
    """
    halves, components, axes = counts.shape[1], counts.shape[3], mean.shape[3]
    uniform = UNIFORM_6 if dof == 6 else UNIFORM_4
    each, factor = np.empty((halves, components, max(end, 1))), np.empty((halves, max(end, 1)))
    own, beside = np.empty(end), np.empty((axes, end))
    levels, nodes, share = np.empty(CELLS + 1), np.empty(CELLS + 1), np.empty(components)
    A3, A4, L4, old = np.empty((3, 3)), np.empty((4, 4)), np.empty((4, 4)), np.empty(axes)
    for b in range(len(counts)):
        if stage > 0:
            last = stage - 1
            for h in range(halves):
                rows, mixture, cost = rows_all[b, h], mixture_all[b, h], costs_all[b, h]
                mixture[start:end] = 0.0
                for r in range(stage):
                    begin = 0 if r == last else start
                    for m in range(components):
                        out = each[h, m, begin:end]
                        if counts[b, h, r, m, 0] + counts[b, h, r, m, 1] == 0:
                            out[:] = 0.0
                            continue
                        given = counts[b, h, r, m], loc[b, h, r, m], tril[b, h, r, m], turning[b, h, r, m]
                        if dof == 6:
                            densities_6(rows, begin, end, *given, turns[b, m], shift[b, h, r, m], out)
                        else:
                            densities_4(rows, begin, end, *given, turns[b, m, 0], follow[b, h, r, m], out)
                        add(out, mixture[begin:end])
                limit = math.log(furthest[b])
                for s in range(start, end):
                    x, y, z = np.float64(rows[0, s]), np.float64(rows[1, s]), np.float64(rows[2, s])
                    if not (z <= limit and x * x + y * y < 1 and cost[s] < np.inf):
                        cost[s] = np.inf
                if nxt > end:
                    weigh(rows, cost[:end], mixture[:end], each[h], factor[h])
        if nxt == end:
            continue
        for h in range(halves):
            if stage > 0:
                other = halves - 1 - h
                rows = rows_all[b, other]
                for m in range(components):
                    share[m] = 0.0
                    if not present[b, m]:
                        continue
                    for i in range(axes):
                        old[i] = mean[b, h, m, i]
                    add_sines(rows, turns[b, m], dof, beside[3:])
                    share[m], trust = fit_moments(
                        rows, factor[other], each[other, m], own, old, beside, mean[b, h, m], moments[b, h, m]
                    )
                    if trust > 0:
                        if dof == 6:
                            fit_acg(rows, own, trust, turn[b, h, m], A4, L4)
                        else:
                            fit_yaw(rows, own, trust, turn[b, h, m, 0])
                count(share, present[b], nxt - end, uniform, counts[b, h, stage])
            rows, numbers = rows_all[b, h], random[b, h]
            place = np.int64(0)  # a literal 0 would compile once more all that takes it
            for m in range(components):
                middle = place + int(counts[b, h, stage, m, 0])
                stop = middle + int(counts[b, h, stage, m, 1])
                if stop == place:
                    continue
                where, moves, L = loc[b, h, stage, m], follow[b, h, stage, m], turning[b, h, stage, m]
                centre_given_rotation(mean[b, h, m], moments[b, h, m], where, moves, tril[b, h, stage, m], A3)
                if dof == 6:
                    follow_quaternions(turns[b, m], moves, shift[b, h, stage, m])
                    acg_tril(turn[b, h, m], A4, L)
                    draw_quaternions(numbers, L, rows, place, middle, end)
                    A4[:] = 0.0
                    for i in range(4):
                        A4[i, i] = 1.0
                    draw_quaternions(numbers, A4, rows, middle, stop, end)
                else:
                    c, d = turn[b, h, m, 0, 0], turn[b, h, m, 0, 1]
                    mean_length = min(math.sqrt(c * c + d * d), 1 - 1e-12)
                    square = mean_length * mean_length
                    L[0, 0], L[0, 1] = math.atan2(d, c), mean_length * (2 - square) / (1 - square) / 3
                    L[0, 2] = von_mises_table(L[0, 1], levels, nodes)
                    draw_yaws(numbers, L[0, 0], levels, nodes, middle < place, rows, place, middle, end)
                    draw_yaws(numbers, L[0, 0], levels, nodes, middle >= place, rows, middle, stop, end)
                draw_places(
                    numbers, where, tril[b, h, stage, m], turns[b, m], shift[b, h, stage, m], moves, dof, rows, place, stop, end
                )
                place = stop
            write_poses(rows, end, nxt, centre[b], base[b], unit[b], dof, poses[b, h])


@kernel_
def weigh(rows, cost, mixture, each, factor):
    """factor (n,): the normalised importance weight divided by the density of the latest round, sum of each (M, n)."""
    least = np.inf
    for s in range(len(cost)):
        least = min(least, cost[s] - 3 * np.float64(rows[2, s]))
    total = 0.0
    for s in range(len(cost)):
        factor[s] = 0.0
        if cost[s] < np.inf:
            x, y = np.float64(rows[0, s]), np.float64(rows[1, s])
            wide = 1 + x * x + y * y  # `amis.log_volume`
            factor[s] = math.exp(least - cost[s] + 3 * np.float64(rows[2, s])) / max(wide * wide * mixture[s], 1e-300)
        total += factor[s]
    scale = 1 / max(total, 1e-300)
    for s in range(len(cost)):
        latest = 0.0
        for m in range(each.shape[0]):
            latest += each[m, s]
        factor[s] *= scale / max(latest, 1e-300)


def sample(
    problems: Problems,
    start: tuple[Tensor, ...],
    around: distributions.PoseFrame,
    present: Tensor,
    sizes: list[int],
    halves: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`amis.sample_reference`."""
    share, *fitted = start
    (B, M), dof, rounds, half = share.shape, around.dof, len(sizes), sum(sizes)
    real, d = problems.K.dtype, fitted[0].shape[-1] - 3
    shapes = (2,), (3,), (3, d), (3, 3), (4, 4), (3, 4)
    proposals = [np.zeros((B, halves, rounds, M, *shape)) for shape in shapes]
    proposals[0][:, :, 0] = distributions.numbers_of_samples(share, sizes[0], dof)[:, None].numpy()
    if dof == 4:
        fitted[2] = fitted[2][..., None, :]
    state = [v[:, None].repeat(1, halves, *[1] * (v.dim() - 1)).numpy() for v in fitted]
    rows = problems.K.new_empty(B, halves, 7 if dof == 6 else 4, half).numpy()
    mixture, cost = np.empty((B, halves, half)), np.full((B, halves, half), np.inf)
    fixed = [v.contiguous().numpy() for v in (present, around.furthest, around.unit, around.centre, around.base, around.turns)]
    poses = problems.K.new_empty(B, halves * half, 4, 4)  # most of what is held: its memory first serves every round
    begin = end = 0
    for stage, size in enumerate([*sizes, 0]):
        new = poses.flatten()[: B * halves * size * 16].view(B, halves * size, 4, 4)
        numbers = distributions.numbers(problems.K, size, halves, dof, generator).mT.contiguous().numpy()
        arrays = [*fixed, *proposals, *state, rows, mixture, cost, numbers, new.view(B, halves, size, 4, 4).numpy()]
        evaluations = B * halves * M * half
        cpu.spread(advance, evaluations, arrays, stage, begin, end, end + size, dof)
        del numbers, arrays
        if size:
            cost[:, :, end : end + size] = cpu.costs(problems, new).reshape(B, halves, size).numpy()
        begin, end = end, end + size
    edges = np.cumsum([0, *sizes])
    cpu.spread(write_all, B * halves * half, [rows, fixed[3], fixed[4], fixed[2], poses.numpy()], edges, dof)
    log_q = np.log(np.maximum(mixture, 1e-300, out=mixture), out=mixture)
    log_q -= math.log(half)
    log_q -= distributions.log_volume(torch.from_numpy(rows[:, :, :3]).mT, around).numpy()
    return poses, _by_round(log_q, sizes, real), _by_round(cost, sizes, real)


def _by_round(value: np.ndarray, sizes: list[int], dtype: torch.dtype) -> Tensor:
    """(B, H, S / H) -> (B, S) in the order of the poses."""
    edges = np.cumsum([0, *sizes])
    parts = [value[:, :, i:j].reshape(len(value), value.shape[1] * (j - i)) for i, j in itertools.pairwise(edges)]
    return torch.from_numpy(np.concatenate(parts, 1)).to(dtype)
