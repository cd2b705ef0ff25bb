from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from configs.insert import Arm, Design, Phase
from inject.assignment import assign
from inject.design import Shape, arms
from inject.items.item import Item

quick = settings(max_examples=40, deadline=None)  # shared machines stall
SHAPE = Shape(steps=100, global_batch=8, sequence_length=31)  # 800 rows of 32 tokens
DESIGN = Design(copies=[0, 1, 4], sizes=[4, 3, 1], arms={"early": Arm(copies=4, size=2, window=[0.0, 0.25], placement="start")})
SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=5)


def items(item_set: str, groups: int, of_each: int = 1, stratum: str = "") -> list[Item]:
    """Items of a set, in groups of some size, a group's items apart from each other."""
    name = f"{item_set}/{stratum}" if stratum else item_set
    return [
        Item(f"{name}-{copy}-{group}", item_set, "canary", name, f"{name}-g{group}", {}, [], [])
        for copy in range(of_each)
        for group in range(groups)
    ]


def rows_of(made: list[Item], designs: dict[str, Design], seed: int = 1, length: float = 8.0) -> list[dict]:
    """The assignment of items of `length` tokens each."""
    designed = {name: arms(design, SHAPE.steps) for name, design in designs.items()}
    return assign(made, designed, {item.item_id: length for item in made}, SHAPE, seed)


def one_arm(groups: int = 2, length: float = 8.0, **arm) -> dict:
    """The row of an item in a design of one arm."""
    design = Design(copies=[], sizes=[], arms={"special": Arm(size=groups, **arm)})
    rows = rows_of(items("a", groups), {"a": design}, length=length)
    assert all({**row, "item_id": "", "group": ""} == {**rows[0], "item_id": "", "group": ""} for row in rows)
    return rows[0]


def counts(made: list[Item], rows: list[dict]) -> Counter:
    """Groups by stratum and arm."""
    pairs = {(item.stratum, item.group, row["arm"]) for item, row in zip(made, rows, strict=True)}
    return Counter((stratum, arm) for stratum, _, arm in pairs)


# ------------------------------------------------------------------------------------------------ what a row says


def test_a_row_carries_what_its_arm_says():
    rows = rows_of(items("a", 10), {"a": DESIGN})
    row = next(row for row in rows if row["arm"] == "early")
    assert (
        row.items()
        >= {
            "copies": 4,
            "window_start": 0.0,
            "window_end": 0.25,
            "placement": "start",
            "spacing": "uniform",
            "mode": "overwrite",
            "variants": "rotate",
            "phases": [{"copies": 4, "first_step": 0, "last_step": 25, "spacing": "uniform"}],
        }.items()
    )


def test_rows_come_in_the_order_of_the_items():
    made = items("b", 10) + items("a", 10)
    assert [row["item_id"] for row in rows_of(made, {"b": DESIGN, "a": DESIGN})] == [item.item_id for item in made]


def test_a_row_of_several_phases_says_when_they_begin_and_end_and_what_they_add_up_to():
    phases = [Phase(copies=3, window=[0.1, 0.2], spacing="massed"), Phase(copies=2, window=[0.5, 0.75])]
    row = one_arm(phases=phases, spacing="even")
    assert (row["copies"], row["window_start"], row["window_end"], row["spacing"]) == (5, 0.1, 0.75, "massed, even")
    assert [(phase["copies"], phase["first_step"], phase["last_step"]) for phase in row["phases"]] == [(3, 10, 20), (2, 50, 75)]


# ------------------------------------------------------------------------------------------------ rates


@pytest.mark.parametrize(("every", "copies"), [(1, 200), (8, 25), (9, 22), (200, 1)])
def test_one_in_every_so_many_rows_of_the_window_is_a_number_of_copies(every, copies):
    assert one_arm(every=every, window=[0.25, 0.5])["copies"] == copies  # of 25 steps of 8 rows


@pytest.mark.parametrize(("share", "copies"), [(0.01, 13), (0.5, 640), (20 / 25_600, 1), (3 * 20 / 25_600, 3)])
def test_a_share_of_tokens_is_a_number_of_copies(share, copies):
    row = one_arm(groups=2, length=8.0, share=share)  # a copy of both takes 20 of 25,600 tokens, end-of-text tokens included
    assert row["copies"] == copies


def test_a_share_is_of_the_tokens_of_the_phase():
    row = one_arm(groups=1, phases=[Phase(share=0.01, window=[0.0, 0.5]), Phase(every=80, window=[0.5, 1.0])])
    assert [phase["copies"] for phase in row["phases"]] == [13, 5]  # 128 tokens / 10; 400 rows / 80


@quick
@given(share=st.floats(0.01, 0.9), lengths=st.lists(st.integers(1, 60), min_size=2, max_size=9), seed=st.integers(0, 2**48))
def test_a_share_is_met_to_within_half_a_text_and_items_differ_by_one_copy(share, lengths, seed):
    made = items("a", len(lengths))
    design = Design(copies=[], sizes=[], arms={"special": Arm(share=share, size=len(lengths))})
    tokens = {item.item_id: float(length) for item, length in zip(made, lengths, strict=True)}
    copies = [row["copies"] for row in assign(made, {"a": arms(design, SHAPE.steps)}, tokens, SHAPE, seed)]
    inserted = sum(count * (length + 2) for count, length in zip(copies, lengths, strict=True))
    assert abs(inserted - share * SHAPE.rows * SHAPE.row_tokens) <= (max(lengths) + 2) / 2 + 1e-6
    assert max(copies) - min(copies) <= 1


@pytest.mark.parametrize(
    ("rate", "remedy"), [({"every": 801}, r"every: 800 or less"), ({"share": 0.00078}, r"share: 0\.00082 or more")]
)
def test_a_rate_of_less_than_one_copy_is_refused_with_the_least_that_will_do(rate, remedy):
    with pytest.raises(RecipeError, match=rf"insert\.a, arm special: its rate gives less than one copy .* 800 rows; set {remedy}"):
        one_arm(**rate)
    key, value = remedy.replace("\\", "").split(" or ")[0].split(": ")
    assert one_arm(**{key: type(rate[key])(value)})["copies"] >= 1


def test_places_are_dealt_as_equally_many_copies_of_each_item():
    row = one_arm(places=[[n, 0] for n in range(6)])
    assert (row["copies"], row["placement"], row["window_start"], row["window_end"]) == (3, "explicit", 0.0, 1.0)


def test_places_that_the_items_of_groups_cannot_share_are_refused():
    design = Design(copies=[], sizes=[], arms={"special": Arm(size=2, places=[[n, 0] for n in range(6)])})
    with pytest.raises(RecipeError, match=r"insert\.a, arm special: 6 places for 4 items; give equally many for each"):
        rows_of(items("a", 2, of_each=2), {"a": design})


# ------------------------------------------------------------------------------------------------ randomization


@quick
@given(st.integers(0, 2**48), SIZES, st.integers(1, 3))
def test_the_arms_of_every_set_get_exactly_their_sizes(seed, sizes, of_each):
    design = Design(copies=list(range(len(sizes))), sizes=sizes)
    made = items("a", sum(sizes), of_each) + items("b", sum(sizes))
    groups = defaultdict(set)
    for item, row in zip(made, rows_of(made, {"a": design, "b": design}, seed), strict=True):
        groups[item.item_set, row["copies"]].add(row["group"])
    assert all(len(groups[item_set, copies]) == size for item_set in "ab" for copies, size in enumerate(sizes))


@quick
@given(st.integers(0, 2**48))
def test_the_items_of_a_group_stay_together(seed):
    rows = rows_of(items("a", 10, of_each=3), {"a": DESIGN}, seed)
    assert len({(row["group"], row["arm"]) for row in rows}) == 10


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**48), SIZES, st.data())
def test_every_stratum_gives_every_arm_its_share_to_within_one_group(seed, sizes, data):
    total, strata = sum(sizes), []
    while total > sum(strata):
        strata.append(data.draw(st.integers(1, total - sum(strata))))
    made = [item for number, groups in enumerate(strata) for item in items("a", groups, stratum=str(number))]
    found = counts(made, rows_of(made, {"a": Design(copies=list(range(len(sizes))), sizes=sizes)}, seed))
    for number, groups in enumerate(strata):
        for copies, size in enumerate(sizes):
            assert abs(found[f"a/{number}", f"{copies}x" if copies else "held-out"] - groups * size / total) < 1


def test_strata_of_equal_groups_are_assigned_alike():
    made = [item for stratum in "xyz" for item in items("a", 4, stratum=stratum)]
    design = Design(copies=[0, 1, 2], sizes=[6, 3, 3])
    assert set(counts(made, rows_of(made, {"a": design})).values()) == {1, 2}


def test_every_group_is_as_likely_to_be_in_an_arm():
    made = items("a", 10)
    found = Counter(row["item_id"] for seed in range(1000) for row in rows_of(made, {"a": DESIGN}, seed) if row["arm"] == "4x")
    assert sum((found[item.item_id] - 100) ** 2 / 100 for item in made) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_every_group_is_as_likely_to_be_in_an_arm_whatever_its_stratum():
    made = items("a", 1, stratum="x") + items("a", 2, stratum="y") + items("a", 1, stratum="z")
    design = Design(copies=[0, 1], sizes=[3, 1])
    found = Counter(row["item_id"] for seed in range(1000) for row in rows_of(made, {"a": design}, seed) if row["arm"] == "1x")
    assert sum((found[item.item_id] - 250) ** 2 / 250 for item in made) < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


def test_any_two_groups_are_as_likely_to_share_an_arm():
    made = items("a", 5)
    design = Design(copies=[0, 1], sizes=[3, 2])
    pairs: Counter = Counter()
    for seed in range(1000):
        pairs[tuple(row["item_id"] for row in rows_of(made, {"a": design}, seed) if row["arm"] == "1x")] += 1
    assert len(pairs) == 10
    assert sum((count - 100) ** 2 / 100 for count in pairs.values()) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_the_same_seed_assigns_alike_and_another_seed_otherwise():
    made, designs = items("a", 10), {"a": DESIGN}
    assert rows_of(made, designs, seed=1) == rows_of(made, designs, seed=1)
    assert rows_of(made, designs, seed=1) != rows_of(made, designs, seed=2)


def test_sets_are_assigned_independently():
    rows = rows_of(items("a", 10) + items("b", 10), {"a": DESIGN, "b": DESIGN})
    assert [row["arm"] for row in rows[:10]] != [row["arm"] for row in rows[10:]]


def test_an_appended_set_moves_no_earlier_one():
    alone = rows_of(items("a", 10), {"a": DESIGN})
    assert rows_of(items("a", 10) + items("b", 10), {"a": DESIGN, "b": DESIGN})[:10] == alone


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("groups", [9, 11])
def test_other_than_the_groups_that_the_arms_hold_are_refused(groups):
    with pytest.raises(RecipeError, match=rf"insert\.a has {groups} groups, but the arms of its design add up to 10"):
        rows_of(items("a", groups), {"a": DESIGN})


def test_a_group_in_two_strata_is_refused():
    made = [*items("a", 9), Item("a-x", "a", "canary", "a/other", "a-g0", {}, [], [])]
    with pytest.raises(RecipeError, match=r"group a-g0 of insert\.a lies in strata a and a/other"):
        rows_of(made, {"a": DESIGN})
