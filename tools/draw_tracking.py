"""The animation at the top of the README: bundled objects in a rendered video, followed by their outlines and textures.

    python tools/draw_tracking.py [--out docs/images/track.webp] [--frames 80] [--seed 4]

Three objects move before a moving camera, a hand comes in front. The tracker is told the first picture's poses, nothing else.
Every second picture is shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import monopose
from monopose.datasets.bop.models import read_models
from monopose.synthesis import scene, video
from monopose.tracking import viz
from monopose.tracking.tracker import Tracker

OBJECTS = (1, 2, 4)  # biscuit box, toy train, ring bottle
WIDTH = 480  # of the animation


def table(rng: np.random.Generator, size: tuple[int, int] = (960, 1280)) -> np.ndarray:
    """A table of wood, roughly, (H, W, 3) uint8."""
    grain = cv2.resize(
        rng.normal(0, 1, (size[0] // 3, 6)).astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_CUBIC
    )
    fine = cv2.resize(rng.normal(0, 1, (size[0], 40)).astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    shade = 1 + 0.06 * grain + 0.03 * fine
    wood = np.array([186, 146, 108]) * shade[..., None] * np.linspace(1.05, 0.8, size[0])[:, None, None]
    return wood.clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/track.webp"))
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--cache", default=None, help="folder for the contours")
    args = parser.parse_args()
    bundled = read_models(Path(monopose.__file__).parent / "assets" / "demo" / "objects")
    models = [bundled[i] for i in OBJECTS]
    tracker = Tracker(models, cache=args.cache)
    config = video.VideoConfig(speed=0.5, occlusion=0.35, light=0.6, shutter=0)
    plan = video.plan(models, scene.default_camera(), args.frames, config, seed=args.seed)
    plan = plan._replace(photo=table(np.random.default_rng(args.seed)))
    pictures = []
    for i in range(args.frames):
        frame, _ = video.draw(plan, i)
        if i == 0 and frame.instances is not None:
            tracker.start(frame, list(frame.instances.cam_from_obj))
        tracks = tracker.step(frame)
        print(
            i,
            [f"{t.name} {'lost' if t.lost else f'{t.probability_lost:.2f}'}" for t in tracks],
            f"{1000 * tracker.seconds:.0f} ms",
        )
        if i % 2 == 0:
            picture = Image.fromarray(viz.outlined(frame, tracks, [s.views for s in tracker.states]))
            pictures.append(picture.resize((WIDTH, WIDTH * picture.height // picture.width), Image.Resampling.LANCZOS))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    delay = round(2000 / config.fps)
    pictures[0].save(args.out, save_all=True, append_images=pictures[1:], duration=delay, loop=0, quality=60, method=4)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {len(pictures)} pictures")


if __name__ == "__main__":
    main()
