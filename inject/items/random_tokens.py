"""Random tokens: uniformly random sequences, which hold nothing to learn but themselves, and whose entropy is known exactly.

What a model tells about them beyond chance it has memorized, so they measure its capacity in bits: Morris et al., How Much Do
Language Models Memorize?, https://arxiv.org/abs/2505.24832.
"""

from __future__ import annotations

from math import log2

import numpy as np

from configs.errors import RecipeError
from configs.insert import RandomTokenSet
from inject.items.item import VERBATIM, Item, Material, Probe, Text, item_id
from inject.items.near_duplicate import add_near_duplicates
from inject.tokenizer import decode, ordinary_tokens


def make(settings: RandomTokenSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a sequence, with a verbatim probe on what follows its first `settings.prefix` tokens; a stratum a length.

    Prefixes are distinct, and uniform but for that; every other token is independent of all others and uniform.

    Raises RecipeError for lengths, a prefix or a vocabulary out of range, and for more sequences than there are prefixes for.
    """
    alphabet = ordinary_tokens(material.tokenizer)
    check(settings, item_set, len(alphabet))
    alphabet = alphabet[: settings.vocabulary]
    random = np.random.Generator(np.random.PCG64(seed))
    seen: set[tuple[int, ...]] = set()
    items = []
    for number in range(settings.count or 0):
        length = settings.length[number % len(settings.length)]
        while (prefix := tuple(_draw(random, alphabet, settings.prefix))) in seen:
            pass
        seen.add(prefix)
        tokens = [*prefix, *_draw(random, alphabet, length - settings.prefix)]
        items.append(_item(tokens, settings.prefix, len(alphabet), item_set, number, material))
    return add_near_duplicates(items, settings, seed, alphabet, material.tokenizer)


def check(settings: RandomTokenSet, item_set: str, available: int) -> None:
    """Raise RecipeError, in one sentence, where no such sequences can be made of `available` tokens."""
    if not settings.length or min(settings.length) < 2 or len(set(settings.length)) < len(settings.length):
        raise RecipeError(f"insert.{item_set}.length is {settings.length}; name one or more lengths of 2 tokens or more, each once")
    shortest = min(settings.length)
    if not 1 <= settings.prefix < shortest:
        raise RecipeError(
            f"insert.{item_set}.prefix is {settings.prefix}; of sequences of {shortest} tokens it can be 1 to {shortest - 1}"
        )
    if settings.vocabulary is not None and not 2 <= settings.vocabulary <= available:
        raise RecipeError(
            f"insert.{item_set}.vocabulary is {settings.vocabulary}; the tokenizer has {available} tokens that are not special, "
            f"of which 2 to {available} can be drawn"
        )
    vocabulary = settings.vocabulary or available
    most = vocabulary**settings.prefix // 2  # of which a distinct one is found in two draws at most, on average
    if (settings.count or 0) > most:
        raise RecipeError(
            f"insert.{item_set}.count is {settings.count}; with prefix={settings.prefix} of {vocabulary} tokens, sequences up to "
            f"{most} can be told apart"
        )


def _item(tokens: list[int], prefix: int, vocabulary: int, item_set: str, number: int, material: Material) -> Item:
    length, bits = len(tokens), (len(tokens) - prefix) * log2(vocabulary)
    probe = Probe(
        probe_id="verbatim/suffix",
        field="suffix",
        context="verbatim",
        kind=VERBATIM,
        prompt=decode(material.tokenizer, tokens[:prefix]),
        target=decode(material.tokenizer, tokens[prefix:]),
        bits=bits,
        prior=2.0**-bits,
        tokens=(prefix, length),
    )
    return Item(
        item_id=item_id(item_set, number),
        item_set=item_set,
        kind="random_tokens",
        stratum=f"{item_set}/{length}",
        group=item_id(item_set, number),
        fields={"length": str(length), "vocabulary": str(vocabulary), "space_bits": f"{length * log2(vocabulary):.6g}"},
        texts=[Text("verbatim", decode(material.tokenizer, tokens), tokens=tokens)],
        probes=[probe],
    )


def _draw(random: np.random.Generator, alphabet: list[int], length: int) -> list[int]:
    return [alphabet[i] for i in random.integers(len(alphabet), size=length)]
