"""What happens to files: bytes are lost or wrong, values of another kind, numbers that cannot be, text in another code."""

import json
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][-+]?\d+)?")
KINDS: tuple[Any, ...] = (None, True, "text", "", [], {}, [[]], [None], {"a": 1}, ["x", 1])  # instead of a value
NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1",
    "0",
    "1.7",
    "9223372036854775808",
    "1" * 5000,
    "1e300",
    "-7e20",
    "1e-300",
)
TEXT = (b".json", b".txt", b".csv", b".yaml", b".yml", b".obj", b".mtl", b".off")


class Mutation(NamedTuple):
    """Args:
    data: the file's new content.
    what: what was done.
    same: the content still means the same, or nothing at all: anything but the same result, or an error, is wrong.
    """

    data: bytes
    what: str
    same: bool = False


def _leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return ([place] if place else []) + [leaf for key, item in inside for leaf in _leaves(item, (*place, key))]


def _put(content: Any, place: tuple[Any, ...], raw: str) -> bytes:
    """JSON with raw text in one place."""
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "@@@"
    return json.dumps(content).replace('"@@@"', raw).encode()


def _json_value(data: bytes, rng: random.Random) -> Mutation:
    content = json.loads(data)
    place = rng.choice(_leaves(content))
    if rng.random() < 0.4:
        raw = rng.choice(NUMBERS)
        return Mutation(_put(content, place, raw), f"{place} = {raw[:30]}")
    before = content
    for key in place:
        before = before[key]
    kind = rng.choice([k for k in KINDS if type(k) is not type(before)])
    return Mutation(_put(content, place, json.dumps(kind)), f"{place} = {kind!r}", True)


def _json_shape(data: bytes, rng: random.Random) -> Mutation:
    content = json.loads(data)
    place = rng.choice(_leaves(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    way = rng.randrange(4)
    if way == 0:
        del inner[place[-1]]
        return Mutation(json.dumps(content).encode(), f"without {place}")
    if way == 1:
        return Mutation(_put(content, place, "[" * 50_000 + "]" * 50_000), f"{place} 50,000 deep", True)
    if way == 2:
        return Mutation(json.dumps(rng.choice(KINDS)).encode(), "another kind of content")
    if isinstance(inner, dict):
        inner["Ünknown"] = [1, {"a": None}]
    else:
        inner.append(rng.choice(KINDS))
    return Mutation(json.dumps(content).encode(), f"one more beside {place}")


def _token(data: bytes, rng: random.Random) -> Mutation:
    found = list(NUMBER.finditer(data))
    if not found:
        return _bytes(data, rng)
    one = rng.choice(found)
    new = rng.choice(
        [*(n.encode() for n in NUMBERS), b"nan", b"inf", b"abc", b"", b"'", b"\x00", b"1,5", b"0x10", b"--1", b"\xff"]
    )
    return Mutation(data[: one.start()] + new + data[one.end() :], f"{one[0][:20]!r} at {one.start()} = {new[:20]!r}")


def _lines(data: bytes, rng: random.Random) -> Mutation:
    lines = data.split(b"\n")
    k = rng.randrange(len(lines))
    way = rng.randrange(4)
    if way == 0:
        del lines[k]
    elif way == 1:
        lines.insert(k, rng.choice(lines))
    elif way == 2:
        lines[k] = lines[k][: rng.randrange(len(lines[k]) + 1)]
    else:
        lines[k] = lines[k] + b" " + lines[k]
    return Mutation(b"\n".join(lines), f"line {k + 1} {('lost', 'twice', 'cut', 'doubled')[way]}")


def _coding(data: bytes, rng: random.Random) -> Mutation:
    way = rng.randrange(5)
    if way == 0:
        return Mutation(b"\xef\xbb\xbf" + data, "a byte order mark", True)
    if way == 1:
        return Mutation(data.replace(b"\n", b"\r\n"), "CRLF", True)
    if way == 2:
        return Mutation(data.decode("latin-1").encode("utf-16"), "UTF-16", True)
    if way == 3:
        k = rng.randrange(len(data) + 1)
        return Mutation(data[:k] + "äöü".encode("latin-1") + data[k:], f"latin-1 at {k}")
    return Mutation(rng.choice([b"", b"\n", b" ", b"null", b"[]", b"{}", b"<html></html>", b"\x00" * 64]), "next to nothing")


def _cut(data: bytes, rng: random.Random) -> Mutation:
    k = rng.randrange(len(data))
    return Mutation(data[:k], f"cut at {k} of {len(data)}", True)


def _bytes(data: bytes, rng: random.Random) -> Mutation:
    new, way, k = bytearray(data), rng.randrange(4), rng.randrange(len(data))
    if way == 0:
        for _ in range(rng.choice([1, 1, 4, 30])):
            new[rng.randrange(len(new))] ^= 1 << rng.randrange(8)
    elif way == 1:
        new[k : k + 8] = rng.choice([b"\xff" * 8, b"\x00" * 8, b"\x7f" * 8])
    elif way == 2:
        new[k : k + rng.randrange(1, 20)] = b""
    else:
        new[k:k] = rng.randbytes(rng.randrange(1, 20))
    return Mutation(bytes(new), f"{('bits turned', 'bytes set', 'bytes lost', 'bytes more')[way]} about {k}")


def mutated(data: bytes, name: str, rng: random.Random) -> Mutation:
    """One thing that happens to a file of that name."""
    ways: list[Callable[[bytes, random.Random], Mutation]] = [_bytes, _coding, _cut]
    if name.endswith(".json"):
        ways += [_json_value] * 6 + [_json_shape] * 4 + [_token]
    elif name.encode().endswith(TEXT) or data.startswith((b"ply\nformat ascii", b"solid a")):
        ways += [_token] * 5 + [_lines] * 3
    else:
        ways += [_bytes, _cut]
    done = rng.choice(ways)(data, rng)
    if done.what == "CRLF" and b"\x00" in data:
        done = done._replace(same=False)
    told = not name.endswith((".txt", ".csv", ".yaml", ".yml", ".obj", ".mtl", ".bmp"))  # formats that know their own end
    return done if told or not done.what.startswith("cut") else done._replace(same=False)
