"""Rows that the ledger shows not to be the planned ones: what they were instead, as far as their digests tell.

A digest gives away nothing but equality. So rows that could have taken the planned row's place are made and compared: the row
without an insertion, with an insertion at every other offset, and every other row of the training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from configs.progress import progress
from inject.certificate import Violation
from inject.design import Shape
from inject.labels import every_label
from inject.occurrences import Occurrence, Planned, expected_row, expected_rows
from inject.stream import Stream, row_digests

CHUNK_TOKENS = 2**22  # of rows made at once


@dataclass(frozen=True)
class Deviation:
    """A row whose recorded digest (None: there is none) is not that of the planned row."""

    step: int
    slot: int
    row: int
    recorded: bytes | None


def digests(stream: Stream, tokens: np.ndarray, g: np.ndarray) -> list[bytes]:
    """sha256 of rows `g` (n,) if they were `tokens` (n, S + 1), with the labels that would count then, as the ledger has them."""
    return row_digests(tokens, stream.label_mask(tokens, g))


def explain(
    deviations: Sequence[Deviation], stream: Stream, planned: Planned, bounded: Collection[str], shape: Shape
) -> list[Violation]:
    """What each deviation is, in the order given; those of a step that holds the rows of another one are told as one."""
    elsewhere = _elsewhere(deviations, stream, planned, bounded, shape)
    violations = []
    for step, group in groupby(deviations, key=lambda deviation: deviation.step):
        own = list(group)
        moves = {elsewhere.get(deviation, -1) - deviation.row for deviation in own}
        move = moves.pop()
        if not moves and len(own) == shape.global_batch and own[0] in elsewhere and move % shape.global_batch == 0:
            other = step + move // shape.global_batch
            what = f"it holds the rows of step {other:,}: steps were skipped, repeated or exchanged"
            violations.append(Violation("order", what, step))
        else:
            violations += [_explain_row(deviation, elsewhere, stream, planned, bounded, shape) for deviation in own]
    return violations


def _elsewhere(
    deviations: Sequence[Deviation], stream: Stream, planned: Planned, bounded: Collection[str], shape: Shape
) -> dict[Deviation, int]:
    """The row of the training that each deviation holds, the nearest if there are several; without those that hold none."""
    wanted: dict[bytes, list[Deviation]] = {}
    for deviation in deviations:
        if deviation.recorded is not None:
            wanted.setdefault(deviation.recorded, []).append(deviation)
    found: dict[Deviation, int] = {}
    if not wanted:
        return found
    size = max(1, CHUNK_TOKENS // shape.row_tokens)
    with progress("compare with every other row", "rows", shape.rows) as meter:
        for first in range(0, shape.rows, size):
            g = np.arange(first, min(first + size, shape.rows))
            made = digests(stream, expected_rows(stream, planned, g, bounded).tokens, g)
            for row, digest in zip(g.tolist(), made, strict=True):
                for deviation in wanted.get(digest, []):
                    if deviation not in found or abs(row - deviation.row) < abs(found[deviation] - deviation.row):
                        found[deviation] = row
            meter.advance(len(g))
    return found


def _explain_row(
    deviation: Deviation,
    elsewhere: dict[Deviation, int],
    stream: Stream,
    planned: Planned,
    bounded: Collection[str],
    shape: Shape,
) -> Violation:
    g = np.asarray([deviation.row])
    expected = expected_rows(stream, planned, g, bounded)
    occurrences = expected.occurrences.get(0, [])
    kind, what, which = "differs", "", None
    if deviation.recorded is None:
        kind, what = "missing", "the row is not among those recorded for its step"
    elif row_digests(expected.tokens, every_label(expected.tokens, g)) == [deviation.recorded]:
        what = "its tokens are the planned ones, but no label is left out"
    elif occurrences and (changed := _changed(deviation, stream, expected.base[0], occurrences)):
        kind, what, which = changed
    elif deviation in elsewhere:
        other = elsewhere[deviation]
        kind, what = "order", f"it holds row {other:,}, which belongs to step {other // shape.global_batch:,}"
    else:
        what = "its tokens or labels are not the planned ones, nor those of any other row"
    if which is None and occurrences:
        which = occurrences[0]
        what += f"; planned there: {', '.join(str(occurrence) for occurrence in occurrences)}"
    item, copy = (which.item_id, which.copy) if which else (None, None)
    return Violation(kind, what, deviation.step, deviation.slot, deviation.row, item, copy)


def _changed(
    deviation: Deviation, stream: Stream, base: np.ndarray, occurrences: Sequence[Occurrence]
) -> tuple[str, str, Occurrence | None] | None:
    """What was done to a row's occurrences, if its digest tells: (kind, in words, the occurrence or None for all of them)."""

    def recorded(row: np.ndarray) -> bool:
        return digests(stream, row[None], np.asarray([deviation.row]))[0] == deviation.recorded

    if recorded(base):
        return "missing", "the row is that of the corpus, without an insertion", None
    for i, occurrence in enumerate(occurrences):
        others = [*occurrences[:i], *occurrences[i + 1 :]]
        if recorded(expected_row(base, others)):
            return "missing", f"{occurrence} is not in its row", occurrence
        for offset in range(len(base) - occurrence.length + 1):
            if recorded(expected_row(base, [*others, replace(occurrence, offset=offset)])):
                return "moved", f"{occurrence} lies at token {offset}, planned at {occurrence.offset}", occurrence
    return None
