"""Pictures of BOP splits as training reads them: indexed once, decoded as bytes, no more of each than a sample shows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ...io import limits
from ...io.files import Unreadable, existing_file
from ...io.records import Array, PathLike, read_text
from . import scenes
from .index import Split, open_split


class Picture(NamedTuple):
    """One picture and the known objects that it shows, n of them.

    rows: (n,), places in `scene.truth`.
    """

    scene: scenes.Scene
    im_id: int
    K: Array  # (3, 3), pixels
    rows: Array

    def pixels(self) -> Array:
        """(H, W, 3) RGB, uint8. Raises Unreadable for a file that is no picture, or none."""
        if self.scene.members is None:
            file = scenes.picture_file(self.scene, self.im_id)
            name, content = ("", None) if file is None else (str(file), file.read_bytes())
        else:
            found = scenes.member(self.scene, self.im_id, "rgb")
            name, content = ("", None) if found is None else found
        if content is None:
            raise Unreadable(f"no picture {self.im_id} in {self.scene.folder}")
        pixels = limits.imdecode(content, name, cv2.IMREAD_COLOR)
        if pixels is None:
            raise Unreadable(f"{name} cannot be read as a picture; was it cut short while written?")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    def masks(self, size: Sequence[int], objects: Sequence[int] | None = None) -> list[Array] | None:
        """Visible masks, (H, W) each, bool; None where the scene has none.

        Args:
            size: (height, width) of the picture.
            objects: which of the n; None: all.

        Raises:
            ValueError: a mask that is missing, or of another size than the picture.
        """
        truth, scene = self.scene.truth, self.scene
        assert truth is not None
        chosen = truth.gt_id[self.rows if objects is None else self.rows[list(objects)]].tolist()
        if scene.members is not None:
            masks = scenes.packed_masks(scene, self.im_id, chosen)
            names = [f"mask of {self.im_id} in {scene.folder}"] * len(chosen)
        else:
            folder = scene.folder / f"mask_visib{'_' + scene.sensor if scene.sensor else ''}"
            files = [folder / f"{self.im_id:06d}_{n:06d}.png" for n in chosen]
            names = list(map(str, files))
            masks = list(map(read_mask, files)) if folder.is_dir() else None
        for name, mask in zip(names, masks or ()):
            if mask.shape != tuple(size[:2]):
                raise ValueError(f"{name} is {mask.shape[1]}x{mask.shape[0]} but the picture is {size[1]}x{size[0]}")
        return masks


class Pictures(Sequence[Picture]):
    """The pictures of a split that show known objects, made one by one; shares the arrays of the split with all processes.

    Args:
        split: an opened split.
        known: ids of the objects with a CAD model.
        places: place of the scene in the split, and of the image in the scene, (M, 2).
    """

    def __init__(self, split: Split, known: Collection[int], places: Array) -> None:
        self.split, self.known, self.places = split, list(known), places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Picture:  # type: ignore[override]
        place, n = self.places[i].tolist()
        scene = self.split.scenes[place]
        truth, im_id = scene.truth, int(scene.im_ids[n])
        assert truth is not None
        first, last = np.searchsorted(truth.im_id, [im_id, im_id + 1])
        rows = first + np.flatnonzero(np.isin(truth.obj_id[first:last], self.known))
        return Picture(scene, im_id, np.array(scene.K[n]), rows)

    def objects(self, min_visibility: float) -> Array:
        """Picture, and place among its known objects, of every object that is visible enough, (R, 2), int64."""
        parts = [np.zeros((0, 2), np.int64)]
        for place, scene in enumerate(self.split.scenes):
            mine = np.flatnonzero(self.places[:, 0] == place)
            if not len(mine) or (truth := scene.truth) is None:
                continue
            ids = scene.im_ids[self.places[mine, 1]]
            at = np.searchsorted(ids, truth.im_id)
            of_mine = ids[np.minimum(at, len(ids) - 1)] == truth.im_id
            rows = np.flatnonzero(of_mine & np.isin(truth.obj_id, self.known))
            within = np.arange(len(rows)) - np.searchsorted(truth.im_id[rows], truth.im_id[rows])
            seen = np.ones(len(rows), bool) if truth.visibility is None else truth.visibility[rows] >= min_visibility
            parts.append(np.stack([mine[at[rows]], within], 1)[seen])
        return np.concatenate(parts)


def index(split: PathLike, known: Iterable[int], listed: PathLike | None = None) -> Pictures:
    """The pictures of a split or scene folder that show a known object. Objects without a CAD model are passed over.

    Args:
        split: a split folder (lmo/train_pbr), in any of the layouts of `index.open_split`, or one scene folder.
        known: ids of the objects with a CAD model.
        listed: text file with the pictures to take, one SCENE/IMAGE or, of a scene folder, IMAGE number a line; None: all.

    Raises:
        FileNotFoundError, ValueError: no such folder or file, no truth, a listed picture that is not there, none left.
    """
    wanted = None if listed is None else read_list(listed)
    ids, missing = sorted(set(known)), set(wanted or ())
    opened = open_split(split)
    parts = [np.zeros((0, 2), np.int64)]
    for place, scene in enumerate(opened.scenes):
        chosen = np.ones(len(scene.im_ids), bool)
        if wanted is not None:
            names = [{(scene.scene_id, i), (None, i)} & wanted for i in scene.im_ids.tolist()]
            missing -= set().union(*names)
            chosen = np.array([bool(n) for n in names], bool)
        if not chosen.any():
            continue
        if scene.truth is None:
            raise ValueError(f"{scene.folder} has no scene_gt.json, which training needs")
        chosen &= np.isin(scene.im_ids, scene.truth.im_id[np.isin(scene.truth.obj_id, ids)])
        where = np.flatnonzero(chosen)
        parts.append(np.stack([np.full(len(where), place), where], 1))
    if missing:
        scene_id, im_id = min(missing, key=str)
        name = im_id if scene_id is None else f"{scene_id}/{im_id}"
        raise ValueError(f"{listed}: picture {name} and {len(missing) - 1} more are not in {split}")
    found = Pictures(opened, ids, np.concatenate(parts))
    if not len(found):
        raise ValueError(f"{split} shows no known object ({ids})")
    return found


def read_list(path: PathLike) -> set[tuple[int | None, int]]:
    """Numbers of scenes and pictures in a text file, one SCENE/IMAGE or IMAGE a line; names of files may stand for numbers.

    Raises:
        FileNotFoundError, ValueError: no such file, a line without a number, none at all.
    """
    wanted: set[tuple[int | None, int]] = set()
    for n, line in enumerate(read_text(existing_file(path, "list of pictures")).splitlines(), 1):
        numbers = re.findall(r"\d+", re.sub(r"\.\w+$", "", line.strip()))
        if line.strip() and not numbers:
            raise ValueError(f"{path}, line {n}: expected SCENE/IMAGE or IMAGE, got {line.strip()!r:.60}")
        if numbers:
            wanted.add((int(numbers[-2]) if len(numbers) > 1 else None, int(numbers[-1])))
    if not wanted:
        raise ValueError(f"{path} names no picture; expected one SCENE/IMAGE or IMAGE a line")
    return wanted


def read_mask(path: Path) -> Array:
    """(H, W), bool. Raises Unreadable for a mask that is missing or no picture."""
    mask = limits.imread(path, cv2.IMREAD_UNCHANGED)
    if mask is None:
        text = f"{path} is missing or cannot be read as a mask; without the folder masks are rendered from the poses"
        raise Unreadable(text)
    return (mask if mask.ndim == 2 else mask[..., 0]) > 0


def poses(picture: Picture) -> Array:
    """True poses of the picture's known objects, (n, 4, 4), float64, metres, rotations orthonormal."""
    truth = picture.scene.truth
    assert truth is not None
    out = np.tile(np.eye(4), (len(picture.rows), 1, 1))
    u, _, v = np.linalg.svd(truth.R[picture.rows])
    turn = np.ones((len(picture.rows), 3))
    turn[:, 2] = np.linalg.det(u @ v)
    out[:, :3, :3] = (u * turn[:, None]) @ v
    out[:, :3, 3] = truth.t[picture.rows]
    return out
