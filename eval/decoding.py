"""Decode: continue prompts token by token over a key-value cache, many at a time, greedily or by drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from configs.schema import Scheme
from eval.forward import Forward
from eval.schemes import reshape
from train.rows import padded

Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]  # the next tokens (n,) of n prompts, from logits (n, V) fp32


def greedy(logits: torch.Tensor, prompts: Sequence[int]) -> torch.Tensor:
    return logits.argmax(-1)


def drawn(scheme: Scheme, seed: int = 0) -> Choose:
    """Draw under a scheme. Every prompt has random numbers of its own, so what follows it depends neither on others nor on where
    the model is.
    """
    generators: dict[int, np.random.Generator] = {}

    def choose(logits: torch.Tensor, prompts: Sequence[int]) -> torch.Tensor:
        own = [generators.setdefault(i, np.random.default_rng([seed, i])) for i in prompts]
        cumulative = reshape(logits, scheme).double().softmax(-1).cumsum(-1)
        uniform = torch.tensor([[generator.random()] for generator in own], dtype=torch.float64).to(logits.device)
        return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]

    return choose


@torch.inference_mode()
def continue_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], lengths: Sequence[int], batch_tokens: int, choose: Choose = greedy
) -> list[list[int]]:
    """The `lengths` tokens that follow each prompt; prompts of one length are continued together, so that none is padded."""
    forward = Forward(model)
    continued: list[list[int]] = [[] for _ in prompts]
    for length in sorted({len(prompt) for prompt in prompts}):
        alike = sorted((i for i, prompt in enumerate(prompts) if len(prompt) == length), key=lambda i: lengths[i])
        while alike:
            at_once = max(1, batch_tokens // (length + lengths[alike[0]]))
            batch, alike = alike[:at_once], alike[at_once:]
            ids, cache = padded([prompts[i] for i in batch]), None
            for _ in range(max(lengths[i] for i in batch)):
                states, cache = forward.states(ids, cache, keep=True)
                ids = choose(forward.logits(states[:, -1]), batch)[:, None]
                for i, token in zip(batch, ids[:, 0].tolist(), strict=True):
                    continued[i].append(token)
    return [tokens[:length] for tokens, length in zip(continued, lengths, strict=True)]
