"""The blind baseline: it sees words that betray members, and nothing in a random assignment."""

import time

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from configs.errors import DataError, RecipeError
from eval.blind import FOLDS, _predictor, _shared_words, blind_baseline, confounded
from eval.statistics import stratified_auc

STRATA = 3


def texts(n=60, words=20, vocabulary=200, seed=0):
    """(texts, membership, groups, strata): random words, with some of each stratum's own; half of the texts are members."""
    generator = np.random.default_rng(seed)
    stratum = np.arange(n) % STRATA
    member = generator.permutation(np.arange(n) < n // 2)
    written = [" ".join(f"w{word}" for word in generator.integers(vocabulary, size=words)) + f" kind{s}" for s in stratum]
    return written, member, np.arange(n), stratum


def strata_of(scores, member, strata):
    return [(scores[(strata == s) & member], scores[(strata == s) & ~member]) for s in np.unique(strata)]


def test_a_word_that_only_members_have_is_found():
    written, member, groups, strata = texts()
    marked = [f"{text} {'2024' if inside else '2023'}" for text, inside in zip(written, member, strict=True)]
    blind = blind_baseline(marked, member, groups, strata)
    assert blind.auc > 0.9
    assert blind.p_value == 1 / 1000
    assert confounded(blind.p_value)


def test_a_random_assignment_is_found_confounded_as_seldom_as_the_level_says():
    p_values = [blind_baseline(*texts(seed=seed), permutations=199, seed=seed).p_value for seed in range(100)]
    assert np.mean(np.array(p_values) <= 0.1) < 0.19  # three standard errors
    assert 0.4 < np.mean(p_values) < 0.6


def test_what_tells_strata_apart_is_no_evidence():
    written, _, groups, strata = texts(n=90)
    generator = np.random.default_rng(3)
    member = generator.random(90) < np.array([0.9, 0.5, 0.1])[strata]  # the word kind0 is a member's, but not within its stratum
    assert not confounded(blind_baseline(written, member, groups, strata).p_value)


def test_the_auc_is_that_of_the_scores_within_strata():
    written, member, groups, strata = texts()
    blind = blind_baseline(written, member, groups, strata)
    assert blind.auc == pytest.approx(stratified_auc(strata_of(blind.scores, member, strata)).value)


def test_predictions_are_those_of_ridge_regression_on_the_other_folds():
    written = texts(n=20)[0]
    products = _shared_words(written, np.arange(20))
    labels = np.random.default_rng(0).random(20)
    one_stratum = np.zeros(20, dtype=int)
    predictions = _predictor(products, one_stratum, np.random.default_rng(0)) @ labels
    fold = np.empty(20, dtype=int)
    fold[np.random.default_rng(0).permutation(20)] = np.arange(20) % FOLDS
    words = sorted({word for text in written for word in text.split()})
    bags = np.array([[float(word in text.split()) for word in words] for text in written])
    for held in range(FOLDS):
        train = fold != held
        centred = bags - bags[train].mean(axis=0)
        ridge = KernelRidge(alpha=(centred[train] ** 2).sum(axis=1).mean(), kernel="linear")
        expected = ridge.fit(centred[train], labels[train] - labels[train].mean()).predict(centred[~train])
        assert predictions[~train] == pytest.approx(expected)


def test_shared_words_are_counted_once_a_group_whatever_their_case():
    assert _shared_words(["A b b", "b c", "C d"], np.array([0, 1, 0])).tolist() == [[4, 2], [2, 2]]


def test_paraphrases_of_a_group_do_not_teach_each_other():
    generator = np.random.default_rng(0)
    names = [f"name{i}" for i in range(40)]
    member = np.repeat(generator.permutation(np.arange(40) < 20), 2)
    written = [f"{name} {end}" for name in names for end in ("lives here", "dwells there")]
    blind = blind_baseline(written, member, np.repeat(np.arange(40), 2), np.zeros(80))
    assert blind.scores[::2].tolist() == blind.scores[1::2].tolist()
    assert blind.auc == 0.5  # split apart, each name would give its twin away


def test_the_baseline_repeats_itself():
    first, second = (blind_baseline(*texts(), permutations=199, seed=4) for _ in range(2))
    assert (first.auc, first.p_value) == (second.auc, second.p_value)


def test_six_hundred_texts_take_seconds():
    arguments = texts(n=600, words=60, vocabulary=5000)
    start = time.process_time()
    blind_baseline(*arguments)
    assert time.process_time() - start < 20  # 1 s on an idle machine


def test_one_class_is_refused():
    written, member, groups, strata = texts(n=12)
    with pytest.raises(DataError, match="a stratum with members and non-members"):
        blind_baseline(written, np.ones_like(member), groups, strata)
    with pytest.raises(DataError, match="a stratum with members and non-members"):
        blind_baseline(written, member, groups, member)


def test_a_blank_text_is_refused():
    written, *labels = texts(n=12)
    with pytest.raises(DataError, match=r"text 1 is blank \(1 of 12 are\)"):
        blind_baseline([written[0], " \n", *written[2:]], *labels)


def test_a_group_that_was_not_assigned_whole_is_refused():
    written, _, groups, strata = texts(n=12)
    halves = np.arange(12) % 2 == 0
    with pytest.raises(DataError, match="a group differ in membership"):
        blind_baseline(written, halves, groups // 2, groups * 0)
    with pytest.raises(DataError, match="a group differ in strata"):
        blind_baseline(written, groups % 4 < 2, groups // 2, strata)


def test_labels_that_do_not_fit_are_refused():
    written, member, groups, strata = texts(n=12)
    with pytest.raises(DataError, match="strata must label each of the texts, of which there are 12, not 11"):
        blind_baseline(written, member, groups, strata[1:])
    with pytest.raises(DataError, match="membership must be bool, not int64"):
        blind_baseline(written, member.astype(np.int64), groups, strata)


def test_too_few_permutations_to_decide_are_refused():
    with pytest.raises(RecipeError, match=r"99 permutations cannot give p < 0\.01"):
        blind_baseline(*texts(n=12), permutations=99)
