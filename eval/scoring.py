"""Score a model on texts: one teacher-forced pass gives a table of tokens, of which every metric is a pure function.

Texts that begin alike share what they share: continuations of one prompt a key-value cache of it, candidates a trie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from math import log

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import Cache, PreTrainedModel

from configs.errors import DataError
from configs.schema import Scheme
from eval.forward import Forward, batches, check_numbers
from eval.schemes import scheme_log_probs
from train.rows import padded

TRIE_TOKENS = 2**18  # of prefixes whose keys and values exist at a time


@dataclass(frozen=True)
class TokenScores:
    """Per-token scores of one text, each (tokens,) and aligned with its tokens; NaN (-1) where a token has no context."""

    log_prob: np.ndarray  # float32, nats
    mean: np.ndarray  # float32, of log p over the vocabulary under p, nats
    deviation: np.ndarray  # float32
    argmax: np.ndarray  # int32
    rank: np.ndarray  # int32, tokens that are more probable
    schemes: list[np.ndarray] = field(default_factory=list)  # float32, log p under each requested sampling scheme, nats


@torch.inference_mode()
def score_tokens(
    model: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    contexts: Sequence[Sequence[int]],
    batch_tokens: int,
    schemes: Sequence[Scheme] = (),
) -> Iterator[tuple[int, TokenScores]]:
    """Scores of each text's tokens after its context, as (index of the text, scores), in order of length.

    `contexts`: the tokens before each text; one context is that of all. Texts of similar length share a forward pass, padded on
    the right: under a causal mask, padding reaches no score. Log-probabilities come from an fp32 log-softmax whatever the model's
    dtype. DataError for a text without tokens, or logits that are not numbers.
    """
    forward = Forward(model)
    contexts = list(contexts) * len(texts) if len(contexts) == 1 else contexts
    if empty := [i for i, text in enumerate(texts) if not len(text)]:
        raise DataError(f"text {empty[0]} has no tokens, so there is nothing to score")
    rows = [[*context, *text] for context, text in zip(contexts, texts, strict=True)]
    for batch in batches([len(row) for row in rows], batch_tokens):
        states, _ = forward.states(padded([rows[i][:-1] or rows[i] for i in batch]))  # a forward pass needs a token
        places = [slice(max(0, len(contexts[i]) - 1), len(rows[i]) - 1) for i in batch]  # what predicts each text's tokens
        chosen = torch.cat([states[slot, place] for slot, place in enumerate(places)])
        targets = [token for i, place in zip(batch, places, strict=True) for token in rows[i][place.start + 1 : place.stop + 1]]
        columns = _columns(forward, chosen, torch.tensor(targets, dtype=torch.long, device=chosen.device), schemes)
        start = 0
        for i, place in zip(batch, places, strict=True):
            end = start + place.stop - place.start
            own = [_align(column[start:end], len(texts[i])) for column in columns]
            yield i, TokenScores(own[0], own[1], own[2], own[3], own[4], own[5:])
            start = end


def _columns(forward: Forward, states: torch.Tensor, targets: torch.Tensor, schemes: Sequence[Scheme]) -> list[np.ndarray]:
    """The scores of targets (t,), each predicted by one of the states (t, d or V), as arrays (t,)."""
    parts = []
    for part, logits in forward.logits_in_parts(states):
        warped = [scheme_log_probs(logits, targets[part], scheme) for scheme in schemes]
        parts.append([*token_statistics(logits, targets[part]), *warped])
    if not parts:  # texts of one token without context
        return [np.empty(0, np.float32)] * 3 + [np.empty(0, np.int32)] * 2 + [np.empty(0, np.float32) for _ in schemes]
    return [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]


def token_statistics(logits: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """log p of each target, mean and deviation of log p under p (two passes, so never of a negative), argmax and rank.

    `logits` (t, V) fp32, which are overwritten, `targets` (t,); each result (t,). On a processor these passes over the vocabulary
    cost as much as a small model, so each is the cheapest that torch has: benchmarks/scoring.py.
    """
    chosen = logits.gather(-1, targets[:, None])
    buffer = torch.empty_like(logits)
    largest, argmax = _largest(logits, buffer)
    rank = torch.gt(logits, chosen, out=buffer).sum(-1).int()  # exact: fewer than 2^24
    logits -= largest[:, None]
    weights = torch.mul(logits, 1 / log(2), out=buffer).exp2_()  # p times their sum, which is at least 1
    total = weights.sum(-1)
    mean = torch.linalg.vecdot(weights, logits) / total
    logits -= mean[:, None]
    deviation = (torch.linalg.vecdot(weights.mul_(logits), logits) / total).sqrt()
    log_total = total.log()
    check_numbers(log_total)
    return [chosen[:, 0] - largest - log_total, mean - log_total, deviation, argmax.int(), rank]


def _largest(logits: torch.Tensor, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of (t, V), and its first place, (t,) each. A processor finds a maximum ten times faster than its place, which
    then is where a count down to the last is at its maximum.
    """
    if logits.device.type != "cpu":
        return tuple(logits.max(-1))
    largest = logits.amax(-1)
    countdown = torch.arange(logits.shape[1], 0, -1, dtype=logits.dtype)
    return largest, len(countdown) - torch.eq(logits, largest[:, None], out=buffer).mul_(countdown).amax(-1)


def _align(scores: np.ndarray, tokens: int) -> np.ndarray:
    """Scores of a text's tokens; without a context its first token has none."""
    missing = [np.nan if scores.dtype.kind == "f" else -1] * (tokens - len(scores))
    return np.concatenate([np.asarray(missing, scores.dtype), scores])


# ------------------------------------------------------------------------------------------------ shared prefixes


@torch.inference_mode()
def score_continuations(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]], batch_tokens: int
) -> list[list[np.ndarray]]:
    """log p of the tokens of every continuation of every prompt, nats, float32 (tokens,) each.

    A prompt goes through the model once, and its continuations over its key-value cache; prompts of one length share a pass. What
    a choice among candidates, a long context before many texts (ReCaLL), or a list of guesses costs is then hardly more than one
    of them. DataError for a prompt or a continuation without tokens.
    """
    if any(not len(prompt) for prompt in prompts) or any(not len(each) for own in continuations for each in own):
        raise DataError("a prompt or a continuation has no tokens: there is nothing to score after, or nothing to score")
    forward = Forward(model)
    scores: list[list[np.ndarray]] = [[np.empty(0)] * len(own) for own in continuations]
    for length in sorted({len(prompt) for prompt in prompts}):
        alike = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        for batch in batches([length + sum(map(len, continuations[i])) for i in alike], batch_tokens):
            chosen = [alike[each] for each in batch]
            states, cache = forward.states(padded([prompts[i] for i in chosen]), keep=True)
            cells = [(slot, i, j) for slot, i in enumerate(chosen) for j in range(len(continuations[i]))]
            for part in batches([length + len(continuations[i][j]) for _, i, j in cells], batch_tokens):
                own = [cells[each] for each in part]
                slots = torch.tensor([slot for slot, _, _ in own], device=states.device)
                tokens = [continuations[i][j] for _, i, j in own]
                for (_, i, j), log_probs in zip(own, _continue(forward, states[slots, -1], cache, slots, tokens), strict=True):
                    scores[i][j] = log_probs
    return scores


def _continue(
    forward: Forward, states: torch.Tensor, cache: Cache | None, slots: torch.Tensor, tokens: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """log p of the tokens of a continuation for each of the states (n, d or V) at a prompt's end, which `slots` of a cache hold."""
    places = [states[:, None]]
    if max(map(len, tokens)) > 1:
        followed, _ = forward.states(padded([each[:-1] or each for each in tokens]), branch(cache, slots), keep=True)
        places.append(followed)
    joined = torch.cat(places, dim=1)  # what predicts each token, and padding
    flat = torch.cat([joined[row, : len(each)] for row, each in enumerate(tokens)])
    targets = torch.tensor([token for each in tokens for token in each], dtype=torch.long, device=flat.device)
    ends = np.cumsum([len(each) for each in tokens])
    return np.split(_log_probs(forward, flat, torch.arange(len(flat), device=flat.device), targets), ends[:-1])


def _log_probs(forward: Forward, states: torch.Tensor, places: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """log p (t,) float32 of targets (t,), each predicted by the state (of n, d or V) at its place, (t,) in ascending order."""
    parts = []
    for part, logits in forward.logits_in_parts(states):
        first, last = torch.searchsorted(places, places.new_tensor([part.start, part.stop])).tolist()
        parts.append(logits.log_softmax(-1)[places[first:last] - part.start, targets[first:last]])
    check_numbers(log_probs := torch.cat(parts))
    return log_probs.cpu().numpy()


@torch.inference_mode()
def score_trie(model: PreTrainedModel, prefix: Sequence[int], candidates: ArrayLike, most_tokens: int = TRIE_TOKENS) -> np.ndarray:
    """log p of every candidate after `prefix`, nats, float64 (n,); `candidates` (n, length) token ids, all of one length.

    Candidates form a trie: what several begin with goes through the model once, over the key-value cache of what precedes it, and
    the last token of each is only looked up. 10^4 candidates of four digits cost 1,111 tokens instead of 40,000. Where a level has
    so many nodes that their caches would hold more than `most_tokens` tokens, it is walked in parts. DataError without a prefix.
    """
    tokens = np.asarray(candidates)
    if not len(prefix) or tokens.ndim != 2 or 0 in tokens.shape:
        raise DataError("candidates need a prefix to follow, and tokens, each as many as the others")
    forward = Forward(model)
    states, cache = forward.states(padded([prefix]), keep=True)
    scores = np.zeros(len(tokens))
    nodes_at_once = max(1, most_tokens // (len(prefix) + tokens.shape[1]))
    walk = Walk(forward, tokens, scores, nodes_at_once)
    walk.down(0, states[:, -1], cache, np.arange(len(tokens)), np.zeros(len(tokens), np.int64))
    return scores


@dataclass(frozen=True)
class Walk:
    """The walk over a trie of candidates, whose scores it adds up."""

    forward: Forward
    tokens: np.ndarray  # (n, length)
    scores: np.ndarray  # (n,)
    nodes_at_once: int

    def down(self, depth: int, states: torch.Tensor, cache: Cache | None, candidates: np.ndarray, nodes: np.ndarray) -> None:
        """From some nodes (states, cache) of a depth to all below; `candidates` are those that pass through, and their `nodes`."""
        device = states.device
        vocabulary = self.forward.vocabulary
        edges = nodes * vocabulary + self.tokens[candidates, depth]  # one number for a node and the token after it
        at, pairs = np.unique(edges, return_inverse=True)
        parents, targets = (torch.from_numpy(numbers).to(device) for numbers in np.divmod(at, vocabulary))
        self.scores[candidates] += _log_probs(self.forward, states, parents, targets).astype(np.float64)[pairs]
        if depth + 1 == self.tokens.shape[1]:
            return
        for start in range(0, len(at), self.nodes_at_once):
            part = slice(start, start + self.nodes_at_once)
            below = (pairs >= start) & (pairs < part.stop)
            followed, kept = self.forward.states(targets[part, None], branch(cache, parents[part]), keep=True)
            self.down(depth + 1, followed[:, -1], kept, candidates[below], pairs[below] - start)


def branch(cache: Cache | None, rows: torch.Tensor) -> Cache:
    """A cache of some rows of another, which stays as it is."""
    branched = copy(cache)
    assert branched is not None
    branched.layers = [copy(layer) for layer in branched.layers]
    branched.batch_select_indices(rows)
    return branched
