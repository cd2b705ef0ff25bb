"""The items of a recipe: every item set made by its kind, and all of them checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from configs.errors import RecipeError
from configs.insert import ITEM_SETS, ItemSet
from configs.layout import fingerprint
from inject.items import canary, factoid, key_value, passage, pii, random_tokens, recorded, table, testset, trap
from inject.items.item import Item, Material, Probe, Text

MAKERS: dict[str, Callable[[Any, str, int, Material], list[Item]]] = {
    "canary": canary.make,
    "random_tokens": random_tokens.make,
    "trap": trap.make,
    "pii": pii.make,
    "factoid": factoid.make,
    "key_value": key_value.make,
    "testset": testset.make,
    "passage": passage.make,
    "table": table.make,
    "run": recorded.make,
}
assert set(MAKERS) <= set(ITEM_SETS)


def make_items(insert: Mapping[str, ItemSet], seed: int, material: Material) -> list[Item]:
    """All items, in recipe order. A set's items depend on its own settings, its name and the seed, not on other sets.

    Raises RecipeError for settings that a kind refuses, and for sets that contradict or repeat each other.
    """
    items = [item for name, settings in insert.items() for item in make_set(settings, name, set_seed(seed, name), material)]
    lint(items)
    return items


def set_seed(seed: int, name: str, redrawn: int = 0) -> int:
    """The seed of one item set; another one for each time that groups of it are drawn again."""
    return int(fingerprint([seed, name, redrawn] if redrawn else [seed, name])[:16], 16)


def lint(items: Iterable[Item]) -> None:
    """Raise RecipeError, telling the first collision, if there is one."""
    for collision in collisions(items):
        raise RecipeError(collision.what)


class Collision(NamedTuple):
    """Two items that can't both be inserted, or one twice that contradicts itself, and why."""

    first: Item
    second: Item
    what: str


def collisions(items: Iterable[Item]) -> Iterator[Collision]:
    """Where a measurement of one item would be spoilt by another.

    Two items with one id cannot be told apart; a text of two items may be seen in training though one of them is held out;
    a prompt that is continued in two ways, by two items or by two fields of one, has no right answer.
    """
    by_id: dict[str, Item] = {}
    by_text: dict[Spelling, Item] = {}
    by_prompt: dict[tuple[str, Spelling], tuple[Spelling, Probe, Item]] = {}
    for item in items:
        if item.item_id in by_id:
            what = f"two items are called {item.item_id}; item sets and their items need names of their own"
            yield Collision(by_id[item.item_id], item, what)
        by_id[item.item_id] = item
        for text in item.texts:
            other = by_text.setdefault(_spelling(text), item)
            if other is not item:
                yield Collision(other, item, f"{_pair(other, item)} have the same text {text.text!r}; {_REMEDY}")
        for probe in item.probes:
            prompt, target = _question(item, probe)
            right, first, other = by_prompt.setdefault((probe.kind, prompt), (target, probe, item))
            if target != right and (other is not item or probe.field != first.field):
                answers = f"{first.target!r} and {probe.target!r}"
                if other is item:
                    what = f"{first.field} and {probe.field} of {_name(item)} continue one prompt {probe.prompt!r} with {answers}"
                else:
                    what = f"{_pair(other, item)} continue the same prompt {probe.prompt!r} with {answers}; {_REMEDY}"
                yield Collision(other, item, what)


Spelling = str | tuple[int, ...]  # of a text given as tokens, the tokens: others may decode to the same string


def _spelling(text: Text) -> Spelling:
    return text.text if text.tokens is None else tuple(text.tokens)


def _question(item: Item, probe: Probe) -> tuple[Spelling, Spelling]:
    """A probe's prompt and target."""
    if probe.tokens is None:
        return probe.prompt, probe.target
    start, end = probe.tokens
    tokens = next(tuple(text.tokens or ()) for text in item.texts if text.variant == probe.context)
    return tokens[:start], tokens[start:end]


_REMEDY = "rename one of these item sets or change seeds.items, and everything drawn will be drawn anew"


def _name(item: Item) -> str:
    return f"{item.item_id} (insert.{item.item_set})"


def _pair(first: Item, second: Item) -> str:
    return f"{_name(first)} and {_name(second)}"


def make_set(settings: ItemSet, name: str, seed: int, material: Material) -> list[Item]:
    """The items of one set, by themselves."""
    if settings.count is None and type(settings)().count is not None:
        raise RecipeError(
            f"insert.{name}.count is null; items of kind {settings.kind} are drawn without end, so it must be a number"
        )
    if settings.count is not None and settings.count < 1:
        raise RecipeError(f"insert.{name}.count is {settings.count}; it must be 1 or more")
    return MAKERS[settings.kind](settings, name, seed, material)
