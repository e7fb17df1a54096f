"""What `monopose track` does: a video in; poses as JSON lines, trajectories and a video with outlines out."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..command import Result, Unit, shard_result
from ..datasets.bop import models as bop_models
from ..geometry import rotation
from ..io import records
from ..io.boxes import read_boxes
from ..io.files import atomic_write, existing_file, sole_writer
from ..io.images import is_live, iterate_frames
from ..mesh.loading import load_mesh
from ..types import Detections, Frame, ObjectModel
from . import background, options, recording, smoothing, viz
from .rerun_file import RerunFile, package
from .tracker import Track, Tracker, detect_of


def track(args: options.Track, printer: Callable[[str], None]) -> dict[str, Any]:
    """Follow objects through a source and save where they are; an interruption ends it like the end of the video.

    Args:
        args: see `options.Track`.
        printer: takes a line whenever an object is found or lost, and one at the end.

    Returns:
        {"tracks": the JSON lines' file, "frames": how many, "lost": object -> frames, "fps": frames per second of all that was
        done, "delay_frames": by which poses come later than their frame, "stopped": whether it was interrupted}.

    Raises:
        ValueError, FileNotFoundError: neither or both of a run and meshes; a start that fits no object; no such source; no
            display for a window. Files of what was tracked before are whole.
    """
    replayed = recording.read(args.source) if (Path(args.source) / options.RECORDING).is_file() else None
    if args.rrd is not None:
        package()  # before anything is written
    models, detect = _objects(args, replayed is not None)
    window = viz.Window() if args.window else None
    given, frames = _begun(args, models, replayed)  # before the contours, which take their time
    out = Path(args.save)
    printer(f"contours of {len(models)} object{'s' * (len(models) != 1)}; made once, then read from {args.cache or out}")
    with sole_writer(out, "track"):
        return _tracked(args, printer, models, detect, replayed, window, given, frames)


def _begun(
    args: options.Track, models: Sequence[ObjectModel], replayed: recording.Recording | None
) -> tuple[dict[int, Tensor] | None, Iterator[tuple[str, Frame]]]:
    """The poses of the first picture, if they are told, and the pictures, the first of which has been read."""
    if replayed is not None:
        return replayed.start, replayed.frames
    given = None if args.start is None else read_start(args.start, models)
    boxes = read_boxes(args.boxes, [m.obj_id for m in models], {m.obj_id: m.name for m in models}) if args.boxes else None
    camera = args.camera
    frames = iterate_frames(args.source, camera.camera, fov_deg=camera.fov, resize_camera=camera.resize_camera)
    first = next(frames)
    if boxes is not None:
        given = searched(first[1], boxes(first[0]), models, args.device)
    return given, chain([first], frames)


def searched(
    frame: Frame, boxes: Detections, models: Sequence[ObjectModel], device: torch.device | str | None = None
) -> dict[int, Tensor]:
    """Poses of objects in boxes, without training, by the row of the model; of several boxes of an object the likeliest.

    Raises:
        ValueError: no box in this picture.
    """
    from ..objects import search

    if not len(boxes):
        raise ValueError("--boxes has no box in the first picture, where the tracks begin; give one around every object there")
    found = search.predict_aligned(search.engine({m.obj_id: m for m in models}, device), frame, boxes)
    rows = {m.obj_id: i for i, m in enumerate(models)}
    order = found.scores.argsort().tolist()
    return {rows[int(found.labels[k])]: found.cam_from_obj[k].double().cpu() for k in order}


def _tracked(
    args: options.Track, printer: Callable[[str], None], models: Sequence[ObjectModel], detect: background.Detect | None,
    replayed: recording.Recording | None, window: viz.Window | None, given: dict[int, Tensor] | None,
    frames: Iterator[tuple[str, Frame]],
) -> dict[str, Any]:  # fmt: skip
    out = Path(args.save)
    tracker = Tracker(models, _detector(args, detect, replayed), args.cache or out)
    recorder = None if args.record is None else recording.Recorder(args.record, given, tracker.detector is not None)
    output = _Output(out, tracker, args.smooth, printer, window, args.rrd)
    stopped, count, heard, began = False, 0, 0, time.perf_counter()
    failed: Exception | None = None
    try:
        for name, frame in frames:
            if recorder is not None:
                frame = recorder.frame(name, frame)
            if count == 0 and given is not None:
                tracker.start(frame, given)
            tracks = tracker.step(frame)
            count += 1
            if recorder is not None:
                for answer in tracker.answers[heard:]:
                    recorder.answer(answer)
                heard = len(tracker.answers)
            output.add(name, frame, tracks, tracker.seconds)
            if output.closed or (args.limit is not None and count >= args.limit):
                break
    except KeyboardInterrupt:
        stopped = True
    except Exception as error:  # what came before it is kept
        failed = error
    tracker.close()
    if recorder is not None:
        recorder.close()
    try:
        output.close()
    except OSError as error:
        failed = failed or error
    if failed is not None:
        raise failed
    fps = count / max(time.perf_counter() - began, 1e-9)
    late = f"; smoothed, poses come {args.smooth} frames ({args.smooth / fps:.2f} s) late" if args.smooth else ""
    printer(f"{count} frames, {fps:.1f} a second: {output.file}, overlay.mp4 and trajectories beside it{late}")
    return {
        "tracks": str(output.file), "frames": count, "lost": output.lost, "fps": fps, "delay_frames": args.smooth,
        "stopped": stopped,
    }  # fmt: skip


class _Output:
    """All that a run writes; with smoothing, some frames after they came."""

    def __init__(
        self,
        out: Path,
        tracker: Tracker,
        delay: int,
        printer: Callable[[str], None],
        window: viz.Window | None,
        rrd: Path | None,
    ) -> None:
        self.out, self.tracker, self.delay, self.printer, self.window = out, tracker, delay, printer, window
        self.file = out / "tracks.jsonl"
        self.whole = ExitStack()  # renames the lines' file, and the scene's, at the end
        models = [s.model for s in tracker.states]
        self.scene: RerunFile | None = None
        if rrd is not None:
            self.scene = RerunFile(self.whole.enter_context(atomic_write(rrd)), models)
            self.whole.callback(self.scene.close)
        self.stream = self.whole.enter_context(open(self.whole.enter_context(atomic_write(self.file)), "w", encoding="utf-8"))  # noqa: SIM115
        self.video = viz.Video(out / "overlay.mp4")
        self.lost = {m.name: 0 for m in models}
        self.before = [True] * len(models)
        self.trajectories: list[list[str]] = [[] for _ in models]
        self.waiting: deque[tuple[str, Frame, list[Track], float]] = deque(maxlen=2 * delay + 1)
        self.count = 0  # frames that have been written
        self.closed = False  # somebody has closed the window

    def add(self, name: str, frame: Frame, tracks: list[Track], seconds: float) -> None:
        for i, t in enumerate(tracks):
            if t.lost != self.before[i]:
                self.printer(f"{name}: {t.name} " + (f"lost: {', '.join(t.reasons)}" if t.lost else "found"))
            self.before[i] = t.lost
            self.lost[t.name] += t.lost
        self.waiting.append((name, frame, tracks, seconds))
        if len(self.waiting) > self.delay:
            self._write(len(self.waiting) - 1 - self.delay)

    def close(self) -> None:
        """Write what still waits."""
        for place in range(max(len(self.waiting) - self.delay, 0), len(self.waiting)):
            self._write(place)
        self.whole.close()
        for i, s in enumerate(self.tracker.states):
            with atomic_write(self.out / f"trajectory_{i}_{s.model.obj_id}.txt") as temporary:
                temporary.write_text("".join(self.trajectories[i]), encoding="utf-8")
        if self.window is not None:
            self.window.close()
        self.video.close()

    def _write(self, place: int) -> None:
        name, frame, tracks, seconds = self.waiting[place]
        if self.delay:
            near = [t for _, _, t, _ in self.waiting]
            windows = [[None if w[i].lost else w[i].cam_from_obj for w in near] for i in range(len(tracks))]
            tracks = [t if t.lost else t._replace(cam_from_obj=smoothing.smoothed(w, place)) for t, w in zip(tracks, windows)]
        self.stream.write(json.dumps(record(name, self.count, tracks, seconds, self.delay)) + "\n")
        for i, t in enumerate(tracks):
            if not t.lost:
                self.trajectories[i].append(tum_line(self.count / viz.FPS, t.cam_from_obj))
        picture = viz.outlined(frame, tracks, [s.views for s in self.tracker.states])
        self.video.add(picture)
        if self.scene is not None:
            self.scene.add(self.count, self.count / viz.FPS, frame, tracks)
        if self.window is not None and not self.closed:
            self.closed = not self.window.show(picture)
        self.count += 1


def read_start(path: str | Path, models: Sequence[ObjectModel]) -> dict[int, Tensor]:
    """Poses of the first picture, by the row of the model.

    Args:
        path: JSON: {"cam_from_obj": 4 rows} for one object, or a list of such with "label" (object id) or "name", or an object
            with that list under "poses", as `monopose predict` writes it for a picture, metres; or BOP's scene_gt.json.
        models: what may be named.

    Raises:
        FileNotFoundError, ValueError: no pose in it, one that is no rigid motion, or of no known object.
    """
    content = records.read_json(existing_file(path, "file of poses"))
    if isinstance(content, dict) and "images" in content:
        content = next(iter(records.rows(content["images"], f"{path}: 'images'")), None)
    if isinstance(content, dict) and content and all(str(key).isdecimal() for key in content):
        content = [_of_bop(row, f"{path}, image {key}") for key in [min(content, key=int)] for row in content[key]]
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


def record(name: str, index: int, tracks: Sequence[Track], seconds: float, delay: int = 0) -> dict[str, Any]:
    """One frame in plain values: metres, OpenCV camera; covariance of the tangent (v, omega) on the camera side."""
    return {
        "image": name,
        "frame": index,
        "milliseconds": round(1000 * seconds, 2),
        "delay_frames": delay,
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


def synth(args: options.Synth) -> Result:
    """Make videos with true poses."""
    from ..io.cameras import read_camera
    from ..synthesis import video

    models = _meshes(args.models, args.unit)
    camera = None if args.camera is None else read_camera(args.camera)
    shard = args.share(args.sharing)
    out = video.write_bop(
        models, args.out, videos=args.videos, frames=args.frames, together=args.together, camera=camera, shard=shard,
        config=video.VideoConfig(**asdict(args.happens)), backgrounds=args.backgrounds, split=args.split, seed=args.seed,
    )  # fmt: skip
    if shard is not None and not shard.last:
        return shard_result(shard, out)
    return Result({"out": str(out)}, f"{args.videos} videos in {out / args.split}; track one: {_hint(args)}")


def _hint(args: options.Synth) -> str:
    scene = args.out / args.split / "000000"
    camera = scene / "scene_camera.json"
    return f"monopose track {scene / 'rgb'} --mesh {args.out / 'models'} --camera {camera} --start {scene / 'scene_gt.json'}"


def evaluate(args: options.Evaluate) -> Result:
    """Score the tracks of a video."""
    from ..evaluation import tracks

    scores = tracks.evaluate(args.results, args.data, args.fps)
    return Result(scores, tracks.text(scores))


def _of_bop(row: Any, where: str) -> dict[str, Any]:
    """A row of scene_gt.json as read_start wants it."""
    R, t = records.numbers(row, "cam_R_m2c", (3, 3), where), records.numbers(row, "cam_t_m2c", (3,), where) * records.MM
    pose = np.concatenate([np.concatenate([R, t[:, None]], 1), [[0, 0, 0, 1]]])
    return {"label": records.whole(records.value(row, "obj_id", where), where), "cam_from_obj": pose.tolist()}


def _meshes(paths: Sequence[Path], unit: Unit) -> list[ObjectModel]:
    """Mesh files, or one BOP models folder."""
    if len(paths) == 1 and paths[0].is_dir():
        return list(bop_models.read_models(paths[0]).values())
    ids = bop_models.ids_of_names(paths)
    return [load_mesh(path, unit, obj_id=i) for i, path in zip(ids, paths, strict=True)]


def _objects(args: options.Track, replayed: bool) -> tuple[list[ObjectModel], background.Detect | None]:
    """What is to be followed, and how it is found."""
    if args.model is None:
        return _meshes(args.mesh, args.unit), None
    from ..objects import pipeline

    run = pipeline.load(args.model, args.device)
    if not run.models:
        raise ValueError(f"{run.path} has no folder objects/ with the CAD models, whose outlines are followed; copy it there")
    if run.detector is None and args.start is None and not args.boxes and not replayed:
        raise ValueError(
            f"{run.path} has no detector.safetensors, so it cannot find the start; give --boxes x0,y0,x1,y1 there, or --start "
            "pose.json"
        )
    return list(run.models.values()), None if run.detector is None else detect_of(run)


def _detector(
    args: options.Track, detect: background.Detect | None, replayed: recording.Recording | None
) -> background.Detector | None:
    if replayed is not None:
        return background.Recorded(replayed.answers) if replayed.detector else None
    if detect is None:
        return None
    return background.Background(detect) if args.background or is_live(args.source) else background.Inline(detect)
