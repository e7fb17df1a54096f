"""Processes that are killed, interrupted, or find no room."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch

from monopose.io import files


class Child:
    """A copy of this process that does some work; `text` is what it said, in the end its error."""

    def __init__(self, work: Callable[[Callable[[str], None]], object], most_bytes: int | None) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        code = 1
        os.setpgid(0, 0)
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            files._looked_at.clear()  # as a process that has just started
            if most_bytes is not None:
                import resource

                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
            work(lambda line: os.write(write, f"{line}\n".encode()))
            code = 0
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def line(self, wanted: str | None = None) -> str:
        """The next line that it says, or the next that is as wanted."""
        while True:
            line = b""
            while not line.endswith(b"\n"):
                byte = os.read(self._read, 1)
                assert byte, f"the process has ended after {line!r}"
                line += byte
            if wanted in (None, line.decode().strip()):
                return line.decode().strip()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> tuple[int, str]:
        """Its exit status, negative for a signal, and the rest of what it said. Its workers may live on, as after a kill."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.set_blocking(self._read, False)
        text = b""
        with suppress(BlockingIOError):
            while piece := os.read(self._read, 1000):
                text += piece
        return status, text.decode().strip()

    def end(self) -> None:
        """End it with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self._read)


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """work(say) -> a `Child` that does it; `most_bytes`: no file may become larger there, which is how a full disk looks."""
    if sys.platform == "win32":
        pytest.skip("needs fork")
    children: list[Child] = []

    def start(work: Callable[..., object], most_bytes: int | None = None) -> Child:
        children.append(Child(work, most_bytes))
        return children[-1]

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a copy of a process has none of its threads
    yield start
    torch.set_num_threads(before)
    for one in children:
        one.end()


@pytest.fixture
def names() -> Callable[..., set[str]]:
    """All files below a folder, hidden ones too."""
    return lambda folder: {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
