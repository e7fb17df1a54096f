"""Three ways from an image to a box in 3D, in the same network: a distribution of poses, reprojection alone, direct regression.

    python -m benchmarks.box3d --out runs/box3d_table [--start 600] [--steps 400] [--seeds 3] [--layers distribution ...]
    python -m benchmarks.box3d --out runs/box3d_table --table
    python -m benchmarks.box3d --out runs/box3d_table --spread docs/images/box3d_spread.png
    python -m benchmarks.box3d --out runs/box3d_table --examples docs/images/box3d.png --which 2 3
    python -m benchmarks.box3d --out runs/box3d_table --scores
    python -m benchmarks.box3d --out runs/box3d_table --bias
    python -m benchmarks.box3d --out runs/box3d_table --speed
    python -m benchmarks.box3d --out out/kitti_mini --against DATA/kitti_mini

The first renders roads (`--pictures` to learn from, `--held` of other shapes to be judged by), trains one small network
`--start` steps to find objects, without a word about poses, and from it, for every seed, one with each layer, all else equal:
the same pictures in the same order, as many steps, the same learning rate, the encoder as the start left it. With `--start 0`
every network starts from ImageNet and learns all. Seed 0 of all layers comes first. A run that was killed goes on; every
finished one is a line of OUT/results.jsonl.

Two tables come of it. One holds nuScenes' scores. The other leaves finding out: every network is told where the objects are and
of which class, as in training, and says where they stand; how sure it should be is compared with how sure it is.

distribution: the Monte Carlo loss of the pose distribution (EPro-PnP), with its derivative regularisation.
reprojection: every point answers for its own projection under the true pose; PnP without a distribution finds the pose.
direct: pixel of the centre, depth and observation angle are regressed, without points.

`--spread` asks whether distributions are wider where less is seen: it takes the first finished "distribution" run, gives every
true box of the held-back pictures the best estimate of its class within 4 m, and sorts by visibility and distance.

`--scores` asks what the score of a box should be, and where it should stand: the same boxes of all finished runs, ranked by the
score of their class alone, times the quality that the network predicts, times that which the samples of the pose let expect.

`--bias` asks whether objects whose places are told are seen too near or too far, by the first finished run of every layer.

`--against` compares what `monopose predict` wrote for a KITTI folder with its cars, one by one: AP says little of ten pictures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from monopose import pnp, weights
from monopose.datasets import kitti, nuscenes
from monopose.datasets.road import CLASSES, RoadObjects
from monopose.evaluation import nuscenes as scoring
from monopose.geometry import boxes3d
from monopose.io.files import atomic_write, write_json
from monopose.io.records import read_json
from monopose.pnp import kernels
from monopose.road import commands, inference, network, pipeline, training
from monopose.road import config as road_config
from monopose.road import samples as road_samples
from monopose.road.inference import DetectedBoxes
from monopose.road.pipeline import Options
from monopose.synthesis import road_scene
from monopose.synthesis.road_scene import RoadConfig
from monopose.training.loop import TrainConfig
from monopose.viz import figure, object_color

LAYERS = ("distribution", "reprojection", "direct")
OPTIONS = Options(samples=32, max_detections=60, central=False)
NEAR = 4.0  # metres: an estimate this near to a true box, seen from above, is about it


@dataclass(frozen=True)
class Settings:
    """What all runs of a table share; a table that goes on must have the same."""

    pictures: int = 1600  # to learn from
    held: int = 200  # to be judged by
    size: tuple[int, int] = (128, 352)  # height and width, pixels
    steps: int = 400
    batch: int = 4
    start: int = 600  # steps of the network that all others start from; 0: they start from ImageNet
    spread: float = 3.0  # how far the outermost points start from an object's middle, strides
    stretch: bool = False  # one factor on the coordinates of all points of an object
    projection: float = 0.5  # weight of the auxiliary loss that teaches the points of both layers that have them


@dataclass(frozen=True)
class Run:
    """One training."""

    layer: str
    seed: int

    def folder(self, out: Path, settings: Settings) -> Path:
        """Where it is kept."""
        after = f"_after_{settings.start}" if settings.start else ""
        wide = "" if settings.spread == 3 else f"_spread_{settings.spread:g}"
        taught = "" if settings.projection == 0.5 or self.layer == "direct" else f"_projection_{settings.projection:g}"
        return out / f"{self.layer}_{self.seed}_{settings.steps}{after}{wide}{'_stretch' * settings.stretch}{taught}"


def render(out: Path, settings: Settings, workers: int) -> tuple[Path, Path]:
    """The pictures to learn from and those to be judged by, whose shapes are others; what is there is not drawn again."""
    config = RoadConfig(size=settings.size)
    other = replace(config, first_shape=config.shapes)
    held = road_scene.write_road(out / "held", images=settings.held, config=other, seed=1, workers=workers)
    return road_scene.write_road(out / "train", images=settings.pictures, config=config, seed=0, workers=workers), held


def start(out: Path, settings: Settings) -> Path:
    """The network that knows how to find objects but not how to place them -> its weights file."""
    folder = out / f"start_{settings.start}"
    file = folder / "box3d.safetensors"
    if not file.is_file() or int(weights.read(file).notes["steps"]) < settings.start:
        config = configured(out, settings, layer="direct", poses=False, spread=3.0, stretch=False)
        training.train(
            out / "train", folder, method_config=config, progress_bar=False,
            config=TrainConfig(steps=settings.start, batch_size=settings.batch, seed=100, workers=0),
        )  # fmt: skip
    return file


def configured(out: Path, settings: Settings, **changes: Any) -> road_config.Config:
    """The small network."""
    height, width = settings.size
    return training.make_config(out / "train", "small", changes={**changes, "height": height, "width": width})


MEMORY: dict[bytes, tuple[torch.Tensor, ...]] = {}  # what the start's encoder said about pictures


def with_frozen_encoder(model: network.Model, memory: dict[bytes, tuple[torch.Tensor, ...]]) -> network.Model:
    """The model, whose encoder learns no more and looks at every picture once.

    Args:
        model: is changed.
        memory: filled with maps of the strides that the pyramid takes, in half precision, by the picture's content.
    """
    encoder, look, used = model.encoder, model.encoder.forward, model.pyramid.used
    encoder.requires_grad_(False)

    @torch.no_grad()
    def recall(images: torch.Tensor) -> list[torch.Tensor]:
        keys = [hashlib.blake2b(image.contiguous().cpu().numpy().tobytes()).digest() for image in images]
        new = [i for i, key in enumerate(keys) if key not in memory]
        if new:
            training = encoder.training
            encoder.eval()
            seen = look(images[new])
            encoder.train(training)
            memory.update({keys[i]: tuple(seen[level][k].half().cpu() for level in used) for k, i in enumerate(new)})
        maps = [images.new_zeros(0)] * 5
        for k, level in enumerate(used):
            maps[level] = torch.stack([memory[key][k] for key in keys]).to(images)
        return maps

    encoder.forward = recall  # type: ignore[method-assign]
    return model


def train(out: Path, settings: Settings, run: Run) -> tuple[Path, float]:
    """Train one network -> its run folder, processor seconds of this call."""
    init = start(out, settings) if settings.start else None
    own = {"spread": settings.spread, "stretch": settings.stretch, "projection_weight": settings.projection}
    config = configured(out, settings, layer=run.layer, **own)
    began = time.process_time()
    training.train(
        out / "train", run.folder(out, settings), method_config=config, progress_bar=False, init=init,
        augmented=init is None, adapt=partial(with_frozen_encoder, memory=MEMORY) if init else None,
        config=TrainConfig(steps=settings.steps, batch_size=settings.batch, seed=run.seed, workers=0),
    )  # fmt: skip
    return run.folder(out, settings), time.process_time() - began


def judge(folder: Path, held: Path) -> dict[str, Any]:
    """nuScenes' scores of a run on the held-back pictures."""
    run = pipeline.load(folder, "cpu")
    frames, truth = nuscenes.read_infos(held / "infos.json"), nuscenes.infos_truth(held / "infos.json")
    estimates = pipeline.predict_frames(run, frames, OPTIONS)
    return scoring.evaluate(nuscenes.to_global(frames, estimates, truth.boxes.tokens), truth)


def measured(out: Path, settings: Settings, run: Run) -> dict[str, Any]:
    """One line of the results."""
    torch.set_num_threads(1)
    folder, seconds = train(out, settings, run)
    line = {**asdict(run), "settings": asdict(settings), "scores": judge(folder, out / "held"), "cpu_seconds": seconds}
    return line | {"placed": placing(placed(folder, out / "held"))}


def read_lines(out: Path) -> list[dict[str, Any]]:
    """OUT/results.jsonl."""
    file = out / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    for line in lines:
        line["settings"] = {"start": 0, "spread": 3.0, "stretch": False, "projection": 0.5, **line["settings"]}  # older lines
    return lines


def finished(out: Path, settings: Settings) -> list[dict[str, Any]]:
    """The lines of OUT/results.jsonl with these settings."""
    same = json.loads(json.dumps(asdict(settings)))
    return [line for line in read_lines(out) if line["settings"] == same]


def complete(out: Path, settings: Settings) -> None:
    """Say of older runs, whose lines do not, how well they place objects, where their weights are still there."""
    lines, new = read_lines(out), False
    for line in lines:
        folder = Run(line["layer"], line["seed"]).folder(out, settings)
        mine = line["settings"] == json.loads(json.dumps(asdict(settings))) and "placed" not in line
        if mine and (folder / "box3d.safetensors").is_file():
            line["placed"], new = placing(placed(folder, out / "held")), True
    if new:
        with atomic_write(out / "results.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def run_all(out: Path, settings: Settings, runs: Sequence[Run]) -> None:
    """Train and judge what is not done yet."""
    done = {(line["layer"], line["seed"]) for line in finished(out, settings)}
    for run in runs:
        if (run.layer, run.seed) not in done:
            line = measured(out, settings, run)
            with open(out / "results.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(row(f"{run.layer}, seed {run.seed}", [line["scores"]]), flush=True)


# ------------------------------------------------------------------------------------------------------ placing, not finding


@dataclass(frozen=True)
class Placed:
    """A true box, and where a network that is told about it says that it stands."""

    label: int
    distance: float  # metres, seen from above
    error: float  # of the centre, seen from above, metres; inf: no pose
    yaw_error: float | None  # radians; None: such objects have no front
    surprise: float | None  # minus the log-density of the true pose, of m^3 rad; None: no distribution
    level: float | None  # share of the distribution that is likelier than the true pose
    height: float = 0.0  # of what the picture shows of it, pixels of the network's input
    farther: float = 0.0  # log of estimated over true distance
    middle: float | None = None  # the same of the median distance of the samples
    spread: float | None = None  # deviation of the log of the samples' distances


@torch.no_grad()
def placed(folder: Path, held: Path, samples: int = 256) -> list[Placed]:
    """Every true box of the held-back pictures that training would look at, placed by a run that is told where it is."""
    run = pipeline.load(folder, "cpu")
    rows = []
    for frame in nuscenes.read_infos(held / "infos.json"):
        sample = road_samples.sample_of(frame, run.classes, run.config.size)
        boxes, true = inference.predict_at_truth(run.model, sample, 8)
        n = len(true.labels)
        if n == 0:
            continue
        surprise: list[float | None] = [None] * n
        level: list[float | None] = [None] * n
        middle: list[float | None] = [None] * n
        spread: list[float | None] = [None] * n
        if run.config.layer != "direct":
            bounds = network.bounds_of(run.config.size, sample["K"])
            posterior = pnp.sample_posterior(
                boxes.points3d, boxes.points2d, sample["K"], boxes.weights, init=boxes.cam_from_obj, dof=4, samples=samples,
                robust=pnp.AdaptiveHuber(run.config.huber), z_min=road_config.Z_MIN, bounds=bounds,
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            minus = pnp.monte_carlo_loss(posterior, true.pose)
            problems = posterior.prepared.problems
            costs = kernels.pose_costs(problems, posterior.samples.to(problems.K))
            likelier = costs < (minus - posterior.log_evidence).to(costs)[:, None]
            p = posterior.probabilities()
            surprise, level = minus.tolist(), (p * likelier).sum(-1).tolist()
            log = posterior.samples[..., (0, 2), 3].norm(dim=-1).log()
            spread = (p * (log - (p * log).sum(-1, keepdim=True)).square()).sum(-1).sqrt().tolist()
            order = log.argsort(-1)
            half = (p.gather(-1, order).cumsum(-1) < 0.5).sum(-1, keepdim=True).clamp_max(samples - 1)
            middle = log.gather(-1, order.gather(-1, half))[:, 0].tolist()
        off = (boxes.cam_from_obj[:, (0, 2), 3] - true.pose[:, (0, 2), 3]).norm(dim=-1)
        turn = boxes3d.yaw_of(boxes.cam_from_obj) - boxes3d.yaw_of(true.pose)
        for k in range(n):
            name, good = run.classes[int(true.labels[k])], bool(boxes.converged[k])
            period = {"traffic_cone": None, "barrier": np.pi}.get(name, 2 * np.pi)
            yaw = None if period is None else abs((float(turn[k]) + period / 2) % period - period / 2)
            away = float(true.pose[k, (0, 2), 3].norm())
            error = float(off[k]) if good else float("inf")
            half_way, tall = middle[k], float(true.boxes[k, 3] - true.boxes[k, 1])
            said = float(boxes.cam_from_obj[k, (0, 2), 3].norm())
            rows.append(
                Placed(
                    int(true.labels[k]), away, error, yaw, surprise[k], level[k], tall, math.log(said / away),
                    None if half_way is None else half_way - math.log(away), spread[k],
                )
            )  # fmt: skip
    return rows


def placing(rows: Sequence[Placed]) -> dict[str, Any]:
    """A summary: medians of errors, shares of boxes within some metres, of truths in the middle of their distributions."""

    def of(own: Sequence[Placed]) -> dict[str, Any]:
        turned = [r.yaw_error for r in own if r.yaw_error is not None]
        known = [r.surprise for r in own if r.surprise is not None]
        levels = [r.level for r in own if r.level is not None]
        return {
            "count": len(own),
            "error": statistics.median(r.error for r in own),
            "relative": statistics.median(r.error / r.distance for r in own),
            "within": {str(d): statistics.fmean(r.error < d for r in own) for d in scoring.DISTANCES},
            "yaw": statistics.median(turned) if turned else None,
            "surprise": statistics.fmean(known) if known else None,
            "inside": {str(q): statistics.fmean(v <= q for v in levels) for q in (0.5, 0.9)} if levels else None,
        }

    labels = sorted({r.label for r in rows})
    return {**of(rows), "classes": {CLASSES[k]: of([r for r in rows if r.label == k]) for k in labels}}


def _cell(values: Sequence[float | None], digits: int, factor: float = 1.0) -> str:
    """Mean over runs, with the smallest and the largest in brackets where there are several."""
    known = [factor * v for v in values if v is not None]
    if not known:
        return "–"
    mean = f"{statistics.fmean(known):.{digits}f}"
    return mean if len(known) < 2 else f"{mean} ({min(known):.{digits}f}–{max(known):.{digits}f})"


def placing_row(name: str, runs: Sequence[dict[str, Any]]) -> str:
    """A row of the second table."""
    cells = [_cell([r["relative"] for r in runs], 1, 100), _cell([r["error"] for r in runs], 2)]
    cells += [_cell([r["within"][d] for r in runs], 1, 100) for d in ("0.5", "1.0", "2.0")]
    cells += [
        _cell([r["classes"].get(c, {"yaw": None})["yaw"] for r in runs], 0, 180 / np.pi) for c in ("car", "bus", "pedestrian")
    ]
    cells += [_cell([r["surprise"] for r in runs], 2)]
    cells += [_cell([r["inside"] and r["inside"][q] for r in runs], 0, 100) for q in ("0.5", "0.9")]
    return f"| {name} | " + " | ".join(cells) + " |"


def placing_table(lines: Iterable[dict[str, Any]]) -> str:
    """Markdown: a row per layer."""
    lines = [line for line in lines if "placed" in line]
    head = ["layer", "error / distance %", "error m", "within 0.5 m %", "1 m %", "2 m %", "yaw car, deg", "bus", "pedestrian"]
    head += ["−log density", "in the 50 % region", "in the 90 % region"]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for layer in LAYERS:
        own = [line["placed"] for line in lines if line["layer"] == layer]
        if own:
            rows.append(placing_row(f"{layer}, {len(own)} seed{'s' * (len(own) > 1)}", own))
    if lines:
        rows.append(f"\n{lines[0]['placed']['count']} true boxes; medians")
    return "\n".join(rows)


HEIGHTS = ((0.0, 16.0), (16.0, 32.0), (32.0, 64.0), (64.0, math.inf))  # pixels


def bias_table(runs: Mapping[str, Sequence[Placed]]) -> str:
    """Markdown: are estimates too near or too far, by how large an object is in the picture; medians, in percent.

    The pose is where the likelihood is greatest. The distribution is one of places in space, of which there are the more the
    farther away: where the log of the distance has a deviation s, its middle lies 3 s^2 beyond.
    """
    lines = [
        "| run | height of box, px | boxes | too far, % | median of the samples, % | spread s, % | 3 s², % |",
        "|---" * 7 + "|",
    ]
    for name, rows in runs.items():
        for low, high in (*HEIGHTS, (0.0, math.inf)):
            own = [r for r in rows if low <= r.height < high and math.isfinite(r.error)]
            if own:
                middle = [r.middle for r in own if r.middle is not None]
                spread = [r.spread for r in own if r.spread is not None]
                s = statistics.median(spread) if spread else None
                cells = [_cell([v], 1, 100) for v in (
                    statistics.median(r.farther for r in own), statistics.median(middle) if middle else None, s,
                    None if s is None else 3 * s * s,
                )]  # fmt: skip
                size = f"{low:g}–{high:g}" if high < math.inf else f"{low:g} and more" if low else "all"
                lines.append(f"| {name} | {size} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------- table


def row(name: str, scores: Sequence[dict[str, Any]]) -> str:
    """A row of the table: means over runs, with the smallest and the largest in brackets where there are several."""

    cells = [_cell([s["nds"] for s in scores], 1, 100), _cell([s["map"] for s in scores], 1, 100)]
    cells += [_cell([s["errors"][e] for s in scores], 2) for e in scoring.ERRORS]
    cells += [_cell([s["classes"][c]["ap"] for s in scores], 1, 100) for c in ("car", "pedestrian", "traffic_cone")]
    return f"| {name} | " + " | ".join(cells) + " |"


def table(lines: Iterable[dict[str, Any]]) -> str:
    """Markdown: a row per layer."""
    lines = list(lines)
    head = ["layer", "NDS %", "mAP %", "ATE m", "ASE", "AOE rad", "AVE m/s", "AAE", "AP car", "AP pedestrian", "AP cone"]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for layer in LAYERS:
        own = [line for line in lines if line["layer"] == layer]
        if own:
            rows.append(row(f"{layer}, {len(own)} seed{'s' * (len(own) > 1)}", [line["scores"] for line in own]))
    seconds = [line["cpu_seconds"] for line in lines]
    if seconds:
        rows.append(f"\nprocessor seconds of a training: {min(seconds):.0f} to {max(seconds):.0f}")
    return "\n".join(rows)


# --------------------------------------------------------------------------------------------------------------- spread


@dataclass(frozen=True)
class Pair:
    """A true box, and the best estimate of it."""

    label: int
    visibility: float
    distance: float  # metres
    spread: tuple[float, float, float]  # across and along the line of sight, metres; yaw, radians
    error: float  # of the centre, seen from above, metres
    yaw_error: float  # radians


def pairs(folder: Path, held: Path, samples: int = 128) -> list[Pair]:
    """True boxes of the held-back pictures with the best-scored estimates near them."""
    run = pipeline.load(folder, "cpu")
    content = read_json(held / "infos.json")["data_list"]
    found = []
    for frame, info in zip(nuscenes.read_infos(held / "infos.json"), content, strict=True):
        boxes, true = run.predict(frame.read(), Options(samples=samples)), frame.objects
        assert true is not None
        spread, free = inference.pose_std(boxes), torch.ones(len(boxes.labels), dtype=torch.bool)
        seen = [r["visibility"] for r in info["cam_instances"]["CAM_FRONT"]]
        for k in range(len(true)):
            off = (boxes.cam_from_obj[:, (0, 2), 3] - true.cam_from_obj[k, (0, 2), 3].float()).norm(dim=-1)
            near = (free & (off < NEAR) & (boxes.labels == true.labels[k])).nonzero()[:, 0]
            if len(near):
                i = int(near[0])  # best first
                free[i] = False
                turn = boxes3d.yaw_of(boxes.cam_from_obj[i]) - boxes3d.yaw_of(true.cam_from_obj[k].float())
                away = float(true.cam_from_obj[k, (0, 2), 3].norm())
                wide = spread[i].tolist()
                found.append(
                    Pair(
                        int(true.labels[k]), seen[k], away, (wide[0], wide[1], wide[2]), float(off[i]),
                        abs(float(boxes3d.wrapped(turn))),
                    )
                )  # fmt: skip
    return found


VISIBILITY = ((0.0, 0.4), (0.4, 0.7), (0.7, 0.95), (0.95, 1.01))
DISTANCE = ((4, 10), (10, 15), (15, 20), (20, 30), (30, 40), (40, 60))


def spread_table(found: Sequence[Pair]) -> str:
    """Markdown: medians by visibility and distance. The spread along the line of sight is also given as a share of the
    distance, which takes the distance out of the first half."""
    head = (
        "| | boxes | along, m | along / distance | across, m | yaw, deg | error of centre, m |\n|---|---|---|---|---|---|---|"
    )
    lines = [head]
    groups = [
        (f"visible {100 * a:.0f}–{100 * min(b, 1):.0f} %", [p for p in found if a <= p.visibility < b]) for a, b in VISIBILITY
    ]
    groups += [(f"{a}–{b} m", [p for p in found if a <= p.distance < b]) for a, b in DISTANCE]
    for name, own in groups:
        if not own:
            continue

        def mid(values: Iterable[float]) -> float:
            return statistics.median(values)

        lines.append(
            f"| {name} | {len(own)} | {mid(p.spread[1] for p in own):.2f} | "
            f"{100 * mid(p.spread[1] / p.distance for p in own):.1f} % | {mid(p.spread[0] for p in own):.2f} | "
            f"{np.degrees(mid(p.spread[2] for p in own)):.0f} | {mid(p.error for p in own):.2f} |"
        )
    return "\n".join(lines)


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    ranks = [np.argsort(np.argsort(np.asarray(v))).astype(float) for v in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def spread_picture(found: Sequence[Pair], path: Path) -> None:
    """Two panels: the spread along the line of sight against distance, and as a share of it against visibility."""
    with figure.style():
        fig = figure.new(1000, 430)
        near, seen = fig.add_axes((0.07, 0.25, 0.4, 0.66)), fig.add_axes((0.57, 0.25, 0.4, 0.66))
        along = {
            near: [(p.distance, p.spread[1], p.label) for p in found],
            seen: [(p.visibility, 100 * p.spread[1] / p.distance, p.label) for p in found],
        }
        near.set(xlim=(0, 60), ylim=(0, 10), xlabel="distance [m]", ylabel="spread along the line of sight [m]")
        seen.set(xlim=(0, 1), ylim=(0, 40), xlabel="visible share", ylabel="the same [% of the distance]")
        for (ax, rows), groups in zip(along.items(), (DISTANCE, VISIBILITY)):
            top = ax.get_ylim()[1]
            for label in sorted({p.label for p in found}):
                own = np.array([(x, min(y, top)) for x, y, of in rows if of == label])
                color = [tuple(c / 255 for c in object_color(label))]
                ax.scatter(*own.T, 14, color, edgecolors=figure.INK, linewidths=0.2, alpha=0.7, label=CLASSES[label])
            inside = [[(x, y) for x, y, _ in rows if low <= x < high] for low, high in groups]
            middles = [np.median(values, 0) for values in inside if len(values) >= 5]
            if len(middles) > 1:
                ax.plot(*np.stack(middles).T, color=figure.BLUE, linewidth=2.8, label="median")
        fig.legend(*near.get_legend_handles_labels(), loc="lower center", ncols=6)
        fig.suptitle(f"{len(found)} boxes; what lies beyond an axis is drawn on its edge", fontsize=11)
        picture = figure.to_image(fig)
    with atomic_write(path) as temporary:
        picture.save(temporary)


def examples(folder: Path, held: Path, path: Path, which: Sequence[int], least: float = 0.25) -> None:
    """Held-back pictures as a run sees them: boxes in the photo (truth in white), points, centres; from above with samples."""
    run = pipeline.load(folder, "cpu")
    frames = nuscenes.read_infos(held / "infos.json")
    sheet = Image.new("RGB", (704 + 560, 770 * len(which)), "white")
    for k, i in enumerate(which):
        photo = frames[i].read()
        found = run.predict(photo, Options(samples=128))
        found = found.rows(found.scores >= least)
        views = {v: commands.draw(run, v, photo, found, frames[i].objects) for v in ("3d", "points", "score", "bev")}
        for n, view in enumerate(("3d", "points", "score")):
            sheet.paste(views[view].resize((704, 256)), (0, 770 * k + 256 * n))
        sheet.paste(views["bev"].resize((560, 770)), (704, 770 * k))
    with atomic_write(path) as temporary:
        sheet.save(temporary)


# --------------------------------------------------------------------------------------------------------------- scores


def rescored(found: DetectedBoxes) -> dict[str, DetectedBoxes]:
    """The same boxes with other scores, best first.

    Those from samples are of how far these lie from the box, seen from above: the published quality, and the mean of the shares
    within nuScenes' 0.5, 1, 2 and 4 m, which are the chances that the box counts.
    """
    scores = {
        "class": found.class_scores,
        "class x predicted quality": found.scores,
        "class x root of it": (found.class_scores * found.scores).sqrt(),
    }
    if found.samples.shape[1] > 1:
        p = found.log_weights.softmax(-1)
        off = (found.samples[..., (0, 2), 3] - found.cam_from_obj[:, None, (0, 2), 3]).norm(dim=-1)
        near = (off[..., None] < torch.tensor(scoring.DISTANCES)).float().mean(-1)
        scores["class x expected quality"] = found.class_scores * (p * road_config.score_target(off)).sum(-1)
        scores["class x chance to count"] = found.class_scores * (p * near).sum(-1)
    return {name: found._replace(scores=s).rows(s.argsort(descending=True, stable=True)) for name, s in scores.items()}


def scores_table(runs: Mapping[str, Sequence[Path]], held: Path) -> str:
    """Markdown: nuScenes' scores of the runs of every layer with different scores of their boxes, and with these in two places:
    where the likelihood is greatest, and where `box3d.centred` puts them."""
    frames, truth = nuscenes.read_infos(held / "infos.json"), nuscenes.infos_truth(held / "infos.json")
    head = ["layer", "place", "score of a box", "NDS %", "mAP %", "ATE m", "AP car", "AP pedestrian", "AP cone"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for layer, folders in runs.items():
        results: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for folder in folders:
            run = pipeline.load(folder, "cpu")
            objects: dict[tuple[str, str], list[RoadObjects]] = {}
            for frame in frames:
                photo = frame.read()
                found = run.predict(photo, OPTIONS)
                places = {"mode": found}
                if run.config.layer != "direct":
                    places["middle"] = inference.at_median_distance(found, photo.camera.K.float(), photo.camera.size)
                for place, there in places.items():
                    for name, boxes in rescored(there).items():
                        own = pipeline.objects_of(boxes, run.classes, frame.classes)
                        objects.setdefault((place, name), []).append(own)
            for key, every in objects.items():
                said = scoring.evaluate(nuscenes.to_global(frames, every, truth.boxes.tokens), truth)
                results.setdefault(key, []).append(said)
        for (place, name), said in results.items():
            cells = [_cell([s["nds"] for s in said], 1, 100), _cell([s["map"] for s in said], 1, 100)]
            cells += [_cell([s["errors"]["translation"] for s in said], 2)]
            cells += [_cell([s["classes"][c]["ap"] for s in said], 1, 100) for c in ("car", "pedestrian", "traffic_cone")]
            lines.append(f"| {layer} | {place} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------- single cars


def against(results: Path, folder: Path, kind: str = "Car", least: float = 0.3) -> str:
    """How near the estimates of a KITTI folder are to its true boxes, in words.

    Args:
        results: with NAME.txt for every picture.
        folder: the KITTI folder.
        kind: class.
        least: least score of an estimate.
    """
    overlap, off, turn, there = [], [], [], 0
    for frame in kitti.read(folder):
        calibration = kitti.read_calibration(folder / "calib" / f"{frame.name}.txt")
        found, _ = kitti.objects_from(kitti.read_labels(results / f"{frame.name}.txt"), calibration)
        label, true = kitti.CLASSES.index(kind), frame.objects
        assert true is not None
        if found.scores is not None:
            found = found[(found.labels == label) & (found.scores >= least)]
        for k in (true.labels == label).nonzero()[:, 0].tolist():
            there += 1
            away = (found.cam_from_obj[:, :3, 3] - true.cam_from_obj[k, :3, 3]).norm(dim=-1)
            if len(away) and float(away.min()) < NEAR:
                i = int(away.argmin())
                pose, lhw = found.cam_from_obj[i], found.sizes[i]
                overlap.append(float(boxes3d.iou(pose, lhw, true.cam_from_obj[k], true.sizes[k])))
                off.append(float(away[i]))
                turned = boxes3d.yaw_of(pose) - boxes3d.yaw_of(true.cam_from_obj[k])
                turn.append(abs(float(boxes3d.wrapped(turned))))
    if not there or not off:
        return f"{there} true boxes of class {kind}, {len(off)} found"
    over = ", ".join(f"{sum(v > t for v in overlap)} over {t}" for t in (0.3, 0.5, 0.7))
    return (
        f"{there} true boxes of class {kind}, {len(off)} found within {NEAR:g} m; 3D IoU: {over}; median error of the centre "
        f"{statistics.median(off):.2f} m, of the yaw {np.degrees(statistics.median(turn)):.1f} degrees"
    )


# ---------------------------------------------------------------------------------------------------------------- speed


def speed(folder: Path, held: Path, threads: Sequence[int], count: int = 20) -> str:
    """Markdown: median seconds per picture, by stage."""
    run = pipeline.load(folder)
    frames = [f.read() for f in nuscenes.read_infos(held / "infos.json")[:count]]
    device = run.model.norm.device
    lines = ["| threads | views | network | PnP and distribution | boxes |", "|---|---|---|---|---|"]
    for number in threads:
        torch.set_num_threads(number)
        for flip in (False, True):
            run.predict(frames[0], Options(flip=flip))
            seen = [run.predict(f, Options(flip=flip)) for f in frames]
            stages = (statistics.median(s.seconds[k] for s in seen) for k in ("network", "pnp"))
            cells = " | ".join(f"{1000 * v:.0f} ms" for v in stages)
            boxes = statistics.fmean(len(s.labels) for s in seen)
            lines.append(f"| {number} | {1 + flip} | {cells} | {boxes:.0f} |")
    return "\n".join([f"{device}, {run.config.width} x {run.config.height}", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=Settings.pictures)
    parser.add_argument("--held", type=int, default=Settings.held)
    parser.add_argument("--size", type=int, nargs=2, default=Settings.size)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--batch", type=int, default=Settings.batch)
    parser.add_argument("--start", type=int, default=Settings.start)
    parser.add_argument(
        "--strides", type=float, default=Settings.spread, help="from an object's middle to its outermost points"
    )
    parser.add_argument("--stretch", action=argparse.BooleanOptionalAction, default=Settings.stretch)
    parser.add_argument(
        "--projection", type=float, default=Settings.projection, help="weight of the auxiliary loss of points; 0: none"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--spread", type=Path, metavar="PNG")
    parser.add_argument("--examples", type=Path, metavar="PNG")
    parser.add_argument("--which", type=int, nargs="+", default=(2, 3), help="held-back pictures to draw")
    parser.add_argument("--scores", action="store_true")
    parser.add_argument("--bias", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--against", type=Path, metavar="KITTI")
    args = parser.parse_args()
    settings = Settings(
        args.pictures, args.held, tuple(args.size), args.steps, args.batch, args.start, args.strides, args.stretch,
        args.projection,
    )  # fmt: skip
    runs = [Run(layer, seed) for seed in range(args.seeds) for layer in args.layers]
    files = [run.folder(args.out, settings) / "box3d.safetensors" for run in runs]
    first = next((file.parent for file in files if file.is_file()), args.out)
    if args.spread is not None:
        found = pairs(first, args.out / "held")
        write_json(args.out / "spread.json", [asdict(p) for p in found])
        spread_picture(found, args.spread)
        print(spread_table(found))
        share = [p.spread[1] / p.distance for p in found]
        print(f"\nrank correlation of the spread along the line of sight: with distance "
              f"{correlation([p.spread[1] for p in found], [p.distance for p in found]):.2f}, of its share with visibility "
              f"{correlation(share, [p.visibility for p in found]):.2f}, with the error "
              f"{correlation([p.spread[1] for p in found], [p.error for p in found]):.2f}")  # fmt: skip
    elif args.examples is not None:
        examples(first, args.out / "held", args.examples, args.which)
    elif args.against is not None:
        print(against(args.out / "kitti", args.against))
    elif args.scores or args.bias:
        there = {k: [f.parent for f in files if f.is_file() and f.parent.name.startswith(k)] for k in args.layers}
        if args.scores:
            print(scores_table(there, args.out / "held"))
        else:
            print(bias_table({k: placed(v[0], args.out / "held") for k, v in there.items() if v}))
    elif args.speed:
        print(speed(first, args.out / "held", (1, 2)))
    else:
        if not args.table:
            render(args.out, settings, workers=1)
            run_all(args.out, settings, runs)
        complete(args.out, settings)
        print(table(finished(args.out, settings)), placing_table(finished(args.out, settings)), sep="\n\n")


if __name__ == "__main__":
    main()
