"""Dataset inference: was a model trained on a set of texts, as told by many weak attacks and many texts together?

Maini et al. 2024, arXiv:2406.06443. The held-out texts must be drawn as the suspect ones were, which random assignment sees to and
eval/blind.py checks: the test finds whatever tells the two sets apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from configs.errors import DataError

Floats = NDArray[np.float64]
TAIL = 0.025  # of each feature's values are beyond the limits on either side


@dataclass(frozen=True)
class Inference:
    """The one-sided p-value of "not trained on it", and the weight of each feature, (f,), per standard deviation."""

    p_value: float
    weights: Floats


def dataset_inference(suspect: ArrayLike, held_out: ArrayLike, seed: int = 0) -> Inference:
    """Learn on a random half of both sets to tell them apart, and test on the other half whether suspects score higher.

    `suspect` (n, f) and `held_out` (m, f) are attack scores, one row for each group (rows must be independent), with f at most
    the rows learned from. Features are clipped to the middle 95% of the values of the half that is learned from and scaled by
    their deviation there; the combination is the least-squares fit of smallest norm to membership. `DataError` on fewer than
    4 rows, columns that differ, a value that is NaN or infinite, or scores that do not vary.
    """
    sets = _features(suspect, "suspect"), _features(held_out, "held-out")
    if sets[0].shape[1] != sets[1].shape[1]:
        raise DataError(f"suspect texts have {sets[0].shape[1]} features, held-out texts {sets[1].shape[1]}")
    random = np.random.default_rng(seed)
    halves = [np.array_split(random.permutation(features), 2) for features in sets]
    known = np.concatenate([first for first, _ in halves])
    inside = np.repeat([1.0, 0.0], [len(first) for first, _ in halves])

    low, high = np.quantile(known, [TAIL, 1 - TAIL], axis=0)
    clipped = np.clip(known, low, high)
    centre, spread = clipped.mean(axis=0), clipped.std(axis=0)
    scale = np.where(spread > 1e-12 * np.abs(centre), spread, 1)  # a smaller spread is rounding

    def standard(features: Floats) -> Floats:
        return (np.clip(features, low, high) - centre) / scale

    weights = np.linalg.lstsq(standard(known), inside - inside.mean(), rcond=None)[0]
    return Inference(welch(*(standard(second) @ weights for _, second in halves)), weights)


def welch(higher: ArrayLike, lower: ArrayLike) -> float:
    """The one-sided p-value of "the mean of the first is not above that of the second" by Welch's (1947) t test.

    `DataError` unless each has two values and either varies.

    >>> round(welch([2, 4], [0, 2]), 6)  # t = sqrt 2 with 2 degrees of freedom: 1/2 - sqrt 2 / 4
    0.146447
    """
    a, b = np.asarray(higher, dtype=float), np.asarray(lower, dtype=float)
    if min(len(a), len(b)) < 2:
        raise DataError(f"Welch's test needs two values of each side, not {len(a)} and {len(b)}")
    variance_a, variance_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    variance = variance_a + variance_b
    if not variance > 0:
        raise DataError("Welch's test needs values that vary")
    freedom = variance**2 / (variance_a**2 / (len(a) - 1) + variance_b**2 / (len(b) - 1))
    return float(stdtr(freedom, (b.mean() - a.mean()) / sqrt(variance)))


def _features(values: ArrayLike, name: str) -> Floats:
    features = np.asarray(values, dtype=float)
    if features.ndim != 2 or len(features) < 4 or features.shape[1] == 0:
        raise DataError(f"{name} features must be a table of 4 rows or more, not of the shape {features.shape}")
    if not np.isfinite(features).all():
        raise DataError(f"{int((~np.isfinite(features)).sum())} of the {features.size} {name} features are NaN or infinite")
    return features
