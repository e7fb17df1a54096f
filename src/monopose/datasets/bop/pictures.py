"""Pictures of BOP splits as training reads them: indexed once, decoded as bytes, no more of each than a sample shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ...io import limits
from ...io.files import existing_file
from ...io.records import Array, PathLike, read_text
from . import scenes


class Picture(NamedTuple):
    """One picture and the known objects that it shows, n of them.

    rows: (n,), places in `scene.truth`. masks: file of each one's visible mask; () where the scene has none.
    """

    scene: scenes.Scene
    im_id: int
    path: Path
    K: Array  # (3, 3), pixels
    rows: Array
    masks: tuple[Path, ...]


def index(split: PathLike, known: Iterable[int], listed: PathLike | None = None) -> list[Picture]:
    """The pictures of a split or scene folder that show a known object. Objects without a CAD model are passed over.

    Args:
        split: a split folder (lmo/train_pbr) or one scene folder (lm/train/000001).
        known: ids of the objects with a CAD model.
        listed: text file with the pictures to take, one SCENE/IMAGE or, of a scene folder, IMAGE number a line; None: all.

    Raises:
        FileNotFoundError, ValueError: no such folder or file, no truth, a listed picture that is not there, none left.
    """
    wanted = None if listed is None else read_list(listed)
    ids, found, missing = set(known), [], set(wanted or ())
    rows: dict[int, dict[int, list[int]]] = {}
    folders: dict[int, Path | None] = {}
    for scene, im_id, path in scenes.images(split):
        names = {(scene.scene_id, im_id), (None, im_id)}
        if wanted is not None and not names & wanted:
            continue
        missing -= names
        if scene.truth is None:
            raise ValueError(f"{scene.folder} has no scene_gt.json, which training needs")
        key = id(scene)
        if key not in rows:
            rows[key] = {}
            for row in np.flatnonzero(np.isin(scene.truth.obj_id, list(ids))).tolist():
                rows[key].setdefault(int(scene.truth.im_id[row]), []).append(row)
            folder = scene.folder / f"mask_visib{'_' + scene.sensor if scene.sensor else ''}"
            folders[key] = folder if folder.is_dir() else None
        own = rows[key].get(im_id)
        if own:
            at = folders[key]
            masks = () if at is None else tuple(at / f"{im_id:06d}_{scene.truth.gt_id[r]:06d}.png" for r in own)
            K = scene.K[int(np.searchsorted(scene.im_ids, im_id))]
            found.append(Picture(scene, im_id, path, K, np.array(own), masks))
    if missing:
        scene_id, im_id = min(missing, key=str)
        name = im_id if scene_id is None else f"{scene_id}/{im_id}"
        raise ValueError(f"{listed}: picture {name} and {len(missing) - 1} more are not in {split}")
    if not found:
        raise ValueError(f"{split} shows no known object ({sorted(ids)})")
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


def read_pixels(path: Path) -> Array:
    """(H, W, 3) RGB, uint8. Raises ValueError for a file that is no picture."""
    pixels = limits.imread(path, cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"{path} cannot be read as a picture; was it cut short while written?")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def read_mask(path: Path, size: Sequence[int]) -> Array:
    """(H, W), bool. Raises ValueError for a mask that is missing, or of another (height, width) than the picture."""
    mask = limits.imread(path, cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise ValueError(f"{path} is missing or cannot be read as a mask; without the folder masks are rendered from the poses")
    if mask.shape[:2] != tuple(size[:2]):
        raise ValueError(f"{path} is {mask.shape[1]}x{mask.shape[0]} but the picture is {size[1]}x{size[0]}")
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
