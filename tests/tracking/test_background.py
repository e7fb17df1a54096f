"""The detector beside the tracker: it holds nothing up, late answers are brought to the present, wrong ones steal no track."""

import threading

import numpy as np
import pytest
import torch

from followed import VIEWS, apart, frame, pose, wander
from monopose.tracking import background
from monopose.tracking.tracker import EVERY, Tracker
from monopose.types import PoseEstimates
from shapes import box


def found(*poses):
    stacked = torch.stack(poses) if poses else torch.zeros(0, 4, 4)
    return PoseEstimates(torch.ones(len(poses), dtype=torch.int64), stacked, torch.ones(len(poses)))


class Late:
    """Answers `delay` frames after it was asked, with the truth of then."""

    def __init__(self, delay, truth):
        self.delay, self.truth, self.asked, self.log = delay, truth, None, []

    def busy(self):
        return self.asked is not None

    def ask(self, index, frame):
        self.asked = index
        self.log.append(index)

    def answer(self, index):
        if self.asked is None or index < self.asked + self.delay:
            return None
        asked, self.asked = self.asked, None
        return background.Answer(asked, index, self.truth(asked))

    def close(self):
        pass


def test_the_thread_answers_when_it_is_done_and_not_before(backdrop):
    go = threading.Event()

    def detect(_):
        go.wait(5)
        return found(pose())

    detector = background.Background(detect)
    detector.ask(3, frame([], [], backdrop))
    assert detector.busy()
    assert detector.answer(4) is None
    go.set()
    detector.pool.shutdown(wait=True)
    answer = detector.answer(9)
    assert (answer.asked, answer.arrived, len(answer.poses)) == (3, 9, 1)
    assert not detector.busy()
    detector.close()


def test_an_error_of_the_detector_is_raised_and_not_lost(backdrop):
    def detect(_):
        raise RuntimeError("out of memory")

    detector = background.Background(detect)
    detector.ask(0, frame([], [], backdrop))
    detector.pool.shutdown(wait=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        detector.answer(1)


@pytest.mark.slow
def test_a_late_answer_is_brought_to_where_the_object_is_now(cache, backdrop):
    model = box()
    detector = Late(8, lambda asked: found(wander(asked)))
    tracker = Tracker([model], detector, cache=cache, views=VIEWS)
    for i in range(10):
        (track,) = tracker.step(frame([model], [wander(i)], backdrop))
    metres, degrees = apart(track, wander(9))
    assert apart(track, wander(0))[1] > 20
    assert not track.lost
    assert metres < 0.02
    assert degrees < 5


def test_a_tracked_object_is_checked_once_a_second_and_a_wrong_detection_does_not_steal_it(cache, backdrop):
    model = box()
    turned = pose(turn=(0.4, 1.6, 0.2))
    detector = Late(1, lambda asked: found(turned))
    tracker = Tracker([model], detector, cache=cache, views=VIEWS)
    tracker.start(frame([model], [pose()], backdrop), [pose()])
    for _ in range(EVERY + 4):
        (track,) = tracker.step(frame([model], [pose()], backdrop))
    assert detector.log == [0, EVERY]
    assert apart(track, pose())[1] < 5
    assert not track.lost


def test_answers_come_again_in_the_frames_that_they_came_in():
    answers = [background.Answer(0, 4, found(pose())), background.Answer(30, 33, found())]
    detector = background.Recorded(answers)
    detector.ask(0, None)
    assert [detector.answer(i) is not None for i in (1, 3, 4)] == [False, False, True]
    assert not detector.busy()
    detector.ask(30, None)
    assert detector.answer(34).poses.labels.shape == (0,)
    detector.ask(60, None)
    assert detector.answer(1000) is None  # the recording ends


def test_an_answer_of_frames_long_gone_changes_nothing(cache, backdrop, monkeypatch):
    monkeypatch.setattr("monopose.tracking.tracker.HISTORY", 3)
    model = box()
    tracker = Tracker([model], Late(6, lambda asked: found(pose())), cache=cache, views=VIEWS)
    for _ in range(8):
        (track,) = tracker.step(frame([model], [pose()], backdrop))
    assert track.lost
    assert np.isfinite(track.cam_from_obj.numpy()).all()
