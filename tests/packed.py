"""Splits of scene folders in BOP's other layouts, for tests."""

import io
import json
import tarfile

from monopose.datasets.bop import scenes, writing


def images_of(split):
    """SCENE_IMAGE.KIND -> bytes, as bop_toolkit packs a split of scene folders."""
    files = {}
    for folder in sorted(split.glob("0*")):
        content = {n: json.loads((folder / f"scene_{n}.json").read_text()) for n in ("camera", "gt", "gt_info")}
        for im in content["camera"]:
            key = f"{folder.name}_{int(im):06d}"
            files |= {f"{key}.{n}.json": json.dumps(part[im]).encode() for n, part in content.items()}
            files[f"{key}.rgb.png"] = (folder / "rgb" / f"{int(im):06d}.png").read_bytes()
            files[f"{key}.depth.png"] = (folder / "depth" / f"{int(im):06d}.png").read_bytes()
            instances = scenes.read_instances(scenes.open_scene(folder), int(im))
            runs = {n: writing.rle_from_mask(m.numpy()) for n, m in enumerate(instances.masks if len(instances) else ())}
            files[f"{key}.mask_visib.json"] = json.dumps(runs).encode()
    return files


def pack(folder, files):
    """Two tars, images in no order, so that scenes lie in both."""
    folder.mkdir(parents=True)
    keys = sorted({name.split(".")[0] for name in files}, reverse=True)
    for n in range(2):
        with tarfile.open(folder / f"shard-{n:06d}.tar", "w") as tar:
            for name in (name for key in keys[n::2] for name in files if name.startswith(key)):
                info = tarfile.TarInfo(name)
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
