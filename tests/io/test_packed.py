"""Pictures in tars and Parquet files are those of a folder; what is broken is named."""

import gzip
import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from monopose.io.files import Unreadable
from monopose.io.images import listed_frames
from monopose.io.packed import name_for_files, packed_files


def encoded(n):
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), n, np.uint8)).save(file, "png")
    return file.getvalue()


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def shown(source):
    """Names, and the grey of each picture."""
    return {name: round(float(read().image.mean()) * 255) for name, read in listed_frames(source, fov_deg=60)}


def test_tars(tmp_path):
    tar(tmp_path / "shard-000001.tar", {"c.png": encoded(3), "c.json": b"{}"})
    tar(tmp_path / "shard-000000.tar", {"in/a.png": encoded(1), "b.rgb.png": encoded(2), "b.depth.png": encoded(9)})
    assert shown(tmp_path) == {"a": 1, "b.rgb": 2, "c": 3}
    assert shown(str(tmp_path / "shard-000001.tar")) == {"c": 3}
    (_, read), *_ = listed_frames(tmp_path, fov_deg=60)
    assert read().path == f"{tmp_path}/shard-000000.tar/in/a.png"
    tar(tmp_path / "x.tar", {"a.png": encoded(4), "d.png": b"no picture"})
    *others, (_, read) = listed_frames(tmp_path, fov_deg=60)
    assert [n for n, _ in others] == ["shard-000000_in_a.png", "shard-000000_b.rgb.png", "shard-000001_c.png", "x_a.png"]
    with pytest.raises(Unreadable, match=r"x\.tar/d\.png is not an image"):
        read()
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "photo.png")
    assert shown(tmp_path) == {"photo": 0}  # a folder of pictures, as ever
    assert packed_files(tmp_path / "photo.png") == []


def test_names_that_no_file_can_have_are_shortened(tmp_path):
    """Overlays and other results are called as their pictures."""
    long, (a, b) = "x" * 246, ("y" * 240 + n for n in "ab")
    tar(tmp_path / "odd.tar", {f"{a}.png": encoded(1), f"{b}.png": encoded(2), "ü \n.png": encoded(3)})
    found = shown(tmp_path / "odd.tar")
    assert list(found.values()) == [1, 2, 3]
    assert [len(n) for n in found] == [53, 53, 3]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / f"{long}.png").write_bytes(encoded(4))
    (name,) = shown(tmp_path / "photos")
    assert (name[:40], len(name)) == (long[:40], 53)
    assert name_for_files("a\0b").startswith("ab-")


@pytest.mark.parametrize("names", [["struct", "path"], ["bytes", "path"], ["bytes"]])
def test_parquet(tmp_path, names):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'monopose[ray]'")
    from pyarrow import parquet

    kind, *path = names
    contents, paths = [encoded(n) for n in range(5)], [f"in/{n}.png" for n in "abcde"]
    contents[3] = None
    columns = {"bytes": contents} | ({"path": paths} if path else {})
    if kind == "struct":
        columns = {"image": [{"bytes": c, "path": p} for c, p in zip(contents, paths)]}
    parquet.write_table(pyarrow.table({"mask": [b"x"] * 5, **columns}), tmp_path / "p.parquet", row_group_size=2)
    frames = list(listed_frames(tmp_path, fov_deg=60))
    assert [name for name, _ in frames] == (list("abcde") if path else [f"p_{n:06d}" for n in range(5)])
    assert [round(float(frames[n][1]().image.mean()) * 255) for n in (4, 0, 1)] == [4, 0, 1]
    with pytest.raises(Unreadable, match=r"p\.parquet, row 1 of group 1: no picture"):
        frames[3][1]()
    assert torch.equal(frames[2][1]().image, frames[2][1]().image)


def test_what_is_broken_is_named(tmp_path):
    tar(tmp_path / "whole.tar", {"a.png": encoded(1)})
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"cut\.tar is not a whole tar without compression"):
        listed_frames(tmp_path / "cut.tar", fov_deg=60)
    tar(tmp_path / "more.tar", {"a.png": encoded(1), "b.png": encoded(2)})
    content = (tmp_path / "more.tar").read_bytes()
    second = content.index(b"b.png")
    for name, changed in {
        "header": content[: second + 1] + b"X" + content[second + 2 :],  # its checksum is wrong
        "between": content[:second], "member": content[: second + 520], "two": content * 2, "nothing": b"",
        "gzip": gzip.compress(content), "padded": gzip.compress(content) + bytes(1024),
    }.items():  # fmt: skip
        (tmp_path / f"{name}.tar").write_bytes(changed)
        with pytest.raises(ValueError, match=rf"{name}\.tar is not a whole tar without compression"):
            listed_frames(tmp_path / f"{name}.tar", fov_deg=60)
    (tmp_path / "compressed").mkdir()
    (tmp_path / "compressed/a.tar.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"a\.tar\.gz is compressed; unpack it"):
        listed_frames(tmp_path / "compressed", fov_deg=60)
    tar(tmp_path / "empty.tar", {"a.txt": b""})
    with pytest.raises(ValueError, match=r"no pictures in .*empty\.tar"):
        listed_frames(tmp_path / "empty.tar", fov_deg=60)
    tar(tmp_path / "twice.tar", {"a.png": encoded(1), "A.png": encoded(2)})
    with pytest.raises(ValueError, match=r"two pictures in .* are called twice_A\.png"):
        listed_frames(tmp_path / "twice.tar", fov_deg=60)
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'monopose[ray]'")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 or so")
    with pytest.raises(ValueError, match=r"b\.parquet is not a whole Parquet file"):
        listed_frames(tmp_path / "b.parquet", fov_deg=60)
