"""LINEMOD as CDPN and EPro-PnP-6DoF keep it, made into a BOP folder.

    FOLDER/
      real_train/ape/0005-color.png       photo, 640 x 480
      real_train/ape/0005-label.png       mask: the number of the object; in imgn anything above 0
      real_train/ape/0005-pose.txt        cam_from_obj, 3 x 4, metres
      real_test/ape/0000-box_fasterrcnn.txt   box of their detector, x0 y0 x1 y1
      imgn/ape/...                        renderings, the same files

They become the splits train, test and train_imgn, every object's folder in them a scene that is numbered as the object. The CAD
models are BOP's own (lm).

Source: the code of EPro-PnP-6DoF (lib/datasets/lm.py, lib/ref.py), which is CDPN's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ...io import limits
from ...io.files import atomic_write
from ...io.records import MM, Array, check_rotations, found

OBJECTS = {
    "ape": 1, "benchvise": 2, "bowl": 3, "camera": 4, "can": 5, "cat": 6, "cup": 7, "driller": 8, "duck": 9, "eggbox": 10,
    "glue": 11, "holepuncher": 12, "iron": 13, "lamp": 14, "phone": 15,
}  # fmt: skip
K = (572.4114, 0.0, 325.2611, 0.0, 573.57043, 242.04899, 0.0, 0.0, 1.0)
SIZE = (480, 640)  # height, width
SPLITS = {"real_train": "train", "real_test": "test", "imgn": "train_imgn"}  # theirs -> as BOP has them


def convert_cdpn(folder: str | Path, out: str | Path, models: str | Path) -> dict[str, int]:
    """Make a BOP folder of a LINEMOD folder in the layout of CDPN and EPro-PnP-6DoF. Pictures are copied as they are.

    Args:
        folder: holds real_train, real_test, imgn, as many of them as there are.
        out: the BOP folder, which must not exist.
        models: BOP's models of LINEMOD, lm/models; copied.

    Returns:
        pictures of each split of the result. The boxes of Faster R-CNN, where they are, become `fasterrcnn_SPLIT.json`, which
        `monopose predict --boxes` takes.

    Raises:
        FileNotFoundError, ValueError: no such folder, a file is missing or broken, `out` exists.
    """
    folder, out, models = Path(folder), Path(out), Path(models)
    splits = [name for name in SPLITS if (folder / name).is_dir()]
    if not splits:
        raise FileNotFoundError(f"{folder} has none of {', '.join(SPLITS)} ({found(folder)})")
    if not (models / "models_info.json").is_file():
        raise FileNotFoundError(f"{models} is no BOP models folder ({found(models)}); give that of BOP's lm")
    if out.exists():
        raise ValueError(f"{out} exists; give a new folder, or delete that one")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(models, partial / "models")
    camera = {"fx": K[0], "fy": K[4], "cx": K[2], "cy": K[5], "width": SIZE[1], "height": SIZE[0], "depth_scale": 1.0}
    _write(partial / "camera.json", camera)
    counts = {}
    for split in splits:
        boxes: list[dict[str, Any]] = []
        name_here = SPLITS[split]
        counts[name_here] = sum(
            _scene(folder / split / name, partial / name_here / f"{obj_id:06d}", obj_id, split == "imgn", boxes)
            for name, obj_id in OBJECTS.items()
            if (folder / split / name).is_dir()
        )
        if not counts[name_here]:
            raise FileNotFoundError(
                f"{folder / split} has no NUMBER-color.png in folders such as ape ({found(folder / split)})"
            )
        if boxes:
            _write(partial / f"fasterrcnn_{name_here}.json", boxes)
    partial.rename(out)
    return counts


def _scene(source: Path, scene: Path, obj_id: int, synthetic: bool, boxes: list[dict[str, Any]]) -> int:
    """Write one object's pictures as a scene; returns how many. Boxes of the detector are appended."""
    (scene / "rgb").mkdir(parents=True)
    (scene / "mask_visib").mkdir()
    cameras, truth = {}, {}
    for path in sorted(source.glob("*-color.png")):
        number, stem = path.name.split("-")[0], str(path).removesuffix("-color.png")
        if not number.isdigit():
            raise ValueError(f"{path} must be called NUMBER-color.png")
        im_id, pose = int(number), _numbers(Path(f"{stem}-pose.txt"), (3, 4))
        check_rotations(pose[None, :, :3], f"{stem}-pose.txt", "rotation")
        shutil.copyfile(path, scene / "rgb" / f"{im_id:06d}.png")
        mask = _label(Path(f"{stem}-label.png"))
        if mask.shape != SIZE:
            raise ValueError(f"{stem}-label.png is {mask.shape[1]}x{mask.shape[0]} and not {SIZE[1]}x{SIZE[0]}")
        _write_mask(scene / "mask_visib" / f"{im_id:06d}_000000.png", mask > 0 if synthetic else mask == obj_id)
        cameras[str(im_id)] = {"cam_K": list(K), "depth_scale": 1.0}
        R, t = pose[:, :3].ravel().tolist(), (pose[:, 3] / MM).tolist()
        truth[str(im_id)] = [{"obj_id": obj_id, "cam_R_m2c": R, "cam_t_m2c": t}]
        if (file := Path(f"{stem}-box_fasterrcnn.txt")).is_file():
            x0, y0, x1, y1 = _numbers(file, (4,)).tolist()
            box = [x0, y0, x1 - x0, y1 - y0]
            name = {"scene_id": obj_id, "image_id": im_id, "category_id": obj_id}
            boxes.append({**name, "score": 1.0, "bbox": box, "time": -1})
    _write(scene / "scene_camera.json", cameras)
    _write(scene / "scene_gt.json", truth)
    return len(cameras)


def _numbers(path: Path, shape: tuple[int, ...]) -> Array:
    try:
        values = np.loadtxt(path, dtype=np.float64)
    except FileNotFoundError:
        raise FileNotFoundError(f"no {path.name} in {path.parent}") from None
    except ValueError as error:
        raise ValueError(f"{path} must hold {' x '.join(map(str, shape))} numbers ({error})") from None
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(f"{path} must hold {' x '.join(map(str, shape))} finite numbers, got shape {values.shape}")
    return values


def _label(path: Path) -> Array:
    import cv2

    label = limits.imread(path, cv2.IMREAD_GRAYSCALE)
    if label is None:
        raise ValueError(f"{path} is missing or cannot be read as a picture of labels")
    return label


def _write_mask(path: Path, mask: Array) -> None:
    import cv2

    if not cv2.imwrite(str(path), mask.astype(np.uint8) * 255):
        raise OSError(f"{path} could not be written; is the disk full?")


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
