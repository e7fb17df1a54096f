"""Large splits: the index says what the JSON files say, in all three layouts, and is made once."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from monopose.datasets.bop import index, pictures, scenes, writing
from monopose.datasets.bop.index import open_scenes, open_split
from monopose.io.files import INDEX
from monopose.types import Camera, Frame, Instances
from packed import images_of, pack

SIZE = (12, 16)
CAMERA = Camera(torch.tensor([[20.0, 0, 7.5], [0, 20, 5.5], [0, 0, 1]]), SIZE)


def frame(rng, objects):
    pose = torch.eye(4).repeat(objects, 1, 1)
    pose[:, :3, 3] = torch.from_numpy(rng.uniform(0.4, 0.9, (objects, 3))).float()
    masks = torch.from_numpy(rng.random((objects, *SIZE)) > 0.5)
    labels = torch.from_numpy(rng.integers(1, 4, objects))
    boxes = torch.tensor([[1.0, 2, 8, 9]]).repeat(objects, 1)
    truth = Instances(labels, pose, boxes, boxes, masks, torch.from_numpy(rng.uniform(0, 1, objects)).float())
    image = torch.from_numpy(rng.integers(0, 256, (3, *SIZE)) / 255).float()
    return Frame(image, CAMERA, torch.full(SIZE, 0.75), truth)


@pytest.fixture
def split(tmp_path):
    """Two scenes, of 3 and 2 pictures, with 0 to 3 objects."""
    rng = np.random.default_rng(0)
    for scene, counts in ((1, (2, 0, 3)), (7, (1, 2))):
        writing.append_frames(tmp_path / "set/train" / f"{scene:06d}", [frame(rng, n) for n in counts])
    return tmp_path / "set/train"


def numbers(opened):
    return [(s.scene_id, i) for s in opened.scenes for i in s.im_ids.tolist()]


@pytest.mark.parametrize("layout", ["scenes", "images", "tars"])
def test_every_layout_reads_as_scene_folders_do(split, tmp_path, layout):
    folder = split
    if layout == "images":
        folder = tmp_path / "loose"
        folder.mkdir()
        for name, content in images_of(split).items():
            (folder / name).write_bytes(content)
    elif layout == "tars":
        folder = tmp_path / "packed"
        pack(folder, images_of(split))
    opened = open_split(folder)
    some = open_scenes(folder, [7, 1, 7])
    assert list(some) == [7, 1]
    assert some[7].truth.t.tolist() == opened.scenes[1].truth.t.tolist()
    assert scenes.image_widths(some[1], [2, 0]).tolist() == [SIZE[1]] * 2
    with pytest.raises(FileNotFoundError, match="no scene"):
        open_scenes(folder, [1, 2])
    assert [s.scene_id for s in opened.scenes] == [1, 7]
    assert numbers(opened) == [(1, 0), (1, 1), (1, 2), (7, 0), (7, 1)]
    assert len(opened) == 5
    for scene, plain in zip(opened.scenes, scenes.scenes(split), strict=True):
        for column, expected in zip(scene.truth, plain.truth, strict=True):
            np.testing.assert_array_equal(column, expected)
        for im_id in plain.im_ids.tolist():
            a, b = scenes.read_frame(scene, im_id), scenes.read_frame(plain, im_id)
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.depth, b.depth)
            assert torch.equal(a.camera.K, b.camera.K)
            assert (a.scene_id, a.im_id) == (b.scene_id, b.im_id)
            assert torch.equal(a.instances.cam_from_obj, b.instances.cam_from_obj)
            assert (a.instances.masks is None) == (b.instances.masks is None)
            assert a.instances.masks is None or torch.equal(a.instances.masks, b.instances.masks)


@pytest.mark.parametrize("layout", ["scenes", "tars"])
def test_pictures_of_known_objects(split, tmp_path, layout):
    folder = split
    if layout == "tars":
        folder = tmp_path / "packed"
        pack(folder, images_of(split))
    found = pictures.index(folder, (1, 3))
    expected = []
    for scene in scenes.scenes(split):
        for im in scene.im_ids.tolist():
            rows = np.flatnonzero((scene.truth.im_id == im) & np.isin(scene.truth.obj_id, (1, 3)))
            if len(rows):
                expected.append((scene, im, rows))
    assert len(found) == len(expected) > 1
    objects = []
    for k, (picture, (scene, im, rows)) in enumerate(zip(found, expected, strict=True)):
        plain = scenes.read_frame(scene, im)
        assert (picture.scene.scene_id, picture.im_id) == (scene.scene_id, im)
        assert np.array_equal(picture.pixels(), (plain.image * 255).round().byte().permute(1, 2, 0).numpy())
        np.testing.assert_allclose(pictures.poses(picture)[:, :3, 3], scene.truth.t[rows])
        mine = scene.truth.gt_id[rows]
        assert np.array_equal(picture.masks(SIZE), plain.instances.masks.numpy()[mine])
        assert np.array_equal(picture.masks(SIZE, [len(rows) - 1]), plain.instances.masks.numpy()[mine[-1:]])
        objects += [[k, n] for n, row in enumerate(rows) if scene.truth.visibility[row] >= 0.3]
    assert found.objects(0.3).tolist() == objects
    assert 0 < len(objects) < len(found.objects(0))


def test_it_is_made_once_and_again_after_a_change(split, monkeypatch):
    opened = open_split(split)
    with monkeypatch.context() as patch:
        patch.setattr(index, "_write", lambda *args: pytest.fail("made again"))
        again = open_split(split)
        assert isinstance(again.columns["R"], np.memmap)  # shared by processes
        other = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(other.columns["R"], opened.columns["R"])
    writing.append_frames(split / "000007", [frame(np.random.default_rng(1), 1)])
    assert len(open_split(split)) == 6
    (split / "000007/rgb/000001.png").unlink()  # listed, but no longer there
    assert numbers(open_split(split)) == [(1, 0), (1, 1), (1, 2), (7, 0), (7, 2)]


OPEN = """
import sys
from monopose.datasets.bop import pictures
found = pictures.index(sys.argv[1], (1, 2, 3))
at = len(found.objects(0.3)), len(found), found[77_777].scene.scene_id, found[77_777].rows.tolist()
print(*at, int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_a_large_split_takes_little_memory(tmp_path, monkeypatch):
    """100,000 pictures of five objects; their JSON is left out. How long it takes says python -m benchmarks.scale."""
    for n in range(100):
        (tmp_path / f"shard-{n:06d}.tar").touch()
    ids, rows = np.arange(1000), 5000
    truth = scenes.SceneTruth(
        np.repeat(ids, 5), np.arange(rows) % 5 + 1, np.arange(rows) % 5, np.tile(np.eye(3), (rows, 1, 1)),
        np.ones((rows, 3)), np.ones((rows, 4)), np.ones((rows, 4)), np.arange(rows) % 5 / 5,
    )  # fmt: skip
    K, world, places = np.ones((1000, 3, 3)), np.ones((1000, 4, 4)), np.zeros((1000, 3, 3), int)
    read = ((scenes.Scene(tmp_path, n, "", ids, K, ids / 1e3, world, truth), places) for n in range(100))
    monkeypatch.setattr(index, "_pieces", lambda *args: read)
    assert len(open_split(tmp_path)) == 100_000
    opened = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    *found, megabytes = opened.split(maxsplit=6)
    assert " ".join(found) == "100000 100000 77 [3885, 3886, 3887]"
    assert int(megabytes) < 300


def test_a_folder_that_cannot_be_written_to(split, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(open_split(split)) == 5
    assert not (split / INDEX).exists()
    assert len(list((tmp_path / "cache").rglob("index.json"))) == 1


def test_what_is_wrong_with_tars_is_named(split, tmp_path):
    files = images_of(split)
    pack(tmp_path / "twice", files)
    (tmp_path / "twice/shard-000002.tar").write_bytes((tmp_path / "twice/shard-000000.tar").read_bytes())
    with pytest.raises(ValueError, match="the same image lies in two places"):
        open_split(tmp_path / "twice")
    pack(tmp_path / "lost", {k: v for k, v in files.items() if k != "000007_000001.camera.json"})
    with pytest.raises(ValueError, match=r"shard-00000.\.tar: image 000007_000001 has no camera\.json"):
        open_split(tmp_path / "lost")
    pack(tmp_path / "cut", files)
    path = tmp_path / "cut/shard-000000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"shard-000000\.tar is not a whole tar"):
        open_split(tmp_path / "cut")
    assert not list(tmp_path.rglob(f"{INDEX}*"))  # nothing half written
    with pytest.raises(FileNotFoundError, match="no scene folder such as 000001"):
        open_split(tmp_path)
