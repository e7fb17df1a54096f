"""What a prediction leaves behind: overlays, JSON for programs, BOP CSV for scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .io.files import atomic_write, write_json
from .types import Frame, ObjectModel, PoseEstimates

if TYPE_CHECKING:
    from .evaluation.calibration import Reliability
    from .objects.probabilistic import Belief
    from .objects.refinement import Course

GIF_STEP_MS = 300  # every step is shown for so long, milliseconds; the last one four times
UNITS = "metres, radians, pixels; OpenCV camera: x right, y down, z forward; x_cam = cam_from_obj x_obj"


def pose_records(poses: PoseEstimates) -> list[dict[str, Any]]:
    """One dict of plain numbers per pose: label, name, score, cam_from_obj (4 rows), covariance and box if known,
    whether it was refined if that was asked."""
    poses = poses.to("cpu")
    records = []
    for i in range(len(poses)):
        label = int(poses.labels[i])
        record: dict[str, Any] = {"label": label, "name": poses.names.get(label, ""), "score": float(poses.scores[i])}
        record["cam_from_obj"] = poses.cam_from_obj[i].double().tolist()
        if poses.covariance is not None:
            record["covariance"] = poses.covariance[i].double().tolist()
        if poses.boxes is not None:
            record["box"] = poses.boxes[i].double().tolist()
        if poses.converged is not None:
            record["refined"] = bool(poses.converged[i])
        records.append(record)
    return records


def frame_record(name: str, frame: Frame, poses: PoseEstimates) -> dict[str, Any]:
    """The poses of one picture with its camera and the seconds they took."""
    return {
        "image": frame.path or name,
        "size": list(frame.camera.size),
        "K": frame.camera.K.double().tolist(),
        "seconds": dict(poses.seconds),
        "poses": pose_records(poses),
    }


def save_overlay(path: str | Path, frame: Frame, poses: PoseEstimates, models: Mapping[int, ObjectModel]) -> Path:
    """The picture with the poses on it, as PNG or by the suffix of `path`."""
    from . import viz

    path = Path(path)
    with atomic_write(path) as temporary:
        viz.draw(frame, poses, models).save(temporary)
    return path


def save_reliability(path: str | Path, found: Mapping[str, Reliability]) -> Path:
    """Reliability diagrams under their titles, two in a row, as PNG or by the suffix of `path`."""
    from . import viz

    path = Path(path)
    pictures = [viz.reliability_diagram(table, title) for title, table in found.items()]
    with atomic_write(path) as temporary:
        viz.contact_sheet(pictures, columns=min(len(pictures), 2), width=500).save(temporary)
    return path


def save_posteriors(
    folder: str | Path, frame: Frame, beliefs: Sequence[Belief], models: Mapping[int, ObjectModel]
) -> list[Path]:
    """What is believed about every object of a picture, one PNG each, object_ID_DETECTION.png: the distribution of its
    orientation, that of its translation, and samples of the pose over the picture, as contours where the mesh is known."""
    from . import viz

    paths = []
    for belief in beliefs:
        if not belief.converged:
            continue
        model, covariance = models.get(belief.label), belief.covariance
        mode = belief.modes[0]
        pictures = [
            viz.draw_samples(frame, belief.samples, belief.log_weights, belief.bounds, model=model),
            viz.orientation_density(belief.samples, belief.log_weights, belief.modes, covariance=covariance),
            viz.translation_scatter(belief.samples, belief.log_weights, mode=mode, covariance=covariance),
        ]
        paths.append(Path(folder) / f"object_{belief.label}_{belief.detection}.png")
        with atomic_write(paths[-1]) as temporary:
            viz.contact_sheet(pictures, columns=1, width=1000).save(temporary, format="PNG")
    return paths


def save_refinement(folder: str | Path, frame: Frame, courses: Sequence[Course]) -> list[Path]:
    """How every object of a picture was refined: the iterations with what they saw, 2_object_ID_ROW_refined.png, and their
    contours one after the other in a GIF beside it."""
    if not courses:
        return []
    from .objects import viz as viz_refiner

    paths = []
    for course in courses:
        path = Path(folder) / f"2_object_{course.model.obj_id}_{course.row}_refined.png"
        with atomic_write(path) as temporary:
            viz_refiner.strip(frame, course).save(temporary, format="PNG")
        with atomic_write(path.with_suffix(".gif")) as temporary:
            first, *others = viz_refiner.animation(frame, course)
            pause = [GIF_STEP_MS] * len(others) + [4 * GIF_STEP_MS]
            first.save(temporary, format="GIF", save_all=True, append_images=others, duration=pause, loop=0)
        paths += [path, path.with_suffix(".gif")]
    return paths


def save_poses(folder: str | Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """`frame_record`s of several pictures as poses.json."""
    path = Path(folder) / "poses.json"
    write_json(path, {"units": UNITS, "images": list(records)})
    return path


def save_results(folder: str | Path, poses: Iterable[PoseEstimates], method: str = "monopose") -> Path:
    """Poses of several pictures as a BOP result file: scene 0, images 0, 1, … in their order."""
    from .datasets.bop.results import results_name, results_of, write_results

    path = Path(folder) / results_name(method, "images")
    return write_results(path, [results_of(p, 0, i) for i, p in enumerate(poses)])
