"""The occurrences of a plan one by one: the row each should make of its base row, and what the plan promises of it.

The trainer's rows come from inject/stream.py, which lays millions of occurrences in a few array operations. What is here takes one
occurrence after the other and shares no code with it, so that the audit does not repeat its mistakes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from configs.errors import DataError
from configs.tables import PLAN
from inject.stream import Stream


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One copy at one place: tokens [offset, offset + length) of a row."""

    row: int
    offset: int
    length: int
    mode: str  # overwrite | splice
    item_id: str
    copy: int  # from 0 on, as in the plan
    variant: str
    span: np.ndarray = field(compare=False)  # int64: the text's tokens, an end-of-text on both sides

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def spliced(self) -> bool:
        return self.mode == "splice"

    def __str__(self) -> str:
        return f"{self.item_id} copy {self.copy + 1} ({self.variant})"


class Planned:
    """The occurrences of a plan by row. DataError where a table lacks a column, or the plan names a text that there is not."""

    def __init__(self, plan: pa.Table, texts: pa.Table, end_of_text: int):
        require_columns(plan, PLAN.names, "the plan")
        require_columns(texts, ["item_id", "variant", "tokens"], "the table of texts")
        self.ordered = is_ordered(plan)
        self.table = plan if self.ordered else plan.sort_by([("row", "ascending"), ("offset", "ascending")])
        self.rows = self.table["row"].to_numpy()
        self.texts = {
            (item, variant): np.asarray(tokens, np.int64)
            for batch in texts.select(["item_id", "variant", "tokens"]).to_batches(max_chunksize=2**16)
            for item, variant, tokens in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        }
        self._end = np.asarray([end_of_text], np.int64)

    def count(self, first: int, last: int) -> int:
        """Occurrences in rows [first, last)."""
        start, end = np.searchsorted(self.rows, [first, last])
        return int(end - start)

    def among(self, first: int, last: int) -> dict[int, list[Occurrence]]:
        """The occurrences of rows [first, last), by row and in the order of their offsets."""
        start, end = np.searchsorted(self.rows, [first, last])
        found: dict[int, list[Occurrence]] = {}
        for entry in self.table.slice(start, end - start).select(PLAN.names).to_pylist():
            tokens = self.texts.get((entry["item_id"], entry["variant"]))
            if tokens is None:
                raise DataError(f"the plan names {entry['item_id']} ({entry['variant']}), which is not among the texts")
            span = np.concatenate([self._end, tokens, self._end])
            found.setdefault(entry["row"], []).append(Occurrence(**entry, span=span))
        return found


def is_ordered(plan: pa.Table) -> bool:
    """Whether a plan is sorted by row, then by offset."""
    row, offset = plan["row"].to_numpy(), plan["offset"].to_numpy()
    return bool(((row[1:] > row[:-1]) | ((row[1:] == row[:-1]) & (offset[1:] >= offset[:-1]))).all())


def require_columns(table: pa.Table, names: Sequence[str], what: str) -> None:
    """DataError where one of the columns is not there."""
    absent = [name for name in names if name not in table.column_names]
    if absent:
        raise DataError(f"{what} has no column {absent[0]!r}; it was not written by this version, or is damaged: make it anew")


def fault(occurrences: Sequence[Occurrence], base: np.ndarray, bounded: Collection[str]) -> tuple[Occurrence, str] | None:
    """The first of a row's occurrences that a sound plan would not have there, and why; None where all are sound.

    `occurrences` in the order of their offsets; `base`: tokens (S + 1,) of the row before any insertion; `bounded`: the items whose
    placement is at a boundary.
    """
    row = base  # behind a splice, boundaries have moved back
    free = splices = 0
    for occurrence in occurrences:
        offset, end = occurrence.offset, occurrence.end
        splices += occurrence.spliced
        if occurrence.mode not in ("overwrite", "splice"):
            return occurrence, f"its mode is {occurrence.mode!r}, which is neither overwrite nor splice"
        if occurrence.length != len(occurrence.span):
            return occurrence, f"its length is {occurrence.length}, but its text takes {len(occurrence.span)} tokens"
        if occurrence.length < 3:
            return occurrence, "its text has no tokens"
        if offset < 0 or end > len(base):
            return occurrence, f"tokens {offset} to {end - 1} are not within the row's {len(base)}"
        if offset < free:
            return occurrence, f"it begins at token {offset}, inside of what lies before it up to token {free - 1}"
        if splices > 1:
            return occurrence, "it is the second splice of its row, and at most one is possible"
        if (occurrence.spliced or occurrence.item_id in bounded) and row[offset] != occurrence.span[0]:
            return occurrence, f"it should lie at a boundary, but no document of the corpus ends at token {offset}"
        if occurrence.spliced:
            row = expected_row(row, [occurrence])
        free = end
    return None


def expected_row(base: np.ndarray, occurrences: Sequence[Occurrence]) -> np.ndarray:
    """The row that occurrences make of a base row (S + 1,), int64 (S + 1,).

    A splice puts its span in place of the one end-of-text at its offset, and what passes the row's end is dropped; then the others
    overwrite what is there.

    >>> base = np.array([5, 0, 6, 7, 8])
    >>> copy = Occurrence(0, 1, 3, "splice", "item", 0, "text", np.array([0, 9, 0]))
    >>> expected_row(base, [copy]).tolist()
    [5, 0, 9, 0, 6]
    """
    row = base.copy()
    for occurrence in occurrences:
        if occurrence.spliced:
            before, after = row[: occurrence.offset], row[occurrence.offset + 1 :]
            row = np.concatenate([before, occurrence.span, after])[: len(base)]
    for occurrence in occurrences:
        if not occurrence.spliced:
            row[occurrence.offset : occurrence.end] = occurrence.span
    return row


def keeps_promises(row: np.ndarray, base: np.ndarray, occurrences: Sequence[Occurrence]) -> bool:
    """Whether each occurrence's span is whole at its place, and nothing else differs from the base row but by moving back.

    Outside overwritten spans the row is its base; without its spliced span (of which the opening end-of-text is the base's own) it
    is the beginning of its base. All arrays are (S + 1,).
    """
    spliced, overwritten = np.zeros(len(row), bool), np.zeros(len(row), bool)
    for occurrence in occurrences:
        if not np.array_equal(row[occurrence.offset : occurrence.end], occurrence.span):
            return False
        if occurrence.spliced:
            spliced[occurrence.offset + 1 : occurrence.end] = True
        else:
            overwritten[occurrence.offset : occurrence.end] = True
    kept, own = row[~spliced], ~overwritten[~spliced]
    return bool(np.array_equal(kept[own], base[: len(kept)][own]))


def displaced(occurrence: Occurrence, base: np.ndarray) -> int:
    """Base tokens that are not in the row because of an occurrence: its length, less the end-of-text that was there before."""
    return occurrence.length - int(occurrence.spliced or base[occurrence.offset] == occurrence.span[0])


class Expected(NamedTuple):
    """Rows as corpus and plan say, and of those with occurrences (by number among them) what was needed to make them."""

    tokens: np.ndarray  # int64 (n, S + 1); of rows with a fault, the base tokens
    occurrences: dict[int, list[Occurrence]]
    base: dict[int, np.ndarray]  # int64 (S + 1,)
    faults: dict[int, tuple[Occurrence, str]]


def expected_rows(stream: Stream, planned: Planned, g: np.ndarray, bounded: Collection[str] = ()) -> Expected:
    """What rows `g` (n,), ascending, should be; the stream gives their base tokens. `bounded`: as for `fault`."""
    tokens = stream.base_tokens(g)
    found = planned.among(int(g[0]), int(g[-1]) + 1) if len(g) else {}
    occurrences: dict[int, list[Occurrence]] = {}
    base: dict[int, np.ndarray] = {}
    faults: dict[int, tuple[Occurrence, str]] = {}
    for row, own in found.items():
        i = int(np.searchsorted(g, row))
        if g[i] != row:
            continue
        base[i], occurrences[i] = tokens[i].copy(), own
        if wrong := fault(own, base[i], bounded):
            faults[i] = wrong
        else:
            tokens[i] = expected_row(base[i], own)
    return Expected(tokens, occurrences, base, faults)
