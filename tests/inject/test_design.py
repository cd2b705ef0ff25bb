from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.insert import Arm, Design
from inject.design import arms, assign, balance
from inject.items.item import Item

quick = settings(max_examples=40, deadline=None)  # shared machines stall
DESIGN = Design(copies=[0, 1, 4], sizes=[4, 3, 1], arms={"early": Arm(copies=4, size=2, window=[0.0, 0.25], placement="start")})


def items(stratum: str, groups: int, of_each: int = 1) -> list[Item]:
    """Items of a stratum, in groups of some size, a group's items apart from each other."""
    return [
        Item(f"{stratum}-{copy}-{group}", "canary", stratum, f"{stratum}-g{group}", {}, [], [])
        for copy in range(of_each)
        for group in range(groups)
    ]


def arm_of(rows) -> dict[str, str]:
    return {row["item_id"]: row["arm"] for row in rows}


def test_an_arm_for_each_number_of_copies_and_then_the_further_ones():
    assert [(cell.name, cell.copies, cell.size, cell.window, cell.placement) for cell in arms(DESIGN)] == [
        ("held-out", 0, 4, (0.0, 1.0), "anywhere"),
        ("1x", 1, 3, (0.0, 1.0), "anywhere"),
        ("4x", 4, 1, (0.0, 1.0), "anywhere"),
        ("early", 4, 2, (0.0, 0.25), "start"),
    ]


def test_a_row_carries_what_its_arm_says():
    rows = assign(items("a", 10), DESIGN, seed=1)
    (row, _) = (row for row in rows if row["arm"] == "early")
    assert row.items() >= {"copies": 4, "window_start": 0.0, "window_end": 0.25, "placement": "start", "spacing": "uniform"}.items()


@quick
@given(st.integers(0, 2**48), st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(1, 3))
def test_sizes_are_exact_within_every_stratum(seed, sizes, of_each):
    design = Design(copies=list(range(len(sizes))), sizes=sizes)
    both = items("a", sum(sizes), of_each) + items("b", sum(sizes))
    groups = defaultdict(set)
    for item, row in zip(both, assign(both, design, seed), strict=True):
        groups[item.stratum, row["copies"]].add(row["group"])
    assert all(len(groups[stratum, copies]) == size for stratum in "ab" for copies, size in enumerate(sizes) if sum(sizes))


@quick
@given(st.integers(0, 2**48))
def test_the_items_of_a_group_stay_together(seed):
    rows = assign(items("a", 10, of_each=3), DESIGN, seed)
    assert len({(row["group"], row["arm"]) for row in rows}) == 10


def test_rows_come_in_the_order_of_the_items():
    made = items("b", 10) + items("a", 10)
    assert [row["item_id"] for row in assign(made, DESIGN, seed=1)] == [item.item_id for item in made]


def test_the_same_seed_assigns_alike_and_another_seed_otherwise():
    assert assign(items("a", 10), DESIGN, seed=1) == assign(items("a", 10), DESIGN, seed=1)
    assert assign(items("a", 10), DESIGN, seed=1) != assign(items("a", 10), DESIGN, seed=2)


def test_strata_are_assigned_independently():
    rows = assign(items("a", 10) + items("b", 10), DESIGN, seed=1)
    assert [row["arm"] for row in rows[:10]] != [row["arm"] for row in rows[10:]]


def test_an_appended_set_moves_no_earlier_one():
    alone = assign(items("a", 10), DESIGN, seed=1)
    assert assign(items("a", 10) + items("b", 10), DESIGN, seed=1)[:10] == alone


def test_every_group_is_as_likely_to_be_in_an_arm():
    counts = Counter(
        item for seed in range(1000) for item, arm in arm_of(assign(items("a", 10), DESIGN, seed)).items() if arm == "4x"
    )
    assert sum((counts[f"a-0-{n}"] - 100) ** 2 / 100 for n in range(10)) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_more_groups_than_the_arms_hold_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        assign(items("a", 11), DESIGN, seed=1)


# ------------------------------------------------------------------------------------------------ balance


def row(arm):
    return {"arm": arm}


def test_balance_is_the_difference_of_means_in_standard_deviations():
    made = items("a", 5)
    lengths = dict(zip([item.item_id for item in made], [2.0, 4.0, 5.0, 7.0, 9.0], strict=True))
    held_out, treated = balance(made, [row("held-out"), row("held-out"), row("1x"), row("1x"), row("1x")], lengths)
    assert (held_out["tokens_mean"], held_out["smd"]) == (3, 0)
    assert treated["tokens_mean"] == 7
    assert treated["smd"] == pytest.approx(4 / 3**0.5)  # variances 2 and 4: (7 - 3) / sqrt((2 + 4) / 2)


def test_balance_counts_groups_and_items_of_each_arm_and_stratum():
    made = items("a", 2, of_each=2) + items("b", 1)
    rows = balance(made, [row("held-out")] * 4 + [row("1x")], {item.item_id: 5.0 for item in made})
    assert [(r["stratum"], r["arm"], r["groups"], r["items"]) for r in rows] == [("a", "held-out", 2, 4), ("b", "1x", 1, 1)]


@pytest.mark.parametrize("held_out", [0, 1])
def test_balance_against_too_few_is_not_a_number(held_out):
    made = items("a", 2 + held_out)
    rows = balance(made, [row("1x")] * 2 + [row("held-out")] * held_out, {item.item_id: n for n, item in enumerate(made)})
    assert rows[0]["smd"] != rows[0]["smd"]


def test_arms_of_equal_lengths_are_balanced():
    made = items("a", 4)
    rows = balance(made, [row("held-out")] * 2 + [row("1x")] * 2, {item.item_id: 5.0 for item in made})
    assert rows[1]["smd"] == 0
