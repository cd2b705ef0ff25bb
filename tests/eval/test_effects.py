"""From scores to effects, on tables small enough to work out by hand."""

import pandas as pd
import pytest

from eval.effects import blind_effects, effects, item_by_item

COPIES = {"held-out": 0, "2x": 2, "3x": 3, "early": 3, "3x even": 3, "3x massed": 3}


def tables(rows: list[tuple[str, str, str, float, int]], metric: str, bits: float = 30.0) -> pd.DataFrame:
    """Effects of one metric from rows of (item, kind or kind:set or kind:set/part, arm, value, exposures), each item a group of its
    own; the copies of `early` fall in the first half of training.
    """
    items, assignment, scores = [], [], []
    for item, where, arm, value, seen in rows:
        kind, _, stratum = where.partition(":")
        stratum = stratum or kind
        named = {"item_id": item, "item_set": stratum.split("/")[0], "kind": kind, "stratum": stratum}
        items.append({**named, "probes": [{"probe_id": "p", "bits": bits}]})
        ends = 0.5 if arm == "early" else 1.0
        assignment.append({"item_id": item, "group": item, "arm": arm, "copies": COPIES[arm], "window_end": ends})
        scores.append(("perturbed", 10, item, "p", metric, value, seen, seen))
    columns = ["model", "step", "item_id", "probe_id", "metric", "value", "exposures", "text_exposures"]
    frame = pd.DataFrame(scores, columns=columns)
    return effects(frame, pd.DataFrame(items), pd.DataFrame(assignment), secret_bits=20, resamples=200, seed=0)


def pick(table: pd.DataFrame, **cell: str) -> pd.Series:
    cell = {"item_set": "all", **cell}
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
    share = pick(tables(rows, "extracted", bits=0.0), contrast="rate", kind="fact", arm="3x")
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
    of_set = {"item_set": "pii", "kind": "pii", "stratum": "pii", "probes": []}
    items = pd.DataFrame([{"item_id": i, **of_set} for i in sorted({c[0] for c in cells})])
    assignment = pd.DataFrame([{"item_id": i, "group": i, "arm": arm, "copies": int(arm == "1x")} for i, _, arm, *_ in cells[::2]])
    assignment["window_end"] = 1.0
    columns = ["model", "step", "item_id", "probe_id", "metric", "value", "exposures", "text_exposures"]
    scores = pd.DataFrame([("perturbed", 1, i, v, "loss", x, seen, seen) for i, v, _, x, seen in cells], columns=columns)
    found = pick(effects(scores, items, assignment, secret_bits=20, resamples=10, seed=0), contrast="auc", kind="pii", arm="1x")
    assert (found.value, found.n) == (pytest.approx(6 / 9), 6)


# ------------------------------------------------------------------------------------------------ strata without twins


def test_a_stratum_without_twins_takes_no_part_in_gains_and_slopes() -> None:
    rows = [*LOG_PROBS, ("c1", "fact:fact/long", "3x", -0.1, 3), ("c2", "fact:fact/long", "3x", -0.2, 3)]
    table = tables(rows, "log_prob")
    gain = pick(table, contrast="gain", kind="fact", arm="3x")
    assert (gain.value, gain.n) == (pytest.approx(1.75), 4)
    assert pick(table, contrast="slope", kind="fact").value == pytest.approx(1.75 / 2)
    assert pick(table, contrast="mean", kind="fact", arm="3x").value == pytest.approx((-1.0 - 1.5 - 0.1 - 0.2) / 4)


def test_a_stratum_without_twins_takes_no_part_in_differences_between_arms() -> None:
    early = [("a5", "fact", "early", -3.0, 3), ("a6", "fact", "early", -3.5, 3), ("c1", "fact:fact/long", "early", -0.1, 3)]
    minus = pick(tables([*LOG_PROBS, *early], "log_prob"), contrast="minus 3x", kind="fact", arm="early")
    assert (minus.value, minus.n) == (pytest.approx(-2.0), 4)


def test_without_any_twins_there_is_no_gain_slope_or_difference() -> None:
    rows = [("a1", "fact", "3x", -1.0, 3), ("a2", "fact", "3x", -2.0, 3), ("a3", "fact", "early", -2.0, 3)]
    assert set(tables(rows, "log_prob")["contrast"]) == {"mean"}


def test_twins_of_other_strata_alone_are_no_twins() -> None:
    rows = [("a1", "fact:fact/short", "held-out", -3.0, 0), ("a2", "fact:fact/long", "3x", -1.0, 3)]
    table = tables(rows, "log_prob")
    assert set(table["contrast"]) == {"mean"}


# ------------------------------------------------------------------------------------------------ item sets

TWO_SETS = [  # gains of fact:x 1 and 3, of fact:y 7 and 9
    ("x1", "fact:x", "held-out", -11.0, 0),
    ("x2", "fact:x", "held-out", -9.0, 0),
    ("x3", "fact:x", "3x", -9.0, 3),
    ("x4", "fact:x", "3x", -7.0, 3),
    ("y1", "fact:y", "held-out", -12.0, 0),
    ("y2", "fact:y", "held-out", -8.0, 0),
    ("y3", "fact:y", "3x", -3.0, 3),
    ("y4", "fact:y", "3x", -1.0, 3),
]


def test_a_kind_of_several_item_sets_has_effects_of_each() -> None:
    table = tables(TWO_SETS, "log_prob")
    gains = {s: pick(table, contrast="gain", kind="fact", item_set=s).value for s in ("all", "x", "y")}
    assert gains == pytest.approx({"all": 5.0, "x": 2.0, "y": 8.0})
    assert pick(table, contrast="gain", kind="all").value == pytest.approx(5.0)


def test_a_kind_of_one_item_set_is_told_once() -> None:
    assert set(tables(LOG_PROBS, "log_prob")["item_set"]) == {"all"}


def test_a_gain_is_over_the_twins_of_the_item_sets_that_have_the_arm() -> None:
    table = tables([row for row in TWO_SETS if row[0] not in ("y3", "y4")], "log_prob")
    assert pick(table, contrast="gain", kind="fact").n == 4


def test_the_slope_takes_no_twins_of_item_sets_without_arms_that_differ_in_copies_alone() -> None:
    crossed = [("y3", "fact:y", "3x even", -3.0, 3), ("y4", "fact:y", "3x even", -1.0, 3)]
    table = tables([*TWO_SETS[:6], *crossed], "log_prob")
    assert (pick(table, contrast="slope", kind="fact").value, pick(table, contrast="slope", kind="fact").n) == (1.0, 4)


# ------------------------------------------------------------------------------------------------ arms of equal copies


def contrasts(table: pd.DataFrame, kind: str = "fact") -> dict[tuple[str, str], float]:
    minus = table[table["contrast"].str.startswith("minus ") & (table["kind"] == kind) & (table["item_set"] == "all")]
    return {(row.arm, row.contrast): round(row.value, 9) for row in minus.itertuples()}


def test_arms_of_equal_copies_in_different_item_sets_are_not_compared() -> None:
    early = [("y3", "fact:y", "early", -3.0, 3), ("y4", "fact:y", "early", -1.0, 3)]
    assert contrasts(tables([*TWO_SETS[:6], *early], "log_prob")) == {}


def test_only_the_item_sets_that_have_both_arms_are_compared() -> None:
    early = [("y5", "fact:y", "early", -4.0, 3), ("y6", "fact:y", "early", -6.0, 3)]  # gains 6 and 4
    table = tables([*TWO_SETS, *early], "log_prob")
    minus = pick(table, contrast="minus 3x", kind="fact", arm="early")
    assert (minus.value, minus.n) == (pytest.approx(5.0 - 8.0), 4)  # against all of 3x, it would be 5 - 5
    assert pick(table, contrast="minus 3x", kind="fact", arm="early", item_set="y").value == pytest.approx(-3.0)


def test_item_sets_that_the_arms_draw_on_in_unequal_parts_do_not_pass_for_a_difference() -> None:
    early = [("x5", "fact:x", "early", -9.0, 3)]  # gain 1: one below 3x in its set
    early += [(f"y{n}", "fact:y", "early", -3.0 + (n - 6), 3) for n in (5, 6, 7)]  # gains 6, 7 and 8: one below, too
    minus = pick(tables([*TWO_SETS, *early], "log_prob"), contrast="minus 3x", kind="fact", arm="early")
    assert minus.value == pytest.approx(-1.0)  # the plain difference is (1 + 21) / 4 - 5 = 0.5
    assert minus.low < -1.0 < minus.high


def test_crossed_arms_of_equal_copies_are_compared_with_each_other() -> None:
    crossed = [
        ("x3", "fact:x", "3x even", -9.0, 3),
        ("x4", "fact:x", "3x even", -8.0, 3),
        ("x5", "fact:x", "3x massed", -7.0, 3),
        ("x6", "fact:x", "3x massed", -5.0, 3),
    ]
    assert contrasts(tables([*TWO_SETS[:2], *crossed], "log_prob")) == {("3x massed", "minus 3x even"): 2.5}


def test_every_pair_of_equal_copies_is_compared_unless_both_differ_in_copies_alone() -> None:
    rows = [
        *TWO_SETS[:4],
        ("x5", "fact:x", "early", -9.0, 3),
        ("x6", "fact:x", "3x even", -6.0, 3),
        ("x7", "fact:x", "2x", -9.5, 2),
    ]
    found = contrasts(tables(rows, "log_prob"))
    assert found == {("3x even", "minus 3x"): 2.0, ("early", "minus 3x"): -1.0, ("early", "minus 3x even"): -3.0}


# ------------------------------------------------------------------------------------------------ attacks, and other baselines


def test_an_attack_has_three_intervals_and_says_where_a_rate_is_not_resolved() -> None:
    table = tables(LOG_PROBS, "loss")
    aucs = [pick(table, contrast=contrast, kind="fact", arm="3x") for contrast in ("auc", "auc (DeLong)", "auc (bootstrap)")]
    assert [auc.value for auc in aucs] == [1.0, 1.0, 1.0]
    assert all(auc.low < 1 for auc in aucs)
    rate = pick(table, contrast="tpr at 1.0%", kind="fact", arm="3x")
    assert (rate.value, rate.note) == (1.0, "2 held-out texts cannot resolve a false positive rate of 1.0%")


def test_rates_of_several_strata_are_taken_among_the_twins_of_each() -> None:
    rate = pick(tables(LOG_PROBS, "loss"), contrast="tpr at 1.0%", kind="all", arm="3x")
    assert rate.value == 1.0  # on plain scores two members of the set b would lie below the twins of a


def test_a_share_is_told_against_its_held_out_twins() -> None:
    rows = [
        ("a1", "fact", "3x", 1.0, 3),
        ("a2", "fact", "3x", 1.0, 3),
        ("a3", "fact", "held-out", 0.0, 0),
        ("a4", "fact", "held-out", 1.0, 0),
    ]
    found = pick(tables(rows, "extracted", bits=0.0), contrast="minus held-out", kind="fact", arm="3x")
    assert found.value == 0.5
    assert -1 <= found.low < 0 < found.high <= 1


def test_what_is_above_the_standard_model_is_told_item_by_item() -> None:
    columns = ["model", "step", "item_id", "probe_id", "metric", "value"]
    own = pd.DataFrame(
        [("perturbed", 9, i, "p", "log_prob", v) for i, v in (("a", -1.0), ("b", -2.0), ("c", -5.0))], columns=columns
    )
    standard = own.assign(model="standard", value=[-3.0, -5.0, -5.0])
    items = pd.DataFrame({"item_id": list("abc"), "kind": "fact"})
    assignment = pd.DataFrame({"item_id": list("abc"), "group": list("abc"), "arm": ["4x", "4x", "held-out"]})
    rows = {(row["kind"], row["arm"]): row for row in item_by_item(own, standard, items, assignment)}
    assert rows["all", "4x"]["value"] == pytest.approx(2.5)
    assert rows["fact", "held-out"]["value"] == 0.0


def test_words_that_only_members_have_are_found_without_a_model() -> None:
    texts = [{"item_id": f"{n}", "text": f"{'old' if n < 20 else 'new'} text number {n}"} for n in range(40)]
    items = pd.DataFrame({"item_id": [text["item_id"] for text in texts], "kind": "table", "stratum": "a"})
    assignment = items.assign(group=items["item_id"], arm="x", copies=[4] * 20 + [0] * 20)[["item_id", "group", "arm", "copies"]]
    (everything, _) = blind_effects(texts, items, assignment, seed=0)
    assert everything["value"] == 1.0
    assert "confounded" in everything["note"]
    shuffled = assignment.assign(copies=[4, 0] * 20)
    assert "confounded" not in blind_effects(texts, items, shuffled, seed=0)[0]["note"]
