"""Collect the objects that the base networks learn, as a BOP models folder: parts, furniture, tableware and vehicles made in
code, the demo objects, and meshes of public data sets whose licence lets weights be passed on.

    pip install 'monopose[parts]'
    python tools/make_base_objects.py --out data/base [--data DATA]

DATA is a folder with lmo/models (CC BY-SA 4.0) and ycbv_mini/models (MIT); without it only what code makes. Meshes from
elsewhere are named here one by one, so that none comes in by chance: those on which the base is judged must not be among them.

The networks see crops, so only shapes matter: every object is scaled to a diameter of 12 to 20 cm, which lets one range of
distances suit all. Meshes are thinned to FACES triangles, textures to 256 pixels; symmetries are those that are known, or else
proposed from shape and colours. Killed, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from monopose.datasets.bop.models import read_models
from monopose.datasets.bop.writing import write_models
from monopose.mesh.loading import simplified
from monopose.mesh.symmetries import propose_symmetries
from monopose.synthesis.shapes import furniture, parts, tableware, vehicles
from monopose.types import ObjectModel, Symmetries

FACES, TEXTURE = 5000, 256
DIAMETERS = (0.12, 0.20)  # metres
PARTS, EACH = 510, 6  # parts; shapes of each category of furniture and vehicles, twice as many of tableware
DEMO = Path(__file__).parents[1] / "src/monopose/assets/demo/objects"
KEPT_APART = 9000  # parts of higher seeds stand around in test pictures and are never learned


def collected(data: Path | None) -> Iterator[tuple[str, Callable[[], ObjectModel], bool]]:
    """Name, what makes the model, and whether its symmetries are known."""
    for seed in range(PARTS):
        yield f"part_{seed:04d}", lambda seed=seed: parts.random_part(seed), False  # type: ignore[misc]
    for module, count in ((furniture, EACH), (vehicles, EACH), (tableware, 2 * EACH)):
        for category in module.CATEGORIES:
            for seed in range(count):
                make = lambda module=module, category=category, seed=seed: module.shape(category, seed)  # noqa: E731
                yield f"{category}_{seed:02d}", make, True
    folders = [("demo", DEMO, tuple(range(1, 6)), True)]
    if data is not None:
        folders.append(("lmo", data / "lmo/models", (1, 5, 6, 8, 9, 10, 11, 12), True))
        folders.append(("ycbv", data / "ycbv_mini/models", tuple(range(1, 22)), False))
    for origin, folder, ids, known in folders:
        for i in ids:
            yield f"{origin}_{i:02d}", lambda folder=folder, i=i: read_models(folder, [i])[i], known  # type: ignore[misc]


def prepared(model: ObjectModel, obj_id: int, name: str, known: bool) -> ObjectModel:
    """The model as it is learned: coarse, of an even size, with its symmetries."""
    if len(model.faces) > FACES:
        model = simplified(model, FACES)
    if model.texture is not None and max(model.texture.shape[1:]) > TEXTURE:
        share = TEXTURE / max(model.texture.shape[1:])
        model = replace(model, texture=F.interpolate(model.texture[None], scale_factor=share, mode="area")[0].clamp(0, 1))
    size = min(max(model.diameter, DIAMETERS[0]), DIAMETERS[1]) / model.diameter
    found = model.symmetries if known else propose_symmetries(model).symmetries
    discrete = found.discrete.clone()
    discrete[:, :3, 3] *= size
    return replace(
        model, obj_id=obj_id, name=name, vertices=model.vertices * size, diameter=model.diameter * size,
        symmetries=Symmetries(discrete, found.axes, found.offsets * size),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make, with models/ in it")
    parser.add_argument("--data", type=Path, help="folder with lmo/ and ycbv_mini/")
    parser.add_argument("--others", type=int, default=0, help="instead: so many parts for test pictures, from seed 9000 on")
    args = parser.parse_args()
    wanted = list(collected(args.data))
    if args.others:
        seeds = range(KEPT_APART, KEPT_APART + args.others)
        wanted = [(f"part_{s}", lambda s=s: parts.random_part(s), True) for s in seeds]  # type: ignore[misc]
    torch.set_num_threads(1)
    done = args.out / "prepared"
    done.mkdir(parents=True, exist_ok=True)
    models = {}
    for obj_id, (name, make, known) in enumerate(wanted, 1):
        kept = done / name
        if not (kept / "models_info.json").is_file():
            write_models(kept, {obj_id: prepared(make(), obj_id, name, known)})
        models[obj_id] = read_models(kept, [obj_id])[obj_id]
        if obj_id % 50 == 0:
            print(f"{obj_id} of {len(wanted)}", flush=True)
    write_models(args.out / "models", models)
    info = json.loads((args.out / "models/models_info.json").read_text())
    symmetric = sum("symmetries_discrete" in i or "symmetries_continuous" in i for i in info.values())
    faces = sorted(len(m.faces) for m in models.values())
    print(
        f"{len(models)} objects, {symmetric} of them symmetric, {faces[len(faces) // 2]} triangles in the median -> {args.out}"
    )


if __name__ == "__main__":
    main()
