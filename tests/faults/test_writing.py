"""The door for writing: what is left by a kill, who may write where, what a full disk says. No writer goes around it."""

import ast
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monopose import command
from monopose.datasets.bop import results, writing
from monopose.io.files import atomic_folder, atomic_write, or_warned, sole_writer, write_json
from monopose.tracking import viz as tracking
from monopose.training.cache import Cache
from monopose.types import Camera, Frame

SOURCE = Path(__file__).parents[2] / "src" / "monopose"
AROUND = {  # writers that need not go through `atomic_write`, and why
    "io/files.py": "it is the door",
    "datasets/download.py": "what has come is kept to go on from; the lock of `sole_writer` is around it",
    "datasets/bop/convert.py": "a folder of its own, renamed when it is whole",
    "tracking/recording.py": "a recording grows picture by picture, and what came before a kill is read",
    "datasets/bop/index.py": "a folder of its own, renamed when it is whole",
    "training/progress.py": "lines are added; one that was cut off is left out when they are read",
    "training/cache.py": "rows are added to a file that is there, under a lock of their own",
}


def _forever(say, *words):
    say(" ".join(words))
    time.sleep(600)


# ----------------------------------------------------------------------------------------------------------------- killed


def test_what_a_kill_leaves_is_removed_by_the_next_writer(tmp_path, child, names):
    file = tmp_path / "poses.json"
    write_json(file, 1)

    def write(say):
        with atomic_write(file) as temporary:
            temporary.write_text("half")
            _forever(say, temporary.name)

    killed, alive = child(write), child(write)
    left, at_work = killed.line(), alive.line()
    killed.send(signal.SIGKILL)
    killed.wait()
    old, kept = tmp_path / ".other.part-00000000-1-0123abcd.json", tmp_path / ".poses.json.swp"
    old.write_text("of another machine")
    kept.write_text("no file of ours")
    assert names(tmp_path) == {"poses.json", left, at_work, old.name, kept.name}

    def next_start(say):
        write_json(file, 2)

    assert child(next_start).wait()[0] == 0
    assert names(tmp_path) == {"poses.json", at_work, old.name, kept.name}  # somebody is writing that one, or may be
    os.utime(old, (0, 0))
    assert child(next_start).wait()[0] == 0
    assert names(tmp_path) == {"poses.json", at_work, kept.name}


def test_what_a_kill_leaves_of_a_folder_is_removed_too(tmp_path, child, names):
    def write(say):
        with atomic_folder(tmp_path / ".index", replace=True) as temporary:
            (temporary / "column.bin").write_text("half")
            _forever(say, temporary.name)

    killed, alive = child(write), child(write)
    left, at_work = killed.line(), alive.line()
    killed.send(signal.SIGKILL)
    killed.wait()
    assert names(tmp_path) == {f"{left}/column.bin", f"{at_work}/column.bin"}

    def next_start(say):
        for text in ("old", "new"):
            with atomic_folder(tmp_path / ".index", replace=True) as temporary:
                (temporary / "column.bin").write_text(text)

    assert child(next_start).wait()[0] == 0
    assert names(tmp_path) == {".index/column.bin", f"{at_work}/column.bin"}  # somebody is writing that one
    assert (tmp_path / ".index" / "column.bin").read_text() == "new"


def test_a_folder_is_whole_or_not_there(tmp_path, names):
    def write(folder, error=None):
        with atomic_folder(folder) as temporary:
            (temporary / "ours").write_text("")
            if error is not None:
                raise error

    with pytest.raises(ValueError, match="no"):
        write(tmp_path / "a", ValueError("no"))
    assert names(tmp_path) == set()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "theirs").write_text("kept")
    with pytest.raises(OSError, match="a"):
        write(tmp_path / "a")
    assert names(tmp_path) == {"a/theirs"}


def test_what_cannot_be_saved_is_a_warning_where_it_was_to_be_said():
    with (
        pytest.warns(UserWarning, match="the page could not be saved: .*; name another place"),
        or_warned("the page"),
        atomic_write("/dev/null/page.html") as temporary,
    ):
        temporary.write_text("")


# -------------------------------------------------------------------------------------------------- two processes at once


def _predict(out, count, wait):
    """What `monopose predict` does, without a network."""

    def work(say):
        def one(name, frame):
            say(name)
            time.sleep(wait)
            with atomic_write(out / f"{name}.png") as temporary:
                temporary.write_text("overlay")
            return {"image": name}, ()

        def save(rows):
            write_json(out / "poses.json", rows)
            return {}

        pictures = ((str(i), lambda: None) for i in range(count))
        command.predict_pictures(pictures, one, save, str, command.OutputOptions(out=out), say)

    return work


def test_two_predictions_into_one_folder(tmp_path, child, names):
    out = tmp_path / "new" / "out"
    first = child(_predict(out, 2, 600))
    assert first.line() == "0"
    status, text = child(_predict(out, 1, 0)).wait()
    assert status == 1
    assert f"{out} is in use: process {first.pid} on " in text
    assert "is writing predict there; wait for it, stop it, or choose another --out" in text
    assert child(_predict(tmp_path / "elsewhere", 1, 0)).wait()[0] == 0
    first.send(signal.SIGKILL)  # no stale lock
    first.wait()
    assert child(_predict(out, 3, 0)).wait()[0] == 0
    assert names(out) == {"0.png", "1.png", "2.png", "poses.json"}


def test_an_interrupted_prediction_keeps_what_it_has(tmp_path, child, names):
    first = child(_predict(tmp_path, 3, 1.0))
    assert (first.line(), first.line()) == ("0", "1")
    first.send(signal.SIGINT)
    assert first.wait()[0] == 0
    assert names(tmp_path) == {"0.png", "poses.json"}


def test_a_killed_prediction_loses_a_minute_at_most(tmp_path, child, monkeypatch):
    monkeypatch.setattr(command, "SAVED_EVERY_S", 0.0)
    first = child(_predict(tmp_path, 3, 0.1))
    first.line("2")
    first.send(signal.SIGKILL)
    first.wait()
    assert [row["image"] for row in command.json.loads((tmp_path / "poses.json").read_text())] == ["0", "1"]


def test_a_lock_goes_with_its_folder(tmp_path):
    with sole_writer(tmp_path / "a" / "b"), pytest.raises(OSError, match=f"is in use: process {os.getpid()} on"):
        sole_writer(tmp_path / "a" / "b").__enter__()
    assert list(tmp_path.iterdir()) == []
    with sole_writer(tmp_path / "run", "coordinates"), sole_writer(tmp_path / "run", "detector"):
        (tmp_path / "run" / "file").touch()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["file"]


# ------------------------------------------------------------------------------------------------------------- full disks

NOISE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)


def _torch(path):
    with atomic_write(path) as temporary:
        torch.save(torch.rand(30_000), temporary)


def _numpy(path):
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, rows=np.random.rand(30_000))


def _text(path):
    write_json(path, list(range(30_000)))


def _picture(path):
    with atomic_write(path) as temporary:
        Image.fromarray(NOISE).save(temporary, format="PNG")


def _rows(path):
    n = 3000
    ids, ones = np.zeros(n, np.int64), np.ones(n)
    results.write_results(path, results.Results(ids, ids, ids + 1, ones, np.tile(np.eye(3), (n, 1, 1)), np.ones((n, 3)), ones))


def _video(path):
    video = tracking.Video(path)
    for _ in range(40):
        video.add(NOISE)
    video.close()


WRITERS = {"a.ckpt": _torch, "a.npz": _numpy, "a.json": _text, "a.png": _picture, "m_d-test.csv": _rows, "a.mp4": _video}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_by_every_writer(tmp_path, child, name):
    path, write = tmp_path / name, WRITERS[name]
    status, text = child(lambda say: write(path), most_bytes=20_000).wait()
    assert status == 1
    assert text.startswith("OSError: ")
    assert f"while writing {path}; nothing was written" in text.replace("[Errno 28] ", "")
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    status, text = child(lambda say: write(path), most_bytes=20_000).wait()
    assert "the disk is full" in text
    assert "the old file is unchanged" in text
    assert (status, path.read_text(), len(list(tmp_path.iterdir()))) == (1, "old", 1)
    assert child(lambda say: write(path)).wait() == (0, "")
    assert path.stat().st_size > 20_000


def test_a_full_disk_leaves_a_data_set_whole(tmp_path, child, names):
    folder, camera = tmp_path / "train" / "000000", Camera(torch.tensor([[100.0, 0, 64], [0, 100, 48], [0, 0, 1]]), (96, 128))
    dark, loud = torch.zeros(3, 96, 128), torch.from_numpy(NOISE).movedim(-1, 0) / 255
    writing.append_frames(folder, [Frame(dark, camera)])
    before = {n: (folder / n).read_bytes() for n in names(folder)}
    append = lambda say: writing.append_frames(folder, [Frame(dark, camera), Frame(loud, camera)])  # noqa: E731
    status, text = child(append, most_bytes=20_000).wait()
    assert (status, "the disk is full" in text) == (1, True)
    assert {n: (folder / n).read_bytes() for n in before} == before
    assert names(folder) - set(before) == {"rgb/000001.png"}  # which no JSON names; the next call writes it again
    assert writing.count_images(folder) == 1
    assert child(append).wait()[0] == 0
    assert writing.count_images(folder) == 3


def test_a_full_disk_does_not_end_a_cache_by_a_bus_error(tmp_path, child):
    def fill(say):
        cache = Cache(tmp_path / "rows", [("x", np.float32, (1000,))], 10, "of noise")
        for i in range(10):
            cache.row(i, lambda i=i: {"x": np.full(1000, i, np.float32)})

    assert child(fill).wait()[0] == 0
    file = tmp_path / "rows"
    os.truncate(file, 8)  # as if nothing had been made; past the limit writing fails, and mapped memory would be a crash
    os.truncate(file, 8 + 10 * 4001)
    status, text = child(fill, most_bytes=20_000).wait()
    assert status == 1
    assert "File too large" in text or "did not take sample 4" in text
    kept = Cache(file, [("x", np.float32, (1000,))], 10, "of noise").rows
    assert kept["there"].tolist() == [True] * 4 + [False] * 6
    assert (kept["x"][3] == 3).all()


# ------------------------------------------------------------------------------------------------------ no way around it


def _writes(node: ast.Call) -> bool:
    """Whether a call writes a file."""
    called = ast.unparse(node.func)
    if called in ("open", "os.open") or called.endswith(".open"):
        return any(
            isinstance(a, ast.Constant) and isinstance(a.value, str) and set(a.value) & set("wax+") for a in node.args[-1:]
        )
    if called.endswith((".write_text", ".write_bytes", ".savez", ".savez_compressed", "np.save", ".savefig", ".VideoWriter")):
        return True
    if called in ("os.replace", "os.rename", "shutil.copy", "shutil.copyfile", "shutil.move", "torch.save", "cv2.imwrite"):
        return True
    return called.endswith((".save", ".export")) and called.split(".")[0] not in (
        "self",
        "weights",
        "job",
        "found",
        "import_module('",
    )


def _around(path: Path) -> list[str]:
    """Calls that write a file outside of `with atomic_write(...)` or `with atomic_folder(...)`."""
    text = path.read_text(encoding="utf-8")
    if not re.search(r"open\(|write_|save|export\(|os\.re|shutil|VideoWriter", text):
        return []
    tree = ast.parse(text)
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any(re.search(r"atomic_(write|folder)\(", ast.unparse(item)) for item in node.items):
            inside |= set(ast.walk(node))
    calls = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and n not in inside and _writes(n))
    said = (f"{path.relative_to(SOURCE)}:{node.lineno} {ast.unparse(node)}" for node in calls)
    allowed = ("self.partial", "buffer, format", "atomic_write(")  # of an open video; memory; opened through the door
    return [call for call in said if not any(part in call for part in allowed)]


def test_every_writer_goes_through_the_door():
    files = [p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).as_posix() not in AROUND]
    assert [call for path in files for call in _around(path)] == []
    for name in AROUND:
        assert _around(SOURCE / name), f"{name} needs no exception"


def test_a_lock_that_is_a_link_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.monopose.lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError, match=r"\.monopose\.lock should be a file that monopose makes; it is a link"):
        sole_writer(tmp_path / "run").__enter__()
    assert (tmp_path / "mine.txt").read_text() == "precious"
