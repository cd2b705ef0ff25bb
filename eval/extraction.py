"""Extraction: does a model emit an inserted target, how probable is it, and how does it rank among what it could have been?

Arrays describe one text under one teacher-forced pass: entry t belongs to token t given all tokens before it.
"""

from __future__ import annotations

from math import log2

import numpy as np
from numpy.typing import ArrayLike

from configs.errors import DataError


def extracted(argmax: ArrayLike, tokens: ArrayLike, target: slice) -> bool:
    """Whether greedy decoding from all tokens before `target` emits it (k-extractable: Carlini et al. 2023, arXiv:2202.07646).

    `argmax` and `tokens` are (T,) token ids. No generation is needed: greedy decoding emits the target if and only if
    the argmax under teacher forcing is the token at each of its positions. By induction: as long as every token before
    position t was emitted as it is in the text, decoding has the context that teacher forcing has at t, so it emits
    argmax[t]; hence it goes on along the text while they match, and leaves it at the first that does not. `DataError`
    if the arrays' lengths differ or the target is empty or beyond them.
    """
    argmax, tokens = np.asarray(argmax), np.asarray(tokens)
    if len(argmax) != len(tokens):
        raise DataError(f"argmax and tokens must be of the same text, but have {len(argmax)} and {len(tokens)} entries")
    _check(target, len(tokens))
    return bool(np.array_equal(argmax[target], tokens[target]))


def target_log_prob(log_prob: ArrayLike, target: slice) -> tuple[float, float]:
    """The target's log-probability given all before it, ln p(target | prompt), and its mean per token, both in nats.

    `log_prob` is (T,) in nats. `DataError` if the target is empty or beyond the array, or a value is NaN.
    """
    log_probs = np.asarray(log_prob, dtype=float)  # tables hold float32; sums are taken in float64
    _check(target, len(log_probs))
    total = float(log_probs[target].sum())
    if np.isnan(total):
        raise DataError("a target's log-probability is NaN")
    return total, total / (target.stop - target.start)


def exposure(log_probs_of_space: ArrayLike, secret_index: int) -> float:
    """log2 |R| - log2 rank of the secret, in bits (Carlini et al. 2019, The Secret Sharer, arXiv:1802.08232).

    `log_probs_of_space` are the log-probabilities, (|R|,), of everything the secret could have been, itself included;
    the base of the logarithm does not matter. rank = 1 + the number more probable + half the number as probable, other
    than itself: log2 |R| bits for the most probable, 0 for the least, about 1 where all are as probable.
    `DataError` if a value is NaN or the index is not in the space.

    >>> exposure([-3.0, -1.0, -2.0, -4.0], 1)
    2.0
    """
    space = np.asarray(log_probs_of_space, dtype=float)
    if not 0 <= secret_index < len(space):
        raise DataError(f"the secret is number {secret_index} of a space of {len(space)}")
    if np.isnan(space).any():
        raise DataError(f"{int(np.isnan(space).sum())} of the {len(space)} log-probabilities of a secret's space are NaN")
    secret = space[secret_index]
    rank = 1 + np.count_nonzero(space > secret) + 0.5 * (np.count_nonzero(space == secret) - 1)
    return log2(len(space)) - log2(rank)


def _check(target: slice, length: int) -> None:
    """A slice beyond an array is cut in silence, and every claim holds of no tokens: both would look like extraction."""
    if not 0 <= target.start < target.stop <= length:
        raise DataError(f"the target, tokens [{target.start}, {target.stop}), is empty or beyond the text's {length} tokens")
