from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from configs.tables import PLAN, read_table, write_table
from inject.design import Shape
from inject.plan import Lengths, make_plan
from inject.spread import Board

quick = settings(max_examples=60, deadline=None)  # shared machines stall
ROW_TOKENS = 32
SEEDS = st.integers(0, 2**48)


def phase(copies, first=0, last=40, spacing="uniform"):
    return {"copies": copies, "first_step": first, "last_step": last, "spacing": spacing}


def assigned(item_set, number, *phases, placement="anywhere", mode="overwrite", variants="rotate", arm="arm"):
    """An assignment row, as far as a plan asks for it."""
    copies = sum(one["copies"] for one in phases)
    row = {"item_id": f"{item_set}-{number}", "group": f"{item_set}-{number}", "arm": arm, "copies": copies, "phases": list(phases)}
    return row | {"placement": placement, "mode": mode, "variants": variants}


def ends(row):
    """Where documents end: in every row at 3 or 4, and later in two of three."""
    return (3 + row % 2, *((9, 20) if row % 3 else ()))


def table(rows, steps=40, batch=6, texts=None, places=None, seed=1) -> pa.Table:
    """The plan of assignment rows. `texts`: (variant, tokens) of items, 8 tokens long if not given."""

    def base_tokens(of):
        tokens = np.ones((len(of), ROW_TOKENS), np.int64)
        for number, row in enumerate(of.tolist()):
            tokens[number, list(ends(row))] = 0
        return tokens

    names = [row["item_id"] for row in rows]
    lengths = Lengths.of({name: (texts or {}).get(name, [("only", 8)]) for name in names}, names)
    sets = [name.rpartition("-")[0] for name in names]
    return make_plan(rows, sets, lengths, places or {}, Board(Shape(steps, batch, ROW_TOKENS - 1), base_tokens), seed)


def plan(rows, **how) -> list[dict]:
    return table(rows, **how).to_pylist()


def of_item(occurrences, name):
    return [o for o in occurrences if o["item_id"] == name]


@pytest.mark.parametrize("copies", [10**12, 2**70])
def test_copies_that_no_memory_holds_are_refused_before_they_are_laid_out(copies):
    with pytest.raises(RecipeError, match=f"insert.a: its copies in steps 0-40 need {2 * copies:,} rows, but training has 240"):
        plan([assigned("a", 0, phase(copies)), assigned("a", 1, phase(copies))])


# ------------------------------------------------------------------------------------------------ promises

SPACINGS = ["uniform", "even", "expanding", "massed", "bursts:2"]
PLACEMENTS = ["anywhere", "start", "boundary", "offset:5", "stratified:3"]
WINDOWS = [[(0, 40)], [(0, 20), (20, 40)], [(10, 30)], [(0, 13), (15, 26), (30, 40)]]


@st.composite
def experiments(draw):
    """Assignment rows of up to three sets of all kinds of arms, and the texts of their items."""
    rows, texts = [], {}
    for item_set in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        for number in range(draw(st.integers(1, 5))):
            spacing, mode = draw(st.sampled_from(SPACINGS)), draw(st.sampled_from(["overwrite", "splice"]))
            placement = "boundary" if mode == "splice" else draw(st.sampled_from(PLACEMENTS))
            phases = [phase(draw(st.integers(0, 4)), *window, spacing) for window in draw(st.sampled_from(WINDOWS))]
            how = {"placement": placement, "mode": mode, "variants": draw(st.sampled_from(["rotate", "verbatim", "one"]))}
            rows.append(assigned(item_set, number, *phases, **how))
            tokens = draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
            texts[f"{item_set}-{number}"] = [(f"text-{n}", length) for n, length in enumerate(tokens)]
    return rows, texts


def promised(row, occurrences, texts, batch):
    """Whether the occurrences of one item are as its assignment says."""
    steps = [o["row"] // batch for o in occurrences]
    for one in row["phases"]:
        inside = [step for step in steps if one["first_step"] <= step < one["last_step"]]
        assert len(inside) == one["copies"]
        if one["spacing"] in ("uniform", "even", "expanding"):
            assert len(set(inside)) == len(inside)
    assert [o["copy"] for o in occurrences] == list(range(row["copies"]))
    for o in occurrences:
        assert o["length"] == dict(texts)[o["variant"]] + 2
        assert o["mode"] == row["mode"]
        if row["placement"] == "boundary":
            assert o["offset"] in ends(o["row"])
        elif row["placement"] in ("start", "offset:5"):
            assert o["offset"] == (0 if row["placement"] == "start" else 5)


@settings(max_examples=120, deadline=None)
@given(experiments(), SEEDS)
def test_every_copy_is_placed_once_whole_in_a_row_of_its_own_as_designed(experiment, seed):
    rows, texts = experiment
    occurrences = plan(rows, texts=texts, seed=seed)
    assert len({o["row"] for o in occurrences}) == len(occurrences) == sum(row["copies"] for row in rows)
    assert [o["row"] for o in occurrences] == sorted(o["row"] for o in occurrences)
    assert all(0 <= o["offset"] <= ROW_TOKENS - o["length"] for o in occurrences)
    for row in rows:
        promised(row, of_item(occurrences, row["item_id"]), texts[row["item_id"]], batch=6)


@quick
@given(experiments(), experiments(), SEEDS)
def test_an_appended_set_moves_no_earlier_one(first, second, seed):
    renamed = [row | {"item_id": row["item_id"].replace("-", "2-")} for row in second[0]]
    texts = first[1] | {name.replace("-", "2-"): found for name, found in second[1].items()}
    both = plan(first[0] + renamed, texts=texts, seed=seed)
    assert [o for o in both if "2-" not in o["item_id"]] == plan(first[0], texts=texts, seed=seed)


def test_what_an_earlier_set_left_of_a_window_is_filled():
    rows = [assigned("a", 0, phase(10, 0, 10)), *(assigned("b", n, phase(10, 0, 10)) for n in range(3))]
    assert [o["row"] for o in plan(rows, steps=10, batch=4)] == list(range(40))


def test_windows_that_lie_in_each_other_are_filled_from_the_narrow_one():
    rows = [assigned("a", n, phase(4, 0, 8 if n % 2 else 4)) for n in range(6)]
    occurrences = plan(rows, steps=8, batch=3)
    assert len(occurrences) == 24
    assert all(o["row"] < 12 for n in (0, 2, 4) for o in of_item(occurrences, f"a-{n}"))


def test_one_item_may_have_several_rates_in_the_order_of_training():
    rows = [assigned("a", 0, phase(6, 0, 10), phase(3, 30, 40, "massed"))]
    occurrences = plan(rows)
    assert [o["copy"] for o in occurrences] == list(range(9))
    assert [o["row"] // 60 for o in occurrences] == [0] * 6 + [3] * 3
    assert np.diff([o["row"] for o in occurrences[6:]]).tolist() == [1, 1]


def test_the_same_seed_plans_alike_and_another_seed_otherwise():
    rows = [assigned("a", n, phase(copies)) for n, copies in enumerate((9, 5, 1))]
    assert plan(rows, seed=1) == plan(rows, seed=1) != plan(rows, seed=2)


@pytest.mark.parametrize("spacing", ["uniform", "even"])
def test_sets_of_equal_items_do_not_fall_on_the_same_steps(spacing):
    occurrences = plan([assigned(name, 0, phase(8, 0, 1000, spacing)) for name in "ab"], steps=1000)
    steps = [{o["row"] // 6 for o in of_item(occurrences, name)} for name in ("a-0", "b-0")]
    assert len(steps[0] & steps[1]) < 3


# ------------------------------------------------------------------------------------------------ which text

TEXTS = {"a-0": [("short", 3), ("middle", 5), ("long", 7)]}


def test_rotating_copies_take_turns_through_all_phases():
    occurrences = plan([assigned("a", 0, phase(2, 0, 20), phase(3, 20, 40))], texts=TEXTS)
    names = ["short", "middle", "long", "short", "middle"]
    assert [(o["variant"], o["length"]) for o in occurrences] == [(name, dict(TEXTS["a-0"])[name] + 2) for name in names]


def test_verbatim_copies_are_the_first_text():
    assert [o["variant"] for o in plan([assigned("a", 0, phase(4), variants="verbatim")], texts=TEXTS)] == ["short"] * 4


def test_all_copies_of_an_item_are_the_one_text_drawn_for_it():
    rows = [assigned("a", n, phase(3), variants="one") for n in range(60)]
    drawn = defaultdict(set)
    for o in plan(rows, texts={row["item_id"]: TEXTS["a-0"] for row in rows}, steps=200):
        drawn[o["item_id"]].add(o["variant"])
    assert all(len(names) == 1 for names in drawn.values())
    counts = Counter(name for names in drawn.values() for name in names)
    assert sum((counts[name] - 20) ** 2 / 20 for name, _ in TEXTS["a-0"]) < 13.8  # chi-square, 2 degrees of freedom, p = 0.001


def test_policies_of_arms_in_one_window_do_not_mix():
    rows = [assigned("a", n, phase(4), variants=policy) for n, policy in enumerate(("verbatim", "rotate"))]
    occurrences = plan(rows, texts={row["item_id"]: TEXTS["a-0"] for row in rows})
    assert [o["variant"] for o in of_item(occurrences, "a-0")] == ["short"] * 4
    assert [o["variant"] for o in of_item(occurrences, "a-1")] == ["short", "middle", "long", "short"]


# ------------------------------------------------------------------------------------------------ where in the row


def offsets(placement, tokens, copies=40, items=50) -> Counter:
    rows = [assigned("a", n, phase(copies, 0, 500), placement=placement) for n in range(items)]
    made = plan(rows, texts={row["item_id"]: [("only", tokens)] for row in rows}, steps=500, batch=8)
    return Counter(o["offset"] for o in made)


def test_a_text_that_may_lie_anywhere_lies_at_every_offset_as_often():
    counts = offsets("anywhere", 22)
    assert sorted(counts) == list(range(9))  # 32 tokens in a row, 24 of them taken
    assert sum((counts[n] - 2000 / 9) ** 2 / (2000 / 9) for n in range(9)) < 26.1  # chi-square, 8 degrees of freedom, p = 0.001


def test_the_longest_text_fills_its_row():
    assert set(offsets("anywhere", ROW_TOKENS - 2, copies=1)) == {0}


@pytest.mark.parametrize(("placement", "offset"), [("start", 0), ("offset:0", 0), ("offset:9", 9), ("offset:22", 22)])
def test_a_fixed_offset_is_that_of_every_copy(placement, offset):
    assert set(offsets(placement, 8, copies=3)) == {offset}


def test_stratified_copies_cover_the_parts_of_the_row_equally():
    rows = [assigned("a", n, phase(12), placement="stratified:4") for n in range(8)]  # 24 offsets hold 9 tokens: 4 parts of 6
    occurrences = plan(rows, texts={row["item_id"]: [("only", 7)] for row in rows})
    for row in rows:
        parts = [o["offset"] // 6 for o in of_item(occurrences, row["item_id"])]
        assert Counter(parts) == dict.fromkeys(range(4), 3)
        assert {(after - before) % 4 for before, after in pairwise(parts)} == {1}  # in turn
    assert len({o["offset"] // 6 for o in occurrences if o["copy"] == 0}) > 1  # from a random one on
    assert {o["offset"] % 6 for o in occurrences} == set(range(6))


def test_an_offset_from_which_a_text_does_not_fit_is_refused_with_those_that_are_possible():
    rows = [assigned("a", 0, phase(3), placement="offset:23")]
    words = r"insert\.a: placement is offset:23, but its longest text takes 10 of a row's 32 tokens; offsets up to 22 are possible"
    with pytest.raises(RecipeError, match=words):
        plan(rows)


def test_a_boundary_has_room_for_the_longest_text_of_an_item():
    rows = [assigned("a", n, phase(4), placement="boundary") for n in range(6)]
    texts = {row["item_id"]: [("short", 2), ("long", 20)] for row in rows}  # 22 tokens: from offset 10 on there is no room
    assert all(o["offset"] in (3, 4, 9) for o in plan(rows, texts=texts))


# ------------------------------------------------------------------------------------------------ explicit places


def explicit(places, *more, items=2):
    rows = [assigned("a", n, phase(len(places) // items, spacing="explicit"), placement="explicit") for n in range(items)]
    return plan([*rows, *more], places={("a", "arm"): places})


def test_places_are_dealt_to_the_items_in_turn():
    occurrences = explicit([(7, 1), (9, 2), (3, 4), (200, 22)])
    assert [(o["row"], o["offset"], o["copy"]) for o in of_item(occurrences, "a-0")] == [(3, 4, 0), (7, 1, 1)]
    assert [(o["row"], o["offset"], o["copy"]) for o in of_item(occurrences, "a-1")] == [(9, 2, 0), (200, 22, 1)]


def test_places_may_share_a_row_where_they_part():
    assert [(o["row"], o["offset"]) for o in explicit([(7, 10), (7, 0)])] == [(7, 0), (7, 10)]


def test_what_has_no_places_of_its_own_goes_around_them():
    more = [assigned("a", n, phase(40), arm="other") for n in (2, 3)]
    rows = [o["row"] for o in explicit([(7, 1), (8, 1)], *more)]
    assert len(set(rows)) == len(rows) == 82


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([(240, 0), (1, 0)], "insert.a, arm arm: places name row 240, but training has 240 rows, from 0 on"),
        ([(10**30, 0), (1, 0)], "but training has 240 rows"),
        ([(1, 10**30), (1, 0)], "but a row has 32 tokens, from 0 on"),
        ([(5, 23), (1, 0)], "a text of 10 tokens at offset 23 of row 5 reaches beyond the row's 32 tokens; offsets up to 22"),
        ([(5, 9), (5, 0)], "two copies overlap at offset 9 of row 5; set their places apart"),
        ([(5, 9), (5, 9)], "two copies overlap at offset 9 of row 5"),
    ],
)
def test_places_that_cannot_be_kept_are_refused(places, words):
    with pytest.raises(RecipeError) as refused:
        explicit(places)
    assert words in str(refused.value)


def test_a_place_in_a_row_of_an_earlier_set_is_refused():
    rows = [assigned("b", 0, phase(6, 0, 1, "massed")), assigned("a", 0, phase(1, spacing="explicit"), placement="explicit")]
    with pytest.raises(RecipeError, match=r"insert\.a, arm arm: places name row 4, which an item set before it occupies"):
        plan(rows, places={("a", "arm"): [(4, 0)]})


# ------------------------------------------------------------------------------------------------ the table


def test_the_plan_is_written_as_its_schema_says(tmp_path):
    made = table([assigned("a", 0, phase(2)), assigned("b", 0, phase(1), placement="boundary", mode="splice")])
    write_table(tmp_path / "plan.parquet", made, PLAN)
    assert made.column_names == PLAN.names
    assert read_table(tmp_path / "plan.parquet").schema == PLAN
    assert read_table(tmp_path / "plan.parquet").to_pylist() == made.to_pylist()


@pytest.mark.parametrize("rows", [[], [assigned("a", n, phase(0)) for n in range(2)]])
def test_a_plan_without_copies_is_an_empty_table(rows):
    made = table(rows)
    assert made.num_rows == 0
    assert made.cast(PLAN).schema == PLAN


def test_more_copies_than_there_is_room_for_are_refused_by_the_set_that_finds_none():
    rows = [assigned("a", 0, phase(10, 0, 10)), *(assigned("b", n, phase(8, 0, 10)) for n in range(4))]
    with pytest.raises(RecipeError, match=r"^insert\.b: its copies in steps 0-10 need 32 rows, but only 30 of these 40 are free"):
        plan(rows, steps=10, batch=4)
