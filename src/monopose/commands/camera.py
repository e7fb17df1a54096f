"""`monopose camera`: a camera file from photos of a board of known pattern, or from the camera file of another program.

The intrinsics and lens distortion are those with which the corners of the board fit best (`cv2.calibrateCamera`); how large its
squares are does not matter to them. Beside the file there are two pictures: where in the picture corners were seen, and how far
each is from where the camera expects it.
"""

from __future__ import annotations

import glob
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..command import save_picture
from ..io.cameras import ImageWarning, read_camera, write_camera
from ..io.files import IMAGE_SUFFIXES, Unreadable
from ..io.images import iterate_source, read_image
from ..types import Camera
from ..viz import figure

FEWEST, ENOUGH = 4, 10  # photos with the board: without which there is no camera, and from which on it is trusted
CELLS = 8  # the picture is divided into so many columns and rows to see where corners were
COVERED = 0.6  # share of the cells that should have had a corner
TILTED = 20.0  # degrees by which some boards should be turned away, or the focal length is a guess
BLURRED = 5.0  # pixels over which an edge of the board goes from black to white
MOVED = 0.04  # of the picture's diagonal, by which the board of a video has to move to be looked at again
KEPT = 40  # pictures of a video or a live camera
POOR_RMS = 1.0  # pixels
DICTIONARIES = ("4X4_1000", "5X5_1000", "6X6_1000", "7X7_1000", "ARUCO_ORIGINAL", "APRILTAG_36h11")


class Board(NamedTuple):
    """A calibration board.

    Args:
        columns, rows: of a checkerboard its inner corners, of a ChArUco board its squares.
        charuco: whether there are markers in its white squares.
        marker: their sides, in sides of the squares.
    """

    columns: int
    rows: int
    charuco: bool = False
    marker: float = 0.75


class Seen(NamedTuple):
    """The corners that one photo shows."""

    name: str
    points: np.ndarray  # (N, 3), sides of a square, z = 0
    pixels: np.ndarray  # (N, 2)
    edge: float  # pixels over which edges go from black to white: 2 in a sharp picture


@dataclass(frozen=True)
class CalibrationReport:
    """A camera, and how much it is worth.

    Args:
        camera: the file that was written.
        fx, fy, cx, cy, distortion: what is in it.
        size: [width, height], pixels.
        rms_px: root of the mean squared distance of corners from where the camera expects them.
        focal_sigma_px: standard deviations of fx and fy, if corners err independently.
        photos: name -> RMS of its corners, pixels.
        without: photos in which the board was not found.
        coverage: share of an 8 x 8 grid over the picture in which there were corners.
        tilt_deg: how far the most turned board is turned away from the camera.
        pictures: of the coverage, of the residuals.
        warnings: why it may be worth less.
    """

    camera: str
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: list[float]
    size: list[int]
    rms_px: float
    focal_sigma_px: list[float]
    photos: dict[str, float]
    without: list[str]
    coverage: float
    tilt_deg: float
    pictures: list[str]
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        width = max(map(len, self.photos))
        lines = [f"  {name:{width}}  {rms:.2f} px" for name, rms in self.photos.items()]
        lines += [f"  {name}: no board" for name in self.without]
        sx, sy = self.focal_sigma_px
        lines += [
            f"fx {self.fx:.2f} +- {sx:.2f}  fy {self.fy:.2f} +- {sy:.2f}  cx {self.cx:.2f}  cy {self.cy:.2f} pixels",
            "distortion " + "  ".join(f"{v:+.4f}" for v in self.distortion) + "  (k1 k2 p1 p2 k3)",
            f"RMS {self.rms_px:.3f} px over {len(self.photos)} photos; corners in {self.coverage:.0%} of the picture",
            *(f"warning: {w}" for w in self.warnings),
            f"camera: {self.camera}   pictures: {', '.join(self.pictures)}",
        ]
        return "\n".join(lines)


def convert(
    source: Path, out: Path, size: tuple[int, int] | None = None, number: int | None = None
) -> dict[str, str | list[float] | float]:
    """Write camera.json from a camera file of another program.

    Args:
        source: any form that `io.cameras.read_camera` reads.
        out: the file to write.
        size: (width, height), pixels, of files that do not tell it.
        number: which camera or picture, of files that hold several.

    Raises:
        FileNotFoundError, ValueError: see `io.cameras.read_camera`.
    """
    camera = read_camera(source, im_id=number, size=None if size is None else (size[1], size[0]))
    write_camera(out, camera)
    return {"camera": str(out), "from": str(source), "is": repr(camera)}


def calibrate(
    sources: Sequence[str], board: Board, out: Path, say: Callable[[str], None] = lambda line: None
) -> CalibrationReport:
    """Make camera.json from pictures of a board.

    Args:
        sources: photos, folders, patterns such as `photos/*.jpg`, one video, or one number of a live camera, which Ctrl-C ends.
        board: what they show.
        out: the file to write; OUT_coverage.png and OUT_residuals.png beside it.
        say: takes a line about each picture as it is looked at.

    Raises:
        FileNotFoundError, ValueError: no pictures; the board is in too few of them; pictures of different sizes.
    """
    seen, without, size = _looked_through(_pictures(sources), board, say)
    if len(seen) < FEWEST:
        what = "squares" if board.charuco else "inner corners"
        raise ValueError(
            f"the board was found in {len(seen)} of {len(seen) + len(without)} pictures, at least {FEWEST} are needed, better "
            f"{ENOUGH} or more. Does it have {board.columns} x {board.rows} {what} (columns x rows)? Is all of it in the "
            "picture, with a white margin?"
        )
    lens = 0 if len(seen) >= ENOUGH else _cv2().CALIB_FIX_K3  # few photos do not tell it from k2
    points, pixels = [s.points.astype(np.float32) for s in seen], [s.pixels.astype(np.float32) for s in seen]
    found = _cv2().calibrateCameraExtended(points, pixels, size, None, None, flags=lens)
    rms, K, distortion, turns, places, sigmas, _, each = found
    if not (np.isfinite(K).all() and np.isfinite(distortion).all() and rms < 0.1 * max(size)):
        raise ValueError(
            f"no camera fits these corners (RMS {rms:.1f} pixels); are the photos of one camera with one zoom and focus, "
            "and is the board flat?"
        )
    expected = [
        _cv2().projectPoints(p, r, t, K, distortion)[0].reshape(-1, 2) for p, r, t in zip(points, turns, places, strict=True)
    ]
    tilt = max(math.degrees(math.acos(min(abs(float(_cv2().Rodrigues(r)[0][2, 2])), 1))) for r in turns)
    cells = _cells(np.concatenate(pixels), size)
    camera = Camera(torch.from_numpy(K).float(), (size[1], size[0]), torch.from_numpy(np.ravel(distortion)[:5].copy()).float())
    rows = {s.name: float(rms) for s, rms in zip(seen, np.ravel(each))}
    sigma = [float(v) for v in np.ravel(sigmas)[:2]]
    write_camera(out, camera)
    drawn = {"coverage": _coverage(seen, size, cells), "residuals": _residuals(pixels, expected, size, float(rms))}
    pictures = [str(save_picture(out.with_name(f"{out.stem}_{name}.png"), picture)) for name, picture in drawn.items()]
    return CalibrationReport(
        str(out), float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), camera.distortion.tolist(),  # type: ignore[union-attr]
        list(size), float(rms), sigma, rows, without, float(cells.mean()), tilt, pictures,
        _doubts(seen, rows, sigma, K, cells, tilt, float(rms)),
    )  # fmt: skip


def _doubts(
    seen: Sequence[Seen], rows: dict[str, float], sigma: list[float], K: np.ndarray, cells: np.ndarray, tilt: float, rms: float
) -> list[str]:
    """Why a camera may be worth less than it looks."""
    doubts = []
    if len(seen) < ENOUGH:
        doubts.append(f"only {len(seen)} photos show the board; take {ENOUGH} or more")
    if cells.mean() < COVERED:
        sides = {
            "left": cells[:, :2], "right": cells[:, -2:], "upper": cells[:2], "lower": cells[-2:],
        }  # fmt: skip
        empty = [name for name, part in sides.items() if part.mean() < COVERED / 2]
        names = ", ".join(empty if len(empty) < len(sides) else [])
        where = f", hardly any at the {names}{' ' * bool(names)}edge{'s' * (len(empty) > 1)}" if empty else ""
        doubts.append(
            f"corners in {cells.mean():.0%} of the picture{where}: elsewhere the lens is a guess; move the board about"
        )
    if tilt < TILTED:
        doubts.append(
            f"no board is turned away by more than {tilt:.0f} degrees, so the focal length can be traded for the distance: "
            "tilt it by 30 degrees and more in some photos"
        )
    if max(sigma[0] / K[0, 0], sigma[1] / K[1, 1]) > 0.01:
        doubts.append(f"the focal length is uncertain by {100 * max(sigma[0] / K[0, 0], sigma[1] / K[1, 1]):.1f} %")
    blurred = [f"{s.name} ({s.edge:.0f} px)" for s in seen if s.edge > BLURRED]
    if blurred:
        doubts.append(f"blurred: {_some(blurred)}; edges go from black to white over more than {BLURRED:g} pixels")
    usual = float(np.median(list(rows.values())))
    odd = [f"{name} ({value:.1f} px)" for name, value in rows.items() if value > max(3 * usual, 0.5)]
    if odd:
        doubts.append(f"fits worse than the others: {_some(odd)}; leave out and calibrate again")
    if rms > POOR_RMS:
        doubts.append(f"RMS {rms:.1f} px, good ones are below {POOR_RMS:g}; is the board flat, zoom and focus fixed?")
    return doubts


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ------------------------------------------------------------------------------------------------- pictures and corners


def _cv2() -> Any:
    import cv2

    return cv2


def _pictures(sources: Sequence[str]) -> Iterator[tuple[str, np.ndarray | None, bool]]:
    """Name, RGB picture (H, W, 3) uint8 or None where it cannot be read, and whether it is one of a video."""
    for source in sources:
        paths = sorted(glob.glob(source)) if any(c in source for c in "*?[") and not Path(source).exists() else [source]
        if not paths:
            raise FileNotFoundError(f"no file fits the pattern {source}")
        for path in paths:
            if Path(path).is_dir():
                inside = sorted(p for p in Path(path).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
                if not inside:
                    raise FileNotFoundError(f"no pictures in the folder {path}; expected {', '.join(IMAGE_SUFFIXES)}")
                for file in inside:
                    yield file.name, _read(file), False
            elif Path(path).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(path).name, _read(Path(path)), False
            else:
                for name, image in iterate_source(path):
                    yield name, _bytes(image), True


def _read(path: Path) -> np.ndarray | None:
    try:
        return _bytes(read_image(path))
    except Unreadable as error:
        warnings.warn(str(error), ImageWarning, stacklevel=3)
        return None


def _bytes(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()  # type: ignore[no-any-return]


def _looked_through(
    pictures: Iterator[tuple[str, np.ndarray | None, bool]], board: Board, say: Callable[[str], None]
) -> tuple[list[Seen], list[str], tuple[int, int]]:
    """The corners of all pictures, names of those without, (width, height). Of a video those in which the board has moved."""
    seen: list[Seen] = []
    without: list[str] = []
    size, first, finder = (0, 0), "", None
    try:
        for name, picture, moving in pictures:
            if picture is None:
                without.append(name)
                continue
            here = (picture.shape[1], picture.shape[0])
            if size not in ((0, 0), here):
                raise ValueError(
                    f"{name} has {here[0]} x {here[1]} pixels, {first} has {size[0]} x {size[1]} (width x height); photos must "
                    "be of one camera, held the same way, neither cropped nor resized"
                )
            size, first = here, first or name
            finder = finder or _finder(board)
            grey = _cv2().cvtColor(picture, _cv2().COLOR_RGB2GRAY)
            found = finder(grey)
            if found is None:
                if not moving:
                    without.append(name)
                    say(f"{name}: no board")
                continue
            if moving and seen and not _has_moved(seen[-1], found, size):
                continue
            seen.append(Seen(name, *found, _edge_width(grey, found[1])))
            say(f"{name}: {len(found[0])} corners" + f", {len(seen)} of {KEPT}; move the board, Ctrl-C ends" * moving)
            if moving and len(seen) >= KEPT:
                break
    except KeyboardInterrupt:  # the way to end a live camera
        if len(seen) < FEWEST:
            raise
    return seen, without, size


def _has_moved(before: Seen, found: tuple[np.ndarray, np.ndarray], size: tuple[int, int]) -> bool:
    return float(np.linalg.norm(before.pixels.mean(0) - found[1].mean(0))) > MOVED * math.hypot(*size) or (
        abs(float(np.log(np.ptp(before.pixels, 0).prod() / max(np.ptp(found[1], 0).prod(), 1)))) > 0.2
    )


def _finder(board: Board) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray] | None]:
    """Grey picture -> corners of the board (N, 3), in sides of a square, and their pixels (N, 2); None if it is not seen."""
    cv2 = _cv2()
    if not board.charuco:
        grid = np.zeros((board.rows * board.columns, 3))
        grid[:, :2] = np.stack(np.meshgrid(np.arange(board.columns), np.arange(board.rows)), -1).reshape(-1, 2)
        flags = cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_ACCURACY

        def checkerboard(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
            found, corners = cv2.findChessboardCornersSB(grey, (board.columns, board.rows), flags=flags)
            return (grid, _refined(grey, corners)) if found else None

        return checkerboard
    detectors: list[Any] = []
    for name in DICTIONARIES:  # a smaller dictionary is the beginning of the larger one
        for legacy in (False, True):
            kind = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{name}"))
            pattern = cv2.aruco.CharucoBoard((board.columns, board.rows), 1.0, board.marker, kind)
            pattern.setLegacyPattern(legacy)
            detectors.append((pattern, cv2.aruco.CharucoDetector(pattern)))

    def charuco(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        for chosen in list(detectors):
            corners, ids, *_ = chosen[1].detectBoard(grey)
            if ids is not None and len(ids) >= 6:
                detectors[:] = [chosen]  # all photos are of one board
                places = np.asarray(chosen[0].getChessboardCorners(), np.float64)[np.ravel(ids)]
                return places, np.asarray(corners, np.float64).reshape(-1, 2)  # refined already, and markers are near
        return None

    return charuco


def _refined(grey: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Corners of a checkerboard moved to where the gradients around them agree, (N, 2): the focal length of the tests is 0.1 %
    off with it, 0.6 % without."""
    cv2 = _cv2()
    pixels = np.ascontiguousarray(corners, np.float32).reshape(-1, 1, 2)
    reach = int(np.clip(np.median(_spacing(pixels[:, 0])) / 5, 2, 10))
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 50, 1e-3)
    return cv2.cornerSubPix(grey, pixels, (reach, reach), (-1, -1), stop).reshape(-1, 2).astype(np.float64)  # type: ignore[no-any-return]


def _spacing(pixels: np.ndarray) -> np.ndarray:
    """How far the nearest other corner is from each, (N,), pixels."""
    return np.sort(np.linalg.norm(pixels[:, None] - pixels, axis=-1), 1)[:, 1]  # type: ignore[no-any-return]


def _edge_width(grey: np.ndarray, pixels: np.ndarray) -> float:
    """Over how many pixels edges near the corners go from black to white: contrast / steepest slope, the median of all."""
    widths = []
    for (u, v), reach in zip(pixels, _spacing(pixels)):
        r = max(3, int(reach / 3))
        part = grey[max(round(v) - r, 0) : round(v) + r + 1, max(round(u) - r, 0) : round(u) + r + 1].astype(np.float64)
        if min(part.shape) < 5:
            continue
        dy, dx = np.gradient(part)
        low, high = np.percentile(part, (5, 95))
        widths.append((high - low) / max(float(np.percentile(np.hypot(dx, dy), 99)), 1e-6))
    return float(np.median(widths)) if widths else 0.0


# ------------------------------------------------------------------------------------------------------------- pictures


def _cells(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which of CELLS x CELLS parts of the picture have a corner, rows first."""
    column, row = (np.clip(pixels[:, k] / size[k] * CELLS, 0, CELLS - 1).astype(int) for k in (0, 1))
    cells = np.zeros((CELLS, CELLS), bool)
    cells[row, column] = True
    return cells


def _axes(size: tuple[int, int], title: str) -> tuple[Any, Any]:
    width = 640
    fig = figure.new(width, width * size[1] / size[0] + 60)
    ax = fig.add_axes((0.06, 0.06, 0.92, 0.84))
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="equal")
    ax.grid(False)
    figure.headline(ax, title)
    return fig, ax


@figure.style()
def _coverage(seen: Sequence[Seen], size: tuple[int, int], cells: np.ndarray) -> Image.Image:
    """Where in the picture corners were seen; parts without any are shaded."""
    fig, ax = _axes(size, f"corners in {cells.mean():.0%} of the picture, {len(seen)} photos")
    extent = (0, size[0], size[1], 0)
    ax.imshow(np.where(cells, 0.0, 1.0), extent=extent, cmap="Oranges", vmin=0, vmax=3, interpolation="nearest")
    for s in seen:
        ax.plot(*s.pixels.T, ".", ms=3)
    return figure.to_image(fig)


@figure.style()
def _residuals(pixels: Sequence[np.ndarray], expected: Sequence[np.ndarray], size: tuple[int, int], rms: float) -> Image.Image:
    """How far corners are from where the camera expects them, enlarged; neighbours that point the same way are an unmodelled
    lens."""
    at, away = np.concatenate(pixels), np.concatenate(pixels) - np.concatenate(expected)
    times = 0.04 * size[0] / max(3 * rms, 1e-6)
    fig, ax = _axes(size, f"residuals, {times:.0f} times as long; RMS {rms:.2f} px")
    ax.quiver(*at.T, *(times * away).T, color=figure.BLUE, angles="xy", scale_units="xy", scale=1, width=0.0015)
    return figure.to_image(fig)
