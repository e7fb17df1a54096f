"""Scores of tracks: counted by hand on tracks whose errors are known."""

import json

import numpy as np
import pytest

from monopose.datasets.bop import writing
from monopose.evaluation import bop, tracks
from monopose.geometry import se3
from monopose.synthesis import video
from shapes import box


def an_object(group=None):
    points = np.array([[0.05, 0, 0], [-0.05, 0, 0], [0, 0.03, 0.02], [0, -0.03, 0.01]])
    group = np.eye(4)[None] if group is None else group
    return bop.Object(points, points, group, len(group) > 1, 0.1)


def at(x, turn=0.0):
    pose = np.eye(4)
    c, s = np.cos(turn), np.sin(turn)
    pose[:2, :2] = [[c, -s], [s, c]]
    pose[:3, 3] = [x, 0, 1]
    return pose


def judged(offsets, flagged=(), absent=(), turns=None):
    n = len(offsets)
    est = np.stack([at(x, 0 if turns is None else turns[i]) for i, x in enumerate(offsets)])
    flags, seen = np.zeros(n, bool), np.ones(n)
    flags[list(flagged)] = True
    seen[list(absent)] = 0
    return tracks.judged(est, flags, np.stack([at(0)] * n), seen, an_object())


def test_right_is_within_5_cm_and_5_degrees():
    t = judged([0, 0.04, 0.06, 0], turns=[0, 0, 0, np.radians(6)])
    assert t.right.tolist() == [True, True, False, False]
    assert t.metres == pytest.approx([0, 0.04, 0.06, 0], abs=1e-9)
    assert t.degrees[3] == pytest.approx(6)
    assert t.add[1] == pytest.approx(0.04)


def test_a_symmetric_object_is_right_where_it_looks_right():
    group = np.stack([np.eye(4), np.diag([-1.0, -1, 1, 1])])
    t = tracks.judged(at(0, np.pi)[None], np.zeros(1, bool), at(0)[None], np.ones(1), an_object(group))
    assert t.right.all()
    assert t.degrees[0] < 1e-3


def test_a_flag_within_five_frames_of_the_error_is_right_and_a_later_one_is_not():
    wrong = [0.0] * 10 + [0.2] * 20
    early = tracks.summary([judged(wrong, flagged=range(14, 30))], 30)
    assert early["flag_precision"] == early["flag_recall"] == 1
    late = tracks.summary([judged(wrong, flagged=range(25, 30))], 30)
    assert late["flag_recall"] == pytest.approx(10 / 20)  # 20 to 29
    false = tracks.summary([judged([0.0] * 30, flagged=[3, 4])], 30)
    assert false["flag_precision"] == 0
    assert false["flag_recall"] is None
    assert false["tracked"] == pytest.approx(28 / 30)


def test_an_object_that_comes_back_is_found_again_after_so_many_frames():
    absent = range(5, 15)
    offsets = [0.0] * 15 + [0.2] * 4 + [0.0] * 10
    scores = tracks.summary([judged(offsets, flagged=range(5, 21), absent=absent)], 30)
    assert scores["returns"] == 1
    assert scores["recovery_frames"][0] == 6
    assert scores["recovered"] == 1
    assert tracks.summary([judged(offsets, flagged=range(5, 29), absent=absent)], 30)["recovered"] == 0
    assert scores["frames"] == 19


def write(folder, poses, lost, label=1):
    rows = [
        {"image": f"{i:06d}", "tracks": [{"label": label, "cam_from_obj": p.tolist(), "lost": bool(flag)}]}
        for i, (p, flag) in enumerate(zip(poses, lost))
    ]
    file = folder / "tracks.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    return file


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    config = video.VideoConfig(fps=10, shutter=0, noise=0, occlusion=0)
    video.write_bop([box()], folder, videos=1, frames=4, config=config, camera=None)
    return folder / "test" / "000000"


@pytest.mark.slow
def test_a_file_of_tracks_is_scored_by_its_scene(scene, tmp_path):
    plan = video.plan([box()], video.synth.default_camera(), 4, video.VideoConfig(fps=10, shutter=0, noise=0, occlusion=0))
    poses = [video.poses_at(plan, i)[0].numpy() for i in range(4)]
    poses[3] = se3.exp(video.torch.tensor([0.2, 0, 0, 0, 0, 0.0]).double()).numpy() @ poses[3]
    scores = tracks.evaluate(write(tmp_path, poses, [0, 0, 0, 1]), scene)
    assert scores["right"] == pytest.approx(0.75)
    assert scores["fps"] == 10
    assert scores["flag_precision"] == scores["flag_recall"] == 1
    assert scores["per_object"]["1"]["frames"] == 4
    assert "5cm5deg" in tracks.text(scores)


def test_what_the_truth_does_not_know_is_refused(scene, tmp_path):
    with pytest.raises(ValueError, match="object id 7"):
        tracks.evaluate(write(tmp_path, [at(0)], [0], label=7), scene)
    file = write(tmp_path, [at(0)] * 5, [0] * 5)
    with pytest.raises(ValueError, match="does not know"):
        tracks.evaluate(file, scene)
    file.write_text('{"image": "000000", "tracks": [{"label": 1}]}\n')
    with pytest.raises(ValueError, match=r"line 1.*cam_from_obj"):
        tracks.evaluate(file, scene)
    assert writing.count_images(scene) == 4
