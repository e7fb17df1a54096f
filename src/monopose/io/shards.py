"""Work that many processes share through a folder: `--shard I/N`, and `monopose merge`.

A job is a list of pieces, 0 to count - 1, in blocks of a fixed size. Shard I of N does blocks I - 1, I - 1 + N, ... and writes
each as a file, whole or not at all; what is there is skipped. Blocks do not depend on N: a job may be gone on with in another
number of shards, and two processes that do the same block write the same. `job.json` says what all have to agree on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import digest_of, write_json

FOLDER = ".partial"  # beside what is made


@dataclass(frozen=True)
class Shard:
    """One of `count` processes, from 1; `MERGE` is none of them and puts together what they did. words: the command line."""

    index: int  # type: ignore[assignment]
    count: int  # type: ignore[assignment]
    words: tuple[str, ...] = ()

    @property
    def last(self) -> bool:
        """Whether this is the one that puts everything together."""
        return self.index == 0


MERGE = Shard(0, 1)


def parse(text: str | None, words: Sequence[str] = ()) -> Shard | None:
    """The shard that "3/8" names; None for None.

    Raises:
        ValueError: not two numbers, or I not in 1 ... N.
    """
    if text is None:
        return None
    if text == "merge":
        return MERGE
    numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if numbers is None or not int(numbers[2]):
        raise ValueError(f"--shard expects I/N, such as 3/8, got {text!r}")
    index, count = int(numbers[1]), int(numbers[2])
    if not 1 <= index <= count:
        raise ValueError(
            f"--shard counts from 1/{count} to {count}/{count}, got {text}; where an array job counts from 0, add 1"
        )
    return Shard(index, count, tuple(words))


def folder_of(out: str | Path) -> Path:
    """Where the blocks of a result lie: a folder's in it, a file's beside it."""
    out = Path(out)
    return out.parent / FOLDER / out.name


class Job:
    """The blocks of a job in a folder.

    Args:
        folder: of this job alone; made by the first process that comes.
        settings: plain values of which the results depend; of a Path to a file, what the file holds.
        count: pieces.
        size: pieces in a block; the last may have fewer.
        shard: which blocks this process does; None: all, and blocks of other settings are thrown away.

    Raises:
        ValueError: a shard finds blocks of other settings; a merge finds none.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], count: int, size: int, shard: Shard | None = None) -> None:
        self.folder, self.count, self.size, self.shard = Path(folder), count, size, shard
        about = json.loads(json.dumps({**settings, "count": count, "size": size}, default=_named))
        self.digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        file = self.folder / "job.json"
        if file.is_file() and (before := _about(file))["about"] != about:
            if shard is not None:
                keys = [k for k in {**before["about"], **about} if before["about"].get(k) != about.get(k)]
                was, now = ({k: one.get(k) for k in keys} for one in (before["about"], about))
                raise ValueError(
                    f"{folder} holds shards with other settings: {_short(was)}, here {_short(now)}; give all shards the same, "
                    "take another --out, or delete that folder to start again"
                )
            shutil.rmtree(self.folder)
        if not file.is_file():
            words, shards = ((), 1) if shard is None else (shard.words, shard.count)
            write_json(file, {"about": about, "command": list(words), "cwd": os.getcwd(), "shards": shards})

    @property
    def blocks(self) -> int:
        return -(-self.count // self.size)

    def pieces(self, block: int) -> range:
        """The pieces of a block."""
        return range(block * self.size, min((block + 1) * self.size, self.count))

    def mine(self) -> range:
        """The blocks of this shard, done or not."""
        if self.shard is None:
            return range(self.blocks)
        return range(0) if self.shard.last else range(self.shard.index - 1, self.blocks, self.shard.count)

    def todo(self) -> Iterator[tuple[int, range]]:
        """The blocks of this shard that are not there yet, with their pieces; looked for one after the other."""
        return ((block, self.pieces(block)) for block in self.mine() if not self.file(block).is_file())

    def file(self, block: int) -> Path:
        return self.folder / f"{block:06d}.json"

    def save(self, block: int, rows: Sequence[Any]) -> None:
        """Write the plain values that became of a block, one per piece."""
        write_json(self.file(block), {"job": self.digest, "rows": list(rows)}, indent=None)

    def require(self, pieces: Iterable[int]) -> None:
        """ValueError if blocks with these pieces are missing; names them all."""
        blocks = sorted({i // self.size for i in pieces})
        if missing := [b for b in blocks if not self.file(b).is_file()]:
            raise ValueError(self._missing(missing))

    def require_files(self, files: Mapping[int, Path]) -> None:
        """ValueError if these files of pieces are gone: their blocks then count as missing, and are done again."""
        there = {p for folder in {f.parent for f in files.values()} if folder.is_dir() for p in folder.iterdir()}
        gone = [i for i, file in files.items() if file not in there]
        for block in {i // self.size for i in gone}:
            self.file(block).unlink(missing_ok=True)
        self.require(gone)

    def rows(self, pieces: range | None = None) -> Iterator[Any]:
        """What became of these pieces, or of all, in order.

        Raises:
            ValueError: blocks are missing, all of which are named; or one was made with other settings.
        """
        pieces = range(self.count) if pieces is None else pieces
        self.require(pieces)
        for block in sorted({i // self.size for i in pieces}):
            content = _content(self.file(block), {"job": str, "rows": list})
            if content["job"] != self.digest or len(content["rows"]) != len(self.pieces(block)):
                raise ValueError(f"{self.file(block)} was made with other settings than {self.folder}/job.json says; delete it")
            yield from (row for i, row in zip(self.pieces(block), content["rows"]) if i in pieces)

    def _missing(self, blocks: Sequence[int]) -> str:
        shards = max(_about(self.folder / "job.json")["shards"], 1)
        again = sorted({b % shards + 1 for b in blocks})
        spans: list[list[int]] = []
        for b in blocks:
            if spans and self.pieces(b)[0] == spans[-1][1] + 1:
                spans[-1][1] = self.pieces(b)[-1]
            else:
                spans.append([self.pieces(b)[0], self.pieces(b)[-1]])
        named = ", ".join(f"{a} to {b}" for a, b in spans[:8]) + (
            f" and {len(spans) - 8} more stretches" if len(spans) > 8 else ""
        )
        many = sum(len(self.pieces(b)) for b in blocks)
        run = ", ".join(f"{i}/{shards}" for i in again[:20]) + (" ..." if len(again) > 20 else "")
        return f"{many} of {self.count} are missing in {self.folder} (from 0: {named}); run --shard {run} again"

    def skipped(self) -> int:
        """How many pieces of this shard are there already."""
        return sum(len(self.pieces(b)) for b in self.mine() if self.file(b).is_file())

    def remove(self) -> None:
        """Take the blocks away, and the folder around them if nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()


def jobs(out: str | Path) -> list[dict[str, Any]]:
    """The command lines of the jobs of a result that wait to be put together: job.json of each, with "folder".

    Raises:
        FileNotFoundError: there is none.
    """
    out = Path(out)
    files = [folder_of(out) / "job.json", *sorted((out / FOLDER).glob("*/job.json"))]
    found = [{**_about(file), "folder": str(file.parent)} for file in files if file.is_file()]
    if not found:
        raise FileNotFoundError(
            f"no shards of {out}: expected {folder_of(out)} or {out / FOLDER}/*, as `--shard I/N` with this --out writes them; "
            "what was put together is not kept"
        )
    return found


def _about(file: Path) -> dict[str, Any]:
    return _content(file, {"about": dict, "command": list, "cwd": str, "shards": int})


def _content(file: Path, keys: Mapping[str, type]) -> dict[str, Any]:
    """A file that a shard wrote. ValueError if another program did."""
    from .records import read_json  # brings numpy, which the command line does without until it works

    content = read_json(file)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in keys.items()):
        raise ValueError(
            f"{file} is not what a shard writes there ({', '.join(keys)}); delete it, and what it held is done again"
        )
    return content


def _named(value: Any) -> str:
    """A file by its name and what it holds, all else as text."""
    return f"{value} ({digest_of(value)})" if isinstance(value, Path) and value.is_file() else str(value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."
