"""A second set of real photos: YCB-V, so that nothing is tuned to the one scene of LM-O.

    python -m benchmarks.ycbv --data DATA/ycbv_mini --out runs/ycbv_data

makes a BOP folder of the ten objects whose poses the official truth gives in three photos (12 targets), as the ordinary
commands want it: the models at hand have no textures, so that what only their print tells apart counts as symmetric
(rotations that move the surface by less than 3 % of the diameter). It prints the commands that train and score.
"""

import argparse
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from monopose.data import bop, bop_write
from monopose.symmetry_proposals import group_size, propose_symmetries
from monopose.types import Camera

SCENES = (0, 51)  # whose truth is the data set's own
TOLERANCE = 0.03  # of the diameter
DISTANCE = "0.6 1.3"  # metres, of objects on YCB-V's tables


def prepare(data: Path, out: Path) -> dict[int, str]:
    """Models with symmetries, camera, photos and targets below `out`; the symmetries in words by object."""
    truth = {s: json.loads((data / "test" / f"{s:06d}" / "scene_gt.json").read_text()) for s in SCENES}
    wanted = Counter(
        (s, int(i), int(o["obj_id"])) for s, images in truth.items() for i, all_of in images.items() for o in all_of
    )
    models = bop.read_models(data / "models", {obj_id for _, _, obj_id in wanted})
    for obj_id in tqdm(models, desc="symmetries", unit="object"):
        models[obj_id] = replace(models[obj_id], symmetries=propose_symmetries(models[obj_id], TOLERANCE).symmetries)
    for folder in ("models", "models_eval"):
        bop_write.write_models(out / folder, models)
    frame = next(iter(json.loads((data / "test" / f"{SCENES[0]:06d}" / "scene_camera.json").read_text()).values()))
    bop_write.write_camera(out / "camera.json", Camera(torch.tensor(frame["cam_K"]).view(3, 3), (480, 640)))
    for scene in SCENES:
        shutil.copytree(data / "test" / f"{scene:06d}", out / "test" / f"{scene:06d}", dirs_exist_ok=True)
    scene_id, im_id, obj_id = np.array(sorted(wanted)).T
    counts = np.array([wanted[key] for key in sorted(wanted)])
    bop_write.write_targets(out / "test_targets_bop19.json", bop.Targets(scene_id, im_id, obj_id, counts))
    return {obj_id: group_size(m.symmetries) for obj_id, m in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with models/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="BOP folder to make")
    args = parser.parse_args()
    for obj_id, words in prepare(args.data, args.out).items():
        print(f"object {obj_id:2d}: symmetries: {words}")
    how = f"--distance {DISTANCE} --backgrounds BACKGROUNDS --set input_size=96 output_size=48 --batch-size 24 --minutes 60"
    print(f"""
monopose train coordinates --data {args.out} --out runs/ycbv {how} --init weights/lmo/coordinates.safetensors
monopose predict --bop {args.out} --true-boxes --model runs/ycbv --out monopose_ycbv-test.csv
monopose evaluate monopose_ycbv-test.csv --data {args.out}""")


if __name__ == "__main__":
    main()
