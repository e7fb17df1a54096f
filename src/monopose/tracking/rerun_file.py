"""Tracks as a file for the rerun viewer (extra `rerun`): play, scrub, turn the scene. https://rerun.io"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..types import Frame, ObjectModel
from .tracker import Track

QUALITY = 85  # of the pictures, JPEG


def package() -> Any:
    """The rerun package. Raises ImportError if it is not installed."""
    try:
        import rerun
    except ImportError as error:
        raise ImportError("tracks for the rerun viewer need its package: pip install 'monopose[rerun]'") from error
    return rerun


class RerunFile:
    """Writes frames and poses as they come.

    In the viewer: `camera` is the picture with its intrinsics, OpenCV axes; `camera/ROW_NAME` the mesh at its pose, metres,
    while it is tracked; `lost/ROW_NAME` the probability that it is lost.

    Args:
        path: the file, as a rule NAME.rrd.
        models: what is tracked, by row.

    Raises:
        ImportError: rerun is not installed.
    """

    def __init__(self, path: str | Path, models: Sequence[ObjectModel]) -> None:
        self.rerun = rerun = package()
        self.stream: Any = rerun.RecordingStream("monopose")
        self.stream.save(str(path))
        self.stream.log("/", rerun.ViewCoordinates.RDF, static=True)
        self.places = [f"{row}_{model.name.replace('/', '_')}" for row, model in enumerate(models)]
        for place, m in zip(self.places, models, strict=True):
            colours = None if m.colors is None else (m.colors.cpu().numpy() * 255).astype(np.uint8)
            mesh = rerun.Mesh3D(
                vertex_positions=m.vertices.cpu().numpy(), triangle_indices=m.faces.cpu().numpy(), vertex_colors=colours
            )
            self.stream.log(f"camera/{place}/mesh", mesh, static=True)

    def add(self, index: int, seconds: float, frame: Frame, tracks: Sequence[Track]) -> None:
        """One frame: its number, its time in the video, the picture and what is tracked in it, by row."""
        import cv2

        rerun, stream = self.rerun, self.stream
        stream.set_time("frame", sequence=index)
        stream.set_time("time", duration=seconds)
        height, width = frame.camera.size
        stream.log("camera", rerun.Pinhole(image_from_camera=frame.camera.K.cpu().numpy(), resolution=[width, height]))
        picture = (frame.image.permute(1, 2, 0).float().cpu().numpy() * 255).round().astype(np.uint8)
        _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        stream.log("camera", rerun.EncodedImage(contents=data.tobytes(), media_type="image/jpeg"))
        for place, t in zip(self.places, tracks, strict=True):
            stream.log(f"lost/{place}", rerun.Scalars([float(t.probability_lost)]))
            pose = t.cam_from_obj.double().cpu().numpy()
            if t.lost:
                stream.log(f"camera/{place}", rerun.Transform3D(scale=0.0))  # nothing is shown
            else:
                stream.log(f"camera/{place}", rerun.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))

    def close(self) -> None:
        self.stream.flush()
        self.stream.disconnect()
