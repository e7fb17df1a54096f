"""Functions that numba compiles when they are first called: kept on disk, and a word to whoever waits meanwhile."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

WHAT = {  # package -> what is compiled there, and about how long that takes one core
    "monopose.pnp": "PnP kernels, about a minute",
    "monopose.contour": "contour kernels, about ten seconds",
    "monopose.render": "the rasteriser, a few seconds",
    "monopose.synthesis": "the renderer of training pictures, about ten seconds",
    "monopose.nets": "a kernel of the networks, a few seconds",
}
EVERY_S = 15.0  # between two lines about the same package
_waiting: list[Callable[[str], None]] = []  # whom to tell


def tell(say: Callable[[str], None]) -> None:
    """From now on call `say` with a line when kernels of a package begin to be compiled, and how far that is every 15 seconds.
    What is on disk is not compiled."""
    _waiting[:] = [say]


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: compile a function, without the GIL; keep the result on disk where there is a place for it, else in memory,
    and say so once. Options are those of `numba.njit`.

    There is no second entry for callers in C: nobody calls it, and it has to be compiled.
    """
    import numba

    _listen()
    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, **options}

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba: "cannot cache function: no locator available"
            _say_once()
            return numba.njit(**options)(function)

    return decorate


@cache
def _say_once() -> None:
    warnings.warn(
        "monopose cannot keep its compiled kernels, neither beside the package nor in a home folder; every new process "
        "compiles them again, which takes up to a minute. Set NUMBA_CACHE_DIR to a folder that can be written to.",
        stacklevel=2,
    )


@cache
def _listen() -> None:
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, begun: Any) -> None:
            package = _package(begun)
            if package is not None and package not in progress and _waiting:
                now = time.monotonic()
                progress[package] = Progress(now, now)
                _waiting[0](f"compiling {WHAT[package]}, once for this machine")

        def on_end(self, done: Any) -> None:
            now, mine = time.monotonic(), progress.get(_package(done) or "")
            if mine is None or not _waiting:
                return
            mine.functions += 1
            if now - mine.said > EVERY_S:
                mine.said = now
                what = WHAT[_package(done) or ""].split(",")[0]
                _waiting[0](f"still compiling {what}: {mine.functions} done in {now - mine.began:.0f} s")

    progress: dict[str, Progress] = {}
    event.register("numba:compile", Listener())


@dataclass
class Progress:
    """Since when a package is compiled, when somebody was told of it, and how many functions are done."""

    began: float
    said: float
    functions: int = 0


def _package(happened: Any) -> str | None:
    module = getattr(happened.data["dispatcher"], "py_func", kernel).__module__
    return next((name for name in WHAT if module.startswith(name)), None)
