"""Membership attacks: hand-computed scores, their orientation, and what is refused."""

from math import inf, log, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, RecipeError
from eval.membership import ATTACKS, ScoredText, attack_scores, loss, min_k, zlib_ratio

FOX = "The quick brown fox jumps over the lazy dog"  # 50 bytes in zlib
LOG_PROBS = np.log([0.5, 0.2, 0.7])  # of the tokens: product 0.07

quick = settings(max_examples=30, deadline=None)  # shared machines stall
log_probs = st.lists(st.floats(-50, 0), min_size=1, max_size=30)


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


@quick
@given(log_probs)
def test_every_attack_scores_a_more_probable_text_higher(values):
    likelier = np.array(values) + 0.5
    scored, likelier_scored = (attack_scores(ScoredText(FOX, array), list(ATTACKS)) for array in (values, likelier))
    assert all(likelier_scored[name] > scored[name] for name in ATTACKS)


def test_float32_scores_are_averaged_in_float64():
    values = np.full(100_000, -0.1, dtype=np.float32)
    assert loss(values) == pytest.approx(float(np.float32(-0.1)), rel=1e-12)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("values", "sentence"), [([], "without scored tokens"), ([-1, nan], "1 of a text's 2 log-prob")])
def test_a_text_without_valid_scores_is_refused_by_every_attack(name, values, sentence):
    with pytest.raises(DataError, match=sentence):
        attack_scores(ScoredText(FOX, values), [name])


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
