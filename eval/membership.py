"""Membership inference: is a text betrayed as trained on by the probabilities that a model gives it?

Every attack maps one scored text to one number, oriented so that higher means member. Attacks over several models are in
eval/shadow.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from configs.errors import DataError, RecipeError

ZLIB_LEVEL = 6  # zlib's default, and every published implementation's
LEAST_DEVIATION = 1e-6  # nats; a flatter distribution leaves Min-K%++ nothing but rounding to divide by
MOST_DIVERGENCE = 0.01  # nats; DC-PDD's bound a

# ------------------------------------------------------------------------------------------------ of one forward pass


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
    return _smallest(_log_probs(log_probs), k)


def min_k_plus_plus(log_probs: ArrayLike, mean: ArrayLike, deviation: ArrayLike, k: float) -> float:
    """Min-K%++: `min_k` of z = (log p - mean) / deviation, no unit (Zhang et al. 2025, arXiv:2404.02936).

    `mean` and `deviation`, (T,) in nats, are of log p over the vocabulary, weighted by p: -mean is the entropy. A uniform
    distribution has no deviation, and there z is 0.
    """
    values = _log_probs(log_probs)
    mu, sigma = _like(values, mean, "means"), _like(values, deviation, "deviations")
    return _smallest(np.divide(values - mu, sigma, out=np.zeros_like(values), where=sigma >= LEAST_DEVIATION), k)


def dc_pdd(log_probs: ArrayLike, tokens: ArrayLike, frequencies: ArrayLike) -> float:
    """DC-PDD: the mean over each token's first occurrence of min(-p ln f, 0.01), nats (Zhang et al. 2024, arXiv:2409.14781).

    `tokens`, (T,), number the `frequencies`, (V,), that they have in a reference corpus (`unigram_frequencies`). `DataError`
    where one has none.
    """
    values, numbers, table = _log_probs(log_probs), np.asarray(tokens), np.asarray(frequencies, dtype=float)
    _like(values, numbers, "tokens")
    if numbers.min() < 0 or numbers.max() >= len(table):
        raise DataError(f"tokens {numbers.min()} to {numbers.max()} do not all have one of the {len(table)} frequencies")
    first = np.unique(numbers, return_index=True)[1]
    frequency = table[numbers[first]]
    if not (frequency > 0).all():
        raise DataError("DC-PDD needs frequencies above 0; smooth the counts with unigram_frequencies")
    return float(np.minimum(-np.exp(values[first]) * np.log(frequency), MOST_DIVERGENCE).mean())


def unigram_frequencies(counts: ArrayLike) -> NDArray[np.float64]:
    """Laplace-smoothed probabilities, (V,), of the V tokens that a corpus holds `counts` of: (c + 1) / (sum c + V).

    >>> unigram_frequencies([2, 0, 3]).tolist()
    [0.375, 0.125, 0.5]
    """
    smoothed = np.asarray(counts, dtype=float) + 1
    if smoothed.size == 0 or not (smoothed >= 1).all():
        raise DataError("token counts must be 0 or more, and of one token at least")
    return smoothed / smoothed.sum()


# ------------------------------------------------------------------------------------------------ of further passes


def lowercase_ratio(log_probs: ArrayLike, lowercased: float) -> float:
    """Mean log-probability of the text in lower case, `lowercased`, over the text's own (Carlini et al. 2021, arXiv:2012.07805).

    Both are at most 0, nats a token, and the lower-cased text is tokenized anew: a member's own is nearer 0, and the ratio
    high. Infinite where the text is certain; 1 where both are, as where the text has no capitals.
    """
    return _ratio(lowercased, log_probs, "lowercase")


def recall_ratio(log_probs: ArrayLike, prefixed: float) -> float:
    """ReCaLL: mean log-probability, nats, after a prefix of non-members over that without it (Xie et al. 2024, arXiv:2406.15968).

    `prefixed` is the mean over the same tokens as `log_probs`, (T,): those of the prefix are not in it, and neither is a
    first token that has no context alone. The prefix must hold no text that is scored. Infinite where the text is certain.
    """
    return _ratio(prefixed, log_probs, "recall")


def reference_difference(log_probs: ArrayLike, reference: float) -> float:
    """Mean log-probability less that under a reference model, nats a token (Watson et al. 2022, arXiv:2111.08440)."""
    return loss(log_probs) - _valid(reference, "mean log-probability under 'reference'")


def negative_gradient_norm(norm: float) -> float:
    """Minus the norm of the loss's gradient in the parameters, which is small on members (Wang et al. 2024, arXiv:2402.17012)."""
    return -_valid(norm, "gradient norm")


# ------------------------------------------------------------------------------------------------ attacks by name


@dataclass(frozen=True)
class ScoredText:
    """All that an attack may look at: one text, its tokens' log-probabilities, (T,) in nats, and the attacks' settings.

    What only some attacks need may be left out. (T,) is everywhere the same scored tokens.
    """

    text: str
    log_probs: ArrayLike
    min_k: float = 0.2  # fraction of the tokens that Min-K% averages
    tokens: ArrayLike | None = None  # (T,)
    mean: ArrayLike | None = None  # (T,) of log p over the vocabulary under p, nats
    deviation: ArrayLike | None = None  # (T,)
    conditions: Mapping[str, float] = field(default_factory=dict)  # mean log-probability by what else was done, nats a token
    gradient_norm: float | None = None
    frequencies: ArrayLike | None = None  # (V,) of the tokens in a reference corpus


@dataclass(frozen=True)
class Attack:
    """An attack, and what it `needs` beyond one forward pass: a condition, "gradient" or "frequencies"."""

    score: Callable[[ScoredText], float]
    needs: str | None = None


ATTACKS: dict[str, Attack] = {
    "loss": Attack(lambda scored: loss(scored.log_probs)),
    "zlib": Attack(lambda scored: zlib_ratio(scored.log_probs, scored.text)),
    "min_k": Attack(lambda scored: min_k(scored.log_probs, scored.min_k)),
    "min_k_plus_plus": Attack(
        lambda scored: min_k_plus_plus(scored.log_probs, _given(scored, "mean"), _given(scored, "deviation"), scored.min_k)
    ),
    "lowercase": Attack(lambda scored: lowercase_ratio(scored.log_probs, _condition(scored, "lowercase")), "lowercase"),
    "recall": Attack(lambda scored: recall_ratio(scored.log_probs, _condition(scored, "recall")), "recall"),
    "reference": Attack(lambda scored: reference_difference(scored.log_probs, _condition(scored, "reference")), "reference"),
    "dc_pdd": Attack(
        lambda scored: dc_pdd(scored.log_probs, _given(scored, "tokens"), _given(scored, "frequencies")), "frequencies"
    ),
    "gradient_norm": Attack(lambda scored: negative_gradient_norm(_given(scored, "gradient_norm")), "gradient"),
}


def attack_scores(scored: ScoredText, attacks: Sequence[str]) -> dict[str, float]:
    """The score of each named attack; `RecipeError` on an unknown name, `DataError` on a text without valid scores or on an
    attack without what it needs.
    """
    unknown = [name for name in attacks if name not in ATTACKS]
    if unknown:
        raise RecipeError(f"eval.membership names {', '.join(unknown)}; the attacks are {', '.join(ATTACKS)}")
    _log_probs(scored.log_probs)  # whether or not an attack looks at them
    return {name: ATTACKS[name].score(scored) for name in attacks}


def _given(scored: ScoredText, name: str) -> Any:
    value = getattr(scored, name)
    if value is None:
        raise DataError(f"a membership attack needs the text's {name}, which was not measured")
    return value


def _condition(scored: ScoredText, name: str) -> float:
    if name not in scored.conditions:
        raise DataError(f"a membership attack needs the text's mean log-probability under {name!r}, which was not measured")
    return scored.conditions[name]


# ------------------------------------------------------------------------------------------------ arguments


def _smallest(values: NDArray[np.float64], k: float) -> float:
    """The mean of the floor(k T) smallest of T values, but of one at least."""
    if not 0 < k <= 1:
        raise RecipeError(f"eval.min_k must be a fraction above 0 and at most 1, not {k}")
    return float(np.sort(values)[: max(1, int(k * len(values)))].mean())


def _ratio(conditioned: float, log_probs: ArrayLike, condition: str) -> float:
    changed, plain = _valid(conditioned, f"mean log-probability under {condition!r}"), loss(log_probs)
    if plain == 0:
        return 1.0 if changed == 0 else inf
    return changed / plain


def _valid(value: float, name: str) -> float:
    if isnan(value):
        raise DataError(f"a text's {name} is NaN")
    return float(value)


def _log_probs(values: ArrayLike) -> NDArray[np.float64]:
    log_probs = np.asarray(values, dtype=float)  # tables hold float32; sums are taken in float64
    if log_probs.size == 0:
        raise DataError("a text without scored tokens has no membership score")
    return _numbers(log_probs, "log-probabilities")


def _like(log_probs: NDArray[np.float64], values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Values that belong to the same tokens as the log-probabilities."""
    array = _numbers(np.asarray(values, dtype=float), name)
    if array.shape != log_probs.shape:
        raise DataError(f"a text has {log_probs.size} log-probabilities but {array.size} {name}")
    return array


def _numbers(array: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    if np.isnan(array).any():
        raise DataError(f"{int(np.isnan(array).sum())} of a text's {array.size} {name} are NaN")
    return array
