"""A causal language model's forward pass, as everything that is scored or decoded uses it: states first, logits where wanted.

Most of what a pass costs beyond the blocks is the vocabulary: its logits are made at the places that are asked for, a chunk at a
time, and in fp32 whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel

from configs.errors import DataError
from train.objective import logits_are_linear

LOGITS_PROCESSOR, LOGITS_ACCELERATOR = 2**20, 2**27  # made at a time
CACHED_LOGITS = 2**19  # that a processor is handed at a time: 2 MiB of fp32
TOKENS_LEAST = 512  # for 64, to read the head's weights takes as long as to multiply with them
SMALL = 5_000_000  # parameters of a model that gains little from a second processor thread, and on a busy machine loses much
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Forward:
    """A model, and whether its logits are one linear layer of its hidden states, so that they need not all be made."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.linear = logits_are_linear(model)
        head = model.get_output_embeddings()
        self.vocabulary = int(head.out_features if self.linear else model.config.get_text_config().vocab_size)
        most, part = (LOGITS_PROCESSOR, CACHED_LOGITS) if model.device.type == "cpu" else (LOGITS_ACCELERATOR, LOGITS_ACCELERATOR)
        self.made_at_once = max(TOKENS_LEAST, most // self.vocabulary)  # tokens whose logits exist together
        self.part = max(1, part // self.vocabulary)

    def states(self, ids: torch.Tensor, cache: Cache | None = None, keep: bool = False) -> tuple[torch.Tensor, Cache | None]:
        """What logits are made of (n, T, d or V), for ids (n, T) after those of `cache`; and the cache, if it is to be kept."""
        made = (self.model.base_model if self.linear else self.model)(
            input_ids=ids.to(self.model.device), past_key_values=cache, use_cache=keep
        )
        return (made.last_hidden_state if self.linear else made.logits), (made.past_key_values if keep else None)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) fp32 of states (..., d or V)."""
        return (self.model.get_output_embeddings()(states) if self.linear else states).float()

    def logits_in_parts(self, states: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """States (t, d or V) a part at a time: where it is, and its logits (part, V) fp32, which are the caller's until the next.

        Parts are small enough for a processor's cache, but made many at once, and in the same memory: to be given new takes a
        processor half as long as to fill it.
        """
        memory = states.new_empty((min(self.made_at_once, len(states)), self.vocabulary)) if self.linear else None
        for start in range(0, len(states), self.made_at_once):
            own = states[start : start + self.made_at_once]
            made = own if memory is None else self._multiplied(own, memory[: len(own)])
            for first in range(0, len(own), self.part):
                logits = made[first : first + self.part].float()
                yield slice(start + first, start + first + len(logits)), logits

    def _multiplied(self, states: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Logits (t, V) of states (t, d), written to `out`."""
        head = self.model.get_output_embeddings()
        if head.bias is None:
            return torch.mm(states, head.weight.t(), out=out)
        return torch.addmm(head.bias, states, head.weight.t(), out=out)


def load_model(folder: Path, precision: str = "fp32", trust_remote_code: bool = False, pickles: bool = False) -> PreTrainedModel:
    """A model's folder, ready to be scored on the GPU if there is one. Its weights come from safetensors, unless `pickles`, which
    can hold any program, are asked for; code that comes with it is not run unless `trust_remote_code`.
    """
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=DTYPES[precision], use_safetensors=None if pickles else True, trust_remote_code=trust_remote_code
    )
    if model.num_parameters() < SMALL:
        torch.set_num_threads(1)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    return model.eval()


def check_numbers(values: torch.Tensor) -> None:
    """DataError where what was made of logits is NaN."""
    if values.isnan().any():
        raise DataError(
            "the model's log-probabilities are NaN: its weights are damaged, or its values too large for its precision "
            "(eval.precision=fp32 has the widest range)"
        )


def batches(lengths: Sequence[int], tokens_at_once: int) -> Iterator[list[int]]:
    """Indices of sequences in order of length, cut so that each batch, padded to its longest, holds few enough tokens."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > tokens_at_once:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
