"""Pictures with boxes and masks that detectors learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.bop import pictures
from ..synthesis import fused
from ..synthesis import scene as synth
from ..synthesis.samples import Source
from ..types import ObjectModel


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
        look = synth.random_appearance(len(layout.models), rng)
        background = synth.background(source.photos, size, rng)
        native = float(max(source.camera.size[1], size[1]))
        K = camera.K.double().numpy()
        picture, scene = fused.render(layout, look, K, size, background, native, rng)
        picture = synth.camera_effects(picture, 1.0, rng, source.scene.colours)
        seen = np.bincount(scene.owner.ravel() + 1, minlength=len(layout.models) + 1)[1:]
        rows = [r for r, model in enumerate(layout.models) if model.obj_id >= 0 and seen[r] > 16]
        poses = layout.cam_from_obj.double().numpy()
        boxes = np.array([fused.bounds(layout.models[r], poses[r], K) for r in rows]).reshape(-1, 4)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255,
            "boxes": torch.from_numpy(boxes).float(),
            "labels": torch.tensor([layout.models[r].obj_id for r in rows], dtype=torch.int64),
            "masks": torch.from_numpy(scene.owner == np.array(rows, np.int32)[:, None, None]),
            "visibility": torch.from_numpy(scene.visibility[rows]).float(),
        }


class BopSceneSamples(Dataset):
    """Whole pictures as in `SceneSamples`, read from a BOP split; objects without a CAD model are passed over.

    Args:
        models: known objects by id.
        split: split folder or scene folder.
        size, length, seed: as in `SceneSamples`.
        photos: backgrounds, (H, W, 3) uint8, that half of the pictures get behind their known objects.
        listed: see `objects.samples.BopCropSamples`.

    Masks that the split does not have are rendered from the true poses, and so is the visibility.
    """

    def __init__(
        self, models: Mapping[int, ObjectModel], split: Path, size: tuple[int, int], length: int, seed: int = 0,
        photos: Sequence[np.ndarray] = (), listed: Path | None = None,
    ) -> None:  # fmt: skip
        self.models, self.size, self.length, self.seed, self.photos = models, size, length, seed, photos
        self.pictures = pictures.index(split, models, listed)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng, (height, width) = np.random.default_rng((self.seed, i, 4)), self.size
        chosen = self.pictures[int(rng.integers(len(self.pictures)))]
        pixels, poses, truth = chosen.pixels(), pictures.poses(chosen), chosen.scene.truth
        assert truth is not None
        known = [self.models[int(k)] for k in truth.obj_id[chosen.rows]]
        stretch = np.diag([width / pixels.shape[1], height / pixels.shape[0], 1.0])
        middle = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
        K = np.linalg.inv(middle) @ stretch @ middle @ chosen.K
        masks: np.ndarray
        if seen := chosen.masks(pixels.shape):
            read = [m.astype(np.uint8) * 255 for m in seen]
            masks = np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_AREA) > 127 for m in read])
        else:
            masks = np.equal(fused.owners(known, poses, K, self.size), np.arange(len(known))[:, None, None])
        if seen and truth.visibility is not None:
            visibility = truth.visibility[chosen.rows]
        else:
            whole = [
                (fused.owners([m], p[None], K, self.size) >= 0).sum() for m, p in zip(known, poses, strict=True)
            ]  # fmt: skip
            visibility = masks.sum((1, 2)) / np.maximum(whole, 1)
        picture = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        if len(self.photos) and rng.random() < 0.5:
            picture = np.where(masks.max(0)[..., None], picture, synth.background(self.photos, self.size, rng))
        picture = synth.camera_effects(np.ascontiguousarray(picture), 1.0, rng)
        rows = np.flatnonzero(masks.sum((1, 2)) > LEAST)
        boxes = np.array([fused.bounds(known[r], poses[r], K) for r in rows]).reshape(-1, 4)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255,
            "boxes": torch.from_numpy(boxes).float(),
            "labels": torch.from_numpy(truth.obj_id[chosen.rows][rows]),
            "masks": torch.from_numpy(masks[rows]),
            "visibility": torch.from_numpy(visibility[rows]).float(),
        }


LEAST = 4  # pixels of the network's input: objects that show no more are not learned from


def collate_scenes(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor | list[Tensor]]:
    """A batch: images stacked, everything else a list with one entry per image."""
    batch: dict[str, Tensor | list[Tensor]] = {k: [s[k] for s in samples] for k in samples[0] if k != "image"}
    batch["image"] = torch.stack([s["image"] for s in samples])
    return batch
