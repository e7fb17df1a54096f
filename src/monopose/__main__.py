"""`monopose`, and `python -m monopose`: the command line, which Ctrl-C ends in one line from its first moment on.

Importing takes seconds, in which libraries catch KeyboardInterrupt or die of it; so until there is something to save, Ctrl-C
ends the process at once.
"""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line; returns the exit code."""
    process = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker: its parent is interrupted as well, and ends it
            return
        files = sys.modules.get("monopose.io.files")
        if _imports(frame) and not (files and files.is_busy()):
            os.write(2, b"monopose: interrupted\n")
            os._exit(130)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup and & have it
        signal.signal(signal.SIGINT, interrupt)
    from .cli import main

    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done
    return code


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    raise SystemExit(main())
