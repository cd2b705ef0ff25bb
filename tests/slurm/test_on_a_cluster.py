"""A sweep on a real cluster, by the real scripts, with things going wrong: a preemption, a lost node, a point that fails.

One test, as its trainings are what takes long. `python -m tests.cluster` is the same in large.
"""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from configs.layout import RunLayout, read_json
from imprint import main
from tests.cluster.slurm import Truth, slurm
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

    def submission(self) -> dict[str, Any]:
        """The record of the newest."""
        found: dict[str, Any] = read_json(max(self.home.glob("slurm/*/submission.json")))
        return found

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
            time.sleep(0.3)
            self.look()

    def states(self, point: str, *jobs: str) -> list[str]:
        return [self.rows[point, job]["state"] for job in jobs]

    def trains_beyond(self, step: int) -> bool:
        row = self.rows[LONG, TRAIN]
        assert row["state"] in ("queued", "running"), row
        return row["state"] == "running" and (row["step"] or 0) > step

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


def lose_the_node(sweep: Sweep) -> str:
    """Set the node of the training down until the training has left it; why that can't be done, or nothing."""
    node = slurm("squeue", "-h", "-j", sweep.rows[LONG, TRAIN]["slurm"], "-o", "%B").strip()
    on_it = slurm("squeue", "-h", "-w", node, "-o", "%k").splitlines()
    if not all(comment.startswith(str(sweep.home)) for comment in on_it):
        return f"others have jobs on the node {node}"
    down = subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], capture_output=True, text=True)
    if down.returncode:
        return down.stderr.strip()
    try:
        sweep.until(lambda: sweep.states(LONG, TRAIN) != ["running"])
    finally:
        # refused where SLURM takes a node that answers back by itself
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False, capture_output=True)
    return ""


@pytest.mark.usefixtures("cluster")
def test_a_sweep_outlives_a_preemption_a_lost_node_and_a_point_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():  # which the jobs are given, too
        monkeypatch.setenv(name, value)
    sweep, here = Sweep(Runs(tmp_path / "cluster", RECIPE)), Runs(tmp_path / "here", RECIPE)
    in_the_way = RunLayout(sweep.home / BLOCKED).model("perturbed").checkpoint(0).parent
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("no checkpoint can be written")

    with sweep.cancelled_in_the_end():
        unbroken = here.train("unbroken", f"train.steps={STEPS}", processes=2)
        sweep.imprint("submit")
        sweep.look()
        assert sweep.states(LONG, TRAIN, *LATER) == ["queued"] * 4
        assert sweep.rows[LONG, TRAIN]["why"] == "waits for plan"
        arrays = sweep.submission()["arrays"]
        assert [(array["name"], array["submitted"]) for array in arrays] == [
            ("corpus", [0]),
            *((name, [0, 1]) for name in ("plan", TRAIN, EVAL, "report")),
            ("overview", [0]),
        ]

        # a preemption
        sweep.until(lambda: sweep.trains_beyond(20))
        signalled = sweep.rows[LONG, TRAIN]
        slurm("scancel", "-s", "USR1", signalled["slurm"])
        sweep.until(lambda: sweep.states(LONG, TRAIN) != ["running"])
        queued = sweep.rows[LONG, TRAIN]
        assert signalled["step"] <= queued["step"] < STEPS
        assert queued["why"].startswith(f"goes on from step {queued['step']:,} of {STEPS:,}; waits in the queue")
        assert queued["slurm"] == signalled["slurm"]

        # a lost node
        sweep.until(lambda: sweep.trains_beyond(queued["step"] + 20))
        why_not = lose_the_node(sweep)
        log = Path(sweep.rows[LONG, TRAIN]["log"]).read_text()
        assert f"from step {queued['step']:,}" in log
        sweep.until(lambda: not sweep.in_queue())
        log = Path(arrays_folder(sweep) / "logs" / f"{TRAIN}-{queued['slurm']}.out").read_text()
        assert log.count(f"job {queued['slurm']} start ") == (2 if why_not else 3)

        # a point that failed, beside one that is done
        assert set(sweep.states(LONG, "corpus", "plan", TRAIN, *LATER)) == {"done"}
        assert sweep.states(BLOCKED, "corpus", "plan", TRAIN, *LATER) == ["done", "done", "failed", *["missing"] * 3]
        failed = sweep.rows[BLOCKED, TRAIN]
        log = Path(failed["log"]).read_text()
        assert all(word in log for word in failed["words"])
        assert str(in_the_way) in "\n".join(failed["words"])
        assert all(f"waits for {TRAIN}, which failed" in sweep.rows[BLOCKED, job]["why"] for job in LATER)
        assert (sweep.home / "overview/index.html").exists()

        # by hand, and cancelled
        in_the_way.unlink()
        by_hand = slurm("sbatch", "--parsable", "--array=1", str(arrays_folder(sweep) / f"{TRAIN}.sbatch")).strip()
        sweep.until(lambda: sweep.states(BLOCKED, TRAIN) == ["running"])
        assert sweep.rows[BLOCKED, TRAIN]["slurm"] == f"{by_hand}_1"
        slurm("scancel", f"{by_hand}_1")
        sweep.until(lambda: not sweep.in_queue())
        assert (sweep.rows[BLOCKED, TRAIN]["state"], sweep.rows[BLOCKED, TRAIN]["why"]) == ("failed", "CANCELLED")

        # what is missing, and nothing else
        sweep.imprint("submit", "--missing")
        arrays = sweep.submission()["arrays"]
        assert [(array["name"], array["submitted"]) for array in arrays] == [
            *((name, [1]) for name in (TRAIN, EVAL, "report")),
            ("overview", [0]),
        ]
        sweep.until(lambda: not sweep.in_queue())
        assert {row["state"] for row in sweep.rows.values()} == {"done"}
        assert "Nothing was submitted" in sweep.imprint("submit", "--missing")
        assert sweep.submission()["arrays"] == arrays
        assert unbroken.wait() == [0, 0], unbroken.told()

    again = ["queued", "running"]
    assert sweep.seen[LONG, TRAIN] == [*again, *again, *([] if why_not else again), "done"]
    assert sweep.seen[BLOCKED, TRAIN] == [*again, "failed", *again, "failed", *again, "done"]
    assert sweep.contradictions == []
    assert sweep.compared > 10
    for point in (LONG, BLOCKED):
        assert read_json(RunLayout(sweep.home / point).model("perturbed").certificate)["verdict"] == "certified"
    assert faults(sweep.home / LONG, here.root("unbroken")) == []
    if why_not:
        pytest.skip(f"all of it held, but no node could be set down: {why_not}")


def arrays_folder(sweep: Sweep) -> Path:
    return max(sweep.home.glob("slurm/*/submission.json")).parent
