"""The rounds of `amis.sample_reference` fused: everything but the costs, one problem at a time, in float64.

Densities are added as they are, not as logarithms: Student-t and angular central Gaussian are powers, which float64 holds.
"""

import itertools
import math

import numba
import numpy as np
import torch
from torch import Tensor

from .. import amis
from ..problems import Problems
from . import cpu

FAST = {"reassoc", "contract", "arcp", "nsz"}
kernel_ = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)

T_NORM = math.exp(math.log(2) - math.lgamma(1.5) - 1.5 * math.log(3 * math.pi))
ACG_NORM = 1 / (8 * math.pi**2)  # 1 / (2 pi^2), per rad^3 instead of per area of S^3
CELLS = 128  # of the table of `distributions.von_mises_quantiles`
FLOOR, MEMORY, UNIFORM_6, UNIFORM_4 = amis.FLOOR, amis.MEMORY, amis.UNIFORM[6], amis.UNIFORM[4]


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
def centre_terms(loc, tril):
    """Location, inverse factor (row by row) and norm of a Student-t, as scalars."""
    i00, i11, i22 = 1 / tril[0, 0], 1 / tril[1, 1], 1 / tril[2, 2]
    return loc[0], loc[1], loc[2], i00, i11, i22, tril[1, 0], tril[2, 0], tril[2, 1], T_NORM * i00 * i11 * i22


@kernel_
def densities_6(rows, begin, end, counts, loc, tril, acg, out):
    """`amis.densities` of one component at the samples rows[:, begin:end], (7, n)."""
    X, Y, Z = rows[0][begin:end], rows[1][begin:end], rows[2][begin:end]
    Q0, Q1, Q2, Q3 = rows[3][begin:end], rows[4][begin:end], rows[5][begin:end], rows[6][begin:end]
    x, y, z, i00, i11, i22, t10, t20, t21, norm = centre_terms(loc, tril)
    a10, a20, a21, a30, a31, a32 = acg[1, 0], acg[2, 0], acg[2, 1], acg[3, 0], acg[3, 1], acg[3, 2]
    j0, j1, j2, j3 = 1 / acg[0, 0], 1 / acg[1, 1], 1 / acg[2, 2], 1 / acg[3, 3]
    own = norm * ACG_NORM * counts[0] * j0 * j1 * j2 * j3
    everywhere = norm * ACG_NORM * counts[1]
    third = 1 / 3
    for s in range(out.shape[0]):
        y0 = (X[s] - x) * i00
        y1 = (Y[s] - y - t10 * y0) * i11
        y2 = (Z[s] - z - t20 * y0 - t21 * y1) * i22
        d = 1.0 + (y0 * y0 + y1 * y1 + y2 * y2) * third
        r0 = Q0[s] * j0
        r1 = (Q1[s] - a10 * r0) * j1
        r2 = (Q2[s] - a20 * r0 - a21 * r1) * j2
        r3 = (Q3[s] - a30 * r0 - a31 * r1 - a32 * r2) * j3
        e = r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3
        ee = e * e
        out[s] = (own + everywhere * ee) / (d * d * d * ee)


@kernel_
def densities_4(rows, begin, end, counts, loc, tril, turning, out):
    """`amis.densities` of one component at the samples rows[:, begin:end], (4, n)."""
    X, Y, Z, A = rows[0][begin:end], rows[1][begin:end], rows[2][begin:end], rows[3][begin:end]
    yaw, kappa, integral = turning[0, 0], turning[0, 1], turning[0, 2]
    x, y, z, i00, i11, i22, t10, t20, t21, norm = centre_terms(loc, tril)
    own, everywhere = norm * counts[0] / integral, norm * counts[1] / (2 * math.pi)
    for s in range(out.shape[0]):
        y0 = (X[s] - x) * i00
        y1 = (Y[s] - y - t10 * y0) * i11
        y2 = (Z[s] - z - t20 * y0 - t21 * y1) * i22
        d = 1.0 + (y0 * y0 + y1 * y1 + y2 * y2) / 3
        half = math.sin((A[s] - yaw) / 2)
        out[s] = (own * math.exp(-2 * kappa * half * half) + everywhere) / (d * d * d)


@kernel_
def add(values, total):
    for s in range(total.shape[0]):
        total[s] += values[s]


@kernel_
def draw_centres(random, loc, tril, rows, begin, end, offset):
    """`distributions.student_t_from_normals`: random[:6, s] -> rows[:3, offset + s] for s in [begin, end)."""
    real = rows.dtype.type
    l00, l10, l11, l20, l21, l22 = tril[0, 0], tril[1, 0], tril[1, 1], tril[2, 0], tril[2, 1], tril[2, 2]
    for s in range(begin, end):
        a, b, c = np.float64(random[3, s]), np.float64(random[4, s]), np.float64(random[5, s])
        scale = 1 / math.sqrt(max((a * a + b * b + c * c) / 3, 1e-30))
        a, b, c = random[0, s] * scale, random[1, s] * scale, random[2, s] * scale
        rows[0, offset + s] = real(loc[0] + l00 * a)
        rows[1, offset + s] = real(loc[1] + l10 * a + l11 * b)
        rows[2, offset + s] = real(loc[2] + l20 * a + l21 * b + l22 * c)


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
def write_poses(rows, begin, end, centre, base, dof, poses):
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
        pose[0, 3] = real(rows[0, s] - (r00 * cx + r01 * cy + r02 * cz))
        pose[1, 3] = real(rows[1, s] - (r10 * cx + r11 * cy + r12 * cz))
        pose[2, 3] = real(rows[2, s] - (r20 * cx + r21 * cy + r22 * cz))
        pose[3, 0], pose[3, 1], pose[3, 2], pose[3, 3] = real(0), real(0), real(0), real(1)


@kernel_
def fit_centre(rows, factor, each, own, old, moments, loc):
    """Pull one component's location and moments (3, 3) to the samples of weight factor * each; returns total weight, trust.

    own (n,) becomes the weights, which sum to one.
    """
    X, Y, Z = rows[0], rows[1], rows[2]
    total, square = 0.0, 0.0
    for s in range(own.shape[0]):
        v = factor[s] * each[s]
        own[s] = v
        total += v
        square += v * v
    if not total > 1e-12:
        loc[:] = old
        return max(total, 0.0), 0.0
    scale = 1 / total
    x, y, z = old[0], old[1], old[2]
    mx, my, mz, xx, xy, xz, yy, yz, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for s in range(own.shape[0]):
        v = own[s] * scale
        own[s] = v
        a, b, c = X[s] - x, Y[s] - y, Z[s] - z
        va, vb, vc = v * a, v * b, v * c
        mx += va
        my += vb
        mz += vc
        xx += va * a
        xy += va * b
        xz += va * c
        yy += vb * b
        yz += vb * c
        zz += vc * c
    effective = 1 / max(square * scale * scale, 1e-12)
    trust = effective / (effective + MEMORY)
    loc[0], loc[1], loc[2] = x + trust * mx, y + trust * my, z + trust * mz
    rest = 1 - trust
    # moments around the mean plus trust (1 - trust) (mean - old)^2, which together are E - trust mean^2 around the old one
    moments[0, 0] = trust * (xx - trust * mx * mx) + rest * moments[0, 0]
    moments[1, 1] = trust * (yy - trust * my * my) + rest * moments[1, 1]
    moments[2, 2] = trust * (zz - trust * mz * mz) + rest * moments[2, 2]
    moments[0, 1] = moments[1, 0] = trust * (xy - trust * mx * my) + rest * moments[1, 0]
    moments[0, 2] = moments[2, 0] = trust * (xz - trust * mx * mz) + rest * moments[2, 0]
    moments[1, 2] = moments[2, 1] = trust * (yz - trust * my * mz) + rest * moments[2, 1]
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
def centre_tril(moments, A, L):
    """The factor of `amis.proposal` of moments (3, 3) into L; A is scratch."""
    scale = max((moments[0, 0] + moments[1, 1] + moments[2, 2]) / 3, 1e-20)
    for i in range(3):
        for j in range(3):
            A[i, j] = moments[i, j]
        A[i, i] += 1e-9 * scale
    if not cholesky(A, L):
        L[:] = 0.0
        for i in range(3):
            L[i, i] = math.sqrt(scale)


@kernel_
def advance(
    present, furthest, centre, base, counts, loc, tril, turning, moments, turn,
    rows_all, mixture_all, costs_all, random, poses, stage, start, end, nxt, dof,
):  # fmt: skip
    """One stage for every problem of the batch: weigh the samples of round stage - 1, fit, and draw those of round `stage`.

    Args (B problems, H halves, R rounds, M components, n samples of a half):
        present (B, M); furthest (B,); centre (B, 3); base (B, 3, 3).
        counts (B, H, R, M, 2), loc (..., 3), tril (..., 3, 3), turning (..., 4, 4): factor of the ACG, or for dof 4 in its
        first row yaw, kappa and the integral; moments (B, H, M, 3, 3), turn (B, H, M, 4, 4 or 1, 2): what the next fit blends.
        rows_all (B, H, 7 or 4, n), mixture_all (B, H, n), costs_all (B, H, n): all samples so far.
        random (B, H, numbers, size), poses (B, H, size, 4, 4): of the round to draw.
        stage, start, end, nxt: samples [start, end) are those of the previous round, [end, nxt) are drawn.
    """
    halves, components = counts.shape[1], counts.shape[3]
    uniform = UNIFORM_6 if dof == 6 else UNIFORM_4
    each = np.empty((halves, components, max(end, 1)))
    factor, own = np.empty((halves, max(end, 1))), np.empty(max(end, 1))
    levels, nodes, share = np.empty(CELLS + 1), np.empty(CELLS + 1), np.empty(components)
    A3, A4, L4 = np.empty((3, 3)), np.empty((4, 4)), np.empty((4, 4))
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
                            densities_6(rows, begin, end, *given, out)
                        else:
                            densities_4(rows, begin, end, *given, out)
                        add(out, mixture[begin:end])
                for s in range(start, end):
                    x, y, z = np.float64(rows[0, s]), np.float64(rows[1, s]), np.float64(rows[2, s])
                    if not (math.sqrt(x * x + y * y + z * z) <= furthest[b] and cost[s] < np.inf):
                        cost[s] = np.inf
                if nxt > end:
                    weigh(cost[:end], mixture[:end], each[h], factor[h])
        if nxt == end:
            continue
        for h in range(halves):
            if stage > 0:
                other = halves - 1 - h
                for m in range(components):
                    share[m] = 0.0
                    if not present[b, m]:
                        loc[b, h, stage, m] = loc[b, h, stage - 1, m]
                        continue
                    rows = rows_all[b, other]
                    share[m], trust = fit_centre(
                        rows, factor[other], each[other, m], own, loc[b, h, stage - 1, m], moments[b, h, m], loc[b, h, stage, m]
                    )
                    if trust > 0:
                        if dof == 6:
                            fit_acg(rows, own, trust, turn[b, h, m], A4, L4)
                        else:
                            fit_yaw(rows, own, trust, turn[b, h, m, 0])
                count(share, present[b], nxt - end, uniform, counts[b, h, stage])
            place = 0
            for m in range(components):
                own_count, free_count = int(counts[b, h, stage, m, 0]), int(counts[b, h, stage, m, 1])
                if own_count + free_count == 0:
                    continue
                centre_tril(moments[b, h, m], A3, tril[b, h, stage, m])
                rows, numbers = rows_all[b, h], random[b, h]
                middle, stop = place + own_count, place + own_count + free_count
                draw_centres(numbers, loc[b, h, stage, m], tril[b, h, stage, m], rows, place, stop, end)
                L = turning[b, h, stage, m]
                if dof == 6:
                    acg_tril(turn[b, h, m], A4, L)
                    draw_quaternions(numbers, L, rows, place, middle, end)
                    A4[:] = 0.0
                    for i in range(4):
                        A4[i, i] = 1.0
                    draw_quaternions(numbers, A4, rows, middle, stop, end)
                else:
                    c, d = turn[b, h, m, 0, 0], turn[b, h, m, 0, 1]
                    r = min(math.sqrt(c * c + d * d), 1 - 1e-12)
                    L[0, 0], L[0, 1] = math.atan2(d, c), r * (2 - r * r) / (1 - r * r) / 3
                    L[0, 2] = von_mises_table(L[0, 1], levels, nodes)
                    draw_yaws(numbers, L[0, 0], levels, nodes, False, rows, place, middle, end)
                    draw_yaws(numbers, L[0, 0], levels, nodes, True, rows, middle, stop, end)
                place = stop
            write_poses(rows_all[b, h], end, nxt, centre[b], base[b], dof, poses[b, h])


@kernel_
def weigh(cost, mixture, each, factor):
    """factor (n,): the normalised importance weight divided by the density of the latest round, sum of each (M, n)."""
    least = np.inf
    for s in range(len(cost)):
        least = min(least, cost[s])
    total = 0.0
    for s in range(len(cost)):
        factor[s] = math.exp(least - cost[s]) / max(mixture[s], 1e-300) if cost[s] < np.inf else 0.0
        total += factor[s]
    scale = 1 / max(total, 1e-300)
    for s in range(len(cost)):
        latest = 0.0
        for m in range(each.shape[0]):
            latest += each[m, s]
        factor[s] *= scale / max(latest, 1e-300)


def sample(
    problems: Problems,
    p: amis.Proposal,
    around: amis.Frame,
    present: Tensor,
    sizes: list[int],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`amis.sample_reference`."""
    (B, halves, M), dof, rounds, half = p.loc.shape[:3], around.dof, len(sizes), sum(sizes)
    real = problems.K.dtype

    def stack(first: Tensor, *shape: int) -> np.ndarray:
        out = np.zeros((B, halves, rounds, M, *shape))
        out[:, :, 0] = first.numpy()
        return out

    counts, loc = stack(p.counts, 2), stack(p.loc, 3)
    tril, turning = np.zeros((B, halves, rounds, M, 3, 3)), np.zeros((B, halves, rounds, M, 4, 4))
    moments = p.moments.contiguous().numpy().copy()
    turn = (p.turn if dof == 6 else p.turn[..., None, :]).contiguous().numpy().copy()
    rows = problems.K.new_empty(B, halves, 7 if dof == 6 else 4, half).numpy()
    mixture, cost = np.empty((B, halves, half)), np.full((B, halves, half), np.inf)
    fixed = [v.contiguous().numpy() for v in (present, around.furthest, around.centre, around.base)]
    poses = problems.K.new_empty(B, halves * half, 4, 4)
    start = end = 0
    for stage, size in enumerate([*sizes, 0]):
        numbers = amis.numbers(problems.K, size, halves, dof, generator).mT.contiguous()
        new = problems.K.new_empty(B, halves, size, 4, 4)
        arrays = [*fixed, counts, loc, tril, turning, moments, turn, rows, mixture, cost, numbers.numpy(), new.numpy()]
        evaluations = B * halves * M * half
        cpu._spread(advance, evaluations, arrays, stage, start, end, end + size, dof)
        if size:
            new = new.flatten(1, 2)
            poses[:, halves * end : halves * (end + size)] = new
            cost[:, :, end : end + size] = cpu.costs(problems, new).reshape(B, halves, size).numpy()
        start, end = end, end + size
    del rows, numbers, new, arrays
    log_q = np.log(np.maximum(mixture, 1e-300, out=mixture), out=mixture)
    log_q -= math.log(half)
    return poses, _by_round(log_q, sizes, real), _by_round(cost, sizes, real)


def _by_round(value: np.ndarray, sizes: list[int], dtype: torch.dtype) -> Tensor:
    """(B, H, S / H) -> (B, S) in the order of the poses."""
    edges = np.cumsum([0, *sizes])
    parts = [value[:, :, i:j].reshape(len(value), value.shape[1] * (j - i)) for i, j in itertools.pairwise(edges)]
    return torch.from_numpy(np.concatenate(parts, 1)).to(dtype)
