"""Poses as Parquet, for whoever reads many."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ..datasets.bop.results import read_results
from ..io.files import atomic_write
from ..io.records import read_json


def write_parquet(file: str | Path) -> Path:
    """The poses of a poses.json, or of a BOP CSV, as a table beside it, with the suffix .parquet: a row per pose.

    Columns: image, label, name, score; or scene_id, im_id, obj_id, score, time; and cam_from_obj (16 numbers, row by row,
    metres).
    """
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    rows: list[dict[str, Any]]
    names: tuple[str, ...]
    if str(file).endswith(".csv"):
        found = read_results(file)
        poses = [[*R[0], x, *R[1], y, *R[2], z, 0, 0, 0, 1] for R, (x, y, z) in zip(found.R.tolist(), found.t.tolist())]
        names = ("scene_id", "im_id", "obj_id", "score", "time")
        columns = zip(*(getattr(found, name).tolist() for name in names), poses)
        rows = [dict(zip((*names, "cam_from_obj"), row)) for row in columns]
    else:
        names = ("image", "label", "name", "score")
        images = read_json(file)["images"]
        shown = [image["image"].encode("utf-8", "backslashreplace").decode() for image in images]  # any bytes may name a file
        rows = [{"image": name, **pose} for name, image in zip(shown, images, strict=True) for pose in image["poses"]]
        rows = [
            {**{k: row[k] for k in names}, "cam_from_obj": [v for line in row["cam_from_obj"] for v in line]} for row in rows
        ]
    kinds = {"image": "string", "name": "string", "score": "double", "time": "double"}
    schema = [(name, pyarrow.type_for_alias(kinds.get(name, "int64"))) for name in names]
    schema.append(("cam_from_obj", pyarrow.list_(pyarrow.float64(), 16)))
    path = Path(file).with_suffix(".parquet")
    with atomic_write(path) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(schema)), temporary)
    return path
