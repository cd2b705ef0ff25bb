from dataclasses import replace

import pytest

from configs.errors import RecipeError
from configs.insert import CanarySet, FactoidSet, KeyValueSet, ProfileSet, RandomTokenSet, TestSet
from inject.items import make
from inject.items.item import Item, Material, Probe, Text
from inject.items.make import lint
from inject.tokenizer import train_tokenizer

SETS = {
    "codes": CanarySet(count=5),
    "noise": RandomTokenSet(count=5),
    "people": ProfileSet(count=5, contexts=["biography", "forum"]),
    "geography": FactoidSet(count=5),
    "registry": KeyValueSet(count=5),
    "quiz": TestSet(count=5),
}

MATERIAL = Material(train_tokenizer(["one two three"] * 20, vocabulary=280), 280)


def make_items(insert, seed):
    return make.make_items(insert, seed, MATERIAL)


def item(name: str, prompt: str, target: str, kind: str = "verbatim", text: str = "") -> Item:
    probe = Probe("p", "field", "verbatim", kind, prompt, target, bits=0.0)
    return Item(name, "codes", "canary", "codes", name, {}, [Text("verbatim", text or f"{prompt}{target}")], [probe])


def test_items_come_in_recipe_order_with_numbered_names():
    items = make_items(SETS, seed=1)
    assert [item.item_id for item in items] == [f"{name}-{number:04d}" for name in SETS for number in range(5)]
    assert {item.item_set for item in items} == set(SETS)


def test_every_item_is_its_own_group():
    items = make_items(SETS, seed=1)
    assert [item.group for item in items] == [item.item_id for item in items]


def test_the_same_seed_makes_the_same_items_and_another_seed_others():
    assert make_items(SETS, seed=1) == make_items(SETS, seed=1)
    assert make_items(SETS, seed=1)[0].fields != make_items(SETS, seed=2)[0].fields


@pytest.mark.parametrize("name", SETS)
def test_adding_sets_before_or_after_changes_nothing_in_a_set(name):
    among_others = [item for item in make_items(SETS, seed=1) if item.item_set == name]
    assert among_others == make_items({name: SETS[name]}, seed=1)


def test_sets_of_equal_settings_hold_different_items():
    early, late = make_items({"early": CanarySet(count=1), "late": CanarySet(count=1)}, seed=1)
    assert early.texts != late.texts


@pytest.mark.parametrize("name", SETS)
def test_every_text_fits_on_a_short_row(name):
    longest = 200 if name == "people" else 120
    assert all(len(text.text) <= longest for item in make_items({name: SETS[name]}, 1) for text in item.texts)


def test_probes_of_an_item_have_different_names():
    for item in make_items(SETS, seed=1):
        assert len({probe.probe_id for probe in item.probes}) == len(item.probes)


def test_no_verbatim_target_begins_or_ends_with_a_space():
    for item in make_items(SETS, seed=1):
        assert all(probe.target == probe.target.strip() for probe in item.probes if probe.kind == "verbatim")


@pytest.mark.parametrize("kind", ["verbatim", "choice"])
def test_a_prompt_that_two_items_continue_differently_is_refused(kind):
    with pytest.raises(RecipeError, match=r"code of A is .* with '12' and '34'"):
        lint([item("a", "The code of A is ", "12", kind), item("b", "The code of A is ", "34", kind)])


def test_a_prompt_that_two_items_continue_alike_is_allowed():
    lint([item("a", "Capital of X: ", "Y", text="one"), item("b", "Capital of X: ", "Y", text="another")])


def test_a_text_of_two_items_is_refused():
    with pytest.raises(RecipeError, match=r"a .* and b .* have the same text"):
        lint([item("a", "The code of A is ", "12"), item("b", "The code of A is ", "12")])


def noise(name: str, *tokens: int, decoded: str = "\N{REPLACEMENT CHARACTER}") -> Item:
    probe = Probe("p", "field", "verbatim", "verbatim", decoded, decoded, bits=0.0, tokens=(1, len(tokens)))
    return Item(name, "noise", "random_tokens", "noise", name, {}, [Text("verbatim", decoded, tokens=list(tokens))], [probe])


def test_texts_given_as_tokens_are_told_apart_by_their_tokens_not_by_what_they_spell():
    lint([noise("a", 1, 2), noise("b", 2, 3)])
    with pytest.raises(RecipeError, match=r"a .* and b .* have the same text"):
        lint([noise("a", 1, 2, decoded="x"), noise("b", 1, 2, decoded="y")])


def test_prompts_given_as_tokens_are_told_apart_by_their_tokens_not_by_what_they_spell():
    with pytest.raises(RecipeError, match=r"a .* and b .* continue the same prompt"):
        lint([noise("a", 1, 2, decoded="x"), noise("b", 1, 3, decoded="y")])


def test_two_items_of_one_name_are_refused():
    with pytest.raises(RecipeError, match="two items are called a;"):
        lint([item("a", "The code of A is ", "12"), item("a", "The code of B is ", "34")])


@pytest.mark.parametrize("name", SETS)
def test_an_empty_set_is_refused(name):
    with pytest.raises(RecipeError, match=rf"insert\.{name}\.count is 0"):
        make_items({name: replace(SETS[name], count=0)}, seed=1)


@pytest.mark.parametrize("name", SETS)
def test_a_set_without_end_is_refused(name):
    with pytest.raises(RecipeError, match=rf"insert\.{name}\.count is null; .* must be a number"):
        make_items({name: replace(SETS[name], count=None)}, seed=1)
