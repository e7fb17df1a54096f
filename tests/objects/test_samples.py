"""Training samples: repeatable, aligned to the sub-pixel, consistent between drawn and read ones."""

import json
import math
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from monopose import cli, weights
from monopose.datasets.bop import pictures
from monopose.detection import samples as detection_samples
from monopose.geometry import camera as camera_ops
from monopose.geometry import se3
from monopose.objects import coordinates, probabilistic, sources, training
from monopose.objects import samples as object_samples
from monopose.render.raster import rasterize
from monopose.synthesis import bop_folder, scene
from monopose.synthesis import samples as crop_samples
from monopose.types import Camera
from packed import images_of, pack
from shapes import box

CAMERA = Camera(camera_ops.K_from_fov(math.radians(60), (120, 160)), (120, 160))
OBJECTS = [box(obj_id=2, cells=6), box((0.05, 0.07, 0.05), (0.01, 0.0, 0.02), obj_id=5, cells=6)]
SCENE = scene.SceneConfig(objects=(1, 2), distractors=(0, 1), distance=(0.3, 0.6))
SOURCE = crop_samples.Source({m.obj_id: m for m in OBJECTS}, CAMERA, (), SCENE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight written pictures."""
    out = tmp_path_factory.mktemp("written")
    return bop_folder.write_bop(OBJECTS, out, images=8, camera=CAMERA, scene=SCENE, workers=0, seed=1)


def crops(folder, kind, greyed_share=0.3, seed=0, **more):
    if kind == "drawn":
        return object_samples.CropSamples(SOURCE, 64, 32, 1.5, greyed_share, seed=seed, **more)
    return object_samples.BopCropSamples(SOURCE.models, folder / "train", 64, 32, 1.5, greyed_share, seed=seed, **more)


def scenes(folder, kind, seed=0):
    if kind == "drawn":
        return detection_samples.SceneSamples(SOURCE, (96, 128), seed=seed)
    return detection_samples.BopSceneSamples(SOURCE.models, folder / "train", (96, 128), 100, seed=seed)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", ["drawn", "read"])
@pytest.mark.parametrize("make", [crops, scenes])
def test_seed_and_index_fix_a_sample(folder, kind, make):
    one, again, other = make(folder, kind), make(folder, kind), make(folder, kind, seed=1)
    for i in range(4):
        assert equal(one[i], again[i])
    images = [make_[i]["image"] for make_ in (one, other) for i in range(4)]
    assert len({x.numpy().tobytes() for x in images}) == 8


@pytest.mark.parametrize("kind", ["drawn", "read"])
def test_every_coordinate_projects_onto_its_own_pixel(folder, kind):
    samples = crops(folder, kind)
    grid = camera_ops.pixel_grid((32, 32))
    for i in range(16):
        s = samples[i]
        assert s["image"].shape == (3, 64, 64)
        assert s["coordinates"].shape == (3, 32, 32)
        assert 0 <= float(s["image"].min()) <= float(s["image"].max()) <= 1
        full = s["mask_full"]
        assert full.sum() > 20
        assert not (s["mask_visible"] & ~full).any()
        assert (s["coordinates"][:, ~full] == 0).all()
        K = camera_ops.crop_resize_K(s["K"], torch.tensor([0.0, 0.0, 64.0, 64.0]), (32, 32))
        points = se3.transform(s["cam_from_obj"], s["coordinates"][:, full].T)
        assert (camera_ops.project(points.double(), K.double()) - grid[full]).abs().max() < 1e-3
        low, high = SOURCE.models[int(s["label"])].bounds
        xyz = s["coordinates"][:, full].T
        assert ((xyz > low - 1e-6) & (xyz < high + 1e-6)).all()


@pytest.mark.parametrize("kind", ["drawn", "read"])
def test_pictures_and_coordinates_lie_on_each_other(folder, kind):
    """The colour of the boxes tells the place: it fits the coordinates best where it is, not a pixel beside."""
    samples = crops(folder, kind, greyed_share=0.0)
    shifts = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    wrong = np.zeros(len(shifts))
    for i in range(24):
        s = samples[i]
        picture = torch.nn.functional.avg_pool2d(s["image"], 2)
        low, high = SOURCE.models[int(s["label"])].bounds
        colour = (s["coordinates"].permute(1, 2, 0) - low) / (high - low)
        mask = s["mask_visible"]
        if mask.sum() < 60:
            continue
        for n, (dy, dx) in enumerate(shifts):
            moved = picture.roll((dy, dx), (1, 2))
            x = colour[mask].double()
            A = torch.cat([x, torch.ones(len(x), 1)], 1)
            y = moved[:, mask].T.double()
            rest = y - A @ torch.linalg.lstsq(A, y).solution  # light and camera are linear in the colour, roughly
            wrong[n] += float(rest.square().sum() / (y - y.mean(0)).square().sum().clamp_min(1e-9))
    assert wrong.argmin() == 0
    # the best place between the pixels, by a parabola: within a quarter of a pixel
    for a, b in ((1, 2), (3, 4)):
        best = 0.5 * (wrong[b] - wrong[a]) / (wrong[a] + wrong[b] - 2 * wrong[0])
        assert abs(best) < 0.25


def test_greyed_crops_are_grey_outside(folder):
    for kind in ("drawn", "read"):
        greyed, plain = crops(folder, kind, greyed_share=1.0), crops(folder, kind, greyed_share=0.0)
        share, kept = [], []
        for i in range(12):
            s = greyed[i]
            grey = ((s["image"] * 255).round() == 128).all(0)
            visible = torch.nn.functional.interpolate(s["mask_visible"][None, None].float(), scale_factor=2)[0, 0] > 0
            share.append(float(grey[~visible].float().mean()))
            kept.append(1 - float(grey[visible].float().mean()))
        assert np.mean(share) > 0.6
        assert np.mean(kept) > 0.8
        assert np.mean([float(((plain[i]["image"] * 255).round() == 128).all(0).float().mean()) for i in range(12)]) < 0.35


def test_grey_out_in_closed_form():
    picture = np.full((64, 64, 3), 200, np.uint8)
    visible = np.zeros((64, 64), bool)
    visible[20:40, 24:44] = True
    reached = np.zeros((64, 64), bool)
    reached[16:44, 20:48] = True  # the mask and at most 64 / 16 - 1 pixels around
    untouched = 0
    for seed in range(40):
        out = crop_samples.grey_out(picture, visible, np.random.default_rng(seed))
        assert set(np.unique(out)) <= {128, 200}
        grey = (out == 128).all(-1)
        untouched += not grey[visible].any() and grey[~reached].all()
    assert untouched >= 5  # no blots: exactly the mask and its margin
    assert untouched < 40
    assert (picture == 200).all()


def test_grey_border_leaves_half_of_the_object():
    for seed in range(30):
        picture, visible = np.full((64, 64, 3), 200, np.uint8), np.zeros((64, 64), bool)
        visible[:, 5:12] = True
        crop_samples.grey_border(picture, visible, np.random.default_rng(seed))
        grey = (picture == 128).all(-1)
        assert visible.sum() > 0.5 * 64 * 7
        assert not (grey & visible).any()
        assert grey[0].all() or grey[-1].all() or grey[:, 0].all() or grey[:, -1].all() or not grey.any()


def test_crops_that_leave_a_written_photo_are_grey_there(tmp_path):
    """What prediction does beyond the border of a photo is what training shows."""
    from monopose.datasets.bop import writing
    from monopose.types import Frame, Instances

    model = OBJECTS[0]
    pose = se3.from_rt(torch.eye(3), torch.tensor([-0.16, 0.0, 0.4]))  # at the left border
    full = rasterize(se3.transform(pose, model.vertices)[None], model.faces, CAMERA.K, (160, 160)).face[0] >= 0
    mask = full[:120]
    instances = Instances(torch.tensor([2]), pose[None], masks=mask[None], visibility=torch.tensor([1.0]))
    frame = Frame(torch.full((3, 120, 160), 0.9), CAMERA, None, instances)
    writing.append_frames(tmp_path / "train/000000", [frame], [mask[None]])
    samples = object_samples.BopCropSamples({2: model}, tmp_path / "train", 64, 32, greyed_share=0.0)
    seen = 0
    for i in range(6):
        image = samples[i]["image"]
        K = samples[i]["K"]
        left = float(K[0, 2] - CAMERA.K[0, 2] * K[0, 0] / CAMERA.K[0, 0])  # where the photo's first column lies
        beyond = image[:, :, : max(int(left) - 3, 0)]
        if beyond.numel():
            seen += 1
            rest = image[:, 20:40, 45:]
            assert abs(float(beyond.mean()) - 0.5) < abs(float(rest.mean()) - 0.5) + 0.3
            assert float(beyond.mean()) > 0.1  # grey as the light allows, not black
    assert seen >= 3


def test_a_neighbour_is_put_before_the_object_now_and_then():
    """Two boxes side by side: in two of five layouts the second one comes before the first and hides some of it."""
    camera = Camera(camera_ops.K_from_fov(1.0, (96, 128)), (96, 128))
    things = [box((0.1, 0.1, 0.1)), box((0.06, 0.06, 0.06), obj_id=2)]
    beside = torch.eye(4).repeat(2, 1, 1)
    beside[:, :3, 3] = torch.tensor([[0, 0, 0.6], [0.2, 0, 0.6]])
    layout, rng = scene.Layout(things, beside), np.random.default_rng(0)
    drawn = [crop_samples.occluded(layout, rng) for _ in range(300)]
    moved = [d for d in drawn if not torch.equal(d.cam_from_obj, beside)]
    assert 0.3 < len(moved) / len(drawn) < 0.5
    hidden, low = [], []
    for d in moved:
        assert torch.equal(d.cam_from_obj[0], beside[0])
        assert torch.equal(d.cam_from_obj[1, :3, :3], beside[1, :3, :3])
        assert 0.3 < float(d.cam_from_obj[1, 2, 3]) < 0.58
        faces = [render(m, pose[None], camera)[0] for m, pose in zip(d.models, d.cam_from_obj)]
        hidden.append(float((faces[0] & faces[1]).sum() / faces[0].sum()))
        low.append(float(d.cam_from_obj[1, 1, 3]) > 0)
    assert 0.1 < np.mean(hidden) < 0.4
    assert np.mean(np.array(hidden) > 0.02) > 0.7
    assert np.mean(low) > 0.6  # below the middle, as a rule
    alone = scene.Layout(things[:1], beside[:1])
    assert all(crop_samples.occluded(alone, rng) is alone for _ in range(20))


def render(model, poses, camera):
    """Silhouettes, (B, H, W), bool."""
    points = se3.transform(poses, model.vertices)
    return rasterize(points, model.faces, camera.K, camera.size).face >= 0


def test_boxes_contain_what_is_visible(folder):
    for kind in ("drawn", "read"):
        samples, count = scenes(folder, kind), 0
        for i in range(8):
            s = samples[i]
            n = len(s["labels"])
            assert s["image"].shape == (3, 96, 128)
            assert s["boxes"].shape == (n, 4)
            assert s["masks"].shape == (n, 96, 128)
            assert s["masks"].dtype == torch.bool
            assert s["visibility"].shape == (n,)
            assert ((s["visibility"] > 0) & (s["visibility"] <= 1)).all()
            assert set(s["labels"].tolist()) <= {2, 5}
            for mask, (x0, y0, x1, y1) in zip(s["masks"], s["boxes"].tolist(), strict=True):
                v, u = mask.nonzero().T
                slack = 1.0 if kind == "drawn" else 1.5  # read boxes are whole pixels of the larger photo
                assert x0 - slack < int(u.min())
                assert int(u.max()) + 1 < x1 + slack
                assert y0 - slack < int(v.min())
                assert int(v.max()) + 1 < y1 + slack
                count += 1
            assert (s["masks"].sum(0) <= 1).all()  # a pixel shows one object
        assert count > 4


def test_scenes_without_known_objects_are_empty_not_broken():
    far = replace(SCENE, objects=(0, 0), distractors=(1, 1))
    s = detection_samples.SceneSamples(replace(SOURCE, scene=far), (96, 128))[0]
    assert s["boxes"].shape == (0, 4)
    assert s["masks"].shape == (0, 96, 128)
    assert s["labels"].dtype == torch.int64
    batch = detection_samples.collate_scenes([s, detection_samples.SceneSamples(SOURCE, (96, 128))[0]])
    assert batch["image"].shape == (2, 3, 96, 128)
    assert len(batch["boxes"][0]) == 0


def test_crops_of_all_objects_stack_into_batches(folder):
    for kind in ("drawn", "read"):
        samples = crops(folder, kind)
        batch = torch.utils.data.default_collate([samples[i] for i in range(12)])
        assert batch["image"].shape == (12, 3, 64, 64)
        assert set(batch["label"].tolist()) == {2, 5}
        assert batch["mask_full"].dtype == torch.bool


def test_the_crop_is_square_around_the_box_within_its_jitter():
    rng = np.random.default_rng(0)
    given = torch.tensor([10.0, 20.0, 50.0, 40.0])
    squares = torch.stack([crop_samples.jittered_square(given, 1.5, rng) for _ in range(300)])
    sides = squares[:, 2:] - squares[:, :2]
    torch.testing.assert_close(sides[:, 0], sides[:, 1])
    assert sides.min() >= 60 * math.exp(-0.2) - 1e-3
    assert sides.max() <= 60 * math.exp(0.2) + 1e-3
    off = (squares[:, :2] + squares[:, 2:]) / 2 - torch.tensor([30.0, 30.0])
    assert off.abs().max() <= 0.24 * 40 + 1e-3
    assert off.mean(0).abs().max() < 0.5


def test_the_amodal_box_reaches_beyond_the_photo():
    model = box((0.1, 0.1, 0.1))
    pose = se3.from_rt(torch.eye(3), torch.tensor([0.3, 0.0, 0.55]))
    K = torch.tensor([[100.0, 0.0, 50.0], [0.0, 100.0, 50.0], [0.0, 0.0, 1.0]])
    # nearest side at z = 0.5: x from 0.25 to 0.35; the farther side's left edge at 0.25 / 0.6
    expected = torch.tensor([50 + 25 / 0.6 + 0.5, 50 - 10 + 0.5, 50 + 70 + 0.5, 50 + 10 + 0.5])
    torch.testing.assert_close(crop_samples.amodal_box(model, pose, K), expected)


def test_empty_splits_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"shows no known object \(\[9\]\)"):
        object_samples.BopCropSamples({9: box(obj_id=9)}, folder / "train", 64, 32)
    with pytest.raises(FileNotFoundError, match="no split folder"):
        detection_samples.BopSceneSamples(SOURCE.models, tmp_path / "nothing", (96, 128), 10)


@pytest.mark.parametrize("kind", ["drawn", "read"])
def test_boxes_are_as_wrong_as_asked(folder, kind):
    """Without errors the crop is the square around the object's box; with large ones it lies far beside it now and then."""

    def misses(**wrong):
        samples, off = crops(folder, kind, **wrong), []
        for i in range(24):
            s = samples[i]
            model = SOURCE.models[int(s["label"])]
            square = crop_samples.jittered_square(
                crop_samples.amodal_box(model, s["cam_from_obj"], CAMERA.K), 1.5, np.random.default_rng(0), 0.0, 0.0
            )
            off.append(((s["box"] - square).abs().max() / (square[2] - square[0])).item())
        return max(off)

    assert misses(shift=0.0, zoom=0.0) < 1e-5
    assert 0.05 < misses() < 0.4
    assert misses(shift=0.5, zoom=0.6) > 0.4


def test_networks_are_configured_with_the_usual_errors():
    for method in (coordinates, probabilistic):
        config = method.Config()
        assert (config.shift, config.zoom) == (crop_samples.SHIFT, crop_samples.ZOOM)
    for wrong in ({"shift": -0.1}, {"zoom": -0.1}):
        with pytest.raises(ValueError, match="must be 0 or more"):
            object_samples.CropSamples(SOURCE, 64, 32, **wrong)


def test_colours_change_as_much_as_asked():
    """Stronger changes are farther from none; everything but the picture's colours is the same."""
    plain, usual, strong = (
        object_samples.CropSamples(replace(SOURCE, scene=replace(SCENE, colours=c)), 64, 32, seed=4, greyed_share=0.0)
        for c in (0.0, 1.0, 3.0)
    )
    apart = [torch.stack([(s[i]["image"] - plain[i]["image"]).abs().mean() for i in range(12)]) for s in (usual, strong)]
    assert apart[0].mean() > 0.02
    assert apart[1].mean() > 1.5 * apart[0].mean()
    for key in ("coordinates", "cam_from_obj", "box", "mask_full"):
        assert torch.equal(plain[0][key], strong[0][key])


# -------------------------------------------------------------------------------------------------- pictures from the disk


def without_masks(folder, tmp_path):
    copy = tmp_path / "bare"
    shutil.copytree(folder, copy)
    for masks in copy.glob("train/*/mask_visib"):
        shutil.rmtree(masks)
    return copy


def test_bytes_are_cut_as_pictures_are():
    """Enlarged, as it is, and shrunk by averages; beyond the border the outside."""
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), np.uint8), (0, 0), 4)
    for square in ([20.3, 11.7, 60.3, 51.7], [5.5, 2.25, 85.5, 82.25], [-10.4, 30.6, 40.0, 81.0]):
        corners = torch.tensor(square)
        mine = object_samples.cut(smooth, corners, 32, 128)
        image = torch.from_numpy(smooth.transpose(2, 0, 1)).float() / 255 - 128 / 255
        truth = camera_ops.crop_resize(image, corners[None], (32, 32))[0].permute(1, 2, 0).numpy() * 255 + 128
        assert np.abs(mine - truth).mean() < 2
    assert (object_samples.cut(smooth, torch.tensor([200.0, 0.0, 220.0, 20.0]), 8, 7) == 7).all()


def test_missing_masks_are_rendered(folder, tmp_path):
    bare = without_masks(folder, tmp_path)
    with_files, rendered = (crops(f, "read", greyed_share=0.0) for f in (folder, bare))
    for i in range(12):
        a, b = with_files[i], rendered[i]
        assert torch.equal(a["image"], b["image"])
        differ = (a["mask_visible"] ^ b["mask_visible"]).sum()
        assert differ <= 0.15 * a["mask_full"].sum() + 4  # distractors without a CAD model hide nothing here
    a, b = scenes(folder, "read")[0], scenes(bare, "read")[0]
    assert torch.equal(a["labels"], b["labels"])
    torch.testing.assert_close(a["boxes"], b["boxes"])
    assert ((a["masks"] & b["masks"]).sum() / (a["masks"] | b["masks"]).sum()) > 0.8


def test_read_objects_get_other_backgrounds_and_stay_themselves(folder):
    red = [np.full((120, 160, 3), (255, 0, 0), np.uint8)]
    plain, replaced = (crops(folder, "read", 0.0, photos=photos) for photos in ((), red))
    changed = 0
    for i in range(16):
        outside, inside = ~plain[i]["mask_full"], replaced[i]["mask_visible"]
        red_before, red_after = ((x[0] - x[1:].mean(0))[::2, ::2] for x in (plain[i]["image"], replaced[i]["image"]))
        if red_after[outside].mean() > 0.5 > red_before[outside].mean():
            changed += 1
            assert red_after[inside].mean() < red_after[outside].mean() - 0.1
    assert 4 <= changed <= 13  # half of 16
    whole = detection_samples.BopSceneSamples(SOURCE.models, folder / "train", (96, 128), 9, photos=red)
    assert 1 <= sum(bool((p["image"][0] - p["image"][1]).mean() > 0.3) for p in (whole[i] for i in range(8))) <= 7


def test_objects_without_a_cad_model_are_passed_over(folder):
    samples = object_samples.BopCropSamples({5: SOURCE.models[5]}, folder / "train", 64, 32)
    assert {int(samples[i]["label"]) for i in range(8)} == {5}
    found = detection_samples.BopSceneSamples({5: SOURCE.models[5]}, folder / "train", (96, 128), 9)
    assert {int(k) for i in range(6) for k in found[i]["labels"]} == {5}


def test_lists_choose_the_pictures(folder, tmp_path):
    listed = tmp_path / "train.txt"
    scene_folder = next((folder / "train").iterdir())
    listed.write_text(f"{scene_folder.name}/000003\n{scene_folder.name}/5.png\n")
    found = pictures.index(folder / "train", SOURCE.models, listed)
    assert {p.im_id for p in found} <= {3, 5}
    listed.write_text("3\n5\n")
    assert [p.im_id for p in pictures.index(scene_folder, SOURCE.models, listed)] == [p.im_id for p in found]
    listed.write_text("3\n77\n")
    with pytest.raises(ValueError, match="picture 77 and 0 more are not in"):
        pictures.index(scene_folder, SOURCE.models, listed)
    listed.write_text("none\n")
    with pytest.raises(ValueError, match="line 1: expected SCENE/IMAGE or IMAGE, got 'none'"):
        pictures.index(scene_folder, SOURCE.models, listed)


def test_samples_in_a_row_share_a_picture_and_objects_come_equally_often(folder, monkeypatch):
    read, decoded = crops(folder, "read", 0.0), []
    pixels = pictures.Picture.pixels
    monkeypatch.setattr(pictures.Picture, "pixels", lambda self: decoded.append(self.im_id) or pixels(self))
    n = object_samples.CROPS_OF_ONE
    _ = [read[i] for i in range(2 * n)]
    assert len(decoded) <= 2
    drawn = [read.chosen(i, np.random.default_rng(i)) for i in range(600 * n)]
    assert all(len({place for place, _ in drawn[i : i + n]}) == 1 for i in range(0, len(drawn), n))
    counts = [drawn.count(tuple(row)) / len(drawn) for row in read.rows.tolist()]
    np.testing.assert_allclose(counts, 1 / len(read.rows), atol=0.03)


def test_mixtures_draw_each_part_as_often_as_it_weighs():
    class Part(torch.utils.data.Dataset):
        def __init__(self, name):
            self.name = name

        def __len__(self):
            return 10

        def __getitem__(self, i):
            return {"name": self.name, "i": i}

    mixed = object_samples.MixedSamples([Part(0), Part(1), Part(2)], [1, 3, 0.5], seed=2)
    drawn = [mixed[i] for i in range(2000)]
    shares = np.bincount([d["name"] for d in drawn]) / 2000
    np.testing.assert_allclose(shares, np.array([1, 3, 0.5]) / 4.5, atol=0.04)
    assert [d["i"] for d in drawn] == list(range(2000))
    assert mixed[7] == mixed[7]


def test_sources_are_read_from_words(folder, tmp_path):
    train, listed = folder / "train", tmp_path / "some.txt"
    listed.write_text("1\n")
    found = sources.parse([f"{folder}:1", f"{train}:3", f"{train}@{listed}:0.5"])
    assert [(s.folder, s.weight, s.read) for s in found] == [(folder, 1, False), (train, 3, True), (train, 0.5, True)]
    assert found[2].listed == listed
    assert sources.models_root(found) == folder
    pack(tmp_path / "packed", images_of(train))
    (packed,) = sources.parse([tmp_path / "packed"])
    assert packed.read
    assert sources.models_root(found[1:]) == folder.resolve()
    assert sources.parse([folder], "train") == sources.parse([train])
    for words, message in (
        ([f"{folder}:0"], "must be a number above 0, got '0'"),
        ([tmp_path / "nothing"], "no folder .*nothing; --data takes a BOP folder"),
        ([f"{folder}@{listed}"], "its CAD models are drawn"),
        ([], "no data"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            sources.parse(words)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    """The split in tars, beside the models; two of its eight pictures are broken."""
    root = tmp_path_factory.mktemp("packed")
    files = images_of(folder / "train")
    broken = [name for name in files if name.endswith(".rgb.png")][2:4]
    pack(root / "train", files | {name: files[name][:90] for name in broken})
    (root / "models").symlink_to(folder / "models")
    (root / "camera.json").symlink_to(folder / "camera.json")
    return root


def test_samples_are_the_same_whatever_the_number_of_workers(packed, tmp_path):
    """A mixture of what is drawn and what is read from tars, two of whose pictures are broken."""
    listing = tmp_path / "unreadable.txt"
    read = object_samples.BopCropSamples(SOURCE.models, packed / "train", 48, 24, length=12)
    whole = object_samples.ReadableSamples(read, listing)
    mixed = object_samples.MixedSamples([object_samples.CropSamples(SOURCE, 48, 24, length=12), whole], [1, 3])
    plain, *others = (
        [torch.cat([batch[key].flatten() for key in ("image", "label", "cam_from_obj")]) for batch in loader]
        for loader in (DataLoader(mixed, 4, num_workers=n) for n in (0, 1, 2))
    )
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    assert len(plain) == 3
    assert {line.split(" is broken")[0][-7:] for line in listing.read_text().splitlines()} <= {"002.rgb", "003.rgb"}
    for i in range(40):
        whole[i]
    assert len(listing.read_text().splitlines()) == 2


def test_a_run_learns_from_drawn_and_read_pictures_at_once(folder, packed, tmp_path):
    few = training.TrainConfig(steps=2, batch_size=2, workers=0)
    config = coordinates.Config((2, 5), pretrained=False, frozen_levels=0, input_size=64, output_size=32, widths=(8, 8, 8, 8))
    out = training.train(
        "coordinates", [f"{folder}:1", f"{folder / 'train'}:3"], tmp_path / "run", method_config=config, config=few,
        init="none", scene=SCENE, progress_bar=False,
    )  # fmt: skip
    notes = weights.read(out).notes
    assert [weight for _, weight in json.loads(notes["data"])] == [1, 3]
    assert not list((tmp_path / "run").glob("*.unreadable.txt"))
    how = {"method_config": config, "config": replace(few, steps=8), "init": "none", "progress_bar": False}
    with pytest.warns(UserWarning, match=r"2 pictures cannot be read and were left out; listed in .*coordinates.unreadable"):
        training.train("coordinates", packed / "train", tmp_path / "packed", **how)
    with pytest.raises(ValueError, match=r"shard-00000.\.tar:.*rgb is broken or cut off"):
        training.train("coordinates", packed / "train", tmp_path / "strict", strict=True, **how)


def test_what_pictures_cannot_heed_is_refused(folder):
    for words in (["--upright"], ["--distance", "0.3", "0.6"], ["--render", "device"]):
        with pytest.raises(cli.UsageError, match="belongs to objects that are drawn"):
            cli.parse(["train", "coordinates", "--data", str(folder), "--split", "train", *words])
        with pytest.raises(cli.UsageError, match="belongs to objects that are drawn"):
            cli.parse(["train", "coordinates", "--data", str(folder / "train"), *words])
    cli.parse(["train", "coordinates", "--data", str(folder), f"{folder / 'train'}:2", "--upright"])
