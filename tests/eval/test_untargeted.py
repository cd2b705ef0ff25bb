"""Untargeted extraction: n-grams of texts in samples are found, and counted once or often as the name says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from eval.untargeted import EmittedText, count_ngrams

quick = settings(max_examples=50, deadline=None)  # shared machines stall
sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=5)


def test_a_sample_emits_the_ngrams_of_a_text_that_it_holds():
    found = count_ngrams([[9, 1, 2, 3, 9, 9], [1, 2, 9, 3, 4]], [[1, 2, 3, 4]], n=2)
    assert found.texts == (EmittedText(ngrams=3, emitted=3, samples=2),)  # 1 2 and 2 3; 1 2 and 3 4
    assert (found.ngrams, found.occurrences, found.tokens) == (3, 4, 11)
    assert found.per_1000_tokens == pytest.approx(4000 / 11)


def test_an_ngram_that_repeats_is_one_ngram_of_many_occurrences():
    found = count_ngrams([[5, 5, 5, 5]], [[5, 5, 5]], n=2)
    assert found.texts == (EmittedText(ngrams=1, emitted=1, samples=1),)
    assert (found.ngrams, found.occurrences) == (1, 3)


def test_an_ngram_of_two_texts_counts_for_each_and_once_in_all():
    found = count_ngrams([[1, 2, 7]], [[1, 2], [0, 1, 2], [2, 1]], n=2)
    assert [text.emitted for text in found.texts] == [1, 1, 0]
    assert (found.ngrams, found.occurrences) == (1, 1)


def test_a_text_shorter_than_n_must_be_emitted_whole():
    found = count_ngrams([[1, 2, 9], [0, 1, 2, 3, 0]], [[1, 2, 3]], n=50)
    assert found.texts == (EmittedText(ngrams=1, emitted=1, samples=1),)


def test_nothing_spans_two_samples():
    assert count_ngrams([[1, 2], [3, 4]], [[1, 2, 3, 4], [2, 3]], n=4).occurrences == 0


def test_a_token_is_not_found_in_the_bytes_of_two():
    assert count_ngrams([[256, 0]], [[1, 0], [1]], n=2).occurrences == 0


@quick
@given(sequences, sequences, st.integers(1, 5))
def test_counts_are_those_of_comparing_every_window_with_every_ngram(samples, texts, n):
    def windows(tokens, length):
        return [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]

    ngrams = [set(windows(text, min(n, len(text)))) for text in texts]
    union = set().union(*ngrams)
    hits = [[w for length in range(1, n + 1) for w in windows(sample, length) if w in union] for sample in samples]
    emitted = set().union(*hits)
    found = count_ngrams([np.array(sample, np.int64) for sample in samples], texts, n)
    assert found.texts == tuple(EmittedText(len(g), len(g & emitted), sum(bool(g & set(h)) for h in hits)) for g in ngrams)
    assert (found.ngrams, found.occurrences) == (len(emitted), sum(map(len, hits)))


def test_samples_may_be_drawn_one_by_one():
    assert count_ngrams(iter([[1, 2], []]), [[1, 2]], n=2).tokens == 2


def test_without_texts_nothing_is_emitted():
    assert count_ngrams([[1, 2]], [], n=2).texts == ()


@pytest.mark.parametrize("samples", [[], [[]]])
def test_a_rate_of_no_sampled_tokens_is_refused(samples):
    with pytest.raises(DataError, match="no token was sampled"):
        count_ngrams(samples, [[1]], n=1)


def test_a_text_without_tokens_is_refused():
    with pytest.raises(DataError, match="text 1 of 2"):
        count_ngrams([[1]], [[1], []], n=1)


def test_ngrams_of_no_tokens_are_refused():
    with pytest.raises(RecipeError, match="not 0"):
        count_ngrams([[1]], [[1]], n=0)


def test_what_texts_of_several_items_share_tells_of_none_of_them():
    texts = [[1, 2, 3], [1, 2, 4], [5, 1, 2]]
    found = count_ngrams([[1, 2, 3, 1, 2, 4]], texts, n=2, items=["a", "b", "b"])
    assert [(text.ngrams, text.emitted) for text in found.texts] == [(1, 1), (1, 1), (1, 0)]
    within = count_ngrams([[1, 2]], texts[1:], n=2, items=["b", "b"])  # of one item
    assert [text.emitted for text in within.texts] == [1, 1]
