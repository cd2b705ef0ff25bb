"""The objective as sums over labels."""

import math
from types import SimpleNamespace

import pytest
import torch

from train.objective import CrossEntropySum, next_token_loss


class Uniform(torch.nn.Module):
    """A model that finds every one of 8 tokens equally probable."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 8, dtype=torch.bfloat16))


def test_the_loss_is_a_sum_over_the_labels_that_count() -> None:
    tokens = torch.arange(10).reshape(2, 5) % 8
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    assert next_token_loss(Uniform(), tokens, mask).item() == pytest.approx(3 * math.log(8))


def test_a_row_without_labels_costs_nothing() -> None:
    assert next_token_loss(Uniform(), torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 3, dtype=torch.bool)).item() == 0.0


def test_value_and_gradient_are_those_of_torch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 9, requires_grad=True)
    labels, mask = torch.tensor([0, 8, 3, 3, 1, 7]), torch.tensor([True, True, False, True, True, False])
    ours = CrossEntropySum.apply(logits, labels, mask)
    (gradient,) = torch.autograd.grad(ours * 0.5, logits)
    expected = torch.nn.functional.cross_entropy(logits, labels.masked_fill(~mask, -100), reduction="sum")
    (expected_gradient,) = torch.autograd.grad(expected * 0.5, logits)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient, expected_gradient)
