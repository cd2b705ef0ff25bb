"""Near-duplicates: fuzzy copies of an item's text, a known number of tokens away from it.

A model memorizes across near-duplicates too, so a copy of a text need not be exact to count: Shilov et al., The Mosaic Memory
of Large Language Models, https://arxiv.org/abs/2405.15523, whose fuzzy copies these are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedTokenizerFast

from configs.errors import RecipeError
from configs.insert import FuzzySet
from inject.items.item import Item, Text
from inject.tokenizer import decode, encode

ATTEMPTS = 1000  # draws in a row that may equal a variant that there is already

Edit = Callable[[np.random.Generator, Sequence[int], int, Sequence[int]], list[int]]


def add_near_duplicates(
    items: Sequence[Item], settings: FuzzySet, seed: int, alphabet: Sequence[int], tokenizer: PreTrainedTokenizerFast
) -> list[Item]:
    """The items, each with its further variants `near-1`, `near-2` ...; these are given as tokens and have no probes.

    All variants of an item differ from each other. An item's near-duplicates depend on its verbatim text, its number and the
    seed alone: asking for more of them changes none. `alphabet` are the ids of tokens to substitute or insert.

    Raises RecipeError for an edit that is not known, for more edits than a text has tokens, and where the edits cannot make
    that many variants.
    """
    if settings.near_duplicates == 0:
        return list(items)
    check(settings, items[0].item_set)
    seeds = np.random.SeedSequence(seed).spawn(len(items))
    return [
        _with_near_duplicates(item, settings, np.random.Generator(np.random.PCG64(own)), alphabet, tokenizer)
        for item, own in zip(items, seeds, strict=True)
    ]


def _with_near_duplicates(
    item: Item, settings: FuzzySet, random: np.random.Generator, alphabet: Sequence[int], tokenizer: PreTrainedTokenizerFast
) -> Item:
    (verbatim,) = item.texts
    tokens = verbatim.tokens if verbatim.tokens is not None else encode(tokenizer, [verbatim.text])[0]
    if settings.edits > len(tokens):
        raise RecipeError(
            f"insert.{item.item_set}.edits is {settings.edits}, but {item.item_id} has {len(tokens)} tokens; "
            f"up to {len(tokens)} can be edited"
        )
    variants = [list(tokens)]
    for _ in range(settings.near_duplicates):
        drawn = (EDITS[settings.edit](random, tokens, settings.edits, alphabet) for _ in range(ATTEMPTS))
        different = next((variant for variant in drawn if variant not in variants), None)
        if different is None:
            raise RecipeError(
                f"insert.{item.item_set}.near_duplicates is {settings.near_duplicates}, but no more than {len(variants) - 1} "
                f"different ones of {item.item_id} were found with edit={settings.edit} and edits={settings.edits}; ask for "
                f"fewer near-duplicates or more edits"
            )
        variants.append(different)
    texts = [Text(f"near-{number}", decode(tokenizer, tokens), tokens=tokens) for number, tokens in enumerate(variants[1:], 1)]
    return replace(item, texts=[verbatim, *texts])


def substitute(random: np.random.Generator, tokens: Sequence[int], edits: int, alphabet: Sequence[int]) -> list[int]:
    """The tokens at `edits` random places each replaced by another one, uniform among all others of the alphabet."""
    edited = list(tokens)
    for place in random.choice(len(edited), size=edits, replace=False).tolist():
        while (drawn := alphabet[int(random.integers(len(alphabet)))]) == tokens[place]:
            pass
        edited[place] = drawn
    return edited


def insert(random: np.random.Generator, tokens: Sequence[int], edits: int, alphabet: Sequence[int]) -> list[int]:
    """`edits` random tokens of the alphabet inserted; where they come to stand in the longer text is uniform too."""
    inserted = set(random.choice(len(tokens) + edits, size=edits, replace=False).tolist())
    kept = iter(tokens)
    return [
        alphabet[int(random.integers(len(alphabet)))] if place in inserted else next(kept) for place in range(len(tokens) + edits)
    ]


def shuffle(random: np.random.Generator, tokens: Sequence[int], edits: int, alphabet: Sequence[int]) -> list[int]:
    """The tokens at `edits` random places permuted among these, so that as many places as possible get another token.

    Places of equal tokens are put next to each other and all tokens handed on by the size of the largest such block, which
    moves every token out of its own block unless one block holds more than half of the places.
    """
    blocks: dict[int, list[int]] = defaultdict(list)
    for place in random.choice(len(tokens), size=edits, replace=False).tolist():
        blocks[tokens[place]].append(place)
    order = [place for block in blocks.values() for place in block]
    step = max(len(block) for block in blocks.values())
    edited = list(tokens)
    for i, place in enumerate(order):
        edited[place] = tokens[order[(i + step) % len(order)]]
    return edited


EDITS: dict[str, Edit] = {"substitute": substitute, "insert": insert, "shuffle": shuffle}


def check(settings: FuzzySet, item_set: str) -> None:
    """Raise RecipeError, in one sentence, where no such near-duplicates can be made of any text."""
    if settings.near_duplicates < 0:
        raise RecipeError(f"insert.{item_set}.near_duplicates is {settings.near_duplicates}; it must be 0 or more")
    if settings.edit not in EDITS:
        raise RecipeError(f"insert.{item_set}.edit is {settings.edit!r}; {', '.join(EDITS)} are possible")
    least = 2 if settings.edit == "shuffle" else 1
    if settings.edits < least:
        raise RecipeError(f"insert.{item_set}.edits is {settings.edits}; to {settings.edit} it must be {least} or more")
