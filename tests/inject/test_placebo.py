"""The spans of a placebo, in a stream of short rows."""

import numpy as np
import pyarrow as pa
import pytest

from configs.errors import RecipeError
from configs.tables import PLAN
from inject.corpus import Corpus
from inject.design import Shape
from inject.placebo import placebo_spans
from inject.stream import Stream

S, STEPS, BATCH = 63, 20, 4
SHAPE = Shape(STEPS, BATCH, S)


def plan_of(rows: list[int], mode: str = "overwrite", length: int = 12) -> pa.Table:
    occurrences = [
        {"row": row, "offset": row % 40, "length": length, "mode": mode, "item_id": "a", "copy": n, "variant": "v"}
        for n, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(occurrences, PLAN)


@pytest.fixture(scope="module")
def stream(small_corpus: Corpus) -> Stream:
    return Stream(small_corpus, seed=3, sequence_length=S)


def unread(stream: Stream) -> range:
    return range(STEPS * BATCH, stream.base_rows)


def test_each_span_is_as_long_as_its_copy_at_the_same_offset_in_a_free_row_of_the_same_step(stream: Stream) -> None:
    plan = plan_of([9, 21, 42, 43, 70])
    spans = placebo_spans(plan, plan, stream, unread(stream), SHAPE, seed=1).to_pylist()
    assert [span["row"] // BATCH for span in spans] == [2, 5, 10, 10, 17]
    assert sorted(span["offset"] for span in spans) == sorted(row % 40 for row in (9, 21, 42, 43, 70))
    assert all(len(span["tokens"]) == span["length"] - 2 == 10 for span in spans)
    rows = [span["row"] for span in spans]
    assert len({*rows, *plan["row"].to_pylist()}) == 10


def test_its_text_is_of_rows_that_training_never_reads_and_ends_no_document(stream: Stream) -> None:
    plan = plan_of([30])
    [span] = placebo_spans(plan, plan, stream, range(90, 91), SHAPE, seed=1).to_pylist()
    text = stream.base_tokens(np.asarray([90]))[0]
    assert span["tokens"] == text[text != stream.corpus.end_of_text][:10].tolist()


def test_a_full_step_gives_way_to_the_nearest_and_none_before_the_first_removed_copy(stream: Stream) -> None:
    removed = plan_of([12])
    plan = plan_of([row for row in range(12, STEPS * BATCH) if row // BATCH != 6])
    [span] = placebo_spans(removed, plan, stream, unread(stream), SHAPE, seed=1).to_pylist()
    assert span["row"] // BATCH == 6


def test_a_spliced_span_begins_at_the_end_of_a_document(stream: Stream) -> None:
    longer = Shape(STEPS * 20, BATCH, S)  # few of so short rows hold one
    plan = plan_of([8, 20, 44], "splice")
    spans = placebo_spans(plan, plan, stream, range(longer.rows, stream.base_rows), longer, seed=2).to_pylist()
    base = stream.base_tokens(np.asarray([span["row"] for span in spans]))
    assert [tokens[span["offset"]] for tokens, span in zip(base, spans, strict=True)] == [stream.corpus.end_of_text] * 3
    assert all(span["offset"] + span["length"] <= S + 1 for span in spans)


def test_other_seeds_choose_other_spans_and_the_same_seed_the_same(stream: Stream) -> None:
    plan = plan_of([9, 21, 42, 43, 70])
    one, again, other = (placebo_spans(plan, plan, stream, unread(stream), SHAPE, seed) for seed in (1, 1, 2))
    assert one.equals(again)
    assert not one.equals(other)


def test_a_training_without_free_rows_or_other_text_is_refused(stream: Stream) -> None:
    full = plan_of(list(range(STEPS * BATCH)))
    with pytest.raises(RecipeError, match="no room for a placebo"):
        placebo_spans(full.slice(4, 1), full, stream, unread(stream), SHAPE, seed=1)
    with pytest.raises(RecipeError, match="reads every row"):
        placebo_spans(plan_of([9]), plan_of([9]), stream, range(80, 80), SHAPE, seed=1)
