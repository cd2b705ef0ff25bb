"""Cross-entropies summed over labels, and their gradients, against torch's own in higher precision."""

import math

import pytest
import torch
import torch.nn.functional as F

from train.cross_entropy import CrossEntropySum, LinearCrossEntropy, chunk_tokens, slopes, slopes_of_one_pass


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 64, 0])
def test_a_chunk_changes_neither_loss_nor_gradients(chunk: int, bias: bool) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=bias)
    hidden, labels, mask = torch.randn(64, 16, requires_grad=True), torch.randint(0, 50, (64,)), torch.rand(64) < 0.95
    values = [hidden, *head.parameters()]
    loss = LinearCrossEntropy(head, chunk)(hidden, labels, mask)
    ours = torch.autograd.grad(loss * 0.25, values)
    logits = F.linear(hidden.double(), head.weight.double(), head.bias.double() if bias else None)
    exact = F.cross_entropy(logits, labels.masked_fill(~mask, -100), reduction="sum")
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    for found, expected in zip(ours, torch.autograd.grad(exact * 0.25, values), strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_a_label_that_seems_impossible_has_the_loss_of_its_logit() -> None:
    head = torch.nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[0.0, 0.0], [-200.0, 0.0]])
    loss = LinearCrossEntropy(head, 0)(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), torch.tensor([True]))
    assert loss.item() == 200.0


def test_chunks_fill_a_budget_evenly() -> None:
    assert chunk_tokens(2048, 1024, 0, "cpu") == 512  # 2 MiB of fp32
    assert chunk_tokens(2049, 1024, 0, "cpu") == 410  # five parts instead of four and one token
    assert chunk_tokens(100, 1024, 0, "cpu") == 100
    assert chunk_tokens(1024, 50_304, 0, "cpu") == 256
    assert chunk_tokens(65_536, 50_304, 0, "cuda") == 4096  # 16 equal parts where 13 would do for 1 GiB
    assert chunk_tokens(65_537, 50_304, 0, "cuda") == 5042  # it has no such divisor
    assert chunk_tokens(65_536, 50_304, 96, "cuda") == 96
    assert chunk_tokens(0, 1024, 0, "cpu") == 1


def test_half_precision_keeps_the_gradients_of_rare_tokens() -> None:
    """A probability of 2e-8 is 0 in fp16; the weight's gradient of its token is not."""
    head = torch.nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[0.0], [-17.5], [0.0]])
    hidden = torch.ones(4, 1)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = LinearCrossEntropy(head, 0)(hidden, torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, head.weight)
    assert gradient[1].item() == pytest.approx(4 * math.exp(-17.5) / 2, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [False, True])
def test_what_one_kernel_computes_is_what_many_do(dtype: torch.dtype, count: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(6, 9, generator=drawn)).to(dtype)
    targets = torch.randint(0, 9, (6, 1), generator=drawn)
    counts = torch.tensor([True, False, True, True, False, True]) if count else None
    loss, slope = slopes(logits, targets, counts, 4.0)
    losses, gradient = slopes_of_one_pass(logits, targets, counts, 4.0)
    exact = F.cross_entropy(logits.double(), targets[:, 0], reduction="none")
    assert losses.item() == pytest.approx(float((exact if counts is None else exact[counts]).sum()), rel=1e-5)
    assert loss.item() == pytest.approx(losses.item(), rel=1e-5)
    assert gradient.dtype == slope.dtype == dtype
    torch.testing.assert_close(gradient, slope, rtol=torch.finfo(dtype).eps, atol=1e-6)


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
