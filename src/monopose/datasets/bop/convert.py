"""LINEMOD as CDPN, EPro-PnP-6DoF, DeepIM and RNNPose keep it, made into a BOP folder; initial poses into a BOP result file.

    FOLDER/
      real_train/ape/0005-color.png       photo, 640 x 480
      real_train/ape/0005-label.png       mask: the number of the object; in imgn anything above 0
      real_train/ape/0005-pose.txt        cam_from_obj, 3 x 4, metres
      real_test/ape/0000-box_fasterrcnn.txt   box of their detector, x0 y0 x1 y1
      imgn/ape/...                        renderings, the same files

They become the splits train, test and train_imgn, every object's folder in them a scene that is numbered as the object. The CAD
models are BOP's own (lm). RNNPose's folder EXPDATA, whose pictures are DeepIM's and PVNet's:

    LM6d_converted/LM6d_refine/image_set/observed/ape_train.txt      lines 01/000005; ape_test.txt
    LM6d_converted/LM6d_refine/data/observed/01/000005-color.png     photo
    LM6d_converted/LM6d_refine/data/gt_observed/ape/000005-pose.txt  a line to pass over, then cam_from_obj, 3 x 4, metres
    LM6d_converted/LM6d_refine_syn/…                                 renderings, likewise; observed/ape/
    LINEMOD/fuse_formatted/cam/00012.jpg                             pasted together; 00012_params.pkl, 00012_mask_visb.png

become train and test, train_syn, train_fuse. PVNet's poses (fuse_formatted, init_poses/pvnet) are those of models that Blender
has turned; init_poses/pose_conversion/blender2bop_RT.npy has the motion to BOP's.

Source: the code of EPro-PnP-6DoF (lib/datasets/lm.py, lib/ref.py), which is CDPN's; that of RNNPose (data/linemod_dataset.py,
tools/generate_data_info_*.py).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...geometry.rotation import matrix_from_quat_wxyz, so3_exp
from ...io import limits
from ...io.files import atomic_folder, atomic_write, existing_file
from ...io.pickles import read_pickle
from ...io.records import MM, Array, check_rotations, found, mapping, numbers, rows, text
from .results import Results, write_results

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
    with _begun(out, models) as partial:
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
    return counts


@contextmanager
def _begun(out: Path, models: Path) -> Iterator[Path]:
    """The folder beside `out` that becomes it in the end, with camera and models."""
    if not (models / "models_info.json").is_file():
        raise FileNotFoundError(f"{models} is no BOP models folder ({found(models)}); give that of BOP's lm")
    if out.exists():
        raise ValueError(f"{out} exists; give a new folder, or delete that one")
    with atomic_folder(out) as partial:
        shutil.copytree(models, partial / "models")
        camera = {"fx": K[0], "fy": K[4], "cx": K[2], "cy": K[5], "width": SIZE[1], "height": SIZE[0], "depth_scale": 1.0}
        _write(partial / "camera.json", camera)
        yield partial


def _scene(source: Path, scene: Path, obj_id: int, synthetic: bool, boxes: list[dict[str, Any]]) -> int:
    """Write one object's pictures as a scene; returns how many. Boxes of the detector are appended."""
    (scene / "rgb").mkdir(parents=True)
    (scene / "mask_visib").mkdir()
    cameras, truth = {}, {}
    for path in sorted(source.glob("*-color.png")):
        number, stem = path.name.split("-")[0], str(path).removesuffix("-color.png")
        if not number.isdecimal():
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


def _numbers(path: Path, shape: tuple[int, ...], skip: int = 0) -> Array:
    try:
        values = np.loadtxt(path, dtype=np.float64, skiprows=skip)
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


# ------------------------------------------------------------------------------------------------------ DeepIM, RNNPose

MOST_STEPS = 20_000_000  # instructions of a pickle: 1214 photos of eight objects have some millions
SEQUENCES = {name: number for name, number in OBJECTS.items() if name not in ("bowl", "cup")}


def convert_deepim(folder: str | Path, out: str | Path, models: str | Path) -> dict[str, int]:
    """Make a BOP folder of RNNPose's EXPDATA, see above; as many of its three parts as there are.

    Args:
        folder: EXPDATA, or a folder with LM6d_refine and LM6d_refine_syn.
        out: the BOP folder, which must not exist.
        models: BOP's models of LINEMOD, lm/models; copied.

    Returns:
        pictures of each split of the result. Photos and renderings come without masks, which are rendered where needed.

    Raises:
        FileNotFoundError, ValueError: no such folder, a file is missing or broken, `out` exists.
    """
    folder, out, models = Path(folder), Path(out), Path(models)
    inner = folder / "LM6d_converted" if (folder / "LM6d_converted").is_dir() else folder
    refine, syn, fuse = inner / "LM6d_refine", inner / "LM6d_refine_syn", folder / "LINEMOD" / "fuse_formatted"
    if not any(p.is_dir() for p in (refine, syn, fuse)):
        raise FileNotFoundError(
            f"{folder} has neither LM6d_converted/LM6d_refine nor LM6d_refine_syn nor LINEMOD/fuse_formatted ({found(folder)})"
        )
    with _begun(out, models) as partial:
        counts: dict[str, int] = {}
        parts = {"train": (refine, "{}_train.txt"), "test": (refine, "{}_test.txt"), "train_syn": (syn, SYN_LIST)}
        for split, (place, listed) in parts.items():
            for name, obj_id in SEQUENCES.items():
                file = place / "image_set" / "observed" / listed.format(name)
                if file.is_file():
                    own = f"{obj_id:02d}" if place == refine else name
                    counts[split] = counts.get(split, 0) + _deepim_scene(
                        place, own, name, file, partial / split / f"{obj_id:06d}"
                    )
        if fuse.is_dir():
            frames = blender_frames(folder / "init_poses" / "pose_conversion" / "blender2bop_RT.npy")
            counts["train_fuse"] = sum(
                _fuse_scene(place, obj_id, frames, partial / "train_fuse" / f"{obj_id:06d}")
                for name, obj_id in SEQUENCES.items()
                if (place := fuse / ("cam" if name == "camera" else name)).is_dir()
            )
        if not any(counts.values()):
            raise FileNotFoundError(
                f"{folder} lists no picture; expected LM6d_refine/image_set/observed/ape_train.txt and others"
            )
    return counts


SYN_LIST = "LM6d_data_syn_train_observed_{}.txt"


def _listed(file: Path) -> list[int]:
    """Numbers of the pictures of a list, in its order: lines such as 01/000005."""
    ends = [line.split("/")[-1].strip() for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    bad = next((end for end in ends if not end.isdecimal()), None)
    if bad is not None:
        raise ValueError(f"{file}: a line must end in the number of a picture, got {bad!r}")
    return [int(end) for end in ends]


def _entry(obj_id: int, pose: Array, where: str) -> list[dict[str, Any]]:
    check_rotations(pose[None, :, :3], where, "rotation")
    return [{"obj_id": obj_id, "cam_R_m2c": pose[:, :3].ravel().tolist(), "cam_t_m2c": (pose[:, 3] / MM).tolist()}]


def _deepim_scene(place: Path, own: str, name: str, file: Path, scene: Path) -> int:
    (scene / "rgb").mkdir(parents=True)
    cameras, truth = {}, {}
    for im_id in _listed(file):
        source = existing_file(place / "data" / "observed" / own / f"{im_id:06d}-color.png", "photo")
        pose_file = place / "data" / "gt_observed" / name / f"{im_id:06d}-pose.txt"
        truth[str(im_id)] = _entry(OBJECTS[name], _numbers(pose_file, (3, 4), skip=1), str(pose_file))
        shutil.copyfile(source, scene / "rgb" / f"{im_id:06d}.png")
        cameras[str(im_id)] = {"cam_K": list(K), "depth_scale": 1.0}
    _write(scene / "scene_camera.json", cameras)
    _write(scene / "scene_gt.json", truth)
    return len(cameras)


def _fuse_scene(place: Path, obj_id: int, frames: dict[str, Array], scene: Path) -> int:
    (scene / "rgb").mkdir(parents=True)
    (scene / "mask_visib").mkdir()
    cameras, truth = {}, {}
    for source in sorted(place.glob("[0-9]*.jpg")):
        if not source.stem.isdecimal():
            continue
        im_id, where = int(source.stem), f"{source.parent / source.stem}_params.pkl"
        params = mapping(read_pickle(existing_file(where, "pose"), "a pose and its camera"), where)
        pose = from_blender(numbers(params, "RT", (3, 4), where), _frame(frames, place.name))
        truth[str(im_id)] = _entry(obj_id, pose, where)
        cameras[str(im_id)] = {"cam_K": numbers(params, "K", (3, 3), where).ravel().tolist(), "depth_scale": 1.0}
        shutil.copyfile(source, scene / "rgb" / f"{im_id:06d}.jpg")
        mask = source.with_name(f"{source.stem}_mask_visb.png")
        if mask.is_file():
            _write_mask(scene / "mask_visib" / f"{im_id:06d}_000000.png", _label(mask) > 127)
    _write(scene / "scene_camera.json", cameras)
    _write(scene / "scene_gt.json", truth)
    return len(cameras)


def blender_frames(path: str | Path) -> dict[str, Array]:
    """bop_from_blender by object name, (3, 4) or (4, 4), metres, of a blender2bop_RT.npy.

    Raises:
        FileNotFoundError, ValueError: no such file, no dictionary of motions.
    """
    path = existing_file(path, "file of motions from Blender's models to BOP's")
    content = mapping(read_pickle(path, "motions by object"), str(path))
    return {name: _motion(value, f"{path}: {name}") for name, value in content.items()}


def _motion(value: Any, where: str) -> Array:
    motion = np.asarray(value, np.float64) if isinstance(value, np.ndarray) else np.zeros(0)
    if motion.shape not in ((3, 4), (4, 4)) or not np.isfinite(motion).all():
        raise ValueError(f"{where} must be 3 x 4 or 4 x 4 finite numbers, got {value!r:.60}")
    check_rotations(motion[None, :3, :3], where, "rotation")
    return motion[:3]


def _long(name: str) -> str:
    """PVNet calls the camera cam."""
    return "camera" if name == "cam" else name


def _frame(frames: dict[str, Array], name: str) -> Array:
    for known in (name, _long(name)):
        if known in frames:
            return frames[known]
    raise ValueError(f"no motion from Blender's model of {name} is known; there are those of {', '.join(frames)}")


def from_blender(pose: Array, bop_from_blender: Array) -> Array:
    """cam_from_obj of Blender's model -> of BOP's. (3, 4), (3, 4) -> (3, 4), metres."""
    R = pose[:, :3] @ bop_from_blender[:, :3].T
    return np.hstack([R, pose[:, 3:] - R @ bop_from_blender[:, 3:]])


def convert_poses(
    path: str | Path, pictures: str | Path, out: str | Path, frames: str | Path | None = None,
    noise: tuple[float, float] = (0.0, 0.0), seed: int = 0,
) -> dict[str, int]:  # fmt: skip
    """Write a BOP result file of initial poses as RNNPose takes them.

    Args:
        path: by object name lists of poses: PVNet's .npy (3 x 4 each, metres) or PoseCNN's .pkl ("pose": quaternion wxyz,
            translation in metres).
        pictures: what they are of, in the same order: the .info file of the original (lists by object, each entry with
            "rgb_observed_path"), or the folder LM6d_refine, whose lists of test photos say it.
        out: result file, METHOD_DATASET-test.csv.
        frames: blender2bop_RT.npy, for PVNet's poses, which are of Blender's models.
        noise: deviations of what is added, to see what a refiner makes of worse starts: degrees, about each axis of the camera
            (of the original: of each Euler angle); metres, across the line of sight, five times that along it.
        seed: of the noise.

    Returns:
        "poses": rows written; "more": poses beyond the pictures, or pictures beyond the poses.

    Raises:
        FileNotFoundError, ValueError: no such file, or not what it should be; an unknown object; a path without numbers.
    """
    path, pictures = existing_file(path, "file of poses"), Path(pictures)
    content = mapping(read_pickle(path, "poses by object", most=MOST_STEPS), str(path))
    motions = None if frames is None else blender_frames(frames)
    keys = _test_lists(pictures) if pictures.is_dir() else _info_pictures(pictures)
    table: list[tuple[int, int, int]] = []
    poses: list[Array] = []
    more = 0
    for name, listed in content.items():
        obj_id = OBJECTS.get(_long(name))
        if obj_id is None:
            raise ValueError(f"{path}: no object of LINEMOD is called {name!r}; expected {', '.join(SEQUENCES)}")
        own, known = rows(listed, f"{path}: {name}"), keys.get(obj_id)
        if known is None:
            raise ValueError(f"{pictures} lists no pictures of {name}, of which {path} has {len(own)} poses")
        more += abs(len(own) - len(known))
        for n, (key, value) in enumerate(zip(known, own)):
            where = f"{path}: {name}, pose {n}"
            pose = _given_pose(value, where)
            poses.append(pose if motions is None else from_blender(pose, _frame(motions, name)))
            check_rotations(poses[-1][None, :, :3], where, "rotation")
            table.append((*key, obj_id))
    ids, stacked = np.array(table, np.int64).reshape(-1, 3), _disturbed(np.array(poses).reshape(-1, 3, 4), noise, seed)
    none = np.full(len(ids), -1.0)
    write_results(out, Results(ids[:, 0], ids[:, 1], ids[:, 2], np.ones(len(ids)), stacked[:, :, :3], stacked[:, :, 3], none))
    return {"poses": len(ids), "more": more}


def _disturbed(poses: Array, noise: tuple[float, float], seed: int) -> Array:
    if not min(noise) >= 0:
        raise ValueError(f"noise must be degrees and metres from 0 on, got {noise}")
    if not any(noise):
        return poses
    rng = np.random.default_rng(seed)
    turn = so3_exp(torch.from_numpy(np.radians(noise[0]) * rng.standard_normal((len(poses), 3)))).numpy()
    shift = noise[1] * rng.standard_normal((len(poses), 3)) * [1, 1, 5]
    return np.concatenate([turn @ poses[:, :, :3], poses[:, :, 3:] + shift[..., None]], -1)


def _given_pose(value: Any, where: str) -> Array:
    if isinstance(value, dict):
        raw = numbers(value, "pose", (7,), where)
        R = matrix_from_quat_wxyz(torch.from_numpy(raw[:4] / max(float(np.linalg.norm(raw[:4])), 1e-12))).numpy()
        return np.hstack([R, raw[4:, None]])
    pose = np.asarray(value, np.float64) if isinstance(value, np.ndarray) else np.zeros(0)
    if pose.shape not in ((3, 4), (4, 4)) or not np.isfinite(pose).all():
        raise ValueError(f"{where} must be a 3 x 4 matrix of finite numbers, got {value!r:.60}")
    return pose[:3]


def _test_lists(folder: Path) -> dict[int, list[tuple[int, int]]]:
    """Scene and number of the test photos of LM6d_refine, by object, as `convert_deepim` numbers them."""
    lists = {number: folder / "image_set" / "observed" / f"{name}_test.txt" for name, number in SEQUENCES.items()}
    there = {number: [(number, i) for i in _listed(file)] for number, file in lists.items() if file.is_file()}
    if not there:
        raise FileNotFoundError(
            f"{folder} has no image_set/observed/ape_test.txt or others ({found(folder)}); give LM6d_refine"
        )
    return there


_PATHS = (  # of a photo -> its scene and number in BOP
    (r"(?:.*/)?(\d{6})/rgb/(\d+)\.\w+", lambda m, own: (int(m[1]), int(m[2]))),
    (r"(?:.*/)?observed/(\d+)/(\d+)-color\.png", lambda m, own: (own, int(m[2]))),
    (r"(?:.*/)?color_(\d+)\.png", lambda m, own: (2, int(m[1]))),  # of LM-O, which is scene 2
)


def _info_pictures(path: Path) -> dict[int, list[tuple[int, int]]]:
    content = mapping(read_pickle(existing_file(path, "list of pictures"), "a list of pictures", most=MOST_STEPS), str(path))
    listed: dict[int, list[tuple[int, int]]] = {}
    for name, entries in content.items():
        own = OBJECTS.get(_long(name), 0)
        for n, entry in enumerate(rows(entries, f"{path}: {name}")):
            photo = text(entry, "rgb_observed_path", f"{path}: {name}, entry {n}")
            key = next((of(m, own) for pattern, of in _PATHS if (m := re.fullmatch(pattern, photo))), None)
            if key is None:
                raise ValueError(
                    f"{path}: {name}, entry {n}: {photo!r} names no photo; expected 000002/rgb/000003.png, "
                    "observed/01/000005-color.png or color_00005.png"
                )
            listed.setdefault(own, []).append(key)
    return listed
