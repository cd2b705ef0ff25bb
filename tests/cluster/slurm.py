"""What tests ask SLURM itself: which cluster there is, and what it and the files say of a sweep."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.layout import RunLayout


@dataclass(frozen=True)
class Cluster:
    """The cluster that `sinfo` reaches."""

    nodes: list[str]  # names
    gpus: int  # of a node, the least

    @staticmethod
    def reached() -> Cluster | None:
        try:
            told = subprocess.run(
                ["sinfo", "-h", "-N", "-o", "%N %G"], capture_output=True, text=True, timeout=10, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        gpus = dict(line.split(maxsplit=1) for line in told.splitlines())
        counts = [sum(int(count) for count in re.findall(r"gpu:(?:[^:,()]+:)?(\d+)", told)) for told in gpus.values()]
        return Cluster(sorted(gpus), min(counts))


@dataclass(frozen=True)
class Truth:
    """SLURM's word for each task that has not ended, by its name as 12_0, and the jobs, by point and name, that left a record."""

    queue: dict[str, str]
    done: frozenset[tuple[str, str]]

    @staticmethod
    def of(home: Path) -> Truth:
        """The truth of the sweep in a folder."""
        queue = dict(line.split() for line in slurm("squeue", "-h", "-r", "-o", "%F_%K %T").splitlines())
        done = [(path.parts[-3], path.stem) for path in home.glob("*/jobs/*.json")]
        # a corpus is made once for all points that share it
        shared = [(path.name, "corpus") for path in home.iterdir() if any(job == "corpus" for _, job in done)]
        page, reports = RunLayout(home).overview, home.glob("*/jobs/report.json")
        newest = max((path.stat().st_mtime for path in reports), default=0.0)
        overview = [("", "overview")] if page.exists() and page.stat().st_mtime >= newest else []
        return Truth(queue, frozenset([*done, *shared, *overview]))

    def contradictions(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Where rows of `imprint status --json` say something else; nowhere if it tells the truth."""
        found = []
        for row in rows:
            key, state, slurms = (row["point"], row["job"]), row["state"], self.queue.get(row["slurm"])
            if (state == "done") != (key in self.done):
                found.append(f"{key} is told to be {state}, but it has {'a' if key in self.done else 'no'} record")
            if state == "running" and slurms not in ("RUNNING", "COMPLETING"):
                found.append(f"{key} is told to run as {row['slurm']}, of which SLURM says {slurms}")
            if state == "queued" and slurms is None:
                found.append(f"{key} is told to wait as {row['slurm']}, which SLURM does not know")
            if state in ("failed", "missing") and slurms in ("RUNNING", "PENDING"):
                found.append(f"{key} is told to be {state}, but SLURM says that {row['slurm']} is {slurms}")
        return found


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def lost(node: str) -> Iterator[None]:
    """A node that goes down, and takes no jobs again before the block ends. CalledProcessError for who may not do that.

    Drained first: SLURM takes a node that is down and answers back at once, and would start the job again where its processes have
    not ended yet, which it then sees as an error, drains the node and holds the job.
    """
    try:
        for state in ("drain", "down"):
            slurm("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")
        yield
    finally:
        # refused where the node is as it should be already
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False, capture_output=True)
