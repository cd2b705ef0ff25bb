"""The stream: `rows(g)` gives the tokens of training rows as a pure function of corpus, seed, sequence length and plan.

Row g of epoch e = g // rows reads base row permutation(g mod rows) and lays over it the planned occurrences that fall in it.
Ranks, micro-batches and restarts only choose which g to ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from configs.errors import RecipeError
from inject.corpus import Corpus
from inject.permutation import Permutation


class Rows(NamedTuple):
    """What the model sees: n rows of S + 1 tokens."""

    tokens: np.ndarray  # int64 (n, S + 1)
    label_mask: np.ndarray  # bool (n, S): which of tokens[:, 1:] count in the loss
    documents: np.ndarray  # int64 (n, S + 1): number of the document within its row


@dataclass(frozen=True)
class Overlay:
    """Planned occurrences as arrays, sorted by row: occurrence i writes pool[start[i] : start[i] + length[i]] at its offset."""

    row: np.ndarray  # int64 (occurrences,)
    offset: np.ndarray  # int64 (occurrences,)
    start: np.ndarray  # int64 (occurrences,)
    length: np.ndarray  # int64 (occurrences,)
    pool: np.ndarray  # int64: the tokens of every text, an end-of-text on both sides

    @staticmethod
    def empty() -> Overlay:
        none = np.zeros(0, np.int64)
        return Overlay(none, none, none, none, none)

    @staticmethod
    def from_tables(plan: pa.Table, texts: pa.Table, end_of_text: int) -> Overlay:
        """Join the plan with the texts' tokens."""
        spans: dict[tuple[str, str], tuple[int, int]] = {}
        pieces: list[list[int]] = []
        size = 0
        for item, variant, tokens in zip(*(texts[name].to_pylist() for name in ("item_id", "variant", "tokens")), strict=True):
            pieces.append([end_of_text, *tokens, end_of_text])
            spans[item, variant] = (size, len(tokens) + 2)
            size += len(tokens) + 2
        keys = list(zip(plan["item_id"].to_pylist(), plan["variant"].to_pylist(), strict=True))
        located = np.asarray([spans[key] for key in keys], np.int64).reshape(-1, 2)
        row, offset = (plan[name].to_numpy().astype(np.int64) for name in ("row", "offset"))
        return Overlay(row, offset, located[:, 0], located[:, 1], np.asarray([t for piece in pieces for t in piece], np.int64))

    def apply(self, g: np.ndarray, tokens: np.ndarray) -> None:
        """Write the occurrences of rows `g` (n,) into `tokens` (n, S + 1), in place."""
        first, last = np.searchsorted(self.row, g, "left"), np.searchsorted(self.row, g, "right")
        counts = last - first
        if not counts.any():
            return
        slots = np.repeat(np.arange(len(g)), counts)
        which = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        for slot, i in zip(slots.tolist(), which.tolist(), strict=True):
            start, length, offset = self.start[i], self.length[i], self.offset[i]
            tokens[slot, offset : offset + length] = self.pool[start : start + length]


class Stream:
    """Rows of a corpus in a keyed random order, with an overlay."""

    def __init__(self, corpus: Corpus, seed: int, sequence_length: int, overlay: Overlay | None = None):
        self.corpus, self.seed, self.sequence_length = corpus, seed, sequence_length
        self.overlay = overlay or Overlay.empty()
        self.base_rows = corpus.tokens // (sequence_length + 1)
        self._permutations: dict[int, Permutation] = {}

    def base_row(self, g: np.ndarray) -> np.ndarray:
        """Number of the base row that each training row `g` (n,) reads, int64 (n,)."""
        epochs = g // self.base_rows
        out = np.empty_like(g)
        for epoch in np.unique(epochs).tolist():
            if epoch not in self._permutations:
                self._permutations[epoch] = Permutation(self.base_rows, key=self.seed + epoch * 0x9E3779B97F4A7C15)
            chosen = epochs == epoch
            out[chosen] = self._permutations[epoch](g[chosen] % self.base_rows)
        return out

    def base_tokens(self, g: np.ndarray) -> np.ndarray:
        """Tokens of rows `g` (n,) before any insertion, int64 (n, S + 1)."""
        length = self.sequence_length + 1
        return self.corpus.read(self.base_row(g) * length, length)

    def rows(self, g: np.ndarray) -> Rows:
        """Training rows `g` (n,), int64."""
        g = np.asarray(g, np.int64)
        tokens = self.base_tokens(g)
        self.overlay.apply(g, tokens)
        ends = tokens == self.corpus.end_of_text
        documents = np.cumsum(ends, axis=1) - ends  # an end-of-text belongs to the document it closes
        return Rows(tokens, np.ones((len(g), self.sequence_length), bool), documents)


def check_length(corpus: Corpus, sequence_length: int, steps: int, global_batch: int, epochs: int) -> None:
    """Refuse a training that would go over the corpus more often than `corpus.epochs` says."""
    rows, needed = corpus.tokens // (sequence_length + 1), steps * global_batch
    if rows == 0:
        raise RecipeError(
            f"the corpus has {corpus.tokens:,} tokens, which is less than one row of train.sequence_length + 1 = "
            f"{sequence_length + 1}; lower train.sequence_length or give a larger corpus"
        )
    if needed > rows * epochs:
        possible = rows * epochs // global_batch
        raise RecipeError(
            f"train.steps = {steps:,} needs {needed:,} rows of {sequence_length + 1} tokens, but the corpus has {rows:,} "
            f"(and corpus.epochs is {epochs}); set corpus.epochs={-(-needed // rows)}"
            + (f" or train.steps={possible}" if possible else "")
        )
