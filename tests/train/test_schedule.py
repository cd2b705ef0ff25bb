"""The learning rate by step."""

from itertools import pairwise

import pytest

from configs.schema import Train
from train.schedule import learning_rate, warmup_steps


def settings(schedule: str) -> Train:
    return Train(steps=100, warmup=10, decay=0.2, learning_rate=1.0, final_learning_rate=0.1, schedule=schedule)


def test_warm_up_is_linear_and_never_zero() -> None:
    assert [learning_rate(settings("wsd"), step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])


def test_wsd_is_flat_then_linear_down_to_the_floor() -> None:
    assert [learning_rate(settings("wsd"), step) for step in (10, 79, 89, 99)] == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_cosine_is_half_way_down_in_the_middle_and_ends_at_the_floor() -> None:
    assert [learning_rate(settings("cosine"), step) for step in (54, 99)] == pytest.approx([0.55, 0.1])


def test_constant_stays() -> None:
    assert learning_rate(settings("constant"), 99) == 1.0


def test_a_run_without_warm_up_or_decay_is_possible() -> None:
    bare = Train(steps=5, warmup=0, decay=0.0, learning_rate=1.0, schedule="wsd")
    assert [learning_rate(bare, step) for step in range(5)] == [1.0] * 5


def test_warm_up_in_tokens_is_rounded_up_to_a_step() -> None:
    step_tokens = 8 * 16
    assert [
        warmup_steps(Train(global_batch=8, sequence_length=16, warmup_tokens=tokens))
        for tokens in (0, 1, step_tokens, step_tokens + 1, 10 * step_tokens)
    ] == [0, 1, 1, 2, 10]
    assert warmup_steps(Train(warmup=7)) == 7


def test_warm_up_in_tokens_gives_the_rates_of_as_many_steps() -> None:
    in_tokens = Train(steps=20, global_batch=2, sequence_length=5, warmup_tokens=35, learning_rate=1.0, schedule="cosine")
    in_steps = Train(steps=20, global_batch=2, sequence_length=5, warmup=4, learning_rate=1.0, schedule="cosine")
    rates = [learning_rate(in_tokens, step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates == [learning_rate(in_steps, step) for step in range(20)]


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_the_end_of_warm_up_is_the_peak_and_no_rate_after_it_is_higher(schedule: str) -> None:
    rates = [learning_rate(settings(schedule), step) for step in range(100)]
    assert rates[9] == 1.0
    assert all(later <= earlier for earlier, later in pairwise(rates[9:]))


def test_a_decay_longer_than_what_warm_up_leaves_begins_at_the_peak() -> None:
    tight = Train(steps=10, warmup=6, decay=0.8, learning_rate=1.0, final_learning_rate=0.2, schedule="wsd")
    assert [learning_rate(tight, step) for step in range(5, 10)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
