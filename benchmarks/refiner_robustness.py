"""How wrong an initial pose may be: the refiner on real photos, from true poses with noise and from the poses of other methods.

    python -m benchmarks.refiner_robustness --data DATA/lmo --targets test_targets_dev.json --model RUN --json OUT
    python -m benchmarks.refiner_robustness ... --images 10 --cells 15x3                      a quick look
    python -m benchmarks.refiner_robustness ... --cells none --initial A_lmo-test.csv B_lmo-test.csv

Grid: every target instance gets initial poses from `geometry.se3.perturbed`: its true pose turned by normal noise of so many
degrees about each axis and moved by so many centimetres across the line of sight, three times that along it. The noise comes
from the instance and the cell, so an instance meets the same noise whatever else is asked for. The objects of a photo are
refined together. Initial: every row of a BOP result file that belongs to a target, scored by `evaluation.bop`.

ADD(-S) and its threshold are those of `evaluation.linemod`: 0.1 of the diameter, vertices of models_eval, ADD-S for the objects
of the data set's tables. Rotation and translation errors are to the nearest symmetric truth. A score that the refiner lowers is
marked with (!). Seconds are the processor's, per object, without preparing the models. The tables are Markdown.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from monopose.datasets.bop import results as bop_results
from monopose.datasets.bop import scenes as bop_scenes
from monopose.evaluation import bop as bop_evaluation
from monopose.evaluation import errors, linemod
from monopose.evaluation.bop import Data, open_data, read_objects
from monopose.geometry import rotation, se3, symmetry
from monopose.geometry.rotation import nearest_rotation
from monopose.io.files import write_json
from monopose.objects import pipeline, refinement, refiner, training
from monopose.types import ObjectModel

ROTATIONS = (5.0, 15.0, 30.0, 45.0)  # standard deviations about each axis, degrees
TRANSLATIONS = (1.0, 3.0, 6.0)  # standard deviations across the line of sight, centimetres
VISIBILITY = {"> 80 %": (0.8, 1.01), "50-80 %": (0.5, 0.8), "10-50 %": (0.1, 0.5)}
NEAR = 0.1  # of the diameter

Key = tuple[int, int]  # scene, image
Cell = tuple[float, float]


class Row(NamedTuple):
    """One instance from one initial pose. Errors before and after: ADD(-S) in diameters, degrees, metres."""

    scene_id: int
    im_id: int
    obj_id: int
    visibility: float
    cell: Cell
    add_s: tuple[float, float]
    degrees: tuple[float, float]
    metres: tuple[float, float]
    converged: bool
    said: float  # mean point distance of the result in diameters, as the network guesses it
    seconds: float  # of the processor


class Setting(NamedTuple):
    """What both tables need: the network, the objects as it knows them, the data set and the targets that are asked for."""

    model: refiner.Model
    objects: dict[int, refiner.RefinerObject]
    data: Data
    targets: bop_results.Targets
    folder: Path
    outer: int | None
    inner: int | None


def opened(
    folder: Path, targets: Path | None, model: refiner.Model, images: int | None = None, split: str | None = None,
    faces: int | None = None, outer: int | None = None, inner: int | None = None,
) -> Setting:  # fmt: skip
    """Read the data set. `images`: only the first so many target photos; `faces`: thin the rendered meshes to so many."""
    data = open_data(bop_results.concatenated([]), folder, targets, split=split)
    if data.wanted.obj_id is None or data.wanted.inst_count is None:
        raise ValueError(
            "the targets file names images only (BOP'24 form); one with obj_id is needed, as test_targets_bop19.json"
        )
    keys = list(dict.fromkeys(zip(data.wanted.scene_id.tolist(), data.wanted.im_id.tolist(), strict=True)))[:images]
    keep = np.array([k in set(keys) for k in zip(data.wanted.scene_id.tolist(), data.wanted.im_id.tolist(), strict=True)])
    asked = bop_results.Targets(*(column[keep] for column in data.wanted))  # type: ignore[index]
    models = training.read_objects(folder, tuple(sorted({*asked.obj_id.tolist()})), faces)  # type: ignore[union-attr]
    objects = {i: refiner.prepare_object(m, model.config) for i, m in models.items()}
    return Setting(model, objects, data, asked, folder, outer, inner)


def photos(setting: Setting) -> dict[Key, set[int]]:
    """The target photos and the objects to find in them."""
    wanted: dict[Key, set[int]] = {}
    assert setting.targets.obj_id is not None
    for s, i, o in zip(*(c.tolist() for c in setting.targets[:3]), strict=True):  # type: ignore[union-attr]
        wanted.setdefault((s, i), set()).add(o)
    return wanted


def refined(
    setting: Setting, picture: Tensor, K: Tensor, labels: Sequence[int], poses: Tensor
) -> tuple[refinement.Refined, float]:
    """The refiner's answer on the CPU, and processor seconds."""
    device = setting.model.log_sigma.device
    objects = [setting.objects[i] for i in labels]
    start = time.process_time()
    found = refinement.refine(
        setting.model, picture.to(device), K.to(device), objects, poses.to(device), setting.outer, setting.inner
    )
    found = found._replace(
        cam_from_obj=found.cam_from_obj.cpu(), converged=found.converged.cpu(), error=found.error.cpu(), rounds=[]
    )
    return found, time.process_time() - start


# --------------------------------------------------------------------------------------------------------------------- grid


def initial(true: Tensor, key: Sequence[int], cell: Cell) -> Tensor:
    """The noisy pose of one instance, (4, 4); it depends on the pose, the numbers of the instance and the cell alone."""
    words = [*key, *(round(1000 * v) for v in cell)]
    seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(seed)
    return se3.perturbed(true, math.radians(cell[0]), cell[1] / 100, generator=generator)


def grid(setting: Setting, cells: Sequence[Cell], out: Path | None = None) -> list[Row]:
    """Every target instance with truth, refined from a noisy pose per cell."""
    data, rows = setting.data, list[Row]()
    wanted = photos(setting)
    judge = read_objects(data.models, setting.objects)
    by_class = linemod.SYMMETRIC.get(setting.folder.resolve().name, [i for i, o in judge.items() if o.symmetric])
    groups = {i: symmetry.transforms(o.model.symmetries).double() for i, o in setting.objects.items()}
    scenes = {s: bop_scenes.open_scene(data.split / f"{s:06d}") for s, _ in wanted}
    for key in track(list(wanted), description="photos", transient=True):
        frame = bop_scenes.read_frame(scenes[key[0]], key[1], masks=False, depth=False)
        t = data.truth
        here = np.flatnonzero((t.scene_id == key[0]) & (t.im_id == key[1]))
        places = np.flatnonzero(np.isin(t.obj_id[here], sorted(wanted[key])))  # in the photo's list
        mine = here[places]
        labels = t.obj_id[mine].tolist()
        raw = torch.from_numpy(t.pose[mine])
        true = raw.clone()
        true[:, :3, :3] = nearest_rotation(raw[:, :3, :3])
        for cell in cells:
            start = torch.stack([initial(p, (*key, n), cell) for p, n in zip(true, places.tolist(), strict=True)])
            found, seconds = refined(setting, frame.image, frame.camera.K, labels, start.float())
            for n, label in enumerate(labels):
                both = torch.stack([start[n], found.cam_from_obj[n].double()])
                near = setting.objects[label].model
                add = errors.add_s if label in by_class else errors.add
                share = add(both.numpy(), t.pose[mine[n]], judge[label].points) / judge[label].diameter
                degrees, metres = _off(both, true[n], near, groups[label])
                rows.append(Row(
                    *key, label, float(t.visibility[mine[n]]), cell, _pair(share), degrees, metres,
                    bool(found.converged[n]), float(found.error[n]), seconds / len(labels),
                ))  # fmt: skip
        if out is not None:
            write_json(out, {"grid": records(rows)})
    return rows


def records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """For JSON, which knows no infinity."""
    return [r._asdict() | {"said": r.said if math.isfinite(r.said) else None} for r in rows]


def _pair(values: Iterable[Any]) -> tuple[float, float]:
    before, after = (float(v) for v in values)
    return before, after


def _off(poses: Tensor, true: Tensor, model: ObjectModel, group: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Degrees and metres from two poses (2, 4, 4) to the truths nearest to them."""
    closest = symmetry.nearest(true.expand(2, 4, 4), poses, group, model.corners.double())
    angle = torch.rad2deg(rotation.angle_between(closest[:, :3, :3], poses[:, :3, :3]))
    return _pair(angle), _pair((closest[:, :3, 3] - poses[:, :3, 3]).norm(dim=1))


def recall(rows: Sequence[Row], which: int) -> float:
    """Percent with ADD(-S) < 0.1 d before (0) or after (1)."""
    return 100 * float(np.mean([r.add_s[which] < NEAR for r in rows])) if rows else math.nan


def change(before: float, after: float, digits: int = 1) -> str:
    return f"{before:.{digits}f} → {after:.{digits}f}" + (" (!)" if after < before else "")


def grid_tables(rows: Sequence[Row]) -> str:
    """The grid, the same by visibility and by object, and the errors of each cell, as Markdown."""
    turns, moves = (sorted({r.cell[k] for r in rows}) for k in (0, 1))
    some = {c: [r for r in rows if r.cell == c] for c in sorted({r.cell for r in rows})}
    lines = [f"| rotation \\ translation | {' | '.join(f'{m:g} cm' for m in moves)} |", "|---" * (len(moves) + 1) + "|"]
    for turn in turns:
        cells = [some.get((turn, m), []) for m in moves]
        lines.append(f"| {turn:g}° | {' | '.join(change(recall(c, 0), recall(c, 1)) if c else '' for c in cells)} |")
    parts = {name: [r for r in rows if low <= r.visibility < high] for name, (low, high) in VISIBILITY.items()}
    lines += ["", "| visible | poses | ADD(-S) 0.1 d, % | made right | made wrong |", "|---|---|---|---|---|"]
    by_object = {f"object {i}": [r for r in rows if r.obj_id == i] for i in sorted({r.obj_id for r in rows})}
    for name, part in (parts | by_object | {"all": list(rows)}).items():
        if part:
            right = np.array([[e < NEAR for e in r.add_s] for r in part])
            gained, lost = (100 * float(v.mean()) for v in (~right[:, 0] & right[:, 1], right[:, 0] & ~right[:, 1]))
            score = change(recall(part, 0), recall(part, 1))
            lines.append(f"| {name} | {len(part)} | {score} | {gained:.1f} % | {lost:.1f} % |")
    lines += ["", "| noise | ADD(-S) 0.1 d, % | median rotation, ° | median translation, mm | converged, % | s per object |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for (turn, move), part in some.items():
        degrees = [float(np.median([r.degrees[k] for r in part])) for k in (0, 1)]
        shift = [1000 * float(np.median([r.metres[k] for r in part])) for k in (0, 1)]
        done, each = np.mean([r.converged for r in part]), np.mean([r.seconds for r in part])
        lines.append(
            f"| {turn:g}°, {move:g} cm | {change(recall(part, 0), recall(part, 1))} | {degrees[0]:.1f} → {degrees[1]:.1f} | "
            f"{shift[0]:.0f} → {shift[1]:.0f} | {100 * done:.0f} | {each:.2f} |"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------------ initial


def from_results(
    setting: Setting, given: bop_results.Results
) -> tuple[bop_results.Results, bop_results.Results, dict[str, float]]:
    """Rows of a result file in the target photos before and after, and what happened on the way."""
    wanted = photos(setting)
    asked = [
        o in wanted.get((s, i), ())
        for s, i, o in zip(given.scene_id.tolist(), given.im_id.tolist(), given.obj_id.tolist(), strict=True)
    ]
    before = bop_results.Results(*(column[np.array(asked, bool)] for column in given))
    R, t = before.R.copy(), before.t.copy()
    scenes = {s: bop_scenes.open_scene(setting.data.split / f"{s:06d}") for s, _ in wanted}
    converged, total = 0, 0.0
    for key in track(list(wanted), description="photos", transient=True):
        mine = np.flatnonzero((before.scene_id == key[0]) & (before.im_id == key[1]))
        if not len(mine):
            continue
        frame = bop_scenes.read_frame(scenes[key[0]], key[1], masks=False, depth=False)
        start = torch.eye(4).repeat(len(mine), 1, 1)
        start[:, :3, :3] = nearest_rotation(torch.from_numpy(R[mine])).float()
        start[:, :3, 3] = torch.from_numpy(t[mine]).float()
        found, seconds = refined(setting, frame.image, frame.camera.K, before.obj_id[mine].tolist(), start)
        done = found.converged.numpy()
        poses = found.cam_from_obj.double().numpy()
        R[mine[done]], t[mine[done]] = poses[done, :3, :3], poses[done, :3, 3]
        converged, total = converged + int(done.sum()), total + seconds
    count = max(len(before.score), 1)
    return before, before._replace(R=R, t=t), {"converged": 100 * converged / count, "seconds": total / count}


def scored(setting: Setting, results: bop_results.Results) -> dict[str, float]:
    """AR, its parts and ADD(-S) 0.1 d of results, as `monopose evaluate` has them."""
    split = setting.data.split.name
    report = bop_evaluation.evaluate(results, setting.folder, setting.targets, split=split)
    recalls = linemod.evaluate(results, setting.folder, setting.targets, split=split)["add_s"]
    return {"add_s": 100 * recalls["0.1"], "ar": report["ar"]["mean"]} | {k: report["ar"][k] for k in ("mssd", "mspd")}


def initial_table(found: Mapping[str, tuple[dict[str, float], dict[str, float], dict[str, float]]]) -> str:
    """Files against scores before and after, as Markdown."""
    lines = ["| initial poses | ADD(-S) 0.1 d, % | AR | AR MSSD | AR MSPD | converged, % | s per object |", "|---" * 7 + "|"]
    for name, (before, after, way) in found.items():
        cells = [change(before["add_s"], after["add_s"])] + [change(before[k], after[k], 3) for k in ("ar", "mssd", "mspd")]
        lines.append(f"| {name} | {' | '.join(cells)} | {way['converged']:.0f} | {way['seconds']:.2f} |")
    return "\n".join(lines)


def cells_of(words: Sequence[str] | None) -> list[Cell]:
    """ "15x3" -> (15 degrees, 3 cm); None: the whole grid; "none": nothing."""
    if words is None:
        return [(r, t) for r in ROTATIONS for t in TRANSLATIONS]
    if list(words) == ["none"]:
        return []
    try:
        return [(float(a), float(b)) for a, b in (w.split("x") for w in words)]
    except ValueError:
        raise ValueError(f"cells are DEGREESxCENTIMETRES, such as 15x3, or none; got {' '.join(words)}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a BOP data set with true poses")
    parser.add_argument("--model", type=Path, required=True, help="a run folder with refiner.safetensors, or that file")
    parser.add_argument("--targets", type=Path, help="targets file; default: test_targets_bop19.json")
    parser.add_argument("--split", help='folder of the scenes; default: "test"')
    parser.add_argument("--images", type=int, help="only the first so many target photos")
    parser.add_argument("--cells", nargs="+", help="DEGREESxCENTIMETRES, such as 15x3; none; default: 5 15 30 45 x 1 3 6")
    parser.add_argument("--initial", type=Path, nargs="+", default=[], action="extend", help="BOP result files to refine")
    parser.add_argument("--faces", type=int, help="thin the rendered models to so many triangles")
    parser.add_argument("--outer", type=int, help="renderings; default: as configured")
    parser.add_argument("--inner", type=int, help="steps per rendering; default: as configured")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write every pose's errors and the scores here; grows photo by photo")
    options = parser.parse_args()
    cells = cells_of(options.cells)
    given = {str(path): bop_results.read_results(path) for path in options.initial}  # a bad file is seen before the work
    model = pipeline.load_refiner(options.model, options.device)
    setting = opened(
        options.data, options.targets, model, options.images, options.split, options.faces, options.outer, options.inner
    )
    print(f"{len(photos(setting))} photos, {len(setting.targets.im_id)} targets", flush=True)
    rows = grid(setting, cells, options.json) if cells else []
    if rows:
        print(f"\nADD(-S) 0.1 d, %, before → after\n\n{grid_tables(rows)}", flush=True)
    found = {}
    for name, results in given.items():
        before, after, way = from_results(setting, results)
        found[Path(name).name] = (scored(setting, before), scored(setting, after), way)
    if found:
        print(f"\n{initial_table(found)}")
    if options.json is not None:
        table = {name: dict(zip(("before", "after", "way"), parts, strict=True)) for name, parts in found.items()}
        write_json(options.json, {"grid": records(rows), "initial": table})


if __name__ == "__main__":
    main()
