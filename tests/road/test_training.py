"""Training boxes in 3D: every layout of data becomes the same samples, a run learns and goes on, bad data is refused."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from monopose import cli, weights
from monopose.datasets import kitti, nuscenes
from monopose.datasets.road import no_objects
from monopose.geometry import boxes3d
from monopose.geometry import camera as camera_ops
from monopose.road import commands, inference, pipeline, training
from monopose.road import config as road_config
from monopose.road import network as road_network
from monopose.road import samples as road_samples
from monopose.synthesis import road_scene
from monopose.training.loop import TrainConfig

KITTI = Path(__file__).parents[3] / "shared" / "data" / "kitti_mini"
NUSCENES = Path(__file__).parents[3] / "shared" / "data" / "nuscenes_mini_sample"
SIZE = (64, 160)
TINY = {"height": 64, "width": 160, "channels": 16, "pretrained": False, "samples": 16, "point_hidden": 16, "objects": 4}
TINY |= {"hidden": 16, "object_hidden": 16, "dense_widths": [16, 8]}


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    config = road_scene.RoadConfig(size=SIZE, shapes=2, objects=(4, 6))
    return road_scene.write_road(tmp_path_factory.mktemp("data") / "road", images=3, config=config, seed=3, workers=0)


@pytest.fixture(scope="module")
def run(road, tmp_path_factory):
    """A network of two steps."""
    out = tmp_path_factory.mktemp("run") / "road"
    config = training.make_config(road, changes=TINY)
    training.train(road, out, method_config=config, config=TrainConfig(steps=2, batch_size=2, workers=0), progress_bar=False)
    return out


# -------------------------------------------------------------------------------------------------------------- samples


def test_samples_show_what_their_boxes_say(road):
    """Mirrored or not, boxes project to the same pixels as those of the picture as it is."""
    frames = road_samples.read_frames(road)
    frame = max(frames, key=lambda f: len(f.objects))
    plain = road_samples.sample_of(frame, frame.classes, (32, 96))
    scale = 96 / SIZE[1]
    expected = frame.objects.boxes.float() * scale
    got = boxes3d.project(plain["cam_from_obj"], plain["sizes"], plain["K"], (32, 96))
    torch.testing.assert_close(got[:, 0::2], expected[:, 0::2], atol=0.05, rtol=0)
    seen = {True: 0, False: 0}
    for seed in range(6):
        changed = road_samples.augment_sample(plain, np.random.default_rng(seed))
        boxes = boxes3d.project(changed["cam_from_obj"], changed["sizes"], changed["K"], (32, 96))
        flipped = not torch.equal(changed["K"], plain["K"])
        seen[flipped] += 1
        wanted = got if not flipped else torch.stack([96 - got[:, 2], got[:, 1], 96 - got[:, 0], got[:, 3]], -1)
        torch.testing.assert_close(boxes, wanted, atol=1e-2, rtol=0)
        light = changed["image"].flip(-1) if flipped else changed["image"]
        both = torch.stack([light.mean(0).flatten(), plain["image"].mean(0).flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.8  # the same picture, in other colours
        # what moves forwards still does
        speed = (changed["velocities"] * changed["cam_from_obj"][:, :3, 0]).sum(-1)
        torch.testing.assert_close(speed, (plain["velocities"] * plain["cam_from_obj"][:, :3, 0]).sum(-1))
    assert min(seen.values()) > 0


def test_samples_are_the_same_whoever_draws_them(road):
    frames = road_samples.read_frames(road)
    one, other = (road_samples.FrameSamples(frames, frames[0].classes, SIZE, 8, seed=5) for _ in range(2))
    assert torch.equal(one[6]["image"], other[6]["image"])
    assert sorted(one[i]["name"] for i in range(3)) == sorted(one[i]["name"] for i in range(3, 6))  # an epoch has all
    with pytest.raises(IndexError, match="sample 8 of 8"):
        one[8]


def test_visibility_from_what_a_data_set_says():
    objects = replace(
        no_objects(), labels=torch.zeros(3).long(), cam_from_obj=torch.eye(4).expand(3, 4, 4), sizes=torch.ones(3, 3),
        truncation=torch.tensor([0.0, 0.5, 0.0]), occlusion=torch.tensor([0, 1, 2]), points=torch.tensor([5, 5, 0]),
    )  # fmt: skip
    assert road_samples.visibility(objects).tolist() == pytest.approx([1.0, 0.35, 0.0])
    assert road_samples.visibility(no_objects()).shape == (0,)


@pytest.mark.skipif(not KITTI.is_dir(), reason="needs ../shared/data/kitti_mini")
def test_real_kitti_pictures_become_samples():
    frames = road_samples.read_frames(KITTI)
    config = training.make_config(KITTI, changes={"height": 96, "width": 320})
    assert set(config.classes) <= set(road_samples.KITTI_BENCHMARK_CLASSES)
    assert "Car" in config.classes
    assert len(config.size_means or config.classes) == len(config.classes)
    for frame in frames[:3]:
        sample = road_samples.sample_of(frame, config.classes, config.size)
        centre = camera_ops.project(sample["cam_from_obj"][:, :3, 3], sample["K"], 0.1)
        whole = camera_ops.project(frame.objects.cam_from_obj[:, :3, 3], frame.camera.K, 0.1).float()
        own = torch.tensor([frame.classes[k] in config.classes for k in frame.objects.labels.tolist()])
        scale = 320 / frame.camera.size[1]
        torch.testing.assert_close(centre[:, 0], (whole[own, 0] + 0.5) * scale - 0.5, atol=1e-2, rtol=0)
        assert bool(sample["velocities"].isnan().all())


# ------------------------------------------------------------------------------------------------------------- training


def test_a_run_learns_and_goes_on(run, road):
    report = json.loads((run / "box3d.json").read_text())
    assert report["config"]["height"] == 64
    network = pipeline.load(run, "cpu")
    assert network.trained["pictures"] == 3
    assert network.trained["boxes"] > 5
    config = training.make_config(road, changes=TINY)
    before = (run / "box3d.safetensors").stat().st_mtime_ns
    training.train(road, run, method_config=config, config=TrainConfig(steps=3, batch_size=2, workers=0), progress_bar=False)
    assert (run / "box3d.safetensors").stat().st_mtime_ns > before
    assert "from_2" in {p.name for p in (run / "logs" / "box3d").iterdir()}  # not from the start again


def test_a_run_of_other_classes_to_start_from(run, road):
    torch.manual_seed(0)
    model = road_network.Model(training.make_config(road, classes=("barrier", "car"), changes=TINY))
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    training.start_from(model, run / "box3d.safetensors")
    old, new = pipeline.load(run, "cpu").model.state_dict(), model.state_dict()
    torch.testing.assert_close(new["head.logits.weight"], old["head.logits.weight"][[9, 0]])
    torch.testing.assert_close(new["head.offsets.bias"], old["head.offsets.bias"][[18, 19, 0, 1]])
    torch.testing.assert_close(new["class_embedding.weight"], old["class_embedding.weight"][[9, 0]])
    torch.testing.assert_close(new["sampler.query.weight"], old["sampler.query.weight"])
    assert not torch.equal(new["sampler.query.weight"], fresh["sampler.query.weight"])


def test_a_run_that_learned_no_poses_brings_none(road, tmp_path):
    changes = {**TINY, "layer": "direct", "poses": False}
    few = TrainConfig(steps=1, batch_size=2, workers=0)
    start = training.train(
        road, tmp_path, method_config=training.make_config(road, changes=changes), config=few, progress_bar=False
    )
    for layer in ("direct", "distribution"):
        torch.manual_seed(1)
        model = road_network.Model(training.make_config(road, changes={**TINY, "layer": layer}))
        fresh = {k: v.clone() for k, v in model.state_dict().items()}
        training.start_from(model, start)
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, fresh[k])}
        assert {"head.logits.weight", "sampler.query.weight", "object_head.answers.weight"} <= changed
        assert [k for k in changed if k.startswith(training.OF_POSES)] == []


WORKER = """
import json
import sys
from pathlib import Path
import torch
from monopose.road import network, training
from monopose.training.loop import TrainConfig

torch.set_num_threads(1)
data, out, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
made = []

class Kept(network.Model):
    def __init__(self, config):
        super().__init__(config)
        made.append(self)

network.Model = Kept
config = training.make_config(data, changes=changes)
few = TrainConfig(steps=3, batch_size=1, workers=0)
training.train(data, out, method_config=config, config=few, progress_bar=False)
rank = torch.distributed.get_rank()
torch.save({k: v for k, v in made[0].named_parameters()}, out / f"rank_{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_one_network(road, tmp_path):
    """DDP through torchrun, gloo on the CPU: other pictures in each process, the same weights in the end."""
    script, out = tmp_path / "worker.py", tmp_path / "run"
    script.write_text(WORKER)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*launcher, str(script), str(road), str(out), json.dumps(TINY)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights.read(out / "box3d.safetensors").notes["steps"] == "3"
    one, other = (torch.load(out / f"rank_{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert pipeline.load(out, "cpu").trained["pictures"] == 3


def test_drawn_roads_are_samples_too():
    own = ("pedestrian", "car")
    roads = road_scene.RoadSamples(road_scene.RoadConfig(size=SIZE, shapes=2, objects=(4, 6)), seed=3, last=3)
    samples = road_samples.DrawnSamples(roads, own)
    kept = 0
    for i in range(3):
        whole, part = roads[i], samples[i]
        rows = [k for k, label in enumerate(whole["labels"].tolist()) if road_scene.CLASSES[label] in own]
        assert [own[k] for k in part["labels"].tolist()] == [road_scene.CLASSES[int(whole["labels"][k])] for k in rows]
        assert torch.equal(part["cam_from_obj"], whole["cam_from_obj"][rows])
        kept += len(rows)
    assert kept > 0


# ------------------------------------------------------------------------------------------------------------ bad input


def broken_kitti(folder, lines):
    """A copy of one drawn KITTI picture with other labels."""
    config = road_scene.RoadConfig(size=SIZE, shapes=2, objects=(1, 2))
    road_scene.write_road(folder, images=1, config=config, seed=0, workers=0)
    (folder / "infos.json").unlink()
    (folder / "label_2" / "000000.txt").write_text(lines)
    return folder


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "nothing to learn from"),
        ("DontCare -1 -1 -10 10 10 20 20 -1 -1 -1 -1000 -1000 -1000 -10\n", "perhaps all is DontCare"),
        ("Car 0 0 0 10 10 20 20 1.5 1.6 4 0 1 -8 0\n", "lie behind the camera"),
        ("Car 0 0 0 10 10 20 20 1.5 1.6 4 0 1 nan 0\n", "no finite number"),
        ("Lorry 0 0 0 10 10 20 20 1.5 1.6 4 0 1 8 0\n", "unknown type 'Lorry'"),
    ],
)
def test_labels_that_teach_nothing(tmp_path, lines, message):
    folder = broken_kitti(tmp_path / "kitti", lines)
    with pytest.raises(ValueError, match=message):
        training.train(folder, tmp_path / "run", progress_bar=False)
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be(tmp_path, road):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; expected KITTI's or nuScenes' layout"):
        road_samples.read_frames(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is no data set of roads"):
        road_samples.read_frames(tmp_path)
    with pytest.raises(ValueError, match="box3d has no preset 'huge'; choose one of small"):
        training.make_config(road, "huge")
    with pytest.raises(ValueError, match="has no class 'tram'; it has car, truck"):
        training.make_config(road, classes=("tram",))
    infos = json.loads((road / "infos.json").read_text())
    del infos["data_list"][0]["images"]["CAM_FRONT"]["cam2img"]
    for other in infos["data_list"]:
        other["images"]["CAM_FRONT"]["img_path"] = str(road / other["images"]["CAM_FRONT"]["img_path"])
    (tmp_path / "infos.json").write_text(json.dumps(infos))
    with pytest.raises(ValueError, match="cam2img"):
        road_samples.read_frames(tmp_path)
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no picture"):
        road_samples.read_names(tmp_path / "names.txt")


# ------------------------------------------------------------------------------------------------------ the command line


def called(capsys, *args):
    code = cli.main([str(a) for a in args])
    return code, capsys.readouterr()


def test_a_data_set_on_the_command_line(run, road, tmp_path, capsys):
    out = tmp_path / "out"
    views = ("2d", "3d", "bev", "points", "orientation", "score")
    code, said = called(capsys, "predict", road, "--model", run, "--out", out, "--views", *views, "--score", "0", "--json")
    assert code == 0
    report = json.loads(said.out)
    assert len(report["images"]) == 3
    for image in report["images"]:
        assert all(Path(p).stat().st_size > 500 for p in image["views"].values())
        assert tuple(image["views"]) == views
    code, said = called(capsys, "evaluate", out / "results_nusc.json", "--data", road, "--json")
    scores = json.loads(said.out)
    assert code == 0
    assert scores["protocol"] == "nuscenes"
    assert 0 <= scores["nds"] <= 1
    code, said = called(capsys, "evaluate", out / "kitti", "--data", road)
    assert code == 0
    (tmp_path / "names.txt").write_text("000001\n000002\n")
    only = ("--split", tmp_path / "names.txt")
    assert called(capsys, "evaluate", out / "kitti", "--data", road, *only, "--json")[1].out.count('"pictures": 2') == 1
    assert "KITTI, AP over 40 recalls in percent, 3 pictures" in said.out


def test_the_truth_as_results_scores_one(road, tmp_path, capsys):
    frames = road_samples.read_frames(road)
    sure = [replace(f.objects, scores=torch.ones(len(f.objects))) for f in frames]
    nuscenes.write_results(tmp_path / "results.json", nuscenes.to_global(frames, sure))
    code, said = called(capsys, "evaluate", tmp_path / "results.json", "--data", road, "--json")
    scores = json.loads(said.out)
    assert code == 0
    there = [c for c in scores["classes"].values() if c["truth"]]
    assert there
    assert all(c["ap"] == pytest.approx(1.0) for c in there)
    # the fronts of cones and barriers are nobody's
    assert all(c["errors"]["translation"] < 1e-6 for c in there)
    results = {
        f.name: pipeline.kitti_labels(f, o, kitti.read_calibration(road / "calib" / f"{f.name}.txt"))
        for f, o in zip(kitti.read(road), [replace(f.objects, scores=torch.ones(len(f.objects))) for f in kitti.read(road)])
    }
    kitti.write_results(tmp_path / "kitti", results)
    report = commands.score(tmp_path / "kitti", road)
    counted = [v for row in report["classes"].values() for v in row["3d"].values() if v is not None]
    number = [v for row in report["classes"].values() for v in row["truth"].values() if v > 0]
    assert counted == pytest.approx([(min(n, 41) - 1) / 40 for n in number])  # the first of n points does not count


def test_nothing_found_gives_empty_but_valid_files(run, road, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        pipeline.BoxRun, "predict", lambda self, frame, options: inference.predict(self.model, frame, min_score=2.0)
    )
    code, _ = called(
        capsys, "predict", road, "--model", run, "--out", tmp_path, "--views", "3d", "bev", "orientation", "points"
    )
    assert code == 0
    content = json.loads((tmp_path / "results_nusc.json").read_text())["results"]
    assert len(content) == 3
    assert all(boxes == [] for boxes in content.values())
    assert [p.read_text() for p in (tmp_path / "kitti").iterdir()] == [""] * 3
    report = commands.score(tmp_path / "results_nusc.json", road)
    assert report["map"] == 0
    assert "NDS" in commands.text(report)
    assert commands.score(tmp_path / "kitti", road)["pictures"] == 3


def test_pictures_with_one_camera(run, road, tmp_path, capsys):
    camera = tmp_path / "camera.json"
    camera.write_text(json.dumps({"fx": 130, "fy": 130, "cx": 79.5, "cy": 30, "width": 160, "height": 64}))
    pictures = road / "image_2"
    code, said = called(
        capsys, "predict", pictures, "--model", run, "--camera", camera, "--out", tmp_path / "o", "--limit", "2"
    )
    assert code == 0, said.err
    rows = json.loads((tmp_path / "o" / "boxes.json").read_text())["images"]
    assert len(rows) == 2
    for image in rows:
        for row in image["objects"]:
            assert row["name"] in road_scene.CLASSES
            assert row["centre"][2] > 0
            assert min(row["size"]) > 0
            assert set(row["spread"]) == {"across", "along", "yaw"}
            assert all(v >= 0 and math.isfinite(v) for v in row["spread"].values())
    shared = ("predict", pictures, "--model", run, "--camera", camera, "--out", tmp_path / "s", "--limit", "2", "--shard")
    assert called(capsys, *shared, "1/2")[0] == called(capsys, *shared, "2/2")[0] == 0
    assert called(capsys, "merge", tmp_path / "s")[0] == 0
    there, whole = ({p.relative_to(o): p.read_bytes() for p in o.rglob("*.*")} for o in (tmp_path / "s", tmp_path / "o"))
    assert {name: content.replace(b"/s/", b"/o/") for name, content in there.items()} == whole
    code, said = called(capsys, "predict", road, "--model", run, "--shard", "1/2")
    assert (code, "--shard and --ray go with pictures" in said.err) == (2, True)
    code, said = called(capsys, "predict", pictures, "--model", run, "--out", tmp_path / "o")
    assert (code, "give --camera K.json" in said.err) == (2, True)
    camera.write_text(json.dumps({"fx": 130, "fy": 130, "cx": 79.5, "cy": 30, "width": 320, "height": 128}))
    code, said = called(capsys, "predict", pictures, "--model", run, "--camera", camera, "--out", tmp_path / "o")
    assert code == 1
    assert "320" in said.err
    assert "160" in said.err
    code, said = called(capsys, "predict", road, "--model", run, "--camera", camera)
    assert (code, "a data set that knows its cameras" in said.err) == (2, True)
    code, said = called(capsys, "predict", pictures, "--model", run, "--camera", camera, "--boxes", "0,0,9,9")
    assert (code, "--boxes belongs to runs that know CAD models" in said.err) == (2, True)


def test_broken_results_are_refused(road, tmp_path, capsys):
    frames = road_samples.read_frames(road)
    sure = [replace(f.objects, scores=torch.ones(len(f.objects))) for f in frames]
    file = tmp_path / "results.json"
    nuscenes.write_results(file, nuscenes.to_global(frames, sure))
    whole = json.loads(file.read_text())

    def refused(change):
        content = json.loads(json.dumps(whole))
        change(next(rows for rows in content["results"].values() if rows)[0])
        file.write_text(json.dumps(content))
        code, said = called(capsys, "evaluate", file, "--data", road)
        assert code == 1
        return said.err

    assert "NaN" in refused(lambda row: row.update(translation=[1.0, math.nan, 0.0]))
    assert "unknown detection_name 'tram'" in refused(lambda row: row.update(detection_name="tram"))
    code, _ = called(capsys, "evaluate", tmp_path / "nothing", "--data", road)
    assert code == 1


# ------------------------------------------------------------------------------------------------------- several cameras


def test_cameras_of_one_moment_keep_a_box_once():
    """Two cameras look the same way from places a metre apart: the box that both see stays where it scores more."""
    one = road_scene.RoadPictures(road_scene.RoadConfig(size=SIZE, shapes=1, objects=(1, 1)), seed=0)[0].frame
    ego_from_cam = one.ego_from_cam.clone()
    ego_from_cam[1, 3] += 1.0  # a metre to the left
    frames = [replace(one, sample="s", channel="A"), replace(one, sample="s", channel="B", ego_from_cam=ego_from_cam)]

    def seen(x, label, score):
        pose = boxes3d.from_yaw(torch.tensor([[x, 0.5, 12.0]]), torch.zeros(1))
        return replace(
            no_objects(), labels=torch.tensor([label]), cam_from_obj=pose, sizes=torch.tensor([[4.0, 1.5, 1.8]]),
            scores=torch.tensor([score]),
        )  # fmt: skip

    same = [seen(2.0, 0, 0.4), seen(3.1, 0, 0.6)]  # 0.1 m apart in the vehicle's frame
    assert [len(o) for o in pipeline.fused(frames, same)] == [0, 1]
    assert [len(o) for o in pipeline.fused(frames, [seen(2.0, 0, 0.4), seen(3.1, 1, 0.6)])] == [1, 1]  # other classes
    assert [len(o) for o in pipeline.fused(frames, [seen(2.0, 0, 0.4), seen(9.0, 0, 0.6)])] == [1, 1]  # other places
    apart = [replace(frames[0], sample="t"), frames[1]]
    assert [len(o) for o in pipeline.fused(apart, same)] == [1, 1]  # other moments
    with pytest.raises(ValueError, match="have no scores"):
        pipeline.fused(frames, [replace(o, scores=None) for o in same])


@pytest.mark.skipif(not NUSCENES.is_dir(), reason="needs ../shared/data/nuscenes_mini_sample")
def test_the_real_sample_keeps_each_box_once():
    """The truth of six cameras put together has no more boxes than the sample, and loses few that one camera alone sees."""
    frames = nuscenes.read_infos(NUSCENES / "infos.json")
    every = [replace(f.objects, scores=torch.ones(len(f.objects))) for f in frames]
    kept = pipeline.fused(frames, every)
    whole = len(nuscenes.infos_truth(NUSCENES / "infos.json").boxes.label)
    assert sum(map(len, kept)) < sum(map(len, every))
    assert sum(map(len, kept)) <= whole


# ------------------------------------------------------------------------------------------- LiDAR, DontCare, what is hidden


def with_lidar(frame, tmp_path):
    """The same frame with a sweep: the middle of every object, a point behind the camera and one beside the picture."""
    middles = frame.objects.cam_from_obj[:, :3, 3].float()
    points = torch.cat([middles, torch.tensor([[0.0, 0.0, -5.0], [500.0, 0.0, 5.0]])])
    raw = torch.cat([points, torch.zeros(len(points), 2)], 1).numpy().astype(np.float32)
    raw.tofile(tmp_path / "sweep.pcd.bin")
    return replace(frame, lidar=str(tmp_path / "sweep.pcd.bin"), cam_from_lidar=torch.eye(4, dtype=torch.float64))


def test_lidar_points_come_with_the_picture_and_into_the_mirror(road, tmp_path):
    frame = with_lidar(max(road_samples.read_frames(road), key=lambda f: len(f.objects)), tmp_path)
    sample = road_samples.sample_of(frame, frame.classes, SIZE, lidar=True)
    assert 0 < len(sample["lidar"]) <= len(frame.objects)
    assert bool((sample["lidar"][:, 2] > 0).all())
    for seed in range(8):
        changed = road_samples.augment_sample(sample, np.random.default_rng(seed))
        inside = (changed["lidar"][:, None] - changed["cam_from_obj"][None, :, :3, 3]).norm(dim=-1).amin(1)
        assert float(inside.max()) < 1e-3  # still the middles of the objects
    assert "lidar" not in road_samples.sample_of(frame, frame.classes, SIZE)


def test_coordinates_learn_from_lidar_and_nothing_is_silent(road, tmp_path):
    frames = [with_lidar(f, tmp_path) for f in road_samples.read_frames(road)[:1]]
    config = training.make_config(road, changes={**TINY, "coordinate_weight": 0.25})
    batch = training.RECIPE.collate([road_samples.sample_of(frames[0], config.classes, config.size, lidar=True)])
    torch.manual_seed(0)
    model = road_network.Model(config).train()
    losses = training.RECIPE.loss(model, model(batch["image"]), batch)
    assert float(losses["coordinates"].detach()) > 0
    with pytest.raises(ValueError, match=r"has no LiDAR points to learn from.*--set coordinate_weight=0"):
        training.train(road, tmp_path / "run", method_config=config, progress_bar=False)


def test_regions_that_nobody_knows_are_no_background(road):
    frame = max(road_samples.read_frames(road), key=lambda f: len(f.objects))
    config = training.make_config(road, changes=TINY)
    sample = road_samples.sample_of(frame, config.classes, config.size)
    torch.manual_seed(0)
    model = road_network.Model(config).eval()

    def of_classes(**changes):
        batch = training.RECIPE.collate([{**sample, **changes}])
        output = model(batch["image"])
        logits = output.cells.logits
        (gradient,) = torch.autograd.grad(training.RECIPE.loss(model, output, batch)["class"], logits)
        return gradient[0].abs().sum(-1)

    everywhere = torch.tensor([[0.0, 0.0, config.width, config.height]])
    plain, ignored = of_classes(ignored=torch.zeros(0, 4)), of_classes(ignored=everywhere)
    assert bool((plain > 0).all())
    assert 0 < int((ignored > 0).sum()) < len(plain) / 2  # what belongs to objects is learned all the same
    hidden = of_classes(ignored=torch.zeros(0, 4), visibility=torch.zeros(len(sample["labels"])))
    assert 0 < int((hidden == 0).sum()) < len(plain)  # around objects that nobody sees nothing is learned


def test_options_that_the_data_cannot_heed_are_refused(tmp_path):
    (tmp_path / "image_2").mkdir()
    own = road_config.small(("Car",))
    for data, given, message in (
        (tmp_path, {"backgrounds": tmp_path}, "--backgrounds belongs to roads that are drawn"),
        ("road", {"names": ["000001"]}, "--split names pictures of a data set"),
    ):
        with pytest.raises(ValueError, match=message):
            training.train(data, tmp_path / "run", method_config=own, **given)
