"""Further intervals of the AUC: DeLong's and the bootstrap's, and where each gives way to one that is never a point."""

import time
from functools import partial
from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from configs.errors import DataError
from eval.statistics import bootstrap_auc, delong_auc, stratified_auc, stratified_delong

MEMBERS, NON_MEMBERS = [0.9, 0.8, 0.7, 0.2], [0.6, 0.5, 0.4, 0.3]
Z = 1.959963984540054  # the 97.5% quantile of the standard normal
INTERVALS = [stratified_delong, bootstrap_auc]

quick = settings(max_examples=30, deadline=None)  # shared machines stall
few_values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)  # ties are common


def classes(separation, sizes, seed):
    generator = np.random.default_rng(seed)
    return [(generator.normal(separation, size=m), generator.normal(size=n)) for m, n in sizes]


# ------------------------------------------------------------------------------------------------ DeLong


def test_delongs_standard_error_by_hand():
    # members lie above 4, 4, 4 and 0 of 4: variance 1/4, over 4; each non-member below 3 of 4: no variance
    interval = delong_auc(MEMBERS, NON_MEMBERS, level=0.5)
    assert (interval.value, interval.n) == (0.75, 8)
    assert (interval.high - 0.75) / stats.norm.ppf(0.75) == pytest.approx(0.25)


def test_delongs_interval_is_cut_to_the_unit_interval():
    interval = delong_auc(MEMBERS, NON_MEMBERS)
    assert (interval.low, interval.high) == pytest.approx((0.75 - Z * 0.25, 1))


@quick
@given(few_values, few_values)
def test_delongs_variance_is_that_of_the_pairs(members, non_members):
    wins = (np.subtract.outer(members, non_members) > 0) + 0.5 * (np.subtract.outer(members, non_members) == 0)
    if min(wins.shape) == 1 or (wins == wins[0, 0]).all():
        assert delong_auc(members, non_members) == stratified_auc([(members, non_members)])
        return
    variance = wins.mean(axis=1).var(ddof=1) / len(members) + wins.mean(axis=0).var(ddof=1) / len(non_members)
    interval = delong_auc(members, non_members)
    half = Z * sqrt(variance)
    expected = (wins.mean(), max(0, wins.mean() - half), min(1, wins.mean() + half))
    assert (interval.value, interval.low, interval.high) == pytest.approx(expected)


def test_strata_add_their_variances_by_the_squares_of_their_weights():
    wide = ([1.0, 3.0, 5.0, 7.0] * 2, [0.0, 2.0, 4.0, 6.0])
    strata = [(MEMBERS, NON_MEMBERS), wide]  # 16 and 32 pairs
    alone = [delong_auc(*pair, level=0.1) for pair in strata]
    halves = np.array([interval.high - interval.value for interval in alone])
    both = stratified_delong(strata, level=0.1)
    assert both.high - both.value == pytest.approx(sqrt(((np.array([1, 2]) / 3 * halves) ** 2).sum()))


# ------------------------------------------------------------------------------------------------ bootstrap


def test_the_bootstrap_has_delongs_width_in_large_classes():
    strata = classes(0.5, [(300, 300), (100, 300)], seed=0)
    delong, bootstrap = stratified_delong(strata), bootstrap_auc(strata)
    assert bootstrap.high - bootstrap.low == pytest.approx(delong.high - delong.low, rel=0.06)
    assert bootstrap.low == pytest.approx(delong.low, abs=0.01)


def test_the_bootstrap_of_two_against_two_by_hand():
    # one draw of each class (c - 1): each of four pairs equally often, of which (1, 2) alone is in the wrong order
    strata = [([1.0, 3.0], [0.0, 2.0])]
    assert (bootstrap_auc(strata, level=0.8).low, bootstrap_auc(strata, level=0.4).low) == (0, 1)


def test_the_bootstrap_credits_ties_with_a_half():
    strata = [([1.0, 1.0], [1.0, 0.0])]  # one draw each: half or a whole
    assert bootstrap_auc(strata).low == 0.5
    assert bootstrap_auc(strata).value == 0.75


def test_the_bootstrap_repeats_itself_and_its_seed_matters():
    strata = classes(0.5, [(20, 20)], seed=0)
    assert bootstrap_auc(strata, seed=1) == bootstrap_auc(strata, seed=1) != bootstrap_auc(strata, seed=2)


def test_every_resample_takes_part_whatever_the_size_of_a_block():
    strata = classes(0.5, [(20, 20)], seed=0)
    few, many = (bootstrap_auc(strata, resamples=resamples) for resamples in (7, 700))
    assert few.low <= few.high
    assert many.high - many.low == pytest.approx(0.33, abs=0.06)


def test_a_thousand_against_a_thousand_takes_a_second():
    strata = classes(0.5, [(1000, 1000)], seed=0)
    start = time.process_time()
    bootstrap_auc(strata)
    assert time.process_time() - start < 10  # 0.5 s on an idle machine


# ------------------------------------------------------------------------------------------------ both


@pytest.mark.parametrize("interval", INTERVALS)
@quick
@given(strata=st.lists(st.tuples(few_values, few_values), min_size=1, max_size=4))
def test_the_value_is_the_stratified_auc_and_lies_within(interval, strata):
    found = interval(strata)
    assert (found.value, found.n) == (stratified_auc(strata).value, stratified_auc(strata).n)
    assert 0 <= found.low <= found.high <= 1
    assert found.low < found.high or interval is bootstrap_auc  # few resamples of few values may agree


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize(
    "strata",
    [
        [(np.arange(4) + 100, np.arange(24))],
        [(np.arange(4) - 100, np.arange(24))],
        [([1.0, 1.0], [1.0, 1.0])],
        [([0.5], NON_MEMBERS)],
        [(MEMBERS, NON_MEMBERS), ([8.0, 9.0], [1.0, 2.0])],
    ],
    ids=["auc 1", "auc 0", "all tied", "one member", "one stratum with auc 1"],
)
def test_a_stratum_without_visible_variance_has_the_interval_that_is_never_a_point(interval, strata):
    assert interval(strata) == stratified_auc(strata)
    assert interval(strata).low < interval(strata).high


@pytest.mark.parametrize("interval", [stratified_delong, partial(bootstrap_auc, resamples=400)], ids=["delong", "bootstrap"])
@pytest.mark.parametrize("separation", [0.0, 1.0])
def test_the_interval_covers_the_true_auc(interval, separation):
    truth = stats.norm.cdf(separation / sqrt(2))
    covered = sum(interval(classes(separation, [(12, 24)] * 3, seed), level=0.9).contains(truth) for seed in range(100))
    assert covered / 100 > 0.8  # 0.9 less about three standard errors


@pytest.mark.parametrize("interval", INTERVALS)
def test_a_difference_between_strata_is_no_evidence_of_membership(interval):
    members_of_easy, non_members_of_hard = [10.0, 11.0, 12.0], [0.0, 1.0, 2.0]
    strata = [(members_of_easy, [10.0, 11.0, 12.0]), ([0.0, 1.0, 2.0], non_members_of_hard)]
    assert interval(strata).contains(0.5)


@pytest.mark.parametrize("interval", INTERVALS)
def test_infinite_scores_are_ranked(interval):
    finite, infinite = [([3.0, 1.0], [2.0, 0.0])], [([inf, 1.0], [2.0, -inf])]
    assert interval(infinite) == interval(finite)


@pytest.mark.parametrize("interval", INTERVALS)
def test_bad_scores_are_refused(interval):
    with pytest.raises(DataError, match="no non-members"):
        interval([(MEMBERS, [])])
    with pytest.raises(DataError, match="1 of the 2 scores of members are NaN"):
        interval([([1, nan], NON_MEMBERS)])
    with pytest.raises(DataError, match="at least one stratum"):
        interval([])
