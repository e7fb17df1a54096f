"""`monopose report`: is a run good enough? Rendered scenes that it never saw, its poses, and what became of each object.

`run` measures and sums up; `objects.report_page` makes the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import weights
from ..evaluation import calibration
from ..evaluation.bop import Object
from ..geometry import boxes as box_ops
from ..io import records
from ..io.bars import watched
from ..io.files import atomic_write, or_warned, write_json
from ..synthesis import blender, bop_folder
from ..training import progress
from ..types import Frame, Instances, PoseEstimates
from ..viz.errors import Share
from . import calibrate, judging, pipeline, report_page, search

Array = NDArray[Any]

SEED = 55_055  # of the scenes; apart from those of training, of its held-out samples and of calibration
IMAGES, TRACED_IMAGES = 100, 24  # scenes; path-traced ones take ten to thirty seconds each
SEARCHED_IMAGES = 20  # where each pose is searched for, which takes as long
FILE, SUMMARY = "report.html", "report.json"
FEW = (1, 2)  # objects in a picture where each is searched for
VISIBLE = 0.1  # objects of which less is seen are not asked for
OVERLAP = 0.5  # box IoU from which a box, or an estimate, is about an object
OUTCOMES = ("right", "wrong pose", "no pose in its box", "filtered", "no box")
BINS = 5  # of equal counts, for distance and size
VISIBILITY_BINS = (0.1, 0.4, 0.7, 0.95, 1.0)
TURNED = 150.0  # degrees from which a wrong pose looks like a missing symmetry


@dataclass(frozen=True)
class Target:
    """A visible object in a held-out picture, and what became of it.

    Args:
        picture: number of the picture.
        label: object id.
        distance: of its origin from the camera, metres.
        size: longer side of its box, pixels.
        visibility: share of its silhouette that is seen.
        outcome: one of `OUTCOMES`.
        score: of its estimate, nan without one.
        share, mm, deg: error of its estimate, see `judging.Error`; inf without one.
        depth_mm: part of the error along the line of sight, nan without an estimate.
    """

    picture: int
    label: int
    distance: float
    size: float
    visibility: float
    outcome: str
    score: float = math.nan
    share: float = math.inf
    mm: float = math.inf
    deg: float = math.inf
    depth_mm: float = math.nan


@dataclass(frozen=True)
class Report:
    """What was measured of a run on held-out pictures.

    Args:
        run: its folder.
        targets: every visible object.
        scores, right: of every estimate, also of those of nothing.
        calibrated: whether scores are probabilities.
        looked: how the pictures were made, in words.
        names: object id -> name.
        curves: method -> lines of `training.progress`.
        refined: whether the run's refiner worked on the poses.
        worst: the targets that are worst, the worst first, and their pictures with truth and estimate.
        trained: whether anything was trained on the objects, a detector at least.
        file: the page, "" if none was written.
    """

    run: str
    targets: list[Target]
    scores: Array
    right: Array
    calibrated: bool
    looked: str
    names: dict[int, str]
    curves: dict[str, list[dict[str, Any]]]
    refined: bool
    worst: list[tuple[Target, Any]]
    trained: bool = True
    file: str = ""

    @property
    def share(self) -> float:
        return float(np.mean([t.outcome == "right" for t in self.targets])) if self.targets else 0.0

    def median(self, name: str) -> float:
        """Of "mm" or "deg" over all targets; inf if half of them have no estimate."""
        return float(np.median([getattr(t, name) for t in self.targets])) if self.targets else math.inf

    def outcomes(self) -> dict[str, int]:
        return {name: sum(t.outcome == name for t in self.targets) for name in OUTCOMES}

    def verdict(self) -> str:
        """How good it is, and whether more training is worth it, in one sentence."""
        medians = {"mm": self.median("mm"), "deg": self.median("deg")} if self.found_half else {}
        line = {"of": len(self.targets), "right": self.share, **medians}
        ahead = [progress.outlook([*lines[:-1], {**lines[-1], **line}]) for lines in self.curves.values() if lines]
        better = next((text for text in ahead if text.startswith("still")), ahead[0] if ahead else "")
        return progress.figures_text(line) + (f"; {better}" if better else "")

    @property
    def found_half(self) -> bool:
        return math.isfinite(self.median("mm"))

    def by(self) -> dict[str, list[Share]]:
        """The share right by what makes a pose hard."""
        named = {"distance": "metres to the camera", "size": "pixels in the picture", "visibility": "share that is seen"}
        edges = {"visibility": np.array(VISIBILITY_BINS)}
        return {
            words: shares([getattr(t, name) for t in self.targets], self._right(), edges.get(name))
            for name, words in named.items()
        }

    def by_object(self) -> dict[str, Share]:
        right, labels = self._right(), np.array([t.label for t in self.targets])
        return {self.names[i]: _share(right[labels == i], i, i) for i in self.names if (labels == i).any()}

    def _right(self) -> Array:
        return np.array([t.outcome == "right" for t in self.targets], bool)

    def thresholds(self) -> list[dict[str, float]]:
        """For least scores: how many estimates are left, how many of them are right, and for what share of the targets."""
        count = max(len(self.targets), 1)
        rows = []
        for least in (0.0, 0.25, 0.5, 0.75, 0.9, 0.95):
            kept = self.scores >= least
            hits = int(self.right[kept].sum())
            right = hits / max(int(kept.sum()), 1)
            rows.append({"least": least, "estimates": int(kept.sum()), "right": right, "found": min(hits / count, 1.0)})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by name, for JSON; null where nothing is known."""
        finite = lambda value: value if not isinstance(value, float) or math.isfinite(value) else None  # noqa: E731
        reliability = calibration.reliability(self.scores, self.right).as_dict()
        return {
            "verdict": self.verdict(), "targets": len(self.targets), "right": self.share,
            "median_mm": finite(self.median("mm")), "median_deg": finite(self.median("deg")),
            "outcomes": self.outcomes(), "pictures": self.looked,
            "by": {name: [b._asdict() for b in bins] for name, bins in self.by().items()},
            "by_object": {name: b._asdict() for name, b in self.by_object().items()},
            "calibrated": self.calibrated, "reliability": reliability, "thresholds": self.thresholds(),
            "training": {k: progress.verdict(lines) for k, lines in self.curves.items()}, "more_training": more_training(self),
            "advice": advice(self), "worst": [{k: finite(v) for k, v in asdict(t).items()} for t, _ in self.worst],
            "report": self.file,
        }  # fmt: skip

    def text(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in self.outcomes().items() if count)
        lines = [self.verdict(), f"{len(self.targets)} objects in {self.looked}: {outcomes}"]
        lines += [f"try: {line}" for line in advice(self)]
        return "\n".join([*lines, *([f"report: {self.file}"] if self.file else [])])


def run(
    name: str | Path,
    data: str | Path | None = None,
    *,
    images: int | None = None,
    backgrounds: str | Path | None = None,
    seed: int = SEED,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    progress_bar: bool = True,
) -> Report:
    """Render scenes, predict, compare, write the page, and report.json in the run folder.

    Args:
        name: a run folder; or a folder of CAD models for which nothing was trained, see `objects.search`. A run without a
            detector is given the true boxes.
        data: BOP folder with models/ (and camera.json), or a models folder; None: the one that the run was trained on.
        images: how many scenes, drawn by Blender where it can be imported, else as for training; None: see `usual_images`.
        backgrounds: folder of photos to put behind the objects; None: procedural ones.
        seed: of the scenes.
        device: where the networks run; None: CUDA if there is one.
        out: the page; None: report.html in the run folder, or where `page_of` has it; report.json is beside it.
        progress_bar: show one.

    Raises:
        FileNotFoundError, ValueError: no such run; no data, or no CAD model of an object that the run knows; fewer than one
            scene.
    """
    if images is not None and images < 1:
        raise ValueError(f"a report needs at least one picture, got {images}")
    model = pipeline.load(name, device)
    searched = isinstance(model.estimator, search.Model)
    trained = not searched or model.detector is not None
    if images is None:
        images = SEARCHED_IMAGES if searched else usual_images()
    own = model.path if trained else Path(out or page_of(model.path)).parent
    if data is None:
        data = data_of(model.path) if trained else model.path
    model, source, objects, _ = calibrate.with_scenes(model, Path(data), backgrounds)
    if searched:
        source = replace(source, scene=replace(source.scene, objects=FEW))
    traced = blender.is_there()
    frames = (blender.PathTraced if traced else bop_folder.Frames)(source, range(images), seed)
    looked = (
        f"{images} pictures {'path-traced by Blender' if traced else 'rendered'} with other lights and places (seed {seed})"
        + ", in true boxes" * (model.detector is None)
    )
    targets: list[Target] = []
    scores, right = [], []

    def shown() -> Iterator[tuple[int, Frame]]:
        yield from ((n, frames[n][0]) for n in watched(range(images), "pictures", images, progress_bar))

    kept: dict[int, PoseEstimates] = {}
    for n, frame in shown():
        assert frame.instances is not None
        given = None if model.detector is not None else calibrate.true_boxes(frame.instances, set(objects))
        poses, trace = model.predict_counted(replace(frame, instances=None), given)
        poses = kept[n] = poses.to("cpu")
        mine, answers = judged(n, frame.instances, poses, trace, objects)
        targets += mine
        scores += poses.scores.tolist()
        right += answers
    wrong = [t for t in targets if t.outcome != "right"]  # the most wrong poses first, then what should have been seen best
    worst = sorted(wrong, key=lambda t: (-t.share if math.isfinite(t.share) else 0.0, -t.visibility))[: report_page.WORST]
    pictures = [(t, report_page.close_up(frames[t.picture][0], kept[t.picture], t, model.models)) for t in worst]
    curves = {m: progress.read(model.path, m) for m in weights.weights_in(model.path)}
    found = Report(
        str(model.path), targets, np.array(scores, np.float64), np.array(right, bool), model.calibration is not None, looked,
        model.names, {m: lines for m, lines in curves.items() if lines}, model.refines(), pictures, trained,
        str(Path(out) if out is not None else own / FILE),
    )  # fmt: skip
    with or_warned("the report's page"):
        with atomic_write(found.file) as temporary:
            temporary.write_text(report_page.page(found, more_training(found), advice(found)), encoding="utf-8")
        write_json(own / SUMMARY, found.as_dict())
        return found
    return replace(found, file="")


def usual_images() -> int:
    """How many scenes a report takes."""
    return TRACED_IMAGES if blender.is_there() else IMAGES


def page_of(source: Path) -> Path:
    """Where the page goes of CAD models for which nothing is trained."""
    return Path("out/report") / source.resolve().stem / FILE


def data_of(folder: Path) -> Path:
    """The data that a run was trained on, as its METHOD.json names it.

    Raises:
        ValueError: it names none, or that is not there any more.
    """
    for method in ("coordinates", "probabilistic", "detector"):
        file = folder / f"{method}.json"
        noted = Path(records.read_json(file)["data"]) if file.is_file() else None
        if noted is not None and noted.is_dir():
            return noted
    raise ValueError(f"{folder} does not say where the data lies that it was trained on, or it is gone; name it: --data DIR")


def judged(
    picture: int, truth: Instances, poses: PoseEstimates, trace: pipeline.Trace, objects: Mapping[int, Object]
) -> tuple[list[Target], list[bool]]:
    """What became of every visible object of a picture, and which estimates are right.

    An estimate is about the object of its kind whose pose is nearest to it, if that is within half a diameter or their boxes
    overlap; each object takes the best one about it.
    """
    assert truth.boxes is not None
    assert truth.visibility is not None
    true, est = truth.cam_from_obj.double().numpy(), poses.cam_from_obj.double().numpy()
    about: dict[int, tuple[int, judging.Error]] = {}  # row of the truth -> row of its estimate, which is the best scored one
    answers = []
    for e in range(len(poses)):  # best score first
        label = int(poses.labels[e])
        rows = (truth.labels == label).nonzero().flatten().tolist()
        errors = {t: judging.judge(est[e], true[t], objects[label]) for t in rows}
        answers.append(any(error.share < calibration.LIMIT for error in errors.values()))
        for t in sorted((t for t in rows if t not in about), key=lambda t: errors[t].share):
            near = poses.boxes is not None and float(box_ops.iou(poses.boxes[e : e + 1], truth.boxes[t : t + 1])) > OVERLAP
            if near or errors[t].share < OVERLAP:
                about[t] = e, errors[t]
                break
    found = []
    detections = trace.detections.to("cpu")
    for t in range(len(truth)):
        label, visibility = int(truth.labels[t]), float(truth.visibility[t])
        if visibility < VISIBLE or label not in objects:
            continue
        box = truth.boxes[t]
        size = float((box[2:] - box[:2]).max())
        row = Target(picture, label, float(np.linalg.norm(true[t, :3, 3])), size, visibility, "no box")
        if t in about:
            e, error = about[t]
            outcome = "right" if error.share < calibration.LIMIT else "wrong pose"
            depth = 1000 * float(est[e, 2, 3] - true[t, 2, 3])
            row = replace(row, outcome=outcome, score=float(poses.scores[e]), **error._asdict(), depth_mm=depth)
        elif len(detections):
            seen = detections.labels == label
            if bool((box_ops.iou(detections.boxes[seen], box[None]) > OVERLAP).any()):
                lost = int((trace.solved == label).sum()) > int((poses.labels == label).sum())
                row = replace(row, outcome="filtered" if lost else "no pose in its box")
        found.append(row)
    return found, answers


# ------------------------------------------------------------------------------------------------------------ summing up


def shares(values: Sequence[float], right: Array, edges: Array | None = None) -> list[Share]:
    """The share that is right in bins of the values, between the given edges or of equal counts; empty bins are left out."""
    x = np.asarray(values, np.float64)
    if not len(x):
        return []
    if edges is None:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, min(BINS, max(len(x) // 4, 1)) + 1)))
    if len(edges) < 2:
        return [_share(right, float(x[0]), float(x[0]))]
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    bins = (_share(right[place == b], float(edges[b]), float(edges[b + 1])) for b in range(len(edges) - 1))
    return [b for b in bins if b.total]


def _share(right: Array, low: float, high: float) -> Share:
    hits, count = int(right.sum()), len(right)
    lower, upper = calibration.wilson(hits, count)
    return Share(low, high, count, hits / max(count, 1), float(lower), float(upper))


def more_training(report: Report) -> list[str]:
    """What more training would buy, network by network, from how it went so far."""
    if not report.trained:
        return ["Nothing was trained: training finds the object by itself, tells how sure it is, and is ten times as fast."]
    lines = []
    for method, curve in report.curves.items():
        text = f"{method}: after {progress.duration(curve[-1]['minutes'])} {progress.verdict(curve)}."
        key = next((k for k in ("right", "found") if k in curve[-1]), None)
        late = [line for line in curve if key in line and line["minutes"] >= curve[-1]["minutes"] / 2]
        if key and len(late) >= 4 and progress.improving(curve):
            slope = float(np.polyfit(np.log2([line["minutes"] for line in late]), [line[key] for line in late], 1)[0])
            now = late[-1][key]
            reach = min(now + max(slope, 0.0), 1.0)
            text += (
                f" Twice the time would bring {progress.share_text(reach)} at most, if it went on as in its second half, when "
                "the learning rate fell."
            )
        lines.append(text)
    return lines or ["The run folder has no progress.jsonl, so how its networks got better is not known."]


def advice(report: Report) -> list[str]:
    """What to try, the most promising first."""
    total, outcomes = max(len(report.targets), 1), report.outcomes()
    wrong = [t for t in report.targets if t.outcome == "wrong pose"]
    tips: list[tuple[float, str]] = []
    if (lost := outcomes["no box"] / total) > 0.1:
        tips.append(
            (lost, f"{lost:.0%} of the objects get no box: train the detector longer, or let it dare more (--score 0.1)")
        )
    if (lost := outcomes["no pose in its box"] / total) > 0.05:
        tips.append((lost, f"{lost:.0%} get a box but no pose: train coordinates longer"))
    if (lost := outcomes["filtered"] / total) > 0.05:
        tips.append((lost, f"{lost:.0%} have a pose that was filtered out: lower the least probability if misses cost more"))
    turned = [t for t in wrong if t.deg > TURNED]
    if len(turned) > max(3, 0.2 * len(wrong)):
        text = (
            f"{len(turned)} of {len(wrong)} wrong poses are turned by more than {TURNED:g} degrees: has the object a symmetry "
            "that models_info.json does not name? monopose check MESH proposes them. If it looks alike from afar, come nearer"
        )
        tips.append((len(turned) / total, text))
    along = [t for t in report.targets if math.isfinite(t.mm) and abs(t.depth_mm) > 0.8 * t.mm and t.deg < 20]
    if len(along) > 0.5 * total and report.median("mm") > 3:
        refiner = "a refiner helps" if not report.refined else "larger crops help (--set input_size=160 output_size=80)"
        tips.append((0.05, f"most of the error lies along the line of sight: {refiner}, and so does a longer focal length"))
    size, seen = (report.by()[name] for name in ("pixels in the picture", "share that is seen"))
    if len(size) > 1 and size[0].upper < size[-1].lower:
        share = f"{size[0].right:.0%} right below {size[0].high:.0f} pixels, {size[-1].right:.0%} above {size[-1].low:.0f}"
        tips.append((0.1, f"small objects are harder ({share}): come nearer, or take a longer focal length or more pixels"))
    if len(seen) > 1 and seen[0].upper < seen[-1].lower:
        tips.append(
            (0.05, f"hidden objects are harder ({seen[0].right:.0%} right below {seen[0].high:.0%} visible): avoid heaps")
        )
    ahead = [m for m, curve in report.curves.items() if "still" in progress.outlook(curve)]
    if ahead and report.share < progress.ENOUGH:
        tips.append((0.5 * (1 - report.share), f"more time: {' and '.join(ahead)} were still improving"))
    lines = [text for _, text in sorted(tips, key=lambda tip: -tip[0])]
    if not report.trained and report.share < progress.ENOUGH:
        lines.append("train on these CAD models: monopose train all --data MESH --out RUN --minutes 120")
    if report.trained and not report.calibrated:
        lines.append(f"the scores are raw: monopose calibrate {report.run} --data DIR makes probabilities of them")
    if total < 50:
        lines.append(f"{total} objects are few: --images {2 * IMAGES} tells more")
    return lines
