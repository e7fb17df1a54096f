"""Rows kept in a file: made once, by one process, gone on with, and told from those of other things."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from monopose.training import cache
from monopose.training.cache import Cache, fingerprint

FIELDS = [("crop", np.uint8, (4, 4)), ("angle", np.float32)]
MADE_FROM = fingerprint("chairs", 4)


def row_of(i):
    return {"crop": np.full((4, 4), i, np.uint8), "angle": i / 8}


@pytest.mark.parametrize("kept_in", ["file", "memory"])
def test_rows_are_made_once(tmp_path, kept_in):
    path = tmp_path / "new folder" / "rows.bin" if kept_in == "file" else None
    rows = Cache(path, FIELDS, 5, MADE_FROM)
    assert len(rows) == 5
    assert not rows.rows["there"].any()
    for i in (3, 1):
        row = rows.row(i, lambda i=i: row_of(i))
        assert (row["crop"] == i).all()
        assert row["angle"] == i / 8
    assert rows.rows["there"].tolist() == [False, True, False, True, False]
    assert (rows.row(3, lambda: pytest.fail("made again"))["crop"] == 3).all()
    again = pickle.loads(pickle.dumps(rows)) if path is None else Cache(path, FIELDS, 5, MADE_FROM)
    np.testing.assert_array_equal(again.rows, rows.rows)


def test_what_was_not_finished_is_made_again(tmp_path):
    rows = Cache(tmp_path / "rows.bin", FIELDS, 5, MADE_FROM)

    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows.row(2, killed)
    assert (Cache(tmp_path / "rows.bin", FIELDS, 5, MADE_FROM).row(2, lambda: row_of(2))["crop"] == 2).all()


@pytest.mark.parametrize(
    ("fields", "count", "parts"), [(FIELDS, 6, ("chairs", 4)), (FIELDS[:1], 5, ("chairs", 4)), (FIELDS, 5, ("beds", 4))]
)
def test_rows_of_other_things_are_refused(tmp_path, fields, count, parts):
    Cache(tmp_path / "rows.bin", FIELDS, 5, MADE_FROM)
    with pytest.raises(ValueError, match="delete it to make them anew"):
        Cache(tmp_path / "rows.bin", fields, count, fingerprint(*parts))


def test_two_processes_do_not_make_the_same_row(tmp_path):
    """One process is inside a row while another asks for it; the second finds what the first made."""
    code = (
        "import sys, numpy as np; from monopose.training.cache import Cache, fingerprint\n"
        "rows = Cache(sys.argv[1], [('n', np.int64)], 2, fingerprint('x'))\n"
        "def make():\n    print('inside', flush=True); sys.stdin.readline(); return {'n': 7}\n"
        "rows.row(0, make)\n"
    )
    path = tmp_path / "rows.bin"
    one = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert one.stdout.readline() == "inside\n"
    two = subprocess.Popen(
        [sys.executable, "-c", code.replace("'n': 7", "'n': 8"), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    one.communicate("\n")
    assert two.communicate("\n")[0] == ""  # it never was inside
    rows = Cache(path, [("n", np.int64)], 2, fingerprint("x"))
    assert rows.rows["n"].tolist() == [7, 0]


def test_a_full_disk_is_seen_before(tmp_path, monkeypatch):
    usage = cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"0\.0 GB free, 5000 samples need"):
        Cache(tmp_path / "rows.bin", FIELDS, 5000, MADE_FROM)


def test_fingerprints_tell_parts_apart():
    assert fingerprint("a", 1) == fingerprint("a", 1)
    assert len({fingerprint("a", 1), fingerprint("a", 2), fingerprint(b"a", 1), fingerprint("a")}) == 4
