"""A small training is recorded as the trainer records it, faithfully or with one thing wrong, and audited."""

from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from configs.layout import ModelLayout
from configs.schema import Loss
from configs.tables import ASSIGNMENT, LEDGER, PLAN, TEXTS, read_table, write_table
from inject import audit as audit_module
from inject import deviations as deviations_module
from inject.audit import audit, place_of
from inject.design import Shape
from inject.labels import label_mask
from inject.occurrences import Occurrence
from inject.stream import Overlay, Stream, row_digests
from train.ledger import Ledger

S, STEPS, BATCH = 63, 20, 4
SHAPE = Shape(STEPS, BATCH, S)
SEED = 7
TOKENS = {  # tokens in sequences that the corpus does not have
    "code-1": [290, 5, 290, 6],
    "code-2": [280, 281, 280, 281, 280, 282, 299],
    "held-out": [7, 290, 7, 290, 7],
    "spliced": [299, 299, 5, 299, 8],
}


def texts_table(tokens=TOKENS):
    rows = [{"item_id": item, "variant": "only", "text": "", "tokens": own, "spans": []} for item, own in tokens.items()]
    return pa.Table.from_pylist(rows, TEXTS)


def occurrence(item, copy, row, offset, mode="overwrite", tokens=TOKENS):
    length = len(tokens[item]) + 2
    return {"row": row, "offset": offset, "length": length, "mode": mode, "item_id": item, "copy": copy, "variant": "only"}


def plan_table(occurrences):
    return pa.Table.from_pylist(sorted(occurrences, key=lambda o: (o["row"], o["offset"])), PLAN)


def assignment_table(copies, placement="anywhere"):
    fields = {"group": "", "arm": "", "window_start": 0.0, "window_end": 1.0, "spacing": "uniform", "mode": "", "variants": ""}
    rows = [{"item_id": i, "copies": n, "placement": placement, "phases": [], **fields} for i, n in copies.items()]
    return pa.Table.from_pylist(rows, ASSIGNMENT)


@pytest.fixture(scope="module")
def boundary(small_corpus):
    """(row, offset) of documents that end with room behind them, in rows from 8 on."""
    tokens = Stream(small_corpus, SEED, S).base_tokens(np.arange(8, SHAPE.rows))
    rows, offsets = np.nonzero(tokens[:, : S - 20] == small_corpus.end_of_text)
    places = [(int(row) + 8, int(offset)) for row, offset in zip(rows, offsets, strict=True) if offset]
    return next(place for place in places if place[0] not in (10, 21, 40))


@dataclass
class Training:
    """A training, what was planned for it, and what is written down of it."""

    stream: Stream
    layout: ModelLayout
    occurrences: list
    skipped: tuple = ()
    texts: pa.Table = field(default_factory=texts_table)

    def rows(self, step):
        """The tokens of a step as the trainer has them."""
        plan = plan_table(self.occurrences)
        overlay = Overlay.from_tables(plan, self.texts, self.stream.corpus.end_of_text)
        stream = Stream(self.stream.corpus, SEED, S, overlay, self.stream.label_mask)
        return stream.rows(np.arange(step * BATCH, (step + 1) * BATCH))

    def record(self, *, rows=None, digests=None, steps=range(STEPS), every=6):
        """Write the ledger in segments of `every` steps; `rows(step, tokens)` and `digests(step, digests)` tamper with them."""
        ledger = Ledger(self.layout, 0)
        for number, step in enumerate(steps):
            tokens, mask, _ = self.rows(step)
            if rows:
                tokens = rows(step, tokens)
            recorded = row_digests(tokens, mask)
            ledger.add(number, 1e-3, number not in self.skipped, digests(step, recorded) if digests else recorded)
            if (number + 1) % every == 0:
                ledger.commit()
        ledger.commit()
        return self

    def audit(self, occurrences=None, *, steps=STEPS, **more):
        plan = plan_table(self.occurrences if occurrences is None else occurrences)
        return audit(self.stream, plan, self.texts, self.layout.ledgers(), SHAPE, model="perturbed", steps=steps, **more)


@pytest.fixture
def training(small_corpus, tmp_path, boundary):
    """Two copies of one item, one of another, one splice; an item is held out."""
    occurrences = [
        occurrence("code-1", 0, 10, 0),
        occurrence("code-1", 1, 40, S + 1 - 6),
        occurrence("code-2", 0, 21, 12),
        occurrence("spliced", 0, *boundary, "splice"),
    ]
    return Training(Stream(small_corpus, SEED, S), ModelLayout(tmp_path / "perturbed"), occurrences)


def violations(certificate):
    """(kind, step, slot) of each."""
    return [(entry["kind"], entry["step"], entry["slot"]) for entry in certificate.violations.listed]


# ------------------------------------------------------------------------------------------------ as it should be


def test_a_faithful_training_is_certified(training):
    certificate = training.record().audit(assignment=assignment_table({"code-1": 2, "code-2": 1, "spliced": 1, "held-out": 0}))
    assert certificate.violations.listed == []
    assert certificate.certified
    assert (certificate.planned, certificate.consumed, certificate.found) == (4, 4, 4)
    assert (certificate.skipped, certificate.not_reached, certificate.unproven) == (0, 0, 0)
    assert (certificate.rows, certificate.consumed_tokens) == (STEPS * BATCH, STEPS * BATCH * (S + 1))


def test_displaced_and_inserted_tokens_are_counted_by_hand(training, small_corpus):
    certificate = training.record().audit()
    assert certificate.inserted_tokens == 6 + 6 + 9 + 7
    assert certificate.spliced_tokens == 7 - 1  # the opening end-of-text is the base's own
    base = training.stream.base_tokens(np.asarray([10, 40, 21]))
    on_an_end = int((base[[0, 1, 2], [0, S + 1 - 6, 12]] == small_corpus.end_of_text).sum())
    assert certificate.overwritten_tokens == 6 + 6 + 9 - on_an_end


def test_the_standard_model_is_certified_to_be_the_corpus(training):
    training.occurrences = []
    certificate = training.record().audit()
    assert certificate.certified
    assert (certificate.rows, certificate.planned, certificate.inserted_tokens) == (STEPS * BATCH, 0, 0)


def test_a_perturbed_training_is_no_standard_one(training):
    certificate = training.record().audit([])
    assert len(violations(certificate)) == 4
    assert {kind for kind, _, _ in violations(certificate)} == {"differs"}


def test_a_standard_training_lacks_every_insertion(training):
    planned, training.occurrences = training.occurrences, []
    certificate = training.record().audit(planned)
    assert sorted(violations(certificate)) == sorted(("missing", *divmod(o["row"], BATCH)) for o in planned)
    assert (certificate.consumed, certificate.unproven) == (0, 4)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_sound_plan_is_certified_and_any_change_of_a_row_is_a_violation_there(small_corpus, tmp_path_factory, data):
    rows = data.draw(st.lists(st.integers(0, SHAPE.rows - 1), unique=True, max_size=12))
    occurrences = []
    for copy, row in enumerate(rows):
        item = data.draw(st.sampled_from(sorted(TOKENS)))
        occurrences.append(occurrence(item, copy, row, data.draw(st.integers(0, S + 1 - len(TOKENS[item]) - 2))))
    layout = ModelLayout(tmp_path_factory.mktemp("run") / "perturbed")
    training = Training(Stream(small_corpus, SEED, S), layout, occurrences).record()
    assert training.audit().certified

    place = data.draw(st.integers(0, SHAPE.rows - 1)), data.draw(st.integers(0, S))

    def flip(step, tokens):
        if step == place[0] // BATCH:
            tokens[place[0] % BATCH, place[1]] ^= 1
        return tokens

    other = Training(training.stream, ModelLayout(layout.root.with_name("other")), occurrences).record(rows=flip)
    assert [(step, slot) for _, step, slot in violations(other.audit())] == [divmod(place[0], BATCH)]


def test_chunks_of_one_step_find_the_same(training, monkeypatch):
    whole = training.record(digests=lambda step, recorded: recorded[::-1] if step == 9 else recorded).audit()
    monkeypatch.setattr(audit_module, "CHUNK_TOKENS", 1)
    monkeypatch.setattr(deviations_module, "CHUNK_TOKENS", 1)
    assert training.audit().as_json() == whole.as_json()
    assert not whole.certified


# ------------------------------------------------------------------------------------------------ tampered


def flipped(row, offset):
    def tamper(step, tokens):
        if step == row // BATCH:
            tokens[row % BATCH, offset] += 1
        return tokens

    return tamper


def test_a_flipped_token_of_an_insertion_is_caught(training):
    certificate = training.record(rows=flipped(10, 2)).audit()
    assert violations(certificate) == [("differs", 2, 2)]
    entry = certificate.violations.listed[0]
    assert (entry["row"], entry["item_id"], entry["copy"]) == (10, "code-1", 0)
    assert (certificate.consumed, certificate.unproven) == (3, 1)


def test_a_flipped_token_of_the_corpus_is_caught(training):
    certificate = training.record(rows=flipped(33, 50)).audit()
    assert violations(certificate) == [("differs", 8, 1)]
    assert (certificate.rows, certificate.consumed) == (STEPS * BATCH - 1, 4)


def test_a_token_that_was_no_label_is_caught(training, monkeypatch):
    def forgetful(step):
        rows = Training.rows(training, step)
        if step == 5:
            rows.label_mask[1, 14] = False
        return rows

    monkeypatch.setattr(training, "rows", forgetful)
    assert violations(training.record().audit()) == [("differs", 5, 1)]


@pytest.mark.parametrize("loss", [Loss("goldfish", 3, 5), Loss("random", 3)], ids=lambda loss: loss.kind)
class TestALossThatLeavesLabelsOut:
    def test_a_faithful_training_is_certified_and_what_was_left_out_is_counted(self, training, loss):
        training.stream = Stream(training.stream.corpus, SEED, S, label_mask=label_mask(loss, 1))
        training.skipped = (3,)
        certificate = training.record().audit()
        assert certificate.certified
        consumed = [step for step in range(STEPS) if step != 3]
        assert certificate.labels_left_out == sum(int((~training.rows(step).label_mask).sum()) for step in consumed)
        assert certificate.labels_left_out / (len(consumed) * BATCH * S) == pytest.approx(1 / 3, abs=0.05)

    def test_a_training_that_left_out_nothing_is_told(self, training, loss):
        training.record()
        training.stream = Stream(training.stream.corpus, SEED, S, label_mask=label_mask(loss, 1))
        certificate = training.audit()
        assert violations(certificate) == [("differs", *divmod(row, BATCH)) for row in range(SHAPE.rows)]
        assert "no label is left out" in certificate.violations.listed[0]["what"]

    def test_a_training_that_left_out_others_is_told(self, training, loss):
        training.stream = Stream(training.stream.corpus, SEED, S, label_mask=label_mask(loss, 1))
        training.record()
        training.stream = Stream(training.stream.corpus, SEED, S, label_mask=label_mask(replace(loss, k=4), 1))
        certificate = training.audit()
        assert violations(certificate) == [("differs", *divmod(row, BATCH)) for row in range(SHAPE.rows)]
        assert "its tokens or labels are not the planned ones" in certificate.violations.listed[0]["what"]

    def test_what_was_done_to_a_row_is_found_out_all_the_same(self, training, loss):
        """Missing insertions, moved ones and repeated steps bring the labels of the rows that they make."""
        training.stream = Stream(training.stream.corpus, SEED, S, label_mask=label_mask(loss, 1))
        planned = training.occurrences
        training.occurrences = [planned[0] | {"offset": 7}, *planned[2:]]
        certificate = training.record(steps=[*range(6), 5, *range(7, STEPS)]).audit(planned)
        assert violations(certificate) == [("moved", 2, 2), ("order", 6, None), ("missing", 10, 0)]


def test_a_row_without_its_insertion_is_named_with_its_item(training):
    base = training.stream.base_tokens(np.asarray([21]))[0]

    def drop(step, tokens):
        if step == 21 // BATCH:
            tokens[21 % BATCH] = base
        return tokens

    certificate = training.record(rows=drop).audit()
    assert violations(certificate) == [("missing", 5, 1)]
    assert certificate.violations.listed[0]["item_id"] == "code-2"


def test_a_row_that_lacks_one_of_its_insertions_names_the_one(training):
    training.occurrences.append(occurrence("code-2", 1, 10, 30))
    without = Training(training.stream, training.layout, training.occurrences[1:]).record()
    certificate = without.audit(training.occurrences)
    assert [(v["kind"], v["item_id"], v["copy"]) for v in certificate.violations.listed] == [("missing", "code-1", 0)]


@pytest.mark.parametrize("number", [0, 2])
def test_an_offset_shifted_in_the_plan_after_training_is_told_with_both_places(training, number):
    training.record()
    shifted = [dict(o) for o in training.occurrences]
    shifted[number]["offset"] += 1
    certificate = training.audit(shifted)
    assert violations(certificate) == [("moved", *divmod(shifted[number]["row"], BATCH))]
    before, after = training.occurrences[number]["offset"], shifted[number]["offset"]
    assert f"lies at token {before}, planned at {after}" in certificate.violations.listed[0]["what"]


def test_a_splice_shifted_off_its_boundary_is_a_fault_of_the_plan(training, boundary):
    training.record()
    shifted = [*training.occurrences[:3], occurrence("spliced", 0, boundary[0], boundary[1] + 1, "splice")]
    certificate = training.audit(shifted)
    assert violations(certificate) == [("plan", *divmod(boundary[0], BATCH))]
    assert "no document of the corpus ends at token" in certificate.violations.listed[0]["what"]
    assert certificate.unproven == 1


def test_a_splice_trained_as_an_overwrite_is_caught(training, boundary):
    planned = training.occurrences
    training.occurrences = [*planned[:3], occurrence("spliced", 0, *boundary)]
    assert violations(training.record().audit(planned)) == [("differs", *divmod(boundary[0], BATCH))]


def test_a_skipped_step_that_is_not_recorded_is_caught_from_there_on(training):
    certificate = training.record(steps=[*range(7), *range(8, STEPS)]).audit()  # step 7's rows never came
    found = violations(certificate)
    assert found[-1][:2] == ("order", 18)
    assert found[1:] == [("order", step, None) for step in range(7, STEPS - 1)]
    assert certificate.violations.listed[1]["what"].startswith("it holds the rows of step 8")
    assert found[0] == ("ledger", 19, None)  # one step fewer


def test_a_repeated_step_is_named(training):
    certificate = training.record(steps=[0, 1, 2, 2, *range(4, STEPS)]).audit()
    assert violations(certificate) == [("order", 3, None)]
    assert "rows of step 2" in certificate.violations.listed[0]["what"]


def test_a_step_recorded_twice_is_a_violation(training):
    training.record()
    again = read_table(training.layout.ledger(6, 12)).slice(5)  # step 11
    write_table(training.layout.root / "ledger-00000011-00000012.parquet", again, LEDGER)
    assert violations(training.audit()) == [("ledger", 11, None)]


def test_rows_exchanged_within_a_step_are_told_with_where_they_belong(training):
    certificate = training.record(digests=lambda step, d: [d[1], d[0], *d[2:]] if step == 3 else d).audit()
    assert violations(certificate) == [("order", 3, 0), ("order", 3, 1)]
    assert "holds row 13" in certificate.violations.listed[0]["what"]


def test_a_single_row_of_another_step_is_told_as_a_row(training):
    other = row_digests(*training.rows(7)[:2])[1]
    certificate = training.record(digests=lambda step, d: [d[0], other, *d[2:]] if step == 3 else d).audit()
    assert violations(certificate) == [("order", 3, 1)]
    assert "holds row 29, which belongs to step 7" in certificate.violations.listed[0]["what"]


def test_rows_shifted_by_one_are_no_exchange_of_steps(training):
    following = row_digests(*training.rows(4)[:2])[0]
    certificate = training.record(digests=lambda step, d: [*d[1:], following] if step == 3 else d).audit()
    assert violations(certificate) == [("order", 3, slot) for slot in range(BATCH)]


def test_a_row_that_several_places_have_is_told_by_the_nearest(training):
    again = [occurrence("held-out", copy, row, 20) for copy, row in enumerate([30, 45])]
    base = training.stream.base_tokens(np.asarray([30]))[0]
    training.stream.base_tokens = lambda g: np.repeat(base[None], len(g), axis=0)  # a corpus of equal rows
    training.occurrences = again
    stream = Stream(
        training.stream.corpus, SEED, S, Overlay.from_tables(plan_table(again), training.texts, training.stream.corpus.end_of_text)
    )
    stream.base_tokens = training.stream.base_tokens
    training.rows = lambda step: stream.rows(np.arange(step * BATCH, (step + 1) * BATCH))
    inserted = row_digests(*training.rows(30 // BATCH)[:2])[30 % BATCH]
    certificate = training.record(digests=lambda step, d: [inserted, *d[1:]] if step == 10 else d).audit()
    assert violations(certificate) == [("order", 10, 0)]
    assert "holds row 45," in certificate.violations.listed[0]["what"]


def test_deviations_beyond_the_listed_ones_are_counted(training, monkeypatch):
    monkeypatch.setattr(audit_module, "LISTED", 3)
    certificate = training.record(digests=lambda step, d: [bytes(32)] * BATCH if step > 9 else d).audit()
    assert certificate.violations.total == 10 * BATCH
    assert violations(certificate) == [("differs", 10, 0), ("differs", 10, 1), ("differs", 10, 2)]


def test_a_row_dropped_from_a_step_is_named(training):
    certificate = training.record(digests=lambda step, d: d[:1] + d[2:] if step == 5 else d).audit()
    assert violations(certificate) == [("rows", 5, None), ("missing", 5, 1)]
    assert certificate.violations.listed[1]["item_id"] == "code-2"
    assert certificate.unproven == 1


def test_a_ledger_that_ends_early_names_the_steps_and_their_copies(training):
    training.record()
    training.layout.ledgers()[-1].unlink()
    certificate = training.audit()
    assert violations(certificate) == [("ledger", 18, None)]
    assert certificate.violations.listed[0]["what"] == "steps 18 to 19 are not in the ledger; 0 copies were planned there"


@pytest.mark.parametrize("first", [0, 6])
def test_a_missing_segment_leaves_its_copies_unproven(training, first):
    training.record()
    training.layout.ledger(first, first + 6).unlink()
    certificate = training.audit()
    gone = sum(first <= o["row"] // BATCH < first + 6 for o in training.occurrences)
    assert gone >= 1
    assert violations(certificate) == [("ledger", first, None)]
    assert f"{gone} copies were planned there" in certificate.violations.listed[0]["what"]
    assert (certificate.unproven, certificate.consumed) == (gone, 4 - gone)


def test_no_ledger_at_all_proves_nothing(training):
    certificate = training.audit()
    assert violations(certificate) == [("ledger", 0, None)]
    assert certificate.unproven == 4


def test_a_copy_removed_from_the_plan_is_caught_in_its_row_and_in_its_count(training):
    certificate = training.record().audit(
        training.occurrences[1:], assignment=assignment_table({"code-1": 2, "code-2": 1, "spliced": 1})
    )
    assert violations(certificate) == [("copies", None, None), ("differs", 2, 2)]
    assert certificate.violations.listed[0]["what"] == "the plan has 1 copies of code-1, its assignment 2"


def test_an_unplanned_copy_in_a_trained_row_is_caught(training):
    planned = list(training.occurrences)
    training.occurrences.append(occurrence("held-out", 0, 50, 5))
    assert violations(training.record().audit(planned)) == [("differs", 12, 2)]


def test_steps_beyond_the_training_are_violations(training):
    training.record(steps=[*range(STEPS), 0])
    assert violations(training.audit()) == [("ledger", STEPS, None)]


# ------------------------------------------------------------------------------------------------ skips and later steps


def test_a_recorded_skip_is_reported_and_no_violation(training):
    training.skipped = (2, 9)
    certificate = training.record().audit()
    assert certificate.certified
    assert [entry["step"] for entry in certificate.skipped_steps.listed] == [2, 9]
    in_skipped = [o for o in training.occurrences if o["row"] // BATCH in (2, 9)]
    assert certificate.skipped == certificate.skipped_occurrences.total == len(in_skipped) >= 1
    assert {"step": 2, "row": 10, "item_id": "code-1", "copy": 0} in certificate.skipped_occurrences.listed
    assert certificate.consumed == certificate.found == 4 - len(in_skipped)
    assert certificate.consumed_tokens == (STEPS - 2) * BATCH * (S + 1)
    assert {"item_id": "code-1", "planned": 2, "consumed": 1} in certificate.incomplete_items.listed


def test_an_unfinished_training_is_certified_up_to_its_step(training):
    certificate = training.record(steps=range(12)).audit(steps=6)
    reached = sum(o["row"] < 6 * BATCH for o in training.occurrences)
    assert certificate.certified
    assert (certificate.steps, certificate.of_steps, certificate.rows) == (6, STEPS, 6 * BATCH)
    assert (certificate.consumed, certificate.not_reached) == (reached, 4 - reached)
    assert certificate.incomplete_items.total == 0


def test_nothing_trained_yet_is_nothing_to_object_to(training):
    certificate = training.audit(steps=0)
    assert certificate.certified
    assert (certificate.rows, certificate.not_reached) == (0, 4)


# ------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"row": SHAPE.rows}, f"planned in row {SHAPE.rows:,}, but training has rows 0 to {SHAPE.rows - 1:,}"),
        ({"length": 5}, "its length is 5, but its text takes 6 tokens"),
        ({"offset": S - 4}, f"tokens {S - 4} to {S + 1} are not within the row's {S + 1}"),
        ({"mode": "append"}, "its mode is 'append'"),
    ],
)
def test_an_impossible_occurrence_is_a_violation_of_the_plan(training, change, told):
    training.record()
    certificate = training.audit([training.occurrences[0] | change, *training.occurrences[1:]])
    plan = [entry for entry in certificate.violations.listed if entry["kind"] == "plan"]
    assert len(plan) == 1
    assert told in plan[0]["what"]
    assert (plan[0]["item_id"], plan[0]["copy"]) == ("code-1", 0)


def test_overlapping_copies_are_a_violation_of_the_plan(training):
    training.record()
    certificate = training.audit([*training.occurrences, occurrence("code-2", 1, 10, 5)])
    assert violations(certificate) == [("plan", 2, 2)]


def test_an_overwrite_that_should_lie_at_a_boundary_is_held_to_it(training):
    training.record()
    certificate = training.audit(assignment=assignment_table({"code-1": 2, "code-2": 1, "spliced": 1}, "boundary"))
    assert {kind for kind, _, _ in violations(certificate)} == {"plan"}
    assert all("no document of the corpus ends at token" in entry["what"] for entry in certificate.violations.listed)


def test_a_plan_out_of_order_is_a_violation(training):
    training.record()
    shuffled = pa.Table.from_pylist(training.occurrences[::-1], PLAN)
    certificate = audit(training.stream, shuffled, training.texts, training.layout.ledgers(), SHAPE, model="perturbed", steps=STEPS)
    assert violations(certificate) == [("plan", None, None)]
    assert certificate.consumed == 4


def test_a_plan_of_dictionary_columns_does_as_well(training):
    training.record()
    plan = plan_table(training.occurrences)
    for name in ("mode", "item_id", "variant"):
        plan = plan.set_column(plan.column_names.index(name), name, pc.dictionary_encode(plan[name]))
    certificate = audit(training.stream, plan, training.texts, training.layout.ledgers(), SHAPE, model="perturbed", steps=STEPS)
    assert certificate.certified
    assert certificate.consumed == 4


# ------------------------------------------------------------------------------------------------ the scan


def test_natural_occurrences_are_listed_apart(training):
    row = training.stream.base_tokens(np.asarray([33]))[0]
    assert training.stream.corpus.end_of_text not in row[40:48]
    training.texts = texts_table(TOKENS | {"natural": row[40:48].tolist()})
    certificate = training.record().audit()
    assert certificate.certified
    assert {"step": 8, "row": 33, "offset": 40, "item_id": "natural", "variant": "only"} in certificate.natural.listed
    assert certificate.natural.total == len(certificate.natural.listed)
    assert (certificate.natural_items, certificate.natural_held_out_items) == (1, 1)


def test_a_natural_occurrence_that_an_insertion_displaces_is_not_consumed(training):
    row = training.stream.base_tokens(np.asarray([10]))[0]
    training.texts = texts_table(TOKENS | {"natural": row[0:30].tolist()})
    assert training.record().audit().natural.total == 0


def test_a_natural_occurrence_moved_back_by_a_splice_is_still_natural(training, boundary):
    row, offset = boundary
    own = training.stream.base_tokens(np.asarray([row]))[0][offset + 1 : offset + 13]
    training.texts = texts_table(TOKENS | {"natural": own.tolist()})
    certificate = training.record().audit()
    assert certificate.certified
    assert {
        "step": row // BATCH,
        "row": row,
        "offset": offset + 7,
        "item_id": "natural",
        "variant": "only",
    } in certificate.natural.listed


def test_a_text_inside_of_another_items_insertion_is_listed_apart(training):
    training.texts = texts_table(TOKENS | {"part": TOKENS["code-2"][2:]})
    certificate = training.record().audit()
    assert certificate.certified
    assert (certificate.contained.total, certificate.found) == (1, 4)
    (planned,) = [entry for entry in training.occurrences if entry["item_id"] == "code-2"]
    assert certificate.contained.listed == [
        {
            "step": planned["row"] // BATCH,
            "row": planned["row"],
            "offset": planned["offset"] + 3,
            "item_id": "part",
            "variant": "only",
            "inside_item_id": "code-2",
            "inside_variant": "only",
        }
    ]


@pytest.mark.parametrize(("planned", "held_out"), [(False, 1), (True, 0)])
def test_items_inside_of_inserted_ones_are_counted_where_they_are_held_out(training, planned, held_out):
    texts = TOKENS | {"part": TOKENS["code-2"][2:]}
    training.texts = texts_table(texts)
    training.occurrences += [occurrence("part", 0, 30, 5, tokens=texts)] * planned
    certificate = training.record().audit()
    assert certificate.certified
    assert (certificate.contained.total, certificate.contained_held_out_items) == (1, held_out)


def test_the_tokens_of_an_item_across_the_edge_of_an_insertion_are_unplanned(training, small_corpus):
    end = small_corpus.end_of_text
    after = int(training.stream.base_tokens(np.asarray([21]))[0][21])
    training.texts = texts_table(TOKENS | {"across": [299, end, after]})
    certificate = training.record().audit()
    assert violations(certificate) == [("unplanned", 5, 1)]
    assert certificate.violations.listed[0]["item_id"] == "across"


def test_equal_variants_of_an_item_are_one_text(training):
    again = pa.Table.from_pylist(
        [{"item_id": "code-1", "variant": "again", "text": "", "tokens": TOKENS["code-1"], "spans": []}], TEXTS
    )
    training.texts = pa.concat_tables([training.texts, again])
    certificate = training.record().audit()
    assert (certificate.scanned_texts, certificate.found, certificate.contained.total) == (4, 4, 0)


SPAN = Occurrence(0, 10, 6, "overwrite", "a", 0, "only", np.asarray([0, 1, 2, 3, 4, 0]))


@pytest.mark.parametrize(
    ("start", "end", "item", "place"),
    [
        (11, 15, "a", "planned"),
        (11, 15, "b", "contained"),
        (12, 14, "a", "contained"),
        (10, 16, "b", "contained"),
        (9, 12, "a", "unplanned"),
        (15, 17, "a", "unplanned"),
        (9, 17, "a", "unplanned"),
        (5, 10, "a", "natural"),
        (16, 20, "a", "natural"),
    ],
)
def test_where_tokens_stand_tells_what_they_are(start, end, item, place):
    later = replace(SPAN, offset=30)
    assert place_of(start, end, item, [SPAN, later]) == place


def test_a_scan_that_misses_copies_does_not_certify(training, monkeypatch):
    nothing = np.zeros(0, np.int64)
    monkeypatch.setattr(audit_module.Matcher, "find_rows", lambda self, tokens: (nothing, nothing, nothing))
    assert violations(training.record().audit()) == [("scan", None, None)]


# ------------------------------------------------------------------------------------------------ bad files


def test_a_damaged_segment_is_told_in_a_sentence(training):
    training.record()
    training.layout.ledgers()[1].write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"ledger-00000006-00000012\.parquet is damaged"):
        training.audit()


def test_a_segment_that_vanishes_is_told_in_a_sentence(training):
    paths = training.record().layout.ledgers()
    paths[0].unlink()
    with pytest.raises(DataError, match="does not exist"):
        audit(training.stream, plan_table([]), training.texts, paths, SHAPE, model="perturbed", steps=STEPS)


@pytest.mark.parametrize(("table", "column", "what"), [("plan", "offset", "the plan"), ("texts", "tokens", "the table of texts")])
def test_a_table_without_a_column_is_told_in_a_sentence(training, table, column, what):
    tables = {"plan": plan_table(training.occurrences), "texts": training.texts}
    tables[table] = tables[table].drop_columns([column])
    with pytest.raises(DataError, match=f"{what} has no column '{column}'"):
        audit(training.stream, *tables.values(), [], SHAPE, model="perturbed", steps=STEPS)


def test_a_plan_that_names_a_text_that_there_is_not_is_told_in_a_sentence(training):
    training.record()
    training.texts = texts_table({item: tokens for item, tokens in TOKENS.items() if item != "code-2"})
    with pytest.raises(DataError, match=r"the plan names code-2 \(only\), which is not among the texts"):
        training.audit()
