"""`monopose view`: a run's poses of a photo, or the symmetry axes of a mesh, on a page of this machine (monopose[view]).

`scene_of` and `axes_of` make what stands in the page, plain values that need no browser; `_show` hands them to viser.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .. import runs, viz
from ..contour import points
from ..datasets.bop import models as bop_models
from ..geometry import rotation
from ..io import limits, records
from ..io.files import sole_writer, write_json
from ..io.images import as_frame, is_live, is_video, iterate_frames
from ..mesh import symmetries
from ..mesh.loading import load_mesh, to_trimesh
from ..mesh.readers import FORMATS
from ..objects import pipeline
from ..objects.viz import save_stages
from ..tracking import film
from ..tracking.background import Background
from ..tracking.options import SAVE as CONTOURS
from ..tracking.tracker import Track, Tracker, detect_of
from ..tracking.viz import FPS
from ..types import Frame, ObjectModel, PoseEstimates, Symmetries
from ..viz import canvas
from ..viz.posterior import chosen

Array = NDArray[Any]
SAMPLES = 300  # of a posterior that are shown, drawn by their weights
SIGMAS = 2.0  # half axes of the ellipsoid around an object's origin
PALE, GREY = 0.35, (150, 150, 155)  # opacity of other hypotheses, colour of what was left out
PICTURE_WIDTH = 640  # of the pictures in the page's column, pixels


class Thing(NamedTuple):
    """Something in 3D, in the camera's frame (metres, x right, y down, z forward).

    Args:
        kind: "model", "frustum", "points", "ellipsoid" or "line".
        path: its name in the page's tree: "1 bracket/model".
        pose: where it stands, (4, 4).
        color: RGB, 0 to 255.
        value: an `ObjectModel`; the photo (H, W, 3), its vertical field of view in radians and its width / height; points
            (N, 3); half axes (3,); two ends (2, 3).
        opacity, shown: 1 is solid; whether it is visible at first.
    """

    kind: str
    path: str
    pose: Array
    color: tuple[int, int, int]
    value: Any
    opacity: float = 1.0
    shown: bool = True


def scene_of(
    frame: Frame,
    poses: PoseEstimates,
    models: Mapping[int, ObjectModel],
    left_out: PoseEstimates | None = None,
    posteriors: Sequence[Any] = (),
) -> list[Thing]:
    """What is known about a photo, in 3D: the camera's frustum; for each pose its model, and the ellipsoid of its origin.

    Args:
        frame, poses: the photo with its camera, and what was found in it.
        models: object id -> CAD model; objects without are points.
        left_out: what was found and is not trusted; hidden at first.
        posteriors: `objects.probabilistic.ObjectPosterior` of a probabilistic run: samples, and other modes, hidden at first.
    """
    height, width = frame.camera.size
    photo = (255 * frame.image.cpu()).round().byte().permute(1, 2, 0).numpy()
    view = photo, 2 * math.atan(height / (2 * float(frame.camera.K[1, 1]))), width / height
    things = [Thing("frustum", "camera", np.eye(4), (40, 40, 46), view)]
    for i, place in enumerate(poses.cam_from_obj.double().cpu().numpy()):
        label = int(poses.labels[i])
        name = f"{i + 1} {poses.name_of(label)}"
        color = canvas.probability_color(float(poses.scores[i])) if poses.calibrated else canvas.object_color(label)
        things.append(_object(f"{name}/model", label, place, models, color))
        if poses.covariance is not None and bool(torch.isfinite(poses.covariance[i]).all()):
            half, axes = ellipsoid(poses.covariance[i, :3, :3].double().cpu().numpy())
            around = np.block([[axes, place[:3, 3:]], [np.eye(4)[3:]]])
            things.append(Thing("ellipsoid", f"{name}/{SIGMAS:g} sigma", around, color, half, PALE))
    if left_out is not None:
        for i, (label, place) in enumerate(zip(left_out.labels.tolist(), left_out.cam_from_obj.double().cpu().numpy())):
            things.append(_object(f"left out/{i + 1} {left_out.name_of(label)}", label, place, models, GREY, False))
    for n, one in enumerate(posteriors):
        name, color, weights = f"posterior {n + 1} {poses.name_of(one.label)}", canvas.object_color(one.label), one.log_weights
        origins = one.samples[chosen(weights, len(weights), SAMPLES), :3, 3].double().cpu().numpy()
        things.append(Thing("points", f"{name}/samples", np.eye(4), color, origins))
        modes = np.unique(one.modes.double().cpu().numpy().round(4), axis=0, return_index=True)[1]
        others = one.modes[np.sort(modes)[1:]].double().cpu().numpy()
        things += [_object(f"{name}/mode {m + 2}", one.label, mode, models, color, False) for m, mode in enumerate(others)]
    return things


def _object(path: str, label: int, pose: Array, models: Mapping[int, ObjectModel], color: Any, found: bool = True) -> Thing:
    """An object at a pose; pale, and hidden at first, where it was not found there."""
    kind, value = ("model", models[label]) if label in models else ("points", np.zeros((1, 3)))
    return Thing(kind, path, pose, color, value, 1.0 if found else PALE, shown=found)


def ellipsoid(covariance: Array) -> tuple[Array, Array]:
    """Half axes (3,) at `SIGMAS` standard deviations, and their directions as the columns of a rotation (3, 3)."""
    values, axes = np.linalg.eigh(covariance)
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    return SIGMAS * np.sqrt(values.clip(1e-12)), axes


def axes_of(model: ObjectModel, findings: Sequence[symmetries.SymmetryFinding]) -> list[Thing]:
    """A mesh and the axes about which it repeats itself, or nearly so; those that are proposed are green."""
    things = [Thing("model", "model", np.eye(4), (170, 170, 178), model)]
    for n, found in enumerate(findings):
        reach = 0.75 * model.diameter * np.array(found.axis)
        ends = np.stack([np.array(found.offset) - reach, np.array(found.offset) + reach])
        things.append(Thing("line", f"axis {n + 1}", np.eye(4), (0, 160, 80) if found.accepted else (210, 70, 50), ends))
    return things


def accept(file: Path, obj_id: int, model: ObjectModel, accepted: Symmetries) -> Path:
    """Write an object's entry of models_info.json with these symmetries; the other entries stay. ValueError: it is none."""
    with sole_writer(file.parent, "models_info"):
        known = records.mapping(records.read_json(file), str(file)) if file.is_file() else {}
        write_json(file, {**known, str(obj_id): bop_models.models_info_entry(model, accepted)})
    return file


def _server(host: str, port: int) -> Any:
    if importlib.util.find_spec("viser") is None:
        raise ImportError("monopose view needs viser: pip install 'monopose[view]'")
    import viser

    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host=host, port=port, label="monopose", verbose=False)
    server.scene.set_up_direction("-y")
    return server


def _show(server: Any, things: Sequence[Thing], far: float = 0.0) -> list[Any]:
    """Put things into the page, `far` metres away from each other or as far as they are; returns their handles."""
    scene, handles = server.scene, []
    far = far or max(float(np.linalg.norm(thing.pose[:3, 3])) for thing in things) or 1.0
    for kind, path, pose, color, value, opacity, shown in things:
        wxyz = rotation.quat_wxyz_from_matrix(torch.from_numpy(pose[:3, :3])).numpy()
        at: dict[str, Any] = {"wxyz": wxyz, "position": pose[:3, 3], "visible": shown}
        if kind == "frustum":
            _look(server, (-far, -0.5 * far, 0.1 * far), (0.0, 0.0, 0.55 * far))
            handle = scene.add_camera_frustum(path, value[1], value[2], scale=0.2 * far, image=value[0], color=color)
        elif kind == "model" and opacity == 1 and (value.colors is not None or value.texture is not None):
            handle = scene.add_mesh_trimesh(path, to_trimesh(value), **at)
        elif kind == "model":
            mesh = value.vertices.cpu().numpy(), value.faces.cpu().numpy()
            handle = scene.add_mesh_simple(path, *mesh, color=color, opacity=None if opacity == 1 else opacity, **at)
        elif kind == "ellipsoid":
            radii = tuple(float(v) for v in value)
            handle = scene.add_icosphere(path, 1.0, color, scale=radii, opacity=opacity, **at)
        elif kind == "points":
            handle = scene.add_point_cloud(path, value.astype(np.float32), color, point_size=0.004 * far, **at)
        else:
            ends = value[None].astype(np.float32)
            handle = scene.add_line_segments(path, ends, color, thickness=4.0, thickness_units="screen")
        handles.append(handle)
    return handles


def _look(server: Any, position: Any, at: Any) -> None:
    """From where the page looks at the scene until somebody moves it, metres."""
    server.initial_camera.look_at, server.initial_camera.position = at, position


def serve_run(run: pipeline.Pipeline, options: Mapping[str, Any], host: str, port: int, photo: Any = None) -> Any:
    """A page (`viser.ViserServer`) that shows what a run finds in a photo, and in those that are uploaded there.

    Args:
        run: of known objects.
        options: camera, fov_deg and resize_camera of all photos, as `io.images.as_frame` takes them.
        host, port: where the page is; the next free port if that is taken.
        photo: the first picture; None: only what is uploaded.
    """
    first = None if photo is None else as_frame(photo, **options)
    server, busy = _server(host, port), threading.Lock()
    upload = server.gui.add_upload_button("Another photo", mime_type="image/*")
    least = server.gui.add_slider("least probability", 0.0, 1.0, 0.01, pipeline.MIN_PROBABILITY)
    words, stages = server.gui.add_markdown("Choose a photo."), server.gui.add_folder("stages", expand_by_default=False)
    overlay = server.gui.add_image(np.full((2, 2, 3), 255, np.uint8), label="overlay")
    state, shown = dict[str, Any](), dict[str, list[Any]]()

    def clear(name: str) -> None:
        for handle in shown.pop(name, []):
            handle.remove()

    def draw() -> None:
        frame, poses, trace = state["frame"], state["poses"], state["trace"]
        kept = run.trusted(poses, frame, least.value)
        same = (poses.cam_from_obj[:, None] == kept.cam_from_obj[None]).all(-1).all(-1).any(1)
        clear("scene")
        shown["scene"] = _show(server, scene_of(frame, kept, run.models, poses[~same], trace.posteriors))
        overlay.image = np.asarray(viz.draw(frame, kept, run.models))
        words.content = _table(kept)

    def look(frame: Frame) -> None:
        poses, trace = run.predict_traced(frame)
        state.update(frame=frame.to("cpu"), poses=poses.to("cpu"), trace=trace)
        draw()
        clear("stages")
        with tempfile.TemporaryDirectory() as folder, stages:
            save_stages(Path(folder), state["frame"], trace, state["poses"], run)
            shown["stages"] = [_picture(server, file) for file in sorted(Path(folder).glob("*.png"))]

    def attempt(name: str, read: Callable[[], Frame]) -> None:
        with busy:
            words.content = f"Looking at {_plain(name)} …"
            try:
                look(read())
            except (ValueError, OSError, TypeError) as error:
                words.content = f"**{_plain(name)}**: {_plain(str(error))}"

    @upload.on_upload
    def _(event: Any) -> None:
        attempt(event.target.value.name, lambda: _uploaded(event.target.value, options))

    @least.on_update
    def _(event: Any) -> None:
        with busy:
            if state:
                draw()

    if first is not None:  # beside whoever opens the page: the first look compiles kernels
        threading.Thread(target=attempt, args=(first.path or "the photo", lambda: first), daemon=True).start()
    return server


def _uploaded(file: Any, options: Mapping[str, Any]) -> Frame:
    with limits.picture(io.BytesIO(file.content), file.name) as picture:
        return as_frame(picture, **options)


def serve_mesh(model: ObjectModel, file: Path, obj_id: int, host: str, port: int) -> Any:
    """A page with a mesh's symmetry axes, to be accepted or refused; a button writes the entry `obj_id` of models_info.json."""
    findings = symmetries.propose_symmetries(model).findings
    server = _server(host, port)
    handles = _show(server, axes_of(model, findings))[1:]
    middle, away = model.bounds.double().mean(0).cpu().numpy(), 1.1 * model.diameter
    _look(server, middle + away * np.array([0.6, -0.5, -0.8]), middle)
    server.gui.add_markdown("About which axes does the object look the same?" if findings else "No symmetry was found.")
    boxes = [server.gui.add_checkbox(f"{n + 1}: {found}", found.accepted) for n, found in enumerate(findings)]
    button, words = server.gui.add_button("Write models_info.json"), server.gui.add_markdown("")
    for box, handle in zip(boxes, handles):
        box.on_update(lambda event, box=box, handle=handle: setattr(handle, "visible", box.value))

    @button.on_click
    def _(event: Any) -> None:
        group = symmetries.group_of([f for f, box in zip(findings, boxes) if box.value], model)
        try:
            accept(file, obj_id, model, group)
            words.content = f"Written to {_plain(str(file))}: object {obj_id}, {symmetries.group_size(group)}."
        except (OSError, ValueError) as error:
            words.content = _plain(str(error))

    return server


def serve_film(shown: film.Film, models: Sequence[ObjectModel], live: bool, host: str, port: int) -> Any:
    """A page that plays a film while it is taken, stops at any picture of it, and shows the objects there in 3D.

    Args:
        shown: not started yet.
        models: what is tracked in it, by row.
        live: show the newest picture at first, not one after the other.
        host, port: as for `serve_run`.
    """
    server = _server(host, port)
    play, newest = server.gui.add_checkbox("play", True), server.gui.add_checkbox("jump to the newest", live)
    place = server.gui.add_slider("picture", 0, 1, 1, 0)
    words, overlay = server.gui.add_markdown("…"), server.gui.add_image(np.full((2, 2, 3), 255, np.uint8), label="outlines")
    paths = [f"{row + 1} {model.name}" for row, model in enumerate(models)]
    things = [Thing("model", name, np.eye(4), canvas.object_color(m.obj_id), m, shown=False) for name, m in zip(paths, models)]
    handles, camera, busy = _show(server, things), list[Any](), threading.Lock()

    def show(index: int) -> None:
        with busy:
            moment = shown.at(index)
            picture = overlay.image = moment.picture()
            if not camera:
                view = picture, 2 * math.atan(moment.size[0] / (2 * moment.focal)), moment.size[1] / moment.size[0]
                far = 5 * max(model.diameter for model in models)
                camera.extend(_show(server, [Thing("frustum", "camera", np.eye(4), (40, 40, 46), view)], far))
            camera[0].image = picture
            for handle, track in zip(handles, moment.tracks):
                handle.visible = not track.lost
                handle.wxyz = rotation.quat_wxyz_from_matrix(track.cam_from_obj[:3, :3]).numpy()
                handle.position = track.cam_from_obj[:3, 3].numpy()
            words.content = f"{_plain(moment.name)}\n\n{_tracks_table(moment.tracks)}\n\n{_plain(shown.ended)}"

    @place.on_update
    def _(event: Any) -> None:
        if event.client is not None and shown.last >= shown.first:  # somebody moved it, and there is a picture
            play.value = newest.value = False
            show(int(place.value))

    def run() -> None:
        shown.start()
        index, ended = -1, ""
        while not shown.closed.wait(1 / FPS):
            if shown.last < shown.first:
                words.content = _plain(shown.ended) or "Waiting for the first picture …"
                continue
            place.min, place.max = shown.first, max(shown.last, shown.first + 1)
            if not play.value:
                index = int(place.value)
                continue
            new = shown.last if newest.value and not shown.ended else max(index + 1, shown.first)
            if (new <= shown.last and new != index) or shown.ended != ended:
                index, ended = min(new, shown.last), shown.ended
                place.value = index
                show(index)

    threading.Thread(target=run, daemon=True).start()
    return server


def _tracks_table(tracks: Sequence[Track]) -> str:
    rows = [
        f"| {_plain(t.name)} | {_plain(', '.join(t.reasons)) if t.lost else f'{1 - t.probability_lost:.2f}'} | "
        f"{'' if t.lost else ', '.join(f'{v:.3f}' for v in t.cam_from_obj[:3, 3].tolist())} |"
        for t in tracks
    ]
    return "| | probability | x, y, z in m |\n|---|---|---|\n" + "\n".join(rows)


def _table(poses: PoseEstimates) -> str:
    head = f"| | {'probability' if poses.calibrated else 'score'} | x, y, z in m |\n|---|---|---|\n"
    rows = zip(poses.labels.tolist(), poses.scores.tolist(), poses.cam_from_obj[:, :3, 3].tolist())
    lines = [f"| {_plain(poses.name_of(i))} | {score:.2f} | {', '.join(f'{v:.3f}' for v in t)} |" for i, score, t in rows]
    return head + "\n".join(lines) if lines else "Nothing found."


def _plain(words: str) -> str:
    """Text of strangers without what Markdown takes for more."""
    return re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", " ".join(words.split())[:500])


def _picture(server: Any, file: Path) -> Any:
    with limits.picture(file, str(file)) as image:
        image.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
        return server.gui.add_image(np.asarray(image.convert("RGB")), label=file.stem)


def view(args: Any, say: Any) -> None:
    """Serve the page of `monopose view` until Ctrl-C."""
    source, camera, playing = Path(args.source), args.camera, None
    if source.is_file() and source.suffix.lower() in FORMATS:
        number, file = re.fullmatch(r"obj_(\d+)", source.stem), args.out or source.with_name("models_info.json")
        server = serve_mesh(load_mesh(source, args.unit), file, int(number[1]) if number else 1, args.host, args.port)
    else:
        if args.photo is not None and not camera.known:
            raise ValueError("a photo needs its camera: --camera FILE, or --fov DEGREES")
        run = runs.load(args.source, args.device, models=args.models)
        if not isinstance(run, pipeline.Pipeline):
            raise ValueError(f"{args.source} is a {runs.family_of(args.source)} run; monopose view shows runs of known objects")
        options = {"camera": camera.camera, "fov_deg": camera.fov, "resize_camera": camera.resize_camera}
        if args.photo is not None and (args.tracks is not None or is_video(args.photo)):
            playing = _film(run, args, iterate_frames(args.photo, **options), say)
            server = serve_film(playing, list(run.models.values()), is_live(args.photo), args.host, args.port)
        else:
            server = serve_run(run, options, args.host, args.port, args.photo)
    say(f"http://{server.get_host()}:{server.get_port()}    (Ctrl-C ends it)")
    try:
        server.sleep_forever()
    finally:
        if playing is not None:
            playing.close()


def _film(run: pipeline.Pipeline, args: Any, frames: Iterator[tuple[str, Frame]], say: Callable[[str], None]) -> film.Film:
    """What the page of a video plays: tracks that there are, or those of a tracker."""
    models = list(run.models.values())
    if not models:
        raise ValueError(f"{run.path} has no folder objects/ with the CAD models, whose outlines are followed; give --models")
    if args.tracks is None and run.detector is None:
        raise ValueError(f"{run.path} has no detector.safetensors to find objects; track from a start, then give --tracks")
    frames = chain([next(frames)], frames)  # before the contours, which take their time
    steps = None if args.tracks is None else film.read(args.tracks, models, frames)
    say(f"contours of {len(models)} object{'s' * (len(models) != 1)}; made once, then read from {CONTOURS}")
    if steps is not None:
        return film.Film(steps, [points.views_of(model, CONTOURS) for model in models])
    detect = detect_of(run)
    tracker = Tracker(models, Background(detect) if is_live(args.photo) else detect, CONTOURS)
    return film.Film(film.tracked(tracker, frames), [s.views for s in tracker.states])
