"""The plan: every copy of every item at one place, a span of one row. Nothing is dropped, cut or laid over another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import RecipeError
from configs.layout import PLAN

ATTEMPTS = 200  # rounds of redrawing the copies that share a step with another copy of their item


def make_plan(
    assignment: Sequence[Mapping[str, Any]],
    strata: Sequence[str],
    lengths: Mapping[str, Sequence[tuple[str, int]]],
    steps: int,
    global_batch: int,
    sequence_length: int,
    seed: int,
) -> pa.Table:
    """Place the copies of every assigned item, item sets in the order of the recipe, at most one occurrence a row and one
    copy of an item a step.

    `assignment`: rows of the assignment table; `strata`: the item set of each row, sets in recipe order;
    `lengths`: (variant, tokens) of each item's texts, between which its copies alternate.
    Returns the plan table, sorted by (row, offset). RecipeError where the copies asked for do not fit their window.
    """
    taken = np.zeros(steps * global_batch, bool)
    placed: list[dict[str, np.ndarray]] = []
    for number, stratum in enumerate(dict.fromkeys(strata)):
        members = [row for row, name in zip(assignment, strata, strict=True) if name == stratum and row["copies"]]
        windows = sorted({(row["window_start"], row["window_end"]) for row in members}, key=lambda w: (w[1] - w[0], w))
        for window in windows:  # the narrowest first: a wider one has room elsewhere
            chosen = [row for row in members if (row["window_start"], row["window_end"]) == window]
            generator = np.random.Generator(np.random.Philox([seed, number, int(window[0] * 1e6), int(window[1] * 1e6)]))
            placed.append(_place(chosen, stratum, window, taken, steps, global_batch, sequence_length, lengths, generator))
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in placed]) if placed else [] for name in PLAN.names}
    return pa.table(columns, PLAN).sort_by([("row", "ascending"), ("offset", "ascending")])


def _place(
    members: Sequence[Mapping[str, Any]],
    stratum: str,
    window: tuple[float, float],
    taken: np.ndarray,
    steps: int,
    global_batch: int,
    sequence_length: int,
    lengths: Mapping[str, Sequence[tuple[str, int]]],
    generator: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Columns of the plan for the items of one stratum and window; marks their rows as taken."""
    first, last = round(window[0] * steps), round(window[1] * steps)
    copies = np.asarray([row["copies"] for row in members])
    room = (last - first) * global_batch - int(taken[first * global_batch : last * global_batch].sum())
    if copies.sum() > room:
        raise RecipeError(
            f"design: the items of insert.{stratum} in window [{window[0]:g}, {window[1]:g}] need {copies.sum():,} rows, but only "
            f"{room:,} of its {(last - first) * global_batch:,} are free; lower the copies or sizes, or raise train.steps "
            "or train.global_batch"
        )
    if copies.max() > last - first:
        raise RecipeError(
            f"design.copies: {copies.max():,} copies of an item of insert.{stratum} do not fit window "
            f"[{window[0]:g}, {window[1]:g}], which has {last - first:,} steps and takes one copy of an item a "
            "step; raise train.steps or widen the window"
        )
    item = np.repeat(np.arange(len(members)), copies)
    copy = np.concatenate([np.arange(n) for n in copies])
    free = first * global_batch + np.flatnonzero(~taken[first * global_batch : last * global_batch])
    row = _spread(item, free, global_batch, generator)
    if row is None:
        row = _pack(copies, free, global_batch, generator, stratum)
    taken[row] = True
    order = np.lexsort((row, item))  # copy 0 of an item is its first in training
    row = row[order]
    owners = [members[i] for i in item.tolist()]
    choices = [lengths[owner["item_id"]] for owner in owners]
    variants = [texts[c % len(texts)] for texts, c in zip(choices, copy.tolist(), strict=True)]
    length = np.asarray([tokens + 2 for _, tokens in variants])
    anywhere = np.asarray([owner["placement"] == "anywhere" for owner in owners])
    offset = np.where(anywhere, generator.integers(0, sequence_length + 2 - length), 0)
    return {
        "row": row,
        "offset": offset.astype(np.int32),
        "length": length.astype(np.int32),
        "mode": np.full(len(row), "overwrite", object),
        "item_id": np.asarray([owner["item_id"] for owner in owners], object),
        "copy": copy.astype(np.int32),
        "variant": np.asarray([name for name, _ in variants], object),
    }


def _spread(item: np.ndarray, free: np.ndarray, global_batch: int, generator: np.random.Generator) -> np.ndarray | None:
    """A random free row for each copy, redrawing copies that fall in a step with another copy of their item; None where the
    window is too full for that to end.
    """
    shuffled = generator.permutation(free)
    row, spare = shuffled[: len(item)].copy(), shuffled[len(item) :]
    for _ in range(ATTEMPTS):
        order = np.lexsort((row, item))
        step = row[order] // global_batch
        clashes = order[1:][(item[order][1:] == item[order][:-1]) & (step[1:] == step[:-1])]
        if not len(clashes):
            return row
        if len(clashes) > len(spare):
            return None
        drawn = generator.choice(len(spare), len(clashes), replace=False)
        row[clashes], spare[drawn] = spare[drawn], row[clashes]
    return None


def _pack(copies: np.ndarray, free: np.ndarray, global_batch: int, generator: np.random.Generator, stratum: str) -> np.ndarray:
    """Rows for a nearly full window: items with the most copies first, each on the steps with the most free rows, ties at random.
    Finds a packing whenever one exists (Gale, 1957; Ryser, 1957).
    """
    by_step: dict[int, list[int]] = {}
    for row in generator.permutation(free).tolist():
        by_step.setdefault(row // global_batch, []).append(row)
    rows: list[list[int]] = [[] for _ in copies]
    for i in np.argsort(-copies, kind="stable").tolist():
        steps = sorted((s for s in by_step if by_step[s]), key=lambda s: (-len(by_step[s]), generator.random()))
        if len(steps) < copies[i]:
            raise RecipeError(
                f"design.copies: the copies of insert.{stratum} fit its rows, but not with one copy of an item a step; "
                "lower the copies or raise train.steps"
            )
        rows[i] = [by_step[s].pop() for s in steps[: copies[i]]]
    return np.asarray([row for item in rows for row in item], np.int64)
