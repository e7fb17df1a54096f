"""The look of every chart, and the only way to matplotlib. Nothing global stays: neither pyplot nor a changed style.

@figure.style()
def histogram(values: Tensor) -> Image.Image:
    fig = figure.new(640, 480)
    fig.add_axes((0.1, 0.1, 0.85, 0.85)).hist(values.numpy())
    return figure.to_image(fig)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Blue and orange of Okabe and Ito's palette, which colour-blind readers tell apart: estimates are blue, the truth is orange.
INK, GREY, FAINT = "#26262b", "#6e6e76", "#e2e2e8"
BLUE, TINTS = "#0072b2", ("#deebf4", "#b5d3e7")  # TINTS: regions of 90 and 50 %
TRUTH = "#d55e00"
DPI = 100
STYLE = {
    "font.size": 10, "axes.titlesize": 12, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.9, "axes.grid": True, "axes.axisbelow": True, "grid.color": FAINT, "grid.linewidth": 0.7,
    "axes.formatter.useoffset": False, "legend.frameon": False, "legend.columnspacing": 1.4, "legend.handletextpad": 0.5,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Draw in the look of all charts, whatever the reader's own matplotlib settings are; as a decorator or in `with`."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):  # type: ignore[list-item]
        yield


def new(width: float, height: float) -> Figure:
    """An empty figure of so many pixels."""
    from matplotlib.figure import Figure

    return Figure((width / DPI, height / DPI), DPI)


def to_image(fig: Figure) -> Image.Image:
    """The figure as an RGB picture, the same pixels every time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def headline(ax: Axes, title: str, *notes: str, gap: float = 5, colors: tuple[str, ...] = (GREY, GREY, GREY)) -> None:
    """A title over the axes, and between them small lines of notes."""
    for k, (note, color) in enumerate(zip(reversed(notes), reversed(colors[: len(notes)]))):
        spot = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 9}
        ax.annotate(note, (0.5, 1), (0, gap + 14 * k), color=color, **spot)
    ax.set_title(title, pad=gap + 1 + 14 * len(notes))


def cyclic() -> Colormap:
    """Ochre, green, blue, pink and ochre again: for angles from -180 to 180 degrees."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("circle", ["#d99a10", "#009e73", BLUE, "#cc79a7", "#d99a10"])


def diverging() -> Colormap:
    """Blue, grey, orange: as dark in the middle as at the ends, so that every dot can be seen."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue to orange", [BLUE, "#8c8c90", TRUTH])


def pies(ax: Axes, x: np.ndarray, y: np.ndarray, radii: np.ndarray, shares: np.ndarray) -> PathCollection:
    """Discs at (n,) places with wedges, clockwise from the top: shares (n, k) of k equal sectors of angles from -180 degrees.

    Radii in points. Returns what a colour bar can be made of: the cyclic colours of the angles, degrees.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path
    from matplotlib.transforms import IdentityTransform

    ends = 90 - 360 * np.cumsum(np.pad(shares / shares.sum(1, keepdims=True), ((0, 0), (1, 0))), 1)
    disc, sector = np.nonzero(ends[:, :-1] - ends[:, 1:] > 1e-3)
    wedges = [Path.wedge(ends[i, k + 1], ends[i, k]) for i, k in zip(disc, sector)]
    places = np.stack([x, y], 1)[disc]
    found = PathCollection(wedges, radii[disc] ** 2, offsets=places, offset_transform=ax.transData, zorder=2, clip_on=False)
    found.set(array=(sector + 0.5) * 360 / shares.shape[1] - 180, cmap=cyclic(), clim=(-180, 180))
    found.set(edgecolor="face", linewidth=0.2, transform=IdentityTransform())
    ax.add_collection(found)
    ax.scatter(x, y, (2 * radii) ** 2, "none", edgecolors=INK, linewidths=0.5, zorder=2, clip_on=False)
    return found
