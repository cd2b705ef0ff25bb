"""The training objective as sums over labels; the loop divides by the global batch's number of labels."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy


def next_token_loss(model: torch.nn.Module, tokens: torch.Tensor, label_mask: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies, in nats, of the labels that count.

    `tokens` (n, S + 1) int64: inputs are all but the last, labels all but the first; `label_mask` (n, S) bool.
    """
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    labels = tokens[:, 1:].masked_fill(~label_mask, -100)
    return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
