"""Other items in the place of those that occur elsewhere: one round of drawing after another, the rest staying what it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from configs.errors import RecipeError
from configs.insert import ItemSet, RowSet
from inject.items.item import Item, Material
from inject.items.make import collisions, make_set, set_seed


def redraw(
    items: Sequence[Item], insert: Mapping[str, ItemSet], seed: int, material: Material, rounds: Sequence[Collection[str]]
) -> list[Item]:
    """The items after the last of `rounds`, given those before it; a round is the groups to draw again.

    Made-up groups are exchanged for those of the same names in the whole set made with another seed. Of a set read from rows, the
    next rows at random take the places of the groups of this round and all before.

    RecipeError where a set has no other groups.
    """
    groups, taken_out = rounds[-1], frozenset(group for earlier in rounds for group in earlier)
    items = list(items)
    for name in dict.fromkeys(item.item_set for item in items if item.group in groups):
        settings = insert[name]
        if isinstance(settings, RowSet):
            drawn = make_set(settings, name, set_seed(seed, name), replace(material, excluded=taken_out))
            items = list(_exchanged(items, drawn, lambda item: item.item_set, {name}))
        else:
            drawn = make_set(settings, name, set_seed(seed, name, len(rounds)), material)
            own = {item.group for item in items if item.item_set == name and item.group in groups}
            items = replace_groups(items, drawn, own)
    return items


def replace_groups(items: Sequence[Item], drawn: Sequence[Item], groups: Collection[str]) -> list[Item]:
    """`items` with some groups exchanged for those of the same names in `drawn`. RecipeError where there is no such group."""
    absent = sorted(set(groups) - {item.group for item in drawn})
    if absent:
        raise RecipeError(
            f"{absent[0]} cannot be drawn again: with another seed its item set has no group of that name; set "
            "decontaminate.policy to documents, report or none"
        )
    return list(_exchanged(items, drawn, lambda item: item.group, groups))


def colliding(items: Sequence[Item], before: Iterable[Item]) -> list[str]:
    """The groups of those items that are not among the ones `before`, and repeat or contradict another (or themselves)."""
    known = {item.item_id: item for item in before}
    pairs = [pair for *pair, _ in collisions(items)]
    return sorted({item.group for pair in pairs for item in pair if known.get(item.item_id) != item})


def _exchanged(items: Iterable[Item], drawn: Iterable[Item], name: Callable[[Item], str], names: Collection[str]) -> Iterator[Item]:
    """`items` with those of some names (of groups, or of item sets) exchanged for those in `drawn`, where the first of them was."""
    named: dict[str, list[Item]] = {}
    for item in drawn:
        named.setdefault(name(item), []).append(item)
    for item in items:
        if name(item) not in names:
            yield item
        else:
            yield from named.pop(name(item), [])
