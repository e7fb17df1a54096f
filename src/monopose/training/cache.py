"""Samples that are made once and kept in a file, which a killed run goes on filling."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..io.files import atomic_write


def fingerprint(*parts: Any) -> str:
    """64 hexadecimal digits of what samples are made from; bytes as they are, all else by its repr."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    return digest.hexdigest()


class Cache:
    """Rows of named arrays in a file, each made when it is first asked for.

    Any number of processes may use a file: a row is locked while it is made, so that no two write it. Rows that are not made
    yet take no room on the disk.

    Args:
        path: of the file; made if it is not there. None: memory.
        fields: names, types and shapes of a row, as of a structured numpy array.
        count: of rows.
        made_from: `fingerprint` of what the rows are made from.

    Raises:
        ValueError: the file holds rows of another kind, or made from something else.
        OSError: the disk has no room for the rows that are missing.
    """

    def __init__(self, path: str | Path | None, fields: list[tuple[Any, ...]], count: int, made_from: str) -> None:
        self.path, self.count = None if path is None else Path(path), count
        self.dtype = np.dtype([*fields, ("there", np.bool_)])
        self._rows: np.ndarray | None = np.zeros(count, self.dtype) if self.path is None else None
        if self.path is None:
            return
        head, size = made_from.encode("ascii"), len(made_from) + self.dtype.itemsize * count
        with self._locked(0):
            if not self.path.is_file():
                with atomic_write(self.path) as partial, open(partial, "wb") as file:
                    file.write(head)
                    file.truncate(size)  # zeros: nothing is there yet
            with open(self.path, "rb") as file:
                same = file.read(len(head)) == head
        self.offset, stat = len(head), self.path.stat()
        if not same or stat.st_size != size:
            raise ValueError(
                f"{self.path} holds other samples ({stat.st_size} bytes, expected {size}), or made from something else; "
                "delete it to make them anew"
            )
        missing, free = size - getattr(stat, "st_blocks", 0) * 512, shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise OSError(
                f"{self.path.parent} has {free / 1e9:.1f} GB free, {count} samples need {missing / 1e9:.1f} GB more; free some "
                "space, take smaller crops, or put the run elsewhere"
            )

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        """Other processes open the file themselves."""
        return self.__dict__ | ({} if self.path is None else {"_rows": None})

    @property
    def rows(self) -> np.ndarray:
        """All rows, (count,), structured; those that are not made are zero."""
        if self._rows is None:
            assert self.path is not None
            self._rows = np.memmap(self.path, self.dtype, "r+", self.offset, (self.count,))
        return self._rows

    def row(self, i: int, make: Callable[[], Mapping[str, Any]]) -> Any:
        """Row i; `make` gives the array of every field if it is not there yet."""
        row = self.rows[i]
        if not row["there"]:
            with self._locked(i):
                if not row["there"]:  # another process may have made it meanwhile
                    new = row.copy() if self.path is not None else row
                    for name, value in make().items():
                        new[name] = value
                    new["there"] = True
                    self._keep(i, new.tobytes())
        return row

    def _keep(self, i: int, row: bytes) -> None:
        """Write a row into the file, "there" last. Through the memory map, a full disk would end the process without a word."""
        if self.path is None:
            return
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(self.offset + i * len(row))
            written = file.write(row)
        if written < len(row):
            raise OSError(errno.ENOSPC, f"the disk is full: {self.path} did not take sample {i}")

    @contextmanager
    def _locked(self, i: int) -> Iterator[None]:
        """Wait until no other process makes row i. A killed one does not stay there; without fcntl nobody waits."""
        try:
            import fcntl
        except ImportError:  # Windows
            fcntl = None  # type: ignore[assignment]
        if self.path is None or fcntl is None:
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "wb") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, i)
            yield
