"""Forgetting: how much of what exposures taught is still there, and for how long, from an arm's gains over never-inserted twins.

A raw loss drifts while training goes on, also of texts that were never seen, so curves are of gains (`gains`). The value at step s
is that of the model after s updates: a copy in the batch of step s shows from s + 1 on. `gain` is (groups, steps), and `twins`
(groups', steps) the gains of the twins over their own mean, in the unit of the metric, higher being more memorized; a row is a
group, the unit that was randomized (`by_group`). The twins hardly move an estimate, as their mean is 0, but their spread is part of
the intervals, which are of 95%: by `statistics.mean_difference`, or a bootstrap of the arm's groups and the twins', drawn as
`statistics.slope` draws them. They do not know that the step of a maximum or minimum was chosen. A metric that saturates, as shares
extracted do, has groups all alike, and no such interval: see `forgets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isnan, nan

import numpy as np
from numpy.typing import ArrayLike

from configs.errors import DataError
from eval.statistics import Floats, Interval, difference, mean_difference, proportion, slope

WITHIN = 50  # steps after an exposure in which its gain is at its maximum (Chang et al. 2024): the memory of Adam's first moment
POOR_FIT = 0.65  # the least R^2 that Chang et al. report for R linear in ln t

# ------------------------------------------------------------------------------------------------ curves


def gains(values: ArrayLike, strata: ArrayLike, twins: ArrayLike, twin_strata: ArrayLike) -> Floats:
    """Each item's value less the mean of its stratum's never-inserted twins at the same step, (items, steps).

    `values` is (items, steps), `twins` (items', steps), with a stratum each. Twins have gains over themselves: pass them twice.
    `DataError` if a value is not finite, the steps differ in number, or a stratum has no twins.

    >>> gains([[5.0, 9.0]], ["a"], [[1.0, 4.0], [3.0, 6.0], [8.0, 8.0]], ["a", "a", "b"]).tolist()
    [[3.0, 4.0]]
    """
    own, others = _curves(values, twins)
    stratum, of_twins = np.asarray(strata), np.asarray(twin_strata)
    if len(stratum) != len(own) or len(of_twins) != len(others):
        raise DataError(f"{len(own)} items and {len(others)} twins need a stratum each, not {len(stratum)} and {len(of_twins)}")
    if missing := sorted(set(stratum.tolist()) - set(of_twins.tolist())):
        raise DataError(f"there are no never-inserted twins in {', '.join(map(str, missing))}, and gains are over twins")
    return np.stack([item - others[of_twins == label].mean(axis=0) for item, label in zip(own, stratum, strict=True)])


def by_group(gain: ArrayLike, groups: ArrayLike) -> Floats:
    """The mean curve of each group's items, (groups, steps), in the order of the sorted labels; `groups` is (items,).

    >>> by_group([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], ["b", "a", "b"]).tolist()
    [[3.0, 4.0], [3.0, 4.0]]
    """
    (curves,), labels = _curves(gain), np.asarray(groups)
    if len(labels) != len(curves):
        raise DataError(f"groups must label each of the {len(curves)} items, not {len(labels)}")
    return np.stack([curves[labels == label].mean(axis=0) for label in np.unique(labels)])


def since_last_exposure(gain: ArrayLike, steps: ArrayLike, last: ArrayLike, since: ArrayLike) -> Floats:
    """Curves over steps since each item's own last exposure, (items, len(since)), from curves over the steps of training.

    `steps` is (steps,), rising; `last`, (items,), the step whose batch holds an item's last copy; `since` may be negative, and 0 is
    the model just before that copy. Between two measurements it is interpolated linearly, but never across the exposure. Twins have
    no last exposure: give them the arm's in turn, `np.resize(last, len(twins))`. `DataError` where there is nothing to go by.

    >>> since_last_exposure([[0.0, 4.0, 2.0]], steps=[10, 20, 40], last=[15], since=[-5, 5, 20]).tolist()
    [[0.0, 4.0, 2.5]]
    """
    (curves,) = _curves(gain)
    at, asked = _rising(steps, curves.shape[1], "steps"), np.asarray(since, dtype=float)
    aligned = np.full((len(curves), len(asked)), nan)
    for row, curve, exposed in zip(aligned, curves, np.asarray(last, dtype=float), strict=True):
        measured = at - exposed
        for side, known in ((asked <= 0, measured <= 0), (asked > 0, measured > 0)):
            if known.any():
                row[side] = np.interp(asked[side], measured[known], curve[known], left=nan, right=nan)
    if np.isnan(aligned).any():
        item, missing = np.argwhere(np.isnan(aligned))[0]
        raise DataError(f"item {item} was not measured around {asked[missing]:g} steps after its last exposure")
    return aligned


def local_maximum(mean_gain: ArrayLike, steps: ArrayLike, after: float, within: float = WITHIN) -> int:
    """The index of the highest mean gain at after < step <= after + within: the local acquisition maximum of Chang et al. (2024,
    arXiv:2406.11813), t_LAM(q, i) = argmax l(q; theta_t).

    Give it the mean curve, (steps,), of a whole arm, and of twins by the same rule, never an item's: every item's highest value is
    in part noise, which is gone later, and that looks like forgetting. The mean of n groups overstates by 1 / sqrt(n) of that, and
    `effectivity` does not know: with four noisy steps to choose from it finds a gain where there is none in 7%, not 2.5%.
    `DataError` if no step was measured there.

    >>> local_maximum([0.0, 3.0, 5.0, 9.0], [100, 110, 150, 160], after=100)
    2
    """
    curve = np.asarray(mean_gain, dtype=float)
    at = _rising(steps, len(curve), "steps")
    window = (at > after) & (at <= after + within)
    if not window.any():
        raise DataError(f"nothing was measured in the {within:g} steps after step {after:g}, where the gain is at its maximum")
    return int(np.where(window, curve, -inf).argmax())


def effectivity(gain: ArrayLike, twins: ArrayLike, before: int, peak: int) -> Interval:
    """What an exposure taught: E = gain(peak) - gain(before), by index of its local maximum and of the model it was shown to.

    E(q, i) = l(q; theta_tLAM(q, i)) - l(q; theta_ti) of Chang et al. (2024, arXiv:2406.11813), on gains over twins. With the model
    before the first exposure and the maximum after the last, it is what all have taught. `DataError` unless before < peak.
    """
    own, others = _curves(gain, twins)
    if not 0 <= before < peak < own.shape[1]:
        raise DataError(f"the gain before an exposure, number {before} of {own.shape[1]}, must precede its maximum, number {peak}")
    return _mean_gain(own[:, peak] - own[:, before], others[:, peak] - others[:, before])


def mean_gain(gain: ArrayLike, twins: ArrayLike, resamples: int, seed: int) -> Interval:
    """The mean of one gain a group, (groups,), over that of the twins, (groups',), with a percentile bootstrap of both.

    Where either is one group, which shows no spread, the interval is (-inf, inf).
    """
    own, others = (np.asarray(each, dtype=float)[:, None] for each in (gain, twins))
    generator = np.random.default_rng(seed)
    drawn = _resampled_means(own, resamples, generator) - _resampled_means(others, resamples, generator)
    low, high = _limits(drawn[:, 0])
    return Interval(float(own.mean() - others.mean()), float(low), float(high), len(own) + len(others))


def forgetting_baseline(gain: ArrayLike, twins: ArrayLike, peak: int) -> Interval:
    """The least mean gain from index `peak` on: what is never forgotten (Tirumala et al. 2022, arXiv:2205.10770).

    They take it of the accuracy on one special batch; here it is of gains, as accuracy on texts never seen is not 0 either.
    """
    own, others = _curves(gain, twins)
    if not 0 <= peak < own.shape[1]:
        raise DataError(f"the maximum, number {peak}, is not of the {own.shape[1]} steps")
    lowest = peak + int((own.mean(axis=0) - others.mean(axis=0))[peak:].argmin())
    return _mean_gain(own[:, lowest], others[:, lowest])


def verdict(interval: Interval, what: str) -> str:
    """What must be said of an interval that is not above 0; nothing of one that is."""
    if interval.low == -inf:
        return f"the uncertainty of {what} is unknown: its groups are all alike, or there is one"
    if interval.contains(0):
        return f"{what} is not distinguishable from zero"
    return "" if interval.above(0) else f"{what} is below zero"


# ------------------------------------------------------------------------------------------------ retainability


@dataclass(frozen=True)
class Retention:
    """The share of an arm's gain that is left, over steps since its maximum, and how it came out in each resample of groups."""

    since: Floats  # (T,), from 0
    curve: Floats  # (T,), from 1; NaN where there was no gain to retain
    low: Floats
    high: Floats
    learned: Interval  # the gain at the maximum over that before the first exposure
    resampled: Floats  # (resamples, T); NaN where the resample learned nothing
    note: str  # why there is no curve


def retainability(
    gain: ArrayLike, twins: ArrayLike, steps: ArrayLike, before: int, peak: int, resamples: int, seed: int
) -> Retention:
    """R(t) = (gain(peak + t) - gain(before)) / (gain(peak) - gain(before)) of the arm's mean gain, for every step from `peak` on.

    R(q, t) of Chang et al. (2024, arXiv:2406.11813); `before` and `peak` are the indices of the model before the first exposure and
    of the maximum after the last. A ratio of means, not their mean of ratios: an item that learned next to nothing has a ratio of
    any size. Limits are pointwise percentiles of a bootstrap. Where `learned` is not above 0 nothing can be retained: the curve is
    NaN within (-inf, inf), and the note says why. Raises what `effectivity` does.
    """
    learned = effectivity(gain, twins, before, peak)
    own, others = ((curves - curves[:, [before]])[:, peak:] for curves in _curves(gain, twins))
    at = _rising(steps, peak + own.shape[1], "steps")[peak:]
    generator = np.random.default_rng(seed)
    drawn = _resampled_means(own, resamples, generator) - _resampled_means(others, resamples, generator)
    average = own.mean(axis=0) - others.mean(axis=0)
    if not learned.above(0):
        drawn, average = np.full_like(drawn, nan), np.full_like(average, nan)
    resampled = drawn / np.where(drawn[:, :1] > 0, drawn[:, :1], nan)
    note = verdict(learned, "the gain at its maximum")
    return Retention(at - at[0], average / average[0], *_limits(resampled), learned, resampled, note)


@dataclass(frozen=True)
class Decay:
    """R = intercept - constant ln t, t in steps since the maximum, by least squares; intervals from resampled groups."""

    constant: Interval  # share of the gain lost per factor e of steps; per factor 10 it is ln 10 times that
    intercept: float
    r_squared: float
    half_life: Interval  # steps until R = 1/2
    threshold: Interval  # steps until R = 0, the learnability threshold of Chang et al.
    note: str  # why it should not be taken at its word


def decay_fit(retention: Retention) -> Decay:
    """The line of R in ln t over t > 0, as Chang et al. (2024, arXiv:2406.11813) fit it: Delta R = -a ln(t2 / t1).

    What they call a power law is linear in the logarithm; their code takes log10. Half-life and threshold are exp((b - R) / a) at
    R = 1/2 and 0, but NaN within (-inf, inf) where a is not distinguishable from zero. The note says so, and if the half-life is
    extrapolated or the line fits poorly (R^2 < 0.65). `DataError` with fewer than 3 steps after the maximum: any line fits 2.
    """
    measured = retention.since > 0
    if measured.sum() < 3:
        raise DataError(f"a decay is fitted to 3 steps after the maximum or more, not {int(measured.sum())}")
    log_since, curve = np.log(retention.since[measured]), retention.curve[measured]
    a, b = (float(each) for each in _line(log_since, curve))
    resampled = _line(log_since, retention.resampled[:, measured])
    constant = _interval(a, resampled[0], retention)
    scatter = float(curve.var())
    r_squared = 1 - float(np.mean((curve - b + a * log_since) ** 2)) / scatter if scatter > 0 else nan
    notes = [retention.note or verdict(constant, "the decay constant")]
    half, gone = (
        _interval(nan if notes[0] else float(_steps_until(left, a, b)), _steps_until(left, *resampled), retention)
        for left in (0.5, 0.0)
    )
    if not notes[0] and not retention.since[measured][0] <= half.value <= retention.since[-1]:
        notes.append(f"the half-life is extrapolated to {half.value:.3g} steps")
    if r_squared < POOR_FIT:
        notes.append(f"the line in ln t fits poorly (R^2 = {r_squared:.2f})")
    return Decay(constant, b, r_squared, half, gone, "; ".join(filter(None, notes)))


def half_life(retention: Retention) -> Interval:
    """Steps since the maximum at which R first is 1/2 or less, from the curve itself, interpolated in ln t.

    inf if it never is; the first measured step, an upper bound, if it is by then; NaN where there was no gain to retain.
    """
    measured = retention.since > 0
    if not measured.any():
        raise DataError("a half-life needs a measurement after the maximum")
    since, curves = retention.since[measured], retention.resampled[:, measured]
    resampled = np.array([_half_crossing(since, curve) for curve in curves])
    return _interval(_half_crossing(since, retention.curve[measured]), resampled, retention)


# ------------------------------------------------------------------------------------------------ forgetting of attacks


@dataclass(frozen=True)
class Forgotten:
    """Whether, and how many steps after the last exposure, an attack is for good as weak as asked."""

    since: float | None
    rates: list[Interval]  # of success, at each measured step
    verdict: str


def forgets(successes: ArrayLike, n: int, since: ArrayLike, alpha: float) -> Forgotten:
    """(A, alpha, k)-forgetting: k steps after the last exposure, attack A succeeds at a rate of at most alpha (Jagielski et al.,
    2023, arXiv:2207.00099).

    `successes`, (K,), of n trials (groups) at each of `since`, (K,) rising steps. Forgotten from k on: the upper end of the rate's
    `statistics.proportion` is at most alpha there and at all later steps measured. As all must be, many tests need no correction.
    Not forgotten: at the last step the lower end is above alpha. Else n trials can't decide.

    >>> forgets([30, 9, 0, 0], 50, [10, 100, 1000, 2000], alpha=0.1).since
    1000.0
    """
    counts = np.asarray(successes, dtype=float)
    at = _rising(since, len(counts), "steps since the last exposure")
    rates = [proportion(count, n) for count in counts.tolist()]
    first = max((i + 1 for i, rate in enumerate(rates) if rate.high > alpha), default=0)
    if first < len(rates):
        return Forgotten(float(at[first]), rates, f"forgotten from {at[first]:g} steps on")
    if rates[-1].above(alpha):
        return Forgotten(None, rates, f"not forgotten after {at[-1]:g} steps")
    least = proportion(0, n).high
    why = f": without one success, a rate of {least:.2g} is possible" if least > alpha else ""
    return Forgotten(None, rates, f"not decidable with {n} trials{why}")


# ------------------------------------------------------------------------------------------------ windows


@dataclass(frozen=True)
class WindowEffect:
    """Final gains by window of insertion, in order of time, and the learning rates that they are due to."""

    gains: list[Interval]
    learning_rates: list[float]  # mean at a window's exposures
    per_dose: list[Interval]  # gain per unit of learning rate, summed over a group's exposures
    last_minus_first: Interval
    per_dose_last_minus_first: Interval
    trend: Interval  # slope of the gain, per window
    note: str


def window_effect(
    gain: Sequence[ArrayLike], twins: ArrayLike, learning_rates: Sequence[ArrayLike], resamples: int, seed: int
) -> WindowEffect:
    """Whether texts inserted later are remembered better when training ends, as between Hubble's windows (2025, arXiv:2510.19811).

    Of each window, first to last: `gain`, (groups,) at the last step, and `learning_rates`, (copies,) or (groups, copies), at its
    exposures; `twins` is (groups',). A schedule that decays teaches late windows less, which hides recency. To first order a copy's
    gain is proportional to its learning rate: gains per dose (nats per unit of learning rate) compare schedules, but overstate
    windows of low rates where gains saturate. The twins' error cancels in `last_minus_first` and `trend`, and is counted twice per
    dose, on the wide side. `DataError` for fewer than 2 windows or a learning rate that is not positive.
    """
    own, rates = ([np.asarray(each, dtype=float) for each in both] for both in (gain, learning_rates))
    if len(own) < 2 or len(own) != len(rates) or not all(each.size and (each > 0).all() for each in rates):
        raise DataError("a window effect needs 2 windows or more, each with gains and with learning rates above 0 at its exposures")
    intervals = [_mean_gain(each, np.asarray(twins, dtype=float)) for each in own]
    doses = [float(each.sum(axis=-1).mean()) for each in rates]
    per_dose = [Interval(i.value / dose, i.low / dose, i.high / dose, i.n) for i, dose in zip(intervals, doses, strict=True)]
    window = np.repeat(np.arange(len(own)), [len(each) for each in own])
    trend = slope(window, np.concatenate(own), np.arange(len(window)), window, resamples, seed)
    means = [float(each.mean()) for each in rates]
    first, final = means[0], means[-1]
    change = "falls" if final < first else "rises"
    note = f"recency is confounded: the learning rate {change} from {first:.2g} in the first window to {final:.2g} in the last"
    contrast, dosed = _mean_gain(own[-1], own[0]), difference(per_dose[-1], per_dose[0])
    return WindowEffect(intervals, means, per_dose, contrast, dosed, trend, "" if np.isclose(first, final, atol=0) else note)


# ------------------------------------------------------------------------------------------------ means, resamples, arguments


def _mean_gain(own: Floats, others: Floats) -> Interval:
    """The mean of one value a group over that of other groups."""
    return mean_difference(own, np.arange(len(own)), others, np.arange(len(others)))


def _resampled_means(curves: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Mean curves, (resamples, steps), of c - 1 draws with replacement from c groups; NaN for one group, which shows no spread."""
    c = len(curves)
    if c == 1:
        return np.full((resamples, curves.shape[1]), nan)
    return generator.multinomial(c - 1, np.full(c, 1 / c), resamples) @ curves / (c - 1)


def _limits(resampled: Floats) -> tuple[Floats, Floats]:
    """95% percentile limits over the first axis, rounded outwards; an undefined resample counts as unbounded on both sides."""
    tail, undefined = 0.025, np.isnan(resampled)
    low = np.quantile(np.where(undefined, -inf, resampled), tail, axis=0, method="lower")
    return low, np.quantile(np.where(undefined, inf, resampled), 1 - tail, axis=0, method="higher")


def _interval(value: float, resampled: Floats, of: Retention) -> Interval:
    """Nothing is known of a value that is NaN, whatever came of the resamples."""
    low, high = (-inf, inf) if isnan(value) else _limits(resampled)
    return Interval(value, float(low), float(high), of.learned.n)


def _line(log_since: Floats, curves: Floats) -> tuple[Floats, Floats]:
    """(a, b) of the least-squares line b - a ln t of each curve, whose last axis is t."""
    centred = log_since - log_since.mean()
    a = -(curves @ centred) / (centred @ centred)
    return a, curves.mean(axis=-1) + a * log_since.mean()


def _steps_until(left: float, a: Floats | float, b: Floats | float) -> Floats:
    """Steps t at which b - a ln t = left; inf where the line does not fall."""
    with np.errstate(over="ignore"):
        return np.where(a <= 0, inf, np.exp((b - left) / np.where(a == 0, nan, a)))


def _half_crossing(since: Floats, curve: Floats) -> float:
    """The step at which a curve, (T,), first is 1/2 or less; see `half_life`. NaN of NaN."""
    below = np.flatnonzero(curve <= 0.5)
    if not len(below):
        return nan if isnan(curve[0]) else inf
    if (right := below[0]) == 0:
        return float(since[0])
    pair = [right, right - 1]
    return exp(np.interp(0.5, curve[pair], np.log(since[pair])))


def _curves(*arrays: ArrayLike) -> list[Floats]:
    """Arrays of (rows, steps), some of each, finite, and of equally many steps."""
    curves = [np.asarray(array, dtype=float) for array in arrays]
    shapes = [each.shape for each in curves]
    if any(len(shape) != 2 or 0 in shape or shape[1] != shapes[0][1] for shape in shapes):
        raise DataError(f"curves must be of items and the same steps, not of shapes {', '.join(map(str, shapes))}")
    if bad := sum(int((~np.isfinite(each)).sum()) for each in curves):
        raise DataError(f"{bad} values of the curves are NaN or infinite")
    return curves


def _rising(steps: ArrayLike, n: int, name: str) -> Floats:
    at = np.asarray(steps, dtype=float)
    if at.shape != (n,) or not (np.diff(at) > 0).all():
        raise DataError(f"{name} must rise and be {n}, one for each measurement")
    return at
