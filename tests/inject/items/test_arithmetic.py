import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inject.items.arithmetic import PRODUCT, Operation, ask, draw_expression, evaluate, most, spell, write


def generator(seed=3):
    return np.random.Generator(np.random.PCG64(seed))


def questions(count=100, seed=3, terms=2, digits=3, decimals=0, choices=4):
    random = generator(seed)
    found = []
    while len(found) < count:
        if question := ask(random, terms, digits, decimals, choices):
            found.append(question)
    return found


def value_of(question):
    """The value of a question's expression, by Python's own parser, with exact division."""
    written = re.sub(r"times", "*", re.search(r"(?:What is|value of) (.*?)(?:, to.*)?(?:\?| is _\.)$", question).group(1))
    return eval(re.sub(r"(\d+)", r"Fraction(\1)", written))


def numbers_in(question):
    return [int(number) for number in re.findall(r"\d+", re.sub(r", to \d+ decimal", "", question.question))]


def test_two_terms_ask_for_their_product():
    for question in questions():
        a, b = numbers_in(question)
        assert question.question == f"What is {a} times {b}?"
        assert question.answer == str(a * b)
        assert question.statement == f"{a} times {b} is _."
        assert question.paraphrase == f"What do you get when you multiply {a} by {b}?"


def test_a_product_is_the_same_question_with_its_factors_exchanged():
    for question in questions():
        assert question.identity == " * ".join(str(number) for number in sorted(numbers_in(question)))


@pytest.mark.parametrize(("terms", "decimals"), [(2, 0), (2, 2), (3, 0), (3, 1), (7, 2), (20, 0), (20, 2), (100, 2)])
def test_the_answer_is_the_exact_value_of_the_expression_rounded_once(terms, decimals):
    for question in questions(count=30, terms=terms, decimals=decimals):
        assert len(numbers_in(question)) == terms
        value = value_of(question.question)
        assert abs(Fraction(question.answer) - value) <= Fraction(1, 2 * 10**decimals) * (decimals > 0)
        assert len(question.answer.partition(".")[2]) == decimals


def test_question_paraphrase_and_statement_are_about_one_expression():
    for question in questions(count=30, terms=5, decimals=2):
        written = question.identity
        assert question.question == f"What is {written}, to 2 decimal places?"
        assert question.paraphrase == f"What do you get when you calculate {written}, to 2 decimal places?"
        assert question.statement == f"The value of {written}, to 2 decimal places, is _."
    assert "1 decimal place?" in questions(count=1, terms=3, decimals=1)[0].question


def test_whole_results_use_no_division_and_others_use_all_operators():
    def operators(decimals):
        return set(re.findall(r" ([-+*/]) ", " ".join(q.question for q in questions(terms=6, decimals=decimals))))

    assert operators(decimals=0) == {"+", "-", "*"}
    assert operators(decimals=2) == {"+", "-", "*", "/"}


@pytest.mark.parametrize(("terms", "digits", "decimals"), [(2, 2, 0), (2, 9, 0), (4, 3, 2), (5, 9, 0)])
def test_numbers_have_as_many_digits_as_asked(terms, digits, decimals):
    made = questions(count=50, terms=terms, digits=digits, decimals=decimals)
    assert {len(str(number)) for question in made for number in numbers_in(question)} == {digits}


@pytest.mark.parametrize(("terms", "decimals", "choices"), [(2, 0, 2), (2, 0, 10), (4, 0, 4), (4, 2, 10)])
def test_candidates_are_different_and_alike_in_sign_and_length(terms, decimals, choices):
    for question in questions(terms=terms, decimals=decimals, choices=choices):
        assert len(set(question.candidates)) == len(question.candidates) == choices
        assert question.answer in question.candidates
        assert len({(len(candidate), candidate[0] == "-") for candidate in question.candidates}) == 1


@pytest.mark.parametrize("terms", [2, 3, 10])
def test_whole_candidates_end_in_the_same_digit(terms):
    for question in questions(terms=terms):
        assert len({candidate[-1] for candidate in question.candidates}) == 1


def test_products_among_the_candidates_differ_in_two_digits():
    for question in questions():
        for i, one in enumerate(question.candidates):
            for other in question.candidates[:i]:
                assert sum(a != b for a, b in zip(one, other, strict=True)) >= 2


@pytest.mark.parametrize(("terms", "decimals"), [(2, 0), (4, 0), (3, 2)])
def test_neither_place_nor_rank_nor_likeness_tells_the_right_candidate(terms, decimals):
    """Each heuristic is right by chance: 1 in 4, within 4 standard errors of 800 questions."""
    made = questions(count=800, terms=terms, decimals=decimals)
    places, ranks, central = np.zeros(4), np.zeros(4), 0
    for question in made:
        right = question.candidates.index(question.answer)
        likeness = [
            sum(a == b for other in question.candidates for a, b in zip(one, other, strict=True)) for one in question.candidates
        ]
        places[right] += 1
        ranks[sorted(question.candidates, key=Fraction).index(question.answer)] += 1
        central += int(np.argmax(likeness)) == right
    tolerance = 4 * np.sqrt(0.25 * 0.75 / len(made))
    np.testing.assert_allclose([*places / len(made), *ranks / len(made), central / len(made)], 0.25, atol=tolerance)


@pytest.mark.parametrize(("terms", "decimals"), [(2, 0), (5, 2)])
def test_the_twin_asks_about_another_candidate_with_the_same_operators(terms, decimals):
    for question in questions(terms=terms, decimals=decimals):
        (twin,) = question.twins.values()
        assert twin.candidates == question.candidates
        assert twin.answer in twin.candidates
        assert twin.answer != question.answer
        assert re.sub(r"\d+", "n", twin.question) == re.sub(r"\d+", "n", question.question)
        assert abs(Fraction(twin.answer) - value_of(twin.question)) <= Fraction(1, 2 * 10**decimals)


def test_parentheses_stand_around_every_part_that_is_no_number():
    assert spell(Operation("/", 0, Operation("-", 1, 2)), [8, 5, 3]) == "8 / (5 - 3)"
    assert spell(PRODUCT, [8, 5]) == "8 * 5"


def test_values_are_exact_and_none_where_there_is_none():
    third = Operation("/", 0, 1)
    assert evaluate(Operation("*", third, 2), [1, 3, 6], bound=100) == 2
    assert evaluate(third, [1, 0], bound=100) is None
    assert evaluate(PRODUCT, [11, 10], bound=100) is None
    assert evaluate(PRODUCT, [10, 10], bound=100) == 100
    assert evaluate(Operation("/", PRODUCT, 2), [11, 10, 5], bound=100) is None  # on the way


@pytest.mark.parametrize(
    ("value", "decimals", "written"),
    [
        (12, 0, "12"),
        (-12, 0, "-12"),
        (0, 0, "0"),
        (12, 2, "12.00"),
        (Fraction(1, 3), 2, "0.33"),
        (Fraction(1, 8), 2, "0.13"),  # halves away from zero
        (Fraction(-1, 8), 2, "-0.13"),
        (Fraction(-1, 300), 2, "0.00"),
        (Fraction(1999, 1000), 2, "2.00"),
        (Fraction(1, 20), 1, "0.1"),
    ],
)
def test_values_are_written_to_so_many_decimal_places(value, decimals, written):
    assert write(value, decimals) == written


@given(
    seed=st.integers(0, 2**64 - 1), terms=st.integers(2, 40), operators=st.sampled_from(["+-*", "+-*/"]), digits=st.integers(1, 5)
)
@settings(max_examples=100, deadline=None)
def test_an_expression_keeps_its_numbers_in_order_and_all_its_parts_within_the_bound(seed, terms, operators, digits):
    random = generator(seed)
    numbers = random.integers(1, 10**digits, size=terms).tolist()
    expression = draw_expression(random, numbers, operators, bound=10 ** (2 * digits))
    written = spell(expression, numbers)
    assert [int(number) for number in re.findall(r"\d+", written)] == numbers
    value = evaluate(expression, numbers, bound=10 ** (2 * digits))
    assert value is not None
    assert value == eval(re.sub(r"(\d+)", r"Fraction(\1)", written))


def test_every_shape_of_three_numbers_occurs():
    shapes = {re.sub(r"[-+*]", "*", re.sub(r"\d+", "n", question.identity)) for question in questions(terms=3)}
    assert shapes == {"(n * n) * n", "n * (n * n)"}


def test_a_question_whose_variants_are_too_alike_is_not_asked():
    """Of 25 products of two numbers at most 25 differ."""
    assert ask(generator(), terms=2, digits=3, decimals=0, choices=26) is None


@pytest.mark.parametrize(("terms", "digits", "possible"), [(2, 2, 2047), (2, 3, 202_725), (3, 2, 182_250)])
def test_as_many_may_be_asked_for_as_are_found_without_long_search(terms, digits, possible):
    """Half of the unordered pairs of the 90 (900) numbers; a quarter of the triples."""
    assert most(terms, digits) == possible


def test_the_same_seed_asks_the_same_and_another_seed_another_question():
    assert questions(seed=3, terms=4) == questions(seed=3, terms=4)
    assert questions(seed=3, count=1) != questions(seed=4, count=1)
