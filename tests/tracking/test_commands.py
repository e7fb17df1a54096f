"""What `monopose track` writes, records and replays; videos made and scored by the command line."""

import json
import math
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from followed import VIEWS, frame, pose, wander
from monopose import cli
from monopose.command import CameraOptions
from monopose.tracking import commands, options
from monopose.types import PoseEstimates
from shapes import box


@pytest.fixture
def folder(tmp_path, backdrop, cache):
    """Four pictures, a mesh in millimetres, a camera and a start."""
    import trimesh

    model = box()
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        picture = (frame([model], [wander(i)], backdrop).image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{i:03d}.png")
    trimesh.Trimesh(model.vertices.numpy() * 1000, model.faces.numpy(), process=False).export(tmp_path / "part.ply")
    (tmp_path / "start.json").write_text(json.dumps({"cam_from_obj": wander(0).tolist()}))
    (tmp_path / "views").symlink_to(cache)
    return tmp_path


@pytest.fixture(autouse=True)
def _few_views(monkeypatch):
    monkeypatch.setattr(commands.Tracker.__init__, "__defaults__", (None, None, VIEWS))


def arguments(folder, **more):
    camera = CameraOptions(fov=math.degrees(2 * math.atan(160 / 400)))
    given = {
        "source": str(folder / "pictures"), "mesh": (folder / "part.ply",), "unit": "mm", "start": folder / "start.json",
        "save": folder / "out", "camera": camera, "cache": folder / "views",
    }  # fmt: skip
    return options.Track(**(given | more))


def test_the_command_writes_poses_trajectory_and_video(folder, monkeypatch):
    import cv2

    said = []
    done = commands.track(arguments(folder), said.append)
    rows = [json.loads(line) for line in (folder / "out" / "tracks.jsonl").read_text().splitlines()]
    assert done["frames"] == len(rows) == 4
    assert not done["stopped"]
    for i, row in enumerate(rows):
        (track,) = row["tracks"]
        assert row["frame"] == i
        assert np.array(track["cam_from_obj"])[:3, 3] == pytest.approx(wander(i)[:3, 3].numpy(), abs=0.02)
        assert np.array(track["covariance"]).shape == (6, 6)
    (file,) = (folder / "out").glob("trajectory_*.txt")
    table = np.loadtxt(file)
    assert table.shape == (4, 8)
    assert np.linalg.norm(table[:, 4:], axis=1) == pytest.approx(1, abs=1e-5)
    video = cv2.VideoCapture(str(folder / "out" / "overlay.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 4
    assert any("found" in line for line in said)


def test_an_interruption_leaves_whole_files(folder, monkeypatch):
    frames = list(commands.iterate_frames(str(folder / "pictures"), None, fov_deg=43.0))

    def interrupted(*_args, **_more):
        yield from frames[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "iterate_frames", interrupted)
    done = commands.track(arguments(folder), lambda line: None)
    assert done["stopped"]
    assert len((folder / "out" / "tracks.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mesh": ()}, "give either a run"),
        ({"model": "lmo"}, "give either a run"),
        ({"start": None}, "need a start"),
    ],
)
def test_what_is_missing_is_named(folder, change, message):
    with pytest.raises(ValueError, match=message):
        arguments(folder, **change).check()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no pose"),
        ({"pose": 1}, "must hold cam_from_obj"),
        ([{"label": 9, "cam_from_obj": []}], "not among box1"),
    ],
)
def test_a_start_file_that_fits_nothing_is_refused(tmp_path, content, message):
    file = tmp_path / "start.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        commands.read_start(file, [box()])


def test_a_start_can_be_what_predict_wrote(tmp_path):
    file = tmp_path / "start.json"
    poses = [{"label": 2, "name": "box2", "score": 1.0, "cam_from_obj": pose().tolist()}]
    file.write_text(json.dumps({"images": [{"poses": poses}]}))
    assert list(commands.read_start(file, [box(obj_id=1), box(obj_id=2)])) == [1]


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "tracks.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("milliseconds")
    return rows


def test_a_recording_gives_the_same_tracks_again_also_where_the_detector_looked_in_the_background(
    folder, cache, backdrop, monkeypatch
):
    looked = []

    def detect(seen):
        time.sleep(0.05)
        looked.append(seen)
        return PoseEstimates(torch.ones(1, dtype=torch.int64), wander(0)[None], torch.ones(1))

    monkeypatch.setattr(commands, "_objects", lambda args, replayed: ([box()], None if replayed else detect))
    more = {"start": None, "background": True}
    commands.track(arguments(folder, record=folder / "kept", **more), lambda line: None)
    first = rows_of(folder / "out")
    answers = [json.loads(line) for line in (folder / "kept" / "recording.jsonl").read_text().splitlines() if "asked" in line]
    assert len(looked) == 1
    again = arguments(folder, source=str(folder / "kept"), save=folder / "again", start=None)
    again.check()
    done = commands.track(again, lambda line: None)
    assert done["frames"] == len(first) == 4
    assert rows_of(folder / "again") == first
    assert [a["asked"] for a in answers] in ([], [0])
    assert len(looked) == 1
    with pytest.raises(ValueError, match="holds a recording already"):
        commands.track(arguments(folder, record=folder / "kept", **more), lambda line: None)


def test_smoothed_poses_come_later_and_none_is_left_out(folder, cache, monkeypatch):
    done = commands.track(arguments(folder, smooth=1), lambda line: None)
    rows = rows_of(folder / "out")
    assert done["delay_frames"] == 1
    assert [row["frame"] for row in rows] == [0, 1, 2, 3]
    assert [row["image"] for row in rows] == ["000", "001", "002", "003"]
    for i, row in enumerate(rows):
        assert row["delay_frames"] == 1
        assert np.array(row["tracks"][0]["cam_from_obj"])[:3, 3] == pytest.approx(wander(i)[:3, 3].numpy(), abs=0.02)


def test_a_picture_of_another_size_among_them_is_tracked_too(folder, cache, monkeypatch):
    with Image.open(folder / "pictures" / "002.png") as picture:
        picture.resize((640, 480)).save(folder / "pictures" / "002.png")
    commands.track(arguments(folder), lambda line: None)
    for i, row in enumerate(rows_of(folder / "out")):
        assert not row["tracks"][0]["lost"]
        assert np.array(row["tracks"][0]["cam_from_obj"])[:3, 3] == pytest.approx(wander(i)[:3, 3].numpy(), abs=0.02)


def test_a_window_without_a_display_is_refused_before_anything_is_done(folder, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="needs a display"):
        commands.track(arguments(folder, window=True), lambda line: None)
    assert not (folder / "out").exists()


def test_videos_are_made_tracked_and_scored_by_the_command_line(folder, cache, monkeypatch, capsys):
    out = folder / "videos"
    made = ["synth", "--video", folder / "part.ply", "--unit", "mm", "--out", out, "--videos", "1", "--frames", "4", "--json"]
    assert cli.main([str(word) for word in [*made, "--occlusion", "0", "--shutter", "0", "--speed", "0.3"]]) == 0
    scene = out / "test" / "000000"
    followed = ["track", scene / "rgb", "--mesh", out / "models", "--camera", scene / "scene_camera.json"]
    followed += ["--start", scene / "scene_gt.json", "--save", folder / "tracked", "--cache", cache, "--json"]
    assert cli.main([str(word) for word in followed]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(folder / "tracked" / "tracks.jsonl"), "--data", str(scene), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["frames"] == 4
    assert scores["auc_add_s"] > 0.5  # contours of so few directions are good for centimetres


def test_tracks_for_the_rerun_viewer(folder):
    """What the file holds, read back: every picture, the mesh, and the pose at every frame that is tracked."""
    chunk = pytest.importorskip("rerun.chunk", reason="the extra rerun is not installed, or too old to read files back")
    file = folder / "scene" / "tracks.rrd"
    commands.track(arguments(folder, rrd=file), lambda _: None)
    assert [p.name for p in file.parent.iterdir()] == ["tracks.rrd"]
    rows = [json.loads(line)["tracks"][0] for line in (folder / "out" / "tracks.jsonl").read_text().splitlines()]
    tables: dict[str, dict] = {}
    for part in chunk.RrdReader(str(file)).stream():
        columns = part.to_record_batch().to_pydict()
        for name, values in columns.items():
            tables.setdefault(part.entity_path, {}).setdefault(name, []).extend(values)
    assert len(tables["/camera/0_part/mesh"]["Mesh3D:vertex_positions"][0]) == len(box().vertices)
    assert sum(v is not None for v in tables["/camera"]["EncodedImage:blob"]) == len(rows) == 4
    moves = tables["/camera/0_part"]
    there = {frame: move[0] for frame, move in zip(moves["frame"], moves["Transform3D:translation"]) if move}
    assert sorted(there) == [0, 1, 2, 3]
    for i, row in enumerate(rows):
        np.testing.assert_allclose(there[i], np.array(row["cam_from_obj"])[:3, 3], atol=1e-6)


def test_without_the_rerun_package_nothing_is_begun(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ImportError, match=r"pip install 'monopose\[rerun\]'"):
        commands.track(arguments(folder, rrd=folder / "tracks.rrd"), lambda _: None)
    assert not (folder / "out").exists()
    assert not list(folder.glob("*.rrd"))
