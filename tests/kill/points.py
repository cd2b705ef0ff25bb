"""When a training is killed, and in what it was killed, to be seen by what it left."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.layout import ModelLayout
from tests.kill.runs import STEPS, Training

KINDS = ["checkpoint", "state", "ledger"]
POLL_SECONDS = 0.0003


@dataclass(frozen=True)
class Moment:
    """`delay` seconds after the start, or after the `number`-th time that a save of a `kind` has begun."""

    delay: float
    kind: str = ""
    number: int = 0

    @staticmethod
    def anytime(draw: random.Random, seconds: float) -> Moment:
        return Moment(draw.uniform(0, seconds))

    @staticmethod
    def inside(draw: random.Random) -> Moment:
        """Some milliseconds after the beginning of a save; a ledger's segment is written fastest."""
        kind = draw.choice(KINDS)
        most = {"checkpoint": 0.04, "state": 0.02, "ledger": 0.003}[kind]
        return Moment(draw.uniform(0, most), kind, draw.randint(1, 4 if kind == "checkpoint" else 10))

    def __str__(self) -> str:
        if self.kind:
            return f"{self.kind} no. {self.number} + {1000 * self.delay:.1f} ms"
        return f"{self.delay:.2f} s"

    def arrives(self, training: Training, layout: ModelLayout) -> bool:
        """Wait for it; False where the training ends before."""
        arrived = not self.kind or _await(training, lambda seen: len(seen) >= self.number, lambda: _begun(layout, self.kind))
        end = time.perf_counter() + self.delay
        while arrived and time.perf_counter() < end:
            if self.delay > 0.1:
                time.sleep(0.002)
        return arrived and training.running()


def _await(training: Training, enough: Callable[[set[Path]], bool], look: Callable[[], set[Path]]) -> bool:
    before, seen = look(), set()
    while True:
        seen |= look() - before
        if enough(seen):
            return True
        if not training.running():
            return False
        time.sleep(POLL_SECONDS)


def _begun(layout: ModelLayout, kind: str) -> set[Path]:
    """What a save of a kind leaves while it is under way."""
    folder, pattern = {
        "checkpoint": (layout.checkpoint(0).parent, "step-*.tmp-*"),
        "state": (layout.states, "step-*.tmp-*"),
        "ledger": (layout.root, "ledger-*.tmp-*"),
    }[kind]
    try:
        return set(folder.glob(pattern))
    except FileNotFoundError:  # it was renamed meanwhile
        return set()


@dataclass(frozen=True)
class Files:
    """Names of what a run holds, by which it shows in what it was killed."""

    temporary: frozenset[str]
    ledger: int  # steps that the ledger holds
    checkpoint: int  # step of the newest
    state: int

    @staticmethod
    def of(run: Path) -> Files:
        layout = ModelLayout(run / "perturbed")
        states = [int(path.name[5:]) for path in layout.states.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
        reached = [int(path.stem.split("-")[2]) for path in layout.ledgers()]
        temporary = frozenset(str(path.relative_to(run)) for path in run.rglob("*.tmp-*"))
        return Files(temporary, max(reached, default=0), max(layout.checkpoints(), default=-1), max(states, default=0))

    def hit(self, before: Files) -> str:
        """What was being saved when the run was killed; empty where nothing was. `before`: when it was started."""
        for name in sorted(self.temporary - before.temporary):
            parts = Path(name).parts
            if parts[0] != "perturbed":
                return f"the run's {parts[0].split('.tmp-')[0]}"
            kind = "ledger" if parts[-1].startswith("ledger") else {"checkpoints": "checkpoint", "state": "state"}.get(parts[1])
            what = "removal of a state" if name.endswith(".tmp-old") else kind or parts[1].split(".tmp-")[0]
            return f"{what} {_step(parts[-1])}".rstrip()
        if self.ledger != before.ledger and self.ledger > max(self.state, self.checkpoint):
            return f"after the ledger {self.ledger}"
        if self.checkpoint != before.checkpoint and self.checkpoint > self.state:
            return f"after checkpoint {self.checkpoint}" if 0 < self.checkpoint < STEPS else ""
        return ""


def _step(name: str) -> str:
    found = re.search(r"-(\d{8})(?=\.)", name)
    return str(int(found[1])) if found else ""
