import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from configs.tables import PLAN, TEXTS
from inject.occurrences import Occurrence, Planned, displaced, expected_row, expected_rows, fault, is_ordered, keeps_promises
from inject.stream import Overlay, Stream

quick = settings(max_examples=60, deadline=None)  # shared machines stall
BASE = np.asarray([5, 6, 0, 7, 8, 9, 0, 4])


def copy(offset, *tokens, mode="overwrite", length=None, item="a", number=0):
    span = np.asarray([0, *tokens, 0])
    return Occurrence(3, offset, len(span) if length is None else length, mode, item, number, "only", span)


# ------------------------------------------------------------------------------------------------ the row


def test_an_overwrite_replaces_base_tokens_in_place():
    assert expected_row(BASE, [copy(3, 1, 2)]).tolist() == [5, 6, 0, 0, 1, 2, 0, 4]


def test_a_splice_moves_the_tail_back_and_drops_what_passes_the_end():
    assert expected_row(BASE, [copy(2, 1, 2, mode="splice")]).tolist() == [5, 6, 0, 1, 2, 0, 7, 8]


def test_a_splice_may_fill_the_row():
    assert expected_row(BASE, [copy(2, 1, 1, 1, 1, mode="splice")]).tolist() == [5, 6, 0, 1, 1, 1, 1, 0]


def test_an_overwrite_behind_a_splice_lies_at_its_final_place():
    row = expected_row(BASE, [copy(2, 1, mode="splice"), copy(5, 3)])
    assert row.tolist() == [5, 6, 0, 1, 0, 0, 3, 0]


def test_the_base_row_is_left_as_it_is():
    before = BASE.copy()
    expected_row(BASE, [copy(2, 1, 2, mode="splice"), copy(6)])
    assert np.array_equal(before, BASE)


@st.composite
def rows_with_occurrences(draw):
    """A base row of tokens 0 (end of text) to 3, a splice at one of its boundaries or none, and overwrites beside it."""
    base = np.asarray(draw(st.lists(st.integers(0, 3), min_size=4, max_size=30)))
    occurrences, free = [], 0
    can_splice = True
    while free < len(base) - 3 and draw(st.booleans()):
        offset = draw(st.integers(free, len(base) - 3))
        tokens = draw(st.lists(st.integers(1, 3), min_size=1, max_size=len(base) - 2 - offset))
        spliced = can_splice and base[offset] == 0 and draw(st.booleans())
        occurrences.append(copy(offset, *tokens, mode="splice" if spliced else "overwrite"))
        can_splice = False  # one splice, and before all others: behind it, base offsets are no longer the row's
        free = offset + len(tokens) + 2
    return base, occurrences


@quick
@given(rows_with_occurrences())
def test_rows_made_of_sound_occurrences_keep_every_promise(drawn):
    base, occurrences = drawn
    assert fault(occurrences, base, ()) is None
    assert keeps_promises(expected_row(base, occurrences), base, occurrences)


@quick
@given(rows_with_occurrences(), st.data())
def test_any_other_row_breaks_one(drawn, data):
    base, occurrences = drawn
    row = expected_row(base, occurrences)
    row[data.draw(st.integers(0, len(row) - 1))] += 1
    assert not keeps_promises(row, base, occurrences)


def test_a_splice_that_loses_a_token_of_the_tail_breaks_its_promise():
    spliced = copy(2, 1, mode="splice")
    assert keeps_promises(np.asarray([5, 6, 0, 1, 0, 7, 8, 9]), BASE, [spliced])
    assert not keeps_promises(np.asarray([5, 6, 0, 1, 0, 8, 9, 0]), BASE, [spliced])


@quick
@given(rows_with_occurrences())
def test_the_streams_overlay_makes_the_same_rows(drawn):
    base, occurrences = drawn
    shared = {"row": 0, "item_id": "a", "copy": 0}
    plan = [shared | {"offset": o.offset, "length": o.length, "mode": o.mode, "variant": str(n)} for n, o in enumerate(occurrences)]
    texts = [
        {"item_id": "a", "variant": str(n), "text": "", "tokens": o.span[1:-1].tolist(), "spans": []}
        for n, o in enumerate(occurrences)
    ]
    overlay = Overlay.from_tables(pa.Table.from_pylist(plan, PLAN), pa.Table.from_pylist(texts, TEXTS), end_of_text=0)
    tokens = base[None].copy()
    overlay.apply(np.asarray([0]), tokens)
    assert np.array_equal(tokens[0], expected_row(base, occurrences))


@pytest.mark.parametrize(
    ("occurrence", "tokens"),
    [(copy(3, 1, 2), 4), (copy(2, 1, 2), 3), (copy(2, 1, 2, mode="splice"), 3)],
    ids=["overwrite", "overwrite at a boundary", "splice"],
)
def test_an_end_of_text_that_was_there_before_is_not_displaced(occurrence, tokens):
    assert displaced(occurrence, BASE) == tokens


# ------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("occurrences", "told"),
    [
        ([copy(0, 1, mode="append")], "its mode is 'append'"),
        ([copy(0, 1, length=4)], "its length is 4, but its text takes 3 tokens"),
        ([copy(0)], "its text has no tokens"),
        ([copy(6, 1)], "tokens 6 to 8 are not within the row's 8"),
        ([copy(-1, 1)], "tokens -1 to 1 are not within"),
        ([copy(0, 1), copy(2, 1)], "it begins at token 2, inside of what lies before it up to token 2"),
        ([copy(2, 1, mode="splice"), copy(5, 1, mode="splice")], "the second splice"),
        ([copy(3, 1, mode="splice")], "no document of the corpus ends at token 3"),
        ([copy(3, 1, item="bounded")], "no document of the corpus ends at token 3"),
    ],
)
def test_what_a_sound_plan_would_not_have_is_told(occurrences, told):
    found = fault(occurrences, BASE, {"bounded"})
    assert found is not None
    assert found[0] is occurrences[-1]
    assert told in found[1]


def test_an_item_placed_at_a_boundary_lies_on_the_bases_own_end_of_text():
    assert fault([copy(2, 1, item="bounded")], BASE, {"bounded"}) is None


def test_a_splice_moves_the_boundaries_behind_it():
    splice = copy(2, 1, mode="splice")
    base = np.asarray([5, 6, 0, 7, 0, 9, 9, 9, 9])  # with the splice: 5 6 0 1 0 7 0 9 9
    assert fault([splice, copy(6, 1, item="bounded")], base, {"bounded"}) is None
    assert fault([splice, copy(5, 1, item="bounded")], base, {"bounded"}) is not None


def test_neighbouring_occurrences_are_no_overlap():
    assert fault([copy(0, 1), copy(3, 1)], BASE, ()) is None


# ------------------------------------------------------------------------------------------------ tables


def tables(rows):
    entry = {"length": 3, "mode": "overwrite", "item_id": "a", "variant": "only"}
    plan = pa.Table.from_pylist([entry | {"row": row, "offset": o, "copy": n} for n, (row, o) in enumerate(rows)], PLAN)
    return plan, pa.Table.from_pylist([{"item_id": "a", "variant": "only", "text": "", "tokens": [9], "spans": []}], TEXTS)


def test_occurrences_are_found_by_row_whatever_the_order_of_the_plan():
    planned = Planned(*tables([(7, 0), (2, 9), (2, 1), (5, 0)]), end_of_text=0)
    assert not planned.ordered
    found = planned.among(2, 7)
    assert {row: [o.offset for o in own] for row, own in found.items()} == {2: [1, 9], 5: [0]}
    assert found[2][0].span.tolist() == [0, 9, 0]
    assert (planned.count(2, 7), planned.count(0, 100), planned.count(3, 5)) == (3, 4, 0)


@pytest.mark.parametrize(
    ("rows", "ordered"), [([], True), ([(1, 5), (1, 9), (2, 0)], True), ([(1, 9), (1, 5)], False), ([(2, 0), (1, 5)], False)]
)
def test_a_plan_is_ordered_by_row_then_offset(rows, ordered):
    assert is_ordered(tables(rows)[0]) is ordered


def test_an_unknown_text_is_told_where_its_occurrence_is_read():
    plan, _ = tables([(4, 0)])
    planned = Planned(plan, TEXTS.empty_table(), end_of_text=0)
    with pytest.raises(DataError, match=r"the plan names a \(only\), which is not among the texts"):
        planned.among(0, 10)


def test_rows_with_a_fault_are_left_as_the_corpus_has_them(small_corpus):
    stream = Stream(small_corpus, 7, 31)
    plan, texts = tables([(1, 4), (3, 31)])
    expected = expected_rows(stream, Planned(plan, texts, small_corpus.end_of_text), np.asarray([0, 1, 3]))
    base = stream.base_tokens(np.asarray([0, 1, 3]))
    assert list(expected.occurrences) == [1, 2]
    assert list(expected.faults) == [2]
    assert np.array_equal(expected.tokens[[0, 2]], base[[0, 2]])
    assert expected.tokens[1, 4:7].tolist() == [small_corpus.end_of_text, 9, small_corpus.end_of_text]
    assert np.array_equal(expected.base[1], base[1])
