"""Synthetic scenes: who stands where, and the BOP folders written from them."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monopose.datasets.bop import models as bop_models
from monopose.datasets.bop import scenes, writing
from monopose.geometry import camera as camera_ops
from monopose.io import shards
from monopose.synthesis import bop_folder, samples, settings
from monopose.synthesis import scene as synth
from monopose.synthesis.shapes import solids as shapes_solids
from monopose.types import Camera, Symmetries
from shapes import box, half_turn

CAMERA = Camera(camera_ops.K_from_fov(math.radians(60), (96, 128)), (96, 128))
OBJECTS = [box(obj_id=2), box((0.05, 0.05, 0.05), obj_id=5), box((0.12, 0.04, 0.06), obj_id=7)]
CONFIG = synth.SceneConfig(objects=(1, 3), distractors=(0, 2), distance=(0.4, 0.9))


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------------------------------------------------------- layouts


def test_same_seed_same_layout():
    a, b, c = (synth.random_layout(OBJECTS, CAMERA, CONFIG, rng(s)) for s in (3, 3, 4))
    assert [m.name for m in a.models] == [m.name for m in b.models]
    assert torch.equal(a.cam_from_obj, b.cam_from_obj)
    assert a.cam_from_obj.shape != c.cam_from_obj.shape or not torch.equal(a.cam_from_obj, c.cam_from_obj)


def test_numbers_of_objects_and_distractors():
    known, extra = set(), set()
    for seed in range(60):
        layout = synth.random_layout(OBJECTS, CAMERA, CONFIG, rng(seed))
        ids = [m.obj_id for m in layout.models if m.obj_id >= 0]
        assert len(set(ids)) == len(ids)  # without repetition
        known.add(len(ids))
        extra.add(len(layout.models) - len(ids))
        assert layout.cam_from_obj.shape == (len(layout.models), 4, 4)
        first = synth.random_layout(OBJECTS, CAMERA, CONFIG, rng(seed), first=OBJECTS[1])
        assert [m.obj_id for m in first.models].index(5) == 0
        assert [m.obj_id for m in first.models].count(5) == 1
    assert known == {1, 2, 3}
    assert extra == {0, 1, 2}


def test_poses_are_rigid_and_in_front():
    for seed in range(60):
        config = replace(CONFIG, upright=bool(seed % 2))
        pose = synth.random_layout(OBJECTS, CAMERA, config, rng(seed)).cam_from_obj
        R = pose[:, :3, :3]
        torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-5, rtol=0)
        assert (torch.linalg.det(R) > 0).all()
        assert (pose[:, 2, 3] > 0.6 * 0.4 - 1e-6).all()


@pytest.mark.parametrize("tabletop", [0.0, 1.0])
@pytest.mark.parametrize("upright", [False, True])
def test_objects_in_the_coordinates_of_an_assembly_stand_where_centred_ones_do(tabletop, upright):
    away = torch.tensor([2.0, 0.5, -1.0])
    part = box((0.1, 0.06, 0.04), obj_id=1)
    far = replace(part, vertices=part.vertices + away)
    config = synth.SceneConfig(tabletop=tabletop, upright=upright, objects=(1, 1))
    for seed in range(5):
        near, there = (synth.random_layout([m], CAMERA, config, np.random.default_rng(seed)) for m in (part, far))
        back = there.cam_from_obj[0].clone()
        back[:3, 3] += back[:3, :3] @ away
        torch.testing.assert_close(back, near.cam_from_obj[0], atol=2e-5, rtol=0)
        torch.testing.assert_close(there.cam_from_obj[1:], near.cam_from_obj[1:], atol=2e-5, rtol=0)


def test_floating_objects_keep_their_distance():
    config = replace(CONFIG, tabletop=0.0, distractors=(0, 0))
    firsts = []
    for seed in range(80):
        far = synth.random_layout(OBJECTS, CAMERA, config, rng(seed)).cam_from_obj[:, :3, 3].norm(dim=-1)
        firsts.append(float(far[0]))
        assert 0.4 - 1e-6 <= firsts[-1] <= 0.9 + 1e-6
        assert (far >= 0.6 * 0.4 - 1e-6).all()
        assert (far <= 0.9 * 1.25 + 1e-6).all()
    assert min(firsts) < 0.5
    assert max(firsts) > 0.8


def test_upright_objects_on_a_table_share_one_up_within_the_elevation():
    config = replace(CONFIG, upright=True, tabletop=1.0, elevation_deg=(20.0, 50.0), distractors=(0, 0), objects=(3, 3))
    elevations = []
    for seed in range(60):
        pose = synth.random_layout(OBJECTS, CAMERA, config, rng(seed)).cam_from_obj
        up = pose[:, :3, 2]
        torch.testing.assert_close(up, up[:1].expand_as(up), atol=1e-5, rtol=0)
        elevations.append(math.degrees(math.asin(-float(up[0, 2]))))  # of the camera's axis above the table
        assert float(up[0, 1]) < 0  # up is up in the picture too
        # centred boxes that stand on one plane: bottoms at one height
        heights = (pose[:, :3, 3] * up).sum(-1) - torch.tensor([float(m) for m in _half_heights(seed, config)])
        torch.testing.assert_close(heights, heights[:1].expand_as(heights), atol=1e-5, rtol=0)
        assert any(0.4 - 1e-5 <= float(t.norm()) <= 0.9 + 1e-5 for t in pose[:, :3, 3])  # the one the camera looks at
    assert min(elevations) > 20 - 1e-3
    assert max(elevations) < 50 + 1e-3
    assert max(elevations) - min(elevations) > 20


def _half_heights(seed, config):
    layout = synth.random_layout(OBJECTS, CAMERA, config, rng(seed))
    return [m.bounds[1, 2] for m in layout.models]


def test_upright_floating_objects_keep_the_elevation_along_their_ray():
    config = replace(CONFIG, upright=True, tabletop=0.0, elevation_deg=(-5.0, 30.0), distractors=(0, 0))
    elevations = []
    for seed in range(60):
        pose = synth.random_layout(OBJECTS, CAMERA, config, rng(seed)).cam_from_obj
        ray = torch.nn.functional.normalize(pose[:, :3, 3], dim=-1)
        elevations += torch.rad2deg(torch.asin(-(pose[:, :3, 2] * ray).sum(-1))).tolist()
    assert min(elevations) > -5 - 0.5  # an object pushed back along z sees another ray
    assert max(elevations) < 30 + 0.5


def test_fitting_distance_in_closed_form():
    near, far = synth.fitting_distance(OBJECTS, CAMERA)
    d = sorted(m.diameter for m in OBJECTS)[1]
    f = float(CAMERA.K[0, 0])
    assert f * d / near == pytest.approx(0.6 * 96)
    assert f * d / far == pytest.approx(0.12 * 96)


def test_distractors_are_closed_solids_that_nobody_knows():
    solids = shapes_solids.distractors()
    assert {m.name for m in solids} == {"box", "cylinder", "cone", "sphere"}
    for model in solids:
        assert model.obj_id == -1
        corners = model.vertices[model.faces].double()
        volume = float(torch.linalg.det(corners).sum()) / 6
        extent = model.bounds[1] - model.bounds[0]
        assert volume > 0.2 * float(extent.prod())  # faces look outwards
        sides = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert float(sides.sum(0).norm()) < 1e-6 * float(sides.norm(dim=-1).sum()) + 1e-12  # closed: areas cancel
        outward = (sides * model.normals[model.faces].double().mean(1)).sum(-1)
        assert (outward >= -1e-12).all()
        assert torch.isfinite(model.normals).all()


# --------------------------------------------------------------------------------------------------------------- pictures


def test_render_draws_objects_on_the_background():
    layout = synth.random_layout(OBJECTS, CAMERA, replace(CONFIG, objects=(3, 3)), rng(1))
    background = np.full((96, 128, 3), 255, np.uint8)
    pictures = []
    for _ in range(2):
        draw = rng(5)
        look = synth.random_appearance(len(layout.models), draw)
        pictures.append(synth.render(layout, look, CAMERA.K, (96, 128), background, 128.0, draw))
    (a, scene), (b, _) = pictures
    assert np.array_equal(a, b)
    assert a.shape == (96, 128, 3)
    assert a.dtype == np.uint8
    assert (scene.index >= 0).any()
    assert scene.masks_visible[0].any()


def test_a_window_of_a_scene_is_the_scene_in_the_window():
    """Masks of a crop at twice the resolution, halved, are those of the whole picture."""
    layout = synth.random_layout(OBJECTS, CAMERA, replace(CONFIG, objects=(3, 3), distractors=(0, 0)), rng(2))
    look = synth.random_appearance(len(layout.models), rng())
    _, whole = synth.render(layout, look, CAMERA.K, (96, 128), np.zeros((96, 128, 3), np.uint8), 128.0, rng())
    window = torch.tensor([20.0, 10.0, 84.0, 74.0])
    K = camera_ops.crop_resize_K(CAMERA.K, window, (128, 128))
    _, crop = synth.render(layout, look, K, (128, 128), np.zeros((128, 128, 3), np.uint8), 64.0, rng())
    share = torch.nn.functional.avg_pool2d(crop.masks_full.float(), 2)
    inside = whole.masks_full[:, 10:74, 20:84]
    sure = (share == 0) | (share == 1)
    assert sure.float().mean() > 0.9
    assert torch.equal(share[sure] == 1, inside[sure])


def test_backgrounds(tmp_path):
    assert synth.read_backgrounds(None) == []
    with pytest.raises(FileNotFoundError, match="--backgrounds wants a folder of photos"):
        synth.read_backgrounds(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    Image.fromarray(np.zeros((20, 400, 3), np.uint8)).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match="none of the 2 pictures"):
        synth.read_backgrounds(tmp_path)
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / "good.png")
    assert len(synth.read_backgrounds(tmp_path)) == 1


def test_small_backgrounds_still_fill_the_smallest_parts():
    """A quarter of the shorter side is as wide as the crop; pictures that are small already stay as they are."""
    photos = [np.full((600, 800, 3), 90, np.uint8), np.full((300, 200, 3), 7, np.uint8)]
    small = synth.small_backgrounds(photos, 96)
    assert [p.shape for p in small] == [(384, 512, 3), (300, 200, 3)]
    assert (small[0] == 90).all()
    assert small[1] is photos[1]


def test_backgrounds_are_rgb_and_not_larger_than_asked(tmp_path):
    Image.fromarray(np.full((300, 400, 3), (250, 10, 20), np.uint8)).save(tmp_path / "a.png")
    (photo,) = synth.read_backgrounds(tmp_path, longest=200)
    assert photo.shape == (150, 200, 3)
    assert (photo == (250, 10, 20)).all()
    assert synth.background([], (30, 40), rng()).shape == (30, 40, 3)
    drawn = [synth.background([photo], (30, 40), rng(s)) for s in range(40)]
    from_photo = [(d == (250, 10, 20)).all() for d in drawn]
    assert 25 <= sum(from_photo) < 40  # procedural now and then


# ------------------------------------------------------------------------------------------------------------ BOP folders


def written(out, images=6, **more):
    turn = Symmetries(discrete=half_turn(2)[None])
    objects = [box(obj_id=2, symmetries=turn), *OBJECTS[1:]]
    return bop_folder.write_bop(
        objects, out, **{"images": images, "camera": CAMERA, "scene": CONFIG, "workers": 0, "seed": 4, **more}
    )


def test_a_written_folder_reads_back_as_it_was_drawn(tmp_path):
    from monopose.datasets.bop.check import check_bop

    out = written(tmp_path / "set")
    report = check_bop(out)
    assert report.problems == []
    assert report.models == [2, 5, 7]
    assert report.images == {"train": 6}

    models = bop_models.read_models(out / "models")
    assert torch.equal(models[2].symmetries.discrete, half_turn(2)[None])
    torch.testing.assert_close(models[7].vertices, OBJECTS[2].vertices, atol=1e-7, rtol=0)
    scene = scenes.open_scene(out / "train" / "000000")
    assert scene.im_ids.tolist() == list(range(6))
    drawn = bop_folder.Frames(samples.Source({m.obj_id: m for m in OBJECTS}, CAMERA, [], CONFIG), range(6), 4)
    seen = 0
    for im_id in range(6):
        frame, (truth, _) = scenes.read_frame(scene, im_id), drawn[im_id]
        torch.testing.assert_close(frame.camera.K, CAMERA.K)
        assert torch.equal(frame.instances.labels, truth.instances.labels)
        torch.testing.assert_close(frame.instances.cam_from_obj, truth.instances.cam_from_obj, atol=2e-6, rtol=0)
        assert torch.equal(frame.instances.masks, truth.instances.masks)
        torch.testing.assert_close(frame.instances.visibility, truth.instances.visibility)
        torch.testing.assert_close(frame.image, truth.image)
        assert (frame.depth - truth.depth).abs().max() < 1e-4
        seen += len(frame.instances)
    assert seen >= 6
    targets = scenes.read_targets(out / "train_targets_bop19.json")
    assert set(targets.obj_id.tolist()) <= {2, 5, 7}


def test_a_longer_set_starts_with_the_shorter_one_and_fills_several_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(bop_folder, "_SCENE", 4)
    written(tmp_path, 3)
    first = (tmp_path / "train/000000/rgb/000001.png").read_bytes()
    stamp = (tmp_path / "train/000000/rgb/000001.png").stat().st_mtime_ns
    written(tmp_path, 6)
    assert (tmp_path / "train/000000/rgb/000001.png").read_bytes() == first
    assert (tmp_path / "train/000000/rgb/000001.png").stat().st_mtime_ns == stamp  # not drawn again
    assert writing.count_images(tmp_path / "train/000000") == 4
    assert writing.count_images(tmp_path / "train/000001") == 2
    a = (tmp_path / "train/000000/rgb/000000.png").read_bytes()
    assert (tmp_path / "train/000001/rgb/000000.png").read_bytes() != a


def test_going_on_otherwise_is_refused(tmp_path):
    """Nothing is touched where what is there was made of other models, or otherwise."""
    out = written(tmp_path / "set", 1)
    before = {p: p.read_bytes() for p in out.glob("**/*") if p.is_file()}
    other = Camera(CAMERA.K * torch.tensor([[1.1], [1.1], [1.0]]), CAMERA.size)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    moved = replace(OBJECTS[0], vertices=OBJECTS[0].vertices * 1.001)
    painted = replace(OBJECTS[0], colors=1 - OBJECTS[0].colors)
    for changes, message in (
        ({"seed": 5}, r"train was started with seed 4, now it is 5.* another --out or --split"),
        ({"camera": other}, r"set was started with camera K \[.*give the same again, or another --out$"),
        ({"scene": replace(CONFIG, upright=True)}, "started with upright False, now it is True"),
        ({"scene": replace(CONFIG, distance=(0.4, 1.0))}, r"started with distance \[0\.4, 0\.9\], now it is \[0\.4, 1\.0\]"),
        ({"backgrounds": tmp_path / "photos"}, "started with backgrounds None, now it is of 1 photos"),
        ({"split": "test"}, "test would hold the same pictures as train; give it another --seed"),
        ({"split": "test", "seed": 9, "camera": other}, "started with camera K"),
    ):
        with pytest.raises(ValueError, match=message):
            written(out, 2, **changes)
    for models, message in (
        ([moved, *OBJECTS[1:]], r"started with other meshes \(object 2 has other vertices\)"),
        ([painted, *OBJECTS[1:]], r"started with other meshes \(object 2 has other colors\)"),
        (OBJECTS[1:], r"started with other meshes \(objects \[2, 5, 7\], now \[5, 7\]\)"),
    ):
        with pytest.raises(ValueError, match=message):
            bop_folder.write_bop(models, out, images=2, camera=CAMERA, scene=CONFIG, workers=0, seed=4)
    assert {p: p.read_bytes() for p in out.glob("**/*") if p.is_file()} == before

    # other symmetries are welcome, as are the folder's own models, wherever the folder and the photos lie by now
    out.rename(tmp_path / "moved")
    own = list(bop_models.read_models(tmp_path / "moved" / "models").values())
    bop_folder.write_bop(own, tmp_path / "moved", images=2, camera=CAMERA, scene=CONFIG, workers=0, seed=4)
    bop_folder.write_bop(OBJECTS, tmp_path / "moved", images=3, camera=CAMERA, scene=CONFIG, workers=0, seed=4)
    assert writing.count_images(tmp_path / "moved/train/000000") == 3


def test_meshes_with_textures_are_recognised(tmp_path):
    """As read from any file, against what is written of them."""
    demo = bop_models.read_models(Path(synth.__file__).parents[1] / "assets" / "demo" / "objects")
    writing.write_models(tmp_path, demo)
    assert any(m.texture is not None for m in demo.values())
    written = bop_models.read_models(tmp_path)
    assert bop_folder._unlike(demo, written) == ""
    i, textured = next((i, m) for i, m in demo.items() if m.texture is not None)
    assert bop_folder._unlike(demo | {i: replace(textured, texture=1 - textured.texture)}, written).endswith("other texture")
    assert bop_folder._unlike(demo | {i: replace(textured, texture=None, uv=None)}, written).endswith("other texture")


def test_a_second_split_and_a_start_without_pictures(tmp_path, monkeypatch):
    from monopose.datasets.bop.check import check_bop

    def interrupted(*args):
        raise KeyboardInterrupt

    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(synth, "random_layout", interrupted)  # before the first picture
        with pytest.raises(KeyboardInterrupt):
            written(out, 2)
    assert json.loads((out / "synth.json").read_text())["splits"]["train"]["seed"] == 4
    written(out, 2, seed=5)
    written(out, 1, seed=6, split="test")
    report = check_bop(out)
    assert (report.problems, report.images) == ([], {"test": 1, "train": 2})
    assert (out / "test_targets_bop19.json").is_file()
    notes = json.loads((out / "synth.json").read_text())
    assert {name: value["seed"] for name, value in notes["splits"].items()} == {"train": 5, "test": 6}
    written(out, 3, seed=5)
    for name in ("", "..", "models", "a/b", "train-pbr", "1"):
        with pytest.raises(ValueError, match="a split is named with letters"):
            written(out, 1, split=name)


def test_data_sets_of_others_are_left_alone(tmp_path):
    out = written(tmp_path / "set", 1)
    (out / "synth.json").unlink()
    before = (out / "models/models_info.json").stat().st_mtime_ns
    for split in ("train", "train_pbr"):
        with pytest.raises(ValueError, match=r"set holds pictures \(train\) that monopose synth did not make"):
            written(out, 2, split=split)
    assert (out / "models/models_info.json").stat().st_mtime_ns == before


def test_photos_are_known_by_content_not_by_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "inner").mkdir(parents=True)
        Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / name / "inner" / "x.png")
    assert settings.photo_folder(tmp_path / "a") == settings.photo_folder(str(tmp_path / "b"))
    Image.fromarray(np.zeros((90, 100, 3), np.uint8)).save(tmp_path / "b" / "inner" / "y.png")
    assert settings.photo_folder(tmp_path / "a") != settings.photo_folder(tmp_path / "b")
    assert settings.photo_folder(None) is None


def test_scene_config_is_checked():
    fitted = synth.scene_config(OBJECTS, CAMERA)
    assert fitted == replace(synth.SceneConfig(), distance=synth.fitting_distance(OBJECTS, CAMERA))
    given = synth.scene_config(OBJECTS, CAMERA, upright=True, elevation_deg=(20, 60), distance=(0.5, 0.8))
    assert (given.upright, given.elevation_deg, given.distance) == (True, (20, 60), (0.5, 0.8))
    for distance in ((0.0, 1.0), (1.0, 0.5), (0.5, 0.5), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="distances must be positive and growing, in metres, got"):
            synth.scene_config(OBJECTS, CAMERA, distance=distance)
    for elevation in ((60, 20), (-91, 0), (0, 91)):
        with pytest.raises(ValueError, match="elevations must be growing and between -90 and 90 degrees"):
            synth.scene_config(OBJECTS, CAMERA, elevation_deg=elevation)


def test_bad_models_are_named(tmp_path):
    for models in ([], [box(obj_id=1), box(obj_id=1)], [box(obj_id=0)]):
        with pytest.raises(ValueError, match="distinct obj_id >= 1, got"):
            bop_folder.write_bop(models, tmp_path / "set")
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        written(tmp_path / "set", 0)
    assert not (tmp_path / "set").exists()


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_shards_give_the_same_folder(tmp_path, monkeypatch, count):
    """Two scenes, blocks of two pictures, one killed shard; the set grows afterwards."""
    monkeypatch.setattr(bop_folder, "_SCENE", 4)
    monkeypatch.setattr(bop_folder, "_CHUNK", 2)
    whole, out = tmp_path / "whole" / "set", tmp_path / "shards" / "set"
    written(whole, 5)
    for index in range(count, 0, -1):
        if index == 1:  # killed in its first block, and started again
            with monkeypatch.context() as patch:
                patch.setattr(shards.Job, "save", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    written(out, 5, shard=shards.Shard(index, count))
            with pytest.raises(ValueError, match=f"are missing in .*; run --shard 1/{count} again"):
                written(out, 5, shard=shards.MERGE)
        written(out, 5, shard=shards.Shard(index, count))
    with pytest.raises(ValueError, match="holds shards with other settings"):
        written(out, 5, seed=5, shard=shards.Shard(1, count))
    with pytest.raises(ValueError, match=r"shards of .* have been begun; monopose merge"):
        written(out, 5)
    (out / "train/000000/rgb/000003.png").unlink()
    with pytest.raises(ValueError, match=r"2 of 5 are missing in .*from 0: 2 to 3"):
        written(out, 5, shard=shards.MERGE)
    written(out, 5, shard=shards.Shard(1 + 1 % count, count))
    drawn = []
    monkeypatch.setattr(bop_folder.Frames, "__getitem__", lambda *args: drawn.append(args))
    written(out, 5, shard=shards.Shard(1, count))  # complete: nothing is drawn
    written(out, 5, shard=shards.MERGE)
    assert drawn == []
    assert files_of(out) == files_of(whole)
    monkeypatch.undo()
    monkeypatch.setattr(bop_folder, "_SCENE", 4)
    written(whole, 7)
    for merge in (shards.Shard(1, 1), shards.MERGE):  # what scenes list already is kept
        written(out, 7, shard=merge)
    assert files_of(out) == files_of(whole)


def interrupted(*args):
    raise KeyboardInterrupt


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from synthesis import test_scene as test_synth
test_synth.bop_folder._CHUNK = 2
test_synth.written({out!r}, 400)
"""


@pytest.mark.slow
def test_killed_and_started_again_is_complete_and_the_same(tmp_path, monkeypatch):
    out = tmp_path / "killed"
    code = SCRIPT.format(tests=os.path.dirname(os.path.dirname(__file__)), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    index = out / "train/000000/scene_camera.json"
    for _ in range(3000):
        if index.is_file() and writing.count_images(index.parent) >= 4:
            break
        assert process.poll() is None, "the writer ended by itself"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = writing.count_images(index.parent)
    assert 4 <= done < 400

    monkeypatch.setattr(bop_folder, "_CHUNK", 2)
    wanted = done + 3
    written(out, wanted)
    from monopose.datasets.bop.check import check_bop

    assert check_bop(out).problems == []
    scene = scenes.open_scene(index.parent)
    assert scene.im_ids.tolist() == list(range(wanted))
    assert len(json.loads((index.parent / "scene_gt_coco.json").read_text())["images"]) == wanted
    drawn = bop_folder.Frames(samples.Source({m.obj_id: m for m in OBJECTS}, CAMERA, [], CONFIG), range(wanted), 4)
    for im_id in (0, done - 1, done, wanted - 1):  # as if nothing had happened
        truth, _ = drawn[im_id]
        frame = scenes.read_frame(scene, im_id)
        torch.testing.assert_close(frame.image, truth.image)
        torch.testing.assert_close(frame.instances.cam_from_obj, truth.instances.cam_from_obj, atol=2e-6, rtol=0)
        assert torch.equal(frame.instances.masks, truth.instances.masks)
