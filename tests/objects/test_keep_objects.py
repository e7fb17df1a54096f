"""What a run folder keeps of its objects: what prediction needs, and nothing that lies elsewhere."""

import os

import numpy as np
import pytest
from PIL import Image

from monopose.objects import training

HEADER = (
    "ply\nformat ascii 1.0\ncomment TextureFile {texture}\nelement vertex 3\n"
    "property float x\nproperty float y\nproperty float z\nelement face 1\nproperty list uchar int vertex_indices\n"
    "end_header\n0 0 0\n100 0 0\n0 100 0\n3 0 1 2\n"
)


@pytest.fixture
def data(tmp_path):
    models = tmp_path / "data/models"
    models.mkdir(parents=True)
    for number, texture in ((2, "skin.png"), (5, "../secret.png"), (7, "other.png")):
        (models / f"obj_{number:06d}.ply").write_text(HEADER.format(texture=texture))
    for name in ("skin.png", "other.png", "../secret.png"):
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(models / name)
    (models / "models_info.json").write_text("{}")
    (models / "notes.txt").write_text("private")
    (models / "id_rsa").write_text("private")
    return tmp_path / "data"


def _kept(out):
    return {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}


def test_only_what_the_objects_need_is_kept(data, tmp_path):
    training.keep_objects(data, tmp_path / "run", (2, 5))
    assert _kept(tmp_path / "run/objects") == {"models_info.json", "obj_000002.ply", "obj_000005.ply", "skin.png"}
    training.keep_objects(data, tmp_path / "run", (2, 5))  # again is fine
    (data / "models/skin.png").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"skin\.png differs from .*choose another --out"):
        training.keep_objects(data, tmp_path / "run", (2, 5))


def test_links_out_of_the_folder_are_not_followed(data, tmp_path):
    (tmp_path / "elsewhere.ply").write_text(HEADER.format(texture=""))
    (data / "models/obj_000002.ply").unlink()
    (data / "models/obj_000002.ply").symlink_to(tmp_path / "elsewhere.ply")
    with pytest.raises(ValueError, match=r"obj_000002\.ply is a link that leads out of .*models; put the file itself there"):
        training.keep_objects(data, tmp_path / "run", (2,))
    assert "obj_000002.ply" not in _kept(tmp_path / "run")
    (tmp_path / "linked").symlink_to(data)  # the data set itself may be one
    training.keep_objects(tmp_path / "linked", tmp_path / "run", (5,))
    assert "objects/obj_000005.ply" in _kept(tmp_path / "run")


def test_who_may_read_them_is_the_umasks_to_say(data, tmp_path):
    before = os.umask(0o077)
    try:
        training.keep_objects(data, tmp_path / "run", (2,))
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "run/objects").iterdir()} == {0o600}
