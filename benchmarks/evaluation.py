"""Time of scoring a BOP result file: our command from a fresh process, and against the definitions written as plain loops.

    python -m benchmarks.evaluation [RESULTS.csv DATA_DIR] [--repeat 3] [--skip-add-s]

Without arguments it takes the published LM-O result beside the checkout if that is there, else a data set made here: 8 bumpy
balls of 6000 vertices, two of them with a symmetry, in 200 images.

The loops take one estimate, one true object and one symmetry at a time, with numpy on all points, as the formulas read. Times
are those of the processor (user + system), which other programs on the machine change little, and the clock's beside them.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def naive(results: Path, data_dir: Path, with_add_s: bool) -> dict[str, float]:
    """MSSD, MSPD and ADD(-S) of every target by the definitions; processor seconds of each."""
    from scipy.spatial import cKDTree

    from monopose.datasets.bop import models
    from monopose.datasets.bop import results as bop_results
    from monopose.datasets.bop import scenes as bop_scenes
    from monopose.evaluation.errors import symmetry_group

    rows = bop_results.read_results(results)
    scenes = {s.scene_id: s for s in bop_scenes.scenes(data_dir / "test")}
    infos = models.read_models_info(data_dir / "models_eval")
    points = models.read_model_points(data_dir / "models_eval")
    groups = {i: symmetry_group(infos[i].discrete, infos[i].axes, infos[i].offsets) for i in points}
    pairs = []
    for n in range(len(rows.score)):
        scene = scenes[int(rows.scene_id[n])]
        truth = scene.truth
        assert truth is not None
        for g in np.flatnonzero((truth.im_id == rows.im_id[n]) & (truth.obj_id == rows.obj_id[n])):
            K = scene.K[np.searchsorted(scene.im_ids, truth.im_id[g])]
            pairs.append((int(rows.obj_id[n]), rows.R[n], rows.t[n], truth.R[g], truth.t[g], K))

    def pixels(x, K):
        p = x @ K.T
        return p[:, :2] / p[:, 2:]

    def mssd(i, R, t, R_true, t_true, K):
        x, est = points[i], points[i] @ R.T + t
        return min(np.linalg.norm(est - ((x @ S[:3, :3].T + S[:3, 3]) @ R_true.T + t_true), axis=1).max() for S in groups[i])

    def mspd(i, R, t, R_true, t_true, K):
        x, est = points[i], pixels(points[i] @ R.T + t, K)
        moved = (pixels((x @ S[:3, :3].T + S[:3, 3]) @ R_true.T + t_true, K) for S in groups[i])
        return min(np.linalg.norm(est - other, axis=1).max() for other in moved)

    def add_or_add_s(i, R, t, R_true, t_true, K):
        est, true = points[i] @ R.T + t, points[i] @ R_true.T + t_true
        if len(groups[i]) > 1:
            return cKDTree(est).query(true)[0].mean()
        return np.linalg.norm(est - true, axis=1).mean()

    seconds = {}
    for function in (mssd, mspd, *((add_or_add_s,) if with_add_s else ())):
        start = time.process_time()
        for pair in pairs:
            function(*pair)
        seconds[function.__name__] = time.process_time() - start
    return seconds


def fresh(results: Path, data_dir: Path) -> tuple[float, float, dict]:
    """Processor seconds, clock seconds and report of one evaluation in a new process, its start included."""
    code = "import json, sys; from monopose.evaluation import evaluate; print(json.dumps(evaluate(sys.argv[1], sys.argv[2])))"
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code, str(results), str(data_dir)], capture_output=True, check=True, text=True)
    clock, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return used, clock, json.loads(run.stdout)


SHARED = Path(__file__).resolve().parents[2] / "shared"
PUBLISHED = SHARED / "oracles/lmo_published_results/cnos-fastsammegapose_lmo-test_16ab01bd-f020-4194-9750-d42fc7f875d2.csv"


def made(folder: Path) -> tuple[Path, Path]:
    """A data set and a result file of about LM-O's size."""
    from scipy.spatial.transform import Rotation

    from monopose.datasets.bop import results as bop_results

    rng = np.random.default_rng(0)
    (folder / "models_eval").mkdir(parents=True)
    scene = folder / "test/000001"
    scene.mkdir(parents=True)
    infos, ids, n = {}, np.arange(1, 9), 200
    for i in ids:
        x = rng.normal(size=(6000, 3))
        x *= 60 * (1 + 0.2 * np.sin(4 * x[:, :1])) / np.linalg.norm(x, axis=1, keepdims=True)
        rows = "".join(f"{a} {b} {c}\n" for a, b, c in x)
        head = "ply\nformat ascii 1.0\nelement vertex 6000\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
        (folder / f"models_eval/obj_{i:06d}.ply").write_text(head + rows)
        infos[str(i)] = {"diameter": 140.0, "symmetries_discrete": [np.diag([-1, -1, 1, 1]).ravel().tolist()] * int(i > 6)}
    (folder / "models_eval/models_info.json").write_text(json.dumps(infos))
    (folder / "camera.json").write_text('{"width": 640}')
    im, obj = (a.ravel() for a in np.meshgrid(np.arange(n), ids, indexing="ij"))
    turn = Rotation.random(len(im), rng)
    t = rng.normal(size=(len(im), 3)) * [100, 80, 100] + [0, 0, 900]
    off = Rotation.from_rotvec(rng.normal(size=(len(im), 3)) * 0.1)
    truth: dict[str, list] = {str(k): [] for k in range(n)}
    for k, o, R, shift in zip(im, obj, turn.as_matrix(), t):
        truth[str(k)].append({"obj_id": int(o), "cam_R_m2c": R.ravel().tolist(), "cam_t_m2c": shift.tolist()})
    (scene / "scene_gt.json").write_text(json.dumps(truth))
    camera = {"cam_K": [570.0, 0, 320, 0, 570, 240, 0, 0, 1], "depth_scale": 1}
    (scene / "scene_camera.json").write_text(json.dumps({str(k): camera for k in range(n)}))
    rows = [{"scene_id": 1, "im_id": int(k), "obj_id": int(o), "inst_count": 1} for k, o in zip(im, obj)]
    (folder / "test_targets_bop19.json").write_text(json.dumps(rows))
    ones = np.ones(len(im), np.int64)
    est = (t + rng.normal(size=t.shape) * [5, 5, 20]) * 1e-3
    table = bop_results.Results(ones, im, obj, rng.uniform(size=len(im)), (off * turn).as_matrix(), est, -1.0 * ones)
    return bop_results.write_results(folder / "made-test_made-test.csv", table), folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", help="a BOP result file, e.g. METHOD_lmo-test.csv")
    parser.add_argument("data_dir", type=Path, nargs="?", help="the data set's folder, with models_eval/ and test/")
    parser.add_argument("--repeat", type=int, default=3, help="runs; the fastest counts")
    parser.add_argument("--skip-add-s", action="store_true", help="leave ADD(-S) out of the loops")
    options = parser.parse_args()
    if options.results is None and PUBLISHED.exists():
        options.results, options.data_dir = PUBLISHED, SHARED / "data/lmo"
    if options.results is None:
        with tempfile.TemporaryDirectory() as folder:
            measure(*made(Path(folder) / "made"), options)
    elif options.data_dir is None:
        parser.error("give DATA_DIR too: the folder with models_eval/ and test/")
    else:
        measure(options.results, options.data_dir, options)


def measure(results: Path, data_dir: Path, options: argparse.Namespace) -> None:
    """Print the times of our evaluation and of the loops."""
    runs = [fresh(results, data_dir) for _ in range(options.repeat)]
    used, clock = min(r[0] for r in runs), min(r[1] for r in runs)
    report = runs[0][2]
    loops = naive(results, data_dir, not options.skip_add_s)
    total = sum(loops.values())
    print(f"{results.name}: {report['about']['estimates']} estimates, {report['targets']} targets")
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}, Python {platform.python_version()}")
    print(f"AR {report['ar']['mean']:.5f}  AP {report['ap']['mean']:.5f}  ADD(-S) 0.1 d {report['add_s']['0.1']:.4f}")
    print(f"{'':34}{'processor s':>12}{'clock s':>10}")
    print(f"{'monopose, program start to report':34}{used:12.2f}{clock:10.2f}")
    for name, seconds in loops.items():
        print(f"{'loop over pairs, ' + name:34}{seconds:12.2f}")
    print(f"{'loops together (errors alone)':34}{total:12.2f}    ratio {total / used:.1f}")


if __name__ == "__main__":
    main()
