"""Forgetting: gains over twins, the step of the maximum, what is retained and how it decays, and windows under two schedules."""

from math import exp, inf, isnan, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from eval.forgetting import (
    by_group,
    decay_fit,
    effectivity,
    forgets,
    forgetting_baseline,
    gains,
    half_life,
    local_maximum,
    retainability,
    since_last_exposure,
    verdict,
    window_effect,
)
from eval.statistics import Interval, mean

quick = settings(max_examples=30, deadline=None)  # shared machines stall

STEPS = np.array([0, 100, 110, 120, 140, 180, 260, 420, 740, 1100])
PEAK = 2  # a copy in the batch of step 100, the maximum at 110


def planted(a, intercept=1.0, groups=12, learned=4.0, spread=0.3, noise=0.0, seed=0):
    """Gains, (groups, steps), of groups that learn about `learned` nats, of which intercept - a ln t are left."""
    generator = np.random.default_rng(seed)
    since = STEPS - STEPS[PEAK]
    left = np.where(since > 0, intercept - a * np.log(np.maximum(since, 1)), 1) * (STEPS > 100)
    amplitudes = learned * np.exp(spread * generator.normal(size=(groups, 1)))
    return amplitudes * left + noise * generator.normal(size=(groups, len(STEPS)))


def noise(groups=24, scale=1.0, seed=1):
    curves = scale * np.random.default_rng(seed).normal(size=(groups, len(STEPS)))
    return curves - curves.mean(axis=0)


def over_twins(values, scale, seed, n=24):
    """(gains, twins' gains) of values over n noisy twins, whose mean is off by chance."""
    twins = scale * np.random.default_rng(seed).normal(size=(n, values.shape[1]))
    return gains(values, [0] * len(values), twins, [0] * n), gains(twins, [0] * n, twins, [0] * n)


def retained(gain, twins=None, resamples=400):
    twins = noise(scale=0.01) if twins is None else twins
    return retainability(gain, twins, STEPS, before=1, peak=PEAK, resamples=resamples, seed=0)


# ------------------------------------------------------------------------------------------------ curves


def test_a_gain_is_over_the_twins_of_the_same_stratum_at_the_same_step():
    values, twins = [[5, 9], [1, 1]], [[1, 4], [3, 6], [10, 20]]
    assert gains(values, ["a", "b"], twins, ["a", "a", "b"]).tolist() == [[3, 4], [-9, -19]]


@quick
@given(st.lists(st.floats(-10, 10), min_size=4, max_size=4), st.integers(0, 1000))
def test_what_moves_items_and_twins_alike_moves_no_gain(drift, seed):
    generator = np.random.default_rng(seed)
    values, twins = generator.normal(size=(3, 4)), generator.normal(size=(5, 4))
    alike = ["a"] * 3, ["a"] * 5
    still, moved = gains(values, alike[0], twins, alike[1]), gains(values + drift, alike[0], twins + drift, alike[1])
    assert moved == pytest.approx(still, abs=1e-12)


def test_twins_have_gains_over_themselves_of_mean_zero():
    twins = np.random.default_rng(0).normal(size=(6, 4))
    assert gains(twins, [0, 0, 0, 1, 1, 1], twins, [0, 0, 0, 1, 1, 1]).mean(axis=0) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("values", "strata", "twins", "why"),
    [
        ([[1.0, 2.0]], ["b"], [[1.0, 2.0]], "no never-inserted twins in b"),
        ([[1.0, 2.0]], ["a"], [[1.0]], r"shapes \(1, 2\), \(1, 1\)"),
        ([[1.0, inf]], ["a"], [[1.0, 2.0]], "1 values of the curves are NaN or infinite"),
        ([[1.0, 2.0]], ["a", "a"], [[1.0, 2.0]], "a stratum each, not 2 and 1"),
        ([1.0, 2.0], ["a"], [[1.0, 2.0]], "curves must be of items"),
    ],
)
def test_gains_without_matched_twins_are_refused(values, strata, twins, why):
    with pytest.raises(DataError, match=why):
        gains(values, strata, twins, ["a"])


def test_a_group_counts_once_however_many_items_it_has():
    curves = by_group([[1, 2], [3, 4], [5, 6], [0, 0]], ["x", "x", "x", "y"])
    assert curves.tolist() == [[3, 4], [0, 0]]
    with pytest.raises(DataError, match="each of the 1 items, not 2"):
        by_group([[1.0]], ["x", "y"])


def test_curves_are_laid_over_each_items_own_last_exposure():
    gain = [[0, 8, 4, 2], [0, 0, 6, 3]]
    aligned = since_last_exposure(gain, steps=[0, 20, 40, 60], last=[10, 30], since=[-10, 10, 20, 30])
    assert aligned.tolist() == [[0, 8, 6, 4], [0, 6, 4.5, 3]]


@pytest.mark.parametrize("since", [-1, 1, 5, 200])  # the exposure lies between the measurements, or nothing follows
def test_no_value_is_made_up_across_an_exposure_or_beyond_the_measurements(since):
    with pytest.raises(DataError, match=f"item 0 was not measured around {since} steps after"):
        since_last_exposure([[0.0, 8.0, 4.0]], [0, 20, 100], last=[10], since=[since])


# ------------------------------------------------------------------------------------------------ the maximum


def test_the_maximum_is_sought_after_the_exposure_and_within_the_window():
    curve, steps = [9, 9, 1, 5, 3, 8], [0, 100, 101, 130, 150, 151]
    assert local_maximum(curve, steps, after=100) == 3
    assert local_maximum(curve, steps, after=100, within=51) == 5


@pytest.mark.parametrize(("after", "within"), [(151, 50), (101, 20)])
def test_a_window_without_measurements_is_refused(after, within):
    with pytest.raises(DataError, match=f"in the {within} steps after step {after}"):
        local_maximum([0, 0, 0, 0], [0, 100, 101, 151], after, within)


def test_steps_that_do_not_rise_are_refused():
    with pytest.raises(DataError, match="steps must rise and be 3"):
        local_maximum([0, 0, 0], [0, 10, 10], after=0)


def test_each_items_own_maximum_of_pure_noise_looks_like_forgetting():
    candidates, last = slice(2, 6), -1
    for seed in range(5):
        arm, twins = noise(40, seed=seed), noise(40, seed=100 + seed)
        fallen, also = (curves[:, candidates].max(axis=1) - curves[:, last] for curves in (arm, twins))
        assert mean(fallen, range(40)).above(0.3)  # 1.03 standard deviations, the mean of the highest of four
        assert mean(also, range(40)).above(0.3)  # twins, which nobody ever taught, by the same rule


def test_the_arms_maximum_of_pure_noise_does_not():
    falls, notes = [], []
    for seed in range(200):
        arm, twins = over_twins(np.random.default_rng(seed).normal(size=(40, len(STEPS))), 1.0, seed=1000 + seed)
        peak = local_maximum(arm.mean(axis=0), STEPS, after=100, within=80)
        falls.append(arm[:, peak].mean() - arm[:, -1].mean())
        notes.append(retainability(arm, twins, STEPS, 1, peak, resamples=10, seed=0).note)
    assert np.mean(falls) == pytest.approx(1.03 * np.sqrt(1 / 40 + 1 / 24), abs=0.05)
    assert np.mean([note == "the gain at its maximum is not distinguishable from zero" for note in notes]) > 0.85


# ------------------------------------------------------------------------------------------------ what was learned


def test_effectivity_is_the_gain_at_the_maximum_less_that_before():
    gain, twins = [[0, 1, 3, 9], [0, 1, 5, 9]], [[0, 1, 0, 0], [0, -1, 0, 0]]
    learned = effectivity(gain, twins, before=1, peak=2)
    half = 12.7062 * np.hypot(1, 1)  # t of one degree of freedom, on 2 and 4 and on -1 and 1
    assert (learned.value, learned.low, learned.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-3)
    assert learned.n == 4


def test_the_spread_of_the_twins_is_part_of_the_interval():
    gain = planted(0.1)
    sure, unsure = (effectivity(gain, noise(scale=scale), 1, PEAK) for scale in (0.01, 5))
    assert unsure.value == pytest.approx(sure.value)
    assert unsure.high - unsure.low > 2 * (sure.high - sure.low)


@pytest.mark.parametrize(("before", "peak"), [(2, 2), (3, 2), (-1, 2), (0, 10)])
def test_an_exposure_must_precede_its_maximum(before, peak):
    with pytest.raises(DataError, match="must precede its maximum"):
        effectivity(planted(0.1), noise(), before, peak)


def test_the_baseline_is_the_least_that_the_arm_keeps():
    gain = np.array([[0, 6, 2, 3], [0, 8, 4, 3], [0, 7, 1, 6.0]])
    baseline = forgetting_baseline(gain, np.array([[0, 0, 1, 0], [0, 0, -1, 0.0]]), peak=1)
    assert baseline.value == pytest.approx(7 / 3)  # 2, 4 and 1; the least of the items' own would be 2, 3 and 1
    assert baseline.contains(0)
    with pytest.raises(DataError, match="number 4, is not of the 4 steps"):
        forgetting_baseline(gain, gain, peak=4)


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.1, -0.1, 0.3), "it is not distinguishable from zero"),
        ((0.2, 0.1, 0.3), ""),
        ((-0.2, -0.3, -0.1), "it is below zero"),
        ((0.2, -inf, inf), "the uncertainty of it is unknown: its groups are all alike, or there is one"),
    ],
)
def test_an_interval_that_is_not_above_zero_is_never_left_without_words(interval, said):
    assert verdict(Interval(*interval, n=4), "it") == said


# ------------------------------------------------------------------------------------------------ retainability


def test_retainability_is_a_ratio_of_means():
    gain = np.tile([[1, 5, 3, 1], [1, 3, 3, 1.0]], (10, 1))
    curve = retainability(gain, np.zeros((5, 4)) + 0.01 * np.eye(5, 4), [0, 1, 5, 9], 0, 1, resamples=200, seed=0).curve
    assert curve == pytest.approx([1, 2 / 3, 0], abs=0.01)  # the mean of ratios would be 3/4


@quick
@given(st.floats(0.1, 100), st.integers(0, 100))
def test_the_unit_of_the_gain_does_not_matter(unit, seed):
    gain, twins = planted(0.1, noise=0.5, seed=seed), noise(scale=0.1)
    one, other = retained(gain, twins, 50), retained(unit * gain, unit * twins, 50)
    assert other.curve == pytest.approx(one.curve)
    assert other.low == pytest.approx(one.low)


def test_intervals_of_the_curve_contain_it_and_start_at_one():
    found = retained(planted(0.12, noise=0.5))
    assert (found.low <= found.curve).all()
    assert (found.curve <= found.high).all()
    assert found.low[0] == found.curve[0] == found.high[0] == 1
    assert found.since.tolist() == [0, 10, 30, 70, 150, 310, 630, 990]
    assert found.note == ""


def test_resamples_of_few_groups_spread_as_means_of_them_do():
    gain = np.stack([np.zeros(4), np.ones(4), [0.2, 0.4, 0.6, 1.0]], axis=1) + 1e-9 * np.eye(4, 3)
    found = retainability(gain, 1e-9 * np.eye(4, 3), [0, 1, 2], 0, 1, resamples=20_000, seed=0)
    standard_error = np.std([0.2, 0.4, 0.6, 1.0], ddof=1) / 2
    assert found.resampled[:, 1].std() == pytest.approx(standard_error, rel=0.03)  # four draws of four would give 0.87 of it


def test_the_mean_and_the_spread_of_the_twins_are_part_of_what_is_retained():
    gain, quiet = planted(0.1, spread=0.01), noise(scale=0.01)
    later = np.arange(len(STEPS)) > PEAK
    plain, moved, loud = (retained(gain, twins) for twins in (quiet, quiet + 0.4 * later, noise(scale=1.0)))
    assert moved.curve[1:] == pytest.approx(plain.curve[1:] - 0.1, abs=0.005)  # 0.4 of 4 nats
    assert (loud.high - loud.low)[1:].min() > 5 * (plain.high - plain.low)[1:].max()


def test_without_a_gain_there_is_nothing_to_retain_decay_or_halve():
    found = retained(planted(0.1, learned=0.05, noise=1.0), noise(scale=1.0))
    said = "the gain at its maximum is not distinguishable from zero"
    fit = decay_fit(found)
    assert found.note == fit.note == said
    assert np.isnan(found.curve).all()
    assert (found.low[1], found.high[1]) == (-inf, inf)
    for interval in (fit.constant, fit.half_life, half_life(found)):
        assert isnan(interval.value)
        assert (interval.low, interval.high) == (-inf, inf)


def test_one_group_does_not_show_its_spread():
    assert retained(planted(0.1, groups=1)).note.startswith("the uncertainty of the gain at its maximum is unknown")


# ------------------------------------------------------------------------------------------------ decay


def test_a_planted_decay_is_found():
    fit = decay_fit(retained(planted(0.1)))
    assert fit.constant.value == pytest.approx(0.1, abs=1e-3)
    assert fit.intercept == pytest.approx(1, abs=3e-3)
    assert fit.r_squared > 0.999
    assert fit.half_life.value == pytest.approx(exp(5), rel=0.02)
    assert fit.threshold.value == pytest.approx(exp(10), rel=0.05)
    assert fit.note == ""


def test_the_constant_of_four_measurements_by_hand():
    gain = np.tile([0, 1, 0.9, 0.8, 0.4], (6, 1)) * np.linspace(0.8, 1.2, 6)[:, None]  # at ln t = 0, 1 and 2
    found = retainability(gain, 1e-6 * np.eye(5), [0, 1, 2, 1 + exp(1), 1 + exp(2)], 0, 1, resamples=100, seed=0)
    fit = decay_fit(found)
    assert (fit.constant.value, fit.intercept) == pytest.approx((0.25, 0.95), abs=1e-4)
    assert fit.r_squared == pytest.approx(1 - 0.015 / 0.14, abs=1e-4)  # residuals -.05, .1 and -.05
    assert half_life(found).value == pytest.approx(exp(1.75), rel=1e-4)  # .8 at ln t = 1, .4 at 2
    assert fit.half_life.value == pytest.approx(exp(1.8), rel=1e-3)


def test_the_interval_of_the_constant_covers_what_was_planted():
    covered = []
    for seed in range(60):
        arm, twins = over_twins(planted(0.12, noise=0.6, seed=seed), 0.6, seed=500 + seed)
        covered.append(decay_fit(retained(arm, twins)).constant.contains(0.12))
    assert np.mean(covered) > 0.85  # a percentile bootstrap of 12 groups stays a little below 95%


def test_what_stays_is_said_to_stay():
    found = retained(planted(0.0, noise=0.8, seed=3))
    fit = decay_fit(found)
    assert fit.constant.contains(0)
    assert fit.note.startswith("the decay constant is not distinguishable from zero")
    assert isnan(fit.half_life.value)
    assert (fit.half_life.low, fit.half_life.high) == (-inf, inf)
    assert half_life(found).value == inf


def test_a_decay_so_slow_that_its_half_life_is_no_float_is_endless_and_said_to_be_extrapolated():
    fit = decay_fit(retained(planted(5e-4), noise(scale=1e-6)))
    assert fit.half_life.value == fit.threshold.value == inf
    assert fit.note == "the half-life is extrapolated to inf steps"


def test_a_fit_that_is_poor_is_said_to_be():
    gain = planted(0.0)
    gain[:, PEAK + 1 :] *= [0.9, 0.2, 0.7, 0.1, 0.8, 0.2, 0.4]
    assert "the line in ln t fits poorly (R^2 = 0." in decay_fit(retained(gain)).note


def test_two_measurements_are_too_few_to_fit():
    found = retainability(planted(0.1)[:, :5], noise()[:, :5], STEPS[:5], 1, PEAK, resamples=10, seed=0)
    with pytest.raises(DataError, match="3 steps after the maximum or more, not 2"):
        decay_fit(found)


def test_a_half_life_is_where_the_curve_first_crosses_a_half_in_the_logarithm_of_time():
    found = retained(planted(0.1))
    assert half_life(found).value == pytest.approx(exp(5), rel=0.01)  # between 70 and 150 steps
    assert half_life(found).low <= exp(5) <= half_life(found).high * 1.01


def test_a_half_life_before_the_first_measurement_is_bounded_by_it():
    assert half_life(retained(planted(0.3))).value == 10  # 1 - 0.3 ln 10 = 0.31


def test_a_half_life_needs_a_later_measurement():
    found = retainability(planted(0.1)[:, :3], noise(scale=0.1)[:, :3], STEPS[:3], 1, PEAK, resamples=10, seed=0)
    with pytest.raises(DataError, match="a measurement after the maximum"):
        half_life(found)


def test_drift_that_hides_forgetting_in_raw_values_is_gone_from_gains():
    """In kind the runs of the note: R^2 above .95, a of .12 a factor e and a half-life of 160 to 200 steps, beneath a drift of
    two nats that made the raw loss of never-inserted canaries rise by as much as inserted ones had learned.
    """
    drift = -2 * STEPS / STEPS[-1]
    raw = planted(0.12, intercept=1.13, groups=8, learned=2.2, noise=0.1) + drift - 8.3
    others = 0.1 * np.random.default_rng(9).normal(size=(24, len(STEPS))) + drift - 8.3
    alike = [0] * 8, [0] * 24
    gain, twins = gains(raw, alike[0], others, alike[1]), gains(others, alike[1], others, alike[1])
    peak = local_maximum(gain.mean(axis=0), STEPS, after=100)
    retention = retainability(gain, twins, STEPS, 1, peak, resamples=400, seed=0)
    fit = decay_fit(retention)
    undone = (raw[:, -1] - raw[:, 1]).mean() / (raw[:, peak] - raw[:, 1]).mean()
    assert undone < -0.4  # the raw loss says that more was forgotten than had been learned
    assert fit.r_squared > 0.95
    assert fit.constant.contains(0.12)
    assert fit.constant.value * log(10) == pytest.approx(0.28, abs=0.05)
    assert 120 < fit.half_life.value < 300
    assert 120 < half_life(retention).value < 300
    assert forgetting_baseline(gain, twins, peak).above(0)


# ------------------------------------------------------------------------------------------------ forgetting of attacks


@pytest.mark.parametrize(
    ("successes", "n", "since", "said"),
    [
        ([30, 0, 0], 50, 100, "forgotten from 100 steps on"),  # 0 of 50: at most 0.071
        ([30, 0, 20, 0], 50, 1000, "forgotten from 1000 steps on"),  # once is not for good
        ([0, 0, 0], 50, 10, "forgotten from 10 steps on"),
        ([50, 40, 30], 50, None, "not forgotten after 500 steps"),  # 30 of 50: at least 0.45
        ([30, 8, 8], 50, None, "not decidable with 50 trials"),  # 8 of 50: 0.07 to 0.29
        ([10, 0, 0], 10, None, "not decidable with 10 trials: without one success, a rate of 0.31 is possible"),
    ],
)
def test_what_is_forgotten_is_so_for_good_and_beyond_doubt(successes, n, since, said):
    found = forgets(successes, n, [10, 100, 500, 1000][: len(successes)], alpha=0.1)
    assert (found.since, found.verdict) == (since, said)
    assert [rate.value for rate in found.rates] == [count / n for count in successes]


@quick
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.floats(0.01, 0.98), st.floats(0.01, 0.5))
def test_a_laxer_attack_is_never_forgotten_later(successes, alpha, more):
    strict, lax = (forgets(successes, 30, range(1, 1 + len(successes)), level).since for level in (alpha, min(1, alpha + more)))
    assert strict is None or (lax is not None and lax <= strict)


def test_attacks_measured_out_of_order_are_refused():
    with pytest.raises(DataError, match="steps since the last exposure must rise"):
        forgets([1, 0], 10, [100, 10], alpha=0.1)


# ------------------------------------------------------------------------------------------------ windows

# mean gains at the end, nats a token, of four windows: the note's runs
CONSTANT, COSINE = [1.07, 2.04, 2.77, 7.52], [1.29, 2.18, 2.40, 2.39]
EXPOSED = (np.arange(32) + 0.5) / 32  # the share of training at which each of 32 copies is seen, 8 a window
FALLING = (1e-3 * (1 + np.cos(np.pi * EXPOSED)) / 2).reshape(4, 8)


def windows(means, rates, groups=8, seed=0):
    generator = np.random.default_rng(seed)
    gain = [value + 0.2 * generator.normal(size=groups) for value in means]
    return window_effect(gain, 0.2 * generator.normal(size=24), rates, resamples=400, seed=0)


def test_a_window_effect_by_hand():
    found = window_effect(
        [[1, 3], [2, 4], [6, 8]], [-1, 1], [[0.1, 0.1], [[0.1, 0.2], [0.1, 0.2]], [0.2, 0.3]], resamples=200, seed=0
    )
    assert [interval.value for interval in found.gains] == [2, 3, 7]
    assert found.last_minus_first.value == 5
    assert found.trend.value == pytest.approx(2.5)
    assert [interval.value for interval in found.per_dose] == pytest.approx([10, 10, 14])
    assert found.per_dose_last_minus_first.value == pytest.approx(4)
    assert found.learning_rates == pytest.approx([0.1, 0.15, 0.25])
    assert found.note == "recency is confounded: the learning rate rises from 0.1 in the first window to 0.25 in the last"


def test_under_a_constant_learning_rate_the_last_window_wins():
    found = windows(CONSTANT, np.full((4, 8), 1e-3))
    assert found.last_minus_first.value == pytest.approx(6.45, abs=0.3)
    assert found.last_minus_first.above(0)
    assert found.trend.above(0)
    assert found.note == ""
    assert found.per_dose[0].value == pytest.approx(found.gains[0].value / 8e-3)


def test_a_cosine_hides_recency_and_the_dose_shows_it():
    constant, cosine = windows(CONSTANT, np.full((4, 8), 1e-3)), windows(COSINE, FALLING)
    assert cosine.last_minus_first.high < constant.last_minus_first.low / 3
    late = windows(COSINE[1:], FALLING[1:])
    assert late.last_minus_first.value == pytest.approx(0.2, abs=0.2)
    assert late.per_dose_last_minus_first.above(0)
    assert "the learning rate falls from 0.00095 in the first window to 5e-05 in the last" in cosine.note


def test_twins_do_not_blur_the_contrast_of_windows():
    gain, rates = [[1, 2, 3, 2], [5, 6, 7, 6]], [[0.1], [0.1]]
    sure, unsure = (window_effect(gain, scale * np.arange(-5, 6), rates, 100, 0) for scale in (0.1, 100))
    assert sure.last_minus_first == unsure.last_minus_first
    assert sure.gains[0].high < unsure.gains[0].high


@pytest.mark.parametrize(
    ("gain", "rates"),
    [([[1, 2]], [[0.1]]), ([[1, 2], [3, 4]], [[0.1]]), ([[1, 2], [3, 4]], [[0.1], [0.0]]), ([[1, 2], [3, 4]], [[0.1], []])],
)
def test_windows_without_learning_rates_are_refused(gain, rates):
    with pytest.raises(DataError, match="2 windows or more"):
        window_effect(gain, [0, 1], rates, 10, 0)
