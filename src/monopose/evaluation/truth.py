"""What results are judged by: a data set's truth, targets and models, read and checked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets.bop import models as models_module
from ..datasets.bop import results as results_module
from ..datasets.bop import scenes
from ..io import records
from . import errors

Array = NDArray[Any]


class Truth(NamedTuple):
    """True objects of the target images, one row each, and their cameras."""

    scene_id: Array
    im_id: Array
    obj_id: Array
    pose: Array  # (G, 4, 4), metres, raw
    visibility: Array
    K: Array  # (G, 3, 3)
    width: Array  # of the image, pixels


class Object(NamedTuple):
    """A model as the scores need it."""

    points: Array
    hull: Array
    group: Array  # symmetries with the identity
    symmetric: bool
    diameter: float


class Data(NamedTuple):
    """Results and what they are judged by."""

    rows: results_module.Results
    wanted: scenes.Targets
    truth: Truth
    split: Path  # folder of the scenes
    models: Path  # folder of the models
    targets_file: Path | None

    @property
    def poses(self) -> Array:
        """The estimates as cam_from_obj, (N, 4, 4), metres."""
        pose = np.tile(np.eye(4), (len(self.rows.t), 1, 1))
        pose[:, :3, :3], pose[:, :3, 3] = self.rows.R, self.rows.t
        return pose


def open_data(
    results: records.PathLike | results_module.Results,
    data_dir: records.PathLike,
    targets: records.PathLike | scenes.Targets | None = None,
    *,
    split: str | None = None,
    models: str = "models_eval",
    image_width: int | None = None,
    sensor: str = "",
) -> Data:
    """Read results, targets and truth; the arguments are those of `protocol.evaluate`, and so is what it raises."""
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"no data set folder {data_dir}; it should hold models_eval/, test/ and test_targets_bop19.json"
        )
    rows = results if isinstance(results, results_module.Results) else results_module.read_results(results)
    target_path = None if isinstance(targets, scenes.Targets) else Path(targets or data_dir / "test_targets_bop19.json")
    if target_path is not None and not target_path.exists() and (data_dir / target_path).exists():
        target_path = data_dir / target_path
    wanted = targets if isinstance(targets, scenes.Targets) else scenes.read_targets(target_path or "")
    folder = _split_folder(data_dir, None if isinstance(results, results_module.Results) else Path(results), split)
    truth = _read_truth(folder, wanted, sensor, image_width)
    model_folder = data_dir / models if (data_dir / models).is_dir() else data_dir / "models"
    return Data(rows, wanted, truth, folder, model_folder, target_path)


def _split_folder(data_dir: Path, results: Path | None, split: str | None) -> Path:
    """The folder of the scenes, from the argument, the name of the result file, or "test"."""
    names = [split] if split else []
    if not split and results is not None:
        try:
            parsed = results_module.parse_results_name(results)
            names = [f"{parsed.split}_{parsed.split_type}", parsed.split] if parsed.split_type else [parsed.split]
        except ValueError:
            pass
    for name in names or ["test"]:
        if (data_dir / name).is_dir():
            return data_dir / name
    others = sorted(p.name for p in data_dir.iterdir() if p.is_dir() and any(q.name.isdigit() for q in p.iterdir()))
    typed = [n for n in others if n.startswith(f"{(names or ['test'])[-1]}_")]
    if len(typed) == 1 and not split:
        return data_dir / typed[0]
    raise FileNotFoundError(
        f"no folder {' or '.join(names or ['test'])} with scenes in {data_dir} (has: {', '.join(others) or 'none'}); "
        "pass split=... (--split)"
    )


def _read_truth(folder: Path, wanted: scenes.Targets, sensor: str, image_width: int | None) -> Truth:
    """True objects of the images that the targets name."""
    parts = []
    for scene_id in dict.fromkeys(wanted.scene_id.tolist()):
        scene = scenes.open_scene(folder / f"{scene_id:06d}", sensor)
        if scene.truth is None:
            raise FileNotFoundError(f"no scene_gt.json in {scene.folder}; the truth of this split is not public")
        im_ids = np.unique(wanted.im_id[wanted.scene_id == scene_id])
        if missing := sorted(set(im_ids.tolist()) - set(scene.im_ids.tolist())):
            raise ValueError(f"{scene.folder}/scene_camera.json: no image {missing[0]}, which the targets name")
        keep = np.isin(scene.truth.im_id, im_ids)
        t = scene.truth
        pose = np.tile(np.eye(4), (int(keep.sum()), 1, 1))
        pose[:, :3, :3], pose[:, :3, 3] = t.R[keep], t.t[keep]
        visibility = np.ones(len(pose)) if t.visibility is None else t.visibility[keep]
        K = scene.K[np.searchsorted(scene.im_ids, t.im_id[keep])]
        width = image_width or scenes.image_width(scene)
        parts.append(
            (np.full(len(pose), scene_id), t.im_id[keep], t.obj_id[keep], pose, visibility, K, np.full(len(pose), width))
        )
    return Truth(*(np.concatenate(column) for column in zip(*parts)))


def read_objects(folder: Path, obj_ids: Iterable[int]) -> dict[int, Object]:
    """The models of the objects, checked against models_info.json."""
    infos = models_module.read_models_info(folder)
    ids = sorted(set(obj_ids))
    if unknown := [i for i in ids if i not in infos]:
        raise ValueError(f"unknown object id {unknown[0]}: not in {folder}/models_info.json (has: {sorted(infos)})")
    objects = {}
    for i, points in models_module.read_model_points(folder, ids).items():
        info = infos[i]
        extent = float(np.linalg.norm(np.ptp(points, axis=0)))
        if not 0.5 < extent / info.diameter < 2:
            raise ValueError(
                f"{folder}: obj_{i:06d}.ply is {extent * 1000:.4g} mm across its box but models_info.json says diameter "
                f"{info.diameter * 1000:.4g} mm; both must be millimetres"
            )
        group = errors.symmetry_group(info.discrete, info.axes, info.offsets)
        objects[i] = Object(points, errors.hull(points), group, len(group) > 1, info.diameter)
    return objects
