"""Endless training samples: crops for networks that look at one object, whole images for detectors.

Every sample is drawn from (seed, index), so that a run can be repeated and workers never draw the same one. Nothing is
cached: object coordinates are rendered when they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.bop import pictures
from ..geometry import se3, symmetry
from ..io.files import Unreadable, note_unreadable
from ..synthesis import augment, fused
from ..synthesis import scene as synth
from ..synthesis.samples import (
    HIDDEN,
    SHIFT,
    ZOOM,
    Source,
    check_jitter,
    crop_K,
    grey_border,
    grey_out,
    jittered_square,
    near_crop,
    occluded,
)
from ..types import ObjectModel
from . import silhouettes


class CropSamples(Dataset):
    """Square crops of one object each, for `objects.coordinates` and its relatives.

    Args:
        source: objects, camera, backgrounds.
        input_size: side of the picture, pixels.
        output_size: side of the targets, pixels.
        crop_scale: side of the crop / longer side of the true box.
        greyed_share: share of samples with everything but (roughly) the visible object greyed.
        length: samples per epoch.
        seed: same seed, same samples.
        shift, zoom, even: how wrong the boxes are, see `jittered_square`; ValueError below 0.

    A sample is a dict: "image" (3, s, s), "label" (), "coordinates" (3, h, h) metres, "mask_full" and "mask_visible"
    (h, h) bool, "cam_from_obj" (4, 4), "K" (3, 3) of the crop at input size, "box" (4,) of the crop in the photo, xyxy pixel
    edges.
    """

    def __init__(
        self, source: Source, input_size: int, output_size: int, crop_scale: float = 1.5, greyed_share: float = 0.25,
        length: int = 100_000, seed: int = 0, shift: float = SHIFT, zoom: float = ZOOM, even: bool = False,
    ) -> None:  # fmt: skip
        self.jitter = (*check_jitter(shift, zoom, even), even)
        self.source, self.input_size, self.output_size = source, input_size, output_size
        self.crop_scale, self.greyed_share, self.length, self.seed = crop_scale, greyed_share, length, seed
        self.ids = sorted(source.models)
        self.backgrounds = synth.small_backgrounds(source.photos, input_size)

    def __len__(self) -> int:
        return self.length

    def sample_scene(self, i: int) -> tuple[ObjectModel, synth.Layout, Tensor, synth.Appearance, Generator]:
        """What sample i shows, before it is drawn: its object (the layout's first), the crop (4,) in the photo, the look."""
        rng = np.random.default_rng((self.seed, i))
        source, s = self.source, self.input_size
        target = source.models[self.ids[int(rng.integers(len(self.ids)))]]
        layout = synth.random_layout(list(source.models.values()), source.camera, source.scene, rng, target, source.others)
        around = self.around(i, target, layout.cam_from_obj[0])
        box = fused.bounds(target, around.double().numpy(), source.camera.K.double().numpy())
        square = jittered_square(torch.from_numpy(box).float(), self.crop_scale, rng, *self.jitter)
        layout = near_crop(occluded(layout, rng), crop_K(source.camera.K, square, s), s)
        return target, layout, square, synth.random_appearance(len(layout.models), rng), rng

    def around(self, i: int, model: ObjectModel, pose: Tensor) -> Tensor:
        """The pose, (4, 4), whose box sample i is cut around: the true one."""
        return pose

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        source, s = self.source, self.input_size
        target, layout, square, look, rng = self.sample_scene(i)
        pose, native = layout.cam_from_obj[0], float(square[2] - square[0])
        K = crop_K(source.camera.K, square, s)
        background = synth.background(self.backgrounds, (s, s), rng)
        picture, scene = fused.render(layout, look, K, (s, s), background, native, rng)
        if scene.visibility[0] < HIDDEN:  # hidden: show it without its neighbours
            layout = synth.Layout(layout.models[:1], layout.cam_from_obj[:1])
            picture, scene = fused.render(layout, look, K, (s, s), background, native, rng)
        visible = scene.owner == 0
        if rng.random() < 0.35:
            covered_picture, covered = augment.patches(picture, rng, synth.background(self.backgrounds, (s, s), rng))
            if (visible & ~covered).sum() > 0.3 * visible.sum():
                picture, visible = covered_picture, visible & ~covered
        picture = synth.camera_effects(picture, s / native, rng, source.scene.colours)
        if rng.random() < 0.3:  # part of the crop lies outside the photo
            grey_border(picture, visible, rng)
        if rng.random() < self.greyed_share:
            picture = grey_out(picture, visible, rng)
        return _crop_sample(picture, visible, target, pose, source.camera.K, square, self.output_size)


def _crop_sample(
    picture: np.ndarray, visible: np.ndarray, model: ObjectModel, pose: Tensor, K: Tensor, square: Tensor, side: int
) -> dict[str, Tensor]:
    """The sample of a finished crop: its picture beside the rendered truth."""
    coordinates, full = fused.target(model, pose.double().numpy(), crop_K(K, square, side), side)
    share = cv2.resize(visible.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return {
        "image": torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255,
        "label": torch.tensor(model.obj_id),
        "coordinates": torch.from_numpy(coordinates),
        "mask_full": torch.from_numpy(full),
        "mask_visible": torch.from_numpy((share >= 0.5) & full),
        "cam_from_obj": pose,
        "K": torch.from_numpy(crop_K(K, square, picture.shape[0])).float(),
        "box": square,
    }


class PerturbedPoseSamples(Dataset):
    """Crop samples with a pose that is roughly right, for `objects.refiner`.

    Args:
        crops: `CropSamples` or `BopCropSamples`.
        models: known objects by id.
        rotation_deg: largest standard deviation about each axis, degrees.
        shift: largest standard deviation across the line of sight, diameters of the object; three times that along it.
        seed: same seed, same samples.

    Each sample's deviations are drawn between 0 and the largest, small ones more often. Adds "start" (4, 4), metres.
    """

    def __init__(
        self, crops: Dataset, models: Mapping[int, ObjectModel], rotation_deg: float, shift: float, seed: int = 0
    ) -> None:
        self.crops, self.models, self.rotation_deg, self.shift, self.seed = crops, models, rotation_deg, shift, seed

    def __len__(self) -> int:
        return len(self.crops)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        sample = self.crops[i]
        rng = np.random.default_rng((self.seed, i, 5))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        turn, move = rng.uniform(0, 1, 2) ** 1.5
        model = self.models[int(sample["label"])]
        centre = torch.eye(4)
        centre[:3, 3] = model.bounds.mean(0)  # the object turns about its middle, wherever the file has its origin
        about = sample["cam_from_obj"] @ centre
        sds = math.radians(self.rotation_deg) * turn, self.shift * model.diameter * move
        return sample | {"start": se3.perturbed(about, *sds, generator=generator) @ se3.inverse(centre)}


class PriorCropSamples(CropSamples):
    """Crops around where a wrong pose has the object, beside what it promises, for `objects.silhouettes`.

    Args:
        source, length, seed: as in `CropSamples`.
        config: of the network.

    Masks are as large as the picture. Adds "start" (4, 4), "drawn" (5, s, s), see `fused.prior`, "field" (2, s / 2, s / 2) and
    "shown" (s / 2, s / 2), see `silhouettes.field`. Of true poses that look alike "cam_from_obj" is the nearest to the start.
    """

    def __init__(self, source: Source, config: silhouettes.Config, length: int = 100_000, seed: int = 0) -> None:
        super().__init__(
            source, config.input_size, config.input_size, config.crop_scale, 0.0, length, seed, shift=0.02, zoom=0.05
        )
        self.config = config
        self.groups = {i: symmetry.transforms(m.symmetries, 36) for i, m in source.models.items()}

    def around(self, i: int, model: ObjectModel, pose: Tensor) -> Tensor:
        rng, c = np.random.default_rng((self.seed, i, 6)), self.config
        turn, shift, depth = rng.uniform(0, 1, 3) ** 1.5
        z = float(se3.transform(pose, model.bounds.mean(0)[None])[0, 2])
        turned = rng.normal(0, 1, 3) * turn * math.radians(c.noise_deg)
        kind = rng.random()
        if kind < c.far_share + c.any_share:
            largest = math.radians(c.far_deg) if kind < c.far_share else math.pi
            turned *= rng.uniform(0, largest) / max(float(np.linalg.norm(turned)), 1e-12)
        by = np.concatenate([
            rng.normal(0, 1, 2) * shift * c.noise_shift, [rng.normal() * depth * c.noise_depth], turned
        ])  # fmt: skip
        by[2] = max(by[2], math.log(min(1.0, (0.6 * model.diameter + 0.02) / z)))  # not at the lens
        return silhouettes.changed(pose, torch.from_numpy(by).float(), model.bounds.mean(0), model.diameter)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        sample = super().__getitem__(i)
        model = self.source.models[int(sample["label"])]
        start = self.around(i, model, sample["cam_from_obj"])
        group, corners = self.groups[model.obj_id], model.corners
        true = symmetry.nearest(sample["cam_from_obj"], start, group, corners)
        del sample["coordinates"]
        coarse = self.input_size // 2
        moves, shown = silhouettes.field(model, start, true, crop_K(self.source.camera.K, sample["box"], coarse), coarse)
        drawn = fused.prior(model, start.double().numpy(), sample["K"].double().numpy(), self.input_size)
        return sample | {
            "start": start, "cam_from_obj": true, "drawn": torch.from_numpy(drawn),
            "field": moves, "shown": shown,
        }  # fmt: skip


CROPS_OF_ONE = 4  # samples in a row that are cut from the same picture


class BopCropSamples(Dataset):
    """Crops as in `CropSamples`, cut from the pictures of a BOP split; object coordinates are rendered from the true poses.

    Args:
        models: known objects by id; others in the pictures are passed over.
        split: split folder, e.g. lmo/train_pbr, or a scene folder.
        input_size, output_size, crop_scale, greyed_share, length, seed, shift, zoom, even: as in `CropSamples`.
        min_visibility: instances seen less are left out.
        photos: backgrounds, (H, W, 3) uint8; half of the crops show the object before one of them, some behind a piece of one.
        listed: file that lists the pictures to take, see `datasets.bop.pictures.read_list`; None: all.

    Where the split has no masks they are rendered from the true poses of the known objects. `CROPS_OF_ONE` samples in a row
    come from one picture, which is decoded once for them; every object comes as often as any other.

    Raises:
        ValueError: no instance of a known object in the split.
    """

    def __init__(
        self, models: Mapping[int, ObjectModel], split: Path, input_size: int, output_size: int, crop_scale: float = 1.5,
        greyed_share: float = 0.25, length: int = 100_000, seed: int = 0, min_visibility: float = 0.15, shift: float = SHIFT,
        zoom: float = ZOOM, even: bool = False, photos: Sequence[np.ndarray] = (), listed: Path | None = None,
    ) -> None:  # fmt: skip
        self.jitter = (*check_jitter(shift, zoom, even), even)
        self.models, self.input_size, self.output_size = models, input_size, output_size
        self.crop_scale, self.greyed_share, self.length, self.seed = crop_scale, greyed_share, length, seed
        self.backgrounds = synth.small_backgrounds(photos, input_size)
        self.pictures = pictures.index(split, models, listed)
        rows = self.pictures.objects(min_visibility)
        self.rows = rows[np.argsort(rows[:, 0], kind="stable")]
        self.decoded: tuple[int, np.ndarray] | None = None  # the last picture
        if not len(self.rows):
            raise ValueError(f"{split} shows no known object ({sorted(models)}) at least {min_visibility:.0%} visible")

    def __len__(self) -> int:
        return self.length

    def chosen(self, i: int, rng: Generator) -> tuple[int, int]:
        """Picture of sample i, and which of its objects is shown."""
        shared = np.random.default_rng((self.seed, i // CROPS_OF_ONE, 8))
        place = int(self.rows[int(shared.integers(len(self.rows))), 0])  # pictures with more objects come more often
        first, last = np.searchsorted(self.rows[:, 0], [place, place + 1])
        return place, int(self.rows[int(rng.integers(first, last)), 1])

    def _pixels(self, n: int) -> np.ndarray:
        if self.decoded is None or self.decoded[0] != n:
            self.decoded = n, self.pictures[n].pixels()
        return self.decoded[1]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng, s = np.random.default_rng((self.seed, i, 3)), self.input_size
        place, n = self.chosen(i, rng)
        picture = self.pictures[place]
        pixels, poses = self._pixels(place), pictures.poses(picture)
        assert picture.scene.truth is not None
        known = [self.models[int(k)] for k in picture.scene.truth.obj_id[picture.rows]]
        square = jittered_square(
            torch.from_numpy(fused.bounds(known[n], poses[n], picture.K)).float(), self.crop_scale, rng, *self.jitter
        )
        if masks := picture.masks(pixels.shape, [n]):
            visible = cut(masks[0].astype(np.uint8) * 255, square, s, 0) > 127
        else:
            inside = cut(np.full(pixels.shape[:2], 255, np.uint8), square, s, 0) > 127
            K = torch.from_numpy(picture.K)
            visible = (fused.owners(known, poses, crop_K(K, square, s), (s, s)) == n) & inside
        crop = cut(pixels, square, s, 128)  # outside the photo is grey
        if self.backgrounds:
            if rng.random() < 0.5:
                crop = np.where(visible[..., None], crop, synth.background(self.backgrounds, (s, s), rng))
            if rng.random() < 0.35:
                covered_crop, covered = augment.patches(crop, rng, synth.background(self.backgrounds, (s, s), rng))
                if (visible & ~covered).sum() > 0.3 * visible.sum():
                    crop, visible = covered_crop, visible & ~covered
        crop = synth.camera_effects(crop, s / float(square[2] - square[0]), rng)
        if rng.random() < self.greyed_share:
            crop = grey_out(crop, visible, rng)
        K, pose = torch.from_numpy(picture.K).float(), torch.from_numpy(poses[n]).float()
        return _crop_sample(crop, visible, known[n], pose, K, square, self.output_size)


def cut(picture: np.ndarray, square: Tensor, side: int, outside: int) -> np.ndarray:
    """`camera.crop_resize` of bytes: (H, W) or (H, W, C) -> side x side pixels, `outside` beyond the picture.

    What is cut is first shrunk by averages, so that nothing is skipped where the crop has fewer pixels than the picture.
    """
    left, top, right, bottom = square.double().tolist()
    shrink = max((right - left) / side, 1.0)
    margin = math.ceil(shrink) + 1
    x0, y0 = max(math.floor(left) - margin, 0), max(math.floor(top) - margin, 0)
    x1, y1 = min(math.ceil(right) + margin, picture.shape[1]), min(math.ceil(bottom) + margin, picture.shape[0])
    if x1 <= x0 or y1 <= y0:
        return np.full((side, side, *picture.shape[2:]), outside, np.uint8)
    part = picture[y0:y1, x0:x1]
    fx = fy = 1.0
    if shrink > 1:
        size = max(round((x1 - x0) / shrink), 1), max(round((y1 - y0) / shrink), 1)
        fx, fy = size[0] / (x1 - x0), size[1] / (y1 - y0)
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    step = (right - left) / side
    move = np.array([
        [step * fx, 0, (step / 2 + left - x0) * fx - 0.5], [0, step * fy, (step / 2 + top - y0) * fy - 0.5],
    ])  # fmt: skip
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(part, move, (side, side), flags=how, borderMode=cv2.BORDER_CONSTANT, borderValue=(outside,) * 4)


class ReadableSamples(Dataset):
    """Samples of pictures on the disk: where one cannot be read, the next that can comes in its place, and it is listed.

    Args:
        samples: drawn from (seed, index), whatever the index.
        listing: text file, to which a line is added for every picture that cannot be read.
    """

    def __init__(self, samples: Dataset, listing: Path) -> None:
        self.samples, self.listing = samples, listing

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        for further in range(TRIES):
            try:
                return self.samples[i + (further << 40)]  # type: ignore[no-any-return]
            except Unreadable as error:
                note_unreadable(self.listing, str(error))
                reason = error
        raise Unreadable(f"{TRIES} pictures in a row cannot be read, see {self.listing}; the last: {reason}")


TRIES = 100  # broken pictures in a row that a training bears


class MixedSamples(Dataset):
    """Samples of several data sets, each as often as it weighs.

    Args:
        parts: data sets of equal samples.
        weights: of each, above 0.
        seed: of the choice.
    """

    def __init__(self, parts: Sequence[Dataset], weights: Sequence[float], seed: int = 0) -> None:
        self.parts, self.seed = list(parts), seed
        self.ends = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        return len(self.parts[0])  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        draw = np.random.default_rng((self.seed, i, 9)).random()
        chosen = min(int(np.searchsorted(self.ends, draw, side="right")), len(self.parts) - 1)
        return self.parts[chosen][i]  # type: ignore[no-any-return]
