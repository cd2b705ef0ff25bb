"""Approximate extraction: how much a continuation resembles the text it was to be, where verbatim metrics see only a miss.

Sequences are of token ids, each (n,) for any n > 0; every measure lies in [0, 1], is 1 if and only if both are equal, and raises
`DataError` if one is empty. Ippolito et al. (2023, arXiv:2210.17546) call a suffix approximately memorized if the BLEU of its
greedy continuation exceeds 0.75.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp, log
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike
from rapidfuzz.distance import LCSseq, Levenshtein

from configs.errors import DataError, RecipeError


def edit_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """1 - d / max(len(a), len(b)), where d is the Levenshtein distance: insertions, deletions and substitutions cost 1 each.

    >>> edit_similarity([1, 2, 3, 4], [1, 3, 4, 5])
    0.5
    """
    return float(Levenshtein.normalized_similarity(_tokens(a), _tokens(b)))


def rouge_l(a: ArrayLike, b: ArrayLike) -> float:
    """ROUGE-L F1 (Lin 2004, ROUGE): 2 l / (len(a) + len(b)), where l is the length of a longest common subsequence.

    With precision l / len(a) and recall l / len(b) this is their harmonic mean.

    >>> rouge_l([1, 2, 3, 4], [1, 3, 4, 5])
    0.75
    """
    a, b = _tokens(a), _tokens(b)
    return 2 * LCSseq.similarity(a, b) / (len(a) + len(b))


def bleu(candidate: ArrayLike, reference: ArrayLike, order: int = 4) -> float:
    """Sentence BLEU of one candidate against one reference (Papineni et al. 2002), as sacrebleu computes it by default.

    exp(min(0, 1 - len(reference) / len(candidate))) times the geometric mean of the clipped precisions of n-grams, n = 1 to
    `order`. Orders that the candidate is too short for are left out, so that a short text can be copied in full. The i-th order
    without a match counts 2^-i matches (method 3 of Chen & Cherry 2014, NIST's smoothing), which matters only far below the
    0.75 of Ippolito et al.; without a token in common it is 0. `RecipeError` if `order` is below 1.

    >>> round(bleu([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 9]), 4)  # (5/6 * 4/5 * 3/4 * 2/3) ** (1/4)
    0.7598
    """
    if order < 1:
        raise RecipeError(f"BLEU counts n-grams of up to 1 token or more, not {order}")
    given, wanted = _tokens(candidate), _tokens(reference)
    if not set(given) & set(wanted):
        return 0.0
    log_precisions, unmatched = [], 0
    for n in range(1, min(order, len(given)) + 1):
        ngrams = _ngrams(given, n)
        matches = float((ngrams & _ngrams(wanted, n)).total())
        if not matches:
            unmatched += 1
            matches = 2.0**-unmatched
        log_precisions.append(log(matches / ngrams.total()))
    return exp(min(0, 1 - len(wanted) / len(given)) + fmean(log_precisions))


def _ngrams(tokens: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _tokens(sequence: ArrayLike) -> list[int]:
    tokens: list[int] = np.asarray(sequence).tolist()
    if not tokens:
        raise DataError("a text without tokens resembles nothing")
    return tokens
