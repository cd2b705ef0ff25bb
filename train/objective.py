"""The training objective as sums over labels; the loop divides by the global batch's number of labels."""

from __future__ import annotations

from typing import Any

import torch


def next_token_loss(model: torch.nn.Module, tokens: torch.Tensor, label_mask: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies, in nats, of the labels that count.

    `tokens` (n, S + 1) int64: inputs are all but the last, labels all but the first; `label_mask` (n, S) bool.
    """
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return CrossEntropySum.apply(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), label_mask.flatten())  # type: ignore[no-any-return]


class CrossEntropySum(torch.autograd.Function):
    """Cross-entropy summed over the labels where a mask is true, from fp32 logits (n, V), labels (n,) and mask (n,).

    Keeps one (n, V) array and turns it into the gradient, softmax minus one-hot, in place; torch's own makes two more, and a small
    model's step takes 6 to 10% longer with it (benchmarks/README.md).
    """

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        log_probs = logits.log_softmax(-1)
        context.save_for_backward(log_probs, labels, mask)
        return -(log_probs.gather(1, labels[:, None])[:, 0] * mask).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        log_probs, labels, mask = context.saved_tensors
        out = log_probs.exp_()
        out.scatter_add_(1, labels[:, None], torch.full_like(labels, -1, dtype=out.dtype)[:, None])
        return out.mul_(gradient * mask[:, None]), None, None
