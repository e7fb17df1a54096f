"""Many pictures in few files: tars without compression (web data sets) and Parquet, read where they lie."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from .files import IMAGE_SUFFIXES, Unreadable

SUFFIXES = (".tar", ".parquet")


class Packed(NamedTuple):
    """A picture in such a file. name: no other has it. place: for messages, the file and what the picture is called in it."""

    name: str
    place: str
    read: Callable[[], bytes]


def packed_files(source: str | Path) -> list[Path]:
    """The tars and Parquet files that a source of pictures names: itself, or those in a folder that has no pictures.

    Raises:
        ValueError: a tar among them is compressed.
    """
    path = Path(source)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        if any(p.suffix.lower() in IMAGE_SUFFIXES for p in files):
            return []
    if compressed := [p for p in files if re.search(r"\.(tgz|tar\.(gz|bz2|xz|zst|lz4))$", p.name.lower())]:
        raise ValueError(f"{compressed[0]} is compressed; unpack it to a .tar, in which pictures are read where they lie")
    return [p for p in files if p.suffix.lower() in SUFFIXES]


def name_for_files(name: str) -> str:
    """The name of a picture as files beside results can have it: one too long, or with a zero, ends with a digest."""
    content = name.encode("utf-8", "surrogatepass")
    if len(content) <= 200 and b"\0" not in content:
        return name
    return f"{name[:40]}-{hashlib.sha256(content).hexdigest()[:12]}".replace("\0", "")


def digest_of_pictures(source: str | Path) -> str:
    """A short name for the pictures of a folder, a tar or a Parquet file, wherever it lies, by the sizes of some of the files:
    different folders may hold the same names. "" for what is none of them."""
    if not Path(source).is_dir() and not packed_files(source):
        return ""
    files = packed_files(source) or sorted(p for p in Path(source).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    some = [(p.name, p.stat().st_size) for p in files[:: len(files) // 100 + 1] if p.exists()]
    return f"{len(files)} files {hashlib.sha256(repr(some).encode()).hexdigest()[:12]}"


def packed_pictures(files: Sequence[Path]) -> list[Packed]:
    """The pictures in tars and Parquet files, in their order; depth maps of BOP's web data sets are left out.

    Raises:
        ImportError: Parquet without pyarrow.
        ValueError: a file that is broken, or has no pictures; two pictures with one name in a file.
    """
    found: list[tuple[Path, str, Callable[[], bytes]]] = []
    for file in files:
        inside = list(_of_table(file) if file.suffix.lower() == ".parquet" else _of_tar(file))
        if not inside:
            raise ValueError(f"no pictures in {file}; expected members or names that end in {', '.join(IMAGE_SUFFIXES)}")
        found += [(file, name, read) for name, read in inside]
    names = [Path(name).stem for _, name, _ in found]
    if len({n.casefold() for n in names}) < len(names):
        names = [f"{file.stem}_{name}".replace("/", "_") for file, name, _ in found]
    if len({n.casefold() for n in names}) < len(names):
        seen: set[str] = set()
        twice = next(n for n in names if n.casefold() in seen or seen.add(n.casefold()))  # type: ignore[func-returns-value]
        raise ValueError(f"two pictures in {files[0].parent} are called {twice}; results are named after them, so rename one")
    return [
        Packed(name_for_files(name), f"{file}/{inside}", read) for name, (file, inside, read) in zip(names, found, strict=True)
    ]


# ------------------------------------------------------------------------------------------------------------------- tars


def tar_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every file in a tar. Raises ValueError where it is compressed, cut off, or broken."""
    try:
        with open(path, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 512, 0))
            if file.read().strip(b"\0"):
                raise tarfile.ReadError("its end is missing")
            with tarfile.open(path, "r:") as tar:
                for info in tar:
                    if info.isfile():
                        yield info.name, info.offset_data, info.size
            file.seek(tar.offset)  # tarfile stops without a word at a header that is broken, and where another tar begins
            while part := file.read(1 << 20):
                if part.strip(b"\0"):
                    raise tarfile.ReadError(f"what stands at byte {tar.offset} is no member; are they several tars in one?")
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} is not a whole tar without compression ({error}); fetch it again") from error


def read_member(path: Path, name: str, offset: int, size: int) -> bytes:
    """What lies at a place in a tar. Raises ValueError where the file ends before."""
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise ValueError(f"{path} ends before {name}; is it cut off, or was it changed while it was read?")
    return content


def _of_tar(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for name, offset, size in tar_members(path):
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and ".depth." not in name:
            yield name, partial(read_member, path, name, offset, size)


# ---------------------------------------------------------------------------------------------------------------- Parquet


def _of_table(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Rows with a picture: a column of bytes, or of structs with bytes (as of Hugging Face), called as path says."""
    file = _open(path)
    schema = file.schema_arrow
    kinds = {field.name: _kind(field.type) for field in schema}
    chosen = sorted((name not in ("image", "bytes"), n, name) for n, name in enumerate(kinds) if kinds[name])
    if not chosen:
        raise ValueError(f"{path} has no column of encoded pictures (bytes, or image with bytes); it has {', '.join(kinds)}")
    column = chosen[0][2]
    named = f"{column}.path" if "path" in kinds[column] else next((n for n in ("path", "file_name", "name") if n in kinds), "")
    names: list[Any] = [None] * file.metadata.num_rows
    if named:
        names = [v["path"] if isinstance(v, dict) else v for v in file.read(columns=[named]).column(0).to_pylist()]
    row = 0
    for group in range(file.num_row_groups):
        for n in range(file.metadata.row_group(group).num_rows):
            yield str(names[row] or f"{path.stem}_{row:06d}.image"), partial(_read_row, path, column, group, n)
            row += 1


def _kind(type_of: Any) -> str:
    """What a column holds of a picture: "bytes", "bytes path", or nothing."""
    if str(type_of) in ("binary", "large_binary"):
        return "bytes"
    inside = [type_of.field(n).name for n in range(type_of.num_fields)] if str(type_of).startswith("struct") else []
    return " ".join(n for n in ("bytes", "path") if n in inside) if "bytes" in inside else ""


def _open(path: Path) -> Any:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'monopose[ray]'") from error
    try:
        return parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file ({error}); fetch it again") from error


@lru_cache(maxsize=1)
def _group(path: Path, column: str, group: int) -> Any:
    """The pictures of a row group, which is what can be read at once; rows come one after the other."""
    return _open(path).read_row_group(group, columns=[column]).column(0)


def _read_row(path: Path, column: str, group: int, n: int) -> bytes:
    content = _group(path, column, group)[n].as_py()
    content = content["bytes"] if isinstance(content, dict) else content
    if content is None:
        raise Unreadable(f"{path}, row {n} of group {group}: no picture")
    return bytes(content)
