"""The ends of logs, however long these are."""

from __future__ import annotations

import os
import re
from pathlib import Path

TAIL_BYTES = 2**16  # of a log in which its last words are
WORDS = 8  # lines
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f]")
# A bar (loading:  40%|####   | 2/5), or a line of our own: "  perturbed: 1,200 of 3,600 steps, loss 4.100, 0:12 left".
PROGRESS = re.compile(r"\d+%\||^  \S.*: [\d,]+( of [\d,]+)? \w+, ")


def last_words(log: Path, lines: int = WORDS) -> list[str]:
    """The last lines that say something: no empty ones, no colours, and no progress unless there is nothing else."""
    try:
        text = _tail(log)
    except OSError:  # taken away just now
        return []
    # What a terminal would show in the end: of a line that was written again and again, the last.
    shown = [ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip() for line in text.split("\n")]
    whole = [line for line in shown if line]
    return ([line for line in whole if not PROGRESS.search(line)] or whole)[-lines:]


def last_line(path: Path) -> str:
    """The last whole line of a file, "" where there is none; OSError where it can't be read."""
    whole = _tail(path).rpartition("\n")[0]
    return whole.rpartition("\n")[2]


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        return file.read().decode(errors="replace")
