"""A complete BOP folder of synthetic pictures from CAD models; a killed run goes on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..geometry.boxes import from_masks
from ..geometry.camera import K_from_fov
from ..types import Camera, Frame, Instances, ObjectModel
from . import bop, bop_write, dataset, synth

_SCENE = 1000  # pictures per scene folder, as in BOP's own synthetic sets
_CHUNK = 25  # pictures between two writes of the JSON files


class _Frames(Dataset):
    """Picture i of the data set, drawn from (seed, i): a frame with truth, and the silhouettes."""

    def __init__(self, source: dataset.Source, first: int, last: int, seed: int) -> None:
        self.source, self.first, self.last, self.seed = source, first, last, seed

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, n: int) -> tuple[Frame, torch.Tensor]:
        rng = np.random.default_rng((self.seed, self.first + n, 2))
        camera, source = self.source.camera, self.source
        layout = synth.random_layout(list(source.models.values()), camera, source.scene, rng)
        look = synth.random_look(len(layout.models), rng)
        paper = synth.background(source.photos, camera.size, rng)
        picture, scene = synth.render(layout, look, camera.K, camera.size, paper, float(camera.size[1]), rng)
        picture = synth.finish(picture, 1.0, rng)
        rows = [r for r, m in enumerate(layout.models) if m.obj_id >= 0]
        boxes = [dataset.amodal_box(layout.models[r], layout.cam_from_obj[r], camera.K) for r in rows]
        instances = Instances(
            torch.tensor([layout.models[r].obj_id for r in rows], dtype=torch.int64),
            layout.cam_from_obj[rows], torch.stack(boxes) if boxes else torch.zeros(0, 4),
            from_masks(scene.masks_visible[rows]), scene.masks_visible[rows], scene.visibility[rows],
        )  # fmt: skip
        image = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        return Frame(image, camera, scene.depth, instances), scene.masks_full[rows]


def write_bop(
    models: Sequence[ObjectModel],
    out: str | Path,
    *,
    images: int = 2000,
    camera: Camera | None = None,
    backgrounds: str | Path | None = None,
    scene: synth.SceneConfig | None = None,
    split: str = "train",
    workers: int = 2,
    seed: int = 0,
) -> Path:
    """Write models, camera, pictures, truth, masks and targets of a new BOP data set.

    Args:
        models: CAD models with distinct obj_id >= 1.
        out: the data set folder. If it holds pictures of an earlier, killed run, only the missing ones are made.
        images: how many pictures.
        camera: of the pictures; None: 640x480 with 60 degrees of horizontal view.
        backgrounds: folder of photos; None: procedural backgrounds.
        scene: where objects may be; None: distances that fit the objects and the camera.
        split: name of the split folder.
        workers: processes that render.
        seed: same seed, same pictures.

    Returns:
        `out`.

    Raises:
        ValueError: no model, or two with one id.
    """
    from rich.progress import Progress

    ids = [m.obj_id for m in models]
    if not models or len(set(ids)) < len(ids) or min(ids) < 1:
        raise ValueError(f"write_bop needs models with distinct obj_id >= 1, got {ids}")
    out = Path(out)
    camera = camera or Camera(K_from_fov(math.radians(60), (480, 640)), (480, 640))
    scene = scene or replace(synth.SceneConfig(), distance=synth.fitting_distance(models, camera))
    known = {m.obj_id: m for m in models}
    source = dataset.Source(known, camera, synth.read_backgrounds(backgrounds), scene)
    bop_write.write_models(out / "models", known)
    bop_write.write_models(out / "models_eval", known)
    bop_write.write_camera(out / "camera.json", camera)
    names = {m.obj_id: m.name for m in models}
    folders = [out / split / f"{s:06d}" for s in range(-(-images // _SCENE))]
    done = sum(bop_write.count_images(f) for f in folders)
    with Progress(transient=True) as progress:
        task = progress.add_task("pictures", total=images, completed=done)
        for n, folder in enumerate(folders):
            last = min((n + 1) * _SCENE, images)
            first = n * _SCENE + bop_write.count_images(folder)
            if first >= last:
                continue
            loader = DataLoader(
                _Frames(source, first, last, seed), batch_size=None, num_workers=workers, worker_init_fn=dataset.one_thread,
            )  # fmt: skip
            chunk: list[tuple[Frame, torch.Tensor]] = []
            for i, item in enumerate(loader, first + 1):
                chunk.append(item)
                if len(chunk) == _CHUNK or i == last:
                    bop_write.append_frames(folder, [f for f, _ in chunk], [m for _, m in chunk], categories=names)
                    chunk = []
                progress.advance(task)
    bop_write.write_targets(out / f"{split}_targets_bop19.json", bop.targets_of(bop.scenes(out / split)))
    return out
