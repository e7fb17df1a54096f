"""Points on an object's silhouette and their outward normals: from a rendering at a pose, or from renderings made once.

Arrays are numpy, metres, object frame. Source: Stoiber et al., SRT3D (IJCV 2022), sparse viewpoint model.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..geometry import se3
from ..geometry.viewpoints import fibonacci_sphere, look_at
from ..io.files import atomic_write
from ..render.raster import rasterize
from ..types import ObjectModel
from . import kernels

Array = np.ndarray
POINTS = 200  # of a silhouette
VIEWS = 2562  # 4 degrees apart
SIDE = 400  # pixels of a rendering, which the object nearly fills
DISTANCE = 5.0  # of the views' cameras, diameters: perspective as an object of 0.1 m has it at half a metre
SMOOTH, CHORD = 3, 5  # contour pixels on either side that a point and its normal are taken from
LEAST = 15  # pixels of a contour; shorter ones are noise of the rendering
FORMAT = 1  # of the cached files; raise it whenever the points come out differently


class Points(NamedTuple):
    """Points on the silhouettes of B views or instances.

    centre (B, N, 3); normal (B, N, 3), unit, out of the object, without a part along that view's optical axis; inner and outer
    (B, N), metres to where the silhouette ends behind and begins again before the point, at most infinite; number (B,), of
    the N that are there; length (B,), metres of contour.
    """

    centre: Array
    normal: Array
    inner: Array
    outer: Array
    number: Array
    length: Array

    def take(self, rows: Array) -> Points:
        """Those of some views."""
        return Points(*(np.ascontiguousarray(value[rows]) for value in self))


class Views(NamedTuple):
    """The contours of one object from all around.

    directions (V, 3): from the object's centre to the camera, unit; centre (3,): of the box around it; points: V of them.
    """

    directions: Array
    centre: Array
    points: Points


PointsAt = Callable[[Array], Points]  # poses (B, 4, 4) -> the points of B instances


def from_mask(mask: Array, depth: Array, K: Array, cam_from_obj: Array, n: int = POINTS) -> Points:
    """Points evenly spaced along the outlines of a rendered silhouette, holes included.

    Args:
        mask: (h, w), bool.
        depth: (h, w), metres, where the mask is true.
        K: (3, 3), pixels.
        cam_from_obj: (4, 4).
        n: points.

    Returns:
        Points of one instance; none where the silhouette is empty. What lies at the border of the picture is left out.
    """
    import cv2

    height, width = mask.shape
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    pixels, smooth, chords = [], [], []
    for outline in outlines:
        if len(outline) < LEAST:
            continue
        line = outline[:, 0]
        around = np.concatenate([line[-CHORD:], line, line[:CHORD]]).astype(np.float64)
        total = np.concatenate([np.zeros((1, 2)), around.cumsum(0)])
        low = CHORD - SMOOTH
        window = 2 * SMOOTH + 1
        smooth.append((total[low + window : low + window + len(line)] - total[low : low + len(line)]) / window)
        chords.append(around[2 * CHORD :] - around[: len(line)])
        pixels.append(line)
    out = Points(*(np.zeros((1, n, 3)),) * 2, *(np.zeros((1, n)),) * 2, np.zeros(1, np.int64), np.zeros(1))
    out = Points(*(value.copy() for value in out))
    if not pixels:
        return out
    raw, place, chord = np.concatenate(pixels), np.concatenate(smooth), np.concatenate(chords)
    long = np.linalg.norm(chord, axis=1)
    inside = (raw > 0).all(1) & (raw[:, 0] < width - 1) & (raw[:, 1] < height - 1)
    good = np.flatnonzero(inside & (long > 3))
    if not len(good):
        return out
    z_all = depth[raw[:, 1], raw[:, 0]]
    steps = np.linalg.norm(np.diff(place, axis=0, append=place[:1]), axis=1)
    out.length[0] = (np.minimum(steps, 2.0) * z_all)[good].sum() / K[0, 0]
    if len(good) > n:
        good = good[((np.arange(n) + 0.5) * len(good) / n).astype(np.int64)]
    m, z = len(good), z_all[good].astype(np.float64)
    normal = np.stack([-chord[good, 1], chord[good, 0]], 1) / long[good, None]  # outlines run so that the object is to the left
    at = np.ascontiguousarray(raw[good])
    inner, outer = np.empty(m), np.empty(m)
    kernels.clearances(np.ascontiguousarray(mask), at, normal, inner, outer)
    # rim pixels lie inside: their centres are up to one step of the grid from the edge, half of one on average
    edge = place[good] + 0.5 * np.abs(normal).max(1, keepdims=True) * normal
    ray = np.linalg.inv(K) @ np.concatenate([edge, np.ones((m, 1))], 1).T
    R, t = cam_from_obj[:3, :3], cam_from_obj[:3, 3]
    out.centre[0, :m] = (ray.T * z[:, None] - t) @ R
    out.normal[0, :m] = normal @ R[:2]
    out.inner[0, :m], out.outer[0, :m] = inner * z / K[0, 0], outer * z / K[0, 0]
    out.number[0] = m
    return out


def joined(points: Sequence[Points]) -> Points:
    """Several instances in one batch."""
    return Points(*(np.concatenate(values) for values in zip(*points)))


def rendered(models: Sequence[ObjectModel], side: int = 256, n: int = POINTS) -> PointsAt:
    """Contours drawn anew at every pose: exact in self-occlusion and perspective, milliseconds each.

    Args:
        models: of the B instances, in the order of the poses that the result is called with.
        side: pixels of the renderings, in which every object just fits.
        n: points.
    """
    meshes = [(m.vertices.double().cpu(), m.faces.cpu()) for m in models]

    def at(poses: Array) -> Points:
        return joined([_drawn(v, f, torch.from_numpy(pose)[None], side, n) for (v, f), pose in zip(meshes, poses)])

    return at


def _drawn(vertices: torch.Tensor, faces: torch.Tensor, poses: torch.Tensor, side: int, n: int) -> Points:
    """The contours of one mesh at poses (B, 4, 4), each in a picture of its own that it nearly fills."""
    seen = se3.transform(poses, vertices)
    z = seen[..., 2:]
    if bool((z <= 1e-3).any()):  # at the camera or behind it: no contour
        nothing = from_mask(np.zeros((3, 3), bool), np.zeros((3, 3)), np.eye(3), np.eye(4), n)
        if len(poses) == 1:
            return nothing
        return joined([_drawn(vertices, faces, pose[None], side, n) for pose in poses])
    flat = seen[..., :2] / z
    low, high = flat.amin(1), flat.amax(1)
    focal = (side - 9) / (high - low).amax(1).clamp_min(1e-9)
    K = torch.eye(3, dtype=torch.float64).repeat(len(poses), 1, 1)
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, :2, 2] = (side - 1) / 2 - focal[:, None] * (low + high) / 2
    drawn = rasterize(seen.float(), faces, K, (side, side), near=1e-4)
    masks, depth = (drawn.face >= 0).numpy(), drawn.depth.numpy()
    return joined([from_mask(m, d, k, pose, n) for m, d, k, pose in zip(masks, depth, K.numpy(), poses.numpy())])


def build_views(model: ObjectModel, views: int = VIEWS, n: int = POINTS, side: int = SIDE) -> Views:
    """Render an object from all around and keep the contours.

    Args:
        model: the CAD model.
        views: directions, evenly spread.
        n: points of each.
        side: pixels of a rendering.
    """
    vertices, faces = model.vertices.double().cpu(), model.faces.cpu()
    centre = model.bounds.double().cpu().mean(0)
    directions = fibonacci_sphere(views, torch.float64)
    R = look_at(directions)
    t = -(R @ centre) + torch.tensor([0.0, 0.0, DISTANCE * model.diameter], dtype=torch.float64)
    poses = se3.from_rt(R, t)
    parts = [_drawn(vertices, faces, poses[i : i + 16], side, n) for i in range(0, views, 16)]
    return Views(
        directions.numpy(), centre.numpy(), Points(*(v if v.dtype == np.int64 else v.astype(np.float32) for v in joined(parts)))
    )


def views_of(model: ObjectModel, folder: str | Path | None = None, views: int = VIEWS) -> Views:
    """`build_views`, from a file in a folder where an earlier call has left it there; None: no file.

    The file's name holds a sum over the mesh, so that another mesh never gets these views.
    """
    if folder is None:
        return build_views(model, views)
    file = Path(folder) / f"contours_{_digest(model, views)}.npz"
    if file.is_file():
        try:
            with np.load(file) as kept:
                return Views(kept["directions"], kept["origin"], Points(*(kept[name] for name in Points._fields)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # a damaged file is made again
    built = build_views(model, views)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, directions=built.directions, origin=built.centre, **built.points._asdict())
    return built


def _digest(model: ObjectModel, views: int) -> str:
    text = hashlib.sha256(f"{FORMAT} {views} {POINTS} {SIDE} {DISTANCE} {SMOOTH} {CHORD}".encode())
    text.update(model.vertices.detach().cpu().numpy().tobytes())
    text.update(model.faces.detach().cpu().numpy().tobytes())
    return text.hexdigest()[:16]


def closest(views: Views, poses: Array) -> Array:
    """The views nearest to poses (B, 4, 4), (B,): where the camera stands, seen from the object's centre."""
    R, t = poses[:, :3, :3], poses[:, :3, 3]
    away = -(np.swapaxes(R, 1, 2) @ t[..., None])[..., 0] - views.centre
    return (away @ views.directions.T).argmax(1)


def looked_up(views: Sequence[Views], view_of: Sequence[int]) -> PointsAt:
    """Contours from views made before.

    Args:
        views: of the objects.
        view_of: which of them each instance is.
    """

    def at(poses: Array) -> Points:
        return joined([views[k].points.take(closest(views[k], pose[None])) for k, pose in zip(view_of, poses)])

    return at
