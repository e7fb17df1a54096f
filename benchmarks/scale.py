"""How work grows with processes: pictures an hour, memory, time to the first result; and how fast large data sets are read.

    python -m benchmarks.scale                 all of it, some minutes
    python -m benchmarks.scale --processes 1 2 4 --pictures 100 --photos 16 --images 100000
    python -m benchmarks.scale --only crops --split lmo/train_pbr      what a training crop from a picture on the disk costs
    python -m benchmarks.scale --only nuscenes --samples 3415          the index of a tenth of nuScenes' trainval

Every process is a command line with its share of the pictures, started together: of synth a shard of one data set, of predict a
folder of its own, as blocks of 20 photos would take too long. "At work" is what processes do from their first picture to their
end, added up; the start (imports, opening the run, kernels from the cache) is told apart, as it comes once a process, however
many pictures follow. Processor seconds hardly change with what else the machine does; the clock's do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

import monopose
from monopose.datasets import nuscenes

WHAT = ("synth", "predict", "index", "crops", "nuscenes")
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


CROPS = (
    "import statistics, sys, time\n"
    "from pathlib import Path\n"
    "from monopose.objects import samples, training\n"
    "split, models = Path(sys.argv[1]), training.read_objects(Path(sys.argv[2]), (), 12_000)\n"
    "c = training.make_config('coordinates', tuple(models))\n"
    "crops = samples.BopCropSamples(models, split, c.input_size, c.output_size, c.crop_scale, c.greyed_share, 10**6)\n"
    "_ = [crops[i] for i in range(5)]\n"
    "times, size = [], crops.pictures[0].pixels().shape\n"
    "for n in range(8):\n"
    "    began = time.process_time()\n"
    "    _ = [crops[100 + 20 * n + i] for i in range(20)]\n"
    "    times.append((time.process_time() - began) / 20)\n"
    "began = time.process_time()\n"
    "_ = [crops.pictures[i % len(crops.pictures)].pixels() for i in range(20)]\n"
    "print(size[1], size[0], 1e3 * statistics.median(times), 1e3 * (time.process_time() - began) / 20)\n"
)


def crops(folder: Path, split: Path | None) -> None:
    """What a training crop costs, of the photos of the demo where no split is given."""
    if split is None:
        split = folder / "photos"
        shutil.copytree(DEMO / "photos/test", split)
    beside = split.resolve().parent / "models"
    words = [sys.executable, "-c", CROPS, str(split), str(beside if beside.is_dir() else DEMO / "objects")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    width, height, crop, decoded = map(
        float, subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout.split()
    )
    print(
        f"crops of {split}: {crop:.1f} ms of a core each; a picture of {width:.0f}x{height:.0f} is decoded in {decoded:.1f} ms"
    )


NUSCENES = (
    "import sys, time\n"
    "from monopose.datasets import nuscenes_index\n"
    "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024\n"
    "before = peak()\n"
    "began, work = time.perf_counter(), time.process_time()\n"
    "frames = nuscenes_index.open_frames(sys.argv[1], 'v1.0-trainval')\n"
    "spent = time.perf_counter() - began, time.process_time() - work\n"
    "boxes = sum(len(frames[i].objects) for i in range(0, len(frames), len(frames) // 20))\n"
    "print(len(frames), *spent, peak(), before)\n"
)


def large_nuscenes(folder: Path, samples: int) -> Path:
    """Tables as trainval has them for so many samples: of each 6 cameras, 5 radars and a LiDAR, 34 boxes, 77 rows of data."""
    out = folder / "nuscenes"
    (out / "v1.0-trainval").mkdir(parents=True)
    channels = (*nuscenes.CAMERAS, "LIDAR_TOP", *(f"RADAR_{k}" for k in range(5)))

    def token(*parts: object) -> str:
        return hashlib.md5(repr(parts).encode()).hexdigest()

    def write(name: str, rows: Iterable[dict[str, object]]) -> None:
        with (out / "v1.0-trainval" / f"{name}.json").open("w") as file:  # as the official files: a line for every key
            file.write("[\n" + ",\n".join(json.dumps(row, indent=0) for row in rows) + "\n]")

    turn = [0.5, -0.5, 0.5, -0.5]
    write("category", [{"token": token("c"), "name": "vehicle.car"}])
    write("attribute", [{"token": token("a"), "name": "vehicle.parked"}])
    write("sensor", [{"token": token(c), "channel": c} for c in channels])
    write("scene", [{"token": token("scene", n), "name": f"scene-{n:04d}"} for n in range(samples // 40 + 1)])
    write(
        "sample",
        ({"token": token("s", k), "timestamp": 500_000 * k, "scene_token": token("scene", k // 40)} for k in range(samples)),
    )
    write("instance", ({"token": token("i", k), "category_token": token("c")} for k in range(2 * samples)))
    K = [[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]]
    write("calibrated_sensor", (
        {"token": token("cs", c), "sensor_token": token(c), "translation": [1.7, 0.0, 1.5], "rotation": turn,
         "camera_intrinsic": K if c.startswith("CAM") else []} for c in channels
    ))  # fmt: skip
    each = {"C": 7, "L": 10, "R": 5}  # pictures and sweeps of a sensor, of which one is the key frame
    data = [(k, c, n) for k in range(samples) for c in channels for n in range(each[c[0]])]
    write("sample_data", (
        {"token": token("d", *d), "sample_token": token("s", d[0]), "ego_pose_token": token("e", *d),
         "calibrated_sensor_token": token("cs", d[1]), "timestamp": 500_000 * d[0], "fileformat": "jpg",
         "is_key_frame": d[2] == 0,
         "height": 900, "width": 1600, "filename": f"samples/{d[1]}/n015-2018-07-18-11-07-57+0800__{d[1]}__{d[0]}{d[2]}.jpg",
         "prev": token("d", d[0] - 1), "next": token("d", d[0] + 1)} for d in data
    ))  # fmt: skip
    write("ego_pose", (
        {"token": token("e", *d), "timestamp": 500_000 * d[0], "rotation": [0.57, -0.001, 0.01, 0.8216],
         "translation": [411.30 + 0.01 * d[0], 1180.89, 0.0]} for d in data
    ))  # fmt: skip
    write("sample_annotation", (
        {"token": token("x", k, n), "sample_token": token("s", k), "instance_token": token("i", 2 * (k // 40) + n),
         "visibility_token": "4", "attribute_tokens": [token("a")],
         "translation": [411.3 + 30 * math.cos(n), 1180.9 + 25 * math.sin(n), 1.0], "size": [1.9, 4.6, 1.7],
         "rotation": [0.98, 0.0, 0.0, 0.199], "prev": token("x", k - 1, n) if k % 40 else "",
         "next": token("x", k + 1, n) if k % 40 < 39 and k + 1 < samples else "", "num_lidar_pts": 5, "num_radar_pts": 0}
        for k in range(samples) for n in range(34)
    ))  # fmt: skip
    return out


def nuscenes_index(folder: Path, samples: int) -> None:
    data = large_nuscenes(folder, samples)
    print(f"nuScenes, {samples} samples of trainval's 34149: {size_of(data, 1)['kb'] / 2**10:.0f} MB of tables")
    for what in ("made", "opened"):
        done = subprocess.run([sys.executable, "-c", NUSCENES, str(data)], capture_output=True, text=True, check=True)
        pictures, seconds, core, most, before = map(float, done.stdout.split())
        print(
            f"index {what}: {pictures:.0f} pictures, {seconds:.1f} s ({core:.1f} s of a core), "
            f"{most:.0f} MB at most, {before:.0f} of them the libraries"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--pictures", type=int, default=100, help="of all processes of synth together")
    parser.add_argument("--photos", type=int, default=16, help="of all processes of predict together")
    parser.add_argument("--images", type=int, default=100_000, help="of the large data set")
    parser.add_argument("--only", choices=WHAT, nargs="+", default=list(WHAT))
    parser.add_argument("--split", type=Path, help="for crops: a split with models/ beside it, e.g. lmo/train_pbr")
    parser.add_argument("--samples", type=int, default=1000, help="of nuScenes; trainval has 34149")
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
        if "crops" in args.only:
            crops(Path(name), args.split)
        if "nuscenes" in args.only:
            nuscenes_index(Path(name), args.samples)


if __name__ == "__main__":
    main()
