"""Milestones: which steps leave a checkpoint, which can be resumed from, and where the windows of a design lie."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from configs.schema import Checkpoints, Train
from configs.tables import ASSIGNMENT, PLAN
from train.milestones import exposure_windows, milestones


def settings(steps: int = 100, **checkpoints: object) -> Train:
    plain = {"every": 1000, "exposures": False, "resume_every": 1000}
    return Train(steps=steps, checkpoints=Checkpoints(**(plain | checkpoints)))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ kept


def test_the_first_and_the_last_step_are_always_kept() -> None:
    assert milestones(settings(), []).kept == {0: ("start",), 100: ("end",)}


def test_each_setting_adds_its_steps() -> None:
    assert list(milestones(settings(every=40), []).kept) == [0, 40, 80, 100]
    assert list(milestones(settings(powers_of_two=True), []).kept) == [0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert list(milestones(settings(steps=64, powers_of_two=True), []).kept)[-2:] == [32, 64]
    assert list(milestones(_listed([7, 3, 100]), []).kept) == [0, 3, 7, 100]


def _listed(steps: list[int]) -> Train:
    train = settings()
    return replace(train, checkpoints=replace(train.checkpoints, steps=steps))


def test_a_window_is_kept_before_its_first_exposure_and_after_its_last() -> None:
    found = milestones(settings(exposures=True), [(10, 19), (20, 99)])
    assert list(found.kept) == [0, 10, 20, 100]  # 20: after step 19 of one window, and before step 20 of the other
    assert found.kept[20] == ("before the first exposure of a window", "after the last exposure of a window")
    assert found.kept[100] == ("end", "after the last exposure of a window")


def test_windows_are_not_kept_where_that_is_off() -> None:
    assert list(milestones(settings(exposures=False), [(10, 19)]).kept) == [0, 100]


def test_a_step_is_kept_once_with_all_its_reasons() -> None:
    found = milestones(settings(every=50, powers_of_two=True, exposures=True), [(32, 49)])
    assert found.kept[50] == ("every 50", "after the last exposure of a window")
    assert found.kept[32] == ("power of two", "before the first exposure of a window")


@pytest.mark.parametrize("step", [101, -1])
def test_a_listed_step_that_training_does_not_have_is_refused(step: int) -> None:
    with pytest.raises(RecipeError, match=rf"train.checkpoints.steps holds {step}; .* train.steps = 100"):
        milestones(_listed([5, step]), [])


# ------------------------------------------------------------------------------------------------ resumable, states


def test_the_checkpoint_before_each_windows_first_exposure_is_resumable() -> None:
    assert milestones(settings(exposures=True), [(10, 19), (30, 99)]).resumable == {10, 30}


def test_without_one_just_there_the_last_that_has_seen_nothing_of_the_window_is_resumable() -> None:
    assert milestones(settings(every=8), [(19, 20), (24, 30), (3, 90)]).resumable == {16, 24, 0}


def test_all_or_none_can_be_resumable() -> None:
    assert milestones(settings(every=50, resumable="all"), [(10, 19)]).resumable == {0, 50, 100}
    assert milestones(settings(resumable="none"), [(10, 19)]).resumable == frozenset()


def test_states_are_left_at_their_interval_and_at_kept_steps_but_not_at_either_end() -> None:
    found = milestones(settings(every=40, resume_every=25), [])
    assert [step for step in range(101) if found.resumes(step)] == [25, 40, 50, 75, 80]
    assert [step for step in range(101) if found.keeps(step)] == [0, 40, 80, 100]


@given(
    st.integers(1, 60),
    st.integers(1, 70),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["first_exposure", "all", "none"]),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=4),
)
def test_whatever_the_settings_a_resumable_checkpoint_is_kept_and_saw_nothing_of_its_window(
    steps: int, every: int, powers: bool, exposures: bool, resumable: str, pairs: list[tuple[int, int]]
) -> None:
    windows = [(min(pair), max(pair)) for pair in pairs if max(pair) < steps]
    found = milestones(settings(steps, every=every, powers_of_two=powers, exposures=exposures, resumable=resumable), windows)
    assert list(found.kept) == sorted(found.kept)
    assert {0, steps} <= found.kept.keys()
    assert max(found.kept) == steps
    assert found.resumable <= found.kept.keys()
    if resumable == "first_exposure":
        assert all(any(step <= first for step in found.resumable) for first, _ in windows)
    if exposures:
        assert {first for first, _ in windows} | {last + 1 for _, last in windows} <= found.kept.keys()


# ------------------------------------------------------------------------------------------------ windows

BATCH = 4


def phase(first: int, last: int, spacing: str = "uniform") -> dict:
    return {"copies": 1, "first_step": first, "last_step": last, "spacing": spacing}


def assignment(**phases: list[dict]) -> pa.Table:
    return pa.Table.from_pylist([{"item_id": name, "phases": own} for name, own in phases.items()], ASSIGNMENT)


def plan(*copies: tuple[str, int]) -> pa.Table:
    return pa.Table.from_pylist([{"item_id": name, "row": row} for name, row in sorted(copies, key=lambda c: c[1])], PLAN)


def test_items_of_one_window_are_pooled() -> None:
    table = assignment(a=[phase(0, 10)], b=[phase(0, 10)], c=[phase(10, 20)])
    copies = plan(("a", 9), ("b", 14), ("a", 30), ("c", 40), ("c", 79))
    assert exposure_windows(copies, table, BATCH) == [(2, 7), (10, 19)]


def test_a_copy_belongs_to_the_phase_of_its_step() -> None:
    table = assignment(held=[phase(0, 20)], a=[phase(0, 5), phase(5, 10), phase(15, 20)], b=[phase(5, 10)])
    copies = plan(("a", 4), ("a", 19), ("a", 20), ("a", 60), ("b", 39))
    assert exposure_windows(copies, table, BATCH) == [(1, 4), (5, 9), (15, 15)]


def test_overlapping_windows_of_different_items_are_told_apart() -> None:
    table = assignment(wide=[phase(0, 20)], narrow=[phase(5, 10)])
    assert exposure_windows(plan(("wide", 2), ("narrow", 24), ("narrow", 36), ("wide", 70)), table, BATCH) == [(0, 17), (6, 9)]


def test_explicit_places_are_a_window_of_their_own() -> None:
    table = assignment(a=[phase(0, 20)], b=[phase(0, 20, "explicit")])
    assert exposure_windows(plan(("a", 0), ("b", 40), ("b", 50), ("a", 79)), table, BATCH) == [(0, 19), (10, 12)]


def test_a_plan_without_copies_has_no_windows() -> None:
    assert exposure_windows(plan(), assignment(a=[phase(0, 10)]), BATCH) == []
    assert exposure_windows(plan(), assignment(), BATCH) == []


def test_names_as_dictionaries_and_in_chunks_give_the_same_windows() -> None:
    table = assignment(a=[phase(0, 10)], b=[phase(5, 10)], c=[phase(0, 10)])
    parts = [plan(("b", 21), ("a", 22)), plan(("a", 27), ("c", 28), ("b", 38))]
    encoded = [part.set_column(4, "item_id", part["item_id"].dictionary_encode()) for part in parts]
    whole, chunked = (
        exposure_windows(pa.concat_tables(parts), table, BATCH),
        exposure_windows(pa.concat_tables(encoded), table, BATCH),
    )
    assert whole == chunked == [(5, 7), (5, 9)]


def test_a_slice_of_the_assignment_is_read_as_such() -> None:
    table = assignment(x=[phase(0, 1), phase(1, 2)], a=[phase(3, 6)], b=[phase(6, 9)]).slice(1)
    assert exposure_windows(plan(("a", 13), ("b", 34)), table, BATCH) == [(3, 3), (8, 8)]


def test_a_copy_outside_its_windows_and_an_item_without_an_arm_are_named() -> None:
    table = assignment(a=[phase(2, 4), phase(6, 8)])
    for row in (0, 20, 33):
        with pytest.raises(DataError, match=f"copy of a in step {row // BATCH}, outside its windows"):
            exposure_windows(plan(("a", 10), ("a", row)), table, BATCH)
    with pytest.raises(DataError, match="names b, which has no arm"):
        exposure_windows(plan(("a", 10), ("b", 11)), table, BATCH)


@given(st.data())
def test_windows_agree_with_a_count_one_by_one(data: st.DataObject) -> None:
    bounds = st.lists(st.integers(0, 12), min_size=2, max_size=6, unique=True).map(sorted)
    phases = {
        f"item-{number}": [phase(first, last) for first, last in zip(edges[::2], edges[1::2], strict=False)]
        for number, edges in enumerate(data.draw(st.lists(bounds, min_size=1, max_size=4)))
    }
    copies, expected = [], {}
    for name, own in phases.items():
        for each in own:
            window = (each["first_step"], each["last_step"])
            for step in data.draw(st.lists(st.integers(window[0], window[1] - 1), max_size=3)):
                copies.append((name, step * BATCH + data.draw(st.integers(0, BATCH - 1))))
                expected.setdefault(window, []).append(step)
    found = exposure_windows(plan(*copies), assignment(**phases), BATCH)
    assert found == [(min(steps), max(steps)) for _, steps in sorted(expected.items())]


def test_a_million_copies_take_no_loop_over_them() -> None:
    items, copies = 1000, 10**6
    table = assignment(**{f"i{n}": [phase(0, 500), phase(500, 1000)] for n in range(items)})
    numbers = pa.array(np.arange(copies) % items, pa.int32())
    names = pa.DictionaryArray.from_arrays(numbers, pa.array([f"i{n}" for n in range(items)]))
    found = exposure_windows(pa.table({"row": np.arange(copies), "item_id": names}), table, 1000)
    assert found == [(0, 499), (500, 999)]
