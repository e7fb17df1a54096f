"""Crops with masks, boundaries and normals: flips and turns against renderings at the changed angles, caches, corruption."""

import itertools
import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from monopose.datasets import pix3d
from monopose.geometry import se3, viewpoints
from monopose.render.scene import render_scene
from monopose.viewpoint import samples as vc
from shapes import box


def chair():
    """A seat with a back at +Y, its own mirror image in X, painted so that front and back differ."""
    parts = [
        box((0.4, 0.4, 0.08), (0, 0, -0.05)),
        box((0.4, 0.06, 0.45), (0, 0.18, 0.2)),
        box((0.1, 0.1, 0.3), (0, -0.05, -0.2)),
    ]
    starts = np.cumsum([0] + [len(p.vertices) for p in parts])
    vertices = torch.cat([p.vertices for p in parts])
    return replace(
        parts[0], vertices=vertices, normals=torch.cat([p.normals for p in parts]), diameter=0.9,
        faces=torch.cat([p.faces + int(n) for p, n in zip(parts, starts)]),
        colors=(torch.stack([vertices[:, 0].abs(), vertices[:, 1], vertices[:, 2]], 1) + 0.5).clamp(0, 1),
    )  # fmt: skip


def camera(side, f=1.8):
    return torch.tensor([[f * side, 0, (side - 1) / 2], [0, f * side, (side - 1) / 2], [0, 0, 1.0]])


def looking(angles, distance=2.5):
    return se3.from_rt(viewpoints.rotation_of(torch.as_tensor(angles, dtype=torch.float32)), torch.tensor([0, 0, distance]))


def rendered(angles, side=96, extra=0):
    """A crop of 8 channels drawn at the given angles, and `extra` pixels around it."""
    K = camera(side)
    K[:2, 2] += extra
    size = (side + 2 * extra, side + 2 * extra)
    model, pose = chair(), looking(angles)
    scene = render_scene([model], pose[None], K, size, background=torch.full((3, *size), 0.5))
    edges = vc.boundaries(scene.image, scene.masks_visible[0])
    return vc._stacked(scene.image, scene.masks_visible[0].float(), edges, vc.render_normals(model, pose, K, size))


def agree(a, b, share=0.01, edges=True):
    """Two crops are equal to a pixel: every value lies in the range of the other's 3 x 3 neighbours, but for few pixels.

    Edges of a picture are found on its own grid and scaled by its own strongest: those of a turned one are others.
    """
    high = torch.nn.functional.max_pool2d(b, 3, 1, 1)
    low = -torch.nn.functional.max_pool2d(-b, 3, 1, 1)
    off = (torch.maximum(a - high, low - a) > 0.1).float().sum((1, 2)) / b[vc.MASK].sum()
    off[vc.BOUNDARIES] *= 0.1 if edges else 0.0
    assert off.max() < share, f"shares of the pixels differ by channel: {off.tolist()}"


azimuths, elevations, turns = st.floats(0, 6.28), st.floats(-0.2, 1.2), st.floats(-0.3, 0.3)


@settings(max_examples=8)
@given(azimuths, elevations, turns)
def test_a_flipped_crop_is_the_crop_at_the_mirrored_angles(a, e, i):
    angles = torch.tensor([a, e, i])
    here = vc.moved(rendered(angles), 96, flip=True)
    there = rendered(viewpoints.mirrored(angles))
    agree(here, there)


@settings(max_examples=8)
@given(azimuths, elevations, turns, st.floats(-0.6, 0.6), st.booleans())
def test_a_turned_crop_is_the_crop_at_the_turned_angles(a, e, i, clockwise, flip):
    angles = torch.tensor([a, e, i])
    here = vc.moved(rendered(angles, extra=24), 96, flip, clockwise)
    there = rendered(viewpoints.turned(viewpoints.mirrored(angles) if flip else angles, clockwise))
    agree(here, there, edges=False)


def test_the_wrong_turn_does_not_agree():
    angles = torch.tensor([0.6, 0.3, 0.0])
    crop = rendered(angles, extra=24)
    wrong = [
        (vc.moved(crop, 96, clockwise=-0.4), viewpoints.turned(angles, 0.4)),
        (vc.moved(crop, 96, flip=True), angles),
    ]
    for here, labels in wrong:
        with pytest.raises(AssertionError, match="the pixels differ"):
            agree(here, rendered(labels))


def test_normals_stay_normals_when_the_picture_moves():
    crop = vc.moved(rendered([0.6, 0.3, 0.0], extra=24), 96, True, 0.5)
    inside = crop[vc.MASK] > 0.999
    length = ((crop[vc.NORMALS] * 2 - 1).norm(dim=0))[inside]
    assert (length > 0.99).float().mean() > 0.85  # all but those at folds
    torch.testing.assert_close(crop[vc.NORMALS][:, crop[vc.MASK] == 0].mean(1), torch.full((3,), 0.5), atol=1e-3, rtol=0)


def test_zoom_and_shift_pick_a_part():
    crop = torch.rand(8, 40, 40)
    torch.testing.assert_close(vc.moved(crop, 40), crop, atol=1e-5, rtol=0)
    torch.testing.assert_close(vc.moved(crop, 20), crop[:, 10:30, 10:30], atol=1e-5, rtol=0)
    torch.testing.assert_close(vc.moved(crop, 20, shift=(4, -3)), crop[:, 7:27, 14:34], atol=1e-5, rtol=0)
    halves = vc.moved(crop, 20, zoom=2.0)[: vc.MASK]  # reads at the corners between four pixels
    torch.testing.assert_close(halves, torch.nn.functional.avg_pool2d(crop[: vc.MASK], 2), atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------------------- channels


def test_channels_hold_what_is_known_where_it_belongs():
    image = torch.rand(3, 60, 80)
    mask = torch.zeros(60, 80, dtype=torch.bool)
    mask[10:30, 50:90] = True
    normals = torch.zeros(3, 60, 80)
    normals[:, mask] = torch.tensor([0.6, 0.0, -0.8])[:, None]
    square = torch.tensor([50.0, 0.0, 90.0, 40.0])  # ten columns beyond the photo
    crop = vc.channels(image, square, 40, mask, normals, scale=1.0)
    assert crop.shape == (8, 40, 40)
    torch.testing.assert_close(crop[vc.RGB][:, :, :30], image[:, :40, 50:80])
    torch.testing.assert_close(crop[vc.MASK][:, :30], mask[:40, 50:80].float())
    torch.testing.assert_close(
        crop[:, :, 30:], vc.PADDING.expand(8, 40, 10) + (crop[:, :, 30:] - vc.PADDING) * torch.eye(8)[4][:, None, None]
    )
    torch.testing.assert_close(crop[vc.NORMALS][:, 20, 10], torch.tensor([0.8, 0.5, 0.1]))
    unknown = vc.channels(image, square, 40)
    assert float(unknown[vc.MASK].max()) == 0
    torch.testing.assert_close(unknown[vc.NORMALS], torch.full((3, 40, 40), 0.5))
    given_edges = vc.channels(image, square, 40, mask, None, torch.ones(60, 80), scale=1.0)
    torch.testing.assert_close(given_edges[vc.BOUNDARIES], (torch.arange(40) < 30).float().expand(40, 40))


@pytest.mark.parametrize(
    "changes, message",
    [({"image": torch.zeros(60, 80)}, "image must be"), ({"box": torch.tensor([5.0, 5, 5, 9])}, "box must be"),
     ({"mask": torch.ones(3, 3)}, "mask must be"), ({"normals": torch.zeros(60, 80)}, "normals must be")],
)  # fmt: skip
def test_channels_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        vc.channels(**{"image": torch.zeros(3, 60, 80), "box": torch.tensor([5.0, 5, 50, 50]), "side": 32, **changes})


def test_boundaries_are_where_colours_change_and_the_mask_ends():
    image = torch.full((3, 40, 40), 0.2)
    image[:, :, 20:] = 0.9  # one edge, down the middle
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[8:32, 8:32] = True
    edges = vc.boundaries(image, mask)
    assert float(edges.max()) <= 1
    assert float(edges[20, 19:21].min()) > 0.9
    assert float(edges[20, 8]) == 1  # the outline, where the picture is flat
    assert float(edges[20, 12:16].max()) < 0.05
    assert float(edges[3].max()) == 0  # the same edge outside the object
    everywhere = vc.boundaries(image)
    assert float(everywhere[3, 19:21].min()) > 0.9
    assert float(vc.boundaries(torch.full((3, 20, 20), 0.3)).max()) == 0


def test_normals_of_a_rendered_box_face_the_camera():
    model = box((0.4, 0.2, 0.3))
    normals = vc.render_normals(model, looking([0.0, 0.0, 0.0]), camera(48), (48, 48))
    torch.testing.assert_close(normals[:, 24, 24], torch.tensor([0.0, 0.0, -1.0]), atol=1e-5, rtol=0)
    above = vc.render_normals(model, looking([0.0, math.pi / 2, 0.0]), camera(48), (48, 48))
    torch.testing.assert_close(above[:, 24, 24], torch.tensor([0.0, 0.0, -1.0]), atol=1e-5, rtol=0)
    tiny = replace(model, vertices=model.vertices * 1e-4)
    pose = looking([0.7, 0.4, 0.1])
    pose_tiny = pose.clone()
    pose_tiny[:3, 3] *= 1e-4  # the unit of length does not matter
    ours = vc.render_normals(model, pose, camera(48), (48, 48))
    torch.testing.assert_close(vc.render_normals(tiny, pose_tiny, camera(48), (48, 48)), ours, atol=1e-3, rtol=0)


# -------------------------------------------------------------------------------------------------------------- corruption


@pytest.mark.parametrize("kind", ["dilate", "erode", "shift", "holes", "drop"])
def test_more_corruption_is_worse(kind):
    mask = rendered([0.6, 0.3, 0.0])[vc.MASK] > 0.5
    for seed in range(3):
        overlaps = []
        for strength in (0.0, 0.05, 0.1, 0.2, 0.4):
            worse = vc.corrupt(mask, kind, strength, np.random.default_rng(seed))
            assert worse.shape == mask.shape
            assert worse.dtype == torch.bool
            overlaps.append(float((worse & mask).sum() / (worse | mask).sum()))
        assert overlaps[0] == 1
        assert all(b <= a for a, b in itertools.pairwise(overlaps)), overlaps
        assert overlaps[-1] < 0.75
    assert not bool(vc.corrupt(torch.zeros(8, 8, dtype=torch.bool), kind, 0.2, np.random.default_rng(0)).any())


def test_dropping_and_growing_in_closed_form():
    mask = torch.zeros(60, 60, dtype=torch.bool)
    mask[20:40, 20:40] = True
    left = vc.corrupt(mask, "drop", 0.25, np.random.default_rng(0))
    assert int(left.sum()) == 300
    grown = vc.corrupt(mask, "dilate", 0.1, np.random.default_rng(0))  # by two pixels, rounded corners
    assert (int(grown[30].sum()), int(grown[:, 30].sum())) == (24, 24)
    assert int(vc.corrupt(mask, "erode", 0.1, np.random.default_rng(0)).sum()) == 16 * 16
    with pytest.raises(ValueError, match="kind must be dilate"):
        vc.corrupt(mask, "melt", 0.1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="strength must be 0 or more"):
        vc.corrupt(mask, "drop", -0.1, np.random.default_rng(0))


# --------------------------------------------------------------------------------------------------------- Pix3D's photos


def write_obj(path, model):
    """In Pix3D's frame."""
    path.parent.mkdir(parents=True)
    points = model.vertices.double() @ pix3d.MODEL.T
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points.tolist()]
    path.write_text("\n".join(lines + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in model.faces.tolist()]))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six photos of a chair off the middle of the picture, in Pix3D's layout."""
    folder = tmp_path_factory.mktemp("pix3d")
    model, entries = chair(), []
    write_obj(folder / "model/chair/A/model.obj", model)
    height, width, f = 90, 120, 150.0
    K = torch.tensor([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])
    for n in range(6):
        pose = looking([1.1 * n, 0.1 * n, 0.05 * n - 0.1])
        pose[:3, 3] = torch.tensor([0.25 - 0.1 * n, 0.1, 2.4])
        scene = render_scene([model], pose[None], K, (height, width), background=torch.full((3, height, width), 0.3))
        rows, columns = (v for v in scene.masks_visible[0].nonzero().T)
        for kind, picture in (("img", scene.image.permute(1, 2, 0)), ("mask", scene.masks_visible[0].float())):
            path = folder / kind / "chair" / f"{n:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((picture.numpy() * 255).round().astype(np.uint8)).save(path)
        rot, trans = pix3d.pose_to_pix3d(pose.double())
        entries.append({
            "img": f"img/chair/{n:04d}.png", "mask": f"mask/chair/{n:04d}.png", "model": "model/chair/A/model.obj",
            "category": "chair", "img_size": [width, height], "rot_mat": rot.tolist(), "trans_mat": trans.tolist(),
            "focal_length": f * 32 / width, "truncated": False, "occluded": False, "slightly_occluded": False,
            "bbox": [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1],
        })  # fmt: skip
    (folder / "pix3d.json").write_text(json.dumps(entries))
    return folder


def test_crops_of_records_in_order(photos):
    records = pix3d.read(photos)
    crops = vc.PhotoCrops(records, 48)
    assert len(crops) == 6
    for record, sample in zip(records, (crops[i] for i in range(6))):
        assert sample["image"].shape == (8, 48, 48)
        assert int(sample["category"]) == 0
        torch.testing.assert_close(sample["angles"], viewpoints.wrapped(record.angles.float()))
        image, mask = pix3d.read_picture(record)
        whole = vc.render_normals(pix3d.read_model(record), record.cam_from_obj, record.K, record.size)
        expected = vc.channels(image, record.box, 48, mask, whole)
        torch.testing.assert_close(sample["image"][:5], expected[:5], atol=0.5 / 255 + 1e-4, rtol=0)
        inside = expected[vc.MASK] > 0.999
        off = (sample["image"][vc.NORMALS] - expected[vc.NORMALS]).abs().amax(0)[inside] > 0.1
        assert float(off.float().mean()) < 0.1  # at folds, where one is smoothed and the other is not
    with pytest.raises(IndexError):
        crops[6]


def test_augmented_crops_show_the_object_at_their_angles(photos):
    crops = vc.PhotoCrops(pix3d.read(photos), 64, augment=True, length=24, turn_deg=25, seed=3)
    flipped, overlaps = set(), []
    for i in range(24):
        sample = crops[i]
        mask = sample["image"][vc.MASK] > 0.5
        seen = vc.render_normals(chair(), looking(sample["angles"]), camera(64), (64, 64))
        drawn = seen.abs().sum(0) > 0
        a, b = (_fitted(m) for m in (mask, drawn))
        overlaps.append(float((a & b).sum() / (a | b).sum()))
        ours = (sample["image"][vc.NORMALS] * 2 - 1)[:, mask].mean(1)
        theirs = seen[:, drawn].mean(1)
        assert (ours - theirs).norm() < 0.15
        row = crops._row(i, np.random.default_rng(0))
        away = float((sample["angles"][0] - crops.angles[row, 0]).abs())
        flipped.add(away > 0.01 and row != 0)
    assert flipped == {True, False}
    assert min(overlaps) > 0.75  # a turn by 25 degrees moves corners out of the crop
    assert np.mean(overlaps) > 0.9
    again, other = crops[5], vc.PhotoCrops(pix3d.read(photos), 64, augment=True, length=24, turn_deg=25, seed=4)[5]
    torch.testing.assert_close(again["image"], crops[5]["image"])
    assert (again["image"] - other["image"]).abs().max() > 0.1


def _fitted(mask):
    """The mask's box as 32 x 32 pixels."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    part = mask[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    return torch.nn.functional.interpolate(part[None, None].float(), (32, 32), mode="bilinear", antialias=True)[0, 0] > 0.5


def test_shapes_without_mirror_symmetry_are_not_flipped(photos):
    records = pix3d.read(photos)
    crops = vc.PhotoCrops(records, 48, augment=True, length=18, symmetric=())
    for i in range(18):
        row = crops._row(i, np.random.default_rng(0))
        away = viewpoints.wrapped(crops[i]["angles"] - crops.angles[row])
        assert abs(math.sin(float(away[0]))) < 1e-5
    rows = [crops._row(i, np.random.default_rng(0)) for i in range(18)]
    assert [sorted(rows[k : k + 6]) for k in (0, 6, 12)] == [list(range(6))] * 3  # every pass sees every photo
    assert rows[:6] != rows[6:12]
    often = vc.PhotoCrops(records, 48, length=200, weights=[0, 0, 3, 0, 1, 0])
    drawn = [often._row(i, np.random.default_rng(i)) for i in range(200)]
    assert set(drawn) == {2, 4}
    assert 120 < drawn.count(2) < 180


def test_a_cache_is_filled_once_and_a_killed_start_goes_on(photos, tmp_path, monkeypatch):
    records = pix3d.read(photos)
    reads = []
    original = pix3d.read_picture

    def counted(record):
        if len(reads) == 4:
            raise KeyboardInterrupt
        reads.append(record.name)
        return original(record)

    monkeypatch.setattr(pix3d, "read_picture", counted)
    with pytest.raises(KeyboardInterrupt):
        vc.PhotoCrops(records, 48, cache=tmp_path)
    monkeypatch.setattr(pix3d, "read_picture", lambda record: reads.append(record.name) or original(record))
    kept = vc.PhotoCrops(records, 48, cache=tmp_path)
    assert sorted(reads) == sorted(r.name for r in records)  # none was read twice
    vc.PhotoCrops(records, 48, cache=tmp_path)
    assert len(reads) == 6
    monkeypatch.undo()
    np.testing.assert_array_equal(kept.crops, vc.PhotoCrops(records, 48).crops)
    sent = pickle.dumps(kept)
    assert len(sent) < kept.crops.nbytes  # other processes read the file
    again = pickle.loads(sent)
    torch.testing.assert_close(again[3]["image"], kept[3]["image"])
    vc.PhotoCrops(records, 32, cache=tmp_path)
    vc.PhotoCrops(records[:3], 48, cache=tmp_path, normals="none")
    assert len(list(tmp_path.glob("*.bin"))) == 3
    assert not list(tmp_path.glob("*.partial"))


def test_corrupted_masks_take_edges_and_oracle_normals_along(photos):
    records = pix3d.read(photos)
    clean, worse = vc.PhotoCrops(records, 48)[1], vc.PhotoCrops(records, 48, corruption=("drop", 0.5))[1]
    gone = (clean["image"][vc.MASK] > 0.5) & (worse["image"][vc.MASK] < 0.5)
    assert int(gone.sum()) > 100
    assert float((worse["image"][vc.NORMALS][:, gone] - 0.5).abs().max()) == 0
    assert (worse["image"][vc.BOUNDARIES] - clean["image"][vc.BOUNDARIES]).abs().max() > 0.5
    torch.testing.assert_close(worse["image"][vc.RGB], clean["image"][vc.RGB])


def test_normals_from_files_and_from_a_network(photos):
    records = pix3d.read(photos)
    with pytest.raises(FileNotFoundError, match="no picture of normals at"):
        vc.PhotoCrops(records, 48, normals="files")
    for record in records:
        for what, colour in (("normals", (255, 128, 128)), ("boundaries", (255, 255, 255))):
            path = photos / what / f"{record.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*record.size, 3), colour, np.uint8)).save(path)
    sample = vc.PhotoCrops(records, 48, normals="files", edges="files")[2]["image"]
    torch.testing.assert_close(sample[vc.NORMALS][:, 24, 24], torch.tensor([1.0, 0.5, 0.5]), atol=0.01, rtol=0)
    assert float(sample[vc.BOUNDARIES][24, 24]) == 1
    asked = []

    def network(images):
        asked.append(tuple(images.shape))
        return torch.tensor([0.0, -1.0, 0.0])[None, :, None, None].expand_as(images), images.mean(1)

    sample = vc.PhotoCrops(records, 48, normals=network, predictor_name="flat", edges="predicted")[2]["image"]
    assert set(asked) == {(1, 3, 64, 64)}
    torch.testing.assert_close(sample[vc.NORMALS][:, 24, 24], torch.tensor([0.5, 0.0, 0.5]), atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="name the predictor"):
        vc.PhotoCrops(records, 48, normals=network)
    with pytest.raises(ValueError, match="edges must be"):
        vc.PhotoCrops(records, 48, edges="predicted")


def test_records_that_cannot_be(photos):
    records = pix3d.read(photos)
    with pytest.raises(ValueError, match="at least one record"):
        vc.PhotoCrops([], 48)
    with pytest.raises(ValueError, match="records of chair, which is not among the categories bed"):
        vc.PhotoCrops(records, 48, categories=("bed",))
    model = photos / records[0].model
    text = model.read_text()
    model.write_text("nothing here")
    vc._LAST.clear()
    try:
        with pytest.warns(UserWarning, match="1 CAD models cannot be read, their photos have no normals"):
            crops = vc.PhotoCrops(records, 48)
    finally:
        model.write_text(text)
    assert float((crops[0]["image"][vc.NORMALS] - 0.5).abs().max()) < 0.01


# ------------------------------------------------------------------------------------------------------------- CAD models


def test_crops_of_cad_models_show_them_at_their_angles():
    crops = vc.RenderedCrops({"chair": [chair()], "sofa": [box((0.6, 0.3, 0.3))]}, 48, length=30)
    chairs = 0
    for i in range(30):
        sample = crops[i]
        image = sample["image"]
        assert image.shape == (8, 48, 48)
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        if int(sample["category"]) == 1:
            continue
        chairs += 1
        seen = vc.render_normals(chair(), looking(sample["angles"]), camera(48), (48, 48))
        visible = image[vc.MASK] > 0.5
        ours, theirs = (image[vc.NORMALS] * 2 - 1)[:, visible].mean(1), seen[:, seen.abs().sum(0) > 0].mean(1)
        assert (ours - theirs).norm() < 0.35  # perspective differs: the chair is close, or at the photo's side
        assert int(visible.sum()) > 200
    assert chairs > 5
    torch.testing.assert_close(crops[4]["image"], crops[4]["image"])
    assert (crops[4]["image"] - crops[5]["image"]).abs().max() > 0.1
    with pytest.raises(ValueError, match="got none"):
        vc.RenderedCrops({}, 48)
    with pytest.raises(ValueError, match="elevations must be growing"):
        vc.RenderedCrops({"chair": [chair()]}, 48, elevation_deg=(30, 20))
