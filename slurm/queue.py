"""What SLURM says of the tasks of submissions. They are found by the submission's folder, which every script has as its comment.

Not by their numbers alone: these start again with a fresh cluster, and a script that was submitted by hand has others.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from slurm.submission import Submission

SECONDS = 5  # in which SLURM has to answer
SEPARATOR = "\x1f"  # in no name or path that anyone gives
SQUEUE = SEPARATOR.join(["%F", "%K", "%A", "%T", "%r", "%V", "%N", "%j", "%k"])
SACCT = "JobID,JobIDRaw,State,Reason,Submit,NodeList,JobName,Comment"
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
HELD = re.compile(r"held|JobHold", re.IGNORECASE)  # in the reasons of tasks that wait until someone releases them
NEVER = "DependencyNeverSatisfied"  # the reason of a task that waits, or waited, for one that failed


@dataclass(frozen=True)
class Place:
    """Where a task belongs: the folder of its submission, its array and its index there."""

    folder: str
    array: str
    index: int


@dataclass(frozen=True)
class QueueTask:
    """A task as SLURM knows it."""

    place: Place
    array_job: str  # the number of the array
    job: str  # its own number, which its processes know as SLURM_JOB_ID
    state: str  # SLURM's word, as PENDING or NODE_FAIL
    reason: str  # why it waits, or how it ended; "" if there is none
    submitted: str  # or queued again, as 2026-11-22T22:35:01
    nodes: str

    @property
    def name(self) -> str:
        """The task's name in SLURM's commands and in the names of logs, as 1234_5."""
        return f"{self.array_job}_{self.place.index}"

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def held(self) -> bool:
        """Whether it waits until someone releases it, as JobHeldUser or "launch failed requeued held" say."""
        return self.waits and bool(HELD.search(self.reason))

    @property
    def runs(self) -> bool:
        return self.state in RUNNING

    @property
    def ended(self) -> bool:
        return not (self.waits or self.runs)


@dataclass(frozen=True)
class Queue:
    """SLURM's answer."""

    tasks: list[QueueTask]

    def at(self, place: Place) -> list[QueueTask]:
        """What is known of a place, the one submitted last at the end: it was, perhaps, submitted again."""
        return self._places.get(place, [])

    @cached_property
    def _places(self) -> dict[Place, list[QueueTask]]:
        found: dict[Place, list[QueueTask]] = {}
        for task in sorted(self.tasks, key=lambda task: (task.submitted, int(task.array_job))):
            found.setdefault(task.place, []).append(task)
        return found

    def runs(self, job: str) -> bool | None:
        """Whether a job runs, by its own number; None for one that is not of these submissions."""
        found = [task.runs for task in self.tasks if task.job == job]  # tasks of an array that wait share one
        return any(found) if found else None


def ask(submitted: Sequence[Submission]) -> Queue | None:
    """What SLURM says of all tasks of submissions, those that ended lately too; None where it is absent or does not answer."""
    arrays = ",".join(sorted({array.name for submission in submitted for array in submission.arrays}))
    lines = _run("squeue", "--all", "--noheader", "--array", "--states=all", f"--name={arrays}", f"--format={SQUEUE}")
    if lines is None:
        return None
    folders = {name: str(submission.folder) for submission in submitted for name in _names(submission)}
    return Queue([task for line in lines if (task := _queued(line, folders))])


def recall(submitted: Sequence[Submission]) -> Queue:
    """What SLURM's accounting says of the tasks of these submissions; nothing where it keeps no accounts."""
    arrays = {array.name for submission in submitted for array in submission.arrays}
    since = min((begun for submission in submitted if (begun := _begun(submission))), default=None)
    if not arrays or since is None:
        return Queue([])
    # A day before, as clocks and time zones differ between machines.
    begin = f"--starttime={since - timedelta(days=1):%Y-%m-%dT%H:%M:%S}"
    lines = _run("sacct", "--allusers", "--allocations", "--array", "--noheader", "--parsable2", f"--format={SACCT}", begin)
    found = [task for line in lines or [] if (task := _accounted(line, submitted))]
    return Queue([task for task in found if task.ended])


def _names(submission: Submission) -> set[str]:
    """The folder of a submission as a script may name it: as it was written, and without links."""
    return {str(submission.folder), str(submission.folder.resolve())}


def _run(*command: str) -> list[str] | None:
    """The lines that a command of SLURM prints; None where it is not there, fails or takes too long."""
    # a user's own choice of partitions, states or times, made for the eye, would hide tasks or make their times unreadable
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
    try:
        answer = subprocess.run(
            command,
            env={**plain, "SLURM_TIME_FORMAT": "standard"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.splitlines()


def _queued(line: str, folders: dict[str, str]) -> QueueTask | None:
    """A task from a line of squeue; None for one of others, or of no array."""
    parts = line.split(SEPARATOR)
    if len(parts) != SQUEUE.count(SEPARATOR) + 1 or not parts[1].isdecimal() or parts[-1] not in folders:
        return None
    array_job, index, job, state, reason, submitted, nodes, array, comment = parts
    place = Place(folders[comment], array, int(index))
    return QueueTask(place, array_job, job, state, "" if reason in ("None", "(null)") else reason, submitted, nodes)


def _accounted(line: str, submitted: Iterable[Submission]) -> QueueTask | None:
    """A task from a line of sacct. Many clusters keep no comments: then it is ours if number, name and time are."""
    parts = line.split("|", SACCT.count(","))
    array_job, _, index = parts[0].partition("_")
    if len(parts) != SACCT.count(",") + 1 or not index.isdecimal():
        return None
    _, job, state, reason, time, nodes, array, comment = parts
    nodes = "" if nodes == "None assigned" else nodes
    task = QueueTask(Place("", array, int(index)), array_job, job, state, "" if reason == "None" else reason, time, nodes)
    for submission in submitted:
        known = {str(each.job) for each in submission.arrays if each.name == array}
        begun = _begun(submission)
        if comment in _names(submission) or (not comment and array_job in known and begun and time >= begun.isoformat()):
            return replace(task, place=Place(str(submission.folder), array, int(index)))
    return None


def _begun(submission: Submission) -> datetime | None:
    """When a submission was made, by its folder's name; None for a folder that was called otherwise."""
    try:
        return datetime.strptime(submission.folder.name[:15], "%Y%m%d-%H%M%S")
    except ValueError:
        return None
