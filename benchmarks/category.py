"""The category table: how well poses of unseen mugs, bowls, cans and bottles are found by fitting, beside two baselines.

    python -m benchmarks.category --runs runs/category_mug [runs/category_bowl ...] --out runs/category_table [--count 60]
        [--searches ...] [--slow 12] [--table]

One command for everything: photos of `--count` unseen instances of each run's category (seeds from 400 on; the training took
those below), one each, as a camera sees them; then for each photo the pose

- of the encoder's pose head alone,
- of the nearest of 500 rendered templates of training instances, compared in the same features and silhouettes,
- of every search in `SEARCHES`, and, on the first `--slow` of them, of the published one.

Every answer is a line of OUT/results.jsonl, so a run that was killed goes on; lines of other weights are left alone. Printed in
Markdown: median rotation error with the 95 % interval that a bootstrap over the objects gives it, shares below 10 and 30
degrees, seconds of one core per object. Symmetric categories are scored by their axis. `--why` asks instead what limits the
fits: how often the loss at the true pose, with the best code found for it, is less than that of the fit (then the search
failed) or not (then generator and features failed). `--profile` asks how well a photo tells the elevation: the loss with the
elevation held some degrees off, all the rest fitted. `--pictures` draws the figures of docs/category.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from monopose.category import fitting, perceptual, pipeline, viz
from monopose.category import view as view_ops
from monopose.category.fitting import FitConfig, Phase
from monopose.category.model import Model, cross_entropy
from monopose.category.samples import CategoryViews
from monopose.command import save_picture
from monopose.geometry import boxes as box_ops
from monopose.geometry import camera as camera_ops
from monopose.geometry import se3, viewpoints
from monopose.types import Camera, Detections, Frame, ObjectModel

UNSEEN = 400  # first seed of the instances that are tested
TEMPLATES, TEMPLATE_SHAPES = 500, 50
TUNING = 600  # first seed of those on which choices were made
OFF = (-20.0, -12.0, -6.0, 0.0, 6.0, 12.0, 20.0)  # degrees by which `--profile` holds elevations off the true one
VISIBLE = 0.01  # share of a mug's silhouette that is handle, from which it can be seen
PLAIN = FitConfig()


def flat(starts: int, steps: int) -> FitConfig:
    """All starts go all the way."""
    return replace(PLAIN, phases=(Phase(starts, steps),), patience=1000)


SEARCHES: dict[str, FitConfig] = {
    "fit, default": PLAIN,
    "fit, quick": fitting.quick(),
    "fit, 1 start × 28 steps": replace(flat(1, 28), proposals=1.0),
    "fit, 4 starts × 28 steps": flat(4, 28),
    "fit, 16 starts × 28 steps": flat(16, 28),
    "fit, without the pose head": replace(PLAIN, head_weight=0.0, proposals=0.0),
}
PUBLISHED = "fit, published: 32 starts × 50 steps"


@dataclass(frozen=True)
class Item:
    """One photo."""

    image: Tensor  # (3, S, S)
    mask: Tensor  # (S, S)
    view: Tensor  # (6,), true
    handle: float  # share of the silhouette


@lru_cache(maxsize=8)
def items(category: str, count: int, side: int, first: int = UNSEEN) -> tuple[Item, ...]:
    """Photos of `count` instances that nobody has learned from."""
    made = []
    for i in range(count):
        sample = CategoryViews(category, [first + i], side, length=1, seed=5000 + i)[0]
        made.append(Item(sample["image"][0], sample["visible"][0].float(), sample["view"][0], float(sample["handle"][0])))
    return tuple(made)


def error_deg(angles: Tensor, item: Item, symmetric: bool) -> float:
    """Between the rotations, of symmetric objects between their axes, degrees."""
    found, true = (viewpoints.rotation_of(a[:3].double()) for a in (angles, item.view))
    return math.degrees(float(fitting.rotation_distance(found, true, symmetric)))


# ---------------------------------------------------------------------------------------------------------------- baselines


@torch.no_grad()
def pose_head(model: Model, item: Item) -> Tensor:
    """What the encoder says. -> (3,)."""
    proposal = model.encode(item.image[None], item.mask[None])[1]
    if proposal is None:
        raise ValueError("this network has no pose head; train one with --set head=true")
    azimuth = proposal.azimuth[0].argmax() * (2 * math.pi / model.config.azimuth_bins)
    return torch.stack([azimuth.float(), proposal.elevation[0], proposal.placing[0, 0]])


class Templates:
    """Renderings of training instances, in the crop that their silhouette asks for."""

    def __init__(self, category: str, side: int, scale: float) -> None:
        self.net = perceptual.network()
        images, alphas, angles = [], [], []
        each = TEMPLATES // TEMPLATE_SHAPES
        for shape in range(TEMPLATE_SHAPES):
            samples = CategoryViews(category, [shape], side, length=each, seed=9000 + shape)
            for k in range(each):
                rgba, view = samples[k]["rgba"][0], samples[k]["view"][0]
                cut = _recut(rgba, rgba[3] > 0.5, scale)
                images.append(cut[:3] + 0.5 * (1 - cut[3:]))
                alphas.append(cut[3])
                angles.append(view[:3])
        self.images, self.alphas, self.angles = torch.stack(images), torch.stack(alphas), torch.stack(angles)
        self.scale = scale
        with torch.no_grad():
            self.features = [torch.cat(f) for f in zip(*(self.net(part) for part in self.images.split(50)), strict=True)]

    @torch.no_grad()
    def nearest(self, item: Item) -> Tensor:
        """Angles of the template that looks most like the photo. -> (3,)."""
        flat = torch.cat([item.image * item.mask, item.mask[None]])
        cut = _recut(flat, item.mask > 0.5, self.scale)
        image, mask = cut[:3] + 0.5 * (1 - cut[3:]), cut[3]
        config = PLAIN
        total = self.net.distance(self.features, self.net(image[None]))
        total = total + config.colour_weight * (self.images - image).abs().mean((1, 2, 3))
        total = total + config.alpha_weight * cross_entropy(self.alphas, mask.expand_as(self.alphas)).mean((1, 2))
        return self.angles[int(total.argmin())]


def _recut(picture: Tensor, mask: Tensor, scale: float) -> Tensor:
    """A square crop `scale` times as large as the mask's box, at the picture's size."""
    square = box_ops.square(box_ops.from_masks(mask[None]).float(), scale)
    return (camera_ops.cut(picture + 0.5, square, picture.shape[-1])[0] - 0.5).clamp(0, 1)  # 0.5 is what lies outside


# ------------------------------------------------------------------------------------------------------------------ the table


@dataclass(frozen=True)
class Run:
    name: str  # of its category
    model: Model
    version: str  # of its weights

    @classmethod
    def read(cls, path: str) -> Run:
        found = pipeline.load(path, "cpu")
        data = (found.path / pipeline.FILE).read_bytes()
        found.model.eval()
        return cls(found.model.config.category, found.model, hashlib.sha256(data).hexdigest()[:12])


def methods(run: Run, searches: Sequence[str]) -> Iterator[tuple[str, Callable[[Item, int], tuple[Tensor, dict[str, Any]]]]]:
    """Name, and a function from a photo and its number to angles and what else is worth writing down."""
    model = run.model
    if model.config.head:
        yield "pose head alone", lambda item, i: (pose_head(model, item), {})
    made: list[Templates] = []

    def nearest(item: Item, i: int) -> tuple[Tensor, dict[str, Any]]:
        if not made:
            made.append(Templates(run.name, model.config.input_size, model.config.crop_scale))
        return made[0].nearest(item), {}

    yield f"nearest of {TEMPLATES} templates", nearest
    ordered = list(SEARCHES.items())
    for name, config in (*ordered[:4], (PUBLISHED, fitting.published(perceptual.DEFAULT)), *ordered[4:]):
        if not searches or any(s in name for s in searches):
            yield name, lambda item, i, config=config: _fitted(model, item, i, config)  # type: ignore[misc]


def _fitted(model: Model, item: Item, i: int, config: FitConfig) -> tuple[Tensor, dict[str, Any]]:
    found = fitting.fit(model, item.image, item.mask, config, torch.Generator().manual_seed(i))
    steps = sum(len(m.losses) for m in found.history)
    more: dict[str, Any] = {"loss": float(found.losses[found.chosen]), "evaluations": steps, "kept_head": found.kept_head}
    if found.chosen != found.voted:
        more["voted"] = found.views.values[found.voted, :3].tolist()
    return found.views.values[found.chosen, :3], more


def measured(runs: Sequence[Run], out: Path, count: int, slow: int, searches: Sequence[str]) -> list[dict[str, Any]]:
    """All answers, those that are not there yet computed."""
    file = out / "results.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(r["run"], r["method"], r["item"]) for r in rows}
    for run in runs:
        photos = items(run.name, count, run.model.config.input_size)
        for name, answer in methods(run, searches):
            last = min(slow, count) if name == PUBLISHED else count
            missing = [i for i in range(last) if (run.version, name, i) not in done]
            for k, i in enumerate(tqdm(missing, desc=f"{run.name}: {name}", disable=not missing, mininterval=2)):
                if not k and name not in SEARCHES and name != PUBLISHED:
                    answer(photos[i], i)  # what is made only once does not count
                began, processor = time.perf_counter(), time.process_time()
                angles, more = answer(photos[i], i)
                symmetric = run.model.config.symmetric
                if "voted" in more:
                    more["voted_error_deg"] = error_deg(torch.tensor(more.pop("voted")), photos[i], symmetric)
                row = {
                    "run": run.version, "category": run.name, "method": name, "item": i, "handle": photos[i].handle,
                    "error_deg": error_deg(angles, photos[i], symmetric), **more,
                    "cpu_seconds": time.process_time() - processor, "seconds": time.perf_counter() - began,
                }  # fmt: skip
                rows.append(row)
                with open(file, "a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
    return rows


def table(rows: Sequence[dict[str, Any]], runs: Sequence[Run], count: int) -> str:
    """Markdown, a table per category; of mugs also those views that show the handle."""
    parts = []
    for run in runs:
        mine = [r for r in rows if r["run"] == run.version and r["item"] < count]
        parts += [f"**{run.name}**", "", *_table(mine)]
        if not run.model.config.symmetric:
            seen = [r for r in mine if r["handle"] >= VISIBLE]
            parts += [f"**{run.name}, the handle in sight**", "", *_table(seen)]
    return "\n".join(parts)


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| | objects | median error (95 %) | < 10° | < 30° | CPU s / object |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == name]
        took = statistics.median(r["cpu_seconds"] for r in mine)
        lines.append(_line(name, [r["error_deg"] for r in mine], took))
        if name == "fit, default":
            lines.append(_line("the same, chosen by vote", [r.get("voted_error_deg", r["error_deg"]) for r in mine], took))
        if name == PUBLISHED:
            lines += _beside(rows, {r["item"] for r in mine})
    return [*lines, ""]


def _beside(rows: Sequence[dict[str, Any]], photos: set[int]) -> list[str]:
    """The default on the photos of the slow search."""
    same = [r for r in rows if r["method"] == "fit, default" and r["item"] in photos]
    took = statistics.median(r["cpu_seconds"] for r in same) if same else 0.0
    return [_line("fit, default, on the same photos", [r["error_deg"] for r in same], took)] if same else []


def interval(values: Sequence[float], share: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Where the median of other samples as large would lie, by a bootstrap."""
    source = random.Random(0)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(draws))
    beyond = round((1 - share) / 2 * draws)
    return medians[beyond], medians[draws - 1 - beyond]


def _line(name: str, errors: Sequence[float], took: float) -> str:
    within = " | ".join(f"{100 * sum(e < limit for e in errors) / len(errors):.0f} %" for limit in (10, 30))
    low, high = interval(errors)
    middle = f"{statistics.median(errors):.1f}° ({low:.1f}–{high:.1f})"
    return f"| {name} | {len(errors)} | {middle} | {within} | {took:.2f} |"


# --------------------------------------------------------------------------------------------------------------- why it fails


def reasons(run: Run, count: int, config: FitConfig) -> str:
    """What limits the fits, a line per photo and a summary. Those within 10 degrees are right.

    `true`: least loss with the angles held at the true ones, the rest fitted as usual.
    """
    held = replace(config, phases=(Phase(4, config.phases[0].steps + config.phases[-1].steps),), head_weight=0.0, patience=1000,
                   lr_azimuth=0.0, lr_elevation=0.0, lr_inplane=0.0)  # fmt: skip
    free = replace(config, head_weight=0.0)
    lines, counts = [], {"right": 0, "search": 0, "generator": 0}
    for i, item in enumerate(tqdm(items(run.name, count, run.model.config.input_size), desc="why", mininterval=2)):
        found = fitting.fit(run.model, item.image, item.mask, free, torch.Generator().manual_seed(i))
        true = fitting.fit(run.model, item.image, item.mask, held, torch.Generator().manual_seed(i), start=item.view)
        error = error_deg(found.views.values[found.chosen, :3], item, run.model.config.symmetric)
        least, at_true = float(found.losses.min()), float(true.losses.min())
        kind = "right" if error < 10 else "search" if at_true < least else "generator"
        counts[kind] += 1
        head = error_deg(pose_head(run.model, item), item, run.model.config.symmetric) if run.model.config.head else math.nan
        lines.append(
            f"{i:3d} handle {item.handle:.2f} head {head:6.1f}° fit {error:6.1f}° loss {least:.4f} at true {at_true:.4f} {kind}"
        )
    return "\n".join([*lines, f"{run.name}: {counts}"])


def profile(run: Run, count: int, steps: int = 20) -> str:
    """How the loss rises beside the true elevation, everything else fitted and the pose head silent. Markdown.

    Photos are those of the seeds from `TUNING` on.
    """
    held = replace(PLAIN, phases=(Phase(1, steps),), head_weight=0.0, patience=1000, sampled=False, lr_azimuth=0.0,
                   lr_elevation=0.0)  # fmt: skip
    photos = items(run.name, count, run.model.config.input_size, TUNING)
    losses = torch.zeros(len(photos), len(OFF))
    for i, item in enumerate(tqdm(photos, desc=f"{run.name}: profile", mininterval=2)):
        for k, off in enumerate(OFF):
            start = item.view.clone()
            start[1] += math.radians(off)
            losses[i, k] = fitting.fit(run.model, item.image, item.mask, held, start=start).losses.min()
    true = losses[:, [OFF.index(0.0)]]
    more = (100 * (losses / true - 1)).median(0).values
    less = (losses < true).sum(0)
    return "\n".join([
        f"| {run.name}, {len(photos)} photos; elevation off by | " + " | ".join(f"{off:+.0f}°" for off in OFF) + " |",
        "|---" * (len(OFF) + 1) + "|",
        "| loss more than at the true one, median | " + " | ".join(f"{v:.1f} %" for v in more) + " |",
        "| photos in which it is less | " + " | ".join(str(int(v)) for v in less) + " |",
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- real photos

YCBV = {"mug": (14,), "bowl": (13,), "can": (1, 4, 6), "bottle": (5, 12)}  # objects of YCB-V by category, +Z up in all
OFFICIAL = (0, 51)  # scenes whose poses are the data set's own


def category_frame(model: Any, category: str) -> Tensor:
    """category_from_obj of a mesh of YCB-V, (4, 4): the origin on the axis at half the height, +Z up, a handle towards +X.

    The meshes already stand so; their origins do not. The handle of the mug lies within 2 degrees of +X.
    """
    low, high = model.bounds
    height = high[2] - low[2]
    wall = model.vertices[model.vertices[:, 2] > high[2] - 0.1 * height] if category == "mug" else model.vertices
    middle = (wall.amin(0) + wall.amax(0)) / 2
    middle[2] = (low[2] + high[2]) / 2
    pose = torch.eye(4)
    pose[:3, 3] = -middle
    return pose


def real(runs: Sequence[Run], data: Path, out: Path) -> str:
    """YCB-V's mugs, bowls, cans and bottles: estimated against true axes. Masks are rendered from the true poses."""
    from monopose.datasets.bop import models, scenes
    from monopose.render.scene import render_masks

    meshes = models.read_models(data / "models", set(range(1, 22)))
    lines = ["| scene / photo | object | pose head | fit | by vote | true distance | found |", "|---|---|---|---|---|---|---|"]
    for scene in scenes.scenes(data / "test"):
        for im_id in (int(i) for i in scene.im_ids):
            frame = scenes.read_frame(scene, im_id, masks=False, depth=False)
            truth = frame.instances
            assert truth is not None
            objects = [meshes[int(i)] for i in truth.labels]
            masks = render_masks(objects, truth.cam_from_obj, frame.camera.K, frame.camera.size).masks_visible
            for run, row in ((run, row) for run in runs for row in range(len(objects))):
                if objects[row].obj_id in YCBV[run.name]:
                    others = torch.cat([masks[:row], masks[row + 1 :]]).any(0)
                    where = f"{scene.scene_id} / {im_id}" + ("" if scene.scene_id in OFFICIAL else " *")
                    cells = _one_real(run, frame, objects[row], truth.cam_from_obj[row].float(), masks[row], others, out)
                    lines.append(f"| {where} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "\\* true poses a few pixels off"])


def _one_real(
    run: Run, frame: Frame, mesh: ObjectModel, cam_from_mesh: Tensor, mask: Tensor, hidden: Tensor, out: Path
) -> list[str]:  # fmt: skip
    model = run.model
    true = cam_from_mesh @ se3.inverse(category_frame(mesh, run.name))
    found = Detections(torch.ones(1).long(), box_ops.from_masks(mask[None]).float(), torch.ones(1), mask[None])
    poses, fits = fitting.predict_traced(model, frame, found, hidden=hidden)
    fit = fits[0]
    assert fit.seen is not None
    assert fit.square is not None
    view = view_ops.view_parameters(true, frame.camera.K.float(), fit.square, view_ops.size_of(mesh)).stacked()
    item = Item(fit.seen[:3], fit.seen[3] * fit.seen[4], view, 0.0)
    answers = (pose_head(model, item), *(fit.views.values[k, :3] for k in (fit.least, fit.voted)))
    size = model.config.size_mean or 1.0
    drawn = viz.draw_overlay(frame, poses.cam_from_obj, [run.name], [size], true[None], model.config.symmetric)
    name = f"{frame.scene_id:06d}_{frame.im_id:06d}_{run.name}_{mesh.obj_id}"
    save_picture(out / f"{name}_overlay.png", drawn)
    shown = viz.crop_of(drawn, fit.square)
    save_picture(out / f"{name}_stages.png", viz.stages(model, fit, shown))
    errors = (f"{error_deg(angles, item, model.config.symmetric):.0f}°" for angles in answers)
    far, near = (float(t.norm()) for t in (true[:3, 3], poses.cam_from_obj[0, :3, 3]))
    return [f"{run.name}, {mesh.name or mesh.obj_id}", *errors, f"{far:.2f} m", f"{near:.2f} m"]


# ---------------------------------------------------------------------------------------------------------------- the figures


def pictures(runs: Sequence[Run], folder: Path, most: int = 4) -> list[Path]:
    """The figures of docs/category.md: fits from the photo to the pose, the first photos of each category (of mugs those that
    show the handle); and pairs of views of the first."""
    rows = []
    for run in runs:
        photos = items(run.name, 40, run.model.config.input_size)
        shown = [i for i, item in enumerate(photos) if run.model.config.symmetric or item.handle > 0.05]
        rows += [_fit_row(run, photos[i], i) for i in shown[: max(most // len(runs), 1)]]
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    for k, row in enumerate(rows):
        sheet.paste(row, (0, sum(r.height for r in rows[:k])))
    first = runs[0].model
    samples = [CategoryViews(runs[0].name, [UNSEEN + i], first.config.input_size, 1, seed=UNSEEN + i)[0] for i in range(5)]
    return [
        save_picture(folder / "category_fitting.png", sheet),
        save_picture(folder / "category_reconstructions.png", viz.reconstructions(first, samples)),
    ]


def _fit_row(run: Run, item: Item, i: int, side: int = 240) -> Image.Image:
    """Photo, what of it is looked at, synthesis at the start, after 10 steps, at the end, the pose with the true axes white."""
    found = fitting.fit(run.model, item.image, item.mask, None, torch.Generator().manual_seed(i))
    camera = Camera(torch.tensor([[400.0, 0, side / 2 - 0.5], [0, 400.0, side / 2 - 0.5], [0, 0, 1]]), (side, side))
    whole = torch.tensor([0.0, 0.0, side, side])
    large = torch.nn.functional.interpolate(item.image[None], (side, side), mode="bilinear")[0].clamp(0, 1)
    poses = [
        view_ops.pose_from_view(view_ops.view_of(v), camera.K, whole, 0.15)
        for v in (found.views.values[found.chosen], item.view)
    ]
    drawn = viz.draw_overlay(Frame(large, camera), poses[0][None], [""], [0.15], poses[1][None], run.model.config.symmetric)
    return viz.stages(run.model, found, drawn, height=150)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, help="run folders of categories")
    parser.add_argument("--out", type=Path, default=Path("runs/category_table"), help="folder of the results")
    parser.add_argument("--count", type=int, default=60, help="unseen instances of each category")
    parser.add_argument("--slow", type=int, default=12, help="so many of them for the published search")
    parser.add_argument("--searches", nargs="*", default=[], help="only searches whose name holds one of these words")
    parser.add_argument("--table", action="store_true", help="compute nothing, print the table of what is there")
    parser.add_argument("--why", type=int, metavar="N", help="say what limits the fits of N photos instead")
    parser.add_argument("--profile", type=int, metavar="N", help="say how the loss of N photos rises beside the true elevation")
    parser.add_argument("--real", type=Path, metavar="DIR", help="run on YCB-V's photos instead; overlays go to OUT/real")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the figures instead")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    runs = [Run.read(path) for path in options.runs]
    if options.pictures is not None:
        print("\n".join(str(p) for p in pictures(runs, options.pictures)))
    elif options.real is not None:
        print(real(runs, options.real, options.out / "real"))
    elif options.why is not None:
        for run in runs:
            print(reasons(run, options.why, PLAIN))
    elif options.profile is not None:
        for run in runs:
            print(profile(run, options.profile))
    elif options.table:
        file = options.out / "results.jsonl"
        print(table([json.loads(line) for line in file.read_text().splitlines()], runs, options.count))
    else:
        print(table(measured(runs, options.out, options.count, options.slow, options.searches), runs, options.count))


if __name__ == "__main__":
    main()
