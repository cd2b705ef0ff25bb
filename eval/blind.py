"""The blind baseline: can members be told from non-members by their words alone, without any model?

Where they can, an attack that does as well has shown nothing about memorization (Das et al. 2024, arXiv:2406.16201; Meeus et
al. 2024, arXiv:2406.17975). Where items are assigned at random they cannot: this checks it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata

from configs.errors import DataError, RecipeError

Floats = NDArray[np.float64]
FOLDS = 5
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Blind:
    """Scores (n,), higher = member, their AUC over groups within strata, and the one-sided p-value of that AUC."""

    scores: Floats
    auc: float
    p_value: float


def confounded(p_value: float) -> bool:
    """Whether the words betray members, at p < 0.01: then no AUC of these texts is evidence of memorization."""
    return p_value < SIGNIFICANCE


def blind_baseline(
    texts: Sequence[str], member: ArrayLike, groups: ArrayLike, strata: ArrayLike, permutations: int = 999, seed: int = 0
) -> Blind:
    """A ridge regression of membership on the words that a text has, cross-validated over groups, with a permutation test.

    `member` (bool), `groups` and `strata` label the n texts. A group's texts are one document, as it was assigned whole. Words and
    labels are taken about the mean of their stratum in the training folds, so what tells strata apart plays no part.
    Predictions are linear in the labels: the matrix that gives them is made once, and labels permuted between the groups of a
    stratum cost a product each. p = (1 + permutations with an AUC as high) / (1 + permutations).

    Takes O(groups^3): a second for 600. `DataError` if no stratum has both classes, a group lies in two strata or classes, lengths
    differ or a text is blank; `RecipeError` with too few permutations for p < 0.01.
    """
    if 1 / (1 + permutations) >= SIGNIFICANCE:
        raise RecipeError(f"{permutations} permutations cannot give p < {SIGNIFICANCE}; take 100 or more")
    if blank := [number for number, text in enumerate(texts) if not text.strip()]:
        raise DataError(f"text {blank[0]} is blank ({len(blank)} of {len(texts)} are)")
    if np.asarray(member).dtype != bool:
        raise DataError(f"membership must be bool, not {np.asarray(member).dtype}")
    group, first = _codes(groups, "groups", len(texts))
    inside, stratum = (_of_groups(of, name, group, first) for of, name in ((member, "membership"), (strata, "strata")))

    random = np.random.default_rng(seed)
    labels = np.repeat(inside[:, None].astype(float), 1 + permutations, axis=1)  # (groups, 1 + permutations), the true ones first
    for label in np.unique(stratum):
        own = stratum == label
        labels[own, 1:] = random.permuted(labels[own, 1:], axis=0)
    predictions = _predictor(_shared_words(texts, group), stratum, random) @ labels
    areas = _areas(predictions.round(9), labels, stratum)  # equal documents are equal, whatever the rounding
    return Blind(predictions[group, 0], float(areas[0]), float((areas >= areas[0]).mean()))


def _shared_words(texts: Sequence[str], group: NDArray[np.intp]) -> Floats:
    """How many different words two groups share, (groups, groups): the inner products of their bags of words."""
    numbers: dict[str, int] = {}
    seen = {
        (g, numbers.setdefault(word, len(numbers)))
        for g, text in zip(group.tolist(), texts, strict=True)
        for word in re.findall(r"\w+", text.lower())
    }
    row, column = np.array(sorted(seen), dtype=np.intp).reshape(-1, 2).T
    words = csr_array((np.ones(len(row)), (row, column)), shape=(group.max() + 1, max(1, len(numbers))))
    return (words @ words.T).toarray()


def _predictor(products: Floats, stratum: NDArray[np.intp], random: np.random.Generator) -> Floats:
    """The matrix H for which H @ labels are out-of-fold predictions, (groups, groups); it knows nothing of the labels.

    In a fold, with K the kernel of the centred documents and T those to learn from: K_FT (K_TT + lambda I)^-1 C_T, where lambda
    is the mean of K_TT's diagonal. Each stratum is dealt to the folds in random order.
    """
    n = len(products)
    shuffled = random.permutation(n)
    fold = np.empty(n, dtype=np.intp)
    fold[shuffled[np.argsort(stratum[shuffled], kind="stable")]] = np.arange(n) % FOLDS
    alike = stratum[:, None] == stratum
    predictor = np.zeros((n, n))
    for held in range(min(FOLDS, n)):
        test, train = np.flatnonzero(fold == held), np.flatnonzero(fold != held)
        twins = alike & (fold != held)
        centre = np.eye(n) - twins / np.maximum(twins.sum(axis=1, keepdims=True), 1)
        kernel = centre @ products @ centre.T
        learned = kernel[np.ix_(train, train)]
        ridge = float(np.trace(learned)) / max(1, len(train)) or 1.0  # all alike: nothing to learn
        weights = np.linalg.solve(learned + ridge * np.eye(len(train)), centre[np.ix_(train, train)])
        predictor[np.ix_(test, train)] = kernel[np.ix_(test, train)] @ weights
    return predictor


def _areas(scores: Floats, labels: Floats, stratum: NDArray[np.intp]) -> Floats:
    """The stratified AUC (eval/statistics.py) of each column of scores and labels, (columns,)."""
    won, pairs = np.zeros(labels.shape[1]), 0.0
    for label in np.unique(stratum):
        own = stratum == label
        m = labels[own, 0].sum()
        won += (rankdata(scores[own], axis=0) * labels[own]).sum(axis=0) - m * (m + 1) / 2
        pairs += m * (own.sum() - m)
    if pairs == 0:
        raise DataError("the blind baseline needs a stratum with members and non-members")
    return won / pairs


# ------------------------------------------------------------------------------------------------ arguments


def _codes(labels: ArrayLike, name: str, n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Labels of n texts as integers 0..k-1, and where each is first met."""
    array = np.asarray(labels).ravel()
    if len(array) != n or n == 0:
        raise DataError(f"{name} must label each of the texts, of which there are {n}, not {len(array)}")
    _, first, codes = np.unique(array, return_index=True, return_inverse=True)
    return codes, first


def _of_groups(labels: ArrayLike, name: str, group: NDArray[np.intp], first: NDArray[np.intp]) -> NDArray[np.intp]:
    """The label of each group, which its texts must share."""
    codes, _ = _codes(labels, name, len(group))
    if not np.array_equal(codes[first][group], codes):
        raise DataError(f"the texts of a group differ in {name}; a group is assigned whole")
    return codes[first]
