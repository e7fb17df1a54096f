"""Rendered data sets in Pix3D's layout: what is written is what is read, cameras as asked for, the same after a kill."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monopose.datasets import pix3d
from monopose.geometry import se3, viewpoints
from monopose.geometry.boxes import from_masks
from monopose.geometry.camera import project
from monopose.io.shards import MERGE, Shard
from monopose.render.scene import render_masks
from monopose.synthesis import pix3d_folder
from monopose.synthesis.shapes import furniture
from monopose.types import ObjectModel

SIZE = (96, 128)


@pytest.fixture(scope="module")
def models() -> dict[str, list[ObjectModel]]:  # with legs that are no thinner than a pixel
    return {"chair": [furniture.shape("chair", k) for k in (0, 1)], "bed": [furniture.shape("bed", 1)]}


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory) -> Path:
    return pix3d_folder.write_pix3d(tmp_path_factory.mktemp("set"), models, images=12, size=SIZE, seed=3, workers=0)


@pytest.fixture(scope="module")
def records(folder) -> list[pix3d.Record]:
    return pix3d.read(folder)


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_reader_finds_every_picture_without_a_complaint(folder, records, recwarn):
    assert not [w for w in recwarn if issubclass(w.category, pix3d.Pix3DWarning)]
    assert sorted(r.name for r in records) == sorted(
        [f"chair/{k:04d}" for k in range(1, 25)] + [f"bed/{k:04d}" for k in range(1, 13)]
    )
    assert {r.shape for r in records} == {"chair/chair_00/model", "chair/chair_01/model", "bed/bed_01/model"}
    for record in records[:6]:
        image, mask = pix3d.read_picture(record)
        assert image.shape == (3, *SIZE)
        assert mask is not None
        assert torch.equal(from_masks(mask[None])[0], record.box)


def test_models_come_back_as_they_were(models, records):
    for model in [m for shapes in models.values() for m in shapes]:
        record = next(r for r in records if r.model.split("/")[2] == model.name)
        back = pix3d.read_model(record)
        assert len(back.faces) == len(model.faces)
        assert back.colors is not None
        assert model.colors is not None
        a, b = (torch.cat([m.vertices, m.normals, m.colors], 1)[m.faces] for m in (model, back))
        assert (a - b).abs().max() < 0.005  # colours have 8 bits
        assert (a - b)[..., :3].abs().max() < 2e-6


def test_the_written_pose_lays_the_model_on_its_mask(records):
    checked = 0
    for record in records:
        model, mask = pix3d.read_model(record), pix3d.read_picture(record)[1]
        assert mask is not None
        whole = render_masks([model], record.cam_from_obj[None].float(), record.K, SIZE).masks_full[0]
        assert (mask & ~whole).sum() <= 3  # the file's pose and model are rounded
        if record.truncated or record.occluded or record.slightly_occluded:
            continue
        assert mask.sum() >= (pix3d_folder.SLIGHT - 0.002) * whole.sum()
        if (mask ^ whole).sum() > 3:  # a few pixels are hidden, at its edge perhaps
            continue
        seen = project(se3.transform(record.cam_from_obj, model.vertices.double()), record.K.double()) + 0.5
        box = torch.cat([seen.amin(0), seen.amax(0)])
        assert (box - record.box).abs().max() < 1.5, f"{record.name}: {box} beside {record.box}"
        checked += 1
    assert checked > 10


def test_the_stated_viewpoint_is_that_of_the_pose(folder, records):
    entries = json.loads((folder / "pix3d.json").read_text())
    for entry, record in zip(entries, records, strict=True):
        off = pix3d.disagreement(
            record.cam_from_obj[None],
            torch.tensor([entry["cam_position"]], dtype=torch.float64),
            torch.tensor([entry["inplane_rotation"]], dtype=torch.float64),
        )
        assert off.max() < 1e-6
        eye = record.cam_from_obj.inverse()[:3, 3]  # the front of the object is -Y
        if record.angles[0].cos() > 0.2 and record.angles[1].abs() < 0.8:
            assert eye[1] < 0


def test_cameras_and_flags_are_as_asked_for(models):
    views, rng = pix3d_folder.ViewRanges(), np.random.default_rng(0)
    angles = torch.stack([pix3d_folder.random_angles(views, rng) for _ in range(4000)]).rad2deg()
    front = (torch.remainder(angles[:, 0] + 180, 360) - 180).abs()
    assert 0.59 < (front < 60).float().mean() < 0.65  # 0.65 x 0.77 + 0.35 / 3
    assert 0.03 < (front > 150).float().mean() < 0.09  # 0.35 / 6 and few of the others
    assert angles[:, 1].min() >= -5
    assert angles[:, 1].max() <= 50
    assert 17 < angles[:, 1].mean() < 21
    assert 3.7 < angles[:, 2].std() < 4.3
    model = models["chair"][0]
    K = torch.tensor([[120.0, 0, 63.5], [0, 120.0, 47.5], [0, 0, 1]])
    for truncated in (0.0, 1.0):
        asked = replace(views, truncated=truncated)
        for _ in range(20):
            wanted = pix3d_folder.random_angles(asked, rng)
            pose = pix3d_folder.place(model, wanted, K, SIZE, asked, rng)
            assert torch.allclose(pix3d.angles_of(pose), viewpoints.wrapped(wanted), atol=1e-6)
            seen = project(se3.transform(pose, model.vertices.double()), K.double()) + 0.5
            limits = torch.tensor([SIZE[1], SIZE[0]])
            inside = bool(((seen >= 0) & (seen <= limits)).all())
            assert inside == (truncated == 0)
            if inside:
                share = ((seen.amax(0) - seen.amin(0)) / limits).max()
                assert 0.4 < share < 0.97


def test_flags_say_what_is_seen(models):
    views = replace(pix3d_folder.ViewRanges(), occluders=1.0, truncated=0.0)
    kinds = set()
    for i in range(25):
        picture = pix3d_folder.draw(models["bed"][0], SIZE, [], views, np.random.default_rng(i))
        entry = picture.entry
        assert not (entry["occluded"] and entry["slightly_occluded"])
        pose = pix3d.pose_from_pix3d(entry["rot_mat"], entry["trans_mat"])
        f = entry["focal_length"] * SIZE[1] / pix3d.SENSOR_WIDTH
        K = torch.tensor([[f, 0, (SIZE[1] - 1) / 2], [0, f, (SIZE[0] - 1) / 2], [0, 0, 1]])
        whole = render_masks([models["bed"][0]], pose[None].float(), K, SIZE).masks_full[0]
        share = picture.mask.sum() / float(whole.sum())
        assert entry["occluded"] == (share < pix3d_folder.HEAVY)
        assert entry["slightly_occluded"] == (pix3d_folder.HEAVY <= share < pix3d_folder.SLIGHT)
        kinds.add((entry["occluded"], entry["slightly_occluded"]))
    assert len(kinds) == 3


def test_a_killed_run_goes_on_and_gives_the_same_files(models, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pix3d_folder, "_CHUNK", 7)
    draw, made = pix3d_folder.draw, []

    def dies(*args):
        if len(made) == 17:
            raise KeyboardInterrupt
        made.append(1)
        return draw(*args)

    monkeypatch.setattr(pix3d_folder, "draw", dies)
    with pytest.raises(KeyboardInterrupt):
        pix3d_folder.write_pix3d(tmp_path, models, images=12, size=SIZE, seed=3, workers=0)
    assert len(json.loads((tmp_path / "pix3d.json").read_text())) == 14
    assert len(pix3d.read(tmp_path)) == 14  # what is there can be used
    made.clear()
    monkeypatch.setattr(pix3d_folder, "draw", lambda *args: (made.append(1), draw(*args))[1])
    pix3d_folder.write_pix3d(tmp_path, models, images=12, size=SIZE, seed=3, workers=0)
    assert len(made) == 36 - 14
    assert _files(tmp_path) == _files(folder)


def test_shards_give_the_same_files(models, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pix3d_folder, "_CHUNK", 20)
    for index in (3, 1, 2):
        pix3d_folder.write_pix3d(tmp_path, models, images=12, size=SIZE, seed=3, workers=0, shard=Shard(index, 3))
        assert not (tmp_path / "pix3d.json").exists()
    pix3d_folder.write_pix3d(tmp_path, models, images=12, size=SIZE, seed=3, workers=0, shard=MERGE)
    assert _files(tmp_path) == _files(folder)


def test_workers_do_not_change_the_pictures_and_a_set_can_grow(models, folder, tmp_path):
    for images in (1, 2):
        pix3d_folder.write_pix3d(tmp_path, models, images=images, size=SIZE, seed=3, workers=2)
    written, all_files = _files(tmp_path), _files(folder)
    pictures = [name for name in written if name.endswith((".jpg", ".png"))]
    assert len(pictures) == 12
    assert all(written[name] == all_files[name] for name in pictures)


def test_pictures_of_two_kinds_are_not_mixed(models, folder, tmp_path):
    with pytest.raises(ValueError, match="started with seed 3, now it is 4"):
        pix3d_folder.write_pix3d(folder, models, images=12, size=SIZE, seed=4, workers=0)
    with pytest.raises(ValueError, match="started with other shapes"):
        pix3d_folder.write_pix3d(folder, {"bed": models["bed"]}, images=12, size=SIZE, seed=3, workers=0)
    with pytest.raises(ValueError, match="holds 36 pictures, more than the 3"):
        pix3d_folder.write_pix3d(folder, models, images=1, size=SIZE, seed=3, workers=0)
    (tmp_path / "pix3d.json").write_text("[]")
    with pytest.raises(ValueError, match="not made here"):
        pix3d_folder.write_pix3d(tmp_path, models, images=1, size=SIZE, workers=0)


def test_what_cannot_be_written_is_refused(models, tmp_path):
    chair = models["chair"][0]
    with pytest.raises(ValueError, match="at least one shape"):
        pix3d_folder.write_pix3d(tmp_path, {}, images=1)
    with pytest.raises(ValueError, match="name of 2 shapes"):
        pix3d_folder.write_pix3d(tmp_path, {"chair": [chair, chair]}, images=1)
    with pytest.raises(ValueError, match="letters, digits"):
        pix3d_folder.write_pix3d(tmp_path, {"chair": [replace(chair, name="../x")]}, images=1)
    assert not list(tmp_path.iterdir())


def test_furniture_of_every_category():
    shapes = pix3d_folder.furniture_models(2, seed=5)
    assert tuple(shapes) == furniture.CATEGORIES
    assert [m.name for m in shapes["sofa"]] == ["sofa_05", "sofa_06"]
    assert math.isclose(shapes["sofa"][0].diameter, furniture.shape("sofa", 5).diameter)
    with pytest.raises(ValueError, match="at least 1"):
        pix3d_folder.furniture_models(0)
