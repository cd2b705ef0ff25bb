"""Attacks over several models: hand-computed likelihood ratios, what few models can tell, and what they cannot."""

from math import inf, log, nan, sqrt

import numpy as np
import pytest
from scipy import stats

from configs.errors import DataError, RecipeError
from eval.shadow import lira_offline, lira_online, lira_scores, rmia, rmia_scores
from eval.statistics import auc

SPREAD = sqrt(3) / 2  # of three references, which with the error of their mean makes a deviation of 1: 3/4 (1 + 1/3)
IN, OUT = [[2 - SPREAD, 2, 2 + SPREAD]], [[-SPREAD, 0, SPREAD]]


def trainings(models, texts=300, gain=0.3, seed=0):
    """Signals of texts that differ much in difficulty, less between models, and gain from training; half of them members."""
    generator = np.random.default_rng(seed)
    member = generator.random((texts, models)) < 0.5
    difficulty = generator.normal(-4, 0.5, size=(texts, 1))
    return difficulty + generator.normal(0, 0.1, size=member.shape) + gain * member, member


# ------------------------------------------------------------------------------------------------ LiRA


def test_online_lira_is_the_log_likelihood_ratio_of_two_gaussians():
    assert lira_online([2.0], IN, OUT) == pytest.approx([2.0])  # 2^2 / 2


def test_offline_lira_is_the_probability_of_a_smaller_signal():
    assert lira_offline([2.0], OUT) == pytest.approx([0.9772499])


def test_the_deviation_is_pooled_over_texts_about_their_own_means():
    # squares about the means: 1 + 1 with 1 degree of freedom, 0 with none, 4 + 4 with 1: variance 10 / 2
    out = [[-1, 1], [7, nan], [8, 12]]
    expected = stats.norm.cdf(1 / np.sqrt(5 * np.array([1 + 1 / 2, 1 + 1, 1 + 1 / 2])))
    assert lira_offline([1.0, 8.0, 11.0], out) == pytest.approx(expected)


def test_a_text_with_one_reference_of_each_side_borrows_the_deviation_of_the_others():
    phi_in, phi_out = [[2, nan], [1, 3]], [[0, nan], [-1, 1]]  # variance 2 on both sides
    assert lira_online([2.0, 0.0], phi_in, phi_out) == pytest.approx([2**2 / (2 * 2 * 2), -(2**2) / (2 * 2 * 1.5)])


def test_the_wider_side_explains_an_odd_signal_better():
    # equally far from both, 2 from the means: variances 2 and 8, times 3/2 for the error of the mean
    expected = 2**2 / (2 * 8 * 1.5) - 2**2 / (2 * 2 * 1.5) + log(2)
    assert lira_online([2.0], [[3, 5]], [[-2, 2]]) == pytest.approx([expected])


def test_references_that_agree_do_not_divide_by_zero():
    assert lira_offline([1.0, -1.0], [[0, 0], [0, 0]]).tolist() == [1, 0]
    assert np.isfinite(lira_online([0.5], [[1, 1]], [[0, 0]])).all()


def test_without_references_of_one_side_a_text_has_no_score():
    scores = lira_online([1.0, 2.0], [[nan, nan], [1, 3]], [[0, 1], [0, 1]])
    assert np.isnan(scores).tolist() == [True, False]


def test_references_that_show_no_spread_leave_no_score():
    assert np.isnan(lira_offline([1.0, 2.0], [[0.0, nan], [nan, 1.0]])).all()


def test_each_model_is_scored_by_the_others():
    signal, member = trainings(4, texts=20)
    others, trained = signal[:, [0, 1, 3]], member[:, [0, 1, 3]]
    phi_in, phi_out = np.where(trained, others, nan), np.where(trained, nan, others)
    assert np.array_equal(lira_scores(signal, member)[:, 2], lira_online(signal[:, 2], phi_in, phi_out), equal_nan=True)
    assert np.array_equal(lira_scores(signal, member, online=False)[:, 2], lira_offline(signal[:, 2], phi_out), equal_nan=True)


@pytest.mark.parametrize("models", [3, 4, 8])
@pytest.mark.parametrize("attack", [lira_scores, lambda s, m: lira_scores(s, m, online=False), rmia_scores])
def test_a_few_models_see_more_than_one(attack, models):
    signal, member = trainings(models)
    scores = attack(signal, member)
    known = ~np.isnan(scores)
    alone, together = (auc(values[known & member], values[known & ~member]) for values in (signal, scores))
    assert together > 0.9 > 0.75 > alone


@pytest.mark.parametrize("attack", [lira_scores, lambda s, m: lira_scores(s, m, online=False), rmia_scores])
def test_the_number_of_references_neither_betrays_nor_hides_membership(attack):
    # every text is in exactly half the models, so that the target's membership follows from the others'
    generator = np.random.default_rng(1)
    member = generator.permuted(np.tile([True, True, False, False], (2000, 1)), axis=1)
    scores = attack(generator.normal(-4, 0.1, size=member.shape), member)
    known = ~np.isnan(scores)
    assert auc(scores[known & member], scores[known & ~member]) == pytest.approx(0.5, abs=0.02)


def test_two_models_tell_only_of_texts_that_the_other_did_not_see():
    signal, member = trainings(2)
    assert np.isnan(lira_scores(signal, member)).all()  # no text has two references
    assert np.array_equal(np.isnan(rmia_scores(signal, member)), member[:, ::-1])


def test_two_models_of_opposite_assignments_have_no_population():
    signal, member = trainings(2)
    member[:, 1] = ~member[:, 0]
    assert np.isnan(rmia_scores(signal, member)).all()


def test_a_text_that_a_model_was_not_scored_on_is_left_out_of_its_references():
    signal, member = trainings(4, texts=50)
    signal[0, 1], member[0] = nan, False
    scores = lira_scores(signal, member, online=False)
    assert np.isnan(scores[0]).tolist() == [False, True, False, False]


# ------------------------------------------------------------------------------------------------ RMIA


def test_rmia_is_the_share_of_the_population_that_a_text_outdoes():
    # a = 1/2, P_out = 0.2: P = (1.5 * 0.2 + 0.5) / 2 = 0.4; x has the ratio 2, the population 1, 1.5 and 2.25
    out = np.log(np.full((3, 2), 0.2))
    assert rmia([log(0.8)], out[:1], np.log([0.4, 0.6, 0.9]), out, a=0.5) == pytest.approx([2 / 3])


def test_references_are_averaged_as_probabilities():
    # P_out = (0.1 + 0.3) / 2 = 0.2 and a = 1: the ratio 0.25 / 0.2 is below 1.3 = 0.26 / 0.2 and above 1.2
    out = np.log([[0.1, 0.3]])
    assert rmia([log(0.25)], out, np.log([0.26, 0.24]), np.repeat(out, 2, axis=0)) == pytest.approx([0.5])


def test_gamma_is_how_much_a_text_must_outdo_the_population_by():
    out = np.log([[0.1]] * 2)
    scores = [float(rmia([log(0.4)], out[:1], np.log([0.1, 0.3]), out, gamma=gamma)[0]) for gamma in (1, 2, 5)]
    assert scores == [1, 0.5, 0]


def test_an_equal_ratio_counts_half():
    assert rmia([-1.0], [[-2.0]], [-1.0, -3.0], [[-2.0], [-2.0]]) == pytest.approx([0.75])


def test_rmia_orders_texts_by_their_ratios_whatever_the_population():
    signal, member = trainings(4, texts=100)
    scores = rmia_scores(signal, member)[:, 0]
    ratio = signal[:, 0] - np.log(
        [np.exp(s[~m]).mean() if (~m).any() else nan for s, m in zip(signal[:, 1:], member[:, 1:], strict=True)]
    )
    known, inside = ~np.isnan(scores), member[:, 0]
    assert np.array_equal(known, ~np.isnan(ratio))
    assert auc(scores[known & inside], scores[known & ~inside]) == auc(ratio[known & inside], ratio[known & ~inside])


@pytest.mark.parametrize(("a", "gamma"), [(-0.1, 1), (1.1, 1), (nan, 1), (1, 0)])
def test_impossible_settings_of_rmia_are_refused(a, gamma):
    with pytest.raises(RecipeError, match=r"a in \[0, 1\] and gamma above 0"):
        rmia([-1.0], [[-1.0]], [-1.0], [[-1.0]], a, gamma)


def test_rmia_refuses_what_is_no_log_probability():
    with pytest.raises(DataError, match="at most 0"):
        rmia([-1.0], [[0.5]], [-1.0], [[-1.0]])


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("attack", [lira_scores, rmia_scores])
def test_membership_must_be_a_matrix_of_the_signals_shape(attack):
    with pytest.raises(DataError, match=r"bool \(2, 3\), as the signals, not bool \(2,\)"):
        attack(-np.ones((2, 3)), np.array([True, False]))
    with pytest.raises(DataError, match="not int64"):
        attack(-np.ones((2, 3)), np.ones((2, 3), dtype=np.int64))


def test_signals_of_a_wrong_shape_are_refused():
    with pytest.raises(DataError, match=r"2 dimension\(s\), texts first, not the shape \(3,\)"):
        lira_scores([-1, -2, -3], [True, False, True])
    with pytest.raises(DataError, match="1 texts have signals of the target, but 2 of the references"):
        lira_offline([-1.0], [[0.0], [1.0]])
    with pytest.raises(DataError, match="1 texts have signals of the target, but 2 of the references"):
        rmia([-1.0], [[-1.0], [-1.0]], [-1.0], [[-1.0]])


def test_infinite_signals_are_refused():
    with pytest.raises(DataError, match="1 of the 2 signals are infinite"):
        lira_scores([[-inf, -1]], [[True, False]])
