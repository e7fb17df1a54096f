"""How work grows with processes: pictures an hour, memory, time to the first result; and how fast a large data set opens.

    python -m benchmarks.scale                 all of it, some minutes
    python -m benchmarks.scale --processes 1 2 4 --pictures 100 --images 100000

Every process is a command line with its share of the pictures, started together; what is timed includes the imports and opening
the run. Shards would have whole blocks of 25 pictures (20 of predict), which so few pictures cannot fill.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

import monopose

DEMO = Path(monopose.__file__).parent / "assets" / "demo"
OPEN = (
    "import resource, sys, time\n"
    "import numpy\n"
    "from monopose.datasets.bop import index\n"
    "began = time.perf_counter()\n"
    "opened = index.open_split(sys.argv[1])\n"
    "rows = sum(int((s.truth.visibility > 0.1).sum()) for s in opened.scenes)\n"
    "seconds, most = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
    "print(len(opened), rows, seconds, most)\n"
)


def together(lines: list[list[str]], first: Path, pattern: str) -> dict[str, float]:
    """Run command lines at once. Returns seconds, seconds to the first file of that name, MB of the largest."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    began, seen, most = time.perf_counter(), 0.0, 0.0
    running = [psutil.Popen([sys.executable, "-m", "monopose", *words], env=env, stdout=subprocess.DEVNULL) for words in lines]
    while any(p.poll() is None for p in running):
        if not seen and next(first.rglob(pattern), None) is not None:
            seen = time.perf_counter() - began
        for process in running:
            try:
                family = [process, *process.children(recursive=True)]
                most = max(most, sum(p.memory_info().rss for p in family) / 2**20)
            except psutil.Error:
                pass
        time.sleep(0.1)
    if any(p.returncode for p in running):
        raise RuntimeError(f"monopose {' '.join(lines[0])} failed")
    return {"seconds": time.perf_counter() - began, "first": seen, "mb": most}


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def synth(folder: Path, processes: int, pictures: int) -> dict[str, float]:
    out = folder / f"synth{processes}"
    words = ["synth", str(DEMO / "objects"), "--images", str(pictures // processes)]
    lines = [[*words, "--out", str(out / str(seed)), "--seed", str(seed)] for seed in range(processes)]
    return {**together(lines, out, "rgb/*.png"), "kb": size_of(out) / 1024 / pictures}


def predict(folder: Path, processes: int, pictures: int) -> dict[str, float]:
    out, lines = folder / f"predict{processes}", []
    files = sorted((DEMO / "photos/test/000001/rgb").glob("*.jpg"))
    for k in range(processes):
        photos = folder / f"photos{processes}" / str(k)
        photos.mkdir(parents=True)
        for i in range(k, pictures, processes):
            shutil.copy(files[i % len(files)], photos / f"{i:06d}.jpg")
        words = ["predict", str(photos), "--model", "demo", "--camera", str(DEMO / "camera.json")]
        lines.append([*words, "--out", str(out / str(k))])
    return {**together(lines, out, "*_overlay.png"), "kb": size_of(out) / 1024 / pictures}


def large_split(folder: Path, images: int, objects: int = 5, scene: int = 1000) -> Path:
    """A split whose JSON files speak of so many pictures; the pictures themselves are empty files."""
    split = folder / "large"
    R, K = [1, 0, 0, 0, 1, 0, 0, 0, 1], [600.0, 0, 320, 0, 600, 240, 0, 0, 1]
    one = [{"cam_R_m2c": R, "cam_t_m2c": [0.5, -20.25, 700.125 + n], "obj_id": n + 1} for n in range(objects)]
    info = [
        {
            "bbox_obj": [9, 8, 70, 60],
            "bbox_visib": [9, 8, 70, 60],
            "px_count_all": 900,
            "px_count_visib": 800,
            "visib_fract": 0.9,
        }
    ]
    for n in range(-(-images // scene)):
        place = split / f"{n:06d}"
        (place / "rgb").mkdir(parents=True)
        ids = range(min(scene, images - n * scene))
        content = {"camera": {"cam_K": K, "depth_scale": 0.1}, "gt": one, "gt_info": info * objects}
        for name, value in content.items():
            (place / f"scene_{name}.json").write_text(json.dumps({str(i): value for i in ids}))
        for i in ids:
            (place / "rgb" / f"{i:06d}.jpg").touch()
    return split


def opening(split: Path) -> None:
    for what in ("made", "opened"):
        done = subprocess.run([sys.executable, "-c", OPEN, str(split)], capture_output=True, text=True, check=True)
        images, rows, seconds, most = (float(v) for v in done.stdout.split())
        print(f"index {what}: {images:.0f} pictures, {rows:.0f} visible objects, {seconds:.2f} s, {most:.0f} MB in all")
    print(f"index on the disk: {size_of(split / '.monopose-index') / 2**20:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--pictures", type=int, default=100, help="of all processes together")
    parser.add_argument("--images", type=int, default=100_000, help="of the large data set")
    parser.add_argument("--only", choices=("synth", "predict", "index"), nargs="+", default=["synth", "predict", "index"])
    args = parser.parse_args()
    if any(args.pictures % n for n in args.processes):
        parser.error(f"--pictures must be a multiple of {', '.join(map(str, args.processes))}, so that all have as many")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory() as name:
        for what in (synth, predict):
            for processes in args.processes if what.__name__ in args.only else ():
                found = what(Path(name), processes, args.pictures)
                print(
                    f"{what.__name__}, {processes} processes: {3600 * args.pictures / found['seconds']:.0f} pictures an hour, "
                    f"first after {found['first']:.0f} s, {found['mb']:.0f} MB a process, {found['kb']:.0f} KB a picture"
                )
        if "index" in args.only:
            opening(large_split(Path(name), args.images))


if __name__ == "__main__":
    main()
