"""A picture of what scores are worth: predicted probability against what came true. Used through `viz`."""

from __future__ import annotations

import math

from PIL import Image

from ..evaluation.calibration import Reliability
from . import figure


@figure.style()
def reliability_diagram(found: Reliability, title: str = "") -> Image.Image:
    """The share of right poses over the score, bin by bin, and how many estimates each bin holds.

    Points on the diagonal are probabilities that came true; below it, where the ground is tinted, scores promise too much. The
    whiskers are 95 % intervals of the share, the bars below the number of estimates.

    Args:
        found: of `evaluation.calibration.reliability`.
        title: written above.

    Returns:
        an RGB picture, 500 x 600.
    """
    fig = figure.new(500, 600)
    upper, lower = fig.add_axes((0.15, 0.27, 0.79, 0.64)), fig.add_axes((0.15, 0.09, 0.79, 0.14))
    numbers = f"{found.estimates} estimates: {found.right:.2f} right, mean score {found.score:.2f}, ECE {found.ece:.3f}"
    figure.headline(upper, title, numbers)
    upper.fill_between([0, 1], [0, 1], color=figure.TRUTH, alpha=0.12, linewidth=0)
    upper.plot([0, 1], [0, 1], "--", color=figure.GREY)
    upper.text(0.03, 0.94, "tinted: scores promise too much", color=figure.GREY, fontsize=9)
    full = [b for b in found.bins if b.estimates]
    most = max((b.estimates for b in full), default=1)
    if full:
        score, right = [b.score for b in full], [b.right for b in full]
        whiskers = [[b.right - b.lower for b in full], [b.upper - b.right for b in full]]
        areas = [(4 + 6 * math.sqrt(b.estimates / most)) ** 2 for b in full]
        upper.errorbar(score, right, whiskers, color=figure.BLUE, capsize=3)
        upper.scatter(score, right, areas, figure.BLUE, edgecolors="white", linewidths=1, zorder=3, clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    upper.tick_params(labelbottom=False)
    widths = [b.high - b.low for b in found.bins]
    bars = lower.bar([b.low for b in found.bins], [b.estimates for b in found.bins], widths, align="edge")
    for bar in bars:
        bar.set(facecolor=figure.TINTS[1], edgecolor=figure.BLUE)
    lower.bar_label(bars, [str(b.estimates or "") for b in found.bins], fontsize=8, color=figure.GREY)
    lower.set(xlim=(0, 1), ylim=(0, 1.25 * most), xlabel="score", ylabel="estimates", yticks=[])
    lower.spines[["top", "left", "right"]].set_visible(False)
    return figure.to_image(fig)
