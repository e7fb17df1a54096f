"""Synthetic pictures of roads: parametric things on a painted street, seen from a car; with boxes in 3D, speeds, visibility.

The ground, the walls beside it and the shadows are painted by formula (`paint_street`): a plane and two walls need no
triangles, and marks far away are averaged over their pixel. What stands on the ground is rendered by `synth.render`.

Boxes are level in the camera's frame, as those of KITTI and nuScenes are; the ground is not quite, by `RoadConfig.slope_deg`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..files import atomic_write, write_json
from ..geometry import boxes3d, se3
from ..geometry.camera import crop_resize_K
from ..geometry.road_users import ATTRIBUTES, CLASSES
from ..render.scene import render_masks
from ..types import Camera, ObjectModel
from . import dataset, kitti, synth, vehicles
from .bop_json import read_json
from .furniture import Array
from .road import RoadFrame, RoadObjects
from .synth_pix3d import _photos, _save

KITTI_CLASSES: dict[str, str] = {"car": "Car", "truck": "Truck", "pedestrian": "Pedestrian"}
"""What a KITTI folder calls things; vans are Van, ridden bicycles Cyclist, all else Misc."""

# focal length, principal point right of and below the middle of the picture; shares of its width
_CAMERAS = {"nuscenes": (0.7915, 0.0102, -0.0456), "kitti": (0.5810, -0.0091, -0.0118)}
_LARGEST = 3.0  # truncation is measured on a canvas so many times as wide and high as the picture
_VEHICLES = ("car", "truck", "trailer", "bus", "construction_vehicle")


@dataclass(frozen=True)
class RoadConfig:
    """What is seen, from where."""

    size: tuple[int, int] = (160, 512)  # height and width of the pictures, pixels
    cameras: tuple[str, ...] = ("nuscenes", "kitti")  # whose field of view, drawn for each picture
    height: tuple[float, float] = (1.4, 1.8)  # of the camera above the ground, metres
    slope_deg: float = 0.6  # of the ground, forwards and sideways, standard deviation
    distance: tuple[float, float] = (4.0, 60.0)  # of objects from the camera, metres
    objects: tuple[int, int] = (3, 22)  # fewest and most, before some turn out to be hidden
    across: float = 0.2  # share of pictures that do not look along the road, as side cameras
    classes: tuple[tuple[str, float], ...] = (
        ("car", 0.35), ("truck", 0.07), ("trailer", 0.05), ("bus", 0.07), ("construction_vehicle", 0.04), ("bicycle", 0.07),
        ("motorcycle", 0.07), ("pedestrian", 0.20), ("traffic_cone", 0.04), ("barrier", 0.04),
    )  # what stands there, and how often  # fmt: skip
    shapes: int = 24  # of each class; each picture stretches them a little
    first_shape: int = 0  # number of the first: other numbers are other shapes, for validation
    least_pixels: int = 12  # things of which less is seen are no truth
    least_visible: float = 0.1  # share of a thing's silhouette that must be seen
    roadside: int = 6  # trees, lamp posts and signs, at most


@dataclass(frozen=True, eq=False)
class RoadPicture:
    """A picture with its truth, and regions of things too hidden to be truth.

    image (H, W, 3), uint8; visibility (N,), the share of each silhouette that is seen, of what a picture without edges
    would show; variants: the kinds of `vehicles.VARIANTS`. `frame.objects` has boxes, velocities, attributes, truncation.
    """

    image: np.ndarray
    frame: RoadFrame
    visibility: Tensor
    variants: tuple[str, ...]


class Street(NamedTuple):
    """A road as a camera above it sees it: s metres along it, t metres to the right of its middle."""

    K: Tensor  # (3, 3), pixels
    height: float  # of the camera, metres
    slope: tuple[float, float]  # of the ground, along x and z: y = height + slope[0] x + slope[1] z
    turn: float  # of the road against the viewing direction, to the right, radians
    beside: float  # t of the camera
    lane: float  # width, metres
    lanes: tuple[int, int]  # on the left and on the right of t = 0
    parking: tuple[float, float]  # width of the strips for parking, left and right
    pavement: tuple[float, float]  # their widths
    wall: tuple[float, float]  # how far behind the pavement houses stand; inf for none
    keep_left: bool  # cars on the left come towards +s

    @property
    def edges(self) -> tuple[float, float]:
        """t of both kerbs."""
        return -self.lanes[0] * self.lane - self.parking[0], self.lanes[1] * self.lane + self.parking[1]

    def along(self, x: Array, z: Array) -> tuple[Array, Array]:
        """Places in the camera's frame to s and t."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        return s * x + c * z, c * x - s * z + self.beside

    def place(self, s: float, t: float) -> tuple[float, float]:
        """s and t to x and z in the camera's frame."""
        c, d = math.cos(self.turn), math.sin(self.turn)
        return c * (t - self.beside) + d * s, c * s - d * (t - self.beside)

    def ground(self, x: Array | float, z: Array | float) -> Array | float:
        """y of the ground, metres."""
        return self.height + self.slope[0] * x + self.slope[1] * z


def random_camera(config: RoadConfig, rng: Generator) -> Camera:
    """A camera with the field of view of one of `config.cameras`, give or take a few per cent."""
    height, width = config.size
    f, right, down = _CAMERAS[config.cameras[int(rng.integers(len(config.cameras)))]]
    f, right, down = f * rng.uniform(0.97, 1.03), right + rng.normal(0, 0.004), down + rng.normal(0, 0.004)
    K = [[f * width, 0, width / 2 - 0.5 + right * width], [0, f * width, height / 2 - 0.5 + down * width], [0, 0, 1]]
    return Camera(torch.tensor(K, dtype=torch.float64), config.size)


def random_street(config: RoadConfig, camera: Camera, rng: Generator) -> Street:
    """A road around the camera."""
    slope = np.tan(np.radians(rng.normal(0, config.slope_deg, 2)))
    turn = rng.uniform(-math.pi, math.pi) if rng.random() < config.across else math.radians(rng.normal(0, 3.0))
    keep_left = bool(rng.random() < 0.2)
    lanes = [int(rng.integers(0, 3)), int(rng.integers(1, 4))]  # against us, and our way
    lane = rng.uniform(3.0, 3.7)
    mine = (int(rng.integers(lanes[1])) + 0.5) * lane + rng.normal(0, 0.25)
    if keep_left:
        lanes, mine = lanes[::-1], -mine
    parking = [float(rng.uniform(2.1, 2.6)) if rng.random() < 0.5 else 0.0 for _ in range(2)]
    pavement = [float(rng.uniform(1.8, 5.0)) for _ in range(2)]
    houses = rng.random() < 0.7
    wall = [float(rng.uniform(0.3, 14.0)) if houses and rng.random() < 0.75 else math.inf for _ in range(2)]
    return Street(
        camera.K, float(rng.uniform(*config.height)), (float(slope[0]), float(slope[1])), turn, mine, lane,
        (lanes[0], lanes[1]), (parking[0], parking[1]), (pavement[0], pavement[1]), (wall[0], wall[1]), keep_left,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- who stands where


@lru_cache(maxsize=512)
def _shape(category: str, seed: int) -> ObjectModel:
    return vehicles.shape(category, seed)


@lru_cache(maxsize=64)
def _roadside(seed: int) -> ObjectModel:
    return vehicles.roadside(seed)


class _Thing(NamedTuple):
    """One candidate: its mesh and where it stands on the street."""

    model: ObjectModel
    category: str
    variant: str
    s: float
    t: float
    heading: float  # from +s towards +t, radians
    speed: float  # metres per second
    attribute: str  # "" for none


def random_things(config: RoadConfig, street: Street, rng: Generator) -> tuple[list[_Thing], Tensor]:
    """Things on the road that do not stand in each other, nor in the camera's car.

    Returns:
        the things, nearest first; cam_from_obj, (N, 4, 4), float64, metres.
    """
    names, shares = [c for c, _ in config.classes], np.array([p for _, p in config.classes])
    wanted = int(rng.integers(config.objects[0], config.objects[1] + 1))
    things: list[_Thing] = []
    for _ in range(3 * wanted):
        category = str(rng.choice(names, p=shares / shares.sum()))
        things += _candidates(category, config, street, rng)
    poses, lhw = _poses(things, street)
    inside = (
        (poses[:, (0, 2), 3].norm(dim=-1) > config.distance[0]) & (poses[:, 2, 3] < config.distance[1]) & (poses[:, 2, 3] > 0)
    )
    rows = inside.nonzero().squeeze(-1)
    footprint = boxes3d.bev(poses[rows], lhw[rows] + poses.new_tensor([0.5, 0.0, 0.3]))
    ego = footprint.new_tensor([[0.0, -0.7, 2.6, 6.5, 0.0]])  # the camera's own car, which ends 2.5 m before it
    order = torch.cat([footprint.new_tensor([2.0]), torch.linspace(1, 0, len(rows), dtype=footprint.dtype)])
    kept = boxes3d.bev_nms(torch.cat([ego, footprint]), order, 0.0)[1 : wanted + 1] - 1
    rows = rows[kept]
    rows = rows[poses[rows, 2, 3].argsort()]
    return [things[i] for i in rows.tolist()], poses[rows]


def _poses(things: Sequence[_Thing], street: Street) -> tuple[Tensor, Tensor]:
    """cam_from_obj (N, 4, 4) and sizes (N, 3) of things that stand on the ground, float64."""
    centres, yaws, sizes = [], [], []
    for thing in things:
        x, z = street.place(thing.s, thing.t)
        size = (thing.model.bounds[1] - thing.model.bounds[0]).tolist()
        centres.append([x, float(street.ground(x, z)) - size[1] / 2, z])
        yaws.append(thing.heading + street.turn - math.pi / 2)
        sizes.append(size)
    lhw = torch.tensor(sizes, dtype=torch.float64).reshape(-1, 3)
    centre = torch.tensor(centres, dtype=torch.float64).reshape(-1, 3)
    return boxes3d.from_yaw(centre, boxes3d.wrapped(torch.tensor(yaws, dtype=torch.float64))), lhw


def _candidates(category: str, config: RoadConfig, street: Street, rng: Generator) -> list[_Thing]:
    """One thing, or a row of cones or barriers, where such things are, or nothing if there is no such place nearby."""
    width = config.size[1]
    K = street.K
    near, far = 1.2 * config.distance[0], config.distance[1]
    z = rng.uniform(near, far) if rng.random() < 0.5 else math.exp(rng.uniform(math.log(near), math.log(far)))
    x = (rng.uniform(-0.06, 1.06) * width - float(K[0, 2])) / float(K[0, 0]) * z
    s, t = (float(v) for v in street.along(np.array(x), np.array(z)))
    seed = config.first_shape + int(rng.integers(config.shapes))
    variant = vehicles.variant(category, seed)
    model = _stretched(_shape(category, seed), category, rng)
    left, right = street.edges
    if not left - street.pavement[0] - street.wall[0] + 1 < t < right + street.pavement[1] + street.wall[1] - 1:
        return []  # there are houses
    on_road, between = left < t < right, left - street.pavement[0] < t < right + street.pavement[1]
    onwards = 0.0 if (t > 0) != street.keep_left else math.pi  # the lane's direction
    if category in _VEHICLES:
        lanes = (-street.lanes[0] * street.lane, street.lanes[1] * street.lane)
        if lanes[0] < t < lanes[1] and rng.random() < 0.9:
            t = (math.floor(t / street.lane) + 0.5) * street.lane + rng.normal(0, 0.15)
            turning = rng.random() < 0.06
            heading = rng.uniform(-math.pi, math.pi) if turning else onwards + rng.normal(0, 0.04)
            moving = rng.random() < 0.65
            speed = rng.uniform(1.0, 5.0) if turning else rng.uniform(2.0, 16.0)
            attribute = "vehicle.moving" if moving else "vehicle.stopped"
            return [_Thing(model, category, variant, s, t, heading, speed * moving, attribute)]
        if category == "bus" and not on_road:
            return []
        heading = onwards + math.pi * (rng.random() < 0.15) + rng.normal(0, 0.04)
        side = int(t > 0)
        if street.parking[side] > 0 and (on_road or between):
            t = (right if side else left) - (1 if side else -1) * (street.parking[side] / 2 + rng.normal(0, 0.1))
        elif on_road or rng.random() < 0.5:
            return []
        else:  # in a yard beside the road
            heading += math.pi / 2 * int(rng.integers(4)) + rng.normal(0, 0.1)
        return [_Thing(model, category, variant, s, t, heading, 0.0, "vehicle.parked")]
    if category in ("traffic_cone", "barrier"):
        if not between:
            return []
        t = round(t / street.lane) * street.lane + rng.normal(0, 0.3)  # on a line
        wide = float(model.bounds[1, 2] - model.bounds[0, 2])
        gap = rng.uniform(1.5, 4.0) if category == "traffic_cone" else wide + 0.35 + rng.uniform(0, 0.4)
        slant = rng.normal(0, 0.1)
        heading = rng.uniform(-math.pi, math.pi) if category == "traffic_cone" else rng.choice([-1, 1]) * math.pi / 2 + slant
        row = [(s + k * gap, t + k * gap * math.tan(slant)) for k in range(int(rng.integers(1, 5)))]
        return [_Thing(model, category, variant, a, b, heading + rng.normal(0, 0.04), 0.0, "") for a, b in row]
    if not between:
        return []
    if category == "pedestrian":
        crossing = on_road and rng.random() < 0.5
        if on_road and not crossing:  # on the pavement of this side
            t = (
                right + rng.uniform(0.3, street.pavement[1] - 0.3)
                if t > 0
                else left - rng.uniform(0.3, street.pavement[0] - 0.3)
            )
        walking = variant == "walking"
        if crossing:
            heading = rng.choice([-1, 1]) * math.pi / 2 + rng.normal(0, 0.15)
        elif walking:
            heading = math.pi * rng.integers(2) + rng.normal(0, 0.3)
        else:
            heading = rng.uniform(-math.pi, math.pi)
        speed = float(np.clip(rng.normal(1.35, 0.3), 0.5, 2.5)) if walking else 0.0
        return [_Thing(model, category, variant, s, t, heading, speed, f"pedestrian.{'moving' if walking else 'standing'}")]
    if variant == "ridden":
        if not on_road:
            return []
        t += rng.normal(0, 0.3)
        speed = rng.uniform(2, 7) if category == "bicycle" else rng.uniform(3, 14)
        speed *= rng.random() < 0.85
        return [_Thing(model, category, variant, s, t, onwards + rng.normal(0, 0.08), speed, "cycle.with_rider")]
    if on_road:
        t = right + rng.uniform(0.3, 1.2) if t > 0 else left - rng.uniform(0.3, 1.2)
    return [_Thing(model, category, variant, s, t, rng.uniform(-math.pi, math.pi), 0.0, "cycle.without_rider")]


def _stretched(model: ObjectModel, category: str, rng: Generator) -> ObjectModel:
    """The same shape a few per cent longer, higher, wider."""
    factors = np.exp(np.clip(rng.normal(0, 0.03, 3), -0.08, 0.08))
    if category == "traffic_cone":
        factors[2] = factors[0]
    scale = torch.from_numpy(factors).to(model.vertices)
    return replace(model, vertices=model.vertices * scale, diameter=model.diameter * float(factors.max()))


def _bystanders(config: RoadConfig, street: Street, rng: Generator) -> list[_Thing]:
    """Trees, posts and signs along the pavements; no truth."""
    found = []
    for _ in range(int(rng.integers(0, config.roadside + 1))):
        side = int(rng.integers(2))
        edge, outwards = street.edges[side], 1 if side else -1
        s, t = rng.uniform(6, 50), edge + outwards * rng.uniform(0.3, street.pavement[side])
        if abs(t - street.beside) > 2:
            found.append(_Thing(_roadside(int(rng.integers(64))), "", "", s, t, rng.uniform(0, 6.3), 0.0, ""))
    return found


# ----------------------------------------------------------------------------------------------------------- the street


def _cover(distance: Array, half: float, foot: Array) -> Array:
    """Which share of a pixel, `foot` metres wide, a strip of +-half metres covers that lies at a distance. (...,)."""
    overlap = np.minimum(distance + foot / 2, half) - np.maximum(distance - foot / 2, -half)
    return np.clip(overlap, 0, None) / foot


def _dashes(s: Array, period: float, dash: float, foot: Array) -> Array:
    """Likewise for a strip of `dash` metres in every `period`."""
    off = np.mod(s + period / 2, period) - period / 2
    sharp = _cover(off, dash / 2, np.minimum(foot, period - dash))
    blend = np.clip(foot / period, 0, 1)
    return sharp * (1 - blend) + blend * dash / period


def _noise(tile: Array, a: Array, b: Array, cell: float, foot: Array) -> Array:
    """A random pattern of `cell` metres, around 0, that fades where pixels are larger than its cells. (...,)."""
    import cv2

    n = tile.shape[0] - 1  # the last row repeats the first
    u, v = np.mod(a / cell, n).astype(np.float32), np.mod(b / cell, n).astype(np.float32)
    return np.asarray(cv2.remap(tile, u, v, cv2.INTER_LINEAR)) * np.clip(2 * cell / foot - 0.5, 0, 1)


def paint_street(
    street: Street, size: tuple[int, int], sky: Array, boxes: Tensor, heights: Tensor, rng: Generator
) -> np.ndarray:  # fmt: skip
    """The road, what stands beside it, and the shadows of things on it.

    Args:
        street: where it is.
        size: (height, width), pixels.
        sky: what is seen above the horizon, (H, W, 3), uint8.
        boxes: things that cast shadows, seen from above, (N, 5), of `boxes3d.bev`.
        heights: of those things, (N,), metres.
        rng: source of randomness.

    Returns:
        (H, W, 3), uint8.
    """
    height, width = size
    (f, _, cx), (_, fy, cy), _ = street.K.tolist()
    dx = ((np.arange(width) - cx) / f)[None].astype(np.float32)
    dy = ((np.arange(height) - cy) / fy)[:, None].astype(np.float32)
    image = sky.astype(np.float32) / 255
    tile = rng.standard_normal((65, 65)).astype(np.float32)
    tile[-1], tile[:, -1] = tile[0], tile[:, 0]

    falling = dy - street.slope[0] * dx - street.slope[1]  # how fast a ray nears the ground
    first = int(np.argmax((falling > 1e-3).any(1))) if (falling > 1e-3).any() else height
    hazy = np.array(rng.uniform(0.55, 0.8)) + rng.normal(0, 0.03, 3)
    if first < height:
        rows = falling[first:]
        z = street.height / np.maximum(rows, 1e-3)
        x = dx * z
        seen = _ground(street, x, z, np.maximum(z * z / (fy * street.height), 1e-3), np.maximum(z / f, 1e-3), tile, rng)
        shade = _shadows(x, z, boxes, heights, rng)
        mist = 1 - np.exp(-z / rng.uniform(120, 600))[..., None]
        seen = seen * shade[..., None] * (1 - mist) + hazy * mist
        image[first:] = np.where((rows > 1e-3)[..., None], seen, image[first:])
    _walls(image, street, dx, dy, hazy, rng)
    return np.asarray((np.clip(image, 0, 1) * 255).astype(np.uint8))


def _ground(street: Street, x: Array, z: Array, deep: Array, across: Array, tile: Array, rng: Generator) -> Array:
    """Colours of the ground; `deep` and `across` are how many metres a pixel covers. (h, w) -> (h, w, 3)."""
    s, t = street.along(x, z)
    c, d = abs(math.cos(street.turn)), abs(math.sin(street.turn))
    foot_t, foot_s = np.maximum(c * across, d * deep), np.maximum(d * across, c * deep)
    left, right = street.edges
    start = rng.uniform(0, 20)

    asphalt = np.array(rng.uniform(0.22, 0.48)) * (1 + rng.normal(0, 0.03, 3))
    rough = rng.uniform(0.02, 0.06)
    grain = rough * (_noise(tile, s, t, 0.12, deep) + _noise(tile, s + 7, 3 * t, 1.7, deep)) + 0.03 * _noise(
        tile, 0.1 * s, t, 0.9, deep
    )
    ground = (asphalt * (1 + grain[..., None])).astype(np.float32)
    paint = np.array((0.85, 0.85, 0.82)) * rng.uniform(0.8, 1.1)
    yellow = np.array((0.85, 0.68, 0.2))

    def lay(share: Array, colour: Array) -> None:
        at = share > 0.004
        part = share[at][:, None]
        ground[at] = ground[at] * (1 - part) + colour * part

    lines = [k * street.lane for k in range(-street.lanes[0], street.lanes[1] + 1)]
    worn = rng.uniform(0.5, 1.0)
    for line in lines:
        strip = worn * _cover(t - line, 0.07, foot_t)
        middle, rim = abs(line) < 0.1 and min(street.lanes) > 0, line in (lines[0], lines[-1])
        if not rim and not (middle and rng.random() < 0.6):
            strip = strip * _dashes(s + start, 9.0, 3.5, foot_s)
        if not rim or rng.random() < 0.6:
            lay(strip, yellow if middle and rng.random() < 0.4 else paint)
    if rng.random() < 0.3:  # a crossing
        at = rng.uniform(7, 35)
        lay(worn * _cover(s - at, 1.6, foot_s) * _dashes(t, 1.0, 0.5, foot_t) * ((t > left) & (t < right)), paint)
        lay(worn * _cover(s - at + 3, 0.2, foot_s) * ((t > 0) & (t < right)), paint)
    stone = np.array(rng.uniform(0.45, 0.7)) * (1 + rng.normal(0, 0.04, 3))
    slabs = 1 - 0.2 * (_dashes(s, 1.0, 0.05, foot_s) + _dashes(t, 1.0, 0.05, foot_t)) + 0.05 * _noise(tile, s, t, 0.6, deep)
    lawn = rng.random() < 0.6
    rest = np.array((0.25, 0.36, 0.15)) * rng.uniform(0.7, 1.3) if lawn else asphalt * rng.uniform(0.8, 1.4)
    clumps = 1 + 0.15 * _noise(tile, s, t, 0.25, deep) + 0.1 * _noise(tile, t, s, 2.3, deep)
    for out, edge, pavement in ((-1, left, street.pavement[0]), (1, right, street.pavement[1])):
        off = out * (t - edge)
        paved, beyond = off > 0, off > pavement
        ground[paved] = stone * slabs[paved][:, None]
        lay(_cover(off, 0.12, foot_t), stone * 1.25)
        ground[beyond] = rest * clumps[beyond][:, None]
    return np.asarray(ground)


def _shadows(x: Array, z: Array, boxes: Tensor, heights: Tensor, rng: Generator) -> Array:
    """How bright the ground is: dark below things, and where they keep the sun away. (h, w)."""
    light: Array = np.ones_like(x)
    sun = rng.uniform(0.3, 1.6) if rng.random() < 0.6 else 0.0  # length of a shadow, in heights
    way, deep = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 0.65)
    soft = rng.uniform(0.15, 0.4)
    cast: Array = np.zeros_like(x)
    below: Array = np.zeros_like(x)
    for (bx, bz, long, wide, angle), tall in zip(boxes.tolist(), heights.tolist()):
        reach = 0.5 * math.hypot(long, wide) + sun * tall + 1
        rows = np.flatnonzero((z[:, 0] > bz - reach) & (z[:, 0] < bz + reach))  # z hardly changes along a row
        if not len(rows):
            continue
        part = slice(rows[0], rows[-1] + 1)
        ends = [(bx + sign * reach) / z[row, 0] for sign in (-1, 1) for row in (part.start, part.stop - 1)]
        columns = slice(*np.searchsorted(x[0] / z[0], (min(ends) - 0.01, max(ends) + 0.01)).tolist())
        if columns.stop <= columns.start:
            continue
        c, s = math.cos(angle), math.sin(angle)
        for k, step in enumerate((0.0, *((0.35, 0.7, 1.0) if sun else ()))):
            px, pz = (
                x[part, columns] - bx - step * sun * tall * math.cos(way),
                z[part, columns] - bz - step * sun * tall * math.sin(way),
            )
            gap = np.maximum(np.abs(c * px + s * pz) - long / 2, np.abs(c * pz - s * px) - wide / 2)
            shade = np.clip(0.5 - gap / soft, 0, 1)
            target = below if k == 0 else cast
            target[part, columns] = np.maximum(target[part, columns], shade)
    light *= 1 - 0.6 * below
    return np.asarray(light * (1 - deep * cast * (1 - below)))


def _walls(image: Array, street: Street, dx: Array, dy: Array, hazy: Array, rng: Generator) -> None:
    """Paint the fronts of houses on both sides of the road, with gaps, into the picture."""
    a = math.cos(street.turn) * dx[0] - math.sin(street.turn)  # how fast a column's rays go to the right
    b = math.sin(street.turn) * dx[0] + math.cos(street.turn)
    for side, out in ((0, -1), (1, 1)):
        if math.isinf(street.wall[side]):
            continue
        wall = street.edges[side] + out * (street.pavement[side] + street.wall[side])
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(a * out > 1e-4, (wall - street.beside) / a, np.inf)
        columns = np.flatnonzero((z > 2) & (z < 150))
        if not len(columns):
            continue
        z, s = z[columns], b[columns] * z[columns]
        long = rng.uniform(8, 25)
        block = np.floor(s / long + rng.uniform()).astype(int)
        number = block - block.min()
        count = int(number.max()) + 1
        colour = rng.uniform(0.25, 0.85, (count, 1)) * (1 + rng.normal(0, 0.1, (count, 3)))
        tall = np.where(rng.random(count) < 0.25, 0.0, rng.uniform(3.5, 18, count))[number]
        storey, bay = rng.uniform(2.6, 3.4), rng.uniform(1.8, 4.0)
        y = street.ground(dx[0, columns] * z, z) - dy * z  # above the ground, (H, n)
        inside = (y > 0) & (y < tall)
        foot = z / float(street.K[0, 0])
        glass = _dashes(s, bay, 0.5 * bay, foot * 2) * _dashes(
            y + 0.2 * storey, storey, 0.5 * storey, np.broadcast_to(foot, y.shape)
        )
        paint = colour[number] * (1 - glass[..., None]) + 0.5 * colour[number] * np.array((0.35, 0.4, 0.5)) * glass[..., None]
        mist = (1 - np.exp(-z / 300))[:, None]
        image[:, columns] = np.where(inside[..., None], paint * (1 - mist) + hazy * mist, image[:, columns])


def random_sky(size: tuple[int, int], horizon: float, photos: Sequence[np.ndarray], rng: Generator) -> np.ndarray:
    """What is seen above the ground: a sky with clouds and a line of trees, a photo, or a procedural background.

    (height, width), the horizon's row, photos -> (H, W, 3), uint8.
    """
    import cv2

    if rng.random() < 0.35:
        return synth.background(photos, size, rng)
    height, width = size
    up = np.clip((horizon - np.arange(height)) / max(horizon, 1), 0, 1)[:, None, None]
    low, high = np.array((0.82, 0.86, 0.9)), np.array((0.35, 0.55, 0.85)) * rng.uniform(0.7, 1.2)
    if rng.random() < 0.4:
        high = low * rng.uniform(0.7, 1.05)
    sky = low * (1 - up) + high * up
    coarse = rng.standard_normal((int(rng.integers(3, 7)), int(rng.integers(6, 14)))).astype(np.float32)
    clouds = np.clip(np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)), 0, 1)[..., None]
    sky = sky + rng.uniform(0, 0.4) * clouds * (np.array((0.95, 0.95, 0.96)) - sky)
    line = (
        rng.uniform(0.01, 0.07)
        * width
        * (1 + 0.5 * np.asarray(cv2.resize(coarse[:1], (width, 1), interpolation=cv2.INTER_CUBIC)))
    )
    fine = rng.standard_normal((1, width // 3 + 1)).astype(np.float32)
    line = line + 0.006 * width * np.asarray(cv2.resize(fine, (width, 1)))
    trees = np.array((0.20, 0.28, 0.16)) * rng.uniform(0.6, 1.8) * rng.uniform(0.8, 1.2, (height, width, 1))
    sky = np.where((np.arange(height)[:, None] > horizon - line)[..., None], trees, sky)
    return np.asarray((np.clip(sky, 0, 1) * 255).astype(np.uint8))


# ---------------------------------------------------------------------------------------------------------- the picture


def draw(config: RoadConfig, photos: Sequence[np.ndarray], rng: Generator, name: str = "") -> RoadPicture:
    """One picture of a road with its truth.

    Args:
        config: what is seen.
        photos: for backgrounds, (H, W, 3) uint8, or none.
        rng: source of randomness; the same state gives the same picture.
        name: of the frame.
    """
    camera = random_camera(config, rng)
    street = random_street(config, camera, rng)
    things, poses = random_things(config, street, rng)
    lhw = (
        torch.stack([m.bounds[1] - m.bounds[0] for m in (t.model for t in things)]).double()
        if things
        else torch.zeros(0, 3).double()
    )
    others = _bystanders(config, street, rng)
    beside, their_lhw = _poses(others, street)
    sky = random_sky(config.size, float(camera.K[1, 2]), photos, rng)
    everything, sizes = torch.cat([poses, beside]), torch.cat([lhw, their_lhw])
    paper = paint_street(street, config.size, sky, boxes3d.bev(everything, sizes), sizes[:, 1], rng)
    layout = synth.Layout([t.model for t in (*things, *others)], everything.float())
    look = synth.random_look(max(len(layout.models), 1), rng)  # an empty road has none to look at
    image, scene = synth.render(layout, look, camera.K.float(), config.size, paper, float(config.size[1]), rng)
    image = synth.finish(image, 1.0, rng)

    n = len(things)
    boxes = boxes3d.project(poses, lhw, camera.K, config.size)
    truncation = torch.tensor([truncated(t.model, p, camera) for t, p in zip(things, poses)], dtype=torch.float64)
    visibility = scene.visibility[:n].double() * (1 - truncation)
    pixels = scene.masks_visible[:n].flatten(1).sum(1)
    shown = (pixels >= config.least_pixels) & (visibility >= config.least_visible)
    hidden = boxes[~shown & (pixels > 0)]
    # the occlusion of KITTI: what edges cut is not meant
    occlusion = (scene.visibility[:n] < 0.9).long() + (scene.visibility[:n] < 0.5).long()
    forward = poses[:, :3, 0]
    speeds = torch.tensor([t.speed for t in things], dtype=torch.float64)
    attributes = torch.tensor([ATTRIBUTES.index(t.attribute) if t.attribute else -1 for t in things], dtype=torch.int64)
    objects = RoadObjects(
        torch.tensor([CLASSES.index(t.category) for t in things], dtype=torch.int64), poses, lhw, boxes, None,
        speeds[:, None] * forward, attributes, truncation, occlusion,
    )[shown]  # fmt: skip
    frame = RoadFrame("", camera, CLASSES, objects, hidden, name, ego_from_cam=_ego_from_cam(street), global_from_ego=_eye4())
    variants = tuple(t.variant for t, s in zip(things, shown.tolist()) if s)
    return RoadPicture(image, frame, visibility[shown], variants)


def _eye4() -> Tensor:
    return torch.eye(4, dtype=torch.float64)


def _ego_from_cam(street: Street) -> Tensor:
    """A camera that looks forwards, above the origin of a vehicle on the ground, z up. (4, 4), float64."""
    R = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    return se3.from_rt(R, torch.tensor([0.0, 0.0, street.height], dtype=torch.float64))


def truncated(model: ObjectModel, cam_from_obj: Tensor, camera: Camera, side: int = 96) -> float:
    """Which share of an object's silhouette lies beyond the edges of the picture, measured on a rendering of it alone.

    Args:
        model: the object.
        cam_from_obj: (4, 4), metres.
        camera: of the picture.
        side: longest side of the rendering, pixels; the answer is about as fine as 1 / side.

    Returns:
        in [0, 1]; 1 where nothing is in the picture. What lies further out than three pictures around it does not count.
    """
    height, width = camera.size
    lhw = model.bounds[1] - model.bounds[0]
    K = camera.K.to(cam_from_obj)
    box = boxes3d.project(cam_from_obj, lhw.to(cam_from_obj), K)
    x0, y0, x1, y1 = box.tolist()
    if x1 <= x0 or y1 <= y0:
        return 1.0  # all of it is behind the camera
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        return 0.0
    wide, high = (_LARGEST - 1) / 2 * width, (_LARGEST - 1) / 2 * height
    x0, y0 = float(np.clip(x0, -wide, width + wide)), float(np.clip(y0, -high, height + high))
    x1, y1 = float(np.clip(x1, -wide, width + wide)), float(np.clip(y1, -high, height + high))
    if x1 - x0 < 1e-6 or y1 - y0 < 1e-6:
        return 1.0
    scale = min(1.0, side / max(x1 - x0, y1 - y0))
    size = (max(1, math.ceil((y1 - y0) * scale)), max(1, math.ceil((x1 - x0) * scale)))
    moved = crop_resize_K(K, K.new_tensor([x0, y0, x1, y1]), size)
    mask = render_masks([model], cam_from_obj[None].float(), moved.float(), size, near=0.1).masks_full[0]
    u = x0 + (torch.arange(size[1]) + 0.5) * (x1 - x0) / size[1]
    v = y0 + (torch.arange(size[0]) + 0.5) * (y1 - y0) / size[0]
    inside = ((v > 0) & (v < height))[:, None] & ((u > 0) & (u < width))
    total = int(mask.sum())
    return 1.0 if not total else 1 - int((mask & inside).sum()) / total


# ------------------------------------------------------------------------------------------------------------- data sets


class RoadPictures(Dataset):
    """Picture i of an endless set, drawn from (seed, i)."""

    def __init__(
        self, config: RoadConfig = RoadConfig(), photos: Sequence[np.ndarray] = (), seed: int = 0, first: int = 0,
        last: int = 2**31,
    ) -> None:  # fmt: skip
        _checked(config)
        self.config, self.photos, self.seed, self.first, self.last = config, photos, seed, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, n: int) -> RoadPicture:
        if not 0 <= n < len(self):
            raise IndexError(f"picture {n} of {len(self)}")
        i = self.first + n
        return draw(self.config, self.photos, np.random.default_rng((self.seed, i, 8)), f"{i:06d}")


class RoadSamples(RoadPictures):
    """The same pictures as training samples: see `sample`."""

    def __getitem__(self, n: int) -> Any:
        return sample(super().__getitem__(n))


def sample(picture: RoadPicture) -> dict[str, Any]:
    """What `methods/box3d.py` learns from, float32.

    Returns:
        image (3, H, W), RGB in [0, 1]; K (3, 3), pixels; of N objects labels (N,), index into `CLASSES`; cam_from_obj
        (N, 4, 4) and sizes (N, 3), metres, as `geometry.boxes3d` has them; velocities (N, 3), metres per second, camera axes;
        attributes (N,), index into `ATTRIBUTES`, -1 for none; visibility (N,), truncation (N,), shares; boxes (N, 4), xyxy on
        pixel edges; ignored (M, 4), regions of things too hidden to be truth; name.
    """
    frame, objects = picture.frame.to(torch.float32), picture.frame.to(torch.float32).objects
    assert objects is not None
    return {
        "image": torch.from_numpy(picture.image).permute(2, 0, 1).float() / 255, "K": frame.camera.K, "labels": objects.labels,
        "cam_from_obj": objects.cam_from_obj, "sizes": objects.sizes, "velocities": objects.velocities,
        "attributes": objects.attributes, "visibility": picture.visibility.float(), "truncation": objects.truncation,
        "boxes": objects.boxes, "ignored": frame.ignored, "name": frame.name,
    }  # fmt: skip


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples as a batch: image (B, 3, H, W) and K (B, 3, 3) stacked, all else as lists of B."""
    batch: dict[str, Any] = {key: [s[key] for s in samples] for key in samples[0]}
    return {**batch, "image": torch.stack(batch["image"]), "K": torch.stack(batch["K"])}


def _checked(config: RoadConfig) -> None:
    if unknown := [c for c in config.cameras if c not in _CAMERAS] or not config.cameras:
        raise ValueError(f"cameras must be some of {', '.join(_CAMERAS)}, got {unknown if unknown is not True else 'none'}")
    names = [c for c, _ in config.classes]
    if (
        not names
        or any(c not in CLASSES for c in names)
        or min(p for _, p in config.classes) < 0
        or len(set(names)) < len(names)
    ):
        raise ValueError(
            f"classes must be pairs of a name, each once, and a share >= 0, names of {', '.join(CLASSES)}; got {config.classes}"
        )
    if not sum(p for _, p in config.classes) > 0:
        raise ValueError("the shares of the classes must not all be 0")
    if min(config.size) < 32:
        raise ValueError(f"pictures need at least 32 x 32 pixels, got {config.size[0]} x {config.size[1]} (height x width)")
    for what, (low, high) in (("height", config.height), ("distance", config.distance), ("objects", config.objects)):
        if not 0 < low <= high:
            raise ValueError(f"{what} must be two growing numbers > 0, got {low} and {high}")
    if config.shapes < 1 or config.first_shape < 0:
        raise ValueError(f"shapes must be >= 1 and first_shape >= 0, got {config.shapes} and {config.first_shape}")


def write_road(
    out: str | Path,
    *,
    images: int = 1000,
    config: RoadConfig = RoadConfig(),
    backgrounds: str | Path | None = None,
    seed: int = 0,
    workers: int = 2,
) -> Path:
    """Write a folder in KITTI's object format, which `kitti.read` reads, and beside it an `infos.json` in nuScenes' axes with
    speeds and attributes, which KITTI has no place for; a killed run goes on where it stopped.

    Things too hidden to be truth become DontCare regions. Every picture is a sample of one camera, CAM_FRONT, of a vehicle in
    the origin of a map of its own.

    Args:
        out: the folder: image_2, calib, label_2; infos.json; and synth.json, which says how the pictures were made.
        images: how many pictures, at least 1.
        config: what is seen.
        backgrounds: folder of photos; None: skies and procedural backgrounds.
        seed: same seed, same pictures, whatever the number of workers.
        workers: processes that render; 0: this one.

    Returns:
        `out`.

    Raises:
        ValueError: settings that cannot be; pictures that are already there were made otherwise.
    """
    from rich.progress import Progress

    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    _checked(config)
    out = Path(out)
    photos = synth.read_backgrounds(backgrounds)
    settings = json.loads(json.dumps({"seed": seed, "backgrounds": _photos(backgrounds), **asdict(config)}))
    file = out / "synth.json"
    if file.is_file():
        if differing := [k for k, v in settings.items() if read_json(file).get(k) != v]:
            raise ValueError(f"{out} was started with another {differing[0]}; give the same again, or another folder")
    elif any(out.glob("*/*")):
        raise ValueError(f"{out} holds files that were not made here (no synth.json); choose another folder")
    write_json(file, settings)
    done = {p.stem for p in out.glob("infos/*.json")}  # written last
    todo = [i for i in range(images) if f"{i:06d}" not in done]
    pictures = RoadPictures(config, photos, seed, 0, images)
    loader = DataLoader(
        pictures, batch_size=None, sampler=todo, num_workers=workers, worker_init_fn=dataset.one_thread,  # type: ignore[arg-type]
    )  # fmt: skip
    with Progress(transient=True) as progress:
        task = progress.add_task("pictures", total=images, completed=images - len(todo))
        for picture in loader if todo else ():
            _write(out, picture)
            progress.advance(task)
    meta = {"categories": {c: k for k, c in enumerate(CLASSES)}, "dataset": "synthetic roads"}
    write_json(out / "infos.json", {
        "metainfo": meta, "data_list": [read_json(out / "infos" / f"{i:06d}.json") for i in range(images)],
    })  # fmt: skip
    return out


def _write(out: Path, picture: RoadPicture) -> None:
    """One picture: image, calibration, and last its labels."""
    frame, objects = picture.frame, picture.frame.objects
    assert objects is not None
    K = frame.camera.K
    _save(out / "image_2" / f"{frame.name}.png", picture.image)
    P = torch.cat([K, torch.zeros(3, 1, dtype=K.dtype)], 1)
    rows = {"P2": P, "R0_rect": torch.eye(3), "Tr_velo_to_cam": torch.eye(4)[:3]}
    with atomic_write(out / "calib" / f"{frame.name}.txt") as temporary:
        lines = [f"{k}: " + " ".join(repr(float(v)) for v in m.flatten()) + "\n" for k, m in rows.items()]
        temporary.write_text("".join(lines), encoding="utf-8")
    names = [_kitti_class(CLASSES[k], v) for k, v in zip(objects.labels.tolist(), picture.variants)]
    known = replace(objects, labels=torch.tensor([kitti.CLASSES.index(n) for n in names], dtype=torch.int64))
    labels = kitti.labels_from(known, kitti.Calibration(K, _eye4(), None), frame.camera.size)
    regions = frame.ignored.double().numpy()
    unknown: Array = np.tile([-1.0, -1, -10, 0, 0, 0, 0, -1, -1, -1, -1000, -1000, -1000, -10], (len(regions), 1))
    height, width = frame.camera.size
    unknown[:, 3:7] = np.clip(regions - 0.5, 0, [width - 1, height - 1, width - 1, height - 1])
    types = (*labels.types, *(kitti.DONT_CARE,) * len(regions))
    kitti.write_labels(out / "label_2" / f"{frame.name}.txt", kitti.Labels(types, np.concatenate([labels.values, unknown])))
    write_json(out / "infos" / f"{frame.name}.json", _info(picture))


def _info(picture: RoadPicture) -> dict[str, Any]:
    """One entry of `infos.json`, as `nuscenes.read_infos` reads it; its LiDAR stands in the vehicle's origin."""
    frame, objects = picture.frame, picture.frame.objects
    assert objects is not None
    assert objects.velocities is not None
    assert objects.attributes is not None
    assert frame.ego_from_cam is not None
    ego_from_cam, name = frame.ego_from_cam, frame.name
    pose, lhw = ego_from_cam @ objects.cam_from_obj, objects.sizes
    over_ground = objects.velocities @ ego_from_cam[:3, :3].mT
    yaw = boxes3d.yaw_of(objects.cam_from_obj)
    turn = torch.atan2(pose[:, 1, 0], pose[:, 0, 0])
    seen, instances = [], []
    for k in range(len(objects)):
        shared = {"bbox_label_3d": int(objects.labels[k]), "bbox_3d_isvalid": True}
        shared["attr_label"] = int(objects.attributes[k]) if objects.attributes[k] >= 0 else len(ATTRIBUTES)
        lying = {
            "bbox_3d": [*objects.cam_from_obj[k, :3, 3].tolist(), *lhw[k].tolist(), float(yaw[k])],
            "velocity": objects.velocities[k, (0, 2)].tolist(), "visibility": float(picture.visibility[k]),
        }  # fmt: skip
        standing = {
            "bbox_3d": [*pose[k, :3, 3].tolist(), *boxes3d.lhw_from_lwh(lhw[k]).tolist(), float(turn[k])],
            "velocity": over_ground[k, :2].tolist(), "num_lidar_pts": 1, "num_radar_pts": 0,  # seen: it counts
        }  # fmt: skip
        seen.append({**shared, **lying})
        instances.append({**shared, **standing})
    moment = 0.5 * int(name)
    image = {
        "img_path": f"image_2/{name}.png", "cam2img": frame.camera.K.tolist(), "cam2ego": ego_from_cam.tolist(),
        "sample_data_token": f"road {name} CAM_FRONT", "timestamp": moment, "lidar2cam": se3.inverse(ego_from_cam).tolist(),
    }  # fmt: skip
    return {
        "sample_idx": int(name), "token": f"road {name}", "timestamp": moment, "ego2global": _eye4().tolist(),
        "images": {"CAM_FRONT": image}, "instances": instances, "cam_instances": {"CAM_FRONT": seen},
    }  # fmt: skip


def _kitti_class(category: str, variant: str) -> str:
    if category == "bicycle" and variant == "ridden":
        return "Cyclist"
    return "Van" if (category, variant) == ("car", "van") else KITTI_CLASSES.get(category, "Misc")
