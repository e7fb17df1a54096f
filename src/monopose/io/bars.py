"""How far long work has come: a bar on a terminal, elsewhere a line a minute. On standard error, so that results stay alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

EVERY_S = 60.0  # between two lines where there is no terminal
_T = TypeVar("_T")


def console(shown: bool = True) -> Console:
    """Standard error, for lines and bars."""
    from rich.console import Console

    return Console(stderr=True, quiet=not shown, highlight=False, soft_wrap=True)


class Bar:
    """Counts what is done; to be used in a `with`.

    Args:
        words: what is counted, such as "pictures".
        total: how many there are.
        done: how many of them were done earlier.
        shown: False says nothing at all.
    """

    def __init__(self, words: str, total: int, done: int = 0, shown: bool = True) -> None:
        from rich.progress import Progress

        self.words, self.total, self.done, self.earlier = words, total, done, done
        self.console = console(shown)
        self.progress = Progress(console=self.console, transient=True, disable=not (shown and self.console.is_terminal))
        self.task = self.progress.add_task(words, total=total, completed=done)
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, count: int = 1) -> None:
        self.done += count
        self.progress.advance(self.task, count)
        now = time.monotonic()
        if self.progress.disable and now - self.last > EVERY_S and self.done < self.total:
            self.last = now
            left = (now - self.began) * (self.total - self.done) / (60 * (self.done - self.earlier))
            self.console.print(f"{self.words}: {self.done} of {self.total}, about {max(left, 1):.0f} min left", markup=False)


def watched(items: Iterable[_T], words: str, total: int, shown: bool = True) -> Iterator[_T]:
    """The items, counted by a `Bar`."""
    with Bar(words, total, shown=shown) as bar:
        for item in items:
            yield item
            bar.advance()
