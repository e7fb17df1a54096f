"""A picture of what scores are worth: predicted probability against what came true. Used through `viz`."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ..evaluation.calibration import Reliability
from .posterior import BLUE, FAINT, GREY, INK, TINTS, WHITE, Figure

OVER = (250, 226, 226)  # where scores promise too much
FRAME = (78.0, 56.0, 458.0, 436.0)  # of the diagram
STRIP = (78.0, 468.0, 458.0, 538.0)  # of the counts below it


def reliability_diagram(found: Reliability, title: str = "") -> Image.Image:
    """The share of right poses over the score, bin by bin, and how many estimates each bin holds.

    Points on the diagonal are probabilities that came true; below it, where the ground is red, scores promise too much. The
    whiskers are 95 % intervals of the share, the bars below the number of estimates.

    Args:
        found: of `evaluation.calibration.reliability`.
        title: written above.

    Returns:
        an RGB picture, 500 x 600.
    """
    figure = Figure(500, 600)
    x0, y0, x1, y1 = FRAME

    def place(score: float, share: float) -> tuple[float, float]:
        return x0 + score * (x1 - x0), y1 - share * (y1 - y0)

    figure.polygon(np.array([place(0, 0), place(1, 1), place(1, 0)]), OVER)
    for value in np.linspace(0, 1, 6):
        figure.line([place(value, 0), place(value, 1)], FAINT, 0.8)
        figure.line([place(0, value), place(1, value)], FAINT, 0.8)
        x, y = place(value, value)
        figure.text((x0 - 8, y), f"{value:.1f}", 13, "rm")
        figure.text((x, STRIP[3] + 8), f"{value:.1f}", 13, "mt")
    figure.line([place(0, 0), place(1, 1)], GREY, 1.4, dash=5)
    most = max((b.estimates for b in found.bins), default=0)
    full = [b for b in found.bins if b.estimates]
    chain = [place(b.score, b.right) for b in full]
    if len(chain) > 1:
        figure.line(chain, BLUE, 1.6)
    for b, (x, y) in zip(full, chain):
        low, high = place(b.score, b.lower)[1], place(b.score, b.upper)[1]
        figure.line([(x, low), (x, high)], BLUE, 1.6)
        for end in (low, high):
            figure.line([(x - 4, end), (x + 4, end)], BLUE, 1.6)
        figure.disc((x, y), 3 + 4 * math.sqrt(b.estimates / most), BLUE, WHITE, 1.2)
    figure.box(FRAME, None, INK, 1.2)

    figure.line([(STRIP[0], STRIP[3]), (STRIP[2], STRIP[3])], INK, 1.2)
    for b in found.bins:
        left, right = place(b.low, 0)[0] + 1, place(b.high, 0)[0] - 1
        top = STRIP[3] - (STRIP[3] - STRIP[1]) * b.estimates / max(most, 1)
        if b.estimates:
            figure.box((left, top, right, STRIP[3]), TINTS[1], BLUE, 0.9)
            figure.text(((left + right) / 2, top - 3), str(b.estimates), 11, "mb", GREY)
    figure.text(((x0 + x1) / 2, STRIP[3] + 38), "score", 14, "mm")
    figure.text_up((x0 - 46, (y0 + y1) / 2), "share that is right", 14)
    figure.text_up((x0 - 46, (STRIP[1] + STRIP[3]) / 2), "count", 14)
    figure.text((x0, 16), title, 15, "lm")
    numbers = f"{found.estimates} estimates: {found.right:.2f} right, mean score {found.score:.2f}, ECE {found.ece:.3f}"
    figure.text((x0, 38), numbers, 13, "lm", GREY)
    return figure.done()
