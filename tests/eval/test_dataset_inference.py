"""Dataset inference: Welch's test by hand, a combination that is learned and tested on different texts, and its calibration."""

from math import inf, nan

import numpy as np
import pytest
from scipy import stats

from configs.errors import DataError
from eval.dataset_inference import dataset_inference, welch


def features(n, shift=0.0, columns=3, seed=0):
    """Heavy-tailed scores; the last column alone is shifted."""
    noise = np.random.default_rng(seed).normal(size=(n, columns)) ** 3
    return noise + shift * np.eye(columns)[-1]


def test_welchs_p_value_by_hand():
    # means 3 and 1, variances 2 / 2 each: t = 2 / sqrt 2 with 2 degrees of freedom, whose tail is 1/2 - t / (2 sqrt(2 + t^2))
    assert welch([2, 4], [0, 2]) == pytest.approx(0.5 - 2**0.5 / 4)


def test_welchs_p_value_is_scipys():
    a, b = features(7)[:, 0], features(20, seed=1)[:, 0]
    assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue)


def test_one_feature_is_tested_on_the_half_that_was_not_learned_from():
    suspect, held_out = np.arange(8.0) + 5, np.arange(8.0)
    generator = np.random.default_rng(0)
    shuffled = [generator.permutation(values[:, None])[:, 0] for values in (suspect, held_out)]
    limits = np.quantile(np.concatenate([values[:4] for values in shuffled]), [0.025, 0.975])
    tested = [np.clip(values[4:], *limits) for values in shuffled]
    expected = stats.ttest_ind(*tested, equal_var=False, alternative="greater").pvalue
    assert dataset_inference(suspect[:, None], held_out[:, None]).p_value == pytest.approx(expected)


def test_many_weak_scores_make_a_strong_one():
    found = dataset_inference(features(400, shift=1.0), features(400, seed=1))
    assert found.p_value < 1e-3
    assert np.argmax(np.abs(found.weights)) == 2
    assert found.weights[2] > 0


def test_a_feature_that_points_the_other_way_is_turned_round():
    assert dataset_inference(-features(400, shift=1.0), -features(400, seed=1)).p_value < 1e-3


@pytest.mark.parametrize(("n", "m"), [(60, 60), (10, 90)])
def test_sets_that_do_not_differ_are_rejected_as_seldom_as_the_level_says(n, m):
    p = np.array([dataset_inference(features(n, seed=2 * i), features(m, seed=2 * i + 1), seed=i).p_value for i in range(100)])
    assert np.mean(p <= 0.05) <= 0.10
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_scale_and_offset_of_a_feature_do_not_matter():
    suspect, held_out = features(20, shift=1.0), features(20, seed=1)
    plain = dataset_inference(suspect, held_out).p_value
    assert dataset_inference(suspect * [1e3, 1, 0.1] - 7, held_out * [1e3, 1, 0.1] - 7).p_value == pytest.approx(plain)


def test_an_outlier_is_clipped():
    suspect, held_out = features(80, shift=2.0), features(80, seed=1)
    suspect[3, 2] = -1e9
    assert dataset_inference(suspect, held_out).p_value < 1e-3


def test_a_constant_feature_and_a_copy_of_one_take_no_part():
    suspect, held_out = features(40, shift=1.0), features(40, seed=1)
    plain = dataset_inference(suspect, held_out)
    more = dataset_inference(*(np.column_stack([table, table[:, 2], np.full(40, 0.1)]) for table in (suspect, held_out)))
    assert more.p_value == pytest.approx(plain.p_value)
    assert more.weights == pytest.approx([*plain.weights[:2], *[plain.weights[2] / 2] * 2, 0])


@pytest.mark.parametrize("value", [nan, inf])
def test_features_that_are_no_numbers_are_refused(value):
    suspect = features(10)
    suspect[0, 0] = value
    with pytest.raises(DataError, match="1 of the 30 suspect features are NaN or infinite"):
        dataset_inference(suspect, features(10))


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="suspect texts have 3 features, held-out texts 2"):
        dataset_inference(features(10), features(10, columns=2))
    with pytest.raises(DataError, match=r"held-out features must be a table of 4 rows or more, not of the shape \(3, 3\)"):
        dataset_inference(features(10), features(3))
    with pytest.raises(DataError, match=r"suspect features must be a table of 4 rows or more, not of the shape \(10,\)"):
        dataset_inference(np.ones(10), features(10))


def test_scores_that_do_not_vary_are_refused():
    with pytest.raises(DataError, match="values that vary"):
        dataset_inference(np.ones((8, 2)), np.ones((8, 2)))
    with pytest.raises(DataError, match="two values of each side, not 1 and 2"):
        welch([1.0], [1.0, 2.0])
