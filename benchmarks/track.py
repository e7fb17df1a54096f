"""The tracker on rendered videos of known truth, scored as RBOT is: right is within 5 cm and 5 degrees, else it is reset.

    python -m benchmarks.track [--frames 100] [--steps 1 2 4] [--backgrounds DIR] [--meshes FILE:UNIT ...] [--calibrate]

The bundled objects move in front of a photo, under five conditions: regular; light that moves; noise and blur beside that; an
unknown object that passes in front; and one, without resets, in which the object is gone for the middle third and a detector
(the truth with 5 degrees and 1 cm of noise) can bring it back. Step k keeps every k-th frame. The flag is right where a frame
is called doubtful that is wrong, or has no object. Milliseconds are CPU time of `Tracker.step` for one object. `--calibrate`
fits the probability of being lost to these frames.

Protocol: Tjaden et al., A Region-based Gauss-Newton Approach to Real-Time Monocular Multiple Object Tracking (PAMI 2018).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from monopose.datasets.bop import models as bop_models
from monopose.geometry import rotation, se3
from monopose.geometry.symmetry import transforms
from monopose.mesh.loading import load_mesh
from monopose.render.maps import Lights
from monopose.render.scene import render_scene
from monopose.synthesis import scene as synth
from monopose.synthesis.shapes import solids
from monopose.tracking import tracker
from monopose.types import Camera, Frame, ObjectModel, PoseEstimates

SIZE = (480, 640)
K = torch.tensor([[600.0, 0.0, 319.5], [0.0, 600.0, 239.5], [0.0, 0.0, 1.0]])
VARIANTS = ("regular", "light", "noise", "occluded", "gone")
METRES, DEGREES = 0.05, 5.0


def motion(count: int, rng: np.random.Generator, diameter: float) -> torch.Tensor:
    """A smooth wandering of an object before the camera, (count, 4, 4): about 6 degrees and 12 mm a frame."""
    t = np.arange(count)[:, None]
    phase, rate = rng.uniform(0, 2 * np.pi, 6), rng.uniform(0.06, 0.13, 6)
    wave = np.sin(rate * t + phase)
    centre = np.array([0.0, 0.0, 4.5 * diameter])
    place = centre + wave[:, :3] * np.array([0.8, 0.5, 0.9]) * diameter
    turn = wave[:, 3:] * np.array([0.9, 0.9, 0.9]) + t * rng.choice([-1, 1], 3) * np.array([0.02, 0.03, 0.02])
    about = [rotation.so3_exp(torch.from_numpy(turn[:, i : i + 1] * np.eye(3)[i])) for i in range(3)]
    first = rotation.random_rotations(1, generator=torch.Generator().manual_seed(int(rng.integers(1 << 30)))).double()
    R = about[0] @ about[1] @ about[2] @ first
    return se3.from_rt(R, torch.from_numpy(place))


def video(
    model: ObjectModel, variant: str, count: int, step: int, photos: list[np.ndarray], seed: int
) -> Iterator[tuple[Frame, torch.Tensor | None]]:
    """Every `step`-th of step * count frames, and the true poses, None where the object is gone."""
    rng = np.random.default_rng(seed)
    poses = motion(step * count, rng, model.diameter)
    photo = torch.from_numpy(synth.background(photos, SIZE, rng)).permute(2, 0, 1).float() / 255
    blocker = solids.distractors()[int(rng.integers(len(solids.distractors())))]
    blocker = replace(
        blocker, vertices=blocker.vertices * (0.6 * model.diameter / blocker.diameter), diameter=0.6 * model.diameter
    )
    for i in range(0, step * count, step):
        pose = poses[i]
        angle = 0.0 if variant == "regular" else 0.12 * i
        way = torch.tensor([[math.sin(angle), -0.5, -math.cos(0.7 * angle) - 0.3]])
        lights = Lights(torch.full((3,), 0.45), way / way.norm(), torch.full((1, 3), 0.6))
        models, seen = [model], pose[None].float()
        if variant == "occluded":
            front = pose.clone().float()
            front[:3, :3] = torch.eye(3)
            front[:3, 3] = front[:3, 3] * (1 - 0.8 * model.diameter / front[2, 3])
            front[0, 3] += 0.7 * model.diameter * math.sin(0.11 * i)
            front[1, 3] += 0.5 * model.diameter * math.cos(0.07 * i)
            models, seen = [model, blocker], torch.stack([seen[0], front])
        gone = variant == "gone" and step * count / 3 < i < step * count * 2 / 3
        if gone:
            models, seen = [], pose.new_zeros(0, 4, 4).float()
        image = render_scene(models, seen, K, SIZE, lights, photo, specular=0.2).image
        if variant == "noise":
            import cv2

            picture = cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (0, 0), 1.2)
            image = torch.from_numpy(picture + rng.normal(0, 0.06, picture.shape).astype(np.float32)).permute(2, 0, 1)
        yield Frame((image.clamp(0, 1) * 255).round() / 255, Camera(K, SIZE)), None if gone else pose


def errors(model: ObjectModel, pose: torch.Tensor, true: torch.Tensor) -> tuple[float, float]:
    """Metres and degrees to the nearest of the true poses that look the same."""
    group = transforms(model.symmetries, 90).double()
    same = true.double() @ group
    angles = torch.rad2deg(rotation.angle_between(same[:, :3, :3], pose.double()[:3, :3]))
    best = int(angles.argmin())
    return float((same[best, :3, 3] - pose.double()[:3, 3]).norm()), float(angles[best])


def run(
    model: ObjectModel, frames: list[tuple[Frame, torch.Tensor | None]], cache: str, resets: bool
) -> list[dict[str, float]]:
    """Track one video; one record for every frame after the first."""
    now: list[torch.Tensor | None] = [None]
    noise = torch.Generator().manual_seed(0)

    def detect(_: Frame) -> PoseEstimates:
        found = [p for p in now if p is not None]
        poses = torch.stack(found) if found else torch.zeros(0, 4, 4)
        tangent = torch.randn(len(found), 6, generator=noise) * torch.tensor([0.006] * 3 + [math.radians(3)] * 3)
        poses = se3.retract(poses.double(), tangent.double())
        return PoseEstimates(torch.full((len(found),), model.obj_id), poses, torch.ones(len(found)))

    follow = tracker.Tracker([model], None if resets else detect, cache)
    assert frames[0][1] is not None
    follow.start(frames[0][0], [frames[0][1]])
    out = []
    for frame, true in frames[1:]:
        now[0] = true
        began = time.process_time()
        (track,) = follow.step(frame)
        spent = 1000 * (time.process_time() - began)
        metres, degrees = (math.inf, math.inf) if true is None else errors(model, track.cam_from_obj, true)
        right = metres <= METRES and degrees <= DEGREES
        evidence = follow.states[0].evidence
        record = {
            "right": right, "there": true is not None, "ms": spent, "p": track.probability_lost,
            "metres": metres, "degrees": degrees,
        }  # fmt: skip
        out.append(record | ({} if evidence is None else {k: float(v) for k, v in evidence._asdict().items()}))
        if not right and resets and true is not None:
            follow.start(frame, [true])
    return out


def calibrated(records: list[dict[str, float]]) -> np.ndarray:
    """Logistic regression of being wrong on the evidence: offset first, then the four weights."""
    names = tracker.Evidence._fields
    X = np.array([[1.0, *(r[n] for n in names)] for r in records if names[0] in r])
    y = np.array([0.0 if r["right"] else 1.0 for r in records if names[0] in r])
    w = np.zeros(X.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-X @ w))
        H = X.T @ (X * (p * (1 - p))[:, None]) + np.eye(len(w)) * 0.1
        w += np.linalg.solve(H, X.T @ (y - p) - 0.1 * w)
    return w


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100, help="kept of every video")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--backgrounds", default=None, help="folder of photos; without, procedural pictures")
    parser.add_argument("--meshes", nargs="*", default=[], help="further objects, FILE:UNIT")
    parser.add_argument("--objects", type=int, nargs="*", default=None, help="which of the bundled objects; all by default")
    parser.add_argument("--cache", default=None, help="folder for the contours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, default=None, help="JSON file for what was measured at every frame")
    parser.add_argument("--calibrate", action="store_true")
    args = parser.parse_args()
    from monopose.objects import pipeline

    bundled = bop_models.read_models(Path(pipeline.__file__).parents[1] / "assets" / "demo" / "objects")
    models = [m for i, m in bundled.items() if args.objects is None or i in args.objects]
    models += [load_mesh(f.rsplit(":", 1)[0], f.rsplit(":", 1)[1], obj_id=100 + i) for i, f in enumerate(args.meshes)]
    photos = synth.read_backgrounds(args.backgrounds)
    everything: list[dict[str, float]] = []
    print(
        "| condition | step | frames | right, % | flag precision | flag recall | CPU ms, median |\n"
        "|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as temporary:
        cache = args.cache or temporary
        for variant in args.variants:
            for step in args.steps:
                records = []
                for m, model in enumerate(models):
                    seed = args.seed + 1000 * m + 10 * VARIANTS.index(variant)
                    records += run(
                        model, list(video(model, variant, args.frames, step, photos, seed)), cache, variant != "gone"
                    )
                everything += records
                if args.save is not None:
                    args.save.write_text(json.dumps(everything))
                print(row(variant, step, records), flush=True)
    if args.calibrate:
        w = calibrated(everything)
        print(f"OFFSET = {w[0]:.2f}; DOUBTS = {dict(zip(tracker.Evidence._fields, w[1:].round(2).tolist()))}")


def row(variant: str, step: int, records: list[dict[str, float]]) -> str:
    right, there = (np.array([r[name] for r in records], bool) for name in ("right", "there"))
    flagged = np.array([r["p"] >= tracker.DOUBT for r in records])
    both = (flagged & ~right).sum()
    precision = f"{both / flagged.sum():.2f}" if flagged.any() else "-"
    recall = f"{both / (~right).sum():.2f}" if (~right).any() else "-"
    ms = np.median([r["ms"] for r in records])
    return f"| {variant} | {step} | {len(records)} | {100 * right[there].mean():.1f} | {precision} | {recall} | {ms:.1f} |"


if __name__ == "__main__":
    main()
