"""The refiner's speed: milliseconds per object and step, and where they go.

    python -m benchmarks.refiner [--model RUN] [--objects 1 8] [--outer 3] [--inner 4] [--faces 12000] [--repeat 2] [--bfloat16]

Without `--model` the network has random weights of the default size, which cost the same. The objects are bumpy closed
surfaces, all different, about 100 pixels wide in a picture of 640 x 480. A step is an inner one: renderings, features and the
correlation of a round are shared out among its steps, and so is the last look, which judges the result: 3 x 4 steps are 13
updates and 4 renderings. On the CPU times are those of the processor, which other programs change little; on CUDA they are
the clock's, and each part waits for the device, which makes the sum of the parts larger than the total beside it. A short run
before the clock starts compiles what is compiled, and the fastest of the repeats counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.render import blob, random_poses
from monopose.geometry import boxes as box_ops
from monopose.geometry import camera as camera_ops
from monopose.geometry import se3
from monopose.objects import pipeline, refinement, refiner
from monopose.render import scene
from monopose.types import ObjectModel

K = torch.tensor([[572.4114, 0.0, 325.2611], [0.0, 573.57043, 242.04899], [0.0, 0.0, 1.0]])  # LINEMOD
SIZE = (480, 640)
AIM = {"cpu": 4.0, "cuda": 0.15}  # seconds for eight objects, 3 x 4 steps
FACES = (3_000, 12_000, 47_000, 100_000)


# ------------------------------------------------------------------------------------------------------------------ objects


def bumpy(faces: int, count: int) -> list[ObjectModel]:
    """Different closed surfaces of 0.1 to 0.2 m with about `faces` triangles, coloured by place."""
    points, triangles = (torch.from_numpy(v) for v in blob(faces))
    models = []
    for i in range(count):
        vertices = points * torch.tensor([0.6 + 0.05 * i, 0.9 - 0.04 * i, 0.7])
        a, b, c = vertices[triangles].unbind(1)
        across = torch.linalg.cross(b - a, c - a, dim=-1)
        normals = torch.zeros_like(vertices)
        for k in range(3):
            normals.index_add_(0, triangles[:, k], across)
        low, high = vertices.amin(0), vertices.amax(0)
        colors = (vertices - low) / (high - low)
        normals = torch.nn.functional.normalize(normals, dim=-1)
        models.append(ObjectModel(i + 1, f"blob {i}", vertices, triangles, normals, float((high - low).max()), colors))
    return models


def starts(count: int, distance: float = 0.9) -> Tensor:
    """Poses side by side in the picture, (count, 4, 4)."""
    poses = torch.from_numpy(random_poses(count, distance))
    poses[:, 0, 3] = torch.linspace(-0.3, 0.3, count) if count > 1 else 0.0
    return poses


# ------------------------------------------------------------------------------------------------------------------- clocks


class Spent(NamedTuple):
    """Where the time of one `refine` went."""

    total: float  # seconds
    clock: float  # seconds by the clock on the wall
    parts: dict[str, float]  # seconds; "rest" is what no part holds
    calls: dict[str, int]


def parts(model: refiner.Model) -> dict[str, list[tuple[Any, str]]]:
    """What each part of the work is done by: owners and names of functions. One that runs inside another counts for that."""
    return {
        "rendering": [(refiner.scene, "draw")],
        "crops": [(refiner.camera, "crop_around"), (refiner, "_cut_each"), (refiner.camera, "cut")],
        "features": [(model.features, "forward")],
        "correlation": [(refiner.refiner_networks, "correlation")],
        "look-up": [(refiner.refiner_networks, "look_up"), (refiner.refiner_networks, "expected")],
        "update": [(model.context, "forward"), (model.update, "forward"), (refiner.refiner_networks, "upsampled")],
        "surface net": [(model, "gather")],
        "descriptors": [(model.photo, "forward"), (refiner.maps, "interpolate"), (refiner.refiner_networks, "sample")],
        "LM": [(refiner, "_solve")],
    }


@contextmanager
def watched(model: refiner.Model, now: Callable[[], float]) -> Iterator[tuple[dict[str, float], dict[str, int]]]:
    """Within, seconds by `now` and calls are added up per part; the functions are as they were afterwards."""
    table = parts(model)
    seconds, calls, busy = dict.fromkeys(table, 0.0), dict.fromkeys(table, 0), False

    def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal busy
            if busy:
                return function(*args, **kwargs)
            busy, start = True, now()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[part] += now() - start
                calls[part] += 1
                busy = False

        return run

    with ExitStack() as stack:
        for part, functions in table.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, clocked(part, getattr(owner, name))))
        yield seconds, calls


def measured(
    model: refiner.Model,
    objects: Sequence[refiner.RefinerObject],
    poses: Tensor,
    outer: int,
    inner: int,
    repeat: int,
    autocast: bool = False,
) -> Spent:
    """The fastest of some runs on a random picture; a short run before them, which compiles, does not count.

    Args:
        model: the network; its device is where everything runs.
        objects, poses: B objects, (B, 4, 4).
        outer, inner: renderings, steps per rendering.
        repeat: runs that count.
        autocast: mixed precision, bfloat16.
    """
    device = model.log_sigma.device
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    poses, camera = poses.to(device), K.to(device)

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    def run(outer: int, inner: int) -> tuple[float, float]:
        started, clock = now(), time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext():
            refinement.refine(model, image, camera, objects, poses, outer, inner)
        return now() - started, time.perf_counter() - clock

    run(1, 1)
    found = []
    for _ in range(repeat):
        with watched(model, now) as (seconds, calls):
            total, clock = run(outer, inner)
        found.append(Spent(total, clock, seconds | {"rest": total - sum(seconds.values())}, calls))
    best = min(found, key=lambda f: f.total)
    if device.type == "cpu":
        return best
    total, clock = min(run(outer, inner) for _ in range(repeat))  # without waiting for every part
    return best._replace(total=total, clock=clock)


# -------------------------------------------------------------------------------------------------------------------- tables


def table(found: dict[int, Spent], steps: int) -> str:
    """Milliseconds per object and step and shares, a column pair per number of objects."""
    lines = [f"  {'ms per object and step':24s}" + "".join(f"{f'{n} object' + 's' * (n > 1):>15s}{'share':>8s}" for n in found)]
    for part in next(iter(found.values())).parts:
        row = f"  {part:24s}"
        for n, spent in found.items():
            row += f"{1e3 * spent.parts[part] / (n * steps):15.2f}{100 * spent.parts[part] / sum(spent.parts.values()):7.0f}%"
        lines.append(row)
    lines.append(f"  {'total':24s}" + "".join(f"{1e3 * s.total / (n * steps):15.2f}{'':8s}" for n, s in found.items()))
    return "\n".join(lines)


def rendering(model: refiner.Model, faces: Sequence[int], count: int, repeat: int) -> str:
    """Processor milliseconds of rendering one crop and of its share of putting the meshes together, by triangles."""
    size, lines = (model.config.crop_size,) * 2, []
    for n in faces:
        models, poses = bumpy(n, count), starts(count)
        corners = se3.transform(poses, torch.stack([m.corners for m in models]))
        boxes = box_ops.square(box_ops.from_points(camera_ops.project(corners, K)), model.config.crop_scale)
        k = camera_ops.crop_resize_K(K, boxes, size)
        times: list[tuple[float, float]] = []
        for _ in range(repeat + 1):
            start = time.process_time()
            meshes = scene.side_by_side(models)
            between = time.process_time()
            scene.draw(models, meshes, poses, k, size)
            times.append((time.process_time() - between, between - start))
        draw, prepare = min(times[1:])
        lines.append(f"  {len(models[0].faces):>8,d} triangles {1e3 * draw / count:10.2f} {1e3 * prepare / count:10.2f}")
    return "\n".join([f"  {'ms per object':>18s} {'rendering':>10s} {'batching':>10s}", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a run folder with refiner.safetensors; default: random weights")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8], help="how many at once")
    parser.add_argument("--outer", type=int, default=3)
    parser.add_argument("--inner", type=int, default=4)
    parser.add_argument("--faces", type=int, default=12_000, help="triangles of each object")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="mixed precision on the CPU as well, after the plain run")
    parser.add_argument("--device", nargs="+", help="default: the CPU, and CUDA if there is one")
    options, _ = parser.parse_known_args()
    steps = options.outer * options.inner
    for name in options.device or ["cpu", *["cuda"] * torch.cuda.is_available()]:
        device = torch.device(name)
        if options.model is None:
            torch.manual_seed(0)
            model = refiner.Model(refiner.Config(pretrained=False)).eval()
            model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            model = pipeline.load_refiner(options.model, device)
        most = max(options.objects)
        objects = [refiner.prepare_object(m, model.config) for m in bumpy(options.faces, most)]
        where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
        for autocast in (False, True) if device.type == "cuda" or options.bfloat16 else (False,):
            title = f"{name} ({where}), crops of {model.config.crop_size} px, {options.outer} x {options.inner} steps"
            print(f"\n{title}{', bfloat16' * autocast}", flush=True)
            found = {
                n: measured(model, objects[:n], starts(n), options.outer, options.inner, options.repeat, autocast)
                for n in options.objects
            }
            print(table(found, steps))
            for n, spent in found.items():
                kind = "of the processor" if device.type == "cpu" else "by the clock"
                print(f"  {n} objects, {steps} steps: {spent.total:.3f} s {kind}, {spent.clock:.3f} s by the clock")
            if 8 in found and (options.outer, options.inner) == (3, 4):
                print(f"  aim: eight objects, 3 x 4 steps, below {AIM[device.type]:g} s on two cores or an H200-class GPU")
        if device.type == "cpu":
            print(f"\nrendering of {most} crops by the number of triangles, as every round does it")
            print(rendering(model, FACES, most, 1), flush=True)


if __name__ == "__main__":
    main()
