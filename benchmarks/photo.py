"""Seconds per stage of the whole path, from a photo in memory to the poses of the objects in it.

    python -m benchmarks.photo --data DATA/lmo --targets TARGETS --model weights/lmo --refiner weights/lmo_refiner

    python -m benchmarks.photo --crops

prints instead what the size of a photo costs: seconds of cutting one object out of 80 % of it, and of the whole path from the
file (with the bundled weights, the box given), and the most memory of the process so far, libraries and detector included.

Wall clock on all cores (or the GPU, if there is one), the least of three runs per photo, the median over the photos with all
eight objects; reading the file is not counted.
"""

import argparse
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

import monopose
from monopose.datasets.bop import models
from monopose.datasets.bop import scenes as bop_scenes
from monopose.geometry import camera as camera_ops
from monopose.geometry.boxes import square
from monopose.io import images
from monopose.objects import pipeline
from monopose.objects.bop_pipeline import truth_as_detections
from monopose.types import Camera, Detections

SIZES = ((640, 480), (1920, 1440), (4000, 3000), (8160, 6120))  # width, height; the last has 50 megapixels
STAGES = ("detector", "coordinates", "pnp", "contours", "silhouettes", "refiner")


def crops() -> None:
    run, rows = monopose.load("demo"), []
    with tempfile.TemporaryDirectory() as folder:
        for width, height in (SIZES[0], *SIZES):  # the first warms up
            file = Path(folder) / "photo.png"
            # a gradient: nothing to be found, but every pixel counts
            Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, compress_level=1)
            camera = Camera(torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]), (height, width))
            box = torch.tensor([[0.1 * width, 0.05 * height, 0.9 * width, 0.95 * height]])
            start = time.perf_counter()
            frame = images.read_frame(file, camera)
            run.predict(frame, Detections(torch.tensor([1]), box, torch.ones(1)))
            whole, seconds = time.perf_counter() - start, []
            run.predict(frame)  # with the detector, which finds nothing: its memory counts
            for _ in range(3):
                start = time.perf_counter()
                camera_ops.cut(frame.image, square(box, 1.5), 128)
                seconds.append(time.perf_counter() - start)
            del frame
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts kB
            rows.append(f"| {width} x {height} | {min(seconds):.3f} | {whole:.2f} | {memory:.2f} |")
    print("| photo | cut, s | whole path, s | most memory, GB |\n|---|---|---|---|", *rows[1:], sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", action="store_true", help="what the size of a photo costs; needs nothing else")
    parser.add_argument("--data", type=Path, help="a BOP data set with test/")
    parser.add_argument("--targets", type=Path, help="targets file; default: test_targets_bop19.json")
    parser.add_argument("--model", help="a run folder with coordinates and detector")
    parser.add_argument("--refiner", help="a run folder with a refiner; none: without")
    parser.add_argument("--objects", type=int, default=8, help="photos with that many targets")
    parser.add_argument("--images", type=int, default=10)
    args = parser.parse_args()
    if args.crops:
        return crops()
    if args.data is None or args.model is None:
        parser.error("give --data and --model, or --crops")
    run = pipeline.load(args.model)
    run = replace(run, models=run.models or models.read_models(args.data / "models"))
    better = pipeline.load_refiner(args.refiner, run.estimator.ids.device) if args.refiner else None
    run = replace(run, refiner=better)
    targets = bop_scenes.read_targets(args.targets or args.data / "test_targets_bop19.json")
    asked: dict[tuple[int, int], set[int]] = {}
    assert targets.obj_id is not None
    for s, i, o in zip(targets.scene_id.tolist(), targets.im_id.tolist(), targets.obj_id.tolist()):
        asked.setdefault((s, i), set()).add(o)
    keys = [k for k, ids in asked.items() if len(ids) == args.objects][: args.images]
    if not keys:
        raise SystemExit(f"no photo with {args.objects} targets; give --objects")
    scenes = {s: bop_scenes.open_scene(args.data / "test" / f"{s:06d}") for s, _ in keys}
    seconds: dict[str, list[dict[str, float]]] = {"true boxes": [], "our detector": []}
    counts: dict[str, list[int]] = {name: [] for name in seconds}
    for key in tqdm(keys, desc="photos", unit="photo"):
        frame = bop_scenes.read_frame(scenes[key[0]], key[1], masks=False, depth=False)
        assert frame.instances is not None
        given = {"true boxes": truth_as_detections(frame.instances, asked[key]), "our detector": None}
        for name, boxes in given.items():
            runs = [run.predict(frame, boxes) for _ in range(3)]
            best = min(runs, key=lambda poses: sum(poses.seconds.values()))
            seconds[name].append(best.seconds)
            counts[name].append(len(best.labels))
    where = "GPU" if run.estimator.ids.is_cuda else f"{torch.get_num_threads()} threads"
    print(f"\n{len(keys)} photos, {where}; seconds, median\n\n| | {' | '.join(STAGES)} | whole photo | poses |")
    print(f"|---|{'---|' * (len(STAGES) + 2)}")
    for name, rows in seconds.items():
        cells = [statistics.median(row.get(stage, 0.0) for row in rows) for stage in STAGES]
        cells.append(statistics.median(sum(row.values()) for row in rows))
        print(f"| {name} | {' | '.join(f'{c:.3f}' for c in cells)} | {statistics.fmean(counts[name]):.1f} |")


if __name__ == "__main__":
    main()
