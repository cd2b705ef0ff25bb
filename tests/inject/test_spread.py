from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from inject.design import Phase, Shape
from inject.spread import OPEN, Board, Crowd, place

quick = settings(max_examples=50, deadline=None)  # shared machines stall
ROW_TOKENS = 17
SPACINGS = ["uniform", "even", "expanding", "massed", "bursts:2"]
SEEDS = st.integers(0, 2**32)


def board(steps, batch, ends=lambda row: (), taken=()):
    """Rows of 17 tokens in which documents end at `ends(row)`; some rows are taken already."""

    def base_tokens(rows):
        tokens = np.ones((len(rows), ROW_TOKENS), np.int64)
        for number, row in enumerate(rows.tolist()):
            tokens[number, list(ends(row))] = 0
        return tokens

    made = Board(Shape(steps, batch, ROW_TOKENS - 1), base_tokens, end_of_text=0)
    made.taken[list(taken)] = True
    return made


def crowd(copies, first, last, spacing="uniform", placement="anywhere", lengths=5):
    """One item for each number of copies, `lengths` tokens each."""
    copies = np.asarray(copies, np.int64)
    item = np.repeat(np.arange(len(copies)), copies)
    length = np.repeat(np.broadcast_to(lengths, len(copies)), copies).astype(np.int64)
    return Crowd("insert.set", item, copies, length, Phase(first, last, spacing, copies=None), placement)


def steps_of_one(copies, steps, spacing, seed=0, batch=4, first=0):
    """Steps of the copies of one item that is alone in a window, in order."""
    row, _ = place(crowd([copies], first, first + steps, spacing), board(first + steps, batch), np.random.default_rng(seed))
    return np.sort(row // batch)


def holds(made, rows, before, batch):
    """Whether rows keep what does not depend on chance: in the window, free until then, each for one copy, one copy a step."""
    assert len(np.unique(rows)) == len(made.item)
    assert not before[rows].any()
    assert ((made.window.first <= rows // batch) & (rows // batch < made.window.last)).all()
    if not made.window.spacing.startswith(("massed", "bursts")):
        assert len(set(zip(made.item, rows // batch, strict=True))) == len(rows)


# ------------------------------------------------------------------------------------------------ promises


@quick
@given(
    copies=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    first=st.integers(0, 4),
    steps=st.integers(12, 40),
    spacing=st.sampled_from(SPACINGS),
    placement=st.sampled_from(["anywhere", "boundary"]),
    taken=st.sets(st.integers(0, 47), max_size=10),
    seed=SEEDS,
)
def test_every_copy_has_a_free_row_of_its_window_for_itself(copies, first, steps, spacing, placement, taken, seed):
    around = board(first + steps, 6, ends=lambda row: (row % 7, 12 + row % 3), taken=taken)
    before = around.taken.copy()
    made = crowd(copies, first, first + steps, spacing, placement)
    row, offset = place(made, around, np.random.default_rng(seed))
    holds(made, row, before, 6)
    assert set(np.flatnonzero(around.taken)) == set(np.flatnonzero(before)) | set(row.tolist())
    if placement == "boundary":
        assert all(o in (r % 7, 12 + r % 3) and o + 5 <= ROW_TOKENS for r, o in zip(row, offset, strict=True))
    else:
        assert (offset == OPEN).all()


@settings(max_examples=150, deadline=None)
@given(
    copies=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    usable=st.sets(st.integers(0, 23), min_size=1),
    spacing=st.sampled_from(["uniform", "even", "expanding"]),
    bounded=st.booleans(),
    seed=SEEDS,
)
def test_copies_are_packed_whenever_that_is_possible_and_refused_if_not(copies, usable, spacing, bounded, seed):
    batch, steps = 3, 8
    made = crowd(copies, 0, steps, spacing, "boundary" if bounded else "anywhere")
    if bounded:  # rows that are not usable have no boundary with room for 5 tokens
        around = board(steps, batch, ends=lambda row: (2, 13) if row in usable else (13,))
    else:
        around = board(steps, batch, taken=set(range(24)) - usable)
    room, demand = Counter(row // batch for row in usable), sorted(copies, reverse=True)
    possible = all(sum(demand[:k]) <= sum(min(rows, k) for rows in room.values()) for k in range(1, len(copies) + 1))  # Gale-Ryser
    before = around.taken.copy()
    if possible:
        row, _ = place(made, around, np.random.default_rng(seed))
        holds(made, row, before, batch)
        assert set(row.tolist()) <= usable
    else:
        with pytest.raises(RecipeError, match=r"^insert\.set: "):
            place(made, around, np.random.default_rng(seed))


@quick
@given(
    lengths=st.lists(st.integers(3, 12), min_size=1, max_size=12),
    ends=st.lists(st.integers(0, ROW_TOKENS - 1), min_size=1, max_size=14),
    spacing=st.sampled_from(SPACINGS),
    seed=SEEDS,
)
def test_texts_of_different_lengths_find_the_rows_with_room_for_them(lengths, ends, spacing, seed):
    made = crowd([1] * len(lengths), 0, len(ends), spacing, "boundary", lengths)
    around = board(len(ends), 1, ends=lambda row: (ends[row],))
    needs, rooms = sorted(lengths, reverse=True), sorted((ROW_TOKENS - end for end in ends), reverse=True)
    possible = len(needs) <= len(rooms) and all(need <= room for need, room in zip(needs, rooms, strict=False))
    if possible and spacing in ("uniform", "even", "expanding"):
        row, offset = place(made, around, np.random.default_rng(seed))
        assert len(set(row)) == len(lengths)
        assert offset.tolist() == [ends[r] for r in row]
        assert (offset + made.length <= ROW_TOKENS).all()
    elif not possible:
        with pytest.raises(RecipeError, match=r"^insert\.set: "):
            place(made, around, np.random.default_rng(seed))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_a_full_window_is_filled_to_its_last_row(spacing, seed):
    made = crowd([10, 10, 10, 5, 5], 2, 12, spacing)
    row, _ = place(made, board(14, 4), np.random.default_rng(seed))
    assert sorted(row) == list(range(8, 48))
    holds(made, row, np.zeros(56, bool), 4)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_same_seed_places_alike_and_another_seed_otherwise(spacing):
    first, again, other = (place(crowd([5, 3], 0, 90, spacing), board(90, 4), np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


# ------------------------------------------------------------------------------------------------ uniform


@pytest.mark.parametrize("copies", [12, 80])  # of 200 rows: by proposals, and dealt out
def test_uniform_copies_fall_on_every_step_as_often(copies):
    counts = Counter()
    for seed in range(2400 // copies):
        row, _ = place(crowd([copies // 4] * 4, 0, 50), board(50, 4), np.random.default_rng(seed))
        counts.update((row // 20).tolist())
    assert sum((counts[n] - 240) ** 2 / 240 for n in range(10)) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_uniform_copies_fall_on_every_slot_as_often():
    counts = Counter()
    for seed in range(200):
        counts.update((place(crowd([2] * 6, 0, 50), board(50, 4), np.random.default_rng(seed))[0] % 4).tolist())
    assert sum((counts[n] - 600) ** 2 / 600 for n in range(4)) < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


# ------------------------------------------------------------------------------------------------ even


@pytest.mark.parametrize(("copies", "steps", "gaps"), [(4, 40, {10}), (7, 100, {14, 15}), (10, 10, {1}), (3, 10, {3, 4})])
def test_even_copies_lie_equally_far_apart_to_within_a_step(copies, steps, gaps):
    for seed in range(10):
        assert set(np.diff(steps_of_one(copies, steps, "even", seed, first=5)).tolist()) <= gaps


def test_even_copies_begin_at_a_random_step():
    counts = Counter(int(steps_of_one(4, 40, "even", seed)[0]) for seed in range(1000))
    assert sorted(counts) == list(range(10))
    assert sum((counts[n] - 100) ** 2 / 100 for n in range(10)) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_an_even_copy_moves_to_the_nearest_step_where_its_own_is_full():
    moved = set()
    for seed in range(20):
        (own,) = steps_of_one(1, 100, "even", seed)
        row, _ = place(crowd([1], 0, 100, "even"), board(100, 4, taken=range(4, 396)), np.random.default_rng(seed))
        assert row[0] // 4 == (0 if own < 50 else 99)
        moved.add(own)
    assert len(moved - {0, 99}) > 10


# ------------------------------------------------------------------------------------------------ expanding


def test_expanding_gaps_grow_by_a_constant_factor_over_half_of_the_window():
    for seed in range(10):
        gaps = np.diff(steps_of_one(4, 29, "expanding", seed))  # r + r^2 + r^3 = (29 - 1) / 2 for r = 2
        assert np.abs(gaps - [2, 4, 8]).max() <= 1


@quick
@given(copies=st.integers(3, 12), steps=st.integers(60, 400), seed=SEEDS)
def test_expanding_gaps_do_not_shrink_and_end_longer_than_they_began(copies, steps, seed):
    found = steps_of_one(copies, steps, "expanding", seed)
    assert (np.diff(found, 2) >= -1).all()  # to within the rounding to steps
    assert np.diff(found)[-1] > np.diff(found)[0]
    assert abs(found[-1] - found[0] - (steps - 1) // 2) <= 1


@pytest.mark.parametrize(("copies", "gaps"), [(1, []), (2, [9]), (20, [1] * 19), (10, [1] * 9)])
def test_expanding_gaps_are_what_there_is_room_for(copies, gaps):
    assert np.diff(steps_of_one(copies, 20, "expanding")).tolist() == gaps


# ------------------------------------------------------------------------------------------------ massed, bursts


def test_massed_copies_lie_in_neighbouring_rows_that_share_steps():
    for seed in range(50):
        row, _ = place(crowd([11], 3, 13, "massed"), board(13, 4), np.random.default_rng(seed))
        assert row.tolist() == list(range(row[0], row[0] + 11))  # never round the window's end


def test_massed_copies_begin_at_every_row_as_often():
    counts = Counter(int(place(crowd([3], 0, 3, "massed"), board(3, 4), np.random.default_rng(seed))[0][0]) for seed in range(1000))
    assert sorted(counts) == list(range(10))
    assert sum((counts[n] - 100) ** 2 / 100 for n in range(10)) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


@quick
@given(taken=st.sets(st.integers(0, 39), max_size=25), copies=st.integers(1, 15), seed=SEEDS)
def test_massed_copies_leave_no_free_row_between_them(taken, copies, seed):
    around = board(10, 4, taken=taken)
    row, _ = place(crowd([copies], 0, 10, "massed"), around, np.random.default_rng(seed))
    assert around.taken[row.min() : row.max() + 1].all()


def test_massed_copies_that_too_few_free_rows_follow_take_the_last_ones_of_the_window():
    counts = Counter()
    for seed in range(50):
        around = board(10, 4, taken={*range(10, 30), *range(32, 40)})
        counts[tuple(place(crowd([3], 0, 10, "massed"), around, np.random.default_rng(seed))[0].tolist())] += 1
    assert counts[9, 30, 31] > 25  # from any row after 8
    assert set(counts) <= {(n, n + 1, n + 2) for n in range(8)} | {(8, 9, 30), (9, 30, 31)}


def test_bursts_are_so_many_copies_in_neighbouring_rows_at_a_time():
    row, _ = place(crowd([7, 5], 0, 500, "bursts:3"), board(500, 4), np.random.default_rng(1))
    bursts = [row[:3], row[3:6], row[6:7], row[7:10], row[10:12]]
    assert all(np.array_equal(burst, burst[0] + np.arange(len(burst))) for burst in bursts)
    assert np.diff(sorted(burst[0] for burst in bursts)).min() > 3


def test_bursts_of_one_are_placed_at_random():
    row, _ = place(crowd([40], 0, 10_000, "bursts:1"), board(10_000, 1), np.random.default_rng(1))
    assert np.diff(np.sort(row)).min() > 1


# ------------------------------------------------------------------------------------------------ boundaries


def test_a_copy_lies_at_each_boundary_with_room_as_often():
    counts = Counter()
    for seed in range(100):  # with 5 tokens from 14 on it would reach beyond 17
        around = board(40, 4, ends=lambda row: (3, 10, 14))
        counts.update(place(crowd([10], 0, 40, placement="boundary"), around, np.random.default_rng(seed))[1].tolist())
    assert sorted(counts) == [3, 10]
    assert (counts[3] - 500) ** 2 / 500 + (counts[10] - 500) ** 2 / 500 < 10.8  # chi-square, 1 degree of freedom, p = 0.001


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_row_without_a_boundary_with_room_is_not_eligible(spacing):
    around = board(100, 4, ends=lambda row: (12,) if row % 3 == 0 else (13,) if row % 3 == 1 else ())
    row, offset = place(crowd([9, 9], 0, 100, spacing, "boundary"), around, np.random.default_rng(1))
    assert set(row % 3) == {0}
    assert set(offset) == {12}


def test_room_is_counted_from_the_first_boundary_of_each_of_many_rows():
    around = board(1, 10_000, ends=lambda row: () if row % 5 == 0 else (row % 17, 16))
    room = around.room(np.arange(10_000))
    assert room.tolist() == [0 if row % 5 == 0 else 17 - row % 17 for row in range(10_000)]


def test_a_boundary_cannot_be_found_without_a_corpus():
    with pytest.raises(RecipeError, match="placement at a boundary needs the corpus, which is not tokenized yet"):
        place(crowd([1], 0, 5, placement="boundary"), Board(Shape(5, 2, 16)), np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    ("made", "around", "words"),
    [
        (crowd([9] * 5, 0, 10), board(10, 4), "its copies in steps 0-10 need 45 rows, but only 40 of these 40 are free; lower"),
        (crowd([9] * 5, 0, 10, "massed"), board(10, 4), "need 45 rows, but only 40 of these 40 are free"),
        (crowd([5, 5], 5, 8), board(9, 4, taken=range(18, 23)), "steps 5-8 need 10 rows, but only 9 of these 12 are free"),
        (crowd([6], 5, 10), board(10, 4), "6 copies of an item do not fit steps 5-10, 5 steps that take one copy of an item each"),
        (crowd([6], 5, 10, "even"), board(10, 4), "or let copies share steps by spacing: massed"),
        (crowd([3], 0, 4), board(4, 2, taken=range(4)), "fit the free rows, but not with one copy of an item a step; lower"),
        (
            crowd([1, 1], 0, 2, placement="boundary", lengths=[5, 8]),
            board(2, 2, ends=lambda row: (10,)),
            "find no free row in which a document ends with room behind it; 4 are left for the shortest text of 5 tokens and 0 for "
            "the longest, of 8; lower the copies, widen the window or set placement: anywhere",
        ),
        (crowd([1], 0, 2, "massed", "boundary"), board(2, 2), "0 are left for the shortest text of 5 tokens"),
        (crowd([1], 0, 2, "even", "boundary"), board(2, 2), "0 are left for the shortest text of 5 tokens"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_room_there_is(made, around, words):
    with pytest.raises(RecipeError) as refused:
        place(made, around, np.random.default_rng(0))
    assert str(refused.value).startswith("insert.set: ")
    assert words in str(refused.value)
