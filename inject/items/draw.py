"""Draw groups of rows at random until as many are found as a set shall have; rows that can't be used are refused or left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from configs.errors import RecipeError
from configs.insert import RowSet
from inject.items.item import Item
from inject.items.rows import Row, UnusableRow

UNUSABLE = ["refuse", "skip"]
AMBIGUOUS = ["refuse", "unasked"]


def draw(
    groups: Mapping[str, Sequence[Row]],
    items_of: Callable[[Row], Iterable[Item]],
    settings: RowSet,
    item_set: str,
    seed: int,
    excluded: Collection[str] = frozenset(),
) -> list[Item]:
    """The items of `settings.count` of the groups, or of all of them, in the order of the rows.

    `items_of` makes the items of a row; none is no mistake. A group counts when it has an item. Which groups are drawn depends
    on the seed and on all groups there are, so a larger count adds groups to those of a smaller one; and where some are
    `excluded`, the next ones take their places, and the others stay.

    Raises UnusableRow for the first row that can't be used, if these are refused; RecipeError where there are too few groups.
    """
    if settings.unusable not in UNUSABLE:
        raise RecipeError(f"insert.{item_set}.unusable is {settings.unusable!r}; possible: {', '.join(UNUSABLE)}")
    if settings.ambiguous not in AMBIGUOUS:
        raise RecipeError(f"insert.{item_set}.ambiguous is {settings.ambiguous!r}; possible: {', '.join(AMBIGUOUS)}")
    left_out = [name for name in groups if name in excluded]
    if left_out and settings.count is None:
        raise RecipeError(
            f"insert.{item_set}.count is not given, so all {len(groups):,} groups of {settings.path or settings.hub} are taken, "
            f"and none is left to take the place of what occurs elsewhere ({', '.join(left_out[:3])}"
            f"{f' and {len(left_out) - 3:,} more' if len(left_out) > 3 else ''}); set insert.{item_set}.count to "
            f"{len(groups) - len(left_out):,} or fewer, or decontaminate.policy to documents or report"
        )
    random = np.random.Generator(np.random.PCG64(seed))
    names, distinct, problems = list(groups), Distinct(settings.ambiguous == "refuse"), list[str]()
    drawn: dict[int, list[Item]] = {}
    for place in range(len(names)) if settings.count is None else random.permutation(len(names)).tolist():
        if len(drawn) == settings.count:
            break
        if names[place] in excluded:
            continue
        kept: list[Item] = []
        for row in groups[names[place]]:
            try:
                made = list(items_of(row))
                distinct.add(made)
                kept += made
            except UnusableRow as error:
                if settings.unusable == "refuse":
                    raise UnusableRow(
                        f"insert.{item_set}: {error}; mend it, or set insert.{item_set}.unusable=skip to leave such rows out"
                    ) from error
                problems.append(str(error))
        if kept:
            drawn[place] = kept
    if len(drawn) < (settings.count or 1):
        first = f"; the first of {len(problems):,} rows left out: {problems[0]}" if problems else ""
        known = f" and occur nowhere else ({len(left_out):,} do)" if left_out else ""
        raise RecipeError(
            f"insert.{item_set}.count is {settings.count or 'not given'}, but {settings.path or settings.hub} has {len(drawn)} "
            f"groups that can be used{known}{first}"
        )
    items = [item for place in sorted(drawn) for item in drawn[place]]
    return items if settings.ambiguous == "refuse" else without_ambiguous(items)


def without_ambiguous(items: Sequence[Item]) -> list[Item]:
    """Items without those of their probes whose prompt another of them continues otherwise: such a prompt has no right answer."""
    targets: dict[tuple[str, str], set[str]] = {}
    for probe in (probe for item in items for probe in item.probes):
        targets.setdefault((probe.kind, probe.prompt), set()).add(probe.target)
    clear = {prompt for prompt, found in targets.items() if len(found) == 1}
    return [replace(item, probes=[probe for probe in item.probes if (probe.kind, probe.prompt) in clear]) for item in items]


class Distinct:
    """What the items of a set say and ask; each says something of its own, and with `prompts` none of two has two continuations."""

    def __init__(self, prompts: bool = True) -> None:
        self._prompts = prompts
        self._ids: set[str] = set()
        self._texts: dict[str, str] = {}
        self._targets: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, items: Iterable[Item]) -> None:
        """Take items in, all or none of them. UnusableRow where one repeats or contradicts another."""
        new = Distinct(self._prompts)
        for item in items:
            for known in (self, new):
                known._compare(item)
            new._take(item)
        self._ids |= new._ids
        self._texts |= new._texts
        self._targets |= new._targets

    def _compare(self, item: Item) -> None:
        if item.item_id in self._ids:
            raise UnusableRow(f"a second item is called {item.item_id}")
        for text in item.texts:
            if text.text in self._texts:
                raise UnusableRow(f"{item.item_id} has the text of {self._texts[text.text]}: {text.text[:80]!r}")
        for probe in item.probes if self._prompts else []:
            target, other = self._targets.get((probe.kind, probe.prompt), (probe.target, ""))
            if target != probe.target:
                raise UnusableRow(
                    f"{item.item_id} and {other} continue one prompt in two ways: {probe.prompt[-80:]!r} with "
                    f"{target[:80]!r} and {probe.target[:80]!r}"
                )

    def _take(self, item: Item) -> None:
        self._ids.add(item.item_id)
        self._texts |= {text.text: item.item_id for text in item.texts}
        self._targets |= {(probe.kind, probe.prompt): (probe.target, item.item_id) for probe in item.probes}
