"""Made-up words that can be pronounced, each with a known probability."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2

import numpy as np

SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]

# All syllables have two letters, so that a word has one reading, and n syllables make exactly len(SYLLABLES) ** n words.
BITS_PER_SYLLABLE = log2(len(SYLLABLES))


def word(random: np.random.Generator, syllables: int) -> str:
    """A capitalized word, uniform among all words of so many syllables."""
    return "".join(SYLLABLES[i] for i in random.integers(len(SYLLABLES), size=syllables)).capitalize()


def distinct_words(random: np.random.Generator, syllables: int) -> Iterator[str]:
    """Words of which none comes twice, each drawn when it is asked for."""
    seen: set[str] = set()
    while True:
        if (candidate := word(random, syllables)) not in seen:
            seen.add(candidate)
            yield candidate
