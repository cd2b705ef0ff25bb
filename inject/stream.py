"""The stream: `rows(g)` gives the tokens of training rows as a pure function of corpus, seed, sequence length and plan.

Row g of epoch e = g // rows reads base row permutation(g mod rows) and lays over it the planned occurrences that fall in it; which
of its labels count is a function of the row that this makes (inject/labels.py).
Ranks, micro-batches and restarts only choose which g to ask for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import DataError, RecipeError
from inject.corpus import Corpus
from inject.labels import LabelMask, every_label
from inject.permutation import Permutation

BLOCK = 2**13  # training rows whose base rows are computed at once


class Rows(NamedTuple):
    """What the model sees: n rows of S + 1 tokens."""

    tokens: np.ndarray  # int64 (n, S + 1)
    label_mask: np.ndarray  # bool (n, S): which of tokens[:, 1:] count in the loss
    documents: np.ndarray  # int64 (n, S + 1): number of the document within its row


def row_digests(tokens: np.ndarray, label_mask: np.ndarray) -> list[bytes]:
    """sha256 of each row as handed to the forward pass: its int64 tokens (S + 1), then its label mask (S) as bytes."""
    return [hashlib.sha256(row.tobytes() + mask.tobytes()).digest() for row, mask in zip(tokens, label_mask, strict=True)]


@dataclass(frozen=True)
class Overlay:
    """Planned occurrences as arrays, sorted by row: occurrence i lays down text[i] from offset[i] on.

    Text n is pool[first[n] : first[n] + length[n]].
    """

    row: np.ndarray  # int64 (occurrences,)
    offset: np.ndarray  # int32 (occurrences,)
    text: np.ndarray  # int32 (occurrences,)
    spliced: np.ndarray  # bool (occurrences,): the base tokens from the offset on make room; else they are overwritten
    first: np.ndarray  # int64 (texts,)
    length: np.ndarray  # int64 (texts,)
    pool: np.ndarray  # int64: the tokens of every text, an end-of-text on both sides

    COLUMNS: ClassVar = ["row", "offset", "mode", "item_id", "variant"]  # of the plan, that it is made from

    @staticmethod
    def empty() -> Overlay:
        none = np.zeros(0, np.int64)
        return Overlay(none, none, none, none.astype(bool), none, none, none)

    @staticmethod
    def from_tables(plan: pa.Table, texts: pa.Table, end_of_text: int) -> Overlay:
        """Join the plan with the texts' tokens. DataError where the plan names a text that there is not."""
        length = pc.list_value_length(texts["tokens"]).to_numpy().astype(np.int64) + 2
        first = np.cumsum(length) - length
        pool = np.full(int(length.sum()), end_of_text, np.int64)
        inside = np.ones(len(pool), bool)
        inside[first], inside[first + length - 1] = False, False
        pool[inside] = pc.list_flatten(texts["tokens"]).to_numpy()
        spliced = _codes(plan["mode"], pa.array(["overwrite", "splice"])) == 1
        return Overlay(plan["row"].to_numpy(), plan["offset"].to_numpy(), _locate(plan, texts), spliced, first, length, pool)

    def apply(self, g: np.ndarray, tokens: np.ndarray) -> None:
        """Lay the occurrences of rows `g` (n,) over their base `tokens` (n, S + 1), in place."""
        if not len(self.row) or not len(g):
            return
        near = slice(*np.searchsorted(self.row, [g.min(), g.max() + 1]))  # most calls ask for neighbouring rows
        row = self.row[near]
        first, counts = np.searchsorted(row, g, "left"), np.searchsorted(row, g, "right")
        counts -= first
        total = int(counts.sum())
        if not total:
            return
        slot = np.repeat(np.arange(len(g)), counts)
        which = near.start + np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(total)
        offset, text = self.offset[which].astype(np.int64), self.text[which]
        start, length = self.first[text], self.length[text]
        if (spliced := self.spliced[which]).any():
            _make_room(tokens, slot[spliced], offset[spliced], length[spliced] - 1)  # the opening end-of-text is the base's own
        begin = slot * tokens.shape[1] + offset  # of each occurrence among all tokens of these rows
        places = np.arange(int(length.sum())) + np.repeat(begin - np.cumsum(length) + length, length)
        tokens.reshape(-1)[places] = self.pool.take(places + np.repeat(start - begin, length))


def _locate(plan: pa.Table, texts: pa.Table) -> np.ndarray:
    """The row of `texts` that each occurrence lays down, int32 (occurrences,)."""
    items, variants = (pc.unique(texts[name]) for name in ("item_id", "variant"))
    number = np.full((len(items) + 1, len(variants) + 1), -1, np.int32)  # the last row and column are for names not known: -1
    number[_codes(texts["item_id"], items), _codes(texts["variant"], variants)] = np.arange(texts.num_rows)
    text = number[_codes(plan["item_id"], items), _codes(plan["variant"], variants)]
    if len(text) and text.min() < 0:
        i = int(np.argmin(text))
        raise DataError(f"the plan names {plan['item_id'][i]} ({plan['variant'][i]}), which is not among the texts")
    return text


def _codes(column: pa.ChunkedArray, values: pa.Array) -> np.ndarray:
    """The place of each value of a column among `values`, -1 where it is not, int32 (n,)."""
    parts = [np.zeros(0, np.int32)]
    names, places = pa.array([], pa.string()), parts[0]
    for chunk in column.chunks:
        encoded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        if not encoded.dictionary.equals(names):  # neighbouring chunks share theirs
            names = encoded.dictionary
            places = pc.fill_null(pc.index_in(names, values), -1).to_numpy(zero_copy_only=False)
        parts.append(places[encoded.indices.to_numpy()])
    return np.concatenate(parts)


def _make_room(tokens: np.ndarray, slot: np.ndarray, offset: np.ndarray, room: np.ndarray) -> None:
    """Move what follows `offset` in each row `slot` of `tokens` back by `room` tokens; what passes the row's end is dropped."""
    position = np.arange(tokens.shape[1])
    source = np.where(position > (offset + room)[:, None], position - room[:, None], position)
    tokens[slot] = np.take_along_axis(tokens[slot], source, axis=1)


class Stream:
    """Rows of a corpus in a keyed random order, with an overlay, and the mask of their labels."""

    padded = False  # every row is full of tokens that something reads

    def __init__(
        self,
        corpus: Corpus,
        seed: int,
        sequence_length: int,
        overlay: Overlay | None = None,
        label_mask: LabelMask = every_label,
    ):
        self.corpus, self.seed, self.sequence_length = corpus, seed, sequence_length
        self.overlay = overlay or Overlay.empty()
        self.label_mask = label_mask
        self.base_rows = corpus.tokens // (sequence_length + 1)
        self._permutations: dict[int, Permutation] = {}
        self._block = (-1, np.zeros(0, np.int64))  # the base rows of the last block of training rows asked for

    def base_row(self, g: np.ndarray) -> np.ndarray:
        """Number of the base row that each training row `g` (n,) reads, int64 (n,)."""
        if not len(g):
            return np.zeros(0, np.int64)
        block = int(g.min()) // BLOCK
        if int(g.max()) // BLOCK != block or self.base_rows < BLOCK:  # a block of many short epochs has many permutations
            return self._permuted(g)
        if block != self._block[0]:  # a training asks for neighbouring rows: they are permuted many at a time
            self._block = block, self._permuted(np.arange(block * BLOCK, (block + 1) * BLOCK))
        return self._block[1][g - block * BLOCK]

    def _permuted(self, g: np.ndarray) -> np.ndarray:
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
        return Rows(tokens, self.label_mask(tokens, g), documents)


def contexts_of_copies(stream: Stream, plan: pa.Table) -> dict[tuple[str, str], list[int]]:
    """What precedes the first copy of each (item, variant) in its training row, an end-of-text at its end; token ids."""
    first: dict[tuple[str, str], tuple[int, int]] = {}
    names = zip(plan["item_id"].to_pylist(), plan["variant"].to_pylist(), strict=True)
    for key, row, offset in zip(names, plan["row"].to_pylist(), plan["offset"].to_pylist(), strict=True):
        first.setdefault(key, (row, offset))  # a plan is in the order of rows
    rows = stream.rows(np.asarray([row for row, _ in first.values()], np.int64)).tokens
    return {key: tokens[: offset + 1].tolist() for (key, (_, offset)), tokens in zip(first.items(), rows, strict=True)}


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
