"""The back end of CPUs: numba kernels on flat problems, their batch spread over torch's threads.

Solving is done in float64 whatever the tensors are, at hardly any loss of time. Costs of many poses follow the tensors.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import SINGULAR, Frame
from ..problems import Kernel, Problems
from ..residuals import Normal
from . import numba_costs, numba_solve, numba_start

NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
WORK = 20_000_000  # about a millisecond of point evaluations is worth a second thread
DIGITS = {torch.float32: 1e-11, torch.float64: float(np.finfo(np.float64).eps)}
"""The relative rounding below which a descent sees no progress: that of float64, or well below what float32 can show."""
LARGEST = {dtype: torch.finfo(dtype).max / 4 for dtype in DIGITS}


def to_numpy(value: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
    """C-contiguous, so that every kernel is compiled once per precision. NumPy converts small arrays faster than torch."""
    if value.requires_grad:
        value = value.detach()
    return np.ascontiguousarray(value.numpy(), None if dtype is None else NUMPY[dtype])


def arrays_of(problems: Problems, dtype: torch.dtype | None = torch.float64) -> list[np.ndarray]:
    """Its six tensors. What takes them in float64 whatever they are is compiled once for both precisions."""
    return [to_numpy(v, dtype) for v in problems[:6]]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="monopose-pnp")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked worker has no threads of its parent


def spread(kernel: Callable[..., None], evaluations: int, arrays: list[np.ndarray], *rest: Any) -> None:
    """kernel(*arrays, *rest), where every array has the batch in front, on as many threads as torch may use."""
    size = len(arrays[0])
    parts = min(torch.get_num_threads(), size, 1 + 25 * evaluations // WORK)
    if parts <= 1:
        kernel(*arrays, *rest)
        return
    edges = [size * i // parts for i in range(parts + 1)]
    futures = [_pool().submit(kernel, *(a[i:j] for a in arrays), *rest) for i, j in itertools.pairwise(edges[1:])]
    kernel(*(a[: edges[1]] for a in arrays), *rest)
    for future in futures:
        future.result()


def costs(problems: Problems, poses: Tensor) -> Tensor:
    """`residuals.pose_costs`: (B, S, 4, 4) -> (B, S)."""
    dtype = problems.points3d.dtype
    out = poses.new_empty(poses.shape[:2], dtype=dtype)
    arrays = [*arrays_of(problems, dtype), to_numpy(poses, dtype), out.numpy()]
    spread(numba_costs.costs, out.numel() * problems.points3d.shape[1], arrays, problems.z_min, int(problems.kernel))
    return out


def point_gradients(problems: Problems, poses: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of sum(upstream * costs) by points3d, points2d, weights and delta."""
    found = tuple(torch.empty_like(v, memory_format=torch.contiguous_format) for v in (*problems[:3], problems.delta))
    dtype = problems.points3d.dtype
    arrays = [*arrays_of(problems, dtype), to_numpy(poses, dtype), to_numpy(upstream, dtype)]
    arrays += [v.numpy() for v in found]
    evaluations = 2 * upstream.numel() * problems.points3d.shape[1]
    spread(numba_costs.point_gradients, evaluations, arrays, problems.z_min, int(problems.kernel))
    if problems.kernel == Kernel.CAUCHY:
        found[3].add_(2 / problems.delta * (upstream * costs(problems, poses)).sum(1))
    return found  # type: ignore[return-value]


def projection_gradients(problems: Problems, poses: Tensor, upstream: Tensor) -> Tensor:
    """The gradient of sum(upstream * costs) by K [R | t], (B, S, 3, 4)."""
    dtype = problems.points3d.dtype
    out = poses.new_empty((*poses.shape[:2], 3, 4), dtype=dtype)
    arrays = [*arrays_of(problems, dtype), to_numpy(poses, dtype), to_numpy(upstream, dtype), out.numpy()]
    evaluations = 2 * upstream.numel() * problems.points3d.shape[1]
    spread(numba_costs.projection_gradients, evaluations, arrays, problems.z_min, int(problems.kernel))
    return out


def normal_equations(problems: Problems, poses: Tensor) -> Normal:
    """`residuals.normal_equations` at one pose each, (B, 4, 4)."""
    size = len(poses)
    found = np.empty((size, 6, 6)), np.empty((size, 6)), np.empty(size)
    arrays = [*arrays_of(problems), to_numpy(poses, torch.float64), *found]
    evaluations = 4 * size * problems.points3d.shape[1]
    spread(numba_solve.normal_batch, evaluations, arrays, problems.z_min, int(problems.kernel))
    return Normal(*(torch.from_numpy(v).to(poses.dtype) for v in found))


def descend_all(
    problems: Problems, starts: Tensor, dof: int, iterations: int, trust_region: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Descend from every start (B, M, 4, 4): poses in float64, which reached a stationary point, costs; (B, M, ...)."""
    poses = starts.detach().to(torch.float64, copy=True).contiguous()
    cost, stopped = np.empty(poses.shape[:2]), np.empty(poses.shape[:2], np.bool_)
    arrays = [*arrays_of(problems), poses.numpy(), cost, stopped]
    evaluations = 30 * cost.size * problems.points3d.shape[1]
    rest = problems.z_min, int(problems.kernel), dof == 4, iterations, trust_region, DIGITS[problems.points3d.dtype]
    spread(numba_solve.descend_batch, evaluations, arrays, *rest)
    return poses, torch.from_numpy(stopped), torch.from_numpy(cost)


def descend(problems: Problems, start: Tensor, dof: int, iterations: int, trust_region: bool = True) -> tuple[Tensor, Tensor]:
    """`solve.descend_reference` from one start each, (B, 4, 4)."""
    poses, stopped, _ = descend_all(problems, start[:, None], dof, iterations, trust_region)
    return poses[:, 0].to(start.dtype), stopped[:, 0]


def frames(
    points3d: Tensor, points2d: Tensor, weights: Tensor, weighted: bool, K: Tensor, relative: bool
) -> tuple[Frame, Tensor, Tensor, int]:
    """`checks.frame`; what K (B, 3, 3) is multiplied with, (B,); which points have weight, (B, N); and what is to be taken out:
    0 nothing, 1 points without weight, 2 problems. See `numba_costs.frames`."""
    X, x, w, k = to_numpy(points3d), to_numpy(points2d), to_numpy(weights), to_numpy(K)
    size, count = X.shape[:2]
    centre, scale, factor, used = (
        np.empty((size, 3), X.dtype), np.empty(size, X.dtype), np.empty(size, X.dtype), np.empty((size, count), np.bool_)
    )  # fmt: skip
    out = numba_costs.frames(X, x, w, weighted, k, relative, SINGULAR, centre, scale, factor, used)
    return Frame(torch.from_numpy(centre), torch.from_numpy(scale)), torch.from_numpy(factor), torch.from_numpy(used), out


def _frame(frame: Frame | None, problems: Problems) -> list[np.ndarray]:
    if frame is None:
        frame = Frame(torch.zeros_like(problems.K[:, 0]), torch.ones_like(problems.K[:, 0, 0]))
    return [to_numpy(v, torch.float64) for v in frame]


def starts(
    problems: Problems,
    dof: int,
    proposals: int,
    count: int,
    generator: torch.Generator | None = None,
    frame: Frame | None = None,
) -> Tensor:
    """`initialise.starts_reference`, in float64, with random samples of its own: (B, count, 4, 4), in `frame` if given."""
    size = len(problems.points3d)
    shape = (size, proposals, numba_start.SUBSET)
    if proposals:
        generator = generator or torch.Generator().manual_seed(0)
        uniforms = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).cpu().numpy()
    else:
        uniforms = np.empty(shape)
    out = np.empty((size, count, 4, 4))
    arrays = [*arrays_of(problems), *_frame(frame, problems), uniforms, out]
    rest = problems.z_min, int(problems.kernel), dof, numba_start.GRIDS[dof], 8, 6, 2
    spread(numba_start.starts_batch, size * (10_000 + proposals * 3_000), arrays, *rest)
    return torch.from_numpy(out)


def solve(
    problems: Problems, frame: Frame, starts: Tensor, alone: bool, dof: int, iterations: int, trust_region: bool, needed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Descend from every start (B, M, 4, 4), own ones if alone, and judge the cheapest minimum.

    Returns poses, the same in their own frames, covariances, costs, all float64, and reasons (uint8).
    """
    size, count = starts.shape[:2]
    arrays = [*arrays_of(problems), *_frame(frame, problems), to_numpy(starts, torch.float64)]
    found = [np.empty((size, *shape)) for shape in ((4, 4), (4, 4), (6, 6), ())] + [np.empty(size, np.uint8)]
    rest = (
        problems.z_min, int(problems.kernel), dof == 4, iterations, trust_region, DIGITS[problems.points3d.dtype],
        needed, alone, LARGEST[problems.points3d.dtype],
    )  # fmt: skip
    spread(numba_solve.solve_batch, 30 * size * count * problems.points3d.shape[1], [*arrays, *found], *rest)
    pose, own, covariance, cost, reason = map(torch.from_numpy, found)
    return pose, own, covariance, cost, reason
