"""Is a BOP folder complete and consistent? The half of `monopose check` that looks at data sets."""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...io import limits
from ...mesh.loading import diameter, length
from . import models as bop_models
from . import scenes as bop_scenes


@dataclass(frozen=True)
class FolderReport:
    """A BOP data set, looked at.

    Args:
        path: the folder.
        models: object ids of its CAD models.
        scenes, images, instances: how many, per split folder.
        problems: what will stop or mislead training and evaluation, in words, with file names.
        warnings: what is missing but can be done without.
    """

    path: str
    models: list[int]
    scenes: dict[str, int]
    images: dict[str, int]
    instances: dict[str, int]
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        lines = [f"{self.path}: {len(self.models)} models ({', '.join(map(str, self.models[:30]))})"]
        for split, scenes in self.scenes.items():
            lines.append(f"  {split}: {scenes} scenes, {self.images[split]} images, {self.instances[split]} objects")
        lines += [f"  problem: {p}" for p in self.problems] + [f"  warning: {w}" for w in self.warnings]
        return "\n".join([*lines, "  nothing to complain about"] if not self.problems and not self.warnings else lines)


class _Notes:
    """Findings of many files, each listed once with their number and the first example."""

    def __init__(self) -> None:
        self.seen: dict[tuple[bool, str], list[str]] = defaultdict(list)

    def problem(self, what: str, example: str = "") -> None:
        self.seen[True, what].append(example)

    def warn(self, what: str, example: str = "") -> None:
        self.seen[False, what].append(example)

    def lines(self, problem: bool) -> list[str]:
        texts = []
        for (kind, what), examples in self.seen.items():
            if kind == problem:
                first = f" (first: {examples[0]})" if examples[0] and len(examples) > 1 else f" ({examples[0]})"
                texts.append((f"{len(examples)} x " if len(examples) > 1 else "") + what + (first if examples[0] else ""))
        return texts


def check_bop(folder: str | Path, *, images_per_scene: int = 20) -> FolderReport:
    """Look at a BOP data set: files, keys, shapes, millimetres, counts, masks and boxes.

    Args:
        folder: of the data set; it holds models/ and splits such as test/ or train_pbr/.
        images_per_scene: of so many images per scene, evenly chosen, masks and boxes are compared with the poses.

    Returns:
        what was found. Files that cannot be read are problems in the report, not exceptions.

    Raises:
        FileNotFoundError: no such folder, or neither models nor scenes in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give the folder of a BOP data set, the one that holds models/ and test/")
    splits = sorted(p for p in folder.iterdir() if p.is_dir() and any(q.is_dir() and q.name.isdecimal() for q in p.iterdir()))
    model_folders = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.startswith("models"))
    if not splits and not model_folders:
        names = ", ".join(sorted(p.name for p in folder.iterdir())[:8])
        raise FileNotFoundError(
            f"{folder} has neither models/ nor a split with scenes such as test/000001 (found: {names or 'nothing'}); "
            "give the folder of the whole data set"
        )
    notes = _Notes()
    points: dict[int, np.ndarray] = {}
    if not model_folders:
        notes.problem("no models folder", f"expected {folder}/models with obj_000001.ply and models_info.json")
    for models in model_folders:
        own = _check_models(models, notes)
        points = points or own
    if model_folders and not (folder / "models_eval").is_dir():
        notes.warn("no models_eval folder; scores will use models/")
    if (folder / "camera.json").exists():
        _tried(notes, bop_scenes.read_camera, folder / "camera.json")
    else:
        notes.warn("no camera.json; needed only to render synthetic pictures like the real ones")
    scenes: dict[str, int] = {}
    pictures: dict[str, int] = {}
    objects: dict[str, int] = {}
    truths: dict[str, dict[tuple[int, int], list[int]]] = {split.name: {} for split in splits}
    for split in splits:
        numbered = sorted(p for p in split.iterdir() if p.is_dir() and p.name.isdecimal())
        scenes[split.name], pictures[split.name], objects[split.name] = len(numbered), 0, 0
        for path in numbered:
            scene = _tried(notes, bop_scenes.open_scene, path)
            if scene is None:
                continue
            pictures[split.name] += _check_scene(scene, points, notes, images_per_scene)
            if scene.truth is not None:
                objects[split.name] += len(scene.truth.im_id)
                for im, obj in zip(scene.truth.im_id.tolist(), scene.truth.obj_id.tolist(), strict=True):
                    truths[split.name].setdefault((scene.scene_id, im), []).append(obj)
    if not splits:
        notes.warn("no split with scenes such as train_pbr/000000 or test/000001")
    for path in sorted(folder.glob("*targets*.json")):
        name = path.name.split("_targets")[0]
        typed = {key: ids for split in truths if split.startswith(f"{name}_") for key, ids in truths[split].items()}
        _check_targets(path, truths.get(name, typed), notes)
    return FolderReport(str(folder), sorted(points), scenes, pictures, objects, notes.lines(True), notes.lines(False))


def _tried(notes: _Notes, read: Any, *arguments: Any) -> Any:
    """What `read` returns, or None and a problem."""
    try:
        return read(*arguments)
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.problem(str(error))
        return None


def _check_models(folder: Path, notes: _Notes) -> dict[int, np.ndarray]:
    """Compare PLY files and models_info.json; returns the vertices of the models in metres."""
    info = _tried(notes, bop_models.read_models_info, folder)
    points = _tried(notes, bop_models.read_model_points, folder) or {}
    for obj_id, vertices in points.items():
        name = f"{folder.name}/obj_{obj_id:06d}.ply"
        if len(vertices) == 0 or not np.isfinite(vertices).all():
            notes.problem("model without vertices or with NaN", name)
            continue
        true = diameter(vertices)
        if not 0.005 <= true <= 5:
            notes.problem(f"{name} has a diameter of {length(true)} if it is in millimetres; BOP models are in millimetres")
        if info is None:
            continue
        if obj_id not in info:
            notes.problem(f"{folder.name}/models_info.json has no entry", f"object {obj_id}")
            continue
        entry = info[obj_id]
        _tried(notes, bop_models.check_symmetries, vertices, entry, f"{folder.name}/models_info.json, object {obj_id}")
        slack = 0.01 * true + 1e-4
        if abs(entry.diameter - true) > 5 * slack:
            notes.problem(
                f"{name} has a diameter of {length(true)} but models_info.json says {length(entry.diameter)}; are both in mm?"
            )
        elif abs(entry.diameter - true) > slack and folder.name == "models_eval":
            notes.warn("diameter differs from models_info.json by more than 1 %", f"{name}: {length(true)}")
        if entry.low is not None and entry.size is not None:
            low, high = vertices.min(0), vertices.max(0)
            off = max(np.abs(entry.low - low).max(), np.abs(entry.low + entry.size - high).max())
            if off > 5 * slack:
                notes.problem(f"{name}: the box of models_info.json is off by {length(float(off))}")
    if info is not None and points:
        for obj_id in sorted(set(info) - set(points)):
            notes.problem(f"{folder.name} has no mesh for an object of models_info.json", f"obj_{obj_id:06d}.ply")
    return points


def _check_scene(scene: bop_scenes.Scene, points: dict[int, np.ndarray], notes: _Notes, most: int) -> int:
    """Pictures, truth, boxes and masks of one scene; returns the number of pictures."""
    here = f"{scene.folder.parent.name}/{scene.folder.name}"
    files = {image.im_id: image.path for image in bop_scenes.images(scene.folder)}
    if not files:
        notes.problem("scene without pictures", f"{here}: no rgb/ or gray/ with 000000.png")
        return 0
    missing = sorted(set(scene.im_ids.tolist()) - set(files))
    if missing:
        notes.warn(
            f"{here}: {len(missing)} of {len(scene.im_ids)} images in scene_camera.json have no picture", f"{missing[0]:06d}"
        )
    extra = _picture_numbers(next(iter(files.values())).parent) - set(scene.im_ids.tolist())
    if extra:
        notes.problem(f"{here}: {len(extra)} pictures are not in scene_camera.json", f"{min(extra):06d}")
    for kind in ("mask", "mask_visib"):
        if scene.truth is not None and not (scene.folder / kind).is_dir():
            notes.warn(f"no {kind}/ folder; masks can be rendered from poses and models", here)
    truth = scene.truth
    if truth is None:
        notes.warn("scene without scene_gt.json: nothing to train on or to score", here)
    else:
        _check_truth(scene, here, points, notes)
    chosen = sorted(files)[:: max(1, len(files) // most)][:most]
    for im_id in chosen:
        try:
            with limits.picture(files[im_id], str(files[im_id])) as picture:
                width, height = picture.size
        except (OSError, SyntaxError, ValueError) as error:
            notes.problem("picture cannot be read", f"{here}/{files[im_id].name}: {error}")
            continue
        K = scene.K[scene.im_ids.tolist().index(im_id)]
        if not (0 < K[0, 2] < width and 0 < K[1, 2] < height):
            notes.problem(
                "principal point outside the picture: K is for another size",
                f"{here} image {im_id}: ({K[0, 2]:.0f}, {K[1, 2]:.0f}) in {width}x{height}",
            )
        if truth is not None:
            _check_boxes(scene, here, im_id, K, points, notes)
            _check_masks(scene, here, im_id, (height, width), notes)
    return len(files)


def _picture_numbers(folder: Path) -> set[int]:
    return {int(p.stem) for p in folder.iterdir() if p.stem.isdecimal()}


def _check_truth(scene: bop_scenes.Scene, here: str, points: dict[int, np.ndarray], notes: _Notes) -> None:
    truth = scene.truth
    assert truth is not None
    if points:
        for obj_id in sorted(set(truth.obj_id.tolist()) - set(points)):
            notes.warn(f"{here}/scene_gt.json names an object that has no CAD model: it is passed over", f"object {obj_id}")
    strangers = sorted(set(truth.im_id.tolist()) - set(scene.im_ids.tolist()))
    if strangers:
        notes.problem(f"{here}: scene_gt.json has images that scene_camera.json lacks", str(strangers[0]))
    if truth.boxes is None:
        notes.warn("no scene_gt_info.json: visibility and boxes are unknown", here)
    middles = {obj_id: (p.min(0) + p.max(0)) / 2 for obj_id, p in points.items()}
    for R, t, im, n, obj_id in zip(truth.R, truth.t, truth.im_id.tolist(), truth.gt_id.tolist(), truth.obj_id.tolist()):
        place = f"{here} image {im} object number {n}"
        depth = float(t[2] + R[2] @ middles.get(obj_id, np.zeros(3)))
        if depth <= 0:
            notes.problem("object behind the camera (cam_t_m2c; its middle has z <= 0)", place)
        elif not 0.02 <= depth <= 50:
            notes.problem("object too near or too far for millimetres, the unit of cam_t_m2c", f"{place}: {length(depth)}")
        if np.abs(R @ R.T - np.eye(3)).max() > 0.05 or np.linalg.det(R) < 0:
            notes.problem("cam_R_m2c is no rotation", place)


def _check_boxes(
    scene: bop_scenes.Scene, here: str, im_id: int, K: np.ndarray, points: dict[int, np.ndarray], notes: _Notes
) -> None:
    """Compare bbox_obj with the box around the projected model."""
    truth = scene.truth
    assert truth is not None
    if truth.boxes is None:
        return
    for row in np.flatnonzero(truth.im_id == im_id):
        vertices, box = points.get(int(truth.obj_id[row])), truth.boxes[row]
        if vertices is None or not (box[2:] > box[:2]).all():
            continue
        p = vertices @ truth.R[row].T + truth.t[row]
        if p[:, 2].min() < 0.01:
            continue
        uv = p @ K.T
        uv = uv[:, :2] / uv[:, 2:]
        want = np.concatenate([uv.min(0) + 0.5, uv.max(0) + 0.5])  # pixel centres to pixel edges
        slack = 4 + 0.05 * float((want[2:] - want[:2]).max())
        if np.abs(want - box).max() > slack:
            notes.problem(
                "bbox_obj does not fit the pose and model (is one of them in other units or for another image size?)",
                f"{here} image {im_id} object number {truth.gt_id[row]}: {np.round(box).astype(int).tolist()} instead of "
                f"{np.round(want).astype(int).tolist()} xyxy",
            )


def _check_masks(scene: bop_scenes.Scene, here: str, im_id: int, size: tuple[int, int], notes: _Notes) -> None:
    """Existence, size, and agreement with bbox_visib and visib_fract of the masks of one image."""
    truth = scene.truth
    assert truth is not None
    masks = {}
    for kind in ("mask", "mask_visib"):
        folder = scene.folder / kind
        if not folder.is_dir():
            continue
        for n in truth.gt_id[truth.im_id == im_id]:
            path = folder / f"{im_id:06d}_{n:06d}.png"
            if not path.is_file():
                notes.problem(f"{kind} file missing", f"{here}/{kind}/{path.name}")
                continue
            try:
                with limits.picture(path, str(path)) as picture:
                    values = np.asarray(picture)
            except (OSError, SyntaxError, ValueError) as error:
                notes.problem(f"{kind} file cannot be read", f"{here}/{kind}/{path.name}: {error}")
                continue
            if values.ndim != 2 or values.shape != size:
                notes.problem(
                    f"{kind} has another size than the picture", f"{here}/{kind}/{path.name}: {values.shape}, not {size}"
                )
                continue
            masks[kind, int(n)] = values > 0
    for row in np.flatnonzero(truth.im_id == im_id):
        n = int(truth.gt_id[row])
        visible, full = masks.get(("mask_visib", n)), masks.get(("mask", n))
        place = f"{here} image {im_id} object number {n}"
        if visible is not None and full is not None and (visible & ~full).sum() > 0.01 * max(1, full.sum()):
            notes.problem("mask_visib is not inside mask", place)
        if visible is None:
            continue
        rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        if truth.boxes_visible is not None and len(rows):
            want = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            if np.abs(want - truth.boxes_visible[row]).max() > 2:
                notes.problem("bbox_visib does not fit mask_visib", place)
        if truth.visibility is not None and not len(rows) and truth.visibility[row] > 0.01:
            notes.problem("empty mask_visib for an object that scene_gt_info.json calls visible", place)


def _check_targets(path: Path, truths: dict[tuple[int, int], list[int]], notes: _Notes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        targets = _tried(notes, bop_scenes.read_targets, path)
    if targets is None or not truths:
        return
    for k, (scene, im) in enumerate(zip(targets.scene_id.tolist(), targets.im_id.tolist(), strict=True)):
        there = truths.get((scene, im))
        if there is None:
            notes.problem(f"{path.name}: target in an image without ground truth", f"scene {scene} image {im}")
        elif targets.obj_id is not None and targets.inst_count is not None:
            obj, count = int(targets.obj_id[k]), int(targets.inst_count[k])
            if there.count(obj) < count:
                notes.problem(
                    f"{path.name}: more instances wanted than scene_gt.json has",
                    f"scene {scene} image {im} object {obj}: {count} wanted, {there.count(obj)} there",
                )
