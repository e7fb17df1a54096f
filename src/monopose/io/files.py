"""Files that are never half written, and errors that help to find the right file."""

from __future__ import annotations

import difflib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".gif")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name in the same folder and rename it when it is whole.

    Args:
        path: the file to create or replace; missing parent folders are made.

    Yields:
        the temporary path, with the suffix of `path`; the body of the `with` writes it, by whatever library.

    Raises:
        OSError: the disk is full; says how much is free and that the old file is unchanged.

    If the body raises, the temporary file is removed and the old file stays as it was. If the process is killed the
    old file stays too, and a hidden `.NAME.PID-XXXX.SUFFIX` is left behind.

        with atomic_write("poses.json") as temporary:
            temporary.write_text(json.dumps(poses))
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, Exception) and _is_disk_full(error):
            raise _disk_full(path) from error
        raise
    with suppress(OSError):  # some file systems cannot sync a folder; the rename itself is done
        _sync(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    text = json.dumps(value, indent=1)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def existing_file(path: str | Path, what: str) -> Path:
    """`path` if it is a file.

    Args:
        path: what the user gave.
        what: what it should be, for the message: "camera file".

    Raises:
        FileNotFoundError: nothing is there; lists files with similar names, or the last folder that exists.
        IsADirectoryError: it is a folder; lists what lies in it.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise IsADirectoryError(f"expected one {what}, got the folder {path} ({_listing(path)}); name a file in it")
    folder = path.parent
    if not folder.is_dir():
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        raise FileNotFoundError(f"no {what} at {path}: the folder {path.parent} does not exist (but {folder} does)")
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    alike = difflib.get_close_matches(path.name.lower(), [n.lower() for n in names], n=3, cutoff=0.6)
    close = [n for n in names if n.lower() in alike or (Path(n).stem == path.stem)]
    hint = f"did you mean {' or '.join(close[:3])}?" if close else f"{folder} holds {_listing(folder)}"
    raise FileNotFoundError(f"no {what} at {path}; {hint}")


def _listing(folder: Path, most: int = 6) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if not p.name.startswith("."))
    if not names:
        return "nothing"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that a crash cannot leave an empty file under the new name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "no space left" in str(error).lower() or "os error 28" in str(error)  # safetensors and torch pack it in text


def _disk_full(path: Path) -> OSError:
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e6
    kept = "the old file is unchanged" if path.exists() else "nothing was written"
    message = (
        f"the disk is full ({free:.0f} MB free under {folder}) while writing {path}; {kept}. Free some space or write elsewhere"
    )
    return OSError(errno.ENOSPC, message)
