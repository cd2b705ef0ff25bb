"""What stages learn, retain and lose, from tables of a few facts by hand."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from configs.errors import DataError
from configs.layout import RunLayout, write_json
from configs.schema import Recipe
from configs.stages import Mix, Penalty, Stage
from configs.tables import FACT_SCORES, FACTS, LAYERS, write_table
from eval.continual import Continual, StageRecord, is_plain, method_of, read_continual, stage_effects

LEARN_A = StageRecord("learn", "perturbed", ["A"], [], "plain")
LEARN_B = StageRecord("text", "learn", ["B"], ["A"], "plain → text ×2", held_out={0: 4.5, 20: 3.25})
# item: (set, known); p was known and is no stage's
ITEMS = {"a1": ("A", False), "a2": ("A", False), "a3": ("A", True), "b1": ("B", False), "b2": ("B", False), "p": ("P", True)}
# of stage text at steps 0, 10, 20: whether each is emitted, its token accuracy and mean log-probability, and exposures
SAID: dict[str, Sequence[tuple[bool, float, float, int]]] = {
    "a1": [(True, 1.0, -0.1, 0), (True, 1.0, -0.2, 0), (True, 1.0, -0.5, 1)],
    "a2": [(True, 1.0, -0.1, 0), (False, 0.5, -2.0, 0), (False, 0.25, -4.5, 0)],
    "a3": [(True, 1.0, -0.1, 0), (False, 0.0, -2.0, 0), (True, 1.0, -1.0, 0)],
    "b1": [(False, 0.0, -9.0, 0), (True, 1.0, -1.0, 1), (True, 1.0, -0.5, 2)],
    "b2": [(False, 0.0, -7.0, 0), (False, 0.5, -3.0, 1), (True, 1.0, -0.5, 2)],
    "p": [(True, 1.0, -0.1, 0), (False, 0.5, -2.0, 0), (False, 0.5, -3.0, 0)],
}


def run_of(*stages: StageRecord, layers: Sequence[tuple[str, int, int | None]] = ()) -> Continual:
    columns = ["emitted", "token_accuracy", "log_prob", "exposures"]
    scores = [
        {"model": "text", "step": step, "item_id": item, "item_set": ITEMS[item][0], **dict(zip(columns, told, strict=True))}
        for item, said in SAID.items()
        for step, told in zip((0, 10, 20), said, strict=True)
    ]
    facts = [{"item_id": item, "item_set": own, "inserted": own == "P", "known": known} for item, (own, known) in ITEMS.items()]
    read = [
        {"model": "text", "step": step, "item_id": item, "item_set": ITEMS[item][0], "first": first} for item, step, first in layers
    ]
    return Continual(
        {stage.name: stage for stage in stages},
        pd.DataFrame(facts),
        pd.DataFrame(scores),
        pd.DataFrame(read, columns=["model", "step", "item_id", "item_set", "first"]),
    )


def told(run: Continual, metric: str, arm: str = "all", item_set: str | None = None) -> dict[int, Any]:
    """Value and number of facts at each step."""
    rows = [row for row in stage_effects(run) if (row["metric"], row["arm"]) == (metric, arm)]
    return {row["step"]: (row["value"], row["n"]) for row in rows if item_set in (None, row["item_set"])}


def test_retention_is_of_the_facts_that_the_earlier_stage_was_to_learn() -> None:
    run = run_of(LEARN_A, LEARN_B)  # a3 was known, and dropped
    assert told(run, "retention") == {0: (1.0, 2), 10: (0.5, 2), 20: (0.5, 2)}
    assert told(run, "retention_tokens") == {0: (1.0, 2), 10: (0.75, 2), 20: (0.625, 2)}
    assert told(run, "retention_log_prob")[20] == (-2.5, 2)


def test_a_stage_that_keeps_what_is_known_learns_it_too() -> None:
    keeps = StageRecord("learn", "perturbed", ["A"], [], "plain", keeps_known=True)
    run = run_of(keeps, LEARN_B)
    assert told(run, "retention")[20] == (pytest.approx(2 / 3), 3)
    assert told(run, "prior")[20] == (0.0, 1)  # p alone


def test_learning_is_of_the_own_data() -> None:
    run = run_of(LEARN_A, LEARN_B)
    assert told(run, "learning") == {0: (0.0, 2), 10: (0.5, 2), 20: (1.0, 2)}
    assert told(run, "learning_log_prob") == {0: (-8.0, 2), 10: (-2.0, 2), 20: (-0.5, 2)}
    assert told(run, "steps_to_all") == {20: (20.0, 2)}


def test_facts_that_are_never_all_emitted_together_are_said_not_to_be() -> None:
    other = StageRecord("text", "learn", ["A"], [], "plain")
    [row] = [row for row in stage_effects(run_of(LEARN_A, other)) if row["metric"] == "steps_to_all"]
    assert (row["value"], row["note"]) == (0.0, "")  # at the start they are
    never = run_of(LEARN_A, LEARN_B)
    never.scores.loc[never.scores["item_id"] == "b1", "emitted"] = False
    [row] = [row for row in stage_effects(never) if row["metric"] == "steps_to_all"]
    assert row["value"] != row["value"]
    assert row["note"] == "not reached"


def test_prior_knowledge_is_what_was_known_and_no_stage_of_the_lineage_taught() -> None:
    assert told(run_of(LEARN_A, LEARN_B), "prior") == {0: (1.0, 2), 10: (0.0, 2), 20: (0.5, 2)}  # a3, p


def test_texts_of_inserted_items_are_learned_whether_or_not_they_were_known() -> None:
    again = StageRecord("text", "learn", ["P"], ["A"], "plain")
    run = run_of(LEARN_A, again)
    assert told(run, "learning")[0] == (1.0, 1)
    assert told(run, "prior")[20] == (1.0, 1)  # a3 alone


def test_replayed_facts_are_told_from_those_never_replayed_so_far() -> None:
    run = run_of(LEARN_A, LEARN_B)
    assert told(run, "retention", "replayed") == {20: (1.0, 1)}
    assert told(run, "retention", "never replayed") == {0: (1.0, 2), 10: (0.5, 2), 20: (0.0, 1)}


def test_without_replay_no_parts_are_told() -> None:
    run = run_of(LEARN_A, LEARN_B)
    run.scores["exposures"] = 0
    assert {row["arm"] for row in stage_effects(run)} == {"all"}


def test_shares_have_exact_intervals() -> None:
    rows = stage_effects(run_of(LEARN_A, LEARN_B))
    [row] = [row for row in rows if (row["metric"], row["arm"], row["step"]) == ("retention", "all", 0)]
    assert (row["low"], row["high"]) == (pytest.approx(0.025**0.5), 1.0)  # 2 of 2


def test_the_held_out_loss_stands_at_its_checkpoints() -> None:
    assert told(run_of(LEARN_A, LEARN_B), "held_out_loss") == {0: (4.5, 0), 20: (3.25, 0)}


def test_layers_are_those_of_emitted_facts() -> None:
    layers = [("a1", 20, 2), ("a2", 20, 1), ("b1", 20, 2), ("b2", 20, 4), ("b1", 0, 1)]  # a2 is not emitted at 20, b1 not at 0
    run = run_of(LEARN_A, LEARN_B, layers=layers)
    assert told(run, "first_layer", item_set="A") == {20: (2.0, 1)}
    assert told(run, "first_layer", item_set="B") == {20: (3.0, 2)}
    assert told(run, "layers", item_set="B") == {20: (2, 2)}
    assert told(run, "layer_entropy", item_set="B") == {20: (1.0, 2)}


def test_a_fact_that_was_not_asked_everywhere_is_an_error() -> None:
    run = run_of(LEARN_A, LEARN_B)
    missing = run.scores[~((run.scores["item_id"] == "a1") & (run.scores["step"] == 10))]
    with pytest.raises(DataError, match="text was not asked for 1 of 2 facts"):
        stage_effects(Continual(run.stages, run.facts, missing, run.layers))


def test_a_method_is_what_differs_from_plain_training() -> None:
    replay = Stage(mix=[Mix("replay", ratio=0.1, pool=1000)], penalty=Penalty("kl", 0.5))
    assert method_of([Stage(), replay]) == "plain → replay ×0.1 of 1,000 + kl 0.5"
    assert (is_plain(Stage()), is_plain(replay)) == (True, False)


def test_stages_are_read_as_they_were_trained(tmp_path: Any) -> None:
    stages = {"learn": Stage(after="perturbed", data=["A"]), "text": Stage(after="learn", data=["B"], mix=[Mix(ratio=2)])}
    run, recipe = RunLayout(tmp_path), Recipe(stages=stages)
    write_table(run.facts, [{"item_id": "a1", "item_set": "A", "inserted": False, "known": None}], FACTS)
    for name in stages:
        layout = run.model(name)
        write_json(layout.finished, {"step": 20, "steps": 50, "why": "all learned"})
        layout.metrics.write_text('{"step": 0, "loss": 3.0}\n{"step": 20, "held_out_loss": 2.5}\n')
        score = {
            "model": name,
            "step": 20,
            "item_id": "a1",
            "item_set": "A",
            "emitted": True,
            "token_accuracy": 1.0,
            "log_prob": -1.0,
        }
        write_table(layout.scores / "facts.parquet", [{**score, "exposures": 0}], FACT_SCORES)
        write_table(layout.scores / "layers.parquet", [], LAYERS)
    found = read_continual(run, recipe)
    record = found.stages["text"]
    assert (record.parent, record.data, record.before, record.step, record.ended) == ("learn", ["B"], ["A"], 20, "all learned")
    assert (record.plain, record.plain_lineage, record.held_out) == (False, False, {20: 2.5})
    assert found.stages["learn"].plain_lineage
    assert found.scores["model"].tolist() == ["learn", "text"]
    assert found.taught(record, "A") == ["a1"]  # not known where nobody asked
