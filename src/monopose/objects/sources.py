"""What a training learns from: CAD models that are drawn, pictures from the disk, or several of both with weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class DataSource(NamedTuple):
    """One of the things that a training learns from."""

    folder: Path
    weight: float  # how often its samples come, relative to those of the others
    listed: Path | None  # file that lists the pictures to take; None: all
    read: bool  # pictures from the disk; else CAD models that are drawn


def parse(texts: Sequence[str | Path], split: str | None = None) -> list[DataSource]:
    """Sources from words: FOLDER, FOLDER:WEIGHT, FOLDER@LIST, FOLDER@LIST:WEIGHT.

    A BOP folder or models folder is drawn; a split folder such as lmo/train_pbr, or one of its scenes, is read.

    Args:
        texts: one or more.
        split: of a single BOP folder, in place of FOLDER/SPLIT.

    Raises:
        FileNotFoundError, ValueError: no such folder, a folder that is neither, a weight that is not above 0, no source.
    """
    if not texts:
        raise ValueError("no data; give a BOP folder, a split of one, or several with weights: lmo:1 lmo/train_pbr:3")
    if split is not None:
        if len(texts) > 1:
            raise ValueError(f"--split {split} belongs to one folder; of several write FOLDER/{split}")
        texts = [Path(texts[0]) / split]
    return [_parse_one(str(text)) for text in texts]


def _parse_one(text: str) -> DataSource:
    name, weight, listed = text, 1.0, None
    if (found := re.fullmatch(r"(.+):([-+.\deE]+)", name)) and not Path(name).exists():
        name = found[1]
        try:
            weight = float(found[2])
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise ValueError(f"{text}: the weight after the colon must be a number above 0, got {found[2]!r}")
    if "@" in name and not Path(name).exists():
        name, _, file = name.rpartition("@")
        listed = Path(file)
    folder = Path(name)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; --data takes a BOP folder, a models folder, or a split such as lmo/train_pbr, each as "
            "FOLDER or FOLDER:WEIGHT"
        )
    read = folder.name.isdecimal() or any(_of_pictures(p) for p in folder.iterdir())
    if listed is not None and not read:
        raise ValueError(f"{text}: {listed} lists pictures, and {folder} has none: its CAD models are drawn")
    return DataSource(folder, weight, listed, read)


def _of_pictures(path: Path) -> bool:
    """Whether something in a folder makes that a split of pictures: a scene, a tar of a web data set, an image's camera."""
    tar = path.name.startswith("shard-") and path.suffix == ".tar"
    return tar or path.name.endswith(".camera.json") or (path.name.isdecimal() and path.is_dir())


def models_root(sources: Sequence[DataSource]) -> Path:
    """The folder whose CAD models are learned: of the first source, or beside the pictures that it names.

    Raises:
        FileNotFoundError: none of the sources has CAD models.
    """
    for folder, _, _, read in sources:
        if not read:
            return folder
        for above in (folder.resolve().parent, folder.resolve().parent.parent):
            if (above / "models").is_dir():
                return above
    raise FileNotFoundError(
        f"no folder models beside {sources[0].folder}; pictures are learned with the CAD models of their data set"
    )
