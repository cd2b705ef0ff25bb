"""From scores to effects, on tables small enough to work out by hand."""

import pandas as pd
import pytest

from eval.effects import effects


def tables(rows: list[tuple[str, str, str, float, int]], metric: str, bits: float = 30.0) -> pd.DataFrame:
    """Effects of one metric from rows of (item, kind, arm, value, exposures), each item a group of its own."""
    items = pd.DataFrame(
        [{"item_id": i, "kind": k, "stratum": k, "probes": [{"probe_id": "p", "bits": bits}]} for i, k, *_ in rows]
    )
    copies = {"held-out": 0, "3x": 3, "early": 3}
    assignment = pd.DataFrame([{"item_id": i, "group": i, "arm": arm, "copies": copies[arm]} for i, _, arm, *_ in rows])
    columns = ["model", "step", "item_id", "probe_id", "metric", "value", "exposures", "text_exposures"]
    scores = pd.DataFrame([("perturbed", 10, i, "p", metric, value, seen, seen) for i, _, _, value, seen in rows], columns=columns)
    return effects(scores, items, assignment, secret_bits=20, resamples=200, seed=0)


def pick(table: pd.DataFrame, **cell: str) -> pd.Series:
    chosen = table[(table[list(cell)] == pd.Series(cell)).all(axis=1)]
    assert len(chosen) == 1
    return chosen.iloc[0]


LOG_PROBS = [
    ("a1", "fact", "held-out", -4.0, 0),
    ("a2", "fact", "held-out", -2.0, 0),
    ("a3", "fact", "3x", -1.0, 3),
    ("a4", "fact", "3x", -1.5, 3),
    ("b1", "code", "held-out", -9.0, 0),
    ("b2", "code", "held-out", -7.0, 0),
    ("b3", "code", "3x", -4.0, 3),
    ("b4", "code", "3x", -4.5, 3),
]


def test_the_gain_is_over_the_held_out_twins_of_the_same_set() -> None:
    table = tables(LOG_PROBS, "log_prob")
    assert pick(table, contrast="gain", kind="fact", arm="3x").value == pytest.approx(-1.25 + 3)
    assert pick(table, contrast="gain", kind="all", arm="3x").value == pytest.approx((1.75 + 3.75) / 2)


def test_the_slope_is_per_doubling_of_one_plus_copies() -> None:
    assert pick(tables(LOG_PROBS, "log_prob"), contrast="slope", kind="fact").value == pytest.approx(1.75 / 2)


def test_the_auc_compares_only_within_an_item_set() -> None:
    table = tables(LOG_PROBS, "loss")
    assert pick(table, contrast="auc", kind="all", arm="3x").value == 1.0  # across sets, -4.5 of b4 lies below -2 and -4


def test_an_arm_that_was_not_exposed_yet_has_no_auc() -> None:
    table = tables([(*row[:4], 0) for row in LOG_PROBS], "loss")
    assert table.empty


def test_secrets_are_the_targets_of_enough_entropy() -> None:
    rows = [(i, k, arm, 1.0, seen) for i, k, arm, _, seen in LOG_PROBS]
    assert "secret_extracted" in set(tables(rows, "extracted", bits=20.0)["metric"])
    assert "secret_extracted" not in set(tables(rows, "extracted", bits=19.9)["metric"])


def test_a_share_counts_groups() -> None:
    rows = [("a1", "fact", "3x", 1.0, 3), ("a2", "fact", "3x", 0.0, 3), ("a3", "fact", "held-out", 0.0, 0)]
    share = pick(tables(rows, "extracted", bits=0.0), kind="fact", arm="3x")
    assert (share.value, share.n) == (0.5, 2)


def test_an_arm_with_a_name_is_compared_with_the_arm_of_equal_copies() -> None:
    rows = [*LOG_PROBS, ("a5", "fact", "early", -3.0, 3), ("a6", "fact", "early", -3.5, 3)]
    table = tables(rows, "log_prob")
    assert pick(table, contrast="minus 3x", kind="fact", arm="early").value == pytest.approx(-3.25 + 1.25)


def test_the_window_contrast_goes_by_assigned_copies_even_when_a_step_was_skipped() -> None:
    rows = [*LOG_PROBS, ("a5", "fact", "early", -3.0, 2), ("a6", "fact", "early", -3.5, 2)]
    assert pick(tables(rows, "log_prob"), contrast="minus 3x", kind="fact", arm="early").value == pytest.approx(-2.0)


def test_the_slope_leaves_out_arms_with_a_window_of_their_own() -> None:
    rows = [*LOG_PROBS, ("a5", "fact", "early", -8.0, 3), ("a6", "fact", "early", -8.0, 3)]
    assert pick(tables(rows, "log_prob"), contrast="slope", kind="fact").value == pytest.approx(1.75 / 2)


def test_a_member_is_scored_on_the_texts_that_were_seen_and_so_are_its_held_out_twins() -> None:
    cells = [  # item, variant, arm, value, exposures of the text: of a member only the first text was seen
        *[(f"h{n}", text, "held-out", value, 0) for n in range(3) for text, value in (("first", n), ("second", 100))],
        *[(f"m{n}", text, "1x", value, seen) for n in range(3) for text, value, seen in (("first", n + 0.5, 1), ("second", -9, 0))],
    ]
    items = pd.DataFrame([{"item_id": i, "kind": "pii", "stratum": "pii", "probes": []} for i in sorted({c[0] for c in cells})])
    assignment = pd.DataFrame([{"item_id": i, "group": i, "arm": arm, "copies": int(arm == "1x")} for i, _, arm, *_ in cells[::2]])
    columns = ["model", "step", "item_id", "probe_id", "metric", "value", "exposures", "text_exposures"]
    scores = pd.DataFrame([("perturbed", 1, i, v, "loss", x, seen, seen) for i, v, _, x, seen in cells], columns=columns)
    found = pick(effects(scores, items, assignment, secret_bits=20, resamples=10, seed=0), contrast="auc", kind="pii", arm="1x")
    assert (found.value, found.n) == (pytest.approx(6 / 9), 6)
