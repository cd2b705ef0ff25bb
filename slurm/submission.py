"""What was submitted to SLURM: a folder with scripts, logs and a record, in the folder of the run or of its sweep.

runs/<name>/slurm/20261122-223501/   train-perturbed.sbatch   logs/train-perturbed-1234_0.out   submission.json
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.layout import read_json, write_json

RECORD = "submission.json"
TRAINING = ["train", "stage"]  # kinds of arrays whose tasks train a model
OVERVIEW = "overview"  # the array, and its one job, that compares the points of a sweep


@dataclass(frozen=True)
class Task:
    """One task of an array: jobs of one point of a sweep, in order."""

    point: str
    jobs: list[str]


@dataclass
class Array:
    """One call of sbatch. Calls of one script have the same name and tasks, and `submitted` tells which of these they started."""

    name: str
    job: int | None  # SLURM's number; None while it is not submitted
    tasks: list[Task]  # a task's index in SLURM is its place here
    submitted: list[int]


@dataclass
class Submission:
    """What one call of `imprint submit` did."""

    folder: Path
    recipe: str  # its file
    arguments: list[str]  # the overrides
    arrays: list[Array] = field(default_factory=list)

    @staticmethod
    def new(home: Path, recipe: str, arguments: list[str]) -> Submission:
        """A submission of now, in a folder that is not there yet and not made here."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = (stamp if number == 1 else f"{stamp}-{number}" for number in range(1, 1000))
        folder = next(home / "slurm" / name for name in names if not (home / "slurm" / name).exists())
        return Submission(folder.absolute(), recipe, arguments)

    @staticmethod
    def read(folder: Path) -> Submission:
        """DataError where its record is missing or damaged."""
        path = folder / RECORD
        record = read_json(path)
        try:
            arrays = [_array(array) for array in record["arrays"]]
            return Submission(folder.absolute(), record["recipe"], list(record["arguments"]), arrays)
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged: {error!r}; remove its folder to forget what was submitted") from error

    def write(self) -> None:
        """Write the record, whole or not at all."""
        arrays = [asdict(array) for array in self.arrays]
        write_json(self.folder / RECORD, {"recipe": self.recipe, "arguments": self.arguments, "arrays": arrays})

    def script(self, array: str) -> Path:
        return self.folder / f"{array}.sbatch"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"


def submissions(home: Path) -> list[Submission]:
    """The submissions of a run or a sweep, by its folder, oldest first; empty where there are none."""
    return [Submission.read(path.parent) for path in sorted(home.glob(f"slurm/*/{RECORD}"), key=_age)]


def _age(record: Path) -> tuple[str, int]:
    """The time in a submission's name, and its number among those of the same second."""
    date, _, rest = record.parent.name.partition("-")
    second, _, number = rest.partition("-")
    return f"{date}-{second}", int(number) if number.isdecimal() else 1


def _array(record: Mapping[str, Any]) -> Array:
    tasks = [Task(task["point"], list(task["jobs"])) for task in record["tasks"]]
    return Array(record["name"], record["job"], tasks, list(record["submitted"]))
