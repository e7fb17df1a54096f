"""Videos with true poses: the truth is where the object is drawn, the hand hides no more than it may, BOP readers read them."""

import json

import numpy as np
import pytest
import torch

from monopose.datasets.bop import scenes
from monopose.io.shards import MERGE, Shard
from monopose.synthesis import video
from monopose.types import Camera
from shapes import box

K = torch.tensor([[150.0, 0.0, 79.5], [0.0, 150.0, 59.5], [0.0, 0.0, 1.0]])
CAMERA = Camera(K, (120, 160))
STILL = video.VideoConfig(shutter=0, noise=0, light=0, occlusion=0)


def film(frames=60, seed=1, **more):
    return video.plan([box()], CAMERA, frames, video.VideoConfig(**({"shutter": 0, "noise": 0} | more)), seed=seed)


def test_the_same_seed_gives_the_same_frame_and_another_one_another():
    (a, _), (b, _), (c, _) = (video.draw(film(seed=s, noise=0.02), 7) for s in (1, 1, 2))
    assert torch.equal(a.image, b.image)
    assert not torch.equal(a.image, c.image)


def test_camera_and_object_both_move_smoothly():
    plan = film()
    world = np.stack([video.cam_from_world(plan, i) for i in range(40)])
    poses = torch.stack([video.poses_at(plan, i)[0] for i in range(40)]).numpy()
    still = np.linalg.inv(world) @ poses
    for track in (world, still):
        step = np.linalg.norm(np.diff(track[:, :3, 3], axis=0), axis=1)
        assert step.max() > 1e-4
        assert np.abs(np.diff(step)).max() < 0.5 * step.max()


def test_the_hand_hides_some_of_the_object_and_never_more_than_it_may():
    plan = film(occlusion=0.4)
    seen = [float(video.draw(plan, i)[0].instances.visibility[0]) for i in range(0, 60, 6)]
    assert min(seen) < 0.8
    assert min(seen) > 0.55  # 0.6 up to the coarse pixels that it is measured in
    assert seen[0] == 1


def test_objects_leave_the_picture_for_as_long_as_told_and_come_back():
    plan = film(frames=90, away=1.0, occlusion=0)
    seen = [bool(video.draw(plan, i)[0].instances.visibility[0] > 0) for i in range(0, 90, 5)]
    away = [i * 5 for i, there in enumerate(seen) if not there]
    assert away == list(range(30, 61, 5))
    assert seen[-1]


def test_a_shutter_that_is_open_blurs():
    sharp, blurred = (video.draw(film(speed=4, shutter=s, light=0), 3)[0].image for s in (0, 1))
    assert blurred.diff(dim=2).square().mean() < 0.8 * sharp.diff(dim=2).square().mean()


def test_readers_of_bop_read_the_videos(tmp_path):
    video.write_bop([box(obj_id=1), box(obj_id=2)], tmp_path, videos=2, frames=3, camera=CAMERA, config=STILL, seed=5)
    opened = list(scenes.scenes(tmp_path / "test"))
    assert [s.im_ids.tolist() for s in opened] == [[0, 1, 2]] * 2
    frame = scenes.read_frame(opened[1], 2)
    true = video.poses_at(video.plan([box(obj_id=2)], CAMERA, 3, STILL, seed=6), 2)
    assert frame.instances.labels.tolist() == [2]
    assert torch.allclose(frame.instances.cam_from_obj, true.float(), atol=1e-5)
    assert json.loads((tmp_path / "test" / "video.json").read_text())["frames"] == 3
    with pytest.raises(ValueError, match="already there"):
        video.write_bop([box()], tmp_path, videos=1, frames=1, camera=CAMERA)


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_shards_give_the_same_videos(tmp_path, monkeypatch):
    """Blocks of two pictures, one of which has the end of a video and the beginning of the next."""
    monkeypatch.setattr(video, "CHUNK", 2)
    how = {"videos": 2, "frames": 3, "camera": CAMERA, "config": STILL, "seed": 5}
    whole, out, models = tmp_path / "whole/set", tmp_path / "shards/set", [box(obj_id=1), box(obj_id=2)]
    video.write_bop(models, whole, **how)
    video.write_bop(models, out, shard=Shard(2, 2), **how)
    with pytest.raises(ValueError, match=r"4 of 6 are missing in .*from 0: 0 to 1, 4 to 5.*run --shard 1/2 again"):
        video.write_bop(models, out, shard=MERGE, **how)
    with pytest.raises(ValueError, match="holds shards with other settings"):
        video.write_bop(models, out, shard=Shard(1, 2), **how | {"seed": 6})
    with pytest.raises(ValueError, match=r"already there; .*monopose merge .* finishes its shards"):
        video.write_bop(models, out, **how)
    video.write_bop(models, out, shard=Shard(1, 2), **how)
    monkeypatch.setattr(video, "draw", lambda *args: pytest.fail("drawn again"))
    video.write_bop(models, out, shard=Shard(1, 2), **how)
    video.write_bop(models, out, shard=MERGE, **how)
    assert files_of(out) == files_of(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"videos": 0}, "at least 1"), ({"together": 2}, "from 1 to the 1"), ({"frames": -1}, "at least 1")],
)
def test_what_cannot_be_made_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        video.write_bop([box()], tmp_path, **change)
    assert not (tmp_path / "test").exists()


def test_more_than_all_of_an_object_cannot_be_hidden():
    with pytest.raises(ValueError, match="occlusion must be"):
        video.VideoConfig(occlusion=2)
