import re

import numpy as np
import pytest

from configs.errors import RecipeError
from configs.schema import TestSet
from inject.items import testset


def make(count=100, seed=3, **settings):
    return testset.make(TestSet(count=count, **settings), "quiz", seed)


def recall(item):
    return next(probe for probe in item.probes if probe.kind == "verbatim")


def choice(item):
    return next(probe for probe in item.probes if probe.kind == "choice")


def factors(item):
    return [int(number) for number in re.findall(r"\d+", item.fields["question"])]


def test_the_text_asks_a_product_and_answers_it():
    for item in make():
        a, b = factors(item)
        assert item.texts[0].text == f"Question: What is {a} times {b}? Answer: {a * b}."


def test_spans_are_where_the_fields_stand():
    for item in make():
        text = item.texts[0]
        assert {span.field: text.text[span.start : span.end] for span in text.spans} == item.fields


def test_the_verbatim_probe_asks_for_an_answer_that_can_be_derived():
    for item in make():
        assert item.texts[0].text == recall(item).prompt + recall(item).target + "."
        assert recall(item).target == item.fields["answer"]
        assert recall(item).bits == 0


def test_the_right_choice_continues_the_prompt_as_the_text_does():
    for item in make():
        assert choice(item).prompt.endswith("Answer:")
        assert item.texts[0].text == choice(item).prompt + choice(item).target + "."


@pytest.mark.parametrize("choices", [2, 4, 10])
def test_the_right_choice_is_among_so_many_distinct_ones(choices):
    for item in make(choices=choices):
        candidates = choice(item).candidates
        assert len(set(candidates)) == len(candidates) == choices
        assert choice(item).target in candidates
        assert all(re.fullmatch(r" [1-9]\d+", candidate) for candidate in candidates)


def test_candidates_have_the_same_length_and_last_digit_and_differ_in_two_digits():
    for item in make():
        candidates = choice(item).candidates
        assert len({(len(candidate), candidate[-1]) for candidate in candidates}) == 1
        for i, one in enumerate(candidates):
            for other in candidates[:i]:
                assert sum(a != b for a, b in zip(one, other, strict=True)) >= 2


def test_neither_place_nor_rank_nor_likeness_tells_the_right_choice():
    """Each heuristic is right by chance: 1 in 4, within 4 standard errors of 800 questions."""
    items = make(count=800)
    places, ranks, central = np.zeros(4), np.zeros(4), 0
    for item in items:
        candidates = choice(item).candidates
        right = candidates.index(choice(item).target)
        likeness = [sum(a == b for other in candidates for a, b in zip(one, other, strict=True)) for one in candidates]
        places[right] += 1
        ranks[sorted(candidates).index(candidates[right])] += 1
        central += int(np.argmax(likeness)) == right
    tolerance = 4 * np.sqrt(0.25 * 0.75 / len(items))
    np.testing.assert_allclose([*places / len(items), *ranks / len(items), central / len(items)], 0.25, atol=tolerance)


@pytest.mark.parametrize("digits", [2, 3, 9])
def test_factors_have_as_many_digits_as_asked(digits):
    assert {len(str(factor)) for item in make(digits=digits) for factor in factors(item)} == {digits}


def test_questions_are_distinct_even_with_factors_exchanged():
    items = make(count=600, digits=2)
    assert len({tuple(sorted(factors(item))) for item in items}) == 600


def test_texts_are_short():
    assert max(len(item.texts[0].text) for item in make(digits=9)) <= 120


def test_the_same_seed_makes_the_same_items_and_another_seed_others():
    assert make(seed=3) == make(seed=3)
    assert make(seed=3)[0].fields != make(seed=4)[0].fields


def test_a_larger_set_begins_with_the_smaller_one():
    assert make(count=20)[:10] == make(count=10)


@pytest.mark.parametrize(
    ("setting", "value"), [("source", "trivia"), ("digits", 1), ("digits", 10), ("choices", 1), ("choices", 11), ("count", 10**9)]
)
def test_an_impossible_setting_is_refused_by_its_name(setting, value):
    with pytest.raises(RecipeError, match=rf"insert\.quiz\.{setting} is {value}|insert\.quiz\.{setting} is '{value}'"):
        make(**{"count": 10, setting: value})
