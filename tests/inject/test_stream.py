import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from configs.schema import Corpus as CorpusSettings
from configs.schema import Tokenizer
from configs.tables import PLAN, TEXTS
from inject.corpus import Corpus, build_corpus
from inject.design import Shape
from inject.permutation import Permutation
from inject.plan import Lengths, make_plan
from inject.spread import Board
from inject.stream import Overlay, Stream, check_length, row_digests

quick = settings(max_examples=40, deadline=None)  # shared machines stall
S, STEPS, GLOBAL_BATCH = 31, 100, 8
ITEMS = {f"item-{n}": list(range(5 + n, 5 + n + 1 + n % (S - 2))) for n in range(40)}  # tokens of each
SPLICED = {name for n, name in enumerate(ITEMS) if n % 4 == 1 and len(ITEMS[name]) < 12}


def assigned(name: str, copies: int) -> dict:
    """An assignment row, as far as a plan asks for it."""
    phase = {"copies": copies, "first_step": 0, "last_step": STEPS, "spacing": "uniform"}
    how = {"placement": "boundary", "mode": "splice"} if name in SPLICED else {"placement": "anywhere", "mode": "overwrite"}
    return {"item_id": name, "arm": "arm", "copies": copies, "variants": "rotate", "phases": [phase]} | how


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Short documents, so that most rows hold an end of text."""
    folder, random = tmp_path_factory.mktemp("short"), np.random.default_rng(1)
    words = np.asarray(["river", "stone", "lamp", "owl", "field", "snow"])
    texts = [" ".join(random.choice(words, random.integers(5, 20))) for _ in range(4000)]
    (folder / "documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = CorpusSettings(source="jsonl", path=str(folder / "documents.jsonl"), tokenizer=Tokenizer(vocabulary=300))
    build_corpus(source, seed=1, folder=folder / "corpus", identity="short")
    return Corpus(folder / "corpus")


@pytest.fixture(scope="module")
def tables(base, corpus):
    """A plan and its texts: 40 items, 2 to 8 copies each, some filling a row, some spliced."""
    assignment = [assigned(name, 2 + n % 7) for n, name in enumerate(ITEMS)]
    lengths = Lengths.of({name: [("only", len(tokens))] for name, tokens in ITEMS.items()}, list(ITEMS))
    board = Board(Shape(STEPS, GLOBAL_BATCH, S), base.base_tokens, corpus.end_of_text)
    plan = make_plan(assignment, ["set"] * len(ITEMS), lengths, {}, board, seed=3)
    texts = [{"item_id": name, "variant": "only", "text": "", "tokens": tokens, "spans": []} for name, tokens in ITEMS.items()]
    return plan, pa.Table.from_pylist(texts, TEXTS)


@pytest.fixture(scope="module")
def stream(corpus, tables):
    return Stream(corpus, 7, S, Overlay.from_tables(*tables, corpus.end_of_text))


@pytest.fixture(scope="module")
def base(corpus):
    return Stream(corpus, 7, S)


def laid(row, offset, start, length, pool, spliced=False) -> Overlay:
    """An overlay of given occurrences, whose texts are `length` tokens of the pool from `start` on."""
    row, offset, start, length, pool = (np.asarray(values, np.int64) for values in (row, offset, start, length, pool))
    return Overlay(row, offset, np.arange(len(row)), np.full(len(row), spliced), start, length, pool)


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
@given(
    world=st.sampled_from([1, 2, 4, 8]),
    accumulation=st.sampled_from([1, 2, 4, 8]),
    workers=st.integers(1, 3),
    resumed=st.integers(0, STEPS - 1),
    steps=st.integers(1, 12),
    order=st.randoms(),
)
def test_a_steps_rows_are_the_same_for_every_world_size_split_and_resumed_step(
    corpus, stream, tables, world, accumulation, workers, resumed, steps, order
):
    """Ranks share a step's slots, and go through theirs in micro-batches, which workers of their own streams fetch in any order."""
    accumulation = min(accumulation, GLOBAL_BATCH // world)
    streams = [Stream(corpus, 7, S, Overlay.from_tables(*tables, corpus.end_of_text)) for _ in range(workers)]
    last = min(resumed + steps, STEPS)
    batches = [
        step * GLOBAL_BATCH + micro
        for step in range(resumed, last)
        for rank in np.split(np.arange(GLOBAL_BATCH), world)
        for micro in np.array_split(rank, accumulation)
    ]
    order.shuffle(batches)
    seen = {}
    for turn, g in enumerate(batches):
        rows = streams[turn % workers].rows(g)
        seen |= dict(zip(g.tolist(), row_digests(rows.tokens, rows.label_mask), strict=True))
    g = np.arange(resumed * GLOBAL_BATCH, last * GLOBAL_BATCH)
    whole = stream.rows(g)
    assert [seen[row] for row in g.tolist()] == row_digests(whole.tokens, whole.label_mask)


@quick
@given(g=ROWS, order=st.randoms())
def test_rows_are_the_same_in_whatever_order_they_are_asked_for(stream, g, order):
    shuffled = list(range(len(g)))
    order.shuffle(shuffled)
    rows = stream.rows(np.asarray(g, int))
    assert np.array_equal(rows.tokens[shuffled], stream.rows(np.asarray(g, int)[shuffled]).tokens)


def test_another_stream_of_the_same_settings_gives_the_same_rows(corpus, stream, tables):
    again = Stream(corpus, 7, S, Overlay.from_tables(*tables, corpus.end_of_text))
    assert np.array_equal(again.rows(np.arange(100, 200)).tokens, stream.rows(np.arange(100, 200)).tokens)


def test_rows_have_their_shapes_and_types(stream):
    rows = stream.rows(np.arange(5))
    assert (rows.tokens.shape, rows.tokens.dtype) == ((5, S + 1), np.int64)
    assert (rows.label_mask.shape, rows.label_mask.dtype) == ((5, S), np.bool_)
    assert (rows.documents.shape, rows.documents.dtype) == ((5, S + 1), np.int64)


def test_every_token_but_the_first_is_a_label(stream):
    assert stream.rows(np.arange(50)).label_mask.all()


# ------------------------------------------------------------------------------------------------ the base


def test_without_a_plan_rows_are_those_of_the_corpus_in_keyed_order(corpus, base):
    flat = corpus.read(np.asarray([0]), base.base_rows * (S + 1)).reshape(-1, S + 1)
    order = Permutation(base.base_rows, key=7)(np.arange(base.base_rows))
    g = np.arange(base.base_rows)
    assert np.array_equal(base.rows(g).tokens, flat[order])


def test_the_tail_that_fills_no_row_is_left_out(corpus, base):
    assert base.base_rows == corpus.tokens // (S + 1)


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


@quick
@given(first=st.integers(0, 250_000), steps=st.lists(st.integers(0, 9000), min_size=1, max_size=20), order=st.randoms())
def test_base_rows_of_a_large_corpus_are_those_of_its_permutation_wherever_they_are_asked_for(first, steps, order):
    large = Stream(SimpleNamespace(tokens=1_000_000), 7, 9)  # 100,000 rows
    epochs = [Permutation(100_000, key=7 + epoch * 0x9E3779B97F4A7C15) for epoch in range(5)]
    g = first + np.cumsum(steps)
    order.shuffle(g)
    for chosen in (g, g[:1], g[-3:], g):
        expected = [int(epochs[row // 100_000](np.asarray([row % 100_000]))[0]) for row in chosen.tolist()]
        assert large.base_row(chosen).tolist() == expected


def test_another_seed_gives_another_order(corpus, base):
    other = Stream(corpus, 8, S)
    assert (base.base_row(np.arange(1000)) == other.base_row(np.arange(1000))).mean() < 0.01


# ------------------------------------------------------------------------------------------------ the overlay


def test_overwritten_rows_differ_from_the_base_only_inside_planned_spans_where_they_are_the_item(stream, base, tables, corpus):
    g = np.arange(STEPS * GLOBAL_BATCH)
    expected, made, end = base.rows(g).tokens, stream.rows(g).tokens, corpus.end_of_text
    overwritten = [o for o in tables[0].to_pylist() if o["mode"] == "overwrite"]
    for o in overwritten:
        item = [end, *ITEMS[o["item_id"]], end]
        assert o["length"] == len(item)
        expected[o["row"], o["offset"] : o["offset"] + o["length"]] = item
    others = np.isin(g, [o["row"] for o in tables[0].to_pylist() if o["mode"] == "splice"])
    assert len(overwritten) > 100
    assert np.array_equal(made[~others], expected[~others])


def test_a_spliced_row_without_its_span_is_a_prefix_of_the_base_row(stream, base, tables, corpus):
    end, spliced = corpus.end_of_text, [o for o in tables[0].to_pylist() if o["mode"] == "splice"]
    for o in spliced:
        (made,), (before,) = (
            rows.tokens.tolist() for rows in (stream.rows(np.asarray([o["row"]])), base.rows(np.asarray([o["row"]])))
        )
        first, last = o["offset"], o["offset"] + o["length"]
        assert made[first:last] == [end, *ITEMS[o["item_id"]], end]
        assert before[first] == end  # the base's own
        without = made[: first + 1] + made[last:]
        assert without == before[: len(without)]
    assert len(spliced) > 20


def test_an_inserted_token_reaches_no_row_that_was_not_planned(stream, base, tables):
    g = np.setdiff1d(np.arange(STEPS * GLOBAL_BATCH), tables[0]["row"].to_numpy())
    assert len(g) > 500
    assert np.array_equal(stream.rows(g).tokens, base.rows(g).tokens)


def test_insertions_displace_as_many_tokens_as_they_bring(stream, base):
    g = np.arange(STEPS * GLOBAL_BATCH)
    assert stream.rows(g).tokens.shape == base.rows(g).tokens.shape == (800, S + 1)
    assert stream.rows(g).label_mask.sum() == base.rows(g).label_mask.sum()


def test_without_the_occurrences_of_some_items_the_others_stay_where_they_are(corpus, stream, base, tables):
    plan = tables[0]
    kept = plan.filter(pa.compute.invert(pa.compute.is_in(plan["item_id"].cast(pa.string()), pa.array(["item-3", "item-8"]))))
    without = Stream(corpus, 7, S, Overlay.from_tables(kept, tables[1], corpus.end_of_text))
    g = np.arange(STEPS * GLOBAL_BATCH)
    differ = (without.rows(g).tokens != stream.rows(g).tokens).any(1)
    removed = {o["row"] for o in plan.to_pylist() if o["item_id"] in ("item-3", "item-8")}
    assert set(np.flatnonzero(differ)) == removed
    assert np.array_equal(without.rows(np.asarray(sorted(removed))).tokens, base.rows(np.asarray(sorted(removed))).tokens)


@pytest.mark.parametrize("written", [False, True])
def test_a_plan_in_memory_and_as_it_is_written_are_laid_alike(written, corpus, stream, tables):
    plan = pa.concat_tables([tables[0].slice(0, 50), tables[0].slice(50)])
    plan = plan.cast(PLAN) if written else plan
    again = Stream(corpus, 7, S, Overlay.from_tables(plan, tables[1], corpus.end_of_text))
    g = np.arange(STEPS * GLOBAL_BATCH)
    assert np.array_equal(again.rows(g).tokens, stream.rows(g).tokens)


@pytest.mark.parametrize(("item", "variant"), [("item-3", "other"), ("nobody", "only"), ("nobody", "other")])
@pytest.mark.parametrize("known", [0, 1, 40])
def test_a_plan_that_names_a_text_that_is_not_there_is_a_data_error(item, variant, known, tables):
    o = {"row": 0, "offset": 0, "length": 3, "mode": "overwrite", "item_id": item, "copy": 0, "variant": variant}
    with pytest.raises(DataError, match=rf"the plan names {item} \({variant}\), which is not among the texts"):
        Overlay.from_tables(pa.Table.from_pylist([o], PLAN), tables[1].slice(0, known), 0)


def test_the_base_of_a_stream_has_no_insertions(stream, base):
    assert np.array_equal(stream.base_tokens(np.arange(200)), base.rows(np.arange(200)).tokens)


def test_insertions_belong_to_a_row_and_not_to_its_base_row(stream, base, tables):
    g = tables[0]["row"].to_numpy() + base.base_rows  # the same places, an epoch later
    assert np.array_equal(stream.rows(g).tokens, base.rows(g).tokens)


def test_several_insertions_in_one_row_are_all_there(corpus):
    overlay = laid([2, 2, 4], [0, 10, 3], [0, 3, 0], [3, 4, 3], [0, 5, 0, 0, 6, 7, 0])
    tokens = Stream(corpus, 7, S, overlay).rows(np.asarray([4, 3, 2])).tokens
    assert tokens[2, 0:3].tolist() == [0, 5, 0]
    assert tokens[2, 10:14].tolist() == [0, 6, 7, 0]
    assert tokens[0, 3:6].tolist() == [0, 5, 0]


def test_each_variant_of_an_item_is_written_where_it_was_planned(corpus):
    texts = [
        {"item_id": "a", "variant": name, "text": "", "tokens": tokens, "spans": []} for name, tokens in (("x", [5, 6]), ("y", [7]))
    ]
    span = {"mode": "overwrite", "item_id": "a"}
    plan = [
        {"row": 0, "offset": 1, "length": 3, "copy": 0, "variant": "y"} | span,
        {"row": 1, "offset": 2, "length": 4, "copy": 1, "variant": "x"} | span,
    ]
    overlay = Overlay.from_tables(pa.Table.from_pylist(plan, PLAN), pa.Table.from_pylist(texts, TEXTS), corpus.end_of_text)
    tokens, end = Stream(corpus, 7, S, overlay).rows(np.arange(2)).tokens, corpus.end_of_text
    assert tokens[0, 1:4].tolist() == [end, 7, end]
    assert tokens[1, 2:6].tolist() == [end, 5, 6, end]


def test_the_tables_of_an_empty_plan_are_the_base(corpus, base):
    overlay = Overlay.from_tables(PLAN.empty_table(), TEXTS.empty_table(), corpus.end_of_text)
    assert np.array_equal(Stream(corpus, 7, S, overlay).rows(np.arange(50)).tokens, base.rows(np.arange(50)).tokens)


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
    overlay = laid([0], [2], [0], [4], [0, 8, 9, 0])
    stream = Stream(Flat(flat=[4] * 8, tokens=8), 0, 7, overlay)
    rows = stream.rows(np.asarray([0]))
    assert rows.tokens.tolist() == [[4, 4, 0, 8, 9, 0, 4, 4]]
    assert rows.documents.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2]]


@pytest.mark.parametrize(
    ("offset", "tokens"),
    [
        (1, [4, 0, 8, 9, 0, 5, 6, 0]),  # the base's end-of-text at 1 is the opening one; 7 and 7 leave the row
        (4, [4, 0, 5, 6, 0, 8, 9, 0]),  # what follows leaves the row
    ],
)
def test_a_splice_makes_room_at_a_boundary(offset, tokens):
    stream = Stream(Flat(flat=[4, 0, 5, 6, 0, 7, 7, 7], tokens=8), 0, 7, laid([0], [offset], [0], [4], [0, 8, 9, 0], spliced=True))
    assert stream.rows(np.asarray([0])).tokens.tolist() == [tokens]


def test_a_spliced_insertion_is_a_document_of_its_own():
    stream = Stream(Flat(flat=[4, 0, 5, 6, 0, 7, 7, 7], tokens=8), 0, 7, laid([0], [1], [0], [4], [0, 8, 9, 0], spliced=True))
    assert stream.rows(np.asarray([0])).documents.tolist() == [[0, 0, 1, 1, 1, 2, 2, 2]]


def test_documents_are_numbered_from_zero_in_every_row(stream):
    documents = stream.rows(np.arange(200)).documents
    assert (documents[:, 0] == 0).all()
    assert set(np.unique(np.diff(documents, axis=1))) == {0, 1}


# ------------------------------------------------------------------------------------------------ digests


def test_a_digest_is_that_of_a_rows_tokens_and_label_mask():
    tokens, mask = np.asarray([[1, 2, 3], [1, 2, 4]]), np.asarray([[True, False], [True, True]])
    message = b"".join(n.to_bytes(8, "little") for n in (1, 2, 3)) + b"\x01\x00"
    digests = row_digests(tokens, mask)
    assert digests[0] == hashlib.sha256(message).digest()
    assert digests[1] not in (digests[0], *row_digests(tokens[1:], ~mask[1:]))


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
