"""Writing BOP data sets: models, cameras, targets, and scenes to which images are appended.

A run that is killed leaves whole files: pictures and JSON files are written under another name and renamed, and an image
counts only once scene_camera.json, written last, lists it. Whatever else lies there is replaced when the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...io.files import atomic_write
from ...io.records import MM, Array, PathLike, read_json
from .models import decimals, millimetres, symmetries_json
from .results import rle_from_mask

if TYPE_CHECKING:
    from torch import Tensor

    from ...types import Camera, Frame, ObjectModel
    from .results import Targets

_FINE, _COARSE = 0.1, 1.0  # millimetres per stored depth value; the fine one reaches 6.5 m
_IGNORED_BELOW = 0.1  # visibility below which BOP's COCO files ignore an object


# ------------------------------------------------------------------------------------------------------------- data set


def write_models(folder: PathLike, models: Mapping[int, ObjectModel]) -> None:
    """Write models as obj_000001.ply (binary, mm, with normals, colours, texture), models_info.json and names.json.

    Args:
        folder: e.g. DATASET/models. For `models_eval` write the same models: their vertices are what scores use.
        models: object id -> model; the keys are the ids that are written.
    """
    folder = Path(folder)
    infos = {}
    for obj_id, model in sorted(models.items()):
        _write_ply(folder / f"obj_{obj_id:06d}.ply", model)
        low, high = (model.bounds.double().numpy() / MM).tolist()
        info: dict[str, Any] = {"diameter": round(model.diameter / MM, 6)}
        info |= {f"min_{a}": round(v, 6) for a, v in zip("xyz", low)}
        info |= {f"size_{a}": round(h - v, 6) for a, v, h in zip("xyz", low, high)}
        infos[str(obj_id)] = info | symmetries_json(model.symmetries)
    _write_lines(folder / "models_info.json", infos)
    _write_lines(folder / "names.json", {str(i): m.name for i, m in sorted(models.items())})


def write_camera(path: PathLike, camera: Camera) -> None:
    """Write a data set's camera.json: cx, cy, depth_scale, fx, fy, height, width."""
    K = decimals(camera.K.detach().cpu().numpy())
    values = {"cx": K[2], "cy": K[5], "depth_scale": _FINE, "fx": K[0], "fy": K[4]}
    _write_text(Path(path), json.dumps(values | {"height": camera.size[0], "width": camera.size[1]}, indent=2))


def write_targets(path: PathLike, targets: Targets) -> None:
    """Write a targets file, in the localisation form when there are object ids, else in the BOP'24 form (images only)."""
    if targets.obj_id is None or targets.inst_count is None:
        pairs = sorted({*zip(targets.scene_id.tolist(), targets.im_id.tolist())})
        rows = [{"im_id": i, "scene_id": s} for s, i in pairs]
    else:
        columns = (targets.im_id, targets.inst_count, targets.obj_id, targets.scene_id)
        names = ("im_id", "inst_count", "obj_id", "scene_id")
        rows = [dict(zip(names, row)) for row in zip(*(c.tolist() for c in columns))]
    _write_text(Path(path), "[\n  " + ",\n  ".join(json.dumps(row) for row in rows) + "\n]")


# ---------------------------------------------------------------------------------------------------------------- scenes


def count_images(folder: PathLike) -> int:
    """How many whole images a scene folder has: where to go on. 0 if there is no folder yet."""
    path = Path(folder) / "scene_camera.json"
    return len(read_json(path)) if path.exists() else 0


def append_frames(
    folder: PathLike,
    frames: Sequence[Frame],
    masks_full: Sequence[Tensor | None] | None = None,
    *,
    categories: Mapping[int, str] | None = None,
    jpeg: bool = False,
) -> list[int]:
    """Append pictures with their truth to a scene folder; give a few dozen at a time, each call rewrites the JSON files.

    Args:
        folder: e.g. DATASET/train_pbr/000000; made if it is not there.
        frames: with camera and, as far as known, depth and instances. Visible masks become mask_visib/, run lengths and
            pixel counts; amodal `boxes` may reach beyond the picture; `visibility` is written as it is.
        masks_full: silhouettes without occlusion, (N, H, W), per frame; become mask/. Without them mask/ is left out and
            the silhouette is taken to be as large as the visibility says.
        categories: object id -> name, for the COCO file; by default those that occur.
        jpeg: write the colour as JPEG (quality 95) instead of PNG.

    Returns:
        the numbers that the images got.

    Raises:
        ValueError: a frame whose masks have another size than its picture.
        OSError: the disk is full; what was there before is still whole.
    """
    folder = Path(folder)
    start = count_images(folder)
    if start:
        start = max(map(int, read_json(folder / "scene_camera.json"))) + 1
    ids = list(range(start, start + len(frames)))
    silhouettes = masks_full or [None] * len(frames)
    entries = [write_frame(folder, i, f, m, jpeg=jpeg) for i, f, m in zip(ids, frames, silhouettes, strict=True)]
    add_entries(folder, dict(zip(ids, entries)), categories)
    return ids


def write_frame(
    folder: PathLike, im_id: int, frame: Frame, masks_full: Tensor | None = None, *, jpeg: bool = False
) -> dict[str, Any]:
    """Write the pictures of one image and return its entries in the scene's JSON files, plain values for `add_entries`."""
    folder = Path(folder)
    camera: dict[str, Any] = {"cam_K": decimals(frame.camera.K.detach().cpu().numpy())}
    suffix = ".jpg" if jpeg else ".png"
    _write_picture(folder / "rgb" / f"{im_id:06d}{suffix}", _bytes(frame.image))
    if frame.depth is not None:
        stored, scale = _stored_depth(frame.depth.detach().cpu().numpy())
        camera["depth_scale"] = scale
        _write_picture(folder / "depth" / f"{im_id:06d}.png", stored)
    truth, infos, annotations = _instances(folder, im_id, frame, masks_full)
    file = f"rgb/{im_id:06d}{suffix}"
    return {"camera": camera, "gt": truth, "info": infos, "coco": annotations, "file": file, "size": list(frame.camera.size)}


def add_entries(
    folder: PathLike, entries: Mapping[int, Mapping[str, Any]], categories: Mapping[int, str] | None = None
) -> None:
    """Add images to the JSON files of a scene: image number -> what `write_frame` returned of it."""
    folder = Path(folder)
    names = {"scene_camera": "camera", "scene_gt": "gt", "scene_gt_info": "info"}
    content = {n: {} if not (p := folder / f"{n}.json").exists() else read_json(p) for n in names}
    cameras = content["scene_camera"]
    coco = _read_coco(folder / "scene_gt_coco.json", cameras)
    for im_id, entry in sorted(entries.items()):
        for name, key in names.items():
            content[name][str(im_id)] = entry[key]
        h, w = entry["size"]
        coco["images"].append({"id": im_id, "file_name": entry["file"], "width": w, "height": h})
        for row in entry["coco"]:
            coco["annotations"].append({"id": len(coco["annotations"]) + 1, "image_id": im_id, **row, "width": w, "height": h})
    named = dict(categories or {}) | {a["category_id"]: f"obj_{a['category_id']:06d}" for a in coco["annotations"]}
    named |= categories or {}
    coco["categories"] = [{"id": i, "name": named[i], "supercategory": folder.parent.parent.name} for i in sorted(named)]
    _write_text(folder / "scene_gt_coco.json", json.dumps(coco))
    for name in reversed(names):  # the cameras last: they say which images count
        part = content[name]
        _write_lines(folder / f"{name}.json", {k: part[k] for k in sorted(cameras, key=int) if k in part})


def _instances(
    folder: Path, im_id: int, frame: Frame, silhouettes: Tensor | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """The image's entries of scene_gt, scene_gt_info and the COCO file; writes the masks."""
    instances = frame.instances
    if instances is None or not len(instances):
        return [], [], []
    size = tuple(frame.camera.size)
    visible = None if instances.masks is None else instances.masks.cpu().numpy()
    full = None if silhouettes is None else silhouettes.cpu().numpy().astype(bool)
    for name, masks in (("instances.masks", visible), ("masks_full", full)):
        if masks is not None and masks.shape != (len(instances), *size):
            raise ValueError(f"{name} of frame {im_id} must be ({len(instances)}, {size[0]}, {size[1]}), got {masks.shape}")
    pose = instances.cam_from_obj.detach().cpu().numpy()
    depth = None if frame.depth is None else frame.depth.cpu().numpy()
    truth, infos, annotations = [], [], []
    for n in range(len(instances)):
        R, t, obj_id = decimals(pose[n, :3, :3]), millimetres(pose[n, :3, 3]), int(instances.labels[n])
        truth.append({"cam_R_m2c": R, "cam_t_m2c": t, "obj_id": obj_id})
        pixels = int(visible[n].sum()) if visible is not None else 0
        share = None if instances.visibility is None else float(str(instances.visibility[n].cpu().numpy()))
        if full is not None:
            silhouette = full[n]
            count = max(int(silhouette.sum()), round(pixels / share) if share else 0)  # more where it leaves the picture
            valid = count if depth is None else int((silhouette & (depth > 0)).sum())
        else:
            silhouette = visible[n] if visible is not None else np.zeros(size, bool)
            count = round(pixels / share) if share else pixels
            valid = count
        share = (pixels / count if count else 0.0) if share is None else share
        box = _corners(silhouette) if instances.boxes is None else instances.boxes[n].cpu().numpy().astype(np.float64)
        if instances.boxes_visible is not None:
            visible_box = instances.boxes_visible[n].cpu().numpy().astype(np.float64)
        else:
            visible_box = _corners(visible[n]) if visible is not None else np.zeros(4)
        entry = {"bbox_obj": _pixel_box(box), "bbox_visib": _pixel_box(visible_box), "px_count_all": count}
        infos.append(entry | {"px_count_valid": valid, "px_count_visib": pixels, "visib_fract": share})
        for name, masks in (("mask", full), ("mask_visib", visible)):
            if masks is not None:
                _write_picture(folder / name / f"{im_id:06d}_{n:06d}.png", masks[n].astype(np.uint8) * 255)
        if visible is not None:
            width_height = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            annotation = {"category_id": obj_id, "iscrowd": 0, "area": pixels, "bbox": [round(float(v)) for v in width_height]}
            segmentation = rle_from_mask(visible[n])
            annotations.append(annotation | {"segmentation": segmentation, "ignore": share < _IGNORED_BELOW})
    return truth, infos, annotations


def _read_coco(path: Path, cameras: Mapping[str, Any]) -> dict[str, Any]:
    """The scene's COCO file without images that do not count."""
    if not path.exists():
        return {"info": {"description": "BOP scene"}, "licenses": [], "categories": [], "images": [], "annotations": []}
    coco = read_json(path)
    coco["images"] = [i for i in coco["images"] if str(i["id"]) in cameras]
    coco["annotations"] = [a for a in coco["annotations"] if str(a["image_id"]) in cameras]
    return coco


def _corners(mask: Array) -> Array:
    """xyxy on pixel edges of a mask, zeros when it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0, 0, 0, 0], np.float64)


def _pixel_box(box: Array) -> list[int]:
    """A box on pixel edges as scene_gt_info has it: first pixel and last minus first; -1 four times when empty."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    return [x0, y0, x1 - x0 - 1, y1 - y0 - 1] if x1 > x0 and y1 > y0 else [-1, -1, -1, -1]


def _stored_depth(depth: Array) -> tuple[Array, float]:
    """Depth in metres as 16-bit values, and millimetres per value."""
    scale = _FINE if np.nanmax(depth, initial=0) / MM / _FINE <= 65535 else _COARSE
    values = np.rint(np.nan_to_num(depth, posinf=0, neginf=0) / (MM * scale))
    return np.where(values > 65535, 0, values).astype(np.uint16), scale  # beyond 65 m: unknown


# ----------------------------------------------------------------------------------------------------------------- files


def _bytes(image: Tensor) -> Array:
    return (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def _write_picture(path: Path, values: Array) -> None:
    """A PNG or JPEG, whole or not at all; without waiting for the disk, as there are so many."""
    from PIL import Image

    options: dict[str, Any] = {"quality": 95} if path.suffix == ".jpg" else {"compress_level": 3}
    with atomic_write(path, wait=False) as temporary:
        Image.fromarray(values).save(temporary, **options)


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _write_lines(path: Path, records: Mapping[str, Any]) -> None:
    """JSON with one record per line, as BOP's own files."""
    _write_text(path, "{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in records.items()) + "\n}")


def _write_ply(path: Path, model: ObjectModel) -> None:
    columns = [(a, "<f4") for a in ("x", "y", "z", "nx", "ny", "nz")]
    textured = model.uv is not None and model.texture is not None
    columns += [("texture_u", "<f4"), ("texture_v", "<f4")] if textured else []
    columns += [(c, "u1") for c in ("red", "green", "blue")] if model.colors is not None else []
    table = np.zeros(len(model.vertices), np.dtype(columns))
    vertices = model.vertices.cpu().double().numpy() / MM
    for k, axis in enumerate("xyz"):
        table[axis], table[f"n{axis}"] = vertices[:, k], model.normals[:, k].cpu().numpy()
    if model.uv is not None and model.texture is not None:
        table["texture_u"], table["texture_v"] = model.uv.cpu().numpy().T
        _write_picture(path.with_suffix(".png"), _bytes(model.texture))
    if model.colors is not None:
        for k, name in enumerate(("red", "green", "blue")):
            table[name] = (model.colors[:, k].cpu().clamp(0, 1) * 255).round().byte().numpy()
    faces = np.zeros(len(model.faces), np.dtype([("n", "u1"), ("i", "<i4", 3)]))
    faces["n"], faces["i"] = 3, model.faces.cpu().numpy()
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment TextureFile {path.with_suffix('.png').name}"] if textured else []
    header += [f"element vertex {len(table)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in columns]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    with atomic_write(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + b"\n" + table.tobytes() + faces.tobytes())
