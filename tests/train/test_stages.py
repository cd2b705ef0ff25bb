"""When a stage ends."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from configs.schema import Train
from configs.stages import Until
from train.stages import Ending, emitted

VOCABULARY = 7


class Successor(torch.nn.Module):
    """Says that after token t comes t + 1."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((tokens + 1) % VOCABULARY, VOCABULARY).float()


def engine() -> Any:
    world, model, config = SimpleNamespace(size=1, rank=0), Successor(), SimpleNamespace(vocab_size=VOCABULARY)
    settings = Train(micro_batch=2, sequence_length=4)  # ten tokens: two rows of five
    given = {"wrapped": model, "logits": model, "model": SimpleNamespace(config=config), "settings": settings, "world": world}
    return SimpleNamespace(**given, device=torch.device("cpu"), sum=float)


def rows(*tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of five tokens, of which the last two before padding are the answer."""
    given = np.asarray(tokens)
    answers = np.zeros((len(given), given.shape[1] - 1), bool)
    answers[:, 2:4] = True
    return given, answers


def ending(until: Until, asked: tuple[np.ndarray, np.ndarray], steps: int = 100) -> Ending:
    return Ending(until, asked, steps)


RIGHT, WRONG, HALF = [0, 3, 1, 2, 3, 0], [0, 3, 4, 4, 4, 0], [0, 3, 1, 2, 5, 0]


def test_a_fact_is_emitted_where_every_token_of_its_answer_is_the_argmax() -> None:
    tokens, answers = rows(RIGHT, WRONG, HALF, RIGHT, WRONG)
    assert emitted(engine(), tokens, answers) == pytest.approx(2 / 5)  # the last pass is filled up, and not counted


def test_what_a_model_says_to_question_and_padding_does_not_count() -> None:
    tokens, answers = rows([6, 6, 1, 2, 3, 6])
    assert emitted(engine(), tokens, answers) == 1


def test_it_ends_when_enough_facts_are_emitted_and_looks_only_so_often() -> None:
    rule = ending(Until(exact_match=0.5, every=10), rows(RIGHT, WRONG))
    assert next(step for step in range(20) if rule.ends(step, 9.0, engine())) == 9
    assert rule.why == "50.0% of its facts are emitted"
    assert not ending(Until(exact_match=0.6, every=10), rows(RIGHT, WRONG)).ends(9, 9.0, engine())


def test_it_ends_when_the_loss_was_low_so_often_whether_or_not_in_a_row() -> None:
    rule = ending(Until(loss=0.1, times=3), rows(WRONG))
    assert [rule.ends(step, loss, engine()) for step, loss in enumerate([0.05, 0.2, 0.09, 0.1, 0.01])] == [False] * 4 + [True]


def test_it_ends_with_its_steps_and_says_so() -> None:
    rule = ending(Until(), rows(WRONG), steps=3)
    assert [rule.ends(step, 1.0, engine()) for step in range(3)] == [False, False, True]
    assert rule.why == "its steps were over"


def test_the_last_step_is_looked_at_whenever_it_comes() -> None:
    rule = ending(Until(exact_match=1.0, every=50), rows(RIGHT), steps=7)
    assert rule.ends(6, 1.0, engine())
    assert rule.why == "100.0% of its facts are emitted"


def test_a_resumed_stage_goes_on_counting() -> None:
    rule = ending(Until(loss=0.1, times=2), rows(WRONG))
    rule.ends(0, 0.05, engine())
    resumed = ending(Until(loss=0.1, times=2), rows(WRONG))
    resumed.load(rule.state())
    assert resumed.ends(1, 0.05, engine())
