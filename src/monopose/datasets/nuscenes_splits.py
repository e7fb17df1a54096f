"""Which scenes belong to nuScenes' official parts.

Source: the lists of the nuScenes devkit (python-sdk/nuscenes/utils/splits.py): 700 scenes for training, 150 for validation, 150
for test.
"""

from __future__ import annotations

from pathlib import Path

from ..io.records import found, read_json, value

MINI_TRAIN = (61, 553, 655, 757, 796, 1077, 1094, 1100)
MINI_VAL = (103, 916)
_VALIDATION = (  # first and last number, both included; numbers between that no scene has stand for none
    (3, 3), (12, 18), (35, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346), (519, 524), (552, 565), (625, 638),
    (770, 784), (794, 802), (904, 931), (962, 972), (1059, 1073),
)  # fmt: skip
SPLITS = ("train", "val", "trainval", "test", "mini_train", "mini_val")


def belongs(split: str, scene: str) -> bool:
    """Whether a scene of trainval (mini for mini_train and mini_val, test for test), "scene-0103", is in a part of it."""
    number = int(scene.rpartition("-")[2])
    validation = any(first <= number <= last for first, last in _VALIDATION)
    return {
        "train": not validation,
        "val": validation,
        "trainval": True,
        "test": True,
        "mini_train": number in MINI_TRAIN,
        "mini_val": number in MINI_VAL,
    }[split]


def scenes(data: str | Path, split: str) -> list[str]:
    """The scenes of an official part that a nuScenes folder has.

    Args:
        data: a nuScenes folder, or its v1.0-VERSION folder.
        split: one of `SPLITS`.

    Raises:
        FileNotFoundError: no tables of the version that has the part.
        ValueError: no such part, or none of its scenes is there.
    """
    data = Path(data)
    if split not in SPLITS:
        raise ValueError(f"nuScenes has no part {split!r}; choose one of {', '.join(SPLITS)}")
    versions = [data] if data.name.startswith("v1.0-") else sorted(data.glob("v1.0-*"))
    kind = "test" if split == "test" else "mini" if split.startswith("mini") else "trainval"
    tables = next((v / "scene.json" for v in versions if v.name == f"v1.0-{kind}" and (v / "scene.json").is_file()), None)
    if tables is None:
        raise FileNotFoundError(f"{split} is a part of v1.0-{kind}, and {data} has no v1.0-{kind}/scene.json ({found(data)})")
    names = [str(value(row, "name", str(tables))) for row in read_json(tables)]
    chosen = [name for name in names if belongs(split, name)]
    if not chosen:
        raise ValueError(f"{tables} has no scene of {split}; it has {', '.join(names[:6])}")
    return chosen
