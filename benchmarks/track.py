"""The tracker on rendered videos of known truth, made and scored by the code of `synth --video` and `evaluate`.

    python -m benchmarks.track [--frames 40] [--steps 1 2 4] [--backgrounds DIR] [--meshes FILE:UNIT ...] [--calibrate]

Every object has a video of its own; step k keeps every k-th frame of one that is k times as long. Two protocols:

- reset, as on RBOT: a frame that is not within 5 cm and 5 degrees is a failure, after which the tracker is told the truth.
- free: nothing is told; a detector (the truth with 3 degrees and 6 mm of noise, one frame late, if half of the object is seen)
  may find a lost object again. From this come the flag and the recovery. With --away the object leaves the picture.

Milliseconds are CPU time of `Tracker.step` for one object. `--calibrate` fits the probability of being lost to the free runs.

Protocol of the resets: Tjaden et al. (PAMI 2018).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from monopose.datasets.bop import models as bop_models
from monopose.evaluation import bop, errors, tracks
from monopose.geometry import se3
from monopose.mesh.loading import load_mesh
from monopose.synthesis import scene as synth
from monopose.synthesis import video
from monopose.tracking import tracker
from monopose.types import Camera, Frame, Instances, ObjectModel, PoseEstimates

K = torch.tensor([[600.0, 0.0, 319.5], [0.0, 600.0, 239.5], [0.0, 0.0, 1.0]])
CAMERA = Camera(K, (480, 640))
FOUND = 0.5  # visible share from which the detector of the free runs finds an object


class Run(NamedTuple):
    """One video: what was judged, CPU milliseconds of every frame, and what the fits said, (F, features), nan where none."""

    judged: tracks.Judged
    milliseconds: np.ndarray
    evidence: np.ndarray


def scored(model: ObjectModel) -> bop.Object:
    """The model as `evaluation.tracks` wants it."""
    points, s = model.vertices.double().numpy(), model.symmetries
    group = errors.symmetry_group(s.discrete.numpy(), s.axes.numpy(), s.offsets.numpy(), 90)
    some = points[:: max(len(points) // 500, 1)]
    return bop.Object(some, some, group, len(group) > 1, model.diameter)


def truth_of(frame: Frame) -> tuple[Instances, torch.Tensor]:
    """The objects of a frame and how much of each is seen."""
    if frame.instances is None or frame.instances.visibility is None:
        raise ValueError("a frame without its truth")
    return frame.instances, frame.instances.visibility


def run(model: ObjectModel, frames: list[Frame], cache: str, resets: bool) -> Run:
    """Track one video from the truth of its first frame."""
    target = scored(model)
    now: list[Frame] = []
    noise = torch.Generator().manual_seed(0)

    def detect(_: Frame) -> PoseEstimates:
        truth, shares = truth_of(now[0])
        seen = truth[shares > FOUND]
        tangent = torch.randn(len(seen), 6, generator=noise) * torch.tensor([0.006] * 3 + [math.radians(3)] * 3)
        return PoseEstimates(seen.labels, se3.retract(seen.cam_from_obj.double(), tangent.double()), torch.ones(len(seen)))

    follow = tracker.Tracker([model], None if resets else detect, cache)
    poses, seen = [], []
    for frame in frames:
        truth, shares = truth_of(frame)
        poses.append(truth.cam_from_obj[0].double())
        seen.append(float(shares[0]))
    follow.start(frames[0], [poses[0]])
    parts, spent, evidence = [], [], []
    for frame, pose, share in zip(frames[1:], poses[1:], seen[1:]):
        now[:] = [frame]
        began = time.process_time()
        (track,) = follow.step(frame)
        spent.append(1000 * (time.process_time() - began))
        est = track.cam_from_obj.double().numpy()[None]
        parts.append(tracks.judged(est, np.array([track.lost]), pose.numpy()[None], np.array([share]), target))
        said = follow.states[0].evidence
        evidence.append(np.full(len(tracker.Evidence._fields), np.nan) if said is None else np.array([float(v) for v in said]))
        if resets and parts[-1].there[0] and not parts[-1].right[0]:
            follow.start(frame, [pose])
    judged = tracks.Judged(*(np.concatenate(column) for column in zip(*parts)))
    return Run(judged, np.array(spent), np.stack(evidence))


def film(
    model: ObjectModel, count: int, step: int, config: video.VideoConfig, photos: list[np.ndarray], seed: int
) -> list[Frame]:
    """Every step-th frame of a video of step * count."""
    plan = video.plan([model], CAMERA, step * count, config, photos, seed)
    return [video.draw(plan, i)[0] for i in range(0, step * count, step)]


def calibrated(runs: list[Run]) -> np.ndarray:
    """Logistic regression of being wrong on the evidence: offset first, then the weights of `tracker.Evidence`."""
    X = np.concatenate([r.evidence for r in runs])
    y = 1 - np.concatenate([r.judged.right for r in runs]).astype(float)
    known = ~np.isnan(X).any(1)
    X, y = np.concatenate([np.ones((known.sum(), 1)), X[known]], 1), y[known]
    w = np.zeros(X.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-X @ w))
        H = X.T @ (X * (p * (1 - p))[:, None]) + np.eye(len(w)) * 0.1
        w += np.linalg.solve(H, X.T @ (y - p) - 0.1 * w)
    return w


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40, help="kept of every video")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--occlusion", type=float, default=0.4, help="most that the hand hides")
    parser.add_argument("--away", type=float, default=0.0, help="seconds that the object is out of the picture; free runs only")
    parser.add_argument("--backgrounds", default=None, help="folder of photos; without, procedural pictures")
    parser.add_argument("--meshes", nargs="*", default=[], help="further objects, FILE:UNIT")
    parser.add_argument("--objects", type=int, nargs="*", default=None, help="which of the bundled objects; all by default")
    parser.add_argument("--cache", default=None, help="folder for the contours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calibrate", action="store_true")
    args = parser.parse_args()
    from monopose.objects import pipeline

    bundled = bop_models.read_models(Path(pipeline.__file__).parents[1] / "assets" / "demo" / "objects")
    models = [m for i, m in bundled.items() if args.objects is None or i in args.objects]
    models += [load_mesh(f.rsplit(":", 1)[0], f.rsplit(":", 1)[1], obj_id=100 + i) for i, f in enumerate(args.meshes)]
    photos = synth.read_backgrounds(args.backgrounds)
    config = video.VideoConfig(occlusion=args.occlusion, away=args.away)
    free: list[Run] = []
    print(
        "| protocol | step | frames | right, % | AUC ADD(-S) | flag precision | flag recall | back in 1 s | CPU ms, median |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for step in args.steps:
            runs: dict[str, list[Run]] = {protocol: [] for protocol in ("reset", "free")[args.away > 0 :]}
            for i, model in enumerate(models):
                frames = film(model, args.frames, step, config, photos, args.seed + 1000 * i)
                for protocol, done in runs.items():
                    done.append(run(model, frames, args.cache or temporary, protocol == "reset"))
            for protocol, done in runs.items():
                print(row(protocol, step, done, config.fps / step), flush=True)
            free += runs["free"]
    if args.calibrate:
        w = calibrated(free)
        print(f"OFFSET = {w[0]:.2f}; DOUBTS = {dict(zip(tracker.Evidence._fields, w[1:].round(2).tolist()))}")


def row(protocol: str, step: int, runs: list[Run], fps: float) -> str:
    s = tracks.summary([r.judged for r in runs], fps)
    names = ("right", "auc_add_s") + (("flag_precision", "flag_recall", "recovered") if protocol == "free" else ())
    cells = ["-" if s[n] is None else f"{100 * s[n]:.1f}" if n in ("right", "auc_add_s") else f"{s[n]:.2f}" for n in names]
    cells += ["-"] * (5 - len(cells))
    ms = np.median(np.concatenate([r.milliseconds for r in runs]))
    return f"| {protocol} | {step} | {s['frames']} | {' | '.join(cells)} | {ms:.1f} |"


if __name__ == "__main__":
    main()
