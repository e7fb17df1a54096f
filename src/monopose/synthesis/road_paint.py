"""A road as a picture: ground, marks, shadows and walls by formula, and the sky above them.

A plane and two walls need no triangles, and marks far away are averaged over their pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from torch import Tensor

from . import scene
from .road_layout import Street
from .shapes.solids import Array


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
        return scene.background(photos, size, rng)
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
