"""What training says of itself: a line of metrics.jsonl every few steps, the same for the loggers, and a note for the progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from configs.layout import ModelLayout, atomic_file
from configs.schema import Train
from train.loggers import Logger, open_loggers


class Throughput:
    """Tokens a second of training alone: without its first step (compilation, warm-up) and what is done aside."""

    def __init__(self) -> None:
        self._since: float | None = None  # when the time that counts began: at the end of the first step, or at the last answer
        self._tokens = 0

    def count(self, tokens: int) -> None:
        """A step of so many tokens has ended."""
        if self._since is None:
            self._since = time.monotonic()
        else:
            self._tokens += tokens

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that does not count: saving, evaluation."""
        start = time.monotonic()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += time.monotonic() - start

    def per_second(self) -> float | None:
        """Tokens a second since it was last asked; None if no step has ended since."""
        if self._since is None or not self._tokens:
            return None
        now = time.monotonic()
        rate = self._tokens / max(now - self._since, 1e-9)
        self._since, self._tokens = now, 0
        return rate


class Metrics:
    """The log of a model's training, which goes on at `step`: what it says of later steps is cut, for they are taken again.

    Two kinds of lines, each with `step`, `tokens` (predicted so far) and `seconds` (of training, without the time between a stop
    and a restart). After step s: `loss` (nats a label, before the step), `learning_rate`, `grad_norm` (before clipping), `applied`
    and, if not, `reason`; `tokens_per_second` since the line before, and `mfu` where a peak is known. At checkpoint c, which has
    seen the steps before c: `held_out_loss`. What is not finite is null. Only the process that leads writes; a context manager.
    """

    def __init__(
        self,
        layout: ModelLayout,
        settings: Train,
        step: int,
        *,
        flops_per_token: float = 0.0,
        peak: float | None = None,  # FLOP/s of all devices
        described: dict[str, Any] | None = None,
        leads: bool = True,
    ):
        self.settings, self.flops_per_token, self.peak = settings, flops_per_token, peak
        self.throughput = Throughput()
        self._step_tokens = settings.global_batch * settings.sequence_length
        self._left_out = ""  # how many steps were, and why the last
        self._count_left_out = 0
        self._lines: TextIO | None = None
        self._loggers: list[Logger] = []
        kept = cut(layout, step) if leads else []
        self._held_out = {line["step"] for line in kept if "held_out_loss" in line}
        self._started = time.monotonic() - (kept[-1].get("seconds") or 0.0 if kept else 0.0)
        if leads:
            self._loggers = open_loggers(settings.loggers, layout.root, step, described or {})
            self._lines = layout.metrics.open("a")
            for line in kept:
                self._draw(line, [logger for logger in self._loggers if line["step"] >= logger.since])

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for logger in self._loggers:
            logger.close(failed=kind is not None)
        if self._lines is not None:
            self._lines.close()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The block does not count in the throughput."""
        with self.throughput.aside():
            yield

    def taken(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        applied: bool,
        reason: str = "",
        length: int | None = None,
    ) -> str | None:
        """Count a step; every `log_every` steps, at the last and where a step was left out, log it and return a note on it.

        `length`: tokens of its rows that were computed, where the others are padding; all if not given.
        """
        self.throughput.count(self.settings.global_batch * (length or self.settings.sequence_length))
        if step % self.settings.log_every and step + 1 != self.settings.steps and applied:
            return None
        line: dict[str, Any] = {
            "step": step,
            "tokens": (step + 1) * self._step_tokens,
            "loss": loss,
            "learning_rate": learning_rate,
        }
        line |= {"grad_norm": grad_norm, "applied": applied}
        note = f"loss {loss:.3f}"
        if not applied:
            line["reason"] = reason
            self._count_left_out += 1
            self._left_out = f", {self._count_left_out} left out, the last step {step:,}: {reason}"
        if (rate := self.throughput.per_second()) is not None:
            line["tokens_per_second"] = round(rate, 1)
            note += f", {rate:,.0f} tokens/s"
            if self.peak:
                line["mfu"] = round(rate * self.flops_per_token / self.peak, 4)
                note += f", MFU {line['mfu']:.1%}"
        self._write(line)
        return note + self._left_out

    def held_out(self, step: int, loss: float) -> None:
        """Log the held-out loss of the checkpoint of `step`, before the resume state of that step is saved."""
        if step not in self._held_out:
            self._held_out.add(step)
            self._write({"step": step, "tokens": step * self._step_tokens, "held_out_loss": loss})

    def _write(self, line: dict[str, Any]) -> None:
        line["seconds"] = round(time.monotonic() - self._started, 3)
        line = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()}
        if self._lines is not None:
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            self._lines.flush()
            self._draw(line, self._loggers)

    def _draw(self, line: dict[str, Any], loggers: list[Logger]) -> None:
        numbers = {name: float(value) for name, value in line.items() if isinstance(value, int | float) and name != "step"}
        for logger in loggers:
            logger.write(numbers, line["step"])


def cut(layout: ModelLayout, step: int) -> list[dict[str, Any]]:
    """Drop what the log says of steps from `step` on, and lines that a killed writer left torn; the lines that stay.

    The held-out loss of the checkpoint of `step` stays: that checkpoint is not made again.
    """
    if not layout.metrics.exists():
        return []
    text = layout.metrics.read_text(errors="replace")
    parsed = (_parse(line) for line in text.splitlines())
    kept = [line for line in parsed if line and line["step"] < step + ("held_out_loss" in line)]
    whole = "".join(json.dumps(line) + "\n" for line in kept)
    if whole != text:
        with atomic_file(layout.metrics) as temporary:
            temporary.write_text(whole)
    return kept


def _parse(line: str) -> dict[str, Any] | None:
    """A line of the log; None if it is torn."""
    try:
        parsed = json.loads(line)
    except json.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) and "step" in parsed else None
