"""Crops of eight channels for `viewpoint.model`: the photo, and the object's mask, boundaries and surface normals.

    0:3  RGB, grey outside the photo
    3    mask, 0 where there is none
    4    boundaries: edges within the object and its outline
    5:8  normals, camera frame (x right, y down, z forward), as (n + 1) / 2; 0.5 where there is no object

All float32 in [0, 1]. `PhotoCrops` cuts them from Pix3D's photos, `RenderedCrops` renders them from any CAD models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets import pix3d
from ..geometry import boxes as box_ops
from ..geometry import camera, se3, viewpoints
from ..geometry import camera as camera_ops
from ..io.bars import watched
from ..io.files import existing_file
from ..render import maps
from ..render.raster import rasterize
from ..synthesis import augment as camera_defects
from ..synthesis import scene as synth
from ..synthesis.samples import amodal_box, jittered_square
from ..training.cache import Cache, fingerprint
from ..types import ObjectModel

CHANNELS = 8
RGB, MASK, BOUNDARIES, NORMALS = slice(0, 3), 3, 4, slice(5, 8)
PADDING = torch.tensor([0.5, 0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 0.5])[:, None, None]  # what a crop holds outside the photo
CROP_SCALE = pix3d.CROP_MARGIN  # side of the crop / longer side of the box
MAPS = {"normals": ("normals", "normal"), "boundaries": ("boundaries", "boundries")}  # folders of them, ours and the original's
_VERSION = 1  # of what is kept in a cache: a change makes old ones useless

Corruption = Literal["dilate", "erode", "shift", "holes", "drop"]
Predictor = Callable[[Tensor], "Tensor | tuple[Tensor, Tensor]"]
"""Crops (B, 3, s, s), RGB in [0, 1], s a multiple of 32 -> unit normals (B, 3, s, s) in the camera frame, and boundaries
(B, s, s) in [0, 1] where it has some to tell."""


def channels(
    image: Tensor,
    box: Tensor,
    side: int,
    mask: Tensor | None = None,
    normals: Tensor | None = None,
    boundaries: Tensor | None = None,
    scale: float = CROP_SCALE,
) -> Tensor:
    """The square crop around a box, all that is known of it in eight channels.

    Args:
        image: (3, H, W), RGB in [0, 1].
        box: (4,), xyxy pixel edges of the photo.
        side: of the crop, pixels.
        mask: (H, W), bool; None: unknown, its channel is 0.
        normals: (3, H, W), in [-1, 1], camera frame, 0 where there is no object; None: unknown.
        boundaries: (H, W), in [0, 1]; None: found in the crop, see the function of that name.
        scale: side of the crop / longer side of the box.

    Returns:
        (8, side, side).
    """
    _check_maps(image, box, mask, normals, boundaries)
    square = box_ops.square(box.float(), scale)[None]
    rgb = camera.cut(image, square, side)[0]
    cut_mask = None if mask is None else _cut(mask[None], square, side)[0]
    cut_normals = None if normals is None else _cut(normals, square, side)
    cut_boundaries = None if boundaries is None else _cut(boundaries[None], square, side)[0]
    return _stacked(rgb, cut_mask, cut_boundaries, cut_normals)


def _check_maps(image: Tensor, box: Tensor, mask: Tensor | None, normals: Tensor | None, boundaries: Tensor | None) -> None:
    if image.dim() != 3 or len(image) != 3:
        raise ValueError(f"image must be (3, H, W), got {tuple(image.shape)}")
    if box.shape != (4,) or not bool((box[2:] > box[:2]).all()):
        raise ValueError(f"box must be (4,), x0 < x1 and y0 < y1, got {box.tolist()}")
    size = tuple(image.shape[1:])
    for name, value, wanted in (("mask", mask, size), ("normals", normals, (3, *size)), ("boundaries", boundaries, size)):
        if value is not None and tuple(value.shape) != wanted:
            raise ValueError(f"{name} must be {wanted}, as the image, got {tuple(value.shape)}")


def _cut(values: Tensor, square: Tensor, side: int) -> Tensor:
    """A crop that is 0 outside the photo. (C, H, W), (1, 4) -> (C, side, side)."""
    return camera.cut(values.float() + 0.5, square, side)[0] - 0.5


def _stacked(rgb: Tensor, mask: Tensor | None, boundary: Tensor | None, normals: Tensor | None) -> Tensor:
    """Channels of one crop as one tensor; (3, s, s) or (s, s) each, what is not known is None."""
    if boundary is None:
        boundary = boundaries(rgb, None if mask is None else mask > 0.5)
    mask = torch.zeros_like(rgb[0]) if mask is None else mask
    normals = torch.zeros_like(rgb) if normals is None else normals
    return torch.cat([rgb, mask[None], boundary[None], (normals + 1) / 2]).clamp(0, 1)


def boundaries(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Edges of a picture, by Sobel's operator, and the outline of the mask.

    Args:
        image: (3, H, W), RGB in [0, 1].
        mask: (H, W), bool: edges elsewhere do not count, its own outline does; None or empty: edges everywhere.

    Returns:
        (H, W), in [0, 1]. The strongest fiftieth of the object's edges are 1, but faint ones stay faint.
    """
    soft = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=image.device) / 16
    step = torch.tensor([-1.0, 0.0, 1.0], device=image.device) / 2
    even = torch.tensor([1.0, 2.0, 1.0], device=image.device) / 4
    x = F.pad(image[:, None].float(), (2, 2, 2, 2), mode="replicate")
    x = F.conv2d(F.conv2d(x, soft[None, None, None]), soft[None, None, :, None])
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = F.conv2d(F.conv2d(x, step[None, None, None]), even[None, None, :, None])
    down = F.conv2d(F.conv2d(x, even[None, None, None]), step[None, None, :, None])
    strength = (across.square() + down.square()).sqrt().amax((0, 1))  # of the colour that changes most
    if mask is None or not bool(mask.any()):
        return (strength / _strongest(strength.flatten())).clamp_max(1)
    solid = mask[None, None].float()
    near = F.max_pool2d(solid, 3, 1, 1)[0, 0]
    outline = near + F.max_pool2d(-solid, 3, 1, 1)[0, 0]
    core = -F.max_pool2d(-solid, 5, 1, 2)[0, 0]  # edges against the background are the outline's
    return torch.maximum(strength / _strongest(strength[(core if bool(core.any()) else near) > 0]), outline).clamp_max(1) * near


def _strongest(strength: Tensor) -> Tensor:
    """What counts as a full edge among (n,) of them."""
    some = strength[:: max(len(strength) // 1_000_000, 1)]  # quantile takes no more than 16 million
    return some.quantile(0.98).clamp_min(0.03)


def render_normals(model: ObjectModel, cam_from_obj: Tensor, K: Tensor, size: tuple[int, int]) -> Tensor:
    """Surface normals of a CAD model where it stands. An oracle: it needs the model and the very pose that is sought.

    Args:
        model: in the unit of the pose.
        cam_from_obj: (4, 4).
        K: (3, 3), pixels.
        size: (height, width), pixels.

    Returns:
        (3, H, W), unit vectors in the camera frame, towards the camera; 0 where the object is not.
    """
    pose = cam_from_obj.to(model.vertices)
    points = se3.transform(pose, model.vertices)[None]
    near = 0.01 * max(float(points[..., 2].min()), 0.01 * float(points[..., 2].max()), 1e-6)  # lengths have any unit
    fragments = rasterize(points, model.faces, K, size, near)
    turned = model.normals @ pose[:3, :3].mT
    return maps.normals(fragments, model.faces, points, turned[None])[0].permute(2, 0, 1)


def corrupt(mask: Tensor, kind: Corruption, strength: float, rng: Generator) -> Tensor:
    """A mask as an imperfect segmentation would give it.

    Args:
        mask: (H, W), bool.
        kind: "dilate" or "erode" by a margin; "shift" in a random direction; "holes": random ellipses are cut out;
            "drop": one side of the object is missed.
        strength: margin and shift in sizes of the object, the square root of its area; holes and missed part as share of
            its area. 0 changes nothing.
        rng: source of randomness.

    Returns:
        (H, W), bool. A greater strength from the same state of `rng` changes more.

    Raises:
        ValueError: an unknown kind, a negative strength.
    """
    import cv2

    if not strength >= 0:
        raise ValueError(f"strength must be 0 or more, got {strength}")
    solid = mask.numpy().astype(np.uint8)
    area = int(solid.sum())
    size = math.sqrt(area)
    if kind in ("dilate", "erode"):
        grow = kind == "dilate"
        if area in (0, solid.size):  # nothing to grow, or from
            return mask.clone()
        far = cv2.distanceTransform(1 - solid if grow else solid, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        done = far <= strength * size if grow else far > strength * size
    elif kind == "shift":
        angle = rng.uniform(0, 2 * math.pi)
        x, y = (round(strength * size * f) for f in (math.cos(angle), math.sin(angle)))
        move = np.array([[1, 0, x], [0, 1, y]], np.float32)
        done = cv2.warpAffine(solid, move, solid.shape[::-1], flags=cv2.INTER_NEAREST) > 0
    elif kind == "holes":
        left, rows = solid.copy(), np.argwhere(solid)
        for _ in range(1000):
            if not len(rows) or left.sum() <= (1 - strength) * area:
                break
            spot = rows[int(rng.integers(len(rows)))]
            axes = [max(round(float(a) * size), 1) for a in rng.uniform(0.04, 0.12, 2)]
            cv2.ellipse(left, (int(spot[1]), int(spot[0])), axes, rng.uniform(0, 180), 0, 360, 0, -1)
        done = left > 0
    elif kind == "drop":
        angle = rng.uniform(0, 2 * math.pi)
        rows = np.argwhere(solid)
        order = np.argsort(rows @ np.array([math.sin(angle), math.cos(angle)]), kind="stable")
        left = solid.copy()
        gone = rows[order[: round(min(strength, 1.0) * area)]]
        left[gone[:, 0], gone[:, 1]] = 0
        done = left > 0
    else:
        raise ValueError(f"kind must be dilate, erode, shift, holes or drop, got {kind!r}")
    return torch.from_numpy(np.ascontiguousarray(done))


def moved(
    crop: Tensor, side: int, flip: bool = False, clockwise: float = 0.0, zoom: float = 1.0, shift: tuple[float, float] = (0, 0)
) -> Tensor:
    """A part of a crop as another photo would show it: flipped left to right, then turned about its middle.

    Args:
        crop: (8, s, s).
        side: of the part, pixels of the same size (but for the zoom).
        flip: mirror the picture; the angles become `viewpoints.mirrored`.
        clockwise: turn, radians; the angles become `viewpoints.turned`.
        zoom: pixels of `crop` per pixel of the part.
        shift: where the middle of the part lies from the middle of the crop, pixels of the crop, before the flip.

    Returns:
        (8, side, side). Normals turn with the picture; outside the crop there is nothing.
    """
    c, s = math.cos(clockwise), math.sin(clockwise)
    across = -1.0 if flip else 1.0
    half = crop.shape[-1] / 2
    at = (camera_ops.pixel_grid((side, side)) + 0.5 - side / 2) * (zoom / half)
    back = torch.tensor([[across * c, across * s], [-s, c]])
    grid = at @ back.T + torch.tensor(shift, dtype=torch.float32) / half
    part = F.grid_sample((crop - PADDING)[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    turn = torch.tensor([[across * c, -s, 0.0], [across * s, c, 0.0], [0.0, 0.0, 1.0]])
    part[NORMALS] = torch.einsum("ij,jhw->ihw", turn, part[NORMALS])
    return part + PADDING


class PhotoCrops(Dataset):
    """Crops of Pix3D's photos. Every photo is decoded once, into a file of uint8 beside the run; a killed start goes on.

    Args:
        records: of `pix3d.read`.
        side: of the crops, pixels.
        categories: classes in the order of their numbers; (): those of the records, sorted.
        cache: folder of that file, 8 x s x s bytes per record, s = side or, with augmentation, 1.3 times that; None: memory.
        normals: "oracle": rendered from the aligned CAD model, seen through the mask; "files": folder/normals/NAME.png,
            (n + 1) / 2 in RGB; "none"; or a network's answer, see `Predictor`.
        edges: "classical": see `boundaries`; "files": folder/boundaries/NAME.png; "predicted" with the normals.
        augment: draw flip, in-plane turn, zoom, shift and colours anew for every sample.
        symmetric: shapes (`Record.shape`) that are their own mirror images and so may be flipped; None: all, as in the
            published experiments.
        corruption: what is wrong with the masks, and how much of it, see `corrupt`; edges found here, and an oracle's
            normals, follow the corrupted mask.
        turn_deg: largest in-plane turn, degrees.
        scale: side of the crop / longer side of the box.
        length: samples per epoch, drawn in passes over the records in random order; None: every record once, in order.
        weights: draw records by these odds instead, (N,).
        seed: same seed, same samples.
        predictor_name: of a `normals` that is a function, so that its file is not taken for another's.

    A sample is a dict: "image" (8, side, side), "angles" (3,) radians, "category" (), int64.

    Raises:
        ValueError: no records; a category that is not among `categories`; a predictor without a name.
        FileNotFoundError: a file of normals or boundaries is missing.
        OSError: the disk has no room for the cache.
    """

    ZOOM, SHIFT = 0.08, 0.04  # largest, relative; the boxes of a detector are not better

    def __init__(
        self, records: Sequence[pix3d.Record], side: int, *, categories: Sequence[str] = (), cache: str | Path | None = None,
        normals: Literal["oracle", "files", "none"] | Predictor = "oracle",
        edges: Literal["classical", "files", "predicted"] = "classical", augment: bool = False,
        symmetric: Collection[str] | None = None, corruption: tuple[Corruption, float] | None = None, turn_deg: float = 10.0,
        scale: float = CROP_SCALE, length: int | None = None, weights: Sequence[float] | None = None, seed: int = 0,
        predictor_name: str = "",
    ) -> None:  # fmt: skip
        if not records:
            raise ValueError("expected at least one record, got none; did the split leave any photo?")
        self.records, self.side, self.normals, self.edges, self.augment = list(records), side, normals, edges, augment
        self.categories = tuple(categories) or tuple(sorted({r.category for r in records}))
        unknown = sorted({r.category for r in records} - set(self.categories))
        if unknown:
            raise ValueError(f"records of {', '.join(unknown)}, which is not among the categories {', '.join(self.categories)}")
        if callable(normals) and not predictor_name:
            raise ValueError("name the predictor of normals (predictor_name=), so that its cache is not taken for another's")
        if not callable(normals) and normals not in ("oracle", "files", "none"):
            raise ValueError(f"normals must be oracle, files, none or a function, got {normals!r}")
        if edges not in ("classical", "files", "predicted") or (edges == "predicted" and not callable(normals)):
            raise ValueError(f"edges must be classical, files, or predicted where the normals are, got {edges!r}")
        self.symmetric = None if symmetric is None else frozenset(symmetric)
        self.corruption, self.turn, self.seed = corruption, math.radians(turn_deg), seed
        self.length = length if length is not None else len(self.records)
        self.in_order = length is None
        odds = None if weights is None else np.asarray(weights, np.float64)
        self.odds = None if odds is None else odds / odds.sum()
        self.angles = torch.stack([r.angles for r in self.records]).float()
        margin = (math.cos(self.turn) + math.sin(self.turn)) * (1 + self.ZOOM) + 2 * self.SHIFT if augment else 1.0
        self.stored = math.ceil(side * margin / 2) * 2
        self.scale = scale * self.stored / side
        made_from = self._made_from(predictor_name)
        file = None if cache is None else Path(cache) / f"crops_{made_from[:16]}.bin"
        self.kept = Cache(file, [("crop", np.uint8, (CHANNELS, self.stored, self.stored))], len(self.records), made_from)
        self._decode()

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        """Everything but a network, which other processes do not need: all crops are cut."""
        return self.__dict__ | ({"normals": "none"} if callable(self.normals) else {})

    @property
    def crops(self) -> np.ndarray:
        """What is kept of the records, (N, 8, s, s), uint8."""
        return self.kept.rows["crop"]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        if not 0 <= i < self.length:
            raise IndexError(f"sample {i} of {self.length}")
        rng = np.random.default_rng((self.seed, i, 11))
        row = self._row(i, rng)
        record, angles = self.records[row], self.angles[row]
        crop = torch.from_numpy(self.crops[row].astype(np.float32) / 255)
        if self.augment:
            may_flip = self.symmetric is None or record.shape in self.symmetric
            flip, clockwise = bool(rng.random() < 0.5) and may_flip, rng.uniform(-self.turn, self.turn)
            zoom = rng.uniform(1 - self.ZOOM, 1 + self.ZOOM)
            shift = rng.uniform(-self.SHIFT, self.SHIFT, 2) * self.side
            crop = moved(crop, self.side, flip, clockwise, zoom, (float(shift[0]), float(shift[1])))
            angles = viewpoints.turned(viewpoints.mirrored(angles) if flip else angles, clockwise)
        if self.corruption is not None:
            crop = self._corrupted(crop, rng)
        if self.augment:
            picture = (crop[RGB].permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)
            crop[RGB] = torch.from_numpy(camera_defects.photometric(picture, rng)).permute(2, 0, 1).float() / 255
        return {
            "image": crop.clamp(0, 1),
            "angles": viewpoints.wrapped(angles),
            "category": torch.tensor(self.categories.index(record.category)),
        }

    def _row(self, i: int, rng: Generator) -> int:
        if self.in_order:
            return i
        if self.odds is not None:
            return int(rng.choice(len(self.records), p=self.odds))
        epoch, place = divmod(i, len(self.records))
        return int(_shuffled(len(self.records), self.seed, epoch)[place])

    def _corrupted(self, crop: Tensor, rng: Generator) -> Tensor:
        """The crop with a worse mask, and with what follows from the mask."""
        assert self.corruption is not None
        kind, strength = self.corruption
        mask = corrupt(crop[MASK] > 0.5, kind, strength, rng)
        crop = crop.clone()
        crop[MASK] = mask.float()
        if self.edges == "classical":
            crop[BOUNDARIES] = boundaries(crop[RGB], mask)
        if self.normals == "oracle":
            crop[NORMALS] = torch.where(mask, crop[NORMALS], 0.5)
        return crop

    # ------------------------------------------------------------------------------------------------------- the cache

    def _made_from(self, predictor_name: str) -> str:
        normals = predictor_name if callable(self.normals) else self.normals
        parts: list[Any] = [(_VERSION, self.stored, round(self.scale, 6), normals, self.edges)]
        for r in self.records:
            parts += [(r.image, r.mask, r.model, r.size, r.f), r.box.numpy().tobytes(), r.cam_from_obj.numpy().tobytes()]
            parts.append((r.folder / r.image).stat().st_size)
        return fingerprint(*parts)

    def _decode(self) -> None:
        """Cut the crops that are not there; photos of one CAD model follow each other, so that it is read once."""

        def make() -> dict[str, np.ndarray]:
            return {"crop": (self._crop(self.records[row], broken) * 255).round().clamp(0, 255).byte().numpy()}

        missing = np.flatnonzero(~self.kept.rows["there"]).tolist()
        broken: dict[str, str] = {}
        for row in watched(sorted(missing, key=lambda n: self.records[n].shape), "photos", len(missing)):
            self.kept.row(row, make)
        if broken:
            path, why = next(iter(broken.items()))
            warnings.warn(f"{len(broken)} CAD models cannot be read, their photos have no normals; {path}: {why}", stacklevel=3)

    def _crop(self, record: pix3d.Record, broken: dict[str, str]) -> Tensor:
        image, mask = pix3d.read_picture(record)
        square = box_ops.square(record.box, self.scale)[None]
        rgb = camera.cut(image, square, self.stored)[0]
        cut_mask = None if mask is None else _cut(mask[None], square, self.stored)[0]
        normals = edges = None
        if callable(self.normals):
            normals, edges = predict_normals(self.normals, rgb)
            edges = edges if self.edges == "predicted" else None
        elif self.normals == "files":
            normals = _cut(_map_of(record, "normals") * 2 - 1, square, self.stored)
        elif self.normals == "oracle":
            normals = self._oracle(record, square[0], broken)
            if normals is not None and cut_mask is not None:
                normals = normals * (cut_mask > 0.5)
        if self.edges == "files":
            edges = _cut(_map_of(record, "boundaries").mean(0, keepdim=True), square, self.stored)[0]
        return _stacked(rgb, cut_mask, edges, normals)

    def _oracle(self, record: pix3d.Record, square: Tensor, broken: dict[str, str]) -> Tensor | None:
        path = str(record.folder / record.model)
        if path in broken:
            return None
        try:
            model = _model(record.folder, record.model, record)
        except ValueError as error:  # Pix3D has some
            broken[path] = str(error)
            return None
        double = 2 * self.stored
        K = camera_ops.crop_resize_K(record.K, square, (double, double))
        return F.avg_pool2d(render_normals(model, record.cam_from_obj, K, (double, double))[None], 2)[0]


_LAST: list[tuple[tuple[Path, str], ObjectModel]] = []


def _model(folder: Path, path: str, record: pix3d.Record) -> ObjectModel:
    """The record's CAD model; the last one read is kept."""
    if not _LAST or _LAST[0][0] != (folder, path):
        _LAST[:] = [((folder, path), pix3d.read_model(record))]
    return _LAST[0][1]


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 12)).permutation(count)


def _map_of(record: pix3d.Record, what: str) -> Tensor:
    """A picture that the user made of a photo, (3, H, W), in [0, 1], resized to it."""
    from ..io.images import read_image

    folder = next((f for name in MAPS[what] if (f := record.folder / name).is_dir()), record.folder / what)
    stem = folder / record.name
    beside = sorted(stem.parent.glob(f"{stem.name}.*")) if stem.parent.is_dir() else []
    values = read_image(beside[0] if beside else existing_file(stem.with_suffix(".png"), f"picture of {what}"))
    if tuple(values.shape[1:]) == record.size:
        return values
    return F.interpolate(values[None], record.size, mode="bilinear", align_corners=False)[0]


def predict_normals(predictor: Predictor, rgb: Tensor) -> tuple[Tensor, Tensor | None]:
    """Normals (3, s, s), and boundaries (s, s) where it has some, of a network that wants sides divisible by 32."""
    side = rgb.shape[-1]
    wide = math.ceil(side / 32) * 32
    with torch.no_grad():
        predicted = predictor(F.interpolate(rgb[None], (wide, wide), mode="bilinear", align_corners=False))
    normals, edges = predicted if isinstance(predicted, tuple) else (predicted, None)
    normals = F.interpolate(normals, (side, side), mode="bilinear", align_corners=False)[0].cpu()
    if edges is not None:
        edges = F.interpolate(edges[:, None], (side, side), mode="bilinear", align_corners=False)[0, 0].cpu()
    return normals / normals.norm(dim=0, keepdim=True).clamp_min(1.0), edges


# ------------------------------------------------------------------------------------------------------------ CAD models


class RenderedCrops(Dataset):
    """Crops rendered from CAD models, seen from all around, on photos; drawn from (seed, i).

    Args:
        models: CAD models by category, metres, +Z up, front towards -Y.
        side: of the crops, pixels.
        categories: classes in the order of their numbers; (): those of `models`, sorted.
        photos: backgrounds, (H, W, 3), uint8; patterns without any.
        elevation_deg: lowest and highest, degrees; azimuths are all alike.
        scale: side of the crop / longer side of the box, jittered.
        length: samples per epoch.
        seed: same seed, same samples.

    A sample is a dict as `PhotoCrops` has it. Angles are those of the allocentric rotation, exactly; mask and normals
    belong to what is visible.
    """

    def __init__(
        self, models: Mapping[str, Sequence[ObjectModel]], side: int, *, categories: Sequence[str] = (),
        photos: Sequence[np.ndarray] = (), elevation_deg: tuple[float, float] = (-10.0, 60.0),
        scale: float = CROP_SCALE, length: int = 100_000, seed: int = 0,
    ) -> None:  # fmt: skip
        self.models = {name: list(found) for name, found in sorted(models.items()) if len(found)}
        if not self.models:
            raise ValueError("expected CAD models by category, got none")
        self.categories = tuple(categories) or tuple(self.models)
        unknown = sorted(set(self.models) - set(self.categories))
        if unknown:
            raise ValueError(f"models of {', '.join(unknown)}, which is not among the categories {', '.join(self.categories)}")
        if not -90 <= elevation_deg[0] <= elevation_deg[1] <= 90:
            raise ValueError(f"elevations must be growing and between -90 and 90 degrees, got {elevation_deg}")
        self.side, self.photos, self.scale, self.length, self.seed = side, photos, scale, length, seed
        self.elevation = math.radians(elevation_deg[0]), math.radians(elevation_deg[1])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        if not 0 <= i < self.length:
            raise IndexError(f"sample {i} of {self.length}")
        rng, s = np.random.default_rng((self.seed, i, 13)), self.side
        category = list(self.models)[int(rng.integers(len(self.models)))]
        model = self.models[category][int(rng.integers(len(self.models[category])))]
        pose = self._pose(model, rng)
        wide = torch.tensor([[1000.0, 0.0, 0.0], [0.0, 1000.0, 0.0], [0.0, 0.0, 1.0]])  # of the photo, which has no border
        square = jittered_square(amodal_box(model, pose, wide), self.scale, rng, PhotoCrops.SHIFT, PhotoCrops.ZOOM)
        K = camera_ops.crop_resize_K(wide, square, (s, s))
        native = s * float(np.exp(rng.uniform(-0.2, 1.2)))  # pixels that the photo has there
        background = synth.background(self.photos, (s, s), rng)
        layout = synth.Layout([model], pose[None])
        picture, scene = synth.render(layout, synth.random_appearance(1, rng), K, (s, s), background, native, rng)
        visible = scene.masks_visible[0].numpy()
        if rng.random() < 0.25:
            hidden, covered = camera_defects.patches(picture, rng, synth.background(self.photos, (s, s), rng))
            if (visible & ~covered).sum() > 0.6 * visible.sum():
                picture, visible = hidden, visible & ~covered
        rgb = torch.from_numpy(synth.camera_effects(picture, max(s / native, 0.5), rng)).permute(2, 0, 1).float() / 255
        mask = torch.from_numpy(visible)
        double = camera_ops.crop_resize_K(wide, square, (2 * s, 2 * s))
        normals = F.avg_pool2d(render_normals(model, pose, double, (2 * s, 2 * s))[None], 2)[0] * mask
        return {
            "image": _stacked(rgb, mask.float(), None, normals),
            "angles": viewpoints.wrapped(pix3d.angles_of(pose)),
            "category": torch.tensor(self.categories.index(category)),
        }

    def _pose(self, model: ObjectModel, rng: Generator) -> Tensor:
        """A camera around the object, which it may see at the side of its photo, (4, 4)."""
        drawn = [rng.uniform(0, 2 * math.pi), rng.uniform(*self.elevation), rng.normal(0, math.radians(6.0))]
        ray = torch.tensor([math.tan(rng.uniform(-0.35, 0.35)), math.tan(rng.uniform(-0.2, 0.2)), 1.0])
        middle = ray / ray.norm() * model.diameter * float(rng.uniform(1.2, 4.0))
        allocentric = se3.from_rt(viewpoints.rotation_of(torch.tensor(drawn, dtype=torch.float32)), middle)
        R = se3.egocentric_from_allocentric(allocentric)[:3, :3]
        return se3.from_rt(R, middle - R @ model.bounds.mean(0))
