"""A sweep on a real cluster, by the real scripts, with things going wrong: a preemption, a lost node, a point that fails.

One test, as its trainings are what takes long. `python -m tests.cluster` is the same in large.
"""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from configs.layout import RunLayout, read_json
from imprint import main
from tests.cluster.slurm import Cluster, Truth, lost, slurm
from tests.kill.runs import LAUNCHED, Runs, faults

STEPS, FEWER_STEPS = 1200, 60
LONG, BLOCKED = f"steps-{STEPS}", f"steps-{FEWER_STEPS}"
TRAIN, AUDIT, EVAL = "train-perturbed", "audit-perturbed", "eval-perturbed"
LATER = [AUDIT, EVAL, "report"]
RECIPE = """
corpus: {source: synthetic, documents: 400, tokenizer: {vocabulary: 320}}
insert:
  codes: {kind: canary, count: 6, text: "Code of {name}: {digits:2}."}
design: {copies: [0, 3], sizes: [2, 4]}
model: {layers: 1, width: 32, heads: 2, dropout: 0.1}
train:
  {global_batch: 4, sequence_length: 64, warmup: 2, strategy: zero_1, log_every: 10,
   checkpoints: {every: 600, resume_every: 50, exposures: false}, threads: 1, precision: fp32}
eval: {resamples: 100}
slurm: {tasks: 2, time: "30:00"}
"""
LONGEST_SECONDS = 900  # that any state may take to come


@dataclass
class Sweep:
    """The sweep, and what `imprint status` has said of it."""

    runs: Runs
    rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    seen: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # the states of each job, one after another
    contradictions: list[str] = field(default_factory=list)
    compared: int = 0

    @property
    def home(self) -> Path:
        return self.runs.root("sweep")

    def imprint(self, command: str, *options: str) -> str:
        """What a command that ends well prints."""
        sweep = f"sweep.train.steps=[{STEPS},{FEWER_STEPS}]"
        with redirect_stdout(io.StringIO()) as told:
            assert main([*self.runs.arguments(command, "sweep", sweep), *options]) == 0
        return told.getvalue()

    @property
    def submission(self) -> Path:
        """The folder of the newest."""
        return max(self.home.glob("slurm/*"))

    def submitted(self) -> list[tuple[str, list[int]]]:
        """The arrays of the newest submission, and the indices of those of their tasks that were submitted."""
        return [(array["name"], array["submitted"]) for array in read_json(self.submission / "submission.json")["arrays"]]

    def look(self) -> None:
        """Ask for the status, and compare it with SLURM and the files if these were the same before and after."""
        before = Truth.of(self.home)
        rows = json.loads(self.imprint("status", "--json"))
        if before == Truth.of(self.home):
            self.compared += 1
            self.contradictions += before.contradictions(rows)
        self.rows = {(row["point"], row["job"]): row for row in rows}
        for key, row in self.rows.items():
            states = self.seen.setdefault(key, [])
            if states[-1:] != [row["state"]]:
                states.append(row["state"])

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        self.look()
        while not holds():
            assert time.monotonic() < end, f"not within {LONGEST_SECONDS} s: {self.rows}"
            time.sleep(0.5)
            self.look()

    def until_over(self) -> None:
        self.until(lambda: not self.in_queue())
        self.look()  # what was seen before its last task left the queue is old

    def states(self, point: str, *jobs: str) -> list[str]:
        return [self.rows[point, job]["state"] for job in jobs]

    def trains_beyond(self, step: int) -> bool:
        row = self.rows[LONG, TRAIN]
        assert row["state"] in ("queued", "running"), row
        return row["state"] == "running" and (row["step"] or 0) > step

    def node(self) -> str:
        """The node of the long training; n/a while it waits for one."""
        return slurm("squeue", "-h", "-j", self.rows[LONG, TRAIN]["slurm"], "-o", "%B").strip()

    def in_queue(self) -> list[str]:
        """Its tasks that have not ended."""
        lines = (line.partition(" ") for line in slurm("squeue", "-h", "-r", "-o", "%F_%K %k").splitlines())
        return [task for task, _, comment in lines if comment.startswith(str(self.home))]

    @contextmanager
    def cancelled_in_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            if left := self.in_queue():
                slurm("scancel", *left)


# ------------------------------------------------------------------------------------------------ what happens


def preempt(sweep: Sweep) -> int:
    """Warn the long training, as SLURM does before a preemption; the step from which it will go on, once it is queued."""
    sweep.until(lambda: sweep.trains_beyond(20))
    before = sweep.rows[LONG, TRAIN]
    slurm("scancel", "-s", "USR1", before["slurm"])
    sweep.until(lambda: sweep.states(LONG, TRAIN) != ["running"])
    queued = sweep.rows[LONG, TRAIN]
    assert before["step"] <= queued["step"] < STEPS
    assert queued["why"].startswith(f"goes on from step {queued['step']:,} of {STEPS:,}; waits in the queue")
    assert queued["slurm"] == before["slurm"]
    return int(queued["step"])


def lose_a_node(sweep: Sweep, cluster: Cluster, after: int) -> str:
    """Lose the node of the long training until it runs on another; why that can't be done, or nothing."""
    sweep.until(lambda: sweep.trains_beyond(after))
    node = sweep.node()
    comments = slurm("squeue", "-h", "-w", node, "-o", "%k").splitlines()
    if len(cluster.nodes) < 2:
        return "there is one node"
    if not all(comment.startswith(str(sweep.home)) for comment in comments):
        return f"others have jobs on {node}"
    with ExitStack() as stack:
        try:
            stack.enter_context(lost(node))
        except subprocess.CalledProcessError as error:
            return str(error.stderr).strip()
        sweep.until(lambda: sweep.states(LONG, TRAIN) == ["running"] and sweep.node() not in (node, "n/a"))
    return ""


def assert_one_point_failed(sweep: Sweep, reason: str) -> None:
    assert set(sweep.states(LONG, "corpus", "plan", TRAIN, *LATER)) == {"done"}
    assert sweep.states(BLOCKED, "corpus", "plan", TRAIN, *LATER) == ["done", "done", "failed", *["missing"] * 3]
    failed = sweep.rows[BLOCKED, TRAIN]
    log = Path(failed["log"]).read_text()
    assert all(line in log for line in failed["words"])
    assert reason in "\n".join(failed["words"])
    assert all(f"waits for {TRAIN}, which failed" in sweep.rows[BLOCKED, job]["why"] for job in LATER)
    assert (sweep.home / "overview/index.html").exists()


def submit_by_hand_and_cancel(sweep: Sweep) -> None:
    """Submit the script of the trainings again, for the point that failed."""
    number = slurm("sbatch", "--parsable", "--array=1", str(sweep.submission / f"{TRAIN}.sbatch")).strip()
    sweep.until(lambda: sweep.states(BLOCKED, TRAIN) == ["running"])
    assert sweep.rows[BLOCKED, TRAIN]["slurm"] == f"{number}_1"
    slurm("scancel", f"{number}_1")
    sweep.until_over()
    assert (sweep.rows[BLOCKED, TRAIN]["state"], sweep.rows[BLOCKED, TRAIN]["why"]) == ("failed", "CANCELLED")


def test_a_sweep_outlives_a_preemption_a_lost_node_and_a_point_that_fails(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LAUNCHED.items():  # which the jobs are given, too
        monkeypatch.setenv(name, value)
    sweep, here = Sweep(Runs(tmp_path / "cluster", RECIPE)), Runs(tmp_path / "here", RECIPE)
    in_the_way = RunLayout(sweep.home / BLOCKED).model("perturbed").checkpoint(0).parent
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("no checkpoint can be written")
    unbroken = here.train("unbroken", f"train.steps={STEPS}", processes=2)

    with sweep.cancelled_in_the_end():
        sweep.imprint("submit")
        sweep.until(lambda: sweep.rows[LONG, TRAIN]["why"] == "waits for plan")  # SLURM says so a moment later
        assert sweep.states(LONG, TRAIN, *LATER) == ["queued"] * 4
        both = [(name, [0, 1]) for name in ("plan", TRAIN, EVAL, "report")]
        assert sweep.submitted() == [("corpus", [0]), *both, ("overview", [0])]

        step, task = preempt(sweep), sweep.rows[LONG, TRAIN]["slurm"]
        why_not = lose_a_node(sweep, cluster, step + 20)
        sweep.until_over()
        log = (sweep.submission / "logs" / f"{TRAIN}-{task}.out").read_text()
        assert log.count(f"job {task} start ") == (2 if why_not else 3)
        assert f"from step {step:,}" in log
        assert_one_point_failed(sweep, str(in_the_way))

        in_the_way.unlink()
        submit_by_hand_and_cancel(sweep)
        sweep.imprint("submit", "--missing")
        newest = sweep.submission
        assert sweep.submitted() == [*((name, [1]) for name in (TRAIN, EVAL, "report")), ("overview", [0])]
        sweep.until_over()
        assert {row["state"] for row in sweep.rows.values()} == {"done"}
        assert "Nothing was submitted" in sweep.imprint("submit", "--missing")
        assert sweep.submission == newest

    starts = ["queued", "running"]
    assert sweep.seen[LONG, TRAIN] == starts * (2 if why_not else 3) + ["done"]
    # it may start as soon as it is queued
    assert [state for state in sweep.seen[BLOCKED, TRAIN] if state != "queued"] == ["running", "failed"] * 2 + ["running", "done"]
    assert sweep.compared > 10
    assert sweep.contradictions == []
    for point in (LONG, BLOCKED):
        assert read_json(RunLayout(sweep.home / point).model("perturbed").certificate)["verdict"] == "certified"
    assert unbroken.wait() == [0, 0], unbroken.told()
    assert faults(sweep.home / LONG, here.root("unbroken")) == []
    if why_not:
        pytest.skip(f"all of it held, but no node could be lost: {why_not}")
