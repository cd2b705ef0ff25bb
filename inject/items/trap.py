"""Copyright traps: texts that a language model made up, of a chosen length and perplexity, which no other document holds.

Meeus et al., Copyright Traps for Large Language Models (ICML 2024), https://arxiv.org/abs/2402.09363.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import product
from math import isfinite
from typing import Any

import numpy as np

from configs.errors import DataError, RecipeError
from configs.insert import TrapSet
from inject.items.item import Item, Material, Sampled, Span, Text, item_id, verbatim
from inject.items.near_duplicate import add_near_duplicates
from inject.tokenizer import ordinary_tokens

LEAST_TOKENS = 8  # so that each half has a character, were it of four bytes

Cell = tuple[int, tuple[float, float]]  # tokens, and perplexity [from, below)


def make(settings: TrapSet, item_set: str, seed: int, material: Material) -> list[Item]:
    """One item a trap, with a verbatim probe on its second half; a stratum a length and bucket of perplexity.

    The entropy of the second half is not known (the model that made it up is only one model of it), so the probe has neither
    bits nor a prior.

    Raises RecipeError for settings out of range, and DataError where the model gives no such texts.
    """
    check(settings, item_set)
    assert material.sample is not None, "traps need a sampler of language models"
    buckets = [(float(low), float(high)) for low, high in settings.perplexity]
    cells: list[Cell] = list(product(settings.tokens, buckets))
    selection = Selection(settings.jaccard)
    drawn: list[list[Sampled]] = []
    for number, ((tokens, bucket), own) in enumerate(zip(cells, np.random.SeedSequence(seed).spawn(len(cells)), strict=True)):
        count = len(range(number, settings.count or 0, len(cells)))
        cell_seed = int(own.generate_state(1, np.uint64)[0])
        try:
            drawn.append(
                material.sample(settings.model, count, tokens, bucket, cell_seed, material.tokenizer, accept=selection.accept)
            )
        except DataError as error:
            raise DataError(f"insert.{item_set} can't be made: {error}") from error
    items = []
    for number in range(settings.count or 0):
        cell = number % len(cells)
        items.append(_item(drawn[cell][number // len(cells)], cells[cell], str(settings.model), item_set, number))
    return add_near_duplicates(items, settings, seed, ordinary_tokens(material.tokenizer), material.tokenizer)


@dataclass
class Selection:
    """The traps chosen so far, each unlike all others: `jaccard` is the limit on what two have in common of their tokens."""

    jaccard: float | None
    tokens: list[frozenset[int]] = field(default_factory=list)
    prompts: set[str] = field(default_factory=set)

    def accept(self, candidate: Sampled) -> bool:
        """Choose a candidate, unless it is too like one that was chosen before or begins with the same half."""
        tokens, prompt = frozenset(candidate.tokens), candidate.text[: middle(candidate.text)]
        alike = self.jaccard is not None and any(jaccard(tokens, other) >= self.jaccard for other in self.tokens)
        if alike or prompt in self.prompts:
            return False
        self.tokens.append(tokens)
        self.prompts.add(prompt)
        return True


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """The part of two sets' elements that is in both.

    >>> jaccard(frozenset({1, 2, 3}), frozenset({3, 4}))
    0.25
    """
    return len(a & b) / len(a | b)


def middle(text: str) -> int:
    """The character at which the second half of a text begins: that of a word, if it has several.

    >>> middle("one two three"), middle("onetwo")
    (8, 3)
    """
    words = [blank.end() for blank in re.finditer(r"\s+", text)]
    return min(words, key=lambda start: abs(start - len(text) / 2), default=len(text) // 2)


def check(settings: TrapSet, item_set: str) -> None:
    """Raise RecipeError, in one sentence, where no such traps can be made."""
    if not settings.model:
        raise RecipeError(
            f"insert.{item_set}.model is not given; name the causal language model to sample from, a folder or hub name"
        )
    lengths, buckets = settings.tokens, settings.perplexity
    if not lengths or min(lengths) < LEAST_TOKENS or len(set(lengths)) < len(lengths):
        raise RecipeError(
            f"insert.{item_set}.tokens is {lengths}; name one or more lengths of {LEAST_TOKENS} tokens or more, each once"
        )
    for bucket in buckets:
        if not _is_bucket(bucket) or buckets.count(bucket) > 1:
            raise RecipeError(
                f"insert.{item_set}.perplexity has {bucket!r}; each bucket is [from, below] with 1 <= from < below, and comes once"
            )
    if not buckets:
        raise RecipeError(f"insert.{item_set}.perplexity is []; name one or more buckets, as [[10, 100]]")
    if settings.jaccard is not None and not 0 < settings.jaccard <= 1:
        raise RecipeError(f"insert.{item_set}.jaccard is {settings.jaccard}; it must be above 0 and up to 1, or null for no limit")


def _is_bucket(given: Any) -> bool:
    numbers = isinstance(given, list) and all(isinstance(bound, int | float) and isfinite(bound) for bound in given)
    return numbers and len(given) == 2 and 1 <= given[0] < given[1]


def _item(sampled: Sampled, cell: Cell, model: str, item_set: str, number: int) -> Item:
    tokens, (low, high) = cell
    suffix = Span("suffix", middle(sampled.text), len(sampled.text))
    text = Text("verbatim", sampled.text, [suffix])
    return Item(
        item_id=item_id(item_set, number),
        item_set=item_set,
        kind="trap",
        stratum=f"{item_set}/{tokens}/{low:g}-{high:g}",
        group=item_id(item_set, number),
        fields={"model": model, "perplexity": f"{sampled.perplexity:.6g}", "suffix": sampled.text[suffix.start :]},
        texts=[text],
        probes=[replace(verbatim(text, suffix, bits=0.0), prior=None)],
    )
