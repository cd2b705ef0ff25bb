"""The learning rate by step."""

import pytest

from configs.schema import Train
from train.schedule import learning_rate


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
