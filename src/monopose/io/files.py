"""The door for everything that is written: files whole or not at all, folders with one writer, full disks named.

And errors that help to find the right file.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from platform import node
from typing import Any

if sys.platform != "win32":
    import fcntl

ASSETS = Path(__file__).parents[1] / "assets"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".gif")


_HOST = f"{zlib.crc32(node().encode()):08x}"
_PARTIAL = re.compile(r"\..*\.part-([0-9a-f]{8})-\d+-[0-9a-f]{8}(\.[^.]*)?")
_OLD = 24 * 3600.0  # seconds after which another machine's partial file is left over for certain
_looked_at: set[Path] = set()  # folders that this process has cleaned
_written_alone: set[Path] = set()  # locks that this process holds
_open = 0  # files that this process is writing


@contextmanager
def atomic_write(path: str | Path, wait: bool = True) -> Iterator[Path]:
    """Write a file under a temporary name in the same folder and rename it when it is whole.

    Args:
        path: the file to create or replace; missing parent folders are made.
        wait: until the file is on the disk, so that a power cut cannot harm it. Pictures that a later file names need not.

    Yields:
        the temporary path, an empty file with the suffix of `path`; the body of the `with` writes it, by whatever library.

    Raises:
        OSError: the disk is full; says how much is free and that the old file is unchanged.

    If the body raises, the temporary file is removed and the old file stays as it was. If the process is killed the old file
    stays too; what was left, `.NAME.part-HOST-PID-XXXX.SUFFIX`, is removed by the next process that writes into the folder.

        with atomic_write("poses.json") as temporary:
            temporary.write_text(json.dumps(poses))
    """
    global _open
    path = Path(path)
    name = f".{path.stem[:40]}.part-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    temporary, held = path.with_name(name), None
    _open += 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean(path.parent)
        held = _held(temporary)
        yield temporary
        if wait:
            _sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        full = isinstance(error, Exception) and (is_disk_full(error) or _takes_no_more(temporary))
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if full:
            raise _disk_full(path) from error
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        _open -= 1
        if held is not None:
            os.close(held)
    if wait:
        with suppress(OSError):  # some file systems cannot sync a folder; the rename itself is done
            _sync(path.parent)


INDEX = ".monopose-index"  # what is kept of a data set so that it opens at once


def index_place(folder: Path, name: str = INDEX) -> Path:
    """Where the index of a data set's folder lies: in it, or in the user's cache where that cannot be written to."""
    if os.access(folder, os.W_OK) or not folder.is_dir():
        return folder / name
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "monopose" / "index" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16] / name


@contextmanager
def atomic_folder(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """`atomic_write` of a folder: yields an empty one, which gets the name `path` when the body of the `with` is through.

    Args:
        path: the folder to create; missing parent folders are made.
        replace: take away what is there; where another process is faster, its folder stays.

    Raises:
        OSError: `path` is there, and is not to be replaced.
    """
    global _open
    path = Path(path)
    temporary, held = path.with_name(f".{path.name[:40]}.part-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"), None
    _open += 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean(path.parent)
        held = _held(temporary, folder=True)
        yield temporary
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError) if replace else nullcontext():
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _open -= 1
        if held is not None:
            os.close(held)


@contextmanager
def or_warned(what: str) -> Iterator[None]:
    """Go on with a warning where something cannot be written, for what was found out is printed all the same."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{what} could not be saved: {error}; name another place for it", UserWarning, stacklevel=1)


def _held(temporary: Path, folder: bool = False) -> int | None:
    """A new empty file or folder, locked: whoever can lock it knows that its writer has gone. None on Windows."""
    if folder:
        temporary.mkdir()
    if sys.platform == "win32":
        return None
    how = os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
    descriptor = os.open(temporary, how, 0o666)
    with suppress(OSError):  # a file system without locks, whose partial files stay
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _clean(folder: Path) -> None:
    """Remove the partial files and folders of processes that were killed; once for every folder."""
    if folder in _looked_at or sys.platform == "win32":
        return
    _looked_at.add(folder)
    with suppress(OSError):
        for name in os.listdir(folder):
            found = _PARTIAL.fullmatch(name)
            if found and (found[1] == _HOST or time.time() - (folder / name).lstat().st_mtime > _OLD):
                _remove_left_over(folder / name)


def _remove_left_over(path: Path) -> None:
    with suppress(OSError):  # locked: somebody is writing it
        folder = path.is_dir()
        descriptor = os.open(path, os.O_NOFOLLOW | (os.O_RDONLY if folder else os.O_RDWR))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if folder else path.unlink()
        finally:
            os.close(descriptor)


@contextmanager
def sole_writer(folder: str | Path, name: str = "monopose") -> Iterator[None]:
    """Keep other processes from writing the same results at the same time.

    Args:
        folder: made if it is not there; removed again if nothing was written into it.
        name: of what is written in it: a folder may have several writers, each of something else.

    Raises:
        OSError: another process is at it; names it.

    The lock, `.NAME.lock`, ends with the process, however that ends. Where the file system has no locks, nobody is kept away.
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder.resolve() / f".{name}.lock"
    try:
        descriptor = _locked(lock, folder, name)
        _written_alone.add(lock)
        try:
            yield
        finally:
            _written_alone.discard(lock)
            if descriptor is not None:
                lock.unlink(missing_ok=True)
                os.close(descriptor)
    finally:
        for place in made:
            with suppress(OSError):  # not empty
                place.rmdir()


def _locked(lock: Path, folder: Path, name: str) -> int | None:
    """The descriptor of a lock file that is ours; not that of processes which it forks, so that it ends when we are killed."""
    if lock in _written_alone:
        raise _in_use(folder, name, f"{os.getpid()} on {node()}")
    if sys.platform == "win32":
        return None
    while True:
        if lock.is_symlink() or lock.is_dir():
            raise OSError(errno.ELOOP, f"{lock} should be a file that monopose makes; it is a link or a folder: remove it")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(descriptor, 500).decode(errors="replace")
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return None
            raise _in_use(folder, name, owner) from None
        if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
            break
        os.close(descriptor)  # its owner has just removed it
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
    return descriptor


def _in_use(folder: Path, name: str, owner: str) -> OSError:
    what = "" if name == "monopose" else f" {name}"
    who = f"process {owner}," if owner else "another process"
    message = f"{folder} is in use: {who} is writing{what} there; wait for it, stop it, or choose another --out"
    return OSError(errno.EBUSY, message)


def is_busy() -> bool:
    """Whether this process is writing: ending it now would leave something behind."""
    return _open > 0 or bool(_written_alone)


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write `value` as JSON, whole or not at all."""
    text = json.dumps(value, indent=indent)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def digest_of(path: str | Path, digits: int = 16) -> str:
    """A short name of a file's content: the first digits of its SHA-256, of which there are 64."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            state.update(part)
    return state.hexdigest()[:digits]


class Unreadable(ValueError):
    """A file that is no picture, or a broken one. Among many pictures it is skipped."""


def list_unreadable(path: str | Path, reasons: Sequence[str]) -> bool:
    """List what could not be read, a line each; takes an earlier list away where there is nothing to say."""
    if not reasons:
        Path(path).unlink(missing_ok=True)
        return False
    with atomic_write(path) as temporary:
        lines = "".join(" ".join(reason.split()) + "\n" for reason in reasons)
        temporary.write_text(lines, encoding="utf-8", errors="backslashreplace")  # names of files may be any bytes
    return True


def note_unreadable(path: str | Path, reason: str) -> None:
    """Add a line to such a list, unless it is there; many processes may do so at once."""
    line, path = " ".join(reason.split()).encode("utf-8", "backslashreplace").decode() + "\n", Path(path)
    if not path.is_file() or line not in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)


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
    if path.is_symlink():
        raise FileNotFoundError(f"no {what} at {path}: it is a link to {os.readlink(path)}, which is not there")
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


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that there is no room: libraries wrap it in errors of their own."""
    while error is not None:
        text = str(error).lower()
        if (isinstance(error, OSError) and error.errno in _FULL) or "no space left" in text or "os error 28" in text:
            return True
        if isinstance(error, RuntimeError) and "pytorchstreamwriter failed writing" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _takes_no_more(path: Path) -> bool:
    """Whether a file cannot grow: torch and OpenCV do not say why they could not write."""
    try:
        with open(path, "ab", buffering=0) as file:
            file.write(bytes(1 << 16))
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in _FULL
    return False


def _disk_full(path: Path) -> OSError:
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e6
    kept = "the old file is unchanged" if path.exists() else "nothing was written"
    message = (
        f"the disk is full ({free:.0f} MB free under {folder}), or a quota is, while writing {path}; {kept}. Free some space "
        "or write elsewhere"
    )
    return OSError(errno.ENOSPC, message)
