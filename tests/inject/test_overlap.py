import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.insert import CanarySet, FactoidSet, ProfileSet, TestSet
from inject import overlap
from inject.items.item import VERBATIM, Item, Material, Probe, Text, render, verbatim
from inject.items.make import make_items
from inject.items.texts import tokenize_texts
from inject.overlap import Search, seek
from inject.source import documents
from inject.tokenizer import encode, train_tokenizer, vocabulary_size

quick = settings(max_examples=100, deadline=None)  # shared machines stall

SENTENCE = "The access code of vault {name} is {digits}."
POEM = "the morning paper lay unread beside a cup of coffee gone cold, and somewhere in the yard a dog was counting trains"


@pytest.fixture(scope="module")
def tokenizer(small_settings):
    texts = [text for text, _ in zip(documents(small_settings, seed=1), range(50), strict=False)]
    return train_tokenizer([*texts, SENTENCE * 20, POEM * 5], 400)


def canary(number, name, digits):
    text = Text("verbatim", *render(SENTENCE, {"name": name, "digits": digits}))
    probe = verbatim(text, text.spans[1], bits=13.3)
    return Item(f"codes-{number}", "codes", "canary", "codes", f"codes-{number}", {}, [text], [probe])


def plain(number, text, item_set="poems", group=None, tokens=None):
    name = f"{item_set}-{number}"
    return Item(name, item_set, "passage", item_set, group or name, {}, [Text("verbatim", text, tokens=tokens)], [])


def search(items, tokenizer, ngram=13):
    return Search(seek(items, tokenize_texts(items, tokenizer, 10_000), tokenizer, ngram), ngram)


def found(searched, tokenizer, text):
    runs = searched.runs(np.asarray(encode(tokenizer, [text])[0]))
    return [searched.texts[number].item_id for number in runs.text]


def given_away(searched):
    """Which item each group's texts give away."""
    return sorted(
        (searched.texts[runs.text[0]].item_id, searched.texts[searched.text_of[runs.position[0]]].item_id)
        for runs in searched.given_away(searched.runs(searched.tokens, elsewhere=True))
    )


# ------------------------------------------------------------------------------------------------ what is looked for


@quick
@given(
    text=st.text(st.sampled_from("ab cde.né1 "), min_size=1, max_size=90).filter(str.strip),
    before=st.sampled_from(["", *overlap.BEFORE]),
    after=st.sampled_from(["", *overlap.AFTER]),
)
def test_the_interior_is_the_same_whatever_surrounds_a_text(tokenizer, text, before, after):
    (sought,) = seek([plain(0, text)], tokenize_texts([plain(0, text)], tokenizer, 1000), tokenizer, 13)
    start, end = sought.interior
    if start < end:
        around = encode(tokenizer, [before + text + after])[0]
        interior = sought.tokens[start:end].tolist()
        assert any(around[place : place + len(interior)] == interior for place in range(len(around)))


def test_a_text_in_the_middle_of_another_is_found(tokenizer):
    assert found(
        search([canary(1, "Zefira", "4831")], tokenizer), tokenizer, "I saw: " + SENTENCE.format(name="Zefira", digits=4831)
    ) == ["codes-1"]
    assert found(search([plain(1, POEM)], tokenizer), tokenizer, f'"{POEM}", he wrote.') == ["poems-1"]


def test_a_long_part_of_a_text_is_found_and_a_short_one_is_not(tokenizer):
    searched = search([plain(1, POEM)], tokenizer)
    tokens = encode(tokenizer, [POEM])[0]
    for size, expected in ((12, []), (13, [13]), (20, [20])):
        runs = searched.runs(np.asarray([1, *tokens[4 : 4 + size], 1]))
        assert (runs.length.tolist(), runs.position.tolist(), runs.start.tolist()) == (
            expected,
            [1] * len(expected),
            [4] * len(expected),
        )


def test_the_sentence_that_items_share_is_not_looked_for(tokenizer):
    searched = search([canary(1, "Zefira", "4831")], tokenizer, ngram=6)
    assert found(searched, tokenizer, "x" + SENTENCE.split("{")[0]) == []
    assert found(searched, tokenizer, "The access code of vault Zefira") == ["codes-1"]


def test_a_sentence_with_the_beginning_of_a_name_is_not_the_item(tokenizer):
    searched = search([canary(1, "Zefira Morgen Volander", "4831")], tokenizer, ngram=6)
    assert found(searched, tokenizer, "The access code of vault Ze") == []


def test_an_opening_that_many_groups_share_is_form_though_no_field_marks_it(tokenizer):
    opening = "Here is a riddle of the sort that everybody knows and nobody can solve. "
    random = np.random.Generator(np.random.PCG64(1))
    endings = ["".join(map(chr, random.integers(97, 123, size=40))) for _ in range(12)]
    searched = search([plain(number, opening + ending) for number, ending in enumerate(endings)], tokenizer)
    assert found(searched, tokenizer, "x. " + opening) == []
    assert found(searched, tokenizer, opening + endings[3]) == ["poems-3"]
    few = search([plain(number, opening + ending) for number, ending in enumerate(endings[:10])], tokenizer)
    assert len(found(few, tokenizer, "x. " + opening)) == 10


def test_a_short_text_has_to_stand_as_a_whole(tokenizer):
    item = plain(1, "vault 48")
    searched = search([item], tokenizer)
    assert found(searched, tokenizer, "my vault 48 is here") == ["poems-1"]
    assert found(searched, tokenizer, "my vault 4 is here") == []
    (sought,) = searched.texts
    assert sought.read_in("my vault 48 is here")
    assert not sought.read_in("my vault 49 is here")


def test_a_text_of_one_word_is_found_with_a_blank_before_it_and_without(tokenizer):
    searched = search([plain(1, "Zefira")], tokenizer)
    assert found(searched, tokenizer, "Zefira said to Zefira") == ["poems-1"] * 2


def test_texts_given_as_tokens_are_looked_for_as_they_are(tokenizer):
    tokens = [int(token) for token in np.random.Generator(np.random.PCG64(1)).integers(300, 400, size=20)]
    searched = search([plain(1, tokenizer.decode(tokens), tokens=tokens)], tokenizer)
    runs = searched.runs(np.asarray([5, *tokens, 6]))
    assert (runs.position.tolist(), runs.length.tolist()) == ([1], [20])


# ------------------------------------------------------------------------------------------------ runs


@st.composite
def arrays(draw):
    """Texts given as tokens of which there are few, and an array made of their pieces."""
    token = st.integers(1, draw(st.integers(2, 4)))
    texts = draw(st.lists(st.lists(token, min_size=1, max_size=40), min_size=1, max_size=5, unique_by=tuple))
    array = []
    for _ in range(draw(st.integers(0, 5))):
        text = draw(st.sampled_from(texts))
        start = draw(st.integers(0, len(text) - 1))
        array += draw(st.lists(token, max_size=4)) + text[start : draw(st.integers(start, len(text)))]
    return texts, array


@quick
@given(arrays(), st.integers(1, 14))
def test_runs_are_those_that_looking_everywhere_finds(tokenizer, drawn, ngram):
    texts, array = drawn
    items = [plain(number, f"text {number}", tokens=tokens) for number, tokens in enumerate(texts)]
    runs = search(items, tokenizer, ngram).runs(np.asarray(array, np.int64))
    expected = set()
    for number, tokens in enumerate(texts):
        least = min(ngram, len(tokens))
        for shift in range(-len(tokens), len(array)):  # of the text's beginning in the array
            equal = [0 <= shift + i < len(array) and array[shift + i] == token for i, token in enumerate(tokens)]
            for start in range(len(tokens)):
                if equal[start] and (start == 0 or not equal[start - 1]):
                    length = [*equal[start:], False].index(False)
                    if length >= least:
                        expected.add((number, start, shift + start, length))
    assert set(zip(*(column.tolist() for column in (runs.text, runs.start, runs.position, runs.length)), strict=True)) == expected
    assert len(runs.text) == len(expected)


# ------------------------------------------------------------------------------------------------ other items


def test_the_same_passage_in_two_groups_is_given_away_by_each(tokenizer):
    searched = search([plain(1, POEM), plain(2, "He said: " + POEM), plain(3, POEM[::-1])], tokenizer)
    assert given_away(searched) == [("poems-1", "poems-2"), ("poems-2", "poems-1")]


def test_texts_of_one_group_may_repeat_each_other(tokenizer):
    assert given_away(search([plain(1, POEM, group="g"), plain(2, "He said: " + POEM, group="g")], tokenizer)) == []


def test_a_quotation_of_less_than_half_gives_nothing_away(tokenizer):
    quotation = POEM[: len(POEM) * 2 // 5]
    searched = search(
        [plain(1, POEM), plain(2, f"{quotation}, and so the story went on until the very last of them had left")], tokenizer
    )
    assert len(searched.runs(searched.tokens, elsewhere=True).text) == 2
    assert given_away(searched) == []


def test_a_secret_told_in_an_unmarked_text_is_given_away(tokenizer):
    told = plain(1, "A spy writes: " + SENTENCE.format(name="Zefira", digits=4831) + " Tell nobody, and burn this letter now.")
    assert ("codes-1", "poems-1") in given_away(search([canary(1, "Zefira", "4831"), told], tokenizer))


def test_a_text_that_tells_all_but_the_secret_does_not_give_it_away(tokenizer):
    told = plain(1, "A spy writes: " + SENTENCE.format(name="Zefira", digits=9720) + " Tell nobody, and burn this letter now.")
    assert given_away(search([canary(1, "Zefira", "4831"), told], tokenizer)) == []


def test_a_secret_that_chance_does_not_repeat_is_given_away_without_the_text_around_it(tokenizer):
    secret = "4839201750271834"
    text = Text("verbatim", *render(f"{POEM} {POEM} {{digits}}. {POEM}", {"digits": secret}))
    for bits, expected in ((20.0, []), (53.0, ["long-1"])):
        probe = Probe("p", "digits", "verbatim", VERBATIM, text.text[: text.spans[0].start], secret, bits)
        items = [
            Item("long-1", "long", "canary", "long", "long-1", {}, [Text("verbatim", text.text)], [probe]),
            plain(1, f"Who has lost this number? It says {secret}. I found it here."),
        ]
        assert [item for item, _ in given_away(search(items, tokenizer))] == expected


@pytest.mark.parametrize("seed", range(3))
def test_sets_that_are_drawn_do_not_give_each_other_away(tokenizer, seed):
    sets = {
        "codes": CanarySet(count=74),
        "people": ProfileSet(count=74, contexts=["biography", "forum"]),
        "places": FactoidSet(count=74),
        "quiz": TestSet(count=74),
    }
    items = make_items(sets, seed, Material(tokenizer, vocabulary_size(tokenizer)))
    assert given_away(search(items, tokenizer)) == []


def test_a_person_who_is_in_two_sets_is_found(tokenizer):
    material = Material(tokenizer, vocabulary_size(tokenizer))
    people = make_items({"people": ProfileSet(count=20)}, 1, material)
    (text,) = people[7].texts
    double = plain(1, "As I wrote yesterday: " + text.text)
    assert given_away(search([*people, double], tokenizer)) == [("people-0007", "poems-1"), ("poems-1", "people-0007")]


def test_a_search_for_some_groups_finds_these_and_knows_form_by_all_texts(tokenizer):
    items = [canary(number, f"Name{number * 7919}", str(1000 + number * 37)) for number in range(30)]
    sought = seek(items, tokenize_texts(items, tokenizer, 1000), tokenizer, 8)
    every, some = Search(sought, 8), Search(sought, 8, {"codes-3", "codes-4"})
    told = np.asarray(encode(tokenizer, ["; ".join(item.texts[0].text for item in items)])[0])
    runs, own = every.runs(told), some.runs(told)
    assert {sought[number].group for number in runs.text} == {item.group for item in items}
    chosen = np.isin(runs.text, [3, 4])
    assert [own.text.tolist(), own.position.tolist(), own.length.tolist()] == [
        runs.text[chosen].tolist(),
        runs.position[chosen].tolist(),
        runs.length[chosen].tolist(),
    ]
    assert np.array_equal(some.content, every.content)


def test_a_short_text_is_not_looked_for_where_its_group_is_not_asked_for(tokenizer):
    items = [plain(1, "Zefira"), plain(2, "Gudrun")]
    sought = seek(items, tokenize_texts(items, tokenizer, 1000), tokenizer, 13)
    assert found(Search(sought, 13, {"poems-2"}), tokenizer, "Zefira met Gudrun.") == ["poems-2"]
    assert found(Search(sought, 13, set()), tokenizer, "Zefira met Gudrun.") == []
