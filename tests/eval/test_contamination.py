"""Contamination: the order of a test set, peaked continuations, transfer to other formats, and twins."""

from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from configs.errors import DataError
from eval.contamination import (
    Inconsistency,
    Transfer,
    contaminated,
    local_inconsistency,
    peakedness,
    permutation_p,
    shard_test,
    shuffled_orders,
    transfer,
)

quick = settings(max_examples=30, deadline=None)  # shared machines stall

# ------------------------------------------------------------------------------------------------ order


def test_the_shard_test_is_students_with_the_samples_deviation():
    canonical = [-9.0, -8.0, -7.0, -6.0]
    shuffled = [[-11.0, -9.0], [-10.5, -9.5], [-7.0, -7.0], [-8.0, -6.0]]  # differences 1, 2, 0, 1
    found = shard_test(canonical, shuffled)
    assert (found.t, found.p, found.shards) == (pytest.approx(2.4494897), pytest.approx(0.0458606, abs=1e-6), 4)


def test_the_published_deviation_would_say_more_than_there_is():
    t = shard_test([1.0, 2.0, 0.0, 1.0], np.zeros((4, 3))).t
    assert t * sqrt(4 / 3) == pytest.approx(2.828, abs=1e-3)


@quick
@given(st.integers(0, 10_000))
def test_the_shard_test_agrees_with_scipy(seed):
    random = np.random.default_rng(seed)
    canonical, shuffled = random.normal(0.3, 1, 7), random.normal(0, 1, (7, 5))
    expected = ttest_1samp(canonical - shuffled.mean(axis=1), 0, alternative="greater")
    found = shard_test(canonical, shuffled)
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_shards_that_are_all_alike_prove_nothing():
    found = shard_test([-0.1, -0.7], [[-0.1] * 3, [-0.7] * 3])  # the mean of three equal numbers may round
    assert np.isnan(found.t)
    assert found.p == 1


def test_one_shard_has_a_permutation_test_only():
    with pytest.raises(DataError, match="at least two"):
        shard_test([1.0], [[0.0, 2.0]])
    assert permutation_p([1.0], [[0.0, 2.0]]) == 2 / 3


def test_a_shuffling_as_probable_counts_against_contamination():
    assert permutation_p([1.0], [[1.0, 1.0, 1.0]]) == 1
    assert permutation_p([1.0], [[0.0] * 99]) == 0.01


def test_the_permutation_test_is_exact():
    totals = np.random.default_rng(0).normal(size=(2, 10))  # of two shards in ten orders, each of which may be the published
    p_values = [permutation_p(totals[:, i], np.delete(totals, i, axis=1)) for i in range(10)]
    assert sorted(p_values) == pytest.approx(np.arange(1, 11) / 10)


@pytest.mark.parametrize(
    ("canonical", "shuffled"),
    [([1.0, 2.0], [[1.0]]), ([1.0, 2.0], [1.0, 2.0]), (1.0, [[1.0]]), ([], np.zeros((0, 2))), ([1.0, 2.0], np.zeros((2, 0)))],
)
@pytest.mark.parametrize("test", [shard_test, permutation_p])
def test_every_shard_needs_shuffled_orders(test, canonical, shuffled):
    with pytest.raises(DataError, match=r"\(s, m\) shuffled"):
        test(canonical, shuffled)


@pytest.mark.parametrize("value", [nan, -inf])
@pytest.mark.parametrize("test", [shard_test, permutation_p])
def test_a_shard_without_a_finite_log_probability_is_refused(test, value):
    with pytest.raises(DataError, match="NaN or infinite"):
        test([1.0, 2.0], [[1.0], [value]])


@quick
@given(st.integers(3, 8), st.integers(1, 5), st.integers(0, 100))
def test_orders_are_different_permutations_and_never_the_identity(items, count, seed):
    orders = shuffled_orders(items, count, seed)
    assert orders.shape == (count, items)
    assert (np.sort(orders, axis=1) == np.arange(items)).all()
    assert len({tuple(order) for order in [np.arange(items), *orders]}) == count + 1
    assert np.array_equal(orders, shuffled_orders(items, count, seed))


def test_other_seeds_draw_other_orders():
    assert not np.array_equal(shuffled_orders(20, 5, seed=1), shuffled_orders(20, 5, seed=2))


@pytest.mark.parametrize(("items", "count"), [(3, 6), (1, 1), (4, 0)])
def test_more_orders_than_there_are_cannot_be_had(items, count):
    assert len(shuffled_orders(3, 5, seed=0)) == 5
    with pytest.raises(DataError, match=f"{count} shuffled orders of {items} items"):
        shuffled_orders(items, count, seed=0)


# ------------------------------------------------------------------------------------------------ peakedness

SAMPLES, GREEDY = [[1, 2, 3, 4], [1, 2, 3, 5], [7, 8, 9, 4]], [1, 2, 3, 4]


@pytest.mark.parametrize(("alpha", "peak"), [(0.25, 2 / 3), (0.0, 1 / 3), (0.05, 1 / 3), (1.0, 1.0)])
def test_the_peak_is_the_share_of_samples_close_to_the_greedy_one(alpha, peak):
    assert peakedness(SAMPLES, GREEDY, alpha) == pytest.approx(peak)


def test_an_edit_is_an_insertion_or_a_deletion_too():
    assert peakedness([[1, 3, 4, 5]], [1, 2, 3, 4], alpha=0.5) == 1  # 2 deleted and 5 inserted
    assert peakedness([[1, 3, 4, 5]], [1, 2, 3, 4], alpha=0.49) == 0


def test_the_longest_continuation_is_the_scale():
    assert peakedness([[1, 2], [0] * 20], [1, 2, 3], alpha=0.05) == 0.5  # one edit of 20, though only 3 tokens were to be met


def test_continuations_count_up_to_the_longest_that_does():
    assert peakedness([[1, 2, 9, 9]], [1, 2, 3, 4], alpha=0, longest=2) == 1


def test_a_distance_on_the_limit_is_within_it():
    assert peakedness([[1] * 71 + [2] * 29], [1] * 100, alpha=0.29) == 1  # 0.29 * 100 is below 29 in floats


def test_above_xi_is_contaminated():
    assert contaminated(0.02)
    assert not contaminated(0.01)
    assert not contaminated(0.02, xi=0.2)


@pytest.mark.parametrize(("samples", "greedy"), [([], [1]), ([[1]], [])])
def test_peakedness_needs_continuations(samples, greedy):
    with pytest.raises(DataError, match="peakedness needs"):
        peakedness(samples, greedy)


# ------------------------------------------------------------------------------------------------ transfer


def test_transfer_compares_gains_over_what_each_format_has_anyway():
    # 7 of 8 above 1/4: 5/6 of what could be gained; 4 of 8 above 1/5: 3/8
    found = transfer([1] * 7 + [0], [1, 0] * 4, chance_same=0.25, chance_other=0.2)
    assert (found.same, found.other, found.share) == pytest.approx((5 / 6, 3 / 8, 9 / 20))


def test_a_loss_in_the_other_format_is_a_negative_transfer():
    assert transfer([1, 1], [0, 0], 0.5, 0.5) == Transfer(same=1, other=-1, share=-1)


@pytest.mark.parametrize("correct", [[1, 0], [0, 0]])
def test_without_a_gain_there_is_nothing_to_transfer(correct):
    found = transfer(correct, [1, 1], 0.5, 0.5)
    assert np.isnan(found.share)
    assert found.reason == "nothing to transfer"


@pytest.mark.parametrize(
    ("same", "other", "fault"),
    [([1, 0], [1], "same 2 questions"), ([], [], "no answers"), ([1, nan], [1, 0], "must be 1"), ([1, 0.5], [1, 0], "must be 1")],
)
def test_transfer_needs_the_same_questions_answered(same, other, fault):
    with pytest.raises(DataError, match=fault):
        transfer(same, other, 0.25, 0.25)


# ------------------------------------------------------------------------------------------------ twins


def test_limem_is_the_share_of_puzzles_solved_while_their_twins_are_not():
    solved = [1, 1, 1, 1, 0]
    found = local_inconsistency(solved, {"leaf": [1, 0, 0, 0, 1], "names": [1, 1, 1, 1, 0]})
    assert found["leaf"] == Inconsistency(accuracy=0.8, consistency=0.25, memorization=0.6)  # 0.8 * (1 - 0.25)
    assert found["names"] == Inconsistency(accuracy=0.8, consistency=1, memorization=0)


def test_who_solves_nothing_recites_nothing():
    found = local_inconsistency([0, 0], {"leaf": [1, 0]})["leaf"]
    assert np.isnan(found.consistency)
    assert (found.accuracy, found.memorization) == (0, 0)


@quick
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_limem_is_accuracy_times_one_minus_consistency(pairs):
    solved, twin = np.array(pairs).T
    found = local_inconsistency(solved, {"leaf": twin})["leaf"]
    assert found.memorization == pytest.approx(found.accuracy * (1 - found.consistency) if solved.any() else 0)


def test_a_guesser_among_four_is_above_the_papers_threshold():
    answers = np.array([(i == 0, j == 0) for i in range(4) for j in range(4)])
    assert local_inconsistency(answers[:, 0], {"leaf": answers[:, 1]})["leaf"].memorization == 0.1875


@pytest.mark.parametrize(("twin", "fault"), [([1], "same 2 questions"), ([], "no answers"), ([1, nan], "must be 1")])
def test_twins_must_be_those_of_the_puzzles(twin, fault):
    with pytest.raises(DataError, match=fault):
        local_inconsistency([1, 0], {"leaf": twin})
