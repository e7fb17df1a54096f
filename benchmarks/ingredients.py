"""What each ingredient of the coordinate network is worth: short trainings that differ in one thing, scored on real photos.

    python -m benchmarks.ingredients --data DATA/lmo --targets TARGETS --backgrounds BACKGROUNDS --out runs/ingredients

Three objects of LM-O, crops of 64 pixels, the same number of steps and samples for every row, true boxes. The first row is
repeated with other seeds: a row pays only if it lies outside their spread. Finished rows are kept in OUT; a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import monopose
from benchmarks.viewpoint import markdown
from monopose import train
from monopose.data import bop, bop_write
from monopose.evaluation import classic, protocol
from monopose.files import write_json
from monopose.learning import TrainConfig
from monopose.methods import coordinates
from monopose.pipeline import predict_bop

OBJECTS = (6, 8, 9)  # cat, driller, duck
BATCH = 16


@dataclass(frozen=True)
class Row:
    """One training: what is different from the default."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)  # fields of coordinates.Config
    scene: dict[str, Any] = field(default_factory=dict)  # fields of synth.SceneConfig
    backgrounds: bool = True
    seed: int = 0

    @property
    def key(self) -> str:
        return f"{self.name} {self.seed}".replace(" ", "-").replace(".", "")


ROWS = (
    *(Row("default", seed=seed) for seed in range(3)),
    Row("no ImageNet weights", {"pretrained": False, "frozen_levels": 0}),
    Row("no frozen levels", {"frozen_levels": 0}),
    Row("regression, no bins", {"bins": 0}),
    Row("no amodal mask, no distance from it", {"amodal_weight": 0.0}),
    Row("hidden pixels weigh the same", {"visible_weight": 1.0}),
    Row("never greyed", {"greyed_share": 0.0}),
    Row("crop 1.2 boxes", {"crop_scale": 1.2}),
    Row("crop 2 boxes", {"crop_scale": 2.0}),
    Row("96 pixels", {"input_size": 96, "output_size": 48}),
    Row("procedural backgrounds", backgrounds=False),
    Row("one object a scene, nothing in front", scene={"objects": (1, 1), "distractors": (0, 0)}),
    Row("any rotation", scene={"upright": False}),
    Row("distances 0.2 to 3 m", scene={"distance": (0.2, 3.0)}),
)


def score(row: Row, options: argparse.Namespace, targets: Path) -> dict[str, float]:
    """Train, predict, evaluate; shares of 1."""
    out = options.out / row.key
    scene = train.scene_config(options.data, OBJECTS, upright=True, distance=(0.4, 1.5))
    base = coordinates.Config(OBJECTS, input_size=64, output_size=32, widths=(96, 64, 48, 32))
    train.train(
        "coordinates",
        options.data,
        out,
        obj_ids=OBJECTS,
        backgrounds=options.backgrounds if row.backgrounds else None,
        scene=replace(scene, **row.scene),
        config=TrainConfig(steps=options.steps, batch_size=BATCH, seed=row.seed, ema=0.99),
        method_config=replace(base, **row.config),
    )
    results = predict_bop(monopose.load(out), options.data, targets, out / "ingredients_lmo-test.csv", true_boxes=True)
    ar = protocol.evaluate(results, options.data, targets)["ar"]
    report = classic.evaluate(results, options.data, targets)
    return {
        "ar": ar["mean"], "mssd": ar["mssd"], "mspd": ar["mspd"],
        "add": report["add_s"]["0.1"], "near": report["deg_cm"]["10"], "px": report["projection"]["10"],
    }  # fmt: skip


def targets_of_objects(source: Path, out: Path) -> Path:
    """The targets that are the three objects."""
    targets = bop.read_targets(source)
    assert targets.obj_id is not None
    rows = np.isin(targets.obj_id, OBJECTS)
    bop_write.write_targets(out, bop.Targets(*(None if c is None else c[rows] for c in targets)))
    return out


def table(found: dict[str, dict[str, float]]) -> str:
    scale = {"ar": 1.0, "mssd": 1.0, "mspd": 1.0, "add": 100.0, "near": 100.0, "px": 100.0}
    rows = []
    for name in dict.fromkeys(r.name for r in ROWS):
        seeds = [found[r.key] for r in ROWS if r.name == name and r.key in found]
        cells = []
        for key, factor in scale.items():
            values = factor * np.array([s[key] for s in seeds])
            digits = 3 if factor == 1 else 1
            spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.{digits}f}{spread}" if len(values) else "-")
        rows.append([name, *cells])
    return markdown(["", "AR", "AR MSSD", "AR MSPD", "ADD(-S) 0.1 d, %", "10° 10 cm, %", "10 px, %"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="LM-O")
    parser.add_argument("--targets", type=Path, required=True, help="targets file")
    parser.add_argument("--backgrounds", type=Path, required=True, help="folder of photos")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / f"results-{options.steps}.json"
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.is_file() else {}
    targets = targets_of_objects(options.targets, options.out / "targets.json")
    for row in ROWS:
        if row.key not in found:
            print(f"{row.name}, seed {row.seed}", flush=True)
            found[row.key] = score(row, options, targets)
            write_json(kept, found)
    print(table(found))


if __name__ == "__main__":
    main()
