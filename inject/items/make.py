"""The items of a recipe: every item set made by its kind, and all of them checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from configs.errors import RecipeError
from configs.layout import fingerprint
from configs.schema import ItemSet
from inject.items import canary, factoid, pii, testset
from inject.items.item import Item

MAKERS: dict[str, Callable[[Any, str, int], list[Item]]] = {
    "canary": canary.make,
    "pii": pii.make,
    "factoid": factoid.make,
    "testset": testset.make,
}


def make_items(insert: dict[str, ItemSet], seed: int) -> list[Item]:
    """All items, in recipe order. A set's items depend on its own settings, its name and the seed, not on other sets.

    Raises RecipeError for settings that a kind refuses, and for sets that contradict or repeat each other.
    """
    items = [item for stratum, settings in insert.items() for item in _make_set(settings, stratum, seed)]
    lint(items)
    return items


def set_seed(seed: int, stratum: str) -> int:
    """The seed of one item set."""
    return int(fingerprint([seed, stratum])[:16], 16)


def lint(items: Iterable[Item]) -> None:
    """Raise RecipeError where a measurement of one item would be spoilt by another.

    Two items with one id cannot be told apart; a text of two items may be seen in training though one of them is held out;
    a prompt that two items continue differently has no right answer.
    """
    by_id: dict[str, Item] = {}
    by_text: dict[str, Item] = {}
    by_prompt: dict[str, tuple[str, Item]] = {}
    for item in items:
        if item.item_id in by_id:
            raise RecipeError(f"two items are called {item.item_id}; item sets and their items need names of their own")
        by_id[item.item_id] = item
        for text in item.texts:
            other = by_text.setdefault(text.text, item)
            if other is not item:
                raise RecipeError(f"{_pair(other, item)} have the same text {text.text!r}; {_REMEDY}")
        for probe in item.probes:
            target, other = by_prompt.setdefault(probe.prompt, (probe.target, item))
            if other is not item and target != probe.target:
                answers = f"{target!r} and {probe.target!r}"
                raise RecipeError(f"{_pair(other, item)} continue the same prompt {probe.prompt!r} with {answers}; {_REMEDY}")


_REMEDY = "rename one of these item sets or change seeds.items, and everything drawn will be drawn anew"


def _pair(first: Item, second: Item) -> str:
    return f"{first.item_id} (insert.{first.stratum}) and {second.item_id} (insert.{second.stratum})"


def _make_set(settings: ItemSet, stratum: str, seed: int) -> list[Item]:
    if settings.kind not in MAKERS:
        raise RecipeError(f"insert.{stratum}.kind is {settings.kind!r}; {', '.join(MAKERS)} are possible")
    if settings.count < 1:
        raise RecipeError(f"insert.{stratum}.count is {settings.count}; it must be 1 or more")
    return MAKERS[settings.kind](settings, stratum, set_seed(seed, stratum))
