"""The loss on rows that training never reaches: the same rows, without insertions, for the perturbed and the standard model."""

from __future__ import annotations

import numpy as np
import torch

from configs.schema import Train
from inject.stream import Stream
from train.engine import Engine
from train.objective import evaluation
from train.rows import shared


def held_out_rows(settings: Train, base_rows: int) -> np.ndarray:
    """Numbers of the rows to hold out, int64 (n,), n <= `held_out_rows`: the last of the first epoch that no step reads.

    Training reads rows [0, steps x global_batch); where it goes over all `base_rows`, none are left.
    """
    read = settings.steps * settings.global_batch
    return np.arange(max(read, base_rows - settings.held_out_rows), max(read, base_rows))


def held_out_tokens(settings: Train, stream: Stream) -> np.ndarray:
    """Base tokens of the rows to hold out, int64 (n, S + 1)."""
    return stream.base_tokens(held_out_rows(settings, stream.base_rows))


def told(settings: Train, rows: int) -> str:
    """What there is to say at the start where training leaves fewer `rows` than were asked for; empty if it does not."""
    if rows == settings.held_out_rows:
        return ""
    if not rows:
        return "there is no held-out loss: training reads every row of the corpus"
    return f"the held-out loss is taken on {rows:,} rows: training leaves no more of the corpus"


def held_out_loss(engine: Engine, tokens: np.ndarray, micro_batch: int) -> float:
    """Mean loss, in nats a label, of rows `tokens` int64 (n, S + 1), n > 0, without dropout; all processes must call it.

    Each process takes a share in passes of `micro_batch` rows, which is filled up with rows of which no label counts.
    """
    rows, length = tokens.shape[0], tokens.shape[1] - 1
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    with evaluation(engine.wrapped):
        for chosen in shared(rows, micro_batch, engine.world):
            counts = torch.from_numpy(chosen < rows)[:, None].repeat(1, length)
            numbers = np.minimum(chosen, rows - 1)
            parts = torch.from_numpy(tokens[numbers]), counts, torch.from_numpy(numbers)
            total += engine.loss(*(part.to(engine.device) for part in parts))
    return engine.sum(total) / (rows * length)
