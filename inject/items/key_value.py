"""Key-value recall: random keys with random values, which nothing but the pair itself can teach.

KVR of Chen et al., Continual Memorization of Factoids in Language Models (REMIX), https://arxiv.org/abs/2411.07175. They draw keys
and values of eight letters and digits, and ask in the words of `TEXT`.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import islice
from math import log2

import numpy as np

from configs.errors import RecipeError
from configs.insert import KeyValueSet
from inject.items.canary import draw_symbols
from inject.items.item import Item, Material, Text, item_id, render, verbatim

TEXT = "The value of key {key} is? {value}"

ALPHABETS = {
    "alphanumeric": string.ascii_lowercase + string.digits,
    "letters": string.ascii_lowercase,
    "digits": string.digits,
}
LENGTHS = range(1, 65)  # characters, as of the keys of other factoids


def make(settings: KeyValueSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a pair, with a verbatim probe on the whole value.

    Keys are distinct, and uniform but for that. Values are independent of all else and uniform, so two of them may be equal.

    Raises RecipeError for settings that are not known or out of range, and for more pairs than there are keys for.
    """
    check(settings, item_set)
    alphabet = ALPHABETS[settings.alphabet]
    random = np.random.Generator(np.random.PCG64(seed))
    items = []
    for number, key in enumerate(islice(_distinct_keys(random, alphabet, settings.key_length), settings.count)):
        value = draw_symbols(random, alphabet, settings.value_length)
        text = Text("verbatim", *render(TEXT, {"key": key, "value": value}))
        items.append(
            Item(
                item_id=item_id(item_set, number),
                item_set=item_set,
                kind="key_value",
                stratum=item_set,
                group=item_id(item_set, number),
                fields={"key": key, "value": value},
                texts=[text],
                probes=[verbatim(text, text.spans[-1], settings.value_length * log2(len(alphabet)))],
            )
        )
    return items


def check(settings: KeyValueSet, item_set: str) -> None:
    """Raise RecipeError, in one sentence, where no such pairs can be made."""
    if settings.alphabet not in ALPHABETS:
        raise RecipeError(f"insert.{item_set}.alphabet is {settings.alphabet!r}; possible: {', '.join(ALPHABETS)}")
    for name, length in (("key_length", settings.key_length), ("value_length", settings.value_length)):
        if length not in LENGTHS:
            raise RecipeError(f"insert.{item_set}.{name} is {length}; {LENGTHS[0]} to {LENGTHS[-1]} are possible")
    most = len(ALPHABETS[settings.alphabet]) ** settings.key_length // 2  # a distinct key takes two draws at most, on average
    if settings.count is None or settings.count > most:
        raise RecipeError(
            f"insert.{item_set}.count is {settings.count}; with key_length={settings.key_length} and "
            f"alphabet={settings.alphabet}, up to {most:,} pairs are possible"
        )


def _distinct_keys(random: np.random.Generator, alphabet: str, length: int) -> Iterator[str]:
    """Keys of which none comes twice, each drawn when it is asked for."""
    seen: set[str] = set()
    while True:
        if (key := draw_symbols(random, alphabet, length)) not in seen:
            seen.add(key)
            yield key
