"""Public data sets fetched from where their authors keep them: resumed, checked, unpacked whole or not at all.

OUT/pix3d/                             the data set
OUT/pix3d/.downloads/pix3d.zip.part    what has come so far
OUT/pix3d/.downloads/pix3d.zip.json    what was unpacked: address, size, SHA-256
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .. import __version__
from ..io.bars import console
from ..io.files import sole_writer, write_json

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4  # connections that may break one after another without bringing anything
WAIT = 1.0  # seconds before the second attempt, doubled each time
_PIECE = 1 << 13  # bytes read at once, the most that a broken connection loses: what stalls again and again still gets on
_SPARE = 100_000_000  # bytes that stay free on the disk
MOST_GROWTH = 30  # times the size of an archive that its content may have; text of meshes shrinks to a tenth at best
MOST_UNPACKED = 1_000_000_000  # bytes that any archive may become
MEMBERS = 1_000_000  # files in one archive; more is no data set of this list


@dataclass(frozen=True)
class Archive:
    """One file to fetch and unpack.

    Args:
        url: of a ZIP file.
        holds: a path that is in the data set's folder once the archive is unpacked.
        size: bytes, None where unknown.
        sha256: hexadecimal, None where unknown: then the hash of what came is
            printed and kept, and the ZIP's own checksums are all there is.
        hub: whether it lies on the Hugging Face hub, which tells size and SHA-256 of a file when asked.
        part: what it is called where parts are chosen; "": it always comes.
        default: whether it comes where no parts are chosen.
    """

    url: str
    holds: str
    size: int | None = None
    sha256: str | None = None
    hub: bool = False
    part: str = ""
    default: bool = True

    @property
    def file(self) -> str:
        return PurePosixPath(urllib.parse.urlsplit(self.url).path).name


def _bop(name: str, parts: dict[str, tuple[str, str]]) -> tuple[Archive, ...]:
    """Archives of a set of the BOP benchmark: its targets always, parts (name -> file, what it holds) by choice."""
    root = "https://huggingface.co/datasets/bop-benchmark"
    always = Archive(f"{root}/{name}/resolve/main/{name}_base.zip", "test_targets_bop19.json", hub=True)
    chosen = []
    for part, (file, holds) in parts.items():
        url = f"{root}/{file.partition('_')[0]}/resolve/main/{file}.zip"
        chosen.append(Archive(url, holds, hub=True, part=part, default=part in ("models", "test")))
    return (always, *chosen)


_NOCS = (
    "http://download.cs.stanford.edu/orion/nocs"  # README of hughw19/NOCS_CVPR2019; non-commercial use, cite Wang et al. 2019
)


def _nocs(photos: str, holds: str) -> tuple[Archive, ...]:
    """Photos, meshes with their extents, and the authors' fitted poses, as `datasets.nocs` reads them; never fetched by us."""
    return tuple(Archive(f"{_NOCS}/{f}.zip", h) for f, h in ((photos, holds), ("obj_models", "obj_models"), ("gts", "gts")))


DATASETS: dict[str, tuple[Archive, ...]] = {
    "pix3d": (Archive("http://pix3d.csail.mit.edu/data/pix3d.zip", "pix3d.json"),),
    "lm": _bop("lm", {
        "models": ("lm_models", "models/models_info.json"), "test": ("lm_test_bop19", "test"),
        "test_all": ("lm_test_all", "test"), "train_pbr": ("lm_train_pbr", "train_pbr"),
    }),
    "lmo": _bop("lmo", {
        "models": ("lmo_models", "models/models_info.json"), "test": ("lmo_test_bop19", "test"),
        "test_all": ("lmo_test_all", "test"), "train": ("lmo_train", "train"),
        "train_pbr": ("lm_train_pbr", "train_pbr"),  # LM's, whose objects LM-O's are
    }),
    "ycbv": _bop("ycbv", {
        "models": ("ycbv_models", "models/models_info.json"), "test": ("ycbv_test_bop19", "test"),
        "test_all": ("ycbv_test_all", "test"), "train_pbr": ("ycbv_train_pbr", "train_pbr"),
        "train_synt": ("ycbv_train_synt", "train_synt"),
    }),
    "tless": _bop("tless", {
        "models": ("tless_models", "models_cad"), "test": ("tless_test_primesense_bop19", "test_primesense"),
        "test_all": ("tless_test_primesense_all", "test_primesense"), "train_pbr": ("tless_train_pbr", "train_pbr"),
        "train_primesense": ("tless_train_primesense", "train_primesense"),
    }),
    "real275": _nocs("real_test", "real_test"),
    "camera25": _nocs("camera_val25K", "val"),  # without the 140 GB of training photos, from which nothing here learns
}  # fmt: skip
"""Name -> archives, in the order they are fetched. The hub knows sizes and hashes of the BOP sets, nobody the others'."""

NAMES = tuple(DATASETS)


def download(name: str, out: str | Path, url: str | None = None, parts: Sequence[str] = ()) -> Path:
    """Fetch a data set into the folder `out`/`name`. What is complete is left alone; what was interrupted goes on.

    Args:
        name: one of `NAMES`.
        out: folder to make the data set's folder in.
        url: fetch from elsewhere: of the ZIP file, or of the folder that holds the data set's ZIP files.
        parts: of a BOP set: "models", "test", "train_pbr" and others; none: models and test. What is there already stays.

    Returns:
        the data set's folder.

    Raises:
        ValueError: an unknown name, part or address; what came is not the expected file, or no whole ZIP file.
        FileNotFoundError: the server has no such file.
        ConnectionError: no network, or it breaks again and again. What has come is kept.
        OSError: the disk is too small.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r} is known; known: {', '.join(NAMES)}")
    folder = Path(out) / name
    archives = _from(_chosen(name, parts), url)
    with sole_writer(folder, "download"):
        for archive in archives:
            _fetch_and_unpack(archive, folder)
    return folder


def _chosen(name: str, parts: Sequence[str]) -> tuple[Archive, ...]:
    """The archives of some parts."""
    known = [a.part for a in DATASETS[name] if a.part]
    if wrong := [part for part in parts if part not in known]:
        has = f"it has {', '.join(known)}" if known else "it comes whole"
        raise ValueError(f"{name} has no part {', '.join(wrong)}; {has}")
    return tuple(a for a in DATASETS[name] if not a.part or (a.part in parts if parts else a.default))


def _from(archives: tuple[Archive, ...], url: str | None) -> tuple[Archive, ...]:
    """The archives at another address."""
    if url is None:
        return archives
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(
            f"expected an address that starts with http:// or https://, got {url!r}; unpack a local ZIP file yourself"
        )
    if not parts.path.lower().endswith(".zip"):
        base = url.rstrip("/")
        return tuple(replace(a, url=f"{base}/{a.file}", hub=False) for a in archives)
    if len(archives) > 1:
        files = ", ".join(a.file for a in archives)
        raise ValueError(f"the data set has {len(archives)} archives ({files}); give the address of the folder that holds them")
    return (replace(archives[0], url=url, hub=False),)


def _fetch_and_unpack(archive: Archive, folder: Path) -> None:
    own = folder / ".downloads"
    note = own / f"{archive.file}.json"
    if note.is_file() and (folder / archive.holds).exists():
        return
    import pooch

    if archive.hub:
        archive = _ask_hub(archive)
    own.mkdir(parents=True, exist_ok=True)
    part = own / f"{archive.file}.part"
    try:
        fetch(archive.url, part, archive.size)
    except ValueError:  # refused, not interrupted
        _remove(part)
        raise
    came = pooch.file_hash(str(part))
    if archive.sha256 is not None and came != archive.sha256.lower():
        _remove(part)
        raise ValueError(
            f"{archive.url} has SHA-256 {came}, expected {archive.sha256}; what came was removed. Try again; if the same comes "
            "again, the file was changed where it is kept"
        )
    size = part.stat().st_size
    unpack(part, folder, archive.holds, archive.url)
    write_json(note, {"url": archive.url, "size": size, "sha256": came})
    _remove(part)
    _say(f"{archive.file}: {size:,} bytes, SHA-256 {came}" + ("" if archive.sha256 else " (none to compare with)"))


def _say(message: str) -> None:
    console().print(message, markup=False)


# ------------------------------------------------------------------------------------------------------------ fetching


def _ask_hub(archive: Archive) -> Archive:
    """The archive with its size, and with its SHA-256 where the hub keeps the file as a large one."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    try:
        known = get_hf_file_metadata(archive.url)
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(
            f"{archive.url} is not there ({error}); has it moved? Give another address with --url"
        ) from None
    except Exception as error:  # of the HTTP library that the hub's client uses, which is not always the same
        raise ConnectionError(f"the hub does not answer for {archive.url} ({error}). Is there a network?") from None
    return replace(archive, size=known.size, sha256=known.etag if re.fullmatch("[0-9a-f]{64}", known.etag or "") else None)


def fetch(url: str, part: Path, size: int | None = None) -> None:
    """Bring a file whole, going on from what `part` holds if the server can and the file there has not changed.

    Beside `part` lies `part`.json with the server's own mark of the file; without it nothing is resumed.

    Args:
        url: http or https.
        part: file to write.
        size: bytes that are expected, None where unknown.
    """
    idle = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _one_connection(url, part, size):
                return
            problem = "the connection ended early"
        except OSError as error:  # the mother of the HTTP library's errors too, which have a response or None
            if not hasattr(error, "response"):
                raise
            problem = _reason(error, url)
            if _status(error) == 416:  # more bytes here than there: begin anew
                _remove(part)
        come = part.stat().st_size if part.exists() else 0
        idle = 0 if come > before else idle + 1
        if idle >= ATTEMPTS:
            kept = f"{come:,} bytes are kept: run the same command again to go on" if come else "nothing has come"
            raise ConnectionError(f"{url} could not be fetched ({problem}); {kept}. Is there a network, or a proxy to name?")
        time.sleep(WAIT * 2 ** max(idle - 1, 0))


def _one_connection(url: str, part: Path, size: int | None) -> bool:
    """Write what one connection brings. Whether the file is whole."""
    import pooch

    marks_path = part.with_name(part.name + ".json")
    have, marks = (part.stat().st_size, _marks(marks_path)) if part.exists() else (0, {})
    if marks.get("url") != url or not marks.get("mark"):
        have = 0
    if have and have == marks.get("size"):
        return True
    headers = {"User-Agent": f"monopose/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": marks["mark"]}
    total = size
    with open(part, "r+b" if have else "wb") as file:

        def begin(response: Any, **_: Any) -> None:
            """Before the first byte: where in the file the response begins, and whether it fits the file and the disk."""
            nonlocal total
            if response.status_code not in (200, 206):
                return  # a redirection or a refusal
            start = _start(response) if response.status_code == 206 else 0
            if start not in (0, have):
                raise ValueError(f"{url} sent bytes from {start}, asked for {have}; what came was removed, try again")
            length = response.headers.get("Content-Length")
            announced = int(length) + start if length else None
            if None not in (size, announced) and size != announced:
                raise ValueError(f"{url} has {announced:,} bytes, expected {size:,}; the file was changed where it is kept")
            total = announced if size is None else size
            _check_space(part, 2 * (total or 0) - start, "to fetch and to unpack, at least", url)
            file.seek(start)
            file.truncate()
            etag = response.headers.get("ETag") or ""
            mark = response.headers.get("Last-Modified") or "" if etag.startswith("W/") else etag  # weak: not for bytes
            write_json(marks_path, {"url": url, "size": total, "mark": mark})  # after the old bytes are gone

        bar = sys.stderr.isatty()
        get = pooch.HTTPDownloader(bar, _PIECE, timeout=TIMEOUT, headers=headers, hooks={"response": begin})
        get(url, file, None)
    return total is None or part.stat().st_size == total


def _start(response: Any) -> int:
    """The first byte of a partial response, -1 where it does not say."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    return int(found[1]) if found else -1


def _marks(path: Path) -> dict[str, Any]:
    try:
        marks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marks if isinstance(marks, dict) else {}


def _status(error: OSError) -> int:
    """Of a response that refuses; 0 where none came."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _reason(error: OSError, url: str) -> str:
    """What went wrong, where trying again can help; raises where it cannot."""
    code = _status(error)
    if code in (404, 410):
        raise FileNotFoundError(f"{url} is not there (HTTP {code}); has it moved? Give another address with --url") from None
    if code in (401, 403):
        raise PermissionError(f"{url} must not be read (HTTP {code}); does it want a login?") from None
    if code and code < 500 and code not in (408, 416, 429):
        raise ValueError(f"{url} was refused (HTTP {code})") from None
    return f"HTTP {code}" if code else str(error)


def _check_space(path: Path, needed: int, what: str, url: str) -> None:
    folder = path if path.is_dir() else path.parent
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise OSError(
            f"{url} needs {needed / 1e9:.2f} GB {what}, and {_SPARE / 1e9:g} GB to spare; {free / 1e9:.2f} GB are free under "
            f"{folder}. Free some space, or name another folder with --out"
        )


# ----------------------------------------------------------------------------------------------------------- unpacking


def unpack(path: Path, folder: Path, holds: str, url: str = "") -> None:
    """Unpack a ZIP file beside its place and move it there when it is whole.

    Args:
        path: the ZIP file; removed when it is none or broken.
        folder: where its content goes; files that are there are replaced, others stay.
        holds: a path that has to be in it; a folder around everything in the file is left out.
        url: where it came from, for messages.

    Raises:
        ValueError: no ZIP file, broken, without `holds`, or a name in it leads out of the folder. Nothing was unpacked.
        OSError: the disk is too small.
    """
    source = url or str(path)
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            head = file.read(16)
        _remove(path)
        page = " It is a web page: does the address want a login, or a click?" if head.lstrip()[:1] == b"<" else ""
        raise ValueError(f"{source} is not a ZIP file, it starts with {head!r}; what came was removed.{page}")
    temporary = path.with_name(f"{path.name}.unpacked")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.filename.startswith("__MACOSX/")]
            if problem := _untrusted(members, path.stat().st_size):
                _remove(path)
                raise ValueError(f"{source} was not unpacked: {problem}; it is not to be trusted, what came was removed")
            folder.mkdir(parents=True, exist_ok=True)
            _check_space(folder, sum(m.file_size for m in members), "to unpack", source)
            archive.extractall(temporary, members)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        _remove(path)
        raise ValueError(f"{source} is a broken ZIP file ({error}); what came was removed, try again") from error
    except (NotImplementedError, RuntimeError) as error:  # a method of compression that Python has not, a password
        raise ValueError(
            f"{path} (from {source}) cannot be unpacked here ({error}); unpack it by hand into {folder}"
        ) from error
    else:
        content = list(temporary.iterdir())
        around = len(content) == 1 and content[0].is_dir() and not (temporary / holds).exists()
        top = content[0] if around else temporary
        if not (top / holds).exists():
            names = ", ".join(sorted(p.name for p in content)[:8])
            _remove(path)
            raise ValueError(f"{source} holds no {holds} (but {names or 'nothing'}): another data set? What came was removed")
        _move_into(top, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(part: Path) -> None:
    for path in (part, part.with_name(part.name + ".json")):
        with suppress(FileNotFoundError):
            path.unlink()


def _untrusted(members: list[zipfile.ZipInfo], size: int) -> str:
    """Why not to unpack: too many members, far more bytes than came, a name that leads out of the folder, or a link.

    Args:
        members: of the archive.
        size: of the archive, bytes.

    Returns:
        the reason; empty: none.
    """
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(MOST_UNPACKED, MOST_GROWTH * size):
        return f"its {size:,} bytes would become {unpacked:,}, more than {MOST_GROWTH} times as many"
    if len(members) > MEMBERS:
        return f"it has {len(members):,} members, at most {MEMBERS:,} are expected"
    for member in members:
        pure = PurePosixPath(member.filename.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in (pure.parts[0] if pure.parts else ""):
            return f"its member {member.filename!r} leads out of its folder"
        if stat.S_ISLNK(member.external_attr >> 16):
            return f"its member {member.filename!r} is a link"
    return ""


def _move_into(source: Path, target: Path) -> None:
    """Move what is in a folder into another of the same file system; folders join, files replace."""
    target.mkdir(parents=True, exist_ok=True)
    for item in sorted(source.iterdir()):
        place = target / item.name
        if item.is_dir() and place.is_dir() and not place.is_symlink():
            _move_into(item, place)
        else:
            os.replace(item, place)
