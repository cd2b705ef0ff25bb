"""How long work shows itself: a live bar in a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 15  # between two lines where there is no terminal


class Meter:
    """Counts the units of one piece of work, `total` if known."""

    def __init__(self, label: str, unit: str, total: int | None, done: int, bar: Progress | None):
        self.label, self.unit, self.total, self.done, self.bar = label, unit, total, done, bar
        self._start = self._printed = time.monotonic()
        self._first = done
        self._task: TaskID | None = None
        if bar is not None:
            self._task = bar.add_task(label, total=total, completed=done, rate="", note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` is a short word on how it goes."""
        self.done += count
        if self.bar is not None and self._task is not None:
            self.bar.update(self._task, completed=self.done, rate=self._rate(), note=note)
        elif time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            self._print(note)

    def finish(self) -> None:
        if self.bar is None and self.done > self._first:
            self._print(f"in {time.monotonic() - self._start:.0f} s")

    def _per_second(self) -> float:
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-6)

    def _rate(self) -> str:
        rate = self._per_second()
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"

    def _print(self, note: str) -> None:
        of = f" of {self.total:,}" if self.total else ""
        left = ""
        if self.total and self.done < self.total and self._per_second() > 0:
            seconds = int((self.total - self.done) / self._per_second())
            left = f", {seconds // 60}:{seconds % 60:02d} left"
        print(f"  {self.label}: {self.done:,}{of} {self.unit}, {self._rate()}{left}{', ' + note if note else ''}", flush=True)


@contextmanager
def progress(label: str, unit: str, total: int | None = None, done: int = 0) -> Iterator[Meter]:
    """Show the progress of the block: rate, and remaining time where the total is known."""
    if not sys.stdout.isatty():
        meter = Meter(label, unit, total, done, None)
        yield meter
        meter.finish()
        return
    columns = [
        TextColumn("  {task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    ]
    with Progress(*columns, console=Console()) as bar:
        yield Meter(label, unit, total, done, bar)
