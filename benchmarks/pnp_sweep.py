"""Wrong answers that look right: 126,000 random problems of 63 kinds, each with its truth.

    python -m benchmarks.pnp_sweep [--quick] [--seed 0] [--only WORDS]

A problem fails silently if `solve` says `converged` and its pose is no minimum of the cost, or if a descent from the true pose
ends truly lower, or if it has no single answer at all (points on a line, three points without a start). What is a minimum is
checked with the plain torch reference in float64, about the centroid of the points: by the gradient and the exact Hessian. The
last column says how many problems did not converge: those are honest, and few where the problem is well posed. Exits 1 if there
is a silent failure. A few minutes of one core; --quick takes a tenth of the problems.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monopose import pnp
from monopose.geometry import camera, rotation, se3
from monopose.pnp import residuals
from monopose.pnp.curvature import hessian
from monopose.pnp.prepare import prepare

F32, F64 = torch.float32, torch.float64
EACH = 2000  # problems of a kind
WORSE = 1e-3  # by which part of its cost a pose may be above the one that a descent from the truth finds
SLOPE = 1e-3  # a Newton step from a minimum gains no more than this part of the variance of a residual
PIXELS = {F32: 2e-2, F64: 1e-5}  # by which rounding of what comes in and goes out moves a projection


class Set(NamedTuple):
    """A kind of problem, one random batch: arguments of `solve` in float64, and the true poses, (B, 4, 4)."""

    X: Tensor
    x: Tensor
    K: Tensor
    true: Tensor
    w: Tensor | None = None
    dof: int = 6
    robust: Any = None
    init: Tensor | None = None
    dtype: torch.dtype = F64
    hopeless: bool = False


K600 = torch.tensor([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]], dtype=F64)


def scene(
    g: torch.Generator, size: int, n: int, depth: tuple[float, float] = (0.5, 2.0), noise: float = 0.5, flat: float = 1.0,
    thin: float = 1.0, dof: int = 6, K: Tensor = K600, wide: float = 0.2,
) -> Set:  # fmt: skip
    """Boxes of 0.2 m, `flat` times as deep and `thin` times as high as wide."""
    X = 0.2 * (torch.rand(size, n, 3, generator=g, dtype=F64) - 0.5) * torch.tensor([1, thin, flat], dtype=F64)
    z = depth[0] + (depth[1] - depth[0]) * torch.rand(size, 1, generator=g, dtype=F64)
    t = torch.cat([2 * wide * z * (torch.rand(size, 2, generator=g, dtype=F64) - 0.5), z], 1)
    R = rotation.random_rotations(size, g, F64)
    if dof == 4:
        yaw = torch.zeros(size, 3, dtype=F64)
        yaw[:, 1] = 6.2832 * torch.rand(size, generator=g, dtype=F64)
        R = rotation.so3_exp(yaw)
    T = se3.from_rt(R, t)
    x = camera.project(se3.transform(T, X), K) + noise * torch.randn(size, n, 2, generator=g, dtype=F64)
    return Set(X, x, K, T, dof=dof)


def moved(s: Set, centre: list[float], scale: float = 1.0) -> Set:
    """The same with the object's origin elsewhere, in another unit."""
    shift = torch.tensor(centre, dtype=F64)
    X = s.X * scale + shift
    R = s.true[:, :3, :3]
    return s._replace(X=X, true=se3.from_rt(R, s.true[:, :3, 3] * scale - (R @ shift)))


def started(s: Set, g: torch.Generator, degrees: float = 20.0, far: float = 0.1) -> Set:
    size = len(s.X)
    axis = torch.nn.functional.normalize(torch.randn(size, 3, generator=g, dtype=F64), dim=-1)
    move = far * s.true[:, 2:3, 3] * (torch.rand(size, 3, generator=g, dtype=F64) - 0.5)
    turn = torch.deg2rad(torch.tensor(degrees, dtype=F64)) * axis
    if s.dof == 4:
        turn = turn * torch.tensor([0.0, 1, 0], dtype=F64)
    return s._replace(init=se3.retract(s.true, torch.cat([move, turn], -1)))


def weighted(s: Set, g: torch.Generator, spread: float) -> Set:
    """Weights over so many powers of ten, noise to match."""
    w = 10 ** (spread * (torch.rand(s.x.shape, generator=g, dtype=F64) - 0.5))
    clean = camera.project(se3.transform(s.true, s.X), s.K)
    return s._replace(w=w, x=clean + (s.x - clean) / w.clamp_min(0.05))


def turned(s: Set, R: Tensor, scale: float = 1.0) -> Set:
    """Under K times a rotation."""
    T = torch.eye(4, dtype=F64)
    T[:3, :3] = R.mT
    return s._replace(K=scale * s.K @ R, true=T @ s.true)


def outlying(s: Set, g: torch.Generator, share: float, down: float | None = None) -> Set:
    bad = int(share * s.X.shape[1])
    x = s.x.clone()
    x[:, :bad] += 60 * torch.randn(len(x), bad, 2, generator=g, dtype=F64)
    w = torch.ones_like(x)
    w[:, :bad] = 1.0 if down is None else down
    return s._replace(x=x, w=w)


def tilted_plane(g: torch.Generator, size: int, n: int, degrees: float, noise: float) -> Set:
    s = scene(g, size, n, flat=0.0, noise=0)
    tilt = torch.zeros(size, 3, dtype=F64)
    tilt[:, 0] = torch.deg2rad(torch.tensor(degrees, dtype=F64))
    T = se3.from_rt(rotation.so3_exp(tilt), s.true[:, :3, 3])
    x = camera.project(se3.transform(T, s.X), K600) + noise * torch.randn(size, n, 2, generator=g, dtype=F64)
    return s._replace(x=x, true=T)


def repeated(s: Set, distinct: int) -> Set:
    index = torch.arange(s.X.shape[1]) % distinct
    return s._replace(X=s.X[:, index], x=s.x[:, index])


def crowded(g: torch.Generator, size: int, places: int, n: int, reach: float) -> Set:
    """Points within about `reach` metres of a few places, each with noise of its own in the picture."""
    s = repeated(scene(g, size, n, noise=0), places)
    X = s.X + reach * torch.randn(s.X.shape, generator=g, dtype=F64)
    x = camera.project(se3.transform(s.true, X), s.K) + 0.5 * torch.randn(s.x.shape, generator=g, dtype=F64)
    return s._replace(X=X, x=x)


def behind(s: Set) -> Set:
    init = s.true.clone()
    init[:, 2, 3] *= -1
    return s._replace(init=init)


def kinds() -> dict[str, Callable[[torch.Generator, int], Set]]:
    turn = rotation.so3_exp(torch.tensor([0.0, 0.0, torch.pi / 2], dtype=F64))
    tip = rotation.so3_exp(torch.tensor([1.0, 0.0, 0.0], dtype=F64))
    skew = K600.clone()
    skew[0, 1] = 40.0
    mirror = K600.clone()
    mirror[0, 0] = -600.0
    tele, wide = K600.clone(), K600.clone()
    tele[0, 0] = tele[1, 1] = 6000.0
    wide[0, 0] = wide[1, 1] = 200.0
    utm = [5e5, 5.2e6, 100.0]
    return {
        "volume, 4 points": lambda g, b: scene(g, b, 4),
        "volume, 5 points": lambda g, b: scene(g, b, 5),
        "volume, 6 points": lambda g, b: scene(g, b, 6),
        "volume, 8 points": lambda g, b: scene(g, b, 8),
        "volume, 16 points, float32": lambda g, b: scene(g, b, 16)._replace(dtype=F32),
        "volume, 64 points": lambda g, b: scene(g, b, 64),
        "volume, 64 points, float32": lambda g, b: scene(g, b, 64)._replace(dtype=F32),
        "volume, 12 points, no noise": lambda g, b: scene(g, b, 12, noise=0),
        "volume, 12 points, no noise, float32": lambda g, b: scene(g, b, 12, noise=0)._replace(dtype=F32),
        "volume, 12 points, 5 px noise": lambda g, b: scene(g, b, 12, noise=5),
        "volume, 30 points, 10 px noise": lambda g, b: scene(g, b, 30, noise=10),
        "plane, 4 points": lambda g, b: scene(g, b, 4, flat=0),
        "plane, 6 points": lambda g, b: scene(g, b, 6, flat=0),
        "plane, 10 points": lambda g, b: scene(g, b, 10, flat=0),
        "plane, 10 points, float32": lambda g, b: scene(g, b, 10, flat=0)._replace(dtype=F32),
        "plane, 40 points": lambda g, b: scene(g, b, 40, flat=0),
        "plane, 12 points, no noise": lambda g, b: scene(g, b, 12, flat=0, noise=0),
        "plane seen from the front": lambda g, b: tilted_plane(g, b, 12, 0.0, 0.5),
        "plane seen from the front, no noise": lambda g, b: tilted_plane(g, b, 12, 0.0, 0.0),
        "plane seen from the front, float32": lambda g, b: tilted_plane(g, b, 30, 0.0, 0.5)._replace(dtype=F32),
        "plane tilted by 5 degrees": lambda g, b: tilted_plane(g, b, 12, 5.0, 0.5),
        "nearly a plane": lambda g, b: scene(g, b, 10, flat=0.02),
        "long and thin": lambda g, b: scene(g, b, 12, flat=0.05, thin=0.05),
        "nearly a line": lambda g, b: scene(g, b, 10, flat=1e-3, thin=1e-3),
        "a line": lambda g, b: scene(g, b, 10, flat=0, thin=0)._replace(hopeless=True),
        "a line, with a start": lambda g, b: started(scene(g, b, 10, flat=0, thin=0), g)._replace(hopeless=True),
        "near: filling the image": lambda g, b: scene(g, b, 12, (0.25, 0.35), wide=0.1),
        "far: 10 px": lambda g, b: scene(g, b, 12, (8, 14)),
        "far: 10 px, noise 0.1": lambda g, b: scene(g, b, 12, (8, 14), noise=0.1),
        "telephoto lens": lambda g, b: scene(g, b, 12, (4, 20), K=tele, wide=0.02),
        "wide lens": lambda g, b: scene(g, b, 12, (0.2, 0.6), K=wide, wide=0.6),
        "origin 1 km away": lambda g, b: moved(scene(g, b, 8), [1e3, 0, 0]),
        "origin 5,000 km away": lambda g, b: moved(scene(g, b, 12), [4e6, 3e6, 1e5]),
        "cars in map coordinates": lambda g, b: moved(scene(g, b, 16, (3, 15), noise=1), utm, 20.0),
        "millimetres": lambda g, b: moved(scene(g, b, 8), [30.0, 0, 0], 1e3),
        "millimetres, float32": lambda g, b: moved(scene(g, b, 8), [30.0, 0, 0], 1e3)._replace(dtype=F32),
        "kilometres": lambda g, b: moved(scene(g, b, 8), [0.0, 0, 0], 1e-3),
        "nanometres": lambda g, b: moved(scene(g, b, 8), [0.0, 0, 0], 1e9),
        "photo turned by 90 degrees": lambda g, b: turned(scene(g, b, 8), turn),
        "K times a rotation, plane of 5": lambda g, b: turned(scene(g, b, 5, flat=0), tip),
        "2 K": lambda g, b: scene(g, b, 8)._replace(K=2 * K600),
        "skew": lambda g, b: scene(g, b, 8, K=skew),
        "mirrored image": lambda g, b: scene(g, b, 8, K=mirror),
        "weights over 2 powers of ten": lambda g, b: weighted(scene(g, b, 20), g, 2.0),
        "weights over 6 powers of ten": lambda g, b: weighted(scene(g, b, 30), g, 6.0),
        "weights over 6 powers of ten, 8 points": lambda g, b: weighted(scene(g, b, 8), g, 6.0),
        "outliers of little weight": lambda g, b: outlying(scene(g, b, 24), g, 0.3, 1e-3),
        "Huber, 10 % outliers": lambda g, b: outlying(scene(g, b, 30), g, 0.1)._replace(robust=pnp.Huber(2.0)),
        "Cauchy, 10 % outliers": lambda g, b: outlying(scene(g, b, 30), g, 0.1)._replace(robust=pnp.Cauchy(2.0)),
        "adaptive Huber": lambda g, b: outlying(scene(g, b, 30), g, 0.1)._replace(robust=pnp.AdaptiveHuber(0.1)),
        "yaw only, 3 points": lambda g, b: scene(g, b, 3, dof=4),
        "yaw only, 8 points": lambda g, b: scene(g, b, 8, dof=4),
        "yaw only, photo turned": lambda g, b: yawed(g, b, turn),
        "yaw only, in map coordinates": lambda g, b: moved(scene(g, b, 8, (3, 15), dof=4), utm, 20.0),
        "3 points five times": lambda g, b: repeated(scene(g, b, 15), 3)._replace(hopeless=True),
        "4 points five times": lambda g, b: repeated(scene(g, b, 20), 4),
        "15 points in 3 places": lambda g, b: crowded(g, b, 3, 15, 1e-5)._replace(hopeless=True),
        "20 points in 4 places": lambda g, b: crowded(g, b, 4, 20, 1e-5),
        "3 points and a start": lambda g, b: started(scene(g, b, 3), g, 3.0, 0.02),
        "start 20 degrees off": lambda g, b: started(scene(g, b, 12), g),
        "start 20 degrees off, float32": lambda g, b: started(scene(g, b, 12), g)._replace(dtype=F32),
        "start at the truth, no noise": lambda g, b: started(scene(g, b, 12, noise=0), g, 0.0, 0.0),
        "start behind the camera": lambda g, b: behind(scene(g, b, 12)),
    }  # fmt: skip


def yawed(g: torch.Generator, size: int, R: Tensor) -> Set:
    """Yaw about the Y axis of the caller's camera, whose K is K600 R."""
    s = scene(g, size, 8, dof=4)
    K = K600 @ R
    upright = se3.transform(s.true, s.X)
    depth = (upright @ R.mT)[..., 2:]
    keep = upright.clone()
    keep[..., 2:] += (0.5 - depth.amin(1, keepdim=True)).clamp_min(0)
    x = camera.project(keep, K)
    true = s.true.clone()
    true[:, 2, 3] += (keep - upright)[:, 0, 2]
    return s._replace(K=K, true=true, x=x + 0.5 * torch.randn(x.shape, generator=g, dtype=F64))


def examine(s: Set) -> dict[str, float]:
    """Counts of one batch."""
    arguments = [None if v is None else v.to(s.dtype) for v in (s.X, s.x, s.K, s.w, s.init)]
    X, x, K, w, init = arguments
    assert X is not None
    assert x is not None
    assert K is not None
    found = pnp.solve(X, x, K, w, init=init, dof=s.dof, robust=s.robust)
    exact = [None if v is None else v.double() for v in (X, x, K, w)]
    given = prepare(exact[0], exact[1], exact[2], exact[3], s.robust)  # type: ignore[arg-type]
    problems = given.own()
    pose = given.frame.inward(found.cam_from_obj.double())
    true = pnp.solve(*exact, init=s.true, dof=s.dof, robust=s.robust, iterations=100)  # type: ignore[arg-type]
    cost, best = residuals.cost(problems, pose), residuals.cost(problems, given.frame.inward(true.cam_from_obj))
    normal = residuals.normal_equations(problems, pose)
    free = torch.tensor([0, 1, 2, 3, 4, 5] if s.dof == 6 else [0, 1, 2, 4])
    H = hessian(problems, pose)[:, free[:, None], free]
    gradient = normal.gradient[:, free]
    size = H.diagonal(dim1=1, dim2=2).abs().clamp_min(1e-300).rsqrt()
    values, vectors = torch.linalg.eigh((H * size[:, :, None] * size[:, None, :]).nan_to_num(0.0))
    along = (vectors.mT @ (gradient * size)[..., None]).squeeze(-1)
    gain = 0.5 * (along.square() / values.clamp_min(1e-12)).sum(1)
    n = X.shape[-2]
    weight = 1.0 if s.w is None else s.w.flatten(1).amax(1)
    rounding = n * (PIXELS[s.dtype] * weight) ** 2
    # a rounded pose: what it adds to the cost is no fault of the solver
    no_minimum = (values[:, 0] <= 0) | (gain > SLOPE * cost / n + rounding)
    worse = cost > best * (1 + WORSE) + rounding
    worse &= true.converged
    c = found.converged
    silent = c if s.hopeless else c & (no_minimum | worse)
    return {
        "problems": len(c), "no minimum": int((c & no_minimum).sum()), "worse": int((c & worse).sum()),
        "silent": int(silent.sum()), "not converged": int((~c).sum()),
        **{r.name.lower(): int((found.reason == r).sum()) for r in pnp.Reason if r},
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, total, failed = time.process_time(), 0, 0
    print(f"{'kind':<40}{'problems':>9}{'no minimum':>11}{'worse':>7}{'silent':>8}{'not converged':>15}  why not")
    for i, (name, make) in enumerate(kinds().items()):
        if args.only not in name:
            continue
        g = torch.Generator().manual_seed(1000 * args.seed + i)
        row = examine(make(g, EACH // 10 if args.quick else EACH))
        total, failed = total + int(row["problems"]), failed + int(row["silent"])
        why = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in list(row.items())[5:] if v)
        print(
            f"{name:<40}{row['problems']:>9}{row['no minimum']:>11}{row['worse']:>7}{row['silent']:>8}"
            f"{row['not converged']:>15}  {why}",
            flush=True,
        )
    print(f"{total} problems, {failed} silent failures, {time.process_time() - start:.0f} s of processor time")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
