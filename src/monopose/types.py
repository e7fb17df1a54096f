"""The data that flows through monopose: frozen dataclasses that check their shapes on creation.

Metres, radians, OpenCV camera (x right, y down, z forward), pixel centres at integers, boxes `xyxy` on
pixel edges (the whole image is `(0, 0, w, h)`), sizes `(height, width)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")


def check_shape(value: Tensor | None, name: str, *shape: int | None) -> None:
    """Raise unless `value` ends in `shape` (None matches any size)."""
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}; use torch.as_tensor(...)")
    tail = tuple(value.shape[value.dim() - len(shape) :]) if value.dim() >= len(shape) else None
    if tail is None or any(want is not None and want != got for want, got in zip(shape, tail, strict=True)):
        wanted = ", ".join("*" if s is None else str(s) for s in shape)
        raise ValueError(f"{name} must have a shape ending in ({wanted}), got {tuple(value.shape)}")


def _width_by_height(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def moved(item: _T, *args: Any, **kwargs: Any) -> _T:
    changes: dict[str, Any] = {}
    device = torch.empty(0).to(*args, **kwargs).device
    for f in fields(item):  # type: ignore[arg-type]
        value = getattr(item, f.name)
        if isinstance(value, Tensor):  # a dtype is for the real numbers: labels and masks only change device
            changes[f.name] = value.to(*args, **kwargs) if value.is_floating_point() else value.to(device)
        elif hasattr(value, "to"):
            changes[f.name] = value.to(*args, **kwargs)
    return replace(item, **changes)  # type: ignore[type-var]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that knows the size of its image.

    Args:
        K: intrinsics, (..., 3, 3), pixels; pixel centres at integers.
        size: (height, width) of the image in pixels.
        distortion: OpenCV coefficients (k1, k2, p1, p2[, k3[, k4, k5, k6]]), (4 | 5 | 8,), or None.

    Source: OpenCV camera model; crop and scale as in PixLoc's camera, half pixels included.
    """

    K: Tensor
    size: tuple[int, int]
    distortion: Tensor | None = None

    def __post_init__(self) -> None:
        check_shape(self.K, "Camera.K", 3, 3)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"Camera.size must be (height, width) in pixels, both >= 1, got {self.size}")
        if not bool(torch.isfinite(self.K).all()) or bool((self.K[..., 0, 0] <= 0).any() or (self.K[..., 1, 1] <= 0).any()):
            raise ValueError(f"Camera.K needs finite values and positive focal lengths in pixels, got {self.K.tolist()}")
        if self.distortion is not None and self.distortion.shape[-1] not in (4, 5, 8):
            raise ValueError(f"Camera.distortion needs 4, 5 or 8 OpenCV coefficients, got {tuple(self.distortion.shape)}")

    def __repr__(self) -> str:
        if self.K.dim() > 2:
            return f"Camera({tuple(self.K.shape[:-2])} cameras, {_width_by_height(self.size)} pixels)"
        (fx, _, cx), (_, fy, cy), _ = self.K.tolist()
        lens = "" if self.distortion is None else f", {len(self.distortion)} distortion coefficients"
        return f"Camera({_width_by_height(self.size)} pixels, fx {fx:.1f}, fy {fy:.1f}, cx {cx:.1f}, cy {cy:.1f}{lens})"

    def crop_resize(self, boxes: Tensor, size: tuple[int, int]) -> Camera:
        """The camera of the image cut to `boxes` (..., 4) xyxy on pixel edges and resized to `size` (h, w).

        Edges lie half a pixel outside centres, hence the two halves. Drops `distortion`: undistort first.
        """
        from .geometry.camera import crop_resize_K

        return Camera(crop_resize_K(self.K, boxes, size), size)

    def resized(self, size: tuple[int, int]) -> Camera:
        """The camera of the whole image resized to `size` (h, w); keeps `distortion`, which has no unit."""
        from .geometry.camera import crop_resize_K

        whole = self.K.new_tensor([0.0, 0.0, self.size[1], self.size[0]])
        return Camera(crop_resize_K(self.K, whole, size), size, self.distortion)

    def to(self, *args: Any, **kwargs: Any) -> Camera:
        return moved(self, *args, **kwargs)


@dataclass(frozen=True)
class Symmetries:
    """The rigid motions that leave an object looking the same.

    Args:
        discrete: obj_from_obj transforms without the identity, (S, 4, 4), metres. S = 0 for none.
        axes: directions of continuous rotation symmetries, (A, 3), unit length, object frame. Two axes make a sphere.
        offsets: a point on each axis, (A, 3), metres, object frame.

    `geometry.symmetry.transforms` turns them into the finite group used by losses and metrics.
    Source: BOP `models_info.json`.
    """

    discrete: Tensor = field(default_factory=lambda: torch.zeros(0, 4, 4))
    axes: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    offsets: Tensor = field(default_factory=lambda: torch.zeros(0, 3))

    def __post_init__(self) -> None:
        check_shape(self.discrete, "Symmetries.discrete", None, 4, 4)
        check_shape(self.axes, "Symmetries.axes", None, 3)
        check_shape(self.offsets, "Symmetries.offsets", len(self.axes), 3)

    @property
    def any(self) -> bool:
        return len(self.discrete) + len(self.axes) > 0

    def to(self, *args: Any, **kwargs: Any) -> Symmetries:
        return moved(self, *args, **kwargs)


@dataclass(frozen=True)
class ObjectModel:
    """A CAD model: triangles in metres, with the appearance the renderer needs.

    Args:
        obj_id: the number of the object in its data set (BOP `obj_id`), >= 0.
        name: what to call it in pictures and JSON.
        vertices: (V, 3), metres, object frame.
        faces: (F, 3), int64, counter-clockwise seen from outside.
        normals: unit vertex normals, (V, 3).
        diameter: largest distance between two vertices, metres.
        colors: vertex colours, (V, 3), RGB in [0, 1], or None.
        uv: texture coordinates, (V, 2), (0, 0) = lower left corner of the picture as in OBJ and glTF-flipped, or None.
        texture: (3, H, W), RGB in [0, 1], or None.
        symmetries: see `Symmetries`.
    """

    obj_id: int
    name: str
    vertices: Tensor
    faces: Tensor
    normals: Tensor
    diameter: float
    colors: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None
    symmetries: Symmetries = field(default_factory=Symmetries)

    def __post_init__(self) -> None:
        check_shape(self.vertices, "ObjectModel.vertices", None, 3)
        check_shape(self.faces, "ObjectModel.faces", None, 3)
        check_shape(self.normals, "ObjectModel.normals", len(self.vertices), 3)
        check_shape(self.colors, "ObjectModel.colors", len(self.vertices), 3)
        check_shape(self.uv, "ObjectModel.uv", len(self.vertices), 2)
        check_shape(self.texture, "ObjectModel.texture", 3, None, None)

    def __repr__(self) -> str:
        size = " x ".join(f"{1000 * v:.0f}" for v in (self.bounds[1] - self.bounds[0]).tolist()) if len(self.vertices) else "0"
        return f"ObjectModel({self.obj_id}, {self.name!r}, {size} mm, {len(self.faces)} faces)"

    @cached_property
    def bounds(self) -> Tensor:
        """Smallest and largest corner of the box around the vertices, (2, 3), metres."""
        return torch.stack([self.vertices.amin(0), self.vertices.amax(0)])

    @cached_property
    def corners(self) -> Tensor:
        """The eight corners of the box around the vertices, (8, 3), metres; bit k of the index picks axis k's maximum."""
        low, high = self.bounds
        bits = torch.tensor([[i >> k & 1 for k in range(3)] for i in range(8)], device=low.device, dtype=torch.bool)
        return torch.where(bits, high, low)

    @cached_property
    def digest(self) -> str:
        """A short name for its shape and look: models with the same are drawn alike."""
        parts = (self.vertices, self.faces, self.colors, self.uv, self.texture)
        arrays = [p.detach().cpu().contiguous().numpy() for p in parts if p is not None]
        return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]

    def to(self, *args: Any, **kwargs: Any) -> ObjectModel:
        return moved(self, *args, **kwargs)


class Rows:
    """Parallel arrays that are indexed together (a boolean mask, a slice, an index tensor)."""

    def __len__(self) -> int:
        return len(self.labels)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        labels: list[int] = self.labels.tolist()  # type: ignore[attr-defined]
        some = ", ".join(map(str, labels[:8])) + ", …" * (len(labels) > 8)
        columns = [f.name for f in fields(self) if isinstance(getattr(self, f.name), Tensor)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({len(labels)} rows, labels [{some}]; {', '.join(columns)})"

    def __getitem__(self: _T, index: Any) -> _T:
        if isinstance(index, Tensor) and index.dim() == 0 and index.dtype != torch.bool:
            index = int(index)  # what argmax gives
        if isinstance(index, int):
            if not -len(self) <= index < len(self):  # type: ignore[arg-type]  # also what ends a `for` loop
                raise IndexError(f"row {index} of {len(self)}")  # type: ignore[arg-type]
            index = slice(index, index + 1 or None)
        rows = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{k: v[index] for k, v in rows.items() if isinstance(v, Tensor)})  # type: ignore[type-var]

    def to(self: _T, *args: Any, **kwargs: Any) -> _T:
        return moved(self, *args, **kwargs)

    def _check_rows(self, **shapes: Sequence[int | None]) -> None:
        n = len(self.labels)  # type: ignore[attr-defined]
        for name, shape in shapes.items():
            value = getattr(self, name)
            check_shape(value, f"{type(self).__name__}.{name}", n, *shape)
            if value is not None and value.dim() != len(shape) + 1:
                raise ValueError(
                    f"{type(self).__name__}.{name} must have {len(shape) + 1} dimensions, got {tuple(value.shape)}"
                )


@dataclass(frozen=True, repr=False)
class Instances(Rows):
    """The true objects of one frame.

    Args:
        labels: object ids, (N,), int64.
        cam_from_obj: (N, 4, 4), metres.
        boxes: amodal boxes, not clipped, (N, 4), xyxy pixel edges, or None.
        boxes_visible: boxes of the visible parts, (N, 4), or None; zeros where nothing is visible.
        masks: visible masks, (N, H, W), bool, or None.
        visibility: visible share of the silhouette, (N,), in [0, 1], or None.
    """

    labels: Tensor
    cam_from_obj: Tensor
    boxes: Tensor | None = None
    boxes_visible: Tensor | None = None
    masks: Tensor | None = None
    visibility: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_rows(labels=(), cam_from_obj=(4, 4), boxes=(4,), boxes_visible=(4,), masks=(None, None), visibility=())


@dataclass(frozen=True)
class Frame:
    """One picture and what is known about it.

    Args:
        image: (3, H, W), float RGB in [0, 1], undistorted.
        camera: its camera, of the same size.
        depth: (H, W), metres, 0 = unknown, or None.
        instances: the true objects, or None.
        scene_id, im_id: BOP numbers, -1 if none.
        path: where the picture came from, "" if from memory.
    """

    image: Tensor
    camera: Camera
    depth: Tensor | None = None
    instances: Instances | None = None
    scene_id: int = -1
    im_id: int = -1
    path: str = ""

    def __post_init__(self) -> None:
        check_shape(self.image, "Frame.image", 3, None, None)
        if tuple(self.image.shape[-2:]) != tuple(self.camera.size):
            (h, w), (ch, cw) = self.image.shape[-2:], self.camera.size
            raise ValueError(
                f"the camera is for {cw}x{ch} but {self.path or 'the image'} is {w}x{h} (width x height); "
                "if the image was resized as a whole use camera.resized((h, w)) or --resize-camera"
            )
        check_shape(self.depth, "Frame.depth", *self.camera.size)

    def __repr__(self) -> str:
        known = [name for name in ("depth", "instances") if getattr(self, name) is not None]
        return f"Frame({self.path or 'from memory'}, {self.camera!r}{', with ' * bool(known)}{' and '.join(known)})"

    def to(self, *args: Any, **kwargs: Any) -> Frame:
        return moved(self, *args, **kwargs)


@dataclass(frozen=True, repr=False)
class Detections(Rows):
    """Objects found in one image.

    Args:
        labels: object ids, (N,), int64.
        boxes: (N, 4), xyxy on pixel edges.
        scores: (N,), in [0, 1].
        masks: (N, H, W), bool, or None.
    """

    labels: Tensor
    boxes: Tensor
    scores: Tensor
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_rows(labels=(), boxes=(4,), scores=(), masks=(None, None))


class Dropped(NamedTuple):
    """A pose that was found and left out: its object, its score, and why."""

    label: int
    name: str
    score: float
    reason: str


@dataclass(frozen=True, repr=False)
class PoseEstimates(Rows):
    """Poses found in one image.

    Args:
        labels: object ids, (N,), int64.
        cam_from_obj: (N, 4, 4), metres, OpenCV camera.
        scores: confidence, (N,), in [0, 1].
        covariance: of the tangent (v, omega) applied on the camera side, (N, 6, 6), metres and radians, or None.
        boxes: the boxes they were estimated from, (N, 4), xyxy pixel edges, or None.
        names: object id -> name.
        seconds: wall-clock seconds per stage of the whole image, e.g. {"detector": 0.2}.
        refined: which poses a refiner has refined, (N,), bool, or None: none was asked.
        calibrated: whether scores are probabilities that the pose is right; raw ones only order the poses of one run.
        dropped: what was left out because it cannot be, or is too uncertain.
    """

    labels: Tensor
    cam_from_obj: Tensor
    scores: Tensor
    covariance: Tensor | None = None
    boxes: Tensor | None = None
    names: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    refined: Tensor | None = None
    calibrated: bool = False
    dropped: tuple[Dropped, ...] = ()

    def __post_init__(self) -> None:
        self._check_rows(labels=(), cam_from_obj=(4, 4), scores=(), covariance=(6, 6), boxes=(4,), refined=())

    def name_of(self, label: int) -> str:
        """What to call an object."""
        return self.names.get(label) or f"object {label}"
