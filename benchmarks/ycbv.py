"""A second set of real photos: YCB-V, so that nothing is tuned to the one scene of LM-O.

    python -m benchmarks.ycbv --data DATA/ycbv_mini --out runs/ycbv_data

makes a BOP folder of the ten objects whose poses the official truth gives in three photos (12 targets), as the ordinary
commands want it: the models at hand have no textures, so that what only their print tells apart counts as symmetric
(rotations that move the surface by less than 3 % of the diameter). It prints the commands that train and score.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monopose.datasets.bop import models as bop_models
from monopose.datasets.bop import results, writing
from monopose.datasets.bop import scenes as bop_scenes
from monopose.mesh.symmetries import group_size, propose_symmetries
from monopose.render.scene import render_masks
from monopose.synthesis.samples import amodal_box
from monopose.types import Frame, ObjectModel

SCENES = (0, 51)  # whose truth is the data set's own
TOLERANCE = 0.03  # of the diameter
DISTANCE = "0.6 1.3"  # metres, of objects on YCB-V's tables


def with_masks(frame: Frame, models: dict[int, ObjectModel]) -> tuple[Frame, Tensor]:
    """The photo with masks, visibility and amodal boxes rendered from the true poses, and the silhouettes (N, H, W)."""
    truth, camera = frame.instances, frame.camera
    assert truth is not None
    seen = render_masks([models[int(i)] for i in truth.labels], truth.cam_from_obj, camera.K, camera.size)
    boxes = [amodal_box(models[int(i)], pose, camera.K) for i, pose in zip(truth.labels, truth.cam_from_obj, strict=True)]
    truth = replace(truth, masks=seen.masks_visible, visibility=seen.visibility, boxes=torch.stack(boxes))
    return replace(frame, instances=truth), seen.masks_full


def prepare(data: Path, out: Path) -> dict[int, str]:
    """Models with symmetries, camera, photos and targets below `out`; the symmetries in words by object."""
    scenes = {s: bop_scenes.open_scene(data / "test" / f"{s:06d}") for s in SCENES}
    frames = {s: [bop_scenes.read_frame(scene, int(i), depth=False) for i in scene.im_ids] for s, scene in scenes.items()}
    models = bop_models.read_models(
        data / "models", {int(i) for some in frames.values() for f in some for i in f.instances.labels}
    )
    for obj_id in tqdm(models, desc="symmetries", unit="object"):
        models[obj_id] = replace(models[obj_id], symmetries=propose_symmetries(models[obj_id], TOLERANCE).symmetries)
    for folder in ("models", "models_eval"):
        writing.write_models(out / folder, models)
    shutil.rmtree(out / "test", ignore_errors=True)
    rows = []
    for scene_id, some in frames.items():
        whole = [with_masks(frame, models) for frame in some]
        numbers = writing.append_frames(out / "test" / f"{scene_id:06d}", [f for f, _ in whole], [m for _, m in whole])
        rows += [(scene_id, n, int(i), 1) for n, frame in zip(numbers, some) for i in frame.instances.labels]
    writing.write_camera(out / "camera.json", frames[SCENES[0]][0].camera)
    writing.write_targets(out / "test_targets_bop19.json", results.Targets(*np.array(sorted(rows)).T))
    return {obj_id: group_size(m.symmetries) for obj_id, m in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with models/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="BOP folder to make")
    args = parser.parse_args()
    for obj_id, words in prepare(args.data, args.out).items():
        print(f"object {obj_id:2d}: symmetries: {words}")
    how = f"--distance {DISTANCE} --backgrounds BACKGROUNDS --set input_size=96 output_size=48 --batch-size 24 --minutes 152"
    print(f"""
monopose train coordinates --data {args.out} --out runs/ycbv {how} --init weights/lmo/coordinates.safetensors
monopose predict --bop {args.out} --true-boxes --model runs/ycbv --out monopose_ycbv-test.csv
monopose evaluate monopose_ycbv-test.csv --data {args.out}""")


if __name__ == "__main__":
    main()
