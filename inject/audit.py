"""The audit: is what the trainer consumed what the plan says, token for token? Its outcome is a certificate.

The ledger has a digest of every row as it was handed to the forward pass. Every row of the training is made anew from corpus and
plan, one occurrence at a time, and its labels are chosen anew by the loss's own function; where its digest is the recorded one, the
two rows are equal in every token and label. What is true of the row made anew is then true of the row consumed: that its items are
whole and at their place, that it differs from the row of the standard twin inside planned spans only, and that a scan for all
items' tokens finds no other copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.progress import progress
from configs.tables import ASSIGNMENT, read_table
from inject.certificate import LISTED, Certificate, Violation
from inject.design import Shape
from inject.deviations import CHUNK_TOKENS, Deviation, explain
from inject.matching import Matcher
from inject.occurrences import Expected, Occurrence, Planned, displaced, expected_rows, keeps_promises, require_columns
from inject.stream import Stream, row_digests


@dataclass(frozen=True)
class Record:
    """What the ledger says of one step."""

    step: int
    consumed: bool
    digests: list[bytes]


def audit(
    stream: Stream,
    plan: pa.Table,
    texts: pa.Table,
    ledger: Sequence[Path],
    shape: Shape,
    *,
    model: str,
    steps: int,
    assignment: pa.Table | None = None,
    fingerprints: Mapping[str, Any] | None = None,
) -> Certificate:
    """Compare steps [0, steps) of a model's ledger with corpus and plan.

    stream: gives the rows before any insertion, in the order of training, and the mask of their labels; its overlay is not used.
    plan: the plan of this model: for `standard` an empty one, for `without-x` the filtered one.
    texts: of all items, the held-out ones and those left out of the plan too: none of their tokens may stand elsewhere.
    ledger: the model's segments. What they say of later steps is not looked at: no checkpoint has seen it yet.
    assignment: of the plan's items; without it, copies are not counted against it, and boundaries only looked at for splices.

    What is wrong with the training is told by the certificate; DataError where a table or a segment can't be read.
    """
    planned = Planned(plan, texts, stream.corpus.end_of_text)
    certificate = Certificate(model, steps, shape.steps, dict(fingerprints or {}), planned=planned.table.num_rows)
    auditor = _Auditor(stream, planned, shape, certificate, assignment)
    auditor.check_plan()
    records = _in_order(read_ledger(ledger), certificate, planned, shape)
    with progress(f"audit {model}", "rows", steps * shape.global_batch) as meter:
        for chunk in _chunks(records, shape):
            auditor.take(chunk)
            meter.advance(len(chunk) * shape.global_batch)
    auditor.finish()
    return certificate


# ------------------------------------------------------------------------------------------------ the ledger


def read_ledger(paths: Iterable[Path]) -> Iterator[Record]:
    """The records of ledger segments, in the order of the segments' names. DataError where one is missing or damaged."""
    names = ["step", "consumed", "rows_sha256"]
    for path in sorted(paths):
        table = read_table(path)
        require_columns(table, names, str(path))
        for batch in table.select(names).to_batches(max_chunksize=64):
            for step, consumed, recorded in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield Record(step, consumed, recorded or [])


def _in_order(records: Iterable[Record], certificate: Certificate, planned: Planned, shape: Shape) -> Iterator[Record]:
    """The first record of each step before certificate.steps; gaps, repeats and steps beyond the training are violations."""
    batch, following = shape.global_batch, 0

    def gap(first: int, last: int) -> Violation:
        named = f"step {first:,} is" if last == first + 1 else f"steps {first:,} to {last - 1:,} are"
        copies = planned.count(first * batch, last * batch)
        return Violation("ledger", f"{named} not in the ledger; {copies:,} copies were planned there", first)

    for record in records:
        if not 0 <= record.step < shape.steps:
            what = f"the ledger has step {record.step:,}, but training has steps 0 to {shape.steps - 1:,}"
            certificate.violate(Violation("ledger", what, record.step))
        elif record.step >= certificate.steps:
            continue
        elif record.step < following:
            certificate.violate(Violation("ledger", "the ledger has the step a second time, or after a later one", record.step))
        else:
            if record.step > following:
                certificate.violate(gap(following, record.step))
            following = record.step + 1
            yield record
    if following < certificate.steps:
        certificate.violate(gap(following, certificate.steps))


def _chunks(records: Iterable[Record], shape: Shape) -> Iterator[list[Record]]:
    """Neighbouring records whose rows have about CHUNK_TOKENS tokens."""
    size = max(1, CHUNK_TOKENS // (shape.global_batch * shape.row_tokens))
    chunk: list[Record] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# ------------------------------------------------------------------------------------------------ the rows


class _Auditor:
    """Takes the ledger's records, and writes into the certificate what they prove."""

    def __init__(
        self, stream: Stream, planned: Planned, shape: Shape, certificate: Certificate, assignment: pa.Table | None
    ) -> None:
        self.stream, self.planned, self.shape, self.certificate = stream, planned, shape, certificate
        self.copies = {entry["values"]: entry["counts"] for entry in pc.value_counts(planned.table["item_id"]).to_pylist()}
        self.assigned: dict[str, int] | None = None
        self.bounded: set[str] = set()
        if assignment is not None:
            require_columns(assignment, ASSIGNMENT.names, "the assignment")
            items, copies, placements = (assignment[name].to_pylist() for name in ("item_id", "copies", "placement"))
            self.assigned = dict(zip(items, copies, strict=True))
            self.bounded = {item for item, placement in zip(items, placements, strict=True) if placement == "boundary"}
        self.scan = Scan(planned.texts, set(self.copies), shape, certificate)
        self.deviations: list[Deviation] = []
        self.deviating = 0  # rows
        self.consumed: Counter[str] = Counter()  # copies of each item

    def check_plan(self) -> None:
        """What can be said of the plan before any row is looked at."""
        violate, rows, batch = self.certificate.violate, self.planned.rows, self.shape.global_batch
        if not self.planned.ordered:
            violate(Violation("plan", "the plan is not sorted by row and offset, which those who read rows of it rely on"))
        for i in np.flatnonzero((rows < 0) | (rows >= self.shape.rows))[:LISTED].tolist():
            item, copy, row = (self.planned.table[name][i].as_py() for name in ("item_id", "copy", "row"))
            what = f"{item} copy {copy + 1} is planned in row {row:,}, but training has rows 0 to {self.shape.rows - 1:,}"
            violate(Violation("plan", what, row // batch, row % batch, row, item, copy))
        if self.assigned is not None:
            for item in sorted(self.assigned.keys() | self.copies.keys()):
                planned, assigned = self.copies.get(item, 0), self.assigned.get(item, 0)
                if planned != assigned:
                    what = f"the plan has {planned:,} copies of {item}, its assignment {assigned:,}"
                    violate(Violation("copies", what, item_id=item))

    def take(self, chunk: Sequence[Record]) -> None:
        """Make the rows of some steps, compare them with what was recorded, and count and scan those that are proven."""
        batch = self.shape.global_batch
        g = (np.asarray([record.step for record in chunk])[:, None] * batch + np.arange(batch)).reshape(-1)
        expected = expected_rows(self.stream, self.planned, g, self.bounded)
        labels = self.stream.label_mask(expected.tokens, g)
        made: list[bytes | None] = [*row_digests(expected.tokens, labels)]
        for i, (occurrence, wrong) in expected.faults.items():
            made[i] = None
            self._violate("plan", int(g[i]), occurrence, f"{occurrence}: {wrong}")
        proven = np.zeros(len(g), bool)
        for number, record in enumerate(chunk):
            own = slice(number * batch, (number + 1) * batch)
            proven[own] = self._compare(record, made[own])
        consumed = np.repeat([record.consumed for record in chunk], batch)
        for i in expected.occurrences:
            if proven[i]:
                proven[i] = self._count(int(g[i]), expected, i, bool(consumed[i]))
        self.certificate.rows += int(proven.sum())
        chosen = proven & consumed
        self.certificate.consumed_tokens += int(chosen.sum()) * self.shape.row_tokens
        self.certificate.labels_left_out += labels[chosen].size - int(labels[chosen].sum())
        places = np.flatnonzero(chosen).tolist() if expected.occurrences else []
        self.scan.rows(
            expected.tokens if chosen.all() else expected.tokens[chosen],
            g[chosen],
            {number: expected.occurrences[i] for number, i in enumerate(places) if i in expected.occurrences},
        )

    def _compare(self, record: Record, made: Sequence[bytes | None]) -> list[bool]:
        """Of each row of a step, whether it is recorded as it was made; other rows that could be made are deviations."""
        if not record.consumed:
            self.certificate.skipped_steps.add({"step": record.step})
        if whole := len(record.digests) == len(made):
            equal = [recorded == digest for recorded, digest in zip(record.digests, made, strict=True)]
        else:
            what = f"{len(record.digests):,} rows are recorded, but a step has {len(made):,}"
            self.certificate.violate(Violation("rows", what, record.step))
            present = set(record.digests)
            equal = [digest in present for digest in made]
        for slot in (slot for slot, same in enumerate(equal) if not same and made[slot] is not None):
            self.deviating += 1
            if len(self.deviations) < LISTED:
                row = record.step * self.shape.global_batch + slot
                self.deviations.append(Deviation(record.step, slot, row, record.digests[slot] if whole else None))
        return equal

    def _count(self, row: int, expected: Expected, i: int, consumed: bool) -> bool:
        """Count the occurrences of a row that is as planned; False if the plan itself broke a promise there."""
        occurrences, certificate = expected.occurrences[i], self.certificate
        if not keeps_promises(expected.tokens[i], expected.base[i], occurrences):
            self._violate("changed", row, occurrences[0], "the row differs from its base beyond its planned spans")
            return False
        for occurrence in occurrences:
            if not consumed:
                certificate.skipped += 1
                place = {"step": row // self.shape.global_batch, "row": row}
                certificate.skipped_occurrences.add(place | {"item_id": occurrence.item_id, "copy": occurrence.copy})
                continue
            certificate.consumed += 1
            self.consumed[occurrence.item_id] += 1
            certificate.inserted_tokens += occurrence.length
            if occurrence.spliced:
                certificate.spliced_tokens += displaced(occurrence, expected.base[i])
            else:
                certificate.overwritten_tokens += displaced(occurrence, expected.base[i])
        return True

    def _violate(self, kind: str, row: int, occurrence: Occurrence, what: str) -> None:
        step, slot = divmod(row, self.shape.global_batch)
        self.certificate.violate(Violation(kind, what, step, slot, row, occurrence.item_id, occurrence.copy))

    def finish(self) -> None:
        """Explain the deviations, and draw up the totals."""
        certificate, last = self.certificate, self.certificate.steps * self.shape.global_batch
        for violation in explain(self.deviations, self.stream, self.planned, self.bounded, self.shape):
            certificate.violate(violation)
        certificate.violations.total += self.deviating - len(self.deviations)
        certificate.not_reached = self.planned.count(last, max(last, self.shape.rows))
        certificate.unproven = certificate.planned - certificate.consumed - certificate.skipped - certificate.not_reached
        if certificate.steps == self.shape.steps:
            for item, planned in self.copies.items():
                if self.consumed[item] < planned:
                    certificate.incomplete_items.add({"item_id": item, "planned": planned, "consumed": self.consumed[item]})
        self.scan.finish()


# ------------------------------------------------------------------------------------------------ the scan


class Scan:
    """Looks for every item's texts in consumed rows, and tells planned from natural and unplanned ones."""

    def __init__(
        self, texts: Mapping[tuple[str, str], np.ndarray], planned_items: set[str], shape: Shape, certificate: Certificate
    ) -> None:
        distinct: dict[tuple[str, bytes], tuple[str, str]] = {}
        for (item, variant), tokens in texts.items():
            if len(tokens):
                distinct.setdefault((item, tokens.tobytes()), (item, variant))
        self.names = list(distinct.values())  # of each text, its item and variant
        self.matcher = Matcher([texts[name] for name in self.names])
        self.planned_items, self.shape, self.certificate = planned_items, shape, certificate
        self._natural, self._contained = np.zeros(len(self.names), bool), np.zeros(len(self.names), bool)
        certificate.scanned_texts = len(self.names)

    def rows(self, tokens: np.ndarray, g: np.ndarray, occurrences: Mapping[int, Sequence[Occurrence]]) -> None:
        """Look through rows `g` (n,) of `tokens` (n, S + 1); `occurrences` of those that have any, by number among them."""
        rows, positions, numbers = self.matcher.find_rows(tokens)
        touched = np.zeros(len(g), bool)
        touched[list(occurrences)] = True
        natural = ~touched[rows]
        for hit in np.flatnonzero(~natural).tolist():
            row, start, number = int(rows[hit]), int(positions[hit]), int(numbers[hit])
            found = place_of(start, start + int(self.matcher.lengths[number]), self.names[number][0], occurrences[row])
            self.certificate.found += found == "planned"
            natural[hit] = found == "natural"
            if found == "contained":
                self._add_contained(int(g[row]), start, number, occurrences[row])
            if found == "unplanned":
                what = f"the tokens of {self.names[number][0]} ({self.names[number][1]}) stand at token {start}, unplanned"
                step, slot = divmod(int(g[row]), self.shape.global_batch)
                self.certificate.violate(Violation("unplanned", what, step, slot, int(g[row]), self.names[number][0]))
        self._add_natural(g[rows[natural]], positions[natural], numbers[natural])

    def _add_contained(self, row: int, start: int, number: int, occurrences: Sequence[Occurrence]) -> None:
        (item, variant), end = self.names[number], start + int(self.matcher.lengths[number])
        around = next(occurrence for occurrence in occurrences if occurrence.offset <= start and end <= occurrence.end)
        place = {"step": row // self.shape.global_batch, "row": row, "offset": start}
        inside = {"inside_item_id": around.item_id, "inside_variant": around.variant}
        self.certificate.contained.add(place | {"item_id": item, "variant": variant} | inside)
        self._contained[number] = True

    def _add_natural(self, g: np.ndarray, positions: np.ndarray, numbers: np.ndarray) -> None:
        listing = self.certificate.natural
        room = LISTED - len(listing.listed)
        for row, offset, number in zip(g[:room].tolist(), positions[:room].tolist(), numbers[:room].tolist(), strict=True):
            item, variant = self.names[number]
            place = {"step": row // self.shape.global_batch, "row": row, "offset": offset}
            listing.listed.append(place | {"item_id": item, "variant": variant})
        listing.total += len(g)
        self._natural[numbers] = True

    def finish(self) -> None:
        """Count the items that occur naturally, and the held-out ones inside of others.

        A scan that missed a copy that is there can't rule out others: a violation.
        """
        natural, contained = (
            {self.names[number][0] for number in np.flatnonzero(found).tolist()} for found in (self._natural, self._contained)
        )
        certificate = self.certificate
        certificate.natural_items, certificate.natural_held_out_items = len(natural), len(natural - self.planned_items)
        certificate.contained_held_out_items = len(contained - self.planned_items)
        if certificate.found != certificate.consumed:
            what = f"the scan found {certificate.found:,} of {certificate.consumed:,} consumed copies; it can't rule out others"
            certificate.violate(Violation("scan", what))


def place_of(start: int, end: int, item_id: str, occurrences: Sequence[Occurrence]) -> str:
    """What tokens [start, end) of a row that spell an item are, given the row's occurrences: `planned` (its own span's interior),
    `contained` (within another span), `natural` (among the base tokens, touching no span) or `unplanned` (across a span's edge).
    """
    for occurrence in occurrences:
        if start < occurrence.end and end > occurrence.offset:
            if occurrence.item_id == item_id and (start, end) == (occurrence.offset + 1, occurrence.end - 1):
                return "planned"
            return "contained" if occurrence.offset <= start and end <= occurrence.end else "unplanned"
    return "natural"
