"""The engine on one device: accumulation, the decision before a step, loss scale, its state."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric

from configs.errors import ImprintError
from configs.schema import Train
from train.engine import LossScale, Replicated, Step, connected, parameter_groups, together
from train.execution import Execution
from train.world import World

NONE = torch.zeros(0)


class Squares(torch.nn.Module):
    """An objective of two outputs of a linear layer: the sum of their squares."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3, 2)

    def forward(self, rows: torch.Tensor, mask: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return self.model(rows).square().sum()  # type: ignore[no-any-return]


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with connected(Train(strategy="single"), World()) as one:
        yield one


def engine(
    fabric: Fabric, clip: float = 0.0, precision: str = "fp32", admits: Callable[[float, float], bool] = lambda *_: True
) -> Replicated:
    settings = Train(strategy="single", clip=clip, weight_decay=0.0, micro_batch=1, accumulation=1)
    objective: Any = Squares()
    return Replicated(fabric, objective, settings, Execution(precision, 1), World(), admits)


def take(one: Replicated, *parts: torch.Tensor, rate: float = 0.1) -> Step:
    for number, rows in enumerate(parts, 1):
        one.backward(one.loss(rows, NONE, NONE), last=number == len(parts))
    return one.step(rate)


def same(one: Replicated, other: Replicated) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_accumulated_parts_give_the_step_of_the_whole(fabric: Fabric) -> None:
    rows = torch.randn(4, 3)
    whole, parts = engine(fabric), engine(fabric)
    first, second = take(whole, rows), take(parts, rows[:1], rows[1:])
    assert second.loss == pytest.approx(first.loss, rel=1e-6)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-6)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_loss_told_is_that_of_this_step_alone(fabric: Fabric) -> None:
    one, rows = engine(fabric), torch.ones(1, 3)
    expected = float(one.model(rows).detach().square().sum())
    assert take(one, rows, rate=0.0).loss == pytest.approx(expected)
    assert take(one, rows, rate=0.0).loss == pytest.approx(expected)


def test_a_step_that_is_not_admitted_changes_nothing(fabric: Fabric) -> None:
    asked: list[tuple[float, float]] = []

    def refuse(loss: float, grad_norm: float) -> bool:
        asked.append((loss, grad_norm))
        return False

    one = engine(fabric, admits=refuse)
    outcome = take(one, torch.ones(1, 3))
    assert not outcome.applied
    assert asked == [(outcome.loss, outcome.grad_norm)]
    assert same(one, engine(fabric))
    assert one.moments() == {}


def test_the_next_step_knows_nothing_of_a_gradient_that_was_refused(fabric: Fabric) -> None:
    answers = [False, True]
    one, rows = engine(fabric, admits=lambda *_: answers.pop(0)), torch.randn(2, 3)
    take(one, 100 * rows)
    take(one, rows)
    fresh = engine(fabric)
    take(fresh, rows)
    assert same(one, fresh)


def test_the_norm_told_is_that_before_clipping(fabric: Fabric) -> None:
    rows = torch.ones(1, 3)
    assert take(engine(fabric, clip=1e-3), rows).grad_norm == pytest.approx(take(engine(fabric), rows).grad_norm)


def test_a_loaded_engine_goes_on_to_the_last_bit(fabric: Fabric) -> None:
    rows = torch.randn(4, 3)
    first, second = engine(fabric), engine(fabric)
    for _ in range(3):
        take(first, rows)
    weights, moments = ({k: v.clone() for k, v in part.items()} for part in (first.weights(), first.moments()))
    assert set(moments) == {"step", *(f"{key}.{name}" for key in ("exp_avg", "exp_avg_sq") for name in weights)}
    second.model.load_state_dict(weights)
    second.load_moments(moments)
    for one in (first, second):
        take(one, rows)
    assert same(first, second)


def test_matrices_are_multiplied_in_bf16_and_weights_stay_fp32(fabric: Fabric) -> None:
    exact, mixed, rows = engine(fabric), engine(fabric, precision="bf16"), torch.randn(8, 3)
    first, second = take(exact, rows), take(mixed, rows)
    assert second.loss != first.loss
    assert second.loss == pytest.approx(first.loss, rel=0.02)
    assert all(weight.dtype == torch.float32 for weight in mixed.weights().values())


def test_a_connection_within_another_leaves_the_other() -> None:
    world = World.here({})
    with connected(Train(strategy="ddp"), world):
        with connected(Train(strategy="single"), world):
            pass
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()


def test_one_device_asks_nothing_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "sweep", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    with connected(Train(strategy="single"), World()) as fabric:
        assert fabric.world_size == 1


def test_a_failure_of_the_leading_process_is_raised(fabric: Fabric) -> None:
    with pytest.raises(ImprintError, match="the disk is full"), together(fabric):
        raise ImprintError("the disk is full")


def test_only_matrices_that_are_no_embedding_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    decayed, others = parameter_groups(model, 0.1)
    assert [p.shape for p in decayed["params"]] == [(3, 4)]
    assert len(others["params"]) == 4
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_fp16_gradients_are_scaled_and_told_unscaled(fabric: Fabric) -> None:
    exact, half, rows = engine(fabric), engine(fabric, precision="fp16"), torch.randn(8, 3) / 100
    assert half.scale.value == 2**16
    half.scale.value = 2**8  # this gradient is a large one
    first, second = take(exact, rows), take(half, rows)
    assert second.loss == pytest.approx(first.loss, rel=0.01)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=0.01)


def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_2000_good_steps() -> None:
    scale = LossScale("fp16")
    scale.update(finite=False)
    assert scale.value == 2**15
    for _ in range(1999):
        scale.update(finite=True)
    assert scale.value == 2**15
    restored = LossScale("fp16")
    restored.load(scale.state())
    restored.update(finite=True)
    assert restored.value == 2**16


def test_other_precisions_have_no_loss_scale() -> None:
    scale = LossScale("bf16")
    scale.update(finite=False)
    assert scale.value == 1
