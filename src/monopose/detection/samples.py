"""Pictures with boxes and masks that detectors learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.bop import scenes
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
        paper = synth.background(source.photos, size, rng)
        native = float(max(source.camera.size[1], size[1]))
        K = camera.K.double().numpy()
        picture, scene = fused.render(layout, look, K, size, paper, native, rng)
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
        picture = synth.camera_effects(np.rint(picture * 255).astype(np.uint8), 1.0, rng)
        scale = truth.boxes.new_tensor([self.size[1] / frame.camera.size[1], self.size[0] / frame.camera.size[0]])
        masks = torch.nn.functional.interpolate(truth.masks[None].float(), self.size, mode="area")[0] > 0.5
        return {
            "image": torch.from_numpy(picture).permute(2, 0, 1).float() / 255,
            "boxes": truth.boxes * scale.repeat(2),
            "labels": truth.labels,
            "masks": masks,
            "visibility": truth.visibility,  # type: ignore[dict-item]
        }


def collate_scenes(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor | list[Tensor]]:
    """A batch: images stacked, everything else a list with one entry per image."""
    batch: dict[str, Tensor | list[Tensor]] = {k: [s[k] for s in samples] for k in samples[0] if k != "image"}
    batch["image"] = torch.stack([s["image"] for s in samples])
    return batch
