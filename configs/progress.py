"""How long work shows itself: a live bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

# Between two lines where there is no terminal: a tenth of the time so far, so that a log stays short however long the work takes.
PLAIN_SECONDS = 15
LONGEST_SECONDS = 600


class Meter:
    """Counts the units of one piece of work, `total` if known; `done` of them before this process began."""

    def __init__(self, label: str, unit: str, total: int | None, done: int, bar: Progress | None, shown: bool = True):
        self.label, self.unit, self.total, self.done, self.bar, self.shown = label, unit, total, done, bar, shown
        self._start = self._printed = time.monotonic()
        self._first = done
        self._warm: tuple[float, int] | None = None  # when the first units were done, and how many there were then
        self._note = ""
        self._task: TaskID | None = None
        if bar is not None:
            self._task = bar.add_task(label, total=total, completed=done, rate="", left="")

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units as done; `note` says how it goes, in place of the rate, until there is another."""
        self.done += count
        self._note = self._note if note is None else note
        now = time.monotonic()
        if self._warm is None:
            self._warm = now, self.done
        if self.bar is not None and self._task is not None:
            self.bar.update(self._task, completed=self.done, rate=self._note or self._rate(), left=self._left())
        elif now - self._printed > min(LONGEST_SECONDS, max(PLAIN_SECONDS, (now - self._start) / 10)):
            self._printed = now
            left = self._left()
            self._print(", ".join([self._note or self._rate(), *([f"{left} left"] if left else [])]))

    def finish(self) -> None:
        if self.bar is None and self.done > self._first:
            seconds = time.monotonic() - self._start
            took = f"{seconds:.0f} s" if seconds < 60 else _clock(seconds)
            self._print(f"{self._note or self._rate(whole=True)}, in {took}")

    def _per_second(self, whole: bool = False) -> float:
        """Units a second of this process; without the first ones, which take longer, unless of the `whole` time."""
        now = time.monotonic()
        since, before = self._start, self._first
        if not whole and self._warm is not None and self.done > self._warm[1]:
            since, before = self._warm
        return (self.done - before) / max(now - since, 1e-6)

    def _rate(self, whole: bool = False) -> str:
        rate = self._per_second(whole)
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"

    def _left(self) -> str:
        """Remaining time at the rate of this process, where the total is known."""
        rate = self._per_second()
        return _clock((self.total - self.done) / rate) if self.total and self.done < self.total and rate > 0 else ""

    def _print(self, how: str) -> None:
        if self.shown:
            of = f" of {self.total:,}" if self.total else ""
            print(f"  {self.label}: {self.done:,}{of} {self.unit}, {how}", flush=True)


def _clock(seconds: float) -> str:
    """12:34, or 1:23:45 from an hour on, or 2 d 3 h from two days on."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


@contextmanager
def progress(label: str, unit: str, total: int | None = None, done: int = 0, shown: bool = True) -> Iterator[Meter]:
    """Show the progress of the block: rate or note, and remaining time where the total is known; nothing unless `shown`."""
    if not shown or not sys.stdout.isatty():
        meter = Meter(label, unit, total, done, None, shown)
        yield meter
        meter.finish()
        return
    columns = [
        TextColumn("  {task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="cyan"),
        TextColumn("[dim]{task.fields[rate]}"),
    ]
    with Progress(*columns, console=Console()) as bar:
        yield Meter(label, unit, total, done, bar)
