"""What the model saw in a step: its rows decoded, with every insertion marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from configs.errors import DataError, RecipeError
from configs.tables import PLAN
from inject.design import Shape
from inject.mixture import Mixture
from inject.occurrences import require_columns
from inject.stream import Stream
from inject.tokenizer import decode

COLOURS = ["bright_yellow", "bright_cyan", "bright_magenta", "bright_green", "bright_red", "bright_blue"]
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # not tabs and line ends; the others could steer a terminal


@dataclass(frozen=True)
class Insertion:
    """An occurrence, told to people: its copies count from 1 on."""

    item_id: str
    copy: int
    copies: int  # of the item in the plan
    variant: str
    mode: str
    offset: int
    length: int  # the end-of-text tokens on both sides included

    @property
    def label(self) -> str:
        return f"{self.item_id} copy {self.copy}/{self.copies} {self.variant} {self.mode} @{self.offset}"


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of one origin, decoded; bytes that are no whole character appear as the replacement character."""

    text: str
    tokens: int
    insertion: Insertion | None = None  # None: of the corpus
    end: bool = False  # an end-of-text token


@dataclass(frozen=True)
class InspectedRow:
    row: int
    slot: int
    base_row: int
    segments: list[Segment]
    left_out: int = 0  # labels that the loss does not count


def rows_of_step(
    stream: Stream, plan: pa.Table, step: int, shape: Shape, tokenizer: PreTrainedTokenizerFast, row: int | None = None
) -> list[InspectedRow]:
    """The rows of a step, or one of them (numbered as in the plan: step * global_batch + slot), as the stream gives them.

    RecipeError where there is no such step, or the row is not in it. DataError where the plan lacks a column.
    """
    if not 0 <= step < shape.steps:
        raise RecipeError(f"--step is {step}; the run has steps 0 to {shape.steps - 1:,}")
    first, last = step * shape.global_batch, (step + 1) * shape.global_batch
    if row is not None and not first <= row < last:
        raise RecipeError(f"--row is {row}; step {step:,} has rows {first} to {last - 1}")
    require_columns(plan, PLAN.names, "the plan")
    g = np.arange(first, last) if row is None else np.asarray([row])
    insertions, rows = _insertions(plan, g), stream.rows(g)
    inspected = []
    for number, base_row, tokens, labels in zip(g.tolist(), stream.base_row(g).tolist(), rows.tokens, rows.label_mask, strict=True):
        segments = list(_segments(tokens, insertions.get(number, []), stream, tokenizer))
        inspected.append(InspectedRow(number, number - first, base_row, segments, int((~labels).sum())))
    return inspected


def _insertions(plan: pa.Table, g: np.ndarray) -> dict[int, list[Insertion]]:
    """Those of rows `g`, by row and in the order of their offsets."""
    chosen = plan.filter(pc.is_in(plan["row"], pa.array(g))).sort_by([("row", "ascending"), ("offset", "ascending")]).to_pylist()
    copies = {item: pc.sum(pc.equal(plan["item_id"], item)).as_py() for item in {entry["item_id"] for entry in chosen}}
    found: dict[int, list[Insertion]] = {}
    for entry in chosen:
        item, copy = entry["item_id"], entry["copy"] + 1
        insertion = Insertion(item, copy, copies[item], entry["variant"], entry["mode"], entry["offset"], entry["length"])
        found.setdefault(entry["row"], []).append(insertion)
    return found


def _segments(
    tokens: np.ndarray, insertions: Sequence[Insertion], stream: Stream, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Segment]:
    """A row's tokens (S + 1,) in runs of one origin, each end-of-text a segment of its own."""
    origin = np.full(len(tokens), -1)
    for number, insertion in enumerate(insertions):
        if insertion.offset < 0 or insertion.offset + insertion.length > len(tokens):
            raise DataError(f"the plan has {insertion.label} reach beyond its row's {len(tokens)} tokens; run imprint audit")
        origin[insertion.offset : insertion.offset + insertion.length] = number
    ends = tokens == stream.corpus.end_of_text
    cuts = np.flatnonzero((np.diff(origin) != 0) | ends[1:] | ends[:-1]) + 1
    for part in np.split(np.arange(len(tokens)), cuts):
        number = int(origin[part[0]])
        text = decode(tokenizer, tokens[part].tolist())
        yield Segment(text, len(part), insertions[number] if number >= 0 else None, bool(ends[part[0]]))


def render(rows: Sequence[InspectedRow], step: int) -> Group:
    """The rows for a terminal: insertions coloured by item, and in labelled brackets, which are seen without colours too."""
    items = list(dict.fromkeys(segment.insertion.item_id for row in rows for segment in row.segments if segment.insertion))
    colours = {item: COLOURS[number % len(COLOURS)] for number, item in enumerate(items)}
    parts = []
    for row in rows:
        left_out = f", {row.left_out:,} labels left out" if row.left_out else ""
        parts.append(Text(f"step {step:,}, slot {row.slot}, row {row.row:,} (base row {row.base_row:,}){left_out}", style="bold"))
        body, current = Text(), None
        for segment in row.segments:
            if segment.insertion != current:
                _bracket(body, current, "⟧", colours)
                _bracket(body, segment.insertion, f"⟦{segment.insertion.label if segment.insertion else ''}: ", colours)
                current = segment.insertion
            style = colours[segment.insertion.item_id] if segment.insertion else ""
            body.append(printable(segment.text), style=f"{style} dim" if segment.end else style)
        _bracket(body, current, "⟧", colours)
        parts += [body, Text()]
    return Group(*parts)


def _bracket(body: Text, insertion: Insertion | None, mark: str, colours: dict[str, str]) -> None:
    if insertion:
        body.append(mark, style=f"{colours[insertion.item_id]} bold reverse")


def render_mixture(stream: Mixture, step: int, tokenizer: PreTrainedTokenizerFast, row: int | None = None) -> Group:
    """The rows of a stage's step, or one of them by its number in the stream, for a terminal: what is learned is in brackets, and
    padding is left out.
    """
    numbers = np.arange(step * stream.batch, (step + 1) * stream.batch) if row is None else np.asarray([row])
    rows, parts = stream.rows(numbers), []
    for number, tokens, labels in zip(numbers.tolist(), rows.tokens, rows.label_mask, strict=True):
        part, sample = stream.drawn(number)
        what = part.items[sample] if part.items and part.items[sample] else f"sample {sample:,}"
        parts.append(Text(f"step {step:,}, slot {number % stream.batch}, row {number:,}: {part.name}, {what}", style="bold"))
        learned, body = np.concatenate([[False], labels]), Text()
        last = int(np.flatnonzero(learned)[-1]) + 1 if labels.any() else len(tokens)
        for own in np.split(np.arange(last), np.flatnonzero(np.diff(learned[:last])) + 1):
            text = printable(decode(tokenizer, tokens[own].tolist()))
            body.append(f"⟦{text}⟧" if learned[own[0]] else text, style=COLOURS[0] if learned[own[0]] else "")
        parts += [body, Text()]
    return Group(*parts)


def printable(text: str) -> str:
    r"""Text whose control characters but tabs and line ends are spelled out.

    >>> printable("a\x1b[2J\tb")
    'a\\x1b[2J\tb'
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
