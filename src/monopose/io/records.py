"""The doors for declared data: text, JSON and YAML within limits, and one check for each quantity that files declare.

Every reader takes intrinsics, rotations, rigid motions, lengths, ids and image sizes through these functions: an error says
file, place, key, what was expected, what came, and what it looks like (transposed? normalised? in millimetres?).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import limits

PathLike = str | Path
Array = NDArray[Any]
MM = 1e-3  # metres in a millimetre
HUGE = 1e30  # in any unit; float32 ends at 3e38
NEAREST = 0.02  # metres; a median distance to the camera below this means that somebody wrote metres as millimetres

FARTHEST = 500.0  # metres; a median distance beyond this means that somebody wrote micrometres as millimetres
SKEWED = 0.2  # of the focal length; more is no camera's


def read_text(path: PathLike, what: str = "a text file", encoding: str = "utf-8-sig") -> str:
    """The text of a file, within the limits of `limits`.

    Raises:
        FileNotFoundError: says what lies in the folder.
        ValueError: not text in this encoding; larger than `MONOPOSE_MAX_TEXT_MB`.
    """
    path = Path(path)
    try:
        limits.check_file(path, "MONOPOSE_MAX_TEXT_MB")
        return path.read_text(encoding=encoding)
    except FileNotFoundError:
        raise FileNotFoundError(f"no {path.name} in {path.parent} ({found(path.parent)})") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; expected {what}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8; expected {what}") from None


def read_json(path: PathLike) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: says what lies in the folder.
        ValueError: says the line that is broken; nested deeper, or larger, than the limits.
    """
    return parse_json(read_text(path, "JSON"), str(path))


def parse_json(text: str, where: str) -> Any:
    """The content of JSON text; `where` is named in errors."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where} is not valid JSON (line {error.lineno}: {error.msg}); was it cut short while written?"
        ) from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be read; expected a few levels of JSON") from None
    except ValueError as error:  # a key that is there twice, a number of more digits than Python converts
        raise ValueError(f"{where} is not valid JSON ({error})") from None


LARGE = 8 << 20  # bytes of a JSON list above which `each_row` reads it piece by piece
PIECE = 4 << 20  # characters


def each_row(path: PathLike) -> Iterator[dict[str, Any]]:
    """The objects in a JSON file that is a list of them, one by one. Of a large file no more than a piece is in memory, and
    keys that are there twice are not looked for.

    Raises:
        FileNotFoundError, ValueError: no such file, no valid JSON, something else than a list of objects.
    """
    path = Path(path)
    large = path.is_file() and path.stat().st_size > LARGE
    for row in _streamed(path) if large else rows(read_json(path), str(path)):
        yield row if isinstance(row, dict) else mapping(row, f"{path}, an entry of the list")


def _streamed(path: Path) -> Iterator[Any]:
    decoder, space = json.JSONDecoder(), re.compile(r"[ \t\n\r]*")
    with path.open(encoding="utf-8-sig") as file:
        piece, at, expected, some = file.read(PIECE), 0, "[", False
        while True:
            if (at := space.match(piece, at).end()) == len(piece):  # type: ignore[union-attr]
                piece, at = file.read(PIECE), 0
                if not piece:
                    raise ValueError(f"{path} is not valid JSON (it ends within the list); was it cut short while written?")
                continue
            if expected:
                if piece[at] not in expected:
                    raise ValueError(
                        f"{path} must hold a JSON list of objects, got {piece[at : at + 20]!r} in place of {expected}"
                    )
                some, expected, at = piece[at] == "[", "", at + 1
                if piece[at - 1] == "]":
                    return
                continue
            if some and piece[at] == "]":  # [ ]
                return
            try:
                row, at = decoder.raw_decode(piece, at)
            except json.JSONDecodeError as error:
                more = file.read(PIECE) if len(piece) - at < 4 * PIECE else ""
                if not more:
                    raise ValueError(f"{path} is not valid JSON ({error.msg}); was it cut short while written?") from None
                piece, at = piece[at:] + more, 0
                continue
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path} is not valid JSON ({error})") from None
            yield row
            expected, some = ",]", False


def _once(pairs: list[tuple[str, Any]], where: str = "") -> dict[str, Any]:
    """A table. ValueError where a key is there twice: parsers take the last one, and the other is lost."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{where}the key {next(k for k in keys if keys.count(k) > 1)!r} is there twice in one table; keep one")
    return table


def parse_yaml(text: str, where: str) -> list[Any]:
    """The documents of YAML text. Tags such as `!!opencv-matrix` are left out; aliases, which can grow forever, are refused."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"{where}: YAML aliases (*name) are not read; write the values out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)], f"{where}: ")
            return super().construct_mapping(node, deep)

    def untagged(loader: Any, suffix: str, node: Any) -> Any:
        make = {yaml.MappingNode: loader.construct_mapping, yaml.SequenceNode: loader.construct_sequence}
        construct = make.get(type(node), loader.construct_scalar)
        return construct(node, deep=True) if type(node) in make else construct(node)

    def number(loader: Any, node: Any) -> Any:
        if re.search(r"[:_]|^[-+]?0\d", node.value):  # in YAML 1.1 of base 60, or 8; 6_40 is 640 there, and text in 1.2
            raise ValueError(
                f"{where}: the number {node.value} is none that all programs read alike; write it in digits and a point"
            )
        integer = node.tag.endswith("int")
        return loader.construct_yaml_int(node) if integer else loader.construct_yaml_float(node)

    Loader.add_constructor("tag:yaml.org,2002:int", number)
    Loader.add_constructor("tag:yaml.org,2002:float", number)
    Loader.add_multi_constructor("", untagged)
    Loader.add_multi_constructor("tag:yaml.org,2002:opencv-", untagged)
    text = re.sub(r"^%YAML:\d[^\n]*\n", "", text)  # OpenCV's own first line, which is no YAML
    try:
        return list(yaml.load_all(text, Loader))
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be read; expected a few levels of YAML") from None
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is not valid YAML ({' '.join(str(error).split())})") from None


def found(folder: Path) -> str:
    """What a folder holds, in a few words, for error messages."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith("."))
    return "found: " + (", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing")


def value(record: Any, key: str, where: str) -> Any:
    """`record[key]`, or an error that says where and which keys there are."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be a JSON object with key '{key}', got {type(record).__name__}")
    if key not in record:
        raise ValueError(f"{where}: key '{key}' is missing (has: {', '.join(record) or 'nothing'})")
    return record[key]


def numbers(record: Any, key: str, shape: tuple[int, ...], where: str, written: bool = False) -> Array:
    """`record[key]` as finite float64 of `shape`, whether the file nests or flattens it; `written`: as text, out of a CSV."""
    raw = value(record, key, where)
    if written and isinstance(raw, str):
        with suppress(ValueError):
            raw = float(raw)
    array = _numeric(raw, f"{where}: '{key}'")
    wanted = int(np.prod(shape))
    if array.size != wanted:
        raise ValueError(f"{where}: '{key}' must have {wanted} number{'s' * (wanted != 1)}, got {array.size}")
    if not sane(array):
        raise ValueError(f"{where}: '{key}' holds NaN or infinity, or more than {HUGE:g}")
    return array.reshape(shape)


def sane(array: Array) -> bool:
    """Whether all numbers are finite, also where float32 holds them later."""
    return bool((np.abs(array) <= HUGE).all())


def _numeric(raw: Any, what: str) -> Array:
    """Numbers as float64; text, null and true are none, although numpy would take some of them."""
    try:
        array = np.asarray(raw)
        if array.dtype.kind not in "iuf" or (array.size <= 64 and has_bools(raw)):
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError(f"{what} must be numbers, got {_short(raw)}") from None


def has_bools(raw: Any) -> bool:
    """Whether true or false stands among numbers, where numpy takes it for 1 or 0."""
    return any(has_bools(v) for v in raw) if isinstance(raw, (list, tuple)) else isinstance(raw, bool)


def _short(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 80 else f"{text[:77]}..."


def text(record: Any, key: str, where: str) -> str:
    """`record[key]` as text."""
    raw = value(record, key, where)
    if not isinstance(raw, str):
        raise ValueError(f"{where}: '{key}' must be text, got {_short(raw)}")
    return raw


def whole_numbers(records: list[Any], key: str, where: list[str], low: int = 0) -> Array:
    """`record[key]` of many records as ids or counts, (N,), int64; see `whole`."""
    return np.array([whole(value(r, key, w), f"{w}: '{key}'", low) for r, w in zip(records, where, strict=True)], np.int64)


def by_number(content: Any, where: str, what: str = "image") -> dict[int, Any]:
    """A JSON object whose keys are numbers of images or objects."""
    if not isinstance(content, dict) or not all(key.isascii() and key.isdecimal() and len(key) < 10 for key in content):
        raise ValueError(f'{where} must be a JSON object keyed by {what} ids such as "1"')
    found = {int(key): record for key, record in content.items()}
    if len(found) < len(content):
        raise ValueError(f"{where}: two keys are the same {what} id, as 1 and 01 are; keep one")
    return found


def rows(content: Any, where: str) -> list[Any]:
    """Content that must be a list."""
    if not isinstance(content, list):
        raise ValueError(f"{where} must hold a JSON list, got {type(content).__name__}")
    return content


def mapping(content: Any, where: str) -> dict[str, Any]:
    """Content that must be a JSON object."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a JSON object, got {type(content).__name__}")
    return content


def whole(raw: Any, where: str, low: int = 0, high: int = 2**31 - 1) -> int:
    """An id or a count: a whole number of [low, high], also written as text or as 7.0, never 1.7 or true."""
    exact = isinstance(raw, (int, np.integer)) and not isinstance(raw, bool)
    exact = exact or (isinstance(raw, float) and raw.is_integer())
    exact = exact or (isinstance(raw, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", raw) is not None)
    number = int(raw) if exact else None
    if number is None or not low <= number <= high:
        raise ValueError(f"{where} must be a whole number from {low} to {high}, got {_short(raw)}")
    return number


def image_size(height: Any, width: Any, where: str) -> tuple[int, int]:
    """(height, width), pixels: whole, at least 1, within the limit of pictures."""
    size = whole(height, f"{where}: height", 1), whole(width, f"{where}: width", 1)
    limits.check("MONOPOSE_MAX_MEGAPIXELS", size[0] * size[1] / 1e6, where)
    return size


def length(record: Any, key: str, where: str, zero: bool = False) -> float:
    """`record[key]` as a finite length above 0 (or at least 0), in the file's own unit."""
    number = float(numbers(record, key, (), where))
    if number < 0 or (number == 0 and not zero):
        raise ValueError(f"{where}: '{key}' must be {'at least' if zero else 'above'} 0, got {number:g}")
    return number


TINY_CAMERA_PX = 8.0  # a principal point nearer to the corner than this, in both directions, belongs to no picture


def intrinsics(K: Any, where: str, size: tuple[int, int] | None = None) -> Array:
    """A camera matrix that can be one, (3, 3), pixels.

    Args:
        K: nine numbers, row by row, nested or flat.
        where: file, place and key, for errors.
        size: (height, width) of the picture, pixels, if it is known; a height of 0 is not.

    Raises:
        ValueError: says what it looks like instead: not calibrated (all zero), transposed, scaled, normalised to the picture's
            size, divided or multiplied by something, a focal length in millimetres.
    """
    array = _numeric(K, where)
    if array.size != 9:
        raise ValueError(f"{where} must have 9 numbers, a 3 x 3 matrix row by row, got {array.size}")
    K = array.reshape(3, 3)
    shown = np.array2string(K, separator=", ", max_line_width=1000, precision=6).replace("\n", "")
    if not sane(K):
        raise ValueError(f"{where} holds NaN or infinity, or more than {HUGE:g}: {shown}")
    if not K.any():
        raise ValueError(f"{where} is all zero: the camera is not calibrated (so ROS and others write it); calibrate it first")
    if K[2].tolist() != [0, 0, 1] or K[1, 0] != 0:
        if K[0, 2] == 0 and K[1, 2] == 0 and K[2, 2] == 1:
            raise ValueError(f"{where} is {shown}: it is transposed; write it row by row")
        if K[2, 0] == 0 and K[2, 1] == 0 and K[1, 0] == 0 and K[2, 2] != 0:
            raise ValueError(f"{where} is {shown}: its last number must be 1; was all of it multiplied by {K[2, 2]:g}?")
        raise ValueError(f"{where} is {shown}; expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if fx <= 0 or fy <= 0:
        raise ValueError(f"{where} needs positive focal lengths in pixels, got fx {fx:g}, fy {fy:g}")
    if min(fx, fy) < 0.01 * max(fx, fy):
        raise ValueError(f"{where}: the focal lengths fx {fx:g} and fy {fy:g} belong to no camera; is one in another unit?")
    if abs(K[0, 1]) > SKEWED * fx:
        raise ValueError(f"{where}: the skew {K[0, 1]:g} belongs to no camera of focal length {fx:g}; expected 0, or nearly")
    if max(fx, fy) > 1e6 or max(abs(cx), abs(cy)) > 1e5:
        raise ValueError(f"{where} is {shown}: no camera is so large; was it multiplied by something? Expected pixels")
    tiny = abs(cx) < TINY_CAMERA_PX and abs(cy) < TINY_CAMERA_PX and max(fx, fy) < 2 * TINY_CAMERA_PX
    if tiny and (size is None or max(size) > 4 * TINY_CAMERA_PX):
        what = "normalised by the size of the picture" if max(cx, cy) <= 1.5 else "divided by something"
        raise ValueError(f"{where} is {shown}: it looks {what}; expected pixels")
    for factor in (10, 100):  # the middle of the picture, were it not divided
        if size is not None and max(fx, fy) < 0.25 * max(size):
            near = [abs(factor * c - side / 2) < 0.15 * side for c, side in ((cx, size[1]), (cy, size[0])) if side]
            if all(near) and factor * max(fx, fy) > 0.25 * max(size):
                raise ValueError(
                    f"{where} is {shown}: it looks divided by {factor}; expected pixels of the picture {size[1]} wide"
                )
    if size is not None and max(fx, fy) < 0.08 * max(size):
        raise ValueError(
            f"{where}: a focal length of {fx:g} pixels would see {2 * np.degrees(np.arctan(size[1] / 2 / fx)):.0f} degrees in "
            f"a picture {size[1]} pixels wide; is it in millimetres? Pixels are millimetres x width / sensor width"
        )
    return K


LENS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "d", "coeffs", "kc", "xi")
LENS_WORDS = ("radial", "tangential", "fisheye", "brown", "radparams")  # parts of names


def lens_key(record: Any, but: Iterable[str] = ()) -> str | None:
    """The first key of a record with coefficients of a lens that are not 0; `but`: keys that do not count, in small letters."""
    for key, content in record.items() if isinstance(record, dict) else ():
        name = str(key).lower()
        if name in but:
            continue
        plain = name.replace("_", "").replace("-", "")
        lens = plain in LENS or ("dist" in name and "distan" not in name) or any(word in plain for word in LENS_WORDS)
        if lens and _some_not_zero(content):
            return str(key)
        if isinstance(content, dict) and (inner := lens_key(content)) is not None:
            return f"{key}.{inner}"
    return None


def _some_not_zero(content: Any) -> bool:
    if isinstance(content, (list, tuple, dict)):
        return any(map(_some_not_zero, content.values() if isinstance(content, dict) else content))
    return isinstance(content, (int, float)) and not isinstance(content, bool) and content != 0


def refuse_lens(record: Any, where: str) -> None:
    """Raise where a camera that is read as a pinhole says that its lens distorts."""
    if (key := lens_key(record)) is not None:
        raise ValueError(
            f"{where}: {key!r} says that the lens distorts; only pinhole cameras are read here: undistort the images"
        )


def table(records: list[Any], key: str, shape: tuple[int, ...], where: list[str]) -> Array:
    """`numbers` of many records at once, (N, *shape): one numpy call when all is well, the exact culprit when not."""
    try:
        raw = [record[key] for record in records]
        array = np.array(raw)
        if (
            not has_bools(raw)
            and array.dtype.kind in "iuf"
            and sane(array := array.astype(np.float64).reshape(len(records), *shape))
        ):
            return array
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    return np.array([numbers(r, key, shape, w) for r, w in zip(records, where, strict=True)]).reshape(len(records), *shape)


def check_translations(t: Array, where: str, key: str) -> None:
    """Raise when translations (N, 3), read as millimetres and given in metres, can only have been metres or micrometres.

    Zero rows (failed estimates) do not count. The median decides, so that single bad poses pass.
    """
    distance = np.linalg.norm(t, axis=-1)
    distance = distance[distance > 0]
    if len(distance) and np.median(distance) > FARTHEST:
        raise ValueError(
            f"{where}: '{key}' must be millimetres, but half of the objects would be farther than {np.median(distance):.3g} m; "
            "were micrometres written? Divide by 1000"
        )
    if len(distance) and np.median(distance) < NEAREST:
        raise ValueError(
            f"{where}: '{key}' must be millimetres, but half of the objects would be nearer than "
            f"{np.median(distance) / MM:.3g} mm to the camera; were metres written? Multiply by 1000"
        )


def check_rotations(R: Array, where: list[str] | str, key: str, tolerance: float = 0.2) -> None:
    """Raise when a matrix of R (N, 3, 3) is nowhere near a rotation; small errors are left alone, as in LM-O."""
    off = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).reshape(len(R), 9).max(-1, initial=0)
    bad = np.flatnonzero((off > tolerance) | (np.linalg.det(R) <= 0))
    if len(bad):
        place = where if isinstance(where, str) else where[bad[0]]
        raise ValueError(f"{place}: '{key}' must be a rotation matrix row by row, got {R[bad[0]].ravel().round(4).tolist()}")


def rigid_motions(values: Any, where: str, key: str, tolerance: float = 0.05) -> Array:
    """4 x 4 motions, each as 16 numbers row by row, nested or flat, (N, 4, 4); the translation in the file's unit.

    Raises:
        ValueError: not rows of 16 numbers; a last row that is not 0 0 0 1 (written column by column?); no rotation.
    """
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise ValueError(f"{where}: '{key}' must be a list of 4 x 4 matrices, got {_short(values)}")
    motions = []
    for n, raw in enumerate(values):
        place = f"{where}: '{key}'[{n}]"
        array = _numeric(raw, place)
        if array.size != 16 or not sane(array):
            raise ValueError(f"{place} must be 16 finite numbers, a 4 x 4 matrix row by row, got {_short(raw)}")
        motion = array.reshape(4, 4).copy()
        if np.abs(motion[3] - [0, 0, 0, 1]).max() > 1e-6:
            columns = np.abs(motion[:, 3] - [0, 0, 0, 1]).max() <= 1e-6
            hint = "; it is written column by column: transpose it" if columns else ""
            raise ValueError(f"{place}: the last row must be 0 0 0 1, got {motion[3].tolist()}{hint}")
        motions.append(motion)
    stacked = np.array(motions).reshape(-1, 4, 4)
    check_rotations(stacked[:, :3, :3], [f"{where}, entry {n}" for n in range(len(stacked))], key, tolerance)
    return stacked


def symmetries(record: Any, where: str) -> tuple[Array, Array, Array]:
    """What an entry of models_info.json, or of the same form, declares: `symmetries_discrete`, `symmetries_continuous`.

    Returns:
        motions (S, 4, 4), unit axes (A, 3), a point on each (A, 3); lengths in the file's unit.
    """
    record = mapping(record, where)
    for key in record:
        if "symm" in key.lower() and key not in ("symmetries_discrete", "symmetries_continuous"):
            raise ValueError(f"{where}: the key {key!r} is not read; expected 'symmetries_discrete' or 'symmetries_continuous'")
    discrete = rigid_motions(record.get("symmetries_discrete", []), where, "symmetries_discrete")
    place = f"{where}, symmetries_continuous"
    lines = rows(record.get("symmetries_continuous", []), place)
    axes, offsets = (np.array([numbers(line, key, (3,), place) for line in lines]).reshape(-1, 3) for key in ("axis", "offset"))
    lengths = np.linalg.norm(axes, axis=1, keepdims=True)
    if (lengths < 1e-9).any():
        raise ValueError(f"{place}: 'axis' must not be zero")
    return discrete, axes / lengths, offsets


def quaternion(record: Any, key: str, where: str) -> Array:
    """`record[key]` as a unit quaternion wxyz, (4,)."""
    quat = numbers(record, key, (4,), where)
    norm = float(np.linalg.norm(quat))
    if abs(norm - 1) > 0.01:
        raise ValueError(f"{where}: '{key}' must be a quaternion wxyz of length 1, got {quat.tolist()} of length {norm:.4g}")
    return quat / norm


def rigid_motion(record: Any, key: str, where: str) -> Array:
    """`record[key]` as one 4 x 4 motion, see `rigid_motions`."""
    return rigid_motions([value(record, key, where)], where, key)[0]
