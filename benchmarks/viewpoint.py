"""The viewpoint table: three networks, four inputs, three seeds, on pictures rendered here in Pix3D's layout.

    python -m benchmarks.viewpoint --out runs/viewpoint_table [--backgrounds BACKGROUNDS] [--jobs 2]
        [--minutes 55] [--seeds 3] [--side 64] [--epochs 10] [--shapes 10] [--images 25] [--data DIR]

One command for everything: it renders the data set (6 categories, `--shapes` each, `--images` pictures of each), tries learning
rates and schedules for the two published networks on one seed, trains combined, separate and modern network on RGB, + mask,
+ boundaries, + normals for every seed, on shapes held back, then once on pictures held back, and prints Markdown. What is left
of `--minutes` goes to ablations: normals and boundaries predicted instead of an oracle's, augmentation on and off, our targets
with the published network. A run that was killed goes on: every finished training is a line of OUT/results.jsonl. `--table`
prints the table of what is there. With `--data` the pictures of that folder are used, of Pix3D itself for instance.

What is measured: crops of `--side` pixels, where the original had 224, and networks with half the published channels, because
of the time they take on a CPU. The published networks learn from crops as they are, as published, and from the learning rate
and schedule that suited the held-back pictures best, which favours them; the modern one has its defaults, which augment.
Normals are an oracle's unless the table says that they are predicted: rendered from the very CAD model and pose. Boundaries
come from photo and mask.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monopose import weights
from monopose.datasets import pix3d
from monopose.evaluation import viewpoint as scoring
from monopose.geometry import viewpoints
from monopose.geometry.viewpoints import Bins
from monopose.io.files import write_json
from monopose.mesh.loading import surface_samples
from monopose.synthesis import pix3d_folder
from monopose.synthesis.samples import one_thread
from monopose.synthesis.shapes import furniture
from monopose.types import ObjectModel, Symmetries
from monopose.viewpoint import model as viewpoint
from monopose.viewpoint import normals as normals_method
from monopose.viewpoint.samples import PhotoCrops

NETS = ("combined", "separate", "modern")
LEVELS = tuple(viewpoint.GROUPS)
WIDTHS: dict[str, tuple[int, ...]] = {"combined": (32, 128, 128, 8), "separate": (16, 32, 8)}  # half of the published ones
BATCH = 10  # samples per optimiser step in the published training
PROBES = ((1e-5, "stepped"), (1e-4, "stepped"), (1e-3, "stepped"), (1e-4, "cosine"), (1e-3, "cosine"))
"""Learning rates and schedules tried for the published networks: those of the original, and what may suit them better."""
CORRUPTIONS: tuple[tuple[Any, float], ...] = (
    ("dilate", 0.05), ("dilate", 0.1), ("dilate", 0.2), ("erode", 0.03), ("erode", 0.06), ("shift", 0.05), ("shift", 0.1),
    ("shift", 0.2), ("holes", 0.1), ("holes", 0.3), ("drop", 0.15), ("drop", 0.3),
)  # fmt: skip
FOLDS = 2  # halves of the training shapes: normals of one half come from a network that has seen the other
NORMALS_EPOCHS = 8


@dataclass(frozen=True)
class Settings:
    """What every training of a table shares; a table that goes on must have the same."""

    data: str  # where the pictures are: "rendered", or the name of a folder
    categories: tuple[str, ...]
    shapes: int  # of each category, if rendered
    images: int  # of each shape, if rendered
    size: tuple[int, int] = (240, 320)  # height and width of a rendered picture, pixels
    side: int = 64  # of the crops, pixels
    epochs: int = 10
    share: float = 0.2  # of shapes or pictures that are held back


@dataclass(frozen=True)
class Run:
    """One training."""

    net: str
    inputs: str
    seed: int = 0
    by: str = "shape"  # what is held back
    augment: bool = False
    lr: float = 1e-3  # peak
    schedule: str = "cosine"  # or "stepped", as published
    targets: str = "own"  # or "modern": centred bins, smoothed, with offsets and half bins
    normals: str = "oracle"  # or "predicted"

    @property
    def key(self) -> str:
        return " ".join(f"{k}={v}" for k, v in asdict(self).items())


def config_of(run: Run, settings: Settings) -> viewpoint.Config:
    """The method's configuration of a run."""
    make = {"combined": viewpoint.combined, "separate": viewpoint.separate, "modern": viewpoint.modern}[run.net]
    config = make(settings.categories, run.inputs, settings.side)  # type: ignore[arg-type]
    if run.net == "modern":
        return config
    config = replace(config, widths=WIDTHS[run.net])
    if run.schedule == "cosine":
        config = replace(config, step_epochs=0)
    if run.targets == "modern":
        ours = viewpoint.modern()
        config = replace(config, bins=ours.bins, concentration=ours.concentration, offsets=ours.offsets, halves=ours.halves)
    return config


# --------------------------------------------------------------------------------------------------------------------- data


def rendered(folder: Path, settings: Settings, backgrounds: Path | None, workers: int) -> Path:
    """The pictures of a table; those that are there are not drawn again."""
    models = {c: [furniture.shape(c, k) for k in range(settings.shapes)] for c in settings.categories}
    return pix3d_folder.write_pix3d(
        folder, models, images=settings.images, size=settings.size, backgrounds=backgrounds, workers=workers
    )


@dataclass(frozen=True)
class Data:
    """The pictures of a table, and where things are kept; small, because it goes to other processes."""

    out: Path
    settings: Settings
    folder: Path

    @property
    def records(self) -> list[pix3d.Record]:
        return _records(self.folder, self.settings.categories)

    def parts(self, by: str) -> tuple[list[pix3d.Record], list[pix3d.Record]]:
        """Training and held-back pictures, the same for all seeds."""
        train, held = pix3d.split(self.records, by, 0, self.settings.share)  # type: ignore[arg-type]
        if not train or not held:
            raise ValueError(
                f"of {len(self.records)} pictures, {len(held)} are held back by {by}; more --shapes or --images are needed"
            )
        return train, held

    def known(self) -> Mapping[str, Known]:
        """What Pix3D's layout has no place for, by product; nothing is known of real photos."""
        return _known(self.settings.categories, self.settings.shapes) if self.settings.data == "rendered" else {}

    def crops(self, records: Sequence[pix3d.Record], **how: Any) -> PhotoCrops:
        known = self.known()
        mirror = {r.shape for r in self.records if known[r.product].mirror} if known else None
        return PhotoCrops(
            records, self.settings.side, categories=self.settings.categories, cache=self.out / "cache", symmetric=mirror, **how
        )

    def symmetries(self, records: Sequence[pix3d.Record]) -> list[Symmetries | None]:
        known = self.known()
        return [known[r.product].symmetries if known else None for r in records]


class Known(NamedTuple):
    """What is known of a shape that was made here."""

    symmetries: Symmetries | None
    mirror: bool  # it is its own mirror image


@lru_cache(maxsize=2)
def _records(folder: Path, categories: tuple[str, ...]) -> list[pix3d.Record]:
    return pix3d.read(folder, categories)


def mirror_symmetric(model: ObjectModel) -> bool:
    """Whether a shape is its own mirror image in X, so that a flipped picture of it shows the same object.

    The mirrored vertices are looked up among the vertices and 20,000 points of the surface; 1 % of them may lie
    farther from it than 2 % of the diameter. Colours
    do not count.

    Args:
        model: any model; the mirror stands in the middle of its box.
    """
    from scipy.spatial import cKDTree

    samples = surface_samples(model, 20_000, torch.Generator().manual_seed(0)).points
    points = torch.cat([model.vertices, samples])
    middle = model.bounds[:, 0].mean()
    mirror = points * points.new_tensor([-1.0, 1.0, 1.0]) + torch.stack([2 * middle, middle * 0, middle * 0])
    gaps, _ = cKDTree(points.numpy()).query(mirror.numpy())
    return bool((gaps > 0.02 * model.diameter).mean() < 0.01)


@lru_cache(maxsize=2)
def _known(categories: tuple[str, ...], shapes: int) -> dict[str, Known]:
    models = {c: [furniture.shape(c, k) for k in range(shapes)] for c in categories}
    return {f"{c}/{m.name}": Known(m.symmetries, mirror_symmetric(m)) for c in categories for m in models[c]}


def batches(parts: Sequence[PhotoCrops], epoch: int, size: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """One pass over some data sets together, in random order; what does not fill a batch is left to the next pass's order."""
    places = [(d, epoch * len(d.records) + k) for d in parts for k in range(len(d.records))]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(1000 * seed + epoch)).tolist()
    for start in range(0, max(len(order) - size + 1, 1), size):
        samples = [places[i][0][places[i][1]] for i in order[start : start + size]]
        yield {k: torch.stack([s[k] for s in samples]) for k in samples[0]}


def steps_per_epoch(parts: Sequence[PhotoCrops], size: int) -> int:
    return max(sum(len(d.records) for d in parts) // size, 1)


# ----------------------------------------------------------------------------------------------------------------- training


def learn(
    model: torch.nn.Module, loss: Callable[[Any, Any, Any], dict[str, Tensor]], parts: Sequence[PhotoCrops], epochs: int,
    batch: int, seed: int, lr: float, rate: Callable[[float], float], decay: float,
) -> list[float]:  # fmt: skip
    """Train a network on crops; its backbone, if it has one, at half the learning rate, as `training.loop.fit` does.

    Returns:
        mean loss of every epoch.
    """
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups: dict[float, list[torch.nn.Parameter]] = {1.0: [], 0.5: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[0.5 if "backbone" in name else 1.0].append(parameter)
    named = [{"params": p, "scale": s} for s, p in groups.items() if p]
    optimizer = torch.optim.AdamW(named, lr=lr, weight_decay=decay)
    total, done, means = epochs * steps_per_epoch(parts, batch), 0, []
    for epoch in range(epochs):
        losses = []
        for sample in batches(parts, epoch, batch, seed):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(done / total) * group["scale"]
            sample["image"] = sample["image"].contiguous(memory_format=torch.channels_last)
            value = torch.stack(list(loss(model, model(sample["image"]), sample).values())).sum()
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            losses.append(float(value.detach()))
            done += 1
        means.append(statistics.fmean(losses))
    model.eval()
    return means


def images_of(crops: PhotoCrops) -> Tensor:
    """All crops, once. (N, 8, side, side)."""
    return torch.stack([crops[i]["image"] for i in range(len(crops))])


def judged(
    config: viewpoint.Config, found: viewpoint.Viewpoints, true: Tensor, symmetries: Sequence[Symmetries | None]
) -> dict[str, Any]:
    """Scores in the published and in the centred bins, whichever the network answers in."""
    return {
        name: scoring.scores(found.angles, true, bins, in_bins(config, found, bins), symmetries)
        for name, bins in scoring.BINS.items()
    }


def in_bins(config: viewpoint.Config, found: viewpoint.Viewpoints, bins: Sequence[Bins]) -> Tensor:
    """A network's answers in bins that may be others than its own, (N, 3).

    In its own bins: the most probable one. In others: that of its angle if it says where in a bin it lies (with half bins,
    that is the most probable published bin); if not, every bin's probability is spread evenly over what it covers, since the
    middle of one bin may be the edge of another.
    """
    own = scoring.BINS[config.bins]
    if tuple(own) == tuple(bins):
        return found.bins
    angle = scoring.bins_of(found.angles.double(), bins)
    if config.offsets:
        return angle
    columns = []
    for k in range(len(own)):
        share = found.probabilities[:, k].double() @ overlap(own[k], bins[k], k)
        share = share + 1e-9 * torch.nn.functional.one_hot(angle[:, k], bins[k].count)  # of equal ones, the middle's
        columns.append(share.argmax(-1))
    return torch.stack(columns, -1)


def overlap(bins: Bins, other: Bins, which: int, parts: int = 720) -> Tensor:
    """What share of every bin lies in every other one, of azimuths (0), elevations (1) or in-plane rotations (2).

    Returns:
        (count, count), float64, rows summing to 1.
    """
    inside = (torch.arange(parts, dtype=torch.float64) + 0.5) / parts - 0.5
    angles = torch.zeros(bins.count, parts, 3, dtype=torch.float64)
    angles[..., which] = bins.angle(torch.arange(bins.count)[:, None], inside)
    index = other.index(viewpoints.wrapped(angles)[..., which])
    return torch.nn.functional.one_hot(index, other.count).double().mean(1)


def trained(run: Run, data: Data) -> dict[str, Any]:
    """Train and judge: what goes into a line of the results."""
    began, processor = time.monotonic(), time.process_time()
    config = config_of(run, data.settings)
    train, held = data.parts(run.by)
    torch.manual_seed(run.seed)
    parts, judge = _learned_from(run, data, train, held)
    model = viewpoint.Model(config)
    decay = 1e-2 if run.net == "modern" else 0.0  # the published ones: Adam
    means = learn(
        model, viewpoint.loss, parts, data.settings.epochs, BATCH, run.seed, run.lr,
        lambda done: viewpoint.rate(config, done), decay,
    )  # fmt: skip
    true, symmetries = torch.stack([r.angles for r in held]), data.symmetries(held)
    result: dict[str, Any] = {"key": run.key, "run": asdict(run), "losses": means, "train": len(train), "held": len(held)}
    result["scores"] = judged(config, viewpoint.predict(model, images_of(judge)), true, symmetries)
    if run.inputs == "mask" and run.by == "shape" and run.targets == "own" and run.augment == (run.net == "modern"):
        result["corrupted"] = {
            f"{kind} {strength:g}": judged(
                config, viewpoint.predict(model, images_of(data.crops(held, corruption=(kind, strength)))), true, symmetries
            )
            for kind, strength in CORRUPTIONS
        }
    return result | {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - processor}


def _learned_from(
    run: Run, data: Data, train: Sequence[pix3d.Record], held: Sequence[pix3d.Record]
) -> tuple[list[PhotoCrops], PhotoCrops]:
    """Crops to learn from, and to be judged by."""
    endless = {"augment": run.augment, "seed": run.seed}
    if run.normals == "oracle":
        length = data.settings.epochs * len(train)
        return [data.crops(train, length=length, **endless)], data.crops(held)
    parts = []
    for k, part in enumerate(halves(train)):  # seen by the network that learned from the other half
        said = _predicted(data, (k + 1) % FOLDS)
        parts.append(data.crops(part, length=data.settings.epochs * len(part), **said, **endless))
    return parts, data.crops(held, **_predicted(data, 0))


def halves(records: Sequence[pix3d.Record]) -> list[list[pix3d.Record]]:
    """Records of half the products each, of every category."""
    products = sorted({r.product for r in records})  # by category; every other one
    if len(products) < FOLDS:
        raise ValueError(f"predicted normals need {FOLDS} shapes or more to learn from, got {len(products)}")
    place = {product: i % FOLDS for i, product in enumerate(products)}
    return [[r for r in records if place[r.product] == k] for k in range(FOLDS)]


# --------------------------------------------------------------------------------------------------------- predicted normals


def _normals_file(data: Data, fold: int) -> Path:
    return data.out / f"normals_{fold}.safetensors"


def learned_normals(fold: int, data: Data) -> dict[str, Any]:
    """Train a network of normals and boundaries on one half of the training shapes; judged on all held-back pictures."""
    began = time.monotonic()
    train, held = data.parts("shape")
    half = halves(train)[fold]
    torch.manual_seed(fold)
    config = normals_method.Config(input_size=data.settings.side)
    model = normals_method.Model(config)
    part = data.crops(half, augment=True, seed=fold, length=NORMALS_EPOCHS * len(half))
    cosine = viewpoint.Config()  # half a cosine
    means = learn(
        model, normals_method.loss, [part], NORMALS_EPOCHS, 16, fold, 2e-3, lambda done: viewpoint.rate(cosine, done), 1e-2
    )
    weights.save(_normals_file(data, fold), model.state_dict(), method="normals", config=config)
    image = images_of(data.crops(held))
    true, edges, mask = normals_method.truth(config, {"image": image})
    found = normals_method.predict(model, image, mask)
    off = normals_method.errors_deg(found.normals, true)
    said = found.boundaries > 0.5
    own = (found.mask > 0.5) & mask
    return {
        "key": f"normals {fold}", "losses": means, "median_deg": float(off.median()), "mean_deg": float(off.mean()),
        "below_30": float((off < 30).double().mean()), "precision": float((said & edges).sum() / said.sum().clamp_min(1)),
        "recall": float((said & edges).sum() / edges.sum().clamp_min(1)),
        "mask_iou": float(own.sum() / ((found.mask > 0.5) | mask).sum().clamp_min(1)),
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def _predicted(data: Data, fold: int) -> dict[str, Any]:
    """Arguments for crops whose normals and boundaries a trained network says."""
    path = _normals_file(data, fold)
    checkpoint = weights.read(path)
    model = normals_method.Model(weights.build_config(normals_method.Config, checkpoint.config))
    weights.load_into(model, checkpoint)
    name = f"{path.name} {sum(float(v.double().abs().sum()) for v in checkpoint.state.values()):.6f}"
    return {"normals": normals_method.predictor(model), "edges": "predicted", "predictor_name": name}


# -------------------------------------------------------------------------------------------------------------- many of them


class Results:
    """The lines of results.jsonl. One that a kill cut off is left out, and its training is done again."""

    def __init__(self, out: Path) -> None:
        self.path = out / "results.jsonl"
        self.rows: dict[str, dict[str, Any]] = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                continue

    def add(self, row: Mapping[str, Any]) -> None:
        whole = not self.path.is_file() or self.path.stat().st_size == 0 or self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[row["key"]] = dict(row)


Job = tuple[str, Callable[..., dict[str, Any]], Any]  # key, function of (what, data), what


def started(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=one_thread, initargs=(0,))


def work(
    jobs: Iterable[Job],
    data: Data,
    results: Results,
    pool: ProcessPoolExecutor | None,
    workers: int = 1,
    until: float = math.inf,
) -> bool:
    """Do what is not done yet, several at once; start nothing new after the time `until` (of `time.monotonic`).

    Args:
        jobs: in the order of their importance.
        data: what they learn from.
        results: of earlier jobs; theirs are added.
        pool: None: they run in this process.
        workers: of the pool.
        until: see above.

    Returns:
        whether all of them are done.
    """
    queue = [job for job in jobs if job[0] not in results.rows]
    running: set[Future[dict[str, Any]]] = set()
    while running or (queue and time.monotonic() <= until):
        while queue and len(running) < workers and time.monotonic() <= until:
            _, function, what = queue.pop(0)
            running.add(_done(function(what, data)) if pool is None else pool.submit(function, what, data))
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            row = future.result()
            results.add(row)
            where = f", azimuth {100 * row['scores']['published']['azimuth']['accuracy']:.1f}" if "scores" in row else ""
            print(f"{time.strftime('%H:%M:%S')} {row['key']}: {row['seconds']:.0f} s{where}", flush=True)
    return not queue


def _done(row: dict[str, Any]) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    future.set_result(row)
    return future


def _jobs(runs: Iterable[Run]) -> list[Job]:
    return [(r.key, trained, r) for r in runs]


def probes(nets: Sequence[str], inputs: str) -> list[Run]:
    """Learning rates and schedules to try for the published networks."""
    return [Run(net, inputs, lr=lr, schedule=s) for net in nets if net != "modern" for lr, s in PROBES]


def best(net: str, inputs: str, results: Results) -> tuple[float, str]:
    """The learning rate and schedule with the best azimuth on what is held back, where they were tried."""
    tried = [(r, results.rows[r.key]) for r in probes([net], inputs) if r.key in results.rows]
    if not tried:
        raise ValueError(f"no learning rate of the {net} network was tried within the time; give it more --minutes")
    run, _ = max(tried, key=lambda pair: pair[1]["scores"]["published"]["azimuth"]["accuracy"])
    return run.lr, run.schedule


def base(net: str, inputs: str, results: Results, probed: str) -> Run:
    """The run of a cell of the table, seed 0, on shapes held back."""
    if net == "modern":
        return Run(net, inputs, augment=True, lr=viewpoint.published_lr(viewpoint.modern()))
    lr, schedule = best(net, probed, results)
    return Run(net, inputs, lr=lr, schedule=schedule)


def cells(nets: Sequence[str], levels: Sequence[str], results: Results) -> list[Run]:
    return [base(net, level, results, levels[-1]) for level in reversed(levels) for net in nets]


def predicted_runs(main: Sequence[Run], seeds: int) -> list[Run]:
    full = [r for r in main if r.inputs == "normals"]
    return [replace(r, seed=s, normals="predicted") for s in range(seeds) for r in full]


def ablations(main: Sequence[Run]) -> list[Run]:
    """Seed 0, on the least and the most of inputs: the published networks with augmentation, the modern one without; the
    published networks with our targets."""
    ends = [r for r in main if r.inputs in (main[0].inputs, main[-1].inputs)]
    return [replace(r, augment=not r.augment) for r in ends] + [replace(r, targets="modern") for r in ends if r.net != "modern"]


# -------------------------------------------------------------------------------------------------------------------- tables


def _values(rows: Sequence[Mapping[str, Any]], *path: str) -> list[float]:
    values = []
    for row in rows:
        value: Any = row
        for name in path:
            value = value[name]
        values.append(float(value))
    return values


def spread(values: Sequence[float], scale: float = 100.0) -> str:
    """Mean ± standard deviation (of the sample) over seeds; one value stands alone."""
    if not values:
        return ""
    mean = f"{scale * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * statistics.stdev(values):.1f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---"] + ["---:"] * (len(head) - 1), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


INPUT_NAMES = {"rgb": "RGB", "mask": "+ mask", "boundaries": "+ boundaries", "normals": "+ normals (oracle)"}
_SCORES = (
    ("azimuth", ("published", "azimuth", "accuracy"), 100), ("azimuth, centred", ("centred", "azimuth", "accuracy"), 100),
    ("elevation", ("published", "elevation", "accuracy"), 100),
    ("elevation, centred", ("centred", "elevation", "accuracy"), 100),
    ("in-plane", ("published", "inplane", "accuracy"), 100), ("Acc π/6", ("published", "acc_pi_6"), 100),
    ("MedErr °", ("published", "median_deg"), 1),
)  # fmt: skip


def _row(title: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    return [title, str(len(found)), *(spread(_values(found, "scores", *path), scale) for _, path, scale in _SCORES)]


def _constant(row: Mapping[str, Any]) -> list[str]:
    """The best constant answers: for bins the majority class."""
    cells = []
    for _, path, scale in _SCORES:
        scores = row["scores"][path[0]]
        value = scores[path[1]]["majority"] if len(path) == 3 else scores[f"{path[1]}_constant"]
        cells.append(f"{scale * value:.1f}")
    return ["best constant answer", "", *cells]


def tables(settings: Settings, results: Results, nets: Sequence[str], levels: Sequence[str], seeds: int) -> str:
    """Everything that was measured, as Markdown."""
    done = results.rows
    tried = [r for r in probes(nets, levels[-1]) if r.key in done]
    ready = [n for n in nets if n == "modern" or any(r.net == n for r in tried)]
    main = cells(ready, levels, results)
    head = ["network, inputs", "seeds", *(name for name, _, _ in _SCORES)]
    parts = []

    def section(title: str, groups: Sequence[tuple[str, Sequence[Run]]]) -> None:
        filled = [(name, [done[r.key] for r in runs if r.key in done]) for name, runs in groups]
        filled = [(name, rows) for name, rows in filled if rows]
        if filled:
            constant = [_constant(filled[0][1][0])]
            parts.append(f"{title}\n\n{markdown(head, [_row(n, rows) for n, rows in filled] + constant)}")

    def named(runs: Sequence[Run], suffix: str = "") -> list[tuple[str, list[Run]]]:
        order = sorted(runs, key=lambda r: (list(nets).index(r.net), LEVELS.index(r.inputs)))
        return [(f"{r.net}, {INPUT_NAMES[r.inputs]}{suffix}", [replace(r, seed=s) for s in range(seeds)]) for r in order]

    first = next((done[r.key] for r in main if r.key in done), None)
    if first is not None:
        found = first["scores"]["published"]
        what = f"{first['train']} training pictures, {first['held']} held back, {settings.epochs} epochs"
        parts.append(
            f"Unseen shapes; {what}, crops of {settings.side} px; channels of combined {WIDTHS['combined']}, of separate "
            f"{WIDTHS['separate']}; mean ± standard deviation over {seeds} seeds, percent"
        )
        for title, constant, pick in (
            ("Azimuth in the 8 published bins", found["azimuth"]["majority"], lambda s: s["published"]["azimuth"]["accuracy"]),
            ("Rotations within 30 degrees", found["acc_pi_6_constant"], lambda s: s["centred"]["acc_pi_6"]),
        ):
            grid = []
            for net in ready:
                line = [net]
                for level in levels:
                    runs = [replace(r, seed=s) for r in main if (r.net, r.inputs) == (net, level) for s in range(seeds)]
                    line.append(spread([pick(done[r.key]["scores"]) for r in runs if r.key in done]))
                grid.append(line)
            grid.append(["best constant answer", *[f"{100 * constant:.1f}"] * len(levels)])
            parts.append(f"{title}\n\n" + markdown(["network", *(INPUT_NAMES[level] for level in levels)], grid))
    section("All scores, unseen shapes", named(main))
    section("All scores, unseen pictures of known shapes", named([replace(r, by="image") for r in main]))
    if "normals" in levels:
        named_predicted = [(n.replace("(oracle)", "(predicted)"), r) for n, r in named(predicted_runs(main, 1))]
        section("Boundaries and normals predicted from RGB", named_predicted)
    folds = [done[f"normals {k}"] for k in range(FOLDS) if f"normals {k}" in done]
    if folds:
        keys: tuple[tuple[str, str, int], ...] = (
            ("median °", "median_deg", 1),
            ("mean °", "mean_deg", 1),
            ("below 30°", "below_30", 100),
        )
        keys += (("boundary precision", "precision", 100), ("boundary recall", "recall", 100), ("mask IoU", "mask_iou", 100))
        cells_ = [spread(_values(folds, key), scale) for _, key, scale in keys]
        parts.append("Predicted normals, held-back shapes\n\n" + markdown(["", *(k[0] for k in keys)], [["normals", *cells_]]))
    turned = [replace(r, augment=not r.augment) for r in main]
    section("With the other's augmentation: published networks with, the modern one without",
            [(f"{n}, {'with' if r[0].augment else 'without'}", r) for n, r in named(turned)])  # fmt: skip
    section("The published networks with our bins and targets",
            named([replace(r, targets="modern") for r in main if r.net != "modern"]))  # fmt: skip
    parts += [t for t in (_corruption_table(main, results, seeds), _probe_table(tried, results)) if t]
    return "\n\n".join(parts)


def _corruption_table(main: Sequence[Run], results: Results, seeds: int) -> str:
    runs = {r.net: [replace(r, seed=s) for s in range(seeds)] for r in main if r.inputs == "mask"}
    found = {net: [results.rows[r.key] for r in some if r.key in results.rows] for net, some in runs.items()}
    found = {net: [row for row in rows if "corrupted" in row] for net, rows in found.items()}
    found = {net: rows for net, rows in found.items() if rows}
    if not found:
        return ""
    azimuth = ("published", "azimuth", "accuracy")
    lines = [["none", *(spread(_values(rows, "scores", *azimuth)) for rows in found.values())]]
    for kind, strength in CORRUPTIONS:
        name = f"{kind} {strength:g}"
        lines.append([name, *(spread(_values(rows, "corrupted", name, *azimuth)) for rows in found.values())])
    title = "Azimuth accuracy, percent, RGB + mask, trained on true masks, judged on corrupted ones"
    return f"{title}\n\n{markdown(['corruption', *found], lines)}"


def _probe_table(tried: Sequence[Run], results: Results) -> str:
    if not tried:
        return ""
    lines = []
    for r in tried:
        scores = results.rows[r.key]["scores"]["published"]
        lines.append([f"{r.net}, {r.lr:g}, {r.schedule}", f"{100 * scores['azimuth']['accuracy']:.1f}",
                      f"{100 * scores['acc_pi_6']:.1f}", f"{results.rows[r.key]['losses'][-1]:.2f}"])  # fmt: skip
    head = ["network, learning rate, schedule", "azimuth", "Acc π/6", "last training loss"]
    return f"Learning rates tried, seed 0, inputs {tried[0].inputs}\n\n{markdown(head, lines)}"


# ---------------------------------------------------------------------------------------------------------------------- main


def prepared(options: argparse.Namespace) -> Data:
    """The data set, rendered unless it is given, and the crops that every training reads."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    given = options.data is not None
    categories = tuple(options.categories or ([] if given else furniture.CATEGORIES))
    if given:
        categories = tuple(sorted({r.category for r in pix3d.read(options.data, categories)}))
    settings = Settings(
        str(options.data.resolve().name) if given else "rendered", categories, options.shapes, options.images,
        side=options.side, epochs=options.epochs,
    )  # fmt: skip
    note = out / "settings.json"
    wanted = json.loads(json.dumps(asdict(settings)))
    if note.is_file():
        before = json.loads(note.read_text(encoding="utf-8"))
        other = [k for k in wanted if before.get(k) != wanted[k]]
        if other:
            shown = ", ".join(f"{k} {before.get(k)} (now {wanted[k]})" for k in other)
            raise ValueError(f"{out} holds a table with {shown}; give the same again, or another --out")
    write_json(note, wanted)
    if not given and not options.table:
        rendered(out / "data", settings, options.backgrounds, options.jobs if options.jobs > 1 else 0)
    return Data(out, settings, options.data.resolve() if given else out / "data")


def cut(by: str, data: Data) -> None:
    """Cut all crops of a split before several processes ask for them."""
    train, held = data.parts(by)
    for records, augment in ((train, False), (train, True), (held, False)):
        data.crops(records, augment=augment)


def _everything(options: argparse.Namespace, data: Data, results: Results, levels: Sequence[str], until: float) -> bool:
    """All trainings, the important ones first; False if the time was up before."""
    nets, seeds, jobs = tuple(options.nets), options.seeds, options.jobs
    with started(jobs) if jobs > 1 else nullcontext() as pool:

        def do(jobs_: Iterable[Job]) -> bool:
            return work(jobs_, data, results, pool, max(jobs, 1), until)

        cut("shape", data)
        print(f"{time.strftime('%H:%M:%S')} {len(data.records)} pictures, crops cut", flush=True)
        if not do(_jobs(probes(nets, levels[-1]))):
            return False
        main = cells(nets, levels, results)
        if not do(_jobs(replace(r, seed=s) for s in range(seeds) for r in main)):
            return False
        cut("image", data)
        if not do(_jobs(replace(r, by="image") for r in main)):
            return False
        if options.short:
            return True
        if "normals" in levels:
            if not do([(f"normals {k}", learned_normals, k) for k in range(FOLDS)]):
                return False
            if not do(_jobs(predicted_runs(main, seeds))):
                return False
        return do(_jobs(ablations(main)))


def measured(options: argparse.Namespace) -> str:
    """Do everything that fits into the time, and tell it."""
    until = time.monotonic() + 60 * options.minutes
    data, results = prepared(options), Results(options.out)
    nets, levels, seeds = tuple(options.nets), tuple(x for x in LEVELS if x in options.levels), options.seeds
    if not options.table and not _everything(options, data, results, levels, until):
        print("the time was up before all was done; run the same command again to go on", flush=True)
    text = tables(data.settings, results, nets, levels, seeds)
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    return text


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/viewpoint_table"), help="folder of pictures, crops and results")
    parser.add_argument("--data", type=Path, help="a folder in Pix3D's layout; default: rendered into OUT/data")
    parser.add_argument("--backgrounds", type=Path, help="folder of photos to put behind the objects")
    parser.add_argument("--minutes", type=float, default=55.0, help="no training is started after these")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one thread each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, default=64, help="of the crops, pixels")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--shapes", type=int, default=10, help="of each category")
    parser.add_argument("--images", type=int, default=25, help="of each shape")
    parser.add_argument("--categories", nargs="+", help="default: all")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS), help="the last modality of the inputs")
    parser.add_argument("--short", action="store_true", help="leave out predicted normals and ablations")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of what is there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    if options.jobs > 1:
        torch.set_num_threads(1)
    print(measured(options))


if __name__ == "__main__":
    main()
