import io
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console

from configs.errors import DataError, RecipeError
from configs.tables import PLAN, TEXTS
from inject.design import Shape
from inject.inspection import render, rows_of_step
from inject.labels import goldfish_labels
from inject.stream import Overlay, Stream
from inject.tokenizer import encode

S, SHAPE = 63, Shape(30, 4, 63)
CODE = "The code is 4831."


@pytest.fixture(scope="module")
def boundary(small_corpus):
    """(row, offset) of a document that ends with room behind it."""
    tokens = Stream(small_corpus, 7, S).base_tokens(np.arange(20, SHAPE.rows))
    rows, offsets = np.nonzero(tokens[:, :20] == small_corpus.end_of_text)
    return int(rows[0]) + 20, int(offsets[0])


@pytest.fixture(scope="module")
def plan(small_corpus, boundary):
    length = len(encode(small_corpus.tokenizer, [CODE])[0]) + 2
    rows = [
        {"row": 9, "offset": 3, "length": length, "mode": "overwrite", "item_id": "code", "copy": 0, "variant": "only"},
        {"row": 9, "offset": 60, "length": 4, "mode": "overwrite", "item_id": "bytes", "copy": 0, "variant": "only"},
        {"row": boundary[0], "offset": boundary[1], "length": length, "mode": "splice", "item_id": "code", "copy": 1}
        | {"variant": "only"},
    ]
    return pa.Table.from_pylist(rows, PLAN)


@pytest.fixture(scope="module")
def broken(small_corpus):
    """Two tokens that are the beginning of a character each, and no more: of UTF-8 é and 漢."""
    vocabulary = small_corpus.tokenizer.get_vocab()
    return [vocabulary["Ã"], vocabulary["æ"]]


@pytest.fixture(scope="module")
def stream(small_corpus, plan, broken):
    tokens = {"code": encode(small_corpus.tokenizer, [CODE])[0], "bytes": broken}
    texts = [{"item_id": item, "variant": "only", "text": "", "tokens": own, "spans": []} for item, own in tokens.items()]
    return Stream(small_corpus, 7, S, Overlay.from_tables(plan, pa.Table.from_pylist(texts, TEXTS), small_corpus.end_of_text))


def inspect(stream, plan, step, row=None):
    return rows_of_step(stream, plan, step, SHAPE, stream.corpus.tokenizer, row)


def test_every_row_of_a_step_is_there_with_its_slot(stream, plan):
    rows = inspect(stream, plan, 2)
    assert [(row.slot, row.row) for row in rows] == [(0, 8), (1, 9), (2, 10), (3, 11)]
    assert [row.base_row for row in rows] == stream.base_row(np.arange(8, 12)).tolist()


def test_a_row_can_be_had_alone(stream, plan):
    assert inspect(stream, plan, 2, row=10) == [inspect(stream, plan, 2)[2]]


def test_segments_are_all_of_the_rows_tokens(stream, plan):
    for row in inspect(stream, plan, 2):
        assert sum(segment.tokens for segment in row.segments) == S + 1


def test_an_insertion_is_told_with_item_copy_mode_and_offset(stream, plan):
    row = inspect(stream, plan, 2)[1]
    inserted = [segment for segment in row.segments if segment.insertion and segment.insertion.item_id == "code"]
    assert [(segment.text, segment.end) for segment in inserted] == [
        ("<|endoftext|>", True),
        (CODE, False),
        ("<|endoftext|>", True),
    ]
    assert inserted[0].insertion.label == "code copy 1/2 only overwrite @3"
    assert row.segments[0].insertion is None
    assert row.segments[0].tokens == 3


def test_a_splice_is_told_at_its_boundary(stream, plan, boundary):
    (row,) = inspect(stream, plan, boundary[0] // 4, row=boundary[0])
    texts = [segment.text for segment in row.segments if segment.insertion and not segment.end]
    labels = {segment.insertion.label for segment in row.segments if segment.insertion}
    assert texts == [CODE]
    assert labels == {f"code copy 2/2 only splice @{boundary[1]}"}


def test_base_text_is_that_of_the_corpus(stream, plan):
    row = inspect(stream, plan, 2)[0]
    assert all(segment.insertion is None for segment in row.segments)
    tokens = stream.base_tokens(np.asarray([8]))[0].tolist()
    assert "".join(segment.text for segment in row.segments) == stream.corpus.tokenizer.decode(tokens)


def test_bytes_that_are_no_character_are_shown_as_replaced(stream, plan):
    row = inspect(stream, plan, 2)[1]
    assert [s.text for s in row.segments if s.insertion and s.insertion.item_id == "bytes" and not s.end] == ["��"]


def test_a_plan_of_dictionary_columns_does_as_well(stream, plan):
    encoded = plan
    for name in ("mode", "item_id", "variant"):
        encoded = encoded.set_column(encoded.column_names.index(name), name, pc.dictionary_encode(encoded[name]))
    assert inspect(stream, encoded, 2) == inspect(stream, plan, 2)


def test_the_standard_model_has_no_insertions(small_corpus, plan):
    rows = rows_of_step(Stream(small_corpus, 7, S), PLAN.empty_table(), 2, SHAPE, small_corpus.tokenizer)
    assert not any(segment.insertion for row in rows for segment in row.segments)


# ------------------------------------------------------------------------------------------------ for the terminal


def printed(rows, step, terminal):
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system="standard" if terminal else None)
    console.print(render(rows, step))
    return console.file.getvalue()


def test_insertions_stand_out_without_colours(stream, plan):
    shown = printed(inspect(stream, plan, 2), 2, terminal=False)
    assert "step 2, slot 1, row 9 (base row" in shown
    assert f"⟦code copy 1/2 only overwrite @3: <|endoftext|>{CODE}<|endoftext|>⟧" in shown.replace("\n", "")
    assert shown.count("⟦") == shown.count("⟧") == 2
    assert "\x1b" not in shown


def test_labels_that_the_loss_leaves_out_are_counted(stream, plan):
    goldfish = partial(goldfish_labels, k=3, context=2)
    rows = inspect(Stream(stream.corpus, 7, S, stream.overlay, goldfish), plan, 2)
    left_out = (~goldfish(stream.rows(np.arange(8, 12)).tokens, np.arange(8, 12))).sum(axis=1).tolist()
    assert [row.left_out for row in rows] == left_out
    assert f"(base row {rows[1].base_row:,}), {left_out[1]} labels left out\n" in printed(rows, 2, terminal=False)
    assert "left out" not in printed(inspect(stream, plan, 2), 2, terminal=False)


def test_insertions_are_coloured_by_item(stream, plan):
    shown = printed(inspect(stream, plan, 2), 2, terminal=True)
    assert f"\x1b[93m{CODE}" in shown  # bright yellow, the first item
    assert "\x1b[96m��" in shown


def test_control_characters_do_not_reach_the_terminal(small_corpus):
    escape = encode(small_corpus.tokenizer, ["\x1b[2J"])[0]
    entry = {"item_id": "escape", "variant": "only"}
    plan = pa.Table.from_pylist([entry | {"row": 0, "offset": 4, "length": len(escape) + 2, "mode": "overwrite", "copy": 0}], PLAN)
    texts = pa.Table.from_pylist([entry | {"text": "", "tokens": escape, "spans": []}], TEXTS)
    overlay = Overlay.from_tables(plan, texts, small_corpus.end_of_text)
    rows = rows_of_step(Stream(small_corpus, 7, S, overlay), plan, 0, SHAPE, small_corpus.tokenizer, row=0)
    assert r"\x1b[2J" in printed(rows, 0, terminal=False)


# ------------------------------------------------------------------------------------------------ bad requests


@pytest.mark.parametrize("step", [-1, 30, 9999])
def test_a_step_that_there_is_not_is_told_with_those_there_are(stream, plan, step):
    with pytest.raises(RecipeError, match=rf"^--step is {step}; the run has steps 0 to 29$"):
        inspect(stream, plan, step)


@pytest.mark.parametrize("row", [7, 12, -1, 0])
def test_a_row_of_another_step_is_told_with_those_of_this_one(stream, plan, row):
    with pytest.raises(RecipeError, match=rf"^--row is {row}; step 2 has rows 8 to 11$"):
        inspect(stream, plan, 2, row)


def test_a_plan_that_reaches_beyond_the_row_is_told(small_corpus, stream, plan):
    rows = plan.to_pylist()
    rows[1]["offset"] = 62
    with pytest.raises(DataError, match="reach beyond its row's 64 tokens"):
        inspect(stream, pa.Table.from_pylist(rows, PLAN), 2)


def test_a_plan_without_a_column_is_told(stream, plan):
    with pytest.raises(DataError, match="the plan has no column 'mode'"):
        inspect(stream, plan.drop_columns(["mode"]), 2)
