"""The closed-form starts of `initialise.py`, for one problem after the other, in float64.

Fifty moments of the points give the 9 x 9 form of the algebraic error; trying a rotation on it costs the same for any number of
points. Points are centred first, so that an object far from its origin loses no digits.
"""

import itertools
import math

import numpy as np

from .numba_costs import HUBER, SQUARES, camera_matrix, cauchy_cost, huber_cost, inline, kernel_, squares_cost
from .numba_solve import copy_pose, factor, finite, lay_out_scaled, retract, substitute

SUBSET = 6  # points in a random sample


def _cube() -> np.ndarray:
    """The 24 rotations of the cube, flattened, (24, 9)."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            R = np.zeros((3, 3))
            R[np.arange(3), order] = signs
            if np.linalg.det(R) > 0:
                found.append(R.flatten())
    return np.array(found)


def _turns() -> np.ndarray:
    """16 angles of yaw, flattened, (16, 9)."""
    angles = np.arange(16) * (2 * math.pi / 16)
    zero, one = np.zeros(16), np.ones(16)
    c, s = np.cos(angles), np.sin(angles)
    return np.stack([c, zero, s, zero, one, zero, -s, zero, c], -1)


GRIDS = {6: _cube(), 4: _turns()}


@inline
def _moments(rows, form, index, centre, out):
    """Fill out (10,) with sums of m times XX XY XZ YY YZ ZZ X Y Z 1, where m is one of six entries of the points' forms."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = 0.0
    X, Y, Z = rows[0], rows[1], rows[2]
    cx, cy, cz = centre[0], centre[1], centre[2]
    for i in range(index.shape[0]):
        k = index[i]
        m = form[k]
        px, py, pz = X[k] - cx, Y[k] - cy, Z[k] - cz
        mx, my, mz = m * px, m * py, m * pz
        s0 += mx * px
        s1 += mx * py
        s2 += mx * pz
        s3 += my * py
        s4 += my * pz
        s5 += mz * pz
        s6 += mx
        s7 += my
        s8 += mz
        s9 += m
    out[0], out[1], out[2] = s0, s1, s2
    out[3], out[4] = s3, s4
    out[5], out[6], out[7] = s5, s6, s7
    out[8], out[9] = s8, s9


@kernel_
def _all_moments(rows, forms, index, centre, out):
    for kind in range(6):
        _moments(rows, forms[kind], index, centre, out[kind])


@kernel_
def lay_out_forms(rows, K, forms):
    """Fill forms (6, N) with the entries 00, 01, 02, 11, 12, 22 of M: p' M p is the squared algebraic error of a point p.

    Its rows are weight (K's first - u K's third) and weight (K's second - v K's third), which vanish along the pixel's ray.
    """
    k00, k01, k02 = K[0, 0], K[0, 1], K[0, 2]
    k10, k11, k12 = K[1, 0], K[1, 1], K[1, 2]
    k20, k21, k22 = K[2, 0], K[2, 1], K[2, 2]
    for i in range(rows.shape[1]):
        u, v = rows[3, i], rows[4, i]
        a, b = rows[5, i], rows[6, i]
        a0, a1, a2 = a * (k00 - u * k20), a * (k01 - u * k21), a * (k02 - u * k22)
        b0, b1, b2 = b * (k10 - v * k20), b * (k11 - v * k21), b * (k12 - v * k22)
        forms[0, i] = a0 * a0 + b0 * b0
        forms[1, i] = a0 * a1 + b0 * b1
        forms[2, i] = a0 * a2 + b0 * b2
        forms[3, i] = a1 * a1 + b1 * b1
        forms[4, i] = a1 * a2 + b1 * b2
        forms[5, i] = a2 * a2 + b2 * b2


@kernel_
def quadratic_form(rows, forms, index, centre, omega, linear, scratch):
    """`initialise.quadratic_form` of the points in `index`, about their centre: omega (9, 9) and linear (3, 9)."""
    S, Q = scratch[0:6, :10], scratch[6:9, :3]
    L, column = scratch[9:12, :3], scratch[12]
    total = 0.0
    centre[:] = 0.0
    for i in range(index.shape[0]):
        k = index[i]
        w = abs(rows[5, k]) + abs(rows[6, k])
        total += w
        for j in range(3):
            centre[j] += w * rows[j, k]
    for j in range(3):
        centre[j] /= max(total, 1e-300)
    _all_moments(rows, forms, index, centre, S)
    pick = (0, 1, 2, 1, 3, 4, 2, 4, 5)  # which moment is the entry (i, k) of the 3 x 3 form, row by row
    second = (0, 1, 2, 1, 3, 4, 2, 4, 5)
    for i in range(3):
        for k in range(3):
            m = pick[3 * i + k]
            Q[i, k] = S[m, 9]
            for j in range(3):
                for n in range(3):
                    omega[3 * i + j, 3 * k + n] = S[m, second[3 * j + n]]
    ridge = 1e-14 * (Q[0, 0] + Q[1, 1] + Q[2, 2]) + 1e-300
    for i in range(3):
        Q[i, i] += ridge
    three = len(Q)  # a literal 3 would be compiled once more
    solvable = factor(Q, three, L)
    for i in range(3):
        for j in range(9):
            linear[i, j] = 0.0
    if not solvable:
        return
    for i in range(3):
        for j in range(3):
            for k in range(3):
                m = pick[3 * i + k]
                column[k] = -S[m, 6 + j]
            substitute(L, three, column)
            for k in range(3):
                linear[k, 3 * i + j] = column[k]
    for i in range(3):
        for j in range(3):
            for n in range(9):
                s = 0.0
                for k in range(3):
                    s += S[pick[3 * i + k], 6 + j] * linear[k, n]
                omega[3 * i + j, n] += s


@kernel_
def _error(omega, r, product):
    """r' omega r; leaves omega r in product."""
    total = 0.0
    for i in range(9):
        s = 0.0
        for j in range(9):
            s += omega[i, j] * r[j]
        product[i] = s
        total += r[i] * s
    return total


@kernel_
def _polish(omega, pose, dof, iterations, scratch):
    """Damped Gauss-Newton on r' omega r from the rotation of pose (4, 4), in place; returns the error."""
    trial, H = np.empty((4, 4)), scratch[4:7, :3]
    L, J = scratch[7:10, :3], scratch[10:13, :9]
    r, product, after = scratch[13, :9], scratch[14, :9], scratch[15, :9]
    g, move = scratch[16, :3], scratch[17, :6]
    product_after = scratch[18, :9]
    n = 3 if dof == 6 else 1
    damping = 1e-3
    for i in range(3):
        for j in range(3):
            r[3 * i + j] = pose[i, j]
    now = _error(omega, r, product)
    for _ in range(iterations):
        for a in range(n):
            axis = a if dof == 6 else 1
            up, down = (axis + 1) % 3, (axis + 2) % 3  # e_axis x row: the row `up` becomes -row `down`, `down` becomes row `up`
            g[a] = 0.0
            for j in range(9):
                J[a, j] = 0.0
            for j in range(3):
                g[a] += product[3 * down + j] * r[3 * up + j] - product[3 * up + j] * r[3 * down + j]
                for k in range(9):
                    J[a, k] += omega[k, 3 * down + j] * r[3 * up + j] - omega[k, 3 * up + j] * r[3 * down + j]
        trace = 0.0
        for a in range(n):
            axis = a if dof == 6 else 1
            up, down = (axis + 1) % 3, (axis + 2) % 3
            for b in range(n):
                s = 0.0
                for j in range(3):
                    s += J[b, 3 * down + j] * r[3 * up + j] - J[b, 3 * up + j] * r[3 * down + j]
                H[a, b] = s
            trace += H[a, a]
        for a in range(n):
            H[a, a] += damping * trace + 1e-300
        if not factor(H, n, L):
            damping *= 10.0
            continue
        decrement = 0.0
        for a in range(n):
            decrement += g[a] * g[a]
            g[a] = -g[a]
        if decrement <= 1e-24 * trace * trace:
            break
        substitute(L, n, g)
        move[:] = 0.0
        for a in range(n):
            move[3 + (a if dof == 6 else 1)] = g[a]
        for i in range(3):
            for j in range(3):
                trial[i, j] = r[3 * i + j]
            trial[i, 3] = 0.0
        retract(trial, move, pose)
        for i in range(3):
            for j in range(3):
                after[3 * i + j] = pose[i, j]
        then = _error(omega, after, product_after)
        if then < now:
            small = now - then <= 1e-10 * now
            for j in range(9):
                r[j] = after[j]
                product[j] = product_after[j]
            now = then
            damping *= 0.1
            if small:
                break
        else:
            damping *= 10.0
    for i in range(3):
        for j in range(3):
            pose[i, j] = r[3 * i + j]
    return now


@kernel_
def _candidates(omega, linear, centre, K, grid, keep, iterations, dof, poses, errors, scratch):
    """Fill poses (keep, 4, 4) with polished local minima of r' omega r and their translations, best grid points first."""
    r, product = scratch[13, :9], scratch[14, :9]
    trace = 0.0
    for i in range(9):
        trace += omega[i, i]
    for m in range(grid.shape[0]):
        depth = 0.0
        for j in range(9):
            r[j] = grid[m, j]
            depth += (K[2, 0] * linear[0, j] + K[2, 1] * linear[1, j] + K[2, 2] * linear[2, j]) * r[j]
        errors[m] = _error(omega, r, product) + (trace if depth <= 0.0 else 0.0)
    for i in range(keep):
        best = 0
        for m in range(grid.shape[0]):
            if errors[m] < errors[best]:
                best = m
        errors[best] = np.inf
        pose = poses[i]
        for j in range(3):
            for k in range(3):
                pose[j, k] = grid[best, 3 * j + k]
        _polish(omega, pose, dof, iterations, scratch)
        for j in range(3):
            s = 0.0
            for k in range(9):
                s += linear[j, k] * pose[k // 3, k % 3]
            pose[j, 3] = s
        for j in range(3):  # back to the origin of the rows
            pose[j, 3] -= pose[j, 0] * centre[0] + pose[j, 1] * centre[1] + pose[j, 2] * centre[2]
        pose[3, 0] = pose[3, 1] = pose[3, 2] = 0.0
        pose[3, 3] = 1.0


@inline
def full_cost(rows, K, T, delta, bounds, z_min, kernel):
    """The robust cost at the pose T of all points of one problem."""
    P = camera_matrix(K, T)
    if kernel == SQUARES:
        return squares_cost(rows, P, delta, bounds, z_min)
    if kernel == HUBER:
        return huber_cost(rows, P, delta, bounds, z_min)
    return cauchy_cost(rows, P, delta, bounds, z_min)


@kernel_
def starts_batch(
    points3d, points2d, weights, K, delta, bounds, centre_of, scale, uniforms, out,
    z_min, kernel, dof, grid, keep, iterations, few,
):  # fmt: skip
    """Fill out (B, count, 4, 4) in the frames centre_of (B, 3) and scale (B,). uniforms (B, proposals, SUBSET) for samples."""
    size, n = points3d.shape[0], points3d.shape[1]
    proposals = uniforms.shape[1] if n > SUBSET else 0
    rows, forms = np.empty((7, n)), np.empty((6, n))
    limits, camera = np.empty(4), np.empty((3, 3))
    scratch, omega = np.empty((19, 10)), np.empty((9, 9))
    linear, centre = np.empty((3, 9)), np.empty(3)
    everything, chosen, cumulative = np.empty(n, np.int64), np.empty(SUBSET, np.int64), np.empty(n)
    for i in range(n):
        everything[i] = i
    fewer = min(iterations, 4)
    poses = np.zeros((keep + few * proposals, 4, 4))
    errors, costs = np.empty(grid.shape[0]), np.empty(keep + few * proposals)
    near = 1.0 + 2.0 * math.cos(math.radians(10.0))  # trace of a rotation by 10 degrees
    for b in range(size):
        _, near_plane = lay_out_scaled(
            points3d[b], points2d[b], weights[b], K[b], bounds[b], centre_of[b], scale[b], z_min, rows, limits, camera
        )
        threshold = np.float64(delta[b])
        lay_out_forms(rows, camera, forms)
        quadratic_form(rows, forms, everything, centre, omega, linear, scratch)
        _candidates(omega, linear, centre, camera, grid, keep, iterations, dof, poses[:keep], errors, scratch)
        if proposals:
            total = 0.0
            for i in range(n):
                total += abs(rows[5, i]) + abs(rows[6, i])
                cumulative[i] = total
            for k in range(proposals):
                if not _draw(cumulative, uniforms[b, k], chosen):
                    for m in range(few):
                        copy_pose(poses[0], poses[keep + few * k + m])
                    continue
                quadratic_form(rows, forms, chosen, centre, omega, linear, scratch)
                first = keep + few * k
                _candidates(omega, linear, centre, camera, grid, few, fewer, dof, poses[first : first + few], errors, scratch)
        for m in range(len(costs)):
            cost = full_cost(rows, camera, poses[m], threshold, limits, near_plane, kernel)
            costs[m] = cost if math.isfinite(cost) else np.inf
        for c in range(out.shape[1]):
            best = 0
            for m in range(len(costs)):
                if costs[m] < costs[best]:
                    best = m
            if finite(poses[best]):
                copy_pose(poses[best], out[b, c])
            else:
                for i in range(4):
                    for j in range(4):
                        out[b, c, i, j] = 1.0 if i == j else 0.0
            for m in range(len(costs)):
                trace = 0.0
                for i in range(3):
                    for j in range(3):
                        trace += poses[m, i, j] * poses[best, i, j]
                if trace > near:
                    costs[m] = np.inf


@kernel_
def _draw(cumulative, uniforms, chosen):
    """SUBSET different points, drawn by weight; False where fewer have weight."""
    total = cumulative[-1]
    if not total > 0.0:
        return False
    for k in range(SUBSET):
        u = uniforms[k]
        for _ in range(64):
            i, high = 0, len(cumulative) - 1  # the first above u * total
            while i < high:
                middle = (i + high) // 2
                if cumulative[middle] > u * total:
                    high = middle
                else:
                    i = middle + 1
            fresh = True
            for j in range(k):
                fresh = fresh and chosen[j] != i
            if fresh:
                break
            u = (u + 0.6180339887498949) % 1.0
        if not fresh:
            return False
        chosen[k] = i
    return True
