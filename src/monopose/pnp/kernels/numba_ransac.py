"""Samples of three points, the poses that explain them, and how many other points agree: the loop of `ransac`, in float64.

A camera is upper triangular here, with a positive diagonal, and pixels are taken through its inverse, so that the poses see
plain directions; residuals are measured in pixels again, each in units of its point's threshold.
"""

import math

import numpy as np

from .numba_costs import inline, kernel_
from .numba_solve import accumulate_pinhole, copy_pose, damped_step, retract

BLOCK = 64  # points between two looks at whether a pose can still win
POLISH = 4  # most steps on the points that agree, after a pose became the best
MEASURED = 256  # points from which their extent is taken, about
LARGE = 1e100  # coordinates whose squares would not be finite


@inline
def _next(state):
    """The next 64 random bits of state (1,). Source: Steele et al., Fast splittable pseudorandom number generators."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inline
def _below(state, count):
    """A random whole number from 0 to count - 1."""
    return min(int((_next(state) >> np.uint64(11)) * 1.1102230246251565e-16 * count), count - 1)


@kernel_
def ranked(values, k):
    """The value that k others are not above; the order of `values` (n,) is lost. Source: Hoare's quickselect."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot, i, j = values[(low + high) // 2], low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@kernel_
def _frame(a0, a1, a2, b0, b1, b2, c0, c1, c2, F):
    """Fill F (3, 3), columns, with the axes of the triangle a, b, c; returns the sine of its angle at a."""
    x0, x1, x2 = b0 - a0, b1 - a1, b2 - a2
    y0, y1, y2 = c0 - a0, c1 - a1, c2 - a2
    long, other = math.sqrt(x0 * x0 + x1 * x1 + x2 * x2), math.sqrt(y0 * y0 + y1 * y1 + y2 * y2)
    x0, x1, x2 = x0 / long, x1 / long, x2 / long
    z0, z1, z2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
    high = math.sqrt(z0 * z0 + z1 * z1 + z2 * z2)
    z0, z1, z2 = z0 / high, z1 / high, z2 / high
    F[0, 0], F[1, 0], F[2, 0] = x0, x1, x2
    F[0, 1], F[1, 1], F[2, 1] = z1 * x2 - z2 * x1, z2 * x0 - z0 * x2, z0 * x1 - z1 * x0
    F[0, 2], F[1, 2], F[2, 2] = z0, z1, z2
    return high / other


@kernel_
def _cubic_roots(b, c, d, roots):
    """Fill roots (3,) with the real roots of x^3 + b x^2 + c x + d; returns how many."""
    third = b / 3.0
    p, q = c - b * third, third * (2.0 * third * third - c) + d
    half, sixth = 0.5 * q, p / 3.0
    inside = half * half + sixth * sixth * sixth
    if inside > 0.0:
        root = math.sqrt(inside)
        u = -half - root if half > 0.0 else -half + root  # no cancellation
        u = math.copysign(abs(u) ** (1.0 / 3.0), u)
        roots[0] = (u - sixth / u if u != 0.0 else 0.0) - third
        count = 1
    else:
        size = math.sqrt(max(-sixth, 0.0))
        cosine = -half / (size * size * size) if size > 0.0 else 0.0
        angle = math.acos(min(max(cosine, -1.0), 1.0)) / 3.0
        for i in range(3):
            roots[i] = 2.0 * size * math.cos(angle - 2.0943951023931953 * i) - third
        count = 3
    for i in range(count):
        x = roots[i]
        for _ in range(2):
            slope = (3.0 * x + 2.0 * b) * x + c
            if slope != 0.0:
                x -= (((x + b) * x + c) * x + d) / slope
        roots[i] = x
    return count


@kernel_
def three_points(X, rays, poses, F, G, roots):
    """Fill poses (4, 4, 4) with those that put three points X (3, 3) on their unit rays (3, 3); returns how many.

    The ratios x, y of the first two distances to the third lie on two conics; a singular member of their pencil is a pair of
    lines, and each line meets a conic twice. F, G (3, 3) and roots (3,) are scratch.

    Source: Persson and Nordberg, Lambda Twist, for the pencil; Richter-Gebert, Perspectives on Projective Geometry, sec. 11.1,
    for the lines of a singular conic.
    """
    a12 = (X[0, 0] - X[1, 0]) ** 2 + (X[0, 1] - X[1, 1]) ** 2 + (X[0, 2] - X[1, 2]) ** 2
    a13 = (X[0, 0] - X[2, 0]) ** 2 + (X[0, 1] - X[2, 1]) ** 2 + (X[0, 2] - X[2, 2]) ** 2
    a23 = (X[1, 0] - X[2, 0]) ** 2 + (X[1, 1] - X[2, 1]) ** 2 + (X[1, 2] - X[2, 2]) ** 2
    if not min(a12, a13, a23) > 0.0:
        return 0
    if not _frame(X[0, 0], X[0, 1], X[0, 2], X[1, 0], X[1, 1], X[1, 2], X[2, 0], X[2, 1], X[2, 2], F) > 1e-4:
        return 0
    b12 = rays[0, 0] * rays[1, 0] + rays[0, 1] * rays[1, 1] + rays[0, 2] * rays[1, 2]
    b13 = rays[0, 0] * rays[2, 0] + rays[0, 1] * rays[2, 1] + rays[0, 2] * rays[2, 2]
    b23 = rays[1, 0] * rays[2, 0] + rays[1, 1] * rays[2, 1] + rays[1, 2] * rays[2, 2]
    u, v = a12 / a23, a13 / a23
    # C = [[1, -b12, 0], [-b12, 1 - u, u b23], [0, u b23, -u]] and D = [[1, 0, -b13], [0, -v, v b23], [-b13, v b23, 1 - v]]
    c00, c01, c02 = 1.0, -b12, 0.0
    c11, c12, c22 = 1.0 - u, u * b23, -u
    d00, d01, d02 = 1.0, 0.0, -b13
    d11, d12, d22 = -v, v * b23, 1.0 - v
    # their adjugates, and det(C + g D) = k0 + k1 g + k2 g^2 + k3 g^3
    A00, A01, A02 = c11 * c22 - c12 * c12, c02 * c12 - c01 * c22, c01 * c12 - c02 * c11
    A11, A12, A22 = c00 * c22 - c02 * c02, c01 * c02 - c00 * c12, c00 * c11 - c01 * c01
    B00, B01, B02 = d11 * d22 - d12 * d12, d02 * d12 - d01 * d22, d01 * d12 - d02 * d11
    B11, B12, B22 = d00 * d22 - d02 * d02, d01 * d02 - d00 * d12, d00 * d11 - d01 * d01
    k0, k3 = c00 * A00 + c01 * A01 + c02 * A02, d00 * B00 + d01 * B01 + d02 * B02
    k1 = A00 * d00 + A11 * d11 + A22 * d22 + 2.0 * (A01 * d01 + A02 * d02 + A12 * d12)
    k2 = B00 * c00 + B11 * c11 + B22 * c22 + 2.0 * (B01 * c01 + B02 * c02 + B12 * c12)
    many = _cubic_roots(k2 / k3, k1 / k3, k0 / k3, roots)
    best = s00 = s01 = s02 = s11 = s12 = s22 = p0 = p1 = p2 = 0.0
    for i in range(many):  # the member whose lines are real, and furthest apart
        g = roots[i]
        e00, e01, e02 = c00 + g * d00, c01 + g * d01, c02 + g * d02
        e11, e12, e22 = c11 + g * d11, c12 + g * d12, c22 + g * d22
        f00, f11, f22 = e12 * e12 - e11 * e22, e02 * e02 - e00 * e22, e01 * e01 - e00 * e11
        scale = e00 * e00 + e11 * e11 + e22 * e22 + 2.0 * (e01 * e01 + e02 * e02 + e12 * e12)
        most = max(f00, f11, f22) / scale
        if most > best:
            best = most
            s00, s01, s02 = e00, e01, e02
            s11, s12, s22 = e11, e12, e22
            f01, f02, f12 = e01 * e22 - e02 * e12, e02 * e11 - e01 * e12, e00 * e12 - e01 * e02
            if f00 >= f11 and f00 >= f22:
                root = math.sqrt(f00)
                p0, p1, p2 = f00 / root, f01 / root, f02 / root
            elif f11 >= f22:
                root = math.sqrt(f11)
                p0, p1, p2 = f01 / root, f11 / root, f12 / root
            else:
                root = math.sqrt(f22)
                p0, p1, p2 = f02 / root, f12 / root, f22 / root
    if not best > 0.0:
        return 0
    # conic plus cross product with its double point has rank one: a line in its rows, the other in its columns
    F0 = G
    F0[0, 0], F0[0, 1], F0[0, 2] = s00, s01 - p2, s02 + p1
    F0[1, 0], F0[1, 1], F0[1, 2] = s01 + p2, s11, s12 - p0
    F0[2, 0], F0[2, 1], F0[2, 2] = s02 - p1, s12 + p0, s22
    row, column, largest = 0, 0, 0.0
    for i in range(3):
        for j in range(3):
            if abs(F0[i, j]) > largest:
                largest, row, column = abs(F0[i, j]), i, j
    la0, la1, la2 = F0[row, 0], F0[row, 1], F0[row, 2]
    lb0, lb1, lb2 = F0[0, column], F0[1, column], F0[2, column]
    count = 0
    for line in range(2):
        l0, l1, l2 = (la0, la1, la2) if line == 0 else (lb0, lb1, lb2)
        across = abs(l0) > abs(l1)
        m, n = (-l1 / l0, -l2 / l0) if across else (-l0 / l1, -l2 / l1)
        if across:  # x = m y + n in y^2 (d11 + ...)
            qa = d00 * m * m + 2.0 * d01 * m + d11
            qb = d00 * m * n + d01 * n + d02 * m + d12
            qc = d00 * n * n + 2.0 * d02 * n + d22
        else:  # y = m x + n
            qa = d00 + 2.0 * d01 * m + d11 * m * m
            qb = d01 * n + d02 + d11 * m * n + d12 * m
            qc = d11 * n * n + 2.0 * d12 * n + d22
        inside = qb * qb - qa * qc
        if inside < 0.0 and inside > -1e-12 * qb * qb:  # a double root, but for rounding
            inside = 0.0
        if not inside >= 0.0:
            continue
        root = math.sqrt(inside)
        first = -qb - root if qb > 0.0 else -qb + root
        for k in range(2):
            t = first / qa if k == 0 else qc / first
            x, y = (m * t + n, t) if across else (t, m * t + n)
            if not (x > 0.0 and y > 0.0 and x < 1e12 and y < 1e12):
                continue
            third = math.sqrt(a23 / (y * y + 1.0 - 2.0 * b23 * y))
            r0, r1, r2 = x * third, y * third, third
            for _ in range(2):  # Newton on the three distances
                h0 = r0 * r0 + r1 * r1 - 2.0 * b12 * r0 * r1 - a12
                h1 = r0 * r0 + r2 * r2 - 2.0 * b13 * r0 * r2 - a13
                h2 = r1 * r1 + r2 * r2 - 2.0 * b23 * r1 * r2 - a23
                j00, j01 = r0 - b12 * r1, r1 - b12 * r0
                j10, j12 = r0 - b13 * r2, r2 - b13 * r0
                j21, j22 = r1 - b23 * r2, r2 - b23 * r1
                det = -2.0 * (j00 * j12 * j21 + j01 * j10 * j22)
                if det == 0.0:
                    break
                s0 = (-j12 * j21 * h0 - j01 * j22 * h1 + j01 * j12 * h2) / det
                s1 = (-j10 * j22 * h0 + j00 * j22 * h1 - j00 * j12 * h2) / det
                s2 = (j10 * j21 * h0 - j00 * j21 * h1 - j01 * j10 * h2) / det
                r0, r1, r2 = r0 - s0, r1 - s1, r2 - s2
            if not (r0 > 0.0 and r1 > 0.0 and r2 > 0.0 and r0 + r1 + r2 < np.inf):
                continue
            y00, y01, y02 = r0 * rays[0, 0], r0 * rays[0, 1], r0 * rays[0, 2]
            y10, y11, y12 = r1 * rays[1, 0], r1 * rays[1, 1], r1 * rays[1, 2]
            y20, y21, y22 = r2 * rays[2, 0], r2 * rays[2, 1], r2 * rays[2, 2]
            if not _frame(y00, y01, y02, y10, y11, y12, y20, y21, y22, G) > 0.0:
                continue
            T = poses[count]
            for i in range(3):
                for j in range(3):
                    T[i, j] = G[i, 0] * F[j, 0] + G[i, 1] * F[j, 1] + G[i, 2] * F[j, 2]
            T[0, 3] = y00 - (T[0, 0] * X[0, 0] + T[0, 1] * X[0, 1] + T[0, 2] * X[0, 2])
            T[1, 3] = y01 - (T[1, 0] * X[0, 0] + T[1, 1] * X[0, 1] + T[1, 2] * X[0, 2])
            T[2, 3] = y02 - (T[2, 0] * X[0, 0] + T[2, 1] * X[0, 1] + T[2, 2] * X[0, 2])
            count += 1
    return count


@kernel_
def disagreement(rows, skew, n, T, z_min, least):
    """The sum over n points of the squared residual, at most 1 each, and how many are below 1; stops where above `least`.

    rows (7, N) as of `lay_out`, for K = I, weights in units of the thresholds; skew (N,).

    Source: Torr and Zisserman, MLESAC, sec. 3: the cost of MSAC.
    """
    X, Y, Z = rows[0], rows[1], rows[2]
    U, V = rows[3], rows[4]
    A, B = rows[5], rows[6]
    r00, r01, r02 = T[0, 0], T[0, 1], T[0, 2]
    r10, r11, r12 = T[1, 0], T[1, 1], T[1, 2]
    r20, r21, r22 = T[2, 0], T[2, 1], T[2, 2]
    t0, t1, t2 = T[0, 3], T[1, 3], T[2, 3]
    total, agreed = 0.0, 0.0
    for begin in range(0, n, BLOCK):
        for i in range(begin, min(begin + BLOCK, n)):
            depth = r20 * X[i] + r21 * Y[i] + r22 * Z[i] + t2
            inverse = 1.0 / (depth if depth > z_min else z_min)
            x = (r00 * X[i] + r01 * Y[i] + r02 * Z[i] + t0) * inverse - U[i]
            y = (r10 * X[i] + r11 * Y[i] + r12 * Z[i] + t1) * inverse - V[i]
            ru, rv = A[i] * x + skew[i] * y, B[i] * y
            square = ru * ru + rv * rv
            good = 1.0 if depth > z_min and square <= 1.0 else 0.0
            agreed += good
            total += square if good > 0.0 else 1.0
        if total >= least:
            return total, agreed
    return total, agreed


@kernel_
def polish(rows, skew, n, T, z_min, least, agreed, masked, work, trial):
    """Steps of least squares on the points that agree, in place, as long as they help; returns cost and how many agree then.

    masked (7, n), work (8, 6) and trial (4, 4) are scratch.
    """
    H, g = work[0:6], work[6]
    step, free = work[7], np.array([-np.inf, -np.inf, np.inf, np.inf])
    X, Y, Z = rows[0], rows[1], rows[2]
    U, V = rows[3], rows[4]
    A, B = rows[5], rows[6]
    damping = 1e-4
    for k in range(5):
        for i in range(n):
            masked[k, i] = rows[k, i]
    for _ in range(POLISH):
        r00, r01, r02 = T[0, 0], T[0, 1], T[0, 2]
        r10, r11, r12 = T[1, 0], T[1, 1], T[1, 2]
        r20, r21, r22 = T[2, 0], T[2, 1], T[2, 2]
        t0, t1, t2 = T[0, 3], T[1, 3], T[2, 3]
        a, b = masked[5], masked[6]
        for i in range(n):
            depth = r20 * X[i] + r21 * Y[i] + r22 * Z[i] + t2
            inverse = 1.0 / (depth if depth > z_min else z_min)
            x = (r00 * X[i] + r01 * Y[i] + r02 * Z[i] + t0) * inverse - U[i]
            y = (r10 * X[i] + r11 * Y[i] + r12 * Z[i] + t1) * inverse - V[i]
            ru, rv = A[i] * x + skew[i] * y, B[i] * y
            good = depth > z_min and ru * ru + rv * rv <= 1.0
            a[i] = A[i] if good else 0.0
            b[i] = B[i] if good else 0.0
        accumulate_pinhole(masked, T, free, z_min, H, g)
        _, solvable = damped_step(H, g, damping, n < 0, step)  # a literal False would be compiled once more
        if not solvable:
            break
        retract(T, step, trial)
        cost, count = disagreement(rows, skew, n, trial, z_min, np.inf)
        if not cost < least:
            break
        enough = least - cost < 1e-3 * least
        copy_pose(trial, T)
        least, agreed = cost, count
        if enough:
            break
    return least, agreed


@kernel_
def samples_for(agreed, n, confidence):
    """Samples of three after which one of points that agree alone was drawn with this confidence."""
    share = agreed * (agreed - 1.0) * (agreed - 2.0) / (n * (n - 1.0) * (n - 2.0))
    if not share > 0.0:
        return np.inf
    if share >= 1.0:
        return 0.0
    return math.log1p(-confidence) / math.log1p(-share)


@kernel_
def search(
    points3d, points2d, thresholds, usable, K, first, has_first, z_min, most, pose, found, drawn,
    least_samples, confidence, seed,
):  # fmt: skip
    """Fill pose (B, 4, 4), whether there is any, found (B,), and how many samples were drawn, drawn (B,).

    points3d (B, N, 3), points2d (B, N, 2) pixels, thresholds (B, N) pixels, usable (B, N), K (B, 3, 3) upper triangular; first
    (B, 4, 4), a pose that is tried before all samples where has_first (B,); z_min and the most samples, (B,). Every problem
    starts from the same seed.
    """
    size = points3d.shape[1]
    skew, scratch, rays = np.empty(size), np.empty(size), np.empty((size, 3))
    work, trial = np.empty((8, 6)), np.empty((4, 4))
    X3, rays3, poses = np.empty((3, 3)), np.empty((3, 3)), np.zeros((4, 4, 4))
    F, G, roots = np.empty((3, 3)), np.empty((3, 3)), np.empty(3)
    centre, state = np.empty(3), np.empty(1, np.uint64)
    for b in range(points3d.shape[0]):
        n = np.int64(0)  # a literal 0 would compile once more all that takes it
        for i in range(size):
            n += 1 if usable[b, i] else 0
        rows, masked = np.empty((7, n)), np.empty((7, n))
        n = np.int64(0)
        fx, fy, s = K[b, 0, 0], K[b, 1, 1], K[b, 0, 1]
        cx, cy = K[b, 0, 2], K[b, 1, 2]
        for i in range(size):
            if usable[b, i]:
                y = (points2d[b, i, 1] - cy) / fy
                x = (points2d[b, i, 0] - cx - s * y) / fx
                rows[0, n], rows[1, n], rows[2, n] = points3d[b, i, 0], points3d[b, i, 1], points3d[b, i, 2]
                rows[3, n], rows[4, n] = x, y
                rows[5, n], rows[6, n], skew[n] = fx / thresholds[b, i], fy / thresholds[b, i], s / thresholds[b, i]
                scale = 1.0 / math.sqrt(x * x + y * y + 1.0)
                rays[n, 0], rays[n, 1], rays[n, 2] = x * scale, y * scale, scale
                n += 1
        found[b], drawn[b] = False, 0
        near = z_min[b]
        T = pose[b]
        for i in range(4):
            for j in range(4):
                T[i, j] = 1.0 if i == j else 0.0
        if n < 3:
            continue
        for axis in range(3):  # an object far from its origin would lose digits
            for i in range(n):
                scratch[i] = rows[axis, i]
            centre[axis] = ranked(scratch[:n], n // 2)
            for i in range(n):
                rows[axis, i] -= centre[axis]
        least, agreed, needed = float(n), 0.0, np.inf
        if has_first[b]:
            known = poses[0]
            copy_pose(first[b], known)
            for i in range(3):
                known[i, 3] += known[i, 0] * centre[0] + known[i, 1] * centre[1] + known[i, 2] * centre[2]
            cost, count = disagreement(rows, skew, n, known, near, least)
            if cost < least and count >= 3.0:
                least, agreed = polish(rows, skew, n, known, near, cost, count, masked, work, trial)
                copy_pose(known, T)
                found[b] = True
                needed = max(float(least_samples), samples_for(agreed, n, confidence))
        state[0] = np.uint64(seed)
        k = 0
        while k < most[b] and k < needed:
            k += 1
            i0 = _below(state, n)
            i1 = _below(state, n - 1)
            i1 += 1 if i1 >= i0 else 0
            low, high = min(i0, i1), max(i0, i1)
            i2 = _below(state, n - 2)
            i2 += 1 if i2 >= low else 0
            i2 += 1 if i2 >= high else 0
            for j in range(3):
                X3[0, j], X3[1, j], X3[2, j] = rows[j, i0], rows[j, i1], rows[j, i2]
                rays3[0, j], rays3[1, j], rays3[2, j] = rays[i0, j], rays[i1, j], rays[i2, j]
            better = False
            for m in range(three_points(X3, rays3, poses, F, G, roots)):
                cost, count = disagreement(rows, skew, n, poses[m], near, least)
                if cost < least:
                    least, agreed, better = cost, count, True
                    copy_pose(poses[m], T)
            if better:
                found[b] = True
                least, agreed = polish(rows, skew, n, T, near, least, agreed, masked, work, trial)
                needed = max(float(least_samples), samples_for(agreed, n, confidence))
        drawn[b] = k
        for i in range(3):
            T[i, 3] -= T[i, 0] * centre[0] + T[i, 1] * centre[1] + T[i, 2] * centre[2]


@kernel_
def within(points3d, points2d, thresholds, present, usable, K, z_min, poses, inliers, counts, changed):
    """Fill inliers (B, N) at poses (B, 4, 4), how many of those are usable, counts (B,), and whether any changed, (B,)."""
    for b in range(len(poses)):
        T, k = poses[b], K[b]
        fx, s, cx = k[0, 0], k[0, 1], k[0, 2]
        fy, cy = k[1, 1], k[1, 2]
        counts[b], changed[b] = 0, False
        for i in range(points3d.shape[1]):
            X, Y, Z = points3d[b, i, 0], points3d[b, i, 1], points3d[b, i, 2]
            x = T[0, 0] * X + T[0, 1] * Y + T[0, 2] * Z + T[0, 3]
            y = T[1, 0] * X + T[1, 1] * Y + T[1, 2] * Z + T[1, 3]
            z = T[2, 0] * X + T[2, 1] * Y + T[2, 2] * Z + T[2, 3]
            u, v = (fx * x + s * y) / z + cx - points2d[b, i, 0], fy * y / z + cy - points2d[b, i, 1]
            good = present[b, i] and z > z_min[b] and u * u + v * v <= thresholds[b, i] * thresholds[b, i]
            changed[b] |= good != inliers[b, i]
            inliers[b, i] = good
            counts[b] += good and usable[b, i]


@kernel_
def gather(points3d, points2d, weights, usable, inliers, poses, X, x, w, starts, centre, scale):
    """Copy the usable inliers to the front of X (B, n, 3), x and w (B, n, 2), about centre (B, 3), in units of scale (B,).

    starts (B, 4, 4) are the poses (B, 4, 4) for such points.
    """
    for b in range(len(poses)):
        n = 0
        c0 = c1 = c2 = 0.0
        for i in range(points3d.shape[1]):
            if inliers[b, i] and usable[b, i]:
                X[b, n, 0], X[b, n, 1], X[b, n, 2] = points3d[b, i, 0], points3d[b, i, 1], points3d[b, i, 2]
                x[b, n, 0], x[b, n, 1] = points2d[b, i, 0], points2d[b, i, 1]
                w[b, n, 0], w[b, n, 1] = weights[b, i, 0], weights[b, i, 1]
                n += 1
        for i in range(n):  # from the first point, or an object far from its origin would lose digits
            c0 += X[b, i, 0] - X[b, 0, 0]
            c1 += X[b, i, 1] - X[b, 0, 1]
            c2 += X[b, i, 2] - X[b, 0, 2]
        c0, c1, c2 = X[b, 0, 0] + c0 / n, X[b, 0, 1] + c1 / n, X[b, 0, 2] + c2 / n
        square = 0.0
        for i in range(n):
            X[b, i, 0] -= c0
            X[b, i, 1] -= c1
            X[b, i, 2] -= c2
            square += X[b, i, 0] ** 2 + X[b, i, 1] ** 2 + X[b, i, 2] ** 2
        unit = math.sqrt(square / n) if square > 0.0 else 1.0
        for i in range(n):
            for j in range(3):
                X[b, i, j] /= unit
        for i in range(n, X.shape[1]):
            X[b, i, 0] = X[b, i, 1] = X[b, i, 2] = 0.0
            x[b, i, 0] = x[b, i, 1] = w[b, i, 0] = w[b, i, 1] = 0.0
        centre[b, 0], centre[b, 1] = c0, c1
        centre[b, 2], scale[b] = c2, unit
        copy_pose(poses[b], starts[b])
        for i in range(3):
            starts[b, i, 3] = (poses[b, i, 3] + poses[b, i, 0] * c0 + poses[b, i, 1] * c1 + poses[b, i, 2] * c2) / unit


@kernel_
def outward(own, own_covariance, cost, counts, centre, scale, poses, covariance):
    """Fill poses (B, 4, 4) and covariance (B, 6, 6) of the caller's points from those of `gather`, noise from the cost (B,)."""
    A, B = np.empty((6, 6)), np.empty((6, 6))
    for b in range(len(poses)):
        T, unit = poses[b], scale[b]
        copy_pose(own[b], T)
        noise = 2.0 * cost[b] / max(2 * counts[b] - 6, 1)  # variance of a weighted residual
        arm = A[0]
        for i in range(3):
            arm[i] = T[i, 0] * centre[b, 0] + T[i, 1] * centre[b, 1] + T[i, 2] * centre[b, 2]
            T[i, 3] = unit * T[i, 3] - arm[i]
        a, h, c = arm[0], arm[1], arm[2]
        # v = unit * own v + arm x omega, on both sides
        for j in range(6):
            p, q, r = own_covariance[b, 3, j], own_covariance[b, 4, j], own_covariance[b, 5, j]
            B[0, j] = unit * own_covariance[b, 0, j] + h * r - c * q
            B[1, j] = unit * own_covariance[b, 1, j] + c * p - a * r
            B[2, j] = unit * own_covariance[b, 2, j] + a * q - h * p
            B[3, j], B[4, j], B[5, j] = p, q, r
        for i in range(6):
            p, q, r = B[i, 3], B[i, 4], B[i, 5]
            covariance[b, i, 0] = noise * (unit * B[i, 0] + h * r - c * q)
            covariance[b, i, 1] = noise * (unit * B[i, 1] + c * p - a * r)
            covariance[b, i, 2] = noise * (unit * B[i, 2] + a * q - h * p)
            covariance[b, i, 3], covariance[b, i, 4], covariance[b, i, 5] = noise * p, noise * q, noise * r


@kernel_
def read(points3d, points2d, weights, thresholds, present, keys, extent, area):
    """Fill present (B, N): finite, with weight; otherwise zero the row. keys (2, B, N) are equal for equal points and pixels.

    extent (B,) is the longest side of the points, area (B,) that of the pixels, as if spread evenly. Three quarters tell
    it: one wild match would make it as large as it likes, all points too near and chance unlikely.
    """
    low, high, middle = np.empty(5), np.empty(5), np.empty(5)
    step = 1 + points3d.shape[1] // MEASURED
    table, scratch = np.empty((6, points3d.shape[1])), np.empty(points3d.shape[1])
    for b in range(len(points3d)):
        low[:], high[:] = np.inf, -np.inf
        X, x, w = points3d[b], points2d[b], weights[b]
        for i in range(X.shape[0]):
            size = abs(X[i, 0]) + abs(X[i, 1]) + abs(X[i, 2]) + abs(x[i, 0]) + abs(x[i, 1]) + abs(w[i, 0]) + abs(w[i, 1])
            present[b, i] = size < LARGE and (w[i, 0] != 0.0 or w[i, 1] != 0.0)
            if not present[b, i]:
                X[i, 0] = X[i, 1] = X[i, 2] = x[i, 0] = x[i, 1] = w[i, 0] = w[i, 1] = 0.0
                keys[0, b, i] = keys[1, b, i] = LARGE * (1.0 + i)
                continue
            keys[0, b, i] = X[i, 0] + 0.7316 * X[i, 1] + 0.5281 * X[i, 2]
            keys[1, b, i] = x[i, 0] + 0.7316 * x[i, 1]
            for j in range(3):
                low[j], high[j] = min(low[j], X[i, j]), max(high[j], X[i, j])
            for j in range(2):
                low[3 + j], high[3 + j] = min(low[3 + j], x[i, j]), max(high[3 + j], x[i, j])
        n = 0
        for i in range(0, X.shape[0], step):
            if present[b, i]:
                table[0, n], table[1, n], table[2, n] = X[i, 0], X[i, 1], X[i, 2]
                table[3, n], table[4, n], table[5, n] = x[i, 0], x[i, 1], thresholds[b, i]
                n += 1
        extent[b] = area[b] = 0.0
        if n == 0:
            continue
        for j in range(5):
            for i in range(n):
                scratch[i] = table[j, i]
            middle[j] = ranked(scratch[:n], n // 2)
        area[b] = 1.0
        for j in range(5):
            m = np.int64(0)
            for i in range(n):
                aside = abs(table[3, i] - middle[3]) > table[5, i] or abs(table[4, i] - middle[4]) > table[5, i]
                if j < 3 or aside:  # pixels that crowd in one place say nothing of where the others may be
                    scratch[m] = abs(table[j, i] - middle[j])
                    m += 1
            side = min(8.0 / 3.0 * ranked(scratch[:m], 3 * m // 4), high[j] - low[j]) if m > 0 else 0.0
            if j < 3:
                extent[b] = max(extent[b], side)
            else:
                area[b] *= side
