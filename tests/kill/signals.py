"""A signal to a training's own process at a chosen point of its work, for `Runs.train(before=)`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from tests.kill.runs import GLOBAL_BATCH


@dataclass(frozen=True)
class InStep:
    """When the process of a rank reads the rows of a step."""

    step: int
    signal: signal.Signals = signal.SIGUSR1
    rank: int = 0

    def __call__(self, rank: int) -> None:
        if rank == self.rank:
            from inject.stream import Stream

            _before(Stream, "rows", self.signal, lambda stream, numbers: numbers[0] // GLOBAL_BATCH == self.step)


@dataclass(frozen=True)
class InSave:
    """When the process of rank 0 writes the state of a step."""

    step: int
    signal: signal.Signals = signal.SIGUSR1

    def __call__(self, rank: int) -> None:
        if rank == 0:
            from configs.layout import CheckpointInfo

            _before(CheckpointInfo, "write", self.signal, lambda info, folder: info.step == self.step and "state" in str(folder))


@dataclass(frozen=True)
class AtStart:
    """Before the model is made."""

    signal: signal.Signals = signal.SIGUSR1

    def __call__(self, rank: int) -> None:
        if rank == 0:
            import train.loop

            _before(train.loop, "new_model", self.signal, lambda trajectory: True)


def _before(owner: Any, name: str, number: signal.Signals, due: Callable[..., bool]) -> None:
    """Raise a signal before a function is called with the arguments that are due."""
    function = getattr(owner, name)

    @wraps(function)
    def signalled(*arguments: Any) -> Any:
        if due(*arguments):
            signal.raise_signal(number)
        return function(*arguments)

    setattr(owner, name, signalled)
