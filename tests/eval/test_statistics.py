"""Proportions, AUC, ROC, slopes, means and adjusted p-values: hand-computed numbers, other libraries, and properties."""

import time
from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from configs.errors import DataError
from eval.statistics import (
    Interval,
    auc,
    difference,
    holm,
    mean,
    mean_difference,
    proportion,
    roc_curve,
    slope,
    stratified_auc,
    true_positive_rate_at,
)

MEMBERS, NON_MEMBERS = [0.9, 0.8, 0.7, 0.2], [0.6, 0.5, 0.4, 0.3]
Z = 1.959963984540054  # the 97.5% quantile of the standard normal

quick = settings(max_examples=30, deadline=None)  # shared machines stall
few_values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)  # ties are common


# ------------------------------------------------------------------------------------------------ intervals


def test_an_interval_is_above_what_lies_below_its_low_end():
    interval = Interval(0.7, 0.6, 0.8, 10)
    assert interval.above(0.5)
    assert not interval.above(0.6)


def test_an_interval_contains_its_ends():
    interval = Interval(0.7, 0.6, 0.8, 10)
    assert [interval.contains(x) for x in (0.59, 0.6, 0.8, 0.81)] == [False, True, True, False]


# ------------------------------------------------------------------------------------------------ proportions


def test_no_success_in_ten_leaves_up_to_31_percent():
    assert proportion(0, 10).high == pytest.approx(1 - 0.025**0.1)
    assert proportion(0, 10).low == 0


@pytest.mark.parametrize(("successes", "n", "level"), [(0, 1, 0.95), (3, 7, 0.95), (24, 24, 0.9), (5, 1000, 0.99)])
def test_a_proportion_has_scipys_exact_interval(successes, n, level):
    ours, scipys = proportion(successes, n, level), stats.binomtest(successes, n).proportion_ci(level, "exact")
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), abs=1e-9)
    assert (ours.value, ours.n) == (successes / n, n)


def test_a_sum_of_fractions_has_an_interval_between_those_of_its_neighbours():
    assert proportion(3, 10).low < proportion(3.5, 10).low < proportion(4, 10).low
    assert proportion(3, 10).high < proportion(3.5, 10).high < proportion(4, 10).high


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_an_impossible_proportion_is_refused(successes, n):
    with pytest.raises(DataError, match=f"not {successes} of {n}"):
        proportion(successes, n)


# ------------------------------------------------------------------------------------------------ AUC


def test_auc_counts_the_pairs_in_the_right_order():
    assert auc(MEMBERS, NON_MEMBERS) == 12 / 16  # 0.2 loses to all four, the others win all


def test_auc_gives_half_credit_for_a_tie():
    assert auc([1, 2], [1]) == 0.75


@quick
@given(few_values, few_values)
def test_auc_agrees_with_mann_whitney_and_scikit_learn(members, non_members):
    expected = stats.mannwhitneyu(members, non_members).statistic / (len(members) * len(non_members))
    labels = [1] * len(members) + [0] * len(non_members)
    assert auc(members, non_members) == pytest.approx(expected)
    assert auc(members, non_members) == pytest.approx(roc_auc_score(labels, members + non_members))


@quick
@given(few_values, few_values)
def test_auc_is_invariant_under_a_monotone_map(members, non_members):
    assert auc(np.exp(members) - 7, np.exp(non_members) - 7) == auc(members, non_members)


@quick
@given(few_values, few_values)
def test_swapping_the_classes_mirrors_the_auc(members, non_members):
    assert auc(members, non_members) + auc(non_members, members) == pytest.approx(1)


def test_infinite_scores_are_ranked():
    assert auc([inf, 1], [-inf, 0]) == 1


@pytest.mark.parametrize("function", [auc, roc_curve, lambda a, b: stratified_auc([(a, b)])])
def test_an_empty_class_is_refused_by_name(function):
    with pytest.raises(DataError, match="no non-members"):
        function(MEMBERS, [])


@pytest.mark.parametrize("function", [auc, roc_curve, lambda a, b: stratified_auc([(a, b)])])
def test_a_nan_score_is_refused(function):
    with pytest.raises(DataError, match="1 of the 2 scores of members are NaN"):
        function([1, nan], NON_MEMBERS)


# ------------------------------------------------------------------------------------------------ stratified AUC


def newcombe_method_5(value, m, n):
    """The limits as roots in (0, 1) of the quartic (value - t)^2 (2 - t)(1 + t) mn = z^2 t (1 - t) [...], multiplied out."""
    t = np.polynomial.Polynomial([0, 1])
    average = (m + n) / 2 - 1
    spread = (2 - t) * (1 + t) + average * ((1 - t) * (1 + t) + t * (2 - t))
    roots = (m * n * (value - t) ** 2 * (2 - t) * (1 + t) - Z**2 * t * (1 - t) * spread).roots()
    return sorted(root.real for root in roots if abs(root.imag) < 1e-9 and 1e-9 < root.real < 1 - 1e-9)


def test_one_stratum_has_newcombes_fifth_interval():
    interval = stratified_auc([(MEMBERS, NON_MEMBERS)])
    assert (interval.low, interval.high) == pytest.approx(newcombe_method_5(0.75, 4, 4), abs=1e-6)
    assert (interval.value, interval.n) == (0.75, 8)


def test_unequal_classes_have_newcombes_fifth_interval():
    members, non_members = np.arange(5) + 7.5, np.arange(11)
    interval = stratified_auc([(members, non_members)])
    assert (interval.low, interval.high) == pytest.approx(newcombe_method_5(interval.value, 5, 11), abs=1e-6)


def test_a_single_pair_in_order_bounds_the_auc_below():
    # with m = n = 1 the average size is 0, so that (1 - t)^2 = z^2 t (1 - t): t = 1 / (1 + z^2)
    interval = stratified_auc([([1.0], [0.0])])
    assert (interval.low, interval.high) == pytest.approx((1 / (1 + Z**2), 1))


def test_perfect_separation_is_not_taken_for_certainty():
    interval = stratified_auc([(np.arange(4) + 100, np.arange(24))])
    assert interval.value == interval.high == 1
    assert interval.low == pytest.approx(newcombe_method_5(1, 4, 24)[0], abs=1e-6)
    assert 0.5 < interval.low < 0.9


def test_perfect_failure_mirrors_perfect_separation():
    success = stratified_auc([(np.arange(4) + 100, np.arange(24))])
    failure = stratified_auc([(np.arange(4) - 100, np.arange(24))])
    assert (failure.value, failure.low, failure.high) == pytest.approx((0, 0, 1 - success.low))


def test_a_difference_between_strata_is_no_evidence_of_membership():
    members_of_easy, non_members_of_hard = [10.0, 11.0, 12.0], [0.0, 1.0, 2.0]
    strata = [(members_of_easy, [10.0, 11.0, 12.0]), ([0.0, 1.0, 2.0], non_members_of_hard)]
    assert stratified_auc(strata).value == 0.5


def test_strata_weigh_by_their_pairs():
    strata = [([1.0], [0.0]), ([0.0, 0.0], [1.0, 1.0, 1.0])]  # AUC 1 of 1 pair, AUC 0 of 6
    assert stratified_auc(strata).value == pytest.approx(1 / 7)


def test_equal_strata_halve_the_variance():
    one, two = stratified_auc([(MEMBERS, NON_MEMBERS)]), stratified_auc([(MEMBERS, NON_MEMBERS)] * 2)

    def variance(theta):  # Hanley & McNeil, m = n = 4
        return theta * (1 - theta) / 16 * (1 + 3 * ((1 - theta) / (2 - theta) + theta / (1 + theta)))

    assert (0.75 - one.low) ** 2 == pytest.approx(Z**2 * variance(one.low))
    assert (0.75 - two.low) ** 2 == pytest.approx(Z**2 * variance(two.low) / 2)
    assert (two.high - 0.75) ** 2 == pytest.approx(Z**2 * variance(two.high) / 2)


@quick
@given(st.lists(st.tuples(few_values, few_values), min_size=1, max_size=4))
def test_an_auc_interval_lies_in_the_unit_interval_around_its_value(strata):
    interval = stratified_auc(strata)
    assert 0 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1
    assert interval.low < interval.high


@pytest.mark.parametrize("separation", [0.0, 1.0, 2.5])
def test_the_stratified_interval_covers_the_true_auc(separation):
    generator = np.random.default_rng(7)
    truth, trials = stats.norm.cdf(separation / sqrt(2)), 300

    def strata():
        levels = (0.0, 5.0, -3.0)  # strata differ in level, which must not matter
        return [(generator.normal(level + separation, size=6), generator.normal(level, size=24)) for level in levels]

    covered = sum(stratified_auc(strata()).contains(truth) for _ in range(trials))
    assert covered / trials > 0.92  # 0.95 less almost three standard errors


def test_an_auc_without_strata_is_refused():
    with pytest.raises(DataError, match="at least one stratum"):
        stratified_auc([])


# ------------------------------------------------------------------------------------------------ ROC


def test_a_roc_curve_has_a_point_for_every_threshold():
    false_positive_rate, true_positive_rate = roc_curve(MEMBERS, NON_MEMBERS)
    assert true_positive_rate.tolist() == [0, 0.25, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75, 1]
    assert false_positive_rate.tolist() == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_tied_scores_are_one_step_of_the_roc_curve():
    false_positive_rate, true_positive_rate = roc_curve([1, 1, 0], [1, 0])
    assert true_positive_rate.tolist() == [0, 2 / 3, 1]
    assert false_positive_rate.tolist() == [0, 0.5, 1]


@quick
@given(few_values, few_values)
def test_the_roc_curve_is_scikit_learns_without_dropped_points(members, non_members):
    labels = [1] * len(members) + [0] * len(non_members)
    expected = sklearn_roc_curve(labels, members + non_members, drop_intermediate=False)[:2]
    assert np.allclose(roc_curve(members, non_members), expected)


@quick
@given(few_values, few_values)
def test_the_area_under_the_roc_curve_is_the_auc(members, non_members):
    false_positive_rate, true_positive_rate = roc_curve(members, non_members)
    assert np.trapezoid(true_positive_rate, false_positive_rate) == pytest.approx(auc(members, non_members))


def test_the_true_positive_rate_is_the_best_of_any_threshold_allowed():
    assert true_positive_rate_at(0.01, MEMBERS, NON_MEMBERS)[0] == 0.75  # the nearest point would be (0, 0): 0


def test_the_true_positive_rate_is_not_interpolated():
    assert true_positive_rate_at(0.4, [1, 1, 0], [1, 0])[0] == 0  # between the points (0, 0) and (0.5, 2/3)


def test_a_false_positive_rate_that_is_met_exactly_is_allowed():
    non_members = np.arange(20.0)
    assert true_positive_rate_at(0.05, [18.5], non_members) == (1.0, False)


def test_a_false_positive_rate_below_one_non_member_is_flagged():
    assert true_positive_rate_at(0.2, MEMBERS, NON_MEMBERS)[1]
    assert not true_positive_rate_at(0.25, MEMBERS, NON_MEMBERS)[1]


# ------------------------------------------------------------------------------------------------ slopes

SIZES = (24, 12, 12, 8, 6, 4)
ARM = np.repeat(np.arange(6), SIZES)
DOUBLINGS = np.repeat([0.0, 1, 2, 4, 6, 8], SIZES)
GROUP = np.arange(len(ARM))


def test_a_slope_is_the_least_squares_slope():
    y = np.random.default_rng(0).normal(size=len(ARM)) + 1000
    value = slope(DOUBLINGS, y, GROUP, ARM, resamples=10, seed=0).value
    assert value == pytest.approx(stats.linregress(DOUBLINGS, y).slope)


def test_an_exact_line_has_an_exact_slope():
    interval = slope(DOUBLINGS, 3 * DOUBLINGS + 1, GROUP, ARM, resamples=50, seed=0)
    assert (interval.value, interval.low, interval.high) == pytest.approx((3, 3, 3))
    assert interval.n == sum(SIZES)


def test_the_bootstrap_has_the_spread_that_theory_gives():
    x = np.repeat(np.arange(10.0), 4)  # ten arms of 4: drawing 4 of 4 would give 0.87 of the spread
    y = np.random.default_rng(1).normal(size=40)
    interval = slope(x, y, np.arange(40), x, resamples=4000, seed=0)
    share = (x - x.mean()) / np.sum((x - x.mean()) ** 2)  # the slope is sum(share * y)
    variance = sum(4 * share[4 * arm] ** 2 * y[4 * arm : 4 * arm + 4].var(ddof=1) for arm in range(10))
    assert interval.high - interval.low == pytest.approx(2 * Z * sqrt(variance), rel=0.06)


def test_arms_keep_their_weight_in_every_resample():
    bent = DOUBLINGS**2  # no line, but the same within each arm: whichever clusters are drawn, the slope is the same
    interval = slope(DOUBLINGS, bent, GROUP, ARM, resamples=50, seed=0)
    assert (interval.low, interval.high) == pytest.approx((interval.value, interval.value))


def test_repeating_a_cluster_adds_no_evidence():
    y = np.random.default_rng(2).normal(size=len(ARM))
    once = slope(DOUBLINGS, y, GROUP, ARM, resamples=200, seed=0)
    thrice = slope(np.repeat(DOUBLINGS, 3), np.repeat(y, 3), np.repeat(GROUP, 3), np.repeat(ARM, 3), resamples=200, seed=0)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert thrice.n == once.n


def test_a_slope_depends_on_nothing_but_its_seed():
    y = np.random.default_rng(3).normal(size=len(ARM))
    assert slope(DOUBLINGS, y, GROUP, ARM, 100, seed=5) == slope(DOUBLINGS, y, GROUP, ARM, 100, seed=5)
    assert slope(DOUBLINGS, y, GROUP, ARM, 100, seed=5) != slope(DOUBLINGS, y, GROUP, ARM, 100, seed=6)


def test_labels_of_a_slope_may_be_words():
    y = np.random.default_rng(3).normal(size=len(ARM))
    named = slope(DOUBLINGS, y, [f"group-{i:03}" for i in GROUP], [f"arm-{i}" for i in ARM], 100, seed=5)
    assert named == slope(DOUBLINGS, y, GROUP, ARM, 100, seed=5)


def test_a_stratum_of_one_cluster_leaves_the_slope_unbounded():
    interval = slope([0, 0, 1], [0, 1, 2], ["a", "b", "c"], ["held-out", "held-out", "once"], 100, seed=0)
    assert (interval.value, interval.low, interval.high) == (1.5, -inf, inf)


def test_resamples_in_which_x_does_not_vary_count_as_unbounded():
    interval = slope([0, 1], [0, 1], ["a", "b"], ["all", "all"], 100, seed=0)  # c - 1 = 1 draw: x never varies
    assert (interval.value, interval.low, interval.high) == (1, -inf, inf)


def test_a_slope_on_constant_x_is_refused():
    with pytest.raises(DataError, match="two different values of x"):
        slope([0.1] * 5, [1, 2, 3, 4, 5], range(5), [0] * 5, 10, seed=0)


def test_a_cluster_in_two_strata_is_refused():
    with pytest.raises(DataError, match="more than one stratum"):
        slope([0, 1, 2], [0, 1, 2], ["a", "a", "b"], [0, 1, 1], 10, seed=0)


def test_a_slope_of_unequal_lengths_is_refused():
    with pytest.raises(DataError, match="as many y as x, not 2 and 3"):
        slope([0, 1, 2], [0, 1], range(3), [0, 0, 0], 10, seed=0)


def test_a_slope_with_a_nan_is_refused():
    with pytest.raises(DataError, match="1 of the 3 y are NaN"):
        slope([0, 1, 2], [0, nan, 2], [0, 1, 2], [0, 0, 0], 10, seed=0)


def test_two_thousand_resamples_of_hundreds_of_clusters_take_less_than_a_second():
    many = np.repeat(np.arange(len(ARM)), 6)  # 396 clusters
    y = np.random.default_rng(0).normal(size=len(many))
    start = time.process_time()
    slope(DOUBLINGS[many], y, np.arange(len(many)), ARM[many], 2000, seed=0)
    assert time.process_time() - start < 1


# ------------------------------------------------------------------------------------------------ means


def test_a_mean_has_students_interval_over_cluster_means():
    interval = mean([1, 3, 5, 7, 9], ["a", "a", "b", "c", "c"])  # cluster means 2, 5, 8: sd 3, se sqrt 3
    half = 4.302652729911275 * sqrt(3)  # t of 2 degrees of freedom
    assert (interval.value, interval.low, interval.high) == pytest.approx((5, 5 - half, 5 + half))
    assert interval.n == 3


def test_a_mean_of_one_cluster_is_unbounded():
    assert mean([1.0, 2.0], ["a", "a"]) == Interval(1.5, -inf, inf, 1)


def test_an_unbounded_mean_without_spread_is_not_certain():
    assert mean([0.1, 0.1, 0.1, 0.1], ["a", "a", "a", "b"]) == Interval(pytest.approx(0.1), -inf, inf, 2)


def test_a_rate_without_spread_has_the_exact_interval():
    rate, exact = mean([1, 1, 1, 1], range(4), bounds=(0, 1)), proportion(4, 4)
    assert (rate.value, rate.low, rate.high) == (1, exact.low, 1)


def test_bounds_other_than_the_unit_interval_scale_the_exact_interval():
    scaled, exact = mean([-10.0] * 5, range(5), bounds=(-10, 30)), proportion(0, 5)
    assert (scaled.low, scaled.high) == pytest.approx((-10, -10 + 40 * exact.high))


def test_a_mean_is_cut_to_its_bounds():
    assert mean([0, 1, 1, 1], range(4), bounds=(0, 1)).high == 1


def test_a_value_out_of_bounds_is_refused():
    with pytest.raises(DataError, match="must lie within"):
        mean([0.5, 1.5], [0, 1], bounds=(0, 1))


def test_labels_that_do_not_fit_their_values_are_refused():
    with pytest.raises(DataError, match="each of the 2 values, not 3"):
        mean([0.5, 1.5], [0, 1, 2])


def test_a_difference_adds_the_distances_that_count_in_squares():
    assert difference(Interval(0.8, 0.5, 0.9, 10), Interval(0.2, 0.1, 0.6, 20)) == Interval(
        pytest.approx(0.6), pytest.approx(0.6 - 0.5), pytest.approx(0.6 + sqrt(0.02)), 30
    )


def test_a_difference_of_means_has_the_hand_computed_interval():
    interval = mean_difference([4, 6, 8], range(3), [0, 1], range(2))  # 6 and 0.5; se sqrt(4/3) and 0.5
    half = sqrt((4.302652729911275 * sqrt(4 / 3)) ** 2 + (12.706204736432095 * 0.5) ** 2)
    assert (interval.value, interval.low, interval.high) == pytest.approx((5.5, 5.5 - half, 5.5 + half))
    assert interval.n == 5


@quick
@given(st.integers(2, 12), st.integers(2, 12), st.floats(0.1, 10), st.integers(0, 1000))
def test_a_difference_of_means_is_at_least_as_wide_as_welchs(n_a, n_b, spread, seed):
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=n_a), spread * generator.normal(size=n_b)
    ours, welch = mean_difference(a, range(n_a), b, range(n_b)), stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert ours.low <= welch.low + 1e-9
    assert welch.high <= ours.high + 1e-9


def test_all_against_none_is_a_difference_with_doubt():
    interval = mean_difference([1] * 4, range(4), [0] * 24, range(24), bounds=(0, 1))
    low = 1 - sqrt((1 - 0.025 ** (1 / 4)) ** 2 + (1 - 0.025 ** (1 / 24)) ** 2)
    assert (interval.value, interval.low, interval.high) == pytest.approx((1, low, 1))


def test_one_cluster_on_a_side_leaves_a_difference_unbounded():
    assert mean_difference([1.0], ["a"], [0.0, 1.0, 2.0], range(3)) == Interval(0, -inf, inf, 4)


def test_a_difference_of_means_covers_with_four_clusters_on_a_side():
    generator = np.random.default_rng(11)
    trials = 400
    covered = sum(
        mean_difference(generator.normal(2, 3, size=4), range(4), generator.normal(size=24), range(24)).contains(2)
        for _ in range(trials)
    )
    assert covered / trials > 0.92


# ------------------------------------------------------------------------------------------------ many tests


def test_holm_multiplies_the_smallest_by_all_and_never_decreases():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_one():
    assert holm([0.9, 0.8]).tolist() == [1, 1]


def test_holm_of_nothing_is_nothing():
    assert holm([]).tolist() == []


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_lies_between_the_p_values_and_bonferronis(p_values):
    adjusted = holm(p_values)
    assert np.all(adjusted >= p_values)
    assert np.all(adjusted <= np.minimum(1, len(p_values) * np.array(p_values)) + 1e-12)


@pytest.mark.parametrize("p", [nan, -0.1, 1.1])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(DataError, match="p-values must lie in"):
        holm([0.5, p])
