import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inject import matching
from inject.matching import Matcher

quick = settings(max_examples=200, deadline=None)  # shared machines stall


def naive(patterns, tokens):
    """Every (position, pattern), by looking everywhere."""
    tokens = list(tokens)
    return [
        (position, number)
        for position in range(len(tokens))
        for number, pattern in enumerate(patterns)
        if tokens[position : position + len(pattern)] == list(pattern)
    ]


def find(patterns, tokens, dtype=np.int64):
    positions, numbers = Matcher([np.asarray(pattern) for pattern in patterns]).find(np.asarray(tokens, dtype))
    return list(zip(positions.tolist(), numbers.tolist(), strict=True))


@st.composite
def texts(draw, tokens=60):
    """Patterns and a text over so few tokens that they overlap, repeat and hold each other."""
    token = st.integers(0, draw(st.integers(0, 3)))
    patterns = draw(st.lists(st.lists(token, min_size=1, max_size=20), max_size=8))
    pieces = st.one_of(st.lists(token, max_size=10), st.sampled_from(patterns or [[]]))
    text = [value for piece in draw(st.lists(pieces, max_size=12)) for value in piece]
    return patterns, text[:tokens]


@quick
@given(texts())
def test_finds_what_looking_everywhere_finds(drawn):
    patterns, text = drawn
    assert find(patterns, text) == naive(patterns, text)


@quick
@given(texts(), st.integers(1, 9))
def test_a_chunks_border_hides_nothing_and_shows_nothing_twice(drawn, chunk):
    patterns, text = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "CHUNK", chunk)
        patch.setattr(matching, "COMPARED", 1)
        assert find(patterns, text) == naive(patterns, text)


@quick
@given(texts())
def test_windows_with_equal_hashes_are_told_apart_by_comparison(drawn):
    patterns, text = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_SCATTER", 0)  # every window's hash is 0
        assert find(patterns, text) == naive(patterns, text)


@quick
@given(texts(), st.integers(1, 7))
def test_within_rows_finds_what_looking_in_each_row_finds(drawn, length):
    patterns, text = drawn
    rows = np.asarray(text[: len(text) // length * length], np.int64).reshape(-1, length)
    found = Matcher([np.asarray(pattern) for pattern in patterns]).find_rows(rows)
    expected = [(number, *hit) for number, row in enumerate(rows.tolist()) for hit in naive(patterns, row)]
    assert list(zip(*(array.tolist() for array in found), strict=True)) == expected


def test_by_hand():
    assert find([[7], [7, 8, 9], [9, 7]], [7, 8, 9, 7, 8]) == [(0, 0), (0, 1), (2, 2), (3, 0)]


def test_an_occurrence_across_two_rows_is_none():
    rows, positions, numbers = Matcher([np.array([2, 3])]).find_rows(np.array([[1, 2], [3, 2], [2, 3]]))
    assert (rows.tolist(), positions.tolist(), numbers.tolist()) == ([2], [0], [0])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_arrays_of_every_type_are_searched(dtype):
    assert find([[60000, 5], [5]], [1, 60000, 5], dtype) == [(1, 0), (2, 1)]


def test_a_token_that_the_arrays_type_cannot_hold_is_not_mistaken_for_another():
    assert find([[2**16 + 5]], [5, 5], np.uint16) == []


def test_a_memory_map_is_searched_as_it_is(tmp_path):
    random = np.random.Generator(np.random.PCG64(1))
    tokens = random.integers(1000, size=100_000).astype(np.uint16)
    tokens.tofile(tmp_path / "tokens.bin")
    patterns = [tokens[start : start + 30] for start in (0, 32760, 65536, 99_970)]
    assert find(patterns, np.memmap(tmp_path / "tokens.bin", np.uint16, mode="r"), np.uint16) == [
        (0, 0),
        (32760, 1),
        (65536, 2),
        (99_970, 3),
    ]


def test_a_shared_beginning_is_no_patterns_anchor():
    template = list(range(100, 120))
    patterns = [[*template, number, number + 50] for number in range(20)]
    matcher = Matcher([np.asarray(pattern) for pattern in patterns])
    candidates = [len(positions) for positions, _ in matcher._candidates(np.asarray(template * 50))]
    assert sum(candidates) == 0


def test_the_longest_pattern_is_known():
    assert Matcher([np.arange(3), np.arange(11)]).longest == 11


def test_without_patterns_nothing_is_found():
    assert find([], [1, 2, 3]) == []
    assert Matcher([]).longest == 0


def test_without_tokens_nothing_is_found():
    assert find([[1], [1, 2]], []) == []


def test_an_array_shorter_than_a_pattern_holds_none():
    assert find([list(range(20)), [1]], [0, 1, 2]) == [(1, 1)]


def test_a_pattern_without_tokens_is_refused():
    with pytest.raises(ValueError, match="without tokens"):
        Matcher([np.array([1]), np.array([], np.int64)])
