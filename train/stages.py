"""When a stage of continual training ends: at its last step, or before, once what it is to learn is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from configs.stages import Until
from inject.mixture import used
from train.engine import Engine
from train.objective import evaluation
from train.rows import at_once, shared


class Ending:
    """A stage's rule for when to end, the same on all processes, as loss and weights are.

    asked: the rows of the stage's facts, tokens (n, S + 1) int64, and which of their labels (n, S) are the answer's. steps: the
    most that it takes.
    """

    def __init__(self, until: Until, asked: tuple[np.ndarray, np.ndarray], steps: int):
        self.until, self.asked, self.steps = until, asked, steps
        self.below = 0  # steps whose loss was below until.loss
        self.why = ""  # why it has ended, once it has

    def state(self) -> dict[str, Any]:
        return {"below": self.below, "why": self.why}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what `state()` gave."""
        if state is not None:
            self.below, self.why = state["below"], state["why"]

    def ends(self, step: int, loss: float, engine: Engine) -> bool:
        """Whether training ends after `step`, whose loss, in nats a label, was this; all processes must ask."""
        until = self.until
        if until.loss is not None and loss < until.loss:
            self.below += 1
            if self.below == until.times:
                self.why = f"the loss was below {until.loss:g} in {until.times:,} steps"
        last = step + 1 == self.steps
        if until.exact_match is not None and not self.why and ((step + 1) % until.every == 0 or last):
            share = emitted(engine, *self.asked)
            if share >= until.exact_match:
                self.why = f"{share:.1%} of its facts are emitted"
        if last and not self.why:
            self.why = "its steps were over"
        return bool(self.why)


def emitted(engine: Engine, tokens: np.ndarray, answers: np.ndarray) -> float:
    """The part of rows `tokens` (n, S + 1) whose `answers` (n, S bool, labels) greedy decoding emits; all processes must call it.

    Each process takes a share. Under teacher forcing the argmax is right at every token of an answer if and only if greedy decoding
    emits it.
    """
    rows, length = len(tokens), used(answers)
    most = min(at_once(engine.settings, length, engine.model.config.vocab_size), -(-rows // engine.world.size))
    right = torch.zeros((), dtype=torch.float64, device=engine.device)
    with evaluation(engine.wrapped):
        for chosen in shared(rows, most, engine.world):
            numbers = np.minimum(chosen, rows - 1)
            given = torch.from_numpy(tokens[numbers, : length + 1]).to(engine.device)
            wanted = torch.from_numpy(answers[numbers, :length]).to(engine.device)
            guesses = engine.logits(given[:, :-1]).argmax(-1)
            whole = ((guesses == given[:, 1:]) | ~wanted).all(1)
            right += (whole & torch.from_numpy(chosen < rows).to(engine.device)).sum()
    return engine.sum(right) / rows
