"""Membership attacks: hand-computed scores, their orientation, and what is refused."""

from math import inf, log, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from eval.membership import (
    ATTACKS,
    ScoredText,
    attack_scores,
    dc_pdd,
    loss,
    lowercase_ratio,
    min_k,
    min_k_plus_plus,
    negative_gradient_norm,
    recall_ratio,
    reference_difference,
    unigram_frequencies,
    zlib_ratio,
)

FOX = "The quick brown fox jumps over the lazy dog"  # 50 bytes in zlib
LOG_PROBS = np.log([0.5, 0.2, 0.7])  # of the tokens: product 0.07

quick = settings(max_examples=30, deadline=None)  # shared machines stall
log_probs = st.lists(st.floats(-50, 0), min_size=1, max_size=30)


def scored(values, **changes):
    """A text with all that any attack needs."""
    size = len(values)
    given = {
        "tokens": np.arange(size),
        "mean": np.full(size, -3.0),
        "deviation": np.ones(size),
        "conditions": {"lowercase": -2.0, "recall": -2.0, "reference": -2.0},
        "gradient_norm": 0.5,
        "frequencies": np.full(size + 1, 1 / (size + 1)),
    }
    return ScoredText(FOX, values, **(given | changes))


# ------------------------------------------------------------------------------------------------ of one forward pass


def test_loss_is_the_mean_log_probability():
    assert loss(LOG_PROBS) == pytest.approx(log(0.07) / 3)


def test_zlib_divides_by_the_compressed_bytes():
    assert zlib_ratio(LOG_PROBS, FOX) == pytest.approx(log(0.07) / 3 / 50)
    assert zlib_ratio([-11.0], "a" * 10) == -1


def test_zlib_counts_bytes_not_characters():
    assert zlib_ratio([-1.0], "é") == zlib_ratio([-1.0], "ab")  # both two bytes of UTF-8, too short to compress


def test_min_k_averages_the_smallest_tokens():
    assert min_k([-1, -5, -2, -4, -3], 0.4) == -4.5


def test_min_k_rounds_the_number_of_tokens_down():
    assert min_k([-1, -5, -2, -4, -3], 0.59) == -4.5


def test_min_k_averages_at_least_one_token():
    assert min_k(LOG_PROBS, 0.2) == pytest.approx(log(0.2))


@quick
@given(log_probs)
def test_min_k_of_all_tokens_is_the_loss(values):
    assert min_k(values, 1) == pytest.approx(loss(values))


@quick
@given(log_probs, st.floats(0.01, 1))
def test_min_k_never_exceeds_the_loss(values, k):
    assert min_k(values, k) <= loss(values) + 1e-9


def test_min_k_plus_plus_standardizes_each_token_before_it_takes_the_smallest():
    rows = np.array([[0.5, 0.25, 0.125, 0.125], [0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
    mean = (rows * np.log(rows)).sum(axis=1)
    deviation = np.sqrt((rows * (np.log(rows) - mean[:, None]) ** 2).sum(axis=1))
    z = np.array([0.9045340, -0.7023402, 0.6546537])
    assert min_k_plus_plus(LOG_PROBS, mean, deviation, 0.2) == pytest.approx(-0.7023402)
    assert min_k_plus_plus(LOG_PROBS, mean, deviation, 0.67) == pytest.approx((z[1] + z[2]) / 2)
    assert min_k_plus_plus(LOG_PROBS, mean, deviation, 1) == pytest.approx(z.mean())


def test_a_uniform_distribution_says_nothing_to_min_k_plus_plus():
    assert min_k_plus_plus([log(0.25), -1], [log(0.25) + 1e-7, -2], [1e-8, 0.5], 0.5) == 0


def test_dc_pdd_counts_a_token_where_it_first_occurs():
    # p = 0.01 of f = e^-0.5 (0.005), p = 0.5 of the same token again (left out), p = 0.002 of f = e^-2 (0.004)
    values = np.log([0.01, 0.5, 0.002])
    assert dc_pdd(values, [0, 0, 1], np.exp([-0.5, -2])) == pytest.approx(0.0045)


def test_dc_pdd_is_bounded_at_a_hundredth():
    assert dc_pdd(np.log([0.9, 0.01]), [0, 1], np.exp([-3, -0.5])) == pytest.approx((0.01 + 0.005) / 2)


def test_dc_pdd_refuses_tokens_without_a_frequency():
    with pytest.raises(DataError, match="tokens 1 to 2 do not all have one of the 2 frequencies"):
        dc_pdd([-1, -1], [1, 2], [0.5, 0.5])
    with pytest.raises(DataError, match="frequencies above 0"):
        dc_pdd([-1, -1], [0, 1], [1, 0])


def test_unigram_frequencies_are_smoothed_probabilities():
    assert unigram_frequencies([0, 3, 0, 1]) == pytest.approx([1 / 8, 4 / 8, 1 / 8, 2 / 8])


@pytest.mark.parametrize("counts", [[], [1, -1], [nan]])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(DataError, match="counts must be 0 or more"):
        unigram_frequencies(counts)


# ------------------------------------------------------------------------------------------------ of further passes


def test_recall_is_the_log_probability_after_the_prefix_over_that_without():
    assert recall_ratio([-2.0, -2.0], -2.5) == 1.25


def test_a_text_that_lower_case_makes_less_probable_scores_above_one():
    assert lowercase_ratio([-1.0, -3.0], -5.0) == 2.5


@pytest.mark.parametrize("ratio", [lowercase_ratio, recall_ratio])
def test_a_certain_text_has_an_infinite_ratio_unless_nothing_changes_it(ratio):
    assert ratio([0.0, 0.0], -1e-3) == inf
    assert ratio([0.0, 0.0], 0.0) == 1


def test_reference_is_what_the_target_adds_to_the_reference():
    assert reference_difference([-1.0, -2.0], -2.25) == 0.75


def test_a_small_gradient_means_member():
    assert negative_gradient_norm(0.1) == -0.1 > negative_gradient_norm(2.0)


# ------------------------------------------------------------------------------------------------ attacks by name


@quick
@given(log_probs)
def test_every_attack_on_log_probs_scores_a_more_probable_text_higher(values):
    values = np.array(values) - 1  # far enough from certainty for ratios
    lower, higher = (attack_scores(scored(array), list(ATTACKS)) for array in (values, values + 0.5))
    unmoved = {"gradient_norm"} | ({"dc_pdd"} if lower["dc_pdd"] == higher["dc_pdd"] else set())  # at its bound, or underflow
    assert all(higher[name] > lower[name] for name in ATTACKS if name not in unmoved)


def test_float32_scores_are_averaged_in_float64():
    values = np.full(100_000, -0.1, dtype=np.float32)
    assert loss(values) == pytest.approx(float(np.float32(-0.1)), rel=1e-12)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("values", "sentence"), [([], "without scored tokens"), ([-1, nan], "1 of a text's 2 log-prob")])
def test_a_text_without_valid_scores_is_refused_by_every_attack(name, values, sentence):
    with pytest.raises(DataError, match=sentence):
        attack_scores(scored(values), [name])


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("min_k_plus_plus", "mean"),
        ("min_k_plus_plus", "deviation"),
        ("dc_pdd", "tokens"),
        ("dc_pdd", "frequencies"),
        ("gradient_norm", "gradient_norm"),
    ],
)
def test_an_attack_names_the_input_that_it_misses(name, missing):
    with pytest.raises(DataError, match=f"the text's {missing}, which was not measured"):
        attack_scores(scored(LOG_PROBS, **{missing: None}), [name])


@pytest.mark.parametrize("name", ["lowercase", "recall", "reference"])
def test_an_attack_names_the_condition_that_it_misses(name):
    with pytest.raises(DataError, match=f"under '{name}', which was not measured"):
        attack_scores(scored(LOG_PROBS, conditions={}), [name])
    with pytest.raises(DataError, match=f"under '{name}' is NaN"):
        attack_scores(scored(LOG_PROBS, conditions={name: nan}), [name])


@pytest.mark.parametrize("name", ["lowercase", "recall", "reference", "dc_pdd", "gradient_norm"])
def test_an_attack_that_needs_a_further_pass_says_so(name):
    assert ATTACKS[name].needs == {"dc_pdd": "frequencies", "gradient_norm": "gradient"}.get(name, name)
    with pytest.raises(DataError, match="which was not measured"):
        attack_scores(ScoredText(FOX, LOG_PROBS, tokens=[0, 1, 2], mean=LOG_PROBS, deviation=[1, 1, 1]), [name])


def test_other_attacks_need_one_forward_pass():
    text = ScoredText(FOX, LOG_PROBS, tokens=[0, 1, 2], mean=LOG_PROBS, deviation=[1, 1, 1])
    names = [name for name, attack in ATTACKS.items() if attack.needs is None]
    assert set(attack_scores(text, names)) == {"loss", "zlib", "min_k", "min_k_plus_plus"}


def test_arrays_that_do_not_belong_to_the_tokens_are_refused():
    with pytest.raises(DataError, match="3 log-probabilities but 2 means"):
        attack_scores(scored(LOG_PROBS, mean=[-1, -1]), ["min_k_plus_plus"])
    with pytest.raises(DataError, match="1 of a text's 3 deviations are NaN"):
        attack_scores(scored(LOG_PROBS, deviation=[1, nan, 1]), ["min_k_plus_plus"])
    with pytest.raises(DataError, match="3 log-probabilities but 4 tokens"):
        attack_scores(scored(LOG_PROBS, tokens=[0, 1, 2, 3]), ["dc_pdd"])


@pytest.mark.parametrize("k", [0, -0.2, 1.01, nan, inf])
def test_a_k_that_is_no_fraction_is_refused(k):
    with pytest.raises(RecipeError, match=r"eval\.min_k"):
        min_k(LOG_PROBS, k)


def test_attack_scores_holds_the_attacks_asked_for():
    scores = attack_scores(ScoredText(FOX, LOG_PROBS, min_k=0.67), ["min_k", "loss"])
    assert scores == {"min_k": pytest.approx(log(0.1) / 2), "loss": pytest.approx(log(0.07) / 3)}


def test_an_unknown_attack_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="names lira; the attacks are loss, zlib, min_k"):
        attack_scores(ScoredText(FOX, LOG_PROBS), ["loss", "lira"])
