"""The fused PnP kernels on a GPU against the plain-torch path on the same GPU. Without one it says so and ends.

    python -m benchmarks.pnp_cuda [--rounds 20]

float32, Huber with an adaptive threshold. "Monte Carlo" is the costs of 512 sampled poses of each of 256 problems, and their
gradients by points3d, points2d, weights and threshold, as in the loss of EPro-PnP. Plain torch is `residuals` under autograd,
in as few slices of samples as fit into memory. "From a start" is the descent of `pnp.solve`, 15 degrees and 10 % of the depth
off; plain torch is `descend_reference` on `residuals`. Times are medians between CUDA events, after a first run, which
compiles; fused and plain take turns. Errors are those of both against `residuals` in float64, relative to the largest entry.
The share of the peak counts operations as written below against 2 per FP32 lane and cycle at the highest clock: 50 % is what
code without a single fused multiply-add can reach.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from .pnp import BATCH, SAMPLES, K, problems

POINTS = (64, 512, 4096)
CHECKED = 4  # problems on which errors are measured

# Operations of a point and a pose: an addition, multiplication, reciprocal or root is one; comparisons and selections are none.
COST = 33  # P X: 18, reciprocal: 1, pixel: 2, weighted residual: 4, square: 3, Huber: 4, sum: 1
POINT_GRADIENT = 68  # as far as the square: 28, weight of Huber: 2, to P X: 10, to the point: 18, pixel, weight, delta: 10
NORMAL = 236  # K (R X + t): 33, square: 10, Huber: 13, rows: 20, its second derivative: 34, turned: 18, J'J: 84, gradient: 24


def milliseconds(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median time of each, taking turns."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, run in work.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            if turn:
                times[name].append(start.elapsed_time(end))
    return {name: float(np.median(t)) for name, t in times.items()}


def mebibytes(run: Callable[[], Any]) -> float:
    """How far the peak of allocated memory rises."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = run()
    torch.cuda.synchronize()
    del found
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_flops() -> float:
    """FP32 operations per second at the highest clock; nan where the driver does not tell it."""
    import torch

    device = torch.cuda.get_device_properties(0)
    lanes = 64 if (device.major, device.minor) in ((7, 0), (7, 2), (7, 5), (8, 0)) else 128
    megahertz = getattr(device, "clock_rate", 0) / 1e3
    if not megahertz:
        command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "--id=0"]
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            megahertz = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return device.multi_processor_count * lanes * 2 * (megahertz or np.nan) * 1e6


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """No fused kernels inside."""
    from monopose.pnp import kernels

    with mock.patch.object(kernels, "backend", return_value=None):
        yield


def error(found: Any, exact: Any) -> float:
    """The largest difference, relative to the largest entry, over several tensors of which the first problems are compared."""
    return max(float((a[: len(b)].double() - b).abs().max() / b.abs().max()) for a, b in zip(found, exact))


def row(name: str, times: dict[str, float], errors: tuple[float, float], memory: tuple[float, float], share: float) -> None:
    fused, plain = times["fused"], times["plain"]
    print(
        f"  {name:32s} {fused:10.3f} {plain:10.3f} {plain / fused:8.1f}x {errors[0]:10.1e} {errors[1]:9.1e}"
        f" {memory[0]:9,.0f} {memory[1]:9,.0f} {100 * share:8.1f}",
        flush=True,
    )


def at(n: int, rounds: int, peak: float) -> None:
    """The rows of one number of points."""
    import torch

    from monopose import pnp
    from monopose.geometry import se3
    from monopose.pnp import kernels, residuals
    from monopose.pnp.kernels import cuda
    from monopose.pnp.prepare import prepare
    from monopose.pnp.problems import Problems
    from monopose.pnp.solve import descend_reference

    def put(v: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(v).float().cuda()

    X, x, true, start = (put(v) for v in problems(BATCH, n))
    g = torch.Generator("cuda").manual_seed(0)
    weights = torch.rand(BATCH, n, 2, generator=g, device="cuda")
    given = prepare(X, x, put(K), weights, pnp.AdaptiveHuber(0.5)).problems
    samples = se3.retract(true[:, None], 0.01 * torch.randn(BATCH, SAMPLES, 6, generator=g, device="cuda"))
    upstream = torch.rand(BATCH, SAMPLES, generator=g, device="cuda")
    work = BATCH * n * SAMPLES

    def backward(function: Callable[[Problems, torch.Tensor], torch.Tensor], size: int, upto: int = BATCH) -> Any:
        """Costs and gradients, in slices of `size` samples."""
        part = given.map(lambda v: v[:upto])
        exact = function is residuals.pose_costs and upto < BATCH
        dtype = torch.float64 if exact else torch.float32
        inputs = [v.to(dtype, copy=True).requires_grad_() for v in (*part[:3], part.delta)]
        part = part.map(lambda v: v.to(dtype))._replace(
            points3d=inputs[0], points2d=inputs[1], weights=inputs[2], delta=inputs[3]
        )
        costs, total = [], [torch.zeros_like(v) for v in inputs]
        for i in range(0, SAMPLES, size):
            cost = function(part, samples[:upto, i : i + size].to(dtype))
            pulls = torch.autograd.grad(cost, inputs, upstream[:upto, i : i + size].to(dtype))
            total = [a + b for a, b in zip(total, pulls)]
            costs.append(cost.detach())
        return torch.cat(costs, 1), *total

    def forward(size: int) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([residuals.pose_costs(given, samples[:, i : i + size]) for i in range(0, SAMPLES, size)], 1)

    free = torch.cuda.mem_get_info()[0]
    size = int(min(SAMPLES, max(1, 0.5 * free // (BATCH * n * 4 * 60))))  # autograd keeps about 60 floats per point and pose
    exact = backward(residuals.pose_costs, SAMPLES // 8, CHECKED)

    print(f"\nB={BATCH}, N={n}, S={SAMPLES}; plain torch takes the samples in {-(-SAMPLES // size)} slices")
    print(
        f"  {'':32s} {'fused ms':>10s} {'plain ms':>10s} {'ratio':>9s} {'err fused':>10s} {'err plain':>9s}"
        f" {'MiB fused':>9s} {'MiB plain':>9s} {'% peak':>8s}"
    )

    runs = {"fused": lambda: cuda.costs(given, samples), "plain": lambda: forward(size)}
    times = milliseconds(runs, rounds)
    errors = error([runs["fused"]()], exact[:1]), error([runs["plain"]()], exact[:1])
    memory = mebibytes(runs["fused"]), mebibytes(runs["plain"])
    row("Monte Carlo, forward", times, errors, memory, COST * work / (times["fused"] * 1e-3 * peak))

    runs = {
        "fused": lambda: backward(kernels.pose_costs, SAMPLES),
        "plain": lambda: backward(residuals.pose_costs, size),
    }
    times = milliseconds(runs, rounds)
    errors = error(runs["fused"](), exact), error(runs["plain"](), exact)
    memory = mebibytes(runs["fused"]), mebibytes(runs["plain"])
    share = (COST + POINT_GRADIENT) * work / (times["fused"] * 1e-3 * peak)
    row("Monte Carlo, forward + backward", times, errors, memory, share)

    few = given.map(lambda v: v[:CHECKED].double())
    runs = {"fused": lambda: cuda.normal_equations(given, start), "plain": lambda: residuals.normal_equations(given, start)}
    times = milliseconds(runs, rounds)
    exact = residuals.normal_equations(few, start[:CHECKED].double())
    errors = error(runs["fused"](), exact), error(runs["plain"](), exact)
    memory = mebibytes(runs["fused"]), mebibytes(runs["plain"])
    row("normal equations", times, errors, memory, NORMAL * BATCH * n / (times["fused"] * 1e-3 * peak))

    def plain_descent() -> torch.Tensor:
        with plain_torch():
            return descend_reference(given, start, 6, 30)[0]

    def plain_solve() -> torch.Tensor:
        with plain_torch():
            return pnp.solve(X, x, camera, weights, start, robust=pnp.AdaptiveHuber(0.5)).cam_from_obj

    camera = put(K)
    exact = [descend_reference(few, start[:CHECKED].double(), 6, 100)[0]]
    descents: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "descent from a start": (lambda: cuda.descend(given, start, 6, 30)[0], plain_descent),
        "pnp.solve from a start, whole": (
            lambda: pnp.solve(X, x, camera, weights, start, robust=pnp.AdaptiveHuber(0.5)).cam_from_obj,
            plain_solve,
        ),
    }
    for name, (fused, plain) in descents.items():
        times = milliseconds({"fused": fused, "plain": plain}, rounds)
        errors = error([fused()], exact), error([plain()], exact)
        row(name, times, errors, (mebibytes(fused), mebibytes(plain)), np.nan)
        print(f"  {'':32s} {1e3 * BATCH / times['fused']:,.0f} poses/s")


def main() -> None:
    """Print everything."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="runs of each, of which the median counts")
    rounds = parser.parse_args().rounds
    if not torch.cuda.is_available():
        print("benchmarks.pnp_cuda: no CUDA device here, nothing measured")
        return
    device, peak = torch.cuda.get_device_properties(0), peak_flops()
    print(f"{device.name}, {device.multi_processor_count} multiprocessors, torch {torch.__version__}")
    print(f"FP32 peak {peak / 1e12:.1f} TFLOP/s")
    for n in POINTS:
        at(n, rounds, peak)


if __name__ == "__main__":
    main()
