"""Tracks in pictures: outlines in a frame, a video file, a live window."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..contour import points
from ..io.files import atomic_write
from ..types import Frame
from .tracker import Track

FPS = 30.0  # of the saved video, and of the trajectories' clock
COLOURS = ((60, 220, 60), (70, 130, 255), (255, 120, 60), (230, 70, 230), (240, 220, 60))  # RGB, by the row of the model
LOST_COLOUR = (150, 150, 150)
TITLE = "monopose track (Q ends)"


def outlined(frame: Frame, tracks: Sequence[Track], views: Sequence[points.Views]) -> np.ndarray:
    """The picture with the contour of every object, grey while it is lost, (H, W, 3) uint8 RGB.

    Args:
        frame: the picture and its camera.
        tracks: of the objects; those that have never been seen are left out.
        views: their contours.
    """
    import cv2

    picture = (frame.image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy().copy()
    K = frame.camera.K.double().cpu().numpy()
    for i, (t, v) in enumerate(zip(tracks, views, strict=True)):
        pose = t.cam_from_obj.double().numpy()
        if t.lost and pose[2, 3] <= 0:
            continue
        found = points.looked_up([v], [0])(pose[None])
        x = found.centre[0, : found.number[0]] @ pose[:3, :3].T + pose[:3, 3]
        if not len(x) or (x[:, 2] <= 1e-3).any():
            continue
        colour = LOST_COLOUR if t.lost else COLOURS[i % len(COLOURS)]
        for a, b in np.clip((x @ K.T)[:, :2] / x[:, 2:], -1e4, 1e4).round().astype(int).tolist():
            cv2.circle(picture, (a, b), 1, colour, -1, cv2.LINE_AA)
        text = f"{t.name} {'lost' if t.lost else f'{1 - t.probability_lost:.2f}'}"
        a, b = np.clip((K @ pose[:3, 3])[:2] / pose[2, 3], -1e4, 1e4).round().astype(int).tolist()
        cv2.putText(picture, text, (a, b), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return picture


class Video:
    """An mp4 that begins with its first picture; later ones are fitted to the size of that."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.count = path, (0, 0), 0
        self.writer: Any = None
        self.temporary = ExitStack()

    def add(self, picture: np.ndarray) -> None:
        import cv2

        if self.writer is None:
            self.size = (picture.shape[1], picture.shape[0])
            self.partial = self.temporary.enter_context(atomic_write(self.path))
            self.writer = cv2.VideoWriter(str(self.partial), cv2.VideoWriter.fourcc(*"mp4v"), FPS, self.size)
        if picture.shape[1::-1] != self.size:
            picture = np.asarray(cv2.resize(picture, self.size))
        self.writer.write(np.ascontiguousarray(picture[..., ::-1]))
        self.count += 1

    def close(self) -> None:
        """Make the file whole; OSError where it is not, of which OpenCV says nothing."""
        import cv2

        if self.writer is None:
            return
        with self.temporary:
            self.writer.release()
            came = int(cv2.VideoCapture(str(self.partial)).get(cv2.CAP_PROP_FRAME_COUNT))
            if came != self.count:
                raise OSError(f"{self.path} could not be written: it holds {max(came, 0)} of {self.count} pictures")


class Window:
    """A window on the display.

    Raises:
        ValueError: there is no display, or this OpenCV cannot make windows.
    """

    def __init__(self) -> None:
        import cv2

        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ValueError("--window needs a display, and none is set (DISPLAY); leave it out: overlay.mp4 shows the same")
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise ValueError(
                "--window needs an OpenCV that makes windows, which opencv-python-headless does not: pip uninstall "
                "opencv-python-headless, pip install opencv-python; or leave it out: overlay.mp4 shows the same"
            ) from error

    def show(self, picture: np.ndarray) -> bool:
        """Show a picture; False if somebody has pressed Q or Esc, or closed the window."""
        import cv2

        cv2.imshow(TITLE, np.ascontiguousarray(picture[..., ::-1]))
        key = cv2.waitKey(1) & 0xFF
        return key not in (ord("q"), ord("Q"), 27) and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) > 0

    def close(self) -> None:
        import cv2

        cv2.destroyWindow(TITLE)
