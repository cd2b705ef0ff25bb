from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from configs.tables import PLAN
from inject.plan import _pack, make_plan

quick = settings(max_examples=60, deadline=None)  # shared machines stall
SEQUENCE_LENGTH = 16
WINDOWS = [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.25, 0.75)]


def assigned(copies, stratum="set", windows=((0.0, 1.0),), placement="anywhere"):
    """Assignment rows of a stratum: one item for each number of copies, windows in turn."""
    return [
        {
            "item_id": f"{stratum}-{number}",
            "copies": count,
            "window_start": windows[number % len(windows)][0],
            "window_end": windows[number % len(windows)][1],
            "placement": placement,
        }
        for number, count in enumerate(copies)
    ]


def plan(rows, steps, global_batch, seed=1, lengths=None, sequence_length=SEQUENCE_LENGTH):
    strata = [row["item_id"].rpartition("-")[0] for row in rows]
    lengths = lengths or {row["item_id"]: [("only", 1 + number % (sequence_length - 1))] for number, row in enumerate(rows)}
    return make_plan(rows, strata, lengths, steps, global_batch, sequence_length, seed).to_pylist()


def holds(rows, occurrences, global_batch, steps):
    """Whether a plan keeps every promise that does not depend on chance."""
    by_item = {row["item_id"]: row for row in rows}
    assert Counter(o["item_id"] for o in occurrences) == Counter(
        {name: row["copies"] for name, row in by_item.items() if row["copies"]}
    )
    assert len({o["row"] for o in occurrences}) == len(occurrences)
    assert len({(o["item_id"], o["row"] // global_batch) for o in occurrences}) == len(occurrences)
    for o in occurrences:
        row = by_item[o["item_id"]]
        assert round(row["window_start"] * steps) <= o["row"] // global_batch < round(row["window_end"] * steps)
        assert o["offset"] >= 0
        assert o["offset"] + o["length"] <= SEQUENCE_LENGTH + 1
    assert [o["row"] for o in occurrences] == sorted(o["row"] for o in occurrences)


@quick
@given(
    copies=st.lists(st.integers(0, 12), max_size=12),
    windows=st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=3),
    steps=st.integers(24, 60),
    global_batch=st.integers(4, 6),
    seed=st.integers(0, 2**48),
)
def test_every_copy_is_placed_once_in_its_window_in_a_row_and_a_step_of_its_own(copies, windows, steps, global_batch, seed):
    assume(sum(copies) <= 12 * 4)  # fits every window
    rows = assigned(copies, windows=windows)
    try:
        occurrences = plan(rows, steps, global_batch, seed)
    except RecipeError:
        assume(False)
    holds(rows, occurrences, global_batch, steps)


@quick
@given(data=st.data(), steps=st.integers(1, 12), global_batch=st.integers(1, 6), seed=st.integers(0, 2**48))
def test_whatever_fits_an_empty_window_is_placed_up_to_its_last_row(data, steps, global_batch, seed):
    copies, room = [], steps * global_batch
    while room and data.draw(st.integers(0, 20)):
        copies.append(data.draw(st.integers(1, min(steps, room))))
        room -= copies[-1]
    rows = assigned(copies)
    holds(rows, plan(rows, steps, global_batch, seed), global_batch, steps)


@pytest.mark.parametrize("seed", range(5))
def test_a_full_window_is_filled_to_its_last_row(seed):
    rows = assigned([10, 10, 10, 5, 5])
    occurrences = plan(rows, steps=10, global_batch=4, seed=seed)
    assert [o["row"] for o in occurrences] == list(range(40))
    holds(rows, occurrences, 4, 10)


@quick
@given(
    copies=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    free=st.sets(st.integers(0, 23), min_size=1),
    seed=st.integers(0, 1000),
)
def test_copies_are_packed_into_any_free_rows_whenever_that_is_possible(copies, free, seed):
    room = Counter(row // 3 for row in free)  # 8 steps of 3 rows
    demand = sorted(copies, reverse=True)
    possible = all(sum(demand[:k]) <= sum(min(rows, k) for rows in room.values()) for k in range(1, len(copies) + 1))  # Gale-Ryser
    given_rows = (np.asarray(copies), np.asarray(sorted(free)), 3, np.random.default_rng(seed), "set")
    if not possible:
        with pytest.raises(RecipeError, match="one copy of an item a step"):
            _pack(*given_rows)
        return
    rows = _pack(*given_rows)
    item = np.repeat(np.arange(len(copies)), copies)
    assert set(rows) <= free
    assert len(set(rows)) == len(set(zip(item, rows // 3, strict=True))) == sum(copies)


def test_what_an_earlier_set_left_of_a_window_is_filled():
    rows = assigned([10], "a") + assigned([10, 10, 10], "b")
    holds(rows, plan(rows, steps=10, global_batch=4), 4, 10)


def test_windows_that_lie_in_each_other_are_filled_from_the_narrow_one():
    rows = assigned([4, 4, 4, 4, 4], windows=[(0.0, 1.0), (0.0, 0.5), (0.0, 1.0), (0.0, 0.5)])
    holds(rows, plan(rows, steps=8, global_batch=3), 3, 8)


# ------------------------------------------------------------------------------------------------ one copy


def test_copies_are_numbered_in_the_order_of_training():
    occurrences = plan(assigned([9, 5, 1]), steps=40, global_batch=4)
    for name, copies in (("set-0", 9), ("set-1", 5), ("set-2", 1)):
        assert [o["copy"] for o in occurrences if o["item_id"] == name] == list(range(copies))


def test_copies_alternate_between_an_items_texts_and_have_their_lengths():
    lengths = {"set-0": [("short", 3), ("long", 7)]}
    occurrences = plan(assigned([5]), steps=40, global_batch=4, lengths=lengths)
    assert [(o["variant"], o["length"]) for o in occurrences] == [
        ("short", 5),
        ("long", 9),
        ("short", 5),
        ("long", 9),
        ("short", 5),
    ]


def test_the_longest_item_fills_its_row():
    lengths = {"set-0": [("only", SEQUENCE_LENGTH - 1)]}
    (occurrence,) = plan(assigned([1]), steps=5, global_batch=1, lengths=lengths)
    assert (occurrence["offset"], occurrence["length"]) == (0, SEQUENCE_LENGTH + 1)


def test_an_item_that_may_lie_anywhere_lies_at_every_offset_as_often():
    lengths = {f"set-{n}": [("only", 7)] for n in range(50)}
    occurrences = plan(assigned([40] * 50), steps=500, global_batch=8, lengths=lengths)
    counts = Counter(o["offset"] for o in occurrences)
    assert sorted(counts) == list(range(9))  # 17 tokens in a row, 9 of them taken
    assert sum((counts[n] - 2000 / 9) ** 2 / (2000 / 9) for n in range(9)) < 26.1  # chi-square, 8 degrees of freedom, p = 0.001


def test_an_item_placed_at_the_start_lies_at_the_start():
    assert {o["offset"] for o in plan(assigned([9, 5], placement="start"), steps=40, global_batch=4)} == {0}


def test_copies_are_spread_evenly_over_their_window():
    occurrences = plan(assigned([25] * 40, windows=[(0.5, 1.0)]), steps=400, global_batch=8)
    counts = Counter((o["row"] // 8 - 200) // 20 for o in occurrences)
    assert sum((counts[n] - 100) ** 2 / 100 for n in range(10)) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


# ------------------------------------------------------------------------------------------------ the whole plan


def test_the_plan_has_the_columns_of_its_schema():
    assert make_plan(assigned([2]), ["set"], {"set-0": [("only", 3)]}, 10, 2, SEQUENCE_LENGTH, 1).schema == PLAN


@pytest.mark.parametrize("rows", [[], assigned([0, 0])])
def test_a_plan_without_copies_is_an_empty_table(rows):
    made = make_plan(rows, ["set"] * len(rows), {}, 10, 2, SEQUENCE_LENGTH, 1)
    assert made.num_rows == 0
    assert made.schema == PLAN


def test_the_same_seed_plans_alike_and_another_seed_otherwise():
    rows = assigned([9, 5, 1])
    assert plan(rows, 40, 4, seed=1) == plan(rows, 40, 4, seed=1)
    assert plan(rows, 40, 4, seed=1) != plan(rows, 40, 4, seed=2)


@quick
@given(
    first=st.lists(st.integers(0, 8), max_size=6),
    second=st.lists(st.integers(0, 8), max_size=6),
    windows=st.lists(st.sampled_from(WINDOWS), min_size=1, max_size=2),
    seed=st.integers(0, 2**48),
)
def test_an_appended_set_moves_no_earlier_one(first, second, windows, seed):
    rows, appended = assigned(first, "a", windows), assigned(second, "b", windows)
    try:
        both = plan(rows + appended, 20, 6, seed)
    except RecipeError:
        assume(False)
    assert [o for o in both if o["item_id"].startswith("a")] == plan(rows, 20, 6, seed)


def test_sets_of_equal_items_do_not_fall_on_the_same_steps():
    both = plan(assigned([8], "a") + assigned([8], "b"), steps=1000, global_batch=4)
    steps = {name: {o["row"] // 4 for o in both if o["item_id"] == name} for name in ("a-0", "b-0")}
    assert len(steps["a-0"] & steps["b-0"]) < 3


# ------------------------------------------------------------------------------------------------ what does not fit


def refusal(rows, steps, global_batch) -> str:
    with pytest.raises(RecipeError) as refused:
        plan(rows, steps, global_batch)
    return str(refused.value)


def test_more_copies_than_rows_are_refused_with_the_room_there_is():
    message = refusal(assigned([9] * 5), steps=10, global_batch=4)
    assert "insert.set in window [0, 1] need 45 rows, but only 40 of its 40 are free" in message
    assert "train.steps" in message


def test_the_room_does_not_count_what_earlier_sets_took():
    message = refusal(assigned([10], "a") + assigned([10, 10, 10, 1], "b"), steps=10, global_batch=4)
    assert "insert.b in window [0, 1] need 31 rows, but only 30 of its 40 are free" in message


def test_the_room_is_that_of_the_window():
    message = refusal(assigned([5, 5, 5], windows=[(0.0, 0.25)]), steps=20, global_batch=2)
    assert "in window [0, 0.25] need 15 rows, but only 10 of its 10 are free" in message


def test_more_copies_of_an_item_than_steps_are_refused_with_the_steps_there_are():
    message = refusal(assigned([6], windows=[(0.5, 1.0)]), steps=10, global_batch=4)
    assert "6 copies of an item of insert.set do not fit window [0.5, 1], which has 5 steps" in message


def test_a_window_of_no_step_is_refused():
    assert "only 0 of its 0 are free" in refusal(assigned([1], windows=[(0.0, 0.01)]), steps=10, global_batch=4)


def test_rows_that_lie_on_too_few_steps_are_refused():
    rows = assigned([2, 2], "a", windows=[(0.0, 0.5)]) + assigned([3], "b")
    message = refusal(rows, steps=4, global_batch=2)  # b finds 4 free rows, all on the last 2 steps
    assert "the copies of insert.b fit its rows, but not with one copy of an item a step" in message
