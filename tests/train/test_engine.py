"""The engine: one optimizer step on one device."""

from pathlib import Path

import pytest
import torch

from configs.schema import Train
from train.engine import Engine, Execution, parameter_groups, settle

ONE_THREAD = Execution("fp32", 1)


def engine(clip: float = 0.0) -> Engine:
    torch.manual_seed(0)
    return Engine(torch.nn.Linear(3, 2), Train(clip=clip, weight_decay=0.0), ONE_THREAD)


def loss(engine: Engine, rows: torch.Tensor) -> torch.Tensor:
    return engine.model(rows).square().sum()


def test_accumulated_parts_give_the_gradient_of_the_whole() -> None:
    rows = torch.randn(4, 3)
    whole, parts = engine(), engine()
    whole.backward(loss(whole, rows), last=True)
    parts.backward(loss(parts, rows[:1]), last=False)
    parts.backward(loss(parts, rows[1:]), last=True)
    for a, b in zip(whole.bare.parameters(), parts.bare.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    one = engine()
    before = [p.clone() for p in one.bare.parameters()]
    one.backward(loss(one, torch.full((1, 3), float("inf"))), last=True)
    applied, _ = one.step(0.1)
    assert not applied
    assert all(torch.equal(a, b) for a, b in zip(before, one.bare.parameters(), strict=True))


def test_the_norm_told_is_that_before_clipping() -> None:
    rows = torch.ones(1, 3)
    free, clipped = engine(), engine(clip=1e-3)
    free.backward(loss(free, rows), last=True)
    clipped.backward(loss(clipped, rows), last=True)
    assert clipped.step(0.1)[1] == pytest.approx(free.step(0.1)[1])


def test_a_loaded_engine_goes_on_to_the_last_bit() -> None:
    rows = torch.randn(4, 3)
    first, second = engine(), engine()
    for _ in range(3):
        first.backward(loss(first, rows), last=True)
        first.step(0.1)
    second.load({k: v.clone() for k, v in first.bare.state_dict().items()}, {k: v.clone() for k, v in first.moments().items()})
    for one in (first, second):
        one.backward(loss(one, rows), last=True)
        one.step(0.1)
    assert all(torch.equal(a, b) for a, b in zip(first.bare.parameters(), second.bare.parameters(), strict=True))


def test_only_matrices_that_are_no_embedding_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    decayed, others = parameter_groups(model, 0.1)
    assert [p.shape for p in decayed["params"]] == [(3, 4)]
    assert len(others["params"]) == 4
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_the_fastest_number_of_threads_is_measured_once_a_machine(tmp_path: Path) -> None:
    tried: list[int] = []

    def try_step(execution: Execution) -> None:
        tried.append(execution.threads)

    first = settle(Train(precision="fp32"), tmp_path, tmp_path / "one.json", "shape", try_step)
    measured = len(tried)
    second = settle(Train(precision="fp32"), tmp_path, tmp_path / "two.json", "shape", try_step)
    assert first == second
    assert len(tried) == measured


def test_a_recorded_execution_is_kept(tmp_path: Path) -> None:
    record = tmp_path / "execution.json"
    settle(Train(precision="fp32", threads=1), tmp_path, record, "shape", lambda _: None)
    again = settle(Train(precision="bf16", threads=2), tmp_path, record, "shape", lambda _: None)
    assert again == Execution("fp32", 1)
