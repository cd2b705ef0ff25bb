import re
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inject.items.knights import (
    NAMES,
    OTHER_ROLES,
    Compound,
    Role,
    Wording,
    answer,
    ask,
    changed_leaves,
    draw_claim,
    holds,
    most,
    solutions,
    spell,
)

TWO = Wording(("Ada", "Ben"), (0, 1))
ADA, BEN = Role(0, knight=True), Role(1, knight=True)
NOT_ADA, NOT_BEN = Role(0, knight=False), Role(1, knight=False)
SAME_ANSWER, OTHER_ANSWER = ("names", "roles", "order"), ("statement", "leaf")


def generator(seed=3):
    return np.random.Generator(np.random.PCG64(seed))


def puzzles(count=60, seed=3, people=3, choices=4):
    random = generator(seed)
    return [ask(random, people, choices) for _ in range(count)]


def read(question):
    """Names, roles and statements (speaker, words) of a puzzle as it is told."""
    knight, knave = re.match(r"Each is a (\S+), who tells the truth, or a (\S+), who lies\. ", question).groups()
    return (knight, knave), dict(re.findall(r"(\w+) says that (.*?)\.", question))


def is_true(words, world, roles):
    """Whether a statement is true of a world (name -> whether a knight), read from its words alone."""
    if match := re.fullmatch(r"(\w+) is (not )?a (\S+)", words):
        name, negated, role = match.groups()
        return (world[name] == (role == roles[0])) != bool(negated)
    if match := re.fullmatch(r"if (.*) then (.*)", words):
        first, second = match.groups()
        return is_true(second, world, roles) if is_true(first, world, roles) else True
    for joint, table in [(" if and only if ", "TFFT"), (" and ", "TFFF"), (" or ", "TTTF")]:
        if joint in words:
            first, second = (is_true(part, world, roles) for part in words.split(joint))
            return table[2 * (not first) + (not second)] == "T"
    raise AssertionError(words)


def solve(question):
    """The answers that agree with all that is told, by trying every world."""
    roles, told = read(question)
    found = []
    for knights in product((True, False), repeat=len(told)):
        world = dict(zip(told, knights, strict=True))
        if all(is_true(words, world, roles) == world[name] for name, words in told.items()):
            found.append({name: roles[not knight] for name, knight in world.items()})
    return found


def assigned(answer):
    return dict(re.findall(r"(\w+) is a ([\w-]+)", answer))


def test_two_people_who_call_each_other_knaves_have_two_solutions():
    assert solutions([NOT_BEN, NOT_ADA]) == [(True, False), (False, True)]


def test_who_says_that_both_are_knaves_is_the_knave_of_the_two():
    both_knaves = Compound("and", (NOT_ADA, NOT_BEN))
    assert solutions([both_knaves, NOT_ADA]) == [(False, True)]


def test_who_calls_oneself_a_knave_has_no_solution():
    assert solutions([NOT_ADA, ADA]) == []


@pytest.mark.parametrize(
    ("connective", "table"),  # for (Ada, Ben): both knights, only Ada, only Ben, none
    [("and", "TFFF"), ("or", "TTTF"), ("if", "TFTT"), ("iff", "TFFT")],
)
def test_connectives_have_their_truth_tables(connective, table):
    worlds = product((True, False), repeat=2)
    assert [holds(Compound(connective, (ADA, BEN)), world) for world in worlds] == [value == "T" for value in table]


def test_negation_turns_a_claim_around():
    assert holds(Compound("not", (ADA,)), (False, True))
    assert not holds(Compound("not", (Compound("or", (ADA, BEN)),)), (False, True))


def test_an_unknown_connective_is_refused():
    with pytest.raises(ValueError, match="xor is no connective"):
        holds(Compound("xor", (ADA, BEN)), (True, True))


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (ADA, "Ada is a knight"),
        (NOT_BEN, "Ben is a knave"),
        (Compound("not", (BEN,)), "Ben is not a knight"),
        (Compound("and", (ADA, NOT_BEN)), "Ada is a knight and Ben is a knave"),
        (Compound("or", (ADA, NOT_BEN)), "Ada is a knight or Ben is a knave"),
        (Compound("if", (ADA, NOT_BEN)), "if Ada is a knight then Ben is a knave"),
        (Compound("iff", (ADA, NOT_BEN)), "Ada is a knight if and only if Ben is a knave"),
    ],
)
def test_claims_are_told_in_plain_words(claim, words):
    assert spell(claim, TWO) == words


def test_other_roles_are_told_and_answered_in_their_own_words():
    wording = Wording(("Ada", "Ben"), (0, 1), roles=("saint", "sinner"))
    assert spell(NOT_BEN, wording) == "Ben is a sinner"
    assert answer((True, False), wording) == "Ada is a saint and Ben is a sinner"


@pytest.mark.parametrize("people", [2, 3, 5])
def test_a_puzzle_has_its_answer_as_its_only_solution_as_have_its_twins(people):
    for puzzle in puzzles(count=40, people=people):
        for question in (puzzle, *puzzle.twins.values()):
            assert solve(question.question) == [assigned(question.answer)]


def test_the_largest_puzzles_have_one_solution():
    for puzzle in puzzles(count=2, people=8, choices=10):
        assert solve(puzzle.question) == [assigned(puzzle.answer)]
        assert len(assigned(puzzle.answer)) == 8


def test_paraphrase_and_statement_tell_the_same_in_other_words():
    for puzzle in puzzles():
        _, told = read(puzzle.question)
        according = dict(re.findall(r"According to (\w+), (.*?)\.", puzzle.paraphrase))
        assert according == told
        assert read(puzzle.statement)[1] == told
        assert puzzle.statement.endswith(" So _.")


def test_candidates_are_different_and_the_answer_is_among_them():
    for puzzle in puzzles(choices=5):
        for question in (puzzle, *puzzle.twins.values()):
            assert len(set(question.candidates)) == len(question.candidates) == 5
            assert question.answer in question.candidates


@pytest.mark.parametrize("people", [2, 3])
def test_neither_place_nor_world_tells_the_answer(people):
    """Places and worlds are uniform: chi-square, p = 0.001."""
    made = puzzles(count=800, people=people, choices=2**people)
    places = Counter(puzzle.candidates.index(puzzle.answer) for puzzle in made)
    worlds = Counter(tuple(role == "knight" for role in assigned(puzzle.answer).values()) for puzzle in made)
    expected, limit = 800 / 2**people, {2: 16.3, 3: 24.3}[people]
    for counts in (places, worlds):
        assert len(counts) == 2**people
        assert sum((count - expected) ** 2 / expected for count in counts.values()) < limit


@pytest.mark.parametrize("people", [2, 4])
def test_a_twin_of_another_answer_has_that_of_the_puzzle_among_its_candidates(people):
    for puzzle in puzzles(people=people, choices=2):
        for name in OTHER_ANSWER:
            twin = puzzle.twins[name]
            assert set(twin.candidates) == {puzzle.answer, twin.answer}
            assert twin.answer != puzzle.answer


@pytest.mark.parametrize("name", OTHER_ANSWER)
def test_such_a_twin_differs_in_what_one_person_says(name):
    for puzzle in puzzles():
        (roles, told), (other_roles, other) = read(puzzle.question), read(puzzle.twins[name].question)
        assert roles == other_roles
        assert list(told) == list(other)
        assert sum(told[person] != other[person] for person in told) == 1


def test_a_leaf_twin_differs_in_one_role_or_whose_it_is():
    for puzzle in puzzles():
        told, other = read(puzzle.question)[1], read(puzzle.twins["leaf"].question)[1]
        leaves = [re.findall(r"(\w+) is (?:not )?a (\w+)", " ".join(words.values())) for words in (told, other)]
        assert sum(one != changed for one, changed in zip(*leaves, strict=True)) == 1
        forms = [re.sub(r"\w+ is (not )?a \w+", r"\1x", " ".join(words.values())) for words in (told, other)]
        assert forms[0] == forms[1]


def test_a_twin_of_other_names_is_told_of_other_people():
    for puzzle in puzzles():
        told, other = read(puzzle.question)[1], read(puzzle.twins["names"].question)[1]
        assert not set(told) & set(other)
        renamed = puzzle.twins["names"].question
        for name, new_name in zip(told, other, strict=True):
            renamed = re.sub(rf"\b{new_name}\b", name, renamed)
        assert renamed == puzzle.question


def test_a_twin_of_other_roles_is_told_of_them():
    for puzzle in puzzles():
        twin = puzzle.twins["roles"]
        (knight, knave), _ = read(twin.question)
        assert (knight, knave) in OTHER_ROLES
        assert twin.question.replace(knight, "knight").replace(knave, "knave") == puzzle.question
        assert twin.answer.replace(knight, "knight").replace(knave, "knave") == puzzle.answer


def test_a_twin_of_another_order_has_the_same_statements_and_answer():
    for puzzle in puzzles():
        told, other = read(puzzle.question)[1], read(puzzle.twins["order"].question)[1]
        assert told == other
        assert list(told) != list(other)
        assert puzzle.twins["order"].answer == puzzle.answer
        assert puzzle.twins["order"].identity == puzzle.identity


def test_twins_but_that_of_another_order_are_other_questions():
    for puzzle in puzzles():
        assert len({puzzle.identity, *(twin.identity for name, twin in puzzle.twins.items() if name != "order")}) == 5


@given(seed=st.integers(0, 2**64 - 1), people=st.integers(2, 8), speaker=st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_nobody_speaks_only_of_oneself_nor_twice_of_one_person(seed, people, speaker):
    speaker %= people
    claim = draw_claim(generator(seed), speaker, people)
    for one in [claim, *changed_leaves(claim, speaker, people)]:
        about = [one.person] if isinstance(one, Role) else [part.person for part in one.parts]
        assert len(set(about)) == len(about)
        assert about != [speaker]


def test_the_leaf_of_a_claim_can_be_changed_in_every_way():
    assert set(changed_leaves(Role(1, knight=True), 0, 3)) == {Role(1, False), Role(2, True), Role(2, False)}
    changed = changed_leaves(Compound("and", (ADA, BEN)), 0, 2)
    assert set(changed) == {Compound("and", (NOT_ADA, BEN)), Compound("and", (ADA, NOT_BEN))}


def test_names_suffice_for_the_largest_puzzle_and_its_twin():
    assert len(set(NAMES)) == len(NAMES) >= 16


def test_as_many_may_be_asked_for_as_are_found_without_long_search():
    assert most(2) == 9 * 40 * 39


def test_the_same_seed_asks_the_same_and_another_seed_another_puzzle():
    assert puzzles(count=3, seed=3) == puzzles(count=3, seed=3)
    assert puzzles(count=1, seed=3) != puzzles(count=1, seed=4)
