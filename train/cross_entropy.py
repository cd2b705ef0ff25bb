"""Cross-entropies summed over labels, with their gradients made at once: no more logits exist than a chunk of tokens has."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES_PROCESSOR = 2 * 2**20  # of fp32 logits at a time where `chunk` is 0: what its caches hold
CHUNK_BYTES_ACCELERATOR = 2**30  # a GPU wants products of thousands of tokens
CHUNK_TOKENS_LEAST = 256  # with fewer, adding to the weight's gradient takes longer than computing it
FEW_LABELS = 0.9  # part of the labels that count, below which the others are left out instead of multiplied by 0
FP16_SCALE = 1024.0  # of the logits' gradient, at most 1, in half precision: probabilities of 1e-7 do not become 0


class LinearCrossEntropy(torch.nn.Module):
    """The summed cross-entropy of a linear head, whose parameters it shares; only a chunk of its logits exists at a time."""

    def __init__(self, head: torch.nn.Linear, chunk: int, compiled: bool = False) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.chunk = chunk
        self.compiled = compiled  # on a GPU: one kernel makes of logits their losses and gradients

    def forward(self, hidden: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The sum in nats over `labels` (t,) where `mask` (t,) is true, from `hidden` (t, d); of `hidden` alone, the logits."""
        if labels is None or mask is None:
            return F.linear(hidden, self.weight, self.bias)
        if mask.device.type == "cpu":  # elsewhere, to count them the processor would wait for the device
            kept = int(mask.sum())
            if kept < FEW_LABELS * len(mask):
                places = mask.nonzero()[:, 0]
                hidden, labels, kept = hidden[places], labels[places], len(mask)
            all_count = kept == len(mask)
        else:
            all_count = False
        rows = chunk_tokens(len(labels), self.weight.shape[0], self.chunk, hidden.device.type)
        compiled = self.compiled and hidden.device.type != "cpu"
        return LinearCrossEntropySum.apply(  # type: ignore[no-any-return]
            hidden, self.weight, self.bias, labels, None if all_count else mask, rows, torch.is_grad_enabled(), compiled
        )


def chunk_tokens(tokens: int, vocabulary: int, chunk: int, device: str) -> int:
    """Tokens whose logits exist at a time: `chunk`, or where it is 0 as many as the device's budget holds, in even parts.

    On a GPU in equal parts, where there are such that are half as large at least: a program compiled for one shape is the fastest.
    """
    if chunk:
        return chunk
    budget = CHUNK_BYTES_PROCESSOR if device == "cpu" else CHUNK_BYTES_ACCELERATOR
    most = max(budget // (4 * vocabulary), CHUNK_TOKENS_LEAST)
    parts = max(-(-tokens // most), 1)
    if device != "cpu":
        parts = next((equal for equal in range(parts, 2 * parts + 1) if tokens % equal == 0), parts)
    return max(-(-tokens // parts), 1)


class LinearCrossEntropySum(torch.autograd.Function):
    """Cross-entropy summed over labels (t,), from hidden states (t, d) and a head's weight (V, d) and bias (V,) or None.

    The gradients are computed with the loss, chunk by chunk, and backward multiplies them by its scalar: no logits are kept and
    none computed twice. Products are taken in autocast's precision where it is on, softmax, sums and the weight's gradient in fp32.
    The idea is that of Liger Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv:2410.10989).
    """

    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        mask: Tensor | None,
        chunk: int,
        differentiate: bool,
        compiled: bool = False,
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        wants = [wanted and differentiate for wanted in context.needs_input_grad[:3]]
        up = FP16_SCALE if dtype == torch.float16 else 1.0
        down = 1.0 / chunk if dtype == torch.float16 else 1.0  # a sum over a chunk's tokens must not overflow
        pieces: list[Tensor] = []
        to_weight = to_bias = None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device, enabled=False):
            low_weight, low_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, len(labels), chunk):
                part = slice(start, start + chunk)
                inputs, targets = hidden[part].to(dtype), labels[part, None]
                logits = F.linear(inputs, low_weight, low_bias)
                kept = None if mask is None else mask[part]
                if not any(wants):
                    loss += _summed(_losses(logits, targets, logits.softmax(-1, dtype=torch.float32)), kept)
                    continue
                losses, low_slope = (_slopes_at_once if compiled else slopes)(logits, targets, kept, up)
                loss += losses
                if wants[0]:
                    pieces.append(low_slope @ low_weight)
                if wants[1]:
                    to_weight = _add_product(to_weight, low_slope, inputs if down == 1.0 else inputs * down)
                if wants[2]:
                    over_tokens = low_slope.sum(0, dtype=torch.float32)
                    to_bias = over_tokens if to_bias is None else to_bias.add_(over_tokens)
                del logits, low_slope  # before the next chunk's
            to_hidden = torch.cat(pieces) if len(pieces) > 1 else pieces[0] if pieces else None
        context.gradients = (to_hidden, to_weight, to_bias)
        context.scales = (1 / up, 1 / (up * down), 1 / up)
        context.likes = [(t.dtype, t.shape) if t is not None else None for t in (hidden, weight, bias)]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if context.gradients is None:
            raise RuntimeError("the gradient of a cross-entropy can be taken once; compute the loss again")
        gradients, context.gradients = context.gradients, None
        out: list[Tensor | None] = []
        for wanted, stored, scale, like in zip(context.needs_input_grad, gradients, context.scales, context.likes, strict=False):
            if not wanted:
                out.append(None)
            elif stored is None:  # no label at all
                out.append(torch.zeros(like[1], dtype=like[0], device=gradient.device))
            else:
                out.append(stored.float().mul_(gradient * scale).to(like[0]))
        return *out, None, None, None, None, None


def slopes(logits: Tensor, targets: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of `targets` (t, 1) that count, fp32; its gradient (t, V) times `scale`, of the logits' dtype."""
    slope = logits.softmax(-1, dtype=torch.float32)
    losses = _losses(logits, targets, slope)
    slope.scatter_add_(1, targets, slope.new_full(targets.shape, -1.0))  # softmax minus one-hot
    if mask is not None:
        slope.mul_((mask * scale)[:, None])
    elif scale != 1.0:
        slope.mul_(scale)
    return _summed(losses, mask), slope.to(logits.dtype)


def slopes_of_one_pass(logits: Tensor, targets: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """What `slopes` computes, as a compiler makes one kernel of it, whose fp32 values never go to memory."""
    scores = logits.float()
    exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
    total = exponentials.sum(-1, keepdim=True)
    losses = (total.log() + scores.amax(-1, keepdim=True) - scores.gather(1, targets))[:, 0]
    one_hot = torch.arange(scores.shape[1], device=scores.device) == targets
    weights = scale if mask is None else (mask * scale)[:, None]
    slope = (exponentials / total - one_hot.float()) * weights
    return _summed(losses, mask), slope.to(logits.dtype)


def _losses(logits: Tensor, targets: Tensor, probabilities: Tensor) -> Tensor:
    # log p = x - max x + log(max p): the largest p is at least 1/V, a label's own may be too small for a logarithm
    return logits.amax(-1).float() - logits.gather(1, targets)[:, 0].float() - probabilities.amax(-1).log()


def _summed(losses: Tensor, mask: Tensor | None) -> Tensor:
    return (losses if mask is None else losses * mask).sum()


_slopes_at_once = torch.compile(slopes_of_one_pass)


def _add_product(total: Tensor | None, slope: Tensor, inputs: Tensor) -> Tensor:
    """`total` (V, d) plus slope (c, V) transposed times inputs (c, d); fp32 but for the first product."""
    if total is None:
        return slope.T @ inputs
    total = total.float()
    return total.addmm_(slope.T, inputs) if slope.dtype == torch.float32 else total.add_(slope.T @ inputs)


class CrossEntropySum(torch.autograd.Function):
    """Cross-entropy summed over the labels where a mask is true, from fp32 logits (n, V), labels (n,) and mask (n,).

    Keeps one (n, V) array and turns it into the gradient, softmax minus one-hot, in place; torch's own makes two more, and a small
    model's step takes 6 to 10% longer with it (benchmarks/README.md).
    """

    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        log_probs = logits.log_softmax(-1)
        context.save_for_backward(log_probs, labels, mask)
        return -(log_probs.gather(1, labels[:, None])[:, 0] * mask).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        log_probs, labels, mask = context.saved_tensors
        out = log_probs.exp_()
        out.scatter_add_(1, labels[:, None], torch.full_like(labels, -1, dtype=out.dtype)[:, None])
        return out.mul_(gradient * mask[:, None]), None, None
