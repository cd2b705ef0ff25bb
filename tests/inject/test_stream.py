from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from configs.tables import PLAN, TEXTS
from inject.permutation import Permutation
from inject.plan import make_plan
from inject.stream import Overlay, Stream, check_length

quick = settings(max_examples=40, deadline=None)  # shared machines stall
S, STEPS, GLOBAL_BATCH = 31, 100, 8
ITEMS = {f"item-{n}": list(range(5 + n, 5 + n + 1 + n % (S - 2))) for n in range(40)}  # tokens of each


@pytest.fixture(scope="module")
def tables():
    """A plan and its texts: 40 items, 2 to 8 copies each, some filling a row."""
    assignment = [
        {"item_id": name, "copies": 2 + n % 7, "window_start": 0.0, "window_end": 1.0, "placement": "anywhere"}
        for n, name in enumerate(ITEMS)
    ]
    lengths = {name: [("only", len(tokens))] for name, tokens in ITEMS.items()}
    plan = make_plan(assignment, ["set"] * len(ITEMS), lengths, STEPS, GLOBAL_BATCH, S, seed=3)
    texts = [{"item_id": name, "variant": "only", "text": "", "tokens": tokens, "spans": []} for name, tokens in ITEMS.items()]
    return plan, pa.Table.from_pylist(texts, TEXTS)


@pytest.fixture(scope="module")
def stream(small_corpus, tables):
    return Stream(small_corpus, 7, S, Overlay.from_tables(*tables, small_corpus.end_of_text))


@pytest.fixture(scope="module")
def base(small_corpus):
    return Stream(small_corpus, 7, S)


ROWS = st.lists(st.integers(0, STEPS * GLOBAL_BATCH - 1), max_size=40)

# ------------------------------------------------------------------------------------------------ a pure function


@quick
@given(g=ROWS, data=st.data())
def test_rows_are_the_same_however_they_are_partitioned(stream, g, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(g)), max_size=5)))
    whole, parts = stream.rows(np.asarray(g)), [stream.rows(np.asarray(part)) for part in np.split(np.asarray(g, int), cuts)]
    for name in ("tokens", "label_mask", "documents"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))


@quick
@given(g=ROWS, order=st.randoms())
def test_rows_are_the_same_in_whatever_order_they_are_asked_for(stream, g, order):
    shuffled = list(range(len(g)))
    order.shuffle(shuffled)
    rows = stream.rows(np.asarray(g, int))
    assert np.array_equal(rows.tokens[shuffled], stream.rows(np.asarray(g, int)[shuffled]).tokens)


def test_another_stream_of_the_same_settings_gives_the_same_rows(small_corpus, stream, tables):
    again = Stream(small_corpus, 7, S, Overlay.from_tables(*tables, small_corpus.end_of_text))
    assert np.array_equal(again.rows(np.arange(100, 200)).tokens, stream.rows(np.arange(100, 200)).tokens)


def test_rows_have_their_shapes_and_types(stream):
    rows = stream.rows(np.arange(5))
    assert (rows.tokens.shape, rows.tokens.dtype) == ((5, S + 1), np.int64)
    assert (rows.label_mask.shape, rows.label_mask.dtype) == ((5, S), np.bool_)
    assert (rows.documents.shape, rows.documents.dtype) == ((5, S + 1), np.int64)


def test_every_token_but_the_first_is_a_label(stream):
    assert stream.rows(np.arange(50)).label_mask.all()


# ------------------------------------------------------------------------------------------------ the base


def test_without_a_plan_rows_are_those_of_the_corpus_in_keyed_order(small_corpus, base):
    flat = small_corpus.read(np.asarray([0]), base.base_rows * (S + 1)).reshape(-1, S + 1)
    order = Permutation(base.base_rows, key=7)(np.arange(base.base_rows))
    g = np.arange(base.base_rows)
    assert np.array_equal(base.rows(g).tokens, flat[order])


def test_the_tail_that_fills_no_row_is_left_out(small_corpus, base):
    assert base.base_rows == small_corpus.tokens // (S + 1)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_every_base_row_is_read_once_an_epoch(base, epoch):
    read = base.base_row(np.arange(base.base_rows) + epoch * base.base_rows)
    assert np.array_equal(np.sort(read), np.arange(base.base_rows))


def test_epochs_are_in_different_orders(base):
    first, second = base.base_row(np.arange(base.base_rows)), base.base_row(np.arange(base.base_rows) + base.base_rows)
    assert (first == second).mean() < 0.01


def test_rows_on_both_sides_of_an_epochs_end_can_be_asked_for_at_once(base):
    g = np.arange(base.base_rows - 3, base.base_rows + 3)
    assert np.array_equal(base.base_row(g), [base.base_row(np.asarray([n]))[0] for n in g])


def test_another_seed_gives_another_order(small_corpus, base):
    other = Stream(small_corpus, 8, S)
    assert (base.base_row(np.arange(1000)) == other.base_row(np.arange(1000))).mean() < 0.01


# ------------------------------------------------------------------------------------------------ the overlay


def test_rows_differ_from_the_base_only_inside_planned_spans_where_they_are_the_item(small_corpus, stream, base, tables):
    g = np.arange(STEPS * GLOBAL_BATCH)
    expected, end = base.rows(g).tokens, small_corpus.end_of_text
    for o in tables[0].to_pylist():
        item = [end, *ITEMS[o["item_id"]], end]
        assert o["length"] == len(item)
        expected[o["row"], o["offset"] : o["offset"] + o["length"]] = item
    assert np.array_equal(stream.rows(g).tokens, expected)


def test_the_base_of_a_stream_has_no_insertions(stream, base):
    assert np.array_equal(stream.base_tokens(np.arange(200)), base.rows(np.arange(200)).tokens)


def test_insertions_belong_to_a_row_and_not_to_its_base_row(stream, base, tables):
    g = tables[0]["row"].to_numpy() + base.base_rows  # the same places, an epoch later
    assert np.array_equal(stream.rows(g).tokens, base.rows(g).tokens)


def test_several_insertions_in_one_row_are_all_there(small_corpus):
    pool = np.asarray([0, 5, 0, 0, 6, 7, 0])
    overlay = Overlay(np.asarray([2, 2, 4]), np.asarray([0, 10, 3]), np.asarray([0, 3, 0]), np.asarray([3, 4, 3]), pool)
    tokens = Stream(small_corpus, 7, S, overlay).rows(np.asarray([4, 3, 2])).tokens
    assert tokens[2, 0:3].tolist() == [0, 5, 0]
    assert tokens[2, 10:14].tolist() == [0, 6, 7, 0]
    assert tokens[0, 3:6].tolist() == [0, 5, 0]


def test_each_variant_of_an_item_is_written_where_it_was_planned(small_corpus):
    texts = [
        {"item_id": "a", "variant": name, "text": "", "tokens": tokens, "spans": []} for name, tokens in (("x", [5, 6]), ("y", [7]))
    ]
    span = {"mode": "overwrite", "item_id": "a"}
    plan = [
        {"row": 0, "offset": 1, "length": 3, "copy": 0, "variant": "y"} | span,
        {"row": 1, "offset": 2, "length": 4, "copy": 1, "variant": "x"} | span,
    ]
    overlay = Overlay.from_tables(pa.Table.from_pylist(plan, PLAN), pa.Table.from_pylist(texts, TEXTS), small_corpus.end_of_text)
    tokens, end = Stream(small_corpus, 7, S, overlay).rows(np.arange(2)).tokens, small_corpus.end_of_text
    assert tokens[0, 1:4].tolist() == [end, 7, end]
    assert tokens[1, 2:6].tolist() == [end, 5, 6, end]


def test_the_tables_of_an_empty_plan_are_the_base(small_corpus, base):
    overlay = Overlay.from_tables(PLAN.empty_table(), TEXTS.empty_table(), small_corpus.end_of_text)
    assert np.array_equal(Stream(small_corpus, 7, S, overlay).rows(np.arange(50)).tokens, base.rows(np.arange(50)).tokens)


# ------------------------------------------------------------------------------------------------ documents


class Flat(SimpleNamespace):
    """A corpus of given tokens, read in one row."""

    end_of_text = 0

    def read(self, starts, length):
        return np.stack([np.asarray(self.flat[start : start + length]) for start in starts])


def test_a_document_ends_with_its_end_of_text():
    stream = Stream(Flat(flat=[4, 5, 0, 6, 0, 0, 7, 8], tokens=8), 0, 7)
    assert stream.rows(np.asarray([0])).documents.tolist() == [[0, 0, 0, 1, 1, 2, 3, 3]]


def test_an_insertion_is_a_document_of_its_own():
    overlay = Overlay(np.asarray([0]), np.asarray([2]), np.asarray([0]), np.asarray([4]), np.asarray([0, 8, 9, 0]))
    stream = Stream(Flat(flat=[4] * 8, tokens=8), 0, 7, overlay)
    rows = stream.rows(np.asarray([0]))
    assert rows.tokens.tolist() == [[4, 4, 0, 8, 9, 0, 4, 4]]
    assert rows.documents.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2]]


def test_documents_are_numbered_from_zero_in_every_row(stream):
    documents = stream.rows(np.arange(200)).documents
    assert (documents[:, 0] == 0).all()
    assert set(np.unique(np.diff(documents, axis=1))) == {0, 1}


# ------------------------------------------------------------------------------------------------ length


CORPUS = SimpleNamespace(tokens=1019)  # 101 rows of 10 tokens


@pytest.mark.parametrize(("steps", "epochs"), [(25, 1), (50, 2)])
def test_training_may_read_every_row_once_an_epoch(steps, epochs):
    check_length(CORPUS, 9, steps, 4, epochs)


@pytest.mark.parametrize(
    ("steps", "epochs", "remedies"), [(26, 1, "corpus.epochs=2 or train.steps=25"), (400, 2, "corpus.epochs=16 or train.steps=50")]
)
def test_reading_the_corpus_too_often_is_refused_with_both_remedies(steps, epochs, remedies):
    with pytest.raises(
        RecipeError, match=rf"train\.steps = {steps} needs {4 * steps:,} rows of 10 tokens, but the corpus has 101"
    ) as refused:
        check_length(CORPUS, 9, steps, 4, epochs)
    assert str(refused.value).endswith(f"set {remedies}")
    found = dict(remedy.split("=") for remedy in remedies.split(" or "))
    check_length(CORPUS, 9, steps, 4, int(found["corpus.epochs"]))
    check_length(CORPUS, 9, int(found["train.steps"]), 4, epochs)


def test_a_batch_larger_than_the_corpus_is_refused_with_the_epochs_it_takes():
    with pytest.raises(RecipeError, match=r"set corpus\.epochs=2$"):
        check_length(CORPUS, 9, 1, 200, 1)


def test_a_corpus_shorter_than_a_row_is_refused():
    with pytest.raises(RecipeError, match=r"less than one row of train\.sequence_length \+ 1 = 1020"):
        check_length(CORPUS, 1019, 1, 1, 1)
