"""The design: groups of items are assigned at random, within each item set, to arms; one arm of no copies is held out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema import Design
from inject.items.item import Item

HELD_OUT = "held-out"


@dataclass(frozen=True)
class Cell:
    """An arm: what happens to the items assigned to it."""

    name: str
    copies: int
    size: int
    window: tuple[float, float]
    placement: str


def arm_name(copies: int) -> str:
    """What an arm of `design.copies` is called."""
    return f"{copies}x" if copies else HELD_OUT


def arms(design: Design) -> list[Cell]:
    """Every arm of a design: one for each of `copies`, then the further ones."""
    window = (design.window[0], design.window[1])
    plain = [
        Cell(arm_name(copies), copies, size, window, design.placement)
        for copies, size in zip(design.copies, design.sizes, strict=True)
    ]
    further = [Cell(name, arm.copies, arm.size, (arm.window[0], arm.window[1]), arm.placement) for name, arm in design.arms.items()]
    return plain + further


def assign(items: Sequence[Item], design: Design, seed: int) -> list[dict[str, Any]]:
    """Rows of the assignment table: a random permutation of each stratum's groups, cut into the arms' sizes."""
    cells = [cell for cell in arms(design) for _ in range(cell.size)]
    chosen: dict[tuple[str, str], Cell] = {}
    groups: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if item.group not in groups[item.stratum]:
            groups[item.stratum].append(item.group)
    for number, (stratum, names) in enumerate(groups.items()):
        order = np.random.Generator(np.random.Philox([seed, number])).permutation(len(names))
        chosen |= {(stratum, names[i]): cell for i, cell in zip(order.tolist(), cells, strict=True)}
    rows = []
    for item in items:
        cell = chosen[item.stratum, item.group]
        rows.append(
            {
                "item_id": item.item_id,
                "group": item.group,
                "arm": cell.name,
                "copies": cell.copies,
                "window_start": cell.window[0],
                "window_end": cell.window[1],
                "spacing": "uniform",
                "placement": cell.placement,
            }
        )
    return rows


def balance(items: Sequence[Item], assignment: Sequence[Mapping[str, Any]], lengths: Mapping[str, float]) -> list[dict[str, Any]]:
    """How alike the arms are: groups, items and mean token length of each, and its standardized mean difference (SMD,
    Austin 2009) from the held-out arm of the same stratum; below 0.25 is commonly called balanced.

    `lengths`: mean tokens of each item's texts.
    """
    cells: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item, row in zip(items, assignment, strict=True):
        cells[item.stratum, row["arm"]].append(item)
    rows = []
    for (stratum, arm), members in cells.items():
        own = np.asarray([lengths[item.item_id] for item in members], float)
        held_out = np.asarray([lengths[item.item_id] for item in cells.get((stratum, HELD_OUT), [])], float)
        rows.append(
            {
                "stratum": stratum,
                "arm": arm,
                "groups": len({item.group for item in members}),
                "items": len(members),
                "tokens_mean": float(own.mean()),
                "smd": _standardized_difference(own, held_out),
            }
        )
    return rows


def _standardized_difference(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or len(b) < 2:
        return float("nan")
    spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    return float((a.mean() - b.mean()) / spread) if spread > 0 else 0.0
