"""Which tasks of which job arrays have to be submitted, and what they wait for: the calls of sbatch, before any is made.

Where every point has one task of an array, or none, a task's index is the place of its point, the same in all such arrays: so a
task can wait for its counterpart alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slurm.jobs import Job
from slurm.submission import OVERVIEW, Task

ORDER = ["corpus", "plan", "train", "facts", "stage", "eval", "report"]  # kinds of arrays; others come behind them
ACTIVE = ("queued", "running")

State = tuple[str, str]  # of a job: done, running, queued, failed or missing; and SLURM's id of its task, as 12_3


@dataclass(frozen=True)
class Wait:
    """A dependency of SLURM's: on a call of sbatch or one of its tasks, or on a task that was submitted before."""

    kind: str  # aftercorr: task by task, on success; afterok: on success of all; afterany: on the end of all
    call: int | None = None  # its place among the calls; None for a task of before
    index: int | None = None  # of the call's task; None for all of them
    task: str = ""  # of before, as 12_3


@dataclass(frozen=True)
class Call:
    """One call of sbatch: tasks of one array that wait for the same."""

    array: str
    indices: list[int]
    waits: list[Wait]


class Arrays:
    """The arrays of a run or of the points of a sweep, and the state of their tasks.

    `corpora` has the index of the point whose task tokenizes each point's corpus; those that share it have none of their own.
    """

    def __init__(
        self,
        points: Sequence[str],
        jobs: Sequence[Sequence[Job]],
        states: Mapping[tuple[str, str], State],
        corpora: Sequence[int],
    ):
        self.points, self.jobs, self.states, self.corpora = points, jobs, states, corpora
        names = dict.fromkeys(job.array for own in jobs for job in own if job.array)
        self.names = sorted(names, key=lambda name: _rank(name.partition("-")[0]))
        self.aligned: set[str] = set()  # arrays whose tasks have the index of their point
        self.owners: dict[str, list[int]] = {}  # by array, the point of each of its tasks, by its index
        self.tasks: dict[str, list[Task]] = {}
        for name in self.names:
            own = [
                [] if name == "corpus" and corpora[index] != index else _chains(jobs[index], name) for index in range(len(points))
            ]
            if all(len(chains) <= 1 for chains in own):
                self.aligned.add(name)
                own = [chains or [[]] for chains in own]  # a task without jobs is never submitted
            self.owners[name] = [index for index, chains in enumerate(own) for _ in chains]
            self.tasks[name] = [Task(points[index], chain) for index, chains in enumerate(own) for chain in chains]

    def active(self) -> list[tuple[str, str]]:
        """Jobs, by point and name, that are queued or running."""
        return [key for key, (state, _) in self.states.items() if state in ACTIVE]

    def left_out(self) -> dict[int, str]:
        """Points, by index, of which a task would have to wait for a job that runs outside SLURM, which none can: and that job."""
        found: dict[int, str] = {}
        for index, (point, own) in enumerate(zip(self.points, self.jobs, strict=True)):
            arrays = {job.name: job.array for job in own}
            waiting = [job for job in own if self.states[point, job.name][0] not in ("done", *ACTIVE)]
            for need in (need for job in waiting for need in job.needs):
                shared = arrays[need] == "corpus"
                state = self._state("corpus", self.corpora[index]) if shared else self.states[point, need]
                if state[0] in ACTIVE and not state[1]:
                    found.setdefault(index, need)
        return found

    def calls(self) -> list[Call]:
        """The calls that submit all tasks that are neither done nor active, in an order in which they can be made.

        Nothing is submitted of points that are left out. The last call is that of a sweep's overview, where it is not up to date,
        or will not be.
        """
        calls: list[Call] = []
        left_out = self.left_out()
        for array in self.names:
            groups: dict[tuple[Wait, ...], list[int]] = {}
            for index, task in enumerate(self.tasks[array]):
                wanted = any(owner not in left_out for owner in self._sharing(array, index))
                if task.jobs and wanted and self._state(array, index)[0] == "missing":
                    groups.setdefault(tuple(self._waits(array, index, calls)), []).append(index)
            calls += [Call(array, indices, list(waits)) for waits, indices in groups.items()]
        if self._wants_overview(calls, left_out):
            reports = [self._after("report", index, calls, "afterany") for index in range(len(self.tasks["report"]))]
            calls.append(Call(OVERVIEW, [0], list(dict.fromkeys(wait for wait in reports if wait))))
        return calls

    def _wants_overview(self, calls: Sequence[Call], left_out: Mapping[int, str]) -> bool:
        """Whether the overview of a sweep is to be made: after reports of these calls, or where it is missing and all reports are
        done or in SLURM.
        """
        if ("", OVERVIEW) not in self.states:
            return False
        if any(call.array == "report" for call in calls):
            return True
        outside = ("running", "") in [self.states[point, "report"] for point in self.points]
        return self.states["", OVERVIEW][0] not in ("done", *ACTIVE) and not left_out and not outside

    def _sharing(self, array: str, index: int) -> list[int]:
        """The points that a task is for: those that share a corpus, or one."""
        owner = self.owners[array][index]
        return [other for other, shared in enumerate(self.corpora) if shared == owner] if array == "corpus" else [owner]

    def _state(self, array: str, index: int) -> State:
        """done, missing, or queued or running with SLURM's id. A corpus is there, or under way, for all points that share it."""
        jobs = self.tasks[array][index].jobs
        found = [self.states[self.points[owner], job] for owner in self._sharing(array, index) for job in jobs]
        if array == "corpus" and any(state == "done" for state, _ in found):
            return "done", ""
        active = [state for state in found if state[0] in ACTIVE]
        return active[0] if active else ("done" if all(state == "done" for state, _ in found) else "missing", "")

    def _waits(self, array: str, index: int, calls: Sequence[Call]) -> list[Wait]:
        """What a task waits for: the tasks of other arrays that do what its jobs need, where that is not done."""
        owner, names = self.owners[array][index], self.tasks[array][index].jobs
        own = {job.name: job for job in self.jobs[owner]}
        needed = [need for name in names for need in own[name].needs if own[need].array not in ("", array)]
        waits: dict[Wait, None] = {}
        for need in needed:
            other = own[need].array
            place = self.corpora[owner] if other == "corpus" else owner
            task = next(
                number for number, task in enumerate(self.tasks[other]) if self.owners[other][number] == place and need in task.jobs
            )
            kind = "aftercorr" if {array, other} <= self.aligned else "afterok"
            if other == "corpus":  # whose task may have the index of another point
                # of several corpora a call has to wait for all: none that fails may hold up the points of the others
                kind = "afterok" if len(set(self.corpora)) == 1 else "afterany"
            if wait := self._after(other, task, calls, kind):
                waits[wait] = None
        return _whole(list(waits), calls)

    def _after(self, array: str, index: int, calls: Sequence[Call], kind: str) -> Wait | None:
        """A dependency on a task, or None where it is done."""
        for number, call in enumerate(calls):
            if call.array == array and index in call.indices:
                return Wait(kind, number, index if kind == "afterok" else None)
        state, task = self._state(array, index)
        if state not in ACTIVE or not task:  # an overview does not wait for reports outside SLURM
            return None
        return Wait("afterany" if kind == "afterany" else "afterok", task=task)  # of another array: no index of this one's


def _whole(waits: list[Wait], calls: Sequence[Call]) -> list[Wait]:
    """The dependencies, with one on a whole call in place of those on each of its tasks."""
    kept: dict[Wait, None] = {}
    for wait in waits:
        own = [other.index for other in waits if other.call == wait.call]
        whole = wait.call is not None and wait.index is not None and own == calls[wait.call].indices
        kept[Wait(wait.kind, wait.call) if whole else wait] = None
    return list(kept)


def _chains(jobs: Sequence[Job], array: str) -> list[list[str]]:
    """The jobs of an array, in order; those that need each other, one after another, are one task."""
    chains: list[list[str]] = []
    for job in jobs:
        if job.array != array:
            continue
        chain = next((chain for chain in chains if set(chain) & set(job.needs)), None)
        if chain is None:
            chains.append([job.name])
        else:
            chain.append(job.name)
    return chains


def _rank(kind: str) -> int:
    """Where a kind of arrays stands in ORDER."""
    return ORDER.index(kind) if kind in ORDER else len(ORDER)
