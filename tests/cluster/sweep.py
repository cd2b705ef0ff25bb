"""A sweep of the quickstart on a cluster: submitted, watched, disturbed, and finished."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.layout import RunLayout, read_json
from configs.tables import read_table
from tests.cluster.slurm import Truth, lost, slurm

REPOSITORY = Path(__file__).parents[2]
NAME = "siege"
POINTS = [f"seed-{seed}_learning_rate-{rate}" for seed in (1, 2) for rate in ("0.004", "0.002")]
PREEMPTED, LOST, FAILING = POINTS[0], POINTS[1], POINTS[3]
ROOM_STEPS = 1500  # that the quickstart's copies need at least
FEWER_COPIES = ("design.copies=[0,1,2,4,8,16]", "design.arms.early.copies=8")
LONGEST_SECONDS = 3600
State = dict[tuple[str, str], str]  # by point and job


@dataclass
class Sweep:
    """The sweep in a folder of runs."""

    runs: Path
    cache: Path
    steps: int
    settings: tuple[str, ...] = ()
    faults: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    compared: int = 0

    def run(self, point: str) -> RunLayout:
        return RunLayout(self.runs / NAME / point)

    def run_here(self) -> None:
        print(self.imprint("run").stdout[-3000:])

    def imprint(self, command: str, *options: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
        arguments = [
            *("configs/quickstart.yaml", f"name={NAME}", f"runs={self.runs}", f"cache={self.cache}", f"train.steps={self.steps}"),
            *("sweep.seed=[1,2]", "sweep.train.learning_rate=[4e-3,2e-3]", f"train.checkpoints.every={max(self.steps // 4, 1)}"),
            *(f"train.checkpoints.resume_every={max(self.steps // 20, 1)}", "train.log_every=5", "slurm.parallel=2"),
            *(FEWER_COPIES if self.steps < ROOM_STEPS else ()),
            *self.settings,
        ]
        ended = subprocess.run(
            [sys.executable, REPOSITORY / "imprint.py", command, *arguments, *options],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )
        if ended.returncode != expected:
            self.fault(f"imprint {command} ended with {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
        return ended

    def fault(self, what: str) -> None:
        print(f"FAULT: {what}", flush=True)
        self.faults.append(what)

    def note(self, what: str) -> None:
        line = f"{time.strftime('%T')} {what}"
        print(line, flush=True)
        self.told.append(line)

    # ---------------------------------------------------------------------------------------- what goes wrong

    def besiege(self) -> None:
        """Submit; preempt one training, take the node of another down, and let one fail."""
        self.blocked.parent.mkdir(parents=True)
        self.blocked.write_text("in the way")  # no checkpoint can be written
        self.note("submitted:\n" + self.imprint("submit").stdout)
        self.preempt()
        self.lose_a_node()

    def finish(self) -> None:
        """See what failed and what did not; mend it, submit what is missing, and see that all is done."""
        self.until("all but the failing point is done", lambda state: not {"running", "queued"} & set(state.values()))
        state = self.state()
        for (point, job), found in state.items():
            expected = "done" if point != FAILING or job in ("corpus", "decontaminate", "plan") else None
            if found != expected and (expected or found not in ("failed", "missing")):
                self.fault(f"{point} {job} is {found} after the first submission")
        if state[FAILING, "train-perturbed"] != "failed":
            self.fault(f"the training that can't be written is {state[FAILING, 'train-perturbed']}")
        self.note(self.imprint("status").stdout)
        self.blocked.unlink()
        self.note("mended:\n" + self.imprint("submit", "--missing").stdout)
        self.until("all is done", lambda state: not {"running", "queued"} & set(state.values()))
        self.faults += [f"{point} {job} is {found} in the end" for (point, job), found in self.state().items() if found != "done"]
        self.note(self.imprint("status").stdout)

    @property
    def blocked(self) -> Path:
        return self.run(FAILING).model("perturbed").checkpoint(0).parent

    def preempt(self) -> None:
        task = self.training(PREEMPTED, after=0.2)
        slurm("scancel", "-s", "USR1", task)
        self.note(f"{PREEMPTED}: task {task} preempted")
        self.until("it waits", lambda state: state[PREEMPTED, "train-perturbed"] == "queued")

    def lose_a_node(self) -> None:
        task = self.training(LOST, after=0.1)
        node = slurm("squeue", "-h", "-j", task, "-o", "%B").strip()
        with lost(node):
            self.note(f"{LOST}: task {task} lost its node {node}")
            self.until("its training is queued again", lambda state: state[LOST, "train-perturbed"] == "queued")
            self.until("it goes on", lambda state: state[LOST, "train-perturbed"] != "queued")

    def training(self, point: str, after: float) -> str:
        """SLURM's id of the running training of a point, once it has made a part of its steps."""

        def made(_: State) -> bool:
            row = next(row for row in self.rows if (row["point"], row["job"]) == (point, "train-perturbed"))
            if row["state"] in ("done", "failed", "missing"):
                raise AssertionError(f"the training of {point} is {row['state']} already")
            return row["state"] == "running" and (row["step"] or 0) >= after * self.steps

        self.until(f"{point} trains", made)
        return next(row["slurm"] for row in self.rows if (row["point"], row["job"]) == (point, "train-perturbed"))

    # ---------------------------------------------------------------------------------------- what status says

    def until(self, what: str, holds: Callable[[State], bool]) -> None:
        start = time.monotonic()
        while not holds(self.state()):
            if time.monotonic() - start > LONGEST_SECONDS:
                raise AssertionError(f"{what}: not within {LONGEST_SECONDS} s; {self.state()}")
            time.sleep(1)

    def state(self) -> State:
        """What `imprint status --json` says, compared with SLURM and the files where these were the same before and after."""
        home = self.runs / NAME
        before = Truth.of(home)
        self.rows: list[dict[str, Any]] = json.loads(self.imprint("status", "--json").stdout)
        if before == Truth.of(home):
            self.compared += 1
            for contradiction in before.contradictions(self.rows):
                self.fault(contradiction)
        return {(row["point"], row["job"]): row["state"] for row in self.rows}


# ------------------------------------------------------------------------------------------------ what came of it


def compare(cluster: Sweep, here: Sweep) -> list[str]:
    """What differs between the two that should not: the streams, the certificates, and findings beyond their intervals."""
    faults = []
    for point in POINTS:
        theirs, ours = cluster.run(point), here.run(point)
        if _stream(theirs) != _stream(ours):
            faults.append(f"{point}: the streams differ")
        for run in (theirs, ours):
            if read_json(run.model("perturbed").certificate)["verdict"] != "certified":
                faults.append(f"{run.root} is not certified")
        findings = [
            {(row["name"], row["metric"], row["kind"], row["arm"]): row for row in read_json(run.report / "findings.json")}
            for run in (theirs, ours)
        ]
        if findings[0].keys() != findings[1].keys():
            faults.append(f"{point}: other findings")
        for key in findings[0].keys() & findings[1].keys():
            one, other = findings[0][key], findings[1][key]
            if not (_within(one, other) and _within(other, one)):
                faults.append(f"{point}: {key} is {one['value']} on the cluster and {other['value']} here")
    return faults


def _stream(run: RunLayout) -> list[Any]:
    """The digests of every row consumed, in order."""
    ledgers = [read_table(path).to_pylist() for path in run.model("perturbed").ledgers()]
    return [(row["step"], row["rows_sha256"]) for ledger in ledgers for row in ledger]


def _within(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a value lies in the other's interval, a bound that is null being none; or neither could be measured."""
    if one["value"] is None or other["value"] is None:
        return one["value"] is other["value"]
    low = float("-inf") if other["low"] is None else other["low"]
    high = float("inf") if other["high"] is None else other["high"]
    return bool(low <= one["value"] <= high)
