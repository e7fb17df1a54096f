"""The networks of a run by torch and by onnxruntime on the CPU: seconds of each at two batch sizes, and, with pictures of the
demo, how far the poses of the exported program are from monopose's.

    python -m benchmarks.onnx [RUN] [--threads 1] [--demo 2]

Exports into a temporary folder first, which takes a minute or so.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from monopose import runs
from monopose.commands import export
from monopose.exported import OnnxNet
from monopose.io.images import as_frame
from monopose.objects import pipeline


def seconds(work: Callable[..., object], given: tuple[torch.Tensor, ...], repeats: int = 7) -> float:
    """The median of a few calls after one that warms up."""
    work(*given)
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work(*given)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def inputs(run: pipeline.Pipeline, name: str, batch: int) -> tuple[torch.Tensor, ...]:
    if name == "detector":
        return (torch.rand(batch, 3, *run.detector.config.size),)
    side = (run.silhouettes if name == "silhouettes" else run.estimator).config.input_size
    images = torch.rand(batch, 3, side, side)
    return images, torch.rand(batch, 5, side, side) if name == "silhouettes" else torch.zeros(batch, dtype=torch.long)


def times(run: pipeline.Pipeline, folder: Path) -> None:
    nets = {"detector": run.detector.net, "coordinates": run.estimator.at_index, "silhouettes": run.silhouettes}
    print(f"{'network':12} {'batch':>5} {'torch':>9} {'onnxruntime':>12}")
    for name, net in nets.items():
        file = OnnxNet(folder / f"{name}.onnx")
        for batch in (1, 4):
            given = inputs(run, name, batch)
            with torch.inference_mode():
                a, b = seconds(net, given), seconds(file, given)
            print(f"{name:12} {batch:5d} {1000 * a:6.0f} ms {1000 * b:9.0f} ms   {a / b:.1f} times as fast")


def poses(run: pipeline.Pipeline, folder: Path, count: int) -> None:
    spec = importlib.util.spec_from_file_location("exported", folder / "predict.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    exported = program.Run(folder, torch.get_num_threads())
    run = replace(run, silhouettes=None)  # which the program does without
    for n in range(count):
        photo, camera = runs.sample(n)
        frame = as_frame(photo, camera)
        ours, theirs = run.predict(frame, refine=False), program.predict(exported, *program.read(photo, camera))
        print(f"picture {n}: {len(ours)} poses by monopose, {len(theirs)} by the program")
        for label, pose, score in zip(ours.labels.tolist(), ours.cam_from_obj.numpy(), ours.scores.tolist()):
            mine = [f for f in theirs if f["object"] == label]
            if not mine:
                print(f"  object {label} ({score:.2f}): not found")
                continue
            best = min(mine, key=lambda f: abs(f["pose"][:3, 3] - pose[:3, 3]).max())
            turn = torch.tensor(best["pose"][:3, :3] @ pose[:3, :3].T).double()
            angle = torch.rad2deg(torch.acos(((turn.trace() - 1) / 2).clamp(-1, 1)))
            away = 1000 * float(((best["pose"][:3, 3] - pose[:3, 3]) ** 2).sum() ** 0.5)
            sure = f"probability {score:.2f} and {best['probability']:.2f}"
            print(f"  object {label}: {away:6.2f} mm, {float(angle):6.2f} deg; {sure}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="demo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--demo", type=int, default=0, help="so many pictures of the demo, with its run")
    parser.add_argument("--exported", type=Path, help="folder that monopose export has written of this run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = pipeline.load(args.run, "cpu", runtime="torch")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.exported or Path(temporary)
        if args.exported is None:
            print(export.export(args.run, folder).text())
        print(f"{args.threads} thread(s)")
        times(run, folder)
        poses(run, folder, args.demo)


if __name__ == "__main__":
    main()
