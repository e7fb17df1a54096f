"""Glazes, patterns, logos, words and labels for the walls of `turned` shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from .solids import COLUMNS, ROWS, SPARE, Array

Three = Sequence[float] | Array  # a colour

GLAZES = (
    (0.93, 0.92, 0.89), (0.95, 0.95, 0.95), (0.88, 0.83, 0.72), (0.13, 0.13, 0.14), (0.16, 0.25, 0.45), (0.60, 0.13, 0.12),
    (0.20, 0.42, 0.33), (0.55, 0.72, 0.78), (0.86, 0.55, 0.18), (0.90, 0.80, 0.30), (0.42, 0.30, 0.22), (0.78, 0.45, 0.50),
    (0.45, 0.47, 0.50), (0.35, 0.22, 0.42), (0.25, 0.55, 0.62), (0.70, 0.78, 0.55),
)  # fmt: skip
PRINTS = (
    (0.85, 0.10, 0.12), (0.95, 0.80, 0.10), (0.08, 0.25, 0.60), (0.05, 0.45, 0.25), (0.95, 0.50, 0.08), (0.96, 0.96, 0.95),
    (0.08, 0.08, 0.09), (0.45, 0.12, 0.40), (0.10, 0.60, 0.75), (0.80, 0.82, 0.85), (0.95, 0.60, 0.70), (0.50, 0.75, 0.20),
    (0.65, 0.05, 0.10), (0.75, 0.65, 0.40),
)  # fmt: skip
BOTTLES = (
    (0.85, 0.88, 0.88), (0.95, 0.95, 0.94), (0.10, 0.25, 0.14), (0.30, 0.17, 0.07), (0.55, 0.70, 0.78), (0.85, 0.75, 0.20),
    (0.75, 0.15, 0.10), (0.15, 0.30, 0.60), (0.40, 0.60, 0.25), (0.20, 0.10, 0.08), (0.80, 0.50, 0.65), (0.65, 0.82, 0.75),
)  # fmt: skip
METALS = ((0.75, 0.76, 0.78), (0.62, 0.63, 0.65), (0.80, 0.74, 0.58))


def pick(palette: Sequence[Three], rng: Generator) -> Array:
    return np.clip(
        np.asarray(palette[int(rng.integers(len(palette)))]) * rng.uniform(0.8, 1.1) + rng.normal(0, 0.02, 3), 0.02, 0.98
    )


def apart(palette: Sequence[Three], other: Array, rng: Generator) -> Array:
    """A colour that differs clearly from another one."""
    for _ in range(12):
        color = pick(palette, rng)
        if np.abs(color - other).max() > 0.3:
            break
    return color


class Wall:
    """The texture: row 0 of `canvas` is the top of the picture, rows of the profile count from below."""

    def __init__(self, ground: Three, spare: Three | None = None) -> None:
        self.canvas = np.empty((ROWS, COLUMNS, 3), np.float32)
        self.canvas[:] = ground
        self.canvas[ROWS - SPARE :] = ground if spare is None else spare

    def band(self, low: int, high: int, paint: Three) -> None:
        """Paint all around between two rows, counted from below."""
        self.canvas[ROWS - high : ROWS - low] = paint

    def region(self, low: int, high: int) -> Array:
        """A view of the rows between `low` and `high`."""
        return self.canvas[ROWS - high : ROWS - low]


def text(area: Array, rng: Generator, paint: Array, lines: int | None = None) -> None:
    """Words of random letters that fill an area, (h, w, 3), or blocks where they would be too small to read."""
    import cv2

    height, width = area.shape[:2]
    count = int(rng.integers(1, 4)) if lines is None else lines
    tall = height / count
    canvas: Array = np.zeros((height, width), np.uint8)
    for k in range(count):
        y0, y1 = round((k + 0.15) * tall), round((k + 0.85) * tall)
        if y1 - y0 < 2:
            continue
        if tall >= 9:
            word = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVXYZaeimnorstu"), int(rng.integers(3, 8))))
            font, bold = (
                int(rng.choice([cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX])),
                2,
            )
            (w, h), _ = cv2.getTextSize(word, font, 1.0, bold)
            big = np.zeros((h + 12, w + 8), np.uint8)
            cv2.putText(big, word, (4, h + 4), font, 1.0, 255, bold, cv2.LINE_AA)
            fitted = max(2, min(width, round((y1 - y0) * w / h)))
            small = cv2.resize(big, (fitted, y1 - y0), interpolation=cv2.INTER_AREA)
            x = (width - fitted) // 2
            canvas[y0:y1, x : x + fitted] = np.maximum(canvas[y0:y1, x : x + fitted], small)
        else:
            x = int(rng.integers(0, max(width // 5, 1)))
            while x < width * 0.95:
                long = int(rng.integers(2, max(width // 5, 4)))
                canvas[y0:y1, x : min(x + long, width)] = 255
                x += long + int(rng.integers(1, 4))
    share = canvas[..., None].astype(np.float32) / 255
    area[:] = area * (1 - share) + np.asarray(paint, np.float32) * share


def logo(area: Array, rng: Generator, paint: Array, second: Array) -> None:
    """A disc, diamond, star, shield, drop or ring in the middle of an area, (h, w, 3)."""
    import cv2

    height, width = area.shape[:2]
    half = np.array([min(width, height * 1.3), min(height, width * 1.3)]) * rng.uniform(0.3, 0.47)
    centre = np.array([width, height]) / 2
    kind = int(rng.integers(0, 6))
    n = int(rng.integers(5, 9))
    t = np.arange(48) * 2 * math.pi / 48
    if kind == 0:
        ring = np.stack([np.cos(t), np.sin(t)], -1)
    elif kind == 1:
        ring = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    elif kind == 2:
        t = np.arange(2 * n) * math.pi / n
        ring = np.stack([np.sin(t), -np.cos(t)], -1) * np.where(np.arange(2 * n) % 2, rng.uniform(0.4, 0.7), 1.0)[:, None]
    elif kind == 3:
        ring = np.array([[-0.9, -1], [0.9, -1], [0.9, 0.2], [0.0, 1.0], [-0.9, 0.2]])
    elif kind == 4:
        ring = np.stack([np.cos(t) * (1 + 0.4 * np.sin(t)), np.sin(t)], -1)
    else:
        ring = np.stack([np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.4, np.sign(np.sin(t)) * np.abs(np.sin(t)) ** 0.4], -1)
    for scale, color in ((1.0, paint), (rng.uniform(0.5, 0.85), second)):
        corners = np.round((centre + ring * half * scale) * 16).astype(np.int32)
        cv2.fillPoly(area, [corners], tuple(float(c) for c in color), cv2.LINE_AA, 4)
    if rng.random() < 0.6:
        x, y = int(centre[0] - 0.6 * half[0]), int(centre[1] - 0.35 * half[1])
        inner = area[y : y + max(int(half[1] * 0.7), 3), x : x + max(int(half[0] * 1.2), 4)]
        text(inner, rng, paint, 1)


def pattern(area: Array, rng: Generator, paint: Array, second: Array) -> None:
    """Cover an area all around, (h, COLUMNS, 3), with a pattern that closes behind."""
    height, width = area.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    around = x / width
    kind = int(rng.integers(0, 7))
    if kind == 0:  # rings
        on = (y / height * rng.integers(2, 7)) % 1 < rng.uniform(0.2, 0.6)
    elif kind == 1:  # upright stripes
        on = (around * rng.integers(4, 25)) % 1 < rng.uniform(0.2, 0.7)
    elif kind == 2:  # slanted stripes
        on = (around * rng.integers(2, 12) + y / height * rng.choice([-2, -1, 1, 2])) % 1 < rng.uniform(0.2, 0.6)
    elif kind == 3:  # dots
        n = int(rng.integers(6, 20))
        cell = width / n
        row = np.floor(y / cell)
        dx, dy = (x / cell + 0.5 * (row % 2)) % 1 - 0.5, (y / cell) % 1 - 0.5
        on = dx * dx + dy * dy < rng.uniform(0.03, 0.16)
    elif kind == 4:  # a wave between two colours
        wave = rng.uniform(0.3, 0.7) + rng.uniform(0.05, 0.25) * np.sin(
            2 * math.pi * rng.integers(1, 6) * around + rng.uniform(0, 6)
        )
        on = y / height > wave
    elif kind == 5:  # patches
        on = np.zeros((height, width), bool)
        for _ in range(int(rng.integers(3, 12))):
            cx, cy, rx, ry = rng.uniform(0, 1), rng.uniform(0, height), rng.uniform(0.02, 0.12), rng.uniform(0.05, 0.4) * height
            gap = (around - cx + 0.5) % 1 - 0.5
            on |= (gap / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
    else:  # checks
        n, rows = 2 * int(rng.integers(3, 10)), int(rng.integers(2, 6))
        on = (np.floor(around * n) + np.floor(y / height * rows)) % 2 < 1
    area[on] = paint
    if rng.random() < 0.3:
        edge = max(height // 14, 1)
        area[:edge] = area[-edge:] = second


def label(wall: Wall, low: int, high: int, rng: Generator, ground: Array, busy: float = 0.75) -> None:
    """A printed label between two rows: ground, pattern, one or two logos, words, a panel of small print, a bar code."""
    area = wall.region(low, high)
    height, width = area.shape[:2]
    if height < 6:
        area[:] = ground
        return
    ink, second = apart(PRINTS, ground, rng), pick(PRINTS, rng)
    area[:] = ground
    if rng.random() < busy * 0.6:
        pattern(area, rng, second, ink)
    faces = int(rng.integers(1, 3))
    start = int(rng.integers(0, width))
    turned: Array = np.roll(area, -start, axis=1).copy()  # the seam of the texture may lie anywhere on the label
    wide = width // (faces * 2)
    for k in range(faces):
        x = k * width // faces + wide // 4
        front = turned[:, x : x + wide]
        upper = int(height * rng.uniform(0.45, 0.75))
        if rng.random() < 0.45:
            front[: max(upper, 3)] = np.where(rng.random() < 0.5, ground, apart(PRINTS, ink, rng))
        if rng.random() < 0.7:
            logo(front[:upper], rng, ink, second)
        else:
            text(front[int(0.1 * height) : upper], rng, ink, 1 + int(rng.random() < 0.4))
        text(front[upper : int(height * 0.97)], rng, ink)
    if rng.random() < busy and faces == 1:  # the back
        x, panel = int(width * 0.68), int(width * 0.22)
        back = turned[int(0.1 * height) : int(0.9 * height), x : x + panel]
        paper = np.array([0.94, 0.94, 0.92]) if rng.random() < 0.7 else ground
        back[:] = paper
        text(back[: int(len(back) * 0.6)], rng, np.array([0.1, 0.1, 0.1]), int(rng.integers(4, 9)))
        bars = back[int(len(back) * 0.68) : int(len(back) * 0.95), panel // 6 : -panel // 6]
        bars[:] = np.where(rng.random(bars.shape[1]) < 0.5, 0.95, 0.08)[None, :, None]
    area[:] = np.roll(turned, start, axis=1)
