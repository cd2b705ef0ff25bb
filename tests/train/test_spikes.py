"""Which steps are refused before the optimizer takes them."""

import json
import math

import pytest

from configs.errors import DataError, ImprintError
from configs.schema import Spikes
from train.spikes import REFUSALS, Guard

# Twenty values 1 and 3 in turn: their mean is 2, and their sample variance 20/19.
TURNS = [1.0, 3.0] * 10
DEVIATION = math.sqrt(20 / 19)


def filled(policy: str = "skip", deviations: float = 2.0, window: int = 20) -> Guard:
    guard = Guard(Spikes(policy=policy, deviations=deviations, window=window))
    for value in TURNS:
        assert guard.admits(value, value)
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_from_the_first_step_on(value: float) -> None:
    guard = Guard(Spikes())
    assert not guard.admits(value, 1.0)
    assert guard.reason == f"loss is {value}"
    assert not guard.admits(1.0, value)
    assert guard.reason == f"gradient norm is {value}"
    assert guard.admits(1.0, 1.0)
    assert guard.reason == ""


def test_the_threshold_is_so_many_sample_deviations_above_the_mean() -> None:
    threshold = 2 + 2 * DEVIATION  # 4.0519
    assert filled().admits(threshold - 1e-6, 1.0)
    assert not filled().admits(threshold + 1e-6, 1.0)
    assert filled().admits(1.0, threshold - 1e-6)
    guard = filled()
    assert not guard.admits(1.0, threshold + 1e-6)
    assert guard.reason == "gradient norm 4.052 is above 4.052, 2 standard deviations over its mean"


def test_a_fall_is_no_spike() -> None:
    assert filled().admits(-1000.0, 0.0)


def test_nothing_finite_is_refused_without_deviations() -> None:
    assert filled(deviations=0.0).admits(1e30, 1e30)
    assert filled(deviations=0.0).state()["losses"] == []


def test_infinitely_many_deviations_refuse_nothing_finite() -> None:
    assert filled(deviations=math.inf).admits(1e30, 1e30)


@pytest.mark.parametrize(("window", "judged_from"), [(4, 4), (30, 20), (128, 64), (1, math.inf)])
def test_spikes_are_judged_when_the_window_is_full_enough(window: int, judged_from: float) -> None:
    guard = Guard(Spikes(deviations=1.0, window=window))
    for count in range(70):
        assert Guard(guard.settings, state=guard.state()).admits(1e9, 1.0) == (count < judged_from)
        assert guard.admits(1.0 - 0.1 * (count % 2), 1.0)


def test_a_window_of_equal_values_has_no_deviation_to_judge_by() -> None:
    guard = Guard(Spikes(deviations=6.0, window=20))
    for count in range(40):
        assert guard.admits(2.5 + 1e-8 * (count % 3), 1.0)
    assert guard.admits(2.6, 1.1)


def test_only_steps_that_were_taken_enter_the_window() -> None:
    guard = filled()
    before = guard.state()
    for _ in range(5):
        assert not guard.admits(100.0, 1.0)
    assert guard.state() == {**before, "refused": 5}


def test_the_window_forgets_what_is_older() -> None:
    guard = filled()
    for value in [11.0, 13.0] * 10:
        guard._losses.append(value)
    assert guard.admits(13.9, 1.0)
    assert not guard.admits(15.0, 1.0)


def test_stop_names_step_value_and_threshold_and_how_to_go_on() -> None:
    guard = filled("stop")
    with pytest.raises(ImprintError, match=r"step 20: loss 9 is above 4\.052.*train\.spikes\.policy=skip"):
        guard.admits(9.0, 1.0)


def test_twenty_refusals_in_a_row_end_a_training_whatever_the_policy() -> None:
    guard = Guard(Spikes(policy="skip"), step=100)
    for _ in range(REFUSALS - 1):
        assert not guard.admits(math.nan, math.nan)
    with pytest.raises(ImprintError, match=r"step 119 is the last of 20 in a row .*loss is nan"):
        guard.admits(math.nan, math.nan)


def test_a_step_that_is_taken_starts_the_count_of_refusals_anew() -> None:
    guard = Guard(Spikes())
    for _ in range(3):
        for _ in range(REFUSALS - 1):
            assert not guard.admits(1.0, math.inf)
        assert guard.admits(1.0, 1.0)


def test_the_search_for_the_scale_of_fp16_does_not_stop_a_training() -> None:
    guard = Guard(Spikes(policy="stop"), scaled=True)
    assert not guard.admits(1.0, math.inf)
    with pytest.raises(ImprintError, match="loss is nan"):
        guard.admits(math.nan, math.inf)


def test_a_restored_guard_decides_to_the_last_bit_as_the_one_that_went_on() -> None:
    guard = Guard(Spikes(deviations=1.2, window=32))
    values = [math.sin(7 * step) / 3 + 2 for step in range(200)]
    for value in values[:50]:
        guard.admits(value, value / 7)
    restored = Guard(guard.settings, 50, json.loads(json.dumps(guard.state())))
    assert restored.state() == guard.state()
    decisions = [(guard.admits(v, v / 7), guard.reason, restored.admits(v, v / 7), restored.reason) for v in values[50:]]
    assert all(one[:2] == one[2:] for one in decisions)
    assert {one[0] for one in decisions} == {True, False}
    assert restored.state() == guard.state()


@pytest.mark.parametrize(
    "state", [{}, {"losses": 1, "grad_norms": [], "refused": 0}, {"losses": [math.nan], "grad_norms": [1.0], "refused": 0}]
)
def test_a_state_that_was_never_written_is_refused(state: dict) -> None:
    with pytest.raises(DataError, match="resume state"):
        Guard(Spikes(deviations=6.0), state=state)
