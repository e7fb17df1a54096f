"""A video and its tracks, kept so that they can be looked at again while they still come: what a page plays and scrubs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..contour import points
from ..io import records
from ..io.files import existing_file
from ..types import Frame, ObjectModel
from . import viz
from .tracker import Track, Tracker

MOST = 3000  # moments that are kept, about 100 MB; the oldest are forgotten
WIDTH = 640  # of the kept pictures, pixels at most
QUALITY = 80  # of their JPEG


class Moment(NamedTuple):
    """One picture: its name, (height, width) and vertical focal length in pixels, the picture with outlines as JPEG, tracks."""

    name: str
    size: tuple[int, int]
    focal: float
    jpeg: bytes
    tracks: Sequence[Track]

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, at most `WIDTH` wide."""
        import cv2

        bgr = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        return np.asarray(bgr)[..., ::-1]


Steps = Iterator[tuple[str, Frame, Sequence[Track]]]


class Film:
    """Takes moments in a thread of its own until its source ends.

    Args:
        steps: names, frames and tracks, such as `tracked` gives; a ValueError or OSError of theirs ends the film.
        views: contours of the objects, by row.

    `first` and `last` number the moments that are there (`last` < `first`: none yet), `ended` says why no more will come.
    """

    def __init__(self, steps: Steps, views: Sequence[points.Views]) -> None:
        self.steps, self.views = steps, views
        self.moments: dict[int, Moment] = {}
        self.first, self.last, self.ended = 0, -1, ""
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._take, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """Let the thread end with the picture that it has."""
        self.closed.set()
        if self.thread.is_alive():
            self.thread.join(timeout=10)

    def at(self, index: int) -> Moment:
        """The moment of this number, or the nearest that is kept."""
        while True:
            moment = self.moments.get(min(max(index, self.first), self.last))
            if moment is not None:  # else the oldest was forgotten meanwhile
                return moment

    def _take(self) -> None:
        import cv2

        try:
            for name, frame, tracks in self.steps:
                picture = viz.outlined(frame, tracks, self.views)
                height, width = picture.shape[:2]
                if width > WIDTH:
                    picture = np.asarray(
                        cv2.resize(picture, (WIDTH, round(height * WIDTH / width)), interpolation=cv2.INTER_AREA)
                    )
                _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                focal = float(frame.camera.K[1, 1])
                self.moments[self.last + 1] = Moment(name, (height, width), focal, jpeg.tobytes(), tuple(tracks))
                self.last += 1
                if self.last - self.first >= MOST:
                    self.first += 1
                    del self.moments[self.first - 1]
                if self.closed.is_set():
                    break
            self.ended = f"The source ended after {self.last + 1} pictures."
        except (ValueError, OSError) as error:
            self.ended = str(error)


def tracked(tracker: Tracker, frames: Iterator[tuple[str, Frame]]) -> Steps:
    """Track while frames come; the tracker is closed in the end."""
    try:
        for name, frame in frames:
            yield name, frame, tracker.step(frame)
    finally:
        tracker.close()


def read(path: str | Path, models: Sequence[ObjectModel], frames: Iterator[tuple[str, Frame]]) -> Steps:
    """What `monopose track` has written, beside its pictures.

    Args:
        path: tracks.jsonl.
        models: the objects that it may name.
        frames: of the source that was tracked.

    Raises:
        FileNotFoundError, ValueError: no such file; a line that is none of `monopose track`; other objects; when they come:
            pictures of another source.
    """
    path = existing_file(path, "file of tracks")
    rows: list[tuple[str, list[Track]]] = []
    for n, line in enumerate(records.read_text(path).splitlines(), 1):
        where = f"{path}, line {n}"
        row = records.mapping(records.parse_json(line, where), where)
        tracks = [_track(t, where) for t in records.rows(records.value(row, "tracks", where), where)]
        if [t.label for t in tracks] != [m.obj_id for m in models]:
            names = ", ".join(t.name for t in tracks)
            raise ValueError(f"{where} follows {names or 'nothing'}, the run knows {', '.join(m.name for m in models)}")
        rows.append((records.text(row, "image", where), tracks))
    return _together(path, rows, frames)


def _together(path: Path, rows: list[tuple[str, list[Track]]], frames: Iterator[tuple[str, Frame]]) -> Steps:
    for (named, tracks), (name, frame) in zip(rows, frames):
        if named != name:
            raise ValueError(f"{path} has tracks of {named} where the source has {name}; give the source that was tracked")
        yield name, frame, tracks


def _track(row: Any, where: str) -> Track:
    pose = records.rigid_motions([records.value(row, "cam_from_obj", where)], where, "cam_from_obj")[0]
    label = records.whole(records.value(row, "label", where), where)
    chance = float(records.numbers(row, "probability_lost", (), where))
    covariance = torch.from_numpy(records.numbers(row, "covariance", (6, 6), where)).float()
    lost, why = bool(records.value(row, "lost", where)), tuple(map(str, row.get("reasons") or ()))
    return Track(label, records.text(row, "name", where), torch.from_numpy(pose).float(), covariance, chance, lost, why)
