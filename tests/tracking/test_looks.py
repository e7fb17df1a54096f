"""The network of the silhouettes beside a track: it leads where the contour cannot, and says what a contour does not see."""

import math

import numpy as np
import pytest
import torch

from followed import VIEWS, apart, frame, pose, wander
from monopose.objects import silhouettes
from monopose.tracking import tracker as tracking
from monopose.tracking.tracker import Tracker
from shapes import box


@pytest.fixture
def none(monkeypatch):
    """No network comes with monopose."""
    monkeypatch.setattr(silhouettes, "of_base", lambda: None)


def followed(model, poses, backdrop, cache):
    tracker = Tracker([model], cache=cache, views=VIEWS)
    tracker.start(frame([model], [poses[0]], backdrop), [poses[0]])
    return [tracker.step(frame([model], [p], backdrop))[0] for p in poses[1:]]


FAR = pose(0.02, 0.01, 0.48, (1.0, 0.35, 0.3))


def test_a_turn_that_is_too_large_for_the_contour_is_followed(cache, backdrop):
    track = followed(box(), [pose(), FAR, FAR], backdrop, cache)[-1]
    assert apart(track._replace(cam_from_obj=pose()), FAR)[1] > 33
    metres, degrees = apart(track, FAR)
    assert metres < 0.02
    assert degrees < 5
    assert not track.lost


@pytest.mark.usefixtures("none")
def test_and_without_the_network_it_is_not(cache, backdrop):
    track = followed(box(), [pose(), FAR, FAR], backdrop, cache)[-1]
    assert apart(track, FAR)[1] > 5


def test_a_sure_track_pays_one_look_in_ten_frames_and_stays_the_same(cache, backdrop, monkeypatch):
    looks, look = [], silhouettes.look
    monkeypatch.setattr(silhouettes, "look", lambda *given: looks.append(1) or look(*given))
    poses = [wander(0.2 * i) for i in range(12)]
    seen = followed(box(), poses, backdrop, cache)
    assert len(looks) == 1
    monkeypatch.setattr(silhouettes, "of_base", lambda: None)
    for one, other in zip(seen, followed(box(), poses, backdrop, cache), strict=True):
        assert torch.equal(one.cam_from_obj, other.cam_from_obj)


def test_what_the_photo_does_not_show_is_doubted_though_its_outline_fits(cache, backdrop, monkeypatch):
    monkeypatch.setattr(silhouettes, "likeness", lambda seen: torch.full((len(seen.boxes),), 0.01))
    seen = followed(box(), [wander(0.2 * i) for i in range(tracking.LOOK + 1)], backdrop, cache)
    assert seen[-1].probability_lost > 10 * max(t.probability_lost for t in seen[:-1])
    unlike = tracking.Evidence(*np.array([1, 1, 0.8, 0.5, 0.9, 0.8, 0, math.log(0.05)]))
    assert "unlike" in tracking.reasons(unlike)[0]
    assert "unlike" not in tracking.reasons(unlike._replace(like=math.log(0.5)))[0]


@pytest.mark.parametrize("wrong", [pose(z=-0.5), pose(z=1e-4), np.nan * pose()])
def test_where_it_leads_nowhere_the_track_stays(cache, backdrop, monkeypatch, wrong):
    """A solution behind the camera, at it, or none."""
    monkeypatch.setattr(silhouettes, "solved", lambda seen, K, poses, models: (wrong[None].to(poses), None))
    monkeypatch.setattr(tracking, "SURE", -1.0)  # always in doubt
    for track, true in zip(followed(box(), [wander(i) for i in range(3)], backdrop, cache), [wander(1), wander(2)]):
        assert apart(track, true)[0] < 0.02
        assert not track.lost
