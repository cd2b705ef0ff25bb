"""The stream of a stage: what an epoch and a batch hold, and what of a row is learned."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inject.corpus import Corpus
from inject.labels import random_labels
from inject.mixture import DATA, REPLAY, Mixture, Part, lay, used
from inject.questions import Example

LENGTH = 12


def example(number: int, offset: int = 0) -> Example:
    """A question of two tokens, and an answer of one to three that tells its number."""
    answer = 1 + number % 3
    return Example([5, 6, *[10 + offset + number % 90] * answer], slice(2, 2 + answer))


def data(count: int, **given: int) -> Part:
    return Part(DATA, example, count, **{"per_epoch": count, **given}, items=[f"a-{i}" for i in range(count)], seed=1)


def mixture(corpus: Corpus, parts: list[Part], batch: int = 4, seed: int = 3) -> Mixture:
    return Mixture(corpus, parts, batch, LENGTH, seed)


def drawn(mixed: Mixture, first: int, last: int) -> list[tuple[str, int]]:
    return [(part.name, sample) for part, sample in map(mixed.drawn, range(first, last))]


def test_a_row_holds_question_and_answer_between_end_of_text_tokens_and_only_the_answer_and_the_closing_one_are_learned() -> None:
    row, labels = np.full(LENGTH + 1, 0), np.zeros(LENGTH, bool)
    lay(Example([7, 8, 9, 4, 3], slice(3, 5)), row, labels)
    assert row.tolist() == [0, 7, 8, 9, 4, 3, 0, 0, 0, 0, 0, 0, 0]
    assert row[1:][labels].tolist() == [4, 3, 0]  # the answer, and the end-of-text token after it: never padding


def test_tokens_of_a_corpus_fill_a_row_and_are_all_learned() -> None:
    row, labels = np.zeros(LENGTH + 1, np.int64), np.zeros(LENGTH, bool)
    lay(np.arange(LENGTH + 1), row, labels)
    assert row.tolist() == list(range(LENGTH + 1))
    assert labels.all()


def test_rows_are_given_up_to_the_last_label_that_counts() -> None:
    labels = np.zeros((2, 6), bool)
    labels[0, 1], labels[1, 3] = True, True
    assert used(labels) == 4
    assert used(np.zeros((2, 6), bool)) == 1  # a forward pass needs a token


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 40), mixed=st.integers(0, 60), beside=st.integers(0, 3), seed=st.integers(0, 100))
def test_an_epoch_has_every_sample_of_the_data_once_and_as_many_others_as_the_ratio_says(
    small_corpus: Corpus, count: int, mixed: int, beside: int, seed: int
) -> None:
    parts = [data(count), Part("text", example, None, per_epoch=mixed), Part("words", example, None, per_batch=beside)]
    stream = mixture(small_corpus, parts, batch=4, seed=seed)
    epoch = count + mixed
    rows = [row for row in drawn(stream, 0, 4 * 2 * epoch) if row[0] != "words"]
    for first in (0, epoch):
        own = rows[first : first + epoch]
        assert sorted(sample for part, sample in own if part == DATA) == list(range(count))
        assert sum(part == "text" for part, _ in own) == mixed


def test_fresh_samples_never_come_twice_and_every_batch_has_those_that_are_beside(small_corpus: Corpus) -> None:
    parts = [data(10), Part("text", example, None, per_epoch=20), Part(REPLAY, example, 7, per_batch=1, seed=5)]
    stream = mixture(small_corpus, parts)
    rows = drawn(stream, 0, 4 * 100)
    text = [sample for part, sample in rows if part == "text"]
    assert len(set(text)) == len(text) > 150
    replayed = [[sample for part, sample in rows[step * 4 : step * 4 + 4] if part == REPLAY] for step in range(100)]
    assert all(len(own) == 1 for own in replayed)
    assert sorted(sample for [sample] in replayed[:7]) == list(range(7))  # all once before any comes again


def test_a_tenth_of_the_facts_a_turn_is_another_tenth_each_time(small_corpus: Corpus) -> None:
    parts = [data(20), Part(REPLAY, example, 30, per_epoch=3, seed=5)]
    rows = drawn(mixture(small_corpus, parts, batch=23), 0, 23 * 10)
    assert sorted(sample for part, sample in rows if part == REPLAY) == list(range(30))


@pytest.mark.parametrize("size", [None, 30])
def test_a_pool_is_drawn_from_again_and_again(small_corpus: Corpus, size: int | None) -> None:
    parts = [data(10), Part("text", example, size, per_epoch=10, pool=5)]
    rows = drawn(mixture(small_corpus, parts), 0, 20 * 4)
    counts = Counter(sample for part, sample in rows if part == "text")
    assert len(counts) == 5
    assert set(counts.values()) == {8}  # 40 rows of text, evenly of the pool
    assert size is None or max(counts) < size


def test_rows_are_the_same_however_they_are_shared_out(small_corpus: Corpus) -> None:
    parts = [data(11), Part("text", example, None, per_epoch=5), Part(REPLAY, example, 7, per_batch=1, seed=5)]
    whole = mixture(small_corpus, parts).rows(np.arange(60))
    other = mixture(small_corpus, parts)
    numbers = np.random.default_rng(0).permutation(60)
    shared = other.rows(numbers)
    assert (shared.tokens == whole.tokens[numbers]).all()
    assert (shared.label_mask == whole.label_mask[numbers]).all()


def test_another_seed_is_another_order_of_the_same_epoch(small_corpus: Corpus) -> None:
    first, second = (drawn(mixture(small_corpus, [data(30)], seed=seed), 0, 30) for seed in (1, 2))
    assert first != second
    assert sorted(first) == sorted(second)


def test_what_a_loss_leaves_out_is_left_out_of_answers_too(small_corpus: Corpus) -> None:
    plain = mixture(small_corpus, [data(40)])
    masked = Mixture(small_corpus, [data(40)], 4, LENGTH, 3, partial(random_labels, k=2, seed=1))
    g = np.arange(40)
    kept = masked.rows(g).label_mask
    assert (kept == plain.rows(g).label_mask & random_labels(plain.rows(g).tokens, g, k=2, seed=1)).all()
    assert 0 < kept.sum() < plain.rows(g).label_mask.sum()


def test_the_rows_that_hold_facts_are_told_with_their_part(small_corpus: Corpus) -> None:
    replay = Part(REPLAY, example, 3, per_batch=1, items=["b-0", "b-1", "b-2"], seed=5)
    stream = mixture(small_corpus, [data(6), Part("text", example, None, per_epoch=3), replay])
    told = stream.items(0, 12)
    expected = [(g, part.items[sample], part.name) for g in range(12) for part, sample in [stream.drawn(g)] if part.name != "text"]
    assert told == expected
    assert {part for _, _, part in told} == {DATA, REPLAY}
