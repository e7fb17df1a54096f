"""What a training says about itself: a bar, a line every few minutes, a verdict in the end; and the file that keeps the lines.

`RUN/progress.jsonl` holds one JSON object per line: `method`, `step`, `crops` (samples learned from), `minutes` of training,
`crops_per_second`, `loss` (mean since the line before), and what was measured on held-out samples, as far as the method has it:
`of` (how many), `right` or `found` (shares), `mm` and `deg` (medians), `before` (the share right of a refiner's starts),
`false` (false boxes a picture) and `error` (from 0 to 1, less is better, and less noisy than the shares).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..io.bars import console
from ..io.files import atomic_write

FILE = "progress.jsonl"
LEAST_GAIN = 0.03  # of the error, from the middle of a training to its end, below which it does not improve
ENOUGH = 0.95  # share right from which more training buys little
Line = Mapping[str, Any]


def read(out: str | Path, method: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run folder, of one method or of all. A line that was cut off by a kill is left out."""
    path, lines = Path(out) / FILE, []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and method in (None, line.get("method")):
            lines.append(line)
    return lines


def append(out: str | Path, line: Line) -> None:
    """Add a line."""
    with open(Path(out) / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def forget_after(out: str | Path, method: str, step: int) -> None:
    """Take away the lines of a method beyond the step from which its training goes on: they will come again."""
    lines = read(out)
    kept = [line for line in lines if line.get("method") != method or line.get("step", 0) <= step]
    if kept != lines or (Path(out) / FILE).is_file():  # a line that was cut off goes as well
        with atomic_write(Path(out) / FILE) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- judging


def improving(lines: Sequence[Line]) -> bool | None:
    """Whether a method got better between the middle and the end of its lines; None: too few of them to say.

    By the error on held-out samples, which are the same every time; by the training loss where nothing else is known.
    """
    key = "error" if lines and "error" in lines[-1] else "loss"
    values = [float(line[key]) for line in lines if math.isfinite(line.get(key, math.nan))]
    if len(values) < 4:
        return None
    middle = values[len(values) // 2 - 1 : len(values) // 2 + 1]
    end = values[-2:]
    return sum(end) < sum(middle) - LEAST_GAIN * abs(sum(middle))


def share_text(share: float, of: int = 100) -> str:
    """7 of 10; of all that were looked at, 100 at most, where tenths would say all or nothing."""
    base = 10 if 0.05 <= share < 0.95 else max(min(of, 100), 1)
    return f"{round(base * share)} of {base}"


def _short(value: float, digits: int) -> str:
    """So many digits, and zeros where it is longer: 120, not 1.2e+02."""
    return f"{float(f'{value:.{digits}g}'):.9g}"


def figures_text(line: Line) -> str:
    """What was measured, in words."""
    parts, of = [], line.get("of") or 100
    if "right" in line:
        before = f" (before: {share_text(line['before'], of)})" if "before" in line else ""
        parts.append(f"right in {share_text(line['right'], of)} held-out renderings{before}")
    if line.get("mm") is not None:
        parts.append(f"{_short(line['mm'], 3)} mm and {_short(line['deg'], 2)} degrees in the median")
    if "found" in line:
        parts.append(f"finds {share_text(line['found'], of)} objects in held-out renderings")
    if "false" in line:
        parts.append(f"{line['false']:.2g} false boxes a picture")
    return ", ".join(parts) if parts else f"loss {line['loss']:.4g}" if "loss" in line else "no loss was finite"


def line_text(lines: Sequence[Line], minutes_left: float | None) -> str:
    """The last of a method's lines for people."""
    line = lines[-1]
    trend = {True: ", improving", False: ", no longer improving", None: ""}[improving(lines)]
    left = f"; {duration(minutes_left)} left" if minutes_left else ""
    pace = f"{line['crops']:,} crops, {line['crops_per_second']:.3g}/s"
    return f"{line['method']} after {duration(line['minutes'])} ({pace}): {figures_text(line)}{trend}{left}"


def result(file: Path) -> dict[str, str]:
    """What a command that trained the weights in a file says in the end."""
    return {"weights": str(file), "verdict": verdict(read(file.parent, file.stem))}


def verdict(lines: Sequence[Line]) -> str:
    """One sentence about a method's training: how good it is, and whether more is worth it."""
    return f"{figures_text(lines[-1])}; {outlook(lines)}" if lines else "nothing was measured"


def outlook(lines: Sequence[Line]) -> str:
    """What more training would buy, judged by the lines of one method."""
    last, better = lines[-1], improving(lines)
    if max(last.get("right", 0.0), last.get("found", 0.0)) >= ENOUGH:
        return "more training buys little"
    if better is None:
        return "too short to say what more training would buy"
    if not better:
        return "no longer improving: more training alone buys little"
    return f"still improving: another {duration(max(last['minutes'], 1.0)).removeprefix('1 ')} is worth it"


def duration(minutes: float) -> str:
    """Seconds below a minute and a half, minutes below an hour and a half, then hours."""
    if minutes < 1.5:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} minutes" if minutes < 55 or 65 < minutes < 90 else _hours(minutes / 60)


def _hours(hours: float) -> str:
    text = f"{hours:.1f}".removesuffix(".0")
    return f"{text} hour{'s' * (text != '1')}"


# ------------------------------------------------------------------------------------------------------------------- bar


def announce(words: str, shown: bool) -> None:
    """Say what comes next, on standard error."""
    console(shown).print(words, markup=False)


class Bar:
    """A bar on a terminal, and lines above it; without a terminal the lines alone. On standard error.

    Args:
        name: of what is going on.
        shown: False says nothing at all.
    """

    def __init__(self, name: str, shown: bool) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self.console = console(shown)
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[words]}")
        moving = shown and self.console.is_terminal
        self.progress = Progress(*columns, console=self.console, refresh_per_second=2, transient=True, disable=not moving)
        self.task = self.progress.add_task(name, total=1.0, words="")
        self.progress.start()

    def update(self, share: float, words: str) -> None:
        """Where it stands, in [0, 1], and what to say beside the bar."""
        self.progress.update(self.task, completed=share, words=words)

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def close(self) -> None:
        self.progress.stop()
