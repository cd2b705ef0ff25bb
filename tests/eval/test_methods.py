"""Methods against forgetting at equal learning, on curves by hand."""

from dataclasses import replace
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.tables import ASSIGNMENT, EFFECTS, ITEMS
from eval.continual import Continual, StageRecord
from eval.findings import findings
from eval.methods import (
    Comparison,
    Trajectory,
    across_seeds,
    at_the_end,
    claim_effects,
    compare,
    comparisons,
    difference_at,
    matched_points,
    method_claims,
)


def record(name: str, **own: Any) -> StageRecord:
    return StageRecord(**{"name": name, "parent": "learn", "data": ["B"], "before": ["A"], "method": name, **own})


def trajectory(learned: list[float], retained: list[float], facts: int = 100) -> Trajectory:
    """So many facts, of which the first are retained; token accuracy is half way from exact match to 1."""
    emitted = np.stack([np.arange(facts) < round(share * facts) for share in retained], axis=1).astype(float)
    new = np.ones_like(emitted)
    return Trajectory([10 * i for i in range(len(learned))], np.tile(learned, (facts, 1)), emitted, (1 + emitted) / 2, new)


# ------------------------------------------------------------------------------------------------ which are compared


def test_the_baseline_is_plain_throughout_its_lineage() -> None:
    plain, after_text = record("none"), record("text-none", plain_lineage=False)
    text = record("text", plain=False, plain_lineage=False)
    assert comparisons([after_text, text, plain]) == [Comparison(plain, [after_text, text])]


def test_without_such_a_one_it_is_the_only_one_that_is_plain_itself() -> None:
    after_text, text = record("text-none", plain_lineage=False), record("text", plain=False, plain_lineage=False)
    assert comparisons([text, after_text]) == [Comparison(after_text, [text])]
    assert comparisons([text, after_text, record("other", plain_lineage=False)]) == []


def test_stages_that_learn_other_things_are_not_compared() -> None:
    stages = [record("none"), record("ewc", plain=False, data=["C"]), record("kl", plain=False, before=["A", "C"])]
    assert comparisons(stages) == []
    assert comparisons([record("none", before=[]), record("text", plain=False, before=[])]) == []  # nothing to retain


# ------------------------------------------------------------------------------------------------ where


@pytest.mark.parametrize(
    ("retained", "points", "why"),
    [
        ([1.0, 0.8, 0.5, 0.2, 0.1], [1, 2, 3], ""),
        ([0.5, 0.1, 0.0], [], "floor"),  # the first checkpoint has learned nothing yet
        ([1.0, 0.95, 0.81], [], "ceiling"),
        ([1.0, 0.95, 0.1], [], "checkpoints too far apart"),
    ],
)
def test_points_are_where_plain_training_retains_a_part(retained: list[float], points: list[int], why: str) -> None:
    found, reason = matched_points(np.array(retained))
    assert (found.tolist(), reason) == (points, why)


def test_retention_is_linear_in_learning_between_checkpoints() -> None:
    plain_learned, plain = np.array([-8.0, -3.0]), np.array([1.0, 0.5])
    learned, retained = np.array([-8.0, -4.0, -2.0]), np.array([1.0, 0.9, 0.5])
    assert difference_at([plain_learned, learned, plain, retained], np.array([1])) == pytest.approx(0.7 - 0.5)  # half way at -3


def test_checkpoints_that_have_learned_less_than_one_before_are_passed_over() -> None:
    plain_learned, plain = np.array([-8.0, -3.0]), np.array([1.0, 0.5])
    learned, retained = np.array([-8.0, -4.0, -6.0, -2.0]), np.array([1.0, 0.9, 0.1, 0.5])
    assert difference_at([plain_learned, learned, plain, retained], np.array([1])) == pytest.approx(0.2)


def test_what_a_method_knew_at_its_first_checkpoint_it_knew_without_forgetting() -> None:
    plain_learned, plain = np.array([-8.0, -5.0]), np.array([1.0, 0.5])
    learned, retained = np.array([-4.0, -2.0]), np.array([1.0, 0.5])
    assert difference_at([plain_learned, learned, plain, retained], np.array([1])) == pytest.approx(0.5)


def test_differences_are_averaged_over_the_points() -> None:
    plain = trajectory([-8, -6, -4, -2], [1.0, 0.6, 0.4, 0.0])
    own = trajectory([-8, -6, -4, -2], [1.0, 0.9, 0.8, 0.7])
    found = compare(plain, own, 500, 0)
    exact, tokens = found.differences["retention"], found.differences["retention_tokens"]
    assert exact.value == pytest.approx((0.3 + 0.4) / 2)
    assert tokens.value == pytest.approx((0.15 + 0.2) / 2)
    assert 0.2 < exact.low < exact.value < exact.high < 0.5
    assert (found.step, found.verdict, exact.n) == (20, None, 100)
    assert found.note == "where plain training retains 60% to 40%, step 10, 20"


def test_the_interval_has_the_spread_of_a_mean_over_facts() -> None:
    plain, own = trajectory([-8, -4], [1.0, 0.5], 400), trajectory([-8, -4], [1.0, 0.7], 400)
    interval = compare(plain, own, 4000, 0).differences["retention"]
    half = 1.96 * np.sqrt(0.2 * 0.8 / 399)  # the pairs differ by 1 in a fifth of the facts, else by 0
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.06)


def test_the_new_facts_move_the_interval_too() -> None:
    plain, own = trajectory([-8, -4], [1.0, 0.5], 400), trajectory([-8, -3], [1.0, 0.0], 400)
    spread = np.where(np.arange(400) % 2, 6.0, -6.0)  # of what is learned, of which plain training's learning is the mean
    varied = Trajectory(
        plain.steps, plain.learned + np.stack([np.zeros(400), spread], axis=1), plain.retained, plain.tokens, plain.emitted
    )
    found = [compare(each, own, 1000, 0).differences["retention"] for each in (plain, varied)]
    widths = [interval.high - interval.low for interval in found]
    assert widths[1] > 1.5 * widths[0]


def test_a_method_that_never_learns_as_much_is_not_extrapolated() -> None:
    found = compare(trajectory([-8, -4], [1.0, 0.5]), trajectory([-8, -6], [1.0, 1.0]), 100, 0)
    assert found.verdict == "not decidable (not reached)"
    assert isnan(found.differences["retention"].value)
    partly = compare(trajectory([-8, -6, -4], [1.0, 0.6, 0.4]), trajectory([-8, -5], [1.0, 1.0]), 100, 0)
    assert partly.differences["retention"].value == pytest.approx(0.4)
    assert partly.note.endswith("1 of 2 points left out, where the method never learns as much")


@pytest.mark.parametrize(("share", "why"), [(0.1, "floor"), (0.9, "ceiling")])
def test_nothing_is_decided_where_plain_training_retains_nothing_or_all(share: float, why: str) -> None:
    found = compare(trajectory([-8, -4, -2], [1.0, share, share]), trajectory([-8, -4, -2], [1.0, 0.5, 0.5]), 100, 0)
    assert found.verdict == f"not decidable ({why})"


# ------------------------------------------------------------------------------------------------ at the end


def test_at_the_end_a_method_that_has_learned_less_is_not_better() -> None:
    plain, own = trajectory([-8, -2], [1.0, 0.2]), trajectory([-8, -6], [1.0, 0.5])
    learned_less = replace(own, emitted=(np.arange(100) < 94).astype(float)[:, None] * [0, 1])
    assert at_the_end(plain, learned_less)[1] == "not decidable (learned less)"
    assert at_the_end(learned_less, plain)[1] == "no"  # worse though it has learned more
    nearly = replace(own, emitted=(np.arange(100) < 95).astype(float)[:, None] * [0, 1])
    assert at_the_end(plain, nearly)[1] == "yes"


def test_at_the_end_the_facts_are_paired() -> None:
    interval, verdict = at_the_end(trajectory([-8, -2], [1.0, 0.2]), trajectory([-8, -6], [1.0, 0.5]))
    half = 1.9842 * np.sqrt(0.3 * 0.7 * 100 / 99) / 10  # Student's t of 100 differences, 30 of them 1
    assert (interval.value, interval.low) == (pytest.approx(0.3), pytest.approx(0.3 - half, abs=1e-4))
    assert verdict == "yes"
    assert at_the_end(trajectory([-2], [0.5]), trajectory([-2], [0.2]))[1] == "no"


@pytest.mark.parametrize(("plain", "own", "verdict"), [(0.0, 0.04, "floor"), (1.0, 0.96, "ceiling")])
def test_at_the_end_two_that_retain_nothing_or_all_are_not_told_apart(plain: float, own: float, verdict: str) -> None:
    assert at_the_end(trajectory([-2], [plain]), trajectory([-2], [own]))[1] == f"not decidable ({verdict})"


# ------------------------------------------------------------------------------------------------ findings


@pytest.fixture
def run() -> Continual:
    stages = [record("none"), record("replay", plain=False, plain_lineage=False)]
    learn = StageRecord("learn", "perturbed", ["A"], [], "plain")
    curves = {"none": trajectory([-8, -5, -2], [1.0, 0.5, 0.0]), "replay": trajectory([-8, -5, -2], [1.0, 0.9, 0.9])}
    scores = []
    for name, own in curves.items():
        for i in range(100):
            for at, step in enumerate(own.steps):
                row = {"model": name, "step": step, "exposures": 0}
                emitted, right = bool(own.retained[i, at]), own.tokens[i, at]
                scores.append({**row, "item_id": f"a{i}", "emitted": emitted, "token_accuracy": right, "log_prob": -1.0})
                scores.append({**row, "item_id": f"b{i}", "emitted": False, "token_accuracy": 0.0, "log_prob": own.learned[i, at]})
    facts = [
        {"item_id": f"{one}{i}", "item_set": one.upper(), "inserted": False, "known": False} for one in "ab" for i in range(100)
    ]
    named = {stage.name: stage for stage in [learn, *stages]}
    return Continual(named, pd.DataFrame(facts).assign(inserted=False, known=False), pd.DataFrame(scores), pd.DataFrame())


def found(run: Continual, primary: list[str]) -> dict[str, dict[str, Any]]:
    nothing = [schema.empty_table().to_pandas() for schema in (EFFECTS, ITEMS, ASSIGNMENT)]
    return {row["key"]: row for row in findings(*nothing, primary=primary, others=method_claims(run, 500, 0))}


def test_findings_name_stages_and_sets(run: Continual) -> None:
    rows = found(run, ["remix/replay/retention"])
    assert list(rows) == ["remix/replay/retention/A", "remix/replay/tokens/A", "remix/replay/end/A"]
    first = rows["remix/replay/retention/A"]
    assert first["name"] == "more of A is retained in replay than in none at equal learning of B (exact match)"
    assert (first["value"], first["verdict"], first["kind"], first["arm"]) == (pytest.approx(0.4), "yes", "A", "replay")
    assert (first["primary"], first["adjusted_p"]) == (True, None)
    end = rows["remix/replay/end/A"]
    assert (end["value"], end["step"], end["note"]) == (
        pytest.approx(0.9),
        20,
        "90.0% against 0.0%, having learned 0.0% against 0.0%",
    )
    assert end["adjusted_p"] < 0.05


def test_rows_of_the_effects_table_say_what_is_compared_with_what(run: Continual) -> None:
    rows = claim_effects(method_claims(run, 100, 0))
    assert [(row["metric"], row["contrast"], row["item_set"], row["model"]) for row in rows] == [
        ("retention", "minus none at equal learning", "A", "replay"),
        ("retention_tokens", "minus none at equal learning", "A", "replay"),
        ("retention", "minus none", "A", "replay"),
    ]
    assert set(rows[0]) == set(EFFECTS.names)


def test_what_could_not_be_tested_does_not_count_among_the_tests(run: Continual) -> None:
    run.scores.loc[(run.scores["model"] == "none") & (run.scores["step"] == 10) & (run.scores["log_prob"] == -1.0), "emitted"] = (
        False
    )
    rows = found(run, [])
    assert rows["remix/replay/retention/A"]["verdict"] == "not decidable (floor)"
    assert (rows["remix/replay/retention/A"]["value"], rows["remix/replay/retention/A"]["adjusted_p"]) == (None, None)
    assert rows["remix/replay/end/A"]["verdict"] == "yes"


def test_a_worse_method_is_a_finding_that_has_to_survive_adjustment_too(run: Continual) -> None:
    run.stages["none"], run.stages["replay"] = record("none", plain=False, plain_lineage=False), record("replay")  # changed over
    worse = method_claims(run, 500, 0)[-1]
    assert (worse.key, worse.verdict) == ("remix/none/end/A", "no")
    barely = replace(worse, effect=replace(worse.effect, value=-0.1, low=-0.19, high=-0.01))
    nothing = [schema.empty_table().to_pandas() for schema in (EFFECTS, ITEMS, ASSIGNMENT)]
    assert [row["verdict"] for row in findings(*nothing, others=[worse, barely])] == ["no", "no"]
    assert [row["verdict"] for row in findings(*nothing, others=[barely, barely])] == ["not decidable"] * 2


# ------------------------------------------------------------------------------------------------ across seeds


def point(value: float | None, verdict: str = "yes", cell: str = "{}") -> tuple[str, list[dict[str, Any]]]:
    row = {"key": "remix/text/retention/A", "name": "more", "metric": "retention", "value": value, "verdict": verdict}
    return cell, [{**row, "key": "dose/canary"}, row]


def test_over_seeds_the_interval_is_students_t_over_runs() -> None:
    [row] = across_seeds([point(0.1), point(0.2), point(0.3)])
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert (row.interval.value, row.interval.low, row.interval.n) == (pytest.approx(0.2), pytest.approx(0.2 - half), 3)
    assert (row.key, row.found, row.verdict) == ("remix/text/retention/A", [0.1, 0.2, 0.3], "not decidable")
    [row] = across_seeds([point(0.19), point(0.2), point(0.21)])
    assert row.verdict == "yes"
    [row] = across_seeds([point(-0.19), point(-0.2), point(-0.21)])
    assert row.verdict == "no"


def test_one_seed_decides_nothing() -> None:
    [row] = across_seeds([point(0.5), point(None, "not decidable (floor)")])
    assert (row.interval.n, row.verdict, row.found) == (1, "not decidable (one seed)", [0.5, None])


def test_what_no_seed_can_decide_says_why() -> None:
    [row] = across_seeds([point(None, "not decidable (floor)"), point(None, "not decidable (floor)")])
    assert row.verdict == "not decidable (floor)"


def test_runs_with_other_settings_are_no_other_seeds() -> None:
    rows = across_seeds([point(0.1, cell="wide"), point(0.2, cell="narrow"), point(0.1, cell="wide")])
    assert [(row.cell, row.found) for row in rows] == [("wide", [0.1, None, 0.1]), ("narrow", [None, 0.2, None])]
