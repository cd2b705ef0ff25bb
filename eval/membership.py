"""Membership inference: is a text betrayed as trained on by the log-probabilities of its tokens?

Every attack maps one scored text to one number, oriented so that higher means member.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from configs.errors import DataError, RecipeError

ZLIB_LEVEL = 6  # zlib's default, and every published implementation's


def loss(log_probs: ArrayLike) -> float:
    """Mean log-probability of the text's tokens, (T,) in nats: minus the loss (Yeom et al. 2018, arXiv:1709.01604)."""
    return float(_log_probs(log_probs).mean())


def zlib_ratio(log_probs: ArrayLike, text: str) -> float:
    """Mean log-probability, nats, over the bytes of the text compressed by zlib (Carlini et al. 2021, arXiv:2012.07805).

    `log_probs`, (T,), must be of the same `text`, whole. The length depends on the zlib library that Python is built on.
    """
    return loss(log_probs) / len(zlib.compress(text.encode(), ZLIB_LEVEL))


def min_k(log_probs: ArrayLike, k: float) -> float:
    """Min-K% Prob: the mean of the floor(k T) smallest of T log-probabilities, nats, but of one at least.

    `k` is a fraction in (0, 1]; Shi et al. 2024, arXiv:2310.16789.
    """
    if not 0 < k <= 1:
        raise RecipeError(f"eval.min_k must be a fraction above 0 and at most 1, not {k}")
    smallest = np.sort(_log_probs(log_probs))
    return float(smallest[: max(1, int(k * len(smallest)))].mean())


@dataclass(frozen=True)
class ScoredText:
    """All that an attack may look at: one text, its tokens' log-probabilities, (T,) in nats, and the attacks' settings.

    An attack that needs more of the forward pass (Min-K%++ the mean and deviation over the vocabulary) adds a field.
    """

    text: str
    log_probs: ArrayLike
    min_k: float = 0.2  # fraction of the tokens that Min-K% averages


ATTACKS: dict[str, Callable[[ScoredText], float]] = {
    "loss": lambda scored: loss(scored.log_probs),
    "zlib": lambda scored: zlib_ratio(scored.log_probs, scored.text),
    "min_k": lambda scored: min_k(scored.log_probs, scored.min_k),
}


def attack_scores(scored: ScoredText, attacks: Sequence[str]) -> dict[str, float]:
    """The score of each named attack; `RecipeError` on an unknown name, `DataError` on a text without valid scores."""
    unknown = [name for name in attacks if name not in ATTACKS]
    if unknown:
        raise RecipeError(f"eval.membership names {', '.join(unknown)}; the attacks are {', '.join(ATTACKS)}")
    return {name: ATTACKS[name](scored) for name in attacks}


def _log_probs(values: ArrayLike) -> NDArray[np.float64]:
    log_probs = np.asarray(values, dtype=float)  # tables hold float32; sums are taken in float64
    if log_probs.size == 0:
        raise DataError("a text without scored tokens has no membership score")
    if np.isnan(log_probs).any():
        raise DataError(f"{int(np.isnan(log_probs).sum())} of a text's {log_probs.size} log-probabilities are NaN")
    return log_probs
