"""A detector beside a tracker: asked about a frame now and then, its answer comes some frames later.

`Inline` answers in the next frame; `Background` looks in a thread of its own while the tracker goes on; `Recorded` gives the
answers of an earlier run in the frames that they came in, so that a video that is tracked again gives the same tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch

from ..types import Frame, PoseEstimates

Detect = Callable[[Frame], PoseEstimates]


class Answer(NamedTuple):
    """What a detector found in frame `asked`; it came in frame `arrived`."""

    asked: int
    arrived: int
    poses: PoseEstimates


class Detector(Protocol):
    """What a tracker needs of a detector."""

    def busy(self) -> bool:
        """Whether it has been asked and its answer has not been taken yet."""

    def ask(self, index: int, frame: Frame) -> None:
        """Look at a frame; only when it is not busy."""

    def answer(self, index: int) -> Answer | None:
        """The answer, if there is one by the frame `index`."""

    def close(self) -> None:
        """End whatever runs."""


class Inline:
    """Looks at once, and answers in the next frame: the same video gives the same tracks."""

    def __init__(self, detect: Detect) -> None:
        self.detect = detect
        self.found: tuple[int, PoseEstimates] | None = None

    def busy(self) -> bool:
        return self.found is not None

    def ask(self, index: int, frame: Frame) -> None:
        self.found = (index, self.detect(frame))

    def answer(self, index: int) -> Answer | None:
        if self.found is None or self.found[0] == index:
            return None
        (asked, poses), self.found = self.found, None
        return Answer(asked, index, poses)

    def close(self) -> None:
        pass


class Background:
    """Looks in a thread of its own, whose torch takes `threads` cores."""

    def __init__(self, detect: Detect, threads: int = 1) -> None:
        self.detect = detect
        self.pool = ThreadPoolExecutor(1, "detector", initializer=torch.set_num_threads, initargs=(threads,))
        self.job: tuple[int, Future[PoseEstimates]] | None = None

    def busy(self) -> bool:
        return self.job is not None

    def ask(self, index: int, frame: Frame) -> None:
        self.job = (index, self.pool.submit(self.detect, frame))

    def answer(self, index: int) -> Answer | None:
        if self.job is None or not self.job[1].done():
            return None
        (asked, future), self.job = self.job, None
        return Answer(asked, index, future.result())

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


class Recorded:
    """Gives the answers of an earlier run when they came then."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = {a.asked: a for a in answers}
        self.waiting: int | None = None

    def busy(self) -> bool:
        return self.waiting is not None

    def ask(self, index: int, frame: Frame) -> None:
        self.waiting = index

    def answer(self, index: int) -> Answer | None:
        known = self.answers.get(-1 if self.waiting is None else self.waiting)
        if known is None or known.arrived > index:
            return None
        self.waiting = None
        return known._replace(arrived=index)

    def close(self) -> None:
        pass
