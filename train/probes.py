"""Probes in training: the texts that are due around exposures are scored with the weights as they are, without a checkpoint.

Nothing that training computes with is touched: the weights end with the same bits as without. train/probe_schedule.py says what is
due when; how it is scored is handed down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from configs.layout import ModelLayout
from configs.schema import Train
from configs.tables import PROBES, read_table, write_table
from train.engine import Engine
from train.ledger import written
from train.objective import evaluation
from train.probe_schedule import Due, ProbeScore, Schedule, Scorer, Text
from train.rows import at_once, padded, shared


class Budget:
    """Whether there is time for what is due.

    Probes may take in all `share` of the time of all `steps`, at the mean of those taken by this process, without its first, which
    compiles. Of that, what is due up to a step may have taken as much as it is of all that is due: so what is left out is spread
    over training, and not its end. It is exceeded by the probes of one step at most, and by those of a process's first steps, of
    whose time nothing is known yet.
    """

    def __init__(self, share: float, steps: int, due: dict[int, int], spent: float = 0.0):
        """`due`: texts by step; `spent`: seconds that probes took before."""
        self.share, self.steps, self.spent = share, steps, spent
        self.part = dict(zip(due, np.cumsum(list(due.values())) / max(sum(due.values()), 1), strict=True))
        self._seconds, self._timed, self._first = 0.0, 0, True

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The block is a step of training."""
        start = time.monotonic()
        yield
        if not self._first:
            self._seconds, self._timed = self._seconds + time.monotonic() - start, self._timed + 1
        self._first = False

    @property
    def training(self) -> float | None:
        """Seconds of all steps of training, as far as is known."""
        return self._seconds / self._timed * self.steps if self._timed else None

    def allows(self, step: int) -> bool:
        """Whether what is due at a step may be scored."""
        return self.training is None or self.spent <= self.share * self.training * self.part[step]


class Probing:
    """The probes of a training that goes on at a step, and their rows that are not on the disk yet.

    Every process scores a share of the texts; the leading one decides whether there is time, and writes. A segment of the table is
    committed before each checkpoint and state, like the ledger's, and tells of the weights up to that step. All processes make one,
    and call `take` and `commit` together.
    """

    def __init__(
        self,
        layout: ModelLayout,
        schedule: Schedule,
        scorer: Scorer | None,
        settings: Train,
        engine: Engine,
        vocabulary: int,
        first: int,
    ):
        """Go on at step `first`: what is told of later weights is cut off. `vocabulary`: tokens that logits are of."""
        self.layout, self.scorer, self.settings, self.engine, self.vocabulary = layout, scorer, settings, engine, vocabulary
        self.schedule: Schedule = schedule if scorer else {}
        spent = 0.0
        if engine.world.leads:
            written("the probes", lambda: _cut(layout, first))
            spent = summed(layout).seconds
        due = {step: len({each.text for each in own}) for step, own in self.schedule.items()}
        self.budget = Budget(settings.probes.budget, settings.steps, due, spent)
        self._rows: list[dict[str, Any]] = []

    def announced(self) -> str:
        """What there is to say at the start; empty where no probes are asked for."""
        if self.scorer is None:
            return ""
        if not self.schedule:
            return "probes: none, as the model sees no copy of an item that is followed"
        texts = sum(len({each.text for each in own}) for own in self.schedule.values())
        return f"probes: {texts:,} texts are due, at {len(self.schedule):,} steps"

    def take(self, step: int) -> None:
        """Score what is due with the weights of a step, if there is time, or else record that it was left out."""
        due = self.schedule.get(step)
        if not due:
            return
        texts = list(dict.fromkeys(each.text for each in due))
        if self.engine.fabric.broadcast(self.budget.allows(step)):
            start = time.monotonic()
            scores = self._scored(texts)
            seconds = time.monotonic() - start
            self.budget.spent += seconds
            self._add(step, due, scores, seconds / len(texts))
        elif self.engine.world.leads:
            self._add(step, due, {text: [None] for text in texts}, 0.0)

    def commit(self, step: int) -> None:
        """Write what was taken since the last commit. ImprintError where it can't be written."""
        if not self.schedule:
            return
        parts = self.engine.gather(self._rows)
        if parts is not None and (rows := [row for part in parts for row in part]):
            rows.sort(key=lambda row: (row["step"], row["exposure_step"] is None, row["item_id"], row["variant"]))
            written("the probes", lambda: write_table(self.layout.probes(step), rows, PROBES))
        self._rows = []

    def told(self) -> str:
        """A sentence on what was taken, of the leading process; empty where nothing was due."""
        if not self.schedule:
            return ""
        taken = summed(self.layout)
        part = f" ({self.budget.spent / self.budget.training:.1%} of the steps')" if self.budget.training else ""
        told = f"probes: {taken.scored:,} texts scored in {self.budget.spent:,.1f} s{part}"
        if taken.left_out:
            told += f"; {taken.left_out:,} left out, as train.probes.budget is {self.settings.probes.budget:g}"
        return told

    def _add(self, step: int, due: Sequence[Due], scores: dict[Text, list[Any]], seconds: float) -> None:
        """Keep the rows of those due texts that have scores; None is one that was left out."""
        for each in due:
            for score in scores.get(each.text, ()):
                told = score._asdict() if score else {"probe_id": None, "log_prob": None, "extracted": None}
                self._rows.append({"model": self.layout.root.name, "step": step, **vars(each), **told, "seconds": seconds})

    def _scored(self, texts: Sequence[Text]) -> dict[Text, list[ProbeScore]]:
        """Scores of this process's share of the texts.

        All processes make as many passes: who has nothing left scores a text again. A pass has no more tokens than one of training,
        and no more logits than the device has room for.
        """
        assert self.scorer is not None
        scorer, world = self.scorer, self.engine.world
        tokens = {text: list(scorer.tokens(text)) for text in texts}
        ordered = sorted(texts, key=lambda text: (len(tokens[text]), text))  # of like lengths in a pass
        longest = len(tokens[ordered[-1]])
        rows = min(at_once(self.settings, longest, self.vocabulary), -(-len(ordered) // world.size))
        found: dict[Text, list[ProbeScore]] = {}
        with evaluation(self.engine.wrapped):
            for chosen in shared(len(ordered), rows, world).tolist():
                own = ordered[chosen[0] : chosen[0] + rows] or ordered[:1]
                logits = self.engine.logits(padded([tokens[text][:-1] for text in own]))
                scored = dict(zip(own, scorer.scores(own, logits), strict=True))
                found |= scored if chosen[0] < len(ordered) else {}
        return found


class Taken(NamedTuple):
    """What the table of a model tells of."""

    scored: int  # texts, once for each step
    left_out: int
    seconds: float


def summed(layout: ModelLayout) -> Taken:
    """How many texts were scored and left out, and how long it took."""
    seconds: dict[tuple[int, str, str], float] = {}
    left_out = set()
    for path in layout.probe_segments():
        for row in read_table(path, columns=["step", "item_id", "variant", "probe_id", "seconds"]).to_pylist():
            text = (row["step"], row["item_id"], row["variant"])
            seconds[text] = row["seconds"]
            if row["probe_id"] is None:
                left_out.add(text)
    return Taken(len(seconds) - len(left_out), len(left_out), sum(seconds.values()))


def _cut(layout: ModelLayout, first: int) -> None:
    """Leave what is told of the weights up to those of `first`; of step 0, where training begins, they are scored again.

    There is no segment across a state's step: one was committed at it.
    """
    for path in reversed(layout.probe_segments()):
        if first == 0 or path.name > layout.probes(first).name:
            path.unlink()
