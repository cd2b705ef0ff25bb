"""The training loop: read a step's rows, accumulate the gradient, step, write the ledger, log, save."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from configs.layout import CheckpointInfo, Lock, ModelLayout, atomic_file, fingerprint, remove_leftovers
from configs.progress import progress
from configs.schema import Model, Train
from inject.stream import Rows, Stream, row_digests
from train.checkpoint import newest_state, save_checkpoint, save_state
from train.engine import Engine, Execution, settle
from train.ledger import Ledger
from train.model import build_model
from train.objective import next_token_loss
from train.schedule import learning_rate


@dataclass(frozen=True)
class Trajectory:
    """What defines one model's training, with the fingerprints that its checkpoints carry."""

    name: str
    model: Model
    train: Train
    stream: Stream
    tokenizer: PreTrainedTokenizerFast
    init_seed: int
    corpus: str  # fingerprints
    plan: str
    config: str


def train(trajectory: Trajectory, layout: ModelLayout, cache: Path) -> None:
    """Train a model to its last step, from its newest resume state if there is one."""
    with Lock(layout.root):
        for folder in (layout.root, layout.states, layout.checkpoint(0).parent):
            remove_leftovers(folder)
        settings, stream = trajectory.train, trajectory.stream
        execution = settle(settings, cache, layout.root / "execution.json", _shape(trajectory), lambda e: _try_steps(trajectory, e))
        engine = Engine(_new_model(trajectory), settings, execution)
        first = _resume(engine, layout)
        ledger = Ledger(layout, first)
        _cut_metrics(layout, first)
        print(
            f"  {trajectory.name}: {execution.precision}, {execution.threads} thread(s)"
            + (f", from step {first:,}" if first else "")
        )
        started, seen = time.monotonic(), settings.global_batch * settings.sequence_length
        with (
            progress(f"train {trajectory.name}", "steps", settings.steps, done=first) as meter,
            layout.metrics.open("a") as metrics,
        ):
            if first == 0:
                _save(trajectory, layout, engine, ledger, 0)
            for step in range(first, settings.steps):
                rows = stream.rows(np.arange(step * settings.global_batch, (step + 1) * settings.global_batch))
                torch.manual_seed(int(fingerprint([trajectory.init_seed, step])[:15], 16))  # dropout: as after any restart
                loss = _backward(engine, rows, settings.micro_batch or settings.global_batch)
                rate = learning_rate(settings, step)
                applied, norm = engine.step(rate)
                ledger.add(step, rate, applied, row_digests(rows.tokens, rows.label_mask))
                note = ""
                if step % settings.log_every == 0 or step + 1 == settings.steps or not applied:
                    note = f"loss {float(loss):.3f}" + ("" if applied else ", skipped: the gradient is not finite")
                    line = {"step": step, "loss": float(loss), "learning_rate": rate, "grad_norm": norm, "applied": applied}
                    line |= {"tokens": (step + 1) * seen, "seconds": round(time.monotonic() - started, 3)}
                    metrics.write(json.dumps(line) + "\n")
                    metrics.flush()
                _save(trajectory, layout, engine, ledger, step + 1)
                meter.advance(1, note)


def _backward(engine: Engine, rows: Rows, micro_batch: int) -> torch.Tensor:
    """Accumulate the gradient of a step's loss, the mean over the labels of all its rows; returns that loss."""
    labels = int(rows.label_mask.sum())
    loss = torch.zeros((), device=engine.device)
    starts = range(0, len(rows.tokens), micro_batch)
    for start in starts:
        chosen = slice(start, start + micro_batch)
        tokens, mask = (torch.from_numpy(part[chosen]).to(engine.device) for part in (rows.tokens, rows.label_mask))
        part = next_token_loss(engine.model, tokens, mask) / labels
        engine.backward(part, last=start == starts[-1])
        loss += part.detach()
    return loss


def _save(trajectory: Trajectory, layout: ModelLayout, engine: Engine, ledger: Ledger, step: int) -> None:
    """Leave a checkpoint and a resume state where the schedule has one; the ledger is committed first."""
    settings = trajectory.train
    last = step == settings.steps
    keeps = last or step % settings.checkpoints.every == 0
    resumes = keeps or step % settings.checkpoints.resume_every == 0
    if not resumes:
        return
    ledger.commit()
    tokens = step * settings.global_batch * settings.sequence_length
    info = CheckpointInfo(
        trajectory.name, step, tokens, step * settings.global_batch, trajectory.corpus, trajectory.plan, trajectory.config, {}
    )
    if keeps:
        save_checkpoint(layout.checkpoint(step), engine.bare, trajectory.tokenizer, replace(info, files={}))  # type: ignore[arg-type]
    if not last:
        save_state(layout, engine, replace(info, files={}))


def _resume(engine: Engine, layout: ModelLayout) -> int:
    state = newest_state(layout)
    if state is None:
        return 0
    info, weights, moments = state
    engine.load(weights, moments)
    return info.step


def _new_model(trajectory: Trajectory) -> torch.nn.Module:
    corpus = trajectory.stream.corpus
    length = trajectory.train.sequence_length
    return build_model(trajectory.model, corpus.vocabulary, length, corpus.end_of_text, trajectory.init_seed)


def _shape(trajectory: Trajectory) -> list:
    model, settings = trajectory.model, trajectory.train
    rows = settings.micro_batch or settings.global_batch
    return [model.architecture, model.layers, model.width, trajectory.stream.corpus.vocabulary, rows, settings.sequence_length]


def _try_steps(trajectory: Trajectory, execution: Execution) -> None:
    """A few steps on a throw-away model, to be timed."""
    engine = Engine(_new_model(trajectory), trajectory.train, execution)
    rows = trajectory.stream.rows(np.arange(trajectory.train.micro_batch or trajectory.train.global_batch))
    for _ in range(5):
        _backward(engine, rows, len(rows.tokens))
        engine.step(0.0)


def _cut_metrics(layout: ModelLayout, step: int) -> None:
    """Drop what the log says of steps that will be taken again."""
    if layout.metrics.exists():
        lines = layout.metrics.read_text().splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] < step]
        with atomic_file(layout.metrics) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
