"""Streams made of streams: a stage's samples, shuffled in each epoch with samples of something else, or joined by some a batch.

A row of a mixture holds one sample. Which one is a function of the row's number, so a mixture is shared out, resumed and audited as
the stream of a corpus is (inject/stream.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from configs.layout import fingerprint
from inject.corpus import Corpus
from inject.labels import LabelMask, every_label
from inject.permutation import Permutation
from inject.questions import Example
from inject.stream import Rows

LISTED = 2**17  # places of an order that are computed at once
DATA, REPLAY = "data", "replay"  # parts whose samples are facts or items

# sample number -> what its row holds: an example, which is laid between two end-of-text tokens, or tokens (S + 1,) as they are
Sample = Callable[[int], Example | np.ndarray]


class Order:
    """A keyed order of [0, size), asked for one place at a time: a list of it where that is short, as computing one takes as long
    as computing hundreds.
    """

    def __init__(self, size: int, key: Any):
        self._permutation = Permutation(size, key=int(fingerprint(key)[:16], 16))
        self._listed = self._permutation(np.arange(size)).tolist() if size <= LISTED else None

    def __getitem__(self, place: int) -> int:
        return self._listed[place] if self._listed else int(self._permutation(np.asarray([place]))[0])


@dataclass(frozen=True)
class Part:
    """Samples of one kind, `size` of them or without end; `per_epoch` rows of each epoch hold one, or `per_batch` of each batch."""

    name: str  # data | replay | text | words
    sample: Sample
    size: int | None
    per_epoch: int = 0
    per_batch: int = 0
    pool: int | None = None  # samples that are ever taken; all if None
    items: Sequence[str] = ()  # which fact or item each sample is, where they are such
    seed: int = 0
    _orders: dict[tuple[str, int], Order] = field(default_factory=dict, compare=False, repr=False)

    def number(self, draw: int) -> int:
        """The sample that the part's draw `draw` takes: all once, in a keyed order, then all again in another."""
        size = self.size
        if self.pool is not None:
            pooled = self.pool if size is None else min(self.pool, size)
            draw = self._shuffled("pool", draw // pooled, pooled, draw % pooled)
            return draw if size is None else self._shuffled("pooled", 0, size, draw)
        return draw if size is None else self._shuffled("epoch", draw // size, size, draw % size)

    def _shuffled(self, purpose: str, epoch: int, size: int, place: int) -> int:
        key = purpose, epoch
        if key not in self._orders:
            if len(self._orders) > 8:  # epochs are gone through one after the other
                self._orders.clear()
            self._orders[key] = Order(size, [self.seed, self.name, *key])
        return self._orders[key][place]


class Mixture:
    """The rows of a stage. Row g is in batch g // `batch`; the parts that every batch has come first in it, and the others are
    shuffled together, an epoch of them after the other.
    """

    padded = True  # rows end in tokens that no label counts and nothing reads

    def __init__(
        self,
        corpus: Corpus,
        parts: Sequence[Part],
        batch: int,
        sequence_length: int,
        seed: int,
        label_mask: LabelMask = every_label,
    ):
        """`corpus`: of whose tokens the rows are. RecipeError is the caller's: parts have samples, and fit the rows and batches."""
        self.corpus, self.batch, self.sequence_length, self.seed = corpus, batch, sequence_length, seed
        self.label_mask = label_mask
        self.together = [part for part in parts if part.per_epoch]
        self.alongside = [part for part in parts if part.per_batch]
        self._starts = np.cumsum([0, *(part.per_epoch for part in self.together)])
        self._beside = sum(part.per_batch for part in self.alongside)
        self._orders: dict[int, Order] = {}

    @cached_property
    def epoch(self) -> int:
        """Rows of an epoch, but for those that every batch has."""
        return int(self._starts[-1])

    def drawn(self, g: int) -> tuple[Part, int]:
        """The part that row g is of, and which of its samples it holds."""
        step, slot = divmod(g, self.batch)
        for part in self.alongside:
            if slot < part.per_batch:
                return part, part.number(step * part.per_batch + slot)
            slot -= part.per_batch
        epoch, place = divmod(step * (self.batch - self._beside) + slot, self.epoch)
        if epoch not in self._orders:
            self._orders = {epoch: Order(self.epoch, [self.seed, "epoch", epoch])}
        place = self._orders[epoch][place]
        which = int(np.searchsorted(self._starts, place, "right")) - 1
        part = self.together[which]
        return part, part.number(epoch * part.per_epoch + place - int(self._starts[which]))

    def rows(self, g: np.ndarray) -> Rows:
        """Training rows `g` (n,), int64."""
        end, length = self.corpus.end_of_text, self.sequence_length
        tokens = np.full((len(g), length + 1), end, np.int64)
        mask = np.zeros((len(g), length), bool)
        for row, labels, number in zip(tokens, mask, np.asarray(g).tolist(), strict=True):
            part, sample = self.drawn(number)
            lay(part.sample(sample), row, labels)
        ends = tokens == end
        return Rows(tokens, mask & self.label_mask(tokens, np.asarray(g, np.int64)), np.cumsum(ends, axis=1) - ends)

    def items(self, first: int, last: int) -> list[tuple[int, str, str]]:
        """(row, item, part) of the rows [first, last) that hold a fact or an item."""
        found = []
        for g in range(first, last):
            part, sample = self.drawn(g)
            if part.items:
                found.append((g, part.items[sample], part.name))
        return found


def lay(sample: Example | np.ndarray, row: np.ndarray, labels: np.ndarray) -> None:
    """Write a sample into a row (S + 1,) of end-of-text tokens, and mark the labels (S,) that count, in place.

    An example's tokens follow the first end-of-text token; its answer and the end-of-text token after it count. Tokens (S + 1,) of
    a corpus fill the row, and all count.
    """
    if isinstance(sample, np.ndarray):
        row[:], labels[:] = sample, True
        return
    row[1 : len(sample.tokens) + 1] = sample.tokens
    labels[sample.answer.start : sample.answer.stop + 1] = True  # label i is token i + 1


def used(label_mask: np.ndarray) -> int:
    """Labels (n, S) up to the last that counts in any row: what comes after them, a causal model need not be given."""
    counted = np.flatnonzero(label_mask.any(axis=0))
    return int(counted[-1]) + 1 if len(counted) else 1
