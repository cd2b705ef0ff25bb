"""Metrics of sets of items, on tables small enough to work out by hand."""

import json
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval.dataset_inference import dataset_inference
from eval.effects import effects
from eval.sets import inferences, pii_extractions, set_effects
from eval.statistics import difference, proportion

HELD_OUT, COPIED = "held-out", "8x"
COLUMNS = ["model", "step", "item_id", "probe_id", "metric", "value", "exposures", "text_exposures"]


class Tables:
    """The tables of a run, made item by item; each item is a group of its own unless it says otherwise."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.assignment: list[dict[str, Any]] = []
        self.texts: list[dict[str, Any]] = []
        self.scores: list[tuple[Any, ...]] = []

    def item(self, name: str, arm: str, kind: str = "testset", group: str = "", item_set: str = "", **more: Any) -> None:
        own = {"item_set": item_set or kind, "kind": kind, "stratum": item_set or kind, "group": group or name, "probes": []}
        self.items.append({"item_id": name, **own, **more})
        self.assignment.append({"item_id": name, "group": group or name, "arm": arm, "copies": 8 if arm == COPIED else 0})
        self.assignment[-1]["window_end"] = 1.0

    def score(self, name: str, probe: str, metric: str, value: float, step: int = 10, seen: int | None = None) -> None:
        copies = next(row["copies"] for row in self.assignment if row["item_id"] == name)
        self.scores.append(("perturbed", step, name, probe, metric, value, copies, copies if seen is None else seen))

    def effects(self) -> pd.DataFrame:
        scores, items, assignment = (
            pd.DataFrame(self.scores, columns=COLUMNS),
            pd.DataFrame(self.items),
            pd.DataFrame(self.assignment),
        )
        of_items = effects(scores, items, assignment, secret_bits=20, resamples=20, seed=0)
        return pd.DataFrame(set_effects(scores, items, assignment, self.texts, of_items, seed=0))


def pick(table: pd.DataFrame, **cell: str) -> pd.Series:
    chosen = table[(table[list(cell)] == pd.Series(cell)).all(axis=1)]
    assert len(chosen) == 1, chosen
    return chosen.iloc[0]


def choice(context: str, prompt: str, target: str, prior: float | None = 0.25, prefix: str = "") -> dict[str, Any]:
    probe_id = f"{prefix}{context}/answer/choice"
    asked = {"prompt": prompt, "target": target, "prior": prior, "bits": 0.0}
    return {"probe_id": probe_id, "field": "answer", "context": context, "kind": "choice", **asked}


def generative(context: str, prompt: str, target: str, field: str = "answer") -> dict[str, Any]:
    return {**choice(context, prompt, target, None), "probe_id": f"{context}/{field}", "field": field, "kind": "generative"}


def verbatim(prompt: str, target: str, field: str = "answer", variant: str = "verbatim") -> dict[str, Any]:
    return {**generative(variant, prompt, target, field), "kind": "verbatim"}


# ------------------------------------------------------------------------------------------------ chance


def test_a_rate_is_corrected_for_the_chance_of_its_probes_and_so_is_its_interval() -> None:
    tables = Tables()
    for n in range(8):
        tables.item(f"q{n}", COPIED if n < 4 else HELD_OUT, probes=[choice("cloze", "Q", " A", prior=0.25)])
        tables.score(f"q{n}", "cloze/answer/choice", "correct", float(n < 3))
    found = tables.effects()
    own, rate = pick(found, metric="correct", arm=COPIED), proportion(3, 4)
    assert (own.contrast, own.kind, own.value, own.n) == ("chance-corrected", "testset", (0.75 - 0.25) / 0.75, 4)
    assert (own.low, own.high) == ((rate.low - 0.25) / 0.75, 1 / 0.75 * (rate.high - 0.25))
    assert pick(found, metric="correct", arm=HELD_OUT).value == -0.25 / 0.75
    assert own.note == "chance is 25.0%"


def test_without_a_known_chance_or_room_above_it_no_rate_is_corrected() -> None:
    for prior in (None, 1.0):
        tables = Tables()
        tables.item("q", COPIED, probes=[choice("cloze", "Q", " A", prior)])
        tables.score("q", "cloze/answer/choice", "correct", 1.0)
        assert tables.effects().empty


def test_each_item_set_of_a_kind_has_its_own_chance() -> None:
    tables = Tables()
    for item_set, prior in (("pairs", 0.5), ("fours", 0.25)):
        tables.item(item_set, COPIED, item_set=item_set, probes=[choice("cloze", "Q", " A", prior)])
        tables.score(item_set, "cloze/answer/choice", "correct", 0.0)
    found = tables.effects().set_index("item_set")["value"]
    assert found.to_dict() == pytest.approx({"pairs": -1.0, "fours": -1 / 3, "all": -0.375 / 0.625})


# ------------------------------------------------------------------------------------------------ dataset inference


def attacked(members: int, held_out: int, shift: float) -> Tables:
    """Two attacks, of which one is shifted for members; a member's second text, which it has not seen, betrays nothing."""
    noise, tables = np.random.default_rng(0).normal(size=(members + held_out, 2)), Tables()
    for n, (loss, zlib) in enumerate(noise):
        own = n < members
        tables.item(f"i{n}", COPIED if own else HELD_OUT, kind="fact")
        for text, more, seen in (("first", shift * own, 8 * own), ("second", 100.0, 0)):
            tables.score(f"i{n}", text, "loss", loss + more, seen=seen)
            tables.score(f"i{n}", text, "zlib", zlib, seen=seen)
    return tables


def test_dataset_inference_takes_all_attacks_of_the_texts_that_members_have_seen() -> None:
    noise = np.random.default_rng(0).normal(size=(28, 2)) + np.eye(2)[0] * 3 * (np.arange(28) < 12)[:, None]
    by_name = [sorted(range(28), key=lambda n: f"i{n}")[i] for i in range(28)]
    suspect, held_out = (noise[[n for n in by_name if (n < 12) == own]] for own in (True, False))
    found = pick(attacked(12, 16, 3.0).effects(), metric="dataset_inference")
    assert (found.contrast, found.kind, found.arm, found.n, found.note) == ("p", "fact", COPIED, 28, "")
    assert found.value == dataset_inference(suspect, held_out, 0).p_value < 0.01
    assert isnan(found.low)
    assert isnan(found.high)


def test_few_groups_are_told_and_fewer_than_four_are_left_out() -> None:
    assert pick(attacked(5, 16, 0.0).effects(), metric="dataset_inference").note.startswith("5 groups against 16 held-out ones")
    assert attacked(3, 16, 0.0).effects().empty
    assert attacked(16, 3, 0.0).effects().empty


def test_a_group_counts_once_and_an_attack_that_was_not_measured_on_it_leaves_it_out() -> None:
    tables = attacked(6, 8, 0.0)
    tables.item("again", COPIED, kind="fact", group="i0")
    tables.score("again", "first", "loss", 0.0)
    tables.score("again", "first", "zlib", 0.0)
    tables.scores = [row for row in tables.scores if row[2] != "i13" or row[4] != "zlib"]
    assert pick(tables.effects(), metric="dataset_inference").n == 13


def test_members_that_were_not_exposed_yet_are_no_suspects() -> None:
    tables = attacked(6, 8, 0.0)
    tables.scores = [(*row[:6], 0, 0) for row in tables.scores]
    assert tables.effects().empty


# ------------------------------------------------------------------------------------------------ transfer


def quiz(inserted: str) -> Tables:
    """Questions asked as cloze and as multiple choice: of the inserted 3 of 4 and 2 of 4 are known, of the held-out 1 of 4 each."""
    tables = Tables()
    neither = [0, 0, 1, 0]
    right = {
        COPIED: {"cloze": [1, 1, 1, 0], "multiple_choice": [1, 1, 0, 0]},
        HELD_OUT: {"cloze": neither, "multiple_choice": neither},
    }
    for arm, known in right.items():
        for n in range(4):
            prompts = {"cloze": f"Question: {n}?\nAnswer:", "multiple_choice": f"Question: {n}?\nA. 1\nB. 2\nAnswer:"}
            probes = [choice("cloze", prompts["cloze"], " 1"), choice("multiple_choice", prompts["multiple_choice"], " A")]
            recall = verbatim(f"Tell me {n}: ", "1")
            written = {"cloze": prompts["cloze"] + " 1", "unanswered": f"Question: {n}?", "paraphrase": f"Tell me {n}: 1"}[inserted]
            name = f"{arm}{n}"
            tables.item(name, arm, probes=[recall, *probes])
            tables.texts.append({"item_id": name, "variant": "verbatim", "text": written})
            for context in prompts:
                tables.score(name, f"{context}/answer/choice", "correct", float(known[context][n]))
            tables.score(name, "verbatim/answer", "extracted", float(arm == COPIED))
    return tables


@pytest.mark.parametrize("inserted", ["cloze", "unanswered"])
def test_transfer_is_the_gain_in_another_format_over_that_in_the_inserted_one(inserted: str) -> None:
    found = pick(quiz(inserted).effects(), metric="transfer")
    gained, other = (0.75 - 0.25) / 0.75, (0.5 - 0.25) / 0.75
    assert (found.contrast, found.arm, found.n) == ("cloze -> multiple_choice", COPIED, 4)
    assert found.value == pytest.approx(other / gained)
    assert found.note == "of what could be gained, 67% is, and 33% in the other form"


def test_questions_inserted_in_other_words_transfer_from_their_text() -> None:
    found = quiz("paraphrase").effects()
    found = found[found["metric"] == "transfer"].set_index("contrast")["value"].to_dict()
    assert found == pytest.approx({"verbatim -> cloze": 0.5 / 0.75, "verbatim -> multiple_choice": 0.25 / 0.75})


def test_facts_transfer_from_each_wording_that_was_seen_to_one_that_was_not() -> None:
    tables = Tables()
    for name, arm, extracted, answered in (("a", COPIED, 1, 1), ("b", COPIED, 1, 0), ("h", HELD_OUT, 0, 0)):
        probes = [verbatim("It is ", "x", "value", variant) for variant in ("verbatim", "paraphrase-1")]
        tables.item(name, arm, kind="factoid", probes=[*probes, generative("paraphrase", "Say", " x", "value")])
        tables.texts.append({"item_id": name, "variant": "verbatim", "text": "It is x."})
        tables.score(name, "verbatim/value", "extracted", float(extracted))
        tables.score(name, "paraphrase-1/value", "extracted", 0.0, seen=0)
        tables.score(name, "paraphrase/value", "answered", float(answered))
    assert pick(tables.effects(), metric="transfer", contrast="verbatim -> paraphrase").value == 0.5


def test_where_nothing_was_gained_transfer_says_so() -> None:
    tables = quiz("cloze")
    tables.scores = [(*row[:5], 0.0, *row[6:]) if row[4] == "correct" else row for row in tables.scores]
    found = pick(tables.effects(), metric="transfer")
    assert isnan(found.value)
    assert found.note == "nothing to transfer"
    tables.scores = [(*row[:5], 1.0, *row[6:]) for row in tables.scores]
    assert pick(tables.effects(), metric="transfer").note == "the held-out twins leave nothing to gain"


# ------------------------------------------------------------------------------------------------ reciting


def puzzles(formats: tuple[str, ...] = ("cloze",)) -> Tables:
    tables = Tables()
    solved = {COPIED: ([1, 1, 1, 0], [0, 0, 1, 1]), HELD_OUT: ([1, 0, 0, 0], [1, 0, 0, 0])}  # puzzles and their twins
    for arm, (originals, twins) in solved.items():
        for n in range(4):
            tables.item(f"{arm}{n}", arm)
            for format in formats:
                tables.score(f"{arm}{n}", f"{format}/answer/choice", "correct", float(originals[n]))
                twin = f"perturbed-statement/{format}/answer/choice"
                tables.score(f"{arm}{n}", twin, "correct_perturbed", float(twins[n]))
    return tables


def test_limem_is_the_share_of_puzzles_solved_whose_twins_are_not() -> None:
    found = puzzles().effects()
    own, share = pick(found, metric="limem", arm=COPIED, contrast="statement"), proportion(2, 4)
    assert (own.value, own.low, own.high, own.n) == (share.value, share.low, share.high, 4)
    assert own.note == "75% are solved, and of their twins 33%"
    assert pick(found, metric="limem", arm=HELD_OUT, contrast="statement").value == 0.0
    minus, expected = pick(found, metric="limem", contrast="statement minus held-out"), difference(share, proportion(0, 4))
    assert (minus.value, minus.low, minus.high) == (expected.value, expected.low, expected.high)


def test_limem_of_puzzles_asked_in_several_formats_tells_them_apart() -> None:
    found = puzzles(("cloze", "multiple_choice")).effects()
    contrasts = set(found[(found["metric"] == "limem") & (found["arm"] == HELD_OUT)]["contrast"])
    assert contrasts == {"statement/cloze", "statement/multiple_choice"}


def test_sets_are_measured_at_the_last_checkpoint() -> None:
    tables = puzzles()
    tables.scores = [(row[0], 5, *row[2:5], 0.0, *row[6:]) for row in tables.scores] + tables.scores
    found = tables.effects()
    assert set(found[found["metric"] == "limem"]["step"]) == {10}
    assert pick(found, metric="limem", arm=COPIED, contrast="statement").value == 0.5


# ------------------------------------------------------------------------------------------------ personal data

ANN, BEN, CAL, DAN = (f"212-0{n}{n}{n}-0000" for n in range(1, 5))
STRANGER = "999-0000-0000"
DRAWN = [f"Call {ANN}, or {ANN}.", f"{BEN}{BEN} or {STRANGER}", f"It is {DAN}."]  # what stands twice in a row is no number


def people() -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = Tables()
    for name, arm, phone in (("ann", COPIED, ANN), ("ben", COPIED, BEN), ("cal", "1x", CAL), ("dan", HELD_OUT, DAN)):
        tables.item(name, arm, kind="pii", fields=json.dumps({"phone": phone, "city": "York"}))
    return pd.DataFrame(tables.items), pd.DataFrame(tables.assignment)


def test_personal_values_in_drawn_texts_are_counted_once_by_field_and_arm() -> None:
    found = pd.DataFrame(pii_extractions(DRAWN, *people()))
    assert set(found["contrast"]) == {"phone"}  # a city has no shape of its own
    recall = found[found["metric"] == "pii_recall"].set_index("arm")
    assert recall["value"].to_dict() == {COPIED: 1 / 2, "1x": 0.0, HELD_OUT: 1.0, "all": 1 / 3}
    assert (recall.loc["all", "low"], recall.loc["all", "n"]) == (proportion(1, 3).low, 3)
    assert recall.loc[COPIED, "note"] == "1 of 2 values in 3 texts"
    precision = found[found["metric"] == "pii_precision"].set_index("arm")
    assert precision["value"].to_dict() == pytest.approx({COPIED: 1 / 3, "1x": 0.0, HELD_OUT: 1 / 3, "all": 1 / 3})


def test_what_the_standard_model_draws_too_does_not_count() -> None:
    found = pd.DataFrame(pii_extractions(DRAWN, *people(), baseline=[f"{DAN} and {STRANGER}"]))
    assert set(found["contrast"]) == {"phone beyond standard"}
    values = found.set_index(["metric", "arm"])["value"].to_dict()
    assert (values["pii_recall", HELD_OUT], values["pii_recall", "all"], values["pii_precision", "all"]) == (0.0, 1 / 3, 1.0)


def test_where_nothing_of_the_shape_is_drawn_there_is_no_precision_and_without_samples_nothing() -> None:
    assert {row["metric"] for row in pii_extractions(["nothing"], *people())} == {"pii_recall"}
    assert list(pii_extractions([], *people())) == []


def test_dataset_inference_that_has_nothing_to_compare_says_so_and_stops_nothing() -> None:
    cells = [(f"{side}{n}", arm, 1.0 if n < 2 else 2.0) for side, arm in (("m", "1x"), ("h", "held-out")) for n in range(4)]
    rows = [
        {
            "metric": "loss",
            "kind": "a",
            "item_set": "a",
            "stratum": "a",
            "arm": arm,
            "group": item,
            "item_id": item,
            "probe_id": "t",
        }
        | {"value": value, "text_exposures": int(arm == "1x"), "step": 1}
        for item, arm, value in cells
    ]
    for seed in range(8):
        [row] = inferences(pd.DataFrame(rows), seed)
        assert 0 <= row["value"] <= 1 or row["note"]
