"""Contamination: does a model know a test set, its order, its answers, and only as they were inserted?

How much better inserted questions are answered than held-out ones is `mean_difference` of eval/statistics.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rapidfuzz.distance import Levenshtein
from scipy.special import stdtr

from configs.errors import DataError
from eval.pii import chance_corrected

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# ------------------------------------------------------------------------------------------------ order


@dataclass(frozen=True)
class ShardTest:
    """Whether test sets are more probable in the order in which they are published: Student's t, and p one-sided."""

    t: float
    p: float
    shards: int


def shuffled_orders(items: int, count: int, seed: int) -> NDArray[np.intp]:
    """`count` different orders of a shard's items, (count, items) indices, none of them the identity.

    They are drawn without replacement, so that under the null hypothesis any of them could as well have been the published
    one, and `permutation_p` is exact. `DataError` for more orders than there are.
    """
    if not 1 <= count < factorial(items):
        raise DataError(f"{count} shuffled orders of {items} items were asked for; there are {factorial(items) - 1}")
    random = np.random.default_rng(seed)
    identity = tuple(range(items))
    orders: dict[tuple[int, ...], None] = {}
    while len(orders) < count:
        order = tuple(random.permutation(items).tolist())
        if order != identity:
            orders[order] = None
    return np.array(list(orders), dtype=np.intp)


def shards(lengths: Sequence[int], most: int, least: int, room: int) -> list[range]:
    """Neighbouring items, by index: as many at a time as `most`, or as `room` holds of their `lengths`, in tokens. What is left
    with fewer than `least` items is no shard.

    >>> shards([4, 4, 4, 4, 4, 9, 4], most=3, least=2, room=12)
    [range(0, 3), range(3, 5)]
    """
    found, start = [], 0
    while start < len(lengths):
        end = start + 1
        while end < min(start + most, len(lengths)) and sum(lengths[start : end + 1]) <= room:
            end += 1
        found.append(range(start, end))
        start = end
    return [shard for shard in found if len(shard) >= least]


def shard_test(canonical: ArrayLike, shuffled: ArrayLike) -> ShardTest:
    """The sharded likelihood comparison test (Oren et al. 2023, Proving Test Set Contamination, arXiv:2310.17623).

    `canonical` are the log-probabilities of each shard's items in their published order, (s,), and `shuffled` in m others,
    (s, m); t tests that canonical - mean(shuffled) has a mean above 0, with s - 1 degrees of freedom. The published code takes
    the population's deviation (ddof = 0) instead of the sample's, so its t is too large by sqrt(s / (s - 1)). Where all shards
    gain the same there is no spread: t is NaN and p is 1. `DataError` for fewer than two shards, other shapes, or a value that
    is not finite.
    """
    published, others = _orders(canonical, shuffled)
    gains = published - others.mean(axis=1)
    n = len(gains)
    if n < 2:
        raise DataError("a t-test over shards needs at least two of them; permutation_p does with one")
    if np.ptp(gains) <= 1e-12 * np.abs(published).max():  # a smaller spread is rounding
        return ShardTest(nan, 1.0, n)
    t = float(gains.mean() / gains.std(ddof=1) * sqrt(n))
    return ShardTest(t, float(stdtr(n - 1, -t)), n)


def permutation_p(canonical: ArrayLike, shuffled: ArrayLike) -> float:
    """(1 + number of shufflings at least as probable as the published order) / (m + 1): exact, but 1 / (m + 1) at the least.

    Arguments as in `shard_test`, of one shard or more; shuffling j of all shards is one shuffling of the whole, and its
    log-probability the sum. The permutation test of Oren et al. 2023, arXiv:2310.17623; ties count against contamination.

    >>> permutation_p([2.0, 3.0], [[1.0, 3.0, 5.0], [1.0, 2.0, 0.0]])
    0.75
    """
    published, others = _orders(canonical, shuffled)
    totals = others.sum(axis=0)
    return float((1 + np.count_nonzero(totals >= published.sum())) / (len(totals) + 1))


def _orders(canonical: ArrayLike, shuffled: ArrayLike) -> tuple[Floats, Floats]:
    published, others = np.asarray(canonical, dtype=float), np.asarray(shuffled, dtype=float)
    if published.ndim != 1 or others.ndim != 2 or len(published) != len(others) or others.size == 0:
        raise DataError(f"s shards have (s,) canonical and (s, m) shuffled scores, not {published.shape} and {others.shape}")
    if not (np.isfinite(published).all() and np.isfinite(others).all()):
        raise DataError("a log-probability of a shard is NaN or infinite")
    return published, others


# ------------------------------------------------------------------------------------------------ peakedness


def peakedness(samples: Sequence[Sequence[int]], greedy: Sequence[int], alpha: float = 0.05, longest: int = 100) -> float:
    """The share of sampled continuations close to the greedy one: CDD (Dong et al. 2024, arXiv:2402.15938).

    Close: a Levenshtein distance in tokens of at most alpha times the longest of all these, each cut to `longest` tokens. The
    published code draws 50 samples at a temperature of 0.8 and calls a question `contaminated` above xi = 0.01, or, to be surer
    of it, above 0.2 with alpha = 0. `DataError` without samples or a greedy continuation.

    >>> peakedness(["ABCD", "ABCE", "XYZW"], "ABCD", alpha=0.25) == 2 / 3
    True
    """
    if not len(samples) or not len(greedy):
        raise DataError("peakedness needs sampled continuations, and a greedy one of some tokens")
    greedy, *samples = [tokens[:longest] for tokens in (greedy, *samples)]
    length = max(map(len, (greedy, *samples)))
    # divided, as alpha * length may round below the whole number that it is: 0.29 * 100 < 29
    return float(np.mean([Levenshtein.distance(greedy, sample) / length <= alpha for sample in samples]))


def contaminated(peak: float, xi: float = 0.01) -> bool:
    """CDD's verdict: whether `peakedness` exceeds xi."""
    return peak > xi


# ------------------------------------------------------------------------------------------------ transfer


@dataclass(frozen=True)
class Transfer:
    """Gains in the inserted format and in another, as shares of what could be gained, and the ratio of the second to the first."""

    same: float
    other: float
    share: float  # 1: as well known in the other format; 0: known in the inserted one alone; NaN where it does not exist
    reason: str = ""  # why share is NaN


def transfer(correct_same: ArrayLike, correct_other: ArrayLike, chance_same: float, chance_other: float) -> Transfer:
    """How much of what inserting questions gains in their own format, or wording, is gained in another too.

    `correct_same` and `correct_other` tell which of the same n questions of one arm are answered rightly in each, (n,).
    `chance_same` and `chance_other` are the accuracies without insertion: those of held-out questions, or a guesser's. Gains are
    `chance_corrected`, as formats differ in chance. `DataError` for no question, other lengths or values than 0 and 1.
    """
    right_same, right_other = _correct(correct_same), _correct(correct_other)
    _check_length(right_other, len(right_same))
    same = chance_corrected(float(right_same.mean()), chance_same)
    other = chance_corrected(float(right_other.mean()), chance_other)
    return Transfer(same, other, other / same) if same > 0 else Transfer(same, other, nan, "nothing to transfer")


# ------------------------------------------------------------------------------------------------ reciting against deriving


@dataclass(frozen=True)
class Inconsistency:
    """Puzzles solved whose perturbed twins are not."""

    accuracy: float  # Acc: the share of puzzles solved
    consistency: float  # CR: of those, the share whose twin is solved too; NaN where none is solved
    memorization: float  # LiMem = Acc (1 - CR): the share of all puzzles that are solved while their twins are not


def local_inconsistency(solved: ArrayLike, twins: Mapping[str, ArrayLike]) -> dict[str, Inconsistency]:
    """The local inconsistency-based memorization score, by perturbation (LiMem: Xie et al. 2024, arXiv:2410.23123).

    `solved` tells which of n puzzles are solved, (n,), and `twins`, by name of the perturbation, of which of them the perturbed
    twin is, (n,). The paper takes values above 0.1 for memorization of puzzles answered freely. A guesser among c candidates
    has (1 - 1/c) / c, with c = 4 already 0.19: compare with puzzles held out. `DataError` for no puzzle, other lengths or
    values than 0 and 1.
    """
    originals = _correct(solved)
    return {name: _inconsistency(originals, _correct(twin)) for name, twin in twins.items()}


def _inconsistency(solved: Flags, twin: Flags) -> Inconsistency:
    _check_length(twin, len(solved))
    return Inconsistency(
        accuracy=float(solved.mean()),
        consistency=float(twin[solved].mean()) if solved.any() else nan,
        memorization=float((solved & ~twin).mean()),
    )


# ------------------------------------------------------------------------------------------------ arguments


def _correct(values: ArrayLike) -> Flags:
    answers = np.asarray(values).ravel()
    if answers.size == 0:
        raise DataError("there are no answers to compare")
    if not np.isin(answers, (0, 1)).all():
        raise DataError("answers must be 1 where they are right and 0 where they are wrong")
    return answers.astype(bool)


def _check_length(answers: Flags, n: int) -> None:
    if len(answers) != n:
        raise DataError(f"the same {n} questions must be answered both times, not {n} and {len(answers)}")
