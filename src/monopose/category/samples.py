"""Two crops of one instance of a category, as a pose-aware generator learns from: picture, clean cut-out, pose, view.

A view says how a square crop shows an object, without metres: the direction it is seen from, its turn in the picture, where
its origin lies and how large it is. With the crop, the camera and the size of the object, view and pose are the same thing:
`view_parameters` and `pose_from_view` are inverse to each other.

    azimuth, elevation   out-of-plane rotation: where the camera stands, `geometry.viewpoints`, radians
    inplane              turn in the picture, clockwise, radians
    shift                of the object's origin from the middle of the crop, right and down, in half sides of the crop
    scale                share of the crop's side that the object's diagonal would span, seen square on

Angles are those seen along the ray to the object's origin, so the same look gives the same angles anywhere in the photo.

Source: Chen et al., Category Level Object Pose Estimation via Neural Analysis-by-Synthesis, ECCV 2020, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from ..geometry import boxes as box_ops
from ..geometry import camera as camera_ops
from ..geometry import se3, viewpoints
from ..render import maps
from ..render import scene as views
from ..render.maps import Lights
from ..render.raster import rasterize
from ..synthesis import augment
from ..synthesis import scene as synth
from ..synthesis.samples import amodal_box, jittered_square
from ..synthesis.shapes import devices, tableware
from ..training.cache import Cache, fingerprint
from ..types import ObjectModel
from .view import size_of, view_parameters

STUDIO = Lights(
    torch.full((3,), 0.55), torch.nn.functional.normalize(torch.tensor([[-0.4, -0.7, -0.6]]), dim=-1), torch.full((1, 3), 0.55)
)
"""The light of the clean cut-outs: always the same, from the upper left behind the camera."""


@dataclass(frozen=True)
class ViewConfig:
    """From where, how large and how imperfectly objects are shown."""

    elevation_deg: tuple[float, float] = (0.0, 75.0)  # of the camera above the table, degrees
    inplane_deg: float = 8.0  # standard deviation of the turn in the picture, degrees; at most 3 of them
    fov_deg: tuple[float, float] = (35.0, 70.0)  # of the photo's width, degrees
    span: tuple[float, float] = (0.12, 0.6)  # object's diagonal / photo's height
    crop_scale: float = 1.25  # side of the crop / longer side of the true box
    shift: float = 0.06  # deviation of the crop from the box's middle, shares of the box
    zoom: float = 0.1  # deviation of its size, natural logarithm
    covered: float = 0.2  # share of pictures with something before the object


class CategoryViews(Dataset):
    """Pairs of views of the instances of a category.

    Args:
        category: its name; without `models` one of `tableware` or `devices`.
        instances: places in `models`, or seeds of shapes made in code; training and test take different ones.
        side: of the crops, pixels.
        length: samples per epoch.
        seed: same seed, same samples: everything random comes from (seed, i).
        config: see `ViewConfig`.
        photos: backgrounds, (H, W, 3) uint8; none: procedural ones.
        models: CAD models of the category, +Z up; none: tableware made in code.

    A sample is a dict; the leading 2 are the views, which differ in pose, camera, light and background:
        "image" (2, 3, s, s), RGB in [0, 1], as a camera takes it
        "visible" (2, s, s), bool: the object where nothing covers it
        "rgba" (2, 4, s, s): the object alone in the light of `STUDIO`, colour times alpha, and alpha, smooth at its edge
        "view" (2, 6), `View.stacked`; "cam_from_obj" (2, 4, 4), metres; "K" (2, 3, 3) of the crops
        "size" (), metres, see `size_of`; "label" (), the instance's object id, of tableware its seed
        "handle" (2,): share of the silhouette that is handle, 0 where nothing sticks out; see `handle_share`

    An instance takes 15 ms to make and 0.7 MB; 512 are kept in each process.
    """

    def __init__(
        self, category: str, instances: Sequence[int], side: int = 64, length: int = 100_000, seed: int = 0,
        config: ViewConfig | None = None, photos: Sequence[np.ndarray] = (), models: Sequence[ObjectModel] = (),
    ) -> None:  # fmt: skip
        if not len(instances):
            raise ValueError(f"CategoryViews needs at least one instance of {category}, e.g. range(400)")
        self.category, self.instances, self.side, self.length, self.seed = category, instances, side, length, seed
        self.config, self.photos, self.models = config or ViewConfig(), photos, models

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, i, 31))
        return self.pair(int(self.instances[int(rng.integers(len(self.instances)))]), rng)

    def pair(self, seed: int, rng: Generator) -> dict[str, Tensor]:
        """Two views of the instance of a seed, or of a place in `models`."""
        model = self.models[seed] if self.models else instance(self.category, seed)
        s = self.side
        shots = [_shot(model, self.config, rng) for _ in range(2)]
        poses = torch.stack([shot.cam_from_obj for shot in shots])
        K = torch.stack([camera_ops.crop_resize_K(shot.K, shot.box, (s, s)) for shot in shots])
        pictures, visible = zip(*(self._picture(model, p, k, shot, rng) for p, k, shot in zip(poses, K, shots)), strict=True)
        whole = poses.new_tensor([0.0, 0.0, s, s])
        return {
            "image": torch.stack(pictures),
            "visible": torch.stack(visible),
            "rgba": cut_out(model, poses, K, s),
            "handle": handle_share(model, poses, K, s),
            "view": view_parameters(poses, K, whole, size_of(model)).stacked(),
            "cam_from_obj": poses,
            "K": K,
            "size": torch.tensor(size_of(model)),
            "label": torch.tensor(model.obj_id),
        }

    def _picture(self, model: ObjectModel, pose: Tensor, K: Tensor, shot: _Shot, rng: Generator) -> tuple[Tensor, Tensor]:
        size = (self.side, self.side)
        native = float(shot.box[2] - shot.box[0])
        background = synth.background(self.photos, size, rng)
        layout = synth.Layout([model], pose[None])
        picture, scene = synth.render(layout, synth.random_appearance(1, rng), K, size, background, native, rng)
        visible = scene.masks_visible[0].numpy()
        if rng.random() < self.config.covered:
            hidden, covered = augment.patches(picture, rng, synth.background(self.photos, size, rng))
            if (visible & ~covered).sum() > 0.5 * visible.sum():
                picture, visible = hidden, visible & ~covered
        picture = synth.camera_effects(picture, self.side / native, rng)
        return torch.from_numpy(picture).permute(2, 0, 1).float() / 255, torch.from_numpy(visible)


KEPT = ("image", "visible", "rgba", "view", "handle")


class CachedViews(Dataset):
    """Pairs drawn from views that are rendered once, when they are first asked for, and kept in a file.

    A pair takes microseconds in place of 16 ms, and the generator learns for longer than it waits.

    Args:
        drawn: renders the views.
        path: of the file; made if it is not there, used again if it is, see `training.cache`.
        views: kept of each instance, even.

    Samples are those of `CategoryViews` without "cam_from_obj", "K" and "size", rounded to 8 bits; brightness and colour
    of "image" vary anew each time.

    Raises:
        ValueError: the number of views is not even; the file holds other views.
    """

    def __init__(self, drawn: CategoryViews, path: str | Path, views: int = 24) -> None:
        if views < 2 or views % 2:
            raise ValueError(f"an even number of views of each instance is kept, 2 or more, got {views}")
        s = drawn.side
        fields = [
            ("image", np.uint8, (2, 3, s, s)), ("visible", np.bool_, (2, s, s)), ("rgba", np.uint8, (2, 4, s, s)),
            ("view", np.float32, (2, 6)), ("handle", np.float32, (2,)),
        ]  # fmt: skip
        self.drawn, self.views = drawn, views
        made_from = fingerprint(drawn.category, tuple(drawn.instances), s, drawn.config, len(drawn.photos), views)
        self.pairs = Cache(path, fields, len(drawn.instances) * views // 2, made_from)

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.drawn.seed, i, 37))
        row = int(rng.integers(len(self.drawn.instances)))
        slots = rng.choice(self.views, 2, replace=False)
        found = [self._view(row, int(slot)) for slot in slots]
        image, visible, rgba, view, handle = (torch.from_numpy(np.stack(values)) for values in zip(*found, strict=True))
        light = torch.from_numpy(rng.normal(1.0, [[0.15, 0.04, 0.04, 0.04]] * 2)).float()
        return {
            "image": (image.float() / 255 * (light[:, :1] * light[:, 1:])[:, :, None, None]).clamp(0, 1),
            "visible": visible,
            "rgba": rgba.float() / 255,
            "view": view,
            "handle": handle,
            "label": torch.tensor(int(self.drawn.instances[row])),
        }

    def _view(self, row: int, slot: int) -> list[np.ndarray]:
        """One view of an instance, as the file keeps it."""
        first = slot // 2 * 2

        def make() -> dict[str, np.ndarray]:
            sample = self.drawn.pair(int(self.drawn.instances[row]), np.random.default_rng((row, first, 41)))
            kept = {name: sample[name] for name in KEPT}
            return {k: ((255 * v).round().byte() if k in ("image", "rgba") else v).numpy() for k, v in kept.items()}

        pair = self.pairs.row((row * self.views + first) // 2, make)
        return [pair[name][slot - first] for name in KEPT]


@lru_cache(maxsize=512)
def instance(category: str, seed: int) -> ObjectModel:
    """A shape made in code, kept."""
    return (devices if category in devices.CATEGORIES else tableware).shape(category, seed)


def cut_out(model: ObjectModel, cam_from_obj: Tensor, K: Tensor, side: int) -> Tensor:
    """An object alone, in the light of `STUDIO`: colour times alpha, and alpha.

    Args:
        cam_from_obj: (B, 4, 4), metres.
        K: of the crops, (B, 3, 3), pixels.
        side: of the crops, pixels, each of which is the mean of four samples.

    Returns:
        (B, 4, side, side), in [0, 1].
    """
    n = len(cam_from_obj)
    whole = K.new_tensor([0.0, 0.0, side, side])
    large = camera_ops.crop_resize_K(K, whole, (2 * side, 2 * side))
    models = [model] * n
    drawn = views.draw(models, views.side_by_side(models), cam_from_obj, large, (2 * side, 2 * side), STUDIO, background=0.0)
    alpha = (drawn.fragments.face >= 0)[:, None].to(drawn.image)
    return F.avg_pool2d(torch.cat([drawn.image, alpha], 1), 2)


def handle_share(model: ObjectModel, cam_from_obj: Tensor, K: Tensor, side: int) -> Tensor:
    """How much of an object's silhouette is its handle: what sticks out along +X beyond the round rest.

    A mug that shows none of it, below about 0.01, looks the same from there as from some way around.

    Args: as `cut_out`.

    Returns:
        (B,), in [0, 1]; 0 where nothing is seen.
    """
    models = [model] * len(cam_from_obj)
    meshes = views.side_by_side(models)
    fragments = rasterize(se3.transform(cam_from_obj, meshes.vertices), meshes.faces, K, (side, side))
    x = maps.coordinates(fragments, meshes.faces, meshes.vertices)[..., 0]
    seen = fragments.face >= 0
    beyond = seen & (x > 1.03 * model.bounds[1, 1])
    return beyond.sum((1, 2)) / seen.sum((1, 2)).clamp_min(1)


class _Shot(NamedTuple):
    """A photo that was never taken: pose, its camera, the crop."""

    cam_from_obj: Tensor  # (4, 4)
    K: Tensor  # (3, 3), of the photo, 480 x 640
    box: Tensor  # (4,)


def _shot(model: ObjectModel, config: ViewConfig, rng: Generator) -> _Shot:
    height, width = 480, 640
    K = camera_ops.K_from_fov(math.radians(rng.uniform(*config.fov_deg)), (height, width))
    low, high = (math.radians(e) for e in config.elevation_deg)
    # half of them evenly over the sphere, half evenly over the angle, which shows more from above
    even = rng.random() < 0.5
    elevation = math.asin(rng.uniform(math.sin(low), math.sin(high))) if even else rng.uniform(low, high)
    inplane = math.radians(config.inplane_deg) * float(np.clip(rng.normal(), -3, 3))
    R = viewpoints.rotation_of(torch.tensor([rng.uniform(0, 2 * math.pi), elevation, inplane], dtype=torch.float32))
    span = height * math.exp(rng.uniform(math.log(config.span[0]), math.log(config.span[1])))
    depth = float(K[0, 0]) * size_of(model) / span
    pixel = torch.from_numpy(rng.uniform([0.2 * width, 0.2 * height], [0.8 * width, 0.8 * height])).float()
    t = camera_ops.unproject(pixel[None], torch.tensor([depth]), K)[0]
    pose = se3.egocentric_from_allocentric(se3.from_rt(R, t))
    box = jittered_square(amodal_box(model, pose, K), config.crop_scale, rng, config.shift, config.zoom)
    return _Shot(pose, K, box_ops.square(box))
