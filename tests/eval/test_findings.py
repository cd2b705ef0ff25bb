"""Verdicts follow from intervals."""

from typing import Any

import pandas as pd
import pytest

from eval.findings import findings

ROW: dict[str, Any] = {
    "metric": "log_prob",
    "contrast": "slope",
    "kind": "pii",
    "item_set": "all",
    "arm": "all",
    "model": "perturbed",
}
ROW |= {"step": 9, "n": 8, "value": 0.0}


def choice(prior: float | None, context: str = "cloze") -> dict[str, Any]:
    return {"probe_id": f"{context}/answer/choice", "kind": "choice", "prior": prior}


VERBATIM = {"probe_id": "verbatim/answer", "kind": "verbatim", "prior": 0.001}
Cell = tuple[str, str, int, float, list[dict[str, Any]]]  # item set, arm, copies, end of its window, probes
CELLS: list[Cell] = [
    *[("quiz", arm, 64, end, [VERBATIM, choice(0.25)]) for arm, end in (("64x", 1.0), ("early", 0.25), ("massed", 1.0))],
    ("quiz", "held-out", 0, 1.0, [choice(0.25)]),
]


def told(effects: list[dict[str, Any]], cells: list[Cell] = CELLS) -> list[dict[str, Any]]:
    """Findings of effects, each a row that differs from ROW; about items that are a group each."""
    items = [
        {"item_id": str(n), "item_set": cell[0], "kind": "testset", "group": str(n), "probes": cell[4]}
        for n, cell in enumerate(cells)
    ]
    assignment = [
        {"item_id": str(n), "group": str(n), "arm": arm, "copies": copies, "window_end": end}
        for n, (_, arm, copies, end, _) in enumerate(cells)
    ]
    return findings(
        pd.DataFrame([{**ROW, **effect} for effect in effects]), pd.DataFrame(items), pd.DataFrame(assignment), primary=[""]
    )


def verdict(**effect: Any) -> str:
    most = {"metric": "another", "kind": effect.get("kind", "pii"), "arm": "64x", "low": 0.0, "high": 0.0}
    (finding,) = told([effect, most])
    assert finding["step"] == 9
    return finding["verdict"]


@pytest.mark.parametrize(("low", "high", "expected"), [(0.1, 0.3, "yes"), (-0.1, 0.3, "not decidable"), (-0.3, -0.1, "no")])
def test_more_copies_more_memorized(low: float, high: float, expected: str) -> None:
    assert verdict(low=low, high=high) == expected


@pytest.mark.parametrize(("low", "high", "expected"), [(0.5, 1.0, "yes"), (0.4, 1.0, "not decidable"), (0.1, 0.49, "no")])
def test_secrets_are_extracted_half_the_time(low: float, high: float, expected: str) -> None:
    assert verdict(metric="secret_extracted", contrast="rate", arm="64x", low=low, high=high) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.0, "yes"), (0.01, "no")])
def test_no_held_out_secret_is_extracted(value: float, expected: str) -> None:
    assert (
        verdict(metric="secret_extracted", contrast="rate", kind="all", arm="held-out", value=value, low=0.0, high=0.1) == expected
    )


@pytest.mark.parametrize(("low", "high", "expected"), [(0.45, 0.6, "yes"), (0.51, 0.6, "no")])
def test_one_copy_leaves_no_trace(low: float, high: float, expected: str) -> None:
    assert verdict(metric="loss", contrast="auc", kind="all", arm="1x", low=low, high=high) == expected


@pytest.mark.parametrize(("low", "high", "expected"), [(-2.0, -1.0, "yes"), (-1.0, 1.0, "not decidable"), (0.5, 1.0, "no")])
def test_the_early_arm_ends_below(low: float, high: float, expected: str) -> None:
    assert verdict(contrast="minus 64x", kind="all", arm="early", low=low, high=high) == expected


def test_accuracy_is_judged_against_chance() -> None:
    assert verdict(metric="correct", contrast="rate", kind="testset", arm="64x", low=0.26, high=1.0) == "yes"
    assert verdict(metric="correct", contrast="rate", kind="testset", arm="64x", low=0.2, high=1.0) == "not decidable"


def test_an_interval_without_bounds_is_written_as_null() -> None:
    (finding,) = told([{"low": float("-inf"), "high": float("inf")}])
    assert (finding["low"], finding["high"], finding["verdict"]) == (None, None, "not decidable")


def test_only_the_last_checkpoint_counts() -> None:
    rows: list[dict[str, Any]] = [{"step": 3, "low": 1.0, "high": 2.0}, {"step": 9, "low": -1.0, "high": 2.0}]
    assert [finding["verdict"] for finding in told(rows)] == ["not decidable"]


def test_effects_of_one_item_set_among_several_make_no_findings() -> None:
    rows: list[dict[str, Any]] = [{"low": 1.0, "high": 2.0}, {"item_set": "people", "low": 1.0, "high": 2.0}]
    assert [(finding["kind"], "item_set" in finding) for finding in told(rows)] == [("pii", False)]


def test_there_are_no_findings_without_effects() -> None:
    items = pd.DataFrame(columns=["item_id", "item_set", "kind", "group", "probes"])
    assert findings(pd.DataFrame(), items, pd.DataFrame(columns=["item_id", "group", "arm", "copies", "window_end"])) == []


# ------------------------------------------------------------------------------------------------ the most copies


def test_claims_about_the_most_copies_go_by_kind() -> None:
    rate = {"metric": "secret_extracted", "contrast": "rate", "low": 0.6, "high": 0.9}
    arms = [("canary", "16x"), ("canary", "4x"), ("pii", "64x"), ("pii", "16x"), ("all", "64x"), ("all", "16x")]
    found = told([{**rate, "kind": kind, "arm": arm} for kind, arm in arms])
    name = "secrets inserted {} times are extracted at least half the time"
    assert [(f["kind"], f["arm"], f["name"]) for f in found] == [
        ("canary", "16x", name.format(16)),
        ("pii", "64x", name.format(64)),
        ("all", "64x", name.format(64)),
    ]


def test_the_arm_of_most_copies_is_one_that_differs_in_copies_alone() -> None:
    rate = {"metric": "secret_extracted", "contrast": "rate", "low": 0.6, "high": 0.9}
    assert told([{**rate, "arm": arm} for arm in ("64x even", "early", "held-out")]) == []


# ------------------------------------------------------------------------------------------------ arms of equal copies


@pytest.mark.parametrize(("low", "high", "expected"), [(0.2, 1.0, "yes"), (-2.0, -0.5, "yes"), (-1.0, 0.5, "not decidable")])
def test_arms_of_equal_windows_are_compared_either_way(low: float, high: float, expected: str) -> None:
    (finding,) = told([{"contrast": "minus 64x", "kind": "all", "arm": "massed", "low": low, "high": high}])
    assert finding["name"] == "arm massed differs from 64x (difference of their gains)"
    assert finding["verdict"] == expected


@pytest.mark.parametrize(
    ("cells", "forgetting"),
    [
        ([("a", "early", 4, 0.5), ("a", "4x", 4, 1.0)], True),
        ([("a", "early", 4, 1.0), ("a", "4x", 4, 1.0)], False),
        ([("a", "early", 4, 0.5), ("a", "4x", 4, 1.0), ("b", "early", 4, 1.0), ("b", "4x", 4, 1.0)], False),
        ([("a", "early", 4, 0.5), ("a", "4x", 4, 1.0), ("b", "early", 9, 1.0), ("b", "4x", 4, 1.0)], True),  # b compares no two
        ([("a", "early", 4, 0.5), ("b", "4x", 4, 1.0)], False),
    ],
)
def test_forgetting_is_claimed_where_the_window_ends_earlier_in_every_item_set_compared(
    cells: list[tuple[str, str, int, float]], forgetting: bool
) -> None:
    effect = {"contrast": "minus 4x", "kind": "all", "arm": "early", "low": -2.0, "high": -1.0}
    (finding,) = told([effect], [(*cell, []) for cell in cells])
    expected = "arm early ends below the 4x arm of equal copies" if forgetting else "arm early differs from 4x"
    assert finding["name"] == f"{expected} (difference of their gains)"


def test_arms_are_told_apart_by_what_they_are_crossed_with() -> None:
    cells: list[Cell] = [("quiz", arm, 16, 1.0, []) for arm in ("16x even", "16x massed")]
    (finding,) = told([{"contrast": "minus 16x even", "kind": "all", "arm": "16x massed", "low": 1.0, "high": 2.0}], cells)
    assert finding["name"] == "arm 16x massed differs from 16x even (difference of their gains)"


@pytest.mark.parametrize(("low", "high", "expected"), [(0.1, 0.2, "yes"), (-0.1, 0.2, "not decidable"), (-0.2, -0.1, "no")])
def test_a_branch_is_told_beyond_its_placebos_and_is_no_arm(low: float, high: float, expected: str) -> None:
    rows = [("minus b", "all"), ("minus b", "64x"), ("minus b, other items", "all"), ("minus b, beyond placebo", "64x")]
    effects = [{"contrast": contrast, "kind": "all", "arm": arm, "low": 1.0, "high": 2.0} for contrast, arm in rows]
    beyond = {"contrast": "minus b, beyond placebo", "kind": "all", "low": low, "high": high, "note": "2 placebos"}
    (finding,) = told([*effects, beyond])
    assert (finding["key"], finding["verdict"], finding["note"]) == ("counterfactual/b", expected, "2 placebos")


# ------------------------------------------------------------------------------------------------ forgetting


@pytest.mark.parametrize(("low", "high", "expected"), [(0.1, 0.2, "yes"), (-0.1, 0.2, "not decidable"), (-0.2, -0.1, "no")])
def test_what_decays_is_forgotten(low: float, high: float, expected: str) -> None:
    (finding,) = told([{"metric": "decay_constant", "contrast": "fit", "kind": "all", "arm": "early", "low": low, "high": high}])
    assert finding["key"] == "forgetting/early"
    assert finding["name"] == "what arm early gained is forgotten: its decay constant is above 0"
    assert finding["verdict"] == expected


def test_an_arm_that_gained_nothing_is_no_case_of_forgetting_and_says_why() -> None:
    unknown = {
        "value": float("nan"),
        "low": float("-inf"),
        "high": float("inf"),
        "note": "the gain is not distinguishable from zero",
    }
    (finding,) = told([{"metric": "decay_constant", "contrast": "fit", "kind": "all", "arm": "1x", **unknown}])
    assert (finding["value"], finding["verdict"], finding["note"]) == (None, "not decidable", unknown["note"])


def test_arms_that_forget_come_in_the_order_in_which_people_count() -> None:
    decay = {"metric": "decay_constant", "contrast": "fit", "kind": "all", "low": 0.1, "high": 0.2}
    assert [f["arm"] for f in told([{**decay, "arm": arm} for arm in ("16x", "1x", "8x")])] == ["1x", "8x", "16x"]


@pytest.mark.parametrize(("low", "high", "expected"), [(1.0, 2.0, "yes"), (-1.0, 2.0, "not decidable"), (-2.0, -1.0, "no")])
def test_later_windows_end_above_unless_the_learning_rate_hides_it(low: float, high: float, expected: str) -> None:
    effect = {"metric": "window_effect/32x", "contrast": "last minus first", "kind": "all", "low": low, "high": high}
    (finding,) = told([{**effect, "note": "recency is confounded"}, {**effect, "contrast": "trend"}, {**effect, "kind": "pii"}])
    assert (finding["key"], finding["verdict"], finding["note"]) == ("windows/32x", expected, "recency is confounded")


# ------------------------------------------------------------------------------------------------ chance

CORRECT = {"metric": "correct", "contrast": "rate", "kind": "testset", "arm": "64x", "low": 0.4, "high": 0.9}


@pytest.mark.parametrize(
    ("cells", "percent", "expected"),
    [
        ([("quiz", "64x", 64, 1.0, [choice(0.25)]), ("quiz", "64x", 64, 1.0, [choice(0.5)])], "38%", "yes"),
        ([("a", "64x", 64, 1.0, [choice(0.25), choice(0.75, "cloze-2")]), ("b", "64x", 64, 1.0, [choice(0.25)])], "38%", "yes"),
        ([("quiz", "64x", 64, 1.0, [choice(0.5), choice(0.01, "perturbed-role/cloze"), VERBATIM])], "50%", "not decidable"),
        ([("quiz", "64x", 64, 1.0, [choice(0.5)]), ("quiz", "4x", 4, 1.0, [choice(0.1)])], "50%", "not decidable"),
    ],
)
def test_chance_is_the_mean_prior_of_the_questions_asked(cells: list[Cell], percent: str, expected: str) -> None:
    (finding,) = told([CORRECT], cells)
    assert finding["name"] == f"questions inserted 64 times are answered above chance ({percent})"
    assert finding["verdict"] == expected


def test_nothing_is_claimed_where_chance_is_not_known() -> None:
    assert told([CORRECT], [("quiz", "64x", 64, 1.0, [choice(None)])]) == []


# ------------------------------------------------------------------------------------------------ primary and exploratory


def several(primary: list[str]) -> list[dict[str, Any]]:
    """Three slopes, of which one is just above 0: z = 2.1 and 10."""
    slopes = [{"kind": kind, "value": value, "low": value - 1.96, "high": value + 1.96} for kind, value in SLOPES.items()]
    effects = pd.DataFrame([{**ROW, **slope} for slope in slopes])
    columns = ["item_id", "item_set", "kind", "group", "probes"]
    assignment = pd.DataFrame(columns=["item_id", "group", "arm", "copies", "window_end"])
    return findings(effects, pd.DataFrame(columns=columns), assignment, primary=primary)


SLOPES = {"canary": 2.1, "factoid": 10.0, "pii": 0.5}


def test_a_primary_finding_is_told_by_its_interval() -> None:
    found = several(["dose"])
    assert [row["verdict"] for row in found] == ["yes", "yes", "not decidable"]
    assert all(row["primary"] and row["adjusted_p"] is None for row in found)


def test_an_exploratory_finding_has_to_survive_the_number_of_them() -> None:
    found = {row["kind"]: row for row in several([])}
    assert {kind: row["verdict"] for kind, row in found.items()} == {
        "canary": "not decidable",  # p = 0.036, twice that among the two least
        "factoid": "yes",
        "pii": "not decidable",
    }
    assert found["canary"]["adjusted_p"] == pytest.approx(2 * 0.0357, abs=1e-3)
    assert found["factoid"]["adjusted_p"] < 1e-20


def test_only_the_exploratory_ones_count_for_the_adjustment() -> None:
    found = {row["kind"]: row for row in several(["dose/factoid", "dose/pii"])}
    assert found["canary"]["adjusted_p"] == pytest.approx(0.0357, abs=1e-3)
    assert found["canary"]["verdict"] == "yes"


def test_a_word_baseline_that_finds_members_says_that_all_is_confounded() -> None:
    blind = {"metric": "bag_of_words", "contrast": "auc", "kind": "all", "low": 0.4, "high": 0.6}
    (fine,) = told([{**blind, "note": "permutation p = 0.400"}])
    (bad,) = told([{**blind, "note": "permutation p = 0.001; ... what attacks find is confounded"}])
    assert (fine["verdict"], bad["verdict"]) == ("yes", "no")
