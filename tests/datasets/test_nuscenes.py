"""nuScenes' files: a small set of tables made here, the real infos.json, results out and in, errors."""

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from monopose.datasets import nuscenes, nuscenes_index, nuscenes_splits
from monopose.datasets.road import RoadObjects, no_objects
from monopose.evaluation import nuscenes as protocol
from monopose.geometry import boxes as boxes2d
from monopose.geometry import boxes3d, se3
from monopose.io import records

HALF = math.sqrt(0.5)
FRONT = [0.5, -0.5, 0.5, -0.5]  # a camera that looks along the vehicle's x: its x points right, its y down
BACK = [0.5, -0.5, -0.5, 0.5]


def annotation(token, sample, instance, translation, yaw=0.0, size=(2.0, 4.0, 1.5), **more):
    row = {
        "token": token,
        "sample_token": sample,
        "instance_token": instance,
        "translation": list(translation),
        "size": list(size),
        "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
        "attribute_tokens": [],
        "visibility_token": "4",
        "num_lidar_pts": 3,
        "num_radar_pts": 1,
        "prev": "",
        "next": "",
    }
    return {**row, **more}


def mount(sensor, translation, rotation, K):
    row = {"token": f"cs_{sensor}", "sensor_token": sensor, "translation": translation}
    return {**row, "rotation": rotation, "camera_intrinsic": K}


def tables():
    """Two samples half a second apart; the vehicle stands at (100, 200), faces along +y of the map."""
    images = [("sd0f", "s0", "front"), ("sd0b", "s0", "back"), ("sd0l", "s0", "lidar"), ("sd1f", "s1", "front")]
    sweep = ("sd0x", "s0", "front")
    return {
        "category": [
            {"token": "c0", "name": "vehicle.car"},
            {"token": "c1", "name": "movable_object.trafficcone"},
            {"token": "c2", "name": "static_object.bicycle_rack"},
            {"token": "c3", "name": "animal"},
        ],
        "attribute": [{"token": "a0", "name": "vehicle.moving"}],
        "sensor": [
            {"token": "front", "channel": "CAM_FRONT"},
            {"token": "back", "channel": "CAM_BACK"},
            {"token": "lidar", "channel": "LIDAR_TOP"},
        ],
        "scene": [{"token": "sc0", "name": "scene-0001"}, {"token": "sc1", "name": "scene-0002"}],
        "sample": [
            {"token": "s0", "timestamp": 1_000_000, "scene_token": "sc0"},
            {"token": "s1", "timestamp": 1_500_000, "scene_token": "sc1"},
        ],
        "instance": [{"token": f"i{k}", "category_token": f"c{k}"} for k in range(4)],
        "sample_annotation": [
            annotation("x0", "s0", "i0", (100, 220, 1), math.pi / 2, attribute_tokens=["a0"], next="x1"),
            annotation("x1", "s1", "i0", (100, 221, 1), math.pi / 2, prev="x0"),
            annotation("x2", "s0", "i1", (103, 190, 0.5), size=(0.4, 0.4, 1.0), num_lidar_pts=0, num_radar_pts=0),
            annotation("x3", "s0", "i2", (90, 200, 0.5)),
            annotation("x4", "s0", "i3", (100, 210, 0.5)),
        ],
        "calibrated_sensor": [
            mount("front", [1.5, 0, 1.5], FRONT, K),
            mount("back", [0, 0, 1.5], BACK, K),
            mount("lidar", [1, 0, 2], [1, 0, 0, 0], []),
        ],
        "sample_data": [
            {
                "token": token,
                "sample_token": sample,
                "calibrated_sensor_token": f"cs_{sensor}",
                "ego_pose_token": f"e_{token}",
                "is_key_frame": token != "sd0x",
                "filename": f"samples/{token}.jpg",
                "width": 1600,
                "height": 900,
                "timestamp": 1_000_000,
            }
            for token, sample, sensor in [*images, sweep]
        ],
        "ego_pose": [
            {"token": f"e_{token}", "translation": [100, 200, 0], "rotation": [HALF, 0, 0, HALF]}
            for token, _, _ in [*images, sweep]
        ],
    }


K = [[1000.0, 0, 800], [0, 1000.0, 450], [0, 0, 1]]


def written(folder, content):
    (folder / "v1.0-mini").mkdir(exist_ok=True)
    for name, rows in content.items():
        (folder / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path, tables())


# -------------------------------------------------------------------------------------------------------------- tables


def test_a_car_ahead_from_tables_to_the_camera(folder):
    read = nuscenes.read_tables(folder)
    front, back = nuscenes.frames(read, ["s0"])
    assert (front.channel, back.channel) == ("CAM_FRONT", "CAM_BACK")
    assert front.path.endswith("samples/sd0f.jpg")
    assert front.camera.size == (900, 1600)
    assert [nuscenes.CLASSES[k] for k in front.objects.labels] == ["car"]  # the cone stands behind, the animal is no target
    pose = front.objects.cam_from_obj[0]
    assert torch.allclose(pose[:3, 3], torch.tensor([0.0, 0.5, 18.5], dtype=torch.float64), atol=1e-9)
    assert float(boxes3d.yaw_of(pose)) == pytest.approx(-math.pi / 2)  # drives away, as we do
    assert torch.allclose(pose[:3, 1], torch.tensor([0.0, 1, 0], dtype=torch.float64), atol=1e-9)  # its y is down
    assert front.objects.sizes.tolist() == [[4.0, 1.5, 2.0]]
    assert torch.allclose(front.objects.velocities, torch.tensor([[0.0, 0, 2.0]], dtype=torch.float64), atol=1e-9)
    assert front.objects.attributes.tolist() == [nuscenes.ATTRIBUTES.index("vehicle.moving")]
    assert front.objects.points.tolist() == [4]
    left = 800.5 - 1000 * 1.0 / 16.5  # the back of the car is 16.5 m away, 2 m wide
    assert float(front.objects.boxes[0, 0]) == pytest.approx(left)
    assert [nuscenes.CLASSES[k] for k in back.objects.labels] == ["traffic_cone"]
    assert torch.allclose(back.objects.cam_from_obj[0, :3, 3], torch.tensor([-3.0, 1.0, 10.0], dtype=torch.float64), atol=1e-9)
    assert bool(back.objects.velocities.isnan().all())
    assert back.objects.points.tolist() == [0]


def test_truth_in_the_map(folder):
    read = nuscenes.read_tables(folder)
    assert nuscenes.samples(read) == ["s0", "s1"]
    assert nuscenes.samples(read, ["scene-0002"]) == ["s1"]
    truth = nuscenes.truth(read, ["s0", "s1"])
    assert truth.boxes.tokens == ("s0", "s1")
    assert truth.boxes.sample.tolist() == [0, 0, 1]
    assert [nuscenes.CLASSES[k] for k in truth.boxes.label] == ["car", "traffic_cone", "car"]
    assert truth.boxes.centre.tolist() == [[100, 220, 1], [103, 190, 0.5], [100, 221, 1]]
    assert truth.boxes.velocity[[0, 2]].tolist() == [[0, 2], [0, 2]]
    assert truth.boxes.attribute.tolist() == [5, -1, -1]
    assert truth.boxes.points.tolist() == [4, 0, 4]
    assert truth.ego.tolist() == [[100, 200, 0], [100, 200, 0]]
    assert truth.racks.centre.tolist() == [[90, 200, 0.5]]
    assert protocol.filtered(truth.boxes, truth).label.tolist() == [0, 0]


def test_velocity_needs_neighbours_in_time(folder):
    content = tables()
    content["sample"][1]["timestamp"] = 2_600_000
    read = nuscenes.read_tables(written(folder, content))
    assert np.isnan(nuscenes.velocity(read, "x0")).all()  # 1.6 s to its only neighbour
    content["sample"][1]["timestamp"] = 2_400_000
    assert nuscenes.velocity(nuscenes.read_tables(written(folder, content)), "x0").tolist() == pytest.approx([0, 1 / 1.4, 0])


def test_from_the_map_to_cameras_and_back(folder, tmp_path):
    """What the cameras see of the truth, written as results, is the truth, and scores as such."""
    read = nuscenes.read_tables(folder)
    tokens = nuscenes.samples(read)
    seen = nuscenes.frames(read, tokens)
    estimates = [replace(f.objects, scores=torch.full((len(f.objects),), 0.75)) for f in seen]
    nuscenes.write_results(tmp_path / "results.json", nuscenes.to_global(seen, estimates, tokens))
    results, truth = nuscenes.read_results(tmp_path / "results.json", tokens), nuscenes.truth(read, tokens)
    assert results.sample.tolist() == truth.boxes.sample.tolist()
    for name in ("label", "centre", "wlh", "quat_wxyz", "attribute"):
        assert np.allclose(getattr(results, name), getattr(truth.boxes, name), atol=1e-9), name
    assert np.allclose(results.velocity, np.nan_to_num(truth.boxes.velocity), atol=1e-9)
    car = protocol.evaluate(results, truth)["classes"]["car"]
    assert (car["ap"], car["truth"]) == (pytest.approx(1), 2)
    assert max(car["errors"].values()) == pytest.approx(0, abs=1e-9)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["meta"] == {f"use_{k}": k == "camera" for k in ("camera", "lidar", "radar", "map", "external")}
    assert set(content["results"]["s0"][0]) == {
        "sample_token", "translation", "size", "rotation", "velocity", "detection_name", "detection_score", "attribute_name",
    }  # fmt: skip


def test_every_pose_survives_the_way_to_the_map(folder):
    front = nuscenes.frame(nuscenes.read_tables(folder), "s0", "CAM_FRONT")
    generator = torch.Generator().manual_seed(0)
    yaw = torch.rand(20, dtype=torch.float64, generator=generator) * 6 - 3
    pose = boxes3d.from_yaw(torch.randn(20, 3, dtype=torch.float64, generator=generator) * 10, yaw)
    sizes, scores = torch.ones(20, 3, dtype=torch.float64), torch.linspace(1, 0.05, 20)
    objects = RoadObjects(torch.zeros(20, dtype=torch.int64), pose, sizes, scores=scores)
    found = nuscenes.to_global([front], [objects])
    assert np.allclose(np.cos(protocol.yaw(found) + yaw.numpy()), 1, atol=1e-9)  # this camera's x is the map's x, its z is y
    corners = se3.transform(front.global_from_cam, boxes3d.corners(pose, objects.sizes)).mean(1)
    assert np.allclose(found.centre, corners.numpy(), atol=1e-9)


def test_only_the_best_500_of_a_sample_stay(folder, tmp_path):
    front = nuscenes.frame(nuscenes.read_tables(folder), "s0", "CAM_FRONT")
    many = replace(front.objects[torch.zeros(600, dtype=torch.int64)], scores=torch.arange(600.0) / 600)
    found = nuscenes.to_global([front], [many], ["s0", "s1"])
    assert len(found.sample) == 500
    assert found.score.min() == pytest.approx(100 / 600)
    nuscenes.write_results(tmp_path / "r.json", found)
    assert json.loads((tmp_path / "r.json").read_text())["results"]["s1"] == []
    nothing = nuscenes.to_global([front], [replace(no_objects(), scores=torch.zeros(0))])
    nuscenes.write_results(tmp_path / "n.json", nothing)
    assert len(nuscenes.read_results(tmp_path / "n.json", ["s0"]).sample) == 0


# -------------------------------------------------------------------------------------------------------------- errors


def test_broken_tables(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tables in .*v1\.0-trainval .*found: v1\.0-mini/"):
        nuscenes.read_tables(folder, "v1.0-trainval")
    read = nuscenes.read_tables(folder)
    with pytest.raises(ValueError, match=r"sample 's1' has no picture of 'CAM_BACK' \(has: CAM_FRONT\)"):
        nuscenes.frame(read, "s1", "CAM_BACK")
    with pytest.raises(ValueError, match="has no scene 'scene-0009'"):
        nuscenes.samples(read, ["scene-0009"])
    content = tables()
    content["sample_annotation"][0]["instance_token"] = "nobody"
    with pytest.raises(ValueError, match=r"instance\.json has no token 'nobody'; are all tables of one version"):
        nuscenes.truth(nuscenes.read_tables(written(folder, content)), ["s0"])
    content = tables()
    content["calibrated_sensor"][0]["camera_intrinsic"] = []
    with pytest.raises(ValueError, match=r"calibrated_sensor\.json, token cs_front: 'camera_intrinsic' must have 9 numbers"):
        nuscenes.frame(nuscenes.read_tables(written(folder, content)), "s0", "CAM_FRONT")
    (folder / "v1.0-mini" / "scene.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no scene\.json in"):
        nuscenes.read_tables(folder)


def box(**changes):
    row = {"sample_token": "s0", "translation": [1.0, 2, 3], "size": [2.0, 4, 1.5], "rotation": [1.0, 0, 0, 0]}
    row.update(velocity=[0.0, 0], detection_name="car", detection_score=0.5, attribute_name="vehicle.parked")
    return {**row, **changes}


@pytest.mark.parametrize(
    "results, message",
    [
        ({"s0": [box(translation=[1, math.nan, 2])], "s1": []}, "sample s0 box 0: 'translation' holds NaN"),
        ({"s0": [box(), box(velocity=[math.inf, 0])], "s1": []}, "sample s0 box 1: 'velocity' holds NaN or infinity"),
        ({"s0": [box(detection_score=math.nan)], "s1": []}, "'detection_score' holds NaN"),
        ({"s0": [box(detection_name="tram")], "s1": []}, "box 0: unknown detection_name 'tram'; expected one of car, truck"),
        ({"s0": [box(attribute_name="flying")], "s1": []}, "unknown attribute_name 'flying'"),
        ({"s0": [box(size=[0.0, 4, 1])], "s1": []}, "sample s0: width, length, height must be metres > 0"),
        ({"s0": [box(rotation=[0.0, 0, 0, 0])], "s1": []}, "must be a unit quaternion wxyz"),
        ({"s0": [box(rotation=[1.0, 0, 0])], "s1": []}, "'rotation' must have 4 numbers, got 3"),
        ({"s0": [box(sample_token="s1")], "s1": []}, "its sample_token is 's1'"),
        ({"s0": [box()]}, "1 of 2 samples are missing, the first is 's1'; a sample without detections needs an empty list"),
        ({"s0": [], "s1": [], "s2": []}, "1 samples do not belong to this split, such as 's2'"),
        ({"s0": [box()] * 501, "s1": []}, "sample s0: 501 boxes, at most 500 are allowed"),
        ({"s0": {}, "s1": []}, "sample 's0' must hold a list of boxes, got dict"),
        ({"s0": [{"sample_token": "s0"}], "s1": []}, "key 'detection_name' is missing"),
    ],
)
def test_broken_results(tmp_path, results, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"meta": {}, "results": results}))
    with pytest.raises(ValueError, match=message):
        nuscenes.read_results(path, ["s0", "s1"])


def test_results_that_are_none(tmp_path, folder):
    (tmp_path / "r.json").write_text(json.dumps({"meta": {}}))
    with pytest.raises(ValueError, match="key 'results' is missing"):
        nuscenes.read_results(tmp_path / "r.json")
    (tmp_path / "r.json").write_text('{"results": {"s0": [')
    with pytest.raises(ValueError, match="is not valid JSON"):
        nuscenes.read_results(tmp_path / "r.json")
    front = nuscenes.frame(nuscenes.read_tables(folder), "s0", "CAM_FRONT")
    with pytest.raises(ValueError, match="estimates for picture sd0f have no scores"):
        nuscenes.to_global([front], [front.objects])
    scored = replace(front.objects, scores=torch.ones(1))
    with pytest.raises(ValueError, match="picture sd0f belongs to sample 's0', which is none of the 1 given"):
        nuscenes.to_global([front], [scored], ["s1"])
    with pytest.raises(ValueError, match="where the camera was is unknown"):
        nuscenes.to_global([replace(front, ego_from_cam=None)], [scored])
    broken = nuscenes.to_global([front], [replace(scored, cam_from_obj=scored.cam_from_obj * math.nan)])
    with pytest.raises(ValueError, match="centre holds NaN"):
        nuscenes.write_results(tmp_path / "out.json", broken)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("table", "row", "change", "message"),
    [
        (
            "calibrated_sensor",
            0,
            {"camera_intrinsic": np.transpose(K).tolist()},
            "cs_front: 'camera_intr.*transposed",
        ),
        ("calibrated_sensor", 0, {"rotation": [0, 0, 0, 0]}, "cs_front: 'rotation' must be a quaternion wxyz of length 1"),
        ("ego_pose", 0, {"rotation": [2, 0, 0, 0]}, "e_sd0f: 'rotation' must be a quaternion wxyz of length 1"),
        ("ego_pose", 0, {"translation": [1, math.nan, 2]}, "e_sd0f: 'translation' holds NaN"),
        ("sample_annotation", 0, {"size": [1, -2, 1]}, "x0: width, length and height must be metres above 0"),
        ("sample_annotation", 0, {"num_lidar_pts": 1.7}, "x0: 'num_lidar_pts' must be a whole number"),
        ("sample_data", 0, {"width": 2**63}, "sd0f: width must be a whole number"),
        ("sample_data", 0, {"timestamp": "now"}, "sd0f: 'timestamp' must be numbers"),
        ("sample_data", 0, {"filename": None}, "sd0f: 'filename' must be text"),
    ],
)
def test_declared_quantities_that_cannot_be(folder, table, row, change, message):
    content = tables()
    content[table][row] |= change
    with pytest.raises(ValueError, match=rf"{table}\.json, token {message}"):
        nuscenes.frame(nuscenes.read_tables(written(folder, content)), "s0", "CAM_FRONT")


def test_infos_without_intrinsics(tmp_path):
    Image.new("RGB", (160, 90)).save(tmp_path / "a.jpg")
    eye = torch.eye(4).tolist()
    image = {"img_path": "a.jpg", "cam2ego": eye, "lidar2cam": eye, "sample_data_token": "d", "timestamp": 0.0}
    info = {"token": "s", "timestamp": 0.0, "ego2global": eye, "images": {"CAM_FRONT": image}, "instances": []}
    content = {"metainfo": {"categories": {"car": 0}}, "data_list": [info]}
    path = tmp_path / "infos.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="sample 0 CAM_FRONT: key 'cam2img' is missing"):
        nuscenes.read_infos(path)
    image["cam2img"] = torch.eye(3).tolist()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sample 0 CAM_FRONT: 'cam2img' is .* it looks normalised"):
        nuscenes.read_infos(path)
    image["cam2img"] = [[100.0, 0, 80], [0, 100, 45], [0, 0, 1]]
    image["lidar2cam"] = torch.eye(4).roll(1, 0).tolist()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"'lidar2cam'\[0\]: the last row must be 0 0 0 1"):
        nuscenes.read_infos(path)
    image["lidar2cam"] = eye
    path.write_text(json.dumps(content))
    (frame,) = nuscenes.read_infos(path)
    assert (len(frame.objects), frame.camera.size) == (0, (90, 160))
    content["metainfo"]["categories"] = {"tram": 0}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="unknown class 'tram'"):
        nuscenes.read_infos(path)


# ------------------------------------------------------------------------------------------------------------ real data


def test_real_sample_of_six_cameras(shared_data):
    """Our projections of the boxes are those that the file lists, and all cameras agree with the LiDAR's boxes in the map."""
    path = shared_data / "nuscenes_mini_sample" / "infos.json"
    seen = nuscenes.read_infos(path)
    assert tuple(sorted(f.channel for f in seen)) == tuple(sorted(nuscenes.CAMERAS))
    assert {f.camera.size for f in seen} == {(900, 1600)}
    listed = json.loads(path.read_text())["data_list"][0]["cam_instances"]
    agreement = []
    for frame in seen:
        rows = listed[frame.channel]
        assert len(frame.objects) == len(rows)
        given = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64)
        agreement += boxes2d.iou(frame.objects.boxes, given + 0.5).diagonal().tolist()  # theirs are not on pixel edges
    assert len(agreement) == 84
    assert np.median(agreement) > 0.95  # theirs are of the tilted boxes, ours stand level before the camera
    assert min(agreement) > 0.7

    truth = nuscenes.infos_truth(path)
    assert len(truth.boxes.sample) == 68  # and one of none of the ten classes, marked -1
    estimates = [replace(f.objects, scores=torch.ones(len(f.objects))) for f in seen]
    found = nuscenes.to_global(seen, estimates)
    far = np.linalg.norm(found.centre[:, None, :2] - truth.boxes.centre[None, :, :2], axis=-1)
    far[found.label[:, None] != truth.boxes.label] = np.inf
    nearest = far.argmin(1)
    assert far.min(1).max() < 0.01  # metres; up to 0.4 if the vehicle's way between picture and sweep is left out
    assert np.abs(found.wlh - truth.boxes.wlh[nearest]).max() < 1e-6
    turn = (protocol.yaw(found) - protocol.yaw(truth.boxes)[nearest] + math.pi) % (2 * math.pi) - math.pi
    assert np.abs(turn).max() < 0.05
    known = ~np.isnan(truth.boxes.velocity[nearest]).any(1) & (np.abs(found.velocity).sum(1) > 0)
    assert np.abs(found.velocity - truth.boxes.velocity[nearest])[known].max() < 0.3


def test_truth_of_the_real_sample_as_results(shared_data, tmp_path):
    truth = nuscenes.infos_truth(shared_data / "nuscenes_mini_sample" / "infos.json")
    known = truth.boxes.where(truth.boxes.points > 0)
    results = known._replace(velocity=np.nan_to_num(known.velocity), score=np.ones(len(known.sample)))
    nuscenes.write_results(tmp_path / "r.json", results)
    read = nuscenes.read_results(tmp_path / "r.json", truth.boxes.tokens)
    found = protocol.evaluate(read, truth)
    there = {name: c for name, c in found["classes"].items() if c["truth"]}
    assert len(there) >= 4
    for c in there.values():
        assert c["ap"] == pytest.approx(1)
        assert c["errors"]["translation"] == 0


# ------------------------------------------------------------------------------------------------- what training needs more


def test_visibility_tokens_and_the_sweep_of_the_moment(folder):
    """The car 18.5 m ahead of the camera; the LiDAR, half a metre higher and half a metre behind, sees its middle there."""
    read = nuscenes.read_tables(folder)
    frame = nuscenes.frame(read, "s0", "CAM_FRONT")
    assert frame.objects.visibility.tolist() == pytest.approx([0.9] * len(frame.objects))
    assert frame.lidar.endswith("samples/sd0l.jpg")
    car = se3.transform(frame.cam_from_lidar, torch.tensor([[19.0, 0.0, -1.0]], dtype=torch.float64))
    torch.testing.assert_close(car[0], frame.objects.cam_from_obj[0, :3, 3], atol=1e-9, rtol=0)


def test_sweeps_are_read_or_said_to_be_cut(tmp_path):
    path = tmp_path / "sweep.pcd.bin"
    np.arange(10, dtype=np.float32).tofile(path)
    assert nuscenes.read_lidar(path).tolist() == [[0, 1, 2], [5, 6, 7]]
    np.arange(9, dtype=np.float32).tofile(path)
    with pytest.raises(ValueError, match="five float32 for each point, got 9 numbers"):
        nuscenes.read_lidar(path)


def test_official_parts(tmp_path):
    numbers = [1, 3, 12, 18, 19, 61, 103, 221, 222, 916, 931, 1073, 1074]
    for version in ("v1.0-trainval", "v1.0-mini"):
        (tmp_path / version).mkdir()
        rows = [{"name": f"scene-{n:04d}"} for n in numbers]
        (tmp_path / version / "scene.json").write_text(json.dumps(rows))
    chosen = {part: [int(n[-4:]) for n in nuscenes_splits.scenes(tmp_path, part)] for part in ("train", "val", "trainval")}
    assert chosen["val"] == [3, 12, 18, 103, 221, 916, 931, 1073]
    assert chosen["train"] == [1, 19, 61, 222, 1074]
    assert chosen["trainval"] == numbers
    assert nuscenes_splits.scenes(tmp_path / "v1.0-mini", "mini_val") == ["scene-0103", "scene-0916"]
    assert nuscenes_splits.scenes(tmp_path, "mini_train") == ["scene-0061"]
    with pytest.raises(FileNotFoundError, match=r"test is a part of v1.0-test, and .* has no v1.0-test/scene.json"):
        nuscenes_splits.scenes(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match=r"val is a part of v1\.0-trainval"):
        nuscenes_splits.scenes(tmp_path / "v1.0-mini", "val")


# ---------------------------------------------------------------------------------------------------------------- index


def test_the_index_gives_the_same_pictures_without_the_tables(folder, monkeypatch):
    read = nuscenes.read_tables(folder)
    expected = nuscenes.frames(read, nuscenes.samples(read))
    found = nuscenes_index.open_frames(folder)
    assert (folder / "v1.0-mini/.monopose-index/index.json").is_file()
    monkeypatch.setattr(nuscenes, "read_tables", lambda *_, **__: pytest.fail("the tables are read again"))
    for pictures in (found, nuscenes_index.open_frames(folder), pickle.loads(pickle.dumps(found))):
        assert len(pictures) == len(expected) == 3
        for mine, theirs in zip(pictures, expected, strict=True):
            for name in ("path", "classes", "name", "sample", "channel", "timestamp", "lidar"):
                assert getattr(mine, name) == getattr(theirs, name), name
            assert mine.camera.size == theirs.camera.size
            pairs = [(mine.camera.K, theirs.camera.K)]
            pairs += [(getattr(mine, k), getattr(theirs, k)) for k in ("ego_from_cam", "global_from_ego", "cam_from_lidar")]
            columns = ("labels", "cam_from_obj", "sizes", "boxes", "velocities", "attributes", "points", "visibility")
            pairs += [(getattr(mine.objects, k), getattr(theirs.objects, k)) for k in columns]
            for a, b in pairs:
                assert (a is None) == (b is None)
                if a is not None:
                    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9, equal_nan=True)
    assert [f.sample for f in found.of_scenes(["scene-0002"])] == ["s1"]
    assert [f.channel for f in found[:2]] == ["CAM_FRONT", "CAM_BACK"]
    assert len(pickle.loads(pickle.dumps(found.of_scenes(["scene-0002"])))) == 1
    with pytest.raises(ValueError, match="has no scene 'scene-0009'; it has scene-0001, scene-0002"):
        found.of_scenes(["scene-0009"])
    with pytest.raises(IndexError):
        found[3]


def test_a_broken_row_is_named_by_the_index_too(folder):
    for table, row, change, message in (
        ("sample_annotation", 2, {"size": [1, -2, 1]}, r"sample_annotation\.json, token x2: width, length and height must be"),
        ("sample_annotation", 1, {"translation": [1, 2]}, r"token x1: 'translation' must have 3 numbers, got 2"),
        ("sample_annotation", 1, {"rotation": [2, 0, 0, 0]}, r"token x1: 'rotation' must be a quaternion wxyz of length 1"),
        ("sample_annotation", 1, {"prev": "x8"}, r"sample_annotation\.json has no token 'x8'"),
        ("ego_pose", 0, {"translation": [1, math.nan, 2]}, "token e_sd0f: 'translation' holds NaN"),
        ("calibrated_sensor", 0, {"camera_intrinsic": []}, r"token cs_front: 'camera_intrinsic' must have 9 numbers"),
    ):
        content = tables()
        content[table][row] |= change
        with pytest.raises(ValueError, match=message):
            nuscenes_index.open_frames(written(folder, content))


def test_tables_larger_than_memory_are_read_piece_by_piece(folder, monkeypatch):
    whole = nuscenes.read_tables(folder)
    monkeypatch.setattr(records, "LARGE", 100)
    monkeypatch.setattr(records, "PIECE", 150)
    assert nuscenes.read_tables(folder).rows == whole.rows
    only = nuscenes.read_tables(folder, scenes=["scene-0002"])
    assert (list(only.rows["sample"]), list(only.rows["sample_annotation"])) == (["s1"], ["x1"])
    assert all(row["sample_token"] == "s1" for row in only.rows["sample_data"].values())
    path = folder / "v1.0-mini/ego_pose.json"
    text = path.read_text()
    for broken, message in ((text[:-40], "not valid JSON .* cut short"), (text[1:], "must hold a JSON list of objects, got"),
                            (text[:150] + "?" + text[150:], "not valid JSON"), (text.replace("}, {", "} {"), "in place of ,]"),
                            ("[" + text + "]", "an entry of the list must hold a JSON object")):  # fmt: skip
        path.write_text(broken)
        with pytest.raises(ValueError, match=rf"ego_pose\.json.*{message}"):
            nuscenes.read_tables(folder)
    path.write_text("[" + " " * 200 + "]")
    assert list(records.each_row(path)) == []


def test_the_index_follows_its_tables(folder):
    assert len(nuscenes_index.open_frames(folder)[0].objects) == 1
    content = tables()
    content["sample_annotation"].append(annotation("x9", "s0", "i0", (101, 215, 1)))
    written(folder, content)
    assert len(nuscenes_index.open_frames(folder)[0].objects) == 2
    (folder / "v1.0-mini/sample_data.json").write_text("[]")
    with pytest.raises(ValueError, match="lists no picture of a camera"):
        nuscenes_index.open_frames(folder)
    assert not list((folder / "v1.0-mini").glob(".monopose-index.*"))  # nothing half-written


def test_tables_that_contradict_themselves(folder):
    content = tables()
    content["sample_annotation"].append({**content["sample_annotation"][0], "translation": [9, 9, 9]})
    with pytest.raises(ValueError, match=r"sample_annotation\.json: the token 'x0' is there twice"):
        nuscenes.read_tables(written(folder, content))
    for key in ("false", 1, None):
        content = tables()
        content["sample_data"][0]["is_key_frame"] = key
        with pytest.raises(ValueError, match=r"sd0f: 'is_key_frame' must be true or false"):
            nuscenes.read_tables(written(folder, content))
    content = tables()
    content["sensor"][0]["token"] = 5
    with pytest.raises(ValueError, match=r"sensor\.json must be a list of rows with a token each"):
        nuscenes.read_tables(written(folder, content))


def test_a_sample_without_a_single_measurement_is_named(folder):
    content = tables()
    for row in content["sample_data"]:
        row["is_key_frame"] = False
    with pytest.raises(ValueError, match=r"sample_data\.json has no key frame of sample 's0'"):
        nuscenes.truth(nuscenes.read_tables(written(folder, content)), ["s0"])
