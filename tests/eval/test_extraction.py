"""Extraction: whether a target's tokens are emitted, how probable they are, and exposure."""

from math import exp, inf, log, log2, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from configs.errors import DataError, RecipeError
from eval.extraction import (
    discoverable_curve,
    exposure,
    extractable,
    extracted,
    extraction_strength,
    extrapolated_exposure,
    longest_span,
    probability_within,
    runs,
    sampled_exposure,
    target_log_prob,
    trials_for,
)

quick = settings(max_examples=30, deadline=None)  # shared machines stall

# ------------------------------------------------------------------------------------------------ greedy extraction


def test_a_target_is_extracted_when_every_argmax_is_its_token():
    assert extracted(argmax=[9, 9, 5, 6], tokens=[1, 2, 5, 6], target=slice(2, 4))


def test_one_miss_in_the_target_means_not_extracted():
    assert not extracted(argmax=[0, 1, 0], tokens=[0, 2, 0], target=slice(0, 3))


@quick
@given(st.integers(0, 10_000))
def test_teacher_forcing_agrees_with_greedy_decoding(seed):
    generator = np.random.default_rng(seed)
    table = generator.integers(0, 3, size=(3, 3))  # a model: the next token is decided by the last two
    tokens = generator.integers(0, 3, size=6)
    argmax = np.array([-1, -1, *(table[tokens[t - 2], tokens[t - 1]] for t in range(2, 6))])
    decoded = list(tokens[:2])
    while len(decoded) < 6:
        decoded.append(table[decoded[-2], decoded[-1]])
    for stop in range(3, 7):
        assert extracted(argmax, tokens, slice(2, stop)) == (decoded[:stop] == list(tokens[:stop]))


@pytest.mark.parametrize("target", [slice(2, 2), slice(2, 5), slice(-2, 4)])
def test_a_target_of_no_tokens_or_beyond_them_is_not_taken_for_extraction(target):
    with pytest.raises(DataError, match="empty or beyond the text's 4 tokens"):
        extracted([1, 2, 3, 4], [1, 2, 3, 4], target)


def test_argmax_of_another_text_is_refused():
    with pytest.raises(DataError, match="have 3 and 4 entries"):
        extracted([1, 2, 3], [1, 2, 3, 4], slice(1, 3))


# ------------------------------------------------------------------------------------------------ spans

MATCHES = st.lists(st.booleans(), max_size=12)


def taught(match):
    """(argmax, tokens) that match where `match` says."""
    tokens = np.arange(len(match))
    return np.where(match, tokens, -1), tokens


def test_a_run_ends_at_the_next_miss():
    assert runs([9, 2, 3, 9, 5], [1, 2, 3, 4, 5]).tolist() == [0, 2, 1, 0, 1]


@pytest.mark.parametrize("nothing", [-1, nan])
def test_a_token_without_context_is_a_miss(nothing):
    assert runs([nothing, 2], [1, 2]).tolist() == [0, 1]


def test_no_tokens_have_no_runs():
    assert runs([], []).tolist() == []
    assert longest_span([], []) == 0


@quick
@given(MATCHES, st.data())
def test_a_run_decides_every_prefix_and_suffix(match, data):
    prefix = data.draw(st.integers(0, len(match)))
    suffix = data.draw(st.integers(1, 12))
    told = extractable(*taught(match), [prefix], suffix)[prefix]
    fits = prefix + suffix <= len(match)
    assert told == (extracted(*taught(match), slice(prefix, prefix + suffix)) if fits else None)


def test_every_prefix_is_asked_for_the_tokens_that_follow_it():
    assert extractable([-1, 2, 3, 4, 9], [1, 2, 3, 4, 5], prefixes=[0, 1, 2, 3, 4], suffix=2) == {
        0: False,
        1: True,
        2: True,
        3: False,
        4: None,
    }


@quick
@given(MATCHES, st.integers(1, 12))
def test_what_is_extractable_with_a_longer_suffix_is_with_a_shorter(match, suffix):
    shorter = extractable(*taught(match), range(12), suffix)
    longer = extractable(*taught(match), range(12), suffix + 1)
    assert all(shorter[k] for k in longer if longer[k])


@pytest.mark.parametrize(("prefix", "suffix"), [(-1, 2), (1, 0)])
def test_a_negative_prefix_or_an_empty_suffix_is_refused(prefix, suffix):
    with pytest.raises(RecipeError, match="cannot be cut"):
        extractable([1, 2, 3], [1, 2, 3], [0, prefix], suffix)


def test_runs_of_another_text_are_refused():
    with pytest.raises(DataError, match="have 3 and 4 entries"):
        runs([1, 2, 3], [1, 2, 3, 4])


def test_the_longest_span_is_the_most_matches_in_a_row():
    assert longest_span(*taught([True, False, True, True, True, False, True, True])) == 3


@pytest.mark.parametrize(
    ("match", "strength"),
    [([1, 0, 1], 1 / 3), ([0, 1, 1, 1], 3 / 4), ([1, 1, 1], 1.0), ([1, 1, 0], 0.0), ([1], 1.0), ([0], 0.0)],
)
def test_extraction_strength_is_the_share_of_the_target_that_need_not_be_given(match, strength):
    assert extraction_strength(*taught(np.array(match, bool)), slice(0, len(match))) == pytest.approx(strength, abs=1e-15)


def test_extraction_strength_is_of_the_target_alone():
    assert extraction_strength(*taught([False, True, False, True, False]), slice(2, 4)) == 0.5


@quick
@given(MATCHES.filter(len))
def test_extraction_strength_is_by_the_least_prefix_of_the_definition(match):
    argmax, tokens = taught(match)
    least = min(k for k in range(len(match) + 1) if np.array_equal(argmax[k:], tokens[k:]))
    assert extraction_strength(argmax, tokens, slice(0, len(match))) == pytest.approx(1 - least / len(match), abs=1e-15)


def test_the_strength_of_no_target_is_refused():
    with pytest.raises(DataError, match="empty or beyond"):
        extraction_strength([1, 2], [1, 2], slice(1, 1))


# ------------------------------------------------------------------------------------------------ probability


def test_a_targets_log_probability_is_the_sum_and_the_mean_over_its_tokens():
    total, per_token = target_log_prob(np.log([0.9, 0.5, 0.2, 0.7]), slice(1, 4))
    assert (total, per_token) == pytest.approx((-2.659260, log(0.07) / 3), abs=1e-6)


def test_a_nan_in_the_target_is_refused():
    with pytest.raises(DataError, match="NaN"):
        target_log_prob([-1, nan], slice(0, 2))


def test_a_nan_before_the_target_does_not_matter():
    assert target_log_prob([nan, -1.0], slice(1, 2)) == (-1, -1)


def test_the_log_probability_of_no_tokens_is_refused():
    with pytest.raises(DataError, match="empty or beyond"):
        target_log_prob([-1.0, -2.0], slice(1, 1))


# ------------------------------------------------------------------------------------------------ (n, p)-discoverable extraction


@pytest.mark.parametrize(
    ("p_z", "p", "n"),
    [(0.07, 0.5, 10), (0.07, 0.9, 32), (0.5, 0.5, 1), (0.35, 0.35, 1), (0.3, 0.51, 2), (1.0, 0.999, 1), (0.0, 0.5, inf)],
)
def test_trials_are_the_fewest_that_reach_the_probability(p_z, p, n):
    assert trials_for(log(p_z) if p_z else -inf, p) == n


def test_a_probability_too_small_to_be_told_from_0_beside_1_still_has_its_trials():
    assert trials_for(-50, 0.5) == pytest.approx(log(2) * exp(50))


def test_trials_beyond_all_floats_are_infinite():
    assert trials_for(-1000, 0.5) == inf


@quick
@given(st.floats(-25, -1e-6), st.floats(0.01, 0.99))
def test_trials_reach_the_probability_and_one_fewer_does_not(log_p_z, p):
    n = trials_for(log_p_z, p)
    assert probability_within(log_p_z, n) >= p * (1 - 1e-9)
    assert n == 1 or probability_within(log_p_z, n - 1) < p * (1 + 1e-9)


@quick
@given(st.integers(1, 50), st.floats(1e-3, 1))
def test_the_probability_within_trials_is_that_of_one_success_of_a_binomial(n, p_z):
    assert probability_within(log(p_z), n) == pytest.approx(stats.binom.sf(0, n, p_z), rel=1e-9)


@pytest.mark.parametrize(
    ("log_p_z", "n", "probability"),
    [
        (-800, 10**300, exp(300 * log(10) - 800)),  # p_z underflows: n p_z
        (-1e6, 10, 0.0),
        (-800, 10**400, 1.0),
        (0.0, 1, 1.0),
        (-inf, 10, 0.0),
        (-1.0, 0, 0.0),
        (-1e-20, 1, 1.0),
    ],
)
def test_the_probability_within_trials_holds_at_the_ends(log_p_z, n, probability):
    assert probability_within(log_p_z, n) == pytest.approx(probability, rel=1e-9, abs=0)


@pytest.mark.parametrize("p", [0, 1, nan])
def test_a_probability_that_none_or_all_trials_reach_is_refused(p):
    with pytest.raises(RecipeError, match="between 0 and 1"):
        trials_for(-1.0, p)


def test_negative_trials_are_refused():
    with pytest.raises(RecipeError, match="-1 times"):
        probability_within(-1.0, -1)


@pytest.mark.parametrize("log_p_z", [0.1, nan])
def test_what_is_no_log_probability_is_refused(log_p_z):
    for of in (trials_for, probability_within):
        with pytest.raises(DataError, match="no log-probability"):
            of(log_p_z, 0.5)


def test_the_curve_counts_the_targets_that_need_so_many_trials_or_fewer():
    log_p_zs = [log(0.07), log(0.5), -inf, -1000.0]  # 10, 1 and endless trials
    assert discoverable_curve(log_p_zs, [1, 9, 10, 1e6], p=0.5).tolist() == [0.25, 0.25, 0.5, 0.5]


def test_a_curve_of_no_targets_is_refused():
    with pytest.raises(DataError, match="no targets"):
        discoverable_curve([], [1], 0.5)


# ------------------------------------------------------------------------------------------------ exposure


@pytest.mark.parametrize(("rank", "bits"), [(1, 10), (2, 9), (512, 1), (1024, 0)])
def test_exposure_is_the_bits_saved_by_guessing_in_the_models_order(rank, bits):
    assert exposure(-np.arange(1024.0), rank - 1) == bits


def test_a_tie_counts_half():
    assert exposure([-1.0, -1.0, -2.0, -2.0], 0) == pytest.approx(2 - log2(1.5))


def test_a_model_that_tells_nothing_apart_exposes_one_bit_at_most():
    assert exposure(np.zeros(1023), 17) == pytest.approx(log2(1023 / 512))


@quick
@given(st.lists(st.integers(-5, 0).map(float), min_size=1, max_size=20), st.data())
def test_exposure_lies_between_zero_and_the_bits_of_the_space(space, data):
    secret = data.draw(st.integers(0, len(space) - 1))
    assert 0 <= exposure(space, secret) <= log2(len(space))


@pytest.mark.parametrize("index", [-1, 4])
def test_a_secret_outside_its_space_is_refused(index):
    with pytest.raises(DataError, match="of a space of 4"):
        exposure([-1.0, -2.0, -3.0, -4.0], index)


def test_a_nan_in_the_space_is_refused():
    with pytest.raises(DataError, match="1 of the 2 log-probabilities"):
        exposure([-1.0, nan], 0)


@pytest.mark.parametrize(("rank", "bits"), [(1, 10), (2, 9), (512, 1), (1024, 0)])
def test_a_secret_is_ranked_among_its_references_and_itself(rank, bits):
    references = np.delete(-np.arange(1024.0), rank - 1)
    assert sampled_exposure(1.0 - rank, references) == bits


def test_a_tie_with_a_reference_counts_half():
    assert sampled_exposure(-1.0, [-1.0, -2.0, -3.0]) == pytest.approx(2 - log2(1.5))


def test_a_secret_without_references_is_refused():
    with pytest.raises(DataError, match="needs references"):
        sampled_exposure(-1.0, [])


def test_a_nan_among_references_is_refused():
    with pytest.raises(DataError, match="1 of the 3 log-probabilities"):
        sampled_exposure(-1.0, [nan, -2.0])


REFERENCES = -stats.skewnorm.rvs(3, 30, 5, size=4000, random_state=7)  # log-probabilities


@pytest.mark.parametrize("surprise", [26.5, 29.0, 33.0, 40.0])
def test_extrapolated_exposure_is_that_of_the_distribution_of_the_references(surprise):
    exact = -stats.skewnorm.logcdf(surprise, 3, 30, 5) / log(2)
    assert extrapolated_exposure(-surprise, REFERENCES).bits == pytest.approx(exact, rel=0.1, abs=0.02)


def test_extrapolated_and_sampled_exposure_agree_where_there_are_references():
    for log_prob in np.quantile(REFERENCES, [0.1, 0.5, 0.9]):
        assert extrapolated_exposure(log_prob, REFERENCES).bits == pytest.approx(sampled_exposure(log_prob, REFERENCES), abs=0.1)


def test_exposure_far_in_the_tail_of_normal_references_is_finite_and_right():
    references = -stats.norm.ppf((np.arange(4000) + 0.5) / 4000, 30, 2)
    references = np.random.default_rng(0).permutation(references)
    shape, location, scale = stats.skewnorm.fit(np.delete(-references, np.s_[::4]))
    found = extrapolated_exposure(90.0, references)  # 60 standard deviations: every distribution function underflows
    z = (-90 - location) / scale
    tail = z**2 / 2 * (1 + max(shape, 0) ** 2) / log(2)  # the exponent of its asymptote
    assert stats.norm.cdf(-60) == 0
    assert found.bits == pytest.approx(tail, rel=0.01)


def test_exposure_does_not_jump_where_the_tail_is_integrated_in_logarithms():
    bits = [extrapolated_exposure(-x, REFERENCES[:500]).bits for x in np.linspace(22, 30, 61)]
    assert bits[0] > -log2(1e-5) > bits[-1]
    steps = -np.diff(bits)
    assert (np.diff(steps) < 0).all()  # bits are convex in the surprise, as the distribution function is log-concave


def test_only_a_secret_more_probable_than_every_reference_is_beyond_them():
    best = REFERENCES.max()
    assert not extrapolated_exposure(best, REFERENCES).beyond
    assert extrapolated_exposure(best + 1e-6, REFERENCES).beyond


def test_the_test_of_the_fit_passes_skew_normal_references_and_fails_others():
    generator = np.random.default_rng(3)
    two_humps = generator.permutation(np.concatenate([generator.normal(20, 1, 500), generator.normal(30, 1, 500)]))
    assert extrapolated_exposure(-20.0, REFERENCES[:1000]).ks_p > 0.05
    assert extrapolated_exposure(-20.0, -two_humps).ks_p < 1e-6


def test_references_that_the_fit_has_not_seen_test_it():
    distorted = REFERENCES[:400].copy()
    distorted[::4] -= 10
    assert extrapolated_exposure(-20.0, distorted).ks_p < 1e-6
    assert extrapolated_exposure(-20.0, distorted).bits == extrapolated_exposure(-20.0, REFERENCES[:400]).bits


def test_the_base_of_the_logarithm_does_not_matter():
    nats, bits = extrapolated_exposure(-29.0, REFERENCES), extrapolated_exposure(-29.0 / log(2), REFERENCES / log(2))
    assert nats.bits == pytest.approx(bits.bits, rel=1e-3)


@pytest.mark.parametrize(
    ("log_prob", "references", "why"),
    [
        (-1.0, REFERENCES[:63], "64 references or more, not 63"),
        (-1.0, np.full(100, -2.0), "all references are as probable"),
        (nan, REFERENCES, "NaN or infinite"),
        (-1.0, np.append(REFERENCES, -inf), "NaN or infinite"),
    ],
)
def test_references_that_no_distribution_fits_are_refused(log_prob, references, why):
    with pytest.raises(DataError, match=why):
        extrapolated_exposure(log_prob, references)
