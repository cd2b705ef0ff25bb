"""Attacks over models of paired seeds, against the scores of eval/shadow.py on the same small tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from eval.paired_seeds import ATTACKS, COLUMNS, POOLED, PairedModel, shadow_table, texts_of
from eval.shadow import lira_scores, rmia_scores
from eval.statistics import stratified_auc

TEXTS = 40
RANDOM = np.random.default_rng(0)
EASE = RANDOM.normal(-4, 1, TEXTS)  # of each text, whatever the model
MEMBER = np.stack([RANDOM.permutation(TEXTS) < TEXTS // 2 for _ in range(4)], axis=1)
SIGNAL = np.minimum(EASE[:, None] + 0.8 * MEMBER + RANDOM.normal(0, 0.2, (TEXTS, 4)), -0.1)


def model(
    j: int, cell: str = "{}", items: str = "same", kinds: Sequence[str] = ("fact",) * TEXTS, **columns: object
) -> PairedModel:
    names = [f"i{n}" for n in range(TEXTS)]
    own = {"item_id": names, "variant": "verbatim", "kind": kinds, "stratum": kinds, "group": names}
    texts = pd.DataFrame({**own, "member": MEMBER[:, j], "loss": SIGNAL[:, j], **columns})
    return PairedModel(f"seed-{j}", cell, items, texts)


def test_each_model_is_the_target_of_the_others_and_is_judged_on_the_texts_that_it_has_a_score_of() -> None:
    table = shadow_table([model(j) for j in range(4)])
    assert list(table.columns) == COLUMNS
    expected = {
        "lira_online": lira_scores(SIGNAL, MEMBER),
        "lira_offline": lira_scores(SIGNAL, MEMBER, online=False),
        "rmia": rmia_scores(SIGNAL, MEMBER),
    }
    assert list(expected) == list(ATTACKS)
    for attack, scores in expected.items():
        for j in range(4):
            row = table[(table["attack"] == attack) & (table["point"] == f"seed-{j}")].iloc[0]
            there = ~np.isnan(scores[:, j])
            members, others = there & MEMBER[:, j], there & ~MEMBER[:, j]
            own = stratified_auc([(scores[members, j], scores[others, j])])
            plain = stratified_auc([(SIGNAL[members, j], SIGNAL[others, j])])
            assert (row.value, row.low, row.high, row.n) == (own.value, own.low, own.high, there.sum())
            assert (row.loss, row.loss_low, row.loss_high) == (plain.value, plain.low, plain.high)
    assert set(table["models"]) == {4}


def test_references_tell_how_easy_a_text_is() -> None:
    table = shadow_table([model(j) for j in range(4)])
    pooled = table[table["point"] == POOLED].set_index("attack")
    assert (pooled["value"] > pooled["loss"] + 0.1).all()
    assert pooled["low"].isna().all()
    assert pooled.loc["rmia", "n"] == pytest.approx(4 * TEXTS, abs=30)


@pytest.mark.parametrize(
    "models",
    [
        [model(0), model(1)],
        [model(0), model(1, items="other"), model(2)],
        [model(0, cell='{"model.layers": 2}'), model(1, cell='{"model.layers": 4}'), model(2)],
        [model(0), model(0), model(0)],
        [],
    ],
    ids=["two models", "other items", "other settings", "one assignment", "none"],
)
def test_models_that_can_not_be_paired_have_no_table(models: list[PairedModel]) -> None:
    assert shadow_table(models).empty


def test_kinds_are_judged_by_themselves_and_together() -> None:
    kinds = ["fact", "code"] * (TEXTS // 2)
    table = shadow_table([model(j, kinds=kinds) for j in range(4)])
    assert set(table["kind"]) == {"all", "code", "fact"}
    sizes = table[(table["attack"] == "rmia") & (table["point"] == "seed-0")].set_index("kind")["n"]
    assert sizes["all"] == sizes["code"] + sizes["fact"]


def test_a_text_that_was_not_seen_of_an_item_that_was_is_neither_member_nor_not() -> None:
    items = pd.DataFrame({"item_id": ["a", "b"], "kind": "pii", "stratum": "people"})
    assignment = pd.DataFrame({"item_id": ["a", "b"], "group": ["a", "b"], "copies": [1, 0]})
    texts = pd.DataFrame({"item_id": ["a", "a", "b", "b"], "variant": ["bio", "chat"] * 2})
    rows = [(item, variant, step) for step in (5, 10) for item in "ab" for variant in ("bio", "chat")]
    scores = pd.DataFrame(rows, columns=["item_id", "probe_id", "step"])
    scores = scores.assign(metric="loss", value=-1.0 * scores["step"], text_exposures=[0] * 4 + [1, 0, 0, 0])
    found = texts_of(texts, items, assignment, scores)
    assert found["member"].tolist() == [True, False, False, False]
    assert found["loss"].fillna(0.0).tolist() == [-10.0, 0.0, -10.0, -10.0]
    assert list(found.columns) == list(model(0).texts.columns)
