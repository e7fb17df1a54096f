"""`monopose train all`: everything that a run needs, in the right order, under one budget, with a verdict in the end.

With little time that is a detector: poses are then searched for with the networks that come with monopose.
Every stage goes on where it stopped, and one that is finished costs nothing, so the same command goes on at any place.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import weights
from ..io import records
from ..synthesis import scene as synth
from ..training import progress
from . import calibrate, calibration, report, training
from .training import TrainConfig

RESERVED, MOST_RESERVED = 0.1, 12.0  # of the budget for calibration and report: a share, and minutes at most
CALIBRATED_ON, FEWEST = 200, 40  # scenes, with two hours; fewer with less, but no fewer than this
WHOLE = 120.0  # minutes from which there are so many scenes
PATIENCE = 60.0  # minutes an object on a CPU: with fewer, poses that are searched for are right more often than learned ones
UPRIGHT = 15.0  # the same for objects that always stand


class Stage(NamedTuple):
    """One network of a run."""

    method: str
    minutes: float
    config: Any  # of the method
    train: TrainConfig


def stages(
    minutes: float, obj_ids: tuple[int, ...], workers: int | None = None, seed: int = 0, patience: float = PATIENCE
) -> list[Stage]:
    """What a run needs, in order: coordinates, detector, and a refiner where monopose comes with none.

    With less than `patience` minutes an object, on a CPU, the detector alone: poses are then searched for (`objects.search`).

    Args:
        minutes: the budget for all of it, calibration and report included.
        obj_ids: objects to learn.
        workers: processes that draw samples; None: one, on a GPU one per core.
        seed: of all randomness.
        patience: minutes an object.
    """
    gpu = torch.cuda.is_available()
    few = {} if gpu else {"input_size": 96, "output_size": 48}  # smaller crops, many more of them in the same time
    shares = {"coordinates": 0.6, "detector": 0.4}
    if weights.base("refiner") is None:
        shares = {"coordinates": 0.45, "detector": 0.25, "refiner": 0.3}
    if not gpu and minutes < patience * len(obj_ids) and weights.base("silhouettes") is not None:
        shares = {"detector": 1.0}
    rest = minutes - min(RESERVED * minutes, MOST_RESERVED)
    plain = TrainConfig(workers=workers or (os.cpu_count() or 1 if gpu else 1), seed=seed, steps=1_000_000)
    how = {
        "coordinates": (training.make_config("coordinates", obj_ids, None, few), replace(plain, batch_size=64 if gpu else 24)),
        "detector": (training.make_config("detector", obj_ids), replace(plain, batch_size=16 if gpu else 8)),
        "refiner": (
            training.make_config("refiner", obj_ids, None if gpu else "small"),
            replace(plain, batch_size=16 if gpu else 8, lr=6e-4),
        ),
    }
    return [Stage(m, share * rest, how[m][0], replace(how[m][1], minutes=share * rest)) for m, share in shares.items()]


def run(
    data: str | Path,
    out: str | Path,
    *,
    minutes: float = WHOLE,
    obj_ids: tuple[int, ...] = (),
    backgrounds: str | Path | None = None,
    scene: synth.SceneConfig | None = None,
    workers: int | None = None,
    seed: int = 0,
    images: tuple[int, int] | None = None,
    plan: list[Stage] | None = None,
    progress_bar: bool = True,
) -> dict[str, Any]:
    """Train, calibrate, report; goes on where an earlier, killed call stopped.

    Args:
        data: a BOP folder with models/ (and camera.json), or a models folder.
        out: run folder; created.
        minutes: wall-clock budget of all of it; more than before goes on with a finished run.
        obj_ids: objects to learn; () for all.
        backgrounds: folder of photos to put behind the objects; None: procedural ones.
        scene: where objects may be; None: distances that fit the objects and the camera.
        workers, seed: see `stages`.
        images: scenes to calibrate on, and to report on; None: as the budget allows.
        plan: the networks; None: those of `stages`.
        progress_bar: show bars, and say what is going on.

    Returns:
        what `report.Report.as_dict` says, "calibration" with why there is none, or "", and "run".

    Raises:
        ValueError: as `training.train`; a budget that is not above 0.
        KeyboardInterrupt: somebody interrupted; what was done is saved, and the message says so.
    """
    if not minutes > 0:
        raise ValueError(f"--minutes must be above 0, got {minutes:g}")
    data, out = Path(data), Path(out)
    try:
        return _run(data, out, minutes, obj_ids, backgrounds, scene, workers, seed, images, plan, progress_bar)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or f"{out} keeps what is done; the same command goes on") from None


def _run(
    data: Path,
    out: Path,
    minutes: float,
    obj_ids: tuple[int, ...],
    backgrounds: str | Path | None,
    scene: synth.SceneConfig | None,
    workers: int | None,
    seed: int,
    images: tuple[int, int] | None,
    plan: list[Stage] | None,
    progress_bar: bool,
) -> dict[str, Any]:
    ids = obj_ids or tuple(training.read_infos(data))
    if plan is None:
        begun = (out / "coordinates.safetensors").is_file()
        upright = scene is not None and scene.upright
        plan = stages(minutes, ids, workers, seed, 0.0 if begun else UPRIGHT if upright else PATIENCE)
    searched = all(stage.method == "detector" for stage in plan)
    wished = max(FEWEST, round(CALIBRATED_ON * min(minutes / WHOLE, 1)))
    to_calibrate, to_report = (wished, min(wished // 2, report.usual_images())) if images is None else images
    if searched:
        to_report = min(to_report, report.SEARCHED_IMAGES)
    names = [*(stage.method for stage in plan), *([] if searched else ["calibration"]), "report"]

    def announce(name: str, words: str) -> None:
        progress.announce(f"{names.index(name) + 1} of {len(names)}: {name}, {words}", progress_bar)

    for stage in plan:
        announce(stage.method, progress.duration(stage.minutes))
        start = out / "coordinates.safetensors" if stage.method == "refiner" else None
        training.train(
            stage.method, data, out, obj_ids=ids, init=start, backgrounds=backgrounds, scene=scene, config=stage.train,
            method_config=_started_with(out, stage), progress_bar=progress_bar,
        )  # fmt: skip
    if searched:
        why = f"poses are searched for, which takes seconds each; take the time: monopose calibrate {out} --data {data}"
    else:
        announce("calibration", f"{to_calibrate} scenes")
        why = "" if is_calibrated(out) else _calibrate(out, data, to_calibrate, backgrounds, progress_bar)
    announce("report", f"{to_report} scenes")
    summary = out / report.SUMMARY
    made_from = [*weights.weights_in(out).values(), out / calibration.FILE]
    if summary.is_file() and all(summary.stat().st_mtime_ns >= p.stat().st_mtime_ns for p in made_from if p.is_file()):
        found: dict[str, Any] = records.read_json(summary)
    else:
        made = report.run(out, data, images=to_report, backgrounds=backgrounds, progress_bar=progress_bar)
        found = json.loads(json.dumps(made.as_dict()))
    shutil.rmtree(out / "checkpoints", ignore_errors=True)  # more minutes go on from the weights
    return found | {"calibration": why, "run": str(out)}


def _started_with(out: Path, stage: Stage) -> Any:
    """The configuration of a stage that has begun, perhaps on another machine or by itself; else that of the plan."""
    file = out / f"{stage.method}.json"
    if not file.is_file():
        return stage.config
    return weights.build_config(type(stage.config), records.read_json(file)["config"], str(file))


def is_calibrated(out: Path) -> bool:
    """Whether the run has a calibration of just these weights."""
    files = {m: p for m, p in weights.weights_in(out).items() if m in ("coordinates", "detector")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return calibration.read(out, files) is not None


def _calibrate(out: Path, data: Path, images: int, backgrounds: str | Path | None, progress_bar: bool) -> str:
    """Calibrate a run; returns why that cannot be done, or ""."""
    try:
        calibrate.run(out, data, images=images, backgrounds=backgrounds, progress_bar=progress_bar)
    except calibrate.TooFew as error:
        (out / calibration.FILE).unlink(missing_ok=True)  # of weights that are no more
        return str(error)
    return ""


def text(found: Mapping[str, Any]) -> str:
    """What `run` returned, for people."""
    outcomes = ", ".join(f"{count} {name}" for name, count in found["outcomes"].items() if count)
    lines = [found["verdict"], f"{found['targets']} objects in {found['pictures']}: {outcomes}"]
    lines += [f"not calibrated: {found['calibration']}"] if found["calibration"] else []
    lines += [f"try: {line}" for line in found["advice"]]
    return "\n".join([*lines, f"report: {found['report']}", f"run: {found['run']}"])
