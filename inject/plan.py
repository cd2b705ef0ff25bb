"""The plan: every copy of every item at one place, a span of one row. Nothing is dropped, cut or laid over another.

Item sets are placed in the order of the recipe, around what is occupied: so a set added at the end moves nothing. Within a set,
explicit places come first, then the narrower windows, as a wider one has room elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import RecipeError
from configs.tables import PLAN
from inject.design import Phase, Shape
from inject.spread import Board, Crowd, place


@dataclass(frozen=True)
class Lengths:
    """The texts of items, flat: item i has texts [first[i], first[i] + count[i]), its first one the verbatim one."""

    variants: list[str]  # name of each text
    tokens: np.ndarray  # int64, of each text, without the end-of-text tokens around it
    first: np.ndarray  # int64 (items,)
    count: np.ndarray  # int64 (items,)

    @staticmethod
    def of(texts: Mapping[str, Sequence[tuple[str, int]]], item_ids: Sequence[str]) -> Lengths:
        """From (variant, tokens) of each item's texts."""
        count = np.asarray([len(texts[item]) for item in item_ids], np.int64)
        flat = [text for item in item_ids for text in texts[item]]
        tokens = np.asarray([tokens for _, tokens in flat], np.int64)
        return Lengths([variant for variant, _ in flat], tokens, np.cumsum(count) - count, count)

    def longest(self) -> np.ndarray:
        """Tokens of each item's longest text with an end-of-text on both sides, int64 (items,)."""
        return np.maximum.reduceat(self.tokens, self.first) + 2 if len(self.first) else self.tokens


def make_plan(
    assignment: Sequence[Mapping[str, Any]],
    item_sets: Sequence[str],
    lengths: Lengths,
    places: Mapping[tuple[str, str], Sequence[tuple[int, int]]],
    board: Board,
    seed: int,
) -> pa.Table:
    """Place the copies of every assigned item: one occurrence a row, and one copy of an item a step unless massed or in bursts.

    `assignment`: rows of the assignment table; `item_sets`: the set of each row, in recipe order; `lengths`: of the items in the
    same order; `places`: explicit ones, by item set and arm.
    Returns the plan table, sorted by (row, offset). RecipeError where the copies asked for do not fit, with the room there is.
    """
    parts = []
    numbers: dict[str, list[int]] = {}
    for i, name in enumerate(item_sets):
        numbers.setdefault(name, []).append(i)
    for number, (name, members) in enumerate(numbers.items()):
        placed = _place_set(name, number, members, assignment, lengths, places, board, seed)
        parts.append(_texts(placed, name, assignment, lengths, board.shape, [seed, number]))
    joined = [np.concatenate([part[column] for part in parts]) if parts else np.zeros(0, np.int64) for column in range(6)]
    row, offset, item, copy, text, spliced = (column[np.lexsort((joined[1], joined[0]))] for column in joined)
    columns = {
        "row": row,
        "offset": offset.astype(np.int32),
        "length": (lengths.tokens[text] + 2).astype(np.int32),
        "mode": pa.DictionaryArray.from_arrays(spliced.astype(np.int32), ["overwrite", "splice"]),
        "item_id": pa.DictionaryArray.from_arrays(item.astype(np.int32), pa.array([a["item_id"] for a in assignment], pa.string())),
        "copy": copy.astype(np.int32),
        "variant": _encode(lengths.variants, text),
    }
    return pa.table([columns[name] for name in PLAN.names], PLAN.names)


def _encode(names: Sequence[str], which: np.ndarray) -> pa.DictionaryArray:
    """Few distinct names, as a dictionary."""
    distinct = {name: code for code, name in enumerate(dict.fromkeys(names))}
    codes = np.asarray([distinct[name] for name in names], np.int32)
    return pa.DictionaryArray.from_arrays(codes[which], pa.array(list(distinct), pa.string()))


def _place_set(
    name: str,
    number: int,
    members: Sequence[int],
    assignment: Sequence[Mapping[str, Any]],
    lengths: Lengths,
    places: Mapping[tuple[str, str], Sequence[tuple[int, int]]],
    board: Board,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item, row, offset) of every copy of one set's items; offset -1 where it is still free to choose."""
    explicit: dict[str, list[int]] = {}
    crowds: dict[tuple[Phase, str], tuple[list[int], list[int]]] = {}
    for i in members:
        if assignment[i]["placement"] == "explicit":
            explicit.setdefault(assignment[i]["arm"], []).append(i)
            continue
        for phase in assignment[i]["phases"]:
            window = Phase(phase["first_step"], phase["last_step"], phase["spacing"], copies=None)
            chosen = crowds.setdefault((window, assignment[i]["placement"]), ([], []))
            if phase["copies"]:
                chosen[0].append(i)
                chosen[1].append(phase["copies"])
    found = [_explicit(own, places[name, arm], board, f"insert.{name}, arm {arm}") for arm, own in explicit.items()]
    for _, row, _ in found:  # only now: arms of one set may share a row, as long as their texts do not overlap
        board.taken[row] = True
    ordered = sorted(crowds, key=lambda key: (key[0].last - key[0].first, key[0].first, key[0].spacing, key[1]))
    longest = lengths.longest()
    for turn, (window, placement) in enumerate(ordered):
        if (wanted := sum(crowds[window, placement][1])) > board.shape.rows:  # before so many are laid out in memory
            raise RecipeError(
                f"insert.{name}: its copies in steps {window.first:,}-{window.last:,} need {wanted:,} rows, but training has "
                f"{board.shape.rows:,}; lower the copies or sizes, or raise train.steps or train.global_batch"
            )
        own, copies = (np.asarray(part, np.int64) for part in crowds[window, placement])
        if len(own):
            random = np.random.Generator(np.random.Philox([seed, number, turn]))
            crowd = Crowd(f"insert.{name}", np.repeat(own, copies), copies, np.repeat(longest[own], copies), window, placement)
            row, offset = place(crowd, board, random)
            found.append((crowd.item, row, offset))
    none = np.zeros(0, np.int64)
    return tuple(np.concatenate([none, *column]) for column in zip(*found, strict=True)) if found else (none, none, none)  # type: ignore[return-value]


def _explicit(
    own: Sequence[int], given: Sequence[tuple[int, int]], board: Board, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places dealt to items in turn."""
    shape, farthest = board.shape, max(given)[0]
    if farthest >= shape.rows:
        raise RecipeError(f"{where}: places name row {farthest:,}, but training has {shape.rows:,} rows, from 0 on")
    if (most := max(offset for _, offset in given)) >= shape.row_tokens:
        raise RecipeError(f"{where}: places name offset {most:,}, but a row has {shape.row_tokens:,} tokens, from 0 on")
    row, offset = np.asarray(given, np.int64).T
    if (taken := row[board.taken[row]]).size:
        raise RecipeError(f"{where}: places name row {taken[0]:,}, which an item set before it occupies; choose another")
    return np.asarray(own, np.int64)[np.arange(len(row)) % len(own)], row, offset


def _texts(
    placed: tuple[np.ndarray, np.ndarray, np.ndarray],
    name: str,
    assignment: Sequence[Mapping[str, Any]],
    lengths: Lengths,
    shape: Shape,
    seed: list[int],
) -> tuple[np.ndarray, ...]:
    """(row, offset, item, copy, text, spliced): which text each copy is, and where in the row it lies if that was left open."""
    item, row, offset = placed
    random = np.random.Generator(np.random.Philox([*seed, 2**32]))
    order = np.lexsort((offset, row, item))  # copy 0 of an item is its first in training
    item, row, offset = item[order], row[order], offset[order]
    starts = np.flatnonzero(np.diff(item, prepend=-1))
    copy = np.arange(len(item)) - np.repeat(starts, np.diff(np.append(starts, len(item))))
    own, occurrence_of = np.unique(item, return_inverse=True)
    policies = np.asarray([["rotate", "verbatim", "one"].index(assignment[i]["variants"]) for i in own.tolist()], np.int64)
    drawn = random.integers(lengths.count[own])  # of each item, the text that `one` inserts
    turn = np.select(
        [policies[occurrence_of] == 0, policies[occurrence_of] == 1], [copy % lengths.count[item], 0], drawn[occurrence_of]
    )
    text = lengths.first[item] + turn
    length = lengths.tokens[text] + 2
    offset = _offsets(offset, length, copy, occurrence_of, [assignment[i]["placement"] for i in own.tolist()], name, shape, random)
    _refuse_overlaps(row, offset, length, name, shape)
    spliced = np.asarray([assignment[i]["mode"] == "splice" for i in own.tolist()], bool)[occurrence_of].astype(np.int64)
    return row, offset, item, copy, text, spliced


def _offsets(
    offset: np.ndarray,
    length: np.ndarray,
    copy: np.ndarray,
    occurrence_of: np.ndarray,
    placements: Sequence[str],
    name: str,
    shape: Shape,
    random: np.random.Generator,
) -> np.ndarray:
    """Offsets by each item's placement, where they are not given yet."""
    offset = offset.copy()
    choices = shape.row_tokens + 1 - length  # how many offsets hold the whole text
    uniform = random.random(len(length))
    part = random.integers(2**31, size=len(placements))[occurrence_of] + copy  # stratified: parts in turn, from a random one on
    for placement in set(placements) - {"boundary", "explicit"}:
        chosen = np.asarray([p == placement for p in placements], bool)[occurrence_of]
        kind, _, number = placement.partition(":")
        if kind == "anywhere":
            offset[chosen] = (uniform * choices)[chosen]
        elif kind == "start":
            offset[chosen] = 0
        elif kind == "offset":
            if chosen.any() and int(number) >= choices[chosen].min():
                raise RecipeError(
                    f"insert.{name}: placement is {placement}, but its longest text takes {length[chosen].max()} of a row's "
                    f"{shape.row_tokens} tokens; offsets up to {choices[chosen].min() - 1} are possible"
                )
            offset[chosen] = int(number)
        else:
            offset[chosen] = ((part % int(number) + uniform) * choices / int(number))[chosen]
    return offset


def _refuse_overlaps(row: np.ndarray, offset: np.ndarray, length: np.ndarray, name: str, shape: Shape) -> None:
    """Explicit places may share a row, but not a token, and can't reach beyond it."""
    beyond = offset + length > shape.row_tokens
    if beyond.any():
        i = int(np.argmax(beyond))
        raise RecipeError(
            f"insert.{name}: a text of {length[i]} tokens at offset {offset[i]} of row {row[i]:,} reaches beyond the row's "
            f"{shape.row_tokens} tokens; offsets up to {shape.row_tokens - length[i]} are possible"
        )
    order = np.lexsort((offset, row))
    same = row[order][1:] == row[order][:-1]
    if (clash := same & (offset[order][1:] < (offset + length)[order][:-1])).any():
        i = order[1:][int(np.argmax(clash))]
        raise RecipeError(f"insert.{name}: two copies overlap at offset {offset[i]} of row {row[i]:,}; set their places apart")
