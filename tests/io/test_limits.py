"""Small files that ask for much are refused before anything is decoded, whichever reader they come to."""

import struct
import zlib

import numpy as np
import pytest

from monopose.category.pipeline import read_masks
from monopose.datasets.bop import results, scenes
from monopose.io import limits
from monopose.io.images import read_image
from monopose.mesh import appearance


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.fixture(params=[13_000, 60_000])
def bomb(tmp_path, request):
    """A PNG of so many pixels wide and high, in 1 kB."""
    header = struct.pack(">IIBBBBB", request.param, request.param, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    path = tmp_path / "test/000001/mask_visib/000000_000000.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b""))
    return path


def test_pictures_and_masks(bomb):
    asked = r"asks for (169|3600) megapixels of a picture or mask, .*MONOPOSE_MAX_MEGAPIXELS"
    for reader in (read_image, read_masks):
        with pytest.raises(limits.TooMuch, match=asked):
            reader(bomb)
    with pytest.raises(limits.TooMuch, match=asked):
        appearance.picture(bomb.read_bytes(), "the texture 'a.png'", bomb, [])
    folder = bomb.parent.parent
    (folder / "scene_camera.json").write_text('{"0": {"cam_K": [500, 0, 320, 0, 500, 240, 0, 0, 1]}}')
    pose = '"cam_R_m2c": [1, 0, 0, 0, 1, 0, 0, 0, 1], "cam_t_m2c": [0, 0, 500]'
    (folder / "scene_gt.json").write_text(f'{{"0": [{{{pose}, "obj_id": 1}}]}}')
    with pytest.raises(limits.TooMuch, match=asked):
        scenes.read_instances(scenes.open_scene(folder), 0)


@pytest.mark.parametrize("counts", [[0, 10_000_000_000], "0" * 20])
def test_run_lengths(counts):
    with pytest.raises(limits.TooMuch, match=r"detection 3 asks for 10000 megapixels"):
        results.mask_from_rle({"counts": counts, "size": [100_000, 100_000]}, "detection 3")


def test_a_limit_is_raised_by_the_variable_that_the_message_names(monkeypatch):
    monkeypatch.setenv("MONOPOSE_MAX_MEGAPIXELS", "1")
    mask = {"counts": [1000 * 1001], "size": [1000, 1001]}
    with pytest.raises(limits.TooMuch, match="MONOPOSE_MAX_MEGAPIXELS"):
        results.mask_from_rle(mask)
    monkeypatch.setenv("MONOPOSE_MAX_MEGAPIXELS", "2")
    assert np.shape(results.mask_from_rle(mask)) == (1000, 1001)
    for value in ("many", "-1", "nan"):
        monkeypatch.setenv("MONOPOSE_MAX_MEGAPIXELS", value)
        with pytest.raises(ValueError, match="MONOPOSE_MAX_MEGAPIXELS must be a positive number"):
            results.mask_from_rle(mask)
