"""Which labels of a row count in the loss: where mitigations that leave labels out come in.

A label mask is a pure function of rows, as they are with everything inserted, and of their numbers. It is part of the stream, so it
is the same for every way of sharing out a step and every restart, the ledger's digests cover it and the audit makes it again; a
step's loss is divided by the labels that it leaves in the whole global batch. Another mask is one more function and one more kind
of `train.loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from configs.schema import Loss
from inject.permutation import mix

# tokens int64 (n, S + 1), row numbers int64 (n,) -> bool (n, S): which of tokens[:, 1:] count
LabelMask = Callable[[np.ndarray, np.ndarray], np.ndarray]

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd; SplitMix64 steps by it
START = np.uint64(0x243F6A8885A308D3)  # digits of pi; not 0, so that no tokens make a hash of 0
NO_TOKEN = np.uint64(2**64 - 1)  # stands before a row's first token


def label_mask(loss: Loss, seed: int) -> LabelMask:
    """The mask that a loss asks for; `seed` is that of the random one."""
    if loss.kind == "goldfish":
        return partial(goldfish_labels, k=loss.k, context=loss.context)
    if loss.kind == "random":
        return partial(random_labels, k=loss.k, seed=seed)
    return every_label


def every_label(tokens: np.ndarray, g: np.ndarray) -> np.ndarray:
    """All labels of rows `tokens` (n, S + 1), bool (n, S)."""
    return np.ones((len(tokens), tokens.shape[1] - 1), bool)


def goldfish_labels(tokens: np.ndarray, g: np.ndarray, k: int, context: int) -> np.ndarray:
    """The labels of the goldfish loss, of rows `tokens` int64 (n, S + 1), bool (n, S), whatever the rows' numbers are.

    A label is left out where the hash of the `context` tokens before it, the label not among them, falls in the lowest 1/k of its
    range (Hans et al. 2024, arXiv:2406.10209). Wherever a passage stands, the same of its labels are left out, once `context` of
    its own tokens precede them. Near a row's start, places before it count as a token that there is not.
    """
    return context_hashes(tokens, context) >= _lowest(k)


def random_labels(tokens: np.ndarray, g: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The control: every label of rows `g` (n,) is left out with probability 1/k, drawn by (seed, row, position), bool (n, S).

    Copies of a passage have other labels left out each time, so all of it is learned in the end.
    """
    rows = mix(g.astype(np.uint64) + mix(np.asarray([seed], np.uint64)))
    draws = mix(rows[:, None] + np.arange(1, tokens.shape[1], dtype=np.uint64) * MULTIPLIER)
    return draws >= _lowest(k)


def context_hashes(tokens: np.ndarray, context: int) -> np.ndarray:
    """A hash of the `context` tokens before each label of rows `tokens` int64 (n, S + 1), in their order, uint64 (n, S).

    h = START, then h = (h + token) x MULTIPLIER for one token after the other, modulo 2^64, and in the end SplitMix64's mixer.
    """
    count, length = len(tokens), tokens.shape[1] - 1
    padded = np.full((count, context - 1 + length), NO_TOKEN)
    padded[:, context - 1 :] = tokens[:, :-1]
    hashes = np.full((count, length), START)
    for place in range(context):
        hashes += padded[:, place : place + length]
        hashes *= MULTIPLIER
    return mix(hashes)


def _lowest(k: int) -> np.uint64:
    """Where the lowest 1/k of the hashes' range ends."""
    return np.uint64(2**64 // k)
