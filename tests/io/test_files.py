import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monopose.io.files import atomic_write, existing_file, list_unreadable, note_unreadable, write_json


def test_new_file_replaces_old_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "poses.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [p.name for p in path.parent.iterdir()] == ["poses.json"]


def test_lists_take_names_of_any_bytes(tmp_path):
    reason = f"{os.fsdecode(b'old' + bytes([254]))}.png is no\npicture"
    for write in (lambda path: list_unreadable(path, [reason]), *2 * [lambda path: note_unreadable(path, reason)]):
        write(tmp_path / "unreadable.txt")
        assert (tmp_path / "unreadable.txt").read_text(encoding="utf-8") == "old\\udcfe.png is no picture\n"


def test_temporary_name_is_hidden_and_keeps_the_suffix(tmp_path):
    with atomic_write(tmp_path / "overlay.png") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"x")


def _write_then_raise(path: Path, error: Exception) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="my own"):
        _write_then_raise(path, RuntimeError("my own"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_reported_and_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    with pytest.raises(OSError, match=r"the disk is full .*model\.safetensors; the old file is unchanged") as caught:
        _write_then_raise(path, error)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _write_to_full_device(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x" * 10)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a Linux device that is always full")
def test_real_full_device(tmp_path):
    with pytest.raises(OSError, match="nothing was written"):
        _write_to_full_device(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_killed_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import sys, time\nfrom monopose.io.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as t:\n"
        "    f = open(t, 'w'); f.write('half'); f.flush(); print('writing', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_text() == "old"


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "link.json").symlink_to("gone.json")
    with pytest.raises(
        FileNotFoundError, match=r"no camera file at .*link\.json: it is a link to gone\.json, which is not there"
    ):
        existing_file(tmp_path / "link.json", "camera file")


def test_missing_file_names_what_is_alike(tmp_path):
    (tmp_path / "camera.json").touch()
    (tmp_path / "other.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no camera file at .*camra\.json; did you mean camera\.json\?"):
        existing_file(tmp_path / "camra.json", "camera file")
    with pytest.raises(FileNotFoundError, match=r"holds camera\.json, other\.txt"):
        existing_file(tmp_path / "zzz", "camera file")
    with pytest.raises(FileNotFoundError, match=r"the folder .*no/such does not exist"):
        existing_file(tmp_path / "no" / "such" / "x.png", "image")
    with pytest.raises(IsADirectoryError, match=r"expected one image, got the folder .*camera\.json, other\.txt"):
        existing_file(tmp_path, "image")
