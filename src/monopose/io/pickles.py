"""Pickles read without unpickling: plain containers, numbers, text and arrays of numbers, and nothing else.

A pickle is a program. Letting it call even numpy's own functions is letting it in: `numpy.dtype.__setstate__` with forged flags
gives it a pointer. Here no function is ever looked up by the name that a file gives. The file's instructions are read one by
one, the few calls by which numpy writes an array are recognised, and arrays are built here, of type, shape and bytes.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import limits

MOST_STEPS = 1_000_000  # instructions of a pickle, and values in it when what it names twice counts twice
DEEPEST = 30  # containers in containers
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MARK: Any = object()


class _Name(NamedTuple):
    """A function that the file wants to call; never looked up."""

    path: str


class _Type:
    """The type of an array's elements as the file writes it: first the code, then the order of bytes."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="


class _Filled:
    """An array that the file has asked for, and, once that came, its elements."""

    array: np.ndarray | None = None
    items: Any = None  # of an array of objects, in nested lists


class _Object:
    """An object of a class that was named; nothing is made of it but what it holds."""

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}


def read_pickle(path: str | Path, what: str, classes: Collection[str] = (), most: int = MOST_STEPS) -> Any:
    """The content of a pickle of any protocol, or of a .npy file of objects, which holds one; code in it is not run.

    Args:
        path: the file.
        what: what it should be, for errors: "a NOCS result".
        classes: names of classes, MODULE.NAME, whose objects may occur; each is read as the dictionary of what it holds, and
            the class is not looked up either.
        most: instructions, and values.

    Returns:
        None, booleans, numbers, text, bytes, arrays of numbers, and lists, tuples and dictionaries of these.

    Raises:
        ValueError: cut short or broken; larger or deeper than the limits; anything else in it, by name.
    """
    path = Path(path)
    limits.check_file(path, "MONOPOSE_MAX_TEXT_MB")
    try:
        data = path.read_bytes()
        objects = data.startswith(np.lib.format.MAGIC_PREFIX)
        data = _after_header(data) if objects else data
        return _plain(_run(data, classes, objects or bool(classes), most), [most, most], set())
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        reason = str(error) if type(error) is ValueError else f"it is broken or no pickle ({type(error).__name__}: {error})"
        raise ValueError(f"{path} cannot be read as {what}: {reason}") from None


def _after_header(data: bytes) -> bytes:
    """What follows the header of a .npy file of objects: a pickle."""
    file = io.BytesIO(data)
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)[0]
    if version not in read:
        raise ValueError(f"it is a .npy file of version {version}; expected 1 or 2")
    if not read[version](file)[2].hasobject:
        raise ValueError("it is a .npy file of plain numbers, not of named lists")
    return file.read()


def _run(data: bytes, classes: Collection[str] = (), objects: bool = False, most: int = MOST_STEPS) -> Any:
    """The value that the instructions leave behind, arrays still as `_Filled`."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    built = 0  # bytes of arrays
    arg: Any
    for step, (op, arg, _) in enumerate(pickletools.genops(io.BytesIO(data))):
        if step >= most:
            raise ValueError(f"it has more than {most:,} instructions")
        name = op.name
        if name in _VALUES:
            stack.append(bytes(arg) if isinstance(arg, bytearray) else arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name in ("TUPLE", "LIST", "DICT"):
            items = _above_mark(stack)
            stack.append(tuple(items) if name == "TUPLE" else items if name == "LIST" else _set({}, items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(reversed([_pop(stack) for _ in range(int(name[-1]))])))
        elif name in ("APPEND", "APPENDS"):
            items = [_pop(stack)] if name == "APPEND" else _above_mark(stack)
            _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [_pop(stack), _pop(stack)][::-1] if name == "SETITEM" else _above_mark(stack)
            _set(_expect(stack[-1], dict), items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else arg] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, function = arg.split(" ") if name == "GLOBAL" else (_pop(stack), _pop(stack))[::-1]
            stack.append(_Name(re.sub(r"^numpy\._core\.", "numpy.core.", f"{module}.{function}")))
        elif name == "REDUCE":
            arguments = _expect(_pop(stack), tuple)
            stack.append(_call(_pop(stack), arguments, objects))
        elif name == "NEWOBJ" and classes:
            _expect(_pop(stack), tuple)
            kind = _pop(stack)
            if not isinstance(kind, _Name) or kind.path not in classes:
                raise ValueError(f"it holds an object of {kind.path if isinstance(kind, _Name) else 'no class'}")
            stack.append(_Object())
        elif name == "BUILD":
            state = _pop(stack)
            _build(stack[-1], state)
        elif name == "STOP":
            return _pop(stack)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its instruction {name} is none that lists, numbers, text and arrays need")
        if name in ("REDUCE", "BUILD") and isinstance(stack[-1], _Filled) and stack[-1].array is not None:
            built += stack[-1].array.nbytes
            if built > len(data):
                raise ValueError("it makes many arrays of the same bytes")
    raise ValueError("it ends too early")


def _pop(stack: list[Any]) -> Any:
    value = stack.pop()
    if value is _MARK:
        raise ValueError("its instructions are out of order")
    return value


def _above_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (value := stack.pop()) is not _MARK:
        items.append(value)
    return items[::-1]


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {kind.__name__} is expected where it has a {type(value).__name__.strip('_')}")
    return value


def _set(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, (str, int, bytes)):
            raise ValueError(f"a key of a dict is a {type(key).__name__.strip('_')}; text or a number is expected")
        target[key] = value
    return target


def _call(name: Any, arguments: tuple[Any, ...], objects: bool = False) -> Any:
    """What the calls give by which Python and numpy write bytes, types and arrays."""
    match (name.path if isinstance(name, _Name) else "a value that is no function", arguments):
        case ("_codecs.encode", (str(text), "latin1" | "latin-1")):  # bytes, in protocols that have none
            return text.encode("latin-1")
        case ("builtins.bytes" | "__builtin__.bytes", ()):
            return b""
        case ("numpy.dtype", (str(code), *_)) if re.fullmatch(r"[<>|=]?([iufb]1|[iuf][248]|[?bBhHiIlLqQefd])", code):
            return _Type(code)
        case ("numpy.dtype", ("O" | "O8", *_)) if objects:  # such an array becomes lists
            return _Type("O")
        case ("numpy.core.multiarray._reconstruct", (_Name("numpy.ndarray"), _, _)):
            return _Filled()
        case ("numpy.core.multiarray.scalar", (_Type() as kind, (str() | bytes()) as data)):
            return _array(kind, (), data, False).item()
        case ("numpy.core.numeric._frombuffer", (bytes(data), _Type() as kind, tuple(shape), ("C" | "F") as order)):
            made = _Filled()
            made.array = _array(kind, shape, data, order == "F")
            return made
        case (path, _):
            raise ValueError(f"it wants to call {path}, and nothing but lists, numbers, text and arrays of numbers is read")


def _build(target: Any, state: Any) -> None:
    """Give an array its elements, or a type its order of bytes, as numpy's `__setstate__` does; the unusual is refused."""
    match (target, state):
        case (_Type(), (3 | 4, ("<" | ">" | "|" | "=") as order, None, None, None, -1, -1, 0)):
            target.order = order
        case (_Type(code="O"), (3 | 4, "|", None, None, None, -1, -1, 63)):
            pass
        case (_Filled(), (1, tuple(shape), _Type(code="O"), False, list(data))):
            target.items = _nested(data, shape)
        case (_Filled(), (1, tuple(shape), _Type() as kind, bool(fortran), (str() | bytes()) as data)):
            target.array = _array(kind, shape, data, fortran)
        case (_Object(), dict()):
            target.state.update(state)
        case (_Type(), _):
            raise ValueError("it describes a type of elements that is no plain number")
        case _:
            raise ValueError("it sets the inside of something that is no plain array of numbers")


def _nested(data: list[Any], shape: tuple[Any, ...]) -> Any:
    """The elements of an array of objects in lists of lists; of one without axes, its element."""
    if shape == () and len(data) == 1:
        return data[0]
    if not 1 <= len(shape) <= 8 or not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) != len(data):
        raise ValueError(f"an array of objects of shape {shape} in it has {len(data)} elements")
    if len(shape) == 1 or not data:  # (1000000000, 0) has no elements either
        return data
    step = math.prod(shape[1:])
    return [_nested(data[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _array(kind: _Type, shape: tuple[Any, ...], data: str | bytes, fortran: bool) -> np.ndarray:
    code = kind.code if kind.code[0] in "<>|=" else (kind.order + kind.code if kind.order in "<>" else kind.code)
    if kind.code == "O":  # its bytes would be pointers
        raise ValueError("the elements of an array of objects in it are bytes")
    element = np.dtype(code)  # of a code that `_call` has let through
    raw = data.encode("latin-1") if isinstance(data, str) else data
    if len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("the shape of an array in it is none")
    if math.prod(shape) * element.itemsize != len(raw):
        raise ValueError(f"an array of shape {shape} in it needs {math.prod(shape) * element.itemsize} bytes, got {len(raw)}")
    return np.frombuffer(raw, element).reshape(shape, order="F" if fortran else "C").astype(element.newbyteorder("="))


def _plain(value: Any, left: list[int], seen: set[int], depth: int = 0) -> Any:
    """The value with its arrays in place; what is named twice counts twice, so that a small file cannot become a large tree.

    `left` is how many values there may still be, and how many there may be at all.
    """
    if isinstance(value, _Filled) and value.array is not None and id(value) in seen:
        left[0] -= value.array.size
    seen.add(id(value))
    left[0] -= 1
    if left[0] < 0 or depth > DEEPEST:
        raise ValueError(f"it holds more than {left[1]:,} values, or is nested more than {DEEPEST} deep")
    if isinstance(value, _Object):
        value = value.state
    if isinstance(value, _Filled) and value.items is not None:
        value = value.items
    if isinstance(value, _Filled):
        if value.array is None:
            raise ValueError("an array in it has no elements")
        return value.array
    if isinstance(value, dict):
        return {key: _plain(item, left, seen, depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, left, seen, depth + 1) for item in value)
    if isinstance(value, (_Name, _Type)) or value is _MARK:
        raise ValueError("it holds a function or a type; lists, numbers, text and arrays of numbers are read")
    return value
