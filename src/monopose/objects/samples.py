"""Endless training samples: crops for networks that look at one object, whole images for detectors.

Every sample is drawn from (seed, index), so that a run can be repeated and workers never draw the same one. Nothing is
cached: object coordinates are rendered when they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.bop import scenes
from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import noise, se3
from ..render import maps
from ..render.raster import rasterize
from ..synthesis import augment
from ..synthesis import scene as synth
from ..types import Camera, ObjectModel

HIDDEN = 0.15  # objects of which less is seen than this share are shown without their neighbours


@dataclass(frozen=True)
class Source:
    """What synthetic samples are made from."""

    models: Mapping[int, ObjectModel]  # known objects by id
    camera: Camera  # of the photos to come
    photos: Sequence[np.ndarray] = ()  # backgrounds, (H, W, 3) uint8
    scene: synth.SceneConfig = field(default_factory=synth.SceneConfig)
    others: Sequence[ObjectModel] = ()  # models that are not learned but may stand in the way, obj_id -1


def crop_target(model: ObjectModel, cam_from_obj: Tensor, K: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """True object coordinates of a square crop as if nothing hid the object.

    Returns:
        coordinates (3, side, side), metres, object frame, 0 outside; silhouette (side, side), bool.
    """
    points = se3.transform(cam_from_obj, model.vertices)[None]
    fragments = rasterize(points, model.faces, K, (side, side))
    return maps.coordinates(fragments, model.faces, model.vertices)[0].permute(2, 0, 1), fragments.face[0] >= 0


def amodal_box(model: ObjectModel, cam_from_obj: Tensor, K: Tensor) -> Tensor:
    """The box around the whole silhouette, beyond the image's border if need be, (4,), xyxy pixel edges."""
    return box_ops.from_points(camera_ops.project(se3.transform(cam_from_obj, model.vertices), K))


SHIFT, ZOOM = 0.12, 0.2  # how wrong the boxes of a detector are, see `jittered_square`


def _checked(shift: float, zoom: float) -> tuple[float, float]:
    if shift < 0 or zoom < 0:
        raise ValueError(f"shift and zoom of training crops must be 0 or more, got {shift:g} and {zoom:g}")
    return shift, zoom


def jittered_square(box: Tensor, scale: float, rng: Generator, shift: float = SHIFT, zoom: float = ZOOM) -> Tensor:
    """The square crop around a box as an imperfect detector would place it.

    Args:
        box: (4,), xyxy.
        scale: side of the crop / longer side of the box.
        rng: source of randomness.
        shift: along each axis the crop lies beside the box, by half of this as a rule (one deviation), twice this at most, in
            longer sides of the box.
        zoom: the crop is at most exp(zoom) times larger or smaller.

    Returns:
        (4,), xyxy.
    """
    square = box_ops.square(box, scale * float(np.exp(rng.uniform(-zoom, zoom))))
    move = (box[2:] - box[:2]).max() * torch.from_numpy(np.clip(rng.normal(0, shift / 2, 2), -2 * shift, 2 * shift)).float()
    return square + torch.cat([move, move])


class CropSamples(Dataset):
    """Square crops of one object each, for `methods.coordinates` and its relatives.

    Args:
        source: objects, camera, backgrounds.
        input_size: side of the picture, pixels.
        output_size: side of the targets, pixels.
        crop_scale: side of the crop / longer side of the true box.
        greyed_share: share of samples with everything but (roughly) the visible object greyed.
        length: samples per epoch.
        seed: same seed, same samples.
        shift, zoom: how wrong the boxes are, see `jittered_square`; ValueError below 0.

    A sample is a dict: "image" (3, s, s), "label" (), "coordinates" (3, h, h) metres, "mask_full" and "mask_visible"
    (h, h) bool, "cam_from_obj" (4, 4), "K" (3, 3) of the crop at input size, "box" (4,) of the crop in the photo, xyxy pixel
    edges.
    """

    def __init__(
        self, source: Source, input_size: int, output_size: int, crop_scale: float = 1.5, greyed_share: float = 0.25,
        length: int = 100_000, seed: int = 0, shift: float = SHIFT, zoom: float = ZOOM,
    ) -> None:  # fmt: skip
        self.shift, self.zoom = _checked(shift, zoom)
        self.source, self.input_size, self.output_size = source, input_size, output_size
        self.crop_scale, self.greyed_share, self.length, self.seed = crop_scale, greyed_share, length, seed
        self.ids = sorted(source.models)

    def __len__(self) -> int:
        return self.length

    def staged(self, i: int) -> tuple[ObjectModel, synth.Layout, Tensor, synth.Look, Generator]:
        """What sample i shows, before it is drawn: its object (the layout's first), the crop (4,) in the photo, the look."""
        rng = np.random.default_rng((self.seed, i))
        source, s = self.source, self.input_size
        target = source.models[self.ids[int(rng.integers(len(self.ids)))]]
        layout = synth.random_layout(list(source.models.values()), source.camera, source.scene, rng, target, source.others)
        box = amodal_box(target, layout.cam_from_obj[0], source.camera.K)
        square = jittered_square(box, self.crop_scale, rng, self.shift, self.zoom)
        layout = _near_crop(layout, camera_ops.crop_resize_K(source.camera.K, square, (s, s)), s)
        return target, layout, square, synth.random_look(len(layout.models), rng), rng

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        source, s = self.source, self.input_size
        target, layout, square, look, rng = self.staged(i)
        pose, native = layout.cam_from_obj[0], float(square[2] - square[0])
        K = camera_ops.crop_resize_K(source.camera.K, square, (s, s))
        paper = synth.background(source.photos, (s, s), rng)
        picture, scene = synth.render(layout, look, K, (s, s), paper, native, rng)
        if float(scene.visibility[0]) < HIDDEN:  # hidden: show it without its neighbours
            layout = synth.Layout(layout.models[:1], layout.cam_from_obj[:1])
            picture, scene = synth.render(layout, look, K, (s, s), paper, native, rng)
        visible = scene.masks_visible[0].numpy()
        if rng.random() < 0.35:
            covered_picture, covered = augment.patches(picture, rng, synth.background(source.photos, (s, s), rng))
            if (visible & ~covered).sum() > 0.3 * visible.sum():
                picture, visible = covered_picture, visible & ~covered
        picture = synth.finish(picture, s / native, rng, source.scene.colours)
        if rng.random() < 0.3:  # part of the crop lies outside the photo
            _grey_border(picture, visible, rng)
        if rng.random() < self.greyed_share:
            picture = _grey_out(picture, visible, rng)
        return _crop_sample(picture, visible, target, pose, source.camera.K, square, self.output_size)


def _crop_sample(
    picture: np.ndarray, visible: np.ndarray, model: ObjectModel, pose: Tensor, K: Tensor, square: Tensor, side: int
) -> dict[str, Tensor]:
    """The sample of a finished crop: its picture beside the rendered truth."""
    coordinates, full = crop_target(model, pose, camera_ops.crop_resize_K(K, square, (side, side)), side)
    share = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(visible).float()[None], side)[0]
    return {
        "image": torch.from_numpy(picture).permute(2, 0, 1).float() / 255,
        "label": torch.tensor(model.obj_id),
        "coordinates": coordinates,
        "mask_full": full,
        "mask_visible": (share >= 0.5) & full,
        "cam_from_obj": pose,
        "K": camera_ops.crop_resize_K(K, square, picture.shape[:2]),
        "box": square,
    }


class StartSamples(Dataset):
    """Crop samples with a pose that is roughly right, for `methods.refiner`.

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
        return sample | {"start": noise.perturbed(about, *sds, generator=generator) @ se3.inverse(centre)}


class BopCropSamples(Dataset):
    """Crops as in `CropSamples`, cut from the pictures of a BOP split; object coordinates are rendered from the true poses.

    Args:
        models: known objects by id.
        split: split folder, e.g. lmo/train_pbr.
        input_size, output_size, crop_scale, greyed_share, length, seed, shift, zoom: as in `CropSamples`.
        min_visibility: instances seen less are left out.

    Raises:
        ValueError: no instance of a known object with masks in the split.
    """

    def __init__(
        self, models: Mapping[int, ObjectModel], split: Path, input_size: int, output_size: int, crop_scale: float = 1.5,
        greyed_share: float = 0.25, length: int = 100_000, seed: int = 0, min_visibility: float = 0.15, shift: float = SHIFT,
        zoom: float = ZOOM,
    ) -> None:  # fmt: skip
        self.shift, self.zoom = _checked(shift, zoom)
        self.models, self.input_size, self.output_size = models, input_size, output_size
        self.crop_scale, self.greyed_share, self.length, self.seed = crop_scale, greyed_share, length, seed
        self.rows: list[tuple[scenes.Scene, int, int]] = []
        for scene, im_id, _ in scenes.images(split):
            if scene.truth is None:
                continue
            for n, row in enumerate(np.flatnonzero(scene.truth.im_id == im_id)):
                visibility = 1.0 if scene.truth.visibility is None else scene.truth.visibility[row]
                if int(scene.truth.obj_id[row]) in models and visibility >= min_visibility:
                    self.rows.append((scene, im_id, n))
        if not self.rows:
            raise ValueError(f"{split} shows no known object ({sorted(models)}) at least {min_visibility:.0%} visible")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng, s = np.random.default_rng((self.seed, i, 3)), self.input_size
        scene, im_id, n = self.rows[int(rng.integers(len(self.rows)))]
        frame = scenes.read_frame(scene, im_id, depth=False)
        if frame.instances is None or frame.instances.masks is None:
            raise ValueError(f"{scene.folder} has no mask_visib/, which training needs")
        model, pose = self.models[int(frame.instances.labels[n])], frame.instances.cam_from_obj[n]
        square = jittered_square(amodal_box(model, pose, frame.camera.K), self.crop_scale, rng, self.shift, self.zoom)
        both = torch.cat([frame.image - 0.5, frame.instances.masks[n][None].float()])  # outside the photo is grey
        crop = camera_ops.crop_resize(both, square[None], (s, s))[0].permute(1, 2, 0).numpy()
        visible = crop[..., 3] > 0.5
        picture = np.rint(crop[..., :3] * 255 + 127.5).astype(np.uint8)
        picture = synth.finish(picture, s / float(square[2] - square[0]), rng)
        if rng.random() < self.greyed_share:
            picture = _grey_out(picture, visible, rng)
        return _crop_sample(picture, visible, model, pose, frame.camera.K, square, self.output_size)


def _near_crop(layout: synth.Layout, K: Tensor, side: int) -> synth.Layout:
    """Drop objects whose bounding sphere does not touch the crop; the first one stays."""
    t = layout.cam_from_obj[:, :3, 3]
    centre = camera_ops.project(t, K)
    reach = torch.tensor([m.diameter for m in layout.models]) * K[0, 0] / t[:, 2].clamp_min(1e-3)
    touches = ((centre > -reach[:, None]) & (centre < side + reach[:, None])).all(1)
    touches[0] = True
    rows = touches.nonzero().flatten().tolist()
    return synth.Layout([layout.models[r] for r in rows], layout.cam_from_obj[rows])


def grey_strip(side: int, rng: Generator) -> np.ndarray:
    """A random strip at one side of a square picture, (side, side), bool."""
    cut = int(rng.uniform(0.03, 0.3) * side)
    strips: list[Any] = [np.s_[:cut], np.s_[side - cut :], np.s_[:, :cut], np.s_[:, side - cut :]]
    where: np.ndarray = np.zeros((side, side), bool)
    where[strips[int(rng.integers(4))]] = True
    return where


def _grey_border(picture: np.ndarray, visible: np.ndarray, rng: Generator) -> None:
    """Grey a strip at one side, in place, as if the photo ended there; never more than half of the visible object."""
    where = grey_strip(len(picture), rng)
    if visible[where].sum() < 0.5 * visible.sum():
        picture[where] = 128
        visible[where] = False


def grey_spots(side: int, rng: Generator) -> tuple[int, np.ndarray]:
    """How wrong the mask is by which a crop is greyed: pixels that it grows, spots (side, side) of 1 and 0, -1 elsewhere."""
    reach = int(rng.integers(1, max(side // 16, 2)))
    spots: np.ndarray = np.full((side, side), -1, np.int8)
    for _ in range(rng.integers(0, 4)):
        spot = (int(rng.uniform(0, side)), int(rng.uniform(0, side)))
        axes = (int(rng.uniform(2, side / 8)), int(rng.uniform(2, side / 8)))
        turn, value = rng.uniform(0, 180), int(rng.integers(0, 2))
        drawn = cv2.ellipse(np.zeros((side, side), np.uint8), spot, axes, turn, 0, 360, 1, -1)
        spots[drawn > 0] = value
    return reach, spots


def _grey_out(picture: np.ndarray, visible: np.ndarray, rng: Generator) -> np.ndarray:
    """What stage 2 sees: grey outside a wrong-ish mask of the object, with holes and kept background."""
    reach, spots = grey_spots(len(picture), rng)
    mask = cv2.dilate(visible.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    mask = np.where(spots >= 0, spots, mask)
    return np.where(mask[..., None] > 0, picture, np.uint8(128))


class SceneSamples(Dataset):
    """Whole pictures with several objects, for detectors.

    Args:
        source: objects, camera, backgrounds.
        size: (height, width) of the pictures; the camera's image is resized to it.
        length: samples per epoch.
        seed: same seed, same samples.

    A sample is a dict: "image" (3, H, W), "boxes" (n, 4) amodal, "labels" (n,), "masks" (n, H, W) visible, bool,
    "visibility" (n,). `collate_scenes` makes batches.
    """

    def __init__(self, source: Source, size: tuple[int, int], length: int = 100_000, seed: int = 0) -> None:
        self.source, self.size, self.length, self.seed = source, size, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, i, 1))
        source, size = self.source, self.size
        camera = source.camera.resized(size)
        layout = synth.random_layout(list(source.models.values()), camera, source.scene, rng, others=source.others)
        look = synth.random_look(len(layout.models), rng)
        paper = synth.background(source.photos, size, rng)
        native = float(max(source.camera.size[1], size[1]))
        picture, scene = synth.render(layout, look, camera.K, size, paper, native, rng)
        picture = synth.finish(picture, 1.0, rng, source.scene.colours)
        known = torch.tensor([m.obj_id >= 0 for m in layout.models])
        seen = known & (scene.masks_visible.flatten(1).sum(1) > 16)
        rows = seen.nonzero().flatten().tolist()
        boxes = [amodal_box(layout.models[r], layout.cam_from_obj[r], camera.K) for r in rows]
        return {
            "image": torch.from_numpy(picture).permute(2, 0, 1).float() / 255,
            "boxes": torch.stack(boxes) if boxes else torch.zeros(0, 4),
            "labels": torch.tensor([layout.models[r].obj_id for r in rows], dtype=torch.int64),
            "masks": scene.masks_visible[rows],
            "visibility": scene.visibility[rows],
        }


class BopSceneSamples(Dataset):
    """Whole pictures as in `SceneSamples`, read from a BOP split."""

    def __init__(
        self, models: Mapping[int, ObjectModel], split: Path, size: tuple[int, int], length: int, seed: int = 0
    ) -> None:
        self.models, self.size, self.length, self.seed = models, size, length, seed
        self.images = scenes.images(split)
        if not self.images:
            raise ValueError(f"{split} holds no pictures")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, i, 4))
        scene, im_id, _ = self.images[int(rng.integers(len(self.images)))]
        frame = scenes.read_frame(scene, im_id, depth=False)
        truth = frame.instances
        if truth is None or truth.masks is None or truth.visibility is None or truth.boxes is None:
            raise ValueError(f"{scene.folder} lacks scene_gt.json, scene_gt_info.json or mask_visib/, which training needs")
        known = torch.tensor([int(label) in self.models for label in truth.labels])
        truth = truth[known & (truth.masks.flatten(1).sum(1) > 16)]
        assert truth.masks is not None
        assert truth.boxes is not None
        picture = cv2.resize(frame.image.permute(1, 2, 0).numpy(), self.size[::-1], interpolation=cv2.INTER_AREA)
        picture = synth.finish(np.rint(picture * 255).astype(np.uint8), 1.0, rng)
        scale = truth.boxes.new_tensor([self.size[1] / frame.camera.size[1], self.size[0] / frame.camera.size[0]])
        masks = torch.nn.functional.interpolate(truth.masks[None].float(), self.size, mode="area")[0] > 0.5
        return {
            "image": torch.from_numpy(picture).permute(2, 0, 1).float() / 255,
            "boxes": truth.boxes * scale.repeat(2),
            "labels": truth.labels,
            "masks": masks,
            "visibility": truth.visibility,  # type: ignore[dict-item]
        }


def one_thread(worker: int) -> None:
    """Keep a worker process to one core: they are many."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def collate_scenes(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor | list[Tensor]]:
    """A batch: images stacked, everything else a list with one entry per image."""
    batch: dict[str, Tensor | list[Tensor]] = {k: [s[k] for s in samples] for k in samples[0] if k != "image"}
    batch["image"] = torch.stack([s["image"] for s in samples])
    return batch
