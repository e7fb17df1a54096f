"""What the projection loss through PnP changes: the same small network, the same crops and steps, without and with it.

    python -m benchmarks.projection_loss [--seeds 3] [--steps 650] [--weights 0 0.3]        about 13 minutes of one core

Two of the bundled objects, one of them symmetric, crops of 64 pixels drawn from their CAD models, EfficientNet-lite0 with
ImageNet weights. The first 60 % of the steps are one training; then it branches, once per weight of the projection loss, with
the same weights, optimiser state, learning rates and crops. Nothing is averaged or chosen by the held-out crops; a seed
changes initial weights and crops. Poses come from RANSAC and refinement, as in `predict` (one stage).
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from dataclasses import replace

import torch
from torch import Tensor

from monopose import demo
from monopose.evaluation import errors
from monopose.geometry import camera, rotation, symmetry
from monopose.objects import coordinates, training
from monopose.objects import samples as object_samples
from monopose.synthesis import samples as crop_samples
from monopose.types import Camera, ObjectModel

OBJECTS = (1, 3)
POOL, HELD_OUT, BATCH, LR = 2400, 300, 16, 1e-3
START = 0.6


def draw(models: dict[int, ObjectModel], count: int, seed: int) -> dict[str, Tensor]:
    """Crops, stacked."""
    folder = demo.folder() / "objects"
    scene = training.scene_config(folder, OBJECTS, upright=True, distance=(0.4, 1.2))
    source = crop_samples.Source(models, training.read_data_camera(folder), (), scene)
    samples = object_samples.CropSamples(source, 64, 32, greyed_share=0.0, length=count, seed=seed)
    return torch.utils.data.default_collate([samples[i] for i in range(count)])


class Learner:
    """A network, its optimiser and how far it is."""

    def __init__(self, config: coordinates.Config, models: dict[int, ObjectModel], seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        self.model = coordinates.Model(config, models).to(memory_format=torch.channels_last).train()
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(learning, lr=LR, weight_decay=1e-2)
        self.seed, self.steps, self.done = seed, steps, 0

    def branch(self, weight: float) -> Learner:
        other = copy.deepcopy(self)
        other.model.config = replace(other.model.config, projection_weight=weight)
        return other

    def run(self, pool: dict[str, Tensor], until: int) -> None:
        """Learn up to a step."""
        while self.done < until:
            progress = self.done / self.steps
            rate = min(self.done / (0.02 * self.steps), 1.0) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in self.optimiser.param_groups:
                group["lr"] = LR * max(rate, 1e-3)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.done)
            rows = torch.randint(len(pool["label"]), (BATCH,), generator=generator)
            batch = {k: v[rows] for k, v in pool.items()} | {"progress": torch.tensor(progress)}
            output = self.model(batch["image"].contiguous(memory_format=torch.channels_last), batch["label"])
            losses = coordinates.loss(self.model, output, batch)
            self.optimiser.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimiser.step()
            self.done += 1

    def gradients(self, batch: dict[str, Tensor]) -> tuple[float, float]:
        """Norms of the gradients of all other losses and of the projection loss of weight 1."""
        output = self.model(batch["image"].contiguous(memory_format=torch.channels_last), batch["label"])
        learning = [p for p in self.model.parameters() if p.requires_grad]
        others = torch.stack(list(coordinates.loss(self.model, output, batch).values())).sum()
        norms = []
        for value in (others, coordinates.projection_loss(self.model, output, batch).mean()):
            found = torch.autograd.grad(value, learning, retain_graph=True, allow_unused=True)
            norms.append(math.sqrt(sum(float(g.square().sum()) for g in found if g is not None)))
        return norms[0], norms[1]


@torch.no_grad()
def evaluate(model: coordinates.Model, held_out: dict[str, Tensor], models: dict[int, ObjectModel]) -> dict[str, float]:
    """Scores on crops; a crop without a pose counts as infinitely wrong."""
    model.eval()
    side = held_out["image"].shape[-1]
    box = torch.tensor([0.0, 0.0, side, side])
    pixels = camera.pixels(box[None], side // 2)[0]
    rows = []
    for n in range(0, len(held_out["label"]), 50):
        part = {k: v[n : n + 50] for k, v in held_out.items()}
        output = model(part["image"].contiguous(memory_format=torch.channels_last), part["label"])
        metres = model.metres(output.coordinates, model.index_of(part["label"])).permute(0, 2, 3, 1)
        for i, label in enumerate(part["label"].tolist()):
            found = coordinates.Correspondences(
                label, 0, box, part["image"][i], metres[i], output.error[i].sigmoid(), output.mask[i].sigmoid(), pixels, None
            )
            solved = coordinates.solve(found, Camera(part["K"][i], (side, side)))
            rows.append(_errors(solved, part["cam_from_obj"][i], part["K"][i], models[label]))
    near, angle, shift, add, mspd = (torch.tensor(column) for column in zip(*rows, strict=True))
    half = {"angle": angle, "shift": shift, "add": add, "mspd": mspd}
    return {"add_01d": 100 * float((near < 0.1).float().mean())} | {k: float(v.median()) for k, v in half.items()}


def _errors(solved: coordinates.Solved, true: Tensor, K: Tensor, model: ObjectModel) -> tuple[float, ...]:
    """ADD(-S) over the diameter, degrees, % of the distance, ADD(-S) in % of the diameter, MSPD in pixels of the crop."""
    if not solved.success:
        return (math.inf,) * 5
    est, points = solved.cam_from_obj.double(), model.vertices.double()
    measure = errors.add_s if model.symmetries.any else errors.add
    near = float(measure(est.numpy(), true.double().numpy(), points.numpy())) / model.diameter
    group = symmetry.transforms(model.symmetries)
    closest = symmetry.nearest(true, est.float(), group, model.corners)
    angle = math.degrees(float(rotation.angle_between(closest[:3, :3], est[:3, :3].float())))
    shift = 100 * float((closest[:3, 3] - est[:3, 3]).norm() / true[:3, 3].norm())
    mspd = float(errors.mspd(est.numpy(), true.double().numpy(), points.numpy(), K.double().numpy(), group.double().numpy()))
    return near, angle, shift, 100 * near, mspd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=650)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = training.read_objects(demo.folder() / "objects", OBJECTS, 3000)
    held_out = draw(models, HELD_OUT, 999)
    config = coordinates.Config(
        OBJECTS,
        input_size=64,
        output_size=32,
        widths=(64, 48, 48, 32),
        frozen_levels=3,
        projection_start=START,
        amodal_weight=0.0,
    )
    scores: dict[float, list[dict[str, float]]] = {w: [] for w in options.weights}
    seconds: dict[float, list[float]] = {w: [] for w in options.weights}
    for seed in range(options.first, options.first + options.seeds):
        pool = draw(models, POOL, seed)
        common = Learner(config, models, seed, options.steps)
        common.run(pool, round(START * options.steps))
        others, projection = common.gradients({k: v[:64] for k, v in pool.items()})
        print(
            f"seed {seed}: gradient of the projection loss of weight 1 / of the others: {projection / others:.2f}", flush=True
        )
        for weight in options.weights:
            learner = common.branch(weight)
            started = time.process_time()
            learner.run(pool, options.steps)
            seconds[weight].append((time.process_time() - started) / (options.steps - common.done))
            scores[weight].append(evaluate(learner.model, held_out, models))
            print(
                f"seed {seed}, weight {weight:g}: " + ", ".join(f"{k} {v:.2f}" for k, v in scores[weight][-1].items()),
                flush=True,
            )
    names = {
        "add_01d": "ADD(-S) 0.1 d, %", "angle": "rotation, °", "shift": "translation, % of the distance",
        "add": "ADD(-S), % of d", "mspd": "MSPD, px of the crop",
    }  # fmt: skip
    print("\n| weight | " + " | ".join(names.values()) + " | s per step |")
    print("|---" * (len(names) + 2) + "|")
    for weight in options.weights:
        cells = []
        for key in names:
            values = [row[key] for row in scores[weight]]
            cells.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}")
        print(f"| {weight:g} | " + " | ".join(cells) + f" | {statistics.mean(seconds[weight]):.3f} |")


if __name__ == "__main__":
    main()
