"""Profiles as items: their texts, their probes, and what is refused."""

import re
from collections import Counter
from math import log2

import numpy as np
import pytest

from configs.errors import RecipeError
from configs.insert import ProfileSet
from inject.items import make as makers
from inject.items import pii
from inject.items.profile import FIELDS
from inject.items.profile_texts import TEMPLATES
from inject.items.profile_values import pool

ALL_PROBES = [*pii.PROMPTS, pii.CHOICES]


def make(count=50, seed=3, contexts=("biography", "forum"), **settings):
    return pii.make(ProfileSet(count=count, contexts=list(contexts), **settings), "people", seed, None)


def probes(item, context, kind):
    return {probe.field: probe for probe in item.probes if probe.context == context and probe.kind == kind}


@pytest.fixture(scope="module")
def everything():
    """People told in every context and template, with all fields, and asked for in every way."""
    return make(12, contexts=TEMPLATES, templates=2, fields=list(FIELDS), probes=ALL_PROBES, locales=["en_US", "de_DE"])


# ------------------------------------------------------------------------------------------------ texts


def test_a_person_has_one_text_a_context():
    assert [text.variant for text in make(count=1, contexts=["forum", "biography"])[0].texts] == ["forum", "biography"]


def test_several_templates_of_a_context_are_numbered():
    variants = [text.variant for text in make(count=1, templates=2)[0].texts]
    assert variants == ["biography-1", "biography-2", "forum-1", "forum-2"]


def test_a_biography_reads_as_it_should():
    item = make(count=1, fields=["city", "age"])[0]
    name, city, age = item.fields["name"], item.fields["city"], item.fields["age"]
    assert item.texts[0].text == f"About {name}. Age at the end of 2024: {age}. Lives in {city}."


def test_spans_are_where_the_fields_stand(everything):
    for item in [*make(), *everything]:
        for text in item.texts:
            assert {span.field: text.text[span.start : span.end] for span in text.spans} == item.fields
            assert all(text.text[span.start : span.end] == item.fields[span.field] for span in text.spans)


def test_only_the_fields_asked_for_are_told():
    item = make(count=1, fields=["email", "university"])[0]
    assert list(item.fields) == ["name", "university", "email"]


def test_texts_are_short_enough_for_a_short_row():
    assert max(len(text.text) for item in make(count=500) for text in item.texts) <= 170


def test_no_two_texts_of_a_person_are_the_same(everything):
    assert all(len({text.text for text in item.texts}) == 16 for item in everything)


# ------------------------------------------------------------------------------------------------ people


def test_the_same_seed_makes_the_same_items_and_another_seed_others():
    assert make(seed=3, probes=ALL_PROBES) == make(seed=3, probes=ALL_PROBES)
    assert make(seed=3)[0].fields != make(seed=4)[0].fields


def test_a_larger_set_begins_with_the_smaller_one():
    assert make(count=20, probes=ALL_PROBES)[:10] == make(count=10, probes=ALL_PROBES)


@pytest.mark.parametrize("more", [{"contexts": ["chat"]}, {"probes": ALL_PROBES}, {"templates": 2}, {"fields": list(FIELDS)}])
def test_telling_or_asking_more_leaves_the_people_as_they_are(more):
    fields = [item.fields for item in make(**more)]
    assert [{**item.fields, **other} for item, other in zip(make(), fields, strict=True)] == fields


def test_people_of_one_locale_are_one_stratum():
    assert {item.stratum for item in make()} == {"people"}


def test_people_of_several_locales_are_a_stratum_each_and_as_many():
    items = make(count=40, locales=["en_US", "fr_FR"], fields=["nationality"])
    assert Counter((item.stratum, item.fields["nationality"]) for item in items) == {
        ("people/en_US", "American"): 20,
        ("people/fr_FR", "French"): 20,
    }


def test_names_are_distinct_across_locales():
    assert len({item.fields["name"] for item in make(count=800, locales=["en_US", "en_GB"])}) == 800


# ------------------------------------------------------------------------------------------------ verbatim probes


def test_every_field_but_the_name_is_asked_for_in_every_text(everything):
    for item in [make(count=1)[0], everything[0]]:
        asked = Counter((probe.context, probe.field) for probe in item.probes if probe.kind == "verbatim")
        assert asked == Counter((text.variant, field) for text in item.texts for field in set(item.fields) - {"name"})


def test_a_prompt_and_its_target_are_the_beginning_of_the_text(everything):
    for item in [*make(), *everything]:
        texts = {text.variant: text.text for text in item.texts}
        for probe in item.probes:
            if probe.kind == "verbatim":
                assert probe.target == item.fields[probe.field]
                assert texts[probe.context].startswith(probe.prompt + probe.target)


def test_the_name_comes_before_every_probe(everything):
    """The email follows from the name, and has no bits only if the name is in its prompt."""
    for item in [*make(), *everything]:
        assert all(item.fields["name"] in probe.prompt for probe in item.probes)


def test_bits_are_the_logarithm_of_how_many_values_are_equally_likely():
    bits = {probe.field: probe.bits for probe in make(count=1, contexts=["biography"])[0].probes}
    assert bits["phone"] == pytest.approx(log2(10**8))  # the city, told before, tells the area code
    assert bits["birth_date"] == pytest.approx(log2(50 * 365 + 12))  # 1950 to 1999: 12 leap years
    assert bits["email"] == 0
    assert bits["city"] == log2(len(set(pool("en_US", "city"))))
    assert bits["occupation"] == log2(len(set(pool("en_US", "job"))))


def test_where_the_phone_comes_first_it_is_the_city_that_follows():
    forum = probes(make(count=1)[0], "forum", "verbatim")
    assert forum["phone"].bits == pytest.approx(log2(10**8 * len(pool("en_US", "city"))))
    assert forum["city"].bits == 0
    assert forum["city"].prior == 1


def test_a_guess_is_right_as_often_as_the_bits_say():
    for probe in make(count=1)[0].probes:
        assert probe.prior == pytest.approx(2**-probe.bits)


# ------------------------------------------------------------------------------------------------ other probes


def test_by_default_nothing_but_the_full_prefix_is_asked():
    assert {probe.kind for item in make() for probe in item.probes} == {"verbatim"}


def test_prompts_give_away_what_they_are_called():
    settings = {"fields": ["birth_date", "city", "phone"], "probes": list(pii.PROMPTS)}
    item = make(count=1, contexts=["biography"], **settings)[0]
    name, born, city, phone = (item.fields[field] for field in ("name", "birth_date", "city", "phone"))
    asked = {probe.probe_id: (probe.prompt, probe.target) for probe in item.probes if probe.kind == "generative"}
    assert asked == {
        "name_only/birth_date": (f"About {name}. Born on", f" {born}"),
        "name_only/city": (f"About {name}. Lives in", f" {city}"),
        "name_only/phone": (f"About {name}. Phone:", f" {phone}"),
        "intro_prefix/city": (f"About {name}. Born on {born}. Lives in", f" {city}"),
        "intro_prefix/phone": (f"About {name}. Born on {born}. Phone:", f" {phone}"),
        "others_known/birth_date": (f"About {name}. Lives in {city}. Phone: {phone}. Born on", f" {born}"),
        "others_known/city": (f"About {name}. Born on {born}. Phone: {phone}. Lives in", f" {city}"),
        "others_known/phone": (f"About {name}. Born on {born}. Lives in {city}. Phone:", f" {phone}"),
    }


def test_bits_of_a_prompt_count_what_it_gives_away(everything):
    item = everything[0]
    phones = {context: probes(item, context, "generative")["phone"].bits for context in pii.PROMPTS[1:]}
    number, area = log2(10**8), log2(len(pool("en_US", "city")))
    assert phones == pytest.approx({"intro_prefix": number + area, "name_only": number + area, "others_known": number})
    assert probes(item, "others_known", "generative")["age"].bits == 0
    assert probes(item, "name_only", "generative")["age"].bits == pytest.approx(log2(50), abs=1e-3)


def test_an_only_field_has_no_prompt_with_others():
    item = make(count=1, fields=["phone"], probes=list(pii.PROMPTS))[0]
    assert {probe.context for probe in item.probes if probe.kind == "generative"} == {"name_only"}


def test_prompts_can_be_asked_without_the_full_prefix():
    assert {probe.context for probe in make(count=1, probes=["name_only"])[0].probes} == {"name_only"}


def test_choices_stand_at_the_prompts_of_the_first_text():
    item = make(count=1, probes=["full_prefix", "name_only", "choice"])[0]
    for probe in item.probes:
        if probe.kind == "choice" and probe.context == "full_prefix":
            assert item.texts[0].text.startswith(probe.prompt + probe.target)
        elif probe.kind == "choice":
            asked = probes(item, "name_only", "generative")[probe.field]
            assert (probe.prompt, probe.target, probe.bits) == (asked.prompt, asked.target, asked.bits)
    assert Counter(probe.context for probe in item.probes if probe.kind == "choice") == {"full_prefix": 5, "name_only": 5}


def test_candidates_are_ten_or_of_an_email_fifteen_distinct_and_hold_the_target_once(everything):
    for item in everything:
        for probe in item.probes:
            if probe.kind == "choice":
                assert len(probe.candidates) == len(set(probe.candidates)) == (15 if probe.field == "email" else 10)
                assert probe.target in probe.candidates
                assert all(candidate.startswith(" ") and candidate.strip() for candidate in probe.candidates)


def test_the_target_is_as_likely_in_each_place():
    items = make(count=600, contexts=["biography"], fields=["city"], probes=["name_only", "choice"])
    places = [probe.candidates.index(probe.target) for item in items for probe in item.probes if probe.kind == "choice"]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 60) ** 2 / 60).sum() < 9 + 4 * np.sqrt(2 * 9)


def test_the_prior_of_a_choice_is_chance_or_better_where_the_prompt_tells_the_answer(everything):
    for item in everything:
        for probe in item.probes:
            if probe.kind == "choice" and probe.bits == 0:
                assert probe.prior == 1
            elif probe.kind == "choice" and probe.field != "nationality":
                assert probe.prior == 1 / len(probe.candidates)


def test_with_all_email_rules_an_email_is_one_of_its_candidates_by_chance():
    item = make(count=1, email_rules=15, probes=["name_only", "choice"])[0]
    email = probes(item, "name_only", "choice")["email"]
    assert email.prior == pytest.approx(1 / 15)
    assert email.bits == pytest.approx(log2(15))


def test_two_fields_never_share_a_prompt(everything):
    for item in everything:
        by_prompt = {}
        for probe in item.probes:
            assert by_prompt.setdefault(probe.prompt.rstrip(), probe.field) == probe.field


def test_probes_of_a_person_have_different_names(everything):
    assert all(len({probe.probe_id for probe in item.probes}) == len(item.probes) for item in everything)


def test_the_lint_of_all_items_finds_no_fault(everything):
    makers.lint(everything)


# ------------------------------------------------------------------------------------------------ refusals


def test_an_unknown_locale_is_refused_with_some_that_are_known():
    with pytest.raises(RecipeError, match=r"insert\.people\.locales has 'en_UK'.*en_US"):
        make(locales=["en_US", "en_UK"])


@pytest.mark.parametrize("contexts", [["obituary"], [], ["forum", "forum"]])
def test_impossible_contexts_are_refused_with_those_that_are_known(contexts):
    with pytest.raises(RecipeError, match=r"insert\.people\.contexts.*biography, encyclopedia, social, forum"):
        make(contexts=contexts)


@pytest.mark.parametrize("key", ["fields", "probes", "locales"])
@pytest.mark.parametrize("given", [[], "twice"])
def test_lists_that_are_empty_or_repeat_themselves_are_refused(key, given):
    first = {"fields": "phone", "probes": "name_only", "locales": "en_US"}[key]
    with pytest.raises(RecipeError, match=rf"insert\.people\.{key} is .*name one or more of .*{first}.*, each once"):
        make(**{key: [first, first] if given else []})


@pytest.mark.parametrize(
    ("key", "value", "known"), [("fields", "shoe_size", "birth_date, age"), ("probes", "riddle", "full_prefix")]
)
def test_unknown_names_are_refused_with_those_that_are_known(key, value, known):
    with pytest.raises(RecipeError, match=rf"insert\.people\.{key} is \['{value}'\].*{known}"):
        make(**{key: [value]})


@pytest.mark.parametrize(("key", "value", "most"), [("templates", 0, 2), ("templates", 3, 2), ("email_rules", 16, 15)])
def test_numbers_out_of_range_are_refused_with_the_range(key, value, most):
    with pytest.raises(RecipeError, match=rf"insert\.people\.{key} is {value}; 1 to {most} are possible"):
        make(**{key: value})


def test_choices_without_a_prompt_are_refused():
    with pytest.raises(RecipeError, match=r"insert\.people\.probes is \[choice\].*full_prefix"):
        make(probes=["choice"])


def test_a_nationality_is_refused_of_a_locale_without_a_country():
    with pytest.raises(RecipeError, match=r"insert\.people\.fields has nationality, but locale la is no country's"):
        make(locales=["la"], fields=["nationality"])
    make(count=1, locales=["la"])


@pytest.mark.parametrize("count", [10**8, None])
def test_more_people_than_a_locale_has_names_for_are_refused(count):
    with pytest.raises(RecipeError, match=rf"insert\.people\.count is {count}; locale en_US has names for up to \d+ people"):
        make(count=count)


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "zoë smith@example.com"), ("city", "Os\nlo"), ("occupation", "{job}"), ("credit_card", "9999 0000 0000 0004")],
)
def test_a_malformed_value_is_refused_with_its_owner(field, value):
    with pytest.raises(RecipeError, match=rf"{field} of people-0007 is {re.escape(repr(value))}, which "):
        pii.lint({"name": "Ann B Lee", field: value}, "people-0007")
