"""What each ingredient of the coordinate network's training is worth on real photos.

    python -m benchmarks.ingredients --data DATA/lmo --targets TARGETS --backgrounds BACKGROUNDS --out runs/ingredients

takes a trained network (`--init`, weights/lmo) and trains it on, twelve times, with eleven ingredients changed or not in the
twelve combinations of Plackett and Burman (1946). Every ingredient is changed in six of the runs, any two of them together in
three, so each effect is a difference between means of six runs: a sixth of the variance of a run apiece, for the same work.
It is that of an ingredient while half of the others are changed; what two of them do only together is mixed into the rest by
thirds. What is no more than chance is told by Lenth's (1989) margin of error: most ingredients do little, so the middle of all
effects is what chance does; one in twenty that do nothing lies beyond it. Scored with true boxes, and with those of the
detector of `--init`.

    python -m benchmarks.ingredients ... --nothing

trains from nothing what training on cannot tell, networks that differ in themselves: on three objects, 64 pixels, all on the
same crops. The first row is repeated with another seed.

Finished runs are lines of OUT/results.jsonl; a run that was stopped goes on. `--table` prints what is done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from benchmarks.viewpoint import markdown
from monopose import weights
from monopose.datasets.bop import results, writing
from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import scenes as bop_scenes
from monopose.evaluation import bop as bop_evaluation
from monopose.evaluation import linemod
from monopose.nets import unet
from monopose.objects import bop_pipeline, calibration, coordinates, pipeline, training
from monopose.objects import samples as object_samples
from monopose.synthesis import samples as crop_samples
from monopose.synthesis import scene as synth
from monopose.training import loop
from monopose.training.loop import TrainConfig

DISTANCE = (0.4, 1.5)  # metres, of the objects of LM-O
SCORES = {"ar": 1.0, "add": 100.0, "near": 100.0, "px": 100.0}  # and the factor to print them with
HEAD = ["AR", "ADD(-S) 0.1 d, %", "10° 10 cm, %", "2D 10 px, %"]


# ---------------------------------------------------------------------------------------------------------- training on


@dataclass(frozen=True)
class Factor:
    """One ingredient, in words and as what is changed."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)  # fields of coordinates.Config
    scene: Mapping[str, Any] = field(default_factory=dict)  # fields of synth.SceneConfig
    backgrounds: bool = True


FACTORS = (
    Factor("boxes as wrong as a poor detector's (`shift=0.25 zoom=0.3`)", {"shift": 0.25, "zoom": 0.3}),
    Factor("tighter crops, 1.2 boxes (`crop_scale=1.2`)", {"crop_scale": 1.2}),
    Factor("projection loss (`projection_weight=0.3`)", {"projection_weight": 0.3, "projection_start": 0.0}),
    Factor("no crops greyed as the second look is (`greyed_share=0`)", {"greyed_share": 0.0}),
    Factor("hidden pixels weigh as much as visible ones (`visible_weight=1`)", {"visible_weight": 1.0}),
    Factor("all of the encoder learns (`frozen_levels=0`)", {"frozen_levels": 0}),
    Factor("stronger changes of colour (`colours` 1.6)", scene={"colours": 1.6}),
    Factor("backgrounds without photos", backgrounds=False),
    Factor("nothing in front of the objects", scene={"objects": (1, 1), "distractors": (0, 0)}),
    Factor("distances of 0.2 to 3 m, not 0.4 to 1.5", scene={"distance": (0.2, 3.0)}),
    Factor("objects in any rotation, not upright", scene={"upright": False}),
)
_GENERATOR = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)  # Plackett & Burman, N = 12


def design() -> np.ndarray:
    """Which of the eleven ingredients are changed in each of the twelve runs, (12, 11), 0 or 1; the last run changes none."""
    return np.array([np.roll(_GENERATOR, k) for k in range(11)] + [np.zeros(11, int)])


def lenth(effects: np.ndarray) -> float:
    """The pseudo standard error of effects most of which are none. (k,) -> scalar. Source: Lenth 1989, eq. 2."""
    size = np.abs(effects)
    first = 1.5 * np.median(size)
    return float(1.5 * np.median(size[size < 2.5 * first])) if first > 0 else 0.0


def margin(effects: np.ndarray) -> float:
    """Nineteen in twenty effects that are none are smaller. (k,) -> scalar. Source: Lenth 1989, eq. 3."""
    return float(stats.t.ppf(0.975, len(effects) / 3)) * lenth(effects)


def effects(changed: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Mean of the runs that change an ingredient, less the mean of those that do not. (N, k), (N,) -> (k,)."""
    return np.array([scores[column == 1].mean() - scores[column == 0].mean() for column in changed.T])


def train_on(row: Sequence[int], out: Path, options: argparse.Namespace, seed: int) -> Path:
    """One of the twelve runs -> its weights file."""
    chosen = [f for f, used in zip(FACTORS, row, strict=True) if used]
    start = options.init / "coordinates.safetensors"
    base = weights.build_config(coordinates.Config, weights.read(start).config, str(start))
    scene = training.scene_config(options.data, base.obj_ids, upright=True, distance=DISTANCE)
    return training.train(
        "coordinates", options.data, out, obj_ids=base.obj_ids, init=start,
        backgrounds=options.backgrounds if all(f.backgrounds for f in chosen) else None,
        scene=replace(scene, **{k: v for f in chosen for k, v in f.scene.items()}),
        config=TrainConfig(steps=options.steps, batch_size=options.batch, seed=seed, ema=0.98, lr=options.lr, workers=0),
        method_config=replace(base, **{k: v for f in chosen for k, v in f.config.items()}), progress_bar=False,
    )  # fmt: skip


def detected(options: argparse.Namespace, targets: Path) -> Path:
    """The boxes that the detector of the start finds in the photos, found once for all runs."""
    file = folder(options, "boxes") / "boxes.json"
    if not file.is_file():
        run, records = pipeline.load(options.init, "cpu"), []
        rows = bop_scenes.read_targets(targets)
        scenes = {s: bop_scenes.open_scene(options.data / "test" / f"{s:06d}") for s in set(rows.scene_id.tolist())}
        for s, i in dict.fromkeys(zip(rows.scene_id.tolist(), rows.im_id.tolist(), strict=True)):
            found = run.detect(bop_scenes.read_frame(scenes[s], i, masks=False, depth=False))
            records += results.detection_rows(replace(found, masks=None), s, i)
        results.write_detections(file, records)
    return file


# --------------------------------------------------------------------------------------------------------- from nothing


OBJECTS = (6, 8, 9)  # cat, driller, duck
SMALL: dict[str, Any] = {"input_size": 64, "output_size": 32, "widths": (96, 64, 48, 32)}


class SharedHead(unet.ClassAwareHead):
    """The same last layer for all objects, which are then told apart only at the bottleneck."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return super().forward(x, torch.zeros_like(index))


@dataclass(frozen=True)
class Network:
    """One network from nothing."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    head: type[unet.ClassAwareHead] = unet.ClassAwareHead
    seed: int = 0

    @property
    def key(self) -> str:
        return f"{self.name}, seed {self.seed}"


NETWORKS = (
    Network("default"),
    Network("no ImageNet weights (`pretrained=false frozen_levels=0`)", {"pretrained": False, "frozen_levels": 0}),
    Network("regression in place of bins (`bins=0`)", {"bins": 0}),
    Network("8 bins per axis in place of 32 (`bins=8`)", {"bins": 8}),
    Network("one head for all objects", head=SharedHead),
    Network("default", seed=1),
)


class Kept(Dataset):
    """Samples that were drawn once, again and again, in another order every time."""

    def __init__(self, samples: Sequence[dict[str, Tensor]], length: int, seed: int) -> None:
        self.samples, self.length, self.seed = samples, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        epoch, place = divmod(i, len(self.samples))
        return self.samples[int(np.random.default_rng((self.seed, epoch)).permutation(len(self.samples))[place])]


def crops(options: argparse.Namespace) -> list[dict[str, Tensor]]:
    """What all networks from nothing learn from."""
    models = training.read_objects(options.data, OBJECTS, 12_000)
    scene = training.scene_config(options.data, OBJECTS, upright=True, distance=DISTANCE)
    photos = synth.read_backgrounds(options.backgrounds)
    source = crop_samples.Source(models, training.read_data_camera(options.data), photos, scene)
    drawn = object_samples.CropSamples(source, SMALL["input_size"], SMALL["output_size"], seed=11)
    return [drawn[i] for i in tqdm(range(options.crops), desc="crops", unit="crop")]


def train_anew(network: Network, samples: Sequence[dict[str, Tensor]], out: Path, options: argparse.Namespace) -> Path:
    """One network from nothing -> its weights file."""
    models = training.read_objects(options.data, OBJECTS, 12_000)
    config = coordinates.Config(OBJECTS, **{**SMALL, **network.config})

    def make() -> coordinates.Model:
        model = coordinates.Model(config, models)
        head = model.net.head
        model.net.head = network.head(len(head.weight), head.weight.shape[2], head.weight.shape[1])
        return model

    file = loop.fit(
        "coordinates", training.METHODS["coordinates"].recipe, config, make, lambda n, seed: Kept(samples, n, seed), out,
        TrainConfig(steps=options.steps, batch_size=options.batch, seed=network.seed, ema=0.99, lr=options.lr, workers=0),
        data=options.data, labels=OBJECTS, progress_bar=False,
    )  # fmt: skip
    if network.head is SharedHead:  # to predict with: every object gets the row that all of them used
        learned = weights.read(file)
        for name in ("net.head.weight", "net.head.bias"):
            learned.state[name] = learned.state[name][:1].expand_as(learned.state[name]).clone()
        weights.save(file, learned.state, method="coordinates", config=config, labels=OBJECTS, notes=learned.notes, half=True)
    return file


def targets_of(source: Path, ids: Sequence[int], out: Path) -> Path:
    """The targets that are some objects."""
    targets = bop_scenes.read_targets(source)
    assert targets.obj_id is not None
    rows = np.isin(targets.obj_id, ids)
    writing.write_targets(out, bop_results.Targets(*(None if c is None else c[rows] for c in targets)))
    return out


# -------------------------------------------------------------------------------------------------------------- results


def scored(run: Path, options: argparse.Namespace, targets: Path, boxes: Path | None) -> dict[str, float]:
    """Shares of 1, of the poses of a run in true boxes, or in given ones."""
    out = run / f"{'true' if boxes is None else 'given'}_lmo-test.csv"
    model = pipeline.load(run, "cpu")
    bop_pipeline.predict_bop(model, options.data, targets, out, boxes=boxes, true_boxes=boxes is None)
    report = linemod.evaluate(out, options.data, targets)
    ar = bop_evaluation.evaluate(out, options.data, targets)["ar"]
    return {
        "ar": ar["mean"], "add": report["add_s"]["0.1"], "near": report["deg_cm"]["10"], "px": report["projection"]["10"],
    }  # fmt: skip


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the runs of a table share; other settings are other runs and another table."""
    start = None if options.nothing else calibration.digest_of(options.init / "coordinates.safetensors")
    return {
        "steps": options.steps, "batch": options.batch, "lr": options.lr, "targets": options.targets.name,
        "backgrounds": options.backgrounds.name, "init": start, "crops": options.crops if options.nothing else None,
    }  # fmt: skip


def folder(options: argparse.Namespace, name: str) -> Path:
    """Of a run, or of what the runs of a table share."""
    code = hashlib.blake2b(json.dumps(settings(options)).encode(), digest_size=4).hexdigest()
    return options.out / f"{name}_{code}"


def finished(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The lines of OUT/results.jsonl with these settings, by run."""
    file = options.out / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    return {line["run"]: line for line in lines if line["settings"] == settings(options)}


def keep(options: argparse.Namespace, run: str, scores: Mapping[str, Mapping[str, float]]) -> None:
    with open(options.out / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"run": run, "settings": settings(options), **scores}) + "\n")
    print(run, scores, flush=True)


def run_design(options: argparse.Namespace) -> None:
    """The twelve runs that are not done yet."""
    done, boxes = finished(options), detected(options, options.targets)
    for k, row in enumerate(design()):
        name = f"on {k}"
        if name not in done:
            out = train_on(row, folder(options, f"on_{k}"), options, seed=100 + k).parent
            given = {"true": None, "ours": boxes}
            keep(options, name, {key: scored(out, options, options.targets, b) for key, b in given.items()})


def run_networks(options: argparse.Namespace) -> None:
    """The networks from nothing that are not done yet."""
    targets = targets_of(options.targets, OBJECTS, options.out / "targets.json")
    samples: list[dict[str, Tensor]] = []
    for k, network in enumerate(NETWORKS):
        if network.key not in finished(options):
            samples = samples or crops(options)
            out = train_anew(network, samples, folder(options, f"nothing_{k}"), options).parent
            keep(options, network.key, {"true": scored(out, options, targets, None)})


def design_table(done: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: what each ingredient changes, and how large chance is."""
    names = [f"on {k}" for k in range(12)]
    if any(name not in done for name in names):
        return f"{sum(name in done for name in names)} of 12 runs done"
    rows: list[list[str]] = [[f.name] for f in FACTORS]
    chance, last = ["19 of 20 by chance alone are within"], ["nothing changed, one run"]
    for key in ("true", "ours"):
        for score, factor in list(SCORES.items())[:2]:
            digits = 3 if factor == 1 else 1
            said = factor * np.array([done[name][key][score] for name in names])
            found = effects(design(), said)
            for row, value in zip(rows, found, strict=True):
                row.append(f"{value:+.{digits}f}")
            chance.append(f"±{margin(found):.{digits}f}")
            last.append(f"{said[-1]:.{digits}f}")
    head = ["what is changed", *(f"{box}: {name}" for box in ("true boxes", "our detector") for name in HEAD[:2])]
    return markdown(head, [*rows, chance, last])


def network_table(done: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: networks from nothing."""
    rows = []
    for network in NETWORKS:
        if network.key in done:
            said = done[network.key]["true"]
            rows.append([network.key, *(f"{factor * said[k]:.{3 if factor == 1 else 1}f}" for k, factor in SCORES.items())])
    return markdown(["from nothing", *HEAD], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="LM-O")
    parser.add_argument("--targets", type=Path, required=True, help="targets file")
    parser.add_argument("--backgrounds", type=Path, required=True, help="folder of photos")
    parser.add_argument("--init", type=Path, default=Path("weights/lmo"), help="run folder to train on from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--nothing", action="store_true", help="networks from nothing")
    parser.add_argument("--crops", type=int, default=8000, help="that the networks from nothing learn from")
    parser.add_argument("--steps", type=int, help="of each run; by default 300, from nothing 1500")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, help="peak; by default 5e-4, from nothing 1e-3")
    parser.add_argument("--table", action="store_true", help="only print")
    options = parser.parse_args()
    options.steps = options.steps or (1500 if options.nothing else 300)
    options.lr = options.lr or (1e-3 if options.nothing else 5e-4)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        (run_networks if options.nothing else run_design)(options)
    print((network_table if options.nothing else design_table)(finished(options)))


if __name__ == "__main__":
    main()
