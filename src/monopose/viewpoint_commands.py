"""What the command line does with viewpoints: pictures, whole data sets, scores and synthetic data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from . import outputs, viewpoint_pipeline, viz, viz_viewpoint
from .data import pix3d
from .evaluation import viewpoint as scoring
from .files import atomic_write, write_json
from .geometry import boxes as box_ops
from .types import Detections, ObjectModel, PoseEstimates
from .viewpoint_pipeline import ViewpointRun

UNITS = "degrees, pixels; the object stands with +Z up and its front towards -Y; boxes x0, y0, x1, y1 on pixel edges"
DRAWN_FOV = 50.0  # horizontal field of view in degrees that silhouettes are drawn with where no camera is known
Split = Literal["image", "shape", "all"]


@dataclass(frozen=True)
class Pictures:
    """What `predict_pictures` wrote."""

    viewpoints: str
    poses: str | None
    images: list[dict[str, Any]]
    stopped: bool = False

    def text(self) -> str:
        lines = []
        for image in self.images:
            lines.append(f"{image['image']} -> {image['overlay']}")
            for row in image["objects"]:
                angles = (f"{name} {row[f'{key}_deg']:6.1f}°" for name, key in _NAMES)
                best = (f"{max(p):.2f}" for p in row["probabilities"])
                lines.append("  " + "  ".join(f"{a} ({p})" for a, p in zip(angles, best)))
        lines.append(f"viewpoints: {self.viewpoints}" + (f", poses: {self.poses}" if self.poses else ""))
        return "\n".join(lines)


_NAMES = (("azimuth", "azimuth"), ("elevation", "elevation"), ("in-plane", "inplane"))


def predict_pictures(
    run: ViewpointRun, source: str, out: str | Path, *, boxes: Sequence[str] = (), mask: str | Path | None = None,
    camera: str | Path | None = None, fov_deg: float | None = None, resize_camera: bool = False,
    size: tuple[float, float, float] | None = None, model: ObjectModel | None = None, limit: int | None = None,
    debug: bool = False,
) -> Pictures:  # fmt: skip
    """Viewpoints in an image, a folder, a video or from a live camera.

    Without boxes an object fills its mask, or the whole picture where there is none.

    Args:
        run: a trained run.
        source: as `images.iterate_frames` takes it.
        out: folder for overlays and viewpoints.json; poses.json where camera and size are known.
        boxes: see `external_boxes.read_boxes`.
        mask: picture of the only object's mask, white where it is.
        camera, fov_deg, resize_camera: of the pictures.
        size: width (X), depth (Y) and height (Z) of the objects, metres.
        model: their CAD model, instead; its silhouette is drawn.
        limit: stop after this many pictures.
        debug: save the crops the network saw, and the azimuth's probabilities, in OUT/debug.
    """
    from . import images

    if size is not None and model is not None:
        raise ValueError("--size-m and --mesh both say how large the object is; give one of them")
    known = camera is not None or fov_deg is not None
    if size is not None and not known:
        raise ValueError("a size gives a pose only with a camera: --camera FILE, or --fov DEGREES")
    points = None if size is None else viewpoint_pipeline.box_corners(size)
    points = model.vertices if model is not None else points
    find = _boxes_of(boxes)
    outline = None if mask is None else _read_mask(Path(mask))
    records: list[dict[str, Any]] = []
    posed: list[dict[str, Any]] = []
    out, stopped = Path(out), False

    def save() -> tuple[Path, Path | None]:
        file = out / "viewpoints.json"
        write_json(file, {"units": UNITS, "bins": run.config.bins, "images": records})
        return file, outputs.save_poses(out, posed) if posed else None

    frames = images.iterate_frames(source, camera, fov_deg=fov_deg if known else DRAWN_FOV, resize_camera=resize_camera)
    try:
        for name, frame in frames:
            given, masks = _objects(find, frame.path or name, frame.image, outline)
            seen = run.predict(frame.image, given.boxes, masks)
            pose = None
            if points is not None:
                label, called = (model.obj_id, model.name) if model is not None else (1, "object")
                pose = viewpoint_pipeline.poses(seen, given.boxes, frame.camera, points, label, called)
                if known:
                    posed.append(outputs.frame_record(name, frame, pose))
            overlay = out / f"{name}_overlay.png"
            with atomic_write(overlay) as temporary:
                _overlay(frame, given.boxes, seen, pose, model).save(temporary)
            if debug:
                _save_debug(out / "debug", name, run, frame.image, given.boxes, masks, seen)
            objects = run.records(seen, given.boxes)
            records.append({"image": frame.path or name, "overlay": str(overlay), "objects": objects})
            if limit is not None and len(records) >= limit:
                break
    except KeyboardInterrupt:  # the way to end a live camera
        stopped = True
    except Exception:  # a broken picture among many: keep what came before it
        if records:
            save()
        raise
    file, poses = save()
    return Pictures(str(file), None if poses is None else str(poses), records, stopped)


def _boxes_of(boxes: Sequence[str]) -> Any:
    """A function from a picture's name to its `Detections`, or None. Any object is an object: numbers mean nothing."""
    if not boxes:
        return None
    from .external_boxes import read_boxes

    file = len(boxes) == 1 and Path(boxes[0]).suffix.lower() == ".json"
    return read_boxes(boxes, range(100_000) if file else (1,))


def _objects(find: Any, name: str, image: Tensor, mask: Tensor | None) -> tuple[Detections, Tensor | None]:
    height, width = image.shape[-2:]
    if mask is not None and tuple(mask.shape) != (height, width):
        raise ValueError(
            f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels (width x height), {name} is {width} x {height}; "
            "it must belong to the same picture"
        )
    if find is not None:
        given = find(name)
        if mask is not None and len(given) != 1:
            raise ValueError(f"--mask is that of one object, but {len(given)} boxes are given for {name}; give one box")
        return given, None if mask is None else mask[None]
    whole = torch.tensor([[0.0, 0.0, width, height]]) if mask is None else box_ops.from_masks(mask[None])
    return Detections(torch.ones(1).long(), whole, torch.ones(1)), None if mask is None else mask[None]


def _read_mask(path: Path) -> Tensor:
    """(H, W), bool: brighter than half of the brightest value."""
    from .images import read_image

    values = read_image(path).amax(0)
    if not float(values.max()) > 0:
        raise ValueError(f"{path} is an empty mask; expected white where the object is")
    return values > values.max() / 2


def _overlay(frame: Any, boxes: Tensor, seen: Any, pose: PoseEstimates | None, model: ObjectModel | None) -> Any:
    """The axes of each object, and its silhouette where the mesh is known."""
    texts = [viz_viewpoint.caption(a, p) for a, p in zip(seen.angles, seen.probabilities)]
    return viz_viewpoint.draw(frame.image, boxes, seen.angles, texts, model=model, poses=pose, camera=frame.camera)


def _save_debug(folder: Path, name: str, run: ViewpointRun, image: Tensor, boxes: Tensor, masks: Any, seen: Any) -> None:
    crops = run.crops(image, boxes, masks)
    for i, crop in enumerate(crops):
        bins = run.model.bins[0]
        rose = viz_viewpoint.azimuth_rose(seen.probabilities[i, 0], bins, float(seen.angles[i, 0]))
        shown = [crop[:3], crop[3], crop[4], crop[5:8], rose]
        with atomic_write(folder / f"{name}_{i}.png") as temporary:
            viz.side_by_side(shown, ["photo", "mask", "boundaries", "normals", "azimuth"], 300).save(temporary)


# ------------------------------------------------------------------------------------------------------ whole data sets


def predict_pix3d(
    run: ViewpointRun, data: str | Path, out: str | Path, *, by: Split | None = None, seed: int = 0,
    corrupt: str | None = None, normals: Literal["oracle", "files", "predicted"] | None = None, limit: int | None = None,
) -> Path:  # fmt: skip
    """Predict the validation pictures of a Pix3D data set and write predictions.json.

    Args:
        run: a trained run.
        data: the data set's folder.
        out: the file.
        by: the split whose validation part is taken, see `pix3d.split`; "all": every picture, for runs that have learned from
            none of them; None: the split that the run's training left out.
        seed: of the split.
        corrupt: KIND:STRENGTH, what is wrong with the masks, e.g. dilate:0.1, see `viewpoint_crops.corrupt`.
        normals: where they come from, see `viewpoint_pipeline.predict_records`.
        limit: only the first so many pictures.

    Raises:
        ValueError: the run was trained with another split, so its training pictures would be among these.
    """
    trained = run.trained.get("split_by") if _learned_from(run, Path(data)) else None
    chosen = by or trained or "image"
    if trained is not None and chosen != "all" and (chosen, seed) != (trained, 0):
        raise ValueError(
            f"{run.path} learned from {data}, split by {trained} with seed 0; validation pictures of the split by {chosen}, "
            f"seed {seed}, are partly those it learned from. Leave --by out, or train on that split"
        )
    corruption = None if corrupt is None else _corruption(corrupt)
    records = pix3d.read(data, categories=run.config.categories)
    share = float(run.trained.get("share", 0.1)) if trained is not None else 0.1
    if chosen != "all":
        records = pix3d.split(records, chosen, seed, share)[1]  # type: ignore[arg-type]
    records = records[:limit]
    if not records:
        raise ValueError(f"{data} has no picture in the validation part of the split by {chosen}; try --by all")
    seen = viewpoint_pipeline.predict_records(run, records, corruption=corruption, normals=normals)
    about: dict[str, Any] = {"by": chosen, "seed": seed, "share": share, "corrupt": corrupt, "limit": limit}
    about["normals"] = viewpoint_pipeline.normals_of(run, normals)
    write_json(out, viewpoint_pipeline.predictions(run, records, seen, **about))
    return Path(out)


def _learned_from(run: ViewpointRun, data: Path) -> bool:
    """Whether the run's training read the photos of this folder."""
    note = run.path / "viewpoint.json"
    if not note.is_file():
        return bool(run.trained.get("split_by"))  # weights alone do not tell; take the careful answer
    return Path(json.loads(note.read_text(encoding="utf-8"))["data"]).resolve() == data.resolve()


def _corruption(text: str) -> Any:
    kind, _, strength = text.partition(":")
    kinds = ("dilate", "erode", "shift", "holes", "drop")
    try:
        value = float(strength)
    except ValueError:
        value = -1.0
    if kind not in kinds or not value >= 0:
        raise ValueError(f"--corrupt expects KIND:STRENGTH, one of {', '.join(kinds)} and a number from 0 on, got {text!r}")
    return kind, value


def evaluate(
    predictions: str | Path, data: str | Path, out: str | Path | None = None, bins: str | None = None
) -> dict[str, Any]:  # fmt: skip
    """`evaluation.viewpoint.evaluate`, with pictures in `out`: confusion.png (and one per category) and worst.png."""
    report = scoring.evaluate(predictions, data, bins)
    if out is not None:
        report["pictures"] = [str(p) for p in _save_pictures(Path(out), predictions, data, report)]
    return report


def _save_pictures(out: Path, predictions: str | Path, data: str | Path, report: dict[str, Any]) -> list[Path]:
    kind = report["about"]["bins"]
    sheets = {"confusion": viz_viewpoint.confusion_matrices(report["overall"], scoring.BINS[kind], f"all, {kind} bins")}
    if len(report["per_category"]) > 1:
        for name, found in report["per_category"].items():
            sheets[f"confusion_{name}"] = viz_viewpoint.confusion_matrices(found, scoring.BINS[kind], f"{name}, {kind} bins")
    sheets["worst"] = viz_viewpoint.worst(_mistakes(predictions, data))
    paths = []
    for name, picture in sheets.items():
        paths.append(out / f"{name}.png")
        with atomic_write(paths[-1]) as temporary:
            picture.save(temporary)
    return paths


def _mistakes(predictions: str | Path, data: str | Path, most: int = 20) -> list[viz_viewpoint.Mistake]:
    """The pictures whose rotation is off most."""
    given, known = scoring.read_predictions(predictions), pix3d.read_symmetries(data)
    records = {r.image: r for r in pix3d.read(data, categories=sorted({c for c in given.categories if c}))}
    rows = []
    for name, angles in zip(given.images, given.angles, strict=True):
        record = records[name]
        off = scoring.errors(angles, record.angles, scoring.turns(known.get(record.shape)))
        rows.append((float(off.rad2deg()), record, angles))
    rows.sort(key=lambda row: -row[0])
    return [
        viz_viewpoint.Mistake(pix3d.read_picture(record)[0], record.box, angles, record.angles, off, record.name)
        for off, record, angles in rows[:most]
    ]


def synth(
    out: str | Path, meshes: Sequence[Path] = (), unit: str | None = None, *, shapes: int = 10, images: int = 40,
    category: str = "object", backgrounds: str | Path | None = None, seed: int = 0, workers: int = 2,
) -> Path:  # fmt: skip
    """A Pix3D-format data set of furniture made in code, or of CAD models.

    Args:
        out: folder to make; a killed run goes on.
        meshes: mesh files, +Z up and front towards -Y, or folders of them, whose name is the category; none: furniture.
        unit: of the mesh files.
        shapes: pieces of furniture per category.
        images: pictures per shape.
        category: of single mesh files.
        backgrounds: folder of photos.
        seed: of all randomness.
        workers: processes.
    """
    from .data import synth_pix3d

    models = _read_meshes(meshes, unit, category) if meshes else synth_pix3d.furniture_models(shapes)
    return synth_pix3d.write_pix3d(out, models, images=images, backgrounds=backgrounds, seed=seed, workers=workers)


def _read_meshes(meshes: Sequence[Path], unit: str | None, category: str) -> dict[str, list[ObjectModel]]:
    from .mesh import load_mesh

    files: dict[str, list[Path]] = {}
    for path in meshes:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in (".ply", ".obj", ".stl", ".off", ".glb", ".gltf")) \
            if path.is_dir() else [path]  # fmt: skip
        if not inside:
            raise ValueError(f"{path} holds no mesh files (PLY, OBJ, STL, OFF, GLB)")
        files.setdefault(path.name if path.is_dir() else category, []).extend(inside)
    return {kind: [load_mesh(p, unit, name=p.stem) for p in found] for kind, found in files.items()}
