"""The assignment: every group of items at random in one arm of its set, within strata; rates become copies of each item."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from configs.errors import RecipeError
from inject.design import Cell, Phase, Shape
from inject.items.item import Item


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
    resolved = _resolve(items, chosen, lengths, shape)
    return [_assigned(item, resolved[item.item_set, chosen[item.group].name], shape) for item in items]


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
    items: Sequence[Item], chosen: Mapping[str, Cell], lengths: Mapping[str, float], shape: Shape
) -> dict[tuple[str, str], Cell]:
    """The arms of each set with their rates as copies of each item."""
    tokens: dict[tuple[str, str], float] = defaultdict(float)
    count: dict[tuple[str, str], int] = defaultdict(int)
    found: dict[tuple[str, str], Cell] = {}
    for item in items:
        cell = chosen[item.group]
        key = item.item_set, cell.name
        found[key] = cell
        tokens[key] += lengths[item.item_id] + 2
        count[key] += 1
    resolved = {}
    for (item_set, name), cell in found.items():
        where = f"insert.{item_set}, arm {name}"
        key = item_set, name
        if cell.places and len(cell.places) % count[key]:
            raise RecipeError(f"{where}: {len(cell.places)} places for {count[key]} items; give equally many for each")
        phases = tuple(replace(phase, copies=_copies(phase, tokens[key], shape, where)) for phase in cell.phases)
        resolved[key] = replace(cell, phases=phases)
        if cell.places:
            resolved[key] = replace(cell, phases=(Phase(0, shape.steps, "explicit", len(cell.places) // count[key]),))
    return resolved


def _copies(phase: Phase, tokens: float, shape: Shape, where: str) -> int:
    """Copies of each item in a phase. `tokens`: of one copy of every item of the arm, end-of-text tokens included."""
    rows = (phase.last - phase.first) * shape.global_batch
    if phase.copies is not None:
        return phase.copies
    if phase.every is not None:
        copies, least = rows // phase.every, f"every: {rows} or less"
    else:
        assert phase.share is not None
        budget = rows * shape.row_tokens
        copies = int(phase.share * budget / tokens + 1e-9)  # a whole number of copies is not lost to rounding
        least = f"share: {1.05 * tokens / budget:.2g} or more"  # two digits, rounded to more than enough
    if copies < 1:
        raise RecipeError(f"{where}: its rate gives less than one copy of each item in its window of {rows:,} rows; set {least}")
    return copies


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
