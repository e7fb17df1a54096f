"""A video that is kept while it is tracked: numbered moments, the oldest forgotten, and tracks of an earlier run beside it."""

import json

import pytest
import torch

from followed import SIZE, VIEWS, K, pose, wander
from monopose.contour import points
from monopose.tracking import commands, film
from monopose.tracking.tracker import Track
from monopose.types import Camera, Frame
from shapes import box


@pytest.fixture(scope="module")
def views(cache):
    return [points.views_of(box(), cache, VIEWS)]


def track(i, lost=False, label=1):
    return Track(label, "box1", wander(i), torch.eye(6), 0.9 if lost else 0.1, lost, ("its edges are weak",) * lost)


def steps(count, error=None):
    for i in range(count):
        yield f"{i:03d}", Frame(torch.full((3, *SIZE), 0.5), Camera(K, SIZE)), [track(i, lost=i == 2)]
    if error is not None:
        raise error


def taken(source, views):
    shown = film.Film(source, views)
    shown.start()
    shown.thread.join(20)
    return shown


def test_moments_are_numbered_and_the_oldest_forgotten(views, monkeypatch):
    monkeypatch.setattr(film, "MOST", 3)
    shown = taken(steps(5), views)
    assert (shown.first, shown.last, len(shown.moments)) == (2, 4, 3)
    assert [shown.at(i).name for i in (0, 3, 99)] == ["002", "003", "004"]
    assert shown.at(2).tracks[0].lost
    picture = shown.at(3).picture()
    assert picture.shape == (*SIZE, 3)
    assert picture[..., 1].max() > picture[0, 0, 1] + 40  # the outline is green
    assert shown.ended == "The source ended after 5 pictures."


def test_large_pictures_are_kept_small_and_an_error_ends_the_film(views, monkeypatch):
    monkeypatch.setattr(film, "WIDTH", 160)
    shown = taken(steps(1, ValueError("the camera was dropped")), views)
    assert shown.at(0).picture().shape == (120, 160, 3)
    assert shown.at(0).size == SIZE
    assert shown.ended == "the camera was dropped"


def test_tracks_of_an_earlier_run_come_with_their_pictures(tmp_path):
    file, frames = tmp_path / "tracks.jsonl", [(name, frame) for name, frame, _ in steps(4)]
    rows = [commands.record(f"{i:03d}", i, [track(i, lost=i == 2)], 0.01) for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    came = list(film.read(file, [box()], iter(frames)))
    assert [name for name, _, _ in came] == ["000", "001", "002", "003"]
    assert [t.lost for _, _, (t,) in came] == [False, False, True, False]
    torch.testing.assert_close(came[1][2][0].cam_from_obj, wander(1))
    with pytest.raises(ValueError, match=r"line 1 follows box1, the run knows box7"):
        film.read(file, [box(obj_id=7)], iter(frames))
    with pytest.raises(ValueError, match="has tracks of 000 where the source has 002"):
        list(film.read(file, [box()], iter(frames[2:])))
    file.write_text(json.dumps({"image": "a", "tracks": [{"label": 1, "cam_from_obj": pose()[:3].tolist()}]}))
    with pytest.raises(ValueError, match="cam_from_obj"):
        film.read(file, [box()], iter(frames))
