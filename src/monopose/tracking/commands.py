"""What `monopose track` does: a video in; poses as JSON lines, trajectories and a video with outlines out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contour import points
from ..geometry import rotation
from ..io import records
from ..io.files import atomic_write, existing_file, sole_writer
from ..io.images import iterate_frames
from ..mesh.loading import load_mesh
from ..types import Frame, ObjectModel
from . import options
from .tracker import Track, Tracker

FPS = 30.0  # of the saved video, and of the trajectories' clock
COLOURS = ((60, 220, 60), (70, 130, 255), (255, 120, 60), (230, 70, 230), (240, 220, 60))  # RGB, by the row of the model
LOST_COLOUR = (150, 150, 150)


def track(args: options.Track, printer: Callable[[str], None]) -> dict[str, Any]:
    """Follow objects through a source and save where they are; an interruption ends it like the end of the video.

    Args:
        args: see `options.Track`.
        printer: takes a line whenever an object is found or lost, and one at the end.

    Returns:
        {"tracks": the JSON lines' file, "frames": how many, "lost": object -> frames, "stopped": whether it was interrupted}.

    Raises:
        ValueError, FileNotFoundError: neither or both of a run and meshes; a start that fits no object; no such source.
    """
    models, detect = _objects(args)
    out = Path(args.save)
    printer(f"contours of {len(models)} object{'s' * (len(models) != 1)}; made once, then read from {args.cache or out}")
    with sole_writer(out, "track"):
        return _tracked(args, printer, models, detect, out)


def _tracked(
    args: options.Track, printer: Callable[[str], None], models: Sequence[ObjectModel], detect: Any, out: Path
) -> dict[str, Any]:
    tracker = Tracker(models, detect, args.cache or out)
    given = None if args.start is None else read_start(args.start, models)
    frames = iterate_frames(args.source, args.camera.camera, fov_deg=args.camera.fov, resize_camera=args.camera.resize_camera)
    lost = {m.name: 0 for m in models}
    stopped, count, video = False, 0, _Video(out / "overlay.mp4")
    before = [True] * len(models)
    poses: list[list[str]] = [[] for _ in models]
    file = out / "tracks.jsonl"
    failed: Exception | None = None
    with atomic_write(file) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        try:
            for name, frame in frames:
                if count == 0 and given is not None:
                    tracker.start(frame, given)
                tracks = tracker.step(frame)
                stream.write(json.dumps(record(name, count, tracks, tracker.seconds)) + "\n")
                for i, t in enumerate(tracks):
                    if t.lost != before[i]:
                        printer(f"{name}: {t.name} " + (f"lost: {', '.join(t.reasons)}" if t.lost else "found"))
                    before[i] = t.lost
                    lost[t.name] += t.lost
                    if not t.lost:
                        poses[i].append(tum_line(count / FPS, t.cam_from_obj))
                video.add(outlined(frame, tracks, tracker))
                count += 1
                if args.limit is not None and count >= args.limit:
                    break
        except KeyboardInterrupt:
            stopped = True
        except Exception as error:  # what came before it is kept
            failed = error
    try:
        video.close()
    except OSError as error:
        failed = failed or error
    for i, m in enumerate(models):
        with atomic_write(out / f"trajectory_{i}_{m.obj_id}.txt") as temporary:
            temporary.write_text("".join(poses[i]), encoding="utf-8")
    if failed is not None:
        raise failed
    printer(f"{count} frames: {file}, overlay.mp4 and trajectories beside it")
    return {"tracks": str(file), "frames": count, "lost": lost, "stopped": stopped}


def read_start(path: str | Path, models: Sequence[ObjectModel]) -> dict[int, Tensor]:
    """Poses of the first picture, by the row of the model.

    Args:
        path: JSON: {"cam_from_obj": 4 rows} for one object, or a list of such with "label" (object id) or "name", or an object
            with that list under "poses", as `monopose predict` writes it for a picture. Metres.
        models: what may be named.

    Raises:
        FileNotFoundError, ValueError: no pose in it, one that is no rigid motion, or of no known object.
    """
    content = records.read_json(existing_file(path, "file of poses"))
    if isinstance(content, dict) and "images" in content:
        content = next(iter(records.rows(content["images"], f"{path}: 'images'")), None)
    rows = content.get("poses", [content]) if isinstance(content, dict) else content
    out: dict[int, Tensor] = {}
    for row in records.rows(rows, f"{path}: 'poses'"):
        if not isinstance(row, dict) or "cam_from_obj" not in row:
            raise ValueError(f"{path} must hold cam_from_obj, four rows of four numbers in metres, got {str(row)[:80]}")
        label, name = row.get("label"), row.get("name")
        named = [i for i, m in enumerate(models) if label in (None, m.obj_id) and name in (None, m.name)]
        free = [i for i in named if i not in out]
        if not named:
            known = ", ".join(f"{m.name} ({m.obj_id})" for m in models)
            raise ValueError(f"{path} names the object {label if name is None else name}, which is not among {known}")
        if free:
            out[free[0]] = torch.from_numpy(records.rigid_motions([row["cam_from_obj"]], str(path), "cam_from_obj")[0])
    if not out:
        raise ValueError(f"{path} holds no pose; it needs cam_from_obj of every object in the first picture")
    return out


def record(name: str, index: int, tracks: Sequence[Track], seconds: float) -> dict[str, Any]:
    """One frame in plain values: metres, OpenCV camera; covariance of the tangent (v, omega) on the camera side."""
    return {
        "image": name,
        "frame": index,
        "milliseconds": round(1000 * seconds, 2),
        "tracks": [
            {
                "label": t.label, "name": t.name, "cam_from_obj": t.cam_from_obj.double().tolist(),
                "covariance": t.covariance.double().tolist(), "probability_lost": round(t.probability_lost, 4), "lost": t.lost,
                "reasons": list(t.reasons),
            }
            for t in tracks
        ],
    }  # fmt: skip


def tum_line(stamp: float, cam_from_obj: Tensor) -> str:
    """Seconds, translation, quaternion x y z w: the TUM trajectory format."""
    w, x, y, z = rotation.quat_wxyz_from_matrix(cam_from_obj[:3, :3].double()).tolist()
    numbers = [stamp, *cam_from_obj[:3, 3].double().tolist(), x, y, z, w]
    return " ".join(f"{value:.6f}" for value in numbers) + "\n"


def outlined(frame: Frame, tracks: Sequence[Track], tracker: Tracker) -> np.ndarray:
    """The picture with the contour of every object, grey while it is lost, (H, W, 3) uint8 RGB."""
    import cv2

    picture = (frame.image.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy().copy()
    K = frame.camera.K.double().cpu().numpy()
    for i, (t, s) in enumerate(zip(tracks, tracker.states)):
        if not s.started:
            continue
        pose = t.cam_from_obj.double().numpy()
        found = points.looked_up([s.views], [0])(pose[None])
        x = found.centre[0, : found.number[0]] @ pose[:3, :3].T + pose[:3, 3]
        if (x[:, 2] <= 1e-3).any():
            continue
        colour = LOST_COLOUR if t.lost else COLOURS[i % len(COLOURS)]
        for u, v in np.clip((x @ K.T)[:, :2] / x[:, 2:], -1e4, 1e4).round().astype(int).tolist():
            cv2.circle(picture, (u, v), 1, colour, -1, cv2.LINE_AA)
        text = f"{t.name} {'lost' if t.lost else f'{1 - t.probability_lost:.2f}'}"
        u, v = np.clip((K @ pose[:3, 3])[:2] / pose[2, 3], -1e4, 1e4).round().astype(int).tolist()
        cv2.putText(picture, text, (u, v), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return picture


def _objects(args: options.Track) -> tuple[list[ObjectModel], Callable[[Frame], Any] | None]:
    """What is to be followed, and how it is found."""
    if args.model is None:
        return [load_mesh(path, args.unit, obj_id=i + 1) for i, path in enumerate(args.mesh)], None
    from ..objects import pipeline

    run = pipeline.load(args.model, args.device)
    if not run.models:
        raise ValueError(f"{run.path} has no folder objects/ with the CAD models, whose outlines are followed; copy it there")
    detect = run.predict if run.detector is not None else None
    if detect is None and args.start is None:
        raise ValueError(f"{run.path} has no detector.safetensors, so it cannot find the start; give --start pose.json")
    return list(run.models.values()), None if detect is None else lambda frame: run.predict(frame, looks=1)


class _Video:
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
