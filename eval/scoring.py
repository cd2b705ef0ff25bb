"""Score a model on texts: one teacher-forced pass gives a table of tokens, of which every metric is a pure function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

LOGITS = 2**25  # most logits held at once


@dataclass(frozen=True)
class TokenScores:
    """Per-token scores of one text, each (tokens,) and aligned with its tokens; NaN (-1) where a token has no context."""

    log_prob: np.ndarray  # float32, nats
    mean: np.ndarray  # float32, of log p over the vocabulary under p, nats
    deviation: np.ndarray  # float32
    argmax: np.ndarray  # int32
    rank: np.ndarray  # int32, tokens that are more probable


@torch.inference_mode()
def score_tokens(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], context: Sequence[int], batch_tokens: int
) -> Iterator[tuple[int, TokenScores]]:
    """Scores of each text's tokens after `context`, as (index of the text, scores), in order of length.

    Texts of similar length share a forward pass, padded on the right: under a causal mask, padding reaches no score.
    Log-probabilities come from an fp32 log-softmax whatever the model's dtype.
    """
    device = model.device
    lead = len(context)
    tokens_at_once = max(1, min(batch_tokens, LOGITS // model.config.vocab_size))
    for batch in _batches([lead + len(text) for text in texts], tokens_at_once):
        longest = max(2, lead + max(len(texts[i]) for i in batch))  # a forward pass needs a token
        padded = torch.zeros((len(batch), longest), dtype=torch.long)
        for slot, i in enumerate(batch):
            padded[slot, : lead + len(texts[i])] = torch.tensor([*context, *texts[i]])
        padded = padded.to(device)
        logits = model(input_ids=padded[:, :-1], use_cache=False).logits.float()
        scores = [part.cpu().numpy() for part in _token_statistics(logits, padded[:, 1:])]
        for slot, i in enumerate(batch):
            yield i, TokenScores(*(_align(part[slot], lead, len(texts[i])) for part in scores))


def _batches(lengths: Sequence[int], tokens_at_once: int) -> Iterator[list[int]]:
    """Indices of texts in order of length, cut so that each batch, padded to its longest, holds few enough tokens."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > tokens_at_once:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _token_statistics(logits: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """log p of each target, mean and deviation of log p under p (two passes, so never of a negative), argmax and rank.

    `logits` (n, T, V) fp32, `targets` (n, T); each result (n, T).
    """
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    chosen = log_probs.gather(-1, targets[..., None])
    mean = (probs * log_probs).sum(-1, keepdim=True)
    deviation = (probs * (log_probs - mean).square()).sum(-1).sqrt()
    rank = (log_probs > chosen).sum(-1)
    return [chosen[..., 0], mean[..., 0], deviation, log_probs.argmax(-1).int(), rank.int()]


def _align(scores: np.ndarray, lead: int, tokens: int) -> np.ndarray:
    """Scores of a text's own tokens, of the scores of all that follow the first token of context and text."""
    own = scores[max(0, lead - 1) : lead + tokens - 1]
    if lead:
        return own
    return np.concatenate([np.asarray([np.nan if scores.dtype.kind == "f" else -1], scores.dtype), own])


@torch.inference_mode()
def score_space(model: PreTrainedModel, prefix: Sequence[int], alphabet: Sequence[int], length: int) -> np.ndarray:
    """log p of every sequence of `length` symbols after `prefix`, nats, float64 (len(alphabet) ** length,).

    The sequences form a trie: each level is one forward pass of its new symbols over the key-value cache of its prefixes, so
    10^4 candidates of four digits cost 1,111 tokens. Sequences are in lexicographic order of symbol numbers.
    """
    device = model.device
    symbols = torch.tensor(list(alphabet), device=device)
    out = model(input_ids=torch.tensor([list(prefix)], device=device), use_cache=True)
    log_probs = out.logits[:, -1].float().log_softmax(-1)[:, symbols].double()  # (1, symbols)
    cache = out.past_key_values
    for _ in range(length - 1):
        prefixes = log_probs.numel() // len(symbols)
        cache.batch_repeat_interleave(len(symbols))
        out = model(input_ids=symbols.repeat(prefixes)[:, None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        step = out.logits[:, -1].float().log_softmax(-1)[:, symbols].double()
        log_probs = log_probs.reshape(-1, 1) + step
    return log_probs.flatten().cpu().numpy()


@torch.inference_mode()
def continue_greedily(model: PreTrainedModel, prompt: Sequence[int], length: int) -> list[int]:
    """The `length` tokens of greedy decoding after a prompt."""
    ids = torch.tensor([list(prompt)], device=model.device)
    out, cache = [], None
    for _ in range(length):
        step = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        ids = step.logits[:, -1].argmax(-1)[:, None]
        out.append(int(ids))
    return out
