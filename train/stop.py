"""Asked to end: SIGUSR1 (SLURM's warning before the time limit) and SIGTERM set a flag, and nothing else."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
STOPPED = 75  # exit status of a training that was stopped and goes on when it is run again: EX_TEMPFAIL of sysexits.h


def ignore() -> None:
    """Hear no more signals: what there was to save is saved, and a process that ends takes seconds in which another may come."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Stop:
    """Whether this process was asked to end, and by which signal. It listens in its `with` block, which may be nested."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: list[list[Any]] = []

    def __enter__(self) -> Stop:
        self._before.append([signal.signal(number, self._note) for number in SIGNALS])
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in zip(SIGNALS, self._before.pop(), strict=True):
            # None is a handler that was not set by Python, which Python cannot set again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.asked = self.asked or signal.Signals(number).name  # the first: SLURM follows a warning with SIGTERM
