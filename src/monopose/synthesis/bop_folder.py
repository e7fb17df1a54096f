"""A complete BOP folder of synthetic pictures from CAD models; a killed run goes on where it stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..datasets.bop import models as bop_models
from ..datasets.bop import scenes, writing
from ..geometry.boxes import from_masks
from ..io import records, shards
from ..io.bars import Bar
from ..io.files import sole_writer, write_json
from ..types import Camera, Frame, Instances, ObjectModel
from . import samples
from . import scene as synth
from .samples import one_thread
from .settings import check_same, photo_folder

_SCENE = 1000  # pictures per scene folder, as in BOP's own synthetic sets
_CHUNK = 25  # pictures between two writes of the JSON files


class Frames(Dataset):
    """Pictures of the data set by their numbers i, drawn from (seed, i): a frame with truth, and the silhouettes."""

    def __init__(self, source: samples.Source, numbers: Sequence[int], seed: int) -> None:
        self.source, self.numbers, self.seed = source, numbers, seed

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, n: int) -> tuple[Frame, torch.Tensor]:
        rng = np.random.default_rng((self.seed, self.numbers[n], 2))
        camera, source = self.source.camera, self.source
        layout = synth.random_layout(list(source.models.values()), camera, source.scene, rng)
        look = synth.random_appearance(len(layout.models), rng)
        background = synth.background(source.photos, camera.size, rng)
        picture, scene = synth.render(layout, look, camera.K, camera.size, background, float(camera.size[1]), rng)
        picture = synth.camera_effects(picture, 1.0, rng, source.scene.colours)
        rows = [r for r, m in enumerate(layout.models) if m.obj_id >= 0]
        boxes = [samples.amodal_box(layout.models[r], layout.cam_from_obj[r], camera.K) for r in rows]
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
    shard: shards.Shard | None = None,
) -> Path:
    """Write models, camera, pictures, truth, masks and targets of a new BOP data set.

    Args:
        models: CAD models with distinct obj_id >= 1.
        out: the data set folder. If it holds pictures of an earlier, killed run, only the missing ones are made. How they
            are made stands in its synth.json.
        images: how many pictures, at least 1.
        camera: of the pictures; None: 640x480 with 60 degrees of horizontal view.
        backgrounds: folder of photos; None: procedural backgrounds.
        scene: where objects may be; None: distances that fit the objects and the camera.
        split: name of the split folder; a data set may have several, of the same models and camera.
        workers: processes that render.
        seed: same seed, same pictures.
        shard: only the pictures of this one; the JSON files that name them are written by `shards.MERGE`, when all have been
            there. Whole folders are the same for any number of shards.

    Returns:
        `out`.

    Raises:
        ValueError: no model, or two with one id; a split name that BOP's file names cannot hold; pictures that are already
            there were made of other models, or otherwise.
    """
    ids = [m.obj_id for m in models]
    if not models or len(set(ids)) < len(ids) or min(ids) < 1:
        raise ValueError(f"write_bop needs models with distinct obj_id >= 1, got {ids}")
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", split) or split.startswith("models"):
        raise ValueError(f"a split is named with letters, digits and _, such as train, train_pbr or test, got {split!r}")
    out = Path(out)
    camera = camera or synth.default_camera()
    scene = scene or synth.scene_config(models, camera)
    known = {m.obj_id: m for m in models}
    source = samples.Source(known, camera, synth.read_backgrounds(backgrounds), scene)
    photos = photo_folder(backgrounds)
    settings = {"seed": seed, "backgrounds": photos and f"of {photos}", **asdict(scene)}
    job = None
    job_folder = out / shards.FOLDER / split
    if shard is not None:
        about = {**settings, "objects": {m.obj_id: m.digest for m in models}, "K": camera.K.tolist(), "size": camera.size}
        job = shards.Job(job_folder, about, images, _CHUNK, shard)
    elif job_folder.is_dir():
        raise ValueError(f"shards of {out / split} have been begun; monopose merge {out} finishes it, or delete {job_folder}")
    share = shard is not None and not shard.last
    with nullcontext() if share else sole_writer(out, "synth"):
        _note_settings(out, split, known, camera, settings)
        writing.write_models(out / "models", known)
        writing.write_models(out / "models_eval", known)
        writing.write_camera(out / "camera.json", camera)
        names = {m.obj_id: m.name for m in models}
        if job is None:
            _append(source, out / split, images, seed, workers, names)
        else:
            share_pictures(job, out / split, _SCENE, lambda numbers: _loader(source, numbers, seed, workers))
        if share:
            return out
        if job is not None:
            add_pictures(job, out / split, _SCENE, names)
        writing.write_targets(out / f"{split}_targets_bop19.json", scenes.targets_of(scenes.scenes(out / split)))
        if job is not None:
            job.remove()
        return out


def _loader(source: samples.Source, numbers: Sequence[int], seed: int, workers: int) -> DataLoader:
    return DataLoader(Frames(source, numbers, seed), batch_size=None, num_workers=workers, worker_init_fn=one_thread)


def _append(source: samples.Source, split: Path, images: int, seed: int, workers: int, names: Mapping[int, str]) -> None:
    """Make the pictures that are missing, scene after scene."""
    folders = [split / f"{s:06d}" for s in range(-(-images // _SCENE))]
    done = sum(writing.count_images(f) for f in folders)
    with Bar("pictures", images, done) as bar:
        for n, folder in enumerate(folders):
            last = min((n + 1) * _SCENE, images)
            first = n * _SCENE + writing.count_images(folder)
            if first >= last:
                continue
            chunk: list[tuple[Frame, torch.Tensor]] = []
            for i, item in enumerate(_loader(source, range(first, last), seed, workers), first + 1):
                chunk.append(item)
                if len(chunk) == _CHUNK or i == last:
                    writing.append_frames(folder, [f for f, _ in chunk], [m for _, m in chunk], categories=names)
                    chunk = []
                bar.advance()


def share_pictures(
    job: shards.Job, split: Path, scene: int, draw: Callable[[list[int]], Iterable[tuple[Frame, torch.Tensor]]]
) -> None:
    """Make the pictures of a shard, whose entries wait in the job's blocks; those that scenes list are there already.

    Args:
        job: its pieces are pictures, `scene` of them in a row to a scene folder of `split`.
        split: their folder.
        scene: pictures of a scene.
        draw: gives the pictures of these numbers, in their order, with silhouettes.
    """
    listed = {s: writing.count_images(split / f"{s:06d}") for s in range(-(-job.count // scene))}
    todo = [(b, p) for b, p in job.todo() if p[-1] % scene >= listed[p[-1] // scene]]
    drawn = iter(draw([i for _, pieces in todo for i in pieces])) if todo else iter(())
    with Bar("pictures", sum(len(p) for _, p in todo)) as bar:
        for block, pieces in todo:
            rows = []
            for i in pieces:
                rows.append(writing.write_frame(split / f"{i // scene:06d}", i % scene, *next(drawn)))
                bar.advance()
            job.save(block, rows)


def add_pictures(job: shards.Job, split: Path, scene: int, names: Mapping[int, str]) -> None:
    """Put the entries of all blocks into the scenes."""
    missing = {}
    for n in range(-(-job.count // scene)):
        done = writing.count_images(split / f"{n:06d}")
        missing[n] = range(n * scene + done, max(n * scene + done, min((n + 1) * scene, job.count)))
    job.require(i for pieces in missing.values() for i in pieces)
    for n, pieces in missing.items():
        if pieces:
            entries, folder = dict(zip(pieces, job.rows(pieces), strict=True)), split / f"{n:06d}"
            job.require_files({i: folder / entry["file"] for i, entry in entries.items()})
            writing.add_entries(folder, {i % scene: entry for i, entry in entries.items()}, names)


def _note_settings(
    out: Path, split: str, models: Mapping[int, ObjectModel], camera: Camera, settings: Mapping[str, Any]
) -> None:
    """Write into synth.json how the pictures of a split are made; ValueError if those that are there were made otherwise."""
    file = out / "synth.json"
    before = records.read_json(file) if file.is_file() else {"camera": {}, "splits": {}}
    made = {path.parent.parent.name for path in out.glob("*/*/scene_camera.json")}  # splits that hold pictures
    if made and (not file.is_file() or (split in made and split not in before["splits"])):
        raise ValueError(
            f"{out} holds pictures ({', '.join(sorted(made))}) that monopose synth did not make, as synth.json does not name "
            "them; choose another --out"
        )
    shown = {"K": camera.K.flatten().tolist(), "size": list(camera.size)}
    settings = json.loads(json.dumps(settings))
    if made:
        if other := _unlike(models, bop_models.read_models(out / "models")):
            raise ValueError(f"{out} was started with other meshes ({other}); give the same again, or another --out")
        was, now = ({f"camera {k}": v for k, v in one.items()} for one in (before["camera"], shown))
        check_same(out, was, now, "another --out")
    if split in made:
        check_same(out / split, before["splits"][split], settings, "another --out or --split")
    splits = {name: value for name, value in before["splits"].items() if name in made}
    if twins := [name for name, value in splits.items() if name != split and value == settings]:
        raise ValueError(f"{split} would hold the same pictures as {twins[0]}; give it another --seed")
    write_json(file, {"camera": shown, "splits": splits | {split: settings}})


def _unlike(models: Mapping[int, ObjectModel], written: Mapping[int, ObjectModel]) -> str:
    """In which object two sets of models differ, beyond the rounding of a file; symmetries and names may. Empty: in none."""
    if set(models) != set(written):
        return f"objects {sorted(written)}, now {sorted(models)}"
    for i, model in models.items():
        for name, tolerance in (("faces", 0), ("vertices", 1e-6 * model.diameter), ("colors", 0.003), ("texture", 0.003)):
            a, b = getattr(model, name), getattr(written[i], name)
            if (a is None) != (b is None) or (a is not None and (a.shape != b.shape or (a - b).abs().max() > tolerance)):
                return f"object {i} has other {name}"
    return ""
