"""A placebo for a removal: as many base spans changed, at the same steps, and no item touched.

Any change of a row makes all training after it diverge, in what it knows of every text. To take copies out of a plan changes the
spans they lay on: base text stands there again. The placebo does the opposite, elsewhere: for each copy that the removal takes out
it lays a span of other base text, as long and bounded by end-of-texts as the copy was, over a row of the same step that holds no
insertion. What both do alike is the divergence; what the removal does beyond is an effect of the items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import RecipeError
from configs.tables import PLACEBO
from inject.design import Shape
from inject.stream import Stream

SPARE = 2  # times as many tokens as needed are read, for those that end a text are left out


def placebo_spans(removed: pa.Table, plan: pa.Table, stream: Stream, texts_from: range, shape: Shape, seed: int) -> pa.Table:
    """The placebo's spans, a PLACEBO table sorted by row: one for each occurrence of `removed`, a part of `plan`.

    Each lies in a row of the occurrence's step without an insertion, or of the nearest step that has one, at the offset of the
    occurrence; a splice at the end of a document that lies nearest to it. `stream` gives base rows. `texts_from`: numbers of
    training rows, none of which training reads, whose tokens the spans are. RecipeError where there is no room, or no text.
    """
    if not len(texts_from):
        raise RecipeError("training reads every row of the corpus, so there is no other base text for a placebo; give more text")
    random = np.random.Generator(np.random.Philox([seed, 0]))
    occurrences = removed.select(["row", "offset", "length", "mode"]).to_pylist()
    free = _Free(plan["row"].to_numpy(), shape, min(o["row"] for o in occurrences) // shape.global_batch, random)
    tokens = _other_text(sum(o["length"] - 2 for o in occurrences), stream, texts_from, random)
    spans, begin = [], 0
    for number, occurrence in enumerate(occurrences):
        row, offset = _place(occurrence, free, stream, shape)
        end = begin + occurrence["length"] - 2
        span = {"row": row, "offset": offset, "length": occurrence["length"], "mode": occurrence["mode"]}
        spans.append({**span, "item_id": f"placebo-{seed}-{number:04d}", "tokens": tokens[begin:end].tolist()})
        begin = end
    return pa.Table.from_pylist(sorted(spans, key=lambda span: span["row"]), PLACEBO)


class _Free:
    """The rows from the first removed copy's step on that hold no insertion and no span yet."""

    def __init__(self, occupied: np.ndarray, shape: Shape, first: int, random: np.random.Generator):
        self.occupied, self.shape, self.first, self.random = occupied, shape, first, random
        self.used: set[int] = set()

    def of_step(self, step: int) -> list[int]:
        """In random order."""
        batch = self.shape.global_batch
        low, high = np.searchsorted(self.occupied, [step * batch, (step + 1) * batch])
        rows = np.setdiff1d(np.arange(step * batch, (step + 1) * batch), self.occupied[low:high])
        return [row for row in self.random.permutation(rows).tolist() if row not in self.used]

    def nearest(self, own: int) -> Iterator[int]:
        """The rows, those of step `own` first, then those of the steps around it."""
        for distance in range(self.shape.steps):
            for step in dict.fromkeys([own + distance, own - distance]):
                if self.first <= step < self.shape.steps:
                    yield from self.of_step(step)


def _place(occurrence: Mapping[str, Any], free: _Free, stream: Stream, shape: Shape) -> tuple[int, int]:
    """The row and offset of the span for an occurrence; the row is then no longer free."""
    for row in free.nearest(occurrence["row"] // shape.global_batch):
        if (offset := _offset(occurrence, row, stream, shape)) is not None:
            free.used.add(row)
            return row, offset
    needed = " and with the end of a document for a splice" if occurrence["mode"] == "splice" else ""
    raise RecipeError(
        "there is no room for a placebo: it changes a base span for each copy that is removed, in a row of its own without "
        f"insertions{needed}; from step {free.first:,} on there are {len(free.used):,} such rows; remove fewer items"
    )


def _offset(occurrence: Mapping[str, Any], row: int, stream: Stream, shape: Shape) -> int | None:
    """Where in a free row the span lies: at the occurrence's offset, or, spliced, at the nearest end-of-text with room behind."""
    if occurrence["mode"] == "overwrite":
        return int(occurrence["offset"])
    [tokens] = stream.base_tokens(np.asarray([row]))
    ends = np.flatnonzero(tokens[: shape.row_tokens + 1 - occurrence["length"]] == stream.corpus.end_of_text)
    return int(ends[np.argmin(np.abs(ends - occurrence["offset"]))]) if len(ends) else None


def _other_text(count: int, stream: Stream, texts_from: range, random: np.random.Generator) -> np.ndarray:
    """So many tokens of rows chosen at random, end-of-texts left out, int64 (count,); repeated where there are not enough."""
    rows = min(len(texts_from), SPARE * -(-count // (stream.sequence_length + 1)) + 1)
    chosen = texts_from.start + np.sort(random.choice(len(texts_from), rows, replace=False))
    tokens = stream.base_tokens(chosen).reshape(-1)
    return np.resize(tokens[tokens != stream.corpus.end_of_text], count)
