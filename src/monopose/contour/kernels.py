"""The numba side of `contour`: loops over instances and lines, each beside its plain numpy twin in `lines` and `points`."""

from __future__ import annotations

import math

import numba
import numpy as np

from .. import compiled

kernel = compiled.kernel()
inline = numba.njit(inline="always")


@kernel
def clearances(mask, pixels, normals, inner, outer):
    """How far one can walk from contour pixels along -normal inside the silhouette, and along +normal outside it.

    Args:
        mask: (h, w), bool.
        pixels: of the silhouette's rim, (N, 2), column and row.
        normals: out of the object, unit, (N, 2).
        inner, outer: filled, (N,), pixels; `outer` is infinite where the image ends first.
    """
    height, width = mask.shape
    for i in range(len(pixels)):
        u, v, nu, nv = pixels[i, 0], pixels[i, 1], normals[i, 0], normals[i, 1]
        k = 1
        while True:
            x, y = math.floor(u - k * nu + 0.5), math.floor(v - k * nv + 0.5)
            if x < 0 or y < 0 or x >= width or y >= height or not mask[y, x]:
                break
            k += 1
        inner[i] = k
        k, left = 1, False
        while True:
            x, y = math.floor(u + k * nu + 0.5), math.floor(v + k * nv + 0.5)
            if x < 0 or y < 0 or x >= width or y >= height:
                outer[i] = np.inf
                break
            if not mask[y, x]:
                left = True
            elif left or k > 2:
                outer[i] = k
                break
            k += 1


@inline
def _projected(R, t, K, X, n):
    """Camera point rotated and moved, its pixel, and the image direction of its normal (not of unit length)."""
    yx = R[0, 0] * X[0] + R[0, 1] * X[1] + R[0, 2] * X[2]
    yy = R[1, 0] * X[0] + R[1, 1] * X[1] + R[1, 2] * X[2]
    yz = R[2, 0] * X[0] + R[2, 1] * X[1] + R[2, 2] * X[2]
    x, y, z = yx + t[0], yy + t[1], yz + t[2]
    u = (K[0, 0] * x + K[0, 1] * y) / z + K[0, 2]
    v = K[1, 1] * y / z + K[1, 2]
    nu = R[0, 0] * n[0] + R[0, 1] * n[1] + R[0, 2] * n[2]
    nv = R[1, 0] * n[0] + R[1, 1] * n[1] + R[1, 2] * n[2]
    return yx, yy, yz, x, y, z, u, v, nu, nv


@kernel
def search(
    centre, normal, inner, outer, count, poses, K, maps, map_of, front, scale, step_f, offsets, least, least_variance,
    most_variance, geometry, distribution, mean, variance, valid,
):  # fmt: skip
    """`lines.search_reference` for a batch; the last five arguments are filled."""
    batch, lines = centre.shape[:2]
    height, width = maps.shape[1:]
    n_step, n_offset = len(step_f), len(offsets)
    segments = n_step + n_offset - 1
    pixels = segments * scale
    Pf, Pb = np.empty(segments), np.empty(segments)
    for b in range(batch):
        R, t, k, which = poses[b, :3, :3], poses[b, :3, 3], K[b], map_of[b]
        focal = min(k[0, 0], k[1, 1])
        for i in range(lines):
            valid[b, i] = False
            if i >= count[b]:
                continue
            _, _, _, _, _, z, u, v, nu, nv = _projected(R, t, k, centre[b, i], normal[b, i])
            norm = math.sqrt(nu * nu + nv * nv)
            if not (z > 1e-6 and norm > 1e-6):
                continue
            if min(inner[b, i], outer[b, i]) * focal / (z * scale) < least:
                continue
            nu, nv = nu / norm, nv / norm
            along_u = abs(nu) > abs(nv)
            ca, co, na, no = (u, v, nu, nv) if along_u else (v, u, nv, nu)
            if not abs(ca) < 1e6 or not abs(co) < 1e6:
                continue
            first = math.floor(ca - (pixels - 1) / 2 + 0.5)
            last = first + pixels - 1
            slope = no / na
            o_first, o_last = co + (first - ca) * slope, co + (last - ca) * slope
            size_a, size_o = (width, height) if along_u else (height, width)
            if first < 0 or last > size_a - 1 or min(o_first, o_last) < 0 or max(o_first, o_last) > size_o - 1:
                continue
            if front[which, int(v + 0.5), int(u + 0.5)] < z:
                continue
            forward = na > 0
            for j in range(segments):
                f, g = 1.0, 1.0
                for m in range(scale):
                    step = j * scale + m if forward else pixels - 1 - (j * scale + m)
                    a = first + step
                    o = math.floor(co + (a - ca) * slope + 0.5)
                    p = maps[which, o, a] if along_u else maps[which, a, o]
                    f *= p
                    g *= 1.0 - p
                total = f + g
                Pf[j] = f / total if total > 0 else 0.5
                Pb[j] = 1.0 - Pf[j]
            total = 0.0
            for d in range(n_offset):
                q = 1.0
                for j in range(n_step):
                    q *= Pf[d + j] * step_f[j] + Pb[d + j] * (1.0 - step_f[j])
                distribution[b, i, d] = q
                total += q
            mu = 0.0
            for d in range(n_offset):
                distribution[b, i, d] /= total
                mu += distribution[b, i, d] * offsets[d]
            spread = 0.0
            for d in range(n_offset):
                spread += distribution[b, i, d] * (offsets[d] - mu) ** 2
            if spread > most_variance:
                continue
            mean[b, i] = mu
            variance[b, i] = max(spread, least_variance)
            geometry[b, i, 0], geometry[b, i, 1], geometry[b, i, 2], geometry[b, i, 3] = u, v, nu, nv
            geometry[b, i, 4] = abs(na) / scale
            geometry[b, i, 5] = (first + (pixels - 1) / 2 - ca) / na
            valid[b, i] = True


@kernel
def normal_equations(
    centre, normal, poses, K, geometry, distribution, mean, variance, valid, local, rate, floor, least_variance, sigma,
    g, A, cost, used,
):  # fmt: skip
    """`lines.normal_equations_reference` for a batch; the last four arguments are filled."""
    batch, lines = centre.shape[:2]
    n_offset = distribution.shape[2]
    J = np.empty(6)
    for b in range(batch):
        R, t, k = poses[b, :3, :3], poses[b, :3, 3], K[b]
        g[b] = 0.0
        A[b] = 0.0
        cost[b] = 0.0
        used[b] = 0
        for i in range(lines):
            if not valid[b, i]:
                continue
            yx, yy, yz, x, y, z, u, v, _, _ = _projected(R, t, k, centre[b, i], normal[b, i])
            if not z > 1e-6:
                continue
            nu, nv, per_pixel, shift = geometry[b, i, 2], geometry[b, i, 3], geometry[b, i, 4], geometry[b, i, 5]
            d = per_pixel * (nu * (u - geometry[b, i, 0]) + nv * (v - geometry[b, i, 1]) - shift)
            if local:
                upper = math.floor(d + (n_offset + 1) / 2)
                if upper <= 0 or upper >= n_offset:
                    continue
                pull = rate * (
                    math.log(max(distribution[b, i, upper], floor)) - math.log(max(distribution[b, i, upper - 1], floor))
                )
            else:
                pull = (mean[b, i] - d) / variance[b, i]
            w = least_variance / (per_pixel * per_pixel * sigma[b] * sigma[b])
            a, c = per_pixel * nu, per_pixel * nv
            J[0] = a * k[0, 0] / z
            J[1] = (a * k[0, 1] + c * k[1, 1]) / z
            J[2] = -(a * (k[0, 0] * x + k[0, 1] * y) + c * k[1, 1] * y) / (z * z)
            J[3] = yy * J[2] - yz * J[1]
            J[4] = yz * J[0] - yx * J[2]
            J[5] = yx * J[1] - yy * J[0]
            s = w / variance[b, i]
            for p in range(6):
                g[b, p] += w * pull * J[p]
                for q in range(p + 1):
                    A[b, p, q] += s * J[p] * J[q]
            cost[b] += 0.5 * s * (mean[b, i] - d) ** 2
            used[b] += 1
        for p in range(6):
            for q in range(p):
                A[b, q, p] = A[b, p, q]


@kernel
def collect(centre, normal, inner, outer, count, poses, K, bins, map_of, front, gap, reach, foreground, background):
    """Counts of the colour bins on both sides of the contour, `lines` outwards and inwards; the last two are added to.

    Args:
        bins: index of every pixel's colour, (M, h, w).
        gap, reach: pixels left out at the contour, and most pixels taken on each side.
        foreground, background: (B, number of bins).
    """
    batch, lines = centre.shape[:2]
    height, width = bins.shape[1:]
    for b in range(batch):
        R, t, k, which = poses[b, :3, :3], poses[b, :3, 3], K[b], map_of[b]
        focal = min(k[0, 0], k[1, 1])
        for i in range(min(lines, count[b])):
            _, _, _, _, _, z, u, v, nu, nv = _projected(R, t, k, centre[b, i], normal[b, i])
            norm = math.sqrt(nu * nu + nv * nv)
            if not (z > 1e-6 and norm > 1e-6):
                continue
            nu, nv = nu / norm, nv / norm
            if not (0 <= u <= width - 1 and 0 <= v <= height - 1):
                continue
            if front[which, int(v + 0.5), int(u + 0.5)] < z:
                continue
            for side in range(2):
                room = (inner[b, i] if side == 0 else outer[b, i]) * focal / z - 2 * gap
                sign = -1.0 if side == 0 else 1.0
                for j in range(int(min(float(reach), max(room, 0.0)))):
                    x = math.floor(u + sign * (gap + j) * nu + 0.5)
                    y = math.floor(v + sign * (gap + j) * nv + 0.5)
                    if x < 0 or y < 0 or x >= width or y >= height:
                        break
                    if side == 0:
                        foreground[b, bins[which, y, x]] += 1
                    else:
                        background[b, bins[which, y, x]] += 1


@kernel
def peaks(slopes, sign, reach, position, height):
    """The highest strict local maxima of every row of sign * slopes, best first; the last two arguments are filled.

    Args:
        slopes: (D, D).
        sign: 1 or -1.
        reach: pixels on either side that a position is averaged over.
        position, height: (D, C), filled with NaN and 0 beforehand.
    """
    rows, columns = slopes.shape
    most = position.shape[1]
    for y in range(rows):
        for x in range(1, columns - 1):
            here = sign * slopes[y, x]
            if not (here > 1e-3 and here > sign * slopes[y, x - 1] and here > sign * slopes[y, x + 1]):
                continue
            if here <= height[y, most - 1]:
                continue
            total, place = 0.0, 0.0
            for k in range(max(x - reach, 0), min(x + reach, columns - 1) + 1):
                weight = max(sign * slopes[y, k], 0.0)
                total += weight
                place += weight * k
            j = most - 1
            while j > 0 and height[y, j - 1] < here:
                height[y, j], position[y, j] = height[y, j - 1], position[y, j - 1]
                j -= 1
            height[y, j], position[y, j] = here, place / total


@kernel
def nearest_edges(centre, normal, number, poses, K, position, height, map_of, middle, extent, power, g, A, energy):
    """`scanlines.equations_reference` for a batch; the last three arguments are filled."""
    batch = len(centre)
    directions, rows, most = position.shape[1:]
    J = np.empty(6)
    for b in range(batch):
        R, t, k, which = poses[b, :3, :3], poses[b, :3, 3], K[b], map_of[b]
        g[b] = 0.0
        A[b] = 0.0
        total, weights, lost = 0.0, 0.0, 0
        for i in range(number[b]):
            yx, yy, yz, x, y, z, u, v, nu, nv = _projected(R, t, k, centre[b, i], normal[b, i])
            if not (z > 1e-6 and nu * nu + nv * nv > 1e-12 and abs(u) < 1e6 and abs(v) < 1e6):
                lost += 1
                continue
            way = math.floor(math.atan2(nv, nu) / (2 * math.pi) * directions + 0.5) % directions
            angle = 2 * math.pi * way / directions
            c, s = math.cos(angle), math.sin(angle)
            across = -s * (u - middle[0]) + c * (v - middle[1])
            if way >= directions // 2:
                across = -across
            row = math.floor(across + rows / 2 + 0.5)
            if row < 0 or row >= rows or math.isnan(position[which, way, row, 0]):
                lost += 1
                continue
            along = c * (u - middle[0]) + s * (v - middle[1])
            r, w = 0.0, -1.0
            for j in range(most):
                p = position[which, way, row, j]
                if not math.isnan(p) and (w < 0.0 or abs(along - p) < abs(r)):
                    r, w = along - p, height[which, way, row, j]
            w *= w
            total += w * abs(r) ** power
            weights += w
            m = w * (1.0 / (abs(r) + 1.0)) ** (2.0 - power)
            J[0] = c * k[0, 0] / z
            J[1] = (c * k[0, 1] + s * k[1, 1]) / z
            J[2] = -(c * (k[0, 0] * x + k[0, 1] * y) + s * k[1, 1] * y) / (z * z)
            J[3] = yy * J[2] - yz * J[1]
            J[4] = yz * J[0] - yx * J[2]
            J[5] = yx * J[1] - yy * J[0]
            for p in range(6):
                g[b, p] -= m * r * J[p]
                for q in range(6):
                    A[b, p, q] += m * J[p] * J[q]
        found = number[b] - lost
        mean = weights / found if found > 0 else 1.0
        weights += lost * mean
        total += lost * mean * extent**power
        energy[b] = total / weights if weights > 0 else extent**power
