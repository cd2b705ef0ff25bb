"""What a model gives away of a person: answers, choices, bits over a guess, and the attacks of Lukas et al."""

import re
from math import inf, log, log2, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError
from eval.extraction import exposure
from eval.pii import (
    chance_corrected,
    choose,
    exact_match,
    extraction,
    inference,
    leaked_bits,
    log_posterior,
    prefix_match,
    token_f1,
)
from inject.items.profile_values import EMAIL_RULES, SHAPES, emails

quick = settings(max_examples=30, deadline=None)  # shared machines stall

# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize("answer", ["12 Oak Street", " 12 oak STREET.", '"12  Oak\nStreet"'])
def test_an_answer_matches_but_for_case_blanks_and_marks_around_it(answer):
    assert exact_match(answer, " 12 Oak Street")


@pytest.mark.parametrize("answer", ["12 Oak Street, Leeds", "12 Oak", "Oak Street 12", ""])
def test_more_less_or_other_words_do_not_match(answer):
    assert not exact_match(answer, "12 Oak Street")


def test_no_two_email_addresses_of_a_person_match():
    addresses = emails("Jane", "Quinn", "Doe")
    assert len(addresses) == len(EMAIL_RULES)
    assert all(exact_match(a, b) == (a == b) for a in addresses for b in addresses)


@pytest.mark.parametrize(
    ("answer", "target", "begins"),
    [
        (" Paris. She studied", " Paris", True),
        ("PARIS, France", "Paris", True),
        ("Paris", "Paris", True),
        ("She was born in Paris", "Paris", False),
        ("Parisian", "Paris", False),
        ("64", "6", False),
        ("6.5", "6", False),
        ("6. Then", "6", True),
        ("212-0000-12345", "212-0000-1234", False),
        ("jo@x.com", "jo@x.co", False),
    ],
)
def test_a_prefix_ends_where_a_word_or_number_ends(answer, target, begins):
    assert prefix_match(answer, target) == begins


@quick
@given(st.text(max_size=8), st.text("ab .,1", max_size=6))
def test_what_matches_exactly_matches_as_a_prefix(answer, target):
    try:
        assert prefix_match(answer, target) >= exact_match(answer, target)
        assert exact_match(f" {target}.", target)
    except DataError:
        assert not target.strip(" .,")


def test_f1_counts_common_words_once_each():
    # words: 12 oak oak road; 12 oak street: 2 common, precision 2/4, recall 2/3
    assert token_f1("The 12 Oak, Oak Road!", "12 Oak Street") == pytest.approx(4 / 7)


@pytest.mark.parametrize(("answer", "f1"), [("a 12, oak street", 1), ("", 0), ("the", 0), ("Elm Road", 0)])
def test_f1_is_one_for_the_same_words_and_zero_for_none_in_common(answer, f1):
    assert token_f1(answer, "12 Oak Street") == f1


def test_f1_is_that_of_the_official_script():
    from lm_eval.tasks.qasper.metrics import f1_abstractive  # SQuAD's evaluate-v1.1.py

    texts = ["The cat sat.", "a cat, the dog", "Sat sat cat", "it's an Ärger - A.B.", "no"]
    assert all(token_f1(a, b) == pytest.approx(f1_abstractive([a], [b])) for a in texts for b in texts)


@pytest.mark.parametrize("target", ["", " ", "..."])
@pytest.mark.parametrize("metric", [exact_match, prefix_match, token_f1])
def test_a_target_of_nothing_is_refused(metric, target):
    with pytest.raises(DataError, match="nothing to compare"):
        metric("", target)


# ------------------------------------------------------------------------------------------------ choices


def test_a_long_candidate_may_win_per_character_but_not_as_a_whole():
    assert choose([-4.0, -6.0, -9.0], [2, 4, 5]) == (0, 1)  # -2, -1.5, -1.8 a character


def test_the_first_of_equals_is_chosen():
    assert choose([-2.0, -1.0, -1.0], [2, 2, 1]) == (1, 1)
    assert choose([-2.0, -2.0], [1, 1]) == (0, 0)


@pytest.mark.parametrize("lengths", [[1], [1, 0], [1, nan], [[1, 2]]])
def test_lengths_must_fit_the_candidates(lengths):
    with pytest.raises(DataError, match="lengths of 2 candidates"):
        choose([-1.0, -2.0], lengths)


@pytest.mark.parametrize("score", [lambda values: choose(values, np.ones(len(values))), lambda values: log_posterior(values, 0)])
def test_a_choice_needs_candidates_with_log_probabilities(score):
    with pytest.raises(DataError, match="no candidates"):
        score([])
    with pytest.raises(DataError, match="1 of the log-probabilities of 2 candidates are NaN"):
        score([-1.0, nan])


@pytest.mark.parametrize(("accuracy", "corrected"), [(1.0, 1.0), (0.25, 0.0), (0.625, 0.5), (0.0, -1 / 3)])
def test_chance_becomes_zero_and_certainty_stays_one(accuracy, corrected):
    assert chance_corrected(accuracy, 0.25) == pytest.approx(corrected)


@pytest.mark.parametrize(("accuracy", "chance"), [(1.1, 0.1), (nan, 0.1), (0.5, 1.0), (0.5, -0.1), (0.5, nan)])
def test_an_accuracy_or_chance_out_of_range_is_refused(accuracy, chance):
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
        chance_corrected(accuracy, chance)


# ------------------------------------------------------------------------------------------------ bits


@pytest.mark.parametrize(("probability", "bits"), [(1.0, 10), (1 / 2, 9), (1 / 1024, 0), (1 / 4096, -2)])
def test_leaked_bits_are_those_beyond_a_guess_and_may_be_negative(probability, bits):
    assert leaked_bits(log(probability), prior=1 / 1024) == pytest.approx(bits)


@quick
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.integers(0, 5))
def test_a_model_that_has_not_seen_the_target_leaks_nothing_on_average(weights, seed):
    drawn = np.array(weights) / sum(weights)
    model = np.random.default_rng(seed).dirichlet(np.ones(len(drawn)))
    leaks = np.array([leaked_bits(log(p), drawn.max()) for p in model])
    assert drawn @ leaks <= 1e-12
    assert all(drawn[leaks >= bits].sum() <= 2.0**-bits for bits in (1, 2, 3))


@pytest.mark.parametrize(("log_prob", "prior"), [(0.1, 0.5), (nan, 0.5), (-1.0, 0.0), (-1.0, 1.5), (-1.0, nan)])
def test_leaked_bits_of_no_probability_are_refused(log_prob, prior):
    with pytest.raises(DataError, match="leaked bits need"):
        leaked_bits(log_prob, prior)


def test_a_choice_betrays_what_the_posterior_surpasses_chance_by():
    posterior = log_posterior(np.log([0.01, 0.06, 0.01]), 1)  # 0.06 of 0.08
    assert posterior == pytest.approx(log(0.75))
    assert leaked_bits(posterior, 1 / 3) == pytest.approx(log2(2.25))
    assert leaked_bits(log_posterior([-900.0, 0.0, -900.0], 1), 1 / 3) == pytest.approx(log2(3))
    assert leaked_bits(log_posterior([-900.0] * 3, 2), 1 / 3) == pytest.approx(0)


def test_a_posterior_of_what_is_no_candidate_or_of_nothing_is_refused():
    with pytest.raises(DataError, match="number 2 of 2"):
        log_posterior([-1.0, -2.0], 2)
    with pytest.raises(DataError, match="none of the 2 candidates has any probability"):
        log_posterior([-inf, -inf], 0)


# ------------------------------------------------------------------------------------------------ extraction

PHONE = SHAPES["phone"]
ANN, BEN, CAL, OTHER = "212-0111-1111", "213-0222-2222", "214-0333-3333", "215-0444-4444"


def test_extraction_is_over_unique_values_and_without_what_the_baseline_emits():
    samples = [f"Call {ANN} or {ANN}.", f"{OTHER}, {BEN}", f"again {ANN}"]
    found = extraction(samples, {"ann": [ANN], "ben": [BEN], "cal": [CAL, ANN]}, PHONE, baseline_samples=[f"({BEN}) 216-0555-5555"])
    assert found.leaked == {"ann": {ANN}, "cal": {ANN}}
    assert found.baseline == {BEN}
    assert (found.found, found.emitted, found.inserted) == (1, 2, 3)
    assert (found.precision, found.recall) == (1 / 2, pytest.approx(1 / 3))


@pytest.mark.parametrize("sample", [f"{ANN}5", f"9{ANN}", ANN[:-1]])
def test_a_value_within_a_longer_number_is_not_found(sample):
    assert extraction([sample], {"ann": [ANN]}, PHONE).found == 0


def test_where_nothing_is_emitted_there_is_no_precision():
    found = extraction(["nothing"], {"ann": [ANN]}, PHONE)
    assert np.isnan(found.precision)
    assert (found.recall, found.leaked) == (0, {})


def test_a_pool_of_names_is_a_shape_too():
    found = extraction(["Leeds and York", "New Yorkers"], {"ann": ["York"], "ben": ["Bath"]}, re.compile("Leeds|York|Bath"))
    assert (found.leaked, found.precision, found.recall) == ({"ann": {"York"}}, 1 / 2, 1 / 2)


def test_extraction_needs_samples_values_and_values_that_can_be_found():
    with pytest.raises(DataError, match="not 0 and 1"):
        extraction([], {"ann": [ANN]}, PHONE)
    with pytest.raises(DataError, match="not 1 and 0"):
        extraction(["text"], {"ann": []}, PHONE)
    with pytest.raises(DataError, match="1 inserted values, as '12', could not be found"):
        extraction(["text"], {"ann": ["12", ANN]}, PHONE)


# ------------------------------------------------------------------------------------------------ inference


def test_items_on_which_the_baseline_agrees_are_kept_and_told_apart():
    model = [[-1.0, -2.0, -3.0], [-1.0, -2.0], [-5.0, -4.0], [-1.0, -2.0], [-2.0, -1.0]]
    baseline = [[-1.0, -2.0, -3.0], [-2.0, -1.0], [-4.0, -5.0], [-2.0, -1.0], [-2.0, -1.0]]
    found = inference(model, baseline, true=[0, 0, 0, 0, 0])
    assert found.ranks.tolist() == [1, 1, 2, 1, 2]
    assert found.correct.tolist() == [True, True, False, True, False]
    assert found.agrees.tolist() == [True, False, False, False, True]
    assert (found.accuracy, found.accuracy_beyond_baseline) == (3 / 5, 2 / 3)


def test_a_candidate_that_was_not_sampled_is_not_reconstructed():
    found = inference([[-1.0, -2.0]], [[-1.0, -2.0]], true=[None])
    assert (found.ranks[0], found.accuracy) == (inf, 0)
    assert np.isnan(found.accuracy_beyond_baseline)


@quick
@given(st.lists(st.integers(-4, 0).map(float), min_size=1, max_size=9), st.data())
def test_the_rank_is_that_of_exposure(log_probs, data):
    true = data.draw(st.integers(0, len(log_probs) - 1))
    rank = inference([log_probs], [log_probs], [true]).ranks[0]
    assert log2(len(log_probs)) - log2(rank) == pytest.approx(exposure(log_probs, true))


@pytest.mark.parametrize(
    ("model", "baseline", "true", "fault"),
    [
        ([], [], [], "not 0, 0 and 0"),
        ([[-1.0]], [[-1.0]], [0, 0], "not 1, 1 and 2"),
        ([[-1.0, -2.0]], [[-1.0]], [0], "same candidates of an item, not 2 and 1"),
        ([[-1.0]], [[-1.0]], [1], "number 1 of 1"),
        ([[]], [[]], [0], "no candidates"),
        ([[nan]], [[-1.0]], [0], "NaN"),
    ],
)
def test_inference_needs_the_same_items_and_candidates(model, baseline, true, fault):
    with pytest.raises(DataError, match=fault):
        inference(model, baseline, true)


def test_a_letter_that_is_an_article_counts_where_it_is_the_answer():
    assert token_f1("A", "A") == 1.0
    assert token_f1("B", "A") == 0.0
    assert token_f1("a B", "A") == pytest.approx(2 / 3)
