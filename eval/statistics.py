"""The statistics of the claims: proportions, AUC, ROC, slopes and means, each with an interval that stays sound in small arms.

Every function takes plain sequences of numbers; scores are oriented so that higher means member. Intervals are two-sided
at the given level. A value that cannot be had (an empty class, a NaN) is a `DataError`; a value whose *uncertainty*
cannot be estimated (one cluster, no spread) gets the widest interval that is honest instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, inf, isfinite, nextafter, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtri, stdtrit
from scipy.stats import rankdata

from configs.errors import DataError

Floats = NDArray[np.float64]
RESAMPLES_AT_ONCE = 256  # of a bootstrap of AUCs: 12 MB for classes of 1,000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval [low, high], from n independent units."""

    value: float
    low: float
    high: float
    n: int

    def above(self, x: float) -> bool:
        """Whether the whole interval lies above x."""
        return self.low > x

    def contains(self, x: float) -> bool:
        return self.low <= x <= self.high


# ------------------------------------------------------------------------------------------------ proportions


def proportion(successes: float, n: int, level: float = 0.95) -> Interval:
    """The exact interval of a binomial proportion (Clopper & Pearson 1934).

    `successes` may be a sum of n fractions in [0, 1], such as each group's share of extracted probes: the interval is then
    wider than need be, as no variable on [0, 1] varies more than a Bernoulli of the same mean. `DataError` unless
    0 <= successes <= n and n > 0.

    >>> round(proportion(0, 10).high, 4)  # 1 - 0.025 ** (1 / 10)
    0.3085
    """
    if not 0 <= successes <= n or n == 0:
        raise DataError(f"a proportion needs 0 <= successes <= n and n > 0, not {successes} of {n}")
    tail = (1 - level) / 2
    low = betaincinv(successes, n - successes + 1, tail) if successes > 0 else 0.0
    high = betaincinv(successes + 1, n - successes, 1 - tail) if successes < n else 1.0
    return Interval(successes / n, float(low), float(high), n)


# ------------------------------------------------------------------------------------------------ members against non-members


def auc(members: ArrayLike, non_members: ArrayLike) -> float:
    """P(member > non-member) + P(tie) / 2, the Mann-Whitney form of the area under the ROC curve, by ranks in O(n log n).

    >>> auc([0.9, 0.8, 0.7, 0.2], [0.6, 0.5, 0.4, 0.3])
    0.75
    """
    members, non_members = _sample(members, "members"), _sample(non_members, "non-members")
    m, n = len(members), len(non_members)
    ranks = rankdata(np.concatenate([members, non_members]))  # ties share their mean rank: half credit
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def stratified_auc(strata: Sequence[tuple[ArrayLike, ArrayLike]], level: float = 0.95) -> Interval:
    """The AUC of (members, non-members) compared only within strata, with an interval that is not degenerate at 0 and 1.

    theta_hat = sum_k w_k AUC_k with w_k proportional to m_k n_k, so every within-stratum pair counts alike. The limits
    solve (theta_hat - theta)^2 = z^2 V(theta), as Wilson's do for a proportion, where V = sum_k w_k^2 V_k and V_k is
    Hanley & McNeil's (1982) variance with m - 1 and n - 1 both replaced by their average, N_k = (m_k + n_k) / 2 - 1:

        V_k(theta) = theta (1 - theta) / (m_k n_k) * (1 + N_k ((1 - theta) / (2 - theta) + theta / (1 + theta)))

    For one stratum this is method 5 of Newcombe (2006), Statistics in Medicine 25:559-573; several strata are taken to
    share theta. Scores must be independent: one per group, not one per paraphrase. `n` counts members and non-members.
    `DataError` if there is no stratum, a class of one is empty, or a score is NaN.
    """
    samples = _samples(strata)
    areas = np.array([auc(members, non_members) for members, non_members in samples])
    sizes = np.array([(len(members), len(non_members)) for members, non_members in samples], dtype=float)
    pairs = sizes.prod(axis=1)
    weights = _pair_weights(samples)
    average = sizes.mean(axis=1) - 1
    z = float(ndtri((1 + level) / 2))

    def deviation(theta: float) -> float:
        spread = (1 - theta) / (2 - theta) + theta / (1 + theta)
        return sqrt(theta * (1 - theta) * float(np.sum(weights**2 / pairs * (1 + average * spread))))

    def lower(estimate: float) -> float:
        if estimate == 0:
            return 0.0
        below_one = min(estimate, nextafter(1, 0))  # theta = 1 solves the equation of estimate 1, but is not its lower limit
        return float(brentq(lambda theta: estimate - theta - z * deviation(theta), 0.0, below_one))

    value = float((pairs * areas).sum() / pairs.sum())  # exactly 1 where every area is
    return Interval(value, lower(value), 1 - lower(1 - value), int(sizes.sum()))  # V(theta) = V(1 - theta)


def delong_auc(members: ArrayLike, non_members: ArrayLike, level: float = 0.95) -> Interval:
    """The AUC with DeLong, DeLong & Clarke-Pearson's (1988) interval, Biometrics 44:837-845; see `stratified_delong`.

    >>> interval = delong_auc([0.9, 0.8, 0.7, 0.2], [0.6, 0.5, 0.4, 0.3], level=0.5)
    >>> round(interval.value - interval.low, 6)  # 0.67449 standard errors of 0.25
    0.168622
    """
    return stratified_delong([(members, non_members)], level)


def stratified_delong(strata: Sequence[tuple[ArrayLike, ArrayLike]], level: float = 0.95) -> Interval:
    """The value of `stratified_auc` with an interval from its estimated variance, sum_k w_k^2 V_k, where V_k is DeLong's:

        V_k = var(V10) / m_k + var(V01) / n_k

    with V10 the share of non-members below each member and V01 the share of members above each non-member, ties half, by
    midranks in O(n log n) (Sun & Xu 2014). The interval is value +- z sqrt(V), cut to [0, 1]: for classes large enough that the
    AUC is normal (with 8 against 24 in a stratum it covers 2 or 3 points less than 95%; `stratified_auc` covers them).

    V_k is 0 where the stratum's AUC is 0 or 1 or all its scores are tied, and unknown in a class of one. Such a stratum does not
    show how far it is to be trusted: if there is one, the interval is `stratified_auc`'s, never a point. Raises what that does.
    """
    safe, samples = stratified_auc(strata, level), _samples(strata)
    variances = np.array([_delong_variance(*pair) for pair in samples])
    if 0 in variances:
        return safe
    half = float(ndtri((1 + level) / 2)) * sqrt(float(np.sum(_pair_weights(samples) ** 2 * variances)))
    return Interval(safe.value, max(0.0, safe.value - half), min(1.0, safe.value + half), safe.n)


def bootstrap_auc(
    strata: Sequence[tuple[ArrayLike, ArrayLike]], resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The value of `stratified_auc` with a percentile bootstrap of scores within each class of each stratum.

    As in `slope`, a class of c is resampled by c - 1 draws, so that the variance is not understated in small ones, and limits are
    order statistics, rounded outwards. A class of one or a stratum with DeLong's variance 0, whose resamples are all alike,
    has the interval of `stratified_auc` instead, as in `stratified_delong`. Takes O(resamples (m + n)).
    """
    safe, samples = stratified_auc(strata, level), _samples(strata)
    if 0 in [_delong_variance(*pair) for pair in samples]:
        return safe
    generator = np.random.default_rng(seed)
    areas = _pair_weights(samples) @ np.stack([_resampled_areas(*pair, resamples, generator) for pair in samples])
    tail = (1 - level) / 2
    low, high = np.quantile(areas, tail, method="lower"), np.quantile(areas, 1 - tail, method="higher")
    return Interval(safe.value, float(low), float(high), safe.n)


def _delong_variance(members: Floats, non_members: Floats) -> float:
    """DeLong's variance of an AUC; 0 also where it cannot be estimated, in a class of one."""
    m, n = len(members), len(non_members)
    if min(m, n) == 1:
        return 0.0
    ranks = rankdata(np.concatenate([members, non_members]))
    below = (ranks[:m] - rankdata(members)) / n  # of each member
    above = 1 - (ranks[m:] - rankdata(non_members)) / m  # of each non-member
    return float(below.var(ddof=1) / m + above.var(ddof=1) / n)


def _resampled_areas(members: Floats, non_members: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """AUCs, (resamples,), of c - 1 draws with replacement from each class of c."""
    m, n = len(members), len(non_members)
    non_members = np.sort(non_members)
    below, up_to = (np.searchsorted(non_members, members, side) for side in ("left", "right"))
    areas = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        drawn = generator.multinomial(m - 1, np.full(m, 1 / m), size)
        smaller = np.zeros((size, n + 1))
        np.cumsum(generator.multinomial(n - 1, np.full(n, 1 / n), size), axis=1, out=smaller[:, 1:])
        areas.append((drawn * (smaller[:, below] + smaller[:, up_to])).sum(axis=1) / (2 * (m - 1) * (n - 1)))
    return np.concatenate(areas)


def roc_curve(members: ArrayLike, non_members: ArrayLike) -> tuple[Floats, Floats]:
    """(false positive rates, true positive rates), float64 of equal length, from (0, 0) to (1, 1), at every threshold.

    A threshold t calls scores >= t members; tied scores enter together, as one step, and no point is dropped.
    """
    members, non_members = np.sort(_sample(members, "members")), np.sort(_sample(non_members, "non-members"))
    thresholds = np.unique(np.concatenate([members, non_members]))[::-1]

    def rate(scores: Floats) -> Floats:
        called = len(scores) - np.searchsorted(scores, thresholds, side="left")
        return np.concatenate([[0.0], called / len(scores)])

    return rate(non_members), rate(members)


def true_positive_rate_at(fpr: float, members: ArrayLike, non_members: ArrayLike) -> tuple[float, bool]:
    """The highest true positive rate of any threshold whose false positive rate is at most `fpr`, without interpolation
    (Carlini et al. 2022, Membership Inference Attacks From First Principles), and whether it is *unresolved*: with
    fpr * len(non_members) < 1 not one false positive is allowed, so that the number stands for a smaller rate than asked.

    >>> true_positive_rate_at(0.01, [0.9, 0.8, 0.7, 0.2], [0.6, 0.5, 0.4, 0.3])
    (0.75, True)
    """
    false_positive_rate, true_positive_rate = roc_curve(members, non_members)
    unresolved = fpr < 1 / np.size(non_members)
    return float(true_positive_rate[false_positive_rate <= fpr].max()), unresolved


# ------------------------------------------------------------------------------------------------ slopes


def slope(
    x: ArrayLike, y: ArrayLike, clusters: ArrayLike, strata: ArrayLike, resamples: int, seed: int, level: float = 0.95
) -> Interval:
    """The least-squares slope of y on x over observations, with a percentile bootstrap of clusters within strata.

    `x`, `y`, `clusters` and `strata` have one entry per observation; a cluster (group) lies in one stratum (arm). Each
    resample draws, in a stratum of c clusters, c - 1 of them with replacement and weighs them c / (c - 1): drawing c
    would understate the variance by the factor (c - 1) / c, which matters where an arm has 4 clusters (Rao & Wu 1988,
    JASA 83:231-241). As percentile intervals do, it still covers a few points less than the level with arms that small.
    Limits are order statistics, rounded outwards. A resample in which x does not vary leaves the slope undefined and
    counts as unbounded on both sides. `n` counts clusters.

    A stratum of one cluster does not show its spread, so the interval is then infinite: pass coarser strata to get one.
    `DataError` if x does not vary, lengths differ, a value is NaN or infinite, or a cluster lies in two strata.
    """
    xs, ys = _finite(x, "x"), _finite(y, "y")
    if len(ys) != len(xs):
        raise DataError(f"a slope needs as many y as x, not {len(ys)} and {len(xs)}")
    cluster, stratum = _labels(clusters, "clusters", len(xs)), _labels(strata, "strata", len(xs))
    xs, ys = xs - xs.mean(), ys - ys.mean()  # the slope is the same, its sums are better conditioned
    moments = np.stack([_sums(column, cluster) for column in (np.ones_like(xs), xs, ys, xs * ys, xs * xs)], axis=1)
    value = float(_slopes(moments.sum(axis=0)))
    if np.isnan(value):
        raise DataError("a slope needs at least two different values of x")

    stratum_of = np.zeros(len(moments), dtype=np.intp)
    stratum_of[cluster] = stratum
    if not np.array_equal(stratum_of[cluster], stratum):
        raise DataError("a cluster lies in more than one stratum; resampling within strata needs clusters that lie in one")
    if np.bincount(stratum_of).min() == 1:
        return Interval(value, -inf, inf, len(moments))

    generator = np.random.default_rng(seed)
    resampled = np.zeros((resamples, moments.shape[1]))
    for label in range(stratum_of.max() + 1):
        own = moments[stratum_of == label]
        c = len(own)
        draws = generator.multinomial(c - 1, np.full(c, 1 / c), size=resamples)
        resampled += c / (c - 1) * draws @ own
    slopes = _slopes(resampled)
    tail = (1 - level) / 2
    undefined = np.isnan(slopes)
    low = np.quantile(np.where(undefined, -inf, slopes), tail, method="lower")
    high = np.quantile(np.where(undefined, inf, slopes), 1 - tail, method="higher")
    return Interval(value, float(low), float(high), len(moments))


def _slopes(moments: Floats) -> Floats:
    """Least-squares slopes from sums of (1, x, y, xy, xx) in the last axis; NaN where x does not vary."""
    n, x, y, xy, xx = np.moveaxis(moments, -1, 0)
    spread = n * xx - x * x
    varies = spread > 1e-12 * n * xx  # below this share, what is left of the difference is rounding
    return np.where(varies, (n * xy - x * y) / np.where(varies, spread, 1), np.nan)


# ------------------------------------------------------------------------------------------------ means


def mean(values: ArrayLike, clusters: ArrayLike, level: float = 0.95, bounds: tuple[float, float] = (-inf, inf)) -> Interval:
    """The mean over clusters of the clusters' means, with Student's t interval on them; `n` counts clusters.

    A cluster (group) is the unit that was randomized, so it counts once however many values it has. Few clusters are the
    rule (an arm may have 4), and there the bootstrap is far too narrow: it resamples four numbers and knows no degrees
    of freedom. Student's t does, and is exact for normal cluster means.

    `bounds` are the limits of the metric, such as (0, 1) of a rate: the interval is cut to them. Without spread (one
    cluster, or all clusters alike, as when every copy is extracted) t would claim certainty. There a bounded metric gets
    the interval of a `proportion` on its scale, an unbounded one (-inf, inf). `DataError` on empty, infinite, NaN or
    out-of-bounds values.
    """
    values = _finite(values, "values")
    least, most = bounds
    if values.min() < least or values.max() > most:
        raise DataError(f"values of a mean must lie within {bounds}, not from {values.min()} to {values.max()}")
    cluster = _labels(clusters, "clusters", len(values))
    means = _sums(values, cluster) / np.bincount(cluster)
    n, value = len(means), float(means.mean())
    if np.ptp(means) > 1e-12 * np.abs(means).max():  # a smaller spread is rounding
        half = float(stdtrit(n - 1, (1 + level) / 2)) * float(means.std(ddof=1)) / sqrt(n)
        return Interval(value, max(least, value - half), min(most, value + half), n)
    if not (isfinite(least) and isfinite(most)):
        return Interval(value, least, most, n)
    width = most - least
    share = proportion(float(np.clip((value - least) / width, 0, 1)) * n, n, level)  # rounding may pass a bound
    return Interval(value, least + width * share.low, least + width * share.high, n)


def difference(a: Interval, b: Interval) -> Interval:
    """a - b of two independent estimates, from their intervals (MOVER: Zou & Donner 2008, Statistics in Medicine 27:1693).

    Each limit adds, in squares, the distances from the values to the limits that count towards it; on Wilson intervals
    of two proportions this is Newcombe's (1998) method 10. Not for estimates of the same items: there, take the mean of
    the items' differences.
    """
    value = a.value - b.value
    low = value - hypot(a.value - a.low, b.high - b.value)
    high = value + hypot(a.high - a.value, b.value - b.low)
    return Interval(value, low, high, a.n + b.n)


def mean_difference(
    values_a: ArrayLike,
    clusters_a: ArrayLike,
    values_b: ArrayLike,
    clusters_b: ArrayLike,
    level: float = 0.95,
    bounds: tuple[float, float] = (-inf, inf),
) -> Interval:
    """mean(a) - mean(b) of two arms that share no cluster, as the `difference` of their `mean`s; `n` counts clusters.

    Each arm brings its own spread and its own t quantile, so that 4 clusters against 24 with other variances are sound.
    Welch's t, the usual choice, is a little narrower (a tenth at 4 against 24), but has no answer where an arm shows no
    spread: 4 of 4 extracted against 0 of 24 held out would be a difference of exactly 1 without any doubt. Here such an
    arm, or one of a single cluster, widens the interval as it does its mean: to what `bounds` allow, else to infinity.
    """
    return difference(mean(values_a, clusters_a, level, bounds), mean(values_b, clusters_b, level, bounds))


# ------------------------------------------------------------------------------------------------ many tests


def holm(p_values: ArrayLike) -> Floats:
    """Holm's (1979) step-down adjusted p-values, in the order given: max over j <= i of min(1, (k - j + 1) p_(j)).

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    if not np.all((p >= 0) & (p <= 1)):
        raise DataError("p-values must lie in [0, 1]")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


# ------------------------------------------------------------------------------------------------ arguments


def _samples(strata: Sequence[tuple[ArrayLike, ArrayLike]]) -> list[tuple[Floats, Floats]]:
    if not strata:
        raise DataError("an AUC needs at least one stratum of members and non-members")
    return [(_sample(members, "members"), _sample(non_members, "non-members")) for members, non_members in strata]


def _pair_weights(samples: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Each stratum's share of the pairs of a member and a non-member, (strata,)."""
    pairs = np.array([float(len(members) * len(non_members)) for members, non_members in samples])
    return pairs / pairs.sum()


def _sample(values: ArrayLike, name: str) -> Floats:
    """One class of scores as a vector: some, and no NaN. Infinite scores have ranks and are welcome."""
    sample = np.asarray(values, dtype=float).ravel()
    if sample.size == 0:
        raise DataError(f"there are no {name} to compare")
    if np.isnan(sample).any():
        raise DataError(f"{int(np.isnan(sample).sum())} of the {sample.size} scores of {name} are NaN")
    return sample


def _finite(values: ArrayLike, name: str) -> Floats:
    vector = np.asarray(values, dtype=float).ravel()
    if vector.size == 0:
        raise DataError(f"{name} is empty")
    if not np.isfinite(vector).all():
        raise DataError(f"{int((~np.isfinite(vector)).sum())} of the {vector.size} {name} are NaN or infinite")
    return vector


def _labels(labels: ArrayLike, name: str, n: int) -> NDArray[np.intp]:
    """Labels of any sortable kind as integers 0..k-1, one per value."""
    array: NDArray[Any] = np.asarray(labels).ravel()
    if len(array) != n:
        raise DataError(f"{name} must label each of the {n} values, not {len(array)}")
    return np.unique(array, return_inverse=True)[1]


def _sums(values: Floats, cluster: NDArray[np.intp]) -> Floats:
    """The sum of each cluster's values, (k,)."""
    return np.asarray(np.bincount(cluster, weights=values), dtype=float)
