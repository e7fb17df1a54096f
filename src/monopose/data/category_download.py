"""Where NOCS's photos, models and annotations are kept: REAL275 and CAMERA25, fetched as `data.download` fetches data sets.

    OUT/real275/real_test/scene_1/0000_color.png     what `data.nocs` reads; 6 scenes, 2754 photos
    OUT/real275/obj_models/real_test/…               meshes and their extents
    OUT/real275/gts/real_test/results_….pkl          poses, as the authors fitted them
    OUT/camera25/val/00000/0000_color.png            25,000 composed photos; obj_models and gts beside them

The data are for non-commercial use, and those who use them are asked to cite Wang et al., CVPR 2019. CAMERA's 275,000 training
photos, 140 GB, are not among them: nothing here learns from them.

Source: addresses in the README of the authors' repository hughw19/NOCS_CVPR2019; the folders in the archives as other readers
of the same archives unpack them (CAPTRA's README, Oryon's scripts). None was fetched from here.
"""

from __future__ import annotations

from pathlib import Path

from . import download as fetching
from .download import Archive

ROOT = "http://download.cs.stanford.edu/orion/nocs"
_SHARED = (Archive(f"{ROOT}/obj_models.zip", "obj_models"), Archive(f"{ROOT}/gts.zip", "gts"))

ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "real275": (Archive(f"{ROOT}/real_test.zip", "real_test"), *_SHARED),
    "camera25": (Archive(f"{ROOT}/camera_val25K.zip", "val"), *_SHARED),
}
"""Name -> archives, in the order they are fetched. No size or hash of these is known here; see `Archive.sha256`."""

NAMES = (*fetching.NAMES, *ARCHIVES)


def download(name: str, out: str | Path, url: str | None = None) -> Path:
    """Fetch a data set into the folder `out`/`name`: REAL275, CAMERA25, or one of `data.download`.

    Args, returns and errors: see `data.download.download`.
    """
    if name not in ARCHIVES:
        if name not in fetching.NAMES:
            raise ValueError(f"no data set {name!r} is known; known: {', '.join(NAMES)}")
        return fetching.download(name, out, url)
    folder = Path(out) / name
    for archive in fetching._from(ARCHIVES[name], url):
        fetching._fetch_and_unpack(archive, folder)
    return folder
