"""Kill a training again and again, start it again each time, and compare what comes of it with a training that never was killed.

python -m tests.kill --kills 30                     # of one process; half of them inside saves, at least
python -m tests.kill --kills 4 --pairs 2 --commands 0

Then `--pairs` kills of two processes under zero_1 (of the leading one, of the other, or of both), and `--commands` more of the real
command with train.devices=1 and as many with 2. Prints a table of the kills and a verdict; exit status 1 if anything is not as in
the run that was never killed.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.kill.points import Files, Moment
from tests.kill.runs import END_SECONDS, Runs, Training, faults, lives

WHO = {"leading": (0,), "other": (1,), "both": (0, 1)}
LAUNCHER_SECONDS = 5  # after which a launcher ends what is left of its processes
TOLD = r"imprint: process 1 of 2 (ended with status|was killed)"


@dataclass
class Kill:
    """One kill: of whom, when, in what, and from where the start after it went on."""

    run: str
    whom: str
    moment: Moment
    hit: str
    resumed: str = "-"


@dataclass
class Outcome:
    kills: list[Kill] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def inside(self) -> int:
        return sum(bool(kill.hit) for kill in self.kills)

    def add(self, more: Outcome) -> None:
        self.kills, self.faults, self.runs = self.kills + more.kills, self.faults + more.faults, self.runs + more.runs


def kill_and_resume(
    runs: Runs, name: str, unbroken: str, start: Callable[[str], Training], points: Iterator[tuple[Moment, str]]
) -> Outcome:
    """Start a run, kill it at each point, start it again each time, and compare it with the unbroken one when it has ended."""
    outcome = Outcome(runs=1)
    while True:
        before, training = Files.of(runs.root(name)), start(name)
        point = next(points, None)
        if killed := point is not None and point[0].arrives(training, runs.model(name)):
            whom = _kill(training, point[1])
        if outcome.kills:
            outcome.kills[-1].resumed = resumed(training, killed)
        if not killed:
            break
        outcome.faults += [f"{name}: {fault}" for fault in after(training, whom)]  # until then, one that lives may still save
        outcome.kills.append(Kill(name, whom, point[0], Files.of(runs.root(name)).hit(before)))
    statuses = training.wait()
    if any(statuses):
        outcome.faults.append(f"{name}: ended with {statuses}: {training.told()[-1000:]}")
        return outcome
    outcome.faults += [f"{name}: {fault}" for fault in faults(runs.root(name), runs.root(unbroken))]
    audit = runs.audit(name)
    if audit.wait() != [0]:
        outcome.faults.append(f"{name} is not certified: {audit.told()[-1000:]}")
    return outcome


def _kill(training: Training, whom: str) -> str:
    """Kill of a training's processes; of which, in fact: the other one may not be there yet."""
    ranks = WHO[whom] if len(training.pids) > 1 else (0,)
    with suppress(ProcessLookupError):  # it has ended just now
        training.kill(*ranks)
    return whom if len(training.pids) > 1 else "leading"


def after(training: Training, whom: str) -> list[str]:
    """What is wrong with how those end that were not killed. Returns when none is left."""
    if training.launched:
        training.wait(LAUNCHER_SECONDS if len(training.pids) > 1 else END_SECONDS)
        training.wait(END_SECONDS)
        return []
    status, wrong = training.wait(END_SECONDS)[0], []
    if whom == "other" and (status != 2 or not re.search(TOLD, training.told())):
        wrong = [f"the leading process ended with {status}: {training.told()[-500:]}"]
    end = time.monotonic() + END_SECONDS
    while (left := [pid for pid in training.pids[1:] if lives(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    return wrong + [f"process {pid} lives on" for pid in left]


def resumed(training: Training, killed: bool) -> str:
    """The step from which a training goes on, as far as it has said so when it is killed."""
    if not killed:
        training.wait()
    told = training.told()
    found = re.search(r"from step ([\d,]+)$", told, re.MULTILINE)
    return found[1] if found else ("0" if re.search(r"\d+ thread\(s\)$", told, re.MULTILINE) else "-")


# ------------------------------------------------------------------------------------------------ the three kinds of runs


def single(runs: Runs, kills: int, draw: random.Random) -> Outcome:
    """At least so many kills of one process, half of them inside saves."""
    seconds = _unbroken(runs, "unbroken", lambda name: runs.train(name))
    outcome = Outcome()
    while len(outcome.kills) < kills or 2 * outcome.inside < len(outcome.kills):
        inside = draw.random() < 0.6
        points = [(Moment.inside(draw) if inside else Moment.anytime(draw, seconds), "leading") for _ in range(draw.randint(1, 4))]
        outcome.add(_told(kill_and_resume(runs, f"single-{outcome.runs}", "unbroken", lambda name: runs.train(name), iter(points))))
    return outcome


def pairs(runs: Runs, kills: int, draw: random.Random) -> Outcome:
    """So many kills of two processes, or a few more."""
    start = lambda name: runs.train(name, processes=2)  # noqa: E731
    outcome = Outcome()
    seconds = _unbroken(runs, "unbroken-pair", start) if kills else 0
    whom = cycle(WHO)
    while len(outcome.kills) < kills:
        moments = (Moment.inside(draw) if i % 2 else Moment.anytime(draw, seconds) for i in range(draw.randint(2, 4)))
        points = [(moment, next(whom)) for moment in moments]
        outcome.add(_told(kill_and_resume(runs, f"pair-{outcome.runs}", "unbroken-pair", start, iter(points))))
    return outcome


def commands(runs: Runs, kills: int, draw: random.Random) -> Outcome:
    """So many kills of the real command, each with one and with two processes."""
    outcome = Outcome()
    for devices, unbroken in ((1, "unbroken"), (2, "unbroken-two")):
        if not kills:
            break
        start = lambda name, devices=devices: runs.command(name, f"train.devices={devices}")  # noqa: E731
        if devices == 2:
            _unbroken(runs, unbroken, start)
        whom = [list(WHO)[i % 3] if devices == 2 else "leading" for i in range(kills)]
        points = [(Moment(draw.uniform(0, 0.01), draw.choice(["state", "ledger"]), draw.randint(1, 3)), who) for who in whom]
        outcome.add(_told(kill_and_resume(runs, f"command-{devices}", unbroken, start, iter(points))))
    return outcome


def _unbroken(runs: Runs, name: str, start: Callable[[str], Training]) -> float:
    """Make the run that the others are compared with; seconds that it takes."""
    runs.fork(["--help"]).wait()  # what is imported once is imported now
    begin = time.monotonic()
    training = start(name)
    if any(training.wait()):
        sys.exit(f"{name} failed: {training.told()}")
    return time.monotonic() - begin


def _told(outcome: Outcome) -> Outcome:
    name = outcome.kills[-1].run if outcome.kills else "not killed in time"
    print(f"{name}: {len(outcome.kills)} kills, {outcome.inside} in saves: {'; '.join(outcome.faults) or 'same bits'}", flush=True)
    return outcome


def table(outcome: Outcome) -> Table:
    shown = Table(title="Kills", title_justify="left")
    for name in ("", "run", "killed", "aimed at", "in", "goes on from"):
        shown.add_column(name)
    for number, kill in enumerate(outcome.kills, 1):
        shown.add_row(str(number), kill.run, kill.whom, str(kill.moment), kill.hit or "-", kill.resumed)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="kills of one process, at least")
    parser.add_argument("--pairs", type=int, default=9, help="kills of two processes, at least")
    parser.add_argument("--commands", type=int, default=3, help="kills of the real command, of each number of processes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the runs are left to be looked at; a temporary one if not given")
    chosen = parser.parse_args()
    begin, draw = time.monotonic(), random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        runs = Runs((chosen.folder or Path(temporary)).resolve())
        outcome = single(runs, chosen.kills, draw)
        outcome.add(pairs(runs, chosen.pairs, draw))
        outcome.add(commands(runs, chosen.commands, draw))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table(outcome))
    for fault in outcome.faults:
        print(fault)
    print(
        f"{'FAILED' if outcome.faults else 'passed'}: {len(outcome.kills)} kills, {outcome.inside} of them inside saves, "
        f"in {outcome.runs} runs; {len(outcome.faults)} faults; {time.monotonic() - begin:.0f} s"
    )
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
