"""NOCS: CAMERA25 and REAL275, photos of six categories with object coordinates and depth, read into our frames.

    FOLDER/real_test/scene_1/0000_color.png    also .../val/00000/0000_color.png of CAMERA
                             0000_mask.png     number of the instance in the red channel, 255: background
                             0000_coord.png    colour = coordinate + 0.5, z mirrored; nothing where there is no object
                             0000_depth.png    16 bit, millimetres; of CAMERA in two channels, green x 256 + red
                             0000_meta.txt     "1 6 mug_anastasia_norm": instance, class (0: background), model
    obj_models/real_test/mug_anastasia_norm.txt        extents of the model
    obj_models/val/02876657/1071fa4cddb2.../bbox.txt   of CAMERA: its largest and smallest corner

An object's own frame: origin in the middle of its box, +Y up, unit: the diagonal of its box. There are no poses in these
files; `poses` finds them from coordinates and depth, which is how the official ones were made. Millimetres end here.

Source: Wang et al., Normalized Object Coordinate Space for Category-Level 6D Object Pose and Size Estimation, CVPR 2019, and
its reader and evaluation; object frames as stated in its README.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..geometry import camera as camera_ops
from ..geometry import se3
from ..io import limits, records
from ..io.files import existing_file
from ..io.images import read_image
from ..io.pickles import read_pickle
from ..types import Camera

CLASSES = ("bottle", "bowl", "camera", "can", "laptop", "mug")  # class 1 to 6
UP = 1  # the axis that points up in an object's own frame, and about which bottles, bowls and cans are symmetric
BACKGROUND = 255
MM = 1e-3

NOCS_FROM_CATEGORY = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
"""Axes of NOCS from those of `tableware` (+Z up): a turn about X. Handles keep +X."""


def real_camera() -> Camera:
    """The camera of REAL275."""
    K = torch.tensor([[591.0125, 0.0, 322.525], [0.0, 590.16775, 244.11084], [0.0, 0.0, 1.0]])
    return Camera(K, (480, 640))


def synthetic_camera() -> Camera:
    """The camera of CAMERA25."""
    return Camera(torch.tensor([[577.5, 0.0, 319.5], [0.0, 577.5, 239.5], [0.0, 0.0, 1.0]]), (480, 640))


@dataclass(frozen=True)
class NocsFrame:
    """One photo and its objects.

    Args:
        image: (3, H, W), RGB in [0, 1].
        camera: of the same size.
        depth: (H, W), metres, 0: unknown.
        labels: 1 to 6, see `CLASSES`, (N,), int64.
        masks: visible parts, (N, H, W), bool.
        coordinates: (H, W, 3), object frames, unit: the diagonal of each object's box; 0 where there is no object.
        extents: of the objects' boxes in that unit, (N, 3); from the models, or from the coordinates seen.
        models: their names.
        from_models: whether the extents are those of the models.
        path: without "_color.png".
    """

    image: Tensor
    camera: Camera
    depth: Tensor
    labels: Tensor
    masks: Tensor
    coordinates: Tensor
    extents: Tensor
    models: list[str]
    from_models: bool
    path: str


@dataclass(frozen=True)
class Results:
    """True and estimated objects of one image.

    Args:
        labels_true: 1 to 6, (G,), int64.
        cam_from_obj_true: (G, 4, 4), metres, OpenCV camera, float64; the origin is the middle of the box.
        sizes_true: lengths of the box along the object's x, y, z, (G, 3), metres, float64.
        labels, cam_from_obj, sizes: the same of E estimates; NaN poses never match.
        scores: (E,).
        handle_visible: (G,), bool; matters for mugs. None: all are.
        name: of the image.
    """

    labels_true: Tensor
    cam_from_obj_true: Tensor
    sizes_true: Tensor
    labels: Tensor
    cam_from_obj: Tensor
    sizes: Tensor
    scores: Tensor
    handle_visible: Tensor | None = None
    name: str = field(default="")

    def __post_init__(self) -> None:
        for tail, labels in (("_true", self.labels_true), ("", self.labels)):
            n = len(labels)
            pose, size = getattr(self, "cam_from_obj" + tail), getattr(self, "sizes" + tail)
            if tuple(pose.shape) != (n, 4, 4) or tuple(size.shape) != (n, 3):
                raise ValueError(
                    f"{self.name or 'results'}: {n} labels{tail} need cam_from_obj{tail} ({n}, 4, 4) and sizes{tail} "
                    f"({n}, 3), got {tuple(pose.shape)} and {tuple(size.shape)}"
                )
        if tuple(self.scores.shape) != (len(self.labels),):
            raise ValueError(
                f"{self.name or 'results'}: {len(self.labels)} estimates need as many scores, got {tuple(self.scores.shape)}"
            )


def from_category(cam_from_obj: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Poses in the frame of `tableware`'s categories as poses and sizes in NOCS's.

    Args:
        cam_from_obj: (..., 4, 4), metres; the object's +Z is up.
        bounds: smallest and largest corner of its box in that frame, (..., 2, 3), metres.

    Returns:
        cam_from_nocs (..., 4, 4), metres, the origin in the middle of the box, +Y up; sizes along its axes (..., 3), metres.
    """
    axes = NOCS_FROM_CATEGORY.to(cam_from_obj)
    middle, size = bounds.mean(-2), bounds[..., 1, :] - bounds[..., 0, :]
    return cam_from_obj @ se3.from_rt(axes.T, middle), (size @ axes.T).abs()


# ----------------------------------------------------------------------------------------------------------------- photos


def find(folder: str | Path) -> list[Path]:
    """All photos below a folder, sorted, as paths without "_color.png".

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(Path(folder).glob("**/*_color.png"))
    if not paths:
        raise FileNotFoundError(
            f"no 0000_color.png or the like below {folder}; NOCS's layout is real_test/scene_1/0000_color.png"
        )
    return [p.with_name(p.name.removesuffix("_color.png")) for p in paths]


def read(stem: str | Path, camera: Camera | None = None, models: str | Path | None = None) -> NocsFrame:
    """One photo with its masks, coordinates and depth.

    Args:
        stem: path without "_color.png", as `find` gives it.
        camera: None: REAL275's, or CAMERA25's where the models are ShapeNet's (four words a line in the meta file).
        models: the folder obj_models; None: extents come from the coordinates that are seen, which are symmetric about the
            middle, so half of the object is enough.

    Raises:
        FileNotFoundError: one of the five files, or a model's extents, is missing.
        ValueError: a file is not what NOCS has: see the message.
    """
    stem = Path(stem)
    rows = _read_meta(_beside(stem, "meta.txt"))
    image = read_image(_beside(stem, "color.png"))
    size = (int(image.shape[1]), int(image.shape[2]))
    numbers = _read_png(_beside(stem, "mask.png"), size)
    numbers = numbers[..., 2] if numbers.ndim == 3 else numbers
    if not (numbers == BACKGROUND).any():
        raise ValueError(
            f"{stem}_mask.png has no background: expected {BACKGROUND} there in the red channel, "
            f"got {np.unique(numbers)[:8].tolist()}"
        )
    coded = _read_png(_beside(stem, "coord.png"), size)
    if coded.ndim != 3 or coded.dtype != np.uint8:
        raise ValueError(f"{stem}_coord.png must be an 8 bit colour picture, got {coded.dtype} {coded.shape}")
    coordinates = coded[..., 2::-1].astype(np.float32) / 255
    coordinates[..., 2] = 1 - coordinates[..., 2]  # stored mirrored
    coordinates -= 0.5
    depth = _depth(_read_png(_beside(stem, "depth.png"), size), stem)
    seen = [row for row in rows if row[1] != 0 and (numbers == row[0]).any()]
    masks = np.stack([numbers == row[0] for row in seen]) if seen else np.zeros((0, *size), bool)
    coordinates[~masks.any(0)] = 0
    if models is None:
        extents = np.array([2 * np.abs(coordinates[m]).max(0) for m in masks]).reshape(-1, 3)
    else:
        extents = np.array([_extents(Path(models), row[2], stem) for row in seen]).reshape(-1, 3)
    if camera is None:
        camera = synthetic_camera() if any(len(row[2]) == 2 for row in rows) else real_camera()
    if tuple(camera.size) != size:
        (h, w), (ch, cw) = size, camera.size
        raise ValueError(f"{stem}_color.png is {w}x{h}, the camera is for {cw}x{ch} (width x height); give its own camera")
    return NocsFrame(
        image, camera, torch.from_numpy(depth), torch.tensor([row[1] for row in seen], dtype=torch.int64),
        torch.from_numpy(masks), torch.from_numpy(np.ascontiguousarray(coordinates)), torch.from_numpy(extents).double(),
        ["/".join(row[2]) for row in seen], models is not None, str(stem),
    )  # fmt: skip


def _beside(stem: Path, ending: str) -> Path:
    return existing_file(stem.with_name(f"{stem.name}_{ending}"), f"NOCS file *_{ending}")


def _read_png(path: Path, size: tuple[int, int]) -> np.ndarray:
    import cv2

    try:
        with limits.picture(path, str(path)) as header:
            width, height = header.size
    except (OSError, SyntaxError):
        width, height = size[::-1]  # OpenCV says below that it is none
    if (height, width) != size:
        raise ValueError(f"{path} is {width}x{height}, the photo {size[1]}x{size[0]} (width x height)")
    picture = limits.imread(path, cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError(f"{path} is not a picture, or is cut off; download it again")
    return np.asarray(picture)


def _depth(raw: np.ndarray, stem: Path) -> np.ndarray:
    """Metres from either coding."""
    if raw.ndim == 3 and raw.dtype == np.uint8:  # CAMERA: blue, green, red as OpenCV reads them
        raw = raw[..., 1].astype(np.uint16) * 256 + raw[..., 2]
    if raw.ndim != 2 or raw.dtype != np.uint16:
        raise ValueError(
            f"{stem}_depth.png must be 16 bit grey, or 8 bit in three channels (green x 256 + red), got {raw.dtype} {raw.shape}"
        )
    known = raw[raw > 0]
    if len(known) and float(np.median(known)) < 100:
        raise ValueError(
            f"{stem}_depth.png says that things are {np.median(known):.0f} mm away (median); NOCS's depth is in millimetres: "
            "was it written in metres or centimetres?"
        )
    return raw.astype(np.float32) * np.float32(MM)


def _read_meta(path: Path) -> list[tuple[int, int, tuple[str, ...]]]:
    """Instance, class and words of the model, line by line."""
    rows = []
    for k, line in enumerate(records.read_text(path, "NOCS's list of objects").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) not in (3, 4) or not all(re.fullmatch("[0-9]{1,6}", word) for word in words[:2]):
            raise ValueError(f'{path}:{k}: expected "instance class model" or "instance class synset model", got "{line}"')
        number, label = int(words[0]), int(words[1])
        if label > len(CLASSES):
            raise ValueError(
                f"{path}:{k}: class {label}; NOCS has 1 ({CLASSES[0]}) to {len(CLASSES)} ({CLASSES[-1]}), 0 is background"
            )
        if any(word in (".", "..") or "/" in word or "\\" in word for word in words[2:]):
            raise ValueError(f"{path}:{k}: '{' '.join(words[2:])}' is no name of a model; names hold no path")
        rows.append((number, label, tuple(words[2:])))
    return rows


def _extents(models: Path, names: tuple[str, ...], stem: Path) -> np.ndarray:
    """Extents of a model, scaled to diagonal 1."""
    if len(names) == 2:
        paths = [models / split / names[0] / names[1] / "bbox.txt" for split in ("val", "train")]
    else:
        paths = [models / split / f"{names[0]}.txt" for split in ("real_test", "real_train")]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{stem}_meta.txt names the model {'/'.join(names)}, but there is neither {paths[0]} nor {paths[1]}"
        )
    words = records.read_text(path, "the extents of a model").split()
    try:
        values = np.array(words, np.float64)
    except ValueError:
        values = np.zeros(0)
    if values.shape == (6,):
        values = np.abs(values[:3] - values[3:])
    if values.shape != (3,) or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"{path} must hold three extents, or two corners of three numbers, got {' '.join(words):.80}")
    return values / np.linalg.norm(values)


# ------------------------------------------------------------------------------------------------------------------ poses


class Similarity(NamedTuple):
    """y = scale R x + t of two point sets."""

    scale: Tensor  # ()
    R: Tensor  # (3, 3)
    t: Tensor  # (3,)
    residual: Tensor  # root mean square distance after it, in the unit of y, ()


def umeyama(x: Tensor, y: Tensor) -> Similarity:
    """The similarity between two point sets with least squared distances.

    Args:
        x, y: (N, 3), N >= 3 and not all on a line.

    Source: Umeyama, Least-squares estimation of transformation parameters between two point patterns (1991), eq. 40-42.
    """
    mx, my = x.mean(0), y.mean(0)
    a, b = x - mx, y - my
    u, d, vh = torch.linalg.svd(b.T @ a / len(x))
    sign = torch.ones_like(d)
    sign[2] = torch.where(torch.linalg.det(u) * torch.linalg.det(vh) < 0, -1.0, 1.0)
    R = (u * sign) @ vh
    scale = (d * sign).sum() / a.square().sum(-1).mean()
    t = my - scale * R @ mx
    return Similarity(scale, R, t, (scale * x @ R.T + t - y).square().sum(-1).mean().sqrt())


def robust_similarity(x: Tensor, y: Tensor, tries: int = 64, seed: int = 0) -> Similarity:
    """`umeyama` on the points that agree: of small random samples, the one that most points agree with, then twice on those.

    Args:
        x, y: (N, 3), N >= 5; y may hold gross errors, such as depth behind the rim of an object.
        tries: samples of five points.
        seed: of the samples.

    A point agrees if its distance is below a tenth of the extent of x, brought to scale; at the end, below three times the
    median distance if that is less.
    """
    generator = torch.Generator().manual_seed(seed)
    reach = 0.1 * (x.amax(0) - x.amin(0)).norm()
    best, most = umeyama(x, y), -1
    for _ in range(tries):
        pick = torch.randint(len(x), (5,), generator=generator)
        found = umeyama(x[pick], y[pick])
        if not bool(torch.isfinite(found.scale)) or float(found.scale) <= 0:
            continue
        count = int((_distances(found, x, y) < found.scale * reach).sum())
        if count > most:
            best, most = found, count
    for _ in range(3):
        distances = _distances(best, x, y)
        limit = torch.minimum(best.scale * reach, 3 * distances.median() + 1e-9)
        agree = distances <= limit
        if int(agree.sum()) < 5:
            break
        best = umeyama(x[agree], y[agree])
    return best


def _distances(found: Similarity, x: Tensor, y: Tensor) -> Tensor:
    return (found.scale * x @ found.R.T + found.t - y).norm(dim=-1)


def poses(frame: NocsFrame) -> tuple[Tensor, Tensor]:
    """Poses and sizes of the objects of a photo, from coordinates and depth.

    Returns:
        cam_from_obj (N, 4, 4), metres, rigid, OpenCV camera, float64: the origin in the middle of the box, +Y up; sizes along
        x, y, z, (N, 3), metres. NaN where fewer than 20 pixels have depth.

    Raises:
        ValueError: coordinates fit to the depth only mirrored: their axes are not NOCS's.
    """
    motions, sizes = [], []
    for k, mask in enumerate(frame.masks):
        use = mask & (frame.depth > 0)
        if int(use.sum()) < 20:
            motions.append(torch.full((4, 4), torch.nan, dtype=torch.float64))
            sizes.append(torch.full((3,), torch.nan, dtype=torch.float64))
            continue
        v, u = use.nonzero().double().unbind(-1)
        y = camera_ops.unproject(torch.stack([u, v], -1), frame.depth[use].double(), frame.camera.K.double())
        x = frame.coordinates[use].double()
        found = robust_similarity(x, y)
        _refuse_mirrored(x, y, found, f"{frame.path}, {CLASSES[int(frame.labels[k]) - 1]} {frame.models[k]}")
        motions.append(se3.from_rt(found.R, found.t))
        sizes.append(found.scale * frame.extents[k])
    if not motions:
        return torch.zeros(0, 4, 4, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64)
    return torch.stack(motions), torch.stack(sizes)


def _refuse_mirrored(x: Tensor, y: Tensor, found: Similarity, what: str) -> None:
    """Raise where the mirrored coordinates fit much better than the coordinates."""
    flipped = robust_similarity(x * x.new_tensor([1.0, 1.0, -1.0]), y)
    here, there = (_distances(f, p, y).median() for f, p in ((found, x), (flipped, x * x.new_tensor([1.0, 1.0, -1.0]))))
    if float(there) < 0.3 * float(here) and float(here) > 0.02 * float(flipped.scale):
        raise ValueError(
            f"{what}: the coordinates fit to the depth only when mirrored "
            f"({here * 1000:.0f} mm off, mirrored {there * 1000:.0f} mm). "
            "NOCS stores red, green, blue = x, y, 1 - z; was z stored as it is, or were red and blue swapped?"
        )


# ---------------------------------------------------------------------------------------------------------------- results


def read_results(path: str | Path) -> Results:
    """One image's results_*.pkl, as NOCS and those who compare with it write them.

    Its fields: gt_class_ids (G,), gt_RTs (G, 4, 4) with the scale in the rotation, gt_scales (G, 3), gt_handle_visibility (G,);
    pred_class_ids, pred_RTs, pred_scales, pred_scores likewise, missing in the published ground truth. The product of an RT's
    scale, metres, and its row of scales is the box's size. Only arrays are read; code in the file is not run.

    Raises:
        ValueError: a field is missing, or poses are not what they should be.
    """
    path = existing_file(path, "NOCS result (results_*.pkl)")
    fields = read_pickle(path, "NOCS results")
    if not isinstance(fields, dict) or "gt_class_ids" not in fields:
        names = ", ".join(map(str, fields)) if isinstance(fields, dict) else type(fields).__name__
        raise ValueError(f"{path}: expected a dict with gt_class_ids, gt_RTs, gt_scales and the same with pred_, got {names}")
    labels_true, true, sizes_true = _boxes(fields, "gt", path)
    labels, estimated, sizes = _boxes(fields, "pred", path) if "pred_class_ids" in fields else _none()
    scores = _column(fields, "pred_scores", (), path) if "pred_scores" in fields else np.zeros(0)
    if not np.isfinite(scores).all():
        raise ValueError(f"{path}: pred_scores hold NaN or infinity")
    visible = "gt_handle_visibility" in fields
    handles = torch.from_numpy(_column(fields, "gt_handle_visibility", (), path) != 0) if visible else None
    return Results(
        labels_true, true, sizes_true, labels, estimated, sizes, torch.from_numpy(scores), handles, path.stem
    )  # fmt: skip


def _none() -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64)


def _boxes(fields: dict[str, Any], kind: str, path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, rigid poses, metric sizes."""
    numbers, scaled, extents = (
        _column(fields, f"{kind}_{name}", tail, path) for name, tail in (("class_ids", ()), ("RTs", (4, 4)), ("scales", (3,)))
    )
    n = len(numbers)
    lowest = 1 if kind == "gt" else 0
    wrong = ~((numbers >= lowest) & (numbers <= len(CLASSES)) & (numbers % 1 == 0))
    if wrong.any():
        raise ValueError(f"{path}: {kind}_class_ids must be {lowest} to {len(CLASSES)}, got {numbers[wrong][0]:g}")
    labels = numbers.astype(np.int64)
    if len(scaled) != n or len(extents) != n:
        raise ValueError(f"{path}: {n} {kind}_class_ids, but {len(scaled)} {kind}_RTs and {len(extents)} {kind}_scales")
    if n and not (np.abs(scaled[:, 3] - [0, 0, 0, 1]).max() < 1e-3 or kind == "pred"):
        raise ValueError(f"{path}: the last row of {kind}_RTs must be 0 0 0 1, got {scaled[0, 3].tolist()}; transposed?")
    if kind == "gt" and not (np.isfinite(scaled).all() and np.isfinite(extents).all()):
        raise ValueError(f"{path}: gt_RTs or gt_scales hold NaN or infinity")
    lost = ~(np.isfinite(scaled).all((1, 2)) & np.isfinite(extents).all(1))  # estimates that failed
    scaled[lost] = 0
    det = np.linalg.det(scaled[:, :3, :3])
    bad = ~(det > 1e-12)
    if kind == "gt" and bad.any():
        raise ValueError(f"{path}: determinants of gt_RTs must be positive, got {det[bad][0]:.3g}; are the axes mirrored?")
    scale = np.cbrt(np.where(bad, 1.0, det))
    far = np.linalg.norm(scaled[~bad, :3, 3], axis=-1)
    if len(far) and (np.median(scale[~bad]) > 20 or np.median(far) > 50):
        raise ValueError(
            f"{path}: {kind}_RTs say objects of size {np.median(scale[~bad]):.3g} m at {np.median(far):.3g} m; "
            "are they in millimetres?"
        )
    rigid = scaled.copy()
    rigid[:, :3, :3] /= scale[:, None, None]
    if (off := ~bad & (np.abs(rigid[:, 3] - [0, 0, 0, 1]).max(-1, initial=0) > 1e-3)).any():
        raise ValueError(f"{path}: the last row of {kind}_RTs must be 0 0 0 1, got {rigid[off][0, 3].tolist()}; transposed?")
    records.check_rotations(rigid[~bad, :3, :3], str(path), f"{kind}_RTs without their scale")
    rigid[bad] = np.nan
    sizes = np.abs(extents) * scale[:, None]
    return torch.from_numpy(labels), torch.from_numpy(rigid), torch.from_numpy(sizes)


def _column(fields: dict[str, Any], name: str, tail: tuple[int, ...], path: Path) -> np.ndarray:
    """One field as float64 numbers, (N, *tail)."""
    if name not in fields:
        raise ValueError(f"{path}: {name} is missing (has: {', '.join(map(str, fields))})")
    try:
        array = np.array(fields[name], np.float64)
        return array.reshape(-1, *tail) if array.size else array.reshape(0, *tail)
    except (TypeError, ValueError, OverflowError):
        shape = " x ".join(["N", *map(str, tail)])
        raise ValueError(f"{path}: {name} must be {shape} numbers, got {fields[name]!r:.60}") from None


def results_folder(folder: str | Path, gts: str | Path | None = None) -> list[Results]:
    """All results_*.pkl of a folder, sorted by name.

    Args:
        folder: holds them.
        gts: folder of the published ground truth, results_real_test_scene_1_0000.pkl ..., in place of what the results say.

    Raises:
        FileNotFoundError: there is none, or none of the truth for one of them.
    """
    paths: Sequence[Path] = sorted(Path(folder).glob("results_*.pkl"))
    if not paths:
        raise FileNotFoundError(f"no results_*.pkl in {folder}")
    found = [read_results(p) for p in paths]
    if gts is None:
        return found
    files = by_photo(gts)
    truths = [read_results(of_photo(files, p.stem, gts)) for p in paths]
    names = ("labels_true", "cam_from_obj_true", "sizes_true", "handle_visible")
    return [replace(mine, **{k: getattr(true, k) for k in names}) for mine, true in zip(found, truths, strict=True)]


Photo = tuple[int, ...]  # numbers of scene and picture


def by_photo(folder: str | Path) -> dict[Photo, Path]:
    """The results_*.pkl of a folder by the photo that they are about: results_real_test_scene_1_0003.pkl by (1, 3).

    Raises:
        FileNotFoundError: there is none.
    """
    files = {_numbers(p.stem): p for p in sorted(Path(folder).glob("results_*.pkl"))}
    if not files:
        raise FileNotFoundError(f"no results_*.pkl in {folder}; expected one for each photo, results_test_scene_1_0000.pkl")
    return files


def of_photo(files: Mapping[Photo, Path], photo: str, folder: str | Path) -> Path:
    """The file that is about a photo, scene_1/0003. FileNotFoundError where there is none in the folder."""
    if _numbers(photo) not in files:
        raise FileNotFoundError(f"{folder} has no results_*.pkl of {photo}")
    return files[_numbers(photo)]


def _numbers(name: str) -> Photo:
    return tuple(map(int, re.findall(r"\d+", name)[-2:]))


def read_detections(path: str | Path, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """What NOCS's Mask R-CNN found in a photo, as its authors and those who compare with it hand it on.

    Args:
        path: results_*.pkl with pred_class_ids, pred_scores and pred_masks (or pred_mask), or class_ids, scores and masks.
        size: (height, width) of the photo.

    Returns:
        labels (N,), 1 to 6; scores (N,); masks (N, H, W), bool. No code in the file is run.

    Raises:
        ValueError: a field is missing, or not what it should be.
    """
    path = existing_file(path, "NOCS detections (results_*.pkl)")
    fields = read_pickle(path, "NOCS detections")
    keys = list(fields) if isinstance(fields, dict) else []
    chosen = [
        next((k for k in names if k in keys), None)
        for names in (("pred_class_ids", "class_ids"), ("pred_scores", "scores"), ("pred_masks", "pred_mask", "masks"))
    ]
    if None in chosen:
        raise ValueError(
            f"{path}: expected pred_class_ids, pred_scores and pred_masks, got {', '.join(map(str, keys)) or 'none'}"
        )
    labels, scores = (_column(fields, str(k), (), path) for k in chosen[:2])
    masks = np.asarray(fields[chosen[2]])
    if not len(labels):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, *size, dtype=torch.bool)
    if masks.shape != (*size, len(labels)) or len(scores) != len(labels):
        raise ValueError(
            f"{path}: {chosen[2]} must be {size[0]} x {size[1]} x {len(labels)}, with as many scores, got "
            f"{' x '.join(map(str, masks.shape))} and {len(scores)} scores"
        )
    if not (np.isin(labels, range(1, len(CLASSES) + 1)).all() and np.isfinite(scores).all()):
        raise ValueError(f"{path}: {chosen[0]} must be 1 to {len(CLASSES)}, and {chosen[1]} finite")
    return (
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(scores).float(),
        torch.from_numpy(masks != 0).permute(2, 0, 1),
    )
