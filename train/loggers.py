"""Loggers beside metrics.jsonl: TensorBoard, through Lightning Fabric, and Weights & Biases."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from configs.errors import ImprintError, RecipeError
from configs.layout import atomic_file, fingerprint

LOGGERS = ["tensorboard", "wandb"]  # each is called as its package


class Logger(Protocol):
    """Where numbers are drawn. `since` is the first step whose numbers it does not hold yet."""

    since: int

    def write(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self, failed: bool) -> None: ...


def check_loggers(names: list[str]) -> None:
    """RecipeError for a logger whose package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(f"train.loggers holds {name}, which is not installed; run: pip install 'imprint-testbed[loggers]'")


def open_loggers(names: list[str], folder: Path, step: int, described: dict[str, Any]) -> list[Logger]:
    """The loggers of a model in `folder` that goes on at `step`; `described` is what Weights & Biases keeps about the run."""
    check_loggers(names)
    made: dict[str, type[TensorBoard] | type[WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}
    return [made[name](folder / name, step, described) for name in names]


class TensorBoard:
    """Event files in `folder`. What earlier ones say of `step` and later is not shown any more."""

    def __init__(self, folder: Path, step: int, described: dict[str, Any]):
        from lightning.fabric.loggers import TensorBoardLogger

        resumed = any(folder.glob("events.*"))
        self.since = step if resumed else 0
        self._logger = TensorBoardLogger(folder.parent, name="", version=folder.name, purge_step=step if resumed else None)

    def write(self, numbers: dict[str, float], step: int) -> None:
        self._logger.log_metrics(numbers, step)
        self._logger.save()  # what is not on disk when the process is killed would be missing for good

    def close(self, failed: bool) -> None:
        self._logger.finalize("failed" if failed else "success")


class WandB:
    """A run of Weights & Biases, its files in `folder`, which goes on in the same run when training is resumed.

    Where and whether it is sent is told by its own settings: wandb login, WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY.
    Numbers go by training step. Of steps that are repeated after a resume, which come out the same, it keeps what it has; offline,
    each process leaves a part of its own.
    """

    def __init__(self, folder: Path, step: int, described: dict[str, Any]):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        named = folder / "run-id"
        self.since = step if named.exists() else 0
        if not named.exists():
            with atomic_file(named) as temporary:  # the moment: a model that is trained anew elsewhere is another run
                temporary.write_text(fingerprint([described, time.time_ns()])[:16])
        quiet = wandb.Settings(console="off", quiet=True)
        run, model = folder.parent.parent.name, folder.parent.name
        try:
            self._run = wandb.init(
                id=named.read_text(),
                name=f"{run}/{model}",
                dir=str(folder.parent),  # wandb makes the folder wandb in it
                config=described,
                resume="allow",
                reinit="create_new",
                settings=quiet,
            )
        except wandb.errors.Error as error:
            why = str(error).strip().splitlines()[0].rstrip(".")
            raise ImprintError(
                f"train.loggers holds wandb, which can't start: {why}; WANDB_MODE=offline keeps everything in {folder}"
            ) from error
        if not self._run.offline:
            self.since = self._run.step

    def write(self, numbers: dict[str, float], step: int) -> None:
        if step >= self.since:
            self._run.log(numbers, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
