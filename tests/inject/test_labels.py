"""Which labels the goldfish loss and its control leave out; each defect of the released goldfish code is shown to be avoided."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import Loss
from inject.labels import MULTIPLIER, START, context_hashes, every_label, goldfish_labels, label_mask, random_labels
from inject.stream import Overlay, Stream

CONTEXT = 4


def mixed(value: int) -> int:
    """SplitMix64's mixer, one value at a time."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def hashed(window: list[int]) -> int:
    """The definition, one token at a time; -1 is a place before the row."""
    value = int(START)
    for token in window:
        value = (value + token) * int(MULTIPLIER) % 2**64
    return mixed(value)


def goldfish_label_by_label(row: list[int], k: int, context: int) -> list[bool]:
    padded = [-1] * context + row
    return [hashed(padded[i : i + context]) >= 2**64 // k for i in range(1, len(row))]


# ------------------------------------------------------------------------------------------------ the hash


def test_a_small_row_worked_by_hand():
    """The row 5 0 5 0 0 6 has the contexts (-, 5), (5, 0), (0, 5), (5, 0), (0, 0); with k = 2 the lower half is left out."""
    row = np.asarray([[5, 0, 5, 0, 0, 6]])
    hashes = ["7481f0341bcfa8bd", "b23572d75729e112", "085c95fb2506080a", "b23572d75729e112", "102b3ad8bcc1768c"]
    assert [f"{value:016x}" for value in context_hashes(row, 2)[0].tolist()] == hashes  # others would be another training
    assert [f"{hashed(window):016x}" for window in ([-1, 5], [5, 0], [0, 5], [5, 0], [0, 0])] == hashes
    assert goldfish_labels(row, np.arange(1), k=2, context=2).tolist() == [[False, True, False, True, False]]
    assert goldfish_labels(row, np.arange(1), k=10, context=2).tolist() == [[True, True, False, True, False]]  # below 1999...


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(2, 20).flatmap(
        lambda length: st.lists(st.lists(st.integers(0, 2**31), min_size=length, max_size=length), min_size=1, max_size=4)
    ),
    k=st.integers(2, 9),
    context=st.integers(1, 24),
)
def test_all_rows_at_once_are_as_label_by_label(rows, k, context):
    mask = goldfish_labels(np.asarray(rows), np.arange(len(rows)), k, context)
    assert mask.tolist() == [goldfish_label_by_label(row, k, context) for row in rows]


@pytest.mark.parametrize("context", [1, CONTEXT, 13])
def test_a_label_does_not_decide_about_itself_or_those_before(context):
    """The released code has the target in the window."""
    random = np.random.default_rng(0)
    rows = random.integers(0, 500, (40, 30))
    for place in (1, 14, 29):
        changed = rows.copy()
        changed[:, place] = random.integers(0, 500, 40)
        same = (context_hashes(rows, context) == context_hashes(changed, context)).all(axis=0)
        label = place - 1  # the label that the token is
        assert same[: label + 1].all()
        assert not same[label + 1 : label + 1 + context].any()
        assert same[label + 1 + context :].all()


def test_the_order_of_the_tokens_matters():
    """The released code multiplies them."""
    orders = np.asarray([[*order, 1] for order in itertools.permutations([3, 5, 7, 11])])
    assert len(set(context_hashes(orders, 4)[:, -1].tolist())) == 24
    kept = goldfish_labels(orders, np.arange(24), 2, 4)[:, -1]
    assert 0 < kept.sum() < 24


def test_a_token_of_id_0_is_a_token_like_others():
    """A product of ids is 0 with any such token, and the label after it always, or never, left out."""
    random = np.random.default_rng(1)
    rows = random.integers(1, 500, (4000, CONTEXT + 1))
    rows[np.arange(4000), random.integers(0, CONTEXT, 4000)] = 0
    assert len(set(context_hashes(rows, CONTEXT)[:, -1].tolist())) > 3990  # not all contexts differ
    assert 1 - goldfish_labels(rows, np.arange(4000), 4, CONTEXT)[:, -1].mean() == pytest.approx(0.25, abs=0.03)
    zeros = [context_hashes(np.zeros((1, 9), int), context)[0, -1] for context in range(1, 9)]
    assert len(set(zeros)) == 8
    assert 0 not in zeros


@pytest.mark.parametrize("k", [2, 3, 4, 8, 32])
def test_one_label_in_k_is_left_out_at_every_position(k):
    """Of a row's first labels, too, and in all rows: the released random mask leaves out all of two rows instead."""
    rows, g = np.random.default_rng(2).integers(0, 1000, (3000, 41)), np.arange(3000)
    for mask in (goldfish_labels(rows, g, k, 13), random_labels(rows, g, k, 5)):
        left_out = 1 - mask.mean(axis=0)
        deviation = (1 / k * (1 - 1 / k) / 3000) ** 0.5
        assert np.abs(left_out - 1 / k)[1:].max() < 4.5 * deviation
        assert abs(mask.mean() - (1 - 1 / k)) < 4 * deviation / 40**0.5
        assert mask.any(axis=1).all()
        assert np.abs((1 - mask.mean(axis=1)) - 1 / k).max() < 6 * (1 / k / 40) ** 0.5


# ------------------------------------------------------------------------------------------------ copies of a passage


def copies(passage: np.ndarray, offsets: list[int], length: int) -> np.ndarray:
    rows = np.random.default_rng(3).integers(0, 300, (len(offsets), length))
    for row, offset in zip(rows, offsets, strict=True):
        row[offset : offset + len(passage)] = passage
    return rows


def test_copies_lack_the_same_labels_once_their_context_is_their_own():
    passage, offsets = np.random.default_rng(4).integers(0, 300, 60), [0, 1, 17, 40]
    rows = copies(passage, offsets, 100)
    mask = goldfish_labels(rows, np.arange(4), 4, 13)
    own = [
        row[offset + 12 : offset + 59] for row, offset in zip(mask, offsets, strict=True)
    ]  # labels of its tokens from the 14th on
    assert all((labels == own[0]).all() for labels in own)
    assert 0 < own[0].sum() < 47
    first = [row[offset : offset + 12] for row, offset in zip(mask, offsets, strict=True)]
    assert any((labels != first[0]).any() for labels in first)


def test_what_another_row_holds_changes_nothing():
    rows = np.random.default_rng(5).integers(0, 300, (5, 40))
    whole = goldfish_labels(rows, np.arange(5), 4, 13)
    for order in ([0], [3, 1], [4, 3, 2, 1, 0]):
        assert (goldfish_labels(rows[order], np.asarray(order), 4, 13) == whole[order]).all()
    assert (goldfish_labels(rows, np.arange(5) + 999, 4, 13) == whole).all()


def test_the_control_leaves_out_other_labels_in_every_copy():
    rows = copies(np.arange(60), [10] * 200, 100)
    mask = random_labels(rows, np.arange(200), 4, seed=1)[:, 10:69]
    assert len({labels.tobytes() for labels in mask}) == 200
    assert mask.any(axis=0).all()  # of 200 copies, every label counts in some
    agreement = (mask[:-1] == mask[1:]).mean()
    assert agreement == pytest.approx(0.75**2 + 0.25**2, abs=0.02)  # as independent draws


def test_the_control_is_a_function_of_seed_row_and_position():
    g = np.asarray([0, 7, 2**40])
    mask = random_labels(np.zeros((3, 200), int), g, 4, seed=1)
    assert (random_labels(np.ones((3, 200), int), g, 4, seed=1) == mask).all()
    assert (random_labels(np.zeros((1, 200), int), g[1:2], 4, seed=1)[0] == mask[1]).all()
    assert (random_labels(np.zeros((3, 90), int), g, 4, seed=1) == mask[:, :89]).all()
    assert (random_labels(np.zeros((3, 200), int), g, 4, seed=2) != mask).any(axis=1).all()


# ------------------------------------------------------------------------------------------------ as the stream has them


@pytest.mark.parametrize("kind", ["full", "goldfish", "random"])
def test_the_stream_chooses_labels_of_rows_as_they_are_with_insertions(small_corpus, kind):
    loss = Loss(kind=kind, k=3, context=2)
    pool = np.asarray([small_corpus.end_of_text, 290, 5, 290, 6, small_corpus.end_of_text])
    overlay = Overlay(
        np.asarray([3]), np.asarray([9]), np.asarray([0]), np.asarray([False]), np.asarray([0]), np.asarray([6]), pool
    )
    stream = Stream(small_corpus, 7, 31, overlay, label_mask(loss, 11))
    rows, g = stream.rows(np.arange(8)), np.arange(8)
    assert rows.tokens[3, 10] == 290
    expected = {
        "full": every_label(rows.tokens, g),
        "goldfish": goldfish_labels(rows.tokens, g, 3, 2),
        "random": random_labels(rows.tokens, g, 3, 11),
    }
    assert (rows.label_mask == expected[kind]).all()
    assert (rows.label_mask.dtype, rows.label_mask.shape) == (bool, (8, 31))
    for part in ([5], [6, 3]):  # however they are asked for
        assert (stream.rows(np.asarray(part)).label_mask == rows.label_mask[part]).all()
