"""Untargeted extraction: which inserted text does a model emit when it is sampled freely, with no prompt made from that text?

Nasr et al. (2023, arXiv:2311.17035) count a sample as extraction where 50 tokens of it, in a row, are in the training data, and
report the number of different such 50-grams. Here the data looked for are the inserted texts, so a table of their n-grams is
enough. Texts that were not inserted can be looked for too: what is emitted of them is chance.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from configs.errors import DataError, RecipeError
from inject.matching import Matcher

_TOKEN = np.dtype(np.int32)


@dataclass(frozen=True)
class EmittedText:
    """What samples hold of one text. An n-gram that several texts share counts for each."""

    ngrams: int  # different ones in the text
    emitted: int  # of them, in any sample
    samples: int  # that hold one or more


@dataclass(frozen=True)
class Emissions:
    """What samples hold of texts."""

    texts: tuple[EmittedText, ...]  # in the order given
    ngrams: int  # different ones emitted, of all texts
    occurrences: int  # of n-grams in samples; they may overlap
    tokens: int  # sampled

    @property
    def per_1000_tokens(self) -> float:
        """Occurrences of an n-gram of any text, per 1000 sampled tokens."""
        return 1000 * self.occurrences / self.tokens


def count_ngrams(
    samples: Iterable[ArrayLike], texts: Sequence[ArrayLike], n: int, items: Sequence[Hashable] | None = None
) -> Emissions:
    """Which n-grams of `texts` occur in `samples`, both arrays of token ids (length,), of any lengths.

    With the `items` that the texts belong to, an n-gram that texts of several items share, as the words of a template, counts for
    none: emitting it tells of none of them. A text shorter than n is one n-gram, the whole of it. The n-grams of texts are held
    in memory, each of 4 n bytes, and samples are read once. `RecipeError` if n < 1, `DataError` if a text is empty or no token
    was sampled.

    >>> count_ngrams([[7, 1, 2, 3, 7], [2, 3]], [[1, 2, 3, 4], [7]], n=2).texts
    (EmittedText(ngrams=3, emitted=2, samples=2), EmittedText(ngrams=1, emitted=1, samples=1))
    """
    if n < 1:
        raise RecipeError(f"n-grams have 1 token or more, not {n}")
    owners: defaultdict[bytes, set[int]] = defaultdict(set)  # the texts that hold an n-gram
    for number, text in enumerate(texts):
        if np.size(text) == 0:
            raise DataError(f"text {number} of {len(texts)} has no tokens that could be emitted")
        for ngram in _windows(text, min(n, np.size(text))):
            owners[ngram].add(number)
    if items is not None:
        owners = defaultdict(set, {gram: own for gram, own in owners.items() if len({items[number] for number in own}) == 1})
    whole = [ngram for ngram in owners if len(ngram) < n * _TOKEN.itemsize]  # texts shorter than n, of many lengths: found at once
    matcher = Matcher([np.frombuffer(ngram, _TOKEN) for ngram in whole])

    emitted: set[bytes] = set()
    holding: Counter[int] = Counter()
    occurrences = tokens = 0
    for sample in samples:
        found = [ngram for ngram in _windows(sample, n) if ngram in owners]
        found += [whole[i] for i in matcher.find(np.asarray(sample, _TOKEN))[1]]
        emitted.update(found)
        holding.update(set().union(*(owners[ngram] for ngram in set(found))))
        occurrences += len(found)
        tokens += np.size(sample)
    if tokens == 0:
        raise DataError("no token was sampled, and nothing could be emitted")

    in_text = Counter(number for numbers in owners.values() for number in numbers)
    of_text = Counter(number for ngram in emitted for number in owners[ngram])
    return Emissions(
        tuple(EmittedText(in_text[i], of_text[i], holding[i]) for i in range(len(texts))), len(emitted), occurrences, tokens
    )


def _windows(tokens: ArrayLike, n: int) -> Iterator[bytes]:
    """Every n tokens in a row, as bytes, so that they can be looked up exactly."""
    buffer = np.asarray(tokens, _TOKEN).tobytes()
    width = _TOKEN.itemsize
    return (buffer[i : i + n * width] for i in range(0, len(buffer) - (n - 1) * width, width))
