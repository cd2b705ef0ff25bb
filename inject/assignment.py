"""The assignment: every group of items at random in one arm of its set, within strata; rates become copies of each item."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from configs.errors import RecipeError
from inject.design import Cell, Phase, Shape, arm_name
from inject.items.item import COPIES_OF_TEXTS, RELEASED_COPIES, RELEASED_MEMBER, Item

UNKNOWN = "unknown"  # the arm of items of which nobody says how often they were inserted
MEMBER = "member"  # and of those that were, nobody says how often


def assign(
    items: Sequence[Item], designed: Mapping[str, Sequence[Cell]], lengths: Mapping[str, float], shape: Shape, seed: int
) -> list[dict[str, Any]]:
    """Rows of the assignment table: every group of a set at random in one of its arms, within strata as evenly as they go.

    `designed`: the arms of each item set; `lengths`: mean tokens of each item's texts, by which shares become copies.
    Each stratum gives each arm its share of the stratum's groups, rounded up or down at random, so that every group is as likely
    to come to an arm as any other; which of its groups is uniformly random. The arms get exactly their sizes.
    """
    chosen: dict[str, Cell] = {}
    for number, (item_set, arms_of_set) in enumerate(designed.items()):
        strata: dict[str, str] = {}
        for item in items:
            if item.item_set == item_set and strata.setdefault(item.group, item.stratum) != item.stratum:
                raise RecipeError(f"group {item.group} of insert.{item_set} lies in strata {strata[item.group]} and {item.stratum}")
        size = sum(cell.size for cell in arms_of_set)
        if len(strata) != size:
            raise RecipeError(
                f"insert.{item_set} has {len(strata)} groups, but the arms of its design add up to {size}; change design.sizes "
                f"or insert.{item_set}.count"
            )
        random = np.random.Generator(np.random.Philox([seed, number]))
        shuffled = random.permutation(len(strata))
        names, (distinct, stratum_of) = list(strata), np.unique(list(strata.values()), return_inverse=True)
        order = shuffled[np.argsort(stratum_of[shuffled], kind="stable")]
        sizes = np.asarray([cell.size for cell in arms_of_set], np.int64)
        shares = _shares(np.bincount(stratum_of, minlength=len(distinct)), sizes, random).tolist()
        dealt = [cell for counts in shares for cell, count in zip(arms_of_set, counts, strict=True) for _ in range(count)]
        chosen |= {names[i]: cell for i, cell in zip(order.tolist(), dealt, strict=True)}
    resolved = _resolve(items, chosen, lengths, shape, seed)
    return [_assigned(item, cell, shape) for item, cell in zip(items, resolved, strict=True)]


def _shares(strata: np.ndarray, sizes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Groups of each stratum that go to each arm, int64 (strata, arms), from the groups of each and the `sizes` of the arms: exact
    shares rounded up or down such that rows and columns add up and each number has its share as expectation (controlled rounding,
    Cox 1987).
    """
    whole = max(1, int(sizes.sum()))
    parts = np.outer(strata, sizes)  # so many of `whole` parts are one group
    fractional = parts % whole != 0
    while cycle := _cycle(fractional):
        cells = tuple(np.asarray(cycle).T)
        signs = np.where(np.arange(len(cycle)) % 2, -1, 1)  # rows and columns keep their sums
        below = parts[cells] % whole
        up, down = (int(np.where(signs == sign, whole - below, below).min()) for sign in (1, -1))
        parts[cells] += signs * (up if random.integers(up + down) < down else -down)
        fractional[cells] = parts[cells] % whole != 0
    return parts // whole


def _cycle(fractional: np.ndarray) -> list[tuple[int, int]]:
    """Fractional cells that share a row and a column in turn, round to the first; none where there is none. Rows and columns add up
    to whole numbers, so each that has a fractional cell has another.
    """
    if not fractional.any():
        return []
    line, axis, before = int(np.argmax(fractional.any(1))), 0, -1
    path: list[tuple[int, int]] = []
    seen: dict[tuple[int, int], int] = {}
    while (axis, line) not in seen:
        seen[axis, line] = len(path)
        crossing = np.flatnonzero(fractional[line] if axis == 0 else fractional[:, line])
        after = int(crossing[crossing != before][0])
        path.append((line, after) if axis == 0 else (after, line))
        line, axis, before = after, 1 - axis, line
    return path[seen[axis, line] :]


def _resolve(
    items: Sequence[Item], chosen: Mapping[str, Cell], lengths: Mapping[str, float], shape: Shape, seed: int
) -> list[Cell]:
    """Each item's arm, with its rates as copies of that item."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        members[item.item_set, chosen[item.group].name].append(i)
    resolved: dict[int, Cell] = {}
    for number, ((item_set, name), own) in enumerate(members.items()):
        cell, where = chosen[items[own[0]].group], f"insert.{item_set}, arm {name}"
        random = np.random.Generator(np.random.Philox([seed, 2**32 + number]))
        tokens = np.asarray([lengths[items[i].item_id] + 2 for i in own])
        if cell.places and len(cell.places) % len(own):
            raise RecipeError(f"{where}: {len(cell.places)} places for {len(own)} items; give equally many for each")
        explicit = (Phase(0, shape.steps, "explicit", len(cell.places) // len(own)),) if cell.places else ()
        copies = [_copies(phase, tokens, shape, where, random) for phase in cell.phases]
        for turn, i in enumerate(own):
            phases = tuple(replace(phase, copies=rate[turn]) for phase, rate in zip(cell.phases, copies, strict=True))
            resolved[i] = replace(cell, phases=explicit or phases)
    return [resolved[i] for i in range(len(items))]


def _copies(phase: Phase, tokens: np.ndarray, shape: Shape, where: str, random: np.random.Generator) -> list[int]:
    """Copies of each item in a phase. `tokens`: of one copy of each, end-of-text tokens included.

    One in every so many rows is the nearest whole number. A share is met to within half a text: some items, at random, have one
    copy more than others.
    """
    rows = (phase.last - phase.first) * shape.global_batch
    if phase.copies is not None:
        return [phase.copies] * len(tokens)
    if phase.every is not None:
        if phase.every > rows:
            raise _too_rare(where, rows, f"every: {rows} or less")
        return [int(rows / phase.every + 0.5)] * len(tokens)
    assert phase.share is not None
    budget, once = phase.share * rows * shape.row_tokens, float(tokens.sum())
    least = int(budget / once + 1e-9)  # a whole number of copies is not lost to rounding
    if least < 1:
        share = 1.05 * once / (rows * shape.row_tokens)
        raise _too_rare(where, rows, f"share: {share:.2g} or more")  # two digits, rounded to more than enough
    order = random.permutation(len(tokens))
    taken = np.concatenate([[0.0], tokens[order].cumsum()])  # by one more copy of the first 0, 1, 2 ... items
    more = int(np.argmin(abs(taken - (budget - least * once))))
    copies = np.full(len(tokens), least)
    copies[order[:more]] += 1
    return copies.tolist()


def _too_rare(where: str, rows: int, remedy: str) -> RecipeError:
    return RecipeError(f"{where}: its rate gives less than one copy of each item in its window of {rows:,} rows; set {remedy}")


def _assigned(item: Item, cell: Cell, shape: Shape) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "group": item.group,
        "arm": cell.name,
        "copies": sum(phase.copies or 0 for phase in cell.phases),
        "window_start": cell.phases[0].first / shape.steps,
        "window_end": cell.phases[-1].last / shape.steps,
        "spacing": ", ".join(dict.fromkeys(phase.spacing for phase in cell.phases)),
        "placement": cell.placement,
        "mode": cell.mode,
        "variants": cell.variants,
        "phases": [
            {"copies": phase.copies, "first_step": phase.first, "last_step": phase.last, "spacing": phase.spacing}
            for phase in cell.phases
        ],
    }


def as_released(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Rows of the assignment table by what the data says: an arm for each number of copies, one for members of which nobody says
    how often they came (1 copy stands for one or more), and one where the data says nothing.

    RecipeError where copies are no whole number, or are said of an item of several texts, as nobody knows which came how often.
    """
    rows: list[dict[str, Any]] = []
    for item in items:
        arm, copies = _said(item)
        rows.append(
            {
                "item_id": item.item_id,
                "group": item.group,
                "arm": arm,
                "copies": copies,
                "window_start": 0.0,
                "window_end": 1.0,
                "spacing": "",
                "placement": "",
                "mode": "",
                "variants": "",
                "phases": [],
            }
        )
    return rows


def _said(item: Item) -> tuple[str, int | None]:
    """The arm of an item and its copies, as its fields say."""
    member = item.fields.get(RELEASED_MEMBER)
    said = item.fields.get(RELEASED_COPIES) if member is None else str(int(member == "true"))
    if said is None:
        return UNKNOWN, None
    if not re.fullmatch(r"\d+(\.0+)?", said.strip()):
        raise RecipeError(f"insert.{item.item_set}.copies must be whole numbers, 0 or more, but {item.item_id} has {said!r}")
    copies = int(float(said))
    if copies and len(item.texts) > 1 and COPIES_OF_TEXTS not in item.fields:
        raise RecipeError(
            f"insert.{item.item_set} has several texts of an item, but copies that say how often one was inserted; give one"
        )
    return MEMBER if copies and member is not None else arm_name(copies), copies


def copies_of_texts(
    items: Sequence[Mapping[str, Any]], assignment: Sequence[Mapping[str, Any]], texts: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], int | None]:
    """How often each text came, by item and variant, as the data says; None where nobody knows. The arguments are rows of the
    tables of that name.
    """
    copies = {row["item_id"]: row["copies"] for row in assignment}
    by_text = {
        item["item_id"]: json.loads(fields[COPIES_OF_TEXTS])
        for item in items
        if COPIES_OF_TEXTS in (fields := json.loads(item["fields"]))
    }
    return {
        (text["item_id"], text["variant"]): by_text.get(text["item_id"], {}).get(text["variant"], copies[text["item_id"]])
        for text in texts
    }
