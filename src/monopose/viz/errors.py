"""Charts of how good poses are: recall against error, shares by what makes it hard, and how it came about in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import figure

Array = NDArray[Any]


class Share(NamedTuple):
    """The share of `right` ones among `total`, with its 95 % interval, of what lies between `low` and `high`."""

    low: float
    high: float
    total: int
    right: float
    lower: float
    upper: float


@figure.style()
def recall_curves(errors: Mapping[str, Array], limits: Mapping[str, float]) -> Image.Image:
    """The share of all targets whose error is below x.

    Args:
        errors: what is on the x axis, "error in mm" -> of every target, (N,); inf for those without an estimate.
        limits: the same names -> where each x axis ends.
    """
    fig = figure.new(1000, 320)
    for k, (name, values) in enumerate(errors.items()):
        ax = fig.add_axes((0.055 + k / len(errors), 0.17, 0.8 / len(errors), 0.76))
        inside = np.sort(values[values <= limits[name]])
        x = np.concatenate([[0.0], inside, [limits[name]]])
        y = np.concatenate([[0], np.arange(1, len(inside) + 1), [len(inside)]]) / max(len(values), 1)
        ax.step(x, y, where="post", color=figure.BLUE, linewidth=2)
        if len(values) and np.isfinite(middle := float(np.median(values))) and middle <= limits[name]:
            ax.plot([middle, middle], [0, 0.5], ":", color=figure.GREY)
            ax.text(middle, 0.02, f" median {middle:.3g}", color=figure.GREY, fontsize=9)
        ax.set(xlim=(0, limits[name]), ylim=(0, 1), xlabel=name, ylabel="share of targets" if k == 0 else "")
    return figure.to_image(fig)


@figure.style()
def precision_curves(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Image.Image:
    """Average precision over thresholds: a panel for each measure, a line for each class, the mean dark.

    Args:
        curves: what is on the x axis -> "thresholds", and the precision of each name there, see `evaluation.nocs.curves`.
    """
    fig = figure.new(1000, 340)
    for k, (measure, lines) in enumerate(curves.items()):
        ax = fig.add_axes((0.055 + k / len(curves), 0.17, 0.8 / len(curves), 0.76))
        for name, values in lines.items():
            if name != "thresholds":
                ax.plot(
                    lines["thresholds"], values, label=name, **({"color": "black", "linewidth": 2} if name == "mean" else {})
                )
        ax.set(ylim=(0, 1), xlabel=measure, ylabel="average precision" if k == 0 else "")
        if k == 0:
            ax.legend(fontsize=8)
    return figure.to_image(fig)


@figure.style()
def shares_by(groups: Mapping[str, Sequence[Share]]) -> Image.Image:
    """The share that is right, bin by bin, with 95 % whiskers: a panel for each thing that it depends on."""
    fig = figure.new(1000, 320)
    for k, (name, bins) in enumerate(groups.items()):
        ax = fig.add_axes((0.055 + k / len(groups), 0.2, 0.8 / len(groups), 0.73))
        places, shares = np.arange(len(bins)), np.array([b.right for b in bins])
        whiskers = np.abs(np.array([[b.right - b.lower, b.upper - b.right] for b in bins]).reshape(-1, 2).T)
        ax.bar(places, shares, 0.8, color=figure.TINTS[1], edgecolor=figure.BLUE)
        ax.errorbar(places, shares, whiskers, fmt="none", color=figure.BLUE, capsize=3)
        for x, b in zip(places, bins):
            ax.text(x, 0.02, str(b.total), ha="center", fontsize=8, color=figure.GREY)
        ax.set(ylim=(0, 1), xlabel=name, ylabel="share that is right" if k == 0 else "")
        ax.set_xticks(places, [f"{_short(b.low)}-{_short(b.high)}" for b in bins], fontsize=7.5)
    return figure.to_image(fig)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


@figure.style()
def outcomes_bar(outcomes: Mapping[str, int]) -> Image.Image:
    """What became of the targets, as one bar."""
    fig = figure.new(1000, 110)
    ax = fig.add_axes((0.02, 0.45, 0.96, 0.45))
    total, start = max(sum(outcomes.values()), 1), 0
    for (name, count), colour in zip(outcomes.items(), (figure.BLUE, figure.TRUTH, "#e69f00", "#cc79a7", figure.GREY)):
        if count:
            ax.barh([0], [count], left=start, color=colour, label=f"{name} {count}")
            start += count
    ax.set(xlim=(0, total), yticks=[], xlabel="")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=5)
    ax.grid(False)
    return figure.to_image(fig)


@figure.style()
def learning_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Image.Image:
    """What was measured while networks learned, over the minutes: a panel for each.

    Args:
        curves: name of the network -> lines of `training.progress`.
    """
    fig = figure.new(1000, 320)
    for k, (name, lines) in enumerate(curves.items()):
        ax = fig.add_axes((0.055 + k / len(curves), 0.17, 0.8 / len(curves), 0.7))
        key = next((k for k in ("right", "found") if k in lines[-1]), "loss")
        some = [line for line in lines if key in line]
        minutes, values = [line["minutes"] for line in some], [line[key] for line in some]
        ax.plot(minutes, values, "o-", color=figure.BLUE, markersize=3)
        if key != "loss":
            ax.set(ylim=(0, 1))
        words = {"right": "share right", "found": "share found", "loss": "loss"}
        figure.headline(ax, name, f"{words[key]} over minutes")
        ax.set_xlim(left=0)
    return figure.to_image(fig)
