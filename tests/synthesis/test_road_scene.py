"""Synthetic roads: things stand where their boxes say, and what is measured on the rendering is what can be counted."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from monopose.datasets import kitti, nuscenes
from monopose.datasets.road import ATTRIBUTES, ATTRIBUTES_OF, CLASSES
from monopose.geometry import boxes3d
from monopose.io.shards import MERGE, Shard
from monopose.render.scene import render_masks
from monopose.road import commands
from monopose.road.options import Synth
from monopose.synthesis import road_layout, road_paint, road_scene
from monopose.synthesis.road_layout import RoadConfig, Street
from monopose.synthesis.road_scene import RoadPictures
from monopose.synthesis.shapes import vehicles
from monopose.types import Camera

CONFIG = RoadConfig(size=(96, 320), shapes=2)


@pytest.fixture(scope="module")
def pictures():
    return [RoadPictures(CONFIG, seed=5)[i] for i in range(8)]


def _objects(pictures):
    return [(p, p.frame.objects[k]) for p in pictures for k in range(len(p.frame.objects))]


def test_the_same_seed_gives_the_same_picture_and_others_differ(pictures):
    again = RoadPictures(CONFIG, seed=5)[3]
    assert np.array_equal(again.image, pictures[3].image)
    assert torch.equal(again.frame.objects.cam_from_obj, pictures[3].frame.objects.cam_from_obj)
    assert not np.array_equal(RoadPictures(CONFIG, seed=6)[3].image, pictures[3].image)
    assert np.array_equal(RoadPictures(CONFIG, seed=5, first=2)[1].image, pictures[3].image)


def test_pictures_hold_what_they_say(pictures):
    assert sum(len(p.frame.objects) for p in pictures) > 20
    for p in pictures:
        objects = p.frame.objects
        assert p.image.shape == (96, 320, 3)
        assert p.frame.camera.size == (96, 320)
        assert len(p.variants) == len(p.visibility) == len(objects)
        assert (p.visibility >= CONFIG.least_visible).all()
        assert (p.visibility <= 1 - objects.truncation + 1e-9).all()
        distance = objects.cam_from_obj[:, (0, 2), 3].norm(dim=-1)
        assert (distance > CONFIG.distance[0]).all()
        assert (objects.cam_from_obj[:, 2, 3] < CONFIG.distance[1]).all()


def test_things_are_level_stand_on_the_ground_and_not_in_each_other(pictures):
    for p in pictures:
        objects = p.frame.objects
        pose, lhw = objects.cam_from_obj, objects.sizes
        torch.testing.assert_close(boxes3d.from_yaw(pose[:, :3, 3], boxes3d.yaw_of(pose)), pose)
        below = boxes3d.bottom_from_centre(pose[:, :3, 3], lhw)
        slope = math.tan(math.radians(5 * CONFIG.slope_deg))
        away = below[:, (0, 2)].abs().sum(-1)
        assert (below[:, 1] > CONFIG.height[0] - slope * away).all()
        assert (below[:, 1] < CONFIG.height[1] + slope * away).all()
        rectangles = boxes3d.bev(pose, lhw)
        shared = boxes3d.bev_intersection(rectangles[:, None], rectangles[None])
        assert (shared - torch.diag(shared.diagonal())).max() < 1e-6 if len(objects) else True
        own = rectangles.new_tensor([0.0, -1.0, 2.0, 5.0, 0.0])
        assert (boxes3d.bev_intersection(rectangles, own) < 1e-6).all()


def test_speeds_follow_headings_and_attributes_their_classes(pictures):
    moving = 0
    for _, one in _objects(pictures):
        name, attribute = CLASSES[int(one.labels)], int(one.attributes)
        speed = float(one.velocities.norm())
        along = float((one.velocities[0] * one.cam_from_obj[0, :3, 0]).sum())
        assert along == pytest.approx(speed, abs=1e-9)  # forwards, whichever way it looks
        allowed = ATTRIBUTES_OF[name]
        assert attribute in allowed if allowed else attribute == -1
        if speed > 0:
            moving += 1
            assert ATTRIBUTES[attribute] in ("vehicle.moving", "pedestrian.moving", "cycle.with_rider")
        elif attribute >= 0:
            assert ATTRIBUTES[attribute] not in ("vehicle.moving", "pedestrian.moving")
    assert moving > 5


def test_2d_boxes_hold_the_visible_pixels(pictures):
    """Silhouettes of the shapes, rendered once more alone, lie in the boxes and nearly fill them."""
    checked = 0
    for p, one in _objects(pictures):
        if float(one.truncation) > 0 or float((one.boxes[0, 2:] - one.boxes[0, :2]).min()) < 12:
            continue
        variant = p.variants[[bool(torch.equal(q, one.cam_from_obj[0])) for q in p.frame.objects.cam_from_obj].index(True)]
        category = CLASSES[int(one.labels)]
        model = vehicles.shape(category, list(vehicles.VARIANTS[category]).index(variant))
        scale = (one.sizes[0].float() / (model.bounds[1] - model.bounds[0])).float()
        model = replace(model, vertices=model.vertices * scale)
        mask = render_masks([model], one.cam_from_obj.float(), p.frame.camera.K.float(), CONFIG.size).masks_full[0]
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float64)
        x0, y0, x1, y1 = (seen - one.boxes[0]).tolist()
        assert min(x0, y0) > -1
        assert max(x1, y1) < 1
        assert float((seen[2:] - seen[:2]).prod() / (one.boxes[0, 2:] - one.boxes[0, :2]).prod()) > 0.45
        checked += 1
    assert checked > 5


def test_truncation_is_the_share_beyond_the_edge():
    model = vehicles.shape("barrier", 0)  # concrete: all of one piece
    wide = float(model.bounds[1, 2] - model.bounds[0, 2])
    K = torch.tensor([[200.0, 0, 159.5], [0, 200.0, 47.5], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(K, (96, 320))
    yaw = torch.tensor(-math.pi / 2, dtype=torch.float64)  # its long side across the picture
    edge = 160 / 200 * 20.0  # x of the right edge at 20 m
    for beyond in (-0.6, 0.0, 0.25, 0.5, 1.1):
        x = edge + (beyond - 0.5) * wide
        pose = boxes3d.from_yaw(torch.tensor([x, 0.0, 20.0], dtype=torch.float64), yaw)
        want = min(max(beyond, 0.0), 1.0)
        assert road_scene.truncated(model, pose, camera) == pytest.approx(want, abs=0.06)
    behind = boxes3d.from_yaw(torch.tensor([0.0, 0.0, -9.0], dtype=torch.float64), yaw)
    assert road_scene.truncated(model, behind, camera) == 1.0


def test_places_on_the_street_and_headings_agree():
    K = torch.eye(3, dtype=torch.float64)
    street = Street(K, 1.6, (0.0, 0.0), 0.4, 1.7, 3.5, (1, 2), (0.0, 0.0), (2.0, 2.0), (1.0, math.inf), False)
    s, t = street.along(*(np.array(v) for v in street.place(12.0, -3.0)))
    assert (float(s), float(t)) == pytest.approx((12.0, -3.0))
    model = vehicles.shape("car", 0)
    thing = road_layout.Thing(model, "car", "saloon", 12.0, -3.0, 0.0, 0.0, "")
    poses, lhw = road_layout.poses_of([thing], street)
    x0, z0 = street.place(12.0, -3.0)
    x1, z1 = street.place(13.0, -3.0)
    assert poses[0, (0, 2), 0].tolist() == pytest.approx([x1 - x0, z1 - z0])  # it looks along the road
    assert float(poses[0, 1, 3] + lhw[0, 1] / 2) == pytest.approx(1.6)


def test_the_street_is_painted_where_it_is():
    """Marks lie at their places on the ground: straight ahead of a camera in the middle of a lane there is none."""
    K = torch.tensor([[400.0, 0, 255.5], [0, 400.0, 60.0], [0, 0, 1]], dtype=torch.float64)
    street = Street(K, 1.5, (0.0, 0.0), 0.0, 1.75, 3.5, (1, 1), (0.0, 0.0), (2.0, 2.0), (math.inf, math.inf), False)
    sky = np.full((160, 512, 3), 200, np.uint8)
    found = 0
    for seed in range(6):
        none = torch.zeros(0, 5), torch.zeros(0)
        image = road_paint.paint_street(street, (160, 512), sky, *none, np.random.default_rng(seed)).astype(float).mean(-1)
        assert (image[:58] == 200).all()
        row = 130  # z = 1.5 * 400 / 70 = 8.6 m
        z = 1.5 * 400 / (row - 60)
        lane, kerb = image[row, 230:280].mean(), image[row, round(255.5 + 400 * (3.5 - 1.75 + 0.5) / z)]
        line = [image[v, round(255.5 - (v - 60) * 1.75 / 1.5)] for v in range(80, 150)]  # a dash of it, or all
        found += int(max(line) > lane + 15) + int(abs(kerb - lane) > 4)
        car = torch.tensor([[0.0, 20.0, 4.0, 2.0, 0.0]]), torch.tensor([1.5])
        shaded = road_paint.paint_street(street, (160, 512), sky, *car, np.random.default_rng(seed)).astype(float).mean(-1)
        assert shaded[90, 256] < 0.7 * image[90, 256]  # at 20 m, under the car
    assert found >= 10  # of 12: a grey kerb on a grey road can be hard to tell


def test_samples_and_batches():
    config = RoadConfig(size=(96, 320), shapes=2, objects=(1, 4))
    dataset = road_scene.RoadSamples(config, seed=2, last=3)
    samples = [dataset[i] for i in range(3)]
    batch = road_scene.collate(samples)
    assert len(dataset) == 3
    with pytest.raises(IndexError, match="picture 3 of 3"):
        dataset[3]
    assert batch["image"].shape == (3, 3, 96, 320)
    assert batch["K"].shape == (3, 3, 3)
    for s in samples:
        n = len(s["labels"])
        shapes = {k: tuple(s[k].shape) for k in ("cam_from_obj", "sizes", "velocities", "attributes", "visibility", "boxes")}
        assert shapes == {
            "cam_from_obj": (n, 4, 4), "sizes": (n, 3), "velocities": (n, 3), "attributes": (n,), "visibility": (n,),
            "boxes": (n, 4),
        }  # fmt: skip
        assert s["image"].dtype == s["cam_from_obj"].dtype == torch.float32
        assert float(s["image"].max()) <= 1


def test_a_folder_reads_back_and_goes_on(tmp_path, monkeypatch):
    config = RoadConfig(size=(64, 224), shapes=2, objects=(2, 6))
    out = road_scene.write_road(tmp_path / "road", images=3, config=config, seed=4, workers=0)
    frames = kitti.read(out)
    assert [f.name for f in frames] == ["000000", "000001", "000002"]
    for i, frame in enumerate(frames):
        true = RoadPictures(config, seed=4)[i]
        objects = true.frame.objects
        assert len(frame.objects) == len(objects)
        torch.testing.assert_close(frame.camera.K, true.frame.camera.K)
        torch.testing.assert_close(frame.objects.cam_from_obj, objects.cam_from_obj)
        torch.testing.assert_close(frame.objects.sizes, objects.sizes)
        torch.testing.assert_close(frame.objects.truncation, objects.truncation)
        assert len(frame.ignored) == len(true.frame.ignored)
        np.testing.assert_array_equal((frame.read().image.permute(1, 2, 0).numpy() * 255).round(), true.image)
    seen, truth = nuscenes.read_infos(out / "infos.json"), nuscenes.infos_truth(out / "infos.json")
    row = 0
    for i, frame in enumerate(seen):  # the same boxes in nuScenes' axes, and what KITTI has no place for
        objects = RoadPictures(config, seed=4)[i].frame.objects
        for column in ("labels", "cam_from_obj", "sizes", "velocities", "attributes"):
            torch.testing.assert_close(getattr(frame.objects, column), getattr(objects, column))
        n = len(objects)
        above = nuscenes.to_global([frame], [replace(frame.objects, scores=torch.ones(n))])
        for column in ("label", "centre", "wlh", "velocity", "attribute"):
            np.testing.assert_allclose(getattr(truth.boxes, column)[row : row + n], getattr(above, column), atol=1e-9)
        row += n
    assert row == len(truth.boxes.label) > 3
    late = (out / "label_2" / "000002.txt").read_bytes()
    (out / "label_2" / "000002.txt").unlink()  # killed before it was written
    (out / "infos" / "000002.json").unlink()
    before = (out / "image_2" / "000000.png").stat().st_mtime_ns
    road_scene.write_road(out, images=3, config=config, seed=4, workers=0)
    assert (out / "label_2" / "000002.txt").read_bytes() == late
    assert (out / "image_2" / "000000.png").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="was started with seed 4, now it is 5"):
        road_scene.write_road(out, images=3, config=config, seed=5, workers=0)
    monkeypatch.setattr(road_scene, "_BLOCK", 2)
    shared, again = tmp_path / "shared", {"images": 3, "config": config, "seed": 4, "workers": 0}
    road_scene.write_road(shared, shard=Shard(2, 2), **again)
    with pytest.raises(ValueError, match=r"2 of 3 are missing in .*: 0 to 1\); run --shard 1/2 again"):
        road_scene.write_road(shared, shard=MERGE, **again)
    road_scene.write_road(shared, shard=Shard(1, 2), **again)
    road_scene.write_road(shared, shard=MERGE, **again)
    there, whole = ({p.relative_to(o): p.read_bytes() for p in o.rglob("*.*")} for o in (shared, out))
    assert there == whole
    (tmp_path / "other" / "image_2").mkdir(parents=True)
    (tmp_path / "other" / "image_2" / "000000.png").write_bytes(b"")
    with pytest.raises(ValueError, match="holds files that were not made here"):
        road_scene.write_road(tmp_path / "other", images=1, workers=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": ("fisheye",)}, "cameras must be some of nuscenes, kitti, got .*fisheye"),
        ({"cameras": ()}, "cameras must be some of nuscenes, kitti, got none"),
        ({"classes": (("tram", 1.0),)}, "classes must be pairs"),
        ({"classes": (("car", 0.0),)}, "must not all be 0"),
        ({"size": (16, 512)}, "at least 32 x 32 pixels, got 16 x 512"),
        ({"distance": (60.0, 4.0)}, "distance must be two growing numbers > 0"),
        ({"shapes": 0}, "shapes must be >= 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RoadPictures(replace(RoadConfig(), **change))


def test_other_shapes_for_validation():
    config = replace(CONFIG, first_shape=1000, objects=(1, 2))
    assert RoadPictures(config, seed=0)[0].image.shape == (96, 320, 3)


def test_a_road_may_be_empty():
    config = replace(CONFIG, objects=(1, 1), distance=(4.0, 5.0), roadside=0)
    pictures = [RoadPictures(config, seed=0)[i] for i in range(3)]
    empty = [p for p in pictures if not len(p.frame.objects)]
    assert empty
    assert float(empty[0].image.std()) > 5
    assert road_scene.sample(empty[0])["cam_from_obj"].shape == (0, 4, 4)


def test_the_command_also_makes_a_sheet_of_its_pictures(tmp_path):
    made = commands.synth(Synth(out=tmp_path / "road", road=True, images=2, size=(64, 160), shapes=1, workers=0))
    with Image.open(made["sheet"]) as sheet:
        assert sheet.width > 2 * 400
        low, high = np.asarray(sheet).min(), np.asarray(sheet).max()
    assert high - low > 100  # it shows something
