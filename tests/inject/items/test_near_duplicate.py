"""Near-duplicates: how many tokens away, drawn from where, and never the same text twice."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import RecipeError
from configs.insert import FuzzySet
from inject.items.item import Item, Text
from inject.items.near_duplicate import add_near_duplicates, insert, shuffle, substitute
from inject.tokenizer import encode, train_tokenizer

quick = settings(max_examples=100, deadline=None)  # shared machines stall

TOKENIZER = train_tokenizer(["one two three four five six seven"] * 20, vocabulary=300)
ALPHABET = list(range(10, 20))

tokens_of_a_text = st.lists(st.integers(10, 14), min_size=2, max_size=12)  # few values, so that many are equal


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def item(name="codes-0000", text="one two three four", tokens=None):
    return Item(name, "codes", "canary", "codes", name, {}, [Text("verbatim", text, tokens=tokens)], [])


def fuzzy(*items, seed=1, alphabet=ALPHABET, **given):
    given = {"near_duplicates": 3, "edits": 2, "edit": "substitute"} | given
    return add_near_duplicates(items or [item()], FuzzySet(kind="canary", **given), seed, alphabet, TOKENIZER)


# ------------------------------------------------------------------------------------------------ one edit


@quick
@given(tokens=tokens_of_a_text, seed=st.integers(0, 99), data=st.data())
def test_substitution_changes_exactly_so_many_tokens_to_others_of_the_alphabet(tokens, seed, data):
    edits = data.draw(st.integers(1, len(tokens)))
    edited = substitute(generator(seed), tokens, edits, ALPHABET)
    changed = [(old, new) for old, new in zip(tokens, edited, strict=True) if old != new]
    assert len(changed) == edits
    assert {new for _, new in changed} <= set(ALPHABET)


def test_what_is_substituted_is_uniform_among_the_other_tokens():
    random = generator()
    counts = Counter(substitute(random, [12], 1, ALPHABET)[0] for _ in range(1800))
    assert set(counts) == set(ALPHABET) - {12}
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 26.1  # chi-square, 8 degrees of freedom, p = 0.001


def test_places_of_substitution_are_uniform():
    random = generator()
    counts = Counter(i for _ in range(500) for i, token in enumerate(substitute(random, [0] * 5, 2, ALPHABET)) if token)
    assert sum((counts[i] - 200) ** 2 / 200 for i in range(5)) < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


@quick
@given(tokens=tokens_of_a_text, seed=st.integers(0, 99), data=st.data())
def test_insertion_keeps_all_tokens_in_order_around_so_many_new_ones(tokens, seed, data):
    edits = data.draw(st.integers(1, len(tokens)))
    new = [100, 101]
    edited = insert(generator(seed), tokens, edits, new)
    assert [token for token in edited if token not in new] == tokens
    assert len(edited) == len(tokens) + edits


def test_tokens_are_inserted_at_both_ends_too():
    random = generator()
    places = {insert(random, [1, 2], 1, [9]).index(9) for _ in range(100)}
    assert places == {0, 1, 2}


@quick
@given(tokens=tokens_of_a_text, seed=st.integers(0, 99), data=st.data())
def test_shuffling_permutes_tokens_of_at_most_so_many_places(tokens, seed, data):
    edits = data.draw(st.integers(2, len(tokens)))
    edited = shuffle(generator(seed), tokens, edits, ALPHABET)
    assert sorted(edited) == sorted(tokens)
    assert sum(a != b for a, b in zip(tokens, edited, strict=True)) <= edits


@quick
@given(tokens=tokens_of_a_text, seed=st.integers(0, 99))
def test_shuffling_all_places_moves_as_many_tokens_as_any_permutation_could(tokens, seed):
    most = max(Counter(tokens).values())
    edited = shuffle(generator(seed), tokens, len(tokens), ALPHABET)
    moved = sum(a != b for a, b in zip(tokens, edited, strict=True))
    assert moved == min(len(tokens), 2 * (len(tokens) - most))


def test_shuffling_two_tokens_swaps_them():
    assert shuffle(generator(), [1, 2], 2, ALPHABET) == [2, 1]


def test_shuffling_reaches_every_permutation_without_a_fixed_place_that_is_one_cycle():
    random = generator()
    reached = {tuple(shuffle(random, [1, 2, 3, 4], 4, ALPHABET)) for _ in range(300)}
    assert reached == {(2, 3, 4, 1), (2, 4, 1, 3), (3, 1, 4, 2), (3, 4, 2, 1), (4, 1, 2, 3), (4, 3, 1, 2)}


# ------------------------------------------------------------------------------------------------ the variants of an item


@pytest.mark.parametrize("edit", ["substitute", "insert", "shuffle"])
def test_variants_are_numbered_differ_from_each_other_and_are_spelt_for_people(edit):
    (made,) = fuzzy(edit=edit)
    assert [text.variant for text in made.texts] == ["verbatim", "near-1", "near-2", "near-3"]
    assert made.texts[0] == item().texts[0]
    tokens = [*encode(TOKENIZER, [made.texts[0].text]), *(text.tokens for text in made.texts[1:])]
    assert len({tuple(ids) for ids in tokens}) == 4
    assert [text.text for text in made.texts[1:]] == [TOKENIZER.decode(ids) for ids in tokens[1:]]


def test_a_text_that_is_given_as_tokens_is_edited_as_such():
    (made,) = fuzzy(item(text="?", tokens=[10, 11, 12]), near_duplicates=1, edits=3, edit="shuffle")
    assert made.texts[1].tokens in ([11, 12, 10], [12, 10, 11])


def test_without_near_duplicates_items_stay_as_they_are_whatever_the_edits():
    assert fuzzy(item(), near_duplicates=0, edits=10**6, edit="none") == [item()]


def test_more_near_duplicates_and_more_items_change_none_of_the_first():
    few = fuzzy(item("a"), near_duplicates=1)
    many = fuzzy(item("a"), item("b"), near_duplicates=3)
    assert many[0].texts[:2] == few[0].texts
    assert many[0].texts[1:] != many[1].texts[1:]


def test_the_same_seed_makes_the_same_near_duplicates_and_another_seed_others():
    assert fuzzy(seed=1) == fuzzy(seed=1)
    assert fuzzy(seed=1) != fuzzy(seed=2)


def test_more_edits_than_tokens_are_refused_with_how_many_there_are():
    with pytest.raises(RecipeError, match=r"insert\.codes\.edits is 5, but codes-0000 has 4 tokens; up to 4 can be edited"):
        fuzzy(item(tokens=[10, 11, 12, 13]), edits=5)
    fuzzy(item(tokens=[10, 11, 12, 13]), edits=4)


def test_more_near_duplicates_than_there_can_be_are_refused_with_how_many_were_found():
    with pytest.raises(RecipeError, match=r"insert\.codes\.near_duplicates is 3, but no more than 2 different ones of codes-0000"):
        fuzzy(item(tokens=[10, 11, 12]), edits=3, edit="shuffle")
    with pytest.raises(RecipeError, match="no more than 0 different ones"):
        fuzzy(item(tokens=[10, 10, 10]), edits=2, edit="shuffle")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"near_duplicates": -1}, r"near_duplicates is -1; it must be 0 or more"),
        ({"edit": "reverse"}, r"edit is 'reverse'; substitute, insert, shuffle are possible"),
        ({"edits": 0}, r"edits is 0; to substitute it must be 1 or more"),
        ({"edits": 1, "edit": "shuffle"}, r"edits is 1; to shuffle it must be 2 or more"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(given, message):
    with pytest.raises(RecipeError, match=r"insert\.codes\." + message):
        fuzzy(**given)
