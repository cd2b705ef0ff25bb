"""Rows of tokens for passes that train nothing: padded to one length, and shared out among the processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from configs.schema import Train
from train.cross_entropy import CHUNK_BYTES_ACCELERATOR
from train.world import World


def padded(sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Sequences as rows (n, longest) int64, padded on the right: under a causal mask, padding reaches nothing that is read."""
    rows = torch.zeros((len(sequences), max(map(len, sequences))), dtype=torch.long)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence, dtype=torch.long)
    return rows


def at_once(settings: Train, length: int, vocabulary: int) -> int:
    """Rows of `length` tokens for a pass that has no more tokens than one of training, and logits that a device has room for.

    `settings` are those that a training computes with, which know the rows of a pass (`train.execution.shared_out`).
    """
    tokens = min((settings.micro_batch or 1) * (settings.sequence_length + 1), CHUNK_BYTES_ACCELERATOR // (4 * vocabulary))
    return max(1, tokens // length)


def shared(rows: int, most: int, world: World) -> np.ndarray:
    """The rows of each pass of this process, (passes, most) int64.

    All processes make as many passes, of the same shape, for ZeRO-3 gathers its parameters from all in each: numbers from `rows` on
    fill up what a share lacks, and are no rows.
    """
    passes = -(-rows // (most * world.size))
    return (world.rank * passes * most + np.arange(passes * most)).reshape(passes, most)
