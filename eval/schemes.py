"""Sampling schemes: the distribution that tokens are drawn from once temperature, top-k and top-p have changed the model's."""

from __future__ import annotations

import torch

from configs.schema import Scheme


def scheme_name(scheme: Scheme) -> str:
    """As it is called in tables: what differs from plain sampling.

    >>> scheme_name(Scheme(top_k=40)), scheme_name(Scheme(temperature=0.8, top_p=0.9)), scheme_name(Scheme())
    ('top_k=40', 'temperature=0.8,top_p=0.9', 'temperature=1')
    """
    parts = {"temperature": scheme.temperature, "top_k": scheme.top_k, "top_p": scheme.top_p}
    told = [f"{name}={value:g}" for name, value in parts.items() if value != getattr(Scheme(), name)]
    return ",".join(told) or "temperature=1"


def reshape(logits: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Logits (..., V) fp32 under a scheme, -inf where a token can't be drawn: temperature, then top-k, then top-p.

    As Hugging Face's warpers, in their order: of the k-th largest logit all ties are kept; top-p keeps the fewest tokens, in order
    of probability, that together have at least p, and at least one.
    """
    scores = logits / scheme.temperature
    if scheme.top_k:
        least = scores.topk(min(scheme.top_k, scores.shape[-1])).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if scheme.top_p < 1:
        ascending, order = scores.sort(-1)
        left_out = ascending.softmax(-1).cumsum(-1) <= 1 - scheme.top_p
        left_out[..., -1] = False
        scores = scores.masked_fill(left_out.scatter(-1, order, left_out), -torch.inf)
    return scores


def scheme_log_probs(logits: torch.Tensor, targets: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """log p of each target under a scheme, nats, -inf where it can't be drawn: logits (t, V) fp32, targets (t,); (t,)."""
    scores = reshape(logits, scheme)
    return scores.gather(-1, targets[:, None])[:, 0] - scores.logsumexp(-1)
