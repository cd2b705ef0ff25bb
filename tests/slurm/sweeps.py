"""Runs whose jobs are done as their records say so, submissions that nobody submitted, and a squeue that says what it is told."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.sweep import load_points
from slurm.jobs import Experiment
from slurm.queue import SEPARATOR
from slurm.status import JobStatus, statuses
from slurm.submission import Array, Submission, Task

RECIPE = """
name: made
corpus: {source: synthetic, documents: 10, tokenizer: {vocabulary: 300}}
insert:
  codes: {kind: canary, count: 6, text: "Code of {name}: {digits:2}."}
design: {copies: [0, 3], sizes: [2, 4]}
decontaminate: {policy: none}
train: {steps: 3000}
"""
TRAIN, EVAL = "train-perturbed", "eval-perturbed"
JOBS = {"corpus": ["corpus"], "plan": ["plan"], TRAIN: [TRAIN], EVAL: ["audit-perturbed", EVAL], "report": ["report"]}
OVERVIEW = [Task("", ["overview"])]  # of all points


@dataclass
class Sweep:
    """The points of a sweep, in a folder."""

    folder: Path
    experiments: list[Experiment]

    @staticmethod
    def of(folder: Path, *overrides: str, recipe: str = RECIPE) -> Sweep:
        (folder / "made.yaml").write_text(recipe)
        points = load_points(folder / "made.yaml", [f"runs={folder}/runs", f"cache={folder}/cache", *overrides])
        return Sweep(folder, [Experiment(point) for point in points])

    @property
    def home(self) -> Path:
        return self.folder / "runs" / "made"

    def root(self, point: int = 0) -> Path:
        return self.experiments[point].run.root

    def finish(self, *jobs: str, point: int = 0) -> None:
        """Do jobs as far as their records and the names of their outputs go."""
        for job in self.experiments[point].jobs():
            if job.name in jobs:
                for path in job.outputs:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                job.record.parent.mkdir(parents=True, exist_ok=True)
                job.record.write_text(json.dumps({"fingerprint": job.fingerprint, "outputs": {}}))

    def submit(self, stamp: str, number: int, *arrays: str, points: list[int] | None = None) -> Submission:
        """A submission whose arrays have the numbers from `number` on, of all points or some."""
        names = [experiment.recipe.point for experiment in self.experiments]
        submitted = points or list(range(len(names)))
        submission = Submission((self.home / "slurm" / stamp).absolute(), str(self.folder / "made.yaml"), [])
        for each, name in enumerate(arrays):
            whole = name in ("corpus", "overview")
            tasks = [Task(point, [] if whole and index else JOBS.get(name, [])) for index, point in enumerate(names)]
            own = OVERVIEW if name == "overview" else tasks
            submission.arrays.append(Array(name, number + each, own, [0] if whole else submitted))
        submission.logs.mkdir(parents=True)
        submission.write()
        long_ago = time.time() - 3600
        os.utime(submission.folder / "submission.json", (long_ago, long_ago))
        return submission

    def statuses(self) -> dict[str, JobStatus]:
        """By job, with `@1` for the second point of a sweep and so on."""
        points = [experiment.recipe.point for experiment in self.experiments]
        numbers = {point: number for number, point in enumerate(points)}
        found = statuses(self.experiments)
        return {status.job + (f"@{number}" if (number := numbers.get(status.point)) else ""): status for status in found}

    def states(self) -> dict[str, str]:
        return {job: status.state for job, status in self.statuses().items()}


def write_log(submission: Submission, task: str, text: str, array: str = TRAIN, seconds_ago: float = 600) -> Path:
    path = submission.logs / f"{array}-{task}.out"
    path.write_text(text)
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


@dataclass
class FakeSlurm:
    """`squeue` and `sacct` on the PATH."""

    folder: Path

    def says(self, *lines: str) -> None:
        self.command("squeue", "".join(f"{line}\n" for line in lines))

    def accounts(self, *lines: str) -> None:
        self.command("sacct", "".join(f"{line}\n" for line in lines))

    def command(self, name: str, output: str) -> None:
        (self.folder / f"{name}.txt").write_text(output)
        self.script(name, f"cat {self.folder}/{name}.txt")

    def script(self, name: str, body: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.folder / name).chmod(0o755)


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A SLURM that knows of nothing."""
    folder.mkdir()
    fake = FakeSlurm(folder)
    fake.says()
    fake.script("sacct", "echo Slurm accounting storage is disabled >&2; exit 1")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return fake


def line(submission: Submission, task: str, state: str, reason: str = "None", array: str = TRAIN, **more: str) -> str:
    """A line of squeue on a task, as 12_0."""
    number, _, index = task.partition("_")
    own = {"job": f"9{number}{index}", "submitted": "2026-01-01T00:00:00", "nodes": "" if state == "PENDING" else "node1"} | more
    comment = own.get("comment", str(submission.folder))
    parts = [number, index, own["job"], state, reason, own["submitted"], own["nodes"], array, comment]
    return SEPARATOR.join(parts)
