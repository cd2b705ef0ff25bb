"""Trainings to be killed and started again, and what must be the same in the end as in a run that never was.

Importing what training needs takes many times as long as a small training. So one process imports it once, computes nothing, and
forks those that train: they run the command line as it is (`imprint.main`), alone or several as torchrun would start them.
`Runs.command` starts the real command.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.errors import DataError
from configs.layout import CheckpointInfo, ModelLayout
from train.world import World, free_port

REPOSITORY = Path(__file__).parents[2]
STEPS, GLOBAL_BATCH = 60, 4
RECIPE = f"""
name: killed
corpus: {{source: synthetic, documents: 100, tokenizer: {{vocabulary: 320}}}}
insert:
  codes: {{kind: canary, count: 6, text: "Code of {{name}}: {{digits:2}}."}}
design: {{copies: [0, 3], sizes: [2, 4]}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.1}}
train:
  {{steps: {STEPS}, global_batch: {GLOBAL_BATCH}, sequence_length: 64, warmup: 2,
   checkpoints: {{every: 20, resume_every: 5, resumable: all}}, threads: 1, precision: fp32}}
"""
LAUNCHED = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPOSITORY)}
IMPORTED = [
    *("imprint", "slurm.audits", "slurm.planning", "slurm.decontamination", "inject.corpus", "inject.hub", "train.loop"),
    *("train.zero", "transformers.models.gpt_neox.modeling_gpt_neox", "deepspeed.runtime.zero.muon.muon_optimizer"),
]
END_SECONDS = 60  # in which a process must notice that another has gone


# ------------------------------------------------------------------------------------------------ processes


@dataclass
class Training:
    """A training's processes, the leading one first, and what they said."""

    words: Path
    statuses: Callable[[], list[int | None]]  # of those that were started here, in order; None: still running
    started: list[int]  # their pids
    launched: bool = False  # the second process is started here, too, not by the leading one

    @property
    def pids(self) -> list[int]:
        if not self.launched and len(self.started) == 1 and (second := other(self.started[0])):
            self.started.append(second)
        return self.started

    def running(self) -> bool:
        return None in self.statuses()

    def kill(self, *ranks: int) -> None:
        """SIGKILL processes, all if none is named."""
        pids, statuses = self.pids, self.statuses()
        for rank in ranks or range(len(pids)):
            if rank >= len(statuses) or statuses[rank] is None:
                os.kill(pids[rank], signal.SIGKILL)

    def wait(self, seconds: float = 300) -> list[int | None]:
        """Exit statuses, minus the signal of those that were killed. Those that don't end in time are killed, and stay None."""
        end = time.monotonic() + seconds
        while self.running() and time.monotonic() < end:
            time.sleep(0.005)
        found = self.statuses()
        if None in found:
            self.kill(*(rank for rank, status in enumerate(found) if status is None))
        return found

    def told(self) -> str:
        return self.words.read_text(errors="replace")


@dataclass
class Runs:
    """Runs of one recipe in a folder."""

    folder: Path
    recipe: str = RECIPE
    _started: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "r.yaml").write_text(self.recipe)

    def root(self, name: str) -> Path:
        return self.folder / "runs" / name

    def model(self, name: str) -> ModelLayout:
        return ModelLayout(self.root(name) / "perturbed")

    def train(self, name: str, *settings: str, processes: int = 1, before: Callable[[int], None] | None = None) -> Training:
        """A training in processes that are forked, each of which first does `before(its rank)`."""
        return self.fork(self.arguments("train", name, *settings), processes, before)

    def audit(self, name: str) -> Training:
        return self.fork(["audit", str(self.root(name))])

    def command(self, name: str, *settings: str, launcher: tuple[str, ...] = (), job: str = "train", gpu: bool = False) -> Training:
        """A training, or another job, by the real command, started by a launcher if one is given; on a processor, or a GPU."""
        words = self._words()
        command = [sys.executable, *launcher, str(REPOSITORY / "imprint.py"), *self.arguments(job, name, *settings)]
        found = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **({} if gpu else LAUNCHED), "PYTHONPATH": found}
        with words.open("w") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        return Training(words, lambda: [process.poll()], [process.pid])

    def arguments(self, job: str, name: str, *settings: str) -> list[str]:
        return [
            job,
            str(self.folder / "r.yaml"),
            f"name={name}",
            f"runs={self.folder / 'runs'}",
            f"cache={self.folder / 'cache'}",
            *settings,
        ]

    def fork(self, arguments: list[str], processes: int = 1, before: Callable[[int], None] | None = None) -> Training:
        words, port = self._words(), free_port()
        worlds = [World(rank, processes, rank, processes, port=port) for rank in range(processes)]
        with _environment(LAUNCHED):  # the server that forks is started with the first
            forked = [
                _server().Process(
                    target=_imprint, args=(arguments, w.environment() if w.size > 1 else {}, words, before, w.rank), daemon=True
                )
                for w in worlds
            ]
            for process in forked:
                process.start()
        return Training(
            words, lambda: [process.exitcode for process in forked], [process.pid for process in forked], launched=processes > 1
        )

    def _words(self) -> Path:
        self._started += 1
        return self.folder / f"words-{self._started}.txt"


def other(leading: int) -> int | None:
    """The process that the real command has started beside its own."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == leading and "slurm.worker" in (folder / "cmdline").read_text():
                return int(folder.name)
        except OSError:  # it has ended meanwhile
            continue
    return None


def lives(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= more
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def _imprint(
    arguments: list[str], environment: dict[str, str], words: Path, before: Callable[[int], None] | None, rank: int
) -> None:
    """The command line in a process that was just forked."""
    told = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(told, 1)
    os.dup2(told, 2)
    os.environ |= environment
    from imprint import main

    if before:
        before(rank)
    sys.exit(main(arguments))


# ------------------------------------------------------------------------------------------------ what a run holds


def ledger(layout: ModelLayout) -> list[dict[str, Any]]:
    return [row for path in layout.ledgers() for row in pq.read_table(path).to_pylist()]


def lines(layout: ModelLayout) -> list[dict[str, Any]]:
    """The log without what the clock says."""
    clock = {"seconds", "tokens_per_second", "mfu"}
    parsed = map(json.loads, layout.metrics.read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in clock} for line in parsed]


def faults(run: Path, unbroken: Path) -> list[str]:
    """What a finished run has otherwise than one that was never killed, and what should not be there; none is as it must be."""
    own, whole = ModelLayout(run / "perturbed"), ModelLayout(unbroken / "perturbed")
    found = [
        f"{path.relative_to(run)} was left behind"
        for pattern in ("*.tmp-*", "lock.json", "damaged-*")
        for path in run.rglob(pattern)
    ]
    for kind in ("checkpoints", "state"):
        theirs = {path.relative_to(whole.root): path for path in (whole.root / kind).rglob("*") if path.is_file()}
        ours = {path.relative_to(own.root): path for path in (own.root / kind).rglob("*") if path.is_file()}
        if kind == "checkpoints":  # a training that goes on from a resumable one leaves no state beside it
            found += [f"{name} is in one of them only" for name in sorted(theirs.keys() ^ ours.keys())]
        found += [
            f"{name} differs"
            for name in sorted(theirs.keys() & ours.keys())
            if theirs[name].read_bytes() != ours[name].read_bytes()
        ]
        for folder in sorted((own.root / kind).glob("step-????????")):
            try:
                damaged = CheckpointInfo.read(folder).damaged(folder)
            except DataError as error:
                damaged = str(error)
            found += [f"{folder.name}: {damaged} is damaged"] if damaged else []
    found += ["the ledger differs"] if ledger(own) != ledger(whole) else []
    found += ["metrics.jsonl differs"] if lines(own) != lines(whole) else []
    return found


def kill_at(training: Training, layout: ModelLayout, step: int, *ranks: int) -> None:
    """Kill a training as soon as it has left a state of `step` or later."""
    while not any(path.name >= f"step-{step:08d}" for path in layout.states.glob("step-????????")):  # only the newest two stay
        assert training.running(), training.told()
        time.sleep(0.002)
    training.kill(*ranks)
