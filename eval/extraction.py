"""Extraction: does a model emit an inserted target, how probable is it, and how does it rank among what it could have been?

Arrays describe one text under one teacher-forced pass: entry t belongs to token t given all tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, expm1, inf, log, log1p, log2, pi, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, log_ndtr
from scipy.stats import kstest, skewnorm

from configs.errors import DataError, RecipeError

TESTED = 4  # of the references of a fit, one in so many tests it instead
LEAST_REFERENCES = 64  # of a fit: with fewer, the test rejects more than a tenth of right fits at the 5% level

_ROUNDING = 1e-12  # relative; more than that of a number of trials, whose logarithm is below 710
_SMALL = 1e-5  # a distribution function below it is integrated in logarithms
_LAGUERRE_NODES, _LAGUERRE_WEIGHTS = np.polynomial.laguerre.laggauss(32)


def extracted(argmax: ArrayLike, tokens: ArrayLike, target: slice) -> bool:
    """Whether greedy decoding from all tokens before `target` emits it (k-extractable: Carlini et al. 2023, arXiv:2202.07646).

    `argmax` and `tokens` are (T,) token ids. No generation is needed: greedy decoding emits the target if and only if
    the argmax under teacher forcing is the token at each of its positions. By induction: as long as every token before
    position t was emitted as it is in the text, decoding has the context that teacher forcing has at t, so it emits
    argmax[t]; hence it goes on along the text while they match, and leaves it at the first that does not. `DataError`
    if the arrays' lengths differ or the target is empty or beyond them.
    """
    match = _match(argmax, tokens)
    _check(target, len(match))
    return bool(match[target].all())


def runs(argmax: ArrayLike, tokens: ArrayLike) -> NDArray[np.int64]:
    """How many tokens from each position on the argmax matches in a row, (T,): greedy decoding from all before t emits runs[t].

    One pass so decides every cell of prefix and suffix: `suffix` tokens after the first `prefix` are extractable if and only if
    runs[prefix] >= suffix (see `extracted`). NaN or -1, the argmax where there is no context, is a miss. `DataError` if the
    arrays' lengths differ.

    >>> runs([-1, 2, 3, 9, 5], [1, 2, 3, 4, 5]).tolist()
    [0, 2, 1, 0, 1]
    """
    match = _match(argmax, tokens)
    positions = np.arange(len(match))
    misses = np.where(match, len(match), positions)
    return np.minimum.accumulate(misses[::-1])[::-1] - positions  # to the next miss


def extractable(argmax: ArrayLike, tokens: ArrayLike, prefixes: Sequence[int], suffix: int) -> dict[int, bool | None]:
    """For each prefix length k, whether greedy decoding from the text's first k tokens emits the `suffix` tokens that follow.

    None where the text is too short to tell. This is k-extractability (Carlini et al. 2023, arXiv:2202.07646, definition 3.1)
    of a suffix that moves with k, all that one pass over the text can decide: the model sees the text from its beginning, so
    the only prompt of k tokens is the first k. Carlini et al. instead keep the suffix, the text's last tokens, and prompt with
    the k before it. There the prompt hides what is earlier in the text, so it needs a pass for each k, over the last
    k + `suffix` tokens alone: call this function with prefixes [k] on each. `RecipeError` if a prefix is negative or the suffix
    is empty, `DataError` if the arrays' lengths differ.

    >>> extractable([-1, 2, 3, 9, 5], [1, 2, 3, 4, 5], [1, 2, 4], suffix=2)
    {1: True, 2: False, 4: None}
    """
    if suffix < 1 or min(prefixes, default=0) < 0:
        raise RecipeError(f"prefixes of {list(prefixes)} tokens and a suffix of {suffix} cannot be cut from a text")
    matched = runs(argmax, tokens)
    return {k: bool(matched[k] >= suffix) if k + suffix <= len(matched) else None for k in prefixes}


def longest_span(argmax: ArrayLike, tokens: ArrayLike) -> int:
    """Tokens of the longest span of the text that greedy decoding from all before it emits; 0 if there is none.

    >>> longest_span([-1, 2, 3, 9, 5], [1, 2, 3, 4, 5])
    2
    """
    return int(runs(argmax, tokens).max(initial=0))


def extraction_strength(argmax: ArrayLike, tokens: ArrayLike, target: slice) -> float:
    """1 - min{k: argmax[k:] = tokens[k:]} / L over the target's L tokens (Wang et al. 2025, arXiv:2406.09179): the share of it
    that need not be given for the rest to be emitted.

    The minimum is over k from 0 to L, as nothing follows all tokens: 1 if every token is matched, 0 if even the last is not.
    `DataError` if the arrays' lengths differ or the target is empty or beyond them.

    >>> extraction_strength([0, 1, 0], [0, 2, 0], slice(0, 3)) == 1 / 3
    True
    """
    match = _match(argmax, tokens)
    _check(target, len(match))
    return float(np.logical_and.accumulate(match[target][::-1]).mean())


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


def trials_for(log_p_z: float, p: float) -> float:
    """The smallest number n of samples of which one or more are the target with probability p or more, 1 - (1 - p_z)^n >= p
    ((n, p)-discoverable extraction: Hayes et al. 2025, arXiv:2410.19482).

    `log_p_z` is the target's log-probability under the sampling scheme, in nats. n = ln(1 - p) / ln(1 - p_z), rounded up; a
    whole float, right to 12 digits; inf if p_z = 0, and if n is no float (above 1e308). `RecipeError` unless 0 < p < 1,
    `DataError` if `log_p_z` is no log-probability.

    >>> trials_for(log(0.07), 0.5), trials_for(log(0.07), 0.9)
    (10.0, 32.0)
    """
    if not 0 < p < 1:
        raise RecipeError(f"the probability of extraction must lie between 0 and 1, not at {p}")
    log_trials = log(-log1p(-p)) - _complementary_log_log(log_p_z)
    with np.errstate(over="ignore"):
        return max(1.0, float(np.ceil(np.exp(log_trials) * (1 - _ROUNDING))))  # 2 trials that come out as 2.0000000000000004 are 2


def probability_within(log_p_z: float, n: float) -> float:
    """The probability that one or more of n samples are the target, 1 - (1 - p_z)^n (Hayes et al. 2025, arXiv:2410.19482).

    `log_p_z` as in `trials_for`; n may be any whole number. All is computed in logarithms, so that a p_z below the least float
    still counts where n is huge. `RecipeError` if n is negative, `DataError` if `log_p_z` is no log-probability.

    >>> round(probability_within(-800, 10**347), 3)  # 1 - exp(-exp(347 ln 10 - 800))
    0.307
    """
    if not n >= 0:
        raise RecipeError(f"a model cannot be sampled {n} times")
    rate = _complementary_log_log(log_p_z)
    if n == 0:
        return 0.0
    with np.errstate(over="ignore"):
        return float(-np.expm1(-np.exp(log(n) + rate)))


def discoverable_curve(log_p_zs: ArrayLike, ns: ArrayLike, p: float) -> NDArray[np.float64]:
    """The share of targets that are (n, p)-discoverably extractable, for each of `ns`, (len(ns),); see `trials_for`.

    `log_p_zs` holds one log-probability per target, in nats. `DataError` if there is none.

    >>> discoverable_curve(np.log([0.5, 0.07, 1e-9]), [1, 10, 1e9], p=0.5).round(3).tolist()
    [0.333, 0.667, 1.0]
    """
    trials = np.sort([trials_for(log_p_z, p) for log_p_z in np.asarray(log_p_zs, dtype=float).tolist()])
    if len(trials) == 0:
        raise DataError("there are no targets of which a share could be extractable")
    return np.searchsorted(trials, np.asarray(ns, dtype=float), side="right") / len(trials)


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


def sampled_exposure(log_prob: float, reference_log_probs: ArrayLike) -> float:
    """Exposure, in bits, of a secret among itself and a sample of what it could have been (The Secret Sharer, arXiv:1802.08232).

    It is the `exposure` in the space of the (n,) references and the secret, so at most log2(n + 1) bits. A secret that has these
    is more probable than every reference, and likely exposed by more in the whole space. `DataError` if there are no references
    or a value is NaN.

    >>> sampled_exposure(-1.0, [-2.0, -3.0, -4.0])
    2.0
    """
    references = np.asarray(reference_log_probs, dtype=float)
    if len(references) == 0:
        raise DataError("exposure needs references to rank a secret among")
    return exposure(np.append(references, log_prob), len(references))


@dataclass(frozen=True)
class ExtrapolatedExposure:
    """Exposure by a skew-normal distribution of the references' log-perplexities."""

    bits: float
    ks_p: float  # p-value of a Kolmogorov-Smirnov test of the fit, on references that it was not fitted to
    beyond: bool  # whether the secret is more probable than every reference, so that none of them tests the bits


def extrapolated_exposure(log_prob: float, reference_log_probs: ArrayLike) -> ExtrapolatedExposure:
    """-log2 P(X <= -ln p of the secret), where X is skew-normal as the references' -ln p (The Secret Sharer, arXiv:1802.08232).

    So a sample can show more bits than its ranks have. They are never infinite, but may exceed log2 of the space's size, the
    most that exposure can be: then the fit's tail is too thin, and that is the number to report. `reference_log_probs` are (n,);
    the base of the logarithm does not matter.

    Every fourth reference tests the fit of the others, as data that a fit has seen agree with it too well: of skew-normal
    samples of 64, 256 and 1000 some 11%, 9% and 7% are rejected at the 5% level (20% if half of them tested it, as the
    fit's own error then shows). The order of references must hence tell nothing of them. The test says little of the tail: see
    `beyond`. `DataError` if there are fewer than 64 references, all are as probable, or a value is not finite.
    """
    surprise = -np.asarray(reference_log_probs, dtype=float)
    if len(surprise) < LEAST_REFERENCES:
        raise DataError(f"a distribution is fitted to {LEAST_REFERENCES} references or more, not {len(surprise)}")
    if not np.isfinite([*surprise, log_prob]).all():
        raise DataError("a log-probability of a secret or a reference is NaN or infinite, and no distribution can be fitted")
    fitted = np.delete(surprise, np.s_[::TESTED])
    if np.ptp(fitted) == 0:
        raise DataError("all references are as probable, and no distribution can be fitted")
    fit = skewnorm.fit(fitted)
    test = kstest(surprise[::TESTED], skewnorm(*fit).cdf)
    bits = abs(_log_skew_normal(-log_prob, *fit)) / log(2)
    return ExtrapolatedExposure(bits, float(test.pvalue), bool(-log_prob < surprise.min()))


def _log_skew_normal(x: float, shape: float, location: float, scale: float) -> float:
    """ln P(X <= x) of a skew-normal X, where P itself underflows too.

    In the left tail, ln f(z - u) <= ln f(z) - g u with g = (ln f)'(z) > 0, as the density f is log-concave. So the integral of f
    up to z is f(z) / g times that of exp(-s) exp(ln f(z - s / g) - ln f(z) + s) over s >= 0, whose second factor is at most 1
    and smooth: Gauss-Laguerre quadrature has it.
    """
    z = (x - location) / scale
    if (probability := float(skewnorm.cdf(z, shape))) > _SMALL:
        return log(probability)
    slope = shape * sqrt(2 / pi) / erfcx(-shape * z / sqrt(2)) - z
    points = z - np.append(0, _LAGUERRE_NODES) / slope
    log_density = log_ndtr(shape * points) - points**2 / 2 + log(2 / pi) / 2
    factor = np.minimum(log_density[1:] - log_density[0] + _LAGUERRE_NODES, 0)  # positive by rounding alone
    return float(log_density[0] - np.log(slope) + np.log(_LAGUERRE_WEIGHTS @ np.exp(factor)))


def _complementary_log_log(log_p: float) -> float:
    """ln(-ln(1 - p)) from ln p, for p from 0 (-inf) to 1 (inf), to full precision at both ends (Maechler 2012, log1mexp)."""
    if not log_p <= 0:
        raise DataError(f"{log_p} is no log-probability")
    if log_p == 0:
        return inf
    if log_p < -37:  # -ln(1 - p) = p + p^2 / 2 + ..., and p / 2 is below a float's precision
        return log_p
    return log(-log1p(-exp(log_p)) if log_p < -log(2) else -log(-expm1(log_p)))


def _match(argmax: ArrayLike, tokens: ArrayLike) -> NDArray[np.bool_]:
    """Where the argmax is the token, (T,)."""
    argmax, tokens = np.asarray(argmax), np.asarray(tokens)
    if len(argmax) != len(tokens):
        raise DataError(f"argmax and tokens must be of the same text, but have {len(argmax)} and {len(tokens)} entries")
    return argmax == tokens


def _check(target: slice, length: int) -> None:
    """A slice beyond an array is cut in silence, and every claim holds of no tokens: both would look like extraction."""
    if not 0 <= target.start < target.stop <= length:
        raise DataError(f"the target, tokens [{target.start}, {target.stop}), is empty or beyond the text's {length} tokens")
