"""What a training sample costs: drawing and learning, in CPU time of one core, so that a busy machine disturbs little.

python -m benchmarks.training --data DATA [--backgrounds FOLDER] [--init DIR] [--before CHECKOUT]

`--before` measures an older checkout of monopose beside this one, in turns, in processes of their own with one thread each.
Drawing is what a worker process does for a sample; learning is a whole optimiser step (forward, loss, backward, clipping,
AdamW, averaged weights) divided by the samples of the batch.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

METHODS = {  # batch size, preset, changes of the configuration: what the long runs use
    "coordinates": (24, None, {"input_size": 96, "output_size": 48, "shift": 0.25, "zoom": 0.3}),
    "detector": (8, None, {}),
    "refiner": (8, "small", {"train_outer": 2, "train_inner": 2}),
}


def measure(method: str, data: Path, backgrounds: Path | None, init: Path | None, batches: int, steps: int) -> dict[str, float]:
    """Milliseconds of CPU time per sample: {"draw": ..., "learn": ...}, medians over batches and steps."""
    import cv2
    import torch
    from torch.utils.data import default_collate

    train, loop, source_class, synth, start_from = _modules()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    torch.manual_seed(0)
    getattr(loop, "keep_memory", lambda: None)()  # a part of training since it exists
    size, preset, changes = METHODS[method]
    entry = train.METHODS[method]
    faces = inspect.signature(train.train).parameters["faces"].default
    models = train.read_objects(data, (), faces)
    config = replace(train.preset(method, preset)(tuple(sorted(models))), **changes)
    scene = train.scene_config(data, upright=True, distance=(0.4, 1.5))
    source = source_class(models, train.read_data_camera(data), synth.read_backgrounds(backgrounds), scene, ())
    samples = entry.samples(config, source, 1_000_000, 0)
    _ = [samples[i] for i in range(4)]  # compiles
    drawn, drawing = [], []
    for n in range(batches):
        started = time.process_time()
        drawn.append([samples[4 + n * size + i] for i in range(size)])
        drawing.append((time.process_time() - started) / size)

    model = entry.model(config, models)
    if init is not None and (init / f"{method}.safetensors").is_file():
        start_from(model, init / f"{method}.safetensors")
    half = entry.recipe.half_on_cpu and loop.multiplies_bfloat16()
    learner = loop._Learner(entry.recipe, model.to(memory_format=torch.channels_last), loop.TrainConfig(batch_size=size))
    learner.model.train()
    optimizer = learner.configure_optimizers()[0]
    average = {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}
    learn = []
    for n in range(steps + 2):
        batch: dict[str, Any] = (entry.recipe.collate or default_collate)(drawn[n % batches])
        started = time.process_time()
        batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = model(*(batch[key] for key in entry.recipe.inputs))
            losses = entry.recipe.loss(model, output, batch | {"progress": torch.tensor(0.1)})
            total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 5.0)
        optimizer.step()
        for key, value in model.state_dict().items():
            if key in average:
                average[key].lerp_(value, 1e-3)
        learn.append((time.process_time() - started) / size)
    return {"draw": 1e3 * statistics.median(drawing), "learn": 1e3 * statistics.median(learn[2:])}


def _modules() -> tuple[Any, Any, Any, Any, Any]:
    """The parts of training, in this tree or as they lay in an older checkout."""
    try:
        from monopose.objects import training
        from monopose.synthesis import scene
        from monopose.synthesis.samples import Source
        from monopose.training import loop, warm_start

        return training, loop, Source, scene, warm_start.start_from
    except ImportError:
        old = {name: import_module(f"monopose.{name}") for name in ("train", "learning", "data.dataset", "data.synth")}
        dataset = old["data.dataset"]
        return old["train"], old["learning"], dataset.Source, old["data.synth"], old["train"]._start_from


def _measured(method: str, checkout: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process that imports monopose from a checkout."""
    env = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", method, "--data", str(arguments.data.resolve())]
    for name in ("backgrounds", "init"):
        if getattr(arguments, name) is not None:
            command += [f"--{name}", str(getattr(arguments, name).resolve())]
    command += ["--batches", str(arguments.batches), "--steps", str(arguments.steps)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, cwd=checkout)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a BOP folder with models/ and camera.json")
    parser.add_argument("--backgrounds", type=Path, help="a folder of photos")
    parser.add_argument("--init", type=Path, help="a run whose networks to start from")
    parser.add_argument("--before", type=Path, help="an older checkout of monopose to measure beside this one")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured; the least counts")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--one", choices=tuple(METHODS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        how = arguments.data, arguments.backgrounds, arguments.init, arguments.batches, arguments.steps
        print(json.dumps(measure(arguments.one, *how)))
        return
    here = Path(__file__).resolve().parents[1]
    states = ([("before", arguments.before.resolve())] if arguments.before else []) + [("now", here)]
    print("| | drawing, ms | learning, ms | samples a core-second |\n|---|---|---|---|")
    for method in arguments.methods:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name, _ in states}
        for _ in range(arguments.rounds):
            for name, checkout in states:
                runs[name].append(_measured(method, checkout, arguments))
        for name, _ in states:
            draw, learn = (min(run[part] for run in runs[name]) for part in ("draw", "learn"))
            print(f"| {method}, {name} | {draw:.1f} | {learn:.1f} | {1000 / (draw + learn):.1f} |", flush=True)


if __name__ == "__main__":
    main()
