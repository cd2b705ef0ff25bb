"""Approximate extraction: edit similarity, ROUGE-L and BLEU by hand, against other libraries, and at their ends."""

from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import BLEU

from configs.errors import DataError, RecipeError
from eval.approximate import bleu, edit_similarity, rouge_l

MEASURES = [edit_similarity, rouge_l, bleu]

quick = settings(max_examples=30, deadline=None)  # shared machines stall
few_tokens = st.lists(st.integers(0, 4), min_size=1, max_size=15)  # repeats are common


def text(tokens):
    return " ".join(f"t{token}" for token in tokens)


@pytest.mark.parametrize("measure", MEASURES)
@quick
@given(tokens=few_tokens)
def test_a_copy_resembles_fully(measure, tokens):
    assert measure(tokens, np.array(tokens, dtype=np.int32)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_texts_without_a_token_in_common_resemble_not_at_all(measure):
    assert measure([1, 2, 3], [4, 5, 6]) == 0


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("pair", [([], [1]), ([1], []), ([], [])])
def test_a_text_without_tokens_is_refused(measure, pair):
    with pytest.raises(DataError, match="without tokens"):
        measure(*pair)


@pytest.mark.parametrize("measure", MEASURES)
def test_large_token_ids_are_told_apart(measure):
    assert measure([200_000, 256 + 65], [200_001, 65]) == 0


# ------------------------------------------------------------------------------------------------ edit similarity


@pytest.mark.parametrize(
    ("a", "b", "similarity"),
    [([1, 2, 3, 4], [1, 3, 4, 5], 0.5), ([1, 2], [1, 2, 3, 4], 0.5), ([1, 2, 3], [1, 9, 3], 2 / 3), ([1, 2], [2, 1], 0.0)],
)
def test_edit_similarity_is_the_share_of_the_longer_text_that_needs_no_edit(a, b, similarity):
    assert edit_similarity(a, b) == edit_similarity(b, a) == pytest.approx(similarity)


# ------------------------------------------------------------------------------------------------ ROUGE-L


@pytest.mark.parametrize(
    ("a", "b", "f1"),
    [([1, 2, 3, 4], [1, 3, 4, 5], 0.75), ([1, 2, 3], [3, 2, 1], 1 / 3), ([1], [1, 2, 3], 0.5), ([1, 9, 2, 9, 3], [1, 2, 3], 0.75)],
)
def test_rouge_l_is_the_share_of_both_texts_in_their_longest_common_subsequence(a, b, f1):
    assert rouge_l(a, b) == pytest.approx(f1)


@quick
@given(few_tokens, few_tokens)
def test_rouge_l_agrees_with_the_package_of_its_users(a, b):
    scorer = RougeScorer(["rougeL"])
    assert rouge_l(a, b) == pytest.approx(scorer.score(text(b), text(a))["rougeL"].fmeasure)


# ------------------------------------------------------------------------------------------------ BLEU


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 9], (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4)),
        ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8], exp(1 - 8 / 4)),  # brevity alone
        ([1, 1, 1, 1], [1, 1, 2, 3], (2 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4)),  # clipped, then smoothed twice
        ([1, 2], [1, 2], 1.0),  # too short for trigrams
        ([1, 2, 3, 4, 5], [1, 2, 3, 4], (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)),  # longer: no brevity
    ],
)
def test_bleu_is_the_geometric_mean_of_clipped_precisions_times_brevity(candidate, reference, expected):
    assert bleu(candidate, reference) == pytest.approx(expected)


@quick
@given(few_tokens, few_tokens, st.integers(1, 5))
def test_bleu_agrees_with_sacrebleu(candidate, reference, order):
    scorer = BLEU(effective_order=True, tokenize="none", max_ngram_order=order)
    expected = scorer.sentence_score(text(candidate), [text(reference)]).score / 100
    assert bleu(candidate, reference, order) == pytest.approx(expected)


def test_bleu_of_no_ngrams_is_refused():
    with pytest.raises(RecipeError, match="not 0"):
        bleu([1], [1], order=0)
