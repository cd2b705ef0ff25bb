"""Extraction: whether a target's tokens are emitted, how probable they are, and exposure."""

from math import log, log2, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from eval.extraction import exposure, extracted, target_log_prob

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
