"""Where a road lies, and what stands on it: cameras, streets, things with places, headings and speeds; metres, radians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ..datasets.road import CLASSES
from ..geometry import boxes3d
from ..types import Camera, ObjectModel
from .shapes import vehicles
from .shapes.solids import Array

# focal length, principal point right of and below the middle of the picture; shares of its width
_CAMERAS = {"nuscenes": (0.7915, 0.0102, -0.0456), "kitti": (0.5810, -0.0091, -0.0118)}
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


def check_config(config: RoadConfig) -> None:
    """ValueError for what cannot be drawn."""
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

    def onwards(self, t: float) -> float:
        """The heading of the traffic on this side, radians."""
        return 0.0 if (t > 0) != self.keep_left else math.pi

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


class Thing(NamedTuple):
    """One candidate: its mesh and where it stands on the street."""

    model: ObjectModel
    category: str
    variant: str
    s: float
    t: float
    heading: float  # from +s towards +t, radians
    speed: float  # metres per second
    attribute: str  # "" for none


def random_things(config: RoadConfig, street: Street, rng: Generator) -> tuple[list[Thing], Tensor]:
    """Things on the road that do not stand in each other, nor in the camera's car.

    Returns:
        the things, nearest first; cam_from_obj, (N, 4, 4), float64, metres.
    """
    names, shares = [c for c, _ in config.classes], np.array([p for _, p in config.classes])
    wanted = int(rng.integers(config.objects[0], config.objects[1] + 1))
    things: list[Thing] = []
    for _ in range(3 * wanted):
        category = str(rng.choice(names, p=shares / shares.sum()))
        things += _candidates(category, config, street, rng)
    poses, lhw = poses_of(things, street)
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


def poses_of(things: Sequence[Thing], street: Street) -> tuple[Tensor, Tensor]:
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


def _candidates(category: str, config: RoadConfig, street: Street, rng: Generator) -> list[Thing]:
    """One thing, or a row of cones or barriers, where such things are, or nothing if there is no such place nearby."""
    width = config.size[1]
    K = street.K
    near, far = 1.2 * config.distance[0], config.distance[1]
    z = rng.uniform(near, far) if rng.random() < 0.5 else math.exp(rng.uniform(math.log(near), math.log(far)))
    x = (rng.uniform(-0.06, 1.06) * width - float(K[0, 2])) / float(K[0, 0]) * z
    s, t = (float(v) for v in street.along(np.array(x), np.array(z)))
    seed = config.first_shape + int(rng.integers(config.shapes))
    model = _stretched(_shape(category, seed), category, rng)
    thing = Thing(model, category, vehicles.variant(category, seed), s, t, 0.0, 0.0, "")
    (left, right), pavement, wall = street.edges, street.pavement, street.wall
    if not left - pavement[0] - wall[0] + 1 < t < right + pavement[1] + wall[1] - 1:
        return []  # there are houses
    if category in _VEHICLES:
        return _vehicle(thing, street, rng)
    if not left - pavement[0] < t < right + pavement[1]:
        return []
    if category in ("traffic_cone", "barrier"):
        return _row(thing, street, rng)
    return _pedestrian(thing, street, rng) if category == "pedestrian" else _cycle(thing, street, rng)


def _vehicle(thing: Thing, street: Street, rng: Generator) -> list[Thing]:
    """In a lane, on a strip for parking, or in a yard."""
    t, (left, right) = thing.t, street.edges
    lanes = (-street.lanes[0] * street.lane, street.lanes[1] * street.lane)
    if lanes[0] < t < lanes[1] and rng.random() < 0.9:
        t = (math.floor(t / street.lane) + 0.5) * street.lane + rng.normal(0, 0.15)
        turning = rng.random() < 0.06
        heading = rng.uniform(-math.pi, math.pi) if turning else street.onwards(thing.t) + rng.normal(0, 0.04)
        moving = rng.random() < 0.65
        speed = rng.uniform(1.0, 5.0) if turning else rng.uniform(2.0, 16.0)
        attribute = "vehicle.moving" if moving else "vehicle.stopped"
        return [thing._replace(t=t, heading=heading, speed=speed * moving, attribute=attribute)]
    on_road, between = left < t < right, left - street.pavement[0] < t < right + street.pavement[1]
    if thing.category == "bus" and not on_road:
        return []
    heading = street.onwards(t) + math.pi * (rng.random() < 0.15) + rng.normal(0, 0.04)
    side = int(t > 0)
    if street.parking[side] > 0 and between:
        t = (right if side else left) - (1 if side else -1) * (street.parking[side] / 2 + rng.normal(0, 0.1))
    elif on_road or rng.random() < 0.5:
        return []
    else:  # in a yard beside the road
        heading += math.pi / 2 * int(rng.integers(4)) + rng.normal(0, 0.1)
    return [thing._replace(t=t, heading=heading, attribute="vehicle.parked")]


def _row(thing: Thing, street: Street, rng: Generator) -> list[Thing]:
    """One to four cones or barriers along a line."""
    t = round(thing.t / street.lane) * street.lane + rng.normal(0, 0.3)
    wide = float(thing.model.bounds[1, 2] - thing.model.bounds[0, 2])
    cone = thing.category == "traffic_cone"
    gap = rng.uniform(1.5, 4.0) if cone else wide + 0.35 + rng.uniform(0, 0.4)
    slant = rng.normal(0, 0.1)
    heading = rng.uniform(-math.pi, math.pi) if cone else rng.choice([-1, 1]) * math.pi / 2 + slant
    row = [(thing.s + k * gap, t + k * gap * math.tan(slant)) for k in range(int(rng.integers(1, 5)))]
    return [thing._replace(s=a, t=b, heading=heading + rng.normal(0, 0.04)) for a, b in row]


def _pedestrian(thing: Thing, street: Street, rng: Generator) -> list[Thing]:
    """On a pavement, or crossing the road."""
    t, (left, right) = thing.t, street.edges
    on_road, walking = left < t < right, thing.variant == "walking"
    crossing = on_road and rng.random() < 0.5
    if on_road and not crossing:  # on the pavement of this side
        t = right + rng.uniform(0.3, street.pavement[1] - 0.3) if t > 0 else left - rng.uniform(0.3, street.pavement[0] - 0.3)
    if crossing:
        heading = rng.choice([-1, 1]) * math.pi / 2 + rng.normal(0, 0.15)
    elif walking:
        heading = math.pi * rng.integers(2) + rng.normal(0, 0.3)
    else:
        heading = rng.uniform(-math.pi, math.pi)
    speed = float(np.clip(rng.normal(1.35, 0.3), 0.5, 2.5)) if walking else 0.0
    attribute = f"pedestrian.{'moving' if walking else 'standing'}"
    return [thing._replace(t=t, heading=heading, speed=speed, attribute=attribute)]


def _cycle(thing: Thing, street: Street, rng: Generator) -> list[Thing]:
    """Ridden on the road, or left beside it."""
    t, (left, right) = thing.t, street.edges
    on_road = left < t < right
    if thing.variant == "ridden":
        if not on_road:
            return []
        aside = rng.normal(0, 0.3)
        speed = rng.uniform(2, 7) if thing.category == "bicycle" else rng.uniform(3, 14)
        speed *= rng.random() < 0.85
        heading = street.onwards(t) + rng.normal(0, 0.08)
        return [thing._replace(t=t + aside, heading=heading, speed=speed, attribute="cycle.with_rider")]
    if on_road:
        t = right + rng.uniform(0.3, 1.2) if t > 0 else left - rng.uniform(0.3, 1.2)
    return [thing._replace(t=t, heading=rng.uniform(-math.pi, math.pi), attribute="cycle.without_rider")]


def _stretched(model: ObjectModel, category: str, rng: Generator) -> ObjectModel:
    """The same shape a few per cent longer, higher, wider."""
    factors = np.exp(np.clip(rng.normal(0, 0.03, 3), -0.08, 0.08))
    if category == "traffic_cone":
        factors[2] = factors[0]
    scale = torch.from_numpy(factors).to(model.vertices)
    return replace(model, vertices=model.vertices * scale, diameter=model.diameter * float(factors.max()))


def bystanders(config: RoadConfig, street: Street, rng: Generator) -> list[Thing]:
    """Trees, posts and signs along the pavements; no truth."""
    found = []
    for _ in range(int(rng.integers(0, config.roadside + 1))):
        side = int(rng.integers(2))
        edge, outwards = street.edges[side], 1 if side else -1
        s, t = rng.uniform(6, 50), edge + outwards * rng.uniform(0.3, street.pavement[side])
        if abs(t - street.beside) > 2:
            found.append(Thing(_roadside(int(rng.integers(64))), "", "", s, t, rng.uniform(0, 6.3), 0.0, ""))
    return found
