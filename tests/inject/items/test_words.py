from itertools import islice

import numpy as np
import pytest

from inject.items.words import BITS_PER_SYLLABLE, SYLLABLES, distinct_words, word


def test_a_word_has_one_reading():
    assert len(set(SYLLABLES)) == 80
    assert {len(syllable) for syllable in SYLLABLES} == {2}


def test_a_syllable_holds_log2_of_80_bits():
    assert pytest.approx(6.3219, abs=1e-4) == BITS_PER_SYLLABLE


def test_every_syllable_is_drawn():
    random = np.random.default_rng(0)
    assert {word(random, 1).lower() for _ in range(2000)} == set(SYLLABLES)


def test_distinct_words_go_on_until_every_word_has_come_once():
    assert len(set(islice(distinct_words(np.random.default_rng(0), 1), 80))) == 80
