"""The logit lens (nostalgebraist 2020): what a model would say if its blocks ended early, at each of them.

The stream after a block goes through the final norm and the head as if it were the last: softmax(W_U LN_f(h_l)). REMIX
(arXiv:2411.07175) asks so from which layer on a memorized answer's first token is the most probable, and how the facts spread over
layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2, nan
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from configs.errors import DataError
from eval.forward import Forward, batches, check_numbers
from train.model import transformer_blocks
from train.objective import evaluation
from train.rows import padded

Hook = Callable[[torch.nn.Module, Any, Any], None]


class LogitLens:
    """A causal language model, whose final norm has been found and checked.

    DataError where the stream after the last block, through what the model calls after it and the head, isn't the model's logits:
    then a lens on other blocks would not be the model's, either.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.forward, self.blocks = Forward(model), transformer_blocks(model)
        if not (self.forward.linear and self.blocks):
            raise _unknown(model)
        called: list[torch.nn.Module] = []
        streams: list[torch.Tensor] = []

        def remember(module: torch.nn.Module, _: Any, output: Any) -> None:
            if module is self.blocks[-1]:
                streams.append(_stream(output))
            elif streams:
                called.append(module)

        with evaluation(model), torch.inference_mode(), _hooked([*_beside(model, self.blocks[-1]), self.blocks[-1]], remember):
            final, _ = self.forward.states(torch.arange(4)[None] % self.forward.vocabulary)
        self.norm = called
        with evaluation(model), torch.inference_mode():
            made = self._normed(streams[-1])
        tolerance = torch.finfo(final.dtype).eps ** 0.5
        if made.shape != final.shape or not torch.allclose(made, final, rtol=tolerance, atol=tolerance):
            raise _unknown(model)

    def _normed(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., d) through what the model calls after its last block: its final norm, as a rule."""
        for module in self.norm:
            states = module(states)
        return states

    @torch.inference_mode()
    def read(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int], batch_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """At each of the L blocks, the probability that `tokens[i]` comes after `prompts[i]`, (n, L) float64, and whether no token
        is more probable, (n, L) bool.

        Prompts of similar length share a pass, padded on the right: under a causal mask, padding reaches nothing that is read.
        DataError for a prompt without tokens, or logits that are not numbers.
        """
        if any(not len(prompt) for prompt in prompts):
            raise DataError("a prompt has no tokens, after which nothing can be read")
        probabilities = np.empty((len(prompts), len(self.blocks)))
        top = np.empty((len(prompts), len(self.blocks)), bool)
        for batch in batches([len(prompt) for prompt in prompts], batch_tokens):
            ends = torch.tensor([len(prompts[i]) - 1 for i in batch], device=self.forward.model.device)
            streams: list[torch.Tensor] = []

            def keep(_: torch.nn.Module, __: Any, output: Any, ends: torch.Tensor = ends, into: list = streams) -> None:
                stream = _stream(output)
                into.append(stream[torch.arange(len(ends), device=ends.device), ends])

            with _hooked(self.blocks, keep):
                self.forward.states(padded([prompts[i] for i in batch]))
            states = self._normed(torch.stack(streams, dim=1)).flatten(0, 1)  # (n L, d), the blocks of a prompt together
            wanted = torch.tensor([tokens[i] for i in batch], device=states.device).repeat_interleave(len(self.blocks))
            found = [_chances(logits, wanted[part]) for part, logits in self.forward.logits_in_parts(states)]
            log_probs, most = (torch.cat(column).view(len(batch), -1) for column in zip(*found, strict=True))
            check_numbers(log_probs)
            probabilities[batch], top[batch] = log_probs.double().exp().cpu().numpy(), most.cpu().numpy()
        return probabilities, top


def _chances(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each token (t,) under logits (t, V), and whether no other is more probable."""
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return chosen - logits.logsumexp(-1), chosen == logits.amax(-1)


def _stream(output: Any) -> torch.Tensor:
    """The hidden states (n, T, d) among what a block returns."""
    stream: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def _beside(model: PreTrainedModel, block: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules beside the list of blocks that holds `block`: the norm after it is among them."""
    for parent in model.modules():
        children = list(parent.children())
        if any(isinstance(child, torch.nn.ModuleList) and block in list(child) for child in children):
            return [child for child in children if not isinstance(child, torch.nn.ModuleList)]
    return []


@contextmanager
def _hooked(modules: Sequence[torch.nn.Module], hook: Hook) -> Iterator[None]:
    """Within the block, `hook` is called with what each of the modules returns."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unknown(model: PreTrainedModel) -> DataError:
    return DataError(
        f"the logit lens doesn't know {model.config.model_type}: its logits aren't its head and final norm of the stream after the "
        "last block"
    )


# ------------------------------------------------------------------------------------------------ summaries


def first_layers(top: np.ndarray) -> list[int | None]:
    """The first layer, from 1, at which each answer is the most probable; None where it is at none. `top`: (n, L) bool.

    >>> first_layers(np.array([[False, True, True], [False, False, False]]))
    [2, None]
    """
    return [int(row.argmax()) + 1 if row.any() else None for row in np.asarray(top, bool)]


@dataclass(frozen=True)
class Depth:
    """Where in a model facts appear."""

    mean: float  # of their first layers
    layers: int  # distinct first layers
    entropy: float  # of the distribution of first layers, bits
    n: int  # facts


def depth(first: Sequence[int]) -> Depth:
    """The mean of facts' first layers, and how they spread.

    >>> depth([2, 2, 4, 4])
    Depth(mean=3.0, layers=2, entropy=1.0, n=4)
    """
    counts, n = Counter(first), len(first)
    if not n:
        return Depth(nan, 0, nan, 0)
    entropy = sum(count / n * log2(n / count) for count in counts.values())
    return Depth(sum(first) / n, len(counts), entropy, n)
