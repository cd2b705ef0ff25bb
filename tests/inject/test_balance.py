import math

import pytest
from scipy.integrate import quad
from scipy.stats import chi2, norm, t

from inject.balance import balance, demand, detectable_difference, power
from inject.design import Shape
from inject.items.item import Item

COPIES = {"held-out": 0, "1x": 1, "4x": 4}


def items(item_set: str, groups: int, of_each: int = 1) -> list[Item]:
    return [
        Item(f"{item_set}-{copy}-{group}", item_set, "canary", item_set, f"{item_set}-g{group}", {}, [], [])
        for copy in range(of_each)
        for group in range(groups)
    ]


def assigned(*arms: str) -> list[dict]:
    """An assignment row for each arm named."""
    return [{"arm": arm, "copies": COPIES.get(arm, 0)} for arm in arms]


# ------------------------------------------------------------------------------------------------ balance


def test_balance_is_the_difference_of_means_in_standard_deviations() -> None:
    made = items("a", 5)
    lengths = dict(zip([item.item_id for item in made], [2.0, 4.0, 5.0, 7.0, 9.0], strict=True))
    held_out, treated = balance(made, assigned("held-out", "held-out", "1x", "1x", "1x"), {"tokens": lengths})
    assert (held_out["tokens_mean"], held_out["tokens_smd"]) == (3, 0)
    assert treated["tokens_mean"] == 7
    assert treated["tokens_smd"] == pytest.approx(4 / 3**0.5)  # variances 2 and 4: (7 - 3) / sqrt((2 + 4) / 2)


def test_balance_has_columns_for_every_covariate() -> None:
    made = items("a", 4)
    values = {item.item_id: float(n) for n, item in enumerate(made)}
    _, treated = balance(
        made, assigned("held-out", "held-out", "1x", "1x"), {"tokens": values, "reference_loss": {k: -v for k, v in values.items()}}
    )
    assert treated["tokens_smd"] == pytest.approx(2 / 0.5**0.5)  # means 0.5 and 2.5, variances 0.5
    assert treated["reference_loss_smd"] == pytest.approx(-2 / 0.5**0.5)


def test_balance_counts_groups_and_items_of_each_arm_and_set() -> None:
    made = items("a", 2, of_each=2) + items("b", 1)
    rows = balance(made, assigned(*["held-out"] * 4, "1x"), {"tokens": {item.item_id: 5.0 for item in made}})
    assert [(r["item_set"], r["arm"], r["groups"], r["items"]) for r in rows] == [("a", "held-out", 2, 4), ("b", "1x", 1, 1)]


def test_what_is_held_out_is_what_has_no_copies_whatever_its_arm_is_called() -> None:
    made = items("a", 4)
    lengths = dict(zip([item.item_id for item in made], [2.0, 4.0, 5.0, 7.0], strict=True))
    rows = balance(made, assigned("control", "control", "1x", "1x"), {"tokens": lengths})
    assert rows[1]["tokens_smd"] == pytest.approx(3 / 2**0.5)
    assert [row["held_out"] for row in power(made, assigned("control", "control", "1x", "1x"))] == [2]


def test_items_of_a_group_are_one_observation_of_balance() -> None:
    made = items("a", 5, of_each=2)  # each group's lengths lie 1 below and 1 above those of the test above
    lengths = {item.item_id: value for item, value in zip(made, [1, 3, 4, 6, 8, 3, 5, 6, 8, 10], strict=True)}
    _, treated = balance(made, assigned(*["held-out", "held-out", "1x", "1x", "1x"] * 2), {"tokens": lengths})
    assert (treated["groups"], treated["items"], treated["tokens_mean"]) == (3, 6, 7)
    assert treated["tokens_smd"] == pytest.approx(4 / 3**0.5)


def test_balance_tells_how_wide_chance_makes_the_difference() -> None:
    made = items("a", 10, of_each=2)
    lengths = {item.item_id: float(n) for n, item in enumerate(made)}
    rows = balance(made, assigned(*["held-out"] * 6, *["1x"] * 4, *["held-out"] * 6, *["1x"] * 4), {"tokens": lengths})
    assert rows[1]["tokens_smd_chance"] == pytest.approx(1.959964 * (1 / 4 + 1 / 6) ** 0.5)  # of groups, not of items
    assert math.isnan(rows[0]["tokens_smd_chance"])


def test_chance_makes_no_difference_from_nothing() -> None:
    made = items("a", 2)
    rows = balance(made, assigned("1x", "1x"), {"tokens": {item.item_id: 1.0 for item in made}})
    assert math.isnan(rows[0]["tokens_smd_chance"])


@pytest.mark.parametrize("held_out", [0, 1])
def test_balance_against_too_few_is_not_a_number(held_out: int) -> None:
    made = items("a", 2 + held_out)
    lengths = {item.item_id: float(n) for n, item in enumerate(made)}
    rows = balance(made, assigned("1x", "1x", *["held-out"] * held_out), {"tokens": lengths})
    assert math.isnan(rows[0]["tokens_smd"])


@pytest.mark.parametrize("length", [5.0, 14 / 3, 0.1])
def test_arms_of_equal_lengths_are_balanced(length: float) -> None:
    made = items("a", 5)
    rows = balance(made, assigned("held-out", "held-out", "1x", "1x", "1x"), {"tokens": {item.item_id: length for item in made}})
    assert rows[1]["tokens_smd"] == 0


def test_arms_that_each_have_one_length_of_their_own_are_as_unbalanced_as_can_be() -> None:
    made = items("a", 4)
    lengths = dict(zip([item.item_id for item in made], [5.0, 5.0, 9.0, 9.0], strict=True))
    assert balance(made, assigned("held-out", "held-out", "1x", "1x"), {"tokens": lengths})[1]["tokens_smd"] == math.inf


# ------------------------------------------------------------------------------------------------ power


def test_the_power_of_six_groups_against_twenty_four_twins() -> None:
    (row,) = power(items("a", 30), assigned(*["held-out"] * 24, *["1x"] * 6))
    assert (row["item_set"], row["arm"], row["groups"], row["held_out"]) == ("a", "1x", 6, 24)
    assert row["difference"] == detectable_difference(6, 24)
    assert row["auc"] == pytest.approx(0.5 * (1 + math.erf(row["difference"] / 2)))  # Phi(d / sqrt 2)
    # Of 2 extracted, both are of the arm with probability (6 * 5) / (30 * 29) = 0.034; of 1, 6 / 30 = 0.2.
    assert row["extracted_significant"] == 2 / 6


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 2), (4, 24), (6, 24), (40, 7)])
def test_a_detectable_difference_is_found_four_times_in_five(n: int, m: int) -> None:
    difference = detectable_difference(n, m)
    assert difference is not None
    freedom, shift = n + m - 2, difference / math.sqrt(1 / n + 1 / m)
    critical = t.isf(0.025, freedom)

    def found(spread: float) -> float:  # given the estimated variance, by which t is normal
        limit = critical * math.sqrt(spread / freedom)
        return (norm.sf(limit - shift) + norm.cdf(-limit - shift)) * chi2.pdf(spread, freedom)

    assert quad(found, 0, math.inf)[0] == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(("difference", "groups"), [(0.8, 26), (0.5, 64)])
def test_detectable_differences_are_those_of_cohens_table(difference: float, groups: int) -> None:
    """Cohen (1988), table 2.4.1: groups in each of two samples for power 0.8 at a two-sided 0.05."""
    enough, too_few = detectable_difference(groups, groups), detectable_difference(groups - 1, groups - 1)
    assert enough is not None
    assert too_few is not None
    assert enough <= difference < too_few


def test_many_groups_need_what_the_normal_distribution_says() -> None:
    normal = (1.9599640 + 0.8416212) * math.sqrt(1 / 20_000 + 1 / 50_000)
    assert detectable_difference(20_000, 50_000) == pytest.approx(normal, rel=1e-4)


def test_one_group_against_one_twin_has_no_test() -> None:
    (row,) = power(items("a", 2), assigned("1x", "held-out"))
    assert (row["difference"], row["auc"], row["extracted_significant"]) == (None, None, None)


def test_one_group_against_nineteen_twins_shows_nothing_and_against_twenty_something() -> None:
    rows = [power(items("a", 1 + twins), assigned("1x", *["held-out"] * twins))[0] for twins in (19, 20)]
    assert [row["extracted_significant"] for row in rows] == [None, 1]  # 1 / 20 is not below 0.05


def test_power_counts_groups_and_not_items() -> None:
    made = items("a", 3, of_each=2)
    (row,) = power(made, assigned(*["held-out", "held-out", "1x"] * 2))
    assert (row["groups"], row["held_out"]) == (1, 2)


def test_a_set_without_held_out_twins_has_no_power() -> None:
    made = items("a", 2) + items("b", 2)
    assert [row["item_set"] for row in power(made, assigned("1x", "4x", "held-out", "4x"))] == ["b"]


# ------------------------------------------------------------------------------------------------ demand


def phase(copies: int, first: int, last: int) -> dict:
    return {"copies": copies, "first_step": first, "last_step": last, "spacing": "uniform"}


def test_demand_is_what_each_arm_takes_of_each_of_its_phases() -> None:
    made = items("a", 2, of_each=2) + items("b", 1)
    twice = {"arm": "twice", "phases": [phase(3, 0, 10), phase(1, 10, 40)]}
    out = {"arm": "held-out", "phases": [phase(0, 0, 40)]}
    lengths = {item.item_id: 8.0 for item in made} | {"a-1-0": 4.5}
    rows = demand(made, [twice, out, twice, out, out], lengths, Shape(40, 4, 31))
    told = ["item_set", "arm", "first_step", "last_step", "groups", "items", "copies", "occurrences", "tokens"]
    assert {tuple(row[key] for key in told) for row in rows} == {
        ("a", "held-out", 0, 40, 1, 2, 0, 0, 0),
        ("a", "twice", 0, 10, 1, 2, 3, 6, 50),  # 3 * 10 + 3 * 6.5 = 49.5
        ("a", "twice", 10, 40, 1, 2, 1, 2, 16),  # 10 + 6.5 = 16.5, to even
        ("b", "held-out", 0, 40, 1, 1, 0, 0, 0),
    }
    assert next(row["share"] for row in rows if row["copies"] == 3) == 50 / (10 * 4 * 32)
    assert [row["item_set"] for row in rows] == ["a", "a", "a", "b"]
