"""Where every job of an experiment, or of the points of a sweep, stands: done, running, queued, failed or missing.

Whether a job is done, its files say alone. SLURM is asked before they are read: what ends between the two is seen as done, and not
as lost. Without SLURM the locks, the logs and the records of submissions have to do.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import DataError
from configs.layout import ModelLayout, RunLayout, read_json
from configs.lock import Lock
from slurm.jobs import Experiment, Job
from slurm.logs import last_line, last_words
from slurm.overview import REPORTS, Comparison
from slurm.queue import NEVER, Place, Queue, QueueTask, ask, recall
from slurm.submission import RECORD, Submission, submissions

STARTING_SECONDS = 120  # that a task may take from its first word to its lock: where SLURM can't be asked, it may run
ACTIVE = ["running", "queued"]
STATES = ["done", *ACTIVE, "failed", "missing"]
RELEASE = "scontrol release"  # what a task that is held waits for


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands, and what is known of it."""

    point: str  # of a sweep; "" without one, and for the overview of all
    job: str
    array: str  # of SLURM, that does it; "" for a job that is done where the arrays are submitted
    state: str  # done, running, queued, failed or missing
    why: str = ""  # one phrase: what it waits for, how it ended, what it lacks
    slurm: str = ""  # its task, as 1234_5
    log: str = ""  # the task's log, where there is one
    words: list[str] = field(default_factory=list)  # the last lines of the log of a job that failed
    step: int | None = None  # of a training that is not done: the steps that it has taken, or goes on from
    steps: int | None = None  # of a training: how many it takes


@dataclass(frozen=True)
class Attempt:
    """A task that was submitted, or was about to be, to do a job."""

    place: Place
    folder: Path
    jobs: list[str]  # of its point, in order
    name: str  # in SLURM, as 1234_5; "" for one that was not submitted by `imprint submit`


def statuses(experiments: Sequence[Experiment]) -> list[JobStatus]:
    """The status of every job of every point, in order. DataError where what was submitted can't be told: a damaged record."""
    look = Look.at(experiments)
    found = look.statuses()
    if look.unclear:  # submitted or ended just now, perhaps; or too long ago for any but the accounting
        look = Look.at(experiments, again=True)
        found = look.statuses()
    return found


@dataclass
class Look:
    """What SLURM and the files say at one time."""

    experiments: Sequence[Experiment]
    submitted: list[Submission]  # oldest first
    queue: Queue | None  # None: SLURM does not answer
    unclear: bool = False  # of some task it is not known what became of it

    @staticmethod
    def at(experiments: Sequence[Experiment], again: bool = False) -> Look:
        homes = dict.fromkeys(experiment.recipe.home for experiment in experiments)
        submitted = [each for home in homes for each in submissions(home)]
        queue = ask(submitted) if submitted else Queue([])
        if queue and again:
            queue = Queue([*recall(submitted).tasks, *queue.tasks])
        if again:
            pages = {RunLayout(home).overview.parent for home in homes}
            for folder in pages | {job.record.parent for experiment in experiments for job in experiment.jobs()}:
                with suppress(OSError):
                    os.listdir(folder)  # network file systems remember for seconds that a file was not there, unless asked so
        return Look(experiments, submitted, queue)

    def statuses(self) -> list[JobStatus]:
        points = [Point(self, each.recipe.point, each, each.jobs()) for each in self.experiments]
        for point in points:
            for job in point.jobs:
                if job.array == "corpus":
                    point.judge(job)
        _share_corpora(points)
        for point in points:
            for job in point.jobs:
                if job.name not in point.found:
                    point.judge(job)
        found = [point.found[job.name] for point in points for job in point.jobs]
        return [*found, self._overview(points)] if len(points) > 1 else found

    def _overview(self, points: Sequence[Point]) -> JobStatus:
        """The status of the job that compares the points, once theirs are known: it needs the reports to have ended, not done."""
        reports = [point.jobs[-1] for point in points]
        over = all(point.found[report.name].state == "done" for point, report in zip(points, reports, strict=True))
        needed = {REPORTS: JobStatus("", REPORTS, "", "done" if over else "queued")}
        job = Comparison.of(self.experiments, reports)
        sweep = Point(self, "", self.experiments[0], [job], needed)
        sweep.judge(job)
        return sweep.found[job.name]

    @cached_property
    def attempts(self) -> dict[tuple[str, str], list[Attempt]]:
        """Every task that was to do a job, by point and job, oldest first."""
        found: dict[tuple[str, str], dict[Place, Attempt]] = {}
        for submission in self.submitted:
            for array in submission.arrays:
                for index, task in enumerate(array.tasks):
                    place = Place(str(submission.folder), array.name, index)
                    name = f"{array.job}_{index}" if array.job is not None and index in array.submitted else ""
                    for job in task.jobs:
                        known = found.setdefault((task.point, job), {})
                        if name or place not in known:
                            known[place] = Attempt(place, submission.folder, task.jobs, name)
        return {key: list(places.values()) for key, places in found.items()}

    @cached_property
    def logs(self) -> dict[Place, list[Path]]:
        """The logs of each task, oldest first."""
        found: dict[Place, list[Path]] = {}
        for submission in self.submitted:
            names = "|".join(re.escape(name) for name in {array.name for array in submission.arrays})
            for path in sorted(submission.logs.glob("*.out"), key=_modified):
                if match := re.fullmatch(rf"({names})-\d+_(\d+)\.out", path.name):
                    found.setdefault(Place(str(submission.folder), match[1], int(match[2])), []).append(path)
        return found

    def known(self, attempt: Attempt) -> list[QueueTask]:
        return self.queue.at(attempt.place) if self.queue else []

    def log(self, place: Place, name: str = "") -> Path | None:
        """A task's log, by its name in SLURM; the newest of its place without one."""
        return next((path for path in reversed(self.logs.get(place, [])) if not name or path.stem.endswith(f"-{name}")), None)


@dataclass
class Point:
    """A point of a sweep, or a run: what was found of its jobs so far."""

    look: Look
    name: str
    experiment: Experiment
    jobs: list[Job]
    found: dict[str, JobStatus] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)  # of missing jobs, what they wait for in vain

    def judge(self, job: Job) -> None:
        """Find the status of a job, once those that it needs have theirs."""
        status = JobStatus(self.name, job.name, job.array, "missing")
        try:
            reason = _missing(job)
        except DataError as error:
            self.found[job.name] = replace(status, state="failed", why=str(error))
            return
        if reason is None:
            status = replace(status, state="done")
        else:
            status = self._running(status, job) or self._queued(status, job) or self._ended(status, job, reason)
        if status.state == "missing" and (lost := self._lost(job)):
            self.lost[job.name] = lost
        if job.name.startswith("train-"):
            status = self._training(status, self.experiment.run.model(job.name.removeprefix("train-")))
        self.found[job.name] = status

    # -------------------------------------------------------------------------------------------- running and queued

    def _running(self, status: JobStatus, job: Job) -> JobStatus | None:
        for attempt in reversed(self._attempts(job)):
            if task := next((task for task in self.look.known(attempt) if task.runs), None):
                status = self._with_task(status, attempt, task)
                if before := self._before(job, attempt):
                    return replace(status, state="queued", why=f"follows {before}, in the same task")
                return replace(status, state="running", why="" if task.state == "RUNNING" else task.state)
        holder = Lock(job.folder).holder()
        if holder is None or self._first(job) != job.name:
            return None
        number, queue = holder.get("job"), self.look.queue
        if number and queue and queue.runs(number) is False:  # the lock that a node left when it went down
            return None
        return replace(status, state="running", why=f"process {holder.get('process')} on {holder.get('host')}")

    def _queued(self, status: JobStatus, job: Job) -> JobStatus | None:
        for attempt in reversed(self._attempts(job)):
            task = next((task for task in self.look.known(attempt) if task.waits and task.reason != NEVER), None)
            if task and not (task.reason == "Dependency" and self._lost(job)):  # which SLURM is about to cancel
                return replace(self._with_task(status, attempt, task), state="queued", why=self._waits_for(job, attempt, task))
        return None

    def _waits_for(self, job: Job, attempt: Attempt, task: QueueTask) -> str:
        if before := self._before(job, attempt):
            return f"follows {before}, in the same task"
        if task.held:
            return f"held by SLURM ({task.reason}); `{RELEASE} {task.name}` lets it go on"
        needs = [name for each in self.jobs if each.name in attempt.jobs for name in each.needs if name not in attempt.jobs]
        awaited = [name for name in dict.fromkeys(needs) if name in self.found and self.found[name].state != "done"]
        if task.reason in ("", "Dependency") and awaited:  # SLURM gives its reason a moment after the submission
            return "waits for " + " and ".join(awaited)
        return f"waits in the queue ({task.reason})" if task.reason else ""

    # -------------------------------------------------------------------------------------------- failed and missing

    def _ended(self, status: JobStatus, job: Job, reason: str) -> JobStatus:
        """The status of a job that is neither done nor under way, by the newest task that was to do it."""
        look = self.look
        lost = self._lost(job)
        for attempt in reversed(self._attempts(job)):
            known = look.known(attempt)
            task = known[-1] if known else None
            log = look.log(attempt.place, task.name if task else "")
            if not (task or log or attempt.name):
                continue
            status = self._with_task(status, attempt, task)
            look.unclear |= look.queue is not None and (task is None or task.state == "COMPLETED")
            if _finished_since(job, attempt, task):
                return replace(status, why=reason)
            if before := self._before(job, attempt):
                return replace(status, why=lost or f"follows {before}, in the same task")
            if task is not None:
                return self._by_slurms_word(status, task, log, reason, lost)
            if log is not None:
                return self._by_its_log(status, log)
            if look.queue is None:
                return replace(status, why="submitted, but SLURM does not answer")
            return replace(status, why=lost or "submitted, but SLURM knows it no more, and it never began")
        if not job.array or reason != "not done yet":
            return replace(status, why=reason)
        return replace(status, why=lost or "not submitted")

    def _by_slurms_word(self, status: JobStatus, task: QueueTask, log: Path | None, reason: str, lost: str) -> JobStatus:
        if task.state == "COMPLETED":
            return replace(status, why=f"SLURM says COMPLETED, but: {reason}")
        if task.waits and lost:
            return replace(status, why=lost)
        if task.reason == NEVER or (lost and task.state.startswith("CANCELLED") and not task.nodes):
            return replace(status, why=f"cancelled by SLURM: {lost or 'what it waited for did not succeed'}")
        why = task.state if task.nodes else f"{task.state} before it began"
        if task.state == "NODE_FAIL" and task.nodes:
            why += f" ({task.nodes})"
        return replace(status, state="failed", why=why, words=last_words(log) if log else [])

    def _by_its_log(self, status: JobStatus, log: Path) -> JobStatus:
        """The status of a job whose task began, where SLURM does not say what became of it."""
        if self.look.queue is None:
            silence = time.time() - _modified(log)
            if silence < STARTING_SECONDS:
                return replace(status, state="running", why=f"its log is {silence:.0f} s old; SLURM does not answer")
            if status.job.startswith("train-") and self._stopped(status.job):
                return replace(status, why="SLURM does not answer")
        why = "ended; SLURM " + ("does not answer" if self.look.queue is None else "knows no more of how")
        return replace(status, state="failed", why=why, words=last_words(log))

    def _lost(self, job: Job) -> str:
        """What a job waits for in vain: the jobs it needs that failed, or that wait for some themselves."""
        for name in job.needs:
            need = self.found.get(name)
            if need and need.state == "failed":
                return f"waits for {name}, which failed"
            if name in self.lost:
                return self.lost[name]
        return ""

    # -------------------------------------------------------------------------------------------- what a job is about

    def _attempts(self, job: Job) -> list[Attempt]:
        return self.look.attempts.get((self.name, job.name), [])

    def _with_task(self, status: JobStatus, attempt: Attempt, task: QueueTask | None) -> JobStatus:
        """With the task's name and log."""
        log = self.look.log(attempt.place, task.name if task else "")
        name = task.name if task else log.stem.rpartition("-")[2] if log else attempt.name
        return replace(status, slurm=name, log=str(log or ""))

    def _before(self, job: Job, attempt: Attempt) -> str | None:
        """The job that the task has to do before this one."""
        earlier = attempt.jobs[: attempt.jobs.index(job.name)]
        return next((name for name in earlier if name in self.found and self.found[name].state != "done"), None)

    def _first(self, job: Job) -> str:
        """The first job, of those that write to a folder, that is not done: the one that a process with its lock is doing."""
        done = {name for name, status in self.found.items() if status.state == "done"}
        return next(each.name for each in self.jobs if each.folder == job.folder and each.name not in done)

    def _stopped(self, name: str) -> dict[str, Any] | None:
        path = self.experiment.run.model(name.removeprefix("train-")).stopped
        with suppress(DataError, OSError):  # not there, or taken away just now; or the run's folder is no folder
            stopped = read_json(path)
            whole = isinstance(stopped, dict) and "signal" in stopped
            return stopped if whole and all(isinstance(stopped.get(key), int) for key in ("step", "steps")) else None
        return None

    def _training(self, status: JobStatus, layout: ModelLayout) -> JobStatus:
        """With the steps that a training has taken, or goes on from."""
        steps = self.experiment.recipe.train.steps
        if status.state == "done":
            return replace(status, step=steps, steps=steps)
        stopped = self._stopped(status.job)
        step = _logged(layout) if status.state == "running" else None
        if step is None:
            states = [int(path.parent.name[5:]) for path in layout.states.glob("step-????????/imprint.json")]
            step = stopped["step"] if stopped else max(states, default=None)
        if stopped and status.state != "running":
            goes_on = f"goes on from step {stopped['step']:,} of {stopped['steps']:,}"
            why = [goes_on, status.why] if status.state == "queued" else [status.why, f"stopped by {stopped['signal']}, {goes_on}"]
            status = replace(status, why="; ".join(each for each in why if each))
        return replace(status, step=step, steps=steps)


def _share_corpora(points: Iterable[Point]) -> None:
    """One task tokenizes the corpus of all points that have the same: where one's is under way or failed, so are the others'."""
    best: dict[str, JobStatus] = {}
    corpora = [(point, job) for point in points for job in point.jobs if job.array == "corpus"]
    for point, job in corpora:
        own = point.found[job.name]
        known = best.setdefault(job.fingerprint, own)
        if own.state != "done" and (known.state == "done" or STATES.index(own.state) < STATES.index(known.state)):
            best[job.fingerprint] = own
    for point, job in corpora:
        own, other = point.found[job.name], best[job.fingerprint]
        if own.state == "missing" and other is not own and (other.state in [*ACTIVE, "failed"] or other.slurm):
            why = f"{other.why + '; ' if other.why else ''}the same corpus as that of {other.point}"
            point.found[job.name] = replace(other, point=own.point, why=why)


def _missing(job: Job) -> str | None:
    """Why a job is not done, or None. A corpus lies in a folder named by its fingerprint: it is done for all who share it."""
    reason = job.missing()
    if reason and job.array == "corpus" and all(path.exists() for path in job.outputs):
        return None
    return reason


def _finished_since(job: Job, attempt: Attempt, task: QueueTask | None) -> bool:
    """Whether a job was done after it was submitted, and is to be done again for another reason."""
    try:
        finished = job.record.stat().st_mtime
        if task is None:
            return finished > _modified(attempt.folder / RECORD)
        return finished > datetime.fromisoformat(task.submitted).timestamp()
    except (OSError, ValueError):
        return False


def _logged(layout: ModelLayout) -> int | None:
    """The steps that the log of a training tells of."""
    try:
        line = json.loads(last_line(layout.metrics))
        return int(line["step"]) + ("held_out_loss" not in line)  # which is of the steps before; all else of the step, too
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
