"""How work grows with processes: pictures an hour, memory, time to the first result; and how fast a large data set opens.

    python -m benchmarks.scale                 all of it, some minutes
    python -m benchmarks.scale --processes 1 2 4 --pictures 100 --photos 16 --images 100000

Every process is a command line with its share of the pictures, started together: of synth a shard of one data set, of predict a
folder of its own, as blocks of 20 photos would take too long. "At work" is what processes do from their first picture to their
end, added up; the start (imports, opening the run, kernels from the cache) is told apart, as it comes once a process, however
many pictures follow. Processor seconds hardly change with what else the machine does; the clock's do.
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
BLOCK = 25  # pictures that one shard of synth makes in a row
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


def together(lines: list[list[str]], out: Path, firsts: list[str], pictures: int) -> dict[str, float]:
    """Run command lines at once; `firsts`: what the first picture of each is called, somewhere in the folder `out`.

    Returns:
        "hour": pictures an hour of all, once at work; "first": seconds to the first picture; "cpu": processor seconds a
        picture; "start": of one process before its first; "mb": memory of the largest, with its workers: what is its own,
        and its part of what is shared.
    """
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    began, most = time.perf_counter(), 0.0
    first, end = [0.0] * len(lines), [0.0] * len(lines)
    spent = [0.0] * len(lines)  # processor seconds before the first picture
    before = os.times()
    running = [psutil.Popen([sys.executable, "-m", "monopose", *words], env=env, stdout=subprocess.DEVNULL) for words in lines]
    while not all(end):
        now = time.perf_counter() - began
        for n, process in enumerate(running):
            try:
                if not first[n] and next(out.rglob(firsts[n]), None) is not None:
                    first[n], spent[n] = now, sum(sum(p.cpu_times()[:2]) for p in _family(process))
                most = max(most, sum(p.memory_full_info().pss for p in _family(process)) / 2**20)
            except psutil.Error:
                pass
            if not end[n] and process.poll() is not None:
                end[n] = now
        time.sleep(0.5)
    if any(p.returncode for p in running):
        raise RuntimeError(f"monopose {' '.join(lines[0])} failed")
    after, each = os.times(), pictures / len(lines)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    hour = sum(3600 * (each - 1) / (e - f) for e, f in zip(end, first))
    cpu = (used - sum(spent)) / (pictures - len(lines))
    return {"hour": hour, "first": min(first), "cpu": cpu, "start": sum(spent) / len(lines) - cpu, "mb": most}


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def size_of(folder: Path, pictures: int) -> dict[str, float]:
    """Kilobytes and files of a folder, for each picture."""
    sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    return {"kb": sum(sizes) / 1024 / pictures, "files": len(sizes) / pictures}


def synth(folder: Path, processes: int, pictures: int) -> dict[str, float]:
    out = folder / f"synth{processes}"
    words = ["synth", str(DEMO / "objects"), "--images", str(pictures), "--out", str(out)]
    lines = [[*words, "--shard", f"{k}/{processes}"] for k in range(1, processes + 1)]
    found = together(lines, out, [f"rgb/{BLOCK * k:06d}.png" for k in range(processes)], pictures)
    return {**found, **size_of(out, pictures)}


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
    found = together(lines, out, [f"{k:06d}_overlay.png" for k in range(processes)], pictures)
    return {**found, **size_of(out, pictures)}


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
    print(f"index on the disk: {size_of(split / '.monopose-index', 1)['kb'] / 2**10:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--pictures", type=int, default=100, help="of all processes of synth together")
    parser.add_argument("--photos", type=int, default=16, help="of all processes of predict together")
    parser.add_argument("--images", type=int, default=100_000, help="of the large data set")
    parser.add_argument("--only", choices=("synth", "predict", "index"), nargs="+", default=["synth", "predict", "index"])
    args = parser.parse_args()
    counts = {"synth": args.pictures, "predict": args.photos}
    if any(args.pictures % (BLOCK * n) or args.photos % n or args.photos < 2 * n for n in args.processes):
        each = ", ".join(map(str, args.processes))
        parser.error(f"--pictures must be multiples of {BLOCK} x {each}, --photos of {each} and twice as many at least")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory() as name:
        for what in (synth, predict):
            for processes in args.processes if what.__name__ in args.only else ():
                found = what(Path(name), processes, counts[what.__name__])
                print(
                    f"{what.__name__}, {processes} processes: {found['hour']:.0f} pictures an hour at work, first after "
                    f"{found['first']:.0f} s, {found['cpu']:.2f} processor seconds a picture and {found['start']:.1f} a start, "
                    f"{found['mb']:.0f} MB a process, {found['kb']:.0f} KB in {found['files']:.1f} files a picture",
                    flush=True,
                )
        if "index" in args.only:
            opening(large_split(Path(name), args.images))


if __name__ == "__main__":
    main()
