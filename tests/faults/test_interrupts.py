"""Ctrl-C ends the command line with code 130 and one line, from its first moment on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monopose import __main__

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("module", ["monopose.io.files", "tyro", "numpy", "torch"])
def test_interrupted_while_importing(tmp_path, module):
    """-X importtime says what has just been imported."""
    words = ["check", str(Path(__file__).parents[2] / "src/monopose/assets"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "monopose", *words], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("import time:") and line.split("|")[-1].strip().startswith(module):
            os.killpg(process.pid, signal.SIGINT)
            break
    out, rest = process.communicate(timeout=60)
    said = [line for line in rest.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said, out) == (130, ["monopose: interrupted"], "")
    assert list(tmp_path.iterdir()) == []


def _main(monkeypatch, work):
    monkeypatch.setattr("monopose.cli._main", lambda argv: work())
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return __main__.main()
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupted_at_work(monkeypatch, capsys):
    assert _main(monkeypatch, lambda: signal.raise_signal(signal.SIGINT)) == 130
    assert capsys.readouterr().err == "monopose: interrupted\n"
    assert _main(monkeypatch, lambda: 130) == 130  # what has stopped by itself and saved its results
    assert capsys.readouterr().err == "monopose: interrupted\n"
    assert _main(monkeypatch, lambda: 1) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_workers_leave_the_interruption_to_their_parent(monkeypatch):
    def work():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGINT)
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert _main(monkeypatch, work) == 7
